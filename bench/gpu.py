"""Everything on a GPU in one run: first whether it is right, then how fast it is.

    python bench/gpu.py --output gpu.json [--quick] [--only parity_masks dropout ...] [--list]

Parity: the same calls on NumPy and on CuPy arrays, compared bit for bit where the library promises
bits. Times: by CUDA events, the candidates taking turns there and back (A B C C B A), medians over
the turns; beside a copy of as many bytes, CuPy's own idiom, PyTorch eager and torch.compile. A
section that fails, or a peer that is not there, is noted and the rest goes on; the JSON is written
after every section, and a Markdown table of the targets is printed at the end.

Needs a GPU, CuPy and dropcore. Runs unattended, in less than 8 minutes on an H200.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import dropcore
from dropcore import Key, Mask, dropout, dropout_backward, masked_matmul, masked_matmul_backward
from dropcore import max_norm_ as project_
from dropcore._backends import cuda
from dropcore._backends.cuda import launching
from dropcore.noise import normal

MI, GIB = 1 << 20, 1 << 30
KEEP = 0.5
KEY = Key(0x0123456789ABCDEF, stream=5, step=77)

Call = Callable[[], object]
Builders = dict[str, Callable[[], Call]]


class Absent(Exception):
    """A candidate cannot be measured here."""


# ---- what a run knows ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """How large things are: elements of flat arrays, sides of matrices."""

    flat: int = 512 * MI
    mask: int = 1024 * MI
    matrix: tuple[int, int] = (16384, 16384)
    ended: tuple[int, int] = (32768, 8192)
    layers: tuple[int, ...] = (784, 8192, 8192, 10)
    batches: tuple[int, ...] = (128, 1024)
    units: tuple[tuple[int, int], ...] = ((128, 4096), (1024, 4096), (128, 8192), (1024, 8192))
    parity: int = 4 * MI + 77
    far: int = (1 << 32) + 1000  # an index beyond 32 bits
    rounds: int = 8
    turn: float = 4.0  # milliseconds that a turn lasts at least


SIZES = {
    "full": Sizes(),
    "quick": Sizes(
        flat=256 * MI, mask=256 * MI, matrix=(8192, 8192), ended=(16384, 8192), batches=(128,),
        units=((128, 4096),), parity=MI + 77, rounds=3,
    ),
    "tiny": Sizes(
        flat=3000, mask=3000, matrix=(30, 40), ended=(20, 30), layers=(12, 16, 16, 4),
        batches=(8,), units=((8, 32),), parity=3000, far=5000, rounds=1, turn=0.0,
    ),
}  # fmt: skip


class Clock:
    """Times by events on the device; every library here works on its default stream."""

    def __init__(self, xp: Any) -> None:
        self._cuda = xp.cuda

    def milliseconds(self, call: Call, repeats: int) -> float:
        """Of one call."""
        start, end = self._cuda.Event(), self._cuda.Event()
        start.record()
        for _ in range(repeats):
            call()
        end.record()
        end.synchronize()
        return float(self._cuda.get_elapsed_time(start, end)) / repeats


@dataclass
class Setting:
    """What a section is called with.

    Attributes
    ----------
    xp : module
        CuPy.
    clock : Clock
    sizes : Sizes
    deadline : float
        When, by `time.monotonic`, no section begins any more.
    found : dict
        What earlier sections leave for later ones: the rates of copying and reading.
    """

    xp: Any
    clock: Any
    sizes: Sizes
    deadline: float = float("inf")
    found: dict[str, float] = field(default_factory=dict)

    def numbers(self, *shape: int, dtype: Any = np.float32, seed: int = 1) -> Any:
        """Standard normal ones on the device."""
        drawn = normal(shape, key=seed, like=self.xp.zeros(1))
        return drawn if dtype == np.float32 else drawn.astype(dtype)

    def back(self, array: Any) -> np.ndarray:
        return array if isinstance(array, np.ndarray) else self.xp.asnumpy(array)


def bfloat16() -> np.dtype:
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def torch_on_device() -> Any:
    """PyTorch, or Absent."""
    try:
        import torch
    except ImportError as error:
        raise Absent(f"PyTorch cannot be imported: {error}") from error
    if not torch.cuda.is_available():
        raise Absent("PyTorch sees no device")
    return torch


# ---- sections ------------------------------------------------------------------------------------

SECTIONS: dict[str, Callable[[Setting], dict[str, Any]]] = {}


def section(run: Callable[[Setting], dict[str, Any]]) -> Callable[[Setting], dict[str, Any]]:
    """Put a function in the list of sections, under its name."""
    SECTIONS[run.__name__] = run
    return run


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


class Checks:
    """The outcomes of a section of parity."""

    def __init__(self, setting: Setting) -> None:
        self._setting, self.outcomes = setting, {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What raises is one outcome, and the rest goes on."""
        try:
            yield
        except Exception as error:
            self.outcomes[name] = {"ok": False, "failed": first_line(error)}
            traceback.print_exc()

    def bits(self, name: str, found: Any, wanted: np.ndarray) -> None:
        """The same bits."""
        found = self._setting.back(found)
        kind = np.dtype(f"u{wanted.dtype.itemsize}")
        same = found.dtype == wanted.dtype and found.shape == wanted.shape
        wrong = -1
        if same:
            pair = (np.ascontiguousarray(a).view(kind) for a in (found, wanted))
            wrong = int(np.count_nonzero(np.not_equal(*pair)))
        self.outcomes[name] = {"ok": wrong == 0, "elements_that_differ": wrong}

    def close(self, name: str, found: Any, wanted: Any, most: float) -> None:
        """||found - wanted|| <= most ||wanted||."""
        found, wanted = (np.asarray(self._setting.back(a), np.float64) for a in (found, wanted))
        error = float(np.linalg.norm(found - wanted) / (np.linalg.norm(wanted) or 1.0))
        self.outcomes[name] = {"ok": error <= most, "relative_error": error, "allowed": most}

    def result(self) -> dict[str, Any]:
        return {"ok": all(o["ok"] for o in self.outcomes.values()), "checks": self.outcomes}


