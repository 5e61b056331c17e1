# What several of the files below use: the two real types, and how work is cut into parts.

ctypedef fused real:
    float
    double

cdef enum:
    CHUNK_ELEMENTS = 4096    # of an elementwise job: threads take whole chunks
    ROWS_A_BLOCK = 32        # of sums over rows, at least
    BLOCKS = 32              # of rows, at most: their sums take 1 / 8 of the rows of a block


cdef inline int64_t chunk_start(int64_t n, int part, int parts, int64_t unit) noexcept nogil:
    """Where part begins, of n in parts, at a multiple of unit."""
    cdef int64_t units = (n + unit - 1) // unit
    cdef int64_t at = units // parts * part + min(<int64_t> part, units % parts)
    return min(at * unit, n)


cdef inline int64_t rounded(int64_t n, int64_t unit) noexcept nogil:
    return (n + unit - 1) // unit * unit


cdef int64_t block_rows(int64_t rows) noexcept nogil:
    return max(<int64_t> ROWS_A_BLOCK, (rows + BLOCKS - 1) // BLOCKS)
