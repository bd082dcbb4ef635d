//! `chancery.v1.KeysetService`.

use std::sync::Arc;

use audit::{EntryDraft, EventType, Fact, Outcome};
use domain::{DeviceState, Eid, ReasonCode, Role, SecurityDomain};
use kms::keysets::{self, Difference};
use kms::{DeviceRecord, GrantFinding, KeysetName, KeysetRecord, KeysetSource};
use proto::v1;
use proto::v1::keyset_details::Source;
use proto::v1::keyset_service_server::KeysetService;
use store::Commit;
use tonic::{Request, Response, Status};

use crate::deeds::parse_eid;
use crate::gate::{Call, Completed, Gate, OnRepeat};
use crate::operations::timestamp;
use crate::status::ServiceError;

/// Keysets of a page when the request names no number.
const PAGE: u32 = 100;

#[derive(Clone)]
pub(crate) struct KeysetApi {
    pub(crate) gate: Arc<Gate>,
    pub(crate) kms: kms::Engines,
}

#[tonic::async_trait]
impl KeysetService for KeysetApi {
    async fn list_keysets(
        &self,
        request: Request<v1::ListKeysetsRequest>,
    ) -> Result<Response<v1::ListKeysetsResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |call, message| async move {
                let eid = self.registered(&message.eid)?;
                let after = message.after.as_ref().map(|name| KeysetName::parse(Some(name))).transpose()?;
                let limit = if message.limit == 0 { PAGE } else { message.limit };
                let limit = usize::try_from(limit).unwrap_or(usize::MAX);
                let (page, more) = keysets::page(self.kms.store.as_ref(), &eid, after.as_ref(), limit)?;
                let keysets = page.iter().map(|(name, keyset)| details(&call, name, keyset)).collect();
                let answer = v1::ListKeysetsResponse { eid: eid.to_string(), keysets, more };
                Ok(Completed::deed(looked_at(&call, &eid), answer))
            })
            .await
    }

    async fn show_keyset(
        &self,
        request: Request<v1::ShowKeysetRequest>,
    ) -> Result<Response<v1::ShowKeysetResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |call, message| async move {
                let eid = self.registered(&message.eid)?;
                let name = KeysetName::parse(message.keyset.as_ref())?;
                let keyset = KeysetRecord::read(self.kms.store.as_ref(), &eid, &name)?.ok_or_else(|| {
                    ServiceError::refused(ReasonCode::UnknownKeyset, "the device has no such keyset")
                })?;
                let keyset = Some(details(&call, &name, &keyset));
                let answer = v1::ShowKeysetResponse { eid: eid.to_string(), keyset };
                Ok(Completed::deed(looked_at(&call, &eid), answer))
            })
            .await
    }

    async fn suspend_keyset(
        &self,
        request: Request<v1::SuspendKeysetRequest>,
    ) -> Result<Response<v1::SuspendKeysetResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |call, message| async move {
                let eid = self.registered(&message.eid)?;
                let name = KeysetName::parse(message.keyset.as_ref())?;
                let who = (call.caller.role(), call.pseudonyms.principal(&call.caller.principal()));
                let commit = keysets::suspend(
                    self.kms.store.as_ref(),
                    &call.pseudonyms,
                    who,
                    (&eid, &name),
                    call.request_digest,
                    call.now,
                )?;
                Ok(Completed::deed(commit, v1::SuspendKeysetResponse::default()))
            })
            .await
    }

    async fn reconcile_inventory(
        &self,
        request: Request<v1::ReconcileInventoryRequest>,
    ) -> Result<Response<v1::ReconcileInventoryResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |call, message| async move { self.reconcile(&call, &message) })
            .await
    }
}

impl KeysetApi {
    /// The device that a message names; one whose order is still under way has no keysets to look at.
    fn registered(&self, eid: &str) -> Result<Eid, ServiceError> {
        let eid = parse_eid(eid)?;
        match DeviceRecord::read(self.kms.store.as_ref(), &eid)? {
            Some(device) if device.state.is_some() => Ok(eid),
            _ => Err(ServiceError::refused(
                ReasonCode::UnknownDevice,
                "no device is registered under this EID",
            )),
        }
    }

