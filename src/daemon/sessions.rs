//! The sessions that run, and what can be done with them while they do.
//!
//! A name is taken from the moment that a start is asked for until the end of a stop is done, so that no two of these
//! meet. The lock on the names is held for as long as it takes to look at them: whatever reads files, fits or waits
//! does so without it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::handoff::Successor;
use super::models::{Plan, plan, plan_one};
use super::resume;
use super::session::{self, Running, Served, Shared};
use crate::config::{Config, ModelSource, SessionConfig};
use crate::publish::grpc::described;
use crate::publish::{Bus, CalibrationState, unknown};
use crate::regime::Engine;
use crate::source::{MASKED, Port};
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
/// Sessions that are being started at once: each may hold a thread for as long as its files take.
const STARTING_MAX: usize = 8;

/// A name that is taken.
enum Taken {
    /// It is being started.
    Starting,
    Running(Arc<Running>),
    /// It is being stopped.
    Ending,
}

#[derive(Default)]
struct Names {
    taken: BTreeMap<String, Taken>,
    /// The daemon ends: nothing starts any more.
    closed: bool,
}

/// All of them.
pub(super) struct Sessions {
    names: Mutex<Names>,
    pub(super) bus: Arc<Bus>,
    shared: Shared,
    /// Limits; its list of sessions is what the daemon began with.
    config: Config,
}

/// A name that is given back where its session does not come to run.
struct Reserved<'a> {
    sessions: &'a Sessions,
    name: String,
    kept: bool,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.sessions.locked().taken.remove(&self.name);
        }
    }
}

/// A session's series, which go where it does not come to run.
struct SeriesOf<'a> {
    name: &'a str,
    kept: bool,
}

impl Drop for SeriesOf<'_> {
    fn drop(&mut self) {
        if !self.kept {
            telemetry::session_ends(self.name);
        }
    }
}

impl Sessions {
    /// None yet.
    pub(super) fn new(config: Config, bus: Arc<Bus>, shared: Shared) -> Self {
        Self { names: Mutex::default(), bus, shared, config }
    }

    fn locked(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn described(&self, session: &Running) -> Result<wire::Session> {
        described(&session.bus, &self.bus.conditions).context("the session has no entrance: a bug")
    }

    fn note(&self, session: &str, what: What) {
        if let Some(journal) = &self.shared.journal {
            journal.add(session, what);
        }
    }

    fn reserve(&self, name: &str) -> Result<Reserved<'_>> {
        let mut names = self.locked();
        if names.closed {
            bail!("the daemon is shutting down");
        }
        match names.taken.get(name) {
            None => {}
            Some(Taken::Running(_)) => {
                bail!("expected a name that no session has, found '{name}'")
            }
            Some(Taken::Starting) => {
                bail!("expected a name that no session has, found '{name}', which is being started")
            }
            Some(Taken::Ending) => {
                bail!("expected a name that no session has, found '{name}', which is being stopped")
            }
        }
        let most = self.config.sessions_max;
        if names.taken.len() >= most {
            bail!("expected at most {most} sessions (limits.sessions_max), found one more");
        }
        let starting = names.taken.values().filter(|t| matches!(t, Taken::Starting)).count();
        if starting >= STARTING_MAX {
            bail!(
                "expected at most {STARTING_MAX} sessions that are being started, found one more: try again"
            );
        }
        names.taken.insert(name.to_owned(), Taken::Starting);
        Ok(Reserved { sessions: self, name: name.to_owned(), kept: false })
    }

    /// Starts a planned session.
    pub(super) async fn begin(&self, plan: Plan, config: SessionConfig) -> Result<wire::Session> {
        let reserved = self.reserve(&config.name)?;
        self.run(reserved, plan, config).await
    }

    async fn run(
        &self,
        mut reserved: Reserved<'_>,
        plan: Plan,
        session: SessionConfig,
    ) -> Result<wire::Session> {
        let name = reserved.name.clone();
        telemetry::session_begins(&name);
        let mut series = SeriesOf { name: &name, kept: false };
        let (config, shared) = (self.config.clone(), self.shared.clone());
        // Recordings and saved states are read there.
        let started =
            tokio::task::spawn_blocking(move || session::start(plan, session, &config, &shared));
        let session = match started.await? {
            Ok(session) => Arc::new(session),
            Err(e) => return Err(e.context(format!("session '{name}'"))),
        };
        if !self.insert(&mut reserved, &session) {
            end(&session, Duration::ZERO).await;
            bail!("the daemon is shutting down");
        }
        series.kept = true;
        self.described(&session)
    }

