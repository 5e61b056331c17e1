"""Threads, instruction sets, and what was built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dropcore._backends import cpu
from dropcore._base.checks import check_integer
from dropcore._version import __version__

__all__ = ["build_info", "get_include", "get_num_threads", "release_memory", "set_num_threads"]


def set_num_threads(n: int) -> None:
    """Let large jobs use n threads; small ones stay on one whatever n is.

    An explicit n is honoured also where it exceeds the processors of this process, up to 64 threads
    or four for each processor, whichever is more, and fewer where the address space is limited
    (``ulimit -v``). A limit that threadpoolctl sets afterwards still lowers it.

    Parameters
    ----------
    n : int
        In [1, 4096].

    Raises
    ------
    TypeError
        If n is not an integer.
    ValueError
        If n is not in [1, 4096].
    """
    cpu.set_threads(check_integer("set_num_threads: n", n, 1, 4096))


def get_num_threads() -> int:
    """The threads that a large job gets from here.

    The default is what the process may use: its affinity, its cgroup's quota and
    OMP_NUM_THREADS. In a child made by fork() it is 1, because OpenMP's threads stay behind in the
    parent; 1 also where the library was built without OpenMP, and where OMP_STACKSIZE gives threads
    less than 64 KB.

    Returns
    -------
    int
        At least 1.
    """
    return cpu.max_threads()


def build_info() -> dict[str, Any]:
    """What this installation is and runs on.

    Returns
    -------
    dict
        version : str
        contract : int, version of the mask contract
        isa : str, the instruction set in use: scalar, avx2, avx512 or neon
        isas : list of str, those that can run on this machine, best first
        openmp : bool
        threads : int, as `get_num_threads`.
    """
    return {
        "version": __version__,
        "contract": 2,
        "isa": cpu.isa(),
        "isas": cpu.isas(),
        "openmp": cpu.has_openmp(),
        "threads": cpu.max_threads(),
    }


def release_memory() -> int:
    """Return the memory that dropcore keeps for later arrays and calls to the system.

    Arrays inside a training step come from a pool: the memory of an array that is no longer
    referred to waits for the next one of its size. At most 512 MB wait. Besides, one block of
    scratch of at most 256 MB is kept between calls. Both stay with the process until this function
    is called; they are also given back where memory runs out. Arrays in use are not touched.

    Returns
    -------
    int
        The number of bytes that were given back.

    Examples
    --------
    >>> released = release_memory()
    >>> release_memory()
    0
    """
    return cpu.release_pool() + cpu.release_scratch()


def get_include() -> str:
    """The folder with dropcore's C headers, for ``#include <dropcore/dropcore.h>``.

    Returns
    -------
    str
        A path for the compiler's option ``-I``.
    """
    return str(Path(__file__).parent / "include")
