// Writes keys and values of rows into the paged cache.
// Contract: crates/tensor/src/ops/kv_write.rs. Elements are copied as they are, so their type does
// not matter, only its size.

#include <cstdint>

// Sizes that do not change from step to step; the host's struct has the same fields.
struct KvShape {
    uint32_t n_blocks;  // that may be written, the spare one included
    uint32_t block_size;  // tokens
    uint32_t n_layers;
    uint32_t layer;
    uint32_t n_kv_heads;
    uint32_t head_bytes;  // of one key or value
    uint32_t row_bytes;  // of the input
    uint32_t n_seqs;
    uint32_t n_table_blocks;  // of all tables together
};

namespace {

// Copies the keys and values of a row; `block` is where the row's block begins.
template <typename Unit>
__device__ void copy_heads(const char *row, char *block, const KvShape &shape, uint32_t token) {
    const uint32_t head_units = shape.head_bytes / sizeof(Unit);
    const uint32_t kv_bytes = shape.n_kv_heads * shape.head_bytes;
    const char *keys = row + shape.row_bytes - 2 * kv_bytes;
    const size_t plane_bytes = static_cast<size_t>(shape.block_size) * shape.head_bytes;
    const uint32_t n_units = 2 * shape.n_kv_heads * head_units;
    for (uint32_t item = threadIdx.x; item < n_units; item += blockDim.x) {
        const uint32_t part = item / head_units, unit = item % head_units;
        const uint32_t is_value = part / shape.n_kv_heads, head = part % shape.n_kv_heads;
        // [kv_head][layer][K|V][token][dim]
        const size_t plane = (static_cast<size_t>(head) * shape.n_layers + shape.layer) * 2 +
                             is_value;
        char *to = block + plane * plane_bytes + static_cast<size_t>(token) * shape.head_bytes;
        reinterpret_cast<Unit *>(to)[unit] = reinterpret_cast<const Unit *>(keys)[item];
    }
}

// Where the block begins that holds key `position` of a sequence, or null if no table names it.
__device__ __forceinline__ char *block_of(char *pool, const uint32_t *tables,
                                          const uint32_t *table_starts, uint32_t seq,
                                          uint32_t position, const KvShape &shape) {
    if (seq >= shape.n_seqs) return nullptr;
    const uint32_t start = table_starts[seq], slot = position / shape.block_size;
    const uint32_t next = seq + 1 < shape.n_seqs ? table_starts[seq + 1] : shape.n_table_blocks;
    const uint32_t end = min(next, shape.n_table_blocks);
    if (start >= end || slot >= end - start) return nullptr;
    const uint32_t block = tables[start + slot];
    if (block >= shape.n_blocks) return nullptr;
    const size_t block_bytes = static_cast<size_t>(shape.n_kv_heads) * shape.n_layers * 2 *
                               shape.block_size * shape.head_bytes;
    return pool + block * block_bytes;
}

}  // namespace

// A block a row. Rows without keys are padding and are skipped, like any that no table covers.
extern "C" __global__ void kv_write(const char *qkv, char *pool, const uint32_t *tables,
                                    const uint32_t *table_starts, const uint32_t *seq_of_row,
                                    const uint32_t *key_counts, const KvShape shape) {
    const uint32_t n_keys = key_counts[blockIdx.x];
    if (n_keys == 0) return;
    const uint32_t position = n_keys - 1, seq = seq_of_row[blockIdx.x];
    char *to = block_of(pool, tables, table_starts, seq, position, shape);
    if (to == nullptr) return;
    const char *row = qkv + static_cast<size_t>(blockIdx.x) * shape.row_bytes;
    const uint32_t token = position % shape.block_size;
    const uintptr_t bits = reinterpret_cast<uintptr_t>(qkv) | reinterpret_cast<uintptr_t>(pool) |
                           shape.row_bytes | shape.head_bytes;
    if (bits % 16 == 0) {
        copy_heads<uint4>(row, to, shape, token);
    } else if (bits % 4 == 0) {
        copy_heads<uint32_t>(row, to, shape, token);
    } else {
        copy_heads<uint16_t>(row, to, shape, token);
    }
}
