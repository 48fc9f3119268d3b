//! What the rest of the program counts with.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::declared::*;

/// Shown as 0 before the first.
pub(super) fn begin() {
    for reason in [
        "too_many_connections",
        "too_many_connections_of_one_peer",
        "said_nothing",
        "no_handshake",
        "slow_subscriber",
        "no_request",
        "idle",
        "oversized_request",
        "takes_nothing",
        "http2",
        "made_room",
    ] {
        counter!(CONNECTIONS_CUT, "reason" => reason).increment(0);
    }
    for reason in ["no_room", "not_whole"] {
        counter!(GIVEN_UP, "reason" => reason).increment(0);
    }
    for reason in ["unknown_token", "role"] {
        counter!(DENIED, "reason" => reason).increment(0);
    }
    gauge!(PAGE_VIEWERS).set(0.0);
    log_lines_lost(0);
}

/// Counts lines of the log that were lost.
pub(crate) fn log_lines_lost(n: u64) {
    counter!(LOG_LOST).increment(n);
}

/// Counts in a gauge until dropped.
pub(crate) struct Counted(Gauge);

impl Counted {
    /// Adds one to the gauge.
    #[must_use]
    pub(crate) fn new(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

pub(crate) fn subscribers(session: &str) -> Gauge {
    gauge!(SUBSCRIBERS, "session" => session.to_owned())
}

/// Viewers of the live page.
pub(crate) fn page_viewers() -> Gauge {
    gauge!(PAGE_VIEWERS)
}

/// Counts a rejected message.
pub(crate) fn rejected(session: &str, reason: &'static str) {
    counter!(REJECTED, "session" => session.to_owned(), "reason" => reason).increment(1);
}

/// Counts decisions that a subscriber lost.
pub(crate) fn lost_by_subscriber(session: &str, n: u64) {
    counter!(LOST, "session" => session.to_owned()).increment(n);
}

/// A session's calibration is in `state`, one of `states`.
pub(crate) fn calibration(session: &str, states: &[&'static str], state: &str) {
    for &of in states {
        gauge!(CALIBRATION, "session" => session.to_owned(), "state" => of)
            .set(f64::from(u8::from(of == state)));
    }
}

/// Counts a request that was denied.
pub(crate) fn denied(reason: &'static str) {
    counter!(DENIED, "reason" => reason).increment(1);
}

/// Counts a connection that was cut, or not let in.
pub(crate) fn connection_cut(reason: &'static str) {
    counter!(CONNECTIONS_CUT, "reason" => reason).increment(1);
}

/// Counts a message that was given up before it was whole.
pub(crate) fn message_given_up(reason: &'static str) {
    counter!(GIVEN_UP, "reason" => reason).increment(1);
}

/// A session is in `state`.
pub(crate) fn session_state(session: &str, state: &str) {
    for of in ["running", "paused", "stopped"] {
        gauge!(SESSION_STATE, "session" => session.to_owned(), "state" => of)
            .set(f64::from(u8::from(of == state)));
    }
}

/// A session's triggers are armed, or not.
pub(crate) fn triggers_armed(session: &str, armed: bool) {
    gauge!(TRIGGERS_ARMED, "session" => session.to_owned()).set(f64::from(u8::from(armed)));
}

/// Metrics of one trigger.
#[derive(Clone)]
pub(crate) struct TriggerMetrics {
    session: String,
    trigger: String,
    /// Its worker was too busy to take one more.
    pub given_up: Counter,
    /// Decision to sent.
    pub latency: Histogram,
}

impl TriggerMetrics {
    /// Handles for a session's trigger.
    #[must_use]
    pub(crate) fn new(session: &str, trigger: &str) -> Self {
        let (session, trigger) = (session.to_owned(), trigger.to_owned());
        let latency =
            histogram!(TRIGGER, "session" => session.clone(), "trigger" => trigger.clone());
        let mut metrics = Self { given_up: Counter::noop(), latency, session, trigger };
        metrics.given_up = metrics.counter("given_up");
        metrics
    }

    fn counter(&self, outcome: &str) -> Counter {
        let (session, trigger) = (self.session.clone(), self.trigger.clone());
        let outcome = outcome.to_owned();
        counter!(TRIGGERS, "session" => session, "trigger" => trigger, "outcome" => outcome)
    }

    /// What became of it.
    pub(crate) fn became(&self, outcome: &str) {
        self.counter(outcome).increment(1);
    }
}

/// A session has another model.
pub(crate) fn model_swapped(session: &str) {
    counter!(MODEL_SWAPS, "session" => session.to_owned()).increment(1);
}

/// A condition holds, or not any more.
pub(crate) fn condition(session: &str, name: &'static str, holds: bool) {
    gauge!(CONDITION, "session" => session.to_owned(), "condition" => name)
        .set(f64::from(u8::from(holds)));
}

pub(crate) struct JournalMetrics {
    /// Records kept.
    pub records: Counter,
    /// Records dropped.
    pub dropped: Counter,
    /// Attempts that failed.
    pub failures: Counter,
    /// Records that wait.
    pub waiting: Gauge,
    /// Bytes on disk.
    pub bytes: Gauge,
    /// 1 while the disk fails.
    pub failing: Gauge,
    /// Time to keep a group.
    pub commit: Histogram,
}

impl JournalMetrics {
    /// Handles of a log: "journal", or "decisions" where these are recorded.
    #[must_use]
    pub(crate) fn new(log: &'static str) -> Self {
        let metrics = Self {
            records: counter!(JOURNAL_RECORDS, "log" => log),
            dropped: counter!(JOURNAL_DROPPED, "log" => log),
            failures: counter!(JOURNAL_FAILURES, "log" => log),
            waiting: gauge!(JOURNAL_WAITING, "log" => log),
            bytes: gauge!(JOURNAL_BYTES, "log" => log),
            failing: gauge!(JOURNAL_FAILING, "log" => log),
            commit: histogram!(JOURNAL_COMMIT, "log" => log),
        };
        for counter in [&metrics.records, &metrics.dropped, &metrics.failures] {
            counter.increment(0);
        }
        metrics.failing.set(0.0);
        metrics
    }
}

/// A session's connection to its rig.
#[derive(Clone)]
pub struct SourceMetrics {
    session: String,
    connected: Gauge,
    connections: Counter,
    /// Messages understood.
    pub taken: Counter,
    /// Messages that were not.
    pub garbled: Counter,
    /// Messages of no interest here.
    pub ignored: Counter,
    /// Messages found missing.
    pub lost: Counter,
}

impl SourceMetrics {
    /// Handles for a session.
    #[must_use]
    pub fn new(session: &str) -> Self {
        let of = |outcome: &'static str| {
            let session = session.to_owned();
            counter!(SOURCE_MESSAGES, "session" => session, "outcome" => outcome)
        };
        let metrics = Self {
            connected: gauge!(SOURCE_CONNECTED, "session" => session.to_owned()),
            connections: counter!(SOURCE_CONNECTIONS, "session" => session.to_owned()),
            taken: of("taken"),
            garbled: of("garbled"),
            ignored: of("ignored"),
            lost: counter!(MESSAGES_LOST, "session" => session.to_owned()),
            session: session.to_owned(),
        };
        metrics.connected.set(0.0);
        for c in [&metrics.taken, &metrics.garbled, &metrics.ignored, &metrics.lost] {
            c.increment(0);
        }
        metrics
    }

    /// Connected or not.
    pub fn connected(&self, connected: bool) {
        self.connected.set(f64::from(u8::from(connected)));
        self.connections.increment(u64::from(connected));
    }

    /// An edge of a TTL line.
    pub(crate) fn ttl_edge(&self, line: u8) {
        counter!(TTL_EDGES, "session" => self.session.clone(), "line" => line.to_string())
            .increment(1);
    }
}

/// A session's Redis stream.
pub(crate) struct BusOutMetrics {
    connected: Gauge,
    /// Decisions written.
    pub decisions: Counter,
    /// Events written.
    pub events: Counter,
    /// Decisions lost.
    pub lost: Counter,
}

impl BusOutMetrics {
    /// Handles for a session.
    #[must_use]
    pub(crate) fn new(session: &str) -> Self {
        let of = |kind: &'static str| {
            let session = session.to_owned();
            counter!(OUT_SENT, "session" => session, "kind" => kind)
        };
        let metrics = Self {
            connected: gauge!(OUT_CONNECTED, "session" => session.to_owned()),
            decisions: of("decision"),
            events: of("event"),
            lost: counter!(OUT_LOST, "session" => session.to_owned()),
        };
        metrics.connected(false);
        metrics.lost.increment(0);
        metrics
    }

    /// Connected or not.
    pub(crate) fn connected(&self, connected: bool) {
        self.connected.set(f64::from(u8::from(connected)));
    }
}

/// A session's accounting of spike events, and of parts of bins.
pub(crate) struct AssemblyMetrics {
    session: String,
    /// Events received.
    pub received: Counter,
    /// Counted into bins.
    pub binned: Counter,
    /// Too late.
    pub late: Counter,
    /// Messages found missing.
    pub messages_lost: Counter,
}

impl AssemblyMetrics {
    /// Handles for a session.
    #[must_use]
    pub(crate) fn new(session: &str) -> Self {
        let of = |name: &'static str| counter!(name, "session" => session.to_owned());
        let metrics = Self {
            received: of(EVENTS_RECEIVED),
            binned: of(EVENTS_BINNED),
            late: of(EVENTS_LATE),
            messages_lost: of(MESSAGES_LOST),
            session: session.to_owned(),
        };
        for c in [&metrics.received, &metrics.binned, &metrics.late] {
            c.increment(0);
        }
        metrics.rejected("overload", 0);
        metrics
    }

