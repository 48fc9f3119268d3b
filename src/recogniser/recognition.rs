//! The two stages, and what becomes of a recording.

use std::collections::HashMap;
use std::ops::Range;

use ndarray::{Array2, Axis};

use super::course::{Pace, smoothed};
use super::features::{FEATURES, Seen, look};
use super::scale::{
    CHANNELS_MIN, COUNT_MIN, Chances, NEIGHBOUR, PART, PART_MIN, REGIMES, STEP, WINDOW,
};
use super::session::Session;
use super::votes::{Company, TOLD};
use crate::learner::{ArraysFault, Network, Scaling, networks_from, networks_to, take};

/// Inputs of the second stage.
pub(super) const SECOND: usize = FEATURES + REGIMES + TOLD;

/// Tells regimes by how they look beside each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Recogniser {
    pub(super) scaling: Scaling,
    /// From a window's features.
    pub(super) first: Vec<Network>,
    /// From the same, and what similar windows were taken for.
    pub(super) second: Vec<Network>,
    pub(super) pace: Pace,
}

/// A piece of a recording, and the regimes in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Recognised {
    /// Bins of [`BIN_S`].
    pub bins: Range<usize>,
    /// Probabilities of the regimes, a step of [`STEP`] bins each.
    steps: Vec<Chances>,
}

impl Recognised {
    /// Probabilities in a bin.
    #[must_use]
    pub fn at(&self, bin: usize) -> Chances {
        self.steps[(bin - self.bins.start) / STEP]
    }
}

/// A part's windows as they look.
pub(super) struct Looked {
    /// Pieces without a gap, by their bins in the part.
    pub(super) pieces: Vec<Range<usize>>,
    /// Of each piece, its windows.
    pub(super) windows: Vec<Vec<Seen>>,
    pub(super) neighbours: Vec<Seen>,
}

/// Where windows of a piece begin.
pub(super) fn starts(piece: &Range<usize>) -> impl Iterator<Item = usize> {
    (piece.start..(piece.end + 1).saturating_sub(WINDOW)).step_by(STEP)
}

impl Looked {
    /// Of counts `[bins, channels]`; `None` where they are too few.
    pub(super) fn at(counts: &Array2<f32>, pieces: &[Range<usize>]) -> Option<Self> {
        let pieces: Vec<Range<usize>> =
            pieces.iter().filter(|p| p.len() >= WINDOW).cloned().collect();
        let neighbours: Vec<Range<usize>> = pieces.iter().flat_map(side_by_side).collect();
        if pieces.iter().map(ExactSizeIterator::len).sum::<usize>() < PART_MIN {
            return None;
        }
        let fires = |c: &usize| {
            let of = counts.column(*c);
            of.sum() >= COUNT_MIN * of.len() as f32
        };
        let kept: Vec<usize> = (0..counts.ncols()).filter(fires).collect();
        if kept.len() < CHANNELS_MIN {
            return None;
        }
        let session = Session::new(counts.select(Axis(1), &kept), &pieces, neighbours);
        let windows = |piece: &Range<usize>| {
            starts(piece).map(|from| look(&session, from..from + WINDOW)).collect()
        };
        Some(Self {
            windows: pieces.iter().map(windows).collect(),
            neighbours: session.windows.iter().map(|w| look(&session, w.bins.clone())).collect(),
            pieces,
        })
    }
}

/// Windows of about [`NEIGHBOUR`] bins that fill a piece.
pub(super) fn side_by_side(piece: &Range<usize>) -> Vec<Range<usize>> {
    let n = (piece.len() as f64 / NEIGHBOUR as f64).round().max(1.0) as usize;
    let at = |i: usize| piece.start + piece.len() * i / n;
    (0..n).map(|i| at(i)..at(i + 1)).collect()
}

pub(super) fn mean_chances(networks: &[Network], row: &[f32]) -> Chances {
    let mut mean = [0.0f32; REGIMES];
    for network in networks {
        let outputs = network.predict(row);
        let top = outputs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = outputs.iter().map(|o| (o - top).exp()).sum();
        let share = 1.0 / (sum * networks.len() as f32);
        mean.iter_mut().zip(&outputs).for_each(|(m, o)| *m += (o - top).exp() * share);
    }
    mean
}

impl Recogniser {
    /// Regimes of counts `[bins, channels]` in bins of [`BIN_S`], in pieces without a gap. Pieces
    /// shorter than a window, and parts too short to compare anything in, are left out.
    #[must_use]
    pub fn recognise(&self, counts: &Array2<f32>, pieces: &[Range<usize>]) -> Vec<Recognised> {
        parts(pieces).iter().flat_map(|part| self.part(counts, part)).collect()
    }

    fn part(&self, counts: &Array2<f32>, pieces: &[Range<usize>]) -> Vec<Recognised> {
        let rows: Vec<usize> = pieces.iter().flat_map(Clone::clone).collect();
        let counts = counts.select(Axis(0), &rows);
        let mut inside = Vec::new();
        let mut from = 0;
        for piece in pieces {
            inside.push(from..from + piece.len());
            from += piece.len();
        }
        let Some(looked) = Looked::at(&counts, &inside) else { return Vec::new() };
        let found = self.judge(&looked);
        let bins = |of: &Range<usize>| {
            let at = inside.iter().position(|p| p == of).unwrap_or(0);
            pieces[at].clone()
        };
        let of = |(piece, steps)| Recognised { bins: bins(piece), steps };
        looked.pieces.iter().zip(found).map(of).collect()
    }

