/* Batch and layer normalisation of contiguous matrices (rows, columns): the C core's
 * normalization.inc.h with another order of summation. Sums are in float64, of differences from the
 * first element of the column or row. A mean is given as `centre`, rounded to T; the rounding error
 * is in the offset. */

struct pair {
    double first, second;
};

/* Columns: a block of LINES warps handles 32 columns of a chunk of rows --------------------------*/

struct place {
    i64 column, row, end, chunk; /* the thread's column and the rows from `row` on in steps of LINES */
};

INLINE i64 tiles_of(i64 columns) {
    return (columns + WARP - 1) / WARP;
}

INLINE place place_of(i64 task, i64 rows, i64 columns, i64 chunk_rows) {
    const i64 chunk = task / tiles_of(columns), start = chunk * chunk_rows;
    return {task % tiles_of(columns) * WARP + threadIdx.x % WARP, start + threadIdx.x / WARP,
            start + chunk_rows < rows ? start + chunk_rows : rows, chunk};
}

/* Sums over the lines of a block; the first line gets the result. */
INLINE pair lines_added(pair own) {
    __shared__ pair scratch[LINES][WARP];
    const int lane = threadIdx.x % WARP, line = threadIdx.x / WARP;
    scratch[line][lane] = own;
    __syncthreads();
    pair total = {0.0, 0.0};
    for (int l = 0; line == 0 && l < LINES; ++l) {
        total.first += scratch[l][lane].first;
        total.second += scratch[l][lane].second;
    }
    __syncthreads();
    return total;
}

/* Sums of terms(row, column, index) over the rows of each chunk: (chunk, column). */
template <typename Terms>
INLINE void pairs_summed(i64 rows, i64 columns, i64 chunk_rows, pair *sums, const Terms &terms) {
    const i64 chunks = (rows + chunk_rows - 1) / chunk_rows;
    for (i64 task = blockIdx.x; task < tiles_of(columns) * chunks; task += gridDim.x) {
        const place p = place_of(task, rows, columns, chunk_rows);
        pair own = {0.0, 0.0};
        if (p.column < columns) {
#pragma unroll 4
            for (i64 r = p.row; r < p.end; r += LINES) {
                const pair term = terms(r, p.column, r * columns + p.column);
                own.first += term.first;
                own.second += term.second;
            }
        }
        own = lines_added(own);
        if (threadIdx.x < WARP && p.column < columns) sums[p.chunk * columns + p.column] = own;
    }
}

/* Adds the sums of all chunks, and calls finish(column, sum) for each column. */
template <typename Finish>
INLINE void chunks_added(const pair *sums, i64 chunks, i64 columns, const Finish &finish) {
    for (i64 tile = blockIdx.x; tile < tiles_of(columns); tile += gridDim.x) {
        const place p = place_of(tile, chunks, columns, chunks);
        pair own = {0.0, 0.0};
        if (p.column < columns) {
#pragma unroll 4
            for (i64 chunk = p.row; chunk < p.end; chunk += LINES) {
                own.first += sums[chunk * columns + p.column].first;
                own.second += sums[chunk * columns + p.column].second;
            }
        }
        own = lines_added(own);
        if (threadIdx.x < WARP && p.column < columns) finish(p.column, own);
    }
}

/* Batch ------------------------------------------------------------------------------------------*/

/* The difference from the first element of the column, and its square. */
template <typename T> struct differences {
    const T *x;
    __device__ __forceinline__ pair operator()(i64, i64 c, i64 i) const {
        const double difference = (double)x[i] - (double)x[c];
        return {difference, difference * difference};
    }
};

template <typename T> struct to_moments {
    const T *x;
    double rows, *mean, *variance;
    __device__ __forceinline__ void operator()(i64 c, const pair &sums) const {
        const double shift = sums.first / rows, square = sums.second - shift * sums.first;
        mean[c] = (double)x[c] + shift;
        variance[c] = (square < 0 ? 0.0 : square) / rows;
    }
};

/* dy, and dy (x - centre). */
template <typename T> struct batch_products {
    const T *x, *dy;
    const double *mean;
    __device__ __forceinline__ pair operator()(i64, i64 c, i64 i) const {
        return {(double)dy[i], (double)(dy[i] * (x[i] - (T)mean[c]))};
    }
};

