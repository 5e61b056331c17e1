/* Convolutions whose groups are small, with vectors along the maps. Included once per real dtype:
 * T, S.
 *
 * A column is a map. What the positions of a block read of an image is staged for a vector of
 * columns: for each pixel, and each channel of a group, the number that this channel feeds to each
 * column. Zeros of the padding are stored, and a channel as often as it has maps, so that the
 * multiplications of vectors know neither borders nor groups. The plane holds only the rows under
 * the kernel, row y in place y % slots, so that they stay in L1. Every sum of a product is in the
 * order of the numbers of a patch.
 */

#define SIDE_BY_SIDE 8 /* positions of a tile: as many sums hide the latency of fma */
#define MANY 9         /* numbers of a patch whose gradients are summed together: many, or few */
#define FEW 3

/* How the columns of a vector are fed. */
typedef struct {
    int64_t first[V(LANES)]; /* channels; a column behind the last is fed as the last */
    int live, copied, planned;
    F(picks) picks;
} F(feeds);

static void F(feed)(const cdrop_plane *b, F(feeds) * feeds) {
    int64_t shifted[V(LANES)]; /* so that a vector may start in the pixel before */
    const int64_t left = b->columns - b->column;
    feeds->live = (int)(left < V(LANES) ? left : V(LANES));
    feeds->copied = b->maps == 1 && b->patches.taken == 1 && left >= V(LANES);
    for (int l = 0; l < V(LANES); ++l) {
        const int64_t column = b->column + (l < feeds->live ? l : feeds->live - 1);
        feeds->first[l] = column / b->maps * b->patches.taken;
        shifted[l] = feeds->first[l] + V(LANES);
    }
    feeds->planned = F(plan)(shifted, V(LANES), &feeds->picks);
}

/* Row y of the image, as far as the block reads it; `to` has room for a vector more. */
static void F(stage_row)(const cdrop_plane *b, const F(feeds) * feeds, int64_t y, T *to) {
    const cdrop_patches *p = &b->patches;
    const int64_t channels = p->channels, taken = p->taken, column = b->column;
    const int64_t left = b->left * p->stride_width - p->pad_before_width;
    const int64_t width = y >= 0 && y < p->height ? p->width : 0; /* of what is inside */
    const int64_t right = left + b->width;
    const int64_t from = left < 0 ? 0 : left, end = right < width ? right : width;
    if (end <= from) {
        memset(to, 0, sizeof(T) * (size_t)(b->width * taken * V(LANES)));
        return;
    }
    memset(to, 0, sizeof(T) * (size_t)((from - left) * taken * V(LANES)));
    to += (from - left) * taken * V(LANES);
    const T *data = (const T *)p->data + (b->image * p->height + y) * p->width * channels;
    const T *at = data + from * channels, *last = data + end * channels;
    if (feeds->copied)
        for (; at < last; at += channels, to += V(LANES)) V(store)(to, V(load)(at + column));
    for (; at < last; at += channels) {
        const int planned = feeds->planned &&
                            at - V(LANES) + feeds->picks.from[0] >= (const T *)p->data;
        if (planned && feeds->picks.steps == 1)
            for (int64_t t = 0; t < taken; ++t, to += V(LANES))
                F(pick_first)(&feeds->picks, at + t - V(LANES), to);
        else if (planned)
            for (int64_t t = 0; t < taken; ++t, to += V(LANES))
                F(pick)(&feeds->picks, at + t - V(LANES), (T)1, to);
        else
            for (int64_t t = 0; t < taken; ++t, to += V(LANES))
                for (int l = 0; l < V(LANES); ++l) to[l] = at[feeds->first[l] + t];
    }
    memset(to, 0, sizeof(T) * (size_t)((right - end) * taken * V(LANES)));
}

/* From one row to the next in the plane. */
static inline int64_t F(plane_stride)(const cdrop_plane *b) {
    return (b->width * b->patches.taken + 1) * V(LANES);
}

/* The rows that row r of the block reads, of which those before *staged are there; and where the
 * numbers of a patch are, from that of a position on. */
static void F(stage)(const cdrop_plane *b, const F(feeds) * feeds, int64_t r, int64_t *staged,
                     T *plane, int64_t *offset) {
    const cdrop_patches *p = &b->patches;
    const int64_t taken = p->taken, width = p->kernel_width, top = r * p->stride_height;
    const int64_t step = p->dilation_width * taken * V(LANES);
    if (*staged < top) *staged = top;
    for (; *staged < top + b->slots; ++*staged)
        F(stage_row)(b, feeds, b->row * p->stride_height - p->pad_before_height + *staged,
                     plane + *staged % b->slots * F(plane_stride)(b));
    for (int64_t k = 0; k < p->kernel_height; ++k) {
        const int64_t row = (top + k * p->dilation_height) % b->slots * F(plane_stride)(b);
        for (int64_t l = 0; l < width; ++l)
            for (int64_t t = 0; t < taken; ++t) *offset++ = row + l * step + t * V(LANES);
    }
}

