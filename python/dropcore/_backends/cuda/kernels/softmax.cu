/* The softmax of rows, and its backward pass. Rows are read again, which are in the cache then. */

/* The maximum is subtracted from each row, so that exp cannot overflow. */
template <typename C> INLINE void softmax_rows(const C *x, C *y, i64 rows, i64 n, int width) {
    __shared__ C scratch[WARP];
    const group g = group_of(width);
    for (i64 row = g.first; row < rows; row += g.stride) {
        const C *from = x + row * n;
        C *to = y + row * n;
        C top = from[0], sum = (C)0;
        for (i64 i = g.thread; i < n; i += g.size) top = larger_of()(top, from[i]);
        top = joined(g, top, scratch, larger_of());
        for (i64 i = g.thread; i < n; i += g.size) sum += exp_of(from[i] - top);
        const C scale = (C)1 / joined(g, sum, scratch, sum_of());
        for (i64 i = g.thread; i < n; i += g.size) to[i] = exp_of(from[i] - top) * scale;
    }
}

template <typename C>
INLINE void softmax_rows_back(const C *y, const C *dy, C *dx, i64 rows, i64 n, int width) {
    __shared__ C scratch[WARP];
    const group g = group_of(width);
    for (i64 row = g.first; row < rows; row += g.stride) {
        C sum = (C)0;
        for (i64 i = row * n + g.thread; i < (row + 1) * n; i += g.size) sum += y[i] * dy[i];
        sum = joined(g, sum, scratch, sum_of());
        for (i64 i = row * n + g.thread; i < (row + 1) * n; i += g.size)
            dx[i] = y[i] * (dy[i] - sum);
    }
}

KERNEL softmax(const STORED *x, STORED *y, i64 rows, i64 n, int width) {
    softmax_rows(x, y, rows, n, width);
}

KERNEL softmax_back(const STORED *y, const STORED *dy, STORED *dx, i64 rows, i64 n, int width) {
    softmax_rows_back(y, dy, dx, rows, n, width);
}
