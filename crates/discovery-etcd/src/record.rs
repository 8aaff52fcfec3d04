//! An instance as it is written in etcd: versioned JSON that an operator can read.
//!
//! Must not know how it gets there.

use planes::{Address, Instance};
use serde::{Deserialize, Serialize};
use types::InstanceId;
use types::content::Digest;
use types::kv::KvLayout;
use types::stage::{Stage, Stages};

/// Version of the form. Fields may be added within it, for readers ignore those they do not know.
const VERSION: u32 = 1;

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    id: String,
    model: String,
    card: String,
    stages: Vec<String>,
    address: String,
    transports: Vec<String>,
    kv: Option<KvRecord>,
    encode_endpoint: Option<String>,
    cluster_key: Option<String>,
}

/// What a record says.
#[derive(Debug, PartialEq)]
pub(crate) struct Found {
    pub(crate) instance: Instance,
    /// The fingerprint of its cluster's key, where it says one.
    pub(crate) cluster_key: Option<String>,
}

impl Found {
    /// Whether it is known to have another key than `ours`.
    pub(crate) fn has_other_key(&self, ours: Option<&str>) -> bool {
        self.cluster_key.as_deref().zip(ours).is_some_and(|(theirs, ours)| theirs != ours)
    }
}

#[derive(Serialize, Deserialize)]
struct KvRecord {
    block_size: u32,
    n_layers: u32,
    n_kv_heads: u32,
    head_dim: u32,
    dtype: String,
}

/// The key of an instance under the prefix of its namespace.
pub(crate) fn key(prefix: &str, id: InstanceId) -> String {
    format!("{prefix}{id}")
}

/// The instance that a key is of; `None` when it is no instance's.
pub(crate) fn id_of_key(prefix: &str, key: &[u8]) -> Option<InstanceId> {
    parse_id(std::str::from_utf8(key).ok()?.strip_prefix(prefix)?)
}

/// The value of an instance's key, for a cluster whose key has this fingerprint.
pub(crate) fn encode(instance: &Instance, cluster_key: Option<&str>) -> String {
    let stages = Stage::ALL.into_iter().filter(|&stage| instance.stages.has(stage));
    let record = Record {
        version: VERSION,
        id: instance.id.to_string(),
        model: instance.model.clone(),
        card: instance.card.to_string(),
        stages: stages.map(|stage| stage.name().to_owned()).collect(),
        address: instance.address.0.clone(),
        transports: instance.transports.clone(),
        kv: instance.kv.as_ref().map(KvRecord::of),
        encode_endpoint: instance.encode_endpoint.clone(),
        cluster_key: cluster_key.map(str::to_owned),
    };
    serde_json::to_string(&record).expect("strings, numbers and lists are always JSON")
}

/// The instance in a key's value. Errors: a sentence that says why there is none.
pub(crate) fn decode(value: &[u8]) -> Result<Found, String> {
    let unreadable = |error: serde_json::Error| format!("it is no record of an instance: {error}");
    let Versioned { version } = serde_json::from_slice(value).map_err(unreadable)?;
    if version != VERSION {
        return Err(format!("its version is {version}, and this program reads {VERSION}"));
    }
    let record: Record = serde_json::from_slice(value).map_err(unreadable)?;
    let instance = Instance {
        id: parse_id(&record.id).ok_or("its id is not 32 hexadecimal digits")?,
        model: record.model,
        card: Digest(parse_hex(&record.card).ok_or("its card is not 64 hexadecimal digits")?),
        stages: stages_of(&record.stages),
        address: Address(record.address),
        transports: record.transports,
        kv: record.kv.map(KvRecord::layout),
        encode_endpoint: record.encode_endpoint,
    };
    Ok(Found { instance, cluster_key: record.cluster_key })
}

impl KvRecord {
    fn of(layout: &KvLayout) -> Self {
        let KvLayout { block_size, n_layers, n_kv_heads, head_dim, dtype } = layout.clone();
        Self { block_size, n_layers, n_kv_heads, head_dim, dtype }
    }

    fn layout(self) -> KvLayout {
        let Self { block_size, n_layers, n_kv_heads, head_dim, dtype } = self;
        KvLayout { block_size, n_layers, n_kv_heads, head_dim, dtype }
    }
}

/// The stages with these names; a name that we do not know is of a stage that we do not use.
fn stages_of(names: &[String]) -> Stages {
    let is_named = |stage: &Stage| names.iter().any(|name| name == stage.name());
    Stages::of(&Stage::ALL.into_iter().filter(is_named).collect::<Vec<_>>())
}

fn parse_id(hex: &str) -> Option<InstanceId> {
    parse_hex(hex).map(|bytes: [u8; 16]| InstanceId(u128::from_be_bytes(bytes)))
}

