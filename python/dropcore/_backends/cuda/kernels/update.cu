/* Updates of weights, and their projection onto the max-norm ball. The rules are those of the C
 * core's optimizer.inc.h, operation by operation. Denormal float32 numbers count as zero in the
 * rules, here and there, but not in the projection.
 *
 * Weights are (outer, n, inner), and the vectors run over n. If inner is 1, a block updates a vector,
 * computes its norm and shortens it if necessary. Otherwise the vectors are columns: blocks update
 * 32 columns of a chunk of rows and store the sums of their squares; the sums, added in order, decide
 * which columns are shortened. The order of a sum depends on the shape alone.
 *
 * Shortened weights are rounded towards zero, so that rounding makes no vector longer than its
 * bound and no second pass is needed. */

/* What the host passes to every kernel that updates: UPDATE of updates.py, in the same order. */
struct update {
    hyperparameters values;
    const hyperparameters *captured; /* used instead of values unless NULL: in a CUDA graph */
    const STORED *gradient;          /* in the shape of w, or only its block of rows and columns */
    const i64 *row_position, *column_position; /* of a row of w in the block, or -1; or NULL */
    i64 width, block_width;                    /* columns of w and of the block */
    STORED *mean, *square, *velocity, *change; /* NULL unless the rule has it */
    int rule, lazy, nesterov;
};

/* The hyperparameters in the type of the weights. */
struct rounded {
    STORED HYPERPARAMETERS;
};

INLINE rounded rounded_of(const update &u) {
    const hyperparameters exact = u.captured ? *u.captured : u.values;
    rounded p;
#pragma unroll
    for (int k = 0; k < N_HYPERPARAMETERS; ++k)
        ((STORED *)&p)[k] = (STORED)((const double *)&exact)[k];
    return p;
}

INLINE float root_of(float a) {
    return sqrtf(a);
}
INLINE double root_of(double a) {
    return sqrt(a);
}

/* The new value of weight i; the states are updated in memory. */
INLINE STORED updated(const update &u, const rounded &p, i64 i, STORED w) {
    typedef STORED T;
    T g = (T)0;
    if (u.row_position) {
        const i64 row = u.row_position[i / u.width], column = u.column_position[i % u.width];
        if (row >= 0 && column >= 0)
            g = u.gradient[row * u.block_width + column];
        else if (u.lazy)
            return w;
    } else {
        g = u.gradient[i];
    }
    switch (u.rule) {
    case RULE_SGD: {
        const T change = (p.decay != 0 ? g + p.decay * w : g) * -p.rate;
        if (!u.velocity) return w + change;
        const T velocity = u.velocity[i] * p.momentum + change;
        u.velocity[i] = velocity;
        return w + (u.nesterov ? change + p.momentum * velocity : velocity);
    }
    case RULE_ADAM: {
        const T mean = p.beta_1 * u.mean[i] + p.rest_1 * g;
        const T square = p.beta_2 * u.square[i] + p.rest_2 * (g * g);
        u.mean[i] = mean;
        u.square[i] = square;
        return p.keep * w - p.rate * mean / (root_of(square) * p.scale + p.epsilon);
    }
    case RULE_RMSPROP: {
        const T square = p.beta_2 * u.square[i] + p.rest_2 * (g * g);
        T spread = square;
        if (u.mean) {
            const T mean = p.beta_2 * u.mean[i] + p.rest_2 * g;
            spread = square - mean * mean;
            spread = spread < 0 ? (T)0 : spread;
            u.mean[i] = mean;
        }
        T change = g * -p.rate / (root_of(spread) + p.epsilon);
        if (u.velocity) {
            change = u.velocity[i] * p.momentum + change;
            u.velocity[i] = change;
        }
        u.square[i] = square;
        return w + change;
    }
    case RULE_ADAGRAD: {
        const T sum = u.square[i] + g * g;
        u.square[i] = sum;
        return w - p.rate * g / (root_of(sum) + p.epsilon);
    }
    default: { /* RULE_ADADELTA */
        const T square = p.beta_2 * u.square[i] + p.rest_2 * (g * g);
        const T change = root_of(u.change[i] + p.epsilon) / root_of(square + p.epsilon) * g;
        u.square[i] = square;
        u.change[i] = p.beta_2 * u.change[i] + p.rest_2 * (change * change);
        return w - p.rate * change;
    }
    }
}

