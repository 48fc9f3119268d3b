//! The stages, and what becomes of a recording.

use std::collections::HashMap;
use std::ops::Range;

use ndarray::{Array2, Axis};

use super::course::{Pace, smoothed};
use super::features::{FEATURES, Seen, look};
use super::parts::{Part, parts};
use super::scale::{CHANNELS_MIN, COUNT_MIN, Chances, NEIGHBOUR, PART_MIN, STEP, WINDOW};
use super::score::Judged;
use super::session::Session;
use super::trust::{Shown, TERMS, Trust};
use super::votes::{Company, told};
use crate::learner::{ArraysFault, Network, Scaling, networks_from, networks_to, take};

/// Stages: each but the first knows what the one before said of all windows.
pub(super) const STAGES: usize = 3;

/// Inputs of a stage.
pub(super) fn inputs(stage: usize, regimes: usize) -> usize {
    FEATURES + if stage == 0 { 0 } else { regimes + told(regimes) }
}

/// Tells regimes by how they look beside each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Recogniser {
    pub(super) names: Vec<String>,
    pub(super) scaling: Scaling,
    /// Networks of each stage.
    pub(super) stages: Vec<Vec<Network>>,
    pub(super) pace: Pace,
    pub(super) trust: Trust,
    pub(super) judged: Option<Judged>,
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
    pub fn at(&self, bin: usize) -> &[f32] {
        &self.steps[(bin - self.bins.start) / STEP]
    }
}

/// A part's windows as they look.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Looked {
    /// Pieces without a gap, by their bins in the part.
    pub(super) pieces: Vec<Range<usize>>,
    /// Of each piece, every so many windows.
    pub(super) every: usize,
    pub(super) windows: Vec<Vec<Seen>>,
    pub(super) neighbours: Vec<Seen>,
}

/// What a stage takes the windows of a part for.
pub(super) struct Said {
    pub(super) windows: Vec<Vec<Chances>>,
    pub(super) neighbours: Vec<Chances>,
}

/// Where windows of a piece begin.
pub(super) fn starts(piece: &Range<usize>) -> impl Iterator<Item = usize> {
    (piece.start..(piece.end + 1).saturating_sub(WINDOW)).step_by(STEP)
}

