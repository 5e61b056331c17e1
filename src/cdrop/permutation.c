#include "permutation.h"

#define ROUNDS_MORE 32 /* than the bits of n - 1: each halves what is left of the order before */
#define SUM_BLOCK ((uint64_t)1 << 63) /* behind the blocks that decide */

/* floor(words * n / 2^128), words being a number of 128 bits: less than n. */
static uint64_t share_of(const dropcore_block *words, uint64_t n) {
    const uint64_t low = (uint32_t)n, high = n >> 32;
    uint64_t carried = 0;
    for (int q = 0; q < 4; ++q) { /* carried = (words.word[q] * n + carried) / 2^32 */
        const uint64_t word = words->word[q];
        carried = word * high + (carried >> 32) + ((word * low + (uint32_t)carried) >> 32);
    }
    return carried;
}

void cdrop_permutation_for(cdrop_permutation *p, uint64_t n, uint64_t seed, uint32_t stream,
                           uint32_t step) {
    p->address = dropcore_address_of(seed, stream << 7, step, DROPCORE_DOMAIN_ORDER);
    p->n = n;
    p->rounds = ROUNDS_MORE;
    for (uint64_t rest = n - 1; rest; rest >>= 1) ++p->rounds;
    for (unsigned r = 0; r < p->rounds; ++r) {
        dropcore_address a = p->address;
        dropcore_block words;
        a.domain_stream |= r;
        words = dropcore_block_at(&a, SUM_BLOCK);
        p->sum[r] = share_of(&words, n);
    }
}
