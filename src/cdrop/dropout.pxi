# Elementwise dropout: one pass for contiguous arrays, segments of rows for all others.

cdef double APPLY_NS = 0.12
cdef double STRIDED_NS = 0.8


cdef void dropout_share(int dtype, const cdrop_draw *draw, const uint8_t *bits, uint64_t offset,
                        int64_t n, double scale, const char *x, char *out, bint stream, int part,
                        int parts) noexcept nogil:
    """Part of a contiguous array: with bits, from bit `offset` of them; else drawn."""
    cdef int64_t first = share(n, part, parts, CHUNK_ELEMENTS)
    cdef int64_t last = share(n, part + 1, parts, CHUNK_ELEMENTS)
    cdef size_t m = <size_t> (last - first)
    cdef uint64_t at = offset + <uint64_t> first
    cdef const cdrop_kernels *k = cdrop_active
    if part == 0:
        cdrop_note_team()
    if first >= last:
        return
    if dtype == CDROP_F32:
        if bits != NULL:
            k.apply_f32(m, bits, at, <float> scale, <const float *> x + first,
                        <float *> out + first, stream)
        else:
            k.dropout_f32(draw, at, m, <float> scale, <const float *> x + first,
                          <float *> out + first, stream)
    elif dtype == CDROP_F64:
        if bits != NULL:
            k.apply_f64(m, bits, at, scale, <const double *> x + first, <double *> out + first,
                        stream)
        else:
            k.dropout_f64(draw, at, m, scale, <const double *> x + first, <double *> out + first,
                          stream)
    elif dtype == CDROP_F16:
        if bits != NULL:
            k.apply_f16(m, bits, at, <float> scale, <const uint16_t *> x + first,
                        <uint16_t *> out + first, stream)
        else:
            k.dropout_f16(draw, at, m, <float> scale, <const uint16_t *> x + first,
                          <uint16_t *> out + first, stream)
    else:
        if bits != NULL:
            k.apply_bf16(m, bits, at, <float> scale, <const uint16_t *> x + first,
                         <uint16_t *> out + first, stream)
        else:
            k.dropout_bf16(draw, at, m, <float> scale, <const uint16_t *> x + first,
                           <uint16_t *> out + first, stream)


cdef void dropout_flat(int dtype, const cdrop_draw *draw, const uint8_t *bits, uint64_t offset,
                       int64_t n, double scale, const char *x, char *out,
                       Py_ssize_t itemsize) noexcept nogil:
    cdef double ns = APPLY_NS if bits != NULL else APPLY_NS + draw_ns(draw.threshold)
    cdef int team = cdrop_team_for(<double> n * ns)
    # In place the lines are in the cache already; streaming would read them twice.
    cdef bint stream = x != out and 2 * <size_t> (n * itemsize) > cdrop_cache_bytes()
    cdef int part
    for part in prange(team, num_threads=team, schedule="static", use_threads_if=team > 1):
        dropout_share(dtype, draw, bits, offset, n, scale, x, out, stream, part, team)


def dropout(out, x, int dtype, uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain,
            uint64_t threshold, double scale, uint64_t offset):
    """Contiguous x to contiguous out, with the mask drawn on the way."""
    cdef Buffer source = Buffer(x), target = Buffer(out, True)
    cdef int64_t n = source.size()
    cdef Py_ssize_t itemsize = itemsize_of(dtype)
    source.expect("x", itemsize)
    target.expect("out", itemsize, n)
    expect_address(stream, domain, offset, <uint64_t> n)
    cdef cdrop_draw d = draw_of(seed, stream, step, domain, threshold)
    with nogil:
        dropout_flat(dtype, &d, NULL, offset, n, scale, <const char *> source.view.buf,
                     <char *> target.view.buf, itemsize)


