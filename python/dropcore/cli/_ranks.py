"""A command that mpirun has started several times."""

from __future__ import annotations

import os
from typing import Any, Final

from dropcore._base.extras import require

__all__ = ["communicator", "leads", "ranks"]

_SIZES: Final = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS")
_RANKS: Final = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "MPI_LOCALRANKID")
"""What Open MPI, MPICH and Intel MPI, and Slurm put into the environment of a process."""


def ranks() -> int:
    """The number of processes that a launcher of MPI has started; 1 without one."""
    return _number(_SIZES, 1)


def leads() -> bool:
    """Whether this is the process that writes and prints."""
    return _number(_RANKS, 0) == 0


def communicator() -> Any:
    """``MPI.COMM_WORLD`` of several processes, else None."""
    if ranks() == 1:
        return None
    return require("mpi4py.MPI", "mpi", "a command on several processes").COMM_WORLD


def _number(names: tuple[str, ...], default: int) -> int:
    found = next((os.environ[name] for name in names if name in os.environ), "")
    return int(found) if found.isdecimal() else default
