//! A call sent again under its key gets its answer again, whatever happened to the service in between.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use audit::Outcome;
use prost::Message;
use proto::Rules;
use proto::v1::certificate_service_client::CertificateServiceClient;
use proto::v1::device_service_client::DeviceServiceClient;
use proto::v1::keyset_service_client::KeysetServiceClient;
use proto::v1::operation::Kind;
use proto::v1::operation_service_client::OperationServiceClient;
use proto::v1::order_service_client::OrderServiceClient;
use proto::v1::rotation_service_client::RotationServiceClient;
use proto::v1::session_key_service_client::SessionKeyServiceClient;
use proto::v1::standing_service_client::StandingServiceClient;
use proto::v1::transport_key_service_client::TransportKeyServiceClient;
use proto::v1::{
    ConfirmOrderOutputRequest, CreateGrant, DecideOperationRequest, Decision, ExecuteOperationRequest,
    FetchKeysetExportRequest, FetchRotationScriptsRequest, FetchRotationScriptsResponse,
    FetchSessionKeysRequest, FreezeDeviceRequest, FreezeReason, HoldCertificateRequest, Operation,
    PauseRotationRequest, ReportRotationRequest, RequestOperationRequest, ResumeRotationRequest,
    SuspendKeysetRequest, SuspendPartyRequest,
};
use tests::card::CryptogramBehaviour;
use tonic::Status;

use crate::caller::{Caller, reason, sha256};
use crate::devices::{KVN, eid};
use crate::fleet::{NEW_KVN, Provisioner, TwoPersons, keyset, terms};
use crate::masters;
use crate::support::{AUTHORITY, Deployment, GRANTED, PURPOSE};

/// The requests of one call each, by the path of the RPC.
struct Calls {
    request: RequestOperationRequest,
    decide: DecideOperationRequest,
    execute: ExecuteOperationRequest,
    confirm: ConfirmOrderOutputRequest,
    fetch: FetchSessionKeysRequest,
    scripts: FetchRotationScriptsRequest,
    report: ReportRotationRequest,
    pause: PauseRotationRequest,
    resume: ResumeRotationRequest,
    freeze: FreezeDeviceRequest,
    suspend: SuspendPartyRequest,
    export: FetchKeysetExportRequest,
    suspend_keyset: SuspendKeysetRequest,
    hold: HoldCertificateRequest,
}

/// What an answer comes to once it is opened, and the entry it names.
#[derive(PartialEq, Debug)]
struct Answer {
    content: Vec<u8>,
    entry_index: u64,
}

/// Answers by path.
type Answers = BTreeMap<&'static str, Result<Answer, Status>>;

struct Callers {
    officer: Caller,
    approver: Caller,
    eum: Caller,
    provisioner: Caller,
}

impl Callers {
    async fn connect(deployment: &Deployment) -> Self {
        Self {
            officer: deployment.caller("officer").await,
            approver: deployment.caller("approver").await,
            eum: deployment.caller("eum").await,
            provisioner: deployment.caller("provisioner").await,
        }
    }

