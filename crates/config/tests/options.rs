//! Every option: its names, its layers, its bounds, and the page that documents it.

mod common;

use clap::{Args, Command};
use common::{Files, refused, serve};
use config::{CheckFlags, EngineArgs, EngineKind, Role, ServeFlags};
use config::{ComputeType, CudaGraphConfig, DeviceChoice, TransferBackend};
use std::path::Path;

#[track_caller]
fn yaml_refused(yaml: &str, words: &[&str]) {
    let error = EngineArgs::default().apply_yaml(yaml, "agg.yaml").expect_err("should be refused");
    for word in words {
        assert!(
            error.message.contains(word),
            "{yaml:?}: {:?} does not say {word:?}",
            error.message
        );
    }
}

#[test]
fn the_page_is_what_the_code_says() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/options.md");
    let expected = config::document::options_markdown();
    if std::env::var_os("TRIPTYCH_WRITE_DOCS").is_some() {
        std::fs::write(&page, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&page).unwrap_or_default();
    assert!(found == expected, "run this test with TRIPTYCH_WRITE_DOCS=1 to write docs/options.md");
}

#[test]
fn every_flag_has_its_environment_variable_and_a_word_of_help() {
    // It takes the flags of all the others.
    let command = CheckFlags::augment_args(Command::new("check"));
    for arg in command.get_arguments() {
        let long = arg.get_long().expect("a long name");
        let expected = format!("TRIPTYCH_{}", long.to_uppercase().replace('-', "_"));
        assert_eq!(arg.get_env().unwrap().to_str().unwrap(), expected);
        assert!(arg.get_help().is_some(), "--{long} has no help");
        assert!(arg.get_help_heading().is_some(), "--{long} has no heading");
    }
    command.debug_assert();
}

#[test]
fn defaults_make_a_laptop_server() {
    let cfg = serve(&[]).unwrap();
    assert_eq!(cfg.roles, [Role::Aggregated]);
    assert_eq!(cfg.engine, EngineKind::Native);
    assert_eq!(cfg.worker.served_model_name, "config");
    assert_eq!(cfg.worker.engine, EngineArgs::default());
    assert_eq!(cfg.frontend, config::FrontendConfig::default());
    assert_eq!(cfg.worker.kv_transfer_timeout, std::time::Duration::from_secs(60));
    assert_eq!(cfg.process.system_address, None);
}

#[test]
fn each_layer_wins_over_the_one_before() {
    let files = Files::new("layers");
    let yaml = "max_batch_size: 3\nmax_seq_len: 300\nkv_cache_config:\n  tokens_per_block: 16\n  \
                enable_block_reuse: false\n";
    let file = files.write("agg.yaml", yaml);
    let json = r#"{"max_batch_size": 4, "kv_cache_config": {"tokens_per_block": 64}}"#;
    let flags =
        ["--extra-engine-args", &file, "--override-engine-args", json, "--kv-block-size", "8"];
    let args = serve(&flags).unwrap().worker.engine;
    assert_eq!(args.max_seq_len, Some(300), "the file alone");
    assert!(!args.kv_cache.enable_block_reuse, "the file alone");
    assert_eq!(args.max_batch_size, 4, "JSON over file");
    assert_eq!(args.kv_cache.tokens_per_block, 8, "flag over JSON");
    assert_eq!(args.max_num_tokens, EngineArgs::default().max_num_tokens, "untouched");
}

#[test]
fn engine_keys_are_checked_by_name_type_and_bound() {
    yaml_refused("max_batchsize: 3", &["agg.yaml: max_batchsize: unknown key", "max_batch_size"]);
    yaml_refused(
        "kv_cache_config: {block_size: 3}",
        &["kv_cache_config.block_size: unknown", "tokens_per_block"],
    );
    yaml_refused(
        "max_batch_size: many",
        &["max_batch_size: \"many\"", "an integer from 1 to 4096"],
    );
    yaml_refused("max_batch_size: 0", &["an integer from 1 to 4096"]);
    yaml_refused("max_batch_size: 1.5", &["an integer from 1 to 4096"]);
    yaml_refused("kv_cache_config: 3", &["expected a map with any of", "but got a number"]);
    yaml_refused("[1, 2]", &["expected a map", "a list"]);
    yaml_refused("enable_chunked_prefill: 1", &["true or false"]);
    yaml_refused("kv_cache_config: {free_gpu_memory_fraction: 1.5}", &["above 0 and at most 1"]);
    yaml_refused("kv_cache_config: {dtype: fp8}", &["one of auto"]);
    yaml_refused("tensor_parallel_size: 2", &["1 only"]);
    yaml_refused("deterministic: 1", &["deterministic: 1", "true or false"]);
    yaml_refused("cuda_graph_config: {enabled: 1}", &["enabled: 1", "true or false"]);
    for sizes in ["[]", "8", "[1, 0]", "[4097]", "[1.5]"] {
        let yaml = format!("cuda_graph_config: {{batch_sizes: {sizes}}}");
        yaml_refused(&yaml, &["cuda_graph_config.batch_sizes", "a list of 1 to 256 integers"]);
    }
    yaml_refused(
        "cache_transceiver_config: {backend: NIXL}",
        &["cache_transceiver_config.backend: \"NIXL\"", "one of DEFAULT, UCX, TCP"],
    );
    yaml_refused(
        "cache_transceiver_config: {max_tokens_in_buffer: 0}",
        &["max_tokens_in_buffer: 0", "an integer from 1"],
    );
    yaml_refused("max_batch_size: 3\nmax_batch_size: 4", &["not valid YAML"]);
    yaml_refused("max_batch_size: [", &["not valid YAML"]);
}

