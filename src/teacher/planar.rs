//! Families of planar systems seen through spikes: the Hopf normal form and the Duffing oscillator,
//! whose eigenvalues are known in closed form (Vermani et al. 2025, arXiv 2410.05454, forecast the
//! same two).
//!
//! ```text
//! Hopf      dx = (a - b |x|^2) x + omega (-x2, x1)                      + sigma dW
//! Duffing   dx1 = nu x2,  dx2 = nu (s x1 - x1^3) - delta x2             + sigma dW
//! ```
//!
//! Below `a = 0` a Hopf system is a stable spiral, above a limit cycle; below `s = 0` a Duffing
//! oscillator has one well, above two. `log rate = C x + d`, counts Poisson.

use nalgebra::Complex;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Poisson, StandardNormal};

/// Names of [`PlanarKind::ALL`].
pub(crate) const PLANAR_NAMES: [&str; 4] =
    ["hopf_spiral", "hopf_cycle", "duffing_one_well", "duffing_two_wells"];

/// Damping of the radius in the Hopf family, 1/s.
const HOPF_CUBIC_PER_S: f64 = 4.0;
/// Natural frequency `nu` of the Duffing family, 1/s.
const DUFFING_NU_PER_S: f64 = std::f64::consts::TAU;
/// Noise `sigma`, per square root of a second.
const NOISE: f64 = 0.3;
/// Standard deviation of a trial's start.
const START_SD: f64 = 0.8;
/// Step of the integration, seconds.
const STEP_S: f64 = 1e-3;
/// Standard deviations of loadings and of log rates.
const LOADING_SD: f64 = 0.5;
const LOG_RATE_SD: f64 = 0.5;

/// Which family, and on which side of its bifurcation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PlanarKind {
    /// Hopf, `a < 0`.
    HopfSpiral,
    /// Hopf, `a > 0`.
    HopfCycle,
    /// Duffing, `s < 0`.
    DuffingOneWell,
    /// Duffing, `s > 0`.
    DuffingTwoWells,
}

impl PlanarKind {
    /// All kinds in order.
    pub(crate) const ALL: [Self; 4] =
        [Self::HopfSpiral, Self::HopfCycle, Self::DuffingOneWell, Self::DuffingTwoWells];
}

/// One system of a family.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct PlanarTask {
    pub kind: PlanarKind,
    /// Number, unique over kinds.
    pub number: i64,
    /// Hopf: `a`, 1/s. Duffing: `delta`, 1/s.
    pub rate_per_s: f64,
    /// Hopf: `omega`, 1/s. Duffing: `s`.
    pub shape: f64,
}

impl PlanarTask {
    /// Task number `index` of a kind: the same for the same seed.
    #[must_use]
    pub(crate) fn new(seed: u64, kind: PlanarKind, index: u64) -> Self {
        let at = PlanarKind::ALL.iter().position(|k| *k == kind).unwrap_or(0);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(1 + ((at as u64) << 40) + index);
        let mut between = |low: f64, high: f64| rng.random_range(low..high);
        let turn = |hz: f64| std::f64::consts::TAU * hz;
        let (rate_per_s, shape) = match kind {
            PlanarKind::HopfSpiral => (between(-4.0, -0.5), turn(between(0.5, 2.5))),
            PlanarKind::HopfCycle => (between(1.0, 4.0), turn(between(0.5, 2.5))),
            PlanarKind::DuffingOneWell => (between(1.0, 4.0), between(-1.0, -0.2)),
            PlanarKind::DuffingTwoWells => (between(1.0, 4.0), between(0.4, 1.2)),
        };
        Self { kind, number: (at as i64) * 10_000 + index as i64, rate_per_s, shape }
    }

