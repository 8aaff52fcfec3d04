// Products of up to 64 rows with weights, on tensor cores: as fast as the weights can be read.
// Contract: crates/tensor/src/ops/linear.rs.
//
// A warp has 32 outputs: the weight's rows are the tall side of the tensor core's tiles, rows of x
// the narrow one. Steps of 64 elements of k go through a ring in shared memory; a block's second
// index is its slice of k, and the slices' sums are added in order by whichever block of a tile
// ends last. Where k is cut depends on n and k alone and columns of a tile do not see each other,
// so a row's bits depend neither on the number of rows nor on the rows beside it.

#include "common/skinny.cuh"

namespace {

// Elements of k in a step: 128 bytes, a line of the cache, of every row.
constexpr int STEP = 64;
constexpr int ROW_BYTES = STEP * 2;
// Elements that one copy moves, and that a lane has of a row in half a step.
constexpr int CHUNK = 8;
constexpr int CHUNK_BYTES = 16;
constexpr int ROW_CHUNKS = STEP / CHUNK;
// Outputs of a warp: two tiles of the tensor core, gates and their partners among them.
constexpr int WARP_OUTPUTS = SUMS_OUTPUTS;
constexpr int TILE_OUTPUTS = 16;
constexpr int N_TILES = WARP_OUTPUTS / TILE_OUTPUTS;
// Rows of x in a tile.
constexpr int TILE_ROWS = 8;
// Steps in the ring; all but one are on their way while that one is worked on.
constexpr int STAGES = 4;

constexpr int WARP_STAGE_BYTES = WARP_OUTPUTS * ROW_BYTES;

extern __shared__ __align__(128) uint8_t shared_bytes[];

// Copies 16 bytes into shared memory behind the program's back, or writes zeros there.
__device__ __forceinline__ void copy(uint32_t to, const void *from, bool is_there) {
    const int n_bytes = is_there ? CHUNK_BYTES : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(n_bytes)
                 : "memory");
}

__device__ __forceinline__ void end_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int PENDING>
__device__ __forceinline__ void wait_for_groups() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

__device__ __forceinline__ uint4 load_shared(uint32_t from) {
    uint4 value;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "r"(from)
                 : "memory");
    return value;
}

// Where chunk `chunk` of row `row` lies in a stage: odd rows have their halves swapped, so that the
// eight lanes that read at a time (two rows, four chunks each) hit different banks.
__device__ __forceinline__ uint32_t place(int row, int chunk) {
    return row * ROW_BYTES + (chunk ^ ((row & 1) * (ROW_CHUNKS / 2))) * CHUNK_BYTES;
}

template <typename T>
__device__ __forceinline__ void multiply(float4 &sums, uint32_t a0, uint32_t a1, uint32_t a2,
                                         uint32_t a3, uint32_t b0, uint32_t b1);
template <>
__device__ __forceinline__ void multiply<bf16>(float4 &sums, uint32_t a0, uint32_t a1, uint32_t a2,
                                               uint32_t a3, uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums.x), "+f"(sums.y), "+f"(sums.z), "+f"(sums.w)
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
template <>
__device__ __forceinline__ void multiply<f16>(float4 &sums, uint32_t a0, uint32_t a1, uint32_t a2,
                                              uint32_t a3, uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums.x), "+f"(sums.y), "+f"(sums.z), "+f"(sums.w)
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Brings steps of the weight's rows and of x into the ring.
template <typename T, int WIDTH>
struct Loader {
    const Product &product;
    const T *weights;   // the warp's row of this lane, at its chunk
    uint32_t own;       // where that goes in stage 0
    uint32_t shared_x;  // where x goes in stage 0
    int stage_bytes;
    int first_row;  // of the weight, of this lane
    int chunk;

    __device__ Loader(const Product &product, uint32_t shared, int first_output, int stage_bytes)
        : product(product), stage_bytes(stage_bytes) {
        const int lane = threadIdx.x % WARP;
        const int row = lane / ROW_CHUNKS;
        chunk = lane % ROW_CHUNKS;
        first_row = first_output + row;
        weights = static_cast<const T *>(product.w) + static_cast<size_t>(first_row) * product.k +
                  chunk * CHUNK;
        own = shared + threadIdx.x / WARP * WARP_STAGE_BYTES + place(row, chunk);
        shared_x = shared + blockDim.x / WARP * WARP_STAGE_BYTES;
    }

    __device__ __forceinline__ void load(int step, int stage) const {
        const int at = step * STEP;
        const uint32_t offset = stage * stage_bytes;
        load_weights(at, offset);
        load_x(at, offset);
    }