    /// From here on the session is found; false where the daemon ends.
    fn insert(&self, reserved: &mut Reserved<'_>, session: &Arc<Running>) -> bool {
        let mut names = self.locked();
        if names.closed {
            return false;
        }
        self.bus.insert(session.bus.clone());
        telemetry::session_state(&reserved.name, "running");
        names.taken.insert(reserved.name.clone(), Taken::Running(session.clone()));
        reserved.kept = true;
        true
    }

    fn find(&self, name: &str) -> Result<Arc<Running>> {
        match self.locked().taken.get(name) {
            Some(Taken::Running(session)) => Ok(session.clone()),
            Some(Taken::Starting) => bail!("'{name}' is being started"),
            Some(Taken::Ending) => bail!("'{name}' is being stopped"),
            None => bail!(self.bus.find(name).err().unwrap_or_else(|| unknown(name, &[]))),
        }
    }

    /// From here on nobody else finds it.
    fn mark_ending(&self, name: &str, session: &Arc<Running>) -> Result<()> {
        let mut names = self.locked();
        let taken = names.taken.get_mut(name);
        let is_it = |t: &&mut Taken| matches!(&**t, Taken::Running(r) if Arc::ptr_eq(r, session));
        let Some(taken) = taken.filter(is_it) else { bail!("'{name}' is being stopped") };
        *taken = Taken::Ending;
        Ok(())
    }

    /// Starts a session from a `[[session]]` table.
    pub(super) async fn start(&self, text: &str) -> Result<wire::Session> {
        let config = crate::config::parse_session(text)?;
        // Before its model is read: a name that is taken costs nothing.
        let reserved = self.reserve(&config.name)?;
        let asked = Config { sessions: vec![config.clone()], ..self.config.clone() };
        let plans = tokio::task::spawn_blocking(move || plan(&asked)).await??;
        let Some(plan) = plans.into_iter().next() else { bail!("expected a session, found none") };
        let told = self.run(reserved, plan, config).await?;
        tracing::info!(session = told.name, model = told.model, "session started");
        Ok(told)
    }

