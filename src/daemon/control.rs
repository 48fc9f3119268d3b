//! Sessions at run time, over gRPC.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::sessions::Sessions;
use crate::wire::control_server::Control;
use crate::wire::{
    PauseSessionRequest, ResumeSessionRequest, SeekRequest, Session, StartSessionRequest,
    StopSessionRequest, SwapModelRequest,
};

/// The service.
pub(super) struct ControlService(pub(super) Arc<Sessions>);

fn answer(result: anyhow::Result<Session>) -> Result<Response<Session>, Status> {
    result.map(Response::new).map_err(|e| Status::failed_precondition(format!("{e:#}")))
}

#[tonic::async_trait]
impl Control for ControlService {
    async fn start_session(
        &self,
        request: Request<StartSessionRequest>,
    ) -> Result<Response<Session>, Status> {
        answer(self.0.start(&request.into_inner().config).await)
    }

    async fn stop_session(
        &self,
        request: Request<StopSessionRequest>,
    ) -> Result<Response<Session>, Status> {
        answer(self.0.stop(&request.into_inner().session).await)
    }

    async fn pause_session(
        &self,
        request: Request<PauseSessionRequest>,
    ) -> Result<Response<Session>, Status> {
        answer(self.0.pause(&request.into_inner().session, true).await)
    }

    async fn resume_session(
        &self,
        request: Request<ResumeSessionRequest>,
    ) -> Result<Response<Session>, Status> {
        answer(self.0.pause(&request.into_inner().session, false).await)
    }

    async fn swap_model(
        &self,
        request: Request<SwapModelRequest>,
    ) -> Result<Response<Session>, Status> {
        answer(self.0.swap(request.into_inner()).await)
    }

    async fn seek(&self, request: Request<SeekRequest>) -> Result<Response<Session>, Status> {
        let SeekRequest { session, position_s } = request.into_inner();
        answer(self.0.seek(&session, position_s).await)
    }
}
