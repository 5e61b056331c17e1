# Permutations that are computed: numbers of a slice, and where given numbers are.

cdef enum:
    NUMBERS_A_PART = 64     # threads take whole ones

# Of a round for one number.
cdef double SWAP_NS = 1.5


cdef void permute_part(const cdrop_permutation *permutation, bint backwards, int64_t n,
                       uint64_t *numbers, int part, int parts) noexcept nogil:
    cdef int64_t first = chunk_start(n, part, parts, NUMBERS_A_PART)
    cdef int64_t last = chunk_start(n, part + 1, parts, NUMBERS_A_PART)
    if part == 0:
        cdrop_note_team()
    if first < last:
        cdrop_active.permute(permutation, backwards, <size_t> (last - first), numbers + first)


def permute(numbers, uint64_t n, uint64_t seed, uint32_t stream, uint32_t step, bint backwards):
    """Replace indices (int64) by what a permutation of [0, n) has there; backwards, the reverse."""
    cdef cdrop_permutation permutation
    cdef Buffer target = array_of("numbers", numbers, I64, -1, True)
    cdef uint64_t *at = <uint64_t *> target.view.buf
    cdef int64_t i, size = target.size()
    cdef int part, team
    cdef uint64_t outside = 0
    if not 0 < n < <uint64_t> 1 << 63:
        raise ValueError(f"n must be in [1, 2**63), got {n}")
    if stream >= CDROP_PERMUTATION_STREAMS:
        raise ValueError(f"stream must be below {CDROP_PERMUTATION_STREAMS}, got {stream}")
    with nogil:
        for i in range(size):  # a negative one is large, too
            outside |= at[i] >= n
        if not outside:
            cdrop_permutation_for(&permutation, n, seed, stream, step)
            team = cdrop_team_for(<double> size * permutation.rounds * SWAP_NS)
            for part in prange(team, num_threads=team, schedule="static",
                               use_threads_if=team > 1):
                permute_part(&permutation, backwards, size, at, part, team)
    if outside:
        raise IndexError(f"numbers must be in [0, {n})")
