// Sums and maxima over a warp and over a block, in a fixed order: a result depends on the values
// and the number of threads alone.
#pragma once

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

// The sum over the warp, in all lanes. All lanes must call.
template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(ALL_LANES, value, distance);
    }
    return value;
}

// The largest over the warp, in all lanes. All lanes must call.
template <typename T>
__device__ __forceinline__ T warp_max(T value) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        value = max(value, __shfl_xor_sync(ALL_LANES, value, distance));
    }
    return value;
}

// The sum over the block, in all threads. All threads must call; the block is of whole warps, and
// `partial` is shared memory of 32 floats that nobody reads any more when the call begins.
__device__ __forceinline__ float block_sum(float value, float *partial) {
    const int lane = threadIdx.x % WARP;
    value = warp_sum(value);
    if (lane == 0) partial[threadIdx.x / WARP] = value;
    __syncthreads();
    return warp_sum(lane < static_cast<int>(blockDim.x) / WARP ? partial[lane] : 0.0f);
}
