//! `chancery.v1.CertificateService`.

use std::sync::Arc;

use domain::ReasonCode;
use proto::v1;
use proto::v1::certificate_service_server::CertificateService;
use proto::v1::get_certificate_request::By;
use tonic::{Request, Response, Status};

use crate::gate::{Completed, Gate, OnRepeat};
use crate::status::ServiceError;

#[derive(Clone)]
pub(crate) struct CertificateApi {
    pub(crate) gate: Arc<Gate>,
    pub(crate) ca: ca::Engines,
}

#[tonic::async_trait]
impl CertificateService for CertificateApi {
    async fn get_certificate(
        &self,
        request: Request<v1::GetCertificateRequest>,
    ) -> Result<Response<v1::GetCertificateResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |_, message| async move {
                let store = self.ca.store.as_ref();
                let found = match &message.by {
                    Some(By::SerialNumber(serial)) => ca::find_by_serial(store, serial)?,
                    Some(By::Eid(eid)) => {
                        let eid = eid.parse().map_err(|e: domain::EidError| {
                            ServiceError::refused(ReasonCode::InvalidEid, e.to_string())
                        })?;
                        ca::find_by_eid(store, &eid)?
                    }
                    None => {
                        return Err(ServiceError::refused(
                            ReasonCode::InvalidField,
                            "name a serial_number or an eid",
                        ));
                    }
                };
                let found = found.ok_or_else(|| {
                    ServiceError::refused(ReasonCode::UnknownCertificate, "there is no such certificate")
                })?;
                let issuer = self.ca.issuers.find(store, &found.issuer)?;
                let answer = v1::GetCertificateResponse {
                    certificate: found.der,
                    issuer_certificate: issuer.certificate()?.der().to_vec(),
                    profile: found.profile,
                    state: found.state,
                };
                Ok(Completed::read(answer))
            })
            .await
    }
}
