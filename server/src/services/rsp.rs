//! `chancery.v1.RspService`.

use std::sync::Arc;

use domain::ReasonCode;
use hsm::{CallOptions, Priority};
use keys::bsp::ProfileProtection;
use keys::rsp::{AuthenticateServerResponse, EuiccInfo1, PrepareDownloadResponse, RspObjectError, TEXT_MAX};
use kms::Provisioner;
use kms::rsp::{Authentication, Binding, Initiation, PackageRequest, Transaction};
use proto::v1;
use proto::v1::rsp_service_server::RspService;
use tonic::{Request, Response, Status};

use crate::deeds::parse_eid;
use crate::gate::{Call, Completed, Gate, OnRepeat};
use crate::rsp::{RspDesk, ServerKeys};
use crate::status::ServiceError;

#[derive(Clone)]
pub(crate) struct RspApi {
    pub(crate) gate: Arc<Gate>,
    pub(crate) desk: RspDesk,
}

#[tonic::async_trait]
impl RspService for RspApi {
    async fn initiate_authentication(
        &self,
        request: Request<v1::InitiateAuthenticationRequest>,
    ) -> Result<Response<v1::InitiateAuthenticationResponse>, Status> {
        self.gate
            .unary(
                request,
                OnRepeat::Stored,
                |call, message| async move { self.initiate(&call, &message).await },
            )
            .await
    }

    async fn authenticate_client(
        &self,
        request: Request<v1::AuthenticateClientRequest>,
    ) -> Result<Response<v1::AuthenticateClientResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |call, message| async move {
                self.authenticate(&call, &message).await
            })
            .await
    }

    async fn sign_euicc_package(
        &self,
        request: Request<v1::SignEuiccPackageRequest>,
    ) -> Result<Response<v1::SignEuiccPackageResponse>, Status> {
        self.gate
            .unary(
                request,
                OnRepeat::Stored,
                |call, message| async move { self.package(&call, &message).await },
            )
            .await
    }

    async fn bind_profile(
        &self,
        request: Request<v1::BindProfileRequest>,
    ) -> Result<Response<v1::BindProfileResponse>, Status> {
        // Decided again each time, though the sealed answer itself is kept with the transaction: nothing leaves after a freeze.
        self.gate
            .unary(
                request,
                OnRepeat::MadeAgain,
                |call, message| async move { self.bind(&call, &message).await },
            )
            .await
    }
}

impl RspApi {
    async fn package(
        &self,
        call: &Call,
        message: &v1::SignEuiccPackageRequest,
    ) -> Result<Completed<v1::SignEuiccPackageResponse>, ServiceError> {
        let (engines, caller) = (self.desk.engines()?, provisioner(call)?);
        let key = self.desk.eim_key(&caller.name, &message.eim_id)?;
        let request = PackageRequest {
            eid: parse_eid(&message.eid)?,
            package: message.euicc_package.clone(),
            eim_transaction_id: message.eim_transaction_id.clone(),
            association_token: message.association_token,
            purpose: message.purpose.clone(),
            request_digest: call.request_digest,
        };
        let (commit, signed) = kms::rsp::sign_package(
            engines,
            &call.pseudonyms,
            &caller,
            &request,
            &key,
            call.now,
            options(call),
        )
        .await?;
        let answer = v1::SignEuiccPackageResponse {
            euicc_package_signed: signed.euicc_package_signed,
            eim_signature: signed.eim_signature.to_vec(),
            counter: signed.counter,
            entry_index: 0,
        };
        Ok(Completed::deed(commit, answer))
    }

    async fn initiate(
        &self,
        call: &Call,
        message: &v1::InitiateAuthenticationRequest,
    ) -> Result<Completed<v1::InitiateAuthenticationResponse>, ServiceError> {
        let (engines, caller) = (self.desk.engines()?, provisioner(call)?);
        let euicc_challenge = fixed("euicc_challenge", &message.euicc_challenge)?;
        let info = EuiccInfo1::parse(&message.euicc_info1).map_err(not_read)?;
        if message.server_address.len() > TEXT_MAX {
            return Err(ServiceError::refused(ReasonCode::InvalidField, "server_address is too long"));
        }
        // 1. Keys for this address, and a certificate issuer that both sides know.
        let ServerKeys { auth, pb, ci_key_id } =
            self.desk.server_keys(&caller.name, &message.server_address, &info, call.now)?;
        let request = Initiation {
            euicc_challenge,
            purpose: message.purpose.clone(),
            ci_key_id: ci_key_id.clone(),
            request_digest: call.request_digest,
        };
        let (commit, initiated) = kms::rsp::initiate(
            engines,
            &call.pseudonyms,
            &caller,
            &request,
            (&auth.key, &pb.key),
            call.now,
            options(call),
        )
        .await?;
        let answer = v1::InitiateAuthenticationResponse {
            transaction_id: initiated.transaction_id.0.to_vec(),
            server_signed1: initiated.server_signed1,
            server_signature1: initiated.server_signature1.to_vec(),
            ci_key_id,
            server_certificate: auth.certificate.der().to_vec(),
            entry_index: 0,
        };
        Ok(Completed::deed(commit, answer))
    }

