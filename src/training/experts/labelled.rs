//! A session's bins with their labels, in memory: what experts learn from and are judged on.

use std::ops::Range;

use ndarray::Array2;

use crate::experts::{Expert, PROBABILITY_MIN};
use crate::inference::Seen;
use crate::recording::Counts;
use crate::training::data::Dataset;
use crate::training::folds::Folds;

/// Most values of a session's counts that a member learns from, bins times channels.
const VALUES_MAX: usize = 1 << 24;
/// Most of its bins.
const BINS_MAX: usize = 120_000;
/// Of a longer session, pieces of as many bins are taken at least, evenly spread.
const PIECE_BINS: usize = 500;
/// Bins without a label are states of their own where they are at least this share.
const UNLABELLED_SHARE: f64 = 0.02;

/// Consecutive bins.
#[derive(Debug, Clone)]
pub(super) struct Labelled {
    /// `[bins, channels]`.
    pub(super) counts: Array2<f32>,
    /// Index of each bin's regime; that after the last is no label.
    pub(super) regime: Vec<usize>,
}

/// What one member of the folds learns from, and what it is judged on.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) train: Vec<Labelled>,
    pub(super) held_out: Vec<Labelled>,
}

/// One session in all members.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) bin_width_s: f64,
    pub(super) channels: usize,
    pub(super) regimes: usize,
    /// Whether bins without a label are worth states of their own.
    pub(super) unlabelled: bool,
    pub(super) members: Vec<Member>,
}

impl Session {
    /// `None` where nothing labelled of it is held out.
    pub(super) fn of(folds: &Folds, session: usize) -> std::io::Result<Option<Self>> {
        let data = folds.serving();
        let (channels, regimes) = (data.sessions[session].n_channels, data.regime_names.len());
        let members: Vec<Member> = folds
            .members()
            .map(|data| Member::of(data, session, regimes))
            .collect::<std::io::Result<_>>()?;
        let judged = members.iter().flat_map(|m| &m.held_out).flat_map(|l| &l.regime);
        let is_judged = judged.clone().any(|r| *r < regimes);
        let unlabelled = data.unlabelled_share() >= UNLABELLED_SHARE;
        let unlabelled = unlabelled
            && members.iter().all(|m| m.train.iter().any(|l| l.regime.contains(&regimes)));
        let bin_width_s = data.bin_width_s;
        Ok(is_judged.then_some(Self { bin_width_s, channels, regimes, unlabelled, members }))
    }

    /// Log loss of an expert over a member's held-out labelled bins, nats, summed.
    pub(super) fn log_loss(&self, expert: &mut dyn Expert, member: &Member) -> f64 {
        let ones = vec![1.0f32; self.channels];
        let mut posterior = vec![0.0f32; self.regimes];
        let mut loss = 0.0;
        for stream in &member.held_out {
            expert.reset();
            for (counts, &regime) in stream.counts.rows().into_iter().zip(&stream.regime) {
                let counts = counts.to_slice().expect("rows are contiguous");
                expert.update(Seen { counts, weight: &ones, gain: &ones });
                if regime < self.regimes {
                    expert.posterior(&mut posterior);
                    loss -= f64::from(posterior[regime].max(PROBABILITY_MIN)).ln();
                }
            }
        }
        loss
    }

    /// Regimes with states: those with a name, and bins without a label where they count.
    pub(super) fn groups(&self) -> usize {
        self.regimes + usize::from(self.unlabelled)
    }
}

impl Member {
    fn of(data: &Dataset, session: usize, regimes: usize) -> std::io::Result<Self> {
        let channels = data.sessions[session].n_channels;
        let room = BINS_MAX.min(VALUES_MAX / channels.max(1));
        let code = |regime: Option<usize>| regime.unwrap_or(regimes);
        let streams = || data.streams.iter().filter(|s| s.session == session);
        let lengths: Vec<usize> = streams().map(|s| s.label_of.len()).collect();
        let mut train = Vec::new();
        for (stream, pieces) in streams().zip(spread(&lengths, room)) {
            for bins in pieces {
                let labels = stream.label_of.read(bins.start, bins.len());
                let regime = labels.into_iter().map(|l| code(data.labels[l].regime)).collect();
                train.push(Labelled::of(&stream.counts, bins, regime)?);
            }
        }
        let streams = || data.held_out.iter().filter(|s| s.session == session);
        let lengths: Vec<usize> = streams().map(|s| s.regime.len()).collect();
        let mut held_out = Vec::new();
        for (stream, pieces) in streams().zip(spread(&lengths, room)) {
            for bins in pieces {
                let regime = stream.regime[bins.clone()].iter().map(|r| code(*r)).collect();
                held_out.push(Labelled::of(&stream.counts, bins, regime)?);
            }
        }
        Ok(Self { train, held_out })
    }
}

