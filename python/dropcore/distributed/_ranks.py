"""What a user says about the processes of a run."""

from __future__ import annotations

import sys
from typing import Any

from dropcore._base.checks import check_bool, check_number, shown

__all__ = ["Ranks", "ranks_of"]


class Ranks:
    """The processes of an MPI communicator, for ``fit(comm=...)``.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        Such as ``MPI.COMM_WORLD``. It is duplicated, so that messages of a program's own do not
        get in the way.
    timeout : float, default 300.0
        Seconds that a process waits for the others. After that the job is ended, with a message
        that names the ranks that did not answer. Callbacks of one process may take less than this.
    cuda_aware : bool, default False
        Whether the MPI library takes arrays in the memory of a GPU. By default the gradients of a
        model on a GPU are copied to the host, added there and copied back.

    Raises
    ------
    TypeError, ValueError
        If `comm` is not an intracommunicator, or `timeout` is not positive.

    Examples
    --------
    Under ``mpirun -n 4``::

        from mpi4py import MPI
        model.fit(x, y, epochs=10, comm=Ranks(MPI.COMM_WORLD, timeout=60.0))
    """

    def __init__(self, comm: Any, *, timeout: float = 300.0, cuda_aware: bool = False) -> None:
        mpi: Any = sys.modules.get("mpi4py.MPI")  # which whoever has a communicator has imported
        if mpi is None or not isinstance(comm, mpi.Comm):
            raise TypeError(
                "comm must be a communicator of mpi4py, such as MPI.COMM_WORLD, or "
                f"dropcore.distributed.Ranks, got {shown(comm)}"
            )
        if comm == mpi.COMM_NULL or comm.Is_inter():
            raise ValueError(
                "comm must be an intracommunicator that this process belongs to, got "
                f"{'MPI.COMM_NULL' if comm == mpi.COMM_NULL else 'an intercommunicator'}"
            )
        self.comm = comm
        self.timeout = check_number("Ranks: timeout", timeout, "(0, inf)")
        self.cuda_aware = check_bool("Ranks: cuda_aware", cuda_aware)

    def __repr__(self) -> str:
        return (
            f"Ranks({self.comm.Get_name()}, timeout={self.timeout}, cuda_aware={self.cuda_aware})"
        )


def ranks_of(comm: Any) -> Ranks:
    """The argument `comm` of `fit`."""
    return comm if isinstance(comm, Ranks) else Ranks(comm)
