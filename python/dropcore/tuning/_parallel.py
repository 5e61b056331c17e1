"""Jobs in parallel through joblib, on this machine or on a cluster of Dask."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from dropcore._base.checks import check_integer
from dropcore._base.extras import require
from dropcore.runtime import get_num_threads, set_num_threads
from dropcore.tuning._cluster import ClusterJobs, client_of

__all__ = ["Jobs", "jobs_of"]


class Jobs(Protocol):
    """``function(shared, *job)`` for each job.

    Attributes
    ----------
    together : int
        Jobs at a time.
    """

    together: int

    def run(self, jobs: Sequence[tuple[Any, ...]]) -> Generator[Any, None, None]:
        """The results, as they finish."""


def jobs_of(
    what: str,
    function: Callable[..., Any],
    shared: Any,
    n_jobs: int | None,
    modules: Sequence[str] = (),
) -> Jobs:
    """Where joblib's configuration says that jobs are done.

    Parameters
    ----------
    what : str
        The caller, for messages.
    function : callable
    shared : object
        The first argument of all jobs.
    n_jobs : int or None
        As joblib takes it; None is the number of ``joblib.parallel_config``, else 1, and on a
        cluster all threads of its workers.
    modules : sequence of str
        What jobs import besides dropcore.

    Raises
    ------
    TypeError, ValueError
        If `n_jobs` is no number of jobs.
    ConnectionError, ImportError
        As `ClusterJobs`.
    """
    joblib = require("joblib", "tune", what)
    backend, configured = joblib.parallel.get_active_backend()
    client = client_of(backend)
    if client is None:
        return _LocalJobs(what, function, shared, n_jobs)
    limit = configured if n_jobs is None else n_jobs
    return ClusterJobs(
        what,
        function,
        shared,
        client=client,
        limit=None if limit in (None, -1) else check_integer(f"{what}: n_jobs", limit, 1),
        modules=modules,
        submit=backend.submit_kwargs,
    )


class _LocalJobs:
    """Jobs in this process, or wherever a backend of joblib does them."""

    def __init__(
        self, what: str, function: Callable[..., Any], shared: Any, n_jobs: int | None
    ) -> None:
        self._joblib = require("joblib", "tune", what)
        self._function, self._shared, self._n_jobs = function, shared, n_jobs
        self.together: int = self._joblib.effective_n_jobs(n_jobs)

    def run(self, jobs: Sequence[tuple[Any, ...]]) -> Generator[Any, None, None]:
        """The results, as they finish."""
        delayed = self._joblib.delayed(self._function)
        parallel = self._joblib.Parallel(n_jobs=self._n_jobs, return_as="generator_unordered")
        with _divided_threads(self.together):
            results = parallel(delayed(self._shared, *job) for job in jobs)
            try:
                yield from results
            finally:  # an interrupt ends the other jobs, too
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", r"\d+ tasks (have been|which were)")
                    results.close()


@contextmanager
def _divided_threads(jobs: int) -> Iterator[None]:
    """Share the threads of this process among jobs that run in it.

    Other processes have threads of their own: joblib's workers get an equal share of the processors
    by OMP_NUM_THREADS.
    """
    before = get_num_threads()
    if jobs <= 1 or before == 1:
        yield
        return
    set_num_threads(max(1, before // jobs))
    try:
        yield
    finally:
        set_num_threads(before)
