//! Folders as they are found: names of two generations, shards, missing and foreign tensors,
//! dummies.

use crate::ZOO;
use crate::golden::{Golden, read_json};
use crate::sequence::{Loaded, Prompt, bits, table_for};
use models::LoadFormat;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tensor::Device;
use types::ErrorKind;

/// A copy of a model folder that is removed at the end.
struct Folder(PathBuf);

impl Folder {
    /// The JSON and text files of `from`, without its weights.
    fn without_weights(from: &Path, name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("laws-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            if !path.to_str().unwrap().contains("safetensors") {
                std::fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
            }
        }
        Self(folder)
    }

    fn write(&self, name: &str, tensors: &Entries) {
        let mut header = serde_json::Map::new();
        let mut data = Vec::new();
        for (name, (dtype, shape, bytes)) in tensors {
            let offsets = [data.len(), data.len() + bytes.len()];
            let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets });
            header.insert(name.clone(), entry);
            data.extend_from_slice(bytes);
        }
        let header = Value::Object(header).to_string().into_bytes();
        let file = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
        std::fs::write(self.0.join(name), file).unwrap();
    }

    fn load(&self) -> types::Result<()> {
        models::load(&self.0, LoadFormat::Auto, &Device::all_cpus()).map(drop)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Name → dtype, shape, bytes.
type Entries = BTreeMap<String, (String, Value, Vec<u8>)>;

/// All tensors of a model folder, as they are in its files.
fn entries(folder: &Path) -> Entries {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|name| name == "safetensors"));
    let mut entries = Entries::new();
    for path in files {
        let bytes = std::fs::read(path).unwrap();
        let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..8 + header_len]).unwrap();
        for (name, entry) in header.as_object().unwrap() {
            if name == "__metadata__" {
                continue;
            }
            let offset = |i: usize| entry["data_offsets"][i].as_u64().unwrap() as usize;
            let data = bytes[8 + header_len + offset(0)..8 + header_len + offset(1)].to_vec();
            let dtype = entry["dtype"].as_str().unwrap().to_owned();
            entries.insert(name.clone(), (dtype, entry["shape"].clone(), data));
        }
    }
    entries
}

/// Logits of the first prompt.
fn logits(loaded: &Loaded, golden: &Golden) -> Vec<u32> {
    let prompt: Prompt = loaded.prompt(&golden.prompts()[1]);
    let table = table_for(prompt.len());
    let tokens = &prompt.expanded.tokens;
    let mut kv = loaded.pool(table.len());
    bits(loaded.run((&prompt, tokens), (0, prompt.len()), (&mut kv, &table)).as_f32())
}

#[test]
fn other_names_shards_and_types_are_the_same_model() {
    for (family, index) in ZOO {
        let golden = Golden::read(family, index);
        let device = Device::all_cpus();
        let expected = logits(&Loaded::open(&golden, &device), &golden);
        let name = format!("variants-{family}-{index}");
        let folder = Folder::without_weights(&golden.checkpoint, &name);
        let renamed: Entries = entries(&golden.checkpoint)
            .into_iter()
            .map(|(name, entry)| (other_generation(family, &name), widened(entry)))
            .collect();
        let middle = renamed.keys().nth(renamed.len() / 2).unwrap().clone();
        let parts = [renamed.range(..middle.clone()), renamed.range(middle..)];
        let mut weight_map = serde_json::Map::new();
        for (idx, part) in parts.into_iter().enumerate() {
            let part: Entries = part.map(|(name, entry)| (name.clone(), entry.clone())).collect();
            let file = format!("part-{idx}.safetensors");
            weight_map.extend(part.keys().map(|name| (name.clone(), json!(file))));
            folder.write(&file, &part);
        }
        let index = json!({ "weight_map": weight_map }).to_string();
        std::fs::write(folder.0.join("model.safetensors.index.json"), index).unwrap();
        let variant = Golden { checkpoint: folder.0.clone(), ..Golden::read(family, "index.json") };
        assert_eq!(logits(&Loaded::open(&variant, &device), &golden), expected, "{name}");
    }
}

