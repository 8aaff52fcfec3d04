// Choosing the next token of every row. Contract: crates/tensor/src/ops/sample.rs; the layouts of
// rows, adjustments and results: crates/tensor/src/ops/sample_cuda.rs.
//
// A row is the work of a team: a cluster of blocks, each with a part of the vocabulary in its
// shared memory (a single block where there are no clusters). Sums of weights are whole numbers,
// 2^44 for the most likely token, and exact: no result depends on who adds what when, nor on how
// the vocabulary is divided. Nothing is sorted: the last token that truncation keeps is found by
// histograms, until so few tokens are in question that each can be compared with each.

#include <cstdint>

#include "common/reduce.cuh"

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

__device__ __forceinline__ Mass warp_sum(Mass value) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(ALL_LANES, value, distance);
    }
    return value;
}

__device__ __forceinline__ Mass warp_max(Mass value) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        value = max(value, __shfl_xor_sync(ALL_LANES, value, distance));
    }
    return value;
}

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

// ---- Logits and weights ----

// What of a part is read at a time.
constexpr uint32_t GROUP = 4;

__device__ __forceinline__ uint32_t whole_groups(uint32_t n) {
    return (n + GROUP - 1) / GROUP * GROUP;
}

// A part of the vocabulary: `values[i]` is the logit of token `first + i`; up to a whole group
// there are further ones, of -infinity. Each thread has a run of it, `begin..end`.
struct Part {
    float *values;
    uint32_t first, len, begin, end;

    __device__ __forceinline__ static Part of(float *values, uint32_t first, uint32_t len) {
        // An odd number of groups, so that the lanes of a warp read from different banks.
        const uint32_t run = ((len + THREADS * GROUP - 1) / (THREADS * GROUP) | 1) * GROUP;
        const uint32_t all = whole_groups(len), begin = threadIdx.x * run;
        return {values, first, len, min(all, begin), min(all, begin + run)};
    }

    template <typename Visit>
    __device__ __forceinline__ void each(Visit visit) const {
#pragma unroll 1
        for (uint32_t i = begin; i < end; i += GROUP) {
            const float4 group = *reinterpret_cast<const float4 *>(values + i);
            visit(first + i, group.x);
            visit(first + i + 1, group.y);
            visit(first + i + 2, group.z);
            visit(first + i + 3, group.w);
        }
    }
};

// A sum of at most 1000 weights of 0..1, each rounded to a multiple of 2^-44: in steps of 2^-22,
// and what is left of them. Adding a number rounds a weight to the last place of the sum, whose
// bits then count those places.
struct Sum {
    uint32_t high = 0, low = 0;

    __device__ __forceinline__ void add(float weight) {
        const float above = __fadd_rn(weight, 2.0f);
        high += __float_as_uint(above) - __float_as_uint(2.0f);
        const float rest = __fsub_rn(weight, __fsub_rn(above, 2.0f));
        low += __float_as_uint(__fadd_rn(rest, 0x1.8p-21f)) - __float_as_uint(0x1.8p-21f);
    }

    __device__ __forceinline__ Mass mass() const {
        return (static_cast<Mass>(high) << 22) + static_cast<int32_t>(low);
    }

    __device__ __forceinline__ static Mass of(float weight) {
        Sum sum;
        sum.add(weight);
        return sum.mass();
    }
};

// A number that orders as logits do; -0 comes before 0.
__device__ __forceinline__ uint32_t key_of(float logit) {
    const uint32_t bits = __float_as_uint(logit);
    return bits ^ (static_cast<int32_t>(bits) < 0 ? 0xffffffffu : 0x80000000u);
}

__device__ __forceinline__ float logit_of(uint32_t key) {
    return __uint_as_float(key ^ (key & 0x80000000u ? 0x80000000u : 0xffffffffu));
}

// Weights relative to the highest logit at a temperature: 0..1, 0 below min-p.
struct Weigher {
    float max, temperature, inverse, distance_max, min_p;
    const float2 *powers;

    __device__ __forceinline__ static Weigher at(float max, float temperature, float min_p,
                                                 const float2 *powers) {
        const float distance_max = __fmul_rn(DISTANCE_MAX, temperature);
        return {max, temperature, __fdiv_rn(1.0f, temperature), distance_max, min_p, powers};
    }

