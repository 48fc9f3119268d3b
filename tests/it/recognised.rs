//! New animals that nobody labelled: what is recognised in a minute, and what becomes of it.

use std::path::Path;

use regimed::internals::checkpoint;
use regimed::internals::model::Model;
use regimed::internals::recording::{DynamicsTruth, Recording, Trial, in_bins, write};
use regimed::internals::teacher::{Animal, AnimalSettings, REGIME_NAMES, Regime, Simulation};

use crate::rig::{arg, run};

/// A minute of an animal that the built-in model does not know, another of some regimes every three
/// seconds, without labels; and the truth.
fn minute(animal: u64, allowed: &[usize]) -> (Recording, Vec<usize>) {
    let animal = Animal::new(1, animal, AnimalSettings::default());
    let regime = |i: usize| allowed[(i * 3 + i / allowed.len()) % allowed.len()];
    let task = |i: usize| animal.task(Regime::ALL[regime(i)], 6000 + i as u64);
    let mut simulation = Simulation::new(animal.clone(), task(0), 3);
    let (mut counts, mut truth) = (Vec::new(), Vec::new());
    let mut bin = vec![0u16; animal.n_channels()];
    for t in 0..6000 {
        if t > 0 && t % 300 == 0 {
            simulation.begin(task(t / 300));
        }
        simulation.bin(&mut bin);
        counts.extend_from_slice(&bin);
        truth.push(regime(t / 300));
    }
    let trial = Trial {
        truth: DynamicsTruth::default(),
        ..Trial::unlabelled("new", in_bins(counts, animal.n_channels()))
    };
    let recording = Recording {
        path: "simulated".into(),
        n_channels: animal.n_channels(),
        channels: None,
        bin_width_s: animal.settings().bin_width_s,
        regime_names: REGIME_NAMES.map(str::to_owned).to_vec(),
        trials: vec![trial],
        continuous: true,
    };
    (recording, truth)
}

fn calibrate(recording: &Recording, folder: &Path) -> (Model, String) {
    let (data, out) = (folder.join("new.npz"), folder.join("calibrated"));
    write(recording, &data).expect("written");
    let (good, stdout, stderr) =
        run(&["calibrate", arg(&data), "--model", "builtin", "--out", arg(&out), "--steps", "120"]);
    assert!(good, "{stdout}{stderr}");
    (checkpoint::load(&out).expect("a model").model, format!("{stdout}{stderr}"))
}

#[test]
fn a_new_animal_is_calibrated_by_the_regimes_that_are_recognised_in_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let (recording, _) = minute(31, &[0, 1, 2, 3, 4]);
    let (model, said) = calibrate(&recording, folder.path());
    assert!(said.contains("recognised in its counts (stable_fixed_point"), "{said}");
    let readout = model.readout("new").expect("a readout");
    assert!(readout.trusted, "{said}");
}

#[test]
fn one_regime_alone_is_not_enough_and_no_label_is_made_of_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let (recording, _) = minute(31, &[4]);
    let (model, said) = calibrate(&recording, folder.path());
    assert!(said.contains("not enough seen") && said.contains("unknown"), "{said}");
    assert!(!model.readout("new").expect("a readout").trusted);
}

#[test]
fn what_is_recognised_is_right_for_the_most_part_and_as_sure_as_it_says() {
    let recogniser = checkpoint::builtin_recogniser().expect("the one in the binary");
    let (mut right, mut sure, mut all) = (0, 0.0, 0);
    for animal in 30..34 {
        let (recording, truth) = minute(animal, &[0, 1, 2, 3, 4]);
        let counts = recording.trials[0].counts.mapv(f32::from);
        let counts = ndarray::Array2::from_shape_fn((3000, counts.ncols()), |(t, c)| {
            counts[(2 * t, c)] + counts[(2 * t + 1, c)]
        });
        let found = recogniser.recognise(&counts, &[0..1400, 1400..3000]);
        assert_eq!(found.iter().map(|f| f.bins.clone()).collect::<Vec<_>>(), [0..1400, 1400..3000]);
        for bin in 0..3000 {
            let of = found.iter().find(|f| f.bins.contains(&bin)).expect("a piece").at(bin);
            assert!((of.iter().sum::<f32>() - 1.0).abs() < 1e-3);
            let best = (0..5).max_by(|&a, &b| of[a].total_cmp(&of[b])).expect("five");
            right += usize::from(best == truth[2 * bin]);
            sure += of[best];
            all += 1;
        }
    }
    let right = right as f32 / all as f32;
    assert!(right > 0.7, "{right}");
    assert!((sure / all as f32 - right).abs() < 0.12, "{} sure, {right} right", sure / all as f32);
}
