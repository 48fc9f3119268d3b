//! How sure a score is: streams are cut into blocks, and blocks drawn with replacement (Efron 1979;
//! blocks, because bins beside each other are not independent: Kuensch 1989). Two models are
//! compared on the same draws of the same blocks.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::dynamics::NORMAL_HALF_WIDTH;
use crate::regime::{Followed, Scored, quantile};

/// Times after a start or change at which accuracy is reported, seconds.
pub(super) const LAGS_S: [f64; 9] = [0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0];
/// Longest block, seconds: several regimes long, so that blocks know little of each other.
const BLOCK_S: f64 = 10.0;
/// Draws of all blocks.
const DRAWS: usize = 1000;
/// Ends of a 90 % interval.
const ENDS: [f64; 2] = [0.05, 0.95];
/// Fewer blocks than this say nothing of how far a score may be off.
const BLOCKS_MIN: usize = 5;

/// What is said of a score with its interval: figures that blocks add up to.
pub(super) const MEASURES: [(&str, &str); 8] = [
    ("accuracy", "accuracy"),
    ("balanced_accuracy", "balanced accuracy"),
    ("accuracy_after_500ms", "right 0.5 s after a change"),
    ("accuracy_after_1s", "right 1 s after a change"),
    ("accuracy_after_2s", "right 2 s after a change"),
    ("log_loss", "log loss, nats"),
    ("changes_found", "changes found"),
    ("false_changes_per_minute", "false changes a minute"),
];
/// Those of them that are no shares.
const NO_SHARES: [usize; 2] = [5, 7];
/// Places in [`LAGS_S`] of the three above.
const AFTER: [usize; 3] = [4, 6, 8];

/// What a piece of a stream adds to the score.
#[derive(Debug, Clone)]
struct Block {
    session: usize,
    bins: usize,
    /// `(right, all)` of each regime's bins.
    regimes: Vec<(u32, u32)>,
    /// `(right, all)` at each of the lags.
    after: [(u32, u32); LAGS_S.len()],
    loss: f64,
    changes: u32,
    found: u32,
    wrong: u32,
}

/// All blocks of a model's streams, in the order in which they came.
#[derive(Debug, Clone, Default)]
pub(super) struct Blocks {
    bin_width_s: f64,
    n_regimes: usize,
    blocks: Vec<Block>,
    /// The next bin begins another block.
    fresh: bool,
    session: usize,
}

/// A figure's 90 % interval; `None` of fewer than five blocks.
pub(super) type Interval = Option<[f64; 2]>;

/// Intervals of all [`MEASURES`], by name.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(super) struct Intervals(std::collections::BTreeMap<&'static str, Interval>);

impl Intervals {
    pub(super) fn of(&self, measure: &str) -> Interval {
        self.0.get(measure).copied().flatten()
    }
}

impl Blocks {
    pub(super) fn new(n_regimes: usize, bin_width_s: f64) -> Self {
        Self { bin_width_s, n_regimes, ..Self::default() }
    }

    /// A new stream of a session begins.
    pub(super) fn start_stream(&mut self, session: usize) {
        (self.fresh, self.session) = (true, session);
    }

    /// The next bin, as it was scored.
    pub(super) fn push(
        &mut self,
        truth: Option<usize>,
        scored: Option<Scored>,
        followed: &Followed,
    ) {
        let full = (BLOCK_S / self.bin_width_s).round() as usize;
        if self.fresh || self.blocks.last().is_some_and(|b| b.bins >= full) {
            self.fresh = false;
            self.blocks.push(Block {
                session: self.session,
                bins: 0,
                regimes: vec![(0, 0); self.n_regimes],
                after: [(0, 0); LAGS_S.len()],
                loss: 0.0,
                changes: 0,
                found: 0,
                wrong: 0,
            });
        }
        let Some(block) = self.blocks.last_mut() else { return };
        block.bins += 1;
        block.changes += u32::from(followed.changed);
        block.found += u32::from(followed.found);
        block.wrong += u32::from(followed.is_false);
        let (Some(truth), Some(scored)) = (truth, scored) else { return };
        let right = u32::from(scored.right);
        block.regimes[truth].0 += right;
        block.regimes[truth].1 += 1;
        block.loss += scored.loss;
        for (after, seconds) in block.after.iter_mut().zip(LAGS_S) {
            if scored.lag + 1 == ((seconds / self.bin_width_s).round() as usize).max(1) {
                after.0 += right;
                after.1 += 1;
            }
        }
    }

