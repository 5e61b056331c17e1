/* The blocked product's inner parts. Included once per real dtype: T, S.
 *
 * A. Both factors are packed into panels: `width` elements of the panel axis side by side, depth
 *    by depth, zeros behind the end. Masks, lists of kept indices and scales are dealt with there and
 *    nowhere else, so the register tile knows one shape of data. (Goto and van de Geijn 2008;
 *    Van Zee and van de Geijn 2015, BLIS.)
 * B. Every element of c is summed in order of depth, block by block: the same bits for any number
 *    of threads. Across instruction sets only the fusing of multiply and add differs.
 *
 * Wanted: V(set1), V(zero), V(add), V(mul), V(fma)(a, b, c) = a * b + c, V(keep_mul), V(relu), which
 *   keeps a NaN, V(if_positive)(y, a) = y > 0 ? a : 0, V(transpose) of LANES vectors in place;
 *   V(ROWS) x V(COLUMNS) vectors of accumulators that fit the registers; and where PICKS is 1
 *   V(pick)(a, order), the lanes of a in another order, counted in 32-bit words.
 */

#define WIDTH (V(COLUMNS) * V(LANES))

#define TOGETHER 128 /* elements of the panel axis that are packed at a time */

/* Kept elements of a line, picked a vector at a time: the same pattern for every line of a block, so
 * it is computed once. A vector may not reach behind the last kept element, where memory may end.
 */
typedef struct {
    int steps;
    int64_t from[TOGETHER]; /* where the vector of a step starts */
    int to[TOGETHER];       /* where its live lanes go, now in front */
#if PICKS
    ALIGNED int32_t order[TOGETHER][V(LANES) * (int)(sizeof(T) / 4)];
#endif
} F(picks);

/* 0 where it cannot be done; count <= TOGETHER. */
static inline int F(plan)(const int64_t *index, int count, F(picks) * picks) {
    picks->steps = 0;
#if PICKS
    const int words = (int)(sizeof(T) / 4);
    for (int i = 0; i < count;) {
        int32_t *order = picks->order[picks->steps];
        int n = 1;
        while (n < V(LANES) && i + n < count && index[i + n] < index[i] + V(LANES)) ++n;
        const int64_t from = index[i + n - 1] - (V(LANES) - 1);
        const int64_t start = from < index[i] ? from : index[i];
        if (start < 0) return 0;
        for (int l = 0; l < V(LANES); ++l)
            for (int w = 0; w < words; ++w)
                order[l * words + w] = (int32_t)(l < n ? index[i + l] - start : 0) * words + w;
        picks->from[picks->steps] = start;
        picks->to[picks->steps++] = i;
        i += n;
    }
    return 1;
#else
    (void)index, (void)count;
    return 0;
#endif
}

/* out has room for a vector more. */
static inline void F(pick)(const F(picks) * picks, const T *row, T scale, T *out) {
#if PICKS
    const V(vec) s = V(set1)(scale);
    for (int i = 0; i < picks->steps; ++i)
        V(store)(out + picks->to[i],
                 V(mul)(V(pick)(V(load)(row + picks->from[i]), picks->order[i]), s));
#else
    (void)picks, (void)row, (void)scale, (void)out;
#endif
}

/* The first step of these alone. */
static inline void F(pick_first)(const F(picks) * picks, const T *row, T *out) {
#if PICKS
    V(store)(out, V(pick)(V(load)(row + picks->from[0]), picks->order[0]));
#else
    (void)picks, (void)row, (void)out;
#endif
}

/* One depth of one panel, element by element: odd strides, kept indices with a mask. */
static inline void F(gather_across)(const cdrop_factor *f, const T *row, int64_t first_bit,
                                    int64_t panel, int live, T *out) {
    const T scale = (T)f->scale;
    for (int p = 0; p < live; ++p) {
        const int64_t at = f->panel_index ? f->panel_index[panel + p] : panel + p;
        const int kept =
            !f->bits || cdrop_bit(f->bits, (uint64_t)(first_bit + at * f->bit_panel_stride));
        out[p] = kept ? row[at * f->panel_stride] * scale : (T)0;
    }
}

#define AHEAD 12 /* depths; far enough for memory, and few enough lines under way */

/* Panels whose data lie side by side. Some at a time, depth by depth, so that whole cache lines of
 * a row are read at once; one panel after the other would fetch each of them several times. The
 * step from row to row is too long for the processor to foresee, so it is told. */
