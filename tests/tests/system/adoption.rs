//! A CA that other software ran, played by openssl and SoftHSM's own tool, moves here: its keys, its last list and what it issued.

use std::fs;
use std::process::Command;

use audit::{EventType, Outcome};
use pki::crl::Crl;
use proto::v1::AdoptCertificatesRequest;
use proto::v1::certificate_service_client::CertificateServiceClient;

use crate::devices::{csv, eid};
use crate::openssl_ca::OpensslCa;
use crate::support::{Deployment, eventually};

const WHY: [&str; 2] = ["--reason", "the old CA ends"];
const DEVICES: usize = 3;
/// The last list of the old CA.
const LAST_NUMBER: u64 = 0x29;

/// The old CA. Its serial numbers count from 1, the manufacturer's too.
fn found_old_ca(deployment: &Deployment) -> OpensslCa {
    let subject = "/CN=Old CI/O=Old/C=DE";
    let old = OpensslCa::found(deployment, "old", subject, "RSP Test", LAST_NUMBER);
    fs::create_dir(old.folder.join("issued")).unwrap();
    fs::create_dir(old.folder.join("devices")).unwrap();
    // What the list revokes: a certificate that is brought, and one that is lost.
    let revoked = ["04", "63"]
        .map(|serial| format!("R\t490101000000Z\t260101000000Z,keyCompromise\t{serial}\tunknown\t/CN=x\n"));
    fs::write(old.folder.join("index.txt"), revoked.concat()).unwrap();
    for name in ["eum", "lost", "tls", "pb", "device"] {
        old.key(name);
    }
    issue(&old, "eum", "/C=DE/O=RSP Test/CN=Old EUM", ("ci", 2, "eum"), "issued/eum.pem");
    issue(&old, "lost", "/C=DE/O=RSP Test/CN=Lost EUM", ("ci", 0x63, "eum"), "lost.pem");
    issue(&old, "tls", "/O=RSP Test/CN=elsewhere.example", ("ci", 3, "dptls"), "issued/tls.pem");
    issue(&old, "pb", "/O=RSP Test/CN=Old SM-DP", ("ci", 4, "dppb"), "issued/pb.pem");
    issue(&old, "pb", "/O=Nobody/CN=Another", ("ci", 5, "dppb"), "issued/stranger.pem");
    fs::copy(old.folder.join("issued/eum.pem"), old.folder.join("eum.pem")).unwrap();
    for number in 1..=DEVICES {
        let subject = format!("/C=DE/O=RSP Test/serialNumber={}/CN=eUICC", eid("890490329", number));
        // One key for all: the register keeps the first that came.
        issue(&old, "device", &subject, ("eum", number, "euicc"), &format!("devices/{number}.pem"));
    }
    old.list("last.crl");
    old
}

fn issue(
    ca: &OpensslCa,
    key: &str,
    subject: &str,
    (issuer, serial, section): (&str, usize, &str),
    out: &str,
) {
    ca.request(key, subject, "next.csr");
    ca.sign("next.csr", (issuer, section), &["-set_serial", &serial.to_string()], out);
}

