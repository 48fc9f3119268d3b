//! What must hold of the online fit whatever the counts: the built-in model, streamed.

use std::sync::LazyLock;

use ndarray::{Array1, Axis, Slice, arr0};
use proptest::prelude::*;
use regimed::internals::inference::{Adaptation, Estimate, FilterBank};
use regimed::internals::model::{Model, Readout};
use regimed::internals::regime::{DecisionRule, Engine};
use regimed::internals::teacher::{Animal, AnimalSettings, Dwell, Regime, Simulation};

use crate::experts::with_experts;

static MODEL: LazyLock<Model> =
    LazyLock::new(|| regimed::internals::checkpoint::builtin().expect("the built-in model").model);

/// `bins` bins of an animal of the built-in model that switches regimes.
fn switching(bins: usize, seed: u64) -> Vec<Vec<f32>> {
    let animal = Animal::new(1, 0, AnimalSettings::default());
    let dwell = Dwell { from_s: 0.5, to_s: 1.0 };
    let mut simulation =
        Simulation::new(animal.clone(), animal.task(Regime::Bistable, 9_000), seed);
    let mut left = 50;
    let mut counts = vec![0u16; animal.n_channels()];
    (0..bins)
        .map(|_| {
            if left == 0 {
                let (regime, bins) = simulation.draw_switch(dwell);
                simulation.begin(animal.task(regime, 9_000 + seed));
                left = bins;
            }
            left -= 1;
            simulation.bin(&mut counts);
            counts.iter().map(|&c| f32::from(c)).collect()
        })
        .collect()
}

static POOLED: LazyLock<Model> = LazyLock::new(|| with_experts(MODEL.clone()));

fn engine(model: &Model) -> Engine {
    let rule = DecisionRule::of(model, None);
    Engine::new(model, &model.readouts[0], rule, Adaptation::default()).expect("an engine")
}

fn is_sound(e: &Estimate) -> bool {
    let sum: f32 = e.posterior.iter().sum();
    let chances = e.posterior.iter().chain([&e.unlabelled]);
    let finite = [&e.embedding_mean, &e.embedding_sd, &e.latent]
        .into_iter()
        .flatten()
        .chain([&e.log_likelihood, &e.novelty, &e.participation_ratio])
        .all(|x| x.is_finite());
    (sum - 1.0).abs() < 1e-5 && finite && chances.into_iter().all(|p| (0.0..=1.0).contains(p))
}

#[test]
fn a_bin_allocates_nothing() {
    [&*MODEL, &*POOLED].into_iter().for_each(allocates_nothing);
}

fn allocates_nothing(model: &Model) {
    let bins = switching(400, 1);
    let mut engine = engine(model);
    let mut changes = 0;
    // As the session's thread leaves its state for the next start.
    let mut tape = regimed::internals::inference::Tape::default();
    let mut push = |engine: &mut Engine, t: usize| {
        if t % 40 == 7 {
            engine.set_active((0..96).map(|i| i != t % 96));
        }
        let seen = t % 13 != 5;
        changes += usize::from(engine.push(seen.then_some(bins[t].as_slice())).is_some());
        let outcome = regimed::internals::bus::Outcome::of(engine.estimate(), engine.experts());
        assert!(outcome.novelty.is_finite());
        if t.is_multiple_of(25) {
            tape.begin();
            engine.state(&mut tape);
        }
    };
    (0..50).for_each(|t| push(&mut engine, t));
    let found = allocation_counter::measure(|| (50..400).for_each(|t| push(&mut engine, t)));
    assert_eq!(found.count_total, 0, "allocations in 350 bins: {found:?}");
    assert!(changes > 1, "a change is among them");
    // The counter counts.
    assert_eq!(
        allocation_counter::measure(|| drop(std::hint::black_box(vec![1u8; 3]))).count_total,
        1
    );
}

#[test]
fn the_same_bins_give_the_same_bits() {
    [&*MODEL, &*POOLED].into_iter().for_each(gives_the_same_bits);
}

