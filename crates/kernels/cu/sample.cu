// Choosing the next token of every row. Contract: crates/tensor/src/ops/sample.rs; the layouts of
// rows, adjustments and results: crates/tensor/src/ops/sample_cuda.rs.
//
// A row is the work of a team: a cluster of blocks, each with a part of the vocabulary in its
// shared memory (a single block where there are no clusters). Sums of weights are whole numbers,
// 2^44 for the most likely token, and exact: no result depends on who adds what when, nor on how
// the vocabulary is divided. Nothing is sorted: the last token that truncation keeps is found by
// histograms, until so few tokens are in question that each can be compared with each.

#include "common/sample_truncation.cuh"

namespace {

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
