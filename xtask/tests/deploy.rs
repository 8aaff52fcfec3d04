//! The containers' files name what is there, and the check sees each thing that is not.

use xtask::deploy::problems;
use xtask::workspace::Workspace;

#[test]
fn what_is_deployed_exists() {
    let found = problems(&Workspace::read());
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn whatever_is_not_there_is_seen() {
    let tree = Workspace::read();
    let check = |path: &str, from: &str, to: &str, expected: &[&str]| {
        let mut broken = tree.clone();
        let file = broken.files.iter_mut().find(|file| file.path == path).expect("a file");
        assert!(file.text.contains(from), "{path} has no {from:?}");
        file.text = file.text.replacen(from, to, 1);
        assert_eq!(problems(&broken), expected, "{from:?} as {to:?}");
    };
    let docker = "deploy/Dockerfile";
    let copied = "deploy/Dockerfile: `worker` is not both built and copied";
    check(docker, "frontend worker ", "frontend ", &[copied]);
    check(
        docker,
        "COPY models/shapes/",
        "COPY models/forms/",
        &["deploy/Dockerfile: there is no `models/forms/`"],
    );
    check(
        docker,
        "\"--model-path\"",
        "\"--model\"",
        &["deploy/Dockerfile: there is no flag `--model`"],
    );
    let compose = "deploy/compose.yaml";
    let check_compose = |from: &str, to: &str, expected: &[&str]| {
        let expected: Vec<String> =
            expected.iter().map(|what| format!("deploy/compose.yaml: {what}")).collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        check(compose, from, to, &expected);
    };
    check_compose("[encode-worker,", "[encoder,", &["encode: there is no program `encoder`"]);
    check_compose("--extra-engine-args", "--args", &["encode: there is no flag `--args`"]);
    check_compose(
        "/decode.yaml",
        "/d.yaml",
        &["decode: there is no `engine_configs/shapes/d.yaml`"],
    );
    check_compose(
        "TRIPTYCH_TRANSPORT:",
        "TRIPTYCH_WAY:",
        &["frontend: nobody hears `TRIPTYCH_WAY`"],
    );
    check_compose("[etcd, nats]", "[etcd, bus]", &["frontend: there is no `bus` under services"]);
    check_compose("[prometheus]", "[metrics]", &["grafana: there is no `metrics` under services"]);
    check_compose("source: nats,", "source: bus,", &["nats: there is no `bus` under configs"]);
    check_compose(
        "target: planes }",
        "target: servers }",
        &["etcd: deploy/Dockerfile has no such target"],
    );
    check_compose("./prometheus.yaml", "./p.yaml", &["prometheus: there is no `deploy/p.yaml`"]);
    let wrong_port: Vec<String> = ["decode", "encode", "frontend", "prefill"]
        .map(|name| format!("{name}: its health is not asked for at port 8081"))
        .to_vec();
    let wrong_port: Vec<&str> = wrong_port.iter().map(String::as_str).collect();
    check_compose("8081/health", "8080/health", &wrong_port);
    check(
        "deploy/secrets.sh",
        "NATS_TOKEN ",
        "",
        &["deploy/secrets.sh: nobody makes `NATS_TOKEN`"],
    );
    check(
        "deploy/prometheus.yaml",
        "[frontend,",
        "[front,",
        &["deploy/prometheus.yaml: `front` has no metrics at this port"],
    );
}
