/* AVX-512 F, BW, DQ and VL. CDROP_SIMDE runs it on any machine, slowly, to check it. */

#include "wrapper.h"

#if defined(__x86_64__) || defined(_M_X64) || defined(CDROP_SIMDE)

#if defined(CDROP_SIMDE)
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#undef TARGET_BEGIN
#undef TARGET_END
#define TARGET_BEGIN(features)
#define TARGET_END
#else
#include <immintrin.h>
#endif

#define ISA avx512
#define ISA_NAME "avx512"

TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")

/* ---- masks ---- */

#define VQ_LANES 8
typedef __m512i vq;

static inline vq vq_set1(uint32_t a) {
    return _mm512_set1_epi64((long long)a);
}
static inline vq vq_set64(uint64_t a) {
    return _mm512_set1_epi64((long long)a);
}
static inline vq vq_lanes(uint32_t step) { /* groups 0, 4, 1, 5, ...: unpacking puts them in order */
    return _mm512_mul_epu32(_mm512_set_epi64(7, 3, 6, 2, 5, 1, 4, 0), vq_set1(step));
}
static inline vq vq_gather(const uint32_t *a) {
    return _mm512_cvtepu32_epi64(_mm256_permutevar8x32_epi32(
        _mm256_loadu_si256((const __m256i *)a), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
}
static inline vq vq_load(const uint64_t *a) {
    return _mm512_loadu_si512(a);
}
static inline void vq_store(uint64_t *to, vq a) {
    _mm512_storeu_si512(to, a);
}
static inline vq vq_add(vq a, vq b) {
    return _mm512_add_epi64(a, b);
}
static inline vq vq_sub(vq a, vq b) {
    return _mm512_sub_epi64(a, b);
}
static inline vq vq_mul_low(vq a, vq b) {
    return _mm512_mul_epu32(a, b);
}
#define vq_right _mm512_srli_epi64
static inline vq vq_xor(vq a, vq b) {
    return _mm512_xor_si512(a, b);
}
static inline vq vq_xor3(vq late, vq a, vq b) {
    return _mm512_ternarylogic_epi64(late, a, b, 0x96);
}
static inline vq vq_and(vq a, vq b) {
    return _mm512_and_si512(a, b);
}
static inline vq vq_or(vq a, vq b) {
    return _mm512_or_si512(a, b);
}
static inline vq vq_and_not(vq a, vq b) {
    return _mm512_andnot_si512(a, b);
}
static inline void vq_store4(void *to, const vq *w) {
    const __m512i w01 = _mm512_mask_shuffle_epi32(w[0], 0xAAAA, w[1], 0xA0);
    const __m512i w23 = _mm512_mask_shuffle_epi32(w[2], 0xAAAA, w[3], 0xA0);
    _mm512_storeu_si512(to, _mm512_unpacklo_epi64(w01, w23));
    _mm512_storeu_si512((char *)to + 64, _mm512_unpackhi_epi64(w01, w23));
}
static inline unsigned vq_any4(const vq *w) {
    const __m512i any = _mm512_or_si512(_mm512_or_si512(w[0], w[1]), _mm512_or_si512(w[2], w[3]));
    const __m512i order = _mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0);
    return _mm512_test_epi64_mask(_mm512_permutexvar_epi64(order, any),
                                  _mm512_set1_epi64(0xFFFFFFFF));
}

/* ---- applying them, and products ---- */

typedef uint32_t sel_t;
static inline sel_t sel_set(uint32_t bits) {
    return bits;
}
static inline void stream_fence(void) {
    _mm_sfence();
}

/* Keeps a load and the masked instruction that uses it apart. A masked instruction with an operand
 * in memory must not fault on dropped lanes: where the line is not in cache, it takes twice as long
 * (Zen 5). */
#if (defined(__GNUC__) || defined(__clang__)) && !defined(CDROP_SIMDE)
#define WHOLE(a) __asm__("" : "+v"(a))
#else
#define WHOLE(a) ((void)0)
#endif

#define PICKS 1
static inline __m512i pick_order(const int32_t *order) {
    return _mm512_loadu_si512((const void *)order);
}

#define v_f32_LANES 16
#define v_f32_ROWS 12
#define v_f32_COLUMNS 2
typedef __m512 v_f32_vec;
#define v_f32_set1 _mm512_set1_ps
#define v_f32_zero _mm512_setzero_ps
#define v_f32_load(p) _mm512_loadu_ps((const void *)(p))
#define v_f32_store(p, a) _mm512_storeu_ps((void *)(p), a)
#define v_f32_stream(p, a) _mm512_stream_ps(p, a)
#define v_f32_add _mm512_add_ps
#define v_f32_mul _mm512_mul_ps
#define v_f32_fma _mm512_fmadd_ps
static inline v_f32_vec v_f32_keep_mul(sel_t sel, int j, v_f32_vec a, v_f32_vec b) {
    WHOLE(a);
    return _mm512_maskz_mul_ps((__mmask16)(sel >> (16 * j)), a, b);
}
static inline float v_f32_mul1(float a, float b) {
    return a * b;
}
static inline v_f32_vec v_f32_relu(v_f32_vec a) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_NLE_UQ), a);
}
static inline v_f32_vec v_f32_if_positive(v_f32_vec y, v_f32_vec a) {
    WHOLE(a);
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(y, _mm512_setzero_ps(), _CMP_GT_OQ), a);
}
static inline v_f32_vec v_f32_pick(v_f32_vec a, const int32_t *order) {
    return _mm512_permutexvar_ps(pick_order(order), a);
}
static inline void v_f32_transpose(v_f32_vec *v) {
    __m512 pairs[16], fours[16];
    UNROLL
    for (int i = 0; i < 16; i += 2) {
        pairs[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
    }
    UNROLL
    for (int i = 0; i < 16; i += 4) { /* part k of fours[i + j]: rows i ... i + 3, column 4k + j */
        fours[i] = _mm512_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
        fours[i + 1] = _mm512_shuffle_ps(pairs[i], pairs[i + 2], 0xEE);
        fours[i + 2] = _mm512_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
        fours[i + 3] = _mm512_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xEE);
    }
    UNROLL
    for (int j = 0; j < 4; ++j) {
        const __m512 even0 = _mm512_shuffle_f32x4(fours[j], fours[j + 4], 0x88);
        const __m512 odd0 = _mm512_shuffle_f32x4(fours[j], fours[j + 4], 0xDD);
        const __m512 even1 = _mm512_shuffle_f32x4(fours[j + 8], fours[j + 12], 0x88);
        const __m512 odd1 = _mm512_shuffle_f32x4(fours[j + 8], fours[j + 12], 0xDD);
        v[j] = _mm512_shuffle_f32x4(even0, even1, 0x88);
        v[j + 4] = _mm512_shuffle_f32x4(odd0, odd1, 0x88);
        v[j + 8] = _mm512_shuffle_f32x4(even0, even1, 0xDD);
        v[j + 12] = _mm512_shuffle_f32x4(odd0, odd1, 0xDD);
    }
}