    // exp((logit - max) / temperature) to half a unit in the last place: 2^(-n/32) from a table
    // times e^r, |r| <= ln(2)/64.
    __device__ __forceinline__ float operator()(float logit) const {
        const float distance = __fsub_rn(max, logit);
        const float near = fminf(distance, distance_max);
        // The quotient, rounded as a division would be.
        const float guess = __fmul_rn(near, inverse);
        const float y = __fmaf_rn(__fmaf_rn(-guess, temperature, near), inverse, guess);
        // Adding this rounds to a whole number, which the bits then hold.
        const float rounded = __fmaf_rn(y, 46.16624130844683f, 0x1.8p23f);
        const uint32_t n = __float_as_uint(rounded) & 0x7ff;
        const float n_f32 = __fsub_rn(rounded, 0x1.8p23f);
        // ln(2)/32 in two parts, the first so short that its product is exact.
        const float r = __fmaf_rn(n_f32, 0x1.0bfbe8p-20f, __fmaf_rn(n_f32, 0x1.62ep-6f, -y));
        const float p = __fmaf_rn(__fmul_rn(r, r), __fmaf_rn(r, 1.0f / 6, 0.5f), r);
        const float2 power = powers[n % 32];
        const float scaled = __fadd_rn(power.x, __fmaf_rn(power.x, p, power.y));
        const float weight = __uint_as_float(__float_as_uint(scaled) - (n / 32 << 23));
        return distance <= distance_max && weight >= min_p ? weight : 0.0f;
    }
};

// 2^(-i/32) in two parts.
__device__ __forceinline__ float2 power(int i) {
    const double exact = exp2(-i / 32.0);
    const float high = static_cast<float>(exact);
    return {high, static_cast<float>(exact - high)};
}

__device__ __forceinline__ float adjusted(float logit, const Adjustment &change) {
    if (change.repetition != 1.0f) {
        logit = logit > 0.0f ? __fdiv_rn(logit, change.repetition)
                             : __fmul_rn(logit, change.repetition);
    }
    if (change.subtract != 0.0f) logit = __fsub_rn(logit, change.subtract);
    if (change.add == -INFINITY) return -INFINITY;
    return change.add != 0.0f ? __fadd_rn(logit, change.add) : logit;
}

// Copies a part of a row and applies the row's adjustments to it; the caller waits for the team.
__device__ void load(const Part &part, const float *__restrict__ logits, bool in_shared,
                     const Row &row, const Adjustment *__restrict__ adjustments) {
    const float *from = logits + part.first;
    uint32_t n_copied = 0;
    if (in_shared && reinterpret_cast<uintptr_t>(from) % 16 == 0) {
        n_copied = part.len / 4 * 4;
        const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(part.values));
        for (uint32_t i = threadIdx.x * 4; i < n_copied; i += THREADS * 4) {
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to + i * 4),
                         "l"(from + i)
                         : "memory");
        }
    }
    for (uint32_t i = n_copied + threadIdx.x; i < whole_groups(part.len); i += THREADS) {
        part.values[i] = i < part.len ? __ldg(from + i) : -INFINITY;
    }
    asm volatile("cp.async.wait_all;" ::: "memory");
    if (row.n_adjustments == 0) return;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < row.n_adjustments; i += THREADS) {
        const Adjustment change = adjustments[row.first_adjustment + i];
        const uint32_t at = change.token - part.first;
        if (at < part.len) part.values[at] = adjusted(part.values[at], change);
    }
}

struct Best {
    bool is_valid;
    uint32_t token;
    float logit;
};

// The token with the highest logit, of equal ones (0 equals -0) the lowest.
__device__ Best best(Team &team, const Part &part) {
    float highest = -INFINITY;
    uint32_t its_token = 0;
    bool has_nan = false;
    part.each([&](uint32_t token, float logit) {
        has_nan |= logit != logit;
        if (logit > highest) {
            highest = logit;
            its_token = token;
        }
    });
    // A key above, the token's complement below: the largest is the one. All ones is no number.
    const Mass key = key_of(__fadd_rn(highest, 0.0f));
    const Mass largest = team_max(team, has_nan ? ~0ull : key << 32 | ~its_token);
    highest = logit_of(static_cast<uint32_t>(largest >> 32));
    return {isfinite(highest), ~static_cast<uint32_t>(largest), highest};
}

