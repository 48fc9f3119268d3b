//! What can be done with sessions while others run: start, stop, pause, seek, swap the model.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::plans::{plan, plan_one};
use super::shared::Shared;
use super::start;
use crate::api::describe;
use crate::bus::{
    CalibrationState, Ending, ModelChoice, ModelSource, Plan, Registry, Reservation, SessionHandle,
    Stranger, TriggerState, can_wait_for,
};
use crate::config::{BUILTIN_MODEL, Config, FALSE_CHANGES_PER_MIN, SessionConfig, parse_session};
use crate::intake::MASKED;
use crate::regime::Engine;
use crate::wire::journal_record::What;
use crate::wire::{SessionStopped, TriggersArmed};
use crate::{telemetry, wire};

/// Default length of the counts on which another model is warmed up, seconds.
const WARM_UP_S: f64 = 2.0;
/// Where counts do not come as fast as they should, a model takes over with what it has.
const WARM_UP_PATIENCE: Duration = Duration::from_secs(2);
/// Interval of checks for new counts.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What can be done with the sessions of the daemon.
pub(super) struct Sessions {
    registry: Arc<Registry>,
    shared: Shared,
    /// Limits; its list of sessions is what the daemon began with.
    config: Config,
}

impl Sessions {
    /// A daemon without sessions.
    pub(super) fn new(config: Config, registry: Arc<Registry>, shared: Shared) -> Self {
        Self { registry, shared, config }
    }

    /// The sessions by name.
    pub(super) fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// What was sent to a session that is not here, most recently.
    pub(super) fn stranger(&self) -> Option<Stranger> {
        self.registry.stranger(Duration::MAX)
    }

    fn describe(&self, session: &SessionHandle) -> wire::Session {
        describe(session, &self.registry.conditions)
    }

    fn record(&self, session: &str, what: What) {
        if let Some(journal) = &self.shared.journal {
            journal.add(session, what);
        }
    }

    fn drain(&self) -> Duration {
        Duration::from_secs_f64(self.config.drain_s)
    }

    /// Starts a planned session.
    pub(super) async fn begin(&self, plan: Plan, config: SessionConfig) -> Result<wire::Session> {
        let reserved = self.registry.reserve(&config.name, self.config.sessions_max)?;
        self.run(reserved, plan, config).await
    }

    async fn run(
        &self,
        mut reserved: Reservation<'_>,
        plan: Plan,
        session: SessionConfig,
    ) -> Result<wire::Session> {
        reserved.begin_series();
        let (config, shared) = (self.config.clone(), self.shared.clone());
        // Recordings and saved states are read there.
        let started =
            tokio::task::spawn_blocking(move || start::start(plan, session, &config, &shared));
        let session = started.await?.with_context(|| format!("session '{}'", reserved.name()))?;
        if let Err(e) = reserved.run(&session) {
            session.stop(Duration::ZERO).await;
            return Err(e.into());
        }
        Ok(self.describe(&session))
    }

    /// Starts a session from a `[[session]]` table.
    pub(super) async fn start(&self, text: &str) -> Result<wire::Session> {
        let config = parse_session(text)?;
        // Before its model is read: a name that is taken costs nothing.
        let reserved = self.registry.reserve(&config.name, self.config.sessions_max)?;
        let asked = Config { sessions: vec![config.clone()], ..self.config.clone() };
        let plans = tokio::task::spawn_blocking(move || plan(&asked)).await??;
        let Some(plan) = plans.into_iter().next() else { bail!("expected a session, found none") };
        let described = self.run(reserved, plan, config).await?;
        tracing::info!(session = described.name, model = described.model, "session started");
        Ok(described)
    }

    /// Ends a session; what waits is published first.
    pub(super) async fn stop(&self, name: &str) -> Result<wire::Session> {
        let ending = self.registry.end(name)?;
        let late = ending.session.stop(self.drain()).await;
        let described = self.describe(&ending.session);
        ending.hide();
        telemetry::session_state(name, "stopped");
        self.record_stop(&described);
        telemetry::session_ends(name);
        ending.free();
        tracing::info!(session = name, bins = described.bins, "session stopped");
        if late {
            bail!("'{name}' was stopped before it had done all bins that waited");
        }
        Ok(described)
    }

