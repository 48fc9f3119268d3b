//! The regimes' mean rates as an expert: forward filtering of a Poisson hidden Markov model.

use pulp::{Simd, WithSimd};

use super::expert::Expert;
use crate::inference::{Seen, Tape};
use crate::model::{RateStates, values};

/// Posterior of the states, filtered bin by bin.
#[derive(Debug)]
pub(crate) struct RateFilter {
    arch: pulp::Arch,
    /// `[n_channels, states]`, and their natural logs.
    rates: Vec<f32>,
    log_rates: Vec<f32>,
    /// `[states, states]`.
    transition: Vec<f32>,
    regime: Vec<usize>,
    power: f32,
    /// `P(state | counts so far)`, `[states]`.
    probability: Vec<f32>,
    predicted: Vec<f32>,
    evidence: Vec<f32>,
}

impl RateFilter {
    pub(crate) fn new(of: &RateStates) -> Self {
        let states = of.regime.len();
        let by_channel = of.rates.t();
        let rates: Vec<f32> = by_channel.iter().copied().collect();
        let mut filter = Self {
            arch: pulp::Arch::new(),
            log_rates: rates.iter().map(|r| r.ln()).collect(),
            rates,
            transition: values(&of.transition).to_vec(),
            regime: of.regime.clone(),
            power: of.power,
            probability: vec![0.0; states],
            predicted: vec![0.0; states],
            evidence: vec![0.0; states],
        };
        filter.reset();
        filter
    }
}

impl Expert for RateFilter {
    // Every state is as probable as any other.
    fn reset(&mut self) {
        self.probability.fill(1.0 / self.regime.len() as f32);
    }

    fn predict(&mut self) {
        self.predicted.fill(0.0);
        let rows = self.transition.chunks_exact(self.regime.len());
        for (row, &p) in rows.zip(&self.probability) {
            self.predicted.iter_mut().zip(row).for_each(|(to, a)| *to += p * a);
        }
        self.probability.copy_from_slice(&self.predicted);
    }

    fn update(&mut self, seen: Seen<'_>) {
        self.predict();
        let arch = self.arch;
        let Self { rates, log_rates, evidence, .. } = &mut *self;
        arch.dispatch(Evidence { rates, log_rates, seen, out: evidence });
        let top = self.evidence.iter().copied().fold(f32::MIN, f32::max);
        let mut total = 0.0;
        for (p, e) in self.probability.iter_mut().zip(&self.evidence) {
            *p *= (self.power * (e - top)).exp();
            total += *p;
        }
        if total > 0.0 {
            // Never 0: no state is given up for good.
            let floor = f32::MIN_POSITIVE;
            self.probability.iter_mut().for_each(|p| *p = (*p / total).max(floor));
        } else {
            // What was probable is impossible: the bin alone tells.
            let best = self.evidence.iter().map(|&e| f32::from(u8::from(e >= top)));
            self.probability.iter_mut().zip(best).for_each(|(p, b)| *p = b);
        }
    }

    fn posterior(&self, out: &mut [f32]) {
        out.fill(0.0);
        for (&regime, p) in self.regime.iter().zip(&self.probability) {
            if let Some(to) = out.get_mut(regime) {
                *to += p;
            }
        }
        let total: f32 = out.iter().sum::<f32>().max(f32::MIN_POSITIVE);
        out.iter_mut().for_each(|p| *p /= total);
    }

    fn state(&mut self, tape: &mut Tape) {
        tape.floats(&mut self.probability);
    }

    fn is_sound(&self) -> bool {
        let fits = |p: &f32| (0.0..=1.001).contains(p);
        self.probability.iter().all(fits) && self.probability.iter().sum::<f32>() > 0.5
    }
}

/// Log-likelihood of a bin's counts in each state, up to what all states share.
struct Evidence<'a> {
    rates: &'a [f32],
    log_rates: &'a [f32],
    seen: Seen<'a>,
    out: &'a mut [f32],
}

impl WithSimd for Evidence<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let states = self.out.len();
        self.out.fill(0.0);
        let Seen { counts, weight, gain } = self.seen;
        let rows = self.rates.chunks_exact(states).zip(self.log_rates.chunks_exact(states));
        for (i, (rate, log_rate)) in rows.enumerate() {
            let expected = weight[i] * gain[i];
            self.out.iter_mut().zip(rate).for_each(|(o, r)| *o -= expected * r);
            if counts[i] > 0.0 {
                self.out.iter_mut().zip(log_rate).for_each(|(o, l)| *o += counts[i] * l);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::arr2;

    use super::*;

    #[test]
    fn the_posterior_is_that_of_all_paths_enumerated() {
        let of = RateStates {
            rates: arr2(&[[0.2, 1.5], [2.0, 0.3], [0.7, 0.7]]),
            transition: arr2(&[[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.3, 0.6]]),
            regime: vec![0, 1, 1],
            power: 0.4,
        };
        let bins = [[0.0f32, 2.0], [1.0, 0.0], [3.0, 1.0], [0.0, 0.0], [1.0, 1.0]];
        let mut filter = RateFilter::new(&of);
        let (weight, gain) = ([1.0f32, 1.0], [1.0f32, 2.0]);
        let mut total = [0.0f64; 2];
        for path in 0..3usize.pow(bins.len() as u32) {
            let at = |t: usize| path / 3usize.pow(t as u32) % 3;
            // The state before the first bin may be any.
            let mut p: f64 = (0..3).map(|a| f64::from(of.transition[[a, at(0)]]) / 3.0).sum();
            for (t, counts) in bins.iter().enumerate() {
                if t > 0 {
                    p *= f64::from(of.transition[[at(t - 1), at(t)]]);
                }
                for i in 0..2 {
                    let rate = f64::from(of.rates[[at(t), i]] * gain[i]);
                    let log = f64::from(counts[i]) * rate.ln() - rate;
                    p *= (f64::from(of.power) * log).exp();
                }
            }
            total[of.regime[at(bins.len() - 1)]] += p;
        }
        for counts in &bins {
            filter.update(Seen { counts, weight: &weight, gain: &gain });
        }
        let mut found = [0.0f32; 2];
        filter.posterior(&mut found);
        let expected = total[1] / (total[0] + total[1]);
        assert!((f64::from(found[1]) - expected).abs() < 1e-5, "{found:?} for {expected}");
    }

    #[test]
    fn counts_that_no_state_allows_leave_a_posterior() {
        let of = RateStates {
            rates: arr2(&[[1e-4], [1e-4]]),
            transition: arr2(&[[1.0, 0.0], [0.0, 1.0]]),
            regime: vec![0, 1],
            power: 1.0,
        };
        let mut filter = RateFilter::new(&of);
        let mut found = [0.0f32; 2];
        for count in [4000.0f32, 0.0, 4000.0] {
            filter.update(Seen { counts: &[count], weight: &[1.0], gain: &[0.05] });
            filter.posterior(&mut found);
            assert!((found[0] + found[1] - 1.0).abs() < 1e-5 && filter.is_sound(), "{found:?}");
        }
    }
}
