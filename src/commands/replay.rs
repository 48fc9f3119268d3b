//! `regimed replay`: plays a recording as a rig would.

use std::collections::HashSet;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::sync::mpsc;

use super::access::AccessArgs;
use super::endpoint::Sender;
use super::progress::Progress;
use super::recordings::RecordingArgs;
use super::scoreboard::{Scoreboard, Sent};
use super::serve::runtime;
use crate::recording::{Recording, Trial};
use crate::rigs::replay::SPEED_MIN;
use crate::tasks;
use crate::wire::regimes_client::RegimesClient;
use crate::wire::{
    Counts, Decision, DecisionUpdate, ListSessionsRequest, SubscribeDecisionsRequest,
};

/// Numbers left out between streams that do not follow each other: more than any daemon predicts
/// through, so that each begins at the prior.
const STREAM_GAP: u64 = (1 << 20) + 1;
/// Waits this long for decisions after the last bin.
const LAST_DECISIONS: Duration = Duration::from_secs(3);

/// Play a recording to a daemon as a rig would
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// Recording (.npz)
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Where to: tcp://HOST:PORT is ZeroMQ, http(s)://HOST:PORT is gRPC
    #[arg(long, default_value = "tcp://127.0.0.1:7734", value_name = "ENDPOINT")]
    pub to: String,
    /// Times real speed
    #[arg(long, default_value_t = 1.0)]
    pub speed: f64,
    /// Number of the first bin (default: the clock's microseconds, so that each replay is new to
    /// the daemon)
    #[arg(long, value_name = "N")]
    pub first_sequence: Option<u64>,
    /// Listen to the daemon's decisions at this gRPC endpoint and score them against the labels
    #[arg(long, value_name = "ENDPOINT")]
    pub score: Option<String>,
    /// With --score: write every decision with its truth to this file (CSV)
    #[arg(long, value_name = "FILE", requires = "score")]
    pub save: Option<PathBuf>,
    #[command(flatten)]
    /// Access to a daemon that asks who comes.
    pub access: AccessArgs,
    #[command(flatten)]
    /// How to take the recording; --session names the daemon's session.
    pub recordings: RecordingArgs,
}

/// Runs the command.
///
/// # Errors
/// A recording that cannot be read, a daemon that is not there.
pub fn run(args: &ReplayArgs) -> Result<()> {
    if !(SPEED_MIN..=1e6).contains(&args.speed) {
        bail!("--speed: expected from {SPEED_MIN} to 1000000, found {}", args.speed);
    }
    let recording = args.recordings.read(&args.file)?;
    tasks::block_on(&runtime()?, replay(args, &recording))
}

async fn replay(args: &ReplayArgs, recording: &Recording) -> Result<()> {
    let streams = recording.streams();
    let total: usize = streams.iter().map(Trial::n_bins).sum();
    let mut sender = Sender::connect(&args.to, &args.access).await?;
    let listener = match &args.score {
        Some(endpoint) => Some(listen(args, endpoint, recording).await?),
        None => None,
    };
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let mut sequence = args.first_sequence.unwrap_or(u64::try_from(clock.as_micros())?);
    let mut progress = Progress::new("replay", total, 0);
    let width = Duration::from_secs_f64(recording.bin_width_s / args.speed);
    let mut due = tokio::time::Instant::now();
    let mut done = 0;
    let mut stopped = false;
    'streams: for stream in &streams {
        for bin in 0..stream.n_bins() {
            due += width;
            tokio::select! {
                biased;
                _ = tokio::signal::ctrl_c() => {
                    stopped = true;
                    break 'streams;
                }
                () = tokio::time::sleep_until(due) => {}
            }
            let message = counts(recording, stream, bin, sequence);
            if let Some((sent, _)) = &listener {
                let truth = stream.regime[bin];
                let note = Sent { truth, starts: bin == 0, at: Instant::now() };
                let _ = sent.send((sequence, note));
            }
            sender.send(message).await?;
            sequence += 1;
            done += 1;
            progress.at(done, || format!("session {}", stream.session));
        }
        sequence += STREAM_GAP;
    }
    progress.finish();
    println!("{done} bins sent{}", if stopped { ", stopped" } else { "" });
    let account = sender.finish().await?;
    if account.is_none() && listener.is_none() {
        println!("ZeroMQ has no way back; --score ENDPOINT tells what the daemon made of them");
    }
    if let Some(account) = account {
        println!("accepted {}, missing {}", account.bins_accepted, account.bins_missing);
        for r in account.rejections {
            println!("{} messages rejected: {}", r.messages, r.detail);
        }
    }
    if let Some((sent, scoring)) = listener {
        drop(sent);
        println!("{}", scoring.await??);
    }
    Ok(())
}

fn counts(recording: &Recording, stream: &Trial, bin: usize, sequence: u64) -> Counts {
    let n = recording.n_channels;
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Counts {
        session: stream.session.clone(),
        sequence,
        n_channels: n as u32,
        bin_width_s: recording.bin_width_s,
        rig_time_ns: i64::try_from(now.as_nanos()).unwrap_or(0),
        counts: stream.counts.row(bin).iter().map(|&c| u32::from(c)).collect(),
        ..Counts::default()
    }
}

type Notes = mpsc::UnboundedSender<(u64, Sent)>;

