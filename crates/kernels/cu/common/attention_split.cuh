// Attention of single rows with their keys cut into parts of fixed length (decode), on tensor
// cores. A block takes a part after the other: up to 8 heads of one row that share a key-value
// head. Of every 64 keys each reading warp takes 16, brings them itself, several steps ahead and
// across the ends of parts, and keeps its own softmax; these warps meet only at the end of a part,
// and go on at once. That all parts of a row are there is found out by other warps of the block,
// which put the row together meanwhile: reading never waits for memory to be written. Only the
// block's last part is left to those that read, who have nothing else to do then.
//
// Scores and sums are computed transposed (keys and columns of a head down, heads across), so that
// eight heads fill a matrix.
#pragma once

#include "attention.cuh"
#include "early.cuh"

// Warps that read keys, and warps that put rows together.
constexpr int READERS = 4;
constexpr int MERGERS = 2;
constexpr int READER_THREADS = READERS * WARP;
constexpr int SPLIT_THREADS = READER_THREADS + MERGERS * WARP;
// How long they wait at a time for readers, so as not to take their turns.
constexpr unsigned MERGERS_NAP_NS = 50;
// Heads of a tile.
constexpr int SPLIT_HEADS = 8;
// Keys of a warp's step, and of a block's.
constexpr int WARP_KEYS = 16;
constexpr int STEP_KEYS = READERS * WARP_KEYS;

// Shared memory: `STEPS` steps of keys and values of each reading warp.
template <int DIM, int STEPS>
struct SplitShape {
    // A row is an odd number of 16 bytes long: eight rows of a matrix lie in different banks.
    static constexpr int STRIDE = DIM + 8;
    static constexpr int PLANE = WARP_KEYS * STRIDE;
    static constexpr int STEP = 2 * PLANE;
    static constexpr int WARP_ELEMENTS = STEPS * STEP;
    // Sums of a warp, in f32, in the place of a step that has been read.
    static constexpr int SUM_STRIDE = DIM + 4;
    static_assert(SPLIT_HEADS * SUM_STRIDE * 4 <= STEP * 2, "sums must fit into a step");
};

struct SplitMeeting {
    // Largest score and sum of weights of each reading warp and head.
    float2 scales[READERS][SPLIT_HEADS];
    // How many times a reading warp has written its share of a row's part.
    uint32_t written;
    // Whether the block's last part was the last one of its row.
    uint32_t is_last;
};

__device__ __forceinline__ void meet_readers() {
    asm volatile("bar.sync 1, %0;" : : "n"(READER_THREADS) : "memory");
}

// Tells that a warp has written its share of a part.
__device__ __forceinline__ void tell_written(uint32_t *written) {
    __syncwarp();
    if (threadIdx.x % WARP != 0) return;
    asm volatile("red.release.cta.shared.add.u32 [%0], 1;"
                 :
                 : "r"(shared_address(written))
                 : "memory");
}

// How many parts all reading warps have written their shares of, once there are more than `n_seen`.
__device__ __forceinline__ uint32_t wait_written(const uint32_t *written, uint32_t n_seen) {
    while (true) {
        uint32_t n;
        asm volatile("ld.acquire.cta.shared.u32 %0, [%1];"
                     : "=r"(n)
                     : "r"(shared_address(written))
                     : "memory");
        if (n / READERS > n_seen) return n / READERS;
        __nanosleep(MERGERS_NAP_NS);
    }
}

// The units that a block takes, each with its entry, which was asked for one unit before.
struct SplitUnits {
    const AttentionArgs &args;
    uint32_t unit, n_units, per_entry;
    uint4 raw, next_raw;

    // The list has a place for every block's first unit, whether it counts or not, so nothing waits
    // to hear how many count.
    __device__ __forceinline__ explicit SplitUnits(const AttentionArgs &args)
        : args(args), unit(blockIdx.x) {
        per_entry = args.n_kv_heads * split_tiles_of_row<SPLIT_HEADS>(args);
        raw = work_entry(args, unit / per_entry);
        n_units = n_entries(args) * per_entry;
        fetch();
    }

    __device__ __forceinline__ void fetch() {
        if (has_next()) next_raw = work_entry(args, (unit + gridDim.x) / per_entry);
    }

