//! Scores live decisions against the truth of what was sent.

use std::collections::HashMap;
use std::time::Instant;

use crate::regime::{ChangeScore, ChangeVerdict, Score, Verdict, quantile};
use crate::wire::Decision;

/// Most sent bins that wait for their decisions.
const WAITING_MAX: usize = 1 << 20;

/// A bin that was sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) truth: Option<usize>,
    /// First bin of a stream.
    pub(crate) starts: bool,
    pub(crate) at: Instant,
}

/// Durations in microseconds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Durations {
    microseconds: Vec<f64>,
}

impl Durations {
    pub(crate) fn push(&mut self, microseconds: f64) {
        self.microseconds.push(microseconds);
    }

    /// p50, p99, p99.9 and the largest; zeros where nothing was measured.
    pub(crate) fn percentiles(&self) -> [f64; 4] {
        let mut sorted = self.microseconds.clone();
        sorted.sort_by(f64::total_cmp);
        [0.5, 0.99, 0.999, 1.0].map(|q| quantile(&sorted, q).unwrap_or(0.0))
    }
}

/// Judges one session's decisions as they come.
pub(crate) struct Scoreboard {
    names: Vec<String>,
    bin_width_s: f64,
    waiting: HashMap<u64, Sent>,
    score: Score,
    changes: ChangeScore,
    sent: u64,
    predicted: u64,
    pub(crate) round_trip: Durations,
    pub(crate) daemon: Durations,
    pub(crate) compute: Durations,
}

impl Scoreboard {
    pub(crate) fn new(names: Vec<String>, bin_width_s: f64) -> Self {
        Self {
            score: Score::new(names.len(), bin_width_s),
            names,
            bin_width_s,
            waiting: HashMap::new(),
            changes: ChangeScore::default(),
            sent: 0,
            predicted: 0,
            round_trip: Durations::default(),
            daemon: Durations::default(),
            compute: Durations::default(),
        }
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    pub(crate) fn sent(&mut self, sequence: u64, bin: Sent) {
        self.sent += 1;
        if self.waiting.len() < WAITING_MAX {
            self.waiting.insert(sequence, bin);
        }
    }

    /// Bins sent without a decision so far.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The next decision; `None` where its bin was not sent here, else the truth it was judged
    /// against.
    pub(crate) fn judge(&mut self, decision: &Decision, now: Instant) -> Option<Option<usize>> {
        let sent = self.waiting.remove(&decision.sequence)?;
        if sent.starts {
            self.score.start_stream();
            self.changes.start_stream();
        }
        self.predicted += u64::from(decision.predicted);
        self.score.push(sent.truth, &decision.posterior);
        let label = self.names.iter().position(|n| *n == decision.regime);
        self.changes.push(sent.truth, label, None);
        self.round_trip.push(now.saturating_duration_since(sent.at).as_secs_f64() * 1e6);
        self.daemon.push(decision.latency_ns as f64 * 1e-3);
        self.compute.push(decision.compute_ns as f64 * 1e-3);
        Some(sent.truth)
    }

    pub(crate) fn verdict(&self) -> Verdict {
        self.score.verdict()
    }

    pub(crate) fn changes(&self) -> ChangeVerdict {
        self.changes.verdict(self.bin_width_s)
    }

    /// Everything in a few lines.
    pub(crate) fn summary(&self) -> String {
        let v = self.verdict();
        let c = self.changes();
        let seconds = |x: Option<f64>| x.map_or("-".into(), |x| format!("{:.0} ms", x * 1e3));
        let part = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.3}"));
        let times = |d: &Durations| {
            let [p50, p99, p999, max] = d.percentiles();
            format!("p50 {p50:.0}, p99 {p99:.0}, p99.9 {p999:.0}, max {max:.0} us")
        };
        format!(
            "bins       {} sent, {} decided, {} of them missing and predicted through, {} without \
             a decision\n\
             accuracy   {:.3} of {} labelled bins (balanced {:.3}); {} after 0.5 s, {} after 1 s \
             of a regime\n\
             changes    {} of {} found, median delay {}, 90 % within {}; {:.1} false per minute\n\
             latency    sent to decision received: {}\n\
             \x20          received to decided in the daemon: {}\n\
             \x20          filter bank alone: {}",
            self.sent,
            self.round_trip.microseconds.len(),
            self.predicted,
            self.waiting.len(),
            v.accuracy,
            v.n_bins,
            v.balanced_accuracy,
            part(v.accuracy_after_500ms),
            part(v.accuracy_after_1s),
            c.found,
            c.changes,
            seconds(c.median_delay_s),
            seconds(c.p90_delay_s),
            c.false_changes_per_minute,
            times(&self.round_trip),
            times(&self.daemon),
            times(&self.compute),
        )
    }
}
