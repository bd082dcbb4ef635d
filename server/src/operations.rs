//! Protected operations: requested, decided, executed (`docs/cycles/approval.md`). The rules are in `approval`, what each
//! kind does is in `execution`.

use std::sync::Arc;

use audit::{EntryDraft, EventType, Fact, Outcome, sha256};
use domain::{ReasonCode, Role, Timestamp};
use prost::Message;
use proto::v1::operation::Kind;
use proto::{records, v1};
use store::{Change, Commit, Precondition, Store};
use tokio::sync::Mutex;

use crate::approval::{self, Signature, Signer};
use crate::authority::{Authority, AuthorityError, Person};
use crate::execution::Execution;
use crate::gate::{Call, Completed};
use crate::records::OPERATIONS;
use crate::status::ServiceError;

/// Operations of one requester that may wait at the same time: a limit against approval fatigue.
const OPEN_PER_REQUESTER_MAX: usize = 100;
/// Operations that a listing or a limit looks at.
const OPERATIONS_SCANNED_MAX: usize = 10_000;

/// The service behind `OperationService`.
pub(crate) struct Operations {
    store: Arc<dyn Store>,
    authority: Arc<Authority>,
    execution: Execution,
    /// One decision or execution at a time, until it is durable: each sees what the one before left, so that no
    /// certificate is signed for an execution that then loses a race.
    turn: Arc<Mutex<()>>,
}

/// A stored operation.
struct Stored {
    record: records::Operation,
    signatures: Vec<Signature>,
    version: u64,
}

const OPEN: &str = "open";
const APPROVED: &str = "approved";
const REJECTED: &str = "rejected";
const EXECUTED: &str = "executed";

impl Operations {
    pub(crate) fn new(store: Arc<dyn Store>, authority: Arc<Authority>, execution: Execution) -> Self {
        Self { store, authority, execution, turn: Arc::default() }
    }

    /// 1. to 3.: canonical bytes, the requester's signature, everything that can be checked now; stored.
    pub(crate) fn request(
        &self,
        call: &Call,
        request: &v1::RequestOperationRequest,
    ) -> Result<Completed<v1::RequestOperationResponse>, ServiceError> {
        let person = call.caller.person()?;
        let operation = approval::decode(&request.operation, &self.authority.name, call.now)?;
        approval::verify(&request.operation, &person.approval_key, &request.signature)?;
        let kind = operation
            .kind
            .ok_or_else(|| ServiceError::refused(ReasonCode::InvalidField, "operation: kind is missing"))?;
        self.execution.check(&kind, call.now)?;
        let open = self.scan()?.into_iter().filter(|(_, stored)| {
            stored.record.requester == person.name && matches!(stored.record.state.as_str(), OPEN | APPROVED)
        });
        if open.count() >= OPEN_PER_REQUESTER_MAX {
            return Err(ServiceError::refused(
                ReasonCode::PolicyViolation,
                "too many of your operations wait already",
            ));
        }
        let digest = sha256(&request.operation);
        let policy = self.authority.policy()?;
        let signature = Signature {
            person: person.name.clone(),
            approval_key: person.approval_key.clone(),
            signature: request.signature.clone(),
            time: call.now,
        };
        let record = records::Operation {
            version: 1,
            canonical: request.operation.clone(),
            kind: kind_name(&kind).to_owned(),
            requester: person.name.clone(),
            persons_required: policy.persons_required,
            state: OPEN.to_owned(),
            signatures: vec![encode_signature(&signature)],
            requested_micros: call.now.micros(),
            outcome: Vec::new(),
        };
        let entry = self
            .entry(call, EventType::OperationRequested, person, &digest, &record)
            .fact("key", Fact::Digest(sha256(&signature.approval_key)))
            .fact("signature", Fact::Digest(sha256(&signature.signature)))
            .fact("policy", Fact::Number(policy.version));
        let commit = Commit {
            entries: vec![entry],
            changes: vec![Change::put(OPERATIONS, digest, record.encode_to_vec())],
            preconditions: vec![Precondition::Absent { keyspace: OPERATIONS, key: digest.to_vec() }],
        };
        let answer = v1::RequestOperationResponse {
            digest: digest.to_vec(),
            persons_required: policy.persons_required,
            entry_index: 0,
        };
        Ok(Completed::deed(commit, answer))
    }

