/* The table behind dropcore/dropcore.h. */

#include "capi.h"

#include <string.h>

#include "runtime.h"
#include "serial.h"

static int check_index(uint64_t offset, size_t n) {
    const uint64_t end = (uint64_t)1 << 63;
    return offset > end || n > end - offset ? DROPCORE_BAD_INDEX : DROPCORE_OK;
}

static int prepare(cdrop_draw *draw, uint64_t seed, uint32_t stream, uint32_t step,
                   uint32_t domain, double keep, uint64_t offset, size_t n) {
    if (!(keep >= 0.0 && keep <= 1.0)) return DROPCORE_BAD_KEEP;
    if (stream >> 28 || domain >> 4) return DROPCORE_BAD_KEY;
    draw->address = dropcore_address_of(seed, stream, step, domain);
    draw->threshold = dropcore_threshold(keep);
    return check_index(offset, n);
}

/* 1 / keep; 0 if nothing is kept. */
static double scale_of(double keep) {
    return dropcore_threshold(keep) ? 1.0 / keep : 0.0;
}

static int packed_mask(uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain, double keep,
                       uint64_t offset, size_t n, uint8_t *out) {
    cdrop_draw draw;
    const int status = prepare(&draw, seed, stream, step, domain, keep, offset, n);
    if (status == DROPCORE_OK) cdrop_packed(&draw, offset, n, out);
    return status;
}

#define ONES 1024 /* at a time: a mask as numbers is dropout of them, in cache */

#define ELEMENTWISE(T, C, S, ONE)                                                                 \
    static int dropout_##S(uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain,        \
                           double keep, uint64_t offset, size_t n, const T *x, T *out) {          \
        cdrop_draw draw;                                                                          \
        const int status = prepare(&draw, seed, stream, step, domain, keep, offset, n);           \
        if (status == DROPCORE_OK)                                                                \
            cdrop_active->dropout_##S(&draw, offset, n, (C)scale_of(keep), x, out, 0);            \
        return status;                                                                            \
    }                                                                                             \
                                                                                                  \
    static int apply_##S(double keep, const uint8_t *bits, uint64_t first, size_t n, const T *x,  \
                         T *out) {                                                                \
        if (!(keep >= 0.0 && keep <= 1.0)) return DROPCORE_BAD_KEEP;                              \
        if (check_index(first, n) != DROPCORE_OK) return DROPCORE_BAD_INDEX;                      \
        cdrop_active->apply_##S(n, bits, first, (C)scale_of(keep), x, out, 0);                    \
        return DROPCORE_OK;                                                                       \
    }                                                                                             \
                                                                                                  \
    static int mask_##S(uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain,           \
                        double keep, uint64_t offset, size_t n, T *out) {                         \
        T ones[ONES];                                                                             \
        cdrop_draw draw;                                                                          \
        const int status = prepare(&draw, seed, stream, step, domain, keep, offset, n);           \
        if (status != DROPCORE_OK) return status;                                                 \
        for (size_t i = 0; i < ONES; ++i) ones[i] = (ONE);                                        \
        while (n) { /* to the end of a piece of the index, so that groups are drawn once */       \
            const size_t rest = ONES - (size_t)(offset % ONES), now = n < rest ? n : rest;        \
            cdrop_active->dropout_##S(&draw, offset, now, (C)scale_of(keep), ones, out, 0);       \
            offset += now;                                                                        \
            out += now;                                                                           \
            n -= now;                                                                             \
        }                                                                                         \
        return DROPCORE_OK;                                                                       \
    }
ELEMENTWISE(float, float, f32, 1.0f)
ELEMENTWISE(double, double, f64, 1.0)
ELEMENTWISE(uint16_t, float, f16, 0x3C00u)
ELEMENTWISE(uint16_t, float, bf16, 0x3F80u)

static int threshold(double keep, uint64_t *out) {
    if (!(keep >= 0.0 && keep <= 1.0)) return DROPCORE_BAD_KEEP;
    *out = dropcore_threshold(keep);
    return DROPCORE_OK;
}

static int fill(int what, uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain,
                uint64_t offset, size_t n, void *out) {
    cdrop_draw draw;
    const int status = prepare(&draw, seed, stream, step, domain, 1.0, offset, n);
    if (status == DROPCORE_OK && n) cdrop_fill(what, &draw.address, offset, n, out);
    return status;
}

