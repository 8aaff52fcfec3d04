// Pixels to a tower's patches.
// Contract: crates/tensor/src/ops/patches.rs.

#include "common/dtype.cuh"

constexpr int CHANNELS = 3;
constexpr int LEVELS = 256;

// The host's struct has the same fields. It travels as a parameter, so no table is uploaded.
struct Cutting {
    float values[CHANNELS][LEVELS];  // the number that each byte becomes
    uint32_t grid_h, grid_w;         // patches of a frame
    uint32_t patch_size, depth, merge_size;
    uint32_t n_frames;
    uint32_t n_patches;
};

namespace {

// Offset in bytes of the first pixel of patch `idx` in its first frame, and that frame's number.
__device__ __forceinline__ size_t corner_of(const Cutting &cut, uint32_t idx, uint32_t *t) {
    const uint32_t merge = cut.merge_size, per_frame = cut.grid_h * cut.grid_w;
    const uint32_t in_frame = idx % per_frame;
    const uint32_t window = in_frame / (merge * merge), inside = in_frame % (merge * merge);
    const uint32_t windows_wide = cut.grid_w / merge;
    const uint32_t y = window / windows_wide * merge + inside / merge;
    const uint32_t x = window % windows_wide * merge + inside % merge;
    *t = idx / per_frame;
    const size_t row_bytes = static_cast<size_t>(cut.grid_w) * cut.patch_size * CHANNELS;
    return y * cut.patch_size * row_bytes + static_cast<size_t>(x) * cut.patch_size * CHANNELS;
}

// Threads take pixels of a patch; each becomes an element in each channel's part of the row.
template <typename T>
__device__ void cut_patch(const uint8_t *frames, T *row, const Cutting &cut,
                          const float (*values)[LEVELS], uint32_t idx) {
    uint32_t t;
    const size_t corner = corner_of(cut, idx, &t);
    const uint32_t size = cut.patch_size, area = size * size;
    const size_t row_bytes = static_cast<size_t>(cut.grid_w) * size * CHANNELS;
    const size_t frame_bytes = cut.grid_h * size * row_bytes;
    const uint32_t n_pixels = cut.depth * area;
    for (uint32_t item = threadIdx.x; item < n_pixels; item += blockDim.x) {
        // A picture is one frame, seen as often as a patch is deep.
        const uint32_t frame = min(t * cut.depth + item / area, cut.n_frames - 1);
        const uint32_t line = item % area / size, column = item % size;
        const uint8_t *pixel =
            frames + frame * frame_bytes + corner + line * row_bytes + column * CHANNELS;
#pragma unroll
        for (int channel = 0; channel < CHANNELS; channel++) {
            row[channel * n_pixels + item] = from_f32<T>(values[channel][pixel[channel]]);
        }
    }
}

// Blocks take patches in turn.
template <typename T>
__device__ void cut_all(const uint8_t *frames, T *rows, const Cutting &cut) {
    __shared__ float values[CHANNELS][LEVELS];
    for (int i = threadIdx.x; i < CHANNELS * LEVELS; i += blockDim.x) {
        values[i / LEVELS][i % LEVELS] = cut.values[i / LEVELS][i % LEVELS];
    }
    __syncthreads();
    const size_t row_len =
        static_cast<size_t>(CHANNELS) * cut.depth * cut.patch_size * cut.patch_size;
    for (uint32_t idx = blockIdx.x; idx < cut.n_patches; idx += gridDim.x) {
        cut_patch(frames, rows + idx * row_len, cut, values, idx);
    }
}

}  // namespace

#define DEFINE(T, name)                                                                   \
    extern "C" __global__ void patches_##name(const uint8_t *frames, T *rows,             \
                                              const __grid_constant__ Cutting cut) {      \
        cut_all<T>(frames, rows, cut);                                                    \
    }

FOR_EACH_DTYPE(DEFINE)
