/* The masks of dropcore in a C program that needs nothing but one header:
 *
 *     cp "$(python -c 'import dropcore; print(dropcore.get_include())')/dropcore/philox.h" .
 *     cc -std=c99 -O2 draw.c -o draw
 *     ./draw 7 3 1 0.75 124 8           seed, stream, step, keep, offset and number of elements
 *
 * prints the packed mask in hexadecimal, here af. The program checks the known answers of the mask
 * contract first, and ends with status 1 if others come out. */
#include <stdio.h>
#include <stdlib.h>

#include "philox.h"

#if DROPCORE_CONTRACT_VERSION != 2
#error "this program was written for version 2 of the mask contract"
#endif

/* The bits of the elements [offset, offset + n), eight a byte, the first one least significant.
 * Groups of 128 elements are decided at once. */
static void packed_mask(const dropcore_address *address, dropcore_u64 threshold,
                        dropcore_u64 offset, dropcore_u64 n, dropcore_u8 *bits) {
    dropcore_block kept = {{0, 0, 0, 0}};
    dropcore_u64 i;
    for (i = 0; i < n; ++i) {
        const unsigned e = (unsigned)((offset + i) % DROPCORE_GROUP);
        if (i == 0 || e == 0)
            kept = dropcore_decide(address, threshold, (offset + i) / DROPCORE_GROUP);
        if (i % 8 == 0) bits[i / 8] = 0;
        bits[i / 8] = (dropcore_u8)(bits[i / 8] | dropcore_bit_of(&kept, e) << (i % 8));
    }
}

/* 1 if the compiled header gives what it should: Philox4x32-7 as published with Random123, and a mask of
 * 128 elements by each of the functions that decide. */
static int known_answers(void) {
    static const dropcore_u32 known[3][10] = {
        {0, 0, 0, 0, 0, 0, 0x5f6fb709, 0x0d893f64, 0x4f121f81, 0x4f730a48},
        {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x5207ddc2,
         0x45165e59, 0x4d8ee751, 0x8c52f662},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0x4dfccaba,
         0x190a87f0, 0xc47362ba, 0xb6b5242a},
    };
    const dropcore_address zero = dropcore_address_of(0, 0, 0, DROPCORE_DOMAIN_TRAINING);
    const dropcore_u64 half = dropcore_threshold(0.5);
    const dropcore_block kept = dropcore_decide(&zero, half, 0);
    int a, q;
    unsigned e;
    for (a = 0; a < 3; ++a) {
        dropcore_block block = {{known[a][0], known[a][1], known[a][2], known[a][3]}};
        block = dropcore_philox(block, known[a][4], known[a][5]);
        for (q = 0; q < 4; ++q)
            if (block.word[q] != known[a][6 + q]) return 0;
    }
    for (q = 0; q < 4; ++q) /* keep = 0.5 keeps where plane 0 has a 0 */
        if (kept.word[q] != (known[0][6 + q] ^ 0xffffffffu)) return 0;
    for (e = 0; e < DROPCORE_GROUP; ++e) {
        const int bit = (int)dropcore_bit_of(&kept, e);
        if (dropcore_is_kept(&zero, half, e) != bit) return 0;
        if ((dropcore_uniform(&zero, e) < half) != bit) return 0;
    }
    return 1;
}

int main(int count, char **words) {
    dropcore_address address;
    dropcore_u64 offset, n, byte;
    dropcore_u8 *bits;
    if (!known_answers()) {
        fprintf(stderr, "the known answers of the mask contract do not come out\n");
        return 1;
    }
    if (count != 7) {
        fprintf(stderr, "usage: %s SEED STREAM STEP KEEP OFFSET N\n", words[0]);
        return 2;
    }
    address = dropcore_address_of(strtoull(words[1], NULL, 0),
                                  (dropcore_u32)strtoul(words[2], NULL, 0),
                                  (dropcore_u32)strtoul(words[3], NULL, 0),
                                  DROPCORE_DOMAIN_TRAINING);
    offset = strtoull(words[5], NULL, 0);
    n = strtoull(words[6], NULL, 0);
    bits = (dropcore_u8 *)malloc((size_t)(n / 8 + 1));
    if (!bits) return 1;
    packed_mask(&address, dropcore_threshold(strtod(words[4], NULL)), offset, n, bits);
    for (byte = 0; byte < (n + 7) / 8; ++byte) printf("%02x", bits[byte]);
    printf("\n");
    free(bits);
    return 0;
}
