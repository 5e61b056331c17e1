"""Intervals of 90 % on the yacht and energy data of the UCI repository, with published splits.

The network of Gal and Ghahramani 2016: one hidden layer of 50 ReLU units, dropout in front of both
layers. For each split a fifth of the rows of training is held out. Of the four rates of the paper,
that with the highest log likelihood there is chosen, and the noise is estimated there. The network
is then fitted to all rows of training. The rows of the test take part in nothing but the scores:

    RMSE          of the mean of the samples, in the units of the target
    log L         test log likelihood of the mixture of Gaussians, in nats
    coverage      fraction of the targets inside of their interval
    width         of the intervals, on average

    python examples/uci_intervals.py                          # 20 splits of both, a few minutes
    python examples/uci_intervals.py --sets yacht --splits 5

The data comes from the internet, or from the folder UCI inside the folder that DROPCORE_DATA names.
"""

from __future__ import annotations

import argparse
from dataclasses import astuple, dataclass

import numpy as np

from dropcore.data import Preprocessing
from dropcore.datasets import load_uci
from dropcore.nn import Dense, Dropout, Sequential
from dropcore.optim import Adam
from dropcore.regularizers import L2
from dropcore.uncertainty import noise_level, predictive

RATES = (0.005, 0.01, 0.05, 0.1)
PAPER = {"yacht": (1.11, -1.55), "energy": (1.66, -1.99), "concrete": (5.23, -3.04)}
HELD_OUT = 0.2


@dataclass
class Scores:
    """Of one split."""

    rmse: float
    log_likelihood: float
    coverage: float
    width: float


def fitted(x, y, rate, options, key):
    """The network of the paper, fitted to some rows."""
    small = L2(1e-5)
    model = Sequential(
        [
            Dropout(rate),
            Dense(50, activation="relu", regularizer=small),
            Dropout(rate),
            Dense(1, regularizer=small),
        ]
    )
    model.fit(
        x, y, loss="mse", epochs=options.epochs, batch_size=32, optimizer=Adam(0.01), key=key,
        preprocessing=Preprocessing(), scale_targets=True, progress=False,
    )  # fmt: skip
    return model


def chosen(x, y, options, key):
    """The rate and the noise that suit rows that are held out."""
    order = np.random.default_rng(key).permutation(len(x))
    held_out, rest = np.split(order, [round(HELD_OUT * len(x))])
    found = []
    for rate in RATES:
        model = fitted(x[rest], y[rest], rate, options, key)
        given = {"key": key, "samples": options.samples}
        noise = noise_level(model, x[held_out], y[held_out], **given)
        mixture = predictive(model, x[held_out], noise=noise, **given)
        found.append((mixture.log_likelihood(y[held_out]), rate, noise))
    return max(found)[1:]


def scores(data, split, options):
    """Choose, fit to all rows of training, and score on those of the test."""
    train, test = data.splits[split]
    rate, noise = chosen(data.x[train], data.y[train], options, split)
    model = fitted(data.x[train], data.y[train], rate, options, split)
    x, y = data.x[test], data.y[test]
    mixture = predictive(model, x, key=split, noise=noise, samples=options.samples)
    found = mixture.interval(options.level)
    rmse = float(np.sqrt(np.mean((mixture.mean[:, 0] - y) ** 2)))
    return Scores(rmse, mixture.log_likelihood(y), found.coverage(y), found.width)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", nargs="+", choices=PAPER, default=["yacht", "energy"])
    parser.add_argument("--splits", type=int, default=20, help="the first so many of 20")
    parser.add_argument("--level", type=float, default=0.9)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--samples", type=int, default=200)
    options = parser.parse_args(arguments)
    means = {}
    for name in options.sets:
        data = load_uci(name)
        splits = range(min(options.splits, len(data.splits)))
        found = np.array([astuple(scores(data, split, options)) for split in splits])
        means[name] = Scores(*found.mean(axis=0))
        errors = found.std(axis=0) / max(len(found) - 1, 1) ** 0.5
        shown = [
            f"{label} {mean:.3f} +- {error:.3f}"
            for label, mean, error in zip(
                ("RMSE", "log L", "coverage", "width"), astuple(means[name]), errors, strict=True
            )
        ]
        paper = "RMSE {:.2f}, log L {:.2f}".format(*PAPER[name])
        print(f"{name}, {len(found)} splits: {', '.join(shown)} (the paper: {paper})", flush=True)
    return means


if __name__ == "__main__":
    main()
