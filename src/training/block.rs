//! Windows of one session side by side, as the filter takes them: their counts, weights and rivals,
//! and their share of a batch's scores and gradient.

use std::ops::Range;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

use super::batch::{BatchLoss, BatchScores};
use super::filter::{
    Entry, Exponent, Gradient, Lane, LossShape, Pass, RivalStretch, SessionReadout, Shared,
    Stretch, Weighted, Workspace, burn_in_of,
};
use super::windows::{Drawn, Rival, Run, RunStart};
use crate::inference::lanes::{Arithmetic, Lanes, Wide};
use crate::recording::CountsBuffer;

/// Vectors of a row.
const VECTORS: usize = 1;
/// Weight of a run's squared distance from the only stable point, relative to the exponents'.
const ATTRACTOR_WEIGHT: f32 = 0.05;
/// Where all rivals of a block are less probable than this, they get no gradient: it would be a
/// thousandth of what a confusion gives, for a backward pass that costs as much.
const RIVAL_MIN: f64 = 1e-3;

/// Windows that are worked side by side: of one session, of lengths as near to each other as there
/// are, and as many as a row has lanes, at most.
pub(super) fn blocks(windows: &[Drawn]) -> Vec<Vec<&Drawn>> {
    let lanes = pulp::Arch::new().dispatch(LanesOfRows);
    let mut sorted: Vec<&Drawn> = windows.iter().collect();
    sorted.sort_by_key(|w| (w.session, w.labels.len()));
    sorted
        .chunk_by(|a, b| a.session == b.session)
        .flat_map(|own| own.chunks(lanes))
        .map(<[&Drawn]>::to_vec)
        .collect()
}

/// Lanes of the rows that a processor has.
struct LanesOfRows;

impl pulp::WithSimd for LanesOfRows {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) -> usize {
        Wide::<S, VECTORS>(simd).width()
    }
}

/// What is the same for all windows of a session in a step.
#[derive(Clone, Copy)]
pub(super) struct Parameters<'a> {
    pub(super) shape: &'a LossShape,
    pub(super) shared: &'a Shared<f32>,
    pub(super) readout: &'a SessionReadout<f32>,
    /// `[labels, rank * units + rank]`.
    pub(super) factors: &'a [f32],
}

/// A block of windows, compiled for each set of vector instructions.
pub(super) struct Block<'a> {
    pub(super) batch: &'a BatchLoss<'a>,
    /// Of one session; not more than a row has lanes.
    pub(super) windows: &'a [&'a Drawn],
    pub(super) parameters: Parameters<'a>,
    pub(super) buffer: &'a mut CountsBuffer,
    /// Whatever was worked in before, if it is of as many channels.
    pub(super) workspace: &'a mut Option<Workspace<f32>>,
    /// And where in it the session's readout lies.
    pub(super) gradient: (&'a mut Gradient<f32>, Range<usize>),
}

impl pulp::WithSimd for Block<'_> {
    type Output = std::io::Result<BatchScores>;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) -> Self::Output {
        let Parameters { shape, shared, readout, factors } = self.parameters;
        let wide = Wide::<S, VECTORS>(simd);
        let pass = Pass { wide, shape, shared, readout, factors };
        let side_by_side = SideBySide::read(self.batch, self.windows, wide.width(), self.buffer)?;
        let kept = self.workspace.take().filter(|w| w.is_for(&pass));
        let workspace = self.workspace.insert(kept.unwrap_or_else(|| Workspace::new(&pass)));
        let (gradient, readout) = self.gradient;
        Ok(side_by_side.descend(self.batch, &pass, workspace, (gradient, readout)))
    }
}

/// Windows with their counts, lane by lane in the last place.
struct SideBySide<'a> {
    /// One of each lane: lanes that are over repeat the first, and nothing weighs them.
    windows: Vec<&'a Drawn>,
    /// Lanes that count.
    counted: usize,
    channels: usize,
    /// Bins of the longest.
    bins: usize,
    /// `[bins, channels, lanes]`; behind a window's end it begins anew.
    counts: Lanes,
}

/// Rivals of lanes; a lane without one has a bin that nothing weighs.
struct Rivals {
    /// First bin of each lane's window in its stretch.
    from: Vec<usize>,
    /// Labels of each lane's bins.
    of: Vec<Vec<usize>>,
    /// `[bins, channels, lanes]`.
    counts: Lanes,
    /// `[bins, lanes]`.
    weight: Lanes,
}

