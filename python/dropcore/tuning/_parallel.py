"""Jobs in parallel through joblib, whose backend may be a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from dropcore._base.extras import require
from dropcore.runtime import get_num_threads, set_num_threads

__all__ = ["run_jobs"]


def run_jobs(
    what: str,
    function: Callable[..., Any],
    jobs: Sequence[tuple[Any, ...]],
    n_jobs: int | None,
    *,
    share_memory: bool = False,
) -> Iterator[Any]:
    """The results of ``function(*job)`` for each job, as they finish.

    Parameters
    ----------
    what : str
        The caller, for messages.
    function : callable
    jobs : sequence of tuple
    n_jobs : int or None
        As joblib takes it; None is the number of ``joblib.parallel_config``, else 1.
    share_memory : bool, default False
        Whether the jobs need the memory of this process: they then run in its threads.
    """
    joblib = require("joblib", "tune", what)
    parallel = joblib.Parallel(
        n_jobs=n_jobs,
        return_as="generator_unordered",
        require="sharedmem" if share_memory else None,
    )
    with _divided_threads(joblib.effective_n_jobs(n_jobs)):
        results = parallel(joblib.delayed(function)(*job) for job in jobs)
        with closing(results):  # an interrupt ends the other jobs, too
            yield from results


@contextmanager
def _divided_threads(jobs: int) -> Iterator[None]:
    """Share the threads of this process among jobs that run in it.

    Other processes have threads of their own: joblib's workers get an equal share of the processors
    by OMP_NUM_THREADS, those of Dask one.
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
