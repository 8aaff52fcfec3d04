//! What is deployed exists: the programs, flags, variables, files and services that the containers'
//! files name. Whether Docker would take them it does not know.

use crate::workspace::Workspace;
use serde_json::Value;
use std::collections::BTreeSet;

const COMPOSE: &str = "deploy/compose.yaml";
const DOCKERFILE: &str = "deploy/Dockerfile";
const PROMETHEUS: &str = "deploy/prometheus.yaml";
const SECRETS: &str = "deploy/secrets.sh";
const OPTIONS: &str = "docs/options.md";
/// One file for each program of ours.
const PROGRAMS: &str = "crates/triptych/src/bin/";
/// The image with our programs in it; what else its containers may run.
const OUR_IMAGE: &str = "triptych";
const OTHER_PROGRAMS: &[&str] = &["sleep"];
/// Where the composition mounts engine files, and from where, unless told otherwise.
const MOUNTED_CONFIGS: &str = "/engine_configs/";
const ENGINE_CONFIGS: &str = "engine_configs/shapes/";
const SYSTEM_PORT: &str = "TRIPTYCH_SYSTEM_PORT";

/// Where the containers' files name what is not there.
pub fn problems(workspace: &Workspace) -> Vec<String> {
    let mut problems = of_dockerfile(workspace);
    match (yaml(workspace, COMPOSE), yaml(workspace, PROMETHEUS)) {
        (Ok(compose), Ok(prometheus)) => {
            problems.extend(of_services(workspace, &compose));
            problems.extend(of_secrets(workspace, &compose));
            problems.extend(of_targets(&compose, &prometheus));
        }
        (compose, prometheus) => {
            problems.extend([compose, prometheus].map(Result::err).into_iter().flatten())
        }
    }
    problems.sort();
    problems
}

fn yaml(workspace: &Workspace, path: &str) -> Result<Value, String> {
    serde_saphyr::from_str(workspace.text(path)).map_err(|error| format!("{path}: {error}"))
}

fn programs(workspace: &Workspace) -> BTreeSet<&str> {
    let files = workspace.paths.iter().filter_map(|path| path.strip_prefix(PROGRAMS));
    files.filter_map(|file| file.strip_suffix(".rs")).collect()
}

fn of_dockerfile(workspace: &Workspace) -> Vec<String> {
    let text = workspace.text(DOCKERFILE);
    let list = text.split("for program in ").nth(1).and_then(|rest| rest.split(';').next());
    let copied: BTreeSet<&str> = list.unwrap_or_default().split_whitespace().collect();
    let differ = copied.symmetric_difference(&programs(workspace)).copied().collect::<Vec<_>>();
    let differ = differ.iter().map(|name| format!("`{name}` is not both built and copied"));
    let lines = text.lines().filter_map(|line| line.strip_prefix("COPY "));
    let sources = lines.filter(|line| !line.starts_with("--from")).flat_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words[..words.len() - 1].to_vec()
    });
    let absent = sources.filter(|source| *source != "." && !workspace.has_path(source));
    let absent = absent.map(|source| format!("there is no `{source}`"));
    let command = text.lines().find_map(|line| line.strip_prefix("CMD ")).unwrap_or_default();
    let command = serde_json::from_str(command).unwrap_or_default();
    let of_command = of_command(workspace, &command);
    differ.chain(absent).chain(of_command).map(|what| format!("{DOCKERFILE}: {what}")).collect()
}

/// A program of ours and its flags.
fn of_command(workspace: &Workspace, command: &Value) -> Vec<String> {
    let words: Vec<&str> = list(command).iter().filter_map(Value::as_str).collect();
    let mut problems = Vec::new();
    let program = words.first().copied().unwrap_or_default();
    if !programs(workspace).contains(program) && !OTHER_PROGRAMS.contains(&program) {
        problems.push(format!("there is no program `{program}`"));
    }
    for word in &words[words.len().min(1)..] {
        let flag = word.split('=').next().filter(|flag| flag.starts_with("--"));
        if let Some(flag) = flag.filter(|flag| !is_option(workspace, flag)) {
            problems.push(format!("there is no flag `{flag}`"));
        }
        let file = word.strip_prefix(MOUNTED_CONFIGS);
        let file = file.map(|file| format!("{ENGINE_CONFIGS}{file}"));
        if let Some(file) = file.filter(|file| !workspace.has_path(file)) {
            problems.push(format!("there is no `{file}`"));
        }
    }
    problems
}

