"""CuPy arrays: every kernel compiles for every processor, and gives the numbers of the reference.

The same tests run for three kinds of arrays: NumPy's; CuPy's where there is a device; and "host",
the texts of the kernels compiled by g++ and run on the host behind a stand-in for CuPy
(support/host_cupy.py). What they cannot tell without a device is whether CUDA's own arithmetic and
memory do what the stand-ins do.
"""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from dropcore import (
    Key,
    Mask,
    dropout,
    dropout_backward,
    masked_matmul,
    masked_matmul_backward,
    reference,
)
from dropcore import max_norm_ as project_
from dropcore._backends import cuda
from dropcore._backends.cuda import launching
from dropcore._backends.cuda.endings import ACTIVATIONS
from dropcore._backends.cuda.masks import collapsed
from dropcore._backends.gradients import BlockGradient, ProductGradient
from dropcore.noise import decision_uniform, normal, uniform
from dropcore.updates import adadelta_, adagrad_, adam_, global_norm, rmsprop_, sgd_
from support import host_cupy
from support.arrays import assert_same_bits, norms, on_host

KEY = Key(0x0123456789ABCDEF, stream=5, step=77)
DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
REAL = [np.float32, np.float64]
KEEPS = [0.0, 2.0**-32, 0.1, 0.5, 0.75, 0.9, 1 - 2.0**-32, 1.0]
SIZES = [0, 1, 5, 64, 127, 128, 129, 513, 4099, 9000]
OFFSETS = [0, 1, 4, 31, 64, 100, 127, 300, (1 << 34) - 300, (1 << 36) - 5, (1 << 63) - 9000]
DATA = Path(__file__).parents[1] / "data"
CAPABILITIES = ("75", "80", "90", "100")

# ---- every kernel compiles ----


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
    options = [*launching.OPTIONS, "-ftz=true", f"--gpu-architecture=sm_{capability}"]
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
    (module, dtype, {"KIND": kind} if module == "ending" else {})
    for module, dtypes in launching.MODULES.items()
    for dtype in dtypes or (None,)
    for kind in (ACTIVATIONS.values() if module == "ending" else (0,))
    if dtype in (None, "float32") or kind in (ACTIVATIONS[None], ACTIVATIONS["gelu"])
]


@pytest.mark.kernels
@pytest.mark.parametrize("module", launching.MODULES)
def test_every_kernel_compiles(module, tmp_path):
    library, nvcc = nvrtc(), shutil.which("nvcc")
    texts = [launching.source(name, dtype, **more) for name, dtype, more in TEXTS if name == module]
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


def compile_by_nvcc(nvcc, text, place):
    place.write_text(text)
    made = place.with_suffix(".fatbin")
    code = [f"-gencode=arch=compute_{c},code=sm_{c}" for c in CAPABILITIES]
    options = [option.replace("--std", "-std") for option in (*launching.OPTIONS, "-ftz=true")]
    subprocess.run(
        [nvcc, *options, *code, "-Werror=all-warnings", "-diag-suppress=177", "-fatbin",
         "-o", str(made), str(place)], check=True,
    )  # fmt: skip
    assert made.stat().st_size > 4 * 1000


def test_the_texts_are_whole():
    found = {path.stem for path in launching.FOLDER.glob("*.cu")}
    assert found == set(launching.MODULES)
    for module, dtype, more in TEXTS:
        text = launching.source(module, dtype, **more)
        assert "#include" not in text.replace("#include <stdint.h>", "")
        assert launching.HEADER.read_text() in text


# ---- the kinds of arrays ----


def numbers(shape, dtype=np.float32, seed=0):
    """Normal ones of many sizes, with what is special at the front."""
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=shape) * 2.0 ** rng.integers(-20, 8, size=shape)).astype(dtype)
    special = [0.0, -0.0, np.inf, -np.inf, 6e4, -7e-8, 1e-40, 65519.0, 65520.0, 1.0]
    with np.errstate(over="ignore"):
        x.reshape(-1)[: len(special)] = np.array(special[: x.size]).astype(dtype)
    return x


# ---- masks ----


@pytest.mark.parametrize("keep", KEEPS)
def test_masks_bit_for_bit(xp, keep):
    like = xp.zeros(1)
    for size, offset in itertools.product(SIZES, OFFSETS):
        mask = Mask(size, keep=keep, key=KEY, offset=offset)
        kept = reference.decisions(
            size, keep, seed=KEY.seed, stream=KEY.stream, step=KEY.step, offset=offset
        )
        bits = mask.packed(like)
        assert type(bits) is type(like)
        assert_same_bits(bits, reference.pack(kept))
        if offset in (0, 31):
            assert_same_bits(mask.to_bool(like), kept)
            assert_same_bits(mask.indices(like), np.flatnonzero(kept))


