"""Masks of units, shared by the batch, against masks of elements.

Graham et al. 2015: a mask that is shared by all samples of a batch makes a training step cheaper,
because dropped units are not multiplied. It is another estimator, and a noisier one. Masks that are
shared by 16 samples each lie between the two; their products are computed whole. Each kind has the
keep of hidden units that was best for it.

The rows are compared at equal epochs and, in the last one, at equal time. An epoch with unit masks
takes 0.60 of the time of one with element masks at keep = 0.5, 0.76 at 0.7 and 0.87 at 0.85, on
one thread. The last row therefore has 115 epochs instead of 100.

Settings were chosen with seed 0 on 10,000 digits that were held out, where differences of 0.1 %
mean little. Errors after 40 epochs at keep = 0.5, 0.7 and 0.85: 1.52, 1.34 and 1.38 % for elements;
at 0.7, 0.85 and 0.95: 1.46, 1.29 and 1.51 % for units, which after 20 epochs had 1.88 % at 0.5.
Groups had 1.44 % at 0.7 and 1.51 % at 0.85 after 20 epochs. A learning rate of 0.05 instead of 0.02
gave 1.73 instead of 1.58 % for units at 0.7.
"""

from functools import partial

import numpy as np

from dropcore.nn import Dropout, UnitDropout
from dropcore.reproduction import COLORS, Experiment, Row, draw_curves, styled

from ._digits import measured


def one(run):
    masks = {"elements": Dropout, "units": partial(UnitDropout, group=run.settings.group)}
    return measured(run, [run.settings.units] * 2, dropout=masks[run.settings.mask])


def draw(figure, results):
    figure.set_size_inches(8.4, 3.8)
    by_epoch, by_time = figure.subplots(1, 2, sharey=True)
    draw_curves(by_epoch, results, "test error")
    styled(by_time)
    for row, colour in zip(results.rows, COLORS):
        updates, error, _ = results.curve(row, "test error")
        minutes = np.mean([record.cpu_seconds for record in results.of(row)]) / 60
        by_time.plot(minutes * updates / updates[-1], error, color=colour, linewidth=1.6)
    by_epoch.set(xlabel="updates", ylabel="test error, %", ylim=(0.8, 2.5))
    by_time.set(xlabel="CPU minutes")
    for ax in (by_epoch, by_time):
        ax.locator_params(axis="x", nbins=5)


EXPERIMENT = Experiment(
    title="784-800-800-10 on MNIST: masks of units against masks of elements",
    paper="Graham et al. 2015",
    rows=[
        Row("elements", mask="elements", keep=0.7),
        Row("units, groups of 16", group=16, keep=0.7),
        Row("units", keep=0.85),
        Row("units, equal time", keep=0.85, epochs=115),
    ],
    train=one,
    draw=draw,
    settings={
        "units": 800, "mask": "units", "group": None, "input_keep": 0.8, "c": 2.0,
        "epochs": 100, "batch": 128, "learning_rate": 0.02, "momentum": 0.95, "samples": None,
    },
    quick={"units": 32, "epochs": 2, "samples": 500},
)  # fmt: skip
