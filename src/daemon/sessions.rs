//! The sessions that run, and what can be done with them while they do.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::sync::{Mutex, MutexGuard};

use super::handoff::Successor;
use super::models::{Plan, plan, plan_one};
use super::resume;
use super::session::{self, Running, Shared};
use crate::config::{Config, ModelSource, SessionConfig};
use crate::publish::grpc::described;
use crate::publish::{Bus, CalibrationState};
use crate::regime::Engine;
use crate::source::{Intake, MASKED};
use crate::telemetry;
use crate::wire::journal_record::What;
use crate::wire::{self, SessionStopped};

/// Counts on which another model is warmed up where nothing else is said, seconds.
const WARM_UP_S: f64 = 2.0;
/// Where counts do not come as fast as they should, a model takes over with what it has.
const WARM_UP_PATIENCE: Duration = Duration::from_secs(2);
/// Between looks at what has come.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// What writes results elsewhere has so long for the last of them.
const OUTS_PATIENCE: Duration = Duration::from_secs(2);

/// All of them.
pub(super) struct Sessions {
    running: Mutex<Vec<Running>>,
    pub(super) bus: Arc<Bus>,
    pub(super) intake: Arc<Intake>,
    shared: Shared,
    /// Limits; its list of sessions is what the daemon began with.
    config: Config,
}

impl Sessions {
    /// None yet.
    pub(super) fn new(config: Config, bus: Arc<Bus>, shared: Shared) -> Self {
        let (running, intake) = (Mutex::default(), Arc::default());
        Self { running, bus, intake, shared, config }
    }

    fn told(&self, session: &Running) -> wire::Session {
        described(&session.bus, &session.entry, &self.bus.conditions)
    }

    fn note(&self, session: &str, what: What) {
        if let Some(journal) = &self.shared.journal {
            journal.add(session, what);
        }
    }

    /// Starts a planned session.
    pub(super) async fn begin(&self, plan: Plan, config: SessionConfig) -> Result<wire::Session> {
        let mut running = self.running.lock().await;
        let most = self.config.sessions_max;
        if running.len() >= most {
            bail!("expected at most {most} sessions (limits.sessions_max), found one more");
        }
        if running.iter().any(|r| r.config.name == config.name) {
            bail!("expected a name that no session has, found '{}'", config.name);
        }
        let name = config.name.clone();
        let session = session::start(plan, config, &self.config, &self.shared)
            .with_context(|| format!("session '{name}'"))?;
        self.intake.insert(session.entry.clone());
        self.bus.insert(session.bus.clone());
        telemetry::session_state(&name, "running");
        let told = self.told(&session);
        running.push(session);
        Ok(told)
    }

    async fn find(&self, name: &str) -> Result<(MutexGuard<'_, Vec<Running>>, usize)> {
        let running = self.running.lock().await;
        match running.iter().position(|r| r.config.name == name) {
            Some(at) => Ok((running, at)),
            None => {
                let known: Vec<&str> = running.iter().map(|r| r.config.name.as_str()).collect();
                let found: String = name.chars().take(64).collect();
                bail!("expected one of the sessions {}, found '{found}'", known.join(", "))
            }
        }
    }

    /// Starts a session from a `[[session]]` table.
    pub(super) async fn start(&self, text: &str) -> Result<wire::Session> {
        let config = crate::config::parse_session(text)?;
        let asked = Config { sessions: vec![config.clone()], ..self.config.clone() };
        let plans = tokio::task::spawn_blocking(move || plan(&asked)).await??;
        let Some(plan) = plans.into_iter().next() else { bail!("expected a session, found none") };
        let told = self.begin(plan, config).await?;
        tracing::info!(session = told.name, model = told.model, "session started");
        Ok(told)
    }

    /// Ends a session; what waits is published first.
    pub(super) async fn stop(&self, name: &str) -> Result<wire::Session> {
        let (mut running, at) = self.find(name).await?;
        let mut session = running.remove(at);
        drop(running);
        self.intake.remove(name);
        let late = end(&mut session, Duration::from_secs_f64(self.config.drain_s)).await;
        let told = self.told(&session);
        self.bus.remove(name);
        self.bus.conditions.forget(name);
        telemetry::session_state(name, "stopped");
        self.note_end(&told);
        tracing::info!(session = name, bins = told.bins, "session stopped");
        if late {
            bail!("'{name}' was stopped before it had done all bins that waited");
        }
        Ok(told)
    }

    fn note_end(&self, told: &wire::Session) {
        let stopped = SessionStopped { bins: told.bins, bins_missing: told.bins_missing };
        self.note(&told.name, What::SessionStopped(stopped));
    }

    /// Pauses or resumes.
    pub(super) async fn pause(&self, name: &str, paused: bool) -> Result<wire::Session> {
        let (running, at) = self.find(name).await?;
        running[at].port.pause(paused);
        telemetry::session_state(name, if paused { "paused" } else { "running" });
        tracing::info!(session = name, paused, "session");
        Ok(self.told(&running[at]))
    }

