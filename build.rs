//! Compiles `proto/` with protox (pure Rust), so that no `protoc` is needed on the machine, and
//! notes the commit for model cards.

use std::{env, error::Error, fs, path::Path, path::PathBuf, process::Command};

const PROTOS: [&str; 7] = [
    "proto/regimed/v1/actions.proto",
    "proto/regimed/v1/control.proto",
    "proto/regimed/v1/counts.proto",
    "proto/regimed/v1/decisions.proto",
    "proto/regimed/v1/ingest.proto",
    "proto/regimed/v1/journal.proto",
    "proto/regimed/v1/regimes.proto",
];

/// Messages that are told as JSON too, with the fields' names as they are here.
const AS_JSON: [&str; 17] = [
    "regimed.v1.Accounts",
    "regimed.v1.Annotation",
    "regimed.v1.Calibration",
    "regimed.v1.Clock",
    "regimed.v1.Condition",
    "regimed.v1.Decision",
    "regimed.v1.Edge",
    "regimed.v1.Eigenvalue",
    "regimed.v1.Estimate",
    "regimed.v1.Event",
    "regimed.v1.Expert",
    "regimed.v1.FixedPoints",
    "regimed.v1.Interval",
    "regimed.v1.Metrics",
    "regimed.v1.Session",
    "regimed.v1.Source",
    "regimed.v1.Trigger",
];
/// Enumerations are told by their names there.
const NAMED_IN_JSON: [(&str, &str); 3] = [
    ("regimed.v1.Metrics.signature", "signature_name"),
    ("regimed.v1.Session.state", "session_state_name"),
    ("regimed.v1.Calibration.state", "calibration_state_name"),
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-env=REGIMED_GIT_COMMIT={}", commit());
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("regimed_descriptor.bin"), prost_bytes(&descriptors))?;
    let mut config = tonic_prost_build::configure()
        .codec_path("crate::wire::codec::Codec")
        // Its decision is encoded once for all subscribers.
        .extern_path(".regimed.v1.DecisionUpdate", "crate::wire::DecisionUpdate");
    for message in AS_JSON {
        config = config.type_attribute(message, "#[derive(serde::Serialize)]");
    }
    for (field, by) in NAMED_IN_JSON {
        config = config.field_attribute(field, format!("#[serde(serialize_with = \"{by}\")]"));
    }
    config.bytes(".").compile_fds(descriptors)?;
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
