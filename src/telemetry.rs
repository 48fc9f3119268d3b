//! Every metric of the daemon, declared once; and tracing.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::wire;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Upper bounds of the latency histograms, seconds.
const LATENCY_BUCKETS_S: [f64; 14] = [
    25e-6, 50e-6, 75e-6, 100e-6, 150e-6, 250e-6, 500e-6, 750e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 50e-3,
    250e-3,
];
const LATENCY: &str = "regimed_latency_seconds";
const COMPUTE: &str = "regimed_compute_seconds";
const BINS: &str = "regimed_bins_total";
const BINS_MISSING: &str = "regimed_bins_missing_total";
const BINS_LATE: &str = "regimed_bins_late_total";
const STARTS: &str = "regimed_recording_starts_total";
const REJECTED: &str = "regimed_messages_rejected_total";
const LOST: &str = "regimed_decisions_lost_total";
const EVENTS: &str = "regimed_regime_changes_total";
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
        .expect("buckets are not empty")
        .install_recorder()
        .expect("one recorder per process");
    metrics::describe_histogram!(LATENCY, metrics::Unit::Seconds, "Bin received to decision made.");
    metrics::describe_histogram!(COMPUTE, metrics::Unit::Seconds, "Filter bank's time per bin.");
    for (name, text) in [
        (BINS, "Bins accepted."),
        (BINS_MISSING, "Bins missing from the sequence and predicted through."),
        (ARTEFACTS, "Bins with far more counts than expected, taken for missing."),
        (BINS_LATE, "Bins dropped as duplicates or too late."),
        (STARTS, "Recordings begun: a gap too long to predict through, or numbering begun anew."),
        (REJECTED, "Messages rejected, by reason."),
        (LOST, "Decisions lost, by place: session (nobody fetched them) or subscriber (too slow)."),
        (EVENTS, "Regime changes, by the label they led to."),
        (RESETS, "Hypotheses that lost their numbers and began anew."),
        (CONNECTIONS_CUT, "ZeroMQ connections cut, by reason."),
    ] {
        metrics::describe_counter!(name, text);
    }
    for (name, text) in [
        (QUEUE, "Bins that wait for the session."),
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

/// Counts a rejected message.
pub fn rejected(session: &str, reason: &'static str) {
    counter!(REJECTED, "session" => session.to_owned(), "reason" => reason).increment(1);
}

/// Counts decisions that a subscriber lost.
pub fn lost_by_subscriber(session: &str, n: u64) {
    counter!(LOST, "session" => session.to_owned(), "place" => "subscriber").increment(n);
}

/// A session's calibration stands at `state`, one of `states`.
pub fn calibration(session: &str, states: &[&'static str], state: &str) {
    for &of in states {
        gauge!(CALIBRATION, "session" => session.to_owned(), "state" => of)
            .set(f64::from(u8::from(of == state)));
    }
}

/// Counts a ZeroMQ connection that was cut.
pub fn connection_cut(reason: &'static str) {
    counter!(CONNECTIONS_CUT, "reason" => reason).increment(1);
}

/// A session's accounting of what came in.
pub struct IntakeMetrics {
    /// Bins accepted.
    pub bins: Counter,
    /// Bins missing.
    pub missing: Counter,
    /// Bins late.
    pub late: Counter,
    /// Recordings begun.
    pub starts: Counter,
}

impl IntakeMetrics {
    /// Handles for a session.
    #[must_use]
    pub fn new(session: &str) -> Self {
        let of = |name: &'static str| counter!(name, "session" => session.to_owned());
        let metrics = Self {
            bins: of(BINS),
            missing: of(BINS_MISSING),
            late: of(BINS_LATE),
            starts: of(STARTS),
        };
        // Shown as 0 before the first bin.
        for c in [&metrics.bins, &metrics.missing, &metrics.late, &metrics.starts] {
            c.increment(0);
        }
        metrics
    }
}

/// Gauges of a reading of the dynamics.
pub struct DynamicsMetrics(Vec<Gauge>);

impl DynamicsMetrics {
    /// Takes a reading's values.
    pub fn set(&self, of: &wire::Metrics) {
        for (gauge, (.., value)) in self.0.iter().zip(DYNAMICS) {
            gauge.set(value(of).map_or(f64::NAN, f64::from));
        }
    }
}

/// A session's numbers as they go out.
pub struct SessionMetrics {
    session: String,
    /// Receive to decision.
    pub latency: Histogram,
    /// Filter bank's time.
    pub compute: Histogram,
    /// Bins that wait.
    pub queue: Gauge,
    /// Novelty.
    pub novelty: Gauge,
    /// Probability of none of the regimes.
    pub unlabelled: Gauge,
    /// Predictive log-likelihood.
    pub log_likelihood: Gauge,
    /// Participation ratio.
    pub participation: Gauge,
    /// Channels that fell silent.
    pub silent: Gauge,
    /// Bins taken for artefacts.
    pub artefacts: Counter,
    /// Spectral radius.
    pub radius: Gauge,
    /// Ends of its interval.
    pub radius_ends: [Gauge; 2],
    /// Spectral abscissa.
    pub abscissa: Gauge,
    /// Ends of its interval.
    pub abscissa_ends: [Gauge; 2],
    /// Leading frequency.
    pub frequency: Gauge,
    /// Leading time constant.
    pub time_constant: Gauge,
    /// Everything else that a reading of the dynamics tells.
    pub dynamics: DynamicsMetrics,
    /// Hypotheses begun anew.
    pub resets: Counter,
    /// Decisions lost before they were fetched.
    pub lost: Counter,
    posterior: Vec<Gauge>,
    /// One per label, `unknown` last.
    in_force: Vec<Gauge>,
    changes: Vec<Counter>,
}

impl SessionMetrics {
    /// Handles for a session whose labels are `labels`, `unknown` last.
    #[must_use]
    pub fn new(session: &str, labels: &[&str]) -> Self {
        let name = || session.to_owned();
        let per_label = |metric: &'static str| -> Vec<Gauge> {
            labels
                .iter()
                .map(|l| gauge!(metric, "session" => name(), "regime" => (*l).to_owned()))
                .collect()
        };
        let plain = |metric: &'static str| gauge!(metric, "session" => name());
        Self {
            latency: histogram!(LATENCY, "session" => name()),
            compute: histogram!(COMPUTE, "session" => name()),
            queue: plain(QUEUE),
            novelty: plain(NOVELTY),
            unlabelled: plain(UNLABELLED),
            log_likelihood: plain(LOG_LIKELIHOOD),
            participation: plain(PARTICIPATION),
            silent: plain(SILENT),
            artefacts: counter!(ARTEFACTS, "session" => name()),
            radius: plain(RADIUS),
            radius_ends: RADIUS_ENDS.map(plain),
            abscissa: plain(ABSCISSA),
            abscissa_ends: ABSCISSA_ENDS.map(plain),
            frequency: plain(FREQUENCY),
            time_constant: plain(TIME_CONSTANT),
            dynamics: DynamicsMetrics(DYNAMICS.iter().map(|(name, ..)| plain(name)).collect()),
            resets: counter!(RESETS, "session" => name()),
            lost: counter!(LOST, "session" => name(), "place" => "session"),
            posterior: per_label(POSTERIOR)
                .into_iter()
                .take(labels.len().saturating_sub(1))
                .collect(),
            in_force: per_label(IN_FORCE),
            changes: labels
                .iter()
                .map(|l| counter!(EVENTS, "session" => name(), "to" => (*l).to_owned()))
                .collect(),
            session: name(),
        }
    }

    /// The session's name.
    #[must_use]
    pub fn session(&self) -> &str {
        &self.session
    }

    /// Posterior per regime.
    pub fn posterior(&self, posterior: &[f32]) {
        for (gauge, p) in self.posterior.iter().zip(posterior) {
            gauge.set(f64::from(*p));
        }
    }

    /// Label `index` (labels as at the start) is in force from now on.
    pub fn change(&self, index: usize) {
        for (i, gauge) in self.in_force.iter().enumerate() {
            gauge.set(f64::from(u8::from(i == index)));
        }
        if let Some(counter) = self.changes.get(index) {
            counter.increment(1);
        }
    }
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
