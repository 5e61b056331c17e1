/* What CUDA has built in, for the host: the texts of the kernels, compiled behind this, run thread
 * after thread. Threads that meet at barriers or exchange numbers are coroutines. */

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include <ucontext.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#ifndef __global__
#define __global__
#endif
#define __device__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __shared__ static

struct triple {
    unsigned x, y, z;
};
static triple threadIdx, blockIdx, blockDim, gridDim;

static inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
static inline float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
static inline int __float_as_int(float x) {
    return (int)__float_as_uint(x);
}
static inline float __int_as_float(int bits) {
    return __uint_as_float((unsigned)bits);
}
/* CuPy compiles with -ftz=true, and so do we: denormal floats count as zero in arithmetic of the
 * processor, but not in the operations of common.cuh that keep them. These work on whole numbers
 * and doubles, none of which is denormal. */
#define SMALLEST_NORMAL 0x1p-126
static double exactly(float x) {
    const unsigned all = __float_as_uint(x), rest = all & 0x7FFFFFFFu;
    if (rest >= 0x00800000u) return x;
    return (all >> 31 ? -0x1p-149 : 0x1p-149) * (double)rest;
}
static float denormal(double x, double count) { /* of 2^-149 */
    return __uint_as_float((unsigned)count | (std::signbit(x) ? 0x80000000u : 0u));
}
static float times(float x, float y) {
    const double product = exactly(x) * exactly(y), size = std::fabs(product);
    return size < SMALLEST_NORMAL ? denormal(product, std::rint(size * 0x1p149)) : (float)product;
}
static float towards_zero(double x) {
    const double size = std::fabs(x);
    if (size < SMALLEST_NORMAL) return denormal(x, std::trunc(size * 0x1p149));
    const float y = (float)x; /* what was rounded away from zero is one step too far */
    return std::fabs((double)y) > size ? std::nextafterf(y, 0.0f) : y;
}
static inline double __dmul_rz(double a, double b) {
    const double y = a * b, rest = std::fma(a, b, -y);
    return y != 0 && (rest < 0) == (y > 0) && rest != 0 ? std::nextafter(y, 0.0) : y;
}

/* ---- coroutines ---- */

enum { MOST_THREADS = 1024, STACK_BYTES = 1 << 16, NOTHING = 0, BARRIER, EXCHANGE, DONE };
static struct {
    ucontext_t scheduler, thread[MOST_THREADS];
    char *stack[MOST_THREADS];
    int at[MOST_THREADS]; /* where a thread waits */
    unsigned running;
    bool alone; /* plain calls, without coroutines */
    void (*run)(void **);
    void **arguments;
} block;

static void fail(const char *why) {
    fprintf(stderr, "host_cuda.h: %s\n", why);
    abort();
}

static void wait_at(int place) {
    if (block.alone) fail("a barrier in a kernel that was said to have none");
    const unsigned self = block.running;
    block.at[self] = place;
    swapcontext(&block.thread[self], &block.scheduler);
}
static inline void __syncthreads() {
    wait_at(BARRIER);
}
/* The values of all lanes of the thread's warp, which have all come here. */
template <typename T, typename Read> static inline auto exchange(T value, const Read &read) {
    static T held[MOST_THREADS];
    const unsigned self = threadIdx.x;
    held[self] = value;
    wait_at(EXCHANGE);
    const auto result = read(held + self / 32 * 32, self % 32);
    wait_at(EXCHANGE);
    return result;
}
template <typename T> static inline T __shfl_xor_sync(unsigned, T value, int far) {
    return exchange(value, [far](const T *warp, unsigned lane) { return warp[lane ^ (unsigned)far]; });
}
template <typename T> static inline T __shfl_sync(unsigned, T value, int from) {
    return exchange(value, [from](const T *warp, unsigned) { return warp[from % 32]; });
}
static inline unsigned __ballot_sync(unsigned, int vote) {
    return exchange(vote, [](const int *warp, unsigned) {
        unsigned all = 0;
        for (int lane = 0; lane < 32; ++lane) all |= (unsigned)(warp[lane] != 0) << lane;
        return all;
    });
}

static void one_thread() {
    block.run(block.arguments);
    block.at[block.running] = DONE;
}

