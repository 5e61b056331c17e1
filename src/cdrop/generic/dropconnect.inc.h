/* DropConnect with a weight mask for every sample (Wan et al. 2013). Included once per real dtype.
 *
 * The (K, N) mask of a sample is drawn chunk by chunk into a buffer of 512 bytes, used, and
 * forgotten; a mask that was given is read instead. With a__k of the sample and its rows k:
 *   CDROP_DROPCONNECT_Y    out__n    += a_k * b__kn   where kept      b = w
 *   CDROP_DROPCONNECT_DW   out__kn   += a_k * b__n    where kept      b = dz of the sample
 *   CDROP_DROPCONNECT_DX   out__k    += sum_n a__n * b__kn where kept, a = dz of the sample, b = w
 */

static void F(axpy)(size_t n, const uint8_t *bits, uint64_t bit, T a, const T *x, T *y) {
    const V(vec) s = V(set1)(a);
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        const sel_t sel = sel_set(bits ? cdrop_load_bits32(bits, bit + i) : 0xFFFFFFFFu);
        UNROLL
        for (int j = 0; j < 32 / V(LANES); ++j) {
            const size_t at = i + (size_t)j * V(LANES);
            V(store)(y + at, V(add)(V(load)(y + at), V(keep_mul)(sel, j, V(load)(x + at), s)));
        }
    }
    for (; i < n; ++i)
        if (!bits || cdrop_bit(bits, bit + i)) y[i] += a * x[i];
}

static T F(dot)(size_t n, const uint8_t *bits, uint64_t bit, const T *x, const T *w) {
    V(vec) sum[32 / V(LANES)];
    T lanes[V(LANES)], total = (T)0;
    size_t i = 0;
    for (int j = 0; j < 32 / V(LANES); ++j) sum[j] = V(zero)();
    for (; i + 32 <= n; i += 32) {
        const sel_t sel = sel_set(cdrop_load_bits32(bits, bit + i));
        UNROLL
        for (int j = 0; j < 32 / V(LANES); ++j) {
            const size_t at = i + (size_t)j * V(LANES);
            sum[j] = V(add)(sum[j], V(keep_mul)(sel, j, V(load)(w + at), V(load)(x + at)));
        }
    }
    for (int j = 1; j < 32 / V(LANES); ++j) sum[0] = V(add)(sum[0], sum[j]);
    V(store)(lanes, sum[0]);
    for (int l = 0; l < V(LANES); ++l) total += lanes[l];
    for (; i < n; ++i)
        if (cdrop_bit(bits, bit + i)) total += x[i] * w[i];
    return total;
}

static void F(dropconnect)(int part, const cdrop_draw *draw, const uint8_t *bits, uint64_t index,
                       int64_t first, int64_t last, int64_t n, const T *a, const T *b, T *out) {
    ALIGNED uint8_t drawn[CHUNK / 8];
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
            const int64_t k = first / n, column = first % n;
            const int64_t run = n - column < end - first ? n - column : end - first;
            if (part == CDROP_DROPCONNECT_Y)
                F(axpy)((size_t)run, now_bits, bit, a[k], b + k * n + column, out + column);
            else if (part == CDROP_DROPCONNECT_DW)
                F(axpy)((size_t)run, now_bits, bit, a[k], b + column, out + k * n + column);
            else
                out[k] += F(dot)((size_t)run, now_bits, bit, a + column, b + k * n + column);
            first += run;
            bit += (uint64_t)run;
        }
    }
}