    async fn make(&self, calls: &Calls) -> Answers {
        /// The answer without its entry's index, and that.
        macro_rules! answer {
            ($call:expr) => {
                $call.await.map(|response| {
                    let mut message = response.into_inner();
                    let entry_index = std::mem::take(&mut message.entry_index);
                    Answer { content: message.encode_to_vec(), entry_index }
                })
            };
        }
        let mut officer = OperationServiceClient::new(self.officer.channel.clone());
        let mut approver = OperationServiceClient::new(self.approver.channel.clone());
        let mut eum = OrderServiceClient::new(self.eum.channel.clone());
        let mut provisioner = SessionKeyServiceClient::new(self.provisioner.channel.clone());
        let mut answers = Answers::new();
        answers.insert(
            "/chancery.v1.OperationService/RequestOperation",
            answer!(officer.request_operation(calls.request.clone())),
        );
        answers.insert(
            "/chancery.v1.OperationService/DecideOperation",
            answer!(approver.decide_operation(calls.decide.clone())),
        );
        answers.insert(
            "/chancery.v1.OperationService/ExecuteOperation",
            answer!(officer.execute_operation(calls.execute.clone())),
        );
        answers.insert(
            "/chancery.v1.OrderService/ConfirmOrderOutput",
            answer!(eum.confirm_order_output(calls.confirm.clone())),
        );
        let mut devices = DeviceServiceClient::new(self.officer.channel.clone());
        answers.insert(
            "/chancery.v1.DeviceService/FreezeDevice",
            answer!(devices.freeze_device(calls.freeze.clone())),
        );
        let mut keysets = KeysetServiceClient::new(self.approver.channel.clone());
        answers.insert(
            "/chancery.v1.KeysetService/SuspendKeyset",
            answer!(keysets.suspend_keyset(calls.suspend_keyset.clone())),
        );
        let mut certificates = CertificateServiceClient::new(self.officer.channel.clone());
        answers.insert(
            "/chancery.v1.CertificateService/HoldCertificate",
            answer!(certificates.hold_certificate(calls.hold.clone())),
        );
        let mut carrier = RotationServiceClient::new(self.provisioner.channel.clone());
        answers.insert(SCRIPTS, answer!(carrier.fetch_rotation_scripts(calls.scripts.clone())));
        answers.insert(
            "/chancery.v1.RotationService/ReportRotation",
            answer!(carrier.report_rotation(calls.report.clone())),
        );
        let mut rotations = RotationServiceClient::new(self.officer.channel.clone());
        answers.insert(
            "/chancery.v1.RotationService/PauseRotation",
            answer!(rotations.pause_rotation(calls.pause.clone())),
        );
        answers.insert(
            "/chancery.v1.RotationService/ResumeRotation",
            answer!(rotations.resume_rotation(calls.resume.clone())),
        );
        let mut exports = TransportKeyServiceClient::new(self.provisioner.channel.clone());
        answers.insert(
            "/chancery.v1.TransportKeyService/FetchKeysetExport",
            answer!(exports.fetch_keyset_export(calls.export.clone())),
        );
        let mut standing = StandingServiceClient::new(self.approver.channel.clone());
        answers.insert(
            "/chancery.v1.StandingService/SuspendParty",
            answer!(standing.suspend_party(calls.suspend.clone())),
        );
        let fetched = provisioner.fetch_session_keys(calls.fetch.clone()).await;
        answers.insert(
            FETCH,
            fetched.map(|response| {
                let response = response.into_inner();
                let content = self.provisioner.unseal(&calls.fetch, &response);
                Answer { content, entry_index: response.entry_index }
            }),
        );
        answers
    }
}

const FETCH: &str = "/chancery.v1.SessionKeyService/FetchSessionKeys";
const SCRIPTS: &str = "/chancery.v1.RotationService/FetchRotationScripts";

/// Of the manufacturer's certificate.
fn manufacturers_serial(deployment: &Deployment) -> Vec<u8> {
    let list = ["certificate", "list", "--holder", "eum", "--identity", "officer", "--output", "json"];
    let listed: serde_json::Value = serde_json::from_str(&deployment.chancery(&list)).unwrap();
    let listed = listed["certificates"].as_array().unwrap();
    let certificate = listed.iter().find(|certificate| certificate["profile"] == "eum").unwrap();
    hex::decode(certificate["serial_number"].as_str().unwrap()).unwrap()
}