static inline void F(pack_across)(const cdrop_factor *f, const T *data, int64_t panel0,
                                  int64_t n_panel, int64_t depth0, int64_t n_depth, int width,
                                  T *out) {
    const int64_t together = TOGETHER / width * width;
    const T scale = (T)f->scale;
    const int in_line = f->panel_stride == 1, contiguous = in_line && !f->panel_index;
    const int copied = contiguous && !f->bits && f->scale == 1.0;
    const int applied = contiguous && f->bits && f->bit_panel_stride == 1;
    F(picks) picks;
    T picked[TOGETHER + V(LANES)];
    for (int64_t start = 0; start < n_panel; start += together) {
        const int64_t end = start + together < n_panel ? start + together : n_panel;
        const int64_t *index = f->panel_index ? f->panel_index + panel0 + start : NULL;
        const int planned =
            in_line && index && !f->bits && F(plan)(index, (int)(end - start), &picks);
        const int64_t line0 = index ? index[0] : panel0 + start;
        const int64_t line1 = index ? index[end - start - 1] : panel0 + end;
        for (int64_t depth = 0; depth < n_depth; ++depth) {
            const int64_t d = f->depth_index ? f->depth_index[depth0 + depth] : depth0 + depth;
            const T *row = data + d * f->depth_stride;
            const int64_t bit = f->bit_first + d * f->bit_depth_stride;
            if (in_line && depth + AHEAD < n_depth) {
                const int64_t ahead = depth0 + depth + AHEAD;
                const T *next = data + (f->depth_index ? f->depth_index[ahead] : ahead) *
                                           f->depth_stride;
                for (int64_t p = line0; p < line1; p += (int64_t)(64 / sizeof(T)))
                    CDROP_PREFETCH(next + p);
            }
            if (planned) F(pick)(&picks, row, scale, picked);
            for (int64_t p = start; p < end; p += width) {
                T *to = out + p * n_depth + depth * width;
                const int64_t panel = panel0 + p;
                const int live = (int)(n_panel - p < width ? n_panel - p : width);
                const T *from = planned ? picked + (p - start) : row + panel;
                if ((copied || planned) && live == WIDTH) {
                    memcpy(to, from, sizeof(T) * WIDTH);
                } else if ((copied || planned) && live == V(ROWS)) {
                    memcpy(to, from, sizeof(T) * V(ROWS));
                } else if (copied || planned) {
                    memcpy(to, from, sizeof(T) * (size_t)live);
                } else if (applied) {
                    F(apply)((size_t)live, f->bits, (uint64_t)(bit + panel), scale, from, to, 0);
                } else {
                    F(gather_across)(f, row, bit, panel, live, to);
                }
                for (int q = live; q < width; ++q) to[q] = (T)0;
            }
        }
    }
}

#define DEPTH_SEGMENT 64
#define TAIL (V(ROWS) % V(LANES))

/* n depths of one line of the panel axis, where they lie or, changed on the way, in `staged`. */
static inline const T *F(line_along)(const cdrop_factor *f, const T *data, int64_t panel,
                                     int64_t depth, int n, const F(picks) * picks, T *staged) {
    const int64_t at = f->panel_index ? f->panel_index[panel] : panel;
    const T *row = data + at * f->panel_stride, *from = row + depth;
    const int64_t bit = f->bit_first + at * f->bit_panel_stride;
    const T scale = (T)f->scale;
    if (picks) {
        F(pick)(picks, row, scale, staged);
        return staged;
    }
    if (f->depth_index) {
        const int64_t *index = f->depth_index + depth;
        if (f->bits)
            for (int d = 0; d < n; ++d)
                staged[d] = cdrop_bit(f->bits, (uint64_t)(bit + index[d] * f->bit_depth_stride))
                                ? row[index[d]] * scale
                                : (T)0;
        else
            for (int d = 0; d < n; ++d) staged[d] = row[index[d]] * scale;
        return staged;
    }
    if (f->bits) {
        F(apply)((size_t)n, f->bits, (uint64_t)(bit + depth * f->bit_depth_stride), scale, from,
                 staged, 0);
        return staged;
    }
    if (f->scale == 1.0) return from;
    for (int d = 0; d < n; ++d) staged[d] = from[d] * scale;
    return staged;
}

