//! Question: what does one bin cost on one core, with 16 hypotheses, R = 6, d = 8, N = 64, and how
//! far is each stage from the floor that this machine's arithmetic and memory set? Budget: 256
//! channels p50 <= 100 us and p99 <= 250 us; 1024 channels p99 <= 500 us; 4096 channels (four
//! probes of 1024) p99 <= 1000 us, so that bins of 1 ms are kept up with.
//!
//!     # Times, stages, floors:
//!     cargo bench --bench filter_bank
//!     # 200 bins of 256 channels and nothing else:
//!     cargo bench --bench filter_bank -- instructions
//!     valgrind --tool=callgrind target/release/deps/filter_bank-* instructions
//!     # So many bins of 12 channels: still sound?
//!     cargo bench --bench filter_bank -- endure 100000000

#[path = "support/bank.rs"]
mod bank;

use std::hint::black_box;
use std::time::Instant;

use bank::{BUDGETED, draw, model, with_experts};
use pulp::{Simd, WithSimd};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use regimed::internals::inference::{Adaptation, FilterBank, Stage};
use regimed::internals::model::{Dimensions, Model};
use regimed::internals::regime::{DecisionRule, Engine};

const HYPOTHESES: usize = 16;
const WARM_UP_BINS: usize = 1_000;
const BINS: usize = 20_000;
const STAGE_ROUNDS: usize = 3_000;
/// Channels, then budgets for p50 and p99 in microseconds.
const CASES: [(usize, Option<f64>, Option<f64>); 4] = [
    (96, None, None),
    (256, Some(100.0), Some(250.0)),
    (1024, None, Some(500.0)),
    (4096, None, Some(1000.0)),
];

/// Floating-point operations of a stage for one bin; bytes where each array is read once; and where
/// each hypothesis reads the weights itself, as the floor was counted before hypotheses lay side by
/// side.
fn work(model: &Model, channels: usize, stage: Stage) -> [f64; 3] {
    let Dimensions { embedding: d, rank: r, units: n, hidden: [h1, h2] } = model.dims;
    let (k, c, z) = (HYPOTHESES, channels, d + r);
    let hypernetwork = h2 * r * n + h1 * h2 + 2 * n * r + d * h1;
    let (flops, once, each) = match stage {
        // Moments of each hypothesis against the pool or its prior; few are mixed, all may be.
        Stage::Mixing => {
            (k * (3 * r * r + 5 * z * z), k * (z * z + d * d / 2), k * (2 * z * z + d * d))
        }
        // M kappa, two hidden layers, N(e), its contraction with phi, N^T D M, tanh of 20
        // operations; then back through the hidden layers from each latent, or forth from each
        // dimension of the embedding (as it was before).
        Stage::Transition => (
            k * (2 * n * r
                + 2 * d * h1
                + 2 * h1 * h2
                + 4 * h2 * r * n
                + 2 * n * r * r
                + 2 * n * r
                + 20 * (n + h1 + h2)
                + r * (h2 + 2 * h1 * h2 + h1 + 2 * h1 * d)),
            hypernetwork + k * (2 * n + 2 * h1 + 2 * h2 + r * z),
            k * (2 * h2 * r * n + h1 * h2 + 3 * n * r + d * h1 + d * h1 * h2),
        ),
        Stage::Propagation => (k * (2 * r * z * z + r * r * z), k * z * z, k * 2 * z * z),
        // Log rates, exponentials of 20 operations, residuals, score, information, expected counts.
        Stage::Information => (
            k * c * (2 * r + 20 + 3 + 2 * r + r * (r + 1) + 2),
            c * (2 * r + r * (r + 1) / 2 + 4) + k * (r + r * r),
            k * c * (2 * r + r * (r + 1) / 2 + 6),
        ),
        // I + Lambda P, its inverse, gain, covariance, and the log rates at the new mean.
        Stage::Update => (
            k * (2 * r * r * z + 4 * r * r * r + 2 * r * r * z + 2 * r * z * z + c * (2 * r + 24)),
            k * z * z + c * (r + 3),
            k * (3 * z * z + c * (r + 4)),
        ),
        Stage::Summary => {
            let (once, each) = (k * (z + d * d / 2), k * (2 * z + d * d));
            (k * (3 * z + 2 * d * d) + 6 * r * r * r, once, each)
        }
        // Each channel's gain, silence, runs and excess; the bin's whitened score.
        Stage::Channels => (c * 30 + 6 * r * r * r, c * 12, 0),
    };
    [flops as f64, 4.0 * once as f64, 4.0 * each as f64]
}

/// Fused multiply-adds on registers alone.
struct Peak(usize);

