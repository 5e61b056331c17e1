"""Dropout in networks of different depth and width, all with the same hyperparameters.

Srivastava et al. 2014, figure 4: the curves of test error against updates of six architectures form
two separate clusters, with dropout and without.

The paper has 1024 to 2048 units in a layer and a million updates, and here there are 512 and 1024
units and 9,400 updates. Learning rate, momentum and c are those of `mnist_max_norm`, with twice the
batch and so twice the learning rate. As in the figure, each network is trained once.
"""

from dropcore.reproduction import COLORS, Experiment, Row, legend, styled

from ._digits import measured

STYLES = {2: "-", 3: "--", 4: ":"}
WIDTHS = 512, 1024
DROPOUT = {"input_keep": 0.8, "keep": 0.5, "c": 2.0}


def one(run):
    return measured(run, [run.settings.units] * run.settings.layers)


def draw(figure, results):
    ax = styled(figure.subplots())
    for record in results.records:
        kept, layers = record.settings["keep"], record.settings["layers"]
        ax.plot(
            *record.curves["test error"], color=COLORS[kept < 1], linestyle=STYLES[layers],
            linewidth=0.8 + (record.settings["units"] > min(WIDTHS)),
        )  # fmt: skip
    for name, colour in zip(("without dropout", "dropout"), COLORS):
        ax.plot([], color=colour, label=name)
    for layers, style in STYLES.items():
        ax.plot(
            [], color=COLORS[2], linestyle=style, linewidth=0.8, label=f"{layers} hidden layers"
        )
    ax.plot([], color=COLORS[2], linewidth=1.8, label=f"thick: {max(WIDTHS):,} units")
    ax.set(xlabel="updates", ylabel="test error, %", ylim=(0.9, 2.5))
    legend(ax)


EXPERIMENT = Experiment(
    title="Six architectures on MNIST, without dropout and with it",
    paper="Srivastava et al. 2014, figure 4",
    rows=[
        Row(f"{layers} x {units}{name}", layers=layers, units=units, **settings)
        for name, settings in (("", {}), (", dropout", DROPOUT))
        for units in WIDTHS
        for layers in STYLES
    ],
    train=one,
    draw=draw,
    settings={
        "layers": 2, "units": 512, "input_keep": 1.0, "keep": 1.0, "c": None, "epochs": 40,
        "batch": 256, "learning_rate": 0.04, "momentum": 0.95, "samples": None,
    },
    quick={"units": 16, "epochs": 2, "samples": 500},
    seeds=(0,),
)  # fmt: skip
