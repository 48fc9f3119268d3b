//! Estimated dynamics by regime, and against the truth of simulated tasks.

use std::fmt::Write as _;

use serde::Serialize;

use crate::dynamics::{Estimate, NORMAL_HALF_WIDTH, Reading, Signature, ZERO_WITHIN_PER_S};
use crate::recording::DynamicsTruth;

/// Time of a stream after which a task's dynamics are compared, seconds...
pub(super) const COMPARED_AFTER_S: f64 = 4.0;
/// ...or at its end, if it is at least this long.
pub(super) const COMPARED_FROM_S: f64 = 2.0;
/// Frequencies within this share of the true one are right.
const FREQUENCY_WITHIN: f64 = 0.05;
/// Row of what has no label.
const UNLABELLED: &str = "(no label)";

/// One task: truth and estimate.
#[derive(Debug, Clone)]
pub(super) struct Compared {
    pub(super) regime: usize,
    pub(super) truth: DynamicsTruth,
    pub(super) found: Reading,
    /// Whether the regime was the most probable one then.
    pub(super) known: bool,
}

/// How an exponent was found.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ExponentRow {
    /// Mean truth, 1/s.
    truth: f64,
    /// Mean found.
    found: f64,
    /// Mean absolute error.
    error: f64,
    /// Correlation over the tasks whose regime was found.
    correlation: Option<f64>,
    /// Share of 90 % intervals that hold the truth.
    coverage: f64,
    /// Share of tasks in which the sign is right; tasks whose truth is within 0.25 /s of 0 are left
    /// out.
    sign: Option<f64>,
}

/// A regime's tasks.
#[derive(Debug, Clone, Serialize)]
pub(super) struct TruthRow {
    regime: String,
    tasks: usize,
    /// The model's free runs without noise, and along noisy paths.
    model_noise_free: Option<ExponentRow>,
    model_driven: Option<ExponentRow>,
    /// Median relative error of the frequency where the truth oscillates, and share within 5 %.
    frequency_error: Option<f64>,
    frequency_right: Option<f64>,
    /// Share of tasks with the right numbers of stable and unstable fixed points.
    points_right: Option<f64>,
    stable_points_right: Option<f64>,
    /// `(signature, share)`.
    signatures: Vec<(&'static str, f64)>,
}

/// Means over all refreshes while a label was true, with 90 % intervals from streams' means (null
/// of one stream).
#[derive(Debug, Clone, Serialize)]
pub(super) struct LabelRow {
    regime: String,
    streams: usize,
    /// `[mean, low, high]` each.
    spectral_radius: [f64; 3],
    spectral_abscissa_per_s: [f64; 3],
    leading_frequency_hz: [f64; 3],
    bare_radius: [f64; 3],
    lyapunov_max_noise_free_per_s: [f64; 3],
    kaplan_yorke_dimension: [f64; 3],
}

/// Sums of one stream's readings under one label.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    n: f64,
    of: [f64; 6],
}

/// Estimates while each label was true.
#[derive(Debug, Clone, Default)]
pub(super) struct ByLabel {
    /// By stream, `(label, sums)`; `None`: without a label.
    streams: Vec<Vec<(Option<usize>, Sums)>>,
}

impl ByLabel {
    pub(super) fn start_stream(&mut self) {
        self.streams.push(Vec::new());
    }

    pub(super) fn push(&mut self, label: Option<usize>, r: &Reading) {
        let Some(stream) = self.streams.last_mut() else { return };
        let at = stream.iter().position(|s| s.0 == label).unwrap_or_else(|| {
            stream.push((label, Sums::default()));
            stream.len() - 1
        });
        let sums = &mut stream[at].1;
        sums.n += 1.0;
        let s = &r.spectrum.mean;
        let values = [
            s.spectral_radius,
            s.spectral_abscissa_per_s,
            s.leading_frequency_hz,
            s.bare_radius,
            r.portrait.lyapunov_max_noise_free_per_s.mean,
            r.portrait.kaplan_yorke_dimension.mean,
        ];
        sums.of.iter_mut().zip(values).for_each(|(s, v)| *s += v);
    }