// ---- Truncation ----

// A bound that keeps all that is possible.
constexpr Bound EVERYTHING = {0, EVERY_TOKEN};

__device__ __forceinline__ bool keeps_all(const Bound &bound) { return bound.key == 0; }

__device__ __forceinline__ bool keeps(const Bound &bound, uint32_t token, float logit) {
    // Most are further below.
    if (logit < logit_of(bound.key)) return false;
    const uint32_t key = key_of(logit);
    return key > bound.key || (key == bound.key && token <= bound.token);
}

// How far down to go: to this many tokens, or to this much weight.
struct Goal {
    bool is_count;
    Mass least;

    __device__ __forceinline__ bool reached_by(const Tally &tally) const {
        return (is_count ? tally.count : tally.mass) >= least;
    }
};

// A histogram of logits from `highest` down.
struct Scale {
    float highest, bins_per_unit;

    __device__ __forceinline__ uint32_t bin_of(float logit) const {
        const float distance = __fmul_rn(__fsub_rn(highest, logit), bins_per_unit);
        return min(__float2uint_rz(distance), BINS - 1u);
    }
};

// What a histogram of the whole row says about this thread's bin, in all, and besides.
struct Bin {
    Tally before, own;
    uint32_t count;
    Mass mass;
};

// Adds a weight to a bin.
__device__ __forceinline__ void add(Histogram &histogram, uint32_t bin, Mass mass) {
    const uint32_t low = static_cast<uint32_t>(mass);
    const bool carries = atomicAdd(&histogram.low[bin], low) > ~low;
    const uint32_t high = static_cast<uint32_t>(mass >> 32) + carries;
    if (high != 0) atomicAdd(&histogram.high[bin], high);
}

// Adds up the team's histograms, highest logits first. `fill` puts this block's part into one, and
// returns a further mass.
template <bool HAS_MASS, typename Fill>
__device__ Bin bins(Team &team, Fill fill) {
    Shared *shared = team.shared;
    Histogram &mine = shared->histograms[team.turn];
    const int bin = threadIdx.x;
    mine.count[bin] = 0;
    if (HAS_MASS) mine.low[bin] = mine.high[bin] = 0;
    if (threadIdx.x == 0) mine.mass = 0;
    __syncthreads();
    const Mass besides = warp_sum(fill(mine));
    if (lane() == 0 && besides != 0) atomicAdd(&mine.mass, besides);
    team.turn ^= 1;
    team.sync();
    Tally own = {0, 0};
#pragma unroll
    for (int rank = 0; rank < TEAM; rank++) {
        const Histogram *theirs = team.at(&mine, rank);
        own.count += theirs->count[bin];
        if (HAS_MASS) own.mass += theirs->low[bin] + (static_cast<Mass>(theirs->high[bin]) << 32);
    }
    if (threadIdx.x < TEAM) shared->team_masses[threadIdx.x] = team.at(&mine, threadIdx.x)->mass;
    Tally before = {0, 0}, all;
    before.count = block_scan(own.count, shared->warp_counts, &all.count) - own.count;
    if (HAS_MASS) before.mass = block_scan(own.mass, shared->warp_masses, &all.mass) - own.mass;
    Mass mass = 0;
    for (int rank = 0; rank < TEAM; rank++) mass += shared->team_masses[rank];
    return {before, own, all.count, mass};
}

// The bin that reaches the goal, `above` being what lies above all bins.
__device__ Found choose(Shared *shared, const Bin &bin, const Tally &above, const Goal &goal) {
    const Tally before = above + bin.before;
    // Others may still look at what was found last.
    __syncthreads();
    if (threadIdx.x == 0) shared->n_own = 0;
    if (goal.reached_by(before + bin.own) && !goal.reached_by(before)) {
        shared->found = {before, bin.own.count, threadIdx.x, threadIdx.x};
    }
    __syncthreads();
    return shared->found;
}