    /// Ends a session; what waits is published first.
    pub(super) async fn stop(&self, name: &str) -> Result<wire::Session> {
        let session = self.find(name)?;
        self.mark_ending(name, &session)?;
        let late = end(&session, Duration::from_secs_f64(self.config.drain_s)).await;
        let told = self.described(&session);
        self.bus.remove(name);
        self.bus.conditions.forget(name);
        telemetry::session_state(name, "stopped");
        if let Ok(told) = &told {
            self.note_end(told);
        }
        telemetry::session_ends(name);
        self.locked().taken.remove(name);
        let told = told?;
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
    pub(super) fn pause(&self, name: &str, paused: bool) -> Result<wire::Session> {
        let session = self.find(name)?;
        session.port.pause(paused);
        telemetry::session_state(name, if paused { "paused" } else { "running" });
        tracing::info!(session = name, paused, "session");
        self.described(&session)
    }

    /// Goes on from another place of the recording.
    pub(super) fn seek(&self, name: &str, position_s: f64) -> Result<wire::Session> {
        let session = self.find(name)?;
        let Some(seek) = &session.seek else {
            bail!("expected a session that replays a recording, found '{name}'");
        };
        if !(position_s >= 0.0 && position_s.is_finite()) {
            bail!("expected a position in seconds from 0, found {position_s}");
        }
        seek.seek(position_s);
        tracing::info!(session = name, position_s, "seek");
        self.described(&session)
    }

    /// Gives a session another model.
    pub(super) async fn swap(&self, request: wire::SwapModelRequest) -> Result<wire::Session> {
        let name = request.session.as_str();
        let warm_up_s = if request.warm_up_s == 0.0 { WARM_UP_S } else { request.warm_up_s };
        if !(0.0..=60.0).contains(&warm_up_s) {
            bail!("warm_up_s: expected seconds from 0 to 60, found {warm_up_s}");
        }
        let session = self.find(name)?;
        let Some(_alone) = session.swapping.begin() else {
            bail!("expected one swap at a time, found '{name}' taking another model over");
        };
        let calibration = session.bus.calibration().state;
        if matches!(calibration, CalibrationState::Gathering | CalibrationState::Fitting) {
            bail!("expected a session that is calibrated, found '{name}' calibrating itself");
        }
        let Served { config: before_config, plan: before, swaps } = session.served();
        let config = SessionConfig {
            model: match request.model.as_str() {
                crate::config::BUILTIN_MODEL => ModelSource::Builtin,
                "" => before_config.model.clone(),
                directory => ModelSource::Directory(directory.into()),
            },
            readout: match request.readout.as_str() {
                "" => before_config.readout.clone(),
                readout => readout.to_owned(),
            },
            calibrate_s: None,
            calibrate_from: None,
            channels: Some(before.readout.n_channels()),
            bin_ms: Some(before.model.bin_width_s * 1e3),
            ..before_config
        };
        let swaps = swaps + 1;
        let warm_up = WarmUp {
            aside: session.aside.clone(),
            port: session.port.clone(),
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
        if let (Some(now), Some(then)) = (&next.readout.channels, &before.readout.channels)
            && now != then
        {
            bail!(
                "expected a readout of the channels that '{name}' is sent, in their order, found others or another order"
            );
        }
        let names = &next.model.regime_names;
        let known = |name: &String| names.iter().position(|n| n == name);
        let regimes = before.model.regime_names.iter().map(known).collect();
        // Before the engine is offered: its first outcome is worded by this.
        *session.renaming.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((swaps, next.clone()));
        let fingerprint = resume::fingerprint(&next, &next.readout);
        session.handoff.offer(Successor { engine, fingerprint, swap: Some((swaps, regimes)) });
        session.port.wake();
        let began = Instant::now();
        while session.handoff.is_waiting() {
            let ended = session.port.is_closed();
            if (ended || began.elapsed() > WARM_UP_PATIENCE) && session.handoff.withdraw() {
                *session.renaming.lock().unwrap_or_else(PoisonError::into_inner) = None;
                let why = if ended { "it ends" } else { "its thread is stuck" };
                bail!("'{name}' did not take the model over: {why}");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        session.bus.set_facts(next.facts());
        let changed = next.changed(false);
        session.serve(Served { config, plan: next, swaps });
        telemetry::model_swapped(name);
        self.note(name, changed);
        let told = self.described(&session)?;
        tracing::info!(session = name, model = told.model, warmed_bins = warmed, "model swapped");
        Ok(told)
    }

    /// No session starts any more; those that ran, whose names say that they are ending.
    fn close(&self) -> Vec<Arc<Running>> {
        let mut names = self.locked();
        names.closed = true;
        let mut running = Vec::new();
        for taken in names.taken.values_mut() {
            if let Taken::Running(session) = taken {
                running.push(session.clone());
                *taken = Taken::Ending;
            }
        }
        running
    }

    /// Ends all sessions within `drain`; the names of those that had not done what waited.
    pub(super) async fn end_all(&self, drain: Duration) -> Vec<String> {
        let began = Instant::now();
        let running = self.close();
        for session in &running {
            session.port.close();
        }
        let mut late = Vec::new();
        for session in running {
            if end(&session, drain.saturating_sub(began.elapsed())).await {
                late.push(session.bus.name().to_owned());
            }
            if let Ok(told) = self.described(&session) {
                self.note_end(&told);
            }
            self.locked().taken.remove(session.bus.name());
        }
        // Those that were being started or stopped when this began.
        while !self.locked().taken.is_empty() && began.elapsed() < drain {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        // One that was being started has done nothing yet.
        let names = self.locked();
        let ending = names.taken.iter().filter(|(_, taken)| matches!(taken, Taken::Ending));
        late.extend(ending.map(|(name, _)| name.clone()));
        late
    }
}

/// Ends a session; true where it was late.
async fn end(session: &Running, drain: Duration) -> bool {
    let Some(mut tasks) = session.take_tasks() else { return false };
    for task in &tasks.sources {
        task.abort();
    }
    session.port.close();
    // A port that one of them listens at is free when it has ended.
    let patience = tokio::time::Instant::now() + OUTS_PATIENCE.min(drain);
    for task in &mut tasks.sources {
        let _ = tokio::time::timeout_at(patience, task).await;
    }
    let late = tokio::time::timeout(drain, &mut tasks.publishing).await.is_err();
    session.bus.end();
    let patience = tokio::time::Instant::now() + OUTS_PATIENCE.min(drain);
    for out in &mut tasks.outs {
        if tokio::time::timeout_at(patience, &mut *out).await.is_err() {
            out.abort();
        }
    }
    late
}

/// Counts of a session on which another engine is warmed up.
struct WarmUp {
    aside: Arc<Mutex<crate::publish::counts::CountsReader>>,
    port: Arc<Port>,
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
        while seen < self.bins && began.elapsed() < self.patience && !self.port.is_closed() {
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