/* The sums of dy, and of dy h, with h = (x - mean) / deviation: (2, columns). */
template <typename T> struct to_batch_sums {
    const double *mean, *variance;
    double epsilon, *sums;
    i64 columns;
    __device__ __forceinline__ void operator()(i64 c, const pair &found) const {
        const double rest = (double)(T)mean[c] - mean[c]; /* the rounding error of centre */
        sums[c] = found.first;
        sums[columns + c] =
            (found.second + rest * found.first) * (1.0 / sqrt(variance[c] + epsilon));
    }
};

KERNEL moment_sums(const STORED *x, i64 rows, i64 columns, i64 chunk_rows, pair *sums) {
    pairs_summed(rows, columns, chunk_rows, sums, differences<STORED>{x});
}

KERNEL moments(const pair *sums, i64 chunks, const STORED *x, i64 rows, i64 columns, double *mean,
               double *variance) {
    chunks_added(sums, chunks, columns,
                 to_moments<STORED>{x, (double)rows, mean, variance});
}

/* y = (x - mean) / sqrt(variance + epsilon) gamma + beta */
KERNEL map_columns(const STORED *x, STORED *y, i64 rows, i64 columns, i64 chunk_rows,
                   const double *mean, const double *variance, double epsilon,
                   const STORED *gamma, const STORED *beta) {
    const i64 chunks = (rows + chunk_rows - 1) / chunk_rows;
    for (i64 task = blockIdx.x; task < tiles_of(columns) * chunks; task += gridDim.x) {
        const place p = place_of(task, rows, columns, chunk_rows);
        const i64 c = p.column;
        if (c >= columns) continue;
        const double full = (double)gamma[c] / sqrt(variance[c] + epsilon);
        const STORED centre = (STORED)mean[c], factor = (STORED)full;
        const STORED offset = (STORED)((double)beta[c] + ((double)centre - mean[c]) * full);
#pragma unroll 4
        for (i64 r = p.row; r < p.end; r += LINES)
            y[r * columns + c] = (x[r * columns + c] - centre) * factor + offset;
    }
}

KERNEL batch_sums(const STORED *x, const STORED *dy, i64 rows, i64 columns, i64 chunk_rows,
                  const double *mean, pair *sums) {
    pairs_summed(rows, columns, chunk_rows, sums, batch_products<STORED>{x, dy, mean});
}

KERNEL batch_sums_added(const pair *parts, i64 chunks, i64 columns, const double *mean,
                        const double *variance, double epsilon, double *sums) {
    chunks_added(parts, chunks, columns,
                 to_batch_sums<STORED>{mean, variance, epsilon, sums, columns});
}

/* dx = gamma scale (dy - sums[0] / count - h sums[1] / count), with h = (x - mean) scale */
KERNEL map_columns_back(const STORED *x, const STORED *dy, STORED *dx, i64 rows, i64 columns,
                        i64 chunk_rows, const double *mean, const double *variance,
                        double epsilon, const STORED *gamma, const double *sums, double count) {
    const i64 chunks = (rows + chunk_rows - 1) / chunk_rows;
    for (i64 task = blockIdx.x; task < tiles_of(columns) * chunks; task += gridDim.x) {
        const place p = place_of(task, rows, columns, chunk_rows);
        const i64 c = p.column;
        if (c >= columns) continue;
        const double scale = 1.0 / sqrt(variance[c] + epsilon), full = (double)gamma[c] * scale;
        const double down = -full * scale * sums[columns + c] / count;
        const STORED centre = (STORED)mean[c], factor = (STORED)full, slope = (STORED)down;
        const STORED offset =
            (STORED)(((double)centre - mean[c]) * down - full * sums[c] / count);
#pragma unroll 4
        for (i64 r = p.row; r < p.end; r += LINES) {
            const i64 i = r * columns + c;
            dx[i] = (dy[i] * factor + offset) + (x[i] - centre) * slope;
        }
    }
}

/* Layer ------------------------------------------------------------------------------------------*/

/* (x - mean) scale of a row is (x - centre) factor + offset. */
template <typename T> struct row_map {
    T centre, factor, offset;
    __device__ __forceinline__ T operator()(T x) const {
        return (x - centre) * factor + offset;
    }
};

