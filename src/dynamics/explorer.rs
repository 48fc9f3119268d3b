//! The fitted network set free: runs from the posterior, with and without noise, that go on from
//! one refresh to the next. Out come Lyapunov spectra, frequencies and fixed points with credible
//! intervals.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

use super::estimate::{DRAWS, Estimate};
use super::fixed_points::{FixedPoint, fixed_points};
use super::flow::Flow;
use super::lyapunov::{LyapunovSum, kaplan_yorke_dimension};
use super::signature::{Signature, Signs, ZERO_WITHIN_PER_S, signature};
use super::spectrum::StatePosterior;
use crate::model::Model;

/// Bins that each run advances by in a refresh.
const BINS_PER_REFRESH: usize = 64;
/// Bins between two orthonormalisations.
const RENORMALISE_EVERY: usize = 4;
/// After a restart, bins that are run but not measured.
const TRANSIENT_BINS: usize = 96;
/// Time of a run that its exponents remember, seconds.
const MEMORY_S: f64 = 20.0;
/// States of a run that its frequency is read from.
const TRACE: usize = 512;
/// Least time between two of these states, seconds.
const TRACE_STEP_S: f64 = 0.01;
/// Filtered states kept as starts in the search of fixed points, the newest first.
const STARTS: usize = 5;
/// A run whose leading component's standard deviation is below this does not oscillate.
const AMPLITUDE_MIN: f64 = 1e-2;
/// Crossings that make a frequency.
const CROSSINGS_MIN: usize = 3;
/// A stable point whose growth is above this is slow, 1/s.
const SLOW_ABOVE_PER_S: f64 = -0.5;

/// Number of fixed points, and how sure it is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct PointCount {
    /// Stable points.
    pub stable: usize,
    /// Unstable points.
    pub unstable: usize,
    /// Slow points: minima of the speed that are not fixed, or stable points that hardly attract.
    pub slow: usize,
    /// Share of the posterior's draws with these numbers of stable and unstable points.
    pub probability: f64,
}

/// What the fitted network does when it runs by itself, from the posterior over embedding and
/// latents.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Portrait {
    /// Lyapunov spectrum without noise, 1/s, `[rank]`: posterior means, largest first.
    pub lyapunov_noise_free_per_s: Vec<f64>,
    /// The same along paths driven by the model's process noise.
    pub lyapunov_driven_per_s: Vec<f64>,
    /// Largest exponent without noise, 1/s.
    pub lyapunov_max_noise_free_per_s: Estimate,
    /// Largest exponent along noisy paths, 1/s.
    pub lyapunov_max_driven_per_s: Estimate,
    /// Kaplan-Yorke dimension of the noise-free spectrum; exponents within 0.25 /s of 0 taken
    /// for 0.
    pub kaplan_yorke_dimension: Estimate,
    /// Frequency of the noise-free run, Hz; `None` where most of it does not oscillate.
    pub oscillation_hz: Option<Estimate>,
    /// Fixed points; `None` until they were sought once.
    pub fixed_points: Option<PointCount>,
    /// Dynamical signature.
    pub signature: Signature,
    /// Time of each run that was measured, seconds.
    pub measured_s: f64,
}

/// A run of the network and its tangents.
#[derive(Debug, Clone)]
struct Run {
    kappa: Vec<f32>,
    sum: LyapunovSum,
}

/// One draw of the posterior.
#[derive(Debug, Clone)]
struct Draw {
    /// Standard normal variates of embedding and latents: the same all along, so that readings
    /// change with the posterior and not with the draws.
    variates: [Vec<f32>; 2],
    flow: Flow,
    noise_free: Run,
    driven: Run,
    /// States of the noise-free run, newest last, `[up to TRACE, rank]`.
    trace: Vec<f32>,
    points: Option<[usize; 3]>,
}

/// Explores one session's model from its posterior. Each refresh costs the same.
#[derive(Debug, Clone)]
pub(super) struct Explorer {
    draws: Vec<Draw>,
    noise: ChaCha8Rng,
    noise_sd: Vec<f32>,
    /// Filtered states, newest first.
    starts: Vec<Vec<f32>>,
    /// Bins run since the start or restart.
    run_bins: usize,
    /// The draw whose fixed points are searched next.
    next: usize,
    label: Option<usize>,
}