impl WithSimd for Peak {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let mut sums = [(); 12].map(|()| simd.splat_f32s(black_box(1.0)));
        let (a, b) = (simd.splat_f32s(black_box(0.999_9)), simd.splat_f32s(black_box(1e-4)));
        for _ in 0..self.0 {
            for sum in &mut sums {
                *sum = simd.mul_add_e_f32s(*sum, a, b);
            }
        }
        let total = sums.into_iter().fold(simd.splat_f32s(0.0), |t, s| simd.add_f32s(t, s));
        simd.reduce_sum_f32s(total)
    }
}

/// Sum over an array, as often as told.
struct Read<'a>(&'a [f32], usize);

impl WithSimd for Read<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let (vectors, _) = S::as_simd_f32s(self.0);
        let mut sums = [simd.splat_f32s(0.0); 8];
        for _ in 0..self.1 {
            for chunk in vectors.chunks_exact(8) {
                for (sum, x) in sums.iter_mut().zip(chunk) {
                    *sum = simd.add_f32s(*sum, *x);
                }
            }
        }
        let total = sums.into_iter().fold(simd.splat_f32s(0.0), |t, s| simd.add_f32s(t, s));
        simd.reduce_sum_f32s(total)
    }
}

/// Best of several tries.
fn fastest(mut run: impl FnMut() -> f64) -> f64 {
    (0..15).map(|_| run()).fold(0.0, f64::max)
}

/// Operations and bytes per microsecond of one core.
fn ceilings() -> (f64, f64) {
    let arch = pulp::Arch::new();
    let rounds = 200_000;
    let lanes = arch.dispatch(Lanes) as f64;
    let flops = fastest(|| {
        let began = Instant::now();
        black_box(arch.dispatch(Peak(black_box(rounds))));
        rounds as f64 * 12.0 * 2.0 * lanes / (began.elapsed().as_secs_f64() * 1e6)
    });
    // As large as what a bin of 256 channels goes through: beyond the first cache, within the
    // second.
    let array = vec![1.0f32; 48 << 10];
    let bytes = fastest(|| {
        let began = Instant::now();
        black_box(arch.dispatch(Read(black_box(&array), 200)));
        200.0 * 4.0 * array.len() as f64 / (began.elapsed().as_secs_f64() * 1e6)
    });
    (flops, bytes)
}

struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        S::F32_LANES
    }
}

/// Prints the stages' times; the sums of their floors, as they are and as they were counted before.
fn stages(
    model: &Model,
    bank: &mut FilterBank,
    bins: &[Vec<f32>],
    (peak, width): (f64, f64),
) -> [f64; 2] {
    let channels = bank.n_channels();
    let mut all = vec![Vec::with_capacity(STAGE_ROUNDS); Stage::ALL.len()];
    for round in 0..STAGE_ROUNDS {
        bank.update(&bins[round % bins.len()]);
        for (i, stage) in Stage::ALL.into_iter().enumerate() {
            let began = Instant::now();
            bank.run_stage(stage);
            all[i].push(began.elapsed().as_secs_f64() * 1e6);
        }
        // What the stages left is no posterior of anything.
        bank.reset();
    }
    println!("  stage            us   floor us   ratio   kflop     KiB");
    let (mut total, mut floors) = (0.0, [0.0; 2]);
    for (i, stage) in Stage::ALL.into_iter().enumerate() {
        all[i].sort_by(f64::total_cmp);
        let median = all[i][STAGE_ROUNDS / 2];
        let [flops, once, each] = work(model, channels, stage);
        let floor = (flops / peak).max(once / width);
        println!(
            "  {:<12} {median:>7.2} {floor:>9.2} {:>7.1} {:>8.1} {:>7.1}",
            format!("{stage:?}").to_lowercase(),
            median / floor,
            flops / 1e3,
            once / 1024.0
        );
        total += median;
        floors[0] += floor;
        if stage != Stage::Channels {
            floors[1] += (flops / peak).max(each / width);
        }
    }
    println!("  {:<12} {total:>7.2} {:>9.2} {:>7.1}", "together", floors[0], total / floors[0]);
    floors
}