/* Squares ----------------------------------------------------------------------------------------*/

#define BIG 0x1p500
#define SMALL 0x1p-500
#define SHIFT 0x1p600 /* scales either to the neighbourhood of 1 */

/* A sum of squares in float64. Squares of floats are in range; those of doubles are summed in three
 * ranges. */
template <typename T> struct squares {
    static constexpr int parts = 1;
    double part[1];
    __device__ __forceinline__ void add(float w) {
        const double exact = exactly(w);
        part[0] += exact * exact;
    }
};
template <> struct squares<double> {
    static constexpr int parts = 3;
    double part[3]; /* of the middle, the big and the small numbers */
    __device__ __forceinline__ void add(double w) {
        const double size = fabs(w);
        if (size > BIG) {
            part[1] += (w / SHIFT) * (w / SHIFT);
        } else if (size < SMALL) {
            part[2] += (w * SHIFT) * (w * SHIFT);
        } else {
            part[0] += w * w; /* a NaN too */
        }
    }
};

template <typename T> INLINE squares<T> no_squares() {
    squares<T> s;
    for (int p = 0; p < squares<T>::parts; ++p) s.part[p] = 0.0;
    return s;
}

/* A vector is shortened to w / unit * factor; the product of the two could be out of range. The
 * factor is -1 if the vector is inside the ball, or not finite. */
struct shrinking {
    double factor, inverse_unit;
};

/* For n numbers with the norm root * unit. The new norm is below the bound by the largest difference
 * that another order of summation could make. */
INLINE shrinking shrinking_of(double root, double unit, i64 n, double bound) {
    shrinking s = {-1.0, 1.0 / unit};
    if (!(root <= 1.7976931348623157e308) || !(root > bound / unit)) return s;
    s.factor = bound * (1.0 - 2.220446049250313e-16 * (6.0 + sqrt((double)n))) / root;
    return s;
}
INLINE shrinking shrinking_for(const squares<float> &s, i64 n, double bound) {
    return shrinking_of(sqrt(s.part[0]), 1.0, n, bound);
}
INLINE shrinking shrinking_for(const squares<double> &s, i64 n, double bound) {
    const double middle = s.part[0], big = s.part[1], small = s.part[2];
    if (big > 0) return shrinking_of(sqrt(middle / SHIFT / SHIFT + big), SHIFT, n, bound);
    if (!(middle < 0x1p-900)) return shrinking_of(sqrt(middle), 1.0, n, bound);
    return shrinking_of(sqrt(middle * SHIFT * SHIFT + small), 1.0 / SHIFT, n, bound);
}

INLINE float shortened(float w, const shrinking &s) {
    return towards_zero(exactly(w) * s.factor);
}
INLINE double shortened(double w, const shrinking &s) {
    return __dmul_rz(w * s.inverse_unit, s.factor);
}

/* Kernels ----------------------------------------------------------------------------------------*/

KERNEL update_flat(STORED *w, i64 size, update u) {
    const rounded p = rounded_of(u);
    for (i64 i = FIRST; i < size; i += STRIDE) w[i] = updated(u, p, i, w[i]);
}

/* A block updates one vector at a time. */
KERNEL update_rows(STORED *w, i64 vectors, i64 n, double bound, update u) {
    __shared__ double scratch[WARP];
    const rounded p = rounded_of(u);
    const group g = group_of(blockDim.x);
    for (i64 v = g.first; v < vectors; v += g.stride) {
        STORED *row = w + v * n;
        squares<STORED> s = no_squares<STORED>();
#pragma unroll 4
        for (i64 k = threadIdx.x; k < n; k += blockDim.x) {
            STORED weight = row[k];
            if (u.rule != RULE_PROJECTION) {
                weight = updated(u, p, v * n + k, weight);
                row[k] = weight;
            }
            s.add(weight);
        }
        for (int part = 0; part < squares<STORED>::parts; ++part)
            s.part[part] = joined(g, s.part[part], scratch, sum_of());
        const shrinking less = shrinking_for(s, n, bound);
        if (less.factor < 0) continue;
        for (i64 k = threadIdx.x; k < n; k += blockDim.x) row[k] = shortened(row[k], less);
    }
}