    fn record_stop(&self, session: &wire::Session) {
        let stopped = SessionStopped { bins: session.bins, bins_missing: session.bins_missing };
        self.record(&session.name, What::SessionStopped(stopped));
    }

    /// Pauses or resumes.
    pub(super) fn pause(&self, name: &str, paused: bool) -> Result<wire::Session> {
        let session = self.registry.running(name)?;
        session.pause(paused);
        Ok(self.describe(&session))
    }

    /// Arms or disarms a session's triggers.
    pub(super) fn arm(&self, name: &str, armed: bool) -> Result<wire::Session> {
        let session = self.registry.running(name)?;
        if session.triggers.each.is_empty() {
            bail!("expected a session with triggers (docs/triggers.md), found none of '{name}'");
        }
        if session.triggers.arm(name, armed) {
            self.record(name, What::TriggersArmed(TriggersArmed { armed, why: String::new() }));
            tracing::info!(session = name, armed, "triggers");
        }
        Ok(self.describe(&session))
    }

    /// Notes something on a session's time.
    pub(super) fn annotate(&self, request: &wire::AnnotateRequest) -> Result<wire::Annotation> {
        let session = self.registry.running(&request.session)?;
        let annotation = session.annotate(&request.text, &request.source, 0.0)?;
        let (session, source) = (session.name(), &request.source);
        tracing::info!(session, source, text = request.text, "annotation");
        Ok(annotation)
    }

    /// Continues at another position of the recording.
    pub(super) fn seek(&self, name: &str, position_s: f64) -> Result<wire::Session> {
        let session = self.registry.running(name)?;
        let Some(seek) = &session.seek else {
            bail!("expected a session that replays a recording, found '{name}'");
        };
        if !(position_s >= 0.0 && position_s.is_finite()) {
            bail!("expected a position in seconds from 0, found {position_s}");
        }
        seek.seek(position_s);
        tracing::info!(session = name, position_s, "seek");
        Ok(self.describe(&session))
    }

    /// Gives a session another model.
    pub(super) async fn swap(&self, request: wire::SwapModelRequest) -> Result<wire::Session> {
        let name = request.session.as_str();
        let warm_up_s = checked(&request)?;
        let session = self.registry.running(name)?;
        let Some(swap) = session.begin_swap() else {
            bail!("expected one swap at a time, found '{name}' taking another model over");
        };
        let calibration = session.calibration().state;
        if matches!(calibration, CalibrationState::Gathering | CalibrationState::Fitting) {
            bail!("expected a session that is calibrated, found '{name}' calibrating itself");
        }
        let before = swap.before.clone();
        let warm_up = WarmUp {
            session: session.clone(),
            bins: (warm_up_s / before.model.bin_width_s).round() as usize,
            patience: Duration::from_secs_f64(warm_up_s) + WARM_UP_PATIENCE,
        };
        tracing::info!(session = name, seconds = warm_up_s, "warming up another model");
        let (asked, now) = (request.clone(), before.clone());
        let (next, engine, warmed) = tokio::task::spawn_blocking(move || {
            let next = next(&asked, &now)?;
            let adaptation = next.choice.adaptation;
            let mut engine = Engine::new(&next.model, &next.readout, next.rule, adaptation)?;
            let warmed = warm_up.run(&mut engine);
            anyhow::Ok((Arc::new(next), engine, warmed))
        })
        .await??;
        if let (Some(now), Some(then)) = (&next.readout.channels, &before.readout.channels)
            && now != then
        {
            bail!(
                "expected a readout of the channels that '{name}' is sent, in their order, found \
                 others or another order"
            );
        }
        triggers_fit(&session, &next)?;
        swap.finish(next.clone(), engine).await?;
        if !session.triggers.each.is_empty() {
            session.triggers.arm(name, false);
            let why = "another model".to_owned();
            self.record(name, What::TriggersArmed(TriggersArmed { armed: false, why }));
        }
        telemetry::model_swapped(name);
        self.record(name, next.changed(false));
        let described = self.describe(&session);
        tracing::info!(
            session = name,
            model = described.model,
            warmed_bins = warmed,
            "model swapped"
        );
        Ok(described)
    }

