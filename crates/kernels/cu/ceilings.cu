// How fast this GPU's memory is: a copy, and a read whose sum is kept so that it is not left out.
// Contract: crates/bench-engine/src/ceilings_cuda.rs.

#include <cstdint>

namespace {

// Loads under way at a time for each thread.
constexpr int UNROLL = 4;

__device__ __forceinline__ uint4 operator^(uint4 a, uint4 b) {
    return make_uint4(a.x ^ b.x, a.y ^ b.y, a.z ^ b.z, a.w ^ b.w);
}

}  // namespace

// Copies `n` units of 16 bytes.
extern "C" __global__ void __launch_bounds__(512)
    copy_units(const uint4 *__restrict__ from, uint4 *__restrict__ to, uint64_t n) {
    const uint64_t stride = static_cast<uint64_t>(gridDim.x) * blockDim.x;
    uint64_t at = blockIdx.x * static_cast<uint64_t>(blockDim.x) + threadIdx.x;
    for (; at + (UNROLL - 1) * stride < n; at += UNROLL * stride) {
        uint4 units[UNROLL];
#pragma unroll
        for (int i = 0; i < UNROLL; i++) units[i] = __ldcs(from + at + i * stride);
#pragma unroll
        for (int i = 0; i < UNROLL; i++) __stcs(to + at + i * stride, units[i]);
    }
    for (; at < n; at += stride) __stcs(to + at, __ldcs(from + at));
}

// Reads `n` units of 16 bytes; each thread with an odd parity of all that it saw adds one to `odd`.
extern "C" __global__ void __launch_bounds__(512)
    read_units(const uint4 *__restrict__ from, uint32_t *odd, uint64_t n) {
    const uint64_t stride = static_cast<uint64_t>(gridDim.x) * blockDim.x;
    uint64_t at = blockIdx.x * static_cast<uint64_t>(blockDim.x) + threadIdx.x;
    uint4 seen = make_uint4(0, 0, 0, 0);
    for (; at + (UNROLL - 1) * stride < n; at += UNROLL * stride) {
        uint4 units[UNROLL];
#pragma unroll
        for (int i = 0; i < UNROLL; i++) units[i] = __ldcs(from + at + i * stride);
#pragma unroll
        for (int i = 0; i < UNROLL; i++) seen = seen ^ units[i];
    }
    for (; at < n; at += stride) seen = seen ^ __ldcs(from + at);
    if (__popc(seen.x ^ seen.y ^ seen.z ^ seen.w) % 2 == 1) atomicAdd(odd, 1);
}
