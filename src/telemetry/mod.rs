//! Every metric of the daemon, declared once; and tracing.

mod handles;

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use metrics::gauge;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::wire;
pub use handles::*;

/// Upper bounds of the latency histograms, seconds.
const LATENCY_BUCKETS_S: [f64; 14] = [
    25e-6, 50e-6, 75e-6, 100e-6, 150e-6, 250e-6, 500e-6, 750e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 50e-3,
    250e-3,
];
const LATENCY: &str = "regimed_latency_seconds";
const COMPUTE: &str = "regimed_compute_seconds";
const BINS: &str = "regimed_bins_total";
const BINS_RECEIVED: &str = "regimed_bins_received_total";
const BINS_PROCESSED: &str = "regimed_bins_processed_total";
const BINS_REJECTED: &str = "regimed_bins_rejected_total";
const EVENTS_RECEIVED: &str = "regimed_events_received_total";
const EVENTS_BINNED: &str = "regimed_events_binned_total";
const EVENTS_LATE: &str = "regimed_events_late_total";
const EVENTS_REJECTED: &str = "regimed_events_rejected_total";
const MESSAGES_LOST: &str = "regimed_source_messages_lost_total";
const STALLED: &str = "regimed_source_stalled";
const SOURCE_CONNECTED: &str = "regimed_source_connected";
const SOURCE_CONNECTIONS: &str = "regimed_source_connections_total";
const SOURCE_MESSAGES: &str = "regimed_source_messages_total";
const TTL_EDGES: &str = "regimed_ttl_edges_total";
const CLOCK_OFFSET: &str = "regimed_clock_offset_seconds";
const CLOCK_DRIFT: &str = "regimed_clock_drift_ratio";
const CLOCK_JUMPS: &str = "regimed_clock_jumps_total";
const TRANSPORT_DELAY: &str = "regimed_transport_delay_seconds";
const SESSION_STATE: &str = "regimed_session_state";
const MODEL_SWAPS: &str = "regimed_model_swaps_total";
const OUT_SENT: &str = "regimed_bus_out_entries_total";
const OUT_LOST: &str = "regimed_bus_out_lost_total";
const OUT_CONNECTED: &str = "regimed_bus_out_connected";
const BINS_MISSING: &str = "regimed_bins_missing_total";
const BINS_LATE: &str = "regimed_bins_late_total";
const STARTS: &str = "regimed_recording_starts_total";
const REJECTED: &str = "regimed_messages_rejected_total";
const LOST: &str = "regimed_decisions_lost_total";
const CHANGES: &str = "regimed_regime_changes_total";
const RESETS: &str = "regimed_filter_resets_total";
const QUEUE: &str = "regimed_queue_bins";
const POSTERIOR: &str = "regimed_regime_posterior";
const IN_FORCE: &str = "regimed_regime_in_force";
const UNLABELLED: &str = "regimed_unlabelled_posterior";
const NOVELTY: &str = "regimed_novelty";
const LOG_LIKELIHOOD: &str = "regimed_log_likelihood";
const RADIUS: &str = "regimed_spectral_radius";
const ABSCISSA: &str = "regimed_spectral_abscissa_per_second";
const FREQUENCY: &str = "regimed_leading_frequency_hertz";
const TIME_CONSTANT: &str = "regimed_leading_time_constant_seconds";
const PARTICIPATION: &str = "regimed_participation_ratio";
const ARTEFACTS: &str = "regimed_artefact_bins_total";
const SILENT: &str = "regimed_silent_channels";
const RADIUS_ENDS: [&str; 2] = ["regimed_spectral_radius_low", "regimed_spectral_radius_high"];
const ABSCISSA_ENDS: [&str; 2] =
    ["regimed_spectral_abscissa_low_per_second", "regimed_spectral_abscissa_high_per_second"];
