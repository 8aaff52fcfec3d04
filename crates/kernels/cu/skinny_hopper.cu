// Products of up to 64 rows with weights on Hopper: as skinny.cu, by its copy engine and its
// asynchronous tensor cores, which read both operands from shared memory.
// Contract: crates/tensor/src/ops/linear.rs.
//
// One warp asks for steps of 64 elements of k, the others form groups of four with 64 outputs each.
// A block's second index is its slice of k. The slices of a tile are a cluster: each block adds up
// all slices' sums of its share of the rows, in order, out of the others' shared memory. What is in
// flight, not how blocks lie on multiprocessors, decides on the speed.

#include "common/early.cuh"
#include "common/skinny.cuh"

namespace {

// Threads of a group of warps, and most groups of a block.
constexpr int TILE_THREADS = 128;
constexpr int TILES_MAX = 3;

// What the copy engine is told of a matrix; made by the driver.
struct alignas(64) TensorMap {
    uint64_t words[16];
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Elements of k in a step: a row of 128 bytes, which is also the period of the swizzle.
constexpr int STEP = 64;
constexpr int ROW_BYTES = STEP * 2;
// Outputs of a group of warps, and its share of a step.
constexpr int TILE_OUTPUTS = 64;
constexpr int TILE_BYTES = TILE_OUTPUTS * ROW_BYTES;
// Elements of k of one instruction.
constexpr int DEPTH = 16;
// Most steps in the ring.
constexpr int STAGES_MAX = 16;
// Tiles begin at multiples of this many bytes, so that swizzles agree; the barriers lie before.
constexpr int TILE_ALIGNMENT = 1024;

extern __shared__ __align__(128) uint8_t shared_bytes[];

__device__ __forceinline__ void init_barrier(uint32_t barrier, int n_arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(n_arrivals)
                 : "memory");
}

__device__ __forceinline__ void arrive(uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void arrive_and_expect(uint32_t barrier, int n_bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier),
                 "r"(n_bytes)
                 : "memory");
}

// Until the phase of that parity is over.
__device__ __forceinline__ void wait(uint32_t barrier, int parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}\n" ::"r"(barrier),
        "r"(parity)
        : "memory");
}

// Copies a box of a matrix; what lies outside of the matrix becomes zeros.
__device__ __forceinline__ void copy_box(uint32_t to, const TensorMap &map, int column, int row,
                                         uint32_t barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3}], [%4];" ::"r"(to),
        "l"(&map), "r"(column), "r"(row), "r"(barrier)
        : "memory");
}

// The tensor cores' description of a tile: rows of 128 bytes, swizzled, eight rows a kilobyte.
__device__ __forceinline__ uint64_t describe(uint32_t address) {
    constexpr uint64_t SWIZZLE_128 = 1ull << 62;
    constexpr uint64_t EIGHT_ROWS = static_cast<uint64_t>(8 * ROW_BYTES / 16) << 32;
    constexpr uint64_t UNUSED = 1ull << 16;
    return SWIZZLE_128 | EIGHT_ROWS | UNUSED | ((address & 0x3ffff) >> 4);
}

__device__ __forceinline__ void begin_products() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void end_products() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int PENDING>
__device__ __forceinline__ void wait_for_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// Adds the products of 64 outputs, `ROWS` rows and 16 elements of k.
template <typename T, int ROWS>
__device__ __forceinline__ void multiply(float (&s)[ROWS / 2], uint64_t a, uint64_t b);

#define SUMS_4(i) "+f"(s[i]), "+f"(s[i + 1]), "+f"(s[i + 2]), "+f"(s[i + 3])
#define SUMS_16(i) SUMS_4(i), SUMS_4(i + 4), SUMS_4(i + 8), SUMS_4(i + 12)
#define MULTIPLY(T, rows, names, at_a, at_b, ...)                                             \
    template <>                                                                               \
    __device__ __forceinline__ void multiply<T, rows>(float(&s)[rows / 2], uint64_t a,        \
                                                      uint64_t b) {                           \
        asm volatile("{\n.reg .pred add;\nsetp.eq.u32 add, 0, 0;\n"                           \
                     "wgmma.mma_async.sync.aligned.m64n" #rows "k16.f32." #T "." #T " {" names \
                     "}, " at_a ", " at_b ", add, 1, 1, 0, 0;\n}\n"                            \
                     : __VA_ARGS__                                                            \
                     : "l"(a), "l"(b));                                                       \
    }

#define NAMES_4 "%0, %1, %2, %3"
#define NAMES_8 NAMES_4 ", %4, %5, %6, %7"
#define NAMES_16 NAMES_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define NAMES_32 \
    NAMES_16     \
    ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"