    /// The time derivative without noise, 1/s.
    #[must_use]
    pub(crate) fn drift(&self, x: [f64; 2]) -> [f64; 2] {
        match self.kind {
            PlanarKind::HopfSpiral | PlanarKind::HopfCycle => {
                let grow = self.rate_per_s - HOPF_CUBIC_PER_S * (x[0] * x[0] + x[1] * x[1]);
                [grow * x[0] - self.shape * x[1], grow * x[1] + self.shape * x[0]]
            }
            PlanarKind::DuffingOneWell | PlanarKind::DuffingTwoWells => {
                let force = self.shape * x[0] - x[0].powi(3);
                [DUFFING_NU_PER_S * x[1], DUFFING_NU_PER_S * force - self.rate_per_s * x[1]]
            }
        }
    }

    /// The leading eigenvalue, with an imaginary part that is not below 0, 1/s, of the
    /// linearisation at a stable point, or at a limit cycle's centre.
    #[must_use]
    pub(crate) fn eigenvalue_per_s(&self) -> Complex<f64> {
        let spring = match self.kind {
            PlanarKind::HopfSpiral | PlanarKind::HopfCycle => {
                return Complex::new(self.rate_per_s, self.shape);
            }
            PlanarKind::DuffingOneWell => -self.shape,
            // At x = sqrt(s) the force falls by 2 s.
            PlanarKind::DuffingTwoWells => 2.0 * self.shape,
        };
        let half = self.rate_per_s / 2.0;
        let root = Complex::new(half * half - DUFFING_NU_PER_S.powi(2) * spring, 0.0).sqrt();
        root - half
    }

    /// Number of stable fixed points.
    #[must_use]
    pub(crate) fn stable_points(&self) -> usize {
        match self.kind {
            PlanarKind::HopfCycle => 0,
            PlanarKind::DuffingTwoWells => 2,
            PlanarKind::HopfSpiral | PlanarKind::DuffingOneWell => 1,
        }
    }

    /// Where it is without noise after `seconds`.
    #[must_use]
    pub(crate) fn ahead(&self, mut x: [f64; 2], seconds: f64) -> [f64; 2] {
        for _ in 0..(seconds / STEP_S).round() as usize {
            self.step(&mut x);
        }
        x
    }

    /// A step of the midpoint rule.
    fn step(&self, x: &mut [f64; 2]) {
        let k = self.drift(*x);
        let half = [x[0] + 0.5 * STEP_S * k[0], x[1] + 0.5 * STEP_S * k[1]];
        let k = self.drift(half);
        *x = [x[0] + STEP_S * k[0], x[1] + STEP_S * k[1]];
    }
}

/// How planar systems are recorded.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PlanarReadout {
    /// `[channels][2]`.
    loading: Vec<[f64; 2]>,
    /// Log counts per bin at rest.
    log_base: Vec<f64>,
    bin_width_s: f64,
}

