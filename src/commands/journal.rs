//! `regimed journal`: what a journal holds, and whether it is sound.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::journal;
use crate::wire::journal_record::What;
use crate::wire::{JournalRecord, Triggered};

/// Show what a journal holds and check every record; works while a daemon writes it
#[derive(Debug, clap::Args)]
pub struct JournalArgs {
    /// The journal's folder (journal.folder of the configuration)
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
    /// One JSON object per line
    #[arg(long)]
    pub json: bool,
    /// Only this session
    #[arg(long, value_name = "NAME")]
    pub session: Option<String>,
    /// Only records after this number
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub after: u64,
    /// Only check, show nothing
    #[arg(long)]
    pub check: bool,
}

/// Runs the command.
///
/// # Errors
/// A folder that cannot be read; damage.
pub fn run(args: &JournalArgs) -> Result<()> {
    let read = journal::read(&args.folder, |record| {
        let wanted = !args.check
            && record.number > args.after
            && args.session.as_ref().is_none_or(|s| *s == record.session);
        if wanted {
            println!("{}", if args.json { as_json(&record).to_string() } else { shown(&record) });
        }
    });
    let reading = read.with_context(|| {
        format!("expected a journal in {}, which cannot be read", args.folder.display())
    })?;
    eprintln!("{} records in {} files", reading.records, reading.files);
    for trouble in &reading.damaged_files {
        let what = if trouble.torn {
            "cut short by a crash, nothing in it was announced"
        } else {
            "damaged"
        };
        let (bytes, file, at) = (trouble.bytes, trouble.file, trouble.at);
        eprintln!("file {}: {bytes} bytes at {at} are {what}", journal::file_name(file));
    }
    for what in &reading.numbers {
        eprintln!("{what}: the newest numbers stand there a second time");
    }
    let damaged = reading.damaged_files.iter().any(|t| !t.torn) || !reading.numbers.is_empty();
    if reading.lost > 0 || damaged {
        bail!("expected every record to be sound, found {} lost", reading.lost);
    }
    Ok(())
}

