//! Bad input of every kind: the caller hears a reason and what to do next, the log has one entry more and it says who it
//! was, no token was asked, nothing else changed, and the next call is answered.
//!
//! Elsewhere: bytes that are no message of their type, cut off or too large (`wire`); unknown and repeated fields in what
//! becomes an operation (`approvals`); client certificates of another authority (`strangers`).

mod disk;
mod expired;
mod tokens;

use std::fs;
use std::future::Future;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use audit::{Entry, EventType, Outcome};
use prost::Message;
use proto::v1::audit_service_client::AuditServiceClient;
use proto::v1::device_service_client::DeviceServiceClient;
use proto::v1::issue_certificate::Key;
use proto::v1::operation::Kind;
use proto::v1::operation_service_client::OperationServiceClient;
use proto::v1::order_line::Key as LineKey;
use proto::v1::order_service_client::OrderServiceClient;
use proto::v1::rotation_service_client::RotationServiceClient;
use proto::v1::session_key_service_client::SessionKeyServiceClient;
use proto::v1::standing_service_client::StandingServiceClient;
use proto::v1::{
    CardProof, EnrolParty, FetchSessionKeysRequest, FreezeDeviceRequest, FreezeReason, GetCheckpointRequest,
    GetDeviceRequest, IssueCertificate, KeysetName, ListOperationsRequest, Operation, OrderHeader, OrderLine,
    PlaceOrderRequest, ReportRotationRequest, RequestOperationRequest, RotationReport, SuspendPartyRequest,
    order_line_result, place_order_request, place_order_response,
};
use tests::card::CryptogramBehaviour;
use tonic::client::Grpc;
use tonic::codegen::tokio_stream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt;

use crate::caller::{Caller, reason, sha256};
use crate::devices::{KVN, eid, new_public_key};
use crate::support::{ACCREDITATION, AUTHORITY, Deployment, GRANTED, ISSUER, PURPOSE, program};

/// The tokens that make keys and certificates.
const TOKENS: [&str; 2] = ["ca", "kms"];
/// Longest time anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A metric of a token.
pub fn token_metric(deployment: &Deployment, what: &str, token: &str) -> u64 {
    let wanted = format!("chancery_token_{what}{{token=\"{token}\"}} ");
    let text = deployment.metrics();
    text.lines().find_map(|line| line.strip_prefix(&wanted)).unwrap().parse().unwrap()
}

fn jobs(deployment: &Deployment) -> [u64; 2] {
    TOKENS.map(|token| token_metric(deployment, "jobs_total", token))
}

fn calls(deployment: &Deployment) -> [u64; 2] {
    TOKENS.map(|token| token_metric(deployment, "pkcs11_calls_total", token))
}

/// An authority to which bad input is given, and what it must have written down.
struct Stage<'d> {
    deployment: &'d Deployment,
    auditor: AuditServiceClient<Channel>,
    eum: OrderServiceClient<Channel>,
    refused: Vec<Refusal>,
}

/// A refusal, to be found in the log.
struct Refusal {
    what: String,
    reason: String,
    index: usize,
}

impl<'d> Stage<'d> {
    async fn of(deployment: &'d Deployment) -> Self {
        let auditor = AuditServiceClient::new(deployment.caller("auditor").await.channel);
        let eum = OrderServiceClient::new(deployment.caller("eum").await.channel);
        Self { deployment, auditor, eum, refused: Vec::new() }
    }

    /// A call that must be refused so, and do nothing but that.
    async fn refuses<T>(
        &mut self,
        what: &str,
        expected: (Code, &str),
        call: impl Future<Output = Result<T, Status>>,
    ) -> Status {
        let (size, jobs) = (self.deployment.log_size(), jobs(self.deployment));
        let Err(status) = call.await else { panic!("{what}: answered") };
        assert_eq!((status.code(), reason(&status).as_str()), expected, "{what}: {status}");
        let info = status.get_details_error_info().unwrap();
        assert!(!info.metadata["next_step"].is_empty(), "{what}: what next?");
        let index = status.metadata().get("chancery-entry-index").unwrap().to_str().unwrap();
        assert_eq!(index, size.to_string(), "{what}: another entry came before its own");
        self.nothing_else(what, expected.1, size, jobs).await;
        status
    }

