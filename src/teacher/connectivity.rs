//! Connectivities of the ensemble's networks.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// How a network is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Architecture {
    /// Normal weights, some partly symmetric or sparse (Sompolinsky, Crisanti & Sommers 1988).
    Random,
    /// Normal weights and a structure of rank 1 to 4 (Mastrogiuseppe & Ostojic 2018).
    LowRank,
    /// Excitatory and inhibitory units, sparse, balanced (Rajan & Abbott 2006).
    SparseExcitatoryInhibitory,
    /// Weak random weights and a structure for a point, two points, a cycle or a ring; or strong
    /// random weights.
    Structured,
}

impl Architecture {
    pub(crate) const ALL: [Self; 4] =
        [Self::Random, Self::LowRank, Self::SparseExcitatoryInhibitory, Self::Structured];

    /// Its name in tables.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::LowRank => "low_rank",
            Self::SparseExcitatoryInhibitory => "sparse_ei",
            Self::Structured => "structured",
        }
    }
}

/// Of the random connectivities, shares that are partly symmetric, and sparse.
const SYMMETRIC_SHARE: f64 = 0.25;
const SPARSE_SHARE: f64 = 0.15;
/// Probability of a connection of the sparse ones.
const DENSITY: f64 = 0.2;
/// The same of excitatory and inhibitory networks.
const EI_DENSITY: [f64; 2] = [0.1, 0.3];
/// Share of excitatory units, and how much stronger an inhibitory one is.
const EXCITATORY_SHARE: f64 = 0.8;
const INHIBITION: f64 = 4.0;
/// Share of the structures of several dimensions that turn.
const TURNING_SHARE: f64 = 0.6;
/// Products with a random vector from which a spectral radius is read off.
const RADIUS_STEPS: usize = 300;

/// `J`, `[units, units]`, row by row.
pub(super) fn connectivity(
    architecture: Architecture,
    units: usize,
    gain: f64,
    rng: &mut ChaCha8Rng,
) -> Vec<f32> {
    match architecture {
        Architecture::Random => scaled(random(units, rng), gain),
        Architecture::LowRank => {
            let rank = rng.random_range(1..5);
            let a = latent(rank, rng);
            with_structure(scaled(random(units, rng), gain), units, &a, rng)
        }
        Architecture::SparseExcitatoryInhibitory => {
            let weights = excitatory_inhibitory(units, rng);
            let radius = spectral_radius(&weights, units, rng);
            scaled(weights, gain / radius)
        }
        Architecture::Structured => {
            let (gain, a) = structured(rng);
            with_structure(scaled(random(units, rng), gain), units, &a, rng)
        }
    }
}

fn scaled(mut weights: Vec<f32>, by: f64) -> Vec<f32> {
    weights.iter_mut().for_each(|w| *w *= by as f32);
    weights
}

fn normal(rng: &mut ChaCha8Rng) -> f64 {
    StandardNormal.sample(rng)
}

/// Weights of variance 1/units.
fn random(units: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let scale = 1.0 / (units as f64).sqrt();
    let mut w: Vec<f32> = (0..units * units).map(|_| (scale * normal(rng)) as f32).collect();
    if rng.random_bool(SYMMETRIC_SHARE) {
        let share: f64 = rng.random_range(-0.4..0.4);
        let [same, opposite] = [share, -share].map(|s| ((1.0 + s) / 2.0).sqrt() as f32);
        for i in 0..units {
            for j in 0..i {
                let (a, b) = (w[i * units + j], w[j * units + i]);
                let half = std::f32::consts::FRAC_1_SQRT_2;
                let (s, k) = (same * half * (a + b), opposite * half * (a - b));
                w[i * units + j] = s + k;
                w[j * units + i] = s - k;
            }
        }
    }
    if rng.random_bool(SPARSE_SHARE) {
        let up = (1.0 / DENSITY.sqrt()) as f32;
        w.iter_mut().for_each(|w| *w = if rng.random_bool(DENSITY) { *w * up } else { 0.0 });
    }
    w
}

/// `A [rank][rank]` of a structure that attracts, or turns.
fn latent(rank: usize, rng: &mut ChaCha8Rng) -> Vec<Vec<f64>> {
    let mut a = vec![vec![0.0; rank]; rank];
    for (i, row) in a.iter_mut().enumerate() {
        row[i] = rng.random_range(0.2..if rank == 1 { 2.4 } else { 2.2 });
    }
    if rank > 1 && rng.random_bool(TURNING_SHARE) {
        let (growth, turn) = (rng.random_range(0.5..2.2), rng.random_range(0.3..3.0));
        (a[0][0], a[1][1], a[0][1], a[1][0]) = (growth, growth, turn, -turn);
    }
    a
}

