// Element types, their conversion to and from f32, and groups of elements that are loaded at once.
// Knows nothing of operations.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

using f32 = float;
using bf16 = __nv_bfloat16;
using f16 = __half;

// Calls `define(type, name)` for every type that operations compute in.
#define FOR_EACH_DTYPE(define) define(f32, f32) define(bf16, bf16) define(f16, f16)

__device__ __forceinline__ float to_f32(float value) { return value; }
__device__ __forceinline__ float to_f32(bf16 value) { return __bfloat162float(value); }
__device__ __forceinline__ float to_f32(f16 value) { return __half2float(value); }

// Rounds to the nearest value of `T`, ties to even.
template <typename T>
__device__ __forceinline__ T from_f32(float value);
template <>
__device__ __forceinline__ float from_f32<float>(float value) { return value; }
template <>
__device__ __forceinline__ bf16 from_f32<bf16>(float value) { return __float2bfloat16_rn(value); }
template <>
__device__ __forceinline__ f16 from_f32<f16>(float value) { return __float2half_rn(value); }

// Elements of a group. Four f32 are one load of 16 bytes; four halves one of 8, which is enough to
// reach the memory's speed.
constexpr int GROUP = 4;

// `N` neighbouring elements; its address must be a multiple of its size.
template <typename T, int N>
struct alignas(sizeof(T) * N) Group {
    T at[N];
};

// Whether every group of `T` at `address + i * N` elements is aligned.
template <typename T, int N>
__device__ __forceinline__ bool is_aligned(const T *address) {
    return reinterpret_cast<uintptr_t>(address) % (sizeof(T) * N) == 0;
}

template <typename T, int N>
__device__ __forceinline__ Group<float, N> load_group(const T *from) {
    const Group<T, N> raw = *reinterpret_cast<const Group<T, N> *>(from);
    Group<float, N> group;
#pragma unroll
    for (int i = 0; i < N; i++) group.at[i] = to_f32(raw.at[i]);
    return group;
}

template <typename T, int N>
__device__ __forceinline__ void store_group(T *to, const Group<float, N> &group) {
    Group<T, N> raw;
#pragma unroll
    for (int i = 0; i < N; i++) raw.at[i] = from_f32<T>(group.at[i]);
    *reinterpret_cast<Group<T, N> *>(to) = raw;
}
