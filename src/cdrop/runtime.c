/* A. Every instruction set is in the binary; the processor chooses once, DROPCORE_ISA may override.
 * B. The team of a call is decided from its work: waking a thread costs microseconds, which a
 *    small array never earns back.
 * C. libgomp's threads do not survive fork(): a child that enters a parallel region waits for
 *    them for ever. A child therefore runs serially.
 * D. Threads of a team have the stack that OMP_STACKSIZE gives them, and libgomp ends the process where
 *    it cannot make a thread: too small a stack means one thread, and a team is bounded.
 * E. set_num_threads is the library's own number. A limit that somebody else puts on OpenMP for
 *    this thread afterwards (threadpoolctl does) is seen in omp_get_max_threads and lowers it.
 */

#include "runtime.h"

#include "bits.h"

#include <stdlib.h>
#include <string.h>

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(_WIN32)
#include <malloc.h>
#else
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>
#endif
#if defined(__x86_64__) && !defined(_MSC_VER)
#include <cpuid.h>
#endif
#if defined(_MSC_VER)
#include <intrin.h>
#endif

/* Numbers that threads read and write without a lock: no order is asked for, only whole values. */
#if defined(_MSC_VER)
#define LOAD(at) (*(at)) /* of volatile objects: MSVC does not tear them */
#define STORE(at, value) (*(at) = (value))
#else
#define LOAD(at) __atomic_load_n(at, __ATOMIC_RELAXED)
#define STORE(at, value) __atomic_store_n(at, value, __ATOMIC_RELAXED)
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
static volatile int last_team = 1;

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

const char *cdrop_isa_at(int n) {
    for (const char *const *name = cdrop_known_isas(); *name; ++name)
        if (kernels_called(*name) && n-- == 0) return *name;
    return NULL;
}

int cdrop_use_isa(const char *name) {
    const cdrop_kernels *found = kernels_called(name ? name : cdrop_isa_at(0));
    if (!found) return -1;
    cdrop_active = found;
    return 0;
}

/* ---- threads ---- */

/* Below this much work for each thread a team costs more than it saves. */
#define WORK_PER_THREAD 15000.0

/* Bytes of stack that a kernel with its driver may take, and OpenMP's own frames. */
#define STACK_NEEDED ((size_t)64 << 10)
#define LEAST_BOUND 64 /* of a team, or four threads a processor */

static volatile int asked_threads = 0;
static volatile int available_threads = 1;
static volatile int default_threads = 1;
static volatile int most_threads = LEAST_BOUND;
static volatile int forked = 0;

size_t cdrop_asked_stack(void) {
    static const char *const names[] = {"OMP_STACKSIZE", "GOMP_STACKSIZE", "KMP_STACKSIZE"};
    for (int i = 0; i < 3; ++i) {
        const char *const text = getenv(names[i]);
        char *end;
        if (!text) continue;
        const double number = strtod(text, &end);
        while (*end == ' ') ++end;
        if (end == text || !(number > 0)) continue;
        switch (*end) {
            case 'b': case 'B': return (size_t)number;
            case 'm': case 'M': return (size_t)(number * 1048576.0);
            case 'g': case 'G': return (size_t)(number * 1073741824.0);
            default: return (size_t)(number * 1024.0);
        }
    }
    return 0;
}

int cdrop_has_small_stacks(void) {
    const size_t asked = cdrop_asked_stack();
    return asked && asked < STACK_NEEDED;
}

static int bound_of_teams(int processors) {
    int most = processors > LEAST_BOUND / 4 ? 4 * processors : LEAST_BOUND;
    if (cdrop_has_small_stacks()) return 1;
#if defined(RLIMIT_AS)
    struct rlimit space, stack;
    if (!getrlimit(RLIMIT_AS, &space) && space.rlim_cur != RLIM_INFINITY) {
        double each = (double)cdrop_asked_stack();
        if (each == 0)
            each = !getrlimit(RLIMIT_STACK, &stack) && stack.rlim_cur != RLIM_INFINITY
                       ? (double)stack.rlim_cur
                       : 8388608.0;
        const double room = (double)space.rlim_cur / 4 / each; /* a quarter of it for stacks */
        if (room < most) most = room < 1 ? 1 : (int)room;
    }
#endif
    return most;
}