    __device__ __forceinline__ bool exists() const { return unit < n_units; }
    __device__ __forceinline__ bool has_next() const { return unit + gridDim.x < n_units; }

    __device__ __forceinline__ SplitTile tile() const {
        return split_tile<SPLIT_HEADS>(args, unit, raw);
    }

    __device__ __forceinline__ void advance() {
        unit += gridDim.x;
        raw = next_raw;
        fetch();
    }
};

// Brings keys and values of one warp, step by step, through all parts that the block will take.
template <typename T, int DIM, int STEPS, bool IN_VECTORS>
struct SplitCopies {
    using Shape = SplitShape<DIM, STEPS>;
    static constexpr int ROW_PARTS = DIM / 8;

    SplitUnits units;
    T *memory;
    uint32_t table_start, key, end;  // `key` is of this lane's row
    int64_t base;
    // Where the row is: what the table says is looked at only when the step begins.
    uint32_t block, place;

    __device__ __forceinline__ SplitCopies(const SplitUnits &units, T *memory)
        : units(units), memory(memory) {
        open();
    }

    // Begins this part, or the next one that has keys.
    __device__ __forceinline__ void open() {
        while (units.exists()) {
            const SplitTile tile = units.tile();
            if (tile.entry.first < tile.entry.end) {
                const uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
                table_start = tile.entry.table_start;
                base = tile.kv_head * units.args.head_stride;
                key = tile.entry.first + warp * WARP_KEYS + lane % WARP_KEYS;
                end = tile.entry.end;
                find();
                return;
            }
            units.advance();
        }
    }

    // Asks where this lane's row is. There is none if the table, or the pool, does not go that far:
    // whoever made them has a fault, but nobody reads what is not there.
    __device__ __forceinline__ void find() {
        const AttentionArgs &args = units.args;
        const uint32_t slot = key / args.block_size, at = table_start + slot;
        place = key - slot * args.block_size;
        block = args.n_blocks;
        if (key < end && at < args.n_table_blocks) {
            block = __ldg(reinterpret_cast<const uint32_t *>(args.tables) + at);
        }
    }

    // Starts the copies of the next step, and asks where those of the one after it are.
    __device__ __forceinline__ void start(int step) {
        if (units.exists()) {
            const AttentionArgs &args = units.args;
            const uint32_t lane = threadIdx.x % WARP;
            int64_t offset = NOWHERE;
            if (block < args.n_blocks) {
                offset = base + block * args.block_stride + place * args.token_stride;
            }
            T *keys = memory + step * Shape::STEP;
#pragma unroll
            for (int i = 0; i < WARP_KEYS * ROW_PARTS / WARP; i++) {
                const uint32_t item = lane + i * WARP;
                const uint32_t row = item / ROW_PARTS, column = item % ROW_PARTS * 8;
                const int64_t from = __shfl_sync(ALL_LANES, offset, row);
                T *to = keys + row * Shape::STRIDE + column;
                copy_part<IN_VECTORS>(to, reinterpret_cast<const T *>(args.keys), from, column,
                                      args);
                copy_part<IN_VECTORS>(to + Shape::PLANE, reinterpret_cast<const T *>(args.values),
                                      from, column, args);
            }
            // The first key of the block's next step is there for all warps or for none.
            const uint32_t first = key - threadIdx.x / WARP * WARP_KEYS - lane % WARP_KEYS;
            key += STEP_KEYS;
            if (first + STEP_KEYS < end) {
                find();
            } else {
                units.advance();
                open();
            }
        }
        commit_copies();
    }
};

// The queries of a tile as right operands: lane `4g + t` has head `g`.
template <typename T, int DIM, bool IN_VECTORS>
struct SplitQueries {
    uint32_t at[DIM / 16][2];

    __device__ __forceinline__ void fetch(const AttentionArgs &args, const SplitTile &tile) {
        const uint32_t lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
        const bool there = g < tile.n_heads;
        const T *head = reinterpret_cast<const T *>(args.q);
        if (there) {
            head += static_cast<size_t>(tile.entry.row) * args.q_stride +
                    (tile.first_head + g) * args.dim;
        }
#pragma unroll
        for (int k = 0; k < DIM / 16; k++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const uint32_t column = k * 16 + i * 8 + 2 * t;
                at[k][i] = two(head + column, there ? args.dim - min(column, args.dim) : 0);
            }
        }
    }

    // Two elements, of which `n` exist.
    __device__ __forceinline__ static uint32_t two(const T *from, uint32_t n) {
        if constexpr (IN_VECTORS) {
            return n > 0 ? *reinterpret_cast<const uint32_t *>(from) : 0;
        } else {
            const float first = n > 0 ? to_f32(from[0]) : 0.0f;
            return pack_two<T>(first, n > 1 ? to_f32(from[1]) : 0.0f);
        }
    }
};

