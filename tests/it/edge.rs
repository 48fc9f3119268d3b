//! The edge of chaos by the counts alone: files, the daemon, and the ensemble it is learned from.

use std::path::Path;
use std::time::Instant;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Poisson};
use regimed::internals::recording::{self, DynamicsTruth, Recording, Trial};
use regimed::internals::teacher::{Animal, AnimalSettings, Regime, Simulation};

use crate::rig::{Daemon, PATIENCE, arg, config, exchange, message, run};
use crate::wait;

/// Bins of one regime of a simulated animal; of independent channels where there is none.
fn counts(regime: Option<Regime>, bins: usize) -> Vec<Vec<u16>> {
    let animal = Animal::new(1, 0, AnimalSettings::default());
    let Some(regime) = regime else {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let spikes = Poisson::new(0.1).expect("a rate");
        let mut one = || -> u16 {
            let drawn: f64 = spikes.sample(&mut rng);
            drawn as u16
        };
        return (0..bins).map(|_| (0..96).map(|_| one()).collect()).collect();
    };
    let mut simulation = Simulation::new(animal.clone(), animal.task(regime, 2001), 11);
    let mut bin = vec![0u16; animal.n_channels()];
    (0..bins)
        .map(|_| {
            simulation.bin(&mut bin);
            bin.clone()
        })
        .collect()
}

fn write(path: &Path, bins: &[Vec<u16>], bin_width_s: f64) {
    let n = bins[0].len();
    let counts = ndarray::Array2::from_shape_vec((bins.len(), n), bins.concat()).expect("a shape");
    let trial = Trial {
        session: path.file_stem().expect("a name").to_string_lossy().into_owned(),
        counts,
        task: vec![0; bins.len()],
        regime: vec![None; bins.len()],
        truth: DynamicsTruth::default(),
    };
    let recording = Recording {
        path: path.into(),
        n_channels: n,
        channels: None,
        bin_width_s,
        regime_names: vec!["a".into()],
        trials: vec![trial],
        continuous: true,
    };
    recording::write(&recording, path).expect("written");
}

