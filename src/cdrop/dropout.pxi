# Elementwise dropout: one pass for contiguous arrays, segments of rows for all others.

cdef double APPLY_NS = 0.12
cdef double STRIDED_NS = 0.8


cdef void dropout_part(int dtype, const cdrop_draw *draw, const uint8_t *bits, uint64_t offset,
                       int64_t n, double scale, const char *x, char *out, bint stream, int part,
                       int parts) noexcept nogil:
    """Part of a contiguous array: with bits, from bit `offset` of them; else drawn."""
    cdef int64_t first = chunk_start(n, part, parts, CHUNK_ELEMENTS)
    cdef int64_t last = chunk_start(n, part + 1, parts, CHUNK_ELEMENTS)
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
        dropout_part(dtype, draw, bits, offset, n, scale, x, out, stream, part, team)


cdef int elements(int dtype) except -1:
    """Of the dtype of that number: the bit of its buffers."""
    if dtype < 0 or dtype > 3:
        raise ValueError(f"dtype must be 0 ... 3 (f32, f64, f16, bf16), got {dtype}")
    return 1 << dtype


def dropout(out, x, int dtype, uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain,
            uint64_t threshold, double scale, uint64_t offset):
    """Contiguous x to contiguous out, with the mask drawn on the way."""
    cdef Buffer source = array_of("x", x, elements(dtype))
    cdef int64_t n = source.size()
    cdef Buffer target = array_of("out", out, source.dtype, n, True)
    expect_address(stream, domain, offset, <uint64_t> n)
    cdef cdrop_draw d = draw_of(seed, stream, step, domain, threshold)
    with nogil:
        dropout_flat(dtype, &d, NULL, offset, n, scale, <const char *> source.view.buf,
                     <char *> target.view.buf, source.view.itemsize)


def dropout_fast(x, rate, keep, key, offset, out):
    """dropout in the common case, in one call: `out` or a new array, or None and nothing is done.

    The common case: one float rate or keep in [0, 1], contiguous, aligned NumPy arrays of one dtype
    and shape, which are the same or do not overlap. Otherwise the caller takes the general path,
    which also raises the errors.
    """
    cdef uint64_t seed, first
    cdef uint32_t stream = 0, step = 0
    cdef double kept
    cdef Buffer source, target
    cdef int dtype, d
    cdef int64_t n
    cdef Py_ssize_t itemsize
    cdef size_t from_, to, bytes
    cdef cdrop_draw draw
    if type(offset) is not int:
        return None
    try:
        first = offset
        if type(key) is Key:
            if key.domain:
                return None
            seed, stream, step = key.seed, key.stream, key.step
        elif type(key) is int:
            seed = key
        else:
            return None
    except OverflowError:
        return None
    if keep is None and type(rate) is float and 0.0 <= <double> rate <= 1.0:
        kept = 1.0 - <double> rate
    elif rate is None and type(keep) is float and 0.0 <= <double> keep <= 1.0:
        kept = keep
    else:
        return None
    if out is None:
        out = empty_like(x, order="C")
    elif type(out) is not ndarray:
        return None
    try:
        source, target = acquire(x, False), acquire(out, True)
    except (BufferError, TypeError, ValueError):
        return None
    n, itemsize, bytes = source.size(), source.view.itemsize, <size_t> source.view.len
    from_, to = <size_t> source.view.buf, <size_t> target.view.buf
    if (not source.dtype & (F32 | F64 | F16) or source.dtype != target.dtype
            or source.view.ndim != target.view.ndim
            or not source.contiguous() or not target.contiguous()
            or from_ % itemsize or to % itemsize
            or (from_ != to and from_ < to + bytes and to < from_ + bytes)
            or first > <uint64_t> 1 << 63 or <uint64_t> n > (<uint64_t> 1 << 63) - first):
        return None
    for d in range(source.view.ndim):
        if source.view.shape[d] != target.view.shape[d]:
            return None
    dtype = CDROP_F32 if source.dtype == F32 else CDROP_F64 if source.dtype == F64 else CDROP_F16
    draw = draw_of(seed, stream, step, 0, dropcore_threshold(kept))
    with nogil:
        dropout_flat(dtype, &draw, NULL, first, n, 1.0 / kept if draw.threshold else 0.0,
                     <const char *> source.view.buf, <char *> target.view.buf, itemsize)
    return out


cdef void segments_part(int dtype, const cdrop_layout *layout, const char *x, char *out,
                        const uint8_t *bits, double scale, const double *scales, int part,
                        int parts) noexcept nogil:
    cdef int64_t segments = cdrop_segments(layout)
    if part == 0:
        cdrop_note_team()
    cdrop_apply_segments(dtype, layout, x, out, bits, scale, scales,
                         chunk_start(segments, part, parts, 1),
                         chunk_start(segments, part + 1, parts, 1))


def apply(out, x, int dtype, bits, tuple bit_strides, double scale, scales):
    """Any strides. Bit strides in elements of the packed mask, 0 along shared axes.

    scales is None, or float64 that broadcasts to x already (strides of 0 along shared axes).
    """
    cdef Buffer source = buffer_of("x", x, elements(dtype), False, True)
    cdef Buffer target = buffer_of("out", out, source.dtype, True, True)
    cdef Buffer packed = array_of("bits", bits, U8), s = None
    cdef int64_t n = source.size(), last_bit = 0
    cdef Py_ssize_t itemsize = source.view.itemsize
    cdef cdrop_layout layout
    cdef int d, part, team, ndim = source.view.ndim
    cdef const double *each = NULL
    if ndim > CDROP_MAX_DIMS or target.view.ndim != ndim or len(bit_strides) != ndim:
        raise ValueError("x, out and the mask must have the same number of axes")
    if scales is not None:
        s = buffer_of("scales", scales, F64)
        if s.view.ndim != ndim:
            raise ValueError(f"scales must have the {ndim} axes of x, got {s.view.ndim}")
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
    packed.expect(last_bit // 8 + 1)
    cdrop_merge_axes(&layout)
    cdef const uint8_t *b = <const uint8_t *> packed.view.buf
    cdef bint flat = (each == NULL and layout.ndim == 1 and layout.bit[0] == 1
                      and layout.x[0] == itemsize and layout.out[0] == itemsize
                      and source.aligned() and target.aligned())
    with nogil:
        if flat:
            dropout_flat(dtype, NULL, b, 0, n, scale, <const char *> source.view.buf,
                         <char *> target.view.buf, itemsize)
        else:
            team = cdrop_team_for(<double> n * STRIDED_NS)
            for part in prange(team, num_threads=team, schedule="static",
                               use_threads_if=team > 1):
                segments_part(dtype, &layout, <const char *> source.view.buf,
                              <char *> target.view.buf, b, scale, each, part, team)
