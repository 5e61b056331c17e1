/* Updates of weights and their projection onto the max-norm ball. The rules are those of
 * optimizer.inc.h of the C core, operation by operation; denormal numbers of float32 count as zero
 * there and here, but for the projection.
 *
 * Weights are (outer, n, inner), and a vector runs over n. Where inner is 1 a block takes a vector,
 * updates and measures it, and shortens it if it has to. Otherwise vectors are columns: blocks
 * update 32 columns of some rows and store the sums of their squares; these, added in order, decide
 * which columns are shortened. The order of a sum depends on the shape alone.
 *
 * What is shortened is rounded towards zero, so that no rounding makes a vector longer than its
 * bound: there is no second look. */

#define NO_RULE 0
#define SGD 1
#define ADAM 2
#define RMSPROP 3
#define ADAGRAD 4
#define ADADELTA 5

template <typename T> struct recipe {
    int rule;
    bool lazy, nesterov;
    T rate, momentum, decay, beta_1, beta_2, rest_1, rest_2, scale, epsilon, keep;
    const T *g; /* like w, or of the live rows and columns */
    const i64 *live_row, *live_column; /* of a row and a column of w: theirs in g, or -1 */
    i64 width, live_columns;
    T *m, *v, *d; /* NULL where a rule has none */
};

INLINE float root_of(float a) {
    return sqrtf(a);
}
INLINE double root_of(double a) {
    return sqrt(a);
}

/* The new weight i; its states are stored. */
template <typename T> INLINE T updated(const recipe<T> &a, i64 i, T w) {
    T g = (T)0;
    if (a.live_row) {
        const i64 row = a.live_row[i / a.width], column = a.live_column[i % a.width];
        if (row >= 0 && column >= 0)
            g = a.g[row * a.live_columns + column];
        else if (a.lazy)
            return w;
    } else {
        g = a.g[i];
    }
    switch (a.rule) {
    case SGD: {
        const T change = (a.decay != 0 ? g + a.decay * w : g) * -a.rate;
        if (!a.v) return w + change;
        const T velocity = a.v[i] * a.momentum + change;
        a.v[i] = velocity;
        return w + (a.nesterov ? change + a.momentum * velocity : velocity);
    }
    case ADAM: {
        const T mean = a.beta_1 * a.m[i] + a.rest_1 * g;
        const T square = a.beta_2 * a.v[i] + a.rest_2 * (g * g);
        a.m[i] = mean;
        a.v[i] = square;
        return a.keep * w - a.rate * mean / (root_of(square) * a.scale + a.epsilon);
    }
    case RMSPROP: {
        const T square = a.beta_2 * a.v[i] + a.rest_2 * (g * g);
        T spread = square;
        if (a.m) {
            const T mean = a.beta_2 * a.m[i] + a.rest_2 * g;
            spread = square - mean * mean;
            spread = spread < 0 ? (T)0 : spread;
            a.m[i] = mean;
        }
        T change = g * -a.rate / (root_of(spread) + a.epsilon);
        if (a.d) {
            change = a.d[i] * a.momentum + change;
            a.d[i] = change;
        }
        a.v[i] = square;
        return w + change;
    }
    case ADAGRAD: {
        const T sum = a.v[i] + g * g;
        a.v[i] = sum;
        return w - a.rate * g / (root_of(sum) + a.epsilon);
    }
    default: { /* ADADELTA */
        const T square = a.beta_2 * a.v[i] + a.rest_2 * (g * g);
        const T change = root_of(a.m[i] + a.epsilon) / root_of(square + a.epsilon) * g;
        a.v[i] = square;
        a.m[i] = a.beta_2 * a.m[i] + a.rest_2 * (change * change);
        return w - a.rate * change;
    }
    }
}

/* Squares ----------------------------------------------------------------------------------------*/

#define BIG 0x1p500
#define SMALL 0x1p-500
#define SHIFT 0x1p600 /* brings either next to 1 */

