/* Every entry of the table of kernels, of every instruction set that runs here, against plain
 * loops written in this file. Element by element the bits are equal; sums are within rounding.
 * Buffers have exactly the size that a kernel may touch, so this is also what a sanitizer runs. */
#include <math.h>

#include "check.h"

static const char *isa; /* whose kernels are being checked, for the messages */

/* Test data: a plain 64-bit mixer, unrelated to the masks. */
static uint64_t state = 1;
static uint64_t any64(void) {
    uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}
static int64_t below(int64_t n) { return (int64_t)(any64() % (uint64_t)n); }
static double unit(void) { return (double)(any64() >> 11) / 9007199254740992.0 * 2 - 1; }

/* ---- 16-bit floats, from their definitions ---------------------------------------------------- */

static double widen_f16(uint16_t h) {
    const int exponent = h >> 10 & 31, fraction = h & 1023;
    const double sign = h >> 15 ? -1.0 : 1.0;
    if (exponent == 31) return fraction ? (double)NAN : sign * (double)INFINITY;
    if (exponent == 0) return sign * ldexp(fraction, -24);
    return sign * ldexp(1024 + fraction, exponent - 25);
}

static double widen_bf16(uint16_t h) {
    const int exponent = h >> 7 & 255, fraction = h & 127;
    const double sign = h >> 15 ? -1.0 : 1.0;
    if (exponent == 255) return fraction ? (double)NAN : sign * (double)INFINITY;
    if (exponent == 0) return sign * ldexp(fraction, -133);
    return sign * ldexp(128 + fraction, exponent - 134);
}

/* The nearest 16-bit float, half to even: `top` is the exponent field of infinity, `digits` how
 * many bits the fraction has, `least` the exponent of the smallest denormal. A NaN gives 0x7FFF. */
static uint16_t narrow(double v, int top, int digits, int least) {
    const uint16_t sign = signbit(v) ? 0x8000 : 0;
    int exponent;
    if (isnan(v)) return 0x7FFF;
    v = fabs(v);
    if (v == 0) return sign;
    if (isinf(v)) return (uint16_t)(sign | top << digits);
    frexp(v, &exponent);
    int unit_exponent = exponent - 1 - digits; /* of the last place kept */
    if (unit_exponent < least) unit_exponent = least;
    const double scaled = ldexp(v, -unit_exponent);
    double whole = floor(scaled);
    const double rest = scaled - whole;
    if (rest > 0.5 || (rest == 0.5 && fmod(whole, 2) == 1)) whole += 1;
    const long code = ((long)(unit_exponent - least) << digits) + (long)whole;
    if (code >= (long)top << digits) return (uint16_t)(sign | top << digits);
    return (uint16_t)(sign | code);
}

static uint16_t plain_f16(uint16_t x, float s) {
    return narrow((float)((float)widen_f16(x) * s), 31, 10, -24);
}
static uint16_t plain_bf16(uint16_t x, float s) {
    return narrow((float)((float)widen_bf16(x) * s), 255, 7, -133);
}
static float plain_f32(float x, float s) { return x * s; }
static double plain_f64(double x, double s) { return x * s; }

static int is_nan_f16(uint16_t x) { return (x & 0x7FFF) > 0x7C00; }
static int is_nan_bf16(uint16_t x) { return (x & 0x7FFF) > 0x7F80; }
static int is_nan_f32(float x) { return isnan(x); }
static int is_nan_f64(double x) { return isnan(x); }

static uint16_t any_f16(void) { return (uint16_t)any64(); }
static uint16_t any_bf16(void) { return (uint16_t)any64(); }
static float any_f32(void) { /* any bit pattern: NaN, Inf and denormals among them */
    const uint32_t special[] = {0, 0x80000000u, 1, 0x7F800000u, 0xFF800000u, 0x7FC00000u, 0x807FFFFFu};
    uint32_t b = (uint32_t)any64();
    float x;
    if (any64() % 4 == 0) b = special[any64() % 7];
    memcpy(&x, &b, sizeof x);
    return x;
}
static double any_f64(void) {
    const uint64_t b = any64();
    double x;
    if (any64() % 4 == 0) return (double)any_f32();
    memcpy(&x, &b, sizeof x);
    return x;
}

