"""A stand-in for CuPy on the host: the real kernels, compiled by g++, on memory of the host.

It has the few functions that `dropcore.backends.cuda` and the tests ask for, and is stricter than
CuPy: nothing becomes a NumPy array by itself, kernels get arguments of exactly their types, new
memory is full of rubbish, and what is written beside an array is found. `waits` counts what would
wait for a device.
"""

from __future__ import annotations

import ctypes
import hashlib
import operator
import re
import shutil
import subprocess
import types
import weakref
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
FLAGS = ["-x", "c++", "-std=c++17", "-O2", "-ffp-contract=off", "-fno-strict-aliasing", "-fPIC",
         "-Wno-unknown-pragmas", "-w"]  # fmt: skip
TOGETHER = ("update_rows", "update_columns", "square_sums", "sum_columns", "product_dx")
GUARD, RUBBISH = 64, 0xA5
COMPILER = shutil.which("g++")

waits = 0
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


def _strict(*arguments):
    for x in arguments:
        if isinstance(x, np.ndarray) and x.ndim:
            raise TypeError("Unsupported type <class 'numpy.ndarray'>")


class _Device:
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

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    shape = property(lambda self: self._a.shape)
    dtype = property(lambda self: self._a.dtype)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    strides = property(lambda self: self._a.strides)
    itemsize = property(lambda self: self._a.itemsize)
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
        return _wrap(self._a[self._index(key)])

    def __setitem__(self, key, value):
        _strict(value)
        self._a[self._index(key)] = _raw(value)

    def __float__(self):
        global waits
        waits += 1
        return float(self._a)

    def __bool__(self):
        global waits
        waits += 1
        return bool(self._a)

    def _method(name):
        def method(self, *args, **kwargs):
            _strict(*args)
            return _wrap(getattr(self._a, name)(*_raw(args), **kwargs))

        return method

    for _name in ("astype", "reshape", "copy", "sum", "max", "swapaxes", "ravel", "view", "min",
                  "mean", "argmax", "clip", "all", "any"):  # fmt: skip
        locals()[_name] = _method(_name)

    def _operator(function):
        def left(self, other):
            _strict(other)
            return _wrap(function(self._a, _raw(other)))

        def right(self, other):
            _strict(other)
            return _wrap(function(_raw(other), self._a))

        return left, right

    for _name in ("add", "sub", "mul", "truediv", "matmul", "and", "or", "rshift", "pow"):
        _function = getattr(operator, _name if _name not in ("and", "or") else f"{_name}_")
        locals()[f"__{_name}__"], locals()[f"__r{_name}__"] = _operator(_function)
    for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
        locals()[f"__{_name}__"] = _operator(getattr(operator, _name))[0]

    def _in_place(function):
        def method(self, other):
            _strict(other)
            self._a = function(self._a, _raw(other))
            return self

        return method

    for _name in ("iadd", "isub", "imul", "itruediv", "irshift"):
        locals()[f"__{_name}__"] = _in_place(getattr(operator, _name))

    def __abs__(self):
        return _wrap(abs(self._a))

    def __invert__(self):
        return _wrap(~self._a)

    def __int__(self):
        global waits
        waits += 1
        return int(self._a)

    def __neg__(self):
        return _wrap(-self._a)


# ---- memory ----


def empty(shape, dtype=float):
    shape = shape if isinstance(shape, tuple) else (shape,)
    kind = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    room = np.full(size + 2 * GUARD + 64, RUBBISH, np.uint8)
    start = -room.ctypes.data % 64 + GUARD
    _guards[id(room)] = weakref.ref(room), start, start + size
    weakref.finalize(room, _guards.pop, id(room), None)
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
    a = np.asarray(x, dtype)
    new = empty(a.shape, a.dtype)
    new._a[...] = a
    return new


def from_dlpack(x):
    return ndarray(np.from_dlpack(x.__dlpack__()))


def ascontiguousarray(x, dtype=None):
    x = asarray(x, dtype)
    if x.flags.c_contiguous:
        return x
    new = empty(x.shape, x.dtype)
    new._a[...] = x._a
    return new


def asnumpy(x):
    global waits
    waits += 1
    return np.array(x._a)


def flatnonzero(x):
    global waits
    waits += 1
    return _wrap(np.flatnonzero(x._a))


def _function(name):
    def function(*args, **kwargs):
        _strict(*args)
        out = kwargs.pop("out", None)
        if out is not None:
            getattr(np, name)(*_raw(args), out=out._a, **kwargs)
            return out
        found = getattr(np, name)(*_raw(args), **kwargs)
        if isinstance(found, tuple):
            return tuple(_wrap(part) for part in found)
        return _wrap(found)

    return function


# ---- kernels ----


class Kernel:
    def __init__(self, module, name):
        self.name, self.launch = name, getattr(module, f"launch_{name}")
        letters = getattr(module, f"letters_{name}")
        letters.restype = ctypes.c_char_p
        self.letters = letters().decode()
        self.together = int(name.startswith(TOGETHER))

    def __call__(self, grid, block, arguments):
        found = "".join(a.dtype.char for a in arguments)
        wanted = self.letters.replace("P", "L")
        assert found == wanted, f"{self.name} takes {self.letters}, got {found}"
        slots = [np.array(a) for a in arguments]
        at = (ctypes.c_void_p * len(slots))(*(slot.ctypes.data for slot in slots))
        self.launch(at, *grid, *block, self.together, len(launches) % 2)
        launches.append(self.name)
        check_guards()


class Module:
    folder: Path  # where libraries go

    def __init__(self, *, code, options=()):
        name = f"kernels-{hashlib.sha256(code.encode()).hexdigest()[:16]}"
        library = self.folder / f"{name}.so"
        if not library.exists():
            library = self._built(code, self.folder / f"{name}.cc", library)
        self.library = ctypes.CDLL(str(library))

    def _built(self, code, text, library):
        text.write_text(f'#include "{HERE / "c" / "host_cuda.h"}"\n{code}')
        marked = subprocess.run(
            [COMPILER, *FLAGS, "-E", "-D__global__=A_KERNEL", str(text)],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        names = re.findall(r'extern "C" A_KERNEL void (\w+)\(', marked)
        assert names
        with text.open("a") as file:
            file.writelines(f"HOST_ENTRY({name})\n" for name in names)
        subprocess.run([COMPILER, *FLAGS, "-shared", "-o", str(library), str(text)], check=True)
        return library

    def get_function(self, name):
        return Kernel(self.library, name)


def module(folder):
    """A module that may stand as `cupy` in sys.modules."""
    Module.folder = Path(folder)
    cupy = types.ModuleType("cupy")
    for name in ("zeros", "zeros_like", "full", "arange", "where", "minimum", "maximum", "rint",
                 "repeat", "broadcast_to", "moveaxis", "matmul", "add", "ix_", "may_share_memory",
                 "shares_memory", "abs", "isnan", "exp", "log", "log1p", "sign", "isfinite",
                 "argwhere", "stack", "concatenate"):  # fmt: skip
        setattr(cupy, name, _function(name))
    for function in (empty, asarray, from_dlpack, ascontiguousarray, asnumpy, flatnonzero, ndarray):
        setattr(cupy, function.__name__, function)
    cupy.RawModule = Module
    runtime = types.SimpleNamespace(getDeviceCount=lambda: 1)
    cupy.cuda = types.SimpleNamespace(Device=_Device, runtime=runtime)
    return cupy
