"""Options of networks and of training, and the network that they describe."""

from __future__ import annotations

import argparse
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

from dropcore.cli._command import Option
from dropcore.cli._values import positive, positive_number, rate, rates, sizes, thinning, thinnings

if TYPE_CHECKING:
    from dropcore.nn import Sequential
    from dropcore.optim import Optimizer

__all__ = [
    "ACTIVATION",
    "HIDDEN",
    "LEARNING_RATES",
    "MAX_NORM",
    "MODELS",
    "NETWORK",
    "OPTIMIZER",
    "RATE",
    "REGRESSION_RATE",
    "SAMPLES",
    "UNITS",
    "network",
    "optimizer_of",
]

MODELS: Final = ("mlp", "cnn", "lstm", "autoencoder")

SAMPLES: Final = {"cnn": "height,width,channels", "lstm": "time,features"}
"""The axes of a sample."""

HIDDEN: Final = (128, 128)
"""Widths of the hidden layers of an mlp, by default."""

LEARNING_RATES: Final = {"adam": 1e-3, "sgd": 1e-2}
"""By default."""

RATE: Final = 0.5
"""Of hidden units, by default, where targets are classes."""

REGRESSION_RATE: Final = 0.1
"""Of hidden units, by default. On six tables of 300 to 1500 rows the error at 0.5 is 1 to 3.3
times that at 0.1, and intervals of 90 % cover 0.91 to 0.99 in place of 0.88 to 0.92."""

_NETWORK: Final = "network"
_TRAINING: Final = "training"

ACTIVATION = Option(
    "--activation", "activation of the hidden layers", metavar="NAME", group=_NETWORK
)

UNITS = Option(
    "--units",
    "widths of the hidden layers, such as 256,256; by default 128,128, of an autoencoder 64, "
    "of a cnn 128 after its convolutions",
    kind=sizes,
    metavar="N,N",
    group=_NETWORK,
)

MAX_NORM = Option(
    "--max-norm",
    "bound on the norm of each hidden unit's incoming weights; by default none",
    kind=positive_number,
    metavar="C",
    group=_NETWORK,
)

NETWORK: Final = (
    Option(
        "--model",
        "mlp for tables, cnn for images, lstm for sequences, autoencoder to reconstruct its input",
        choices=MODELS,
        default="mlp",
        group=_NETWORK,
    ),
    UNITS,
    Option(
        "--filters",
        "filters of the convolutions of a cnn; by default 32,64",
        kind=sizes,
        metavar="N,N",
        group=_NETWORK,
    ),
    Option(
        "--input-shape",
        "of a row that holds an image (height,width,channels) or a sequence (time,features)",
        kind=sizes,
        metavar="N,N",
        group=_NETWORK,
    ),
    Option(
        "--rate",
        "fraction of the hidden units that is dropped, one for all layers or one for each; by "
        "default 0.5, for a target of numbers 0.1, of an lstm 0.25",
        kind=rates,
        metavar="R",
        group=_NETWORK,
        exclusive="rate",
    ),
    Option(
        "--keep",
        "the same as the fraction that is kept",
        kind=thinnings,
        metavar="P",
        group=_NETWORK,
        exclusive="rate",
    ),
    Option(
        "--input-rate",
        "fraction of the inputs that is dropped; by default none",
        kind=rate,
        metavar="R",
        group=_NETWORK,
        exclusive="input_rate",
    ),
    Option(
        "--input-keep",
        "the same as the fraction that is kept",
        kind=thinning,
        metavar="P",
        group=_NETWORK,
        exclusive="input_rate",
    ),
    MAX_NORM,
    ACTIVATION,
)

OPTIMIZER: Final = (
    Option("--batch-size", "samples of an update", kind=positive, default=32, metavar="N",
           group=_TRAINING),
    Option(
        "--optimizer",
        "sgd has a momentum of 0.9",
        choices=("adam", "sgd"),
        default="adam",
        group=_TRAINING,
    ),
    Option(
        "--learning-rate",
        "by default 0.001 for adam and 0.01 for sgd",
        kind=positive_number,
        metavar="R",
        group=_TRAINING,
    ),
)  # fmt: skip


def optimizer_of(options: argparse.Namespace) -> Optimizer:
    """The optimiser that the options describe."""
    from dropcore.optim import SGD, Adam

    learning_rate = options.learning_rate or LEARNING_RATES[options.optimizer]
    if options.optimizer == "adam":
        return Adam(learning_rate)
    return SGD(learning_rate, momentum=0.9)


def network(
    options: argparse.Namespace, n_inputs: int, n_outputs: int, *, regression: bool = False
) -> Sequential:
    """The network that the options describe.

    The noise of dropout adds to the error of a predicted number, where a class stays the same:
    regressions have a smaller default rate.

    Raises
    ------
    ValueError
        If an option has no effect on such a network, or it has none of that name.
    """
    from dropcore.nn import Sequential, architectures
    from dropcore.nn.activations import ACTIVATIONS

    kind = options.model
    if options.filters is not None and kind != "cnn":
        raise ValueError(f"--filters is for --model cnn, and the model is {kind}")
    if options.input_shape is not None and kind not in ("cnn", "lstm"):
        raise ValueError(f"--input-shape is for --model cnn and lstm, and the model is {kind}")
    if options.activation is not None:
        if kind == "lstm":
            raise ValueError("--activation has no effect on an lstm: tanh and sigmoid are its own")
        if options.activation not in ACTIVATIONS:
            near = get_close_matches(options.activation, ACTIVATIONS, n=1)
            raise ValueError(
                f"--activation must be one of {', '.join(sorted(ACTIVATIONS))}, got "
                f"{options.activation!r}" + (f"; did you mean {near[0]!r}?" if near else "")
            )
    noise: dict[str, Any] = {
        "rate": _single(options.rate),
        "keep": _single(options.keep),
        "input_rate": options.input_rate,
        "input_keep": options.input_keep,
        "max_norm": options.max_norm,
    }
    if kind == "lstm":
        body = architectures.lstm(options.units or (128,), n_outputs, **noise)
        return Sequential([*_entrance(options.input_shape, SAMPLES[kind]), *body.layers])
    noise["activation"] = options.activation or "relu"
    if options.rate is None and options.keep is None:
        noise["rate"] = REGRESSION_RATE if regression else RATE
    if kind == "cnn":
        body = architectures.cnn(
            options.filters or (32, 64), n_outputs, units=options.units or (128,), **noise
        )
        return Sequential([*_entrance(options.input_shape, SAMPLES[kind]), *body.layers])
    if kind == "autoencoder":
        return architectures.autoencoder(options.units or (64,), n_inputs, **noise)
    return architectures.mlp(options.units or HIDDEN, n_outputs, **noise)


def _entrance(shape: tuple[int, ...] | None, axes: str) -> list[Any]:
    """Layers that give rows their shape and standardise each channel or feature."""
    from dropcore.nn import BatchNorm, Reshape

    standardise = BatchNorm(scale=False, center=False)
    if shape is None:
        return [standardise]
    if len(shape) != len(axes.split(",")):
        raise ValueError(f"--input-shape must be {axes}, got {','.join(map(str, shape))}")
    return [Reshape(shape), standardise]


def _single(found: tuple[float, ...] | None) -> float | tuple[float, ...] | None:
    """One number instead of a tuple of one, which stands for all layers."""
    return found[0] if found is not None and len(found) == 1 else found
