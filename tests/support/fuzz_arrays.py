"""Cases of the functions of arrays: masks, dropout, products, attention, max-norm, noise."""

from __future__ import annotations

import inspect
import math

import ml_dtypes
import numpy as np
import scipy.sparse

import dropcore
from dropcore import Key, Mask, reference
from support import fuzz
from support.arrays import assert_same_bits as same_bits
from support.arrays import norms
from support.fuzz import LIMIT, REAL, case, decisions, plain


def names_of(*names):
    return [f"dropcore.{name}" for name in names]


def first_parameter(function):
    return next(iter(inspect.signature(function).parameters))


def eps(dtype):
    return float(ml_dtypes.finfo(dtype).eps)


def within(found, wanted, bound, dtype=None):
    """Equal up to `bound`, elementwise; what is not finite must be equal."""
    assert isinstance(found, np.ndarray)
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted)
    assert found.shape == wanted.shape
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(found[~finite], wanted[~finite])
    errors = np.abs(found[finite] - wanted[finite])
    allowed = np.broadcast_to(bound, found.shape)[finite]
    worst = (errors - allowed).max(initial=0)
    assert not worst > 0, f"off by {errors.max()}, allowed are {allowed.max()}"


def assert_same_bits(found, wanted, **how):
    """An array, also without axes, with the bits that are wanted."""
    assert isinstance(found, np.ndarray)
    same_bits(found, np.asarray(wanted), **how)


# --- addresses and masks -------------------------------------------------------------------------


@case("dropcore.Key", share=30)
def key(draw, target):
    seed, low, high = draw.integer(0, 2**64 - 1), *(draw.integer(0, 2**32 - 1) for _ in "ab")
    fields = {
        "stream": draw.integer(0, 2**28 - 1),
        "step": draw.integer(0, 2**32 - 1),
        "domain": draw.choose((0, 2)),
    }
    wrong = {
        "seed": (*fuzz.NO_KEYS, None),
        "stream": (*fuzz.NO_INTEGERS, -1, 2**28, 10**30),
        "step": (*fuzz.NO_INTEGERS, -1, 2**32, 10**30),
        "domain": (*fuzz.NO_INTEGERS, -1, 1, 3, 16, 10**30),
    }
    kind = draw.choose((int, np.uint64))
    made = draw.call(target, {"seed": kind(seed)} | fields, wrong)
    if made is None:
        return
    assert (made.seed, made.stream, made.step, made.domain) == (seed, *fields.values())
    assert made == Key(seed, **fields)
    assert hash(made) == hash(Key(seed, **fields))
    assert eval(repr(made)) == made
    words = {"low": low, "high": high}
    wrong_words = (*fuzz.NO_INTEGERS, -1, 2**32, np.int8(-1))
    made = draw.call(target.from_words, words, dict.fromkeys(words, wrong_words))
    assert made is None or made.seed == high * 2**32 + low
    moved = draw.call(Key(seed, **fields).at, {"step": 3}, {"step": (1.0, -1, 2**32, "1", True)})
    assert moved is None or moved == Key(seed, **(fields | {"step": 3}))


