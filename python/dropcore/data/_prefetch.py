"""Batches that a thread reads ahead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from typing import Any, Generic, TypeVar

from dropcore._base.checks import check_integer, shown

__all__ = ["prefetch"]

Item = TypeVar("Item")


def prefetch(batches: Iterable[Item], n: int = 2) -> Iterable[Item]:
    """Read batches ahead in a thread, so that reading and computing overlap.

    Parameters
    ----------
    batches : iterable
        Iterated over in the thread, once for each iteration over the result. An iterator, such as
        a generator, can be iterated over only once.
    n : int, default 2
        Number of items to keep ready.

    Returns
    -------
    iterable
        The same items in the same order, with the length of `batches` if it has one. An exception
        of `batches` is raised in place of its item. The thread ends with the iteration, also if
        that is left early.

    Raises
    ------
    TypeError
        If `batches` is not iterable, or `n` is not an integer.
    ValueError
        If `n` is not positive, or an iterator is iterated over twice.

    Notes
    -----
    Reading files, decompressing and NumPy's work on large arrays overlap with training. Python
    code overlaps on free-threaded Python only; with the GIL one thread runs it at a time.

    Examples
    --------
    >>> for x, y in prefetch([(1, 2), (3, 4)]):
    ...     print(x + y)
    3
    7
    """
    if not isinstance(batches, Iterable):
        raise TypeError(f"prefetch: batches must be an iterable, got {shown(batches)}")
    return _Prefetched(batches, check_integer("prefetch: n", n, 1))


class _Prefetched(Generic[Item]):
    """What `prefetch` returns."""

    def __init__(self, source: Iterable[Item], n: int) -> None:
        self._source = source
        self._n = n
        self._once = isinstance(source, Iterator)
        self._begun = False

    def __len__(self) -> int:
        return len(self._source)  # type: ignore[arg-type]  # TypeError if it has no length

    def __iter__(self) -> Iterator[Item]:
        if self._once and self._begun:
            raise ValueError(
                "prefetch: batches is an iterator, which was run through before: give an iterable "
                "that begins anew, such as a list or an object with __iter__"
            )
        self._begun = True
        return _ahead(self._source, self._n)


def _ahead(source: Iterable[Item], n: int) -> Iterator[Item]:
    ready: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    free = Semaphore(n)
    left = Event()
    thread = Thread(target=_produce, args=(source, ready, free, left), daemon=True)
    thread.start()
    try:
        while True:
            what, value = ready.get()
            if what == "end":
                return
            if what == "error":
                raise value
            free.release()
            yield value
    finally:
        left.set()
        free.release()
        thread.join()


def _produce(
    source: Iterable[Any], ready: SimpleQueue[tuple[str, Any]], free: Semaphore, left: Event
) -> None:
    """Put items where a place is free, until the run is left."""
    try:
        items = iter(source)
        try:
            while True:
                free.acquire()
                if left.is_set():
                    return
                try:
                    item = next(items)
                except StopIteration:
                    break
                ready.put(("item", item))
                del item  # or it would stay until the next one is there
        finally:
            # A generator that was begun here ends here, with its files closed.
            if items is not source and hasattr(items, "close"):
                items.close()
    except BaseException as error:
        ready.put(("error", error))
    else:
        ready.put(("end", None))