    /// A line that must be refused so, and do nothing but that. Gives the text.
    async fn refuses_line(&mut self, what: &str, reason: &str, line: OrderLine) -> String {
        let (size, jobs) = (self.deployment.log_size(), jobs(self.deployment));
        let order = format!("bad-{}", self.refused.len());
        let results = place(&mut self.eum, &order, ISSUER, vec![line]).await.unwrap();
        let [order_line_result::Result::Refusal(refusal)] = &results[..] else { panic!("{what}: taken") };
        assert_eq!(refusal.reason, reason, "{what}: {}", refusal.message);
        assert!(!refusal.next_step.is_empty(), "{what}: what next?");
        self.nothing_else(what, reason, size, jobs).await;
        refusal.message.clone()
    }

    async fn nothing_else(&mut self, what: &str, reason: &str, size: u64, before: [u64; 2]) {
        assert_eq!(self.deployment.log_size(), size + 1, "{what}: not one entry");
        assert_eq!(jobs(self.deployment), before, "{what}: a token was asked");
        self.refused.push(Refusal {
            what: what.to_owned(),
            reason: reason.to_owned(),
            index: size.try_into().unwrap(),
        });
        self.auditor.get_checkpoint(GetCheckpointRequest::default()).await.unwrap();
    }

    /// Idle workers are asked for their canary, which is no job; nothing else may have called into a token.
    fn no_token_was_called(&self, since: Instant, before: [u64; 2]) {
        for ((token, before), now) in TOKENS.into_iter().zip(before).zip(calls(self.deployment)) {
            if now == before {
                continue;
            }
            // A canary that is seen alone tells what one takes.
            let started = Instant::now();
            let mut next = now;
            while next == now {
                assert!(started.elapsed() < PATIENCE, "{token}: calls, and no canary");
                std::thread::sleep(Duration::from_millis(5));
                next = token_metric(self.deployment, "pkcs11_calls_total", token);
            }
            let (canary, calls) = (next - now, now - before);
            let workers = self.deployment.worker_pids().len() as u64;
            let canaries_max = workers * (since.elapsed().as_secs() / 5 + 1);
            assert!(
                calls.is_multiple_of(canary) && calls / canary <= canaries_max,
                "{token}: {calls} calls, where a canary takes {canary}"
            );
        }
    }

    /// Every refusal has its entry, which says the same and who it was.
    fn all_recorded(&self, entries: &[Entry]) {
        for refusal in &self.refused {
            let (header, what) = (&entries[refusal.index].header, &refusal.what);
            let Outcome::Refused(reason) = header.outcome else { panic!("{what}: no refusal") };
            assert_eq!(reason.as_str(), refusal.reason, "{what}");
            assert!(header.actor.is_some(), "{what}: by nobody");
        }
    }
}

/// Sends an order's lines and gives what became of each.
async fn place(
    eum: &mut OrderServiceClient<Channel>,
    order: &str,
    issuer: &str,
    lines: Vec<OrderLine>,
) -> Result<Vec<order_line_result::Result>, Status> {
    let lines = lines.into_iter().map(place_order_request::Part::Line);
    let parts = [place_order_request::Part::Header(header(order, issuer))].into_iter().chain(lines);
    let requests: Vec<_> = parts.map(|part| PlaceOrderRequest { part: Some(part) }).collect();
    let mut answers = eum.place_order(tokio_stream::iter(requests)).await?.into_inner();
    let mut results = Vec::new();
    while let Some(answer) = answers.message().await? {
        if let Some(place_order_response::Part::Line(line)) = answer.part {
            results.push(line.result.unwrap());
        }
    }
    Ok(results)
}

fn header(order: &str, issuer: &str) -> OrderHeader {
    let keyset = KeysetName { security_domain: 1, protocol: 3, key_version_number: KVN.into() };
    OrderHeader {
        order: order.to_owned(),
        issuer: issuer.to_owned(),
        keyset: Some(keyset),
        key_bits: 128,
        ..OrderHeader::default()
    }
}

fn with_key(eid: &str, key: LineKey) -> OrderLine {
    OrderLine { line: 1, eid: eid.to_owned(), key: Some(key), ..OrderLine::default() }
}

/// A key pair: PKCS#8, and the point of its public half.
struct KeyPair {
    pkcs8: Vec<u8>,
    point: [u8; 65],
}

