//! A certificate is revoked: the list over HTTP and the OCSP responder show it, and OpenSSL refuses it.

use std::time::{Duration, Instant};

use crate::authority;
use crate::stage::{Failure, Stage};

/// How long the list may take after the revocation.
const PATIENCE: Duration = Duration::from_secs(10);
/// Path of the list of the certificate issuer (CI), as its certificates name it.
const LIST: &str = "/crl/ci-a.crl";
/// What OpenSSL calls a revoked certificate.
const REVOKED: &str = "error 23 at 0 depth lookup: certificate revoked";

/// Revokes the provisioner's DPpb certificate and gives it a successor.
pub fn play(stage: &Stage) -> Result<(), Failure> {
    for form in ["pem", "der"] {
        stage.copy(&format!("dppb.{form}"), &format!("dppb-revoked.{form}"))?;
    }
    let before = number(stage, &stage.http_get(LIST)?)?;
    let serial = openssl(stage, &["x509", "-in", "dppb-revoked.pem", "-noout", "-serial"])?;
    let serial = serial.trim().trim_start_matches("serial=").to_lowercase();
    authority::certify_provisioner(stage, "dppb", "TEST SM-DP+", "licence 7, key renewed")?;
    let revoke = ["certificate", "revoke", "--serial", &serial, "--reason", "superseded"];
    stage.two_persons(&revoke, None)?;

    let began = Instant::now();
    loop {
        let list = stage.http_get(LIST)?;
        let text = readable(stage, &list)?.to_lowercase();
        if text.contains(&format!("serial number: {serial}")) {
            break;
        }
        if began.elapsed() > PATIENCE {
            return Err(Failure::new(format!("expected {LIST} to name {serial}\n{text}")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let took = began.elapsed();
    let after = number(stage, &stage.http_get(LIST)?)?;
    if after <= before {
        return Err(Failure::new(format!("expected a list number above {before}, got {after}")));
    }
    stage.say(format_args!(
        "{LIST} shows it {:.0} ms after the execution; list {after} followed {before}",
        took.as_secs_f64() * 1e3
    ));
    stage.expect(
        "openssl",
        &["crl", "-inform", "DER", "-in", "ci.crl", "-CAfile", "ci.pem", "-noout", "-text"],
        0,
    )?;
    // OpenSSL wants its lists in PEM here.
    let pem = ["crl", "-inform", "DER", "-in", "ci.crl", "-out", "state/ci-crl.pem"];
    stage.expect("openssl", &pem, 0)?;
    let verify =
        ["verify", "-x509_strict", "-crl_check", "-CAfile", "ci.pem", "-CRLfile", "state/ci-crl.pem"];
    for name in ["dpauth.pem", "dppb.pem", "eum.pem"] {
        stage.expect("openssl", &[&verify[..], &[name]].concat(), 0)?;
    }
    stage.fails_with("openssl", &[&verify[..], &["dppb-revoked.pem"]].concat(), REVOKED)?;
    // The lists that came with that one, and what a server staples.
    for (path, file) in [
        ("/crl/ci~delta-a.crl", "ci-delta.crl"),
        ("/crl/ci~p1-a.crl", "ci-part.crl"),
        ("/staple/ci.p7c", "ci-staple.p7c"),
    ] {
        stage.write(file, stage.http_get(path)?)?;
    }
    let staple = ["certificate", "verify", "dpauth.pem", "--ci", "ci.pem", "--staple", "ci-staple.p7c"];
    stage.chancery(&staple)?;
    ask_responder(stage)
}

/// The OCSP responder says the same, and its answer and certificate stay for other judges.
fn ask_responder(stage: &Stage) -> Result<(), Failure> {
    let url = format!("http://127.0.0.1:{}/ocsp", stage.http_port());
    let ask = ["ocsp", "-issuer", "ci.pem", "-CAfile", "ci.pem", "-url", &url, "-respout", "ocsp.der"];
    let said = stage.expect(
        "openssl",
        &[&ask[..], &["-cert", "dppb-revoked.pem", "-cert", "dppb.pem"]].concat(),
        0,
    )?;
    for line in ["dppb-revoked.pem: revoked", "dppb.pem: good"] {
        if !said.contains(line) {
            return Err(Failure::new(format!("expected the OCSP answer to say {line}\n{said}")));
        }
    }
    let text = openssl(stage, &["ocsp", "-respin", "ocsp.der", "-resp_text", "-noverify"])?;
    let begin = text.find("-----BEGIN CERTIFICATE-----");
    let certificate =
        begin.map(|begin| &text[begin..]).ok_or_else(|| Failure::new("no responder came along"))?;
    stage.write("state/ocsp-responder.pem", certificate)
}

fn readable(stage: &Stage, list: &[u8]) -> Result<String, Failure> {
    stage.write("ci.crl", list)?;
    openssl(stage, &["crl", "-inform", "DER", "-in", "ci.crl", "-noout", "-text"])
}

fn number(stage: &Stage, list: &[u8]) -> Result<u64, Failure> {
    stage.write("ci.crl", list)?;
    let answer = openssl(stage, &["crl", "-inform", "DER", "-in", "ci.crl", "-noout", "-crlnumber"])?;
    let digits = answer.trim().trim_start_matches("crlNumber=").trim_start_matches("0x").to_owned();
    u64::from_str_radix(&digits, 16).map_err(Failure::at(format!("crlNumber {digits}")))
}

fn openssl(stage: &Stage, arguments: &[&str]) -> Result<String, Failure> {
    stage.quiet("openssl", arguments)
}