def dropout_quick(x, out, double keep, uint64_t seed, uint32_t stream, uint32_t step,
                  uint64_t offset):
    """dropout for whoever has checked nothing: False, and nothing done, unless all is plain.

    Plain is: contiguous and aligned arrays of one dtype and shape, the same or apart, one keep.
    """
    cdef Buffer source = Buffer(x), target = Buffer(out, True)
    cdef int dtype = dtype_of(source.view.format), d
    cdef int64_t n = source.size()
    cdef Py_ssize_t itemsize = source.view.itemsize
    cdef size_t from_ = <size_t> source.view.buf, to = <size_t> target.view.buf
    cdef size_t bytes = <size_t> source.view.len
    cdef cdrop_draw draw
    if (dtype < 0 or dtype != dtype_of(target.view.format) or not 0.0 <= keep <= 1.0
            or source.view.ndim != target.view.ndim or not source.contiguous()
            or not target.contiguous() or from_ % itemsize or to % itemsize
            or (from_ != to and from_ < to + bytes and to < from_ + bytes)
            or offset > <uint64_t> 1 << 63 or <uint64_t> n > (<uint64_t> 1 << 63) - offset
            or stream >> 28):
        return False
    for d in range(source.view.ndim):
        if source.view.shape[d] != target.view.shape[d]:
            return False
    draw = draw_of(seed, stream, step, 0, dropcore_threshold(keep))
    with nogil:
        dropout_flat(dtype, &draw, NULL, offset, n, 1.0 / keep if draw.threshold else 0.0,
                     <const char *> source.view.buf, <char *> target.view.buf, itemsize)
    return True


cdef void segments_share(int dtype, const cdrop_layout *layout, const char *x, char *out,
                         const uint8_t *bits, double scale, const double *scales, int part,
                         int parts) noexcept nogil:
    cdef int64_t segments = cdrop_segments(layout)
    if part == 0:
        cdrop_note_team()
    cdrop_apply_segments(dtype, layout, x, out, bits, scale, scales,
                         share(segments, part, parts, 1), share(segments, part + 1, parts, 1))


def apply(out, x, int dtype, bits, tuple bit_strides, double scale, scales):
    """Any strides. Bit strides in elements of the packed mask, 0 along shared axes.

    scales is None, or float64 that broadcasts to x already (strides of 0 along shared axes).
    """
    cdef Buffer source = Buffer(x), target = Buffer(out, True), packed = Buffer(bits), s = None
    cdef int64_t n = source.size(), last_bit = 0
    cdef Py_ssize_t itemsize = itemsize_of(dtype)
    cdef cdrop_layout layout
    cdef int d, part, team, ndim = source.view.ndim
    cdef const double *each = NULL
    if source.view.itemsize != itemsize or target.view.itemsize != itemsize:
        raise ValueError(f"x and out must have elements of {itemsize} bytes")
    if ndim > CDROP_MAX_DIMS or target.view.ndim != ndim or len(bit_strides) != ndim:
        raise ValueError("x, out and the mask must have the same number of axes")
    if scales is not None:
        s = Buffer(scales)
        if s.view.itemsize != 8 or s.view.ndim != ndim:
            raise ValueError("scales must be float64 with an axis for each of x")
        each = <const double *> s.view.buf
    layout.ndim = ndim
    for d in range(ndim):
        if target.view.shape[d] != source.view.shape[d] or (
            s is not None and s.view.shape[d] != source.view.shape[d]
        ):
            raise ValueError("x, out and scales must have the same shape")
        layout.shape[d] = source.view.shape[d]
        layout.x[d] = source.view.strides[d]
        layout.out[d] = target.view.strides[d]
        layout.bit[d] = bit_strides[d]
        layout.scale[d] = 0 if s is None else s.view.strides[d] // 8
        last_bit += layout.bit[d] * (layout.shape[d] - 1)
    if n == 0:
        return
    packed.expect("bits", 1, last_bit // 8 + 1)
    cdrop_merge_axes(&layout)
    cdef const uint8_t *b = <const uint8_t *> packed.view.buf
    with nogil:
        if each == NULL and layout.ndim == 1 and layout.bit[0] == 1 and (
            layout.x[0] == itemsize and layout.out[0] == itemsize
        ) and <size_t> source.view.buf % <size_t> itemsize == 0 and (
            <size_t> target.view.buf % <size_t> itemsize == 0
        ):
            dropout_flat(dtype, NULL, b, 0, n, scale, <const char *> source.view.buf,
                         <char *> target.view.buf, itemsize)
        else:
            team = cdrop_team_for(<double> n * STRIDED_NS)
            for part in prange(team, num_threads=team, schedule="static",
                               use_threads_if=team > 1):
                segments_share(dtype, &layout, <const char *> source.view.buf,
                               <char *> target.view.buf, b, scale, each, part, team)