/// The name that the other generation of checkpoints has for a weight.
fn other_generation(family: &str, name: &str) -> String {
    let qwen2_vl = &[
        ("model.visual.", "visual."),
        ("model.language_model.", "model."),
        ("visual.", "model.visual."),
        ("model.", "model.language_model."),
    ];
    let llava = &[
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
        ("model.", ""),
        ("language_model.model.", "model.language_model."),
        ("language_model.", ""),
        ("", "model."),
    ];
    let swaps: &[(&str, &str)] = if family == "qwen2_vl" { qwen2_vl } else { llava };
    let swap = swaps.iter().find_map(|(from, to)| Some((to, name.strip_prefix(from)?)));
    swap.map_or_else(|| name.to_owned(), |(to, rest)| format!("{to}{rest}"))
}

/// The same tensor in f32.
fn widened((dtype, shape, bytes): (String, Value, Vec<u8>)) -> (String, Value, Vec<u8>) {
    let widen = |two: &[u8]| match dtype.as_str() {
        "BF16" => half::bf16::from_le_bytes([two[0], two[1]]).to_f32(),
        "F16" => half::f16::from_le_bytes([two[0], two[1]]).to_f32(),
        other => panic!("goldens have no {other}"),
    };
    let bytes = bytes.chunks(2).flat_map(|two| widen(two).to_le_bytes()).collect();
    ("F32".to_owned(), shape, bytes)
}

/// Loads a folder whose weights were changed.
fn load_changed(family: &str, name: &str, change: impl Fn(&mut Entries)) -> types::Result<()> {
    let golden = Golden::read(family, "index.json");
    let folder = Folder::without_weights(&golden.checkpoint, name);
    let mut tensors = entries(&golden.checkpoint);
    change(&mut tensors);
    folder.write("model.safetensors", &tensors);
    folder.load()
}

/// The same, and expects the message to say what is wrong.
fn check_refused(name: &str, change: impl Fn(&mut Entries), part: &str) {
    let message = load_changed(ZOO[0].0, name, change).expect_err(name).message;
    assert!(message.contains(part), "{name}: {message}");
}

#[test]
fn every_tensor_that_runs_must_be_there_and_no_other() {
    for family in ["llava", "llava_next"] {
        let all = entries(&Golden::read(family, "index.json").checkpoint);
        // The layers from the third on, and the norm behind the last, are not run.
        let is_run = |name: &str| !name.contains("layers.2.") && !name.contains("post_layernorm");
        let mut n_not_run = 0;
        for removed in all.keys() {
            let name = format!("without-{family}-{removed}");
            let without = load_changed(family, &name, |tensors| drop(tensors.remove(removed)));
            n_not_run += usize::from(!is_run(removed));
            assert_eq!(without.is_ok(), !is_run(removed), "{removed}: {without:?}");
        }
        assert_eq!(n_not_run, 18);
        let tower = all.keys().find(|name| name.ends_with("post_layernorm.bias")).unwrap();
        for foreign in
            ["extra.bias", "encoder.layers.2.extra.bias", "encoder.layers.3.mlp.fc1.bias"]
        {
            let foreign = tower.replace("post_layernorm.bias", foreign);
            let name = format!("with-{family}-{foreign}");
            let add = |tensors: &mut Entries| {
                let copy = tensors[tower].clone();
                tensors.insert(foreign.clone(), copy);
            };
            let message = load_changed(family, &name, add).expect_err(&foreign).message;
            assert!(message.contains(&foreign), "{message}");
        }
    }
}

#[test]
fn weights_that_are_not_the_architectures_are_refused_by_name() {
    let norm = "model.language_model.norm.weight";
    check_refused("missing", |tensors| drop(tensors.remove(norm)), norm);
    check_refused(
        "foreign",
        |tensors| {
            let copy = tensors[norm].clone();
            tensors.insert("model.adapter.weight".to_owned(), copy);
        },
        "model.adapter.weight",
    );
    check_refused(
        "twice",
        |tensors| {
            let copy = tensors[norm].clone();
            tensors.insert("model.norm.weight".to_owned(), copy);
        },
        "model.norm.weight",
    );
    check_refused(
        "shape",
        |tensors| {
            let entry = tensors.get_mut(norm).unwrap();
            entry.1 = json!([128, 2]);
        },
        norm,
    );
    check_refused("type", |tensors| tensors.get_mut(norm).unwrap().0 = "I16".to_owned(), norm);
    check_refused(
        "size",
        |tensors| tensors.get_mut(norm).unwrap().1 = json!([1_u64 << 40, 1_u64 << 40]),
        norm,
    );
}

