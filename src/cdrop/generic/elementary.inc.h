/* Elementary functions of one number: exp_of, expm1_of, exp2_of, sigmoid_of, tanh_of, log1p_exp_of
 * and normal_of. Included once per real dtype; their constants are in polynomials.inc.h.
 *
 * They have no branches and no calls, so that the compiler vectorises a loop over them, and every
 * operation is rounded on its own, except in exp2_of: the same bits from every instruction set. NaN
 * stays NaN: bounds are written `bound < x ? bound : x`, which is x where x is NaN. Largest errors,
 * in units in the last place of the result, denormals included:
 *
 *            exp   expm1   exp2   sigmoid   tanh   log1p_exp   normal   its density
 *   float    1     1.7     1.9    2.2       2.5    2.6         6        2
 *   double   1     2       0.9    2.1       2.5    2.6         8        2.1
 *
 * exp2 is that of fused operations, float of all numbers in [-126, 0]; without fusing 2.1 and 1.2.
 *
 * GCC vectorises the selections only under -fno-trapping-math (exception flags are not used).
 */

static inline F(word) F(bits_of)(T x) {
    F(word) bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline T F(of_bits)(F(word) bits) {
    T x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline T F(magnitude)(T x) {
    return F(of_bits)(F(bits_of)(x) & ~F(SIGN));
}

/* |x| with the sign of `sign`. */
static inline T F(signed_as)(T x, T sign) {
    return F(of_bits)((F(bits_of)(x) & ~F(SIGN)) | (F(bits_of)(sign) & F(SIGN)));
}

/* e^(x + more) = (1 + result) 2^n for x and n in the range of exponents and |more| < 2^-12 |x|; the
 * low bits of *n_bits are those of n. */
static inline T F(reduced_exp)(T x, T more, F(word) * n_bits) {
    const T rounded = x * F(LOG2_E) + F(ROUNDER), n = rounded - F(ROUNDER);
    const T r = (x - n * F(LOG_2_HIGH)) - (n * F(LOG_2_LOW) - more);
    *n_bits = F(bits_of)(rounded);
    return r * r * F(exp_rest)(r) + r;
}

/* e^(x + more). */
static inline T F(exp_sum_of)(T x, T more) {
    F(word) n_bits;
    const T below = F(EXP_MOST) < x ? F(EXP_MOST) : x;
    const T inside = F(EXP_LEAST) > below ? F(EXP_LEAST) : below;
    const T p = F(reduced_exp)(inside, more, &n_bits) + (T)1;
    /* 2^n in two factors, both normal: the second product is the one that leaves the range. */
    const F(word) both = n_bits + (2 * F(BIAS) + 2 - F(ROUNDER_BITS)), half = both >> 1;
    return p * F(of_bits)((half - 1) << F(MANTISSA)) * F(of_bits)((both - half - 1) << F(MANTISSA));
}

static inline T F(exp_of)(T x) {
    return F(exp_sum_of)(x, (T)0);
}

/* e^x - 1, for x < EXP_MOST - 1. */
static inline T F(expm1_of)(T x) {
    F(word) n_bits;
    const T inside = F(EXPM1_LEAST) > x ? F(EXPM1_LEAST) : x;
    const T p = F(reduced_exp)(inside, (T)0, &n_bits);
    const T scale = F(of_bits)((n_bits + (F(BIAS) - F(ROUNDER_BITS))) << F(MANTISSA));
    return scale * p + (scale - (T)1);
}

/* 2^x for x that is not above 0 by more than rounding; 0 where that is no normal number. Fused as
 * products of matrices are: its last bits may differ between instruction sets. */
static inline T F(exp2_of)(T x) {
    const T inside = F(EXP2_LEAST) > x ? F(EXP2_LEAST) : x;
    const T rounded = inside + F(ROUNDER), n = rounded - F(ROUNDER);
    const F(word) bits = F(bits_of)(rounded) + (F(BIAS) - F(ROUNDER_BITS));
    const T y = F(exp2_inner)(inside - n) * F(of_bits)(bits << F(MANTISSA));
    return x < F(EXP2_LEAST) ? (T)0 : y;
}

/* 1 / (1 + e^-x). */
static inline T F(sigmoid_of)(T x) {
    const T z = F(exp_of)(-F(magnitude)(x));
    return (x < (T)0 ? z : (T)1) / ((T)1 + z);
}

static inline T F(tanh_of)(T x) {
    const T e = F(expm1_of)((T)-2 * F(magnitude)(x));
    return F(signed_as)(e / ((T)2 + e), x);
}

/* log(1 + e^x): with z = e^-|x| and s = z / (2 + z), log(1 + z) = 2 artanh(s). */
static inline T F(log1p_exp_of)(T x) {
    const T z = F(exp_of)(-F(magnitude)(x)), s = z / ((T)2 + z), u = s * s;
    return (s * u * F(artanh_rest)(u) + (T)2 * s) + ((T)0 > x ? (T)0 : x);
}

/* The normal distribution: its cumulative distribution function, and its density in *density. The
 * square in e^(-t^2 / 2) is exact in two parts, for e^ makes an error of it larger by as much as
 * t^2 / 2. */
static inline T F(normal_of)(T x, T *density) {
    const T size = F(magnitude)(x), t = F(NORMAL_MOST) < size ? F(NORMAL_MOST) : size;
    const T high = F(of_bits)(F(bits_of)(t) & F(FRONT));
    const T z = F(exp_sum_of)((T)-0.5 * high * high, (T)-0.5 * ((t - high) * (t + high)));
    const T tail = z * F(tail)(t);
    *density = (T)0.39894228040143267794 * z;
    return x > (T)0 ? (T)1 - tail : tail;
}