#[test]
fn neutral_yaml_changes_nothing() {
    let all = "# a comment\nmax_seq_len:\ntensor_parallel_size: 1\nkv_cache_config:\n";
    for yaml in ["", "# nothing\n", "{}", "null", all] {
        let mut args = EngineArgs::default();
        args.apply_yaml(yaml, "agg.yaml").unwrap();
        assert_eq!(args, EngineArgs::default(), "{yaml:?}");
    }
}

#[test]
fn the_keys_of_gpus_are_heard() {
    let mut args = EngineArgs::default();
    assert!(args.cuda_graphs.enabled && !args.deterministic);
    let yaml = "deterministic: true\ncuda_graph_config:\n  enabled: false\n  \
                batch_sizes: [8, 1, 8, 2]\n";
    args.apply_yaml(yaml, "agg.yaml").unwrap();
    let batch_sizes = Some(vec![1, 2, 8]);
    let expected = EngineArgs {
        deterministic: true,
        cuda_graphs: CudaGraphConfig { enabled: false, batch_sizes },
        ..EngineArgs::default()
    };
    assert_eq!(args, expected);
    assert!(serve(&["--deterministic", "true"]).unwrap().worker.engine.deterministic);
}

#[test]
fn devices_and_types_have_their_names() {
    let chosen = |flags: &[&str]| {
        let worker = serve(flags).unwrap().worker;
        (worker.device, worker.dtype)
    };
    assert_eq!(chosen(&[]), (DeviceChoice::Auto, ComputeType::Auto));
    assert_eq!(chosen(&["--device", "cpu", "--dtype", "f32"]).0, DeviceChoice::Cpu);
    assert_eq!(chosen(&["--device", "cuda"]).0, DeviceChoice::Cuda(0));
    assert_eq!(chosen(&["--device", "cuda:3"]).0, DeviceChoice::Cuda(3));
    for (word, dtype) in [("bf16", ComputeType::Bf16), ("float16", ComputeType::F16)] {
        assert_eq!(chosen(&["--dtype", word]), (DeviceChoice::Auto, dtype));
    }
}

#[test]
fn the_keys_of_transfers_are_heard() {
    let mut args = EngineArgs::default();
    let yaml = "cache_transceiver_config:\n  backend: ucx\n  kv_transfer_timeout_ms: 250\n  \
                max_tokens_in_buffer: 8448\n";
    args.apply_yaml(yaml, "agg.yaml").unwrap();
    let expected = EngineArgs {
        transfer_backend: TransferBackend::Ucx,
        kv_transfer_timeout_ms: 250,
        ..EngineArgs::default()
    };
    assert_eq!(args, expected);
}

#[test]
fn the_documented_default_of_every_key_is_accepted_by_it() {
    let command = ServeFlags::augment_args(Command::new("serve"));
    let page = config::document::options_markdown();
    let rows = page.lines().skip_while(|line| !line.starts_with("## Keys")).filter_map(|line| {
        let cells: Vec<_> = line.strip_prefix("| `")?.split(" | ").collect();
        Some((cells[0].trim_end_matches('`').to_owned(), cells[2].trim_matches('`').to_owned()))
    });
    let rows: Vec<_> = rows.collect();
    assert!(rows.len() > 10 && command.get_arguments().count() > rows.len());
    for (path, default) in rows.iter().filter(|(_, default)| !default.starts_with("the ")) {
        let nested =
            path.rsplit('.').fold(default.clone(), |inner, key| format!("{{{key}: {inner}}}"));
        let mut args = EngineArgs::default();
        args.apply_yaml(&nested, "default").unwrap();
        assert_eq!(args, EngineArgs::default(), "{path}");
    }
}

