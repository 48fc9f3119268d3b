//! The house: imports point down, files stay readable.

use std::path::{Path, PathBuf};

use crate::rig::checkout;

/// Floors from the ground up; a room may use the rooms below it.
const FLOORS: [&[&str]; 17] = [
    // Numbers: no clock, no I/O.
    &["model", "teacher"],
    &["inference"],
    &["dynamics", "regime"],
    // Ground services.
    &["files", "sync", "wire"],
    &["telemetry", "recording"],
    &["security", "journal", "checkpoint", "training"],
    // The outside world.
    &["intake"],
    &["bus"],
    &["rigs"],
    &["api"],
    &["config"],
    // Composition.
    &["daemon"],
    &["decoders"],
    &["commands"],
    &["lib"],
    &["cli"],
    &["main"],
];
/// Rooms without a clock or I/O.
const PURE: [&str; 5] = ["model", "teacher", "inference", "dynamics", "regime"];
const PURE_FORBIDDEN: [&str; 6] =
    ["tokio", "std::fs", "std::net", "Instant::now", "SystemTime", "std::env"];

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|f| f.contains(&room))
}

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// A file's code without its tests.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).expect("text");
    text.split("#[cfg(test)]").next().unwrap_or_default().to_owned()
}

#[test]
fn imports_point_down() {
    let root = checkout("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut faults = Vec::new();
    let mut seen = 0;
    for file in &files {
        let inside = file.strip_prefix(&root).expect("in src");
        let first = inside.components().next().expect("a name").as_os_str().to_string_lossy();
        let room = first.trim_end_matches(".rs");
        let here = floor(room).unwrap_or_else(|| panic!("{room} is on no floor"));
        for (number, line) in code(file).lines().enumerate() {
            for part in line.split("crate::").skip(1) {
                let other =
                    part.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("");
                let Some(there) = floor(other) else { continue };
                seen += 1;
                if there >= here && room != other {
                    faults.push(format!(
                        "{}:{}: {room} uses {other}",
                        inside.display(),
                        number + 1
                    ));
                }
            }
            if PURE.contains(&room) && !line.trim_start().starts_with("//") {
                for word in PURE_FORBIDDEN.iter().filter(|w| line.contains(**w)) {
                    faults.push(format!(
                        "{}:{}: {word} in pure code",
                        inside.display(),
                        number + 1
                    ));
                }
            }
        }
    }
    assert!(seen > 50, "the scan found only {seen} imports");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn files_and_lines_stay_readable() {
    let mut files = Vec::new();
    for dir in ["src", "tests/it", "benches"] {
        sources(&checkout(dir), &mut files);
    }
    let mut faults = Vec::new();
    for file in &files {
        let lines = code(file).lines().count();
        if lines > 600 {
            faults.push(format!("{}: {lines} lines", file.display()));
        }
    }
    assert!(files.len() > 40, "only {} files", files.len());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
