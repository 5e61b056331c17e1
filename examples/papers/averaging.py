"""Averaging sampled networks against scaling the weights.

Srivastava et al. 2014, figure 11: the test error when the probabilities of k networks that are
drawn by dropout are averaged, k = 1 ... 120, beside that of the one network without noise, whose
weights are scaled. In the paper the two are equal at about k = 50. The average is repeated with
other draws; the band of the picture is one standard deviation of a draw.

The network is 784-512-512-10 with ReLU, dropout of 0.2 and 0.5 and max-norm. Its learning rate and
its bound are those that were chosen on held-out digits for 784-800-800-10 in `hinton_2012`.
"""

import numpy as np

from dropcore import Key
from dropcore.reproduction import COLORS, Experiment, Measure, Row, legend, styled

from ._digits import digits, network, train

SHOWN = 1, 10, 50, 120


def one(run):
    settings = run.settings
    model, error = train(run, network(
        [settings.units] * 2, input_keep=0.8, keep=0.5, c=settings.c
    ))  # fmt: skip
    _, _, x, y = digits(run)
    averaged = np.array([errors(run, model, x, y, draw) for draw in range(settings.draws)])
    k = np.arange(1, settings.networks + 1)
    run.add_curve("averaged", k, averaged.mean(axis=0))
    run.add_curve("spread", k, averaged.std(axis=0, ddof=1))
    found = {f"k = {n}": averaged[:, min(n, settings.networks) - 1].mean() for n in SHOWN}
    return {"weights scaled": error, **found}


def errors(run, model, x, y, draw):
    """The error in % of the average of the first k networks of a draw, for each k."""
    count = run.settings.networks
    probabilities = model.predict_proba(x, key=Key(run.seed, step=draw * count), samples=count)
    labels = np.cumsum(probabilities, axis=0).argmax(axis=-1)
    return 100 * (labels != y).mean(axis=1)


def draw(figure, results):
    ax = styled(figure.subplots())
    [row] = results.rows
    k, error, _ = results.curve(row, "averaged")
    _, spread, _ = results.curve(row, "spread")
    ax.plot(k, error, color=COLORS[0], linewidth=1.6, label="average of k sampled networks")
    ax.fill_between(k, error - spread, error + spread, color=COLORS[0], alpha=0.18, linewidth=0)
    scaled = results.mean(row, "weights scaled")
    ax.axhline(scaled, color=COLORS[1], linewidth=1.6, label="weights scaled")
    ax.axvline(50, color=COLORS[2], linewidth=1.0, linestyle="--", label="equal in the paper")
    ax.set(xlabel="k", ylabel="test error, %", xlim=(0, k[-1]), ylim=(None, scaled + 0.5))
    legend(ax)


EXPERIMENT = Experiment(
    title="Averaging k sampled networks against scaling the weights",
    paper="Srivastava et al. 2014, figure 11",
    rows=[Row("784-512-512-10 with dropout")],
    train=one,
    draw=draw,
    measures=[Measure("weights scaled", "%"), *(Measure(f"k = {n}", "%") for n in SHOWN)],
    settings={
        "units": 512, "c": 2.0, "epochs": 120, "batch": 128, "learning_rate": 0.05,
        "momentum": 0.95, "samples": None, "networks": 120, "draws": 10,
    },
    quick={"units": 32, "epochs": 2, "samples": 500, "networks": 6, "draws": 2},
)  # fmt: skip