def interleaved(setting: Setting, calls: dict[str, Call]) -> dict[str, dict[str, float]]:
    """Milliseconds of each call: the median over the turns, the least, and the spread."""
    clock, times, repeats = setting.clock, {name: [] for name in calls}, {}
    for name, call in calls.items():
        clock.milliseconds(call, 2)
        once = clock.milliseconds(call, 1)
        repeats[name] = min(50, max(1, round(setting.sizes.turn / max(once, 1e-3))))
    for _ in range(setting.sizes.rounds):
        for name in [*calls, *reversed(calls)]:
            times[name].append(clock.milliseconds(calls[name], repeats[name]))
    return {
        name: {"ms": median(own), "least_ms": min(own), "most_ms": max(own)}
        for name, own in times.items()
    }


def measured(
    setting: Setting, builders: Builders, *, moved: int = 0, elements: int = 0, own: str = ""
) -> dict[str, Any]:
    """Times of the candidates, what of it they moved, and ratios to our own."""
    calls, absent = {}, {}
    for name, builder in builders.items():
        try:
            calls[name] = builder()
            calls[name]()
        except Exception as error:
            calls.pop(name, None)
            absent[name] = str(error) if isinstance(error, Absent) else first_line(error)
            if not isinstance(error, Absent):
                traceback.print_exc()
    result: dict[str, Any] = interleaved(setting, calls)
    for time_of in result.values():
        if moved:
            time_of["GB/s"] = moved / time_of["ms"] / 1e6
        if elements:
            time_of["ps_an_element"] = time_of["ms"] * 1e9 / elements
        if own in result:
            time_of["x_own"] = time_of["ms"] / result[own]["ms"]
    return result | ({"absent": absent} if absent else {})


def target(name: str, found: float | None, wanted: float, *, most: bool = False) -> dict[str, Any]:
    """A line of the table: at least (or at most) so much."""
    met = None if found is None else bool(found <= wanted if most else found >= wanted)
    return {"target": name, "wanted": f"{'<=' if most else '>='} {wanted:g}", "found": found,
            "met": met}  # fmt: skip


def over(result: dict[str, Any], above: str, below: str) -> float | None:
    """How many times as long `above` takes as `below`."""
    if above not in result or below not in result:
        return None
    return result[above]["ms"] / result[below]["ms"]


def fastest(result: dict[str, Any], *names: str) -> str:
    """Which of the names that were measured took least, or the first."""
    there = [name for name in names if name in result]
    return min(there, key=lambda name: result[name]["ms"]) if there else names[0]


# ---- is it right? --------------------------------------------------------------------------------


