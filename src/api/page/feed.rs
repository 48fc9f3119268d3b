//! Frames of the live page: made once per session and frame, and shared by all viewers.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::channels::Rates;
use super::viewers::Page;
use crate::api::describe;
use crate::bus::{Plan, SessionHandle, Subscription};
use crate::intake::MASKED;
use crate::platform;
use crate::regime::quantile;
use crate::tasks;
use crate::wire::{Decision, Expert, Metrics, Session};

/// Interval of frames of a session with viewers: 30 a second.
const FRAME: Duration = Duration::from_micros(33_333);
/// Frames for each overview of all sessions.
const OVERVIEW_EVERY: u64 = 3;
/// Rows of a raster at most: more channels share them, each row with the largest count of its
/// channels.
const ROWS_MAX: usize = 512;
/// Frames for each account of a session's channels.
const CHANNELS_EVERY: u64 = 30;
/// Columns of a frame's raster at most: more bins share them, summed.
const COLUMNS_MAX: usize = 8;
/// A message for a session that is not here is told of for this long.
const STRANGE: Duration = Duration::from_secs(10);
/// Latencies that percentiles are taken over.
const LATENCIES: usize = 512;
/// A count is a digit: 0 to 9 and a to z, all above is z.
const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// A frame of a session with viewers.
#[derive(Serialize)]
struct Frame<'a> {
    session: &'a str,
    bin: u64,
    sequence: u64,
    /// Bins since the frame before, and those of them that were missing.
    bins: u64,
    predicted: u64,
    regime: &'a str,
    posterior: &'a [f32],
    experts: &'a [Expert],
    unlabelled: f32,
    novelty: f32,
    log_likelihood: f32,
    untrusted: bool,
    silent_channels: u32,
    /// The estimate in the map's plane.
    embedding: [f32; 2],
    ellipse: [f32; 3],
    /// Longest of these bins', us.
    latency_us: u64,
    publish_time_ns: i64,
    raster: Raster,
    /// Where newer than in the frame before.
    metrics: Option<&'a Metrics>,
}

/// Counts as text: a digit for each row in each column, a dot where a bin was missing.
#[derive(Debug, PartialEq, Serialize)]
struct Raster {
    rows: usize,
    bins_per_column: usize,
    columns: Vec<String>,
}

/// One session among the others.
#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    session: Session,
    regime: String,
    probability: f32,
    untrusted: bool,
    rate_hz: f64,
    latency_p50_us: u64,
    latency_p99_us: u64,
    /// Decisions that this page lost by being slow.
    lost: u64,
    /// When the newest note was made: the page asks for them where it is newer.
    noted_ns: i64,
}

#[derive(Serialize)]
struct Overview {
    sessions: Vec<Line>,
    /// What somebody sends to a session that is not here: its name, and how many channels.
    stranger: Option<(String, usize)>,
}

/// An event of the stream, by name.
fn message(name: &str, data: &impl Serialize) -> Bytes {
    // Plain data: it cannot fail.
    let data = serde_json::to_string(data).unwrap_or_default();
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
}

/// Columns of a raster from bins as they came, each `None` where it is missing.
fn raster(bins: &[Option<Vec<u16>>], channels: usize) -> Raster {
    let per_row = channels.div_ceil(ROWS_MAX).max(1);
    let rows = channels.div_ceil(per_row);
    let bins_per_column = bins.len().div_ceil(COLUMNS_MAX).max(1);
    let columns = bins.chunks(bins_per_column).map(|bins| {
        let seen: Vec<_> = bins.iter().flatten().collect();
        if seen.is_empty() {
            return ".".to_owned();
        }
        let digit = |row: usize| {
            let of_row = row * per_row..((row + 1) * per_row).min(channels);
            let count = |channel: usize| {
                seen.iter().map(|b| b[channel]).filter(|&c| c != MASKED).map(usize::from).sum()
            };
            let most: usize = of_row.map(count).max().unwrap_or(0);
            char::from(DIGITS[most.min(DIGITS.len() - 1)])
        };
        (0..rows).map(digit).collect()
    });
    Raster { rows, bins_per_column, columns: columns.collect() }
}

