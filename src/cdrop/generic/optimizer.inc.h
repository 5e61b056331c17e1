/* Optimiser updates of n weights, in place. Included once per real dtype.
 *
 * Every operation is rounded on its own, in T, in the order written: the same bits from every
 * instruction set. g is NULL where the whole gradient is zero, as in the rows of a dropped unit.
 * square__n, if it is not NULL, takes the squares of the new weights in float64: memory is what an
 * update waits for, and the sums for the max-norm ball cost little meanwhile.
 */

static inline void F(sgd_form)(size_t n, T rate, T momentum, int nesterov, const T *restrict g,
                               T *restrict v, T *restrict w, double *restrict square) {
    for (size_t i = 0; i < n; ++i) {
        const T change = g ? g[i] * -rate : -(T)0; /* 0 times -rate */
        const T velocity = v[i] * momentum + change;
        const T weight = w[i] + (nesterov ? change + momentum * velocity : velocity);
        v[i] = velocity;
        w[i] = weight;
        if (square) square[i] += (double)weight * (double)weight;
    }
}

static inline void F(sgd_plain)(size_t n, T rate, const T *restrict g, T *restrict w,
                                double *restrict square) {
    for (size_t i = 0; i < n; ++i) {
        const T weight = g ? w[i] + g[i] * -rate : w[i];
        w[i] = weight;
        if (square) square[i] += (double)weight * (double)weight;
    }
}

/* w <- w - rate g, or with velocity v: v <- momentum v - rate g, w <- w + v, and with nesterov
 * w <- w + momentum v - rate g. */
static void F(sgd)(size_t n, T rate, T momentum, int nesterov, const T *g, T *v, T *w,
                   double *square) {
    if (!v && g && square)
        F(sgd_plain)(n, rate, g, w, square);
    else if (!v && g)
        F(sgd_plain)(n, rate, g, w, NULL);
    else if (!v && square)
        F(sgd_plain)(n, rate, NULL, w, square);
    else if (!v)
        return;
    else if (!g || nesterov) /* one body for the rarer forms */
        F(sgd_form)(n, rate, momentum, nesterov, g, v, w, square);
    else if (square)
        F(sgd_form)(n, rate, momentum, 0, g, v, w, square);
    else
        F(sgd_form)(n, rate, momentum, 0, g, v, w, NULL);
}

/* The same for some columns of v__n and w__n, with their gradient g__columns. */
static void F(sgd_some)(size_t columns, const int64_t *column, T rate, T momentum, int nesterov,
                        const T *restrict g, T *restrict v, T *restrict w) {
    for (size_t c = 0; c < columns; ++c)
        F(sgd)(1, rate, momentum, nesterov, g + c, v ? v + column[c] : NULL, w + column[c], NULL);
}

static inline T F(root_of)(T a) {
    return sizeof(T) == sizeof(float) ? (T)sqrtf((float)a) : (T)sqrt((double)a);
}

static inline void F(adam_form)(size_t n, const cdrop_adam *a, const T *restrict g, T *restrict m,
                                T *restrict v, T *restrict w, double *restrict square) {
    const T beta_1 = (T)a->beta_1, beta_2 = (T)a->beta_2, rest_1 = (T)a->rest_1;
    const T rest_2 = (T)a->rest_2, rate = (T)a->rate, scale = (T)a->scale;
    const T epsilon = (T)a->epsilon;
    for (size_t i = 0; i < n; ++i) {
        const T gradient = g ? g[i] : (T)0;
        const T mean = beta_1 * m[i] + rest_1 * gradient;
        const T mean_square = beta_2 * v[i] + rest_2 * (gradient * gradient);
        const T weight = w[i] - rate * mean / (F(root_of)(mean_square) * scale + epsilon);
        m[i] = mean;
        v[i] = mean_square;
        w[i] = weight;
        if (square) square[i] += (double)weight * (double)weight;
    }
}

/* m <- beta_1 m + rest_1 g, v <- beta_2 v + rest_2 g^2, w <- w - rate m / (sqrt(v) scale + epsilon).
 */
static void F(adam)(size_t n, const cdrop_adam *a, const T *g, T *m, T *v, T *w, double *square) {
    if (g && square)
        F(adam_form)(n, a, g, m, v, w, square);
    else if (g)
        F(adam_form)(n, a, g, m, v, w, NULL);
    else
        F(adam_form)(n, a, NULL, m, v, w, square);
}