@section
def parity_masks(s: Setting) -> dict[str, Any]:
    """Bits, for any launch shape, any offset, and beyond the 32nd bit of an index."""
    checks, like, n = Checks(s), s.xp.zeros(1), s.sizes.parity
    before = launching.BLOCKS
    for blocks, keep, offset in itertools.product((1, 3, before), (0.5, 0.9), (0, 31)):
        name = f"keep {keep}, offset {offset}, {blocks} blocks a processor"
        with checks.part(name):
            launching.BLOCKS = blocks
            mask = Mask(n, keep=keep, key=KEY, offset=offset)
            checks.bits(name, mask.packed(like), mask.packed())
    launching.BLOCKS = before
    with checks.part("rates"):
        rates = np.random.default_rng(0).uniform(size=(1, 1000))
        mask = Mask((n // 1000, 1000), rates, key=KEY)
        checks.bits("array of rates", mask.packed(like), mask.packed())
    with checks.part("far"):
        far = s.sizes.far
        packed = Mask(far, keep=KEEP, key=KEY).packed(like)
        tail = far // 8 * 8 - 800
        wanted = Mask(far - tail, keep=KEEP, key=KEY, offset=tail).packed()
        checks.bits(f"the end of {far} elements", packed[tail // 8 :], wanted)
    return checks.result()


@section
def parity_dropout(s: Setting) -> dict[str, Any]:
    """Forward and backward of four dtypes; in place, strided, shared, given, denormal."""
    checks, n = Checks(s), s.sizes.parity
    for dtype in (np.float32, np.float64, np.float16, bfloat16()):
        name = np.dtype(dtype).name
        with checks.part(name):
            rng = np.random.default_rng(1)
            x = (rng.normal(size=n) * 2.0 ** rng.integers(-20, 8, n)).astype(dtype)
            x[:6] = np.array([0, -0.0, np.inf, np.nan, 1e-40, -3e-39]).astype(dtype)
            for keep in (0.5, 0.9, 1.0):
                want = dropout(x, keep=keep, key=KEY)
                on = s.xp.asarray(x)
                checks.bits(f"{name}, keep {keep}", dropout(on, keep=keep, key=KEY), want)
                checks.bits(f"{name}, keep {keep}, backward",
                            dropout_backward(on, keep=keep, key=KEY), want)  # fmt: skip
                dropout(on[3:], keep=keep, key=KEY, out=on[3:])
                checks.bits(f"{name}, keep {keep}, in place, unaligned", on[3:],
                            dropout(x[3:], keep=keep, key=KEY))  # fmt: skip
            packed = Mask.from_packed(Mask(n, KEEP, key=KEY).packed(), (n,), keep=KEEP)
            checks.bits(f"{name}, given bits", dropout(s.xp.asarray(x), mask=packed),
                        dropout(x, mask=packed))  # fmt: skip
            rows = x[: n // 10 * 10].reshape(-1, 10)
            checks.bits(f"{name}, shared and strided",
                        dropout(s.xp.asarray(rows.T.copy()).T, KEEP, key=KEY, shared_axes=0),
                        dropout(rows, KEEP, key=KEY, shared_axes=0))  # fmt: skip
    with checks.part("a large array"):
        far = s.sizes.far
        x = s.xp.full(far, 1, np.float16)
        dropout(x, KEEP, key=KEY, out=x)
        tail = far - 1000
        want = dropout(np.ones(1000, np.float16), KEEP, key=KEY, offset=tail)
        checks.bits(f"the end of {far} elements", x[tail:], want)
    return checks.result()


@section
def parity_noise(s: Setting) -> dict[str, Any]:
    """Within 4 units in the last place of the CPU's normals; in fact the same operations."""
    checks, like = Checks(s), s.xp.zeros(1)
    for dtype in (np.float32, np.float64):
        name = np.dtype(dtype).name
        with checks.part(name):
            want = normal(s.sizes.parity, key=KEY, dtype=dtype)
            found = s.back(normal(s.sizes.parity, key=KEY, dtype=dtype, like=like))
            units = np.abs(found - want) / np.spacing(np.abs(want))
            checks.outcomes[name] = {"ok": bool(units.max() <= 4), "ulp": float(units.max())}
            checks.bits(f"{name}, the same bits", found, want)
            # Bits are more than is promised here.
            checks.outcomes[f"{name}, the same bits"]["ok"] = True
    return checks.result()


@section
def parity_max_norm(s: Setting) -> dict[str, Any]:
    """Rows, columns, kernels of convolutions; nothing is longer than the bound."""
    checks, rng = Checks(s), np.random.default_rng(2)
    for shape, axis in (((300, 700), 0), ((300, 700), 1), ((3, 3, 32, 48), (0, 1, 2))):
        for dtype in (np.float32, np.float64):
            name = f"{shape}, axis {axis}, {np.dtype(dtype).name}"
            with checks.part(name):
                w = rng.normal(size=shape).astype(dtype)
                bound = float(np.median(np.sqrt((w.astype(np.float64) ** 2).sum(axis))))
                own, want = s.xp.asarray(w), w.copy()
                project_(own, bound, axis=axis)
                project_(want, bound, axis=axis)
                checks.close(name, own, want, 1e-6 if dtype == np.float32 else 1e-13)
                norms = np.sqrt((s.back(own).astype(np.float64) ** 2).sum(axis))
                checks.outcomes[f"{name}, inside"] = {"ok": bool((norms <= bound).all())}
    return checks.result()


@section
def parity_products(s: Setting) -> dict[str, Any]:
    """masked_matmul and its gradients, with every kind of mask."""
    checks, rng = Checks(s), np.random.default_rng(3)
    m, k, n = 96, 256, 160
    given = (rng.normal(size=shape) for shape in ((m, k), (k, n), (n,), (m, n)))
    x, w, bias, dy = given
    masks = {
        "plain": {}, "elements": {"x_mask": (m, k), "y_mask": (m, n)},
        "units": {"x_mask": (1, k), "y_mask": (1, n)}, "weights": {"w_mask": (k, n)},
        "a weight mask a sample": {"w_mask": (m, k, n)},
    }  # fmt: skip
    half = {np.dtype(np.float16): 4e-3, bfloat16(): 3e-2}
    for dtype in (np.float32, np.float64, np.float16, bfloat16()):
        dtype = np.dtype(dtype)
        most = half.get(dtype, 1e-5 if dtype == np.float32 else 1e-13)
        for kind, shapes in masks.items():
            name = f"{kind}, {dtype.name}"
            if dtype in half and kind == "a weight mask a sample":
                continue
            with checks.part(name):
                own = {n: Mask(shape, KEEP, key=Key(3, i)) for i, (n, shape) in
                       enumerate(shapes.items())}  # fmt: skip
                arrays = [a.astype(dtype) for a in (x, w, bias, dy)]
                wide = [a.astype(np.float64) for a in arrays]
                on = [s.xp.asarray(a) for a in arrays]
                want = masked_matmul(*wide[:3], activation="relu", **own)
                y = masked_matmul(*on[:3], activation="relu", **own)
                checks.close(name, y, want, most)
                # The same units are active, whatever was rounded where.
                active = s.xp.asarray(want.astype(dtype))
                wanted = masked_matmul_backward(wide[3], *wide[:2], want, activation="relu", **own)
                found = masked_matmul_backward(on[3], *on[:2], active, activation="relu", **own)
                for a, b, what in zip(found, wanted, ("dx", "dw", "dbias"), strict=True):
                    checks.close(f"{name}, {what}", a, b, most)
    return checks.result()


@section
def parity_updates(s: Setting) -> dict[str, Any]:
    """Every optimiser's steps with projection."""
    from dropcore.constraints import MaxNorm
    from dropcore.optim import SGD, Adadelta, Adagrad, AdamW, RMSprop

    checks, rng = Checks(s), np.random.default_rng(4)
    rules = {
        "SGD": SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.1), "AdamW": AdamW(0.01),
        "RMSprop": RMSprop(0.01, momentum=0.5), "Adagrad": Adagrad(0.01), "Adadelta": Adadelta(),
    }  # fmt: skip
    for (name, rule), axis in itertools.product(rules.items(), (0, 1)):
        with checks.part(f"{name}, axis {axis}"):
            w = rng.normal(size=(200, 300)).astype(np.float32)
            grads = [rng.normal(size=w.shape).astype(np.float32) for _ in range(3)]
            ends = []
            for put in (np.array, s.xp.asarray):
                params = {"weight": put(w.copy())}
                state = rule.init(params)
                for step, g in enumerate(grads):
                    rule.apply(params, {"weight": put(g)}, state, step,
                               {"weight": MaxNorm(15.0, axis=axis)})  # fmt: skip
                ends.append(params["weight"])
            checks.close(f"{name}, axis {axis}", ends[1], ends[0], 1e-6)
    return checks.result()


def models() -> dict[str, tuple[Any, tuple[int, ...]]]:
    """One of each kind, and the shape of a sample."""
    from dropcore.constraints import MaxNorm
    from dropcore.nn import LSTM, Conv2D, Dense, Dropout, Flatten, MaxPool2D, Sequential

    return {
        "dense": (
            Sequential([Dropout(0.2), Dense(64, activation="relu", constraint=MaxNorm(1.0)),
                        Dropout(0.5), Dense(48, activation="tanh"), Dropout(0.5, shared_axes=0),
                        Dense(10)]), (40,),
        ),
        "convolution": (
            Sequential([Conv2D(16, 3, padding="same", activation="relu"), Dropout(0.2),
                        MaxPool2D(2), Flatten(), Dense(10)]), (12, 12, 3),
        ),
        "LSTM": (Sequential([LSTM(24), Dropout(0.3), Dense(10)]), (9, 12)),
    }  # fmt: skip


@section
def parity_training(s: Setting) -> dict[str, Any]:
    """Two epochs of each kind of network, weights against weights; also as a CUDA graph."""
    from dropcore.optim import SGD

    checks = Checks(s)
    for name, (_, sample) in models().items():
        rng = np.random.default_rng(5)
        x = rng.normal(size=(96, *sample)).astype(np.float32)
        y = rng.integers(0, 10, 96)
        ends = {}
        for kind in ("cpu", "cuda", "cuda_graph"):
            with checks.part(f"{name}, {kind}"):
                model = models()[name][0]
                put, options = (np.asarray, {}) if kind == "cpu" else (s.xp.asarray, {})
                if kind != "cpu":
                    model.to("cuda")
                if kind == "cuda_graph":
                    options["cuda_graph"] = True
                model.fit(put(x), put(y), epochs=2, batch_size=32, key=9, progress=False,
                          optimizer=SGD(0.05, momentum=0.9), **options)  # fmt: skip
                ends[kind] = model.params
        for kind in ("cuda", "cuda_graph"):
            if "cpu" in ends and kind in ends:
                for weight, wanted in ends["cpu"].items():
                    checks.close(f"{name}, {kind}, {weight}", ends[kind][weight], wanted, 1e-3)
    return checks.result()


@section
def parity_streams(s: Setting) -> dict[str, Any]:
    """Work on a stream of its own, behind work that takes a while; PyTorch's arrays by DLPack."""
    checks, n = Checks(s), s.sizes.parity
    x = np.random.default_rng(6).normal(size=n).astype(np.float32)
    want = dropout(x, KEEP, key=KEY)
    with checks.part("stream"):
        stream = s.xp.cuda.Stream(non_blocking=True)
        with stream:
            on = s.xp.asarray(x)
            for _ in range(20):
                y = dropout(on, KEEP, key=KEY)
            stream.synchronize()
        checks.bits("a stream", y, want)
    try:
        torch = torch_on_device()
    except Absent as absent:
        checks.outcomes["DLPack"] = {"ok": True, "absent": str(absent)}
        return checks.result()
    with checks.part("DLPack"):
        tensor = torch.from_numpy(x).cuda()
        y = torch.from_dlpack(dropout(s.xp.from_dlpack(tensor), KEEP, key=KEY))
        checks.bits("DLPack", y.cpu().numpy(), want)
    return checks.result()


# ---- how fast is it? -----------------------------------------------------------------------------


def copying(s: Setting, x: Any, y: Any) -> Builders:
    """Copies of x to y: what no pass over memory is faster than."""

    def torch_copy() -> Call:
        torch = torch_on_device()
        a, b = (torch.from_dlpack(v.view(np.uint8)) for v in (x, y))
        return partial(b.copy_, a)

    return {
        "copy": lambda: partial(y.data.copy_from_device_async, x.data, x.nbytes),
        "copy_cupy": lambda: partial(y.__setitem__, Ellipsis, x),
        "copy_torch": torch_copy,
    }


@section
def dropout_passes(s: Setting) -> dict[str, Any]:
    """Dropout of a large array, forward and backward: float32 and bfloat16."""
    out: dict[str, Any] = {"targets": []}
    for dtype, wanted in ((np.dtype(np.float32), 0.92), (bfloat16(), 0.85)):
        n = s.sizes.flat
        x, y = s.numbers(n, dtype=dtype), s.numbers(n, dtype=dtype, seed=2)

        def idiom(x: Any = x, y: Any = y, n: int = n) -> Call:
            scale = x.dtype.type(1 / KEEP)

            def call() -> None:
                kept = s.xp.random.random(n, dtype=np.float32) < KEEP
                s.xp.multiply(x, kept, out=y)
                s.xp.multiply(y, scale, out=y)

            return call

        def peer(compiled: bool, x: Any = x) -> Call:
            torch = torch_on_device()
            tensor = torch.from_dlpack(x.view(np.uint16 if x.itemsize == 2 else np.float32))
            tensor = tensor.view(torch.bfloat16) if x.itemsize == 2 else tensor

            def dropped(x: Any) -> Any:
                return torch.nn.functional.dropout(x, 1 - KEEP, True)

            run = torch.compile(dropped, dynamic=False) if compiled else dropped

            def call() -> Any:
                with torch.no_grad():
                    return run(tensor)

            return call

        bits = Mask.from_packed(Mask(n, keep=KEEP, key=7).packed(x), (n,), keep=KEEP)
        result = measured(
            s,
            {
                **copying(s, x, y),
                "forward": lambda x=x, y=y: partial(dropout, x, keep=KEEP, key=7, out=y),
                "forward_0.9": lambda x=x, y=y: partial(dropout, x, keep=0.9, key=7, out=y),
                "backward": lambda x=x, y=y: partial(dropout_backward, x, keep=KEEP, key=7, out=y),
                "given_bits": lambda x=x, y=y, bits=bits: partial(dropout, x, mask=bits, out=y),
                "in_place": lambda y=y: partial(dropout, y, keep=KEEP, key=7, out=y),
                "cupy": idiom,
                "torch": partial(peer, False),
                "torch_compiled": partial(peer, True),
            },
            moved=2 * x.nbytes,
            elements=n,
            own="forward",
        )
        out[dtype.name] = {"elements": n} | result
        copy = fastest(result, "copy", "copy_cupy", "copy_torch")
        if copy in result:
            s.found[f"copy {dtype.name}"] = result[copy]["GB/s"]
        out["targets"] += [
            target(f"dropout {way}, {dtype.name}, {n // MI} Mi: share of a copy's bandwidth",
                   over(result, copy, way), wanted)
            for way in ("forward", "backward")
        ]  # fmt: skip
        del x, y, bits
    return out


@section
def packed_masks(s: Setting) -> dict[str, Any]:
    """Masks alone, as bits, and standard normals."""
    n, like = s.sizes.mask, s.xp.zeros(1)
    out: dict[str, Any] = {"elements": n}
    masks = {keep: Mask(n, keep=keep, key=7) for keep in (0.5, 0.9)}
    result = measured(
        s,
        {f"packed_{keep}": lambda m=mask: partial(m.packed, like) for keep, mask in masks.items()}
        | {"cupy": lambda: lambda: s.xp.random.random(n, dtype=np.float32) < KEEP},
        elements=n,
        own="packed_0.5",
    )
    noise = measured(
        s,
        {
            "normal": lambda: partial(normal, n // 4, key=7, like=like),
            "cupy": lambda: partial(s.xp.random.standard_normal, n // 4, dtype=np.float32),
        },
        elements=n // 4,
        own="normal",
    )
    out |= {"bits": result, "normals": noise}
    out["targets"] = [
        target(f"packed mask alone, keep {keep}: ps an element",
               result.get(f"packed_{keep}", {}).get("ps_an_element"), 0.8, most=True)
        for keep in masks
    ]  # fmt: skip
    return out


@section
def max_norm(s: Setting) -> dict[str, Any]:
    """The projection where nothing is to be shortened, and where everything is."""
    out: dict[str, Any] = {"shape": s.sizes.matrix, "targets": []}
    w, flat = s.numbers(*s.sizes.matrix), None
    for axis, name in ((1, "rows"), (0, "columns")):
        length = float(w.shape[axis]) ** 0.5

        def idiom(axis: int = axis, bound: float = 2 * length) -> Call:
            def call() -> None:
                norms = s.xp.sqrt(s.xp.sum(w * w, axis=axis, keepdims=True))
                w.__imul__(s.xp.minimum(1, bound / norms))

            return call

        def peer(axis: int = axis, bound: float = 2 * length) -> Call:
            torch = torch_on_device()
            return partial(torch.from_dlpack(w).renorm_, 2, 1 - axis, bound)

        def clipping(axis: int = axis, length: float = length) -> Call:
            # Shortened once, vectors stay inside: each turn has a smaller bound.
            bounds = (0.999**i * length for i in itertools.count())
            own = w.copy()
            return lambda: project_(own, next(bounds), axis=axis)

        flat = w.reshape(-1)
        result = measured(
            s,
            {
                "read": lambda flat=flat: flat.sum,
                "read_torch": lambda flat=flat: torch_on_device().from_dlpack(flat).sum,
                name: lambda axis=axis, b=2 * length: partial(project_, w, b, axis=axis),
                f"{name}_shortened": clipping,
                "cupy": idiom,
                "torch_renorm": peer,
            },
            moved=w.nbytes,
            own=name,
        )
        out[name] = result
        read = fastest(result, "read", "read_torch")
        bandwidth = max(
            result.get(read, {}).get("GB/s", 0.0), s.found.get("copy float32", 0.0)
        )  # the faster of reading and copying
        own = result.get(name, {}).get("GB/s")
        share = own / bandwidth if own and bandwidth else None
        if name == "rows":
            out["targets"].append(target("max-norm rows: share of read bandwidth", share, 0.85))
        else:
            out["columns_share_of_read_bandwidth"] = share
    return out


@section
def fused_ending(s: Setting) -> dict[str, Any]:
    """Bias, ReLU and dropout behind a product, and the way back; GB/s of one array in, one out."""
    out: dict[str, Any] = {"shape": s.sizes.ended, "targets": []}
    rows, columns = s.sizes.ended
    for dtype in (np.dtype(np.float32), bfloat16()):
        z, y = s.numbers(rows, columns, dtype=dtype), s.numbers(rows, columns, dtype=dtype, seed=2)
        bias, mask = s.numbers(columns, dtype=dtype, seed=3), Mask((rows, columns), KEEP, key=7)

        def peer(compiled: bool, z: Any = z, bias: Any = bias) -> Call:
            torch = torch_on_device()
            kind = torch.bfloat16 if z.itemsize == 2 else torch.float32
            a, b = (
                torch.from_dlpack(v.view(np.uint16 if v.itemsize == 2 else np.float32)).view(kind)
                for v in (z, bias)
            )

            def run(a: Any, b: Any) -> Any:
                return torch.nn.functional.dropout(torch.relu(a + b), 1 - KEEP, True)

            run = torch.compile(run, dynamic=False) if compiled else run

            def call() -> Any:
                with torch.no_grad():
                    return run(a, b)

            return call

        def idiom(z: Any = z, y: Any = y, bias: Any = bias) -> Call:
            scale = z.dtype.type(1 / KEEP)

            def call() -> None:
                s.xp.add(z, bias, out=y)
                s.xp.maximum(y, 0, out=y)
                kept = s.xp.random.random(z.shape, dtype=np.float32) < KEEP
                s.xp.multiply(y, kept, out=y)
                s.xp.multiply(y, scale, out=y)

            return call

        result = measured(
            s,
            {
                "copy": copying(s, z, y)["copy"],
                "finish": lambda z=z, y=y, bias=bias, mask=mask: partial(
                    cuda.finished, z, bias, kind="relu", mask=mask, out=y
                ),
                "unfinish": lambda z=z, y=y, mask=mask: partial(
                    cuda.unfinished, z, y, kind="relu", mask=mask, out=y
                ),
                "cupy": idiom,
                "torch": partial(peer, False),
                "torch_compiled": partial(peer, True),
            },
            moved=2 * z.nbytes,
            elements=z.size,
            own="finish",
        )
        out[dtype.name] = result
        out["targets"].append(
            target(f"bias + ReLU + dropout, {dtype.name}: times as fast as PyTorch eager",
                   over(result, "torch", "finish"), 2.5)
        )  # fmt: skip
    return out


@contextmanager
def tf32(s: Setting) -> Iterator[None]:
    """Inside, cuBLAS and PyTorch may use the matrix units on float32 rounded to 10 bits."""
    core = getattr(s.xp, "_core", None)
    before = os.environ.get("CUPY_TF32")
    os.environ["CUPY_TF32"] = "1"
    if core is not None:
        core.set_compute_type(np.float32, core._routines_linalg.COMPUTE_TYPE_TF32)
    with suppress(Absent):
        torch_on_device().set_float32_matmul_precision("high")
    try:
        yield
    finally:
        if core is not None:
            core.set_compute_type(np.float32, core._routines_linalg.COMPUTE_TYPE_DEFAULT)
        if before is None:
            del os.environ["CUPY_TF32"]
        else:
            os.environ["CUPY_TF32"] = before
        if "torch" in sys.modules:
            sys.modules["torch"].set_float32_matmul_precision("highest")


def training_data(s: Setting, batch: int) -> Iterator[tuple[Any, Any]]:
    """A few batches in turn, on the device."""
    rng, layers = np.random.default_rng(0), s.sizes.layers
    made = [
        (s.xp.asarray(rng.random((batch, layers[0]), dtype=np.float32)),
         s.xp.asarray(rng.integers(layers[-1], size=batch)))
        for _ in range(4)
    ]  # fmt: skip
    return itertools.cycle(made)


def our_step(s: Setting, batch: int, *, regularised: bool, graph: bool, **dropout: Any) -> Call:
    """A batch's forward and backward pass and its update, as `fit` makes it."""
    from dropcore.constraints import MaxNorm
    from dropcore.losses import LOSSES
    from dropcore.nn import Dense, Dropout, Sequential
    from dropcore.optim import SGD
    from dropcore.training import TrainingState
    from dropcore.training._data import Batch
    from dropcore.training._interrupts import Interrupts
    from dropcore.training._update import Update

    _, *hidden, classes = s.sizes.layers
    constraint = MaxNorm(1.4) if regularised else None
    layers: list[Any] = [Dropout(0.2, **dropout)] if regularised else []
    for units in hidden:
        layers.append(Dense(units, activation="relu", constraint=constraint))
        layers += [Dropout(0.5, **dropout)] if regularised else []
    model = Sequential([*layers, Dense(classes, constraint=constraint)])
    model.to("cuda").build((s.sizes.layers[0],), key=0)
    optimizer, state = SGD(1e-4, momentum=0.95), TrainingState()
    state.prepare(optimizer, model.params)
    data = training_data(s, batch)

    make = Update(model, optimizer, LOSSES["softmax_cross_entropy"], state, Interrupts())

    def update(x: Any, y: Any, key: Key) -> Any:
        return make(Batch(x, y), key)[:2]

    step: Callable[..., Any] = update
    if graph:
        from dropcore.training._graphed_step import GraphedStep

        step = GraphedStep(update, optimizer, state, *next(data))
    return lambda: step(*next(data), Key(7, step=state.step))


def torch_step(s: Setting, batch: int, *, regularised: bool, mode: str | None) -> Call:
    """PyTorch with its fused SGD; renorm_ without autograd. Without a mode it is eager."""
    torch = torch_on_device()
    torch.manual_seed(0)
    sizes = s.sizes.layers
    layers = [torch.nn.Dropout(0.2)] if regularised else []
    for inputs, units in itertools.pairwise(sizes[:-1]):
        layers += [torch.nn.Linear(inputs, units), torch.nn.ReLU()]
        layers += [torch.nn.Dropout(0.5)] if regularised else []
    network = torch.nn.Sequential(*layers, torch.nn.Linear(*sizes[-2:])).cuda()
    weights = [p for p in network.parameters() if p.ndim == 2]
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.95, fused=True)
    data = ((torch.from_dlpack(x), torch.from_dlpack(y)) for x, y in training_data(s, batch))

    def loss_of(x: Any, y: Any) -> Any:
        return torch.nn.functional.cross_entropy(network(x), y)

    if mode is not None:
        loss_of = torch.compile(loss_of, dynamic=False, mode=mode)

    def call() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        optimizer.zero_grad(set_to_none=True)
        loss_of(*next(data)).backward()
        optimizer.step()
        if regularised:
            with torch.no_grad():
                for weight in weights:
                    weight.renorm_(2, 0, 1.4)

    return call


@section
def training_step(s: Setting) -> dict[str, Any]:
    """A whole step with dropout and max-norm, beside steps without; products in TF32."""
    out: dict[str, Any] = {"layers": s.sizes.layers, "targets": []}
    for batch in s.sizes.batches:
        ours = partial(partial, our_step, s, batch)
        theirs = partial(partial, torch_step, s, batch)
        with tf32(s):
            result = measured(
                s,
                {
                    "regularised": ours(regularised=True, graph=False),
                    "regularised_graph": ours(regularised=True, graph=True),
                    "plain": ours(regularised=False, graph=False),
                    "plain_graph": ours(regularised=False, graph=True),
                    "units": ours(regularised=True, graph=False, shared_axes=0),
                    "torch": theirs(regularised=False, mode=None),
                    "torch_compiled": theirs(regularised=False, mode="default"),
                    "torch_graph": theirs(regularised=False, mode="reduce-overhead"),
                    "torch_regularised_compiled": theirs(regularised=True, mode="default"),
                },
                own="regularised_graph",
            )
        out[f"batch {batch}"] = result
        own = fastest(result, "regularised_graph", "regularised")
        out["targets"] += [
            target(f"step of batch {batch} with dropout and max-norm: times as fast as PyTorch "
                   f"{what} without", over(result, peer, own), 1.0)
            for peer, what in (("torch_compiled", "compiled"),
                               ("torch_graph", "compiled with CUDA graphs"))
        ]  # fmt: skip
    return out


def layer_step(s: Setting, batch: int, width: int, kind: str) -> Call:
    """A layer's share of a step: forward with ReLU, both gradients, update; new masks each time."""
    from dropcore._ops.dense import CompactActivation, DenseOp
    from dropcore.optim import SGD

    x, dy = s.numbers(batch, width), s.numbers(batch, width, seed=2)
    params = {"weight": s.numbers(width, width, seed=3) * np.float32(width**-0.5),
              "bias": s.xp.zeros(width, np.float32)}  # fmt: skip
    optimizer = SGD(1e-6, momentum=0.95, lazy=kind == "lazy")
    state, steps = optimizer.init(params), itertools.count()

    def call() -> None:
        step = next(steps)
        came, mask = x, None
        if kind != "plain":
            masks = [Mask((1, width), KEEP, key=Key(7, stream, step)) for stream in (1, 2)]
            came, mask = CompactActivation.of(x, masks[0]), masks[1]
        dense = DenseOp(came, params["weight"], params["bias"], relu=True, mask=mask,
                          live=mask is not None)  # fmt: skip
        back = dy if dense.y_units is None else dy[:, dense.y_units]
        _, dw, dbias = dense.backward(back, for_update=True)
        optimizer.apply(params, {"weight": dw, "bias": dbias}, state, step, {})

    return call


@section
def unit_masks(s: Setting) -> dict[str, Any]:
    """A layer of which half the units live on both sides, beside all of it; products in TF32."""
    out: dict[str, Any] = {"targets": []}
    for batch, width in s.sizes.units:
        kinds = {kind: partial(layer_step, s, batch, width, kind)
                 for kind in ("plain", "units", "lazy")}  # fmt: skip
        with tf32(s):
            result = measured(s, kinds, own="units")
        out[f"{batch} x {width} x {width}"] = result
        name = f"unit masks, {batch} x {width} x {width}: times as fast as our dense layer"
        out["targets"].append(target(name, over(result, "plain", "units"), 2.5))
    return out


@section
def small_calls(s: Setting) -> dict[str, Any]:
    """What a call costs where the work costs nothing: Python and the launches."""
    x, w = s.numbers(128, 128), s.numbers(128, 128, seed=2)
    y, mask = s.numbers(128, 128, seed=3), Mask((128, 128), KEEP, key=7)
    return {
        "128 x 128": measured(
            s,
            {
                "dropout": lambda: partial(dropout, x, keep=KEEP, key=7, out=y),
                "masked_matmul": lambda: partial(masked_matmul, x, w, y_mask=mask),
                "max_norm": lambda: partial(project_, w, 100.0, axis=0),
                "cupy_multiply": lambda: partial(s.xp.multiply, x, w, out=y),
                "cupy_matmul": lambda: partial(s.xp.matmul, x, w, out=y),
            },
            own="dropout",
        ),
        "targets": [],
    }


# ---- the run -------------------------------------------------------------------------------------


def description(xp: Any) -> dict[str, Any]:
    """The device and the versions."""
    found: dict[str, Any] = {"python": platform.python_version(), "numpy": np.__version__,
                             "dropcore": dropcore.__version__,
                             "isa": dropcore.build_info()["isa"]}  # fmt: skip
    with_errors: dict[str, Callable[[], Any]] = {
        "cupy": lambda: xp.__version__,
        "device": lambda: xp.cuda.runtime.getDeviceProperties(0)["name"].decode(),
        "processors": lambda: xp.cuda.Device().attributes["MultiProcessorCount"],
        "compute_capability": lambda: xp.cuda.Device().compute_capability,
        "cuda_runtime": lambda: xp.cuda.runtime.runtimeGetVersion(),
        "cuda_driver": lambda: xp.cuda.runtime.driverGetVersion(),
        "torch": lambda: torch_on_device().__version__,
    }
    for name, ask in with_errors.items():
        try:
            found[name] = ask()
        except Exception as error:
            found[name] = f"not known: {first_line(error)}"
    return found


def free_memory(setting: Setting) -> None:
    """Give back what the section held, so that the next finds it all."""
    gc.collect()
    if hasattr(setting.xp, "get_default_memory_pool"):
        setting.xp.get_default_memory_pool().free_all_blocks()
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        sys.modules["torch"].cuda.empty_cache()


def run(setting: Setting, names: list[str], output: Path | None) -> dict[str, Any]:
    """All sections, and the report as far as it goes after each."""
    report: dict[str, Any] = {
        "machine": description(setting.xp), "sections": {}, "targets": [], "parity": None,
    }  # fmt: skip
    begun = time.monotonic()
    for name in names:
        started = time.monotonic()
        print(f"{name} ...", end=" ", flush=True)
        if started > setting.deadline:
            found: dict[str, Any] = {"skipped": "no time was left"}
        else:
            try:
                found = SECTIONS[name](setting)
            except Exception as error:
                traceback.print_exc()
                found = {"failed": first_line(error)}
            free_memory(setting)
        found["seconds"] = time.monotonic() - started
        report["sections"][name] = found
        report["targets"] += found.get("targets", [])
        if name.startswith("parity"):
            right = found.get("ok", False)
            report["parity"] = right and report["parity"] is not False
        report["seconds"] = time.monotonic() - begun
        print(outcome(found), flush=True)
        if output is not None:
            partial_file = output.with_name(output.name + ".part")
            partial_file.write_text(json.dumps(report, indent=1) + "\n")
            partial_file.replace(output)
    return report


def outcome(found: dict[str, Any]) -> str:
    """A section in a word or two."""
    seconds = f"{found['seconds']:.1f} s"
    for word in ("skipped", "failed"):
        if word in found:
            return f"{word}: {found[word]} ({seconds})"
    if "checks" in found:
        wrong = [name for name, check in found["checks"].items() if not check["ok"]]
        return f"{len(found['checks'])} checks, wrong: {wrong or 'none'} ({seconds})"
    return seconds


def table(report: dict[str, Any]) -> str:
    """The targets in Markdown."""
    machine = report["machine"]
    lines = [
        "", f"{machine['device']}, CuPy {machine['cupy']}, PyTorch {machine['torch']}. "
        f"Parity: {'all right' if report['parity'] else 'NOT all right, or not asked for'}.", "",
        "| | target | measured | |", "|---|---|---|---|",
    ]  # fmt: skip
    for line in report["targets"]:
        found = "not measured" if line["found"] is None else f"{line['found']:.3g}"
        met = {True: "met", False: "missed", None: ""}[line["met"]]
        lines.append(f"| {line['target']} | {line['wanted']} | {found} | {met} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Check, measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="where the JSON goes")
    parser.add_argument("--quick", action="store_true", help="smaller and fewer: a minute or two")
    parser.add_argument("--minutes", type=float, default=7.0, help="begin no section after these")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="these sections alone")
    parser.add_argument("--list", action="store_true", help="name all sections")
    options = parser.parse_args(arguments)
    if options.list:
        for name, own in SECTIONS.items():
            print(f"{name:18} {(own.__doc__ or '').strip()}")
        return 0
    try:
        xp = launching.require_device()
    except (ImportError, RuntimeError) as error:
        print(f"bench/gpu.py needs a GPU: {error}", file=sys.stderr)
        return 1
    deadline = time.monotonic() + 60 * options.minutes
    setting = Setting(xp, Clock(xp), SIZES["quick" if options.quick else "full"], deadline)
    report = run(setting, options.only or list(SECTIONS), options.output)
    print(table(report))
    failed = [name for name, found in report["sections"].items() if "failed" in found]
    return 1 if report["parity"] is False or failed else 0


if __name__ == "__main__":
    sys.exit(main())
