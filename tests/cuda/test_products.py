"""Products and the ends of layers on CuPy arrays: the numbers of the reference."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest

from dropcore import Key, Mask, masked_matmul, masked_matmul_backward, reference
from dropcore._backends import cuda
from support.arrays import assert_same_bits, odd_numbers, on_host

KEY = Key(0x0123456789ABCDEF, stream=5, step=77)
DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
REAL = [np.float32, np.float64]


def products(shape=(37, 70), n=53, dtype=np.float32):
    rng = np.random.default_rng(6)
    return (
        rng.normal(size=shape).astype(dtype), rng.normal(size=(shape[-1], n)).astype(dtype),
        rng.normal(size=n).astype(dtype), rng.normal(size=(*shape[:-1], n)).astype(dtype),
    )  # fmt: skip


X_MASKS = {"none": None, "element": (37, 70), "unit": (1, 70), "row": (37, 1)}


W_MASKS = {"none": None, "weight": (70, 53), "sample": (37, 70, 53)}


Y_MASKS = {"none": None, "element": (37, 53), "unit": (53,), "odd": (37, 1)}


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("x_mask", X_MASKS)
@pytest.mark.parametrize("w_mask", W_MASKS)
@pytest.mark.parametrize("y_mask", Y_MASKS)
def test_products(xp, dtype, x_mask, w_mask, y_mask):
    x, w, bias, dy = products(dtype=dtype)
    masks = {
        name: None if shape is None else Mask(shape, 0.4, key=Key(8, stream=i))
        for i, (name, shape) in enumerate(
            zip(("x_mask", "w_mask", "y_mask"), (X_MASKS[x_mask], W_MASKS[w_mask], Y_MASKS[y_mask]))
        )
    }
    pairs = {n: None if m is None else (m.to_bool(), m.scale) for n, m in masks.items()}
    for n, shape in (("x_mask", x.shape), ("y_mask", dy.shape)):
        if pairs[n] is not None:
            pairs[n] = np.broadcast_to(pairs[n][0], shape), np.broadcast_to(pairs[n][1], shape)
    on = [xp.asarray(a) for a in (x, w, bias, dy)]
    y = masked_matmul(*on[:3], activation="relu", **masks)
    assert type(y) is type(on[0])
    tolerance = (
        {"rtol": 2e-5, "atol": 4e-4} if dtype == np.float32 else {"rtol": 1e-11, "atol": 1e-11}
    )
    want = reference.masked_matmul(x, w, bias, activation="relu", **pairs)
    np.testing.assert_allclose(on_host(y), want, **tolerance)
    found = masked_matmul_backward(on[3], *on[:2], y, activation="relu", **masks)
    wanted = reference.masked_matmul_backward(dy, x, w, on_host(y), activation="relu", **pairs)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(on_host(a), b, **tolerance)


def test_products_of_groups_and_given_masks(xp):
    x, w, bias, dy = products((4, 9, 30), 20)
    masks = {"x_mask": Mask((4, 1, 30), 0.5, key=1), "y_mask": Mask((4, 1, 20), 0.5, key=2)}
    on = [xp.asarray(a) for a in (x, w, bias, dy)]
    y = masked_matmul(x, w, bias, **masks)
    np.testing.assert_allclose(on_host(masked_matmul(*on[:3], **masks)), y, rtol=2e-5, atol=1e-4)
    wanted = masked_matmul_backward(dy, x, w, y, **masks)
    for a, b in zip(masked_matmul_backward(on[3], *on[:2], None, **masks), wanted, strict=True):
        np.testing.assert_allclose(on_host(a), b, rtol=2e-5, atol=2e-4)
    given = Mask.given(xp.asarray(masks["x_mask"].to_bool()), keep=0.5)
    y2 = masked_matmul(*on[:2], x_mask=given)
    np.testing.assert_allclose(
        on_host(y2), masked_matmul(x, w, x_mask=masks["x_mask"]), rtol=2e-5, atol=1e-4
    )
    sample = Mask((4, 30, 20), 0.5, key=3)
    bits = Mask.from_packed(xp.asarray(sample.packed()), sample.shape, keep=0.5)
    np.testing.assert_allclose(
        on_host(masked_matmul(*on[:2], w_mask=bits)), masked_matmul(x, w, w_mask=sample),
        rtol=2e-5, atol=1e-4,
    )  # fmt: skip


KINDS = ["relu", "leaky_relu", "elu", "selu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid",
         "softplus"]  # fmt: skip


def rounded(x, dtype):
    return x.astype(dtype).astype(np.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("own", [None, "element", "unit", "given"])
@pytest.mark.parametrize("columns", [1, 5, 64, 300])
def test_bias_relu_dropout_residual(gpu, dtype, own, columns):
    rows = 23
    rng = np.random.default_rng(7)
    z, residual, dy = (rng.normal(size=(rows, columns)).astype(dtype) for _ in range(3))
    bias = rng.normal(size=columns).astype(dtype)
    mask = kept = None
    if own is not None:
        shape = (1, columns) if own == "unit" else (rows, columns)
        mask = Mask(shape, 0.3, key=KEY, offset=37)
        kept = np.broadcast_to(mask.to_bool(), z.shape)
        if own == "given":
            mask = Mask.given(gpu.asarray(kept), keep=0.7)
    scale = 1.0 if own is None else np.float64(mask.scale)
    real = np.float64 if dtype == np.float64 else np.float32
    value = z.astype(real) + bias.astype(real)
    value = np.where(value <= 0, 0, value)
    if own is not None:
        value = np.where(kept, value * real(scale), 0)
    want = (value + residual.astype(real)).astype(dtype)
    on = [gpu.asarray(a) for a in (z, bias, residual, dy)]
    y = cuda.finished(on[0], on[1], kind="relu", mask=mask, residual=on[2], out=None)
    assert_same_bits(y, want)
    held = gpu.asarray(np.where(value > 0, 1, 0).astype(dtype))
    back_value = dy.astype(real) * real(scale)
    if own is not None:
        back_value = np.where(kept, back_value, 0)
    dz = cuda.unfinished(on[3], held, kind="relu", mask=mask)
    assert_same_bits(dz, np.where(value > 0, back_value, 0).astype(dtype))
    sums = gpu.zeros(columns, dtype)
    cuda.sum_columns(dz, sums)
    sums = on_host(sums).astype(np.float64)
    exact = on_host(dz).astype(np.float64).sum(axis=0)
    eps = float(ml_dtypes.finfo(dtype).eps)
    close = {np.float64: 1e-13, np.float32: 1e-5}[real]
    np.testing.assert_allclose(sums, exact, rtol=eps, atol=close)
    assert_same_bits(
        cuda.finished(on[0], on[1], kind="relu", mask=mask, residual=on[2], out=on[0]), want
    )


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("kind", KINDS)
def test_activations(gpu, dtype, kind):
    from dropcore._ops.activation import HOLD_INPUT, Activation

    x = np.concatenate([np.linspace(-30, 30, 2001), [0.0, -0.0, 1e-20, 100.0, -100.0]]).astype(
        dtype
    )
    x = x[None]
    dy = np.random.default_rng(8).normal(size=x.shape).astype(dtype)
    parameter = {"leaky_relu": 0.1, "elu": 0.7}.get(kind, 0.0)
    core = Activation(kind, parameter)
    want, held = core.forward(x)
    tolerance = (
        {"rtol": 4e-6, "atol": 1e-7} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-15}
    )
    y = cuda.finished(gpu.asarray(x), None, kind=kind, parameter=parameter, out=None)
    np.testing.assert_allclose(on_host(y), want, **tolerance)
    held = gpu.asarray(x) if kind in HOLD_INPUT else gpu.asarray(want)
    dx = cuda.unfinished(gpu.asarray(dy), held, kind=kind, parameter=parameter)
    np.testing.assert_allclose(on_host(dx), core.backward(dy, on_host(held)), **tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_compact_and_scatter(gpu, dtype):
    x = odd_numbers((20, 30), dtype)
    rng = np.random.default_rng(9)
    rows, columns = np.sort(rng.permutation(20)[:7]), np.sort(rng.permutation(30)[:11])
    for r, c in itertools.product((rows, None, rows[:0]), (columns, None)):
        place = np.ix_(np.arange(20) if r is None else r, np.arange(30) if c is None else c)
        part = cuda.compact(
            gpu.asarray(x), *(None if u is None else gpu.asarray(u) for u in (r, c))
        )
        assert_same_bits(part, x[place])
        whole = np.zeros_like(x)
        whole[place] = x[place]
        assert_same_bits(cuda.scatter(part, r, c, (20, 30)), whole)
