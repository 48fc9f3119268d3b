//! What each channel does, for the page: its rate beside the one that the model learned, and
//! whether it has fallen silent or fires as no unit does.

use serde::Serialize;

use crate::bus::Plan;
use crate::intake::MASKED;

/// Time constant of the rates, seconds.
const RATE_WINDOW_S: f64 = 10.0;
/// A channel is silent when no spike came where this many were expected, as the fit has it.
const SILENCE: f64 = 14.0;
/// A channel's rate is an artefact's above this many times what was learned...
const TIMES: f64 = 5.0;
/// ...by as many standard deviations of the counts expected in the window...
const DEVIATIONS: f64 = 6.0;
/// ...or, where nothing was learned, above this: no unit fires so for long, Hz.
const MOST_HZ: f64 = 300.0;

/// A session's channels by name, where its model has names, and the rates that it learned, Hz.
#[derive(Debug, Serialize)]
pub(super) struct Named {
    names: Option<Vec<String>>,
    learned_hz: Option<Vec<f64>>,
}

/// Rates at rest, as the readout has them; `None` for a new animal that is not calibrated.
fn learned_hz(plan: &Plan) -> Option<Vec<f64>> {
    if plan.is_new_animal() && !plan.readout.trusted {
        return None;
    }
    let per_bin = plan.readout.baseline.iter().map(|b| f64::from(*b).exp());
    Some(per_bin.map(|rate| rate / plan.model.bin_width_s).collect())
}

/// What stands still of a session's channels.
pub(super) fn named(plan: &Plan) -> Named {
    let rounded = |learned: Vec<f64>| learned.into_iter().map(tenths).collect();
    let learned_hz = learned_hz(plan).map(rounded);
    Named { names: plan.readout.channels.clone(), learned_hz }
}

fn tenths(hz: f64) -> f64 {
    (hz * 10.0).round() / 10.0
}

/// What a channel does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Doing {
    /// It fires about as it did in training, or as much as a unit may.
    Fine,
    /// Nothing came for so long that chance does not explain it.
    Silent,
    /// It fires far more than the model learned.
    Artefact,
    /// The rig says that it does not inform.
    Masked,
}

/// All channels of a session, as the page is told.
#[derive(Debug, Serialize)]
pub(super) struct Channels<'a> {
    session: &'a str,
    /// Of the last ten seconds, Hz.
    rate_hz: Vec<f64>,
    doing: Vec<Doing>,
}

/// Rates of a session that somebody looks at.
#[derive(Debug)]
pub(super) struct Rates {
    bin_width_s: f64,
    learned_hz: Option<Vec<f64>>,
    /// Counts, discounted, and the seconds that they are of.
    counts: Vec<f64>,
    seconds: f64,
    /// Time since each channel's last spike, seconds.
    since: Vec<f64>,
    masked: Vec<bool>,
}

impl Rates {
    pub(super) fn new(plan: &Plan) -> Self {
        let n = plan.readout.n_channels();
        Self {
            bin_width_s: plan.model.bin_width_s,
            learned_hz: learned_hz(plan),
            counts: vec![0.0; n],
            seconds: 0.0,
            since: vec![0.0; n],
            masked: vec![false; n],
        }
    }

    /// Takes a bin's counts, `[channels]`.
    pub(super) fn push(&mut self, bin: &[u16]) {
        let keep = (-self.bin_width_s / RATE_WINDOW_S).exp();
        self.seconds = self.seconds * keep + self.bin_width_s;
        for (i, &count) in bin.iter().enumerate().take(self.counts.len()) {
            self.masked[i] = count == MASKED;
            if count == MASKED {
                continue;
            }
            self.counts[i] = self.counts[i] * keep + f64::from(count);
            self.since[i] = if count > 0 { 0.0 } else { self.since[i] + self.bin_width_s };
        }
    }

    pub(super) fn shown<'a>(&self, session: &'a str) -> Channels<'a> {
        let rates = self.counts.iter().map(|c| c / self.seconds.max(self.bin_width_s));
        let doing = |i: usize| {
            let learned = self.learned_hz.as_ref().map(|hz| hz[i]);
            let most = learned.map_or(MOST_HZ * self.seconds, |hz| {
                let expected = hz * self.seconds;
                TIMES * expected + DEVIATIONS * expected.max(1.0).sqrt()
            });
            // Of a channel of which nothing is known, one that fires once in a second is expected.
            if self.masked[i] {
                Doing::Masked
            } else if self.since[i] * learned.unwrap_or(1.0) > SILENCE {
                Doing::Silent
            } else if self.counts[i] > most {
                Doing::Artefact
            } else {
                Doing::Fine
            }
        };
        Channels {
            session,
            rate_hz: rates.map(tenths).collect(),
            doing: (0..self.counts.len()).map(doing).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_last_seconds_and_what_is_strange_is_named() {
        let n = 4;
        let mut rates = Rates {
            bin_width_s: 0.01,
            learned_hz: Some(vec![10.0; n]),
            counts: vec![0.0; n],
            seconds: 0.0,
            since: vec![0.0; n],
            masked: vec![false; n],
        };
        // One as learned, one without a spike, one at ten times its rate, one that is masked.
        for bin in 0..3000 {
            rates.push(&[u16::from(bin % 10 == 0), 0, 1, MASKED]);
        }
        let shown = rates.shown("rig");
        assert_eq!(shown.doing, [Doing::Fine, Doing::Silent, Doing::Artefact, Doing::Masked]);
        assert!((shown.rate_hz[0] - 10.0).abs() < 0.2, "{shown:?}");
        assert_eq!((shown.rate_hz[1], shown.rate_hz[2]), (0.0, 100.0));
        // One spike ends a silence; while a channel is masked, none grows.
        rates.push(&[0, 1, 0, 0]);
        assert_eq!(rates.shown("rig").doing[1], Doing::Fine);
        assert_eq!(rates.shown("rig").doing[3], Doing::Fine);
        // Where nothing was learned, only what no unit does is strange.
        rates.learned_hz = None;
        assert_eq!(rates.shown("rig").doing, [Doing::Fine; 4]);
    }
}
