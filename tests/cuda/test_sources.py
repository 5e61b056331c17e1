"""Every CUDA kernel compiles for every processor, where there is a compiler for them."""

from __future__ import annotations

import ast
import ctypes
import importlib.util
import itertools
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from dropcore._backends.cuda import kernels

CAPABILITIES = ("75", "80", "90", "100")


def nvrtc():
    """NVIDIA's run-time compiler, from the wheel or a toolkit, or None."""
    folders = [Path("/usr/local/cuda/lib64")]
    for package in ("nvidia.cuda_nvrtc", "nvidia.cu13"):
        try:
            spec = importlib.util.find_spec(package)
        except ModuleNotFoundError:
            continue
        if spec is not None:
            folders += [Path(place) / "lib" for place in spec.submodule_search_locations]
    for folder in folders:
        for library in sorted(folder.glob("libnvrtc.so.*")):
            return ctypes.CDLL(str(library))
    return None


def compiled_by_nvrtc(library, text, capability):
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    assert not library.nvrtcCreateProgram(
        ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None
    )
    options = [*kernels.OPTIONS, "-ftz=true", f"--gpu-architecture=sm_{capability}"]
    array = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    failed = library.nvrtcCompileProgram(program, len(options), array)
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    assert not failed, log.value.decode()
    library.nvrtcGetCUBINSize(program, ctypes.byref(size))
    binary = ctypes.create_string_buffer(size.value)
    library.nvrtcGetCUBIN(program, binary)
    return binary.raw


# Every text that is compiled: a module, the type of its numbers, and what else is fixed.
TEXTS = [
    (module, dtype, {"ACTIVATION": number} if module == "epilogue" else {})
    for module, dtypes in kernels.MODULES.items()
    for dtype in dtypes or (None,)
    for number, name in enumerate(
        kernels.ENUMERATIONS["ACTIVATION"] if module == "epilogue" else ("identity",)
    )
    if dtype in (None, "float32") or name in ("identity", "gelu")
]


@pytest.mark.kernels
@pytest.mark.parametrize("module", kernels.MODULES)
def test_every_kernel_compiles(module, tmp_path):
    library, nvcc = nvrtc(), shutil.which("nvcc")
    texts = [kernels.source(name, dtype, **more) for name, dtype, more in TEXTS if name == module]
    assert texts
    if library is not None:
        with ThreadPoolExecutor() as pool:
            made = list(pool.map(partial(compiled_by_nvrtc, library), *zip(
                *itertools.product(texts, CAPABILITIES))))  # fmt: skip
        assert all(binary[:4] == b"\x7fELF" for binary in made)
    elif nvcc is not None:
        with ThreadPoolExecutor() as pool:
            places = [tmp_path / f"{module}{number}.cu" for number in range(len(texts))]
            list(pool.map(partial(compile_by_nvcc, nvcc), texts, places))
    else:
        pytest.skip("neither NVRTC (pip install nvidia-cuda-nvrtc) nor nvcc is here")


EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "vendor_philox"


@pytest.mark.kernels
def test_the_example_that_copies_the_header_compiles(tmp_path):
    """By NVRTC as one text, by nvcc as a whole program."""
    library, nvcc = nvrtc(), shutil.which("nvcc")
    if library is None and nvcc is None:
        pytest.skip("neither NVRTC (pip install nvidia-cuda-nvrtc) nor nvcc is here")
    if library is not None:
        text = (EXAMPLE / "dropout.cuh").read_text("ascii")
        assert '#include "philox.h"' in text
        text = text.replace('#include "philox.h"', kernels.HEADER.read_text("ascii"))
        for capability in CAPABILITIES:
            assert compiled_by_nvrtc(library, text, capability)[:4] == b"\x7fELF"
    if nvcc is not None:
        made = tmp_path / "dropout"
        subprocess.run(
            [nvcc, "-Werror=all-warnings", "-diag-suppress=177", f"-I{kernels.HEADER.parent}",
             "-arch=sm_90", "-o", str(made), str(EXAMPLE / "dropout.cu")], check=True,
        )  # fmt: skip
        done = subprocess.run([made], capture_output=True, text=True, check=False)
        assert (done.returncode, "usage: " in done.stderr) == (2, True)


def compile_by_nvcc(nvcc, text, place):
    place.write_text(text)
    made = place.with_suffix(".fatbin")
    code = [f"-gencode=arch=compute_{c},code=sm_{c}" for c in CAPABILITIES]
    options = [option.replace("--std", "-std") for option in (*kernels.OPTIONS, "-ftz=true")]
    subprocess.run(
        [nvcc, *options, *code, "-Werror=all-warnings", "-diag-suppress=177", "-fatbin",
         "-o", str(made), str(place)], check=True,
    )  # fmt: skip
    assert made.stat().st_size > 4 * 1000


def test_the_texts_are_whole():
    found = {path.stem for path in kernels.FOLDER.glob("*.cu")}
    assert found == set(kernels.MODULES)
    for module, dtype, more in TEXTS:
        text = kernels.source(module, dtype, **more)
        assert "#include" not in text.replace("#include <stdint.h>", "")
        assert kernels.HEADER.read_text() in text


def test_enumerators_and_block_shapes_are_defined_once():
    """No kernel defines what kernels.py puts in front of its source."""
    defined = re.findall(r"^#define (\w+)", kernels.source("graph"), re.M)
    assert {"WARP", "LINES", "AXES", "RULE_ADAM", "CELL_GRU", "ACTIVATION_RELU"} <= set(defined)
    for path in (*kernels.FOLDER.glob("*.cu"), kernels.FOLDER / "common.cuh"):
        own = re.findall(r"^#define (\w+)", path.read_text(), re.M)
        assert not set(own) & set(kernels._defines())


def test_the_backend_of_cuda_does_not_import_that_of_the_cpu():
    for path in kernels.FOLDER.parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in getattr(node, "names", [])]
            where = getattr(node, "module", None) or ""
            imported = [f"{where}.{name}" for name in names]
            assert not [name for name in imported if re.search(r"_backends\.cpu|_core", name)]
