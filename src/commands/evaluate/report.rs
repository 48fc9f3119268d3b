//! The report: numbers, text, plots.

use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;

use super::blocks::{Interval, Intervals, LAGS_S};
use super::dynamics::{LabelRow, TruthRow};
use super::stream::{Tally, Timeline};
use super::{dynamics, maps, plots};
use crate::checkpoint::Checkpoint;
use crate::dynamics::{DynamicsSkill, SkillMeter};
use crate::recording::Recording;
use crate::regime::{ChangeVerdict, Verdict};

/// What streaming showed.
pub(super) struct Scored {
    pub(super) report: Report,
    pub(super) timeline: Timeline,
    pub(super) tally: Tally,
}

/// The report in numbers.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Report {
    pub(super) model: String,
    model_weights_sha256: String,
    pub(super) recordings: Vec<String>,
    pub(super) bin_width_s: f64,
    pub(super) regime_names: Vec<String>,
    pub(super) streams: usize,
    pub(super) overall: Verdict,
    pub(super) by_session: Vec<(String, Verdict)>,
    /// 90 % intervals by a bootstrap over blocks of at most 10 s; null of fewer than five.
    pub(super) intervals: Intervals,
    pub(super) intervals_by_session: Vec<(String, Intervals)>,
    pub(super) changes_by_session: Vec<(String, ChangeVerdict)>,
    /// `[truth][label]`, fractions of each truth's bins.
    pub(super) confusion: Vec<Vec<f64>>,
    /// `(seconds after a start or change, fraction right)`.
    pub(super) accuracy_after_s: Vec<(f64, f64)>,
    /// The 90 % interval of each.
    pub(super) accuracy_after_interval: Vec<Interval>,
    /// `(mean largest probability, fraction right, bins)` by class of that probability.
    pub(super) reliability: Vec<(f64, f64, u64)>,
    pub(super) changes: ChangeVerdict,
    pub(super) unknown_fraction: f64,
    pub(super) mean_log_likelihood: f64,
    /// Forecasts, and what the network explains of the latents' motion.
    pub(super) skill: Option<DynamicsSkill>,
    /// p50, p99, p99.9 and the largest time of a bin, microseconds.
    pub(super) compute_us: [f64; 4],
    /// p50, p99, p99.9 and the largest time of a reading of the dynamics, microseconds.
    pub(super) reading_us: [f64; 4],
    pub(super) dynamics_by_label: Vec<LabelRow>,
    pub(super) dynamics_against_truth: Vec<TruthRow>,
}

impl Report {
    /// From the counters of all streams.
    pub(super) fn of(
        checkpoint: &Checkpoint,
        recordings: &[Recording],
        tally: &Tally,
        streams: usize,
    ) -> Self {
        let (intervals, after) = tally.blocks.intervals(None);
        let sessions = &tally.sessions;
        let of_lags = LAGS_S.iter().zip(after).filter_map(|(&s, interval)| {
            let accuracy = tally.score.accuracy_after(s);
            let is_there = s >= checkpoint.model.bin_width_s;
            accuracy.filter(|_| is_there).map(|right| ((s, right), interval))
        });
        let (accuracy_after_s, accuracy_after_interval) = of_lags.unzip();
        let model = &checkpoint.model;
        let n = model.regime_names.len();
        let confusion = shares(tally.score.confusion(), n);
        let bins = tally.bins.max(1) as f64;
        Self {
            model: String::new(),
            model_weights_sha256: checkpoint.weights_sha256.clone(),
            recordings: recordings.iter().map(|r| r.path.display().to_string()).collect(),
            bin_width_s: model.bin_width_s,
            regime_names: model.regime_names.clone(),
            streams,
            overall: tally.score.verdict(),
            by_session: sessions.iter().map(|s| (s.name.clone(), s.score.verdict())).collect(),
            intervals,
            intervals_by_session: (sessions.iter().enumerate())
                .map(|(i, s)| (s.name.clone(), tally.blocks.intervals(Some(i)).0))
                .collect(),
            changes_by_session: (sessions.iter())
                .map(|s| (s.name.clone(), s.changes.verdict(model.bin_width_s)))
                .collect(),
            confusion,
            accuracy_after_s,
            accuracy_after_interval,
            reliability: tally.score.reliability(),
            changes: tally.changes.verdict(model.bin_width_s),
            unknown_fraction: tally.unknown_bins as f64 / bins,
            mean_log_likelihood: tally.log_likelihood / bins,
            skill: SkillMeter::skill(tally.skill.iter().map(|s| &s.1), model),
            compute_us: tally.compute.percentiles(),
            reading_us: tally.reading.percentiles(),
            dynamics_by_label: tally.by_label.rows(&model.regime_names),
            dynamics_against_truth: dynamics::truth_rows(&tally.compared, &model.regime_names),
        }
    }
}

/// Rows of counts as shares of each.
pub(super) fn shares(counts: &[u64], n: usize) -> Vec<Vec<f64>> {
    let row = |row: &[u64]| {
        let total = row.iter().sum::<u64>().max(1) as f64;
        row.iter().map(|&c| c as f64 / total).collect()
    };
    counts.chunks_exact(n.max(1)).map(row).collect()
}

