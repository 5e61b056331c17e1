/* The table behind dropcore/dropcore.h. */

#include "capi.h"

#include "runtime.h"
#include "serial.h"

static int prepare(cdrop_draw *draw, uint64_t seed, uint32_t stream, uint32_t step,
                   uint32_t domain, double keep, uint64_t offset, size_t n) {
    const uint64_t end = (uint64_t)1 << 63;
    if (!(keep >= 0.0 && keep <= 1.0)) return DROPCORE_BAD_KEEP;
    if (stream >> 28 || domain >> 4) return DROPCORE_BAD_KEY;
    if (offset > end || n > end - offset) return DROPCORE_BAD_INDEX;
    draw->address = dropcore_address_of(seed, stream, step, domain);
    draw->threshold = dropcore_threshold(keep);
    return DROPCORE_OK;
}

static int packed_mask(uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain, double keep,
                       uint64_t offset, size_t n, uint8_t *out) {
    cdrop_draw draw;
    const int status = prepare(&draw, seed, stream, step, domain, keep, offset, n);
    if (status == DROPCORE_OK) cdrop_packed(&draw, offset, n, out);
    return status;
}

#define DROPOUT(T, C, S)                                                                          \
    static int dropout_##S(uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain,        \
                           double keep, uint64_t offset, size_t n, const T *x, T *out) {          \
        cdrop_draw draw;                                                                          \
        const int status = prepare(&draw, seed, stream, step, domain, keep, offset, n);           \
        if (status == DROPCORE_OK)                                                                \
            cdrop_active->dropout_##S(&draw, offset, n, draw.threshold ? (C)(1.0 / keep) : (C)0,  \
                                      x, out, 0);                                                 \
        return status;                                                                            \
    }
CDROP_FOR_REAL_TYPES(DROPOUT)

const dropcore_api cdrop_api = {
    .version = DROPCORE_API_VERSION,
    .size = sizeof(dropcore_api),
    .packed_mask = packed_mask,
    .dropout_f32 = dropout_f32,
    .dropout_f64 = dropout_f64,
};
