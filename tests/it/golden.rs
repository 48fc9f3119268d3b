//! The filter bank against the reference prototype (JAX): same model, same counts, its posterior.
//! `tests/golden/make.py` made the files.

use std::fs::File;

use regimed::internals::inference::{Adaptation, FilterBank};
use regimed::internals::recording::{self, Array, Values};

use crate::rig::checkout;

/// Largest difference of a posterior probability in any bin: the prototype runs in `f32` too, with
/// a slightly larger regularisation in its evidence.
const TOLERANCE: f32 = 5e-3;
/// Mean difference over all bins and labels.
const TOLERANCE_MEAN: f32 = 2e-4;
/// Largest difference of the embedding's mean.
const TOLERANCE_EMBEDDING: f32 = 2e-2;

fn array(file: &str, key: &str) -> Vec<f32> {
    let file = File::open(checkout(file)).expect("a golden file");
    let mut zip = zip::ZipArchive::new(file).expect("a zip");
    let mut entry = zip.by_name(&format!("{key}.npy")).expect("a key");
    match Array::read(&mut entry).expect("an array").values {
        Values::Numbers(v) => v.iter().map(|&x| x as f32).collect(),
        _ => panic!("{key} holds no numbers"),
    }
}

#[test]
fn posterior_agrees_with_the_prototype() {
    let checkpoint =
        regimed::internals::checkpoint::load(&checkout("tests/golden/model")).expect("loads");
    let recording = recording::read(&checkout("tests/golden/recording.npz")).expect("reads");
    let posterior = array("tests/golden/posterior.npz", "posterior");
    let embedding = array("tests/golden/posterior.npz", "embedding");
    let model = &checkpoint.model;
    let (labels, d) = (model.regime_names.len(), model.dims.embedding);
    let (mut largest, mut sum, mut largest_embedding) = (0.0f32, 0.0f32, 0.0f32);
    let mut at = 0;
    for trial in &recording.trials {
        let mut bank =
            FilterBank::new(model, &model.readouts[0], Adaptation::NONE).expect("a bank");
        for bin in trial.counts.rows() {
            let counts: Vec<f32> = bin.iter().map(|&c| f32::from(c)).collect();
            let estimate = bank.update(&counts);
            for (found, expected) in
                estimate.posterior.iter().zip(&posterior[at * labels..(at + 1) * labels])
            {
                largest = largest.max((found - expected).abs());
                sum += (found - expected).abs();
            }
            for (found, expected) in
                estimate.embedding_mean.iter().zip(&embedding[at * d..(at + 1) * d])
            {
                largest_embedding = largest_embedding.max((found - expected).abs());
            }
            at += 1;
        }
    }
    assert_eq!(at * labels, posterior.len(), "every bin was compared");
    let mean = sum / posterior.len() as f32;
    assert!(largest < TOLERANCE, "largest difference of a probability: {largest}");
    assert!(mean < TOLERANCE_MEAN, "mean difference of a probability: {mean}");
    assert!(largest_embedding < TOLERANCE_EMBEDDING, "embedding differs by {largest_embedding}");
}
