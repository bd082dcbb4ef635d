//! The remote commands against a service of this test, over real mTLS: what is sent, what is believed, what is repeated.

mod fleet;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use clap::Parser;
use domain::{Clock, Timestamp};
use pki::{CertificateInputs, CertificateRole, CivilTime, PrivateKey, SerialNumber, SubjectValues};
use prost::Message;
use proto::v1::device_service_server::DeviceServiceServer;
use proto::v1::operation_service_server::{OperationService, OperationServiceServer};
use proto::v1::order_service_server::{OrderService, OrderServiceServer};
use proto::v1::rotation_service_server::RotationServiceServer;
use proto::v1::standing_service_server::StandingServiceServer;
use proto::v1::*;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::Cli;
use crate::clock::SystemClock;
use crate::error::CliError;
use crate::output::{Format, Output};

/// An operator CA of the test's own.
struct TestAuthority {
    key: PrivateKey,
    root: pki::Certificate,
    serials: Mutex<u8>,
    folder: tempfile::TempDir,
}

impl TestAuthority {
    fn new() -> Self {
        let key = PrivateKey::from_pkcs8(&pki::generate_p256().unwrap()).unwrap();
        let subject =
            SubjectValues { common_name: Some("Test operator CA".to_owned()), ..SubjectValues::default() };
        let profile = CertificateRole::OperatorRoot.profile();
        let inputs = CertificateInputs {
            issuer_name_der: pki::subject_name_der(profile, &subject).unwrap(),
            ..inputs(1, subject, key.spki())
        };
        let root = certify(CertificateRole::OperatorRoot, &inputs, &key);
        Self { key, root, serials: Mutex::new(1), folder: tempfile::tempdir().unwrap() }
    }

