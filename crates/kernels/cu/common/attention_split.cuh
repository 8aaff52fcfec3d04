// Attention of single rows with their keys cut into parts of fixed length (decode), on tensor
// cores. A block takes a part: up to 16 heads of one row that share a key-value head. Each warp
// takes 16 of every 64 keys, brings them itself, several steps ahead and across the ends of parts,
// and keeps its own softmax; the warps meet only at the end of a part.
#pragma once

#include "attention.cuh"

constexpr int SPLIT_WARPS = 4;
constexpr int SPLIT_THREADS = SPLIT_WARPS * WARP;
// Keys of a warp's step, and of a block's.
constexpr int WARP_KEYS = 16;
constexpr int STEP_KEYS = SPLIT_WARPS * WARP_KEYS;

// Shared memory: `STEPS` steps of keys and values of each warp, then what warps meet over.
template <int DIM, int STEPS>
struct SplitShape {
    // A row is an odd number of 16 bytes long: eight rows of a matrix lie in different banks.
    static constexpr int STRIDE = DIM + 8;
    static constexpr int PLANE = WARP_KEYS * STRIDE;
    static constexpr int WARP_ELEMENTS = STEPS * 2 * PLANE;
    static constexpr int SUM_STRIDE = DIM + 4;
};

struct SplitMeeting {
    float largest[SPLIT_WARPS][16];
    float weights[SPLIT_WARPS][16];
    float all_largest[16];
    float all_weights[16];
    uint32_t flag;
};

// Brings keys and values of one warp, step by step, through all parts that the block will take.
template <typename T, int DIM, int STEPS>
struct SplitCopies {
    using Shape = SplitShape<DIM, STEPS>;
    static constexpr int ROW_PARTS = DIM / 8;

    const AttentionArgs &args;
    T *memory;
    uint32_t unit, n_units, per_entry;
    uint32_t key, end;  // of this lane's row
    KeyPlaces places;
    int64_t offset;
    uint4 next_raw;

    __device__ __forceinline__ SplitCopies(const AttentionArgs &args, T *memory, uint32_t n_units)
        : args(args), memory(memory), unit(blockIdx.x), n_units(n_units) {
        per_entry = args.n_kv_heads * split_tiles_of_row(args);
        key = end = 0;
        offset = NOWHERE;
        if (unit < n_units) {
            next_raw = work_entry(args, unit / per_entry);
            open();
        }
    }

    // Begins the part `unit`, or the next one that has keys.
    __device__ __forceinline__ void open() {
        SplitEntry entry;
        while (true) {
            const uint4 raw = next_raw;
            const uint32_t next = unit + gridDim.x;
            if (next < n_units) next_raw = work_entry(args, next / per_entry);
            entry = split_entry(raw);
            if (entry.first < entry.end || next >= n_units) break;
            unit = next;
        }
        if (entry.first >= entry.end) unit = n_units;
        const uint32_t kv_head = unit % per_entry / split_tiles_of_row(args);
        places = KeyPlaces(args, entry.table_start, 0, kv_head);
        const uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
        key = entry.first + warp * WARP_KEYS + lane % WARP_KEYS;
        end = entry.end;
        find();
    }

    __device__ __forceinline__ void find() {
        offset = unit < n_units && key < end ? places.of(args, key) : NOWHERE;
    }

    // Starts the copies of the next step, and finds the rows of the one after it.
    __device__ __forceinline__ void start(int step) {
        if (unit < n_units) {
            const uint32_t lane = threadIdx.x % WARP;
            T *keys = memory + step * 2 * Shape::PLANE;
#pragma unroll
            for (int i = 0; i < WARP_KEYS * ROW_PARTS / WARP; i++) {
                const uint32_t item = lane + i * WARP;
                const uint32_t row = item / ROW_PARTS, column = item % ROW_PARTS * 8;
                const int64_t from = __shfl_sync(ALL_LANES, offset, row);
                T *to = keys + row * Shape::STRIDE + column;
                copy_part(to, reinterpret_cast<const T *>(args.keys), from, column, args);
                copy_part(to + Shape::PLANE, reinterpret_cast<const T *>(args.values), from, column,
                          args);
            }
            // The first key of the block's next step is there for all warps or for none.
            const uint32_t first = key - threadIdx.x / WARP * WARP_KEYS - lane % WARP_KEYS;
            key += STEP_KEYS;
            if (first + STEP_KEYS < end) {
                find();
            } else {
                unit += gridDim.x;
                if (unit < n_units) open();
            }
        }
        commit_copies();
    }
};

