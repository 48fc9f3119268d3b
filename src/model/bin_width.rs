//! A model at another bin width than it was trained on.

use super::Model;

/// Largest ratio of bin widths, either way.
pub(super) const BIN_RATIO_MAX: f64 = 10.0;

/// Widths and rates that differ by no more than this share are the same: they were computed or
/// written down in other ways.
const SAME_WITHIN: f64 = 1e-6;

/// Whether two bin widths, or rates, are the same. Never so where one is NaN.
#[must_use]
pub(crate) fn nearly_equal(a: f64, b: f64) -> bool {
    (a - b).abs() <= SAME_WITHIN * b.abs()
}

/// How many times `narrow` goes into `wide`, where that is a whole number.
#[must_use]
pub(crate) fn whole_ratio(wide: f64, narrow: f64) -> Option<usize> {
    let ratio = wide / narrow;
    let whole = ratio.round();
    ((1.0..=1e6).contains(&whole) && nearly_equal(ratio, whole)).then_some(whole as usize)
}

/// A bin width that a model cannot serve.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "expected bins of {} to {} ms (the model was trained on {trained_ms} ms), found {found_ms} ms",
    trained_ms / BIN_RATIO_MAX,
    trained_ms * BIN_RATIO_MAX
)]
pub struct BinWidthError {
    /// Bin width of the training, ms.
    trained_ms: f64,
    /// Bin width asked for, ms.
    found_ms: f64,
}

impl Model {
    /// The model for bins of another width, with `r` their ratio: the leak over a bin becomes `1 -
    /// (1-a)^r` (exact for a drive that is constant within a bin), process noise follows from the
    /// leak, `(1 - (1-a)^(2r)) / (1 - (1-a)^2)`; rates, hazards and the embedding's drift are
    /// multiplied by `r`, dispersions divided (counts of neighbouring bins independent). Sessions
    /// have the dynamics alone there: experts beside them hold for the bins they learned from, as
    /// do the signs of known dynamics.
    ///
    /// # Errors
    /// Where one width is more than `BIN_RATIO_MAX` times the other.
    pub fn at_bin_width(&self, bin_width_s: f64) -> Result<Self, BinWidthError> {
        let r = bin_width_s / self.bin_width_s;
        if nearly_equal(bin_width_s, self.bin_width_s) {
            return Ok(self.clone());
        }
        let (low, high) = (1.0 / BIN_RATIO_MAX - 1e-9, BIN_RATIO_MAX + 1e-9);
        if !(low..=high).contains(&r) {
            let (trained_ms, found_ms) = (self.bin_width_s * 1e3, bin_width_s * 1e3);
            return Err(BinWidthError { trained_ms, found_ms });
        }
        let mut model = self.clone();
        model.bin_width_s = bin_width_s;
        let kept = 1.0 - f64::from(self.network.leak);
        model.network.leak = (1.0 - kept.powf(r)) as f32;
        let noise = (1.0 - kept.powf(2.0 * r)) / (1.0 - kept * kept);
        model.network.process_variance *= noise as f32;
        let shift = r.ln() as f32;
        for readout in &mut model.readouts {
            readout.baseline += shift;
            readout.dispersion.iter_mut().for_each(|alpha| *alpha /= r as f32);
            // A recurrent network learned from bins of one width knows no other.
            readout.experts = None;
        }
        let online = &mut model.online;
        online.known = None;
        online.log_rate_bounds.iter_mut().for_each(|b| *b += shift);
        online.embedding_drift *= r as f32;
        if let Some(rule) = &mut online.rule {
            rule.dwell_bins = (f64::from(rule.dwell_bins) / r).round().max(1.0) as u32;
        }
        for mut row in online.hazard_per_bin.rows_mut() {
            let sum: f32 = row.iter().sum();
            // The probability of leaving at all within the bin, spread as before.
            let left = 1.0 - (1.0 - f64::from(sum)).powf(r);
            if sum > 0.0 {
                row *= (left / f64::from(sum)) as f32;
            }
        }
        Ok(model)
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array1, Array2, Array3};

    use crate::inference::example_model;
    use crate::model::ChosenRule;
    use crate::model::experts::{AveragesHead, Experts, RateStates, RecurrentHead};

    #[test]
    fn two_short_steps_are_about_a_long_one() {
        let model = example_model();
        let half = model.at_bin_width(0.005).expect("half");
        let factors = model.hypernetwork.factors(&[0.3, -0.2, 0.5]);
        let kappa = [0.4f32, -0.7];
        let (mut once, mut twice) = ([0.0f32; 2], [0.0f32; 2]);
        model.advance(&factors, &kappa, &mut once);
        half.advance(&factors, &kappa, &mut twice);
        let middle = twice;
        half.advance(&factors, &middle, &mut twice);
        for r in 0..2 {
            let moved = (once[r] - kappa[r]).abs();
            assert!((once[r] - twice[r]).abs() < 0.1 * moved + 1e-3, "{once:?} {twice:?}");
        }
        let (a, b) = (&model.readouts[0].baseline, &half.readouts[0].baseline);
        assert!((a[0].exp() - 2.0 * b[0].exp()).abs() < 1e-5);
        // There and back again.
        let back = half.at_bin_width(0.01).expect("back");
        assert!((back.network.leak - model.network.leak).abs() < 1e-6);
        for (x, y) in back.online.hazard_per_bin.iter().zip(&model.online.hazard_per_bin) {
            assert!((x - y).abs() < 1e-6);
        }
        for (x, y) in back.network.process_variance.iter().zip(&model.network.process_variance) {
            assert!((x - y).abs() < 1e-6);
        }
    }

    #[test]
    fn what_holds_for_bins_of_one_width_does_not_go_with_another() {
        let mut model = example_model();
        model.readouts[0].experts = Some(Experts {
            rates: RateStates {
                rates: Array2::ones((1, 1)),
                transition: Array2::ones((1, 1)),
                regime: vec![0],
                power: 1.0,
            },
            averages: AveragesHead {
                mean: Array1::ones(1),
                shares: vec![0.5],
                weights: Array3::ones((1, 1, 2)),
                bias: Array1::ones(2),
            },
            recurrent: RecurrentHead {
                mean: Array1::ones(1),
                input: Array2::ones((1, 3)),
                bias: Array1::ones(3),
                recurrent: Array2::ones((1, 3)),
                output: Array2::ones((1, 2)),
                output_bias: Array1::ones(2),
            },
        });
        let rule =
            ChosenRule { probability_min: 0.6, dwell_bins: 3, unlabelled: true, evenness: 0.0 };
        model.online.rule = Some(rule);
        assert!(model.at_bin_width(0.01).expect("the same").readouts[0].experts.is_some());
        let half = model.at_bin_width(0.005).expect("half");
        assert!(half.readouts[0].experts.is_none());
        assert_eq!(half.online.rule, Some(ChosenRule { dwell_bins: 6, ..rule }));
    }

    #[test]
    fn too_far_is_refused_in_words() {
        let error = example_model().at_bin_width(0.2).expect_err("too wide").to_string();
        assert!(error.contains("1 to 100 ms") && error.contains("found 200 ms"), "{error}");
    }
}
