//! Revocation as relying parties see it: the list over HTTP, what OpenSSL makes of it, and numbers that only grow,
//! however often the daemon is killed.

mod bulk;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use audit::{EventType, Outcome};
use pki::crl::Crl;
use pki::{Certificate, CivilTime, SerialNumber};
use proto::v1::certificate_service_client::CertificateServiceClient;
use proto::v1::get_certificate_request::By;
use proto::v1::operation::Kind;
use proto::v1::{
    GetCertificateRequest, GetCertificateResponse, IssueCertificate, RevokeCertificate, issue_certificate,
};
use serde_json::Value;
use tests::process::{Signal, signal};
use tonic::Code;

use crate::caller::Caller;
use crate::devices::eid;
use crate::fleet::TwoPersons;
use crate::refusals::Refused;
use crate::support::{Deployment, GRANTED};

/// How long a revocation may take to be seen.
const SEEN_WITHIN: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(20);
const REASON: &str = "key-compromise";
const KILLS: usize = 5;
/// The kill that falls between the number of a list and its signature.
const LOST_NUMBER: u64 = 2;

/// A certificate of the provisioner with a key that OpenSSL made.
async fn issue(deployment: &Deployment, persons: &TwoPersons, profile: &str, name: &str) -> Certificate {
    let (key, csr) = (format!("{name}-key.pem"), format!("{name}.csr"));
    let request = ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let subject = format!("/O=RSP Test/CN={name}");
    let files = ["-keyout", &key, "-out", &csr, "-outform", "DER", "-subj", &subject];
    let made = openssl(deployment, &[&request[..], &files].concat());
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let issue = IssueCertificate {
        profile: profile.to_owned(),
        party: "provisioner".to_owned(),
        common_name: name.to_owned(),
        key: Some(issue_certificate::Key::Csr(fs::read(deployment.path(&csr)).unwrap())),
        registered_id: "2.999.10".to_owned(),
        dns_name: String::new(),
        renews: Vec::new(),
        under: String::new(),
    };
    let outcome = persons.carry_out(Kind::IssueCertificate(issue)).await.unwrap().outcome.unwrap();
    let certificate = Certificate::from_der(&outcome.certificate).unwrap();
    fs::write(deployment.path(&format!("{name}.pem")), certificate.pem()).unwrap();
    fs::write(deployment.path("ci.pem"), Certificate::from_der(&outcome.issuer_certificate).unwrap().pem())
        .unwrap();
    certificate
}

fn revocation(serial: &SerialNumber) -> Kind {
    let serial_number = serial.as_bytes().to_vec();
    Kind::RevokeCertificate(RevokeCertificate {
        serial_number,
        reason: REASON.to_owned(),
        invalid_since: None,
        issuer: String::new(),
    })
}

fn openssl(deployment: &Deployment, arguments: &[&str]) -> Output {
    Command::new("openssl").args(arguments).current_dir(deployment.path("")).output().unwrap()
}

fn signal_all(processes: &[u32], sent: Signal) {
    for process in processes {
        signal(*process, sent).unwrap();
    }
}

/// What OpenSSL makes of a certificate with a list: its error number, or none.
fn verify(deployment: &Deployment, list: &Crl, name: &str) -> Option<u32> {
    fs::write(deployment.path("list.pem"), list.pem()).unwrap();
    let verify = ["verify", "-x509_strict", "-crl_check", "-CAfile", "ci.pem", "-CRLfile", "list.pem"];
    let output = openssl(deployment, &[&verify[..], &[&format!("{name}.pem")]].concat());
    if output.status.success() {
        return None;
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let (_, rest) = said.split_once("error ").unwrap_or_else(|| panic!("no error number: {said}"));
    Some(rest.split(' ').next().unwrap().parse().unwrap())
}

/// A file of the public listener, if it is there.
pub fn get(port: u16, path: &str) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let body = answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    answer.starts_with(b"HTTP/1.1 200").then(|| answer.split_off(body))
}

/// The list where a certificate says that it is. Every place must have the same one.
struct Lists {
    port: u16,
    issuer: Certificate,
    paths: Vec<String>,
    /// The highest number seen.
    number: u64,
}