    /// Counts rejected events.
    pub(crate) fn rejected(&self, reason: &'static str, n: u64) {
        counter!(EVENTS_REJECTED, "session" => self.session.clone(), "reason" => reason)
            .increment(n);
    }
}

/// A session's accounting of what came in.
pub(crate) struct IntakeMetrics {
    session: String,
    /// Bins received.
    pub received: Counter,
    /// Bins accepted.
    pub bins: Counter,
    /// Bins missing.
    pub missing: Counter,
    /// Bins late.
    pub late: Counter,
    /// Messages accepted.
    pub messages: Counter,
    pub messages_rejected: Counter,
    /// Recordings started.
    pub starts: Counter,
}

impl IntakeMetrics {
    /// Handles for a session.
    #[must_use]
    pub(crate) fn new(session: &str, queue_bins: usize) -> Self {
        let of = |name: &'static str| counter!(name, "session" => session.to_owned());
        let messages = |outcome: &'static str| {
            let session = session.to_owned();
            counter!(MESSAGES, "session" => session, "outcome" => outcome)
        };
        gauge!(QUEUE_MAX, "session" => session.to_owned()).set(queue_bins as f64);
        let metrics = Self {
            messages: messages("accepted"),
            messages_rejected: messages("rejected"),
            bins: of(BINS),
            missing: of(BINS_MISSING),
            late: of(BINS_LATE),
            starts: of(STARTS),
            received: of(BINS_RECEIVED),
            session: session.to_owned(),
        };
        // Shown as 0 before the first bin.
        for c in [
            &metrics.received,
            &metrics.bins,
            &metrics.missing,
            &metrics.late,
            &metrics.starts,
            &metrics.messages,
            &metrics.messages_rejected,
        ] {
            c.increment(0);
        }
        metrics.rejected("overload", 0);
        counter!(REJECTED, "session" => session.to_owned(), "reason" => "overload").increment(0);
        counter!(MODEL_SWAPS, "session" => session.to_owned()).increment(0);
        metrics
    }

