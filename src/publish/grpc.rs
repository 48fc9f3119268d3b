//! Decisions and events over gRPC.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use futures_util::stream::{BoxStream, SelectAll, select_all, unfold};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::bus::{Bus, Calibration, CalibrationState, EventsError, SessionBus};
use super::conditions::Conditions;
use super::resumed::Resumed;
use crate::wire;
use crate::wire::regimes_server::Regimes;
use crate::wire::{
    Accounts, Clock, DecisionUpdate, Event, ListSessionsRequest, ListSessionsResponse, Session,
    SessionState, Source, SubscribeDecisionsRequest, SubscribeEventsRequest,
};

/// The service.
pub struct RegimesService {
    /// Where decisions come from.
    pub bus: Arc<Bus>,
}

impl RegimesService {
    fn find(&self, name: &str) -> Result<Arc<SessionBus>, Status> {
        self.bus.find(name).map_err(Status::not_found)
    }
}

fn calibration(of: &Calibration) -> wire::Calibration {
    let state = match of.state {
        CalibrationState::Given => wire::CalibrationState::Given,
        CalibrationState::Gathering => wire::CalibrationState::Gathering,
        CalibrationState::Fitting => wire::CalibrationState::Fitting,
        CalibrationState::Done => wire::CalibrationState::Done,
        CalibrationState::NotTrusted => wire::CalibrationState::NotTrusted,
        CalibrationState::Failed => wire::CalibrationState::Failed,
    };
    wire::Calibration {
        state: state.into(),
        seconds_seen: of.seconds_seen,
        seconds_needed: of.seconds_needed,
        problem: of.problem.clone().unwrap_or_default(),
    }
}

/// Updates of one session.
fn updates(bus: &Arc<SessionBus>, every: u64) -> BoxStream<'static, DecisionUpdate> {
    let updates = unfold(bus.subscribe(every), move |mut subscription| async move {
        loop {
            let update = subscription.next_in_turn().await?;
            if let Some(decision) = update.decision() {
                let decision = Some(decision.clone());
                let sent = DecisionUpdate { decision, lost: subscription.lost() };
                return Some((sent, subscription));
            }
        }
    });
    Box::pin(updates)
}

/// Updates of one session or, where `begun` tells of new ones, of all.
struct All {
    merged: SelectAll<BoxStream<'static, DecisionUpdate>>,
    names: Vec<String>,
    begun: Option<watch::Receiver<u64>>,
    bus: Arc<Bus>,
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
                    let sessions = self.bus.sessions();
                    self.names.retain(|n| sessions.iter().any(|s| s.name() == n));
                    for session in &sessions {
                        if !self.names.iter().any(|n| n == session.name()) {
                            self.names.push(session.name().to_owned());
                            self.merged.push(updates(session, self.every));
                        }
                    }
                }
                () = self.bus.closed() => return None,
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
        let mut begun = self.bus.begun();
        begun.borrow_and_update();
        let (sessions, begun) = if session.is_empty() {
            (self.bus.sessions(), Some(begun))
        } else {
            (vec![self.find(&session)?], None)
        };
        let names = sessions.iter().map(|s| s.name().to_owned()).collect();
        let merged = select_all(sessions.iter().map(|bus| updates(bus, every)));
        let state = All { merged, names, begun, bus: self.bus.clone(), every };
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
        // Said at once where it can be.
        let resumed = Resumed::after(&self.bus, session, after_event_sequence);
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
        let sessions = self.bus.sessions();
        let one = |s: &Arc<SessionBus>| described(s, &self.bus.conditions);
        let sessions = sessions.iter().filter_map(one).collect();
        Ok(Response::new(ListSessionsResponse { sessions }))
    }
}

/// A session as the wire tells it; `None` before it has an entrance.
#[must_use]
pub fn described(bus: &SessionBus, conditions: &Conditions) -> Option<Session> {
    let entry = bus.entry()?;
    let facts = bus.facts();
    let (bins, last_event_sequence) = bus.totals();
    let totals = entry.port.totals();
    let (offset, drift, jumps) = entry.port.clock();
    let state = if bus.is_ended() {
        SessionState::Stopped
    } else if entry.port.is_paused() {
        SessionState::Paused
    } else {
        SessionState::Running
    };
    Some(Session {
        name: facts.name.clone(),
        n_channels: facts.n_channels as u32,
        bin_width_s: facts.bin_width_s,
        regime_names: facts.regime_names.clone(),
        model: facts.model.clone(),
        bins,
        bins_missing: totals.missing,
        last_event_sequence,
        calibration: Some(calibration(&bus.calibration())),
        state: state.into(),
        source: entry.source.as_ref().map(|s| Source {
            description: s.what.clone(),
            connected: s.is_connected(),
            loss_accounting: s.loss.name().to_owned(),
        }),
        accounts: Some(Accounts {
            bins_received: totals.received,
            bins_accepted: totals.accepted,
            bins_late: totals.late,
            bins_rejected: totals.rejected,
            bins_waiting: totals.waiting,
        }),
        conditions: conditions
            .holding()
            .into_iter()
            .filter(|held| held.session == facts.name)
            .map(|held| wire::Condition {
                name: held.condition.name().to_owned(),
                detail: held.detail,
                since_ns: held.since_ns,
            })
            .collect(),
        clock: offset.map(|offset_s| Clock { offset_s, drift, jumps }),
    })
}
