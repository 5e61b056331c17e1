/* A. Every instruction set is in the binary; the processor chooses once, DROPCORE_ISA may override.
 * B. The team of a call is decided from its work: waking a thread costs microseconds, which a
 *    small array never earns back.
 * C. libgomp's threads do not survive fork(): a child that enters a parallel region waits for
 *    them for ever. A child therefore runs serially.
 * D. set_num_threads is the library's own number. A limit that somebody else puts on OpenMP for
 *    this thread afterwards (threadpoolctl does) is seen in omp_get_max_threads and lowers it.
 */

#include "runtime.h"

#include "bits.h"

#include <stdlib.h>
#include <string.h>

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(_MSC_VER)
#include <malloc.h>
#else
#include <pthread.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#endif

extern const cdrop_kernels cdrop_kernels_scalar;
#if defined(__x86_64__) || defined(_M_X64)
#define X86 1
extern const cdrop_kernels cdrop_kernels_avx2, cdrop_kernels_avx512;
#else
#define X86 0
#endif
#if defined(__aarch64__) && !CDROP_BIG_ENDIAN
#define ARM 1
extern const cdrop_kernels cdrop_kernels_neon;
#else
#define ARM 0
#endif

const cdrop_kernels *cdrop_active = &cdrop_kernels_scalar;
volatile int cdrop_last_team = 1;

#if X86
#if defined(_MSC_VER)
static int has_avx2(void) {
    int r[4];
    __cpuidex(r, 1, 0);
    if ((r[2] & (1 << 27 | 1 << 28 | 1 << 12 | 1 << 29)) != (1 << 27 | 1 << 28 | 1 << 12 | 1 << 29))
        return 0;
    if ((_xgetbv(0) & 6) != 6) return 0;
    __cpuidex(r, 7, 0);
    return r[1] >> 5 & 1;
}
static int has_avx512(void) {
    int r[4];
    if (!has_avx2() || (_xgetbv(0) & 0xE6) != 0xE6) return 0;
    __cpuidex(r, 7, 0);
    return (r[1] >> 16 & 1) && (r[1] >> 17 & 1) && (r[1] >> 30 & 1) && (r[1] >> 31 & 1);
}
#else
static int has_avx2(void) {
    unsigned a, b, c = 0, d;
    __builtin_cpu_init(); /* also sees whether the system saves the wide registers */
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __get_cpuid(1, &a, &b, &c, &d) && (c >> 29 & 1); /* F16C, which clang 14 cannot name */
}
static int has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif
#endif

static const cdrop_kernels *kernels_called(const char *name) {
#if X86
    if (!strcmp(name, "avx512") && has_avx512()) return &cdrop_kernels_avx512;
    if (!strcmp(name, "avx2") && has_avx2()) return &cdrop_kernels_avx2;
#endif
#if ARM
    if (!strcmp(name, "neon")) return &cdrop_kernels_neon;
#endif
    return strcmp(name, "scalar") ? NULL : &cdrop_kernels_scalar;
}

const char *const *cdrop_known_isas(void) {
    static const char *const known[] = {"avx512", "avx2", "neon", "scalar", NULL};
    return known;
}

const char *const *cdrop_isas(void) {
    static const char *names[5];
    int n = 0;
    for (const char *const *name = cdrop_known_isas(); *name; ++name)
        if (kernels_called(*name)) names[n++] = *name;
    names[n] = NULL;
    return names;
}

int cdrop_use_isa(const char *name) {
    const cdrop_kernels *found = kernels_called(name ? name : cdrop_isas()[0]);
    if (!found) return -1;
    cdrop_active = found;
    return 0;
}

/* ---- threads ---- */

/* Below this much work for each thread a team costs more than it saves. */
#define WORK_PER_THREAD 15000.0

static int asked_threads = 0;
static int available_threads = 1;
static int default_threads = 1;
static volatile int forked = 0;

#if !defined(_MSC_VER)
static void in_child(void) {
    forked = 1;
}
#endif

void cdrop_set_available(int n) {
    static int registered = 0;
    available_threads = n < 1 ? 1 : n;
#if defined(_OPENMP)
    default_threads = omp_get_max_threads();
#endif
#if !defined(_MSC_VER)
    if (!registered) pthread_atfork(NULL, NULL, in_child);
#endif
    registered = 1;
}

