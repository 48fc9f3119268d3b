//! New animals that nobody labelled: what is recognised in a minute, and what becomes of it.

use std::path::Path;

use regimed::internals::checkpoint::{self, Checkpoint};
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

fn calibrate(recording: &Recording, model: &str, folder: &Path) -> (Checkpoint, String) {
    let (data, out) = (folder.join("new.npz"), folder.join("calibrated"));
    write(recording, &data).expect("written");
    let (good, stdout, stderr) =
        run(&["calibrate", arg(&data), "--model", model, "--out", arg(&out), "--steps", "120"]);
    assert!(good, "{stdout}{stderr}");
    (checkpoint::load(&out).expect("a model"), format!("{stdout}{stderr}"))
}

#[test]
fn a_new_animal_is_calibrated_by_the_regimes_that_are_recognised_in_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let (recording, _) = minute(31, &[0, 1, 2, 3, 4]);
    let (model, said) = calibrate(&recording, "builtin", folder.path());
    assert!(said.contains("recognised in its counts (stable_fixed_point"), "{said}");
    let readout = model.model.readout("new").expect("a readout");
    assert!(readout.trusted, "{said}");
    assert!(model.recogniser.is_none(), "the built-in one is in the binary");
}

#[test]
fn one_regime_alone_is_not_enough_and_no_label_is_made_of_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let (recording, _) = minute(31, &[4]);
    let (model, said) = calibrate(&recording, "builtin", folder.path());
    assert!(said.contains("not enough seen") && said.contains("unknown"), "{said}");
    assert!(!model.model.readout("new").expect("a readout").trusted);
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

/// A minute in which an animal is at rest, reaches (a limit cycle) and drowses (chaos), as a lab
/// names these.
fn lab_minute(animal: u64, labelled: bool) -> (Recording, Vec<usize>) {
    let (mut recording, truth) = minute(animal, &[0, 2, 4]);
    let of = |r: &usize| r / 2;
    let truth: Vec<usize> = truth.iter().map(of).collect();
    let trial = &mut recording.trials[0];
    if labelled {
        trial.regime = truth.iter().map(|r| Some(*r)).collect();
        trial.task = truth.iter().map(|r| *r as i64).collect();
    }
    recording.regime_names = ["rest", "reach", "drowsy"].map(str::to_owned).to_vec();
    (recording, truth)
}

#[test]
fn a_labs_own_regimes_are_learned_across_its_animals_and_recognised_in_another_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let mut files = Vec::new();
    for animal in 0..5 {
        let (mut recording, _) = lab_minute(50 + animal, true);
        recording.trials[0].session = format!("animal{animal}");
        let file = at(&format!("animal{animal}.npz"));
        write(&recording, &file).expect("written");
        files.push(file);
    }
    let model = at("model");
    let pretrain = |files: &[std::path::PathBuf]| {
        let data = files.iter().map(|f| arg(f));
        let flags = ["--out", arg(&model), "--steps", "40"];
        let args: Vec<&str> = std::iter::once("pretrain").chain(data).chain(flags).collect();
        let (good, stdout, stderr) = run(&args);
        assert!(good, "{stdout}{stderr}");
        stdout
    };
    let said = pretrain(&files);
    assert!(said.contains("recognised in new animals without labels: right in"), "{said}");
    assert!(said.contains("(5 in turn)"), "{said}");
    let (_, card, _) = run(&["inspect", arg(&model)]);
    assert!(card.contains("## New animals"), "{card}");
    let (recording, truth) = lab_minute(60, false);
    let (calibrated, said) = calibrate(&recording, arg(&model), folder.path());
    assert!(said.contains("rest") && said.contains("reach"), "{said}");
    let recogniser = calibrated.recogniser.expect("the model's own goes with it");
    let counts = recording.trials[0].counts.mapv(f32::from);
    let counts = ndarray::Array2::from_shape_fn((3000, counts.ncols()), |(t, c)| {
        counts[(2 * t, c)] + counts[(2 * t + 1, c)]
    });
    let found = recogniser.recognise(&counts, std::slice::from_ref(&(0..3000)));
    let name = |bin: usize| {
        let of = found[0].at(bin);
        let best = (0..3).max_by(|&a, &b| of[a].total_cmp(&of[b])).expect("three");
        recogniser.names()[best].clone()
    };
    let right = (0..3000).filter(|&b| name(b) == recording.regime_names[truth[2 * b]]).count();
    assert!(right > 2100, "{right} of 3000");

    // With too few animals it says so, and what was learned of more of them is gone.
    let said = pretrain(&files[..3]);
    assert!(said.contains("new animals need labels") && said.contains("found 3"), "{said}");
    assert!(checkpoint::load(&model).expect("a model").recogniser.is_none());
    let (_, said) = calibrate(&recording, arg(&model), folder.path());
    assert!(said.contains("the model's regimes are its own"), "{said}");
}
