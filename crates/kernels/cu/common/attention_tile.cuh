// Attention of many rows with their whole range of keys (prefill, towers), on tensor cores. A block
// takes a tile of pairs; each warp has 16 or 32 of them, and all walk through the keys together,
// one tile of keys being computed with while the next one arrives.
#pragma once

#include "attention.cuh"

// Warps, pairs of a warp in sixteens, keys of a tile; whether queries stay in registers.
template <int DIM_, int WARPS_, int SIXTEENS_, int KEYS_, bool KEEPS_QUERIES_>
struct TileShape {
    static constexpr int DIM = DIM_, WARPS = WARPS_, SIXTEENS = SIXTEENS_, KEYS = KEYS_;
    static constexpr bool KEEPS_QUERIES = KEEPS_QUERIES_;
    static constexpr int THREADS = WARPS * WARP;
    static constexpr int WARP_PAIRS = SIXTEENS * 16;
    static constexpr int PAIRS = WARPS * WARP_PAIRS;
    // A row is an odd number of 16 bytes long: eight rows of a matrix lie in different banks.
    static constexpr int STRIDE = DIM + 8;
    static constexpr int PLANE = KEYS * STRIDE;
    static constexpr int ROW_PARTS = DIM / 8;
};

constexpr uint32_t NO_ROW = 0xffffffffu;

// What all threads of a block must know of a tile.
template <typename Shape>
struct TilePlaces {
    // Row and head of each pair; NO_ROW behind the last one.
    uint2 of_pair[Shape::PAIRS];
    uint32_t n_keys[Shape::PAIRS];
    // Offsets of the keys of two tiles.
    int64_t of_key[2][Shape::KEYS];
    uint32_t most_keys[Shape::WARPS];
};

template <typename T, typename Shape>
struct TileBlock {
    const AttentionArgs &args;
    TilePlaces<Shape> &places;
    T *queries;  // [PAIRS][STRIDE], in the end results
    T *memory;   // [2][keys, values][KEYS][STRIDE]
    KeyPlaces keys;
    uint32_t n_keys, n_tiles;

    // Finds the pairs of a tile and how many keys they see.
    __device__ __forceinline__ void find_pairs(const TilePairs &tile, uint32_t kv_head) {
        static_assert(Shape::PAIRS <= Shape::THREADS, "a thread a pair");
        uint32_t count = 0;
        if (threadIdx.x < Shape::PAIRS) {
            const uint32_t pair = tile.first_pair + threadIdx.x;
            uint2 place = {NO_ROW, 0};
            if (pair < tile.n_pairs) {
                const uint32_t row = pair / args.group;
                place = {tile.first_row + row, kv_head * args.group + pair - row * args.group};
                count = n_keys_of_row(args, place.x, tile.n_rows);
            }
            places.of_pair[threadIdx.x] = place;
            places.n_keys[threadIdx.x] = count;
        }
        count = __reduce_max_sync(ALL_LANES, count);
        if (threadIdx.x % WARP == 0) places.most_keys[threadIdx.x / WARP] = count;
    }

    __device__ __forceinline__ void count_keys() {
        n_keys = 0;
#pragma unroll
        for (int w = 0; w < Shape::WARPS; w++) n_keys = max(n_keys, places.most_keys[w]);
        n_tiles = (n_keys + Shape::KEYS - 1) / Shape::KEYS;
    }

    __device__ __forceinline__ void find_keys(uint32_t tile) {
        if (threadIdx.x >= Shape::KEYS) return;
        const uint32_t key = tile * Shape::KEYS + threadIdx.x;
        places.of_key[tile % 2][threadIdx.x] = key < n_keys ? keys.of(args, key) : NOWHERE;
    }

    __device__ __forceinline__ void start_queries() {
#pragma unroll 4
        for (int i = 0; i < Shape::PAIRS * Shape::ROW_PARTS / Shape::THREADS; i++) {
            const uint32_t item = threadIdx.x + i * Shape::THREADS;
            const uint32_t pair = item / Shape::ROW_PARTS, column = item % Shape::ROW_PARTS * 8;
            const uint2 place = places.of_pair[pair];
            const int64_t from = static_cast<int64_t>(place.x) * args.q_stride + place.y * args.dim;
            copy_part(queries + pair * Shape::STRIDE + column, reinterpret_cast<const T *>(args.q),
                      place.x == NO_ROW ? NOWHERE : from, column, args);
        }
    }