static void run_together(bool backwards) {
    const unsigned n = blockDim.x;
    for (unsigned t = 0; t < n; ++t) {
        if (!block.stack[t]) block.stack[t] = (char *)malloc(STACK_BYTES);
        getcontext(&block.thread[t]);
        block.thread[t].uc_stack.ss_sp = block.stack[t];
        block.thread[t].uc_stack.ss_size = STACK_BYTES;
        block.thread[t].uc_link = &block.scheduler;
        block.at[t] = NOTHING;
        makecontext(&block.thread[t], one_thread, 0);
    }
    for (unsigned done = 0; done < n;) {
        unsigned barrier = 0;
        done = 0;
        for (unsigned k = 0; k < n; ++k) {
            const unsigned t = backwards ? n - 1 - k : k;
            if (block.at[t] != DONE) {
                block.running = threadIdx.x = t;
                swapcontext(&block.scheduler, &block.thread[t]);
            }
            barrier += block.at[t] == BARRIER;
            done += block.at[t] == DONE;
        }
        for (unsigned t = 0; t < n; ++t)
            if ((block.at[t] == EXCHANGE) != (block.at[t / 32 * 32] == EXCHANGE))
                fail("an exchange that not all lanes of a warp reach");
        if (barrier && barrier != n) fail("a barrier that not all threads of a block reach");
    }
}

static void run_all(void (*run)(void **), void **arguments, unsigned grid, unsigned threads,
                    int together, int backwards) {
    if (threads > MOST_THREADS || threads % 32) fail("a block must have warps of 32, at most 32");
    block.run = run;
    block.arguments = arguments;
    block.alone = !together;
    gridDim = {grid, 1, 1};
    blockDim = {threads, 1, 1};
    blockIdx = threadIdx = {0, 0, 0};
    for (unsigned b = 0; b < grid; ++b) {
        blockIdx.x = backwards ? grid - 1 - b : b;
        if (together) {
            run_together(backwards);
            continue;
        }
        for (unsigned t = 0; t < threads; ++t) {
            threadIdx.x = backwards ? threads - 1 - t : t;
            run(arguments);
        }
    }
}

/* FLUSH says whether the module's numbers are floats, which it is compiled to flush. */
static void launch(void (*run)(void **), void **arguments, unsigned grid, unsigned threads,
                   int together, int backwards) {
#if defined(__SSE2__)
    const unsigned before = _mm_getcsr();
    if (FLUSH) _mm_setcsr(before | 0x8040u);
    run_all(run, arguments, grid, threads, together, backwards);
    _mm_setcsr(before);
#else
    run_all(run, arguments, grid, threads, together, backwards);
#endif
}

/* ---- the types of a kernel's arguments, as NumPy's letters; P for an address ---- */

template <typename T> struct letter { static constexpr char is = 'V'; }; /* a struct by value */
template <typename T> struct letter<T *> { static constexpr char is = 'P'; };
template <> struct letter<double> { static constexpr char is = 'd'; };
template <> struct letter<float> { static constexpr char is = 'f'; };
template <> struct letter<int> { static constexpr char is = 'i'; };
template <> struct letter<unsigned> { static constexpr char is = 'I'; };
template <> struct letter<long long> { static constexpr char is = 'l'; };
template <> struct letter<unsigned long long> { static constexpr char is = 'L'; };

template <typename... P, size_t... I>
static void call(void (*kernel)(P...), void **arguments, std::index_sequence<I...>) {
    kernel(*(P *)arguments[I]...);
}
template <typename... P> static void call_with(void (*kernel)(P...), void **arguments) {
    call(kernel, arguments, std::index_sequence_for<P...>());
}
template <typename... P> static const size_t *sizes(void (*)(P...)) {
    static const size_t all[] = {sizeof(P)..., 0};
    return all;
}
template <typename... P> static const char *letters(void (*)(P...)) {
    static const char all[] = {letter<P>::is..., 0};
    return all;
}

#define HOST_ENTRY(name)                                                                      \
    static void run_##name(void **arguments) {                                                 \
        call_with(name, arguments);                                                            \
    }                                                                                          \
    extern "C" const char *letters_##name() {                                                  \
        return letters(name);                                                                  \
    }                                                                                          \
    extern "C" const size_t *sizes_##name() {                                                  \
        return sizes(name);                                                                    \
    }                                                                                          \
    extern "C" void launch_##name(void **arguments, unsigned grid, unsigned threads,           \
                                  int together, int backwards) {                               \
        launch(run_##name, arguments, grid, threads, together, backwards);                     \
    }
