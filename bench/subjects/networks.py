"""One training step of a convolutional network and of an LSTM, beside PyTorch.

`convolution`: 64 images of 32 x 32 x 3, two convolutions of 5 x 5 with 32 and 64 maps, each with
ReLU and max-pooling by 2, a dense layer of 256 with ReLU, 10 outputs, softmax cross-entropy. With
dropout: behind every layer with weights, at the rates of Srivastava et al. 2014 for SVHN.

`recurrent`: an LSTM of 200 units on 64 sequences of 35 steps of 200 numbers, all outputs given a
gradient. With dropout: one mask a sequence on the inputs and on the recurrent state (Gal and
Ghahramani 2016), one mask an element on the outputs. PyTorch's LSTM has no recurrent dropout, and
gets dropout of its inputs and outputs only.

Both with momentum SGD. Names that end in _plain are without dropout.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

import dropcore

from .common import TINY, Builder, Call, Case, Kernel, module, named, ready, torch_compiled

IMAGES, SIDE, MAPS, HIDDEN = (4, 8, (3, 4), 8) if TINY else (64, 32, (32, 64), 256)
SEQUENCES, STEPS, UNITS = (4, 5, 6) if TINY else (64, 35, 200)
LEARNING_RATE, MOMENTUM = 1e-4, 0.9
CONVOLUTION_RATES, DENSE_RATE, RECURRENT_RATE = (0.25, 0.25), 0.5, 0.5


def images() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((IMAGES, SIDE, SIDE, 3), dtype=np.float32)
    return x, rng.integers(10, size=IMAGES)


def sequences() -> tuple[np.ndarray, np.ndarray]:
    """Inputs, and the gradient of the outputs."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((SEQUENCES, STEPS, UNITS), dtype=np.float32)
    return x, 1e-2 * rng.standard_normal((SEQUENCES, STEPS, UNITS), dtype=np.float32)


# ---- dropcore ------------------------------------------------------------------------------------


def stepping(model: Any, x: np.ndarray, gradient_of: Any) -> Call:
    """Forward, backward and update of a built model."""
    from dropcore.optim import SGD

    optimizer, steps = SGD(LEARNING_RATE, momentum=MOMENTUM), itertools.count()
    state = optimizer.init(model.params)

    def call():
        step = next(steps)
        outputs, backward = model.forward(x, key=dropcore.Key(7, step=step))
        _, grads = backward(gradient_of(outputs), input_gradient=False, for_update=True)
        optimizer.apply(model.params, grads, state, step, model.constraints)

    return call


def convolution(regularised: bool = True) -> Call:
    from dropcore.losses import softmax_cross_entropy
    from dropcore.nn import Conv2D, Dense, Dropout, Flatten, MaxPool2D, Sequential

    layers: list[Any] = []
    for maps, rate in zip(MAPS, CONVOLUTION_RATES, strict=True):
        layers += [Conv2D(maps, 5, padding="same", activation="relu"), MaxPool2D(2)]
        layers += [Dropout(rate)] if regularised else []
    layers += [Flatten(), Dense(HIDDEN, activation="relu")]
    layers += [Dropout(DENSE_RATE)] if regularised else []
    model = Sequential([*layers, Dense(10)])
    x, labels = images()
    model.build(x.shape[1:], key=0)
    return stepping(model, x, lambda outputs: softmax_cross_entropy(outputs, labels)[1])


def recurrent(inputs: float = RECURRENT_RATE, state: float = RECURRENT_RATE,
              outputs: float = RECURRENT_RATE) -> Call:  # fmt: skip
    from dropcore.nn import LSTM, Dropout, Sequential

    layer = LSTM(UNITS, return_sequences=True, dropout=inputs, recurrent_dropout=state)
    model = Sequential([layer, Dropout(outputs)] if outputs else [layer])
    x, dy = sequences()
    model.build(x.shape[1:], key=0)
    return stepping(model, x, lambda _: dy)


# ---- PyTorch -------------------------------------------------------------------------------------


def stepping_torch(network: Any, loss_of: Any) -> Call:
    torch = module("torch")
    optimizer = torch.optim.SGD(
        network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, fused=True
    )

    def call():
        optimizer.zero_grad(set_to_none=True)
        loss_of().backward()
        optimizer.step()

    return call


def convolution_torch(
    regularised: bool = True, channels_last: bool = False, compiled: bool = False
) -> Call:
    torch = module("torch")
    nn = torch.nn
    layers: list[Any] = []
    for inputs, maps, rate in zip((3, MAPS[0]), MAPS, CONVOLUTION_RATES, strict=True):
        layers += [nn.Conv2d(inputs, maps, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
        layers += [nn.Dropout(rate)] if regularised else []
    layers += [nn.Flatten(), nn.Linear(MAPS[1] * (SIDE // 4) ** 2, HIDDEN), nn.ReLU()]
    layers += [nn.Dropout(DENSE_RATE)] if regularised else []
    network = nn.Sequential(*layers, nn.Linear(HIDDEN, 10))
    x, labels = images()
    format_ = torch.channels_last if channels_last else torch.contiguous_format
    network = network.to(memory_format=format_)
    inputs = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(memory_format=format_)
    targets = torch.from_numpy(labels)

    def loss():
        return nn.functional.cross_entropy(network(inputs), targets)

    call = stepping_torch(network, torch_compiled(loss) if compiled else loss)
    return ready(call) if compiled else call


def recurrent_torch(regularised: bool = True) -> Call:
    torch = module("torch")
    network = torch.nn.LSTM(UNITS, UNITS, batch_first=True)
    drop = torch.nn.Dropout(RECURRENT_RATE if regularised else 0.0)
    x, dy = map(torch.from_numpy, sequences())

    def loss():
        y, _ = network(drop(x) if regularised else x)
        return ((drop(y) if regularised else y) * dy).sum()

    return stepping_torch(network, loss)


# ---- the table -----------------------------------------------------------------------------------


def plain(builder: Builder) -> Builder:
    return named(builder, f"{builder.__name__}_plain", regularised=False)


def convolution_case() -> Case:
    """Products of 2 operations, three times, without the gradient of the images."""
    first = IMAGES * SIDE**2 * 75 * MAPS[0]
    second = IMAGES * (SIDE // 2) ** 2 * 25 * MAPS[0] * MAPS[1]
    dense = IMAGES * (MAPS[1] * (SIDE // 4) ** 2 * HIDDEN + HIDDEN * 10)
    return Case(f"batch {IMAGES}", (), IMAGES, operations=2 * (2 * first + 3 * (second + dense)))


def recurrent_case() -> Case:
    product = SEQUENCES * STEPS * UNITS * 4 * UNITS
    return Case(f"batch {SEQUENCES}", (), SEQUENCES * STEPS, operations=2 * 5 * product)


last = named(convolution_torch, "convolution_torch_channels_last", channels_last=True)

KERNELS = {
    "convolution": Kernel(
        reference=plain(convolution),
        own=convolution,
        others=[
            convolution_torch,
            plain(convolution_torch),
            last,
            plain(last),
            named(convolution_torch, "convolution_torch_compiled", compiled=True),
        ],
        cases=[convolution_case()],
    ),
    "recurrent": Kernel(
        reference=named(recurrent, "recurrent_plain", inputs=0.0, state=0.0, outputs=0.0),
        own=recurrent,
        others=[
            named(recurrent, "recurrent_state_only", inputs=0.0, outputs=0.0),
            recurrent_torch,
            plain(recurrent_torch),
        ],
        cases=[recurrent_case()],
    ),
}
