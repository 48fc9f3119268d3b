//! Question: does a daemon that runs for long stay as it was: flat memory, no drift of its times,
//! and every bin accounted for? Budget: 10^8 bins; memory after the first tenth (and after the 1.5
//! million bins in which its bounded buffers fill) grows by at most 2 MiB; the filter bank's time
//! per bin in the last tenth is at most 1.2 times that in the first (on an idle machine); received
//! = processed + late + rejected, and no event of the journal missing. A small model (4 channels, 2
//! hypotheses) in two sessions makes hours of bins pass in minutes: what could grow does so per
//! bin, not per channel.
//!
//!     cargo bench --bench soak                      10^8 bins: about an hour on 2 cores
//!     cargo bench --bench soak -- --bins 3000000    a short one

mod support;

use std::io::Write;
use std::time::{Duration, Instant};

use futures_util::stream::unfold;
use ndarray::{Axis, Slice};
use plotters::prelude::*;
use regimed::internals::checkpoint;
use regimed::internals::journal;
use regimed::internals::model::{Readout, RegimePrior};
use regimed::internals::wire::ingest_client::IngestClient;
use regimed::internals::wire::journal_record::What;
use regimed::internals::wire::regimes_client::RegimesClient;
use regimed::internals::wire::{Counts, SubscribeDecisionsRequest, SubscribeEventsRequest};
use support::{Daemon, resident_mib};
use tokio::sync::watch;

const BINS: u64 = 100_000_000;
const SESSIONS: [&str; 2] = ["a", "b"];
const CHANNELS: usize = 4;
/// Bins of a message, and bins on their way at most: less than the daemon's queue holds.
const MESSAGE: u64 = 64;
const WINDOW: u64 = 4096;
const GROWTH_MIB_MAX: f64 = 2.0;
/// Resident memory rises until some 1.3 million bins and is flat from there (its curve shows it):
/// buffers of bounded length fill. What it does before says nothing about days.
const FULL: f64 = 1_500_000.0;
const DRIFT_MAX: f64 = 1.2;
/// Samples of the curve.
const SAMPLES: u64 = 100;

/// The built-in model with few channels and one hypothesis for each of two regimes.
fn small_model(folder: &std::path::Path) {
    let mut built_in = regimed::internals::checkpoint::builtin().expect("the built-in model");
    let readout: &Readout = &built_in.model.readouts[0];
    let mut components = readout.prior.components.clone();
    components.sort_by_key(|c| c.regime);
    components.dedup_by_key(|c| c.regime);
    components.truncate(2);
    components.iter_mut().for_each(|c| c.weight = 0.5);
    let small = Readout {
        loading: readout.loading.slice_axis(Axis(0), Slice::from(..CHANNELS)).to_owned(),
        baseline: readout.baseline.slice_axis(Axis(0), Slice::from(..CHANNELS)).to_owned(),
        prior: RegimePrior { components },
        ..readout.clone()
    };
    built_in.model.readouts = vec![small];
    checkpoint::save(folder, &built_in.model, &built_in.provenance).expect("a model");
}

/// Sends bins of a session, never more than a window ahead of what is decided.
async fn rig(address: String, session: String, bins: u64, decided: watch::Receiver<u64>) {
    let state = (0u64, decided);
    let outbound = unfold(state, move |(from, mut decided)| {
        let session = session.clone();
        async move {
            if from >= bins {
                return None;
            }
            while from >= *decided.borrow_and_update() + WINDOW {
                decided.changed().await.ok()?;
            }
            // Loud and silent stretches, so that there are events.
            let loud = (from / 16_384) % 2;
            let value = |i: u64| u32::from(((i * 2_654_435_761) >> 7) % 8 < 1 + 4 * loud);
            let n = MESSAGE.min(bins - from);
            let counts = Counts {
                session,
                sequence: from,
                n_channels: CHANNELS as u32,
                bin_width_s: 0.01,
                counts: (from * 4..(from + n) * 4).map(value).collect(),
                ..Counts::default()
            };
            Some((counts, (from + n, decided)))
        }
    });
    let mut client = IngestClient::connect(address).await.expect("connected");
    let summary = client.send_counts(outbound).await.expect("accepted").into_inner();
    assert_eq!(summary.bins_accepted, bins, "{summary:?}");
}