def test_frozen_masks(xp):
    like = xp.zeros(1)
    for line in (DATA / "frozen_masks.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        seed, stream, step, domain, offset, size, _, keep, bits = line.split(" ")
        key = Key(int(seed, 16), int(stream), int(step), domain=int(domain))
        mask = Mask(int(size), keep=float.fromhex(keep), key=key, offset=int(offset))
        assert on_host(mask.packed(like)).tobytes().hex() == bits


@pytest.mark.parametrize("shape", [(7, 300), (3, 5, 7), (2, 3, 4, 5, 6, 2)])
def test_arrays_of_rates(xp, shape):
    rng = np.random.default_rng(3)
    x = numbers(shape, seed=4)
    rates = [
        rng.uniform(size=shape),
        rng.uniform(size=(*shape[:-1], 1)),
        rng.uniform(size=shape[-1:]),
    ]
    rates.append(np.where(rng.uniform(size=shape) < 0.3, 0.0, 1.0))
    # Every other axis shared: more axes than a kernel takes.
    rates.append(rng.uniform(size=[n if a % 2 else 1 for a, n in enumerate(shape)]))
    for rate in rates:
        mask = Mask(shape, rate, key=KEY, offset=11)
        assert_same_bits(
            dropout(xp.asarray(x), rate, key=KEY, offset=11), dropout(x, rate, key=KEY, offset=11)
        )
        assert_same_bits(mask.packed(xp.zeros(1)), mask.packed())
        on_device = Mask(shape, xp.asarray(rate), key=KEY, offset=11)
        assert_same_bits(on_device.packed(), mask.packed())
        assert_same_bits(dropout(xp.asarray(x), mask=on_device), dropout(x, mask=mask))


@pytest.mark.parametrize("offset", [0, 11, 127])
def test_rates_next_to_what_decides(xp, offset):
    """Elements that the last plane of their threshold decides, be it the first or the 32nd."""
    u = reference.uniforms(KEY.seed, KEY.stream, KEY.step, offset, 3000)
    above = np.arange(3000) % 2
    short = np.array([0.0, 0.25, 0.5, 0.625, 0.75, 1.0])[np.arange(3000) % 6]
    for keep in ((u + above) / 2.0**32, short):
        mask = Mask(3000, keep=xp.asarray(keep), key=KEY, offset=offset)
        want = above == 1 if keep is not short else u < short * 2.0**32
        assert_same_bits(mask.packed(xp.zeros(1)), reference.pack(want))


def test_rates_on_the_device_are_clamped(gpu):
    keep = np.array([-1.0, 0.0, 0.5, 1.0, 7.0, np.nan, np.inf])
    mask = Mask((100, 7), keep=gpu.asarray(keep), key=KEY)
    clamped = Mask((100, 7), keep=np.array([0.0, 0.0, 0.5, 1.0, 1.0, 0.0, 1.0]), key=KEY)
    assert_same_bits(mask.packed(), clamped.packed())
    assert_same_bits(mask.scale, clamped.scale)


@pytest.mark.parametrize("run", [2, 3, 64])
def test_runs(xp, run):
    mask = Mask((5, 130), 0.4, key=KEY, run=run, offset=9)
    x = numbers((5, 130))
    assert_same_bits(mask.to_bool(xp.zeros(1)), mask.to_bool())
    assert_same_bits(dropout(xp.asarray(x), mask=mask), dropout(x, mask=mask))
    each = Mask((5, 130), np.linspace(0, 1, 5)[:, None], key=KEY, run=run)
    assert_same_bits(dropout(xp.asarray(x), mask=each), dropout(x, mask=each))


# ---- dropout ----


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("keep", KEEPS)
def test_dropout_by_key(xp, dtype, keep):
    for size, offset in itertools.product(SIZES, OFFSETS[:9]):
        x = numbers(size, dtype, seed=size)
        mask = Mask(size, keep=keep, key=KEY, offset=offset)
        want = reference.dropout(x, mask.to_bool(), mask.scale)
        assert_same_bits(dropout(xp.asarray(x), keep=keep, key=KEY, offset=offset), want)
        assert_same_bits(dropout_backward(xp.asarray(x), keep=keep, key=KEY, offset=offset), want)


@pytest.mark.parametrize("blocks", [1, 2, 40])
@pytest.mark.parametrize(("n", "offset"), [(9000, 0), (70_001, 5)])
def test_any_launch_gives_the_same(gpu, n, offset, blocks):
    """Warps that decide 1 ... 32 groups at a time, once or many times."""
    x, mask = np.ones(n, np.float32), Mask(n, 0.3, key=KEY, offset=offset)
    source, out = gpu.asarray(x), gpu.asarray(np.zeros(n, np.float32))
    launching.launch(
        source, "dropout", "dropout_drawn", blocks, launching.at(source), launching.at(out),
        np.int64(n), np.float32(1), *launching.draw(KEY, mask.domain, mask.threshold, offset),
    )  # fmt: skip
    assert_same_bits(out, mask.to_bool().astype(np.float32))


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout_of_every_part_of_an_array(xp, dtype):
    """Memory that is not aligned to what a thread takes at a time."""
    x = numbers(700, dtype)
    for start, end, offset in itertools.product(range(5), (650, 699, 700), (0, 1, 2, 130)):
        mask = Mask(end - start, 0.3, key=KEY, offset=offset)
        want = reference.dropout(x[start:end], mask.to_bool(), mask.scale)
        own, out = xp.asarray(x.copy()), xp.zeros(700, dtype)
        assert dropout(own[start:end], mask=mask, out=out[start:end]) is not None
        assert_same_bits(out[start:end], want)
        assert not on_host(out[:start]).any()
        assert not on_host(out[end:]).any()
        given = Mask.given(xp.asarray(mask.to_bool()), keep=0.7)
        dropout(own[start:end], mask=given, out=own[start:end])  # in place
        assert_same_bits(own[start:end], reference.dropout(x[start:end], mask.to_bool(), 1 / 0.7))
        assert_same_bits(own[:start], x[:start])
        assert_same_bits(own[end:], x[end:])


def test_dropped_nan_is_gone(xp):
    x = np.full(1000, np.nan, np.float32)
    y = on_host(dropout(xp.asarray(x), 0.5, key=KEY))
    kept = Mask(1000, 0.5, key=KEY).to_bool()
    assert np.isnan(y[kept]).all()
    assert (y[~kept].view(np.uint32) == 0).all()


VIEWS = {
    "transposed": lambda a: a.T,
    "every other": lambda a: a[:, ::2, ::3],
    "backwards": lambda a: a[::-1, :, ::-1],
    "cut": lambda a: a[1:, 3:37, 1:-2],
    "one column": lambda a: a[:, :, 5:6],
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_strides(xp, view):
    x = numbers((6, 40, 33))
    part = view(xp.asarray(x.copy()))
    want = dropout(np.ascontiguousarray(view(x)), 0.4, key=KEY)
    assert_same_bits(dropout(part, 0.4, key=KEY), want)
    assert dropout(part, 0.4, key=KEY, out=part) is part
    assert_same_bits(part, want)


SHARED = [
    ((30, 40), (1, 40)), ((30, 40), (30, 1)), ((30, 40), (40,)), ((30, 40), (1, 1)),
    ((4, 30, 40), (4, 1, 40)), ((4, 6, 6, 10), (4, 1, 1, 10)), ((4, 6, 6, 10), (1, 6, 1, 10)),
    ((2, 3, 2, 3, 2, 3), (2, 1, 2, 1, 2, 1)), ((2, 3, 2, 3, 2, 3), (1, 3, 1, 3, 1, 3)), ((), ()),
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "own"), SHARED)
def test_masks_that_are_shared(xp, dtype, shape, own):
    x = numbers(shape, dtype)
    mask = Mask(own, 0.3, key=KEY, offset=3)
    want = reference.dropout(x, np.broadcast_to(mask.to_bool(), shape), mask.scale)
    assert_same_bits(dropout(xp.asarray(x), mask=mask), want)
    packed = Mask.from_packed(xp.asarray(mask.packed()), own, keep=0.7)
    assert_same_bits(dropout(xp.asarray(x), mask=packed), dropout(x, mask=mask.rescaled(1 / 0.7)))


def test_given_masks_move_to_the_device(gpu):
    x, kept = numbers((10, 30)), np.random.default_rng(1).uniform(size=(10, 30)) < 0.5
    mask = Mask.given(kept, keep=0.5)
    assert_same_bits(dropout(gpu.asarray(x), mask=mask), dropout(x, mask=mask))
    on_device = Mask.given(gpu.asarray(kept), keep=0.5)
    assert_same_bits(on_device.to_bool(), kept)
    assert_same_bits(on_device.packed(), mask.packed())
    assert_same_bits(on_device.indices(), mask.indices())


class Foreign:
    """An array of another library on the device, as DLPack shows it."""

    def __init__(self, array):
        self.array = array

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, **_):
        return self.array