/// A grant that nothing else is about.
fn operation(name: &str) -> Vec<u8> {
    #[expect(clippy::disallowed_methods, reason = "the daemon under test has the real clock too")]
    let now = SystemTime::now();
    let expires = Some((now + Duration::from_secs(3600)).into());
    let grant = CreateGrant {
        name: name.to_owned(),
        provisioner: "provisioner".to_owned(),
        eins: vec![GRANTED.to_owned()],
        purpose: "another".to_owned(),
        lawful_basis: "licence".to_owned(),
        expires,
        ..CreateGrant::default()
    };
    let operation = Operation {
        version: 1,
        salt: sha256(name.as_bytes()),
        authority: AUTHORITY.to_owned(),
        reason: "test".to_owned(),
        expires,
        kind: Some(Kind::CreateGrant(grant)),
    };
    operation.encode_to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_state_changing_call_is_answered_alike_again_after_a_restart() {
    let mut deployment = Deployment::found();
    let eids = [1, 2, 3, 4].map(|number| eid(GRANTED, number));
    let devices = deployment.order("first", &eids);
    deployment.enrol_party("provisioner", "other", &[]);
    let output = std::fs::read(deployment.path("first.jsonl")).unwrap();
    let callers = Callers::connect(&deployment).await;

    // Of two devices in a rotation one has its script out and loaded already.
    let rotated = [devices[0].eid.clone(), devices[1].eid.clone()];
    TwoPersons::of(&deployment).await.start(terms("rotation", &rotated)).await;
    let provisioner = Provisioner::of(&deployment).await;
    let script = provisioner.fetch("rotation", 1).await.unwrap().remove(0);
    let mut card = devices.iter().find(|device| device.eid == script.eid).unwrap().card();
    let mut loaded = provisioner.load(&mut card, &script).await.unwrap();
    loaded.proof = None;
    // Only a keyset that a card has proved is suspended.
    provisioner.open(&mut devices[2].card(), KVN).await.unwrap();

    let exported = masters::exported(&deployment, "provisioner", &devices[2].eid).await;
    let stored = operation("again");
    let digest = sha256(&stored);
    let key = |name: &str| format!("key-{name}");
    let calls = Calls {
        request: RequestOperationRequest {
            idempotency_key: key("request"),
            signature: callers.officer.approve(&digest),
            operation: stored,
        },
        decide: DecideOperationRequest {
            idempotency_key: key("decide"),
            digest: digest.clone(),
            decision: Decision::Approve.into(),
            signature: callers.approver.approve(&digest),
        },
        execute: ExecuteOperationRequest { idempotency_key: key("execute"), digest: digest.clone() },
        confirm: ConfirmOrderOutputRequest {
            idempotency_key: key("confirm"),
            order: "first".to_owned(),
            digest: sha256(&output),
        },
        fetch: devices[0].request(&key("fetch"), PURPOSE, CryptogramBehaviour::Honest),
        scripts: FetchRotationScriptsRequest {
            idempotency_key: key("scripts"),
            rotation: "rotation".to_owned(),
            limit: 10,
            lease_seconds: 0,
        },
        report: ReportRotationRequest {
            idempotency_key: key("report"),
            rotation: "rotation".to_owned(),
            reports: vec![loaded],
        },
        pause: PauseRotationRequest { idempotency_key: key("pause"), name: "rotation".to_owned() },
        resume: ResumeRotationRequest { idempotency_key: key("resume"), name: "rotation".to_owned() },
        freeze: FreezeDeviceRequest {
            idempotency_key: key("freeze"),
            eid: devices[3].eid.clone(),
            reason: FreezeReason::Stolen.into(),
            reference: "case 7".to_owned(),
        },
        suspend: SuspendPartyRequest { idempotency_key: key("suspend"), name: "other".to_owned() },
        export: FetchKeysetExportRequest { idempotency_key: key("export"), operation: exported },
        suspend_keyset: SuspendKeysetRequest {
            idempotency_key: key("suspend-keyset"),
            eid: devices[2].eid.clone(),
            keyset: Some(keyset(KVN)),
        },
        hold: HoldCertificateRequest {
            idempotency_key: key("hold"),
            serial_number: manufacturers_serial(&deployment),
            reference: "case 9".to_owned(),
            issuer: String::new(),
        },
    };
    let first = callers.make(&calls).await;
    let released =
        FetchRotationScriptsResponse::decode(&first[SCRIPTS].as_ref().unwrap().content[..]).unwrap();
    assert_eq!(released.scripts.len(), 1);
    // The walk: whatever the contract says is to be repeated has its case above; RSP, which needs an eUICC, in `rsp`, and
    // packets, scripts and TLS secrets, which need keysets of their own, in `ota` and `psk`; deletions in `carried`; anchors in
    // `rsp::foreign`, certificates from elsewhere in `adoption`.
    let rules = Rules::of_contract().unwrap();
    let wanted: Vec<&str> = rules
        .iter()
        .filter(|rule| rule.changes_state && rule.has_idempotency_key)
        .filter(|rule| !rule.path.starts_with("/chancery.v1.RspService/"))
        .filter(|rule| !rule.path.starts_with("/chancery.v1.OtaService/"))
        .filter(|rule| !rule.path.starts_with("/chancery.v1.Scp11Service/"))
        .filter(|rule| !rule.path.starts_with("/chancery.v1.AnchorService/"))
        .filter(|rule| !rule.path.ends_with("/FetchTlsSecret"))
        .filter(|rule| !rule.path.ends_with("/AdoptCertificates"))
        .filter(|rule| !rule.path.contains("Deletion"))
        .map(|rule| rule.path.as_str())
        .collect();
    assert_eq!(first.keys().copied().collect::<Vec<_>>(), wanted);

    deployment.restart();
    let callers = Callers::connect(&deployment).await;
    let second = callers.make(&calls).await;
    let entries = deployment.entries();
    for (path, first) in &first {
        let (first, second) = (first.as_ref().unwrap(), second[path].as_ref().unwrap());
        assert_eq!(first.content, second.content, "{path}");
        let done = &entries[usize::try_from(first.entry_index).unwrap()];
        assert_eq!(done.header.outcome, Outcome::Done, "{path}");
        // Keys and scripts are released again, which is a release of its own; everything else names the entry of the deed.
        let again = if [FETCH, SCRIPTS].contains(path) {
            &entries[usize::try_from(second.entry_index).unwrap()]
        } else {
            assert_eq!(first.entry_index, second.entry_index, "{path}");
            entries.iter().find(|entry| entry.number("entry") == Some(first.entry_index)).unwrap()
        };
        assert_eq!(again.header.outcome, Outcome::Repeated, "{path}");
        assert_eq!(again.header.event, done.header.event, "{path}");
        assert_eq!(again.header.actor, done.header.actor, "{path}");
        assert!(again.digest("request").is_some(), "{path}");
    }

    // The same keys with other requests.
    let other = operation("other");
    let other_digest = sha256(&other);
    let calls = Calls {
        request: RequestOperationRequest {
            signature: callers.officer.approve(&other_digest),
            operation: other,
            ..calls.request
        },
        decide: DecideOperationRequest { decision: Decision::Reject.into(), ..calls.decide },
        execute: ExecuteOperationRequest { digest: other_digest, ..calls.execute },
        confirm: ConfirmOrderOutputRequest { digest: vec![7; 32], ..calls.confirm },
        fetch: devices[1].request(&key("fetch"), PURPOSE, CryptogramBehaviour::Honest),
        scripts: FetchRotationScriptsRequest { limit: 9, ..calls.scripts },
        report: ReportRotationRequest { reports: Vec::new(), ..calls.report },
        pause: PauseRotationRequest { name: "another".to_owned(), ..calls.pause },
        resume: ResumeRotationRequest { name: "another".to_owned(), ..calls.resume },
        freeze: FreezeDeviceRequest { reference: "case 8".to_owned(), ..calls.freeze },
        suspend: SuspendPartyRequest { name: "eum".to_owned(), ..calls.suspend },
        export: FetchKeysetExportRequest { operation: vec![7; 32], ..calls.export },
        suspend_keyset: SuspendKeysetRequest { keyset: Some(keyset(NEW_KVN)), ..calls.suspend_keyset },
        hold: HoldCertificateRequest { reference: "case 10".to_owned(), ..calls.hold },
    };
    for (path, answer) in callers.make(&calls).await {
        assert_eq!(reason(&answer.unwrap_err()), "IDEMPOTENCY_KEY_REUSED", "{path}");
    }
}
