"""MNIST without knowledge of the pixels' positions: the first three figures of dropout.

Hinton et al. 2012: standard backpropagation, dropout of hidden units at 0.5, and dropout of inputs
at 0.2 as well, with a bound on the norm of the incoming weights. The network is 784-800-800-10 with
ReLU; those of the paper have up to four layers. The standard network is trained for fewer epochs.

Learning rate and bound were chosen with seed 0 on 10,000 digits that were held out. Errors with
both dropouts after 25 epochs: 164 for 0.02 and 151 for 0.05 with c = 2, 172 for 0.05 with c = 3.9.
Errors of the standard network after 12 epochs: 184 for 0.02, 176 for 0.05.
"""

from dropcore.reproduction import COLORS, Experiment, Measure, Row, draw_curves

from ._digits import measured


def one(run):
    error = measured(run, [run.settings.units] * 2)["test error"]
    return {"errors in 10,000": round(100 * error)}


def draw(figure, results):
    ax = figure.subplots()
    draw_curves(ax, results, "test error")
    for row, colour in zip(results.rows, COLORS):
        published = results.experiment.published(row)["errors in 10,000"] / 100
        ax.axhline(published, color=colour, linestyle=":", linewidth=1.4)
    ax.set(xlabel="updates (dotted: published)", ylabel="test error, %", ylim=(0.8, 2.2))


EXPERIMENT = Experiment(
    title="784-800-800-10 on MNIST: dropout of hidden units, and of inputs",
    paper="Hinton et al. 2012, figure 1",
    rows=[
        Row("standard", 160, epochs=50),
        Row("hidden units dropped", 130, keep=0.5, c=2.0),
        Row("hidden units and inputs dropped", 110, keep=0.5, input_keep=0.8, c=2.0),
    ],
    train=one,
    draw=draw,
    measures=[Measure("errors in 10,000", digits=0)],
    settings={
        "units": 800, "input_keep": 1.0, "keep": 1.0, "c": None, "epochs": 140, "batch": 128,
        "learning_rate": 0.05, "momentum": 0.95, "samples": None,
    },
    quick={"units": 32, "epochs": 2, "samples": 500},
)  # fmt: skip