// The bins among which the one is that reaches a mass, from their counts alone. A bin is a
// sixteenth of a temperature wide; the last one has no end. The mass before them is left open.
__device__ Found choose_some(Shared *shared, const Bin &bin, Mass goal) {
    const float nearest = expf(-static_cast<float>(threadIdx.x) / (BINS / 32));
    const float furthest = threadIdx.x == BINS - 1 ? 0.0f : nearest * expf(-32.0f / BINS);
    // With room for rounding.
    const Mass most = Sum::of(fminf(nearest * 1.001f, 1.0f));
    const Mass least = Sum::of(furthest * 0.999f);
    const Mass bounds[2] = {most * bin.own.count, least * bin.own.count};
    Mass reached[2], all;
    for (int i = 0; i < 2; i++) {
        __syncthreads();
        reached[i] = block_scan(bounds[i], shared->warp_masses, &all);
    }
    if (threadIdx.x == 0) {
        shared->n_own = 0;
        shared->found = {{0, 0}, 0, 0, BINS - 1};
    }
    __syncthreads();
    if (reached[0] >= goal && reached[0] - bounds[0] < goal) {
        shared->found.before.count = bin.before.count;
        shared->found.first = threadIdx.x;
    }
    if (reached[1] >= goal && reached[1] - bounds[1] < goal) {
        shared->found.last = threadIdx.x;
    }
    __syncthreads();
    if (threadIdx.x == shared->found.last) {
        shared->found.count = bin.before.count + bin.own.count - shared->found.before.count;
    }
    __syncthreads();
    return shared->found;
}

// The smallest key above that of -infinity whose bin is `bin` at most; all lanes call.
__device__ uint32_t lowest_key(const Scale &scale, uint32_t bin) {
    uint32_t below = key_of(-INFINITY), fits = key_of(scale.highest);
    // Most often it is near where it would be without rounding.
    constexpr uint32_t NEAR = 1024;
    const uint32_t guess = key_of(scale.highest - (bin + 1) / scale.bins_per_unit);
    if (guess > below + NEAR && guess < fits - NEAR) {
        const uint32_t end = lane() == 0 ? guess - NEAR : guess + NEAR;
        const bool does = scale.bin_of(logit_of(end)) <= bin;
        if ((__ballot_sync(ALL_LANES, does) & 3) == 2) {
            below = guess - NEAR;
            fits = guess + NEAR;
        }
    }
    while (fits - below > 1) {
        const uint32_t step = (fits - below + WARP - 1) / WARP;
        const uint32_t key = min(below + step * (lane() + 1), fits);
        const bool does = scale.bin_of(logit_of(key)) <= bin;
        // The last lane's does.
        const int first = __ffs(__ballot_sync(ALL_LANES, does)) - 1;
        const uint32_t before = __shfl_sync(ALL_LANES, key, max(first - 1, 0));
        fits = __shfl_sync(ALL_LANES, key, first);
        if (first > 0) below = before;
    }
    return fits;
}

// Logits by their keys, `lowest..=highest`.
struct Range {
    uint32_t lowest, highest;

    // The logits of some bins.
    __device__ static Range of(Shared *shared, const Scale &scale, const Found &bins) {
        if (warp() == 0) {
            const uint32_t key = lowest_key(scale, bins.last);
            if (lane() == 0) shared->edges[0] = key;
        } else if (warp() == 1) {
            const uint32_t key =
                bins.first == 0 ? key_of(scale.highest) + 1 : lowest_key(scale, bins.first - 1);
            if (lane() == 0) shared->edges[1] = key;
        }
        __syncthreads();
        return {shared->edges[0], shared->edges[1] - 1};
    }
};

// Visits every token of a part that lies in the range or above it, with its key and weight unless
// that is 0; those above only if `wants_above`.
template <typename Weigh, typename Visit>
__device__ __forceinline__ void each_from(const Part &part, const Range &range, bool wants_above,
                                          Weigh weigh, Visit visit) {
    const float lowest = logit_of(range.lowest);
    const float highest = wants_above ? INFINITY : logit_of(range.highest);
    part.each([&](uint32_t token, float logit) {
        // Most are outside; -0 and 0 need a closer look.
        if (!(logit >= lowest && logit <= highest)) return;
        const uint32_t key = key_of(logit);
        if (key < range.lowest || (!wants_above && key > range.highest)) return;
        const float weight = weigh(token, logit);
        if (weight != 0.0f) visit(token, key, weight);
    });
}