void cdrop_set_threads(int n) {
    asked_threads = n;
#if defined(_OPENMP)
    default_threads = omp_get_max_threads(); /* only limits from now on lower it */
#endif
}

int cdrop_max_threads(void) {
#if defined(_OPENMP)
    const int openmp = omp_get_max_threads();
    if (forked) return 1;
    if (asked_threads)
        return openmp < default_threads && openmp < asked_threads ? openmp : asked_threads;
    return openmp < available_threads ? openmp : available_threads;
#else
    (void)default_threads;
    return 1;
#endif
}

int cdrop_team_for(double work) {
    const int most = cdrop_max_threads();
    const double worth = work / WORK_PER_THREAD;
    if (most == 1 || worth < 2.0) return 1;
    return worth < (double)most ? (int)worth : most;
}

int cdrop_has_openmp(void) {
#if defined(_OPENMP)
    return 1;
#else
    return 0;
#endif
}

size_t cdrop_cache_bytes(void) {
    static size_t bytes = 0;
    if (!bytes) {
        long found = 0;
#if defined(_SC_LEVEL3_CACHE_SIZE)
        found = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
        bytes = found > 0 ? (size_t)found : (size_t)32 << 20;
    }
    return bytes;
}

void cdrop_note_team(void) {
#if defined(_OPENMP)
    cdrop_last_team = omp_get_num_threads();
#else
    cdrop_last_team = 1;
#endif
}

/* ---- denormals ---- */

#if X86
#include <xmmintrin.h>

unsigned cdrop_flush_denormals(void) {
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040); /* results, and operands */
    return before;
}

void cdrop_restore_denormals(unsigned before) {
    _mm_setcsr((_mm_getcsr() & ~0x8040u) | (before & 0x8040u));
}
#elif defined(__aarch64__)
unsigned cdrop_flush_denormals(void) {
    uint64_t before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(before | 1u << 24));
    return (unsigned)before;
}

void cdrop_restore_denormals(unsigned before) {
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)before));
}
#else
unsigned cdrop_flush_denormals(void) {
    return 0;
}

void cdrop_restore_denormals(unsigned before) {
    (void)before;
}
#endif

/* ---- scratch ---- */

/* One block is kept between calls, so that a training step does not go to the system for memory;
 * whoever finds it taken (another Python thread) gets a block of its own. */
typedef struct {
    size_t bytes;
    char padding[64 - sizeof(size_t)];
} scratch_head;

#define KEEP_AT_MOST ((size_t)256 << 20)

void *cdrop_aligned_take(size_t bytes) {
#if defined(_MSC_VER)
    return _aligned_malloc(bytes, 64);
#else
    void *p = NULL;
    return posix_memalign(&p, 64, bytes) ? NULL : p;
#endif
}

void cdrop_aligned_give(void *p) {
#if defined(_MSC_VER)
    _aligned_free(p);
#else
    free(p);
#endif
}

#if defined(_MSC_VER)
static void *swap_kept(void *volatile *slot, void *with) {
    return _InterlockedExchangePointer(slot, with);
}
#else
static void *swap_kept(void *volatile *slot, void *with) {
    return __atomic_exchange_n(slot, with, __ATOMIC_ACQ_REL);
}
#endif

static void *volatile kept_scratch = NULL;

void *cdrop_scratch_take(size_t bytes) {
    scratch_head *head = swap_kept(&kept_scratch, NULL);
    if (head && head->bytes < bytes) {
        cdrop_aligned_give(head);
        head = NULL;
    }
    if (!head) {
        head = cdrop_aligned_take(sizeof(scratch_head) + bytes);
        if (!head) return NULL;
        head->bytes = bytes;
    }
    return head + 1;
}

void cdrop_scratch_give(void *scratch) {
    if (!scratch) return;
    scratch_head *head = (scratch_head *)scratch - 1;
    if (head->bytes <= KEEP_AT_MOST) head = swap_kept(&kept_scratch, head);
    if (head) cdrop_aligned_give(head);
}
