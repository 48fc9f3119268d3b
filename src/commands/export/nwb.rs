//! NWB 2 (Neurodata Without Borders): regimes and triggers as tables of intervals, annotations as a
//! series of texts, posterior and readings as time series with their bounds.

use std::path::Path;

use anyhow::{Context, Result, bail};
use hdf5_pure::{AttrValue, DatasetBuilder, FileBuilder, GroupBuilder};
use rand::Rng;

use super::noted::Noted;
use super::readings::READINGS;
use crate::commands::journal::{became, utc};
use crate::wire::{Decision, Event};

/// The schema that the file follows.
const NWB_VERSION: &str = "2.8.0";
/// What names the readings' three columns.
const COLUMNS: &str = "columns: mean, lower and upper end of its 90 % credible interval";

fn text(value: &str) -> AttrValue {
    AttrValue::VarLenString(value.to_owned())
}

/// A random identity (RFC 9562, version 4).
fn identity() -> String {
    let mut b = [0u8; 16];
    rand::rng().fill_bytes(&mut b);
    b[6] = b[6] & 0x0f | 0x40;
    b[8] = b[8] & 0x3f | 0x80;
    let hex: String = b.iter().map(|x| format!("{x:02x}")).collect();
    let (a, rest) = hex.split_at(8);
    format!("{a}-{}-{}-{}-{}", &rest[..4], &rest[4..8], &rest[8..12], &rest[12..])
}

/// What every object of NWB says of itself.
fn object(kind: &str, namespace: &str) -> [(&'static str, AttrValue); 3] {
    [
        ("neurodata_type", text(kind)),
        ("namespace", text(namespace)),
        ("object_id", text(&identity())),
    ]
}

fn mark_group(group: &mut GroupBuilder, kind: &str) {
    for (name, value) in object(kind, "core") {
        group.set_attr(name, value);
    }
}

fn mark_column(column: &mut DatasetBuilder, kind: &str, description: Option<&str>) {
    for (name, value) in object(kind, "hdmf-common") {
        column.set_attr(name, value);
    }
    if let Some(description) = description {
        column.set_attr("description", text(description));
    }
}

/// A column of a table.
enum Column {
    Numbers(Vec<f64>),
    Texts(Vec<String>),
}

/// A table of intervals: `start_time`, `stop_time`, and others, each with what it is.
struct Table {
    name: &'static str,
    description: &'static str,
    columns: Vec<(&'static str, &'static str, Column)>,
}

impl Table {
    fn add_to(self, intervals: &mut GroupBuilder) {
        let n = match &self.columns[0].2 {
            Column::Numbers(values) => values.len(),
            Column::Texts(values) => values.len(),
        };
        let mut table = intervals.create_group(self.name);
        mark_group(&mut table, "TimeIntervals");
        table.set_attr("description", text(self.description));
        let names = self.columns.iter().map(|c| c.0.to_owned()).collect();
        table.set_attr("colnames", AttrValue::VarLenStringArray(names));
        let ids: Vec<i32> = (0..n as i32).collect();
        let column = table.create_dataset("id");
        column.with_i32_data(&ids).with_shape(&[n as u64]);
        mark_column(column, "ElementIdentifiers", None);
        for (name, description, values) in self.columns {
            let column = table.create_dataset(name);
            match values {
                Column::Numbers(values) => column.with_f64_data(&values),
                Column::Texts(values) => {
                    column.with_vlen_strings(&values.iter().map(String::as_str).collect::<Vec<_>>())
                }
            };
            column.with_shape(&[n as u64]);
            mark_column(column, "VectorData", Some(description));
        }
        intervals.add_group(table.finish());
    }
}

/// A time series: values, row after row, at times in seconds.
struct Series<'a> {
    name: &'a str,
    description: &'a str,
    unit: &'a str,
    width: usize,
    values: Vec<f32>,
    times: &'a [f64],
}

fn timestamps(series: &mut GroupBuilder, times: &[f64]) {
    let column = series.create_dataset("timestamps");
    column.with_f64_data(times).with_shape(&[times.len() as u64]);
    column.set_attr("interval", AttrValue::I32(1));
    column.set_attr("unit", text("seconds"));
}

fn describe_data(data: &mut DatasetBuilder, unit: &str) {
    data.set_attr("unit", text(unit));
    data.set_attr("conversion", AttrValue::F32(1.0));
    data.set_attr("offset", AttrValue::F32(0.0));
    data.set_attr("resolution", AttrValue::F32(-1.0));
}

impl Series<'_> {
    fn add_to(self, module: &mut GroupBuilder) {
        let mut series = module.create_group(self.name);
        mark_group(&mut series, "TimeSeries");
        series.set_attr("description", text(self.description));
        series.set_attr("comments", text("by regimed"));
        let n = self.times.len() as u64;
        let shape: &[u64] = if self.width == 1 { &[n] } else { &[n, self.width as u64] };
        let data = series.create_dataset("data");
        data.with_f32_data(&self.values).with_shape(shape);
        describe_data(data, self.unit);
        timestamps(&mut series, self.times);
        module.add_group(series.finish());
    }
}