// The token, in their order, at which the sum of `weigh` exceeds `left_of(sum of all)`, which is
// less than that sum: one thread of the team calls `tell` with the token and its logit.
template <typename Weigh, typename Left, typename Tell>
__device__ void locate(Team &team, const Part &part, Weigh weigh, Left left_of, Tell tell) {
    Sum sum;
    part.each([&](uint32_t token, float logit) { sum.add(weigh(token, logit)); });
    const Mass own = sum.mass();
    Mass block;
    Mass before = block_scan(own, team.shared->warp_masses, &block) - own;
    const Mass *all = team.exchange(block);
    Mass total = 0;
    for (int rank = 0; rank < TEAM; rank++) {
        if (rank == static_cast<int>(team.rank)) before += total;
        total += all[rank];
    }
    const Mass left = left_of(total);
    const unsigned whose = __ballot_sync(ALL_LANES, left >= before && left - before < own);
    if (whose == 0) return;
    // The warp of that thread looks at its run together.
    const int source = __ffs(whose) - 1;
    const uint32_t end = __shfl_sync(ALL_LANES, part.end, source);
    before = __shfl_sync(ALL_LANES, before, source);
    for (uint32_t i = __shfl_sync(ALL_LANES, part.begin, source); i < end; i += WARP) {
        const uint32_t at = i + lane(), token = part.first + at;
        const float logit = at < end ? part.values[at] : -INFINITY;
        const Mass here = before + warp_scan(at < end ? Sum::of(weigh(token, logit)) : 0);
        const unsigned beyond = __ballot_sync(ALL_LANES, here > left);
        if (beyond != 0) {
            if (lane() == __ffs(beyond) - 1) tell(token, logit);
            return;
        }
        before = __shfl_sync(ALL_LANES, here, WARP - 1);
    }
}

// The `n`th token with this key.
__device__ uint32_t nth_of(Team &team, const Part &part, uint32_t key, Mass n) {
    Shared *shared = team.shared;
    locate(
        team, part, [&](uint32_t, float logit) { return key_of(logit) == key ? 1.0f : 0.0f; },
        [&](Mass) { return (n - 1) << MASS_BITS; },
        [&](uint32_t token, float) {
            for (int rank = 0; rank < TEAM; rank++) *team.at(&shared->located, rank) = token;
        });
    team.sync();
    return shared->located;
}

// The mass of what lies above a range.
template <typename Weigh>
__device__ Mass mass_above(Team &team, const Part &part, const Range &range, Weigh weigh) {
    Sum above;
    each_from(part, range, true, weigh, [&](uint32_t, uint32_t key, float weight) {
        if (key > range.highest) above.add(weight);
    });
    return team_sum(team, above.mass());
}

// The bound at which a goal is reached by few tokens: those of `range`, `before` being those above,
// whose mass is looked for if it is not known.
template <bool HAS_MASS, typename Weigh>
__device__ Bound bound_among(Team &team, const Part &part, const Range &range, Tally before,
                             bool knows_mass, const Goal &goal, Weigh weigh) {
    Shared *shared = team.shared;
    Sum above;
    each_from(part, range, HAS_MASS && !knows_mass, weigh,
              [&](uint32_t token, uint32_t key, float weight) {
                  if (key > range.highest) {
                      above.add(weight);
                  } else {
                      shared->own[atomicAdd(&shared->n_own, 1u)] = {token, key};
                  }
              });
    if (HAS_MASS && !knows_mass) {
        before.mass = team_sum(team, above.mass());
    } else {
        team.sync();
    }
    uint32_t n = 0;
    for (int rank = 0; rank < TEAM; rank++) {
        const uint32_t n_theirs = *team.at(&shared->n_own, rank), i = threadIdx.x - n;
        if (i < n_theirs) {
            const Candidate one = team.at(shared->own, rank)[i];
            shared->candidates[threadIdx.x] = one;
            shared->masses[threadIdx.x] =
                HAS_MASS ? Sum::of(weigh(one.token, logit_of(one.key))) : 0;
        }
        n += n_theirs;
    }
    __syncthreads();
    if (threadIdx.x < n) {
        const Candidate one = shared->candidates[threadIdx.x];
        for (uint32_t i = 0; i < n; i++) {
            const Candidate other = shared->candidates[i];
            if (other.comes_before(one)) before = before + Tally{shared->masses[i], 1};
        }
        const Tally own = {shared->masses[threadIdx.x], 1};
        if (goal.reached_by(before + own) && !goal.reached_by(before)) {
            shared->bound = {one.key, one.token};
        }
    }
    __syncthreads();
    return shared->bound;
}

