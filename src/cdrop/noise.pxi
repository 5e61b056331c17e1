# Noise: an array of words, of normals or of uniforms, filled from an index on.

# Of one element, by what it is filled with: CDROP_WORDS ... CDROP_UNIFORM.
cdef double[4] FILL_NS = [0.5, 2.5, 5.0, 0.8]


cdef void fill_part(int what, const dropcore_address *address, uint64_t offset, int64_t n,
                    char *out, Py_ssize_t itemsize, int part, int parts) noexcept nogil:
    cdef int64_t first = chunk_start(n, part, parts, CHUNK_ELEMENTS)
    cdef int64_t last = chunk_start(n, part + 1, parts, CHUNK_ELEMENTS)
    if part == 0:
        cdrop_note_team()
    if first < last:
        cdrop_fill(what, address, offset + <uint64_t> first, <size_t> (last - first),
                   out + first * itemsize)


cdef int fill(int what, out, int allowed, uint64_t seed, uint32_t stream, uint32_t step,
              uint32_t domain, uint64_t offset) except -1:
    """Fill a contiguous array from offset on; normals in the dtype of the array."""
    cdef Buffer target = array_of("out", out, allowed, -1, True)
    cdef Py_ssize_t itemsize = target.view.itemsize
    cdef int64_t n = target.size()
    cdef dropcore_address address = dropcore_address_of(seed, stream, step, domain)
    cdef int part, team
    expect_address(stream, domain, offset, <uint64_t> n)
    if what == CDROP_NORMAL_F32 and target.dtype == F64:
        what = CDROP_NORMAL_F64
    with nogil:
        team = cdrop_team_for(<double> n * FILL_NS[what])
        for part in prange(team, num_threads=team, schedule="static", use_threads_if=team > 1):
            fill_part(what, &address, offset, n, <char *> target.view.buf, itemsize, part, team)
    return 0


def noise_words(out, uint64_t seed, uint32_t stream, uint32_t step, uint64_t offset):
    """The words (uint32) of noise elements."""
    fill(CDROP_WORDS, out, U32, seed, stream, step, 1, offset)


def normal(out, uint64_t seed, uint32_t stream, uint32_t step, uint64_t offset):
    """Standard normals (float32 or float64) of noise elements."""
    fill(CDROP_NORMAL_F32, out, REAL, seed, stream, step, 1, offset)


def uniforms(out, uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain, uint64_t offset):
    """The uniforms (uint32) that decisions compare with their threshold."""
    fill(CDROP_UNIFORM, out, U32, seed, stream, step, domain, offset)
