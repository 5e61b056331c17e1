"""Jobs on the workers of a Dask cluster."""

from __future__ import annotations

import asyncio
import importlib
import math
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any, Final
from uuid import uuid4

from dropcore._base.checks import shown
from dropcore._base.extras import require
from dropcore._version import __version__
from dropcore.runtime import get_num_threads, set_num_threads

__all__ = ["ClusterJobs", "client_of", "connected", "end_if_unwanted", "on_worker"]

_TIMEOUT: Final = 15.0
"""Seconds for a connection, and for workers to appear."""

_LOSSES: Final = 5
"""How often in a row the data may be lost with all workers that had it."""


class ClusterJobs:
    """``function(shared, *job)`` for each job, on the workers of a Dask cluster.

    joblib chooses the cluster, by its configuration, and the jobs are submitted here: joblib's own
    `Parallel` would run them in this process while a single thread is left on the cluster, ignore
    `n_jobs`, and send what is inside of `shared` once for each job.

    Parameters
    ----------
    what : str
        The caller, for messages.
    function : callable
    shared : object
        Sent to each worker once.
    client : distributed.Client
    limit : int or None
        Most jobs at a time; None for as many as the cluster takes.
    modules : sequence of str
        What workers must be able to import besides dropcore.
    submit : dict
        Arguments of ``Client.submit`` that the user gave to joblib, such as `resources`.

    Attributes
    ----------
    together : int
        Jobs at a time.

    Raises
    ------
    ConnectionError
        If the client is closed, or the cluster has no workers.
    ImportError
        If a worker cannot import a module, or has another version of dropcore.
    """

    def __init__(
        self,
        what: str,
        function: Callable[..., Any],
        shared: Any,
        *,
        client: Any,
        limit: int | None,
        modules: Sequence[str],
        submit: Mapping[str, Any],
    ) -> None:
        self._what, self._function, self._shared = what, function, shared
        self._client, self._limit, self._submit = client, limit, dict(submit)
        self._address = client.scheduler.address if client.scheduler else "the scheduler"
        self._await_workers()
        self._check_workers(modules)
        self.together: int = limit or sum(client.nthreads().values()) or 1
        self._data = self._scattered()

    def run(self, jobs: Sequence[tuple[Any, ...]]) -> Generator[Any, None, None]:
        """The results, as they finish.

        Jobs of a worker that is lost are done again by others, and the data that all workers have
        lost are sent again. When the iterator is closed, its jobs are cancelled.

        Parameters
        ----------
        jobs : sequence of tuple

        Raises
        ------
        ConnectionError
            If the scheduler, or all workers, are lost for good.
        """
        distributed = require("distributed", "cluster", self._what)
        waiting, running = deque(jobs), dict[Any, tuple[Any, ...]]()
        finished = distributed.as_completed(loop=self._client.loop)
        lost, losses = False, 0
        try:
            while waiting or running:
                if lost and not running:
                    losses += 1
                    self._restore(losses)
                    lost = False
                while waiting and not lost and len(running) < (self._limit or math.inf):
                    job = waiting.popleft()
                    future = self._submitted(job)
                    running[future] = job
                    finished.add(future)
                future = next(finished)
                job = running.pop(future)
                try:
                    result = self._result(distributed, future)
                except CancelledError:
                    waiting.append(job)
                    lost = True
                    continue
                losses = 0
                yield result
        finally:
            if running and self._client.status == "running":
                self._client.cancel(list(running))

    def _submitted(self, job: tuple[Any, ...]) -> Any:
        # The same job again, after a loss, is another task.
        key = f"dropcore-{self._what}-{uuid4().hex}"
        return self._client.submit(
            _work, __version__, self._function, self._data, job, **{"key": key} | self._submit
        )

    def _result(self, distributed: Any, future: Any) -> Any:
        try:
            return future.result()
        except distributed.KilledWorker as error:
            raise ConnectionError(
                f"{self._what}: workers of {self._address} died while they trained the "
                f"same model, as when their memory does not suffice: {error}"
            ) from error

    def _restore(self, losses: int) -> None:
        """Connect and send the data again, or say why that cannot be done."""
        if losses > _LOSSES:
            raise ConnectionError(
                f"{self._what}: the workers of {self._address} were lost {losses} times before "
                "one of them finished a model: look into their logs"
            )
        deadline = time.monotonic() + 2 * _TIMEOUT
        while self._client.status == "connecting" and time.monotonic() < deadline:
            time.sleep(0.05)
        if self._client.status != "running":
            raise ConnectionError(
                f"{self._what}: the connection to the scheduler {self._address} was lost"
            )
        self._await_workers()
        self._data = self._scattered()

    def _scattered(self) -> Any:
        return self._client.scatter(self._shared, broadcast=True, hash=False)

    def _await_workers(self) -> None:
        """Wait for a worker; a task tells a cluster that adapts itself to start one."""
        if self._client.status != "running":
            raise ConnectionError(
                f"{self._what}: the client of Dask is {self._client.status}: connect a new one"
            )
        if not self._client.nthreads():
            probe = self._client.submit(_nothing, pure=False)
            try:
                self._client.wait_for_workers(1, timeout=_TIMEOUT)
            except TimeoutError:
                raise ConnectionError(
                    f"{self._what}: the scheduler {self._address} has no workers after "
                    f"{_TIMEOUT:g} seconds: start some by `dask worker {self._address}`"
                ) from None
            finally:
                probe.release()

    def _check_workers(self, modules: Sequence[str]) -> None:
        """ImportError if a worker lacks a module, or has another version of this package."""
        found = self._client.run(
            _probe_of(("dropcore", *modules)), on_error="return", callback_timeout=_TIMEOUT
        )
        sets = set()
        for address, answer in sorted(found.items()):
            if isinstance(answer, OSError):
                continue  # it was lost meanwhile; what comes in its place is checked by its tasks
            if isinstance(answer, Exception):
                raise ConnectionError(
                    f"{self._what}: the worker {address} does not answer: {shown(answer)}"
                )
            if answer["missing"]:
                raise ImportError(
                    f"{self._what}: the worker {address} cannot import {answer['missing']}: "
                    f"install there what is installed here"
                )
            _check_version(answer["version"], __version__, f"{self._what}: the worker {address}")
            sets.add(answer["isa"])
        if len(sets) > 1:
            warnings.warn(
                f"{self._what}: the workers use {' and '.join(sorted(sets))}, whose scores agree "
                "within rounding only: set DROPCORE_ISA to the same one on all for equal bits",
                stacklevel=4,
            )


