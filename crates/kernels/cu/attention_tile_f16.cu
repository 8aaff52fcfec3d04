// Attention of many rows, f16: a line for each size of a head.
// Sizes of a tile: crates/tensor/src/ops/attention_cuda.rs has the same.
#include "common/attention_tile.cuh"

// Type, size of a head, warps, pairs of a warp in sixteens, keys of a tile, whether queries stay in
// registers, blocks of a multiprocessor.
ATTENTION_TILE(f16, 32, 4, 2, 64, true, 2)
ATTENTION_TILE(f16, 64, 4, 2, 64, true, 2)
ATTENTION_TILE(f16, 80, 4, 2, 64, false, 2)
ATTENTION_TILE(f16, 96, 4, 2, 64, false, 2)
ATTENTION_TILE(f16, 128, 4, 2, 64, false, 2)
ATTENTION_TILE(f16, 256, 8, 1, 32, false, 1)
