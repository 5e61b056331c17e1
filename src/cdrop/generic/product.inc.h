/* The blocked product's inner parts, and row sums. Included once per real dtype: T, S.
 *
 * A. Both factors are packed into panels: `width` elements of the panel axis side by side, depth
 *    by depth, zeros behind the end. Masks, live indices and scales are dealt with there and
 *    nowhere else, so the register tile knows one shape of data. (Goto and van de Geijn 2008;
 *    Van Zee and van de Geijn 2015, BLIS.)
 * B. Every element of c is summed in order of depth, block by block: the same bits for any number
 *    of threads. Across instruction sets only the fusing of multiply and add differs.
 *
 * Wanted: V(load1), V(store1): unaligned vector of T; V(set1), V(zero), V(fma)(a, b, c) = a * b + c,
 *   V(keep_mul); V(ROWS) x V(COLUMNS) vectors of accumulators that fit the registers.
 */

#define WIDTH (V(COLUMNS) * V(LANES))

static inline void F(pack_across)(const cdrop_factor *f, const T *data, int64_t panel, int live,
                                  int64_t depth, int width, T *out) {
    const int64_t d = f->depth_index ? f->depth_index[depth] : depth;
    const T *row = data + d * f->depth_stride;
    const T scale = (T)f->scale;
    const int plain = f->panel_stride == 1 && !f->panel_index;
    if (plain && !f->bits && f->scale == 1.0) {
        memcpy(out, row + panel, sizeof(T) * (size_t)live);
    } else if (plain && f->bits && f->bit_panel_stride == 1) {
        F(apply)((size_t)live, f->bits,
                 (uint64_t)(f->bit_first + d * f->bit_depth_stride + panel), scale, row + panel,
                 out, 0);
    } else {
        for (int p = 0; p < live; ++p) {
            const int64_t at = f->panel_index ? f->panel_index[panel + p] : panel + p;
            const int kept =
                !f->bits || cdrop_bit(f->bits, (uint64_t)(f->bit_first + d * f->bit_depth_stride +
                                                          at * f->bit_panel_stride));
            out[p] = kept ? row[at * f->panel_stride] * scale : (T)0;
        }
    }
    for (int p = live; p < width; ++p) out[p] = (T)0;
}

#define DEPTH_SEGMENT 64

/* One panel whose data lie along the depth: transposed a segment at a time. */
static inline void F(pack_along)(const cdrop_factor *f, const T *data, int64_t panel, int live,
                                 int64_t depth0, int64_t n_depth, int width, T *out) {
    T segment[DEPTH_SEGMENT];
    for (int64_t d0 = 0; d0 < n_depth; d0 += DEPTH_SEGMENT) {
        const int n = (int)(n_depth - d0 < DEPTH_SEGMENT ? n_depth - d0 : DEPTH_SEGMENT);
        T *to = out + d0 * width;
        for (int p = 0; p < live; ++p) {
            const int64_t at = f->panel_index ? f->panel_index[panel + p] : panel + p;
            const T *row = data + at * f->panel_stride;
            const T *from = row + depth0 + d0;
            if (f->depth_index) {
                const int64_t *index = f->depth_index + depth0 + d0;
                const int64_t bit = f->bit_first + at * f->bit_panel_stride;
                for (int d = 0; d < n; ++d)
                    segment[d] =
                        !f->bits ||
                                cdrop_bit(f->bits, (uint64_t)(bit + index[d] * f->bit_depth_stride))
                            ? row[index[d]]
                            : (T)0;
                if (f->scale != 1.0)
                    for (int d = 0; d < n; ++d) segment[d] *= (T)f->scale;
                from = segment;
            } else if (f->bits) {
                const int64_t bit = f->bit_first + at * f->bit_panel_stride +
                                    (depth0 + d0) * f->bit_depth_stride;
                F(apply)((size_t)n, f->bits, (uint64_t)bit, (T)f->scale, from, segment, 0);
                from = segment;
            } else if (f->scale != 1.0) {
                for (int d = 0; d < n; ++d) segment[d] = from[d] * (T)f->scale;
                from = segment;
            }
            for (int d = 0; d < n; ++d) to[d * width + p] = from[d];
        }
        for (int p = live; p < width; ++p)
            for (int d = 0; d < n; ++d) to[d * width + p] = (T)0;
    }
}

static void F(pack)(const cdrop_factor *f, int64_t panel0, int64_t n_panel, int64_t depth0,
                    int64_t n_depth, int width, T *out) {
    const T *data = (const T *)f->data;
    const int along = f->depth_stride == 1 && f->panel_stride != 1 &&
                      (!f->bits || f->bit_depth_stride == 1);
    for (int64_t p = 0; p < n_panel; p += width, out += n_depth * width) {
        const int live = (int)(n_panel - p < width ? n_panel - p : width);
        if (along)
            F(pack_along)(f, data, panel0 + p, live, depth0, n_depth, width, out);
        else
            for (int64_t d = 0; d < n_depth; ++d)
                F(pack_across)(f, data, panel0 + p, live, depth0 + d, width, out + d * width);
    }
}

