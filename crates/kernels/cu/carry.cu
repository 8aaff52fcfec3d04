// Tokens handed from one step to the next. Contract: crates/tensor/src/ops/carry.rs.

#include <cstdint>

extern "C" __global__ void carry_u32(uint32_t *tokens, const uint32_t *sampled,
                                     const uint32_t *sources, uint32_t n, uint32_t n_sampled) {
    const uint32_t idx = blockIdx.x * blockDim.x + threadIdx.x;
    if (idx >= n) return;
    const uint32_t source = sources[idx];
    if (source < n_sampled) tokens[idx] = sampled[source];
}
