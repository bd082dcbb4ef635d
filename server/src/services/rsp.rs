//! `chancery.v1.RspService`.

use std::sync::Arc;

use domain::ReasonCode;
use proto::v1;
use proto::v1::rsp_service_server::RspService;
use tonic::{Request, Response, Status};

use crate::gate::{Gate, OnRepeat};
use crate::status::ServiceError;

#[derive(Clone)]
pub(crate) struct RspApi {
    pub(crate) gate: Arc<Gate>,
}

#[tonic::async_trait]
impl RspService for RspApi {
    async fn initiate_authentication(
        &self,
        request: Request<v1::InitiateAuthenticationRequest>,
    ) -> Result<Response<v1::InitiateAuthenticationResponse>, Status> {
        self.gate.unary(request, OnRepeat::Stored, |_, _| async { Err(no_key()) }).await
    }

    async fn authenticate_client(
        &self,
        request: Request<v1::AuthenticateClientRequest>,
    ) -> Result<Response<v1::AuthenticateClientResponse>, Status> {
        self.gate.unary(request, OnRepeat::Stored, |_, _| async { Err(no_key()) }).await
    }

    async fn bind_profile(
        &self,
        request: Request<v1::BindProfileRequest>,
    ) -> Result<Response<v1::BindProfileResponse>, Status> {
        self.gate.unary(request, OnRepeat::Stored, |_, _| async { Err(no_key()) }).await
    }
}

/// No key can be registered yet.
fn no_key() -> ServiceError {
    ServiceError::refused(ReasonCode::UnknownRspKey, "no RSP key is registered for you")
}
