/* What the AVX-512 bodies use and SIMDe 0.7.4 (Debian 12) does not have, from what it has.
 * Included ahead of isa/avx512.c by tests/c/run. */
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>

#if !defined(SIMDE_X86_AVX512F_NATIVE)
typedef simde__mmask8 __mmask8;
typedef simde__mmask16 __mmask16;

static inline simde__m512i gap_cvtepu16_epi32(simde__m256i a) {
    uint16_t in[16];
    uint32_t out[16];
    simde_mm256_storeu_si256((void *)in, a);
    for (int l = 0; l < 16; ++l) out[l] = in[l];
    return simde_mm512_loadu_si512((const void *)out);
}
static inline simde__m512i gap_cvtepu32_epi64(simde__m256i a) {
    uint32_t in[8];
    uint64_t out[8];
    simde_mm256_storeu_si256((void *)in, a);
    for (int l = 0; l < 8; ++l) out[l] = in[l];
    return simde_mm512_loadu_si512((const void *)out);
}
static inline simde__m256i gap_cvtepi32_epi16(simde__m512i a) {
    uint32_t in[16];
    uint16_t out[16];
    simde_mm512_storeu_si512((void *)in, a);
    for (int l = 0; l < 16; ++l) out[l] = (uint16_t)in[l];
    return simde_mm256_loadu_si256((const void *)out);
}
static inline simde__m512 gap_cvtph_ps(simde__m256i a) {
    float out[16];
    simde_mm256_storeu_ps(out, simde_mm256_cvtph_ps(simde_mm256_extracti128_si256(a, 0)));
    simde_mm256_storeu_ps(out + 8, simde_mm256_cvtph_ps(simde_mm256_extracti128_si256(a, 1)));
    return simde_mm512_loadu_ps((const void *)out);
}
static inline simde__m256i gap_cvtps_ph(simde__m512 a) {
    float in[16];
    simde__m128i half[2];
    simde_mm512_storeu_ps((void *)in, a);
    for (int h = 0; h < 2; ++h)
        half[h] = simde_mm256_cvtps_ph(simde_mm256_loadu_ps(in + 8 * h), 0);
    return simde_mm256_set_m128i(half[1], half[0]);
}

#undef _mm512_cvtepu16_epi32
#undef _mm512_cvtepu32_epi64
#undef _mm512_cvtepi32_epi16
#undef _mm512_cvtph_ps
#undef _mm512_cvtps_ph
#undef _mm512_stream_ps
#undef _mm512_stream_pd
#define _mm512_cvtepu16_epi32 gap_cvtepu16_epi32
#define _mm512_cvtepu32_epi64 gap_cvtepu32_epi64
#define _mm512_cvtepi32_epi16 gap_cvtepi32_epi16
#define _mm512_cvtph_ps gap_cvtph_ps
#define _mm512_cvtps_ph(a, rounding) gap_cvtps_ph(a)
#define _mm512_shuffle_f32x4 simde_mm512_shuffle_f32x4
#define _mm512_shuffle_f64x2 simde_mm512_shuffle_f64x2
/* With 0xA0, the one order that is used: words at odd places are those before them. */
#define _mm512_mask_shuffle_epi32(src, odd, a, order) \
    simde_mm512_mask_blend_epi32(odd, src, simde_mm512_slli_epi64(a, 32))
#define _mm512_stream_ps(p, a) simde_mm512_storeu_ps((void *)(p), a)
#define _mm512_stream_pd(p, a) simde_mm512_storeu_pd((void *)(p), a)
#endif
