//! Counts over gRPC.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use crate::bus::{Intake, Registry, Subscription, Update};
use crate::intake::Refusal;
use crate::tasks;
use crate::wire::exchange_reply::Reply;
use crate::wire::ingest_server::Ingest;
use crate::wire::{
    Counts, ExchangeReply, IngestSummary, RejectReason, Rejection, Spikes, SpikesSummary,
};

/// Refusals that wait for one `Exchange` client before further ones go untold (they are counted).
const REFUSALS_WAITING: usize = 256;
/// After the last bin, an `Exchange` waits this long for decisions.
const LAST_DECISIONS: Duration = Duration::from_secs(5);

pub(crate) struct IngestService {
    /// Where counts go.
    pub intake: Arc<Intake>,
    /// Where decisions come from.
    pub registry: Arc<Registry>,
}

/// A message as it came, or why it did not: what cannot be decoded is counted here.
async fn next<T>(inbound: &mut Streaming<T>, intake: &Intake) -> Result<Option<T>, Status> {
    inbound.message().await.inspect_err(|status| {
        // tonic uses these codes for messages that are undecodable or too long; any other is the
        // end of the connection.
        if matches!(status.code(), tonic::Code::Internal | tonic::Code::OutOfRange) {
            intake.note("", &Refusal::new(RejectReason::Malformed, status.message()));
        }
    })
}

/// Refusals on one stream, by reason.
#[derive(Default)]
struct Refused(HashMap<RejectReason, Rejection>);

impl Refused {
    fn add(&mut self, refusal: Refusal, n: u64) {
        let entry = self.0.entry(refusal.reason).or_default();
        entry.reason = refusal.reason.into();
        entry.messages += n;
        entry.detail = refusal.detail;
    }

    fn list(self) -> Vec<Rejection> {
        let mut list: Vec<Rejection> = self.0.into_values().collect();
        list.sort_by_key(|r| r.reason);
        list
    }
}

#[tonic::async_trait]
impl Ingest for IngestService {
    async fn send_counts(
        &self,
        request: Request<Streaming<Counts>>,
    ) -> Result<Response<IngestSummary>, Status> {
        let mut inbound = request.into_inner();
        let mut summary = IngestSummary::default();
        let mut refused = Refused::default();
        let mut began = false;
        loop {
            let message = tokio::select! {
                message = next(&mut inbound, &self.intake) => message?,
                () = self.registry.closed() => {
                    return Err(Status::unavailable("the daemon is shutting down"));
                }
            };
            let Some(counts) = message else { break };
            if !std::mem::replace(&mut began, true) {
                self.intake.stream_begins(&counts.session);
            }
            match self.intake.offer(&counts) {
                Ok(accepted) => {
                    summary.bins_accepted += accepted.bins;
                    summary.bins_missing += accepted.missing;
                }
                Err(refusal) => refused.add(refusal, 1),
            }
        }
        summary.rejections = refused.list();
        Ok(Response::new(summary))
    }

    async fn send_spikes(
        &self,
        request: Request<Streaming<Spikes>>,
    ) -> Result<Response<SpikesSummary>, Status> {
        let mut inbound = request.into_inner();
        let mut summary = SpikesSummary::default();
        let mut refused = Refused::default();
        loop {
            let message = tokio::select! {
                message = next(&mut inbound, &self.intake) => message?,
                () = self.registry.closed() => {
                    return Err(Status::unavailable("the daemon is shutting down"));
                }
            };
            let Some(spikes) = message else { break };
            let n = spikes.time_ns.len() as u64;
            summary.events_received += n;
            match self.intake.offer_spikes(&spikes) {
                Ok(taken) => {
                    summary.events_binned += taken.binned;
                    summary.events_late += taken.late;
                    summary.events_rejected += taken.rejected;
                    summary.messages_lost += taken.messages_lost;
                    for (refusal, n) in taken.refused {
                        refused.add(refusal, n);
                    }
                }
                Err(refusal) => {
                    summary.events_rejected += n;
                    refused.add(refusal, 1);
                }
            }
        }
        summary.rejections = refused.list();
        Ok(Response::new(summary))
    }

    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<ExchangeReply, Status>> + Send>>;

