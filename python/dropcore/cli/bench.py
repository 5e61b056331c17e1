"""``dropcore bench``: what dropout costs on this machine, next to a copy."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median
from time import perf_counter_ns
from typing import Any, Final

import numpy as np

import dropcore
from dropcore.cli._command import Command, Option, Result
from dropcore.cli._shared import CONFIG, JSON, THREADS
from dropcore.cli._values import positive, rate

__all__ = ["COMMAND", "interleaved"]

CACHE: Final = 1 << 20
MEMORY: Final = 1 << 24
TURN: Final = 3e6
"""Nanoseconds of a turn, so that neither the clock nor the overhead of a call counts."""


def run(options: argparse.Namespace) -> Result:
    """Measure and print a table."""
    build = dropcore.build_info()
    sizes = (options.elements,) if options.elements else (CACHE, MEMORY)
    rows: list[dict[str, Any]] = []
    for size in sizes:
        times = interleaved(_calls(size, options.rate), options.rounds)
        copy = times["copy"]
        rows += [
            {
                "what": what,
                "elements": size,
                "ns_per_element": nanoseconds / size,
                "gb_per_s": 8 * size / nanoseconds,
                "copies": nanoseconds / copy,
            }
            for what, nanoseconds in times.items()
        ]
    data = {
        "dropcore": build["version"],
        "isa": build["isa"],
        "threads": build["threads"],
        "dtype": "float32",
        "rate": options.rate,
        "rounds": options.rounds,
        "measurements": rows,
    }
    lines = [
        f"dropcore {build['version']}, {build['isa']}, {build['threads']} threads, float32, "
        f"rate {options.rate:g}",
        "",
        f"{'':<24}{'elements':>12}{'ns/element':>12}{'GB/s':>9}{'copies':>9}",
    ]
    lines += [
        f"{row['what']:<24}{row['elements']:>12,}{row['ns_per_element']:>12.4f}"
        f"{row['gb_per_s']:>9.1f}{row['copies']:>9.2f}"
        for row in rows
    ]
    lines += [
        "",
        "Medians; the functions take turns. GB/s counts one array read and one written. A copy is",
        'NumPy\'s, on one thread; "NumPy" is np.multiply(x, rng.random(x.shape) < keep).',
    ]
    return Result("\n".join(lines), data)


def _calls(size: int, rate: float) -> dict[str, Callable[[], object]]:
    x = np.random.default_rng(0).standard_normal(size, dtype=np.float32)
    out = np.zeros_like(x)
    rng = np.random.default_rng(0)
    keep = 1 - rate

    def numpy() -> object:
        return np.multiply(x, rng.random(size, dtype=np.float32) < keep, out=out)

    return {
        "copy": lambda: np.copyto(out, x),
        "dropout": lambda: dropcore.dropout(x, rate, key=7, out=out),
        "dropout, backward": lambda: dropcore.dropout_backward(x, rate, key=7, out=out),
        "packed mask": lambda: dropcore.Mask((size,), rate, key=7).packed(),
        "dropout by NumPy": numpy,
    }


def interleaved(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median nanoseconds of each call; all take turns, there and back (A B C C B A)."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    repeats: dict[str, int] = {}
    for name, call in calls.items():
        call()
        begin = perf_counter_ns()
        call()
        repeats[name] = max(1, int(TURN // max(1, perf_counter_ns() - begin)))
    for turn in range(rounds):
        order = list(calls) if turn % 2 == 0 else list(reversed(calls))
        for name in order:
            begin = perf_counter_ns()
            for _ in range(repeats[name]):
                calls[name]()
            times[name].append((perf_counter_ns() - begin) / repeats[name])
    return {name: median(measured) for name, measured in times.items()}


COMMAND = Command(
    name="bench",
    help="what dropout costs on this machine, next to a copy",
    description="""
    Time dropout of arrays in the cache and in memory, next to a copy of the array and to NumPy,
    in one process. It takes a few seconds.
    """,
    examples=("dropcore bench", "dropcore bench --rate 0.1 --threads 1 --json"),
    options=(
        Option("--rate", "the fraction that is dropped", kind=rate, default=0.5, metavar="R"),
        Option(
            "--elements",
            f"of the array, instead of {CACHE:,} and {MEMORY:,}",
            kind=positive,
            metavar="N",
        ),
        Option("--rounds", "turns of each function", kind=positive, default=20, metavar="N"),
        THREADS,
        JSON,
        CONFIG,
    ),
    run=run,
)