/// Seconds after the file's begin.
fn seconds(begin_ns: i64, ns: i64) -> f64 {
    ns.saturating_sub(begin_ns) as f64 * 1e-9
}

/// When each regime ended: at the next one's onset, or with the session.
fn stops(noted: &Noted, events: &[&Event], starts: &[f64], begin_ns: i64, end_ns: i64) -> Vec<f64> {
    let stop = |i: usize| {
        let decided = events[i].decision_time_ns;
        let next = events.get(i + 1).map(|e| e.decision_time_ns);
        let ended = noted.stopped_ns.iter().copied().find(|&s| s >= decided);
        match (next, ended) {
            (Some(next), Some(ended)) if ended < next => seconds(begin_ns, ended),
            (Some(_), _) => starts[i + 1].max(starts[i]),
            (None, ended) => seconds(begin_ns, ended.unwrap_or(end_ns)).max(starts[i]),
        }
    };
    (0..events.len()).map(stop).collect()
}

/// Regimes from each change's onset to the next one's, or to the end.
fn regimes(noted: &Noted, begin_ns: i64, end_ns: i64) -> Table {
    let width_ns = noted.bin_width_s * 1e9;
    let at = |e: &Event, bin: u64| {
        let before = e.bin.saturating_sub(bin) as f64 * width_ns;
        seconds(begin_ns, e.decision_time_ns.saturating_sub(before as i64))
    };
    let events: Vec<&Event> = noted.events.iter().filter(|e| !e.lost).collect();
    let numbers = |name, description, of: &dyn Fn(&Event) -> f64| {
        (name, description, Column::Numbers(events.iter().map(|e| of(e)).collect()))
    };
    let starts: Vec<f64> = events.iter().map(|e| at(e, e.onset_bin)).collect();
    let stops = stops(noted, &events, &starts, begin_ns, end_ns);
    let labels = Column::Texts(events.iter().map(|e| e.to.clone()).collect());
    let columns = vec![
        ("start_time", "Onset: median of its posterior, s", Column::Numbers(starts)),
        ("stop_time", "Onset of the next regime, or the session's end, s", Column::Numbers(stops)),
        ("regime", "Label; unknown: none that the model knows", labels),
        numbers("probability", "Posterior probability when it was decided", &|e| {
            f64::from(e.probability)
        }),
        numbers("onset_low", "Lower end of the onset's 90 % credible interval, s", &|e| {
            at(e, e.onset_low_bin)
        }),
        numbers("onset_high", "Upper end of the onset's 90 % credible interval, s", &|e| {
            at(e, e.onset_high_bin)
        }),
        numbers("decision_time", "When it was decided, s", &|e| {
            seconds(begin_ns, e.decision_time_ns)
        }),
        numbers("rig_time", "The rig's clock at the decision, s; 0: not known", &|e| {
            e.rig_time_ns as f64 * 1e-9
        }),
        numbers("event_sequence", "Number of the event in the journal", &|e| {
            e.event_sequence as f64
        }),
    ];
    let description = "Dynamical regimes of the population, as decided live";
    Table { name: "regimes", description, columns }
}

fn triggers(noted: &Noted, begin_ns: i64) -> Table {
    let of = &noted.triggered;
    let starts = of.iter().map(|t| seconds(begin_ns, t.decision_time_ns));
    let stops = of
        .iter()
        .map(|t| seconds(begin_ns, t.decision_time_ns.saturating_add_unsigned(t.latency_ns)));
    let columns = vec![
        ("start_time", "When its condition was met, s", Column::Numbers(starts.collect())),
        ("stop_time", "When it had acted, s", Column::Numbers(stops.collect())),
        ("trigger", "Name", Column::Texts(of.iter().map(|t| t.trigger.clone()).collect())),
        ("outcome", "What became of it", Column::Texts(of.iter().map(became).collect())),
        (
            "detail",
            "Where it went, and why it failed",
            Column::Texts(of.iter().map(|t| t.detail.clone()).collect()),
        ),
    ];
    Table { name: "triggers", description: "What was done about regimes", columns }
}

fn annotations(acquisition: &mut GroupBuilder, noted: &Noted, begin_ns: i64) {
    if noted.annotations.is_empty() {
        return;
    }
    let mut series = acquisition.create_group("annotations");
    mark_group(&mut series, "AnnotationSeries");
    series.set_attr("description", text("Notes of people and programs"));
    series.set_attr("comments", text("by regimed"));
    let texts: Vec<&str> = noted.annotations.iter().map(|a| a.text.as_str()).collect();
    let data = series.create_dataset("data");
    data.with_vlen_strings(&texts);
    describe_data(data, "n/a");
    let times: Vec<f64> = noted.annotations.iter().map(|a| seconds(begin_ns, a.time_ns)).collect();
    timestamps(&mut series, &times);
    acquisition.add_group(series.finish());
}

