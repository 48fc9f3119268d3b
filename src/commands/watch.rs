//! `regimed watch`: a daemon's labels, probabilities, metrics and events in the terminal.

use std::time::Duration;

use anyhow::{Result, bail};

use super::access::AccessArgs;
use super::picture::Picture;
use super::serve::runtime;
use crate::wire::regimes_client::RegimesClient;
use crate::wire::{ListSessionsRequest, SubscribeDecisionsRequest, SubscribeEventsRequest};

/// Show a daemon's labels, probabilities, metrics and events
#[derive(Debug, clap::Args)]
pub struct WatchArgs {
    /// gRPC endpoint of the daemon
    #[arg(default_value = "http://127.0.0.1:7733", value_name = "ENDPOINT")]
    pub endpoint: String,
    /// Session to watch; needed where the daemon has several
    #[arg(long, value_name = "NAME")]
    pub session: Option<String>,
    /// End after so long, e.g. 20s
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub for_time: Option<Duration>,
    /// Plain lines even on a terminal
    #[arg(long)]
    pub plain: bool,
    #[command(flatten)]
    /// Access to a daemon that asks who comes.
    pub access: AccessArgs,
}

/// `20s`, `500ms`, `2m`, or seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let expected = || format!("expected a time such as 20s, 500ms or 2m, found '{text}'");
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
/// No daemon there, or no such session.
pub fn run(args: &WatchArgs) -> Result<()> {
    runtime()?.block_on(watch(args))
}

async fn watch(args: &WatchArgs) -> Result<()> {
    let endpoint = &args.endpoint;
    let mut client = RegimesClient::new(args.access.connect(endpoint).await?);
    let listed = client.list_sessions(ListSessionsRequest {}).await?.into_inner().sessions;
    let names: Vec<&str> = listed.iter().map(|s| s.name.as_str()).collect();
    let session = match &args.session {
        Some(name) if names.contains(&name.as_str()) => name.clone(),
        Some(name) => bail!("expected one of the sessions {}, found '{name}'", names.join(", ")),
        None => match names.as_slice() {
            [one] => (*one).to_owned(),
            _ => bail!("expected --session, one of {}", names.join(", ")),
        },
    };
    let after = listed.iter().find(|s| s.name == session).map_or(0, |s| s.last_event_sequence);
    let request = SubscribeDecisionsRequest { session: session.clone(), every: 1 };
    let mut decisions = client.subscribe_decisions(request).await?.into_inner();
    let after = after.saturating_sub(10);
    let request = SubscribeEventsRequest { session, after_event_sequence: after };
    let mut events = client.subscribe_events(request).await?.into_inner();
    let mut picture = Picture::new(format!("regimed watch {endpoint}"), Vec::new(), args.plain);
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    let end = args.for_time.map(|t| tokio::time::Instant::now() + t);
    let over = async {
        match end {
            Some(end) => tokio::time::sleep_until(end).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(over);
    let why = loop {
        tokio::select! {
            update = decisions.message() => match update {
                Ok(Some(update)) => {
                    if let Some(decision) = update.decision {
                        picture.decision(decision, update.lost, None);
                    }
                }
                Ok(None) => break "the daemon ended the stream",
                Err(e) => {
                    picture.end();
                    bail!("the daemon is gone: {}", e.message());
                }
            },
            Ok(Some(event)) = events.message() => picture.event(&event),
            _ = tick.tick() => {}
            _ = tokio::signal::ctrl_c() => break "",
            () = &mut over => break "",
        }
        if !picture.refresh()? {
            break "";
        }
    };
    picture.end();
    if !why.is_empty() {
        println!("{why}");
    }
    Ok(())
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
