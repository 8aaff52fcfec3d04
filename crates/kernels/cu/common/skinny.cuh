// What the products of few rows have in common: what is asked for, and what becomes of the sums.
#pragma once

#include "activation.cuh"
#include "dtype.cuh"
#include "reduce.cuh"

// What becomes of the sums; the numbers are those that the launch passes.
enum Finish : int { FINISH_WRITE = 0, FINISH_WRITE_F32 = 1, FINISH_ADD_F32 = 2, FINISH_GATE = 3 };

struct Product {
    const void *x;        // [n_rows, k]
    const void *w;        // [n, k]
    const float *bias;    // [n] or null
    void *y;              // [n_rows, n], or [n_rows, n / 2] for gates
    float4 *partial;      // sums of the slices, where there are several
    unsigned *n_finished; // [blocks in x], zeros before and after
    int n_rows;
    int n;
    int k;
    int finish;
    int activation;
};

// Sums in shared memory: for 32 outputs, the rows of x one below the other.
constexpr int SUMS_OUTPUTS = 32;
constexpr int SUMS_STRIDE = SUMS_OUTPUTS + 4;

// `group` becomes elements `column ..` of a row of `n` elements; those beyond its end are dropped.
template <typename T>
__device__ __forceinline__ void write(T *row, int column, int n, const Group<float, GROUP> &group) {
    if (n % GROUP == 0 && is_aligned<T, GROUP>(row)) {
        if (column < n) store_group<T, GROUP>(row + column, group);
        return;
    }
#pragma unroll
    for (int i = 0; i < GROUP; i++) {
        if (column + i < n) row[column + i] = from_f32<T>(group.at[i]);
    }
}

// Four elements of a row of `n`, zeros beyond its end.
__device__ __forceinline__ Group<float, GROUP> read(const float *row, int column, int n) {
    if (n % GROUP == 0 && is_aligned<float, GROUP>(row) && column < n) {
        return load_group<float, GROUP>(row + column);
    }
    Group<float, GROUP> group;
#pragma unroll
    for (int i = 0; i < GROUP; i++) group.at[i] = column + i < n ? row[column + i] : 0.0f;
    return group;
}

__device__ __forceinline__ Group<float, GROUP> sum_of(Group<float, GROUP> a,
                                                      const Group<float, GROUP> &b) {
#pragma unroll
    for (int i = 0; i < GROUP; i++) a.at[i] += b.at[i];
    return a;
}

__device__ __forceinline__ Group<float, GROUP> bias_of(const Product &product, int output) {
    if (product.bias == nullptr) return {};
    return read(product.bias, output, product.n);
}

// Sums that one block has by itself.
struct OwnSums {
    const float *sums;

    __device__ __forceinline__ Group<float, GROUP> load(int at) const {
        return load_group<float, GROUP>(sums + at);
    }
};

// Some rows: of every `n_parts` lots of as many rows as a warp takes at once, lot `part`.
struct Share {
    int part, n_parts;
};

// The functions below do what `product` asks for with the sums of 32 outputs and up to `ROWS` rows,
// of which a warp has its share, at least one of `PARTS`. Where nothing has to be waited for, loops
// are not unrolled: every block passes here once, and code that is not in the cache costs more.

