/* Packed masks: bit k of the result, counted in little-endian order, is element k of the mask. */

/* A thread writes the bits of 128 elements. If the mask does not start at the start of a group, these
 * come from two groups, and it draws both. */
KERNEL draw_bits(u8 *bits, i64 n, DRAW_ARGUMENTS) {
    const draw d = DRAW_OF;
    const u64 first = offset / DROPCORE_GROUP;
    const u32 shift = (u32)(offset % DROPCORE_GROUP);
    const i64 groups = (n + DROPCORE_GROUP - 1) / DROPCORE_GROUP;
    for (i64 g = FIRST; g < groups; g += STRIDE) {
        dropcore_block kept = dropcore_decide(&d.address, d.threshold, first + (u64)g);
        if (shift) {
            const dropcore_block next =
                dropcore_decide(&d.address, d.threshold, first + (u64)g + 1);
            u32 both[8];
#pragma unroll
            for (int q = 0; q < 4; ++q) {
                both[q] = kept.word[q];
                both[4 + q] = next.word[q];
            }
#pragma unroll
            for (int q = 0; q < 4; ++q) {
                const u32 from = shift / 32 + (u32)q;
                const u64 pair = (u64)both[from + 1] << 32 | both[from];
                kept.word[q] = (u32)(pair >> (shift % 32));
            }
        }
        const i64 left = n - g * DROPCORE_GROUP;
        u8 *to = bits + g * DROPCORE_GROUP_BYTES;
        if (left >= DROPCORE_GROUP && (u64)to % 16 == 0) {
            four<u32> quad;
#pragma unroll
            for (int q = 0; q < 4; ++q) quad.at[q] = kept.word[q];
            *(four<u32> *)to = quad;
            continue;
        }
#pragma unroll
        for (int byte = 0; byte < DROPCORE_GROUP_BYTES; ++byte) {
            const i64 ahead = left - 8 * byte;
            if (ahead <= 0) break;
            const u32 eight = kept.word[byte / 4] >> (byte % 4 * 8) & 255u;
            to[byte] = (u8)(ahead < 8 ? eight & ((1u << ahead) - 1) : eight);
        }
    }
}

/* With thresholds that broadcast to the mask. A thread writes a byte. It draws each plane once for its
 * elements of a group, as long as one of them is tied and has lower bits in its threshold. */
KERNEL draw_bits_each(u8 *bits, i64 n, const u64 *thresholds, AXES_ARGUMENTS(extent),
                      AXES_ARGUMENTS(stride), ADDRESS_ARGUMENTS, u64 offset) {
    const dropcore_address address = ADDRESS_OF;
    const axes extent = AXES_OF(extent), stride = AXES_OF(stride);
    const i64 bytes = (n + 7) / 8;
    for (i64 byte = FIRST; byte < bytes; byte += STRIDE) {
        const u64 index = offset + (u64)(8 * byte), group = index / DROPCORE_GROUP;
        const unsigned first = (unsigned)(index % DROPCORE_GROUP);
        u32 rest[8], kept = 0, tied = 0; /* rest: remaining bits of the thresholds, next plane first */
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            const i64 i = 8 * byte + j;
            const u64 t = i < n ? thresholds[placed(extent, stride, i)] : 0;
            rest[j] = (u32)t;
            if (first + (unsigned)j >= DROPCORE_GROUP || t >= DROPCORE_KEEP_ALL)
                kept |= (u32)dropcore_is_kept(&address, t, index + (u64)j) << j;
            else if (t)
                tied |= 1u << j;
        }
        for (unsigned plane = 0; tied; ++plane) {
            const dropcore_block drawn = dropcore_plane_at(&address, group, plane);
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                if (!(tied >> j & 1)) continue;
                const u32 top = rest[j] >> 31;
                rest[j] <<= 1;
                const bool differs = dropcore_bit_of(&drawn, first + (unsigned)j) != top;
                if (differs) kept |= top << j;
                if (differs || !rest[j]) tied &= ~(1u << j);
            }
        }
        bits[byte] = (u8)kept;
    }
}

/* A byte for each of n bits, and the inverse. */
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

/* A byte for each of n scattered decisions, which draw two planes each on average. */
KERNEL kept_at(u8 *kept, const i64 *indices, i64 n, DRAW_ARGUMENTS) {
    const dropcore_address address = ADDRESS_OF;
    for (i64 i = FIRST; i < n; i += STRIDE)
        kept[i] = (u8)dropcore_is_kept(&address, threshold, offset + (u64)indices[i]);
}

/* The uniforms of decisions. A warp computes a group, each lane a plane; a vote collects the bits of
 * each element. Lane k has plane 31 - k, which is bit k. */
KERNEL uniforms(u32 *out, i64 n, ADDRESS_ARGUMENTS, u64 offset) {
    const dropcore_address address = ADDRESS_OF;
    const unsigned lane = threadIdx.x % WARP;
    const i64 lead = (i64)(offset % DROPCORE_GROUP);
    const i64 groups = (n + lead + DROPCORE_GROUP - 1) / DROPCORE_GROUP;
    for (i64 g = FIRST / WARP; g < groups; g += STRIDE / WARP) {
        const dropcore_block plane = dropcore_plane_at(
            &address, offset / DROPCORE_GROUP + (u64)g, DROPCORE_PLANES - 1 - lane);
#pragma unroll
        for (unsigned q = 0; q < 4; ++q) {
            u32 own = 0; /* of element 32 q + lane */
#pragma unroll
            for (unsigned e = 0; e < WARP; ++e) {
                const u32 u = __ballot_sync(WHOLE_WARP, plane.word[q] >> e & 1);
                if (e == lane) own = u;
            }
            const i64 i = g * DROPCORE_GROUP + 32 * q + lane - lead;
            if (0 <= i && i < n) out[i] = own;
        }
    }
}

/* The words of the noise domain. */
KERNEL noise_words(u32 *words, i64 n, ADDRESS_ARGUMENTS, u64 offset) {
    const dropcore_address address = ADDRESS_OF;
    for (i64 i = FIRST; i < n; i += STRIDE)
        words[i] = dropcore_noise_word(&address, offset + (u64)i);
}
