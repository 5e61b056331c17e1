/* out = kept ? x * scale : +0.0. out may be x. */

template <typename T>
INLINE void drawn(const T *x, T *out, i64 n, const draw &d, real_of<T> scale, u64 offset) {
    const u64 before = offset % DROPCORE_GROUP * sizeof(T);
    const bool fours = in_fours<T>((u64)x - before) && in_fours<T>((u64)out - before);
    each_quad(n, d, true, offset, [&](i64 start, u32 bits) {
        if (fours && start >= 0 && start + 4 <= n) {
            four<T> v = *(const four<T> *)(x + start);
#pragma unroll
            for (int j = 0; j < 4; ++j) v.at[j] = kept_or_zero(bits >> j & 1, v.at[j], scale);
            *(four<T> *)(out + start) = v;
            return;
        }
        for (int j = 0; j < 4; ++j) {
            const i64 i = start + j;
            if (0 <= i && i < n) out[i] = kept_or_zero(bits >> j & 1, x[i], scale);
        }
    });
}

/* With bits in the shape of x: a thread handles the eight elements of a byte. */
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

/* With bits, and scales unless NULL, that broadcast to x. */
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