fn times() {
    let ceilings = ceilings();
    println!(
        "this core: {:.1} Gflop/s in f32 registers, {:.1} GB/s from the second cache",
        ceilings.0 * 1e-3,
        ceilings.1 * 1e-3
    );
    println!("{HYPOTHESES} hypotheses, R = 6, d = 8, N = 64, {BINS} bins after {WARM_UP_BINS}");
    for (channels, budget_p50, budget_p99) in CASES {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let model = model(BUDGETED, channels, HYPOTHESES, &mut rng);
        let readout = &model.readouts[0];
        let mut bank = FilterBank::new(&model, readout, Adaptation::default()).expect("a bank");
        let bins = draw(&model, 512, &mut rng);
        let mut times = Vec::with_capacity(BINS);
        for bin in 0..WARM_UP_BINS + BINS {
            let began = Instant::now();
            bank.update(&bins[bin % bins.len()]);
            if bin >= WARM_UP_BINS {
                times.push(began.elapsed().as_secs_f64() * 1e6);
            }
        }
        let sound = bank.estimate().posterior.iter().all(|p| p.is_finite());
        assert!(sound && bank.resets() == 0, "the bank lost its numbers");
        times.sort_by(f64::total_cmp);
        let at = |q: f64| times[(q * (BINS - 1) as f64) as usize];
        let row = |name: &str, found: f64, budget: Option<f64>| {
            budget
                .map_or(String::new(), |b| format!("  {name} {found:.0}/{b:.0} = {:.2}", found / b))
        };
        println!(
            "{channels} channels: p50 {:.1}, p99 {:.1}, p99.9 {:.1} us per bin{}{}",
            at(0.5),
            at(0.99),
            at(0.999),
            row("p50", at(0.5), budget_p50),
            row("p99", at(0.99), budget_p99)
        );
        published(&model, &bins, at(0.5));
        let floors = stages(&model, &mut bank, &bins, ceilings);
        println!(
            "  the whole bin: {:.2} times the floor ({:.2} times the floor counted as before), p99 \
             {:.2} times p50",
            at(0.5) / floors[0],
            at(0.5) / floors[1],
            at(0.99) / at(0.5)
        );
    }
}

/// The same bins with the experts beside the dynamics, pooled, and the decision rule.
fn published(model: &Model, bins: &[Vec<f32>], alone_us: f64) {
    let model = with_experts(model.clone(), &mut ChaCha8Rng::seed_from_u64(2));
    let (readout, rule) = (&model.readouts[0], DecisionRule::of(&model, None));
    let mut engine = Engine::new(&model, readout, rule, Adaptation::default()).expect("an engine");
    let mut times: Vec<f64> = (0..WARM_UP_BINS + BINS)
        .map(|bin| {
            let began = Instant::now();
            black_box(engine.push(Some(&bins[bin % bins.len()])));
            began.elapsed().as_secs_f64() * 1e6
        })
        .skip(WARM_UP_BINS)
        .collect();
    times.sort_by(f64::total_cmp);
    let at = |q: f64| times[(q * (BINS - 1) as f64) as usize];
    println!(
        "  with the experts and the decision: p50 {:.1}, p99 {:.1} us ({:.1} us more)",
        at(0.5),
        at(0.99),
        at(0.5) - alone_us
    );
}

fn endure(n: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    // What wears out is the covariance, which has its full size; a small network keeps it short.
    let dims = Dimensions { units: 16, hidden: [8, 8], ..BUDGETED };
    let model = model(dims, 12, 2, &mut rng);
    let readout = &model.readouts[0];
    let mut bank = FilterBank::new(&model, readout, Adaptation::default()).expect("a bank");
    let bins = draw(&model, 4_099, &mut rng);
    let began = Instant::now();
    for bin in 0..n {
        let estimate = bank.update(&bins[(bin % 4_099) as usize]);
        if (bin + 1) % (n / 10).max(1) == 0 {
            let sum: f32 = estimate.posterior.iter().sum();
            println!(
                "{:>12} bins, {:.0} s: posterior sums to {sum}, embedding sd {:.4} to {:.4}, \
                 hypotheses restarted {}",
                bin + 1,
                began.elapsed().as_secs_f64(),
                estimate.embedding_sd.iter().copied().fold(f32::MAX, f32::min),
                estimate.embedding_sd.iter().copied().fold(0.0, f32::max),
                bank.resets()
            );
        }
    }
    assert_eq!(bank.resets(), 0, "hypotheses lost their numbers");
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    match args.first().map(String::as_str) {
        None => times(),
        Some("instructions") => {
            let mut rng = ChaCha8Rng::seed_from_u64(1);
            let model = model(BUDGETED, 256, HYPOTHESES, &mut rng);
            let readout = &model.readouts[0];
            let mut bank = FilterBank::new(&model, readout, Adaptation::default()).expect("a bank");
            let bins = draw(&model, 20, &mut rng);
            for bin in 0..200 {
                bank.update(&bins[bin % bins.len()]);
            }
            black_box(bank.estimate());
        }
        Some("endure") => {
            let n = args.get(1).and_then(|n| n.replace('_', "").parse().ok());
            endure(n.unwrap_or(10_000_000));
        }
        Some(other) => eprintln!("expected nothing, instructions or endure BINS, found '{other}'"),
    }
}