/// A figure with its 90 % interval, where there is one.
pub(super) fn figure(x: Option<f64>, interval: Interval, digits: usize) -> String {
    match (x, interval) {
        (None, _) => "-".into(),
        (Some(x), None) => format!("{x:.digits$}"),
        (Some(x), Some([low, high])) => format!("{x:.digits$} ({low:.digits$} to {high:.digits$})"),
    }
}

/// Head and rows: how right the labels were, over all and in each session.
pub(super) fn of_sessions(r: &Report) -> Vec<Vec<String>> {
    let head = ["session", "bins", "accuracy (90 %)", "balanced", "1 s after a change", "log loss"];
    let row = |name: &str, v: &Verdict, of: &Intervals| {
        vec![
            name.to_owned(),
            v.n_bins.to_string(),
            figure(Some(v.accuracy), of.of("accuracy"), 3),
            figure(Some(v.balanced_accuracy), of.of("balanced_accuracy"), 3),
            figure(v.accuracy_after_1s, of.of("accuracy_after_1s"), 3),
            figure(Some(v.log_loss), of.of("log_loss"), 3),
        ]
    };
    let mut rows = vec![head.map(str::to_owned).to_vec(), row("all", &r.overall, &r.intervals)];
    let sessions = r.by_session.iter().zip(&r.intervals_by_session);
    rows.extend(sessions.map(|((name, v), (_, of))| row(name, v, of)));
    rows
}

/// Rows as text, each column as wide as its widest cell.
pub(super) fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|t| t.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cell = |(c, text): (usize, &String)| match c {
            0 => format!("{text:<0$}", widths[c]),
            _ => format!("{text:>0$}", widths[c]),
        };
        row.iter().enumerate().map(cell).collect::<Vec<_>>().join("  ")
    };
    rows.iter().map(line).collect()
}

pub(super) fn table(r: &Report) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line(format!("model      {} ({})", r.model, &r.model_weights_sha256[..12]));
    line(format!("recordings {} ({} streams)", r.recordings.join(", "), r.streams));
    line(format!("overall    {}", r.overall));
    for text in aligned(&of_sessions(r)) {
        line(text);
    }
    let c = &r.changes;
    let seconds = |x: Option<f64>| x.map_or("-".into(), |x| format!("{:.0} ms", x * 1e3));
    line(format!(
        "changes    {} of {} found, median delay {}, 90 % within {}; {:.2} false per minute; \
         unknown {:.1} % of bins",
        c.found,
        c.changes,
        seconds(c.median_delay_s),
        seconds(c.p90_delay_s),
        c.false_changes_per_minute,
        100.0 * r.unknown_fraction
    ));
    if let Some(coverage) = c.onset_coverage {
        line(format!(
            "onsets     median error {}; 90 % intervals hold {:.1} %",
            seconds(c.median_onset_error_s),
            100.0 * coverage
        ));
    }
    line(format!("calibration error {:.3}", r.overall.calibration_error));
    let [p50, p99, p999, max] = r.compute_us;
    line(format!(
        "compute    p50 {p50:.0}, p99 {p99:.0}, p99.9 {p999:.0}, max {max:.0} us per bin"
    ));
    let [p50, p99, _, max] = r.reading_us;
    line(format!("dynamics   p50 {p50:.0}, p99 {p99:.0}, max {max:.0} us per reading"));
    line(format!("log-likelihood {:.4} nats per channel and bin", r.mean_log_likelihood));
    for text in r.skill.iter().flat_map(|s| s.lines(r.bin_width_s)) {
        line(format!("forecasts  {text}"));
    }
    line(String::new());
    let width = r.regime_names.iter().map(String::len).max().unwrap_or(0).max(8);
    let mut head = format!("{:width$} ", "truth");
    for name in &r.regime_names {
        let _ = write!(head, " {name:>width$}");
    }
    line(head);
    for (name, row) in r.regime_names.iter().zip(&r.confusion) {
        let mut text = format!("{name:width$} ");
        for x in row {
            let _ = write!(text, " {x:>width$.3}");
        }
        line(text);
    }
    out.push_str(&dynamics::tables(&r.dynamics_by_label, &r.dynamics_against_truth, width));
    out
}

/// All plots, by file name.
pub(super) fn drawn(of: &Scored) -> Result<Vec<(&'static str, String)>> {
    let Scored { report, timeline, tally } = of;
    let names = &report.regime_names;
    let mut plots = vec![
        ("timeline.svg", plots::timeline(timeline, names, report.bin_width_s)?),
        ("accuracy.svg", plots::accuracy(&report.accuracy_after_s, names.len())?),
        ("reliability.svg", plots::reliability(&report.reliability)?),
        ("confusion.svg", plots::confusion(&report.confusion, names)?),
    ];
    if tally.ends.len() > 2 {
        plots.push(("embeddings.svg", maps::embeddings(&tally.ends, names)?));
    }
    if !tally.compared.is_empty() {
        plots.push(("exponents.svg", maps::exponents(&tally.compared, names)?));
    }
    Ok(plots)
}