#if !defined(_WIN32)
static void lock_memory(void);
static void unlock_memory(void);

static void in_child(void) {
    unlock_memory();
    STORE(&forked, 1);
}
#endif

void cdrop_set_available(int n) {
    static int registered = 0;
    STORE(&available_threads, n < 1 ? 1 : n);
    STORE(&most_threads, bound_of_teams(n < 1 ? 1 : n));
#if defined(_OPENMP)
    STORE(&default_threads, omp_get_max_threads());
#endif
#if !defined(_WIN32)
    if (!registered) pthread_atfork(lock_memory, unlock_memory, in_child);
#endif
    registered = 1;
}

void cdrop_set_threads(int n) {
    STORE(&asked_threads, n);
#if defined(_OPENMP)
    STORE(&default_threads, omp_get_max_threads()); /* only limits from now on lower it */
#endif
}

int cdrop_max_threads(void) {
#if defined(_OPENMP)
    const int openmp = omp_get_max_threads(), most = LOAD(&most_threads);
    const int asked = LOAD(&asked_threads), available = LOAD(&available_threads);
    int n = openmp < available ? openmp : available;
    if (LOAD(&forked)) return 1;
    if (asked) n = openmp < LOAD(&default_threads) && openmp < asked ? openmp : asked;
    return n < most ? n : most;
#else
    (void)LOAD(&asked_threads), (void)LOAD(&available_threads), (void)LOAD(&default_threads);
    (void)LOAD(&most_threads), (void)LOAD(&forked);
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
    static volatile size_t known = 0;
    size_t bytes = LOAD(&known);
    if (!bytes) {
        long found = 0;
#if defined(_SC_LEVEL3_CACHE_SIZE)
        found = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
        bytes = found > 0 ? (size_t)found : (size_t)32 << 20;
        STORE(&known, bytes);
    }
    return bytes;
}

void cdrop_note_team(void) {
#if defined(_OPENMP)
    STORE(&last_team, omp_get_num_threads());
#else
    STORE(&last_team, 1);
#endif
}

