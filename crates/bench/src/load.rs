//! A load generator: so many chats at a time, and the percentiles of their times.

use crate::client::{Chat, Client, Reply};
use crate::eval::questions::picture_of;
use crate::pictures::law::{Paper, shapes};
use crate::pictures::render::{Content, Encoding, Picture};
use crate::pool;
use crate::rng::Rng;
use crate::server_cpu::cpu_time;
use std::time::{Duration, Instant};

/// The load.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The server.
    #[arg(long, default_value = "http://127.0.0.1:8000")]
    pub url: String,
    /// The model; the first one served when absent.
    #[arg(long)]
    pub model: Option<String>,
    /// Requests in all.
    #[arg(long, default_value_t = 100)]
    pub n: usize,
    /// Requests before the clock starts.
    #[arg(long, default_value_t = 2)]
    pub warm_up: usize,
    /// Requests under way at the same time.
    #[arg(long, default_value_t = 1)]
    pub concurrency: usize,
    /// Most tokens of an answer.
    #[arg(long, default_value_t = 64)]
    pub max_tokens: u32,
    /// Let every answer have all of its tokens.
    #[arg(long)]
    pub ignore_eos: bool,
    /// Pictures of each request; every one is fresh.
    #[arg(long, default_value_t = 1)]
    pub pictures: usize,
    /// Width and height of each picture in pixels; by the law of the demo's pictures when absent.
    #[arg(long)]
    pub side: Option<u32>,
    /// The user's words.
    #[arg(long, default_value = "What is in the picture?")]
    pub text: String,
    /// Process ids of the server, on this machine: their processor time is measured too.
    #[arg(long, value_delimiter = ',', value_name = "PID")]
    pub server_pids: Vec<u32>,
    /// Other seeds give other pictures.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Runs the load and prints its figures; fails when a request failed.
pub fn run(args: &Args) -> Result<(), String> {
    let client = Client::connect(&args.url, args.model.as_deref())?;
    for idx in 0..args.warm_up {
        client.ask(&chat(args, args.n + idx))?;
    }
    let start = Instant::now();
    let cpu_before = cpu_times(&args.server_pids)?;
    let mut replies = Vec::new();
    let mut failures = Vec::new();
    pool::run(
        "requests",
        args.n,
        args.concurrency,
        |idx| client.ask(&chat(args, idx)),
        |_, reply| match reply {
            Ok(reply) => replies.push(reply),
            Err(error) => failures.push(error),
        },
    );
    print!("{}", report(&replies, start.elapsed()));
    let cpu_after = cpu_times(&args.server_pids)?;
    for (pid, (before, after)) in args.server_pids.iter().zip(cpu_before.iter().zip(cpu_after)) {
        let us = (after - *before).as_micros() as f64 / replies.len().max(1) as f64;
        println!("cpu        {us:.0} us a request, process {pid}");
    }
    match failures.first() {
        None => Ok(()),
        Some(first) => Err(format!("{} of {} requests failed; {first}", failures.len(), args.n)),
    }
}

fn cpu_times(pids: &[u32]) -> Result<Vec<Duration>, String> {
    pids.iter().map(|pid| cpu_time(*pid)).collect()
}

fn chat(args: &Args, idx: usize) -> Chat {
    let rng = &mut Rng::of(args.seed, "load", idx as u64);
    let pictures = (0..args.pictures).map(|_| picture(rng, args.side));
    Chat {
        text: args.text.clone(),
        pictures: pictures.map(|picture| (picture.encoding.media_type(), picture.file())).collect(),
        max_tokens: args.max_tokens,
        ignore_eos: args.ignore_eos,
    }
}

fn picture(rng: &mut Rng, side: Option<u32>) -> Picture {
    let Some(side) = side else { return picture_of(rng, 2).0 };
    let paper = Paper { width: side, height: side, background: [255; 3] };
    let content = Content::Shapes(shapes(rng, &paper, 2).unwrap_or_default());
    Picture { paper, content, encoding: Encoding::Png }
}

/// Time to first token, time per further token, and throughput.
fn report(replies: &[Reply], elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    let n_tokens: u64 = replies.iter().map(|reply| reply.n_tokens).sum();
    let n_prompt_tokens: u64 = replies.iter().map(|reply| reply.n_prompt_tokens).sum();
    let first: Vec<f64> = replies.iter().map(|reply| ms(reply.first_token)).collect();
    let further: Vec<f64> = replies.iter().filter_map(ms_per_further_token).collect();
    let n = replies.len();
    format!(
        "requests   {n} in {seconds:.2} s, {:.2}/s\n\
         tokens     {n_prompt_tokens} prompt, {n_tokens} answer, {:.1}/s\n\
         first      {}\n\
         further    {}\n",
        n as f64 / seconds,
        n_tokens as f64 / seconds,
        percentiles(first),
        percentiles(further),
    )
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn ms_per_further_token(reply: &Reply) -> Option<f64> {
    let n_further = reply.n_tokens.checked_sub(1).filter(|&n| n > 0)?;
    Some(ms(reply.last_token - reply.first_token) / n_further as f64)
}

/// `p50 … p90 … p99 … max … ms`, by nearest rank.
fn percentiles(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let Some(max) = values.last() else { return "no values".into() };
    let at = |percent: usize| values[(values.len() * percent).div_ceil(100) - 1];
    format!("p50 {:.2}  p90 {:.2}  p99 {:.2}  max {max:.2} ms", at(50), at(90), at(99))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: impl Iterator<Item = u32>, expected: &str) {
        assert_eq!(percentiles(values.map(f64::from).collect()), expected);
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        check(0..0, "no values");
        check(7..8, "p50 7.00  p90 7.00  p99 7.00  max 7.00 ms");
        check((1..=200).rev(), "p50 100.00  p90 180.00  p99 198.00  max 200.00 ms");
    }

    #[test]
    fn time_per_token_counts_from_the_first() {
        let time = Duration::from_millis;
        let reply = |n_tokens| Reply {
            first_token: time(100),
            last_token: time(130),
            n_tokens,
            ..Reply::default()
        };
        assert_eq!(ms_per_further_token(&reply(4)), Some(10.0));
        assert_eq!(ms_per_further_token(&reply(1)), None);
        assert_eq!(ms_per_further_token(&reply(0)), None);
    }
}
