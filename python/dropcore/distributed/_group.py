"""What the processes of a run tell each other, within a bounded time."""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Final

import numpy as np

from dropcore._base.sharing import Merge, Numbers
from dropcore.distributed._ranks import Ranks, ranks_of

__all__ = ["ALONE", "Alone", "Group", "RankError", "joined"]

_GRACE: Final = 5.0
"""Seconds in which the ranks that have failed, or wait, find each other; at most the timeout."""

_SPINS: Final = 200
"""Tests of a request before the processor is given to others between them."""

_NUMBERS, _HERE = 1, 2
"""Tags of messages."""


class RankError(RuntimeError):
    """Another rank of the run cannot train; the message says which one, and why.

    Parameters
    ----------
    rank : int
        The one that has failed.
    reason : str
        Its error.
    """

    def __init__(self, rank: int, reason: str) -> None:
        super().__init__(f"rank {rank} cannot train, so none does: {reason}")
        self.rank, self.reason = rank, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return RankError, (self.rank, self.reason)


class Alone:
    """A run of one process: what `Group` is for several."""

    rank = 0
    size = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def gathered(self, value: Any) -> list[Any]:
        """What each rank gives, in the order of the ranks."""
        return [value]

    def combined(self, numbers: Numbers, merge: Merge) -> Numbers:
        """The numbers of all ranks, merged in a binary tree over the ranks."""
        return numbers

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """All ranks leave the block, or all raise an error."""
        yield

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """An error that not all ranks raise within the block ends the job."""
        yield

    def check_same(self, values: Mapping[str, str]) -> None:
        """ValueError unless the values are the same on all ranks."""

    def doing(self, what: str) -> None:
        """Note what comes next, for the message of a job that ends."""


ALONE: Final = Alone()