/// Follows a session's decisions, a few of them.
async fn follow(address: String, session: &'static str, bins: u64, decided: watch::Sender<u64>) {
    let mut client = RegimesClient::connect(address).await.expect("connected");
    let request = SubscribeDecisionsRequest { session: session.into(), every: 64 };
    let mut stream = client.subscribe_decisions(request).await.expect("subscribed").into_inner();
    while let Ok(Some(update)) = stream.message().await {
        let sequence = update.decision.expect("a decision").sequence;
        decided.send_replace(sequence);
        if sequence + 64 >= bins {
            return;
        }
    }
}

/// Events of a session as they are announced: each once and in order; how many.
async fn events(address: String, session: &'static str) -> u64 {
    let mut client = RegimesClient::connect(address).await.expect("connected");
    let request = SubscribeEventsRequest { session: session.into(), after_event_sequence: 0 };
    let mut stream = client.subscribe_events(request).await.expect("subscribed").into_inner();
    let mut last = 0;
    while let Some(event) = stream.message().await.expect("no error") {
        assert_eq!(event.event_sequence, last + 1, "each once and in order");
        last += 1;
    }
    last
}

/// One look at the daemon.
struct Sample {
    seconds: f64,
    bins: f64,
    mib: f64,
    /// Filter bank's time per bin since the last look, us.
    compute_us: f64,
    threads: f64,
}