    __device__ __forceinline__ void start_keys(uint32_t tile) {
        constexpr int N = Shape::KEYS * Shape::ROW_PARTS;
        T *to = memory + tile % 2 * 2 * Shape::PLANE;
#pragma unroll
        for (int i = 0; i < (N + Shape::THREADS - 1) / Shape::THREADS; i++) {
            const uint32_t item = threadIdx.x + i * Shape::THREADS;
            if (N % Shape::THREADS != 0 && item >= N) break;
            const uint32_t key = item / Shape::ROW_PARTS, column = item % Shape::ROW_PARTS * 8;
            const int64_t from = places.of_key[tile % 2][key];
            T *part = to + key * Shape::STRIDE + column;
            copy_part(part, reinterpret_cast<const T *>(args.keys), from, column, args);
            copy_part(part + Shape::PLANE, reinterpret_cast<const T *>(args.values), from, column,
                      args);
        }
        commit_copies();
    }
};

// The pairs of one warp. Lane `4g + t` has rows `g` and `g + 8` of each sixteen.
template <typename T, typename Shape>
struct TileWarp {
    static constexpr int DIM = Shape::DIM, SIXTEENS = Shape::SIXTEENS, KEYS = Shape::KEYS;

    uint32_t kept[Shape::KEEPS_QUERIES ? DIM / 16 : 1][SIXTEENS][4];
    float sums[SIXTEENS][DIM / 8][4];
    float largest[SIXTEENS][2];  // scores as they come, not scaled
    float weights[SIXTEENS][2];  // of this lane's columns
    uint32_t n_keys[SIXTEENS][2];
    uint32_t fewest_keys, most_keys;  // of the warp's pairs
    uint32_t query_address;