    pub(super) fn rows(&self, names: &[String]) -> Vec<LabelRow> {
        let row = |(label, name): (Option<usize>, &str)| {
            let of: Vec<Sums> = self
                .streams
                .iter()
                .flat_map(|s| s.iter().filter(|s| s.0 == label).map(|s| s.1))
                .collect();
            let mean = |i: usize| {
                let values: Vec<f64> = of.iter().map(|s| s.of[i] / s.n).collect();
                let total: f64 = of.iter().map(|s| s.n).sum();
                let mean = of.iter().map(|s| s.of[i]).sum::<f64>() / total;
                let n = values.len() as f64;
                let square: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
                // One stream says nothing of how far others would be from it: NaN.
                let half = student_95(n - 1.0) * (square / (n - 1.0) / n).sqrt();
                [mean, mean - half, mean + half]
            };
            (!of.is_empty()).then(|| LabelRow {
                regime: name.to_owned(),
                streams: of.len(),
                spectral_radius: mean(0),
                spectral_abscissa_per_s: mean(1),
                leading_frequency_hz: mean(2),
                bare_radius: mean(3),
                lyapunov_max_noise_free_per_s: mean(4),
                kaplan_yorke_dimension: mean(5),
            })
        };
        let named = names.iter().enumerate().map(|(i, n)| (Some(i), n.as_str()));
        named.chain([(None, UNLABELLED)]).filter_map(row).collect()
    }
}

