"""Pooling: against loops, PyTorch and finite differences; any team gives the same bits."""

from __future__ import annotations

import numpy as np
import pytest

import dropcore
from dropcore import Key, reference
from dropcore._ops.geometry import Geometry, padding_of, per_axis
from dropcore._ops.pooling import Pooling
from dropcore.nn import (
    AveragePool1D,
    AveragePool2D,
    Dropout,
    GlobalAveragePool1D,
    GlobalAveragePool2D,
    GlobalMaxPool1D,
    GlobalMaxPool2D,
    MaxPool1D,
    MaxPool2D,
    Sequential,
)
from support.arrays import close, normal, normal32
from support.differences import check_gradients
from support.images import WINDOWS


@pytest.mark.parametrize("channels", [1, 3, 37])
@pytest.mark.parametrize("case", WINDOWS)
def test_pooling_is_its_loops(isa, case, channels):
    image, size, stride, padding = WINDOWS[case]
    for dtype in (np.float32, np.float64):
        x = normal(2, *image, channels, dtype=dtype)
        x[0] = np.round(x[0])  # ties
        x[0, ::3, 1::2, 0] = np.nan
        x[0, :, :, channels // 2] = -np.inf
        window = per_axis("", size, 2)
        step = window if stride is None else per_axis("", stride, 2)
        where = Geometry.of(image, window, step, (1, 1), padding_of("", padding, 2))
        shared = {"kernel": window, "stride": step, "before": where.pad_before}
        for options in (
            {},
            {"average": True},
            {"average": True, "count_include_pad": True},
        ):
            pooling = Pooling(x.shape, size, stride=stride, padding=padding, **options)
            y, places = pooling.forward(x)
            assert y.dtype == dtype
            close(y, reference.pooling(x, out=where.out, **shared, **options))
            dy = normal(*y.shape, dtype=dtype, seed=1)
            dx = pooling.backward(dy, places)
            close(dx, reference.pooling_backward(dy, x, **shared, **options))


LAYERS = [
    (MaxPool1D(3, stride=2, padding="same"), (8, 3)),
    (MaxPool2D((2, 3), stride=1, padding=((1, 0), (2, 1))), (5, 6, 2)),
    (AveragePool1D(2, padding=(1, 0)), (7, 3)),
    (AveragePool2D(3, stride=2, padding=1), (5, 6, 2)),
    (AveragePool2D(3, stride=2, padding=1, count_include_pad=True), (5, 6, 2)),
    (GlobalMaxPool1D(), (5, 3)),
    (GlobalMaxPool2D(), (3, 4, 2)),
    (GlobalAveragePool1D(), (5, 3)),
    (GlobalAveragePool2D(), (3, 4, 2)),
]
each_layer = pytest.mark.parametrize(("layer", "sample"), LAYERS, ids=repr)


@each_layer
def test_gradients_equal_finite_differences(layer, sample):
    # A hundredth apart, so that no small change moves a maximum.
    size = int(np.prod(sample)) * 3
    x = np.random.default_rng(2).permutation(size).reshape(3, *sample) * 0.01
    check_gradients(layer, x)
    check_gradients(Sequential([layer, Dropout(0.4)]), x, Key(3))


@each_layer
def test_any_layout_and_no_rows(layer, sample):
    x = normal32(4, *sample)
    y, backward = layer.forward(x)
    dy = normal32(*y.shape, seed=1)
    wanted = backward(dy)[0]
    read_only = x.copy()
    read_only.flags.writeable = False
    spread = np.repeat(x, 2, axis=-1)[..., ::2]
    for other in (read_only, spread, np.asfortranarray(x)):
        found, step = layer.forward(other)
        assert found.tobytes() == y.tobytes()
        assert step(np.asfortranarray(dy))[0].tobytes() == wanted.tobytes()
    assert backward(dy, input_gradient=False) == (None, {})
    y, backward = layer.forward(x[:0])
    assert y.shape == (0, *layer.output_shape(sample))
    assert backward(y)[0].shape == (0, *sample)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("batch", [1, 3, 40])
def test_any_team_gives_the_same_bits(threads, assert_team, average, batch, dtype):
    x = normal(batch, 600 // batch, 40, 31, dtype=dtype)
    pooling = Pooling(x.shape, 3, stride=2, padding=1, average=average)
    dy = normal(*pooling.out_shape, dtype=dtype, seed=1)
    results = []
    for team in (1, threads):
        dropcore.set_num_threads(team)
        y, places = pooling.forward(x)
        if team == threads:
            assert_team()
        dx = pooling.backward(dy, places)
        if team == threads:
            assert_team()
        results.append((y.tobytes(), dx.tobytes()))
    assert results[0] == results[1]


@pytest.mark.parametrize("kind", [GlobalMaxPool1D, GlobalAveragePool1D])
def test_lengths_leave_the_padding_out(kind):
    x = normal(5, 9, 3, dtype=np.float64)
    lengths = np.array([9, 1, 4, 0, 8])
    layer = kind()
    padded = x.copy()
    for row, length in enumerate(lengths):
        padded[row, length:] = np.nan
    y, backward = layer.forward(padded, lengths=lengths)
    assert layer(padded, lengths=lengths).tobytes() == y.tobytes()
    dy = normal(5, 3, dtype=np.float64, seed=1)
    dx, _ = backward(dy)
    for row, length in enumerate(lengths):
        assert not dx[row, length:].any()
        if length == 0:
            assert not y[row].any()
            continue
        alone, step = layer.forward(x[row : row + 1, :length])
        assert alone.tobytes() == y[row].tobytes()
        assert step(dy[row : row + 1])[0].tobytes() == dx[row, :length].tobytes()
    check_gradients(layer, x, lengths=lengths)
    np.testing.assert_array_equal(Sequential([layer])(padded, lengths=lengths), y)


def test_no_steps_at_all():
    for layer in (GlobalMaxPool1D(), GlobalAveragePool1D()):
        y, backward = layer.forward(np.zeros((2, 0, 3)))
        np.testing.assert_array_equal(y, np.zeros((2, 3)))
        assert backward(y)[0].shape == (2, 0, 3)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: MaxPool2D(0), ValueError, r"MaxPool2D: pool_size must be a positive integer or 2"),
        (lambda: MaxPool1D(2.5), TypeError, r"MaxPool1D: pool_size .* got 2\.5"),
        (lambda: AveragePool2D(2, stride=(1, 2, 3)), ValueError, r"stride .* got \(1, 2, 3\)"),
        (lambda: AveragePool2D(2, padding="full"), ValueError, r"padding must be 'valid', 'same'"),
        (lambda: MaxPool2D(2, padding=2), ValueError, r"padding .*smaller than .*window.* got 2"),
        (lambda: MaxPool2D(5).output_shape((4, 8, 3)), ValueError, r"window of 5 x 5 is larger"),
        (lambda: MaxPool2D(2).output_shape((4, 8)), ValueError, r"width, channels\), got"),
        (lambda: MaxPool2D(2)(normal32(3, 4, 8)), ValueError, r"channels\), got \(4, 8\)"),
        (lambda: MaxPool2D(5)(normal32(3, 4, 8, 2)), ValueError, r"MaxPool2D.*\(3, 4, 8, 2\)"),
        (lambda: GlobalMaxPool1D()(normal32(3, 4, 8, 1)), ValueError, r"of shape \(time, ch"),
        (lambda: MaxPool1D()(np.zeros((2, 4, 3), int)), TypeError, r"must be float32 or float64"),
        (lambda: GlobalMaxPool1D()(normal32(3, 4, 8), lengths=np.array([1, 2])), ValueError,
         r"lengths of shape \(3,\), one for each sequence, got \(2,\)"),
        (lambda: GlobalMaxPool1D()(normal32(2, 4, 8), lengths=np.array([1, 5])), ValueError,
         r"GlobalMaxPool1D\(\) expects lengths in \[0, 4\], got 1 ... 5"),
        (lambda: MaxPool1D().forward(normal32(2, 4, 8))[1](normal32(2, 4, 8)), ValueError,
         r"dy must have the shape of the output, \(2, 2, 8\) .*, got \(2, 4, 8\)"),
    ],
)  # fmt: skip
def test_wrong_arguments(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_a_length_that_is_not_known():
    assert MaxPool1D().output_shape((None, 4)) == (None, 4)
    assert GlobalMaxPool1D().output_shape((None, 4)) == (4,)
    assert AveragePool2D(2).output_shape((None, 9, 4)) == (None, 4, 4)