#[test]
fn files_are_read_without_a_model_and_what_shows_nothing_is_not_resolved() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let (chaotic, stable, noise) = (path("chaotic.npz"), path("stable.npz"), path("noise.npz"));
    write(&chaotic, &counts(Some(Regime::Chaotic), 6000), 0.01);
    write(&stable, &counts(Some(Regime::StableFixedPoint), 6000), 0.01);
    write(&noise, &counts(None, 3000), 0.01);
    let files = [arg(&chaotic), arg(&stable), arg(&noise)];
    let (good, shown, error) = run(&[&["edge", "--json"], &files[..]].concat());
    assert!(good, "{error}");
    let rows: Vec<serde_json::Value> =
        shown.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let number = |row: usize, key: &str| rows[row][key].as_f64().expect(key);
    assert_eq!(rows[0]["resolved"], true, "{shown}");
    assert!((number(0, "seconds") - 60.0).abs() < 1e-9);
    let [low, found, high] = ["low", "exponent_driven_per_s", "high"].map(|k| number(0, k));
    assert!(-2.0 <= low && low <= found && found <= high && high <= 2.0, "{shown}");
    assert!(number(0, "p_chaos") > 0.5 && found > 0.0, "{shown}");
    if rows[1]["resolved"] == true {
        assert!(number(1, "exponent_driven_per_s") < 0.0, "{shown}");
    }
    assert_eq!(rows[2]["resolved"], false, "{shown}");
    assert!(rows[2]["exponent_driven_per_s"].is_null() && rows[2]["p_chaos"].is_null());

    let plot = path("edge.svg");
    let (good, shown, error) = run(&[&["edge", "--plot", arg(&plot)], &files[..]].concat());
    assert!(good && shown.contains("not resolved") && shown.contains("P(chaos)"), "{error}");
    let drawn = std::fs::read_to_string(&plot).expect("a plot");
    assert!(drawn.contains("chaotic") && drawn.contains("noise (not resolved)"), "{drawn}");

    let refused = |args: &[&str]| {
        let (good, shown, error) = run(args);
        assert!(!good && shown.is_empty(), "{shown}");
        error
    };
    let error = refused(&["edge", files[0], "--window", "5"]);
    assert!(error.contains("--window: expected 20 to 120 seconds, found 5"), "{error}");
    let wide = path("wide.npz");
    write(&wide, &counts(None, 100), 0.2);
    let error = refused(&["edge", arg(&wide)]);
    assert!(error.contains("expected bins of at most 100 ms, found 200 ms"), "{error}");
    let error = refused(&["edge", files[0], "--estimator", files[0]]);
    assert!(error.contains("expected what regimed writes"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_reads_the_edge_off_the_counts_from_20_s_on() {
    let daemon = Daemon::start(&config("", &["rig"]));
    let bins = counts(Some(Regime::Chaotic), 6000);
    let mut found = None;
    let mut sent = 0;
    let began = Instant::now();
    // The thread of the metrics follows: where the machine is busy, the bins come once more.
    for part in bins.chunks(100).cycle() {
        assert!(began.elapsed() < 2 * PATIENCE, "no reading after {sent} bins");
        let messages: Vec<_> = part
            .iter()
            .map(|bin| {
                sent += 1;
                message("rig", sent - 1, &bin.iter().map(|&c| u32::from(c)).collect::<Vec<u32>>())
            })
            .collect();
        let (decisions, _) = exchange(&daemon, futures_util::stream::iter(messages)).await;
        let edge = decisions.last().and_then(|d| d.metrics.clone()).and_then(|m| m.edge);
        assert!(edge.is_none() || sent >= 1999, "a reading after {sent} bins");
        found = edge.or(found);
        if found.is_some_and(|e| e.seconds > 25.0) {
            break;
        }
        wait::look_again().await;
    }
    let edge = found.expect("a reading");
    let e = edge.exponent_driven_per_s.expect("chaos is resolved");
    assert!(e.low <= e.mean && e.mean <= e.high && e.high <= 2.0, "{edge:?}");
    assert!((0.0..=1.0).contains(&edge.p_chaos), "{edge:?}");
    let (_, scrape) = daemon.get("/metrics");
    let value = |name: &str| -> f64 {
        let line = scrape.lines().find(|l| l.starts_with(&format!("{name}{{"))).expect(name);
        line.rsplit(' ').next().expect("a value").parse().expect("a number")
    };
    assert!(value("regimed_edge_read_seconds") >= 19.9);
    assert!((0.0..=1.0).contains(&value("regimed_edge_chaos_probability")));
    for end in ["", "_low", "_high"] {
        let found = value(&format!("regimed_edge_exponent_driven{end}_per_second"));
        assert!((-2.0..=2.0).contains(&found));
    }
}

/// Few animals.
const SMALL: &[&str] = &["--animals", "8"];

#[test]
fn an_atlas_is_made_in_parts_and_the_last_one_learns_from_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("atlas");
    let common = ["atlas", "--out", arg(&out), "--networks", "6"];
    let part = |more: &[&str]| run(&[&common[..], SMALL, more].concat());
    let (good, shown, error) = part(&["--shard", "1/2"]);
    assert!(good && shown.contains("part 0/2 is not there yet"), "{shown}{error}");
    let (good, shown, error) = part(&["--shard", "0/2"]);
    assert!(good && shown.contains("estimator written to"), "{shown}{error}");
    assert!(shown.contains("recogniser written to"), "{shown}");
    assert!(shown.contains("| all with three regimes or more |"), "{shown}");
    assert!(shown.contains("| all, 60 s |"), "{shown}");
    // Nothing is simulated twice, and the result is the same.
    let estimator = out.join("edge.safetensors");
    // Behind the header, whose notes have no order.
    let values = || {
        let bytes = std::fs::read(&estimator).expect("an estimator");
        assert!(bytes.len() < 1 << 20);
        let header = u64::from_le_bytes(bytes[..8].try_into().expect("a length"));
        bytes[8 + header as usize..].to_vec()
    };
    let before = values();
    assert!(part(&["--shard", "0/2"]).0);
    assert!(before == values());

    let recording = folder.path().join("x.npz");
    write(&recording, &counts(Some(Regime::LimitCycle), 3000), 0.01);
    let (good, shown, error) =
        run(&["edge", arg(&recording), "--estimator", arg(&estimator), "--json"]);
    assert!(good && shown.contains("\"resolved\""), "{shown}{error}");

    // Animals of another seed are others, and without them nothing is learned.
    let animals = out.join("animals-000000.safetensors");
    let of_animals = ["atlas", "--out", arg(&out), "--networks", "0", "--seed", "9"];
    let (good, _, error) = run(&[&of_animals, SMALL].concat());
    assert!(!good && error.contains("expected seed 9, animals 0 to 8"), "{error}");
    std::fs::remove_file(&animals).expect("they were there");
    let (good, shown, error) = part(&["--shard", "1/2"]);
    assert!(good && shown.contains("animals 0 to 7 are not there yet"), "{shown}{error}");

    let (good, _, error) = part(&["--shard", "0/2", "--seed", "9"]);
    assert!(!good && error.contains("expected seed 9"), "{error}");
    let (good, _, error) = part(&["--shard", "2/2"]);
    assert!(!good && error.contains("expected a part and how many there are"), "{error}");
    let (good, _, error) = run(&["atlas", "--out", arg(&out), "--networks", "2000000"]);
    assert!(!good && error.contains("--networks: expected 0 to 1000000"), "{error}");
}
