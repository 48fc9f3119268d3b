//! Recording files, from bytes made here and not by our own writer.

use std::io::Write;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use regimed::internals::recording::{self, Recording};
use zip::write::SimpleFileOptions;

use crate::rig::arg;

/// One array as numpy's format 1.0 describes it.
fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn f64s(values: &[f64]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn i64s(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn names(values: &[&str]) -> Vec<u8> {
    let wide = |s: &str| -> Vec<u8> {
        let mut chars = s.chars();
        (0..4).flat_map(|_| chars.next().map_or(0, u32::from).to_le_bytes()).collect()
    };
    values.iter().flat_map(|s| wide(s)).collect()
}

type Keys = Vec<(&'static str, Vec<u8>)>;

/// Two trials of three bins of two channels.
fn good() -> Keys {
    vec![
        ("counts", npy("|u1", "(2, 3, 2)", &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])),
        ("bin_width_s", npy("<f8", "()", &f64s(&[0.01]))),
        ("regime", npy("<i8", "(2,)", &i64s(&[0, -1]))),
        ("regime_names", npy("<U4", "(2,)", &names(&["rest", "run"]))),
        ("session", npy("<U4", "(2,)", &names(&["a", "b"]))),
    ]
}

fn with(key: &'static str, array: Vec<u8>) -> Keys {
    let mut keys = good();
    keys.retain(|(k, _)| *k != key);
    keys.push((key, array));
    keys
}

fn file(dir: &Path, keys: &Keys) -> PathBuf {
    let path = dir.join("recording.npz");
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&path).expect("created"));
    for (key, array) in keys {
        zip.start_file(format!("{key}.npy"), SimpleFileOptions::default()).expect("started");
        zip.write_all(array).expect("written");
    }
    zip.finish().expect("finished");
    path
}

#[test]
fn a_good_file_is_read_and_written_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut read = recording::read(&file(dir.path(), &good())).expect("good");
    assert_eq!((read.trials.len(), read.n_channels, read.n_bins()), (2, 2, 6));
    assert_eq!(read.trials[1].counts.flatten().to_vec(), [6, 7, 8, 9, 10, 11]);
    assert_eq!(read.trials[0].regime, [Some(0); 3]);
    assert_eq!(read.trials[1].regime, [None; 3]);
    assert_eq!(read.regime_names, ["rest", "run"]);
    assert_eq!(read.trials[1].session, "b");
    let copy = dir.path().join("copy.npz");
    recording::write(&read, &copy).expect("written");
    let again = recording::read(&copy).expect("our own file");
    read.path = copy;
    assert_eq!(again, read);
}

#[test]
fn labels_may_be_texts_channels_have_names_and_nothing_is_guessed() {
    let dir = tempfile::tempdir().expect("a folder");
    let read = |keys: &Keys| recording::read(&file(dir.path(), keys));
    let texts = |values: &[&str]| npy("<U4", &format!("({},)", values.len()), &names(values));
    let mut keys = with("regime", texts(&["run", "n/a"]));
    let labelled = read(&keys).expect("texts are labels");
    assert_eq!(labelled.trials[0].regime, [Some(1); 3]);
    assert_eq!(labelled.trials[1].regime, [None; 3]);
    keys.retain(|k| k.0 != "regime_names");
    assert_eq!(read(&keys).expect("they name themselves").regime_names, ["run"]);
    let nan = with("regime", npy("<f8", "(2,)", &f64s(&[1.0, f64::NAN])));
    assert_eq!(read(&nan).expect("no number is no label").trials[1].regime, [None; 3]);
    let named = read(&with("channels", texts(&["E1", "E2"]))).expect("names");
    assert_eq!(named.channels.expect("names"), ["E1", "E2"]);
    let mut unnamed = good();
    unnamed.retain(|k| k.0 != "session");
    assert_eq!(read(&unnamed).expect("good").trials[0].session, "recording", "as the file");
    for (keys, words) in [
        (with("channels", texts(&["E1", "E1"])), ["channels", "each once"]),
        (with("regime", texts(&["run", "fly"])), ["'fly'", "rest, run"]),
        (
            vec![
                ("spikes", npy("|u1", "(4, 2)", &[1; 8])),
                ("dt", npy("<f8", "()", &f64s(&[0.01]))),
            ],
            ["no such key", "dt, spikes"],
        ),
        (
            vec![
                ("counts", npy("|u1", "(2, 9)", &[1; 18])),
                ("bin_width_s", npy("<f8", "()", &f64s(&[0.01]))),
            ],
            ["axes swapped", "trial_start"],
        ),
    ] {
        let error = read(&keys).expect_err("refused").to_string();
        assert!(words.iter().all(|w| error.contains(w)), "{error}");
        for debug in ["Some(", "None", "Ok(", "Values", "\""] {
            assert!(!error.contains(debug), "{error}");
        }
    }
}