#define MULTIPLY_ALL(T)                                          \
    MULTIPLY(T, 8, NAMES_4, "%4", "%5", SUMS_4(0))               \
    MULTIPLY(T, 16, NAMES_8, "%8", "%9", SUMS_4(0), SUMS_4(4))   \
    MULTIPLY(T, 32, NAMES_16, "%16", "%17", SUMS_16(0))          \
    MULTIPLY(T, 64, NAMES_32, "%32", "%33", SUMS_16(0), SUMS_16(16))

MULTIPLY_ALL(bf16)
MULTIPLY_ALL(f16)

// The block's ring: for every stage a barrier that says it is full and one that says it is empty,
// and its tiles: 64 rows of the weight for each group, and the rows of x.
template <int ROWS>
struct Ring {
    uint32_t barriers;
    uint32_t tiles;
    int n_groups;
    int n_stages;

    __device__ Ring(int n_stages) : n_stages(n_stages) {
        barriers = static_cast<uint32_t>(__cvta_generic_to_shared(shared_bytes));
        const uint32_t end = barriers + 2 * STAGES_MAX * sizeof(uint64_t);
        tiles = (end + TILE_ALIGNMENT - 1) / TILE_ALIGNMENT * TILE_ALIGNMENT;
        n_groups = blockDim.x / TILE_THREADS;
    }

    __device__ uint32_t full(int stage) const { return barriers + stage * 16; }
    __device__ uint32_t empty(int stage) const { return barriers + stage * 16 + 8; }
    __device__ int stage_bytes() const { return n_groups * TILE_BYTES + ROWS * ROW_BYTES; }
    __device__ uint32_t weights(int stage) const { return tiles + stage * stage_bytes(); }
    __device__ uint32_t x(int stage) const { return weights(stage) + n_groups * TILE_BYTES; }

