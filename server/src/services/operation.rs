//! `chancery.v1.OperationService`.

use std::sync::Arc;

use proto::v1;
use proto::v1::operation_service_server::OperationService;
use tokio::sync::Notify;
use tonic::{Request, Response, Status};

use crate::gate::{Completed, Gate, OnRepeat};
use crate::operations::Operations;
use crate::status::ServiceError;

#[derive(Clone)]
pub(crate) struct OperationApi {
    pub(crate) gate: Arc<Gate>,
    pub(crate) operations: Arc<Operations>,
    /// Told after each execution, so that a revocation list follows a revocation at once.
    pub(crate) revoked: Arc<Notify>,
}

#[tonic::async_trait]
impl OperationService for OperationApi {
    async fn request_operation(
        &self,
        request: Request<v1::RequestOperationRequest>,
    ) -> Result<Response<v1::RequestOperationResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |call, message| async move {
                self.operations.request(&call, &message)
            })
            .await
    }

    async fn list_operations(
        &self,
        request: Request<v1::ListOperationsRequest>,
    ) -> Result<Response<v1::ListOperationsResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |_, message| async move {
                Ok(Completed::read(self.operations.list(&message)?))
            })
            .await
    }

    async fn get_operation(
        &self,
        request: Request<v1::GetOperationRequest>,
    ) -> Result<Response<v1::GetOperationResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |_, message| async move {
                Ok(Completed::read(self.operations.get(&message)?))
            })
            .await
    }

    async fn decide_operation(
        &self,
        request: Request<v1::DecideOperationRequest>,
    ) -> Result<Response<v1::DecideOperationResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |call, message| async move {
                self.operations.decide(&call, &message).await
            })
            .await
    }

    async fn execute_operation(
        &self,
        request: Request<v1::ExecuteOperationRequest>,
    ) -> Result<Response<v1::ExecuteOperationResponse>, Status> {
        // In a task of its own: a caller that hangs up must not stop it between intent and outcome.
        let api = self.clone();
        let execution = tokio::spawn(async move {
            let operations = &api.operations;
            let answer = api
                .gate
                .unary(request, OnRepeat::Stored, |call, message| async move {
                    operations.execute(&call, &message).await
                })
                .await;
            api.revoked.notify_one();
            answer
        });
        execution.await.unwrap_or_else(|_| {
            Err(ServiceError::Internal("the execution ended without an answer").verdict().into_status(None))
        })
    }
}