/// A gauge of [`DynamicsMetrics`]: name, what it tells, and its value in a message; NaN where absent.
type DynamicsGauge = (&'static str, &'static str, fn(&wire::Metrics) -> Option<f32>);
const DYNAMICS: [DynamicsGauge; 22] = [
    ("regimed_bare_spectral_radius", "Spectral radius of the bare connectivity J.", |m| {
        Some(m.bare_spectral_radius)
    }),
    (
        "regimed_lyapunov_max_noise_free_per_second",
        "Largest Lyapunov exponent of the fitted network without noise.",
        |m| Some(m.lyapunov_max_noise_free_per_s?.mean),
    ),
    (
        "regimed_lyapunov_max_noise_free_low_per_second",
        "Lower end of its 90 % credible interval.",
        |m| Some(m.lyapunov_max_noise_free_per_s?.low),
    ),
    (
        "regimed_lyapunov_max_noise_free_high_per_second",
        "Upper end of its 90 % credible interval.",
        |m| Some(m.lyapunov_max_noise_free_per_s?.high),
    ),
    (
        "regimed_lyapunov_max_driven_per_second",
        "Largest Lyapunov exponent of the fitted network along noisy paths.",
        |m| Some(m.lyapunov_max_driven_per_s?.mean),
    ),
    (
        "regimed_lyapunov_max_driven_low_per_second",
        "Lower end of its 90 % credible interval.",
        |m| Some(m.lyapunov_max_driven_per_s?.low),
    ),
    (
        "regimed_lyapunov_max_driven_high_per_second",
        "Upper end of its 90 % credible interval.",
        |m| Some(m.lyapunov_max_driven_per_s?.high),
    ),
    (
        "regimed_lyapunov_max_noise_free_learned_per_second",
        "Largest exponent without noise as learned from simulated truth; NaN where not.",
        |m| Some(m.lyapunov_max_noise_free_learned_per_s?.mean),
    ),
    (
        "regimed_lyapunov_max_driven_learned_per_second",
        "Largest exponent along noisy paths as learned from simulated truth; NaN where not.",
        |m| Some(m.lyapunov_max_driven_learned_per_s?.mean),
    ),
    (
        "regimed_lyapunov_max_driven_learned_low_per_second",
        "Lower end of its 90 % conformal interval; NaN where not learned.",
        |m| Some(m.lyapunov_max_driven_learned_per_s?.low),
    ),
    (
        "regimed_lyapunov_max_driven_learned_high_per_second",
        "Upper end of its 90 % conformal interval; NaN where not learned.",
        |m| Some(m.lyapunov_max_driven_learned_per_s?.high),
    ),
    ("regimed_kaplan_yorke_dimension", "Kaplan-Yorke dimension of the noise-free spectrum.", |m| {
        Some(m.kaplan_yorke_dimension?.mean)
    }),
    ("regimed_oscillation_hertz", "Frequency of the noise-free run; NaN where none.", |m| {
        Some(m.oscillation_hz?.mean)
    }),
    ("regimed_stable_points", "Stable fixed points of the fitted network.", |m| {
        Some(m.fixed_points?.stable as f32)
    }),
    ("regimed_unstable_points", "Unstable fixed points of the fitted network.", |m| {
        Some(m.fixed_points?.unstable as f32)
    }),
    (
        "regimed_dynamical_signature",
        "0 undetermined, 1 stable, 2 multistable, 3 marginal, 4 oscillatory, 5 quasi-periodic, 6 chaotic.",
        |m| Some(m.signature as f32),
    ),
    ("regimed_branching_ratio_per_bin", "Branching ratio of the activity; NaN where none.", |m| {
        Some(m.branching_ratio_per_bin?.mean)
    }),
    ("regimed_branching_ratio_low_per_bin", "Lower end of its 90 % interval.", |m| {
        Some(m.branching_ratio_per_bin?.low)
    }),
    ("regimed_branching_ratio_high_per_bin", "Upper end of its 90 % interval.", |m| {
        Some(m.branching_ratio_per_bin?.high)
    }),
    ("regimed_branching_timescale_seconds", "Timescale of the activity; NaN where none.", |m| {
        Some(m.branching_timescale_s?.mean)
    }),
    (
        "regimed_connectivity_radius",
        "Effective connectivity radius from covariances; NaN before half a minute.",
        |m| Some(m.connectivity_radius?.mean),
    ),
    ("regimed_connectivity_radius_low", "Lower end of its 90 % interval.", |m| {
        Some(m.connectivity_radius?.low)
    }),
];
const JOURNAL_RECORDS: &str = "regimed_journal_records_total";
const JOURNAL_DROPPED: &str = "regimed_journal_dropped_total";
const JOURNAL_FAILURES: &str = "regimed_journal_failures_total";
const JOURNAL_WAITING: &str = "regimed_journal_waiting_records";
const JOURNAL_BYTES: &str = "regimed_journal_bytes";
const JOURNAL_FAILING: &str = "regimed_journal_failing";
const JOURNAL_COMMIT: &str = "regimed_journal_commit_seconds";
const DENIED: &str = "regimed_requests_denied_total";
const CONDITION: &str = "regimed_condition";
const CALIBRATION: &str = "regimed_calibration_state";
const CONNECTIONS_CUT: &str = "regimed_connections_cut_total";

