"""Arguments to fuzz with, and what a call may do with them.

A case is a function that draws arguments for one public name, calls it, and compares the result
with an oracle. `CASES` has the case of each name. A `Draw` makes arrays in any layout and watches
their memory: a call may write to what it is told to write to, and to nothing else.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import math
import os
import random
import tempfile
import warnings
from fractions import Fraction

import ml_dtypes
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

from dropcore import Key, Mask, reference

_home = tempfile.TemporaryDirectory(prefix="dropcore-hypothesis-")  # instead of one in the tree
atexit.register(_home.cleanup)
set_hypothesis_home_dir(_home.name)

CASES = {}
"""By full name: the case, and its share of all calls."""


def case(*names, share=1):
    """Register a case for public names. A larger share gets more of the calls."""

    def register(function):
        for name in names:
            assert name not in CASES, name
            CASES[name] = (function, share)
        return function

    return register


FLOATS = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)
REAL = (np.float32, np.float64)
MARGIN = 64
WRONG_AT_ONCE = 8
FILLER = 0xA5

KEEPS = (
    0.0, 1.0, 2.0**-32, 2.0**-33, 1.5 * 2.0**-33, 1 - 2.0**-32, 1 - 2.0**-33, 1 - 2.0**-53, 5e-324,
    -0.0, 0.5, 0.75, 0.9, 1 / 3, 0.1, 1e-4, 255 / 256,
)  # fmt: skip
LIMIT = 2**63
OFFSETS = (0, 1, 31, 32, 127, 128, 129, 2**31, 2**32 - 1, 2**32, 2**36 + 5, 2**53 + 1, 2**62)
LENGTHS = (0, 1, 2, 3, 5, 8, 17)
LONG = (0, 1, 7, 31, 32, 33, 127, 128, 129, 255, 256, 257, 1000)


class Hidden:
    """Neither a number nor an array."""

    def __repr__(self):
        return "Hidden()"


# What is wrong wherever something of that kind is asked for.
NO_NUMBERS = ("0.5", b"0.5", 1j, Hidden(), {}, (), [None], np.complex64(0.5), np.array("a"), True)
NO_RATES = (
    *NO_NUMBERS, math.nan, math.inf, -math.inf, -5e-324, -0.25, 1 + 2.0**-52, 2, -1, 10**400,
    np.float32(1.5), np.float16(np.nan), Fraction(1, 2), np.array([0.5, np.nan]),
    np.ma.array([0.5], mask=[1]),
)  # fmt: skip
NO_INTEGERS = (None, 1.0, 0.5, math.nan, math.inf, "1", b"1", 1j, [1], (1, 2), Hidden(), True,
               np.float64(3), np.array([1, 2]), Fraction(2, 1))  # fmt: skip
NO_OFFSETS = (*NO_INTEGERS, -1, LIMIT + 1, 2**64, -(2**63), 10**30, np.int64(-1))
NO_KEYS = (-1, 2**64, 10**40, 1.0, math.nan, "7", b"7", True, (1, 2), [7], Hidden(), np.int8(-1),
           np.float32(2))  # fmt: skip
NO_BOOLS = (None, 0, 1, "yes", 1.0, [], Hidden(), np.array([True, False]))
NO_POSITIVE = (*NO_NUMBERS, None, 0, -1.0, math.nan, -math.inf, np.float32(0))
NO_DTYPES = ("int32", bool, "complex64", "O", "S4", "U3", "M8[s]", np.longdouble, "f4,f4")


def no_floats(like):
    """What is refused where an array of floats like this one is asked for."""
    yield from (None, Hidden(), "word", b"bytes", 1j, {1: 2}, [[1.0], [1.0, 2.0]], object)
    for dtype in NO_DTYPES:
        yield np.zeros(like.shape, dtype)
    yield np.ma.array(np.zeros(like.shape, like.dtype), mask=True)


def decisions(shape, keep, *, offset, **address):
    """Those of the reference, which has none at 2**63, where an empty mask may lie."""
    if not math.prod(shape):
        return np.zeros(shape, bool)
    return reference.decisions(shape, keep, offset=int(offset), **address)


class Draw:
    """Draws the arguments of a call, and watches the memory of its arrays."""

    def __init__(self, draw):
        # Hypothesis makes many calls that are alike. Three of four are drawn from a seed, and the
        # others by it: only these get simpler when they fail.
        seed = draw(st.integers(0, 2**64 - 1))
        self._random = random.Random(seed) if seed % 4 else None
        self._draw = draw
        self._watched = []

    # --- simple values ---------------------------------------------------------------------------

    def choose(self, values):
        values = list(values)
        return values[self.integer(0, len(values) - 1)]

    def integer(self, low, high):
        if self._random is not None:
            return self._random.randint(low, high)
        return self._draw(st.integers(low, high))

    def flag(self):
        return self.integer(0, 1) == 1

    def often(self):
        """True three times out of four."""
        return self.integer(0, 3) > 0

    def rng(self):
        return np.random.default_rng(self.integer(0, 2**32 - 1))

    def number(self, low, high):
        if self._random is not None:
            return self._random.uniform(low, high)
        return self._draw(st.floats(low, high, allow_nan=False, width=64))

    def dtype(self, dtypes=FLOATS):
        return np.dtype(self.choose(dtypes))

    def shape(self, most=4, least=0):
        """A shape of at most 4000 elements."""
        if least <= 1 and self.integer(0, 2) == 0:
            return (self.choose(LONG),)
        shape = ()
        for _ in range(self.integer(least, most)):
            shape += (self.choose(n for n in LENGTHS if n * math.prod(shape) <= 4000),)
        return shape

    def axes(self, ndim, least=0):
        """Different axes in any order; some counted from the end."""
        count = self.integer(min(least, ndim), ndim)
        rng = self.rng()
        chosen = rng.permutation(ndim)[:count].tolist()
        return tuple(axis - ndim if rng.random() < 0.3 else axis for axis in chosen)

    def key(self):
        """A key, as a user may write it, and its fields."""
        seed = self.choose((0, 7, 2**32, 2**64 - 1, self.integer(0, 2**64 - 1)))
        if self.flag():
            stream, step = self.integer(0, 2**28 - 1), self.integer(0, 2**32 - 1)
            domain = self.choose((0, 0, 2))
            fields = {"seed": seed, "stream": stream, "step": step, "domain": domain}
            return Key(seed, stream, step, domain=domain), fields
        given = self.choose((int, np.uint64))(seed)
        return given, {"seed": seed, "stream": 0, "step": 0, "domain": 0}

    def offset(self, size):
        """An offset for that many elements, as an integer of some type."""
        last = LIMIT - size
        found = self.choose((*OFFSETS, last, last - 1, self.integer(0, last)))
        if not 0 <= found <= last:
            found = last
        return self.choose((int, np.uint64))(found)

    def keep(self, shape=None):
        """The fraction kept as {'rate' or 'keep': ...}, and in float64. Arrays fit `shape`."""
        if shape is not None and self.integer(0, 3) == 0:
            own = self.broadcastable(shape)
            rng = self.rng()
            value = np.where(rng.random(own) < 0.3, rng.choice(KEEPS, own), rng.random(own))
            value = value.astype(self.choose((np.float64, np.float32, np.float16)))
        else:
            value = self.choose((*KEEPS, self.number(0, 1)))
            kind = self.choose((float, np.float64, np.float32, np.float16, np.array))
            value = kind(value)
            if self.flag() and value in (0, 1):
                value = int(value)
        exact = np.asarray(value, np.float64)
        if self.flag():
            return {"keep": value}, exact
        return {"rate": value}, 1.0 - exact

    def broadcastable(self, shape):
        """A shape that broadcasts to another one and does not enlarge it."""
        rng = self.rng()
        own = tuple(n if rng.random() < 0.6 else 1 for n in shape)
        return own[rng.integers(0, len(own) + 1) :] if rng.random() < 0.3 else own

    def mask(self, shape, *, arrays=True, whole=False):
        """A mask for an array of that shape, what it keeps, and its scale."""
        own = shape if whole else self.broadcastable(shape)
        kind = self.choose(("drawn", "drawn", "given", "packed", "runs"))
        if kind == "runs" and own:
            run = self.choose((1, 2, 3, 100))
            drawn = (*own[:-1], -(-own[-1] // run))
            given, keep = self.keep(None)
            key, fields = self.key()
            offset = self.offset(math.prod(drawn))
            mask = Mask(own, **given, key=key, offset=offset, run=run)
            kept = decisions(own, keep, **fields, offset=offset, run=run)
            return mask, kept, reference.scale(keep)
        given, keep = self.keep(own if arrays else None)
        if kind in ("drawn", "runs"):
            key, fields = self.key()
            offset = self.offset(math.prod(own))
            mask = Mask(own, **given, key=key, offset=offset)
            kept = decisions(own, keep, **fields, offset=offset)
        else:
            kept = self.rng().random(own) < 0.6
            if kind == "given":
                mask = Mask.given(self.watch(kept), keep=keep)
            else:
                mask = Mask.from_packed(self.watch(reference.pack(kept)), own, keep=keep)
        return mask, kept, reference.scale(keep)

    # --- arrays ----------------------------------------------------------------------------------

    def numbers(self, shape, dtype, *, odd=False, low=None):
        """Normal numbers; odd ones include what is special: NaN, infinities, denormals, zeros."""
        rng = self.rng()
        found = rng.normal(size=shape)
        if low is not None:
            found = np.abs(found) + low
        if odd and self.flag():
            special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, 5e-324, 65504.0, 3e38, 1e300]
            found = np.where(rng.random(shape) < 0.3, rng.choice(special, shape), found)
        with np.errstate(all="ignore"):
            return np.asarray(found, np.float64).astype(dtype)

    def array(self, shape, dtype, *, odd=False, low=None, plain=False, swapped=True):
        """An array in any layout: a view into memory that is watched.

        Strides may be negative, permuted, larger than needed or zero, the address may be odd, the
        bytes may be swapped, and the array may be read-only.
        """
        dtype = np.dtype(dtype)
        values = self.numbers(shape, dtype, odd=odd, low=low)
        if plain or self.integer(0, 2) == 0:
            return self.watch(values)
        if swapped and dtype.name != "bfloat16" and self.integer(0, 5) == 0:
            dtype = dtype.newbyteorder()
        array = self.view(shape, dtype, shared=True)
        shared = tuple(slice(0, 1) if s == 0 else slice(None) for s in array.strides)
        # Values along axes that share memory are those of the first place.
        array[...] = np.broadcast_to(values[shared], shape)
        if self.flag():
            array.flags.writeable = False
        self.watch(array)
        return array

    def view(self, shape, dtype, *, shared=False, aligned=False):
        """A writeable view of that shape, with any strides, into memory of its own."""
        rng = self.rng()
        dtype = np.dtype(dtype)
        order = rng.permutation(len(shape)) if self.flag() else np.arange(len(shape))
        strides, extent, start = [0] * len(shape), dtype.itemsize, 0
        for axis in reversed(order.tolist()):
            n = shape[axis]
            if shared and n > 1 and rng.random() < 0.15:
                continue
            stride = extent * int(rng.choice([1, 1, 1, 2, 3]))
            extent = stride * max(n, 1)
            if rng.random() < 0.25:
                start += stride * max(n - 1, 0)
                stride = -stride
            strides[axis] = stride
        shift = 0 if aligned or self.flag() else int(rng.integers(1, 8))
        memory = np.full(extent + 2 * MARGIN, FILLER, np.uint8)
        return np.ndarray(shape, dtype, memory, MARGIN + shift + start, strides)

    def watch(self, array):
        """Note the memory of an array; `expect_unchanged` compares it."""
        array = np.asarray(array)
        memory = array
        while isinstance(memory.base, np.ndarray):
            memory = memory.base
        self._watched.append((array, memory, memory.tobytes()))
        return array

    def expect_unchanged(self, written=()):
        """No byte differs, except those of the elements of the arrays that were to be written."""
        for array, memory, before in self._watched:
            if not any(array is one for one in written):
                assert memory.tobytes() == before, "an input was changed"
                continue
            if memory is array:
                continue
            # The bytes between the elements, and in front of the first and behind the last one.
            beside = np.ones(memory.nbytes, bool)
            at = array.__array_interface__["data"][0] - memory.__array_interface__["data"][0]
            own = np.ndarray(
                (*array.shape, array.itemsize), bool, beside, at, (*array.strides, 1)
            )  # fmt: skip
            own[...] = False
            now = np.frombuffer(memory.tobytes(), np.uint8)
            then = np.frombuffer(before, np.uint8)
            assert (now[beside] == then[beside]).all(), "memory beside an array was written"
        self._watched = [(array, memory, memory.tobytes()) for array, memory, _ in self._watched]

    # --- calls -----------------------------------------------------------------------------------

    def call(self, function, arguments, wrong=None):
        """The result of the call; None if it was made with wrong arguments, and refused.

        `wrong` has values for some arguments with any of which the call must be refused.
        """
        if not wrong or self.often():
            return function(**arguments)
        rng, names = self.rng(), sorted(name for name in wrong if wrong[name])
        for _ in range(WRONG_AT_ONCE):
            name = names[rng.integers(len(names))]
            one = {name: wrong[name][rng.integers(len(wrong[name]))]}
            self.refuse(functools.partial(function, **(arguments | one)), repr(one))
        return None

    def refuse(self, function, why=""):
        """The call must be refused, with a reason and without a change."""
        reason = None
        try:
            result = function()
        except (TypeError, ValueError) as error:
            reason = str(error)
        else:
            raise AssertionError(f"not refused: {why}, which gave {result!r:.300}")
        assert reason, "an error without a reason"
        self.expect_unchanged()


def plain(array):
    """What an array holds, in C order and in the byte order of the machine."""
    return np.array(array, array.dtype.newbyteorder("="), order="C")


# --- runs ----------------------------------------------------------------------------------------

TIMES = int(os.environ.get("DROPCORE_FUZZ", "1"))
"""How many calls are made for each share. With 1 they are always the same, else random."""

SETTINGS = settings(
    deadline=None,
    database=None,  # it would be written into the tree
    derandomize=TIMES == 1,
    print_blob=False,  # the seed reproduces a failure
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=tuple(HealthCheck),
)


def repeat(function, share):
    """Call function(Draw) `share` times `TIMES` with other draws; a warning is an error."""

    @settings(SETTINGS, max_examples=share * TIMES)
    @given(st.data())
    def check(data):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            function(Draw(data.draw))

    check()


def public(name):
    """The object of a full public name."""
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module), last)
