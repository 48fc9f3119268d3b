//! `regimed watch`: a daemon's labels, probabilities, metrics and events in the terminal.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::json;
use tokio::sync::mpsc;

use super::access::{AccessArgs, Connection};
use super::picture::{Picture, json_line};
use super::serve::runtime;
use crate::tasks;
use crate::wire::regimes_client::RegimesClient;
use crate::wire::{
    Decision, Event, ListSessionsRequest, Session, SubscribeDecisionsRequest,
    SubscribeEventsRequest,
};

type Client = RegimesClient<Connection>;

/// Interval of attempts to reconnect to a lost daemon.
const RETRY: Duration = Duration::from_millis(500);
/// Interval at which accounts and conditions are asked for.
const LIST_EVERY: Duration = Duration::from_secs(1);
/// Events from before the start that are shown.
const EVENTS_BEFORE: u64 = 10;
/// Bound on updates that are received and not shown yet.
const WAITING: usize = 4096;

/// Show a daemon's labels, probabilities, metrics and events
///
/// Several sessions at once on a terminal; plain lines (or, with --json, one JSON object a line:
/// the protocol's messages) where the output goes elsewhere. A daemon that is lost is waited for;
/// events are shown once each.
#[derive(Debug, clap::Args)]
pub struct WatchArgs {
    /// gRPC endpoint of the daemon
    #[arg(default_value = "http://127.0.0.1:7733", value_name = "ENDPOINT")]
    pub endpoint: String,
    /// Session to watch [default: all]
    #[arg(long, value_name = "NAME")]
    pub session: Option<String>,
    /// End after this time, e.g. 20s
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub for_time: Option<Duration>,
    /// Every n-th decision, and all changes
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub every: u32,
    /// Plain lines even on a terminal
    #[arg(long)]
    pub plain: bool,
    /// A line of JSON for each: {"decision": ...}, {"event": ...}
    #[arg(long)]
    pub json: bool,
    /// With --json: events alone
    #[arg(long, requires = "json")]
    pub events_only: bool,
    #[command(flatten)]
    /// Access to a daemon that asks who comes.
    pub access: AccessArgs,
}

/// A text that is no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a time such as 20s, 500ms or 2m, found '{0}'")]
pub(crate) struct DurationError(String);

/// `20s`, `500ms`, `2m`, or seconds.
///
/// # Errors
/// Any other text.
pub(crate) fn duration(text: &str) -> Result<Duration, DurationError> {
    let expected = || DurationError(text.to_owned());
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: f64 = digits.parse().map_err(|_| expected())?;
    let unit = match &text[digits.len()..] {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(expected()),
    };
    Duration::try_from_secs_f64(number * unit).map_err(|_| expected())
}

/// Runs the command.
///
/// # Errors
/// No daemon there at first, or no such session.
pub fn run(args: &WatchArgs) -> Result<()> {
    tasks::block_on(&runtime()?, watch(args))
}

/// An update from the daemon.
enum Received {
    Session(Box<Session>),
    Decision(Box<Decision>, u64),
    Event(Event),
    /// The connection is lost, and why; empty when it is back.
    Lost(String),
}

/// Receives until its consumer has gone.
struct Listener {
    client: Client,
    session: Option<String>,
    every: u32,
    known: HashSet<String>,
    received: mpsc::Sender<Received>,
}

/// The consumer has gone.
struct ConsumerGone;

impl Listener {
    async fn send(&self, what: Received) -> Result<(), ConsumerGone> {
        self.received.send(what).await.map_err(|_| ConsumerGone)
    }

    /// Lists the sessions and subscribes to their events from now on; returns their names.
    async fn learn(&mut self) -> Result<Vec<String>, tonic::Status> {
        let listed = self.client.list_sessions(ListSessionsRequest {}).await?.into_inner();
        for session in &listed.sessions {
            let name = &session.name;
            if self.session.as_ref().is_some_and(|wanted| wanted != name)
                || !self.known.insert(name.clone())
            {
                continue;
            }
            let _ = self.send(Received::Session(Box::new(session.clone()))).await;
            let after = session.last_event_sequence.saturating_sub(EVENTS_BEFORE);
            let (client, received) = (self.client.clone(), self.received.clone());
            tasks::spawn(events(client, name.clone(), after, received));
        }
        Ok(listed.sessions.into_iter().map(|s| s.name).collect())
    }

    /// What became of the bins so far; where that fails, the stream ends as well.
    async fn list(&mut self) -> Result<(), ConsumerGone> {
        let Ok(listed) = self.client.list_sessions(ListSessionsRequest {}).await else {
            return Ok(());
        };
        for session in listed.into_inner().sessions {
            if self.known.contains(&session.name) {
                self.send(Received::Session(Box::new(session))).await?;
            }
        }
        Ok(())
    }