static inline void F(tile)(int64_t depth, const T *a, const T *b, T *c, int64_t c_stride,
                           int accumulate) {
    V(vec) sum[V(ROWS)][V(COLUMNS)];
    UNROLL
    for (int i = 0; i < V(ROWS); ++i)
        UNROLL
        for (int j = 0; j < V(COLUMNS); ++j) sum[i][j] = V(zero)();
    for (int64_t d = 0; d < depth; ++d, a += V(ROWS), b += WIDTH) {
        V(vec) row[V(COLUMNS)];
        UNROLL
        for (int j = 0; j < V(COLUMNS); ++j) row[j] = V(load)(b + j * V(LANES));
        UNROLL
        for (int i = 0; i < V(ROWS); ++i) {
            const V(vec) ai = V(set1)(a[i]);
            UNROLL
            for (int j = 0; j < V(COLUMNS); ++j) sum[i][j] = V(fma)(ai, row[j], sum[i][j]);
        }
    }
    UNROLL
    for (int i = 0; i < V(ROWS); ++i)
        UNROLL
        for (int j = 0; j < V(COLUMNS); ++j) {
            T *to = c + i * c_stride + j * V(LANES);
            V(store)(to, accumulate ? V(add)(V(load)(to), sum[i][j]) : sum[i][j]);
        }
}

static void F(block)(int64_t m, int64_t n, int64_t depth, const T *a, const T *b, T *c,
                     int64_t c_stride, int accumulate) {
    for (int64_t j = 0; j < n; j += WIDTH) {
        const int64_t n_now = n - j < WIDTH ? n - j : WIDTH;
        for (int64_t i = 0; i < m; i += V(ROWS)) {
            const int64_t m_now = m - i < V(ROWS) ? m - i : V(ROWS);
            const T *panel_a = a + i * depth, *panel_b = b + j * depth;
            T *to = c + i * c_stride + j;
            if (m_now == V(ROWS) && n_now == WIDTH) {
                F(tile)(depth, panel_a, panel_b, to, c_stride, accumulate);
            } else { /* at the edge: a whole tile beside, then what belongs to c */
                T edge[V(ROWS) * WIDTH];
                F(tile)(depth, panel_a, panel_b, edge, WIDTH, 0);
                for (int64_t r = 0; r < m_now; ++r)
                    for (int64_t s = 0; s < n_now; ++s) {
                        T *cell = to + r * c_stride + s;
                        *cell = accumulate ? *cell + edge[r * WIDTH + s] : edge[r * WIDTH + s];
                    }
            }
        }
    }
}

static void F(finish)(size_t n, const T *bias, int relu, T *y) {
    if (bias)
        for (size_t i = 0; i < n; ++i) y[i] += bias[i];
    if (relu) /* written so that a NaN stays */
        for (size_t i = 0; i < n; ++i) y[i] = y[i] <= (T)0 ? (T)0 : y[i];
}

static void F(axpy)(size_t n, const uint8_t *bits, uint64_t bit, T a, const T *x, T *y) {
    const V(vec) s = V(set1)(a);
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        const sel_t sel = sel_set(cdrop_load_bits32(bits, bit + i));
        UNROLL
        for (int j = 0; j < 32 / V(LANES); ++j) {
            const size_t at = i + (size_t)j * V(LANES);
            V(store)(y + at, V(add)(V(load)(y + at), V(keep_mul)(sel, j, V(load)(x + at), s)));
        }
    }
    for (; i < n; ++i)
        if (cdrop_bit(bits, bit + i)) y[i] += a * x[i];
}

static T F(dot)(size_t n, const uint8_t *bits, uint64_t bit, const T *x, const T *w) {
    V(vec) sum[32 / V(LANES)];
    T lanes[V(LANES)], total = (T)0;
    size_t i = 0;
    for (int j = 0; j < 32 / V(LANES); ++j) sum[j] = V(zero)();
    for (; i + 32 <= n; i += 32) {
        const sel_t sel = sel_set(cdrop_load_bits32(bits, bit + i));
        UNROLL
        for (int j = 0; j < 32 / V(LANES); ++j) {
            const size_t at = i + (size_t)j * V(LANES);
            sum[j] = V(add)(sum[j], V(keep_mul)(sel, j, V(load)(w + at), V(load)(x + at)));
        }
    }
    for (int j = 1; j < 32 / V(LANES); ++j) sum[0] = V(add)(sum[0], sum[j]);
    V(store)(lanes, sum[0]);
    for (int l = 0; l < V(LANES); ++l) total += lanes[l];
    for (; i < n; ++i)
        if (cdrop_bit(bits, bit + i)) total += x[i] * w[i];
    return total;
}

static void F(add_squares)(size_t n, const T *w, double *square) {
    for (size_t i = 0; i < n; ++i) square[i] += (double)w[i] * (double)w[i];
}

static double F(sum_squares)(size_t n, const T *w) {
    double lane[16] = {0}, total = 0;
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int l = 0; l < 16; ++l) lane[l] += (double)w[i + l] * (double)w[i + l];
    for (int l = 0; l < 16; ++l) total += lane[l];
    for (; i < n; ++i) total += (double)w[i] * (double)w[i];
    return total;
}

#undef WIDTH
#undef DEPTH_SEGMENT
