// Attention in f32 throughout, without tensor cores: both single rows with cut keys and tiles of
// many rows. For exactness, not for speed.
#include "common/attention.cuh"

namespace {

// A block is 16 × 16 threads: thread (y, x) has pairs y, y + 16, …; keys and columns x, x + 16, ….
constexpr int SIDE = 16;
constexpr int THREADS = SIDE * SIDE;
constexpr int KEYS = 32;

// Pairs of a thread and columns of a head.
template <int PAIRS_, int DIM_>
struct Shape {
    static constexpr int PAIRS = PAIRS_, DIM = DIM_;
    static constexpr int TILE = PAIRS * SIDE;
    // Sixteen bytes more, so that eight rows lie in different banks.
    static constexpr int STRIDE = DIM + 4;
    static constexpr int WEIGHT_STRIDE = KEYS + 1;
    static constexpr int ROW_PARTS = DIM / 4;
    static constexpr int COLUMNS = DIM / SIDE;
};

template <typename S>
struct Memory {
    float *queries, *keys, *values, *weights;

    __device__ explicit Memory(float *shared)
        : queries(shared),
          keys(queries + S::TILE * S::STRIDE),
          values(keys + KEYS * S::STRIDE),
          weights(values + KEYS * S::STRIDE) {}
};

// Row and head of a pair, and how many keys it sees.
struct PairPlace {
    uint32_t row, head, n_keys;
    bool exists;

    // Where its query is, in elements.
    __device__ int64_t query(const AttentionArgs &args) const {
        if (!exists) return NOWHERE;
        return static_cast<int64_t>(row) * args.q_stride + head * args.dim;
    }
};

template <typename S>
__device__ void start_rows(float *to, const float *from, const KeyPlaces &places, uint32_t first,
                           uint32_t end, const AttentionArgs &args) {
    for (uint32_t item = threadIdx.x; item < KEYS * S::ROW_PARTS; item += THREADS) {
        const uint32_t key = item / S::ROW_PARTS, column = item % S::ROW_PARTS * 4;
        const int64_t offset = first + key < end ? places.of(args, first + key) : NOWHERE;
        copy_part(to + key * S::STRIDE + column, from, offset, column, args);
    }
    commit_copies();
}

// Softmax and sums of a thread's pairs.
template <typename S>
struct State {
    float sums[S::PAIRS][S::COLUMNS];
    float largest[S::PAIRS], weights[S::PAIRS];
    uint32_t n_keys[S::PAIRS];

    __device__ void begin() {
#pragma unroll
        for (int p = 0; p < S::PAIRS; p++) {
            largest[p] = NO_SCORE;
            weights[p] = 0.0f;
#pragma unroll
            for (int c = 0; c < S::COLUMNS; c++) sums[p][c] = 0.0f;
        }
    }

    __device__ void score(float (&scores)[S::PAIRS][KEYS / SIDE], const Memory<S> &memory) {
        const uint32_t x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
#pragma unroll 2
        for (int column = 0; column < S::DIM; column += 4) {
            float4 keys[KEYS / SIDE];
#pragma unroll
            for (int k = 0; k < KEYS / SIDE; k++) {
                keys[k] = *reinterpret_cast<const float4 *>(
                    memory.keys + (x + k * SIDE) * S::STRIDE + column);
            }
#pragma unroll
            for (int p = 0; p < S::PAIRS; p++) {
                const float4 query = *reinterpret_cast<const float4 *>(
                    memory.queries + (y + p * SIDE) * S::STRIDE + column);
#pragma unroll
                for (int k = 0; k < KEYS / SIDE; k++) {
                    float sum = scores[p][k];
                    sum = fmaf(query.x, keys[k].x, sum);
                    sum = fmaf(query.y, keys[k].y, sum);
                    sum = fmaf(query.z, keys[k].z, sum);
                    scores[p][k] = fmaf(query.w, keys[k].w, sum);
                }
            }
        }
    }

