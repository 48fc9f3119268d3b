//! Animals whose regimes are known: what a recogniser learns from.

use std::ops::Range;

use ndarray::Array2;

use super::features::{FEATURES, Seen, others};
use super::recognition::{Looked, side_by_side, starts};
use super::scale::{Chances, STEP, WINDOW};
use super::session::{LEADING, Matrix, Vector};

/// Every so many windows are learned from.
const LEARNED_EVERY: usize = 4;
/// Label of a bin without one.
pub(super) const UNLABELLED: u8 = u8::MAX;
/// A window is learned from where so many of its bins have a label.
const LABELLED_SHARE: f32 = 0.5;
/// Values of a window as it looks.
const SEEN: usize = FEATURES + LEADING + LEADING * (LEADING + 1) / 2;
/// Values of a lesson before its pieces.
const HEAD: usize = 4;

/// What becomes of a lesson.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// It is learned from.
    Learned,
    /// It is learned from, and asked about where it was not.
    Asked,
}

/// One animal, as it looks and as it was.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Lesson {
    pub(super) looked: Looked,
    /// Regime of each bin, or [`UNLABELLED`].
    pub(super) labels: Vec<u8>,
}

impl Lesson {
    /// Of counts `[bins, channels]` in bins of [`super::BIN_S`], in pieces without a gap, and each
    /// bin's regime; `None` where they are too few.
    pub(crate) fn new(
        counts: &Array2<f32>,
        pieces: &[Range<usize>],
        regimes: &[Option<u8>],
        what: Use,
    ) -> Option<Self> {
        let every = if what == Use::Asked { 1 } else { LEARNED_EVERY };
        let labels = regimes.iter().map(|r| r.unwrap_or(UNLABELLED)).collect();
        Some(Self { looked: Looked::at(counts, pieces, every)?, labels })
    }

    /// Whether all of its windows are known, so that it can be asked about.
    pub(crate) fn asked(&self) -> bool {
        self.looked.every == 1
    }

    /// Whether the middle of a step has a label.
    pub(super) fn is_labelled(&self) -> bool {
        self.looked.pieces.iter().any(|p| middles(p).any(|bin| self.labels[bin] != UNLABELLED))
    }

    /// Of its windows, those learned from are so many apart.
    pub(super) fn stride(&self) -> usize {
        LEARNED_EVERY / self.looked.every
    }

    /// What is in each window that is learned from, and in each that others are compared with.
    pub(super) fn shares(&self, regimes: usize) -> (Vec<Option<Chances>>, Vec<Option<Chances>>) {
        let of = |bins: Range<usize>| self.shares_of(bins, regimes);
        let windows = self.looked.pieces.iter().flat_map(|piece| {
            starts(piece).step_by(LEARNED_EVERY).map(|from| of(from..from + WINDOW))
        });
        let neighbours = self.looked.pieces.iter().flat_map(side_by_side).map(of);
        (windows.collect(), neighbours.collect())
    }

    fn shares_of(&self, bins: Range<usize>, regimes: usize) -> Option<Chances> {
        let least = LABELLED_SHARE * bins.len() as f32;
        let mut shares = vec![0.0; regimes];
        for label in &self.labels[bins] {
            if let Some(share) = shares.get_mut(usize::from(*label)) {
                *share += 1.0;
            }
        }
        let sum: f32 = shares.iter().sum();
        shares.iter_mut().for_each(|s| *s /= sum.max(1.0));
        (sum >= least.max(1.0)).then_some(shares)
    }

    /// All of it as values, one after the other.
    pub(crate) fn to_values(&self) -> Vec<f32> {
        let Looked { pieces, every, windows, neighbours } = &self.looked;
        let mut out =
            vec![*every as f32, pieces.len() as f32, self.labels.len() as f32, SEEN as f32];
        debug_assert_eq!(out.len(), HEAD);
        out.extend(pieces.iter().flat_map(|p| [p.start as f32, p.end as f32]));
        out.extend(self.labels.iter().map(|l| f32::from(*l)));
        for seen in windows.iter().flatten().chain(neighbours) {
            out.extend(&seen.features);
            out.extend(seen.mean.iter().map(|x| *x as f32));
            let lower = (0..LEADING).flat_map(|i| (0..=i).map(move |k| (i, k)));
            out.extend(lower.map(|at| seen.covariance[at] as f32));
        }
        out
    }

