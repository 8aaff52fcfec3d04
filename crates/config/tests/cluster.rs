//! What ties processes together: each flag, what it stands for, and what is refused in words.

mod common;

use clap::Parser;
use common::{Files, Serve};
use config::cluster::TransportChoice::{self, Auto, Mem, Tcp, Ucx};
use config::nats::NatsAuth;
use config::{
    CheckConfig, CheckFlags, ClusterConfig, FrontendProcessFlags, ModeFlags, Place, Role,
    WorkerProcessConfig, WorkerProcessFlags, World,
};
use std::path::Path;

#[derive(Parser)]
struct Frontend {
    #[command(flatten)]
    flags: FrontendProcessFlags,
}

#[derive(Parser)]
struct Worker {
    #[command(flatten)]
    mode: ModeFlags,
    #[command(flatten)]
    flags: WorkerProcessFlags,
}

#[derive(Parser)]
struct Check {
    #[command(flatten)]
    flags: CheckFlags,
}

const MODEL: [&str; 3] = ["program", "--model-path", env!("CARGO_MANIFEST_DIR")];

fn parse<P: Parser>(start: &[&str], flags: &[&str]) -> Result<P, String> {
    P::try_parse_from(start.iter().chain(flags)).map_err(|error| error.to_string())
}

fn frontend_in(world: &World, flags: &[&str]) -> Result<ClusterConfig, String> {
    let flags = parse::<Frontend>(&["frontend"], flags)?.flags;
    flags.resolve(world).map(|config| config.cluster).map_err(|error| error.message)
}

fn frontend(flags: &[&str]) -> Result<ClusterConfig, String> {
    frontend_in(&World::default(), flags)
}

fn worker(flags: &[&str]) -> Result<WorkerProcessConfig, String> {
    let Worker { mode, flags } = parse(&MODEL, flags)?;
    let role = mode.disaggregation_mode.role();
    flags.resolve(role, &World::default()).map_err(|error| error.message)
}

fn serve(flags: &[&str]) -> Result<ClusterConfig, String> {
    let flags = parse::<Serve>(&MODEL, flags)?.flags;
    flags.resolve(&World::default()).map(|config| config.cluster).map_err(|error| error.message)
}

fn check(flags: &[&str]) -> Result<CheckConfig, String> {
    let flags = parse::<Check>(&["check"], flags)?.flags;
    flags.resolve(&World::default()).map_err(|error| error.message)
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, String>, words: &[&str]) {
    let error = result.expect_err("should be refused");
    for word in words {
        assert!(error.contains(word), "{error:?} does not say {word:?}");
    }
}

#[test]
fn separate_processes_meet_over_etcd_and_nats() {
    let cluster = frontend(&[]).unwrap();
    assert_eq!(cluster.etcd.as_ref().unwrap().endpoints, ["http://127.0.0.1:2379"]);
    let nats = cluster.nats.unwrap();
    assert_eq!(nats.servers[0].whole(), "nats://127.0.0.1:4222");
    assert_eq!((nats.servers.len(), nats.auth), (1, NatsAuth::None));
    assert_eq!((cluster.transport, cluster.namespace.as_str()), (Auto, "dynamo"));
    assert_eq!(worker(&[]).unwrap().cluster, frontend(&[]).unwrap());
}

#[test]
fn one_process_stays_in_memory_unless_others_shall_see_it() {
    let cluster = serve(&[]).unwrap();
    assert_eq!((cluster.etcd, cluster.nats, cluster.transport), (None, None, Mem));
    let cluster = serve(&["--discovery-backend", "etcd"]).unwrap();
    assert!(cluster.etcd.is_some() && cluster.nats.is_some());
    assert_eq!(cluster.transport, Auto);
    assert_eq!(serve(&["--transport", "tcp"]).unwrap().transport, Tcp);
    let half = ["--discovery-backend", "etcd", "--transport", "mem"];
    refused(serve(&half), &["--discovery-backend etcd", "--request-plane nats"]);
}