    async fn exchange(
        &self,
        request: Request<Streaming<Counts>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let (notes, noted) = mpsc::channel(REFUSALS_WAITING);
        let reader = Reader { intake: self.intake.clone(), registry: self.registry.clone(), notes };
        tasks::spawn(reader.run(request.into_inner()));
        let replies = Replies {
            noted,
            subscription: None,
            last: None,
            decided_to: None,
            event_named: 0,
            event_told: 0,
            until: None,
            registry: self.registry.clone(),
        };
        let stream = unfold(replies, |mut replies| async {
            replies.next().await.map(|reply| (reply, replies))
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

/// Messages from an `Exchange`'s reader to its writer.
enum Note {
    Session(Subscription),
    Refused(Rejection),
    /// The client has sent its last message; `None`: nothing was accepted.
    Last(Option<u64>),
    Broken(Status),
}

/// Reads an `Exchange` without waiting for its replies: a client that does not read them cannot
/// hold up its own counts.
struct Reader {
    intake: Arc<Intake>,
    registry: Arc<Registry>,
    notes: mpsc::Sender<Note>,
}

impl Reader {
    async fn run(self, mut inbound: Streaming<Counts>) {
        let mut session: Option<String> = None;
        let mut last = None;
        let end = loop {
            let counts = match next(&mut inbound, &self.intake).await {
                Ok(Some(counts)) => counts,
                Ok(None) => break Note::Last(last),
                Err(status) => break Note::Broken(status),
            };
            if session.is_none()
                && let Some(handle) = self.registry.session(&counts.session)
            {
                session = Some(counts.session.clone());
                self.intake.stream_begins(&counts.session);
                if self.notes.send(Note::Session(handle.subscribe(1))).await.is_err() {
                    return;
                }
            }
            let result = match &session {
                Some(s) if *s != counts.session => {
                    let detail = format!(
                        "expected session '{s}' as before on this stream, found '{}'",
                        counts.session.chars().take(64).collect::<String>()
                    );
                    let refusal = Refusal::new(RejectReason::UnknownSession, detail);
                    self.intake.note(s, &refusal);
                    Err(refusal)
                }
                _ => self.intake.offer(&counts),
            };
            match result {
                Ok(accepted) => last = Some(accepted.last_sequence),
                Err(refusal) => {
                    // Where the client reads nothing, refusals are counted but go untold.
                    let _ = self.notes.try_send(Note::Refused(Rejection {
                        reason: refusal.reason.into(),
                        messages: 1,
                        detail: refusal.detail,
                    }));
                }
            }
        };
        let _ = self.notes.send(end).await;
    }
}

struct Replies {
    noted: mpsc::Receiver<Note>,
    subscription: Option<Subscription>,
    /// Sequence number of the last bin that was taken, once the client has sent its last message.
    last: Option<u64>,
    /// Greatest sequence number of a decision that was sent back. The last bin's decision may come
    /// before the client half-closes its stream.
    decided_to: Option<u64>,
    /// Number of the newest event that a decision has named, and of the newest that was given back.
    event_named: u64,
    event_told: u64,
    /// When what is still missing is given up, once the client has sent its last message.
    until: Option<Instant>,
    registry: Arc<Registry>,
}

impl Replies {
    async fn next(&mut self) -> Option<Result<ExchangeReply, Status>> {
        let reply = |r| Some(Ok(ExchangeReply { reply: Some(r) }));
        loop {
            if let Some(last) = self.last {
                let decided = self.decided_to.is_some_and(|to| to >= last);
                if decided && self.event_told >= self.event_named {
                    return None;
                }
                let update = Self::update_of(&mut self.subscription);
                let until = *self.until.get_or_insert_with(|| Instant::now() + LAST_DECISIONS);
                // Asked here too: updates that are always ready would win over the timer.
                if Instant::now() >= until {
                    return None;
                }
                let update = tokio::time::timeout_at(until, update).await.ok()??;
                if decided && update.decision().is_some() {
                    // A decision on another sender's bin.
                    continue;
                }
                // Bins that still wait for their decision are progress; once all are decided, only
                // an event may be missing, and others' bins must not put off the end.
                self.until = None;
                return reply(self.take(&update));
            }
            tokio::select! {
                note = self.noted.recv() => match note? {
                    Note::Session(subscription) => self.subscription = Some(subscription),
                    Note::Refused(rejection) => return reply(Reply::Rejection(rejection)),
                    Note::Last(last) => {
                        last?;
                        self.last = last;
                    }
                    Note::Broken(status) => return Some(Err(status)),
                },
                update = Self::update_of(&mut self.subscription) => {
                    let update = update?;
                    return reply(self.take(&update));
                }
                () = self.registry.closed() => {
                    return None;
                }
            }
        }
    }

    async fn update_of(subscription: &mut Option<Subscription>) -> Option<Arc<Update>> {
        match subscription {
            Some(s) => s.next().await,
            None => std::future::pending().await,
        }
    }

    fn take(&mut self, update: &Update) -> Reply {
        match update {
            Update::Decision(decision) => {
                self.event_named = self.event_named.max(decision.event_sequence);
                self.decided_to = self.decided_to.max(Some(decision.sequence));
                Reply::Decision((**decision).clone())
            }
            Update::Event(event) => {
                self.event_told = self.event_told.max(event.event_sequence);
                Reply::Event((**event).clone())
            }
        }
    }
}
