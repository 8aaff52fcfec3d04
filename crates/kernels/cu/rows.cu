// Rows picked by index, rows of an embedding table, and conversion of element types.
// Contracts: crates/tensor/src/ops/rows.rs, crates/tensor/src/ops/embedding.rs.

#include "common/dtype.cuh"

namespace {

// Copies a row in units of `Unit`; without a source the row becomes zeros.
template <typename Unit>
__device__ __forceinline__ void copy_row(const char *from, char *to, int n_bytes) {
    const int n = n_bytes / static_cast<int>(sizeof(Unit));
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        Unit unit = {};
        if (from != nullptr) unit = reinterpret_cast<const Unit *>(from)[i];
        reinterpret_cast<Unit *>(to)[i] = unit;
    }
}

// A block a row: widens the row of a token. A token outside the table brings zeros.
template <typename T, int N>
__device__ void widen_row(const T *from, float *to, int n) {
    for (int at = threadIdx.x * N; at < n; at += blockDim.x * N) {
        Group<float, N> group = {};
        if (from != nullptr) group = load_group<T, N>(from + at);
        store_group<float, N>(to + at, group);
    }
}

template <typename T>
__device__ void embedding(const T *table, const uint32_t *tokens, float *y, uint32_t n_tokens_max,
                          int n) {
    const uint32_t token = tokens[blockIdx.x];
    const T *from = token < n_tokens_max ? table + static_cast<size_t>(token) * n : nullptr;
    float *to = y + static_cast<size_t>(blockIdx.x) * n;
    const bool has_groups =
        n % GROUP == 0 && is_aligned<T, GROUP>(table) && is_aligned<float, GROUP>(y);
    if (has_groups) {
        widen_row<T, GROUP>(from, to, n);
    } else {
        widen_row<T, 1>(from, to, n);
    }
}

template <typename From, typename To, int N>
__device__ void convert(const From *x, To *y, size_t n) {
    const size_t stride = static_cast<size_t>(gridDim.x) * blockDim.x * N;
    const size_t first = (blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x) * N;
    for (size_t at = first; at < n; at += stride) {
        store_group<To, N>(y + at, load_group<From, N>(x + at));
    }
}

template <typename From, typename To>
__device__ void cast(const From *x, To *y, size_t n) {
    if (n % GROUP == 0 && is_aligned<From, GROUP>(x) && is_aligned<To, GROUP>(y)) {
        convert<From, To, GROUP>(x, y, n);
    } else {
        convert<From, To, 1>(x, y, n);
    }
}

}  // namespace

// A block a row: row `rows[i]` of `x` becomes row `i` of `y`. A row outside `x` brings zeros.
extern "C" __global__ void gather_rows(const char *x, const uint32_t *rows, char *y,
                                       uint32_t n_rows_max, int row_bytes) {
    const uint32_t row = rows[blockIdx.x];
    const char *from = row < n_rows_max ? x + static_cast<size_t>(row) * row_bytes : nullptr;
    char *to = y + static_cast<size_t>(blockIdx.x) * row_bytes;
    const uintptr_t bits =
        reinterpret_cast<uintptr_t>(x) | reinterpret_cast<uintptr_t>(y) | row_bytes;
    if (bits % 16 == 0) {
        copy_row<uint4>(from, to, row_bytes);
    } else if (bits % 4 == 0) {
        copy_row<uint32_t>(from, to, row_bytes);
    } else {
        copy_row<char>(from, to, row_bytes);
    }
}

#define DEFINE_EMBEDDING(T, name)                                                              \
    extern "C" __global__ void embedding_##name(const T *table, const uint32_t *tokens,        \
                                                float *y, uint32_t n_tokens_max, int n) {      \
        embedding<T>(table, tokens, y, n_tokens_max, n);                                       \
    }

FOR_EACH_DTYPE(DEFINE_EMBEDDING)

#define DEFINE_CAST(From, To)                                                                  \
    extern "C" __global__ void cast_##From##_##To(const From *x, To *y, size_t n) {            \
        cast<From, To>(x, y, n);                                                               \
    }

DEFINE_CAST(f32, bf16)
DEFINE_CAST(f32, f16)
DEFINE_CAST(bf16, f32)
DEFINE_CAST(bf16, f16)
DEFINE_CAST(f16, f32)
DEFINE_CAST(f16, bf16)
