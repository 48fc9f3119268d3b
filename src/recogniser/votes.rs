//! What the other windows of the session tell of one: what similar ones were taken for, and how far
//! out those lie.

use super::features::Seen;
use super::scale::{Chances, REGIMES};
use super::session::{Matrix, Vector};

/// Ways in which two windows are similar.
const WAYS: usize = 6;
/// Without a vote, what the session shows on the whole counts as so many.
const PRIOR: f64 = 0.3;
/// Variances below this are none.
const LEAST: f64 = 0.01;

/// Regimes that stay somewhere, whose distance from the middle others are compared with, and those
/// that move, whose size is.
const STAYING: [usize; 3] = [0, 1, 3];
const MOVING: [usize; 2] = [2, 4];
/// Distances and sizes are no smaller when something is divided by them.
const SHORTEST: f64 = 0.05;
const SMALLEST: f64 = 0.02;
const RATIO_MAX: f64 = 20.0;

/// Values that [`Company::tell`] adds.
pub(super) const TOLD: usize =
    WAYS * (REGIMES + 1) + REGIMES + 3 * STAYING.len() + 2 * MOVING.len() + 1;

/// The windows that others are compared with.
pub(super) struct Company<'a> {
    pub(super) seen: &'a [Seen],
    /// What a first stage takes them for.
    pub(super) chances: Vec<Chances>,
}

impl Company<'_> {
    /// Adds what they tell of a window.
    pub(super) fn tell(&self, window: &Seen, out: &mut Vec<f32>) {
        votes(window, self.seen, &self.chances, out);
        stature(window, self.seen, &self.chances, out);
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

/// Means of the other windows' chances by similarity, how much voted each time, and the mean over
/// the session.
fn votes(window: &Seen, session: &[Seen], chances: &[Chances], out: &mut Vec<f32>) {
    let mut whole = [0.0f64; REGIMES];
    for of in chances {
        whole.iter_mut().zip(of).for_each(|(w, c)| *w += f64::from(*c) / chances.len() as f64);
    }
    let (mut sums, mut totals) = ([[0.0f64; REGIMES]; WAYS], [0.0f64; WAYS]);
    for &other in &window.others {
        let kernels = similar(window, &session[other]);
        for ((sum, total), kernel) in sums.iter_mut().zip(&mut totals).zip(kernels) {
            *total += kernel;
            sum.iter_mut().zip(&chances[other]).for_each(|(s, c)| *s += kernel * f64::from(*c));
        }
    }
    for (sum, total) in sums.iter().zip(totals) {
        let vote = |(s, w): (&f64, &f64)| ((s + PRIOR * w) / (total + PRIOR)) as f32;
        out.extend(sum.iter().zip(&whole).map(vote));
        out.push(total.ln_1p() as f32);
    }
    out.extend(whole.map(|w| w as f32));
}

/// How far from the middle the window lies, beside what was taken for each regime; how far those
/// lie; and how well its direction is that of theirs. A point that an input holds lies where the
/// input says, one of two stable points and a ring as far out as recurrence drives them.
fn stature(window: &Seen, session: &[Seen], chances: &[Chances], out: &mut Vec<f32>) {
    let size = |seen: &Seen| seen.covariance.trace().max(LEAST * LEAST).sqrt();
    let mean = |regime: usize, of: &dyn Fn(&Seen) -> f64| {
        let (mut sum, mut weights) = (0.0, PRIOR);
        for &other in &window.others {
            let weight = f64::from(chances[other][regime]);
            sum += weight * of(&session[other]);
            weights += weight;
        }
        sum / weights
    };
    let own = window.mean.norm();
    let ratio = |to: f64| (own / to).min(RATIO_MAX).ln_1p() as f32;
    let distances = STAYING.map(|r| mean(r, &|seen| seen.mean.norm()));
    let sizes = MOVING.map(|r| mean(r, &size));
    out.extend(distances.map(|d| ratio(d.max(SHORTEST))));
    out.extend(sizes.map(|s| ratio(s.max(SMALLEST))));
    out.push(ratio(1.0));
    out.extend(distances.map(|d| d as f32));
    out.extend(sizes.map(|s| s as f32));
    for regime in STAYING {
        let shadow = |seen: &Seen| seen.mean.dot(&window.mean).powi(2) / (own * own).max(1e-6);
        let all = mean(regime, &|seen| seen.mean.norm_squared());
        out.push((mean(regime, &shadow) / all.max(1e-6)) as f32);
    }
}
