//! A session's triggers on its own thread: looked at with every bin, before anybody else has its
//! outcome. Nothing here allocates or waits.

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::condition::{Condition, Level};
use super::firing::{Fate, Firing};
use super::limits::Limits;
use super::message::Message;
use super::settings::{Settings, Target, UdpTarget, When};
use super::worker::Worker;
use crate::bus::{Outcome, SessionHandle};
use crate::journal::Journal;
use crate::regime::Label;
use crate::telemetry::TriggerMetrics;
use crate::wire::TriggerOutcome;

/// Firings that wait for a trigger's worker; beyond, they are counted and given up.
const WAITING: usize = 256;

/// Where a datagram goes, and what it says.
struct Direct {
    socket: UdpSocket,
    /// A text of its own; `None`: what happened.
    fixed: Option<String>,
    message: Message,
    text: String,
}

impl Direct {
    fn open(to: &UdpTarget, message: Message) -> std::io::Result<Self> {
        let any = if to.address.is_ipv4() {
            UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        } else {
            UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))
        };
        let socket = any?;
        socket.connect(to.address)?;
        // A full buffer is a failure and no wait.
        socket.set_nonblocking(true)?;
        let text = message.buffer();
        Ok(Self { socket, fixed: to.message.clone(), message, text })
    }

    fn send(&mut self, firing: &Firing) -> Fate {
        if self.fixed.is_none() {
            self.message.write(firing, &mut self.text);
        }
        let text = self.fixed.as_ref().unwrap_or(&self.text);
        match self.socket.send(text.as_bytes()) {
            Ok(_) => {
                let spent = firing.decided.elapsed().as_nanos();
                Fate::Sent(u64::try_from(spent).unwrap_or(u64::MAX))
            }
            Err(e) => Fate::Failed(e.kind()),
        }
    }
}

/// A trigger's regime in the model that the session runs.
#[derive(Clone, Copy)]
enum Of {
    Regime(usize),
    Unknown,
    /// The model does not have it.
    Absent,
}

struct Watched {
    when: When,
    late: Duration,
    dry_run: bool,
    repeat: bool,
    of: Of,
    condition: Condition,
    limits: Limits,
    direct: Option<Direct>,
    firings: SyncSender<Firing>,
    metrics: TriggerMetrics,
}

/// A session's triggers, for its thread.
pub(crate) struct Watch {
    session: Arc<SessionHandle>,
    /// Models that the session had before the one whose regimes are looked for.
    swaps: u32,
    each: Vec<Watched>,
}

fn place(names: &[String], regime: &str) -> Of {
    match names.iter().position(|name| name == regime) {
        Some(r) => Of::Regime(r),
        None if regime == Label::UNKNOWN => Of::Unknown,
        None => Of::Absent,
    }
}

/// Prepares a session's triggers; `before` has when each acted in the last day, oldest first. The
/// workers run until the watch is dropped.
///
/// # Errors
/// A socket that cannot be had.
pub(crate) fn open(
    session: &Arc<SessionHandle>,
    settings: &[Settings],
    before: &[Vec<i64>],
    journal: Option<&Arc<Journal>>,
) -> Result<(Watch, Vec<Worker>)> {
    let plan = session.plan();
    let (mut each, mut workers) = (Vec::new(), Vec::new());
    for (i, (trigger, before)) in settings.iter().zip(before).enumerate() {
        let message = Message::new(session.name(), &trigger.name, &trigger.regime);
        let direct = match &trigger.target {
            Target::Udp(to) => Some(Direct::open(to, message.clone()).with_context(|| {
                format!("trigger '{}': no UDP socket for {}", trigger.name, to.address)
            })?),
            _ => None,
        };
        let (firings, waiting): (_, Receiver<Firing>) = sync_channel(WAITING);
        let metrics = TriggerMetrics::new(session.name(), &trigger.name);
        let hold_s = trigger.hold.as_secs_f64();
        each.push(Watched {
            when: trigger.when,
            late: trigger.late,
            dry_run: trigger.dry_run,
            repeat: trigger.repeat,
            of: place(&plan.model.regime_names, &trigger.regime),
            condition: Condition::new(trigger.when, hold_s, trigger.repeat, plan.model.bin_width_s),
            limits: Limits::new(trigger.refractory, trigger.daily_max, before),
            direct,
            firings,
            metrics: metrics.clone(),
        });
        workers.push(Worker {
            session: session.clone(),
            settings: trigger.clone(),
            index: i,
            message,
            firings: waiting,
            journal: journal.cloned(),
            metrics,
        });
    }
    Ok((Watch { session: session.clone(), swaps: 0, each }, workers))
}

