/* The epilogue of a product: bias, activation and dropout in one pass, and its backward pass. The
 * activation is ACTIVATION, fixed when this is compiled. */

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

/* Long functions are not inlined: copies in every unrolled loop would take ten times as long to
 * compile. */
template <typename C> static __device__ __noinline__ C curved(int kind, C x, C a) {
    switch (kind) {
    case ACTIVATION_ELU: return x <= 0 ? a * expm1_of(x) : x;
    case ACTIVATION_SELU:
        return x <= 0 ? (C)(SELU_SCALE * SELU_ALPHA) * expm1_of(x) : x * (C)SELU_SCALE;
    case ACTIVATION_GELU: return x * normal_cdf(x);
    case ACTIVATION_GELU_TANH:
        return x * sigmoid_of(x * ((C)GELU_SLOPE + (C)(GELU_SLOPE * GELU_CUBIC) * (x * x)));
    case ACTIVATION_SILU: return x * sigmoid_of(x);
    case ACTIVATION_TANH: return tanh_of(x);
    case ACTIVATION_SIGMOID: return sigmoid_of(x);
    case ACTIVATION_SOFTPLUS: return (x > 0 ? x : (C)0) + log1p_of(exp_of(x < 0 ? x : -x));
    default: return x;
    }
}

template <typename C> INLINE C activated(int kind, C x, C a) {
    if (kind == ACTIVATION_IDENTITY) return x;
    if (kind == ACTIVATION_RELU) return x <= 0 ? (C)0 : x; /* a NaN stays */
    if (kind == ACTIVATION_LEAKY_RELU) return x <= 0 ? x * a : x;
    return curved(kind, x, a);
}

template <typename C> static __device__ __noinline__ C curved_back(int kind, C saved, C dy, C a) {
    switch (kind) {
    case ACTIVATION_ELU: return saved > 0 ? dy : dy * (saved + a);
    case ACTIVATION_SELU:
        return dy * (saved > 0 ? (C)SELU_SCALE : saved + (C)(SELU_SCALE * SELU_ALPHA));
    case ACTIVATION_GELU: {
        const C x = within(saved, (C)40);
        return dy * (normal_cdf(saved) + x * ((C)0.39894228040143267794 * exp_of((C)-0.5 * x * x)));
    }
    case ACTIVATION_GELU_TANH: {
        const C x = within(saved, (C)40), square = x * x;
        const C s = sigmoid_of(x * ((C)GELU_SLOPE + (C)(GELU_SLOPE * GELU_CUBIC) * square));
        const C inner = (C)GELU_SLOPE + (C)(3 * GELU_SLOPE * GELU_CUBIC) * square;
        return dy * (s + x * inner * (s * ((C)1 - s)));
    }
    case ACTIVATION_SILU: {
        const C s = sigmoid_of(saved);
        return dy * (s + within(saved, (C)1000) * (s * ((C)1 - s)));
    }
    case ACTIVATION_TANH: return dy * (((C)1 - saved) * ((C)1 + saved));
    case ACTIVATION_SIGMOID: return dy * (saved * ((C)1 - saved));
    case ACTIVATION_SOFTPLUS: return dy * -expm1_of(-saved);
    default: return dy;
    }
}

/* dy f'(x). GELU, GELU_TANH and SILU save x, all others y. */
template <typename C> INLINE C activated_back(int kind, C saved, C dy, C a) {
    if (kind == ACTIVATION_IDENTITY) return dy;
    if (kind == ACTIVATION_RELU) return saved > 0 ? dy : (C)0;
    if (kind == ACTIVATION_LEAKY_RELU) return saved > 0 ? dy : dy * a;
    return curved_back(kind, saved, dy, a);
}

/* Where the decisions come from, and the scale of what is kept. */
template <typename T> struct dropped {
    int decisions;
    real_of<T> scale;
    const u8 *bits; /* in the shape of z, if the decisions are given */
    draw d;         /* if they are drawn */
    u64 offset;
};

/* Calls each(i, column, kept, z[i], y[i], saved[i]) for n elements, loading and storing four at a
 * time where the arrays are aligned. y and saved may each be z; saved may be NULL. */
template <typename T, typename Each>
INLINE void each_element(const T *z, T *y, T *saved, i64 n, i64 columns, const dropped<T> &m,
                         const Each &each) {
    const bool drawn = m.decisions == DECISIONS_DRAWN, given = m.decisions == DECISIONS_GIVEN;
    const u64 before = m.offset % DROPCORE_GROUP * sizeof(T);
    const bool fours = in_fours<T>((u64)z - before) && in_fours<T>((u64)y - before) &&
                       (!saved || in_fours<T>((u64)saved - before));
    each_quad(n, m.d, drawn, m.offset, [&](i64 start, u32 four_kept) {
        i64 row = start < 0 ? 0 : start, column = split(row, columns);
        if (fours && start >= 0 && start + 4 <= n) {
            const four<T> from = *(const four<T> *)(z + start);
            four<T> to, save;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const u32 kept = given ? bit_at(m.bits, start + j) : four_kept >> j & 1u;
                each(start + j, column, kept, from.at[j], to.at[j], save.at[j]);
                if (++column == columns) column = 0;
            }
            if (saved) *(four<T> *)(saved + start) = save;
            *(four<T> *)(y + start) = to;
            return;
        }
#pragma unroll 1
        for (int j = 0; j < 4; ++j) {
            const i64 i = start + j;
            if (i < 0 || i >= n) continue;
            T to, save;
            each(i, column, given ? bit_at(m.bits, i) : four_kept >> j & 1u, z[i], to, save);
            if (saved) saved[i] = save;
            y[i] = to;
            if (++column == columns) column = 0;
        }
    });
}

#define DROPPED_ARGUMENTS int decisions, REAL scale, const u8 *bits, DRAW_ARGUMENTS
#define DROPPED_OF {decisions, scale, bits, DRAW_OF, offset}

/* y = kept ? act(z + bias) scale : +0.0. `saved` gets z + bias or act(z + bias), whichever the
 * derivative is computed from. */
KERNEL apply_epilogue(const STORED *z, STORED *y, i64 n, i64 columns, const STORED *bias, REAL a,
                      STORED *saved, int saves_input, DROPPED_ARGUMENTS) {
    const dropped<STORED> m = DROPPED_OF;
    each_element(z, y, saved, n, columns, m,
                 [&](i64, i64 column, u32 kept, STORED in, STORED &out, STORED &save) {
                     REAL value = widen(in);
                     if (bias) value = value + widen(bias[column]);
                     const REAL input = value;
                     value = activated(ACTIVATION, value, a);
                     save = narrow<STORED>(saves_input ? input : value);
                     out = narrow<STORED>(kept ? times(value, scale) : (REAL)0);
                 });
}

/* dz = kept ? dy scale act'(saved) : +0.0. */
KERNEL epilogue_backward(const STORED *dy, STORED *dz, i64 n, const STORED *saved, REAL a,
                         DROPPED_ARGUMENTS) {
    const dropped<STORED> m = DROPPED_OF;
    each_element(dy, dz, (STORED *)0, n, n, m,
                 [&](i64 i, i64, u32 kept, STORED in, STORED &out, STORED &) {
                     REAL value = kept ? times(widen(in), scale) : (REAL)0;
                     if (ACTIVATION != ACTIVATION_IDENTITY)
                         value = activated_back(ACTIVATION, widen(saved[i]), value, a);
                     out = narrow<STORED>(value);
                 });
}
