//! Inputs of the ensemble's networks.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use super::draws::log_uniform;

/// What drives a network from outside, beside noise of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Input {
    /// Nothing.
    None,
    /// White noise that units share.
    White,
    /// The same with a memory.
    OrnsteinUhlenbeck,
    /// White noise smoothed with a Gaussian.
    Smooth,
    /// The same smooth course in each of many trials, one of eight, of varying strength.
    Trials,
    /// Sinusoids, one a source.
    Rhythms,
    /// Levels that jump, all sources at once.
    Steps,
}

impl Input {
    pub(crate) const ALL: [Self; 7] = [
        Self::None,
        Self::White,
        Self::OrnsteinUhlenbeck,
        Self::Smooth,
        Self::Trials,
        Self::Rhythms,
        Self::Steps,
    ];

    /// Its name in tables.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::White => "white",
            Self::OrnsteinUhlenbeck => "ornstein_uhlenbeck",
            Self::Smooth => "smooth",
            Self::Trials => "trials",
            Self::Rhythms => "rhythms",
            Self::Steps => "steps",
        }
    }
}

/// Strength at the units, standard deviation: of white noise per root of a membrane time constant.
const STRENGTH: [f64; 2] = [0.1, 2.5];
/// Sources at most.
const SOURCES_MAX: usize = 24;
/// Memory of the Ornstein-Uhlenbeck process, and width of the Gaussian, seconds.
const MEMORY_S: [f64; 2] = [0.05, 0.8];
const WIDTH_S: [f64; 2] = [0.04, 0.3];
/// Length of a trial, seconds; its input fills this share of it.
const TRIAL_S: [f64; 2] = [1.0, 3.0];
const DRIVEN_SHARE: f64 = 0.75;
const COURSES: usize = 8;
/// Frequency of a sinusoid, and share of the rhythms that are harmonics of one.
const RHYTHM_HZ: [f64; 2] = [0.15, 6.0];
const HARMONIC_SHARE: f64 = 0.3;
/// Mean time at a level, seconds, and share of the inputs of one dwell throughout.
const DWELL_S: [f64; 2] = [0.2, 4.0];
const REGULAR_SHARE: f64 = 0.5;
/// Levels that inputs return to, where they return.
const LEVELS: std::ops::RangeInclusive<usize> = 2..=10;
const RETURNING_SHARE: f64 = 0.5;
/// A Gaussian ends after so many of its widths.
const GAUSSIAN_ENDS: f64 = 4.0;

/// An input over a whole recording.
pub(super) struct Drive {
    sources: usize,
    /// `U`, `[units, sources]`.
    pub(super) weights: Vec<f32>,
    /// `u`, `[steps, sources]`.
    course: Vec<f32>,
    /// Whether each step's is new: it then adds like noise does.
    pub(super) white: bool,
}

/// The sources in one step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Driven<'a> {
    /// `[units, sources]`.
    pub(super) weights: &'a [f32],
    /// `[sources]`.
    pub(super) now: &'a [f32],
    pub(super) white: bool,
}

impl Drive {
    pub(super) fn new(
        input: Input,
        units: usize,
        steps: usize,
        step_s: f64,
        rng: &mut ChaCha8Rng,
    ) -> Self {
        if input == Input::None {
            return Self { sources: 0, weights: Vec::new(), course: Vec::new(), white: false };
        }
        let most = match input {
            Input::Trials | Input::Rhythms | Input::Steps => 8,
            _ => SOURCES_MAX,
        };
        let sources = rng.random_range(1..=most);
        let strength = log_uniform(STRENGTH, rng) / (sources as f64).sqrt();
        let weights =
            normals(units * sources, rng).into_iter().map(|w| strength as f32 * w).collect();
        let course = match input {
            Input::OrnsteinUhlenbeck => {
                remembering(steps, sources, step_s / log_uniform(MEMORY_S, rng), rng)
            }
            Input::Smooth => smooth(steps, sources, log_uniform(WIDTH_S, rng) / step_s, rng),
            Input::Trials => trials(steps, sources, step_s, rng),
            Input::Rhythms => rhythms(steps, sources, step_s, rng),
            Input::Steps => jumps(steps, sources, step_s, rng),
            Input::White | Input::None => normals(steps * sources, rng),
        };
        Self { sources, weights, course, white: input == Input::White }
    }

    pub(super) fn at(&self, step: usize) -> Driven<'_> {
        let now = match self.sources {
            0 => &[],
            n => &self.course[step * n..(step + 1) * n],
        };
        Driven { weights: &self.weights, now, white: self.white }
    }
}

/// Of variance 1, with a correlation of `exp(-rate)` from step to step.
fn remembering(steps: usize, sources: usize, rate: f64, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let kept = (-rate).exp() as f32;
    let new = (1.0 - kept * kept).sqrt();
    let mut course = normals(steps * sources, rng);
    for t in sources..course.len() {
        course[t] = kept * course[t - sources] + new * course[t];
    }
    course
}