impl Watched {
    fn level(&self, o: &Outcome) -> (Level, f32) {
        let (label, probability) = match self.of {
            Of::Absent => return (Level::Nothing, 0.0),
            Of::Regime(r) => (Label::Regime(r), o.posterior[r] * (1.0 - o.unlabelled)),
            Of::Unknown => (Label::Unknown, o.unlabelled),
        };
        if o.untrusted {
            return (Level::Nothing, probability);
        }
        let on = match self.when {
            When::Begin | When::End => o.label == Some(label),
            // Of dynamics that are not known the posterior says nothing.
            When::Above(p) => probability >= p && o.label != Some(Label::Unknown),
        };
        (if on { Level::On } else { Level::Off }, probability)
    }

    /// What becomes of a condition that is met.
    fn decide(&mut self, o: &Outcome, firing: &Firing) -> Fate {
        let (decided, wall_ns) = (firing.decided, firing.decided_wall_ns);
        if !self.limits.is_rested(decided) {
            return Fate::Held(TriggerOutcome::Refractory);
        }
        self.limits.rest(decided);
        if u128::from(o.latency_ns) > self.late.as_nanos() {
            return Fate::Held(TriggerOutcome::Late);
        }
        if !self.limits.has_left(wall_ns) {
            return Fate::Held(TriggerOutcome::DailyLimit);
        }
        let fate = match &mut self.direct {
            _ if self.dry_run => Fate::Held(TriggerOutcome::DryRun),
            Some(direct) => direct.send(firing),
            None => Fate::Due,
        };
        if !matches!(fate, Fate::Failed(_)) {
            self.limits.act(wall_ns);
        }
        fate
    }
}

impl Watch {
    /// Looks at a bin's outcome, which was `decided` then.
    pub(crate) fn see(&mut self, o: &Outcome, decided: Instant) {
        if o.swaps != self.swaps {
            self.change_model(o.swaps);
        }
        let armed = self.session.triggers.are_armed();
        for (i, trigger) in self.each.iter_mut().enumerate() {
            let (level, probability) = trigger.level(o);
            if !armed {
                trigger.condition.pass(level, !o.predicted);
                continue;
            }
            // Only what repeats asks, and the limits of one that does not are told as held back.
            let free = !trigger.repeat || trigger.limits.is_rested(decided);
            if !trigger.condition.take(level, !o.predicted, free) {
                continue;
            }
            let spent_ns = i64::try_from(o.latency_ns).unwrap_or(i64::MAX);
            let mut firing = Firing {
                fate: Fate::Due,
                bin: o.bin,
                sequence: o.sequence,
                rig_time_ns: o.rig_time_ns,
                decided,
                decided_wall_ns: o.received_wall_ns.saturating_add(spent_ns),
                probability,
            };
            firing.fate = trigger.decide(o, &firing);
            if matches!(firing.fate, Fate::Due | Fate::Sent(_) | Fate::Held(TriggerOutcome::DryRun))
            {
                self.session.triggers.each[i].acted(firing.decided_wall_ns);
            }
            if trigger.firings.try_send(firing).is_err() {
                trigger.metrics.given_up.increment(1);
            }
        }
    }

    /// Another model has other regimes, and nobody has armed the triggers for it.
    fn change_model(&mut self, swaps: u32) {
        self.swaps = swaps;
        self.session.triggers.arm(self.session.name(), false);
        let session = &self.session;
        let of = |names: &[String], i: usize| place(names, &session.triggers.each[i].regime);
        session.named(swaps, |plan| {
            let names = &plan.model.regime_names;
            self.each.iter_mut().enumerate().for_each(|(i, t)| t.of = of(names, i));
        });
    }
}
