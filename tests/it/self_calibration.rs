//! Sessions that calibrate themselves while they run.

use std::time::Instant;

use futures_util::StreamExt;
use regimed::internals::teacher::{Animal, AnimalSettings, Regime, Simulation};
use regimed::internals::wire::regimes_client::RegimesClient;
use regimed::internals::wire::{
    Calibration, CalibrationState, Counts, Decision, Event, ListSessionsRequest,
};

use crate::rig::{Daemon, PATIENCE, config, exchange, message};
use crate::wait;

const SECONDS: usize = 20;

/// Bins with their true regimes: another regime every second, of the built-in model's first animal
/// on another day.
fn another_day(bins: usize) -> Vec<(Vec<u32>, &'static str)> {
    switching(&Animal::new(1, 0, AnimalSettings::default()).on_day(3), bins, 150)
}

/// Bins of an animal with their true regimes, another after so many.
fn switching(animal: &Animal, bins: usize, dwell: usize) -> Vec<(Vec<u32>, &'static str)> {
    let task = |i: usize| animal.task(Regime::ALL[(3 * i) % 5], 2000 + i as u64);
    let mut simulation = Simulation::new(animal.clone(), task(0), 5);
    let mut counts = vec![0u16; animal.n_channels()];
    (0..bins)
        .map(|bin| {
            if bin > 0 && bin % dwell == 0 {
                simulation.begin(task(bin / dwell));
            }
            simulation.bin(&mut counts);
            let regime = Regime::ALL.iter().position(|r| *r == simulation.task().regime);
            let name = regimed::internals::teacher::REGIME_NAMES[regime.expect("one of them")];
            (counts.iter().map(|&c| u32::from(c)).collect(), name)
        })
        .collect()
}

async fn calibration(daemon: &Daemon) -> Calibration {
    let mut client = RegimesClient::connect(daemon.grpc.clone()).await.expect("connected");
    let listed = client.list_sessions(ListSessionsRequest {}).await.expect("listed").into_inner();
    listed.sessions[0].calibration.clone().expect("a calibration")
}

/// Waits until the session's calibration has ended.
async fn ended(daemon: &Daemon) -> Calibration {
    let began = Instant::now();
    loop {
        let found = calibration(daemon).await;
        if ![CalibrationState::Gathering, CalibrationState::Fitting].contains(&found.state()) {
            return found;
        }
        // It leaves most of the machine to all else.
        assert!(began.elapsed() < 10 * PATIENCE, "still {found:?}: {}", daemon.log());
        wait::look_again().await;
    }
}

