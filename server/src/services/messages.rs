//! Which requests carry an idempotency key and which answers an entry index.

use proto::v1;

use crate::gate::{Indexed, Keyed};

macro_rules! keyed {
    ($($message:ty),*) => { $( impl Keyed for $message {
        fn idempotency_key(&self) -> Option<&str> {
            Some(&self.idempotency_key)
        }
    } )* };
}

macro_rules! unkeyed {
    ($($message:ty),*) => { $( impl Keyed for $message {
        fn idempotency_key(&self) -> Option<&str> {
            None
        }
    } )* };
}

macro_rules! indexed {
    ($($message:ty),*) => { $( impl Indexed for $message {
        fn set_entry_index(&mut self, index: u64) {
            self.entry_index = index;
        }
    } )* };
}

macro_rules! unindexed {
    ($($message:ty),*) => { $( impl Indexed for $message {
        fn set_entry_index(&mut self, _index: u64) {}
    } )* };
}

keyed!(
    v1::RequestOperationRequest,
    v1::DecideOperationRequest,
    v1::ExecuteOperationRequest,
    v1::ConfirmOrderOutputRequest,
    v1::FetchSessionKeysRequest,
    v1::FetchTlsSecretRequest,
    v1::HoldCertificateRequest,
    v1::AdoptCertificatesRequest,
    v1::PublishAnchorListRequest,
    v1::MakeCertificationRequestRequest,
    v1::RegisterCardKeysRequest,
    v1::FetchScp11KeysRequest,
    v1::InitiateAuthenticationRequest,
    v1::AuthenticateClientRequest,
    v1::BindProfileRequest,
    v1::SignEuiccPackageRequest,
    v1::SecurePacketRequest,
    v1::WrapScriptRequest,
    v1::FreezeDeviceRequest,
    v1::SuspendKeysetRequest,
    v1::PauseRotationRequest,
    v1::ResumeRotationRequest,
    v1::FetchRotationScriptsRequest,
    v1::ReportRotationRequest,
    v1::FetchDeletionScriptsRequest,
    v1::ReportDeletionsRequest,
    v1::SuspendPartyRequest,
    v1::FetchKeysetExportRequest
);
unkeyed!(
    v1::OpenScp11SessionRequest,
    v1::OpenResponseRequest,
    v1::FetchOrderReceiptRequest,
    v1::ListOperationsRequest,
    v1::GetOperationRequest,
    v1::GetCertificateRequest,
    v1::ListCertificatesRequest,
    v1::ListAnchorsRequest,
    v1::ListImportedCertificatesRequest,
    v1::VerifyCertificateRequest,
    v1::GetCheckpointRequest,
    v1::GetDeviceRequest,
    v1::ListKeysetsRequest,
    v1::ShowKeysetRequest,
    v1::ReconcileInventoryRequest,
    v1::PlanRotationRequest,
    v1::ListRotationsRequest,
    v1::GetRotationRequest,
    v1::ListTransportKeysRequest,
    v1::ListMastersRequest
);
indexed!(
    v1::RequestOperationResponse,
    v1::DecideOperationResponse,
    v1::ExecuteOperationResponse,
    v1::ConfirmOrderOutputResponse,
    v1::FetchOrderReceiptResponse,
    v1::FetchSessionKeysResponse,
    v1::FetchTlsSecretResponse,
    v1::HoldCertificateResponse,
    v1::AdoptCertificatesResponse,
    v1::PublishAnchorListResponse,
    v1::MakeCertificationRequestResponse,
    v1::RegisterCardKeysResponse,
    v1::FetchScp11KeysResponse,
    v1::InitiateAuthenticationResponse,
    v1::AuthenticateClientResponse,
    v1::BindProfileResponse,
    v1::SignEuiccPackageResponse,
    v1::SecurePacketResponse,
    v1::WrapScriptResponse,
    v1::OpenResponseResponse,
    v1::FreezeDeviceResponse,
    v1::SuspendKeysetResponse,
    v1::PauseRotationResponse,
    v1::ResumeRotationResponse,
    v1::FetchRotationScriptsResponse,
    v1::ReportRotationResponse,
    v1::FetchDeletionScriptsResponse,
    v1::ReportDeletionsResponse,
    v1::SuspendPartyResponse,
    v1::FetchKeysetExportResponse
);
unindexed!(
    v1::OpenScp11SessionResponse,
    v1::ListOperationsResponse,
    v1::GetOperationResponse,
    v1::GetCertificateResponse,
    v1::ListCertificatesResponse,
    v1::ListAnchorsResponse,
    v1::ListImportedCertificatesResponse,
    v1::VerifyCertificateResponse,
    v1::GetCheckpointResponse,
    v1::GetDeviceResponse,
    v1::ListKeysetsResponse,
    v1::ShowKeysetResponse,
    v1::ReconcileInventoryResponse,
    v1::PlanRotationResponse,
    v1::ListRotationsResponse,
    v1::GetRotationResponse,
    v1::ListTransportKeysResponse,
    v1::ListMastersResponse
);
