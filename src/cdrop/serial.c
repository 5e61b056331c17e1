#include "serial.h"

#include <math.h>
#include <string.h>

#include "bits.h"
#include "runtime.h"

/* ---- axes ---- */

void cdrop_merge_axes(cdrop_layout *a) {
    int kept = 0;
    for (int d = 0; d < a->ndim; ++d) {
        if (a->shape[d] == 1) continue;
        const int last = kept - 1;
        if (kept && a->x[last] == a->x[d] * a->shape[d] &&
            a->out[last] == a->out[d] * a->shape[d] && a->bit[last] == a->bit[d] * a->shape[d] &&
            a->scale[last] == a->scale[d] * a->shape[d]) {
            a->shape[last] *= a->shape[d];
        } else {
            a->shape[kept++] = a->shape[d];
        }
        a->x[kept - 1] = a->x[d];
        a->out[kept - 1] = a->out[d];
        a->bit[kept - 1] = a->bit[d];
        a->scale[kept - 1] = a->scale[d];
    }
    if (!kept) { /* a single element */
        a->shape[0] = 1;
        a->x[0] = a->out[0] = a->bit[0] = a->scale[0] = 0;
        kept = 1;
    }
    a->ndim = kept;
}

/* Where row r begins, for each operand. */
static void locate(const cdrop_layout *a, int64_t row, int64_t *x, int64_t *out, int64_t *bit,
                   int64_t *scale) {
    *x = *out = *bit = *scale = 0;
    for (int d = a->ndim - 2; d >= 0; --d) {
        const int64_t at = row % a->shape[d];
        row /= a->shape[d];
        *x += at * a->x[d];
        *out += at * a->out[d];
        *bit += at * a->bit[d];
        *scale += at * a->scale[d];
    }
}

/* ---- packed masks ---- */

#define CHUNK_GROUPS 256 /* so many that what a call costs by itself does not count */
#define CHUNK (CHUNK_GROUPS * DROPCORE_GROUP)

void cdrop_move_bits(const uint8_t *bits, uint64_t bit, size_t n, uint8_t *out) {
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        const uint32_t v = cdrop_load_bits32(bits, bit + i);
        for (int b = 0; b < 4; ++b) out[i / 8 + b] = (uint8_t)(v >> (8 * b));
    }
    if (i < n) {
        const uint32_t v = cdrop_load_bits_below32(bits, bit + i, (unsigned)(n - i));
        for (unsigned b = 0; b * 8 < n - i; ++b) out[i / 8 + b] = (uint8_t)(v >> (8 * b));
    }
}

void cdrop_packed(const cdrop_draw *draw, uint64_t index, size_t n, uint8_t *bits) {
    uint8_t drawn[CHUNK / 8 + DROPCORE_GROUP_BYTES];
    const uint64_t bit = index % DROPCORE_GROUP;
    uint64_t group = index / DROPCORE_GROUP;
    if (bit == 0) { /* groups lie in bits as they are drawn */
        const size_t whole = n / DROPCORE_GROUP;
        cdrop_active->decide(draw, group, whole, bits);
        group += whole;
        bits += whole * DROPCORE_GROUP_BYTES;
        n -= whole * DROPCORE_GROUP;
    }
    for (; n; group += CHUNK_GROUPS, bits += CHUNK / 8) {
        const size_t now = n < CHUNK ? n : CHUNK;
        cdrop_active->decide(draw, group,
                             (size_t)(bit + now + DROPCORE_GROUP - 1) / DROPCORE_GROUP, drawn);
        cdrop_move_bits(drawn, bit, now, bits);
        n -= now;
    }
}

#define FILL 4096 /* numbers at a time */

void cdrop_fill(int what, const dropcore_address *address, uint64_t index, size_t n, void *out) {
    const cdrop_kernels *k = cdrop_active;
    /* What is drawn at once: a group of uniforms, or a block of words. */
    const uint64_t width = what == CDROP_UNIFORM ? DROPCORE_GROUP : 4;
    uint32_t drawn[FILL];
    uint64_t unit = index / width;
    size_t skip = (size_t)(index % width), done = 0;
    while (done < n) {
        const size_t now = n - done < FILL - skip ? n - done : FILL - skip;
        const size_t n_units = (size_t)((skip + now + width - 1) / width);
        (what == CDROP_UNIFORM ? k->uniform : k->words)(address, unit, n_units, drawn);
        if (what == CDROP_NORMAL_F32)
            k->normal_f32(now, drawn + skip, (float *)out + done);
        else if (what == CDROP_NORMAL_F64)
            k->normal_f64(now, drawn + skip, (double *)out + done);
        else
            memcpy((uint32_t *)out + done, drawn + skip, now * sizeof *drawn);
        done += now;
        unit += n_units;
        skip = 0;
    }
}

