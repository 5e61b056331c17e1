/* DropConnect with a weight mask for every sample, which is drawn where it is used and never stored.
 * The decision for (sample, k, n) has index (sample K + k) N + n in the mask. */

struct weights_mask {
    draw d;
    u64 offset;
    const u8 *bits; /* used instead unless NULL */
    i64 size;
};

/* The decisions of 32 consecutive elements from index i on: bit e is that of i + e. */
INLINE u32 decided_from(const draw &d, u64 i) {
    const u64 group = i / DROPCORE_GROUP;
    const unsigned q = (unsigned)(i % DROPCORE_GROUP) / 32, shift = (unsigned)(i % 32);
    const dropcore_block kept = dropcore_decide(&d.address, d.threshold, group);
    if (!shift) return kept.word[q];
    const u32 next = q < 3 ? kept.word[q + 1]
                           : dropcore_decide(&d.address, d.threshold, group + 1).word[0];
    return kept.word[q] >> shift | next << (32 - shift);
}

/* Calls what(j, kept) for j = 0 ... count - 1, in order: whether weight first + j stride + lane is
 * kept. Each lane draws what the warp needs at one of 32 steps, so every lane of the warp must call
 * this with the same arguments. Lanes beyond the end of a row get decisions of other weights. */
template <typename What>
INLINE void each_weight(const weights_mask &m, i64 count, i64 first, i64 stride, const What &what) {
    const int lane = threadIdx.x % WARP;
    for (i64 j = 0; j < count; j += WARP) {
        u32 own = 0;
        if (!m.bits && j + lane < count)
            own = decided_from(m.d, m.offset + (u64)(first + (j + lane) * stride));
        for (int k = 0; k < WARP && j + k < count; ++k) {
            const i64 i = first + (j + k) * stride + lane;
            const u32 drawn = __shfl_sync(WHOLE_WARP, own, k) >> lane & 1;
            what(j + k, m.bits ? i < m.size && bit_at(m.bits, i) : drawn != 0);
        }
    }
}

/* y (B, N) += x (B, K) @ w (K, N): a thread for each y, a warp for 32 units of a sample. */
template <typename T>
INLINE void connect_y(T *y, const T *x, const T *w, i64 samples, i64 K, i64 N,
                      const weights_mask &m) {
    const i64 across = (N + WARP - 1) / WARP;
    for (i64 task = FIRST / WARP; task < samples * across; task += STRIDE / WARP) {
        const i64 s = task / across, first = task % across * WARP;
        const i64 n = first + threadIdx.x % WARP;
        T sum = n < N ? y[s * N + n] : (T)0;
        each_weight(m, K, s * K * N + first, N, [&](i64 k, bool kept) {
            if (kept && n < N) sum += x[s * K + k] * w[k * N + n];
        });
        if (n < N) y[s * N + n] = sum;
    }
}

/* dw (K, N) += x (B, K), dz (B, N): a thread for each dw. */
template <typename T>
INLINE void connect_dw(T *dw, const T *x, const T *dz, i64 samples, i64 K, i64 N,
                       const weights_mask &m) {
    for (i64 first = FIRST / WARP * WARP; first < K * N; first += STRIDE) {
        const i64 i = first + threadIdx.x % WARP, k = i / N, n = i % N;
        const bool inside = i < K * N;
        T sum = inside ? dw[i] : (T)0;
        each_weight(m, samples, first, K * N, [&](i64 s, bool kept) {
            if (kept && inside) sum += x[s * K + k] * dz[s * N + n];
        });
        if (inside) dw[i] = sum;
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
        each_weight(m, (N + WARP - 1) / WARP, i * N, WARP, [&](i64 j, bool kept) {
            const i64 n = j * WARP + lane;
            if (kept && n < N) sum += dz[s * N + n] * w[k * N + n];
        });
#pragma unroll
        for (int far = WARP / 2; far; far /= 2) sum += __shfl_xor_sync(WHOLE_WARP, sum, far);
        if (lane == 0) dx[i] += sum;
    }
}

#define CONNECT(name)                                                                            \
    KERNEL dropconnect_##name(STORED *out, const STORED *a, const STORED *b, i64 samples, i64 K,     \
                          i64 N, const u8 *bits, DRAW_ARGUMENTS) {                               \
        const weights_mask m = {DRAW_OF, offset, bits, samples * K * N};                         \
        connect_##name(out, a, b, samples, K, N, m);                                             \
    }
CONNECT(y)
CONNECT(dw)
CONNECT(dx)
