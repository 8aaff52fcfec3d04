//! Tests of sampling: a table of exact cases, and chi-square tests with fixed seeds.

use super::*;

const PROMPT: [TokenId; 2] = [0, 1];

fn params() -> SamplingParams {
    SamplingParams { temperature: 1.0, seed: 7, ..SamplingParams::default() }
}

fn sample(logits: &[f32], params: &SamplingParams, answer: &[TokenId], choice: u32) -> OutputToken {
    let draw = Draw { params, prompt: &PROMPT, answer, choice, end_ids: &[3] };
    Sampler::default().sample(logits, &draw).expect("finite logits")
}

/// How often each token comes in `n_draws` answers' places of one request.
fn frequencies(logits: &[f32], params: &SamplingParams, n_draws: usize) -> Vec<usize> {
    let mut sampler = Sampler::default();
    let mut counts = vec![0; logits.len()];
    // The index runs over answers of one neutral token.
    let answer = vec![u32::MAX; n_draws];
    for idx in 0..n_draws {
        let answer = &answer[..idx];
        let draw = Draw { params, prompt: &PROMPT, answer, choice: 0, end_ids: &[] };
        counts[sampler.sample(logits, &draw).expect("finite logits").token as usize] += 1;
    }
    counts
}

/// Greedy with these changes and this answer so far gives `expected`.
fn check(logits: &[f32], answer: &[TokenId], expected: TokenId, change: SamplingParams) {
    let params = SamplingParams { temperature: 0.0, ..change };
    assert_eq!(sample(logits, &params, answer, 0).token, expected, "{params:?} after {answer:?}");
}

#[test]
fn greedy_table() {
    let neutral = SamplingParams::default;
    check(&[1.0, 3.0, 3.0, 2.0], &[], 1, neutral());
    check(&[-2.0, -1.0, f32::NEG_INFINITY], &[], 1, neutral());
    // Penalties: repetition sees the prompt (0, 1), presence and frequency only the answer.
    check(&[4.0, 3.9, 3.0, 0.0], &[], 2, SamplingParams { repetition_penalty: 1.5, ..neutral() });
    check(
        &[-1.0, -1.1, -1.4, -9.0],
        &[],
        2,
        SamplingParams { repetition_penalty: 2.0, ..neutral() },
    );
    check(&[4.0, 3.0, 0.0, 0.0], &[], 0, SamplingParams { presence_penalty: 2.0, ..neutral() });
    check(&[4.0, 3.0, 0.0, 0.0], &[0], 1, SamplingParams { presence_penalty: 2.0, ..neutral() });
    check(&[4.0, 3.0, 0.0, 0.0], &[0], 0, SamplingParams { frequency_penalty: 0.6, ..neutral() });
    check(
        &[4.0, 3.0, 0.0, 0.0],
        &[0, 0],
        1,
        SamplingParams { frequency_penalty: 0.6, ..neutral() },
    );
    // Bias, also on tokens that do not exist.
    let bias = |logit_bias| SamplingParams { logit_bias, ..neutral() };
    check(&[4.0, 3.0, 0.0, 0.0], &[], 2, bias(vec![(2, 5.0), (99, 100.0)]));
    check(&[4.0, 3.0, 0.0, 0.0], &[], 1, bias(vec![(0, -100.0)]));
    // The end token (3) waits for min_tokens.
    let at_least = |min_tokens| SamplingParams { min_tokens, ..neutral() };
    check(&[0.0, 1.0, 0.0, 9.0], &[0, 0], 1, at_least(3));
    check(&[0.0, 1.0, 0.0, 9.0], &[0, 0, 0], 3, at_least(3));
}

#[test]
fn refused() {
    let params = params();
    let draw = Draw { params: &params, prompt: &[], answer: &[], choice: 0, end_ids: &[] };
    for logits in [&[0.0, f32::NAN][..], &[f32::NEG_INFINITY], &[f32::INFINITY, 0.0], &[]] {
        assert!(Sampler::default().sample(logits, &draw).is_err(), "{logits:?}");
    }
}

