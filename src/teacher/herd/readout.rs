//! Rates of channels from what they follow.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use super::super::draws::log_uniform;
use super::family::Family;

/// Share of the animals with another readout than their family's usual one.
const OTHER_SHARE: f64 = 0.3;

/// How rates depend on `x`.
#[derive(Debug, Clone, Copy)]
enum Shape {
    /// `base + height / (1 + exp(-slope x))`.
    Sigmoid { slope: f32 },
    /// `exp(base + height x)`.
    LogLinear,
    /// `base + height max(x - threshold, 0)`.
    Rectified { threshold: f32 },
}

pub(super) struct Readout {
    shape: Shape,
    base: Vec<f32>,
    height: Vec<f32>,
}

impl Readout {
    pub(super) fn new(family: Family, channels: usize, rng: &mut ChaCha8Rng) -> Self {
        let usual = match family {
            Family::Orthonormal => 0,
            Family::Turned | Family::NormalForms => 1,
            Family::Populations => 2,
        };
        let chosen = if rng.random_bool(OTHER_SHARE) { rng.random_range(0..3) } else { usual };
        let mut drawn = |low: f64, high: f64| -> Vec<f32> {
            (0..channels).map(|_| rng.random_range(low..high) as f32).collect()
        };
        if chosen == 1 {
            let mut normal = |scale: f64| -> Vec<f32> {
                (0..channels)
                    .map(|_| {
                        let x: f64 = StandardNormal.sample(rng);
                        (scale * x) as f32
                    })
                    .collect()
            };
            let (base, spread) = (normal(0.5), normal(0.2));
            let strength = log_uniform([0.45, 1.2], rng) as f32;
            let height = spread.iter().map(|s| strength * s.exp()).collect();
            return Self { shape: Shape::LogLinear, base, height };
        }
        let (base, height) = (drawn(1.0, 4.0), drawn(10.0, 40.0));
        let strength = log_uniform([0.5, 1.6], rng) as f32;
        let height = height.into_iter().map(|h| strength * h).collect();
        let shape = match chosen {
            0 => Shape::Sigmoid { slope: rng.random_range(0.9..2.2) },
            _ => Shape::Rectified { threshold: rng.random_range(-0.6..0.1) },
        };
        Self { shape, base, height }
    }

    /// Up to a factor, `[channels]`.
    pub(super) fn rates(&self, observed: &[f32], rates: &mut [f32]) {
        let of = self.base.iter().zip(&self.height).zip(observed);
        for (rate, ((base, height), x)) in rates.iter_mut().zip(of) {
            *rate = match self.shape {
                Shape::Sigmoid { slope } => base + height / (1.0 + (-slope * x).exp()),
                Shape::LogLinear => (base + height * x.clamp(-1.5, 1.5)).exp(),
                Shape::Rectified { threshold } => base + height * (x - threshold).max(0.0),
            };
        }
    }
}
