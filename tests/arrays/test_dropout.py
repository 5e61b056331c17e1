"""dropout and dropout_backward as a user calls them; the bits themselves: tests/contract."""

from __future__ import annotations

import copy
import pickle
import sys

import numpy as np
import pytest

import dropcore
from dropcore import Key, Mask, _core, dropout, dropout_backward, reference
from support.arrays import assert_same_bits, strided, unaligned

KEY = Key(11, stream=3, step=5)
RNG = np.random.default_rng(0)


def expected(x, mask):
    return reference.dropout(x, mask.to_bool(), mask.scale)


X = RNG.normal(size=(6, 40, 33)).astype(np.float32)
VIEWS = {
    "contiguous": lambda a: a,
    "transposed": lambda a: a.T,
    "every other": lambda a: a[:, ::2, ::3],
    "backwards": lambda a: a[::-1, :, ::-1],
    "cut": lambda a: a[1:, 3:37, 1:-2],
    "swapped": lambda a: a.swapaxes(0, 1),
    "repeated": lambda a: np.broadcast_to(a[:, :1, :], a.shape),
    "fortran": np.asfortranarray,
    "one column": lambda a: a[:, :, 5:6],
    "newaxis": lambda a: a[:, None, :, 7],
}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_strides_and_read_only(name, dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    x = VIEWS[name](X.astype(dtype))
    x.flags.writeable = False
    before = x.tobytes()
    for keep in (0.3, 0.5):
        mask = Mask(x.shape, keep=keep, key=KEY, offset=77)
        y = dropout(x, keep=keep, key=KEY, offset=77)
        assert_same_bits(y, expected(x, mask))
        assert_same_bits(dropout(x, mask=mask), y)
        given = Mask.given(mask.to_bool(), keep=keep)
        assert_same_bits(dropout(x, mask=given), y)
        packed = Mask.from_packed(mask.packed(), mask.shape, keep=keep)
        assert_same_bits(dropout_backward(x, mask=packed), y)
        out = np.full((*x.shape, 2), 7, x.dtype)[..., 0]
        assert dropout(x, mask=mask, out=out) is out
        assert_same_bits(np.ascontiguousarray(out), y)
    assert x.tobytes() == before


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (1, 1), (5,)])
def test_small_shapes(shape):
    x = np.full(shape, 3.0, np.float32)
    y = dropout(x, 0.5, key=1)
    assert y.shape == shape
    assert y.dtype == np.float32
    assert_same_bits(y, expected(x, Mask(shape, 0.5, key=1)))
    assert dropout(x, 0.0, key=1).tobytes() == x.tobytes()
    assert not dropout(x, 1.0, key=1).any()


def test_in_place_equals_out_of_place():
    for size in (1, 127, 128, 129, 4095, 4097, 300_000):
        x = RNG.normal(size=size).astype(np.float32)
        y = dropout(x, 0.3, key=9)
        assert not np.shares_memory(x, y)
        z = x.copy()
        assert dropout(z, 0.3, key=9, out=z) is z
        assert_same_bits(z, y)


def test_dropped_is_selected_away_and_kept_is_not_flushed():
    x = np.array([np.nan, np.inf, -np.inf, -1.0, 1e-42, -0.0] * 50, np.float32)
    y = dropout(x, 0.5, key=4)
    kept = Mask(x.shape, 0.5, key=4).to_bool()
    assert (y[~kept].view(np.uint32) == 0).all()
    assert np.isnan(y[kept & np.isnan(x)]).all()
    small = kept & (x == np.float32(1e-42))
    assert small.any()
    assert (y[small] == np.float32(1e-42) * np.float32(2)).all()
    zero = kept & (x == 0)
    assert np.signbit(y[zero]).all()


