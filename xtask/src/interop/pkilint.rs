//! pkilint of DigiCert: certificates, pairs of issuer and subject, and lists against RFC 5280; from notices upward.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::Judgement;
use super::artefacts::{ANSWER, Artefacts};
use crate::python::{self, Packages};
use crate::run::Failure;

/// Fixed, so that a finding appears or goes because of us; a new version is a change here and on the page.
const PACKAGES: [&str; 4] =
    ["pkilint==0.13.3", "pyasn1==0.6.5", "pyasn1-fasder==0.1.3", "cryptography==50.0.2"];
const DRIVER: &str = include_str!("pkilint.py");

/// An installed pkilint.
pub struct Pkilint {
    python: PathBuf,
}

/// One run of one linter.
#[derive(Serialize)]
struct Job {
    linter: &'static str,
    arguments: Vec<String>,
    decoder: &'static str,
    #[serde(skip)]
    judge: &'static str,
    #[serde(skip)]
    artefact: &'static str,
}

#[derive(Deserialize)]
struct Report {
    results: Vec<Outcome>,
}

#[derive(Deserialize)]
struct Outcome {
    finding_descriptions: Vec<Description>,
}

#[derive(Deserialize)]
struct Description {
    code: String,
}

impl Pkilint {
    /// Installs it into an environment of its own under `scratch`, unless this version is there.
    pub fn install(scratch: &Path) -> Result<Self, Failure> {
        let what = format!("{}: linter of certificates and lists", PACKAGES[0]);
        python::install(&scratch.join("pkilint"), &Packages::Named(&PACKAGES), &what)
            .map(|python| Self { python })
    }

    /// The interpreter of its environment.
    pub fn python(&self) -> &Path {
        &self.python
    }

    /// Asks it everything.
    pub fn judge(&self, artefacts: &Artefacts) -> Result<Vec<Judgement>, Failure> {
        let jobs = jobs(artefacts);
        let reports = self.reports(&jobs)?;
        let mut judgements: Vec<Judgement> = Vec::new();
        for (job, report) in jobs.iter().zip(reports) {
            let findings: BTreeSet<String> = match report {
                Some(report) => report
                    .results
                    .into_iter()
                    .flat_map(|outcome| outcome.finding_descriptions)
                    .map(|description| description.code)
                    .collect(),
                None => [format!("{} does not read it", job.linter)].into(),
            };
            match judgements.last_mut() {
                // Several files of one kind give one line.
                Some(last) if (last.judge, last.artefact) == (job.judge, job.artefact) => {
                    last.findings.extend(findings)
                }
                _ => judgements.push(Judgement::new(job.judge, job.artefact, findings)),
            }
        }
        Ok(judgements)
    }

    fn reports(&self, jobs: &[Job]) -> Result<Vec<Option<Report>>, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::new(format!("pkilint: {error}"));
        let input = serde_json::to_vec(jobs).map_err(|error| failed(&error))?;
        let mut child = Command::new(&self.python)
            .args(["-c", DRIVER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| failed(&error))?;
        // The driver reads everything before it prints anything, and dropping the pipe ends its input.
        child
            .stdin
            .take()
            .map_or(Ok(()), |mut stdin| stdin.write_all(&input))
            .map_err(|error| failed(&error))?;
        let output = child.wait_with_output().map_err(|error| failed(&error))?;
        if !output.status.success() {
            return Err(failed(&output.status));
        }
        let reports: Vec<Option<Report>> =
            serde_json::from_slice(&output.stdout).map_err(|error| failed(&error))?;
        if reports.len() == jobs.len() { Ok(reports) } else { Err(failed(&"a report is missing")) }
    }
}

fn jobs(artefacts: &Artefacts) -> Vec<Job> {
    let text = |path: &Path| path.display().to_string();
    let mut jobs = Vec::new();
    for (judge, decoder) in [("pkilint cert", "own"), ("pkilint cert, pyasn1", "pyasn1")] {
        for certificate in &artefacts.certificates {
            for file in &certificate.files {
                let (linter, artefact, arguments) = ("lint_pkix_cert", certificate.name, vec![text(file)]);
                jobs.push(Job { linter, arguments, decoder, judge, artefact });
            }
        }
    }
    for certificate in &artefacts.certificates {
        let Some(issuer) = certificate.issuer else { continue };
        for file in &certificate.files {
            jobs.push(Job {
                linter: "lint_pkix_signer_signee_cert_chain",
                arguments: vec![text(artefacts.file(issuer)), text(file)],
                decoder: "pyasn1",
                judge: "pkilint chain, pyasn1",
                artefact: certificate.name,
            });
        }
    }
    let arguments = ["--type", "CRL", "--profile", "PKIX"].map(str::to_owned);
    jobs.extend(artefacts.lists().map(|(artefact, file)| Job {
        linter: "lint_crl",
        arguments: [arguments.to_vec(), vec![text(file)]].concat(),
        decoder: "own",
        judge: "pkilint crl",
        artefact,
    }));
    jobs.push(Job {
        linter: "lint_ocsp_response",
        arguments: vec![text(&artefacts.answer)],
        decoder: "own",
        judge: "pkilint ocsp",
        artefact: ANSWER,
    });
    jobs
}
