//! `regimed atlas`: simulates networks of many kinds and learns from them what counts tell of the
//! edge of chaos, and animals in switching regimes, from which it learns to recognise these.

mod animals;
mod args;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::progress::{Interrupt, Progress};
use crate::checkpoint::{self, TrainingState};
use crate::edge::{
    DrivenExponent, Estimator, Example, FEATURES, SECONDS_MAX, Window, clipped, features,
};
use crate::teacher::{Architecture, Input, Kind, Transfer, View, specimen};
pub use args::AtlasArgs;
use args::Shard;

/// Lengths of the pieces that each recording is read in, seconds.
const PIECES_S: [f64; 4] = [20.0, 40.0, 60.0, 120.0];
/// Parts of the networks that are asked about in turn.
const FOLDS: u64 = 5;
/// Networks simulated between two saves.
const SAVED_EVERY: usize = 40;

/// What one network gave.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    network: u64,
    example: Example,
    noise_free_per_s: f64,
    seconds: f64,
    kind: [usize; 3],
}

/// Runs the command.
///
/// # Errors
/// Flags out of range, parts of another ensemble, files that cannot be read or written.
pub fn run(args: &AtlasArgs) -> Result<()> {
    for (flag, n) in [("--networks", args.networks), ("--animals", args.animals)] {
        if n > 1_000_000 {
            bail!("{flag}: expected 0 to 1000000, found {n}");
        }
    }
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot create {}", args.out.display()))?;
    let interrupt = Interrupt::listen()?;
    let done = (args.networks == 0 || simulate(args, &interrupt)?)
        && (args.animals == 0 || animals::simulate(args, &interrupt)?);
    if !done {
        println!("stopped; the same command goes on");
        return Ok(());
    }
    let Some(rows) = all_rows(args)? else { return Ok(()) };
    if let Some(missing) = animals::missing(args) {
        println!("{missing} are not there yet: nothing is learned so far");
        return Ok(());
    }
    if args.networks > 0 {
        learn(args, &rows, &interrupt)?;
    }
    if args.animals > 0 {
        animals::learn(args, &interrupt)?;
    }
    Ok(())
}

/// Of all networks; `None`, which it says, where a part is missing.
fn all_rows(args: &AtlasArgs) -> Result<Option<Vec<Row>>> {
    let mut rows = Vec::new();
    if args.networks == 0 {
        // Parts of before are of another number of them.
        return Ok(Some(rows));
    }
    for index in 0..args.shard.of {
        let shard = Shard { index, ..args.shard };
        let part = read_part(args, shard)?;
        if part.done < numbers(args, shard).count() {
            println!("part {index}/{} is not there yet: nothing is learned so far", shard.of);
            return Ok(None);
        }
        rows.extend(part.rows);
    }
    rows.sort_by_key(|r| r.network);
    Ok(Some(rows))
}

/// Numbers of a part's networks.
fn numbers(args: &AtlasArgs, shard: Shard) -> impl Iterator<Item = u64> {
    (shard.index..args.networks).step_by(shard.of as usize)
}

/// Simulates what is missing of the part; false where it was interrupted.
fn simulate(args: &AtlasArgs, interrupt: &Interrupt) -> Result<bool> {
    let mut part = read_part(args, args.shard)?;
    let all: Vec<u64> = numbers(args, args.shard).collect();
    let mut progress = Progress::new("atlas", all.len(), part.done);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    while part.done < all.len() {
        let until = (part.done + SAVED_EVERY).min(all.len());
        for several in all[part.done..until].chunks(threads) {
            let found: Vec<Vec<Row>> = std::thread::scope(|scope| {
                let workers: Vec<_> =
                    several.iter().map(|&n| scope.spawn(move || rows(args.seed, n))).collect();
                // A panic there has ended the program already.
                workers.into_iter().map(|w| w.join().unwrap_or_default()).collect()
            });
            part.done += several.len();
            part.rows.extend(found.into_iter().flatten());
            progress.at(part.done, || format!("{} readings", part.rows.len()));
            if interrupt.raised() {
                break;
            }
        }
        write_part(args, &part)?;
        if interrupt.raised() && part.done < all.len() {
            progress.finish();
            return Ok(false);
        }
    }
    progress.finish();
    Ok(true)
}