impl<'a> SideBySide<'a> {
    fn read(
        batch: &BatchLoss<'_>,
        windows: &[&'a Drawn],
        width: usize,
        buffer: &mut CountsBuffer,
    ) -> std::io::Result<Self> {
        let channels = batch.places.channels[windows[0].session];
        let counted = windows.len();
        let windows: Vec<&Drawn> =
            (0..width).map(|lane| windows[if lane < counted { lane } else { 0 }]).collect();
        let bins = windows.iter().map(|w| w.labels.len()).max().unwrap_or(0);
        let mut counts = Lanes::zeros(bins * channels * width);
        for (lane, window) in windows.iter().enumerate() {
            spread(&mut counts, width, lane, batch.data.read(window, buffer)?);
        }
        Ok(Self { windows, counted, channels, bins, counts })
    }

    /// Scores, and to the gradient what they say. With a rival, the cross-entropy is `log(1 +
    /// exp(-D))`, `D` the tempered difference of the stretch's scores under the true labels and
    /// under the rival.
    #[inline(always)]
    fn descend<W: Arithmetic<Number = f32>>(
        &self,
        batch: &BatchLoss<'_>,
        pass: &Pass<'_, W>,
        workspace: &mut Workspace<f32>,
        (gradient, readout): (&mut Gradient<f32>, Range<usize>),
    ) -> BatchScores {
        let width = self.windows.len();
        let entry = |w: &Drawn| w.splice.map(|s| Entry { from: s.at, to: s.at + s.fade.max(1) });
        let lane = |w: &&'a Drawn| Lane { factor_of: &w.labels, entry: entry(w) };
        let lanes: Vec<Lane<'_>> = self.windows.iter().map(lane).collect();
        let window = Stretch { counts: &self.counts, lanes: &lanes };
        let mut weight = self.weights(&batch.shape);
        let first = |w: &&Drawn| burn_in_of(batch.shape.burn_in, w.labels.len());
        let scored_from = self.windows.iter().map(first).min().unwrap_or(0);
        let found = pass.filter(&window, scored_from, workspace);
        let one_step = found.iter().zip(&*weight).map(|(s, w)| s * f64::from(*w)).sum();
        let truth = |lane: usize, r: &Rival| sum_of(found, width, lane, r.from..r.to);
        let truth: Vec<f64> = self.rivals_of().map(|(lane, rival)| truth(lane, rival)).collect();
        let (contrast, rivals) = self.contrast(batch, pass, workspace, (&truth, &mut weight));
        let of_rivals = rivals.as_ref().map_or_else(Vec::new, |r| self.rival_lanes(&r.of));
        let rival = rivals.as_ref().map(|r| RivalStretch {
            from: &r.from,
            of: Weighted {
                stretch: Stretch { counts: &r.counts, lanes: &of_rivals },
                weight: &r.weight,
            },
        });
        let counted = self.windows.iter().take(self.counted);
        let runs: Vec<Option<Run>> = counted.map(|w| w.exponent).collect();
        let exponents: Vec<Option<Exponent<f32>>> =
            runs.iter().map(|run| run.map(|run| exponent(batch, &run))).collect();
        let mut gradient = gradient.of_session(readout);
        let window = Weighted { stretch: window, weight: &weight };
        let of = (window, self.counted);
        let ahead = pass.descend(of, rival, &exponents, workspace, &mut gradient);
        let ends = runs.into_iter().flatten().zip(ahead.exponents.iter().flatten());
        BatchScores {
            one_step,
            forecast: ahead.forecast.iter().sum(),
            contrast,
            exponent: ahead.exponents.iter().flatten().map(|e| f64::from(e.loss)).sum(),
            run_ends: ends.map(|(run, e)| (run, e.end.clone())).collect(),
        }
    }

    /// Cross-entropies of the truth, whose scores over its rivals' stretches are given, against the
    /// rivals; and, where any of these is probable, the rivals with their weights. Adds the truth's
    /// to `weight`.
    #[inline(always)]
    fn contrast<W: Arithmetic<Number = f32>>(
        &self,
        batch: &BatchLoss<'_>,
        pass: &Pass<'_, W>,
        workspace: &mut Workspace<f32>,
        (truth, weight): (&[f64], &mut [f32]),
    ) -> (f64, Option<Rivals>) {
        let width = self.windows.len();
        let rivals = self.rivals();
        let (mut contrast, mut pulls) = (0.0, Vec::new());
        if let Some(Rivals { from, of, counts, .. }) = &rivals {
            let lanes = self.rival_lanes(of);
            let found = pass.filter_rival(from, &Stretch { counts, lanes: &lanes }, workspace);
            for ((lane, rival), truth) in self.rivals_of().zip(truth) {
                let score = sum_of(found, width, lane, 0..rival.to - rival.from);
                let ratio = (truth - score) / batch.contrast.temperature;
                // log(1 + exp(-ratio)) in a form that neither overflows nor loses small values.
                contrast += (-ratio).max(0.0) + (-ratio.abs()).exp().ln_1p();
                pulls.push((lane, rival, 1.0 / (1.0 + ratio.exp())));
            }
        }
        let rivals = rivals.filter(|_| pulls.iter().any(|(.., p)| *p > RIVAL_MIN));
        let rivals = rivals.map(|mut rivals| {
            for (lane, rival, probability) in pulls {
                let pull = batch.contrast.weight * probability / batch.contrast.temperature;
                let row = |t: usize| t * width + lane;
                (rival.from..rival.to).for_each(|t| weight[row(t)] += pull as f32);
                (0..rival.to - rival.from).for_each(|t| rivals.weight[row(t)] = -pull as f32);
            }
            rivals
        });
        (contrast, rivals)
    }

    /// Weight of each bin's one-step score, `[bins, lanes]`.
    fn weights(&self, shape: &LossShape) -> Lanes {
        let width = self.windows.len();
        let mut weight = Lanes::zeros(self.bins * width);
        for (lane, window) in self.windows.iter().enumerate().take(self.counted) {
            let bins = window.labels.len();
            // The first bins only find the state: scored, they would teach the prior of the start.
            let burn_in = burn_in_of(shape.burn_in, bins);
            let each = 1.0 / ((bins - burn_in).max(1) * self.channels) as f32;
            // Nor is what lies between two trials either one's dynamics: there only the labels
            // count.
            let fade = window.splice.map_or(0..0, |s| s.at..s.at + s.fade);
            for t in (burn_in..bins).filter(|t| !fade.contains(t)) {
                weight[t * width + lane] = each;
            }
        }
        weight
    }

    /// Lanes that have a rival and count.
    fn rivals_of(&self) -> impl Iterator<Item = (usize, &'a Rival)> {
        let counted = self.windows.iter().take(self.counted).enumerate();
        counted.filter_map(|(lane, w)| Some((lane, w.rival.as_ref()?)))
    }

    /// Counts and labels of all lanes' rivals, with no weight yet; none where no lane has one.
    fn rivals(&self) -> Option<Rivals> {
        let width = self.windows.len();
        let mut from = vec![0; width];
        let mut of: Vec<Vec<usize>> = self.windows.iter().map(|w| vec![w.labels[0]]).collect();
        for (lane, rival) in self.rivals_of() {
            from[lane] = rival.from;
            of[lane] = vec![rival.label; rival.to - rival.from];
        }
        self.rivals_of().next()?;
        let bins = of.iter().map(Vec::len).max()?;
        let (row, mut counts) = (self.channels * width, Lanes::zeros(bins * self.channels * width));
        for lane in 0..width {
            for t in 0..bins {
                let at = from[lane] + t % of[lane].len();
                let own = self.counts[at * row..(at + 1) * row].iter().skip(lane).step_by(width);
                let to = counts[t * row..(t + 1) * row].iter_mut().skip(lane).step_by(width);
                to.zip(own).for_each(|(to, from)| *to = *from);
            }
        }
        Some(Rivals { from, of, counts, weight: Lanes::zeros(bins * width) })
    }

    fn rival_lanes<'r>(&self, of: &'r [Vec<usize>]) -> Vec<Lane<'r>> {
        let enters = |w: &Drawn| w.rival.is_some_and(|r| r.enters);
        let entry = |w: &Drawn| enters(w).then_some(Entry { from: 0, to: 1 });
        let lanes = of.iter().zip(&self.windows);
        lanes.map(|(factor_of, w)| Lane { factor_of, entry: entry(w) }).collect()
    }
}

