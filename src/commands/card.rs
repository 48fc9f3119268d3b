//! The model card, Markdown, which `inspect` prints as well.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use super::abilities::abilities;
use crate::checkpoint::Checkpoint;
use crate::dynamics::NORMAL_HALF_WIDTH;
use crate::files::write_whole;
use crate::model::EXPERT_NAMES;
use crate::regime::Verdict;

/// File of the card in a model directory.
const MARKDOWN_FILE: &str = "model.md";

/// Writes a model's card into its directory.
///
/// # Errors
/// Errors of the file system.
pub(super) fn write(dir: &Path, of: &Checkpoint) -> Result<()> {
    let path = dir.join(MARKDOWN_FILE);
    write_whole(&path, card(of).as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))
}

/// A share with Wilson's 90 % interval over `n` independent cases.
fn share(p: f64, n: f64) -> String {
    let z2 = NORMAL_HALF_WIDTH * NORMAL_HALF_WIDTH;
    let centre = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = NORMAL_HALF_WIDTH * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).max(0.0).sqrt()
        / (1.0 + z2 / n);
    format!("{p:.3} ({:.3} to {:.3})", (centre - half).max(0.0), (centre + half).min(1.0))
}

fn scores(out: &mut String, name: &str, v: &Verdict, dwell_bins: f64) {
    // Bins of one stretch are not independent: each stretch counts as one case.
    let n = (v.n_bins as f64 / dwell_bins).max(1.0);
    let cell = |p: Option<f64>| p.map_or("-".into(), |p| share(p, n));
    let _ = writeln!(
        out,
        "| {name} | {} | {} | {} | {:.3} | {:.3} |",
        share(v.accuracy, n),
        cell(v.accuracy_after_500ms),
        cell(v.accuracy_after_1s),
        v.log_loss,
        v.calibration_error
    );
}

/// The card, Markdown.
pub(super) fn card(of: &Checkpoint) -> String {
    let parts = [
        heading(of),
        data(of),
        sessions(of),
        published(of),
        can_do(of),
        recognised(of),
        held_out(of),
        operating_points(of),
        LIMITS.to_owned(),
    ];
    parts.concat()
}

fn heading(of: &Checkpoint) -> String {
    let (m, p) = (&of.model, &of.provenance);
    let d = &m.dims;
    let tau_ms = 1e3 * m.bin_width_s / f64::from(m.network.leak);
    let noise: f32 = m.network.process_variance.iter().sum::<f32>() / d.rank as f32;
    format!(
        "# Model {}\n\n\
         Regimes: {}.\n\
         Bins of {} ms. Embedding {}, rank {}, {} units, hidden layers {} and {}.\n\
         Time constant {tau_ms:.0} ms, mean process variance {noise:.4} per bin; a regime lasts \
         {:.1} s on average.\n\n\
         Made by regimed {} (commit {}), seed {}, {} steps.\n",
        &of.weights_sha256[..12],
        m.regime_names.join(", "),
        m.bin_width_s * 1e3,
        d.embedding,
        d.rank,
        d.units,
        d.hidden[0],
        d.hidden[1],
        m.mean_dwell_s(),
        p.regimed_version,
        p.git_commit,
        p.seed,
        p.steps
    )
}

fn data(of: &Checkpoint) -> String {
    let mut out = "\n## Data\n\n| file | SHA-256 |\n|---|---|\n".to_owned();
    for file in &of.provenance.data {
        let _ = writeln!(out, "| {} | {} |", file.file, file.sha256);
    }
    out
}

fn sessions(of: &Checkpoint) -> String {
    let mut out = "\n## Sessions\n\n\
                   | session | channels | counts | Gaussians of the regime prior |\n\
                   |---|---|---|---|\n"
        .to_owned();
    for r in &of.model.readouts {
        let counts = if r.dispersion.is_some() { "negative binomial" } else { "Poisson" };
        let trust = if r.trusted { "" } else { ", not trusted" };
        let n = r.prior.components.len();
        let _ = writeln!(out, "| {} | {} | {counts}{trust} | {n} |", r.session, r.n_channels());
    }
    out
}

