/* What a layer does around its products: bias, activation, mask and residual in one pass. The
 * activation is KIND, one for each time that this is compiled. */

#define NONE 0
#define RELU 1
#define LEAKY_RELU 2
#define ELU 3
#define SELU 4
#define GELU 5
#define GELU_TANH 6
#define SILU 7
#define TANH 8
#define SIGMOID 9
#define SOFTPLUS 10

#define SELU_ALPHA 1.6732632423543772848
#define SELU_SCALE 1.0507009873554804934
#define GELU_SLOPE 1.5957691216057308 /* 2 sqrt(2 / pi) */
#define GELU_CUBIC 0.044715

INLINE float expm1_of(float x) {
    return expm1f(x);
}
INLINE double expm1_of(double x) {
    return expm1(x);
}
INLINE float log1p_of(float x) {
    return log1pf(x);
}
INLINE double log1p_of(double x) {
    return log1p(x);
}
INLINE float normal_cdf(float x) {
    return 0.5f * erfcf(-0.70710678118654752440f * x);
}
INLINE double normal_cdf(double x) {
    return 0.5 * erfc(-0.70710678118654752440 * x);
}
template <typename C> INLINE C within(C x, C most) {
    return x < -most ? -most : most < x ? most : x;
}

/* Long functions are called and not copied into every unrolled loop: to compile them there would
 * take ten times as long. */
template <typename C> static __device__ __noinline__ C curved(int kind, C x, C a) {
    switch (kind) {
    case ELU: return x <= 0 ? a * expm1_of(x) : x;
    case SELU:
        return x <= 0 ? (C)(SELU_SCALE * SELU_ALPHA) * expm1_of(x) : x * (C)SELU_SCALE;
    case GELU: return x * normal_cdf(x);
    case GELU_TANH:
        return x * sigmoid_of(x * ((C)GELU_SLOPE + (C)(GELU_SLOPE * GELU_CUBIC) * (x * x)));
    case SILU: return x * sigmoid_of(x);
    case TANH: return tanh_of(x);
    case SIGMOID: return sigmoid_of(x);
    case SOFTPLUS: return (x > 0 ? x : (C)0) + log1p_of(exp_of(x < 0 ? x : -x));
    default: return x;
    }
}

template <typename C> INLINE C activated(int kind, C x, C a) {
    if (kind == NONE) return x;
    if (kind == RELU) return x <= 0 ? (C)0 : x; /* a NaN stays */
    if (kind == LEAKY_RELU) return x <= 0 ? x * a : x;
    return curved(kind, x, a);
}

template <typename C> static __device__ __noinline__ C curved_back(int kind, C held, C dy, C a) {
    switch (kind) {
    case ELU: return held > 0 ? dy : dy * (held + a);
    case SELU:
        return dy * (held > 0 ? (C)SELU_SCALE : held + (C)(SELU_SCALE * SELU_ALPHA));
    case GELU: {
        const C x = within(held, (C)40);
        return dy * (normal_cdf(held) + x * ((C)0.39894228040143267794 * exp_of((C)-0.5 * x * x)));
    }
    case GELU_TANH: {
        const C x = within(held, (C)40), square = x * x;
        const C s = sigmoid_of(x * ((C)GELU_SLOPE + (C)(GELU_SLOPE * GELU_CUBIC) * square));
        const C inner = (C)GELU_SLOPE + (C)(3 * GELU_SLOPE * GELU_CUBIC) * square;
        return dy * (s + x * inner * (s * ((C)1 - s)));
    }
    case SILU: {
        const C s = sigmoid_of(held);
        return dy * (s + within(held, (C)1000) * (s * ((C)1 - s)));
    }
    case TANH: return dy * (((C)1 - held) * ((C)1 + held));
    case SIGMOID: return dy * (held * ((C)1 - held));
    case SOFTPLUS: return dy * -expm1_of(-held);
    default: return dy;
    }
}

