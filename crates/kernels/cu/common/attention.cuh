// What all attention kernels share: their arguments, where keys are, copies of rows, and how the
// parts of a row are put together. Contract: crates/tensor/src/ops/attention.rs.
//
// A pair is a row and one of the query heads that share a key-value head: pair `i` of a sequence
// is its row `i / group`, head `i % group` of the group. Tiles are of pairs, so that grouped heads
// read their keys once.
#pragma once

#include "mma.cuh"
#include "reduce.cuh"

constexpr float NO_SCORE = -INFINITY;

// The host's struct (crates/tensor/src/ops/attention_cuda.rs) has the same fields in this order.
struct AttentionArgs {
    uint64_t q;             // [rows, q_stride], queries first
    uint64_t out;           // [rows, out_stride]
    uint64_t keys;          // key 0 of head 0: of the first row, or of the pool's block 0
    uint64_t values;        // likewise
    uint64_t tables;        // u32, all sequences' blocks; 0: keys lie in rows
    uint64_t key_counts;    // u32 [rows]; 0: every row of a span sees all rows of it
    uint64_t work;          // uint4: how many entries follow; then SplitEntry or Span each
    uint64_t arrivals;      // u32 [entries, n_kv_heads, tiles of a row], zeros between launches
    uint64_t part_sums;     // f32 [entries, n_heads, padded dim]
    uint64_t part_scales;   // float2 [entries, n_heads]: largest score · log2(e), sum of weights
    uint64_t block_stride;  // elements from a block to the next
    uint64_t head_stride;   // elements from a key-value head to the next
    uint64_t token_stride;  // elements from a key to the next of its block
    uint32_t block_size;    // tokens
    uint32_t n_blocks;      // of the pool
    uint32_t n_table_blocks;  // of all tables together
    uint32_t q_stride;
    uint32_t out_stride;
    uint32_t n_heads;
    uint32_t n_kv_heads;
    uint32_t group;         // n_heads / n_kv_heads
    uint32_t dim;
    uint32_t in_vectors;    // every row of a head begins at 16 bytes and is a multiple of them
    float scale;            // of scores, times log2(e)
    uint32_t padding;
};

__device__ __forceinline__ uint32_t n_entries(const AttentionArgs &args) {
    return __ldg(reinterpret_cast<const uint32_t *>(args.work));
}

__device__ __forceinline__ uint4 work_entry(const AttentionArgs &args, uint32_t idx) {
    return __ldg(reinterpret_cast<const uint4 *>(args.work) + 1 + idx);
}

// Row `row`, and of its keys the part `split` of `n_splits`: keys `first..end`.
struct SplitEntry {
    uint32_t table_start, row, split, n_splits, first, end;
};

// `[table_start, row, split | n_splits << 8 | log2(length of a part) << 16, end]`
__device__ __forceinline__ SplitEntry split_entry(const uint4 &raw) {
    SplitEntry entry;
    entry.table_start = raw.x;
    entry.row = raw.y;
    entry.split = raw.z & 0xff;
    entry.n_splits = raw.z >> 8 & 0xff;
    entry.first = entry.split << (raw.z >> 16);
    entry.end = raw.w;
    return entry;
}

// Rows of one sequence: `[table_start, first_row, n_rows, 0]`; and of its pairs those of one tile.
struct TilePairs {
    uint32_t table_start, first_row, n_rows, first_pair, n_pairs;
    bool exists;
};

// Tile `idx` of `PAIRS` pairs, counted over all spans; in a span the last tile, which usually sees
// most keys, is the first. All lanes must call.
template <int PAIRS>
__device__ __forceinline__ TilePairs find_tile(const AttentionArgs &args, uint32_t idx) {
    const uint32_t lane = threadIdx.x % WARP, n_spans = n_entries(args);
    TilePairs tile = {};
    for (uint32_t first = 0; first < n_spans && !tile.exists; first += WARP) {
        uint4 span = {0, 0, 0, 0};
        if (first + lane < n_spans) span = work_entry(args, first + lane);
        const uint32_t n_tiles = (span.z * args.group + PAIRS - 1) / PAIRS;
        uint32_t end = n_tiles;
#pragma unroll
        for (int distance = 1; distance < WARP; distance *= 2) {
            const uint32_t before = __shfl_up_sync(ALL_LANES, end, distance);
            if (lane >= distance) end += before;
        }
        const uint32_t found = __ballot_sync(ALL_LANES, idx < end);
        const int at = found ? __ffs(found) - 1 : WARP - 1;
        tile.exists = found != 0;
        tile.table_start = __shfl_sync(ALL_LANES, span.x, at);
        tile.first_row = __shfl_sync(ALL_LANES, span.y, at);
        tile.n_rows = __shfl_sync(ALL_LANES, span.z, at);
        tile.n_pairs = tile.n_rows * args.group;
        // `end - 1 - idx` counts from the span's end.
        tile.first_pair = (__shfl_sync(ALL_LANES, end, at) - 1 - idx) * PAIRS;
        idx -= __shfl_sync(ALL_LANES, end, WARP - 1);
    }
    return tile;
}