    // Turns scores of keys `first..` into weights relative to the largest score so far.
    __device__ void soften(float (&scores)[S::PAIRS][KEYS / SIDE], const Memory<S> &memory,
                           uint32_t first, float scale) {
        const uint32_t x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
#pragma unroll
        for (int p = 0; p < S::PAIRS; p++) {
            float top = largest[p];
#pragma unroll
            for (int k = 0; k < KEYS / SIDE; k++) {
                const bool seen = first + x + k * SIDE < n_keys[p];
                scores[p][k] = seen ? scores[p][k] * scale : NO_SCORE;
                top = fmaxf(top, scores[p][k]);
            }
#pragma unroll
            for (int distance = SIDE / 2; distance > 0; distance /= 2) {
                top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, distance));
            }
            const float factor = largest[p] == NO_SCORE ? 0.0f : exp2f(largest[p] - top);
            const float base = top == NO_SCORE ? 0.0f : top;
            largest[p] = top;
            weights[p] *= factor;
#pragma unroll
            for (int c = 0; c < S::COLUMNS; c++) sums[p][c] *= factor;
#pragma unroll
            for (int k = 0; k < KEYS / SIDE; k++) {
                const float weight = exp2f(scores[p][k] - base);
                weights[p] += weight;
                memory.weights[(y + p * SIDE) * S::WEIGHT_STRIDE + x + k * SIDE] = weight;
            }
        }
    }

    __device__ void add_values(const Memory<S> &memory) {
        const uint32_t x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
#pragma unroll 4
        for (int key = 0; key < KEYS; key++) {
            float values[S::COLUMNS];
#pragma unroll
            for (int c = 0; c < S::COLUMNS; c++) {
                values[c] = memory.values[key * S::STRIDE + x + c * SIDE];
            }
#pragma unroll
            for (int p = 0; p < S::PAIRS; p++) {
                const float weight = memory.weights[(y + p * SIDE) * S::WEIGHT_STRIDE + key];
#pragma unroll
                for (int c = 0; c < S::COLUMNS; c++) {
                    sums[p][c] = fmaf(weight, values[c], sums[p][c]);
                }
            }
        }
    }

    // Sums of weights over the sixteen threads of each pair.
    __device__ void end() {
#pragma unroll
        for (int p = 0; p < S::PAIRS; p++) {
#pragma unroll
            for (int distance = SIDE / 2; distance > 0; distance /= 2) {
                weights[p] += __shfl_xor_sync(ALL_LANES, weights[p], distance);
            }
        }
    }
};

// Brings the queries, then walks through keys `first..end`.
template <typename S>
__device__ void walk(const AttentionArgs &args, const Memory<S> &memory, State<S> &state,
                     const KeyPlaces &places, uint32_t first, uint32_t end) {
    const float *keys = reinterpret_cast<const float *>(args.keys);
    const float *values = reinterpret_cast<const float *>(args.values);
    for (; first < end; first += KEYS) {
        start_rows<S>(memory.keys, keys, places, first, end, args);
        start_rows<S>(memory.values, values, places, first, end, args);
        wait_copies<1>();
        __syncthreads();
        float scores[S::PAIRS][KEYS / SIDE] = {};
        state.score(scores, memory);
        state.soften(scores, memory, first, args.scale);
        wait_copies<0>();
        __syncthreads();
        state.add_values(memory);
        __syncthreads();
    }
    state.end();
}

template <typename S, typename Place>
__device__ void start_queries(const AttentionArgs &args, const Memory<S> &memory, Place place) {
    for (uint32_t item = threadIdx.x; item < S::TILE * S::ROW_PARTS; item += THREADS) {
        const uint32_t pair = item / S::ROW_PARTS, column = item % S::ROW_PARTS * 4;
        copy_part(memory.queries + pair * S::STRIDE + column,
                  reinterpret_cast<const float *>(args.q), place(pair).query(args), column, args);
    }
    commit_copies();
}

template <int DIM>
__device__ void attend_tile(const AttentionArgs &args, float *shared) {
    using S = Shape<4, DIM>;
    __shared__ uint32_t most_keys[THREADS / WARP];
    const Memory<S> memory(shared);
    const uint32_t x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
    for (uint32_t unit = blockIdx.x;; unit += gridDim.x) {
        const TilePairs tile = find_tile<S::TILE>(args, unit / args.n_kv_heads);
        if (!tile.exists) break;
        const uint32_t kv_head = unit % args.n_kv_heads;
        const auto place = [&](uint32_t idx) {
            const uint32_t pair = tile.first_pair + idx, row = pair / args.group;
            PairPlace place = {tile.first_row + row, kv_head * args.group + pair % args.group, 0,
                               pair < tile.n_pairs};
            if (place.exists) {
                place.n_keys = n_keys_of_row(args, place.row, tile.n_rows);
            }
            return place;
        };
        State<S> state;
        state.begin();
        uint32_t end = 0;
#pragma unroll
        for (int p = 0; p < S::PAIRS; p++) {
            state.n_keys[p] = place(y + p * SIDE).n_keys;
            end = max(end, state.n_keys[p]);
        }
        end = __reduce_max_sync(ALL_LANES, end);
        if (threadIdx.x % WARP == 0) most_keys[threadIdx.x / WARP] = end;
        start_queries(args, memory, place);
        __syncthreads();
#pragma unroll
        for (int w = 0; w < THREADS / WARP; w++) end = max(end, most_keys[w]);
        walk(args, memory, state, KeyPlaces(args, tile.table_start, tile.first_row, kv_head), 0, end);
#pragma unroll
        for (int p = 0; p < S::PAIRS; p++) {
            const PairPlace to = place(y + p * SIDE);
            const float inverse = inverse_of_sum(state.weights[p]);
            float *out = reinterpret_cast<float *>(args.out) +
                         static_cast<size_t>(to.row) * args.out_stride + to.head * args.dim;
#pragma unroll
            for (int c = 0; c < S::COLUMNS; c++) {
                const uint32_t column = x + c * SIDE;
                if (to.exists && column < args.dim) out[column] = state.sums[p][c] * inverse;
            }
        }
        wait_copies<0>();
        __syncthreads();
    }
}

