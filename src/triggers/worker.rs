//! What a trigger does beside the session's thread: the slower acts, and the record of each.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use tokio::task::JoinHandle;

use super::firing::{Fate, Firing};
use super::message::Message;
use super::settings::Settings;
use super::target::Line;
use crate::bus::SessionHandle;
use crate::journal::Journal;
use crate::telemetry::TriggerMetrics;
use crate::wire::journal_record::What;
use crate::wire::{TriggerOutcome, Triggered};

/// A trigger's worker.
pub(crate) struct Worker {
    pub(super) session: Arc<SessionHandle>,
    pub(super) settings: Settings,
    /// Its place among the session's triggers.
    pub(super) index: usize,
    pub(super) message: Message,
    pub(super) firings: Receiver<Firing>,
    pub(super) journal: Option<Arc<Journal>>,
    pub(super) metrics: TriggerMetrics,
}

impl Worker {
    /// Starts it on a thread of its own, until the session's thread has ended and nothing waits.
    pub(crate) fn start(self) -> JoinHandle<()> {
        tokio::task::spawn_blocking(move || self.run())
    }

    /// Acts and records. Blocks.
    fn run(self) {
        let runtime = tokio::runtime::Handle::current();
        let mut line = runtime.block_on(Line::open(&self.settings.target, self.session.name()));
        let mut text = self.message.buffer();
        while let Ok(firing) = self.firings.recv() {
            let (outcome, latency_ns, why) = match firing.fate {
                Fate::Held(outcome) => (outcome, 0, String::new()),
                Fate::Sent(latency_ns) => (TriggerOutcome::Sent, latency_ns, String::new()),
                Fate::Failed(kind) => (TriggerOutcome::Failed, 0, kind.to_string()),
                // Whoever disarms it wants nothing more of it, also not what waits.
                Fate::Due if !self.session.triggers.are_armed() => {
                    (TriggerOutcome::Disarmed, 0, String::new())
                }
                Fate::Due => {
                    self.message.write(&firing, &mut text);
                    match runtime.block_on(line.act(&text, &self.settings.name)) {
                        Ok(at) => {
                            let spent = at.saturating_duration_since(firing.decided).as_nanos();
                            let spent = u64::try_from(spent).unwrap_or(u64::MAX);
                            (TriggerOutcome::Sent, spent, String::new())
                        }
                        Err(why) => (TriggerOutcome::Failed, 0, why),
                    }
                }
            };
            self.record(&firing, outcome, latency_ns, &why);
            runtime.block_on(line.settle());
        }
    }

    fn record(&self, firing: &Firing, outcome: TriggerOutcome, latency_ns: u64, why: &str) {
        let name = outcome.as_str_name().trim_start_matches("TRIGGER_OUTCOME_");
        self.metrics.became(&name.to_lowercase());
        if outcome == TriggerOutcome::Sent {
            self.metrics.latency.record(latency_ns as f64 * 1e-9);
        }
        let target = &self.session.triggers.each[self.index].target;
        let detail = if why.is_empty() { target.clone() } else { format!("{target}: {why}") };
        let (session, trigger) = (self.session.name(), &self.settings.name);
        if outcome == TriggerOutcome::Failed {
            tracing::warn!(session, trigger, bin = firing.bin, "a trigger failed: {detail}");
        } else {
            let latency_us = latency_ns / 1000;
            tracing::info!(session, trigger, bin = firing.bin, latency_us, "trigger: {name}");
        }
        let record = Triggered {
            trigger: trigger.clone(),
            outcome: outcome.into(),
            bin: firing.bin,
            sequence: firing.sequence,
            rig_time_ns: firing.rig_time_ns,
            decision_time_ns: firing.decided_wall_ns,
            latency_ns,
            probability: firing.probability,
            detail,
        };
        if let Some(journal) = &self.journal {
            journal.add(session, What::Triggered(record));
        }
    }
}