impl Explorer {
    #[must_use]
    pub(super) fn new(model: &Model) -> Self {
        let (d, rank) = (model.dims.embedding, model.dims.rank);
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mut normals = |n: usize| -> Vec<f32> {
            (0..n).map(|_| rng.sample::<f32, _>(StandardNormal)).collect()
        };
        let draws = (0..DRAWS)
            .map(|_| {
                let run = || Run { kappa: vec![0.0; rank], sum: LyapunovSum::new(rank, rank) };
                Draw {
                    variates: [normals(d), normals(rank)],
                    flow: Flow::new(model, &vec![0.0; d]),
                    noise_free: run(),
                    driven: run(),
                    trace: Vec::new(),
                    points: None,
                }
            })
            .collect();
        let factor = model.online.process_noise;
        Self {
            draws,
            noise: ChaCha8Rng::seed_from_u64(1),
            noise_sd: model.network.process_variance.iter().map(|q| (factor * q).sqrt()).collect(),
            starts: Vec::new(),
            run_bins: 0,
            next: 0,
            label: None,
        }
    }

    /// Continues with the newest posterior; restarts where the label in force (`None`: unknown)
    /// changed.
    pub(super) fn refresh(
        &mut self,
        model: &Model,
        of: StatePosterior<'_>,
        label: Option<usize>,
    ) -> Portrait {
        let restart = self.run_bins == 0 || label != self.label;
        if restart {
            self.label = label;
            self.run_bins = 0;
            self.starts.clear();
        }
        self.starts.insert(0, of.latent[0].to_vec());
        self.starts.truncate(STARTS);
        let root = of.embedding_root();
        for draw in &mut self.draws {
            draw.flow.set_embedding(model, &of.embedding_at(&root, &draw.variates[0]));
            if restart {
                let kappa = of.latent_at(&draw.variates[1]);
                for run in [&mut draw.noise_free, &mut draw.driven] {
                    run.kappa.clone_from(&kappa);
                    run.sum.forget(0.0);
                }
                draw.trace.clear();
                draw.points = None;
            }
        }
        self.run(model);
        // One draw in turn, so that a refresh pays for one search of fixed points.
        let next = self.next % self.draws.len();
        self.next = next + 1;
        let draw = &mut self.draws[next];
        let mut starts = self.starts.clone();
        starts.push(draw.noise_free.kappa.clone());
        let e = of.embedding_at(&root, &draw.variates[0]);
        draw.points = Some(count(&fixed_points(model, &e, &starts)));
        self.portrait(model)
    }

    /// All runs go on.
    fn run(&mut self, model: &Model) {
        let bin = model.bin_width_s;
        let every = ((TRACE_STEP_S / bin).round() as usize).max(1);
        let rank = model.dims.rank;
        let elapsed = bin * RENORMALISE_EVERY as f64;
        let keep = (-(BINS_PER_REFRESH as f64) * bin / MEMORY_S).exp();
        for draw in &mut self.draws {
            draw.noise_free.sum.forget(keep);
            draw.driven.sum.forget(keep);
        }
        for b in 0..BINS_PER_REFRESH {
            std::thread::yield_now();
            // All draws share the noise: what they differ by is the posterior alone.
            let now = self.run_bins + b + 1;
            let noise: Vec<f32> = self
                .noise_sd
                .iter()
                .map(|sd| sd * self.noise.sample::<f32, _>(StandardNormal))
                .collect();
            for draw in &mut self.draws {
                for run in [&mut draw.noise_free, &mut draw.driven] {
                    draw.flow.step_with_tangents(&mut run.kappa, &mut run.sum);
                    if now.is_multiple_of(RENORMALISE_EVERY) {
                        run.sum.take(elapsed);
                    }
                    if now == TRANSIENT_BINS {
                        run.sum.forget(0.0);
                    }
                }
                draw.driven.kappa.iter_mut().zip(&noise).for_each(|(k, n)| *k += n);
                if now > TRANSIENT_BINS && now.is_multiple_of(every) {
                    if draw.trace.len() >= TRACE * rank {
                        // A quarter at a time, not each time.
                        draw.trace.drain(..TRACE / 4 * rank);
                    }
                    draw.trace.extend(&draw.noise_free.kappa);
                }
            }
        }
        self.run_bins += BINS_PER_REFRESH;
    }

