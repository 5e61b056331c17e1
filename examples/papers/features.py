"""What the units of an autoencoder learn, without dropout and with it.

Srivastava et al. 2014, figures 7 and 8: one hidden layer of 256 units with ReLU, trained to give
back the digits of MNIST. With dropout of 0.5 the features turn from noise into strokes, spots and
edges, and the mean activation of the hidden units on test images falls from about 2.0 to 0.7.

Activations have the paper's scale: training is unscaled, and afterwards the weights behind the
hidden layer are multiplied by keep. The loss is the cross-entropy of each pixel.

The settings were chosen with seed 0 on 10,000 digits that were held out. With a standard deviation
of 0.01 for the initial weights and no warm-up, 81 and 83 of the 256 units are never active; with
0.02 and a warm-up of one epoch, all but one are. The mean activations after 12 epochs are then 2.66
and 0.74. Learning rate and epochs were taken without a search.
"""

import numpy as np

from dropcore.nn import Dense, Dropout, Sequential
from dropcore.nn.initializers import Normal
from dropcore.optim import Adam
from dropcore.reproduction import COLORS, Experiment, Measure, Row, legend, styled
from dropcore.schedules import WarmUp

from ._digits import digits
from ._schedules import falling

SHOWN = 36  # units
BINS = np.linspace(0, 6, 61)


def one(run):
    settings = run.settings
    x, _, x_test, _ = digits(run)
    rate = WarmUp(falling(settings, len(x), first=settings.warm_up), steps=settings.warm_up)
    model = run.fit(
        Sequential([
            Dense(settings.units, activation="relu", initializer=Normal(settings.deviation)),
            Dropout(keep=settings.keep, scaling="test"),
            Dense(x.shape[1]),
        ]),
        x, x, epochs=settings.epochs, batch_size=settings.batch, loss=settings.loss,
        optimizer=Adam(rate),
    )  # fmt: skip
    hidden = model[0](x_test)
    counts, _ = np.histogram(hidden, BINS)
    run.add_curve("activations", BINS[:-1], counts / hidden.size)
    run.add_curve("mean of a unit", np.arange(settings.units), np.sort(hidden.mean(axis=0)))
    if run.seed == 0:  # whose features are drawn: the inner 20 x 20 pixels, which a digit fills
        weight = model[0].params["weight"].T[:SHOWN].reshape(-1, 28, 28)[:, 4:-4, 4:-4]
        levels = np.round(99 * weight / abs(weight).max(axis=(1, 2), keepdims=True))
        run.add_curve("features", np.arange(levels.size), levels.ravel())
    return {
        "mean activation": hidden.mean(),
        "activations above 0": 100 * (hidden > 0).mean(),
        "loss": model.evaluate(x_test, x_test)["loss"],
    }


def draw(figure, results):
    figure.set_size_inches(8.4, 3.6)
    *grids, ax = figure.subplots(1, 1 + len(results.rows), squeeze=False)[0]
    styled(ax)
    for row, grid, colour in zip(results.rows, grids, COLORS):
        bins, share, _ = results.curve(row, "activations")
        ax.stairs(share, [*bins, BINS[-1]], baseline=None, color=colour, linewidth=1.6, label=row)
        ax.axvline(results.mean(row), color=colour, linestyle=":", linewidth=1.4)
        published = results.experiment.published(row)["mean activation"]
        ax.plot(published, 0.03, "D", mfc="none", color=colour, transform=ax.get_xaxis_transform())
        features = next((r.curves["features"][1] for r in results.of(row) if r.seed == 0), [])
        draw_features(grid, np.reshape(features, (-1, 20, 20)))
        grid.set_title(row, loc="left", fontsize="medium")
    ax.set(
        xlabel="activation; dotted: mean,\ndiamond: that of the paper",
        ylabel="share of activations",
        yscale="log",
    )
    legend(ax)


def draw_features(ax, features):
    """Weights of units, each in its own scale of grey."""
    side = int(len(features) ** 0.5)
    tiles = np.pad(features[: side * side], ((0, 0), (1, 1), (1, 1)), constant_values=99)
    rows = tiles.reshape(side, side, 22, 22).swapaxes(1, 2).reshape(side * 22, side * 22)
    ax.imshow(rows, cmap="gray", vmin=-99, vmax=99)
    ax.set_axis_off()


EXPERIMENT = Experiment(
    title="Features of an autoencoder of 256 units, without dropout and with it",
    paper="Srivastava et al. 2014, figures 7 and 8",
    rows=[
        Row("without dropout", {"mean activation": 2.0}),
        Row("dropout", {"mean activation": 0.7}, keep=0.5),
    ],
    train=one,
    draw=draw,
    measures=[
        Measure("mean activation"), Measure("activations above 0", "%", 0), Measure("loss"),
    ],
    settings={
        "units": 256, "keep": 1.0, "loss": "binary_cross_entropy", "epochs": 60, "batch": 128,
        "learning_rate": 0.001, "warm_up": 400, "deviation": 0.02, "samples": None,
    },
    quick={"units": 36, "epochs": 2, "warm_up": 2, "samples": 500},
)  # fmt: skip
