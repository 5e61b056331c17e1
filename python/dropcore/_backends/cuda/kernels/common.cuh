/* What all kernels share. Compiled behind the text of philox.h, by NVRTC or nvcc, without headers;
 * the tests compile it for the host as well, behind stand-ins for what CUDA has built in.
 *
 * A kernel is a grid-stride loop, so any launch shape gives the same numbers; indices have 64 bits.
 * Contraction is off (--fmad=false): each operation is rounded on its own, as in the C core.
 *
 * A module is compiled for one type of number at a time, STORED; numbers are worked out as REAL,
 * which is double for double, else float.
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
#define WARP 32
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

/* Operations that keep denormal numbers. CuPy compiles everything with -ftz=true, which takes them
 * for zero: in activations and updates, as the C core does, but not in dropout and the projection. */
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
    /* As if its exponent were a float's, then put right by a power of two: denormals too. */
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

/* Four neighbours: one access of memory, two of doubles. */
template <typename T> struct alignas(sizeof(T) == 8 ? 16 : 4 * sizeof(T)) four {
    T at[4];
};

/* Whether four neighbours from index 0 on may be accessed as one; p may point before its array. */
template <typename T> INLINE bool in_fours(u64 address) {
    return address % alignof(four<T>) == 0;
}

/* Functions of either type -----------------------------------------------------------------------*/

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

/* Where a mask begins and what it keeps: the arguments of kernels that draw one. A graph that is
 * launched again has its steps in the memory of the device: *more is added, if more is not NULL. */
#define ADDRESS_ARGUMENTS u64 seed, u32 stream, u32 step, const u32 *more, u32 domain
#define ADDRESS_OF dropcore_address_of(seed, stream, step + (more ? *more : 0), domain)
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

/* x * scale rounded once, or +0.0 by selection: a dropped NaN is gone. */
template <typename T> INLINE T kept_or_zero(u32 bit, T x, real_of<T> scale) {
    return narrow<T>(bit ? times(widen(x), scale) : (real_of<T>)0);
}

/* Broadcasting -----------------------------------------------------------------------------------*/

/* An index of an array in C order, taken apart along at most four axes; a stride of 0 shares. */
#define AXES 4
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

/* Where element i of an array of that extent is in what broadcasts to it. Short divisions are
 * several times as fast; every extent is below 2^31 where they are taken. */
INLINE i64 placed(const axes &extent, const axes &stride, i64 i) {
    i64 largest = i;
#pragma unroll
    for (int axis = 1; axis < AXES; ++axis) largest |= extent.at[axis];
    return largest >> 31 ? placed_as<u64>(extent, stride, (u64)i)
                         : placed_as<u32>(extent, stride, (u32)i);
}

/* i % n, with i / n left in i; both at least 0. */
INLINE i64 split(i64 &i, i64 n) {
    const i64 whole = (i | n) >> 31 ? i / n : (i64)((u32)i / (u32)n);
    const i64 rest = i - whole * n;
    i = whole;
    return rest;
}

/* Warps that decide ------------------------------------------------------------------------------*/

/* Groups of elements that a warp decides at a time, a lane each: 1, 2, 4 ... 32, so that all warps of
 * the grid have some. */
INLINE int groups_at_once(i64 groups) {
    const i64 warps = (i64)gridDim.x * (blockDim.x / WARP);
    int at_once = 1;
    while (at_once < WARP && at_once * warps < groups) at_once *= 2;
    return at_once;
}

/* The four decisions of this lane, for the elements from 4 lane on of the group that lane `from` has
 * decided. */
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

/* what(start, bits) for four neighbours at a time of n elements at `offset`, whose decisions are the
 * bits 0 ... 3: those drawn, or 1 for all. Neighbouring lanes have neighbouring elements. The first
 * and the last four may reach beyond [0, n). */
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

/* Rows are taken by groups of threads, each a warp or a whole block. */
struct group {
    int size, thread;  /* how many threads, and which of them this is */
    i64 first, stride; /* the first row, and how far it is to the next */
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
struct larger_of { /* of a number and a NaN either */
    template <typename C> __device__ __forceinline__ C operator()(C a, C b) const {
        return a < b ? b : a;
    }
};

/* The numbers of a group as one, for all its threads; room holds a number for each warp. */
template <typename C, typename Both>
INLINE C joined(const group &g, C value, C *room, const Both &both) {
#pragma unroll
    for (int far = WARP / 2; far; far /= 2)
        value = both(value, __shfl_xor_sync(WHOLE_WARP, value, far));
    if (g.size == WARP) return value;
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = value;
    __syncthreads();
    C all = room[0];
    for (int warp = 1; warp < g.size / WARP; ++warp) all = both(all, room[warp]);
    __syncthreads();
    return all;
}