// How many keys of its sequence a row sees. A window that slides, or chunks, would add the first
// key that it sees beside this, and the host's list would leave out what nobody sees; pictures that
// see themselves whole are larger counts.
__device__ __forceinline__ uint32_t n_keys_of_row(const AttentionArgs &args, uint32_t row,
                                                  uint32_t n_rows) {
    const uint32_t *counts = reinterpret_cast<const uint32_t *>(args.key_counts);
    return counts ? __ldg(counts + row) : n_rows;
}

// An offset that names no row.
constexpr int64_t NOWHERE = -1;

// Where the keys of one sequence and head are, in elements from `args.keys` and `args.values`.
struct KeyPlaces {
    int64_t base;
    uint32_t table_start;

    __device__ __forceinline__ KeyPlaces() {}

    __device__ __forceinline__ KeyPlaces(const AttentionArgs &args, uint32_t table_start,
                                         uint32_t first_row, uint32_t kv_head)
        : base(kv_head * args.head_stride), table_start(table_start) {
        if (!args.tables) base += first_row * args.token_stride;
    }

    // NOWHERE if the table, or the pool, does not go that far: whoever made them has a fault, but
    // nobody reads what is not there.
    __device__ __forceinline__ int64_t of(const AttentionArgs &args, uint32_t key) const {
        if (!args.tables) return base + key * args.token_stride;
        const uint32_t slot = key / args.block_size, at = table_start + slot;
        if (at >= args.n_table_blocks) return NOWHERE;
        const uint32_t block = __ldg(reinterpret_cast<const uint32_t *>(args.tables) + at);
        if (block >= args.n_blocks) return NOWHERE;
        return base + block * args.block_stride + (key - slot * args.block_size) * args.token_stride;
    }
};

// Brings 16 bytes of a row into shared memory: the elements from `column` on, zeros where there are
// none. Asynchronous if rows are aligned.
template <typename T>
__device__ __forceinline__ void copy_part(T *to, const T *base, int64_t offset, uint32_t column,
                                          const AttentionArgs &args) {
    constexpr int N = 16 / sizeof(T);
    if (args.in_vectors) {
        const bool there = offset != NOWHERE && column < args.dim;
        copy_16_bytes(to, base + (there ? offset + column : 0), there);
        return;
    }
#pragma unroll 1
    for (int i = 0; i < N; i++) {
        const bool there = offset != NOWHERE && column + i < args.dim;
        to[i] = there ? base[offset + column + i] : from_f32<T>(0.0f);
    }
}

// Writes four neighbouring elements of a head's result.
template <typename T>
__device__ __forceinline__ void store_result(const AttentionArgs &args, uint32_t row,
                                             uint32_t head, uint32_t column, const float4 &values) {
    T *to = reinterpret_cast<T *>(args.out) + static_cast<size_t>(row) * args.out_stride +
            head * args.dim + column;
    const Group<float, 4> group = {values.x, values.y, values.z, values.w};
    if (args.in_vectors) {
        if (column < args.dim) store_group(to, group);
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (column + i < args.dim) to[i] = from_f32<T>(group.at[i]);
    }
}

// What the weights of a row are divided by; a row without keys becomes zeros.
__device__ __forceinline__ float inverse_of_sum(float sum) {
    return sum == 0.0f ? 0.0f : 1.0f / sum;
}

// The factor that brings sums relative to `largest` to those relative to `new_largest`, both times
// log2(e); 0 where there was nothing yet.
__device__ __forceinline__ float rescale(float largest, float new_largest) {
    return largest == NO_SCORE ? 0.0f : exp2_fast(largest - new_largest);
}

// One tile of up to 16 pairs of a row: how much of it, and where it goes.
struct SplitTile {
    SplitEntry entry;
    uint32_t entry_idx, part_idx, kv_head, first_head, n_heads;
};

__device__ __forceinline__ uint32_t split_tiles_of_row(const AttentionArgs &args) {
    return (args.group + 15) / 16;
}

// Unit `unit` of the work: entries, of each all key-value heads, of each all tiles.
__device__ __forceinline__ SplitTile split_tile(const AttentionArgs &args, uint32_t unit,
                                                const uint4 &raw) {
    const uint32_t n_tiles = split_tiles_of_row(args), per_entry = args.n_kv_heads * n_tiles;
    SplitTile tile;
    tile.entry = split_entry(raw);
    tile.entry_idx = unit / per_entry;
    tile.part_idx = unit % per_entry;
    tile.kv_head = tile.part_idx / n_tiles;
    const uint32_t first = tile.part_idx % n_tiles * 16;
    tile.first_head = tile.kv_head * args.group + first;
    tile.n_heads = min(16u, args.group - first);
    return tile;
}