fn gives_the_same_bits(model: &Model) {
    let bins = switching(600, 2);
    let run = || {
        let mut engine = engine(model);
        bins.iter()
            .enumerate()
            .map(|(t, bin)| {
                let change = engine.push((t % 17 != 3).then_some(bin.as_slice()));
                (change, engine.estimate().clone())
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

/// A readout with its channels in another order.
fn permuted(readout: &Readout, order: &[usize]) -> Readout {
    Readout {
        loading: readout.loading.select(Axis(0), order),
        baseline: readout.baseline.select(Axis(0), order),
        ..readout.clone()
    }
}

/// Largest difference of two streams' posteriors and embeddings.
fn difference((a, bins_a): (&Readout, &[Vec<f32>]), (b, bins_b): (&Readout, &[Vec<f32>])) -> f32 {
    let mut first = FilterBank::new(&MODEL, a, Adaptation::default()).expect("a bank");
    let mut second = FilterBank::new(&MODEL, b, Adaptation::default()).expect("a bank");
    let mut largest = 0.0f32;
    for (x, y) in bins_a.iter().zip(bins_b) {
        let (p, q) = (first.update(x), second.update(y));
        let all = p.posterior.iter().zip(&q.posterior);
        for (p, q) in all.chain(p.embedding_mean.iter().zip(&q.embedding_mean)) {
            largest = largest.max((p - q).abs());
        }
    }
    largest
}

#[test]
fn the_order_of_channels_does_not_matter() {
    let readout = &MODEL.readouts[0];
    let n = readout.n_channels();
    let order: Vec<usize> = (0..n).map(|i| (i * 37 + 5) % n).collect();
    let bins = switching(300, 3);
    let moved: Vec<Vec<f32>> =
        bins.iter().map(|bin| order.iter().map(|&i| bin[i]).collect()).collect();
    let other = permuted(readout, &order);
    let largest = difference((readout, &bins), (&other, &moved));
    assert!(largest < 5e-3, "largest difference {largest}");
}

#[test]
fn a_channel_without_loadings_changes_nothing() {
    let readout = &MODEL.readouts[0];
    let mut other = readout.clone();
    let one_more = "one more channel";
    other.loading.push_row(Array1::zeros(MODEL.dims.rank).view()).expect(one_more);
    other.baseline.push(Axis(0), arr0(-1.0).view()).expect(one_more);
    let bins = switching(300, 4);
    let more: Vec<Vec<f32>> = bins
        .iter()
        .enumerate()
        .map(|(t, bin)| bin.iter().copied().chain([(t % 3) as f32]).collect())
        .collect();
    let largest = difference((readout, &bins), (&other, &more));
    assert!(largest < 5e-3, "largest difference {largest}");
}

#[test]
fn a_million_bins_leave_the_numbers_sound() {
    // Few channels of a small model: what is tried is the numerics, not the fit.
    let mut model = MODEL.clone();
    let readout = &mut model.readouts[0];
    readout.loading = readout.loading.slice_axis(Axis(0), Slice::from(..8)).to_owned();
    readout.baseline = readout.baseline.slice_axis(Axis(0), Slice::from(..8)).to_owned();
    readout.prior.components.truncate(2);
    readout.prior.components.iter_mut().for_each(|c| c.weight = 0.5);
    let mut bank =
        FilterBank::new(&model, &model.readouts[0], Adaptation::default()).expect("a bank");
    let mut state = 1u64;
    let mut counts = [0.0f32; 8];
    let mut smallest_sd = f32::MAX;
    for t in 0..1_000_000u32 {
        for c in &mut counts {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Mostly 0 and 1, stretches of silence, and sometimes far too much.
            let drawn = (state >> 60) as u8;
            let silent = t / 1000 % 7 == 3;
            *c = if silent { 0.0 } else { f32::from(u8::from(drawn < 3)) };
            if state >> 44 & 0xffff == 0 {
                *c = 4096.0;
            }
        }
        let e = bank.update(&counts);
        assert!(is_sound(e), "bin {t}: {e:?}");
        smallest_sd = e.embedding_sd.iter().copied().fold(smallest_sd, f32::min);
    }
    assert!(smallest_sd > 0.0, "a variance that ran out: {smallest_sd}");
    assert_eq!(bank.resets(), 0, "hypotheses that became non-finite");
}

#[test]
fn a_hypothesis_that_loses_its_numbers_begins_anew() {
    // Rates without a bound overflow: whatever comes, the posterior stays one.
    let mut model = MODEL.clone();
    model.online.log_rate_bounds = [-90.0, 90.0];
    let bins = switching(60, 5);
    let readout = &mut model.readouts[0];
    readout.loading *= 60.0;
    readout.baseline[0] = 89.0;
    let mut bank = FilterBank::new(&model, &model.readouts[0], Adaptation::NONE).expect("a bank");
    for bin in &bins {
        let e = bank.update(&bin.iter().map(|c| c * 900.0).collect::<Vec<f32>>());
        let sum: f32 = e.posterior.iter().sum();
        assert!((sum - 1.0).abs() < 1e-4, "{e:?}");
        assert!(e.embedding_mean.iter().all(|x| x.is_finite()), "{e:?}");
    }
    assert!(bank.resets() > 0, "the trouble was none");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Any counts, any gaps, any masks.
    #[test]
    fn posteriors_sum_to_one(
        bins in prop::collection::vec(
            (prop::collection::vec(0u16..4097, 96), 0u8..8, any::<u128>()), 1..40),
    ) {
        let mut engine = engine(&MODEL);
        for (counts, kind, mask) in &bins {
            // Mostly plausible counts.
            let counts: Vec<f32> =
                counts.iter().map(|&c| f32::from(if *kind == 0 { c } else { c / 2000 })).collect();
            if *kind == 1 {
                engine.set_active((0..96).map(|i| mask >> i & 1 == 1));
            }
            engine.push((*kind != 2).then_some(counts.as_slice()));
            prop_assert!(is_sound(engine.estimate()), "{:?}", engine.estimate());
        }
    }
}
