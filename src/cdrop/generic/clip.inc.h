/* Vectors shortened to the max-norm ball. Included once per real dtype, by serial.c, with T, S, and
 * STEP: the first margin by which a vector that is still too long is shortened further. */

/* The norm of n numbers in units of the largest. */
static measured F(in_units)(const T *w, int64_t n, int64_t stride) {
    measured m = {0.0, 1.0};
    double unit = 0.0;
    for (int64_t i = 0; i < n; ++i) {
        const double v = fabs((double)w[i * stride]);
        if (!(v <= LARGEST)) return not_finite;
        if (v > unit) unit = v;
    }
    if (unit == 0.0) return m;
    for (int64_t i = 0; i < n; ++i) {
        const double v = (double)w[i * stride] / unit;
        m.root += v * v;
    }
    m.root = sqrt(m.root);
    m.unit = unit;
    return m;
}

/* The norm, from the sum of squares where that is in range. */
static measured F(measure)(const T *w, int64_t n, int64_t stride, double square) {
    const measured m = {sqrt(square), 1.0};
    return square > 1e-280 && square < 1e300 ? m : F(in_units)(w, n, stride);
}

static double F(goal)(int64_t n, double max_norm) {
    return max_norm * (1.0 - 2.220446049250313e-16 * (4.0 + sqrt((double)n)));
}

/* Whether a vector cannot be shortened by one factor: the factor itself would leave the range. */
static int F(is_extreme)(measured m, double goal) {
    return m.unit != 1.0 || goal < m.root * 1e-290;
}

/* Shorten such a vector in units of its largest number. */
static void F(clip_extreme)(T *w, int64_t n, int64_t stride, double goal) {
    double shrink = STEP;
    for (double less = 1.0;; less = 1.0 - shrink, shrink *= 2) {
        const measured m = F(in_units)(w, n, stride);
        if (m.root <= goal / m.unit) return;
        const double length = shrink < 1.0 ? goal / m.root * less : 0.0;
        for (int64_t i = 0; i < n; ++i) {
            T *const at = w + i * stride;
            *at = (T)((double)*at / m.unit * length);
        }
    }
}

/* A contiguous vector; 1 where it was too long. */
static int F(clip)(T *w, int64_t n, double max_norm) {
    measured m = F(measure)(w, n, 1, KERNEL(sum_squares)((size_t)n, w));
    double shrink = STEP;
    const double goal = F(goal)(n, max_norm);
    if (!(m.root > max_norm / m.unit)) return 0;
    if (F(is_extreme)(m, goal)) {
        F(clip_extreme)(w, n, 1, goal);
        return 1;
    }
    for (double less = 1.0;; less = 1.0 - shrink, shrink *= 2) {
        const double factor = shrink < 1.0 ? goal / m.unit / m.root * less : 0.0;
        for (int64_t i = 0; i < n; ++i) w[i] = (T)((double)w[i] * factor);
        m = F(measure)(w, n, 1, KERNEL(sum_squares)((size_t)n, w));
        if (m.root <= goal / m.unit) return 1;
    }
}

int64_t F(cdrop_clip_rows)(T *w, int64_t n, double max_norm, int64_t first, int64_t last) {
    int64_t clipped = 0;
    for (int64_t r = first; r < last; ++r) clipped += F(clip)(w + r * n, n, max_norm);
    return clipped;
}

/* All columns that are too long are shortened together, row by row, until each is inside. */
int64_t F(cdrop_clip_columns)(T *w, int64_t n, int64_t columns, int64_t stride, double max_norm,
                              double *square) {
    double factor[CDROP_CLIP_COLUMNS], shrink = STEP, less = 1.0;
    int64_t clipped = 0, left = 0;
    measured m[CDROP_CLIP_COLUMNS];
    const double goal = F(goal)(n, max_norm);
    for (int64_t c = 0; c < columns; ++c) {
        m[c] = F(measure)(w + c, n, stride, square[c]);
        factor[c] = 1.0; /* which leaves a column alone */
        if (!(m[c].root > max_norm / m[c].unit)) continue;
        ++clipped;
        if (F(is_extreme)(m[c], goal)) {
            F(clip_extreme)(w + c, n, stride, goal);
        } else {
            factor[c] = 0.0;
            ++left;
        }
    }
    for (; left; less = 1.0 - shrink, shrink *= 2) {
        for (int64_t c = 0; c < columns; ++c) {
            if (factor[c] == 1.0) continue;
            factor[c] = shrink < 1.0 ? goal / m[c].unit / m[c].root * less : 0.0;
            square[c] = 0.0;
        }
        KERNEL(shorten)(n, columns, stride, factor, w, square);
        for (int64_t c = 0; c < columns; ++c) {
            if (factor[c] == 1.0) continue;
            m[c] = F(measure)(w + c, n, stride, square[c]);
            if (m[c].root <= goal / m[c].unit) {
                factor[c] = 1.0;
                --left;
            }
        }
    }
    return clipped;
}