def test_arrays_of_other_libraries(host):
    x, w = numbers((8, 30))[2:], np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    y = dropout(Foreign(x), 0.5, key=KEY)
    assert type(y) is host.ndarray
    assert_same_bits(y, dropout(x, 0.5, key=KEY))
    found = masked_matmul(Foreign(x), Foreign(w), activation="relu")
    np.testing.assert_allclose(on_host(found), masked_matmul(x, w, activation="relu"), rtol=1e-5)
    assert cuda.as_array("x", Foreign(x)).data.ptr == x.ctypes.data  # the same memory


def test_errors_say_what_is_allowed(gpu):
    x = gpu.zeros((4, 6), np.float32)
    with pytest.raises(TypeError, match=r"x must be float32.*got int64"):
        dropout(gpu.zeros(3, np.int64), 0.5, key=1)
    with pytest.raises(TypeError, match=r"out must be a cupy\.ndarray"):
        dropout(x, 0.5, key=1, out=np.zeros((4, 6), np.float32))
    with pytest.raises(ValueError, match="shape and dtype of x"):
        dropout(x, 0.5, key=1, out=gpu.zeros((4, 5), np.float32))
    with pytest.raises(ValueError, match="overlaps x"):
        dropout(x[1:], 0.5, key=1, out=x[:-1])
    with pytest.raises(ValueError, match="does not broadcast"):
        dropout(x, mask=Mask((3, 6), 0.5, key=1))
    with pytest.raises(TypeError, match="on one device"):
        masked_matmul(np.zeros((4, 6), np.float32), gpu.zeros((6, 2), np.float32))
    with pytest.raises(TypeError, match="must be an array, got ndarray, and w is on the GPU"):
        sgd_(x, np.zeros((4, 6), np.float32), learning_rate=0.1)


