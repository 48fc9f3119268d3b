//! How a session begins: its port, its handle, its thread and its tasks, in this order.

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::sync::mpsc;

use super::announcer::Announcer;
use super::calibrator::Calibrator;
use super::outcomes::Fetching;
use super::publishing::{PublishingParts, PublishingTask};
use super::resume::{Beginning, Keeping};
use super::session_thread::{Ends, SessionThread};
use super::shared::Shared;
use super::snapshot_slot::SnapshotSlot;
use super::triggers::{acted_before, check_triggers};
use super::{attach, outcomes, resume};
use crate::api::zeromq::publisher::Topics;
use crate::bus::{
    CalibrationState, CountsTap, Outcome, Parts, Plan, SessionHandle, Tasks, recorder, tap,
};
use crate::config::{Config, SessionConfig};
use crate::intake::{Assembly, Outlet, Port, PortSettings};
use crate::tasks;
use crate::triggers::{Settings as Trigger, Watch, Worker};

/// Outcomes that wait for the publishing task at most; the thread waits for it beyond that.
const OUTCOMES_WAITING: usize = 4096;

/// Closes the port of a session that fails to start, so that everything already started for it
/// ends.
struct ClosedUnlessKept(Option<Arc<Port>>);

impl Drop for ClosedUnlessKept {
    fn drop(&mut self) {
        if let Some(port) = &self.0 {
            port.close();
        }
    }
}

/// Starts a session's thread and its tasks. Reads files: not for a thread that does I/O for others.
///
/// # Errors
/// A recording that does not fit, a machine without a thread to spare: nothing is left of the
/// session then.
pub(super) fn start(
    plan: Plan,
    session: SessionConfig,
    config: &Config,
    shared: &Shared,
) -> Result<Arc<SessionHandle>> {
    check_triggers(&session, &plan, config)?;
    let asked = attach::named(session, &plan)?;
    // Another run's channels may be in another order: nothing of its readout or state is of use.
    let keeping = shared.keeping.clone().filter(|_| !attach::learns_order(&asked));
    warn_of_untrusted(&plan);
    let (n_channels, names) = (plan.readout.n_channels(), plan.readout.channels.as_deref());
    let (port, outlet) = Port::open(port_settings(&plan, config));
    let mut port_guard = ClosedUnlessKept(Some(port.clone()));
    let prepared = attach::prepare(&asked, port.settings(), names)?;
    let beginning = resume::begin(&plan, keeping.as_ref(), shared.journal.as_deref())
        .with_context(|| format!("session '{}'", plan.session))?;
    let plan = Arc::new(plan);
    let (page_tap, page_counts) = tap(n_channels);
    let (fit_tap, fit_counts) = tap(n_channels);
    let (probe, metrics_tap) = shared.worker.probe(plan.model.clone(), n_channels);
    let session = SessionHandle::new(Parts {
        plan: plan.clone(),
        assembly: Arc::new(Assembly::new(port.clone(), asked.events)),
        port: port.clone(),
        source: prepared.status.clone(),
        seek: prepared.seek.clone(),
        page_counts,
        fit_counts,
        events_kept: config.events_kept,
        journal: shared.journal.clone(),
    });
    let triggers = asked.triggers.iter().map(Trigger::state).collect();
    let session = Arc::new(session.with_triggers(triggers));
    let (watch, workers) = watch(&asked, &session, config, shared)?;
    let (resumed, own) = (beginning.restored.is_some(), beginning.own_readout);
    let ins = Ins { outlet, taps: [metrics_tap, fit_tap, page_tap], watch };
    let (slot, fetching) = run_thread(&session, beginning, ins, keeping.as_ref(), config)?;
    match own {
        Some(trusted) => show_kept(&session, trusted),
        None => calibrate(&session, &plan, keeping.as_ref(), shared)?,
    }
    // Nothing fails from here on.
    port_guard.0 = None;
    if let Some(journal) = &shared.journal {
        journal.add(&plan.session, plan.started(resumed));
    }
    let (sources, mut outs) = attach::attach(&asked, &session, prepared);
    outs.extend(workers.into_iter().map(Worker::start));
    if let (Some(slot), Some(keeping)) = (slot, keeping) {
        outs.push(tasks::spawn(resume::keep(slot, session.clone(), keeping.folder)));
    }
    if let Some((log, every)) = shared.decisions.clone() {
        outs.push(tasks::spawn(recorder::run(session.clone(), log, every)));
    }
    let parts = PublishingParts { fetching, probe, metrics_hz: config.metrics_hz };
    let publishing = publish(&session, &plan, parts, shared);
    session.set_tasks(Tasks { sources, outs, publishing });
    Ok(session)
}