// Adds up the parts of a tile's heads, in their order, and writes the result.
template <typename T, int DIM, int THREADS>
__device__ __forceinline__ void put_together(const AttentionArgs &args, const SplitTile &tile) {
    const size_t first_part = tile.entry_idx - tile.entry.split;
    const uint32_t n_parts = tile.entry.n_splits;
    for (uint32_t item = threadIdx.x; item < tile.n_heads * (DIM / 4); item += THREADS) {
        const uint32_t head = tile.first_head + item / (DIM / 4);
        const uint32_t column = item % (DIM / 4) * 4;
        const size_t first = first_part * args.n_heads + head;
        const float2 *scales = reinterpret_cast<const float2 *>(args.part_scales) + first;
        const float *sums = reinterpret_cast<const float *>(args.part_sums) + first * DIM + column;
        float largest = NO_SCORE;
        for (uint32_t part = 0; part < n_parts; part++) {
            largest = fmaxf(largest, __ldcg(scales + part * args.n_heads).x);
        }
        float weights = 0.0f;
        float4 total = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 4
        for (uint32_t part = 0; part < n_parts; part++) {
            const size_t at = static_cast<size_t>(part) * args.n_heads;
            const float2 scale = __ldcg(scales + at);
            const float4 sum = __ldcg(reinterpret_cast<const float4 *>(sums + at * DIM));
            const float factor = rescale(scale.x, largest);
            weights += factor * scale.y;
            total.x += factor * sum.x;
            total.y += factor * sum.y;
            total.z += factor * sum.z;
            total.w += factor * sum.w;
        }
        const float inverse = inverse_of_sum(weights);
        total.x *= inverse;
        total.y *= inverse;
        total.z *= inverse;
        total.w *= inverse;
        store_result<T>(args, tile.entry.row, head, column, total);
    }
}

// Tells that this block has written its part of the tile; true in all threads of the block that
// comes last, which then may read all parts. `flag` is shared memory.
__device__ __forceinline__ bool comes_last(const AttentionArgs &args, const SplitTile &tile,
                                           uint32_t *flag) {
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        const uint32_t per_entry = args.n_kv_heads * split_tiles_of_row(args);
        const size_t first_entry = tile.entry_idx - tile.entry.split;
        uint32_t *arrived = reinterpret_cast<uint32_t *>(args.arrivals) +
                            first_entry * per_entry + tile.part_idx;
        const bool is_last = atomicAdd(arrived, 1u) == tile.entry.n_splits - 1;
        // The next launch finds zeros again.
        if (is_last) *arrived = 0;
        *flag = is_last;
        __threadfence();
    }
    __syncthreads();
    return *flag != 0;
}

// Writes a tile that is in shared memory as sums `[16][stride]` relative to `largest[16]` with sums
// of weights `weights[16]`: the result if there is one part, otherwise the part, and the result if
// it was the last one. All threads call; nobody may touch the sums before the next barrier.
template <typename T, int DIM, int THREADS>
__device__ __forceinline__ void finish_split(const AttentionArgs &args, const SplitTile &tile,
                                             const float *sums, int stride, const float *largest,
                                             const float *weights, uint32_t *flag) {
    const bool is_whole = tile.entry.n_splits == 1;
    const size_t first = static_cast<size_t>(tile.entry_idx) * args.n_heads + tile.first_head;
    for (uint32_t item = threadIdx.x; item < tile.n_heads * (DIM / 4); item += THREADS) {
        const uint32_t head = item / (DIM / 4), column = item % (DIM / 4) * 4;
        float4 sum = *reinterpret_cast<const float4 *>(sums + head * stride + column);
        if (is_whole) {
            const float inverse = inverse_of_sum(weights[head]);
            sum = {sum.x * inverse, sum.y * inverse, sum.z * inverse, sum.w * inverse};
            store_result<T>(args, tile.entry.row, tile.first_head + head, column, sum);
        } else {
            float *to = reinterpret_cast<float *>(args.part_sums) + (first + head) * DIM + column;
            *reinterpret_cast<float4 *>(to) = sum;
        }
    }
    if (is_whole) return;
    if (threadIdx.x < tile.n_heads) {
        float2 *to = reinterpret_cast<float2 *>(args.part_scales) + first + threadIdx.x;
        *to = {largest[threadIdx.x], weights[threadIdx.x]};
    }
    if (comes_last(args, tile, flag)) put_together<T, DIM, THREADS>(args, tile);
}