/// A network's readings.
fn rows(seed: u64, network: u64) -> Vec<Row> {
    let of = specimen(seed, network);
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ (network << 20));
    let pieces = of.views.iter().flat_map(|view| PIECES_S.map(|seconds| (view, seconds)));
    pieces
        .filter_map(|(view, seconds)| {
            let bins = view.counts.len() / view.channels;
            let length = ((seconds / view.bin_width_s).round() as usize).min(bins);
            let from = rng.random_range(0..=bins - length);
            let features = read(view, from, length)?;
            Some(Row {
                network,
                example: Example { features, driven_per_s: of.driven_per_s },
                noise_free_per_s: of.noise_free_per_s,
                seconds,
                kind: code(of.kind),
            })
        })
        .collect()
}

fn read(of: &View, from: usize, length: usize) -> Option<Vec<f32>> {
    let mut window = Window::new(of.channels, of.bin_width_s, SECONDS_MAX)?;
    let bins = of.counts.chunks_exact(of.channels).skip(from).take(length);
    let mut counts = vec![0.0f32; of.channels];
    for bin in bins {
        counts.iter_mut().zip(bin).for_each(|(c, b)| *c = f32::from(*b));
        window.push(&counts);
    }
    features(&window)
}

fn code(kind: Kind) -> [usize; 3] {
    [
        Architecture::ALL.iter().position(|a| *a == kind.architecture).unwrap_or(0),
        Transfer::ALL.iter().position(|t| *t == kind.transfer).unwrap_or(0),
        Input::ALL.iter().position(|i| *i == kind.input).unwrap_or(0),
    ]
}

/// What there is of a part.
#[derive(Default)]
struct Part {
    /// Networks simulated, from the first on; some give no reading.
    done: usize,
    rows: Vec<Row>,
}

/// Values of a row before its features.
const HEAD: usize = 7;

fn path(args: &AtlasArgs, shard: Shard) -> PathBuf {
    args.out.join(format!("part-{}-of-{}.safetensors", shard.index, shard.of))
}

fn identity(args: &AtlasArgs, shard: Shard) -> String {
    let Shard { index, of } = shard;
    format!(
        "seed {}, {} networks, part {index}/{of}, {FEATURES} features",
        args.seed, args.networks
    )
}

fn write_part(args: &AtlasArgs, part: &Part) -> Result<()> {
    let of_row = |r: &Row| {
        let head = [
            r.network as f32,
            r.seconds as f32,
            r.example.driven_per_s as f32,
            r.noise_free_per_s as f32,
            r.kind[0] as f32,
            r.kind[1] as f32,
            r.kind[2] as f32,
        ];
        head.into_iter().chain(r.example.features.iter().copied()).collect::<Vec<f32>>()
    };
    let values: Vec<f32> = part.rows.iter().flat_map(of_row).collect();
    let path = path(args, args.shard);
    let state = TrainingState {
        steps: part.done,
        identity: identity(args, args.shard),
        arrays: [("rows".to_owned(), values)].into(),
    };
    state.write(&path).with_context(|| format!("cannot write {}", path.display()))
}

fn read_part(args: &AtlasArgs, shard: Shard) -> Result<Part> {
    let path = path(args, shard);
    if !path.exists() {
        return Ok(Part::default());
    }
    let state =
        TrainingState::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let expected = identity(args, shard);
    if state.identity != expected {
        bail!("{}: expected {expected}, found {}", path.display(), state.identity);
    }
    let values = state.arrays.get("rows").cloned().unwrap_or_default();
    let rows = values
        .chunks_exact(HEAD + FEATURES)
        .map(|row| Row {
            network: row[0] as u64,
            example: Example { features: row[HEAD..].to_vec(), driven_per_s: f64::from(row[2]) },
            noise_free_per_s: f64::from(row[3]),
            seconds: f64::from(row[1]),
            kind: [row[4] as usize, row[5] as usize, row[6] as usize],
        })
        .collect();
    Ok(Part { done: state.steps, rows })
}

/// Learns from all rows, and says how well.
fn learn(args: &AtlasArgs, rows: &[Row], interrupt: &Interrupt) -> Result<()> {
    let examples: Vec<Example> = rows.iter().map(|r| r.example.clone()).collect();
    const STEPS: usize = 20;
    let mut progress = Progress::new("learn", STEPS, 0);
    let fitted = Estimator::fit(&examples, &WAYS.map(|(_, part)| parts(rows, part)), |done| {
        let step = (STEPS as f64 * done).round() as usize;
        progress.at(step, || format!("{} readings", rows.len()));
        !interrupt.raised()
    });
    progress.finish();
    let Some((estimator, left_out)) = fitted else { bail!("stopped before it was learned") };
    let mut said = String::new();
    for ((name, _), found) in WAYS.iter().zip(&left_out) {
        said.push_str(&format!("{name}\n\n{}\n", table(rows, found)));
    }
    print!("{said}");
    write(&args.out, &estimator, &said)
}

