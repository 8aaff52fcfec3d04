// Products of rows with weights without tensor cores: any type, any k, any alignment. A sum's order
// depends on k and the weight's alignment alone.
// Contract: crates/tensor/src/ops/linear.rs.

#include "common/activation.cuh"
#include "common/dtype.cuh"
#include "common/reduce.cuh"

namespace {

// Rows of x that a warp takes along while it reads a weight's row once.
constexpr int ROWS = 8;
// Groups of a weight's row that are asked for before the first is used.
constexpr int AHEAD = 4;

// The sums of one row of the weight with `n_rows` rows of x, each lane its share.
template <typename T, int N>
__device__ void dot(const T *x, const T *w, int n_rows, int k, float (&sums)[ROWS]) {
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int row = 0; row < ROWS; row++) sums[row] = 0.0f;
#pragma unroll AHEAD
    for (int at = lane * N; at < k; at += WARP * N) {
        const auto weights = load_group<T, N>(w + at);
#pragma unroll
        for (int row = 0; row < ROWS; row++) {
            if (row < n_rows) {
                const auto values = load_group<T, N>(x + static_cast<size_t>(row) * k + at);
#pragma unroll
                for (int i = 0; i < N; i++) sums[row] += weights.at[i] * values.at[i];
            }
        }
    }
#pragma unroll
    for (int row = 0; row < ROWS; row++) sums[row] = warp_sum(sums[row]);
}

// Where sums go: `y` [rows, n_columns] in the type of the weights or (`is_f32`) in f32, onto what
// is there already (`is_add`, f32 only).
struct Output {
    const float *bias;
    void *y;
    int n_columns;
    int activation;
    int is_gated;
    int is_f32;
    int is_add;
};

template <typename T>
__device__ void put(const Output &output, int row, int column, float value) {
    const size_t at = static_cast<size_t>(row) * output.n_columns + column;
    if (output.is_f32) {
        float *y = static_cast<float *>(output.y);
        y[at] = output.is_add ? value + y[at] : value;
    } else {
        static_cast<T *>(output.y)[at] = from_f32<T>(value);
    }
}

template <typename T, int N>
__device__ void column(const T *x, const T *w, const Output &output, int rows, int k, int at) {
    const int first_row = blockIdx.y * ROWS;
    const int n_rows = min(rows - first_row, ROWS);
    const T *part = x + static_cast<size_t>(first_row) * k;
    const int source = output.is_gated ? gate_column(at) : at;
    const int partner = source + GATE_COLUMNS;
    float sums[ROWS], partners[ROWS];
    dot<T, N>(part, w + static_cast<size_t>(source) * k, n_rows, k, sums);
    const float bias = output.bias == nullptr ? 0.0f : output.bias[source];
    float partner_bias = 0.0f;
    if (output.is_gated) {
        dot<T, N>(part, w + static_cast<size_t>(partner) * k, n_rows, k, partners);
        partner_bias = output.bias == nullptr ? 0.0f : output.bias[partner];
    }
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
        // All lanes have all sums; each row is written by one.
        if (row != lane || row >= n_rows) continue;
        float value = activate(sums[row] + bias, output.activation);
        if (output.is_gated) {
            value = sigmoid_gate(sums[row] + bias, 1.0f) * (partners[row] + partner_bias);
        }
        put<T>(output, first_row + row, at, value);
    }
}

// A warp a column of y, a block's second index eight rows.
template <typename T>
__device__ void plain(const T *x, const T *w, const Output &output, int rows, int k) {
    const int at = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (at >= output.n_columns) return;
    if (k % GROUP == 0 && is_aligned<T, GROUP>(x) && is_aligned<T, GROUP>(w)) {
        column<T, GROUP>(x, w, output, rows, k, at);
    } else {
        column<T, 1>(x, w, output, rows, k, at);
    }
}

}  // namespace

#define DEFINE(T, name)                                                                           \
    extern "C" __global__ void plain_##name(const T *x, const T *w, Output output, int rows,      \
                                            int k) {                                              \
        plain<T>(x, w, output, rows, k);                                                          \
    }

FOR_EACH_DTYPE(DEFINE)
