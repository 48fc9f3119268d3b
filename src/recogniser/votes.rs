//! What the other windows of the session tell of one: what similar ones were taken for, and how far
//! out those lie.

use super::features::Seen;
use super::scale::Chances;
use super::session::{Matrix, Vector};

/// Ways in which two windows are similar.
const WAYS: usize = 6;
/// Without a vote, what the session shows on the whole counts as so many.
const PRIOR: f64 = 0.3;
/// Variances below this are none.
const LEAST: f64 = 0.01;

/// Distances and sizes are no smaller when something is divided by them.
const SHORTEST: f64 = 0.05;
const SMALLEST: f64 = 0.02;
const RATIO_MAX: f64 = 20.0;

/// What distances and sizes tell of each regime.
const STATURE: usize = 7;

/// Values that [`Company::tell`] adds for so many regimes.
pub(super) fn told(regimes: usize) -> usize {
    WAYS * (regimes + 1) + regimes + STATURE * regimes + 1
}

/// The windows that others are compared with.
pub(super) struct Company<'a> {
    pub(super) seen: &'a [Seen],
    /// What the stage before takes them for.
    pub(super) chances: &'a [Chances],
    pub(super) regimes: usize,
}

impl Company<'_> {
    /// Adds what they tell of a window.
    pub(super) fn tell(&self, window: &Seen, out: &mut Vec<f32>) {
        self.votes(window, out);
        self.stature(window, out);
    }

    /// Means of the other windows' chances by similarity, how much voted each time, and the mean
    /// over the session.
    fn votes(&self, window: &Seen, out: &mut Vec<f32>) {
        let n = self.regimes;
        let mut whole = vec![0.0f64; n];
        let share = 1.0 / self.chances.len().max(1) as f64;
        for of in self.chances {
            whole.iter_mut().zip(of).for_each(|(w, c)| *w += f64::from(*c) * share);
        }
        let (mut sums, mut totals) = (vec![0.0f64; WAYS * n], [0.0f64; WAYS]);
        for &other in &window.others {
            let kernels = similar(window, &self.seen[other]);
            for ((sum, total), kernel) in sums.chunks_exact_mut(n).zip(&mut totals).zip(kernels) {
                *total += kernel;
                let of = &self.chances[other];
                sum.iter_mut().zip(of).for_each(|(s, c)| *s += kernel * f64::from(*c));
            }
        }
        for (sum, total) in sums.chunks_exact(n).zip(totals) {
            let vote = |(s, w): (&f64, &f64)| ((s + PRIOR * w) / (total + PRIOR)) as f32;
            out.extend(sum.iter().zip(&whole).map(vote));
            out.push(total.ln_1p() as f32);
        }
        out.extend(whole.into_iter().map(|w| w as f32));
    }

    /// How far from the middle the window lies and how large its course is, beside what was taken
    /// for each regime; how far and large those are; and how well its direction is that of theirs.
    /// A point that an input holds lies where the input says, one of two stable points and a ring
    /// as far out as recurrence drives them.
    fn stature(&self, window: &Seen, out: &mut Vec<f32>) {
        let size = |seen: &Seen| seen.covariance.trace().max(LEAST * LEAST).sqrt();
        let own = window.mean.norm();
        let ratio = |of: f64, to: f64| (of / to).min(RATIO_MAX).ln_1p() as f32;
        out.push(ratio(own, 1.0));
        for regime in 0..self.regimes {
            let [mut far, mut large, mut shadows, mut squares] = [0.0; 4];
            let mut weights = PRIOR;
            for &other in &window.others {
                let (seen, weight) = (&self.seen[other], f64::from(self.chances[other][regime]));
                weights += weight;
                far += weight * seen.mean.norm();
                large += weight * size(seen);
                squares += weight * seen.mean.norm_squared();
                shadows += weight * seen.mean.dot(&window.mean).powi(2);
            }
            let [far, large, square] = [far, large, squares].map(|sum| sum / weights);
            out.extend([
                ratio(own, far.max(SHORTEST)),
                ratio(own, large.max(SMALLEST)),
                ratio(size(window), large.max(SMALLEST)),
                far as f32,
                large as f32,
                ((square - far * far).max(0.0).sqrt() / far.max(SHORTEST)) as f32,
                (shadows / (own * own).max(1e-6) / squares.max(1e-6)) as f32,
            ]);
        }
    }
}

/// Cosine of the angle between two lines.
fn along(a: &Vector, b: &Vector) -> f64 {
    (a.dot(b) / a.norm().max(1e-6) / b.norm().max(1e-6)).abs()
}

fn unit(matrix: &Matrix) -> Matrix {
    matrix / matrix.norm().max(1e-6)
}

/// Kernels: near, very near, opposite, of the same shape and size, along the same line, near and of
/// the same shape.
fn similar(a: &Seen, b: &Seen) -> [f64; WAYS] {
    let (apart, across) = ((a.mean - b.mean).norm_squared(), (a.mean + b.mean).norm_squared());
    let alike = unit(&a.covariance).dot(&unit(&b.covariance)).clamp(-1.0, 1.0);
    let size = |m: &Matrix| m.trace().max(LEAST).ln();
    let larger = size(&a.covariance) - size(&b.covariance);
    [
        (-apart / 0.3).exp(),
        (-apart / 0.06).exp(),
        (-across / 0.3).exp(),
        (-(1.0 - alike) / 0.15).exp() * (-larger * larger / 0.5).exp(),
        (-(1.0 - along(&a.mean, &b.mean)) / 0.1).exp() * b.mean.norm().min(1.0),
        (-apart / 0.3 - (1.0 - alike) / 0.15).exp(),
    ]
}
