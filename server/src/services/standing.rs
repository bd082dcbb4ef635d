//! `chancery.v1.StandingService`.

use std::sync::Arc;

use proto::v1;
use proto::v1::standing_service_server::StandingService;
use tonic::{Request, Response, Status};

use crate::authority::Authority;
use crate::gate::{Completed, Gate, OnRepeat};
use crate::standing;

#[derive(Clone)]
pub(crate) struct StandingApi {
    pub(crate) gate: Arc<Gate>,
    pub(crate) authority: Arc<Authority>,
}

#[tonic::async_trait]
impl StandingService for StandingApi {
    async fn suspend_party(
        &self,
        request: Request<v1::SuspendPartyRequest>,
    ) -> Result<Response<v1::SuspendPartyResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |call, message| async move {
                let commit = standing::suspend_party(&self.authority, &call, &message.name)?;
                Ok(Completed::deed(commit, v1::SuspendPartyResponse::default()))
            })
            .await
    }
}
