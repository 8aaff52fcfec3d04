//! Which instance runs which stage: a pure choice among those that are there.

use planes::Instance;
use types::stage::{Stage, Stages};

/// An instance, and what this router knows of it.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The instance.
    pub instance: Instance,
    /// Requests under way; media, on an encoder.
    pub n_running: usize,
    /// Whether a call to it has failed a moment ago; then others are taken first.
    pub is_suspect: bool,
}

/// The instances that a request visits. Stages without one of their own run where `prefill` does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Encode the media; empty when there are none or `prefill` encodes them itself.
    pub encode: Vec<Share>,
    /// Runs the prompt.
    pub prefill: Instance,
    /// Generates; `None` when `prefill` goes on itself.
    pub decode: Option<Instance>,
}

/// An encoder and its part of a request's media.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The encoder.
    pub encoder: Instance,
    /// Indices of its media.
    pub media: Vec<usize>,
}

impl Route {
    /// The stages that one call to the prefill instance runs.
    pub fn stages_at_prefill(&self, has_media: bool) -> Stages {
        let encodes = has_media && self.encode.is_empty();
        match (encodes, self.decode.is_none()) {
            (true, true) => Stages::ALL,
            (true, false) => Stages::of(&[Stage::Encode, Stage::Prefill]),
            (false, true) => Stages::of(&[Stage::Prefill, Stage::Decode]),
            (false, false) => Stages::of(&[Stage::Prefill]),
        }
    }
}

/// The role without which no request can be answered; `None` when there is nothing missing.
pub fn missing_role(instances: &[Instance]) -> Option<Stage> {
    let is_whole = |instance: &Instance| instance.stages == Stages::ALL;
    if instances.iter().any(is_whole) {
        return None;
    }
    // Asked in this order: the first role to start is the one that text cannot do without.
    let there = |stage| instances.iter().any(|instance| instance.stages.has(stage));
    [Stage::Prefill, Stage::Decode, Stage::Encode].into_iter().find(|&stage| !there(stage))
}

/// The least loaded instances that together run all stages for `n_media` media: separate roles
/// before a whole instance, encoders of their own before a prefill worker that encodes. Errors: the
/// role that is missing.
pub fn route(candidates: &[Candidate], n_media: usize) -> Result<Route, Stage> {
    let separate = separate(candidates, n_media);
    let Err(missing) = separate else { return separate };
    let whole = least_loaded(candidates, |instance| instance.stages == Stages::ALL);
    whole.map(|prefill| Route { encode: Vec::new(), prefill, decode: None }).ok_or(missing)
}

fn separate(candidates: &[Candidate], n_media: usize) -> Result<Route, Stage> {
    let decoder_for = |prefill: &Instance| {
        least_loaded(candidates, |found| {
            found.stages == Stages::of(&[Stage::Decode]) && found.kv == prefill.kv
        })
    };
    let prefill = least_loaded(candidates, |found| {
        is_prefill(found)
            && (n_media == 0 || is_seeing(candidates, found))
            && decoder_for(found).is_some()
    });
    let prefill = prefill.ok_or_else(|| lacking(candidates, n_media > 0))?;
    let decode = decoder_for(&prefill);
    Ok(Route { encode: share_out(candidates, &prefill, n_media), prefill, decode })
}

/// Whether media can be encoded for, or by, this prefill worker.
fn is_seeing(candidates: &[Candidate], prefill: &Instance) -> bool {
    prefill.stages.has(Stage::Encode) || encoders_of(candidates, prefill).next().is_some()
}

/// The encoders whose rows this prefill worker takes.
fn encoders_of<'a>(
    candidates: &'a [Candidate],
    prefill: &'a Instance,
) -> impl Iterator<Item = &'a Candidate> {
    candidates.iter().filter(|found| {
        let is_of_pool = |pool: &String| {
            let rest = found.instance.address.0.strip_prefix(pool.as_str());
            rest.is_some_and(|rest| rest.starts_with('.'))
        };
        found.instance.stages == Stages::of(&[Stage::Encode])
            && prefill.encode_endpoint.as_ref().is_none_or(is_of_pool)
    })
}

fn is_prefill(instance: &Instance) -> bool {
    instance.stages.has(Stage::Prefill) && !instance.stages.has(Stage::Decode)
}

/// The role for want of which separate workers cannot answer.
fn lacking(candidates: &[Candidate], has_media: bool) -> Stage {
    let mut prefills = candidates.iter().map(|found| &found.instance).filter(|it| is_prefill(it));
    if prefills.clone().next().is_none() {
        Stage::Prefill
    } else if has_media && !prefills.any(|found| is_seeing(candidates, found)) {
        Stage::Encode
    } else {
        Stage::Decode
    }
}

/// Gives each medium to the encoder that has the least to do.
fn share_out(candidates: &[Candidate], prefill: &Instance, n_media: usize) -> Vec<Share> {
    let encoders: Vec<&Candidate> = encoders_of(candidates, prefill).collect();
    let mut shares: Vec<Vec<usize>> = vec![Vec::new(); encoders.len()];
    for medium_idx in 0..n_media {
        let load =
            |&idx: &usize| (encoders[idx].is_suspect, encoders[idx].n_running + shares[idx].len());
        if let Some(idx) = (0..encoders.len()).min_by_key(load) {
            shares[idx].push(medium_idx);
        }
    }
    let shares = encoders.into_iter().zip(shares).filter(|(_, media)| !media.is_empty());
    shares.map(|(found, media)| Share { encoder: found.instance.clone(), media }).collect()
}