    /// Probabilities at each step of each piece.
    fn judge(&self, looked: &Looked) -> Vec<Vec<Chances>> {
        let windows = self.windows(looked);
        let pieces = looked.pieces.iter().zip(&windows);
        pieces.map(|(piece, chances)| smoothed(chances, piece.len(), self.pace)).collect()
    }

    /// Chances of each window of each piece, by itself.
    pub(super) fn windows(&self, looked: &Looked) -> Vec<Vec<Chances>> {
        let company = company(&self.scaling, &self.first, &looked.neighbours);
        let one = |seen: &Seen| {
            let row = second_row(&self.scaling, &self.first, seen, &company);
            mean_chances(&self.second, &row)
        };
        looked.windows.iter().map(|of| of.iter().map(one).collect()).collect()
    }

    /// Its arrays by name.
    #[must_use]
    pub(crate) fn arrays(&self) -> HashMap<String, Vec<f32>> {
        let mut arrays = HashMap::from([
            ("inputs".to_owned(), self.scaling.values()),
            ("pace".to_owned(), vec![self.pace.evidence, self.pace.stay]),
        ]);
        networks_to(&mut arrays, "first", &self.first);
        networks_to(&mut arrays, "second", &self.second);
        arrays
    }

    /// From arrays by name.
    ///
    /// # Errors
    /// Names the first array that is missing, or holds what no recogniser does.
    pub(crate) fn from_arrays(mut arrays: HashMap<String, Vec<f32>>) -> Result<Self, ArraysFault> {
        let scaling = Scaling::from_values(&take(&mut arrays, "inputs", 4 * FEATURES)?);
        let pace = take(&mut arrays, "pace", 2)?;
        Ok(Self {
            scaling,
            first: networks_from(&mut arrays, "first", FEATURES, REGIMES)?,
            second: networks_from(&mut arrays, "second", SECOND, REGIMES)?,
            pace: Pace { evidence: pace[0].clamp(0.0, 1.0), stay: pace[1].clamp(0.0, 1.0) },
        })
    }
}

/// The windows that others are compared with, as a first stage takes them.
pub(super) fn company<'a>(scaling: &Scaling, first: &[Network], seen: &'a [Seen]) -> Company<'a> {
    let chances = |s: &Seen| {
        let row: Vec<f32> = scaling.apply(&s.features).collect();
        mean_chances(first, &row)
    };
    Company { seen, chances: seen.iter().map(chances).collect() }
}

/// A window's row for the second stage.
pub(super) fn second_row(
    scaling: &Scaling,
    first: &[Network],
    seen: &Seen,
    company: &Company<'_>,
) -> Vec<f32> {
    let mut row: Vec<f32> = scaling.apply(&seen.features).collect();
    let own = mean_chances(first, &row);
    row.extend(own);
    company.tell(seen, &mut row);
    row
}

/// Pieces in parts of about [`PART`] bins; long ones are cut.
fn parts(pieces: &[Range<usize>]) -> Vec<Vec<Range<usize>>> {
    let cut = |piece: &Range<usize>| {
        let n = (piece.len() as f64 / PART as f64).round().max(1.0) as usize;
        let (start, len) = (piece.start, piece.len());
        (0..n).map(move |i| start + len * i / n..start + len * (i + 1) / n)
    };
    let chunks: Vec<Range<usize>> =
        pieces.iter().filter(|p| p.len() >= WINDOW).flat_map(cut).collect();
    let bins = |of: &[Range<usize>]| of.iter().map(ExactSizeIterator::len).sum::<usize>();
    let mut parts: Vec<Vec<Range<usize>>> = Vec::new();
    for chunk in chunks {
        match parts.last_mut() {
            Some(part) if bins(part) + chunk.len() / 2 < PART => part.push(chunk),
            _ => parts.push(vec![chunk]),
        }
    }
    // What is left at the end is too little to compare anything in.
    if parts.len() > 1
        && let Some(last) = parts.pop_if(|last| bins(last) < PART / 2)
        && let Some(before) = parts.last_mut()
    {
        before.extend(last);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_about_a_minute_and_no_piece_is_cut_to_less_than_a_window() {
        let trials: Vec<Range<usize>> = (0..300)
            .map(|i| 60 * i..60 * i + if i % 3 == 0 { WINDOW + 2 } else { WINDOW - 3 })
            .collect();
        let found = parts(&trials);
        let usable: Vec<Range<usize>> =
            trials.iter().filter(|t| t.len() >= WINDOW).cloned().collect();
        assert_eq!(found.concat(), usable, "all of those long enough, in order");
        let ends = |n: usize| -> Vec<usize> {
            parts(std::slice::from_ref(&(0..n))).concat().iter().map(|p| p.end).collect()
        };
        assert_eq!(ends(3000), [3000]);
        assert_eq!(ends(9000), [3000, 6000, 9000]);
        assert!(parts(&[0..10_400, 11_000..11_700]).iter().all(|part| {
            let bins: usize = part.iter().map(ExactSizeIterator::len).sum();
            (PART / 2..2 * PART).contains(&bins)
        }));
        assert!(parts(&[]).is_empty());
    }
}
