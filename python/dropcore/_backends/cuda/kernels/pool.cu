/* Pooling over windows of images (batch, height, width, channels).
 *
 * Neighbouring threads take neighbouring channels. Every number of a result belongs to one thread,
 * which goes through the windows in the order of the C core: the bits are the same. */

#define WINDOWS_ARGUMENTS                                                                          \
    i64 height, i64 width, i64 channels, i64 out_height, i64 out_width, i64 kernel_height,         \
        i64 kernel_width, i64 stride_height, i64 stride_width, i64 before_height,                  \
        i64 before_width, int count_padding, const i64 *lengths
#define WINDOWS_OF                                                                                 \
    {height,       width,         channels,     out_height,    out_width,     kernel_height,       \
     kernel_width, stride_height, stride_width, before_height, before_width,  count_padding,       \
     lengths}

struct windows {
    i64 height, width, channels, out_height, out_width, kernel_height, kernel_width, stride_height,
        stride_width, before_height, before_width;
    int count_padding;
    const i64 *lengths; /* how much of its width each image has, NULL for all of it */
};

INLINE i64 width_of(const windows &p, i64 image) {
    return p.lengths ? p.lengths[image] : p.width;
}

/* A window, cut off at the edges of its image. */
struct window {
    i64 top, bottom, left, right; /* bottom and right are behind the last one */
    i64 top_place, left_place;    /* where it begins uncut */
    i64 count;                    /* that an average is divided by */
};

INLINE window window_at(const windows &p, i64 width, i64 row, i64 column) {
    window w;
    w.top_place = row * p.stride_height - p.before_height;
    w.left_place = column * p.stride_width - p.before_width;
    w.top = w.top_place < 0 ? 0 : w.top_place;
    w.left = w.left_place < 0 ? 0 : w.left_place;
    w.bottom = w.top_place + p.kernel_height;
    w.right = w.left_place + p.kernel_width;
    if (w.bottom > p.height) w.bottom = p.height;
    if (w.right > width) w.right = width;
    w.count = p.count_padding ? p.kernel_height * p.kernel_width
                              : (w.bottom - w.top) * (w.right - w.left);
    if (w.count < 1) w.count = 1;
    return w;
}

/* The number that a place in a window has. */
INLINE int place_in(const windows &p, const window &w, i64 row, i64 column) {
    return (int)((row - w.top_place) * p.kernel_width + (column - w.left_place));
}

/* Maxima and their places, NaN above all, 0 and -1 of nothing; averages where place is NULL. */
KERNEL pool(const STORED *x, STORED *y, int *place, i64 size, WINDOWS_ARGUMENTS) {
    const windows p = WINDOWS_OF;
    for (i64 i = FIRST; i < size; i += STRIDE) {
        i64 image = i;
        const i64 channel = split(image, p.channels), column = split(image, p.out_width);
        const i64 row = split(image, p.out_height);
        const window w = window_at(p, width_of(p, image), row, column);
        const STORED *from = x + image * p.height * p.width * p.channels + channel;
        REAL best = (REAL)0, sum = (REAL)0;
        int at = -1;
        for (i64 r = w.top; r < w.bottom; ++r) {
#pragma unroll 4
            for (i64 s = w.left; s < w.right; ++s) {
                const REAL value = widen(from[(r * p.width + s) * p.channels]);
                sum += value;
                if (value > best || at < 0 || value != value) {
                    best = value;
                    at = place_in(p, w, r, s);
                }
            }
        }
        y[i] = narrow<STORED>(place ? best : sum / (REAL)w.count);
        if (place) place[i] = at;
    }
}

/* Which windows hold a number of an axis: [first, end). */
struct holders {
    i64 first, end;
};

INLINE holders holders_of(i64 at, i64 out, i64 kernel, i64 stride, i64 before) {
    const i64 place = at + before;
    if (place < 0) return {0, 0};
    i64 first = place < kernel ? 0 : place - kernel + stride, last = place;
    split(first, stride);
    split(last, stride);
    return {first, last < out ? last + 1 : out};
}

/* Each number of dx is the sum over the windows that hold it; averages where place is NULL. */
KERNEL pool_back(const STORED *dy, STORED *dx, const int *place, i64 size, WINDOWS_ARGUMENTS) {
    const windows p = WINDOWS_OF;
    for (i64 i = FIRST; i < size; i += STRIDE) {
        i64 image = i;
        const i64 channel = split(image, p.channels), column = split(image, p.width);
        const i64 row = split(image, p.height), width = width_of(p, image);
        const holders down =
            holders_of(row, p.out_height, p.kernel_height, p.stride_height, p.before_height);
        const holders across =
            holders_of(column, p.out_width, p.kernel_width, p.stride_width, p.before_width);
        REAL sum = (REAL)0;
        for (i64 r = down.first; r < down.end && column < width; ++r)
            for (i64 s = across.first; s < across.end; ++s) {
                const i64 from = ((image * p.out_height + r) * p.out_width + s) * p.channels + channel;
                const window w = window_at(p, width, r, s);
                if (!place)
                    sum += widen(dy[from]) / (REAL)w.count;
                else if (place[from] == place_in(p, w, row, column))
                    sum += widen(dy[from]);
            }
        dx[i] = narrow<STORED>(sum);
    }
}