/// Sends bins numbered from `from` and takes what comes back.
async fn send(
    daemon: &Daemon,
    from: usize,
    bin_width_s: f64,
    bins: &[(Vec<u32>, &'static str)],
) -> (Vec<Decision>, Vec<Event>) {
    let messages: Vec<_> = bins
        .iter()
        .enumerate()
        .map(|(i, (counts, _))| Counts { bin_width_s, ..message("rig", (from + i) as u64, counts) })
        .collect();
    // A rig's pace, or the ring between the session and its calibration overflows.
    let paced = futures_util::stream::iter(messages).then(|m| async move {
        wait::pace(std::time::Duration::from_micros(200)).await;
        m
    });
    exchange(daemon, paced).await
}

fn session(keys: &str) -> String {
    config(&format!("\n[[session]]\nname = \"rig\"\nmodel = \"builtin\"\n{keys}\n"), &[])
}

#[tokio::test(flavor = "multi_thread")]
async fn another_day_is_unknown_until_the_session_has_calibrated_itself() {
    let daemon =
        Daemon::start(&session(&format!("calibrate_from = \"0\"\ncalibrate_s = {SECONDS}")));
    let at_first = calibration(&daemon).await;
    assert_eq!(at_first.state(), CalibrationState::Gathering);
    assert_eq!(at_first.seconds_needed, SECONDS as f64);
    assert_eq!(daemon.metric("regimed_calibration_state", "state=\"gathering\""), 1.0);
    let bins = another_day(100 * SECONDS + 200 + 1500);
    let (first, rest) = bins.split_at(100 * SECONDS + 200);
    let (before, announced) = send(&daemon, 0, 0.01, first).await;
    // The fit may be done before the last of them.
    let early = &before[..100 * SECONDS];
    assert!(early.iter().all(|d| d.untrusted), "{:?}", early.iter().position(|d| !d.untrusted));
    assert!(early[100..].iter().all(|d| d.regime == "unknown"));
    assert_eq!(announced[0].to, "unknown");
    let found = ended(&daemon).await;
    assert_eq!(found.state(), CalibrationState::Done, "{found:?}");
    assert_eq!(found.seconds_seen, SECONDS as f64);
    assert_eq!(daemon.metric("regimed_calibration_state", "state=\"done\""), 1.0);

    let (after, events) = send(&daemon, first.len(), 0.01, rest).await;
    assert!(after.iter().all(|d| !d.untrusted));
    // Not a bin is missing, and numbers go on.
    let numbers: Vec<u64> = before.iter().chain(&after).map(|d| d.bin).collect();
    assert_eq!(numbers, (0..bins.len() as u64).collect::<Vec<_>>());
    let sequences = announced.iter().chain(&events).map(|e| e.event_sequence);
    assert!(sequences.zip(1..).all(|(found, expected)| found == expected));
    let all: Vec<&Event> = announced.iter().chain(&events).collect();
    assert!(all.windows(2).all(|w| w[0].to == w[1].from), "{all:?}");
    assert!(events.iter().all(|e| e.bin >= first.len() as u64 && e.onset_bin <= e.bin));
    let settled: Vec<bool> = (after.iter().zip(rest).enumerate())
        .filter(|(i, _)| (i + first.len()) % 150 >= 75)
        .map(|(_, (d, (_, truth)))| d.regime == *truth)
        .collect();
    let right = settled.iter().filter(|r| **r).count() as f64 / settled.len() as f64;
    assert!(right > 0.85, "{right:.3} of the labels are right");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_animal_without_labels_stays_unknown_and_says_so() {
    let daemon = Daemon::start(&session("calibrate_s = 5\nchannels = 96\nbin_ms = 5"));
    let bins = another_day(1400);
    let (decisions, _) = send(&daemon, 0, 0.005, &bins).await;
    assert!(decisions[100..].iter().all(|d| d.regime == "unknown"));
    let found = ended(&daemon).await;
    assert_eq!(found.state(), CalibrationState::NotTrusted, "{found:?}: {}", daemon.log());
    assert_eq!(daemon.metric("regimed_calibration_state", "state=\"not_trusted\""), 1.0);
    assert_eq!(daemon.metric("regimed_regime_in_force", "regime=\"unknown\""), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_animal_is_calibrated_by_the_regimes_that_are_recognised_in_its_first_minute() {
    let daemon = Daemon::start(&session("calibrate_s = 60\nchannels = 96"));
    let animal = Animal::new(1, 31, AnimalSettings::default());
    let bins = switching(&animal, 6100 + 1500, 300);
    let (first, rest) = bins.split_at(6100);
    let (before, _) = send(&daemon, 0, 0.01, first).await;
    assert!(before[..6000].iter().all(|d| d.untrusted));
    let found = ended(&daemon).await;
    assert_eq!(found.state(), CalibrationState::Done, "{found:?}: {}", daemon.log());
    let (after, _) = send(&daemon, first.len(), 0.01, rest).await;
    assert!(after.iter().all(|d| !d.untrusted));
    let settled: Vec<bool> = (after.iter().zip(rest).enumerate())
        .filter(|(i, _)| (i + first.len()) % 300 >= 200)
        .map(|(_, (d, (_, truth)))| d.regime == *truth)
        .collect();
    let right = settled.iter().filter(|r| **r).count() as f64 / settled.len() as f64;
    // Of five; stable and bistable are the ones that are taken for each other.
    assert!(right > 0.5, "{right:.3} of the labels are right");
}

/// Sends bins piece by piece until the session's calibration is in a state.
async fn send_until(
    daemon: &Daemon,
    from: &mut usize,
    bins: &[(Vec<u32>, &'static str)],
    state: CalibrationState,
) -> Calibration {
    let mut found = calibration(daemon).await;
    for piece in bins.chunks(500) {
        if found.state() == state {
            return found;
        }
        send(daemon, *from, 0.01, piece).await;
        *from += piece.len();
        found = calibration(daemon).await;
    }
    panic!("still {found:?} after {from} bins: {}", daemon.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_unknown_while_minutes_show_other_regimes_than_it_says() {
    let daemon = Daemon::start(&session("calibrate_s = 60\nchannels = 96"));
    let [own, other] = [31, 34].map(|i| Animal::new(1, i, AnimalSettings::default()));
    let own_bins = switching(&own, 6100 + 60_000, 300);
    let (first, rest) = own_bins.split_at(6100);
    send(&daemon, 0, 0.01, first).await;
    assert_eq!(ended(&daemon).await.state(), CalibrationState::Done, "{}", daemon.log());
    let mut sent = first.len();
    // Other units on the same channels.
    let other_bins = switching(&other, 60_000, 300);
    let found = send_until(&daemon, &mut sent, &other_bins, CalibrationState::NotTrusted).await;
    assert!(found.problem.contains("agrees with what was recognised in"), "{found:?}");
    assert_eq!(daemon.metric("regimed_calibration_state", "state=\"not_trusted\""), 1.0);
    let (decisions, _) = send(&daemon, sent, 0.01, &rest[..500]).await;
    sent += 500;
    assert!(decisions[100..].iter().all(|d| d.untrusted && d.regime == "unknown"));
    let found = send_until(&daemon, &mut sent, &rest[500..], CalibrationState::Done).await;
    assert!(found.problem.is_empty(), "{found:?}");
    let (decisions, _) = send(&daemon, sent, 0.01, &rest[500..1500]).await;
    assert!(decisions[100..].iter().all(|d| !d.untrusted));
}
