//! Sessions at run time, over gRPC. Each call runs in a task of its own, to its end, even when its
//! client no longer waits.

use std::future::Future;
use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::sessions::Sessions;
use crate::tasks;
use crate::wire::control_server::Control;
use crate::wire::{
    AnnotateRequest, Annotation, ArmTriggersRequest, PauseSessionRequest, ResumeSessionRequest,
    SeekRequest, Session, StartSessionRequest, StopSessionRequest, SwapModelRequest,
};

pub(super) struct ControlService(pub(super) Arc<Sessions>);

/// Runs a call to its end.
async fn done<F, T>(call: F) -> Result<Response<T>, Status>
where
    F: Future<Output = anyhow::Result<T>> + Send + 'static,
    T: Send + 'static,
{
    match tasks::spawn(call).await {
        Ok(Ok(session)) => Ok(Response::new(session)),
        Ok(Err(e)) => Err(Status::failed_precondition(format!("{e:#}"))),
        Err(_) => Err(Status::unavailable("the daemon is shutting down")),
    }
}

#[tonic::async_trait]
impl Control for ControlService {
    async fn start_session(
        &self,
        request: Request<StartSessionRequest>,
    ) -> Result<Response<Session>, Status> {
        let sessions = self.0.clone();
        done(async move { sessions.start(&request.into_inner().config).await }).await
    }

    async fn stop_session(
        &self,
        request: Request<StopSessionRequest>,
    ) -> Result<Response<Session>, Status> {
        let sessions = self.0.clone();
        done(async move { sessions.stop(&request.into_inner().session).await }).await
    }

    async fn pause_session(
        &self,
        request: Request<PauseSessionRequest>,
    ) -> Result<Response<Session>, Status> {
        let sessions = self.0.clone();
        done(async move { sessions.pause(&request.into_inner().session, true) }).await
    }

    async fn resume_session(
        &self,
        request: Request<ResumeSessionRequest>,
    ) -> Result<Response<Session>, Status> {
        let sessions = self.0.clone();
        done(async move { sessions.pause(&request.into_inner().session, false) }).await
    }

    async fn swap_model(
        &self,
        request: Request<SwapModelRequest>,
    ) -> Result<Response<Session>, Status> {
        let sessions = self.0.clone();
        done(async move { sessions.swap(request.into_inner()).await }).await
    }

    async fn seek(&self, request: Request<SeekRequest>) -> Result<Response<Session>, Status> {
        let sessions = self.0.clone();
        let SeekRequest { session, position_s } = request.into_inner();
        done(async move { sessions.seek(&session, position_s) }).await
    }

    async fn arm_triggers(
        &self,
        request: Request<ArmTriggersRequest>,
    ) -> Result<Response<Session>, Status> {
        let sessions = self.0.clone();
        let ArmTriggersRequest { session, armed } = request.into_inner();
        done(async move { sessions.arm(&session, armed) }).await
    }

    async fn annotate(
        &self,
        request: Request<AnnotateRequest>,
    ) -> Result<Response<Annotation>, Status> {
        let sessions = self.0.clone();
        done(async move { sessions.annotate(&request.into_inner()) }).await
    }
}
