//! Decisions and events over gRPC.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use futures_util::stream::{BoxStream, SelectAll, select_all, unfold};
use tonic::{Request, Response, Status};

use super::bus::{Bus, Calibration, CalibrationState, SessionBus};
use crate::source::Intake;
use crate::wire;
use crate::wire::regimes_server::Regimes;
use crate::wire::{
    DecisionUpdate, Event, ListSessionsRequest, ListSessionsResponse, Session,
    SubscribeDecisionsRequest, SubscribeEventsRequest,
};

/// The service.
pub struct RegimesService {
    /// Where decisions come from.
    pub bus: Arc<Bus>,
    /// For the accounting of what came in.
    pub intake: Arc<Intake>,
}

impl RegimesService {
    fn find(&self, name: &str) -> Result<Arc<SessionBus>, Status> {
        self.bus.session(name).cloned().ok_or_else(|| {
            let known: Vec<&str> =
                self.bus.sessions.iter().map(|s| s.facts().name.as_str()).collect();
            let found: String = name.chars().take(64).collect();
            Status::not_found(format!(
                "expected one of the sessions {}, found '{found}'",
                known.join(", ")
            ))
        })
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

type Sent<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Regimes for RegimesService {
    type SubscribeDecisionsStream = Sent<DecisionUpdate>;

    async fn subscribe_decisions(
        &self,
        request: Request<SubscribeDecisionsRequest>,
    ) -> Result<Response<Self::SubscribeDecisionsStream>, Status> {
        let SubscribeDecisionsRequest { session, every } = request.into_inner();
        let sessions =
            if session.is_empty() { self.bus.sessions.clone() } else { vec![self.find(&session)?] };
        let every = u64::from(every.max(1));
        let merged: SelectAll<BoxStream<'static, DecisionUpdate>> =
            select_all(sessions.into_iter().map(|bus| {
                let updates = unfold(bus.subscribe(), move |mut subscription| async move {
                    loop {
                        let update = subscription.next().await?;
                        if update.decision.bin.is_multiple_of(every) || update.event.is_some() {
                            let decision = Some(update.decision.clone());
                            let sent = DecisionUpdate { decision, lost: subscription.lost() };
                            return Some((sent, subscription));
                        }
                    }
                });
                Box::pin(updates) as BoxStream<'static, DecisionUpdate>
            }));
        let bus = self.bus.clone();
        let stream = unfold((merged, bus), |(mut merged, bus)| async move {
            use futures_util::StreamExt;
            tokio::select! {
                biased;
                update = merged.next() => update.map(|u| (Ok(u), (merged, bus))),
                () = bus.closed() => None,
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }

    type SubscribeEventsStream = Sent<Event>;

    async fn subscribe_events(
        &self,
        request: Request<SubscribeEventsRequest>,
    ) -> Result<Response<Self::SubscribeEventsStream>, Status> {
        let SubscribeEventsRequest { session, after_event_sequence } = request.into_inner();
        let session = self.find(&session)?;
        // Said at once where it can be.
        session
            .event_after(after_event_sequence)
            .map_err(|e| Status::out_of_range(e.to_string()))?;
        let state = Some((session.newest_event(), session, self.bus.clone(), after_event_sequence));
        let stream = unfold(state, |state| async move {
            let (mut newest, session, bus, after) = state?;
            loop {
                newest.borrow_and_update();
                match session.event_after(after) {
                    Ok(Some(event)) => {
                        let after = event.event_sequence;
                        return Some((Ok(event), Some((newest, session, bus, after))));
                    }
                    Ok(None) => {}
                    Err(e) => return Some((Err(Status::out_of_range(e.to_string())), None)),
                }
                tokio::select! {
                    changed = newest.changed() => changed.ok()?,
                    () = bus.closed() => return None,
                }
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn list_sessions(
        &self,
        _request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let sessions = self
            .bus
            .sessions
            .iter()
            .map(|s| {
                let facts = s.facts();
                let (bins, last_event_sequence) = s.totals();
                let missing = self.intake.port(&facts.name).map_or(0, |p| p.totals().1);
                Session {
                    name: facts.name.clone(),
                    n_channels: facts.n_channels as u32,
                    bin_width_s: facts.bin_width_s,
                    regime_names: facts.regime_names.clone(),
                    model: facts.model.clone(),
                    bins,
                    bins_missing: missing,
                    last_event_sequence,
                    calibration: Some(calibration(&s.calibration())),
                }
            })
            .collect();
        Ok(Response::new(ListSessionsResponse { sessions }))
    }
}
