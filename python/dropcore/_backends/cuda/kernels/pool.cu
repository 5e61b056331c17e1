/* Pooling over windows of images (batch, height, width, channels).
 *
 * Neighbouring threads compute neighbouring channels. One thread computes each element of a result,
 * in the order of the C core, so the bits are the same. */

#define WINDOWS_ARGUMENTS                                                                          \
    i64 height, i64 width, i64 channels, i64 out_height, i64 out_width, i64 kernel_height,         \
        i64 kernel_width, i64 stride_height, i64 stride_width, i64 pad_height,                  \
        i64 pad_width, int count_padding, const i64 *lengths
#define WINDOWS_OF                                                                                 \
    {height,       width,         channels,     out_height,    out_width,     kernel_height,       \
     kernel_width, stride_height, stride_width, pad_height, pad_width,  count_padding,       \
     lengths}

struct windows {
    i64 height, width, channels, out_height, out_width, kernel_height, kernel_width, stride_height,
        stride_width, pad_height, pad_width;
    int count_padding;
    const i64 *lengths; /* the valid width of each image; NULL: all of it */
};

INLINE i64 width_of(const windows &p, i64 image) {
    return p.lengths ? p.lengths[image] : p.width;
}

/* A window, clipped to its image. */
struct window {
    i64 top, bottom, left, right; /* bottom and right are exclusive */
    i64 first_row, first_column;    /* before clipping */
    i64 count;                    /* the divisor of an average */
};

INLINE window window_at(const windows &p, i64 width, i64 row, i64 column) {
    window w;
    w.first_row = row * p.stride_height - p.pad_height;
    w.first_column = column * p.stride_width - p.pad_width;
    w.top = w.first_row < 0 ? 0 : w.first_row;
    w.left = w.first_column < 0 ? 0 : w.first_column;
    w.bottom = w.first_row + p.kernel_height;
    w.right = w.first_column + p.kernel_width;
    if (w.bottom > p.height) w.bottom = p.height;
    if (w.right > width) w.right = width;
    w.count = p.count_padding ? p.kernel_height * p.kernel_width
                              : (w.bottom - w.top) * (w.right - w.left);
    if (w.count < 1) w.count = 1;
    return w;
}

/* The index of a pixel in its window. */
INLINE int index_in(const windows &p, const window &w, i64 row, i64 column) {
    return (int)((row - w.first_row) * p.kernel_width + (column - w.first_column));
}

/* Maxima and their indices in the windows, or averages if argmax is NULL. NaN is the largest value;
 * an empty window gives 0 and -1. */
KERNEL pool(const STORED *x, STORED *y, int *argmax, i64 size, WINDOWS_ARGUMENTS) {
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
                    at = index_in(p, w, r, s);
                }
            }
        }
        y[i] = narrow<STORED>(argmax ? best : sum / (REAL)w.count);
        if (argmax) argmax[i] = at;
    }
}

/* The windows that contain a coordinate of an axis: [first, end). */
struct holders {
    i64 first, end;
};

INLINE holders holders_of(i64 at, i64 out, i64 kernel, i64 stride, i64 before) {
    const i64 argmax = at + before;
    if (argmax < 0) return {0, 0};
    i64 first = argmax < kernel ? 0 : argmax - kernel + stride, last = argmax;
    split(first, stride);
    split(last, stride);
    return {first, last < out ? last + 1 : out};
}

/* Each element of dx sums over the windows that contain it; of averages if argmax is NULL. */
KERNEL pool_back(const STORED *dy, STORED *dx, const int *argmax, i64 size, WINDOWS_ARGUMENTS) {
    const windows p = WINDOWS_OF;
    for (i64 i = FIRST; i < size; i += STRIDE) {
        i64 image = i;
        const i64 channel = split(image, p.channels), column = split(image, p.width);
        const i64 row = split(image, p.height), width = width_of(p, image);
        const holders down =
            holders_of(row, p.out_height, p.kernel_height, p.stride_height, p.pad_height);
        const holders across =
            holders_of(column, p.out_width, p.kernel_width, p.stride_width, p.pad_width);
        REAL sum = (REAL)0;
        for (i64 r = down.first; r < down.end && column < width; ++r)
            for (i64 s = across.first; s < across.end; ++s) {
                const i64 from = ((image * p.out_height + r) * p.out_width + s) * p.channels + channel;
                const window w = window_at(p, width, r, s);
                if (!argmax)
                    sum += widen(dy[from]) / (REAL)w.count;
                else if (argmax[from] == index_in(p, w, row, column))
                    sum += widen(dy[from]);
            }
        dx[i] = narrow<STORED>(sum);
    }
}
