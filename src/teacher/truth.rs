//! What is true of a task, measured on the full network itself.

use super::animal::{Animal, Task};
use super::simulation::Simulation;

/// Time before measuring, seconds.
const TRANSIENT_S: f64 = 3.0;
/// Time measured, seconds.
const MEASURED_S: f64 = 20.0;

/// Truth of one task.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Truth {
    /// Largest Lyapunov exponent along a noise-driven trajectory, 1/s (Benettin et al. 1980).
    pub lyapunov_max_per_s: f64,
    /// The same without noise, 1/s.
    pub lyapunov_max_noise_free_per_s: f64,
    /// Frequency of a limit cycle as it turns, Hz; 0 in other regimes.
    pub frequency_hz: f64,
}

/// Measures a task.
#[must_use]
pub fn truth(animal: &Animal, task: &Task, seed: u64) -> Truth {
    let (noise_free, frequency_hz) = run(animal, task, seed, false);
    let (noisy, _) = run(animal, task, seed, true);
    Truth {
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
        let (_, bistable) = of(Regime::Bistable, 0);
        assert!(bistable.lyapunov_max_noise_free_per_s < -0.5, "{bistable:?}");
        let (_, chaotic) = of(Regime::Chaotic, 1);
        assert!(chaotic.lyapunov_max_noise_free_per_s > 0.2, "{chaotic:?}");
        let (_, ring) = of(Regime::RingAttractor, 0);
        assert!(ring.lyapunov_max_noise_free_per_s.abs() < 1.0, "{ring:?}");
        let (design, cycle) = of(Regime::LimitCycle, 0);
        assert!(cycle.lyapunov_max_noise_free_per_s.abs() < 0.2, "{cycle:?}");
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