fn plot(samples: &[Sample]) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::new("target/soak.svg", (900, 420)).into_drawing_area();
    root.fill(&WHITE)?;
    let panels = root.split_evenly((2, 1));
    type Value = fn(&Sample) -> f64;
    let of: [(&str, Value); 2] =
        [("resident memory, MiB", |s| s.mib), ("filter bank, us per bin", |s| s.compute_us)];
    let end = samples.last().map_or(1.0, |s| s.bins) / 1e6;
    for (panel, (title, value)) in panels.iter().zip(of) {
        let top = samples.iter().map(value).fold(0.0, f64::max) * 1.2;
        let mut chart = ChartBuilder::on(panel)
            .caption(title, ("sans-serif", 16))
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..end, 0.0..top)?;
        chart.configure_mesh().x_desc("million bins").draw()?;
        chart.draw_series(LineSeries::new(
            samples.iter().map(|s| (s.bins / 1e6, value(s))),
            &BLUE,
        ))?;
    }
    root.present()?;
    Ok(())
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let asked = arguments.iter().position(|a| a == "--bins").and_then(|i| arguments.get(i + 1));
    let bins: u64 = asked.map_or(BINS, |n| n.parse().expect("--bins: a whole number"));
    let each = bins / SESSIONS.len() as u64;
    let folder = tempfile::tempdir().expect("a folder");
    small_model(&folder.path().join("model"));
    let mut config = format!(
        "[grpc]\nlisten = \"127.0.0.1:0\"\n[http]\nlisten = \"127.0.0.1:0\"\n\
         [zeromq]\npull = \"\"\npublish = \"\"\n[limits]\nqueue_bins = 8192\nevents_kept = 1000\n\
         [metrics]\nrate_hz = 0.1\n\
         [journal]\nfolder = \"{}\"\nsize_max_mib = 1024\nstate_every_s = 60\n",
        folder.path().join("journal").display()
    );
    for name in SESSIONS {
        config += &format!(
            "[[session]]\nname = \"{name}\"\nmodel = \"{}\"\nreadout = \"0\"\n",
            folder.path().join("model").display()
        );
    }
    let daemon = Daemon::start(folder.path(), &config);
    let pid = daemon.child.id();
    let grpc = format!("http://{}", daemon.address("grpc"));
    let http = daemon.address("http");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let _guard = runtime.enter();
    let mut rigs = Vec::new();
    let mut hearing = Vec::new();
    for name in SESSIONS {
        let (decided, seen) = watch::channel(0);
        hearing.push(runtime.spawn(events(grpc.clone(), name)));
        runtime.spawn(follow(grpc.clone(), name, each, decided));
        rigs.push(runtime.spawn(rig(grpc.clone(), name.into(), each, seen)));
    }
    let sum = |text: &str, name: &str| -> f64 {
        let of = text.lines().filter(|l| l.starts_with(name));
        let of = of.filter(|l| !l.contains("stage=") || l.contains("stage=\"filter\""));
        of.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    let began = Instant::now();
    let mut samples: Vec<Sample> = Vec::new();
    let (mut before, mut shown) = ((0.0, 0.0), Instant::now());
    let mut curve = std::fs::File::create("target/soak.csv").expect("target/soak.csv");
    writeln!(curve, "seconds,bins,resident_mib,compute_us,threads").expect("written");
    println!("  seconds         bins  bins/s   resident MiB  compute us/bin  threads");
    let scraped = loop {
        std::thread::sleep(Duration::from_millis(250));
        let text = support::get(&http, "/metrics");
        let done = sum(&text, "regimed_bins_processed_total");
        let finished = rigs.iter().all(tokio::task::JoinHandle::is_finished) && done >= bins as f64;
        let due = (samples.len() as f64 + 1.0) * bins as f64 / SAMPLES as f64;
        if done >= due || finished {
            let now = (
                sum(&text, "regimed_stage_seconds_sum"),
                sum(&text, "regimed_stage_seconds_count"),
            );
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let threads =
                status.lines().find_map(|l| l.strip_prefix("Threads:")?.trim().parse().ok());
            let sample = Sample {
                seconds: began.elapsed().as_secs_f64(),
                bins: done,
                mib: resident_mib(pid),
                compute_us: (now.0 - before.0) / (now.1 - before.1).max(1.0) * 1e6,
                threads: threads.unwrap_or(0.0),
            };
            before = now;
            let Sample { seconds, bins, mib, compute_us, threads } = sample;
            writeln!(curve, "{seconds:.1},{bins},{mib:.2},{compute_us:.3},{threads}")
                .expect("written");
            if samples.is_empty() || finished || shown.elapsed() > Duration::from_secs(60) {
                let rate = bins / seconds;
                println!(
                    "{seconds:>9.0} {bins:>12.0} {rate:>7.0} {mib:>14.1} {compute_us:>15.2} \
                     {threads:>8}"
                );
                shown = Instant::now();
            }
            samples.push(sample);
        }
        if finished {
            break text;
        }
    };
    for rig in rigs {
        runtime.block_on(rig).expect("sent");
    }
    let received = sum(&scraped, "regimed_bins_received_total");
    let known = sum(&scraped, "regimed_bins_processed_total")
        + sum(&scraped, "regimed_bins_late_total")
        + sum(&scraped, "regimed_bins_rejected_total");
    let lost = sum(&scraped, "regimed_decisions_lost_total{");
    let resets = sum(&scraped, "regimed_filter_resets_total");
    let kill = std::process::Command::new("kill").args(["-TERM", &pid.to_string()]).status();
    assert!(kill.is_ok_and(|s| s.success()));
    let heard: u64 = hearing.into_iter().map(|h| runtime.block_on(h).expect("heard")).sum();
    let mut kept = 0;
    let reading = journal::read(&folder.path().join("journal"), |record| {
        kept += u64::from(matches!(record.what, Some(What::Event(_))));
    })
    .expect("a journal");
    let tenth = samples.len() / 10;
    let from = tenth.max(samples.partition_point(|s| s.bins < FULL));
    let mean = |part: &[Sample]| part.iter().map(|s| s.compute_us).sum::<f64>() / part.len() as f64;
    let drift = mean(&samples[samples.len() - tenth.max(1)..]) / mean(&samples[..tenth.max(1)]);
    if let Err(e) = plot(&samples) {
        eprintln!("no plot: {e}");
    }
    match (samples.get(from), samples.last()) {
        (Some(early), Some(last)) if from + 1 < samples.len() => {
            let growth = last.mib - early.mib;
            println!(
                "memory     {growth:+.2} MiB after {:.1} million bins, budget {GROWTH_MIB_MAX}, \
                 ratio {:.2}",
                early.bins / 1e6,
                growth / GROWTH_MIB_MAX
            );
        }
        _ => println!("memory     not judged: buffers fill for {FULL} bins, of {bins} here"),
    }
    println!(
        "time       last tenth {drift:.2} times the first, budget {DRIFT_MAX}, ratio {:.2}",
        drift / DRIFT_MAX
    );
    println!("accounts   {received:.0} bins received, {known:.0} processed, late or rejected");
    println!("events     {heard} announced, {kept} in the journal, {} records lost", reading.lost);
    println!(
        "besides    {lost:.0} decisions lost by subscribers, {resets:.0} hypotheses restarted"
    );
    println!("the curve is in target/soak.csv and target/soak.svg");
    assert_eq!(received, known, "every bin is accounted for");
    assert_eq!((heard, reading.lost), (kept, 0), "no event is missing");
}