impl KeyPair {
    fn new() -> Self {
        let pkcs8 = pki::generate_p256().unwrap().to_vec();
        let csr = pki::csr::create_csr(&pkcs8, "x", "x").unwrap();
        let verified = pki::csr::VerifiedCsr::parse(&csr, pki::KnownKeys::Refuse).unwrap();
        let point = verified.public_key().p256_point().unwrap();
        Self { pkcs8, point }
    }

    fn of_pem(path: &Path) -> Vec<u8> {
        pki::private_key_from_pem(&fs::read(path).unwrap()).unwrap().to_vec()
    }

    fn csr(&self) -> Vec<u8> {
        pki::csr::create_csr(&self.pkcs8, "x", "x").unwrap()
    }

    /// A request that names another key than the one that signed it.
    fn csr_naming(&self, point: &[u8; 65]) -> Vec<u8> {
        let mut csr = self.csr();
        let at = csr.windows(65).position(|window| window == self.point).unwrap();
        csr[at..at + 65].copy_from_slice(point);
        csr
    }
}

/// The certification requests that no certificate may come of: what, and a word of the reason that is given.
fn bad_requests(rsa: &Rsa1024) -> [(&'static str, Vec<u8>, &'static str); 5] {
    let (key, other) = (KeyPair::new(), KeyPair::new());
    let mut bad_signature = key.csr();
    *bad_signature.last_mut().unwrap() ^= 1;
    let mut off_curve = key.point;
    off_curve[64] ^= 1;
    [
        ("a request with a bad signature", bad_signature, "signature does not verify"),
        ("a request for somebody else's key", key.csr_naming(&other.point), "signature does not verify"),
        ("a request with a point off the curve", key.csr_naming(&off_curve), "not on its curve"),
        ("a request for RSA-1024", rsa.csr.clone(), "RSA-1024"),
        ("a request that is junk", vec![0x30; 40_000], "exceeds"),
    ]
}

/// A request and a public key that OpenSSL made, both well-formed.
struct Rsa1024 {
    csr: Vec<u8>,
    spki: Vec<u8>,
}

impl Rsa1024 {
    fn make(deployment: &Deployment) -> Self {
        let new = ["req", "-new", "-newkey", "rsa:1024", "-nodes", "-keyout", "rsa.pem", "-subj", "/CN=x"];
        openssl(deployment, &[&new[..], &["-outform", "DER", "-out", "rsa.csr"]].concat());
        openssl(deployment, &["pkey", "-in", "rsa.pem", "-pubout", "-outform", "DER", "-out", "rsa.spki"]);
        let read = |name| fs::read(deployment.path(name)).unwrap();
        Self { csr: read("rsa.csr"), spki: read("rsa.spki") }
    }
}

pub fn openssl(deployment: &Deployment, arguments: &[&str]) {
    let output = Command::new("openssl").current_dir(deployment.path("")).args(arguments).output().unwrap();
    assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
}

/// An operation, requested by the officer: its digest.
async fn request(officer: &Caller, kind: Kind) -> Result<Vec<u8>, Status> {
    #[expect(clippy::disallowed_methods, reason = "the daemon under test has the real clock too")]
    let now = SystemTime::now();
    let operation = Operation {
        version: 1,
        salt: sha256(&new_public_key()),
        authority: AUTHORITY.to_owned(),
        reason: "test".to_owned(),
        expires: Some((now + Duration::from_secs(3600)).into()),
        kind: Some(kind),
    };
    let operation = operation.encode_to_vec();
    let digest = sha256(&operation);
    let message = RequestOperationRequest {
        idempotency_key: hex::encode(&digest[..8]),
        signature: officer.approve(&digest),
        operation,
    };
    OperationServiceClient::new(officer.channel.clone()).request_operation(message).await.map(|_| digest)
}

/// Requested, approved and executed by two persons.
fn two_persons(deployment: &Deployment, request: &[&str], out: &str) {
    let digest = &deployment.request(request);
    deployment.chancery(&["operation", "approve", digest, "--yes", "--identity", "approver"]);
    deployment.chancery(&["operation", "execute", digest, "--identity", "officer", "--out", out]);
}

