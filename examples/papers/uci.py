"""Regression with a measure of its uncertainty, by Monte Carlo dropout.

Gal and Ghahramani 2016, table 1: one hidden layer of 50 ReLU units, dropout in front of both
layers, on data of the UCI repository with the 20 published splits, which are the seeds here. In
each split a fifth of the rows of training is held out. Of the four rates of the paper, that with
the highest log likelihood there is chosen, and the noise of the targets is estimated there. The
network is then fitted to all rows of training. Test rows take part in nothing but the measures:

    RMSE            of the mean of the samples, in the units of the target
    log likelihood  of the mixture of a Gaussian for each sample, in nats
    coverage        of the intervals of 90 %

The number of epochs was chosen on training rows of four splits of concrete that were held out: the
RMSE was 5.31 after 400 and 5.14 after 1000. Learning rate, batch and strength of L2 were taken
without a search.
"""

import numpy as np

from dropcore.data import Preprocessing
from dropcore.datasets import load_uci
from dropcore.nn import Dense, Dropout, Sequential
from dropcore.optim import Adam
from dropcore.regularizers import L2
from dropcore.reproduction import Experiment, Measure, Row
from dropcore.uncertainty import noise_level, predictive

from ._schedules import falling

HELD_OUT = 0.2
LEVEL = 0.9


def fitted(run, x, y, rate, name):
    """The network of the paper, fitted to some rows."""
    settings, small = run.settings, L2(run.settings.l2)
    model = Sequential([
        Dropout(rate), Dense(settings.units, activation="relu", regularizer=small),
        Dropout(rate), Dense(1, regularizer=small),
    ])  # fmt: skip
    return run.fit(
        model, x, y, name=name, loss="mse", epochs=settings.epochs, batch_size=settings.batch,
        optimizer=Adam(falling(settings, len(x))),
        preprocessing=Preprocessing(), scale_targets=True,
    )  # fmt: skip


def chosen(run, x, y):
    """The rate and the noise that suit rows that are held out."""
    order = np.random.default_rng(run.seed).permutation(len(x))
    held_out, rest = np.split(order, [round(HELD_OUT * len(x))])
    drawn = {"key": run.seed, "samples": run.settings.networks}
    found = []
    for rate in run.settings.rates:
        model = fitted(run, x[rest], y[rest], rate, f"rate-{rate}")
        noise = noise_level(model, x[held_out], y[held_out], **drawn)
        mixture = predictive(model, x[held_out], noise=noise, **drawn)
        found.append((mixture.log_likelihood(y[held_out]), rate, noise))
    return max(found)[1:]


def one(run):
    data = load_uci(run.row)
    train, test = data.splits[run.fold(len(data.splits))]
    if run.held_out:
        train, test = np.split(train, [len(train) - len(test)])
    x, y = data.x[train], data.y[train]
    rate, noise = chosen(run, x, y)
    model = fitted(run, x, y, rate, "model")
    mixture = predictive(
        model, data.x[test], key=run.seed, noise=noise, samples=run.settings.networks
    )
    return {
        "RMSE": np.sqrt(np.mean((mixture.mean[:, 0] - data.y[test]) ** 2)),
        "log likelihood": mixture.log_likelihood(data.y[test]),
        "coverage": 100 * mixture.interval(LEVEL).coverage(data.y[test]),
        "rate": rate,
    }


def published(rmse, log_likelihood):
    return {"RMSE": rmse, "log likelihood": log_likelihood}


EXPERIMENT = Experiment(
    title="Monte Carlo dropout for regression, 20 splits",
    paper="Gal and Ghahramani 2016, table 1",
    rows=[
        Row("concrete", published(5.23, -3.04)),
        Row("energy", published(1.66, -1.99)),
        Row("yacht", published(1.11, -1.55)),
    ],
    train=one,
    measures=[
        Measure("RMSE"), Measure("log likelihood"), Measure("coverage", "%", 1),
        Measure("rate", digits=3),
    ],
    seeds=range(20),
    settings={
        "units": 50, "rates": [0.005, 0.01, 0.05, 0.1], "l2": 1e-5, "epochs": 1000, "batch": 32,
        "learning_rate": 0.01, "networks": 200,
    },
    quick={"epochs": 5, "networks": 10},
)  # fmt: skip