    /// All measures of blocks, in the order of [`MEASURES`], then the accuracy at every lag.
    fn measure<'a>(&self, of: impl Iterator<Item = &'a Block>) -> Vec<Option<f64>> {
        let mut regimes = vec![(0u64, 0u64); self.n_regimes];
        let mut after = [(0u64, 0u64); LAGS_S.len()];
        let (mut loss, mut changes, mut found, mut wrong) = (0.0, 0u64, 0u64, 0u64);
        let add = |to: &mut (u64, u64), (right, all): &(u32, u32)| {
            to.0 += u64::from(*right);
            to.1 += u64::from(*all);
        };
        for block in of {
            regimes.iter_mut().zip(&block.regimes).for_each(|(to, from)| add(to, from));
            after.iter_mut().zip(&block.after).for_each(|(to, from)| add(to, from));
            loss += block.loss;
            changes += u64::from(block.changes);
            found += u64::from(block.found);
            wrong += u64::from(block.wrong);
        }
        let share = |part: u64, all: u64| (all > 0).then(|| part as f64 / all as f64);
        let bins: u64 = regimes.iter().map(|r| r.1).sum();
        let recalls: Vec<f64> = regimes.iter().filter_map(|r| share(r.0, r.1)).collect();
        let balanced =
            (!recalls.is_empty()).then(|| recalls.iter().sum::<f64>() / recalls.len() as f64);
        let minutes = bins as f64 * self.bin_width_s / 60.0;
        let after: Vec<Option<f64>> = after.iter().map(|a| share(a.0, a.1)).collect();
        let mut measures = vec![share(regimes.iter().map(|r| r.0).sum(), bins), balanced];
        measures.extend(AFTER.map(|at| after[at]));
        measures.push((bins > 0).then(|| loss / bins as f64));
        measures.push(share(found, changes));
        measures.push((minutes > 0.0).then(|| wrong as f64 / minutes));
        measures.extend(after);
        measures
    }

    fn of_session(&self, session: Option<usize>) -> Vec<&Block> {
        self.blocks.iter().filter(|b| session.is_none_or(|s| b.session == s)).collect()
    }

    /// Measures of `draws` of a session's blocks, or of all.
    fn drawn(&self, session: Option<usize>) -> Vec<Vec<Option<f64>>> {
        let blocks = self.of_session(session);
        if blocks.len() < BLOCKS_MIN {
            return Vec::new();
        }
        // The same draws for every model.
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut draw = || -> Vec<&Block> {
            (0..blocks.len()).map(|_| blocks[rng.random_range(0..blocks.len())]).collect()
        };
        (0..DRAWS).map(|_| self.measure(draw().into_iter())).collect()
    }

    /// The measures of a session, or of all, in the order of [`MEASURES`].
    pub(super) fn measures(&self, session: Option<usize>) -> Vec<Option<f64>> {
        let mut all = self.measure(self.of_session(session).into_iter());
        all.truncate(MEASURES.len());
        all
    }

    /// Intervals of a session, or of all; and those of the accuracy at every lag.
    pub(super) fn intervals(&self, session: Option<usize>) -> (Intervals, Vec<Interval>) {
        let drawn = self.drawn(session);
        let n = self.of_session(session).len() as f64;
        let interval = |at: usize| -> Interval {
            let found = ends(drawn.iter().filter_map(|d| d[at]).collect())?;
            // Where every block is right, or every one wrong, no draw differs: each counts as one
            // observation of a share.
            let is_all = found[0] == found[1] && [0.0, 1.0].contains(&found[0]);
            let is_share = !NO_SHARES.contains(&at);
            Some(if is_all && is_share { wilson(found[0], n) } else { found })
        };
        let named = MEASURES.iter().enumerate().map(|(i, m)| (m.0, interval(i)));
        let lags = (0..LAGS_S.len()).map(|i| interval(MEASURES.len() + i));
        (Intervals(named.collect()), lags.collect())
    }

    /// By how much this model's measures are above another's, each with its interval: where that
    /// holds no 0, the two differ. `None` where they did not see the same streams.
    pub(super) fn against(&self, other: &Self) -> Option<Vec<(Option<f64>, Interval)>> {
        let shape = |b: &Self| b.blocks.iter().map(|b| (b.session, b.bins)).collect::<Vec<_>>();
        if shape(self) != shape(other) {
            return None;
        }
        let less = |a: &[Option<f64>], b: &[Option<f64>], i: usize| Some(a[i]? - b[i]?);
        let (ours, theirs) = (self.drawn(None), other.drawn(None));
        let (mine, its) = (self.measures(None), other.measures(None));
        let differences = (0..MEASURES.len()).map(|i| {
            let drawn = ours.iter().zip(&theirs).filter_map(|(a, b)| less(a, b, i)).collect();
            (less(&mine, &its, i), ends(drawn))
        });
        Some(differences.collect())
    }
}