    /// 4.: one person's signed decision.
    pub(crate) async fn decide(
        &self,
        call: &Call,
        request: &v1::DecideOperationRequest,
    ) -> Result<Completed<v1::DecideOperationResponse>, ServiceError> {
        let person = call.caller.person()?;
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let mut stored = self.find(&request.digest)?;
        let digest = sha256(&stored.record.canonical);
        if !matches!(stored.record.state.as_str(), OPEN | APPROVED) {
            return Err(not_open(&stored));
        }
        // Not expired, and still in canonical form.
        approval::decode(&stored.record.canonical, &self.authority.name, call.now)?;
        let signer = signer(person, Role::Approver);
        let event = match v1::Decision::try_from(request.decision) {
            Ok(v1::Decision::Approve) => {
                approval::may_add(&stored.record.canonical, &stored.signatures, &signer, &request.signature)?;
                stored.signatures.push(Signature {
                    person: person.name.clone(),
                    approval_key: person.approval_key.clone(),
                    signature: request.signature.clone(),
                    time: call.now,
                });
                if stored.signatures.len()
                    >= usize::try_from(stored.record.persons_required).unwrap_or(usize::MAX)
                {
                    stored.record.state = APPROVED.to_owned();
                }
                EventType::OperationApproved
            }
            Ok(v1::Decision::Reject) => {
                verify_rejection(&digest, &person.approval_key, &request.signature)?;
                stored.record.state = REJECTED.to_owned();
                EventType::OperationRejected
            }
            Ok(v1::Decision::Unspecified) | Err(_) => {
                return Err(ServiceError::refused(
                    ReasonCode::InvalidField,
                    "decision must be approve or reject",
                ));
            }
        };
        stored.record.signatures = stored.signatures.iter().map(encode_signature).collect();
        let entry = self
            .entry(call, event, person, &digest, &stored.record)
            .fact("key", Fact::Digest(sha256(&person.approval_key)))
            .fact("signature", Fact::Digest(sha256(&request.signature)));
        let answer = v1::DecideOperationResponse {
            state: state(&stored.record.state).into(),
            persons_signed: u32::try_from(stored.signatures.len()).unwrap_or(u32::MAX),
            persons_required: stored.record.persons_required,
            entry_index: 0,
        };
        Ok(Completed::deed_in_turn(stored.update(entry, digest), answer, [turn]))
    }

    /// 5. and 6.: everything is checked again, then the deed and the operation's end are one commit.
    pub(crate) async fn execute(
        &self,
        call: &Call,
        request: &v1::ExecuteOperationRequest,
    ) -> Result<Completed<v1::ExecuteOperationResponse>, ServiceError> {
        let person = call.caller.person()?;
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let mut stored = self.find(&request.digest)?;
        match stored.record.state.as_str() {
            APPROVED => {}
            OPEN => {
                return Err(ServiceError::refused(ReasonCode::ApprovalsMissing, "more persons must sign"));
            }
            _ => return Err(not_open(&stored)),
        }
        let canonical = &stored.record.canonical;
        // The stricter of the policy at the request and the policy now.
        let required = stored.record.persons_required.max(self.authority.policy()?.persons_required);
        let expires = v1::Operation::decode(canonical.as_slice())
            .ok()
            .and_then(|operation| approval::expires(&operation))
            .unwrap_or_default();
        let people = self.signers(&stored)?;
        approval::may_execute(
            canonical,
            &request.digest,
            &stored.signatures,
            required,
            expires,
            call.now,
            |name| people.iter().find(|signer| signer.name == name).cloned(),
        )?;
        let operation = approval::decode(canonical, &self.authority.name, call.now)?;
        let kind = operation.kind.ok_or(ServiceError::Internal("a stored operation has no kind"))?;
        let digest = sha256(canonical);
        let done = self.execution.execute(call, digest, &kind).await?;
        stored.record.state = EXECUTED.to_owned();
        stored.record.outcome = done.outcome.encode_to_vec();
        let entry = self
            .entry(call, EventType::OperationExecuted, person, &digest, &stored.record)
            .fact("approvals", Fact::Number(stored.signatures.len() as u64));
        let mut commit = stored.update(entry, digest);
        commit.entries.extend(done.commit.entries);
        commit.changes.extend(done.commit.changes);
        commit.preconditions.extend(done.commit.preconditions);
        let answer = v1::ExecuteOperationResponse { outcome: Some(done.outcome), entry_index: 0 };
        Ok(Completed::deed_in_turn(commit, answer, [turn].into_iter().chain(done.turn)))
    }