/// A way to part networks: what is said of it, and the part of each.
type Way = (&'static str, fn(&Row) -> usize);

/// How networks are parted, so that each is read by what others taught.
const WAYS: [Way; 3] = [
    ("Networks that were not learned from, of kinds that were:", |r| (r.network % FOLDS) as usize),
    ("Networks of an architecture that was not learned from:", |r| r.kind[0]),
    ("Networks with a kind of input that was not learned from:", |r| r.kind[2]),
];

fn parts(rows: &[Row], part: fn(&Row) -> usize) -> Vec<usize> {
    rows.iter().map(part).collect()
}

fn write(out: &Path, estimator: &Estimator, table: &str) -> Result<()> {
    let path = out.join("edge.safetensors");
    checkpoint::write_edge(&path, estimator)
        .with_context(|| format!("cannot write {}", path.display()))?;
    let card = out.join("edge.md");
    std::fs::write(&card, table).with_context(|| format!("cannot write {}", card.display()))?;
    println!("estimator written to {}", path.display());
    Ok(())
}

/// Errors by kind and length.
fn table(rows: &[Row], found: &[DrivenExponent]) -> String {
    let mut out = String::from(
        "| networks | readings | mean error /s | sign right | area, chaos | 90 % hold | stable \
         read as chaotic |\n|---|---|---|---|---|---|---|\n",
    );
    let mut line = |name: String, is: &dyn Fn(&Row) -> bool| {
        let of: Vec<(f64, DrivenExponent)> = rows
            .iter()
            .zip(found)
            .filter(|(r, _)| is(r))
            .map(|(r, f)| (clipped(r.example.driven_per_s), *f))
            .collect();
        if !of.is_empty() {
            out.push_str(&scores(&name, &of));
        }
    };
    for seconds in PIECES_S {
        line(format!("all, {seconds} s"), &|r| r.seconds == seconds);
    }
    let minute = |r: &Row| r.seconds == 60.0;
    for (i, a) in Architecture::ALL.iter().enumerate() {
        line(format!("{}, 60 s", a.name()), &|r| minute(r) && r.kind[0] == i);
    }
    for (i, t) in Transfer::ALL.iter().enumerate() {
        line(format!("{}, 60 s", t.name()), &|r| minute(r) && r.kind[1] == i);
    }
    for (i, input) in Input::ALL.iter().enumerate() {
        line(format!("input {}, 60 s", input.name()), &|r| minute(r) && r.kind[2] == i);
    }
    out
}

/// An exponent nearer to 0 has no sign to be right about, 1/s.
const SIGN_FROM_PER_S: f64 = 0.25;

fn scores(name: &str, of: &[(f64, DrivenExponent)]) -> String {
    let error = of.iter().map(|(truth, f)| (truth - f.per_s).abs()).sum::<f64>() / of.len() as f64;
    let share = |is: &dyn Fn(f64) -> bool, right: &dyn Fn(f64, &DrivenExponent) -> bool| {
        let these: Vec<_> = of.iter().filter(|(truth, _)| is(*truth)).collect();
        let right = these.iter().filter(|(truth, f)| right(*truth, f)).count() as f64;
        if these.is_empty() { "-".into() } else { format!("{:.3}", right / these.len() as f64) }
    };
    format!(
        "| {name} | {} | {error:.2} | {} | {} | {} | {} |\n",
        of.len(),
        share(&|t| t.abs() > SIGN_FROM_PER_S, &|t, f| t.signum() == f.per_s.signum()),
        area(of).map_or("-".into(), |a| format!("{a:.3}")),
        share(&|_| true, &|t, f| (f.low..=f.high).contains(&t)),
        share(&|t| t < -SIGN_FROM_PER_S, &|_, f| f.per_s > 0.0),
    )
}

/// Area under the receiver operating characteristic of the probability of chaos.
fn area(of: &[(f64, DrivenExponent)]) -> Option<f64> {
    let (chaotic, ordered): (Vec<_>, Vec<_>) = of.iter().partition(|(truth, _)| *truth > 0.0);
    let mut above = 0.0;
    for (_, c) in &chaotic {
        for (_, o) in &ordered {
            above += match c.p_chaos.total_cmp(&o.p_chaos) {
                std::cmp::Ordering::Greater => 1.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Less => 0.0,
            };
        }
    }
    let pairs = chaotic.len() * ordered.len();
    (pairs > 0).then(|| above / pairs as f64)
}