// Queries, softmax and sums of one warp. Lane `4g + t` has heads `g` and `g + 8` of the tile.
template <typename T, int DIM, int STEPS>
struct SplitWarp {
    using Shape = SplitShape<DIM, STEPS>;

    uint32_t queries[DIM / 16][4];
    float sums[DIM / 8][4];
    float largest[2], weights[2];

    __device__ __forceinline__ uint32_t two(const T *head, uint32_t column, bool there,
                                            const AttentionArgs &args) {
        const T zero = from_f32<T>(0.0f);
        Group<T, 2> both = {zero, zero};
        if (there && args.in_vectors) {
            if (column < args.dim) both = *reinterpret_cast<const Group<T, 2> *>(head + column);
        } else if (there) {
            if (column < args.dim) both.at[0] = head[column];
            if (column + 1 < args.dim) both.at[1] = head[column + 1];
        }
        return *reinterpret_cast<const uint32_t *>(&both);
    }

    __device__ __forceinline__ void begin(const AttentionArgs &args, const SplitTile &tile) {
        const uint32_t lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
        const T *row = reinterpret_cast<const T *>(args.q) +
                       static_cast<size_t>(tile.entry.row) * args.q_stride;
        const T *head = row + (tile.first_head + g) * args.dim;
#pragma unroll
        for (int k = 0; k < DIM / 16; k++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const uint32_t down = i % 2 * 8, column = k * 16 + 2 * t + i / 2 * 8;
                const bool there = g + down < tile.n_heads;
                queries[k][i] = two(head + down * args.dim, column, there, args);
            }
        }
#pragma unroll
        for (int n = 0; n < DIM / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) sums[n][i] = 0.0f;
        }
        largest[0] = largest[1] = NO_SCORE;
        weights[0] = weights[1] = 0.0f;
    }

    // Takes in 16 keys and values, of which the first `n_keys` exist.
    __device__ __forceinline__ void step(const T *keys, int n_keys, float scale) {
        const uint32_t lane = threadIdx.x % WARP, t = lane % 4;
        float scores[2][4] = {};
        const uint32_t key_row = lane % 8 + lane / 16 * 8, key_column = lane / 8 % 2 * 8;
        const uint32_t key_address = shared_address(keys + key_row * Shape::STRIDE + key_column);
#pragma unroll
        for (int k = 0; k < DIM / 16; k++) {
            uint32_t right[4];
            load_matrices(right, key_address + k * 16 * sizeof(T));
            mma<T>(scores[0], queries[k], right[0], right[1]);
            mma<T>(scores[1], queries[k], right[2], right[3]);
        }
#pragma unroll
        for (int n = 0; n < 2; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int key = n * 8 + 2 * t + i % 2;
                scores[n][i] = key < n_keys ? scores[n][i] * scale : NO_SCORE;
            }
        }
        soften(scores);
        uint32_t left[4];
        left[0] = pack_two<T>(scores[0][0], scores[0][1]);
        left[1] = pack_two<T>(scores[0][2], scores[0][3]);
        left[2] = pack_two<T>(scores[1][0], scores[1][1]);
        left[3] = pack_two<T>(scores[1][2], scores[1][3]);
        const T *values = keys + Shape::PLANE;
        const uint32_t value_address =
            shared_address(values + lane % 16 * Shape::STRIDE + lane / 16 * 8);
#pragma unroll
        for (int n = 0; n < DIM / 16; n++) {
            uint32_t right[4];
            load_transposed(right, value_address + n * 16 * sizeof(T));
            mma<T>(sums[2 * n], left, right[0], right[1]);
            mma<T>(sums[2 * n + 1], left, right[2], right[3]);
        }
    }

    // Turns scores into weights relative to the largest score so far.
    __device__ __forceinline__ void soften(float (&scores)[2][4]) {
        float factors[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float top = fmaxf(fmaxf(scores[0][2 * half], scores[0][2 * half + 1]),
                              fmaxf(scores[1][2 * half], scores[1][2 * half + 1]));
            top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 1));
            top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 2));
            top = fmaxf(top, largest[half]);
            factors[half] = rescale(largest[half], top);
            largest[half] = top;
            const float base = top == NO_SCORE ? 0.0f : top;
            weights[half] *= factors[half];
#pragma unroll
            for (int n = 0; n < 2; n++) {
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; i++) {
                    scores[n][i] = exp2_fast(scores[n][i] - base);
                    weights[half] += scores[n][i];
                }
            }
        }
        // A factor of one changes no bit.
        if (!__any_sync(ALL_LANES, factors[0] != 1.0f || factors[1] != 1.0f)) return;
