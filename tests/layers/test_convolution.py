"""Convolutions: against loops, PyTorch and finite differences; any team gives the same bits."""

from __future__ import annotations

import time

import numpy as np
import pytest

import dropcore
from dropcore import Key, Mask, _core, reference
from dropcore._ops.activation import Activation
from dropcore._ops.convolution import ConvolutionOp
from dropcore._ops.geometry import Geometry, padding_of, per_axis
from dropcore.nn import Conv1D, Conv2D, Dense, Dropout, Flatten, MaxPool2D, Sequential
from support.arrays import close, normal, normal32
from support.differences import check_gradients
from support.images import CONVOLUTIONS, example_of
from support.layers import built

KEY = Key(7, stream=3, step=5)


def by_loops(x, w, bias, options, dz=None):
    """z, or with dz the gradients, from the reference."""
    groups = options.get("groups", 1)
    where = Geometry.of(
        x.shape[1:3],
        w.shape[:2],
        per_axis("", options.get("stride", 1), 2),
        per_axis("", options.get("dilation", 1), 2),
        padding_of("", options.get("padding", "valid"), 2),
    )
    shared = {"stride": where.stride, "dilation": where.dilation, "before": where.pad_before}
    if dz is None:
        return reference.convolution(x, w, out=where.out, groups=groups, **shared) + bias
    return reference.convolution_backward(dz, x, w, groups=groups, **shared)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_a_convolution_is_its_loops(isa, case, dtype):
    x, w, bias, options = example_of(case, dtype)
    z = by_loops(x, w, bias, options)
    y_shape = z.shape
    dy = normal(*y_shape, dtype=dtype, seed=3)
    plain = ConvolutionOp(x, w, bias, **options)
    close(plain.y, z)
    mask = Mask(y_shape, 0.4, key=KEY)
    kept = mask.to_bool() * mask.scale
    relu = ConvolutionOp(x, w, bias, **options, relu=True, mask=mask)
    close(relu.y, np.maximum(z, 0) * kept)
    for step, dz in ((plain, dy.astype(np.float64)), (relu, dy * kept * (z > 0))):
        dx, dw, dbias = step.backward(dy)
        wanted_dx, wanted_dw = by_loops(x, w, bias, options, dz)
        close(dx, wanted_dx, "dx")
        close(dw, wanted_dw, "dw")
        close(dbias, dz.sum(axis=(0, 1, 2)), "dbias")
        again = step.backward(dy, input_gradient=False)
        assert again[0] is None
        assert again[1].tobytes() == dw.tobytes()


@pytest.mark.parametrize("activation", ["gelu", "tanh", "softmax", "leaky_relu"])
@pytest.mark.parametrize("shared", [(), (0,), (1, 2)])
def test_masks_and_activations_that_the_product_does_not_know(activation, shared):
    x, w, bias, options = example_of("same", np.float64)
    function = Activation(activation, 0.1 if activation == "leaky_relu" else 0.0)
    z = by_loops(x, w, bias, options)
    mask = Mask([1 if axis in shared else n for axis, n in enumerate(z.shape)], 0.5, key=KEY)
    kept = np.broadcast_to(mask.to_bool(), z.shape) * mask.scale
    step = ConvolutionOp(x, w, bias, **options, activation=function, mask=mask)
    dy = normal(*z.shape, dtype=np.float64, seed=3)
    y, held = function.forward(z.copy())
    close(step.y, y * kept)
    dx, dw = by_loops(x, w, bias, options, function.backward(dy * kept, held))
    found = step.backward(dy)
    close(found[0], dx)
    close(found[1], dw)


# --- small groups ----------------------------------------------------------------------------

# channels and maps of a group, with which each ISA has groups of one vector, and those of several
GROUPS = [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 3), (4, 5), (5, 1), (6, 6), (7, 2), (8, 8),
          (3, 12), (12, 3), (3, 13)]  # fmt: skip


def check_small_groups(x, w, options, dtype):
    bias = normal(w.shape[-1], dtype=dtype, seed=2)
    step = ConvolutionOp(x, w, bias, **options)
    z = by_loops(x, w, bias, options)
    close(step.y, z)
    dy = normal(*z.shape, dtype=dtype, seed=3)
    dx, dw, _ = step.backward(dy)
    wanted_dx, wanted_dw = by_loops(x, w, bias, options, dy.astype(np.float64))
    close(dx, wanted_dx, "dx")
    close(dw, wanted_dw, "dw")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("groups", [2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33])
