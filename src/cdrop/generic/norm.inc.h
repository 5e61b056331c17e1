/* Norms in float64 and vectors made shorter, for the max-norm ball. Included once per real dtype. */

static inline double F(square_of)(T w) {
    return (double)w * (double)w;
}

static double F(sum_squares)(size_t n, const T *w) {
    double lane[16] = {0}, total = 0;
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        UNROLL
        for (int l = 0; l < 16; ++l) lane[l] += F(square_of)(w[i + l]);
    for (int l = 0; l < 16; ++l) total += lane[l];
    for (; i < n; ++i) total += F(square_of)(w[i]);
    return total;
}

/* Row after row; four at a time, so that the sums are loaded and stored a quarter as often. */
static void F(add_squares)(int64_t rows, int64_t n, int64_t stride, const T *w,
                           double *restrict square) {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4, w += 4 * stride) {
        const T *w1 = w + stride, *w2 = w1 + stride, *w3 = w2 + stride;
        for (int64_t i = 0; i < n; ++i)
            square[i] = square[i] + F(square_of)(w[i]) + F(square_of)(w1[i]) +
                        F(square_of)(w2[i]) + F(square_of)(w3[i]);
    }
    for (; r < rows; ++r, w += stride)
        for (int64_t i = 0; i < n; ++i) square[i] += F(square_of)(w[i]);
}

static inline void F(shorten_run)(int64_t n, const double *restrict factor, T *restrict w,
                                  double *restrict square) {
    for (int64_t i = 0; i < n; ++i) {
        const T shorter = (T)((double)w[i] * factor[i]);
        w[i] = shorter;
        square[i] += F(square_of)(shorter);
    }
}

#define SOME 8 /* columns that are looked at together; those with nothing to do are passed over */

/* At most CDROP_CLIP_COLUMNS columns, row by row: down one column after the other every cache line
 * would be fetched for a single number, and all of them into the same few places of the cache.
 * Columns beside a shortened one are multiplied by 1, which changes no number. */
static void F(shorten)(int64_t rows, int64_t n, int64_t stride, const double *factor, T *w,
                       double *square) {
    double sum[CDROP_CLIP_COLUMNS] = {0};
    int64_t from[CDROP_CLIP_COLUMNS / SOME + 1], to[CDROP_CLIP_COLUMNS / SOME + 1];
    int runs = 0;
    for (int64_t i = 0; i < n; i += SOME) {
        const int64_t end = i + SOME < n ? i + SOME : n;
        int any = 0;
        for (int64_t c = i; c < end; ++c) any |= factor[c] != 1.0;
        if (any && runs && to[runs - 1] == i) {
            to[runs - 1] = end;
        } else if (any) {
            from[runs] = i;
            to[runs++] = end;
        }
    }
    for (int64_t r = 0; r < rows; ++r)
        for (int run = 0; run < runs; ++run)
            F(shorten_run)(to[run] - from[run], factor + from[run], w + r * stride + from[run],
                           sum + from[run]);
    for (int64_t i = 0; i < n; ++i)
        if (factor[i] != 1.0) square[i] += sum[i];
}

#undef SOME
