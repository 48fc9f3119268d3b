//! Whatever bytes come from outside: nothing panics, hangs or takes memory without bound. `fuzz/`
//! goes deeper.

use std::fs;
use std::path::PathBuf;

use crate::fuzz_decoders::{ALL, named};
use crate::rig::checkout;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Files of a decoder in one of fuzz's folders.
fn files(folder: &str, decoder: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(checkout(&format!("fuzz/{folder}/{decoder}"))) else {
        return Vec::new();
    };
    let mut files: Vec<_> = entries.map(|e| e.expect("an entry").path()).collect();
    files.sort();
    files
}

#[test]
fn what_a_fuzzer_found_once_is_taken_now() {
    for (name, _) in ALL {
        let decode = named(name).expect("a decoder");
        for file in files("seeds", name).into_iter().chain(files("regressions", name)) {
            decode(&fs::read(&file).expect("bytes"));
        }
    }
}

#[test]
fn every_decoder_is_fuzzed_from_good_examples() {
    for (name, _) in ALL {
        assert!(!files("seeds", name).is_empty(), "{name} has no example");
        let target = checkout(&format!("fuzz/fuzz_targets/{name}.rs"));
        let text = fs::read_to_string(target).expect("a fuzz target");
        assert!(text.contains(&format!("named(\"{name}\")")), "{name}");
    }
}

#[test]
fn any_bytes_and_changed_examples_are_taken() {
    for (name, decode) in ALL {
        let seeds: Vec<Vec<u8>> =
            files("seeds", name).iter().map(|f| fs::read(f).expect("bytes")).collect();
        let mut runner = TestRunner::new(Config { cases: 300, ..Config::default() });
        let bytes = proptest::collection::vec(any::<u8>(), 0..300);
        runner
            .run(&bytes, |bytes| {
                decode(&bytes);
                Ok(())
            })
            .expect(name);
        let place = any::<proptest::sample::Index>;
        let change = (place(), place(), any::<u8>());
        let changed = (0..seeds.len(), proptest::collection::vec(change, 1..5), any::<bool>());
        runner
            .run(&changed, |(seed, changes, cut)| {
                let mut bytes = seeds[seed].clone();
                for (at, to, value) in changes {
                    let (at, to) = (at.index(bytes.len()), to.index(bytes.len()));
                    bytes[at] = value;
                    if cut && to > 0 {
                        bytes.truncate(to);
                    } else {
                        bytes.swap(at, to);
                    }
                }
                decode(&bytes);
                Ok(())
            })
            .expect(name);
    }
}

#[test]
fn a_recording_reads_no_other_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = |name: &str| folder.path().join(name);
    let good = fs::read(checkout("fuzz/seeds/nwb/old_layout")).expect("bytes");
    fs::write(place("secret.nwb"), &good).expect("written");
    let times: Vec<u8> = [0.1f64, 0.2, 0.15].iter().flat_map(|t| t.to_le_bytes()).collect();
    fs::write(place("secret.bin"), times).expect("written");
    let how = regimed::internals::recording::SpikeSettings::default();
    regimed::internals::recording::read_nwb(&place("secret.nwb"), &how).expect("a good one");
    for name in ["external", "linked"] {
        let file = place(&format!("{name}.nwb"));
        fs::copy(checkout(&format!("fuzz/seeds/nwb/{name}")), &file).expect("copied");
        let error = regimed::internals::recording::read_nwb(&file, &how).expect_err(name);
        assert!(error.to_string().contains("/units/spike_times"), "{error}");
    }
}

#[test]
fn the_good_examples_are_good() {
    let seed = |name: &str| checkout(&format!("fuzz/seeds/{name}"));
    for name in ["npz/trials", "npz/concatenated"] {
        let file = fs::File::open(seed(name)).expect("a file");
        regimed::internals::recording::read_from(file, &seed(name)).expect(name);
    }
    let labelled = regimed::internals::recording::SpikeSettings {
        labels: Some("trials/condition".into()),
        tasks: Some("trials/target".into()),
        bin_ms: None,
        ..regimed::internals::recording::SpikeSettings::default()
    };
    for name in ["nwb/old_layout", "nwb/new_layout"] {
        regimed::internals::recording::read_nwb(&seed(name), &labelled).expect(name);
    }
    let model = fs::read(seed("model/least")).expect("bytes");
    let cut = model.iter().position(|&b| b == 0).expect("a zero byte");
    let weights = &model[cut + 1..];
    let mut card: serde_json::Value = serde_json::from_slice(&model[..cut]).expect("JSON");
    card["weights_sha256"] = regimed::internals::checkpoint::sha256_hex(weights).into();
    let card = card.to_string();
    regimed::internals::checkpoint::from_bytes(&seed("model"), card.as_bytes(), weights)
        .expect("a model");
}