def test_depthwise_convolutions_of_every_width(isa, groups, dtype):
    x, w = normal(2, 4, 9, groups, dtype=dtype), normal(3, 3, 1, groups, dtype=dtype, seed=1)
    check_small_groups(x, w, {"groups": groups, "padding": 1}, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("groups", [2, 5, 12])
@pytest.mark.parametrize(("channels", "maps"), GROUPS)
def test_groups_of_every_size(isa, channels, maps, groups, dtype):
    x = normal(2, 3, 4, groups * channels, dtype=dtype)
    w = normal(2, 3, channels, groups * maps, dtype=dtype, seed=1)
    check_small_groups(x, w, {"groups": groups, "padding": (0, 1)}, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("image", "kernel", "dilation"),
    [((1, 1100), (1, 3), 1), ((2, 600), (2, 2), (1, 90)), ((70, 23), (3, 3), 1)],
)
def test_small_groups_in_blocks(isa, image, kernel, dilation, dtype):
    """Rows that are cut into pieces, and images that are cut into blocks of rows."""
    x, w = normal(1, *image, 4, dtype=dtype), normal(*kernel, 2, 6, dtype=dtype, seed=1)
    check_small_groups(x, w, {"groups": 2, "padding": "same", "dilation": dilation}, dtype)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_group(isa, bad):
    x, w = normal32(2, 5, 6, 20), normal32(3, 3, 2, 10, seed=1)
    x[..., 7] = bad
    step = ConvolutionOp(x, w, padding=1, groups=10)
    finite = np.isfinite(step.y).all(axis=(0, 1, 2))
    assert finite.tolist() == [group != 3 for group in range(10)]
    _, dw, _ = step.backward(normal32(*step.y.shape, seed=3))
    finite = np.isfinite(dw).all(axis=(0, 1))
    assert finite[0].all()
    assert finite[1].tolist() == [group != 3 for group in range(10)]


def test_a_depthwise_convolution_takes_less_time_than_one_of_all_channels(isa):
    """As products it would take several times as long: a tile holds the maps of one group."""
    x = normal32(2, 32, 32, 64)

    def cost(groups):
        w = normal32(3, 3, 64 // groups, 64, seed=1)
        times = []
        for _ in range(5):
            start = time.thread_time()
            step = ConvolutionOp(x, w, padding=1, groups=groups)
            step.backward(step.y)
            times.append(time.thread_time() - start)
        return min(times)

    before = dropcore.get_num_threads()
    dropcore.set_num_threads(1)
    try:
        assert cost(64) < cost(1)
    finally:
        dropcore.set_num_threads(before)


# --- layers ----------------------------------------------------------------------------------

NETWORKS = {
    "1-D": (lambda: [Conv1D(5, 3, padding="same", activation="relu"), Dropout(0.4)], (8, 3)),
    "causal": (lambda: [Conv1D(4, 3, dilation=2, padding=(4, 0)), Dropout(0.3)], (7, 2)),
    "2-D": (lambda: [Dropout(0.2), Conv2D(4, 3, activation="relu"), Dropout(0.4)], (6, 5, 3)),
    "stride": (lambda: [Conv2D(3, 3, stride=2, padding=1), Dropout(0.3)], (6, 5, 2)),
    "groups": (lambda: [Conv2D(6, (2, 3), groups=3, dilation=(2, 1)), Dropout(0.5)], (6, 5, 3)),
    "no bias": (lambda: [Conv2D(3, 2, use_bias=False, activation="relu"), Dropout(0.5)], (4, 4, 2)),
    "gelu": (lambda: [Conv2D(3, 2, activation="gelu"), Dropout(0.5)], (4, 4, 2)),
    "whole maps": (
        lambda: [Conv2D(4, 2, activation="relu"), Dropout(0.5, shared_axes=(1, 2))],
        (4, 4, 2),
    ),
    "all": (
        lambda: [
            Conv2D(5, 3, padding="same", activation="relu"), Dropout(0.3), MaxPool2D(2),
            Conv2D(4, 2, activation="relu"), Dropout(0.5), Flatten(), Dense(3), Dropout(0.5),
        ],
        (6, 7, 2),
    ),
}  # fmt: skip


def network_of(name, dtype=np.float64):
    layers, sample = NETWORKS[name]
    return built(Sequential(layers()), *sample, dtype=dtype), sample


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_equal_finite_differences(name):
    model, sample = network_of(name)
    check_gradients(model, normal(3, *sample, dtype=np.float64), KEY)


def one_by_one(model, x, key):
    """Forward through the layers, each on its own, and the way back."""
    steps = []
    for name, layer, own in model.children_with_keys(key):
        x, step = layer.forward(x, key=own)
        steps.append((name, step))

    def backward(dy):
        grads = {}
        for name, step in reversed(steps):
            dy, inner = step(dy)
            grads |= {f"{name}.{path}": g for path, g in inner.items()}
        return dy, grads

    return x, backward


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_dropout_behind_is_applied_where_the_product_ends(isa, name, dtype, monkeypatch):
    model, sample = network_of(name, dtype)
    x = normal(5, *sample, dtype=dtype)
    wanted, wanted_back = one_by_one(model, x, KEY)
    masked = []
    for kind in (Conv1D, Conv2D):
        original = kind.forward_masked

        def watched(self, x, mask=None, *, compact=False, original=original):
            masked.append(mask)
            return original(self, x, mask, compact=compact)

        monkeypatch.setattr(kind, "forward_masked", watched)
    y, backward = model.forward(x, key=KEY)
    assert masked
    assert all(mask is not None for mask in masked)
    assert y.tobytes() == wanted.tobytes()
    dy = normal(*y.shape, dtype=dtype, seed=4)
    dx, grads = backward(dy)
    wanted_dx, wanted_grads = wanted_back(dy)
    assert dx.tobytes() == wanted_dx.tobytes()
    assert grads.keys() == wanted_grads.keys()
    for path, gradient in grads.items():
        assert np.asarray(gradient).tobytes() == np.asarray(wanted_grads[path]).tobytes(), path


def test_a_layer_made_from_one_keeps_its_own_forward():
    class Doubled(Conv2D):
        def forward(self, x, *, key=None, row_offset=0):
            y, backward = super().forward(x, key=key, row_offset=row_offset)
            return 2 * y, backward

    model = Sequential([Doubled(3, 2), Dropout(0.0)])
    model.build((4, 4, 2), key=1)
    x = normal32(2, 4, 4, 2)
    plain = Conv2D(3, 2)
    plain.build((4, 4, 2), key=1)
    np.testing.assert_array_equal(model.forward(x, key=KEY)[0], 2 * plain(x))


# --- the same bits ---------------------------------------------------------------------------

LARGE = {
    "tall": ((40, 40, 40, 3), (5, 5, 3, 32), {"padding": "same"}),
    "deep": ((40, 24, 24, 16), (3, 3, 16, 40), {"stride": 2}),
    "groups": ((30, 30, 24, 24), (3, 3, 8, 33), {"groups": 3, "padding": 1}),
    "depthwise": ((30, 30, 24, 80), (3, 3, 1, 160), {"groups": 80, "padding": 1}),
    "small groups": ((20, 40, 40, 36), (3, 3, 3, 36), {"groups": 12, "padding": 1}),
    "depthwise sequences": ((16, 1, 5000, 48), (1, 9, 1, 48), {"groups": 48, "padding": (0, 4)}),
    "few positions, many weights": ((2, 9, 9, 200), (3, 3, 200, 150), {"padding": 1}),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", LARGE)
def test_any_team_gives_the_same_bits(threads, assert_team, name, dtype):
    x_shape, w_shape, options = LARGE[name]
    x, w = normal(*x_shape, dtype=dtype), normal(*w_shape, dtype=dtype, seed=1)
    bias = normal(w_shape[-1], dtype=dtype, seed=2)
    results = []
    for team in (1, threads):
        dropcore.set_num_threads(team)
        step = ConvolutionOp(x, w, bias, relu=True, **options)
        if team == threads:
            assert_team()
        dy = normal(*step.y.shape, dtype=dtype, seed=3)
        dz, dbias = step.epilogue.backward(dy, step.saved)
        dw = np.empty_like(w)
        _core.kernel_gradient(dw, step._patches(), dz)
        if team == threads:
            assert_team()
        dx = step.backward(dy)[0]
        results.append([a.tobytes() for a in (step.y, dbias, dw, dx)])
    assert results[0] == results[1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("m", "k", "n"), [(48, 5, 24), (97, 300, 10), (500, 64, 17), (1000, 257, 33), (301, 700, 64)]
)
def test_a_tall_product_is_the_same_as_any(isa, m, k, n, dtype):
    wide = normal(m, k + 9, dtype=dtype)
    b, bias = normal(k, n, dtype=dtype, seed=1), normal(n, dtype=dtype, seed=2)
    for a in (np.ascontiguousarray(wide[:, :k]), wide[:, 4 : 4 + k]):
        tall, other = np.empty((m, n), dtype), np.empty((m, n), dtype)
        for c, columns in ((tall, None), (other, np.arange(k))):
            _core.product(
                c, _core.Factor(a, columns=columns), _core.Factor(b), bias=bias, relu=True
            )
        assert tall.tobytes() == other.tobytes()
        close(tall, np.maximum(a.astype(np.float64) @ b + bias, 0))
        turned = np.ascontiguousarray(b.T)
        _core.product(tall, _core.Factor(a), _core.Factor(turned), transpose_b=True, bias=bias,
                      relu=True)  # fmt: skip
        assert tall.tobytes() == other.tobytes()


def test_the_gradient_of_a_tall_bias(isa, threads):
    for m, n in ((0, 5), (1, 3), (1023, 40), (1024, 3), (1025, 70), (5000, 33)):
        y, dy = normal(m, n, dtype=np.float64), normal(m, n, dtype=np.float64, seed=1)
        for relu, wanted in ((y, np.where(y > 0, dy * 1.5, 0)), (None, dy * 1.5)):
            dz, dbias, alone = np.empty_like(dy), np.empty(n), np.empty(n)
            _core.epilogue_backward(dz, relu, dy, 1.5, dbias)
            np.testing.assert_array_equal(dz, wanted)
            close(dbias, wanted.sum(axis=0))
            _core.epilogue_backward(None, relu, dy, 1.5, alone)
            assert alone.tobytes() == dbias.tobytes()


# --- any input -------------------------------------------------------------------------------


def test_layouts():
    x, w, bias, options = example_of("same", batch=4)
    wanted = ConvolutionOp(x, w, bias, **options)
    dy = normal32(*wanted.y.shape, seed=3)
    gradients = wanted.backward(dy)
    read_only = x.copy()
    read_only.flags.writeable = False
    backwards = np.ascontiguousarray(x[::-1, :, ::-1])[::-1, :, ::-1]
    spread = np.zeros((4, 6, 14, 9), np.float32)[:, :, ::2, 2:5]
    spread[...] = x
    for other in (read_only, backwards, spread, np.asfortranarray(x)):
        step = ConvolutionOp(other, np.asfortranarray(w), bias, **options)
        assert step.y.tobytes() == wanted.y.tobytes()
        found = step.backward(np.asfortranarray(dy))
        assert [a.tobytes() for a in found] == [a.tobytes() for a in gradients]
        np.testing.assert_array_equal(other, x)


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_an_empty_batch(case):
    x, w, bias, options = example_of(case, batch=0)
    step = ConvolutionOp(x, w, bias, **options, relu=True)
    assert len(step.y) == 0
    dx, dw, dbias = step.backward(step.y.copy())
    assert dx.shape == x.shape
    assert not dw.any()
    assert not dbias.any()
    assert dw.shape == w.shape


def test_nothing_outside_of_the_image_is_read():
    """Images that end where memory of another kind begins."""
    for case in CONVOLUTIONS:
        x, w, bias, options = example_of(case)
        around = np.full(x.size + 2000, np.nan, np.float32)
        inside = around[1000:-1000].reshape(x.shape)
        inside[...] = x
        step = ConvolutionOp(inside, w, bias, **options)
        wanted = ConvolutionOp(x, w, bias, **options)
        assert step.y.tobytes() == wanted.y.tobytes()
        dy = normal32(*step.y.shape, seed=3)
        for found, same in zip(step.backward(dy), wanted.backward(dy), strict=True):
            assert found.tobytes() == same.tobytes()


# --- shapes and words ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "dilation", "out", "before"),
    [(5, 3, 1, 1, 5, 1), (5, 3, 2, 1, 3, 1), (6, 3, 2, 1, 3, 0), (6, 4, 1, 1, 6, 1),
     (7, 2, 3, 1, 3, 0), (7, 3, 1, 2, 7, 2), (3, 1, 2, 1, 2, 0), (1, 5, 4, 1, 1, 2)],
)  # fmt: skip
def test_same_is_that_of_keras(size, kernel, stride, dilation, out, before):
    found = Geometry.of((size,), (kernel,), (stride,), (dilation,), "same")
    assert (found.out, found.pad_before) == ((out,), (before,))


def test_a_length_that_is_not_known():
    assert Conv1D(4, 3).output_shape((None, 2)) == (None, 4)
    assert Conv2D(4, 3, padding=1).output_shape((None, 8, 2)) == (None, 8, 4)
    with pytest.raises(ValueError, match=r"window of .*9.*larger.*\(None, 8, 2\)"):
        Conv2D(4, (3, 9)).output_shape((None, 8, 2))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Conv2D(0, 3), ValueError, r"Conv2D: filters must be a positive integer, got 0"),
        (lambda: Conv2D(2.5, 3), TypeError, r"Conv2D: filters .* got 2\.5"),
        (lambda: Conv2D(4, 0), ValueError, r"kernel_size must be a positive integer or 2 of them"),
        (lambda: Conv2D(4, (3, 3, 3)), ValueError, r"kernel_size .* got \(3, 3, 3\)"),
        (lambda: Conv1D(4, "3"), TypeError, r"Conv1D: kernel_size must be a positive integer, got"),
        (lambda: Conv1D(4, 3, stride=-1), ValueError, r"stride .* got -1"),
        (lambda: Conv2D(4, 3, dilation=(1, 0)), ValueError, r"dilation .* got \(1, 0\)"),
        (lambda: Conv2D(4, 3, padding="full"), ValueError, r"'valid', 'same', .* got 'full'"),
        (lambda: Conv2D(4, 3, padding=-1), ValueError, r"padding .* got -1"),
        (lambda: Conv2D(4, 3, padding=((1, 2), (3,))), ValueError, r"padding must be .* got"),
        (lambda: Conv2D(4, 3, padding=1.5), TypeError, r"padding must be .* got 1\.5"),
        (lambda: Conv1D(4, 3, padding=(1, 2, 3)), ValueError, r"\(before, after\), got"),
        (lambda: Conv2D(4, 3, groups=3), ValueError, r"filters must divide into 3 groups, got 4"),
        (lambda: Conv2D(4, 3, activation="swoosh"), ValueError, r"Conv2D: .* got 'swoosh'"),
        (lambda: Conv2D(4, 3, initializer="no"), ValueError, r"Conv2D: initializer .* got 'no'"),
    ],
)
def test_wrong_arguments(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_wrong_input():
    layer = Conv2D(4, 3)
    x = normal32(2, 5, 6, 3)
    with pytest.raises(ValueError, match="has no weights yet"):
        layer(x)
    layer.build((5, 6, 3), key=1)
    with pytest.raises(ValueError, match=r"\(batch, height, width, 3\), got \(2, 5, 3\)"):
        layer(x[:, :, 0])
    with pytest.raises(ValueError, match=r"\(batch, height, width, 3\), got \(2, 5, 6, 2\)"):
        layer(x[..., :2])
    with pytest.raises(TypeError, match=r"float32 weights .* got float64"):
        layer(x.astype(np.float64))
    with pytest.raises(TypeError, match="expects an array, got list"):
        layer(x.tolist())
    with pytest.raises(ValueError, match=r"window of 3 x 3 is larger .* 2 x 6.*\(2, 6, 3\)"):
        layer(x[:, :2])
    with pytest.raises(ValueError, match=r"divide into 2 groups, got \(5, 6, 3\)"):
        Conv2D(4, 3, groups=2).build((5, 6, 3), key=1)
    _, backward = layer.forward(x)
    with pytest.raises(ValueError, match=r"shape of the output, \(2, 3, 4, 4\) of float32, got"):
        backward(x)
    with pytest.raises(ValueError, match=r"shape of the output"):
        backward(np.zeros((2, 3, 4, 4)))


def test_wrong_arrays():
    x, w = normal32(2, 5, 6, 3), normal32(3, 3, 3, 4)
    with pytest.raises(TypeError, match="one dtype, got float32 and float64"):
        ConvolutionOp(x, w.astype(np.float64))
    with pytest.raises(TypeError, match="x must be float32 or float64, got int64"):
        ConvolutionOp(x.astype(np.int64), w)
    with pytest.raises(ValueError, match=r"needs x with 3 channels.*got x of shape \(2, 5, 6, 2\)"):
        ConvolutionOp(x[..., :2], w)
    with pytest.raises(ValueError, match=r"in 3 groups needs x with 9 channels"):
        ConvolutionOp(x, w, groups=3)
    with pytest.raises(ValueError, match=r"\(batch, time, channels\).* got \(2, 5, 6, 3\) and"):
        ConvolutionOp(x, w[0])
    with pytest.raises(ValueError, match=r"bias must have shape \(4,\)"):
        ConvolutionOp(x, w, np.zeros(3, np.float32))


def test_words_are_shortest():
    assert repr(Conv2D(4, (3, 3), stride=(1, 1), padding=((1, 1), (1, 1)))) == (
        "Conv2D(4, 3, padding=1)"
    )
    assert repr(Conv1D(4, 3, padding=[2, 0])) == "Conv1D(4, 3, padding=(2, 0))"
    assert repr(Conv2D(4, np.int64(3), padding=((1, 0), (2, 1)))) == (
        "Conv2D(4, 3, padding=((1, 0), (2, 1)))"
    )
    assert repr(Conv2D(4, (3, 1), padding=(1, 0))) == "Conv2D(4, (3, 1), padding=((1, 1), (0, 0)))"