/* ---- masks and elementwise kernels ------------------------------------------------------------ */

static void check_decisions(const cdrop_kernels *k) {
    const uint64_t all = DROPCORE_KEEP_ALL;
    const uint64_t thresholds[] = {0, 1, 0x00FFFFFF, 0x01000000, 0x01000001, 0x55555555, 0x80000000,
                                   0x80000001, 0xCCCCCCCD, 0xE6666666, all - 1, all};
    const uint64_t tiles[] = {0, 1, 12345, (1ull << 28) - 3, (1ull << 55) - 40};
    for (size_t t = 0; t < sizeof tiles / sizeof *tiles; ++t) {
        const dropcore_address a = dropcore_address_of(any64(), (uint32_t)any64() >> 4,
                                                       (uint32_t)any64(), (uint32_t)below(3));
        const size_t n_tiles = 1 + (size_t)below(37), n = n_tiles * DROPCORE_TILE;
        uint32_t *u = buffer(n * sizeof *u);
        uint8_t *bits = buffer(n / 8);
        int same = 1;
        k->uniform(&a, tiles[t], n_tiles, u);
        for (size_t i = 0; i < n; ++i)
            same &= u[i] == dropcore_uniform(&a, tiles[t] * DROPCORE_TILE + i);
        CHECK(same, "%s uniform, tile %" PRIu64, isa, tiles[t]);
        for (size_t h = 0; h < sizeof thresholds / sizeof *thresholds; ++h) {
            const cdrop_draw draw = {a, thresholds[h]};
            k->decide(&draw, tiles[t], n_tiles, bits);
            same = 1;
            for (size_t i = 0; i < n; ++i) same &= bit_of(bits, i) == (u[i] < thresholds[h]);
            CHECK(same, "%s decide, tile %" PRIu64 ", T %" PRIx64, isa, tiles[t], thresholds[h]);
        }
        free(u);
        free(bits);
    }
}

#define CHECK_ELEMENTWISE(T, C, S)                                                               \
    static int equal_##S(T a, T b) {                                                             \
        return (is_nan_##S(a) && is_nan_##S(b)) || !memcmp(&a, &b, sizeof a);                    \
    }                                                                                            \
    static void check_elementwise_##S(const cdrop_kernels *k) {                                  \
        const C scales[] = {1, 2, (C)(1 / 0.9), (C)(1 / 0.3), 0, (C)65536};                      \
        for (int round = 0; round < 600; ++round) {                                              \
            const size_t n = (size_t)below(round % 20 ? 200 : 9000);                             \
            const size_t shift = (size_t)below(64), first = (size_t)below(70);                   \
            const int stream = round & 1, in_place = round >> 1 & 1;                             \
            const C s = scales[below(6)];                                                        \
            const cdrop_draw draw = {dropcore_address_of(any64(), 7, 1, 0), any64() >> 31};      \
            const uint64_t index = any64() >> 5;                                                 \
            const size_t bytes = (first + n + 7) / 8;                                            \
            uint8_t *bits = buffer(bytes);                                                       \
            T *x = buffer((shift + n) * sizeof(T)), *y = buffer((shift + n) * sizeof(T));        \
            T *kept = buffer(n * sizeof(T));                                                     \
            int same = 1;                                                                        \
            for (size_t i = 0; i < bytes; ++i) bits[i] = (uint8_t)any64();                       \
            for (size_t i = 0; i < shift + n; ++i) x[i] = any_##S();                             \
            for (size_t i = 0; i < n; ++i) kept[i] = plain_##S(x[shift + i], s);                 \
            memcpy(y, x, (shift + n) * sizeof(T));                                               \
            k->apply_##S(n, bits, first, s, (in_place ? y : x) + shift, y + shift, stream);      \
            for (size_t i = 0; i < n; ++i)                                                       \
                same &= equal_##S(y[shift + i], bit_of(bits, first + i) ? kept[i] : (T)0);       \
            same &= !memcmp(x, y, shift * sizeof(T));                                            \
            CHECK(same, "%s apply_" #S ", n %zu, bit %zu, stream %d, in place %d", isa, n, first, \
                  stream, in_place);                                                             \
            memcpy(y, x, (shift + n) * sizeof(T));                                               \
            k->dropout_##S(&draw, index, n, s, (in_place ? y : x) + shift, y + shift, stream);   \
            same = 1;                                                                            \
            for (size_t i = 0; i < n; ++i)                                                       \
                same &= equal_##S(y[shift + i],                                                  \
                                  dropcore_is_kept(&draw.address, draw.threshold, index + i)     \
                                      ? kept[i]                                                  \
                                      : (T)0);                                                   \
            same &= !memcmp(x, y, shift * sizeof(T));                                            \
            CHECK(same, "%s dropout_" #S ", n %zu, index %" PRIu64 ", stream %d", isa, n, index, \
                  stream);                                                                       \
            free(bits);                                                                          \
            free(x);                                                                             \
            free(y);                                                                             \
            free(kept);                                                                          \
        }                                                                                        \
    }