// The bound at which a goal is reached that lies in `found`, bins of the first histogram over
// `scale`. `weigh` is not 0 for the tokens in question, and their weight if it is a goal of mass.
template <bool HAS_MASS, typename Weigh>
__device__ Bound keep(Team &team, const Part &part, Scale scale, Found found, Mass goal_least,
                      Weigh weigh) {
    const Goal goal = {!HAS_MASS, goal_least};
    Range range = Range::of(team.shared, scale, found);
    bool knows_mass = !HAS_MASS, is_linear = true;
    while (found.count > CANDIDATES_MAX && range.lowest != range.highest) {
        const float top = logit_of(range.highest);
        scale = {top, __fdiv_rn(BINS, __fsub_rn(top, logit_of(range.lowest)))};
        const int shift = max(0, 32 - __clz(range.highest - range.lowest) - LOG_BINS);
        const Bin bin = bins<HAS_MASS>(team, [&](Histogram &histogram) {
            Sum above;
            each_from(part, range, !knows_mass, weigh, [&](uint32_t, uint32_t key, float weight) {
                if (key > range.highest) {
                    above.add(weight);
                    return;
                }
                const uint32_t bin =
                    is_linear ? scale.bin_of(logit_of(key)) : (range.highest - key) >> shift;
                atomicAdd(&histogram.count[bin], 1u);
                if (HAS_MASS) add(histogram, bin, Sum::of(weight));
            });
            return above.mass();
        });
        if (!knows_mass) found.before.mass = bin.mass;
        knows_mass = true;
        found = choose(team.shared, bin, found.before, goal);
        if (is_linear) {
            const Range within = Range::of(team.shared, scale, found);
            range = {max(range.lowest, within.lowest), within.highest};
        } else {
            range.highest -= found.first << shift;
            const uint32_t width = (1u << shift) - 1;
            range.lowest = max(range.lowest, range.highest > width ? range.highest - width : 0);
        }
        // Once: then by keys, which ends for any numbers.
        is_linear = false;
    }
    if (found.count <= CANDIDATES_MAX) {
        return bound_among<HAS_MASS>(team, part, range, found.before, knows_mass, goal, weigh);
    }
    // Equal logits, so of equal weights: the lower tokens are kept.
    Mass n = goal.least - found.before.count;
    if (HAS_MASS) {
        if (!knows_mass) found.before.mass = mass_above(team, part, range, weigh);
        const Mass weight = Sum::of(weigh(0, logit_of(range.lowest)));
        n = (goal.least - found.before.mass + weight - 1) / weight;
    }
    return {range.lowest, nth_of(team, part, range.lowest, n)};
}

// What top-k keeps of the tokens that `weigh` finds not to be 0.
template <typename Weigh>
__device__ Bound keep_count(Team &team, const Part &part, const Scale &scale, uint32_t n,
                            Weigh weigh) {
    const Bin first = bins<false>(team, [&](Histogram &histogram) {
        part.each([&](uint32_t token, float logit) {
            if (weigh(token, logit) != 0.0f) atomicAdd(&histogram.count[scale.bin_of(logit)], 1u);
        });
        return Mass(0);
    });
    if (n >= first.count) return EVERYTHING;
    const Found found = choose(team.shared, first, {0, 0}, {true, n});
    return keep<false>(team, part, scale, found, n, weigh);
}

