//! The report: numbers, table, plots, page.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::dynamics::{LabelRow, TruthRow};
use super::stream::{Tally, Timeline};
use super::{dynamics, maps, plots};
use crate::checkpoint::Checkpoint;
use crate::dynamics::{DynamicsSkill, SkillMeter};
use crate::files::write_whole;
use crate::recording::Recording;
use crate::regime::{ChangeVerdict, Score, Verdict};

/// Times after a start or change at which accuracy is reported, seconds.
const LAGS_S: [f64; 9] = [0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0];

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
    /// `[truth][label]`, fractions of each truth's bins.
    pub(super) confusion: Vec<Vec<f64>>,
    /// `(seconds after a start or change, fraction right)`.
    pub(super) accuracy_after_s: Vec<(f64, f64)>,
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
        sessions: &[(String, Score)],
        streams: usize,
    ) -> Self {
        let model = &checkpoint.model;
        let n = model.regime_names.len();
        let confusion = tally
            .score
            .confusion()
            .chunks_exact(n)
            .map(|row| {
                let total = row.iter().sum::<u64>().max(1) as f64;
                row.iter().map(|&c| c as f64 / total).collect()
            })
            .collect();
        let bins = tally.bins.max(1) as f64;
        Self {
            model: String::new(),
            model_weights_sha256: checkpoint.weights_sha256.clone(),
            recordings: recordings.iter().map(|r| r.path.display().to_string()).collect(),
            bin_width_s: model.bin_width_s,
            regime_names: model.regime_names.clone(),
            streams,
            overall: tally.score.verdict(),
            by_session: sessions.iter().map(|(name, s)| (name.clone(), s.verdict())).collect(),
            confusion,
            accuracy_after_s: LAGS_S
                .iter()
                .filter(|s| **s >= model.bin_width_s)
                .filter_map(|&s| Some((s, tally.score.accuracy_after(s)?)))
                .collect(),
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

pub(super) fn table(r: &Report) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line(format!("model      {} ({})", r.model, &r.model_weights_sha256[..12]));
    line(format!("recordings {} ({} streams)", r.recordings.join(", "), r.streams));
    line(format!("overall    {}", r.overall));
    for (name, v) in &r.by_session {
        line(format!("session {name:<3}{v}"));
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

/// Writes an evaluation's report and prints its table.
pub(super) fn write(dir: &Path, of: &Scored) -> Result<()> {
    let text = table(&of.report);
    let plots = drawn(of)?;
    let mut page = Page::new("regimed evaluate");
    page.text(&text);
    for (_, svg) in &plots {
        page.plot(svg);
    }
    page.write(dir, &text, &plots, &of.report)
}

/// A page that can be read without a network.
pub(super) struct Page(String);

impl Page {
    pub(super) fn new(title: &str) -> Self {
        Self(format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\
             <style>body{{font:15px sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}\
             pre{{background:#f4f4f4;padding:1rem;overflow:auto}}\
             svg{{max-width:100%;height:auto}}</style>\
             <h1>{title}</h1>"
        ))
    }

    pub(super) fn heading(&mut self, text: &str) {
        self.0.push_str(&format!("<h2>{}</h2>", escaped(text)));
    }

    pub(super) fn paragraph(&mut self, text: &str) {
        self.0.push_str(&format!("<p>{}</p>", escaped(text)));
    }

    pub(super) fn text(&mut self, text: &str) {
        self.0.push_str(&format!("<pre>{}</pre>", escaped(text)));
    }

    pub(super) fn plot(&mut self, svg: &str) {
        self.0.push_str(svg);
    }

    /// Writes report.html, report.txt, report.json and the plots, and prints the text.
    pub(super) fn write(
        mut self,
        dir: &Path,
        text: &str,
        plots: &[(&str, String)],
        numbers: &impl Serialize,
    ) -> Result<()> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        self.0.push_str("</html>\n");
        for (name, svg) in plots {
            save(&dir.join(name), svg)?;
        }
        save(&dir.join("report.html"), &self.0)?;
        save(&dir.join("report.txt"), text)?;
        save(&dir.join("report.json"), &(serde_json::to_string_pretty(numbers)? + "\n"))?;
        print!("{text}");
        println!("report in {}", dir.display());
        Ok(())
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

fn save(path: &Path, text: &str) -> Result<()> {
    write_whole(path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}
