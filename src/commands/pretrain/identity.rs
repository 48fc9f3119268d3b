//! What must be the same for an interrupted training to go on.

use std::collections::{BTreeMap, BTreeSet};

use crate::checkpoint::DataFile;
use crate::commands::recordings::RecordingArgs;
use crate::model::Dimensions;
use crate::training::TrainingSettings;

/// What must be the same for a training to go on: a setting a line, by its name.
pub(super) fn identity(files: &[DataFile], s: &TrainingSettings, r: &RecordingArgs) -> String {
    let hashes: Vec<&str> = files.iter().map(|f| f.sha256.as_str()).collect();
    let part = |f: Option<f64>| f.map_or("none".into(), |f| f.to_string());
    let Dimensions { embedding, rank, units, hidden: [h1, h2] } = s.dims;
    let lines: [(&str, String); 17] = [
        ("recordings", hashes.join("+")),
        ("--steps", s.steps.to_string()),
        ("--batch", s.batch.to_string()),
        ("--window-bins", s.window_bins.to_string()),
        ("--learning-rate", s.learning_rate.to_string()),
        ("--contrast-weight", s.contrast_weight.to_string()),
        ("--forecast-weight", s.forecast_weight.to_string()),
        ("--forecast-bins", s.horizon_bins.to_string()),
        ("--exponent-weight", s.exponent_weight.to_string()),
        ("--process-penalty", s.process_penalty.to_string()),
        ("--rank", rank.to_string()),
        ("--embedding", embedding.to_string()),
        ("--units", format!("{units} of {h1} and {h2}")),
        ("--seed", s.seed.to_string()),
        ("--bin-ms", part(r.bin_ms)),
        ("--first", part(r.first)),
        ("--last", part(r.last)),
    ];
    let named = [("--labels", &r.labels), ("--tasks", &r.tasks), ("--session", &r.session)];
    let named = named.into_iter().filter_map(|(name, text)| Some((name, text.clone()?)));
    let lines = lines.into_iter().chain(named).map(|(name, value)| format!("{name} {value}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Differences between two identities, to show.
pub(super) fn differences(expected: &str, found: &str) -> String {
    let of = |identity: &str| -> BTreeMap<String, String> {
        let named = identity.lines().filter_map(|line| line.split_once(' '));
        named.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let (expected, found) = (of(expected), of(found));
    let names: BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
    let differ = |name: &String| {
        let value =
            |of: &BTreeMap<String, String>| of.get(name).map_or("none".to_owned(), String::clone);
        let (e, f) = (value(&expected), value(&found));
        match (e == f, name.as_str()) {
            (true, _) => None,
            (_, "recordings") => Some("other recordings than it has begun with".to_owned()),
            _ => Some(format!("{name} {f}, it was begun with {name} {e}")),
        }
    };
    let all: Vec<String> = names.into_iter().filter_map(differ).collect();
    if all.is_empty() { "settings of another version".into() } else { all.join("; ") }
}
