// Writes keys and values of rows into the paged cache.
// Contract: crates/tensor/src/ops/kv_write.rs. Elements are copied as they are, so their type does
// not matter, only its size.

#include <cstdint>

// Sizes that do not change from step to step; the host's struct has the same fields.
struct KvShape {
    uint32_t n_blocks;      // that may be written, the spare one included
    uint32_t block_size;    // tokens
    uint32_t n_layers;
    uint32_t layer;
    uint32_t n_kv_heads;
    uint32_t head_bytes;    // of one key or value
    uint32_t row_bytes;     // of the input
    uint32_t n_seqs;
    uint32_t table_width;
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

}  // namespace

// A block a row. Rows without keys are padding and are skipped, like any that no table covers.
extern "C" __global__ void kv_write(const char *qkv, char *pool, const uint32_t *block_tables,
                                    const uint32_t *seq_of_row, const uint32_t *key_counts,
                                    const KvShape shape) {
    const uint32_t n_keys = key_counts[blockIdx.x], seq = seq_of_row[blockIdx.x];
    if (n_keys == 0 || seq >= shape.n_seqs) return;
    const uint32_t position = n_keys - 1, slot = position / shape.block_size;
    if (slot >= shape.table_width) return;
    const uint32_t block = block_tables[static_cast<size_t>(seq) * shape.table_width + slot];
    if (block >= shape.n_blocks) return;
    const size_t block_bytes = static_cast<size_t>(shape.n_kv_heads) * shape.n_layers * 2 *
                               shape.block_size * shape.head_bytes;
    const char *row = qkv + static_cast<size_t>(blockIdx.x) * shape.row_bytes;
    char *to = pool + block * block_bytes;
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