/// Its own calibration of before the restart.
fn show_kept(session: &SessionHandle, trusted: bool) {
    let before = "its regimes were not sure when it calibrated itself, before the restart";
    session.set_calibration(|c| {
        c.state = CalibrationState::of_result(trusted);
        c.problem = (!trusted).then(|| before.into());
    });
}

fn port_settings(plan: &Plan, config: &Config) -> PortSettings {
    PortSettings {
        session: plan.session.clone(),
        n_channels: plan.readout.n_channels(),
        bin_width_s: plan.model.bin_width_s,
        queue_bins: config.queue_bins,
        gap_bins_max: config.gap_bins_max,
    }
}

fn warn_of_untrusted(plan: &Plan) {
    if !plan.readout.trusted && plan.choice.calibration.is_none() {
        tracing::warn!(
            session = plan.session,
            "its regimes were not sure when it was calibrated: its label stays 'unknown' \
             (calibrate with labels, or with --from)"
        );
    }
}

/// What goes to a session's thread.
struct Ins {
    outlet: Outlet,
    taps: [CountsTap; 3],
    watch: Option<Watch>,
}

/// Prepares a session's triggers, where it has any.
fn watch(
    asked: &SessionConfig,
    session: &Arc<SessionHandle>,
    config: &Config,
    shared: &Shared,
) -> Result<(Option<Watch>, Vec<Worker>)> {
    if asked.triggers.is_empty() {
        return Ok((None, Vec::new()));
    }
    session.triggers.arm(session.name(), false);
    let before = acted_before(asked, config);
    let journal = shared.journal.as_ref();
    let (watch, workers) = crate::triggers::open(session, &asked.triggers, &before, journal)?;
    Ok((Some(watch), workers))
}

/// Starts the thread that owns a session's engine. Returns the slot of its snapshots, where states
/// are kept, and the receiving end of its outcomes.
fn run_thread(
    session: &Arc<SessionHandle>,
    beginning: Beginning,
    ins: Ins,
    keeping: Option<&Keeping>,
    config: &Config,
) -> Result<(Option<Arc<SnapshotSlot>>, Fetching<Outcome>)> {
    let Beginning { mut engine, fingerprint, restored, .. } = beginning;
    let runtime = config.runtime.clone();
    let slot = keeping.map(|keeping| {
        let every = (keeping.every_s / session.plan().model.bin_width_s).round() as u64;
        Arc::new(SnapshotSlot::new(&mut engine, every))
    });
    let (sending, fetching) = outcomes::ring(OUTCOMES_WAITING);
    let Ins { outlet, taps, watch } = ins;
    let ends = Ends { outlet, sending, taps, slot: slot.clone(), watch, spin: runtime.spin };
    let owner = SessionThread::new(session.clone(), ends, (engine, fingerprint), restored);
    let thread = std::thread::Builder::new()
        .name(format!("session-{}", session.name()))
        .spawn(move || {
            if let Err(e) = runtime.placement.take() {
                tracing::warn!("a session's thread does not run where [runtime] says: {e}");
            }
            owner.run();
        })
        .context("cannot start a session's thread")?;
    session.port.set_thread(thread.thread().clone());
    Ok((slot, fetching))
}

/// Starts a session's calibration, where it was asked for.
fn calibrate(
    session: &Arc<SessionHandle>,
    plan: &Arc<Plan>,
    keeping: Option<&Keeping>,
    shared: &Shared,
) -> Result<()> {
    let Some(how) = plan.choice.calibration.clone() else { return Ok(()) };
    // Set here and not on its thread: the session must not be visible as one without
    // self-calibration.
    session.set_calibration(|c| {
        c.state = CalibrationState::Gathering;
        c.seconds_needed = how.seconds;
    });
    let calibrator = Calibrator {
        plan: plan.clone(),
        how,
        session: session.clone(),
        journal: shared.journal.clone(),
        keep: keeping.map(|k| k.folder.clone()),
    };
    calibrator.start()
}

/// Starts what publishes a session's outcomes, and what announces its events; both end with the
/// session's thread.
fn publish(
    session: &Arc<SessionHandle>,
    plan: &Plan,
    parts: PublishingParts,
    shared: &Shared,
) -> tokio::task::JoinHandle<()> {
    let (events, numbered) = mpsc::unbounded_channel();
    let announcer = Announcer {
        session: session.clone(),
        topics: Topics::new(&plan.session),
        publisher: shared.publisher.clone(),
    };
    let announcing = tasks::spawn(announcer.run(numbered));
    let task = PublishingTask::new(session.clone(), plan, parts, shared, events);
    let session = session.clone();
    tasks::spawn(async move {
        task.run().await;
        // The task has dropped its end of the channel: the announcer ends when it has announced
        // what waits there.
        let _ = announcing.await;
        session.end();
    })
}
