//! The rig of a session: whether it is there, whether its channels are the model's, how it fires,
//! what is lost, and how its clock runs.

use std::time::Duration;

use super::finding::{Finding, Level};
use crate::bus::{Plan, Stranger};
use crate::config::SessionConfig;
use crate::daemon::named;
use crate::daemon::probe::{Probed, probe};
use crate::model::nearly_equal;
use crate::wire;

/// A rig's rates that are by this factor others than those learned are a warning.
const RATE_FACTOR: f64 = 2.0;
/// Spikes that a channel should have fired for its silence to be told.
const SPIKES_EXPECTED: f64 = 10.0;
/// Share of bins that are missing from which on it is a warning, and a failure.
const MISSING_WARNING: f64 = 0.001;
const MISSING_FAILURE: f64 = 0.05;
/// Drift of a clock that is worth a word, seconds a second.
const DRIFT: f64 = 200e-6;
/// Names that a line lists.
const TOLD: usize = 5;

fn told(names: &[String]) -> String {
    let shown = names.iter().take(TOLD).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > TOLD { format!("{shown}, ...") } else { shown }
}

/// Listens to a session's rig.
pub(super) async fn listened(session: &SessionConfig, plan: &Plan, time: Duration) -> Vec<Finding> {
    let name = |what: &str| format!("{} {what}", session.name);
    let asked = match named(session.clone(), plan) {
        Ok(asked) => asked,
        Err(e) => {
            let cure = "name them in the rig's table";
            return vec![Finding::bad(Level::Failure, name("channels"), format!("{e:#}"), cure)];
        }
    };
    let shape = (plan.readout.n_channels(), plan.model.bin_width_s);
    let found = match probe(&asked, shape, time).await {
        Ok(found) => found,
        Err(e) => {
            let cure = "see the rig's page in docs/rigs";
            return vec![Finding::bad(Level::Failure, name("rig"), format!("{e:#}"), cure)];
        }
    };
    let mut findings = vec![connection(&name("rig"), &found, time)];
    if found.bins == 0 {
        return findings;
    }
    findings.push(channels(&name("channels"), &found, plan));
    findings.extend(rates(&name("rates"), &found, plan));
    findings.push(losses(&name("losses"), &found));
    findings.push(clock(&name("clock"), &found));
    findings
}

fn connection(what: &str, found: &Probed, time: Duration) -> Finding {
    let seconds = time.as_secs_f64();
    if found.bins > 0 {
        let heard = format!("{} bins in {seconds} s", found.bins);
        return Finding::good(what, heard);
    }
    let (text, cure) = if !found.connected {
        ("nothing answers".to_owned(), "start the rig; check its address, and firewalls between")
    } else if found.seen.channels > 0 {
        let n = found.seen.channels;
        let text = format!("{n} channels, of which nothing is taken ({} refused)", found.refused);
        (text, "the rig and the model have other channels: regimed init, or another readout")
    } else {
        ("it answers, but sends nothing".to_owned(), "begin its acquisition; check what it sends")
    };
    Finding::bad(Level::Failure, what, text, cure)
}

fn channels(what: &str, found: &Probed, plan: &Plan) -> Finding {
    let n = plan.readout.n_channels();
    if let (Some(known), false) = (&plan.readout.channels, found.seen.names.is_empty()) {
        let missing: Vec<String> =
            known.iter().filter(|k| !found.seen.names.contains(k)).cloned().collect();
        if !missing.is_empty() {
            let text = format!("{} of {n} were not heard: {}", missing.len(), told(&missing));
            let cure = "check the headstage and the channel map, or calibrate anew";
            return Finding::bad(Level::Warning, what, text, cure);
        }
    }
    if found.refused > 0 {
        let text = format!("{} events or bins of others than the model's {n}", found.refused);
        let cure = "leave them out at the rig, or train with them";
        return Finding::bad(Level::Warning, what, text, cure);
    }
    Finding::good(what, format!("{n}, as in readout '{}'", plan.readout.session))
}

/// Rates against those that the readout was learned with.
fn rates(what: &str, found: &Probed, plan: &Plan) -> Vec<Finding> {
    let seconds = found.bins as f64 * plan.model.bin_width_s;
    let all: u64 = found.spikes.iter().sum();
    let mean = all as f64 / seconds / found.spikes.len().max(1) as f64;
    if plan.choice.calibration.is_some() {
        let silent = found.spikes.iter().filter(|&&n| n == 0).count();
        let text = format!("{mean:.1} spikes a second and channel, {silent} silent");
        return vec![Finding::good(what, text)];
    }
    let width = plan.model.bin_width_s;
    let learned: Vec<f64> =
        plan.readout.baseline.iter().map(|&d| f64::from(d.exp()) / width).collect();
    let expected = learned.iter().sum::<f64>() / learned.len().max(1) as f64;
    let label = |i: usize| {
        let names = plan.readout.channels.as_ref();
        names.and_then(|n| n.get(i).cloned()).unwrap_or_else(|| i.to_string())
    };
    let quiet = |i: usize| found.spikes[i] == 0 && learned[i] * seconds >= SPIKES_EXPECTED;
    let silent: Vec<String> = (0..learned.len()).filter(|&i| quiet(i)).map(label).collect();
    let mut findings = Vec::new();
    let text = format!("{mean:.1} spikes a second and channel, {expected:.1} where it was learned");
    let ratio = (mean / expected.max(1e-9)).max(1e-9);
    findings.push(if (1.0 / RATE_FACTOR..RATE_FACTOR).contains(&ratio) {
        Finding::good(what, text)
    } else {
        let cure = "another threshold or sorting? calibrate this day (calibrate_from)";
        Finding::bad(Level::Warning, what, text, cure)
    });
    if !silent.is_empty() {
        let text = format!("{} channels that fired are silent: {}", silent.len(), told(&silent));
        let cure = "check them at the rig; they do not inform until they fire";
        findings.push(Finding::bad(Level::Warning, what, text, cure));
    }
    findings
}