/// Puts a lane's values into its place, and again behind its end.
fn spread(to: &mut [f32], width: usize, lane: usize, values: &[f32]) {
    let to = to.iter_mut().skip(lane).step_by(width);
    to.zip(values.iter().cycle()).for_each(|(to, from)| *to = *from);
}

/// A lane's sum over bins of `values [bins, lanes]`.
fn sum_of(values: &[f64], width: usize, lane: usize, bins: Range<usize>) -> f64 {
    bins.map(|t| values[t * width + lane]).sum()
}

/// A drawn run as the filter makes it.
fn exponent(batch: &BatchLoss<'_>, run: &Run) -> Exponent<f32> {
    let (rank, ends) = (batch.shape.rank, batch.run_ends);
    Exponent {
        from: run.from,
        factor: run.label,
        start: match run.start {
            RunStart::Filtered => None,
            RunStart::GoesOn => ends.of(run),
            RunStart::Elsewhere(label) => ends.of(&Run { label, ..*run }),
            // Without starts on the other side, a network with one stable point grew a second one
            // that faced the first, where no data had been (docs/decisions/0006).
            RunStart::Opposite => ends.of(run).map(|end| end.into_iter().map(|x| -x).collect()),
        },
        attractor: match run.start {
            RunStart::Elsewhere(_) | RunStart::Opposite if batch.data.one_point[run.label] => {
                let point = ends.of(&Run { noise_seed: None, ..*run });
                point.map(|p| (p, ATTRACTOR_WEIGHT * batch.exponent_weight as f32))
            }
            _ => None,
        },
        noise: run.noise_seed.map_or_else(Vec::new, |seed| {
            let rng = ChaCha8Rng::seed_from_u64(seed);
            rng.sample_iter(StandardNormal).take(run.bins * rank).collect()
        }),
        bins: run.bins,
        target: run.per_bin,
        weight: batch.exponent_weight as f32,
        damped: true,
    }
}