/// Pieces of streams of these lengths, about `room` bins in all: the whole where there is room for
/// it, else of short streams every so many, and of long ones as much in proportion, evenly spread.
fn spread(lengths: &[usize], room: usize) -> Vec<Vec<Range<usize>>> {
    let total: usize = lengths.iter().sum();
    let fraction = room as f64 / total.max(1) as f64;
    let of_stream = |(i, &len): (usize, &usize)| -> Vec<Range<usize>> {
        let whole = Some(0..len).filter(|bins| !bins.is_empty());
        if total <= room {
            return whole.into_iter().collect();
        }
        if len <= PIECE_BINS {
            let until = |i: usize| (i as f64 * fraction) as usize;
            return whole.filter(|_| until(i + 1) > until(i)).into_iter().collect();
        }
        let share = (len as f64 * fraction) as usize;
        let pieces = (share / PIECE_BINS).max(1);
        let each = share / pieces;
        let at = |i: usize| i * (len - each) / (pieces - 1).max(1);
        (0..pieces).map(|i| at(i)..at(i) + each).filter(|bins| !bins.is_empty()).collect()
    };
    lengths.iter().enumerate().map(of_stream).collect()
}

impl Labelled {
    fn of(counts: &Counts, bins: Range<usize>, regime: Vec<usize>) -> std::io::Result<Self> {
        let values = counts.read(bins.start, bins.len())?;
        let channels = values.len() / bins.len().max(1);
        let counts = Array2::from_shape_vec((bins.len(), channels), values);
        Ok(Self { counts: counts.expect("as many counts as bins hold"), regime })
    }
}

/// Mean and standard deviation of each channel's root counts.
pub(super) fn root_moments(streams: &[Labelled]) -> (Vec<f32>, Vec<f32>) {
    let channels = streams.first().map_or(0, |s| s.counts.ncols());
    let (mut sum, mut squares, mut bins) = (vec![0.0f64; channels], vec![0.0f64; channels], 0.0);
    for row in streams.iter().flat_map(|s| s.counts.rows()) {
        bins += 1.0;
        for (i, &c) in row.iter().enumerate() {
            // The square of a root count is the count.
            sum[i] += f64::from(c).sqrt();
            squares[i] += f64::from(c);
        }
    }
    let mean: Vec<f64> = sum.iter().map(|s| s / bins).collect();
    let deviation = squares.iter().zip(&mean).map(|(s, m)| (s / bins - m * m).max(0.0).sqrt());
    let deviation = deviation.map(|d| d as f32).collect();
    (mean.iter().map(|m| *m as f32).collect(), deviation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_sessions_are_learned_from_in_pieces_over_their_whole() {
        let all = spread(&[30, 0, 70], 100);
        assert_eq!(all.concat(), [0..30, 0..70]);
        assert!(all[1].is_empty());
        let found = spread(&[100_000, 300_000], 20_000);
        for (pieces, (len, share)) in found.iter().zip([(100_000, 5_000), (300_000, 15_000)]) {
            assert_eq!(pieces.iter().map(Range::len).sum::<usize>(), share);
            assert_eq!((pieces[0].start, pieces[pieces.len() - 1].end), (0, len));
            assert!(pieces.windows(2).all(|w| w[0].end <= w[1].start), "{pieces:?}");
            assert!(pieces.iter().all(|p| p.len() >= PIECE_BINS));
        }
        // Of many short streams, whole ones.
        let short = spread(&[10; 1000], 2_500);
        let taken: Vec<usize> = (0..1000).filter(|&i| !short[i].is_empty()).collect();
        assert!(taken.len() == 250 && taken.iter().all(|&i| short[i][0] == (0..10)));
        assert!(taken.windows(2).all(|w| w[1] - w[0] == 4), "every fourth");
    }
}
