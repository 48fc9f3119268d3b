//! Question: what does one bin cost on one core, with 16 hypotheses, R = 6, d = 8, N = 64?
//! Budget: 256 channels p50 <= 100 us and p99 <= 250 us; 1024 channels p99 <= 500 us.
//!
//!     cargo bench --bench filter_bank

use std::time::Instant;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Poisson, StandardNormal};
use regimed::inference::{Adaptation, FilterBank};
use regimed::model::{Component, Model, Readout, RegimePrior};

const HYPOTHESES: usize = 16;
const WARM_UP_BINS: usize = 1_000;
const BINS: usize = 20_000;
/// Channels, then budgets for p50 and p99 in microseconds.
const CASES: [(usize, Option<f64>, Option<f64>); 3] =
    [(96, None, None), (256, Some(100.0), Some(250.0)), (1024, None, Some(500.0))];

fn readout(model: &Model, channels: usize, rng: &mut ChaCha8Rng) -> Readout {
    let d = model.dims.embedding;
    let components = (0..HYPOTHESES)
        .map(|k| Component {
            regime: Some(k % model.regime_names.len()),
            weight: 1.0 / HYPOTHESES as f32,
            mean: (0..d).map(|_| 0.3 * rng.sample::<f32, _>(StandardNormal)).collect(),
            covariance: (0..d * d).map(|i| if i % (d + 1) == 0 { 0.02 } else { 0.0 }).collect(),
        })
        .collect();
    Readout {
        session: "bench".into(),
        loading: (0..channels * model.dims.rank)
            .map(|_| 0.3 * rng.sample::<f32, _>(StandardNormal))
            .collect(),
        baseline: (0..channels)
            .map(|_| -1.9 + 0.5 * rng.sample::<f32, _>(StandardNormal))
            .collect(),
        dispersion: None,
        prior: RegimePrior { components },
    }
}

fn main() {
    let model = regimed::daemon::builtin_model().expect("the built-in model").model;
    println!(
        "{HYPOTHESES} hypotheses, R = {}, d = {}, N = {}, {BINS} bins after {WARM_UP_BINS}",
        model.dims.rank, model.dims.embedding, model.dims.units
    );
    println!("channels      p50      p99    p99.9  us per bin; ratio to the budget");
    for (channels, budget_p50, budget_p99) in CASES {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let readout = readout(&model, channels, &mut rng);
        let mut bank = FilterBank::new(&model, &readout, Adaptation::default()).expect("a bank");
        let bins: Vec<Vec<f32>> = (0..512)
            .map(|_| {
                let rate = |b: &f32| Poisson::new(b.exp()).expect("a rate");
                readout.baseline.iter().map(|b| rate(b).sample(&mut rng)).collect()
            })
            .collect();
        let mut times = Vec::with_capacity(BINS);
        for bin in 0..WARM_UP_BINS + BINS {
            let began = Instant::now();
            bank.update(&bins[bin % bins.len()]);
            if bin >= WARM_UP_BINS {
                times.push(began.elapsed().as_secs_f64() * 1e6);
            }
        }
        assert!(
            bank.estimate().posterior.iter().all(|p| p.is_finite()),
            "the bank lost its numbers"
        );
        times.sort_by(f64::total_cmp);
        let at = |q: f64| times[(q * (BINS - 1) as f64) as usize];
        let told = |name: &str, found: f64, budget: Option<f64>| {
            budget
                .map_or(String::new(), |b| format!("  {name} {found:.0}/{b:.0} = {:.2}", found / b))
        };
        println!(
            "{channels:>8} {:>8.1} {:>8.1} {:>8.1}{}{}",
            at(0.5),
            at(0.99),
            at(0.999),
            told("p50", at(0.5), budget_p50),
            told("p99", at(0.99), budget_p99)
        );
    }
}