/// Has its key on the `ca` token of the authority, as the vendor's tool brings it there.
fn move_key(ca: &OpensslCa, deployment: &Deployment, key: &str, label: &str, id: &str) {
    let pin = fs::read_to_string(deployment.path("data/pins/ca.pin")).unwrap();
    let output = Command::new("softhsm2-util")
        .env("SOFTHSM2_CONF", deployment.path("data/tokens/softhsm2.conf"))
        .args(["--import", key, "--label", label, "--id", id, "--pin", pin.trim()])
        .args(["--token", "chancery-ca"])
        .current_dir(&ca.folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn adopt_key(deployment: &Deployment, label: &str, certificate: &str, name: &str) -> String {
    let adopt = ["ceremony", "adopt-key", "--config", "chanceryd.toml", "--key-label", label];
    let what = ["--certificate", certificate, "--name", name];
    let file = format!("{name}.json");
    deployment.chanceryd(&[&adopt[..], &what, &["--out", &file]].concat());
    file
}

/// The same call again, under its key: the same answer, and nothing done twice. Another request under that key is none.
async fn repeated(deployment: &Deployment, certificate: &[u8]) {
    let officer = deployment.caller("officer").await;
    let mut client = CertificateServiceClient::new(officer.channel.clone());
    let mut message = AdoptCertificatesRequest {
        idempotency_key: "adopt again".to_owned(),
        issuer: "old-eum".to_owned(),
        certificates: vec![certificate.to_vec()],
        party: String::new(),
    };
    let first = client.adopt_certificates(message.clone()).await.unwrap().into_inner();
    assert_eq!(first.results[0].result, "taken");
    let again = client.adopt_certificates(message.clone()).await.unwrap().into_inner();
    assert_eq!(again, first);
    message.party = "eum".to_owned();
    let other = client.adopt_certificates(message).await.unwrap_err();
    assert_eq!(crate::caller::reason(&other), "IDEMPOTENCY_KEY_REUSED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_of_other_software_moves_here_with_its_keys_its_list_and_what_it_issued() {
    let mut deployment = Deployment::found();
    let old = found_old_ca(&deployment);
    move_key(&old, &deployment, "ci.key", "Old CI", "01");
    move_key(&old, &deployment, "eum.key", "Old EUM", "02");
    move_key(&old, &deployment, "lost.key", "Lost EUM", "03");
    let openssl = |arguments: &[&str]| old.openssl(arguments);

    // The key: of this certificate, and no other.
    let wrong = ["ceremony", "adopt-key", "--config", "chanceryd.toml", "--key-label", "Old EUM"];
    let wrong = [&wrong[..], &["--certificate", "old/ci.pem", "--name", "x", "--out", "x.json"]].concat();
    assert!(deployment.refused("chanceryd", &wrong).contains("not the one that was recorded"));
    let file = adopt_key(&deployment, "Old CI", "old/ci.pem", "old-ci");

    // The issuer: with its last list, or with the word that it never signed any.
    let register = ["issuer", "register", "--key-file", &file, "--authority", "--certificate", "old/ci.pem"];
    let register = [&register[..], &WHY].concat();
    let said = deployment.refused("chancery", &[&register[..], &["--identity", "officer"]].concat());
    assert!(said.contains("bring the last one"), "{said}");
    let with_list = [&register[..], &["--list", "old/last.crl"]].concat();
    let shown = deployment.chancery(&[
        "operation",
        "show",
        &deployment.request(&with_list),
        "--identity",
        "approver",
    ]);
    assert!(
        shown.contains("OTHER SOFTWARE made this key") && shown.contains("2 certificates revoked"),
        "{shown}"
    );
    deployment.two_persons(&with_list, None);
    let again = [&with_list[..], &["--name", "old-ci-2", "--identity", "officer"]].concat();
    let said = deployment.refused("chancery", &again);
    assert!(said.contains("issuer old-ci has this key or this subject already"), "{said}");

    // What an issuer that was made here issued is in the register already.
    let own = ["certificate", "adopt", "--issuer", "ci", "old/issued/eum.pem", "--identity", "officer"];
    assert!(deployment.refused("chancery", &own).contains("it did not come from elsewhere"));
    // What it issued: each proves itself; whose it is follows from its organisation.
    let adopt = |issuer: &str, paths: &[&str]| {
        let adopt = ["certificate", "adopt", "--issuer", issuer, "--output", "json", "--identity", "officer"];
        let output = deployment.try_chancery(&[&adopt[..], paths].concat());
        let counts: serde_json::Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        (output.status.code(), counts)
    };
    let (code, counts) = adopt("old-ci", &["old/issued"]);
    let found = |name: &str| counts[name].as_u64().unwrap();
    assert_eq!((code, found("taken"), found("revoked"), found("known")), (Some(1), 3, 1, 0), "{counts}");
    assert_eq!(counts["refused"][0]["reason"], "UNKNOWN_PARTY", "{counts}");
    let named = ["old/issued/stranger.pem", "--party", "provisioner"];
    assert_eq!(adopt("old-ci", &named).1["taken"], 1);
    let (code, counts) = adopt("old-ci", &["old/issued/eum.pem", "old/ci.pem"]);
    let root = counts["refused"][0]["problem"].as_str().unwrap();
    assert_eq!((code, counts["known"].as_u64()), (Some(1), Some(1)), "{counts}");
    assert!(root.contains("a root is an issuer"), "{root}");

    // One that the list revokes does not come, though its certificate was never brought.
    let file = adopt_key(&deployment, "Lost EUM", "old/lost.pem", "lost-eum");
    let lost = ["issuer", "register", "--key-file", &file, "--party", "eum", "--certificate", "old/lost.pem"];
    let said = deployment.refused("chancery", &[&lost[..], &WHY, &["--identity", "officer"]].concat());
    assert!(said.contains("old-ci revoked the issuer's certificate, for key-compromise"), "{said}");

    // The manufacturer's issuer, whose certificate the register has; its numbers are those of the CI's certificates too.
    let file = adopt_key(&deployment, "Old EUM", "old/eum.pem", "old-eum");
    let register =
        ["issuer", "register", "--key-file", &file, "--party", "eum", "--certificate", "old/eum.pem"];
    deployment.two_persons(&[&register[..], &WHY].concat(), None);
    let (code, counts) = adopt("old-eum", &["old/devices"]);
    assert_eq!((code, counts["taken"].as_u64()), (Some(0), Some(3)), "{counts}");
    let (code, counts) = adopt("old-eum", &["old/devices", "old/issued/tls.pem"]);
    assert_eq!((code, counts["known"].as_u64()), (Some(1), Some(3)), "{counts}");
    assert!(counts["refused"][0]["problem"].as_str().unwrap().contains("not issued by old-eum"), "{counts}");
    let subject = format!("/C=DE/O=RSP Test/serialNumber={}/CN=eUICC", eid("890490329", 8));
    issue(&old, "device", &subject, ("eum", 8, "euicc"), "eighth.pem");
    let eighth = old.certificate("eighth.pem");
    repeated(&deployment, eighth.der()).await;
    let ask = ["certificate", "ask", "old/devices/2.pem", "--chain", "old/eum.pem", "--identity", "officer"];
    let asked = deployment.chancery(&ask);
    assert!(asked.contains("VERIFIED") && asked.contains("in-force"), "{asked}");

    // Both issue: devices of an order, and below the CI a server that openssl accepts.
    let eids: Vec<String> = (10..13).map(|number| eid("890490321", number)).collect();
    fs::write(deployment.path("devices.csv"), csv(&eids)).unwrap();
    let place = ["order", "place", "--order", "moved", "--issuer", "old-eum", "--devices", "devices.csv"];
    let placed = deployment
        .chancery(&[&place[..], &["--kvn", "0x30", "--algorithm", "AES-128", "--identity", "eum"]].concat());
    assert!(placed.contains('3'), "{placed}");
    openssl(&[
        "req",
        "-new",
        "-key",
        "device.key",
        "-subj",
        "/CN=x",
        "-config",
        "openssl.cnf",
        "-out",
        "taken.csr",
    ]);
    let request = |csr: &'static str| {
        let request =
            ["certificate", "request", "--profile", "dptls", "--party", "provisioner", "--csr", csr];
        let subject =
            ["--common-name", "new.example", "--dns-name", "new.example", "--registered-id", "2.999.110"];
        [&request[..], &subject, &["--under", "old-ci"], &WHY].concat()
    };
    let said =
        deployment.refused("chancery", &[&request("old/taken.csr")[..], &["--identity", "officer"]].concat());
    assert!(said.contains("DUPLICATE_KEY"), "a key that the old CA certified is certified: {said}");
    openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "new.key"]);
    openssl(&[
        "req",
        "-new",
        "-key",
        "new.key",
        "-subj",
        "/CN=x",
        "-config",
        "openssl.cnf",
        "-out",
        "new.csr",
    ]);
    deployment.two_persons(&request("old/new.csr"), Some("new"));
    let leaf = deployment.path("received/new/certificate.pem").display().to_string();
    assert_eq!(openssl(&["verify", "-x509_strict", "-CAfile", "ci.pem", &leaf]), format!("{leaf}: OK\n"));

    // A number that two issuers used is named with its issuer.
    let revoke = ["certificate", "revoke", "--serial", "03", "--reason", "superseded"];
    let said = deployment.refused("chancery", &[&revoke[..], &["--identity", "officer"]].concat());
    assert!(said.contains("old-ci") && said.contains("old-eum"), "{said}");
    deployment.two_persons(&[&revoke[..], &["--issuer", "old-ci"]].concat(), None);
    let list = || crate::revocation::get(deployment.http_port(), "/crl/old-ci-a.crl");
    let names =
        |list: &Crl, serial: u8| list.find(&pki::SerialNumber::from_bytes(&[serial]).unwrap()).is_some();
    eventually("the list shows it", || list().is_some_and(|list| names(&Crl::from_der(&list).unwrap(), 3)));
    let newest = Crl::from_der(&list().unwrap()).unwrap();
    assert!(newest.number().unwrap() > LAST_NUMBER, "its numbers go on");
    assert_eq!(newest.revoked().len(), 3, "what the old CA revoked stays revoked");
    assert!(names(&newest, 4) && names(&newest, 0x63));
    fs::write(old.folder.join("newest.crl"), newest.pem()).unwrap();
    let check = |leaf: &str| {
        let verify = ["verify", "-crl_check", "-CAfile", "ci.pem", "-CRLfile", "newest.crl", leaf];
        let output = Command::new("openssl").args(verify).current_dir(&old.folder).output().unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    assert!(check("issued/tls.pem").contains("certificate revoked"));
    assert!(check(&leaf).contains("OK"));

    // OCSP, after a restart that finds both keys again: what was issued, what was revoked, what was lost, what never was.
    let role = ["ceremony", "create-key", "--config", "chanceryd.toml", "--role", "ocsp-responder"];
    deployment.chanceryd(&[&role[..], &["--name", "old-ci", "--out", "responder.json"]].concat());
    let register = ["issuer", "register-responder", "--issuer", "old-ci", "--key-file", "responder.json"];
    deployment.two_persons(&[&register[..], &WHY].concat(), None);
    deployment.restart();
    let url = format!("http://127.0.0.1:{}/ocsp", deployment.http_port());
    let answer = |serial: &str| {
        let ask = ["ocsp", "-issuer", "ci.pem", "-serial", serial, "-url", &url, "-CAfile", "ci.pem"];
        Command::new("openssl")
            .args(ask)
            .current_dir(&old.folder)
            .output()
            .map(|output| String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    for (serial, says) in
        [("2", "good"), ("3", "revoked"), ("4", "revoked"), ("0x63", "revoked"), ("9", "unknown")]
    {
        eventually(says, || answer(serial).is_ok_and(|text| text.contains(&format!("{serial}: {says}"))));
    }
    let doctor = deployment.doctor(&[]);
    assert!(doctor.status.success(), "{}", String::from_utf8_lossy(&doctor.stdout));

    // The log: each certificate that came has an entry, and each that was refused.
    let entries = deployment.entries();
    let adopted: Vec<_> =
        entries.iter().filter(|e| e.header.event == EventType::CertificateAdopted).collect();
    let taken = adopted.iter().filter(|entry| entry.header.outcome == Outcome::Done).count();
    let refused = adopted.iter().filter(|e| matches!(e.header.outcome, Outcome::Refused(_))).count();
    assert_eq!((taken, refused), (8, 5));
    let registered = entries.iter().filter(|entry| entry.header.event == EventType::IssuerRegistered);
    assert_eq!(registered.filter(|entry| entry.name("kind") == Some("adopted-issuer")).count(), 2);
    let device = old.certificate("devices/1.pem");
    let held = adopted.iter().any(|entry| entry.digest("certificate") == Some(device.digest()));
    assert!(held);
}

#[test]
fn a_manufacturers_issuer_below_an_anchor_comes_with_its_devices_too() {
    let deployment = Deployment::found();
    let other = OpensslCa::found(&deployment, "other", "/CN=Other CI/O=Elsewhere/C=DE", "RSP Test", 10);
    for name in ["eum", "device"] {
        other.key(name);
    }
    issue(&other, "eum", "/C=DE/O=RSP Test/CN=Other EUM", ("ci", 2, "eum"), "eum.pem");
    let subject = format!("/C=DE/O=RSP Test/serialNumber={}/CN=eUICC", eid("890490328", 1));
    issue(&other, "device", &subject, ("eum", 1, "euicc"), "device.pem");
    move_key(&other, &deployment, "eum.key", "Other EUM", "01");
    let anchor =
        ["anchor", "register", "--name", "other", "--certificate", "other/ci.pem", "--without-lists"];
    deployment.two_persons(&[&anchor[..], &["--ein", "890490328"], &WHY].concat(), None);
    let file = adopt_key(&deployment, "Other EUM", "other/eum.pem", "other-eum");
    let register = ["issuer", "register", "--key-file", &file, "--party", "eum"];
    deployment.two_persons(&[&register[..], &WHY].concat(), None);
    let import =
        ["anchor", "import", "--anchor", "other", "--certificate", "other/eum.pem", "--party", "eum"];
    deployment.two_persons(&[&import[..], &["--issuer", "other-eum"], &WHY].concat(), None);
    let adopt =
        ["certificate", "adopt", "--issuer", "other-eum", "--identity", "officer", "other/device.pem"];
    deployment.chancery(&adopt);
    let ask = ["certificate", "ask", "other/device.pem", "--chain", "other/eum.pem", "--identity", "officer"];
    let asked = deployment.chancery(&ask);
    assert!(asked.contains("VERIFIED") && asked.contains("in-force"), "{asked}");
}