#define v_f64_LANES 8
#define v_f64_ROWS 12
#define v_f64_COLUMNS 2
typedef __m512d v_f64_vec;
#define v_f64_set1 _mm512_set1_pd
#define v_f64_zero _mm512_setzero_pd
#define v_f64_load(p) _mm512_loadu_pd((const void *)(p))
#define v_f64_store(p, a) _mm512_storeu_pd((void *)(p), a)
#define v_f64_stream(p, a) _mm512_stream_pd(p, a)
#define v_f64_add _mm512_add_pd
#define v_f64_mul _mm512_mul_pd
#define v_f64_fma _mm512_fmadd_pd
static inline v_f64_vec v_f64_keep_mul(sel_t sel, int j, v_f64_vec a, v_f64_vec b) {
    WHOLE(a);
    return _mm512_maskz_mul_pd((__mmask8)(sel >> (8 * j)), a, b);
}
static inline double v_f64_mul1(double a, double b) {
    return a * b;
}
static inline v_f64_vec v_f64_relu(v_f64_vec a) {
    return _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(a, _mm512_setzero_pd(), _CMP_NLE_UQ), a);
}
static inline v_f64_vec v_f64_if_positive(v_f64_vec y, v_f64_vec a) {
    WHOLE(a);
    return _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(y, _mm512_setzero_pd(), _CMP_GT_OQ), a);
}
static inline v_f64_vec v_f64_pick(v_f64_vec a, const int32_t *order) {
    return _mm512_castps_pd(_mm512_permutexvar_ps(pick_order(order), _mm512_castpd_ps(a)));
}
static inline void v_f64_transpose(v_f64_vec *v) {
    __m512d pairs[8];
    UNROLL
    for (int i = 0; i < 8; i += 2) { /* part k of pairs[i + j]: rows i, i + 1, column 2k + j */
        pairs[i] = _mm512_unpacklo_pd(v[i], v[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_pd(v[i], v[i + 1]);
    }
    UNROLL
    for (int j = 0; j < 2; ++j) {
        const __m512d even0 = _mm512_shuffle_f64x2(pairs[j], pairs[j + 2], 0x88);
        const __m512d odd0 = _mm512_shuffle_f64x2(pairs[j], pairs[j + 2], 0xDD);
        const __m512d even1 = _mm512_shuffle_f64x2(pairs[j + 4], pairs[j + 6], 0x88);
        const __m512d odd1 = _mm512_shuffle_f64x2(pairs[j + 4], pairs[j + 6], 0xDD);
        v[j] = _mm512_shuffle_f64x2(even0, even1, 0x88);
        v[j + 2] = _mm512_shuffle_f64x2(odd0, odd1, 0x88);
        v[j + 4] = _mm512_shuffle_f64x2(even0, even1, 0xDD);
        v[j + 6] = _mm512_shuffle_f64x2(odd0, odd1, 0xDD);
    }
}

#define v_f16_LANES 16
#define v_f16_set1 _mm512_set1_ps
#define v_f16_keep_mul v_f32_keep_mul
typedef __m512 v_f16_vec;
static inline __m512 v_f16_load(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
#define narrow_f16(a) _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
static inline void v_f16_store(uint16_t *p, __m512 a) {
    _mm256_storeu_si256((__m256i *)p, narrow_f16(a));
}
static inline void v_f16_stream(uint16_t *p, __m512 a) {
    _mm256_stream_si256((__m256i *)p, narrow_f16(a));
}
static inline uint16_t v_f16_mul1(uint16_t a, float scale) {
    return cdrop_narrow_f16(cdrop_widen_f16(a) * scale);
}

#define v_bf16_LANES 16
#define v_bf16_set1 _mm512_set1_ps
#define v_bf16_keep_mul v_f32_keep_mul
typedef __m512 v_bf16_vec;
static inline __m512 v_bf16_load(const uint16_t *p) {
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
static inline __m256i narrow_bf16(__m512 a) {
    const __m512i u = _mm512_castps_si512(a), front = _mm512_srli_epi32(u, 16);
    const __m512i odd = _mm512_and_si512(front, _mm512_set1_epi32(1));
    const __m512i nearest = _mm512_srli_epi32(
        _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF))), 16);
    const __mmask16 is_nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(
        _mm512_mask_or_epi32(nearest, is_nan, front, _mm512_set1_epi32(0x40)));
}
static inline void v_bf16_store(uint16_t *p, __m512 a) {
    _mm256_storeu_si256((__m256i *)p, narrow_bf16(a));
}
static inline void v_bf16_stream(uint16_t *p, __m512 a) {
    _mm256_stream_si256((__m256i *)p, narrow_bf16(a));
}
static inline uint16_t v_bf16_mul1(uint16_t a, float scale) {
    return cdrop_narrow_bf16(cdrop_widen_bf16(a) * scale);
}

/* a * b + c, fused as in V(fma). */
#define FUSED_F32 fmaf
#define FUSED_F64 fma

#include "generic/kernels.inc.h"

TARGET_END

#endif