/// Wilson's 90 % interval of a share of `n` independent observations (Wilson 1927).
pub(super) fn wilson(share: f64, n: f64) -> [f64; 2] {
    let z = NORMAL_HALF_WIDTH;
    let middle = (share + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half =
        z / (1.0 + z * z / n) * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).max(0.0).sqrt();
    [(middle - half).max(0.0), (middle + half).min(1.0)]
}

fn ends(mut drawn: Vec<f64>) -> Interval {
    drawn.sort_by(f64::total_cmp);
    Some([quantile(&drawn, ENDS[0])?, quantile(&drawn, ENDS[1])?])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Streams of a second, a share of which is right altogether.
    fn streams(n: usize, right: impl Fn(usize) -> bool) -> Blocks {
        let mut blocks = Blocks::new(2, 0.01);
        for stream in 0..n {
            blocks.start_stream(stream % 2);
            for lag in 0..100 {
                let scored = Scored { right: right(stream), lag, loss: 0.5 };
                blocks.push(Some(stream % 2), Some(scored), &Followed::default());
            }
        }
        blocks
    }

    #[test]
    fn an_interval_is_as_wide_as_independent_streams_make_it() {
        // 100 streams that are right or wrong as a whole: 0.8 +- 1.645 sqrt(0.16 / 100).
        let blocks = streams(100, |s| s % 5 != 0);
        let (intervals, lags) = blocks.intervals(None);
        let [low, high] = intervals.of("accuracy").expect("an interval");
        let half = 1.645 * (0.16f64 / 100.0).sqrt();
        assert!((low - (0.8 - half)).abs() < 0.015 && (high - (0.8 + half)).abs() < 0.015);
        assert_eq!(blocks.measures(None)[0], Some(0.8));
        assert_eq!(intervals.of("log_loss"), Some([0.5, 0.5]));
        // There is no bin two seconds after a start, and no change that could be found.
        assert_eq!((lags[8], intervals.of("changes_found")), (None, None));
        assert!(lags[6].is_some());
        // What is always right is not right for sure: 20 streams of 20 are 0.88 to 1 (Wilson).
        let sure = streams(20, |_| true).intervals(None).0.of("accuracy").expect("an interval");
        assert!((sure[0] - 20.0 / (20.0 + 1.645f64.powi(2))).abs() < 1e-3, "{sure:?}");
        assert_eq!(sure[1], 1.0);
        // Two streams are too few to tell.
        assert_eq!(streams(2, |_| true).intervals(None).0.of("accuracy"), None);
        // A long stream is cut.
        let mut long = Blocks::new(1, 0.01);
        long.start_stream(0);
        for lag in 0..6000 {
            let scored = Scored { right: true, lag, loss: 0.0 };
            long.push(Some(0), Some(scored), &Followed::default());
        }
        assert_eq!(long.blocks.len(), 6);
    }

    #[test]
    fn models_are_compared_on_the_same_streams() {
        let (good, bad) = (streams(60, |s| s % 6 != 0), streams(60, |s| s % 3 != 0));
        let against = good.against(&bad).expect("the same streams");
        let (difference, interval) = against[0];
        assert!((difference.expect("a number") - 1.0 / 6.0).abs() < 1e-9);
        let [low, high] = interval.expect("an interval");
        assert!(low > 0.0 && high < 1.0 / 3.0, "{low} {high}");
        assert_eq!(good.against(&good).expect("itself")[0], (Some(0.0), Some([0.0, 0.0])));
        assert!(good.against(&streams(59, |_| true)).is_none());
    }
}
