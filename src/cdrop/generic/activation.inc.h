/* Activations of n numbers, and their gradients. Included once per real dtype.
 *
 * F(NAME)(x, a) is the function, with a its parameter where it has one. F(NAME_back)(saved, dy, a)
 * is dy f'(x): saved is y where the derivative is a function of y, which is stored anyway; else x.
 * The softmax of a row sums in CDROP_SUMS interleaved parts, whatever the instruction set.
 */

static inline T F(relu)(T x, T a) {
    (void)a;
    return x <= (T)0 ? (T)0 : x; /* written so that a NaN stays */
}
static inline T F(relu_back)(T y, T dy, T a) {
    (void)a;
    return y > (T)0 ? dy : (T)0;
}

static inline T F(leaky_relu)(T x, T a) {
    return x <= (T)0 ? x * a : x;
}
static inline T F(leaky_relu_back)(T y, T dy, T a) {
    return y > (T)0 ? dy : dy * a;
}

static inline T F(elu)(T x, T a) {
    const T below = a * F(expm1_of)(x < (T)0 ? x : (T)0);
    return x <= (T)0 ? below : x;
}
static inline T F(elu_back)(T y, T dy, T a) { /* a e^x = y + a */
    return y > (T)0 ? dy : dy * (y + a);
}

/* The fixed point of Klambauer et al. 2017: ELU with alpha = SELU_ALPHA, times SELU_SCALE. */
#define SELU_ALPHA 1.6732632423543772848
#define SELU_SCALE 1.0507009873554804934
static inline T F(selu)(T x, T a) {
    (void)a;
    const T below = (T)(SELU_SCALE * SELU_ALPHA) * F(expm1_of)(x < (T)0 ? x : (T)0);
    return x <= (T)0 ? below : x * (T)SELU_SCALE;
}
static inline T F(selu_back)(T y, T dy, T a) {
    (void)a;
    return dy * (y > (T)0 ? (T)SELU_SCALE : y + (T)(SELU_SCALE * SELU_ALPHA));
}
#undef SELU_ALPHA
#undef SELU_SCALE

/* x Phi(x), whose derivative is Phi(x) + x phi(x); phi is 0 long before x overflows a product. */
static inline T F(gelu)(T x, T a) {
    T density;
    (void)a;
    return x * F(normal_of)(x, &density);
}
static inline T F(gelu_back)(T x, T dy, T a) {
    T density;
    (void)a;
    const T phi = F(normal_of)(x, &density);
    const T bounded = x < (T)-40 ? (T)-40 : (T)40 < x ? (T)40 : x;
    return dy * (phi + bounded * density);
}

/* x / 2 (1 + tanh(u)) = x sigmoid(2 u) with u = sqrt(2 / pi) (x + 0.044715 x^3); a is not used. */
#define SLOPE 1.5957691216057308 /* 2 sqrt(2 / pi) */
#define CUBIC 0.044715
static inline T F(gelu_tanh)(T x, T a) {
    (void)a;
    return x * F(sigmoid_of)(x * ((T)SLOPE + (T)(SLOPE * CUBIC) * (x * x)));
}
static inline T F(gelu_tanh_back)(T x, T dy, T a) {
    (void)a;
    const T c = x < (T)-40 ? (T)-40 : (T)40 < x ? (T)40 : x, square = c * c;
    const T s = F(sigmoid_of)(c * ((T)SLOPE + (T)(SLOPE * CUBIC) * square));
    const T inner = (T)SLOPE + (T)(3 * SLOPE * CUBIC) * square;
    return dy * (s + c * inner * (s * ((T)1 - s)));
}
#undef SLOPE
#undef CUBIC

/* x s with s = sigmoid(x), whose derivative is s + x s (1 - s). */
static inline T F(silu)(T x, T a) {
    (void)a;
    return x * F(sigmoid_of)(x);
}
static inline T F(silu_back)(T x, T dy, T a) {
    (void)a;
    const T s = F(sigmoid_of)(x);
    const T bounded = x < (T)-1000 ? (T)-1000 : (T)1000 < x ? (T)1000 : x;
    return dy * (s + bounded * (s * ((T)1 - s)));
}

