"""Outputs and gradients of Keras and PyTorch for the same weights."""

from __future__ import annotations

import os

import numpy as np
import pytest

from dropcore import Key, Mask

KEY = Key(11, stream=5, step=3)


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


def fed(monkeypatch, ours, y):
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
    monkeypatch.setattr(ours, "mask", lambda *_: Mask.given(mine, keep=ours.keep))