    __device__ __forceinline__ void begin(const TilePlaces<Shape> &places, const T *queries) {
        const uint32_t lane = threadIdx.x % WARP;
        const uint32_t first = threadIdx.x / WARP * Shape::WARP_PAIRS;
        fewest_keys = 0xffffffffu;
        most_keys = 0;
#pragma unroll
        for (int s = 0; s < SIXTEENS; s++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const uint32_t pair = first + s * 16 + half * 8 + lane / 4;
                n_keys[s][half] = places.n_keys[pair];
                // Pairs that do not exist want no mask.
                if (places.of_pair[pair].x != NO_ROW) {
                    fewest_keys = min(fewest_keys, n_keys[s][half]);
                }
                most_keys = max(most_keys, n_keys[s][half]);
                largest[s][half] = NO_SCORE;
                weights[s][half] = 0.0f;
            }
#pragma unroll
            for (int n = 0; n < DIM / 8; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) sums[s][n][i] = 0.0f;
            }
        }
        fewest_keys = __reduce_min_sync(ALL_LANES, fewest_keys);
        most_keys = __reduce_max_sync(ALL_LANES, most_keys);
        query_address =
            shared_address(queries + (first + lane % 16) * Shape::STRIDE + lane / 16 * 8);
    }

    __device__ __forceinline__ void load_queries(uint32_t (&left)[SIXTEENS][4], int k) const {
#pragma unroll
        for (int s = 0; s < SIXTEENS; s++) {
            load_matrices(left[s], query_address + (s * 16 * Shape::STRIDE + k * 16) * sizeof(T));
        }
    }

    // Once the queries have arrived.
    __device__ __forceinline__ void keep_queries() {
        if constexpr (Shape::KEEPS_QUERIES) {
#pragma unroll
            for (int k = 0; k < DIM / 16; k++) load_queries(kept[k], k);
        }
    }

    __device__ __forceinline__ void score(float (&scores)[SIXTEENS][KEYS / 8][4],
                                          uint32_t address, int k,
                                          const uint32_t (&left)[SIXTEENS][4]) {
#pragma unroll
        for (int n = 0; n < KEYS / 16; n++) {
            uint32_t right[4];
            load_matrices(right, address + (n * 16 * Shape::STRIDE + k * 16) * sizeof(T));
#pragma unroll
            for (int s = 0; s < SIXTEENS; s++) {
                mma<T>(scores[s][2 * n], left[s], right[0], right[1]);
                mma<T>(scores[s][2 * n + 1], left[s], right[2], right[3]);
            }
        }
    }

    // Takes in a tile of keys and values, the first of which is `first`.
    __device__ __forceinline__ void step(const T *keys, uint32_t first, float scale) {
        const uint32_t lane = threadIdx.x % WARP;
        float scores[SIXTEENS][KEYS / 8][4] = {};
        const uint32_t key_row = lane % 8 + lane / 16 * 8, key_column = lane / 8 % 2 * 8;
        const uint32_t key_address = shared_address(keys + key_row * Shape::STRIDE + key_column);
#pragma unroll
        for (int k = 0; k < DIM / 16; k++) {
            if constexpr (Shape::KEEPS_QUERIES) {
                score(scores, key_address, k, kept[k]);
            } else {
                uint32_t left[SIXTEENS][4];
                load_queries(left, k);
                score(scores, key_address, k, left);
            }
        }
        if (first + KEYS > fewest_keys) mask(scores, first);
        soften(scores, scale);
        add_values(scores, keys + Shape::PLANE);
    }

    __device__ __forceinline__ void mask(float (&scores)[SIXTEENS][KEYS / 8][4], uint32_t first) {
        const uint32_t t = threadIdx.x % 4;
#pragma unroll
        for (int s = 0; s < SIXTEENS; s++) {
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const uint32_t key = first + n * 8 + 2 * t + i % 2;
                    if (key >= n_keys[s][i / 2]) scores[s][n][i] = NO_SCORE;
                }
            }
        }
    }

    // Turns scores into weights relative to the largest score so far.
    __device__ __forceinline__ void soften(float (&scores)[SIXTEENS][KEYS / 8][4], float scale) {
        float factors[SIXTEENS][2];
        bool changes = false;
#pragma unroll
        for (int s = 0; s < SIXTEENS; s++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float top = largest[s][half];
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++) {
                    top = fmaxf(top, fmaxf(scores[s][n][2 * half], scores[s][n][2 * half + 1]));
                }
                top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 1));
                top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 2));
                factors[s][half] = rescale(largest[s][half] * scale, top * scale);
                changes |= factors[s][half] != 1.0f;
                largest[s][half] = top;
                const float base = top == NO_SCORE ? 0.0f : top * scale;
                float weight = weights[s][half] * factors[s][half];
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
                    for (int i = 2 * half; i < 2 * half + 2; i++) {
                        scores[s][n][i] = exp2_fast(fmaf(scores[s][n][i], scale, -base));
                        weight += scores[s][n][i];
                    }
                }
                weights[s][half] = weight;
            }
        }
        // A factor of one changes no bit.
        if (!__any_sync(ALL_LANES, changes)) return;
#pragma unroll
        for (int s = 0; s < SIXTEENS; s++) {
#pragma unroll
            for (int n = 0; n < DIM / 8; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) sums[s][n][i] *= factors[s][i / 2];
            }
        }
    }

    __device__ __forceinline__ void add_values(const float (&scores)[SIXTEENS][KEYS / 8][4],
                                               const T *values) {
        const uint32_t lane = threadIdx.x % WARP;
        const uint32_t address =
            shared_address(values + lane % 16 * Shape::STRIDE + lane / 16 * 8);
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++) {
            uint32_t left[SIXTEENS][4];
#pragma unroll
            for (int s = 0; s < SIXTEENS; s++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float(&two)[4] = scores[s][2 * k + i / 2];
                    left[s][i] = pack_two<T>(two[i % 2 * 2], two[i % 2 * 2 + 1]);
                }
            }