/* n bits from the front of `from` to bit `at` of `to`, which is 0 there. */
static void place_bits(const uint8_t *from, size_t n, uint8_t *to, size_t at) {
    const unsigned shift = (unsigned)(at % 8);
    unsigned carried = 0;
    to += at / 8;
    for (size_t byte = 0; byte * 8 < n + shift; ++byte) {
        if (byte * 8 < n) carried |= (unsigned)from[byte] << shift;
        to[byte] |= (uint8_t)carried;
        carried >>= 8;
    }
}

#define EACH (CDROP_EACH_GROUPS * DROPCORE_GROUP) /* elements at a time */

/* Where a row has one threshold, it is drawn as any mask is. Else thresholds are gathered for some
 * groups at a time, across rows. */
void cdrop_packed_each(const dropcore_address *address, uint64_t offset, const cdrop_layout *a,
                       const uint64_t *thresholds, int64_t first, size_t n, uint8_t *bits) {
    const int64_t width = a->shape[a->ndim - 1], stride = a->scale[a->ndim - 1];
    int64_t row = first / width, column = first % width, x, out, bit, base;
    uint8_t drawn[CHUNK / 8], placed[CHUNK / 8];
    locate(a, row, &x, &out, &bit, &base);
    memset(bits, 0, (n + 7) / 8);
    for (size_t i = 0; i < n;) {
        const uint64_t index = offset + (uint64_t)first + i;
        if (column == width) {
            column = 0;
            locate(a, ++row, &x, &out, &bit, &base);
        }
        const size_t in_row = (size_t)(width - column);
        size_t now = n - i < in_row ? n - i : in_row;
        if (stride == 0 && now >= DROPCORE_GROUP) {
            const cdrop_draw draw = {*address, thresholds[base]};
            if (now > CHUNK) now = CHUNK;
            cdrop_packed(&draw, index, now, drawn);
            place_bits(drawn, now, bits, i);
            i += now;
            column += (int64_t)now;
        } else {
            const unsigned start = (unsigned)(index % DROPCORE_GROUP);
            const unsigned end = n - i < EACH - start ? start + (unsigned)(n - i) : EACH;
            uint32_t below[EACH] = {0};
            uint8_t all[EACH / 8] = {0};
            for (unsigned e = start; e < end; ++e) {
                if (column == width) {
                    column = 0;
                    locate(a, ++row, &x, &out, &bit, &base);
                }
                const uint64_t t = thresholds[base + column++ * stride];
                below[CDROP_EACH_PLACE(e)] = (uint32_t)t;
                all[e / 8] |= (uint8_t)((t >> 32) << (e % 8));
            }
            cdrop_active->decide_each(address, index / DROPCORE_GROUP,
                                      (end + DROPCORE_GROUP - 1) / DROPCORE_GROUP, below, drawn);
            for (unsigned byte = 0; byte * 8 < end; ++byte) drawn[byte] |= all[byte];
            cdrop_move_bits(drawn, start, end - start, placed);
            place_bits(placed, end - start, bits, i);
            i += end - start;
        }
    }
}

/* ---- applying to strided arrays ---- */

int64_t cdrop_segments(const cdrop_layout *a) {
    int64_t rows = 1;
    for (int d = 0; d < a->ndim - 1; ++d) rows *= a->shape[d];
    return rows * ((a->shape[a->ndim - 1] + CDROP_SEGMENT - 1) / CDROP_SEGMENT);
}

static const int64_t item_bytes[] = {4, 8, 2, 2};

#define GATHER(T)                                                                   \
    static void gather_##T(const char *from, int64_t stride, int64_t n, void *to) { \
        for (int64_t i = 0; i < n; ++i) memcpy((T *)to + i, from + i * stride, sizeof(T)); \
    }                                                                               \
    static void scatter_##T(const void *from, int64_t stride, int64_t n, char *to) { \
        for (int64_t i = 0; i < n; ++i) memcpy(to + i * stride, (const T *)from + i, sizeof(T)); \
    }
GATHER(uint16_t)
GATHER(uint32_t)
GATHER(uint64_t)

static void gather(int64_t bytes, const char *from, int64_t stride, int64_t n, void *to) {
    if (bytes == 2) gather_uint16_t(from, stride, n, to);
    else if (bytes == 4) gather_uint32_t(from, stride, n, to);
    else gather_uint64_t(from, stride, n, to);
}

static void scatter(int64_t bytes, const void *from, int64_t stride, int64_t n, char *to) {
    if (bytes == 2) scatter_uint16_t(from, stride, n, to);
    else if (bytes == 4) scatter_uint32_t(from, stride, n, to);
    else scatter_uint64_t(from, stride, n, to);
}

static void apply(int dtype, size_t n, const uint8_t *bits, uint64_t bit, double scale,
                  const void *x, void *out) {
    const cdrop_kernels *k = cdrop_active;
    if (dtype == CDROP_F32) k->apply_f32(n, bits, bit, (float)scale, x, out, 0);
    else if (dtype == CDROP_F64) k->apply_f64(n, bits, bit, scale, x, out, 0);
    else if (dtype == CDROP_F16) k->apply_f16(n, bits, bit, (float)scale, x, out, 0);
    else k->apply_bf16(n, bits, bit, (float)scale, x, out, 0);
}

