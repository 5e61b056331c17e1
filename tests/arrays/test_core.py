"""What the compiled core refuses, copies and gives back, whatever it is handed."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
import scipy.sparse

import dropcore
from dropcore import Key, Mask, _core
from dropcore._backends import cpu
from dropcore._backends.gradients import ProductGradient
from dropcore._ops.convolution import ConvolutionOp
from dropcore._ops.normalization import (
    batch_moments,
    batch_normalize,
    batch_normalize_backward,
    layer_normalize,
    layer_normalize_backward,
)
from dropcore.nn import GELU
from dropcore.updates import adam_, global_norm
from support.limits import NEEDS_LIMITS

F4, F8 = np.float32, np.float64
NEEDS_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")


def numbers(*shape, dtype=F4):
    return np.linspace(-1, 1, math.prod(shape), dtype=dtype).reshape(shape)


def misaligned(array):
    """The same numbers one byte behind where they could be read."""
    room = np.empty(array.nbytes + 1, np.uint8)[1:]
    copy = room.view(array.dtype).reshape(array.shape)
    copy[...] = array
    assert not copy.flags.aligned
    return copy


# --- every array of every driver -----------------------------------------------------------------

VECTORS = (1, 4, 6)
X, W, B = numbers(5, 4), numbers(4, 6), numbers(6)
GATES = numbers(2, 3, 8)
IMAGES, KERNEL = numbers(2, 4, 5, 3), numbers(2, 2, 3, 7)


def bits(n):
    return np.full(-(-n // 8), 0x5A, np.uint8)


def patches(images):
    return _core.Patches(images, (3, 4), (2, 2), (1, 1), (1, 1), (0, 0))


def windows():
    return _core.Windows((2, 4, 5, 3), (3, 4), (2, 2), (1, 1), (0, 0))


def product(out, a, b, rows, columns, bias, mask, a_mask):
    left = _core.Factor(a, bits=a_mask, bit_strides=(4, 1))
    right = _core.Factor(b, rows=rows, columns=columns)
    _core.product(out, left, right, bias=bias, bits=mask)


def convolution(out, images, w, bias, mask):
    _core.convolution(out, patches(images), w, bias=bias, bits=mask)


def lstm(w, gates, entering, kept, extra, lengths, state_bits, zone, h, c, y):
    core = _core.Recurrence(
        "lstm", _core.Factor(w), gates, entering, kept=kept, extra=extra, lengths=lengths,
        state_mask=(state_bits, 2.0), zone_h=(zone, 0.0),
    )  # fmt: skip
    core.forward(h, c, y)


def lstm_back(w, gates, entering, kept, extra, dy, dh, dc, dgates, dback):
    core = _core.Recurrence("lstm", _core.Factor(w), gates, entering, kept=kept, extra=extra)
    core.backward(dy, dh, dc, dgates, dback)


# driver -> (call, its arrays, which of them are written, which may be None)
DRIVERS = {
    "draw": (lambda bits: _core.draw(bits, 40, 1, 0, 0, 0, 1 << 31, 0), {"bits": bits(40)},
             "bits", ""),
    "draw_each": (lambda bits, thresholds: _core.draw_each(bits, thresholds, 1, 0, 0, 0, 0),
                  {"bits": bits(40), "thresholds": np.arange(40, dtype=np.uint64) << 26},
                  "bits", ""),
    "kept_at": (lambda kept, indices: _core.kept_at(kept, indices, 1, 0, 0, 0, 1 << 31, 0),
                {"kept": np.empty(5, np.uint8), "indices": np.arange(5)}, "kept", ""),
    "noise_words": (lambda out: _core.noise_words(out, 1, 0, 0, 0),
                    {"out": np.empty(5, np.uint32)}, "out", ""),
    "normal": (lambda out: _core.normal(out, 1, 0, 0, 0), {"out": np.empty(5, F8)}, "out", ""),
    "uniforms": (lambda out: _core.uniforms(out, 1, 0, 0, 0, 0), {"out": np.empty(5, np.uint32)},
                 "out", ""),
    "dropout": (lambda out, x: _core.dropout(out, x, 0, 1, 0, 0, 0, 1 << 31, 2.0, 0),
                {"out": np.empty((5, 4), F4), "x": X}, "out", ""),
    "apply": (lambda out, x, bits, scales: _core.apply(out, x, 0, bits, (4, 1), 1.0, scales),
              {"out": np.empty((5, 4), F4), "x": X, "bits": bits(20), "scales": numbers(5, 4,
               dtype=F8)}, "out", "scales"),
    "max_norm": (lambda w: _core.max_norm(w, VECTORS, 0.5), {"w": W.copy()}, "w", ""),
    "sgd": (lambda w, g, velocity: _core.sgd(w, g, velocity, .1, .9, False, VECTORS, 0.0),
            {"w": W.copy(), "g": W, "velocity": W.copy()}, "w velocity", "velocity"),
    "sgd block": (lambda w, g, rows, columns: _core.sgd(w, g, None, .1, 0, False, VECTORS, 0.0,
                                                        rows, columns),
                  {"w": W.copy(), "g": numbers(2, 3), "rows": np.array([-1, 0, 1, -1]),
                   "columns": np.array([0, 2, 5])}, "w", "rows"),
    "sgd product": (lambda w, x, dz: _core.sgd(w, (x, dz), None, .1, 0, False, VECTORS, 0.0),
                    {"w": W.copy(), "x": X, "dz": numbers(5, 6)}, "w", ""),
    "adam": (lambda w, g, m, v: _core.adam(w, g, m, v, 1, .1, .9, .99, 1e-8, VECTORS, 0.0),
             {"w": W.copy(), "g": W, "m": W.copy(), "v": W.copy()}, "w m v", ""),
    "rmsprop": (lambda w, g, square, mean, velocity: _core.rmsprop(
                    w, g, square, mean, velocity, .1, .9, .9, 1e-8, VECTORS, 0.0),
                {"w": W.copy(), "g": W, "square": W ** 2, "mean": np.zeros_like(W),
                 "velocity": W.copy()}, "w square mean velocity", "mean velocity"),
    "adagrad": (lambda w, g, square: _core.adagrad(w, g, square, .1, 1e-8, VECTORS, 0.0),
                {"w": W.copy(), "g": W, "square": W ** 2}, "w square", ""),
    "adadelta": (lambda w, g, square, change: _core.adadelta(w, g, square, change, .1, .9, 1e-8,
                                                             VECTORS, 0.0),
                 {"w": W.copy(), "g": W, "square": W ** 2, "change": W ** 2},
                 "w square change", ""),
    "sum_squares": (_core.sum_squares, {"array": W}, "", ""),
    "product": (product, {"out": np.empty((5, 6), F4), "a": X, "b": numbers(7, 9),
                          "rows": np.arange(4), "columns": np.arange(6), "bias": B,
                          "mask": bits(30), "a_mask": bits(20)}, "out",
                "rows columns bias mask a_mask"),
    "epilogue_backward": (lambda dz, y, dy, dbias: _core.epilogue_backward(dz, y, dy, 2.0, dbias),
                          {"dz": np.empty((5, 6), F4), "y": numbers(5, 6), "dy": numbers(5, 6),
                           "dbias": np.empty(6, F4)}, "dz dbias", "dz y"),
    "dropconnect_matmul": (lambda out, a, b, bits: _core.dropconnect_matmul(
                               "y", out, a, b, bits, 1, 0, 0, 0, 1 << 31, 0),
                           {"out": np.zeros((5, 6), F4), "a": X, "b": W, "bits": bits(120)},
                           "out", "bits"),
    "sparse_product": (_core.sparse_product,
                       {"out": np.zeros((2, 6), F4), "data": numbers(3),
                        "starts": np.array([0, 1, 3]), "columns": np.array([0, 1, 3]), "b": W},
                       "out", ""),
    "activate": (lambda x, out, dy: _core.activate("tanh", 0.0, x, out, dy),
                 {"x": X, "out": np.empty((5, 4), F4), "dy": X}, "out", "dy"),
    "softmax": (_core.softmax, {"x": X, "out": np.empty((5, 4), F4), "dy": X}, "out", "dy"),
    "batch_moments": (_core.batch_moments, {"x": X, "mean": np.empty(4), "variance": np.empty(4)},
                      "mean variance", ""),
    "batch_normalize": (lambda x, y, mean, variance, gamma, beta: _core.batch_normalize(
                            x, y, mean, variance, 1e-5, gamma, beta),
                        {"x": X, "y": np.empty((5, 4), F4), "mean": np.zeros(4),
                         "variance": np.ones(4), "gamma": X[0], "beta": X[1]}, "y", ""),
    "batch_sums": (lambda x, dy, mean, variance, sums: _core.batch_sums(
                       x, dy, mean, variance, 1e-5, sums),
                   {"x": X, "dy": X, "mean": np.zeros(4), "variance": np.ones(4),
                    "sums": np.empty(8)}, "sums", ""),
    "batch_normalize_back": (lambda x, dy, dx, mean, variance, gamma, sums:
                             _core.batch_normalize_back(x, dy, dx, mean, variance, 1e-5, gamma,
                                                        sums, 5.0),
                             {"x": X, "dy": X, "dx": np.empty((5, 4), F4), "mean": np.zeros(4),
                              "variance": np.ones(4), "gamma": X[0], "sums": np.zeros(8)},
                             "dx", ""),
    "layer_normalize": (lambda x, y, mean, scale, gamma, beta: _core.layer_normalize(
                            x, y, mean, scale, 1e-5, gamma, beta),
                        {"x": X, "y": np.empty((5, 4), F4), "mean": np.empty(5),
                         "scale": np.empty(5), "gamma": X[0], "beta": X[1]}, "y mean scale", ""),
    "layer_normalize_back": (_core.layer_normalize_back,
                             {"x": X, "dy": X, "dx": np.empty((5, 4), F4), "mean": np.zeros(5),
                              "scale": np.ones(5), "gamma": X[0], "dgamma": np.empty(4, F4),
                              "dbeta": np.empty(4, F4)}, "dx dgamma dbeta", ""),
    "sum_columns": (_core.sum_columns, {"a": X, "out": np.empty(4, F4)}, "out", ""),
    "lstm": (lstm, {"w": numbers(2, 8), "gates": GATES, "entering": np.empty((2, 3, 2), F4),
                    "kept": np.empty((2, 3, 2), F4), "extra": np.empty((2, 3, 2), F4),
                    "lengths": np.array([3, 2]), "state_bits": bits(4), "zone": bits(12),
                    "h": numbers(2, 2), "c": numbers(2, 2), "y": np.empty((2, 3, 2), F4)},
             "gates entering kept extra h c y", "lengths state_bits zone y"),
    "lstm backward": (lstm_back, {"w": numbers(2, 8), "gates": GATES, "entering": numbers(2, 3, 2),
                                  "kept": numbers(2, 3, 2), "extra": numbers(2, 3, 2),
                                  "dy": numbers(2, 3, 2), "dh": numbers(2, 2),
                                  "dc": numbers(2, 2), "dgates": np.empty((2, 3, 8), F4),
                                  # An LSTM's is dgates itself; the product reads another one.
                                  "dback": np.zeros((2, 3, 8), F4)},
                      "gates entering kept extra dh dc dgates dback", "dy"),
    "convolution": (convolution, {"out": np.empty((24, 7), F4), "images": IMAGES, "w": KERNEL,
                                  "bias": numbers(7), "mask": bits(168)}, "out", "bias mask"),
    "kernel_gradient": (lambda dw, images, dz: _core.kernel_gradient(dw, patches(images), dz),
                        {"dw": np.empty((2, 2, 3, 7), F4), "images": IMAGES,
                         "dz": numbers(24, 7)}, "dw", ""),
    "pool": (lambda y, x, argmax: _core.pool(y, x, windows(), argmax),
             {"y": np.empty((2, 3, 4, 3), F4), "x": IMAGES,
              "argmax": np.empty((2, 3, 4, 3), np.int32)}, "y argmax", "argmax"),
    "pool_back": (lambda dx, dy, argmax: _core.pool_back(dx, dy, windows(), argmax),
                  {"dx": np.empty((2, 4, 5, 3), F4), "dy": numbers(2, 3, 4, 3),
                   "argmax": np.zeros((2, 3, 4, 3), np.int32)}, "dx", "argmax"),
    "windows": (lambda lengths: _core.Windows((2, 1, 5, 3), (1, 4), (1, 2), (1, 1), (0, 0), False,
                                              lengths), {"lengths": np.array([5, 2])}, "",
                "lengths"),
}  # fmt: skip
EACH = [(name, array) for name, (_, arrays, _, _) in DRIVERS.items() for array in arrays]
OPTIONAL = [(name, array) for name, array in EACH if array in DRIVERS[name][3].split()]
ALIGNABLE = [(name, array) for name, array in EACH if DRIVERS[name][1][array].itemsize > 1]


def copies(driver):
    return {name: array.copy() for name, array in DRIVERS[driver][1].items()}


def is_plain(array):
    return array.dtype.kind == "f"


WRONG = {
    "objects": lambda a: np.ones(a.shape, object),
    "int16": lambda a: np.ones(a.shape, np.int16),
    "complex": lambda a: np.ones(a.shape, np.complex64),
    "byte order": lambda a: a.astype(a.dtype.newbyteorder()),
    "half": lambda a: np.ones(a.shape, np.float16),
    "bool": lambda a: np.ones(a.shape, bool),
    "text": lambda a: np.full(a.shape, "1234"),
    "no bytes": lambda a: np.empty(a.shape, "V0"),
    "dates": lambda a: np.zeros(a.shape, "M8[s]"),
    "same size": lambda a: np.zeros(a.shape, f"{'i' if is_plain(a) else 'f'}{a.dtype.itemsize}"),
    "a list": lambda a: a.tolist(),
    "a sparse array": lambda a: scipy.sparse.csr_array(np.ones((2, 2), F4)),
    "a structure": lambda a: np.zeros(a.shape, [("a", a.dtype)]),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(("driver", "name"), EACH, ids=" ".join)
def test_another_dtype_is_a_type_error(driver, name, wrong):
    call, arrays = DRIVERS[driver][0], copies(driver)
    array = arrays[name]
    if wrong in ("same size", "byte order") and array.itemsize == 1:
        bad = array.astype(np.int8)
    else:
        bad = WRONG[wrong](array)
    with pytest.raises(TypeError, match=r"must be|dtype of w|one dtype"):
        call(**arrays | {name: bad})


@pytest.mark.parametrize(
    ("driver", "name"), [each for each in EACH if each not in OPTIONAL], ids=" ".join
)
def test_what_is_required_is_not_none(driver, name):
    arrays = copies(driver) | {name: None}
    with pytest.raises(TypeError, match=r"got NoneType|needs kept and extra|the state is h"):
        DRIVERS[driver][0](**arrays)


@pytest.mark.parametrize(("driver", "name"), OPTIONAL, ids=" ".join)
def test_what_is_optional_may_be_none(driver, name):
    arrays = copies(driver) | {name: None}
    if name == "rows":  # without a list of rows the whole array is meant
        arrays |= {"g": W} if driver == "sgd block" else {"b": numbers(4, 9)}
    elif name == "columns":
        arrays["b"] = numbers(7, 6)
    DRIVERS[driver][0](**arrays)
    written = [array for key, array in arrays.items() if key in DRIVERS[driver][2].split()]
    assert all(array is None or np.isfinite(array).all() for array in written)


@pytest.mark.parametrize(("driver", "name"), ALIGNABLE, ids=" ".join)
def test_misaligned_arrays_are_copied_or_refused(driver, name):
    call, _, written, _ = DRIVERS[driver]
    wanted, arrays = copies(driver), copies(driver)
    call(**wanted)
    arrays[name] = misaligned(arrays[name])
    if name in written.split() and driver != "apply":
        with pytest.raises(ValueError, match="is misaligned"):
            call(**arrays)
        return
    call(**arrays)
    for key in written.split():
        np.testing.assert_array_equal(arrays[key], wanted[key])


@pytest.mark.parametrize(("driver", "name"), EACH, ids=" ".join)
def test_read_only_arrays_are_read_and_not_written(driver, name):
    call, _, written, _ = DRIVERS[driver]
    arrays = copies(driver)
    arrays[name].flags.writeable = False
    if name in written.split():
        with pytest.raises(ValueError, match="is read-only"):
            call(**arrays)
    else:
        call(**arrays)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: _core.epilogue_backward(None, None, numbers(6), 1.0, np.empty(6, F4)),
         "dy must have 2 axes, got 1"),
        (lambda: _core.dropconnect_matmul("y", np.zeros((5, 6), F4), numbers(4), W, None, 1, 0, 0,
                                          0, 1 << 31, 0), "a must have 2 axes, got 1"),
        (lambda: _core.sparse_product(np.zeros(6, F4), X, np.arange(2), np.arange(1), W),
         "out must have 2 axes, got 1"),
        (lambda: _core.softmax(np.float32(1), np.empty((), F4)), "an axis to run along"),
        (lambda: _core.activate("tanh", 0.0, X, np.empty(3, F4)),
         "out must have at least 20 elements, got 3"),
        (lambda: _core.sum_squares(X.T), "array must be contiguous"),
        (lambda: _core.sgd(numbers(24), (X, numbers(5, 6)), None, .1, 0, False, (1, 4, 6), 0.0),
         "w must have 2 axes, got 1"),
    ],
)  # fmt: skip
def test_shapes_are_checked_before_they_are_read(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_a_block_of_an_empty_weight():
    w = np.empty((0, 3), F4)
    rows = np.empty(0, np.int64)
    assert _core.sgd(w, np.empty((0, 3), F4), None, 0.1, 0, False, (0, 3, 1), 0.0, rows, rows) == 0
    assert _core.sgd(w.T.copy(), w, None, 0.1, 0, False, (3, 0, 1), 0.0, rows, rows) == 0


def test_dropout_fast_leaves_the_rest_to_others():
    for x in (np.empty(3, "V0"), np.ones(3, object), np.ones(3, ">f4"), misaligned(numbers(3))):
        assert _core.dropout_fast(x, None, 0.5, 1, 0, np.empty_like(x)) is None


# --- the same from outside -----------------------------------------------------------------------


def test_functions_of_arrays_refuse_other_dtypes():
    whole = np.arange(12).reshape(4, 3)
    with pytest.raises(TypeError, match="x must be an array of float32 or float64, got int64"):
        batch_moments(whole)
    one = np.ones(3)
    with pytest.raises(TypeError, match="got object"):
        layer_normalize(np.ones((2, 3), object), one, one, epsilon=1e-5)
    with pytest.raises(TypeError, match="one dtype, got float64 and float32"):
        ProductGradient(np.ones((2, 3)), np.ones((2, 4), F4)).dense()
    with pytest.raises(TypeError, match="got int64"):
        ProductGradient(np.ones((2, 3)), np.ones((2, 4), np.int64)).dense()
    with pytest.raises(TypeError, match="got complex64"):
        global_norm([np.full(4, 3 + 4j, np.complex64)])
    with pytest.raises(TypeError, match="expects an array, got csr_array"):
        GELU()(scipy.sparse.csr_array(np.ones((2, 3), F4)))


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (None, "got object from None$"),
        (scipy.sparse.csr_array(np.ones((2, 3), F4)), r"from a csr_array; use \.toarray\(\)$"),
        ({"a": 1.0}, "got object from a dict$"),
        (np.ones(3, object), r"got object; use \.astype\(np\.float32\), if all elements are num"),
        (np.ones(3, int), r"got int64; use \.astype\(np\.float32\)$"),
        (np.ones(3, np.complex64), "got complex64$"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_what_is_no_array_of_numbers_is_named(x, text):
    with pytest.raises(TypeError, match=f"x must be float32, float64, .*{text}"):
        dropcore.dropout(x, 0.5, key=1)


def test_a_key_that_is_an_array_does_not_fill_the_message():
    with pytest.raises(TypeError, match=r"Key: key must be .* of type ndarray$") as caught:
        dropcore.dropout(np.ones(3), 0.5, key=np.ones((200, 200)))
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize("missing", ["g", "mean", "square"])
def test_an_optimiser_needs_its_states(missing):
    w = np.ones((3, 4), F4)
    states = {"g": w.copy(), "mean": w.copy(), "square": w.copy()} | {missing: None}
    with pytest.raises(TypeError, match=missing):
        adam_(w, **states, step=1)
    assert (w == 1).all()


@pytest.mark.parametrize("dtype", [F4, F8])
def test_misaligned_input_gives_the_results_of_a_copy(dtype):
    x, w, bias = (
        numbers(50, 40, dtype=dtype),
        numbers(40, 30, dtype=dtype),
        numbers(30, dtype=dtype),
    )
    y_mask, x_mask = Mask((50, 30), 0.5, key=1), Mask((1, 40), 0.5, key=2)
    wanted = dropcore.masked_matmul(x, w, bias, x_mask=x_mask, y_mask=y_mask)
    found = dropcore.masked_matmul(*map(misaligned, (x, w, bias)), x_mask=x_mask, y_mask=y_mask)
    np.testing.assert_array_equal(found, wanted)
    dy = numbers(50, 30, dtype=dtype)
    wanted = dropcore.masked_matmul_backward(dy, x, w, x_mask=x_mask, y_mask=y_mask)
    found = dropcore.masked_matmul_backward(
        *map(misaligned, (dy, x, w)), x_mask=x_mask, y_mask=y_mask
    )
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="out is misaligned"):
        dropcore.masked_matmul(x, w, out=misaligned(dy))
    for layer in (GELU(), dropcore.nn.ReLU(), dropcore.nn.Softmax()):
        np.testing.assert_array_equal(layer(misaligned(x)), layer(x))
    out = misaligned(x)
    dropcore.dropout(x, 0.5, key=3, out=out)
    np.testing.assert_array_equal(out, dropcore.dropout(x, 0.5, key=3))
    rows = misaligned(x)
    dropcore.max_norm_(rows, 0.5, axis=1)
    dropcore.max_norm_(x, 0.5, axis=1)
    np.testing.assert_array_equal(rows, x)


# --- masks ---------------------------------------------------------------------------------------


def test_a_scale_may_be_an_integer():
    x = numbers(6, 8)
    for shape in ((6, 8), (1, 8), (6, 1)):
        mask = Mask(shape, 0.5, key=7)
        for two in (2, np.int64(2), np.float32(2)):
            twin = mask.rescaled(two)
            assert type(twin.scale) is float
            for array in (x, x[:, ::-1], np.asfortranarray(x)):
                wanted = np.where(mask.to_bool(), array * 2, 0)
                np.testing.assert_array_equal(dropcore.dropout(array, mask=twin), wanted)
    mask = Mask((6, 8), 0.5, key=7).rescaled(2)
    w = numbers(8, 3)
    np.testing.assert_array_equal(
        dropcore.masked_matmul(x, w, x_mask=mask),
        dropcore.masked_matmul(x, w, x_mask=mask.rescaled(2.0)),
    )
    each = mask.rescaled(np.arange(8))
    wanted = np.where(mask.to_bool(), x * np.arange(8), 0)
    np.testing.assert_allclose(dropcore.dropout(x, mask=each), wanted, rtol=1e-6)


def test_a_mask_from_bits_owns_them():
    bits = np.array([255], np.uint8)
    mask = Mask.from_packed(bits, (3,))
    np.testing.assert_array_equal(mask.packed(), [7])
    bits[0] = 0
    np.testing.assert_array_equal(mask.to_bool(), [True] * 3)
    assert Mask.from_packed(np.empty(0, np.uint8), (0, 3)).packed().size == 0


# --- large numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1])
def test_max_norm_of_the_largest_numbers(axis):
    for large, bound in [(1e300, 1e-30), (1.7e308, 1e-300), (1e150, 1e-308), (3e-300, 1e-310)]:
        w = np.full((3, 3), 0.0)
        w[:2, :2] = large
        w[2, 2] = bound / 2
        dropcore.max_norm_(w, bound, axis=axis)
        np.testing.assert_allclose(w[:2, :2], bound / math.sqrt(2), rtol=1e-14, atol=5e-324)
        assert w[2, 2] == bound / 2
        again = w.copy()
        dropcore.max_norm_(w, bound, axis=axis)
        np.testing.assert_array_equal(w, again)


@pytest.mark.parametrize("deviation", [1e-3, 1.0, 1e18, 1e22, 1e30, 1e37])
def test_batch_normalisation_of_any_deviation(deviation):
    rng = np.random.default_rng(3)
    x = (rng.normal(size=(40, 5)) * deviation).astype(F4)
    dy, gamma = rng.normal(size=(40, 5)).astype(F4), rng.normal(size=5).astype(F4)
    moments = batch_moments(x)
    dx, dgamma, _ = batch_normalize_backward(dy, x, moments, gamma, epsilon=0.0)
    exact = x.astype(F8)
    h = (exact - exact.mean(0)) / exact.std(0)
    wanted = gamma / exact.std(0) * (dy - dy.mean(0, F8) - h * (dy * h).mean(0))
    np.testing.assert_allclose(dx, wanted, rtol=1e-4, atol=1e-5 * abs(wanted).max())
    np.testing.assert_allclose(dgamma, (dy * h).sum(0), rtol=1e-4, atol=1e-4)
    y = batch_normalize(x, moments.mean, moments.variance, gamma, gamma, epsilon=0.0)
    np.testing.assert_allclose(y, h * gamma + gamma, rtol=1e-5, atol=1e-5)


def test_normalisation_of_numbers_whose_differences_overflow():
    x = np.array([[-3.4e38, 3.4e38, 3.4e38, 3.4e38]] * 2, F4)
    one, zero = np.ones(4, F4), np.zeros(4, F4)
    h = np.array([[-3, 1, 1, 1]] * 2) / math.sqrt(3)
    y, mean, scale = layer_normalize(x, one, zero, epsilon=1e-5)
    np.testing.assert_allclose(y, h, rtol=1e-6)
    dy = np.array([[1, 2, -1, 0.5], [0, 3, 1, 1]], F4)
    dx, dgamma, dbeta = layer_normalize_backward(dy, x, mean, scale, one)
    wanted = (dy - dy.mean(1, keepdims=True) - h * (dy * h).mean(1, keepdims=True)) * scale[:, None]
    np.testing.assert_allclose(dx, wanted, rtol=1e-5, atol=3e-45)
    np.testing.assert_allclose(dgamma, (dy * h).sum(0), rtol=1e-6)
    np.testing.assert_allclose(dbeta, dy.sum(0))

    columns = np.ascontiguousarray(x.T)
    gamma, beta = np.array([1, 2], F4), np.array([0, 1], F4)
    moments = batch_moments(columns)
    y = batch_normalize(columns, moments.mean, moments.variance, gamma, beta, epsilon=1e-5)
    np.testing.assert_allclose(y, h.T * gamma + beta, rtol=1e-6)
    dx, dgamma, dbeta = batch_normalize_backward(
        np.ascontiguousarray(dy.T), columns, moments, gamma, epsilon=1e-5
    )
    np.testing.assert_allclose(dx, wanted.T * gamma, rtol=1e-5, atol=3e-45)
    np.testing.assert_allclose(dgamma, (dy * h).sum(1), rtol=1e-6)
    np.testing.assert_allclose(dbeta, dy.sum(1))


@pytest.mark.parametrize("stride", [2000, 2**31 - 1, 2**40])
def test_a_convolution_has_no_more_phases_than_pixels(stride):
    x, w = numbers(2, 8, 8, 3, dtype=F8), numbers(3, 3, 3, 4, dtype=F8)
    op = ConvolutionOp(x, w, stride=stride)
    assert op.y.shape == (2, 1, 1, 4)
    dy = numbers(2, 1, 1, 4, dtype=F8)
    dx, _, _ = op.backward(dy)
    wanted = np.zeros_like(x)
    wanted[:, :3, :3] = np.einsum("bn,hwcn->bhwc", dy[:, 0, 0], w)
    np.testing.assert_allclose(dx, wanted, atol=1e-15)


# --- memory, stacks and teams --------------------------------------------------------------------


def test_release_memory_gives_back_what_waits():
    dropcore.release_memory()
    room = _core.PooledBuffer(1 << 20)
    assert dropcore.release_memory() == 0
    del room
    dropcore.masked_matmul(np.ones((300, 200), F4), np.ones((200, 300), F4))
    waiting = _core.waiting_bytes()
    assert waiting >= 1 << 20
    assert dropcore.release_memory() > waiting  # scratch, too
    assert _core.waiting_bytes() == 0
    assert dropcore.release_memory() == 0


def test_threads_share_the_memory_of_arrays():
    """Each block has one owner, whoever takes, gives back and empties meanwhile."""
    wrong = []

    def work(k):
        rng = np.random.default_rng(k)
        for i in range(3000):
            room = np.frombuffer(_core.PooledBuffer(int(rng.integers(1, 40000))), np.uint8)
            room[:] = k
            if i % 50 == 0:
                _core.release_pool()
            if not (room == k).all():
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def in_new_process(code, **environ):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=os.environ | {"PYTHONWARNINGS": "default"} | environ,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@NEEDS_LIMITS
def test_memory_that_waits_is_given_back_before_memory_runs_out():
    done = in_new_process(
        """
        import resource
        import numpy as np
        import dropcore
        from dropcore import _core

        dropcore.set_num_threads(1)
        rooms = [_core.PooledBuffer(100 << 20) for _ in range(4)]
        del rooms
        assert _core.waiting_bytes() >= 400 << 20
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        limit = used + (50 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        if resource.getrlimit(resource.RLIMIT_AS)[0] != limit:
            raise SystemExit("ignored")
        room = _core.PooledBuffer(300 << 20)
        assert _core.waiting_bytes() == 0
        try:
            _core.PooledBuffer(1 << 40)
        except MemoryError:
            print("done")
        """
    )
    if done.stderr.strip() == "ignored":
        pytest.skip("limits of the address space are ignored here, as by qemu-user")
    assert done.stdout.strip() == "done", done.stderr


EVERYTHING = """
    import numpy as np, dropcore
    from dropcore import Mask, _core, noise

    {first}
    x = np.ones((2000, 2000), np.float32)
    dropcore.dropout(x, 0.3, key=1)
    dropcore.dropout(x.T, mask=Mask((2000, 2000), 0.3, key=1))
    dropcore.dropout(x.astype(float)[:, ::2], mask=Mask((2000, 1), 0.3, key=1))
    Mask((2000, 2000), np.linspace(0, 1, 2000), key=1).packed()
    noise.normal((2000, 1000), key=1, dtype=np.float64)
    noise.normal((2000, 1000), key=1)
    few = x[:300]
    dropcore.masked_matmul(few, x, x_mask=Mask((1, 2000), 0.5, key=1))
    dropcore.masked_matmul(few, x.T, x_mask=Mask((300, 2000), 0.5, key=1))
    dropcore.max_norm_(x, 1.0, axis=0)
    print(dropcore.get_num_threads(), _core.last_team_size())
"""


@NEEDS_LINUX
@pytest.mark.skipif(not _core.has_openmp(), reason="built without OpenMP")
def test_small_stacks_mean_one_thread():
    done = in_new_process(
        EVERYTHING.format(first="dropcore.set_num_threads(2)"), OMP_STACKSIZE="16K"
    )
    assert done.stdout.split() == ["1", "1"], done.stderr
    assert "OMP_STACKSIZE" in done.stderr
    assert "dropcore runs on one thread" in done.stderr
    for enough in ("64K", " 96 k ", "70000B", "1M", "1g", "64", "what"):
        done = in_new_process(
            EVERYTHING.format(first="dropcore.set_num_threads(2)"), OMP_STACKSIZE=enough
        )
        assert done.stdout.split() == ["2", "2"], (enough, done.stderr)
        assert "dropcore runs" not in done.stderr


@NEEDS_LIMITS
@pytest.mark.skipif(not _core.has_openmp(), reason="built without OpenMP")
def test_a_team_fits_into_the_address_space():
    done = in_new_process(
        EVERYTHING.format(
            first="import resource; resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30)); "
            "dropcore.set_num_threads(4096)"
        )
    )
    assert done.returncode == 0, done.stderr
    threads, team = map(int, done.stdout.split())
    assert 1 <= team <= threads <= 128


def test_an_index_and_a_packed_mask_end_with_their_arrays():
    x = np.ones(8, F4)
    with pytest.raises(ValueError, match="bits must have at least 1 elements, got 0"):
        _core.apply(np.empty_like(x), x, 0, np.empty(0, np.uint8), (1,), 1.0, None)
    with pytest.raises(IndexError, match=r"kept_columns: index 3 is outside \[0, 3\)"):
        _core.sgd(np.ones((2, 3), F4), np.ones((1, 1), F4), None, 0.1, 0.0, False, (2, 3, 1), 0.0,
                  np.array([0, -1]), np.array([3]))  # fmt: skip


@pytest.mark.parametrize("offset", [0, 1, 127, 128, 2**40 + 5])
def test_scattered_decisions_are_those_of_the_mask(offset):
    mask = Mask((1000,), keep=0.3, key=Key(5, stream=2, step=9), offset=offset)
    indices = np.random.default_rng(1).integers(0, 1000, 300)
    kept = np.empty(300, np.uint8)
    cpu.kept_at(kept, indices, mask.key, mask.domain, mask.threshold, mask.offset)
    assert np.array_equal(kept.astype(bool), mask.to_bool()[indices])
