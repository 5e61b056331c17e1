/* NEON of AArch64, little-endian (big-endian ARM takes the scalar kernels). */

#include "wrapper.h"

#if defined(__aarch64__) && !CDROP_BIG_ENDIAN

#include <arm_neon.h>

#define ISA neon
#define ISA_NAME "neon"

/* ---- masks ---- */

#define VQ_LANES 2
typedef uint64x2_t vq;

static inline vq vq_set1(uint32_t a) {
    return vdupq_n_u64(a);
}
static inline vq vq_set64(uint64_t a) {
    return vdupq_n_u64(a);
}
static inline vq vq_lanes(uint32_t step) {
    return vcombine_u64(vcreate_u64(0), vcreate_u64(step));
}
static inline vq vq_gather(const uint32_t *a) {
    return vmovl_u32(vld1_u32(a));
}
static inline vq vq_load(const uint64_t *a) {
    return vld1q_u64(a);
}
static inline void vq_store(uint64_t *to, vq a) {
    vst1q_u64(to, a);
}
static inline vq vq_add(vq a, vq b) {
    return vaddq_u64(a, b);
}
static inline vq vq_sub(vq a, vq b) {
    return vsubq_u64(a, b);
}
static inline vq vq_mul_low(vq a, vq b) {
    return vmull_u32(vmovn_u64(a), vmovn_u64(b));
}
#define vq_right vshrq_n_u64
static inline vq vq_xor(vq a, vq b) {
    return veorq_u64(a, b);
}
static inline vq vq_xor3(vq late, vq a, vq b) {
    return veorq_u64(late, veorq_u64(a, b));
}
static inline vq vq_and(vq a, vq b) {
    return vandq_u64(a, b);
}
static inline vq vq_or(vq a, vq b) {
    return vorrq_u64(a, b);
}
static inline vq vq_and_not(vq a, vq b) {
    return vbicq_u64(b, a);
}
static inline void vq_store4(void *to, const vq *w) {
    const uint64x2_t w01 = vsliq_n_u64(w[0], w[1], 32), w23 = vsliq_n_u64(w[2], w[3], 32);
    vst1q_u8((uint8_t *)to, vreinterpretq_u8_u64(vzip1q_u64(w01, w23)));
    vst1q_u8((uint8_t *)to + 16, vreinterpretq_u8_u64(vzip2q_u64(w01, w23)));
}
static inline unsigned vq_any4(const vq *w) {
    const uint64x2_t any = vorrq_u64(vorrq_u64(w[0], w[1]), vorrq_u64(w[2], w[3]));
    return (unsigned)((uint32_t)vgetq_lane_u64(any, 0) != 0) |
           (unsigned)((uint32_t)vgetq_lane_u64(any, 1) != 0) << 1;
}

/* ---- applying them, and products ---- */

typedef uint32_t sel_t;
static inline sel_t sel_set(uint32_t bits) {
    return bits;
}
static inline void stream_fence(void) {
}

#define PICKS 0 /* four lanes: not worth the plan */

#define v_f32_LANES 4
#define v_f32_ROWS 6
#define v_f32_COLUMNS 4
typedef float32x4_t v_f32_vec;
#define v_f32_set1 vdupq_n_f32
#define v_f32_zero() vdupq_n_f32(0.0f)
#define v_f32_load vld1q_f32
#define v_f32_store vst1q_f32
#define v_f32_stream vst1q_f32
#define v_f32_add vaddq_f32
#define v_f32_mul vmulq_f32
#define v_f32_fma(a, b, c) vfmaq_f32(c, a, b)
static inline v_f32_vec v_f32_keep_mul(sel_t sel, int j, v_f32_vec a, v_f32_vec b) {
    const uint32x4_t place = vcombine_u32(vcreate_u32(0x0000000200000001ull),
                                          vcreate_u32(0x0000000800000004ull));
    const uint32x4_t kept = vtstq_u32(vdupq_n_u32(sel >> (4 * j)), place);
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(vmulq_f32(a, b)), kept));
}
static inline float v_f32_mul1(float a, float b) {
    return a * b;
}
static inline v_f32_vec v_f32_relu(v_f32_vec a) {
    return vreinterpretq_f32_u32(
        vbicq_u32(vreinterpretq_u32_f32(a), vcleq_f32(a, vdupq_n_f32(0.0f))));
}
static inline v_f32_vec v_f32_if_positive(v_f32_vec y, v_f32_vec a) {
    return vreinterpretq_f32_u32(
        vandq_u32(vreinterpretq_u32_f32(a), vcgtq_f32(y, vdupq_n_f32(0.0f))));
}
static inline void v_f32_transpose(v_f32_vec *v) {
    const float64x2_t even01 = vreinterpretq_f64_f32(vtrn1q_f32(v[0], v[1]));
    const float64x2_t odd01 = vreinterpretq_f64_f32(vtrn2q_f32(v[0], v[1]));
    const float64x2_t even23 = vreinterpretq_f64_f32(vtrn1q_f32(v[2], v[3]));
    const float64x2_t odd23 = vreinterpretq_f64_f32(vtrn2q_f32(v[2], v[3]));
    v[0] = vreinterpretq_f32_f64(vtrn1q_f64(even01, even23));
    v[1] = vreinterpretq_f32_f64(vtrn1q_f64(odd01, odd23));
    v[2] = vreinterpretq_f32_f64(vtrn2q_f64(even01, even23));
    v[3] = vreinterpretq_f32_f64(vtrn2q_f64(odd01, odd23));
}

