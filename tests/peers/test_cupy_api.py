"""The real CuPy has what is asked of it and what its stand-in offers. No device is needed.

Arrays here are somewhere in memory that nobody may touch: shapes, strides and addresses can be
asked for, and that is all.
"""

from __future__ import annotations

import ast
import operator
import types
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import dropcore
from dropcore._backends.cuda import arrays, graphs, kernels
from dropcore._base.device import array_namespace, on_device
from support import host_cupy

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
PACKAGE = Path(dropcore.__file__).parent
WORDS = ("xp", "library", "cupy")  # how the package calls CuPy


def somewhere(shape, dtype=np.float32, address=1 << 40):
    """A CuPy array at an address, without a device."""
    dtype = np.dtype(dtype)
    memory = cupy.cuda.UnownedMemory(address, 1 << 30, None, 0)
    return cupy.ndarray(shape, dtype, cupy.cuda.MemoryPointer(memory, 0))


# ---- names ----


def is_cupy(node):
    """Whether an expression is CuPy: xp, self.xp, library(); torch.library is not."""
    if isinstance(node, ast.Call):
        return is_cupy(node.func)
    if ast.unparse(node) == "torch.library":
        return False
    return getattr(node, "id", getattr(node, "attr", None)) in WORDS


def names_asked_for(file):
    """Chains of attributes of CuPy in a file, as ("cuda", "runtime", "getDeviceCount")."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        chain = []
        while isinstance(node, ast.Attribute):
            chain.append(node.attr)
            node = node.value
            if is_cupy(node):
                yield tuple(reversed(chain))
                break


def test_cupy_has_what_the_package_asks_for():
    asked = {
        (file.relative_to(PACKAGE), chain)
        for file in PACKAGE.rglob("*.py")
        for chain in names_asked_for(file)
    }
    found = {chain for _, chain in asked}
    assert {("RawModule",), ("ndarray",), ("cuda", "runtime", "getDeviceCount")} <= found
    missing = []
    for file, chain in sorted(asked):
        try:
            operator.attrgetter(".".join(chain))(cupy)
        except AttributeError:
            missing.append(f"{file}: cupy.{'.'.join(chain)}")
    assert not missing


def missing_names(stand_in, real, inside=""):
    """What a module or class has, and the real one has not."""
    for name, value in vars(stand_in).items():
        private = name.startswith("_") and not (name.startswith("__") and callable(value))
        if private:
            continue
        if not hasattr(real, name):
            yield inside + name
        elif isinstance(value, types.SimpleNamespace):
            yield from missing_names(value, getattr(real, name), f"{inside}{name}.")


def test_cupy_has_what_its_stand_in_offers(host_module):
    assert not list(missing_names(host_module, cupy))
    assert not list(missing_names(host_cupy.ndarray, cupy.ndarray, "ndarray."))
    invented = types.SimpleNamespace(zeros=1, nothing=2, cuda=types.SimpleNamespace(none=3))
    assert list(missing_names(invented, cupy)) == ["nothing", "cuda.none"]


# ---- arrays ----


@pytest.mark.parametrize("dtype", kernels.DTYPES)
def test_every_dtype_is_taken(dtype):
    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    a = somewhere((6, 8), dtype)
    assert on_device(a)
    assert array_namespace(a) is cupy
    assert arrays.as_array("x", a) is a
    assert arrays.expect_out(a, (6, 8), dtype, "x") is a
    assert a.dtype.name in kernels.STORED
    assert kernels.ptr(a) == 1 << 40
    assert kernels.contiguous(a) is a
    assert not a.swapaxes(0, 1).flags.c_contiguous
    assert getattr(a.flags, "writeable", True)
    # What CuPy's own functions have for it.
    for ufunc in (cupy.add, cupy.multiply, cupy.maximum):
        loops = [op.in_types for op in ufunc._ops.ops]
        assert (dtype.type,) * 2 in loops or (dtype,) * 2 in loops


def test_overlap_is_found_without_a_device():
    a = somewhere((1000, 1000))
    assert arrays.overlap(a, a.view(np.int32))
    assert arrays.same_memory(a, a[:, :])
    assert arrays.may_overlap(a[:, ::2], a[:, 1::2])
    assert not arrays.overlap(a[:, ::2], a[:, 1::2])
    assert arrays.overlap(a[:, ::2], a[:, 4:])
    assert arrays.overlap(a[::-1], a[:1])
    assert not arrays.may_overlap(a, somewhere((3,), address=(1 << 40) + a.nbytes))
    assert arrays.may_overlap(a, somewhere((3,), address=(1 << 40) + a.nbytes - 4))
    assert not arrays.may_overlap(a, a[:0])
    assert not arrays.overlap(somewhere((0,), address=0), a)


def test_memory_of_a_graph_refuses_copies_from_the_host():
    """CuPy copies from the host by these methods of the memory that an allocator returns."""

    def allocate(size):
        return cupy.cuda.MemoryPointer(cupy.cuda.UnownedMemory(1 << 40, size, None, 0), 128)

    pointer = graphs._refuse_copies(allocate)(1024)
    assert isinstance(pointer, cupy.cuda.MemoryPointer)
    assert pointer.ptr == (1 << 40) + 128
    for copy in (pointer.copy_from_host, pointer.copy_from_host_async):
        with pytest.raises(ValueError, match="copies numbers from the host"):
            copy(1 << 20, 1024)


def test_the_handle_of_cublas_is_public():
    assert isinstance(somewhere((2, 2)).device, cupy.cuda.Device)
    assert hasattr(cupy.cuda.Device, "cublas_handle")


# ---- kernels ----


def test_the_types_of_arguments_are_taken():
    from cupy._core._scalar import CScalar  # what CuPy makes of an argument that is no array

    for number in (*kernels.NO_DRAW, np.float32(2), np.float64(2), np.int32(2), np.int64(2)):
        assert CScalar(number).dtype == number.dtype


OWN_CONTRACTIONS = ("attention", "recurrent", "softmax")  # in CUDA's exp, log and tanh


@pytest.mark.parametrize("module", kernels.MODULES)
def test_kernels_compile_with_the_options_that_cupy_adds(module):
    """Among them is -ftz=true, which must not reach what keeps denormal numbers."""
    from cupy._core.core import assemble_cupy_compiler_options
    from cupy.cuda.compiler import _NVRTCProgram

    try:
        cupy.cuda.nvrtc.getVersion()
    except Exception as error:
        pytest.skip(f"no NVRTC (pip install cupy-cuda12x[ctk]): {error}")
    options = (
        *assemble_cupy_compiler_options(kernels.OPTIONS), "-ftz=true", "-arch=compute_90",
        "--device-as-default-execution-space",
    )  # fmt: skip
    for dtype in kernels.MODULES[module] or (None,):
        more = {"ACTIVATION": 1} if module == "epilogue" else {}
        program = _NVRTCProgram(kernels.source(module, dtype, **more), f"{module}.cu")
        text = program.compile(options)[0].decode()
        if module not in OWN_CONTRACTIONS:
            assert "fma.rn.f32" not in text
            assert "fma.rn.ftz.f32" not in text
        if module == "dropout":
            assert "mul.rn.ftz.f32" not in text
            assert ("mul.rn.f32" in text) == (dtype != "float64")
        if module == "update":
            assert "cvt.ftz.f64.f32" not in text
            assert "cvt.rz.ftz.f32.f64" not in text
