/* DropConnect with a weight mask for every sample (Wan et al. 2013). Included once per real dtype.
 *
 * The (K, N) mask of a sample is drawn chunk by chunk into a buffer of 512 bytes, used, and
 * forgotten; a mask that was given is read instead. With a__k of the sample and its rows k:
 *   CDROP_DROPCONNECT_Y    out__n    += a_k * b__kn   where kept      b = w
 *   CDROP_DROPCONNECT_DW   out__kn   += a_k * b__n    where kept      b = dz of the sample
 *   CDROP_DROPCONNECT_DX   out__k    += sum_n a__n * b__kn where kept, a = dz of the sample, b = w
 */

static inline void F(axpy32)(sel_t sel, V(vec) a, const T *x, T *y) {
    UNROLL
    for (int j = 0; j < 32 / V(LANES); ++j) {
        const size_t at = (size_t)j * V(LANES);
        V(store)(y + at, V(add)(V(load)(y + at), V(keep_mul)(sel, j, V(load)(x + at), a)));
    }
}

static inline void F(dot32)(sel_t sel, const T *x, const T *w, V(vec) *sum) {
    UNROLL
    for (int j = 0; j < 32 / V(LANES); ++j) {
        const size_t at = (size_t)j * V(LANES);
        sum[j] = V(add)(sum[j], V(keep_mul)(sel, j, V(load)(w + at), V(load)(x + at)));
    }
}

static inline T F(if_bit)(uint32_t bits, T value) {
    return bits & 1 ? value : (T)0;
}

static void F(axpy)(size_t n, const uint8_t *bits, uint64_t bit, T a, const T *x, T *y) {
    const V(vec) s = V(set1)(a);
    if (n < 32) {
        const uint32_t kept = bits ? cdrop_load_bits_below32(bits, bit, (unsigned)n) : 0xFFFFFFFFu;
        for (size_t i = 0; i < n; ++i) y[i] += F(if_bit)(kept >> i, a * x[i]);
        return;
    }
    for (size_t i = 0; i + 32 <= n; i += 32)
        F(axpy32)(sel_set(cdrop_load_mask32(bits, bit + i)), s, x + i, y + i);
    if (n % 32) F(axpy32)(sel_set(cdrop_load_end32(bits, bit, n)), s, x + n - 32, y + n - 32);
}

static T F(dot)(size_t n, const uint8_t *bits, uint64_t bit, const T *x, const T *w) {
    V(vec) sum[32 / V(LANES)];
    T lanes[V(LANES)], total = (T)0;
    if (n < 32) {
        const uint32_t kept = cdrop_load_bits_below32(bits, bit, (unsigned)n);
        for (size_t i = 0; i < n; ++i) total += F(if_bit)(kept >> i, x[i] * w[i]);
        return total;
    }
    for (int j = 0; j < 32 / V(LANES); ++j) sum[j] = V(zero)();
    for (size_t i = 0; i + 32 <= n; i += 32)
        F(dot32)(sel_set(cdrop_load_bits32(bits, bit + i)), x + i, w + i, sum);
    if (n % 32) F(dot32)(sel_set(cdrop_load_end32(bits, bit, n)), x + n - 32, w + n - 32, sum);
    for (int j = 1; j < 32 / V(LANES); ++j) sum[0] = V(add)(sum[0], sum[j]);
    V(store)(lanes, sum[0]);
    for (int l = 0; l < V(LANES); ++l) total += lanes[l];
    return total;
}

static void F(dropconnect)(int part, const cdrop_draw *draw, const uint8_t *bits, uint64_t index,
                       int64_t first, int64_t last, int64_t n, const T *a, const T *b, T *out) {
    ALIGNED uint8_t drawn[CHUNK / 8];
    int64_t k = first / n, column = first % n;
    decider d;
    if (!bits) decider_for(&d, draw, (index + (uint64_t)first) / DROPCORE_GROUP);
    while (first < last) {
        const uint64_t start = index + (uint64_t)first;
        uint64_t bit = start;
        int64_t now = last - first;
        const uint8_t *now_bits = bits;
        if (!bits) {
            bit = start % DROPCORE_GROUP;
            if (now > (int64_t)(CHUNK - bit)) now = (int64_t)(CHUNK - bit);
            decide_groups(&d, start / DROPCORE_GROUP,
                          (size_t)(bit + (uint64_t)now + DROPCORE_GROUP - 1) / DROPCORE_GROUP,
                          drawn, NULL, 0);
            now_bits = drawn;
        }
        for (const int64_t end = first + now; first < end;) {
            const int64_t run = n - column < end - first ? n - column : end - first;
            if (part == CDROP_DROPCONNECT_Y)
                F(axpy)((size_t)run, now_bits, bit, a[k], b + k * n + column, out + column);
            else if (part == CDROP_DROPCONNECT_DW)
                F(axpy)((size_t)run, now_bits, bit, a[k], b + column, out + k * n + column);
            else
                out[k] += F(dot)((size_t)run, now_bits, bit, a + column, b + k * n + column);
            first += run;
            bit += (uint64_t)run;
            column += run;
            if (column == n) {
                column = 0;
                ++k;
            }
        }
    }
}
