# Arrays as the drivers see them: an address, a shape, strides in bytes, and a dtype. Everything
# that reaches C passes through `buffer_of`, once a call: an array of another format would be read
# as something that it is not.

cdef enum:
    # A dtype is a bit, so that a set of dtypes is a number. Those that dropout takes are
    # 1 << CDROP_F32 ... 1 << CDROP_BF16.
    F32 = 1
    F64 = 2
    F16 = 4
    BF16 = 8        # which exports no buffer: seen as uint16
    REAL = 3        # F32 | F64
    U8 = 16
    I32 = 32
    I64 = 64
    U32 = 128
    U64 = 256

cdef dict DTYPE_NAMES = {F32: "float32", F64: "float64", F16: "float16", BF16: "uint16",
                         U8: "uint8", I32: "int32", I64: "int64", U32: "uint32", U64: "uint64"}


cdef int dtype_of(const Py_buffer *view) noexcept:
    """The dtype of a buffer in native byte order; 0 for any other."""
    cdef const char *format = view.format
    cdef Py_ssize_t size = view.itemsize
    if format == NULL:  # which means bytes
        return U8 if size == 1 else 0
    if format[0] == (c">" if CDROP_BIG_ENDIAN else c"<") or format[0] in (c"@", c"=", c"^"):
        format += 1
    if format[0] == 0 or format[1] != 0:
        return 0
    if format[0] == c"f":
        return F32
    if format[0] == c"d":
        return F64
    if format[0] == c"e":
        return F16
    if format[0] in (c"i", c"l", c"q", c"n"):
        return I32 if size == 4 else I64 if size == 8 else 0
    if format[0] in (c"B", c"H", c"I", c"L", c"Q", c"N"):
        return (U8 if size == 1 else BF16 if size == 2 else U32 if size == 4 else
                U64 if size == 8 else 0)
    return 0


cdef class Buffer:
    """Holds an array's memory for as long as a driver needs it."""

    cdef Py_buffer view
    cdef bint taken
    cdef int dtype          # 0 if it is none of the above
    cdef str name           # of the argument, for messages

    def __dealloc__(self):
        if self.taken:
            PyBuffer_Release(&self.view)

    cdef int64_t size(self) noexcept:
        return self.view.len // max(self.view.itemsize, <Py_ssize_t> 1)

    cdef bint contiguous(self) noexcept:
        cdef Py_ssize_t expected = self.view.itemsize
        cdef int d
        for d in range(self.view.ndim - 1, -1, -1):
            if self.view.shape[d] != 1 and self.view.strides[d] != expected:
                return self.view.len == 0
            expected *= self.view.shape[d]
        return True

    cdef bint aligned(self) noexcept:
        """Whether C may read each element where it is."""
        cdef size_t places = <size_t> self.view.buf
        cdef int d
        if self.view.len == 0:
            return True
        for d in range(self.view.ndim):
            if self.view.shape[d] > 1:
                places |= <size_t> self.view.strides[d]
        return places % min(<size_t> self.view.itemsize, sizeof(void *)) == 0

    cdef int expect(self, int64_t size=-1, int ndim=-1) except -1:
        """Contiguous, with at least that many elements and that many axes."""
        if ndim >= 0 and self.view.ndim != ndim:
            raise ValueError(f"{self.name} must have {ndim} axes, got {self.view.ndim}")
        if not self.contiguous():
            raise ValueError(f"{self.name} must be contiguous (in C order)")
        if self.size() < size:
            raise ValueError(f"{self.name} must have at least {size} elements, got {self.size()}")
        return 0


cdef Buffer acquire(array, bint writable):
    """The memory of an array of any dtype; raises what the buffer protocol raises."""
    cdef Buffer b = Buffer.__new__(Buffer)
    PyObject_GetBuffer(array, &b.view,
                       PyBUF_STRIDES | PyBUF_FORMAT | (PyBUF_WRITABLE if writable else 0))
    b.taken = True
    b.dtype = dtype_of(&b.view)
    return b


cdef object refusal(str name, array, int allowed, bint writable):
    """The error for an array that is not taken."""
    found = getattr(array, "dtype", None)
    cdef list names = [known for bit, known in DTYPE_NAMES.items() if bit & allowed]
    if writable and not getattr(getattr(array, "flags", None), "writeable", True):
        return ValueError(f"{name} is read-only: give an array that can be written")
    hint = f"; use .astype(np.{names[0]})" if getattr(found, "kind", "") in tuple("biufc") else ""
    return TypeError(f"{name} must be an array of {' or '.join(names)}, got "
                     f"{type(array).__name__ if found is None else found}{hint}")


cdef Buffer buffer_of(str name, array, int allowed, bint writable=False, bint any_alignment=False):
    """The memory of an array whose dtype is in the set `allowed`, with any strides.

    Misaligned input is copied, unless the driver takes any alignment; what is written is refused.
    """
    cdef Buffer b
    try:
        b = acquire(array, writable)
    except (TypeError, ValueError, BufferError):
        raise refusal(name, array, allowed, writable) from None
    if not b.dtype & allowed:
        raise refusal(name, array, allowed, False)
    if not any_alignment and not b.aligned():
        if writable:
            raise ValueError(f"{name} is misaligned: its elements must be at multiples of their "
                             "size in memory, as in np.empty(shape, dtype)")
        import numpy as np

        b = acquire(np.array(array, order="C"), False)
    b.name = name
    return b


cdef Buffer array_of(str name, array, int allowed, int64_t size=-1, bint writable=False,
                     int ndim=-1):
    """The memory of a contiguous array with at least `size` elements."""
    cdef Buffer b = buffer_of(name, array, allowed, writable)
    b.expect(size, ndim)
    return b


cdef Buffer optional(str name, array, int allowed, int64_t size, bint writable=False):
    """`array_of`, or None for None."""
    return None if array is None else array_of(name, array, allowed, size, writable)


cdef inline void *pointer_of(Buffer b) noexcept:
    return NULL if b is None else b.view.buf


cdef Buffer index_list(str name, indices, int64_t below):
    """int64 indices, each in [0, below)."""
    cdef Buffer b = array_of(name, indices, I64)
    cdef const int64_t *at = <const int64_t *> b.view.buf
    cdef int64_t i
    for i in range(b.size()):
        if at[i] < 0 or at[i] >= below:
            raise IndexError(f"{name}: index {at[i]} is outside [0, {below})")
    return b