    fn portrait(&self, model: &Model) -> Portrait {
        let rank = model.dims.rank;
        // The directions outside the latents shrink by 1 - a in every bin.
        let outside = (1.0 - f64::from(model.network.leak)).ln() / model.bin_width_s;
        let spectra = |run: fn(&Draw) -> &Run| -> Vec<Vec<f64>> {
            self.draws.iter().filter_map(|d| run(d).sum.exponents_per_s()).collect()
        };
        let (noise_free, driven) = (spectra(|d| &d.noise_free), spectra(|d| &d.driven));
        let column = |of: &[Vec<f64>], i: usize| -> Vec<f64> { of.iter().map(|s| s[i]).collect() };
        let means = |of: &[Vec<f64>]| -> Vec<f64> {
            (0..rank).map(|i| Estimate::over(&column(of, i)).mean).collect()
        };
        let dimensions: Vec<f64> = noise_free
            .iter()
            .map(|s| {
                // A cycle's 0 is measured a little off: its dimension would jump between 0 and 1.
                let near = |l: &f64| if l.abs() < ZERO_WITHIN_PER_S { 0.0 } else { *l };
                let all: Vec<f64> =
                    s.iter().map(near).chain(std::iter::repeat_n(outside, rank)).collect();
                kaplan_yorke_dimension(&all)
            })
            .collect();
        let step_s = TRACE_STEP_S.max(model.bin_width_s);
        let step_s = (step_s / model.bin_width_s).round() * model.bin_width_s;
        let frequencies: Vec<f64> =
            self.draws.iter().filter_map(|d| frequency(&d.trace, rank, step_s)).collect();
        let oscillation_hz =
            (2 * frequencies.len() > self.draws.len()).then(|| Estimate::over(&frequencies));
        let fixed_points = self.point_count();
        let estimate = |i: usize| (i < rank).then(|| Estimate::over(&column(&noise_free, i)));
        let lyapunov_max_driven_per_s = Estimate::over(&column(&driven, 0));
        let measured = self.run_bins > TRANSIENT_BINS;
        let signature = match fixed_points.filter(|_| measured) {
            None => Signature::Undetermined,
            Some(points) => signature(&Signs {
                noise_free: [estimate(0), estimate(1), estimate(2)],
                driven: lyapunov_max_driven_per_s,
                stable_points: points.stable,
                slow_points: points.slow,
                oscillates: oscillation_hz.is_some(),
            }),
        };
        Portrait {
            lyapunov_noise_free_per_s: means(&noise_free),
            lyapunov_driven_per_s: means(&driven),
            lyapunov_max_noise_free_per_s: estimate(0).unwrap_or_default(),
            lyapunov_max_driven_per_s,
            kaplan_yorke_dimension: Estimate::over(&dimensions),
            oscillation_hz,
            fixed_points,
            signature,
            measured_s: self.draws[0].noise_free.sum.time_s(),
        }
    }

    /// The numbers of points that most draws have.
    fn point_count(&self) -> Option<PointCount> {
        let found: Vec<[usize; 3]> = self.draws.iter().filter_map(|d| d.points).collect();
        let same = |p: &[usize; 3]| found.iter().filter(|q| q[..2] == p[..2]).count();
        let most = found.iter().max_by_key(|p| same(p))?;
        Some(PointCount {
            stable: most[0],
            unstable: most[1],
            slow: most[2],
            probability: same(most) as f64 / found.len() as f64,
        })
    }
}

/// Numbers of stable, unstable and slow points.
fn count(points: &[FixedPoint]) -> [usize; 3] {
    let of = |which: &dyn Fn(&FixedPoint) -> bool| points.iter().filter(|p| which(p)).count();
    [
        of(&FixedPoint::is_stable),
        of(&|p| p.is_fixed() && !p.is_stable()),
        of(&|p| !p.is_fixed() || (p.is_stable() && p.growth_per_s > SLOW_ABOVE_PER_S)),
    ]
}

