//! The truth of a task, measured on the full network.

use nalgebra::{DMatrix, DVector};

use super::animal::{Animal, Regime, Task};
use super::simulation::Simulation;

/// Time before measuring, seconds.
const TRANSIENT_S: f64 = 3.0;
/// Time measured, seconds.
const MEASURED_S: f64 = 20.0;

/// Fixed points are searched from the ends of this many noise-free runs...
const RUNS: u64 = 8;
/// ...of this length, seconds...
const RUN_S: f64 = 4.0;
/// ...and from their means, the origin, and this many random states near it.
const NEAR_ORIGIN: u64 = 3;
/// Newton's steps at most.
const NEWTON_STEPS: usize = 25;
/// Residual of a fixed point, root mean square over units.
const RESIDUAL_MAX: f64 = 1e-8;
/// Points closer than this are one, root mean square over units.
const MERGED_WITHIN: f64 = 1e-2;
/// Time over which a tangent vector at a point shows whether it is stable, seconds.
const TANGENT_S: f64 = 4.0;

/// Truth of one task.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Truth {
    /// Largest Lyapunov exponent along a noise-driven trajectory, 1/s (Benettin et al. 1980).
    pub lyapunov_max_per_s: f64,
    /// The same without noise, 1/s.
    pub lyapunov_max_noise_free_per_s: f64,
    /// Frequency of a limit cycle as it turns, Hz; 0 in other regimes.
    pub frequency_hz: f64,
    /// Stable fixed points found; `None` for rings and chaos, where points are many and none
    /// stable.
    pub stable_points: Option<usize>,
    /// Unstable fixed points found, as above.
    pub unstable_points: Option<usize>,
}

/// Measures a task.
#[must_use]
pub(crate) fn truth(animal: &Animal, task: &Task, seed: u64) -> Truth {
    let (noise_free, frequency_hz) = run(animal, task, seed, false);
    let (noisy, _) = run(animal, task, seed, true);
    let countable = !matches!(task.regime, Regime::RingAttractor | Regime::Chaotic);
    let points = countable.then(|| fixed_points(animal, task, seed));
    Truth {
        stable_points: points.map(|p| p[0]),
        unstable_points: points.map(|p| p[1]),
        lyapunov_max_per_s: noisy,
        lyapunov_max_noise_free_per_s: noise_free,
        frequency_hz: if task.design_frequency_hz > 0.0 { frequency_hz } else { 0.0 },
    }
}

/// Largest exponent, and turns per second in the task's plane.
fn run(animal: &Animal, task: &Task, seed: u64, noisy: bool) -> (f64, f64) {
    let mut simulation = Simulation::new(animal.clone(), task.clone(), seed);
    let width = animal.settings().bin_width_s;
    let mut tangent: Vec<f32> =
        (0..animal.settings().units).map(|i| (1.3 * i as f32 + 0.2).sin()).collect();
    let (mut grown, mut turned) = (0.0, 0.0);
    let mut angle: Option<f64> = None;
    let transient = (TRANSIENT_S / width) as usize;
    let bins = transient + (MEASURED_S / width) as usize;
    for bin in 0..bins {
        simulation.bin_with_tangent(&mut tangent, noisy);
        let norm = tangent.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        tangent.iter_mut().for_each(|v| *v = (f64::from(*v) / norm) as f32);
        let [x, y] = simulation.in_plane();
        let now = y.atan2(x);
        if bin >= transient {
            grown += norm.ln();
            let delta = angle.map_or(0.0, |before| now - before);
            turned += (delta + std::f64::consts::PI).rem_euclid(std::f64::consts::TAU)
                - std::f64::consts::PI;
        }
        angle = Some(now);
    }
    let seconds = (bins - transient) as f64 * width;
    (grown / seconds, (turned / std::f64::consts::TAU / seconds).abs())
}

/// Numbers of stable and unstable fixed points of the noise-free network: Newton's method on
/// `r = J tanh(r) + c`.
fn fixed_points(animal: &Animal, task: &Task, seed: u64) -> [usize; 2] {
    let n = animal.settings().units;
    let j = DMatrix::from_row_iterator(n, n, task.j.iter().map(|&x| f64::from(x)));
    let c = DVector::from_iterator(n, task.input.iter().map(|&x| f64::from(x)));
    let mut starts: Vec<DVector<f64>> = Vec::new();
    for run in 0..RUNS {
        let mut simulation = Simulation::new(animal.clone(), task.clone(), seed ^ (run << 20));
        for _ in 0..(RUN_S / animal.settings().bin_width_s) as usize {
            simulation.advance_noise_free();
        }
        starts.push(DVector::from_iterator(n, simulation.state().iter().map(|&x| f64::from(x))));
    }
    let mean = starts.iter().sum::<DVector<f64>>() / starts.len() as f64;
    starts.push(DVector::zeros(n));
    starts.push(mean);
    for near in 0..NEAR_ORIGIN {
        let simulation = Simulation::new(animal.clone(), task.clone(), seed ^ (near << 30));
        starts.push(DVector::from_iterator(
            n,
            simulation.state().iter().map(|&x| 0.2 * f64::from(x)),
        ));
    }
    let rms = |v: &DVector<f64>| v.norm() / (n as f64).sqrt();
    let mut points: Vec<DVector<f64>> = Vec::new();
    for start in starts {
        let Some(point) = newton(&j, &c, start) else { continue };
        if points.iter().all(|p| rms(&(p - &point)) > MERGED_WITHIN) {
            points.push(point);
        }
    }
    let stable = points.iter().filter(|p| is_stable(animal, &j, p)).count();
    [stable, points.len() - stable]
}

