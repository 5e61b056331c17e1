/* Optimiser updates of n weights, in place. Included once per real dtype.
 *
 * Every operation is rounded on its own, in T, in the order written: the same bits from every
 * instruction set. g is NULL where the whole gradient is zero, as in the rows of a dropped unit.
 * m, v and d are the states that a rule has (kernels.h), NULL where it has none. square__n, if it
 * is not NULL, takes the squares of the new weights in float64: memory is what an update waits for,
 * and the sums for the max-norm ball cost little meanwhile.
 */

static inline T F(root_of)(T a) {
    return sizeof(T) == sizeof(float) ? (T)sqrtf((float)a) : (T)sqrt((double)a);
}

/* -rate (g + decay w). */
static inline T F(sgd_change)(T rate, T decay, const T *g, size_t i, T w) {
    if (decay != 0) return ((g ? g[i] : (T)0) + decay * w) * -rate;
    return g ? g[i] * -rate : -(T)0; /* 0 times -rate */
}

static inline void F(sgd_form)(size_t n, const cdrop_hyperparameters *a, T decay, int nesterov,
                               const T *restrict g, T *restrict v, T *restrict w,
                               double *restrict square) {
    const T rate = (T)a->rate, momentum = (T)a->momentum;
    for (size_t i = 0; i < n; ++i) {
        const T change = F(sgd_change)(rate, decay, g, i, w[i]);
        const T velocity = v[i] * momentum + change;
        const T weight = w[i] + (nesterov ? change + momentum * velocity : velocity);
        v[i] = velocity;
        w[i] = weight;
        if (square) square[i] += (double)weight * (double)weight;
    }
}

static inline void F(sgd_plain)(size_t n, const cdrop_hyperparameters *a, T decay, const T *restrict g,
                                T *restrict w, double *restrict square) {
    const T rate = (T)a->rate;
    for (size_t i = 0; i < n; ++i) {
        const T weight =
            g || decay != 0 ? w[i] + F(sgd_change)(rate, decay, g, i, w[i]) : w[i];
        w[i] = weight;
        if (square) square[i] += (double)weight * (double)weight;
    }
}

/* change = -rate (g + decay w): w <- w + change, or with velocity v: v <- momentum v + change,
 * w <- w + v, and with nesterov w <- w + momentum v + change. */
static void F(sgd)(size_t n, const cdrop_hyperparameters *a, const T *g, T *m, T *v, T *d, T *w,
                   double *square) {
    const T decay = (T)a->decay;
    (void)m;
    (void)d;
    if (decay != 0 && v)
        F(sgd_form)(n, a, decay, a->nesterov, g, v, w, square);
    else if (decay != 0)
        F(sgd_plain)(n, a, decay, g, w, square);
    else if (!v && g && square)
        F(sgd_plain)(n, a, 0, g, w, square);
    else if (!v && g)
        F(sgd_plain)(n, a, 0, g, w, NULL);
    else if (!v && square)
        F(sgd_plain)(n, a, 0, NULL, w, square);
    else if (!v)
        return;
    else if (!g || a->nesterov) /* one body for the rarer forms */
        F(sgd_form)(n, a, 0, a->nesterov, g, v, w, square);
    else if (square)
        F(sgd_form)(n, a, 0, 0, g, v, w, square);
    else
        F(sgd_form)(n, a, 0, 0, g, v, w, NULL);
}

/* The same for some columns of v__n and w__n, with their gradient g__columns. */
static void F(sgd_some)(size_t columns, const int64_t *column, const cdrop_hyperparameters *a,
                        const T *restrict g, T *restrict v, T *restrict w) {
    for (size_t c = 0; c < columns; ++c)
        F(sgd)(1, a, g + c, NULL, v ? v + column[c] : NULL, NULL, w + column[c], NULL);
}

/* m <- beta_1 m + rest_1 g, v <- beta_2 v + rest_2 g^2,
 * w <- keep w - rate m / (sqrt(v) scale + epsilon). */
static inline void F(adam_form)(size_t n, const cdrop_hyperparameters *a, const T *restrict g,
                                T *restrict m, T *restrict v, T *restrict d, T *restrict w,
                                double *restrict square) {
    const T beta_1 = (T)a->beta_1, beta_2 = (T)a->beta_2, rest_1 = (T)a->rest_1;
    const T rest_2 = (T)a->rest_2, rate = (T)a->rate, scale = (T)a->scale;
    const T epsilon = (T)a->epsilon, keep = (T)a->keep;
    (void)d;
    for (size_t i = 0; i < n; ++i) {
        const T gradient = g ? g[i] : (T)0;
        const T mean = beta_1 * m[i] + rest_1 * gradient;
        const T mean_square = beta_2 * v[i] + rest_2 * (gradient * gradient);
        const T weight =
            keep * w[i] - rate * mean / (F(root_of)(mean_square) * scale + epsilon);
        m[i] = mean;
        v[i] = mean_square;
        w[i] = weight;
        if (square) square[i] += (double)weight * (double)weight;
    }
}

