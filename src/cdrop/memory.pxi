# Memory that goes from one array to the next: a training step needs the same sizes again and again,
# and fresh pages from the system cost as much as a pass over them.

cdef size_t POOL_LIMIT = 512 << 20
POOL_BYTES = POOL_LIMIT
cdef size_t pooled = 0
cdef dict waiting = {}  # bytes -> addresses


cdef size_t size_class(size_t bytes) noexcept:
    """The least of eight sizes between two powers of two: an eighth is wasted at most.

    Steps do not always need the same sizes: of a layer's units some more live today than yesterday.
    """
    cdef size_t step = 64
    while step <= bytes // 16:
        step *= 2
    return (bytes + step - 1) // step * step


cdef class Room:
    """Uninitialised bytes, 64-byte aligned, writable through the buffer protocol."""

    cdef void *at
    cdef size_t bytes
    cdef Py_ssize_t shape, stride

    def __cinit__(self, size_t asked):
        global pooled
        cdef size_t bytes
        cdef list kept
        if asked > <size_t> PY_SSIZE_T_MAX // 2:
            raise MemoryError(f"no array has {asked} bytes")
        bytes = size_class(asked)
        kept = waiting.get(bytes)
        self.bytes = bytes
        self.shape, self.stride = <Py_ssize_t> asked, 1
        if kept:
            try:
                self.at = <void *> <size_t> kept.pop()
                pooled -= bytes
                return
            except IndexError:  # another thread took it, where threads run without a lock
                pass
        self.at = cdrop_aligned_take(bytes)
        if self.at == NULL:
            raise MemoryError(f"no memory for an array of {bytes} bytes")

    def __dealloc__(self):
        global pooled
        if self.at == NULL:
            return
        if self.bytes > POOL_LIMIT:
            cdrop_aligned_give(self.at)
            return
        if pooled + self.bytes > POOL_LIMIT:
            give_back()  # sizes that nobody asks for any more among it
        waiting.setdefault(self.bytes, []).append(<size_t> self.at)
        pooled += self.bytes

    def __getbuffer__(self, Py_buffer *view, int flags):
        view.buf = self.at
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


def give_back():
    """Return all waiting memory to the system. The number of bytes."""
    global pooled
    cdef size_t given = pooled
    for addresses in waiting.values():
        for address in addresses:
            cdrop_aligned_give(<void *> <size_t> address)
    waiting.clear()
    pooled = 0
    return given


def waiting_bytes():
    return pooled