    pub(crate) fn list(
        &self,
        request: &v1::ListOperationsRequest,
    ) -> Result<v1::ListOperationsResponse, ServiceError> {
        let limit = match request.limit {
            0 => 100,
            limit => usize::try_from(limit.min(1_000)).unwrap_or(1_000),
        };
        let mut all = self.scan()?;
        all.sort_unstable_by_key(|(_, stored)| std::cmp::Reverse(stored.record.requested_micros));
        let start = if request.after.is_empty() {
            0
        } else {
            all.iter().position(|(digest, _)| *digest == request.after).map_or(all.len(), |at| at + 1)
        };
        let operations = all[start..]
            .iter()
            .filter(|(_, stored)| {
                !request.open_only || matches!(stored.record.state.as_str(), OPEN | APPROVED)
            })
            .take(limit)
            .map(|(digest, stored)| stored.summary(digest.clone()))
            .collect();
        Ok(v1::ListOperationsResponse { operations })
    }

    pub(crate) fn get(
        &self,
        request: &v1::GetOperationRequest,
    ) -> Result<v1::GetOperationResponse, ServiceError> {
        let stored = self.find(&request.digest)?;
        let outcome = if stored.record.outcome.is_empty() {
            None
        } else {
            v1::OperationOutcome::decode(stored.record.outcome.as_slice()).ok()
        };
        Ok(v1::GetOperationResponse {
            summary: Some(stored.summary(request.digest.clone())),
            approvals: stored
                .signatures
                .iter()
                .map(|signature| v1::Approval {
                    person: signature.person.clone(),
                    signature: signature.signature.clone(),
                    time: Some(timestamp(signature.time)),
                })
                .collect(),
            operation: stored.record.canonical,
            outcome,
        })
    }

    fn find(&self, digest: &[u8]) -> Result<Stored, ServiceError> {
        let row = self.store.get(OPERATIONS, digest)?.ok_or_else(|| {
            ServiceError::refused(ReasonCode::UnknownOperation, "there is no such operation")
        })?;
        Stored::decode(&row.value, row.version)
    }

    fn scan(&self) -> Result<Vec<(Vec<u8>, Stored)>, ServiceError> {
        self.store
            .scan(OPERATIONS, &[], None, OPERATIONS_SCANNED_MAX)?
            .into_iter()
            .map(|(digest, row)| Ok((digest, Stored::decode(&row.value, row.version)?)))
            .collect()
    }

    /// The persons who signed, as they are now.
    fn signers(&self, stored: &Stored) -> Result<Vec<Signer>, AuthorityError> {
        let mut signers = Vec::new();
        for (at, signature) in stored.signatures.iter().enumerate() {
            let role = if at == 0 { Role::Officer } else { Role::Approver };
            if let Some(person) = self.authority.person(&signature.person)? {
                signers.push(signer(&person, role));
            }
        }
        Ok(signers)
    }

    fn entry(
        &self,
        call: &Call,
        event: EventType,
        person: &Person,
        digest: &[u8; 32],
        record: &records::Operation,
    ) -> EntryDraft {
        EntryDraft::new(event, Outcome::Done)
            .role(call.caller.role())
            .actor(call.pseudonyms.person(&person.name))
            .fact("operation", Fact::Digest(*digest))
            .fact("kind", Fact::name(&record.kind).unwrap_or(Fact::fixed_name("unknown")))
            .fact("k", Fact::Number(u64::from(record.persons_required)))
    }
}

impl Stored {
    fn decode(bytes: &[u8], version: u64) -> Result<Self, ServiceError> {
        let record = records::Operation::decode(bytes)
            .map_err(|_| ServiceError::Internal("an operation record cannot be read"))?;
        let signatures = record
            .signatures
            .iter()
            .map(|s| Signature {
                person: s.person.clone(),
                approval_key: s.approval_key.clone(),
                signature: s.signature.clone(),
                time: Timestamp::from_micros(s.time_micros),
            })
            .collect();
        Ok(Self { record, signatures, version })
    }

    fn update(&self, entry: EntryDraft, digest: [u8; 32]) -> Commit {
        Commit {
            entries: vec![entry],
            changes: vec![Change::put(OPERATIONS, digest, self.record.encode_to_vec())],
            preconditions: vec![Precondition::Version {
                keyspace: OPERATIONS,
                key: digest.to_vec(),
                version: self.version,
            }],
        }
    }

    fn summary(&self, digest: Vec<u8>) -> v1::OperationSummary {
        v1::OperationSummary {
            digest,
            kind: self.record.kind.clone(),
            state: state(&self.record.state).into(),
            requester: self.record.requester.clone(),
            requested: Some(timestamp(Timestamp::from_micros(self.record.requested_micros))),
            persons_signed: u32::try_from(self.signatures.len()).unwrap_or(u32::MAX),
            persons_required: self.record.persons_required,
        }
    }
}