#[test]
fn memory_ties_no_processes_together() {
    for (flag, instead) in [
        ("--discovery-backend", "expected etcd"),
        ("--request-plane", "expected nats"),
        ("--transport", "expected auto, ucx or tcp"),
    ] {
        let why = "inside one process only";
        refused(frontend(&[flag, "mem"]), &[flag, why, instead, "triptych serve"]);
        refused(worker(&[flag, "mem"]), &[flag, why, instead]);
        refused(frontend(&[flag, "x"]), &["invalid value 'x'", "possible values"]);
    }
}

#[test]
fn where_servers_are_comes_from_flags_then_the_usual_variables() {
    let world = World::of(|name| match name {
        "ETCD_ENDPOINTS" => Some("etcd-0:2379, http://etcd-1:2379/".to_owned()),
        "NATS_SERVER" => Some("nats://old:4222".to_owned()),
        "NATS_URL" => Some("nats://me:secret@nats:4222".to_owned()),
        _ => None,
    });
    let cluster = frontend_in(&world, &[]).unwrap();
    let (etcd, nats) = (cluster.etcd.unwrap(), cluster.nats.unwrap());
    assert_eq!(etcd.endpoints, ["http://etcd-0:2379", "http://etcd-1:2379"]);
    assert_eq!(nats.servers[0].whole(), "nats://me:secret@nats:4222");
    assert_eq!(nats.servers[0].shown(), "nats://nats:4222");
    assert!(!format!("{nats:?}").contains("secret"), "{nats:?}");
    let flags = ["--etcd-endpoints", "https://a:1", "--nats-url", "b,tls://c:2"];
    let cluster = frontend_in(&world, &flags).unwrap();
    assert_eq!(cluster.etcd.unwrap().endpoints, ["https://a:1"]);
    let urls: Vec<_> = cluster.nats.unwrap().servers.iter().map(|url| url.shown()).collect();
    assert_eq!(urls, ["nats://b", "tls://c:2"]);
    let old = World::of(|name| (name == "NATS_SERVER").then(|| "nats://old:4222".to_owned()));
    assert_eq!(old.nats_url.as_deref(), Some("nats://old:4222"));
}

#[test]
fn wrong_servers_are_refused_without_showing_them() {
    for (flag, given) in [
        ("--etcd-endpoints", "nats://user:hunter2@etcd:1"),
        ("--etcd-endpoints", ","),
        ("--nats-url", "http://user:hunter2@nats:1"),
        ("--nats-url", "nats://"),
    ] {
        let result = frontend(&[flag, given]);
        assert!(!format!("{result:?}").contains("hunter2"), "{result:?}");
        refused(result, &[flag, "expected URLs that begin with"]);
    }
    let result = frontend(&["--etcd-endpoints", "http://user:hunter2@etcd:1"]);
    assert!(!format!("{result:?}").contains("hunter2"), "{result:?}");
    refused(result, &["--etcd-endpoints", "--etcd-user and --etcd-password-file"]);
}

