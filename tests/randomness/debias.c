/* Fair bits from a biased mask on standard input, to standard output (von Neumann 1951): of each pair
 * of bits that differ the first one, the others are left out. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

int main(void) {
    static uint64_t in[1 << 15];
    static uint8_t out[sizeof in]; /* at most a bit a pair: half of it is enough */
    uint64_t made = 0;
    unsigned bits = 0;
    size_t n;
    while ((n = fread(in, sizeof *in, sizeof in / sizeof *in, stdin)) > 0) {
        size_t bytes = 0;
        for (size_t i = 0; i < n; ++i) {
            const uint64_t differ = (in[i] ^ in[i] >> 1) & 0x5555555555555555u;
            for (uint64_t left = differ; left; left &= left - 1) {
                made |= (uint64_t)((in[i] & left & (0 - left)) != 0) << bits;
                if (++bits == 64) {
                    memcpy(out + bytes, &made, 8);
                    bytes += 8;
                    made = bits = 0;
                }
            }
        }
        if (fwrite(out, 1, bytes, stdout) != bytes) return 0; /* the reader has enough */
    }
    return 0;
}