    /// Counts rejected bins.
    pub(crate) fn rejected(&self, reason: &'static str, n: u64) {
        counter!(BINS_REJECTED, "session" => self.session.clone(), "reason" => reason).increment(n);
    }
}

/// Contact with a session's rig, and its clock.
pub(crate) struct ContactMetrics {
    offset: Gauge,
    drift: Gauge,
    jumps: Counter,
    delay: Histogram,
    /// 1 while nothing comes though something did.
    pub stalled: Gauge,
}

impl ContactMetrics {
    /// Handles for a session.
    #[must_use]
    pub(crate) fn new(session: &str) -> Self {
        let gauge = |name: &'static str| gauge!(name, "session" => session.to_owned());
        let metrics = Self {
            offset: gauge(CLOCK_OFFSET),
            drift: gauge(CLOCK_DRIFT),
            jumps: counter!(CLOCK_JUMPS, "session" => session.to_owned()),
            delay: histogram!(TRANSPORT_DELAY, "session" => session.to_owned()),
            stalled: gauge(STALLED),
        };
        metrics.stalled.set(0.0);
        // Not known yet.
        metrics.offset.set(f64::NAN);
        metrics.drift.set(f64::NAN);
        metrics.jumps.increment(0);
        metrics
    }

    /// The rig's clock: offset and drift where they are known, whether it jumped, a message's
    /// delay.
    pub(crate) fn clock(
        &self,
        (offset_s, drift): (Option<f64>, Option<f64>),
        jumped: bool,
        delay_s: f64,
    ) {
        for (gauge, value) in [(&self.offset, offset_s), (&self.drift, drift)] {
            if let Some(value) = value {
                gauge.set(value);
            }
        }
        self.jumps.increment(u64::from(jumped));
        self.delay.record(delay_s);
    }
}
