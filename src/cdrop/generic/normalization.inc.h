/* Batch and layer normalisation. Included once per real dtype.
 *
 * Sums are in float64, of differences from the first number of a column or a row: neither a large
 * mean nor a long sum costs digits. A mean comes as `centre`, in T, which x - centre is nearly
 * exact with; what T does not hold of it is in the offset.
 */

/* Of n columns over rows > 0: the mean, and the sum of squares about it. */
static void F(column_moments)(size_t rows, size_t n, const T *restrict x, double *restrict mean,
                              double *restrict square) {
    for (size_t c = 0; c < n; ++c) mean[c] = square[c] = 0;
    for (size_t r = 1; r < rows; ++r)
        for (size_t c = 0; c < n; ++c) {
            const double difference = (double)x[r * n + c] - (double)x[c];
            mean[c] += difference;
            square[c] += difference * difference;
        }
    for (size_t c = 0; c < n; ++c) {
        const double shift = mean[c] / (double)rows;
        square[c] -= shift * mean[c];
        square[c] = square[c] < 0 ? 0 : square[c];
        mean[c] = (double)x[c] + shift;
    }
}

/* y__rc = (x__rc - centre__c) factor__c + offset__c. */
static void F(map_columns)(size_t rows, size_t n, const T *restrict centre,
                           const T *restrict factor, const T *restrict offset,
                           const T *restrict x, T *restrict y) {
    for (size_t r = 0; r < rows; ++r)
        for (size_t c = 0; c < n; ++c)
            y[r * n + c] = (x[r * n + c] - centre[c]) * factor[c] + offset[c];
}

/* Over the rows: sum__c of dy__rc, and product__c of dy__rc (x__rc - centre__c). */
static void F(column_products)(size_t rows, size_t n, const T *restrict centre,
                               const T *restrict x, const T *restrict dy, double *restrict sum,
                               double *restrict product) {
    for (size_t c = 0; c < n; ++c) sum[c] = product[c] = 0;
    for (size_t r = 0; r < rows; ++r)
        for (size_t c = 0; c < n; ++c) {
            const T gradient = dy[r * n + c];
            sum[c] += (double)gradient;
            product[c] += (double)(gradient * (x[r * n + c] - centre[c]));
        }
}

/* dx__rc = (dy__rc + offset__c + (x__rc - centre__c) slope__c) factor__c. The factor comes last: slope
 * times factor is about the inverse square of the deviation, which may be denormal. */
static void F(map_columns_back)(size_t rows, size_t n, const T *restrict centre,
                                const T *restrict factor, const T *restrict slope,
                                const T *restrict offset, const T *restrict x,
                                const T *restrict dy, T *restrict dx) {
    for (size_t r = 0; r < rows; ++r)
        for (size_t c = 0; c < n; ++c)
            dx[r * n + c] = ((dy[r * n + c] + offset[c]) +
                             (x[r * n + c] - centre[c]) * slope[c]) *
                            factor[c];
}

static inline double F(added)(const double *part) {
    double four[CDROP_SUMS / 2];
    for (size_t j = 0; j < CDROP_SUMS / 2; ++j) four[j] = part[j] + part[j + CDROP_SUMS / 2];
    return (four[0] + four[1]) + (four[2] + four[3]);
}

/* (x - mean) scale of one row is (x - centre) factor + offset. */
typedef struct {
    T centre, factor, offset;
} F(row_map);

static inline F(row_map) F(row_map_of)(double mean, double scale) {
    const T centre = (T)mean;
    return (F(row_map)){centre, (T)scale, (T)(((double)centre - mean) * scale)};
}

/* Whether differences within a row may be beyond the range of T, and are taken in float64: never of
 * double, whose squares leave the range of float64 before that. */
static inline int F(is_wide)(double scale) {
    return sizeof(T) < sizeof(double) && scale < CDROP_WIDE_SCALE;
}

/* y__rc = (x__rc - mean__r) scale__r gamma__c + beta__c, scale = 1 / sqrt(variance + epsilon), of
 * rows of n > 0. */
