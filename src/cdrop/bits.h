/* Packed bits and 16-bit floats, one at a time: portable, exact, and the same on every machine. */
#ifndef CDROP_BITS_H
#define CDROP_BITS_H

#include <stdint.h>
#include <string.h>

#if defined(_MSC_VER)
#include <intrin.h>
#define CDROP_INLINE static __inline
#else
#define CDROP_INLINE static inline __attribute__((unused))
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define CDROP_BIG_ENDIAN 1
#else
#define CDROP_BIG_ENDIAN 0
#endif

/* Ask for a line of memory that will be read soon. */
#if defined(__GNUC__) || defined(__clang__)
#define CDROP_PREFETCH(address) __builtin_prefetch(address)
#define CDROP_PREFETCH_L2(address) __builtin_prefetch(address, 0, 2)
#else
#define CDROP_PREFETCH(address) ((void)(address))
#define CDROP_PREFETCH_L2(address) ((void)(address))
#endif

CDROP_INLINE int cdrop_bit(const uint8_t *bits, uint64_t at) {
    return bits[at / 8] >> (at % 8) & 1;
}

CDROP_INLINE uint32_t cdrop_load32(const uint8_t *p) {
#if CDROP_BIG_ENDIAN
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
#else
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
#endif
}

/* 64 bits from a byte boundary. */
CDROP_INLINE uint64_t cdrop_load_bits64(const uint8_t *p) {
    return (uint64_t)cdrop_load32(p) | (uint64_t)cdrop_load32(p + 4) << 32;
}

/* 32 bits from anywhere; reads no byte that holds none of them. */
CDROP_INLINE uint32_t cdrop_load_bits32(const uint8_t *bits, uint64_t at) {
    const uint8_t *p = bits + at / 8;
    const unsigned shift = (unsigned)(at % 8);
    return (uint32_t)(((uint64_t)cdrop_load32(p) | (uint64_t)p[(shift + 31) / 8] << 32) >> shift);
}

/* The same of a mask that may be NULL, which keeps everything. */
CDROP_INLINE uint32_t cdrop_load_mask32(const uint8_t *bits, uint64_t at) {
    return bits ? cdrop_load_bits32(bits, at) : 0xFFFFFFFFu;
}

/* The last 32 bits of a mask of n, in which those of its whole words are 0: n > 32, n % 32 > 0. */
CDROP_INLINE uint32_t cdrop_load_end32(const uint8_t *bits, uint64_t at, uint64_t n) {
    return cdrop_load_mask32(bits, at + n - 32) & 0xFFFFFFFFu << (32 - n % 32);
}

/* n < 32 bits from anywhere, zeros behind them. */
CDROP_INLINE uint32_t cdrop_load_bits_below32(const uint8_t *bits, uint64_t at, unsigned n) {
    const uint8_t *p = bits + at / 8;
    const unsigned shift = (unsigned)(at % 8);
    uint64_t v = 0;
    for (unsigned b = 0; b * 8 < shift + n; ++b) v |= (uint64_t)p[b] << (8 * b);
    return (uint32_t)(v >> shift) & (((uint32_t)1 << n) - 1);
}

CDROP_INLINE unsigned cdrop_lowest_bit(uint64_t v) {
#if defined(_MSC_VER)
    unsigned long at;
    if (_BitScanForward(&at, (unsigned long)v)) return at;
    _BitScanForward(&at, (unsigned long)(v >> 32));
    return at + 32;
#else
    return (unsigned)__builtin_ctzll(v);
#endif
}

CDROP_INLINE float cdrop_float_of_bits(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}

CDROP_INLINE uint32_t cdrop_bits_of_float(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

CDROP_INLINE float cdrop_widen_bf16(uint16_t h) {
    return cdrop_float_of_bits((uint32_t)h << 16);
}

/* To nearest, ties to even; a NaN keeps its sign and the front of its payload, and is quiet. */
CDROP_INLINE uint16_t cdrop_narrow_bf16(float f) {
    const uint32_t u = cdrop_bits_of_float(f);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u) return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)((u + 0x7FFFu + (u >> 16 & 1u)) >> 16);
}

CDROP_INLINE float cdrop_widen_f16(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    const uint32_t rest = h & 0x7FFFu;
    if (rest >= 0x7C00u) /* infinite or NaN, which becomes quiet */
        return cdrop_float_of_bits(sign | 0x7F800000u | (rest & 0x3FFu) << 13 |
                                   (rest > 0x7C00u ? 0x400000u : 0u));
    if (rest >= 0x400u) return cdrop_float_of_bits(sign | ((rest << 13) + 0x38000000u));
    /* zero or denormal: rest * 2^-24, exact */
    return cdrop_float_of_bits(sign | cdrop_bits_of_float((float)rest * 5.9604644775390625e-8f));
}

/* To nearest, ties to even. */
CDROP_INLINE uint16_t cdrop_narrow_f16(float f) {
    const uint32_t u = cdrop_bits_of_float(f);
    const uint32_t sign = u >> 16 & 0x8000u;
    const uint32_t rest = u & 0x7FFFFFFFu;
    if (rest > 0x7F800000u) return (uint16_t)(sign | 0x7E00u | (rest >> 13 & 0x3FFu));
    if (rest >= 0x47800000u) return (uint16_t)(sign | 0x7C00u); /* 65536 and more */
    if (rest >= 0x38800000u) { /* normal: a carry out of the mantissa is right, up to infinity */
        const uint32_t t = rest - 0x38000000u;
        return (uint16_t)(sign | (t + 0xFFFu + (t >> 13 & 1u)) >> 13);
    }
    if (rest < 0x33000000u) return (uint16_t)sign; /* below half the least denormal */
    const unsigned exponent = rest >> 23;
    const uint32_t mantissa = (rest & 0x7FFFFFu) | 0x800000u;
    const unsigned shift = 126u - exponent; /* 14 ... 24 */
    const uint32_t whole = mantissa >> shift;
    const uint32_t part = mantissa & (((uint32_t)1 << shift) - 1), half = (uint32_t)1 << (shift - 1);
    return (uint16_t)(sign | (whole + (part > half || (part == half && (whole & 1u)))));
}

#endif