    /// From the first of such values, and how many they were; `None` where they are no lesson's.
    pub(crate) fn from_values(values: &[f32]) -> Option<(Self, usize)> {
        let [every, n_pieces, bins, size] = *values.first_chunk::<HEAD>()?;
        let [every, n_pieces, bins] = [every, n_pieces, bins].map(|x| x as usize);
        if size as usize != SEEN || (every != 1 && every != LEARNED_EVERY) {
            return None;
        }
        let mut rest = values.get(HEAD..)?;
        let mut cut = |n: usize| {
            let (taken, left) = rest.split_at_checked(n)?;
            rest = left;
            Some(taken)
        };
        let ends = cut(n_pieces.checked_mul(2)?)?;
        let pieces: Vec<Range<usize>> =
            ends.as_chunks::<2>().0.iter().map(|[a, b]| *a as usize..*b as usize).collect();
        if pieces.iter().any(|p| p.end > bins) {
            return None;
        }
        let labels = cut(bins)?.iter().map(|l| *l as u8).collect();
        let beside: Vec<Range<usize>> = pieces.iter().flat_map(side_by_side).collect();
        let mut seen = |bins: Range<usize>| Some(seen(cut(SEEN)?, others(&bins, beside.iter())));
        let windows: Option<Vec<Vec<Seen>>> = pieces
            .iter()
            .map(|piece| {
                starts(piece).step_by(every).map(|from| seen(from..from + WINDOW)).collect()
            })
            .collect();
        let neighbours: Option<Vec<Seen>> = beside.iter().map(|bins| seen(bins.clone())).collect();
        let looked = Looked { pieces, every, windows: windows?, neighbours: neighbours? };
        let used = values.len() - rest.len();
        Some((Self { looked, labels }, used))
    }
}

/// The bin in the middle of each step of a piece.
pub(super) fn middles(piece: &Range<usize>) -> impl Iterator<Item = usize> {
    let (start, len) = (piece.start, piece.len());
    (0..len.div_ceil(STEP)).map(move |s| start + (s * STEP + STEP / 2).min(len - 1))
}

fn seen(values: &[f32], others: Vec<usize>) -> Seen {
    let (features, rest) = values.split_at(FEATURES);
    let (mean, lower) = rest.split_at(LEADING);
    let at = |i: usize, k: usize| {
        let (i, k) = if i < k { (k, i) } else { (i, k) };
        f64::from(lower[i * (i + 1) / 2 + k])
    };
    Seen {
        features: features.to_vec(),
        mean: Vector::from_iterator(mean.iter().map(|x| f64::from(*x))),
        covariance: Matrix::from_fn(at),
        others,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Channels that fire in turn, by what a bin's label is.
    fn lesson(what: Use) -> Lesson {
        let labels: Vec<Option<u8>> =
            (0..1400).map(|t| [Some(0), Some(1), None][t / 150 % 3]).collect();
        let count = |(t, c): (usize, usize)| ((t * 7 + c * 13 + t / 150 * c) % 5 % 3) as f32;
        let counts = Array2::from_shape_fn((1400, 12), count);
        Lesson::new(&counts, &[0..800, 810..1400], &labels, what).expect("a lesson")
    }

    #[test]
    fn a_lesson_is_the_same_after_its_values() {
        for what in [Use::Learned, Use::Asked] {
            let lesson = lesson(what);
            let mut values = lesson.to_values();
            let n = values.len();
            values.extend([1.0, 2.0]);
            let (again, used) = Lesson::from_values(&values).expect("a lesson");
            assert_eq!(used, n);
            assert_eq!(again.labels, lesson.labels);
            // In single precision.
            assert_eq!(again.to_values(), lesson.to_values());
            assert_eq!(again.looked.neighbours[3].others, lesson.looked.neighbours[3].others);
            assert!((0..n).step_by(97).all(|cut| Lesson::from_values(&values[..cut]).is_none()));
        }
    }

    #[test]
    fn the_same_windows_are_learned_from_whether_asked_about_or_not() {
        let [learned, asked] = [Use::Learned, Use::Asked].map(lesson);
        let (windows, neighbours) = learned.shares(2);
        assert_eq!((windows.clone(), neighbours.clone()), asked.shares(2));
        assert_eq!(neighbours.len(), learned.looked.neighbours.len());
        assert_eq!(windows.len(), learned.looked.windows.iter().flatten().count());
        let strided = asked.looked.windows.iter().flat_map(|w| w.iter().step_by(asked.stride()));
        let features = |seen: &Seen| seen.features.clone();
        assert_eq!(
            strided.map(features).collect::<Vec<_>>(),
            learned.looked.windows.iter().flatten().map(features).collect::<Vec<_>>()
        );
        // The first 150 bins have label 0, the third 150 none.
        assert_eq!(windows[0], Some(vec![1.0, 0.0]));
        assert!(windows.iter().any(Option::is_none));
    }
}
