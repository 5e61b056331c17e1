"""Ratios between dropcore, a limit such as a copy, and the peers, side by side in one process.

The candidates take turns, there and back (A B C C B A), so that a drift of the machine's speed
meets all alike; the numbers are medians over the turns. Between turns there is a pause, so that the
waiting threads of one library's pool do not slow down the next. Reported: nanoseconds an element,
microseconds a call, gigabytes a second of what must be moved at least (for masks as if
there were float32 in and out, so that the column compares with the copy's), billions of
floating-point operations a second of the job without masks, and ratios to the limit and to
dropcore.

    python bench/ratios.py [--kernels forward backward mask] [--rounds 40] [--threads N]
                           [--sizes cache memory] [--keep 0.5 0.9] [--dtypes float32]
                           [--subjects copy forward forward_torch] [--list]

The lines of the table of targets:

    dropout forward                   --kernels forward forward_in_place --sizes cache memory
    128 x 1024 with the Python call   --kernels forward --sizes layer
    backward                          --kernels backward
    decisions on one thread           --kernels mask --sizes cache --threads 1
    packed mask alone                 --kernels mask --sizes cache
    max_norm_ rows and columns        --kernels max_norm
    optimiser with max-norm           --kernels sgd adam
    plain and masked products         --kernels product product_backward
    a unit-masked layer               --kernels layer
    DropConnect                       --kernels dropconnect
    the training step                 --kernels training
    attention, and a transformer      --kernels attention attention_backward gpt
    Monte Carlo prediction            --kernels monte_carlo --rounds 3 (100 samples: monte_carlo.py)
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterator
from statistics import median
from time import perf_counter_ns, sleep

# NumPy's BLAS reads this when it is loaded: its threads wait actively for 2^22 ticks, a
# millisecond or so, and not for tens of them into the next candidate's turn.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "22")

import subjects

import dropcore

PAUSE = 0.004  # seconds; the threads of an OpenMP pool spin for a part of that
USUAL = ["forward", "forward_in_place", "backward", "mask"]


def interleaved(calls: dict[str, subjects.Call], rounds: int) -> dict[str, float]:
    """Median nanoseconds of each call, all taking turns there and back."""
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
            times[name].append((perf_counter_ns() - start) / n)
    return {name: median(t) for name, t in times.items()}


def build(
    kernel: subjects.Kernel, case: subjects.Case, wanted: list[str] | None
) -> dict[str, subjects.Call]:
    """The calls of a case by name; what is absent is printed."""
    calls = {}
    for builder in kernel.builders:
        name = builder.__name__
        if wanted and name not in wanted:
            continue
        try:
            calls[name] = builder(*case.arguments)
        except subjects.Absent as absent:
            print(f"  {name:<32} skipped: {absent}", flush=True)
    return calls


def line(
    name: str, result: dict[str, float], kernel: subjects.Kernel, case: subjects.Case
) -> Iterator[str]:
    """The columns of a candidate."""
    ns = result[name]
    yield f"{name:<32} {ns / case.elements:9.4f} ns/element {ns / 1e3:10.1f} us"
    if case.moved:
        yield f"{case.moved / ns:7.1f} GB/s"
    if case.operations:
        yield f"{case.operations / ns:7.1f} GFLOP/s"
    for other in dict.fromkeys((kernel.reference.__name__, kernel.own.__name__)):
        if other in result:
            yield f"{ns / result[other]:8.2f} x {other}"


def chosen(case: subjects.Case, options: argparse.Namespace) -> bool:
    """Whether the options ask for the case; a case without a tag is always asked for."""
    allowed = {"size": options.sizes, "keep": options.keep, "dtype": options.dtypes}
    return all(allowed[tag] is None or value in allowed[tag] for tag, value in case.tags.items())


def main() -> None:
    """Measure and print."""
    sizes, dtypes = subjects.dropout.SIZES, subjects.dropout.DTYPES
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument(
        "--keep", type=float, nargs="+", help="only these of a kernel's (0.5 and 0.9, or more)"
    )
    parser.add_argument("--threads", type=int, default=0, help="0: as dropcore decides")
    parser.add_argument("--sizes", nargs="+", choices=sizes, default=["cache", "memory"])
    parser.add_argument("--dtypes", nargs="+", choices=dtypes, default=["float32"])
    parser.add_argument("--kernels", nargs="+", choices=subjects.KERNELS, default=USUAL)
    parser.add_argument("--subjects", nargs="+", help="only these candidates")
    parser.add_argument("--list", action="store_true", help="name all kernels and candidates")
    options = parser.parse_args()
    if options.list:
        for name, kernel in subjects.KERNELS.items():
            print(f"{name}: {', '.join(builder.__name__ for builder in kernel.builders)}")
        return
    if options.threads:
        dropcore.set_num_threads(options.threads)
    info = dropcore.build_info()
    print(f"{info['isa']}, {dropcore.get_num_threads()} threads, {platform.machine()}")
    for name in options.kernels:
        kernel = subjects.KERNELS[name]
        for case in kernel.cases:
            if not chosen(case, options):
                continue
            print(f"\n{name}, {case.name} ({case.elements} elements)", flush=True)
            calls = build(kernel, case, options.subjects)
            result = interleaved(calls, options.rounds)
            for subject in result:
                print("  " + " ".join(line(subject, result, kernel, case)), flush=True)
    # At the end, when all peers have been imported.
    print("\n" + ", ".join(f"{name} {number}" for name, number in subjects.versions().items()))


if __name__ == "__main__":
    main()