def test_nothing_waits_for_the_device(host):
    rng = np.random.default_rng(0)  # finite numbers, whatever the masks keep
    x, w = (host.asarray(rng.normal(size=s).astype(np.float32)) for s in ((8, 30), (30, 20)))
    v, rates = host.zeros((30, 20), np.float32), host.asarray(np.full(30, 0.5))
    before = host_cupy.waits
    dropout(x, 0.5, key=KEY)
    dropout(x, rates, key=KEY)
    dropout(x, 0.5, key=KEY, shared_axes=0)
    normal((3, 4), key=KEY, like=x)
    project_(w, 1.0, axis=0)
    sgd_(w, w.copy(), v, learning_rate=0.1, momentum=0.9, max_norm=1.0, axis=0)
    masks = {"x_mask": Mask((1, 30), 0.5, key=1), "y_mask": Mask((1, 20), 0.5, key=2)}
    y = masked_matmul(x, w, activation="relu", **masks)
    masked_matmul_backward(y, x, w, y, activation="relu", **masks)
    assert host_cupy.waits == before


def test_without_cupy_one_sentence(monkeypatch):
    launching.forget()
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match="pip install cupy-cuda12x"):
        cuda.require_device()
    launching.forget()


# ---- noise ----


@pytest.mark.parametrize("dtype", REAL)
def test_noise(xp, dtype):
    like = xp.zeros(1)
    for size, offset in itertools.product([0, 1, 5, 64, 4099], OFFSETS):
        z = on_host(normal(size, key=KEY, offset=offset, dtype=dtype, like=like))
        index = np.uint64(offset) + np.arange(size, dtype=np.uint64)
        want = reference.normal(KEY.seed, KEY.stream, KEY.step, index)
        assert z.dtype == dtype
        ulps = np.abs(z - want) / np.spacing(np.abs(want).astype(dtype)).astype(np.float64)
        assert ulps.max(initial=0) <= (4 if dtype == np.float32 else 24)
        assert_same_bits(uniform(size, key=KEY, offset=offset, dtype=dtype, like=like),
                  uniform(size, key=KEY, offset=offset, dtype=dtype))  # fmt: skip
        assert_same_bits(
            decision_uniform((size,), KEY, offset, like), decision_uniform((size,), KEY, offset)
        )


@pytest.mark.parametrize("dtype", REAL)
def test_noise_is_that_of_the_core(xp, dtype):
    """The same operations in the same order, also far out in the tails."""
    z = normal((300, 1001), key=KEY, dtype=dtype, like=xp.zeros(1))
    assert_same_bits(z, normal((300, 1001), key=KEY, dtype=dtype))