# --- the client ----------------------------------------------------------------------------------


def client_of(backend: Any) -> Any:
    """The client of a backend of joblib, or None if it is not Dask's."""
    distributed = sys.modules.get("distributed")
    client = getattr(backend, "client", None)
    return client if distributed is not None and isinstance(client, distributed.Client) else None


@contextmanager
def connected(what: str, address: str) -> Iterator[None]:
    """Jobs inside of the block are done by the cluster of a scheduler.

    Parameters
    ----------
    what : str
        The caller, for messages.
    address : str
        Such as "10.0.0.5:8786".

    Raises
    ------
    ConnectionError
        If there is no scheduler of Dask at that address.
    ImportError
        If Dask is missing.
    """
    joblib = require("joblib", "cluster", what)
    distributed = require("distributed", "cluster", what)
    try:
        # The client would wait for an answer for ever.
        kind = asyncio.run(asyncio.wait_for(_kind_of(distributed, address), _TIMEOUT))
        if kind != "Scheduler":
            raise ValueError(f"it is the address of a {kind}")
        client = distributed.Client(address, timeout=_TIMEOUT, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error) or f"no answer in {_TIMEOUT:g} seconds"
        raise ConnectionError(
            f"{what}: there is no scheduler of Dask at {address!r}, which must be host:port, such "
            f"as 10.0.0.5:8786: {reason}"
        ) from error
    with client, joblib.parallel_config(backend="dask", client=client):
        yield


async def _kind_of(distributed: Any, address: str) -> str:
    """What of Dask is at an address, such as "Scheduler"."""
    security = distributed.Security().get_connection_args("client")
    server = distributed.rpc(address, timeout=_TIMEOUT, connection_args=security)
    try:
        found: str = (await server.identity())["type"]
    finally:
        await server.close_rpc()
    return found


# --- on a worker ---------------------------------------------------------------------------------


def _work(version: str, function: Callable[..., Any], shared: Any, job: tuple[Any, ...]) -> Any:
    """What a task does."""
    distributed = sys.modules["distributed"]
    worker = distributed.get_worker()
    # A worker that joined after the check.
    _check_version(__version__, version, f"the worker {worker.address}")
    with _SHARE.of(worker.state.nthreads):
        return function(shared, *job)


def _check_version(worker: str, here: str, who: str) -> None:
    if worker != here:
        raise ImportError(
            f"{who} has dropcore {worker}, and here is {here}: install the same version"
        )


class _Share:
    """The threads of a process, shared among the tasks that it does at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tasks = 0
        self._before = 1

    @contextmanager
    def of(self, tasks: int) -> Iterator[None]:
        """An equal part for one of so many tasks, of what OMP_NUM_THREADS and affinity allow."""
        with self._lock:
            if self._tasks == 0:
                self._before = get_num_threads()
                set_num_threads(max(1, self._before // max(1, tasks)))
            self._tasks += 1
        try:
            yield
        finally:
            with self._lock:
                self._tasks -= 1
                if self._tasks == 0:
                    set_num_threads(self._before)


_SHARE: Final = _Share()


def on_worker() -> bool:
    """Whether this is a task on a worker of Dask."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return False
    try:
        distributed.get_worker()
    except ValueError:
        return False
    return True


def end_if_unwanted(epoch: int, metrics: Mapping[str, float]) -> None:
    """Raise after an epoch of a task whose result is not wanted any more, as after Ctrl-C."""
    worker = sys.modules["distributed"].get_worker()
    task = worker.state.tasks.get(worker.get_current_task())
    if task is None or task.state == "cancelled":
        raise CancelledError(f"the task was cancelled; it ended after epoch {epoch}")


def _nothing() -> None:
    pass


def _probe_of(modules: Sequence[str]) -> Callable[[], dict[str, Any]]:
    """A function that says which of the modules a worker lacks, and its version of this package.

    It is defined inside of another one, and therefore sent as code: a worker without dropcore can
    run it.
    """

    def probe() -> dict[str, Any]:
        for name in modules:
            try:
                importlib.import_module(name)
            except ImportError as error:
                return {"missing": f"{name} ({error})"}
        dropcore = importlib.import_module("dropcore")
        return {
            "missing": "", "version": dropcore.__version__, "isa": dropcore.build_info()["isa"]
        }  # fmt: skip

    return probe
