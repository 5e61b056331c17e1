"""Ratios between dropcore, a copy and the peers, measured side by side in one process.

The candidates take turns, there and back (A B C C B A), so that a drift of the machine's speed
meets all alike; the numbers are medians over the turns. Between turns there is a pause, so that the
waiting threads of one library's pool do not slow down the next. Reported: nanoseconds an element,
microseconds a call, gigabytes a second counting each float32 read once and written once (for masks
too, so that the column compares), and ratios to NumPy's copy and to dropcore.

    python bench/ratios.py [--rounds 40] [--keep 0.5 0.9] [--threads N] [--sizes cache memory]
                           [--kernels forward backward mask]
"""

from __future__ import annotations

import argparse
import platform
from statistics import median
from time import perf_counter_ns, sleep

import numpy as np
import subjects

import dropcore

KERNELS = {
    "forward": [
        subjects.copy,
        subjects.copy_torch,
        subjects.forward,
        subjects.forward_numpy,
        subjects.forward_torch,
        subjects.forward_jax,
    ],
    "forward_in_place": [subjects.copy, subjects.scale_in_place, subjects.forward_in_place],
    "backward": [
        subjects.copy,
        subjects.copy_torch,
        subjects.backward,
        subjects.backward_packed,
        subjects.backward_numpy,
        subjects.backward_torch,
    ],
    "mask": [subjects.copy, subjects.mask, subjects.mask_numpy, subjects.mask_torch],
}


PAUSE = 0.004  # seconds; the threads of an OpenMP pool spin for a part of that


def interleaved(calls: dict[str, subjects.Call], rounds: int, size: int) -> dict[str, float]:
    """Median nanoseconds an element of each call, all taking turns there and back."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    repeats = {}
    for name, call in calls.items():
        call()
        start = perf_counter_ns()
        call()
        # A turn lasts a few milliseconds, so that the clock and a call's overhead do not count.
        repeats[name] = max(1, int(2e6 // (perf_counter_ns() - start)))
    for _ in range(rounds):
        for name in [*calls, *reversed(calls)]:
            call, n = calls[name], repeats[name]
            sleep(PAUSE)
            call()
            call()
            start = perf_counter_ns()
            for _ in range(n):
                call()
            times[name].append((perf_counter_ns() - start) / (n * size))
    return {name: median(t) for name, t in times.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--keep", type=float, nargs="+", default=list(subjects.KEEPS))
    parser.add_argument("--threads", type=int, default=0, help="0: as dropcore decides")
    parser.add_argument("--sizes", nargs="+", choices=subjects.SIZES, default=["cache", "memory"])
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=list(KERNELS))
    options = parser.parse_args()
    if options.threads:
        dropcore.set_num_threads(options.threads)
    info = dropcore.build_info()
    print(
        f"dropcore {dropcore.__version__}, {info['isa']}, {dropcore.get_num_threads()} threads, "
        f"NumPy {np.__version__}, Python {platform.python_version()}, {platform.machine()}"
    )
    for where in options.sizes:
        size = subjects.SIZES[where]
        for keep in options.keep:
            for kernel in options.kernels:
                print(f"\n{kernel}, {where} ({size >> 10} Ki float32), keep {keep}")
                calls = {}
                for builder in KERNELS[kernel]:
                    try:
                        calls[builder.__name__] = builder(size, keep)
                    except subjects.Absent as absent:
                        print(f"  {builder.__name__:<16} skipped: {absent}")
                result = interleaved(calls, options.rounds, size)
                for name, ns in result.items():
                    print(
                        f"  {name:<16} {ns:9.4f} ns/element {ns * size / 1e3:10.1f} us "
                        f"{8 / ns:8.1f} GB/s {ns / result['copy']:8.2f} copies "
                        f"{ns / result[kernel]:8.2f} x dropcore",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
