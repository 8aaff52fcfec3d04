//! Compiles `proto/` into prost types, without needing `protoc`.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo::rerun-if-changed={}", root.display());
    let files = protox::compile(["triptych/v1/stages.proto"], [&root])?;
    prost_build::Config::new().bytes(["."]).compile_fds(files)?;
    Ok(())
}
