//! NSS, the library of Firefox: a database that trusts the CI and holds its list, and vfychain with both of its verifiers.

use std::path::Path;
use std::process::Command;

use super::artefacts::{Artefacts, Certificate, LIST, REVOKED};
use super::openssl::must_refuse;
use super::{Judgement, ask};
use crate::run::{Failure, output};

/// CERT_VerifyCertificate and CERT_PKIXVerifyCert; the second looks at lists only when told to.
const VERIFIERS: [(&str, &[&str]); 2] =
    [("nss classic", &[]), ("nss pkix", &["-pp", "-g", "leaf", "-m", "crl", "-s", "forbidFetching"])];
const REVOKED_ERROR: &str = "-8180";

/// Asks it everything; the database is made anew in `scratch`.
pub fn judge(artefacts: &Artefacts, scratch: &Path) -> Result<Vec<Judgement>, Failure> {
    let folder = scratch.join("nss");
    let failed = |error: std::io::Error| Failure::new(format!("{}: {error}", folder.display()));
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(failed)?;
    }
    std::fs::create_dir(&folder).map_err(failed)?;
    let database = format!("sql:{}", folder.display());
    output(Command::new("certutil").args(["-N", "--empty-password", "-d", &database]))?;
    for root in ["ci", "operator-ca"] {
        let import = ["-A", "-a", "-d", &database, "-n", root, "-t", "TC,C,C", "-i"];
        output(Command::new("certutil").args(import).arg(artefacts.file(root)))?;
    }
    let import = ask(Command::new("crlutil").args(["-I", "-d", &database, "-i"]).arg(&artefacts.list_der))?;
    let refused = (!import.content).then(|| import.text.trim().replace('\n', "; "));
    let mut judgements = vec![Judgement::new("nss crlutil", LIST, refused).noted("imports it")];

    for (verifier, options) in VERIFIERS {
        for certificate in artefacts.certificates.iter().filter(|one| one.issuer.is_some()) {
            let (usages, note) = usages(certificate.name);
            let mut findings = Vec::new();
            for file in &certificate.files {
                let chain: Vec<&Path> =
                    std::iter::once(file.as_path()).chain(between(artefacts, certificate)).collect();
                for usage in usages {
                    findings.extend(verify(&database, options, usage, &chain)?);
                }
            }
            judgements.push(Judgement::new(verifier, certificate.name, findings).noted(note));
        }
        let said = verify(&database, options, usages(REVOKED).0[0], &[&artefacts.revoked])?;
        // That the certificate says something critical that is not understood is told of its successor already.
        let said: Vec<_> = said.into_iter().filter(|error| error != UNKNOWN_CRITICAL).collect();
        judgements.push(must_refuse(verifier, REVOKED, &said, REVOKED_ERROR));
    }
    Ok(judgements)
}

const UNKNOWN_CRITICAL: &str = "-8151";

/// The usages that a certificate can be asked for: NSS knows none of the GSMA's.
fn usages(name: &str) -> (&'static [&'static str], &'static str) {
    match name {
        "dptls" | "dptls-v3" | "dstls-v3" => (&["0", "1"], "as TLS client and server"),
        "operator-server" => (&["1"], "as TLS server"),
        "operator-client" => (&["0"], "as TLS client"),
        "eum" | "ci-sub" | "dp-sub" | "ds-sub" => (&["11"], "as any CA"),
        "ocsp-responder" => (&["10"], "as OCSP responder"),
        // What asks for digitalSignature and for no extended key usage.
        _ => (&["4"], "as signer of mail"),
    }
}

/// The certificates between one and its root.
fn between<'a>(artefacts: &'a Artefacts, certificate: &Certificate) -> Vec<&'a Path> {
    let mut above = artefacts.above(certificate);
    above.pop();
    above
}

/// The numbers of the errors that vfychain reports.
fn verify(database: &str, options: &[&str], usage: &str, chain: &[&Path]) -> Result<Vec<String>, Failure> {
    let mut command = Command::new("vfychain");
    command.args(["-d", database]).args(options).args(["-u", usage]);
    for certificate in chain {
        command.arg("-a").arg(certificate);
    }
    let answer = ask(&mut command)?;
    let mut errors: Vec<String> = answer
        .text
        .lines()
        .filter_map(|line| {
            line.trim().strip_prefix("ERROR ")?.split_once(':').map(|(number, _)| number.to_owned())
        })
        .collect();
    if errors.is_empty() && !answer.text.contains("Chain is good!") {
        errors.push(format!("fails: {}", answer.text.trim().replace('\n', "; ")));
    }
    Ok(errors)
}
