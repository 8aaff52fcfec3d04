// Grids of features at another size: bilinear, and averages over areas.
// Contract: crates/tensor/src/ops/resample.rs.

#include "common/dtype.cuh"

// The host's struct has the same fields: rows, columns and channels, before and after. Grids follow
// each other; a block's y says in which it is.
struct Sizes {
    uint32_t h, w, c;
    uint32_t h_out, w_out;
};

namespace {

// Where a result lies between two inputs: `low` with 1 - weight, `high` with weight.
struct Between {
    uint32_t low, high;
    float weight;
};

// The centre of result `idx` of `n_out` is at (idx + 1/2) · n / n_out - 1/2 among the inputs; the
// fraction is computed with whole numbers, so it is exact.
__device__ __forceinline__ Between between(uint32_t idx, uint32_t n, uint32_t n_out) {
    const uint64_t centre = (2ull * idx + 1) * n, unit = 2ull * n_out;
    if (centre < n_out) return {0, 0, 0.0f};
    const uint64_t above = centre - n_out;
    const uint32_t low = static_cast<uint32_t>(above / unit);
    const float weight = static_cast<float>(above % unit) / static_cast<float>(unit);
    return {low, min(low + 1, n - 1), weight};
}

template <typename T>
__device__ __forceinline__ const T *grid_before(const T *x, const Sizes &sizes) {
    return x + static_cast<size_t>(blockIdx.y) * sizes.h * sizes.w * sizes.c;
}

template <typename T>
__device__ __forceinline__ T *result_of(T *y, const Sizes &sizes) {
    const size_t n_results = static_cast<size_t>(sizes.h_out) * sizes.w_out;
    return y + (blockIdx.y * n_results + blockIdx.x) * sizes.c;
}

// A block a result; threads take its channels.
template <typename T>
__device__ void bilinear(const T *x, T *y, const Sizes &sizes) {
    const Between rows = between(blockIdx.x / sizes.w_out, sizes.h, sizes.h_out);
    const Between columns = between(blockIdx.x % sizes.w_out, sizes.w, sizes.w_out);
    const size_t row_len = static_cast<size_t>(sizes.w) * sizes.c;
    const T *from = grid_before(x, sizes);
    const T *upper = from + rows.low * row_len, *lower = from + rows.high * row_len;
    const size_t left = static_cast<size_t>(columns.low) * sizes.c;
    const size_t right = static_cast<size_t>(columns.high) * sizes.c;
    T *to = result_of(y, sizes);
    for (uint32_t i = threadIdx.x; i < sizes.c; i += blockDim.x) {
        const float a = to_f32(upper[left + i]), b = to_f32(upper[right + i]);
        const float c = to_f32(lower[left + i]), d = to_f32(lower[right + i]);
        const float above = (1.0f - columns.weight) * a + columns.weight * b;
        const float below = (1.0f - columns.weight) * c + columns.weight * d;
        to[i] = from_f32<T>((1.0f - rows.weight) * above + rows.weight * below);
    }
}

// Result `idx` of `n_out` is the mean of the inputs from floor(idx · n / n_out) to before
// ceil((idx + 1) · n / n_out).
__device__ __forceinline__ uint2 area_of(uint32_t idx, uint32_t n, uint32_t n_out) {
    const uint64_t end = (idx + 1ull) * n + n_out - 1;
    return {static_cast<uint32_t>(static_cast<uint64_t>(idx) * n / n_out),
            static_cast<uint32_t>(end / n_out)};
}

template <typename T>
__device__ void area(const T *x, T *y, const Sizes &sizes) {
    const uint2 rows = area_of(blockIdx.x / sizes.w_out, sizes.h, sizes.h_out);
    const uint2 columns = area_of(blockIdx.x % sizes.w_out, sizes.w, sizes.w_out);
    const float n = static_cast<float>((rows.y - rows.x) * (columns.y - columns.x));
    T *to = result_of(y, sizes);
    for (uint32_t i = threadIdx.x; i < sizes.c; i += blockDim.x) {
        float sum = 0.0f;
        for (uint32_t row = rows.x; row < rows.y; row++) {
            const size_t start = (static_cast<size_t>(row) * sizes.w + columns.x) * sizes.c;
            const T *from = grid_before(x, sizes) + start + i;
            for (uint32_t column = columns.x; column < columns.y; column++, from += sizes.c) {
                sum += to_f32(*from);
            }
        }
        to[i] = from_f32<T>(sum / n);
    }
}

}  // namespace

#define DEFINE(T, name)                                                                      \
    extern "C" __global__ void bilinear_##name(const T *x, T *y, const Sizes sizes) {        \
        bilinear<T>(x, y, sizes);                                                            \
    }                                                                                        \
    extern "C" __global__ void area_##name(const T *x, T *y, const Sizes sizes) {            \
        area<T>(x, y, sizes);                                                                \
    }

FOR_EACH_DTYPE(DEFINE)
