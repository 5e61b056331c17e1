"""Dropout against the size of the training set.

Srivastava et al. 2014, figure 10: with 100 and 500 digits dropout gains nothing; with more the gain
rises, and then it declines.

Each seed draws its digits at random from the training set, and both rows train on the same ones.
Every network is trained for the same number of updates, on a small set for more epochs. The network
is 784-512-512-10, and that of the paper 784-1024-1024-2048-10. Learning rate and momentum are those
of `mnist_max_norm`, chosen there on held-out digits.
"""

import numpy as np

from dropcore.reproduction import COLORS, Experiment, Measure, Row, draw_curves, styled

from ._digits import digits, network, train

SIZES = [100, 500, 1_000, 5_000, 10_000, 50_000]
TICKS = 1, 2, 5, 10, 20  # of the error


def one(run):
    settings = run.settings
    x, y, x_test, y_test = digits(run)
    order = np.random.default_rng(run.seed).permutation(len(x))
    errors = []
    for size in settings.sizes:
        chosen = np.resize(order[:size], settings.images)  # an epoch repeats a small set
        model = network(settings.units, input_keep=settings.input_keep, keep=settings.keep)
        _, found = train(
            run, model, (x[chosen], y[chosen], x_test, y_test), name=f"{size}-images", curve=None
        )  # fmt: skip
        errors.append(found)
    run.add_curve("test error", settings.sizes, errors)
    return {f"{size:,} digits": error for size, error in zip(settings.sizes, errors)}


def draw(figure, results):
    from matplotlib.ticker import NullLocator

    figure.set_size_inches(8.4, 3.8)
    errors, gain = figure.subplots(1, 2)
    draw_curves(errors, results, "test error")
    errors.set(ylabel="test error, %", yscale="log")
    errors.set_yticks(TICKS, TICKS)
    errors.yaxis.set_minor_locator(NullLocator())
    without, dropout = (
        {record.seed: np.array(record.curves["test error"][1]) for record in results.of(row.name)}
        for row in results.experiment.rows
    )
    gains = [without[seed] - dropout[seed] for seed in without if seed in dropout]  # same digits
    styled(gain).axhline(0, color=COLORS[2], linewidth=1.0, linestyle="--")
    if gains:
        deviation = np.std(gains, axis=0, ddof=1) / len(gains) ** 0.5 if len(gains) > 1 else None
        gain.errorbar(
            SIZES, np.mean(gains, axis=0), yerr=deviation, fmt="o-", markersize=4, capsize=3,
            color=COLORS[0],
        )  # fmt: skip
    gain.set_ylabel("error without dropout - error with it, %")
    for ax in errors, gain:
        ax.set(xlabel="digits to train on", xscale="log")
        ax.set_xticks(SIZES, [f"{size // 1000}K" if size >= 1000 else size for size in SIZES])
        ax.xaxis.set_minor_locator(NullLocator())


EXPERIMENT = Experiment(
    title="784-512-512-10 on MNIST: dropout against the size of the training set",
    paper="Srivastava et al. 2014, figure 10",
    rows=[Row("without dropout"), Row("dropout", input_keep=0.8, keep=0.5)],
    train=one,
    draw=draw,
    measures=[Measure(f"{size:,} digits", "%") for size in SIZES],
    settings={
        "sizes": SIZES, "images": 50_000, "units": [512, 512], "input_keep": 1.0,
        "keep": 1.0, "epochs": 24, "batch": 128, "learning_rate": 0.02, "momentum": 0.95,
        "samples": None,
    },
    quick={"images": 500, "units": [16, 16], "epochs": 2},
)  # fmt: skip
