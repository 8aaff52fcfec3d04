// Rotary position embedding: angles of positions, and the rotation of heads in place.
// Contract: crates/tensor/src/ops/rotary.rs.

#include "common/dtype.cuh"

namespace {

// Which two elements of a head turn together.
enum class Form {
    Halves,  // element i and element i + half
    Pairs,   // elements 2i and 2i + 1
};

// Turns `N` pairs, from pair `i` of `head` on.
template <typename T, int N>
__device__ __forceinline__ void turn_halves(T *head, const float *cos, const float *sin, int i,
                                            int half) {
    const auto c = load_group<float, N>(cos + i), s = load_group<float, N>(sin + i);
    const auto a = load_group<T, N>(head + i), b = load_group<T, N>(head + half + i);
    Group<float, N> low, high;
#pragma unroll
    for (int k = 0; k < N; k++) {
        low.at[k] = a.at[k] * c.at[k] - b.at[k] * s.at[k];
        high.at[k] = b.at[k] * c.at[k] + a.at[k] * s.at[k];
    }
    store_group<T, N>(head + i, low);
    store_group<T, N>(head + half + i, high);
}

template <typename T>
__device__ __forceinline__ void turn_pair(T *head, const float *cos, const float *sin, int i) {
    const float a = to_f32(head[2 * i]), b = to_f32(head[2 * i + 1]);
    head[2 * i] = from_f32<T>(a * cos[i] - b * sin[i]);
    head[2 * i + 1] = from_f32<T>(b * cos[i] + a * sin[i]);
}

// A block a row; threads take the heads `first_head .. first_head + n_heads` group by group.
template <typename T, Form FORM, int N>
__device__ void rotate_row(T *row, const float *cos, const float *sin, int half, int first_head,
                           int n_heads) {
    const int groups = half / N;
    for (int item = threadIdx.x; item < n_heads * groups; item += blockDim.x) {
        T *head = row + (first_head + item / groups) * 2 * half;
        const int i = item % groups * N;
        if (FORM == Form::Halves) {
            turn_halves<T, N>(head, cos, sin, i, half);
        } else {
#pragma unroll
            for (int k = 0; k < N; k++) turn_pair(head, cos, sin, i + k);
        }
    }
}

template <typename T, Form FORM>
__device__ void rotary(T *x, const float *cos, const float *sin, int row_len, int half,
                       int first_head, int n_heads) {
    T *row = x + static_cast<size_t>(blockIdx.x) * row_len;
    const size_t angle = static_cast<size_t>(blockIdx.x) * half;
    const bool has_groups = FORM == Form::Halves && half % GROUP == 0 && row_len % GROUP == 0 &&
                            is_aligned<T, GROUP>(x) && is_aligned<float, GROUP>(cos) &&
                            is_aligned<float, GROUP>(sin);
    if (has_groups) {
        rotate_row<T, FORM, GROUP>(row, cos + angle, sin + angle, half, first_head, n_heads);
    } else {
        rotate_row<T, FORM, 1>(row, cos + angle, sin + angle, half, first_head, n_heads);
    }
}

}  // namespace

// Angle `i` of a row is the row's position on axis `axes[i]` times `frequencies[i]`; the product is
// rounded to f32 as on the processor. `sincosf` is the accurate one, good for large angles too.
extern "C" __global__ void angles_on_axes(const uint32_t *positions, const float *frequencies,
                                          const uint32_t *axes, float *cos, float *sin, int n_rows,
                                          int half) {
    const size_t n = static_cast<size_t>(n_rows) * half;
    const size_t stride = static_cast<size_t>(gridDim.x) * blockDim.x;
    for (size_t at = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; at < n;
         at += stride) {
        const int i = at % half;
        const size_t row = at / half;
        const uint32_t axis = min(axes[i], 2u);
        const float angle = __fmul_rn(__uint2float_rn(positions[row * 3 + axis]), frequencies[i]);
        sincosf(angle, &sin[at], &cos[at]);
    }
}

#define DEFINE(T, name)                                                                         \
    extern "C" __global__ void rotary_##name(T *x, const float *cos, const float *sin,          \
                                             int row_len, int half, int first_head,             \
                                             int n_heads) {                                     \
        rotary<T, Form::Halves>(x, cos, sin, row_len, half, first_head, n_heads);               \
    }                                                                                           \
    extern "C" __global__ void rotary_pairs_##name(T *x, const float *cos, const float *sin,    \
                                                   int row_len, int half, int first_head,       \
                                                   int n_heads) {                               \
        rotary<T, Form::Pairs>(x, cos, sin, row_len, half, first_head, n_heads);                \
    }

FOR_EACH_DTYPE(DEFINE)
