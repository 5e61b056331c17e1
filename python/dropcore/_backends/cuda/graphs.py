"""Work on a GPU that is recorded once and launched again, as one CUDA graph.

A launch of a graph costs the host what one kernel costs. What changes between launches lies in the
memory of the device: the steps of keys, the numbers of an optimiser's rule, and what the recorded
work reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from dropcore._backends.cuda import blas
from dropcore._backends.cuda.launching import at, launch, library, steps_from
from dropcore._backends.cuda.updates import NUMBERS, numbers_from
from dropcore._base.device import recorded

MASK_32 = (1 << 32) - 1


class Graph:
    """Work that can be launched again.

    Call `rehearse` with the work once, so that kernels are compiled and memory is there; then
    `record`; then `launch` as often as wanted. The work must neither wait for the device nor bring
    anything from the host. Its memory is the graph's own.
    """

    def __init__(self) -> None:
        xp = library()
        self._pool = xp.cuda.MemoryPool()
        self._stream = xp.cuda.Stream(non_blocking=True)
        self._graph: Any = None
        self._more = xp.zeros(1, np.uint32)
        self._numbers = xp.zeros(len(NUMBERS), np.float64)
        blas.prepare(self._more.device.id)

    @property
    def is_recorded(self) -> bool:
        """Whether the graph can be launched."""
        return self._graph is not None

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """An array in memory of the graph's own."""
        with library().cuda.using_allocator(self._pool.malloc):
            return library().empty(shape, dtype)

    def rehearse(self, work: Callable[[], Any]) -> Any:
        """Do the work as it will be recorded."""
        current = library().cuda.get_current_stream()
        self._stream.wait_event(current.record())
        with self._inside():
            found = work()
        current.wait_event(self._stream.record())
        return found

    def record(self, work: Callable[[], Any]) -> Any:
        """Record the work without doing it, and give what it will write.

        Raises
        ------
        ValueError
            If it brings something from the host, which a graph could not do again.
        """
        with self._inside(), _watched() as copies:
            self._stream.begin_capture()
            try:
                found = work()
            finally:
                graph = self._stream.end_capture()
        if copies:
            raise ValueError(
                "this step brings numbers from the host (lengths of sequences, arrays of rates, "
                "masks or class weights in NumPy's memory), which a graph cannot do again: use "
                "cuda_graph=False"
            )
        self._graph = graph
        return found

    def set(self, steps: int, numbers: Sequence[float]) -> None:
        """Say what the next launch adds to the steps of its keys, and the numbers of its rule."""
        launch(self._more, "graph", "set_step", 1, at(self._more), at(self._numbers),
               np.uint32(steps & MASK_32), *map(np.float64, numbers), threads=32)  # fmt: skip

    def launch(self) -> None:
        """Do what was recorded, on the current stream."""
        self._graph.launch(library().cuda.get_current_stream())

    @contextmanager
    def _inside(self) -> Iterator[None]:
        with (
            library().cuda.using_allocator(self._pool.malloc), self._stream,
            steps_from(self._more), numbers_from(self._numbers), recorded(),
        ):  # fmt: skip
            yield


@contextmanager
def _watched() -> Iterator[list[int]]:
    """Note copies from the host: CuPy takes them through memory that it asks for here."""
    cuda, copies = library().cuda, []
    pool = cuda.PinnedMemoryPool()

    def allocate(size: int) -> Any:
        copies.append(size)
        return pool.malloc(size)

    cuda.set_pinned_memory_allocator(allocate)
    try:
        yield copies
    finally:
        # What CuPy sets when it is imported.
        cuda.set_pinned_memory_allocator(library().get_default_pinned_memory_pool().malloc)
