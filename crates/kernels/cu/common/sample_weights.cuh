// Logits of a part of the vocabulary and their weights. Contract: ../sample.cu.
#pragma once

#include "sample_team.cuh"

namespace {

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

}  // namespace
