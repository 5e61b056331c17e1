/* SPDX-License-Identifier: BSD-3-Clause
 * Copyright (c) dropcore developers. Other projects may copy this file as it is, with these lines.
 *
 * The mask contract, version 2, in code: one text for C99, C++ and CUDA (also under NVRTC). It
 * includes nothing and defines only static functions, so that copies of it do not clash.
 *
 * A mask is a pure function of (seed, stream, step, logical index). This file is that function,
 * one element or one group of elements at a time; the vector kernels compute the same values for
 * many groups at once.
 *
 *   element i  ->  group i / 128, e = i % 128
 *   plane j of a group, 0 <= j < 32, is block 32 * group + j
 *   bit 31 - j of u32(i) is bit e % 32 of word e / 32 of plane j
 *   kept iff u32(i) < T,  T = round(keep * 2^32)
 *
 * Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3. SC 2011 (Philox4x32-7).
 */
#ifndef DROPCORE_PHILOX_H
#define DROPCORE_PHILOX_H

#if defined(__CUDACC__)
#define DROPCORE_FN static __host__ __device__ __forceinline__
#elif defined(__CUDACC_RTC__)
#define DROPCORE_FN static __device__ __forceinline__
#elif defined(_MSC_VER)
#define DROPCORE_FN static __inline
#else
#define DROPCORE_FN static inline __attribute__((unused))
#endif

/* Fixed widths without <stdint.h>, which NVRTC does not have. */
typedef unsigned char dropcore_u8;
typedef unsigned int dropcore_u32;
typedef unsigned long long dropcore_u64;

#define DROPCORE_CONTRACT_VERSION 2 /* of the masks: another one would draw others */
#define DROPCORE_PHILOX_REVISION 2  /* of this file: counts what has been added to it */

#define DROPCORE_GROUP 128      /* elements in a group, bits in a block */
#define DROPCORE_GROUP_BYTES 16 /* packed bytes in a group */
#define DROPCORE_PLANES 32      /* bits of a uniform, blocks in a group */

#define DROPCORE_DOMAIN_TRAINING 0u
#define DROPCORE_DOMAIN_NOISE 1u
#define DROPCORE_DOMAIN_MONTE_CARLO 2u
#define DROPCORE_DOMAIN_ORDER 3u

#define DROPCORE_PHILOX_M0 0xD2511F53u
#define DROPCORE_PHILOX_M1 0xCD9E8D57u
#define DROPCORE_PHILOX_W0 0x9E3779B9u
#define DROPCORE_PHILOX_W1 0xBB67AE85u
#define DROPCORE_PHILOX_ROUNDS 7

#define DROPCORE_KEEP_ALL 0x100000000ull /* the 33-bit threshold that keeps everything */

typedef struct {
    dropcore_u32 word[4];
} dropcore_block;

/* Where a mask begins: all of its address but the index. */
typedef struct {
    dropcore_u32 key[2];        /* seed low, seed high */
    dropcore_u32 step;
    dropcore_u32 domain_stream; /* domain << 28 | stream */
} dropcore_address;

DROPCORE_FN dropcore_address dropcore_address_of(dropcore_u64 seed, dropcore_u32 stream,
                                                 dropcore_u32 step, dropcore_u32 domain) {
    dropcore_address a;
    a.key[0] = (dropcore_u32)seed;
    a.key[1] = (dropcore_u32)(seed >> 32);
    a.step = step;
    a.domain_stream = domain << 28 | stream;
    return a;
}

DROPCORE_FN dropcore_block dropcore_philox(dropcore_block counter, dropcore_u32 key0,
                                           dropcore_u32 key1) {
    dropcore_u32 c0 = counter.word[0], c1 = counter.word[1];
    dropcore_u32 c2 = counter.word[2], c3 = counter.word[3];
    for (int round = 0; round < DROPCORE_PHILOX_ROUNDS; ++round) {
        const dropcore_u64 p0 = (dropcore_u64)DROPCORE_PHILOX_M0 * c0;
        const dropcore_u64 p1 = (dropcore_u64)DROPCORE_PHILOX_M1 * c2;
        c0 = (dropcore_u32)(p1 >> 32) ^ c1 ^ key0;
        c1 = (dropcore_u32)p1;
        c2 = (dropcore_u32)(p0 >> 32) ^ c3 ^ key1;
        c3 = (dropcore_u32)p0;
        key0 += DROPCORE_PHILOX_W0;
        key1 += DROPCORE_PHILOX_W1;
    }
    counter.word[0] = c0;
    counter.word[1] = c1;
    counter.word[2] = c2;
    counter.word[3] = c3;
    return counter;
}

