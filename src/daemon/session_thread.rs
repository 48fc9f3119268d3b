//! A session's thread: the only one that touches its engine.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::outcomes::Sending;
use super::resume::Restored;
use super::snapshot_slot::SnapshotSlot;
use crate::bus::{CountsTap, Outcome, SessionHandle};
use crate::intake::{Answer, Header, Kind, MASKED, Outlet};
use crate::regime::Engine;
use crate::triggers::Watch;

/// Most bins that a restored state is predicted through: a minute of 6 ms bins. Each costs most of
/// a bin's compute, and the session's first bin waits for all of them, while new ones fill the
/// ring.
const PREDICTED_BINS_MAX: u64 = 10_000;

/// The thread's ends of what connects it with everybody else.
pub(super) struct Ends {
    pub(super) outlet: Outlet,
    pub(super) sending: Sending<Outcome>,
    pub(super) taps: [CountsTap; 3],
    pub(super) slot: Option<Arc<SnapshotSlot>>,
    pub(super) watch: Option<Watch>,
    /// How long it looks for the next bin before it sleeps.
    pub(super) spin: Duration,
}

/// Owns the engine. After the first bins it neither allocates nor waits, but for a full ring of
/// outcomes and the first state of a larger model.
pub(super) struct SessionThread {
    engine: Engine,
    /// For the metrics worker, for calibration or warm-up, and for the live page. The latter two
    /// are full while nobody reads them.
    taps: [CountsTap; 3],
    /// Hypotheses that engines before this one lost.
    resets_before: u64,
    /// Models that the session had before this one.
    swaps: u32,
    outlet: Outlet,
    spin: Duration,
    sending: Sending<Outcome>,
    raw: Vec<u16>,
    counts: Vec<f32>,
    active: Vec<bool>,
    bin: u64,
    /// The session's triggers, where it has any.
    watch: Option<Watch>,
    /// Where its state is saved for the next start.
    slot: Option<Arc<SnapshotSlot>>,
    /// Fingerprint of model, readout and rule, saved with the state.
    fingerprint: String,
    /// Bins since it was saved.
    since_state: u64,
    session: Arc<SessionHandle>,
    /// Largest count that the model distinguishes from larger ones.
    count_max: f32,
    /// The restored state, until the session's first bin has come.
    restored: Option<Restored>,
}

impl SessionThread {
    /// For a session's start; `restored`: the state that the engine was restored to.
    pub(super) fn new(
        session: Arc<SessionHandle>,
        ends: Ends,
        (engine, fingerprint): (Engine, String),
        restored: Option<Restored>,
    ) -> Self {
        let n_channels = session.port.settings().n_channels;
        Self {
            count_max: engine.count_max(),
            engine,
            fingerprint,
            restored,
            taps: ends.taps,
            outlet: ends.outlet,
            spin: ends.spin,
            sending: ends.sending,
            slot: ends.slot,
            watch: ends.watch,
            session,
            resets_before: 0,
            swaps: 0,
            raw: vec![0; n_channels],
            counts: vec![0.0; n_channels],
            active: vec![true; n_channels],
            bin: 0,
            since_state: 0,
        }
    }

    /// Runs until the port is closed and everything that waits is done.
    pub(super) fn run(mut self) {
        loop {
            match self.outlet.next(&mut self.raw) {
                Answer::Found(header) => self.handle(&header),
                Answer::Ended => break,
                Answer::Nothing => {
                    // A session without bins takes an engine over as well: whoever offered it
                    // waits.
                    self.take_over();
                    if !self.look() {
                        self.outlet.sleep();
                    }
                }
            }
        }
    }

    /// Looks for the next bin for as long as it should before it sleeps; whether one has come. A
    /// thread that sleeps takes tens of microseconds to wake; one that looks takes a core.
    fn look(&self) -> bool {
        if self.spin.is_zero() {
            return false;
        }
        let until = Instant::now() + self.spin;
        while Instant::now() < until {
            if self.outlet.has_next() {
                return true;
            }
            std::hint::spin_loop();
        }
        false
    }