    /// Ends all sessions within `drain`; the names of those that had not done what waited.
    pub(super) async fn end_all(&self, drain: Duration) -> Vec<String> {
        let began = Instant::now();
        let ending: Vec<Ending<'_>> = self.registry.close();
        for ending in &ending {
            ending.session.port.close();
        }
        let mut late = Vec::new();
        for ending in ending {
            if ending.session.stop(drain.saturating_sub(began.elapsed())).await {
                late.push(ending.session.name().to_owned());
            }
            self.record_stop(&self.describe(&ending.session));
            ending.keep();
        }
        // Those that were being started or stopped when this began.
        while self.registry.unfinished().iter().any(|names| !names.is_empty())
            && began.elapsed() < drain
        {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        // One that was being started has done nothing yet.
        let [_starting, ending] = self.registry.unfinished();
        late.extend(ending);
        late
    }
}

/// Seconds of counts on which another model is warmed up, where the request can be met.
fn checked(request: &wire::SwapModelRequest) -> Result<f64> {
    let warm_up_s = if request.warm_up_s == 0.0 { WARM_UP_S } else { request.warm_up_s };
    if !(0.0..=60.0).contains(&warm_up_s) {
        bail!("warm_up_s: expected seconds from 0 to 60, found {warm_up_s}");
    }
    let rate = request.false_changes_per_min;
    if rate != 0.0 && !FALSE_CHANGES_PER_MIN.contains(&rate) {
        bail!("false_changes_per_min: expected false changes per minute, above 0, found {rate}");
    }
    Ok(warm_up_s)
}

/// Another model has the regimes that a session's triggers wait for.
fn triggers_fit(session: &SessionHandle, next: &Plan) -> Result<()> {
    let absent = |t: &&TriggerState| !can_wait_for(&t.regime, &next.model.regime_names);
    if let Some(trigger) = session.triggers.each.iter().find(absent) {
        let (trigger, regime) = (&trigger.name, &trigger.regime);
        bail!("expected a model with the regime '{regime}' of trigger '{trigger}', found none");
    }
    Ok(())
}

/// What a session is to run on next.
fn next(request: &wire::SwapModelRequest, before: &Plan) -> Result<Plan> {
    let is_same = request.model.is_empty() && request.readout.is_empty();
    let next = match is_same {
        // A readout of the session's own making is in no file.
        true => before.clone(),
        false => plan_one(&request.session, choice(request, before))?,
    };
    let rate = request.false_changes_per_min;
    Ok(if rate == 0.0 { next } else { next.with_false_changes(rate)? })
}

/// The model that a request asks for, with everything it does not name as `before`.
fn choice(request: &wire::SwapModelRequest, before: &Plan) -> ModelChoice {
    ModelChoice {
        source: match request.model.as_str() {
            BUILTIN_MODEL => ModelSource::Builtin,
            "" => before.choice.source.clone(),
            directory => ModelSource::Directory(directory.into()),
        },
        readout: match request.readout.as_str() {
            "" => before.choice.readout.clone(),
            readout => readout.to_owned(),
        },
        calibration: None,
        channels: Some(before.readout.n_channels()),
        bin_ms: Some(before.model.bin_width_s * 1e3),
        ..before.choice.clone()
    }
}

/// Counts of a session on which another engine is warmed up.
struct WarmUp {
    session: Arc<SessionHandle>,
    bins: usize,
    patience: Duration,
}

impl WarmUp {
    /// Pushes counts through until there were enough of them; how many.
    fn run(self, engine: &mut Engine) -> usize {
        let mut reader = self.session.fit_counts();
        // What waits is of some time ago.
        reader.each(|_, _| {});
        let began = Instant::now();
        let (mut seen, mut counts) = (0, Vec::new());
        let mut first = true;
        let going = || began.elapsed() < self.patience && !self.session.port.is_closed();
        while seen < self.bins && going() {
            reader.each(|gap, bin| {
                // A gap before the first bin does not matter: the engine is at its prior.
                if !std::mem::take(&mut first) && gap {
                    engine.push(None);
                }
                counts.clear();
                counts.extend(bin.iter().map(|&c| if c == MASKED { 0.0 } else { f32::from(c) }));
                engine.set_active(bin.iter().map(|&c| c != MASKED));
                engine.push(Some(&counts));
                seen += 1;
            });
            std::thread::sleep(LOOK_EVERY);
        }
        reader.pass_on();
        seen
    }
}
