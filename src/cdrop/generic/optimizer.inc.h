/* Optimiser updates of n weights, in place. Included once per real dtype.
 *
 * Every operation is rounded on its own, in T, in the order written: the same bits from every
 * instruction set. g is NULL where the whole gradient is zero, as in the rows of a dropped unit.
 */

static inline void F(sgd_form)(size_t n, T rate, T momentum, int nesterov, const T *restrict g,
                               T *restrict v, T *restrict w) {
    for (size_t i = 0; i < n; ++i) {
        const T change = g ? g[i] * -rate : (T)0;
        const T velocity = v[i] * momentum + change;
        v[i] = velocity;
        w[i] += nesterov ? change + momentum * velocity : velocity;
    }
}

/* w <- w - rate g, or with velocity v: v <- momentum v - rate g, w <- w + v, and with nesterov
 * w <- w + momentum v - rate g. */
static void F(sgd)(size_t n, T rate, T momentum, int nesterov, const T *restrict g, T *restrict v,
                   T *restrict w) {
    if (v && g && nesterov)
        F(sgd_form)(n, rate, momentum, 1, g, v, w);
    else if (v && g)
        F(sgd_form)(n, rate, momentum, 0, g, v, w);
    else if (v)
        F(sgd_form)(n, rate, momentum, nesterov, NULL, v, w);
    else if (g)
        for (size_t i = 0; i < n; ++i) w[i] += g[i] * -rate;
}

/* The same for some columns of v__n and w__n, with their gradient g__columns. */
static void F(sgd_some)(size_t columns, const int64_t *column, T rate, T momentum, int nesterov,
                        const T *restrict g, T *restrict v, T *restrict w) {
    for (size_t c = 0; c < columns; ++c)
        F(sgd)(1, rate, momentum, nesterov, g + c, v ? v + column[c] : NULL, w + column[c]);
}

static inline T F(root_of)(T a) {
    return sizeof(T) == sizeof(float) ? (T)sqrtf((float)a) : (T)sqrt((double)a);
}

static inline void F(adam_form)(size_t n, const cdrop_adam *a, const T *restrict g, T *restrict m,
                                T *restrict v, T *restrict w) {
    const T beta_1 = (T)a->beta_1, beta_2 = (T)a->beta_2, rest_1 = (T)a->rest_1;
    const T rest_2 = (T)a->rest_2, rate = (T)a->rate, scale = (T)a->scale;
    const T epsilon = (T)a->epsilon;
    for (size_t i = 0; i < n; ++i) {
        const T gradient = g ? g[i] : (T)0;
        const T mean = beta_1 * m[i] + rest_1 * gradient;
        const T square = beta_2 * v[i] + rest_2 * (gradient * gradient);
        m[i] = mean;
        v[i] = square;
        w[i] -= rate * mean / (F(root_of)(square) * scale + epsilon);
    }
}

/* m <- beta_1 m + rest_1 g, v <- beta_2 v + rest_2 g^2, w <- w - rate m / (sqrt(v) scale + epsilon).
 */
static void F(adam)(size_t n, const cdrop_adam *a, const T *restrict g, T *restrict m,
                    T *restrict v, T *restrict w) {
    if (g)
        F(adam_form)(n, a, g, m, v, w);
    else
        F(adam_form)(n, a, NULL, m, v, w);
}