// Softmax and sums of one warp. Lane `4g + t` has heads `2t` and `2t + 1`: in scores keys `g` and
// `g + 8`, in sums columns `g` and `g + 8` of each sixteen.
template <typename T, int DIM, int STEPS>
struct SplitState {
    using Shape = SplitShape<DIM, STEPS>;

    float sums[DIM / 16][4];
    float largest[2], weights[2];

    __device__ __forceinline__ void begin() {
#pragma unroll
        for (int n = 0; n < DIM / 16; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) sums[n][i] = 0.0f;
        }
        largest[0] = largest[1] = NO_SCORE;
        weights[0] = weights[1] = 0.0f;
    }

    // Takes in 16 keys and values, of which the first `n_keys` exist.
    __device__ __forceinline__ void step(const T *keys, const uint32_t (&queries)[DIM / 16][2],
                                         int n_keys, float scale) {
        const uint32_t lane = threadIdx.x % WARP, g = lane / 4;
        // Two chains, since a product waits for the one before it.
        float scores[4] = {}, others[4] = {};
        const uint32_t key_address =
            shared_address(keys + lane % 16 * Shape::STRIDE + lane / 16 * 8);
#pragma unroll
        for (int k = 0; k < DIM / 16; k++) {
            uint32_t left[4];
            load_matrices(left, key_address + k * 16 * sizeof(T));
            mma<T>(k % 2 == 0 ? scores : others, left, queries[k][0], queries[k][1]);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int key = g + i / 2 * 8;
            scores[i] = key < n_keys ? (scores[i] + others[i]) * scale : NO_SCORE;
        }
        soften(scores);
        const uint32_t first = transposed(pack_two<T>(scores[0], scores[1]));
        const uint32_t second = transposed(pack_two<T>(scores[2], scores[3]));
        const T *values = keys + Shape::PLANE;
        const uint32_t value_row = lane % 8 + lane / 16 * 8, value_column = lane / 8 % 2 * 8;
        const uint32_t value_address =
            shared_address(values + value_row * Shape::STRIDE + value_column);
#pragma unroll
        for (int n = 0; n < DIM / 16; n++) {
            uint32_t left[4];
            load_transposed(left, value_address + n * 16 * sizeof(T));
            mma<T>(sums[n], left, first, second);
        }
    }

    // Turns scores into weights relative to the largest score so far.
    __device__ __forceinline__ void soften(float (&scores)[4]) {
        float factors[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float top = fmaxf(scores[h], scores[h + 2]);
#pragma unroll
            for (int distance = 4; distance < WARP; distance *= 2) {
                top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, distance));
            }
            top = fmaxf(top, largest[h]);
            factors[h] = rescale(largest[h], top);
            largest[h] = top;
            const float base = top == NO_SCORE ? 0.0f : top;
            scores[h] = exp2_fast(scores[h] - base);
            scores[h + 2] = exp2_fast(scores[h + 2] - base);
            weights[h] = weights[h] * factors[h] + (scores[h] + scores[h + 2]);
        }
        // A factor of one changes no bit.
        if (!__any_sync(ALL_LANES, factors[0] != 1.0f || factors[1] != 1.0f)) return;
#pragma unroll
        for (int n = 0; n < DIM / 16; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) sums[n][i] *= factors[i % 2];
        }
    }

    // Leaves sums `[heads][SUM_STRIDE]` and scales for the others to see.
    __device__ __forceinline__ void leave(float *to, float2 (&scales)[SPLIT_HEADS]) {
        const uint32_t lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float weight = weights[h];
#pragma unroll
            for (int distance = 4; distance < WARP; distance *= 2) {
                weight += __shfl_xor_sync(ALL_LANES, weight, distance);
            }
            if (g == 0) scales[2 * t + h] = {largest[h], weight};
        }
