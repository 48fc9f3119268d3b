//! Redis: one connection that is made again when it is lost. Serves BRAND's streams and the bus
//! out.

pub(crate) mod out;

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::streams::{StreamId, StreamRangeReply};
use redis::{AsyncConnectionConfig, Client, RedisError};

use super::backoff::Backoff;

/// Entries of one round trip at most.
pub(crate) const BATCH: usize = 128;
/// Default server.
pub(crate) const URL: &str = "redis://127.0.0.1:6379";
/// Longest wait for a connection, and for a reply.
const PATIENCE: Duration = Duration::from_secs(5);

/// A session's Redis stream out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutSettings {
    /// Server: `redis://HOST:PORT/DB` or `unix:///PATH`.
    pub url: String,
    /// Begin of the streams' names; `None`: `regimed:SESSION`.
    pub stream: Option<String>,
    /// Every n-th decision is written; 0: none.
    pub decisions_every: usize,
    /// Decisions kept in their stream, about.
    pub entries_max: usize,
    /// Events kept in theirs, about.
    pub events_max: usize,
}

impl Default for OutSettings {
    fn default() -> Self {
        Self {
            url: URL.into(),
            stream: None,
            decisions_every: 1,
            entries_max: 100_000,
            events_max: 1_000_000,
        }
    }
}

/// A connection, whatever it is doing.
pub(crate) struct Connection {
    url: String,
    live: Option<MultiplexedConnection>,
    backoff: Backoff,
    /// The last failure that was logged.
    reported: Option<String>,
}

impl Connection {
    /// Not connected yet.
    #[must_use]
    pub(crate) fn new(url: &str) -> Self {
        Self { url: url.to_owned(), live: None, backoff: Backoff::new(), reported: None }
    }

    /// One attempt to connect.
    ///
    /// # Errors
    /// Errors of the server, and an address that is none.
    pub(crate) async fn open(url: &str) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        Client::open(url)?.get_multiplexed_async_connection_with_config(&config).await
    }

    /// The connection; waits until there is one.
    pub(crate) async fn get(&mut self) -> MultiplexedConnection {
        loop {
            if let Some(live) = &self.live {
                return live.clone();
            }
            match Self::open(&self.url).await {
                Ok(live) => self.live = Some(live),
                Err(e) => {
                    self.report("not connected, trying again", &e);
                    self.backoff.pause().await;
                }
            }
        }
    }

    /// A request has succeeded: the next failure is logged again, and the next wait is short.
    pub(crate) fn worked(&mut self) {
        self.backoff.reset();
        self.reported = None;
    }

    /// Something failed: the next [`Self::get`] connects again. A server that answers, but with a
    /// refusal, is waited for as one that is not there: longer each time.
    pub(crate) async fn failed(&mut self, e: &RedisError) {
        self.live = None;
        self.report("the server refuses, or the connection is lost; trying again", e);
        self.backoff.pause().await;
    }

    /// Each problem in its own words, once.
    fn report(&mut self, what: &str, e: &RedisError) {
        let words = e.to_string();
        if self.reported.as_ref() != Some(&words) {
            let url = without_password(&self.url);
            tracing::warn!(url, "Redis: {what}: {words}");
            self.reported = Some(words);
        }
    }
}

/// Order of an entry's id, `MILLISECONDS-NUMBER`.
#[must_use]
pub(crate) fn id_order(id: &str) -> Option<(u64, u64)> {
    let (time, number) = id.split_once('-')?;
    Some((time.parse().ok()?, number.parse().ok()?))
}

/// Id of a stream's newest entry; of one that is not there, the first possible.
///
/// # Errors
/// Errors of the Redis server.
pub(crate) async fn newest_id(
    live: &mut MultiplexedConnection,
    stream: &str,
) -> Result<String, RedisError> {
    Ok(newest(live, stream).await?.map_or_else(|| "0-0".into(), |e| e.id))
}

/// A stream's newest entry.
///
/// # Errors
/// Errors of the Redis server.
pub(crate) async fn newest(
    live: &mut MultiplexedConnection,
    stream: &str,
) -> Result<Option<StreamId>, RedisError> {
    let reply: StreamRangeReply = redis::cmd("XREVRANGE")
        .arg(stream)
        .arg("+")
        .arg("-")
        .arg("COUNT")
        .arg(1)
        .query_async(live)
        .await?;
    Ok(reply.ids.into_iter().next())
}

/// An address as it may be shown.
#[must_use]
pub(crate) fn without_password(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => {
            format!("{}{}", &url[..scheme + 3], &url[at + 1..])
        }
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_in_the_order_of_their_numbers() {
        assert!(id_order("9-10") < id_order("10-2") && id_order("10-2") < id_order("10-10"));
        assert_eq!(id_order("x"), None);
    }

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(without_password("redis://me:secret@host:1/2"), "redis://host:1/2");
        assert_eq!(without_password(URL), URL);
    }
}
