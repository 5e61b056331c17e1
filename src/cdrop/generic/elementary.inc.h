/* Elementary functions of one number: exp_of, expm1_of, sigmoid_of, tanh_of, log1p_exp_of and
 * normal_of, with the dtype as suffix. Bodies write F(exp_of)(x).
 *
 * float: without branches and without calls, so that the compiler vectorises a loop over them, and
 * with every operation rounded on its own: the same bits from every instruction set. The constants
 * are minimax fits of the relative error (a linear program over Chebyshev points, the first terms
 * fixed at their exact values, the coefficients rounded to float one by one and the rest fitted
 * again). NaN stays NaN: bounds are written `bound < x ? bound : x`, which is x where x is NaN.
 * Largest errors, in units in the last place of the result, denormals included: exp 1, expm1 1.7,
 * sigmoid 2.2, tanh 2.5, log1p_exp 2.6, normal 6 and its density 2.
 *
 * double: what the C library computes, the same for every instruction set.
 *
 * GCC vectorises the selections only under -fno-trapping-math (exception flags are not used).
 */

#define LOG2_E 1.44269504f
#define LOG_2_HIGH 0.693359375f /* 355 / 512: its products with integers up to 2^14 are exact */
#define LOG_2_LOW -2.12194440e-4f
#define ROUNDER 12582912.0f /* 1.5 * 2^23: adding it rounds to an integer, in the low bits */