#define v_f64_LANES 2
#define v_f64_ROWS 6
#define v_f64_COLUMNS 4
typedef float64x2_t v_f64_vec;
#define v_f64_set1 vdupq_n_f64
#define v_f64_zero() vdupq_n_f64(0.0)
#define v_f64_load vld1q_f64
#define v_f64_store vst1q_f64
#define v_f64_stream vst1q_f64
#define v_f64_add vaddq_f64
#define v_f64_mul vmulq_f64
#define v_f64_fma(a, b, c) vfmaq_f64(c, a, b)
static inline v_f64_vec v_f64_keep_mul(sel_t sel, int j, v_f64_vec a, v_f64_vec b) {
    const uint64x2_t place = vcombine_u64(vcreate_u64(1), vcreate_u64(2));
    const uint64x2_t kept = vtstq_u64(vdupq_n_u64(sel >> (2 * j)), place);
    return vreinterpretq_f64_u64(vandq_u64(vreinterpretq_u64_f64(vmulq_f64(a, b)), kept));
}
static inline double v_f64_mul1(double a, double b) {
    return a * b;
}
static inline v_f64_vec v_f64_relu(v_f64_vec a) {
    return vreinterpretq_f64_u64(
        vbicq_u64(vreinterpretq_u64_f64(a), vcleq_f64(a, vdupq_n_f64(0.0))));
}
static inline v_f64_vec v_f64_if_positive(v_f64_vec y, v_f64_vec a) {
    return vreinterpretq_f64_u64(
        vandq_u64(vreinterpretq_u64_f64(a), vcgtq_f64(y, vdupq_n_f64(0.0))));
}
static inline void v_f64_transpose(v_f64_vec *v) {
    const float64x2_t first = v[0];
    v[0] = vtrn1q_f64(first, v[1]);
    v[1] = vtrn2q_f64(first, v[1]);
}

#define v_f16_LANES 4
#define v_f16_set1 vdupq_n_f32
#define v_f16_keep_mul v_f32_keep_mul
typedef float32x4_t v_f16_vec;
static inline float32x4_t v_f16_load(const uint16_t *p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
static inline void v_f16_store(uint16_t *p, float32x4_t a) {
    vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(a)));
}
#define v_f16_stream v_f16_store
static inline uint16_t v_f16_mul1(uint16_t a, float scale) {
    return cdrop_narrow_f16(cdrop_widen_f16(a) * scale);
}

#define v_bf16_LANES 4
#define v_bf16_set1 vdupq_n_f32
#define v_bf16_keep_mul v_f32_keep_mul
typedef float32x4_t v_bf16_vec;
static inline float32x4_t v_bf16_load(const uint16_t *p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}
static inline void v_bf16_store(uint16_t *p, float32x4_t a) {
    const uint32x4_t u = vreinterpretq_u32_f32(a), front = vshrq_n_u32(u, 16);
    const uint32x4_t odd = vandq_u32(front, vdupq_n_u32(1));
    const uint32x4_t nearest =
        vshrq_n_u32(vaddq_u32(u, vaddq_u32(odd, vdupq_n_u32(0x7FFF))), 16);
    const uint32x4_t quiet = vorrq_u32(front, vdupq_n_u32(0x40));
    vst1_u16(p, vmovn_u32(vbslq_u32(vceqq_f32(a, a), nearest, quiet)));
}
#define v_bf16_stream v_bf16_store
static inline uint16_t v_bf16_mul1(uint16_t a, float scale) {
    return cdrop_narrow_bf16(cdrop_widen_bf16(a) * scale);
}

/* a * b + c, fused as in V(fma). */
#define FUSED_F32 fmaf
#define FUSED_F64 fma

#include "generic/kernels.inc.h"

#endif
