/* Every entry of the table of kernels, of every instruction set that runs here, against plain
 * loops written in this file. Element by element the bits are equal; sums are within rounding.
 * Buffers have exactly the size that a kernel may touch, so this is also what a sanitizer runs. */
#include <math.h>

#include "check.h"
#include "permutation.h"

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
    const uint64_t thresholds[] = {
        0, 1, 2, 3, 0x00FFFFFF, 0x01000000, 0x01000001, 0x00400000, 0x00C00000, 0x55555555,
        0x7FFFFFFF, 0x80000000, 0x80000001, 0x80400000, 0xC0000000, 0xCCCCCCCD, 0xE0000000,
        0xE6000000, 0xE6666666, 0xFFFFFFFE, all - 1, all};
    /* Behind 2^27 groups the low word of the counter begins again. */
    const uint64_t groups[] = {0, 1, 12345, (1ull << 27) - 3, (3ull << 27) - 64, (1ull << 28) - 130,
                               (1ull << 56) - 300};
    for (size_t t = 0; t < sizeof groups / sizeof *groups; ++t) {
        const dropcore_address a = dropcore_address_of(any64(), (uint32_t)any64() >> 4,
                                                       (uint32_t)any64(), (uint32_t)below(3));
        const size_t n_groups = 1 + (size_t)below(299), n = n_groups * DROPCORE_GROUP;
        uint32_t *u = buffer(n * sizeof *u);
        uint8_t *bits = buffer(n / 8);
        int same = 1;
        k->uniform(&a, groups[t], n_groups, u);
        for (size_t i = 0; i < n; ++i)
            same &= u[i] == dropcore_uniform(&a, groups[t] * DROPCORE_GROUP + i);
        CHECK(same, "%s uniform, group %" PRIu64, isa, groups[t]);
        for (size_t h = 0; h < sizeof thresholds / sizeof *thresholds; ++h) {
            const cdrop_draw draw = {a, thresholds[h]};
            k->decide(&draw, groups[t], n_groups, bits);
            same = 1;
            for (size_t i = 0; i < n; ++i) same &= bit_of(bits, i) == (u[i] < thresholds[h]);
            CHECK(same, "%s decide, group %" PRIu64 ", T %" PRIx64, isa, groups[t], thresholds[h]);
            /* Some of them, in any order. */
            uint64_t *some = buffer(n_groups * sizeof *some);
            const size_t n_some = 1 + (size_t)below((int64_t)n_groups);
            uint8_t *some_bits = buffer(n_some * DROPCORE_GROUP_BYTES);
            for (size_t g = 0; g < n_some; ++g)
                some[g] = groups[t] + (uint64_t)below((int64_t)n_groups);
            k->decide_some(&draw, some, n_some, some_bits);
            same = 1;
            for (size_t g = 0; g < n_some; ++g)
                same &= !memcmp(some_bits + g * DROPCORE_GROUP_BYTES,
                                bits + (some[g] - groups[t]) * DROPCORE_GROUP_BYTES,
                                DROPCORE_GROUP_BYTES);
            CHECK(same, "%s decide_some, group %" PRIu64 ", T %" PRIx64, isa, groups[t],
                  thresholds[h]);
            free(some);
            free(some_bits);
        }
        /* Thresholds of its own for each element: around its uniform, and anywhere. */
        const size_t each_groups = n_groups < CDROP_EACH_GROUPS ? n_groups : CDROP_EACH_GROUPS;
        for (size_t g = 0; g < n_groups; g += each_groups) {
            const size_t now = n_groups - g < each_groups ? n_groups - g : each_groups;
            const uint32_t *from = u + g * DROPCORE_GROUP;
            uint32_t own[CDROP_EACH_GROUPS * DROPCORE_GROUP];
            uint8_t expected[sizeof own / 32] = {0};
            for (size_t e = 0; e < now * DROPCORE_GROUP; ++e) {
                const uint32_t choices[] = {from[e], from[e] + 1, from[e] - 1, 0, 0xFFFFFFFFu,
                                            (uint32_t)any64(), from[e] ^ 1u << below(32)};
                own[CDROP_EACH_PLACE(e)] = choices[below(7)];
                expected[e / 8] |= (uint8_t)((from[e] < own[CDROP_EACH_PLACE(e)]) << (e % 8));
            }
            k->decide_each(&a, groups[t] + g, now, own, bits);
            CHECK(!memcmp(bits, expected, now * DROPCORE_GROUP_BYTES),
                  "%s decide_each, group %" PRIu64, isa, groups[t] + g);
        }
        const uint64_t block = groups[t] * DROPCORE_PLANES + below(DROPCORE_PLANES);
        const size_t n_blocks = n_groups;
        same = 1;
        k->words(&a, block, n_blocks, u); /* a part of the buffer */
        for (size_t i = 0; i < 4 * n_blocks; ++i)
            same &= u[i] == dropcore_block_at(&a, block + i / 4).word[i % 4];
        CHECK(same, "%s words, block %" PRIu64, isa, block);
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

/* ---- products, sums and updates --------------------------------------------------------------- */

#define EPSILON_f32 1.2e-7
#define EPSILON_f64 2.3e-16

#define CHECK_PRODUCT(T, C, S)                                                                   \
    /* A factor of n_panel x n_depth live elements out of a random larger array: its data and its \
     * bits each lie along the panels or along the depth, or step over their neighbours. */      \
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
        const int64_t panels = by_panel ? n_panel + below(2 * n_panel + 2) : n_panel;            \
        const int64_t depths = by_depth ? n_depth + below(2 * n_depth + 2) : n_depth;            \
        const int64_t step = any64() % 8 ? 1 : 3;                                                \
        const int64_t rows = across ? depths : panels, columns = across ? panels : depths;       \
        const int64_t stride = columns * step + below(3);                                        \
        const int64_t none = rows == 0 || columns == 0;                                          \
        const size_t size = none ? 0 : (size_t)((rows - 1) * stride + (columns - 1) * step + 1); \
        g.data = buffer(size * sizeof(T));                                                       \
        for (size_t i = 0; i < size; ++i) g.data[i] = (T)unit();                                 \
        g.f.data = g.data;                                                                       \
        g.f.panel_stride = across ? step : stride;                                               \
        g.f.depth_stride = across ? stride : step;                                               \
        if (by_panel) g.f.panel_index = g.panel_index = live_##S(n_panel, panels);               \
        if (by_depth) g.f.depth_index = g.depth_index = live_##S(n_depth, depths);               \
        if (any64() % 2) {                                                                       \
            const int same_way = any64() % 4 != 0;                                               \
            g.f.bit_first = below(9);                                                            \
            g.f.bit_panel_stride = across == same_way ? 1 : depths;                              \
            g.f.bit_depth_stride = across == same_way ? panels : 1;                              \
            const size_t bytes = (size_t)(g.f.bit_first + rows * columns + 7) / 8;               \
            g.f.bits = g.bits = buffer(bytes);                                                   \
            for (size_t i = 0; i < bytes; ++i) g.bits[i] = (uint8_t)any64();                     \
        }                                                                                        \
        return g;                                                                                \
    }                                                                                            \
    static T at_##S(const cdrop_factor *f, int64_t p, int64_t d) {                               \
        if (f->panel_index) p = f->panel_index[p];                                               \
        if (f->depth_index) d = f->depth_index[d];                                               \
        if (f->bits && !bit_of(f->bits, (uint64_t)(f->bit_first + p * f->bit_panel_stride +      \
                                                   d * f->bit_depth_stride)))                    \
            return 0;                                                                            \
        return ((const T *)f->data)[p * f->panel_stride + d * f->depth_stride] * (T)f->scale;    \
    }                                                                                            \
    static void free_factor_##S(factor_##S g) {                                                  \
        free(g.data);                                                                            \
        free(g.bits);                                                                            \
        free(g.panel_index);                                                                     \
        free(g.depth_index);                                                                     \
    }                                                                                            \
    /* A part of a factor, long and wide enough for several segments of the depth and several    \
     * groups of panels, the last of them not full. */                                           \
    static void check_pack_##S(const cdrop_kernels *k) {                                         \
        for (int round = 0; round < 300; ++round) {                                              \
            const int width = round & 1 ? k->tile_rows_##S : k->tile_columns_##S;                \
            const int64_t panel0 = below(40), n_panel = below(round % 10 ? 90 : 300);            \
            const int64_t depth0 = below(5), n_depth = below(round % 10 ? 150 : 400);            \
            const int64_t panels = (n_panel + width - 1) / width;                                \
            /* Behind the part there is nothing, or a little more. */                            \
            const int64_t more_p = below(2), more_d = below(2);                                  \
            factor_##S g = any_factor_##S(panel0 + n_panel + more_p, depth0 + n_depth + more_d); \
            T *packed = buffer((size_t)(panels * width * n_depth) * sizeof(T));                  \
            int same = 1;                                                                        \
            k->pack_##S(&g.f, panel0, n_panel, depth0, n_depth, width, packed);                  \
            for (int64_t p = 0; p < panels * width; ++p)                                         \
                for (int64_t d = 0; d < n_depth; ++d)                                            \
                    same &= equal_##S(packed[p / width * width * n_depth + d * width + p % width], \
                                      p < n_panel ? at_##S(&g.f, panel0 + p, depth0 + d) : 0);   \
            CHECK(same,                                                                          \
                  "%s pack_" #S ", width %d, %d panels x %d depths, strides %d and %d, "         \
                  "live %d %d, bits %d (strides %d and %d)",                                     \
                  isa, width, (int)n_panel, (int)n_depth, (int)g.f.panel_stride,                 \
                  (int)g.f.depth_stride, !!g.panel_index, !!g.depth_index, !!g.bits,             \
                  (int)g.f.bit_panel_stride, (int)g.f.bit_depth_stride);                         \
            free(packed);                                                                        \
            free_factor_##S(g);                                                                  \
        }                                                                                        \
    }                                                                                            \
    static void check_block_##S(const cdrop_kernels *k) {                                        \
        const int64_t high = k->tile_rows_##S, wide = k->tile_columns_##S;                       \
        for (int round = 0; round < 150; ++round) {                                              \
            const int64_t m = 1 + below(3 * high), m_up = (m + high - 1) / high * high;          \
            const int64_t n = 1 + below(3 * wide), n_up = (n + wide - 1) / wide * wide;          \
            const int64_t depth = 1 + below(150), cut = below(depth), stride = n + below(4);     \
            factor_##S a = any_factor_##S(m, depth), b = any_factor_##S(n, depth);               \
            const size_t size = (size_t)((m - 1) * stride + n) * sizeof(T);                      \
            T *c = buffer(size), *again = buffer(size), *along = buffer(size);                   \
            T *across = buffer(size);                                                            \
            /* Nobody looks at what is fetched on the way; it need not even be there. */         \
            const int64_t scattered[] = {7, 0, 3, 1, 4};                                         \
            const cdrop_ahead also = {(const char *)a.data, 2, 70, 64, NULL, NULL};              \
            const cdrop_ahead ahead = {(const char *)a.data, below(6), 1 + below(300), below(99), \
                                       any64() % 2 ? scattered : NULL,                           \
                                       any64() % 2 ? &also : NULL};                              \
            int same = 1;                                                                        \
            for (size_t i = 0; i < size / sizeof(T); ++i)                                         \
                c[i] = again[i] = along[i] = across[i] = (T)77;                                  \
            for (int part = 0; part < 2; ++part) { /* the depth in two blocks */                 \
                const int64_t from = part ? cut : 0, here = part ? depth - cut : cut;            \
                T *pa = buffer((size_t)(m_up * here) * sizeof(T));                               \
                T *pb = buffer((size_t)(n_up * here) * sizeof(T));                               \
                k->pack_##S(&a.f, 0, m, from, here, (int)high, pa);                              \
                k->pack_##S(&b.f, 0, n, from, here, (int)wide, pb);                              \
                k->block_##S(m, n, here, pa, pb, c, stride, part, NULL);                         \
                k->block_##S(m, n, here, pa, pb, again, stride, part, &ahead);                   \
                /* The same numbers where they lie: rows of their own, and depths of their own. */ \
                const int64_t line = m < high ? high : m;                                        \
                const T **rows = buffer((size_t)m_up * sizeof *rows);                            \
                const T **depths = buffer((size_t)here * sizeof *depths);                        \
                for (int64_t i = 0; i < m_up; ++i) {                                             \
                    T *row = i < m ? buffer((size_t)here * sizeof(T)) : NULL;                    \
                    for (int64_t d = 0; i < m && d < here; ++d) row[d] = at_##S(&a.f, i, from + d); \
                    rows[i] = i < m ? row : rows[0];                                             \
                }                                                                                \
                for (int64_t d = 0; d < here; ++d) {                                             \
                    T *column = buffer((size_t)line * sizeof(T));                                \
                    for (int64_t i = 0; i < line; ++i)                                           \
                        column[i] = i < m ? at_##S(&a.f, i, from + d) : (T)unit();               \
                    depths[d] = column;                                                          \
                }                                                                                \
                k->block_along_##S(m, n, here, rows, pb, along, stride, part);                   \
                k->block_across_##S(m, n, here, depths, pb, across, stride, part);               \
                for (int64_t i = 0; i < m; ++i) free((void *)rows[i]);                           \
                for (int64_t d = 0; d < here; ++d) free((void *)depths[d]);                      \
                free(rows);                                                                      \
                free(depths);                                                                    \
                free(pa);                                                                        \
                free(pb);                                                                        \
            }                                                                                    \
            for (int64_t i = 0; i < m; ++i)                                                      \
                for (int64_t j = 0; j < stride && (i < m - 1 || j < n); ++j) {                   \
                    double want = 0, sum = 0;                                                    \
                    for (int64_t d = 0; j < n && d < depth; ++d) {                               \
                        const double x = (double)at_##S(&a.f, i, d);                             \
                        const double term = x * (double)at_##S(&b.f, j, d);                      \
                        want += term;                                                            \
                        sum += fabs(term);                                                       \
                    }                                                                            \
                    if (j < n)                                                                   \
                        same &= fabs((double)c[i * stride + j] - want) <=                        \
                                (double)(depth + 4) * EPSILON_##S * sum;                         \
                    else                                                                         \
                        same &= c[i * stride + j] == (T)77;                                      \
                }                                                                                \
            CHECK(same, "%s block_" #S ", m %d, n %d, depth %d", isa, (int)m, (int)n, (int)depth); \
            CHECK(!memcmp(c, again, size), "%s block_" #S " with something ahead, m %d, n %d",   \
                  isa, (int)m, (int)n);                                                          \
            CHECK(!memcmp(c, along, size), "%s block_along_" #S ", m %d, n %d, depth %d", isa,   \
                  (int)m, (int)n, (int)depth);                                                   \
            CHECK(!memcmp(c, across, size), "%s block_across_" #S ", m %d, n %d, depth %d", isa, \
                  (int)m, (int)n, (int)depth);                                                   \
            free(along);                                                                         \
            free(across);                                                                        \
            free(c);                                                                             \
            free(again);                                                                         \
            free_factor_##S(a);                                                                  \
            free_factor_##S(b);                                                                  \
        }                                                                                        \
    }                                                                                            \
    static void check_rows_##S(const cdrop_kernels *k) {                                         \
        for (int round = 0; round < 200; ++round) {                                              \
            const size_t n = (size_t)below(300), first = (size_t)below(70);                      \
            const size_t bytes = (first + n + 7) / 8;                                            \
            T *x = buffer(n * sizeof(T)), *w = buffer(n * sizeof(T)), *y = buffer(n * sizeof(T)); \
            double sum = 0;                                                                      \
            uint8_t *bits = buffer(bytes);                                                       \
            const T a = (T)unit();                                                               \
            int same = 1;                                                                        \
            for (size_t i = 0; i < bytes; ++i) bits[i] = (uint8_t)any64();                       \
            for (size_t i = 0; i < n; ++i) {                                                     \
                x[i] = (T)unit();                                                                \
                w[i] = (T)unit();                                                                \
                y[i] = w[i];                                                                     \
                sum += (double)w[i] * (double)w[i];                                              \
            }                                                                                    \
            CHECK(fabs(k->sum_squares_##S(n, w) - sum) <= 1e-13 * sum,                           \
                  "%s sum_squares_" #S ", n %zu", isa, n);                                       \
            const int all = any64() % 2;                                                         \
            k->axpy_##S(n, all ? NULL : bits, first, a, x, y);                                   \
            for (size_t i = 0; i < n; ++i) {                                                     \
                const int taken = all || bit_of(bits, first + i);                                \
                const double want = taken ? w[i] + (double)a * (double)x[i] : (double)w[i];      \
                same &= fabs(y[i] - want) <= 4 * EPSILON_##S;                                    \
            }                                                                                    \
            CHECK(same, "%s axpy_" #S ", n %zu, all %d", isa, n, all);                           \
            free(x);                                                                             \
            free(w);                                                                             \
            free(y);                                                                             \
            free(bits);                                                                          \
        }                                                                                        \
    }                                                                                            \
    /* What follows a product and what comes before its gradients, on any bit pattern: a NaN stays \
     * under relu, a -0 becomes +0. */                                                           \
    static void check_epilogues_##S(const cdrop_kernels *k) {                                    \
        const T scales[] = {1, 2, (T)(1 / 0.9), (T)(1 / 0.3), 0};                                \
        for (int round = 0; round < 400; ++round) {                                              \
            const int64_t m = below(6), n = round % 8 ? below(200) : 32 * below(6);              \
            const int64_t stride = n + below(4), bit_stride = n + (any64() % 2 ? 0 : below(70)); \
            const uint64_t bit = (uint64_t)below(70);                                            \
            const int relu = round & 1, biased = round >> 1 & 1, masked = round >> 2 & 1;        \
            const T scale = scales[below(5)];                                                    \
            const int64_t size = m && n ? (m - 1) * stride + n : 0;                              \
            const int64_t n_bits = size ? (int64_t)bit + (m - 1) * bit_stride + n : 0;           \
            const size_t bytes = (size_t)(n_bits + 7) / 8;                                       \
            T *c = buffer((size_t)size * sizeof(T)), *y = buffer((size_t)size * sizeof(T));      \
            T *bias = buffer((size_t)n * sizeof(T)), *sum = buffer((size_t)n * sizeof(T));       \
            T *dy = buffer((size_t)n * sizeof(T)), *dz = buffer((size_t)n * sizeof(T));          \
            T *forward = buffer((size_t)n * sizeof(T)), *total = buffer((size_t)n * sizeof(T));  \
            uint8_t *bits = buffer(bytes);                                                       \
            int same = 1;                                                                        \
            for (size_t i = 0; i < bytes; ++i) bits[i] = (uint8_t)any64();                       \
            for (int64_t i = 0; i < size; ++i) c[i] = y[i] = any64() % 2 ? (T)unit() : any_##S(); \
            for (int64_t i = 0; i < n; ++i) {                                                    \
                bias[i] = any64() % 4 ? (T)unit() : any_##S();                                   \
                forward[i] = any64() % 2 ? (T)unit() : any_##S();                                \
                dy[i] = any64() % 4 ? (T)unit() : any_##S();                                     \
                sum[i] = total[i] = (T)unit();                                                   \
            }                                                                                    \
            k->epilogue_##S(m, n, biased ? bias : NULL, relu, masked ? bits : NULL, bit, bit_stride, \
                          scale, y, stride);                                                     \
            for (int64_t i = 0; i < size; ++i) {                                                 \
                const int64_t row = i / stride, column = i % stride;                             \
                T want = c[i];                                                                   \
                if (column < n) {                                                                \
                    if (biased) want += bias[column];                                            \
                    if (relu && !isnan(want) && !(want > 0)) want = 0;                           \
                    want *= scale;                                                               \
                    if (masked && !bit_of(bits, bit + (uint64_t)(row * bit_stride + column)))    \
                        want = 0;                                                                \
                }                                                                                \
                same &= equal_##S(y[i], want);                                                   \
            }                                                                                    \
            CHECK(same, "%s epilogue_" #S ", m %d, n %d, bias %d, relu %d, bits %d", isa, (int)m, \
                  (int)n, biased, relu, masked);                                                 \
            k->epilogue_backward_##S((size_t)n, scale, forward, dy, dz, sum);                     \
            same = 1;                                                                            \
            for (int64_t i = 0; i < n; ++i) {                                                    \
                const T want = forward[i] > 0 ? dy[i] * scale : (T)0;                            \
                same &= equal_##S(dz[i], want) & equal_##S(sum[i], total[i] + want);             \
            }                                                                                    \
            CHECK(same, "%s epilogue_backward_" #S ", n %d", isa, (int)n);                        \
            for (int64_t i = 0; i < n; ++i) sum[i] = total[i];                                   \
            k->epilogue_backward_##S((size_t)n, scale, NULL, dy, masked ? dz : NULL, sum);        \
            same = 1;                                                                            \
            for (int64_t i = 0; i < n; ++i) {                                                    \
                const T want = dy[i] * scale;                                                    \
                same &= equal_##S(sum[i], total[i] + want) & (!masked || equal_##S(dz[i], want)); \
            }                                                                                    \
            CHECK(same, "%s epilogue_backward_" #S " without relu, n %d, dz %d", isa, (int)n, masked); \
            free(c);                                                                             \
            free(y);                                                                             \
            free(bias);                                                                          \
            free(sum);                                                                           \
            free(dy);                                                                            \
            free(dz);                                                                            \
            free(forward);                                                                       \
            free(total);                                                                         \
            free(bits);                                                                          \
        }                                                                                        \
    }                                                                                            \
    /* Squares of columns, and columns made shorter; what lies between the rows is not touched. */ \
    static void check_columns_##S(const cdrop_kernels *k) {                                      \
        for (int round = 0; round < 300; ++round) {                                              \
            const int64_t rows = below(12), n = below(round % 10 ? 40 : CDROP_CLIP_COLUMNS + 1);  \
            const int64_t stride = n + below(4), size = rows && n ? (rows - 1) * stride + n : 0; \
            const int few = round & 1;                                                           \
            T *w = buffer((size_t)size * sizeof(T)), *before = buffer((size_t)size * sizeof(T)); \
            double *square = buffer((size_t)n * sizeof(double));                                 \
            double *factor = buffer((size_t)n * sizeof(double));                                 \
            int same = 1;                                                                        \
            for (int64_t i = 0; i < size; ++i) w[i] = before[i] = (T)unit();                     \
            for (int64_t j = 0; j < n; ++j) {                                                    \
                square[j] = (double)(j % 5);                                                     \
                factor[j] = any64() % (few ? 9 : 2) ? 1.0 : fabs(unit());                        \
            }                                                                                    \
            k->add_squares_##S(rows, n, stride, w, square);                                      \
            for (int64_t j = 0; j < n; ++j) {                                                    \
                double want = (double)(j % 5);                                                   \
                for (int64_t r = 0; r < rows; ++r)                                               \
                    want += (double)w[r * stride + j] * (double)w[r * stride + j];               \
                same &= fabs(square[j] - want) <= 1e-15 * want;                                  \
            }                                                                                    \
            CHECK(same && !memcmp(w, before, (size_t)size * sizeof(T)),                          \
                  "%s add_squares_" #S ", %d x %d", isa, (int)rows, (int)n);                     \
            for (int64_t j = 0; j < n; ++j) square[j] = (double)(j % 5);                         \
            /* A column whose factor is 1 keeps every number, and NaN; between rows is anything. */ \
            for (int64_t i = 0; i < size; ++i)                                                   \
                if (i % stride >= n)                                                             \
                    w[i] = before[i] = any_##S();                                                \
                else if (factor[i % stride] == 1.0 && any64() % 8 == 0)                          \
                    w[i] = before[i] = any64() % 2 ? (T)NAN : (T)-INFINITY;                      \
            k->shorten_##S(rows, n, stride, factor, w, square);                                  \
            same = 1;                                                                            \
            for (int64_t j = 0; j < n; ++j) {                                                    \
                double want = (double)(j % 5);                                                   \
                for (int64_t r = 0; factor[j] != 1.0 && r < rows; ++r) {                         \
                    T *old = before + r * stride + j;                                            \
                    *old = (T)((double)*old * factor[j]);                                        \
                    want += (double)*old * (double)*old;                                         \
                }                                                                                \
                same &= fabs(square[j] - want) <= 1e-15 * want;                                  \
            }                                                                                    \
            CHECK(same, "%s shorten_" #S " sums, %d x %d", isa, (int)rows, (int)n);              \
            CHECK(!memcmp(w, before, (size_t)size * sizeof(T)), "%s shorten_" #S ", %d x %d", isa, \
                  (int)rows, (int)n);                                                            \
            free(w);                                                                             \
            free(before);                                                                        \
            free(square);                                                                        \
            free(factor);                                                                        \
        }                                                                                        \
    }                                                                                            \
    /* One weight's step, each operation rounded on its own. */                                  \
    static void plain_sgd_##S(const cdrop_hyperparameters *a, T g, T *v, T *w) {                  \
        const T weighed = (T)a->decay * *w, all = a->decay != 0 ? g + weighed : g;               \
        const T change = all * -(T)a->rate;                                                      \
        if (!v) {                                                                                \
            *w = *w + change;                                                                    \
            return;                                                                              \
        }                                                                                        \
        const T decayed = *v * (T)a->momentum;                                                   \
        *v = decayed + change;                                                                   \
        const T on = (T)a->momentum * *v;                                                        \
        *w = *w + (a->nesterov ? change + on : *v);                                              \
    }                                                                                            \
    static T root_##S(T x) {                                                                     \
        return (T)sqrt((double)x); /* correct for float too: twice its digits and two */         \
    }                                                                                            \
    static T mean_##S(double beta, T old, double rest, T now) {                                  \
        const T a = (T)beta * old, b = (T)rest * now;                                            \
        return a + b;                                                                            \
    }                                                                                            \
    static void plain_update_##S(int rule, const cdrop_hyperparameters *a, T g, T *m, T *v, T *d, T *w) { \
        const T gg = g * g, rate = (T)a->rate, epsilon = (T)a->epsilon;                          \
        T change = 0;                                                                            \
        if (rule == CDROP_SGD) {                                                                 \
            plain_sgd_##S(a, g, v, w);                                                           \
            return;                                                                              \
        }                                                                                        \
        *v = rule == CDROP_ADAGRAD ? *v + gg : mean_##S(a->beta_2, *v, a->rest_2, gg);           \
        if (rule == CDROP_ADAM) {                                                                \
            *m = mean_##S(a->beta_1, *m, a->rest_1, g);                                          \
            const T scaled = root_##S(*v) * (T)a->scale, below_line = scaled + epsilon;          \
            const T above = rate * *m, kept = (T)a->keep * *w;                                   \
            change = above / below_line;                                                         \
            *w = kept - change;                                                                  \
        } else if (rule == CDROP_RMSPROP) {                                                      \
            T spread = *v;                                                                       \
            if (m) {                                                                             \
                *m = mean_##S(a->beta_2, *m, a->rest_2, g);                                      \
                const T mm = *m * *m;                                                            \
                spread = spread - mm < 0 ? 0 : spread - mm;                                      \
            }                                                                                    \
            change = g * -rate;                                                                  \
            change = change / (root_##S(spread) + epsilon);                                      \
            if (d) {                                                                             \
                const T decayed = *d * (T)a->momentum;                                           \
                *d = change = decayed + change;                                                  \
            }                                                                                    \
            *w = *w + change;                                                                    \
        } else if (rule == CDROP_ADAGRAD) {                                                      \
            change = rate * g;                                                                   \
            change = change / (root_##S(*v) + epsilon);                                          \
            *w = *w - change;                                                                    \
        } else {                                                                                 \
            change = root_##S(*m + epsilon) / root_##S(*v + epsilon);                            \
            change = change * g;                                                                 \
            *m = mean_##S(a->beta_2, *m, a->rest_2, change * change);                            \
            change = rate * change;                                                              \
            *w = *w - change;                                                                    \
        }                                                                                        \
    }                                                                                            \
    /* Equal, and a zero of either sign: without g its sign is nobody's. */                      \
    static int alike_##S(T a, T b) {                                                             \
        return (a == 0 && b == 0) || equal_##S(a, b);                                            \
    }                                                                                            \
    /* Whether square__n, which was 0, 1, 2, ..., has taken in the squares of w, or was left. */ \
    static int squares_##S(size_t n, int taken, const T *w, const double *square) {              \
        int same = 1;                                                                            \
        for (size_t i = 0; i < n; ++i) {                                                         \
            const double own = (double)w[i] * (double)w[i];                                      \
            same &= equal_f64(square[i], taken ? (double)i + own : (double)i);                   \
        }                                                                                        \
        return same;                                                                             \
    }                                                                                            \
    static void check_updates_##S(const cdrop_kernels *k) {                                      \
        for (int round = 0; round < 3000; ++round) {                                             \
            const int rule = round % CDROP_RULES, form = round / CDROP_RULES;                    \
            const size_t n = (size_t)below(round % 50 ? 70 : 900), bytes = n * sizeof(T);        \
            const int with_g = form & 1, squared = form >> 1 & 1, one = form >> 2 & 1;           \
            const int other = form >> 3 & 1;                                                     \
            /* Which states there are, where that is free: kernels.h. */                         \
            const int with_v = rule != CDROP_SGD || one;                                         \
            const int with_m = rule == CDROP_ADAM || rule == CDROP_ADADELTA ||                   \
                               (rule == CDROP_RMSPROP && one);                                   \
            const int with_d = rule == CDROP_RMSPROP && other;                                   \
            const double step = 1 + (double)below(50);                                           \
            const cdrop_hyperparameters a = {.rate = fabs(unit()), .momentum = fabs(unit()),      \
                                    .decay = below(2) ? fabs(unit()) : 0, .beta_1 = 0.9,         \
                                    .beta_2 = 0.99, .rest_1 = 1 - 0.9, .rest_2 = 1 - 0.99,       \
                                    .scale = 1 / sqrt(1 - pow(0.99, step)), .epsilon = 1e-8,     \
                                    .keep = below(2) ? fabs(unit()) : 1, .nesterov = other};     \
            T *g = buffer(bytes), *some_g = buffer(bytes), *state[4], *want[4], *before[4];      \
            int64_t *column = buffer(n * sizeof *column);                                        \
            double *square = buffer(n * sizeof *square);                                         \
            size_t columns = 0;                                                                  \
            int same = 1;                                                                        \
            for (int s = 0; s < 4; ++s) { /* m, v, d, w */                                       \
                state[s] = buffer(bytes);                                                        \
                want[s] = buffer(bytes);                                                         \
                before[s] = buffer(bytes);                                                       \
                for (size_t i = 0; i < n; ++i) {                                                 \
                    state[s][i] = any64() % 8 ? (T)unit() : any_##S();                           \
                    if (rule != CDROP_SGD && (s == 1 || (s == 0 && rule == CDROP_ADADELTA)))     \
                        state[s][i] = (T)(any64() % 4 ? fabs(unit()) : 0);                       \
                }                                                                                \
                memcpy(want[s], state[s], bytes);                                                \
                memcpy(before[s], state[s], bytes);                                              \
            }                                                                                    \
            for (size_t i = 0; i < n; ++i) {                                                     \
                square[i] = (double)i;                                                           \
                g[i] = any64() % 8 ? (T)unit() : any_##S();                                      \
                if (rule != CDROP_SGD || with_v || with_g || a.decay != 0)                       \
                    plain_update_##S(rule, &a, with_g ? g[i] : (T)0, with_m ? want[0] + i : NULL, \
                              with_v ? want[1] + i : NULL, with_d ? want[2] + i : NULL,          \
                              want[3] + i);                                                      \
            }                                                                                    \
            k->update_##S[rule](n, &a, with_g ? g : NULL, with_m ? state[0] : NULL,              \
                                with_v ? state[1] : NULL, with_d ? state[2] : NULL, state[3],    \
                                squared ? square : NULL);                                        \
            const int left = rule == CDROP_SGD && !with_v && !with_g && a.decay == 0;            \
            same &= squares_##S(n, squared, state[3], square);                                   \
            if (left) same &= !memcmp(state[3], before[3], bytes);                               \
            for (int s = 0; s < 4; ++s)                                                          \
                for (size_t i = 0; i < n; ++i)                                                   \
                    same &= with_g ? equal_##S(state[s][i], want[s][i])                          \
                                   : alike_##S(state[s][i], want[s][i]);                         \
            CHECK(same, "%s update_" #S " %d, n %zu, m %d, v %d, d %d, g %d, squares %d", isa,   \
                  rule, n, with_m, with_v, with_d, with_g, squared);                             \
            for (int s = 0; s < 4; ++s) {                                                        \
                memcpy(state[s], before[s], bytes);                                              \
                memcpy(want[s], before[s], bytes);                                               \
            }                                                                                    \
            for (size_t i = 0; rule == CDROP_SGD && i < n; ++i) {                                \
                if (any64() % 3) continue;                                                       \
                plain_sgd_##S(&a, g[i], with_v ? want[1] + i : NULL, want[3] + i);               \
                some_g[columns] = g[i];                                                          \
                column[columns++] = (int64_t)i;                                                  \
            }                                                                                    \
            k->sgd_some_##S(columns, column, &a, some_g, with_v ? state[1] : NULL, state[3]);    \
            same = 1;                                                                            \
            for (int s = 0; s < 4; ++s)                                                          \
                for (size_t i = 0; i < n; ++i) same &= equal_##S(state[s][i], want[s][i]);       \
            CHECK(same, "%s sgd_some_" #S ", %zu of %zu, v %d", isa, columns, n, with_v);        \
            for (int s = 0; s < 4; ++s) {                                                        \
                free(state[s]);                                                                  \
                free(want[s]);                                                                   \
                free(before[s]);                                                                 \
            }                                                                                    \
            free(g);                                                                             \
            free(some_g);                                                                        \
            free(column);                                                                        \
            free(square);                                                                        \
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
            const int64_t n_a = part == CDROP_DROPCONNECT_DX ? n : rows;                          \
            const int64_t n_b = part == CDROP_DROPCONNECT_DW ? n : rows * n;                      \
            const int64_t n_out = part == CDROP_DROPCONNECT_Y    ? n                              \
                                  : part == CDROP_DROPCONNECT_DW ? rows * n                       \
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
                const int64_t to = part == CDROP_DROPCONNECT_Y    ? column                        \
                                   : part == CDROP_DROPCONNECT_DW ? e                             \
                                                              : row;                             \
                const double term = (double)a[part == CDROP_DROPCONNECT_DX ? column : row] *      \
                                    (double)b[part == CDROP_DROPCONNECT_DW ? column : e];         \
                want[to] += term;                                                                \
                size[to] += fabs(term);                                                          \
            }                                                                                    \
            k->dropconnect_##S(part, &draw, bits, index, first, last, n, a, b, out);              \
            for (int64_t i = 0; i < n_out; ++i)                                                  \
                same &= fabs((double)out[i] - want[i]) <=                                        \
                        (double)(rows + n + 4) * EPSILON_##S * size[i];                          \
            CHECK(same, "%s dropconnect_" #S ", part %d, given %d, n %d, [%d, %d)", isa, part, given, \
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

/* ---- activations and normalisation, from the formulas in double ------------------------------- */

static double plain_activation(int kind, double x, double a) {
    const double pi = 3.14159265358979323846, rate = 2 * sqrt(2 / pi);
    switch (kind) {
    case CDROP_RELU: return x > 0 ? x : 0;
    case CDROP_LEAKY_RELU: return x > 0 ? x : a * x;
    case CDROP_ELU: return x > 0 ? x : a * expm1(x);
    case CDROP_SELU: return 1.0507009873554805 * (x > 0 ? x : 1.6732632423543773 * expm1(x));
    case CDROP_GELU: return x * 0.5 * erfc(-x / sqrt(2));
    case CDROP_GELU_TANH: return x / (1 + exp(-rate * (x + 0.044715 * x * x * x)));
    case CDROP_SILU: return x / (1 + exp(-x));
    case CDROP_TANH: return tanh(x);
    case CDROP_SIGMOID: return 1 / (1 + exp(-x));
    default: return log1p(exp(x));
    }
}

/* The derivative as a difference quotient, which is what it is. */
static double plain_slope(int kind, double x, double a) {
    const double h = 1e-5;
    return (plain_activation(kind, x + h, a) - plain_activation(kind, x - h, a)) / (2 * h);
}

#define CHECK_ACTIVATIONS(T, C, S)                                                               \
    static void check_activations_##S(const cdrop_kernels *k) {                                  \
        for (int round = 0; round < 400; ++round) {                                              \
            const size_t n = (size_t)below(70);                                                  \
            const int kind = round % (CDROP_SOFTPLUS + 1), in_place = (int)below(2);             \
            const T a = (T)fabs(unit());                                                         \
            T *x = buffer(n * sizeof *x), *y = buffer(n * sizeof *y), *dy = buffer(n * sizeof *dy); \
            T *dx = buffer(n * sizeof *dx), *again = buffer(n * sizeof *again);                  \
            int same = 1, close = 1, close_back = 1;                                             \
            for (size_t i = 0; i < n; ++i) {                                                     \
                x[i] = (T)(8 * unit());                                                          \
                if (fabs((double)x[i]) < 1e-4) x[i] = 1; /* no difference quotient at a corner */ \
                again[i] = x[i];                                                                 \
                dy[i] = (T)unit();                                                               \
            }                                                                                    \
            const int holds_x =                                                                  \
                kind == CDROP_GELU || kind == CDROP_GELU_TANH || kind == CDROP_SILU;             \
            k->activate_##S(kind, n, a, x, y);                                                   \
            k->activate_##S(kind, n, a, again, again);                                           \
            for (size_t i = 0; i < n; ++i) same &= equal_##S(y[i], again[i]);                    \
            memcpy(dx, dy, n * sizeof *dx);                                                      \
            k->activate_back_##S(kind, n, a, holds_x ? x : y, in_place ? dx : dy, dx);           \
            for (size_t i = 0; i < n; ++i) {                                                     \
                const double want = plain_activation(kind, (double)x[i], (double)a);             \
                const double back = (double)dy[i] * plain_slope(kind, (double)x[i], (double)a);  \
                close &= fabs((double)y[i] - want) <= 200 * EPSILON_##S * fabs(want);            \
                close_back &= fabs((double)dx[i] - back) <= 40 * EPSILON_##S + 1e-8;             \
            }                                                                                    \
            CHECK(same, "%s activate_" #S " in place, kind %d, n %zu", isa, kind, n);            \
            CHECK(close, "%s activate_" #S ", kind %d, n %zu", isa, kind, n);                    \
            CHECK(close_back, "%s activate_back_" #S ", kind %d, n %zu", isa, kind, n);          \
            free(x);                                                                             \
            free(y);                                                                             \
            free(dy);                                                                            \
            free(dx);                                                                            \
            free(again);                                                                         \
        }                                                                                        \
    }                                                                                            \
    static void check_softmax_##S(const cdrop_kernels *k) {                                      \
        for (int round = 0; round < 100; ++round) {                                              \
            const size_t rows = (size_t)below(5), n = 1 + (size_t)below(60), size = rows * n;    \
            T *x = buffer(size * sizeof *x), *y = buffer(size * sizeof *y);                      \
            T *dy = buffer(size * sizeof *dy), *dx = buffer(size * sizeof *dx);                  \
            int close = 1;                                                                       \
            for (size_t i = 0; i < size; ++i) {                                                  \
                x[i] = (T)(10 * unit());                                                         \
                dy[i] = (T)unit();                                                               \
            }                                                                                    \
            k->softmax_##S(rows, n, x, y);                                                       \
            k->softmax_back_##S(rows, n, y, dy, dx);                                             \
            for (size_t r = 0; r < rows; ++r) {                                                  \
                double sum = 0, mean = 0;                                                        \
                for (size_t i = r * n; i < (r + 1) * n; ++i) sum += exp((double)x[i]);           \
                for (size_t i = r * n; i < (r + 1) * n; ++i)                                     \
                    mean += exp((double)x[i]) / sum * (double)dy[i];                             \
                for (size_t i = r * n; i < (r + 1) * n; ++i) {                                   \
                    const double want = exp((double)x[i]) / sum;                                 \
                    close &= fabs((double)y[i] - want) <= 40 * EPSILON_##S * want;               \
                    close &= fabs((double)dx[i] - want * ((double)dy[i] - mean)) <=              \
                             40 * EPSILON_##S * want;                                            \
                }                                                                                \
            }                                                                                    \
            CHECK(close, "%s softmax_" #S ", %zu rows of %zu", isa, rows, n);                    \
            free(x);                                                                             \
            free(y);                                                                             \
            free(dy);                                                                            \
            free(dx);                                                                            \
        }                                                                                        \
    }
CDROP_FOR_REAL_TYPES(CHECK_ACTIVATIONS)

/* ---- attention -------------------------------------------------------------------------------- */

/* Largest errors of 2^x in its last place, with a margin: with sums and products fused, and not. */
#define EXP2_ULPS_f32 (strcmp(isa, "scalar") ? 1.85 : 2.05)
#define EXP2_ULPS_f64 (strcmp(isa, "scalar") ? 0.95 : 1.25)
#define EXP2_LEAST_f32 -126
#define EXP2_LEAST_f64 -1022
#define EPSILON2_f32 0x1p-24L /* half of the distance behind 1 */
#define EPSILON2_f64 0x1p-53L

/* A tile of up to 5 rows: where it begins, what is seen of it and which weights are kept. */
#define CHECK_ATTENTION(T, C, S)                                                                 \
    /* A row whose largest score is 0 has the weights 2^score. */                                \
    static void check_exp2_##S(const cdrop_kernels *k) {                                         \
        double worst = 0;                                                                        \
        int ends = 1;                                                                            \
        for (int round = 0; round < 400; ++round) {                                              \
            T x[384], in[384], top = -(T)INFINITY, total = 0, shrink = 0;                        \
            const cdrop_tile tile = {.rows = 1, .columns = 384, .stride = 384, .first_live = 384}; \
            const double least[] = {-1, -60, EXP2_LEAST_##S}, small = ldexp(1, -round % 60);     \
            for (int i = 5; i < 384; ++i)                                                        \
                in[i] = (T)((unit() - 1) / 2 * (round % 2 ? small : least[round % 3]) *          \
                            (round % 2 ? 1 : -1));                                               \
            in[0] = 0;                                                                           \
            in[1] = EXP2_LEAST_##S;                                                              \
            in[2] = (T)(EXP2_LEAST_##S * 1.001);                                                 \
            in[3] = -(T)INFINITY;                                                                \
            in[4] = (T)-1e30;                                                                    \
            memcpy(x, in, sizeof x);                                                             \
            k->softmax_tile_##S(&tile, x, &top, &total, &shrink);                                \
            ends &= x[0] == 1 && x[1] == (T)ldexp(1, EXP2_LEAST_##S) && x[2] == 0 && x[3] == 0 && \
                    x[4] == 0 && top == 0;                                                       \
            for (int i = 5; i < 384; ++i) {                                                      \
                const long double want = exp2l((long double)in[i]);                              \
                int exponent;                                                                    \
                frexpl(want, &exponent);                                                         \
                const double error =                                                             \
                    (double)(fabsl((long double)x[i] - want) / ldexpl(EPSILON2_##S, exponent));  \
                if (!(error <= worst)) worst = error;                                            \
            }                                                                                    \
        }                                                                                        \
        CHECK(worst <= EXP2_ULPS_##S, "%s exp2 of " #S ": %g in the last place", isa, worst);    \
        CHECK(ends, "%s exp2 of " #S " at its ends", isa);                                       \
    }                                                                                            \
    static void check_softmax_tile_##S(const cdrop_kernels *k) {                                 \
        for (int round = 0; round < 400; ++round) {                                              \
            const int64_t rows = 1 + below(5), columns = 1 + below(round % 4 ? 70 : 384);        \
            const int64_t stride = CDROP_WHOLE_STEPS(columns) + 32 * below(2);                   \
            const int64_t bit_stride = stride + below(50);                                       \
            const size_t size = (size_t)(rows * stride);                                         \
            const uint64_t bit = (uint64_t)below(300);                                           \
            const size_t n_bits = (bit + (uint64_t)((rows - 1) * bit_stride + stride) + 7) / 8;  \
            const int masked = (int)below(3), odd = (int)below(8);                               \
            T *x = buffer(size * sizeof *x), *in = buffer(size * sizeof *in);                    \
            T *dx = buffer(size * sizeof *dx), *din = buffer(size * sizeof *din);                \
            uint8_t *bits = buffer(n_bits);                                                      \
            T top[5], total[5], shrink[5], mean[5];                                              \
            double old_top[5], old_total[5];                                                     \
            cdrop_tile tile = {rows, columns, stride, columns + 3 - below(2 * columns), below(2), \
                               masked ? bits : NULL, bit, bit_stride};                           \
            int weights = 1, sums = 1, back = 1, rest = 1;                                       \
            if (round % 2) tile.first_live = columns;                                            \
            for (size_t i = 0; i < n_bits; ++i) bits[i] = (uint8_t)any64();                      \
            for (size_t i = 0; i < size; ++i) {                                                  \
                in[i] = x[i] = any64() % 9 ? (T)(10 * unit()) : -(T)INFINITY;                    \
                din[i] = dx[i] = (T)unit();                                                      \
            }                                                                                    \
            for (int64_t r = 0; r < rows; ++r) {                                                 \
                old_top[r] = top[r] = any64() % 3 ? (T)(10 * unit()) : -(T)INFINITY;             \
                old_total[r] = total[r] = top[r] == -(T)INFINITY ? (T)0 : (T)(unit() + 2);       \
                mean[r] = (T)unit();                                                             \
                shrink[r] = 77;                                                                  \
            }                                                                                    \
            if (odd == 0) /* a row of which nothing is seen, and a NaN in the last one */        \
                for (int64_t i = 0; i < columns; ++i) in[i] = x[i] = -(T)INFINITY;               \
            if (odd == 1) in[(rows - 1) * stride] = x[(rows - 1) * stride] = (T)NAN;             \
            k->softmax_tile_##S(&tile, x, top, total, shrink);                                   \
            for (int64_t r = 0; r < rows; ++r) {                                                 \
                int64_t n = tile.first_live + r * tile.live_step;                                \
                double want_top = old_top[r], sum = 0;                                           \
                n = n < 0 ? 0 : n < columns ? n : columns;                                       \
                for (int64_t i = 0; i < n; ++i)                                                  \
                    if ((double)in[r * stride + i] > want_top) want_top = (double)in[r * stride + i]; \
                const double base = want_top == -INFINITY ? 0 : want_top;                        \
                const double factor = old_top[r] < want_top ? exp2(old_top[r] - base) : 1;       \
                for (int64_t i = 0; i < stride; ++i) {                                           \
                    const T found = x[r * stride + i];                                           \
                    if (i >= CDROP_WHOLE_STEPS(n) && i >= columns) {                             \
                        rest &= equal_##S(found, in[r * stride + i]);                            \
                        continue;                                                                \
                    }                                                                            \
                    const double w = i < n ? exp2((double)in[r * stride + i] - base) : 0;        \
                    const int kept = !masked || bit_of(bits, bit + (uint64_t)(r * bit_stride + i)); \
                    sum += w;                                                                    \
                    if (isnan(w)) weights &= kept ? isnan(found) : found == 0;                   \
                    else weights &= fabs((double)found - (kept ? w : 0)) <= 60 * EPSILON_##S * w; \
                }                                                                                \
                sums &= (double)top[r] == want_top;                                              \
                sums &= fabs((double)shrink[r] - factor) <= 60 * EPSILON_##S * factor;           \
                const double whole = old_total[r] * factor + sum;                                \
                sums &= isnan(whole) ? isnan(total[r])                                           \
                                     : fabs((double)total[r] - whole) <= 60 * EPSILON_##S * whole; \
            }                                                                                    \
            CHECK(weights, "%s softmax_tile_" #S ", %d x %d", isa, (int)rows, (int)columns);     \
            CHECK(sums, "%s sums of softmax_tile_" #S ", %d x %d", isa, (int)rows, (int)columns); \
            /* Backwards, levels are those of all keys of a row: about as large as its scores. A \
             * gradient that is dropped or not seen may be anything. */                          \
            for (size_t i = 0; i < size; ++i) {                                                  \
                x[i] = in[i];                                                                    \
                const size_t r = i / (size_t)stride, c = i % (size_t)stride;                     \
                const int64_t n = tile.first_live + (int64_t)r * tile.live_step;                 \
                if (((masked && !bit_of(bits, bit + r * (size_t)bit_stride + c)) ||              \
                     (int64_t)c >= n || (int64_t)c >= columns) && any64() % 4 == 0)              \
                    din[i] = dx[i] = (T)NAN;                                                     \
            }                                                                                    \
            for (int64_t r = 0; r < rows; ++r)                                                   \
                old_top[r] = top[r] = any64() % 6 ? (T)(4 + 10 * unit()) : -(T)INFINITY;         \
            k->softmax_tile_back_##S(&tile, top, mean, x, dx);                                   \
            for (int64_t r = 0; r < rows; ++r) {                                                 \
                int64_t n = tile.first_live + r * tile.live_step;                                \
                const double base = old_top[r] == -INFINITY ? 0 : old_top[r];                    \
                n = n < 0 ? 0 : n < columns ? n : columns;                                       \
                for (int64_t i = 0; i < stride; ++i) {                                           \
                    const int64_t at = r * stride + i;                                           \
                    if (i >= CDROP_WHOLE_STEPS(n) && i >= columns) {                             \
                        rest &= equal_##S(x[at], in[at]) && equal_##S(dx[at], din[at]);          \
                        continue;                                                                \
                    }                                                                            \
                    const double over = i < n ? (double)in[at] - base : -INFINITY;               \
                    const double p = over > 0 ? 1 : exp2(over);                                  \
                    const int kept = !masked || bit_of(bits, bit + (uint64_t)(r * bit_stride + i)); \
                    const double dp = kept && i < n ? (double)din[at] : 0;                       \
                    if (isnan(p)) {                                                              \
                        back &= isnan(dx[at]) && (kept ? isnan(x[at]) : x[at] == 0);             \
                        continue;                                                                \
                    }                                                                            \
                    back &= fabs((double)x[at] - (kept ? p : 0)) <= 60 * EPSILON_##S * p;        \
                    back &= fabs((double)dx[at] - p * (dp - (double)mean[r])) <=                 \
                            120 * EPSILON_##S * p;                                               \
                }                                                                                \
            }                                                                                    \
            CHECK(back, "%s softmax_tile_back_" #S ", %d x %d", isa, (int)rows, (int)columns);   \
            CHECK(rest, "%s beside a tile of softmax_" #S ", %d x %d", isa, (int)rows, (int)columns); \
            free(x);                                                                             \
            free(in);                                                                            \
            free(dx);                                                                            \
            free(din);                                                                           \
            free(bits);                                                                          \
        }                                                                                        \
    }
CDROP_FOR_REAL_TYPES(CHECK_ATTENTION)

#define CHECK_NORMALIZATION(T, C, S)                                                             \
    static void check_normalization_##S(const cdrop_kernels *k) {                                \
        for (int round = 0; round < 150; ++round) {                                              \
            const size_t rows = 1 + (size_t)below(40), n = 1 + (size_t)below(50), size = rows * n; \
            T *x = buffer(size * sizeof *x), *y = buffer(size * sizeof *y);                      \
            T *dy = buffer(size * sizeof *dy), *dx = buffer(size * sizeof *dx);                  \
            T *gamma = buffer(n * sizeof *gamma), *beta = buffer(n * sizeof *beta);              \
            T *centre = buffer(n * sizeof *centre), *slope = buffer(n * sizeof *slope);          \
            double *mean = buffer((rows + n) * sizeof *mean); /* of columns, then of rows */     \
            double *square = buffer((rows + n) * sizeof *square);                                \
            double *dgamma = buffer(n * sizeof *dgamma), *dbeta = buffer(n * sizeof *dbeta);     \
            int columns = 1, maps = 1, across = 1, back = 1;                                     \
            for (size_t i = 0; i < size; ++i) {                                                  \
                x[i] = (T)(100 + unit()); /* the plain sums take the 100 off first */            \
                dy[i] = (T)unit();                                                               \
            }                                                                                    \
            for (size_t c = 0; c < n; ++c) {                                                     \
                gamma[c] = (T)unit();                                                            \
                beta[c] = (T)unit();                                                             \
                slope[c] = (T)unit();                                                            \
                centre[c] = x[c];                                                                \
            }                                                                                    \
            k->column_moments_##S(rows, n, x, mean, square);                                     \
            k->column_products_##S(rows, n, centre, x, dy, dbeta, dgamma);                       \
            k->map_columns_##S(rows, n, centre, gamma, beta, x, y);                              \
            k->map_columns_back_##S(rows, n, centre, gamma, slope, beta, x, dy, dx);             \
            for (size_t c = 0; c < n; ++c) {                                                     \
                double sum = 0, squares = 0, gradients = 0, products = 0;                        \
                for (size_t r = 0; r < rows; ++r) sum += (double)x[r * n + c] - 100;             \
                for (size_t r = 0; r < rows; ++r) {                                              \
                    const double from_mean = (double)x[r * n + c] - 100 - sum / (double)rows;    \
                    const T from_centre = x[r * n + c] - centre[c];                              \
                    const T scaled = from_centre * gamma[c], sloped = from_centre * slope[c];    \
                    const T moved = dy[r * n + c] + beta[c], whole = moved + sloped;             \
                    squares += from_mean * from_mean;                                            \
                    gradients += (double)dy[r * n + c];                                          \
                    products += (double)dy[r * n + c] * (double)from_centre;                     \
                    maps &= equal_##S(y[r * n + c], scaled + beta[c]);                           \
                    maps &= equal_##S(dx[r * n + c], whole * gamma[c]);                          \
                }                                                                                \
                columns &= fabs(mean[c] - 100 - sum / (double)rows) <= 1e-13;                    \
                columns &= fabs(square[c] - squares) <= 1e-12;                                   \
                columns &= fabs(dbeta[c] - gradients) <= 1e-12;                                  \
                columns &= fabs(dgamma[c] - products) <= (double)rows * EPSILON_##S;             \
            }                                                                                    \
            CHECK(columns, "%s moments and products_" #S ", %zu x %zu", isa, rows, n);           \
            CHECK(maps, "%s map_columns_" #S ", %zu x %zu", isa, rows, n);                       \
            k->normalize_rows_##S(rows, n, 0.1, gamma, beta, x, y, mean, square);                \
            for (size_t c = 0; c < n; ++c) dgamma[c] = dbeta[c] = 1;                             \
            k->normalize_rows_back_##S(rows, n, gamma, mean, square, x, dy, dx, dgamma, dbeta);  \
            for (size_t r = 0; r < rows; ++r) {                                                  \
                double sum = 0, variance = 0, g_mean = 0, product_mean = 0;                      \
                for (size_t c = 0; c < n; ++c) sum += ((double)x[r * n + c] - 100) / (double)n;  \
                for (size_t c = 0; c < n; ++c)                                                   \
                    variance += pow((double)x[r * n + c] - 100 - sum, 2) / (double)n;            \
                const double scale = 1 / sqrt(variance + 0.1);                                   \
                /* a mean of 100 is known to 1e-14 */                                            \
                across &= fabs(mean[r] - 100 - sum) <= 1e-13 && fabs(square[r] - scale) <= 1e-12; \
                for (size_t c = 0; c < n; ++c) {                                                 \
                    const double h = ((double)x[r * n + c] - 100 - sum) * scale;                 \
                    const double g = (double)dy[r * n + c] * (double)gamma[c];                   \
                    const double want = h * (double)gamma[c] + (double)beta[c];                  \
                    across &= fabs((double)y[r * n + c] - want) <=                               \
                              20 * EPSILON_##S + 1e-13;                                          \
                    g_mean += g / (double)n;                                                     \
                    product_mean += g * h / (double)n;                                           \
                    dgamma[c] -= (double)dy[r * n + c] * h;                                      \
                    dbeta[c] -= (double)dy[r * n + c];                                           \
                }                                                                                \
                for (size_t c = 0; c < n; ++c) {                                                 \
                    const double h = ((double)x[r * n + c] - 100 - sum) * scale;                 \
                    const double g = (double)dy[r * n + c] * (double)gamma[c];                   \
                    const double want = (g - g_mean - h * product_mean) * scale;                 \
                    back &= fabs((double)dx[r * n + c] - want) <=                                \
                            60 * EPSILON_##S + 1e-13;                                            \
                }                                                                                \
            }                                                                                    \
            for (size_t c = 0; c < n; ++c) /* they were added to ones */                         \
                back &= fabs(dgamma[c] - 1) <= 20 * (double)rows * EPSILON_##S + 1e-12 &&        \
                        fabs(dbeta[c] - 1) <= 1e-12;                                             \
            CHECK(across, "%s normalize_rows_" #S ", %zu x %zu", isa, rows, n);                  \
            CHECK(back, "%s normalize_rows_back_" #S ", %zu x %zu", isa, rows, n);               \
            free(x);                                                                             \
            free(y);                                                                             \
            free(dy);                                                                            \
            free(dx);                                                                            \
            free(gamma);                                                                         \
            free(beta);                                                                          \
            free(centre);                                                                        \
            free(slope);                                                                         \
            free(mean);                                                                          \
            free(square);                                                                        \
            free(dgamma);                                                                        \
            free(dbeta);                                                                         \
        }                                                                                        \
    }
CDROP_FOR_REAL_TYPES(CHECK_NORMALIZATION)
/* One step of each cell and back, from the formulas in double: within the rounding of T. */
static double plain_sigmoid(double a) { return 1 / (1 + exp(-a)); }

#define CHECK_CELLS(T, C, S)                                                                      \
    static T *numbers_##S(size_t n, double size) {                                                \
        T *x = buffer(n * sizeof *x);                                                             \
        for (size_t i = 0; i < n; ++i) x[i] = (T)(size * unit());                                 \
        return x;                                                                                 \
    }                                                                                             \
    static int near_##S(T found, double want) {                                                   \
        return fabs((double)found - want) <= 16 * EPSILON_##S * (1 + fabs(want));                 \
    }                                                                                             \
    static void check_cells_##S(const cdrop_kernels *k) {                                         \
        const int kinds[] = {CDROP_CELL_TANH, CDROP_CELL_RELU, CDROP_CELL_LSTM, CDROP_CELL_GRU};  \
        const size_t gates_of[] = {1, 1, 4, 3};                                                   \
        for (int round = 0; round < 400; ++round) {                                               \
            const int kind = kinds[round % 4];                                                    \
            const size_t n = (size_t)below(round % 10 ? 70 : 300), wide = gates_of[round % 4] * n; \
            T *gates = numbers_##S(wide, 6), *extra = numbers_##S(n, 2);                          \
            T *bias = numbers_##S(n, 1), *kept = numbers_##S(n, 2), *h = numbers_##S(n, 1);       \
            T *c = numbers_##S(n, 1), *dh = numbers_##S(n, 1), *dkept = numbers_##S(n, 1);        \
            T *dgates = numbers_##S(wide, 1), *dback = numbers_##S(wide, 1);                      \
            T *a = buffer(wide * sizeof *a), *q = buffer(n * sizeof *q), *d = buffer(n * sizeof *d); \
            int same = 1, back = 1;                                                               \
            memcpy(a, gates, wide * sizeof *a);                                                   \
            memcpy(q, extra, n * sizeof *q);                                                      \
            memcpy(d, dkept, n * sizeof *d);                                                      \
            k->cell_##S(kind, n, gates, extra, bias, kept, h, c);                                 \
            k->cell_back_##S(kind, n, gates, extra, kept, dh, dkept, dgates, dback);              \
            for (size_t u = 0; u < n; ++u) {                                                      \
                const double before = (double)kept[u], g = (double)dh[u];                         \
                if (kind == CDROP_CELL_LSTM) {                                                    \
                    const double i = plain_sigmoid(a[u]), f = plain_sigmoid(a[n + u]);            \
                    const double new = tanh(a[2 * n + u]), o = plain_sigmoid(a[3 * n + u]);       \
                    const double cell = f * before + i * new, t = tanh(cell);                     \
                    const double dc = (double)d[u] + g * o * (1 - t * t);                         \
                    same &= near_##S(gates[u], i) & near_##S(gates[n + u], f) &                   \
                            near_##S(gates[2 * n + u], new) & near_##S(gates[3 * n + u], o) &     \
                            near_##S(c[u], cell) & near_##S(extra[u], t) & near_##S(h[u], o * t); \
                    back &= near_##S(dgates[u], dc * new * i * (1 - i)) &                         \
                            near_##S(dgates[n + u], dc * before * f * (1 - f)) &                  \
                            near_##S(dgates[2 * n + u], dc * i * (1 - new * new)) &               \
                            near_##S(dgates[3 * n + u], g * t * o * (1 - o)) &                    \
                            near_##S(dkept[u], dc * f);                                           \
                } else if (kind == CDROP_CELL_GRU) {                                              \
                    const double z = plain_sigmoid(a[u]), r = plain_sigmoid(a[n + u]);            \
                    const double inner = (double)q[u] + (double)bias[u];                          \
                    const double new = tanh((double)a[2 * n + u] + r * inner);                    \
                    const double da = g * (1 - z) * (1 - new * new);                              \
                    const double dz = g * (before - new) * z * (1 - z);                           \
                    const double dr = da * inner * r * (1 - r);                                   \
                    same &= near_##S(gates[u], z) & near_##S(gates[n + u], r) &                   \
                            near_##S(gates[2 * n + u], new) & near_##S(extra[u], inner) &         \
                            near_##S(h[u], (1 - z) * new + z * before);                           \
                    back &= near_##S(dgates[u], dz) & near_##S(dgates[n + u], dr) &               \
                            near_##S(dgates[2 * n + u], da) & near_##S(dback[u], dz) &            \
                            near_##S(dback[n + u], dr) & near_##S(dback[2 * n + u], da * r) &     \
                            near_##S(dkept[u], g * z);                                            \
                } else {                                                                          \
                    const double x = (double)a[u], t = tanh(x);                                   \
                    const double want = kind == CDROP_CELL_TANH ? t : x > 0 ? x : 0;              \
                    const double slope = kind == CDROP_CELL_TANH ? 1 - t * t : x > 0;             \
                    same &= near_##S(h[u], want) & near_##S(gates[u], want);                      \
                    back &= near_##S(dgates[u], g * slope);                                       \
                }                                                                                 \
            }                                                                                     \
            CHECK(same, "%s cell_" #S ", kind %d, n %zu", isa, kind, n);                          \
            CHECK(back, "%s cell_back_" #S ", kind %d, n %zu", isa, kind, n);                     \
            free(gates);                                                                          \
            free(extra);                                                                          \
            free(bias);                                                                           \
            free(kept);                                                                           \
            free(h);                                                                              \
            free(c);                                                                              \
            free(dh);                                                                             \
            free(dkept);                                                                          \
            free(dgates);                                                                         \
            free(dback);                                                                          \
            free(a);                                                                              \
            free(q);                                                                              \
            free(d);                                                                              \
        }                                                                                         \
    }                                                                                             \
    /* A selection of two numbers, or their mixture, and its gradient; to the bit. */             \
    static void check_mix_##S(const cdrop_kernels *k) {                                           \
        for (int round = 0; round < 300; ++round) {                                               \
            const size_t n = (size_t)below(round % 10 ? 100 : 900);                               \
            const uint64_t first = (uint64_t)below(70);                                           \
            const int given = round % 2, in_place = (int)below(2);                                \
            const size_t bytes = (size_t)(first + n + 7) / 8;                                     \
            uint8_t *bits = buffer(bytes);                                                        \
            const T share = (T)fabs(unit());                                                      \
            T *fresh = numbers_##S(n, 1), *old = numbers_##S(n, 1), *to = numbers_##S(n, 1);      \
            T *part = numbers_##S(n, 1);                                                          \
            int same = 1;                                                                         \
            for (size_t i = 0; i < bytes; ++i) bits[i] = (uint8_t)any64();                        \
            for (size_t i = 0; given && i < n; ++i) { /* what is not taken may be anything */     \
                if (any64() % 4 == 0) *(bit_of(bits, first + i) ? old + i : fresh + i) = (T)NAN;  \
            }                                                                                     \
            if (in_place) memcpy(to, old, n * sizeof *to);                                        \
            k->mix_##S(n, given ? bits : NULL, first, share, fresh, in_place ? to : old, to);     \
            for (size_t i = 0; i < n; ++i) {                                                      \
                const T mixed = fresh[i] * share + old[i] * ((T)1 - share);                       \
                same &= equal_##S(to[i], !given                   ? mixed                         \
                                         : bit_of(bits, first + i) ? fresh[i]                     \
                                                                   : old[i]);                     \
            }                                                                                     \
            CHECK(same, "%s mix_" #S ", n %zu, bits %d", isa, n, given);                          \
            same = 1;                                                                             \
            k->mix_back_##S(n, given ? bits : NULL, first, share, to, part);                      \
            for (size_t i = 0; i < n; ++i) {                                                      \
                const int taken = bit_of(bits, first + i);                                        \
                const T whole = !given ? fresh[i] * share + old[i] * ((T)1 - share)               \
                                : taken ? fresh[i] : old[i];                                      \
                same &= equal_##S(part[i], !given ? whole * share : taken ? whole : (T)0);        \
                same &= equal_##S(to[i], !given ? whole * ((T)1 - share) : taken ? (T)0 : whole); \
            }                                                                                     \
            CHECK(same, "%s mix_back_" #S ", n %zu, bits %d", isa, n, given);                     \
            free(bits);                                                                           \
            free(fresh);                                                                          \
            free(old);                                                                            \
            free(to);                                                                             \
            free(part);                                                                           \
        }                                                                                         \
    }
CDROP_FOR_REAL_TYPES(CHECK_CELLS)
/* Lines of patches, and windows of pooling, over images of any geometry. */
#define CHECK_IMAGES(T, C, S)                                                                    \
    static void check_lines_##S(const cdrop_kernels *k) {                                        \
        for (int round = 0; round < 300; ++round) {                                              \
            const int64_t groups = 1 + below(3), channels = groups * (1 + below(round % 5 ? 5 : 40)); \
            const int64_t batch = 1 + below(3);                                                  \
            const cdrop_patches shape = {                                                        \
                NULL, 1 + below(6), 1 + below(6), channels, below(groups) * (channels / groups), \
                channels / groups, 1 + below(5), 1 + below(5), 1 + below(4), 1 + below(4),       \
                1 + below(3), 1 + below(3), 1 + below(3), below(2) ? 1 : 1 + below(3),           \
                below(6) - 2, below(6) - 2};                                                     \
            cdrop_patches p = shape;                                                             \
            const int64_t size = batch * p.height * p.width * channels;                          \
            const int64_t positions = batch * p.out_height * p.out_width;                        \
            const int64_t patch = p.kernel_height * p.kernel_width * p.taken;                    \
            const int64_t first = below(positions), n = 1 + below(positions - first);            \
            const int64_t depth0 = below(patch), depth = 1 + below(patch - depth0);              \
            const int64_t high = k->tile_rows_##S;                                               \
            const int64_t room = (depth < high ? high : depth) + below(3);                       \
            T *x = buffer((size_t)size * sizeof(T)), *staged = buffer((size_t)(n * room) * sizeof(T)); \
            const T **lines = buffer((size_t)n * sizeof *lines);                                 \
            int same = 1;                                                                        \
            for (int64_t i = 0; i < size; ++i) x[i] = (T)unit();                                 \
            p.data = x;                                                                          \
            k->lines_##S(&p, first, n, depth0, depth, room, staged, lines);                      \
            for (int64_t i = 0; i < n; ++i)                                                      \
                for (int64_t d = 0; d < (depth < high ? high : depth); ++d) {                    \
                    const int64_t at = first + i, number = depth0 + d, tap = number / p.taken;   \
                    const int64_t y = at / p.out_width % p.out_height * p.stride_height +        \
                                      tap / p.kernel_width * p.dilation_height - p.pad_before_height; \
                    const int64_t z = at % p.out_width * p.stride_width +                        \
                                      tap % p.kernel_width * p.dilation_width - p.pad_before_width; \
                    const int64_t image = at / p.out_width / p.out_height;                       \
                    const int inside = y >= 0 && y < p.height && z >= 0 && z < p.width;          \
                    const T want = inside ? x[((image * p.height + y) * p.width + z) * channels + \
                                              p.first_channel + number % p.taken]                \
                                          : (T)0;                                                \
                    const T found = lines[i][d]; /* what is behind the line can be read */       \
                    same &= d >= depth || equal_##S(found, want);                                \
                }                                                                                \
            CHECK(same, "%s lines_" #S ", positions %d + %d, depth %d + %d of %d", isa, (int)first, \
                  (int)n, (int)depth0, (int)depth, (int)patch);                                  \
            free(x);                                                                             \
            free(staged);                                                                        \
            free(lines);                                                                         \
        }                                                                                        \
    }                                                                                            \
    /* Blocks of a convolution with small groups, in images of exactly that size, against loops. */  \
    static T seen_##S(const cdrop_plane *b, int64_t row, int64_t x, int64_t d, int64_t column) {  \
        const cdrop_patches *p = &b->patches;                                                     \
        const int64_t tap = d / p->taken, channel = column / b->maps * p->taken + d % p->taken;   \
        const int64_t i = (b->row + row) * p->stride_height - p->pad_before_height +              \
                          tap / p->kernel_width * p->dilation_height;                             \
        const int64_t j = (b->left + x) * p->stride_width - p->pad_before_width +                 \
                          tap % p->kernel_width * p->dilation_width;                              \
        if (i < 0 || i >= p->height || j < 0 || j >= p->width) return 0;                          \
        return ((const T *)p->data)[((b->image * p->height + i) * p->width + j) * p->channels +   \
                                    channel];                                                     \
    }                                                                                             \
    static void check_planes_##S(const cdrop_kernels *k) {                                        \
        const int64_t lanes = k->lanes_##S;                                                       \
        for (int round = 0; round < 400; ++round) {                                               \
            const int64_t groups = 1 + below(round % 3 ? 40 : 4);                                 \
            const int64_t taken = 1 + (round % 2 ? below(8) : 0), batch = 1 + below(2);           \
            cdrop_plane b = {.maps = 1 + (round % 4 > 1 ? below(3) : 0)};                         \
            cdrop_patches p = {.height = 1 + below(9), .width = 1 + below(20),                    \
                               .channels = groups * taken, .taken = taken,                        \
                               .kernel_height = 1 + below(4), .kernel_width = 1 + below(4),       \
                               .stride_height = 1 + below(3), .stride_width = 1 + below(3),       \
                               .dilation_height = 1 + below(3), .dilation_width = 1 + below(3),   \
                               .pad_before_height = below(9) - 3, .pad_before_width = below(9) - 3, \
                               .out_height = 1 + below(6), .out_width = 1 + below(20)};           \
            const int64_t patch = p.kernel_height * p.kernel_width * taken;                       \
            const int64_t positions = batch * p.out_height * p.out_width;                         \
            b.columns = groups * b.maps;                                                          \
            b.column = below((b.columns + lanes - 1) / lanes) * lanes;                            \
            b.image = below(batch);                                                               \
            b.row = below(p.out_height);                                                          \
            b.rows = 1 + below(p.out_height - b.row);                                             \
            b.left = below(p.out_width);                                                          \
            b.wide = 1 + below(p.out_width - b.left);                                             \
            b.slots = (p.kernel_height - 1) * p.dilation_height + 1;                              \
            b.width = (b.wide - 1) * p.stride_width + (p.kernel_width - 1) * p.dilation_width + 1; \
            T *x = numbers_##S((size_t)(batch * p.height * p.width * p.channels), 1);             \
            T *w = numbers_##S((size_t)(patch * lanes), 1);                                       \
            T *c = buffer((size_t)(positions * b.columns) * sizeof *c);                           \
            T *dz = numbers_##S((size_t)(positions * b.columns), 1);                              \
            T *dw = buffer((size_t)(patch * lanes) * sizeof *dw);                                 \
            T *plane = buffer((size_t)((b.slots * (b.width * taken + 1) + b.wide) * lanes) *      \
                              sizeof *plane);                                                     \
            int64_t *offset = buffer((size_t)patch * sizeof *offset);                             \
            int product = 1, gradient = 1;                                                        \
            p.data = x;                                                                           \
            b.patches = p;                                                                        \
            for (int64_t i = 0; i < positions * b.columns; ++i) c[i] = (T)77;                     \
            for (int64_t i = 0; i < patch * lanes; ++i) dw[i] = (T)1; /* which is added to */     \
            k->plane_product_##S(&b, w, plane, offset, c);                                        \
            k->plane_gradient_##S(&b, dz, plane, offset, dw);                                     \
            for (int64_t i = 0; i < positions * b.columns; ++i) {                                 \
                const int64_t at = i / b.columns, column = i % b.columns, l = column - b.column;  \
                const int64_t row = at / p.out_width % p.out_height - b.row;                      \
                const int64_t j = at % p.out_width - b.left;                                      \
                const int inside = at / p.out_width / p.out_height == b.image && row >= 0 &&      \
                                   row < b.rows && j >= 0 && j < b.wide && l >= 0 && l < lanes;   \
                double want = inside ? 0 : 77, size = 0;                                          \
                for (int64_t d = 0; inside && d < patch; ++d) {                                   \
                    const double term = (double)seen_##S(&b, row, j, d, column) *                 \
                                        (double)w[d * lanes + l];                                 \
                    want += term;                                                                 \
                    size += fabs(term);                                                           \
                }                                                                                 \
                product &= fabs((double)c[i] - want) <= (double)(patch + 4) * EPSILON_##S * size; \
            }                                                                                     \
            for (int64_t i = 0; i < patch * lanes; ++i) {                                         \
                const int64_t column = b.column + i % lanes;                                      \
                double want = 1, size = 1;                                                        \
                for (int64_t at = 0; column < b.columns && at < b.rows * b.wide; ++at) {          \
                    const int64_t row = at / b.wide, j = at % b.wide;                             \
                    const int64_t place = (b.image * p.out_height + b.row + row) * p.out_width +  \
                                          b.left + j;                                             \
                    const double term = (double)seen_##S(&b, row, j, i / lanes, column) *         \
                                        (double)dz[place * b.columns + column];                   \
                    want += term;                                                                 \
                    size += fabs(term);                                                           \
                }                                                                                 \
                gradient &= column >= b.columns ||                                                \
                            fabs((double)dw[i] - want) <= 200 * EPSILON_##S * size;               \
            }                                                                                     \
            CHECK(product, "%s plane_product_" #S ", round %d", isa, round);                      \
            CHECK(gradient, "%s plane_gradient_" #S ", round %d", isa, round);                    \
            free(x);                                                                              \
            free(w);                                                                              \
            free(c);                                                                              \
            free(dz);                                                                             \
            free(dw);                                                                             \
            free(plane);                                                                          \
            free(offset);                                                                         \
        }                                                                                         \
    }                                                                                             \
    static void check_pool_##S(const cdrop_kernels *k) {                                         \
        for (int round = 0; round < 300; ++round) {                                              \
            const int64_t batch = 1 + below(3), channels = 1 + below(round % 4 ? 6 : 80);        \
            const int average = (int)below(2), varied = (int)below(2);                           \
            int64_t lengths[3];                                                                  \
            cdrop_pool p = {1 + below(6), 1 + below(6), channels, 1 + below(4), 1 + below(4),    \
                            1 + below(4), 1 + below(4), 1 + below(3), 1 + below(3),              \
                            below(3), below(3), NULL, (int)below(2)};                            \
            for (int64_t b = 0; b < batch; ++b) lengths[b] = below(p.width + 1);                 \
            if (varied) p.lengths = lengths;                                                     \
            const int64_t size = batch * p.height * p.width * channels;                          \
            const int64_t rows = batch * p.out_height, outs = rows * p.out_width * channels;     \
            const int64_t row0 = below(rows + 1), now = below(rows - row0 + 1);                  \
            T *x = buffer((size_t)size * sizeof(T)), *y = buffer((size_t)outs * sizeof(T));      \
            T *dx = buffer((size_t)size * sizeof(T)), *dy = buffer((size_t)outs * sizeof(T));    \
            T *want_dx = buffer((size_t)size * sizeof(T));                                       \
            int32_t *place = buffer((size_t)outs * sizeof *place);                               \
            int same = 1, untouched = 1;                                                         \
            for (int64_t i = 0; i < size; ++i) {                                                 \
                const T value = (T)((double)below(7) - 3);                                       \
                x[i] = any64() % 20 ? value : any64() % 2 ? (T)NAN : (T)-INFINITY;               \
                dx[i] = (T)77;                                                                   \
                want_dx[i] = 0;                                                                  \
            }                                                                                    \
            for (int64_t i = 0; i < outs; ++i) {                                                 \
                dy[i] = (T)unit();                                                               \
                y[i] = (T)77;                                                                    \
                place[i] = 77;                                                                   \
            }                                                                                    \
            k->pool_##S(&p, row0, now, x, y, average ? NULL : place);                            \
            for (int64_t i = 0; i < outs; ++i) {                                                 \
                const int64_t row = i / channels / p.out_width;                                  \
                if (row < row0 || row >= row0 + now) untouched &= y[i] == (T)77 && place[i] == 77; \
            }                                                                                    \
            k->pool_##S(&p, 0, rows, x, y, average ? NULL : place);                              \
            for (int64_t b = 0; b < batch; ++b)                                                  \
                k->pool_back_##S(&p, b, dy, average ? NULL : place, dx);                         \
            for (int64_t i = 0; i < outs; ++i) {                                                 \
                const int64_t c = i % channels, column = i / channels % p.out_width;             \
                const int64_t row = i / channels / p.out_width % p.out_height;                   \
                const int64_t image = i / channels / p.out_width / p.out_height;                 \
                const int64_t width = varied ? lengths[image] : p.width;                         \
                int64_t count = 0, best = -1, at_best = -1;                                      \
                T sum = 0;                                                                       \
                for (int pass = 0; pass < 2; ++pass) /* what is inside, then its gradient */     \
                    for (int64_t w = 0; w < p.kernel_height * p.kernel_width; ++w) {             \
                        const int64_t r = row * p.stride_height - p.pad_before_height + w / p.kernel_width; \
                        const int64_t s =                                                        \
                            column * p.stride_width - p.pad_before_width + w % p.kernel_width;    \
                        if (r < 0 || r >= p.height || s < 0 || s >= width) continue;             \
                        const int64_t at = ((image * p.height + r) * p.width + s) * channels + c; \
                        if (pass) {                                                              \
                            const T whole = p.count_padding ? (T)(p.kernel_height * p.kernel_width) \
                                                            : (T)count;                          \
                            want_dx[at] += average ? dy[i] / whole : at == at_best ? dy[i] : (T)0; \
                            continue;                                                            \
                        }                                                                        \
                        ++count;                                                                 \
                        sum += x[at];                                                            \
                        if (best < 0 || x[at] > x[at_best] || isnan(x[at])) {                    \
                            best = w;                                                            \
                            at_best = at;                                                        \
                        }                                                                        \
                    }                                                                            \
                const int64_t whole = p.count_padding ? p.kernel_height * p.kernel_width         \
                                      : count         ? count                                    \
                                                      : 1;                                       \
                if (average)                                                                     \
                    same &= equal_##S(y[i], sum / (T)whole);                                     \
                else                                                                             \
                    same &= equal_##S(y[i], best < 0 ? (T)0 : x[at_best]) & (place[i] == best);  \
            }                                                                                    \
            CHECK(same, "%s pool_" #S ", average %d, channels %d", isa, average, (int)channels); \
            CHECK(untouched, "%s pool_" #S " of some rows", isa);                                \
            same = 1;                                                                            \
            for (int64_t i = 0; i < size; ++i) same &= dx[i] == want_dx[i];                      \
            CHECK(same, "%s pool_back_" #S ", average %d, channels %d", isa, average, (int)channels); \
            free(x);                                                                             \
            free(y);                                                                             \
            free(dx);                                                                            \
            free(dy);                                                                            \
            free(want_dx);                                                                       \
            free(place);                                                                         \
        }                                                                                        \
    }
CDROP_FOR_REAL_TYPES(CHECK_IMAGES)
/* ---- permutations ----------------------------------------------------------------------------- */

/* floor(words * n / 2^128), a bit of n at a time. */
static uint64_t share(const dropcore_block *words, uint64_t n) {
    uint32_t sum[6] = {0}; /* words * n from the top bit of n on */
    for (int bit = 62; bit >= 0; --bit) {
        uint64_t carried = 0;
        for (int q = 0; q < 6; ++q) {
            const uint64_t limb = 2 * (uint64_t)sum[q] + (n >> bit & 1 && q < 4 ? words->word[q] : 0);
            carried += limb;
            sum[q] = (uint32_t)carried;
            carried >>= 32;
        }
    }
    return (uint64_t)sum[5] << 32 | sum[4];
}

static void check_permutations(const cdrop_kernels *k) {
    const char *isa = k->name;
    const uint64_t top = (uint64_t)1 << 63;
    const uint64_t sizes[] = {1, 2, 3, 100, 65537, 0xFFFFFFFFu, 0x100000001u, 10000000000u, top - 1};
    for (size_t t = 0; t < sizeof sizes / sizeof *sizes; ++t) {
        const uint64_t n = sizes[t], seed = any64();
        const uint32_t stream = (uint32_t)below(CDROP_PERMUTATION_STREAMS), step = (uint32_t)any64();
        const size_t count = 1 + (size_t)below(40);
        uint64_t *x = buffer(count * sizeof *x), *found = buffer(count * sizeof *found);
        unsigned rounds = 32;
        cdrop_permutation p;
        int same = 1;
        cdrop_permutation_for(&p, n, seed, stream, step);
        while ((uint64_t)1 << (rounds - 32) < n) ++rounds;
        CHECK(p.rounds == rounds && p.rounds <= CDROP_PERMUTATION_ROUNDS, "rounds of %" PRIu64, n);
        for (size_t i = 0; i < count; ++i) found[i] = x[i] = any64() % n;
        k->permute(&p, 0, count, found);
        for (size_t i = 0; i < count; ++i) {
            uint64_t at = x[i];
            for (unsigned r = 0; r < rounds; ++r) {
                const dropcore_address a =
                    dropcore_address_of(seed, stream << 7 | r, step, DROPCORE_DOMAIN_ORDER);
                const dropcore_block words = dropcore_block_at(&a, top);
                const uint64_t sum = share(&words, n), other = (sum + n - at) % n;
                if (dropcore_block_at(&a, at < other ? other : at).word[0] & 1) at = other;
            }
            same &= found[i] == at;
        }
        CHECK(same, "%s permute, n %" PRIu64, isa, n);
        k->permute(&p, 1, count, found);
        CHECK(!memcmp(found, x, count * sizeof *x), "%s permute backwards, n %" PRIu64, isa, n);
        free(x);
        free(found);
    }
}

/* ---- noise ------------------------------------------------------------------------------------ */

/* How far z is from the normal of word w: the error of its distribution function, over the density.
 * Worked out from the nearer of 0.5 and the ends, where nothing cancels. */
static double normal_error(uint32_t w, double z) {
    const double centre = ((double)w - 2147483648.0 + 0.5) * 0x1p-32, root = 0.70710678118654752440;
    const double edge = 0.5 - fabs(centre);
    const double density = exp(-0.5 * z * z) * 0.39894228040143267794;
    if ((z > 0) != (centre > 0)) return 1.0;
    if (edge < 0.05) return fabs(0.5 * erfc(fabs(z) * root) - edge) / density;
    return fabs(0.5 * erf(z * root) - centre) / density;
}

#define CHECK_NORMAL(T, C, S)                                                                    \
    static void check_normal_##S(const cdrop_kernels *k) {                                       \
        const uint32_t ends[] = {0, 1, 2, 3, 255, 322122545, 322122546, 322122547, 322122548,     \
                                 0x7FFFFFFEu, 0x7FFFFFFFu};                                      \
        const size_t sizes[] = {1, 22, 1023, 1024, 1025, 20000};                                  \
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; ++s) {                               \
            const size_t n = sizes[s];                                                            \
            uint32_t *w = buffer(n * sizeof *w);                                                  \
            T *z = buffer(n * sizeof *z);                                                         \
            int near = 1;                                                                         \
            for (size_t i = 0; i < n; ++i)                                                        \
                w[i] = i < 11 ? ends[i] : i < 22 ? ~ends[i - 11] : (uint32_t)any64();             \
            k->normal_##S(n, w, z);                                                               \
            for (size_t i = 0; i < n; ++i) {                                                      \
                /* 4 ulp in float32, as promised. */                                                \
                const double bound = sizeof(T) == 4 ? ldexp(4, ilogb((double)z[i]) - 23)          \
                                                    : 0x1p-48 * fabs((double)z[i]);               \
                near &= normal_error(w[i], (double)z[i]) <= bound;                                \
            }                                                                                     \
            CHECK(near, "%s normal_" #S ", n %d", isa, (int)n);                                   \
            free(w);                                                                              \
            free(z);                                                                              \
        }                                                                                         \
    }
CDROP_FOR_REAL_TYPES(CHECK_NORMAL)

int main(void) {
    const cdrop_kernels *k;
    for (int i = 0; (k = kernels_at(i)); ++i) {
        const long before = passed;
        isa = k->name;
        check_decisions(k);
        check_permutations(k);
#define RUN(T, C, S) check_elementwise_##S(k);
        CDROP_FOR_TYPES(RUN)
#undef RUN
        check_every_value_f16(k);
        check_every_value_bf16(k);
#define RUN(T, C, S)        \
    check_pack_##S(k);      \
    check_block_##S(k);     \
    check_rows_##S(k);      \
    check_epilogues_##S(k); \
    check_columns_##S(k);   \
    check_updates_##S(k);   \
    check_connect_##S(k);   \
    check_activations_##S(k); \
    check_softmax_##S(k);   \
    check_exp2_##S(k);      \
    check_softmax_tile_##S(k); \
    check_normalization_##S(k); \
    check_cells_##S(k);     \
    check_mix_##S(k);       \
    check_lines_##S(k);     \
    check_planes_##S(k);    \
    check_pool_##S(k);      \
    check_normal_##S(k);
        CDROP_FOR_REAL_TYPES(RUN)
#undef RUN
        printf("instruction set %s: %ld checks\n", isa, passed - before);
    }
    return report();
}
