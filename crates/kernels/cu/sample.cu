// Choosing the next token of every row. Contract: crates/tensor/src/ops/sample.rs; the layouts of
// rows, adjustments and results: crates/tensor/src/ops/sample_cuda.rs.
//
// A row is the work of a team: a cluster of blocks, each with a part of the vocabulary in its
// shared memory (a single block where there are no clusters). Weights are whole numbers, 2^44 for
// the most likely token, so sums are exact: no result depends on who adds what when, nor on how
// the vocabulary is divided. Nothing is sorted: the last token that truncation keeps is found by
// histograms, first of distances from the highest logit, then of the logits' bits.

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

// A sum of weights; a vocabulary has less than 2^20 tokens.
using Mass = unsigned long long;
constexpr int MASS_BITS = 44;
// Weights of logits further below the highest (in temperatures) round to 0: 2^-45.
constexpr float DISTANCE_MAX = 31.19f;

constexpr uint32_t EVERY_TOKEN = 0xffffffffu;

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
};

// The bin in which a goal is reached.
struct Found {
    Tally before, own;
    uint32_t bin;
};

struct Shared {
    // Used in turns: one is still read by others of the team while the next is filled.
    Histogram histograms[2];
    Mass slots[2][TEAM];
    Tally warp_tallies[WARPS];
    Mass warp_masses[WARPS];
    Found found;
    uint32_t powers[32];
    uint32_t edges[2];
    uint32_t located_token;
    float located_logit;
    uint32_t n_listed;
    uint2 listed[TOP_MAX];
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

__device__ __forceinline__ Mass warp_scan(Mass value) {
#pragma unroll
    for (int distance = 1; distance < WARP; distance *= 2) {
        const Mass before = __shfl_up_sync(ALL_LANES, value, distance);
        if (lane() >= distance) value += before;
    }
    return value;
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

// A part of the vocabulary: `values[i]` is the logit of token `first + i`. Each warp has a run of
// it, `begin..end`.
struct Part {
    float *values;
    uint32_t first, len, begin, end;

    __device__ __forceinline__ static Part of(float *values, uint32_t first, uint32_t len) {
        const uint32_t run = (len + THREADS - 1) / THREADS * WARP;
        return {values, first, len, min(len, warp() * run), min(len, (warp() + 1) * run)};
    }

    template <typename Visit>
    __device__ __forceinline__ void each(Visit visit) const {
#pragma unroll 4
        for (uint32_t i = begin + lane(); i < end; i += WARP) visit(first + i, values[i]);
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

// Weights relative to the highest logit at a temperature.
struct Weigher {
    float max, temperature, inverse, distance_max;
    const uint32_t *powers;
    Mass least;

    __device__ __forceinline__ static Weigher at(float max, float temperature, float min_p,
                                                 const uint32_t *powers) {
        const double least = ceil(static_cast<double>(min_p) * (1ull << MASS_BITS));
        return {max,
                temperature,
                __fdiv_rn(1.0f, temperature),
                __fmul_rn(DISTANCE_MAX, temperature),
                powers,
                least < 1.0 ? 1 : static_cast<Mass>(least)};
    }

    // exp((logit - max) / temperature), rounded to f32 as the reference does, times 2^44; 0 below
    // min-p. The exponential is 2^(-n/32) from a table times e^r, 0 <= r < ln(2)/32.
    __device__ __forceinline__ Mass operator()(float logit) const {
        const float distance = __fsub_rn(max, logit);
        if (!(distance <= distance_max)) return 0;
        // The quotient, rounded as a division would be.
        const float guess = __fmul_rn(distance, inverse);
        const float y = __fmaf_rn(__fmaf_rn(-guess, temperature, distance), inverse, guess);
        const int n = __float2int_ru(__fmul_rn(y, 46.16624130844683f));
        const float n_f32 = static_cast<float>(n);
        // ln(2)/32 in two parts, the first so short that its product is exact.
        const float r = __fmaf_rn(n_f32, 0x1.0bfbe8p-20f, __fmaf_rn(n_f32, 0x1.62ep-6f, -y));
        const float poly = __fmaf_rn(__fmaf_rn(r, 1.0f / 24, 1.0f / 6), r, 0.5f);
        const float p = __fmul_rn(r, __fmaf_rn(poly, r, 1.0f));
        const uint32_t factor =
            0x80000000u + static_cast<uint32_t>(__float2int_rn(__fmul_rn(p, 0x1p31f)));
        const int whole = (n + 31) >> 5;
        Mass product = static_cast<Mass>(powers[(whole << 5) - n]) * factor;
        // It is 2^62 times a number in 1..2: to the 24 bits of an f32, then to its place.
        product = (product + (1ull << 38)) & ~((1ull << 39) - 1);
        const int shift = 62 - MASS_BITS + whole;
        const Mass weight = (product + (1ull << (shift - 1))) >> shift;
        return weight >= least ? weight : 0;
    }
};

// 2^31 · 2^(i/32), rounded.
__device__ __forceinline__ uint32_t power(int i) {
    return static_cast<uint32_t>(__double2ull_rn(exp2(i / 32.0) * 2147483648.0));
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

// Copies a part of a row and applies the row's adjustments to it.
__device__ void load(const Part &part, const float *__restrict__ logits, const Row &row,
                     const Adjustment *__restrict__ adjustments) {
#pragma unroll 8
    for (uint32_t i = part.begin + lane(); i < part.end; i += WARP) {
        part.values[i] = __ldg(logits + part.first + i);
    }
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
    // A key above, the token's complement below: the largest is the one. All ones is no number.
    Mass largest = 0;
    part.each([&](uint32_t token, float logit) {
        const Mass key = key_of(__fadd_rn(logit, 0.0f));
        largest = max(largest, isnan(logit) ? ~0ull : key << 32 | ~token);
    });
    largest = team_max(team, largest);
    const float logit = logit_of(static_cast<uint32_t>(largest >> 32));
    return {largest != 0 && isfinite(logit), ~static_cast<uint32_t>(largest), logit};
}

// ---- Truncation ----

// Keeps logits above that of `key`, and those equal up to `token`.
struct Bound {
    uint32_t key, token;

    __device__ __forceinline__ bool keeps(uint32_t other, float logit) const {
        const uint32_t other_key = key_of(logit);
        return other_key > key || (other_key == key && other <= token);
    }
};

// How far down to go: to this many tokens, or to this much weight.
struct Goal {
    bool is_count;
    Mass least;

    __device__ __forceinline__ bool reached_by(const Tally &tally) const {
        return (is_count ? tally.count : tally.mass) >= least;
    }
};

// What a histogram of the whole row says about this thread's bin, and in all.
struct Bin {
    Tally before, own, all;
};

// Where a row's first histogram puts a logit.
struct Distances {
    float max, scale;

    __device__ __forceinline__ uint32_t bin_of(float logit) const {
        const float distance = __fmul_rn(__fsub_rn(max, logit), scale);
        return min(__float2uint_rz(distance), BINS - 1u);
    }
};

__device__ __forceinline__ void add(Histogram &histogram, uint32_t bin, Mass mass) {
    const uint32_t low = static_cast<uint32_t>(mass);
    atomicAdd(&histogram.count[bin], 1u);
    const bool carries = atomicAdd(&histogram.low[bin], low) > ~low;
    const uint32_t high = static_cast<uint32_t>(mass >> 32) + carries;
    if (high != 0) atomicAdd(&histogram.high[bin], high);
}

// Adds up the team's histograms, highest logits first. `fill` puts this block's part into one.
template <typename Fill>
__device__ Bin bins(Team &team, Fill fill) {
    Histogram &mine = team.shared->histograms[team.turn];
    const int bin = threadIdx.x;
    mine.count[bin] = mine.low[bin] = mine.high[bin] = 0;
    __syncthreads();
    fill(mine);
    team.turn ^= 1;
    team.sync();
    Tally own = {0, 0};
#pragma unroll
    for (int rank = 0; rank < TEAM; rank++) {
        const Histogram *theirs = team.at(&mine, rank);
        own.count += theirs->count[bin];
        own.mass += theirs->low[bin] + (static_cast<Mass>(theirs->high[bin]) << 32);
    }
    Tally before = {warp_scan(own.mass) - own.mass, 0};
    before.count = static_cast<uint32_t>(warp_scan(own.count)) - own.count;
    Tally *tallies = team.shared->warp_tallies;
    if (lane() == WARP - 1) tallies[warp()] = before + own;
    __syncthreads();
    Tally all = {0, 0};
    // Not unrolled whole: that takes more registers than there are.
#pragma unroll 4
    for (int i = 0; i < WARPS; i++) {
        if (i == warp()) before = before + all;
        all = all + tallies[i];
    }
    return {before, own, all};
}

// The bin that reaches the goal, `above` being what lies above all bins.
__device__ Found choose(Shared *shared, const Bin &bin, const Tally &above, const Goal &goal) {
    const Tally before = above + bin.before;
    // Others may still look at what was found last.
    __syncthreads();
    if (goal.reached_by(before + bin.own) && !goal.reached_by(before)) {
        shared->found = {before, bin.own, threadIdx.x};
    }
    __syncthreads();
    return shared->found;
}

// The smallest key above that of -infinity whose bin is `bin` at most; all lanes call.
__device__ uint32_t lowest_key(const Distances &distances, uint32_t bin) {
    uint32_t below = key_of(-INFINITY), fits = key_of(distances.max);
    while (fits - below > 1) {
        const uint32_t step = (fits - below + WARP - 1) / WARP;
        const uint32_t key = min(below + step * (lane() + 1), fits);
        const bool does = distances.bin_of(logit_of(key)) <= bin;
        // The last lane's does.
        const int first = __ffs(__ballot_sync(ALL_LANES, does)) - 1;
        const uint32_t before = __shfl_sync(ALL_LANES, key, max(first - 1, 0));
        fits = __shfl_sync(ALL_LANES, key, first);
        if (first > 0) below = before;
    }
    return fits;
}

// The keys of a bin of the first histogram.
__device__ uint2 keys_of(Shared *shared, const Distances &distances, uint32_t bin) {
    if (warp() == 0) {
        const uint32_t key = lowest_key(distances, bin);
        if (lane() == 0) shared->edges[0] = key;
    } else if (warp() == 1) {
        const uint32_t key =
            bin == 0 ? key_of(distances.max) + 1 : lowest_key(distances, bin - 1);
        if (lane() == 0) shared->edges[1] = key;
    }
    __syncthreads();
    return {shared->edges[0], shared->edges[1] - 1};
}

// The token, in their order, at which the sum of `value` exceeds `left_of(sum of all)`, which is
// less than that sum.
template <typename Value, typename Left>
__device__ void locate(Team &team, const Part &part, Value value, Left left_of) {
    Shared *shared = team.shared;
    Mass sum = 0;
    part.each([&](uint32_t token, float logit) { sum += value(token, logit); });
    sum = warp_sum(sum);
    if (lane() == 0) shared->warp_masses[warp()] = sum;
    __syncthreads();
    Mass block = 0;
#pragma unroll 4
    for (int i = 0; i < WARPS; i++) block += shared->warp_masses[i];
    const Mass *all = team.exchange(block);
    Mass total = 0, before = 0;
    for (int rank = 0; rank < TEAM; rank++) {
        if (rank == static_cast<int>(team.rank)) before = total;
        total += all[rank];
    }
    for (int i = 0; i < warp(); i++) before += shared->warp_masses[i];
    const Mass left = left_of(total);
    if (left >= before && left - before < sum) {
        for (uint32_t i = part.begin; i < part.end; i += WARP) {
            const uint32_t at = i + lane();
            const float logit = at < part.end ? part.values[at] : -INFINITY;
            const Mass reached =
                before + warp_scan(at < part.end ? value(part.first + at, logit) : 0);
            const unsigned beyond = __ballot_sync(ALL_LANES, reached > left);
            before = __shfl_sync(ALL_LANES, reached, WARP - 1);
            if (beyond == 0) continue;
            const int lucky = __ffs(beyond) - 1;
            const uint32_t token = part.first + i + lucky;
            const float its_logit = __shfl_sync(ALL_LANES, logit, lucky);
            if (lane() < TEAM) {
                *team.at(&shared->located_token, lane()) = token;
                *team.at(&shared->located_logit, lane()) = its_logit;
            }
            break;
        }
    }
    team.sync();
}

// The last of the tokens with this key that is kept if the first `n` are.
__device__ uint32_t nth_of(Team &team, const Part &part, uint32_t key, Mass n) {
    locate(
        team, part,
        [&](uint32_t, float logit) { return static_cast<Mass>(key_of(logit) == key); },
        [&](Mass) { return n - 1; });
    return team.shared->located_token;
}

struct Kept {
    Bound bound;
    Mass mass;
};

// The bound at which the goal is reached; `first` is the row's histogram over `distances`, of the
// logits that `weigh` finds not to be 0.
template <typename Weigh>
__device__ Kept keep(Team &team, const Part &part, const Distances &distances, const Bin &first,
                     const Goal &goal, Weigh weigh) {
    Found found = choose(team.shared, first, {0, 0}, goal);
    const uint2 edges = keys_of(team.shared, distances, found.bin);
    uint32_t lowest = edges.x, highest = edges.y;
    while (true) {
        // All of the bin or none, whatever it consists of.
        const bool is_whole = found.own.count == 1 ||
                              (goal.is_count && found.before.count + found.own.count == goal.least);
        if (is_whole) return {{lowest, EVERY_TOKEN}, found.before.mass + found.own.mass};
        if (lowest == highest) break;
        const int shift = max(0, 32 - __clz(highest - lowest) - LOG_BINS);
        const Bin bin = bins(team, [&](Histogram &histogram) {
            part.each([&](uint32_t, float logit) {
                const uint32_t key = key_of(logit);
                if (key < lowest || key > highest) return;
                const Mass mass = weigh(logit);
                if (mass != 0) add(histogram, (highest - key) >> shift, mass);
            });
        });
        found = choose(team.shared, bin, found.before, goal);
        highest -= found.bin << shift;
        const uint32_t width = (1u << shift) - 1;
        lowest = max(lowest, highest > width ? highest - width : 0);
    }
    // Equal logits, so of equal weights: the lower tokens are kept.
    const Mass weight = found.own.mass / found.own.count;
    const Mass n = goal.is_count ? goal.least - found.before.count
                                 : (goal.least - found.before.mass + weight - 1) / weight;
    const Mass mass = found.before.mass + n * weight;
    if (n >= found.own.count) return {{lowest, EVERY_TOKEN}, mass};
    return {{lowest, nth_of(team, part, lowest, n)}, mass};
}

template <typename Weigh>
__device__ Bin first_bins(Team &team, const Part &part, const Distances &distances, Weigh weigh) {
    return bins(team, [&](Histogram &histogram) {
        part.each([&](uint32_t, float logit) {
            const Mass mass = weigh(logit);
            if (mass != 0) add(histogram, distances.bin_of(logit), mass);
        });
    });
}

// What top-k and then top-p keep of what min-p has left.
__device__ Bound truncate(Team &team, const Part &part, const Row &row, const Weigher &weigh) {
    Bound bound = {0, EVERY_TOKEN};
    if (row.top_k == 0 && row.top_p >= 1.0f) return bound;
    const Distances distances = {weigh.max, __fdiv_rn(BINS_PER_UNIT, row.temperature)};
    const Bin first = first_bins(team, part, distances, weigh);
    Mass total = first.all.mass;
    if (row.top_k != 0 && row.top_k < first.all.count) {
        const Kept kept = keep(team, part, distances, first, {true, row.top_k}, weigh);
        bound = kept.bound;
        total = kept.mass;
    }
    if (row.top_p < 1.0f) {
        const double share = ceil(static_cast<double>(total) * static_cast<double>(row.top_p));
        const Mass goal = max(1ull, min(total, static_cast<Mass>(share)));
        bound = keep(team, part, distances, first, {false, goal}, weigh).bound;
    }
    return bound;
}

// ---- Log probabilities ----

// Lists the `n` most likely tokens and their logits in the shared memory of the team's first block,
// in any order; how many there are.
__device__ uint32_t list_top(Team &team, const Part &part, float max, uint32_t n) {
    const auto is_possible = [](float logit) { return static_cast<Mass>(logit > -INFINITY); };
    const Distances distances = {max, BINS_PER_UNIT};
    const Bin first = first_bins(team, part, distances, is_possible);
    Bound bound = {0, EVERY_TOKEN};
    if (n < first.all.count) {
        bound = keep(team, part, distances, first, {true, n}, is_possible).bound;
    }
    part.each([&](uint32_t token, float logit) {
        if (is_possible(logit) == 0 || !bound.keeps(token, logit)) return;
        const uint32_t place = atomicAdd(team.at(&team.shared->n_listed, 0), 1u);
        *team.at(&team.shared->listed[place], 0) = {token, key_of(logit)};
    });
    team.sync();
    return min(n, first.all.count);
}

// Writes the listed tokens in order; a warp calls.
__device__ void write_top(const Shared *shared, uint32_t n, double norm, Result *result) {
    if (lane() >= static_cast<int>(n)) return;
    const uint2 mine = shared->listed[lane()];
    int place = 0;
    for (uint32_t i = 0; i < n; i++) {
        const uint2 other = shared->listed[i];
        place += other.y > mine.y || (other.y == mine.y && other.x < mine.x);
    }
    result->top[place] = {mine.x, static_cast<float>(logit_of(mine.y) - norm)};
}

__device__ void report(Team &team, const Part &part, const Row &row, float max, float logit,
                       Result *result) {
    const Weigher weigh = Weigher::at(max, 1.0f, 0.0f, team.shared->powers);
    Mass sum = 0;
    part.each([&](uint32_t, float other) { sum += weigh(other); });
    const double total = static_cast<double>(team_sum(team, sum)) / (1ull << MASS_BITS);
    const double norm = max + log(total);
    const uint32_t n = row.n_top == 0 ? 0 : list_top(team, part, max, row.n_top);
    if (team.rank != 0 || warp() != 0) return;
    write_top(team.shared, n, norm, result);
    if (lane() == 0) {
        result->logprob = static_cast<float>(logit - norm);
        result->n_top = n;
    }
}

}  // namespace

// `BLOCKS_PER_ROW` blocks a row of `rows`, which names its row of `logits` (`vocab` of them, the
// next row `stride` further). The result's token is also written to `tokens`. `scratch`, if any, is
// f32 [rows, vocab]; without it the block's part of a row lies in dynamic shared memory.
extern "C" __global__ void IN_CLUSTERS __launch_bounds__(THREADS, 2)
    sample_f32(const float *__restrict__ logits, const Row *__restrict__ rows,
               const Adjustment *__restrict__ adjustments, Result *results, uint32_t *tokens,
               float *scratch, uint32_t vocab, uint32_t stride) {
    extern __shared__ float cache[];
    __shared__ Shared shared;
    const uint32_t row_idx = blockIdx.x / BLOCKS_PER_ROW;
    if (TEAM == 1 && blockIdx.x % BLOCKS_PER_ROW != 0) return;
    const Row &row = rows[row_idx];
    Team team = Team::of(&shared);
    Result *result = results + row_idx;
    const bool writes = team.rank == 0 && threadIdx.x == 0;
    if (!(row.flags & IS_ACTIVE)) {
        if (writes) {
            *result = {0, STATUS_INACTIVE, 0.0f, 0};
            tokens[row_idx] = 0;
        }
        return;
    }
    if (threadIdx.x < 32) shared.powers[threadIdx.x] = power(threadIdx.x);
    if (threadIdx.x == 0) shared.n_listed = 0;

    const uint32_t share = (vocab + TEAM - 1) / TEAM;
    const uint32_t first = min(vocab, team.rank * share);
    float *values = scratch ? scratch + static_cast<size_t>(row_idx) * vocab + first : cache;
    const Part part = Part::of(values, first, min(share, vocab - first));
    load(part, logits + static_cast<size_t>(row.logits_row) * stride, row, adjustments);
    // Also so that no block writes to another that has not begun.
    team.sync();

    const Best top = best(team, part);
    if (!top.is_valid) {
        if (writes) {
            *result = {0, STATUS_NOT_FINITE, 0.0f, 0};
            tokens[row_idx] = 0;
        }
        return;
    }
    uint32_t token = top.token;
    float logit = top.logit;
    if (!(row.flags & IS_GREEDY)) {
        const Weigher weigh = Weigher::at(top.logit, row.temperature, row.min_p, shared.powers);
        const Bound bound = truncate(team, part, row, weigh);
        const Mass noise = static_cast<Mass>(row.noise_high) << 32 | row.noise_low;
        locate(
            team, part,
            [&](uint32_t token, float logit) {
                return bound.keeps(token, logit) ? weigh(logit) : 0;
            },
            [&](Mass total) { return __umul64hi(noise, total); });
        token = shared.located_token;
        logit = shared.located_logit;
    }
    const bool wants_logprobs = row.flags & WANTS_LOGPROBS;
    if (writes) {
        result->token = token;
        result->status = wants_logprobs ? STATUS_TOKEN_AND_LOGPROBS : STATUS_TOKEN;
        result->logprob = 0.0f;
        result->n_top = 0;
        tokens[row_idx] = token;
    }
    if (wants_logprobs) report(team, part, row, top.logit, logit, result);
}