/// Posterior and readings.
fn processing(decisions: &[Decision], begin_ns: i64) -> Result<Option<hdf5_pure::FinishedGroup>> {
    let Some(first) = decisions.first() else { return Ok(None) };
    let names = &first.regime_names;
    if let Some(other) = decisions.iter().find(|d| d.regime_names != *names) {
        bail!(
            "expected decisions of one model, found another from {} on: export both parts, with \
             --from and --to",
            utc(other.receive_time_ns)
        );
    }
    let mut file = FileBuilder::new();
    let mut module = file.create_group("regimed");
    mark_group(&mut module, "ProcessingModule");
    module.set_attr("description", text("What regimed made of the counts, live"));
    let times: Vec<f64> = decisions.iter().map(|d| seconds(begin_ns, d.receive_time_ns)).collect();
    let description = format!(
        "Posterior probability of each regime, given that it is one of them: {}",
        names.join(", ")
    );
    Series {
        name: "posterior",
        description: &description,
        unit: "probability",
        width: names.len(),
        values: decisions.iter().flat_map(|d| d.posterior.iter().copied()).collect(),
        times: &times,
    }
    .add_to(&mut module);
    Series {
        name: "novelty",
        description: "How unlike anything learned the dynamics are: above 1 the label is unknown",
        unit: "1",
        width: 1,
        values: decisions.iter().map(|d| d.novelty).collect(),
        times: &times,
    }
    .add_to(&mut module);
    let read: Vec<&Decision> = decisions.iter().filter(|d| d.metrics.is_some()).collect();
    let times: Vec<f64> = read.iter().map(|d| seconds(begin_ns, d.receive_time_ns)).collect();
    for reading in READINGS {
        let width = reading.keys().len();
        let values = read.iter().filter_map(|d| d.metrics.as_ref());
        Series {
            name: reading.name,
            description: if width == 3 { COLUMNS } else { "docs/metrics.md says what it is" },
            unit: reading.unit,
            width,
            values: values.flat_map(|m| reading.values(m)).collect(),
            times: &times,
        }
        .add_to(&mut module);
    }
    Ok(Some(module.finish()))
}

/// A file without content: what every one has.
fn root() -> FileBuilder {
    let mut file = FileBuilder::new();
    for (name, value) in object("NWBFile", "core") {
        file.set_attr(name, value);
    }
    file.set_attr("nwb_version", text(NWB_VERSION));
    let analysis = file.create_group("analysis");
    file.add_group(analysis.finish());
    let mut stimulus = file.create_group("stimulus");
    for name in ["presentation", "templates"] {
        let group = stimulus.create_group(name);
        stimulus.add_group(group.finish());
    }
    file.add_group(stimulus.finish());
    file
}

/// Writes the file.
///
/// # Errors
/// Nothing to write, decisions of different models, errors of the file system.
pub(super) fn write(
    out: &Path,
    session: &str,
    decisions: &[Decision],
    noted: &Noted,
) -> Result<()> {
    let events = noted.events.iter().map(|e| {
        let lead = e.bin.saturating_sub(e.onset_low_bin) as f64 * noted.bin_width_s * 1e9;
        e.decision_time_ns.saturating_sub(lead as i64)
    });
    let times = decisions.iter().map(|d| d.receive_time_ns).chain(events);
    let times: Vec<i64> = times.chain(noted.annotations.iter().map(|a| a.time_ns)).collect();
    let (Some(&begin_ns), Some(&end_ns)) = (times.iter().min(), times.iter().max()) else {
        bail!("expected decisions, events or notes of '{session}' in that time, found none");
    };
    let mut file = root();
    let description = format!("Dynamical regimes of session '{session}', decided live by regimed");
    let scalar = |file: &mut FileBuilder, name: &str, value: &str| {
        file.create_dataset(name).with_vlen_strings(&[value]).with_shape(&[]);
    };
    scalar(&mut file, "identifier", &identity());
    scalar(&mut file, "session_description", &description);
    scalar(&mut file, "session_start_time", &utc(begin_ns));
    scalar(&mut file, "timestamps_reference_time", &utc(begin_ns));
    file.create_dataset("file_create_date").with_vlen_strings(&[&utc(crate::clock::wall_ns())]);
    let mut general = file.create_group("general");
    let version = env!("CARGO_PKG_VERSION");
    let notes = format!(
        "regimed {version}, model {}, bins of {} s. Times are the daemon's clock.",
        noted.model, noted.bin_width_s
    );
    general.create_dataset("session_id").with_vlen_strings(&[session]).with_shape(&[]);
    general.create_dataset("notes").with_vlen_strings(&[&notes]).with_shape(&[]);
    file.add_group(general.finish());
    let mut intervals = file.create_group("intervals");
    regimes(noted, begin_ns, end_ns).add_to(&mut intervals);
    triggers(noted, begin_ns).add_to(&mut intervals);
    file.add_group(intervals.finish());
    let mut acquisition = file.create_group("acquisition");
    annotations(&mut acquisition, noted, begin_ns);
    file.add_group(acquisition.finish());
    let mut processed = file.create_group("processing");
    if let Some(module) = processing(decisions, begin_ns)? {
        processed.add_group(module);
    }
    file.add_group(processed.finish());
    file.write(out).with_context(|| format!("cannot write {}", out.display()))
}