/* c (positions, columns) of the block, from the packed weights of a vector. */
static void F(plane_product)(const cdrop_plane *b, const T *w, T *plane, int64_t *offset, T *c) {
    const cdrop_patches *p = &b->patches;
    const int64_t depth = p->kernel_height * p->kernel_width * p->taken;
    const int64_t step = p->stride_width * p->taken * V(LANES);
    const int live = b->wide < SIDE_BY_SIDE ? (int)b->wide : SIDE_BY_SIDE;
    int64_t staged = 0;
    F(feeds) feeds;
    F(feed)(b, &feeds);
    for (int64_t r = 0; r < b->rows; ++r) {
        const int64_t first = (b->image * p->out_height + b->row + r) * p->out_width + b->left;
        F(stage)(b, &feeds, r, &staged, plane, offset);
        for (int64_t x = 0; x < b->wide; x += SIDE_BY_SIDE) {
            /* The last tile of a row computes some positions again, with the same result. */
            const int64_t start = b->wide - x < live ? b->wide - live : x;
            T *to = c + (first + start) * b->columns + b->column;
            const T *line[SIDE_BY_SIDE];
            V(vec) sum[SIDE_BY_SIDE];
            UNROLL
            for (int i = 0; i < SIDE_BY_SIDE; ++i) {
                line[i] = plane + (start + (i < live ? i : 0)) * step;
                sum[i] = V(zero)();
            }
            for (int64_t d = 0; d < depth; ++d) {
                const V(vec) weight = V(load)(w + d * V(LANES));
                UNROLL
                for (int i = 0; i < SIDE_BY_SIDE; ++i)
                    sum[i] = V(fma)(V(load)(line[i] + offset[d]), weight, sum[i]);
            }
            if (live == SIDE_BY_SIDE && feeds.live == V(LANES)) {
                UNROLL
                for (int i = 0; i < SIDE_BY_SIDE; ++i) V(store)(to + i * b->columns, sum[i]);
            } else {
                T edge[SIDE_BY_SIDE][V(LANES)];
                UNROLL
                for (int i = 0; i < SIDE_BY_SIDE; ++i) V(store)(edge[i], sum[i]);
                for (int i = 0; i < live; ++i)
                    memcpy(to + i * b->columns, edge[i], sizeof(T) * (size_t)feeds.live);
            }
        }
    }
}

/* dw__taps += the products of a row of positions, of which `live` numbers are different. */
SPECIALISED void F(plane_sums)(const int taps, int64_t live, int64_t n, const T *plane,
                               int64_t step, const int64_t *offset, const T *dz, int64_t dz_step,
                               T *dw) {
    V(vec) sum[MANY];
    const T *line[MANY];
    UNROLL
    for (int i = 0; i < taps; ++i) {
        sum[i] = V(zero)();
        line[i] = plane + offset[i < live ? i : 0];
    }
    for (int64_t x = 0; x < n; ++x, dz += dz_step) {
        const V(vec) back = V(load)(dz);
        UNROLL
        for (int i = 0; i < taps; ++i) sum[i] = V(fma)(V(load)(line[i] + x * step), back, sum[i]);
    }
    UNROLL
    for (int i = 0; i < taps; ++i)
        if (i < live) V(store)(dw + i * V(LANES), V(add)(V(load)(dw + i * V(LANES)), sum[i]));
}

/* dw (patch, LANES) += the products of the block with dz (positions, columns). */
static void F(plane_gradient)(const cdrop_plane *b, const T *dz, T *plane, int64_t *offset, T *dw) {
    const cdrop_patches *p = &b->patches;
    const int64_t depth = p->kernel_height * p->kernel_width * p->taken;
    const int64_t step = p->stride_width * p->taken * V(LANES);
    T *room = plane + b->slots * F(plane_stride)(b); /* for a row of dz */
    int64_t staged = 0;
    F(feeds) feeds;
    F(feed)(b, &feeds);
    for (int64_t r = 0; r < b->rows; ++r) {
        const int64_t first = (b->image * p->out_height + b->row + r) * p->out_width + b->left;
        const T *back = dz + first * b->columns + b->column;
        int64_t back_step = b->columns;
        F(stage)(b, &feeds, r, &staged, plane, offset);
        if (feeds.live < V(LANES)) { /* nothing is read behind the last column */
            for (int64_t x = 0; x < b->wide; ++x) {
                V(store)(room + x * V(LANES), V(zero)());
                memcpy(room + x * V(LANES), back + x * back_step, sizeof(T) * (size_t)feeds.live);
            }
            back = room;
            back_step = V(LANES);
        }
        int64_t d = 0;
        for (; d + MANY <= depth; d += MANY)
            F(plane_sums)(MANY, MANY, b->wide, plane, step, offset + d, back, back_step,
                          dw + d * V(LANES));
        for (; d < depth; d += FEW)
            F(plane_sums)(FEW, depth - d, b->wide, plane, step, offset + d, back, back_step,
                          dw + d * V(LANES));
    }
}

#undef SIDE_BY_SIDE
#undef MANY
#undef FEW