/// An operation's canonical bytes and its signatures.
pub(crate) type Evidence = (Vec<u8>, Vec<audit::ApprovalEvidence>);

/// What the export holds of every operation: its bytes and each person's key and signature.
pub(crate) fn evidence(store: &dyn Store) -> Result<Vec<Evidence>, ServiceError> {
    store
        .scan(OPERATIONS, &[], None, OPERATIONS_SCANNED_MAX)?
        .into_iter()
        .map(|(_, row)| {
            let stored = Stored::decode(&row.value, row.version)?;
            let evidence = stored
                .signatures
                .into_iter()
                .map(|s| audit::ApprovalEvidence { signature: s.signature, spki: s.approval_key })
                .collect();
            Ok((stored.record.canonical, evidence))
        })
        .collect()
}

fn verify_rejection(digest: &[u8; 32], approval_key: &[u8], signature: &[u8]) -> Result<(), ServiceError> {
    let message = [&b"chancery-rejection/v1\0"[..], digest].concat();
    pki::PublicKey::parse(approval_key, pki::KnownKeys::Allow)
        .and_then(|key| key.verify(&message, signature))
        .map_err(|_| {
            ServiceError::refused(
                ReasonCode::InvalidApprovalSignature,
                "the signature over the rejection does not verify",
            )
        })
}

fn signer(person: &Person, role: Role) -> Signer {
    Signer {
        name: person.name.clone(),
        approval_key: person.approval_key.clone(),
        suspended: person.suspended,
        may_sign: person.roles.contains(&role),
    }
}

fn not_open(stored: &Stored) -> ServiceError {
    ServiceError::refused(ReasonCode::OperationNotOpen, format!("the operation is {}", stored.record.state))
}

fn encode_signature(signature: &Signature) -> records::OperationSignature {
    records::OperationSignature {
        person: signature.person.clone(),
        approval_key: signature.approval_key.clone(),
        signature: signature.signature.clone(),
        time_micros: signature.time.micros(),
    }
}

const fn kind_name(kind: &Kind) -> &'static str {
    match kind {
        Kind::EnrolPerson(_) => "enrol-person",
        Kind::EnrolParty(_) => "enrol-party",
        Kind::RegisterIssuer(_) => "register-issuer",
        Kind::RegisterResponder(_) => "register-responder",
        Kind::IssueCertificate(_) => "issue-certificate",
        Kind::CreateGrant(_) => "create-grant",
        Kind::RestoreDevice(_) => "restore-device",
        Kind::StartRotation(_) => "start-rotation",
        Kind::RollBackRotation(_) => "roll-back-rotation",
        Kind::RevokeCertificate(_) => "revoke-certificate",
        Kind::RevokeCertificates(_) => "revoke-certificates",
        Kind::ChangeStanding(_) => "change-standing",
        Kind::RecordAccreditation(_) => "record-accreditation",
        Kind::RegisterStorageKeys(_) => "register-storage-keys",
        Kind::ReleaseCertificate(_) => "release-certificate",
        Kind::RegisterOceKey(_) => "register-oce-key",
        Kind::RegisterAnchor(_) => "register-anchor",
        Kind::RetireAnchor(_) => "retire-anchor",
        Kind::ImportCertificate(_) => "import-certificate",
        Kind::RegisterMaster(_) => "register-master",
        Kind::RegisterTransportKey(_) => "register-transport-key",
        Kind::RetireTransportKey(_) => "retire-transport-key",
        Kind::ExportKeyset(_) => "export-keyset",
        Kind::RegisterImportKey(_) => "register-import-key",
        Kind::RenewCredential(_) => "renew-credential",
        Kind::RegisterRspKey(_) => "register-rsp-key",
        Kind::ChangeKeysetState(_) => "change-keyset-state",
        Kind::MarkCompromised(_) => "mark-compromised",
    }
}

fn state(text: &str) -> v1::OperationState {
    match text {
        OPEN => v1::OperationState::Open,
        APPROVED => v1::OperationState::Approved,
        REJECTED => v1::OperationState::Rejected,
        EXECUTED => v1::OperationState::Executed,
        _ => v1::OperationState::Unspecified,
    }
}

pub(crate) fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    let nanos = i32::try_from(time.micros().rem_euclid(1_000_000) * 1000).unwrap_or(0);
    prost_types::Timestamp { seconds: time.seconds(), nanos }
}

/// The entry that last changed an operation.
pub(crate) fn version(store: &dyn Store, digest: &[u8; 32]) -> Result<u64, ServiceError> {
    store
        .get(OPERATIONS, digest)?
        .map(|row| row.version)
        .ok_or(ServiceError::Internal("an operation is missing"))
}