DROPCORE_FN dropcore_block dropcore_block_at(const dropcore_address *a, dropcore_u64 block) {
    dropcore_block counter;
    counter.word[0] = (dropcore_u32)block;
    counter.word[1] = (dropcore_u32)(block >> 32);
    counter.word[2] = a->step;
    counter.word[3] = a->domain_stream;
    return dropcore_philox(counter, a->key[0], a->key[1]);
}

/* Plane j of a group: one bit of the uniform of each of its elements. */
DROPCORE_FN dropcore_block dropcore_plane_at(const dropcore_address *a, dropcore_u64 group,
                                             unsigned j) {
    return dropcore_block_at(a, group * DROPCORE_PLANES + j);
}

/* Bit e of a block, 0 <= e < 128. */
DROPCORE_FN dropcore_u32 dropcore_bit_of(const dropcore_block *b, unsigned e) {
    return b->word[e / 32] >> (e % 32) & 1u;
}

/* The uniform of element i, in [0, 2^32). */
DROPCORE_FN dropcore_u32 dropcore_uniform(const dropcore_address *a, dropcore_u64 i) {
    dropcore_u32 u = 0;
    for (unsigned j = 0; j < DROPCORE_PLANES; ++j) {
        const dropcore_block plane = dropcore_plane_at(a, i / DROPCORE_GROUP, j);
        u = u << 1 | dropcore_bit_of(&plane, (unsigned)(i % DROPCORE_GROUP));
    }
    return u;
}

/* T = round(keep * 2^32), half to even, for keep in [0, 1]: 33 bits, exact. */
DROPCORE_FN dropcore_u64 dropcore_threshold(double keep) {
    const double scaled = keep * 4294967296.0; /* a power of two: exact */
    dropcore_u64 t = (dropcore_u64)scaled;
    const double rest = scaled - (double)t; /* exact: both below 2^33 */
    if (rest > 0.5 || (rest == 0.5 && (t & 1))) ++t;
    return t;
}

/* u32(i) < T, by planes from the top: the first that differs from T decides, and below the lowest
 * one of T none can. */
DROPCORE_FN int dropcore_is_kept(const dropcore_address *a, dropcore_u64 threshold,
                                 dropcore_u64 i) {
    dropcore_u32 rest = (dropcore_u32)threshold; /* T from plane j on, at the top */
    if (threshold >= DROPCORE_KEEP_ALL) return 1;
    for (unsigned j = 0; rest; ++j, rest <<= 1) {
        const dropcore_block plane = dropcore_plane_at(a, i / DROPCORE_GROUP, j);
        const dropcore_u32 bit = dropcore_bit_of(&plane, (unsigned)(i % DROPCORE_GROUP));
        if (bit != rest >> 31) return bit == 0;
    }
    return 0;
}

/* The same for a whole group: bit e of the result, counted as in a block, is element 128 group + e.
 * Planes are drawn while an element is tied with T. */
DROPCORE_FN dropcore_block dropcore_decide(const dropcore_address *a, dropcore_u64 threshold,
                                           dropcore_u64 group) {
    dropcore_u32 rest = (dropcore_u32)threshold, any = 0xFFFFFFFFu;
    dropcore_block kept, tied;
    for (int q = 0; q < 4; ++q) {
        kept.word[q] = threshold >= DROPCORE_KEEP_ALL ? 0xFFFFFFFFu : 0u;
        tied.word[q] = 0xFFFFFFFFu;
    }
    for (unsigned j = 0; rest && any; ++j, rest <<= 1) {
        const dropcore_block plane = dropcore_plane_at(a, group, j);
        any = 0;
        for (int q = 0; q < 4; ++q) {
            if (rest >> 31) {
                kept.word[q] |= tied.word[q] & ~plane.word[q];
                tied.word[q] &= plane.word[q];
            } else {
                tied.word[q] &= ~plane.word[q];
            }
            any |= tied.word[q];
        }
    }
    return kept;
}

/* Noise (domain 1): element i reads word i % 4 of block i / 4. */
DROPCORE_FN dropcore_u32 dropcore_noise_word(const dropcore_address *a, dropcore_u64 i) {
    return dropcore_block_at(a, i / 4).word[i % 4];
}

#endif