/// Date and time of day, UTC, of nanoseconds since the Unix epoch (proleptic Gregorian calendar).
pub(crate) fn utc(ns: i64) -> String {
    let seconds = ns.div_euclid(1_000_000_000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days since 1 March of the year 0, in eras of 400 years.
    let z = days + 719_468;
    let (era, of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let millis = ns.rem_euclid(1_000_000_000) / 1_000_000;
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{millis:03}Z")
}

/// What became of a trigger, in a word.
pub(crate) fn became(triggered: &Triggered) -> String {
    triggered.outcome().as_str_name().trim_start_matches("TRIGGER_OUTCOME_").to_lowercase()
}

fn shown(record: &JournalRecord) -> String {
    let what = match &record.what {
        Some(What::Event(e)) => format!(
            "event {}: {} -> {}, probability {:.3}, bin {}, since bin {}{}",
            e.event_sequence,
            if e.from.is_empty() { "(first)" } else { &e.from },
            e.to,
            e.probability,
            e.bin,
            e.onset_bin,
            if e.not_durable { ", announced before it was here" } else { "" }
        ),
        Some(What::SessionStarted(s)) => format!(
            "session started: {} channels, bins of {} ms, model {}{}",
            s.n_channels,
            s.bin_width_s * 1e3,
            s.model,
            if s.resumed { ", goes on from its saved state" } else { "" }
        ),
        Some(What::SessionStopped(s)) => {
            format!("session stopped: {} bins, {} of them missing", s.bins, s.bins_missing)
        }
        Some(What::ModelChanged(m)) if m.calibrated => "calibrated itself".into(),
        Some(What::ModelChanged(m)) => format!("model changed: {}", m.model),
        Some(What::Gap(g)) => {
            format!("gap: {} bins missing from {} to {}", g.bins, g.first_sequence, g.last_sequence)
        }
        Some(What::Fault(f)) if f.cleared => format!("well again: {}", f.condition),
        Some(What::Fault(f)) => format!("fault: {}: {}", f.condition, f.detail),
        Some(What::DaemonStarted(d)) => format!("daemon {} started", d.version),
        Some(What::DaemonStopped(_)) => "daemon stopped".into(),
        Some(What::Bounds(_)) | None => "(of no interest)".into(),
        Some(What::Lost(l)) => format!("records {} to {} are lost", l.first, l.last),
        Some(What::Annotation(a)) => format!("note ({}): {}, bin {}", a.source, a.text, a.bin),
        Some(What::Triggered(t)) => format!(
            "trigger {}: {}, bin {}, {:.0} us, {}",
            t.trigger,
            became(t),
            t.bin,
            t.latency_ns as f64 * 1e-3,
            t.detail
        ),
        Some(What::TriggersArmed(t)) if t.armed => "triggers armed".into(),
        Some(What::TriggersArmed(t)) if t.why.is_empty() => "triggers disarmed".into(),
        Some(What::TriggersArmed(t)) => format!("triggers disarmed: {}", t.why),
        Some(What::Decision(d)) => format!("decision: bin {}, {}", d.bin, d.regime),
    };
    format!("{:>8}  {}  {:<12}  {what}", record.number, utc(record.time_ns), record.session)
}

fn as_json(record: &JournalRecord) -> Value {
    let what = match &record.what {
        Some(What::Event(e)) => json!({"event": {
            "event_sequence": e.event_sequence, "from": e.from, "to": e.to,
            "probability": e.probability, "from_probability": e.from_probability,
            "bin": e.bin, "sequence": e.sequence, "onset_bin": e.onset_bin,
            "onset_low_bin": e.onset_low_bin, "onset_high_bin": e.onset_high_bin,
            "rig_time_ns": e.rig_time_ns, "decision_time_ns": e.decision_time_ns,
        }}),
        Some(What::SessionStarted(s)) => json!({"session_started": {
            "n_channels": s.n_channels, "bin_width_s": s.bin_width_s, "model": s.model,
            "regime_names": s.regime_names, "resumed": s.resumed,
        }}),
        Some(What::SessionStopped(s)) => {
            json!({"session_stopped": {"bins": s.bins, "bins_missing": s.bins_missing}})
        }
        Some(What::ModelChanged(m)) => json!({"model_changed": {
            "model": m.model, "regime_names": m.regime_names, "calibrated": m.calibrated,
        }}),
        Some(What::Gap(g)) => json!({"gap": {
            "bins": g.bins, "first_sequence": g.first_sequence, "last_sequence": g.last_sequence,
        }}),
        Some(What::Fault(f)) => json!({"fault": {
            "condition": f.condition, "detail": f.detail, "cleared": f.cleared,
        }}),
        Some(What::DaemonStarted(d)) => json!({"daemon_started": {"version": d.version}}),
        Some(What::DaemonStopped(_)) => json!({"daemon_stopped": {}}),
        Some(What::Lost(l)) => json!({"lost": {"first": l.first, "last": l.last}}),
        Some(What::Annotation(a)) => json!({"annotation": a}),
        Some(What::Triggered(t)) => json!({"triggered": {
            "trigger": t.trigger, "outcome": became(t), "bin": t.bin, "sequence": t.sequence,
            "rig_time_ns": t.rig_time_ns, "decision_time_ns": t.decision_time_ns,
            "latency_ns": t.latency_ns, "probability": t.probability, "detail": t.detail,
        }}),
        Some(What::TriggersArmed(t)) => {
            json!({"triggers_armed": {"armed": t.armed, "why": t.why}})
        }
        Some(What::Decision(d)) => json!({"decision": {
            "bin": d.bin, "sequence": d.sequence, "regime": d.regime, "posterior": d.posterior,
        }}),
        Some(What::Bounds(_)) | None => Value::Null,
    };
    let (number, time_ns, session) = (record.number, record.time_ns, &record.session);
    json!({"number": number, "time_ns": time_ns, "session": session, "what": what})
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_164_800, "2024-02-29T00:00:00.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(utc(seconds * 1_000_000_000), text);
        }
        assert_eq!(utc(1_234_567_890_123_456_789), "2009-02-13T23:31:30.123Z");
    }
}
