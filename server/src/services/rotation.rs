//! `chancery.v1.RotationService`.

use std::sync::Arc;

use domain::{ReasonCode, Role};
use hsm::{CallOptions, Priority};
use kms::rotation::{
    self, Carrier, Cryptogram, ItemReport, ItemResult, Rotation, RotationPlan, RotationTerms, ScriptsRequest,
};
use proto::v1;
use proto::v1::rotation_service_server::RotationService;
use tonic::{Request, Response, Status};

use crate::deeds::parse_eid;
use crate::gate::{Call, Completed, Gate, OnRepeat};
use crate::operations::timestamp;
use crate::status::ServiceError;

#[derive(Clone)]
pub(crate) struct RotationApi {
    pub(crate) gate: Arc<Gate>,
    pub(crate) kms: kms::Engines,
    pub(crate) rotations: Arc<kms::Turns>,
}

#[tonic::async_trait]
impl RotationService for RotationApi {
    async fn plan_rotation(
        &self,
        request: Request<v1::PlanRotationRequest>,
    ) -> Result<Response<v1::PlanRotationResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |call, message| async move {
                let terms = message
                    .terms
                    .as_ref()
                    .ok_or_else(|| ServiceError::refused(ReasonCode::InvalidField, "terms are missing"))?;
                let terms = RotationTerms::parse(terms)?;
                let store = self.kms.store.as_ref();
                let plan = tokio::task::block_in_place(|| RotationPlan::make(store, &terms, call.now))?;
                Ok(Completed::read(v1::PlanRotationResponse {
                    devices: plan.devices(),
                    stage_devices: plan.stage_devices,
                    excluded: plan
                        .excluded
                        .into_iter()
                        .map(|(reason, devices)| v1::Exclusion {
                            reason: reason.as_str().to_owned(),
                            devices,
                        })
                        .collect(),
                    steps: plan.steps,
                }))
            })
            .await
    }

    async fn list_rotations(
        &self,
        request: Request<v1::ListRotationsRequest>,
    ) -> Result<Response<v1::ListRotationsResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |call, _| async move {
                let own = own(&call)?;
                let rotations = Rotation::all(self.kms.store.as_ref())?
                    .into_iter()
                    .filter(|rotation| own.as_ref().is_none_or(|own| *own == rotation.terms.provisioner))
                    .map(|rotation| {
                        let mut status = rotation.status();
                        // A thousand EIDs each would make a list that no client takes; GetRotation has them.
                        if let Some(terms) = &mut status.terms {
                            terms.eids.clear();
                        }
                        status
                    })
                    .collect();
                Ok(Completed::read(v1::ListRotationsResponse { rotations }))
            })
            .await
    }

    async fn get_rotation(
        &self,
        request: Request<v1::GetRotationRequest>,
    ) -> Result<Response<v1::GetRotationResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |call, message| async move {
                let own = own(&call)?;
                let rotation = Rotation::find(self.kms.store.as_ref(), &message.name, own.as_deref())?;
                Ok(Completed::read(v1::GetRotationResponse { status: Some(rotation.status()) }))
            })
            .await
    }

    async fn pause_rotation(
        &self,
        request: Request<v1::PauseRotationRequest>,
    ) -> Result<Response<v1::PauseRotationResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |call, message| async move {
                let answer = v1::PauseRotationResponse::default();
                self.set_paused(&call, &message.name, true, answer).await
            })
            .await
    }

    async fn resume_rotation(
        &self,
        request: Request<v1::ResumeRotationRequest>,
    ) -> Result<Response<v1::ResumeRotationResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |call, message| async move {
                let answer = v1::ResumeRotationResponse::default();
                self.set_paused(&call, &message.name, false, answer).await
            })
            .await
    }

    async fn fetch_rotation_scripts(
        &self,
        request: Request<v1::FetchRotationScriptsRequest>,
    ) -> Result<Response<v1::FetchRotationScriptsResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::MadeAgain, |call, message| async move {
                let wanted = ScriptsRequest {
                    rotation: message.rotation.clone(),
                    limit: message.limit,
                    lease_seconds: message.lease_seconds,
                    request_id: message.idempotency_key.clone().into_bytes(),
                    request_digest: call.request_digest,
                    is_repeat: call.is_repeat,
                };
                let options = CallOptions { deadline: call.deadline, priority: Priority::Bulk };
                let caller = carrier(&call)?;
                let (commit, made) = rotation::fetch_scripts(
                    &self.kms,
                    &self.rotations,
                    &call.pseudonyms,
                    &caller,
                    &wanted,
                    call.now,
                    options,
                )
                .await?;
                let terms = &made.rotation.terms;
                let answer = v1::FetchRotationScriptsResponse {
                    scripts: made.scripts.into_iter().map(|script| script_message(terms, script)).collect(),
                    lease_ends: made.ends.map(timestamp),
                    entry_index: 0,
                };
                Ok(Completed::deed(commit, answer))
            })
            .await
    }

    async fn fetch_deletion_scripts(
        &self,
        request: Request<v1::FetchDeletionScriptsRequest>,
    ) -> Result<Response<v1::FetchDeletionScriptsResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::MadeAgain, |call, message| async move {
                let after =
                    (!message.after_eid.is_empty()).then(|| parse_eid(&message.after_eid)).transpose()?;
                let wanted = rotation::DeletionsRequest {
                    rotation: message.rotation.clone(),
                    limit: message.limit,
                    after,
                    request_id: message.idempotency_key.clone().into_bytes(),
                    request_digest: call.request_digest,
                    is_repeat: call.is_repeat,
                };
                let options = CallOptions { deadline: call.deadline, priority: Priority::Bulk };
                let (caller, names) = (carrier(&call)?, &call.pseudonyms);
                let (commit, made) =
                    rotation::fetch_deletions(&self.kms, names, &caller, &wanted, call.now, options).await?;
                let terms = &made.rotation.terms;
                let answer = v1::FetchDeletionScriptsResponse {
                    scripts: made.scripts.into_iter().map(|script| deletion_message(terms, script)).collect(),
                    next_after_eid: made.next_after.map(|eid| eid.to_string()).unwrap_or_default(),
                    entry_index: 0,
                };
                Ok(Completed::deed(commit, answer))
            })
            .await
    }

    async fn report_deletions(
        &self,
        request: Request<v1::ReportDeletionsRequest>,
    ) -> Result<Response<v1::ReportDeletionsResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |call, message| async move {
                let caller = carrier(&call)?;
                let mut reports = Vec::with_capacity(message.reports.len());
                for report in &message.reports {
                    let eid = parse_eid(&report.eid)?;
                    reports.push(rotation::DeletionReport { eid, status_word: report.status_word });
                }
                let (commit, results) = rotation::report_deletions(
                    self.kms.store.as_ref(),
                    &call.pseudonyms,
                    &caller,
                    &message.rotation,
                    &reports,
                    call.request_digest,
                    call.now,
                )?;
                let results = results.into_iter().map(|result| v1::DeletionResult {
                    eid: result.eid.to_string(),
                    deleted: result.deleted,
                    reason: result.refused.map(|reason| reason.as_str().to_owned()).unwrap_or_default(),
                });
                let answer = v1::ReportDeletionsResponse { results: results.collect(), entry_index: 0 };
                Ok(Completed::deed(commit, answer))
            })
            .await
    }

    async fn report_rotation(
        &self,
        request: Request<v1::ReportRotationRequest>,
    ) -> Result<Response<v1::ReportRotationResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |call, message| async move {
                let caller = carrier(&call)?;
                let reports = message.reports.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
                let store = self.kms.store.as_ref();
                let rotation = Rotation::find(store, &message.rotation, Some(&caller.name))?;
                let options = CallOptions { deadline: call.deadline, priority: Priority::Normal };
                let proofs = rotation::check_proofs(&self.kms, &rotation, &reports, options).await?;
                let turn = self.rotations.turn(&message.rotation).await;
                let rotation = Rotation::find(store, &message.rotation, Some(&caller.name))?;
                let (commit, results) = rotation::report(
                    store,
                    &call.pseudonyms,
                    &caller,
                    rotation,
                    (&reports, &proofs),
                    call.request_digest,
                    call.now,
                )?;
                let answer = v1::ReportRotationResponse {
                    results: results.into_iter().map(result).collect(),
                    entry_index: 0,
                };
                Ok(Completed::deed_in_turn(commit, answer, [turn]))
            })
            .await
    }
}