class Group(Alone):
    """The ranks of a communicator.

    No wait is longer than ``ranks.timeout``: then the job is ended by ``MPI_Abort``, with a message
    that names the ranks that are missing. An exception would not do, because a process cannot leave
    MPI while others hold its messages.

    Parameters
    ----------
    ranks : Ranks
        All ranks must create their group.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks, self._given = ranks, ranks.comm
        self._grace = min(_GRACE, ranks.timeout)
        self._mpi: Any = sys.modules["mpi4py.MPI"]
        self.rank, self.size = ranks.comm.rank, ranks.comm.size
        self._doing = "the start of fit"
        self._control: Any = None
        # Failures are told over a communicator of their own: on the other one, messages of
        # whatever was going on may be waiting.
        self._control, request = ranks.comm.Idup()
        self.wait([request])
        self.comm, request = ranks.comm.Idup()
        self.wait([request])

    @property
    def cuda_aware(self) -> bool:
        """Whether messages may be arrays of a GPU."""
        return self._ranks.cuda_aware

    def close(self) -> None:
        """Free the communicators, on all ranks."""
        self.comm.Free()
        self._control.Free()

    def doing(self, what: str) -> None:
        self._doing = what

    # --- messages ---------------------------------------------------------------------------------

    def wait(self, requests: list[Any], *, seconds: float | None = None) -> bool:
        """Wait for requests.

        Parameters
        ----------
        requests : list of mpi4py.MPI.Request
        seconds : float, optional
            The longest time to wait. By default the timeout of the ranks, after which the job ends.

        Returns
        -------
        bool
            False if time ran out.
        """
        spins, deadline = 0, 0.0
        while not self._mpi.Request.Testall(requests):
            spins += 1
            if spins < _SPINS:
                continue
            now = time.monotonic()
            if not deadline:
                deadline = now + (self._ranks.timeout if seconds is None else seconds)
            elif now > deadline:
                if seconds is None:
                    self._end_of_patience()
                return False
            # Where ranks share a processor, the one that is waited for needs it.
            time.sleep(0 if spins < 10 * _SPINS else 5e-5)
        return True

    def gathered(self, value: Any) -> list[Any]:
        return self._gathered(self.comm, value)

    def _gathered(self, comm: Any, value: Any, seconds: float | None = None) -> Any:
        """What each rank gives; None if not all did in time."""
        own = np.frombuffer(pickle.dumps(value), np.uint8)
        sizes = np.zeros(self.size, np.int64)
        if not self.wait([comm.Iallgather(np.array([own.size]), sizes)], seconds=seconds):
            return None
        starts = np.concatenate([[0], np.cumsum(sizes)])
        if starts[-1] >= 1 << 31:
            raise ValueError(
                f"what {self.size} ranks keep of a batch for metrics such as roc_auc takes "
                f"{starts[-1]} bytes together, and must be below 2**31: use smaller batches"
            )
        room = np.empty(starts[-1], np.uint8)
        parts = [room, sizes.tolist(), starts[:-1].tolist(), self._mpi.BYTE]
        if not self.wait([comm.Iallgatherv(own, parts)], seconds=seconds):
            return None
        return [pickle.loads(room[a:b].tobytes()) for a, b in pairwise(starts)]

    def combined(self, numbers: Numbers, merge: Merge) -> Numbers:
        # A binomial tree to rank 0 and back: the ranks (0 1), (2 3), then ((0 1) (2 3)), ...
        found, step = np.ascontiguousarray(numbers, np.float64), 1
        while step < self.size:
            if self.rank & step:
                self.wait([self.comm.Isend(found, self.rank - step, _NUMBERS)])
                break
            if self.rank + step < self.size:
                other = np.empty_like(found)
                self.wait([self.comm.Irecv(other, self.rank + step, _NUMBERS)])
                found = np.ascontiguousarray(merge(found, other))
            step *= 2
        if found is numbers:
            found = found.copy()
        self.wait([self.comm.Ibcast(found, 0)])
        return found

    # --- agreement --------------------------------------------------------------------------------

    @contextmanager
    def agreed(self) -> Iterator[None]:
        error: Exception | None = None
        try:
            yield
        except Exception as found:
            error = found
        told = self.gathered(None if error is None else f"{type(error).__name__}: {error}")
        if error is not None:
            raise error
        for rank, message in enumerate(told):
            if message is not None:
                raise RankError(rank, message)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            message = f"{type(error).__name__}: {error}"
            # Where all ranks fail, as by a loss that is not finite, each raises its error.
            if self._gathered(self._control, message, self._grace) is None:
                self._end_job(f"rank {self.rank} failed in {self._doing}: {message}")
            raise

    def check_same(self, values: Mapping[str, str]) -> None:
        everywhere = self.gathered(dict(values))
        for name, value in everywhere[0].items():
            for rank, other in enumerate(everywhere):
                if other.get(name) != value:
                    raise ValueError(
                        f"{name} must be the same on all ranks, got {value} on rank 0 and "
                        f"{other.get(name)} on rank {rank}"
                    )

    # --- the end of a job -------------------------------------------------------------------------

    def _end_of_patience(self) -> None:
        missing = self._silent_ranks()
        waited = f"{self._ranks.timeout:g} seconds"
        if missing:
            words = "rank" if len(missing) == 1 else "ranks"
            listed = ", ".join(map(str, missing[:20])) + (", ..." if len(missing) > 20 else "")
            what = f"{words} {listed} did not answer for {waited} in {self._doing}"
        else:
            what = (
                f"the ranks waited {waited} for different messages in {self._doing}: they do not "
                "make the same calls, or get different numbers of batches"
            )
        self._end_job(what)

    def _silent_ranks(self) -> list[int]:
        """Ranks that do not wait as this one does."""
        control = self._control
        if control is None:  # in the making of the group
            return []
        others = [rank for rank in range(self.size) if rank != self.rank]
        here = np.zeros(1, np.int8)
        for rank in others:
            control.Isend(here, rank, _HERE)
        heard: set[int] = set()
        deadline = time.monotonic() + self._grace
        while len(heard) < len(others) and time.monotonic() < deadline:
            status = self._mpi.Status()
            if control.Iprobe(self._mpi.ANY_SOURCE, _HERE, status):
                control.Recv(np.empty(1, np.int8), status.source, _HERE)
                heard.add(status.source)
            else:
                time.sleep(0.01)
        return [rank for rank in others if rank not in heard]

    def _end_job(self, what: str) -> None:
        # One write, so that the messages of several ranks do not mix.
        os.write(2, f"dropcore: {what}; the job ends (seen by rank {self.rank})\n".encode())
        self._given.Abort(1)


@contextmanager
def joined(comm: Any) -> Iterator[Alone]:
    """The group of the argument `comm` of `fit`, within which an error of one rank ends the job."""
    ranks = None if comm is None else ranks_of(comm)
    if ranks is None or ranks.comm.size == 1:
        yield ALONE
        return
    group = Group(ranks)
    try:
        with group.guarded():
            yield group
    finally:  # all ranks are here, or the job has ended
        group.close()
