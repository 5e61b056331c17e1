/* Preloaded: from a chosen request on there is no memory for arrays, those of the core and those of
 * NumPy, whose handler `handler` becomes. The interpreter gets all that it asks for. */

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

void *__libc_memalign(size_t alignment, size_t bytes);

static int armed = 0, forever;
static size_t least;
static long left, refused;

/* Requests for `bytes` or more are counted; the one after `served` others fails, and if `lasts`
 * all that follow. */
void arm(long served, size_t bytes, int lasts) {
    left = served, refused = 0, least = bytes, forever = lasts;
    __atomic_store_n(&armed, 1, __ATOMIC_SEQ_CST);
}

/* How many requests have failed. */
long disarm(void) {
    __atomic_store_n(&armed, 0, __ATOMIC_SEQ_CST);
    return refused;
}

static int fails(size_t bytes) {
    if (!__atomic_load_n(&armed, __ATOMIC_SEQ_CST) || bytes < least) return 0;
    const long before = __atomic_fetch_sub(&left, 1, __ATOMIC_SEQ_CST);
    if (before > 0 || (before < 0 && !forever)) return 0;
    __atomic_fetch_add(&refused, 1, __ATOMIC_SEQ_CST);
    errno = ENOMEM;
    return 1;
}

int posix_memalign(void **out, size_t alignment, size_t bytes) { /* as the core asks */
    if (fails(bytes)) return ENOMEM;
    *out = __libc_memalign(alignment, bytes);
    return *out ? 0 : ENOMEM;
}

static void *array_malloc(void *context, size_t bytes) {
    (void)context;
    return fails(bytes) ? NULL : malloc(bytes);
}

static void *array_calloc(void *context, size_t n, size_t bytes) {
    (void)context;
    return fails(n * bytes) ? NULL : calloc(n, bytes);
}

static void *array_realloc(void *context, void *old, size_t bytes) {
    (void)context;
    return fails(bytes) ? NULL : realloc(old, bytes);
}

static void array_free(void *context, void *array, size_t bytes) {
    (void)context, (void)bytes;
    free(array);
}

/* A PyDataMem_Handler. */
struct {
    char name[127];
    uint8_t version;
    void *context;
    void *(*malloc)(void *, size_t);
    void *(*calloc)(void *, size_t, size_t);
    void *(*realloc)(void *, void *, size_t);
    void (*free)(void *, void *, size_t);
} handler = {"failing", 1, NULL, array_malloc, array_calloc, array_realloc, array_free};
