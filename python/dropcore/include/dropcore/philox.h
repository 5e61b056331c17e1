/* The mask contract, version 1, in code: one text for C99, C++ and CUDA (also under NVRTC).
 *
 * A mask is a pure function of (seed, stream, step, logical index). This file is that function for
 * one element, written to be read; the vector kernels compute the same values many at a time.
 *
 *   element i  ->  tile i / 256, e = i % 256
 *              ->  word e / 64, byte e % 4, of block 16 * tile + (e % 64) / 4
 *   u32(e)      =  byte << 24 | low24
 *   kept       iff u32(e) < T,  T = round(keep * 2^32)
 *
 * Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3. SC 2011 (Philox4x32-10).
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

#define DROPCORE_CONTRACT_VERSION 1

#define DROPCORE_TILE 256       /* elements in a tile */
#define DROPCORE_TILE_BLOCKS 16 /* Philox blocks in a tile */
#define DROPCORE_TILE_BYTES 32  /* packed bytes in a tile */

#define DROPCORE_DOMAIN_TRAINING 0u
#define DROPCORE_DOMAIN_NOISE 1u
#define DROPCORE_DOMAIN_MONTE_CARLO 2u

#define DROPCORE_PHILOX_M0 0xD2511F53u
#define DROPCORE_PHILOX_M1 0xCD9E8D57u
#define DROPCORE_PHILOX_W0 0x9E3779B9u
#define DROPCORE_PHILOX_W1 0xBB67AE85u
#define DROPCORE_PHILOX_ROUNDS 10

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

DROPCORE_FN dropcore_u32 dropcore_rotl(dropcore_u32 x, int n) {
    return x << n | x >> (32 - n);
}

/* What the four elements of word q share: a mix of the block's other three words. */
DROPCORE_FN dropcore_u32 dropcore_fold(dropcore_u32 w1, dropcore_u32 w2, dropcore_u32 w3) {
    return w1 ^ dropcore_rotl(w2, 11) ^ dropcore_rotl(w3, 22);
}

/* The low 24 bits of the uniform of byte j of a word, from that word's fold. */
DROPCORE_FN dropcore_u32 dropcore_low24(dropcore_u32 fold, unsigned j) {
    const dropcore_u32 c = j == 0   ? 0x9E3779B1u
                           : j == 1 ? 0x85EBCA6Bu
                           : j == 2 ? 0xC2B2AE35u
                                    : 0x27D4EB2Fu;
    return (fold * c) >> 8;
}

/* The uniform of byte j of word q of a block. */
DROPCORE_FN dropcore_u32 dropcore_uniform_in(const dropcore_block *b, unsigned q, unsigned j) {
    const dropcore_u32 byte = (b->word[q] >> (8 * j)) & 255u;
    const dropcore_u32 fold = dropcore_fold(b->word[q ^ 1], b->word[q ^ 2], b->word[q ^ 3]);
    return byte << 24 | dropcore_low24(fold, j);
}

/* The uniform of element i, in [0, 2^32). */
DROPCORE_FN dropcore_u32 dropcore_uniform(const dropcore_address *a, dropcore_u64 i) {
    const unsigned e = (unsigned)(i % DROPCORE_TILE);
    const dropcore_u64 block = i / DROPCORE_TILE * DROPCORE_TILE_BLOCKS + (e % 64) / 4;
    const dropcore_block b = dropcore_block_at(a, block);
    return dropcore_uniform_in(&b, e / 64, e % 4);
}

/* T = round(keep * 2^32), half to even, for keep in [0, 1]: 33 bits, exact. */
DROPCORE_FN dropcore_u64 dropcore_threshold(double keep) {
    const double scaled = keep * 4294967296.0; /* a power of two: exact */
    dropcore_u64 t = (dropcore_u64)scaled;
    const double rest = scaled - (double)t; /* exact: both below 2^33 */
    if (rest > 0.5 || (rest == 0.5 && (t & 1))) ++t;
    return t;
}

DROPCORE_FN int dropcore_is_kept(const dropcore_address *a, dropcore_u64 threshold,
                                 dropcore_u64 i) {
    return dropcore_uniform(a, i) < threshold;
}

/* Noise (domain 1): element i reads word i % 4 of block i / 4. */
DROPCORE_FN dropcore_u32 dropcore_noise_word(const dropcore_address *a, dropcore_u64 i) {
    return dropcore_block_at(a, i / 4).word[i % 4];
}

#endif