#[test]
fn what_cannot_be_honoured_is_refused() {
    refused(&["--device", "tpu"], &["--device", "expected auto, cpu, cuda, or cuda:N"]);
    refused(&["--device", "cuda:"], &["expected auto, cpu, cuda, or cuda:N"]);
    refused(&["--device", "cuda:-1"], &["expected auto, cpu, cuda, or cuda:N"]);
    refused(&["--device", "cpu", "--dtype", "bf16"], &["--dtype", "f32 only", "--device cuda"]);
    refused(&["--device", "cpu", "--dtype", "f16"], &["--dtype", "expected auto or f32"]);
    refused(&["--dtype", "fp8"], &["--dtype", "auto, f32, bf16, f16"]);
    refused(&["--deterministic", "perhaps"], &["--deterministic: \"perhaps\"", "true or false"]);
    refused(&["--roles", "e,p"], &["--roles", "`p` and `d`"]);
    refused(&["--roles", "x"], &["invalid value 'x'", "agg, e, p, d"]);
    refused(&["--kv-block-size", "0"], &["--kv-block-size: 0", "an integer from 1 to 512"]);
    refused(&["--kv-block-size", "x"], &["--kv-block-size", "an integer from 1 to 512"]);
    refused(&["--tensor-parallel-size", "2"], &["--tensor-parallel-size", "1 only"]);
    refused(&["--max-batch-size", "9", "--max-num-tokens", "8"], &["max_num_tokens (8)"]);
    refused(&["--max-inflight-requests", "0"], &["--max-inflight-requests", "at least 1"]);
    refused(&["--max-file-size-mb", "0"], &["--max-file-size-mb", "from 1 to 4096"]);
    refused(&["--media-memory-mb", "0"], &["--media-memory-mb: 0", "from 1 to"]);
    refused(&["--media-memory-mb", "49"], &["--media-memory-mb: 49", "--max-file-size-mb (50)"]);
    refused(&["--media-memory-mb", "50"], &["--media-memory-mb", "--max-body-mb (128)"]);
    refused(&["--threads", "0"], &["--threads"]);
    refused(&["--served-model-name", ""], &["--served-model-name"]);
    refused(&["--allowed-local-media-path", "/no/such"], &["--allowed-local-media-path /no/such"]);
    refused(&["--custom-jinja-template", "/no/such"], &["--custom-jinja-template /no/such"]);
    refused(&["--extra-engine-args", "/no/such"], &["--extra-engine-args /no/such"]);
    refused(&["--override-engine-args", "{"], &["--override-engine-args", "not valid JSON"]);
    refused(&["--multimodal-embedding-cache-capacity-gb", "NaN"], &["capacity-gb"]);
    refused(&["--router-mode", "kv"], &["kv routing is not built yet; use least-loaded"]);
    refused(&["--router-mode", "random"], &["random routing is not built yet"]);
    refused(&["--router-mode", "best"], &["expected least-loaded"]);
    refused(&["--namespace", "a.b"], &["--namespace", "letters, digits, _ and -"]);
}

#[test]
fn roles_may_be_repeated_and_spelt_out() {
    let cfg = serve(&["--roles", "encode,p,p,d", "--engine", "mock"]).unwrap();
    assert_eq!(cfg.roles, [Role::Encode, Role::Prefill, Role::Prefill, Role::Decode]);
    assert!(matches!(cfg.engine, EngineKind::Mock(_)));
}

#[test]
fn a_model_is_a_folder_or_an_id_in_the_local_cache() {
    let files = Files::new("hub");
    let cache = files.path();
    let snapshot = cache.join("models--Qwen--Tiny-2B/snapshots/abc");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(cache.join("models--Qwen--Tiny-2B/refs")).unwrap();
    std::fs::write(cache.join("models--Qwen--Tiny-2B/refs/main"), "abc\n").unwrap();
    let found = config::model_path::find("Qwen/Tiny-2B", Some(cache)).unwrap();
    assert_eq!((found.folder, found.name.as_str()), (snapshot, "Qwen/Tiny-2B"));
    let absent = config::model_path::find("Qwen/Other", Some(cache)).unwrap_err();
    assert!(absent.message.contains("hf download Qwen/Other"), "{}", absent.message);
    let path = config::model_path::find("/no/such/folder", Some(cache)).unwrap_err();
    assert!(path.message.contains("no such folder") && !path.message.contains("download"));
}
