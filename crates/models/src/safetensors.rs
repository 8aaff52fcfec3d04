//! Safetensors files: a table of names, types, shapes and offsets, then the bytes. Memory-mapped,
//! one file or several shards with an index.

use crate::files::{read, unusable};
use memmap2::Mmap;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use tensor::DType;
use types::content::{CanonicalHasher, Digest};
use types::{Error, ErrorKind, Result};

/// Largest table we read; the format's own limit.
const HEADER_BYTES_MAX: u64 = 100_000_000;

/// All tensors of a model folder, by the names in the files.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    shards: Vec<Mmap>,
    entries: BTreeMap<String, Entry>,
}

/// A tensor as it lies in the file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stored<'a> {
    pub(crate) dtype: DType,
    pub(crate) shape: &'a [usize],
    pub(crate) bytes: &'a [u8],
}

#[derive(Debug)]
struct Entry {
    shard: usize,
    dtype: DType,
    shape: Vec<usize>,
    start: usize,
    end: usize,
}

impl Checkpoint {
    /// Maps the weights of `folder`.
    ///
    /// Errors: no weights, a malformed file, a name that occurs twice.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let mut checkpoint = Self { shards: Vec::new(), entries: BTreeMap::new() };
        for path in weight_files(folder)? {
            let (header, data_start) = read_header(&path)?;
            let file = File::open(&path).map_err(|error| cannot_read(&path, &error))?;
            // SAFETY: the folder of a model that is being loaded is not written to; a truncated
            // file would end the process, not be misread.
            let map = unsafe { Mmap::map(&file) }.map_err(|error| cannot_read(&path, &error))?;
            checkpoint.add(&path, &header, (map, data_start))?;
        }
        Ok(checkpoint)
    }

    /// Bytes of all tensors.
    pub(crate) fn n_bytes(&self) -> usize {
        self.entries.values().map(|entry| entry.end - entry.start).sum()
    }

    /// Names of all tensors.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The tensor called `name` in the files.
    pub(crate) fn get(&self, name: &str) -> Option<Stored<'_>> {
        let entry = self.entries.get(name)?;
        let bytes = &self.shards[entry.shard][entry.start..entry.end];
        Some(Stored { dtype: entry.dtype, shape: &entry.shape, bytes })
    }

    fn add(&mut self, path: &Path, header: &[u8], (map, data_start): (Mmap, usize)) -> Result<()> {
        let malformed = |why: &str| unusable(&path.display().to_string(), why);
        let table: BTreeMap<String, Value> =
            serde_json::from_slice(header).map_err(|error| malformed(&error.to_string()))?;
        for (name, value) in table.iter().filter(|(name, _)| *name != "__metadata__") {
            let entry = parse_entry(value, self.shards.len(), data_start)
                .filter(|entry| entry.end <= map.len())
                .ok_or_else(|| malformed(&format!("the entry of tensor {name} is not valid")))?;
            if self.entries.insert(name.clone(), entry).is_some() {
                return Err(malformed(&format!("tensor {name} occurs twice")));
            }
        }
        self.shards.push(map);
        Ok(())
    }
}

/// Identity of the weights of `folder`: file names and sizes, and the tables inside.
///
/// Errors: no weights, or a file that cannot be read.
pub(crate) fn weights_digest(folder: &Path) -> Result<Digest> {
    let mut hasher = CanonicalHasher::new("triptych/weights/1");
    for path in weight_files(folder)? {
        let (header, _) = read_header(&path)?;
        let size = std::fs::metadata(&path).map_err(|error| cannot_read(&path, &error))?.len();
        let name = path.file_name().unwrap_or_default();
        hasher.field(name.as_encoded_bytes()).number(size).field(&header);
    }
    Ok(hasher.finish())
}

/// The files that hold the weights, sorted: those of the index, else the one usual name.
fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let index = folder.join("model.safetensors.index.json");
    if index.exists() {
        let malformed = |why: &str| unusable(&index.display().to_string(), why);
        let value: Value = serde_json::from_slice(&read(&index)?)
            .map_err(|error| malformed(&error.to_string()))?;
        let map = value.get("weight_map").and_then(Value::as_object);
        let map = map.ok_or_else(|| malformed("there is no weight_map"))?;
        let names: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
        // A shard lies beside its index; anything else would let an index name any file.
        if names.iter().any(|name| name.contains(['/', '\\']) || *name == "..") {
            return Err(malformed("a shard is outside the folder"));
        }
        return Ok(names.into_iter().map(|name| folder.join(name)).collect());
    }
    let single = folder.join("model.safetensors");
    if single.exists() {
        return Ok(vec![single]);
    }
    let message = format!("{} has no model.safetensors and no index of shards", folder.display());
    Err(Error::new(ErrorKind::NotFound, message))
}

/// The table at the start of a file, and where the data begins.
fn read_header(path: &Path) -> Result<(Vec<u8>, usize)> {
    let mut file = File::open(path).map_err(|error| cannot_read(path, &error))?;
    let mut len = [0; 8];
    file.read_exact(&mut len).map_err(|error| cannot_read(path, &error))?;
    let len = u64::from_le_bytes(len);
    if len > HEADER_BYTES_MAX {
        return Err(unusable(&path.display().to_string(), "this is no safetensors file"));
    }
    let mut header = vec![0; len as usize];
    file.read_exact(&mut header).map_err(|error| cannot_read(path, &error))?;
    Ok((header, 8 + len as usize))
}

fn parse_entry(value: &Value, shard: usize, data_start: usize) -> Option<Entry> {
    let dtype = match value.get("dtype")?.as_str()? {
        "F32" => DType::F32,
        "BF16" => DType::Bf16,
        "F16" => DType::F16,
        _ => return None,
    };
    let number = |value: &Value| usize::try_from(value.as_u64()?).ok();
    let shape: Option<Vec<usize>> = value.get("shape")?.as_array()?.iter().map(number).collect();
    let offsets = value.get("data_offsets")?.as_array()?;
    let [start, end] = [number(offsets.first()?)?, number(offsets.get(1)?)?];
    let shape = shape?;
    let n_elements = shape.iter().try_fold(1_usize, |n, &size| n.checked_mul(size))?;
    let n_bytes = n_elements.checked_mul(dtype.n_bytes())?;
    if end.checked_sub(start)? != n_bytes {
        return None;
    }
    let end = data_start.checked_add(end)?;
    Some(Entry { shard, dtype, shape, start: data_start + start, end })
}

fn cannot_read(path: &Path, error: &std::io::Error) -> Error {
    Error::new(ErrorKind::NotFound, format!("cannot read {}: {error}", path.display()))
}
