//! Protected operations over gRPC: who may not approve, what may not be executed, and that nothing comes of trying.

use std::time::{Duration, SystemTime};

use audit::{Entry, EventType, Outcome};
use prost::Message;
use proto::v1::operation::Kind;
use proto::v1::operation_service_client::OperationServiceClient;
use proto::v1::{
    CreateGrant, DecideOperationRequest, Decision, ExecuteOperationRequest, Operation,
    RequestOperationRequest,
};
use tonic::{Code, Status};

use crate::caller::{Caller, sha256};
use crate::refusals::Refused;
use crate::support::{AUTHORITY, Deployment, GRANTED};

/// Grants of this test; nothing else is executed in it.
fn operation(name: &str, expires_after: Duration) -> Operation {
    #[expect(clippy::disallowed_methods, reason = "the daemon under test has the real clock too")]
    let now = SystemTime::now();
    let grant = CreateGrant {
        name: name.to_owned(),
        provisioner: "provisioner".to_owned(),
        eins: vec![GRANTED.to_owned()],
        purpose: "another".to_owned(),
        lawful_basis: "licence".to_owned(),
        expires: Some((now + Duration::from_secs(3600)).into()),
        ..CreateGrant::default()
    };
    Operation {
        version: 1,
        salt: sha256(name.as_bytes()),
        authority: AUTHORITY.to_owned(),
        reason: "test".to_owned(),
        expires: Some((now + expires_after).into()),
        kind: Some(Kind::CreateGrant(grant)),
    }
}

/// One who requests, decides and executes, each call under a key of its own.
struct Person {
    caller: Caller,
    name: &'static str,
}

impl Person {
    async fn of(deployment: &Deployment, name: &'static str) -> Self {
        Self { caller: deployment.caller(name).await, name }
    }

    fn client(&self) -> OperationServiceClient<tonic::transport::Channel> {
        OperationServiceClient::new(self.caller.channel.clone())
    }

    async fn request(&self, operation: &[u8]) -> Result<Vec<u8>, Status> {
        let digest = sha256(operation);
        let request = RequestOperationRequest {
            idempotency_key: hex::encode(&digest[..8]),
            signature: self.caller.approve(&digest),
            operation: operation.to_vec(),
        };
        self.client().request_operation(request).await.map(|_| digest)
    }

    /// Approves with a signature over `signed`.
    async fn approve(&self, key: &str, digest: &[u8], signed: &[u8]) -> Result<u32, Status> {
        let request = DecideOperationRequest {
            idempotency_key: format!("{key}-{}", self.name),
            digest: digest.to_vec(),
            decision: Decision::Approve.into(),
            signature: self.caller.approve(signed),
        };
        self.client().decide_operation(request).await.map(|answer| answer.into_inner().persons_signed)
    }

    async fn execute(&self, key: &str, digest: &[u8]) -> Result<(), Status> {
        let request = ExecuteOperationRequest { idempotency_key: key.to_owned(), digest: digest.to_vec() };
        self.client().execute_operation(request).await.map(|_| ())
    }
}