/* x__n * scales__n, each product rounded as apply rounds it. */
static void scale_each(int dtype, int64_t n, const double *scales, int64_t stride, void *x) {
    for (int64_t i = 0; i < n; ++i) {
        const double s = scales[i * stride];
        if (dtype == CDROP_F32) {
            ((float *)x)[i] *= (float)s;
        } else if (dtype == CDROP_F64) {
            ((double *)x)[i] *= s;
        } else {
            uint16_t *h = (uint16_t *)x + i;
            *h = dtype == CDROP_F16 ? cdrop_narrow_f16(cdrop_widen_f16(*h) * (float)s)
                                    : cdrop_narrow_bf16(cdrop_widen_bf16(*h) * (float)s);
        }
    }
}

void cdrop_apply_segments(int dtype, const cdrop_layout *a, const char *x, char *out,
                          const uint8_t *bits, double scale, const double *scales, int64_t first,
                          int64_t last) {
    const int inner = a->ndim - 1;
    const int64_t bytes = item_bytes[dtype], width = a->shape[inner];
    const int64_t per_row = (width + CDROP_SEGMENT - 1) / CDROP_SEGMENT;
    union { /* room for a segment of any dtype */
        uint16_t halves[CDROP_SEGMENT];
        float floats[CDROP_SEGMENT];
        double doubles[CDROP_SEGMENT];
    } staged;
    uint8_t own_bits[CDROP_SEGMENT / 8];
    for (int64_t item = first; item < last; ++item) {
        const int64_t start = item % per_row * CDROP_SEGMENT;
        const int64_t n = width - start < CDROP_SEGMENT ? width - start : CDROP_SEGMENT;
        int64_t x_at, out_at, bit, scale_at;
        locate(a, item / per_row, &x_at, &out_at, &bit, &scale_at);
        const char *from = x + x_at + start * a->x[inner];
        char *to = out + out_at + start * a->out[inner];
        bit += start * a->bit[inner];
        scale_at += start * a->scale[inner];

        const uint8_t *row_bits = bits;
        if (a->bit[inner] == 0) { /* one decision for the whole row */
            memset(own_bits, cdrop_bit(bits, (uint64_t)bit) ? 0xFF : 0, (size_t)(n + 7) / 8);
            row_bits = own_bits;
            bit = 0;
        } else if (a->bit[inner] != 1) {
            memset(own_bits, 0, (size_t)(n + 7) / 8);
            for (int64_t i = 0; i < n; ++i)
                own_bits[i / 8] |= (uint8_t)(cdrop_bit(bits, (uint64_t)(bit + i * a->bit[inner]))
                                             << (i % 8));
            row_bits = own_bits;
            bit = 0;
        }
        const int contiguous = a->x[inner] == bytes && ((uintptr_t)from % (uintptr_t)bytes) == 0;
        double row_scale = scale;
        if (scales && a->scale[inner] == 0) row_scale = scales[scale_at];
        const int each = scales && a->scale[inner] != 0;
        if (!contiguous || each) {
            gather(bytes, from, a->x[inner], n, &staged);
            if (each) {
                scale_each(dtype, n, scales + scale_at, a->scale[inner], &staged);
                row_scale = 1.0;
            }
            from = (const char *)&staged;
        }
        if (a->out[inner] == bytes && ((uintptr_t)to % (uintptr_t)bytes) == 0) {
            apply(dtype, (size_t)n, row_bits, (uint64_t)bit, row_scale, from, to);
        } else {
            apply(dtype, (size_t)n, row_bits, (uint64_t)bit, row_scale, from, &staged);
            scatter(bytes, &staged, a->out[inner], n, to);
        }
    }
}

/* ---- max-norm ---- */

/* A. A vector inside the ball is not written. The norm decides in float64; where its squares leave
 *    the range of float64, it is summed again in units of the largest element.
 * B. A clipped vector is measured again as stored, with the sum that a later call takes, and shrunk
 *    until it is inside: a second call finds nothing to do. The goal lies below max_norm by what
 *    another order of summation could make of the same values. */

/* A norm: root in units of unit. Alone it may exceed the range of float64. */
typedef struct {
    double root, unit;
} measured;

#define LARGEST 1.7976931348623157e308
static const measured not_finite = {-1.0, 1.0}; /* inside any ball: left alone */

#define CONCAT_(a, b) a##_##b
#define CONCAT(a, b) CONCAT_(a, b)
#define F(name) CONCAT(name, S)
#define KERNEL(name) cdrop_active->F(name)

#define S f32
#define T float
#define STEP 2.384185791015625e-7 /* 2^-22: a few units in the last place */
#include "generic/clip.inc.h"
#undef S
#undef T
#undef STEP

#define S f64
#define T double
#define STEP 4.440892098500626e-16 /* 2^-51 */
#include "generic/clip.inc.h"
