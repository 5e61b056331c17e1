/* What the C programs beside this file share: the tables to check, and the counting. */
#ifndef CHECK_H
#define CHECK_H

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime.h"

static long passed, failed;

/* Counts one check; the first failures are printed. */
#define CHECK(condition, ...)                                            \
    do {                                                                 \
        if (condition) {                                                 \
            ++passed;                                                    \
        } else if (++failed <= 20) {                                     \
            printf("FAILED %s:%d: ", __FILE__, __LINE__);                \
            printf(__VA_ARGS__);                                         \
            printf("\n");                                                \
        }                                                                \
    } while (0)

static inline int bit_of(const uint8_t *bits, uint64_t i) {
    return bits[i / 8] >> (i % 8) & 1;
}

/* The i-th table to check, or NULL behind the last: every instruction set that runs here, or under
 * CDROP_SIMDE the AVX-512 bodies translated for whatever this machine is. */
static inline const cdrop_kernels *kernels_at(int i) {
#if defined(CDROP_SIMDE)
    extern const cdrop_kernels cdrop_kernels_avx512;
    return i ? NULL : &cdrop_kernels_avx512;
#else
    const char *name = cdrop_isa_at(i);
    return name && !cdrop_use_isa(name) ? cdrop_active : NULL;
#endif
}

/* Exactly as many bytes as asked for, so that a sanitizer sees the first one beyond. */
static inline void *buffer(size_t bytes) {
    void *p = malloc(bytes ? bytes : 1);
    if (!p) {
        printf("out of memory\n");
        exit(2);
    }
    return p;
}

/* The closing line; the value for main to return. */
static inline int report(void) {
    printf("%ld passed, %ld failed\n", passed, failed);
    return failed || !passed;
}

#endif