// What top-p keeps of the weights.
template <typename Weigh>
__device__ Bound keep_share(Team &team, const Part &part, const Scale &scale, float top_p,
                            Weigh weigh) {
    const Bin first = bins<false>(team, [&](Histogram &histogram) {
        Sum sum;
        part.each([&](uint32_t token, float logit) {
            const float weight = weigh(token, logit);
            sum.add(weight);
            if (weight != 0.0f) atomicAdd(&histogram.count[scale.bin_of(logit)], 1u);
        });
        return sum.mass();
    });
    const double share = ceil(static_cast<double>(first.mass) * static_cast<double>(top_p));
    const Mass goal = max(1ull, min(first.mass, static_cast<Mass>(share)));
    const Found found = choose_some(team.shared, first, goal);
    return keep<true>(team, part, scale, found, goal, weigh);
}

// What top-k and then top-p keep of what min-p has left.
__device__ Bound truncate(Team &team, const Part &part, const Row &row, uint32_t vocab,
                          const Weigher &weigh) {
    Bound bound = EVERYTHING;
    const Scale scale = {weigh.max, __fdiv_rn(BINS_PER_UNIT, row.temperature)};
    if (row.top_k != 0 && row.top_k < vocab) {
        bound = keep_count(team, part, scale, row.top_k, [&](uint32_t, float logit) {
            const bool is_possible = logit > -INFINITY;
            return row.min_p > 0.0f ? weigh(logit) : static_cast<float>(is_possible);
        });
    }
    if (row.top_p >= 1.0f) return bound;
    if (keeps_all(bound)) {
        return keep_share(team, part, scale, row.top_p,
                          [&](uint32_t, float logit) { return weigh(logit); });
    }
    return keep_share(team, part, scale, row.top_p, [&](uint32_t token, float logit) {
        return keeps(bound, token, logit) ? weigh(logit) : 0.0f;
    });
}

// Draws among what is kept, in order of token; one thread of the team calls `tell`.
template <typename Tell>
__device__ void draw(Team &team, const Part &part, const Row &row, const Bound &bound,
                     const Weigher &weigh, Tell tell) {
    const Mass noise = static_cast<Mass>(row.noise_high) << 32 | row.noise_low;
    const auto left_of = [&](Mass total) { return __umul64hi(noise, total); };
    if (keeps_all(bound)) {
        locate(
            team, part, [&](uint32_t, float logit) { return weigh(logit); }, left_of, tell);
    } else {
        locate(
            team, part,
            [&](uint32_t token, float logit) {
                return keeps(bound, token, logit) ? weigh(logit) : 0.0f;
            },
            left_of, tell);
    }
}

// ---- Log probabilities ----

// Lists the `n` most likely tokens and their logits in the shared memory of the team's first block,
// in any order.
__device__ void list_top(Team &team, const Part &part, float max, uint32_t n) {
    const Bound bound =
        keep_count(team, part, {max, BINS_PER_UNIT}, n,
                   [](uint32_t, float logit) { return static_cast<float>(logit > -INFINITY); });
    part.each([&](uint32_t token, float logit) {
        if (logit == -INFINITY || (!keeps_all(bound) && !keeps(bound, token, logit))) return;
        const uint32_t place = atomicAdd(team.at(&team.shared->n_listed, 0), 1u);
        *team.at(&team.shared->listed[place], 0) = {token, key_of(logit)};
    });
    team.sync();
}

// Writes the listed tokens in order; a warp calls.
__device__ void write_top(const Shared *shared, uint32_t n, double norm, Result *result) {
    if (lane() >= static_cast<int>(n)) return;
    const Candidate mine = shared->listed[lane()];
    int place = 0;
    for (uint32_t i = 0; i < n; i++) place += shared->listed[i].comes_before(mine);
    result->top[place] = {mine.token, static_cast<float>(logit_of(mine.key) - norm)};
}

__device__ void report(Team &team, const Part &part, const Row &row, float max, float logit,
                       Result *result) {
    const Weigher weigh = Weigher::at(max, 1.0f, 0.0f, team.shared->powers);
    Sum sum;
    part.each([&](uint32_t, float other) { sum.add(weigh(other)); });
    const double total = static_cast<double>(team_sum(team, sum.mass())) / (1ull << MASS_BITS);
    const double norm = max + log(total);
    if (row.n_top != 0) list_top(team, part, max, row.n_top);
    if (team.rank != 0 || warp() != 0) return;
    const uint32_t n = team.shared->n_listed;
    write_top(team.shared, n, norm, result);
    if (lane() == 0) {
        result->logprob = static_cast<float>(logit - norm);
        result->n_top = n;
    }
}

