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
template <bool IN_VECTORS, typename T>
__device__ __forceinline__ void copy_part(T *to, const T *base, int64_t offset, uint32_t column,
                                          const AttentionArgs &args) {
    constexpr int N = 16 / sizeof(T);
    if constexpr (IN_VECTORS) {
        const bool there = offset != NOWHERE && column < args.dim;
        copy_16_bytes(to, base + (there ? offset + column : 0), there);
    } else {
#pragma unroll 1
        for (int i = 0; i < N; i++) {
            const bool there = offset != NOWHERE && column + i < args.dim;
            to[i] = there ? base[offset + column + i] : from_f32<T>(0.0f);
        }
    }
}

template <typename T>
__device__ __forceinline__ void copy_part(T *to, const T *base, int64_t offset, uint32_t column,
                                          const AttentionArgs &args) {
    if (args.in_vectors) {
        copy_part<true>(to, base, offset, column, args);
    } else {
        copy_part<false>(to, base, offset, column, args);
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

__device__ __forceinline__ void add_scaled(float4 &total, const float4 &values, float factor) {
    total.x += factor * values.x;
    total.y += factor * values.y;
    total.z += factor * values.z;
    total.w += factor * values.w;
}

__device__ __forceinline__ float4 scaled(const float4 &values, float factor) {
    return {values.x * factor, values.y * factor, values.z * factor, values.w * factor};
}

// One tile of some heads of a row: how much of it, and where it goes.
struct SplitTile {
    SplitEntry entry;
    uint32_t entry_idx, part_idx, kv_head, first_head, n_heads;
};

// Tiles of a row that share a key-value head, `HEADS` heads each.
template <int HEADS>
__device__ __forceinline__ uint32_t split_tiles_of_row(const AttentionArgs &args) {
    return (args.group + HEADS - 1) / HEADS;
}

// Unit `unit` of the work: entries, of each all key-value heads, of each all tiles.
template <int HEADS>
__device__ __forceinline__ SplitTile split_tile(const AttentionArgs &args, uint32_t unit,
                                                const uint4 &raw) {
    const uint32_t n_tiles = split_tiles_of_row<HEADS>(args);
    const uint32_t per_entry = args.n_kv_heads * n_tiles;
    SplitTile tile;
    tile.entry = split_entry(raw);
    tile.entry_idx = unit / per_entry;
    tile.part_idx = unit % per_entry;
    tile.kv_head = tile.part_idx / n_tiles;
    const uint32_t first = tile.part_idx % n_tiles * HEADS;
    tile.first_head = tile.kv_head * args.group + first;
    tile.n_heads = min(static_cast<uint32_t>(HEADS), args.group - first);
    return tile;
}

// Tells that a part of the tile has been written; true where it was the last one of its row, so
// that all of them may be read. One thread calls, which has met those that wrote.
template <int HEADS>
__device__ __forceinline__ bool comes_last(const AttentionArgs &args, const SplitTile &tile) {
    const uint32_t per_entry = args.n_kv_heads * split_tiles_of_row<HEADS>(args);
    const size_t first_entry = tile.entry_idx - tile.entry.split;
    uint32_t *arrived =
        reinterpret_cast<uint32_t *>(args.arrivals) + first_entry * per_entry + tile.part_idx;
    uint32_t n_before;
    asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], 1;"
                 : "=r"(n_before)
                 : "l"(arrived)
                 : "memory");
    const bool is_last = n_before == tile.entry.n_splits - 1;
    // The next launch finds zeros again.
    if (is_last) *arrived = 0;
    return is_last;
}

// Parts of a row that are asked for at once.
constexpr int PARTS_AT_ONCE = 16;

// Adds up the parts of a tile's heads, in their order, and writes the result. Warp `warp` of
// `n_warps` takes every so manieth head. A row has no more parts than a warp has lanes
// (SPLITS_MAX in crates/tensor/src/ops/attention_work.rs).
template <typename T, int DIM>
__device__ __forceinline__ void put_together(const AttentionArgs &args, const SplitTile &tile,
                                             uint32_t warp, uint32_t n_warps) {
    constexpr int COLUMNS = (DIM + 4 * WARP - 1) / (4 * WARP);
    const uint32_t lane = threadIdx.x % WARP, n_parts = tile.entry.n_splits;
    const size_t first_part = tile.entry_idx - tile.entry.split;
    for (uint32_t idx = warp; idx < tile.n_heads * COLUMNS; idx += n_warps) {
        const uint32_t head = tile.first_head + idx / COLUMNS;
        const uint32_t column = (idx % COLUMNS * WARP + lane) * 4;
        const size_t first = first_part * args.n_heads + head;
        // Lanes beyond the head read its first columns, and write nothing.
        const float *sums = reinterpret_cast<const float *>(args.part_sums) + first * DIM +
                            (column < DIM ? column : 0);
        const float2 *scales = reinterpret_cast<const float2 *>(args.part_scales) + first;
        float2 scale = {NO_SCORE, 0.0f};
        if (lane < n_parts) scale = __ldcg(scales + lane * args.n_heads);
        float4 total = {0.0f, 0.0f, 0.0f, 0.0f};
        float factor = 0.0f, inverse = 0.0f;
        for (uint32_t part = 0; part < n_parts; part += PARTS_AT_ONCE) {
            float4 some[PARTS_AT_ONCE];
#pragma unroll
            for (uint32_t i = 0; i < PARTS_AT_ONCE; i++) {
                const size_t at = static_cast<size_t>(part + i) * args.n_heads * DIM;
                some[i] = {0.0f, 0.0f, 0.0f, 0.0f};
                if (part + i < n_parts) some[i] = __ldcg(reinterpret_cast<const float4 *>(sums + at));
            }
            if (part == 0) {
                factor = rescale(scale.x, warp_max(scale.x));
                inverse = inverse_of_sum(warp_sum(factor * scale.y));
            }
#pragma unroll
            for (uint32_t i = 0; i < PARTS_AT_ONCE; i++) {
                add_scaled(total, some[i], __shfl_sync(ALL_LANES, factor, part + i));
            }
        }
        if (column < DIM) {
            store_result<T>(args, tile.entry.row, head, column, scaled(total, inverse));
        }
    }
}
