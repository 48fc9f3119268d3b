//! The daemon's journal: opened first, checked while it is written, closed last.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};

use super::resume::Keeping;
use crate::bus::{Condition, Registry};
use crate::config::{Config, JournalConfig, STATE};
use crate::journal;
use crate::journal::Journal;
use crate::platform;
use crate::wire::journal_record::What;
use crate::wire::{DaemonStarted, Lost};

/// Most places of damage that are logged; `regimed journal` lists all.
const DAMAGE_TOLD_MAX: usize = 8;

/// The journal, where sessions' states are kept, and what of the journal is damaged.
#[derive(Default)]
pub(super) struct Opened {
    pub(super) journal: Option<Arc<Journal>>,
    pub(super) keeping: Option<Keeping>,
    /// Where decisions are recorded, and every how many of them.
    pub(super) decisions: Option<(Arc<Journal>, u64)>,
    pub(super) damaged: Option<String>,
}

/// Opens the journal, where one is configured, and logs what was found.
pub(super) fn open_journal(config: &Config) -> Result<Opened> {
    let Some(JournalConfig {
        settings,
        state_every_s,
        state_age_max_s,
        decisions_every,
        decisions,
    }) = &config.journal
    else {
        tracing::warn!("no journal: events are kept in memory alone (set journal.folder)");
        return Ok(Opened::default());
    };
    let folder = &settings.folder;
    let began = Instant::now();
    let (journal, found) = Journal::open(settings.clone()).with_context(|| {
        format!("journal.folder: the journal in {} cannot be opened", folder.display())
    })?;
    let opened_ms = began.elapsed().as_millis();
    tracing::info!(opened_ms, records = found.last, clean = found.ended, "journal opened");
    let started = DaemonStarted { version: env!("CARGO_PKG_VERSION").into() };
    journal.add("", What::DaemonStarted(started));
    if found.torn_bytes > 0 {
        let bytes = found.torn_bytes;
        tracing::info!(
            bytes,
            "the journal ended in a record cut short: nothing in it was announced"
        );
    }
    if let Some((first, last)) = found.lost {
        journal.add("", What::Lost(Lost { first, last }));
    }
    let state = folder.join(STATE);
    let keeping = (*state_every_s > 0.0).then(|| Keeping {
        folder: state.clone(),
        every_s: *state_every_s,
        age_max_s: *state_age_max_s,
    });
    if keeping.is_some()
        && let Err(e) = crate::files::own_folder(&state)
    {
        tracing::warn!("sessions' states cannot be saved: {e}");
    }
    let damaged = (!found.damage.is_empty())
        .then(|| format!("expected a sound journal, found damage: {}", found.damage.join("; ")));
    let decisions = if *decisions_every > 0 {
        let place = decisions.folder.display();
        let (log, _) = Journal::open(decisions.clone())
            .with_context(|| format!("recorded decisions in {place} cannot be opened"))?;
        Some((Arc::new(log), *decisions_every as u64))
    } else {
        None
    };
    Ok(Opened { journal: Some(Arc::new(journal)), keeping, decisions, damaged })
}

/// Reads the whole journal on its own thread, while the daemon writes it, and reports damage in
/// files that were not read at the start.
pub(super) fn check_journal(folder: PathBuf, registry: Arc<Registry>) -> Result<()> {
    let check = move || {
        platform::give_way();
        match journal::read(&folder, |_| {}) {
            Ok(reading) => report_damage(&reading, &registry),
            Err(e) => tracing::warn!("the journal cannot be read: {e}"),
        }
    };
    let thread = std::thread::Builder::new().name("journal-check".into());
    thread.spawn(check).context("cannot start a thread to check the journal")?;
    Ok(())
}

fn report_damage(reading: &journal::Reading, registry: &Registry) {
    let places = reading.damaged_files.iter().filter(|t| !t.torn);
    let mut damage: Vec<String> = places
        .map(|t| format!("{} bytes at {} of file {}", t.bytes, t.at, journal::file_name(t.file)))
        .collect();
    if reading.lost_untold > 0 {
        damage.push(format!("{} records are lost", reading.lost_untold));
    }
    if !damage.is_empty() {
        damage.truncate(DAMAGE_TOLD_MAX);
        let found = format!("expected a sound journal, found damage: {}", damage.join("; "));
        registry.conditions.set("", Condition::JournalDamaged, Some(found));
    }
}