#pragma unroll
            for (int n = 0; n < DIM / 16; n++) {
                uint32_t right[4];
                load_transposed(right, address + (k * 16 * Shape::STRIDE + n * 16) * sizeof(T));
#pragma unroll
                for (int s = 0; s < SIXTEENS; s++) {
                    mma<T>(sums[s][2 * n], left[s], right[0], right[1]);
                    mma<T>(sums[s][2 * n + 1], left[s], right[2], right[3]);
                }
            }
        }
    }

    // Writes the result over the warp's own queries, and from there in long pieces.
    __device__ __forceinline__ void end(const AttentionArgs &args, const TilePlaces<Shape> &places,
                                        T *queries) {
        const uint32_t lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
        const uint32_t first = threadIdx.x / WARP * Shape::WARP_PAIRS;
        __syncwarp();
#pragma unroll
        for (int s = 0; s < SIXTEENS; s++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float weight = weights[s][half];
                weight += __shfl_xor_sync(ALL_LANES, weight, 1);
                weight += __shfl_xor_sync(ALL_LANES, weight, 2);
                const float inverse = inverse_of_sum(weight);
                T *row = queries + (first + s * 16 + half * 8 + g) * Shape::STRIDE + 2 * t;
#pragma unroll
                for (int n = 0; n < DIM / 8; n++) {
                    const float *two = sums[s][n] + 2 * half;
                    *reinterpret_cast<uint32_t *>(row + n * 8) =
                        pack_two<T>(two[0] * inverse, two[1] * inverse);
                }
            }
        }
        __syncwarp();
        for (uint32_t item = lane; item < Shape::WARP_PAIRS * Shape::ROW_PARTS; item += WARP) {
            const uint32_t pair = first + item / Shape::ROW_PARTS;
            const uint32_t column = item % Shape::ROW_PARTS * 8;
            const uint2 place = places.of_pair[pair];
            if (place.x == NO_ROW || column >= args.dim) continue;
            put(args, place, column, queries + pair * Shape::STRIDE + column);
        }
    }

    __device__ __forceinline__ void put(const AttentionArgs &args, const uint2 &place,
                                        uint32_t column, const T *from) {
        T *to = reinterpret_cast<T *>(args.out) + static_cast<size_t>(place.x) * args.out_stride +
                place.y * args.dim + column;
        if (args.in_vectors) {
            *reinterpret_cast<uint4 *>(to) = *reinterpret_cast<const uint4 *>(from);
            return;
        }
#pragma unroll 1
        for (uint32_t i = 0; i < 8 && column + i < args.dim; i++) to[i] = from[i];
    }
};

template <typename T, typename Shape>
__device__ __forceinline__ void attend_tile(const AttentionArgs &args) {
    extern __shared__ __align__(128) unsigned char shared[];
    __shared__ TilePlaces<Shape> places;
    T *queries = reinterpret_cast<T *>(shared);
    TileBlock<T, Shape> block{args, places, queries, queries + Shape::PAIRS * Shape::STRIDE};
    for (uint32_t unit = blockIdx.x;; unit += gridDim.x) {
        const TilePairs tile = find_tile<Shape::PAIRS>(args, unit / args.n_kv_heads);
        if (!tile.exists) break;
        const uint32_t kv_head = unit % args.n_kv_heads;
        block.keys = KeyPlaces(args, tile.table_start, tile.first_row, kv_head);
        block.find_pairs(tile, kv_head);
        __syncthreads();
        block.count_keys();
        block.find_keys(0);
        block.find_keys(1);
        __syncthreads();
        TileWarp<T, Shape> warp;
        block.start_queries();
        block.start_keys(0);
        warp.begin(places, queries);
        wait_copies<0>();
        __syncthreads();
        warp.keep_queries();
        for (uint32_t idx = 0; idx < block.n_tiles; idx++) {
            if (idx > 0) {
                wait_copies<0>();
                __syncthreads();
            }
            // All have read the tile before this one, and started all copies of this one.
            if (idx + 1 < block.n_tiles) block.start_keys(idx + 1);
            if (idx + 2 < block.n_tiles) block.find_keys(idx + 2);
            const uint32_t first = idx * Shape::KEYS;
            // What none of the warp's pairs sees would change no bit.
            if (first < warp.most_keys) {
                warp.step(block.memory + idx % 2 * 2 * Shape::PLANE, first, args.scale);
            }
        }
        warp.end(args, places, queries);
        __syncthreads();
    }
}

// Defines `attention_tile_<type>_<dim>`. `blocks` are those that a multiprocessor should hold.
#define ATTENTION_TILE(type, dim, warps, sixteens, keys, keeps_queries, blocks)        \
    extern "C" __global__ void __launch_bounds__(warps *WARP, blocks)                  \
        attention_tile_##type##_##dim(const __grid_constant__ AttentionArgs args) {    \
        attend_tile<type, TileShape<dim, warps, sixteens, keys, keeps_queries>>(args); \
    }
