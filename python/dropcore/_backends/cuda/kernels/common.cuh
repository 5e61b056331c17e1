/* What all kernels share. NVRTC or nvcc compile it behind philox.h, without any other header; the
 * tests compile it for the host as well, behind replacements of CUDA's built-ins.
 *
 * Kernels are grid-stride loops, so the launch shape does not change the result; indices have 64
 * bits. Contraction is off (--fmad=false): each operation is rounded on its own, as in the C core.
 *
 * A module is compiled for one element type at a time, STORED. Kernels compute in REAL, which is
 * double for double and float for all others.
 *
 * kernels.py defines WARP, LINES, AXES, HYPERPARAMETERS and all enumerators.
 */

typedef dropcore_u8 u8;
typedef dropcore_u32 u32;
typedef dropcore_u64 u64;
typedef unsigned short u16;
typedef long long i64;

#define INLINE static __device__ __forceinline__
#define KERNEL extern "C" __global__ void
#define FIRST ((i64)blockIdx.x * blockDim.x + threadIdx.x)
#define STRIDE ((i64)gridDim.x * blockDim.x)
#define WHOLE_WARP 0xFFFFFFFFu

struct f16 {
    u16 bits;
};
struct bf16 {
    u16 bits;
};

template <typename T> struct computed {
    typedef float type;
};
template <> struct computed<double> {
    typedef double type;
};
template <typename T> using real_of = typename computed<T>::type;
#define REAL real_of<STORED>

/* Operations that keep denormal numbers. CuPy compiles everything with -ftz=true, which flushes them
 * to zero. That is right for activations and updates, as in the C core, but not for dropout and the
 * projection. */
#if defined(__CUDACC__)
INLINE float times(float x, float y) {
    float product;
    asm("mul.rn.f32 %0, %1, %2;" : "=f"(product) : "f"(x), "f"(y));
    return product;
}
INLINE double exactly(float x) {
    double wide;
    asm("cvt.f64.f32 %0, %1;" : "=d"(wide) : "f"(x));
    return wide;
}
INLINE float towards_zero(double x) {
    float narrow;
    asm("cvt.rz.f32.f64 %0, %1;" : "=f"(narrow) : "d"(x));
    return narrow;
}
#endif
INLINE double times(double x, double y) {
    return x * y;
}
INLINE double exactly(double x) {
    return x;
}

INLINE float widen(float x) {
    return x;
}
INLINE double widen(double x) {
    return x;
}
INLINE float widen(bf16 x) {
    return __uint_as_float((u32)x.bits << 16);
}
INLINE float widen(f16 x) {
#if defined(__CUDA_ARCH__)
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
    return wide;
#else
    const u32 sign = (u32)(x.bits & 0x8000) << 16, rest = x.bits & 0x7FFF;
    if (rest >= 0x7C00) return __uint_as_float(sign | 0x7F800000u | (rest & 0x3FF) << 13);
    /* Read the bits as a float's, then correct the exponent by a power of two: denormals too. */
    const float wide = times(__uint_as_float(rest << 13), 0x1p112f);
    return __uint_as_float(sign | __float_as_uint(wide));
#endif
}

/* Rounded to nearest, half to even. */
template <typename T> struct narrowing;
template <> struct narrowing<float> {
    static __device__ __forceinline__ float of(float x) {
        return x;
    }
};
template <> struct narrowing<double> {
    static __device__ __forceinline__ double of(double x) {
        return x;
    }
};
template <> struct narrowing<f16> {
    static __device__ __forceinline__ f16 of(float x) {
        f16 y;
#if defined(__CUDA_ARCH__)
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
#else
        const u32 all = __float_as_uint(x), sign = all >> 16 & 0x8000, rest = all & 0x7FFFFFFFu;
        if (rest > 0x7F800000u) { /* NaN */
            y.bits = (u16)(sign | 0x7E00);
        } else if (rest >= 0x477FF000u) { /* rounds to 2^16 or more */
            y.bits = (u16)(sign | 0x7C00);
        } else if (rest < 0x38800000u) { /* below 2^-14: adding 0.5 leaves multiples of 2^-24 */
            const u32 sum = __float_as_uint(__uint_as_float(rest) + 0.5f);
            y.bits = (u16)(sign | (sum - 0x3F000000u));
        } else {
            y.bits = (u16)(sign | (rest - 0x38000000u + 0xFFF + (rest >> 13 & 1)) >> 13);
        }
#endif
        return y;
    }
};
template <> struct narrowing<bf16> {
    static __device__ __forceinline__ bf16 of(float x) {
        bf16 y;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
        asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
#else
        const u32 all = __float_as_uint(x);
        const bool nan = (all & 0x7FFFFFFFu) > 0x7F800000u;
        y.bits = (u16)(nan ? all >> 16 | 0x40 : (all + 0x7FFF + (all >> 16 & 1)) >> 16);
#endif
        return y;
    }
};
template <typename T> INLINE T narrow(real_of<T> x) {
    return narrowing<T>::of(x);
}

