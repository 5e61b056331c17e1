/* Standard normals from the words of the noise domain: noise.inc.h of the C core, operation by
 * operation, so that the bits are the same; the constants and where they come from are explained
 * there. */

#define EDGE 322122547u /* floor(0.075 * 2^32): |u - 0.5| > 0.425 below it */

template <typename T> struct terms;
template <> struct terms<float> {
    static constexpr int last = 3, logs = 4;
    static __device__ __forceinline__ float of(bool tail, bool below, int k) {
        constexpr double centre[2][4] = {
            {4.874765851020813, 69.73098965644836, 197.6666234370033, 25.92969929218292},
            {1.0, 20.32877271702671, 111.52081844270229, 145.9512100338936}};
        constexpr double far[2][4] = {{0.023437141237054513, 0.22668174606496277,
                                       0.048304209390316266, -0.012443808496529749},
                                      {1.0, 0.8078863554931826, 0.1501663709949743,
                                       -0.00036841736497796734}};
        return (float)(tail ? far[below][k] : centre[below][k]);
    }
};
template <> struct terms<double> {
    static constexpr int last = 7, logs = 11;
    static __device__ __forceinline__ double of(bool tail, bool below, int k) {
        constexpr double centre[2][8] = {
            {3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3,
             1.3731693765509461125e4, 4.5921953931549871457e4, 6.7265770927008700853e4,
             3.3430575583588128105e4, 2.5090809287301226727e3},
            {1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
             2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4,
             5.2264952788528545610e3}};
        constexpr double far[2][8] = {
            {1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0,
             3.64784832476320460504e0, 1.27045825245236838258e0, 2.41780725177450611770e-1,
             2.27238449892691845833e-2, 7.74545014278341407640e-4},
            {1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
             1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4,
             1.05075007164441684324e-9}};
        return tail ? far[below][k] : centre[below][k];
    }
};

template <typename T> INLINE T ratio(bool tail, T r) {
    const int last = terms<T>::last;
    T above = terms<T>::of(tail, false, last), below = terms<T>::of(tail, true, last);
#pragma unroll
    for (int k = last - 1; k >= 0; --k) {
        above = above * r + terms<T>::of(tail, false, k);
        below = below * r + terms<T>::of(tail, true, k);
    }
    return above / below;
}

/* log(odd 2^-33) of an integer odd >= 1, which is m 2^e with m around 1. */
template <typename T> INLINE T log_of(int odd) {
    const bool is_float = sizeof(T) == sizeof(float);
    const int e = (__float_as_int((float)odd) - 0x3F3504F3) >> 23;
    const T m = (T)odd * (T)__int_as_float((127 - e) * (1 << 23));
    const T s = (m - (T)1) / (m + (T)1), square = s * s;
    const int last = terms<T>::logs;
    T sum = (T)(1.0 / (2 * last + 1));
#pragma unroll
    for (int k = last - 1; k > 0; --k) sum = sum * square + (T)(1.0 / (2 * k + 1));
    const T high = is_float ? (T)0.693359375 : (T)0x1.62e42fee00000p-1;
    const T low = is_float ? (T)-2.12194440054690583e-4 : (T)1.90821492927058770002e-10;
    const T power = (T)(e - 33);
    return power * high + (power * low + (T)2 * (s + s * square * sum));
}

INLINE float root_of(float a) {
    return sqrtf(a);
}
INLINE double root_of(double a) {
    return sqrt(a);
}

template <typename T> INLINE T normal_of(u32 w) {
    const bool is_float = sizeof(T) == sizeof(float);
    const u32 edge = w >> 31 ? ~w : w;
    T a;
    if (edge >= EDGE) {
        const T q = ((T)(int)(0x7FFFFFFFu - edge) + (T)0.5) * (T)0x1p-32;
        const T square = q * q, r = ratio<T>(false, (T)0.180625 - square);
        a = is_float ? q * ((T)2.5066282746310002f + square * r) : q * r;
    } else {
        const T r = root_of(-log_of<T>((int)(2 * edge + 1)));
        const T more = ratio<T>(true, r - (T)1.6);
        a = is_float ? ((T)1.5 * r - (T)1) + more : more;
    }
    return w >> 31 ? a : -a;
}

/* A thread takes a block, which is four neighbours; element i has index i + lead. */
template <typename T>
INLINE void normals(T *z, i64 n, const dropcore_address &address, u64 offset) {
    const i64 lead = (i64)(offset % 4);
    const bool fours = in_fours<T>((u64)z - (u64)lead * sizeof(T));
    for (i64 b = FIRST; b < (n + lead + 3) / 4; b += STRIDE) {
        const dropcore_block block = dropcore_block_at(&address, offset / 4 + (u64)b);
        const i64 start = 4 * b - lead;
        four<T> v;
#pragma unroll
        for (int j = 0; j < 4; ++j) v.at[j] = normal_of<T>(block.word[j]);
        if (fours && start >= 0 && start + 4 <= n) {
            *(four<T> *)(z + start) = v;
            continue;
        }
#pragma unroll
        for (int j = 0; j < 4; ++j)
            if (0 <= start + j && start + j < n) z[start + j] = v.at[j];
    }
}

KERNEL normal(STORED *z, i64 n, ADDRESS_ARGUMENTS, u64 offset) {
    normals(z, n, ADDRESS_OF, offset);
}
