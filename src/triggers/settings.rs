//! What a trigger waits for, how often it may act, and where it goes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::bus::TriggerState;
use crate::rigs::{open_ephys, redis};

/// Most triggers of a session.
pub(crate) const TRIGGERS_MAX: usize = 16;
/// Least time between two acts, where none is given.
pub(crate) const REFRACTORY: Duration = Duration::from_secs(1);
/// Acts in 24 hours at most, where no number is given.
pub(crate) const DAILY_MAX: usize = 1000;
/// A decision that comes later after its bin does not act, where no time is given.
pub(crate) const LATE: Duration = Duration::from_millis(100);

/// What a trigger waits for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum When {
    /// The label becomes the regime.
    Begin,
    /// The label was the regime and becomes another.
    End,
    /// The posterior probability of the regime reaches this.
    Above(f32),
}

/// One trigger, as configured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    pub name: String,
    pub when: When,
    /// A regime's name, or `unknown` (not with [`When::Above`]).
    pub regime: String,
    /// Time for which the condition must hold.
    pub hold: Duration,
    /// Acts again after each refractory time while the condition holds.
    pub repeat: bool,
    /// Least time between two acts.
    pub refractory: Duration,
    /// Acts in any 24 hours at most.
    pub daily_max: usize,
    /// A decision that comes later after its bin does not act.
    pub late: Duration,
    /// Only says that it would have acted.
    pub dry_run: bool,
    pub target: Target,
}

/// Where a trigger goes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Target {
    /// A datagram, sent by the session's thread itself.
    Udp(UdpTarget),
    /// A line to a serial port.
    Serial(SerialTarget),
    /// A TTL pulse through Open Ephys.
    NetworkEvents(open_ephys::NetworkEvents),
    /// An entry of a Redis stream.
    Redis(RedisTarget),
    /// A POST request.
    Http(HttpTarget),
    /// A marker of an LSL stream of its own.
    #[cfg(feature = "lsl")]
    Lsl(LslTarget),
}

/// A UDP peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UdpTarget {
    pub address: SocketAddr,
    /// Text to send; `None`: what happened, as JSON.
    pub message: Option<String>,
}

/// A serial port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SerialTarget {
    /// Its device.
    pub device: PathBuf,
    /// Bits a second.
    pub baud: u32,
    /// Text to send, and a line's end after it where it has none; `None`: what happened, as JSON.
    pub message: Option<String>,
}

/// A Redis stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RedisTarget {
    pub url: String,
    /// `None`: `regimed:SESSION:triggers`.
    pub stream: Option<String>,
}

/// An HTTP server, without TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpTarget {
    /// `http://HOST[:PORT]/PATH`.
    pub url: String,
}

/// An LSL stream of markers.
#[cfg(feature = "lsl")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LslTarget {
    /// Address at which it is offered.
    pub listen: std::net::IpAddr,
    /// Text of the marker; `None`: the trigger's name.
    pub message: Option<String>,
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

impl Settings {
    /// Its condition in words.
    fn in_words(&self) -> String {
        let what = match self.when {
            When::Begin => format!("'{}' begins", self.regime),
            When::End => format!("'{}' ends", self.regime),
            When::Above(p) => format!("P('{}') >= {p}", self.regime),
        };
        let hold = match self.hold {
            Duration::ZERO => String::new(),
            hold => format!(" for {} ms", ms(hold)),
        };
        let again = if self.repeat { ", again and again" } else { "" };
        let (rest, daily) = (ms(self.refractory), self.daily_max);
        format!("{what}{hold}{again}; {rest} ms apart, {daily} a day")
    }

    /// What everybody may know of it.
    pub(crate) fn state(&self) -> TriggerState {
        let (name, regime) = (self.name.clone(), self.regime.clone());
        TriggerState::new(name, self.in_words(), self.target.in_words(), regime, self.dry_run)
    }
}

impl Target {
    /// Where it goes, in words.
    pub(crate) fn in_words(&self) -> String {
        match self {
            Self::Udp(to) => format!("UDP {}", to.address),
            Self::Serial(to) => format!("serial {}", to.device.display()),
            Self::NetworkEvents(to) => format!("TTL line {} at {}", to.line, to.endpoint),
            Self::Redis(to) => format!("Redis {}", redis::without_password(&to.url)),
            Self::Http(to) => format!("HTTP {}", to.url),
            #[cfg(feature = "lsl")]
            Self::Lsl(_) => "LSL marker".into(),
        }
    }
}