    fn handle(&mut self, header: &Header) {
        match header.kind {
            Kind::First => {
                self.pass_downtime(header);
                self.taps.iter_mut().for_each(CountsTap::skip);
            }
            Kind::Start => {
                // Another recording: what a state was restored for is over.
                self.restored = None;
                self.engine.restart();
                self.taps.iter_mut().for_each(CountsTap::skip);
            }
            Kind::Missing(n) => {
                let width = self.session.port.width_ns();
                for i in 0..u64::from(n) {
                    // The header's time is that of the bin after the gap.
                    let before = width.saturating_mul((u64::from(n) - i) as i64);
                    let rig_time_ns = match header.rig_time_ns {
                        0 => 0,
                        t => t.saturating_sub(before),
                    };
                    let missing = Header { rig_time_ns, sequence: header.sequence + i, ..*header };
                    self.bin(&missing, false);
                }
            }
            Kind::Bin => {
                self.unmask();
                self.bin(header, true);
            }
        }
    }

    /// Counts to `f32`, masked channels switched off.
    fn unmask(&mut self) {
        let (mut changed, mut beyond) = (false, false);
        for ((count, active), &raw) in self.counts.iter_mut().zip(&mut self.active).zip(&self.raw) {
            let on = raw != MASKED;
            changed |= on != *active;
            *active = on;
            *count = if on { f32::from(raw) } else { 0.0 };
            beyond |= *count > self.count_max;
        }
        if beyond {
            self.session.vitals.bins_beyond.fetch_add(1, Ordering::Relaxed);
        }
        if changed {
            self.engine.set_active(self.active.iter().copied());
        }
    }

    /// Before the session's first bin: a restored state is predicted through what was missed while
    /// the daemon was down, and given up where that was too long.
    fn pass_downtime(&mut self, header: &Header) {
        let Some(restored) = self.restored.take() else { return self.engine.restart() };
        let width_s = self.session.facts().bin_width_s;
        match restored.missed(header.sequence, header.received.wall_ns, width_s) {
            Some(missed) => {
                (0..missed.min(PREDICTED_BINS_MAX)).for_each(|_| self.engine.pass());
            }
            None => {
                let session = self.session.name();
                tracing::info!(session, "the restored state was too old for the first bin");
                self.engine.restart();
            }
        }
    }

    /// Another engine, where one waits.
    fn take_over(&mut self) {
        let resets = self.engine.filter_resets();
        let taken =
            self.session.handoff.take(&mut self.engine, &mut self.swaps, &mut self.fingerprint);
        if taken {
            self.resets_before += resets;
            self.count_max = self.engine.count_max();
            self.engine.set_active(self.active.iter().copied());
        }
    }

    fn bin(&mut self, header: &Header, seen: bool) {
        let began = Instant::now();
        // Before the bin, so that its estimate and its label are of one engine.
        self.take_over();
        let change = self.engine.push(seen.then_some(self.counts.as_slice()));
        let done = Instant::now();
        let nanoseconds = |from: Instant| {
            u64::try_from(done.saturating_duration_since(from).as_nanos()).unwrap_or(u64::MAX)
        };
        let outcome = Outcome {
            sequence: header.sequence,
            bin: self.bin,
            rig_time_ns: header.rig_time_ns,
            received_wall_ns: header.received.wall_ns,
            latency_ns: nanoseconds(header.received.instant),
            compute_ns: nanoseconds(began),
            label: self.engine.label(),
            untrusted: !self.engine.trusted(),
            change,
            predicted: !seen,
            waiting: u32::try_from(self.outlet.waiting()).unwrap_or(u32::MAX),
            filter_resets: self.resets_before + self.engine.filter_resets(),
            swaps: self.swaps,
            ..Outcome::of(self.engine.estimate(), self.engine.experts())
        };
        self.bin += 1;
        // Before anybody else hears of it: the loop is closed first.
        if let Some(watch) = &mut self.watch {
            watch.see(&outcome, done);
        }
        // The decision next; everything below can wait.
        self.sending.send(outcome);
        if let Some(slot) = &self.slot {
            let (engine, since) = (&mut self.engine, &mut self.since_state);
            slot.store(engine, header.sequence, since, change.is_some(), &self.fingerprint);
        }
        // Once the decision is out.
        for tap in &mut self.taps {
            if seen {
                tap.push(&self.raw);
            } else {
                tap.skip();
            }
        }
    }
}
