//! Question: how does each cost grow with what it depends on, and what breaks first? A bin with
//! channels, hypotheses and rank; a step of training with tasks, bins, channels and rank; memory
//! with sessions; processor time with subscribers; opening the journal with its records. Each
//! curve's exponent is the slope of log cost by log size over its larger half, where the constant
//! part no longer hides it. Budget: none above 1.1 but for the rank, and opening the journal 0.5 s
//! at most. Rigs and subscribers run in this process, on the same cores.
//!
//!     cargo bench --bench growth [-- PLOT.svg]

#[path = "support/bank.rs"]
mod bank;
#[path = "support/lessons.rs"]
mod lessons;
mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bank::{BUDGETED, draw, model, with_experts};
use plotters::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use regimed::internals::inference::Adaptation;
use regimed::internals::journal::{Journal, Settings, Sync, WhenDiskFails};
use regimed::internals::model::Dimensions;
use regimed::internals::regime::{DecisionRule, Engine};
use regimed::internals::training::TrainingSettings;
use regimed::internals::wire::journal_record::What;
use regimed::internals::wire::regimes_client::RegimesClient;
use regimed::internals::wire::{DaemonStarted, SubscribeDecisionsRequest};
use support::{Daemon, processor_s, resident_mib, rig};

const WARM_UP_BINS: usize = 300;
const BINS: usize = 2_000;
const SECONDS: u64 = 6;
/// Bins a second of [`rig`].
const RATE_HZ: u64 = 100;
const OPENED_MAX_MS: f64 = 500.0;

/// A cost by a size.
struct Curve {
    cost: &'static str,
    by: &'static str,
    points: Vec<(f64, f64)>,
}

impl Curve {
    /// Measures at each size, and prints.
    fn of(
        cost: &'static str,
        by: &'static str,
        sizes: &[usize],
        measure: &mut dyn FnMut(usize) -> f64,
    ) -> Self {
        let mut points = Vec::new();
        println!("\n{by:>24}  {cost}");
        for &size in sizes {
            let found = measure(size);
            assert!(found.is_finite() && found > 0.0, "{cost} cannot be measured here");
            println!("{size:>24} {found:>12.3}");
            points.push((size as f64, found));
        }
        let curve = Self { cost, by, points };
        println!("{:>24} {:>12.2}", "exponent", curve.exponent());
        println!("{:>24} {:>12.5}", "each more, at the end", curve.each_more());
        curve
    }

    /// What one more costs where the curve ends.
    fn each_more(&self) -> f64 {
        let [.., before, last] = self.points[..] else { return f64::NAN };
        (last.1 - before.1) / (last.0 - before.0)
    }

    /// Least squares over the larger half.
    fn exponent(&self) -> f64 {
        let half = &self.points[self.points.len() / 2..];
        let logs: Vec<(f64, f64)> = half.iter().map(|p| (p.0.ln(), p.1.ln())).collect();
        let n = logs.len() as f64;
        let (x, y) =
            (logs.iter().map(|l| l.0).sum::<f64>() / n, logs.iter().map(|l| l.1).sum::<f64>() / n);
        let along: f64 = logs.iter().map(|l| (l.0 - x) * (l.1 - y)).sum();
        along / logs.iter().map(|l| (l.0 - x).powi(2)).sum::<f64>()
    }
}

/// Median time of a bin with all experts and the decision, us.
fn bin_us(dims: Dimensions, channels: usize, hypotheses: usize) -> f64 {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let model = model(dims, channels, hypotheses, &mut rng);
    let bins = draw(&model, 256, &mut rng);
    let model = with_experts(model, &mut rng);
    let (readout, rule) = (&model.readouts[0], DecisionRule::of(&model, None));
    let mut engine = Engine::new(&model, readout, rule, Adaptation::default()).expect("an engine");
    let mut times: Vec<f64> = (0..WARM_UP_BINS + BINS)
        .map(|bin| {
            let began = Instant::now();
            std::hint::black_box(engine.push(Some(&bins[bin % bins.len()])));
            began.elapsed().as_secs_f64() * 1e6
        })
        .skip(WARM_UP_BINS)
        .collect();
    times.sort_by(f64::total_cmp);
    times[BINS / 2]
}

/// A step over windows of so many bins, ms.
fn window_ms(bins: usize) -> f64 {
    let settings = TrainingSettings { window_bins: bins, ..lessons::settings(6) };
    lessons::step_ms_of(&[lessons::recording("s", 10, 2 * bins, 96, 1)], settings)
}