/// With these changes only `possible` come, and each of them does.
fn check_support(logits: &[f32], possible: &[TokenId], change: SamplingParams) {
    let counts = frequencies(logits, &change, 4000);
    let seen: Vec<TokenId> =
        (0..logits.len() as u32).filter(|token| counts[*token as usize] > 0).collect();
    assert_eq!(seen, possible, "{change:?}");
}

#[test]
fn truncation_table() {
    // Probabilities 0.4, 0.3, 0.2, 0.1, in the order 2, 0, 3, 1.
    let logits: Vec<f32> = [0.3_f32, 0.1, 0.4, 0.2].iter().map(|p| p.ln()).collect();
    check_support(&logits, &[0, 1, 2, 3], params());
    check_support(&logits, &[2], SamplingParams { top_k: 1, ..params() });
    check_support(&logits, &[0, 2, 3], SamplingParams { top_k: 3, ..params() });
    check_support(&logits, &[0, 1, 2, 3], SamplingParams { top_k: 9, ..params() });
    check_support(&logits, &[2], SamplingParams { top_p: 0.39, ..params() });
    check_support(&logits, &[0, 2], SamplingParams { top_p: 0.41, ..params() });
    check_support(&logits, &[0, 2, 3], SamplingParams { top_p: 0.89, ..params() });
    check_support(&logits, &[0, 1, 2, 3], SamplingParams { top_p: 0.91, ..params() });
    check_support(&logits, &[2], SamplingParams { top_p: 0.0, ..params() });
    check_support(&logits, &[0, 2], SamplingParams { min_p: 0.7, ..params() });
    check_support(&logits, &[0, 2, 3], SamplingParams { min_p: 0.45, ..params() });
    // top-p is of what top-k has left: 0.4 of 0.7 is 0.57.
    check_support(&logits, &[2], SamplingParams { top_k: 2, top_p: 0.5, ..params() });
    check_support(&logits, &[0, 2], SamplingParams { top_k: 2, top_p: 0.6, ..params() });
    // Temperature comes before min-p: at 2 the shares are the square roots.
    check_support(&logits, &[0, 2, 3], SamplingParams { min_p: 0.7, temperature: 2.0, ..params() });
    // Of equal ones the lower token is kept.
    check_support(&[1.0, 1.0, 1.0], &[0, 1], SamplingParams { top_k: 2, ..params() });
}

/// Chi-square of `n_draws` draws against `expected` stays under the 99.99 % quantile.
fn check_distribution(logits: &[f32], expected: &[f64], change: SamplingParams) {
    const N_DRAWS: usize = 20_000;
    let counts = frequencies(logits, &change, N_DRAWS);
    let mut chi_square = 0.0;
    let mut n_free = -1.0;
    for (&count, &share) in counts.iter().zip(expected) {
        let mean = share * N_DRAWS as f64;
        if share == 0.0 {
            assert_eq!(count, 0, "{change:?}");
        } else {
            chi_square += (count as f64 - mean).powi(2) / mean;
            n_free += 1.0;
        }
    }
    // Wilson and Hilferty's approximation of the quantile, z = 3.72.
    let spread = 2.0 / (9.0 * f64::max(n_free, 1.0));
    let quantile = n_free * (1.0 - spread + 3.72 * f64::sqrt(spread)).powi(3);
    assert!(chi_square <= quantile, "chi² {chi_square} over {quantile} with {change:?}");
}

#[test]
fn draws_follow_the_probabilities() {
    let shares = [0.3_f64, 0.1, 0.4, 0.2];
    let logits: Vec<f32> = shares.iter().map(|p| p.ln() as f32).collect();
    for seed in [0, 1, 42, u64::MAX] {
        check_distribution(&logits, &shares, SamplingParams { seed, ..params() });
        let top_k = [0.3 / 0.7, 0.0, 0.4 / 0.7, 0.0];
        check_distribution(&logits, &top_k, SamplingParams { seed, top_k: 2, ..params() });
        let top_p = [0.3 / 0.9, 0.0, 0.4 / 0.9, 0.2 / 0.9];
        check_distribution(&logits, &top_p, SamplingParams { seed, top_p: 0.8, ..params() });
        let squares = [0.09 / 0.3, 0.01 / 0.3, 0.16 / 0.3, 0.04 / 0.3];
        check_distribution(
            &logits,
            &squares,
            SamplingParams { seed, temperature: 0.5, ..params() },
        );
    }
    let flat = vec![0.0; 1000];
    check_distribution(&flat, &vec![0.001; 1000], params());
}

