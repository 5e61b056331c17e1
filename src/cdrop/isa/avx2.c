/* AVX2 with FMA and F16C. */

#include "wrapper.h"

#if defined(__x86_64__) || defined(_M_X64)

#include <immintrin.h>

#define ISA avx2
#define ISA_NAME "avx2"

TARGET_BEGIN("avx2,fma,f16c")

/* ---- masks ---- */

#define VQ_LANES 4
typedef __m256i vq;

static inline vq vq_set1(uint32_t a) {
    return _mm256_set1_epi64x((long long)a);
}
static inline vq vq_set64(uint64_t a) {
    return _mm256_set1_epi64x((long long)a);
}
static inline vq vq_lanes(uint32_t step) { /* groups 0, 2, 1, 3: unpacking puts them in order */
    return _mm256_setr_epi64x(0, 2 * (long long)step, step, 3 * (long long)step);
}
static inline vq vq_gather(const uint32_t *a) {
    return _mm256_cvtepu32_epi64(
        _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)a), _MM_SHUFFLE(3, 1, 2, 0)));
}
static inline vq vq_load(const uint64_t *a) {
    return _mm256_loadu_si256((const __m256i *)a);
}
static inline void vq_store(uint64_t *to, vq a) {
    _mm256_storeu_si256((__m256i *)to, a);
}
static inline vq vq_add(vq a, vq b) {
    return _mm256_add_epi64(a, b);
}
static inline vq vq_sub(vq a, vq b) {
    return _mm256_sub_epi64(a, b);
}
static inline vq vq_mul_low(vq a, vq b) {
    return _mm256_mul_epu32(a, b);
}
#define vq_right _mm256_srli_epi64
static inline vq vq_xor(vq a, vq b) {
    return _mm256_xor_si256(a, b);
}
static inline vq vq_xor3(vq late, vq a, vq b) {
    return _mm256_xor_si256(late, _mm256_xor_si256(a, b));
}
static inline vq vq_and(vq a, vq b) {
    return _mm256_and_si256(a, b);
}
static inline vq vq_or(vq a, vq b) {
    return _mm256_or_si256(a, b);
}
static inline vq vq_and_not(vq a, vq b) {
    return _mm256_andnot_si256(a, b);
}
static inline void vq_store4(void *to, const vq *w) {
    const __m256i w01 = _mm256_blend_epi32(w[0], _mm256_slli_epi64(w[1], 32), 0xAA);
    const __m256i w23 = _mm256_blend_epi32(w[2], _mm256_slli_epi64(w[3], 32), 0xAA);
    _mm256_storeu_si256((__m256i *)to, _mm256_unpacklo_epi64(w01, w23));
    _mm256_storeu_si256((__m256i *)to + 1, _mm256_unpackhi_epi64(w01, w23));
}
static inline unsigned vq_any4(const vq *w) {
    const __m256i any = _mm256_or_si256(_mm256_or_si256(w[0], w[1]), _mm256_or_si256(w[2], w[3]));
    const __m256i none = _mm256_cmpeq_epi64(_mm256_slli_epi64(any, 32), _mm256_setzero_si256());
    return ~(unsigned)_mm256_movemask_pd(
               _mm256_castsi256_pd(_mm256_permute4x64_epi64(none, 0xD8))) & 15u;
}

/* ---- applying them, and products ---- */

typedef __m256i sel_t; /* the same 32 bits in every 32-bit lane */
static inline sel_t sel_set(uint32_t bits) {
    return _mm256_set1_epi32((int)bits);
}
static inline void stream_fence(void) {
    _mm_sfence();
}
static inline __m256i sel_lanes32(sel_t sel, int j) {
    const __m256i m =
        _mm256_sllv_epi32(_mm256_set1_epi32(1 << (8 * j)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    return _mm256_cmpeq_epi32(_mm256_and_si256(sel, m), m);
}
static inline __m256i sel_lanes64(sel_t sel, int j) {
    const __m256i m = _mm256_sllv_epi64(_mm256_set1_epi64x(1ll << (4 * j)),
                                        _mm256_setr_epi64x(0, 1, 2, 3));
    return _mm256_cmpeq_epi64(_mm256_and_si256(sel, m), m);
}

#define PICKS 1
static inline __m256i pick_order(const int32_t *order) {
    return _mm256_loadu_si256((const __m256i *)order);
}

#define v_f32_LANES 8
#define v_f32_ROWS 6
#define v_f32_COLUMNS 2
typedef __m256 v_f32_vec;
#define v_f32_set1 _mm256_set1_ps
#define v_f32_zero _mm256_setzero_ps
#define v_f32_load _mm256_loadu_ps
#define v_f32_store _mm256_storeu_ps
#define v_f32_stream _mm256_stream_ps
#define v_f32_add _mm256_add_ps
#define v_f32_mul _mm256_mul_ps
#define v_f32_fma _mm256_fmadd_ps
static inline v_f32_vec v_f32_keep_mul(sel_t sel, int j, v_f32_vec a, v_f32_vec b) {
    return _mm256_and_ps(_mm256_mul_ps(a, b), _mm256_castsi256_ps(sel_lanes32(sel, j)));
}
static inline float v_f32_mul1(float a, float b) {
    return a * b;
}
static inline v_f32_vec v_f32_relu(v_f32_vec a) {
    return _mm256_and_ps(a, _mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_NLE_UQ));
}
static inline v_f32_vec v_f32_if_positive(v_f32_vec y, v_f32_vec a) {
    return _mm256_and_ps(a, _mm256_cmp_ps(y, _mm256_setzero_ps(), _CMP_GT_OQ));
}
static inline v_f32_vec v_f32_pick(v_f32_vec a, const int32_t *order) {
    return _mm256_permutevar8x32_ps(a, pick_order(order));
}
static inline void v_f32_transpose(v_f32_vec *v) {
    __m256 pairs[8], fours[8];
    UNROLL
    for (int i = 0; i < 8; i += 2) {
        pairs[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
    }
    UNROLL
    for (int i = 0; i < 8; i += 4) {
        fours[i] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
        fours[i + 1] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0xEE);
        fours[i + 2] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
        fours[i + 3] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xEE);
    }
    UNROLL
    for (int i = 0; i < 4; ++i) {
        v[i] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20);
        v[i + 4] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31);
    }
}

