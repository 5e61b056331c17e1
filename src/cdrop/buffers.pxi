# Arrays as the drivers see them: an address, a shape, strides in bytes.

cdef class Buffer:
    """Holds an array's memory for as long as a driver needs it."""

    cdef Py_buffer view
    cdef bint taken

    def __cinit__(self, array, bint writable=False):
        PyObject_GetBuffer(array, &self.view,
                           PyBUF_STRIDES | PyBUF_FORMAT | (PyBUF_WRITABLE if writable else 0))
        self.taken = True

    def __dealloc__(self):
        if self.taken:
            PyBuffer_Release(&self.view)

    cdef int64_t size(self):
        return self.view.len // self.view.itemsize

    cdef bint contiguous(self):
        cdef Py_ssize_t expected = self.view.itemsize
        cdef int d
        for d in range(self.view.ndim - 1, -1, -1):
            if self.view.shape[d] != 1 and self.view.strides[d] != expected:
                return self.view.len == 0
            expected *= self.view.shape[d]
        return True

    cdef int expect(self, str name, Py_ssize_t itemsize, int64_t size=-1) except -1:
        """Contiguous, with elements of that many bytes, and that many of them."""
        if self.view.itemsize != itemsize or not self.contiguous() or (
            size >= 0 and self.size() < size
        ):
            raise ValueError(f"{name} must be contiguous, with {size} elements of {itemsize} bytes")
        return 0


cdef Py_ssize_t itemsize_of(int dtype) except -1:
    if dtype < 0 or dtype > 3:
        raise ValueError(f"dtype must be 0 ... 3 (f32, f64, f16, bf16), got {dtype}")
    return 8 if dtype == CDROP_F64 else 4 if dtype == CDROP_F32 else 2


cdef Buffer index_list(indices, int64_t below):
    cdef Buffer b = Buffer(indices)
    cdef const int64_t *at
    cdef int64_t i
    b.expect("indices", 8)
    at = <const int64_t *> b.view.buf
    for i in range(b.size()):
        if at[i] < 0 or at[i] >= below:
            raise IndexError(f"index {at[i]} is outside [0, {below})")
    return b


cdef int dtype_of(const char *format) noexcept:
    """The dtype of a native buffer, or -1. bfloat16 exports none."""
    if format == NULL or format[0] == 0 or format[1] != 0:
        return -1
    if format[0] == c"f":
        return CDROP_F32
    return CDROP_F64 if format[0] == c"d" else CDROP_F16 if format[0] == c"e" else -1


cdef Buffer optional(str name, array, Py_ssize_t itemsize, int64_t size, bint writable):
    cdef Buffer b
    if array is None:
        return None
    b = Buffer(array, writable)
    b.expect(name, itemsize, size)
    return b


cdef inline void *address(Buffer b) noexcept:
    return NULL if b is None else b.view.buf
