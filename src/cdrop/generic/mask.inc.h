/* Masks from the contract, many at a time. Included once per instruction set.
 *
 * A. A tile is 16 Philox blocks. Each 32-bit counter word sits in the low half of a 64-bit lane,
 *    because the widening multiply reads and writes just that; the high halves hold leftovers that
 *    nothing reads. Packing words densely would need a blend in each of the ten rounds.
 * B. Even and odd blocks go through the rounds side by side, so that zipping them at the end gives
 *    word q of consecutive blocks in order: by the contract, consecutive elements.
 * C. A byte decides all elements but those whose byte equals T >> 24, one in 256. Those ties are
 *    noted while the words are at hand, and settled a chunk at a time: settling each where it
 *    arises costs a mispredicted branch for most tiles, drawing the words again a second Philox.
 *
 * Wanted from the instruction set:
 *   BLOCKS                 64-bit lanes in a vq; a vw holds the 2 * BLOCKS words of as many blocks
 *   vq_set1, vq_even, vq_add, vq_mul_low, vq_high, vq_xor   (see scalar.c, which spells them out)
 *   vw_zip, vw_store, vb_set1, vb_less, vb_equal            compares give 8 * BLOCKS bits: bits_t
 */

#define CHUNK_TILES 16
#define CHUNK (CHUNK_TILES * DROPCORE_TILE)
#define GROUPS (DROPCORE_TILE_BLOCKS / (2 * BLOCKS))

typedef struct {
    vq even[4], odd[4];
} vblocks;

/* The words of 2 * BLOCKS consecutive blocks, from `block` on; the high word is the same in all. */
static inline vblocks philox_blocks(const dropcore_address *a, uint64_t block) {
    const vq m0 = vq_set1(DROPCORE_PHILOX_M0), m1 = vq_set1(DROPCORE_PHILOX_M1);
    vq even[4], odd[4];
    even[0] = vq_even((uint32_t)block);
    odd[0] = vq_add(even[0], vq_set1(1));
    even[1] = odd[1] = vq_set1((uint32_t)(block >> 32));
    even[2] = odd[2] = vq_set1(a->step);
    even[3] = odd[3] = vq_set1(a->domain_stream);
    uint32_t key0 = a->key[0], key1 = a->key[1];
    UNROLL
    for (int round = 0; round < DROPCORE_PHILOX_ROUNDS; ++round) {
        const vq k0 = vq_set1(key0), k1 = vq_set1(key1);
        const vq even_p0 = vq_mul_low(even[0], m0), even_p1 = vq_mul_low(even[2], m1);
        const vq odd_p0 = vq_mul_low(odd[0], m0), odd_p1 = vq_mul_low(odd[2], m1);
        even[0] = vq_xor(vq_high(even_p1), vq_xor(even[1], k0));
        odd[0] = vq_xor(vq_high(odd_p1), vq_xor(odd[1], k0));
        even[2] = vq_xor(vq_high(even_p0), vq_xor(even[3], k1));
        odd[2] = vq_xor(vq_high(odd_p0), vq_xor(odd[3], k1));
        even[1] = even_p1;
        odd[1] = odd_p1;
        even[3] = even_p0;
        odd[3] = odd_p0;
        key0 += DROPCORE_PHILOX_W0;
        key1 += DROPCORE_PHILOX_W1;
    }
    vblocks b;
    for (int q = 0; q < 4; ++q) {
        b.even[q] = even[q];
        b.odd[q] = odd[q];
    }
    return b;
}

/* Settle the noted ties: kept iff the low 24 bits are below the threshold's. */
static void settle_ties(size_t n_tiles, const uint8_t *ties, uint32_t (*words)[4][16],
                        uint32_t low24, uint8_t *bits) {
    uint16_t tied[CHUNK];
    size_t n_tied = 0;
    for (size_t i = 0; i < n_tiles * DROPCORE_TILE; i += 64) {
        uint64_t left = cdrop_load_bits64(ties + i / 8);
        if (left) do {
                tied[n_tied++] = (uint16_t)(i + cdrop_lowest_bit(left));
                left &= left - 1;
            } while (left);
    }
    for (size_t t = 0; t < n_tied; ++t) {
        const unsigned e = tied[t] % DROPCORE_TILE, q = e / 64, b = (e % 64) / 4;
        uint32_t(*w)[16] = words[tied[t] / DROPCORE_TILE];
        const uint32_t fold = dropcore_fold(w[q ^ 1][b], w[q ^ 2][b], w[q ^ 3][b]);
        const unsigned kept = dropcore_low24(fold, e % 4) < low24;
        bits[tied[t] / 8] |= (uint8_t)(kept << (tied[t] % 8));
    }
}

/* Ask for what the decisions of tile t will be applied to: memory works while Philox does. */
static inline void fetch_tile(const char *ahead, size_t bytes, size_t t) {
    if (ahead)
        for (size_t at = t * bytes; at < (t + 1) * bytes; at += 64) CDROP_PREFETCH(ahead + at);
}

