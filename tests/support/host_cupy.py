"""A stand-in for CuPy on the host: the real kernels, compiled by g++, on memory of the host.

It has the few functions that `dropcore._backends.cuda` and the tests use, and is stricter than
CuPy: nothing becomes a NumPy array implicitly, kernels must get arguments of exactly their types,
new memory is full of garbage, and writes outside of an array are found. `waits` counts what would
synchronise with a device, `sent` the copies to it.

Copies from the host are asynchronous, as in CuPy: they are made when the next work of their stream
is, or when another stream waits for it. Until then the array is full of garbage. While a stream is
captured, work is put on a tape, which a graph plays; results are garbage meanwhile, as nothing is
computed during a capture. The current stream, the tape and the allocator belong to a thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.machinery
import itertools
import operator
import os
import re
import shutil
import subprocess
import threading
import types
import weakref
from pathlib import Path

import numpy as np
import scipy.special

HEADER = Path(__file__).parents[1] / "c" / "host_cuda.h"
FLAGS = ["-x", "c++", "-std=c++17", "-O2", "-ffp-contract=off", "-fno-strict-aliasing", "-fPIC",
         "-Wno-unknown-pragmas", "-w"]  # fmt: skip
TOGETHER = ("update_rows", "update_columns", "square_sums", "sum_columns", "dropconnect_",
            "softmax", "moment", "batch_", "layer_", "normalize_rows", "dropout_drawn",
            "apply_epilogue", "epilogue_backward", "uniforms", "attention_")  # fmt: skip
GUARD, RUBBISH = 64, 0xA5
COMPILER = shutil.which("g++")

waits = 0
sent = 0  # arrays from the host
launches: list[str] = []
_guards: dict[int, tuple] = {}  # memory that is in use, from where to where


def _raw(x):
    if isinstance(x, ndarray):
        return x._a
    if isinstance(x, tuple | list):
        return type(x)(_raw(part) for part in x)
    return x


def _wrap(x):
    return ndarray(x) if isinstance(x, np.ndarray | np.generic) else x


class _Thread(threading.local):
    """What belongs to a thread."""

    tape: list | None = None  # of the stream that is captured
    allocator = None

    def __init__(self):
        self.streams = [_NULL]  # the current one is the last


def _flush(stream=None):
    """Make the copies that work on a stream, by default the current one, comes behind."""
    stream = _thread.streams[-1] if stream is None else stream
    for other in list(_streams):
        legacy = _NULL in (stream, other) and not (stream.non_blocking or other.non_blocking)
        if other is stream or legacy:
            other.flush()


def _done(compute, *arguments):
    """What compute() gives; while a stream is captured its shape only, and the work is noted."""
    _flush()
    found = compute()
    if isinstance(found, tuple):
        return tuple(_wrap(part) for part in found)
    if _thread.tape is None or not isinstance(found, np.ndarray | np.generic):
        return _wrap(found)
    made = np.asarray(found)
    if any(np.may_share_memory(made, a) for a in _flat(arguments)):
        return _wrap(made)  # a view
    room = empty(made.shape, made.dtype)
    if made.dtype.kind != "f":
        room._a.fill(0)  # which may be an index
    _thread.tape.append(lambda: room._a.__setitem__(..., compute()))
    return room


def _flat(arguments):
    for a in arguments:
        if isinstance(a, np.ndarray):
            yield a
        elif isinstance(a, tuple | list):
            yield from _flat(a)


def _did(work):
    """Do what changes something in place, or note it."""
    if _thread.tape is None:
        _flush()
        work()
    else:
        _thread.tape.append(work)


def _wait():
    """Note what waits for the device, which must not be while a stream is captured."""
    global waits
    assert _thread.tape is None, "nothing can wait for the device while a stream is captured"
    waits += 1
    _flush()


def _strict(*arguments):
    for x in arguments:
        if isinstance(x, np.ndarray) and x.ndim:
            raise TypeError("Unsupported type <class 'numpy.ndarray'>")


class _Device:
    cublas_handle = 1 << 20  # of cuBLAS as CuPy calls it

    def __init__(self, number=0):
        self.id = number
        self.attributes = {"MultiProcessorCount": 1}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


class ndarray:
    """What of cupy.ndarray is asked for."""

    __array_ufunc__ = None
    __hash__ = None

    def __init__(self, a):
        self._a = np.asarray(a)

    def __deepcopy__(self, memo):
        return array(self)

    def __reduce__(self):
        return array, (asnumpy(self),)

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    shape = property(lambda self: self._a.shape)
    dtype = property(lambda self: self._a.dtype)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    strides = property(lambda self: self._a.strides)
    itemsize = property(lambda self: self._a.itemsize)
    nbytes = property(lambda self: self._a.nbytes)
    T = property(lambda self: _wrap(self._a.T))
    device = property(lambda self: _Device())
    data = property(lambda self: types.SimpleNamespace(ptr=self._a.ctypes.data))

    @property
    def flags(self):
        f = self._a.flags
        return types.SimpleNamespace(c_contiguous=f.c_contiguous, f_contiguous=f.f_contiguous)

    @property
    def __cuda_array_interface__(self):
        return self._a.__array_interface__

    def __len__(self):
        return len(self._a)

    def _index(self, key):
        _strict(*(key if isinstance(key, tuple) else (key,)))
        return _raw(key)

    def __getitem__(self, key):
        index = self._index(key)
        return _done(lambda: self._a[index], self._a)

    def __setitem__(self, key, value):
        _strict(value)
        index = self._index(key)
        _did(lambda: self._a.__setitem__(index, _raw(value)))

    def __float__(self):
        _wait()
        return float(self._a)

    def __bool__(self):
        _wait()
        return bool(self._a)

    def _method(name):
        def method(self, *args, **kwargs):
            _strict(*args)
            return _done(lambda: getattr(self._a, name)(*_raw(args), **kwargs), self._a)

        return method

    for _name in ("astype", "reshape", "copy", "sum", "max", "swapaxes", "ravel", "view", "min",
                  "mean", "argmax", "clip", "all", "any", "transpose", "take"):  # fmt: skip
        locals()[_name] = _method(_name)

    def _operator(function):
        def left(self, other):
            _strict(other)
            return _done(lambda: function(self._a, _raw(other)))

        def right(self, other):
            _strict(other)
            return _done(lambda: function(_raw(other), self._a))

        return left, right

    for _name in ("add", "sub", "mul", "truediv", "matmul", "and", "or", "rshift", "pow",
                  "floordiv"):  # fmt: skip
        _function = getattr(operator, _name if _name not in ("and", "or") else f"{_name}_")
        locals()[f"__{_name}__"], locals()[f"__r{_name}__"] = _operator(_function)
    for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
        locals()[f"__{_name}__"] = _operator(getattr(operator, _name))[0]

    def _in_place(function):
        def method(self, other):
            _strict(other)
            _did(lambda: function(self._a, _raw(other)))
            return self

        return method

    for _name in ("iadd", "isub", "imul", "itruediv", "irshift"):
        locals()[f"__{_name}__"] = _in_place(getattr(operator, _name))

    def __abs__(self):
        return _done(lambda: abs(self._a))

    def fill(self, value):
        _did(lambda: self._a.fill(value))

    def __invert__(self):
        return _done(lambda: ~self._a)

    def __int__(self):
        _wait()
        return int(self._a)

    def __neg__(self):
        return _done(lambda: -self._a)


# ---- memory ----


def empty(shape, dtype=float):
    shape = shape if isinstance(shape, tuple) else (shape,)
    kind = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    room = np.full(size + 2 * GUARD + 64, RUBBISH, np.uint8)
    start = -room.ctypes.data % 64 + GUARD
    room[start : start + size] = 0xFF  # NaN, or -1
    _guards[id(room)] = weakref.ref(room), start, start + size
    weakref.finalize(room, _guards.pop, id(room), None)
    if _thread.tape is not None:
        _thread.tape.append(lambda: room)  # a graph keeps its memory
    return ndarray(room[start : start + size].view(kind).reshape(shape))


def check_guards():
    for reference, start, end in list(_guards.values()):
        room = reference()
        if room is not None:
            around = room[start - GUARD : start], room[end : end + GUARD]
            assert (around[0] == RUBBISH).all(), "a kernel wrote in front of an array"
            assert (around[1] == RUBBISH).all(), "a kernel wrote behind an array"


def asarray(x, dtype=None):
    if isinstance(x, ndarray):
        return x if dtype in (None, x.dtype) else x.astype(dtype)
    global sent
    sent += 1
    a = np.array(x, dtype)  # CuPy copies it to pinned memory at once
    new = empty(a.shape, a.dtype)
    if a.ndim == 0:  # an argument of a kernel that fills
        _did(lambda: new._a.fill(a))
        return new
    if _thread.allocator is not None:
        _thread.allocator(a.nbytes).copy_from_host_async(a.ctypes.data, a.nbytes)
    assert _thread.tape is None, "a copy from the host while a stream is captured"
    _thread.streams[-1].pending.append(_Copy(new._a, a))
    return new


def array(x, dtype=None, order="K"):
    if not isinstance(x, ndarray):
        return asarray(x, dtype)
    new = empty(x.shape, x.dtype if dtype is None else dtype)
    if order == "K" and x.flags.f_contiguous and not x.flags.c_contiguous:
        new = ndarray(new._a.reshape(x.shape[::-1]).T)
    _did(lambda: new._a.__setitem__(..., x._a))
    return new


def argsort(a, axis=-1):
    return _done(lambda: np.argsort(a._a, axis, kind="stable"), a._a)


def from_dlpack(x):
    return ndarray(np.from_dlpack(x.__dlpack__()))


def ascontiguousarray(x, dtype=None):
    x = asarray(x, dtype)
    if x.flags.c_contiguous:
        return x
    new = empty(x.shape, x.dtype)
    _did(lambda: new._a.__setitem__(..., x._a))
    return new


def asnumpy(x):
    _wait()
    return np.array(x._a)


def flatnonzero(x):
    _wait()
    return _wrap(np.flatnonzero(x._a))


def copyto(dst, src, casting="same_kind", where=None):
    _strict(src, where)
    chosen = True if where is None else where._a
    _did(lambda: np.copyto(dst._a, _raw(src), casting, chosen))


def _function(name, of=np):
    def function(*args, **kwargs):
        _strict(*args)
        out = kwargs.pop("out", None)
        if out is not None:
            _did(lambda: getattr(of, name)(*_raw(args), out=out._a, **kwargs))
            return out
        given = {key: _raw(value) for key, value in kwargs.items()}
        return _done(lambda: getattr(of, name)(*_raw(args), **given), *_raw(args))

    return function


# ---- streams and graphs ----


class _Copy:
    """A copy from the host, which is made once."""

    def __init__(self, to, numbers):
        self.arguments = to, numbers

    def __call__(self):
        if self.arguments:
            (to, numbers), self.arguments = self.arguments, ()
            to[...] = numbers


class Graph:
    def __init__(self, tape):
        self.tape = tape

    def launch(self, stream=None):
        assert _thread.tape is None
        _flush(stream)
        for work in self.tape:
            work()


class Event:
    def __init__(self, copies=()):
        self.copies = copies

    def synchronize(self):
        for copy in self.copies:
            copy()


class Stream:
    _numbers = itertools.count()

    def __init__(self, non_blocking=False):
        self.non_blocking, self.pending, self.ptr = non_blocking, [], next(self._numbers)
        _streams.add(self)

    def __enter__(self):
        _thread.streams.append(self)
        return self

    def __exit__(self, *_):
        _thread.streams.pop()

    def flush(self):
        for copy in self.pending:
            copy()
        self.pending = []

    def record(self):
        return Event(tuple(self.pending))

    def wait_event(self, event):
        assert _thread.tape is None, "a captured stream cannot wait for work outside of its graph"
        event.synchronize()

    def synchronize(self):
        assert _thread.tape is None
        self.flush()

    def begin_capture(self):
        assert self.non_blocking, "the default stream cannot be captured"
        assert _thread.tape is None
        _thread.tape = []

    def end_capture(self):
        tape, _thread.tape = _thread.tape, None
        return Graph(tape)


_streams = weakref.WeakSet()
_NULL = Stream()
_thread = _Thread()


class MemoryPointer:
    def __init__(self, mem, offset):
        self.mem, self.ptr = mem, mem.ptr + offset

    def copy_from_host_async(self, mem, size, stream=None):
        """Nothing: the stand-in has its own memory."""


class MemoryPool:
    def malloc(self, size):
        return MemoryPointer(types.SimpleNamespace(ptr=0, size=size), 0)


@contextlib.contextmanager
def using_allocator(allocator):
    before, _thread.allocator = _thread.allocator, allocator
    try:
        yield
    finally:
        _thread.allocator = before


# ---- kernels ----


class Kernel:
    def __init__(self, module, name):
        self.name, self.launch = name, getattr(module, f"launch_{name}")
        letters = getattr(module, f"letters_{name}")
        letters.restype = ctypes.c_char_p
        self.letters = letters().decode()
        sizes = getattr(module, f"sizes_{name}")
        sizes.restype = ctypes.POINTER(ctypes.c_size_t)
        self.sizes = sizes()[: len(self.letters)]
        self.together = int(name.startswith(TOGETHER))

    def __call__(self, grid, block, arguments):
        found = "".join(a.dtype.char for a in arguments)
        wanted = self.letters.replace("P", "L")
        assert found == wanted, f"{self.name} takes {self.letters}, got {found}"
        for number, a in enumerate(arguments):
            assert type(a) is not np.ndarray or a.size == 1, "CuPy passes one struct by value"
            assert a.nbytes == self.sizes[number], f"argument {number} of {self.name}"
        slots = [np.array(a) for a in arguments]
        at = (ctypes.c_void_p * len(slots))(*(slot.ctypes.data for slot in slots))

        def run(slots=slots):
            self.launch(at, *grid, *block, self.together, len(launches) % 2)
            launches.append(self.name)
            check_guards()

        _did(run)


class Module:
    folder: Path  # where libraries go

    def __init__(self, *, code, options=()):
        known = "".join([code, (HEADER).read_text(), *FLAGS])
        name = f"kernels-{hashlib.sha256(known.encode()).hexdigest()[:16]}"
        library = self.folder / f"{name}.so"
        if not library.exists():
            library = self._built(code, self.folder / f"{name}.{os.getpid()}.cc", library)
        self.library = ctypes.CDLL(str(library))

    def _built(self, code, text, library):
        flush = int("#define STORED double" not in code)  # as CuPy's -ftz=true, of floats alone
        head = f'#define FLUSH {flush}\n#include "{HEADER}"\n'
        text.write_text(head + code)
        marked = subprocess.run(
            [COMPILER, *FLAGS, "-E", "-D__global__=A_KERNEL", str(text)],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        names = re.findall(r'extern "C" A_KERNEL void (\w+)\(', marked)
        assert names
        with text.open("a") as file:
            file.writelines(f"HOST_ENTRY({name})\n" for name in names)
        made = library.with_suffix(f".{os.getpid()}")  # others may build the same at a time
        subprocess.run([COMPILER, *FLAGS, "-shared", "-o", str(made), str(text)], check=True)
        made.rename(library)
        return library

    def get_function(self, name):
        return Kernel(self.library, name)


def module(folder):
    """A module that may stand as `cupy` in sys.modules."""
    Module.folder = Path(folder)
    cupy = types.ModuleType("cupy")
    cupy.__spec__ = importlib.machinery.ModuleSpec("cupy", None)
    for name in (
        "abs", "add", "arange", "argwhere", "broadcast_to", "clip", "concatenate",
        "exp", "full", "full_like", "isfinite", "isnan", "ix_", "log", "log1p",
        "logical_or", "matmul", "maximum", "may_share_memory", "minimum", "moveaxis",
        "multiply", "ones", "ones_like", "repeat", "rint", "shares_memory", "sign",
        "sqrt", "square", "stack", "sum", "take_along_axis", "where", "zeros",
        "zeros_like",
    ):  # fmt: skip
        setattr(cupy, name, _function(name))
    for function in (empty, array, argsort, asarray, from_dlpack, ascontiguousarray, asnumpy,
                     copyto, flatnonzero, ndarray):  # fmt: skip
        setattr(cupy, function.__name__, function)
    cupy.RawModule = Module
    runtime = types.SimpleNamespace(getDeviceCount=lambda: 1)
    cupy.cuda = types.SimpleNamespace(
        Device=_Device, runtime=runtime, Stream=Stream, MemoryPool=MemoryPool,
        MemoryPointer=MemoryPointer, using_allocator=using_allocator,
        get_current_stream=lambda: _thread.streams[-1],
    )  # fmt: skip
    return cupy


def special():
    """A module that may stand as `cupyx.scipy.special` in sys.modules."""
    module = types.ModuleType("cupyx.scipy.special")
    for name in ("expit", "logit", "ndtr"):
        setattr(module, name, _function(name, scipy.special))
    return module