/// Gain of the random part, and `A`, of a regime.
fn structured(rng: &mut ChaCha8Rng) -> (f64, Vec<Vec<f64>>) {
    let mut a = vec![vec![0.0; 2]; 2];
    let regime = rng.random_range(0..5);
    match regime {
        1 => a[0][0] = rng.random_range(1.6..2.4),
        2 => {
            let (growth, turn) = (rng.random_range(1.5..2.2), rng.random_range(0.6..3.0));
            (a[0][0], a[1][1], a[0][1], a[1][0]) = (growth, growth, turn, -turn);
        }
        3 => {
            let growth = rng.random_range(1.5..2.2);
            (a[0][0], a[1][1]) = (growth, growth);
        }
        _ => {}
    }
    let gain = match regime {
        0 => rng.random_range(0.3..0.8),
        4 => rng.random_range(1.6..2.4),
        _ => rng.random_range(0.2..0.6),
    };
    (gain, a)
}

/// Adds `M A M^T`, the columns of `M` orthonormal.
fn with_structure(
    mut weights: Vec<f32>,
    units: usize,
    a: &[Vec<f64>],
    rng: &mut ChaCha8Rng,
) -> Vec<f32> {
    let rank = a.len();
    let drawn = nalgebra::DMatrix::from_fn(units, rank, |_, _| normal(rng));
    let m = drawn.qr().q();
    let a = nalgebra::DMatrix::from_fn(rank, rank, |i, j| a[i][j]);
    let structure = &m * a * m.transpose();
    for (i, row) in weights.chunks_exact_mut(units).enumerate() {
        row.iter_mut().zip(structure.row(i).iter()).for_each(|(w, s)| *w += *s as f32);
    }
    weights
}

/// Log-normal weights of either sign by the sending unit; each unit's sum to 0.
fn excitatory_inhibitory(units: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let density = rng.random_range(EI_DENSITY[0]..EI_DENSITY[1]);
    let excitatory = (EXCITATORY_SHARE * units as f64) as usize;
    let mut w = vec![0.0f32; units * units];
    for row in w.chunks_exact_mut(units) {
        for (j, w) in row.iter_mut().enumerate() {
            if rng.random_bool(density) {
                let strength = (0.5 * normal(rng)).exp();
                *w = (if j < excitatory { strength } else { -INHIBITION * strength }) as f32;
            }
        }
        let present = row.iter().filter(|w| **w != 0.0).count().max(1) as f32;
        let mean = row.iter().sum::<f32>() / present;
        row.iter_mut().filter(|w| **w != 0.0).for_each(|w| *w -= mean);
    }
    w
}

/// How much a random vector grows by each product, in the long run.
fn spectral_radius(weights: &[f32], units: usize, rng: &mut ChaCha8Rng) -> f64 {
    let mut v: Vec<f64> = (0..units).map(|_| normal(rng)).collect();
    let (mut grown, mut counted) = (0.0, 0);
    for step in 0..RADIUS_STEPS {
        let next: Vec<f64> = weights
            .chunks_exact(units)
            .map(|row| row.iter().zip(&v).map(|(w, v)| f64::from(*w) * v).sum())
            .collect();
        let norm = next.iter().map(|x: &f64| x * x).sum::<f64>().sqrt().max(1e-300);
        if step >= RADIUS_STEPS / 3 {
            grown += norm.ln();
            counted += 1;
        }
        v = next.into_iter().map(|x| x / norm).collect();
    }
    (grown / f64::from(counted)).exp()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn gains_are_spectral_radii() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for architecture in [Architecture::Random, Architecture::SparseExcitatoryInhibitory] {
            for gain in [0.5, 2.0] {
                let w = connectivity(architecture, 200, gain, &mut rng);
                let matrix =
                    nalgebra::DMatrix::from_row_iterator(200, 200, w.iter().map(|w| f64::from(*w)));
                let radius =
                    matrix.complex_eigenvalues().iter().map(|e| e.norm()).fold(0.0, f64::max);
                // A partly symmetric one is longer along the real axis.
                assert!((0.8..1.5).contains(&(radius / gain)), "{architecture:?}: {radius}");
            }
        }
    }

    #[test]
    fn a_structure_has_its_own_eigenvalues() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let a = vec![vec![1.5, 0.8], vec![-0.8, 1.5]];
        let w = with_structure(vec![0.0; 80 * 80], 80, &a, &mut rng);
        let matrix = nalgebra::DMatrix::from_row_iterator(80, 80, w.iter().map(|w| f64::from(*w)));
        let mut found: Vec<(f64, f64)> =
            matrix.complex_eigenvalues().iter().map(|e| (e.re, e.im.abs())).collect();
        found.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (re, im) in &found[..2] {
            assert!((re - 1.5).abs() < 1e-4 && (im - 0.8).abs() < 1e-4, "{found:?}");
        }
        assert!(found[2].0.abs() < 1e-4);
    }
}