    /// Decisions until the stream ends, and why it did.
    async fn decisions(&mut self) -> Result<String, ConsumerGone> {
        let session = self.session.clone().unwrap_or_default();
        let request = SubscribeDecisionsRequest { session, every: self.every };
        let mut stream = match self.client.subscribe_decisions(request).await {
            Ok(stream) => stream.into_inner(),
            Err(e) => return Ok(e.message().to_owned()),
        };
        self.send(Received::Lost(String::new())).await?;
        let mut list = tokio::time::interval(LIST_EVERY);
        loop {
            let message = tokio::select! {
                message = stream.message() => message,
                _ = list.tick() => {
                    self.list().await?;
                    continue;
                }
            };
            match message {
                Ok(Some(update)) => {
                    let Some(decision) = update.decision else { continue };
                    if !self.known.contains(&decision.session) {
                        // A session has started meanwhile. Where listing fails, the stream ends as
                        // well.
                        let _ = self.learn().await;
                    }
                    self.send(Received::Decision(Box::new(decision), update.lost)).await?;
                }
                Ok(None) => return Ok("it has ended its stream".to_owned()),
                Err(e) => return Ok(e.message().to_owned()),
            }
        }
    }

    async fn listen(mut self) -> Result<(), ConsumerGone> {
        loop {
            let why = match self.learn().await {
                Ok(_) => self.decisions().await?,
                Err(e) => e.message().to_owned(),
            };
            self.send(Received::Lost(why)).await?;
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// A session's events after a number, each once, over lost connections.
async fn events(
    mut client: Client,
    session: String,
    mut after: u64,
    received: mpsc::Sender<Received>,
) {
    while !received.is_closed() {
        let request =
            SubscribeEventsRequest { session: session.clone(), after_event_sequence: after };
        match client.subscribe_events(request).await {
            Ok(stream) => {
                let mut stream = stream.into_inner();
                while let Ok(Some(event)) = stream.message().await {
                    after = event.event_sequence;
                    if received.send(Received::Event(event)).await.is_err() {
                        return;
                    }
                }
            }
            // Without a journal, a restarted daemon counts its events from 1.
            Err(e) if e.code() == tonic::Code::OutOfRange => after = 0,
            Err(_) => {}
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn watch(args: &WatchArgs) -> Result<()> {
    let endpoint = &args.endpoint;
    let client = RegimesClient::new(args.access.connect(endpoint).await?);
    let (received, mut receiving) = mpsc::channel(WAITING);
    let mut listener = Listener {
        client,
        session: args.session.clone(),
        every: args.every,
        known: HashSet::new(),
        received,
    };
    let names = listener.learn().await?;
    if let Some(name) = args.session.as_ref().filter(|name| !names.contains(name)) {
        bail!("expected one of the sessions {}, found '{name}'", names.join(", "));
    }
    let listening = tasks::spawn(listener.listen());
    let end = args.for_time.map(|t| tokio::time::Instant::now() + t);
    let over = async {
        match end {
            Some(end) => tokio::time::sleep_until(end).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(over);
    let mut shown = Shown::new(args);
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    loop {
        let goes_on = tokio::select! {
            Some(received) = receiving.recv() => shown.take(received)?,
            _ = tick.tick() => shown.refresh()?,
            _ = tokio::signal::ctrl_c() => false,
            () = &mut over => false,
        };
        if !goes_on {
            break;
        }
    }
    listening.abort();
    Ok(())
}

/// Where it is shown: a picture or plain lines, or lines of JSON.
enum Shown {
    Picture(Box<Picture>),
    Json { events_only: bool },
}

impl Shown {
    fn new(args: &WatchArgs) -> Self {
        if args.json {
            return Self::Json { events_only: args.events_only };
        }
        let title = format!("regimed watch {}", args.endpoint);
        Self::Picture(Box::new(Picture::new(title, Vec::new(), args.plain)))
    }

    /// False where the reader has gone.
    fn take(&mut self, received: Received) -> Result<bool> {
        match (self, received) {
            (Self::Json { .. }, Received::Event(event)) => json_line(&json!({ "event": event })),
            (Self::Json { events_only: false }, Received::Decision(decision, lost)) => {
                json_line(&json!({ "decision": decision, "lost": lost }))
            }
            (Self::Json { .. }, Received::Lost(why)) => {
                if !why.is_empty() {
                    eprintln!("regimed: the daemon is gone ({why}); looking for it again");
                }
                Ok(true)
            }
            (Self::Json { .. }, _) => Ok(true),
            (Self::Picture(picture), received) => {
                match received {
                    Received::Session(session) => picture.described(*session),
                    Received::Decision(decision, lost) => picture.decision(*decision, lost, None),
                    Received::Event(event) => picture.event(&event),
                    Received::Lost(why) => picture.trouble(
                        (!why.is_empty())
                            .then(|| format!("the daemon is gone ({why}); looking for it again")),
                    ),
                }
                picture.refresh()
            }
        }
    }

    fn refresh(&mut self) -> Result<bool> {
        match self {
            Self::Picture(picture) => picture.refresh(),
            Self::Json { .. } => Ok(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(duration("20s"), Ok(Duration::from_secs(20)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("3"), Ok(Duration::from_secs(3)));
        assert!(duration("soon").is_err() && duration("-1s").is_err() && duration("1y").is_err());
    }
}
