//! Recordings in the bins that a recogniser reads.

use std::ops::Range;

use ndarray::Array2;

use crate::recogniser::BIN_S;
use crate::recording::Recording;

/// Bins that are read may be so much wider or narrower than those that were learned from.
const WIDTH_OFF_MAX: f64 = 0.25;

/// How many bins of a width make one that is read, where they do.
pub(super) fn together(width_s: f64) -> Option<usize> {
    let together = (BIN_S / width_s).round() as usize;
    let off = (together as f64 * width_s / BIN_S - 1.0).abs();
    (together > 0 && off <= WIDTH_OFF_MAX).then_some(together)
}

/// A recording in wider bins, stream behind stream.
pub(super) struct Wide {
    /// `[bins, channels]`.
    pub(super) counts: Array2<f32>,
    /// Label in the middle of each bin.
    pub(super) labels: Vec<Option<usize>>,
    /// Where each stream is.
    pub(super) pieces: Vec<Range<usize>>,
}

pub(super) fn wide(recording: &Recording, together: usize) -> Wide {
    let streams = recording.streams();
    let bins: usize = streams.iter().map(|s| s.n_bins() / together).sum();
    let mut counts = Array2::zeros((bins, recording.n_channels));
    let (mut labels, mut pieces, mut at) = (Vec::with_capacity(bins), Vec::new(), 0);
    for stream in streams {
        let from = at;
        let whole = stream.n_bins() / together;
        for (t, row) in stream.counts.rows().into_iter().take(whole * together).enumerate() {
            let mut to = counts.row_mut(from + t / together);
            to.iter_mut().zip(row).for_each(|(c, n)| *c += f32::from(*n));
        }
        labels.extend((0..whole).map(|t| stream.regime[t * together + together / 2]));
        at += whole;
        pieces.push(from..at);
    }
    Wide { counts, labels, pieces }
}

/// The wide bin of a stream's bin: what does not fill one at the end is of the last.
pub(super) fn bin_of(piece: &Range<usize>, t: usize, together: usize) -> usize {
    (piece.start + t / together).min(piece.end.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::{Trial, in_bins};

    /// Of two channels.
    fn recording(pieces: &[usize]) -> Recording {
        let counts = |n: usize| (0..2 * n).map(|i| (i % 5 % 3) as u16).collect();
        let trial = |n: &usize| Trial::unlabelled("s", in_bins(counts(*n), 2));
        Recording {
            n_channels: 2,
            bin_width_s: 0.01,
            trials: pieces.iter().map(trial).collect(),
            ..Recording::default()
        }
    }

    #[test]
    fn counts_are_summed_within_streams_alone() {
        let mut recording = recording(&[5, 4]);
        recording.trials[1].regime = vec![Some(0), Some(1), Some(0), None];
        let Wide { counts, labels, pieces } = wide(&recording, 2);
        assert_eq!(pieces, [0..2, 2..4]);
        assert_eq!(labels, [None, None, Some(1), None]);
        let raw = |trial: usize, t: usize| f32::from(recording.trials[trial].counts[(t, 1)]);
        let expected = [raw(0, 0) + raw(0, 1), raw(0, 2) + raw(0, 3), raw(1, 0) + raw(1, 1)];
        assert_eq!(counts.column(1).to_vec()[..3], expected);
    }

    #[test]
    fn what_is_left_over_at_a_streams_end_is_of_its_own_last_bin() {
        let recording = recording(&[5, 4]);
        let pieces = wide(&recording, 2).pieces;
        let bins: Vec<Vec<usize>> = (recording.trials.iter().zip(&pieces))
            .map(|(trial, piece)| (0..trial.n_bins()).map(|t| bin_of(piece, t, 2)).collect())
            .collect();
        assert_eq!(bins, [vec![0, 0, 1, 1, 1], vec![2, 2, 3, 3]]);
    }
}
