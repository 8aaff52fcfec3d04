// Matrix products of one warp on tensor cores (16×8×16, f32 sums), the loads from shared memory
// that bring operands into their places, and asynchronous copies into shared memory.
// Knows nothing of operations.
//
// Who holds what, with g = lane / 4 and t = lane % 4:
// sums [16][8]: 0, 1 are row g, columns 2t, 2t+1; 2, 3 are row g + 8.
// left operand [16][16]: 0 is row g, columns 2t, 2t+1; 1 is row g + 8; 2 and 3 are columns + 8.
// right operand [16][8]: 0 is rows 2t, 2t+1 of column g; 1 is rows + 8.
#pragma once

#include "dtype.cuh"

// sums += left · right.
template <typename T>
__device__ __forceinline__ void mma(float (&sums)[4], const uint32_t (&left)[4], uint32_t right0,
                                    uint32_t right1);

template <>
__device__ __forceinline__ void mma<bf16>(float (&sums)[4], const uint32_t (&left)[4],
                                          uint32_t right0, uint32_t right1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right0), "r"(right1));
}

template <>
__device__ __forceinline__ void mma<f16>(float (&sums)[4], const uint32_t (&left)[4],
                                         uint32_t right0, uint32_t right1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right0), "r"(right1));
}

// Two neighbouring elements as one register, `first` in the lower half.
template <typename T>
__device__ __forceinline__ uint32_t pack_two(float first, float second);

template <>
__device__ __forceinline__ uint32_t pack_two<bf16>(float first, float second) {
    uint32_t both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
    return both;
}

template <>
__device__ __forceinline__ uint32_t pack_two<f16>(float first, float second) {
    uint32_t both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
    return both;
}

__device__ __forceinline__ uint32_t shared_address(const void *address) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(address));
}

// Four 8×8 matrices of 16-bit elements; lane `8i + r` gives the address of row `r` of matrix `i`.
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
}

// The same, each matrix transposed.
__device__ __forceinline__ void load_transposed(uint32_t (&to)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
}

// An 8×8 matrix of 16-bit elements transposed: lane `4g + t` has columns `2t`, `2t+1` of row `g`.
__device__ __forceinline__ uint32_t transposed(uint32_t two) {
    uint32_t result;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(two));
    return result;
}

// Starts copying 16 bytes into shared memory; zeros, and nothing is read, unless `there`.
__device__ __forceinline__ void copy_16_bytes(void *to, const void *from, bool there) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;"
                 :
                 : "r"(shared_address(to)), "l"(from), "r"(there ? 16 : 0)
                 : "memory");
}

// Ends a group of copies.
__device__ __forceinline__ void commit_copies() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until all groups of this thread but the last `N` have arrived.
template <int N>
__device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" : : "n"(N) : "memory");
}

// 2^x, about two units in the last place; 0 for -infinity.
__device__ __forceinline__ float exp2_fast(float x) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}
