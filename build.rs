//! Compiles `proto/` with protox (pure Rust), so that no `protoc` is needed on the machine.

use std::{env, error::Error, fs, path::PathBuf};

const PROTOS: [&str; 4] = [
    "proto/regimed/v1/counts.proto",
    "proto/regimed/v1/decisions.proto",
    "proto/regimed/v1/ingest.proto",
    "proto/regimed/v1/regimes.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=.git/HEAD");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("regimed_descriptor.bin"), prost_bytes(&descriptors))?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}

fn prost_bytes(set: &impl protox::prost::Message) -> Vec<u8> {
    set.encode_to_vec()
}
