/* Pooling over windows of images (batch, height, width, channels). Included once per real dtype: T, S.
 *
 * Channels lie side by side, so everything is elementwise over them. A window is cut off at the edge
 * of the image: the padding holds nothing that could be a maximum. Every element of a result is
 * summed by one thread, in the order of the windows.
 */

#define POOL_CHANNELS 32 /* at a time: their maxima and their argmax stay in registers */

typedef struct {
    int64_t top, bottom, left, right; /* inside the image, behind the last one */
    int64_t top_place, left_place;    /* where the uncut window begins */
    T count;                          /* that an average is divided by */
} F(window);

static inline F(window) F(window_at)(const cdrop_pool *p, int64_t image, int64_t row,
                                     int64_t column) {
    F(window) w;
    const int64_t width = p->lengths ? p->lengths[image] : p->width;
    w.top_place = row * p->stride_height - p->pad_before_height;
    w.left_place = column * p->stride_width - p->pad_before_width;
    w.top = w.top_place < 0 ? 0 : w.top_place;
    w.left = w.left_place < 0 ? 0 : w.left_place;
    w.bottom = w.top_place + p->kernel_height;
    w.right = w.left_place + p->kernel_width;
    if (w.bottom > p->height) w.bottom = p->height;
    if (w.right > width) w.right = width;
    int64_t count = (w.bottom - w.top) * (w.right - w.left);
    if (p->count_padding) count = p->kernel_height * p->kernel_width;
    w.count = (T)(count < 1 ? 1 : count);
    return w;
}

/* The greatest of n channels, NaN above all, and its place in the window (the argmax); 0 and -1 of none. */
static inline void F(max_window)(const cdrop_pool *p, const F(window) * w, int n, const T *image,
                                 T *y, int32_t *argmax) {
    T best[POOL_CHANNELS];
    int32_t at[POOL_CHANNELS];
    const int none = w->top >= w->bottom || w->left >= w->right;
    for (int c = 0; c < n; ++c) best[c] = none ? (T)0 : (T)-INFINITY;
    for (int c = 0; c < n; ++c) at[c] = -1;
    for (int64_t r = w->top; r < w->bottom; ++r)
        for (int64_t s = w->left; s < w->right; ++s) {
            const T *x = image + (r * p->width + s) * p->channels;
            const int32_t here =
                (int32_t)((r - w->top_place) * p->kernel_width + (s - w->left_place));
            for (int c = 0; c < n; ++c) {
                const int greater = x[c] > best[c], first = at[c] < 0, nan = x[c] != x[c];
                const int take = greater | first | nan;
                best[c] = take ? x[c] : best[c];
                at[c] = take ? here : at[c];
            }
        }
    for (int c = 0; c < n; ++c) y[c] = best[c];
    for (int c = 0; c < n; ++c) argmax[c] = at[c];
}

static inline void F(average_window)(const cdrop_pool *p, const F(window) * w, int n,
                                     const T *image, T *y) {
    T sum[POOL_CHANNELS];
    for (int c = 0; c < n; ++c) sum[c] = (T)0;
    for (int64_t r = w->top; r < w->bottom; ++r)
        for (int64_t s = w->left; s < w->right; ++s) {
            const T *x = image + (r * p->width + s) * p->channels;
            for (int c = 0; c < n; ++c) sum[c] += x[c];
        }
    for (int c = 0; c < n; ++c) y[c] = sum[c] / w->count;
}

/* Rows [row0, row0 + rows) of the output, counted over all images. argmax is NULL for averages. */
static void F(pool)(const cdrop_pool *p, int64_t row0, int64_t rows, const T *x, T *y,
                    int32_t *argmax) {
    const int64_t channels = p->channels;
    for (int64_t row = row0; row < row0 + rows; ++row) {
        const int64_t image = row / p->out_height;
        const T *from = x + image * p->height * p->width * channels;
        for (int64_t column = 0; column < p->out_width; ++column) {
            const F(window) w = F(window_at)(p, image, row % p->out_height, column);
            const int64_t to = (row * p->out_width + column) * channels;
            int64_t c = 0;
            if (argmax) {
                for (; c + POOL_CHANNELS <= channels; c += POOL_CHANNELS)
                    F(max_window)(p, &w, POOL_CHANNELS, from + c, y + to + c, argmax + to + c);
                if (c < channels)
                    F(max_window)(p, &w, (int)(channels - c), from + c, y + to + c, argmax + to + c);
            } else {
                for (; c + POOL_CHANNELS <= channels; c += POOL_CHANNELS)
                    F(average_window)(p, &w, POOL_CHANNELS, from + c, y + to + c);
                if (c < channels)
                    F(average_window)(p, &w, (int)(channels - c), from + c, y + to + c);
            }
        }
    }
}

/* dx of one image from its dy; argmax is NULL for averages. */
static void F(pool_back)(const cdrop_pool *p, int64_t image, const T *restrict dy,
                         const int32_t *restrict argmax, T *restrict dx) {
    const int64_t channels = p->channels, size = p->out_height * p->out_width * channels;
    dx += image * p->height * p->width * channels;
    dy += image * size;
    if (argmax) argmax += image * size;
    memset(dx, 0, sizeof(T) * (size_t)(p->height * p->width * channels));
    for (int64_t row = 0; row < p->out_height; ++row)
        for (int64_t column = 0; column < p->out_width; ++column, dy += channels) {
            const F(window) w = F(window_at)(p, image, row, column);
            for (int64_t r = w.top; r < w.bottom; ++r)
                for (int64_t s = w.left; s < w.right; ++s) {
                    T *to = dx + (r * p->width + s) * channels;
                    const int32_t here =
                        (int32_t)((r - w.top_place) * p->kernel_width + (s - w.left_place));
                    if (argmax)
                        for (int64_t c = 0; c < channels; ++c)
                            to[c] += argmax[c] == here ? dy[c] : (T)0;
                    else
                        for (int64_t c = 0; c < channels; ++c) to[c] += dy[c] / w.count;
                }
            if (argmax) argmax += channels;
        }
}

#undef POOL_CHANNELS
