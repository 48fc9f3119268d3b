//! What pretraining costs: time per step and memory against tasks, channels, rank and length of the
//! recordings.
//!
//! Question: does a step cost the same however much is learned from, does memory stay where it is
//! when recordings grow, and how do time and memory grow with channels and rank? Counts are drawn
//! at random: what they say costs nothing. Budget: 1 MiB more for each recording of 20 MiB that is
//! kept in the spool.
//!
//! `cargo bench --bench training_cost [-- PLOT.svg]` prints tables and, with a path, draws them.

#[path = "support/lessons.rs"]
mod lessons;

use lessons::{STEPS, WARM_UP, recording, settings, step_ms};
use plotters::prelude::*;
use regimed::internals::recording::{Recording, Spool};
use regimed::internals::training::{Gathering, Trainer};

const MEMORY_BUDGET_MIB: f64 = 1.0;

/// Memory that the process holds, MiB.
fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap_or_default();
    let kib: f64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(f64::NAN);
    kib / 1024.0
}

type Curve = (&'static str, Vec<(f64, f64)>);

fn draw(path: &str, curves: &[Curve]) {
    let area = SVGBackend::new(path, (1080, 300)).into_drawing_area();
    area.fill(&WHITE).expect("drawn");
    for (plot, (name, points)) in area.split_evenly((1, curves.len())).iter().zip(curves) {
        let (x, y) = (points.iter().map(|p| p.0), points.iter().map(|p| p.1));
        let (low, high) = (x.clone().fold(f64::MAX, f64::min), x.fold(0.0, f64::max));
        let top = 1.15 * y.fold(0.0, f64::max);
        let mut chart = ChartBuilder::on(plot)
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(50)
            .build_cartesian_2d(
                (low * 0.9..high * 1.1)
                    .log_scale()
                    .with_key_points(points.iter().map(|p| p.0).collect()),
                0.0..top,
            )
            .expect("drawn");
        let mesh = &mut chart.configure_mesh();
        mesh.x_label_formatter(&|x| format!("{x:.0}")).y_label_formatter(&|y| format!("{y:.0}"));
        mesh.light_line_style(WHITE).x_desc(*name).y_desc("ms per step").draw().expect("drawn");
        let line = LineSeries::new(points.iter().copied(), BLUE.stroke_width(2));
        chart.draw_series(line).expect("drawn");
        let dots = points.iter().map(|&p| Circle::new(p, 3, BLUE.filled()));
        chart.draw_series(dots).expect("drawn");
    }
    area.present().expect("written");
}

fn main() {
    let plot = std::env::args().skip(1).find(|a| !a.starts_with("--"));
    println!("one step of 96 windows of 100 bins, 64 units; median of {} steps", STEPS - WARM_UP);
    let mut curves: Vec<Curve> = Vec::new();
    let mut table = |name: &'static str, of: &[usize], cost: &dyn Fn(usize) -> f64| {
        println!("\n{name:>24}  ms per step   to the first");
        let mut points: Vec<(f64, f64)> = Vec::new();
        for &n in of {
            let ms = cost(n);
            points.push((n as f64, ms));
            println!("{n:>24} {ms:>12.1} {:>14.2}", ms / points[0].1);
        }
        curves.push((name, points));
    };
    table("tasks learned", &[20, 80, 320, 1280], &|tasks| {
        step_ms(&[recording("s", tasks / 2, 200, 96, 1)], 6)
    });
    table("channels", &[16, 64, 256, 1024], &|channels| {
        step_ms(&[recording("s", 10, 200, channels, 1)], 6)
    });
    table("rank", &[2, 4, 8, 16], &|rank| step_ms(&[recording("s", 10, 200, 96, 1)], rank));
    if let Some(path) = &plot {
        draw(path, &curves);
        println!("\ndrawn in {path}");
    }

    println!(
        "\nmemory against recordings of 100 000 bins of 96 channels, 18.3 MiB of counts each, in \
         the spool",
    );
    let folder = tempfile::tempdir().expect("a folder");
    let mut held: Vec<(usize, f64)> = Vec::new();
    for n in [2usize, 4, 8, 16] {
        let spool = Spool::in_folder(folder.path()).expect("a spool");
        let mut gathering = Gathering::new(Some(spool));
        for i in 0..n {
            let name = format!("s{i}");
            gathering.add(&recording(&name, 10, 5_000, 96, i as u64)).expect("a recording");
        }
        let data = gathering.finish().expect("a dataset").serving().clone();
        let mut trainer = Trainer::new(data, settings(6)).expect("a trainer");
        for _ in 0..4 {
            trainer.step().expect("a step");
        }
        held.push((n, resident_mib()));
        println!("{n:>24} {:>9.1} MiB held while training", resident_mib());
    }
    let (first, last) = (held[1], held[held.len() - 1]);
    let each = (last.1 - first.1) / (last.0 - first.0) as f64;
    println!(
        "{each:.2} MiB more per recording; budget {MEMORY_BUDGET_MIB} MiB; ratio {:.2}",
        each / MEMORY_BUDGET_MIB
    );
    println!("\nsessions of 32, 96 and 200 channels in one training set");
    let mixed: Vec<Recording> =
        [32, 96, 200].map(|c| recording(&format!("{c} channels"), 10, 200, c, 3)).to_vec();
    println!("{:>24} {:>12.1} ms per step", "mixed", step_ms(&mixed, 6));
}