fn losses(what: &str, found: &Probed) -> Finding {
    let share = found.missing as f64 / (found.bins + found.missing).max(1) as f64;
    let text = format!(
        "{} bins missing ({:.2} %), {} late, {} refused",
        found.missing,
        100.0 * share,
        found.late,
        found.refused
    );
    let cure = "a wire for a wireless link, less load, or more reorder_ms and deadline_ms";
    if share > MISSING_FAILURE {
        Finding::bad(Level::Failure, what, text, cure)
    } else if share > MISSING_WARNING || found.late > found.bins / 100 {
        Finding::bad(Level::Warning, what, text, cure)
    } else {
        Finding::good(what, text)
    }
}

fn clock(what: &str, found: &Probed) -> Finding {
    let Some(offset_s) = found.offset_s else {
        return Finding::good(what, "the rig does not tell its time");
    };
    let drift = found
        .drift
        .map_or("drift is known after 20 s".into(), |d| format!("drift {:.0} ppm", d * 1e6));
    let text = format!("ours less the rig's {offset_s:.3} s, {drift}, set {} times", found.jumps);
    if found.jumps > 0 || found.drift.is_some_and(|d| d.abs() > DRIFT) {
        let cure = "let one clock follow the other (PTP, NTP), or stop setting it";
        return Finding::bad(Level::Warning, what, text, cure);
    }
    Finding::good(what, text)
}

/// What came for a session whose rig comes by itself.
pub(super) fn came(session: &SessionConfig, plan: &Plan, found: Option<&Stranger>) -> Finding {
    let what = format!("{} rig", session.name);
    let Some(found) = found else {
        let text = "nothing came over gRPC or ZeroMQ";
        let cure = "start the program that sends; docs/rigs/messages.md says what";
        return Finding::bad(Level::Warning, what, text, cure);
    };
    let (n, width_s) = (plan.readout.n_channels(), plan.model.bin_width_s);
    if found.session != session.name {
        let text = format!("messages for '{}' came, none for '{}'", found.session, session.name);
        return Finding::bad(Level::Failure, what, text, "let both have one name");
    }
    let fits = found.bin_width_s.is_none_or(|w| found.channels == n && nearly_equal(w, width_s));
    let bins = found.bin_width_s.map_or("events".into(), |w| format!("bins of {} ms", w * 1e3));
    let text = format!("{} channels, {bins}", found.channels);
    if fits {
        return Finding::good(what, text);
    }
    let cure = format!("{n} channels in bins of {} ms are the model's", width_s * 1e3);
    Finding::bad(Level::Failure, what, text, cure)
}

/// What a daemon that runs says of a session.
pub(super) fn told_by_daemon(s: &wire::Session) -> Vec<Finding> {
    let name = |what: &str| format!("{} {what}", s.name);
    let mut findings = Vec::new();
    findings.push(match &s.source {
        Some(source) if !source.connected => {
            let cure = "start the rig; check its address, and firewalls between";
            let text = format!("{}: not connected", source.description);
            Finding::bad(Level::Failure, name("rig"), text, cure)
        }
        Some(source) => Finding::good(name("rig"), format!("{}: connected", source.description)),
        None if s.bins == 0 => {
            let cure = "start the program that sends; docs/rigs/messages.md says what";
            Finding::bad(Level::Warning, name("rig"), "nothing came yet", cure)
        }
        None => Finding::good(name("rig"), format!("{} bins so far", s.bins)),
    });
    if let Some(a) = &s.accounts {
        let found = Probed {
            bins: a.bins_accepted,
            missing: s.bins_missing,
            refused: a.bins_rejected,
            late: a.bins_late,
            ..Probed::default()
        };
        findings.push(losses(&name("losses"), &found));
    }
    if let Some(c) = &s.clock {
        let found = Probed {
            offset_s: Some(c.offset_s),
            drift: c.drift,
            jumps: c.jumps,
            ..Probed::default()
        };
        findings.push(clock(&name("clock"), &found));
    }
    for condition in &s.conditions {
        let text = format!("{}: {}", condition.name, condition.detail);
        findings.push(Finding::bad(Level::Failure, name("condition"), text, &condition.cure));
    }
    findings
}
