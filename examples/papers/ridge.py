"""Linear regression with dropout is a ridge regression.

Srivastava et al. 2014, section 9.1: averaged over the masks, the squared error of a linear model
whose inputs are dropped is that of a ridge regression, which has a closed form. A linear layer
behind a dropout is trained on the concrete data of the UCI repository, standardised, by stochastic
gradient descent, and its weights are compared with that form: the norm of the difference as a
percentage of the norm. Least squares, the form without dropout, is as far away as the last measure
says.

The learning rate falls to 0, which leaves little of the noise of the masks. All batches have 103
rows: one of few rows would add as much noise as many others.
"""

import numpy as np

from dropcore.datasets import load_uci
from dropcore.nn import Dense, Dropout, Sequential, linear_dropout_ridge
from dropcore.optim import SGD
from dropcore.reproduction import COLORS, Experiment, Measure, Row, legend, styled

from ._schedules import falling


def standardised(values):
    return (values - values.mean(axis=0)) / values.std(axis=0)


def one(run):
    settings, data = run.settings, load_uci("concrete")
    x, y = standardised(data.x), standardised(data.y)
    if run.held_out:  # without the test rows of the first split
        rows = data.splits[0][0]
        x, y = standardised(x[rows]), standardised(y[rows])
    model = Sequential([Dropout(keep=settings.keep), Dense(1, use_bias=False)])
    model = run.fit(
        model, x.astype(np.float32), y.astype(np.float32), epochs=settings.epochs,
        batch_size=settings.batch, loss="mse",
        optimizer=SGD(falling(settings, len(x))),
    )  # fmt: skip
    ours, ridge = model[1].params["weight"][:, 0], linear_dropout_ridge(x, y, keep=settings.keep)
    run.add_curve("weights", ridge, ours)
    return {
        "difference from ridge": 100 * distance(ours, ridge),
        "least squares from ridge": 100 * distance(linear_dropout_ridge(x, y, keep=1.0), ridge),
    }


def distance(ours, ridge):
    return np.linalg.norm(ours - ridge) / np.linalg.norm(ridge)


def draw(figure, results):
    ax = styled(figure.subplots())
    for row, colour in zip(results.rows, COLORS):
        for record in results.of(row)[:1]:
            ridge, ours = record.curves["weights"]
            ax.plot(ridge, ours, "o", color=colour, label=row)
    ends = np.array(ax.get_xlim())
    ax.plot(ends, ends, color="grey", linewidth=1.0, zorder=0, label="equal")
    ax.set(xlabel="weight of the closed form", ylabel="weight that was trained", xlim=ends)
    legend(ax)


EXPERIMENT = Experiment(
    title="Linear regression with dropout against ridge regression",
    paper="Srivastava et al. 2014, section 9.1",
    rows=[Row(f"keep {keep}", keep=keep) for keep in (0.9, 0.8, 0.5, 0.2)],
    train=one,
    draw=draw,
    measures=[
        Measure("difference from ridge", "%"), Measure("least squares from ridge", "%", 0),
    ],
    settings={"epochs": 6000, "batch": 103, "learning_rate": 0.001},
    quick={"epochs": 5},
)  # fmt: skip