fn executed(entries: &[Entry]) -> usize {
    let of = |entry: &&Entry| {
        entry.header.event == EventType::OperationExecuted && entry.header.outcome == Outcome::Done
    };
    entries.iter().filter(of).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_approval_too_few_or_out_of_time_is_taken_and_nothing_comes_of_trying() {
    let deployment = Deployment::found();
    // Allowed to request and to approve, but not the same operation.
    deployment.enrol_person("both", &["officer", "approver"]);
    let officer = Person::of(&deployment, "officer").await;
    let approver = Person::of(&deployment, "approver").await;
    let both = Person::of(&deployment, "both").await;
    let executed_before = executed(&deployment.entries());
    let mut refused = Vec::new();
    let mut note = |what: &str, code: Code, reason: &'static str, status: Status| {
        refused.push(Refused::new(what.to_owned(), (code, reason), &status));
    };

    let hour = Duration::from_secs(3600);
    let own = both.request(&operation("own", hour).encode_to_vec()).await.unwrap();
    let status = both.approve("own", &own, &own).await.unwrap_err();
    note("one's own operation", Code::PermissionDenied, "SELF_APPROVAL", status);
    let status = both.execute("own", &own).await.unwrap_err();
    note("executed without approval", Code::FailedPrecondition, "APPROVALS_MISSING", status);

    let status = approver.approve("wrong", &own, &sha256(b"another")).await.unwrap_err();
    note("a signature over another", Code::PermissionDenied, "INVALID_APPROVAL_SIGNATURE", status);
    let status = officer.execute("still", &own).await.unwrap_err();
    note("executed after a wrong signature", Code::FailedPrecondition, "APPROVALS_MISSING", status);
    let status = officer.approve("role", &own, &own).await.unwrap_err();
    note("an officer approves", Code::PermissionDenied, "ROLE_NOT_ALLOWED", status);

    assert_eq!(approver.approve("first", &own, &own).await.unwrap(), 2);
    let status = approver.approve("second", &own, &own).await.unwrap_err();
    note("approved twice by one person", Code::AlreadyExists, "ALREADY_APPROVED", status);

    // Bytes in which something hides: a field nobody knows, a field said twice, another encoding of the same.
    let canonical = operation("hidden", hour).encode_to_vec();
    let grant_again = operation("other", hour).kind.unwrap();
    let mut repeated_kind = canonical.clone();
    grant_again.encode(&mut repeated_kind);
    for (what, bytes) in [
        ("an unknown field", [&canonical[..], &[0xf8, 0x07, 0x01]].concat()),
        ("a repeated field", [&canonical[..], &[0x08, 0x01]].concat()),
        ("a repeated kind", repeated_kind),
        ("a long varint", [&[0x08, 0x81, 0x00], &canonical[2..]].concat()),
    ] {
        let status = officer.request(&bytes).await.unwrap_err();
        note(what, Code::InvalidArgument, "MALFORMED_MESSAGE", status);
        let status = officer.execute(what, &sha256(&bytes)).await.unwrap_err();
        note(what, Code::NotFound, "UNKNOWN_OPERATION", status);
    }

    // Approved in time, executed too late; and one that nobody approved in time.
    let soon = Duration::from_secs(2);
    let approved = officer.request(&operation("late", soon).encode_to_vec()).await.unwrap();
    let waiting = officer.request(&operation("later", soon).encode_to_vec()).await.unwrap();
    approver.approve("late", &approved, &approved).await.unwrap();
    tokio::time::sleep(soon).await;
    let status = officer.execute("late", &approved).await.unwrap_err();
    note("executed after its end", Code::FailedPrecondition, "OPERATION_EXPIRED", status);
    let status = approver.approve("later", &waiting, &waiting).await.unwrap_err();
    note("approved after its end", Code::FailedPrecondition, "OPERATION_EXPIRED", status);
    let status = officer.request(&operation("past", Duration::ZERO).encode_to_vec()).await.unwrap_err();
    note("requested after its end", Code::FailedPrecondition, "OPERATION_EXPIRED", status);

    let entries = deployment.entries();
    assert_eq!(executed(&entries), executed_before, "something was executed");

    // What was approved by two is executed, once.
    both.execute("once", &own).await.unwrap();
    let status = both.execute("twice", &own).await.unwrap_err();
    note("executed twice", Code::FailedPrecondition, "OPERATION_NOT_OPEN", status);
    let status = approver.approve("after", &own, &own).await.unwrap_err();
    note("approved after execution", Code::FailedPrecondition, "OPERATION_NOT_OPEN", status);

    let entries = deployment.entries();
    assert_eq!(executed(&entries), executed_before + 1);
    for refusal in &refused {
        assert!(refusal.entry(&entries).header.actor.is_some());
    }
}