/* One panel whose data lie along the depth: transposed in registers. */
static inline void F(pack_along)(const cdrop_factor *f, const T *data, int64_t panel, int live,
                                 int64_t depth0, int64_t n_depth, int width, T *out) {
    T staged[V(LANES)][DEPTH_SEGMENT + V(LANES)];
    F(picks) picks;
    for (int64_t d0 = 0; d0 < n_depth; d0 += DEPTH_SEGMENT) {
        const int n = (int)(n_depth - d0 < DEPTH_SEGMENT ? n_depth - d0 : DEPTH_SEGMENT);
        const int planned = f->depth_index && !f->bits &&
                            F(plan)(f->depth_index + depth0 + d0, n, &picks);
        for (int p0 = 0; p0 < width; p0 += V(LANES)) {
            T *to = out + d0 * width + p0;
            const int lanes = width - p0 < V(LANES) ? TAIL : V(LANES);
            const T *line[V(LANES)];
            for (int l = 0; l < V(LANES); ++l)
                if (p0 + l < live)
                    line[l] = F(line_along)(f, data, panel + p0 + l, depth0 + d0, n,
                                            planned ? &picks : NULL, staged[l]);
                else
                    line[l] = (const T *)memset(staged[l], 0, sizeof staged[l]);
            int d = 0;
            for (; d + V(LANES) <= n; d += V(LANES)) {
                V(vec) block[V(LANES)];
                UNROLL
                for (int l = 0; l < V(LANES); ++l) block[l] = V(load)(line[l] + d);
                V(transpose)(block);
                if (lanes == V(LANES)) {
                    UNROLL
                    for (int l = 0; l < V(LANES); ++l) V(store)(to + (d + l) * width, block[l]);
                } else {
                    UNROLL
                    for (int l = 0; l < V(LANES); ++l) {
                        T depth_of[V(LANES)];
                        V(store)(depth_of, block[l]);
                        memcpy(to + (d + l) * width, depth_of, sizeof(T) * TAIL);
                    }
                }
            }
            for (; d < n; ++d)
                for (int l = 0; l < lanes; ++l) to[d * width + l] = line[l][d];
        }
    }
}

static void F(pack)(const cdrop_factor *f, int64_t panel0, int64_t n_panel, int64_t depth0,
                    int64_t n_depth, int width, T *out) {
    const T *data = (const T *)f->data;
    const int along = f->depth_stride == 1 && f->panel_stride != 1 &&
                      (!f->bits || f->bit_depth_stride == 1);
    if (!along) {
        F(pack_across)(f, data, panel0, n_panel, depth0, n_depth, width, out);
        return;
    }
    for (int64_t p = 0; p < n_panel; p += width)
        F(pack_along)(f, data, panel0 + p, (int)(n_panel - p < width ? n_panel - p : width),
                      depth0, n_depth, width, out + p * n_depth);
}

/* Where a tile finds its rows of a at depth d, element i of them. */
enum {
    F(PANEL), /* packed: a[d * ROWS + i] */
    F(ALONG), /* lines[i][d]: a line is a row of a */
    F(ACROSS) /* lines[d][first + i]: a line is a depth of a */
};

