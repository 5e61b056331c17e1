"""How OpenMP's threads wait for each other, decided before the core is loaded.

GNU OpenMP lets a waiting thread spin 300,000 times before it sleeps. Beside any other busy process
a thread that spins keeps the processor from the very thread it waits for, and a call of a
millisecond can take several time slices of the scheduler, tens of milliseconds. A fifteenth of that
spinning takes most of this away; with much less, the calls of a quiet machine wait for threads to
wake up (docs/performance.md has the numbers). OpenMP reads its settings once, when it is loaded;
whatever the user has set stays.
"""

from __future__ import annotations

import importlib
import os

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
