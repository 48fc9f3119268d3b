//! One page of one model or several: what all have in common side by side, then a section for each
//! recording.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::blocks::{MEASURES, wilson};
use super::dynamics;
use super::page::{Page, write_numbers};
use super::report::{Report, Scored, aligned, drawn, figure, of_sessions, shares, table};
use super::stream::{OfSession, TIMELINE_BINS};

/// Sessions of which a timeline is shown at most.
const TIMELINES_MAX: usize = 12;

/// Writes the report of one model, or of several beside each other, and prints its text.
///
/// # Errors
/// A folder that cannot be written.
pub(super) fn write(dir: &Path, all: &[Scored]) -> Result<()> {
    let mut page = Page::new("regimed evaluate");
    let Some((first, others)) = all.split_first() else { return Ok(()) };
    let recordings = first.report.recordings.join(", ");
    page.paragraph(&format!("{recordings}: {} streams.", first.report.streams));
    page.heading(if others.is_empty() { "Overall" } else { "Side by side" });
    let rows = side_by_side(all);
    page.table(&rows[0], &rows[1..]);
    page.paragraph(
        "In brackets: 90 % intervals by a bootstrap over blocks of at most 10 s. A dash: there is \
         nothing to measure it by.",
    );
    if !others.is_empty() {
        differences(&mut page, first, others);
    }
    curves(&mut page, all);
    for at in 0..first.tally.sessions.len() {
        recording(&mut page, all, at);
    }
    let mut plots = Vec::new();
    for scored in all {
        plots.push(drawn(scored)?);
        details(&mut page, scored, plots.last().map_or(&[], Vec::as_slice), all.len() > 1);
    }
    if others.is_empty() {
        return page.write(dir, &table(&first.report), &plots[0], &first.report);
    }
    let mut text = String::new();
    for line in aligned(&rows) {
        text.push_str(&line);
        text.push('\n');
    }
    for (i, (scored, plots)) in all.iter().zip(&plots).enumerate() {
        let own = table(&scored.report);
        write_numbers(&dir.join(format!("model-{}", i + 1)), &own, plots, &scored.report)?;
        text.push_str(&format!("\n{own}"));
    }
    let reports: Vec<&Report> = all.iter().map(|s| &s.report).collect();
    page.write(dir, &text, &[], &json!({ "models": reports }))
}

/// Digits after the point that a measure is given with.
fn digits(measure: &str) -> usize {
    if measure == "false_changes_per_minute" { 2 } else { 3 }
}

/// A row for each measure, a column for each model.
fn side_by_side(all: &[Scored]) -> Vec<Vec<String>> {
    let mut head = vec!["".to_owned()];
    head.extend(all.iter().map(|s| s.report.model.clone()));
    let mut rows = vec![head];
    let found: Vec<_> = all.iter().map(|s| s.tally.blocks.measures(None)).collect();
    for (i, (measure, words)) in MEASURES.into_iter().enumerate() {
        let mut row = vec![words.to_owned()];
        row.extend(all.iter().zip(&found).map(|(s, measures)| {
            figure(measures[i], s.report.intervals.of(measure), digits(measure))
        }));
        rows.push(row);
    }
    let mut add = |words: &str, of: &dyn Fn(&Report) -> String| {
        let mut row = vec![words.to_owned()];
        row.extend(all.iter().map(|s| of(&s.report)));
        rows.push(row);
    };
    let seconds = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.2} s"));
    add("calibration error", &|r| format!("{:.3}", r.overall.calibration_error));
    add("median delay of a change", &|r| seconds(r.changes.median_delay_s));
    add("onsets in their 90 %", &|r| figure(r.changes.onset_coverage, None, 2));
    add("share of bins unknown", &|r| format!("{:.3}", r.unknown_fraction));
    add("log-likelihood, nats a channel and bin", &|r| format!("{:.4}", r.mean_log_likelihood));
    add("time of a bin, p50 and p99", &|r| {
        format!("{:.0} and {:.0} us", r.compute_us[0], r.compute_us[1])
    });
    rows
}

/// By how much the other models differ from the first, on the same blocks.
fn differences(page: &mut Page, first: &Scored, others: &[Scored]) {
    page.subheading("Difference from the first");
    let against: Vec<_> =
        others.iter().map(|o| o.tally.blocks.against(&first.tally.blocks)).collect();
    if against.iter().any(Option::is_none) {
        page.paragraph("The models did not see the same streams: they are not compared.");
        return;
    }
    let mut head = vec!["".to_owned()];
    head.extend(others.iter().map(|o| o.report.model.clone()));
    let row = |(i, (measure, words)): (usize, (&'static str, &'static str))| {
        let mut row = vec![words.to_owned()];
        row.extend(against.iter().flatten().map(|of| {
            let (difference, interval) = of[i];
            let shown = figure(difference, interval, digits(measure));
            let is_clear = interval.is_some_and(|[low, high]| low > 0.0 || high < 0.0);
            if is_clear { format!("{shown} *") } else { shown }
        }));
        row
    };
    let rows: Vec<Vec<String>> = MEASURES.into_iter().enumerate().map(row).collect();
    page.table(&head, &rows);
    page.paragraph("*: the 90 % interval of the difference, on the same blocks, holds no 0.");
}