impl RotationApi {
    async fn set_paused<A>(
        &self,
        call: &Call,
        name: &str,
        paused: bool,
        answer: A,
    ) -> Result<Completed<A>, ServiceError> {
        let store = self.kms.store.as_ref();
        // A turn is kept for names that exist only.
        Rotation::find(store, name, None)?;
        let turn = self.rotations.turn(name).await;
        let mut rotation = Rotation::find(store, name, None)?;
        let actor = call.pseudonyms.principal(&call.caller.principal());
        let who = (call.caller.role(), actor);
        let commit = rotation::set_paused(&mut rotation, paused, who, call.request_digest)?;
        Ok(Completed::deed_in_turn(commit, answer, [turn]))
    }
}

/// The party whose rotations alone the caller sees; none for persons, who see all.
fn own(call: &Call) -> Result<Option<String>, ServiceError> {
    match call.caller.role() {
        Role::Provisioner => Ok(Some(call.caller.party()?.name.clone())),
        Role::Officer | Role::Approver | Role::Auditor | Role::Eum => Ok(None),
    }
}

fn carrier(call: &Call) -> Result<Carrier, ServiceError> {
    Ok(Carrier {
        name: call.caller.party()?.name.clone(),
        principal: call.caller.principal(),
        unchanged: call.caller.unchanged(),
    })
}