    /// Goes on from another place of the recording.
    pub(super) async fn seek(&self, name: &str, position_s: f64) -> Result<wire::Session> {
        let (running, at) = self.find(name).await?;
        let Some(seek) = &running[at].seek else {
            bail!("expected a session that replays a recording, found '{name}'");
        };
        if !(position_s >= 0.0 && position_s.is_finite()) {
            bail!("expected a position in seconds from 0, found {position_s}");
        }
        seek.seek(position_s);
        tracing::info!(session = name, position_s, "seek");
        Ok(self.told(&running[at]))
    }

    /// Gives a session another model.
    pub(super) async fn swap(&self, request: wire::SwapModelRequest) -> Result<wire::Session> {
        let name = request.session.as_str();
        let warm_up_s = if request.warm_up_s == 0.0 { WARM_UP_S } else { request.warm_up_s };
        if !(0.0..=60.0).contains(&warm_up_s) {
            bail!("warm_up_s: expected seconds from 0 to 60, found {warm_up_s}");
        }
        let (mut running, at) = self.find(name).await?;
        let session = &mut running[at];
        let calibration = session.bus.calibration().state;
        if matches!(calibration, CalibrationState::Gathering | CalibrationState::Fitting) {
            bail!("expected a session that is calibrated, found '{name}' calibrating itself");
        }
        let before = session.plan.clone();
        let config = SessionConfig {
            model: match request.model.as_str() {
                crate::config::BUILTIN_MODEL => ModelSource::Builtin,
                "" => session.config.model.clone(),
                directory => ModelSource::Directory(directory.into()),
            },
            readout: match request.readout.as_str() {
                "" => session.config.readout.clone(),
                readout => readout.to_owned(),
            },
            calibrate_s: None,
            calibrate_from: None,
            channels: Some(before.readout.n_channels()),
            bin_ms: Some(before.model.bin_width_s * 1e3),
            ..session.config.clone()
        };
        let swaps = session.swaps + 1;
        let warm_up = WarmUp {
            aside: session.aside.clone(),
            bins: (warm_up_s / before.model.bin_width_s).round() as usize,
            patience: Duration::from_secs_f64(warm_up_s) + WARM_UP_PATIENCE,
        };
        let asked = config.clone();
        let (next, engine, warmed) = tokio::task::spawn_blocking(move || {
            let next = plan_one(&asked)?;
            let mut engine = Engine::new(&next.model, &next.readout, next.rule, next.adaptation)?;
            let warmed = warm_up.run(&mut engine);
            anyhow::Ok((next, engine, warmed))
        })
        .await??;
        let names = &next.model.regime_names;
        let known = |name: &String| names.iter().position(|n| n == name);
        let regimes = before.model.regime_names.iter().map(known).collect();
        *session.renaming.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((swaps, next.clone()));
        let fingerprint = resume::fingerprint(&next, &next.readout);
        session.handoff.offer(Successor { engine, fingerprint, swap: Some((swaps, regimes)) });
        session.port.wake();
        let began = Instant::now();
        while session.handoff.is_waiting() {
            if began.elapsed() > WARM_UP_PATIENCE {
                bail!("'{name}' did not take the model over: its thread is stuck");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        (session.config, session.swaps) = (config, swaps);
        session.bus.set_facts(next.facts());
        session.plan = next;
        telemetry::model_swapped(name);
        self.note(name, session.plan.changed(false));
        let told = self.told(session);
        tracing::info!(session = name, model = told.model, warmed_bins = warmed, "model swapped");
        Ok(told)
    }

    /// Ends all sessions within `drain`; the names of those that had not done what waited.
    pub(super) async fn end_all(&self, drain: Duration) -> Vec<String> {
        let began = Instant::now();
        let mut running = std::mem::take(&mut *self.running.lock().await);
        for session in &mut running {
            session.port.close();
        }
        let mut late = Vec::new();
        for mut session in running {
            if end(&mut session, drain.saturating_sub(began.elapsed())).await {
                late.push(session.config.name.clone());
            }
            self.note_end(&self.told(&session));
        }
        late
    }
}

/// Ends a session; true where it was late.
async fn end(session: &mut Running, drain: Duration) -> bool {
    for task in &session.sources {
        task.abort();
    }
    session.port.close();
    let late = tokio::time::timeout(drain, &mut session.publishing).await.is_err();
    session.bus.end();
    let patience = tokio::time::Instant::now() + OUTS_PATIENCE.min(drain);
    for out in &mut session.outs {
        if tokio::time::timeout_at(patience, &mut *out).await.is_err() {
            out.abort();
        }
    }
    late
}

/// Counts of a session on which another engine is warmed up.
struct WarmUp {
    aside: Arc<std::sync::Mutex<crate::publish::counts::CountsReader>>,
    bins: usize,
    patience: Duration,
}

impl WarmUp {
    /// Pushes counts through until there were enough of them; how many.
    fn run(self, engine: &mut Engine) -> usize {
        let mut reader = self.aside.lock().unwrap_or_else(PoisonError::into_inner);
        // What waits is of some time ago.
        reader.each(|_, _| {});
        let began = Instant::now();
        let (mut seen, mut counts) = (0, Vec::new());
        let mut first = true;
        while seen < self.bins && began.elapsed() < self.patience {
            reader.each(|gap, bin| {
                if gap && !std::mem::take(&mut first) {
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
        seen
    }
}