static int uniforms(uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain,
                    uint64_t offset, size_t n, uint32_t *out) {
    return fill(CDROP_UNIFORM, seed, stream, step, domain, offset, n, out);
}

static int normal_f32(uint64_t seed, uint32_t stream, uint32_t step, uint64_t offset, size_t n,
                      float *out) {
    return fill(CDROP_NORMAL_F32, seed, stream, step, DROPCORE_DOMAIN_NOISE, offset, n, out);
}

static int normal_f64(uint64_t seed, uint32_t stream, uint32_t step, uint64_t offset, size_t n,
                      double *out) {
    return fill(CDROP_NORMAL_F64, seed, stream, step, DROPCORE_DOMAIN_NOISE, offset, n, out);
}

static int check_weights(double max_norm, size_t rows, size_t columns, size_t stride) {
    if (!(max_norm > 0.0)) return DROPCORE_BAD_NORM;
    if (stride < columns || (stride && rows > (uint64_t)INT64_MAX / stride))
        return DROPCORE_BAD_SHAPE;
    return DROPCORE_OK;
}

/* The sums of squares of columns are those of blocks of rows, added in order, as update.pxi takes
 * them: the same bits as max_norm_ in Python. */
static size_t block_rows(size_t rows) {
    return rows > 32 * 32 ? (rows + 31) / 32 : 32;
}

#define MAX_NORM(T, C, S)                                                                         \
    static int max_norm_rows_##S(double max_norm, size_t rows, size_t columns, size_t stride,     \
                                 T *w, size_t *shortened) {                                       \
        const int status = check_weights(max_norm, rows, columns, stride);                        \
        int64_t found = 0;                                                                        \
        if (status != DROPCORE_OK) return status;                                                 \
        for (size_t r = 0; r < rows && columns; ++r)                                              \
            found += cdrop_clip_rows_##S(w + r * stride, (int64_t)columns, max_norm, 0, 1);       \
        if (shortened) *shortened = (size_t)found;                                                \
        return DROPCORE_OK;                                                                       \
    }                                                                                             \
                                                                                                  \
    static int max_norm_columns_##S(double max_norm, size_t rows, size_t columns, size_t stride,  \
                                    T *w, size_t *shortened) {                                    \
        const int status = check_weights(max_norm, rows, columns, stride);                        \
        const size_t block = block_rows(rows);                                                    \
        int64_t found = 0;                                                                        \
        if (status != DROPCORE_OK) return status;                                                 \
        for (size_t c = 0; c < columns && rows; c += CDROP_CLIP_COLUMNS) {                        \
            double square[CDROP_CLIP_COLUMNS], part[CDROP_CLIP_COLUMNS];                          \
            const size_t now = columns - c < CDROP_CLIP_COLUMNS ? columns - c : CDROP_CLIP_COLUMNS; \
            memset(square, 0, sizeof square);                                                     \
            for (size_t r = 0; r < rows; r += block) {                                            \
                const size_t deep = rows - r < block ? rows - r : block;                          \
                memset(part, 0, sizeof part);                                                     \
                cdrop_active->add_squares_##S((int64_t)deep, (int64_t)now, (int64_t)stride,       \
                                              w + r * stride + c, part);                          \
                for (size_t i = 0; i < now; ++i) square[i] += part[i];                            \
            }                                                                                     \
            found += cdrop_clip_columns_##S(w + c, (int64_t)rows, (int64_t)now, (int64_t)stride,  \
                                            max_norm, square);                                    \
        }                                                                                         \
        if (shortened) *shortened = (size_t)found;                                                \
        return DROPCORE_OK;                                                                       \
    }
CDROP_FOR_REAL_TYPES(MAX_NORM)

#define OF_REAL_TYPES(name) .name##_f32 = name##_f32, .name##_f64 = name##_f64
#define OF_TYPES(name) OF_REAL_TYPES(name), .name##_f16 = name##_f16, .name##_bf16 = name##_bf16

const dropcore_api cdrop_api = {
    .version = DROPCORE_API_VERSION,
    .size = sizeof(dropcore_api),
    .packed_mask = packed_mask,
    OF_TYPES(dropout),
    OF_TYPES(apply),
    OF_TYPES(mask),
    .threshold = threshold,
    .uniforms = uniforms,
    OF_REAL_TYPES(normal),
    OF_REAL_TYPES(max_norm_rows),
    OF_REAL_TYPES(max_norm_columns),
};
