//! Whatever bytes come from outside: nothing panics, hangs or takes memory without bound. `fuzz/` goes deeper.

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use regimed::decoders::ALL;

use crate::rig::checkout;

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
    for (name, decode) in ALL {
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
