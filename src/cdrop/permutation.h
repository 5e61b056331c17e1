#ifndef CDROP_PERMUTATION_H
#define CDROP_PERMUTATION_H

/* The order of an epoch, before a kernel computes parts of it. */

#include "kernels.h"

/* The constants of the permutation of [0, n): n in [1, 2^63), stream < CDROP_PERMUTATION_STREAMS. */
void cdrop_permutation_for(cdrop_permutation *p, uint64_t n, uint64_t seed, uint32_t stream,
                           uint32_t step);

#endif