/// Whether the page of options, which is written from their definitions, has this name.
fn is_option(workspace: &Workspace, name: &str) -> bool {
    workspace.text(OPTIONS).contains(&format!("`{name}`"))
}

fn of_services(workspace: &Workspace, compose: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, service) in entries(&compose["services"]) {
        let mut found = of_names(workspace, compose, service);
        if service["image"] == OUR_IMAGE {
            found.extend(of_command(workspace, &service["command"]));
            let variables = entries(&service["environment"]).map(|(variable, _)| variable);
            let unknown = variables.filter(|variable| !is_option(workspace, variable));
            found.extend(unknown.map(|variable| format!("nobody hears `{variable}`")));
            found.extend(of_health(service));
        }
        problems.extend(found.iter().map(|what| format!("{COMPOSE}: {name}: {what}")));
    }
    problems
}

/// What a service names of the composition and of this tree.
fn of_names(workspace: &Workspace, compose: &Value, service: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    let mut must_have = |group: &str, name: &str| {
        if compose[group].get(name).is_none() {
            problems.push(format!("there is no `{name}` under {group}"));
        }
    };
    for (field, group) in [
        ("depends_on", "services"),
        ("networks", "networks"),
        ("secrets", "secrets"),
        ("configs", "configs"),
    ] {
        for item in list(&service[field]) {
            must_have(group, item.as_str().or(item["source"].as_str()).unwrap_or_default());
        }
    }
    for field in ["ipc", "pid"] {
        let owner = service[field].as_str().and_then(|value| value.strip_prefix("service:"));
        owner.into_iter().for_each(|owner| must_have("services", owner));
    }
    let target = service["build"]["target"].as_str().map(|target| format!(" AS {target}\n"));
    if target.is_some_and(|target| !workspace.text(DOCKERFILE).contains(&target)) {
        problems.push(format!("{DOCKERFILE} has no such target"));
    }
    let mounted = list(&service["volumes"]).iter().filter_map(Value::as_str).filter_map(source);
    let absent = mounted.filter(|path| !workspace.has_path(path));
    problems.extend(absent.map(|path| format!("there is no `{path}`")));
    problems
}

/// The path from the root that a volume mounts, where it is one of this tree.
fn source(volume: &str) -> Option<String> {
    let usual = volume.split(":-").nth(1).and_then(|rest| rest.split('}').next());
    let path = usual.unwrap_or(volume.split(':').next()?);
    let above = path.strip_prefix("../").map(str::to_owned);
    above.or_else(|| path.strip_prefix("./").map(|path| format!("deploy/{path}")))
}

/// Health is asked for at the port that the process is given.
fn of_health(service: &Value) -> Option<String> {
    let port = service["environment"][SYSTEM_PORT].as_str()?;
    let asked = list(&service["healthcheck"]["test"]).last().and_then(Value::as_str);
    let is_right = asked.is_some_and(|url| url.contains(&format!(":{port}/")));
    (!is_right).then(|| format!("its health is not asked for at port {port}"))
}

/// Whatever must be set is made by the script.
fn of_secrets(workspace: &Workspace, compose: &Value) -> Vec<String> {
    let needed = workspace.text(COMPOSE).split("${").skip(1);
    let needed = needed.filter_map(|rest| rest.split('}').next()?.split_once(":?"));
    let named = entries(&compose["secrets"]).filter_map(|(_, it)| it["environment"].as_str());
    let names: BTreeSet<&str> = needed.map(|(name, _)| name).chain(named).collect();
    let made = workspace.text(SECRETS).split("names=(").nth(1);
    let made = made.and_then(|rest| rest.split(')').next()).unwrap_or_default();
    let made: BTreeSet<&str> = made.split_whitespace().collect();
    names.difference(&made).map(|name| format!("{SECRETS}: nobody makes `{name}`")).collect()
}

/// Prometheus asks services that are there, at their system ports.
fn of_targets(compose: &Value, prometheus: &Value) -> Vec<String> {
    let jobs = list(&prometheus["scrape_configs"]).iter();
    let mut problems = Vec::new();
    for group in jobs.flat_map(|job| list(&job["dns_sd_configs"])) {
        for name in list(&group["names"]).iter().filter_map(Value::as_str) {
            let port = &compose["services"][name]["environment"][SYSTEM_PORT];
            let port = port.as_str().and_then(|port| port.parse::<u64>().ok());
            if port.is_none() || port != group["port"].as_u64() {
                problems.push(format!("{PROMETHEUS}: `{name}` has no metrics at this port"));
            }
        }
    }
    problems
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