#define v_f64_LANES 4
#define v_f64_ROWS 6
#define v_f64_COLUMNS 2
typedef __m256d v_f64_vec;
#define v_f64_set1 _mm256_set1_pd
#define v_f64_zero _mm256_setzero_pd
#define v_f64_load _mm256_loadu_pd
#define v_f64_store _mm256_storeu_pd
#define v_f64_stream _mm256_stream_pd
#define v_f64_add _mm256_add_pd
#define v_f64_mul _mm256_mul_pd
#define v_f64_fma _mm256_fmadd_pd
static inline v_f64_vec v_f64_keep_mul(sel_t sel, int j, v_f64_vec a, v_f64_vec b) {
    return _mm256_and_pd(_mm256_mul_pd(a, b), _mm256_castsi256_pd(sel_lanes64(sel, j)));
}
static inline double v_f64_mul1(double a, double b) {
    return a * b;
}
static inline v_f64_vec v_f64_relu(v_f64_vec a) {
    return _mm256_and_pd(a, _mm256_cmp_pd(a, _mm256_setzero_pd(), _CMP_NLE_UQ));
}
static inline v_f64_vec v_f64_if_positive(v_f64_vec y, v_f64_vec a) {
    return _mm256_and_pd(a, _mm256_cmp_pd(y, _mm256_setzero_pd(), _CMP_GT_OQ));
}
static inline v_f64_vec v_f64_pick(v_f64_vec a, const int32_t *order) {
    return _mm256_castps_pd(_mm256_permutevar8x32_ps(_mm256_castpd_ps(a), pick_order(order)));
}
static inline void v_f64_transpose(v_f64_vec *v) {
    const __m256d low01 = _mm256_unpacklo_pd(v[0], v[1]), high01 = _mm256_unpackhi_pd(v[0], v[1]);
    const __m256d low23 = _mm256_unpacklo_pd(v[2], v[3]), high23 = _mm256_unpackhi_pd(v[2], v[3]);
    v[0] = _mm256_permute2f128_pd(low01, low23, 0x20);
    v[1] = _mm256_permute2f128_pd(high01, high23, 0x20);
    v[2] = _mm256_permute2f128_pd(low01, low23, 0x31);
    v[3] = _mm256_permute2f128_pd(high01, high23, 0x31);
}

#define v_f16_LANES 8
#define v_f16_set1 _mm256_set1_ps
#define v_f16_keep_mul v_f32_keep_mul
typedef __m256 v_f16_vec;
static inline __m256 v_f16_load(const uint16_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
static inline void v_f16_store(uint16_t *p, __m256 a) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
static inline void v_f16_stream(uint16_t *p, __m256 a) {
    _mm_stream_si128((__m128i *)p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
static inline uint16_t v_f16_mul1(uint16_t a, float scale) {
    return cdrop_narrow_f16(cdrop_widen_f16(a) * scale);
}

#define v_bf16_LANES 8
#define v_bf16_set1 _mm256_set1_ps
#define v_bf16_keep_mul v_f32_keep_mul
typedef __m256 v_bf16_vec;
static inline __m256 v_bf16_load(const uint16_t *p) {
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}
static inline __m128i narrow_bf16(__m256 a) {
    const __m256i u = _mm256_castps_si256(a), front = _mm256_srli_epi32(u, 16);
    const __m256i odd = _mm256_and_si256(front, _mm256_set1_epi32(1));
    const __m256i nearest = _mm256_srli_epi32(
        _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF))), 16);
    const __m256i quiet = _mm256_or_si256(front, _mm256_set1_epi32(0x40));
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    const __m256i wide = _mm256_blendv_epi8(nearest, quiet, is_nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
}
static inline void v_bf16_store(uint16_t *p, __m256 a) {
    _mm_storeu_si128((__m128i *)p, narrow_bf16(a));
}
static inline void v_bf16_stream(uint16_t *p, __m256 a) {
    _mm_stream_si128((__m128i *)p, narrow_bf16(a));
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
