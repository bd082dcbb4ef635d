//! `chancery.v1.TransportKeyService`.

use std::sync::Arc;

use domain::{ReasonCode, Timestamp};
use kms::{MasterRecord, TransportKey, TransportKeyState, TransportMaterial};
use proto::v1;
use proto::v1::transport_key_service_server::TransportKeyService;
use tonic::{Request, Response, Status};

use crate::gate::{Completed, Gate, OnRepeat};
use crate::operations::timestamp;
use crate::status::ServiceError;

#[derive(Clone)]
pub(crate) struct TransportKeyApi {
    pub(crate) gate: Arc<Gate>,
    pub(crate) kms: kms::Engines,
}

#[tonic::async_trait]
impl TransportKeyService for TransportKeyApi {
    async fn list_transport_keys(
        &self,
        request: Request<v1::ListTransportKeysRequest>,
    ) -> Result<Response<v1::ListTransportKeysResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |call, message| async move {
                // A party sees its own.
                let own = call.caller.party().ok().map(|party| party.name.clone());
                let party = match (own, message.party.as_str()) {
                    (Some(own), asked) if !asked.is_empty() && asked != own => {
                        return Err(ServiceError::refused(
                            ReasonCode::UnknownParty,
                            "a party sees its own transport keys",
                        ));
                    }
                    (Some(own), _) => Some(own),
                    (None, "") => None,
                    (None, asked) => Some(asked.to_owned()),
                };
                let all = TransportKey::all(self.kms.store.as_ref(), party.as_deref())?;
                let keys = all.iter().map(|key| self::message(key, key.state(&all, call.now))).collect();
                Ok(Completed::read(v1::ListTransportKeysResponse { keys }))
            })
            .await
    }

    async fn fetch_keyset_export(
        &self,
        request: Request<v1::FetchKeysetExportRequest>,
    ) -> Result<Response<v1::FetchKeysetExportResponse>, Status> {
        // The stored answer of a repeat holds nothing that the party alone cannot open.
        self.gate
            .unary(request, OnRepeat::Stored, |call, message| async move {
                let actor = call.pseudonyms.principal(&call.caller.principal());
                let who = (call.caller.party()?.name.as_str(), call.caller.role(), actor);
                let store = self.kms.store.as_ref();
                let fetched = kms::fetch_export(store, &call.pseudonyms, who, &message.operation, call.now)?;
                Ok(Completed::deed(fetched.commit, export_message(fetched.record)))
            })
            .await
    }

    async fn list_masters(
        &self,
        request: Request<v1::ListMastersRequest>,
    ) -> Result<Response<v1::ListMastersResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |_, _| async move {
                let store = self.kms.store.as_ref();
                let founding = ca::KeyRegistration::all(store)?
                    .into_iter()
                    .filter(|key| key.key.role.is_master())
                    .filter_map(|key| self.kms.masters.founding_generation(&key.key.key).map(|at| (at, key)))
                    .map(|(generation, key)| v1::Master {
                        generation: generation.0,
                        name: key.key.key.label.clone(),
                        role: key.key.role.as_str().to_owned(),
                        key_check_value: match key.key.check {
                            hsm::KeyCheck::CheckValue(value) => value.to_vec(),
                            hsm::KeyCheck::PublicKey(_) => Vec::new(),
                        },
                        schemes: vec![kms::OUR_SCHEME.to_owned()],
                        backup: backup_statement(&key.backup),
                    });
                let registered = MasterRecord::all(store)?.into_iter().map(|master| v1::Master {
                    generation: master.generation.0,
                    name: master.name,
                    role: master.role.as_str().to_owned(),
                    key_check_value: master.key_check_value.0.to_vec(),
                    schemes: master.schemes,
                    backup: master.backup,
                });
                let masters = founding.chain(registered).collect();
                Ok(Completed::read(v1::ListMastersResponse { masters }))
            })
            .await
    }
}

fn export_message(record: proto::records::KeysetExport) -> v1::FetchKeysetExportResponse {
    let keys = record.wrapped_keys.into_iter().zip(record.key_check_values);
    v1::FetchKeysetExportResponse {
        eid: hex::encode(record.eid),
        keyset: Some(v1::KeysetName {
            security_domain: record.security_domain,
            protocol: record.protocol,
            key_version_number: record.key_version_number,
        }),
        key_bits: record.key_bits,
        transport_key: record.transport_key,
        wrapped_transport_key: record.wrapped_transport_key,
        oaep_hash: record.oaep_hash,
        keys: keys.map(|(wrapped, key_check_value)| v1::WrappedKey { wrapped, key_check_value }).collect(),
        entry_index: 0,
    }
}

/// How a key is restored when its token is lost.
pub(crate) fn backup_statement(recorded: &str) -> String {
    if recorded.is_empty() { "the vendor's clone of the token".to_owned() } else { recorded.to_owned() }
}

fn message(key: &TransportKey, state: TransportKeyState) -> v1::TransportKey {
    let (algorithm, key_check_value, public_key) = match &key.material {
        TransportMaterial::Rsa(spki) => {
            let bits = pki::TransportPublicKey::parse(spki).map_or(0, |key| key.modulus().len() * 8);
            (format!("RSA-{bits}"), Vec::new(), spki.clone())
        }
        TransportMaterial::Aes { key_check_value, .. }
        | TransportMaterial::Import { key_check_value, .. } => {
            ("AES-256".to_owned(), key_check_value.0.to_vec(), Vec::new())
        }
    };
    let time = |time: Timestamp| Some(timestamp(time));
    v1::TransportKey {
        party: key.party.clone(),
        name: key.name.clone(),
        number: key.number,
        algorithm,
        key_check_value,
        public_key,
        incoming: matches!(key.material, TransportMaterial::Import { .. }),
        registered: time(key.registered),
        expires: time(key.expires),
        state: match state {
            TransportKeyState::InForce => v1::TransportKeyState::InForce,
            TransportKeyState::Followed => v1::TransportKeyState::Followed,
            TransportKeyState::Expired => v1::TransportKeyState::Expired,
            TransportKeyState::Retired => v1::TransportKeyState::Retired,
        }
        .into(),
        backup: key.backup.clone(),
    }
}