/// Accuracy after a change, and calibration, a line for each model.
fn curves(page: &mut Page, all: &[Scored]) {
    let after = |r: &Report| -> Vec<Value> {
        let points = r.accuracy_after_s.iter().zip(&r.accuracy_after_interval);
        points
            .map(|((s, right), interval)| {
                json!([s, right, interval.map(|i| i[0]), interval.map(|i| i[1])])
            })
            .collect()
    };
    let lines = |of: &dyn Fn(&Report) -> Vec<Value>| -> Vec<Value> {
        all.iter().map(|s| json!({ "name": s.report.model, "points": of(&s.report) })).collect()
    };
    let regimes = all.first().map_or(1, |s| s.report.regime_names.len().max(1));
    let caption = "Accuracy after a start or change, with 90 % intervals; dashed: chance";
    page.chart(
        "lines",
        caption,
        &json!({
            "x": "seconds after it", "y": "fraction right",
            "level": 1.0 / regimes as f64, "of": lines(&after),
        }),
    );
    // Of a share that is right in n bins that are not independent: a bin in a second counts.
    let reliable = |r: &Report| -> Vec<Value> {
        let row = |&(stated, right, bins): &(f64, f64, u64)| {
            let n = (bins as f64 * r.bin_width_s).max(1.0);
            let [low, high] = wilson(right, n);
            json!([stated, right, low, high])
        };
        r.reliability.iter().map(row).collect()
    };
    let caption = "Fraction right by the largest probability; dashed: calibrated. The bands are \
                   Wilson's 90 % intervals as if each second were one observation";
    page.chart(
        "lines",
        caption,
        &json!({
            "x": "largest posterior probability", "y": "fraction right",
            "diagonal": true, "of": lines(&reliable),
        }),
    );
}

/// The section of one recorded session.
fn recording(page: &mut Page, all: &[Scored], at: usize) {
    let Some(session) = all.first().and_then(|s| s.tally.sessions.get(at)) else { return };
    page.heading(&format!("Session {}", session.name));
    let mut head = vec!["".to_owned()];
    head.extend(all.iter().map(|s| s.report.model.clone()));
    let of = |s: &Scored| -> Option<(Vec<Option<f64>>, usize)> {
        let place = s.tally.sessions.iter().position(|o| o.name == session.name)?;
        Some((s.tally.blocks.measures(Some(place)), place))
    };
    let found: Vec<_> = all.iter().map(of).collect();
    let row = |(i, (measure, words)): (usize, (&'static str, &'static str))| {
        let mut row = vec![words.to_owned()];
        row.extend(all.iter().zip(&found).map(|(s, found)| match found {
            Some((measures, place)) => {
                let interval = s.report.intervals_by_session[*place].1.of(measure);
                figure(measures[i], interval, digits(measure))
            }
            None => "-".to_owned(),
        }));
        row
    };
    let rows: Vec<Vec<String>> = MEASURES.into_iter().enumerate().map(row).collect();
    page.table(&head, &rows);
    let shown = TIMELINES_MAX / all.len().max(1);
    for (scored, found) in all.iter().zip(&found) {
        let Some((_, place)) = found else { continue };
        let session = &scored.tally.sessions[*place];
        if *place < shown.max(1) {
            timeline(page, &scored.report, session, all.len() > 1);
        }
        let names = &scored.report.regime_names;
        page.subheading(&named("Truth against the most probable regime", scored, all.len() > 1));
        page.shares("truth", names, &shares(session.score.confusion(), names.len()));
    }
}

fn named(words: &str, of: &Scored, many: bool) -> String {
    if many { format!("{words}: {}", of.report.model) } else { words.to_owned() }
}

fn timeline(page: &mut Page, report: &Report, session: &OfSession, many: bool) {
    let t = &session.timeline;
    let rounded = |p: &Vec<f32>| -> Vec<f64> {
        p.iter().map(|&p| (f64::from(p) * 1000.0).round() / 1000.0).collect()
    };
    let whole = if t.truth.len() == TIMELINE_BINS { "the first " } else { "" };
    let seconds = t.truth.len() as f64 * report.bin_width_s;
    let of = if many { format!(" by {}", report.model) } else { String::new() };
    let caption = format!("Posterior of {whole}{seconds:.0} s{of}: truth and label above it");
    page.chart(
        "timeline",
        &caption,
        &json!({
            "bin_width_s": report.bin_width_s, "names": report.regime_names,
            "truth": t.truth, "label": t.label,
            "posterior": t.posterior.iter().map(rounded).collect::<Vec<_>>(),
        }),
    );
}

/// What is known of one model beside how right it is.
fn details(page: &mut Page, scored: &Scored, plots: &[(&'static str, String)], many: bool) {
    let r = &scored.report;
    page.heading(&named("Dynamics", scored, many));
    let rows = of_sessions(r);
    if r.by_session.len() > 1 {
        page.table(&rows[0], &rows[1..]);
    }
    let (head, rows) = dynamics::label_rows(&r.dynamics_by_label);
    page.table(&head, &rows);
    let (head, rows) = dynamics::truth_table(&r.dynamics_against_truth);
    if !rows.is_empty() {
        page.subheading("Against the truth of simulated tasks");
        page.table(&head, &rows);
    }
    for text in r.skill.iter().flat_map(|s| s.lines(r.bin_width_s)) {
        page.paragraph(&text);
    }
    // The others are drawn as charts above.
    for (_, svg) in plots.iter().filter(|p| ["embeddings.svg", "exponents.svg"].contains(&p.0)) {
        page.plot(svg);
    }
}
