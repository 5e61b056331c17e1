/* Patches of images as the lines of a product's factor. Included once per real dtype: T, S.
 *
 * The numbers of a patch are counted (kernel row, kernel column, channel). A run of them lies side by
 * side in the image: a row of the kernel where no column is left out, else the channels under one
 * weight. Where a part of a patch is inside one run, and inside the image, it is read in place;
 * else it is put together beside, with zeros for the padding. So nothing of the size of all patches
 * is ever stored. (The idea of reading a product's rows through pointers instead of copying them is
 * Dukhan 2019, "The indirect convolution algorithm".)
 */

static inline void F(copy_run)(const T *from, int64_t n, T *to) {
    int64_t i = 0;
    if (n < V(LANES)) {
        for (; i < n; ++i) to[i] = from[i];
        return;
    }
    for (; i < n - V(LANES); i += V(LANES)) V(store)(to + i, V(load)(from + i));
    i = n - V(LANES); /* a vector that overlaps the one before, and no tail */
    V(store)(to + i, V(load)(from + i));
}

/* to__n = row[at ... at + n), zero outside of [0, limit). */
static inline void F(copy_clipped)(const T *row, int64_t at, int64_t n, int64_t limit, T *to) {
    int64_t first = at < 0 ? -at : 0, last = limit - at < n ? limit - at : n, i;
    if (first > n) first = n;
    if (last < first) last = first;
    for (i = 0; i < first; ++i) to[i] = (T)0;
    if (last > first) F(copy_run)(row + (at + first), last - first, to + first);
    for (i = last; i < n; ++i) to[i] = (T)0;
}

/* lines__i = the numbers [depth0, depth0 + depth) of the patch at position0 + i; `staged` has room for
 * n * room numbers. Every line can be read as far as the rows of a tile. */
static void F(lines)(const cdrop_patches *p, int64_t position0, int64_t n, int64_t depth0,
                     int64_t depth, int64_t room, T *staged, const T **lines) {
    const T *data = (const T *)p->data;
    const int64_t limit = p->width * p->channels;
    const int whole = p->dilation_width == 1 && p->taken == p->channels;
    const int64_t run = whole ? p->kernel_width * p->channels : p->taken;
    const int64_t runs_a_row = whole ? 1 : p->kernel_width;
    const int64_t run0 = depth0 / run, skipped = depth0 % run;
    const int direct = skipped + depth <= run && depth >= V(ROWS);
    int64_t column = position0 % p->out_width, row = position0 / p->out_width % p->out_height;
    const T *image = data + position0 / p->out_width / p->out_height * p->height * limit;
    for (int64_t i = 0; i < n; ++i) {
        const int64_t top = row * p->stride_height - p->pad_before_height;
        const int64_t left = (column * p->stride_width - p->pad_before_width) * p->channels +
                             p->first_channel;
        const int64_t step = p->dilation_width * p->channels;
        int64_t y = top + run0 / runs_a_row * p->dilation_height, x = run0 % runs_a_row;
        int64_t at = left + x * step + skipped, d = 0;
        if (direct && y >= 0 && y < p->height && at >= 0 && at + depth <= limit) {
            lines[i] = image + y * limit + at;
        } else {
            T *to = staged + i * room;
            int64_t now = run - skipped;
            while (d < depth) {
                if (now > depth - d) now = depth - d;
                const int inside = y >= 0 && y < p->height;
                if (inside && at >= 0 && at + now <= limit)
                    F(copy_run)(image + y * limit + at, now, to + d);
                else
                    F(copy_clipped)(inside ? image + y * limit : NULL, at, now, inside ? limit : 0,
                                    to + d);
                d += now;
                now = run;
                if (++x == runs_a_row) {
                    x = 0;
                    y += p->dilation_height;
                }
                at = left + x * step;
            }
            for (; d < V(ROWS); ++d) to[d] = (T)0;
            lines[i] = to;
        }
        if (++column == p->out_width) {
            column = 0;
            if (++row == p->out_height) {
                row = 0;
                image += p->height * limit;
            }
        }
    }
}