impl PlanarReadout {
    /// Of animal number `index` of a seed, with `rate_hz` at rest in the mean channel.
    #[must_use]
    pub(crate) fn new(
        seed: u64,
        index: u64,
        channels: usize,
        rate_hz: f64,
        bin_width_s: f64,
    ) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream((1 << 60) + index);
        let mut normal = || -> f64 { StandardNormal.sample(&mut rng) };
        let base = (rate_hz * bin_width_s).ln();
        Self {
            loading: (0..channels)
                .map(|_| [LOADING_SD * normal(), LOADING_SD * normal()])
                .collect(),
            log_base: (0..channels).map(|_| base + LOG_RATE_SD * normal()).collect(),
            bin_width_s,
        }
    }

    /// Counts expected in a bin at `x`, `[channels]`.
    #[must_use]
    pub(crate) fn rates(&self, x: [f64; 2]) -> Vec<f32> {
        let rows = self.loading.iter().zip(&self.log_base);
        rows.map(|(c, d)| (c[0] * x[0] + c[1] * x[1] + d).exp() as f32).collect()
    }

    /// A trial of `bins` bins: where it was, and counts `[bins, channels]`.
    #[must_use]
    pub(crate) fn trial(
        &self,
        task: &PlanarTask,
        bins: usize,
        seed: u64,
    ) -> (Vec<[f64; 2]>, Vec<u16>) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let normal = |rng: &mut ChaCha8Rng| -> f64 { StandardNormal.sample(rng) };
        let mut x = [START_SD * normal(&mut rng), START_SD * normal(&mut rng)];
        let (mut path, mut counts) = (Vec::with_capacity(bins), Vec::new());
        let kick = NOISE * STEP_S.sqrt();
        for _ in 0..bins {
            for _ in 0..(self.bin_width_s / STEP_S).round().max(1.0) as usize {
                task.step(&mut x);
                x = [x[0] + kick * normal(&mut rng), x[1] + kick * normal(&mut rng)];
            }
            path.push(x);
            counts.extend(self.rates(x).into_iter().map(|rate| {
                let drawn: f64 = Poisson::new(f64::from(rate)).map_or(0.0, |p| p.sample(&mut rng));
                drawn.min(255.0) as u16
            }));
        }
        (path, counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The Jacobian's leading eigenvalue at a point, by differences of the drift.
    fn by_differences(task: &PlanarTask, at: [f64; 2]) -> Complex<f64> {
        let h = 1e-6;
        let column = |i: usize| {
            let (mut up, mut down) = (at, at);
            up[i] += h;
            down[i] -= h;
            let (up, down) = (task.drift(up), task.drift(down));
            [(up[0] - down[0]) / (2.0 * h), (up[1] - down[1]) / (2.0 * h)]
        };
        let ([a, c], [b, d]) = (column(0), column(1));
        let half = (a + d) / 2.0;
        half + Complex::new(half * half - (a * d - b * c), 0.0).sqrt()
    }

    #[test]
    fn eigenvalues_are_those_of_the_drift() {
        for (kind, index) in PlanarKind::ALL.into_iter().zip(0..) {
            let task = PlanarTask::new(7, kind, index);
            let at = match kind {
                PlanarKind::DuffingTwoWells => [task.shape.sqrt(), 0.0],
                _ => [0.0, 0.0],
            };
            assert!(task.drift(at).iter().all(|v| v.abs() < 1e-12), "{task:?}");
            let (found, expected) = (task.eigenvalue_per_s(), by_differences(&task, at));
            assert!((found - expected).norm() < 1e-6, "{task:?}: {found} for {expected}");
            let stable = kind != PlanarKind::HopfCycle;
            assert_eq!(found.re < 0.0, stable, "{task:?}");
        }
    }

    #[test]
    fn runs_end_where_the_kind_says() {
        let end = |kind| {
            let task = PlanarTask::new(3, kind, 1);
            (task, task.ahead([0.7, 0.2], 20.0))
        };
        let (_, spiral) = end(PlanarKind::HopfSpiral);
        assert!(spiral[0].hypot(spiral[1]) < 1e-3, "{spiral:?}");
        let (task, cycle) = end(PlanarKind::HopfCycle);
        let radius = (task.rate_per_s / HOPF_CUBIC_PER_S).sqrt();
        assert!((cycle[0].hypot(cycle[1]) / radius - 1.0).abs() < 1e-3, "{cycle:?}");
        let (_, one) = end(PlanarKind::DuffingOneWell);
        assert!(one[0].hypot(one[1]) < 0.01, "{one:?}");
        let (task, two) = end(PlanarKind::DuffingTwoWells);
        assert!((two[0].abs() - task.shape.sqrt()).abs() < 0.01, "{two:?}");
    }

    #[test]
    fn counts_have_the_rates_of_the_path() {
        let readout = PlanarReadout::new(5, 0, 40, 20.0, 0.01);
        let task = PlanarTask::new(5, PlanarKind::HopfCycle, 0);
        let (path, counts) = readout.trial(&task, 4000, 9);
        let total: f64 = counts.iter().map(|&c| f64::from(c)).sum();
        let expected: f64 = path.iter().flat_map(|&x| readout.rates(x)).map(f64::from).sum();
        assert!((total / expected - 1.0).abs() < 4.0 / expected.sqrt(), "{total} for {expected}");
        assert_eq!(readout.trial(&task, 10, 9).1[..], counts[..400]);
    }
}