static inline T F(tanh)(T x, T a) {
    (void)a;
    return F(tanh_of)(x);
}
static inline T F(tanh_back)(T y, T dy, T a) {
    (void)a;
    return dy * (((T)1 - y) * ((T)1 + y));
}

static inline T F(sigmoid)(T x, T a) {
    (void)a;
    return F(sigmoid_of)(x);
}
static inline T F(sigmoid_back)(T y, T dy, T a) {
    (void)a;
    return dy * (y * ((T)1 - y));
}

static inline T F(softplus)(T x, T a) {
    (void)a;
    return F(log1p_exp_of)(x);
}
static inline T F(softplus_back)(T y, T dy, T a) { /* sigmoid(x) = 1 - e^-y */
    (void)a;
    return dy * -F(expm1_of)(-y);
}

static void F(activate)(int kind, size_t n, T a, const T *x, T *y) {
    switch (kind) {
#define LOOP(KIND, name)                                           \
    case CDROP_##KIND:                                             \
        INDEPENDENT                                                \
        for (size_t i = 0; i < n; ++i) y[i] = F(name)(x[i], a);    \
        break;
        CDROP_FOR_ACTIVATIONS(LOOP)
#undef LOOP
    }
}

static void F(activate_back)(int kind, size_t n, T a, const T *saved, const T *dy, T *dx) {
    switch (kind) {
#define LOOP(KIND, name)                                                                  \
    case CDROP_##KIND:                                                                    \
        INDEPENDENT                                                                       \
        for (size_t i = 0; i < n; ++i) dx[i] = F(CONCAT(name, back))(saved[i], dy[i], a);  \
        break;
        CDROP_FOR_ACTIVATIONS(LOOP)
#undef LOOP
    }
}

static T F(largest)(size_t n, const T *x) {
    T part[CDROP_SUMS];
    size_t i = 0;
    for (size_t j = 0; j < CDROP_SUMS; ++j) part[j] = x[0];
    for (; i + CDROP_SUMS <= n; i += CDROP_SUMS)
        for (size_t j = 0; j < CDROP_SUMS; ++j) part[j] = part[j] < x[i + j] ? x[i + j] : part[j];
    for (size_t j = 0; i + j < n; ++j) part[j] = part[j] < x[i + j] ? x[i + j] : part[j];
    for (size_t j = 1; j < CDROP_SUMS; ++j) part[0] = part[0] < part[j] ? part[j] : part[0];
    return part[0];
}

/* Sum of x__n w__n, or of x__n where w is NULL. */
static T F(summed)(size_t n, const T *x, const T *w) {
    T part[CDROP_SUMS] = {(T)0};
    size_t i = 0;
    if (w) {
        for (; i + CDROP_SUMS <= n; i += CDROP_SUMS)
            for (size_t j = 0; j < CDROP_SUMS; ++j) part[j] += x[i + j] * w[i + j];
        for (size_t j = 0; i + j < n; ++j) part[j] += x[i + j] * w[i + j];
    } else {
        for (; i + CDROP_SUMS <= n; i += CDROP_SUMS)
            for (size_t j = 0; j < CDROP_SUMS; ++j) part[j] += x[i + j];
        for (size_t j = 0; i + j < n; ++j) part[j] += x[i + j];
    }
    for (size_t j = 0; j < CDROP_SUMS / 2; ++j) part[j] += part[j + CDROP_SUMS / 2];
    return (part[0] + part[1]) + (part[2] + part[3]);
}

/* Each row of n > 0 less its largest number, so that e^ cannot overflow. */
static void F(softmax)(size_t rows, size_t n, const T *x, T *y) {
    for (; rows; --rows, x += n, y += n) {
        const T top = F(largest)(n, x);
        INDEPENDENT
        for (size_t i = 0; i < n; ++i) y[i] = F(exp_of)(x[i] - top);
        const T scale = (T)1 / F(summed)(n, y, NULL);
        for (size_t i = 0; i < n; ++i) y[i] *= scale;
    }
}

static void F(softmax_back)(size_t rows, size_t n, const T *y, const T *dy, T *dx) {
    for (; rows; --rows, y += n, dy += n, dx += n) {
        const T mean = F(summed)(n, y, dy);
        INDEPENDENT
        for (size_t i = 0; i < n; ++i) dx[i] = y[i] * (dy[i] - mean);
    }
}