    // By one thread.
    __device__ void init() const {
        for (int stage = 0; stage < n_stages; stage++) {
            init_barrier(full(stage), 1);
            init_barrier(empty(stage), n_groups * (TILE_THREADS / WARP));
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
};

// The steps of this block.
struct Slice {
    int begin;
    int count;

    __device__ Slice(int k) {
        const int64_t n_steps = (k + STEP - 1) / STEP;
        begin = static_cast<int>(n_steps * blockIdx.y / gridDim.y);
        count = static_cast<int>(n_steps * (blockIdx.y + 1) / gridDim.y) - begin;
    }
};

// Asks for all steps; one thread. Weights never depend on what ran before, x does.
template <int ROWS>
__device__ __forceinline__ void fetch(const TensorMap &w, const TensorMap &x,
                                      const Ring<ROWS> &ring, const Slice &slice) {
    const int first_output = blockIdx.x * ring.n_groups * TILE_OUTPUTS;
    const auto fetch_weights = [&](int idx, int stage) {
        arrive_and_expect(ring.full(stage), ring.stage_bytes());
        for (int group = 0; group < ring.n_groups; group++) {
            copy_box(ring.weights(stage) + group * TILE_BYTES, w, (slice.begin + idx) * STEP,
                     first_output + group * TILE_OUTPUTS, ring.full(stage));
        }
    };
    const auto fetch_x = [&](int idx, int stage) {
        copy_box(ring.x(stage), x, (slice.begin + idx) * STEP, 0, ring.full(stage));
    };
    const int n_first = min(slice.count, ring.n_stages);
    for (int idx = 0; idx < n_first; idx++) fetch_weights(idx, idx);
    wait_for_predecessor();
    for (int idx = 0; idx < n_first; idx++) fetch_x(idx, idx);
    int stage = 0, parity = 0;
    for (int idx = n_first; idx < slice.count; idx++) {
        wait(ring.empty(stage), parity);
        fetch_weights(idx, stage);
        fetch_x(idx, stage);
        if (++stage == ring.n_stages) stage = 0, parity ^= 1;
    }
}

// The sums of this group's 64 outputs over the block's slice.
template <typename T, int ROWS>
__device__ __forceinline__ void multiply_slice(const Ring<ROWS> &ring, int count, int group,
                                               float (&sums)[ROWS / 2]) {
    const bool is_first_lane = threadIdx.x % WARP == 0;
    int stage = 0, parity = 0, stage_before = 0;
    for (int idx = 0; idx < count; idx++) {
        wait(ring.full(stage), parity);
        const uint64_t a = describe(ring.weights(stage) + group * TILE_BYTES);
        const uint64_t b = describe(ring.x(stage));
        begin_products();
#pragma unroll
        for (int i = 0; i < STEP / DEPTH; i++) {
            // Sixteen elements further are 32 bytes, which descriptions count in sixteens.
            multiply<T, ROWS>(sums, a + 2 * i, b + 2 * i);
        }
        end_products();
        // The step before is done when only this one is pending: its place is free.
        wait_for_products<1>();
        if (idx > 0 && is_first_lane) arrive(ring.empty(stage_before));
        stage_before = stage;
        if (++stage == ring.n_stages) stage = 0, parity ^= 1;
    }
    wait_for_products<0>();
}

// Among the threads that multiply.
__device__ __forceinline__ void sync_groups(int n_threads) {
    asm volatile("bar.sync 1, %0;" ::"r"(n_threads) : "memory");
}

// Meets all blocks of the cluster, which are those of one tile, and shows them what has been
// written to shared memory.
__device__ __forceinline__ void meet_slices() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Sums of all slices, which lie at the same place in their blocks' shared memory; added in order.
struct SliceSums {
    uint32_t address;
    int n_slices;

    __device__ __forceinline__ Group<float, GROUP> load(int at) const {
        Group<float, GROUP> total = {};
#pragma unroll 4
        for (int slice = 0; slice < n_slices; slice++) {
            uint32_t from;
            asm("mapa.shared::cluster.u32 %0, %1, %2;"
                : "=r"(from)
                : "r"(address + at * static_cast<uint32_t>(sizeof(float))), "r"(slice));
            Group<float, GROUP> more;
            asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                         : "=f"(more.at[0]), "=f"(more.at[1]), "=f"(more.at[2]), "=f"(more.at[3])
                         : "r"(from));
            total = sum_of(total, more);
        }
        return total;
    }
};

// A warp's sums, sixteen outputs, to where those of 32 lie together: a lane has outputs lane / 4
// and, 8 further, rows lane % 4 * 2 and the next.
template <int ROWS>
__device__ __forceinline__ void spread(const float (&sums)[ROWS / 2], float *rows) {
    const int lane = threadIdx.x % WARP;
    float *own = rows + lane % 4 * 2 * SUMS_STRIDE + lane / 4;
#pragma unroll
    for (int i = 0; i < ROWS / 8; i++) {
        float *to = own + i * 8 * SUMS_STRIDE;
        to[0] = sums[i * 4];
        to[SUMS_STRIDE] = sums[i * 4 + 1];
        to[8] = sums[i * 4 + 2];
        to[SUMS_STRIDE + 8] = sums[i * 4 + 3];
    }
}

template <typename T, int ROWS>
__device__ __forceinline__ void skinny(const TensorMap &w, const TensorMap &x,
                                       const Product &product, int n_stages) {
    const Ring<ROWS> ring(n_stages);
    const Slice slice(product.k);
    const int n_threads = blockDim.x - WARP;
    if (threadIdx.x == 0) ring.init();
    __syncthreads();
    let_successor_start();
    if (threadIdx.x >= n_threads) {
        if (threadIdx.x == n_threads) fetch<ROWS>(w, x, ring, slice);
        return;
    }
    float sums[ROWS / 2] = {};
    const int group = threadIdx.x / TILE_THREADS;
    multiply_slice<T, ROWS>(ring, slice.count, group, sums);
    wait_for_predecessor();
    // All groups are through with the ring: its memory takes the sums, two warps to 32 outputs.
    sync_groups(n_threads);
    const int warp = threadIdx.x / WARP;
    const int n_slices = gridDim.y;
    const uint32_t offset = ring.tiles - ring.barriers;
    float *rows = reinterpret_cast<float *>(shared_bytes + offset) + warp / 2 * ROWS * SUMS_STRIDE;
    spread<ROWS>(sums, rows + warp % 2 * 16);
    const int first_output = blockIdx.x * ring.n_groups * TILE_OUTPUTS + warp / 2 * SUMS_OUTPUTS;
    if (n_slices == 1) {
        sync_groups(n_threads);
        finish_sums<T, ROWS, 2>(product, first_output, OwnSums{rows}, {warp % 2, 2});
        return;
    }
    meet_slices();
    const SliceSums all = {static_cast<uint32_t>(__cvta_generic_to_shared(rows)), n_slices};
    const Share share = {static_cast<int>(blockIdx.y) * 2 + warp % 2, n_slices * 2};
    finish_sums<T, ROWS, 4>(product, first_output, all, share);
    // Nobody's memory goes while others read it.
    meet_slices();
}

#else

// Other GPUs are given skinny.cu; the launch knows.
template <typename T, int ROWS>
__device__ __forceinline__ void skinny(const TensorMap &, const TensorMap &, const Product &, int) {
    __trap();
}

#endif

}  // namespace

#define DEFINE(T, rows)                                                                       \
    extern "C" __global__ void __launch_bounds__(TILES_MAX *TILE_THREADS + WARP, 2)           \
        skinny_hopper_##T##_##rows(const __grid_constant__ TensorMap w,                       \
                                   const __grid_constant__ TensorMap x, const Product product, \
                                   int n_stages) {                                            \
        skinny<T, rows>(w, x, product, n_stages);                                             \
    }

DEFINE(bf16, 8)
DEFINE(bf16, 16)
DEFINE(bf16, 32)
DEFINE(bf16, 64)
DEFINE(f16, 8)
DEFINE(f16, 16)
DEFINE(f16, 32)
DEFINE(f16, 64)