    fn reconcile(
        &self,
        call: &Call,
        message: &v1::ReconcileInventoryRequest,
    ) -> Result<Completed<v1::ReconcileInventoryResponse>, ServiceError> {
        let store = self.kms.store.as_ref();
        // The grant first, so that a provisioner learns nothing about devices that are none of its business.
        if call.caller.role() == Role::Provisioner {
            let eid = parse_eid(&message.eid)?;
            let party = &call.caller.party()?.name;
            match self.kms.grants.find(store, party, &eid, &message.purpose, &[], call.now)? {
                GrantFinding::Granted { .. } => {}
                GrantFinding::Lacks(need) => return Err(ServiceError::Refused(need.refusal())),
                GrantFinding::Expired => {
                    return Err(ServiceError::refused(ReasonCode::GrantExpired, "the grant has expired"));
                }
                GrantFinding::NotGranted => {
                    return Err(ServiceError::refused(
                        ReasonCode::NotGranted,
                        "no grant covers this device for this purpose",
                    ));
                }
            }
            if DeviceRecord::read(store, &eid)?.is_some_and(|d| d.state == Some(DeviceState::Frozen)) {
                return Err(ServiceError::refused(ReasonCode::DeviceNotActive, "the device is frozen"));
            }
        }
        let eid = self.registered(&message.eid)?;
        let domain = SecurityDomain::from_code(message.security_domain)
            .map_err(|e| ServiceError::refused(ReasonCode::InvalidField, e.to_string()))?;
        let object = call.pseudonyms.device(&eid);
        let found = keysets::reconcile(store, &eid, domain, &message.key_information, object, call.now)?;
        let who = (call.caller.role(), call.pseudonyms.principal(&call.caller.principal()));
        let entry = keysets::reconciled_entry(who, object, call.request_digest, &found);
        let answer = v1::ReconcileInventoryResponse {
            agreed: found.agreed,
            unmanaged: found.unmanaged,
            findings: found.findings.iter().map(finding).collect(),
        };
        Ok(Completed::deed(Commit::of(vec![entry]), answer))
    }
}

fn looked_at(call: &Call, eid: &Eid) -> Commit {
    let entry = EntryDraft::new(EventType::RecordRead, Outcome::Done)
        .role(call.caller.role())
        .actor(call.pseudonyms.principal(&call.caller.principal()))
        .object(call.pseudonyms.device(eid))
        .request(call.request_digest)
        .fact("record", Fact::fixed_name("keyset"));
    Commit::of(vec![entry])
}

fn details(call: &Call, name: &KeysetName, keyset: &KeysetRecord) -> v1::KeysetDetails {
    v1::KeysetDetails {
        name: Some(name.message()),
        algorithm: keyset.algorithm.as_str().to_owned(),
        state: keyset.state_at(call.now).as_str().to_owned(),
        effective_strength: keyset.effective_strength,
        source: Some(match &keyset.source {
            KeysetSource::Derived { generation, scheme } => Source::Derived(v1::DerivedSource {
                master_generation: generation.0,
                scheme: scheme.name().as_str().to_owned(),
            }),
            KeysetSource::Stored { origin, epoch, .. } => Source::Stored(v1::StoredSource {
                epoch: epoch.0,
                imported: *origin == kms::StoredOrigin::Imported,
            }),
        }),
        delivered_under: keyset.delivered_under.clone(),
        created: Some(timestamp(keyset.created)),
        ends: keyset.ends.map(timestamp),
        check_values: keyset.check_values.iter().map(|value| value.0.to_vec()).collect(),
        rotation: keyset.rotation.clone().unwrap_or_default(),
        taint: keyset.taint.map(|taint| v1::Taint {
            operation: taint.operation.to_vec(),
            time: Some(timestamp(taint.time)),
        }),
    }
}

fn finding(finding: &keysets::InventoryFinding) -> v1::InventoryFinding {
    let key = |key: keysets::InventoryKey| v1::InventoryKey {
        key_type: u32::from(key.key_type),
        bytes: u32::from(key.bytes),
    };
    v1::InventoryFinding {
        difference: match finding.difference {
            Difference::Missing => v1::InventoryDifference::Missing,
            Difference::Extra => v1::InventoryDifference::Extra,
            Difference::WrongLength => v1::InventoryDifference::WrongLength,
            Difference::WrongType => v1::InventoryDifference::WrongType,
        }
        .into(),
        key_version_number: u32::from(finding.kvn),
        key_identifier: u32::from(finding.key_identifier),
        recorded: finding.recorded.map(key),
        on_card: finding.on_card.map(key),
        state: finding.state.map_or_else(String::new, |state| state.as_str().to_owned()),
    }
}
