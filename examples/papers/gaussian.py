"""Gaussian noise against Bernoulli dropout, with the same mean and variance.

Srivastava et al. 2014, table 10: 784-1024-1024-10 with ReLU and max-norm. The noise that multiplies
an activation is 1 on average; its variance is (1 - p) / p for both, with p = 0.8 for inputs and 0.5
for hidden units. The paper reports 1.08 +- 0.04 % for Bernoulli and 0.95 +- 0.04 % for Gaussian
noise.

Learning rate, momentum and c are those of `mnist_max_norm`, chosen there on held-out digits for
Bernoulli dropout with three layers, and the same for both rows. Here there are 37,520 updates.
"""

from dropcore.nn import Dropout, GaussianDropout
from dropcore.reproduction import Experiment, Row

from ._digits import errors_within, measured

NOISE = {"bernoulli": Dropout, "gaussian": GaussianDropout}


def one(run):
    return measured(run, [run.settings.units] * 2, dropout=NOISE[run.settings.noise])


EXPERIMENT = Experiment(
    title="784-1024-1024-10 on MNIST: Gaussian noise against Bernoulli dropout",
    paper="Srivastava et al. 2014, table 10",
    rows=[Row("Bernoulli", 1.08, noise="bernoulli"), Row("Gaussian", 0.95, noise="gaussian")],
    train=one,
    draw=errors_within(0.8, 2.2),
    settings={
        "noise": "bernoulli", "units": 1024, "input_keep": 0.8, "keep": 0.5, "c": 2.0,
        "epochs": 80, "batch": 128, "learning_rate": 0.02, "momentum": 0.95, "samples": None,
    },
    quick={"units": 32, "epochs": 2, "samples": 500},
)  # fmt: skip
