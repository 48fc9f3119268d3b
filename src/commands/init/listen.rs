//! Listening to a rig to learn its shape.

use std::time::Duration;

use anyhow::{Context, Result};

use super::rig::{Rig, Table};
use crate::config::{Config, SessionConfig, parse_session};
use crate::daemon::Daemon;
use crate::daemon::probe::{Probed, probe};
use crate::model::CHANNELS_MAX;
use crate::recording;
use crate::recording::SpikeSettings;

/// Time of the looks that find out the shape, before what is asked for.
const FIRST_LOOK: Duration = Duration::from_millis(1500);
/// Channels of a rig whose events name them.
const EVENT_CHANNELS: usize = 1024;
/// Samples a second, where spikes do not tell.
const SAMPLE_RATE_HZ: f64 = 30_000.0;
/// Threshold of crossings, where no spikes are sent.
const THRESHOLD_SD: f64 = -4.5;

/// What was learned of a rig.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    /// 0: nothing was heard.
    pub(super) channels: usize,
    /// Names of its channels, where it has any.
    pub(super) names: Vec<String>,
    /// Width of its bins, where they come as bins.
    pub(super) bin_ms: Option<f64>,
    /// What is to stand in its table.
    pub(super) table: Table,
    /// Mean rate over the channels, 1/s.
    pub(super) rate_hz: f64,
    /// The session that its messages are for.
    pub(super) session: Option<String>,
    pub(super) connected: bool,
}

/// A session with this rig and nothing else of interest.
fn session(rig: Rig, table: &Table) -> Result<SessionConfig> {
    let text = format!(
        "[[session]]\nname = \"init\"\nmodel = \"builtin\"\nreadout = \"0\"\n{}",
        table.text(rig)
    );
    Ok(parse_session(&text)?)
}

/// Listens for `time`.
///
/// # Errors
/// An address that is none, a port that is another's, a recording that cannot be read.
pub(super) async fn listen(rig: Rig, table: Table, bin_ms: f64, time: Duration) -> Result<Found> {
    if rig == Rig::Replay {
        return recorded(table, bin_ms);
    }
    if rig.comes() {
        return wait_for(rig, table, time).await;
    }
    let looked = |found: &Probed, table: Table, bin_ms: Option<f64>| {
        let (channels, names) = (found.seen.channels, found.seen.names.clone());
        let spikes: u64 = found.spikes.iter().sum();
        let rate_hz = spikes as f64 / time.as_secs_f64() / channels.max(1) as f64;
        let connected = found.connected;
        Found { channels, names, bin_ms, table, rate_hz, session: None, connected }
    };
    if rig.has_bins() {
        // The shape first: nothing is taken of another.
        let first =
            probe(&session(rig, &table)?, (1, bin_ms / 1e3), FIRST_LOOK.max(time / 2)).await?;
        let channels = first.seen.channels;
        if channels == 0 || channels > CHANNELS_MAX {
            return Ok(looked(&first, table, None));
        }
        let width_s = first.seen.bin_width_s.unwrap_or(bin_ms / 1e3);
        let mut found = probe(&session(rig, &table)?, (channels, width_s), time).await?;
        found.seen.channels = channels;
        let width_ms = first.seen.bin_width_s.or(found.bin_width_s()).map(|s| s * 1e3);
        return Ok(looked(&found, table, width_ms));
    }
    events(rig, table, bin_ms, time, looked).await
}

/// A rig that sends spikes, or continuous data.
async fn events(
    rig: Rig,
    mut table: Table,
    bin_ms: f64,
    time: Duration,
    looked: impl Fn(&Probed, Table, Option<f64>) -> Found,
) -> Result<Found> {
    let shape = (EVENT_CHANNELS, bin_ms / 1e3);
    let mut continuous = false;
    if rig == Rig::OpenEphys && table.sample_rate_hz.is_none() {
        let first = probe(&session(rig, &table)?, shape, FIRST_LOOK).await?;
        continuous = first.seen.sample_rate_hz.is_some();
        table.guessed_rate = !continuous;
        table.sample_rate_hz = first.seen.sample_rate_hz.or(Some(SAMPLE_RATE_HZ));
    }
    let mut found = probe(&session(rig, &table)?, shape, time).await?;
    if rig == Rig::OpenEphys && found.seen.channels == 0 && continuous {
        table.threshold_sd = Some(THRESHOLD_SD);
        found = probe(&session(rig, &table)?, shape, time).await?;
    }
    table.stream.clone_from(&found.seen.stream);
    // Continuous channels have an order of their own.
    if table.threshold_sd.is_none() {
        table.electrodes.clone_from(&found.seen.names);
    }
    Ok(looked(&found, table, None))
}

fn recorded(table: Table, bin_ms: f64) -> Result<Found> {
    let how = SpikeSettings { bin_ms: Some(bin_ms), ..SpikeSettings::default() };
    let file = table.at.clone();
    let recording =
        recording::read_file(file.as_ref(), &how).context("cannot use this recording")?;
    let spikes: u64 = recording.trials.iter().flat_map(|t| &t.counts).map(|&c| u64::from(c)).sum();
    let seconds = recording.n_bins() as f64 * recording.bin_width_s;
    Ok(Found {
        channels: recording.n_channels,
        rate_hz: spikes as f64 / (seconds * recording.n_channels as f64),
        names: recording.channels.unwrap_or_default(),
        bin_ms: Some(recording.bin_width_s * 1e3),
        table,
        session: recording.trials.first().map(|t| t.session.clone()),
        connected: true,
    })
}

/// A rig that comes: its messages are for a session that is not here yet, and say what it is.
async fn wait_for(rig: Rig, table: Table, time: Duration) -> Result<Found> {
    let address = table.at.trim_start_matches("tcp://").parse().with_context(|| {
        format!("--at: expected an address such as 127.0.0.1:7733, found '{}'", table.at)
    })?;
    let mut config = Config {
        grpc_listen: None,
        zeromq_pull: None,
        zeromq_publish: None,
        http_listen: None,
        ..Config::default()
    };
    match rig {
        Rig::Grpc => config.grpc_listen = Some(address),
        _ => config.zeromq_pull = Some(address),
    }
    let daemon = Daemon::start(config).await?;
    tokio::time::sleep(time).await;
    let stranger = daemon.stranger();
    daemon.stop().await?;
    let Some(found) = stranger else { return Ok(Found { table, ..Found::default() }) };
    Ok(Found {
        channels: found.channels,
        bin_ms: found.bin_width_s.map(|s| s * 1e3),
        session: Some(found.session),
        connected: true,
        table,
        ..Found::default()
    })
}
