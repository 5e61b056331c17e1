"""Convolutions and pooling of CuPy arrays give what the compiled core gives."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dropcore import Key, Mask, _core
from dropcore._backends import cuda
from dropcore._backends.cuda import blas, patches
from dropcore._ops.convolution import ConvolutionOp
from dropcore._ops.pooling import Pooling
from dropcore.nn import (
    AveragePool2D,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePool1D,
    GlobalMaxPool1D,
    MaxPool2D,
    Sequential,
)
from dropcore.optim import SGD
from support import host_cupy
from support.arrays import assert_same_bits, close, normal, normal32, on_host
from support.cublas import FakeBlas
from support.images import CONVOLUTIONS, WINDOWS, example_of

KEY = Key(0x0123456789ABCDEF, stream=5, step=77)
REAL = [np.float32, np.float64]
PIECES = [1, 3000, patches.PIECE_BYTES]


# ---- patches ----


def patches_by_loops(x, out, kernel, stride, dilation, before, groups):
    """(groups, positions, numbers of a patch), a number at a time."""
    batch, height, width, channels = x.shape
    taken = channels // groups
    found = np.zeros((groups, batch, *out, *kernel, taken), x.dtype)
    for g, b, i, j, k, l in np.ndindex(found.shape[:-1]):  # noqa: E741
        row = i * stride[0] + k * dilation[0] - before[0]
        column = j * stride[1] + l * dilation[1] - before[1]
        if 0 <= row < height and 0 <= column < width:
            found[g, b, i, j, k, l] = x[b, row, column, g * taken : (g + 1) * taken]
    return found.reshape(groups, -1, np.prod(kernel) * taken)


PLACES = {
    "inside": ((2, 3), (3, 3), (1, 1), (1, 1), (0, 0)),
    "edges": ((5, 6), (3, 3), (1, 1), (1, 1), (1, 2)),
    "all else": ((3, 2), (2, 3), (2, 3), (3, 2), (2, 1)),
    "begins inside": ((2, 3), (2, 1), (1, 2), (1, 1), (-2, -1)),
    "nothing but padding": ((2, 2), (2, 2), (9, 9), (1, 1), (20, -20)),
    "a pixel": ((4, 5), (1, 1), (1, 1), (1, 1), (0, 0)),
    "a pixel that is shifted": ((4, 5), (1, 1), (1, 1), (1, 1), (1, 0)),
    "every other pixel": ((2, 3), (1, 1), (2, 2), (1, 1), (0, 0)),
    "fewer pixels": ((3, 5), (1, 1), (1, 1), (1, 1), (0, 0)),
    "as many pixels, every other one": ((4, 5), (1, 1), (2, 2), (1, 1), (0, 0)),
}


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("place", PLACES)
def test_patches(gpu, monkeypatch, place, piece, dtype):
    monkeypatch.setattr(patches, "PIECE_BYTES", piece)
    # Channels in fours and not; memory that is aligned to four numbers and not.
    for (channels, groups), start in itertools.product(
        [(1, 1), (3, 1), (8, 1), (6, 3), (16, 2), (12, 3)], [0, 1, 4]
    ):
        shape = (3, 4, 5, channels)
        size = int(np.prod(shape))
        whole = np.full(size + 8, np.nan, dtype)  # beside the images there is nothing to read
        whole[start : start + size] = normal(size, dtype=dtype)
        x, on = (a[start : start + size].reshape(shape) for a in (whole, gpu.asarray(whole)))
        wanted = patches_by_loops(x, *PLACES[place], groups)
        a = cuda.Patches(on, *PLACES[place], groups)
        assert (a.positions, a.depth) == wanted.shape[1:]
        reached = 0
        for positions, found in a.pieces():
            assert positions.start == reached
            reached = positions.stop
            assert_same_bits(found, wanted[:, positions])
            if place != "a pixel" or groups > 1:
                assert found.size * found.itemsize <= piece or len(found[0]) == 1
        assert reached == a.positions


# ---- convolutions ----


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions(gpu, monkeypatch, case, piece, dtype):
    monkeypatch.setattr(patches, "PIECE_BYTES", piece)
    x, w, bias, options = example_of(case, dtype)
    on = [gpu.asarray(a) for a in (x, w, bias)]
    plain = ConvolutionOp(x, w, **options)
    mask = Mask(plain.y.shape, 0.4, key=KEY)
    dy = normal(*plain.y.shape, dtype=dtype, seed=3)
    for more in ({}, {"relu": True}, {"mask": mask}, {"relu": True, "mask": mask}):
        biased = slice(3 if more else 2)
        wanted = ConvolutionOp(x, w, *(bias,)[: len(more)], **options, **more)
        found = ConvolutionOp(*on[biased], **options, **more)
        assert isinstance(found.y, gpu.ndarray)
        close(on_host(found.y), wanted.y)
        results = found.backward(gpu.asarray(dy))
        for name, a, b in zip(("dx", "dw", "dbias"), results, wanted.backward(dy), strict=True):
            assert isinstance(a, gpu.ndarray)
            close(on_host(a), b, name)
        dx, *others = found.backward(gpu.asarray(dy), input_gradient=False)
        assert dx is None
        for a, b in zip(others, results[1:], strict=True):
            assert_same_bits(a, on_host(b))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("piece", PIECES)
def test_what_was_in_memory_is_gone(gpu, monkeypatch, piece, groups):
    monkeypatch.setattr(patches, "PIECE_BYTES", piece)
    x, dz, w = normal32(3, 4, 5, 6), normal32(60, 8, seed=1), normal32(3, 3, 6 // groups, 8, seed=2)
    layout = (4, 5), (3, 3), (1, 1), (1, 1), (1, 1), groups
    core, own = _core.Patches(x, *layout), cuda.Patches(gpu.asarray(x), *layout)
    for shape, function, factor in ((w.shape, "kernel_gradient", dz), (dz.shape, "convolution", w)):
        wanted, found = np.empty(shape, np.float32), gpu.full(shape, np.nan, np.float32)
        getattr(_core, function)(wanted, core, factor)
        getattr(cuda, function)(found, own, gpu.asarray(factor))
        close(on_host(found), wanted)


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_no_images(gpu, case):
    x, w, bias, options = example_of(case, batch=0)
    step = ConvolutionOp(*(gpu.asarray(a) for a in (x, w, bias)), **options, relu=True)
    assert len(step.y) == 0
    dx, dw, dbias = step.backward(step.y.copy())
    assert dx.shape == x.shape
    assert dw.shape == w.shape
    assert not on_host(dw).any()
    assert not on_host(dbias).any()


def test_layouts_of_images(gpu):
    x, w, bias, options = example_of("groups, all else")
    wanted = ConvolutionOp(x, w, bias, **options)
    dy = normal32(*wanted.y.shape, seed=3)
    spread = gpu.asarray(np.repeat(x, 2, axis=2))[:, :, ::2]
    turned = gpu.asarray(np.ascontiguousarray(w.transpose(3, 0, 1, 2))).transpose(1, 2, 3, 0)
    step = ConvolutionOp(spread, turned, gpu.asarray(bias), **options)
    close(on_host(step.y), wanted.y)
    back_dy = gpu.asarray(np.ascontiguousarray(dy.transpose(0, 3, 1, 2))).transpose(0, 2, 3, 1)
    for a, b in zip(step.backward(back_dy), wanted.backward(dy), strict=True):
        close(on_host(a), b)


def test_a_pixel_needs_no_patches(host):
    x, w, bias, options = example_of("1 x 1")
    before = len(host_cupy.launches)
    step = ConvolutionOp(*(host.asarray(a) for a in (x, w, bias)), **options)
    step.backward(step.y)
    assert "write_patches" not in host_cupy.launches[before:]
    wider = ConvolutionOp(host.asarray(x), host.asarray(w), padding=1)
    assert wider.y.shape == (3, 7, 8, 4)
    assert "write_patches" in host_cupy.launches[before:]


def test_nothing_waits_for_the_device(host):
    x, w, bias, options = example_of("groups, all else")
    on = [host.asarray(a) for a in (x, w, bias)]
    sequence = host.asarray(normal32(4, 9, 3))
    before = host_cupy.waits
    step = ConvolutionOp(*on, **options, relu=True, mask=Mask((3, 4, 5, 6), 0.5, key=KEY))
    step.backward(step.y)
    for pooling in (
        Pooling(sequence.shape, 3, stride=2, padding=1),
        Pooling(sequence.shape, None, average=True, lengths=[3, 9, 0, 1]),
    ):
        y, places = pooling.forward(sequence)
        pooling.backward(y, places)
    assert host_cupy.waits == before


def test_arrays_of_one_device(gpu):
    x, w, *_ = example_of("plain")
    for pair in ((x, gpu.asarray(w)), (gpu.asarray(x), w)):
        with pytest.raises(TypeError, match=r"x and w must be on one device, got .*ndarray and "):
            ConvolutionOp(*pair)
    with pytest.raises(TypeError, match="x must be float32 or float64, got int64"):
        ConvolutionOp(gpu.zeros((2, 5, 3), np.int64), gpu.asarray(w[0]))


def test_images_in_graphs(gpu, monkeypatch):
    """Recorded updates are those that are not recorded; products of groups go to cuBLAS too."""
    monkeypatch.setattr(patches, "PIECE_BYTES", 1 << 14)
    fake = FakeBlas()
    if not hasattr(gpu, "_core"):  # the stand-in
        monkeypatch.setattr(blas, "loaded", lambda: fake)
        call = blas.Handle.multiply
        monkeypatch.setattr(blas.Handle, "multiply", lambda *on: host_cupy._did(lambda: call(*on)))
    x, y = normal32(48, 6, 7, 3), np.arange(48) % 4
    weights = []
    for cuda_graph in (False, True):
        model = Sequential(
            [Conv2D(8, 3, padding=1, activation="relu"), Dropout(0.3), MaxPool2D(2, stride=1),
             Conv2D(4, 3, groups=4, stride=2, padding=1, activation="gelu"), Dropout(0.2),
             Conv2D(8, 1, groups=2), AveragePool2D(2, padding=1), Flatten(), Dense(4)]
        ).to("cuda")  # fmt: skip
        model.fit(
            gpu.asarray(x), gpu.asarray(y), optimizer=SGD(0.1, momentum=0.9), epochs=2,
            batch_size=16, key=5, progress=False, cuda_graph=cuda_graph,
        )  # fmt: skip
        weights.append({name: on_host(weight) for name, weight in model.params.items()})
    assert fake.calls or hasattr(gpu, "_core")
    for name, weight in weights[0].items():
        np.testing.assert_allclose(weights[1][name], weight, rtol=1e-3, atol=1e-5, err_msg=name)


# ---- pooling ----


def odd_numbers(shape, dtype):
    """With ties, NaNs and infinities, and zeros of both signs."""
    x = normal(*shape, dtype=dtype)
    if len(x):
        x[0] = np.round(x[0])
        x[0, ::3, 1::2, 0] = np.nan
        x[0, :, :, shape[-1] // 2] = -np.inf
    return x


OPTIONS = [{}, {"average": True}, {"average": True, "count_include_pad": True}]


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("channels", [1, 3, 37])
@pytest.mark.parametrize("case", WINDOWS)
def test_pooling(gpu, case, channels, dtype):
    image, size, stride, padding = WINDOWS[case]
    for batch, options in itertools.product((0, 1, 3), OPTIONS):
        x = odd_numbers((batch, *image, channels), dtype)
        core = Pooling(x.shape, size, stride=stride, padding=padding, **options)
        own = Pooling(x.shape, size, stride=stride, padding=padding, **options)
        y, places = core.forward(x)
        found, found_places = own.forward(gpu.asarray(x))
        assert_same_bits(found, y)
        assert (places is None) == (found_places is None)
        if places is not None:
            assert_same_bits(found_places, places)
        dy = normal(*y.shape, dtype=dtype, seed=1)
        assert_same_bits(own.backward(gpu.asarray(dy), found_places), core.backward(dy, places))


@pytest.mark.parametrize("size", [1, 255, 256, 257, 5000])
def test_pooling_of_any_size(gpu, size):
    """Threads that have nothing to do, and blocks that come round again."""
    x = normal32(1, 3, size)
    for options in OPTIONS:
        core = Pooling(x.shape, 2, stride=1, padding=1, **options)
        y, places = core.forward(x)
        found, found_places = core.forward(gpu.asarray(x))
        assert_same_bits(found, y)
        assert_same_bits(core.backward(gpu.asarray(y), found_places), core.backward(y, places))


def test_windows_that_begin_inside(gpu):
    """What the layers never ask for: the core and the kernels agree all the same."""
    x = normal32(2, 6, 7, 3)
    for before, out in (((-2, -3), (2, 2)), ((-9, 0), (1, 3)), ((5, 5), (5, 5))):
        shapes = x.shape, out, (2, 3), (1, 2), before
        core, own = _core.Windows(*shapes), cuda.Windows(*shapes)
        for kind in ("max", "average"):
            shape = (2, *out, 3)
            y, y_own = np.empty(shape, np.float32), gpu.zeros(shape, np.float32)
            places, places_own = np.empty(shape, np.int32), gpu.zeros(shape, np.int32)
            held, held_own = (places, places_own) if kind == "max" else (None, None)
            _core.pool(y, x, core, held)
            cuda.pool(y_own, gpu.asarray(x), own, held_own)
            assert_same_bits(y_own, y)
            dx, dx_own = np.empty(x.shape, np.float32), gpu.zeros(x.shape, np.float32)
            dy = normal32(*shape, seed=1)
            _core.pool_back(dx, dy, core, held)
            cuda.pool_back(dx_own, gpu.asarray(dy), own, held_own)
            assert_same_bits(dx_own, dx)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("kind", [GlobalMaxPool1D, GlobalAveragePool1D])
def test_pooling_of_padded_sequences(gpu, kind, dtype):
    x, dy, layer = normal(5, 9, 3, dtype=dtype), normal(5, 3, dtype=dtype, seed=1), kind()
    lengths = np.array([9, 1, 4, 0, 8])
    for row, length in enumerate(lengths):
        x[row, length:] = np.nan
    y, backward = layer.forward(x, lengths=lengths)
    found, step = layer.forward(gpu.asarray(x), lengths=lengths)
    assert_same_bits(found, y)
    assert_same_bits(step(gpu.asarray(dy))[0], backward(dy)[0])


def test_windows_of_padded_sequences(gpu):
    """Windows that the end of a sequence cuts off."""
    x, lengths = normal32(4, 9, 5), np.array([9, 2, 5, 0])
    for size, stride, options in itertools.product((2, 3, 5), (1, 2, 4), OPTIONS):
        pooling = Pooling(x.shape, size, stride=stride, padding=1, lengths=lengths, **options)
        y, places = pooling.forward(x)
        found, found_places = pooling.forward(gpu.asarray(x))
        assert_same_bits(found, y)
        dy = normal32(*y.shape, seed=2)
        assert_same_bits(
            pooling.backward(gpu.asarray(dy), found_places), pooling.backward(dy, places)
        )


def test_lengths_are_inside():
    for lengths in ([1, 10], [-1, 2]):
        with pytest.raises(ValueError, match=r"lengths must be in \[0, 9\], got"):
            Pooling((2, 9, 3), None, lengths=lengths)


def test_windows_have_countable_places(gpu):
    with pytest.raises(ValueError, match=r"fewer than 2\*\*31 positions"):
        cuda.Windows((1, 1, 1, 1), (1, 1), (1 << 16, 1 << 15), (1, 1), (0, 0))