static inline uint32_t bits_of_f32(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float of_bits_f32(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* |x| with the sign of `sign`. */
static inline float signed_as_f32(float x, float sign) {
    return of_bits_f32((bits_of_f32(x) & 0x7FFFFFFFu) | (bits_of_f32(sign) & 0x80000000u));
}

/* e^(x + more) = (1 + result) 2^n for x in [-126, 126] and |more| < 2^-12 |x|; the low bits of
 * *n_bits are those of n. */
static inline float reduced_exp_f32(float x, float more, uint32_t *n_bits) {
    const float rounded = x * LOG2_E + ROUNDER, n = rounded - ROUNDER;
    const float r = (x - n * LOG_2_HIGH) - (n * LOG_2_LOW - more);
    float q = 1.38699485e-3f;
    q = q * r + 8.36625323e-3f;
    q = q * r + 4.16674428e-2f;
    q = q * r + 0.166665465f;
    q = q * r + 0.49999997f;
    *n_bits = bits_of_f32(rounded);
    return r * r * q + r;
}

/* e^(x + more). */
static inline float exp_sum_of_f32(float x, float more) {
    uint32_t n_bits;
    const float below = 89.0f < x ? 89.0f : x, inside = -105.0f > below ? -105.0f : below;
    const float p = reduced_exp_f32(inside, more, &n_bits) + 1.0f;
    /* 2^n in two factors, both normal: the second product is the one that leaves the range. */
    const uint32_t n_256 = n_bits + (256u - 0x4B400000u), half = n_256 >> 1;
    return p * of_bits_f32((half - 1u) << 23) * of_bits_f32((n_256 - half - 1u) << 23);
}

static inline float exp_of_f32(float x) {
    return exp_sum_of_f32(x, 0.0f);
}

/* e^x - 1, for x <= 88. */
static inline float expm1_of_f32(float x) {
    uint32_t n_bits;
    const float p = reduced_exp_f32(-20.0f > x ? -20.0f : x, 0.0f, &n_bits);
    const float scale = of_bits_f32((n_bits + (127u - 0x4B400000u)) << 23);
    return scale * p + (scale - 1.0f);
}

/* 1 / (1 + e^-x). */
static inline float sigmoid_of_f32(float x) {
    const float z = exp_of_f32(-fabsf(x));
    return (x < 0.0f ? z : 1.0f) / (1.0f + z);
}

static inline float tanh_of_f32(float x) {
    const float e = expm1_of_f32(-2.0f * fabsf(x));
    return signed_as_f32(e / (2.0f + e), x);
}

/* log(1 + e^x): with z = e^-|x| and s = z / (2 + z), log(1 + z) = 2 artanh(s). */
static inline float log1p_exp_of_f32(float x) {
    const float z = exp_of_f32(-fabsf(x)), s = z / (2.0f + z), u = s * s;
    float q = 0.280067801f;
    q = q * u + 0.280030251f;
    q = q * u + 0.400214374f;
    q = q * u + 0.666664183f;
    return (s * u * q + 2.0f * s) + (0.0f > x ? 0.0f : x);
}

/* The normal distribution: its cumulative distribution function, and its density in *density.
 * With t = |x| the tail is e^(-t^2 / 2) times a rational function; t^2 is exact in two parts,
 * for e^ makes an error of it larger by as much as t^2 / 2. */
static inline float normal_of_f32(float x, float *density) {
    const float t = 14.6f < fabsf(x) ? 14.6f : fabsf(x);
    const float high = of_bits_f32(bits_of_f32(t) & 0xFFFFF000u);
    const float z = exp_sum_of_f32(-0.5f * high * high, -0.5f * ((t - high) * (t + high)));
    float p = 4.09150217e-3f, q = 1.02557568e-2f;
    p = p * t + 4.04860638e-2f;
    p = p * t + 0.182829082f;
    p = p * t + 0.437795997f;
    p = p * t + 0.5f;
    q = q * t + 0.101489954f;
    q = q * t + 0.468389988f;
    q = q * t + 1.20089567f;
    q = q * t + 1.67347682f;
    q = q * t + 1.0f;
    const float tail = z * (p / q);
    *density = 0.398942280f * z;
    return x > 0.0f ? 1.0f - tail : tail;
}

/* 2^x for x that is not above 0 by more than rounding; 0 where that is no normal number. Sums and
 * products of it are fused where products of matrices are: only this one may differ in its last bits
 * between instruction sets. */
static inline float exp2_of_f32(float x) {
    const float inside = -126.0f > x ? -126.0f : x;
    const float rounded = inside + ROUNDER, r = inside - (rounded - ROUNDER);
    float q = 1.3228907e-3f;
    q = FUSED_F32(q, r, 9.6717002e-3f);
    q = FUSED_F32(q, r, 5.5508569e-2f);
    q = FUSED_F32(q, r, 0.24022238f);
    q = FUSED_F32(q, r, 0.69314688f);
    q = FUSED_F32(q, r, 1.0f);
    const float y = q * of_bits_f32((bits_of_f32(rounded) + (127u - 0x4B400000u)) << 23);
    return x < -126.0f ? 0.0f : y;
}

#undef LOG2_E
#undef LOG_2_HIGH
#undef LOG_2_LOW
#undef ROUNDER

#define ROUNDER 6755399441055744.0 /* 1.5 * 2^52 */

static inline double exp2_of_f64(double x) {
    const double inside = -1022.0 > x ? -1022.0 : x;
    const double rounded = inside + ROUNDER, r = inside - (rounded - ROUNDER);
    double q = 2.5729324177362305e-11, y;
    uint64_t bits;
    q = FUSED_F64(q, r, 4.4558179083360645e-10);
    q = FUSED_F64(q, r, 7.0548973041554995e-9);
    q = FUSED_F64(q, r, 1.0178057087733941e-7);
    q = FUSED_F64(q, r, 1.3215486808705563e-6);
    q = FUSED_F64(q, r, 1.5252733841556773e-5);
    q = FUSED_F64(q, r, 1.5403530393370734e-4);
    q = FUSED_F64(q, r, 1.333355814640647e-3);
    q = FUSED_F64(q, r, 9.61812910762848e-3);
    q = FUSED_F64(q, r, 5.5504108664821625e-2);
    q = FUSED_F64(q, r, 0.24022650695910072);
    q = FUSED_F64(q, r, 0.6931471805599453);
    q = FUSED_F64(q, r, 1.0);
    memcpy(&bits, &rounded, sizeof bits);
    bits = (bits + 1023) << 52; /* the low bits of ROUNDER are 0 */
    memcpy(&y, &bits, sizeof y);
    return x < -1022.0 ? 0.0 : q * y;
}

#undef ROUNDER

static inline double exp_of_f64(double x) {
    return exp(x);
}

static inline double expm1_of_f64(double x) {
    return expm1(x);
}

static inline double sigmoid_of_f64(double x) {
    const double z = exp(-fabs(x));
    return (x < 0 ? z : 1.0) / (1.0 + z);
}

static inline double tanh_of_f64(double x) {
    return tanh(x);
}

static inline double log1p_exp_of_f64(double x) {
    return (0.0 > x ? 0.0 : x) + log1p(exp(-fabs(x)));
}

static inline double normal_of_f64(double x, double *density) {
    *density = 0.39894228040143267794 * exp(-0.5 * x * x);
    return 0.5 * erfc(-0.70710678118654752440 * x);
}