/// 95 % quantile of Student's t, so that few streams give the width that they should: exact for
/// one and two degrees of freedom, else Fisher's expansion (Abramowitz & Stegun 26.7.5), within
/// 0.3 %.
fn student_95(freedom: f64) -> f64 {
    if freedom < 1.5 {
        return 6.314;
    }
    if freedom < 2.5 {
        return 2.920;
    }
    let z = NORMAL_HALF_WIDTH;
    let terms = [
        (z.powi(3) + z) / 4.0,
        (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0,
        (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0,
    ];
    z + (1..).zip(terms).map(|(power, term)| term / freedom.powi(power)).sum::<f64>()
}

/// Correlation of true and found values; `None` of fewer than three.
pub(super) fn correlation(pairs: &[(f64, f64)]) -> Option<f64> {
    let n = pairs.len() as f64;
    let mean = |of: &dyn Fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(&|p| p.0), mean(&|p| p.1));
    let cov = mean(&|p| (p.0 - x) * (p.1 - y));
    let var = mean(&|p| (p.0 - x).powi(2)) * mean(&|p| (p.1 - y).powi(2));
    (n > 2.0 && var > 1e-12).then(|| cov / var.sqrt())
}

fn exponent(all: &[(f64, Estimate, bool)]) -> Option<ExponentRow> {
    let known: Vec<(f64, f64)> = all.iter().filter(|p| p.2).map(|p| (p.0, p.1.mean)).collect();
    let pairs: Vec<(f64, Estimate)> = all.iter().map(|p| (p.0, p.1)).collect();

    if pairs.is_empty() {
        return None;
    }
    let n = pairs.len() as f64;
    let mean = |of: &dyn Fn(&(f64, Estimate)) -> f64| pairs.iter().map(of).sum::<f64>() / n;
    let (truth, found) = (mean(&|p| p.0), mean(&|p| p.1.mean));
    let signed: Vec<&(f64, Estimate)> =
        pairs.iter().filter(|p| p.0.abs() > ZERO_WITHIN_PER_S).collect();
    let right = signed.iter().filter(|p| p.0.signum() == p.1.mean.signum()).count();
    Some(ExponentRow {
        truth,
        found,
        error: mean(&|p| (p.0 - p.1.mean).abs()),
        correlation: correlation(&known),
        coverage: mean(&|p| f64::from(u8::from(p.1.low <= p.0 && p.0 <= p.1.high))),
        sign: (!signed.is_empty()).then(|| right as f64 / signed.len() as f64),
    })
}

/// Estimates against the truth, by regime.
pub(super) fn truth_rows(compared: &[Compared], names: &[String]) -> Vec<TruthRow> {
    let row = |(regime, name): (usize, &String)| {
        let of: Vec<&Compared> = compared.iter().filter(|c| c.regime == regime).collect();
        (!of.is_empty()).then(|| truth_row(name, &of))
    };
    names.iter().enumerate().filter_map(row).collect()
}

fn share(n: usize, of: usize) -> f64 {
    n as f64 / of as f64
}

fn truth_row(name: &str, of: &[&Compared]) -> TruthRow {
    let pairs = |truth: fn(&DynamicsTruth) -> Option<f64>,
                 found: &dyn Fn(&Reading) -> Option<Estimate>| {
        let pairs: Vec<(f64, Estimate, bool)> =
            of.iter().filter_map(|c| Some((truth(&c.truth)?, found(&c.found)?, c.known))).collect();
        exponent(&pairs)
    };
    let free = |t: &DynamicsTruth| t.lyapunov_max_noise_free_per_s;
    let driven = |t: &DynamicsTruth| t.lyapunov_max_per_s;
    let mut frequency: Vec<f64> = of.iter().filter_map(|c| frequency_error(c)).collect();
    frequency.sort_by(f64::total_cmp);
    let n_close = frequency.iter().filter(|e| **e <= FREQUENCY_WITHIN).count();
    let points: Vec<[bool; 2]> = of.iter().filter_map(|c| points_right(c)).collect();
    let right = |i: usize| {
        (!points.is_empty()).then(|| share(points.iter().filter(|p| p[i]).count(), points.len()))
    };
    let signatures = Signature::ALL
        .into_iter()
        .map(|s| (s.name(), of.iter().filter(|c| c.found.portrait.signature == s).count()))
        .filter(|s| s.1 > 0)
        .map(|(name, count)| (name, share(count, of.len())))
        .collect();
    TruthRow {
        regime: name.to_owned(),
        tasks: of.len(),
        model_noise_free: pairs(free, &|r| Some(r.portrait.lyapunov_max_noise_free_per_s)),
        model_driven: pairs(driven, &|r| Some(r.portrait.lyapunov_max_driven_per_s)),
        frequency_error: frequency.get(frequency.len() / 2).copied(),
        frequency_right: (!frequency.is_empty()).then(|| share(n_close, frequency.len())),
        points_right: right(1),
        stable_points_right: right(0),
        signatures,
    }
}

/// Relative error of the frequency, where the truth oscillates.
fn frequency_error(c: &Compared) -> Option<f64> {
    let truth = c.truth.frequency_hz.filter(|f| *f > 0.0)?;
    let found = c.found.portrait.oscillation_hz.map_or(0.0, |f| f.mean);
    Some((found / truth - 1.0).abs())
}

/// Whether the number of stable fixed points is right, and that of all of them.
fn points_right(c: &Compared) -> Option<[bool; 2]> {
    let truth = [c.truth.stable_points?, c.truth.unstable_points?];
    let found = c.found.portrait.fixed_points?;
    let stable = found.stable as f64 == truth[0];
    Some([stable, stable && found.unstable as f64 == truth[1]])
}

/// Tables of both as text.
pub(super) fn tables(by_label: &[LabelRow], truth: &[TruthRow], width: usize) -> String {
    let mut out = String::new();
    if !by_label.is_empty() {
        label_table(&mut out, by_label, width);
    }
    if !truth.is_empty() {
        exponent_table(&mut out, truth, width);
        portrait_table(&mut out, truth, width);
    }
    out
}

/// A table's cell.
pub(super) fn cell(x: Option<f64>) -> String {
    x.map_or("-".into(), |x| format!("{x:.2}"))
}

/// A mean with its interval, where there is one.
fn ranged([mean, low, high]: [f64; 3], digits: usize) -> String {
    if low.is_nan() {
        return format!("{mean:.digits$}");
    }
    format!("{mean:.digits$} [{low:.digits$} {high:.digits$}]")
}

/// Rows of the mean dynamics, with a head, for a page.
pub(super) fn label_rows(rows: &[LabelRow]) -> (Vec<String>, Vec<Vec<String>>) {
    let head = [
        "true regime",
        "streams",
        "spectral radius",
        "abscissa, 1/s",
        "leading frequency, Hz",
        "bare radius",
        "noise-free exponent, 1/s",
        "Kaplan-Yorke dimension",
    ];
    let row = |r: &LabelRow| {
        vec![
            r.regime.clone(),
            r.streams.to_string(),
            ranged(r.spectral_radius, 3),
            ranged(r.spectral_abscissa_per_s, 2),
            ranged(r.leading_frequency_hz, 2),
            ranged(r.bare_radius, 2),
            ranged(r.lyapunov_max_noise_free_per_s, 2),
            ranged(r.kaplan_yorke_dimension, 2),
        ]
    };
    (head.map(str::to_owned).to_vec(), rows.iter().map(row).collect())
}

/// Rows of the exponents against the truth, with a head, for a page.
pub(super) fn truth_table(rows: &[TruthRow]) -> (Vec<String>, Vec<Vec<String>>) {
    let head = [
        "true regime",
        "tasks",
        "exponent",
        "true, 1/s",
        "found, 1/s",
        "mean error",
        "correlation",
        "in its 90 %",
        "sign right",
        "frequency within 5 %",
        "stable points right",
    ];
    let row = |r: &TruthRow, name: &str, of: &ExponentRow| {
        vec![
            r.regime.clone(),
            r.tasks.to_string(),
            name.to_owned(),
            format!("{:.2}", of.truth),
            format!("{:.2}", of.found),
            format!("{:.2}", of.error),
            cell(of.correlation),
            format!("{:.2}", of.coverage),
            cell(of.sign),
            cell(r.frequency_right),
            cell(r.stable_points_right),
        ]
    };
    let rows = rows.iter().flat_map(|r| {
        let of = [("noise-free", &r.model_noise_free), ("driven", &r.model_driven)];
        of.into_iter().filter_map(move |(name, of)| Some(row(r, name, of.as_ref()?)))
    });
    (head.map(str::to_owned).to_vec(), rows.collect())
}

fn label_table(out: &mut String, rows: &[LabelRow], width: usize) {
    let _ = writeln!(
        out,
        "\n{:width$}  {:>20}  {:>22}  {:>8}  {:>11}  {:>15}",
        "mean dynamics", "spectral radius", "abscissa /s", "Hz", "bare radius", "free exponent /s"
    );
    for r in rows {
        let radius = ranged(r.spectral_radius, 3);
        let abscissa = ranged(r.spectral_abscissa_per_s, 2);
        let _ = writeln!(
            out,
            "{:width$}  {radius:>20}  {abscissa:>22}  {:>8.2}  {:>11.2}  {:>15.2}",
            r.regime,
            r.leading_frequency_hz[0],
            r.bare_radius[0],
            r.lyapunov_max_noise_free_per_s[0]
        );
    }
}

fn exponent_table(out: &mut String, rows: &[TruthRow], width: usize) {
    let _ = writeln!(
        out,
        "\n{:width$}  tasks  {:>20}  true  found  error  corr.  in 90 %  sign",
        "against truth", "largest exponent /s"
    );
    for r in rows {
        let estimators =
            [("model, noise-free", &r.model_noise_free), ("model, driven", &r.model_driven)];
        for (name, row) in estimators.into_iter().filter_map(|(n, r)| Some((n, r.as_ref()?))) {
            let _ = writeln!(
                out,
                "{:width$}  {:>5}  {name:>20}  {:>4.1}  {:>5.2}  {:>5.2}  {:>5}  {:>7.2}  {:>4}",
                r.regime,
                r.tasks,
                row.truth,
                row.found,
                row.error,
                cell(row.correlation),
                row.coverage,
                cell(row.sign)
            );
        }
    }
}

fn portrait_table(out: &mut String, rows: &[TruthRow], width: usize) {
    let _ = writeln!(
        out,
        "\n{:width$}  frequency error  within 5 %  stable points right  all points right  \
         signatures",
        "against truth"
    );
    for r in rows {
        let signatures: Vec<String> =
            r.signatures.iter().map(|(name, share)| format!("{name} {share:.2}")).collect();
        let _ = writeln!(
            out,
            "{:width$}  {:>15}  {:>10}  {:>19}  {:>16}  {}",
            r.regime,
            r.frequency_error.map_or("-".into(), |e| format!("{:.1} %", 100.0 * e)),
            cell(r.frequency_right),
            cell(r.stable_points_right),
            cell(r.points_right),
            signatures.join(", ")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_streams_have_wide_intervals() {
        // Student (1908), one-sided 5 %.
        for (freedom, t) in [(1.0, 6.314), (2.0, 2.920), (3.0, 2.353), (9.0, 1.833), (30.0, 1.697)]
        {
            assert!((student_95(freedom) / t - 1.0).abs() < 3e-3, "{freedom}: {t}");
        }
        assert!((student_95(1e6) - NORMAL_HALF_WIDTH).abs() < 1e-5);
    }
}
