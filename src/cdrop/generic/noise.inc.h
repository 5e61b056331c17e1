/* Standard normals from the words of the noise domain. Included once per real dtype.
 *
 * The normal of word w is the inverse CDF of u = (w + 0.5) 2^-32. It is odd around the middle, so
 * |normal| is a function of the distance `edge` of w from the nearer end: u or 1 - u, whichever is
 * below a half, is (edge + 0.5) 2^-32. Two regions, both ratios of polynomials, parted as in
 * Wichura 1988, "Algorithm AS 241: the percentage points of the normal distribution":
 *
 *   q = |u - 0.5| <= 0.425   q * ratio(0.180625 - q^2)
 *   else                     ratio(r - 1.6), r = sqrt(-log of u or 1 - u)
 *
 * double has the terms of that paper's PPND16; its third region, below exp(-25), is never met: the
 * smallest u is 2^-33. PPND7 is off by 6 units in the last place of a float. float therefore has
 * terms of its own, a fit of the relative error by least squares that were weighted again until
 * it was level, and in the middle the ratio is of what comes on top of the slope at q = 0. Largest
 * errors over all words: 3.3 units in the last place of a float, a relative 2e-15 of a double.
 *
 * All words are computed as if they were in the middle, where 85 in 100 are. The others are
 * noted, computed side by side, and put where they belong. Every operation is rounded on its own:
 * the same bits from every instruction set.
 */

#ifndef NORMAL_CHUNK
#define NORMAL_CHUNK 1024
#define NORMAL_EDGE 322122547u /* floor(0.075 * 2^32): |u - 0.5| > 0.425 below it */
#define NORMAL_SLOPE 2.5066282746310002f /* sqrt(2 pi) */

/* [dtype][region][numerator, denominator][power] */
static const double NORMAL_TERMS[2][2][2][8] = {
    {{{4.874765851020813, 69.73098965644836, 197.6666234370033, 25.92969929218292},
      {1.0, 20.32877271702671, 111.52081844270229, 145.9512100338936}},
     {{0.023437141237054513, 0.22668174606496277, 0.048304209390316266, -0.012443808496529749},
      {1.0, 0.8078863554931826, 0.1501663709949743, -0.00036841736497796734}}},
    {{{3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3,
       1.3731693765509461125e4, 4.5921953931549871457e4, 6.7265770927008700853e4,
       3.3430575583588128105e4, 2.5090809287301226727e3},
      {1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
       2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4,
       5.2264952788528545610e3}},
     {{1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0,
       3.64784832476320460504e0, 1.27045825245236838258e0, 2.41780725177450611770e-1,
       2.27238449892691845833e-2, 7.74545014278341407640e-4},
      {1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
       1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4,
       1.05075007164441684324e-9}}},
};

static inline uint32_t normal_edge(uint32_t w) {
    return w ^ (uint32_t)-(int32_t)(w >> 31);
}
#endif

#define IS_FLOAT (sizeof(T) == sizeof(float))

static inline T F(normal_ratio)(int tail, T r) {
    const double(*terms)[8] = NORMAL_TERMS[!IS_FLOAT][tail];
    const int last = IS_FLOAT ? 3 : 7;
    T above = (T)terms[0][last], below = (T)terms[1][last];
    UNROLL
    for (int k = last - 1; k >= 0; --k) {
        above = above * r + (T)terms[0][k];
        below = below * r + (T)terms[1][k];
    }
    return above / below;
}

/* z__n as if every word were in the middle. */
static inline void F(normal_middle)(size_t n, const uint32_t *restrict w, T *restrict z) {
    for (size_t i = 0; i < n; ++i) {
        const uint32_t edge = normal_edge(w[i]);
        const int32_t centre = (int32_t)(0x7FFFFFFFu - (edge < NORMAL_EDGE ? NORMAL_EDGE : edge));
        const T q = ((T)centre + (T)0.5) * (T)0x1p-32;
        const T square = q * q, ratio = F(normal_ratio)(0, (T)0.180625 - square);
        const T a = IS_FLOAT ? q * ((T)NORMAL_SLOPE + square * ratio) : q * ratio;
        z[i] = w[i] >> 31 ? a : -a;
    }
}

/* log(odd 2^-33) of an integer odd >= 1, which is m 2^e with m around 1. With s = (m - 1) / (m + 1)
 * log(m) = 2 (s + s^3 / 3 + s^5 / 5 + ...). */
static inline T F(normal_log)(int32_t odd) {
    int32_t bits, inverse_bits;
    float f = (float)odd, inverse; /* e by its bits, also for double: rounding f does no harm */
    memcpy(&bits, &f, sizeof bits);
    const int32_t e = (bits - 0x3F3504F3) >> 23; /* sqrt(0.5), below which m does not go */
    inverse_bits = (127 - e) * (1 << 23);
    memcpy(&inverse, &inverse_bits, sizeof inverse);
    const T m = (T)odd * (T)inverse;
    const T s = (m - (T)1) / (m + (T)1), square = s * s;
    const int last = IS_FLOAT ? 4 : 11;
    T sum = (T)(1.0 / (2 * last + 1));
    UNROLL
    for (int k = last - 1; k > 0; --k) sum = sum * square + (T)(1.0 / (2 * k + 1));
    /* log 2 in two parts, the first with so few bits that its product is exact. */
    const T high = IS_FLOAT ? (T)0.693359375 : (T)0x1.62e42fee00000p-1;
    const T low = IS_FLOAT ? (T)-2.12194440054690583e-4 : (T)1.90821492927058770002e-10;
    const T power = (T)(e - 33);
    return power * high + (power * low + (T)2 * (s + s * square * sum));
}

/* Words near an end. */
static inline void F(normal_tail)(size_t n, const uint32_t *restrict w, T *restrict z) {
    for (size_t i = 0; i < n; ++i) {
        const T square = -F(normal_log)((int32_t)(2 * normal_edge(w[i]) + 1));
        const T r = IS_FLOAT ? (T)sqrtf((float)square) : (T)sqrt((double)square);
        const T ratio = F(normal_ratio)(1, r - (T)1.6);
        const T a = IS_FLOAT ? ((T)1.5 * r - (T)1) + ratio : ratio;
        z[i] = w[i] >> 31 ? a : -a;
    }
}

static void F(normal)(size_t n, const uint32_t *w, T *z) {
    uint32_t far_word[NORMAL_CHUNK];
    uint16_t at[NORMAL_CHUNK];
    T far[NORMAL_CHUNK];
    while (n) {
        const size_t now = n < NORMAL_CHUNK ? n : NORMAL_CHUNK;
        size_t tails = 0;
        F(normal_middle)(now, w, z);
        for (size_t i = 0; i < now; ++i) {
            at[tails] = (uint16_t)i;
            tails += w[i] + NORMAL_EDGE < 2 * NORMAL_EDGE; /* around 0, modulo 2^32 */
        }
        for (size_t t = 0; t < tails; ++t) far_word[t] = w[at[t]];
        F(normal_tail)(tails, far_word, far);
        for (size_t t = 0; t < tails; ++t) z[at[t]] = far[t];
        w += now;
        z += now;
        n -= now;
    }
}

#undef IS_FLOAT