#pragma unroll
        for (int n = 0; n < DIM / 16; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                to[(2 * t + i % 2) * Shape::SUM_STRIDE + n * 16 + i / 2 * 8 + g] = sums[n][i];
            }
        }
    }
};

// Adds up what the reading warps have left, in their order, and writes it: the result if the row
// has one part, otherwise the part. Sums of the warps are `WARP_ELEMENTS` of `T` apart.
template <typename T, typename Shape, int DIM>
__device__ __forceinline__ void write_part(const AttentionArgs &args, const SplitTile &tile,
                                           const T *left, const SplitMeeting &meeting) {
    const bool is_whole = tile.entry.n_splits == 1;
    const size_t first = static_cast<size_t>(tile.entry_idx) * args.n_heads + tile.first_head;
    for (uint32_t item = threadIdx.x; item < tile.n_heads * (DIM / 4); item += READER_THREADS) {
        const uint32_t head = item / (DIM / 4), column = item % (DIM / 4) * 4;
        float largest = NO_SCORE;
#pragma unroll
        for (int w = 0; w < READERS; w++) largest = fmaxf(largest, meeting.scales[w][head].x);
        float weights = 0.0f;
        float4 total = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
        for (int w = 0; w < READERS; w++) {
            const float2 scale = meeting.scales[w][head];
            const float *sums = reinterpret_cast<const float *>(left + w * Shape::WARP_ELEMENTS);
            const float4 sum =
                *reinterpret_cast<const float4 *>(sums + head * Shape::SUM_STRIDE + column);
            const float factor = rescale(scale.x, largest);
            weights += factor * scale.y;
            add_scaled(total, sum, factor);
        }
        if (is_whole) {
            const float4 result = scaled(total, inverse_of_sum(weights));
            store_result<T>(args, tile.entry.row, tile.first_head + head, column, result);
            continue;
        }
        float *to = reinterpret_cast<float *>(args.part_sums) + (first + head) * DIM + column;
        *reinterpret_cast<float4 *>(to) = total;
        if (column == 0) {
            reinterpret_cast<float2 *>(args.part_scales)[first + head] = {largest, weights};
        }
    }
}

// After the block's last part, by those that read: puts its row together if all of it is there.
template <typename T, int DIM>
__device__ __forceinline__ void finish_last(const AttentionArgs &args, const SplitTile &tile,
                                            SplitMeeting &meeting) {
    meet_readers();
    if (threadIdx.x == 0) meeting.is_last = comes_last<SPLIT_HEADS>(args, tile);
    meet_readers();
    if (meeting.is_last) put_together<T, DIM>(args, tile, threadIdx.x / WARP, READERS);
}

// What a reading warp does.
template <typename T, int DIM, int STEPS, bool IN_VECTORS>
__device__ __forceinline__ void read_parts(const AttentionArgs &args, T *shared,
                                           SplitMeeting &meeting) {
    using Shape = SplitShape<DIM, STEPS>;
    const uint32_t warp = threadIdx.x / WARP;
    T *memory = shared + warp * Shape::WARP_ELEMENTS;
    SplitUnits units(args);
    SplitCopies<T, DIM, STEPS, IN_VECTORS> copies(units, memory);
    // Lists and tables are there before any kernel of a step begins; keys and queries are not.
    wait_for_predecessor();
#pragma unroll
    for (int step = 0; step < STEPS - 1; step++) copies.start(step);
    SplitQueries<T, DIM, IN_VECTORS> queries, next_queries;
    if (units.exists()) next_queries.fetch(args, units.tile());
    SplitState<T, DIM, STEPS> state;
    int step = 0;
    while (units.exists()) {
        const SplitTile tile = units.tile();
        queries = next_queries;
        units.advance();
        if (units.exists()) next_queries.fetch(args, units.tile());
        state.begin();
        for (uint32_t first = tile.entry.first; first < tile.entry.end; first += STEP_KEYS) {
            wait_copies<STEPS - 2>();
            __syncwarp();
            // The step before this one has been read by the whole warp.
            copies.start(step == 0 ? STEPS - 1 : step - 1);
            const int n_keys = static_cast<int>(tile.entry.end - first - warp * WARP_KEYS);
            state.step(memory + step * Shape::STEP, queries.at, n_keys, args.scale);
            step = step + 1 == STEPS ? 0 : step + 1;
        }
        __syncwarp();
        const int free_step = (step == 0 ? STEPS - 1 : step - 1) * Shape::STEP;
        state.leave(reinterpret_cast<float *>(memory + free_step), meeting.scales[warp]);
        meet_readers();
        write_part<T, Shape, DIM>(args, tile, shared + free_step, meeting);
        if (units.exists()) {
            tell_written(&meeting.written);
        } else if (tile.entry.n_splits > 1) {
            finish_last<T, DIM>(args, tile, meeting);
        }
        // Nobody brings a step to where others still read sums.
        meet_readers();
    }
    wait_copies<0>();
}