#[test]
fn secrets_come_from_files_and_are_never_shown() {
    let files = Files::new("secrets");
    let secret = files.write("secret", "hunter2-hunter2-hunter2\n");
    let check = |flags: &[&str], expected: &str| {
        let cluster = frontend(flags).unwrap();
        let shown = format!("{cluster:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains(expected), "{shown} does not say {expected}");
        cluster
    };
    check(&["--nats-token-file", &secret], "Token");
    check(&["--nats-nkey-file", &secret], "NKey");
    check(&["--nats-creds-file", &secret], "CredentialsFile");
    let cluster = check(&["--nats-user", "me", "--nats-password-file", &secret], "UserPassword");
    let NatsAuth::UserPassword(name, password) = cluster.nats.unwrap().auth else { panic!() };
    assert_eq!((name.as_str(), password.text()), ("me", "hunter2-hunter2-hunter2"));
    let cluster = check(&["--etcd-user", "me", "--etcd-password-file", &secret], "\"me\"");
    assert_eq!(cluster.etcd.unwrap().user.unwrap().1.text(), "hunter2-hunter2-hunter2");
    let cluster = check(&["--cluster-key-file", &secret], "Hidden(..)");
    assert_eq!(cluster.cluster_key.unwrap().bytes(), b"hunter2-hunter2-hunter2\n");
}

#[test]
fn certificates_go_with_encrypted_endpoints() {
    let files = Files::new("certificates");
    let pem = files.write("ca.pem", "a certificate");
    let cluster = frontend(&["--etcd-ca-file", &pem, "--etcd-endpoints", "etcd:2379"]).unwrap();
    let etcd = cluster.etcd.unwrap();
    assert_eq!(etcd.endpoints, ["https://etcd:2379"]);
    assert_eq!(etcd.tls.unwrap().ca.unwrap().bytes(), b"a certificate");
    let plain = ["--etcd-ca-file", &pem, "--etcd-endpoints", "http://etcd:2379"];
    refused(frontend(&plain), &["--etcd-endpoints", "https://"]);
    let mixed = frontend(&["--etcd-endpoints", "http://a:1,https://b:1"]);
    refused(mixed, &["--etcd-endpoints", "https:// URLs only"]);
    let encrypted = frontend(&["--etcd-endpoints", "https://a:1"]).unwrap().etcd.unwrap();
    assert!(encrypted.tls.is_some_and(|tls| tls.ca.is_none()), "the system's authorities");
    refused(frontend(&["--etcd-cert-file", &pem]), &["--etcd-key-file", "go together"]);
    let tls = ["--nats-ca-file", &pem, "--nats-cert-file", &pem, "--nats-key-file", &pem];
    let nats = frontend(&tls).unwrap().nats.unwrap();
    assert!(nats.tls.is_some_and(|tls| tls.ca.is_some() && tls.identity.is_some()));
    assert_eq!(nats.servers[0].shown(), "nats://127.0.0.1:4222");
}

#[test]
fn what_contradicts_itself_is_refused() {
    let files = Files::new("contradictions");
    let (secret, empty) = (files.write("secret", "words"), files.write("empty", " \n"));
    refused(frontend(&["--etcd-user", "me"]), &["--etcd-user and --etcd-password-file"]);
    refused(frontend(&["--nats-password-file", &secret]), &["--nats-user", "go together"]);
    let two = ["--nats-token-file", &secret, "--nats-nkey-file", &secret];
    refused(frontend(&two), &["expected one of", "not several"]);
    refused(frontend(&["--nats-token-file", &empty]), &["--nats-token-file", "is empty"]);
    refused(frontend(&["--nats-creds-file", "/no/such"]), &["--nats-creds-file /no/such"]);
    refused(frontend(&["--cluster-key-file", "/no/such"]), &["--cluster-key-file /no/such"]);
    refused(frontend(&["--transport-host", "host:1"]), &["--transport-host", "without a port"]);
    refused(frontend(&["--model-path", "x"]), &["unexpected argument '--model-path'"]);
}

#[test]
fn a_role_has_its_place() {
    let place = |flags: &[&str]| {
        let Place { role, endpoint, encode_endpoint } = worker(flags).unwrap().place;
        let encoder = encode_endpoint.map(|endpoint| endpoint.to_string());
        (role, endpoint.to_string(), encoder.unwrap_or_default())
    };
    let usual = |mode: &str, role: Role, endpoint: &str| {
        let found = place(&["--disaggregation-mode", mode]);
        assert_eq!(found, (role, endpoint.to_owned(), String::new()));
    };
    usual("agg", Role::Aggregated, "dyn://dynamo.backend.generate");
    usual("prefill_and_decode", Role::Aggregated, "dyn://dynamo.backend.generate");
    usual("decode", Role::Decode, "dyn://dynamo.backend.generate");
    usual("prefill", Role::Prefill, "dyn://dynamo.prefill.generate");
    usual("encode", Role::Encode, "dyn://dynamo.encode.generate");
    let prefill = ["--disaggregation-mode", "prefill", "--namespace", "x"];
    let named = ["--endpoint", "dyn://x.p-1.generate", "--encode-endpoint", "dyn://x.e.generate"];
    let found = place(&[&prefill[..], &named[..]].concat());
    let expected = (Role::Prefill, "dyn://x.p-1.generate".into(), "dyn://x.e.generate".into());
    assert_eq!(found, expected);
}

#[test]
fn a_place_that_cannot_be_is_refused() {
    refused(worker(&["--disaggregation-mode", "x"]), &["agg, prefill, decode, encode"]);
    refused(worker(&["--encode-endpoint", "dyn://dynamo.e.generate"]), &["only a prefill worker"]);
    refused(worker(&["--endpoint", "dyn://other.b.generate"]), &["--namespace", "dyn://dynamo."]);
    for wrong in ["dynamo.b.generate", "dyn://a.b", "dyn://a.b.c.d", "dyn://a..c", "dyn://a.*.c"] {
        refused(worker(&["--endpoint", wrong]), &["<namespace>.<component>.<endpoint>"]);
    }
}

#[test]
fn the_engine_yaml_says_the_transport_unless_a_flag_does() {
    let transport = |backend: &str, flags: &[&str]| {
        let json = format!(r#"{{"cache_transceiver_config": {{"backend": "{backend}"}}}}"#);
        let flags = [&["--override-engine-args", &json], flags].concat();
        worker(&flags).unwrap().cluster.transport
    };
    let check = |backend, flags: &[&str], expected: TransportChoice| {
        assert_eq!(transport(backend, flags), expected, "{backend} {flags:?}");
    };
    check("DEFAULT", &[], Auto);
    check("UCX", &[], Ucx);
    check("TCP", &[], Tcp);
    check("TCP", &["--transport", "auto"], Auto);
}

#[test]
fn the_system_port_is_on_the_address_of_http_or_on_all() {
    let address = |config: config::ProcessConfig| config.system_address.unwrap().to_string();
    let http = ["--http-host", "127.0.0.1", "--system-port", "9"];
    let frontend = |flags: &[&str]| {
        let flags = parse::<Frontend>(&["frontend"], flags).unwrap().flags;
        address(flags.resolve(&World::default()).unwrap().process)
    };
    assert_eq!(frontend(&http), "127.0.0.1:9");
    assert_eq!(frontend(&[&http[..], &["--system-host", "::1"]].concat()), "[::1]:9");
    assert_eq!(address(worker(&["--system-port", "9"]).unwrap().process), "0.0.0.0:9");
}

#[test]
fn a_check_takes_the_flags_of_any_process() {
    let model = ["--model-path", env!("CARGO_MANIFEST_DIR")];
    let of = |kind: &str| check(&[&["--for", kind], &model[..]].concat()).unwrap();
    assert!(matches!(check(&["--for", "frontend"]).unwrap(), CheckConfig::Frontend(_)));
    assert!(matches!(of("serve"), CheckConfig::Serve(_)));
    for (kind, expected) in [
        ("worker", Role::Aggregated),
        ("encode-worker", Role::Encode),
        ("prefill-worker", Role::Prefill),
        ("decode-worker", Role::Decode),
    ] {
        let (_, _, roles) =
            of(kind).workers().map(|(w, e, roles)| (w.clone(), e.clone(), roles)).unwrap();
        assert_eq!(roles, [expected]);
    }
    refused(check(&["--for", "worker"]), &["--model-path"]);
    refused(check(&["--for", "x"]), &["serve, frontend, worker"]);
    let missing = worker_without_model();
    assert!(missing.contains("--model-path"), "{missing}");
    assert!(Path::new(MODEL[2]).is_dir());
}

fn worker_without_model() -> String {
    parse::<Worker>(&["worker"], &[]).err().expect("a model is required")
}