/* v <- beta_2 v + rest_2 g^2, spread = v, or with m: m <- beta_2 m + rest_2 g, spread = v - m^2,
 * change = -rate g / (sqrt(spread) + epsilon): w <- w + change, or with d: d <- momentum d + change,
 * w <- w + d. */
static inline void F(rmsprop_form)(size_t n, const cdrop_hyperparameters *a, const T *restrict g,
                                   T *restrict m, T *restrict v, T *restrict d, T *restrict w,
                                   double *restrict square) {
    const T beta = (T)a->beta_2, rest = (T)a->rest_2, rate = (T)a->rate;
    const T epsilon = (T)a->epsilon, momentum = (T)a->momentum;
    for (size_t i = 0; i < n; ++i) {
        const T gradient = g ? g[i] : (T)0;
        const T mean_square = beta * v[i] + rest * (gradient * gradient);
        T spread = mean_square;
        if (m) {
            const T mean = beta * m[i] + rest * gradient;
            spread = mean_square - mean * mean;
            spread = spread < 0 ? (T)0 : spread; /* where rounding makes it so */
            m[i] = mean;
        }
        T change = gradient * -rate / (F(root_of)(spread) + epsilon);
        if (d) {
            change = d[i] * momentum + change;
            d[i] = change;
        }
        const T weight = w[i] + change;
        v[i] = mean_square;
        w[i] = weight;
        if (square) square[i] += (double)weight * (double)weight;
    }
}

/* v <- v + g^2, w <- w - rate g / (sqrt(v) + epsilon). */
static inline void F(adagrad_form)(size_t n, const cdrop_hyperparameters *a, const T *restrict g,
                                   T *restrict m, T *restrict v, T *restrict d, T *restrict w,
                                   double *restrict square) {
    const T rate = (T)a->rate, epsilon = (T)a->epsilon;
    (void)m;
    (void)d;
    for (size_t i = 0; i < n; ++i) {
        const T gradient = g ? g[i] : (T)0;
        const T sum = v[i] + gradient * gradient;
        const T weight = w[i] - rate * gradient / (F(root_of)(sum) + epsilon);
        v[i] = sum;
        w[i] = weight;
        if (square) square[i] += (double)weight * (double)weight;
    }
}

/* v <- beta_2 v + rest_2 g^2, change = sqrt(m + epsilon) / sqrt(v + epsilon) g,
 * m <- beta_2 m + rest_2 change^2, w <- w - rate change. */
static inline void F(adadelta_form)(size_t n, const cdrop_hyperparameters *a, const T *restrict g,
                                    T *restrict m, T *restrict v, T *restrict d, T *restrict w,
                                    double *restrict square) {
    const T beta = (T)a->beta_2, rest = (T)a->rest_2, rate = (T)a->rate;
    const T epsilon = (T)a->epsilon;
    (void)d;
    for (size_t i = 0; i < n; ++i) {
        const T gradient = g ? g[i] : (T)0;
        const T mean_square = beta * v[i] + rest * (gradient * gradient);
        const T change =
            F(root_of)(m[i] + epsilon) / F(root_of)(mean_square + epsilon) * gradient;
        const T weight = w[i] - rate * change;
        v[i] = mean_square;
        m[i] = beta * m[i] + rest * (change * change);
        w[i] = weight;
        if (square) square[i] += (double)weight * (double)weight;
    }
}

/* The body once for each of the frequent forms, so that its loop has no condition in it. */
#define UPDATE(rule)                                                                            \
    static void F(rule)(size_t n, const cdrop_hyperparameters *a, const T *g, T *m, T *v, T *d, T *w, \
                        double *square) {                                                       \
        if (g && square)                                                                         \
            F(rule##_form)(n, a, g, m, v, d, w, square);                                         \
        else if (g)                                                                              \
            F(rule##_form)(n, a, g, m, v, d, w, NULL);                                           \
        else                                                                                     \
            F(rule##_form)(n, a, NULL, m, v, d, w, square);                                      \
    }
UPDATE(adam)
UPDATE(rmsprop)
UPDATE(adagrad)
UPDATE(adadelta)
#undef UPDATE
