"""Products and the ends of layers on CuPy arrays: the numbers of the reference."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest

from dropcore import Key, Mask, masked_matmul, masked_matmul_backward, reference
from dropcore._backends import cuda, dense
from dropcore._backends.cuda import kernels
from dropcore._backends.cuda.epilogue import apply_epilogue, apply_epilogue_backward
from dropcore._ops.activation import Activation
from dropcore._ops.convolution import ConvolutionOp
from dropcore._ops.dense import DenseOp
from support import host_cupy
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


KINDS = [name for name in kernels.ENUMERATIONS["ACTIVATION"] if name != "identity"]


def rounded(x, dtype):
    return x.astype(dtype).astype(np.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("own", [None, "drawn", "given"])
@pytest.mark.parametrize("columns", [1, 5, 64, 300])
def test_epilogues(gpu, dtype, own, columns):
    """Bias, relu and a mask, forward and backward, bit for bit."""
    rng, shape = np.random.default_rng(7), (23, columns)
    z, dy = (rng.normal(size=shape).astype(dtype) for _ in range(2))
    bias = rng.normal(size=columns).astype(dtype)
    kept, bits, scale = np.True_, None, 1.0
    if own is not None:
        mask = Mask(shape, 0.3, key=KEY, offset=37)
        kept, scale = mask.to_bool(), mask.scale
        if own == "given":
            mask = Mask.given(gpu.asarray(kept), keep=0.7)
        bits = cuda.decisions(mask)
        assert isinstance(bits, Mask) == (own == "drawn")
    real = np.float64 if dtype == np.float64 else np.float32
    value = z.astype(real) + bias.astype(real)
    active = np.where(value <= 0, 0, value)
    want = np.where(kept, active * real(scale), 0).astype(dtype)
    on = [gpu.asarray(a) for a in (z, bias, dy)]
    how = {"activation": "relu", "bits": bits, "scale": scale}
    assert_same_bits(apply_epilogue(*on[:2], **how), want)
    saved = gpu.empty(shape, dtype)
    assert_same_bits(apply_epilogue(*on[:2], saved=saved, **how), want)
    assert_same_bits(saved, active.astype(dtype))
    apply_epilogue(*on[:2], saved=saved, saves_input=True, **how)
    assert_same_bits(saved, value.astype(dtype))
    back_value = np.where(kept, dy.astype(real) * real(scale), 0)
    wanted = np.where(active > 0, back_value, 0).astype(dtype)
    dz, sums = gpu.empty(shape, dtype), gpu.zeros(columns, dtype)
    cuda.epilogue_backward(dz, gpu.asarray(active.astype(dtype)), on[2], scale, sums, bits=bits)
    assert_same_bits(dz, wanted)
    exact = on_host(dz).astype(np.float64).sum(axis=0)
    eps = float(ml_dtypes.finfo(dtype).eps)
    close = {np.float64: 1e-13, np.float32: 1e-5}[real]
    np.testing.assert_allclose(on_host(sums).astype(np.float64), exact, rtol=eps, atol=close)
    assert_same_bits(
        apply_epilogue_backward(on[2], None, bits=bits, scale=scale), back_value.astype(dtype)
    )
    assert_same_bits(apply_epilogue(*on[:2], saved=on[0], out=None, **how), want)  # saved in place
    assert_same_bits(on[0], active.astype(dtype))
    z = gpu.asarray(z)
    assert_same_bits(apply_epilogue(z, on[1], out=z, **how), want)


@pytest.mark.parametrize("start", [1, 2, 3])
def test_epilogues_of_unaligned_memory(gpu, start):
    mask = Mask((700,), 0.3, key=KEY, offset=5)
    room = gpu.asarray(np.random.default_rng(0).normal(size=704).astype(np.float32))
    z, saved = room[start : start + 700], gpu.empty((704,), np.float32)[start:][:700]
    y = apply_epilogue(z, activation="relu", bits=mask, scale=2.0, saved=saved)
    active = np.maximum(on_host(z), 0)
    assert_same_bits(saved, active)
    assert_same_bits(y, np.where(mask.to_bool(), active * np.float32(2), 0))


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own", [None, "element", "unit", "shared", "given"])
def test_layers_fuse_their_epilogue(host, monkeypatch, dtype, kind, own):
    """Dense, an activation and Dropout are one launch, with the bits of separate passes."""
    rng, shape = np.random.default_rng(11), (9, 37)
    x, w, bias, dy = (
        host.asarray(rng.normal(size=s).astype(dtype)) for s in ((9, 20), (20, 37), (37,), shape)
    )
    mask = {
        None: None,
        "element": Mask(shape, 0.4, key=KEY, offset=3),
        "unit": Mask((1, 37), 0.4, key=1),
        "shared": Mask((9, 1), 0.4, key=1),
        "given": Mask.given(rng.uniform(size=shape) < 0.5, keep=0.5),
    }[own]
    activation = Activation(kind, {"leaky_relu": 0.1, "elu": 0.7}.get(kind, 0.0))
    found = []
    for fuses in (True, False):
        monkeypatch.setattr(cuda, "FUSES_ACTIVATIONS", fuses)
        for live in (False, True):
            before = len(host_cupy.launches)
            op = DenseOp(x, w, bias, activation=activation, mask=mask, compact=live)
            launched = host_cupy.launches[before:]
            if fuses and own in (None, "element"):
                assert launched == ["apply_epilogue"]
            compact = op.y_units is not None
            assert compact == (live and own == "unit")
            y = op.y.values if compact else op.y
            back_from = dy[:, op.y_units] if compact else dy
            before = len(host_cupy.launches)
            dx, dw, dbias = op.backward(back_from, for_update=True)
            if fuses and own in (None, "element"):
                backward = ["epilogue_backward", "sum_columns", "add_chunks"]
                assert host_cupy.launches[before:] == backward
            dw = dense(dw)
            dbias = dbias.values if compact else dbias
            found.append([on_host(a) for a in (y, dx, dw, dbias)])
    for fused, separate in zip(found[:2], found[2:], strict=True):
        for a, b in zip(fused, separate, strict=True):
            assert_same_bits(a, b)


@pytest.mark.parametrize("own", [None, "element"])
@pytest.mark.parametrize("kind", ["gelu", "tanh"])
def test_convolutions_fuse_their_epilogue(host, monkeypatch, kind, own):
    rng = np.random.default_rng(12)
    x = host.asarray(rng.normal(size=(3, 5, 6, 4)).astype(np.float32))
    w = host.asarray(rng.normal(size=(2, 2, 4, 7)).astype(np.float32))
    bias = host.asarray(rng.normal(size=7).astype(np.float32))
    mask = None if own is None else Mask((3, 4, 5, 7), 0.4, key=KEY)
    dy = host.asarray(rng.normal(size=(3, 4, 5, 7)).astype(np.float32))
    found = []
    for fuses in (True, False):
        monkeypatch.setattr(cuda, "FUSES_ACTIVATIONS", fuses)
        before = len(host_cupy.launches)
        op = ConvolutionOp(x, w, bias, activation=Activation(kind), mask=mask)
        if fuses:
            assert host_cupy.launches[before:] == ["write_patches", "apply_epilogue"]
        found.append([on_host(a) for a in (op.y, *op.backward(dy))])
    for a, b in zip(*found, strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("kind", KINDS)
def test_activations(gpu, dtype, kind):
    x = np.concatenate([np.linspace(-30, 30, 2001), [0.0, -0.0, 1e-20, 100.0, -100.0]]).astype(
        dtype
    )
    x = x[None]
    dy = np.random.default_rng(8).normal(size=x.shape).astype(dtype)
    parameter = {"leaky_relu": 0.1, "elu": 0.7}.get(kind, 0.0)
    core = Activation(kind, parameter)
    want, _ = core.forward(x)
    tolerance = (
        {"rtol": 4e-6, "atol": 1e-7} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-15}
    )
    y = apply_epilogue(gpu.asarray(x), activation=kind, parameter=parameter)
    np.testing.assert_allclose(on_host(y), want, **tolerance)
    saved = gpu.asarray(x if core.saves_input else want)
    dx = apply_epilogue_backward(gpu.asarray(dy), saved, activation=kind, parameter=parameter)
    np.testing.assert_allclose(on_host(dx), core.backward(dy, on_host(saved)), **tolerance)


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
