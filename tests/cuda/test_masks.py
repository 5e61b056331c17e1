"""Masks, dropout and noise of CuPy arrays: the bits of the reference.

The same tests run for three kinds of arrays: NumPy's; CuPy's where there is a device; and "host",
the texts of the kernels compiled by g++ and run on the host behind a stand-in for CuPy
(support/host_cupy.py). What they cannot tell without a device is whether CUDA's own arithmetic and
memory do what the stand-ins do.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from dropcore import (
    Key,
    Mask,
    alpha_dropout,
    alpha_dropout_backward,
    dropout,
    dropout_backward,
    masked_matmul,
    masked_matmul_backward,
    reference,
)
from dropcore import max_norm_ as project_
from dropcore._backends import cuda
from dropcore._backends.cuda import graphs, kernels
from dropcore._backends.cuda.masks import collapsed
from dropcore.noise import decision_uniform, normal, uniform
from dropcore.updates import sgd_
from support import host_cupy
from support.arrays import assert_same_bits, odd_numbers, on_host

KEY = Key(0x0123456789ABCDEF, stream=5, step=77)
DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
REAL = [np.float32, np.float64]
KEEPS = [0.0, 2.0**-32, 0.1, 0.5, 0.75, 0.9, 1 - 2.0**-32, 1.0]
SIZES = [0, 1, 5, 64, 127, 128, 129, 513, 4099, 9000]
OFFSETS = [0, 1, 4, 31, 64, 100, 127, 300, (1 << 34) - 300, (1 << 36) - 5, (1 << 63) - 9000]
DATA = Path(__file__).parents[1] / "data"


# ---- masks ----


@pytest.mark.parametrize("keep", KEEPS)
def test_masks_bit_for_bit(xp, keep):
    like = xp.zeros(1)
    for size, offset in itertools.product(SIZES, OFFSETS):
        mask = Mask(size, keep=keep, key=KEY, offset=offset)
        kept = reference.decisions(
            size, keep, seed=KEY.seed, stream=KEY.stream, step=KEY.step, offset=offset
        )
        bits = mask.packed(like)
        assert type(bits) is type(like)
        assert_same_bits(bits, reference.pack(kept))
        if offset in (0, 31):
            assert_same_bits(mask.to_bool(like), kept)
            assert_same_bits(mask.indices(like), np.flatnonzero(kept))


@pytest.mark.parametrize("dtype", DTYPES)
def test_masks_as_numbers(xp, dtype):
    like = xp.zeros(1)
    each = Mask((70, 4), keep=np.array([0.0, 1 / 3, 0.5, 1.0]), key=KEY)
    for mask in (
        Mask((5, 300), 0.1, key=KEY),
        each,
        Mask(7, 0.5, key=KEY, run=2),
        Mask(0, 0.5, key=1),
    ):
        got = mask.to_array(dtype, like)
        assert type(got) is type(like)
        assert_same_bits(got, mask.to_array(dtype))
    given = Mask.given(xp.asarray(each.to_bool()), keep=0.75)
    assert_same_bits(given.to_array(dtype), Mask.given(each.to_bool(), keep=0.75).to_array(dtype))


def test_frozen_masks(xp):
    like = xp.zeros(1)
    for line in (DATA / "frozen_masks.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        seed, stream, step, domain, offset, size, _, keep, bits = line.split(" ")
        key = Key(int(seed, 16), int(stream), int(step), domain=int(domain))
        mask = Mask(int(size), keep=float.fromhex(keep), key=key, offset=int(offset))
        assert on_host(mask.packed(like)).tobytes().hex() == bits


@pytest.mark.parametrize("shape", [(7, 300), (3, 5, 7), (2, 3, 4, 5, 6, 2)])
def test_arrays_of_rates(xp, shape):
    rng = np.random.default_rng(3)
    x = odd_numbers(shape, seed=4)
    rates = [
        rng.uniform(size=shape),
        rng.uniform(size=(*shape[:-1], 1)),
        rng.uniform(size=shape[-1:]),
    ]
    rates.append(np.where(rng.uniform(size=shape) < 0.3, 0.0, 1.0))
    # Every other axis shared: more axes than a kernel takes.
    rates.append(rng.uniform(size=[n if a % 2 else 1 for a, n in enumerate(shape)]))
    for rate in rates:
        mask = Mask(shape, rate, key=KEY, offset=11)
        assert_same_bits(
            dropout(xp.asarray(x), rate, key=KEY, offset=11), dropout(x, rate, key=KEY, offset=11)
        )
        assert_same_bits(mask.packed(xp.zeros(1)), mask.packed())
        on_device = Mask(shape, xp.asarray(rate), key=KEY, offset=11)
        assert_same_bits(on_device.packed(), mask.packed())
        assert_same_bits(dropout(xp.asarray(x), mask=on_device), dropout(x, mask=mask))


@pytest.mark.parametrize("offset", [0, 11, 127])
def test_rates_next_to_what_decides(xp, offset):
    """Elements that the last plane of their threshold decides, be it the first or the 32nd."""
    u = reference.uniforms(KEY.seed, KEY.stream, KEY.step, offset, 3000)
    above = np.arange(3000) % 2
    short = np.array([0.0, 0.25, 0.5, 0.625, 0.75, 1.0])[np.arange(3000) % 6]
    for keep in ((u + above) / 2.0**32, short):
        mask = Mask(3000, keep=xp.asarray(keep), key=KEY, offset=offset)
        want = above == 1 if keep is not short else u < short * 2.0**32
        assert_same_bits(mask.packed(xp.zeros(1)), reference.pack(want))


def test_rates_on_the_device_are_clamped(gpu):
    keep = np.array([-1.0, 0.0, 0.5, 1.0, 7.0, np.nan, np.inf])
    mask = Mask((100, 7), keep=gpu.asarray(keep), key=KEY)
    clamped = Mask((100, 7), keep=np.array([0.0, 0.0, 0.5, 1.0, 1.0, 0.0, 1.0]), key=KEY)
    assert_same_bits(mask.packed(), clamped.packed())
    assert_same_bits(mask.scale, clamped.scale)


@pytest.mark.parametrize("run", [2, 3, 64])
def test_runs(xp, run):
    mask = Mask((5, 130), 0.4, key=KEY, run=run, offset=9)
    x = odd_numbers((5, 130))
    assert_same_bits(mask.to_bool(xp.zeros(1)), mask.to_bool())
    assert_same_bits(dropout(xp.asarray(x), mask=mask), dropout(x, mask=mask))
    each = Mask((5, 130), np.linspace(0, 1, 5)[:, None], key=KEY, run=run)
    assert_same_bits(dropout(xp.asarray(x), mask=each), dropout(x, mask=each))


# ---- dropout ----


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("keep", KEEPS)
def test_dropout_by_key(xp, dtype, keep):
    for size, offset in itertools.product(SIZES, OFFSETS[:9]):
        x = odd_numbers(size, dtype, seed=size)
        mask = Mask(size, keep=keep, key=KEY, offset=offset)
        want = reference.dropout(x, mask.to_bool(), mask.scale)
        assert_same_bits(dropout(xp.asarray(x), keep=keep, key=KEY, offset=offset), want)
        assert_same_bits(dropout_backward(xp.asarray(x), keep=keep, key=KEY, offset=offset), want)


@pytest.mark.parametrize("dtype", DTYPES)
def test_alpha_dropout(xp, dtype):
    x = np.random.default_rng(0).normal(size=(30, 40)).astype(dtype)
    for arguments in (
        {"rate": 0.3, "key": KEY},
        {"rate": 1.0, "key": KEY},
        {"rate": np.linspace(0, 1, 40), "key": KEY},
        {"mask": Mask((30, 1), 0.3, key=KEY)},
    ):
        for call in (alpha_dropout, alpha_dropout_backward):
            want = call(x, **arguments)
            given = xp.asarray(x)
            found = call(given, **arguments)
            assert type(found) is type(given)
            np.testing.assert_allclose(
                on_host(found).astype(float), want.astype(float), rtol=1e-6, atol=1e-7
            )
            assert call(given, **arguments, out=given) is given
            assert_same_bits(given, found)


@pytest.mark.parametrize("blocks", [1, 2, 40])
@pytest.mark.parametrize(("n", "offset"), [(9000, 0), (70_001, 5)])
def test_any_launch_gives_the_same(gpu, n, offset, blocks):
    """Warps that decide 1 ... 32 groups at a time, once or many times."""
    x, mask = np.ones(n, np.float32), Mask(n, 0.3, key=KEY, offset=offset)
    source, out = gpu.asarray(x), gpu.asarray(np.zeros(n, np.float32))
    kernels.launch(
        source, "dropout", "dropout_drawn", blocks, kernels.ptr(source), kernels.ptr(out),
        np.int64(n), np.float32(1), *kernels.draw(KEY, mask.domain, mask.threshold, offset),
    )  # fmt: skip
    assert_same_bits(out, mask.to_bool().astype(np.float32))


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout_of_every_part_of_an_array(xp, dtype):
    """Memory that is not aligned to what a thread takes at a time."""
    x = odd_numbers(700, dtype)
    for start, end, offset in itertools.product(range(5), (650, 699, 700), (0, 1, 2, 130)):
        mask = Mask(end - start, 0.3, key=KEY, offset=offset)
        want = reference.dropout(x[start:end], mask.to_bool(), mask.scale)
        own, out = xp.asarray(x.copy()), xp.zeros(700, dtype)
        assert dropout(own[start:end], mask=mask, out=out[start:end]) is not None
        assert_same_bits(out[start:end], want)
        assert not on_host(out[:start]).any()
        assert not on_host(out[end:]).any()
        given = Mask.given(xp.asarray(mask.to_bool()), keep=0.7)
        dropout(own[start:end], mask=given, out=own[start:end])  # in place
        assert_same_bits(own[start:end], reference.dropout(x[start:end], mask.to_bool(), 1 / 0.7))
        assert_same_bits(own[:start], x[:start])
        assert_same_bits(own[end:], x[end:])


def test_dropped_nan_is_gone(xp):
    x = np.full(1000, np.nan, np.float32)
    y = on_host(dropout(xp.asarray(x), 0.5, key=KEY))
    kept = Mask(1000, 0.5, key=KEY).to_bool()
    assert np.isnan(y[kept]).all()
    assert (y[~kept].view(np.uint32) == 0).all()


VIEWS = {
    "transposed": lambda a: a.T,
    "every other": lambda a: a[:, ::2, ::3],
    "backwards": lambda a: a[::-1, :, ::-1],
    "cut": lambda a: a[1:, 3:37, 1:-2],
    "one column": lambda a: a[:, :, 5:6],
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_strides(xp, view):
    x = odd_numbers((6, 40, 33))
    part = view(xp.asarray(x.copy()))
    want = dropout(np.ascontiguousarray(view(x)), 0.4, key=KEY)
    assert_same_bits(dropout(part, 0.4, key=KEY), want)
    assert dropout(part, 0.4, key=KEY, out=part) is part
    assert_same_bits(part, want)


SHARED = [
    ((30, 40), (1, 40)), ((30, 40), (30, 1)), ((30, 40), (40,)), ((30, 40), (1, 1)),
    ((4, 30, 40), (4, 1, 40)), ((4, 6, 6, 10), (4, 1, 1, 10)), ((4, 6, 6, 10), (1, 6, 1, 10)),
    ((2, 3, 2, 3, 2, 3), (2, 1, 2, 1, 2, 1)), ((2, 3, 2, 3, 2, 3), (1, 3, 1, 3, 1, 3)), ((), ()),
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "own"), SHARED)
def test_masks_that_are_shared(xp, dtype, shape, own):
    x = odd_numbers(shape, dtype)
    mask = Mask(own, 0.3, key=KEY, offset=3)
    want = reference.dropout(x, np.broadcast_to(mask.to_bool(), shape), mask.scale)
    assert_same_bits(dropout(xp.asarray(x), mask=mask), want)
    packed = Mask.from_packed(xp.asarray(mask.packed()), own, keep=0.7)
    assert_same_bits(dropout(xp.asarray(x), mask=packed), dropout(x, mask=mask.rescaled(1 / 0.7)))


def test_given_masks_move_to_the_device(gpu):
    x, kept = odd_numbers((10, 30)), np.random.default_rng(1).uniform(size=(10, 30)) < 0.5
    mask = Mask.given(kept, keep=0.5)
    assert_same_bits(dropout(gpu.asarray(x), mask=mask), dropout(x, mask=mask))
    on_device = Mask.given(gpu.asarray(kept), keep=0.5)
    assert_same_bits(on_device.to_bool(), kept)
    assert_same_bits(on_device.packed(), mask.packed())
    assert_same_bits(on_device.indices(), mask.indices())


def test_copies_that_are_kept_are_there_for_every_stream(host):
    """A mask is copied to the device once, on the stream that first needs it."""
    x, kept = odd_numbers((10, 30)), np.random.default_rng(1).uniform(size=(10, 30)) < 0.5
    mask = Mask.given(kept, keep=0.5)
    want = dropout(x, mask=mask)
    first, second, third = (host.cuda.Stream(non_blocking=True) for _ in range(3))
    made = {}
    for stream in (first, second, third):
        with stream:
            made[stream] = host.asarray(x), host.empty(x.shape, x.dtype)
    before = host_cupy.sent
    with first:
        cached = cuda.cached_on(mask, "bits")
    assert host_cupy.sent == before + 1
    assert (cached._a == 0xFF).all()  # the copy has not been made
    with second:
        assert_same_bits(dropout(made[second][0], mask=mask), want)
    with third:
        assert_same_bits(dropout(made[third][0], mask=mask), want)
    assert cuda.cached_on(mask, "bits") is cached
    assert host_cupy.sent == before + 1


def test_copies_that_are_kept_are_there_for_a_graph(host_graphs):
    x, kept = odd_numbers((10, 30)), np.random.default_rng(1).uniform(size=(10, 30)) < 0.5
    mask, on = Mask.given(kept, keep=0.5), host_graphs.asarray(x)
    graph = graphs.Graph()
    graph.rehearse(lambda: dropout(on, 0.5, key=1))
    with host_graphs.cuda.Stream(non_blocking=True):
        cuda.cached_on(mask, "bits")
    y = graph.record(lambda: dropout(on, mask=mask))
    graph.launch()
    assert_same_bits(y, dropout(x, mask=mask))


class Foreign:
    """An array of another library on the device, as DLPack shows it."""

    def __init__(self, array):
        self.array = array

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, **_):
        return self.array


def test_arrays_of_other_libraries(host):
    x, w = (
        odd_numbers((8, 30))[2:],
        np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32),
    )
    y = dropout(Foreign(x), 0.5, key=KEY)
    assert type(y) is host.ndarray
    assert_same_bits(y, dropout(x, 0.5, key=KEY))
    found = masked_matmul(Foreign(x), Foreign(w), activation="relu")
    np.testing.assert_allclose(on_host(found), masked_matmul(x, w, activation="relu"), rtol=1e-5)
    assert cuda.as_array("x", Foreign(x)).data.ptr == x.ctypes.data  # the same memory


def test_errors_say_what_is_allowed(gpu):
    x = gpu.zeros((4, 6), np.float32)
    with pytest.raises(TypeError, match=r"x must be float32.*got int64"):
        dropout(gpu.zeros(3, np.int64), 0.5, key=1)
    with pytest.raises(TypeError, match=r"out must be a cupy\.ndarray"):
        dropout(x, 0.5, key=1, out=np.zeros((4, 6), np.float32))
    with pytest.raises(ValueError, match="shape and dtype of x"):
        dropout(x, 0.5, key=1, out=gpu.zeros((4, 5), np.float32))
    with pytest.raises(ValueError, match="overlaps x"):
        dropout(x[1:], 0.5, key=1, out=x[:-1])
    with pytest.raises(ValueError, match="does not broadcast"):
        dropout(x, mask=Mask((3, 6), 0.5, key=1))
    with pytest.raises(TypeError, match="on one device"):
        masked_matmul(np.zeros((4, 6), np.float32), gpu.zeros((6, 2), np.float32))
    with pytest.raises(TypeError, match="must be an array, got ndarray, and w is on the GPU"):
        sgd_(x, np.zeros((4, 6), np.float32), learning_rate=0.1)


def test_nothing_waits_for_the_device(host):
    rng = np.random.default_rng(0)  # finite numbers, whatever the masks keep
    x, w = (host.asarray(rng.normal(size=s).astype(np.float32)) for s in ((8, 30), (30, 20)))
    v, rates = host.zeros((30, 20), np.float32), host.asarray(np.full(30, 0.5))
    before = host_cupy.waits
    dropout(x, 0.5, key=KEY)
    dropout(x, rates, key=KEY)
    dropout(x, 0.5, key=KEY, shared_axes=0)
    normal((3, 4), key=KEY, like=x)
    project_(w, 1.0, axis=0)
    sgd_(w, w.copy(), v, learning_rate=0.1, momentum=0.9, max_norm=1.0, axis=0)
    masks = {"x_mask": Mask((1, 30), 0.5, key=1), "y_mask": Mask((1, 20), 0.5, key=2)}
    y = masked_matmul(x, w, activation="relu", **masks)
    masked_matmul_backward(y, x, w, y, activation="relu", **masks)
    assert host_cupy.waits == before


def test_without_cupy_one_sentence(monkeypatch):
    kernels.forget()
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match="pip install cupy-cuda12x"):
        cuda.require_device()
    kernels.forget()


def test_long_shared_axes_are_not_cut_to_32_bits(gpu):
    """A mask (2, 1, 1) of a shape whose inner axis, with its neighbour, has 2**32 elements."""
    extent, stride = [1, 1, 2, 2**32], [0, 0, 1, 0]
    x = gpu.asarray(np.arange(1, 9, dtype=np.float32))
    bits, out = gpu.asarray(np.array([1], np.uint8)), gpu.asarray(np.zeros(8, np.float32))
    kernels.launch(
        x, "dropout", "dropout_shared", 1, kernels.ptr(x), kernels.ptr(out), np.int64(8),
        np.float32(2), kernels.ptr(bits), kernels.ptr(None),
        *kernels.int64s(extent, stride, [0] * 4),
    )  # fmt: skip
    assert_same_bits(out, np.arange(2, 18, 2, dtype=np.float32))


def test_axes_that_go_together():
    assert collapsed((2, 3, 4), (12, 4, 1)) == ([1, 1, 1, 24], [[0, 0, 0, 1]])
    assert collapsed((2, 3, 4), (0, 0, 1)) == ([1, 1, 6, 4], [[0, 0, 0, 1]])
    assert collapsed((2, 3, 4), (4, 0, 1)) == ([1, 2, 3, 4], [[0, 4, 0, 1]])
    assert collapsed((2,) * 6, (8, 0, 2, 0, 1, 0)) is None
    assert collapsed((), ()) == ([1] * 4, [[0] * 4])


# ---- noise ----


@pytest.mark.parametrize("dtype", REAL)
def test_noise(xp, dtype):
    like = xp.zeros(1)
    for size, offset in itertools.product([0, 1, 5, 64, 4099], OFFSETS):
        z = on_host(normal(size, key=KEY, offset=offset, dtype=dtype, like=like))
        index = np.uint64(offset) + np.arange(size, dtype=np.uint64)
        want = reference.normal(KEY.seed, KEY.stream, KEY.step, index)
        assert z.dtype == dtype
        ulps = np.abs(z - want) / np.spacing(np.abs(want).astype(dtype)).astype(np.float64)
        assert ulps.max(initial=0) <= (4 if dtype == np.float32 else 24)
        assert_same_bits(uniform(size, key=KEY, offset=offset, dtype=dtype, like=like),
                  uniform(size, key=KEY, offset=offset, dtype=dtype))  # fmt: skip
        assert_same_bits(
            decision_uniform((size,), KEY, offset, like), decision_uniform((size,), KEY, offset)
        )


@pytest.mark.parametrize("dtype", REAL)
def test_noise_of_float16(xp, dtype):
    like = xp.asarray(np.zeros(1, dtype))
    for draw in (normal, uniform):
        found = on_host(draw((5, 70), key=KEY, offset=9, dtype=np.float16, like=like))
        assert_same_bits(found, draw((5, 70), key=KEY, offset=9, dtype=np.float16))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_noise_is_that_of_the_core(xp, dtype):
    """The same operations in the same order, also far out in the tails."""
    z = normal((300, 1001), key=KEY, dtype=dtype, like=xp.zeros(1))
    assert_same_bits(z, normal((300, 1001), key=KEY, dtype=dtype))


def test_frozen_normals(xp):
    for line in (DATA / "frozen_normals.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        seed, stream, step, index, _, want = line.split(" ")
        key = Key(int(seed, 16), int(stream), int(step))
        z = on_host(normal(1, key=key, offset=int(index), like=xp.zeros(1)))[0]
        assert abs(z - float.fromhex(want)) <= 4 * np.spacing(np.float32(abs(float.fromhex(want))))