#[test]
fn files_that_are_no_weights_are_refused() {
    let golden = Golden::read(ZOO[0].0, ZOO[0].1);
    let folder = Folder::without_weights(&golden.checkpoint, "broken");
    assert_eq!(folder.load().unwrap_err().kind, ErrorKind::NotFound);
    let whole = std::fs::read(golden.checkpoint.join("model.safetensors")).unwrap();
    for n_bytes in [0, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(folder.0.join("model.safetensors"), &whole[..n_bytes]).unwrap();
        assert!(folder.load().is_err(), "{n_bytes} bytes");
    }
    std::fs::write(folder.0.join("model.safetensors"), [0xFF; 64]).unwrap();
    assert!(folder.load().is_err());
    let index = json!({ "weight_map": { "a": "../elsewhere.safetensors" } }).to_string();
    std::fs::write(folder.0.join("model.safetensors.index.json"), index).unwrap();
    assert!(folder.load().unwrap_err().message.contains("outside"));
}

#[test]
fn a_copy_of_a_tied_head_is_ignored() {
    let golden = Golden::read(ZOO[0].0, ZOO[0].1);
    let folder = Folder::without_weights(&golden.checkpoint, "tied");
    let mut tensors = entries(&golden.checkpoint);
    let copy = tensors["model.language_model.embed_tokens.weight"].clone();
    tensors.insert("lm_head.weight".to_owned(), copy);
    folder.write("model.safetensors", &tensors);
    folder.load().unwrap();
}

#[test]
fn a_dummy_runs_from_its_config_alone() {
    for (family, index) in ZOO {
        let golden = Golden::read(family, index);
        let name = format!("dummy-{family}-{index}");
        let folder = Folder(std::env::temp_dir().join(format!("{name}-{}", std::process::id())));
        std::fs::create_dir_all(&folder.0).unwrap();
        let config = golden.checkpoint.join("config.json");
        std::fs::copy(&config, folder.0.join("config.json")).unwrap();
        assert!(models::describe(&folder.0, LoadFormat::Auto).is_err(), "{name}");
        let device = Device::all_cpus();
        let model = models::load(&folder.0, LoadFormat::Dummy, &device).unwrap();
        let description = models::describe(&folder.0, LoadFormat::Dummy).unwrap();
        assert_eq!(model.spec(), &description.spec);
        let tokenizer: Value =
            serde_json::from_slice(description.card.file("tokenizer.json").unwrap()).unwrap();
        let n_pieces = tokenizer["model"]["vocab"].as_object().unwrap().len()
            + tokenizer["added_tokens"].as_array().unwrap().len();
        assert_eq!(n_pieces, model.spec().vocab_size);
        assert!(description.card.file("chat_template.json").is_some());
        let loaded = Loaded { device, model, description };
        let bits = logits(&loaded, &golden);
        let is_number = |bits: &u32| f32::from_bits(*bits).is_finite() && *bits != 0;
        assert!(bits.iter().all(is_number), "{name}");
    }
}

#[test]
fn cards_differ_when_files_or_weights_do() {
    let golden = Golden::read(ZOO[0].0, ZOO[0].1);
    let digest = |folder: &Path| models::describe(folder, LoadFormat::Auto).unwrap().card.digest();
    let folder = Folder::without_weights(&golden.checkpoint, "card");
    let tensors = entries(&golden.checkpoint);
    folder.write("model.safetensors", &tensors);
    let first = digest(&folder.0);
    assert_eq!(first, digest(&folder.0));
    let mut config = read_json(&folder.0.join("config.json"));
    config["text_config"]["rms_norm_eps"] = json!(1e-5);
    std::fs::write(folder.0.join("config.json"), config.to_string()).unwrap();
    let second = digest(&folder.0);
    assert_ne!(first, second);
    let other = tensors.into_iter().map(|(name, entry)| (name, widened(entry))).collect();
    folder.write("model.safetensors", &other);
    assert_ne!(second, digest(&folder.0));
}
