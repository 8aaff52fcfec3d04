//! Every file under `engine_configs/` is accepted, each model has one for each role, and the roles
//! of a model agree on what they must share.

use config::EngineArgs;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const ROLES: [&str; 4] = ["agg.yaml", "decode.yaml", "encode.yaml", "prefill.yaml"];

fn entries(folder: &Path) -> BTreeSet<PathBuf> {
    let listed = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    listed.map(|entry| entry.unwrap().path()).collect()
}

fn models() -> BTreeSet<PathBuf> {
    let found = entries(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../engine_configs"));
    assert!(found.iter().any(|folder| folder.ends_with("shapes")), "the demo model is missing");
    found
}

fn args_of(file: &Path) -> EngineArgs {
    let mut args = EngineArgs::default();
    args.apply_yaml_file(file).unwrap();
    args.check().unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    args
}

#[test]
fn every_model_has_a_file_for_each_role_and_nothing_else() {
    for model in models() {
        let expected: BTreeSet<_> = ROLES.iter().map(|role| model.join(role)).collect();
        assert_eq!(entries(&model), expected);
    }
}

#[test]
fn every_file_is_accepted_and_says_something() {
    for file in models().iter().flat_map(|model| entries(model)) {
        assert_ne!(args_of(&file), EngineArgs::default(), "{}: says nothing", file.display());
    }
}

#[test]
fn the_roles_of_a_model_share_a_block_size_and_a_context() {
    for model in models() {
        let of = |role| args_of(&model.join(role));
        let (prefill, decode) = (of("prefill.yaml"), of("decode.yaml"));
        assert_eq!(prefill.max_seq_len, decode.max_seq_len, "{}", model.display());
        for role in ROLES {
            let found = of(role).kv_cache.tokens_per_block;
            assert_eq!(found, decode.kv_cache.tokens_per_block, "{}", model.join(role).display());
        }
    }
}