int cdrop_last_team(void) {
    return LOAD(&last_team);
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

/* ---- memory of the system ---- */

static void *aligned_take(size_t bytes) {
#if defined(_WIN32)
    return _aligned_malloc(bytes, 64);
#else
    void *p = NULL;
    return posix_memalign(&p, 64, bytes) ? NULL : p;
#endif
}

static void aligned_give(void *p) {
#if defined(_WIN32)
    _aligned_free(p);
#else
    free(p);
#endif
}

#if defined(_MSC_VER)
#define EXCHANGE_INT(at, value) _InterlockedExchange(at, value)
#define EXCHANGE_POINTER(at, value) _InterlockedExchangePointer(at, value)
typedef long lock_word;
#else
#define EXCHANGE_INT(at, value) __atomic_exchange_n(at, value, __ATOMIC_ACQ_REL)
#define EXCHANGE_POINTER(at, value) __atomic_exchange_n(at, value, __ATOMIC_ACQ_REL)
typedef int lock_word;
#endif

/* ---- memory of arrays ---- */

/* Blocks wait in a list for each size, linked through their own first bytes. The lock is held for a
 * few instructions, never while the system is asked: threads without a GIL share this. */

#define CLASSES 1024 /* eight between two powers of two */

typedef struct waiting_block {
    struct waiting_block *next;
} waiting_block;

static volatile lock_word memory_lock = 0;
static waiting_block *waiting[CLASSES];
static size_t waiting_bytes = 0;

static void lock_memory(void) {
    while (EXCHANGE_INT(&memory_lock, 1)) {
#if !defined(_WIN32)
        sched_yield();
#endif
    }
}

static void unlock_memory(void) {
    EXCHANGE_INT(&memory_lock, 0);
}

/* The least size of its class: an eighth is wasted at most. */
static size_t class_of(size_t bytes, int *index) {
    size_t step = 64;
    int octave = 0;
    while (step <= bytes / 16) {
        step *= 2;
        ++octave;
    }
    size_t steps = bytes ? (bytes + step - 1) / step : 1;
    if (steps == 16) { /* the first size of the next octave */
        step *= 2;
        ++octave;
        steps = 8;
    }
    *index = octave * 16 + (int)steps;
    return steps * step;
}

void *cdrop_memory_take(size_t bytes) {
    int index;
    const size_t whole = class_of(bytes, &index);
    lock_memory();
    waiting_block *block = waiting[index];
    if (block) {
        waiting[index] = block->next;
        waiting_bytes -= whole;
    }
    unlock_memory();
    if (block) return block;
    void *fresh = aligned_take(whole);
    if (!fresh && cdrop_memory_release() + cdrop_scratch_release()) fresh = aligned_take(whole);
    return fresh;
}

void cdrop_memory_give(void *memory, size_t bytes) {
    int index;
    const size_t whole = class_of(bytes, &index);
    waiting_block *const block = memory;
    if (!memory) return;
    if (whole > CDROP_MEMORY_LIMIT) {
        aligned_give(memory);
        return;
    }
    for (;;) {
        lock_memory();
        const int fits = waiting_bytes + whole <= CDROP_MEMORY_LIMIT;
        if (fits) {
            block->next = waiting[index];
            waiting[index] = block;
            waiting_bytes += whole;
        }
        unlock_memory();
        if (fits) return;
        cdrop_memory_release(); /* among it are sizes that are not asked for any more */
    }
}

size_t cdrop_memory_waiting(void) {
    lock_memory();
    const size_t bytes = waiting_bytes;
    unlock_memory();
    return bytes;
}

size_t cdrop_memory_release(void) {
    waiting_block *all = NULL;
    lock_memory();
    const size_t bytes = waiting_bytes;
    for (int i = 0; bytes && i < CLASSES; ++i)
        while (waiting[i]) {
            waiting_block *const block = waiting[i];
            waiting[i] = block->next;
            block->next = all;
            all = block;
        }
    waiting_bytes = 0;
    unlock_memory();
    while (all) {
        waiting_block *const next = all->next;
        aligned_give(all);
        all = next;
    }
    return bytes;
}

/* ---- scratch ---- */

/* One block is kept between calls, so that a training step does not go to the system for memory; a
 * caller that finds it taken (another Python thread) gets a block of its own. */
typedef struct {
    size_t bytes;
    char padding[64 - sizeof(size_t)];
} scratch_head;

#define KEEP_AT_MOST ((size_t)256 << 20)

static void *volatile kept_scratch = NULL;

void *cdrop_scratch_take(size_t bytes) {
    scratch_head *head = EXCHANGE_POINTER(&kept_scratch, NULL);
    if (head && head->bytes < bytes) {
        aligned_give(head);
        head = NULL;
    }
    if (!head) {
        head = aligned_take(sizeof(scratch_head) + bytes);
        if (!head && cdrop_memory_release()) head = aligned_take(sizeof(scratch_head) + bytes);
        if (!head) return NULL;
        head->bytes = bytes;
    }
    return head + 1;
}

void cdrop_scratch_give(void *scratch) {
    if (!scratch) return;
    scratch_head *head = (scratch_head *)scratch - 1;
    if (head->bytes <= KEEP_AT_MOST) head = EXCHANGE_POINTER(&kept_scratch, head);
    if (head) aligned_give(head);
}

size_t cdrop_scratch_release(void) {
    scratch_head *head = EXCHANGE_POINTER(&kept_scratch, NULL);
    const size_t bytes = head ? head->bytes : 0;
    if (head) aligned_give(head);
    return bytes;
}