// Onto what is there: all of it is asked for before any of it is used.
template <int ROWS, int PARTS, typename Sums>
__device__ __forceinline__ void finish_add(const Product &product, int first_output,
                                           const Sums &sums, Share share) {
    constexpr int ROW_LANES = SUMS_OUTPUTS / GROUP;
    constexpr int LOT = WARP / ROW_LANES;
    constexpr int TURNS = (ROWS + LOT * PARTS - 1) / (LOT * PARTS);
    const int lane = threadIdx.x % WARP;
    const int at = lane % ROW_LANES * GROUP;
    const int output = first_output + at;
    const int first_row = share.part * LOT + lane / ROW_LANES, stride = share.n_parts * LOT;
    const auto bias = bias_of(product, output);
    float *y = static_cast<float *>(product.y);
    Group<float, GROUP> before[TURNS];
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
        const int row = first_row + i * stride;
        const float *from = y + static_cast<size_t>(row) * product.n;
        before[i] = row < product.n_rows ? read(from, output, product.n) : Group<float, GROUP>{};
    }
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
        const int row = first_row + i * stride;
        if (row >= product.n_rows) break;
        const auto group = sums.load(row * SUMS_STRIDE + at);
        const auto after = sum_of(sum_of(group, bias), before[i]);
        write<float>(y + static_cast<size_t>(row) * product.n, output, product.n, after);
    }
}

// In f32 or, after an activation, in the type of the operands.
template <typename T, typename Sums>
__device__ __forceinline__ void finish_write(const Product &product, int first_output,
                                             const Sums &sums, Share share) {
    constexpr int ROW_LANES = SUMS_OUTPUTS / GROUP;
    constexpr int ROWS_AT_ONCE = WARP / ROW_LANES;
    const int lane = threadIdx.x % WARP;
    const int at = lane % ROW_LANES * GROUP;
    const int output = first_output + at;
    const auto bias = bias_of(product, output);
#pragma unroll 1
    for (int row = share.part * ROWS_AT_ONCE + lane / ROW_LANES; row < product.n_rows;
         row += share.n_parts * ROWS_AT_ONCE) {
        auto group = sum_of(sums.load(row * SUMS_STRIDE + at), bias);
        const size_t start = static_cast<size_t>(row) * product.n;
        if (product.finish == FINISH_WRITE_F32) {
            write<float>(static_cast<float *>(product.y) + start, output, product.n, group);
            continue;
        }
        if (product.activation != ACTIVATION_NONE) {
#pragma unroll
            for (int i = 0; i < GROUP; i++) {
                group.at[i] = activate(group.at[i], product.activation);
            }
        }
        write<T>(static_cast<T *>(product.y) + start, output, product.n, group);
    }
}

// Sixteen gates and their sixteen partners.
template <typename T, typename Sums>
__device__ __forceinline__ void finish_gates(const Product &product, int first_output,
                                             const Sums &sums, Share share) {
    constexpr int ROW_LANES = GATE_COLUMNS / GROUP;
    constexpr int ROWS_AT_ONCE = WARP / ROW_LANES;
    const int lane = threadIdx.x % WARP;
    const int at = lane % ROW_LANES * GROUP;
    const int n = product.n / 2;
    const auto bias = bias_of(product, first_output + at);
    const auto partner_bias = bias_of(product, first_output + at + GATE_COLUMNS);
#pragma unroll 1
    for (int row = share.part * ROWS_AT_ONCE + lane / ROW_LANES; row < product.n_rows;
         row += share.n_parts * ROWS_AT_ONCE) {
        const int from = row * SUMS_STRIDE + at;
        auto gates = sum_of(sums.load(from), bias);
        const auto partners = sum_of(sums.load(from + GATE_COLUMNS), partner_bias);
#pragma unroll
        for (int i = 0; i < GROUP; i++) {
            gates.at[i] = sigmoid_gate(gates.at[i], 1.0f) * partners.at[i];
        }
        T *y = static_cast<T *>(product.y) + static_cast<size_t>(row) * n;
        write<T>(y, first_output / 2 + at, n, gates);
    }
}

template <typename T, int ROWS, int PARTS, typename Sums>
__device__ __forceinline__ void finish_sums(const Product &product, int first_output,
                                            const Sums &sums, Share share) {
    switch (product.finish) {
        case FINISH_ADD_F32:
            return finish_add<ROWS, PARTS>(product, first_output, sums, share);
        case FINISH_GATE:
            return finish_gates<T>(product, first_output, sums, share);
        default:
            return finish_write<T>(product, first_output, sums, share);
    }
}
