/* The softmax of attention, a tile of scores at a time. Included once per real dtype.
 *
 * A. Scores come in units of log2 e, so that a weight is 2^score: no constant of e enters.
 * B. A row meets its keys a tile at a time. It keeps the largest score so far and the sum of its
 *    weights relative to that one; a larger score shrinks what was summed before (Milakov and
 *    Gimelshein 2018; Dao et al. 2022).
 * C. Dropout selects weights after they were summed: the softmax is that of all keys.
 * D. Rows are processed in whole steps of CDROP_TILE_STEP columns: x and bits have room for them.
 *
 * Sums and maxima have CDROP_TILE_STEP interleaved parts, whatever the instruction set.
 */

/* From one part for each column of a step to one number, in a fixed order. */
static inline T F(sum_of_parts)(T *part) {
    for (int half = CDROP_TILE_STEP / 2; half; half /= 2)
        for (int j = 0; j < half; ++j) part[j] += part[j + half];
    return part[0];
}

/* The largest of n > 0 numbers and `top`; NaN is passed over. */
static inline T F(row_top)(int64_t n, const T *x, T top) {
    T part[CDROP_TILE_STEP];
    int64_t i = 0;
    for (int j = 0; j < CDROP_TILE_STEP; ++j) part[j] = top;
    for (; i + CDROP_TILE_STEP <= n; i += CDROP_TILE_STEP)
        for (int j = 0; j < CDROP_TILE_STEP; ++j) part[j] = part[j] < x[i + j] ? x[i + j] : part[j];
    for (int j = 0; i + j < n; ++j) part[j] = part[j] < x[i + j] ? x[i + j] : part[j];
    for (int half = CDROP_TILE_STEP / 2; half; half /= 2)
        for (int j = 0; j < half; ++j) part[j] = part[j] < part[j + half] ? part[j + half] : part[j];
    return part[0];
}

/* What is taken off the scores of a row: nothing where the row has seen no key yet. */
static inline T F(row_base)(T top) {
    return top == -(T)INFINITY ? (T)0 : top;
}

/* x__n = bit ? x__n : +0.0, and the sum of all of them. */
static inline T F(sum_and_drop)(int64_t n, const uint8_t *bits, uint64_t bit, T *x) {
    const V(vec) one = V(set1)((T)1);
    V(vec) sum[CDROP_TILE_STEP / V(LANES)];
    T part[CDROP_TILE_STEP];
    UNROLL
    for (int j = 0; j < CDROP_TILE_STEP / V(LANES); ++j) sum[j] = V(zero)();
    for (int64_t i = 0; i < n; i += CDROP_TILE_STEP) {
        if (bits) {
            const sel_t sel = sel_set(cdrop_load_bits32(bits, bit + (uint64_t)i));
            UNROLL
            for (int j = 0; j < CDROP_TILE_STEP / V(LANES); ++j) {
                T *at = x + i + j * V(LANES);
                const V(vec) weight = V(load)(at);
                sum[j] = V(add)(sum[j], weight);
                V(store)(at, V(keep_mul)(sel, j, weight, one));
            }
        } else {
            UNROLL
            for (int j = 0; j < CDROP_TILE_STEP / V(LANES); ++j)
                sum[j] = V(add)(sum[j], V(load)(x + i + j * V(LANES)));
        }
    }
    UNROLL
    for (int j = 0; j < CDROP_TILE_STEP / V(LANES); ++j) V(store)(part + j * V(LANES), sum[j]);
    return F(sum_of_parts)(part);
}

static inline int64_t F(live)(const cdrop_tile *tile, int64_t row) {
    const int64_t live = tile->first_live + row * tile->live_step;
    return live < 0 ? 0 : live < tile->columns ? live : tile->columns;
}

static void F(softmax_tile)(const cdrop_tile *tile, T *x, T *top, T *total, T *shrink) {
    uint64_t bit = tile->bit;
    for (int64_t r = 0; r < tile->rows; ++r, x += tile->stride, bit += (uint64_t)tile->bit_stride) {
        const int64_t n = F(live)(tile, r), whole = CDROP_WHOLE_STEPS(n);
        shrink[r] = (T)1;
        if (n) {
            const T before = top[r], now = F(row_top)(n, x, before), base = F(row_base)(now);
            for (int64_t i = n; i < whole; ++i) x[i] = -(T)INFINITY;
            INDEPENDENT
            for (int64_t i = 0; i < whole; ++i) x[i] = F(exp2_of)(x[i] - base);
            const T sum = F(sum_and_drop)(whole, tile->bits, bit, x);
            if (before < now) {
                shrink[r] = F(exp2_of)(before - base);
                total[r] *= shrink[r];
                top[r] = now;
            }
            total[r] += sum;
        }
        for (int64_t i = whole; i < tile->columns; ++i) x[i] = (T)0;
    }
}

/* x becomes the weights after dropout, dx the gradient of the scores: with p = 2^(x - level),
 * dx = p ((bit ? dx : 0) - mean) and x = bit ? p : 0. No weight is above 1, also where scores are so
 * large that the rounding of `level` is. */
static void F(softmax_tile_back)(const cdrop_tile *tile, const T *level, const T *mean, T *x,
                                 T *dx) {
    const V(vec) one = V(set1)((T)1);
    uint64_t bit = tile->bit;
    for (int64_t r = 0; r < tile->rows;
         ++r, x += tile->stride, dx += tile->stride, bit += (uint64_t)tile->bit_stride) {
        const int64_t n = F(live)(tile, r), whole = CDROP_WHOLE_STEPS(n);
        const T base = F(row_base)(level[r]);
        const V(vec) less = V(set1)(-mean[r]);
        for (int64_t i = n; i < whole; ++i) {
            x[i] = -(T)INFINITY;
            dx[i] = (T)0;
        }
        INDEPENDENT
        for (int64_t i = 0; i < whole; ++i) {
            const T score = x[i] - base;
            x[i] = F(exp2_of)((T)0 < score ? (T)0 : score);
        }
        for (int64_t i = 0; i < whole; i += CDROP_TILE_STEP) {
            const sel_t sel = sel_set(cdrop_load_mask32(tile->bits, bit + (uint64_t)i));
            UNROLL
            for (int j = 0; j < CDROP_TILE_STEP / V(LANES); ++j) {
                T *at = x + i + j * V(LANES), *back = dx + i + j * V(LANES);
                const V(vec) weight = V(load)(at);
                const V(vec) kept = V(keep_mul)(sel, j, V(load)(back), one);
                V(store)(back, V(mul)(weight, V(add)(kept, less)));
                V(store)(at, V(keep_mul)(sel, j, weight, one));
            }
        }
        for (int64_t i = whole; i < tile->columns; ++i) x[i] = dx[i] = (T)0;
    }
}
