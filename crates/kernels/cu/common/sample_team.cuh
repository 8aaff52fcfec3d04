// The sampler's types, and the team that works on a row. Contract: ../sample.cu.
#pragma once

#include <cstdint>

#include "reduce.cuh"

namespace {

constexpr int THREADS = 512;
constexpr int WARPS = THREADS / WARP;
constexpr int BLOCKS_PER_ROW = 8;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int TEAM = 1;
#define IN_CLUSTERS
#else
constexpr int TEAM = BLOCKS_PER_ROW;
#define IN_CLUSTERS __cluster_dims__(BLOCKS_PER_ROW, 1, 1)
#endif
// A thread a bin.
constexpr int BINS = THREADS;
constexpr int LOG_BINS = 9;
static_assert(BINS == 1 << LOG_BINS, "bins are a power of two");
// Bins of the first histogram for a difference of one temperature: 32 temperatures in all.
constexpr float BINS_PER_UNIT = BINS / 32;

// A sum of weights; a vocabulary has at most 2^18 tokens.
using Mass = unsigned long long;
constexpr int MASS_BITS = 44;
// Weights of logits further below the highest (in temperatures) count as 0: they round to 0 in a
// mass.
constexpr float DISTANCE_MAX = 31.19f;

constexpr uint32_t EVERY_TOKEN = 0xffffffffu;
// So few tokens are compared with each other, by a thread each.
constexpr int CANDIDATES_MAX = 128;

constexpr uint32_t IS_ACTIVE = 1, IS_GREEDY = 2, WANTS_LOGPROBS = 4;
constexpr uint32_t STATUS_TOKEN = 0, STATUS_TOKEN_AND_LOGPROBS = 1, STATUS_NOT_FINITE = 2,
                   STATUS_INACTIVE = 3;
constexpr int TOP_MAX = 20;

struct Row {
    uint32_t logits_row, flags;
    float temperature, min_p;
    uint32_t top_k;
    float top_p;
    uint32_t noise_low, noise_high, first_adjustment, n_adjustments, n_top, unused;
};

struct Adjustment {
    uint32_t token;
    float repetition, subtract, add;
};

struct Result {
    uint32_t token, status;
    float logprob;
    uint32_t n_top;
    struct {
        uint32_t token;
        float logprob;
    } top[TOP_MAX];
};

struct Tally {
    Mass mass;
    uint32_t count;

    __device__ __forceinline__ Tally operator+(const Tally &other) const {
        return {mass + other.mass, count + other.count};
    }
};

struct Histogram {
    uint32_t count[BINS], low[BINS], high[BINS];
    // Of what lies in no bin, or of everything: as whoever fills it says.
    Mass mass;
};

struct Candidate {
    uint32_t token, key;

    // Higher logits come first, of equal ones the lower token.
    __device__ __forceinline__ bool comes_before(const Candidate &other) const {
        return key > other.key || (key == other.key && token < other.token);
    }
};

// Keeps logits above that of `key`, and those equal up to `token`.
struct Bound {
    uint32_t key, token;
};

// Bins `first..=last` in which a goal is reached: what lies before them, and how many tokens they
// have.
struct Found {
    Tally before;
    uint32_t count, first, last;
};

struct Shared {
    // Used in turns: one is still read by others of the team while the next is filled.
    Histogram histograms[2];
    Mass slots[2][TEAM];
    uint32_t warp_counts[WARPS];
    Mass warp_masses[WARPS];
    Mass team_masses[TEAM];
    Found found;
    Bound bound;
    float2 powers[32];
    uint32_t edges[2];
    // This block's candidates, and the team's.
    uint32_t n_own;
    Candidate own[CANDIDATES_MAX], candidates[CANDIDATES_MAX];
    Mass masses[CANDIDATES_MAX];
    uint32_t located;
    float located_logit;
    uint32_t n_listed;
    Candidate listed[TOP_MAX];
};

// ---- The team ----

struct Team {
    Shared *shared;
    uint32_t rank, turn;

    __device__ __forceinline__ static Team of(Shared *shared) {
        uint32_t rank = 0;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
        asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
        return {shared, rank, 0};
    }

    // All threads of all blocks wait for each other, and see what was written before.
    __device__ __forceinline__ void sync() const {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
        asm volatile("barrier.cluster.arrive.aligned;\n\tbarrier.cluster.wait.aligned;" ::
                         : "memory");
#else
        __syncthreads();
#endif
    }

    // The same place in another block's shared memory.
    template <typename T>
    __device__ __forceinline__ T *at(T *place, uint32_t rank) const {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
        T *other;
        asm("mapa.u64 %0, %1, %2;" : "=l"(other) : "l"(place), "r"(rank));
        return other;
#else
        return place;
#endif
    }

    // The values that the first warps of all blocks bring, in order of rank.
    __device__ __forceinline__ const Mass *exchange(Mass value) {
        Mass *slots = shared->slots[turn];
        turn ^= 1;
        if (threadIdx.x < TEAM) *at(slots + rank, threadIdx.x) = value;
        sync();
        return slots;
    }
};

__device__ __forceinline__ int lane() { return threadIdx.x % WARP; }
__device__ __forceinline__ int warp() { return threadIdx.x / WARP; }

template <typename T>
__device__ __forceinline__ T warp_scan(T value) {
#pragma unroll
    for (int distance = 1; distance < WARP; distance *= 2) {
        const T before = __shfl_up_sync(ALL_LANES, value, distance);
        if (lane() >= distance) value += before;
    }
    return value;
}

// The sum over the threads of the block up to this one, and over all. `partial` is shared memory
// that nobody reads any more when the call begins.
template <typename T>
__device__ __forceinline__ T block_scan(T value, T *partial, T *all) {
    value = warp_scan(value);
    if (lane() == WARP - 1) partial[warp()] = value;
    __syncthreads();
    const T sums = warp_scan(lane() < WARPS ? partial[lane()] : 0);
    *all = __shfl_sync(ALL_LANES, sums, WARPS - 1);
    const T before = __shfl_sync(ALL_LANES, sums, max(warp() - 1, 0));
    return warp() == 0 ? value : before + value;
}

__device__ Mass team_max(Team &team, Mass value) {
    Mass *partial = team.shared->warp_masses;
    value = warp_max(value);
    if (lane() == 0) partial[warp()] = value;
    __syncthreads();
    if (warp() == 0) value = warp_max(lane() < WARPS ? partial[lane()] : 0);
    const Mass *all = team.exchange(value);
    for (int rank = 0; rank < TEAM; rank++) value = max(value, all[rank]);
    return value;
}

__device__ Mass team_sum(Team &team, Mass value) {
    Mass *partial = team.shared->warp_masses;
    value = warp_sum(value);
    if (lane() == 0) partial[warp()] = value;
    __syncthreads();
    if (warp() == 0) value = warp_sum(lane() < WARPS ? partial[lane()] : 0);
    const Mass *all = team.exchange(value);
    Mass sum = 0;
    for (int rank = 0; rank < TEAM; rank++) sum += all[rank];
    return sum;
}

}  // namespace
