# Drawing masks. Work is in nanoseconds of one thread, measured with the slowest usual kernels.

cdef double PLANE_NS = 0.013  # of one element
cdef int MOST_PLANES = 11      # ties cost about as much as a plane for all


cdef cdrop_draw draw_of(uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain,
                        uint64_t threshold) noexcept nogil:
    cdef cdrop_draw draw
    draw.address = dropcore_address_of(seed, stream, step, domain)
    draw.threshold = threshold
    return draw


cdef double draw_ns(uint64_t threshold) noexcept nogil:
    """Of one element: what its planes cost."""
    return min(<int> cdrop_planes(threshold), MOST_PLANES) * PLANE_NS


cdef int expect_address(uint32_t stream, uint32_t domain, uint64_t offset,
                        uint64_t n) except -1:
    if stream >> 28 or domain >> 4:
        raise ValueError(f"stream must be < 2**28 and domain < 16, got {stream} and {domain}")
    if offset > <uint64_t> 1 << 63 or n > (<uint64_t> 1 << 63) - offset:
        raise ValueError(f"offset + size must be <= 2**63, got {offset} + {n}")
    return 0


def threshold(double keep):
    """T = round(keep * 2**32), half to even, for keep in [0, 1]."""
    if not 0.0 <= keep <= 1.0:
        raise ValueError(f"keep must be in [0, 1], got {keep!r}")
    return dropcore_threshold(keep)


cdef void packed_part(const cdrop_draw *draw, uint64_t offset, int64_t n, uint8_t *bits, int part,
                      int parts) noexcept nogil:
    cdef int64_t first = chunk_start(n, part, parts, CHUNK_ELEMENTS)
    cdef int64_t last = chunk_start(n, part + 1, parts, CHUNK_ELEMENTS)
    if part == 0:
        cdrop_note_team()
    if first < last:
        cdrop_packed(draw, offset + <uint64_t> first, <size_t> (last - first), bits + first // 8)


cdef void draw_bits(const cdrop_draw *draw, uint64_t offset, int64_t n,
                    uint8_t *bits) noexcept nogil:
    cdef int team = cdrop_team_for(<double> n * draw_ns(draw.threshold))
    cdef int part
    for part in prange(team, num_threads=team, schedule="static", use_threads_if=team > 1):
        packed_part(draw, offset, n, bits, part, team)


def draw(bits, int64_t n, uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain,
         uint64_t threshold, uint64_t offset):
    """Fill `bits` (uint8, ceil(n / 8)) with the packed mask of [offset, offset + n)."""
    cdef Buffer out = array_of("bits", bits, U8, (n + 7) // 8, True)
    expect_address(stream, domain, offset, <uint64_t> n)
    cdef cdrop_draw d = draw_of(seed, stream, step, domain, threshold)
    with nogil:
        draw_bits(&d, offset, n, <uint8_t *> out.view.buf)


cdef void packed_each_part(const cdrop_draw *draw, uint64_t offset, const cdrop_layout *layout,
                           const uint64_t *thresholds, int64_t n, uint8_t *bits, int part,
                           int parts) noexcept nogil:
    cdef int64_t first = chunk_start(n, part, parts, CHUNK_ELEMENTS)
    cdef int64_t last = chunk_start(n, part + 1, parts, CHUNK_ELEMENTS)
    if part == 0:
        cdrop_note_team()
    if first < last:
        cdrop_packed_each(&draw.address, offset, layout, thresholds, first,
                          <size_t> (last - first), bits + first // 8)


def draw_each(bits, thresholds, uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain,
              uint64_t offset):
    """The same with a threshold for each element: uint64, any strides, of the mask's shape."""
    cdef Buffer t = buffer_of("thresholds", thresholds, U64)
    cdef int64_t n = t.size()
    cdef Buffer out = array_of("bits", bits, U8, (n + 7) // 8, True)
    cdef cdrop_layout layout
    cdef int d, part, team
    if t.view.ndim > CDROP_MAX_DIMS:
        raise ValueError(f"thresholds must have at most {CDROP_MAX_DIMS} axes, got {t.view.ndim}")
    expect_address(stream, domain, offset, <uint64_t> n)
    if n == 0:
        return
    cdef cdrop_draw address = draw_of(seed, stream, step, domain, 0)
    layout.ndim = t.view.ndim
    for d in range(t.view.ndim):
        layout.shape[d] = t.view.shape[d]
        layout.x[d] = layout.out[d] = layout.bit[d] = layout.scale[d] = t.view.strides[d] // 8
    cdrop_merge_axes(&layout)
    with nogil:
        team = cdrop_team_for(<double> n * 1.5)
        for part in prange(team, num_threads=team, schedule="static", use_threads_if=team > 1):
            packed_each_part(&address, offset, &layout, <const uint64_t *> t.view.buf, n,
                             <uint8_t *> out.view.buf, part, team)


def kept_at(kept, indices, uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain,
            uint64_t threshold, uint64_t offset):
    """Fill `kept` (uint8, 0 or 1) for scattered indices (int64): two planes of each, on average."""
    cdef Buffer index = array_of("indices", indices, I64)
    cdef int64_t n = index.size(), i
    cdef Buffer out = array_of("kept", kept, U8, n, True)
    cdef cdrop_draw d = draw_of(seed, stream, step, domain, threshold)
    cdef const int64_t *at = <const int64_t *> index.view.buf
    cdef uint8_t *to = <uint8_t *> out.view.buf
    cdef int team
    with nogil:
        team = cdrop_team_for(<double> n * 20)
        for i in prange(n, num_threads=team, schedule="static", use_threads_if=team > 1):
            to[i] = dropcore_is_kept(&d.address, d.threshold, offset + <uint64_t> at[i])


def words(uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain, uint64_t first_block,
          int64_t count):
    """Philox words (count, 4) uint32, of the blocks from first_block on."""
    import numpy as np

    result = np.empty((count, 4), dtype=np.uint32)
    cdef Buffer out = array_of("result", result, U32, -1, True)
    cdef uint32_t *to = <uint32_t *> out.view.buf
    cdef dropcore_address address = dropcore_address_of(seed, stream, step, domain)
    cdef dropcore_block block
    cdef int64_t b
    cdef int q
    with nogil:
        for b in range(count):
            block = dropcore_block_at(&address, first_block + <uint64_t> b)
            for q in range(4):
                to[4 * b + q] = block.word[q]
    return result


def uniform(uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain, uint64_t offset,
            int64_t count):
    """The uniforms u32 (count,) of the elements from offset on, one at a time."""
    import numpy as np

    result = np.empty(count, dtype=np.uint32)
    cdef Buffer out = array_of("result", result, U32, -1, True)
    cdef uint32_t *to = <uint32_t *> out.view.buf
    cdef dropcore_address address = dropcore_address_of(seed, stream, step, domain)
    cdef int64_t i
    with nogil:
        for i in range(count):
            to[i] = dropcore_uniform(&address, offset + <uint64_t> i)
    return result
