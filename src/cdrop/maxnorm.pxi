# Projection onto the max-norm ball: rows or columns of a contiguous array.

ctypedef fused real:
    float
    double


cdef int64_t clip_share(real *w, int64_t outer, int64_t n, int64_t inner, double max_norm,
                        int64_t item, int64_t items) noexcept nogil:
    """Item of `items`: rows where inner is 1, else a range of columns of one of the outer."""
    cdef int64_t first, last, per_outer
    if item == 0:
        cdrop_note_team()
    if inner == 1:
        first = share(outer, <int> item, <int> items, 1)
        last = share(outer, <int> item + 1, <int> items, 1)
        if real is float:
            return cdrop_clip_rows_f32(w, n, max_norm, first, last)
        else:
            return cdrop_clip_rows_f64(w, n, max_norm, first, last)
    per_outer = items // outer
    w += item // per_outer * n * inner
    item = item % per_outer
    first = share(inner, <int> item, <int> per_outer, 64)
    last = share(inner, <int> item + 1, <int> per_outer, 64)
    if real is float:
        return cdrop_clip_columns_f32(w, n, inner, max_norm, first, last)
    else:
        return cdrop_clip_columns_f64(w, n, inner, max_norm, first, last)


cdef int64_t clip(real *w, int64_t outer, int64_t n, int64_t inner, double max_norm) noexcept nogil:
    cdef int team = cdrop_team_for(<double> (outer * n * inner) * 0.25)
    cdef int64_t items, item, clipped = 0
    if inner == 1:
        items = min(<int64_t> team, outer)
    else:  # panels of columns that stay in the cache, at least one for each thread
        items = outer * max(<int64_t> 1, min((inner + 63) // 64, max(<int64_t> team, inner // 256)))
    for item in prange(items, num_threads=team, schedule="static", use_threads_if=team > 1):
        clipped += clip_share(w, outer, n, inner, max_norm, item, items)
    return clipped


def max_norm(w, int64_t outer, int64_t n, int64_t inner, double max_norm):
    """In place, on contiguous w (outer, n, inner): the norm runs over n. Vectors written."""
    cdef Buffer array = Buffer(w, True)
    cdef int64_t clipped
    if outer * n * inner == 0:
        return 0
    if array.view.itemsize == 4:
        array.expect("w", 4, outer * n * inner)
        with nogil:
            clipped = clip[float](<float *> array.view.buf, outer, n, inner, max_norm)
    else:
        array.expect("w", 8, outer * n * inner)
        with nogil:
            clipped = clip[double](<double *> array.view.buf, outer, n, inner, max_norm)
    return clipped