/// Of variance 1, smoothed with a Gaussian of a width in steps.
fn smooth(steps: usize, sources: usize, width: f64, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let reach = (GAUSSIAN_ENDS * width).ceil() as usize;
    let kernel: Vec<f32> = (0..=2 * reach)
        .map(|i| (-0.5 * ((i as f64 - reach as f64) / width).powi(2)).exp() as f32)
        .collect();
    let norm = kernel.iter().map(|k| k * k).sum::<f32>().sqrt();
    let white = normals((steps + 2 * reach) * sources, rng);
    let mut course = vec![0.0f32; steps * sources];
    for (t, row) in course.chunks_exact_mut(sources).enumerate() {
        for (k, white) in kernel.iter().zip(white[t * sources..].chunks_exact(sources)) {
            row.iter_mut().zip(white).for_each(|(x, w)| *x += k / norm * w);
        }
    }
    course
}

/// Trials of one length; a pause ends each.
fn trials(steps: usize, sources: usize, step_s: f64, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let length = (rng.random_range(TRIAL_S[0]..TRIAL_S[1]) / step_s) as usize;
    let width = log_uniform([0.06, 0.2], rng) / step_s;
    let mut courses: Vec<Vec<f32>> =
        (0..COURSES).map(|_| smooth(length, sources, width, rng)).collect();
    let driven = DRIVEN_SHARE * length as f64;
    for course in &mut courses {
        for (t, row) in course.chunks_exact_mut(sources).enumerate() {
            let window = (std::f64::consts::PI * (t as f64 / driven).min(1.0)).sin();
            row.iter_mut().for_each(|x| *x *= 1.5 * window as f32);
        }
    }
    let mut all = Vec::with_capacity((steps + length) * sources);
    while all.len() < steps * sources {
        let strength: f32 = rng.random_range(0.7..1.3);
        let course = &courses[rng.random_range(0..COURSES)];
        all.extend(course.iter().map(|x| strength * x));
    }
    all.truncate(steps * sources);
    all
}

/// Sinusoids of variance 1, each of a frequency and phase of its own, or all harmonics of one.
fn rhythms(steps: usize, sources: usize, step_s: f64, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let harmonic = rng.random_bool(HARMONIC_SHARE);
    let lowest = log_uniform(RHYTHM_HZ, rng);
    let of: Vec<[f64; 2]> = (0..sources)
        .map(|_| {
            let hz = match harmonic {
                true => lowest.min(RHYTHM_HZ[1] / 3.0) * f64::from(rng.random_range(1u8..4)),
                false => log_uniform(RHYTHM_HZ, rng),
            };
            [std::f64::consts::TAU * hz * step_s, rng.random_range(0.0..std::f64::consts::TAU)]
        })
        .collect();
    let at = |t: usize| {
        of.iter()
            .map(move |[turn, phase]| (t as f64 * turn + phase).sin() * std::f64::consts::SQRT_2)
    };
    (0..steps).flat_map(at).map(|x| x as f32).collect()
}

/// Levels of variance 1, drawn anew at each jump or from a few, after dwells of one length or of
/// many.
fn jumps(steps: usize, sources: usize, step_s: f64, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let dwell = log_uniform(DWELL_S, rng) / step_s;
    let regular = rng.random_bool(REGULAR_SHARE);
    let levels = match rng.random_bool(RETURNING_SHARE) {
        true => normals(rng.random_range(LEVELS) * sources, rng),
        false => Vec::new(),
    };
    let mut course = Vec::with_capacity(steps * sources);
    while course.len() < steps * sources {
        let level = match levels.len() / sources {
            0 => normals(sources, rng),
            n => {
                let at = rng.random_range(0..n) * sources;
                levels[at..at + sources].to_vec()
            }
        };
        let length = if regular { dwell } else { dwell * -(1.0 - rng.random::<f64>()).ln() };
        for _ in 0..(length.round() as usize).clamp(1, steps) {
            course.extend_from_slice(&level);
        }
    }
    course.truncate(steps * sources);
    course
}

/// Standard normal variates.
pub(super) fn normals(n: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    (0..n).map(|_| StandardNormal.sample(rng)).collect()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn inputs_have_variance_one_and_the_memory_they_are_called_for() {
        for (input, at_one_step) in [
            (Input::White, -0.05..0.05),
            (Input::OrnsteinUhlenbeck, 0.7..0.99),
            (Input::Smooth, 0.97..1.0),
            (Input::Trials, 0.97..1.0),
            (Input::Rhythms, 0.9..1.0),
            (Input::Steps, 0.9..1.0),
        ] {
            let mut rng = ChaCha8Rng::seed_from_u64(3);
            let drive = Drive::new(input, 10, 40_000, 0.01, &mut rng);
            let n = drive.sources;
            let product = |lag: usize| -> f32 {
                let later = drive.course[lag * n..].iter();
                later.zip(&drive.course).map(|(a, b)| a * b).sum::<f32>()
                    / (drive.course.len() - lag * n) as f32
            };
            let variance = product(0);
            assert!((0.6..1.4).contains(&variance), "{input:?}: {variance}");
            let correlation = product(1) / variance;
            assert!(at_one_step.contains(&correlation), "{input:?}: {correlation}");
        }
    }
}
