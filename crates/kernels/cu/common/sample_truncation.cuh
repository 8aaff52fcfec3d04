// What min-p, top-k and top-p keep of a row, and the draw among it. Contract: ../sample.cu.
#pragma once

#include "sample_weights.cuh"

namespace {

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

}  // namespace
