"""Times of candidates that take turns, and ratios between them."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from .setting import Absent, Builders, Call, Setting, first_line, torch_on_device


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
