# cython: freethreading_compatible=True
"""Dropout inside another library's loop, from Cython.

`cimport dropcore` gives a table of C functions, so nothing is linked and no Python is called in the
loop. The functions are serial and take the address of the mask and the index of the first element:
a row is a part of the mask of the whole batch, and any number of threads may share the rows.
"""

cimport dropcore
from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t

cdef const dropcore.dropcore_api *api = dropcore.dropcore_import()


cdef check(int status):
    if status == dropcore.DROPCORE_BAD_KEEP:
        raise ValueError("keep must be in [0, 1]")
    if status == dropcore.DROPCORE_BAD_KEY:
        raise ValueError("stream must be < 2**28")
    if status == dropcore.DROPCORE_BAD_INDEX:
        raise ValueError("offset + size must be <= 2**63")
    if status == dropcore.DROPCORE_BAD_NORM:
        raise ValueError("max_norm must be positive")


def dropout_rows_(float[:, ::1] x, double keep, uint64_t seed, uint32_t stream=0, uint32_t step=0,
                  uint64_t first_row=0):
    """x = dropout(x) in place, where x is the rows from first_row on of a larger batch."""
    cdef size_t width = x.shape[1]
    cdef Py_ssize_t row
    cdef int status = dropcore.DROPCORE_OK
    if width == 0:
        return
    with nogil:
        for row in range(x.shape[0]):
            status = api.dropout_f32(
                seed, stream, step, dropcore.DROPCORE_DOMAIN_TRAINING, keep,
                (first_row + <uint64_t> row) * width, width, &x[row, 0], &x[row, 0]
            )
            if status != dropcore.DROPCORE_OK:
                break
    check(status)


def bound_columns_(float[:, ::1] w, double max_norm):
    """Shorten the columns of w that are longer than max_norm, in place; how many there were."""
    cdef size_t shortened = 0, rows = w.shape[0], columns = w.shape[1]
    cdef int status = dropcore.DROPCORE_OK
    if rows and columns:
        with nogil:
            status = api.max_norm_columns_f32(max_norm, rows, columns, columns, &w[0, 0],
                                              &shortened)
    check(status)
    return shortened


def packed_mask(size_t n, double keep, uint64_t seed, uint32_t stream=0, uint32_t step=0,
                uint64_t offset=0):
    """The packed mask of n elements from `offset` on: ceil(n / 8) bytes."""
    cdef bytearray bits = bytearray((n + 7) // 8)
    cdef unsigned char[::1] view = bits
    if n:
        check(api.packed_mask(seed, stream, step, dropcore.DROPCORE_DOMAIN_TRAINING, keep, offset,
                              n, &view[0]))
    return bits


def count_kept(uint64_t n, double keep, uint64_t seed, uint32_t stream=0, uint32_t step=0):
    """How many of n elements are kept, asked one at a time: the contract itself, in the header."""
    cdef dropcore.dropcore_address address = dropcore.dropcore_address_of(
        seed, stream, step, dropcore.DROPCORE_DOMAIN_TRAINING
    )
    cdef uint64_t threshold = dropcore.dropcore_threshold(keep), i, kept = 0
    for i in range(n):
        kept += dropcore.dropcore_is_kept(&address, threshold, i)
    return kept