/// A manufacturer that may order a single device, with its issuer.
fn enrol_small_manufacturer(deployment: &Deployment) {
    let create = ["identity", "create", "--kind", "eum", "--name", "small", "--organization", "Small"];
    deployment.chancery(&[&create[..], &["--country", "IT", "--out", "small"]].concat());
    let enrol = ["party", "enrol", "--folder", "small", "--ein", "89049033", "--quota", "1"];
    two_persons(deployment, &[&enrol[..], &["--reason", "contract"]].concat(), "received/small");
    let server = format!("127.0.0.1:{}", deployment.port());
    let certificates = ["--certificate", "received/small/certificate.pem"];
    let place =
        ["--authority-ca", "handover/authority-ca.pem", "--server", &server, "--authority", AUTHORITY];
    deployment.chancery(&[&["identity", "install", "small"][..], &certificates, &place].concat());
    let output = Command::new(program("chanceryd"))
        .current_dir(deployment.path(""))
        .args(["ceremony", "create-key", "--config", "chanceryd.toml", "--name", "small-ca"])
        .args(["--party", "small", "--out", "small-ca.json"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let register = ["issuer", "register", "--key-file", "small-ca.json", "--reason", "ceremony"];
    two_persons(deployment, &register, "received/small-ca");
    let request = ["certificate", "request", "--profile", "eum", "--party", "small", "--issuer", "small-ca"];
    let subject = ["--common-name", "Small", "--registered-id", "2.999.6", "--reason", "contract"];
    let request = [&request[..], &subject].concat();
    let refused = deployment.refused("chancery", &[&request[..], &["--identity", "officer"]].concat());
    assert!(refused.contains("ACCREDITATION_ENDED"), "{refused}");
    let accredit = [&["party", "accredit", "small", "--reason", "audited"][..], &ACCREDITATION].concat();
    two_persons(deployment, &accredit, "received/small-accredited");
    two_persons(deployment, &request, "received/small-eum");
}

fn count(entries: &[Entry], event: EventType) -> usize {
    let done = |entry: &&Entry| entry.header.event == event && entry.header.outcome == Outcome::Done;
    entries.iter().filter(done).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_refused_with_a_reason_recorded_and_leaves_nothing_else() {
    let deployment = Deployment::found();
    let eids = [eid(GRANTED, 1)];
    let device = deployment.order("first", &eids).remove(0);
    enrol_small_manufacturer(&deployment);
    let rsa = Rsa1024::make(&deployment);
    let officer = deployment.caller("officer").await;
    let provisioner = deployment.caller("provisioner").await;
    let mut session_keys = SessionKeyServiceClient::new(provisioner.channel.clone());
    let fetch = |key: &str| device.request(key, PURPOSE, CryptogramBehaviour::Honest);
    session_keys.fetch_session_keys(fetch("before")).await.unwrap();
    let mut stage = Stage::of(&deployment).await;
    let registered = |entries: &[Entry]| count(entries, EventType::DeviceRegistered);
    let issued = |entries: &[Entry]| count(entries, EventType::CertificateIssued);
    let before = deployment.entries();
    let (since, calls_before) = (Instant::now(), calls(&deployment));

    // Orders: devices and keys.
    let ordered = fs::read_to_string(deployment.path("first.csv")).unwrap();
    let ordered_key = ordered.lines().nth(1).and_then(|line| line.split_once(',')).unwrap().1;
    let ordered_key = hex::decode(ordered_key).unwrap();
    let tls_key = KeyPair::of_pem(&deployment.path("provisioner/tls-key.pem"));
    let tls_csr = pki::csr::create_csr(&tls_key, "x", "x").unwrap();
    let new = |eid: &str| with_key(eid, LineKey::PublicKey(new_public_key()));
    let mut wrong_digits = eid(GRANTED, 2).into_bytes();
    wrong_digits[31] = if wrong_digits[31] == b'9' { b'0' } else { wrong_digits[31] + 1 };
    let wrong_digits = String::from_utf8(wrong_digits).unwrap();
    let off_curve = {
        let mut point = KeyPair::new().point;
        point[64] ^= 1;
        pki::ec_spki(domain::Curve::P256, &point)
    };
    let wanted = eid(GRANTED, 3);
    for (what, reason, line) in [
        ("an EID with wrong check digits", "INVALID_EID", new(&wrong_digits)),
        ("an EID of 31 digits", "INVALID_EID", new(&wanted[..31])),
        ("an EID out of range", "EID_OUT_OF_RANGE", new(&eid("89049033", 1))),
        ("a device that is registered", "DUPLICATE_DEVICE", new(&eids[0])),
        (
            "the key of another device",
            "DUPLICATE_KEY",
            with_key(&wanted, LineKey::PublicKey(ordered_key.clone())),
        ),
        ("the key of a party, proved", "DUPLICATE_KEY", with_key(&wanted, LineKey::Csr(tls_csr.clone()))),
        ("a point off the curve", "WEAK_KEY", with_key(&wanted, LineKey::PublicKey(off_curve))),
        ("an RSA-1024 key", "WEAK_KEY", with_key(&wanted, LineKey::PublicKey(rsa.spki.clone()))),
        ("a megabyte as key", "WEAK_KEY", with_key(&wanted, LineKey::PublicKey(vec![4; 1_000_000]))),
        ("a megabyte as request", "INVALID_CSR", with_key(&wanted, LineKey::Csr(vec![0x30; 1_000_000]))),
        (
            "a line without key",
            "INVALID_FIELD",
            OrderLine { line: 1, eid: wanted.clone(), ..OrderLine::default() },
        ),
        ("a line without number", "INVALID_FIELD", OrderLine { line: 0, ..new(&wanted) }),
    ] {
        stage.refuses_line(what, reason, line).await;
    }
    for (what, csr, says) in bad_requests(&rsa) {
        let text = stage.refuses_line(what, "INVALID_CSR", with_key(&wanted, LineKey::Csr(csr))).await;
        assert!(text.contains(says), "{what}: {text}");
    }

    // Operations: the same requests for a certificate, and keys of a party. Nothing is stored.
    let certificate = |csr: Vec<u8>| {
        Kind::IssueCertificate(IssueCertificate {
            profile: "dppb".to_owned(),
            party: "provisioner".to_owned(),
            common_name: "DP".to_owned(),
            key: Some(Key::Csr(csr)),
            registered_id: "2.999.10".to_owned(),
            dns_name: String::new(),
            renews: Vec::new(),
            under: String::new(),
        })
    };
    let invalid = Code::InvalidArgument;
    for (what, csr, says) in bad_requests(&rsa) {
        let call = request(&officer, certificate(csr));
        let status = stage.refuses(what, (invalid, "INVALID_CSR"), call).await;
        assert!(status.message().contains(says), "{what}: {status}");
    }
    let call = request(&officer, certificate(vec![0x30; 1_000_000]));
    stage.refuses("a megabyte in an operation", (invalid, "INVALID_FIELD"), call).await;
    let party = |tls_csr: Vec<u8>, transport_key: Vec<u8>| {
        Kind::EnrolParty(EnrolParty {
            name: "another".to_owned(),
            role: proto::options::v1::Role::Eum.into(),
            organization: "Another".to_owned(),
            country: "IT".to_owned(),
            tls_csr,
            eins: vec!["89049034".to_owned()],
            device_quota: 1,
            transport_key,
            encryption_key: Vec::new(),
            accreditation: None,
        })
    };
    let call = request(&officer, party(KeyPair::new().csr(), rsa.spki.clone()));
    stage.refuses("a transport key of 1,024 bits", (invalid, "WEAK_KEY"), call).await;
    let call = request(&officer, party(tls_csr.clone(), rsa.spki.clone()));
    stage.refuses("a party with another's key", (Code::AlreadyExists, "DUPLICATE_KEY"), call).await;
    // Nobody is asked to approve what cannot be carried out.
    let call = request(&officer, certificate(tls_csr));
    stage.refuses("the key of a party again", (Code::AlreadyExists, "DUPLICATE_KEY"), call).await;
    let mut operations = OperationServiceClient::new(officer.channel.clone());
    let open = ListOperationsRequest { open_only: true, ..ListOperationsRequest::default() };
    let open = operations.list_operations(open).await.unwrap().into_inner().operations;
    assert!(open.is_empty(), "a refused operation was stored");

    // The main job.
    let change = |key: &str, change: &dyn Fn(&mut FetchSessionKeysRequest)| {
        let mut request = fetch(key);
        change(&mut request);
        request
    };
    let kvn = |number: u32| {
        change("kvn", &move |request| {
            request.keyset = Some(KeysetName { security_domain: 1, protocol: 3, key_version_number: number })
        })
    };
    let mut bad = vec![
        ("a wrong EID", (invalid, "INVALID_EID"), change("eid", &|r| r.eid.clone_from(&wrong_digits))),
        ("an unknown KVN", (Code::NotFound, "UNKNOWN_KEYSET"), kvn(0x31)),
        ("no keyset", (invalid, "INVALID_FIELD"), change("keyset", &|r| r.keyset = None)),
        ("no idempotency key", (invalid, "INVALID_FIELD"), change("", &|_| ())),
        ("a long idempotency key", (invalid, "INVALID_FIELD"), change(&"k".repeat(65), &|_| ())),
    ];
    for number in [0, 0x2f, 0x40, 0xff, 0x130, u32::MAX] {
        bad.push(("a KVN that SCP03 has not", (invalid, "INVALID_FIELD"), kvn(number)));
    }
    for bytes in [0, 7, 9, 16] {
        let value = vec![7; bytes];
        for (what, request) in [
            ("a host challenge", change("host", &|r| r.host_challenge.clone_from(&value))),
            ("a card challenge", change("card", &|r| r.card_challenge.clone_from(&value))),
            ("a card cryptogram", change("cryptogram", &|r| r.card_cryptogram.clone_from(&value))),
        ] {
            bad.push((what, (invalid, "INVALID_FIELD"), request));
        }
    }
    for (what, expected, request) in bad {
        stage.refuses(what, expected, session_keys.fetch_session_keys(request)).await;
    }

    // Reports of a rotation, and a freeze.
    let mut rotations = RotationServiceClient::new(provisioner.channel.clone());
    for bytes in [0, 7, 9, 16] {
        for place in 0..3 {
            let length = |at: usize| vec![7; if at == place { bytes } else { 8 }];
            let proof = CardProof {
                host_challenge: length(0),
                card_challenge: length(1),
                card_cryptogram: length(2),
            };
            let report =
                RotationReport { eid: eids[0].clone(), proof: Some(proof), ..RotationReport::default() };
            let call = rotations.report_rotation(ReportRotationRequest {
                idempotency_key: "report".to_owned(),
                rotation: "none".to_owned(),
                reports: vec![report],
            });
            stage.refuses("a proof of wrong length", (invalid, "INVALID_FIELD"), call).await;
        }
    }
    let mut devices = DeviceServiceClient::new(officer.channel.clone());
    let freeze = |eid: &str, reason: FreezeReason, reference: &str| FreezeDeviceRequest {
        idempotency_key: "freeze".to_owned(),
        eid: eid.to_owned(),
        reason: reason.into(),
        reference: reference.to_owned(),
    };
    let stolen = FreezeReason::Stolen;
    for (what, expected, request) in [
        ("a freeze of no EID", (invalid, "INVALID_EID"), freeze(&wrong_digits, stolen, "case 1")),
        ("a freeze of no device", (Code::NotFound, "UNKNOWN_DEVICE"), freeze(&wanted, stolen, "case 1")),
        (
            "a freeze without reason",
            (invalid, "INVALID_FIELD"),
            freeze(&eids[0], FreezeReason::Unspecified, "case 1"),
        ),
        ("a freeze without reference", (invalid, "INVALID_FIELD"), freeze(&eids[0], stolen, "")),
        ("a control character", (invalid, "INVALID_FIELD"), freeze(&eids[0], stolen, "case\n1")),
        ("a long reference", (invalid, "INVALID_FIELD"), freeze(&eids[0], stolen, &"1".repeat(101))),
    ] {
        stage.refuses(what, expected, devices.freeze_device(request)).await;
    }

    // Nobody of all these exists.
    for eid in [&wanted, &eid("89049033", 1)] {
        let call = devices.get_device(GetDeviceRequest { eid: eid.clone() });
        stage.refuses("a device that was refused", (Code::NotFound, "UNKNOWN_DEVICE"), call).await;
    }
    stage.no_token_was_called(since, calls_before);
    let after = deployment.entries();
    assert_eq!(registered(&after), registered(&before), "a device appeared");
    assert_eq!(issued(&after), issued(&before), "a certificate appeared");
    stage.all_recorded(&after);

    // And the service goes on: the same EID with a good key, the same card.
    let line = with_key(&wanted, LineKey::Csr(KeyPair::new().csr()));
    let results = place(&mut stage.eum, "good", ISSUER, vec![line]).await.unwrap();
    assert!(matches!(results[..], [order_line_result::Result::Certificate(_)]));
    session_keys.fetch_session_keys(fetch("after")).await.unwrap();

    a_quota_ends_where_it_says(&deployment).await;
    an_order_takes_each_device_and_key_once(&deployment, &mut stage.eum).await;
    nobody_chooses_a_serial_number(&deployment).await;
    a_suspended_party_is_refused_until_two_restore_it(&deployment, &mut stage, fetch).await;
}

async fn a_quota_ends_where_it_says(deployment: &Deployment) {
    let mut small = OrderServiceClient::new(deployment.caller("small").await.channel);
    let lines = [1, 2].map(|line| OrderLine {
        line,
        eid: eid("89049033", usize::try_from(line).unwrap()),
        key: Some(LineKey::PublicKey(new_public_key())),
        ..OrderLine::default()
    });
    let results = place(&mut small, "both", "small-ca", lines.to_vec()).await.unwrap();
    let [order_line_result::Result::Certificate(_), order_line_result::Result::Refusal(refusal)] =
        &results[..]
    else {
        panic!("one device fits the quota");
    };
    assert_eq!(refusal.reason, "QUOTA_EXCEEDED");
    // Alone, so that nothing else asks a token.
    let mut stage = Stage::of(deployment).await;
    let (size, before) = (deployment.log_size(), jobs(deployment));
    let results = place(&mut small, "another", "small-ca", lines[1..].to_vec()).await.unwrap();
    let [order_line_result::Result::Refusal(refusal)] = &results[..] else { panic!("over the quota") };
    assert_eq!(refusal.reason, "QUOTA_EXCEEDED");
    stage.nothing_else("over the quota", "QUOTA_EXCEEDED", size, before).await;
    // The issuer of another manufacturer does not exist for this one.
    let call = place(&mut small, "foreign", ISSUER, lines[1..].to_vec());
    stage.refuses("another's issuer", (Code::NotFound, "UNKNOWN_ISSUER"), call).await;
    stage.all_recorded(&deployment.entries());
}

async fn an_order_takes_each_device_and_key_once(
    deployment: &Deployment,
    eum: &mut OrderServiceClient<Channel>,
) {
    let key = new_public_key();
    let [first, second] = [eid(GRANTED, 11), eid(GRANTED, 12)];
    let line = |line, eid: &str, key: &[u8]| OrderLine {
        line,
        eid: eid.to_owned(),
        key: Some(LineKey::PublicKey(key.to_vec())),
        ..OrderLine::default()
    };
    let lines = vec![line(1, &first, &key), line(2, &second, &key), line(3, &first, &new_public_key())];
    let before = jobs(deployment);
    let results = place(eum, "twice", ISSUER, lines).await.unwrap();
    let reasons: Vec<&str> = results
        .iter()
        .map(|result| match result {
            order_line_result::Result::Certificate(_) => "taken",
            order_line_result::Result::KeysetMade(_) | order_line_result::Result::MovedIn(_) => "made",
            order_line_result::Result::Refusal(refusal) => &refusal.reason,
        })
        .collect();
    assert_eq!(reasons, ["taken", "DUPLICATE_KEY", "DUPLICATE_DEVICE"]);
    assert_eq!(jobs(deployment), before.map(|jobs| jobs + 1), "one signature and one keyset");
}

/// An order line with a field that the contract has not.
#[derive(Clone, PartialEq, prost::Message)]
struct LineWithSerial {
    #[prost(uint64, tag = "1")]
    line: u64,
    #[prost(string, tag = "2")]
    eid: String,
    #[prost(bytes = "vec", tag = "3")]
    public_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "15")]
    serial_number: Vec<u8>,
}

/// [`PlaceOrderRequest`] with such a line.
#[derive(Clone, PartialEq, prost::Message)]
struct PlaceWithSerial {
    #[prost(message, optional, tag = "1")]
    header: Option<OrderHeader>,
    #[prost(message, optional, tag = "2")]
    line: Option<LineWithSerial>,
}

/// The contract has no field for it, and what is sent beside the contract has no effect.
async fn nobody_chooses_a_serial_number(deployment: &Deployment) {
    let wanted = [vec![0x11; 20], vec![0x22; 8]];
    let lines = wanted.iter().zip(1..).map(|(serial, line)| PlaceWithSerial {
        header: None,
        line: Some(LineWithSerial {
            line,
            eid: eid(GRANTED, 20 + usize::try_from(line).unwrap()),
            public_key: new_public_key(),
            serial_number: serial.clone(),
        }),
    });
    let first = PlaceWithSerial { header: Some(header("serial", ISSUER)), line: None };
    let messages: Vec<_> = [first].into_iter().chain(lines).collect();
    let mut client = Grpc::new(deployment.caller("eum").await.channel);
    client.ready().await.unwrap();
    let codec = ProstCodec::<PlaceWithSerial, proto::v1::PlaceOrderResponse>::default();
    let path = "/chancery.v1.OrderService/PlaceOrder".parse().unwrap();
    let request = Request::new(tokio_stream::iter(messages));
    let mut answers = client.streaming(request, path, codec).await.unwrap().into_inner();
    let mut serials = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        if let Some(place_order_response::Part::Line(line)) = answer.part {
            let Some(order_line_result::Result::Certificate(der)) = line.result else { panic!("refused") };
            serials.push(pki::Certificate::from_der(&der).unwrap().serial().as_bytes().to_vec());
        }
    }
    assert_eq!(serials.len(), 2);
    assert_ne!(serials[0], serials[1]);
    for serial in &serials {
        assert_eq!(serial.len(), 20);
        assert!(serial[0] != 0 && serial[0] < 0x80, "no positive number of 20 octets");
        assert!(!wanted.contains(serial), "a caller chose a serial number");
    }
}