@case("dropcore.Mask", share=120)
def mask(draw, target):
    kind = draw.choose(("constructor", "given", "from_packed", "use"))
    if kind == "use":
        return use_of_mask(draw)
    shape = draw.shape()
    given, keep = draw.keep(shape)
    no_shape = (
        b"ab",
        (-1,),
        (1.0,),
        ("3",),
        None,
        2.5,
        -1,
        [None],
        (True,),
        (2**62, 2**62, 2),
        Fuzzy(),
    )
    if kind == "given":
        kept = draw.view(shape, bool)
        kept[...] = draw.rng().random(shape) < 0.5
        draw.watch(kept)
        wrong = {
            "kept": (
                kept.astype(int),
                kept.astype(float),
                None,
                "kept",
                1,
                0.5,
                Fuzzy(),
                np.ma.array(kept, mask=True),
                [[True], [True, False]],
            ),
            "keep": no_rates_of(shape),
        }
        made = draw.call(target.given, {"kept": kept, "keep": keep}, wrong)
        bits, decided = reference.pack(kept), np.array(kept)
    elif kind == "from_packed":
        decided = draw.rng().random(shape) < 0.5
        bits = reference.pack(decided)
        dirty = bits.copy()
        if decided.size % 8:  # padding is ignored
            dirty[-1] |= 0xFF << decided.size % 8 & 0xFF
        wrong = {
            "bits": (
                bits.astype(np.int8),
                bits[:-1] if bits.size else np.zeros(1, np.uint8),
                "b",
                np.append(bits, bits[:1] if bits.size else 0),
                None,
                bits.astype(float),
                np.ma.array(bits, mask=True),
            ),
            "shape": (*no_shape, (decided.size + 8,)),
            "keep": no_rates_of(shape),
        }
        arguments = {"bits": draw.watch(dirty), "shape": shape, "keep": keep}
        made = draw.call(target.from_packed, arguments, wrong)
    else:
        run = draw.choose((1, 1, 2, 5, 10**30)) if shape else 1
        own = (*shape[:-1], -(-shape[-1] // run)) if shape else ()
        given, keep = draw.keep(own)
        key, fields = draw.key()
        offset = draw.offset(math.prod(own))
        arguments = {"shape": shape, "key": key, "offset": offset, "run": run} | given
        wrong = {
            "shape": no_shape,
            "key": (*fuzz.NO_KEYS, None),
            "offset": (*fuzz.NO_OFFSETS, LIMIT - math.prod(own) + 1),
            "run": (*fuzz.NO_INTEGERS, 0, -1),
            next(iter(given)): (*no_rates_of(own), None),
            ("keep", "rate")["keep" in given]: (0.5,),
        }
        made = draw.call(target, arguments, wrong)
        decided = decisions(shape, keep, **fields, offset=offset, run=run)
        drawn = decisions(own, keep, **fields, offset=offset)
        bits = reference.pack(drawn)
    if made is None:
        return None
    check_mask(made, shape, decided, bits)
    np.testing.assert_array_equal(np.asarray(made.scale), reference.scale(keep))
    draw.expect_unchanged()
    return None


class Fuzzy:
    """Says that it is an array, and is none."""

    dtype = "float32"
    shape = None

    def __repr__(self):
        return "Fuzzy()"


def no_rates_of(shape):
    """Wrong rates for a mask of that shape."""
    too_large = (
        np.full((2, *shape), 0.5),
        np.full((*shape[:-1], 1 + max(shape[-1:], default=0)), 0.5),
    )
    wrong = [*fuzz.NO_RATES, too_large[0], np.full(max(shape, default=0) * 2 + 3, 0.5)]
    if shape and shape[-1] > 1:
        wrong.append(too_large[1])
    if shape[-1:] == (0,):  # an array of no rates fits
        wrong.remove(())
    return wrong


def check_mask(made, shape, decided, bits):
    assert made.shape == shape
    assert made.size == math.prod(shape)
    assert_same_bits(made.packed(), bits)
    assert_same_bits(made.to_bool(), decided)
    assert_same_bits(made.indices(), np.flatnonzero(decided))
    assert made.packed() is not made.packed()
    repr(made)


def use_of_mask(draw):
    """The methods that make something else of a mask."""
    shape = draw.shape()
    made, kept, _ = draw.mask(shape)
    dtype = draw.dtype()
    wrong = {"dtype": ("int8", "c8", "?", "no such", Fuzzy(), 3.5, ">f4", np.longdouble, "O")}
    found = draw.call(made.to_array, {"dtype": dtype}, wrong)
    element = made.element_scale()
    if found is not None:
        ones = np.ones(made.shape, dtype)
        assert_same_bits(found, reference.dropout(ones, kept, element))
    other = draw.choose((0.0, -2.5, 1e300, 3))
    no_scale = (
        math.nan,
        math.inf,
        "1",
        None,
        1j,
        True,
        10**400,
        np.array([math.nan]),
        Fuzzy(),
        np.ones((2, *shape)),
        np.array(["a"]),
    )
    found = draw.call(made.rescaled, {"scale": other}, {"scale": no_scale})
    if found is not None:
        assert_same_bits(found.to_bool(), kept)
        assert found.scale == other


# --- dropout -------------------------------------------------------------------------------------


class DropoutCall:
    """Arguments of a dropout, what it keeps and its scale."""

    def __init__(self, draw, target):
        self.draw, self.target = draw, target
        self.name = first_parameter(target)
        shape = draw.shape()
        self.dtype = draw.dtype()
        self.x = draw.array(shape, self.dtype, odd=True)
        self.value = plain(self.x)
        if draw.integer(0, 2) == 0:
            mask, self.kept, _ = draw.mask(shape)
            self.scale = mask.element_scale()
            self.arguments = {"mask": mask}
            self.wrong = {
                "mask": (
                    self.kept,
                    True,
                    Mask((2, *shape), 0.5, key=1),
                    0.5,
                    "mask",
                    Mask((10007,), 0.5, key=1),
                ),
                "rate": (0.5, 0.0),
                "keep": (0.5,),
                "key": (7, Key(7)),
                "offset": (1, -1),
                "shared_axes": (0, (0,), "0"),
            }
        else:
            axes = draw.axes(len(shape)) if draw.flag() else ()
            shared = {axis % len(shape) for axis in axes}
            own = tuple(1 if axis in shared else n for axis, n in enumerate(shape))
            given, keep = draw.keep(own)
            key, fields = draw.key()
            offset = draw.offset(math.prod(own))
            self.kept = decisions(own, keep, **fields, offset=offset)
            self.scale = reference.scale(keep)
            self.arguments = {"key": key} | given
            if offset or draw.flag():
                self.arguments["offset"] = offset
            if axes or draw.flag():
                self.arguments["shared_axes"] = axes[0] if len(axes) == 1 and draw.flag() else axes
            self.wrong = {
                "key": (*fuzz.NO_KEYS, None),
                "offset": (*fuzz.NO_OFFSETS, LIMIT - math.prod(own) + 1),
                "shared_axes": (
                    len(shape),
                    -len(shape) - 1,
                    (0, 0),
                    0.0,
                    "a",
                    b"\0",
                    None,
                    [None],
                    (1.5,),
                    Fuzzy(),
                    True,
                    2**70,
                ),
                next(iter(given)): (*no_rates_of(own), None),
                ("keep", "rate")["keep" in given]: (0.5,),
                "mask": (Mask(shape, 0.5, key=1), self.kept),
            }
        self.wrong[self.name] = [*fuzz.no_floats(self.value), scipy.sparse.csr_array((3, 3))]
        self.wrong["out"] = list(wrong_outs(self.value))

    def output(self):
        """None, a separate array in any layout, or x itself."""
        x, kind = self.x, self.draw.choose(("none", "separate", "itself"))
        if kind == "separate":
            out = self.draw.view(x.shape, self.dtype)
            self.draw.watch(out)
        elif kind == "itself" and x.flags.writeable and x.dtype.isnative and 0 not in x.strides:
            out = x
        else:
            return None
        self.arguments["out"] = out
        return out

    def run(self):
        """The result, if the call was not to be refused."""
        out = self.output()
        found = self.draw.call(self.target, {self.name: self.x} | self.arguments, self.wrong)
        if found is None:
            return None
        self.draw.expect_unchanged([] if out is None else [out])
        if out is None:
            assert found.flags.c_contiguous
            assert found.flags.writeable
            assert not np.shares_memory(found, self.x)
        else:
            assert found is out
        return np.array(found)


def wrong_outs(value):
    yield from (None, "out", 0.5, value.tolist(), memoryview(bytearray(8)))
    yield np.empty((2, *value.shape), value.dtype)
    yield np.empty(value.size + 3, value.dtype)
    yield np.empty(value.shape, np.int32)
    yield np.empty(value.shape, np.float64 if value.dtype != np.float64 else np.float32)
    yield np.ma.array(value)
    frozen = value.copy()
    frozen.flags.writeable = False
    yield frozen
    if value.dtype.name != "bfloat16":
        yield np.empty(value.shape, value.dtype.newbyteorder())
    if max(value.shape, default=0) > 1 and value.size:
        yield np.lib.stride_tricks.as_strided(
            np.empty((), value.dtype), value.shape, (0,) * value.ndim
        )


@case(*names_of("dropout", "dropout_backward"), share=200)
def dropout(draw, target):
    if draw.integer(0, 9) == 0:
        return overlapping(draw, target, key=7, keep=0.5)
    call = DropoutCall(draw, target)
    call.wrong["out"] = [out for out in call.wrong["out"] if out is not None]
    found = call.run()
    if found is not None:
        wanted = reference.dropout(call.value, call.kept, call.scale)
        assert_same_bits(found, wanted, any_nan=True)
    return None


def overlapping(draw, target, **arguments):
    """`out` shares memory with x in part: refused, or right where they share no element."""
    n, shift = draw.choose((1, 2, 5, 127, 128, 129, 300)), draw.choose((1, 2, 3, 64))
    dtype = draw.dtype()
    memory = draw.watch(draw.numbers((2 * n + 2 * shift,), dtype))
    step = draw.choose((1, 2))
    x = memory[: step * n : step]
    out = memory[shift : shift + step * n : step]
    if draw.flag():
        x, out = out, x
    if draw.flag():
        x = x[::-1]
    value = x.copy()
    call = {first_parameter(target): x, "out": out} | arguments
    if np.shares_memory(x, out):
        draw.refuse(lambda: target(**call), "out overlaps")
        return
    wanted = target(value, **arguments)
    assert target(**call) is out
    draw.watch(out)
    assert_same_bits(out, wanted)
    assert_same_bits(x, value)


@case(*names_of("alpha_dropout", "alpha_dropout_backward"), share=100)
def alpha_dropout(draw, target):
    """Computed in float32 or wider: a few units in the last place of its largest term."""
    if draw.integer(0, 9) == 0:
        return overlapping(draw, target, key=7, keep=0.5)
    call = DropoutCall(draw, target)
    call.wrong["out"] = [out for out in call.wrong["out"] if out is not None]
    found = call.run()
    if found is None:
        return None
    scale = np.asarray(call.scale, np.float64)
    keep = np.where(scale > 0, 1 / np.where(scale > 0, scale, 1), 0)
    c = 1.7580993408473766
    with np.errstate(divide="ignore"):
        a = np.where(keep > 0, (keep * (1 + (1 - keep) * c**2)) ** -0.5, 0)
    if target is dropcore.alpha_dropout_backward:
        wanted = reference.dropout(call.value.astype(np.float64), call.kept, a)
        bound = 0.0
    else:
        kept = np.broadcast_to(call.kept, call.value.shape)
        with np.errstate(invalid="ignore"):
            wanted = reference.alpha_dropout(call.value, kept, keep)
            bound = 8 * a * (np.abs(np.where(kept, call.value.astype(np.float64), 0)) + 2)
    with np.errstate(all="ignore"):
        near = wanted.astype(call.dtype).astype(np.float64)
        tiny = float(ml_dtypes.finfo(call.dtype).smallest_subnormal)
        bound = (bound + 4 * np.abs(wanted)) * eps(call.dtype) + tiny
    within(found.astype(np.float64), near, np.broadcast_to(bound, near.shape))
    return None


# --- max-norm ------------------------------------------------------------------------------------


def no_axes(ndim):
    return (None, (), b"\0", ndim, -ndim - 1, (0, 0), 0.0, "0", (0.5,), Fuzzy(), 2**70, [None])


BOUNDS = (1e-3, 0.5, 1.0, 3.0, 100, 1e-30, 1e30, 1e300, math.inf, np.float32(2.0), 10**400)


@case("dropcore.max_norm_", share=120)
def max_norm_(draw, target):
    shape = draw.shape(least=1)
    dtype = draw.dtype()
    w = draw.view(shape, dtype)
    w[...] = draw.numbers(shape, dtype, odd=True)
    draw.watch(w)
    axes = draw.axes(w.ndim, 1)
    bound = draw.choose((*BOUNDS, draw.number(1e-6, 10)))
    before = plain(w)
    wrong = {
        "w": [*fuzz.no_floats(before), before.tolist(), frozen(before), *swapped(before)],
        "max_norm": fuzz.NO_POSITIVE,
        "axis": no_axes(w.ndim),
    }
    axis = axes[0] if len(axes) == 1 and draw.flag() else axes
    found = draw.call(target, {"w": w, "max_norm": bound, "axis": axis}, wrong)
    if found is None:
        return
    assert found is w
    draw.expect_unchanged([w])
    expect_projected(before, plain(w), bound, axes)
    again = plain(w)
    target(w, bound, axis=axis)
    assert_same_bits(plain(w), again)


def frozen(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def swapped(array):
    return [] if array.dtype.name == "bfloat16" else [array.astype(array.dtype.newbyteorder())]


def expect_projected(before, after, bound, axes, tiny=0.0):
    """Vectors inside the ball and not finite ones are as before; others are the reference's."""
    bound = math.inf if isinstance(bound, int) and bound > 10**300 else float(bound)
    wanted = reference.max_norm(before, bound, axes)
    with np.errstate(all="ignore"):
        same = (before.view(f"u{before.itemsize}") == wanted.view(f"u{wanted.itemsize}")).all(
            axis=axes, keepdims=True
        ) | ~np.isfinite(before.astype(np.float64)).all(axis=axes, keepdims=True)
        place = np.broadcast_to(same, before.shape)
        assert_same_bits(after[place], before[place])
        wide, exact = after.astype(np.float64), wanted.astype(np.float64)
        tiny = max(tiny, float(ml_dtypes.finfo(before.dtype).smallest_subnormal))
        largest = np.abs(exact).max(axis=axes, keepdims=True, initial=0)
        n = math.prod(before.shape[axis] for axis in axes)
        close = np.abs(wide - exact) <= (n + 16) * eps(before.dtype) * largest + 2 * tiny
        assert (close | place).all()
        unit = np.where(largest > 0, largest, 1)
        length = norms(wide / unit, axes, keepdims=True) * unit
        assert (same | (length <= bound * (1 + 1e-15))).all()


# --- products ------------------------------------------------------------------------------------


class Product:
    """Factors and masks of a product."""

    def __init__(self, draw):
        self.draw = draw
        self.dtype = draw.dtype(REAL)
        self.k, self.n = draw.choose((0, 1, 2, 7, 33)), draw.choose((0, 1, 3, 16, 65))
        lead = draw.choose(((), (1,), (5,), (0,), (2, 3), (3, 1), (2, 2, 2), (40,)))
        self.x_shape, self.y_shape = (*lead, self.k), (*lead, self.n)
        self.sparse = len(lead) == 1 and draw.integer(0, 4) == 0
        if self.sparse:
            dense = draw.numbers(self.x_shape, self.dtype)
            dense[draw.rng().random(dense.shape) < 0.6] = 0
            x = self.x = scipy.sparse.csr_array(dense)
            for part in (x.data, x.indices, x.indptr):
                draw.watch(part)
            self.dense = dense
        else:
            self.x = draw.array(self.x_shape, self.dtype)
            self.dense = plain(self.x)
        self.w = draw.array((self.k, self.n), self.dtype)
        self.bias = draw.array((self.n,), self.dtype) if draw.flag() else None
        self.masks, self.pairs = {}, {"x_mask": None, "w_mask": None, "y_mask": None}
        for name, shape in (("x_mask", self.x_shape), ("y_mask", self.y_shape)):
            if draw.flag():
                self._mask(name, shape)
        if draw.flag():
            if lead and draw.flag():  # weights of their own for each sample
                each = (lead[0], self.k, self.n)
                key, fields = draw.key()
                given, keep = draw.keep()
                offset = draw.offset(math.prod(each))
                self.masks["w_mask"] = Mask(each, **given, key=key, offset=offset)
                kept = decisions(each, keep, **fields, offset=offset)
                self.pairs["w_mask"] = kept, reference.scale(keep)
            else:
                self._mask("w_mask", (self.k, self.n))
        self.activation = draw.choose((None, "relu"))

    def _mask(self, name, shape):
        mask, kept, _ = self.draw.mask(shape)
        self.masks[name] = mask
        self.pairs[name] = (
            np.broadcast_to(kept, shape),
            np.broadcast_to(mask.element_scale(), shape),
        )

    def wrong(self):
        other = np.float64 if self.dtype == np.float32 else np.float32
        x, w = self.dense, plain(self.w)
        odd_mask = (np.ones(self.x_shape, bool), Mask((3, 1, 1, 1, 1), 0.5, key=1), "mask", 0.5)
        return {
            "x": [
                *fuzz.no_floats(x),
                x.astype(np.float16),
                x.astype(other),
                np.zeros((3, self.k + 1), x.dtype),
                scipy.sparse.csc_array((2, self.k), dtype=self.dtype),
                scipy.sparse.csr_array((2, self.k + 1), dtype=self.dtype),
            ],
            "w": [
                *fuzz.no_floats(w),
                w.astype(other),
                w[0] if self.k else w[..., None],
                np.zeros((self.k + 1, self.n), w.dtype),
            ],
            "x_mask": odd_mask,
            "w_mask": odd_mask,
            "y_mask": odd_mask,
            "activation": ("tanh", 1, "", True, Fuzzy(), b"relu"),
        }

    def tolerance(self, bound, terms):
        return (terms + 24) * eps(self.dtype) * bound + 1e-30


@case("dropcore.masked_matmul", share=120)
def masked_matmul(draw, target):
    p = Product(draw)
    wrong = p.wrong() | {
        "bias": [*list(fuzz.no_floats(np.zeros(p.n, p.dtype)))[1:], np.zeros(p.n + 1, p.dtype)],
        "out": [out for out in wrong_outs(np.zeros(p.y_shape, p.dtype)) if out is not None],
    }
    arguments = {"x": p.x, "w": p.w, "bias": p.bias, "activation": p.activation} | p.masks
    out = None
    if draw.flag():
        out = arguments["out"] = draw.view(p.y_shape, p.dtype, aligned=True)
        draw.watch(out)
    found = draw.call(target, arguments, wrong)
    if found is None:
        return
    draw.expect_unchanged([] if out is None else [out])
    assert found is out or out is None
    assert found.dtype == p.dtype
    bias = None if p.bias is None else plain(p.bias)
    wanted = reference.masked_matmul(p.dense, plain(p.w), bias, activation=p.activation, **p.pairs)
    sizes = (abs(array) if array is not None else None for array in (p.dense, plain(p.w), bias))
    bound = reference.masked_matmul(*sizes, **p.pairs)
    within(found, wanted, p.tolerance(bound, p.k))


@case("dropcore.masked_matmul_backward", share=120)
def masked_matmul_backward(draw, target):
    p = Product(draw)
    y = draw.array(p.y_shape, p.dtype)
    dy = draw.array(p.y_shape, p.dtype)
    arguments = {"dy": dy, "x": p.x, "w": p.w, "activation": p.activation} | p.masks
    if p.activation or draw.flag():
        arguments["y"] = y
    wanted_dx = draw.often()
    if not wanted_dx or draw.flag():
        arguments["input_gradient"] = wanted_dx
    other = np.float64 if p.dtype == np.float32 else np.float32
    plain_dy = plain(dy)
    wrong = p.wrong() | {
        "dy": [
            *fuzz.no_floats(plain_dy),
            plain_dy.astype(other),
            plain_dy[None],
            np.zeros(plain_dy.size + 1, p.dtype),
        ],
        "input_gradient": fuzz.NO_BOOLS,
    }
    if p.activation:
        wrong["y"] = [*fuzz.no_floats(plain_dy), plain(y).astype(other), plain(y)[None]]
    found = draw.call(target, arguments, wrong)
    if found is None:
        return
    draw.expect_unchanged()
    dx, dw, dbias = found
    sizes = abs(plain_dy), abs(p.dense), abs(plain(p.w)), plain(y)
    values = plain_dy, p.dense, plain(p.w), plain(y)
    wanted = reference.masked_matmul_backward(*values, activation=p.activation, **p.pairs)
    bounds = reference.masked_matmul_backward(*sizes, activation=p.activation, **p.pairs)
    rows = math.prod(p.y_shape[:-1])
    if not wanted_dx:
        assert dx is None
    elif p.sparse:
        at = np.repeat(np.arange(len(p.dense)), np.diff(p.x.indptr)), p.x.indices
        assert (dx.indices == p.x.indices).all()
        within(dx.data, wanted[0][at], p.tolerance(bounds[0][at], p.n))
    else:
        within(dx, wanted[0], p.tolerance(bounds[0], p.n))
    within(dw, wanted[1], p.tolerance(bounds[1], rows))
    within(dbias, wanted[2], p.tolerance(bounds[2], rows))


# --- attention -----------------------------------------------------------------------------------


class Attended:
    """Arguments of attention."""

    def __init__(self, draw):
        self.draw = draw
        self.dtype = draw.dtype(REAL)
        batch, key_heads = draw.choose((0, 1, 2)), draw.choose((1, 2))
        self.heads = key_heads * draw.choose((1, 2))
        self.causal = draw.flag()
        keys = draw.choose((0, 1, 2, 7, 33, 129))
        queries = keys if self.causal else draw.choose((0, 1, 3, 17))
        size, value_size = draw.choose((0, 1, 4, 9)), draw.choose((0, 1, 5, 8))
        self.shape = (batch, self.heads, queries, keys)
        own = {
            "q": (batch, self.heads, queries, size),
            "k": (batch, key_heads, keys, size),
            "v": (batch, key_heads, keys, value_size),
        }
        self.arguments = {name: draw.array(shape, self.dtype) for name, shape in own.items()}
        self.values = {name: plain(array) for name, array in self.arguments.items()}
        self.out_shape = (batch, self.heads, queries, value_size)
        self.options = {"causal": self.causal, "scale": None, "mask": None}
        self.arguments["causal"] = self.causal
        if draw.flag():
            self.options["scale"] = self.arguments["scale"] = draw.choose((0.0, 1.0, -0.5, 3, 1e-3))
        self._hide(batch, keys)
        self._drop(queries, keys)

    def _hide(self, batch, keys):
        draw, bias = self.draw, np.zeros((1, 1, 1, 1))
        if draw.flag():
            array = draw.array(draw.broadcastable(self.shape), self.dtype)
            self.arguments["bias"], bias = array, plain(array).astype(np.float64)
        if draw.flag():
            seen = draw.rng().random(draw.broadcastable(self.shape)) < 0.7
            self.arguments["allowed"] = draw.watch(seen)
            bias = bias + np.where(seen, 0.0, -math.inf)
        if draw.flag():
            lengths = draw.rng().integers(0, keys + 1, batch)
            lengths = lengths.astype(draw.choose((np.int64, np.int32, np.uint8)))
            self.options["lengths"] = self.arguments["lengths"] = draw.watch(lengths)
        self.options["bias"] = bias

    def _drop(self, queries, keys):
        draw = self.draw
        kind = draw.choose(("none", "rate", "heads", "mask"))
        if kind == "mask":
            mask, kept, _ = draw.mask(self.shape, arrays=False)
            self.arguments["mask"], self.options["mask"] = mask, (kept, mask.element_scale())
        elif kind != "none":
            given, keep = draw.keep()
            key, fields = draw.key()
            drawn = self.heads + (2 if kind == "heads" else 0)
            if kind == "heads":
                self.arguments["mask_heads"] = drawn
            whole = (self.shape[0], drawn, queries, keys)
            offset = draw.offset(math.prod(whole))
            kept = decisions(whole, keep, **fields, offset=offset)
            self.arguments |= {"key": key, "offset": offset} | given
            self.options["mask"] = kept[:, : self.heads], reference.scale(keep)

    def wrong(self):
        shape, other = self.shape, np.float64 if self.dtype == np.float32 else np.float32
        arrays = {
            name: [
                *fuzz.no_floats(value),
                value.astype(other),
                value.astype(np.float16),
                value[0:0, 0],
                np.zeros((*value.shape[:3], value.shape[3] + 1, 1), self.dtype),
            ]
            for name, value in self.values.items()
        }
        arrays["k"].append(
            np.zeros((*self.values["k"].shape[:3], self.values["k"].shape[3] + 1), self.dtype)
        )
        arrays["v"].append(np.zeros((shape[0] + 1, *self.values["v"].shape[1:]), self.dtype))
        wrong = arrays | {
            "causal": fuzz.NO_BOOLS,
            "scale": (*(n for n in fuzz.NO_NUMBERS), math.nan, math.inf, -math.inf),
            "bias": [
                *list(fuzz.no_floats(np.zeros(shape, self.dtype)))[1:],
                np.zeros((2, *shape), self.dtype),
                np.zeros(shape, other),
            ],
            "allowed": (
                np.ones(shape),
                np.ones(shape, int),
                np.ones((2, *shape), bool),
                "seen",
                1,
                np.ma.array(np.ones(shape, bool), mask=True),
            ),
            "lengths": (
                np.full(shape[0] + 1, 0),
                -np.ones(max(shape[0], 1), int),
                [[0]],
                0.5,
                "1",
                np.full(max(shape[0], 1), shape[3] + 1),
                np.full(max(shape[0], 1), 2.0),
                np.full(max(shape[0], 1), 2**63, np.uint64),
                np.ones(max(shape[0], 1), bool),
            ),
            "mask": (np.ones(shape, bool), Mask((9, *shape), 0.5, key=1), 0.5, "mask"),
            "offset": fuzz.NO_OFFSETS,
            "mask_heads": (*(n for n in fuzz.NO_INTEGERS if n is not None), 0, -1, self.heads - 1),
        }
        if self.options["mask"] is None:
            wrong |= {"key": (7, Key(7)), "rate": (0.5, math.nan), "keep": (0.5, 2.0)}
        return wrong


@case("dropcore.attention", share=100)
def attention(draw, target):
    call = Attended(draw)
    arguments = dict(call.arguments, return_logsumexp=draw.flag())
    wrong = call.wrong() | {
        "return_logsumexp": fuzz.NO_BOOLS,
        "out": [out for out in wrong_outs(np.zeros(call.out_shape, call.dtype)) if out is not None],
    }
    found = draw.call(target, arguments, wrong)
    if found is None:
        return
    draw.expect_unchanged()
    y, sums = found if arguments["return_logsumexp"] else (found, None)
    wanted, wanted_sums = reference.attention(**call.values, **call.options)
    size = score_size(call)
    values = np.abs(call.values["v"]).max(initial=0) * factor_of(call)
    within(y, wanted, (2 * size + 100) * eps(call.dtype) * values)
    if sums is not None:
        within(sums, wanted_sums, (2 * size + 50) * eps(call.dtype))


def factor_of(call):
    return (
        1.0 if call.options["mask"] is None else float(np.max(call.options["mask"][1], initial=1.0))
    )


def score_size(call):
    """Of the largest scores, whose rounding errors enter weights as factors."""
    q, k = (np.abs(call.values[name]).max(initial=0) for name in "qk")
    bias = call.options["bias"]
    bias = np.abs(bias[np.isfinite(bias)]).max(initial=0)
    scale = call.options["scale"]
    size = call.values["q"].shape[3]
    return float(q * k * size * (1 if scale is None else abs(scale)) + bias)


@case("dropcore.attention_backward", share=80)
def attention_backward(draw, target):
    call = Attended(draw)
    out, sums = dropcore.attention(**call.arguments, return_logsumexp=True)
    dout = draw.array(call.out_shape, call.dtype)
    arguments = call.arguments | {"dout": dout, "out": out, "logsumexp": sums}
    value, other = plain(dout), np.float64 if call.dtype == np.float32 else np.float32
    for_gradients = [*fuzz.no_floats(value), value.astype(other), value[None]]
    wrong = call.wrong() | {
        "dout": for_gradients,
        "out": for_gradients,
        "logsumexp": [*for_gradients, sums[None]],
    }
    found = draw.call(target, arguments, wrong)
    if found is None:
        return
    draw.expect_unchanged()
    wanted = reference.attention_backward(value, **call.values, **call.options)
    q, k, v = (np.abs(call.values[name]).max(initial=0) for name in "qkv")
    scale = call.options["scale"]
    scale = 1 if scale is None else abs(scale)
    size = float(np.abs(value).max(initial=0)) * factor_of(call)
    of_scores = 2 * size * v * max(call.out_shape[3], 1) * scale
    queries = call.shape[2] * 2
    unit = (4 * score_size(call) + 200) * eps(call.dtype)
    for gradient, exact, bound in zip(
        found, wanted, (of_scores * k, of_scores * q * queries, size * queries), strict=True
    ):
        within(gradient, exact, unit * bound)


# --- noise ---------------------------------------------------------------------------------------


@case(*names_of("noise.normal", "noise.uniform"), share=60)
def noise(draw, target):
    shape, dtype = draw.shape(), draw.dtype()
    key, fields = draw.key()
    offset = draw.offset(math.prod(shape))
    wrong = {
        "shape": ((-1,), (1.0,), "3", None, 2.5, -1, (True,), (2**62, 2**62, 2), [3]),
        "key": (*fuzz.NO_KEYS, None),
        "offset": (*fuzz.NO_OFFSETS, LIMIT - math.prod(shape) + 1),
        "dtype": (*fuzz.NO_DTYPES, "no such", ">f4", Fuzzy(), 3.5),
    }
    arguments = {"shape": shape, "key": key, "offset": offset, "dtype": dtype}
    found = draw.call(target, arguments, wrong)
    if found is None:
        return
    assert found.shape == shape
    assert found.dtype == dtype
    index = (np.uint64(offset) + np.arange(math.prod(shape), dtype=np.uint64)).reshape(shape)
    address = fields["seed"], fields["stream"], fields["step"], index
    if target is dropcore.noise.uniform:
        bits = {"float64": 32, "float32": 23, "float16": 10, "bfloat16": 7}[dtype.name]
        words = reference.noise_words(*address) >> np.uint32(32 - bits)
        assert_same_bits(found, ((words + 0.5) * 2.0**-bits).astype(dtype))
        return
    exact = reference.normal(*address)
    if dtype == np.float64:
        within(found, exact, 1e-15 * np.maximum(np.abs(exact), 1))
    else:  # 4 units of float32, and a rounding
        rounding = 0 if dtype == np.float32 else eps(dtype)
        within(found.astype(np.float64), exact, np.abs(exact) * (8 * 2.0**-24 + rounding) + 1e-7)


@case("dropcore.Permutation", share=40)
def permutation(draw, target):
    n = draw.choose((1, 2, 3, 127, 128, 129, 1000, 2**31, 2**32 + 1, 2**62, 2**63 - 1))
    seed, step = draw.integer(0, 2**64 - 1), draw.integer(0, 2**32 - 1)
    key = draw.choose((seed, Key(seed, 2**21 - 1, step)))
    wrong = {
        "n": (*fuzz.NO_INTEGERS, 0, -1, 2**63, 10**30),
        "key": (*fuzz.NO_KEYS, None, Key(1, 2**21), Key(1, domain=2)),
    }
    made = draw.call(target, {"n": n, "key": key}, wrong)
    if made is None:
        return
    assert len(made) == n
    start = draw.choose((0, n // 2, n - 1, n))
    count = min(n - start, draw.choose((0, 1, 5, 200)))
    no_place = (*fuzz.NO_INTEGERS, -1, n + 1, 2**64)
    wrong = {"start": no_place, "count": (*no_place[1:], n - start + 1)}
    rows = draw.call(made.rows, {"start": start, "count": count}, wrong)
    if rows is None:
        return
    assert rows.dtype == np.int64
    assert len(set(rows.tolist())) == count
    assert all(0 <= row < n for row in rows.tolist())
    given = draw.watch(rows.astype(draw.choose((np.int64, np.uint64, ">i8"))))
    bad = ([n], [-1], [0.5], "a", [None], 1j, [2**64], np.ma.array([0], mask=True), [True])
    found = draw.call(made.places, {"rows": given}, {"rows": bad})
    if found is not None:
        assert_same_bits(found, np.arange(start, start + count))
    if n <= 1000:
        assert sorted(made.rows().tolist()) == list(range(n))
    draw.expect_unchanged()


# --- runtime -------------------------------------------------------------------------------------


@case(*names_of("set_num_threads", "get_num_threads"), share=15)
def threads(draw, target):
    before = dropcore.get_num_threads()
    try:
        n = draw.integer(1, 8)
        done = dropcore.set_num_threads(n)
        assert done is None
        assert dropcore.get_num_threads() == (n if dropcore.build_info()["openmp"] else 1)
        for wrong in (*fuzz.NO_INTEGERS, 0, -1, 4097, 10**30):
            draw.refuse(lambda wrong=wrong: dropcore.set_num_threads(wrong), repr(wrong))
    finally:
        dropcore.set_num_threads(before)


@case(*names_of("build_info", "get_include", "release_memory"))
def runtime(draw, target):
    found = target()
    if target is dropcore.release_memory:
        assert found >= 0
        assert target() == 0
    elif target is dropcore.build_info:
        assert found["isa"] in found["isas"]
        assert found["threads"] == dropcore.get_num_threads()
    else:
        assert (dropcore.__file__.rpartition("/")[0] + "/include") == found