fn least_loaded(candidates: &[Candidate], fits: impl Fn(&Instance) -> bool) -> Option<Instance> {
    let fitting = candidates.iter().filter(|candidate| fits(&candidate.instance));
    let least = fitting.min_by_key(|candidate| (candidate.is_suspect, candidate.n_running))?;
    Some(least.instance.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use planes::Address;
    use types::InstanceId;
    use types::content::Digest;
    use types::kv::KvLayout;

    /// `e`, `p` (prefill only), `q` (prefill with a tower), `d`, `w` (whole), then its load; `!` is
    /// a suspect, `x` at the end is another KV layout, and `p0@e1` takes rows of `e1` only.
    fn candidates(spec: &str) -> Vec<Candidate> {
        spec.split_whitespace().map(candidate).collect()
    }

    fn candidate(word: &str) -> Candidate {
        let (word, pool) = word.split_once('@').map_or((word, None), |(a, b)| (a, Some(b)));
        let stages = match &word[..1] {
            "e" => Stages::of(&[Stage::Encode]),
            "p" => Stages::of(&[Stage::Prefill]),
            "q" => Stages::of(&[Stage::Encode, Stage::Prefill]),
            "d" => Stages::of(&[Stage::Decode]),
            _ => Stages::ALL,
        };
        let instance = Instance {
            id: InstanceId(1),
            model: "m".into(),
            card: Digest::default(),
            stages,
            address: Address(format!("{word}.1")),
            transports: Vec::new(),
            kv: word.ends_with('x').then(|| KvLayout {
                block_size: 64,
                n_layers: 1,
                n_kv_heads: 1,
                head_dim: 64,
                dtype: "f32".into(),
            }),
            encode_endpoint: pool.map(Into::into),
        };
        let n_running = word[1..].trim_end_matches(['!', 'x']).parse().unwrap();
        Candidate { instance, n_running, is_suspect: word.contains('!') }
    }

    fn check(there: &str, n_media: usize, expect: &str) {
        let found = match route(&candidates(there), n_media) {
            Ok(Route { encode, prefill, decode }) => {
                let name = |found: &Instance| found.address.0.trim_end_matches(".1").to_owned();
                let share = |Share { encoder, media }| format!("{}{media:?}", name(&encoder));
                let encode: Vec<String> = encode.into_iter().map(share).collect();
                let encode = if encode.is_empty() { "-".into() } else { encode.join("+") };
                let decode = decode.map_or("-".into(), |found| name(&found));
                format!("{encode} {} {decode}", name(&prefill))
            }
            Err(stage) => stage.name().into(),
        };
        assert_eq!(found, expect, "{there:?}, {n_media} media");
    }

    #[test]
    fn the_route_follows_what_is_there() {
        check("w0", 1, "- w0 -");
        check("w3 w1 w2", 0, "- w1 -");
        check("e0 p0 d0", 1, "e0[0] p0 d0");
        check("e0 p0 d0", 0, "- p0 d0");
        check("q0 d0", 1, "- q0 d0");
        check("e5 q0 d0", 1, "e5[0] q0 d0");
        check("e2 e1 q4 p3 d9 d8", 1, "e1[0] p3 d8");
        check("w0 e0 p0 d0", 1, "e0[0] p0 d0");
        check("w0 p0 d0", 1, "- w0 -");
        check("w0 p0", 0, "- w0 -");
    }

    #[test]
    fn the_media_of_a_request_are_spread() {
        check("e0 e0 p0 d0", 3, "e0[0, 2]+e0[1] p0 d0");
        check("e2 e0 p0 d0", 3, "e2[2]+e0[0, 1] p0 d0");
        check("e9 e0 p0 d0", 3, "e0[0, 1, 2] p0 d0");
    }

    #[test]
    fn a_prefill_worker_may_have_encoders_of_its_own() {
        check("e0 e5 p0@e5 d0", 2, "e5[0, 1] p0 d0");
        check("e0 p0@e d0", 1, "encode");
        check("e0 p0@e5 p9 d0", 1, "e0[0] p9 d0");
        check("e0 p0@e5 p9 d0", 0, "- p0 d0");
    }

    #[test]
    fn suspects_come_last() {
        check("d0! d5 p0! p5 e0! e5", 1, "e5[0] p5 d5");
        check("d0! p0! e0!", 1, "e0![0] p0! d0!");
        check("w0! w7", 1, "- w7 -");
    }

    #[test]
    fn decode_has_the_kv_layout_of_prefill() {
        check("p0 p5x d0x", 0, "- p5x d0x");
        check("p0 d0x d3", 0, "- p0 d3");
        check("p0 d0x", 0, "decode");
    }

    #[test]
    fn what_is_missing_is_named() {
        check("", 1, "prefill");
        check("e0 d0", 1, "prefill");
        check("e0 p0", 1, "decode");
        check("p0 d0", 1, "encode");
        let missing = |there: &str| {
            let instances: Vec<_> = candidates(there).into_iter().map(|c| c.instance).collect();
            missing_role(&instances).map_or("-", Stage::name)
        };
        assert_eq!(missing("w0"), "-");
        assert_eq!(missing("q0 d0"), "-");
        assert_eq!(missing("e0 p0 d0"), "-");
        assert_eq!(missing("p0 d0"), "encode");
        assert_eq!(missing("e0"), "prefill");
        assert_eq!(missing("q0"), "decode");
    }
}