/* At most CHUNK_TILES tiles whose blocks share their high word. `ahead`, if it is not NULL, has that
 * many bytes for each tile. */
static void decide_chunk(const cdrop_draw *draw, uint64_t tile, size_t n_tiles, uint8_t *bits,
                         const char *ahead, size_t bytes) {
    const dropcore_address address = draw->address;
    const vb byte = vb_set1((uint8_t)(draw->threshold >> 24));
    const uint32_t low24 = (uint32_t)draw->threshold & 0xFFFFFFu;
    if (low24 == 0) { /* no tie is ever kept */
        for (size_t t = 0; t < n_tiles; ++t) {
            fetch_tile(ahead, bytes, t);
            for (int g = 0; g < GROUPS; ++g) {
                const uint64_t block = (tile + t) * DROPCORE_TILE_BLOCKS + g * 2 * BLOCKS;
                const vblocks b = philox_blocks(&address, block);
                UNROLL
                for (int q = 0; q < 4; ++q)
                    bits_store(bits + t * 32 + q * 8 + g * BLOCKS,
                               vb_less(vw_zip(b.even[q], b.odd[q]), byte));
            }
        }
        return;
    }
    uint32_t words[CHUNK_TILES][4][16];
    uint8_t ties[CHUNK / 8];
    for (size_t t = 0; t < n_tiles; ++t) {
        fetch_tile(ahead, bytes, t);
        for (int g = 0; g < GROUPS; ++g) {
            const uint64_t block = (tile + t) * DROPCORE_TILE_BLOCKS + g * 2 * BLOCKS;
            const vblocks b = philox_blocks(&address, block);
            UNROLL
            for (int q = 0; q < 4; ++q) {
                const vw word = vw_zip(b.even[q], b.odd[q]);
                const size_t at = t * 32 + q * 8 + g * BLOCKS;
                bits_store(bits + at, vb_less(word, byte));
                bits_store(ties + at, vb_equal(word, byte));
                vw_store(&words[t][q][g * 2 * BLOCKS], word);
            }
        }
    }
    settle_ties(n_tiles, ties, words, low24, bits);
}

static inline void decide_for(const cdrop_draw *draw, uint64_t tile, size_t n_tiles, uint8_t *bits,
                              const char *ahead, size_t bytes) {
    if (draw->threshold == 0 || draw->threshold >= DROPCORE_KEEP_ALL) {
        memset(bits, draw->threshold ? 0xFF : 0, n_tiles * DROPCORE_TILE_BYTES);
        return;
    }
    while (n_tiles) {
        const size_t now = n_tiles < CHUNK_TILES ? n_tiles : CHUNK_TILES;
        decide_chunk(draw, tile, now, bits, ahead, bytes);
        tile += now;
        bits += now * DROPCORE_TILE_BYTES;
        n_tiles -= now;
        if (ahead) ahead += now * bytes;
    }
}

static void decide(const cdrop_draw *draw, uint64_t tile, size_t n_tiles, uint8_t *bits) {
    decide_for(draw, tile, n_tiles, bits, NULL, 0);
}

/* The words of a tile: word q of its blocks side by side. */
static inline void tile_words(const dropcore_address *address, uint64_t tile, uint32_t (*w)[16]) {
    for (int g = 0; g < GROUPS; ++g) {
        const vblocks b = philox_blocks(address, tile * DROPCORE_TILE_BLOCKS + g * 2 * BLOCKS);
        for (int q = 0; q < 4; ++q) vw_store(&w[q][g * 2 * BLOCKS], vw_zip(b.even[q], b.odd[q]));
    }
}

static void words(const dropcore_address *address, uint64_t tile, size_t n_tiles, uint32_t *out) {
    for (; n_tiles; --n_tiles, ++tile, out += 64) {
        uint32_t w[4][16];
        tile_words(address, tile, w);
        for (int b = 0; b < 16; ++b)
            for (int q = 0; q < 4; ++q) out[4 * b + q] = w[q][b];
    }
}

static void uniform(const dropcore_address *address, uint64_t tile, size_t n_tiles, uint32_t *u) {
    for (; n_tiles; --n_tiles, ++tile, u += DROPCORE_TILE) {
        uint32_t w[4][16];
        tile_words(address, tile, w);
        for (unsigned q = 0; q < 4; ++q)
            for (unsigned b = 0; b < 16; ++b) {
                const uint32_t fold = dropcore_fold(w[q ^ 1][b], w[q ^ 2][b], w[q ^ 3][b]);
                for (unsigned j = 0; j < 4; ++j)
                    u[q * 64 + b * 4 + j] =
                        (w[q][b] >> (8 * j) & 255u) << 24 | dropcore_low24(fold, j);
            }
    }
}

#undef GROUPS
