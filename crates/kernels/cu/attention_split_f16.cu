// Attention of single rows, f16: a line for each size of a head.
// Steps ahead and blocks of a multiprocessor: crates/tensor/src/ops/attention_cuda.rs has the same.
#include "common/attention_split.cuh"

ATTENTION_SPLIT(f16, 32, 8, 2)
ATTENTION_SPLIT(f16, 64, 5, 2)
ATTENTION_SPLIT(f16, 80, 4, 2)
ATTENTION_SPLIT(f16, 96, 4, 2)
ATTENTION_SPLIT(f16, 128, 3, 2)
ATTENTION_SPLIT(f16, 256, 3, 1)
