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

#define SOME 8 /* columns that are looked at together; those with nothing to do are passed over */

static void F(shorten)(int64_t rows, int64_t n, int64_t stride, const double *factor, T *w,
                       double *restrict square) {
    for (int64_t i = 0; i < n; i += SOME) {
        const int64_t now = n - i < SOME ? n - i : SOME;
        int64_t column[SOME];
        int changed = 0;
        for (int64_t l = 0; l < now; ++l)
            if (factor[i + l] != 1.0) column[changed++] = i + l;
        if (!changed) continue;
        for (int64_t r = 0; r < rows; ++r)
            for (int c = 0; c < changed; ++c) {
                T *to = w + r * stride + column[c];
                *to = (T)((double)*to * factor[column[c]]);
                square[column[c]] += F(square_of)(*to);
            }
    }
}

#undef SOME