fn parse(report: &v1::RotationReport) -> Result<ItemReport, ServiceError> {
    let invalid = |text: &str| ServiceError::refused(ReasonCode::InvalidField, text);
    let eight = |bytes: &[u8]| {
        <[u8; 8]>::try_from(bytes).map_err(|_| invalid("challenges and cryptogram have 8 bytes each (S8)"))
    };
    let proof = match &report.proof {
        Some(proof) => Some(Cryptogram {
            host_challenge: eight(&proof.host_challenge)?,
            card_challenge: eight(&proof.card_challenge)?,
            card_cryptogram: eight(&proof.card_cryptogram)?,
        }),
        None => None,
    };
    if report.put_key_response.len() > 256 || report.status_word > 0xffff {
        return Err(invalid("put_key_response has at most 256 bytes, status_word two"));
    }
    Ok(ItemReport {
        eid: parse_eid(&report.eid)?,
        put_key_response: report.put_key_response.clone(),
        proof,
        status_word: report.status_word,
    })
}

fn script_message(terms: &rotation::RotationTerms, script: rotation::Script) -> v1::RotationScript {
    let mut message = v1::RotationScript {
        eid: script.eid.to_string(),
        from: Some(terms.from.message()),
        to_key_version_number: u32::from(terms.to_kvn.value()),
        put_key: script.put_key,
        earlier_leases: script.earlier_leases,
        ..v1::RotationScript::default()
    };
    if let Some(carried) = script.carried {
        message.commands = carried.commands;
        message.card_challenge = carried.card_challenge;
        message.card_cryptogram = carried.card_cryptogram;
        message.sequence_counter = carried.sequence_counter.to_vec();
    }
    message
}

fn deletion_message(terms: &rotation::RotationTerms, script: rotation::Deletion) -> v1::DeletionScript {
    let mut message = v1::DeletionScript {
        eid: script.eid.to_string(),
        under: Some(terms.to().message()),
        old_key_version_number: u32::from(terms.from.kvn.value()),
        delete_key: script.delete_key,
        ..v1::DeletionScript::default()
    };
    if let Some(carried) = script.carried {
        message.commands = carried.commands;
        message.card_challenge = carried.card_challenge;
        message.card_cryptogram = carried.card_cryptogram;
        message.sequence_counter = carried.sequence_counter.to_vec();
    }
    message
}

fn result(result: ItemResult) -> v1::ReportResult {
    let failure = match result.state {
        Some(rotation::ItemState::Failed(failure)) => failure.message(),
        _ => v1::RotationFailure::Unspecified,
    };
    v1::ReportResult {
        eid: result.eid.to_string(),
        state: result.state.map_or(v1::RotationItemState::Unspecified, rotation::ItemState::message).into(),
        failure: failure.into(),
        reason: result.refused.map(|reason| reason.as_str().to_owned()).unwrap_or_default(),
    }
}
