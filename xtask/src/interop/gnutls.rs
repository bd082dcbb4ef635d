//! GnuTLS: reads certificates and verifies chains and lists with certtool.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::artefacts::{ANSWER, Artefacts, Certificate, REVOKED};
use super::openssl::must_refuse;
use super::{Judgement, ask};
use crate::run::Failure;

const VERIFIED: &str = "Verified. The certificate is trusted.";
const REFUSED: &str = "Not verified. The certificate is NOT trusted.";
const REFUSED_AS_REVOKED: &str = "The certificate chain is revoked.";

/// Asks it everything; chains are put together in `scratch`.
pub fn judge(artefacts: &Artefacts, scratch: &Path) -> Result<Vec<Judgement>, Failure> {
    let mut judgements = Vec::new();
    for certificate in &artefacts.certificates {
        judgements.push(info(certificate)?);
    }
    for certificate in artefacts.certificates.iter().filter(|one| one.issuer.is_some()) {
        let mut parts = artefacts.above(certificate);
        // The issuer's list for those below the CI: certtool applies a list that lies in the chain's file.
        if certificate.issuer == Some("ci") {
            parts.push(&artefacts.list);
        }
        let mut findings = Vec::new();
        for file in &certificate.files {
            findings.extend(verify_chain(file, &parts, scratch)?);
        }
        judgements.push(Judgement::new("certtool chain", certificate.name, findings));
    }
    let said = verify_chain(&artefacts.revoked, &[artefacts.file("ci"), &artefacts.list], scratch)?;
    judgements.push(must_refuse("certtool chain", REVOKED, &said, REFUSED_AS_REVOKED));
    for (name, file) in artefacts.lists() {
        let answer = ask(certtool()
            .args(["--verify-crl", "--load-ca-certificate"])
            .arg(artefacts.file("ci"))
            .arg("--infile")
            .arg(file))?;
        let findings = (!answer.content || !answer.text.contains(VERIFIED)).then(|| last_line(&answer.text));
        judgements.push(Judgement::new("certtool crl", name, findings));
    }
    judgements.push(ocsp(artefacts)?);
    Ok(judgements)
}

fn certtool() -> Command {
    Command::new("certtool")
}

/// Whether the answer verifies down to the CI that delegated its responder.
fn ocsp(artefacts: &Artefacts) -> Result<Judgement, Failure> {
    let answer = ask(Command::new("ocsptool")
        .args(["--verify-response", "--load-trust"])
        .arg(artefacts.file("ci"))
        .arg("--load-response")
        .arg(&artefacts.answer))?;
    let findings = (!answer.content || !answer.text.contains("Success.")).then(|| last_line(&answer.text));
    Ok(Judgement::new("ocsptool", ANSWER, findings))
}

fn info(certificate: &Certificate) -> Result<Judgement, Failure> {
    let mut findings = Vec::new();
    for file in &certificate.files {
        let answer = ask(certtool().args(["--certificate-info", "--infile"]).arg(file))?;
        if !answer.content {
            findings.push(last_line(&answer.text));
        }
        for bad in ["warning:", "error:", "unknown critical"] {
            let found = answer.text.lines().find(|line| line.contains(bad));
            findings.extend(found.map(|line| line.trim().to_owned()));
        }
    }
    Ok(Judgement::new("certtool info", certificate.name, findings))
}

/// What it says of a leaf with everything above it, root last, and a list behind.
fn verify_chain(leaf: &Path, rest: &[&Path], scratch: &Path) -> Result<Vec<String>, Failure> {
    let chain: PathBuf = scratch.join("chain.pem");
    let failed = |error: std::io::Error| Failure::new(format!("{}: {error}", chain.display()));
    let mut text = String::new();
    for part in [&[leaf], rest].concat() {
        text.push_str(&std::fs::read_to_string(part).map_err(failed)?);
    }
    std::fs::write(&chain, text).map_err(failed)?;
    let answer = ask(certtool().args(["--verify-chain", "--infile"]).arg(&chain))?;
    let verdict =
        answer.text.lines().find_map(|line| line.trim().strip_prefix("Chain verification output: "));
    Ok(match verdict.map(str::trim) {
        Some(VERIFIED) if answer.content => Vec::new(),
        Some(verdict) => {
            vec![verdict.strip_prefix(REFUSED).map_or(verdict, str::trim).to_owned()]
        }
        None => vec![last_line(&answer.text)],
    })
}

fn last_line(text: &str) -> String {
    text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("says nothing").to_owned()
}
