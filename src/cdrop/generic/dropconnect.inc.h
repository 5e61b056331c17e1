/* DropConnect with a weight mask for every sample (Wan et al. 2013). Included once per real dtype.
 *
 * The (K, N) mask of a sample is drawn chunk by chunk into a buffer of 512 bytes, used, and
 * forgotten; a mask that was given is read instead. With a__k of the sample and its rows k:
 *   CDROP_CONNECT_Y    out__n    += a_k * b__kn   where kept      b = w
 *   CDROP_CONNECT_DW   out__kn   += a_k * b__n    where kept      b = dz of the sample
 *   CDROP_CONNECT_DX   out__k    += sum_n a__n * b__kn where kept, a = dz of the sample, b = w
 */

static void F(connect)(int part, const cdrop_draw *draw, const uint8_t *bits, uint64_t index,
                       int64_t first, int64_t last, int64_t n, const T *a, const T *b, T *out) {
    uint8_t drawn[CHUNK / 8];
    while (first < last) {
        const uint64_t start = index + (uint64_t)first;
        uint64_t bit = start;
        int64_t now = last - first;
        const uint8_t *now_bits = bits;
        if (!bits) {
            bit = start % DROPCORE_TILE;
            if (now > (int64_t)(CHUNK - bit)) now = (int64_t)(CHUNK - bit);
            decide(draw, start / DROPCORE_TILE,
                   (size_t)(bit + (uint64_t)now + DROPCORE_TILE - 1) / DROPCORE_TILE, drawn);
            now_bits = drawn;
        }
        for (const int64_t end = first + now; first < end;) {
            const int64_t k = first / n, column = first % n;
            const int64_t run = n - column < end - first ? n - column : end - first;
            if (part == CDROP_CONNECT_Y)
                F(axpy)((size_t)run, now_bits, bit, a[k], b + k * n + column, out + column);
            else if (part == CDROP_CONNECT_DW)
                F(axpy)((size_t)run, now_bits, bit, a[k], b + column, out + k * n + column);
            else
                out[k] += F(dot)((size_t)run, now_bits, bit, a + column, b + k * n + column);
            first += run;
            bit += (uint64_t)run;
        }
    }
}