/// New animals without labels.
fn recognised(of: &Checkpoint) -> String {
    let judged = of.recogniser.as_ref().and_then(|r| r.judged());
    judged.map_or_else(String::new, |judged| {
        format!(
            "\n## New animals\n\nIts regimes are recognised in animals without labels: {judged}. \
             Where sessions are days of one animal, this says less of another one.\n"
        )
    })
}

/// The pool and the rule, in words.
fn published(of: &Checkpoint) -> String {
    let online = &of.model.online;
    let mut out = "\n## What is published\n\n".to_owned();
    if of.model.readouts.iter().any(|r| r.experts.is_some()) {
        let weights = EXPERT_NAMES.iter().zip(online.pool.weights);
        let weights: Vec<String> = weights.map(|(name, w)| format!("{name} {w:.2}")).collect();
        let _ = writeln!(
            out,
            "The posterior pools experts by weight, {}, at temperature {:.2}, with base rates \
             divided out to the power {:.2}.",
            weights.join(", "),
            online.pool.temperature,
            online.pool.evenness
        );
    } else {
        out.push_str("The posterior is that of the dynamics alone.\n");
    }
    if let Some(rule) = online.rule {
        let unlabelled = if rule.unlabelled { "may" } else { "does not" };
        let _ = writeln!(
            out,
            "A label comes into force with probability {} for {} bins in a row; dynamics that had \
             no label {unlabelled} make it `unknown`.",
            rule.probability_min, rule.dwell_bins
        );
    }
    out
}

fn can_do(of: &Checkpoint) -> String {
    let items: Vec<String> = abilities(of).into_iter().map(|line| format!("* {line}\n")).collect();
    format!("\n## What it can and cannot do\n\n{}", items.concat())
}

fn held_out(of: &Checkpoint) -> String {
    let mut out = "\n## Scores on held-out streams\n\n".to_owned();
    let Some(all) = &of.provenance.held_out else {
        return out + "Nothing labelled was held out: no scores.\n";
    };
    out.push_str(
        "90 % intervals in brackets, as if each stretch of one regime were one case.\n\n\
         | session | accuracy | after 0.5 s | after 1 s | log loss, nats | calibration error |\n\
         |---|---|---|---|---|---|\n",
    );
    let dwell_bins = of.model.shortest_regime_s() / of.model.bin_width_s;
    scores(&mut out, "all", all, dwell_bins);
    for (name, v) in &of.provenance.held_out_by_session {
        scores(&mut out, name, v, dwell_bins);
    }
    out
}

fn operating_points(of: &Checkpoint) -> String {
    let points = &of.model.online.operating_points;
    if points.is_empty() {
        return String::new();
    }
    let mut out = "\n| probability that a new label must reach | false changes a minute \
                   | median delay, ms |\n|---|---|---|\n"
        .to_owned();
    for o in points {
        let delay = o.median_delay_s.map_or("-".into(), |s| format!("{:.0}", s * 1e3));
        let _ =
            writeln!(out, "| {} | {:.2} | {delay} |", o.probability_min, o.false_changes_per_min);
    }
    out
}

const LIMITS: &str = "
## Limits

* Labels are those of the data above; anything else is meant to be called `unknown`, and not all of
  it is.
* A new animal needs labels to be calibrated with; another day of a known one does not
  (`calibrate --from`).
* Spectra and exponents of the free-running network describe this model, not the circuit.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_has_wilsons_interval() {
        // 45 of 50: 0.808 to 0.950 at 90 %.
        assert_eq!(share(0.9, 50.0), "0.900 (0.808 to 0.950)");
        assert_eq!(share(1.0, 10.0), "1.000 (0.787 to 1.000)");
    }

    #[test]
    fn the_built_in_models_card_says_what_is_in_it() {
        let checkpoint = crate::checkpoint::builtin().expect("built in");
        let text = card(&checkpoint);
        for part in checkpoint.model.session_names() {
            assert!(text.contains(&format!("| {part} | 96 | Poisson |")), "{text}");
        }
        for part in ["## Data", "## Scores", "## Limits", "limit_cycle", "rank 8"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