/* A block of LINES warps updates 32 columns of a chunk of rows. sums: (chunk, part, column). */
KERNEL update_columns(STORED *w, i64 outer, i64 n, i64 inner, i64 chunk_rows, double *sums,
                      update u) {
    __shared__ double scratch[LINES][WARP];
    const rounded p = rounded_of(u);
    const int lane = threadIdx.x % WARP, line = threadIdx.x / WARP;
    const i64 columns = outer * inner, tiles = (columns + WARP - 1) / WARP;
    const i64 chunks = (n + chunk_rows - 1) / chunk_rows;
    for (i64 task = blockIdx.x; task < tiles * chunks; task += gridDim.x) {
        const i64 column = task % tiles * WARP + lane, chunk = task / tiles;
        const i64 start = column / inner * (n * inner) + column % inner;
        const i64 end = (chunk + 1) * chunk_rows < n ? (chunk + 1) * chunk_rows : n;
        squares<STORED> s = no_squares<STORED>();
        if (column < columns) {
#pragma unroll 4
            for (i64 r = chunk * chunk_rows + line; r < end; r += LINES) {
                const i64 i = start + r * inner;
                STORED weight = w[i];
                if (u.rule != RULE_PROJECTION) {
                    weight = updated(u, p, i, weight);
                    w[i] = weight;
                }
                s.add(weight);
            }
        }
        for (int part = 0; part < squares<STORED>::parts; ++part) {
            scratch[line][lane] = s.part[part];
            __syncthreads();
            if (line == 0 && column < columns) {
                double total = 0.0;
                for (int l = 0; l < LINES; ++l) total += scratch[l][lane];
                sums[(chunk * squares<STORED>::parts + part) * columns + column] = total;
            }
            __syncthreads();
        }
    }
}

KERNEL column_factors(const double *sums, i64 chunks, i64 columns, i64 n, double bound,
                      double *factors) {
    for (i64 column = FIRST; column < columns; column += STRIDE) {
        squares<STORED> s = no_squares<STORED>();
        for (i64 chunk = 0; chunk < chunks; ++chunk)
            for (int p = 0; p < squares<STORED>::parts; ++p)
                s.part[p] += sums[(chunk * squares<STORED>::parts + p) * columns + column];
        const shrinking less = shrinking_for(s, n, bound);
        factors[column] = less.factor;
        factors[columns + column] = less.inverse_unit;
    }
}

/* Of columns that need no shortening only the factor is read. factors: (2, column). */
KERNEL shorten_columns(STORED *w, i64 outer, i64 n, i64 inner, i64 chunk_rows,
                       const double *factors) {
    const int lane = threadIdx.x % WARP, line = threadIdx.x / WARP;
    const i64 columns = outer * inner, tiles = (columns + WARP - 1) / WARP;
    const i64 chunks = (n + chunk_rows - 1) / chunk_rows;
    for (i64 task = blockIdx.x; task < tiles * chunks; task += gridDim.x) {
        const i64 column = task % tiles * WARP + lane, chunk = task / tiles;
        if (column >= columns || factors[column] < 0) continue;
        const shrinking less = {factors[column], factors[columns + column]};
        const i64 start = column / inner * (n * inner) + column % inner;
        const i64 end = (chunk + 1) * chunk_rows < n ? (chunk + 1) * chunk_rows : n;
        for (i64 r = chunk * chunk_rows + line; r < end; r += LINES)
            w[start + r * inner] = shortened(w[start + r * inner], less);
    }
}

/* Sums of squares of the pieces of an array, one piece a block; the caller adds them. */
KERNEL square_sums(const STORED *w, i64 n, i64 piece, double *sums) {
    __shared__ double scratch[WARP];
    const group g = group_of(blockDim.x);
    for (i64 p = g.first; p < (n + piece - 1) / piece; p += g.stride) {
        double sum = 0.0;
        const i64 end = (p + 1) * piece < n ? (p + 1) * piece : n;
        for (i64 i = p * piece + threadIdx.x; i < end; i += blockDim.x)
            sum += exactly(w[i]) * exactly(w[i]);
        sum = joined(g, sum, scratch, sum_of());
        if (threadIdx.x == 0) sums[p] = sum;
    }
}
