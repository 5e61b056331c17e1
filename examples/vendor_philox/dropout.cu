/* Runs the kernel of dropout.cuh, next to a copy of philox.h:
 *
 *     nvcc dropout.cu -o dropout && ./dropout 7 3 1 0.75 124 8
 *
 * prints dropout of ones: 1.33333 where an element is kept, 0 where it is dropped. */
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "dropout.cuh"

static void expect(cudaError_t status) {
    if (status == cudaSuccess) return;
    std::fprintf(stderr, "%s\n", cudaGetErrorString(status));
    std::exit(1);
}

int main(int count, char **words) {
    if (count != 7) {
        std::fprintf(stderr, "usage: %s SEED STREAM STEP KEEP OFFSET N\n", words[0]);
        return 2;
    }
    const size_t n = std::strtoull(words[6], nullptr, 0);
    std::vector<float> host(n, 1.0f);
    float *x = nullptr;
    expect(cudaMalloc(&x, n * sizeof(float)));
    expect(cudaMemcpy(x, host.data(), n * sizeof(float), cudaMemcpyHostToDevice));
    dropout<<<64, 128>>>(x, x, n, std::strtoull(words[1], nullptr, 0),
                         (dropcore_u32)std::strtoul(words[2], nullptr, 0),
                         (dropcore_u32)std::strtoul(words[3], nullptr, 0),
                         std::strtod(words[4], nullptr), std::strtoull(words[5], nullptr, 0));
    expect(cudaGetLastError());
    expect(cudaMemcpy(host.data(), x, n * sizeof(float), cudaMemcpyDeviceToHost));
    for (const float number : host) std::printf("%g\n", number);
    expect(cudaFree(x));
    return 0;
}