def test_frozen_normals(xp):
    for line in (DATA / "frozen_normals.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        seed, stream, step, index, _, want = line.split(" ")
        key = Key(int(seed, 16), int(stream), int(step))
        z = on_host(normal(1, key=key, offset=int(index), like=xp.zeros(1)))[0]
        assert abs(z - float.fromhex(want)) <= 4 * np.spacing(np.float32(abs(float.fromhex(want))))


# ---- max-norm ----

LAYOUTS = [
    ((37, 50), 0), ((37, 50), 1), ((3000, 5), 0), ((5, 3000), 1), ((1, 1), 0), ((300,), 0),
    ((3, 3, 8, 16), (0, 1, 2)), ((3, 3, 8, 16), (0, 3)), ((4, 70, 33), 1), ((6, 1, 7), (0, 2)),
    ((0, 4), 0), ((4, 0), 0), ((70, 33), (0, 1)), ((200, 1), 1), ((200, 1), 0),
]  # fmt: skip


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize(("shape", "axis"), LAYOUTS)
def test_max_norm(xp, dtype, shape, axis):
    w = np.random.default_rng(1).normal(size=shape).astype(dtype)
    bound = float(np.median(norms(w, axis))) if w.size else 1.0
    own = xp.asarray(w.copy())
    assert project_(own, bound, axis=axis) is own
    found, want = on_host(own), reference.max_norm(w, bound, axis)
    assert (norms(found, axis) <= bound).all()
    np.testing.assert_allclose(found, want, rtol=1e-6 if dtype == np.float32 else 1e-13)
    inside = np.broadcast_to(norms(w, axis).reshape(np.sum(w, axis=axis, keepdims=True).shape)
                             <= bound * (1 - 1e-12), shape)  # fmt: skip
    assert_same_bits(found[inside], w[inside])
    again = xp.asarray(found.copy())
    project_(again, bound, axis=axis)
    assert_same_bits(again, found)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", REAL)
def test_max_norm_of_odd_numbers(xp, dtype, axis):
    w = np.random.default_rng(2).normal(size=(8, 8)).astype(dtype)
    lines = w.T if axis == 0 else w
    lines[0, 3], lines[1, 2], lines[2] = np.nan, -np.inf, 0
    lines[3], lines[4] = np.finfo(dtype).max, np.finfo(dtype).smallest_subnormal
    if dtype == np.float64:
        lines[5], lines[6] = 1e200, 1e-200
    else:
        lines[5] = 1e-41
    for bound in (1e-3, 1e-30, 1e-44 if dtype == np.float32 else 1e-210):
        own = xp.asarray(w.copy())
        project_(own, bound, axis=axis)
        found = on_host(own).T if axis == 0 else on_host(own)
        assert_same_bits(found[:3], np.ascontiguousarray(lines[:3]))
        for line, before in zip(found[3:].astype(np.float64), lines[3:], strict=True):
            unit = np.abs(line).max()
            with np.errstate(over="ignore"):
                assert unit == 0 or np.sqrt(np.sum((line / unit) ** 2)) <= bound / unit
                if np.abs(before.astype(np.float64)).max() < bound / np.sqrt(8):
                    assert_same_bits(line.astype(dtype), before)


def test_max_norm_of_views(xp):
    w = np.random.default_rng(3).normal(size=(30, 40)).astype(np.float32)
    for view in (lambda a: a.T, lambda a: a[::2, 1::3], lambda a: a[3:, :7]):
        own = xp.asarray(w.copy())
        project_(view(own), 1.5, axis=0)
        want = w.copy()
        view(want)[...] = reference.max_norm(np.ascontiguousarray(view(w)), 1.5, 0)
        np.testing.assert_allclose(on_host(own), want, rtol=1e-6)


# ---- updates ----

FORMS = {
    "plain": (sgd_, reference.sgd, {}, {}),
    "decay": (sgd_, reference.sgd, {"weight_decay": 0.3}, {}),
    "momentum": (sgd_, reference.sgd, {"momentum": 0.9}, {"velocity": False}),
    "nesterov": (
        sgd_, reference.sgd, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.2},
        {"velocity": False},
    ),
    "adamw": (
        adam_, reference.adam, {"step": 3, "weight_decay": 0.3}, {"mean": False, "square": True},
    ),
    "rmsprop": (rmsprop_, reference.rmsprop, {"beta": 0.9}, {"square": True}),
    "rmsprop all": (
        rmsprop_, reference.rmsprop, {"momentum": 0.8, "epsilon": 0.1},
        {"square": True, "mean": False, "velocity": False},
    ),
    "adagrad": (adagrad_, reference.adagrad, {"epsilon": 1e-3}, {"square": True}),
    "adadelta": (adadelta_, reference.adadelta, {"rho": 0.8}, {"square": True, "change": True}),
}  # fmt: skip
PROJECTIONS = [((37, 50), None), ((37, 50), 0), ((37, 50), 1), ((3, 3, 8, 6), (0, 1, 2)),
               ((3, 3, 8, 6), (1, 3)), ((5, 700), 1), ((0, 3), None), ((), None)]  # fmt: skip