async fn a_suspended_party_is_refused_until_two_restore_it(
    deployment: &Deployment,
    stage: &mut Stage<'_>,
    fetch: impl Fn(&str) -> FetchSessionKeysRequest,
) {
    let provisioner = deployment.caller("provisioner").await;
    let mut session_keys = SessionKeyServiceClient::new(provisioner.channel.clone());
    let mut standing = StandingServiceClient::new(deployment.caller("officer").await.channel);
    let suspend = |key: &str, name: &str| SuspendPartyRequest {
        idempotency_key: key.to_owned(),
        name: name.to_owned(),
    };
    let violation = (Code::FailedPrecondition, "POLICY_VIOLATION");
    let call = standing.suspend_party(suspend("person", "approver"));
    stage.refuses("a person suspended by one", violation, call).await;
    let call = standing.suspend_party(suspend("nobody", "nobody"));
    stage.refuses("nobody suspended", (Code::NotFound, "UNKNOWN_PARTY"), call).await;
    for party in ["provisioner", "eum"] {
        standing.suspend_party(suspend(party, party)).await.unwrap();
    }
    let call = standing.suspend_party(suspend("again", "provisioner"));
    stage.refuses("suspended twice", violation, call).await;

    // On the connection from before, and on a new one.
    let suspended = (Code::PermissionDenied, "PRINCIPAL_SUSPENDED");
    let call = session_keys.fetch_session_keys(fetch("suspended"));
    stage.refuses("a suspended provisioner", suspended, call).await;
    let mut again = SessionKeyServiceClient::new(deployment.caller("provisioner").await.channel);
    let call = again.fetch_session_keys(fetch("suspended"));
    stage.refuses("a suspended provisioner comes again", suspended, call).await;
    let mut eum = OrderServiceClient::new(deployment.caller("eum").await.channel);
    let line = with_key(&eid(GRANTED, 31), LineKey::PublicKey(new_public_key()));
    let call = place(&mut eum, "suspended", ISSUER, vec![line.clone()]);
    stage.refuses("a suspended manufacturer", suspended, call).await;

    for party in ["provisioner", "eum"] {
        let restore = ["party", "restore", party, "--reason", "cleared"];
        two_persons(deployment, &restore, &format!("restored/{party}"));
    }
    session_keys.fetch_session_keys(fetch("suspended")).await.unwrap();
    let results = place(&mut eum, "suspended", ISSUER, vec![line]).await.unwrap();
    assert!(matches!(results[..], [order_line_result::Result::Certificate(_)]));
    stage.all_recorded(&deployment.entries());
}