    // A warp's copy is of four rows, all of a step: whole lines of the cache.
    __device__ __forceinline__ void load_weights(int at, uint32_t offset) const {
        constexpr int ROWS_AT_ONCE = WARP / ROW_CHUNKS;
        const bool has_chunk = at + chunk * CHUNK < product.k;
#pragma unroll
        for (int i = 0; i < WARP_OUTPUTS / ROWS_AT_ONCE; i++) {
            const int row = i * ROWS_AT_ONCE;
            const bool is_there = has_chunk && first_row + row < product.n;
            const T *from = weights + static_cast<size_t>(row) * product.k + at;
            const void *address = is_there ? from : product.w;
            copy(own + offset + row * ROW_BYTES, address, is_there);
        }
    }

    __device__ __forceinline__ void load_x(int at, uint32_t offset) const {
        const T *x = static_cast<const T *>(product.x);
        for (int i = threadIdx.x; i < WIDTH * TILE_ROWS * ROW_CHUNKS; i += blockDim.x) {
            const int row = i / ROW_CHUNKS;
            const int column = at + i % ROW_CHUNKS * CHUNK;
            const bool is_there = row < product.n_rows && column < product.k;
            const T *from = x + static_cast<size_t>(row) * product.k + column;
            const void *address = is_there ? static_cast<const void *>(from) : product.x;
            copy(shared_x + offset + place(row, i % ROW_CHUNKS), address, is_there);
        }
    }
};

template <int WIDTH>
using Sums = float4[N_TILES][WIDTH];

// One step: `weights` and `x` are where the warp's rows and all rows of x lie in shared memory.
// A lane loads eight neighbouring elements of a row at once; which of them the tensor core calls
// which element of k does not matter as long as both sides agree.
template <typename T, int WIDTH>
__device__ __forceinline__ void work(uint32_t weights, uint32_t x, Sums<WIDTH> &sums) {
    const int lane = threadIdx.x % WARP;
    const int row = lane / 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const uint32_t own = place(row, half * 4 + lane % 4);
        uint4 low[N_TILES], high[N_TILES];
#pragma unroll
        for (int tile = 0; tile < N_TILES; tile++) {
            low[tile] = load_shared(weights + own + tile * TILE_OUTPUTS * ROW_BYTES);
            high[tile] = load_shared(weights + own + (tile * TILE_OUTPUTS + 8) * ROW_BYTES);
        }
        uint4 b[WIDTH];
#pragma unroll
        for (int i = 0; i < WIDTH; i++) b[i] = load_shared(x + own + i * TILE_ROWS * ROW_BYTES);
        // Neighbouring instructions add to different sums, so none waits for the one before.
#pragma unroll
        for (int i = 0; i < WIDTH; i++) {
#pragma unroll
            for (int tile = 0; tile < N_TILES; tile++) {
                const uint4 l = low[tile], h = high[tile];
                multiply<T>(sums[tile][i], l.x, h.x, l.y, h.y, b[i].x, b[i].y);
            }
        }
#pragma unroll
        for (int i = 0; i < WIDTH; i++) {
#pragma unroll
            for (int tile = 0; tile < N_TILES; tile++) {
                const uint4 l = low[tile], h = high[tile];
                multiply<T>(sums[tile][i], l.z, h.z, l.w, h.w, b[i].z, b[i].w);
            }
        }
    }
}

// The sums of this block's slice of k.
template <typename T, int WIDTH>
__device__ __forceinline__ void multiply_slice(const Product &product, int first_output,
                                               Sums<WIDTH> &sums) {
    const uint32_t shared = static_cast<uint32_t>(__cvta_generic_to_shared(shared_bytes));
    const int n_warps = blockDim.x / WARP;
    const int stage_bytes = n_warps * WARP_STAGE_BYTES + WIDTH * TILE_ROWS * ROW_BYTES;
    const int n_steps = (product.k + STEP - 1) / STEP;
    const int begin = static_cast<int>(static_cast<int64_t>(n_steps) * blockIdx.y / gridDim.y);
    const int end = static_cast<int>(static_cast<int64_t>(n_steps) * (blockIdx.y + 1) / gridDim.y);
    const Loader<T, WIDTH> loader(product, shared, first_output, stage_bytes);
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) {
        if (begin + i < end) loader.load(begin + i, i);
        end_group();
    }
    const uint32_t weights = shared + threadIdx.x / WARP * WARP_STAGE_BYTES;
    const uint32_t x = shared + n_warps * WARP_STAGE_BYTES;
    int stage = 0, free_stage = STAGES - 1;
    for (int step = begin; step < end; step++) {
        // This step has arrived for this thread, then for all; and all have done the one before,
        // whose place is taken by the one that is asked for now.
        wait_for_groups<STAGES - 2>();
        __syncthreads();
        if (step + STAGES - 1 < end) loader.load(step + STAGES - 1, free_stage);
        end_group();
        work<T, WIDTH>(weights + stage * stage_bytes, x + stage * stage_bytes, sums);
        stage = stage + 1 == STAGES ? 0 : stage + 1;
        free_stage = free_stage + 1 == STAGES ? 0 : free_stage + 1;
    }
}

