/* Numbers of a permutation of [0, n), or where they are in it. The mask contract defines it (domain
 * 3); cdrop_permutation holds its constants.
 *
 * A round of swap-or-not is its own inverse: backwards, the rounds are taken from the last one on.
 * Two vectors go through them side by side. All numbers are below 2^63, so that the top bit of a
 * difference is its sign. Of a block only bit 0 is wanted, for which Philox' last round is half a
 * round.
 *
 * Wanted besides the names of mask.inc.h: vq_load and vq_store of VQ_LANES numbers of 64 bits.
 */

#define AT_ONCE (2 * VQ_LANES)

/* The words that the rounds of Philox add, and the products of round 1 that all blocks share. */
typedef struct {
    vq key0[DROPCORE_PHILOX_ROUNDS], key1[DROPCORE_PHILOX_ROUNDS], step_low;
} permutation_keys;

/* All ones where a is negative, else 0. */
static inline vq where_negative(vq a) {
    return vq_sub(vq_set64(0), vq_right(a, 63));
}

static inline void swap_or_not(const cdrop_permutation *p, const permutation_keys *k, unsigned r,
                               vq *x) {
    const vq m0 = vq_set1(DROPCORE_PHILOX_M0), m1 = vq_set1(DROPCORE_PHILOX_M1);
    const vq n = vq_set64(p->n), sum = vq_set64(p->sum[r]);
    const vq last_word = vq_set1((p->address.domain_stream | r) ^ p->address.key[1]);
    vq partner[2], w[2][4];
    for (int v = 0; v < 2; ++v) { /* round 1 of Philox: the number of the block is the larger one */
        vq larger;
        partner[v] = vq_sub(sum, x[v]);
        partner[v] = vq_add(partner[v], vq_and(n, where_negative(partner[v])));
        larger = vq_and(vq_xor(x[v], partner[v]), where_negative(vq_sub(x[v], partner[v])));
        larger = vq_xor(x[v], larger);
        w[v][0] = vq_xor(vq_right(larger, 32), k->key0[0]);
        w[v][1] = k->step_low;
        w[v][3] = vq_mul_low(larger, m0);
        w[v][2] = vq_xor(vq_right(w[v][3], 32), last_word);
    }
    UNROLL
    for (int round = 1; round < DROPCORE_PHILOX_ROUNDS - 1; ++round) {
        for (int v = 0; v < 2; ++v) {
            const vq p0 = vq_mul_low(w[v][0], m0), p1 = vq_mul_low(w[v][2], m1);
            w[v][0] = vq_xor3(vq_right(p1, 32), w[v][1], k->key0[round]);
            w[v][2] = vq_xor3(vq_right(p0, 32), w[v][3], k->key1[round]);
            w[v][1] = p1;
            w[v][3] = p0;
        }
    }
    for (int v = 0; v < 2; ++v) {
        const vq word = vq_xor3(vq_right(vq_mul_low(w[v][2], m1), 32), w[v][1],
                                k->key0[DROPCORE_PHILOX_ROUNDS - 1]);
        const vq swap = vq_sub(vq_set64(0), vq_and(word, vq_set64(1)));
        x[v] = vq_xor(x[v], vq_and(vq_xor(x[v], partner[v]), swap));
    }
}

static inline void permute_some(const cdrop_permutation *p, const permutation_keys *k,
                                int backwards, uint64_t *numbers) {
    vq x[2] = {vq_load(numbers), vq_load(numbers + VQ_LANES)};
    for (unsigned done = 0; done < p->rounds; ++done)
        swap_or_not(p, k, backwards ? p->rounds - 1 - done : done, x);
    vq_store(numbers, x[0]);
    vq_store(numbers + VQ_LANES, x[1]);
}

static void permute(const cdrop_permutation *p, int backwards, size_t count, uint64_t *numbers) {
    const uint64_t step = (uint64_t)DROPCORE_PHILOX_M1 * p->address.step;
    uint32_t key0 = p->address.key[0], key1 = p->address.key[1];
    uint64_t rest[AT_ONCE] = {0};
    permutation_keys k;
    k.step_low = vq_set1((uint32_t)step);
    k.key0[0] = vq_set1((uint32_t)(step >> 32) ^ key0);
    k.key1[0] = vq_set1(key1);
    for (int round = 1; round < DROPCORE_PHILOX_ROUNDS; ++round) {
        k.key0[round] = vq_set1(key0 += DROPCORE_PHILOX_W0);
        k.key1[round] = vq_set1(key1 += DROPCORE_PHILOX_W1);
    }
    for (; count >= AT_ONCE; count -= AT_ONCE, numbers += AT_ONCE)
        permute_some(p, &k, backwards, numbers);
    if (count) {
        memcpy(rest, numbers, count * sizeof *rest);
        permute_some(p, &k, backwards, rest);
        memcpy(numbers, rest, count * sizeof *rest);
    }
}

#undef AT_ONCE
