/* Packed masks: bit k of the result, counted in little-endian order, is element k of the mask. */

#define CHUNK_WORDS (DROPCORE_TILE / 32)

INLINE void draw_tile(const draw &d, u64 tile, u32 *words) {
#pragma unroll
    for (int w = 0; w < CHUNK_WORDS; ++w) words[w] = 0;
#pragma unroll
    for (int b = 0; b < DROPCORE_TILE_BLOCKS; ++b) {
        const dropcore_block block =
            dropcore_block_at(&d.address, tile * DROPCORE_TILE_BLOCKS + (u64)b);
#pragma unroll
        for (int q = 0; q < 4; ++q)
            words[2 * q + b / 8] |= decisions(d, block, (unsigned)q) << (b % 8 * 4);
    }
}

/* One thread makes a tile's worth of bits. Where the first element of the mask is not the first of a
 * tile, it draws the two tiles that they come from. */
KERNEL draw_bits(u8 *bits, i64 n, DRAW_ARGUMENTS) {
    const draw d = DRAW_OF;
    const u64 tile = offset / DROPCORE_TILE;
    const u32 shift = (u32)(offset % DROPCORE_TILE);
    const i64 chunks = (n + DROPCORE_TILE - 1) / DROPCORE_TILE;
    for (i64 c = FIRST; c < chunks; c += STRIDE) {
        u32 words[CHUNK_WORDS];
        draw_tile(d, tile + (u64)c, words);
        if (shift) {
            u32 both[2 * CHUNK_WORDS + 1];
            for (int w = 0; w < CHUNK_WORDS; ++w) both[w] = words[w];
            draw_tile(d, tile + (u64)c + 1, both + CHUNK_WORDS);
            both[2 * CHUNK_WORDS] = 0;
            for (int w = 0; w < CHUNK_WORDS; ++w) {
                const u64 pair = (u64)both[shift / 32 + w + 1] << 32 | both[shift / 32 + w];
                words[w] = (u32)(pair >> (shift % 32));
            }
        }
        const i64 left = n - c * DROPCORE_TILE;
        u8 *to = bits + c * DROPCORE_TILE_BYTES;
        if (left >= DROPCORE_TILE && (u64)to % 16 == 0) {
            four<u32> *quads = (four<u32> *)to;
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                four<u32> quad;
#pragma unroll
                for (int w = 0; w < 4; ++w) quad.at[w] = words[4 * h + w];
                quads[h] = quad;
            }
            continue;
        }
#pragma unroll
        for (int byte = 0; byte < DROPCORE_TILE_BYTES; ++byte) {
            const i64 ahead = left - 8 * byte;
            if (ahead <= 0) break;
            const u32 eight = words[byte / 4] >> (byte % 4 * 8) & 255u;
            to[byte] = (u8)(ahead < 8 ? eight & ((1u << ahead) - 1) : eight);
        }
    }
}

/* With a threshold for every element, which broadcasts to the mask. A thread makes a byte. */
KERNEL draw_bits_each(u8 *bits, i64 n, const u64 *thresholds, AXES_ARGUMENTS(extent),
                      AXES_ARGUMENTS(stride), ADDRESS_ARGUMENTS, u64 offset) {
    const dropcore_address address = ADDRESS_OF;
    const axes extent = AXES_OF(extent), stride = AXES_OF(stride);
    const i64 bytes = (n + 7) / 8;
    for (i64 byte = FIRST; byte < bytes; byte += STRIDE) {
        u32 made = 0;
        for (i64 i = 8 * byte; i < 8 * byte + 8 && i < n; ++i) {
            const u64 threshold = thresholds[placed(extent, stride, i)];
            made |= (u32)dropcore_is_kept(&address, threshold, offset + (u64)i) << (i & 7);
        }
        bits[byte] = (u8)made;
    }
}

/* A byte for each of n bits, and back. */
KERNEL unpack_bits(const u8 *bits, u8 *bytes, i64 n) {
    for (i64 i = FIRST; i < n; i += STRIDE) bytes[i] = (u8)bit_at(bits, i);
}

KERNEL pack_bits(const u8 *bytes, u8 *bits, i64 n) {
    const i64 made = (n + 7) / 8;
    for (i64 byte = FIRST; byte < made; byte += STRIDE) {
        u32 eight = 0;
        for (i64 i = 8 * byte; i < 8 * byte + 8 && i < n; ++i)
            eight |= (u32)(bytes[i] != 0) << (i & 7);
        bits[byte] = (u8)eight;
    }
}

/* A byte for each of n scattered decisions: a Philox block each. */
KERNEL kept_at(u8 *kept, const i64 *indices, i64 n, DRAW_ARGUMENTS) {
    const dropcore_address address = ADDRESS_OF;
    for (i64 i = FIRST; i < n; i += STRIDE)
        kept[i] = (u8)dropcore_is_kept(&address, threshold, offset + (u64)indices[i]);
}

/* The uniforms that decide. */
KERNEL uniforms(u32 *out, i64 n, ADDRESS_ARGUMENTS, u64 offset) {
    const dropcore_address address = ADDRESS_OF;
    for (i64 i = FIRST; i < n; i += STRIDE) out[i] = dropcore_uniform(&address, offset + (u64)i);
}

/* The words of the noise domain. */
KERNEL noise_words(u32 *words, i64 n, ADDRESS_ARGUMENTS, u64 offset) {
    const dropcore_address address = ADDRESS_OF;
    for (i64 i = FIRST; i < n; i += STRIDE)
        words[i] = dropcore_noise_word(&address, offset + (u64)i);
}
