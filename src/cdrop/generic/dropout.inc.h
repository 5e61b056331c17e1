/* Applying a mask. Included once per dtype: T as stored, C as computed with, S its suffix.
 *
 * A. Dropping is a selection, so that a dropped NaN or Inf becomes +0.0.
 * B. A chunk's bits are drawn first and applied after, through a buffer that stays in L1: one bit
 *    an element, so the detour costs next to nothing, and drawing and applying keep a body each.
 *    The backward pass from a packed mask is then the second half alone.
 * C. Streaming stores need an aligned `out`: a few elements in front are done one by one. Bits may
 *    start anywhere, so nothing else has to shift.
 *
 * Wanted: V(load), V(store), V(stream): T <-> vector of C; V(set1), V(keep_mul)(sel, j, x, scale):
 *   x * scale where bit j * LANES + lane of sel is set, else +0.0; V(mul1), the same for one.
 */

#ifndef FETCHING_BYTES
#define FETCHING_BYTES 2048 /* ahead of a streaming store */
#endif

static void F(apply)(size_t n, const uint8_t *bits, uint64_t bit, C scale, const T *x, T *out,
                     int stream) {
    const V(vec) s = V(set1)(scale);
    size_t i = 0;
    if (stream)
        for (; i < n && ((uintptr_t)(out + i) & 63); ++i)
            out[i] = cdrop_bit(bits, bit + i) ? V(mul1)(x[i], scale) : (T)0;
    if (stream && n - i >= 32) {
        for (; i + 32 <= n; i += 32) {
            const sel_t sel = sel_set(cdrop_load_bits32(bits, bit + i));
            for (size_t byte = 0; byte < 32 * sizeof(T); byte += 64)
                CDROP_PREFETCH((const char *)(x + i) + FETCHING_BYTES + byte);
            UNROLL
            for (int j = 0; j < 32 / V(LANES); ++j) {
                const size_t at = i + (size_t)j * V(LANES);
                V(stream)(out + at, V(keep_mul)(sel, j, V(load)(x + at), s));
            }
        }
        stream_fence();
    }
    for (; i + 32 <= n; i += 32) {
        const sel_t sel = sel_set(cdrop_load_bits32(bits, bit + i));
        UNROLL
        for (int j = 0; j < 32 / V(LANES); ++j) {
            const size_t at = i + (size_t)j * V(LANES);
            V(store)(out + at, V(keep_mul)(sel, j, V(load)(x + at), s));
        }
    }
    if (i + V(LANES) <= n) { /* whole vectors that are left: n - i < 32 */
        const sel_t sel = sel_set(cdrop_load_bits_below32(bits, bit + i, (unsigned)(n - i)));
        const size_t start = i;
        UNROLL
        for (int j = 0; j < 32 / V(LANES); ++j)
            if (start + (size_t)(j + 1) * V(LANES) <= n) {
                const size_t at = start + (size_t)j * V(LANES);
                V(store)(out + at, V(keep_mul)(sel, j, V(load)(x + at), s));
                i = at + V(LANES);
            }
    }
    for (; i < n; ++i) out[i] = cdrop_bit(bits, bit + i) ? V(mul1)(x[i], scale) : (T)0;
}

static void F(dropout)(const cdrop_draw *draw, uint64_t index, size_t n, C scale, const T *x,
                       T *out, int stream) {
    ALIGNED uint8_t bits[CHUNK / 8];
    decider d;
    decider_for(&d, draw, index / DROPCORE_GROUP);
    while (n) {
        const uint64_t group = index / DROPCORE_GROUP, first = index % DROPCORE_GROUP;
        size_t now = CHUNK - (size_t)first;
        if (now > n) now = n;
        decide_groups(&d, group, (size_t)(first + now + DROPCORE_GROUP - 1) / DROPCORE_GROUP, bits,
                      (const char *)x, DROPCORE_GROUP * sizeof(T));
        F(apply)(now, bits, first, scale, x, out, stream);
        index += now;
        x += now;
        out += now;
        n -= now;
    }
}
