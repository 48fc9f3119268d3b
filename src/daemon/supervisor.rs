//! Supervises the sessions, the journal and the clock four times a second, and notifies the
//! system's supervisor.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::bus::{Condition, Registry, SessionHandle};
use crate::clock::wall_ns;
use crate::config::Supervision;
use crate::journal::Journal;
use crate::platform::Notifier;

/// Interval of the checks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A session counts as fallen behind for this long after bins were refused for want of room.
const CALM: Duration = Duration::from_secs(5);
/// The filter counts as degenerate for this long after a hypothesis was restarted.
const RESET_SHOWN: Duration = Duration::from_secs(10);
/// Unknown dynamics are a mismatch from this time on, seconds.
const MISMATCH_S: f64 = 30.0;
/// Counts beyond the model are looked at in windows of this many bins.
const BEYOND_BINS: u64 = 100;
/// A larger share of a window's bins with counts beyond the model is a condition.
const BEYOND_SHARE: f64 = 0.01;
/// A session is stuck when bins wait and none is processed for this long.
const STUCK: Duration = Duration::from_secs(5);
/// A wall clock that strays from the steady one by more between two checks was set, seconds.
const JUMP_S: f64 = 1.0;
/// A clock that was set is reported for this long.
const JUMP_SHOWN: Duration = Duration::from_secs(600);

/// A session's counts at one check.
struct Counts {
    bins: u64,
    waiting: u64,
    overloaded: u64,
    resets: u64,
    /// Bins with counts beyond the model.
    beyond: u64,
    /// How long the dynamics have been none that the model knows, seconds.
    strange_s: f64,
}

impl Counts {
    fn of(session: &SessionHandle) -> Self {
        let totals = session.port.totals();
        let vitals = &session.vitals;
        let strange_bins = vitals.strange_bins.load(Relaxed);
        Self {
            bins: session.bins(),
            waiting: totals.waiting,
            overloaded: totals.overloaded,
            resets: vitals.filter_resets.load(Relaxed),
            beyond: vitals.bins_beyond.load(Relaxed),
            strange_s: strange_bins as f64 * session.facts().bin_width_s,
        }
    }

    /// Expected and found, for a condition that holds.
    fn describe(&self, condition: Condition) -> String {
        let Self { waiting, overloaded, resets, beyond, strange_s, .. } = self;
        match condition {
            Condition::SessionStuck => {
                format!("expected bins to be done, found {waiting} that wait")
            }
            Condition::FallingBehind => format!(
                "expected bins to be done as they come, found {waiting} that wait and \
                 {overloaded} refused for want of room"
            ),
            Condition::FilterDegenerate => {
                format!("expected hypotheses that stay finite, found {resets} restarted so far")
            }
            Condition::ModelMismatch => {
                format!("expected dynamics that the model knows, found others for {strange_s:.0} s")
            }
            Condition::CountsBeyondModel => format!(
                "expected counts within the model's range, found larger ones in {beyond} bins so \
                 far"
            ),
            _ => "expected counts or events from the rig, found nothing".into(),
        }
    }
}

/// A session as seen by the checks so far.
struct Seen {
    session: Weak<SessionHandle>,
    bins: u64,
    /// When bins were last done, or none waited.
    progress: Instant,
    overloaded: u64,
    overload: Option<Instant>,
    resets: u64,
    reset: Option<Instant>,
    /// Bins processed, and those beyond the model, at the last check with enough bins in between.
    counted: (u64, u64),
    beyond: bool,
}

impl Seen {
    fn at_first(session: Weak<SessionHandle>, counts: &Counts, now: Instant) -> Self {
        Self {
            session,
            bins: counts.bins,
            progress: now,
            overloaded: 0,
            overload: None,
            resets: counts.resets,
            reset: None,
            counted: (counts.bins, counts.beyond),
            beyond: false,
        }
    }

    fn update(&mut self, counts: &Counts, now: Instant) {
        if counts.bins != self.bins || counts.waiting == 0 {
            (self.bins, self.progress) = (counts.bins, now);
        }
        if counts.overloaded != self.overloaded {
            (self.overloaded, self.overload) = (counts.overloaded, Some(now));
        }
        if counts.resets != self.resets {
            (self.resets, self.reset) = (counts.resets, Some(now));
        }
        let (bins_then, beyond_then) = self.counted;
        let passed = counts.bins.saturating_sub(bins_then);
        if passed >= BEYOND_BINS {
            let beyond = counts.beyond.saturating_sub(beyond_then);
            self.beyond = beyond as f64 > BEYOND_SHARE * passed as f64;
            self.counted = (counts.bins, counts.beyond);
        }
    }
}

fn is_within(since: Option<Instant>, time: Duration, now: Instant) -> bool {
    since.is_some_and(|t| now.duration_since(t) < time)
}

/// Supervises the sessions, the journal and the clock.
pub(super) struct Supervisor {
    pub(super) registry: Arc<Registry>,
    pub(super) journal: Option<Arc<Journal>>,
    pub(super) supervision: Supervision,
}