def weights(shape, dtype, states, seed=0):
    rng = np.random.default_rng(seed)
    w, g = (rng.normal(size=shape).astype(dtype) for _ in range(2))
    w, g = np.asarray(w), np.asarray(g)
    made = {}
    for name, positive in states.items():
        state = np.asarray(rng.normal(size=shape)).astype(dtype)
        made[name] = abs(state) if positive else state
    return w, g, made


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("shape", "axis"), PROJECTIONS)
def test_updates(xp, dtype, form, shape, axis):
    step, slow, options, states = FORMS[form]
    w, g, made = weights(shape, dtype, states)
    want, *changed = slow(w, g, **made, learning_rate=0.1, **options)
    own, own_states = xp.asarray(w.copy()), {n: xp.asarray(s.copy()) for n, s in made.items()}
    bound = {} if axis is None else {"max_norm": 2.0, "axis": axis}
    assert step(own, xp.asarray(g), **own_states, learning_rate=0.1, **options, **bound) is own
    for (name, state), wanted in zip(own_states.items(), [c for c in changed if c is not None]):
        assert name in made
        assert_same_bits(state, np.asarray(wanted))
    if axis is None:
        assert_same_bits(own, np.asarray(want))
    else:
        inside = reference.max_norm(np.asarray(want), 2.0, axis)
        assert (norms(on_host(own), axis) <= 2.0).all()
        np.testing.assert_allclose(
            on_host(own), inside, rtol=1e-6 if dtype == np.float32 else 1e-13
        )


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("live", [(5, 7), (0, 7), (30, 20), (1, 1)])
def test_updates_of_live_blocks(xp, lazy, axis, live):
    rng = np.random.default_rng(4)
    w, _, made = weights((30, 20), np.float32, {"velocity": False})
    rows, columns = (np.sort(rng.permutation(n)[:k]) for n, k in zip((30, 20), live))
    values = rng.normal(size=live).astype(np.float32)
    options = {"learning_rate": 0.1, "momentum": 0.9, "lazy": lazy}
    bound = {} if axis is None else {"max_norm": 2.0, "axis": axis}
    want, velocity = w.copy(), made["velocity"].copy()
    sgd_(want, BlockGradient(values, rows, columns, (30, 20)), velocity, **options, **bound)
    own, own_velocity = xp.asarray(w), xp.asarray(made["velocity"])
    block = BlockGradient(xp.asarray(values), xp.asarray(rows), xp.asarray(columns), (30, 20))
    sgd_(own, block, own_velocity, **options, **bound)
    assert_same_bits(own_velocity, velocity)
    np.testing.assert_allclose(on_host(own), want, rtol=0 if axis is None else 1e-6)
    assert_same_bits(block.dense(), np.asarray(BlockGradient(values, rows, columns, (30, 20))))


def test_updates_of_products_and_views(xp):
    x, dz, w = (numbers(shape, np.float64, seed=s)[5:] for s, shape in
                enumerate([(25, 30), (25, 40), (35, 40)]))  # fmt: skip
    x[~np.isfinite(x)], dz[~np.isfinite(dz)], w[~np.isfinite(w)] = 0, 0, 0
    own = xp.asarray(w.copy())
    sgd_(own, ProductGradient(xp.asarray(x), xp.asarray(dz)), learning_rate=0.1)
    np.testing.assert_allclose(on_host(own), w - 0.1 * (x.T @ dz), rtol=1e-9, atol=1e-6)
    own = xp.asarray(w.copy())
    sgd_(own.T, xp.asarray(w.T.copy()), learning_rate=0.1, max_norm=1e9, axis=1)
    np.testing.assert_allclose(on_host(own), w - 0.1 * w, rtol=1e-12)


def test_global_norm(xp):
    a, b = np.random.default_rng(5).normal(size=(300, 400)), np.arange(7.0)
    want = np.sqrt((a**2).sum() + (b**2).sum())
    assert global_norm([xp.asarray(a), xp.asarray(b)]) == pytest.approx(want, rel=1e-14)
    assert global_norm([xp.asarray(a * 1e200)]) == pytest.approx(
        1e200 * np.sqrt((a**2).sum()), rel=1e-14
    )
    assert global_norm([xp.zeros((0, 3))]) == 0


# ---- products ----


def products(shape=(37, 70), n=53, dtype=np.float32):
    rng = np.random.default_rng(6)
    return (
        rng.normal(size=shape).astype(dtype), rng.normal(size=(shape[-1], n)).astype(dtype),
        rng.normal(size=n).astype(dtype), rng.normal(size=(*shape[:-1], n)).astype(dtype),
    )  # fmt: skip