CDROP_FOR_TYPES(CHECK_ELEMENTWISE)

/* All 65536 values of a 16-bit float. */
#define CHECK_EVERY_VALUE(S)                                                                     \
    static void check_every_value_##S(const cdrop_kernels *k) {                                  \
        static const float scales[] = {1, 2, (float)(1 / 0.9), (float)(1 / 0.7), 1e-6f};         \
        uint16_t *x = buffer(65536 * 2), *y = buffer(65536 * 2);                                 \
        uint8_t *bits = buffer(65536 / 8);                                                       \
        memset(bits, 0xFF, 65536 / 8);                                                           \
        for (int i = 0; i < 65536; ++i) x[i] = (uint16_t)i;                                      \
        for (size_t j = 0; j < sizeof scales / sizeof *scales; ++j) {                            \
            int wrong = -1;                                                                      \
            k->apply_##S(65536, bits, 0, scales[j], x, y, 0);                                    \
            for (int i = 0; i < 65536; ++i)                                                      \
                if (!equal_##S(y[i], plain_##S(x[i], scales[j]))) wrong = i;                     \
            CHECK(wrong < 0, "%s apply_" #S " of %04x, scale %a", isa, (unsigned)wrong,          \
                  (double)scales[j]);                                                            \
        }                                                                                        \
        free(x);                                                                                 \
        free(y);                                                                                 \
        free(bits);                                                                              \
    }
CHECK_EVERY_VALUE(f16)
CHECK_EVERY_VALUE(bf16)

/* ---- products and sums ------------------------------------------------------------------------ */

#define EPSILON_f32 1.2e-7
#define EPSILON_f64 2.3e-16