// Heads of a row's tile.
constexpr int HEADS = SIDE;

// Writes a tile that is in shared memory as sums `[HEADS][stride]` relative to `largest` with sums
// of weights `weights`: the result if there is one part, otherwise the part, and the result if it
// was the last one. All threads call; nobody may touch the sums before the next barrier.
template <int DIM>
__device__ void finish_split(const AttentionArgs &args, const SplitTile &tile, const float *sums,
                             int stride, const float *largest, const float *weights,
                             uint32_t &is_last) {
    const bool is_whole = tile.entry.n_splits == 1;
    const size_t first = static_cast<size_t>(tile.entry_idx) * args.n_heads + tile.first_head;
    for (uint32_t item = threadIdx.x; item < tile.n_heads * (DIM / 4); item += THREADS) {
        const uint32_t head = item / (DIM / 4), column = item % (DIM / 4) * 4;
        const float4 sum = *reinterpret_cast<const float4 *>(sums + head * stride + column);
        if (is_whole) {
            const float4 result = scaled(sum, inverse_of_sum(weights[head]));
            store_result<float>(args, tile.entry.row, tile.first_head + head, column, result);
            continue;
        }
        float *to = reinterpret_cast<float *>(args.part_sums) + (first + head) * DIM + column;
        *reinterpret_cast<float4 *>(to) = sum;
        if (column == 0) {
            reinterpret_cast<float2 *>(args.part_scales)[first + head] = {largest[head],
                                                                          weights[head]};
        }
    }
    if (is_whole) return;
    __syncthreads();
    if (threadIdx.x == 0) is_last = comes_last<HEADS>(args, tile);
    __syncthreads();
    if (is_last) put_together<float, DIM>(args, tile, threadIdx.x / WARP, THREADS / WARP);
}

template <int DIM>
__device__ void attend_split(const AttentionArgs &args, float *shared) {
    using S = Shape<1, DIM>;
    __shared__ float largest[HEADS], weights[HEADS];
    __shared__ uint32_t is_last;
    const Memory<S> memory(shared);
    const uint32_t x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
    const uint32_t per_entry = args.n_kv_heads * split_tiles_of_row<HEADS>(args);
    const uint32_t n_units = n_entries(args) * per_entry;
    for (uint32_t unit = blockIdx.x; unit < n_units; unit += gridDim.x) {
        const SplitTile tile = split_tile<HEADS>(args, unit, work_entry(args, unit / per_entry));
        const auto place = [&](uint32_t head) {
            return PairPlace{tile.entry.row, tile.first_head + head, 0, head < tile.n_heads};
        };
        State<S> state;
        state.begin();
        state.n_keys[0] = tile.entry.end;
        start_queries(args, memory, place);
        walk(args, memory, state, KeyPlaces(args, tile.entry.table_start, 0, tile.kv_head),
             tile.entry.first, tile.entry.end);
        // The sums take the place of the queries, which nobody reads any more.
        wait_copies<0>();
        __syncthreads();
#pragma unroll
        for (int c = 0; c < S::COLUMNS; c++) {
            memory.queries[y * S::STRIDE + x + c * SIDE] = state.sums[0][c];
        }
        if (x == 0) {
            largest[y] = state.largest[0];
            weights[y] = state.weights[0];
        }
        __syncthreads();
        finish_split<DIM>(args, tile, memory.queries, S::STRIDE, largest, weights, is_last);
        __syncthreads();
    }
}

}  // namespace

#define ATTENTION_F32(dim)                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                          \
        attention_tile_f32_##dim(const __grid_constant__ AttentionArgs args) {     \
        extern __shared__ __align__(128) float shared[];                           \
        attend_tile<dim>(args, shared);                                            \
    }                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                          \
        attention_split_f32_##dim(const __grid_constant__ AttentionArgs args) {    \
        extern __shared__ __align__(128) float shared[];                           \
        attend_split<dim>(args, shared);                                           \
    }

ATTENTION_F32(32)
ATTENTION_F32(64)
ATTENTION_F32(80)
ATTENTION_F32(96)
ATTENTION_F32(128)
ATTENTION_F32(256)