/// Exactly `N` bytes in lower-case hexadecimal digits, as we write them.
fn parse_hex<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let digits = hex.as_bytes();
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn digit(ascii: u8) -> Option<u8> {
    match ascii {
        b'0'..=b'9' => Some(ascii - b'0'),
        b'a'..=b'f' => Some(ascii - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance() -> Instance {
        Instance {
            id: InstanceId(0xab),
            model: "Qwen/Qwen2-VL-2B".into(),
            card: Digest([0x5c; 32]),
            stages: Stages::of(&[Stage::Prefill, Stage::Decode]),
            address: Address("worker.ab".into()),
            transports: vec!["ucx://x".into(), "tcp://10.0.0.1:7000".into()],
            kv: Some(KvLayout {
                block_size: 32,
                n_layers: 28,
                n_kv_heads: 2,
                head_dim: 128,
                dtype: "bf16".into(),
            }),
            encode_endpoint: Some("team.encode.generate".into()),
        }
    }

    fn found() -> Found {
        Found { instance: instance(), cluster_key: Some("f1".into()) }
    }

    fn written() -> String {
        let parts = [
            r#"{"version":1,"id":"000000000000000000000000000000ab","model":"Qwen/Qwen2-VL-2B","#,
            &format!(r#""card":"{}","stages":["prefill","decode"],"#, "5c".repeat(32)),
            r#""address":"worker.ab","transports":["ucx://x","tcp://10.0.0.1:7000"],"#,
            r#""kv":{"block_size":32,"n_layers":28,"n_kv_heads":2,"head_dim":128,"dtype":"bf16"},"#,
            r#""encode_endpoint":"team.encode.generate","cluster_key":"f1"}"#,
        ];
        parts.concat()
    }

    #[test]
    fn the_form_is_fixed() {
        assert_eq!(encode(&instance(), Some("f1")), written());
        assert_eq!(decode(written().as_bytes()), Ok(found()));
    }

    #[test]
    fn what_is_readable_is_read() {
        let without_kv = Instance { kv: None, ..instance() };
        let expected = Found { instance: without_kv.clone(), cluster_key: None };
        assert_eq!(decode(encode(&without_kv, None).as_bytes()), Ok(expected));
        let older = written().replace(r#","cluster_key":"f1""#, "");
        assert_eq!(decode(older.as_bytes()), Ok(Found { cluster_key: None, ..found() }));
        for (from, to) in [
            (r#""version":1"#, r#""zone":{"rack":[7]},"version":1"#),
            (r#""decode"]"#, r#""decode","dream"]"#),
            (r#""dtype":"bf16""#, r#""dtype":"bf16","n_pages":3"#),
        ] {
            assert_eq!(decode(written().replace(from, to).as_bytes()), Ok(found()), "{to}");
        }
    }

    #[test]
    fn what_is_not_is_refused_with_a_reason() {
        for (from, to, reason) in [
            (r#""version":1"#, r#""version":2"#, "version is 2"),
            (r#""version":1"#, r#""version":-1"#, "no record"),
            (r#""version":1,"#, "", "no record"),
            (r#""model":"Qwen/Qwen2-VL-2B","#, "", "model"),
            ("0ab", "0aB", "32 hexadecimal"),
            ("0ab", "ab", "32 hexadecimal"),
            ("5c5c", "5c5", "64 hexadecimal"),
            ("{", "", "no record"),
        ] {
            let refusal = decode(written().replace(from, to).as_bytes()).unwrap_err();
            assert!(refusal.contains(reason), "{from} -> {to}: {refusal}");
        }
        assert!(decode(b"\xff").is_err());
    }

    #[test]
    fn another_key_is_one_that_both_sides_say() {
        let check = |theirs: Option<&str>, ours, expected| {
            let found = Found { cluster_key: theirs.map(str::to_owned), ..found() };
            assert_eq!(found.has_other_key(ours), expected, "{theirs:?}, {ours:?}");
        };
        check(Some("a"), Some("b"), true);
        check(Some("a"), Some("a"), false);
        check(None, Some("a"), false);
        check(Some("a"), None, false);
    }

    #[test]
    fn a_key_names_its_instance() {
        let written = key("/p/", InstanceId(0xab));
        assert_eq!(written, "/p/000000000000000000000000000000ab");
        assert_eq!(id_of_key("/p/", written.as_bytes()), Some(InstanceId(0xab)));
        for key in [&b"/p/ab"[..], b"/q/000000000000000000000000000000ab", b"/p/\xff", b""] {
            assert_eq!(id_of_key("/p/", key), None, "{key:?}");
        }
    }
}