// What the other warps do, each for every so manieth of the block's parts but the last: they tell
// that these have been written, as many at once as have been since the last time, and put together
// the rows of which that was the last part.
template <typename T, int DIM>
__device__ __forceinline__ void merge_parts(const AttentionArgs &args,
                                            const SplitMeeting &meeting) {
    wait_for_predecessor();
    const uint32_t warp = threadIdx.x / WARP - READERS, lane = threadIdx.x % WARP;
    const uint32_t per_entry = args.n_kv_heads * split_tiles_of_row<SPLIT_HEADS>(args);
    const uint32_t n_units = n_entries(args) * per_entry;
    const uint32_t n_parts = blockIdx.x < n_units ? (n_units - 1 - blockIdx.x) / gridDim.x : 0;
    for (uint32_t part = warp; part < n_parts;) {
        const uint32_t n_written =
            __shfl_sync(ALL_LANES, wait_written(&meeting.written, part), 0);
        __syncwarp();
        const uint32_t own = part + lane * MERGERS;
        const uint32_t unit = blockIdx.x + own * gridDim.x;
        uint4 raw = {0, 0, 0, 0};
        bool is_last = false;
        if (own < min(n_written, n_parts)) {
            raw = work_entry(args, unit / per_entry);
            const SplitTile tile = split_tile<SPLIT_HEADS>(args, unit, raw);
            if (tile.entry.n_splits > 1) is_last = comes_last<SPLIT_HEADS>(args, tile);
        }
        __syncwarp();
        for (uint32_t last = __ballot_sync(ALL_LANES, is_last); last != 0; last &= last - 1) {
            const int at = __ffs(last) - 1;
            const uint4 its_raw = {
                __shfl_sync(ALL_LANES, raw.x, at), __shfl_sync(ALL_LANES, raw.y, at),
                __shfl_sync(ALL_LANES, raw.z, at), __shfl_sync(ALL_LANES, raw.w, at)};
            const uint32_t its_unit = __shfl_sync(ALL_LANES, unit, at);
            put_together<T, DIM>(args, split_tile<SPLIT_HEADS>(args, its_unit, its_raw), 0, 1);
        }
        const uint32_t n_now = (min(n_written, n_parts) - part + MERGERS - 1) / MERGERS;
        part += min(n_now, static_cast<uint32_t>(WARP)) * MERGERS;
    }
}

template <typename T, int DIM, int STEPS>
__device__ __forceinline__ void attend_split(const AttentionArgs &args) {
    extern __shared__ __align__(128) unsigned char shared[];
    __shared__ SplitMeeting meeting;
    // A product that follows brings its weights meanwhile.
    let_successor_start();
    if (threadIdx.x == 0) meeting.written = 0;
    __syncthreads();
    T *memory = reinterpret_cast<T *>(shared);
    if (threadIdx.x >= READER_THREADS) {
        merge_parts<T, DIM>(args, meeting);
    } else if (args.in_vectors) {
        read_parts<T, DIM, STEPS, true>(args, memory, meeting);
    } else {
        read_parts<T, DIM, STEPS, false>(args, memory, meeting);
    }
}

// Defines `attention_split_<type>_<dim>`. `blocks` are those that a multiprocessor should hold.
#define ATTENTION_SPLIT(type, dim, steps, blocks)                                       \
    extern "C" __global__ void __launch_bounds__(SPLIT_THREADS, blocks)                 \
        attention_split_##type##_##dim(const __grid_constant__ AttentionArgs args) {    \
        attend_split<type, dim, steps>(args);                                           \
    }