#[test]
fn every_fault_names_file_key_expected_and_found() {
    let table: Vec<(Keys, &str, &str, &str)> = vec![
        (
            good().into_iter().filter(|k| k.0 != "counts").collect(),
            "counts",
            "[trials, bins, channels]",
            "no such key",
        ),
        (
            good().into_iter().filter(|k| k.0 != "bin_width_s").collect(),
            "bin_width_s",
            "seconds",
            "no such key",
        ),
        (
            good().into_iter().filter(|k| k.0 != "regime_names").collect(),
            "regime_names",
            "one name per regime",
            "no such key",
        ),
        (
            with("counts", npy("<f8", "(1, 2)", &f64s(&[0.0, f64::NAN]))),
            "counts",
            "0 to 4096",
            "NaN at bin 0, channel 1",
        ),
        (
            with("counts", npy("<i8", "(1, 2)", &i64s(&[-3, 0]))),
            "counts",
            "0 to 4096",
            "-3 at bin 0, channel 0",
        ),
        (with("counts", npy("<f8", "(1, 2)", &f64s(&[0.5, 0.0]))), "counts", "whole counts", "0.5"),
        (with("counts", npy("|u1", "(4,)", &[1; 4])), "counts", "[bins, channels]", "[4]"),
        (with("counts", npy("|u1", "(0, 3, 2)", &[])), "counts", "at least one bin", "[0, 3, 2]"),
        (with("counts", npy("|u1", "(2, 3, 2)", &[1; 5])), "counts", "numpy", ""),
        (with("counts", b"nonsense".to_vec()), "counts", "numpy", ""),
        (with("bin_width_s", npy("<f8", "()", &f64s(&[-1.0]))), "bin_width_s", "(0, 10]", "-1"),
        (
            with("bin_width_s", npy("<f8", "(2,)", &f64s(&[0.1, 0.1]))),
            "bin_width_s",
            "one number",
            "0.1, 0.1",
        ),
        (
            with("regime", npy("<i8", "(5,)", &i64s(&[0; 5]))),
            "regime",
            "per trial (2) or per bin (6)",
            "5 values",
        ),
        (with("regime", npy("<i8", "(2,)", &i64s(&[0, 2]))), "regime", "0 to 1", "2"),
        (with("regime", npy("<f8", "(2,)", &f64s(&[0.5, 0.0]))), "regime", "whole numbers", "0.5"),
        (
            with("regime_names", npy("<i8", "(2,)", &i64s(&[1, 2]))),
            "regime_names",
            "strings",
            "numbers",
        ),
        (
            with("session", npy("<U4", "(3,)", &names(&["a", "b", "c"]))),
            "session",
            "per trial (2)",
            "3 values",
        ),
    ];
    let dir = tempfile::tempdir().expect("a folder");
    for (keys, key, expected, found) in table {
        let path = file(dir.path(), &keys);
        let error = recording::read(&path).expect_err(key).to_string();
        for part in [arg(&path), &format!("key '{key}'"), expected, found] {
            assert!(error.contains(part), "'{part}' is not in: {error}");
        }
    }
    let path = dir.path().join("text.npz");
    std::fs::write(&path, "no zip").expect("written");
    let error = recording::read(&path).expect_err("no zip").to_string();
    assert!(error.contains("text.npz") && error.contains("expected a .npz"), "{error}");
    let error = recording::read(&dir.path().join("none.npz")).expect_err("missing").to_string();
    assert!(error.contains("none.npz"), "{error}");
}

#[test]
fn trials_of_unequal_length_are_found_by_their_starts() {
    let dir = tempfile::tempdir().expect("a folder");
    let starts = |s: &[i64]| {
        let mut keys = with("counts", npy("|u1", "(6, 2)", &[1; 12]));
        keys.push(("trial_start", npy("<i8", &format!("({},)", s.len()), &i64s(s))));
        keys
    };
    let read = recording::read(&file(dir.path(), &starts(&[0, 2]))).expect("good");
    let sizes: Vec<usize> = read.trials.iter().map(recording::Trial::n_bins).collect();
    assert_eq!(sizes, [2, 4]);
    for bad in [&[1i64, 3][..], &[0, 6], &[0, 3, 2]] {
        let error = recording::read(&file(dir.path(), &starts(bad))).expect_err("bad").to_string();
        assert!(error.contains("trial_start"), "{error}");
    }
}

#[test]
fn rebinning_sums_counts_and_keeps_the_majority_label() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut read = recording::read(&file(dir.path(), &good())).expect("good");
    read.rebin(20.0).expect("a multiple");
    assert_eq!(read.trials[0].counts.flatten().to_vec(), [2, 4]);
    assert_eq!((read.n_bins(), read.bin_width_s), (2, 0.02));
    let error = read.rebin(30.0).expect_err("no multiple").to_string();
    assert!(error.contains("20 ms") && error.contains("30 ms"), "{error}");
    // No wide bin holds more than a bin may.
    let mut read = recording::read(&file(dir.path(), &good())).expect("good");
    read.trials[0].counts.fill(4096);
    read.rebin(20.0).expect("a multiple");
    assert_eq!(read.trials[0].counts.flatten().to_vec(), [4096, 4096]);
}

proptest! {
    /// Whatever the bytes: a recording or an error, never a panic.
    #[test]
    fn any_bytes_are_a_recording_or_an_error(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        at in 0usize..2000,
    ) {
        let dir = tempfile::tempdir().expect("a folder");
        let path = file(dir.path(), &good());
        let mut whole = std::fs::read(&path).expect("read");
        let at = at % whole.len();
        let end = (at + bytes.len()).min(whole.len());
        whole[at..end].copy_from_slice(&bytes[..end - at]);
        std::fs::write(&path, &whole).expect("written");
        if let Ok(Recording { trials, n_channels, .. }) = recording::read(&path) {
            prop_assert!(trials.iter().all(|t| t.counts.dim() == (t.n_bins(), n_channels)));
        }
    }
}