fn start(folder: &Path, sessions: usize) -> Daemon {
    let mut config = String::from(
        "[grpc]\nlisten = \"127.0.0.1:0\"\n[http]\nlisten = \"\"\n\
         [zeromq]\npull = \"\"\npublish = \"\"\n",
    );
    for i in 0..sessions {
        config +=
            &format!("[[session]]\nname = \"rig{i}\"\nmodel = \"builtin\"\nreadout = \"0\"\n");
    }
    Daemon::start(folder, &config)
}

/// Resident memory of a daemon whose sessions have all been given two seconds of bins, MiB.
fn memory_mib(runtime: &tokio::runtime::Runtime, sessions: usize) -> f64 {
    let folder = tempfile::tempdir().expect("a folder");
    let daemon = start(folder.path(), sessions);
    let grpc = format!("http://{}", daemon.address("grpc"));
    runtime.block_on(async {
        let rigs: Vec<_> = (0..sessions)
            .map(|i| tokio::spawn(rig(grpc.clone(), format!("rig{i}"), Duration::ZERO, 2)))
            .collect();
        for rig in rigs {
            rig.await.expect("a rig");
        }
    });
    resident_mib(daemon.child.id())
}

/// Share of a core that a daemon takes with one session at 100 Hz and so many subscribers of every
/// decision, percent; says where decisions were not delivered.
fn subscribers_percent(runtime: &tokio::runtime::Runtime, subscribers: usize) -> f64 {
    let folder = tempfile::tempdir().expect("a folder");
    let daemon = start(folder.path(), 1);
    let grpc = format!("http://{}", daemon.address("grpc"));
    let received = Arc::new(AtomicU64::new(0));
    let busy = runtime.block_on(async {
        let mut readers = Vec::new();
        for _ in 0..subscribers {
            let mut client = RegimesClient::connect(grpc.clone()).await.expect("connected");
            let request = SubscribeDecisionsRequest { session: "rig0".into(), every: 1 };
            let stream = client.subscribe_decisions(request).await.expect("subscribed");
            let (mut stream, received) = (stream.into_inner(), received.clone());
            readers.push(tokio::spawn(async move {
                while let Ok(Some(_)) = stream.message().await {
                    received.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        let before = processor_s(daemon.child.id());
        let began = Instant::now();
        rig(grpc, "rig0".into(), Duration::ZERO, SECONDS).await;
        let busy = (processor_s(daemon.child.id()) - before) / began.elapsed().as_secs_f64();
        tokio::time::sleep(Duration::from_millis(500)).await;
        readers.iter().for_each(tokio::task::JoinHandle::abort);
        busy
    });
    let expected = subscribers as u64 * SECONDS * RATE_HZ;
    let received = received.load(Ordering::Relaxed);
    if received < expected {
        println!("{received:>24} of {expected} decisions received");
    }
    100.0 * busy
}

/// What it takes to open a journal of so many records, ms.
fn opened_ms(records: usize) -> f64 {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = || Settings {
        name: "growth",
        folder: folder.path().join("journal"),
        sync: Sync::Interval(Duration::from_millis(100)),
        when_disk_fails: WhenDiskFails::Hold,
        bytes_max: 1 << 40,
        age_max_s: 1e9,
    };
    let (journal, _) = Journal::open(settings()).expect("a journal");
    let what = || What::DaemonStarted(DaemonStarted::default());
    for i in 0..records {
        // The writer takes them in turn: more than it holds are not put before it.
        let began = Instant::now();
        while journal.add("s", what()).is_none() {
            assert!(began.elapsed() < Duration::from_secs(10), "the journal takes no records");
            std::thread::sleep(Duration::from_millis(1));
        }
        if i % 10_000 == 9_999 {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    assert!(journal.close(), "every record is kept");
    drop(journal);
    let began = Instant::now();
    let (_journal, recovery) = Journal::open(settings()).expect("the same journal");
    let took = began.elapsed().as_secs_f64() * 1e3;
    assert_eq!(recovery.last as usize, records, "every record is found");
    took
}

/// 1, 2 and 5 times powers of ten in a range.
fn round_numbers(within: &std::ops::Range<f64>) -> Vec<f64> {
    let powers = (-6..7).map(|p| 10f64.powi(p));
    let all = powers.flat_map(|p| [1.0, 2.0, 5.0].map(|m| (m * p * 1e6).round() / 1e6));
    all.filter(|x| within.contains(x)).collect()
}

fn draw_all(path: &str, curves: &[Curve]) {
    const COLUMNS: usize = 3;
    let rows = curves.len().div_ceil(COLUMNS);
    let area = SVGBackend::new(path, (1080, 260 * rows as u32)).into_drawing_area();
    area.fill(&WHITE).expect("drawn");
    for (plot, curve) in area.split_evenly((rows, COLUMNS)).iter().zip(curves) {
        let sizes: Vec<f64> = curve.points.iter().map(|p| p.0).collect();
        let range = |of: fn(&(f64, f64)) -> f64| {
            let values = || curve.points.iter().map(of);
            0.7 * values().fold(f64::MAX, f64::min)..1.5 * values().fold(0.0, f64::max)
        };
        let title = format!("{} by {}, exponent {:.2}", curve.cost, curve.by, curve.exponent());
        let (x, y) = (range(|p| p.0), range(|p| p.1));
        let marks = round_numbers(&y);
        let mut chart = ChartBuilder::on(plot)
            .margin(12)
            .caption(title, ("sans-serif", 14))
            .x_label_area_size(26)
            .y_label_area_size(46)
            .build_cartesian_2d(
                x.log_scale().with_key_points(sizes),
                y.log_scale().with_key_points(marks),
            )
            .expect("drawn");
        let mesh = &mut chart.configure_mesh();
        mesh.x_label_formatter(&|x| format!("{x}")).y_label_formatter(&|y| format!("{y}"));
        mesh.light_line_style(WHITE).draw().expect("drawn");
        let line = LineSeries::new(curve.points.iter().copied(), BLUE.stroke_width(2));
        chart.draw_series(line).expect("drawn");
        let dots = curve.points.iter().map(|&p| Circle::new(p, 3, BLUE.filled()));
        chart.draw_series(dots).expect("drawn");
    }
    area.present().expect("written");
}

fn main() {
    let plot = std::env::args().skip(1).find(|a| !a.starts_with("--"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let ranked = |rank| Dimensions { rank, ..BUDGETED };
    let lesson = |tasks: usize, channels| [lessons::recording("s", tasks, 200, channels, 1)];
    let curves = [
        Curve::of("us a bin", "channels", &[16, 64, 256, 1024, 4096], &mut |n| {
            bin_us(BUDGETED, n, 16)
        }),
        Curve::of("us a bin", "hypotheses", &[4, 8, 16, 32, 64], &mut |n| bin_us(BUDGETED, 256, n)),
        Curve::of("us a bin", "rank", &[2, 4, 8, 16], &mut |n| bin_us(ranked(n), 256, 16)),
        Curve::of("ms a step", "tasks", &[20, 80, 320, 1280], &mut |n| {
            lessons::step_ms(&lesson(n / 2, 96), 6)
        }),
        Curve::of("ms a step", "bins of a window", &[50, 100, 200, 400], &mut window_ms),
        Curve::of("ms a step", "channels learned", &[16, 64, 256, 1024], &mut |n| {
            lessons::step_ms(&lesson(10, n), 6)
        }),
        Curve::of("ms a step", "rank learned", &[2, 4, 8, 16], &mut |n| {
            lessons::step_ms(&lesson(10, 96), n)
        }),
        Curve::of("MiB resident", "sessions", &[1, 4, 16, 64], &mut |n| memory_mib(&runtime, n)),
        Curve::of("% of a core", "subscribers", &[1, 4, 16, 64, 256], &mut |n| {
            subscribers_percent(&runtime, n)
        }),
        Curve::of(
            "ms to open",
            "journal's records",
            &[1_000, 10_000, 100_000, 1_000_000],
            &mut opened_ms,
        ),
    ];
    let opened = curves[curves.len() - 1].points.last().map_or(f64::NAN, |p| p.1);
    println!(
        "\nopening the journal {opened:.1}/{OPENED_MAX_MS} ms = {:.3}",
        opened / OPENED_MAX_MS
    );
    let limits = |c: &&Curve| !c.by.starts_with("rank");
    let worst = curves.iter().filter(limits).max_by(|a, b| a.exponent().total_cmp(&b.exponent()));
    if let Some(worst) = worst {
        println!(
            "steepest but for the rank: {} by {}, {:.2}",
            worst.cost,
            worst.by,
            worst.exponent()
        );
    }
    if let Some(path) = &plot {
        draw_all(path, &curves);
        println!("drawn in {path}");
    }
}
