//! Listening to a session's rig for a while without a session: what comes, and how well.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::attach;
use crate::config::SessionConfig;
use crate::intake::{Assembly, Header, Kind, MASKED, Port, PortSettings, Seen};
use crate::rigs::brand;
use crate::tasks;

/// Interval of looks at what came.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Bins that wait for a look.
const QUEUE_BINS: usize = 1 << 14;
/// Longest gap that counts as one.
const GAP_BINS_MAX: usize = 1000;

/// What came from a rig in some time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Probed {
    /// Whether a connection was made; true also where nothing is connected to.
    pub(crate) connected: bool,
    /// What the rig showed of itself.
    pub(crate) seen: Seen,
    /// Bins that came.
    pub(crate) bins: u64,
    /// Bins that were missing in between.
    pub(crate) missing: u64,
    /// Bins or events that were refused, and those that came too late.
    pub(crate) refused: u64,
    pub(crate) late: u64,
    /// Spikes of each channel.
    pub(crate) spikes: Vec<u64>,
    /// The rig's times of the first and the last bin, ns; 0: not known.
    pub(crate) rig_time_ns: (i64, i64),
    /// The daemon's time less the rig's, seconds, and seconds a second by which that grows.
    pub(crate) offset_s: Option<f64>,
    pub(crate) drift: Option<f64>,
    /// Times that the rig's clock was set, or the recording began anew.
    pub(crate) jumps: u64,
}

impl Probed {
    fn take(&mut self, header: &Header, counts: &[u16]) {
        match header.kind {
            Kind::Missing(n) => self.missing += u64::from(n),
            Kind::Bin => {
                self.bins += 1;
                let seen = counts.iter().map(|&c| if c == MASKED { 0 } else { u64::from(c) });
                self.spikes.iter_mut().zip(seen).for_each(|(sum, c)| *sum += c);
                if header.rig_time_ns != 0 {
                    let (first, last) = &mut self.rig_time_ns;
                    *first = if *first == 0 { header.rig_time_ns } else { *first };
                    *last = header.rig_time_ns;
                }
            }
            Kind::First | Kind::Start => {}
        }
    }

    /// Width of the bins by the rig's times, seconds, to a tenth of a millisecond.
    pub(crate) fn bin_width_s(&self) -> Option<f64> {
        let (first, last) = self.rig_time_ns;
        let between = (self.bins + self.missing).checked_sub(1).filter(|n| *n >= 10)?;
        let ms = last.checked_sub(first).filter(|ns| *ns > 0)? as f64 / between as f64 * 1e-6;
        Some((ms * 10.0).round() / 1e4)
    }
}

/// Listens to the rig of a session for `time`, for `n_channels` channels in bins of `bin_width_s`.
///
/// # Errors
/// A recording that cannot be played, a port that is another's.
pub(crate) async fn probe(
    session: &SessionConfig,
    (n_channels, bin_width_s): (usize, f64),
    time: Duration,
) -> Result<Probed> {
    let Some(source) = &session.source else { return Ok(Probed::default()) };
    let shape = PortSettings {
        session: session.name.clone(),
        n_channels,
        bin_width_s,
        queue_bins: QUEUE_BINS,
        gap_bins_max: GAP_BINS_MAX,
    };
    let (port, mut outlet) = Port::open(shape);
    let assembly = Arc::new(Assembly::new(port.clone(), session.events));
    let (asked, entrance) = (session.clone(), port.clone());
    let preparing =
        tokio::task::spawn_blocking(move || attach::prepare(&asked, entrance.settings(), None));
    let prepared = preparing.await??;
    let status = prepared.status.clone();
    let syncs = Arc::new(brand::Syncs::default());
    let reading = attach::read(source, (port.clone(), assembly.clone()), prepared, syncs);
    let closing = tasks::spawn(async move { assembly.keep_closing().await });
    let mut probed = Probed { spikes: vec![0; n_channels], ..Probed::default() };
    let mut counts = vec![0; n_channels];
    let until = tokio::time::Instant::now() + time;
    while tokio::time::Instant::now() < until {
        tokio::time::sleep(LOOK_EVERY).await;
        while let Some(header) = outlet.pop(&mut counts) {
            probed.take(&header, &counts);
        }
        probed.connected |= status.as_ref().is_none_or(|s| s.is_connected());
    }
    reading.iter().for_each(tokio::task::JoinHandle::abort);
    closing.abort();
    let totals = port.totals();
    (probed.refused, probed.late) = (totals.rejected, totals.late);
    (probed.offset_s, probed.drift, probed.jumps) = port.clock();
    probed.seen = status.map(|s| s.seen()).unwrap_or_default();
    port.close();
    Ok(probed)
}