// Adds up the slices' sums, in order of k, in the block that ends last; whether this is that block.
template <int WIDTH>
__device__ __forceinline__ bool add_slices(const Product &product, Sums<WIDTH> &sums) {
    __shared__ bool is_last;
    constexpr int WARP_SUMS = N_TILES * WIDTH * WARP;
    const size_t slice_sums = static_cast<size_t>(blockDim.x / WARP) * WARP_SUMS;
    float4 *tile_sums = product.partial + blockIdx.x * gridDim.y * slice_sums +
                        threadIdx.x / WARP * WARP_SUMS + threadIdx.x % WARP;
#pragma unroll
    for (int i = 0; i < N_TILES * WIDTH; i++) {
        __stcg(tile_sums + blockIdx.y * slice_sums + i * WARP, sums[i / WIDTH][i % WIDTH]);
    }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        const unsigned n_before = atomicAdd(product.n_finished + blockIdx.x, 1u);
        is_last = n_before + 1 == gridDim.y;
        if (is_last) product.n_finished[blockIdx.x] = 0;
    }
    __syncthreads();
    if (!is_last) return false;
    __threadfence();
#pragma unroll
    for (int i = 0; i < N_TILES * WIDTH; i++) sums[i / WIDTH][i % WIDTH] = {0, 0, 0, 0};
    for (unsigned slice = 0; slice < gridDim.y; slice++) {
#pragma unroll
        for (int i = 0; i < N_TILES * WIDTH; i++) {
            const float4 more = __ldcg(tile_sums + slice * slice_sums + i * WARP);
            float4 &sum = sums[i / WIDTH][i % WIDTH];
            sum = {sum.x + more.x, sum.y + more.y, sum.z + more.z, sum.w + more.w};
        }
    }
    return true;
}

// A lane's sums of a tile: outputs lane / 4 and, 8 further, rows lane % 4 * 2 and the next.
template <int WIDTH>
__device__ __forceinline__ void spread(const Sums<WIDTH> &sums, float *rows) {
    const int lane = threadIdx.x % WARP;
    float *own = rows + lane % 4 * 2 * SUMS_STRIDE + lane / 4;
#pragma unroll
    for (int i = 0; i < WIDTH; i++) {
#pragma unroll
        for (int tile = 0; tile < N_TILES; tile++) {
            float *to = own + i * TILE_ROWS * SUMS_STRIDE + tile * TILE_OUTPUTS;
            to[0] = sums[tile][i].x;
            to[SUMS_STRIDE] = sums[tile][i].y;
            to[8] = sums[tile][i].z;
            to[SUMS_STRIDE + 8] = sums[tile][i].w;
        }
    }
}

template <typename T, int WIDTH>
__device__ __forceinline__ void skinny(const Product &product) {
    const int n_warps = blockDim.x / WARP;
    const int first_output = (blockIdx.x * n_warps + threadIdx.x / WARP) * WARP_OUTPUTS;
    Sums<WIDTH> sums = {};
    multiply_slice<T, WIDTH>(product, first_output, sums);
    if (gridDim.y > 1 && !add_slices<WIDTH>(product, sums)) return;
    // The ring is empty, and nobody reads it any more: its memory takes the sums.
    __syncthreads();
    float *rows = reinterpret_cast<float *>(shared_bytes) +
                  threadIdx.x / WARP * WIDTH * TILE_ROWS * SUMS_STRIDE;
    spread<WIDTH>(sums, rows);
    __syncwarp();
    finish_sums<T, WIDTH * TILE_ROWS, 1>(product, first_output, OwnSums{rows}, {0, 1});
}

// Most warps of a block that the launch chooses.
constexpr int WARPS_MAX = 9;

}  // namespace

#define DEFINE(T, rows)                                                                     \
    extern "C" __global__ void __launch_bounds__(WARPS_MAX *WARP, 1)                        \
        skinny_##T##_##rows(const Product product) {                                        \
        skinny<T, rows / TILE_ROWS>(product);                                               \
    }

DEFINE(bf16, 8)
DEFINE(bf16, 16)
DEFINE(bf16, 32)
DEFINE(bf16, 64)
DEFINE(f16, 8)
DEFINE(f16, 16)
DEFINE(f16, 32)
DEFINE(f16, 64)
