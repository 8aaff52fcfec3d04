//! Which instance runs which stage: a pure choice among those that are there.

use planes::Instance;
use types::stage::{Stage, Stages};

/// An instance, and the requests under way on it.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The instance.
    pub instance: Instance,
    /// Requests under way.
    pub n_running: usize,
}

/// The instances that a request visits. Stages without one of their own run where `prefill` does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Encodes the media; `None` when there are none or `prefill` encodes them itself.
    pub encode: Option<Instance>,
    /// Runs the prompt.
    pub prefill: Instance,
    /// Generates; `None` when `prefill` goes on itself.
    pub decode: Option<Instance>,
}

impl Route {
    /// The stages that one call to the prefill instance runs.
    pub fn stages_at_prefill(&self, has_media: bool) -> Stages {
        let encodes = has_media && self.encode.is_none();
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

/// The least loaded instances that together run all stages: separate roles before a whole instance,
/// an encoder of its own before a prefill worker that encodes. Errors: the role that is missing.
pub fn route(candidates: &[Candidate], has_media: bool) -> Result<Route, Stage> {
    let separate = separate(candidates, has_media);
    let Err(missing) = separate else { return separate };
    let whole = least_loaded(candidates, |stages| stages == Stages::ALL);
    whole.map(|prefill| Route { encode: None, prefill, decode: None }).ok_or(missing)
}

fn separate(candidates: &[Candidate], has_media: bool) -> Result<Route, Stage> {
    let is_prefill = |stages: Stages| stages.has(Stage::Prefill) && !stages.has(Stage::Decode);
    let encoder = least_loaded(candidates, |stages| stages == Stages::of(&[Stage::Encode]));
    let encode = encoder.filter(|_| has_media);
    let needs_tower = has_media && encode.is_none();
    let prefill = least_loaded(candidates, |stages| {
        is_prefill(stages) && (!needs_tower || stages.has(Stage::Encode))
    });
    let decode = least_loaded(candidates, |stages| stages == Stages::of(&[Stage::Decode]));
    let any_prefill = candidates.iter().any(|found| is_prefill(found.instance.stages));
    let lacking = if any_prefill { Stage::Encode } else { Stage::Prefill };
    let prefill = prefill.ok_or(lacking)?;
    Ok(Route { encode, prefill, decode: Some(decode.ok_or(Stage::Decode)?) })
}

fn least_loaded(candidates: &[Candidate], fits: impl Fn(Stages) -> bool) -> Option<Instance> {
    let fitting = candidates.iter().filter(|candidate| fits(candidate.instance.stages));
    let least = fitting.min_by_key(|candidate| candidate.n_running)?;
    Some(least.instance.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use planes::Address;
    use types::InstanceId;
    use types::content::Digest;

    /// `e`, `p` (prefill only), `q` (prefill with a tower), `d`, `w` (whole), then its load.
    fn candidates(spec: &str) -> Vec<Candidate> {
        spec.split_whitespace().map(candidate).collect()
    }

    fn candidate(word: &str) -> Candidate {
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
            address: Address(word.into()),
            transports: Vec::new(),
            kv: None,
        };
        Candidate { instance, n_running: word[1..].parse().unwrap() }
    }

    fn check(there: &str, has_media: bool, expect: &str) {
        let name =
            |instance: Option<Instance>| instance.map_or("-".into(), |found| found.address.0);
        let found = match route(&candidates(there), has_media) {
            Ok(Route { encode, prefill, decode }) => {
                format!("{} {} {}", name(encode), prefill.address.0, name(decode))
            }
            Err(stage) => stage.name().into(),
        };
        assert_eq!(found, expect, "{there:?}, media: {has_media}");
    }

    #[test]
    fn the_route_follows_what_is_there() {
        check("w0", true, "- w0 -");
        check("w3 w1 w2", false, "- w1 -");
        check("e0 p0 d0", true, "e0 p0 d0");
        check("e0 p0 d0", false, "- p0 d0");
        check("q0 d0", true, "- q0 d0");
        check("e5 q0 d0", true, "e5 q0 d0");
        check("e2 e1 q4 p3 d9 d8", true, "e1 p3 d8");
        check("w0 e0 p0 d0", true, "e0 p0 d0");
        check("w0 p0 d0", true, "- w0 -");
        check("w0 p0", false, "- w0 -");
    }

    #[test]
    fn what_is_missing_is_named() {
        check("", true, "prefill");
        check("e0 d0", true, "prefill");
        check("e0 p0", true, "decode");
        check("p0 d0", true, "encode");
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