#define CHECK_PRODUCT(T, C, S)                                                                   \
    /* A factor of n_panel x n_depth live elements out of a random larger array. */              \
    typedef struct {                                                                             \
        cdrop_factor f;                                                                          \
        T *data;                                                                                 \
        uint8_t *bits;                                                                           \
        int64_t *panel_index, *depth_index;                                                      \
    } factor_##S;                                                                                \
    static int64_t *live_##S(int64_t n, int64_t whole) { /* n of the first `whole`, sorted */    \
        int64_t *index = buffer((size_t)n * sizeof *index), at = 0;                              \
        for (int64_t i = 0; i < whole && at < n; ++i)                                            \
            if (below(whole - i) < n - at) index[at++] = i;                                      \
        return index;                                                                            \
    }                                                                                            \
    static factor_##S any_factor_##S(int64_t n_panel, int64_t n_depth) {                         \
        factor_##S g = {.f = {.scale = any64() % 2 ? 1.0 : 1 / 0.7}};                            \
        const int by_panel = any64() % 2, by_depth = any64() % 2, across = any64() % 2;          \
        const int64_t panels = by_panel ? 2 * n_panel + 1 : n_panel;                             \
        const int64_t depths = by_depth ? 2 * n_depth + 1 : n_depth;                             \
        const int64_t stride = (across ? panels : depths) + below(3);                            \
        const int64_t rows = across ? depths : panels, columns = across ? panels : depths;       \
        const size_t size = (size_t)((rows - 1) * stride + columns);                             \
        g.data = buffer(size * sizeof(T));                                                       \
        for (size_t i = 0; i < size; ++i) g.data[i] = (T)unit();                                 \
        g.f.data = g.data;                                                                       \
        g.f.panel_stride = across ? 1 : stride;                                                  \
        g.f.depth_stride = across ? stride : 1;                                                  \
        if (by_panel) g.f.panel_index = g.panel_index = live_##S(n_panel, panels);               \
        if (by_depth) g.f.depth_index = g.depth_index = live_##S(n_depth, depths);               \
        if (any64() % 2) {                                                                       \
            g.f.bit_first = below(9);                                                            \
            g.f.bit_panel_stride = across ? 1 : columns;                                         \
            g.f.bit_depth_stride = across ? columns : 1;                                         \
            const size_t bytes = (size_t)(g.f.bit_first + rows * columns + 7) / 8;               \
            g.f.bits = g.bits = buffer(bytes);                                                   \
            for (size_t i = 0; i < bytes; ++i) g.bits[i] = (uint8_t)any64();                     \
        }                                                                                        \
        return g;                                                                                \
    }                                                                                            \
    static double at_##S(const cdrop_factor *f, int64_t p, int64_t d) {                          \
        if (f->panel_index) p = f->panel_index[p];                                               \
        if (f->depth_index) d = f->depth_index[d];                                               \
        if (f->bits && !bit_of(f->bits, (uint64_t)(f->bit_first + p * f->bit_panel_stride +      \
                                                   d * f->bit_depth_stride)))                    \
            return 0;                                                                            \
        return (double)((const T *)f->data)[p * f->panel_stride + d * f->depth_stride] * f->scale; \
    }                                                                                            \
    static void free_factor_##S(factor_##S g) {                                                  \
        free(g.data);                                                                            \
        free(g.bits);                                                                            \
        free(g.panel_index);                                                                     \
        free(g.depth_index);                                                                     \
    }                                                                                            \
    static void check_product_##S(const cdrop_kernels *k) {                                      \
        const int64_t high = k->tile_rows_##S, wide = k->tile_columns_##S;                       \
        for (int round = 0; round < 150; ++round) {                                              \
            const int64_t m = 1 + below(3 * high), n = 1 + below(3 * wide), depth = 1 + below(150); \
            const int64_t cut = below(depth), stride = n + below(4);                             \
            factor_##S a = any_factor_##S(m, depth), b = any_factor_##S(n, depth);               \
            const int64_t m_up = (m + high - 1) / high * high, n_up = (n + wide - 1) / wide * wide; \
            T *c = buffer((size_t)((m - 1) * stride + n) * sizeof(T));                           \
            int same = 1;                                                                        \
            for (int64_t i = 0; i < (m - 1) * stride + n; ++i) c[i] = (T)77;                     \
            for (int part = 0; part < 2; ++part) { /* the depth in two blocks */                 \
                const int64_t from = part ? cut : 0, here = part ? depth - cut : cut;            \
                T *pa = buffer((size_t)(m_up * here) * sizeof(T));                               \
                T *pb = buffer((size_t)(n_up * here) * sizeof(T));                               \
                k->pack_##S(&a.f, 0, m, from, here, (int)high, pa);                              \
                k->pack_##S(&b.f, 0, n, from, here, (int)wide, pb);                              \
                for (int64_t p = 0; p < m_up; ++p)                                               \
                    for (int64_t d = 0; d < here; ++d) {                                         \
                        const double is = pa[p / high * high * here + d * high + p % high];      \
                        const double want = p < m ? at_##S(&a.f, p, from + d) : 0;               \
                        same &= fabs(is - want) <= EPSILON_##S * fabs(want);                     \
                    }                                                                            \
                k->block_##S(m, n, here, pa, pb, c, stride, part);                               \
                free(pa);                                                                        \
                free(pb);                                                                        \
            }                                                                                    \
            CHECK(same, "%s pack_" #S ", round %d", isa, round);                                 \
            same = 1;                                                                            \
            for (int64_t i = 0; i < m; ++i)                                                      \
                for (int64_t j = 0; j < stride && (i < m - 1 || j < n); ++j) {                   \
                    double want = 0, size = 0;                                                   \
                    for (int64_t d = 0; j < n && d < depth; ++d) {                               \
                        const double term = at_##S(&a.f, i, d) * at_##S(&b.f, j, d);             \
                        want += term;                                                            \
                        size += fabs(term);                                                      \
                    }                                                                            \
                    if (j < n)                                                                   \
                        same &= fabs(c[i * stride + j] - want) <=                                \
                                (double)(depth + 4) * EPSILON_##S * size;                        \
                    else                                                                         \
                        same &= c[i * stride + j] == (T)77;                                      \
                }                                                                                \
            CHECK(same, "%s block_" #S ", m %d, n %d, depth %d", isa, (int)m, (int)n, (int)depth); \
            free(c);                                                                             \
            free_factor_##S(a);                                                                  \
            free_factor_##S(b);                                                                  \
        }                                                                                        \
    }                                                                                            \
    static void check_rows_##S(const cdrop_kernels *k) {                                         \
        for (int round = 0; round < 200; ++round) {                                              \
            const size_t n = (size_t)below(300), first = (size_t)below(70);                      \
            const size_t bytes = (first + n + 7) / 8;                                            \
            T *x = buffer(n * sizeof(T)), *w = buffer(n * sizeof(T)), *y = buffer(n * sizeof(T)); \
            double *square = buffer(n * sizeof *square), dot = 0, size = 0, sum = 0;             \
            uint8_t *bits = buffer(bytes);                                                       \
            const T a = (T)unit();                                                               \
            int same = 1;                                                                        \
            for (size_t i = 0; i < bytes; ++i) bits[i] = (uint8_t)any64();                       \
            for (size_t i = 0; i < n; ++i) {                                                     \
                x[i] = (T)unit();                                                                \
                w[i] = (T)unit();                                                                \
                y[i] = w[i];                                                                     \
                square[i] = (double)i;                                                           \
                sum += (double)w[i] * (double)w[i];                                              \
                if (bit_of(bits, first + i)) {                                                   \
                    dot += (double)x[i] * (double)w[i];                                          \
                    size += fabs((double)x[i] * (double)w[i]);                                   \
                }                                                                                \
            }                                                                                    \
            CHECK(fabs(k->dot_##S(n, bits, first, x, w) - dot) <=                                \
                      (double)(n + 4) * EPSILON_##S * size, "%s dot_" #S ", n %zu", isa, n);     \
            CHECK(fabs(k->sum_squares_##S(n, w) - sum) <= 1e-13 * sum,                           \
                  "%s sum_squares_" #S ", n %zu", isa, n);                                       \
            k->add_squares_##S(n, w, square);                                                    \
            for (size_t i = 0; i < n; ++i)                                                       \
                same &= fabs(square[i] - ((double)i + (double)w[i] * (double)w[i])) <=           \
                        1e-15 * square[i];                                                       \
            CHECK(same, "%s add_squares_" #S ", n %zu", isa, n);                                 \
            k->axpy_##S(n, bits, first, a, x, y);                                                \
            same = 1;                                                                            \
            for (size_t i = 0; i < n; ++i)                                                       \
                same &= fabs(y[i] - (bit_of(bits, first + i) ? w[i] + (double)a * (double)x[i]   \
                                                             : (double)w[i])) <=                 \
                        4 * EPSILON_##S;                                                         \
            CHECK(same, "%s axpy_" #S ", n %zu", isa, n);                                        \
            memcpy(y, w, n * sizeof(T));                                                         \
            k->finish_##S(n, round & 1 ? x : NULL, round & 2, y);                                \
            same = 1;                                                                            \
            for (size_t i = 0; i < n; ++i) {                                                     \
                T want = round & 1 ? w[i] + x[i] : w[i];                                         \
                if (round & 2 && want <= 0) want = 0;                                            \
                same &= equal_##S(y[i], want);                                                   \
            }                                                                                    \
            CHECK(same, "%s finish_" #S ", n %zu", isa, n);                                      \
            free(x);                                                                             \
            free(w);                                                                             \
            free(y);                                                                             \
            free(square);                                                                        \
            free(bits);                                                                          \
        }                                                                                        \
    }
CDROP_FOR_REAL_TYPES(CHECK_PRODUCT)

/* A part of one sample's own weight mask, drawn or given, in all three roles. */
#define CHECK_CONNECT(T, C, S)                                                                   \
    static void check_connect_##S(const cdrop_kernels *k) {                                      \
        for (int round = 0; round < 300; ++round) {                                              \
            const int part = round % 3, given = (int)below(2);                                   \
            const int64_t rows = 1 + below(40), n = 1 + below(round % 10 ? 90 : 9000);           \
            const int64_t first = below(rows * n + 1), last = first + below(rows * n - first + 1); \
            const uint64_t index = given ? (uint64_t)below(70) : any64() >> 5;                   \
            const cdrop_draw draw = {dropcore_address_of(any64(), 5, 2, 2), any64() >> 31};      \
            const int64_t n_a = part == CDROP_CONNECT_DX ? n : rows;                             \
            const int64_t n_b = part == CDROP_CONNECT_DW ? n : rows * n;                         \
            const int64_t n_out = part == CDROP_CONNECT_Y    ? n                                 \
                                  : part == CDROP_CONNECT_DW ? rows * n                          \
                                                             : rows;                             \
            const size_t bytes = (size_t)(index % 70 + (uint64_t)(rows * n) + 7) / 8;            \
            T *a = buffer((size_t)n_a * sizeof(T)), *b = buffer((size_t)n_b * sizeof(T));        \
            T *out = buffer((size_t)n_out * sizeof(T));                                          \
            double *want = buffer((size_t)n_out * sizeof *want);                                 \
            double *size = buffer((size_t)n_out * sizeof *size);                                 \
            uint8_t *bits = given ? buffer(bytes) : NULL;                                        \
            int same = 1;                                                                        \
            for (size_t i = 0; given && i < bytes; ++i) bits[i] = (uint8_t)any64();              \
            for (int64_t i = 0; i < n_a; ++i) a[i] = (T)unit();                                  \
            for (int64_t i = 0; i < n_b; ++i) b[i] = (T)unit();                                  \
            for (int64_t i = 0; i < n_out; ++i) {                                                \
                out[i] = (T)unit();                                                              \
                want[i] = (double)out[i];                                                        \
                size[i] = fabs(want[i]);                                                         \
            }                                                                                    \
            for (int64_t e = first; e < last; ++e) {                                             \
                const int64_t row = e / n, column = e % n;                                       \
                const uint64_t i = index + (uint64_t)e;                                          \
                if (!(given ? bit_of(bits, i)                                                    \
                            : dropcore_is_kept(&draw.address, draw.threshold, i)))               \
                    continue;                                                                    \
                const int64_t to = part == CDROP_CONNECT_Y    ? column                           \
                                   : part == CDROP_CONNECT_DW ? e                                \
                                                              : row;                             \
                const double term = (double)a[part == CDROP_CONNECT_DX ? column : row] *         \
                                    (double)b[part == CDROP_CONNECT_DW ? column : e];            \
                want[to] += term;                                                                \
                size[to] += fabs(term);                                                          \
            }                                                                                    \
            k->connect_##S(part, &draw, bits, index, first, last, n, a, b, out);                 \
            for (int64_t i = 0; i < n_out; ++i)                                                  \
                same &= fabs((double)out[i] - want[i]) <=                                        \
                        (double)(rows + n + 4) * EPSILON_##S * size[i];                          \
            CHECK(same, "%s connect_" #S ", part %d, given %d, n %d, [%d, %d)", isa, part, given, \
                  (int)n, (int)first, (int)last);                                                \
            free(a);                                                                             \
            free(b);                                                                             \
            free(out);                                                                           \
            free(want);                                                                          \
            free(size);                                                                          \
            free(bits);                                                                          \
        }                                                                                        \
    }
CDROP_FOR_REAL_TYPES(CHECK_CONNECT)

int main(void) {
    const cdrop_kernels *k;
    for (int i = 0; (k = kernels_at(i)); ++i) {
        const long before = passed;
        isa = k->name;
        check_decisions(k);
#define RUN(T, C, S) check_elementwise_##S(k);
        CDROP_FOR_TYPES(RUN)
#undef RUN
        check_every_value_f16(k);
        check_every_value_bf16(k);
#define RUN(T, C, S)      \
    check_product_##S(k); \
    check_rows_##S(k);    \
    check_connect_##S(k);
        CDROP_FOR_REAL_TYPES(RUN)
#undef RUN
        printf("instruction set %s: %ld checks\n", isa, passed - before);
    }
    return report();
}