/* dy f'(x), where held is x of GELU, GELU_TANH and SILU, and else y. */
template <typename C> INLINE C activated_back(int kind, C held, C dy, C a) {
    if (kind == NONE) return dy;
    if (kind == RELU) return held > 0 ? dy : (C)0;
    if (kind == LEAKY_RELU) return held > 0 ? dy : dy * a;
    return curved_back(kind, held, dy, a);
}

/* Where the decisions of an element come from. */
#define ALL_KEPT 0
#define DRAWN 1 /* from the key, in the shape of y */
#define GIVEN 2 /* bits in the shape of y */
#define UNITS 3 /* a bit a column */

/* y = kept ? act(z + bias) scale : +0.0, then + residual; and back:
 * dz = kept ? dy scale act'(held) : +0.0. With `back` z is dy. */
template <typename T> struct ending {
    const T *bias, *residual, *held; /* NULL where there is none */
    int kind, source;
    real_of<T> a, scale;
    const u8 *bits;
    draw d;
    u64 offset;
    i64 columns;
    bool back;
};

template <typename T>
INLINE u32 kept_at(const ending<T> &e, i64 i, i64 column, u32 drawn) {
    return e.source == GIVEN   ? bit_at(e.bits, i)
           : e.source == UNITS ? bit_at(e.bits, column)
                               : drawn & 1u;
}

template <typename T>
INLINE T ended(const ending<T> &e, i64 i, i64 column, u32 kept, T z) {
    typedef real_of<T> C;
    C value = widen(z);
    if (e.back) {
        value = kept ? times(value, e.scale) : (C)0;
        if (e.kind != NONE) value = activated_back(e.kind, widen(e.held[i]), value, e.a);
        return narrow<T>(value);
    }
    if (e.bias) value = value + widen(e.bias[column]);
    value = activated(e.kind, value, e.a);
    value = kept ? times(value, e.scale) : (C)0;
    if (e.residual) value = value + widen(e.residual[i]);
    return narrow<T>(value);
}

template <typename T> INLINE void end(const T *z, T *y, i64 n, const ending<T> &e) {
    const u64 before = e.offset % DROPCORE_GROUP * sizeof(T);
    const bool fours = in_fours<T>((u64)z - before) && in_fours<T>((u64)y - before);
    each_quad(n, e.d, e.source == DRAWN, e.offset, [&](i64 start, u32 drawn) {
        i64 rest = start < 0 ? 0 : start, column = split(rest, e.columns);
        if (fours && start >= 0 && start + 4 <= n) {
            four<T> v = *(const four<T> *)(z + start);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const i64 i = start + j;
                v.at[j] = ended(e, i, column, kept_at(e, i, column, drawn >> j), v.at[j]);
                if (++column == e.columns) column = 0;
            }
            *(four<T> *)(y + start) = v;
            return;
        }
#pragma unroll 1
        for (int j = 0; j < 4; ++j) {
            const i64 i = start + j;
            if (i < 0 || i >= n) continue;
            y[i] = ended(e, i, column, kept_at(e, i, column, drawn >> j), z[i]);
            if (++column == e.columns) column = 0;
        }
    });
}

KERNEL finish(const STORED *z, STORED *y, i64 n, i64 columns, const STORED *bias,
              const STORED *residual, REAL a, int source, REAL scale, const u8 *bits,
              DRAW_ARGUMENTS) {
    const ending<STORED> e = {bias,  residual, 0,       KIND,   source,  a,
                              scale, bits,     DRAW_OF, offset, columns, false};
    end(z, y, n, e);
}

KERNEL unfinish(const STORED *dy, STORED *dz, i64 n, i64 columns, const STORED *held, REAL a,
                int source, REAL scale, const u8 *bits, DRAW_ARGUMENTS) {
    const ending<STORED> e = {0,     0,    held,    KIND,   source,  a,
                              scale, bits, DRAW_OF, offset, columns, true};
    end(dy, dz, n, e);
}