def test_the_fast_path_leaves_alone_what_is_not_plain():
    """It reads and writes whole numbers at their own addresses, and says so where it does not."""
    x = X[0].copy()
    for dtype in (np.float32, np.float64, np.float16):
        given = x.astype(dtype)
        for source, target in (
            (unaligned(given), given.copy()),
            (given, unaligned(given)),
            (strided(given), given.copy()),
            (given, given[:-1].copy()),
            (given, given.astype(np.float32 if dtype != np.float32 else np.float64)),
        ):
            before = target.copy()
            assert _core.dropout_fast(source, None, 0.5, 1, 0, target) is None
            np.testing.assert_array_equal(target, before)
        found = np.empty_like(given)
        assert _core.dropout_fast(given, None, 0.5, 1, 0, found) is found
        assert_same_bits(found, dropout(unaligned(given), 0.5, key=1))
    # NumPy gives what is not aligned a format of its own, other buffers do not.
    odd = memoryview(bytearray(4 * 10 + 1))[1:].cast("f")
    assert odd.format == memoryview(np.zeros(10, np.float32)).format
    plain = np.zeros(10, np.float32)
    assert _core.dropout_fast(odd, None, 0.5, 1, 0, plain) is None
    calls = [
        (None, None, 1, 0), (0.5, 0.5, 1, 0), (2.0, None, 1, 0), (np.nan, None, 1, 0),
        (1, None, 1, 0), (None, -0.5, 1, 0), (0.5, None, -1, 0),
        (0.5, None, 1 << 64, 0), (0.5, None, 1.0, 0),
        (0.5, None, Key(1, domain=2), 0), (0.5, None, 1, -1), (0.5, None, 1, 1 << 63),
        (0.5, None, 1, 1.0),
    ]  # fmt: skip
    for rate, keep, key, offset in calls:
        assert _core.dropout_fast(plain, rate, keep, key, offset, None) is None


def test_a_plain_call_is_one_frame_away_from_the_core():
    frames = []
    x = np.ones(10, np.float32)
    sys.setprofile(lambda frame, event, _: frames.append(frame.f_code) if event == "call" else None)
    try:
        dropout(x, 0.5, key=7)
    finally:
        sys.setprofile(None)
    own = [code.co_name for code in frames if "dropcore" in code.co_filename]
    assert own == ["dropout"]


def test_shared_axes_are_one_decision():
    x = np.ones((4, 5, 6), np.float32)
    for axes, shape in [(0, (1, 5, 6)), (1, (4, 1, 6)), ((0, 2), (1, 5, 1)), (-1, (4, 5, 1)),
                        ((0, 1, 2), (1, 1, 1))]:  # fmt: skip
        y = dropout(x, 0.5, key=KEY, shared_axes=axes)
        mask = Mask(shape, 0.5, key=KEY)
        assert_same_bits(y, np.broadcast_to(np.float32(2) * mask.to_bool(), x.shape).copy())
        assert_same_bits(dropout(x, mask=mask), y)


