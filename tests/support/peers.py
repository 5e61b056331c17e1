"""Outputs and gradients of Keras and PyTorch for the same weights."""

from __future__ import annotations

import os

import numpy as np
import pytest

from dropcore import Key, Mask
from dropcore.nn import GRU, LSTM, SimpleRNN
from support.arrays import close, normal
from support.layers import build

KEY = Key(11, stream=5, step=3)
RATE = 0.0625  # Keras keeps it in float32
LENGTHS = np.array([5, 1, 3, 5, 2, 4])

# On PyTorch Keras turns float64 into float32; in float64 some of its constants are float32 still.
ON_TENSORFLOW = os.environ.get("KERAS_BACKEND") == "tensorflow"

each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["single", "double"])
keras_dtypes = [np.float32, np.float64] if ON_TENSORFLOW else [np.float32]
each_keras_dtype = pytest.mark.parametrize("dtype", keras_dtypes, ids=lambda kind: kind.__name__)


def by_torch(torch, function, arrays, dy):
    """y = function(*arrays), and the gradients of the sum of y * dy with respect to them."""
    given = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    y = function(*given)
    if dy is None:
        return y.detach().numpy(), []
    found = torch.autograd.grad(y, [t for t in given if t.requires_grad], torch.tensor(dy))
    return y.detach().numpy(), [g.numpy() for g in found]


def by_keras(keras, function, arrays, variables, dy):
    """y = function(*arrays), and the gradients with respect to float arrays and variables.

    `dy` is an array like y, or a list of them for a list y.
    """
    several = isinstance(dy, list)
    if not ON_TENSORFLOW:
        import torch

        given = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
        at = [t for t in given if t.requires_grad] + [v.value for v in variables]
        y = function(*given)
        found = torch.autograd.grad(
            y, at, [torch.tensor(d) for d in dy] if several else torch.tensor(dy)
        )
    else:
        import tensorflow as tf

        given = [tf.constant(a) for a in arrays]
        at = [t for t in given if t.dtype.is_floating] + [v.value for v in variables]
        with tf.GradientTape() as tape:
            tape.watch([t for t in given if t.dtype.is_floating])
            y = function(*given)
        found = [tf.convert_to_tensor(g) for g in tape.gradient(y, at, output_gradients=dy)]
    as_numpy = keras.ops.convert_to_numpy
    outputs = [as_numpy(part) for part in y] if several else as_numpy(y)
    return outputs, [as_numpy(g) for g in found]


def rounded(dtype):
    """The tolerance where constants of Keras are in float32 whatever the dtype."""
    return 1e-5 if dtype is np.float32 else 1e-7


def with_weights(ours, theirs, x):
    theirs.build(x.shape)
    own = [v for v in theirs.weights if "seed" not in v.name]
    for variable, weight in zip(own, [*ours.params.values(), *ours.buffers.values()], strict=True):
        assert tuple(variable.shape) == weight.shape
        variable.assign(weight)
    return theirs


def fed(ours, y):
    """Our layer with the mask of a peer, told by what came out.

    What it dropped is the number that comes more than once. The mask must be shared along the axes
    of ours and along no others.
    """
    values, counts = np.unique(y, return_counts=True)
    kept = y != values[counts.argmax()]
    own = ours.mask(y.shape, KEY).shape
    mine = kept[tuple(slice(n) for n in own)]
    np.testing.assert_array_equal(np.broadcast_to(mine, kept.shape), kept)
    for axis, n in enumerate(own):
        assert n == 1 or (mine != np.roll(mine, 1, axis)).any()
    # Layers refuse the assignment of a method.
    object.__setattr__(ours, "mask", lambda *_: Mask.given(mine, keep=ours.keep))


def mask_of(keras, lengths, steps=5):
    if lengths is None:
        return None
    return keras.ops.convert_to_tensor(np.arange(steps) < lengths[:, None])


def same_as_keras(keras, ours, theirs, x, **options):
    """Forward, input gradient, and gradients of the weights, which come in the same order."""
    build(ours, *x.shape[1:], dtype=x.dtype if x.dtype.kind == "f" else np.float32)
    with_weights(ours, theirs, x)
    lengths, tolerance = options.pop("lengths", None), options.pop("tolerance", None)
    y, backward = ours.forward(x, **ours.lengths_kwargs(lengths))
    dy = normal(*y.shape, dtype=y.dtype, seed=3)
    dx, grads = backward(dy)
    if lengths is not None:
        options["mask"] = mask_of(keras, lengths, x.shape[1])
    wanted, gradients = by_keras(
        keras, lambda t: theirs(t, **options), [x], theirs.trainable_variables, dy
    )
    close(y, wanted, "y", tolerance)
    names = [name for name in ours.params if name in grads]
    found = ([dx] if x.dtype.kind == "f" else []) + [grads[name] for name in names]
    for a, b, name in zip(found, gradients, ["dx", *names][-len(found) :], strict=True):
        close(a, b, name, tolerance)


def peer(keras, name, dtype, **options):
    return getattr(keras.layers, name)(dtype=np.dtype(dtype).name, **options)


def keras_activation(keras, name):
    if name == "leaky_relu":  # whose slope is 0.2 there
        return lambda x: keras.activations.leaky_relu(x, negative_slope=0.01)
    return name


def cells(keras, cell, units, dtype, *, reverse=False, **options):
    """Our layer, and Keras' with the same arguments."""
    name = np.dtype(dtype).name
    there = {"dtype": name, "go_backwards": reverse, **options}
    here = {"reverse": reverse, **options}
    if cell in ("tanh", "relu"):
        return (SimpleRNN(units, activation=cell, **here),
                keras.layers.SimpleRNN(units, activation=cell, **there))  # fmt: skip
    return {"gru": (GRU, keras.layers.GRU), "lstm": (LSTM, keras.layers.LSTM)}[cell][0](
        units, **here
    ), getattr(keras.layers, cell.upper())(units, **there)


def states(layer, batch, dtype):
    parts = 2 if isinstance(layer, LSTM) else 1
    return [0.5 * normal(batch, layer.units, dtype=dtype, seed=30 + i) for i in range(parts)]