static void F(normalize_rows)(size_t rows, size_t n, double epsilon, const T *restrict gamma,
                              const T *restrict beta, const T *restrict x, T *restrict y,
                              double *restrict mean, double *restrict scale) {
    for (size_t r = 0; r < rows; ++r, x += n, y += n) {
        double sum[CDROP_SUMS] = {0}, square[CDROP_SUMS] = {0};
        const double first = (double)x[0];
        size_t c = 0;
        for (; c + CDROP_SUMS <= n; c += CDROP_SUMS)
            for (size_t j = 0; j < CDROP_SUMS; ++j) {
                const double difference = (double)x[c + j] - first;
                sum[j] += difference;
                square[j] += difference * difference;
            }
        for (size_t j = 0; c + j < n; ++j) {
            const double difference = (double)x[c + j] - first;
            sum[j] += difference;
            square[j] += difference * difference;
        }
        const double total = F(added)(sum), shift = total / (double)n;
        const double variance = (F(added)(square) - shift * total) / (double)n;
        mean[r] = first + shift;
        scale[r] = 1 / sqrt((variance < 0 ? 0 : variance) + epsilon);
        const F(row_map) map = F(row_map_of)(mean[r], scale[r]);
        if (F(is_wide)(scale[r])) {
            for (c = 0; c < n; ++c)
                y[c] = (T)(((double)x[c] - mean[r]) * scale[r]) * gamma[c] + beta[c];
            continue;
        }
        for (c = 0; c < n; ++c)
            y[c] = ((x[c] - map.centre) * map.factor + map.offset) * gamma[c] + beta[c];
    }
}

/* The backward pass: with h = (x - mean) scale and g = dy gamma, whose means over the row are taken,
 * dx = scale (g - mean(g) - h mean(g h)). dgamma__c += dy__rc h__rc and dbeta__c += dy__rc over
 * the rows. */
static void F(normalize_rows_back)(size_t rows, size_t n, const T *restrict gamma,
                                   const double *restrict mean, const double *restrict scale,
                                   const T *restrict x, const T *restrict dy, T *restrict dx,
                                   double *restrict dgamma, double *restrict dbeta) {
    for (size_t r = 0; r < rows; ++r, x += n, dy += n, dx += n) {
        const F(row_map) map = F(row_map_of)(mean[r], scale[r]);
        double sum[CDROP_SUMS] = {0}, product[CDROP_SUMS] = {0};
        const int wide = F(is_wide)(scale[r]);
        size_t c = 0;
        const size_t n_close = wide ? 0 : n, n_wide = wide ? n : 0;
        for (size_t i = 0; i < n_close; ++i) {
            const T h = (x[i] - map.centre) * map.factor + map.offset;
            dx[i] = h;
            dgamma[i] += (double)(dy[i] * h);
            dbeta[i] += (double)dy[i];
        }
        for (size_t i = 0; i < n_wide; ++i) {
            const T h = (T)(((double)x[i] - mean[r]) * scale[r]);
            dx[i] = h;
            dgamma[i] += (double)(dy[i] * h);
            dbeta[i] += (double)dy[i];
        }
        for (; c + CDROP_SUMS <= n; c += CDROP_SUMS)
            for (size_t j = 0; j < CDROP_SUMS; ++j) {
                const T g = dy[c + j] * gamma[c + j];
                sum[j] += (double)g;
                product[j] += (double)(g * dx[c + j]);
            }
        for (size_t j = 0; c + j < n; ++j) {
            const T g = dy[c + j] * gamma[c + j];
            sum[j] += (double)g;
            product[j] += (double)(g * dx[c + j]);
        }
        const T g_mean = (T)(F(added)(sum) / (double)n);
        const T product_mean = (T)(F(added)(product) / (double)n);
        if (wide) {
            for (size_t i = 0; i < n; ++i)
                dx[i] = (T)((double)(dy[i] * gamma[i] - g_mean - dx[i] * product_mean) * scale[r]);
            continue;
        }
        for (size_t i = 0; i < n; ++i)
            dx[i] = (dy[i] * gamma[i] - g_mean - dx[i] * product_mean) * map.factor;
    }
}