X_MASKS = {"none": None, "element": (37, 70), "unit": (1, 70), "row": (37, 1)}
W_MASKS = {"none": None, "weight": (70, 53), "sample": (37, 70, 53)}
Y_MASKS = {"none": None, "element": (37, 53), "unit": (53,), "odd": (37, 1)}


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("x_mask", X_MASKS)
@pytest.mark.parametrize("w_mask", W_MASKS)
@pytest.mark.parametrize("y_mask", Y_MASKS)
def test_products(xp, dtype, x_mask, w_mask, y_mask):
    x, w, bias, dy = products(dtype=dtype)
    masks = {
        name: None if shape is None else Mask(shape, 0.4, key=Key(8, stream=i))
        for i, (name, shape) in enumerate(
            zip(("x_mask", "w_mask", "y_mask"), (X_MASKS[x_mask], W_MASKS[w_mask], Y_MASKS[y_mask]))
        )
    }
    pairs = {n: None if m is None else (m.to_bool(), m.scale) for n, m in masks.items()}
    for n, shape in (("x_mask", x.shape), ("y_mask", dy.shape)):
        if pairs[n] is not None:
            pairs[n] = np.broadcast_to(pairs[n][0], shape), np.broadcast_to(pairs[n][1], shape)
    on = [xp.asarray(a) for a in (x, w, bias, dy)]
    y = masked_matmul(*on[:3], activation="relu", **masks)
    assert type(y) is type(on[0])
    tolerance = (
        {"rtol": 2e-5, "atol": 4e-4} if dtype == np.float32 else {"rtol": 1e-11, "atol": 1e-11}
    )
    want = reference.masked_matmul(x, w, bias, activation="relu", **pairs)
    np.testing.assert_allclose(on_host(y), want, **tolerance)
    found = masked_matmul_backward(on[3], *on[:2], y, activation="relu", **masks)
    wanted = reference.masked_matmul_backward(dy, x, w, on_host(y), activation="relu", **pairs)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(on_host(a), b, **tolerance)


def test_products_of_groups_and_given_masks(xp):
    x, w, bias, dy = products((4, 9, 30), 20)
    masks = {"x_mask": Mask((4, 1, 30), 0.5, key=1), "y_mask": Mask((4, 1, 20), 0.5, key=2)}
    on = [xp.asarray(a) for a in (x, w, bias, dy)]
    y = masked_matmul(x, w, bias, **masks)
    np.testing.assert_allclose(on_host(masked_matmul(*on[:3], **masks)), y, rtol=2e-5, atol=1e-4)
    wanted = masked_matmul_backward(dy, x, w, y, **masks)
    for a, b in zip(masked_matmul_backward(on[3], *on[:2], None, **masks), wanted, strict=True):
        np.testing.assert_allclose(on_host(a), b, rtol=2e-5, atol=2e-4)
    given = Mask.given(xp.asarray(masks["x_mask"].to_bool()), keep=0.5)
    y2 = masked_matmul(*on[:2], x_mask=given)
    np.testing.assert_allclose(
        on_host(y2), masked_matmul(x, w, x_mask=masks["x_mask"]), rtol=2e-5, atol=1e-4
    )
    sample = Mask((4, 30, 20), 0.5, key=3)
    bits = Mask.from_packed(xp.asarray(sample.packed()), sample.shape, keep=0.5)
    np.testing.assert_allclose(
        on_host(masked_matmul(*on[:2], w_mask=bits)), masked_matmul(x, w, w_mask=sample),
        rtol=2e-5, atol=1e-4,
    )  # fmt: skip


# ---- the end of a layer ----

KINDS = ["relu", "leaky_relu", "elu", "selu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid",
         "softplus"]  # fmt: skip