impl Looked {
    /// Of counts `[bins, channels]`; `None` where they are too few.
    pub(super) fn at(counts: &Array2<f32>, pieces: &[Range<usize>], every: usize) -> Option<Self> {
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
            let starts = starts(piece).step_by(every);
            starts.map(|from| look(&session, from..from + WINDOW)).collect()
        };
        Some(Self {
            every,
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

fn mean_chances(networks: &[Network], row: &[f32]) -> Chances {
    let mut mean = Vec::new();
    for network in networks {
        let outputs = network.predict(row);
        let top = outputs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = outputs.iter().map(|o| (o - top).exp()).sum();
        let share = 1.0 / (sum * networks.len() as f32);
        mean.resize(outputs.len(), 0.0);
        mean.iter_mut().zip(&outputs).for_each(|(m, o): (&mut f32, _)| {
            *m += (o - top).exp() * share;
        });
    }
    mean
}

impl Recogniser {
    /// Names of the regimes, in the order of their chances.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// What was found on sessions that it did not learn from, if it was asked about any.
    #[must_use]
    pub fn judged(&self) -> Option<Judged> {
        self.judged
    }

    /// The same with what was found.
    #[must_use]
    pub(crate) fn judged_as(mut self, found: Judged) -> Self {
        self.judged = Some(found);
        self
    }

    /// Regimes of counts `[bins, channels]` in bins of [`super::BIN_S`], in pieces without a gap.
    /// Pieces shorter than a window, and parts too short to compare anything in, are left out.
    #[must_use]
    pub fn recognise(&self, counts: &Array2<f32>, pieces: &[Range<usize>]) -> Vec<Recognised> {
        parts(counts, pieces).flat_map(|part| self.part(&part)).collect()
    }

    fn part(&self, part: &Part) -> Vec<Recognised> {
        let Some(looked) = Looked::at(&part.counts, &part.inside, 1) else { return Vec::new() };
        let found = self.judge(&looked);
        let bins = |of: &Range<usize>| {
            let at = part.inside.iter().position(|p| p == of).unwrap_or(0);
            part.whole[at].clone()
        };
        let of = |(piece, steps)| Recognised { bins: bins(piece), steps };
        looked.pieces.iter().zip(found).map(of).collect()
    }

    /// Probabilities at each step of each piece.
    fn judge(&self, looked: &Looked) -> Vec<Vec<Chances>> {
        let (shown, windows) = self.windows(looked);
        let mut course = looked.course(&windows, self.names.len(), self.pace);
        self.trust.apply(shown, &windows, &mut course);
        course
    }

    /// Chances of each window of each piece, by itself, and what they show of all.
    pub(super) fn windows(&self, looked: &Looked) -> (Shown, Vec<Vec<Chances>>) {
        let (mut first, mut said) = (None, None);
        for networks in &self.stages {
            let now = looked.said(&self.scaling, self.names.len(), networks, 1, said.as_ref());
            first = first.or(said);
            said = Some(now);
        }
        let windows = said.map_or_else(Vec::new, |said| said.windows);
        let first = first.map_or_else(|| windows.clone(), |first| first.windows);
        let same = |(a, b): (&Chances, &Chances)| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum()
        };
        let n = windows.iter().flatten().count().max(1) as f64;
        let agreement =
            first.iter().flatten().zip(windows.iter().flatten()).map(same).sum::<f64>() / n;
        let beyond = |seen: &Seen| self.scaling.beyond(&seen.features);
        let all: usize = looked.windows.iter().flatten().map(beyond).sum();
        (Shown { agreement, beyond: all as f64 / n / FEATURES as f64 }, windows)
    }

    /// Its arrays by name.
    #[must_use]
    pub(crate) fn arrays(&self) -> HashMap<String, Vec<f32>> {
        let mut arrays = HashMap::from([
            ("inputs".to_owned(), self.scaling.values()),
            ("pace".to_owned(), vec![self.pace.evidence, self.pace.stay]),
            ("trust".to_owned(), self.trust.values()),
        ]);
        for (stage, networks) in self.stages.iter().enumerate() {
            networks_to(&mut arrays, &format!("stage{stage}.network"), networks);
        }
        arrays
    }

    /// Of so many regimes, from arrays by name.
    ///
    /// # Errors
    /// Names the first array that is missing, or holds what no recogniser does.
    pub(crate) fn from_arrays(
        names: Vec<String>,
        judged: Option<Judged>,
        mut arrays: HashMap<String, Vec<f32>>,
    ) -> Result<Self, ArraysFault> {
        let regimes = names.len();
        let scaling = Scaling::from_values(&take(&mut arrays, "inputs", 4 * FEATURES)?);
        let pace = take(&mut arrays, "pace", 2)?;
        // Empty where too little was asked to know.
        let terms = arrays.get("trust").map_or(TERMS, Vec::len).min(TERMS);
        let trust = Trust::from_values(&take(&mut arrays, "trust", terms)?);
        let mut networks = |stage: usize| {
            let name = format!("stage{stage}.network");
            networks_from(&mut arrays, &name, inputs(stage, regimes), regimes)
        };
        Ok(Self {
            names,
            judged,
            trust,
            scaling,
            stages: (0..STAGES).map(&mut networks).collect::<Result<_, _>>()?,
            pace: Pace { evidence: pace[0].clamp(0.0, 1.0), stay: pace[1].clamp(0.0, 1.0) },
        })
    }
}

impl Looked {
    /// Probabilities at each step of each piece, given those of its windows.
    pub(super) fn course(
        &self,
        windows: &[Vec<Chances>],
        regimes: usize,
        pace: Pace,
    ) -> Vec<Vec<Chances>> {
        let pieces = self.pieces.iter().zip(windows);
        pieces.map(|(piece, chances)| smoothed(chances, piece.len(), regimes, pace)).collect()
    }

    /// The row of every so many windows for a stage, given what the one before said of these.
    pub(super) fn rows(
        &self,
        scaling: &Scaling,
        regimes: usize,
        stride: usize,
        before: Option<&Said>,
    ) -> (Vec<Vec<Vec<f32>>>, Vec<Vec<f32>>) {
        let company = before.map(|said| Company {
            seen: &self.neighbours,
            chances: &said.neighbours,
            regimes,
        });
        let row = |seen: &Seen, own: Option<&Chances>| {
            let mut row: Vec<f32> = scaling.apply(&seen.features).collect();
            if let (Some(own), Some(company)) = (own, &company) {
                row.extend(own);
                company.tell(seen, &mut row);
            }
            row
        };
        let each = |piece: usize, seen: &[Seen]| {
            let own = |i: usize| before.map(|said| &said.windows[piece][i]);
            seen.iter().step_by(stride).enumerate().map(|(i, seen)| row(seen, own(i))).collect()
        };
        let windows = self.windows.iter().enumerate().map(|(p, seen)| each(p, seen)).collect();
        let own = |i: usize| before.map(|said| &said.neighbours[i]);
        let neighbours =
            self.neighbours.iter().enumerate().map(|(i, seen)| row(seen, own(i))).collect();
        (windows, neighbours)
    }

    /// What networks of a stage say of every so many windows, given what the one before said.
    pub(super) fn said(
        &self,
        scaling: &Scaling,
        regimes: usize,
        networks: &[Network],
        stride: usize,
        before: Option<&Said>,
    ) -> Said {
        let (windows, neighbours) = self.rows(scaling, regimes, stride, before);
        let all = |rows: &Vec<Vec<f32>>| -> Vec<Chances> {
            rows.iter().map(|row| mean_chances(networks, row)).collect()
        };
        Said { windows: windows.iter().map(all).collect(), neighbours: all(&neighbours) }
    }
}