struct Args {
    const float *__restrict__ logits;
    const Row *__restrict__ rows;
    const Adjustment *__restrict__ adjustments;
    Result *results;
    uint32_t *tokens;
    float *scratch;
    uint32_t vocab, stride;
};

template <bool IN_SHARED>
__device__ __forceinline__ void sample(const Args &args) {
    extern __shared__ __align__(16) float cache[];
    __shared__ Shared shared;
    const uint32_t row_idx = blockIdx.x / BLOCKS_PER_ROW;
    if (TEAM == 1 && blockIdx.x % BLOCKS_PER_ROW != 0) return;
    const Row &row = args.rows[row_idx];
    Team team = Team::of(&shared);
    Result *result = args.results + row_idx;
    const auto write = [&](uint32_t token, uint32_t status) {
        result->token = token;
        result->status = status;
        result->logprob = 0.0f;
        result->n_top = 0;
        args.tokens[row_idx] = token;
    };
    const bool writes = team.rank == 0 && threadIdx.x == 0;
    if (!(row.flags & IS_ACTIVE)) {
        if (writes) write(0, STATUS_INACTIVE);
        return;
    }
    if (threadIdx.x < 32) shared.powers[threadIdx.x] = power(threadIdx.x);
    if (threadIdx.x == 0) shared.n_listed = 0;

    const uint32_t share = (args.vocab + TEAM * GROUP - 1) / (TEAM * GROUP) * GROUP;
    const uint32_t first = min(args.vocab, team.rank * share);
    const size_t place = static_cast<size_t>(row_idx) * whole_groups(args.vocab) + first;
    const Part part = Part::of(IN_SHARED ? cache : args.scratch + place, first,
                               min(share, args.vocab - first));
    load(part, args.logits + static_cast<size_t>(row.logits_row) * args.stride, IN_SHARED, row,
         args.adjustments);
    // Also so that no block writes to another that has not begun.
    team.sync();

    const Best top = best(team, part);
    if (!top.is_valid) {
        if (writes) write(0, STATUS_NOT_FINITE);
        return;
    }
    const bool wants_logprobs = row.flags & WANTS_LOGPROBS;
    const uint32_t status = wants_logprobs ? STATUS_TOKEN_AND_LOGPROBS : STATUS_TOKEN;
    float logit = top.logit;
    if (row.flags & IS_GREEDY) {
        if (writes) write(top.token, status);
    } else {
        const Weigher weigh = Weigher::at(top.logit, row.temperature, row.min_p, shared.powers);
        const Bound bound = truncate(team, part, row, args.vocab, weigh);
        draw(team, part, row, bound, weigh, [&](uint32_t token, float its_logit) {
            write(token, status);
            // Without a reader the first block may be gone.
            if (wants_logprobs) *team.at(&shared.located_logit, 0) = its_logit;
        });
        if (!wants_logprobs) return;
        team.sync();
        logit = shared.located_logit;
    }
    if (wants_logprobs) report(team, part, row, top.logit, logit, result);
}

}  // namespace

// `BLOCKS_PER_ROW` blocks a row of `rows`, which names its row of `logits` (`vocab` of them, the
// next row `stride` further). The result's token is also written to `tokens`. The block's part of a
// row, rounded up to whole groups, lies in dynamic shared memory.
extern "C" __global__ void IN_CLUSTERS __launch_bounds__(THREADS, 2)
    sample_f32(const float *logits, const Row *rows, const Adjustment *adjustments,
               Result *results, uint32_t *tokens, uint32_t vocab, uint32_t stride) {
    sample<true>({logits, rows, adjustments, results, tokens, nullptr, vocab, stride});
}

// The same for vocabularies that are too large for that: the logits are copied to `scratch`, f32
// [rows, vocab rounded up to whole groups].
extern "C" __global__ void IN_CLUSTERS __launch_bounds__(THREADS, 2)
    sample_f32_scratch(const float *logits, const Row *rows, const Adjustment *adjustments,
                       Result *results, uint32_t *tokens, float *scratch, uint32_t vocab,
                       uint32_t stride) {
    sample<false>({logits, rows, adjustments, results, tokens, scratch, vocab, stride});
}