def rounded(x, dtype):
    return x.astype(dtype).astype(np.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("own", [None, "element", "unit", "given"])
@pytest.mark.parametrize("columns", [1, 5, 64, 300])
def test_bias_relu_dropout_residual(gpu, dtype, own, columns):
    rows = 23
    rng = np.random.default_rng(7)
    z, residual, dy = (rng.normal(size=(rows, columns)).astype(dtype) for _ in range(3))
    bias = rng.normal(size=columns).astype(dtype)
    mask = kept = None
    if own is not None:
        shape = (1, columns) if own == "unit" else (rows, columns)
        mask = Mask(shape, 0.3, key=KEY, offset=37)
        kept = np.broadcast_to(mask.to_bool(), z.shape)
        if own == "given":
            mask = Mask.given(gpu.asarray(kept), keep=0.7)
    scale = 1.0 if own is None else np.float64(mask.scale)
    real = np.float64 if dtype == np.float64 else np.float32
    value = z.astype(real) + bias.astype(real)
    value = np.where(value <= 0, 0, value)
    if own is not None:
        value = np.where(kept, value * real(scale), 0)
    want = (value + residual.astype(real)).astype(dtype)
    on = [gpu.asarray(a) for a in (z, bias, residual, dy)]
    y = cuda.finished(on[0], on[1], kind="relu", mask=mask, residual=on[2], out=None)
    assert_same_bits(y, want)
    held = gpu.asarray(np.where(value > 0, 1, 0).astype(dtype))
    back_value = dy.astype(real) * real(scale)
    if own is not None:
        back_value = np.where(kept, back_value, 0)
    dz = cuda.unfinished(on[3], held, kind="relu", mask=mask)
    assert_same_bits(dz, np.where(value > 0, back_value, 0).astype(dtype))
    sums = gpu.zeros(columns, dtype)
    cuda.sum_columns(dz, sums)
    sums = on_host(sums).astype(np.float64)
    exact = on_host(dz).astype(np.float64).sum(axis=0)
    eps = float(ml_dtypes.finfo(dtype).eps)
    close = {np.float64: 1e-13, np.float32: 1e-5}[real]
    np.testing.assert_allclose(sums, exact, rtol=eps, atol=close)
    assert_same_bits(
        cuda.finished(on[0], on[1], kind="relu", mask=mask, residual=on[2], out=on[0]), want
    )


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("kind", KINDS)
def test_activations(gpu, dtype, kind):
    from dropcore._ops.activation import HOLD_INPUT, Activation

    x = np.concatenate([np.linspace(-30, 30, 2001), [0.0, -0.0, 1e-20, 100.0, -100.0]]).astype(
        dtype
    )
    x = x[None]
    dy = np.random.default_rng(8).normal(size=x.shape).astype(dtype)
    parameter = {"leaky_relu": 0.1, "elu": 0.7}.get(kind, 0.0)
    core = Activation(kind, parameter)
    want, held = core.forward(x)
    tolerance = (
        {"rtol": 4e-6, "atol": 1e-7} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-15}
    )
    y = cuda.finished(gpu.asarray(x), None, kind=kind, parameter=parameter, out=None)
    np.testing.assert_allclose(on_host(y), want, **tolerance)
    held = gpu.asarray(x) if kind in HOLD_INPUT else gpu.asarray(want)
    dx = cuda.unfinished(gpu.asarray(dy), held, kind=kind, parameter=parameter)
    np.testing.assert_allclose(on_host(dx), core.backward(dy, on_host(held)), **tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_compact_and_scatter(gpu, dtype):
    x = numbers((20, 30), dtype)
    rng = np.random.default_rng(9)
    rows, columns = np.sort(rng.permutation(20)[:7]), np.sort(rng.permutation(30)[:11])
    for r, c in itertools.product((rows, None, rows[:0]), (columns, None)):
        place = np.ix_(np.arange(20) if r is None else r, np.arange(30) if c is None else c)
        part = cuda.compact(
            gpu.asarray(x), *(None if u is None else gpu.asarray(u) for u in (r, c))
        )
        assert_same_bits(part, x[place])
        whole = np.zeros_like(x)
        whole[place] = x[place]
        assert_same_bits(cuda.scatter(part, r, c, (20, 30)), whole)


def test_long_shared_axes_are_not_cut_to_32_bits(gpu):
    """A mask (2, 1, 1) of a shape whose inner axis, with its neighbour, has 2**32 elements."""
    extent, stride = [1, 1, 2, 2**32], [0, 0, 1, 0]
    x = gpu.asarray(np.arange(1, 9, dtype=np.float32))
    bits, out = gpu.asarray(np.array([1], np.uint8)), gpu.asarray(np.zeros(8, np.float32))
    launching.launch(
        x, "dropout", "dropout_shared", 1, launching.at(x), launching.at(out), np.int64(8),
        np.float32(2), launching.at(bits), launching.at(None),
        *launching.numbers(extent, stride, [0] * 4),
    )  # fmt: skip
    assert_same_bits(out, np.arange(2, 18, 2, dtype=np.float32))


def test_axes_that_go_together():
    assert collapsed((2, 3, 4), (12, 4, 1)) == ([1, 1, 1, 24], [[0, 0, 0, 1]])
    assert collapsed((2, 3, 4), (0, 0, 1)) == ([1, 1, 6, 4], [[0, 0, 0, 1]])
    assert collapsed((2, 3, 4), (4, 0, 1)) == ([1, 2, 3, 4], [[0, 4, 0, 1]])
    assert collapsed((2,) * 6, (8, 0, 2, 0, 1, 0)) is None
    assert collapsed((), ()) == ([1] * 4, [[0] * 4])