    fn issue(&self, profile: CertificateRole, name: &str, spki: Vec<u8>) -> pki::Certificate {
        let serial = {
            let mut serial = self.serials.lock().unwrap();
            *serial += 1;
            *serial
        };
        let subject = SubjectValues {
            common_name: Some(name.to_owned()),
            organizational_unit: (profile == CertificateRole::OperatorClient).then(|| "officer".to_owned()),
            ..SubjectValues::default()
        };
        let server = profile == CertificateRole::OperatorServer;
        let inputs = CertificateInputs {
            issuer_name_der: self.root.subject_name_der().to_vec(),
            issuer_key_identifier: Some(self.root.subject_key_identifier().unwrap().try_into().unwrap()),
            ip_addresses: if server { vec!["127.0.0.1".parse().unwrap()] } else { Vec::new() },
            ..inputs(serial, subject, spki)
        };
        certify(profile, &inputs, &self.key)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes an identity and installs a certificate for it, by the commands themselves.
    async fn identity(&self, name: &str, kind: &str, server: SocketAddr) -> PathBuf {
        let folder = self.path(name);
        let at = folder.to_str().unwrap();
        run(&[
            "identity",
            "create",
            "--kind",
            kind,
            "--name",
            name,
            "--organization",
            "O",
            "--country",
            "DE",
            "--out",
            at,
        ])
        .await
        .unwrap();
        let csr = pki::csr::VerifiedCsr::parse(
            &std::fs::read(folder.join("tls.csr.pem")).unwrap(),
            pki::KnownKeys::Refuse,
        )
        .unwrap();
        let certificate = self.issue(CertificateRole::OperatorClient, name, csr.spki().to_vec());
        let (own, ca) = (self.path(&format!("{name}.pem")), self.path("ca.pem"));
        std::fs::write(&own, certificate.pem()).unwrap();
        std::fs::write(&ca, self.root.pem()).unwrap();
        let (own, ca, server) = (own.to_str().unwrap(), ca.to_str().unwrap(), server.to_string());
        run(&[
            "identity",
            "install",
            at,
            "--certificate",
            own,
            "--authority-ca",
            ca,
            "--server",
            &server,
            "--authority",
            "demo",
        ])
        .await
        .unwrap();
        folder
    }
}

fn inputs(serial: u8, subject: SubjectValues, subject_spki: Vec<u8>) -> CertificateInputs {
    let now = Timestamp::from_seconds(SystemClock::new().now().seconds());
    CertificateInputs {
        serial: SerialNumber::from_random([serial; 20]),
        issuer_name_der: Vec::new(),
        issuer_curve: domain::Curve::P256,
        issuer_key_identifier: None,
        subject,
        subject_spki,
        not_before: CivilTime::from_timestamp(now.plus_seconds(-60)).unwrap(),
        not_after: CivilTime::from_timestamp(now.plus_seconds(86_400)).unwrap(),
        registered_id: None,
        dns_name: None,
        ip_addresses: Vec::new(),
        crl_urls: Vec::new(),
        permitted: Vec::new(),
    }
}

fn certify(profile: CertificateRole, inputs: &CertificateInputs, issuer: &PrivateKey) -> pki::Certificate {
    let tbs = pki::build_tbs(profile.profile(), inputs).unwrap();
    let signature = issuer.sign_plain(tbs.bytes()).unwrap();
    let linted = pki::lint(profile.profile(), inputs, tbs).unwrap();
    linted.assemble(&signature, &issuer.spki()).unwrap()
}

/// What the service does next, and what it saw.
#[derive(Default)]
struct Script {
    /// Refusals of the next calls that execute.
    execute_refusals: VecDeque<Status>,
    executed: Vec<ExecuteOperationRequest>,
    /// Operations by digest: the bytes it hands out.
    operations: HashMap<Vec<u8>, Vec<u8>>,
    requested: Vec<RequestOperationRequest>,
    decided: Vec<DecideOperationRequest>,
    /// Lines after which the next streams break off.
    break_after: VecDeque<usize>,
    ordered: Vec<Vec<OrderLine>>,
    /// Pieces of an output for each fetch; a fetch without its end breaks off.
    outputs: VecDeque<Vec<FetchOrderOutputResponse>>,
    fetched: Vec<FetchOrderOutputRequest>,
    confirmed: Vec<ConfirmOrderOutputRequest>,
    fleet: fleet::FleetScript,
}

#[derive(Clone, Default)]
struct TestService(Arc<Mutex<Script>>);

impl TestService {
    async fn serve(&self, authority: &TestAuthority) -> SocketAddr {
        let pkcs8 = pki::generate_p256().unwrap();
        let key = PrivateKey::from_pkcs8(&pkcs8).unwrap();
        let certificate = authority.issue(CertificateRole::OperatorServer, "service", key.spki());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from(authority.root.der().to_vec())).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::clone(&provider),
        )
        .build()
        .unwrap();
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![CertificateDer::from(certificate.der().to_vec())],
                PrivateKeyDer::from_pem_slice(pki::private_key_to_pem(&pkcs8).as_bytes()).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ready, connections) = mpsc::channel(4);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(stream) = acceptor.accept(stream).await {
                    let _ = ready.send(Ok::<_, std::io::Error>(stream)).await;
                }
            }
        });
        let server = tonic::transport::Server::builder()
            .add_service(OperationServiceServer::new(self.clone()))
            .add_service(OrderServiceServer::new(self.clone()))
            .add_service(DeviceServiceServer::new(self.clone()))
            .add_service(RotationServiceServer::new(self.clone()))
            .add_service(StandingServiceServer::new(self.clone()))
            .serve_with_incoming(ReceiverStream::new(connections));
        tokio::spawn(server);
        address
    }

    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.0.lock().unwrap()
    }
}

#[tonic::async_trait]
impl OperationService for TestService {
    async fn request_operation(
        &self,
        request: Request<RequestOperationRequest>,
    ) -> Result<Response<RequestOperationResponse>, Status> {
        let request = request.into_inner();
        let digest = Sha256::digest(&request.operation).to_vec();
        let mut script = self.script();
        script.operations.insert(digest.clone(), request.operation.clone());
        script.requested.push(request);
        Ok(Response::new(RequestOperationResponse { digest, persons_required: 2, entry_index: 1 }))
    }

