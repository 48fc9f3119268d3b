//! A recording in parts of about a minute.

use std::ops::Range;

use ndarray::{Array2, Axis};

use super::scale::{PART, WINDOW};

/// A part, cut out.
pub(crate) struct Part {
    /// `[bins, channels]`.
    pub(crate) counts: Array2<f32>,
    /// Pieces without a gap, by their bins in it, and in the whole.
    pub(crate) inside: Vec<Range<usize>>,
    pub(crate) whole: Vec<Range<usize>>,
}

/// Parts of counts `[bins, channels]` that come in pieces without a gap. Pieces shorter than a
/// window are left out.
pub(crate) fn parts(
    counts: &Array2<f32>,
    pieces: &[Range<usize>],
) -> impl ExactSizeIterator<Item = Part> {
    in_parts(pieces).into_iter().map(|whole| {
        let rows: Vec<usize> = whole.iter().flat_map(Clone::clone).collect();
        let mut from = 0;
        let inside = |piece: &Range<usize>| {
            from += piece.len();
            from - piece.len()..from
        };
        let inside = whole.iter().map(inside).collect();
        Part { counts: counts.select(Axis(0), &rows), inside, whole }
    })
}

/// Pieces in parts of about [`PART`] bins; long ones are cut.
fn in_parts(pieces: &[Range<usize>]) -> Vec<Vec<Range<usize>>> {
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
        let found = in_parts(&trials);
        let usable: Vec<Range<usize>> =
            trials.iter().filter(|t| t.len() >= WINDOW).cloned().collect();
        assert_eq!(found.concat(), usable, "all of those long enough, in order");
        let ends = |n: usize| -> Vec<usize> {
            in_parts(std::slice::from_ref(&(0..n))).concat().iter().map(|p| p.end).collect()
        };
        assert_eq!(ends(3000), [3000]);
        assert_eq!(ends(9000), [3000, 6000, 9000]);
        assert!(in_parts(&[0..10_400, 11_000..11_700]).iter().all(|part| {
            let bins: usize = part.iter().map(ExactSizeIterator::len).sum();
            (PART / 2..2 * PART).contains(&bins)
        }));
        assert!(in_parts(&[]).is_empty());
    }
}
