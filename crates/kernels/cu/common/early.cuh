// Kernels that start before their predecessor has ended, and those that let them: on Hopper and
// later; elsewhere everything is in order. The launch says which may (launch_early in
// crates/tensor/src/cuda/launch.rs).
#pragma once

// Where this kernel was started before its predecessor had ended, until that has ended.
__device__ __forceinline__ void wait_for_predecessor() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The successor may start once all blocks have said so: it waits by itself for what it needs.
__device__ __forceinline__ void let_successor_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
