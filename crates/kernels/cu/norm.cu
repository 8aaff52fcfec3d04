// Layer norm and RMS norm over rows, and RMS norm over the heads inside rows.
// Contract: crates/tensor/src/ops/norm.rs.

#include "common/dtype.cuh"
#include "common/early.cuh"
#include "common/reduce.cuh"

namespace {

// Groups of a row that a thread keeps in registers; a row of 16384 still fits a block of 1024.
constexpr int KEPT = 4;

// A row of f32 of which each thread holds some groups.
template <int N>
struct Row {
    const float *x;
    int n_groups;
    Group<float, N> kept[KEPT];

    __device__ Row(const float *x, int n) : x(x), n_groups(n / N) {
#pragma unroll
        for (int i = 0; i < KEPT; i++) {
            const int idx = threadIdx.x + i * blockDim.x;
            if (idx < n_groups) kept[i] = load_group<float, N>(x + idx * N);
        }
    }

    // Calls `use(index of group, group)` for all groups of this thread.
    template <typename Use>
    __device__ __forceinline__ void for_each(Use use) const {
#pragma unroll
        for (int i = 0; i < KEPT; i++) {
            const int idx = threadIdx.x + i * blockDim.x;
            if (idx < n_groups) use(idx, kept[i]);
        }
        // What does not fit the registers comes from the cache again.
        for (int idx = threadIdx.x + KEPT * blockDim.x; idx < n_groups; idx += blockDim.x) {
            use(idx, load_group<float, N>(x + idx * N));
        }
    }
};

// One row; `bias` makes it a layer norm.
template <typename T, int N>
__device__ void norm_row(const float *x, T *y, const float *weight, const float *bias, int n,
                         float epsilon) {
    __shared__ float partial[2][WARP];
    const Row<N> row(x, n);
    float mean = 0.0f;
    if (bias != nullptr) {
        float sum = 0.0f;
        row.for_each([&](int, const Group<float, N> &group) {
#pragma unroll
            for (int i = 0; i < N; i++) sum += group.at[i];
        });
        mean = block_sum(sum, partial[0]) / n;
    }
    float squares = 0.0f;
    row.for_each([&](int, const Group<float, N> &group) {
#pragma unroll
        for (int i = 0; i < N; i++) {
            const float centred = group.at[i] - mean;
            squares += centred * centred;
        }
    });
    const float scale = 1.0f / sqrtf(block_sum(squares, partial[1]) / n + epsilon);
    row.for_each([&](int idx, const Group<float, N> &group) {
        const auto weights = load_group<float, N>(weight + idx * N);
        Group<float, N> shift = {};
        if (bias != nullptr) shift = load_group<float, N>(bias + idx * N);
        Group<float, N> out;
#pragma unroll
        for (int i = 0; i < N; i++) {
            out.at[i] = (group.at[i] - mean) * scale * weights.at[i] + shift.at[i];
        }
        store_group<T, N>(y + idx * N, out);
    });
}

// A block a row.
template <typename T>
__device__ void norm(const float *x, T *y, const float *weight, const float *bias, int n,
                     float epsilon) {
    // A product that follows brings its weights meanwhile.
    let_successor_start();
    const size_t start = static_cast<size_t>(blockIdx.x) * n;
    const bool has_groups = n % GROUP == 0 && is_aligned<float, GROUP>(x) &&
                            is_aligned<T, GROUP>(y) && is_aligned<float, GROUP>(weight) &&
                            is_aligned<float, GROUP>(bias);
    if (has_groups) {
        norm_row<T, GROUP>(x + start, y + start, weight, bias, n, epsilon);
    } else {
        norm_row<T, 1>(x + start, y + start, weight, bias, n, epsilon);
    }
}

// Groups of a head that a lane keeps in registers; a head of 256 still fits a warp.
constexpr int HEAD_KEPT = 2;

// A warp a head: `head` of `dim` elements, in place.
template <typename T, int N>
__device__ void norm_head(T *head, const float *weight, int dim, float epsilon) {
    const int first = threadIdx.x % WARP * N;
    constexpr int STEP = WARP * N;
    Group<float, N> kept[HEAD_KEPT];
    float squares = 0.0f;
    const auto add = [&](const Group<float, N> &group) {
#pragma unroll
        for (int i = 0; i < N; i++) squares += group.at[i] * group.at[i];
    };
#pragma unroll
    for (int k = 0; k < HEAD_KEPT; k++) {
        const int at = first + k * STEP;
        if (at >= dim) continue;
        kept[k] = load_group<T, N>(head + at);
        add(kept[k]);
    }
    for (int at = first + HEAD_KEPT * STEP; at < dim; at += STEP) add(load_group<T, N>(head + at));
    const float scale = 1.0f / sqrtf(warp_sum(squares) / dim + epsilon);
    const auto write = [&](int at, Group<float, N> group) {
        const auto weights = load_group<float, N>(weight + at);
#pragma unroll
        for (int i = 0; i < N; i++) group.at[i] *= scale * weights.at[i];
        store_group<T, N>(head + at, group);
    };
#pragma unroll
    for (int k = 0; k < HEAD_KEPT; k++) {
        if (first + k * STEP < dim) write(first + k * STEP, kept[k]);
    }
    for (int at = first + HEAD_KEPT * STEP; at < dim; at += STEP) {
        write(at, load_group<T, N>(head + at));
    }
}

// A warp takes one of the heads `first_head .. first_head + n_heads` of one row.
template <typename T>
__device__ void norm_heads(T *x, const float *weight, unsigned n_rows, int row_len, int first_head,
                           unsigned n_heads, int dim, float epsilon) {
    const unsigned warp = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    const unsigned row = warp / n_heads;
    if (row >= n_rows) return;
    const bool has_groups = dim % GROUP == 0 && row_len % GROUP == 0 && is_aligned<T, GROUP>(x) &&
                            is_aligned<float, GROUP>(weight);
    T *head = x + static_cast<size_t>(row) * row_len + (first_head + warp % n_heads) * dim;
    if (has_groups) {
        norm_head<T, GROUP>(head, weight, dim, epsilon);
    } else {
        norm_head<T, 1>(head, weight, dim, epsilon);
    }
}

}  // namespace

#define DEFINE(T, name)                                                                          \
    extern "C" __global__ void layer_norm_##name(const float *x, T *y, const float *weight,      \
                                                 const float *bias, int n, float epsilon) {      \
        norm<T>(x, y, weight, bias, n, epsilon);                                                 \
    }                                                                                            \
    extern "C" __global__ void rms_norm_##name(const float *x, T *y, const float *weight, int n, \
                                               float epsilon) {                                  \
        norm<T>(x, y, weight, nullptr, n, epsilon);                                              \
    }                                                                                            \
    extern "C" __global__ void rms_norm_heads_##name(T *x, const float *weight, unsigned n_rows, \
                                                     int row_len, int first_head,                \
                                                     unsigned n_heads, int dim, float epsilon) { \
        norm_heads<T>(x, weight, n_rows, row_len, first_head, n_heads, dim, epsilon);            \
    }

FOR_EACH_DTYPE(DEFINE)