/* Four consecutive elements: one memory access, two for doubles. */
template <typename T> struct alignas(sizeof(T) == 8 ? 16 : 4 * sizeof(T)) four {
    T at[4];
};

/* Whether an address is aligned for such an access. */
template <typename T> INLINE bool in_fours(u64 address) {
    return address % alignof(four<T>) == 0;
}

/* Functions of both types -----------------------------------------------------------------------*/

INLINE float exp_of(float x) {
    return expf(x);
}
INLINE double exp_of(double x) {
    return exp(x);
}
INLINE float tanh_of(float x) {
    return tanhf(x);
}
INLINE double tanh_of(double x) {
    return tanh(x);
}
template <typename C> INLINE C sigmoid_of(C x) {
    const C z = exp_of(x < 0 ? x : -x);
    return (x < 0 ? z : (C)1) / ((C)1 + z);
}

/* Decisions --------------------------------------------------------------------------------------*/

/* The arguments of kernels that draw a mask. In a CUDA graph, whose arguments are fixed, the step
 * changes through device memory: *step_offset is added unless the pointer is NULL. */
#define ADDRESS_ARGUMENTS u64 seed, u32 stream, u32 step, const u32 *step_offset, u32 domain
#define ADDRESS_OF                                                                               \
    dropcore_address_of(seed, stream, step + (step_offset ? *step_offset : 0), domain)
#define DRAW_ARGUMENTS ADDRESS_ARGUMENTS, u64 threshold, u64 offset
#define DRAW_OF draw_of(ADDRESS_OF, threshold)

struct draw {
    dropcore_address address;
    u64 threshold;
};

INLINE draw draw_of(const dropcore_address &address, u64 threshold) {
    return {address, threshold};
}

INLINE u32 bit_at(const u8 *bits, i64 i) {
    return bits[i >> 3] >> (i & 7) & 1u;
}

/* x * scale rounded once, or +0.0 by selection, so that a dropped NaN becomes zero. */
template <typename T> INLINE T kept_or_zero(u32 bit, T x, real_of<T> scale) {
    return narrow<T>(bit ? times(widen(x), scale) : (real_of<T>)0);
}

/* Broadcasting -----------------------------------------------------------------------------------*/

/* A C-order index is split along at most AXES axes; an axis with stride 0 is shared. */
#define AXES_ARGUMENTS(name) i64 name##_0, i64 name##_1, i64 name##_2, i64 name##_3
#define AXES_OF(name) {name##_0, name##_1, name##_2, name##_3}

struct axes {
    i64 at[AXES];
};

template <typename I> INLINE i64 placed_as(const axes &extent, const axes &stride, I i) {
    i64 at = 0;
#pragma unroll
    for (int axis = AXES - 1; axis > 0; --axis) {
        const I n = (I)extent.at[axis];
        if (n == 1) continue;
        at += (i64)(i % n) * stride.at[axis];
        i /= n;
    }
    return at + (i64)i * stride.at[0];
}

/* The offset of element i of an array of that extent in the array that broadcasts to it. Divisions
 * of 32 bits are several times as fast; they are used if i and every extent are below 2^31. */
INLINE i64 placed(const axes &extent, const axes &stride, i64 i) {
    i64 largest = i;
#pragma unroll
    for (int axis = 1; axis < AXES; ++axis) largest |= extent.at[axis];
    return largest >> 31 ? placed_as<u64>(extent, stride, (u64)i)
                         : placed_as<u32>(extent, stride, (u32)i);
}