/// Upward crossings of the mean by the leading principal component of `trace [n, rank]`, per
/// second.
fn frequency(trace: &[f32], rank: usize, step_s: f64) -> Option<f64> {
    let n = trace.len() / rank;
    if n < 8 {
        return None;
    }
    let mut mean = vec![0.0f64; rank];
    for row in trace.chunks_exact(rank) {
        mean.iter_mut().zip(row).for_each(|(m, x)| *m += f64::from(*x) / n as f64);
    }
    let mut cov = nalgebra::DMatrix::<f64>::zeros(rank, rank);
    for row in trace.chunks_exact(rank) {
        for i in 0..rank {
            let di = f64::from(row[i]) - mean[i];
            for j in 0..=i {
                cov[(i, j)] += di * (f64::from(row[j]) - mean[j]);
            }
        }
    }
    for i in 0..rank {
        for j in 0..i {
            cov[(j, i)] = cov[(i, j)];
        }
    }
    let eigen = cov.symmetric_eigen();
    let top = eigen.eigenvalues.imax();
    if (eigen.eigenvalues[top] / n as f64).sqrt() < AMPLITUDE_MIN {
        return None;
    }
    let along: Vec<f64> = trace
        .chunks_exact(rank)
        .map(|row| (0..rank).map(|i| (f64::from(row[i]) - mean[i]) * eigen.eigenvectors[(i, top)]))
        .map(Iterator::sum)
        .collect();
    let crossings: Vec<f64> = along
        .windows(2)
        .enumerate()
        .filter(|(_, w)| w[0] < 0.0 && w[1] >= 0.0)
        .map(|(i, w)| i as f64 - w[0] / (w[1] - w[0]))
        .collect();
    let (first, last) = (crossings.first()?, crossings.last()?);
    (crossings.len() >= CROSSINGS_MIN)
        .then(|| (crossings.len() - 1) as f64 / ((last - first) * step_s))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dynamics::planar;

    fn portrait(feedback: [f32; 4], refreshes: usize) -> Portrait {
        let model = planar(feedback);
        let mut explorer = Explorer::new(&model);
        let (e, variance) = ([0.0f32], [0.01f32]);
        let (k, k_sd) = ([0.3f32, -0.2], [0.3f32, 0.3]);
        let of =
            StatePosterior { embedding: &e, embedding_covariance: &variance, latent: [&k, &k_sd] };
        let mut portrait = explorer.refresh(&model, of, Some(0));
        for _ in 1..refreshes {
            portrait = explorer.refresh(&model, of, Some(0));
        }
        portrait
    }

    #[test]
    fn a_focus_is_stable_with_its_exponents() {
        let p = portrait([0.5, -0.8, 0.8, 0.5], 40);
        assert_eq!(p.signature, Signature::Stable, "{p:?}");
        // log |1 - a + a (0.5 + 0.8 i)| / bin, a = 0.1.
        let expected = (1.0f64 - 0.05).hypot(0.08).ln() / 0.01;
        assert!((p.lyapunov_noise_free_per_s[0] - expected).abs() < 0.05, "{p:?} {expected}");
        assert!((p.lyapunov_noise_free_per_s[1] - expected).abs() < 0.05, "{p:?}");
        assert!(p.kaplan_yorke_dimension.mean < 1e-6);
        let points = p.fixed_points.expect("sought");
        assert_eq!((points.stable, points.unstable), (1, 0));
        assert!(points.probability > 0.99);
        assert_eq!(p.oscillation_hz, None);
    }

    #[test]
    fn a_cycle_is_oscillatory_with_its_frequency() {
        let p = portrait([1.6, -0.8, 0.8, 1.6], 60);
        assert_eq!(p.signature, Signature::Oscillatory, "{p:?}");
        assert!(p.lyapunov_noise_free_per_s[0].abs() < 0.05, "{p:?}");
        assert!(p.lyapunov_noise_free_per_s[1] < -1.0, "{p:?}");
        assert!((p.kaplan_yorke_dimension.mean - 1.0).abs() < 0.05, "{p:?}");
        // Counted on a long plain run of the same map.
        let (mut x, mut y) = (1.0f64, 0.0f64);
        let (mut crossings, mut first, mut last) = (0, 0.0, 0.0);
        for bin in 0..100_000 {
            let (fx, fy) = (x.tanh(), y.tanh());
            let next = 0.9 * x + 0.1 * (1.6 * fx - 0.8 * fy);
            y = 0.9 * y + 0.1 * (0.8 * fx + 1.6 * fy);
            if bin > 1_000 && x < 0.0 && next >= 0.0 {
                let at = f64::from(bin) - x / (next - x);
                first = if crossings == 0 { at } else { first };
                last = at;
                crossings += 1;
            }
            x = next;
        }
        let expected = f64::from(crossings - 1) / ((last - first) * 0.01);
        let found = p.oscillation_hz.expect("it oscillates").mean;
        assert!((found / expected - 1.0).abs() < 0.01, "{found} for {expected}");
    }

    #[test]
    fn two_wells_are_multistable_and_a_ring_is_marginal() {
        let p = portrait([2.0, 0.0, 0.0, 0.5], 40);
        assert_eq!(p.signature, Signature::Multistable, "{p:?}");
        let points = p.fixed_points.expect("sought");
        assert_eq!((points.stable, points.unstable), (2, 1));
        // One direction exactly at threshold decays slower than exponentially.
        let p = portrait([1.0, 0.0, 0.0, 0.2], 40);
        assert_eq!(p.signature, Signature::Marginal, "{p:?}");
    }

    #[test]
    fn a_changed_label_begins_anew_and_the_same_calls_give_the_same() {
        let model = planar([0.5, -0.8, 0.8, 0.5]);
        let (e, variance, k) = ([0.0f32], [0.01f32], [0.3f32, -0.2]);
        let of =
            StatePosterior { embedding: &e, embedding_covariance: &variance, latent: [&k, &k] };
        let (mut one, mut two) = (Explorer::new(&model), Explorer::new(&model));
        for _ in 0..5 {
            assert_eq!(one.refresh(&model, of, Some(0)), two.refresh(&model, of, Some(0)));
        }
        let before = one.refresh(&model, of, Some(0)).measured_s;
        let after = one.refresh(&model, of, None).measured_s;
        assert!(after < before, "{after} {before}");
    }
}
