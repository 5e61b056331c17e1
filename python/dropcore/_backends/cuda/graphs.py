"""Work on a GPU that is recorded once and launched many times, as one CUDA graph.

To launch a graph costs the host as much as one kernel. What differs between launches is in device
memory: the steps of keys, the hyperparameters of an update rule, and the data that the work reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from dropcore._backends.cuda.blas import Handle, products_by
from dropcore._backends.cuda.kernels import (
    HYPERPARAMETERS,
    launch,
    library,
    ptr,
    step_offset_from,
)
from dropcore._backends.cuda.updates import hyperparameters_from, values_of
from dropcore._base.device import recorded

MASK_32 = (1 << 32) - 1


class Graph:
    """Work that can be launched again.

    Call `rehearse` with the work once, which compiles kernels and allocates memory; then `record`;
    then `launch` any number of times. The work must neither synchronise with the device nor copy
    anything from the host. A graph has memory, a stream and a cuBLAS handle of its own, so that
    several threads may record at the same time.
    """

    def __init__(self) -> None:
        xp = library()
        self._pool = xp.cuda.MemoryPool()
        self._stream = xp.cuda.Stream(non_blocking=True)
        self._graph: Any = None
        self._step_offset = xp.zeros(1, np.uint32)
        self._hyperparameters = xp.zeros(len(HYPERPARAMETERS), np.float64)
        self._blas = Handle()

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """An array in the graph's own memory."""
        with library().cuda.using_allocator(self._pool.malloc):
            return library().empty(shape, dtype)

    def rehearse(self, work: Callable[[], Any]) -> Any:
        """Do the work in the way it will be recorded."""
        current = library().cuda.get_current_stream()
        self._stream.wait_event(current.record())
        with self._inside(self._pool.malloc):
            found = work()
        current.wait_event(self._stream.record())
        return found

    def record(self, work: Callable[[], Any]) -> Any:
        """Record the work without doing it, and return the arrays that it will write.

        Raises
        ------
        ValueError
            If the work copies something from the host, which a graph cannot repeat.
        """
        with self._inside(_refuse_copies(self._pool.malloc)):
            self._stream.begin_capture()
            try:
                found = work()
            except BaseException:
                with suppress(Exception):  # the capture may be invalid, which is not the cause
                    self._stream.end_capture()
                raise
            self._graph = self._stream.end_capture()
        return found

    def set(self, step_offset: int, hyperparameters: Mapping[str, float]) -> None:
        """Set what the next launch adds to the steps of its keys, and its hyperparameters."""
        launch(self._step_offset, "graph", "set_step", 1, ptr(self._step_offset),
               ptr(self._hyperparameters), np.uint32(step_offset & MASK_32),
               values_of(hyperparameters), threads=32)  # fmt: skip

    def launch(self) -> None:
        """Do what was recorded, on the current stream."""
        self._graph.launch(library().cuda.get_current_stream())

    @contextmanager
    def _inside(self, allocate: Callable[[int], Any]) -> Iterator[None]:
        with (
            library().cuda.using_allocator(allocate), self._stream,
            step_offset_from(self._step_offset), hyperparameters_from(self._hyperparameters),
            products_by(self._blas), recorded(),
        ):  # fmt: skip
            yield


def _refuse_copies(allocate: Callable[[int], Any]) -> Callable[[int], Any]:
    """An allocator of memory that refuses copies from the host.

    Allocators belong to a thread, unlike the pinned memory that such copies pass through.
    """
    pointer: Any = library().cuda.MemoryPointer

    class OnDevice(pointer):  # type: ignore[misc]
        def copy_from_host(self, *_: Any) -> None:
            raise ValueError(
                "this step copies numbers from the host (lengths of sequences, arrays of rates, "
                "masks or class weights in NumPy's memory), which a CUDA graph cannot repeat: use "
                "cuda_graph=False"
            )

        copy_from_host_async = copy_from_host

    def allocated(size: int) -> Any:
        memory = allocate(size)
        return OnDevice(memory.mem, memory.ptr - memory.mem.ptr)

    return allocated
