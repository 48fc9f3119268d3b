//! `regimed sessions`: a daemon's sessions at run time.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;

use super::access::AccessArgs;
use super::serve::runtime;
use crate::tasks;
use crate::wire::control_client::ControlClient;
use crate::wire::regimes_client::RegimesClient;
use crate::wire::{
    AnnotateRequest, ArmTriggersRequest, CalibrationState, ListSessionsRequest,
    PauseSessionRequest, ResumeSessionRequest, SeekRequest, Session, SessionState,
    StartSessionRequest, StopSessionRequest, SwapModelRequest,
};

/// List, start, stop, pause or resume a daemon's sessions, give one another model, arm its
/// triggers, or note something on its time
#[derive(Debug, clap::Args)]
pub struct SessionsArgs {
    /// gRPC endpoint of the daemon
    #[arg(long, global = true, default_value = "http://127.0.0.1:7733", value_name = "ENDPOINT")]
    pub at: String,
    #[command(flatten)]
    /// Access to a daemon that asks who comes.
    pub access: AccessArgs,
    /// What to do; without it, the sessions are listed.
    #[command(subcommand)]
    pub action: Option<Action>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// The sessions, their rigs, their accounts and clocks
    List,
    /// Start a session from a file with one `[[session]]` table; paths in it are the daemon's
    Start {
        /// TOML file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// End a session when it has done what waits
    Stop {
        /// Session
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Refuse counts until it is resumed
    Pause {
        /// Session
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Take counts again
    Resume {
        /// Session
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Give a session another model, without a gap in its stream
    Swap {
        /// Session
        #[arg(value_name = "NAME")]
        name: String,
        /// Model directory on the daemon's machine, or "builtin" (default: as now)
        #[arg(long, value_name = "MODEL", default_value = "", hide_default_value = true)]
        model: String,
        /// The model's session whose readout is used (default: as now)
        #[arg(long, value_name = "NAME", default_value = "")]
        readout: String,
        /// Seconds of counts on which it is warmed up
        #[arg(long, value_name = "S", default_value_t = 2.0)]
        warm_up: f64,
        /// False changes per minute that its decision rule may make (default: as now)
        #[arg(long, value_name = "N")]
        false_changes_per_min: Option<f64>,
    },
    /// Let a session's triggers act
    Arm {
        /// Session
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Let them act no more
    Disarm {
        /// Session
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Note something on a session's time: kept in the journal, shown on the page, exported
    Note {
        /// Session
        #[arg(value_name = "NAME")]
        name: String,
        /// What to note
        #[arg(value_name = "TEXT")]
        text: String,
    },
    /// Go on from another place of the recording that a session replays
    Seek {
        /// Session
        #[arg(value_name = "NAME")]
        name: String,
        /// Seconds from the recording's start
        #[arg(long, value_name = "S", allow_negative_numbers = true)]
        to: f64,
    },
}

/// Runs the command.
///
/// # Errors
/// No daemon there, or what the daemon refuses.
pub fn run(args: &SessionsArgs) -> Result<()> {
    tasks::block_on(&runtime()?, act(args))
}

async fn act(args: &SessionsArgs) -> Result<()> {
    let connection = args.access.connect(&args.at).await?;
    let mut control = ControlClient::new(connection.clone());
    let session = |name: &String| name.clone();
    let answer = match args.action.as_ref().unwrap_or(&Action::List) {
        Action::List => {
            let mut regimes = RegimesClient::new(connection);
            let listed = regimes.list_sessions(ListSessionsRequest {}).await?.into_inner();
            for session in &listed.sessions {
                println!("{}", shown(session));
            }
            if listed.sessions.is_empty() {
                println!("no sessions");
            }
            return Ok(());
        }
        Action::Start { file } => {
            let config = std::fs::read_to_string(file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            control.start_session(StartSessionRequest { config }).await
        }
        Action::Stop { name } => {
            control.stop_session(StopSessionRequest { session: session(name) }).await
        }
        Action::Pause { name } => {
            control.pause_session(PauseSessionRequest { session: session(name) }).await
        }
        Action::Resume { name } => {
            control.resume_session(ResumeSessionRequest { session: session(name) }).await
        }
        Action::Swap { name, model, readout, warm_up, false_changes_per_min } => {
            let request = SwapModelRequest {
                session: session(name),
                model: model.clone(),
                readout: readout.clone(),
                warm_up_s: *warm_up,
                false_changes_per_min: false_changes_per_min.unwrap_or(0.0),
            };
            control.swap_model(request).await
        }
        Action::Arm { name } => control.arm_triggers(armed(name, true)).await,
        Action::Disarm { name } => control.arm_triggers(armed(name, false)).await,
        Action::Note { name, text } => {
            let source = "command".into();
            let request = AnnotateRequest { session: session(name), text: text.clone(), source };
            let noted = control.annotate(request).await;
            let noted = noted.map_err(|status| anyhow::anyhow!("{}", status.message()))?;
            println!("noted at bin {}", noted.get_ref().bin);
            return Ok(());
        }
        Action::Seek { name, to } => {
            control.seek(SeekRequest { session: session(name), position_s: *to }).await
        }
    };
    let answer = answer.map_err(|status| anyhow::anyhow!("{}", status.message()))?;
    println!("{}", shown(answer.get_ref()));
    Ok(())
}

fn armed(name: &str, armed: bool) -> ArmTriggersRequest {
    ArmTriggersRequest { session: name.to_owned(), armed }
}

/// A session in a few lines.
fn shown(s: &Session) -> String {
    let state = match s.state() {
        SessionState::Paused => "paused",
        SessionState::Stopped => "stopped",
        SessionState::Running | SessionState::Unspecified => "running",
    };
    let mut text = format!(
        "{} ({state}): {} channels, bins of {} ms, model {}, regimes {}\n",
        s.name,
        s.n_channels,
        s.bin_width_s * 1e3,
        s.model,
        s.regime_names.join(", ")
    );
    if let Some(source) = &s.source {
        let up = if source.connected { "connected" } else { "not connected" };
        let loss = &source.loss_accounting;
        text += &format!("  rig      {} ({up}; losses: {loss})\n", source.description);
    }
    if let Some(a) = &s.accounts {
        text += &format!(
            "  bins     {} received = {} accepted + {} late + {} rejected; {} wait, {} missing\n",
            a.bins_received,
            a.bins_accepted,
            a.bins_late,
            a.bins_rejected,
            a.bins_waiting,
            s.bins_missing
        );
    }
    if let Some(c) = &s.clock {
        let drift = c.drift.map_or("not known yet".into(), |d| format!("{:.1} ppm", d * 1e6));
        text += &format!(
            "  clock    ours - rig's {:.6} s, drift {drift}, set {} times\n",
            c.offset_s, c.jumps
        );
    }
    if let Some(c) = s.calibration.as_ref().filter(|c| c.state() != CalibrationState::Given) {
        let state = c.state().as_str_name().trim_start_matches("CALIBRATION_STATE_").to_lowercase();
        text += &format!(
            "  calibration {state}, {:.0} of {:.0} s {}\n",
            c.seconds_seen, c.seconds_needed, c.problem
        );
    }
    for t in &s.triggers {
        let armed = if s.triggers_armed { "armed" } else { "disarmed" };
        let dry = if t.dry_run { ", dry run" } else { "" };
        text += &format!(
            "  trigger  {} ({armed}{dry}): {} -> {}; {} times\n",
            t.name, t.when, t.target, t.count
        );
    }
    for condition in &s.conditions {
        text += &format!("  {}: {}\n", condition.name, condition.detail);
    }
    text += &format!("  {} bins done, {} events", s.bins, s.last_event_sequence);
    text
}