@pytest.mark.parametrize("shape", [(7,), (4, 1), (4, 7), (1, 7), (1, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_arrays_of_rates(shape, dtype):
    keep = np.linspace(0.0, 1.0, int(np.prod(shape))).reshape(shape)
    x = RNG.normal(size=(4, 7)).astype(dtype)
    mask = Mask((4, 7), keep=keep, key=KEY)
    kept = reference.decisions((4, 7), keep, seed=11, stream=3, step=5)
    assert (mask.to_bool() == kept).all()
    y = dropout(x, keep=keep, key=KEY)
    scale = reference.scale(keep)
    assert_same_bits(y, reference.dropout(x, kept, np.broadcast_to(scale, (4, 7))))
    assert_same_bits(dropout(x, mask=mask), y)
    assert_same_bits(np.ascontiguousarray(dropout(x.T, mask=Mask.given(kept.T, keep=np.broadcast_to(
        keep, (4, 7)).T)).T), y)  # fmt: skip


def test_thresholds_round_half_to_even():
    unit = 2.0**-32
    keeps = [0.0, unit / 2, unit, 1.5 * unit, 2.5 * unit, np.nextafter(unit / 2, 1), 1e-4, 0.1,
             1 / 3, 0.5, 0.5 + 0.5 * unit, 0.5 + 1.5 * unit, 0.9, 1 - unit, 1 - unit / 2,
             1 - 0.75 * unit, np.nextafter(1, 0), 1.0]  # fmt: skip
    for keep in keeps:
        assert _core.threshold(keep) == reference.threshold(keep), keep
    assert (Mask((len(keeps),), keep=keeps, key=1).threshold == reference.threshold(keeps)).all()


def test_runs_on_an_array():
    x = np.ones((3, 10), np.float32)
    mask = Mask((3, 10), 0.5, key=2, run=4)
    y = dropout(x, mask=mask)
    assert ((y == 2) == mask.to_bool()).all()
    assert (y[:, 0:4] == y[:, :1]).all()
    assert (y[:, 4:8] == y[:, 4:5]).all()
    assert (y[:, 8:] == y[:, 8:9]).all()
    one_bit_a_run = Mask((3, 3), 0.5, key=2)
    assert (mask.packed() == one_bit_a_run.packed()).all()
    assert (mask.to_bool()[:, ::4] == one_bit_a_run.to_bool()).all()


def test_mask_of_fewer_axes():
    x = RNG.normal(size=(3, 4, 5)).astype(np.float32)
    for shape in [(5,), (4, 1), (4, 5), (1,), ()]:
        mask = Mask(shape, 0.5, key=8)
        assert_same_bits(dropout(x, mask=mask), expected(x, mask))


def test_given_mask_scale_is_never_inferred():
    x = np.ones(8, np.float32)
    kept = np.arange(8) < 2
    assert (dropout(x, mask=Mask.given(kept)) == kept).all()
    assert (dropout(x, mask=Mask.given(kept, keep=0.25)) == 4 * kept).all()
    assert not dropout(x, mask=Mask.given(kept, keep=0.0)).any()
    assert (Mask.given(kept).indices() == [0, 1]).all()


def test_backward_is_the_same_selection():
    dy = RNG.normal(size=(64, 65)).astype(np.float32)
    mask = Mask(dy.shape, 0.2, key=KEY)
    dx = dropout_backward(dy, 0.2, key=KEY)
    assert_same_bits(dx, expected(dy, mask))
    assert_same_bits(dropout_backward(dy, mask=mask), dx)


def test_other_byte_order_is_taken():
    x = np.arange(9, dtype=">f4")
    assert (dropout(x, 0.5, key=1) == dropout(x.astype("f4"), 0.5, key=1)).all()


BAD = {
    "no key": (TypeError, "needs key=", lambda x: dropout(x, 0.5)),
    "rate and keep": (ValueError, "not both", lambda x: dropout(x, 0.5, keep=0.5, key=1)),
    "rate 256": (ValueError, "256", lambda x: dropout(x, 256, key=1)),
    "rate < 0": (ValueError, r"\[0, 1\]", lambda x: dropout(x, -1e-300, key=1)),
    "rate NaN": (ValueError, "nan", lambda x: dropout(x, float("nan"), key=1)),
    "rate str": (TypeError, "number", lambda x: dropout(x, "0.5", key=1)),
    "no rate": (TypeError, "dropout: give rate .* or keep", lambda x: dropout(x, key=7)),
    "no rate backward": (TypeError, "dropout_backward: give rate .* or keep",
                         lambda x: dropout_backward(x, key=7)),
    "no rate shared": (TypeError, "give rate", lambda x: dropout(x, key=7, shared_axes=0)),
    "masked x": (TypeError, r"x is a numpy.ma.MaskedArray, .*\.filled",
                 lambda x: dropout(np.ma.array(x), 0.5, key=1)),
    "masked dy": (TypeError, "dy is a numpy.ma.MaskedArray",
                  lambda x: dropout_backward(np.ma.array(x), 0.5, key=1)),
    "masked out": (TypeError, "out is a numpy.ma.MaskedArray",
                   lambda x: dropout(x, 0.5, key=1, out=np.ma.array(x))),
    "masked rate": (TypeError, "rate is a numpy.ma.MaskedArray",
                    lambda x: dropout(x, np.ma.array([0.5] * 4), key=1)),
    "masked kept": (TypeError, "kept is a numpy.ma.MaskedArray",
                    lambda x: Mask.given(np.ma.array(x > 0))),
    "masked bits": (TypeError, "bits is a numpy.ma.MaskedArray",
                    lambda x: Mask.from_packed(np.ma.array([1], np.uint8), 3)),
    "masked scale": (TypeError, "scale is a numpy.ma.MaskedArray",
                     lambda x: Mask(4, 0.5, key=1).rescaled(np.ma.array([1.0] * 4))),
    "bool scale": (TypeError, "rescaled: scale must be a number, got True",
                   lambda x: Mask(4, 0.5, key=1).rescaled(True)),
    "text scale": (TypeError, "must be a number, got '2'",
                   lambda x: Mask(4, 0.5, key=1).rescaled("2")),
    "no scale": (TypeError, "must be a number, got None",
                 lambda x: Mask(4, 0.5, key=1).rescaled(None)),
    "NaN scale": (ValueError, "scale must be finite, got nan",
                  lambda x: Mask(4, 0.5, key=1).rescaled(float("nan"))),
    "infinite scales": (ValueError, "scale must be finite, got .*inf",
                        lambda x: Mask(4, 0.5, key=1).rescaled([1.0, 2.0, np.inf, 1.0])),
    "bool scales": (TypeError, "array of numbers, got dtype bool",
                    lambda x: Mask(4, 0.5, key=1).rescaled(np.ones(4, bool))),
    "complex scales": (TypeError, "array of numbers, got dtype complex128",
                       lambda x: Mask(4, 0.5, key=1).rescaled(np.full(4, 1j))),
    "axis float": (TypeError, "shared_axes must be an integer or several, got 0.5",
                   lambda x: dropout(x, 0.5, key=1, shared_axes=0.5)),
    "rate bool": (TypeError, "number", lambda x: dropout(x, True, key=1)),
    "one bad rate": (ValueError, "1.5", lambda x: dropout(x, np.array([0.5, 1.5, 0, 0]), key=1)),
    "rates enlarge": (ValueError, "broadcast",
                      lambda x: dropout(x, np.full((2, 3, 4), 0.5), key=1)),
    "mask and key": (ValueError, "either", lambda x: dropout(x, key=1, mask=Mask(4, 0.5, key=1))),
    "mask and rate": (ValueError, "either", lambda x: dropout(x, 0.1, mask=Mask(4, 0.5, key=1))),
    "mask and offset": (ValueError, "either",
                        lambda x: dropout(x, offset=4, mask=Mask(4, 0.5, key=1))),
    "mask and axes": (ValueError, "either",
                      lambda x: dropout(x, shared_axes=0, mask=Mask(4, 0.5, key=1))),
    "mask is an array": (TypeError, r"Mask\.given", lambda x: dropout(x, mask=np.ones(4, bool))),
    "mask too wide": (ValueError, r"\(5,\)", lambda x: dropout(x, mask=Mask(5, 0.5, key=1))),
    "mask too deep": (ValueError, "broadcast",
                      lambda x: dropout(x, mask=Mask((1, 3, 4), 0.5, key=1))),
    "negative offset": (ValueError, "offset", lambda x: dropout(x, 0.5, key=1, offset=-1)),
    "offset too large": (ValueError, r"2\*\*63",
                         lambda x: dropout(x, 0.5, key=1, offset=2**63 - 11)),
    "float offset": (TypeError, "offset", lambda x: dropout(x, 0.5, key=1, offset=1.0)),
    "axis": (ValueError, "axes", lambda x: dropout(x, 0.5, key=1, shared_axes=2)),
    "axis twice": (ValueError, "twice", lambda x: dropout(x, 0.5, key=1, shared_axes=(0, -2))),
    "key": (TypeError, "key", lambda x: dropout(x, 0.5, key="seed")),
    "negative seed": (ValueError, "key", lambda x: dropout(x, 0.5, key=-1)),
    "stream": (ValueError, "stream", lambda x: dropout(x, 0.5, key=Key(1, stream=2**28))),
    "step": (ValueError, "step", lambda x: dropout(x, 0.5, key=Key(1, step=2**32))),
    "domain": (ValueError, "domain must be 0 .* or 2",
               lambda x: dropout(x, 0.5, key=Key(1, domain=9))),
    "integers": (TypeError, "float32", lambda x: dropout(x.astype(int), 0.5, key=1)),
    "bools": (TypeError, "float32", lambda x: dropout(x > 0, 0.5, key=1)),
    "complex": (TypeError, "bfloat16", lambda x: dropout(x * 1j, 0.5, key=1)),
    "objects": (TypeError, "float32", lambda x: dropout(x.astype(object), 0.5, key=1)),
    "text": (TypeError, "float32", lambda x: dropout(["a"], 0.5, key=1)),
    "out dtype": (ValueError, "dtype", lambda x: dropout(x, 0.5, key=1, out=np.empty((3, 4)))),
    "out shape": (ValueError, "shape", lambda x: dropout(x, 0.5, key=1, out=np.empty_like(x[1:]))),
    "out list": (TypeError, "numpy", lambda x: dropout(x, 0.5, key=1, out=[0.0])),
    "out repeats": (ValueError, "share",
                    lambda x: dropout(x, 0.5, key=1, out=np.lib.stride_tricks.as_strided(
                        np.zeros(4, np.float32), (3, 4), (0, 4)))),
    "given ints": (TypeError, "boolean", lambda x: Mask.given([0, 1, 1])),
    "given keep": (ValueError, r"\[0, 1\]", lambda x: Mask.given([True], keep=2)),
    "mask no rate": (TypeError, "rate", lambda x: Mask(4, key=1)),
    "mask shape": (TypeError, "integer", lambda x: Mask((2.0, 3), 0.5, key=1)),
    "mask negative": (ValueError, ">= 0", lambda x: Mask((-1,), 0.5, key=1)),
    "mask run": (ValueError, "run", lambda x: Mask(4, 0.5, key=1, run=0)),
    "packed size": (ValueError, "bytes", lambda x: Mask.from_packed(np.zeros(2, np.uint8), 17)),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_says_what_is_allowed(name):
    error, text, call = BAD[name]
    x = np.ones((3, 4), np.float32)
    with pytest.raises(error, match=text):
        call(x)
    assert (x == 1).all()


@pytest.mark.parametrize("axes", [
    0, [0], np.array([0]), np.array(0), np.int8(-3), iter((0,)), {0}, range(1), (0,),
], ids=repr)  # fmt: skip
def test_shared_axes_of_any_kind(axes):
    mask = Mask((1, *X.shape[1:]), 0.5, key=KEY)
    assert_same_bits(dropout(X, 0.5, key=KEY, shared_axes=axes), dropout(X, mask=mask))


@pytest.mark.parametrize("axes", [(), [], np.array([], int), (1, 2), np.array([2, -2])], ids=repr)
def test_shared_axes_none_or_several(axes):
    shape = X.shape if len(axes) == 0 else (len(X), 1, 1)
    y = dropout(X, mask=Mask(shape, 0.5, key=KEY))
    assert_same_bits(dropout(X, 0.5, key=KEY, shared_axes=axes), y)
    assert_same_bits(dropout_backward(X, 0.5, key=KEY, shared_axes=axes), y)


@pytest.mark.parametrize("rate", [0, 1, np.int64(1), np.float32(1)])
def test_rates_may_be_whole_numbers(rate):
    assert_same_bits(dropout(X, rate, key=KEY), X * np.float32(1 - rate) + 0)


def test_rescaled():
    """With an int for the scale, wherever a mask can meet an array."""
    for mask in (Mask(X.shape, 0.5, key=KEY), Mask((1, 1, 33), 0.5, key=KEY),
                 Mask(X.shape, 0.5, key=KEY, run=8), Mask((6, 1, 1), 0.5, key=KEY),
                 Mask.given(RNG.random(X.shape) < 0.5),
                 Mask(X.shape, np.full(33, 0.5), key=KEY)):  # fmt: skip
        wanted = np.where(np.broadcast_to(mask.to_bool(), X.shape), 2 * X, np.float32(0))
        for scale in (2, 2.0, np.int32(2), np.float32(2), np.full(mask.drawn_shape, 2)):
            twin = mask.rescaled(scale)
            assert np.all(np.asarray(twin.scale) == 2.0)
            assert np.asarray(twin.scale).dtype == np.float64
            assert np.array_equal(twin.to_bool(), mask.to_bool())
            assert_same_bits(dropout(X, mask=twin), wanted)
            assert_same_bits(np.ascontiguousarray(dropout(X[:, ::-1], mask=twin)),
                             np.where(mask.to_bool(), 2 * X[:, ::-1], np.float32(0)))  # fmt: skip
    x = X[0, :, :]
    for shape in ((40, 33), (1, 33), (33,), (40, 1)):
        mask = Mask(shape, 0.5, key=KEY)
        w = np.eye(33, dtype=np.float32)
        wanted = np.where(mask.to_bool(), 2 * x, np.float32(0))
        for where in ({"x_mask": mask.rescaled(2)}, {"y_mask": mask.rescaled(2)}):
            np.testing.assert_array_equal(dropcore.masked_matmul(x, w, **where), wanted)


def test_packed_bits_are_copied_and_padding_does_not_count():
    bits = np.array([255], np.uint8)
    mask = Mask.from_packed(bits, (3,))
    assert mask.packed().tolist() == [0b111]
    bits[0] = 0
    assert mask.to_bool().tolist() == [True, True, True]
    taken = mask.packed()
    taken[0] = 0
    assert mask.to_bool().all()
    assert Mask.from_packed(np.array([], np.uint8), 0).packed().size == 0
    kept = np.ones(3, bool)
    given = Mask.given(kept)
    kept[:] = False
    assert given.to_bool().all()


class Size(tuple):
    """As PyTorch's shapes are."""


@pytest.mark.parametrize("make", [
    lambda shape: Mask(shape, 0.5, key=1), lambda shape: Mask(shape, 0.5, key=1, run=2),
    lambda shape: Mask.from_packed(np.array([63], np.uint8), shape),
])  # fmt: skip
def test_a_shape_becomes_a_tuple_of_int(make):
    for shape in (Size((2, 3)), [2, 3], np.array([2, 3]), (np.int64(2), np.int8(3))):
        mask = make(shape)
        assert type(mask.shape) is tuple
        assert type(mask.drawn_shape) is tuple
        assert [type(n) for n in (*mask.shape, *mask.drawn_shape)] == [int] * 4
        assert mask.shape == (2, 3)
        copied = pickle.loads(pickle.dumps(mask))
        assert np.array_equal(copied.to_bool(), mask.to_bool())
        assert b"Size" not in pickle.dumps(mask)


def test_a_mask_cannot_be_changed():
    rates = np.linspace(0, 1, 4)
    mask = Mask((3, 4), rates, key=KEY)
    before = mask.to_bool()
    for name in ("shape", "key", "offset", "run", "domain", "scale", "threshold", "bits", "new"):
        with pytest.raises(AttributeError, match=f"Mask cannot be changed.* {name}"):
            setattr(mask, name, None)
    with pytest.raises(AttributeError, match="cannot be changed"):
        del mask.shape
    rates[:] = 0.5
    for array in (mask.scale, mask.threshold, Mask.given(before).bits):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 1
    assert np.array_equal(mask.to_bool(), before)
    assert copy.deepcopy(mask) is mask


def test_overlapping_and_read_only_out():
    x = np.arange(20, dtype=np.float32)
    before = x.copy()
    with pytest.raises(ValueError, match="overlaps"):
        dropout(x[:10], 0.5, key=1, out=x[5:15])
    with pytest.raises(ValueError, match="overlaps"):
        dropout(x[:10], 0.5, key=1, out=x[:10][::-1])
    assert (x == before).all()
    halves = np.zeros((2, 10), np.float32)
    dropout(halves[0] + 1, 0.5, key=1, out=halves[1])  # beside each other is not overlapping
    x.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        dropout(x, 0.5, key=1, out=x)


class OnGPU:
    @property
    def __cuda_array_interface__(self):
        return {"shape": (1,), "typestr": "<f4", "data": (0, True), "version": 3}


class BesideOnGPU:
    def __dlpack_device__(self):
        return 2, 0


@pytest.mark.parametrize("array", [OnGPU(), BesideOnGPU()])
def test_arrays_on_a_gpu_say_what_to_install(array, monkeypatch):
    from dropcore._backends.cuda import kernels

    monkeypatch.setitem(sys.modules, "cupy", None)  # as if it were not installed
    kernels.forget()
    with pytest.raises(ImportError, match=r"x is on a GPU: .*pip install cupy-cuda12x"):
        dropout(array, 0.5, key=1)


def test_threads_do_not_change_bits(threads, assert_team):
    x = np.random.default_rng(1).normal(size=(1500, 1001)).astype(np.float32)
    y = dropout(x, 0.3, key=KEY)
    assert_team()
    strided = dropout(x.T, mask=Mask.given(Mask(x.shape, 0.3, key=KEY).to_bool().T, keep=1 - 0.3))
    assert_team()
    assert_same_bits(np.ascontiguousarray(strided.T), y)
    dropcore.set_num_threads(1)
    assert_same_bits(dropout(x, 0.3, key=KEY), y)


@pytest.mark.slow
def test_more_than_2_31_elements():
    """4 GiB of float16, in place and from a view that repeats one number."""
    shape = (2**21, 1025)
    size = shape[0] * shape[1]
    assert size > 2**31
    x = np.ones(size, np.float16)
    dropout(x, 0.5, key=KEY, out=x)
    start = size - 70_000
    assert ((x[start:] == 2) == Mask((70_000,), 0.5, key=KEY, offset=start).to_bool()).all()
    wide = np.broadcast_to(np.float16(1), shape)
    units = Mask((1, 1025), 0.5, key=KEY)
    y = dropout(wide, mask=units, out=x.reshape(shape))
    assert ((y[-5:] == 2) == units.to_bool()).all()
    every = dropout(wide, 0.5, key=KEY, out=x.reshape(shape))
    tail = Mask((1, 1025), 0.5, key=KEY, offset=size - 1025)
    assert ((every[-1] == 2) == tail.to_bool()[0]).all()
