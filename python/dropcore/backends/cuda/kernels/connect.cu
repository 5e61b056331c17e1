/* DropConnect with a weight mask for every sample: drawn where it is used, never stored.
 * The decision of (sample, k, n) has index (sample K + k) N + n of the mask. */

struct weights_mask {
    draw d;
    u64 offset;
    const u8 *bits; /* instead, if not NULL */
};

INLINE bool lives(const weights_mask &m, u64 i) {
    if (m.bits) return bit_at(m.bits, (i64)i);
    return dropcore_is_kept(&m.d.address, m.d.threshold, m.offset + i);
}

/* y (B, N) += x (B, K) @ w (K, N): a thread for each y. */
template <typename T>
INLINE void connect_y(T *y, const T *x, const T *w, i64 samples, i64 K, i64 N,
                      const weights_mask &m) {
    for (i64 i = FIRST; i < samples * N; i += STRIDE) {
        const i64 s = i / N, n = i % N;
        T sum = y[i];
        for (i64 k = 0; k < K; ++k)
            if (lives(m, (u64)((s * K + k) * N + n))) sum += x[s * K + k] * w[k * N + n];
        y[i] = sum;
    }
}

/* dw (K, N) += x (B, K), dz (B, N): a thread for each dw. */
template <typename T>
INLINE void connect_dw(T *dw, const T *x, const T *dz, i64 samples, i64 K, i64 N,
                       const weights_mask &m) {
    for (i64 i = FIRST; i < K * N; i += STRIDE) {
        const i64 k = i / N, n = i % N;
        T sum = dw[i];
        for (i64 s = 0; s < samples; ++s)
            if (lives(m, (u64)(s * K * N + i))) sum += x[s * K + k] * dz[s * N + n];
        dw[i] = sum;
    }
}

/* dx (B, K) += dz (B, N) @ w.T: a warp for each dx. */
template <typename T>
INLINE void connect_dx(T *dx, const T *dz, const T *w, i64 samples, i64 K, i64 N,
                       const weights_mask &m) {
    const int lane = threadIdx.x % WARP;
    for (i64 i = FIRST / WARP; i < samples * K; i += STRIDE / WARP) {
        const i64 s = i / K, k = i % K;
        T sum = (T)0;
        for (i64 n = lane; n < N; n += WARP)
            if (lives(m, (u64)(i * N + n))) sum += dz[s * N + n] * w[k * N + n];
#pragma unroll
        for (int far = WARP / 2; far; far /= 2) sum += __shfl_xor_sync(WHOLE_WARP, sum, far);
        if (lane == 0) dx[i] += sum;
    }
}

#define CONNECT(name)                                                                            \
    KERNEL product_##name(STORED *out, const STORED *a, const STORED *b, i64 samples, i64 K,     \
                          i64 N, const u8 *bits, DRAW_ARGUMENTS) {                               \
        const weights_mask m = {DRAW_OF, offset, bits};                                          \
        connect_##name(out, a, b, samples, K, N, m);                                             \
    }
CONNECT(y)
CONNECT(dw)
CONNECT(dx)