    async fn authenticate(
        &self,
        call: &Call,
        message: &v1::AuthenticateClientRequest,
    ) -> Result<Completed<v1::AuthenticateClientResponse>, ServiceError> {
        let (engines, caller) = (self.desk.engines()?, provisioner(call)?);
        let code_digest = match &message.confirmation_code_digest[..] {
            [] => None,
            digest => Some(fixed("confirmation_code_digest", digest)?),
        };
        let response =
            AuthenticateServerResponse::parse(&message.authenticate_server_response).map_err(not_read)?;
        // 5. The transaction, and the eUICC's certificates.
        let store = engines.store.as_ref();
        let transaction = Transaction::find(store, &caller.name, &message.transaction_id, call.now)?;
        let euicc = match response {
            AuthenticateServerResponse::Accepted(euicc) => euicc,
            AuthenticateServerResponse::Refused(code) => {
                return Err(refused_by_euicc("authenticateErrorCode", code));
            }
        };
        let pb = self.desk.pb_key(&caller.name, &transaction, call.now)?;
        let proved = self.desk.euicc(&pb, &euicc, call.now)?;
        let matching_id = euicc.matching_id.clone();
        let request = Authentication {
            euicc: *euicc,
            code_digest,
            purpose: message.purpose.clone(),
            request_digest: call.request_digest,
        };
        let (commit, authenticated) = kms::rsp::authenticate(
            engines,
            &call.pseudonyms,
            &caller,
            &transaction,
            &request,
            (&proved, &pb.key),
            call.now,
            options(call),
        )
        .await?;
        let answer = v1::AuthenticateClientResponse {
            eid: proved.eid.to_string(),
            matching_id,
            smdp_signed2: authenticated.smdp_signed2,
            smdp_signature2: authenticated.smdp_signature2.to_vec(),
            smdp_certificate: pb.certificate.der().to_vec(),
            revoked_serial_numbers: authenticated
                .warned
                .iter()
                .map(|row| ca::serial_of(row).to_vec())
                .collect(),
            entry_index: 0,
        };
        Ok(Completed::deed(commit, answer))
    }

    async fn bind(
        &self,
        call: &Call,
        message: &v1::BindProfileRequest,
    ) -> Result<Completed<v1::BindProfileResponse>, ServiceError> {
        let (engines, caller) = (self.desk.engines()?, provisioner(call)?);
        let protection = match message.protection() {
            v1::ProfileProtection::SessionKeys => ProfileProtection::SessionKeys,
            v1::ProfileProtection::ProfileKeys => ProfileProtection::ProfileKeys,
            v1::ProfileProtection::Unspecified => {
                return Err(ServiceError::refused(
                    ReasonCode::InvalidField,
                    "protection is session keys or profile keys",
                ));
            }
        };
        let response =
            PrepareDownloadResponse::parse(&message.prepare_download_response).map_err(not_read)?;
        // 10. The transaction, and its certificates once more.
        let store = engines.store.as_ref();
        let transaction = Transaction::find(store, &caller.name, &message.transaction_id, call.now)?;
        let euicc = match response {
            PrepareDownloadResponse::Accepted(euicc) => *euicc,
            PrepareDownloadResponse::Refused(code) => {
                return Err(refused_by_euicc("downloadErrorCode", code));
            }
        };
        let (ci_key_id, serials) = (transaction.ci_key_id(), transaction.serial_numbers());
        let accepted = transaction.revoked_serial_numbers();
        let unchanged = ca::still_in_force(store, ci_key_id, serials, accepted, call.now)?;
        let pb = self.desk.pb_key(&caller.name, &transaction, call.now)?;
        let request = Binding {
            euicc,
            host_id: message.host_id.clone(),
            protection,
            purpose: message.purpose.clone(),
            request_id: message.idempotency_key.clone(),
            request_digest: call.request_digest,
            unchanged,
        };
        let (commit, bound) = kms::rsp::bind(
            engines,
            &call.pseudonyms,
            &caller,
            &transaction,
            &request,
            &pb.key,
            call.now,
            options(call),
        )
        .await?;
        let answer = v1::BindProfileResponse {
            initialise_secure_channel: bound.initialise_secure_channel,
            encapsulated_key: bound.encapsulated_key,
            ciphertext: bound.ciphertext,
            entry_index: 0,
            request_id: bound.request_id,
        };
        Ok(Completed::deed(commit, answer))
    }
}

fn provisioner(call: &Call) -> Result<Provisioner, ServiceError> {
    let party = call.caller.party()?;
    let encryption_key =
        party.encryption_key.ok_or(ServiceError::Internal("a provisioner has no encryption key"))?;
    Ok(Provisioner { name: party.name.clone(), principal: call.caller.principal(), encryption_key })
}

fn options(call: &Call) -> CallOptions {
    CallOptions { deadline: call.deadline, priority: Priority::Normal }
}

fn fixed<const N: usize>(field: &str, bytes: &[u8]) -> Result<[u8; N], ServiceError> {
    bytes
        .try_into()
        .map_err(|_| ServiceError::refused(ReasonCode::InvalidField, format!("{field} has {N} bytes")))
}

fn not_read(error: RspObjectError) -> ServiceError {
    ServiceError::refused(ReasonCode::InvalidField, error.to_string())
}

fn refused_by_euicc(field: &str, code: u32) -> ServiceError {
    ServiceError::refused(
        ReasonCode::EuiccReportedError,
        format!("the eUICC answered with {field} {code}; begin a new transaction"),
    )
}