    async fn list_operations(
        &self,
        _: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        let summary =
            |digest: &Vec<u8>| OperationSummary { digest: digest.clone(), ..OperationSummary::default() };
        let operations = self.script().operations.keys().map(summary).collect();
        Ok(Response::new(ListOperationsResponse { operations }))
    }

    async fn get_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Result<Response<GetOperationResponse>, Status> {
        let operation = self.script().operations.get(&request.into_inner().digest).cloned();
        let operation = operation.ok_or_else(|| Status::not_found("no such operation"))?;
        let summary = Some(OperationSummary::default());
        Ok(Response::new(GetOperationResponse { operation, summary, ..GetOperationResponse::default() }))
    }

    async fn decide_operation(
        &self,
        request: Request<DecideOperationRequest>,
    ) -> Result<Response<DecideOperationResponse>, Status> {
        self.script().decided.push(request.into_inner());
        Ok(Response::new(DecideOperationResponse::default()))
    }

    async fn execute_operation(
        &self,
        request: Request<ExecuteOperationRequest>,
    ) -> Result<Response<ExecuteOperationResponse>, Status> {
        let mut script = self.script();
        script.executed.push(request.into_inner());
        match script.execute_refusals.pop_front() {
            Some(status) => Err(status),
            None => Ok(Response::new(ExecuteOperationResponse::default())),
        }
    }
}

