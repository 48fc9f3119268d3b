//! `regimed demo`: the whole system with nothing configured.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::sync::mpsc;

use super::access::AccessArgs;
use super::endpoint::Sender;
use super::picture::Picture;
use super::scoreboard::{Scoreboard, Sent};
use super::serve::runtime;
use super::watch::duration;
use crate::bus::ModelSource;
use crate::checkpoint;
use crate::config::{Config, SessionConfig};
use crate::daemon::{Daemon, Endpoints};
use crate::tasks;
use crate::teacher::{Animal, AnimalSettings, Dwell, REGIME_NAMES, Regime, Simulation};
use crate::wire::regimes_client::RegimesClient;
use crate::wire::{Counts, DecisionUpdate, SubscribeDecisionsRequest, SubscribeEventsRequest};

/// Seed of the animals that the built-in model knows (models/README.md).
const ANIMALS_SEED: u64 = 1;
/// The animal that plays.
const ANIMAL: u64 = 0;
/// Tasks from this number on were not in the built-in model's training.
const FIRST_UNSEEN_TASK: u64 = 1000;
/// How long a regime lasts.
const DWELL: Dwell = Dwell { from_s: 3.0, to_s: 6.0 };
const SESSION: &str = "demo";

/// Run the whole system with nothing configured: built-in model, simulated rig, daemon, live output
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// End after this time with a summary, e.g. 20s
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub for_time: Option<Duration>,
    /// Plain lines even on a terminal
    #[arg(long)]
    pub plain: bool,
    /// Seed of the simulated rig's tasks and spikes
    #[arg(long, default_value_t = 7)]
    pub seed: u64,
}

/// Runs the command.
///
/// # Errors
/// Where no port is free, or the built-in model was damaged.
pub fn run(args: &DemoArgs) -> Result<()> {
    tasks::block_on(&runtime()?, demo(args))
}

/// The usual address, or any port where that one is taken.
fn free(address: Option<SocketAddr>) -> Option<SocketAddr> {
    address.map(|a| match TcpListener::bind(a) {
        Ok(_) => a,
        Err(_) => SocketAddr::new(a.ip(), 0),
    })
}

/// Everything on its usual address where that is free.
fn config() -> Config {
    let usual = Config::default();
    Config {
        grpc_listen: free(usual.grpc_listen),
        zeromq_pull: free(usual.zeromq_pull),
        zeromq_publish: free(usual.zeromq_publish),
        http_listen: free(usual.http_listen),
        sessions: vec![SessionConfig::new(SESSION, ModelSource::Builtin, &ANIMAL.to_string())],
        ..usual
    }
}

/// The gRPC endpoint, the endpoint for counts, and the notes of the picture.
fn endpoints(of: Endpoints) -> (String, String, Vec<String>) {
    let address = |a: Option<SocketAddr>| a.map_or("off".into(), |a| a.to_string());
    let grpc = format!("http://{}", address(of.grpc));
    let pull = format!("tcp://{}", address(of.zeromq_pull));
    let notes = vec![
        format!("gRPC {grpc}  (regimed watch {grpc})"),
        format!("ZeroMQ in {pull}, out tcp://{}", address(of.zeromq_publish)),
        format!("http://{0}  live page; /metrics, /health", address(of.http)),
        format!(
            "simulated rig: 96 channels at 100 Hz, unseen tasks, another regime every {} to {} s",
            DWELL.from_s, DWELL.to_s
        ),
    ];
    (grpc, pull, notes)
}