/* A sum of squares in float64. Those of floats fit; those of doubles are summed in three ranges. */
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

/* What shortens a vector: w / unit times factor, which alone might leave the range of float64.
 * The factor is -1 where the vector is inside, or not finite. */
struct shrinking {
    double factor, inverse_unit;
};

/* Of n numbers with a norm of root in units of unit. The goal lies below the bound by what another
 * order of summation could make of the same numbers. */
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

template <typename T> INLINE void flat_updated(T *w, i64 n, const recipe<T> &a) {
    for (i64 i = FIRST; i < n; i += STRIDE) w[i] = updated(a, i, w[i]);
}

/* A block takes a vector at a time. */
template <typename T>
INLINE void rows_updated(T *w, i64 vectors, i64 n, double bound, const recipe<T> &a) {
    __shared__ double room[WARP];
    const group g = group_of(blockDim.x);
    for (i64 v = g.first; v < vectors; v += g.stride) {
        T *row = w + v * n;
        squares<T> s = no_squares<T>();
#pragma unroll 4
        for (i64 k = threadIdx.x; k < n; k += blockDim.x) {
            T weight = row[k];
            if (a.rule != NO_RULE) {
                weight = updated(a, v * n + k, weight);
                row[k] = weight;
            }
            s.add(weight);
        }
        for (int p = 0; p < squares<T>::parts; ++p) s.part[p] = joined(g, s.part[p], room, sum_of());
        const shrinking less = shrinking_for(s, n, bound);
        if (less.factor < 0) continue;
        for (i64 k = threadIdx.x; k < n; k += blockDim.x) row[k] = shortened(row[k], less);
    }
}

/* Blocks of 32 x LINES threads take 32 columns of a chunk of rows. Sums: (chunk, part, column). */
#define LINES 8
template <typename T>
INLINE void columns_updated(T *w, i64 outer, i64 n, i64 inner, i64 chunk_rows, double *sums,
                           const recipe<T> &a) {
    __shared__ double room[LINES][WARP];
    const int lane = threadIdx.x % WARP, line = threadIdx.x / WARP;
    const i64 columns = outer * inner, tiles = (columns + WARP - 1) / WARP;
    const i64 chunks = (n + chunk_rows - 1) / chunk_rows;
    for (i64 task = blockIdx.x; task < tiles * chunks; task += gridDim.x) {
        const i64 column = task % tiles * WARP + lane, chunk = task / tiles;
        const i64 start = column / inner * (n * inner) + column % inner;
        const i64 end = (chunk + 1) * chunk_rows < n ? (chunk + 1) * chunk_rows : n;
        squares<T> s = no_squares<T>();
        if (column < columns) {
#pragma unroll 4
            for (i64 r = chunk * chunk_rows + line; r < end; r += LINES) {
                const i64 i = start + r * inner;
                T weight = w[i];
                if (a.rule != NO_RULE) {
                    weight = updated(a, i, weight);
                    w[i] = weight;
                }
                s.add(weight);
            }
        }
        for (int p = 0; p < squares<T>::parts; ++p) {
            room[line][lane] = s.part[p];
            __syncthreads();
            if (line == 0 && column < columns) {
                double total = 0.0;
                for (int l = 0; l < LINES; ++l) total += room[l][lane];
                sums[(chunk * squares<T>::parts + p) * columns + column] = total;
            }
            __syncthreads();
        }
    }
}

template <typename T>
INLINE void factors_of_columns(const double *sums, i64 chunks, i64 columns, i64 n, double bound,
                           double *factors) {
    for (i64 column = FIRST; column < columns; column += STRIDE) {
        squares<T> s = no_squares<T>();
        for (i64 chunk = 0; chunk < chunks; ++chunk)
            for (int p = 0; p < squares<T>::parts; ++p)
                s.part[p] += sums[(chunk * squares<T>::parts + p) * columns + column];
        const shrinking less = shrinking_for(s, n, bound);
        factors[column] = less.factor;
        factors[columns + column] = less.inverse_unit;
    }
}

