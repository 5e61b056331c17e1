/* out = kept ? x * scale : +0.0. out may be x. */

/* A thread takes a Philox block: four times four neighbours, 64 elements apart. Index 0 is the first
 * of a tile; element i of the arrays has index i + lead. */
template <typename T>
INLINE void drawn(const T *x, T *out, i64 n, const draw &d, real_of<T> scale, u64 offset) {
    const i64 lead = (i64)(offset % DROPCORE_TILE);
    const u64 first_block = offset / DROPCORE_TILE * DROPCORE_TILE_BLOCKS;
    const i64 blocks = (n + lead + DROPCORE_TILE - 1) / DROPCORE_TILE * DROPCORE_TILE_BLOCKS;
    const u64 before = (u64)lead * sizeof(T);
    const bool fours = in_fours<T>((u64)x - before) && in_fours<T>((u64)out - before);
    for (i64 b = FIRST; b < blocks; b += STRIDE) {
        const i64 start = b / DROPCORE_TILE_BLOCKS * DROPCORE_TILE +
                          b % DROPCORE_TILE_BLOCKS * 4 - lead;
        if (fours && start >= 0 && start + 3 * 64 + 4 <= n) {
            four<T> v[4];
#pragma unroll
            for (int q = 0; q < 4; ++q) v[q] = *(const four<T> *)(x + start + 64 * q);
            const dropcore_block block = dropcore_block_at(&d.address, first_block + (u64)b);
#pragma unroll
            for (int q = 0; q < 4; ++q) {
                const u32 bits = decisions(d, block, (unsigned)q);
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    v[q].at[j] = kept_or_zero(bits >> j & 1, v[q].at[j], scale);
                *(four<T> *)(out + start + 64 * q) = v[q];
            }
            continue;
        }
        const dropcore_block block = dropcore_block_at(&d.address, first_block + (u64)b);
        for (int q = 0; q < 4; ++q) {
            const u32 bits = decisions(d, block, (unsigned)q);
            for (int j = 0; j < 4; ++j) {
                const i64 i = start + 64 * q + j;
                if (0 <= i && i < n) out[i] = kept_or_zero(bits >> j & 1, x[i], scale);
            }
        }
    }
}

/* With bits of the shape of x: a thread takes eight neighbours and their byte. */
template <typename T>
INLINE void given(const T *x, T *out, i64 n, const u8 *bits, real_of<T> scale) {
    const bool fours = in_fours<T>((u64)x) && in_fours<T>((u64)out);
    for (i64 byte = FIRST; byte < (n + 7) / 8; byte += STRIDE) {
        const u32 eight = bits[byte];
        const i64 start = 8 * byte;
        if (fours && start + 8 <= n) {
            four<T> v[2];
#pragma unroll
            for (int h = 0; h < 2; ++h) v[h] = *(const four<T> *)(x + start + 4 * h);
#pragma unroll
            for (int h = 0; h < 2; ++h) {
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    v[h].at[j] = kept_or_zero(eight >> (4 * h + j) & 1, v[h].at[j], scale);
                *(four<T> *)(out + start + 4 * h) = v[h];
            }
            continue;
        }
        for (i64 i = start; i < start + 8 && i < n; ++i)
            out[i] = kept_or_zero(eight >> (i - start) & 1, x[i], scale);
    }
}

/* With bits, and scales where not NULL, that broadcast to x. */
template <typename T>
INLINE void shared(const T *x, T *out, i64 n, const u8 *bits, real_of<T> scale,
                   const double *scales, const axes &extent, const axes &bit_stride,
                   const axes &scale_stride) {
    for (i64 i = FIRST; i < n; i += STRIDE) {
        const real_of<T> factor =
            scales ? (real_of<T>)scales[placed(extent, scale_stride, i)] : scale;
        out[i] = kept_or_zero(bit_at(bits, placed(extent, bit_stride, i)), x[i], factor);
    }
}

KERNEL dropout_drawn(const STORED *x, STORED *out, i64 n, REAL scale, DRAW_ARGUMENTS) {
    drawn(x, out, n, DRAW_OF, scale, offset);
}

KERNEL dropout_given(const STORED *x, STORED *out, i64 n, REAL scale, const u8 *bits) {
    given(x, out, n, bits, scale);
}

KERNEL dropout_shared(const STORED *x, STORED *out, i64 n, REAL scale, const u8 *bits,
                      const double *scales, AXES_ARGUMENTS(extent), AXES_ARGUMENTS(bit_stride),
                      AXES_ARGUMENTS(scale_stride)) {
    const axes extent = AXES_OF(extent), bit_stride = AXES_OF(bit_stride);
    const axes scale_stride = AXES_OF(scale_stride);
    shared(x, out, n, bits, scale, scales, extent, bit_stride, scale_stride);
}
