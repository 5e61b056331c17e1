"""How OpenMP's threads wait for each other, decided before the core is loaded.

GNU OpenMP lets a waiting thread spin 300,000 times before it sleeps. Beside any other busy process
a thread that spins keeps the processor from the very thread it waits for, and a call of a
millisecond can take several time slices of the scheduler, tens of milliseconds. A fifteenth of that
spinning takes most of this away; with much less, the calls of a quiet machine wait for threads to
wake up (docs/performance.md has the numbers). OpenMP reads its settings once, when it is loaded;
whatever the user has set stays.

A wheel brings an OpenMP of its own, and so do those of other libraries. Two of them in a process
have two teams of threads that spin in each other's way: calls that take turns can take twenty times
as long. A library that puts its OpenMP into the global scope, as PyTorch does, shares it with all
that are loaded later; `share_threads` does the same for the core's.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys

SPINS = "20000"
SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def load_core() -> None:
    """Import the core with short spins, and leave the environment as it was."""
    chosen = any(name in os.environ for name in SETTINGS)
    if not chosen:
        os.environ["GOMP_SPINCOUNT"] = SPINS
    try:
        importlib.import_module("dropcore._core")
    finally:
        if not chosen:
            del os.environ["GOMP_SPINCOUNT"]


def share_threads(library: str) -> None:
    """Let a library that is not loaded yet use the core's OpenMP in place of its own."""
    if sys.platform == "linux" and library not in sys.modules:
        ctypes.CDLL(sys.modules["dropcore._core"].__file__, mode=ctypes.RTLD_GLOBAL)