/* Of columns that stay as they are nothing but the factor is read. Factors: (2, column). */
template <typename T>
INLINE void columns_shortened(T *w, i64 outer, i64 n, i64 inner, i64 chunk_rows,
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

/* Sums of squares of pieces of an array, one a block; added up by whoever asks. */
template <typename T> INLINE void squares_summed(const T *w, i64 n, i64 piece, double *sums) {
    __shared__ double room[WARP];
    const group g = group_of(blockDim.x);
    for (i64 p = g.first; p < (n + piece - 1) / piece; p += g.stride) {
        double sum = 0.0;
        const i64 end = (p + 1) * piece < n ? (p + 1) * piece : n;
        for (i64 i = p * piece + threadIdx.x; i < end; i += blockDim.x)
            sum += exactly(w[i]) * exactly(w[i]);
        sum = joined(g, sum, room, sum_of());
        if (threadIdx.x == 0) sums[p] = sum;
    }
}

/* The numbers of a rule come by value, or from the memory of the device where `moving` is not NULL:
 * those of a graph that is launched again. */
struct rule_numbers {
    double rate, momentum, decay, beta_1, beta_2, rest_1, rest_2, scale, epsilon, keep;
};

#define RECIPE_ARGUMENTS                                                                         \
    int rule, int lazy, int nesterov, double rate, double momentum, double decay, double beta_1, \
        double beta_2, double rest_1, double rest_2, double scale, double epsilon, double keep,  \
        const rule_numbers *moving, const STORED *g, const i64 *live_row,                        \
        const i64 *live_column, i64 width, i64 live_columns, STORED *m, STORED *v, STORED *d
#define RECIPE_OF                                                                                \
    recipe_of(rule, lazy, nesterov,                                                              \
              moving ? *moving                                                                   \
                     : rule_numbers{rate, momentum, decay, beta_1, beta_2, rest_1, rest_2,       \
                                    scale, epsilon, keep},                                       \
              g, live_row, live_column, width, live_columns, m, v, d)

INLINE recipe<STORED> recipe_of(int rule, int lazy, int nesterov, const rule_numbers &n,
                                const STORED *g, const i64 *live_row, const i64 *live_column,
                                i64 width, i64 live_columns, STORED *m, STORED *v, STORED *d) {
    typedef STORED T;
    return {rule,        lazy != 0,   nesterov != 0, (T)n.rate,    (T)n.momentum,
            (T)n.decay,  (T)n.beta_1, (T)n.beta_2,   (T)n.rest_1,  (T)n.rest_2,
            (T)n.scale,  (T)n.epsilon, (T)n.keep,    g,            live_row,
            live_column, width,       live_columns,  m,            v,
            d};
}

KERNEL update_flat(STORED *w, i64 size, RECIPE_ARGUMENTS) {
    flat_updated(w, size, RECIPE_OF);
}

KERNEL update_rows(STORED *w, i64 vectors, i64 n, double bound, RECIPE_ARGUMENTS) {
    rows_updated(w, vectors, n, bound, RECIPE_OF);
}

KERNEL update_columns(STORED *w, i64 outer, i64 n, i64 inner, i64 chunk_rows, double *sums,
                      RECIPE_ARGUMENTS) {
    columns_updated(w, outer, n, inner, chunk_rows, sums, RECIPE_OF);
}

KERNEL column_factors(const double *sums, i64 chunks, i64 columns, i64 n, double bound,
                      double *factors) {
    factors_of_columns<STORED>(sums, chunks, columns, n, bound, factors);
}

KERNEL shorten_columns(STORED *w, i64 outer, i64 n, i64 inner, i64 chunk_rows,
                       const double *factors) {
    columns_shortened(w, outer, n, inner, chunk_rows, factors);
}

KERNEL square_sums(const STORED *w, i64 n, i64 piece, double *sums) {
    squares_summed(w, n, piece, sums);
}