/* Returns i % n and replaces i by i / n; both must be at least 0. */
INLINE i64 split(i64 &i, i64 n) {
    const i64 whole = (i | n) >> 31 ? i / n : (i64)((u32)i / (u32)n);
    const i64 rest = i - whole * n;
    i = whole;
    return rest;
}

/* Decisions drawn by warps ------------------------------------------------------------------------------*/

/* How many groups of 128 elements a warp decides at a time, one per lane: 1, 2, 4 ... 32, such that
 * every warp of the grid has some. */
INLINE int groups_at_once(i64 groups) {
    const i64 warps = (i64)gridDim.x * (blockDim.x / WARP);
    int at_once = 1;
    while (at_once < WARP && at_once * warps < groups) at_once *= 2;
    return at_once;
}

/* The decisions of this lane's four elements, from element 4 lane on, of the group that lane `from`
 * has decided. */
INLINE u32 handed_out(const dropcore_block &kept, int from) {
    const unsigned lane = threadIdx.x % WARP;
    u32 word = 0;
#pragma unroll
    for (unsigned q = 0; q < 4; ++q) {
        const u32 other = __shfl_sync(WHOLE_WARP, kept.word[q], from);
        if (q == lane / 8) word = other;
    }
    return word >> (lane % 8 * 4) & 15u;
}

/* Calls what(start, bits) for every four consecutive elements of n elements at `offset`. Bits 0 ... 3
 * are their decisions, or all 1 if nothing is drawn. Neighbouring lanes have neighbouring elements.
 * The first and the last four may reach beyond [0, n). */
template <typename What>
INLINE void each_quad(i64 n, const draw &d, bool drawn, u64 offset, const What &what) {
    const i64 lead = (i64)(offset % DROPCORE_GROUP);
    const i64 groups = (n + lead + DROPCORE_GROUP - 1) / DROPCORE_GROUP;
    const int lane = threadIdx.x % WARP, at_once = groups_at_once(groups);
    for (i64 first = FIRST / WARP * at_once; first < groups; first += STRIDE / WARP * at_once) {
        dropcore_block kept = {{0, 0, 0, 0}};
        if (drawn && lane < at_once && first + lane < groups)
            kept = dropcore_decide(&d.address, d.threshold,
                                   offset / DROPCORE_GROUP + (u64)(first + lane));
        for (int k = 0; k < at_once && first + k < groups; ++k)
            what((first + k) * DROPCORE_GROUP + 4 * lane - lead, drawn ? handed_out(kept, k) : 15u);
    }
}

/* Groups -----------------------------------------------------------------------------------------*/

/* A row is reduced by a group of threads: a warp or a whole block. */
struct group {
    int size, thread;  /* the number of threads, and the index of this one */
    i64 first, stride; /* the group's first row, and the distance to its next one */
};

INLINE group group_of(int size) {
    const i64 groups = blockDim.x / (unsigned)size;
    return {size, (int)(threadIdx.x % (unsigned)size),
            blockIdx.x * groups + threadIdx.x / (unsigned)size, gridDim.x * groups};
}

struct sum_of {
    template <typename C> __device__ __forceinline__ C operator()(C a, C b) const {
        return a + b;
    }
};
struct larger_of { /* unspecified if one of them is NaN */
    template <typename C> __device__ __forceinline__ C operator()(C a, C b) const {
        return a < b ? b : a;
    }
};

/* Reduces the values of a group's threads; every thread gets the result. `scratch` has an element for
 * each warp. */
template <typename C, typename Both>
INLINE C joined(const group &g, C value, C *scratch, const Both &both) {
#pragma unroll
    for (int far = WARP / 2; far; far /= 2)
        value = both(value, __shfl_xor_sync(WHOLE_WARP, value, far));
    if (g.size == WARP) return value;
    if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = value;
    __syncthreads();
    C all = scratch[0];
    for (int warp = 1; warp < g.size / WARP; ++warp) all = both(all, scratch[warp]);
    __syncthreads();
    return all;
}

/* Updates ----------------------------------------------------------------------------------------*/

/* The numbers of an update rule, as float64. */
struct hyperparameters {
    double HYPERPARAMETERS;
};