template <typename T> INLINE row_map<T> row_map_of(double mean, double scale) {
    const T centre = (T)mean;
    return {centre, (T)scale, (T)(((double)centre - mean) * scale)};
}

/* dy, and dy h. */
template <typename T> struct layer_products {
    const T *x, *dy;
    const double *mean, *scale;
    __device__ __forceinline__ pair operator()(i64 r, i64, i64 i) const {
        const T h = row_map_of<T>(mean[r], scale[r])(x[i]);
        return {(double)dy[i], (double)(dy[i] * h)};
    }
};

template <typename T> struct to_layer_gradients {
    T *dgamma, *dbeta;
    __device__ __forceinline__ void operator()(i64 c, const pair &sums) const {
        dbeta[c] = (T)sums.first;
        dgamma[c] = (T)sums.second;
    }
};

/* y = (x - mean) scale gamma + beta, scale = 1 / sqrt(variance + epsilon), by rows. */
KERNEL normalize_rows(const STORED *x, STORED *y, i64 rows, i64 n, int width, double epsilon,
                      const STORED *gamma, const STORED *beta, double *mean, double *scale) {
    __shared__ double scratch[WARP];
    const group g = group_of(width);
    for (i64 row = g.first; row < rows; row += g.stride) {
        const STORED *from = x + row * n;
        const double first = (double)from[0];
        double sum = 0.0, square = 0.0;
#pragma unroll 4
        for (i64 i = g.thread; i < n; i += g.size) {
            const double difference = (double)from[i] - first;
            sum += difference;
            square += difference * difference;
        }
        sum = joined(g, sum, scratch, sum_of());
        square = joined(g, square, scratch, sum_of());
        const double shift = sum / (double)n, variance = (square - shift * sum) / (double)n;
        const double middle = first + shift;
        const double factor = 1.0 / sqrt((variance < 0 ? 0.0 : variance) + epsilon);
        if (g.thread == 0) {
            mean[row] = middle;
            scale[row] = factor;
        }
        const row_map<STORED> h = row_map_of<STORED>(middle, factor);
#pragma unroll 4
        for (i64 i = g.thread; i < n; i += g.size)
            y[row * n + i] = h(from[i]) * gamma[i] + beta[i];
    }
}

/* With g = dy gamma and means over the row, dx = scale (g - mean(g) - h mean(g h)). */
KERNEL normalize_rows_back(const STORED *x, const STORED *dy, STORED *dx, i64 rows, i64 n,
                           int width, const double *mean, const double *scale,
                           const STORED *gamma) {
    __shared__ double scratch[WARP];
    const group g = group_of(width);
    for (i64 row = g.first; row < rows; row += g.stride) {
        const row_map<STORED> h = row_map_of<STORED>(mean[row], scale[row]);
        const i64 start = row * n;
        double sum = 0.0, product = 0.0;
#pragma unroll 4
        for (i64 i = g.thread; i < n; i += g.size) {
            const STORED gradient = dy[start + i] * gamma[i];
            sum += (double)gradient;
            product += (double)(gradient * h(x[start + i]));
        }
        const STORED mean_gradient = (STORED)(joined(g, sum, scratch, sum_of()) / (double)n);
        const STORED mean_product = (STORED)(joined(g, product, scratch, sum_of()) / (double)n);
#pragma unroll 4
        for (i64 i = g.thread; i < n; i += g.size)
            dx[start + i] = (dy[start + i] * gamma[i] - mean_gradient -
                             h(x[start + i]) * mean_product) * h.factor;
    }
}

KERNEL layer_sums(const STORED *x, const STORED *dy, i64 rows, i64 columns, i64 chunk_rows,
                  const double *mean, const double *scale, pair *sums) {
    pairs_summed(rows, columns, chunk_rows, sums, layer_products<STORED>{x, dy, mean, scale});
}

KERNEL layer_gradients(const pair *sums, i64 chunks, i64 columns, STORED *dgamma,
                       STORED *dbeta) {
    chunks_added(sums, chunks, columns, to_layer_gradients<STORED>{dgamma, dbeta});
}