/// What a frame of one session is made of.
struct Watched {
    session: Arc<SessionHandle>,
    subscription: Subscription,
    newest: Option<Decision>,
    /// Since the frame before.
    bins: u64,
    predicted: u64,
    latency_ns: u64,
    counts: Vec<Option<Vec<u16>>>,
    /// Of a session that somebody looks at.
    rates: Option<(Arc<Plan>, Rates)>,
    metrics_sent: Option<u64>,
    /// When decisions were made and how late they were, ns.
    recent: VecDeque<(Instant, u64)>,
}

impl Watched {
    fn new(session: &Arc<SessionHandle>) -> Self {
        // What waits is of some time ago.
        session.each_page_count(|_, _| {});
        Self {
            subscription: session.subscribe(1),
            session: session.clone(),
            newest: None,
            bins: 0,
            predicted: 0,
            latency_ns: 0,
            counts: Vec::new(),
            rates: None,
            metrics_sent: None,
            recent: VecDeque::new(),
        }
    }

    fn gather(&mut self) {
        let now = Instant::now();
        while let Some(update) = self.subscription.try_next() {
            let Some(decision) = update.decision() else { continue };
            self.bins += 1;
            self.predicted += u64::from(decision.predicted);
            self.latency_ns = self.latency_ns.max(decision.latency_ns);
            if self.recent.len() == LATENCIES {
                self.recent.pop_front();
            }
            self.recent.push_back((now, decision.latency_ns));
            self.newest = Some(decision.clone());
        }
    }

    /// The frame, where there was a bin since the one before.
    fn frame(&mut self) -> Option<Bytes> {
        let facts = self.session.facts();
        let counts = &mut self.counts;
        let plan = self.session.plan();
        // Another model has learned other rates.
        self.rates.take_if(|of| !Arc::ptr_eq(&of.0, &plan));
        let (_, rates) = self.rates.get_or_insert_with(|| (plan.clone(), Rates::new(&plan)));
        counts.clear();
        self.session.each_page_count(|gap, bin| {
            if gap && !counts.is_empty() {
                counts.push(None);
            }
            rates.push(bin);
            counts.push(Some(bin.to_vec()));
        });
        let d = self.newest.as_ref().filter(|_| self.bins > 0)?;
        let metrics = d.metrics.as_ref().filter(|m| self.metrics_sent != Some(m.bin));
        let frame = Frame {
            session: &facts.name,
            bin: d.bin,
            sequence: d.sequence,
            bins: self.bins,
            predicted: self.predicted,
            regime: &d.regime,
            posterior: &d.posterior,
            experts: &d.experts,
            unlabelled: d.unlabelled,
            novelty: d.novelty,
            log_likelihood: d.log_likelihood,
            untrusted: d.untrusted,
            silent_channels: d.silent_channels,
            embedding: facts.map.place(&d.embedding_mean),
            ellipse: facts.map.spread(&self.session.covariance()),
            latency_us: self.latency_ns / 1000,
            publish_time_ns: d.publish_time_ns,
            raster: raster(&self.counts, facts.n_channels),
            metrics,
        };
        let message = message("frame", &frame);
        self.metrics_sent = metrics.map(|m| m.bin).or(self.metrics_sent);
        (self.bins, self.predicted, self.latency_ns) = (0, 0, 0);
        Some(message)
    }

