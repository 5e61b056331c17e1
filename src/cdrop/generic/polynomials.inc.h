/* The constants of the elementary functions, for float and for double. Included once.
 *
 * Polynomials and rational functions are minimax fits, or close to them: for float a linear program
 * of the relative error over Chebyshev points, with the first terms fixed at their exact values, the
 * coefficients rounded one by one and the rest fitted again; for double interpolations at Chebyshev
 * points, computed with 60 digits and rounded. Their errors are below half a unit in the last place,
 * but for that of `tail` in float.
 */

typedef uint32_t word_f32;
typedef uint64_t word_f64;

#define SIGN_f32 0x80000000u
#define SIGN_f64 0x8000000000000000u
#define FRONT_f32 0xFFFFF000u /* of a number whose square is exact */
#define FRONT_f64 0xFFFFFFFFF8000000u
#define MANTISSA_f32 23 /* bits */
#define MANTISSA_f64 52
#define BIAS_f32 127
#define BIAS_f64 1023
/* 1.5 * 2^MANTISSA: adding it rounds to an integer, in the low bits. */
#define ROUNDER_f32 12582912.0f
#define ROUNDER_f64 6755399441055744.0
#define ROUNDER_BITS_f32 0x4B400000u
#define ROUNDER_BITS_f64 0x4338000000000000u
#define LOG2_E_f32 1.44269504f
#define LOG2_E_f64 1.4426950408889634
/* log 2 in two parts: products of the first with integers are exact, up to 2^14 and 2^20. */
#define LOG_2_HIGH_f32 0.693359375f
#define LOG_2_HIGH_f64 6.93147180369123816490e-01
#define LOG_2_LOW_f32 -2.12194440e-4f
#define LOG_2_LOW_f64 1.90821492927058770002e-10
/* Beyond these e^x is infinite or zero, e^x - 1 is -1, 2^x is no normal number, and the normal
 * distribution is zero. */
#define EXP_MOST_f32 89.0f
#define EXP_MOST_f64 710.0
#define EXP_LEAST_f32 -105.0f
#define EXP_LEAST_f64 -746.0
#define EXPM1_LEAST_f32 -20.0f
#define EXPM1_LEAST_f64 -40.0
#define EXP2_LEAST_f32 -126.0f
#define EXP2_LEAST_f64 -1022.0
#define NORMAL_MOST_f32 14.6f
#define NORMAL_MOST_f64 38.6

/* (e^r - 1 - r) / r^2 for |r| <= log(2) / 2. */
static inline float exp_rest_f32(float r) {
    float q = 1.38699485e-3f;
    q = q * r + 8.36625323e-3f;
    q = q * r + 4.16674428e-2f;
    q = q * r + 0.166665465f;
    return q * r + 0.49999997f;
}

static inline double exp_rest_f64(double r) {
    double q = 2.510038549551032e-08;
    q = q * r + 2.7620088445409746e-07;
    q = q * r + 2.7557268459997064e-06;
    q = q * r + 2.4801521295954376e-05;
    q = q * r + 0.00019841269863053618;
    q = q * r + 0.0013888888917213717;
    q = q * r + 0.008333333333330062;
    q = q * r + 0.04166666666662413;
    q = q * r + 0.16666666666666669;
    return q * r + 0.5000000000000001;
}

/* 2^r for |r| <= 1 / 2. */
static inline float exp2_inner_f32(float r) {
    float q = 1.3228907e-3f;
    q = FUSED_F32(q, r, 9.6717002e-3f);
    q = FUSED_F32(q, r, 5.5508569e-2f);
    q = FUSED_F32(q, r, 0.24022238f);
    q = FUSED_F32(q, r, 0.69314688f);
    return FUSED_F32(q, r, 1.0f);
}

static inline double exp2_inner_f64(double r) {
    double q = 2.5729324177362305e-11;
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
    return FUSED_F64(q, r, 1.0);
}

/* (2 artanh(s) - 2 s) / s^3 for u = s^2 <= 1 / 9. */
static inline float artanh_rest_f32(float u) {
    float q = 0.280067801f;
    q = q * u + 0.280030251f;
    q = q * u + 0.400214374f;
    return q * u + 0.666664183f;
}

static inline double artanh_rest_f64(double u) {
    double q = 0.1616404561194353;
    q = q * u + 0.08800738486144674;
    q = q * u + 0.12001072809590713;
    q = q * u + 0.13314144209654935;
    q = q * u + 0.15385570064958623;
    q = q * u + 0.18181789436132859;
    q = q * u + 0.22222222717427864;
    q = q * u + 0.2857142856710876;
    q = q * u + 0.40000000000014585;
    return q * u + 0.6666666666666666;
}

/* The tail of the normal distribution beyond t >= 0, over e^(-t^2 / 2). */
static inline float tail_f32(float t) {
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
    return p / q;
}

static inline double tail_f64(double t) {
    double p = 1.7281094945803254e-07, q = 4.3317281207689417e-07;
    p = p * t + 5.6113073607439715e-06;
    p = p * t + 8.877096645706485e-05;
    p = p * t + 0.0008923781137774681;
    p = p * t + 0.006277139055866022;
    p = p * t + 0.032189302295004205;
    p = p * t + 0.12179606223224766;
    p = p * t + 0.3363971209070424;
    p = p * t + 0.6524075884429543;
    p = p * t + 0.8104571236808513;
    p = p * t + 0.5;
    q = q * t + 1.4065461688180266e-05;
    q = q * t + 0.00022294898729045763;
    q = q * t + 0.0022509256738907596;
    q = q * t + 0.015956103687955334;
    q = q * t + 0.0828953452178441;
    q = q * t + 0.32059119278770504;
    q = q * t + 0.9195763505666087;
    q = q * t + 1.9113611085932236;
    q = q * t + 2.734737401608789;
    q = q * t + 2.418798808164568;
    q = q * t + 1.0;
    return p / q;
}
