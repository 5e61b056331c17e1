"""dropcore in JAX and thinc beside their own dropout, in one process, taking turns.

    python bench/adapters.py [--only jax thinc] [--rounds 15] [--threads N]

- jax: compiled dropout at rate 0.5 on 1 Ki, 1 Mi and 16 Mi float32, forward, and forward and
  backward, against `jax.random.bernoulli`; and calls outside of jit.
- thinc: the mask of 128 x 1024, and of 16 elements, against NumpyOps.

Medians over the rounds and, in brackets, minima, in microseconds; ratios are of medians. With
DROPCORE_BENCH_TINY=1 all sizes are small.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from statistics import median
from time import perf_counter_ns, sleep
from typing import Any

import dropcore

TINY = os.environ.get("DROPCORE_BENCH_TINY") == "1"
PAUSE = 0.004  # seconds in which the threads of the last candidate fall asleep
Calls = dict[str, Callable[[], Any]]


def report(title: str, calls: Calls, rounds: int, elements: int) -> None:
    """Prints the times of the calls, ours first, and ratios to it."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
        call()
    repeats = max(1, (1 << 17) // elements) if not TINY else 1
    for turn in range(rounds):
        for name in list(calls) if turn % 2 else list(calls)[::-1]:
            sleep(PAUSE)
            calls[name]()
            start = perf_counter_ns()
            for _ in range(repeats):
                calls[name]()
            found[name].append((perf_counter_ns() - start) / repeats / 1000)
    print(f"\n{title}")
    own = median(next(iter(found.values())))
    for name, times in found.items():
        middle = median(times)
        print(
            f"  {name:<28} {middle:10.1f} ({min(times):.1f}) us {middle * 1e3 / elements:9.4f} "
            f"ns/element {middle / own:7.2f} x"
        )


def jax_dropout(rounds: int) -> None:
    """JAX, compiled and not."""
    import jax
    import jax.numpy as jnp

    from dropcore.jax import dropout

    def own(x, key):
        return dropout(x, 0.5, key=key)

    def bernoulli(x, key):
        return jnp.where(jax.random.bernoulli(key, 0.5, x.shape), x / 0.5, 0)

    def both(f):
        def forward_and_backward(x, key):
            y, back = jax.vjp(lambda x: f(x, key), x)
            return y, back(y)[0]

        return forward_and_backward

    key = jax.random.key(0)
    for n in (1 << 10, 1 << 12) if TINY else (1 << 10, 1 << 20, 1 << 24):
        x = jnp.ones(n, "float32")
        for title, wrap in (("forward", lambda f: f), ("forward and backward", both)):
            f, g = (jax.jit(wrap(each)) for each in (own, bernoulli))
            calls = {
                "dropcore.jax": lambda f=f, x=x: jax.block_until_ready(f(x, key)),
                "jax.random.bernoulli": lambda g=g, x=x: jax.block_until_ready(g(x, key)),
            }
            report(f"JAX, jit, {title}, {n} elements", calls, rounds, n)
    x = jnp.ones(1 << 10, "float32")
    calls = {
        "dropcore.jax, key of JAX": lambda: own(x, key).block_until_ready(),
        "dropcore.jax, Key": lambda: own(x, dropcore.Key(0)).block_until_ready(),
        "jax.random.bernoulli": lambda: bernoulli(x, key).block_until_ready(),
    }
    report("JAX, without jit, 1024 elements", calls, rounds, 1 << 10)


def thinc_masks(rounds: int) -> None:
    """Masks of thinc's layers."""
    from thinc.api import NumpyOps

    from dropcore.thinc import DropcoreOps

    own, theirs = DropcoreOps(), NumpyOps()
    for shape in ((4, 4), (8, 64) if TINY else (128, 1024)):
        calls = {
            "dropcore.thinc": lambda shape=shape: own.get_dropout_mask(shape, 0.5),
            "NumpyOps": lambda shape=shape: theirs.get_dropout_mask(shape, 0.5),
        }
        report(f"thinc, mask of {shape}", calls, rounds, shape[0] * shape[1])


PARTS = {"jax": jax_dropout, "thinc": thinc_masks}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=0, help="0: as dropcore decides")
    options = parser.parse_args()
    if options.threads:
        dropcore.set_num_threads(options.threads)
    print(f"{dropcore.build_info()['isa']}, {dropcore.get_num_threads()} threads of dropcore")
    for part in options.only:
        PARTS[part](options.rounds)


if __name__ == "__main__":
    main()