type Answers<T> = Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl OrderService for TestService {
    type PlaceOrderStream = Answers<PlaceOrderResponse>;

    async fn place_order(
        &self,
        request: Request<Streaming<PlaceOrderRequest>>,
    ) -> Result<Response<Self::PlaceOrderStream>, Status> {
        let mut lines = request.into_inner();
        let break_after = self.script().break_after.pop_front().unwrap_or(usize::MAX);
        let (answers, receiver) = mpsc::channel(4);
        let service = self.clone();
        tokio::spawn(async move {
            let mut taken = Vec::new();
            while let Ok(Some(PlaceOrderRequest { part })) = lines.message().await {
                let Some(place_order_request::Part::Line(line)) = part else { continue };
                if taken.len() == break_after {
                    service.script().ordered.push(taken);
                    let _ = answers.send(Err(Status::unavailable("worker replaced"))).await;
                    return;
                }
                let result = if line.eid.starts_with("89") {
                    order_line_result::Result::Certificate(vec![0x30, 0])
                } else {
                    order_line_result::Result::Refusal(LineRefusal {
                        reason: "INVALID_EID".to_owned(),
                        ..LineRefusal::default()
                    })
                };
                let result = OrderLineResult { line: line.line, result: Some(result) };
                taken.push(line);
                let part = Some(place_order_response::Part::Line(result));
                let _ = answers.send(Ok(PlaceOrderResponse { part })).await;
            }
            service.script().ordered.push(taken);
            let part = Some(place_order_response::Part::Summary(OrderSummary::default()));
            let _ = answers.send(Ok(PlaceOrderResponse { part })).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    type FetchOrderOutputStream = Answers<FetchOrderOutputResponse>;

    async fn fetch_order_output(
        &self,
        request: Request<FetchOrderOutputRequest>,
    ) -> Result<Response<Self::FetchOrderOutputStream>, Status> {
        let mut script = self.script();
        script.fetched.push(request.into_inner());
        let pieces = script.outputs.pop_front().unwrap_or_default();
        Ok(Response::new(Box::pin(tokio_stream::iter(pieces).map(Ok))))
    }

    async fn fetch_order_receipt(
        &self,
        _: Request<proto::v1::FetchOrderReceiptRequest>,
    ) -> Result<Response<proto::v1::FetchOrderReceiptResponse>, Status> {
        Err(Status::unimplemented("the service of this test gives no receipts"))
    }

    async fn confirm_order_output(
        &self,
        request: Request<ConfirmOrderOutputRequest>,
    ) -> Result<Response<ConfirmOrderOutputResponse>, Status> {
        self.script().confirmed.push(request.into_inner());
        Ok(Response::new(ConfirmOrderOutputResponse { entry_index: 9 }))
    }
}

async fn run(arguments: &[&str]) -> Result<ExitCode, CliError> {
    let cli = Cli::try_parse_from([&["chancery", "--output", "json"], arguments].concat()).unwrap();
    cli.command.run(Output { format: Format::Json }).await
}

struct Setting {
    authority: TestAuthority,
    service: TestService,
    address: SocketAddr,
}

async fn setting() -> Setting {
    let authority = TestAuthority::new();
    let service = TestService::default();
    let address = service.serve(&authority).await;
    Setting { authority, service, address }
}

impl Setting {
    async fn identity(&self, name: &str, kind: &str) -> String {
        self.authority.identity(name, kind, self.address).await.to_str().unwrap().to_owned()
    }
}

const GRANT: [&str; 16] = [
    "grant",
    "create",
    "--name",
    "g1",
    "--provisioner",
    "p1",
    "--ein",
    "89049032",
    "--purpose",
    "test",
    "--lawful-basis",
    "law",
    "--expires",
    "1d",
    "--reason",
    "because",
];

fn approval_signature_is_valid(folder: &str, message: &[u8], signature: &[u8]) -> bool {
    let csr = std::fs::read(Path::new(folder).join("approval.csr.pem")).unwrap();
    let csr = pki::csr::VerifiedCsr::parse(&csr, pki::KnownKeys::Refuse).unwrap();
    csr.public_key().verify(message, signature).is_ok()
}

#[tokio::test]
async fn a_request_and_an_approval_sign_the_bytes_that_were_sent() {
    let setting = setting().await;
    let alice = setting.identity("alice", "officer").await;
    run(&[&GRANT[..], &["--identity", &alice]].concat()).await.unwrap();
    let request = setting.service.script().requested.pop().unwrap();
    let digest = Sha256::digest(&request.operation);
    let message = [b"chancery-approval/v1\0", &digest[..]].concat();
    assert!(approval_signature_is_valid(&alice, &message, &request.signature));
    let operation = Operation::decode(&request.operation[..]).unwrap();
    assert_eq!((operation.authority.as_str(), operation.reason.as_str()), ("demo", "because"));

    let bob = setting.identity("bob", "approver").await;
    let prefix = &hex::encode(digest)[..12];
    run(&["operation", "approve", prefix, "--yes", "--identity", &bob]).await.unwrap();
    run(&["operation", "reject", prefix, "--yes", "--identity", &bob]).await.unwrap();
    let [approval, rejection] = &setting.service.script().decided[..] else { panic!("two decisions") };
    assert_eq!(approval.decision(), Decision::Approve);
    assert!(approval_signature_is_valid(&bob, &message, &approval.signature));
    assert_eq!(rejection.decision(), Decision::Reject);
    let rejected = [b"chancery-rejection/v1\0", &digest[..]].concat();
    assert!(approval_signature_is_valid(&bob, &rejected, &rejection.signature));
}

#[tokio::test]
async fn an_approver_never_signs_bytes_that_were_swapped_or_hide_something() {
    let setting = setting().await;
    let alice = setting.identity("alice", "officer").await;
    let bob = setting.identity("bob", "approver").await;
    run(&[&GRANT[..], &["--identity", &alice]].concat()).await.unwrap();
    let bytes = setting.service.script().requested.pop().unwrap().operation;
    let digest = Sha256::digest(&bytes).to_vec();

    let mut other = Operation::decode(&bytes[..]).unwrap();
    other.reason = "another".to_owned();
    setting.service.script().operations.insert(digest.clone(), other.encode_to_vec());
    let named = hex::encode(&digest);
    let error = run(&["operation", "approve", &named, "--yes", "--identity", &bob]).await.unwrap_err();
    assert_eq!(error.reason(), "ANSWER_DOES_NOT_HOLD");

    let hidden = [&bytes[..], &[0xa2, 0x06, 0x01, 0x41]].concat();
    let named = hex::encode(Sha256::digest(&hidden));
    setting.service.script().operations.insert(Sha256::digest(&hidden).to_vec(), hidden);
    let error = run(&["operation", "approve", &named, "--yes", "--identity", &bob]).await.unwrap_err();
    assert_eq!(error.reason(), "ANSWER_DOES_NOT_HOLD");
    assert!(setting.service.script().decided.is_empty());
}

#[tokio::test]
async fn without_a_terminal_or_yes_nothing_is_decided() {
    let setting = setting().await;
    let alice = setting.identity("alice", "officer").await;
    let bob = setting.identity("bob", "approver").await;
    run(&[&GRANT[..], &["--identity", &alice]].concat()).await.unwrap();
    let digest = hex::encode(setting.service.script().operations.keys().next().unwrap());
    let output = Output { format: Format::Json };
    if std::io::IsTerminal::is_terminal(&std::io::stdin()) {
        // Nobody can be asked in a test.
        return;
    }
    let cli = Cli::try_parse_from(["chancery", "operation", "approve", &digest, "--identity", &bob]).unwrap();
    assert_eq!(cli.command.run(output).await.unwrap_err().reason(), "NOT_CONFIRMED");
    assert!(setting.service.script().decided.is_empty());
}

#[tokio::test]
async fn a_call_that_may_pass_later_is_repeated_under_the_same_key_and_a_refusal_is_not() {
    let setting = setting().await;
    let alice = setting.identity("alice", "officer").await;
    let digest = "ab".repeat(32);
    let execute = ["operation", "execute", &digest, "--identity", &alice];
    setting.service.script().execute_refusals.extend([Status::unavailable("a"), Status::unavailable("b")]);
    run(&execute).await.unwrap();
    let keys: Vec<_> = setting.service.script().executed.drain(..).map(|call| call.idempotency_key).collect();
    assert_eq!(keys.len(), 3);
    assert!(keys.iter().all(|key| *key == keys[0] && key.len() == 32));

    setting.service.script().execute_refusals.push_back(Status::failed_precondition("not approved"));
    let error = run(&execute).await.unwrap_err();
    assert_eq!(error.reason(), "FAILED_PRECONDITION");
    let again: Vec<_> =
        setting.service.script().executed.drain(..).map(|call| call.idempotency_key).collect();
    assert_eq!(again.len(), 1);
    assert_ne!(again[0], keys[0]);
}

#[tokio::test]
async fn an_order_goes_on_after_a_broken_stream_with_the_lines_that_have_no_answer() {
    let setting = setting().await;
    let eum = setting.identity("eum", "eum").await;
    let valid: Vec<String> = (0..6)
        .map(|n| domain::Eid::from_body(&format!("890490321234512345123456{n:06}")).unwrap().to_string())
        .collect();
    let mut csv = "eid,public_key\n".to_owned();
    for eid in &valid {
        csv.push_str(&format!("{eid},3000\n"));
    }
    csv.push_str("123,3000\n89,no-key\n");
    let devices = setting.authority.path("devices.csv");
    std::fs::write(&devices, csv).unwrap();
    setting.service.script().break_after.push_back(4);
    let (certificates, results) = (setting.authority.path("euicc"), setting.authority.path("results.jsonl"));
    let code = run(&[
        "order",
        "place",
        "--order",
        "o1",
        "--issuer",
        "i1",
        "--kvn",
        "0x30",
        "--algorithm",
        "AES-128",
        "--devices",
        devices.to_str().unwrap(),
        "--certificates-out",
        certificates.to_str().unwrap(),
        "--results",
        results.to_str().unwrap(),
        "--identity",
        &eum,
    ])
    .await
    .unwrap();
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(3)));

    let streams: Vec<Vec<u64>> = setting
        .service
        .script()
        .ordered
        .iter()
        .map(|lines| lines.iter().map(|line| line.line).collect())
        .collect();
    assert_eq!(streams, [vec![1, 2, 3, 4], vec![5, 6, 7]]);
    let mut lines: Vec<(u64, bool)> = std::fs::read_to_string(results)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|line| (line["line"].as_u64().unwrap(), line["accepted"].as_bool().unwrap()))
        .collect();
    lines.sort_unstable();
    let expected: Vec<_> = (1..=8).map(|line| (line, line <= 6)).collect();
    assert_eq!(lines, expected);
    for eid in valid {
        assert!(certificates.join(format!("{eid}.der")).exists());
    }
}