async fn demo(args: &DemoArgs) -> Result<()> {
    let daemon = Daemon::start(config()).await?;
    let (grpc, pull, notes) = endpoints(daemon.endpoints());
    let mut client = RegimesClient::new(AccessArgs::default().connect(&grpc).await?);
    let request = SubscribeDecisionsRequest { session: SESSION.into(), every: 1 };
    let mut decisions = client.subscribe_decisions(request).await?.into_inner();
    let request = SubscribeEventsRequest { session: SESSION.into(), after_event_sequence: 0 };
    let mut events = client.subscribe_events(request).await?.into_inner();
    let mut picture = Picture::new("regimed demo".into(), notes, args.plain);
    let model = checkpoint::builtin()?.model;
    let mut board = Scoreboard::new(model.regime_names.clone(), model.bin_width_s);
    let (sent, mut noted) = mpsc::unbounded_channel();
    let going = Arc::new(AtomicBool::new(true));
    let rig = tasks::spawn(rig(pull, args.seed, model.regime_names, sent, going.clone()));
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    let end = tokio::time::Instant::now() + args.for_time.unwrap_or(Duration::from_secs(1 << 31));
    loop {
        tokio::select! {
            biased;
            Some((sequence, bin)) = noted.recv() => board.sent(sequence, bin),
            update = decisions.message() => {
                let Some(update) = update? else { break };
                if let Some(decision) = update.decision {
                    let truth = board.judge(&decision, Instant::now()).flatten();
                    let truth = truth.map(|t| board.names()[t].clone());
                    picture.decision(decision, update.lost, truth.as_deref());
                }
            }
            Ok(Some(event)) = events.message() => picture.event(&event),
            _ = tokio::signal::ctrl_c() => break,
            () = tokio::time::sleep_until(end) => break,
            _ = tick.tick() => {}
        }
        if rig.is_finished() || !picture.refresh()? {
            break;
        }
    }
    going.store(false, Ordering::SeqCst);
    let rig_result = rig.await?;
    judge_the_rest(&mut board, &mut noted, &mut decisions).await;
    picture.end();
    drop((decisions, events, client));
    daemon.stop().await?;
    println!("{}", board.summary());
    rig_result
}

/// Waits for decisions that were on their way when the end came, for a moment.
async fn judge_the_rest(
    board: &mut Scoreboard,
    noted: &mut mpsc::UnboundedReceiver<(u64, Sent)>,
    decisions: &mut tonic::Streaming<DecisionUpdate>,
) {
    let grace = tokio::time::Instant::now() + Duration::from_millis(300);
    while board.waiting() > 0
        && let Ok(Ok(Some(update))) = tokio::time::timeout_at(grace, decisions.message()).await
    {
        while let Ok((sequence, bin)) = noted.try_recv() {
            board.sent(sequence, bin);
        }
        if let Some(decision) = update.decision {
            board.judge(&decision, Instant::now());
        }
    }
}

/// The simulated rig: ZeroMQ, real time, a new unseen task of another regime every few seconds.
async fn rig(
    to: String,
    seed: u64,
    names: Vec<String>,
    sent: mpsc::UnboundedSender<(u64, Sent)>,
    going: Arc<AtomicBool>,
) -> Result<()> {
    let mut sender = Sender::connect(&to, &AccessArgs::default()).await?;
    let animal = Animal::new(ANIMALS_SEED, ANIMAL, AnimalSettings::default());
    let bin_width_s = animal.settings().bin_width_s;
    let index: HashMap<usize, usize> = REGIME_NAMES
        .iter()
        .enumerate()
        .filter_map(|(i, name)| Some((i, names.iter().position(|n| n == name)?)))
        .collect();
    let first = animal.task(Regime::StableFixedPoint, FIRST_UNSEEN_TASK + seed % 1000);
    let mut simulation = Simulation::new(animal.clone(), first, seed);
    let mut counts = vec![0u16; animal.n_channels()];
    let mut tasks = 0;
    let mut left = simulation.draw_switch(DWELL).1;
    let mut due = tokio::time::Instant::now();
    let mut sequence = 0;
    while going.load(Ordering::SeqCst) {
        if left == 0 {
            let (regime, bins) = simulation.draw_switch(DWELL);
            tasks += 1;
            let task = animal.task(regime, FIRST_UNSEEN_TASK + seed % 1000 + tasks);
            simulation.begin(task);
            left = bins;
        }
        left -= 1;
        simulation.bin(&mut counts);
        due += Duration::from_secs_f64(bin_width_s);
        tokio::time::sleep_until(due).await;
        let truth = Regime::ALL
            .iter()
            .position(|r| *r == simulation.task().regime)
            .and_then(|r| index.get(&r).copied());
        let note = Sent { truth, starts: sequence == 0, at: Instant::now() };
        if sent.send((sequence, note)).is_err() {
            break;
        }
        let message = Counts {
            session: SESSION.into(),
            sequence,
            n_channels: counts.len() as u32,
            bin_width_s,
            counts: counts.iter().map(|&c| u32::from(c)).collect(),
            ..Counts::default()
        };
        sender.send(message).await?;
        sequence += 1;
    }
    sender.finish().await?;
    Ok(())
}