/// Subscribes before anything is sent; the task gives the summary.
async fn listen(
    args: &ReplayArgs,
    endpoint: &str,
    recording: &Recording,
) -> Result<(Notes, tokio::task::JoinHandle<Result<String>>)> {
    let connection = args.access.connect(endpoint).await.context("--score")?;
    let mut client = RegimesClient::new(connection);
    let listed = client.list_sessions(ListSessionsRequest {}).await?.into_inner().sessions;
    let sessions: Vec<&str> = recording.trials.iter().map(|t| t.session.as_str()).collect();
    let Some(session) = listed.iter().find(|l| sessions.contains(&l.name.as_str())) else {
        let known: Vec<&str> = listed.iter().map(|l| l.name.as_str()).collect();
        bail!(
            "--score: expected one of the daemon's sessions {}, found '{}' (see --session)",
            known.join(", "),
            sessions[0]
        );
    };
    let names = session.regime_names.clone();
    let played: HashSet<String> = sessions.iter().map(|s| (*s).to_owned()).collect();
    let regimes: Vec<Option<usize>> =
        recording.regime_names.iter().map(|n| names.iter().position(|m| m == n)).collect();
    let request = SubscribeDecisionsRequest { session: String::new(), every: 1 };
    let decisions = client.subscribe_decisions(request).await?.into_inner();
    let (notes, noted) = mpsc::unbounded_channel::<(u64, Sent)>();
    let board = Scoreboard::new(names.clone(), recording.bin_width_s);
    let file = match &args.save {
        Some(path) => {
            let file = std::fs::File::create(path)
                .with_context(|| format!("cannot write {}", path.display()))?;
            let mut file = std::io::BufWriter::new(file);
            writeln!(
                file,
                "sequence,bin,truth,label,novelty,log_likelihood,latency_us,unlabelled,{}",
                names.iter().map(|n| quoted(n)).collect::<Vec<_>>().join(",")
            )?;
            Some(file)
        }
        None => None,
    };
    let judge = Judge { board, names, played, regimes, file, decisions, noted };
    Ok((notes, tasks::spawn(judge.run())))
}

/// Compares the daemon's decisions with what was played.
struct Judge {
    board: Scoreboard,
    /// The daemon's regimes.
    names: Vec<String>,
    /// Sessions that are played.
    played: HashSet<String>,
    /// The daemon's regime for each of the recording's.
    regimes: Vec<Option<usize>>,
    /// Where every decision is saved.
    file: Option<std::io::BufWriter<std::fs::File>>,
    decisions: tonic::Streaming<DecisionUpdate>,
    noted: mpsc::UnboundedReceiver<(u64, Sent)>,
}

impl Judge {
    /// Judges until everything that was sent is decided, or nothing more comes; the summary.
    async fn run(mut self) -> Result<String> {
        let mut sending = true;
        let mut lost = 0;
        // Put off by decisions on what was played, and not by those of other sessions.
        let mut quiet = tokio::time::Instant::now() + LAST_DECISIONS;
        // Asked here too: updates that are always ready would win over the timer.
        while sending || tokio::time::Instant::now() < quiet {
            tokio::select! {
                biased;
                note = self.noted.recv(), if sending => match note {
                    Some((sequence, mut sent)) => {
                        sent.truth = sent.truth.and_then(|r| self.regimes[r]);
                        self.board.sent(sequence, sent);
                    }
                    None => {
                        sending = false;
                        quiet = tokio::time::Instant::now() + LAST_DECISIONS;
                    }
                },
                update = self.decisions.message() => {
                    let Some(update) = update? else { break };
                    lost = update.lost;
                    let Some(decision) = update.decision else { continue };
                    if !self.played.contains(&decision.session) {
                        continue;
                    }
                    let Some(truth) = self.board.judge(&decision, Instant::now()) else { continue };
                    quiet = tokio::time::Instant::now() + LAST_DECISIONS;
                    if let Some(file) = &mut self.file {
                        save(file, &decision, truth.map_or("", |t| self.names[t].as_str()))?;
                    }
                }
                () = tokio::time::sleep_until(quiet), if !sending => break,
            }
            if !sending && self.board.waiting() == 0 {
                break;
            }
        }
        if let Some(file) = &mut self.file {
            file.flush()?;
        }
        let lost = if lost > 0 {
            format!("\nlost       {lost} decisions: this listener was too slow")
        } else {
            String::new()
        };
        Ok(self.board.summary() + &lost)
    }
}

/// A name as a field of CSV (RFC 4180).
fn quoted(name: &str) -> std::borrow::Cow<'_, str> {
    if name.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", name.replace('"', "\"\"")).into()
    } else {
        name.into()
    }
}

fn save(file: &mut impl Write, d: &Decision, truth: &str) -> Result<()> {
    let posterior: Vec<String> = d.posterior.iter().map(|p| format!("{p:.4}")).collect();
    writeln!(
        file,
        "{},{},{},{},{:.4},{:.5},{:.1},{:.4},{}",
        d.sequence,
        d.bin,
        quoted(truth),
        quoted(&d.regime),
        d.novelty,
        d.log_likelihood,
        d.latency_ns as f64 * 1e-3,
        d.unlabelled,
        posterior.join(",")
    )?;
    Ok(())
}