/// Installs the recorder once per process and returns its handle.
///
/// # Panics
/// Where another recorder was installed before: a bug.
pub fn install() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(build).clone()
}

fn build() -> PrometheusHandle {
    let full = |name: &str| Matcher::Full(name.to_owned());
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(full(LATENCY), &LATENCY_BUCKETS_S)
        .and_then(|b| b.set_buckets_for_metric(full(COMPUTE), &LATENCY_BUCKETS_S))
        .and_then(|b| b.set_buckets_for_metric(full(TRANSPORT_DELAY), &LATENCY_BUCKETS_S))
        .and_then(|b| b.set_buckets_for_metric(full(JOURNAL_COMMIT), &LATENCY_BUCKETS_S))
        .expect("buckets are not empty")
        .install_recorder()
        .expect("one recorder per process");
    metrics::describe_histogram!(LATENCY, metrics::Unit::Seconds, "Bin received to decision made.");
    metrics::describe_histogram!(COMPUTE, metrics::Unit::Seconds, "Filter bank's time per bin.");
    let text = "Rig's time of a message to receiving it, beyond the least such delay of late.";
    metrics::describe_histogram!(TRANSPORT_DELAY, metrics::Unit::Seconds, text);
    let text =
        "Time to keep a group of records: written, and synced where the configuration says so.";
    metrics::describe_histogram!(JOURNAL_COMMIT, metrics::Unit::Seconds, text);
    for (name, text) in [
        (JOURNAL_RECORDS, "Records kept in the journal."),
        (JOURNAL_DROPPED, "Records dropped because too many waited for a disk that fails."),
        (JOURNAL_FAILURES, "Failed attempts to write to the journal's disk."),
        (BINS, "Bins accepted: received less late and rejected."),
        (BINS_RECEIVED, "Bins received: each is accepted, late or rejected."),
        (BINS_PROCESSED, "Bins accepted and done; the others wait (regimed_queue_bins)."),
        (BINS_REJECTED, "Bins rejected, by reason; overload is the session's queue being full."),
        (
            EVENTS_RECEIVED,
            "Spike events (or parts of bins) received: each is binned, late or rejected.",
        ),
        (EVENTS_BINNED, "Spike events counted into bins."),
        (EVENTS_LATE, "Spike events whose bins had closed."),
        (EVENTS_REJECTED, "Spike events rejected, by reason."),
        (MESSAGES_LOST, "Messages of a source found missing by their numbers."),
        (SOURCE_CONNECTIONS, "Connections made to a session's rig."),
        (SOURCE_MESSAGES, "Messages of a session's rig, by outcome."),
        (TTL_EDGES, "TTL edges of a session's rig, by line."),
        (CLOCK_JUMPS, "Times that the rig's clock was found set or begun anew."),
        (MODEL_SWAPS, "Models swapped between two bins."),
        (OUT_SENT, "Entries written to a session's Redis stream, by kind."),
        (OUT_LOST, "Decisions not written to a session's Redis stream."),
        (BINS_MISSING, "Bins missing from the sequence and predicted through."),
        (ARTEFACTS, "Bins with far more counts than expected, taken for missing."),
        (BINS_LATE, "Bins dropped as duplicates or too late."),
        (STARTS, "Recordings begun: a gap too long to predict through, or numbering begun anew."),
        (REJECTED, "Messages rejected, by reason."),
        (LOST, "Decisions lost, by place: session (nobody fetched them) or subscriber (too slow)."),
        (CHANGES, "Regime changes, by the label they led to."),
        (RESETS, "Hypotheses that lost their numbers and began anew."),
        (CONNECTIONS_CUT, "Connections cut or not let in, by reason."),
        (DENIED, "Requests denied for their token, by reason."),
    ] {
        metrics::describe_counter!(name, text);
    }
    for (name, text) in [
        (JOURNAL_WAITING, "Records that wait to be kept."),
        (JOURNAL_BYTES, "Bytes of the journal."),
        (JOURNAL_FAILING, "1 while the journal's disk fails."),
        (
            CONDITION,
            "1 for what is wrong now, by condition and session (none: the daemon); docs/operations.md.",
        ),
        (QUEUE, "Bins that wait for the session."),
        (STALLED, "1 while nothing comes from a session's rig though something did."),
        (SOURCE_CONNECTED, "1 while connected to a session's rig."),
        (OUT_CONNECTED, "1 while connected to a session's Redis stream."),
        (CLOCK_OFFSET, "Our time less the rig's, with the least transport delay of late."),
        (
            CLOCK_DRIFT,
            "Seconds per second that the offset grows: positive where the rig's clock is slow.",
        ),
        (SESSION_STATE, "1 for the state a session is in: running, paused or stopped."),
        (POSTERIOR, "Posterior probability per regime, given that it is one of them."),
        (UNLABELLED, "Posterior probability of dynamics that training saw without a label."),
        (IN_FORCE, "1 for the label in force."),
        (CALIBRATION, "1 for where a session stands with calibrating itself."),
        (
            NOVELTY,
            "How unlike anything learned the dynamics are, smoothed: above 1 the label is unknown.",
        ),
        (LOG_LIKELIHOOD, "One-step predictive log-likelihood, nats per channel and bin."),
        (SILENT, "Channels that fell silent and do not inform until they fire again."),
        (RADIUS_ENDS[0], "Lower end of the spectral radius' 90 % credible interval."),
        (RADIUS_ENDS[1], "Upper end of the spectral radius' 90 % credible interval."),
        (ABSCISSA_ENDS[0], "Lower end of the spectral abscissa's 90 % credible interval, 1/s."),
        (ABSCISSA_ENDS[1], "Upper end of the spectral abscissa's 90 % credible interval, 1/s."),
        (RADIUS, "Spectral radius of the bin-to-bin map at the filtered state."),
        (ABSCISSA, "Spectral abscissa of the continuous Jacobian at the filtered state."),
        (FREQUENCY, "Frequency of the leading eigenvalue."),
        (TIME_CONSTANT, "Time constant of the leading eigenvalue; negative where it grows."),
        (PARTICIPATION, "Participation ratio of the log rates' covariance over the last seconds."),
    ] {
        metrics::describe_gauge!(name, text);
    }
    for (name, text, _) in DYNAMICS {
        metrics::describe_gauge!(name, text);
    }
    gauge!("regimed_build_info", "version" => env!("CARGO_PKG_VERSION"), "commit" => env!("REGIMED_GIT_COMMIT"))
        .set(1.0);
    handle
}

/// The wall clock, nanoseconds since the Unix epoch.
#[must_use]
pub fn wall_ns() -> i64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(wall.as_nanos()).unwrap_or(i64::MAX)
}

/// Lets one line through per second and counts the others.
#[derive(Debug, Default)]
pub struct Throttle {
    last: Option<Instant>,
    held_back: u64,
}

impl Throttle {
    /// `Some(lines held back since the last one)` when a line may be written now.
    pub fn pass(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|t| now.duration_since(t) < Duration::from_secs(1)) {
            self.held_back += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.held_back))
    }
}

/// Logs to standard error; `REGIMED_LOG` chooses levels (default `info`).
pub fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("REGIMED_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // A second daemon in one process keeps the first one's log.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .try_init();
}