    fn line(&self, session: Session) -> Line {
        let mut latencies: Vec<u64> = self.recent.iter().map(|r| r.1 / 1000).collect();
        latencies.sort_unstable();
        let at = |q: f64| quantile(&latencies, q).unwrap_or(0);
        let since = self.recent.front().map_or(0.0, |r| r.0.elapsed().as_secs_f64());
        let newest = self.newest.as_ref();
        Line {
            session,
            regime: newest.map_or_else(String::new, |d| d.regime.clone()),
            probability: newest.map_or(0.0, |d| d.posterior.iter().copied().fold(0.0, f32::max)),
            untrusted: newest.is_some_and(|d| d.untrusted),
            rate_hz: if since > 0.2 { self.recent.len() as f64 / since } else { 0.0 },
            latency_p50_us: at(0.5),
            latency_p99_us: at(0.99),
            lost: self.subscription.lost(),
            noted_ns: self.session.annotations.newest_ns(),
        }
    }
}

/// Makes frames until the last viewer has left, on a thread that gives way: a frame of many
/// sessions takes as long as several decisions.
pub(super) fn start(page: &Arc<Page>) {
    let failed = |page: &Page, e: std::io::Error| {
        tracing::warn!("the page shows nothing: {e}");
        page.give_up();
    };
    let making = page.clone();
    let started =
        platform::aside("page", move || {
            match tokio::runtime::Builder::new_current_thread().enable_time().build() {
                Ok(runtime) => tasks::block_on(&runtime, make_frames(making)),
                Err(e) => failed(&making, e),
            }
        });
    if let Err(e) = started {
        failed(page, e);
    }
}

async fn make_frames(page: Arc<Page>) {
    let mut watched: HashMap<String, Watched> = HashMap::new();
    let mut ticks = interval(FRAME);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut number = 0u64;
    while page.is_looked_at() {
        ticks.tick().await;
        let sessions = page.registry.sessions();
        watched.retain(|_, w| sessions.iter().any(|s| Arc::ptr_eq(s, &w.session)));
        let mut lines = Vec::new();
        for session in &sessions {
            let w =
                watched.entry(session.name().to_owned()).or_insert_with(|| Watched::new(session));
            w.gather();
            match page.viewers_of(session.name()) {
                // Fails when the last viewer has left.
                Some(viewers) => {
                    drop(w.frame().map(|frame| viewers.send(frame)));
                    if let Some((_, rates)) = &w.rates
                        && number.is_multiple_of(CHANNELS_EVERY)
                    {
                        let shown = rates.shown(session.name());
                        drop(viewers.send(message("channels", &shown)));
                    }
                }
                // The next viewer starts with new counts, not with those of before.
                None => {
                    session.each_page_count(|_, _| {});
                    w.rates = None;
                }
            }
            if number.is_multiple_of(OVERVIEW_EVERY) {
                lines.push(w.line(describe(session, &page.registry.conditions)));
            }
        }
        if number.is_multiple_of(OVERVIEW_EVERY) {
            let stranger = page.registry.stranger(STRANGE).map(|s| (s.session, s.channels));
            let _ =
                page.overview.send(message("overview", &Overview { sessions: lines, stranger }));
        }
        number += 1;
    }
}

/// An event for a viewer.
pub(super) fn change(event: &crate::wire::Event) -> Bytes {
    message("change", event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raster_pools_channels_and_bins_and_shows_what_is_missing() {
        let found = raster(&[Some(vec![0, 3, MASKED]), None, Some(vec![10, 99, 1])], 3);
        let columns = ["030", ".", "az1"].map(String::from).to_vec();
        assert_eq!(found, Raster { rows: 3, bins_per_column: 1, columns });
        // Twice as many bins as columns, twice as many channels as rows.
        let mut bin = vec![0; 2 * ROWS_MAX];
        (bin[1], bin[2]) = (2, 1);
        let found = raster(&vec![Some(bin); 2 * COLUMNS_MAX], 2 * ROWS_MAX);
        assert_eq!((found.rows, found.bins_per_column), (ROWS_MAX, 2));
        assert_eq!(found.columns.len(), COLUMNS_MAX);
        assert!(found.columns[0].starts_with("4200"), "{}", found.columns[0]);
    }
}
