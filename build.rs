//! Compiles `proto/` with protox (pure Rust), so that no `protoc` is needed on the machine, and notes
//! the commit for model cards.

use std::{env, error::Error, fs, path::Path, path::PathBuf, process::Command};

const PROTOS: [&str; 6] = [
    "proto/regimed/v1/control.proto",
    "proto/regimed/v1/counts.proto",
    "proto/regimed/v1/decisions.proto",
    "proto/regimed/v1/ingest.proto",
    "proto/regimed/v1/journal.proto",
    "proto/regimed/v1/regimes.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-env=REGIMED_GIT_COMMIT={}", commit());
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("regimed_descriptor.bin"), prost_bytes(&descriptors))?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}

fn prost_bytes(set: &impl protox::prost::Message) -> Vec<u8> {
    set.encode_to_vec()
}

/// The commit that is built, "unknown" outside a git checkout.
fn commit() -> String {
    // The reflog changes with every commit; HEAD itself only names a branch.
    if Path::new(".git/logs/HEAD").exists() {
        println!("cargo:rerun-if-changed=.git/logs/HEAD");
    }
    Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output()
        .ok()
        .filter(|o| o.status.success())
        .and_then(|o| String::from_utf8(o.stdout).ok())
        .map_or_else(|| "unknown".into(), |s| s.trim().to_owned())
}