#[test]
fn noise_is_a_function_of_seed_choice_and_index_alone() {
    let flat = vec![0.0; 1 << 16];
    let one = |seed, choice, idx| {
        let params = SamplingParams { seed, ..params() };
        sample(&flat, &params, &vec![9; idx], choice).token
    };
    let base = one(1, 0, 5);
    assert_eq!(base, one(1, 0, 5));
    let others = [one(2, 0, 5), one(1 << 32, 0, 5), one(1, 1, 5), one(1, 0, 6), one(1, 5, 0)];
    assert!(others.iter().all(|other| *other != base), "{base} in {others:?}");
    // Neither the prompt nor which tokens were answered matters.
    let params = SamplingParams { seed: 1, ..params() };
    let draw =
        Draw { params: &params, prompt: &[], answer: &[1, 2, 3, 4, 5], choice: 0, end_ids: &[] };
    assert_eq!(Sampler::default().sample(&flat, &draw).expect("finite").token, base);
}

#[test]
fn log_probabilities() {
    let logits: Vec<f32> = [0.3_f32, 0.1, 0.4, 0.2].iter().map(|p| p.ln() + 5.0).collect();
    let near = |logprob: f32, p: f32| assert!((logprob - p.ln()).abs() < 1e-5, "{logprob} for {p}");
    // Temperature and truncation do not change them.
    let odd = SamplingParams { temperature: 0.3, top_k: 1, logprobs: Some(3), ..params() };
    let token = sample(&logits, &odd, &[], 0);
    assert_eq!(token.token, 2);
    near(token.logprob.expect("asked for"), 0.4);
    let top: Vec<TokenId> = token.top_logprobs.iter().map(|one| one.token).collect();
    assert_eq!(top, [2, 0, 3]);
    for (one, p) in token.top_logprobs.iter().zip([0.4, 0.3, 0.2]) {
        near(one.logprob, p);
    }
    // Bias does: token 1 now weighs four times as much, 0.4 of 1.3.
    let bias = SamplingParams { logit_bias: vec![(1, 4_f32.ln())], ..odd.clone() };
    let token = sample(&logits, &bias, &[], 0);
    assert_eq!(token.top_logprobs.iter().map(|one| one.token).collect::<Vec<_>>(), [1, 2, 0]);
    near(token.logprob.expect("asked for"), 0.4 / 1.3);
    let none = sample(&logits, &SamplingParams { logprobs: Some(0), ..odd.clone() }, &[], 0);
    assert!(none.logprob.is_some() && none.top_logprobs.is_empty());
    let off = sample(&logits, &SamplingParams { logprobs: None, ..odd }, &[], 0);
    assert!(off.logprob.is_none() && off.top_logprobs.is_empty());
}

#[test]
fn a_nucleus_is_the_smallest_that_reaches_its_goal() {
    let mut state = 1_u64;
    for len in [1, 2, 3, 7, 100, 1000] {
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1 << 24) as f32
        };
        let mut candidates: Vec<Candidate> = (0..len)
            .map(|token| {
                let logit = -4.0 * random();
                Candidate { token, logit, weight: logit.exp() }
            })
            .collect();
        let total: f64 = candidates.iter().map(Candidate::weight).sum();
        let mut sorted = candidates.clone();
        sorted.sort_by(Candidate::order);
        for share in [0.0, 0.01, 0.3, 0.5, 0.9, 0.999] {
            let goal = share * total;
            let n_kept = nucleus_len(&mut candidates, goal);
            let sum = |n| sorted[..n].iter().map(Candidate::weight).sum::<f64>();
            assert!(sum(n_kept) >= goal - 1e-9 && (n_kept == 1 || sum(n_kept - 1) < goal + 1e-9));
        }
    }
}
