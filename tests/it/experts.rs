//! Experts beside the dynamics, through the daemon.

use ndarray::{Array1, Array2, Array3};
use regimed::internals::checkpoint;
use regimed::internals::model::{AveragesHead, Experts, Model, Pool, RateStates, RecurrentHead};

use crate::rig::{Daemon, exchange, message, spikes};

const NAMES: [&str; 4] = ["dynamics", "rates", "averages", "recurrent"];

/// Experts that were not trained: their numbers are sound, and they disagree.
pub(crate) fn some_experts(channels: usize, regimes: usize) -> Experts {
    let wave = |i: usize, k: usize| ((i * 7 + k * 3) % 5) as f32 * 0.1 - 0.2;
    let hidden = 8;
    Experts {
        rates: RateStates {
            rates: Array2::from_shape_fn((regimes, channels), |(r, i)| 0.3 + wave(i, r)),
            transition: Array2::from_shape_fn((regimes, regimes), |(a, b)| {
                if a == b { 0.96 } else { 0.04 / (regimes - 1) as f32 }
            }),
            regime: (0..regimes).collect(),
            power: 0.2,
        },
        averages: AveragesHead {
            mean: Array1::from_elem(channels, 0.4),
            shares: vec![0.5, 0.05],
            weights: Array3::from_shape_fn((2, channels, regimes), |(k, i, r)| wave(i + k, r)),
            bias: Array1::zeros(regimes),
        },
        recurrent: RecurrentHead {
            mean: Array1::from_elem(channels, 0.4),
            input: Array2::from_shape_fn((channels, 3 * hidden), |(i, k)| wave(i, k)),
            bias: Array1::zeros(3 * hidden),
            recurrent: Array2::from_shape_fn((hidden, 3 * hidden), |(i, k)| wave(i, k + 1)),
            output: Array2::from_shape_fn((hidden, regimes), |(k, r)| wave(k, r)),
            output_bias: Array1::zeros(regimes),
        },
    }
}

/// The built-in model with experts of its first session.
pub(crate) fn with_experts(mut model: Model) -> Model {
    let channels = model.readouts[0].baseline.len();
    model.readouts[0].experts = Some(some_experts(channels, model.regime_names.len()));
    model.online.pool = Pool { weights: [0.7, 0.1, 0.0, 0.2], temperature: 0.7, evenness: 0.5 };
    model.online.base_rates = vec![0.2; model.regime_names.len()];
    model
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_tells_what_each_expert_says_and_how_much_it_counts() {
    let folder = tempfile::tempdir().expect("a folder");
    let builtin = checkpoint::builtin().expect("the built-in model");
    let model = with_experts(builtin.model);
    checkpoint::save(folder.path(), &model, &builtin.provenance).expect("saved");
    let loaded = checkpoint::load(folder.path()).expect("loaded").model;
    assert_eq!(loaded.readouts[0].experts, model.readouts[0].experts);
    assert_eq!(loaded.online.pool, model.online.pool);
    assert_eq!(loaded.online.base_rates, model.online.base_rates);
    assert_eq!(loaded.readouts[0].baseline, model.readouts[0].baseline);
    assert_eq!(loaded.online, model.online);
    assert_eq!(loaded.prior, model.prior);
    let name = &model.readouts[0].session;
    let config = format!(
        "[grpc]\nlisten = \"127.0.0.1:0\"\n[http]\nlisten = \"127.0.0.1:0\"\n[zeromq]\npull = \
         \"127.0.0.1:0\"\npublish = \"127.0.0.1:0\"\n[[session]]\nname = \"rig\"\nmodel = \"{}\"\n\
         readout = \"{name}\"\n",
        folder.path().display()
    );
    let daemon = Daemon::start(&config);
    let bins = spikes(300);
    let messages = bins.iter().enumerate().map(|(i, c)| message("rig", i as u64, c));
    let messages: Vec<_> = messages.collect();
    let (decisions, _) = exchange(&daemon, futures_util::stream::iter(messages)).await;
    assert_eq!(decisions.len(), 300);
    let mut disagreed = false;
    for d in &decisions {
        let names: Vec<&str> = d.experts.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(names, NAMES);
        let weights: Vec<f32> = d.experts.iter().map(|e| e.weight).collect();
        assert_eq!(weights, model.online.pool.weights);
        for e in &d.experts {
            assert!((e.posterior.iter().sum::<f32>() - 1.0).abs() < 1e-4, "{e:?}");
            assert_eq!(e.posterior.len(), d.regime_names.len());
            disagreed |= e.posterior != d.posterior;
        }
        // The same regimes had the same share: only weights and temperature count.
        let score = |r: usize| -> f64 {
            let of = |e: &regimed::internals::wire::Expert| {
                f64::from(e.weight / model.online.pool.temperature)
                    * f64::from(e.posterior[r].max(1e-6)).ln()
            };
            d.experts.iter().map(of).sum::<f64>().exp()
        };
        let total: f64 = (0..d.posterior.len()).map(score).sum();
        for (r, p) in d.posterior.iter().enumerate() {
            assert!((f64::from(*p) - score(r) / total).abs() < 1e-4, "regime {r}: {d:?}");
        }
    }
    assert!(disagreed);
    daemon.wait_metric("regimed_bins_processed_total", "session=\"rig\"", 300.0);
    let (_, text) = daemon.get("/metrics");
    for expert in NAMES {
        let series = text.lines().filter(|l| {
            l.starts_with("regimed_expert_posterior{") && l.contains(&format!("\"{expert}\""))
        });
        assert_eq!(series.count(), model.regime_names.len(), "{expert}");
    }
}

#[test]
fn a_damaged_expert_is_refused_with_what_was_expected() {
    let folder = tempfile::tempdir().expect("a folder");
    let builtin = checkpoint::builtin().expect("the built-in model");
    let good = with_experts(builtin.model);
    let refused = |damage: &dyn Fn(&mut Model)| {
        let mut model = good.clone();
        damage(&mut model);
        checkpoint::save(folder.path(), &model, &builtin.provenance).expect("saved");
        let error = checkpoint::load(folder.path()).expect_err("damaged");
        error.to_string()
    };
    type Damage<'a> = &'a dyn Fn(&mut Model);
    fn experts(model: &mut Model) -> &mut Experts {
        model.readouts[0].experts.as_mut().expect("experts")
    }
    let cases: [(Damage<'_>, &str); 8] = [
        (&|m| experts(m).rates.power = 0.0, "experts.power: expected above 0"),
        (&|m| experts(m).rates.rates[[0, 0]] = 0.0, "rates.rates: expected rates above 0"),
        (&|m| experts(m).rates.transition[[0, 0]] = 0.5, "rows of 0 or more with a sum of 1"),
        (&|m| experts(m).rates.regime[0] = 99, "experts.state_regime: expected regimes of 0 to"),
        (&|m| experts(m).averages.shares[0] = 0.0, "averages.shares: expected shares above 0"),
        (&|m| m.online.pool.weights[0] = 0.9, "online.pool.weights: expected weights of 0 or"),
        (&|m| m.online.pool.temperature = 0.0, "online.pool.temperature: expected above 0"),
        (&|m| m.online.base_rates = vec![1.5], "online.base_rates: expected shares from 0 to 1"),
    ];
    for (damage, expected) in cases {
        let found = refused(damage);
        assert!(found.contains(expected), "{expected}: {found}");
    }
}
