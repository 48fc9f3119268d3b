//! How far what is said of a whole part is to be believed: animals unlike those that were learned
//! from are told worse than their windows' chances say.

use nalgebra::{DMatrix, DVector};

use super::scale::Chances;

/// What is known of a part before its regimes are: mean largest chance over time and over windows,
/// how far the first stage says the same as the last, log share of features beyond those learned
/// from, and evenness of the regimes.
const KNOWN: usize = 5;
/// Those, their squares and 1.
pub(super) const TERMS: usize = 2 * KNOWN + 1;
/// Fewer parts teach nothing.
const PARTS_MIN: usize = 60;
/// Of a standard deviation in a part: what the squares of the weights are held down with.
const RIDGE: f64 = 1e-3;
/// A share of features is no smaller.
const SHARE_MIN: f64 = 1e-3;
/// Nothing is believed more than this.
const MOST: f64 = 0.995;
/// Powers that chances are raised to.
const POWERS: [f64; 2] = [0.05, 4.0];
/// Steps of the bisection.
const STEPS: usize = 30;

/// What the stages show of a part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Shown {
    /// Mean over windows of the chance that the first and the last stage mean the same regime.
    pub(super) agreement: f64,
    /// Share of the windows' features beyond those that were learned from.
    pub(super) beyond: f64,
}

fn largest(of: &[f32]) -> f64 {
    f64::from(of.iter().copied().fold(0.0, f32::max))
}

fn mean(of: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = of.fold((0.0, 0usize), |(sum, n), x| (sum + x, n + 1));
    sum / n.max(1) as f64
}

/// Terms of a part, given its windows' chances and its course.
fn terms(shown: Shown, windows: &[Vec<Chances>], course: &[Vec<Chances>]) -> [f64; TERMS] {
    let all = || course.iter().flatten();
    let regimes = all().next().map_or(2, Vec::len);
    let shares = (0..regimes).map(|k| mean(all().map(|c| f64::from(c[k]))));
    let entropy: f64 = shares.map(|p| -p * p.max(1e-9).ln()).sum();
    let known: [f64; KNOWN] = [
        mean(all().map(|c| largest(c))),
        mean(windows.iter().flatten().map(|c| largest(c))),
        shown.agreement,
        (shown.beyond.max(SHARE_MIN) / SHARE_MIN).ln() / 5.0,
        entropy / (regimes as f64).ln(),
    ];
    std::array::from_fn(|i| match i {
        0 => 1.0,
        i if i <= KNOWN => known[i - 1],
        i => known[i - 1 - KNOWN].powi(2),
    })
}

/// The share of a part that is right, expected of its terms.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Trust(Option<[f64; TERMS]>);

/// A part that was asked about: its terms, and the share that was right.
pub(super) type Asked = ([f64; TERMS], f64);

/// A part's terms, before anything is changed.
pub(super) fn asked(
    shown: Shown,
    windows: &[Vec<Chances>],
    course: &[Vec<Chances>],
    right: f64,
) -> Asked {
    (terms(shown, windows, course), right)
}

impl Trust {
    /// Least squares over parts that were asked about; chances stay as they are where these are
    /// too few.
    pub(super) fn of<'a>(parts: impl Iterator<Item = &'a Asked>) -> Self {
        let parts: Vec<&Asked> = parts.collect();
        if parts.len() < PARTS_MIN {
            return Self(None);
        }
        let rows = DMatrix::from_fn(parts.len(), TERMS, |r, c| parts[r].0[c]);
        let right = DVector::from_iterator(parts.len(), parts.iter().map(|p| p.1));
        let held = DMatrix::identity(TERMS, TERMS) * (RIDGE * parts.len() as f64);
        let solved = (rows.transpose() * &rows + held)
            .cholesky()
            .map(|of| of.solve(&(rows.transpose() * right)));
        Self(solved.map(|w| std::array::from_fn(|i| w[i])))
    }

    /// Raises the chances of a part to the power with which the largest ones are as high on average
    /// as the share that is expected to be right.
    pub(super) fn apply(
        &self,
        shown: Shown,
        windows: &[Vec<Chances>],
        course: &mut [Vec<Chances>],
    ) {
        let Some(weights) = &self.0 else { return };
        let terms = terms(shown, windows, course);
        let least = 1.0 / course.iter().flatten().next().map_or(2.0, |c| c.len() as f64);
        let expected: f64 = weights.iter().zip(terms).map(|(w, t)| w * t).sum();
        let expected = expected.clamp(least + 0.01, MOST);
        let [mut low, mut high] = POWERS.map(f64::ln);
        for _ in 0..STEPS {
            let middle = 0.5 * (low + high);
            let power = middle.exp() as f32;
            let said = mean(course.iter().flatten().map(|c| largest(&raised(c, power))));
            if said < expected { low = middle } else { high = middle }
        }
        let power = (0.5 * (low + high)).exp() as f32;
        course.iter_mut().flatten().for_each(|c| *c = raised(c, power));
    }

    /// As an array.
    pub(super) fn values(&self) -> Vec<f32> {
        self.0.map_or_else(Vec::new, |w| w.iter().map(|x| *x as f32).collect())
    }

    /// From one of [`TERMS`] values, or of none.
    pub(super) fn from_values(values: &[f32]) -> Self {
        Self(<[f32; TERMS]>::try_from(values).ok().map(|w| w.map(f64::from)))
    }
}

fn raised(chances: &[f32], power: f32) -> Chances {
    let top = chances.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
    let mut out: Chances = chances.iter().map(|c| (c / top).powf(power)).collect();
    let sum: f32 = out.iter().sum();
    out.iter_mut().for_each(|c| *c /= sum);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A part whose chances are so sure, of two regimes in turn, with so many features beyond.
    fn part(sure: f32, beyond: f64) -> (Shown, Vec<Vec<Chances>>) {
        let one = |i: usize| {
            if i.is_multiple_of(2) { vec![sure, 1.0 - sure] } else { vec![1.0 - sure, sure] }
        };
        (Shown { agreement: 0.8, beyond }, vec![(0..40).map(one).collect()])
    }

    #[test]
    fn parts_unlike_those_learned_from_are_believed_less_and_the_order_of_chances_stays() {
        let parts: Vec<Asked> = (0..200)
            .map(|i| {
                let strange = i % 2 == 1;
                let (shown, of) = part(0.8 + 0.0005 * i as f32, if strange { 0.1 } else { 0.002 });
                asked(shown, &of, &of, if strange { 0.6 } else { 0.9 })
            })
            .collect();
        let trust = Trust::of(parts.iter());
        for (beyond, expected) in [(0.1, 0.6), (0.002, 0.9)] {
            let (shown, of) = part(0.85, beyond);
            let mut course = of.clone();
            trust.apply(shown, &of, &mut course);
            for (before, after) in of[0].iter().zip(&course[0]) {
                assert_eq!(before[0] > before[1], after[0] > after[1]);
                assert!((after.iter().sum::<f32>() - 1.0).abs() < 1e-5);
                assert!((largest(after) - expected).abs() < 0.03, "{after:?} for {expected}");
            }
        }
        let again = Trust::from_values(&trust.values());
        assert!(again.0.is_some() && Trust::from_values(&[]).0.is_none());
        let few = Trust::of(parts[..20].iter());
        let (shown, of) = part(0.85, 0.1);
        let mut course = of.clone();
        few.apply(shown, &of, &mut course);
        assert_eq!(course, of);
    }
}
