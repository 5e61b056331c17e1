/* What every instruction set's wrapper starts from. */
#ifndef CDROP_WRAPPER_H
#define CDROP_WRAPPER_H

#if defined(__FAST_MATH__)
#error "dropcore promises the same bits from every instruction set: build without -ffast-math"
#endif

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "bits.h"
#include "kernels.h"

/* INDEPENDENT stands before a loop whose steps do not need one another: its arrays are the same or
 * apart.
 *
 * Code between TARGET_BEGIN and TARGET_END may use the features; the rest of the file, and of
 * the library, keeps to the compiler's baseline. MSVC needs no permission for intrinsics. */
#define CDROP_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define TARGET_BEGIN(features) \
    CDROP_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define TARGET_END CDROP_PRAGMA(clang attribute pop)
#define UNROLL CDROP_PRAGMA(clang loop unroll(full))
#define INDEPENDENT CDROP_PRAGMA(clang loop vectorize(assume_safety))
#pragma clang diagnostic ignored "-Wpass-failed" /* in double some of them call the C library */
#elif defined(__GNUC__)
/* GCC would reorder the exclusive ors of Philox so that the key comes last, a cycle later in each
 * round: decisions take a fifth longer. */
#define TARGET_BEGIN(features) \
    CDROP_PRAGMA(GCC push_options)         \
    CDROP_PRAGMA(GCC optimize("no-tree-reassoc")) \
    CDROP_PRAGMA(GCC target(features))
#define TARGET_END CDROP_PRAGMA(GCC pop_options)
#define UNROLL CDROP_PRAGMA(GCC unroll 32)
#define INDEPENDENT CDROP_PRAGMA(GCC ivdep)
#else
#define TARGET_BEGIN(features)
#define TARGET_END
#define UNROLL
#define INDEPENDENT
#endif

/* For arrays that vectors are stored to and numbers read from: no vector crosses a cache line. */
#if defined(_MSC_VER)
#define ALIGNED __declspec(align(64))
#else
#define ALIGNED __attribute__((aligned(64)))
#endif

/* For one body in several forms, each a constant: a copy for each is the point of it. */
#if defined(__GNUC__)
#define SPECIALISED static inline __attribute__((always_inline))
#elif defined(_MSC_VER)
#define SPECIALISED static __forceinline
#else
#define SPECIALISED static inline
#endif

#endif