impl Lists {
    fn of(deployment: &Deployment, certificate: &Certificate) -> Self {
        fs::write(deployment.path("certificate.der"), certificate.der()).unwrap();
        let shown = openssl(
            deployment,
            &["x509", "-inform", "DER", "-in", "certificate.der", "-noout", "-ext", "crlDistributionPoints"],
        );
        let shown = String::from_utf8(shown.stdout).unwrap();
        let paths: Vec<_> = shown
            .lines()
            .filter_map(|line| line.trim().strip_prefix("URI:"))
            .map(|uri| uri[uri.find("/crl/").unwrap()..].to_owned())
            .collect();
        let issuer = pki_pem(&fs::read_to_string(deployment.path("ci.pem")).unwrap());
        Self { port: deployment.http_port(), issuer, paths, number: 0 }
    }

    /// The newest list, checked: of its issuer, in force, and never older than one that was seen.
    fn newest(&mut self) -> Option<Crl> {
        let list = Crl::from_der(&get(self.port, &self.paths[0])?).unwrap();
        list.verify(&self.issuer).unwrap();
        assert!(list.is_current(now()));
        let number = list.number().unwrap();
        assert!(number >= self.number, "list {number} after list {}", self.number);
        self.number = number;
        Some(list)
    }

    /// The list once it shows a certificate, and how long that took.
    async fn until_shown(&mut self, serial: &SerialNumber) -> (Crl, Duration) {
        let started = Instant::now();
        loop {
            if let Some(list) = self.newest()
                && list.find(serial).is_some()
            {
                return (list, started.elapsed());
            }
            assert!(started.elapsed() < PATIENCE, "no list shows {serial:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The OCSP responder on the public listener, asked and judged by OpenSSL.
struct Responder<'a> {
    deployment: &'a Deployment,
}

impl Responder<'_> {
    /// The state of each certificate, asked for alone, and together with a nonce.
    fn says(&self, expected: &[(&str, &str)]) {
        let url = format!("http://127.0.0.1:{}/ocsp", self.deployment.http_port());
        let common = ["ocsp", "-issuer", "ci.pem", "-CAfile", "ci.pem", "-url", &url];
        let files: Vec<String> = expected.iter().map(|(name, _)| format!("{name}.pem")).collect();
        let mut together = vec!["-nonce", "-resp_text"];
        together.extend(files.iter().flat_map(|file| ["-cert", file.as_str()]));
        let questions = files.iter().map(|file| vec!["-no_nonce", "-cert", file]).chain([together]);
        for (number, question) in questions.enumerate() {
            let output = openssl(self.deployment, &[&common[..], &question].concat());
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            assert!(output.status.success() && said.contains("Response verify OK"), "{said}");
            assert!(!said.contains("WARNING: no nonce"), "{said}");
            let asked = if number < files.len() { &expected[number..=number] } else { expected };
            for (name, state) in asked {
                assert!(said.contains(&format!("{name}.pem: {state}")), "{state}: {said}");
            }
        }
    }

    /// RFC 5019 §5: the same question in the path, its answer for caches to keep for a minute.
    fn answers_by_get(&self) {
        let ask = ["ocsp", "-issuer", "ci.pem", "-cert", "dppb.pem", "-no_nonce", "-reqout", "request.der"];
        assert!(openssl(self.deployment, &ask).status.success());
        let base64 = openssl(self.deployment, &["base64", "-A", "-in", "request.der"]);
        let base64 = String::from_utf8(base64.stdout).unwrap();
        let path = base64.trim().replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
        let answer = get(self.deployment.http_port(), &format!("/ocsp/{path}")).unwrap();
        let read = pki::ocsp::BasicAnswer::from_der(&answer).unwrap();
        assert!(matches!(read.statuses[0].1, pki::ocsp::CertificateStatus::Revoked { .. }));
        let malformed = get(self.deployment.http_port(), "/ocsp/bm90aGluZw").unwrap();
        assert_eq!(malformed, pki::ocsp::error_answer(pki::ocsp::ErrorStatus::MalformedRequest));
    }
}

fn pki_pem(text: &str) -> Certificate {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;
    Certificate::from_der(&CertificateDer::from_pem_slice(text.as_bytes()).unwrap()).unwrap()
}

fn now() -> CivilTime {
    #[expect(clippy::disallowed_methods, reason = "the daemon under test has the real clock too")]
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = domain::Timestamp::from_seconds(i64::try_from(now.as_secs()).unwrap());
    CivilTime::from_timestamp(now).unwrap()
}

async fn certificate(officer: &Caller, by: By) -> GetCertificateResponse {
    let request = GetCertificateRequest { by: Some(by), issuer: String::new() };
    CertificateServiceClient::new(officer.channel.clone())
        .get_certificate(request)
        .await
        .unwrap()
        .into_inner()
}

/// By the tool: `dppb` is revoked, `dpauth` is in force.
fn the_register_tells_and_the_service_judges(deployment: &Deployment) {
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let list = |arguments: &[&str]| {
        let who = ["--identity", "officer", "--output", "json"];
        json(&deployment.chancery(&[&["certificate", "list"], arguments, &who[..]].concat()))
    };
    let states = |listed: &Value| -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let list = listed["certificates"].as_array().unwrap();
        let mut states: Vec<_> = list.iter().map(|c| (text(&c["profile"]), text(&c["state"]))).collect();
        states.sort();
        states
    };
    let pair = |profile: &str, state: &str| (profile.to_owned(), state.to_owned());
    let of_provisioner = states(&list(&["--holder", "provisioner"]));
    assert!(of_provisioner.contains(&pair("dppb", "revoked")), "{of_provisioner:?}");
    assert!(of_provisioner.contains(&pair("dpauth", "issued")), "{of_provisioner:?}");
    assert_eq!(states(&list(&["--state", "revoked"])), [pair("dppb", "revoked")]);
    let all = list(&[]);
    assert!(all["certificates"].as_array().unwrap().len() > of_provisioner.len());
    let few = list(&["--limit", "2"]);
    assert_eq!((few["certificates"].as_array().unwrap().len(), few["more"].as_bool()), (2, Some(true)));

    let ask = |name: &str| {
        let who = ["--identity", "provisioner", "--output", "json"];
        let output = deployment.try_chancery(&[&["certificate", "ask", name], &who[..]].concat());
        (output.status.code(), json(&String::from_utf8(output.stdout).unwrap()))
    };
    let (code, answer) = ask("dpauth.pem");
    assert_eq!((code, &answer["chain"][0]["standing"]), (Some(0), &Value::from("in-force")));
    assert_eq!(answer["chain"][1]["standing"], "trusted");
    let (code, answer) = ask("dppb.pem");
    assert_eq!((code, &answer["findings"][0]["finding"]), (Some(1), &Value::from("revoked")));
}

fn a_certificate_in_force_is_renewed_with_its_key_and_no_other(
    deployment: &Deployment,
    revoked: &SerialNumber,
    in_force: &SerialNumber,
) {
    let request = |name: &str, renews: &[&str]| {
        let csr = format!("{name}.csr");
        let request = ["certificate", "request", "--profile", name, "--party", "provisioner", "--csr", &csr];
        let subject = ["--common-name", name, "--registered-id", "2.999.10", "--reason", "renewal"];
        [&request[..], &subject, renews].concat().iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()
    };
    let refused = |name: &str, renews: &[&str]| {
        let request = request(name, renews);
        let request: Vec<_> = request.iter().map(String::as_str).chain(["--identity", "officer"]).collect();
        deployment.refused("chancery", &request)
    };
    assert!(refused("dpauth", &[]).contains("DUPLICATE_KEY"));
    // A revoked certificate, and one of another profile.
    for name in ["dppb", "dpauth"] {
        let said = refused(name, &["--renews", &revoked.to_string()]);
        assert!(said.contains("UNKNOWN_CERTIFICATE"), "{said}");
    }
    let renewal = request("dpauth", &["--renews", &in_force.to_string()]);
    let renewal: Vec<_> = renewal.iter().map(String::as_str).collect();
    deployment.two_persons(&renewal, Some("renewed"));
    let renewed = fs::read_to_string(deployment.path("received/renewed/certificate.pem")).unwrap();
    let renewed = pki_pem(&renewed);
    assert_ne!(renewed.serial().to_string(), in_force.to_string());
    assert_eq!(renewed.spki(), pki_pem(&fs::read_to_string(deployment.path("dpauth.pem")).unwrap()).spki());
}

/// One person holds `dpauth`, two release it: OCSP, the list and OpenSSL follow both times. A hold that is not taken back is revoked
/// for good, with the date since when the key was in other hands.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_is_seen_at_once_and_so_is_its_release() {
    let deployment = &Deployment::found();
    let persons = &TwoPersons::of(deployment).await;
    let certificate = issue(deployment, persons, "dpauth", "dpauth").await;
    let (serial, lists) = (certificate.serial(), &mut Lists::of(deployment, &certificate));
    let responder = Responder { deployment };
    let hex = serial.to_string();
    let hold = ["certificate", "hold", "--serial", &hex, "--reference", "case 1", "--identity", "approver"];
    deployment.chancery(&hold);
    responder.says(&[("dpauth", "revoked")]);
    let (list, _) = lists.until_shown(serial).await;
    let entry = list.find(serial).unwrap();
    assert_eq!((entry.reason, entry.invalid_since), (domain::RevocationReason::CertificateHold, None));
    assert_eq!(verify(deployment, &list, "dpauth"), Some(23));
    let hold_for_good = Kind::RevokeCertificate(RevokeCertificate {
        serial_number: serial.as_bytes().to_vec(),
        reason: "certificate-hold".to_owned(),
        invalid_since: None,
        issuer: String::new(),
    });
    assert!(persons.carry_out(hold_for_good).await.is_err());

