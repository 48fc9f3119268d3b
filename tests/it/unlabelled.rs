//! Stretches that the training data leave unlabelled are learned as what they are.

use std::path::PathBuf;
use std::sync::Arc;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Poisson};
use regimed::internals::inference::Adaptation;
use regimed::internals::recording::{DynamicsTruth, Recording, Trial, in_bins};
use regimed::internals::regime::{DecisionRule, Engine, Label};
use regimed::internals::training::{Dataset, Member, Trainer, TrainingSettings, finish};

const CHANNELS: usize = 24;
/// Bins of an epoch; epochs go round: regime 0, no label, regime 1.
const EPOCH: usize = 40;
const ROUND: [Option<usize>; 3] = [Some(0), None, Some(1)];

/// In each epoch another third of the channels fires more.
fn stream(rounds: usize, seed: u64) -> Trial {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut counts, mut regime) = (Vec::new(), Vec::new());
    for bin in 0..rounds * 3 * EPOCH {
        let part = bin / EPOCH % 3;
        for c in 0..CHANNELS {
            let rate = if c % 3 == part { 0.8 } else { 0.2 };
            counts.push(Poisson::new(rate).expect("a rate").sample(&mut rng) as u16);
        }
        regime.push(ROUND[part]);
    }
    Trial {
        session: "rig".into(),
        counts: in_bins(counts, CHANNELS),
        task: vec![0; regime.len()],
        regime,
        truth: DynamicsTruth::default(),
    }
}

#[test]
fn a_stretch_without_a_label_is_unknown_and_what_follows_it_is_found() {
    let recording = Recording {
        path: PathBuf::from("test"),
        n_channels: CHANNELS,
        channels: None,
        bin_width_s: 0.02,
        regime_names: vec!["a".into(), "b".into()],
        trials: vec![stream(12, 1)],
        continuous: true,
    };
    let data = Arc::new(Dataset::for_pretraining(&[recording]).expect("a dataset"));
    let settings = TrainingSettings { steps: 80, batch: 16, ..TrainingSettings::default() };
    let mut trainer = Trainer::new(data, settings).expect("a trainer");
    for _ in 0..settings.steps {
        trainer.step().expect("a step");
    }
    let model = finish(&[Member::alone(&trainer)], None).expect("a model").model;
    let components = &model.readouts[0].prior.components;
    assert!(components.iter().any(|c| c.regime.is_none()), "{components:?}");
    // Regime 0 is followed by no label, never by regime 1.
    let hazard = &model.online.hazard_per_bin;
    assert!(hazard[[0, 2]] > 5.0 * hazard[[0, 1]], "{hazard:?}");

    let mut right = [0usize; 3];
    let mut all = [0usize; 3];
    let fresh = stream(10, 2);
    for unknown in [true, false] {
        let of_model = DecisionRule::of(&model, None);
        let rule = DecisionRule { unknown, unlabelled: unknown, probability_min: 0.7, ..of_model };
        let mut engine =
            Engine::new(&model, &model.readouts[0], rule, Adaptation::NONE).expect("an engine");
        for (bin, row) in fresh.counts.rows().into_iter().enumerate() {
            let counts: Vec<f32> = row.iter().map(|&c| f32::from(c)).collect();
            engine.push(Some(&counts));
            let sum: f32 = engine.estimate().posterior.iter().sum();
            assert!((sum - 1.0).abs() < 1e-4, "the regimes' posterior sums to 1: {sum}");
            if !unknown {
                assert_ne!(engine.label(), Some(Label::Unknown), "it may not be said");
                continue;
            }
            // Half an epoch is enough to tell.
            if bin % EPOCH < EPOCH / 2 {
                continue;
            }
            let part = bin / EPOCH % 3;
            let expected = ROUND[part].map_or(Label::Unknown, Label::Regime);
            all[part] += 1;
            right[part] += usize::from(engine.label() == Some(expected));
        }
    }
    for part in 0..3 {
        assert!(right[part] as f64 > 0.85 * all[part] as f64, "{right:?} of {all:?}");
    }
}
