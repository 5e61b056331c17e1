/* Dropout in a CUDA kernel, with the masks that dropcore draws on every other processor. The text
 * compiles with nvcc and, as a string, with NVRTC. */
#include "philox.h"

/* out = kept ? x * scale : 0 for the elements [offset, offset + n) of a mask. A thread decides a
 * group of 128 elements at once; the gradient is the same kernel with dy as x. */
extern "C" __global__ void dropout(const float *x, float *out, dropcore_u64 n, dropcore_u64 seed,
                                   dropcore_u32 stream, dropcore_u32 step, double keep,
                                   dropcore_u64 offset) {
    const dropcore_address address =
        dropcore_address_of(seed, stream, step, DROPCORE_DOMAIN_TRAINING);
    const dropcore_u64 threshold = dropcore_threshold(keep);
    const float scale = threshold ? (float)(1.0 / keep) : 0.0f;
    const dropcore_u64 stride = (dropcore_u64)gridDim.x * blockDim.x;
    const dropcore_u64 thread = (dropcore_u64)blockIdx.x * blockDim.x + threadIdx.x;
    dropcore_u64 group = offset / DROPCORE_GROUP + thread;
    for (; group * DROPCORE_GROUP < offset + n; group += stride) {
        const dropcore_block kept = dropcore_decide(&address, threshold, group);
        for (unsigned e = 0; e < DROPCORE_GROUP; ++e) {
            const dropcore_u64 i = group * DROPCORE_GROUP + e - offset; /* huge before the offset */
            if (i < n) out[i] = dropcore_bit_of(&kept, e) ? x[i] * scale : 0.0f;
        }
    }
}
