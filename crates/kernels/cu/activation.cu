// Activations of what a product by the library has left: in place, or of gates and their partners.
// Contract: crates/tensor/src/ops/linear.rs.

#include "common/activation.cuh"
#include "common/dtype.cuh"

namespace {

// Four elements a thread where addresses and sizes allow, else one.
template <typename T, int N>
__device__ void activate_some(T *y, size_t n_elements, int activation) {
    const size_t at = (static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
    if (at >= n_elements) return;
    auto group = load_group<T, N>(y + at);
#pragma unroll
    for (int i = 0; i < N; i++) group.at[i] = activate(group.at[i], activation);
    store_group<T, N>(y + at, group);
}

// The grid has a thread for every N elements; `N` is said by the caller, who knows the sizes.
template <typename T>
__device__ void activate_all(T *y, size_t n_elements, int activation, int elements) {
    if (elements == GROUP) {
        activate_some<T, GROUP>(y, n_elements, activation);
    } else {
        activate_some<T, 1>(y, n_elements, activation);
    }
}

// `x` [rows, 2 n], sixteen gates and their sixteen partners in turn; `y` [rows, n], n a multiple
// of sixteen. A thread has four columns.
template <typename T>
__device__ void gate(const T *x, T *y, int n_rows, int n) {
    const size_t at = (static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x) * GROUP;
    const size_t row = at / n;
    if (row >= n_rows) return;
    const int column = static_cast<int>(at % n);
    const T *from = x + row * 2 * n + gate_column(column);
    auto gates = load_group<T, GROUP>(from);
    const auto partners = load_group<T, GROUP>(from + GATE_COLUMNS);
#pragma unroll
    for (int i = 0; i < GROUP; i++) {
        gates.at[i] = sigmoid_gate(gates.at[i], 1.0f) * partners.at[i];
    }
    store_group<T, GROUP>(y + at, gates);
}

}  // namespace

#define DEFINE(T, name)                                                                        \
    extern "C" __global__ void activate_##name(T *y, size_t n_elements, int activation,        \
                                               int elements) {                                 \
        activate_all<T>(y, n_elements, activation, elements);                                  \
    }                                                                                          \
    extern "C" __global__ void gate_##name(const T *x, T *y, int n_rows, int n) {              \
        gate<T>(x, y, n_rows, n);                                                              \
    }

FOR_EACH_DTYPE(DEFINE)