fn lines(content: &str) -> FetchOrderOutputResponse {
    let part = Some(fetch_order_output_response::Part::Lines(content.as_bytes().to_vec()));
    FetchOrderOutputResponse { part }
}

fn end(whole: &str, devices: u64) -> FetchOrderOutputResponse {
    let end = OutputEnd { digest: Sha256::digest(whole).to_vec(), devices };
    FetchOrderOutputResponse { part: Some(fetch_order_output_response::Part::End(end)) }
}

#[tokio::test]
async fn an_output_that_breaks_off_is_continued_checked_and_confirmed() {
    const KEY: &str = "{\"transport_key\":\"t\",\"wrapped\":\"00\"}\n";
    const A: &str = "{\"eid\":\"a\"}\n";
    const B: &str = "{\"eid\":\"b\"}\n";
    let setting = setting().await;
    let eum = setting.identity("eum", "eum").await;
    let whole = [KEY, A, B].concat();
    setting
        .service
        .script()
        .outputs
        .extend([vec![lines(&[KEY, A].concat())], vec![lines(&[KEY, B].concat()), end(&whole, 2)]]);
    let out = setting.authority.path("output.jsonl");
    let fetch = ["order", "fetch", "--order", "o1", "--out", out.to_str().unwrap(), "--identity", &eum];
    run(&fetch).await.unwrap();
    assert_eq!(std::fs::read_to_string(&out).unwrap(), whole);
    let starts: Vec<_> = setting.service.script().fetched.iter().map(|fetch| fetch.from_line).collect();
    assert_eq!(starts, [0, 1]);
    let confirmed = setting.service.script().confirmed.pop().unwrap();
    assert_eq!(confirmed.digest, Sha256::digest(&whole).to_vec());

    assert!(run(&fetch).await.is_err(), "an existing file is not replaced unasked");
    setting.service.script().outputs.push_back(vec![lines(KEY), lines(A), end(&whole, 2)]);
    let error = run(&[&fetch[..], &["--yes"]].concat()).await.unwrap_err();
    assert_eq!(error.reason(), "ANSWER_DOES_NOT_HOLD");
    assert_eq!(std::fs::read_to_string(&out).unwrap(), whole);
    assert!(setting.service.script().confirmed.is_empty());
}

#[tokio::test]
async fn a_certificate_for_another_key_is_not_installed() {
    let setting = setting().await;
    let alice = setting.identity("alice", "officer").await;
    setting.identity("bob", "officer").await;
    let before = std::fs::read(Path::new(&alice).join("tls.pem")).unwrap();
    let (bobs, ca) = (setting.authority.path("bob.pem"), setting.authority.path("ca.pem"));
    let error = run(&[
        "identity",
        "install",
        &alice,
        "--certificate",
        bobs.to_str().unwrap(),
        "--authority-ca",
        ca.to_str().unwrap(),
        "--server",
        "localhost:1",
        "--authority",
        "demo",
    ])
    .await
    .unwrap_err();
    assert_eq!(error.reason(), "INVALID_INPUT");
    assert_eq!(std::fs::read(Path::new(&alice).join("tls.pem")).unwrap(), before);
}

#[tokio::test]
async fn a_service_of_another_authority_is_not_spoken_to() {
    let setting = setting().await;
    let other = TestAuthority::new();
    let alice = other.identity("alice", "officer", setting.address).await;
    let error = run(&["operation", "list", "--identity", alice.to_str().unwrap()]).await.unwrap_err();
    assert_eq!(error.reason(), "NOT_CONNECTED");
}
