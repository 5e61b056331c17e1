/* Patches of images as the rows of matrices, so that a convolution is a product. */

/* The geometry along one axis of the images. */
struct along {
    i64 size, out, kernel, stride, dilation, pad_before;
};

/* The coordinate of tap `tap` of output `position`. Outside of the image the values are 0. */
INLINE i64 coordinate_of(const along &axis, i64 position, i64 tap) {
    return position * axis.stride + tap * axis.dilation - axis.pad_before;
}

/* A thread copies a V, which is one channel or four; `taken` counts them. */
template <typename V>
INLINE void copy_patches(const V *images, V *patches, i64 first, i64 rows, i64 groups, i64 taken,
                         const along &high, const along &wide) {
    const i64 size = groups * rows * high.kernel * wide.kernel * taken;
    for (i64 i = FIRST; i < size; i += STRIDE) {
        i64 group = i;
        const i64 channel = split(group, taken);
        const i64 right = split(group, wide.kernel), down = split(group, high.kernel);
        i64 image = first + split(group, rows);
        const i64 column = coordinate_of(wide, split(image, wide.out), right);
        const i64 row = coordinate_of(high, split(image, high.out), down);
        V value = V();
        if (0 <= row && row < high.size && 0 <= column && column < wide.size)
            value = images[(((image * high.size + row) * wide.size + column) * groups + group) *
                               taken + channel];
        patches[i] = value;
    }
}

/* images (batch, height, width, groups * taken) -> patches (groups, rows, kernel height, kernel
 * width, taken), for the positions from first to first + rows. */
KERNEL write_patches(const STORED *images, STORED *patches, i64 first, i64 rows, i64 groups,
                     i64 taken, i64 height, i64 width, i64 out_height, i64 out_width,
                     i64 kernel_height, i64 kernel_width, i64 stride_height, i64 stride_width,
                     i64 dilation_height, i64 dilation_width, i64 pad_height,
                     i64 pad_width) {
    typedef four<STORED> fours;
    const along high = {height,        out_height,      kernel_height,
                        stride_height, dilation_height, pad_height};
    const along wide = {width, out_width, kernel_width, stride_width, dilation_width, pad_width};
    if (taken % 4 == 0 && in_fours<STORED>((u64)images) && in_fours<STORED>((u64)patches))
        copy_patches((const fours *)images, (fours *)patches, first, rows, groups, taken / 4, high,
                     wide);
    else
        copy_patches(images, patches, first, rows, groups, taken, high, wide);
}
