//! Our own tool beside the judges: what it says of the same certificates, and its hand-over to an SM-DP+ loaded as
//! osmo-smdpp loads it, with the Python library that osmo-smdpp uses.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use super::artefacts::{Artefacts, REVOKED};
use super::openssl::must_refuse;
use super::{Judgement, ask};
use crate::run::{Failure, output};

const LOADER: &str = include_str!("smdp_loader.py");
/// What the hand-over is called on the page.
const BUNDLE: &str = "bundle";
/// Where the demonstration's provisioner keeps its keys.
const PROVISIONER: &str = "parties/dp-one";

#[derive(Deserialize)]
struct Verdict {
    findings: Vec<Finding>,
}

#[derive(Deserialize)]
struct Finding {
    finding: String,
}

/// Asks `tool`, which was built with the demonstration, and has its hand-over loaded by `python`.
pub fn judge(
    tool: &Path,
    artefacts: &Artefacts,
    scratch: &Path,
    python: &Path,
) -> Result<Vec<Judgement>, Failure> {
    let mut judgements = Vec::new();
    for certificate in artefacts.certificates.iter().filter(|one| one.published.is_some()) {
        let mut findings = Vec::new();
        for file in &certificate.files {
            findings.extend(verify(tool, artefacts, file)?);
        }
        judgements.push(
            Judgement::new("chancery verify", certificate.name, findings).noted("ours, by the GSMA's rules"),
        );
    }
    let said = verify(tool, artefacts, &artefacts.revoked)?;
    judgements.push(must_refuse("chancery verify", REVOKED, &said, "revoked"));
    let folder = bundle(tool, artefacts, scratch)?;
    let loaded = output(Command::new(python).args(["-c", LOADER]).arg(&folder))?;
    let findings: Vec<String> = serde_json::from_slice(&loaded)
        .map_err(|error| Failure::new(format!("the loader of the hand-over: {error}")))?;
    judgements
        .push(Judgement::new("python cryptography", BUNDLE, findings).noted("loaded like osmo-smdpp does"));
    Ok(judgements)
}

fn verify(tool: &Path, artefacts: &Artefacts, file: &Path) -> Result<Vec<String>, Failure> {
    let mut command = Command::new(tool);
    command.args(["certificate", "verify", "--output", "json", "--ci"]).arg(artefacts.file("ci"));
    command.arg("--chain").arg(artefacts.file("eum")).arg("--crl").arg(&artefacts.list).arg(file);
    let answer = ask(&mut command)?;
    let verdict: Verdict = serde_json::from_str(&answer.text)
        .map_err(|_| Failure::new(format!("chancery certificate verify: {}", answer.text.trim())))?;
    Ok(verdict.findings.into_iter().map(|finding| finding.finding).collect())
}

fn bundle(tool: &Path, artefacts: &Artefacts, scratch: &Path) -> Result<PathBuf, Failure> {
    let folder = scratch.join(BUNDLE);
    if folder.exists() {
        std::fs::remove_dir_all(&folder)
            .map_err(|error| Failure::new(format!("{}: {error}", folder.display())))?;
    }
    let mut command = Command::new(tool);
    command.args(["certificate", "bundle", "--for", "sm-dp+"]);
    for role in ["dpauth", "dppb", "dptls"] {
        command.arg(format!("--{role}")).arg(artefacts.file(role));
        command
            .arg(format!("--{role}-key"))
            .arg(artefacts.demo.join(PROVISIONER).join(format!("{role}-key.pem")));
    }
    for role in ["ci", "eum"] {
        command.arg(format!("--{role}")).arg(artefacts.file(role));
    }
    output(command.arg("--out").arg(&folder)).map(|_| folder)
}