fn newton(j: &DMatrix<f64>, c: &DVector<f64>, mut r: DVector<f64>) -> Option<DVector<f64>> {
    let n = r.len();
    for _ in 0..NEWTON_STEPS {
        let phi = r.map(f64::tanh);
        let residual = j * &phi + c - &r;
        if residual.norm() < RESIDUAL_MAX * (n as f64).sqrt() {
            return Some(r);
        }
        let mut slope = j.clone();
        for (mut column, p) in slope.column_iter_mut().zip(phi.iter()) {
            column *= 1.0 - p * p;
        }
        for i in 0..n {
            slope[(i, i)] -= 1.0;
        }
        let mut step = slope.lu().solve(&residual)?;
        // No further than the states that the network is in.
        let size = step.norm() / (n as f64).sqrt();
        step /= size.max(1.0);
        r -= step;
    }
    None
}

/// Whether a tangent vector at the point has shrunk in the end.
fn is_stable(animal: &Animal, j: &DMatrix<f64>, point: &DVector<f64>) -> bool {
    let (steps, a) = animal.stepping();
    let slope = point.map(|r| 1.0 - r.tanh().powi(2));
    let mut v = DVector::from_fn(point.len(), |i, _| (1.3 * i as f64 + 0.2).sin());
    let total = (TANGENT_S / animal.settings().bin_width_s) as usize * steps;
    let mut grown = 0.0;
    for step in 0..total {
        let pushed = j * slope.component_mul(&v);
        v = &v + (pushed - &v) * f64::from(a);
        let norm = v.norm();
        v /= norm;
        if step >= total / 2 {
            grown += norm.ln();
        }
    }
    grown < 0.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::teacher::{AnimalSettings, Regime};

    #[test]
    fn regimes_are_what_they_are_called() {
        let animal = Animal::new(3, 0, AnimalSettings::default());
        let of = |regime, index| {
            let task = animal.task(regime, index);
            (task.design_frequency_hz, truth(&animal, &task, 1))
        };
        let (_, stable) = of(Regime::StableFixedPoint, 0);
        assert!(stable.lyapunov_max_noise_free_per_s < -1.0, "{stable:?}");
        assert_eq!((stable.stable_points, stable.unstable_points), (Some(1), Some(0)));
        let (_, bistable) = of(Regime::Bistable, 0);
        assert!(bistable.lyapunov_max_noise_free_per_s < -0.5, "{bistable:?}");
        assert_eq!((bistable.stable_points, bistable.unstable_points), (Some(2), Some(1)));
        let (_, chaotic) = of(Regime::Chaotic, 1);
        assert!(chaotic.lyapunov_max_noise_free_per_s > 0.2, "{chaotic:?}");
        let (_, ring) = of(Regime::RingAttractor, 0);
        assert!(ring.lyapunov_max_noise_free_per_s.abs() < 1.0, "{ring:?}");
        let (design, cycle) = of(Regime::LimitCycle, 0);
        assert!(cycle.lyapunov_max_noise_free_per_s.abs() < 0.2, "{cycle:?}");
        assert_eq!((cycle.stable_points, cycle.unstable_points), (Some(0), Some(1)));
        assert!((cycle.frequency_hz / design - 1.0).abs() < 0.15, "{cycle:?} made for {design} Hz");
    }

    #[test]
    fn the_same_seed_gives_the_same_spikes() {
        let spikes = |seed| {
            let animal = Animal::new(seed, 1, AnimalSettings::default());
            let task = animal.task(Regime::Chaotic, 0);
            let mut simulation = Simulation::new(animal, task, 9);
            let mut counts = vec![0u16; 96];
            (0..50)
                .flat_map(|_| {
                    simulation.bin(&mut counts);
                    counts.clone()
                })
                .collect::<Vec<_>>()
        };
        let first = spikes(4);
        assert_eq!(first, spikes(4));
        assert_ne!(first, spikes(5));
        let mean = first.iter().map(|&c| f64::from(c)).sum::<f64>() / first.len() as f64;
        assert!((0.05..0.5).contains(&mean), "mean count {mean}");
    }
}
