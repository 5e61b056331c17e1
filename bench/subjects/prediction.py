"""Monte Carlo prediction of a whole network: many passes under dropout.

784-1024-1024-10 with ReLU, dropout 0.5 on the hidden layers and, where the case says so, 0.2 on the
input. Without noise on the input the first product is the same in all passes: dropcore computes it
once, and so does the candidate of PyTorch whose name ends in _once.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from .common import TINY, Builder, Call, Case, Kernel, module, named

LAYERS = (32, 16, 16, 10) if TINY else (784, 1024, 1024, 10)
ROWS = 20 if TINY else 10_000
BATCH = 8 if TINY else 1024  # of both libraries; PyTorch is faster with it than with all rows
INPUT_RATE, HIDDEN_RATE = 0.2, 0.5


def rows() -> np.ndarray:
    """Inputs in [0, 1)."""
    return np.random.default_rng(0).random((ROWS, LAYERS[0]), dtype=np.float32)


def network(on_input: bool) -> Any:
    """The network, with its first weights."""
    from dropcore.nn import Dense, Dropout, Sequential

    layers = [Dropout(INPUT_RATE)] if on_input else []
    for units in LAYERS[1:-1]:
        layers += [Dense(units, activation="relu"), Dropout(HIDDEN_RATE)]
    model = Sequential([*layers, Dense(LAYERS[-1])])
    model.build((LAYERS[0],), key=0)
    return model


def monte_carlo(samples: int, on_input: bool) -> Call:
    """`predict` with samples."""
    model, x = network(on_input), rows()
    return lambda: model.predict(x, key=7, samples=samples, batch_size=BATCH)


def summarised(samples: int, on_input: bool) -> Call:
    """`uncertainty.sample`: mean, deviation, entropies."""
    from dropcore.uncertainty import sample

    model, x = network(on_input), rows()
    options: dict[str, Any] = {"samples": samples, "kind": "classes", "batch_size": BATCH}
    return lambda: sample(model, x, key=7, **options)


def passes_without_noise(samples: int, on_input: bool) -> Call:
    """As many passes of dropcore without noise."""
    model, x = network(on_input), rows()
    return lambda: [model.predict(x, batch_size=BATCH) for _ in range(samples)]


def monte_carlo_torch(samples: int, on_input: bool, once: bool = False) -> Call:
    """Passes in train mode, without gradients, into one tensor."""
    torch = module("torch")
    layers = [torch.nn.Dropout(INPUT_RATE)] if on_input else []
    for inputs, units in itertools.pairwise(LAYERS[:-1]):
        layers += [torch.nn.Linear(inputs, units), torch.nn.ReLU(), torch.nn.Dropout(HIDDEN_RATE)]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(*LAYERS[-2:])).train()
    first = 2 if once and not on_input else 0  # layers before the first dropout
    batches = torch.from_numpy(rows()).split(BATCH)

    def call():
        outputs = torch.empty(samples, ROWS, LAYERS[-1])
        with torch.no_grad():
            for b, batch in enumerate(batches):
                x = model[:first](batch)
                for t in range(samples):
                    outputs[t, b * BATCH : b * BATCH + len(x)] = model[first:](x)
        return outputs

    return call


def case(samples: int, on_input: bool) -> Case:
    """So many samples of all rows."""
    products = sum(a * b for a, b in itertools.pairwise(LAYERS))
    name = f"{samples} samples, input {'under' if on_input else 'without'} dropout"
    predictions = samples * ROWS
    return Case(name, (samples, on_input), predictions, operations=2 * predictions * products)


monte_carlo_torch_once: Builder = named(monte_carlo_torch, "monte_carlo_torch_once", once=True)

KERNELS = {
    "monte_carlo": Kernel(
        reference=passes_without_noise,
        own=monte_carlo,
        others=[summarised, monte_carlo_torch, monte_carlo_torch_once],
        cases=[case(2 if TINY else 5, on_input) for on_input in (True, False)],
    )
}