#pragma unroll
        for (int n = 0; n < DIM / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) sums[n][i] *= factors[i / 2];
        }
    }

    // Adds the sums of all warps into `all`, warp by warp.
    __device__ __forceinline__ void meet(SplitMeeting &meeting, float *all) {
        const uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
        const uint32_t g = lane / 4, t = lane % 4;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            weights[half] += __shfl_xor_sync(ALL_LANES, weights[half], 1);
            weights[half] += __shfl_xor_sync(ALL_LANES, weights[half], 2);
            if (t != 0) continue;
            meeting.largest[warp][g + half * 8] = largest[half];
            meeting.weights[warp][g + half * 8] = weights[half];
        }
        __syncthreads();
        float factors[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int head = g + half * 8;
            float top = NO_SCORE, weight = 0.0f;
#pragma unroll
            for (int w = 0; w < SPLIT_WARPS; w++) top = fmaxf(top, meeting.largest[w][head]);
#pragma unroll
            for (int w = 0; w < SPLIT_WARPS; w++) {
                weight += rescale(meeting.largest[w][head], top) * meeting.weights[w][head];
            }
            factors[half] = rescale(largest[half], top);
            if (warp == 0 && t == 0) {
                meeting.all_largest[head] = top;
                meeting.all_weights[head] = weight;
            }
        }
        for (int turn = 0; turn < SPLIT_WARPS; turn++) {
            if (turn == warp) add_to(all, factors, turn == 0);
            __syncthreads();
        }
    }

    __device__ __forceinline__ void add_to(float *all, const float (&factors)[2], bool is_first) {
        const uint32_t lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
#pragma unroll
        for (int n = 0; n < DIM / 8; n++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float *to = all + (g + half * 8) * Shape::SUM_STRIDE + n * 8 + 2 * t;
                float2 both = {sums[n][2 * half] * factors[half],
                               sums[n][2 * half + 1] * factors[half]};
                if (!is_first) {
                    const float2 before = *reinterpret_cast<const float2 *>(to);
                    both = {before.x + both.x, before.y + both.y};
                }
                *reinterpret_cast<float2 *>(to) = both;
            }
        }
    }
};

template <typename T, int DIM, int STEPS>
__device__ __forceinline__ void attend_split(const AttentionArgs &args) {
    using Shape = SplitShape<DIM, STEPS>;
    extern __shared__ __align__(128) unsigned char shared[];
    __shared__ SplitMeeting meeting;
    const uint32_t warp = threadIdx.x / WARP;
    T *memory = reinterpret_cast<T *>(shared) + warp * Shape::WARP_ELEMENTS;
    float *all = reinterpret_cast<float *>(shared + SPLIT_WARPS * Shape::WARP_ELEMENTS * sizeof(T));
    const uint32_t per_entry = args.n_kv_heads * split_tiles_of_row(args);
    const uint32_t n_units = n_entries(args) * per_entry;
    SplitCopies<T, DIM, STEPS> copies(args, memory, n_units);
#pragma unroll
    for (int step = 0; step < STEPS - 1; step++) copies.start(step);
    SplitWarp<T, DIM, STEPS> state;
    int step = 0;
    for (uint32_t unit = blockIdx.x; unit < n_units; unit += gridDim.x) {
        const SplitTile tile = split_tile(args, unit, work_entry(args, unit / per_entry));
        state.begin(args, tile);
        for (uint32_t first = tile.entry.first; first < tile.entry.end; first += STEP_KEYS) {
            wait_copies<STEPS - 2>();
            __syncwarp();
            // The step before this one has been read by the whole warp.
            copies.start(step == 0 ? STEPS - 1 : step - 1);
            const int left = static_cast<int>(tile.entry.end - first - warp * WARP_KEYS);
            state.step(memory + step * 2 * Shape::PLANE, left, args.scale);
            step = step + 1 == STEPS ? 0 : step + 1;
        }
        state.meet(meeting, all);
        finish_split<T, DIM, SPLIT_THREADS>(args, tile, all, Shape::SUM_STRIDE, meeting.all_largest,
                                            meeting.all_weights, &meeting.flag);
        __syncthreads();
    }
    wait_copies<0>();
}

// Defines `attention_split_<type>_<dim>`. `blocks` are those that a multiprocessor should hold.
#define ATTENTION_SPLIT(type, dim, steps, blocks)                                       \
    extern "C" __global__ void __launch_bounds__(SPLIT_THREADS, blocks)                 \
        attention_split_##type##_##dim(const __grid_constant__ AttentionArgs args) {    \
        attend_split<type, dim, steps>(args);                                           \
    }