/// Seconds by which the wall clock moved more than the steady one did.
fn strayed_s(before_ns: i64, now_ns: i64, steady: Duration) -> f64 {
    now_ns.saturating_sub(before_ns) as f64 * 1e-9 - steady.as_secs_f64()
}

impl Supervisor {
    /// Looks and reports until aborted.
    pub(super) async fn run(self) {
        let notifier = Notifier::new(self.supervision.notify_socket.as_deref());
        let mut seen: HashMap<String, Seen> = HashMap::new();
        let (mut steady, mut wall) = (Instant::now(), wall_ns());
        let mut jumped: Option<Instant> = None;
        let mut fed: Option<Instant> = None;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = Instant::now();
            let wall_now = wall_ns();
            let strayed = strayed_s(wall, wall_now, now.duration_since(steady));
            (steady, wall) = (now, wall_now);
            if strayed.abs() > JUMP_S {
                self.clock_was_set(strayed);
                jumped = Some(now);
            } else if jumped.is_some_and(|t| now.duration_since(t) > JUMP_SHOWN) {
                self.registry.conditions.set("", Condition::ClockJumped, None);
                jumped = None;
            }
            if let Some(journal) = &self.journal {
                let why = journal.failing().borrow().clone();
                let found =
                    why.map(|why| format!("expected a disk that takes records, found: {why}"));
                self.registry.conditions.set("", Condition::JournalFailing, found);
            }
            let mut stuck = false;
            let sessions = self.registry.sessions();
            seen.retain(|name, _| sessions.iter().any(|s| s.name() == name));
            for session in &sessions {
                stuck |= self.look(session, &mut seen, now);
            }
            // A daemon that is stuck is left to be restarted.
            if let Some(every) = self.supervision.watchdog
                && !stuck
                && fed.is_none_or(|t| now.duration_since(t) >= every / 4)
            {
                notifier.notify("WATCHDOG=1");
                fed = Some(now);
            }
        }
    }

    fn clock_was_set(&self, by_s: f64) {
        let found = format!("expected a clock that runs on, found it set by {by_s:+.1} s");
        self.registry.conditions.set("", Condition::ClockJumped, Some(found));
    }

    /// Looks at a session and sets its conditions; whether it is stuck.
    fn look(
        &self,
        session: &Arc<SessionHandle>,
        seen: &mut HashMap<String, Seen>,
        now: Instant,
    ) -> bool {
        let counts = Counts::of(session);
        let first = || Seen::at_first(Arc::downgrade(session), &counts, now);
        let seen = seen.entry(session.name().to_owned()).or_insert_with(first);
        if !std::ptr::eq(seen.session.as_ptr(), Arc::as_ptr(session)) {
            // Another session has taken the name.
            *seen = first();
        }
        seen.update(&counts, now);
        let stuck = now.duration_since(seen.progress) > STUCK;
        let holds = |condition| match condition {
            Condition::SessionStuck => stuck,
            Condition::SourceStalled => session.port.is_stalled(),
            Condition::FallingBehind => {
                is_within(seen.overload, CALM, now)
                    || counts.waiting * 2 > session.port.settings().queue_bins as u64
            }
            Condition::FilterDegenerate => is_within(seen.reset, RESET_SHOWN, now),
            Condition::ModelMismatch => counts.strange_s >= MISMATCH_S,
            Condition::CountsBeyondModel => seen.beyond,
            _ => false,
        };
        for condition in WATCHED {
            let found = holds(condition).then(|| counts.describe(condition));
            self.registry.conditions.set(session.name(), condition, found);
        }
        stuck
    }
}

/// Conditions of a session that are set here.
const WATCHED: [Condition; 6] = [
    Condition::SessionStuck,
    Condition::SourceStalled,
    Condition::FallingBehind,
    Condition::FilterDegenerate,
    Condition::ModelMismatch,
    Condition::CountsBeyondModel,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_beyond_the_model_are_judged_over_what_was_seen_of_them() {
        let counts = |bins, beyond| Counts {
            bins,
            waiting: 0,
            overloaded: 0,
            resets: 0,
            beyond,
            strange_s: 0.0,
        };
        let now = Instant::now();
        let mut seen = Seen::at_first(Weak::new(), &counts(250, 10), now);
        seen.update(&counts(350, 10), now);
        assert!(!seen.beyond, "none of the hundred since");
        seen.update(&counts(450, 15), now);
        assert!(seen.beyond, "five of a hundred");
    }

    #[test]
    fn a_clock_that_was_set_is_told_from_one_that_runs() {
        let second = 1_000_000_000;
        let quarter = Duration::from_millis(250);
        let within = |from, to| strayed_s(from, to, quarter).abs() <= JUMP_S;
        assert!(within(5 * second, 5 * second + second / 4));
        // A check that is late is late on both clocks; slewing is slow.
        assert!(strayed_s(0, 60 * second, Duration::from_secs(60)).abs() < 1e-6);
        assert!(within(5 * second, 5 * second + second / 4 + second / 1000));
        assert!(!within(5 * second, 8 * second));
        assert!(!within(5 * second, 2 * second));
        assert!((strayed_s(5 * second, 8 * second, Duration::ZERO) - 3.0).abs() < 1e-9);
    }
}
