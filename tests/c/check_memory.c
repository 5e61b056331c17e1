/* Memory of arrays and scratch, taken and given back by threads that share no other lock: each block
 * has one owner, and numbers that are read without a lock are whole. Under ThreadSanitizer, too. */

#include "check.h"

#include <pthread.h>

enum { THREADS = 6, ROUNDS = 4000 };

/* What a thread found: nothing is counted by several at once. */
typedef struct {
    unsigned char mark;
    long owned, aligned, bounded;
} worker;

static void *work(void *of) {
    worker *const self = of;
    unsigned state = self->mark * 7919u;
    for (int i = 0; i < ROUNDS; ++i) {
        state = state * 1664525u + 1013904223u;
        const size_t n = 1 + (state >> 8) % 40000;
        unsigned char *const array = cdrop_memory_take(n), *const scratch = cdrop_scratch_take(n);
        int mine = array != NULL && scratch != NULL;
        if (!mine) continue;
        self->aligned += (uintptr_t)array % 64 == 0 && (uintptr_t)scratch % 64 == 0;
        memset(array, self->mark, n);
        memset(scratch, self->mark, n);
        if (i % 50 == 0) cdrop_memory_release();
        if (i % 70 == 0) cdrop_scratch_release();
        if (i % 90 == 0) cdrop_set_threads(1 + i % 4);
        cdrop_note_team();
        self->bounded += cdrop_max_threads() >= 1 && cdrop_last_team() >= 1 &&
                         cdrop_cache_bytes() > 0 && cdrop_memory_waiting() <= CDROP_MEMORY_LIMIT;
        for (size_t k = 0; k < n; ++k) mine &= array[k] == self->mark && scratch[k] == self->mark;
        self->owned += mine;
        cdrop_memory_give(array, n);
        cdrop_scratch_give(scratch);
    }
    return NULL;
}

/* Sizes of one class share memory; between two powers of two there are eight classes. */
static void check_classes(void) {
    for (size_t n = 0; n < 5000; n += 1 + n / 50) {
        cdrop_memory_release();
        void *const first = cdrop_memory_take(n);
        cdrop_memory_give(first, n);
        const size_t whole = cdrop_memory_waiting();
        CHECK(whole >= n && whole <= n + n / 8 + 64, "%zu bytes wait as %zu", n, whole);
        void *const second = cdrop_memory_take(whole);
        CHECK(second == first, "%zu bytes are not those of %zu", whole, n);
        CHECK(cdrop_memory_waiting() == 0, "%zu bytes wait, none should", cdrop_memory_waiting());
        cdrop_memory_give(second, whole);
        CHECK(cdrop_memory_release() == whole, "other than %zu bytes were released", whole);
    }
    void *const large = cdrop_memory_take(CDROP_MEMORY_LIMIT + 1);
    cdrop_memory_give(large, CDROP_MEMORY_LIMIT + 1);
    CHECK(cdrop_memory_waiting() == 0, "more than the limit waits");
    CHECK(cdrop_memory_take((size_t)-1 / 4) == NULL, "a quarter of all addresses was given");
}

int main(void) {
    pthread_t threads[THREADS];
    worker workers[THREADS] = {{0, 0, 0, 0}};
    cdrop_set_available(4);
    for (int t = 0; t < THREADS; ++t) {
        workers[t].mark = (unsigned char)(t + 1);
        if (pthread_create(&threads[t], NULL, work, &workers[t])) return 2;
    }
    for (int t = 0; t < THREADS; ++t) {
        pthread_join(threads[t], NULL);
        CHECK(workers[t].owned == ROUNDS, "thread %d owned its memory %ld times", t,
              workers[t].owned);
        CHECK(workers[t].aligned == ROUNDS, "thread %d had aligned memory %ld times", t,
              workers[t].aligned);
        CHECK(workers[t].bounded == ROUNDS, "thread %d saw whole numbers %ld times", t,
              workers[t].bounded);
    }
    cdrop_memory_release();
    cdrop_scratch_release();
    check_classes();
    return report();
}
