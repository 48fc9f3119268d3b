//! The rigs that a configuration can be begun for, each with its table.

use std::fmt::Write;

/// A kind of rig.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Rig {
    /// Open Ephys GUI, ZMQ Interface plugin
    OpenEphys,
    /// Intan RHX, spikes over TCP
    Intan,
    /// Blackrock, packets over UDP
    Blackrock,
    /// A BRAND graph's stream of binned counts
    Brand,
    /// Lab Streaming Layer, binned counts
    Lsl,
    /// A recording (.npz, .nwb or a Phy folder)
    Replay,
    /// A program of your own, over gRPC
    Grpc,
    /// A program of your own, over ZeroMQ
    Zeromq,
}

impl Rig {
    /// All, with their words.
    pub(super) const ALL: [(Self, &'static str); 8] = [
        (Self::OpenEphys, "Open Ephys GUI (ZMQ Interface plugin)"),
        (Self::Intan, "Intan RHX (spikes over TCP)"),
        (Self::Blackrock, "Blackrock (packets over UDP)"),
        (Self::Brand, "BRAND (a graph's binned counts on Redis)"),
        (Self::Lsl, "Lab Streaming Layer (binned counts)"),
        (Self::Replay, "a recording (.npz, .nwb or a Phy folder)"),
        (Self::Grpc, "a program of your own, over gRPC"),
        (Self::Zeromq, "a program of your own, over ZeroMQ"),
    ];

    /// Where it usually is; `None`: that has to be said.
    pub(super) fn usual_place(self) -> Option<&'static str> {
        Some(match self {
            Self::OpenEphys => "tcp://127.0.0.1:5556",
            Self::Intan => "127.0.0.1:5002",
            Self::Blackrock => "127.0.0.1:51002",
            Self::Brand => "redis://127.0.0.1:6379",
            Self::Lsl => "type=SpikeCounts",
            Self::Replay => return None,
            Self::Grpc => "127.0.0.1:7733",
            Self::Zeromq => "127.0.0.1:7734",
        })
    }

    /// Whether its bins come as they are, and tell their own width.
    pub(super) fn has_bins(self) -> bool {
        matches!(self, Self::Brand | Self::Lsl)
    }

    /// Whether the rig comes to the daemon.
    pub(super) fn comes(self) -> bool {
        matches!(self, Self::Grpc | Self::Zeromq)
    }
}

/// What is said in a rig's table.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    pub(super) at: String,
    pub(super) sample_rate_hz: Option<f64>,
    /// The rate is a guess.
    pub(super) guessed_rate: bool,
    pub(super) threshold_sd: Option<f64>,
    pub(super) stream: Option<String>,
    pub(super) electrodes: Vec<String>,
}

/// A text as TOML has it.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// Columns of a list of names.
const COLUMNS: usize = 96;

/// A list of names as TOML has it, over several lines where it is long.
fn list(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| quoted(name)).collect();
    let flat = names.join(", ");
    if flat.len() < COLUMNS {
        return format!("[{flat}]");
    }
    let mut text = String::from("[\n   ");
    let mut column = 3;
    for name in names {
        if column + name.len() + 2 > COLUMNS {
            text += "\n   ";
            column = 3;
        }
        column += name.len() + 2;
        let _ = write!(text, " {name},");
    }
    text + "\n]"
}

impl Table {
    /// The table of a rig that the daemon goes to, with comments; empty where the rig comes.
    pub(super) fn text(&self, rig: Rig) -> String {
        let at = quoted(&self.at);
        let mut text = match rig {
            Rig::OpenEphys => format!(
                "[session.open_ephys]\nendpoint = {at}   # the ZMQ Interface plugin's data port\n"
            ),
            Rig::Intan => format!("[session.intan]\naddress = {at}   # RHX's spike output\n"),
            Rig::Blackrock => format!(
                "[session.blackrock]\nlisten = {at}   # this computer, in the processor's \
                 network\nallow_plaintext = true   # UDP is neither encrypted nor authenticated\n"
            ),
            Rig::Brand => {
                let stream = quoted(self.stream.as_deref().unwrap_or("binned_spikes"));
                format!("[session.brand]\nredis = {at}\nstream = {stream}\n")
            }
            Rig::Lsl => {
                let (key, value) = self.at.split_once('=').unwrap_or(("type", &self.at));
                format!(
                    "[session.lsl]\n{key} = {}   # and, or, name and source_id\n",
                    quoted(value)
                )
            }
            Rig::Replay => format!("[session.replay]\nfile = {at}\nloop = true\n"),
            Rig::Grpc | Rig::Zeromq => return String::new(),
        };
        if rig == Rig::OpenEphys
            && let Some(stream) = &self.stream
        {
            let _ = writeln!(text, "stream = {}", quoted(stream));
        }
        if let Some(rate) =
            self.sample_rate_hz.filter(|_| matches!(rig, Rig::OpenEphys | Rig::Intan))
        {
            let why = if self.guessed_rate { "   # a guess: spikes do not tell it" } else { "" };
            let _ = writeln!(text, "sample_rate_hz = {rate}{why}");
        }
        if let Some(sd) = self.threshold_sd {
            let why = "no spikes are sent: crossings of the continuous data";
            let _ = writeln!(text, "threshold_sd = {sd:.1}   # {why}");
        }
        if !self.electrodes.is_empty() {
            let _ = writeln!(
                text,
                "# The channels in their order, as heard. Keep the list: another day's order of \
                 first spikes\n# may differ, and a model knows its channels by these \
                 names.\nelectrodes = {}",
                list(&self.electrodes)
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse_session;

    #[test]
    fn every_rigs_table_is_read_by_the_daemon() {
        for (rig, _) in Rig::ALL {
            if rig == Rig::Lsl && cfg!(not(feature = "lsl")) {
                continue;
            }
            let table = Table {
                at: rig.usual_place().unwrap_or("x \"1\".npz").to_owned(),
                sample_rate_hz: Some(30_000.0),
                electrodes: match rig {
                    Rig::OpenEphys | Rig::Intan | Rig::Blackrock => {
                        (0..40).map(|i| format!("A-{i:03}")).collect()
                    }
                    _ => Vec::new(),
                },
                threshold_sd: (rig == Rig::OpenEphys).then_some(-4.5),
                ..Table::default()
            };
            let text = format!(
                "[[session]]\nname = \"rig\"\nmodel = \"builtin\"\nreadout = \"0\"\n{}",
                table.text(rig)
            );
            let parsed = parse_session(&text).unwrap_or_else(|e| panic!("{rig:?}: {e}\n{text}"));
            assert_eq!(parsed.source.is_some(), !rig.comes());
            assert!(text.lines().all(|l| l.len() <= 100), "{text}");
        }
    }
}
