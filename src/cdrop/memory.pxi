# Memory that goes from one array to the next: a training step needs the same sizes again and again,
# and fresh pages from the system cost as much as a pass over them.

POOL_BYTES = CDROP_MEMORY_LIMIT


cdef class PooledBuffer:
    """Uninitialised bytes, 64-byte aligned, writable through the buffer protocol."""

    cdef void *memory
    cdef Py_ssize_t shape, stride

    def __cinit__(self, size_t bytes):
        if bytes > <size_t> PY_SSIZE_T_MAX // 2:
            raise MemoryError(f"no array has {bytes} bytes")
        self.shape, self.stride = <Py_ssize_t> bytes, 1
        self.memory = cdrop_memory_take(bytes)
        if self.memory == NULL:
            raise MemoryError(f"no memory for an array of {bytes} bytes")

    def __dealloc__(self):
        cdrop_memory_give(self.memory, <size_t> self.shape)

    def __getbuffer__(self, Py_buffer *view, int flags):
        view.buf = self.memory
        view.obj = self
        view.len = self.shape
        view.itemsize = 1
        view.readonly = 0
        view.ndim = 1
        view.format = "B"
        view.shape = &self.shape
        view.strides = &self.stride
        view.suboffsets = NULL
        view.internal = NULL


def release_pool():
    """Give all memory that waits for arrays to the system. The number of bytes."""
    return cdrop_memory_release()


def release_scratch():
    """Give the scratch that is kept between calls to the system. The number of bytes."""
    return cdrop_scratch_release()


def waiting_bytes():
    """How much memory waits for arrays."""
    return cdrop_memory_waiting()
