// What may happen to a product before it is written. The numbers are those that the launches in
// crates/tensor/src/ops/linear_cuda.rs pass.
#pragma once

enum Activation : int {
    ACTIVATION_NONE = 0,
    ACTIVATION_QUICK_GELU = 1,
    ACTIVATION_GELU = 2,
    ACTIVATION_GELU_TANH = 3,
    ACTIVATION_SILU = 4,
    ACTIVATION_RELU = 5,
};

// x / (1 + e^(-slope x)): SiLU for slope 1, quick GELU for slope 1.702.
__device__ __forceinline__ float sigmoid_gate(float x, float slope) {
    return x / (1.0f + expf(-slope * x));
}

__device__ __forceinline__ float activate(float x, int activation) {
    switch (activation) {
        case ACTIVATION_QUICK_GELU:
            return sigmoid_gate(x, 1.702f);
        case ACTIVATION_GELU:
            return 0.5f * x * (1.0f + erff(x * 0.70710678f));
        case ACTIVATION_GELU_TANH:
            return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
        case ACTIVATION_SILU:
            return sigmoid_gate(x, 1.0f);
        case ACTIVATION_RELU:
            // Not fmaxf, which would hide a NaN.
            return x < 0.0f ? 0.0f : x;
        default:
            return x;
    }
}

// Columns of a gate come sixteen at a time, followed by sixteen of its partner.
constexpr int GATE_COLUMNS = 16;

// Column of the gate that column `i` of the result comes from; the partner is GATE_COLUMNS behind.
__device__ __forceinline__ int gate_column(int i) {
    return i / GATE_COLUMNS * 2 * GATE_COLUMNS + i % GATE_COLUMNS;
}