    let release = ["certificate", "release", "--serial", &hex, "--because", "case 1 is closed"];
    deployment.two_persons(&release, None);
    responder.says(&[("dpauth", "good")]);
    let started = Instant::now();
    let list = loop {
        let list = lists.newest().unwrap();
        if list.find(serial).is_none() {
            break list;
        }
        assert!(started.elapsed() < PATIENCE, "the list still shows what was released");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(verify(deployment, &list, "dpauth"), None);
    let identity = ["--identity", "officer"];
    let again = deployment.refused("chancery", &[&release[..], &identity].concat());
    assert!(again.contains("is not held"), "{again}");

    // Another certificate, held and then revoked for good.
    let other = issue(deployment, persons, "dppb", "dppb").await;
    let hex = other.serial().to_string();
    deployment.chancery(&[&hold[..3], &[&hex], &hold[4..]].concat());
    let since = now();
    let revoke = ["certificate", "revoke", "--serial", &hex, "--reason", "key-compromise"];
    let because = ["--because", "case 2", "--invalid-since", &since.to_string()];
    deployment.two_persons(&[&revoke[..], &because].concat(), None);
    let started = Instant::now();
    let list = loop {
        let list = lists.newest().unwrap();
        if list.find(other.serial()).is_some_and(|entry| entry.invalid_since.is_some()) {
            break list;
        }
        assert!(started.elapsed() < PATIENCE, "the list does not say since when");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    fs::write(deployment.path("dated.crl"), list.der()).unwrap();
    let shown = openssl(deployment, &["crl", "-inform", "DER", "-in", "dated.crl", "-noout", "-text"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    for words in ["Key Compromise", "Invalidity Date"] {
        assert!(shown.contains(words), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_is_on_the_list_at_once_and_openssl_refuses_it_and_no_other() {
    let deployment = Deployment::found();
    let persons = TwoPersons::of(&deployment).await;
    let officer = deployment.caller("officer").await;
    let revoked = issue(&deployment, &persons, "dppb", "dppb").await;
    let in_force = issue(&deployment, &persons, "dpauth", "dpauth").await;
    let mut lists = Lists::of(&deployment, &revoked);
    assert_eq!(lists.paths.len(), 2);
    assert!(lists.paths[0].ends_with("-a.crl") && lists.paths[1].ends_with("-b.crl"), "{:?}", lists.paths);
    let started = Instant::now();
    let empty = loop {
        if let Some(list) = lists.newest() {
            break list;
        }
        assert!(started.elapsed() < PATIENCE, "an authority without revocations publishes a list too");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(empty.revoked().is_empty());
    for name in ["dppb", "dpauth"] {
        assert_eq!(verify(&deployment, &empty, name), None, "{name} before");
    }
    let by_serial = || By::SerialNumber(revoked.serial().as_bytes().to_vec());
    assert_eq!(certificate(&officer, by_serial()).await.state, "issued");

    let responder = Responder { deployment: &deployment };
    responder.says(&[("dppb", "good"), ("dpauth", "good")]);

    let done = persons.carry_out(revocation(revoked.serial())).await.unwrap();
    responder.says(&[("dppb", "revoked"), ("dpauth", "good")]);
    responder.answers_by_get();
    let (list, seen_after) = lists.until_shown(revoked.serial()).await;
    assert!(seen_after <= SEEN_WITHIN, "seen after {seen_after:?}");
    assert_eq!(list.revoked().len(), 1);
    assert!(list.number() > empty.number());
    for path in &lists.paths {
        assert_eq!(get(lists.port, path).as_deref(), Some(list.der()), "{path}");
    }
    // X509_V_ERR_CERT_REVOKED.
    assert_eq!(verify(&deployment, &list, "dppb"), Some(23));
    assert_eq!(verify(&deployment, &list, "dpauth"), None);
    assert_eq!(certificate(&officer, by_serial()).await.state, "revoked");
    the_register_tells_and_the_service_judges(&deployment);
    a_certificate_in_force_is_renewed_with_its_key_and_no_other(
        &deployment,
        revoked.serial(),
        in_force.serial(),
    );

    // What cannot be revoked, and is not.
    let mut refused = Vec::new();
    let mut refuse = async |what: &str, kind, code, reason| {
        let status = persons.carry_out(kind).await.unwrap_err();
        refused.push(Refused::new(what.to_owned(), (code, reason), &status));
        status.message().to_owned()
    };
    let twice = refuse("twice", revocation(revoked.serial()), Code::Aborted, "CONFLICT").await;
    assert!(twice.contains("revoked already"), "{twice}");
    let device = eid(GRANTED, 1);
    deployment.order("first", std::slice::from_ref(&device));
    let euicc = certificate(&officer, By::Eid(device.clone())).await;
    let serial = Certificate::from_der(&euicc.certificate).unwrap().serial().clone();
    let advice = refuse("an eUICC", revocation(&serial), Code::FailedPrecondition, "POLICY_VIOLATION").await;
    assert!(advice.contains("freeze the device instead"), "{advice}");
    assert_eq!(certificate(&officer, By::Eid(device)).await.state, "issued");
    let nobody = SerialNumber::from_bytes(&[7; 20]).unwrap();
    refuse("nobody's", revocation(&nobody), Code::NotFound, "UNKNOWN_CERTIFICATE").await;
    let mut unclear = RevokeCertificate {
        serial_number: vec![7; 20],
        reason: "certificate-hold".to_owned(),
        invalid_since: None,
        issuer: String::new(),
    };
    refuse("a hold", Kind::RevokeCertificate(unclear.clone()), Code::InvalidArgument, "INVALID_FIELD").await;
    unclear.reason = REASON.to_owned();
    unclear.serial_number = vec![0; 20];
    refuse("no serial", Kind::RevokeCertificate(unclear), Code::InvalidArgument, "INVALID_FIELD").await;
    assert_eq!(lists.newest().unwrap().revoked().len(), 1);

    let entries = deployment.entries();
    for refused in &refused {
        refused.entry(&entries);
    }
    let revocations: Vec<_> =
        entries.iter().filter(|entry| entry.header.event == EventType::CertificateRevoked).collect();
    assert_eq!(revocations.len(), 1);
    let entry = revocations[0];
    assert_eq!(entry.name("revocation_reason"), Some(REASON));
    assert_eq!(
        entry.digest("certificate").map(|digest| digest.to_vec()),
        Some(crate::caller::sha256(revoked.der()))
    );
    let executed = &entries[usize::try_from(done.entry_index).unwrap()..];
    let executed = executed.iter().find(|entry| entry.header.event == EventType::OperationExecuted).unwrap();
    assert_eq!(entry.digest("operation"), executed.digest("operation"));
    let signed = entries
        .iter()
        .find(|entry| {
            entry.header.event == EventType::CrlSigned && entry.header.index > revocations[0].header.index
        })
        .unwrap();
    assert_eq!((signed.number("number"), signed.number("count")), (list.number(), Some(1)));
    assert_eq!(signed.digest("crl"), Some(list.digest()));
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_of_lists_strictly_increase_over_kills_at_any_moment_and_no_revocation_is_lost() {
    let mut deployment = Deployment::found();
    let mut certificates = Vec::new();
    let persons = TwoPersons::of(&deployment).await;
    for number in 0..KILLS {
        certificates.push(issue(&deployment, &persons, "dppb", &format!("dppb-{number}")).await);
    }
    let mut lists = Lists::of(&deployment, &certificates[0]);
    for (number, certificate) in certificates.iter().enumerate() {
        let persons = TwoPersons::of(&deployment).await;
        let digest = persons.approve(revocation(certificate.serial())).await.unwrap();
        let size = deployment.log_size();
        let executed = tokio::spawn(async move { (persons.execute(digest.clone()).await, digest) });
        // Revocation and execution are two entries of one commit, the list's number and the list one each. Three kills
        // fall behind each of these commits, the others wherever they do.
        let workers = deployment.worker_pids();
        let moment = match number as u64 {
            behind @ 1..=3 => {
                if behind == LOST_NUMBER {
                    // The number is taken and the token does not come to sign.
                    signal_all(&workers, Signal::STOP);
                }
                while deployment.log_size() <= size + behind {
                    tokio::task::yield_now().await;
                }
                format!("{} entries", deployment.log_size() - size)
            }
            _ => {
                let mut random = [0];
                aws_lc_rs::rand::fill(&mut random).unwrap();
                let moment = Duration::from_micros(u64::from(random[0]) * 120);
                tokio::time::sleep(moment).await;
                format!("{moment:?}")
            }
        };
        lists.newest();
        deployment.kill9();
        if number as u64 == LOST_NUMBER {
            signal_all(&workers, Signal::CONT);
        }
        let (executed, digest) = executed.await.unwrap();
        deployment.serve();
        // Asked again, as who heard nothing would; the operation is executed once, whoever heard of it.
        let persons = TwoPersons::of(&deployment).await;
        let again = persons.execute(digest).await;
        match &again {
            Ok(_) => assert!(executed.is_err(), "executed twice"),
            Err(status) => assert_eq!(crate::caller::reason(status), "OPERATION_NOT_OPEN"),
        }
        println!("killed after {moment}: answered {}, lost {}", executed.is_ok(), again.is_ok());
        let (list, _) = lists.until_shown(certificate.serial()).await;
        assert_eq!(list.revoked().len(), number + 1);
    }

    let entries = deployment.entries();
    let numbers = |event, outcome| {
        let of: Vec<_> = entries
            .iter()
            .filter(|entry| entry.header.event == event && entry.header.outcome == outcome)
            .map(|entry| entry.number("number").unwrap())
            .collect();
        assert!(of.windows(2).all(|pair| pair[0] < pair[1]), "{event:?}: {of:?}");
        of
    };
    let (intents, signed) =
        (numbers(EventType::CrlIntent, Outcome::Intent), numbers(EventType::CrlSigned, Outcome::Done));
    assert!(signed.len() > KILLS && signed.iter().all(|number| intents.contains(number)));
    assert_eq!(signed.last(), Some(&lists.number));
    // Every number that was taken and led to no list is accounted for.
    let failed: Vec<_> = entries
        .iter()
        .filter(|entry| entry.header.event == EventType::CrlFailed)
        .map(|entry| entry.number("number").unwrap())
        .collect();
    let lost: Vec<_> = intents.iter().copied().filter(|number| !signed.contains(number)).collect();
    assert_eq!(failed, lost);
    assert!(!lost.is_empty(), "no kill fell between number and list");
    let revoked = entries.iter().filter(|entry| entry.header.event == EventType::CertificateRevoked).count();
    assert_eq!(revoked, KILLS);
}