SPECIALISED void F(tile)(const int form, int64_t depth, const T *a, const T *const *lines,
                           int64_t first, const T *b, T *c, int64_t c_stride, int accumulate) {
    V(vec) sum[V(ROWS)][V(COLUMNS)];
    const T *line[V(ROWS)];
    UNROLL
    for (int i = 0; i < V(ROWS); ++i) line[i] = form == F(ALONG) ? lines[i] : a;
    UNROLL
    for (int i = 0; i < V(ROWS); ++i)
        UNROLL
        for (int j = 0; j < V(COLUMNS); ++j) sum[i][j] = V(zero)();
    for (int64_t d = 0; d < depth; ++d, b += WIDTH) {
        const T *here = form == F(PANEL) ? a + d * V(ROWS) : a;
        if (form == F(ACROSS)) here = lines[d] + first;
        V(vec) row[V(COLUMNS)];
        UNROLL
        for (int j = 0; j < V(COLUMNS); ++j) row[j] = V(load)(b + j * V(LANES));
        UNROLL
        for (int i = 0; i < V(ROWS); ++i) {
            const V(vec) ai = V(set1)(form == F(ALONG) ? line[i][d] : here[i]);
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

/* A part of the lines of `ahead`. */
static inline void F(fetch)(const cdrop_ahead *ahead, int64_t part, int64_t parts) {
    const int64_t lines = (ahead->bytes + 63) / 64, all = ahead->rows * lines;
    int64_t line = all * part / parts;
    const int64_t end = all * (part + 1) / parts;
    int64_t row = line / lines, in_row = line % lines;
    for (; line < end; ++line) {
        const int64_t at = ahead->index ? ahead->index[row] : row;
        CDROP_PREFETCH_L2(ahead->data + at * ahead->stride + in_row * 64);
        if (++in_row == lines) {
            in_row = 0;
            ++row;
        }
    }
}

SPECIALISED void F(tiles)(const int form, int64_t m, int64_t n, int64_t depth, const T *a,
                            const T *const *lines, const T *b, T *c, int64_t c_stride,
                            int accumulate, const cdrop_ahead *ahead) {
    const int64_t tiles_m = (m + V(ROWS) - 1) / V(ROWS), tiles_n = (n + WIDTH - 1) / WIDTH;
    int64_t tile = 0;
    for (int64_t j = 0; j < n; j += WIDTH) {
        const int64_t n_now = n - j < WIDTH ? n - j : WIDTH;
        for (int64_t i = 0; i < m; i += V(ROWS), ++tile) {
            const int64_t m_now = m - i < V(ROWS) ? m - i : V(ROWS);
            const T *panel_a = form == F(PANEL) ? a + i * depth : NULL, *panel_b = b + j * depth;
            const T *const *from = form == F(ALONG) ? lines + i : lines;
            T *to = c + i * c_stride + j;
            for (const cdrop_ahead *next = ahead; next; next = next->also)
                F(fetch)(next, tile, tiles_m * tiles_n);
            if (m_now == V(ROWS) && n_now == WIDTH) {
                F(tile)(form, depth, panel_a, from, i, panel_b, to, c_stride, accumulate);
            } else { /* at the edge: a whole tile beside, then what belongs to c */
                /* Nothing may be read behind the end of a line: its last elements, some again. */
                const int64_t again = form == F(ACROSS) && i ? V(ROWS) - m_now : 0;
                T edge[V(ROWS) * WIDTH];
                F(tile)(form, depth, panel_a, from, i - again, panel_b, edge, WIDTH, 0);
                for (int64_t r = 0; r < m_now; ++r)
                    for (int64_t s = 0; s < n_now; ++s) {
                        const T value = edge[(r + again) * WIDTH + s];
                        T *cell = to + r * c_stride + s;
                        *cell = accumulate ? *cell + value : value;
                    }
            }
        }
    }
}

static void F(block)(int64_t m, int64_t n, int64_t depth, const T *a, const T *b, T *c,
                     int64_t c_stride, int accumulate, const cdrop_ahead *ahead) {
    F(tiles)(F(PANEL), m, n, depth, a, NULL, b, c, c_stride, accumulate, ahead);
}

/* `lines` has room to the next whole tile: its entries must be lines too. */
static void F(block_along)(int64_t m, int64_t n, int64_t depth, const T *const *lines, const T *b,
                           T *c, int64_t c_stride, int accumulate) {
    F(tiles)(F(ALONG), m, n, depth, NULL, lines, b, c, c_stride, accumulate, NULL);
}

/* A line has at least the rows of a tile. */
static void F(block_across)(int64_t m, int64_t n, int64_t depth, const T *const *lines, const T *b,
                            T *c, int64_t c_stride, int accumulate) {
    F(tiles)(F(ACROSS), m, n, depth, NULL, lines, b, c, c_stride, accumulate, NULL);
}

static void F(epilogue)(int64_t m, int64_t n, const T *bias, int relu, const uint8_t *bits,
                      uint64_t bit, int64_t bit_stride, T scale, T *c, int64_t c_stride) {
    const V(vec) s = V(set1)(scale);
    for (int64_t r = 0; r < m; ++r, c += c_stride, bit += (uint64_t)bit_stride) {
        int64_t i = 0;
        for (; i + 32 <= n; i += 32) {
            const sel_t sel = sel_set(cdrop_load_mask32(bits, bit + (uint64_t)i));
            UNROLL
            for (int j = 0; j < 32 / V(LANES); ++j) {
                const int64_t at = i + j * V(LANES);
                V(vec) y = V(load)(c + at);
                if (bias) y = V(add)(y, V(load)(bias + at));
                if (relu) y = V(relu)(y);
                V(store)(c + at, V(keep_mul)(sel, j, y, s));
            }
        }
        for (; i < n; ++i) {
            T y = c[i];
            if (bias) y += bias[i];
            if (relu) y = y <= (T)0 ? (T)0 : y; /* written so that a NaN stays */
            c[i] = !bits || cdrop_bit(bits, bit + (uint64_t)i) ? y * scale : (T)0;
        }
    }
}

/* The backward pass of the epilogue: under relu y tells where it was positive and kept. */
static inline void F(unfinish_form)(size_t n, T scale, const T *y, const T *dy, T *dz, T *sum) {
    const V(vec) s = V(set1)(scale);
    size_t i = 0;
    for (; i + V(LANES) <= n; i += V(LANES)) {
        V(vec) d = V(mul)(V(load)(dy + i), s);
        if (y) d = V(if_positive)(V(load)(y + i), d);
        if (dz) V(store)(dz + i, d);
        V(store)(sum + i, V(add)(V(load)(sum + i), d));
    }
    for (; i < n; ++i) {
        const T d = !y || y[i] > (T)0 ? dy[i] * scale : (T)0;
        if (dz) dz[i] = d;
        sum[i] += d;
    }
}

static void F(epilogue_backward)(size_t n, T scale, const T *y, const T *dy, T *dz, T *sum) {
    if (y && dz)
        F(unfinish_form)(n, scale, y, dy, dz, sum);
    else if (dz)
        F(unfinish_form)(n, scale, NULL, dy, dz, sum);
    else
        F(unfinish_form)(n, scale, y, dy, NULL, sum);
}

#undef WIDTH
#undef DEPTH_SEGMENT
#undef TAIL
#undef AHEAD
#undef TOGETHER
