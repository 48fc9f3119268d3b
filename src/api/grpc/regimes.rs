//! Decisions and events over gRPC.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use futures_util::stream::{BoxStream, SelectAll, select_all, unfold};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::api::describe;
use crate::bus::{EventsError, Registry, Resumed, SessionHandle};
use crate::wire::regimes_server::Regimes;
use crate::wire::{
    DecisionUpdate, Event, ListAnnotationsRequest, ListAnnotationsResponse, ListSessionsRequest,
    ListSessionsResponse, SubscribeDecisionsRequest, SubscribeEventsRequest,
};

pub(crate) struct RegimesService {
    /// Where decisions come from.
    pub registry: Arc<Registry>,
}

impl RegimesService {
    fn find(&self, name: &str) -> Result<Arc<SessionHandle>, Status> {
        self.registry.find(name).map_err(|e| Status::not_found(e.to_string()))
    }
}

fn updates(session: &Arc<SessionHandle>, every: u64) -> BoxStream<'static, DecisionUpdate> {
    let updates = unfold(session.subscribe(every), move |mut subscription| async move {
        loop {
            let update = subscription.next_in_turn().await?;
            if let Some(decision) = update.decision_bytes() {
                let sent = DecisionUpdate::shared(decision, subscription.lost());
                return Some((sent, subscription));
            }
        }
    });
    Box::pin(updates)
}

/// Updates of one session, or of all of them; `begun` signals new sessions.
struct All {
    merged: SelectAll<BoxStream<'static, DecisionUpdate>>,
    names: Vec<String>,
    begun: Option<watch::Receiver<u64>>,
    registry: Arc<Registry>,
    every: u64,
}

impl All {
    async fn next(&mut self) -> Option<DecisionUpdate> {
        use futures_util::StreamExt;
        loop {
            let of_all = self.begun.is_some();
            let begun = async {
                match &mut self.begun {
                    Some(begun) => begun.changed().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            let next = async {
                match self.merged.next().await {
                    // Where all are asked for, others may begin.
                    None if of_all => std::future::pending().await,
                    update => update,
                }
            };
            tokio::select! {
                biased;
                update = next => return update,
                _ = begun => {
                    let sessions = self.registry.sessions();
                    self.names.retain(|n| sessions.iter().any(|s| s.name() == n));
                    for session in &sessions {
                        if !self.names.iter().any(|n| n == session.name()) {
                            self.names.push(session.name().to_owned());
                            self.merged.push(updates(session, self.every));
                        }
                    }
                }
                () = self.registry.closed() => return None,
            }
        }
    }
}

type Sent<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Regimes for RegimesService {
    type SubscribeDecisionsStream = Sent<DecisionUpdate>;

    async fn subscribe_decisions(
        &self,
        request: Request<SubscribeDecisionsRequest>,
    ) -> Result<Response<Self::SubscribeDecisionsStream>, Status> {
        let SubscribeDecisionsRequest { session, every } = request.into_inner();
        let every = u64::from(every.max(1));
        // Of all sessions, those too that begin later.
        let mut begun = self.registry.begun();
        begun.borrow_and_update();
        let (sessions, begun) = if session.is_empty() {
            (self.registry.sessions(), Some(begun))
        } else {
            (vec![self.find(&session)?], None)
        };
        let names = sessions.iter().map(|s| s.name().to_owned()).collect();
        let merged = select_all(sessions.iter().map(|session| updates(session, every)));
        let state = All { merged, names, begun, registry: self.registry.clone(), every };
        let stream =
            unfold(
                state,
                |mut all| async move { all.next().await.map(|update| (Ok(update), all)) },
            );
        Ok(Response::new(Box::pin(stream)))
    }

    type SubscribeEventsStream = Sent<Event>;

    async fn subscribe_events(
        &self,
        request: Request<SubscribeEventsRequest>,
    ) -> Result<Response<Self::SubscribeEventsStream>, Status> {
        let SubscribeEventsRequest { session, after_event_sequence } = request.into_inner();
        let session = self.find(&session)?;
        let out_of_range = |e: EventsError| Status::out_of_range(e.to_string());
        // Checked here, so that an unknown number is refused before the stream opens.
        let resumed = Resumed::after(&self.registry, session, after_event_sequence);
        let resumed = resumed.await.map_err(out_of_range)?;
        let stream = unfold(Some(resumed), |resumed| async {
            let mut resumed = resumed?;
            match resumed.next().await {
                Ok(Some(event)) => Some((Ok(event), Some(resumed))),
                Ok(None) => None,
                Err(e) => Some((Err(Status::out_of_range(e.to_string())), None)),
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn list_sessions(
        &self,
        _request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let sessions = self.registry.sessions();
        let one = |s: &Arc<SessionHandle>| describe(s, &self.registry.conditions);
        let sessions = sessions.iter().map(one).collect();
        Ok(Response::new(ListSessionsResponse { sessions }))
    }

    async fn list_annotations(
        &self,
        request: Request<ListAnnotationsRequest>,
    ) -> Result<Response<ListAnnotationsResponse>, Status> {
        let session = self.find(&request.into_inner().session)?;
        let annotations = session.annotations.held();
        Ok(Response::new(ListAnnotationsResponse { annotations }))
    }
}
