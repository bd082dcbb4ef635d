//! OpenSSL as the judge of what is issued. Skipped, with a line that says so, only where the program is missing.

use crate::authority::*;
use pki::*;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A directory of files for one test, removed at its end.
pub struct Files(pub PathBuf);

impl Files {
    pub fn new(name: &str) -> Self {
        let path =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("pki-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn write(&self, name: &str, content: &[u8]) -> String {
        let path = self.0.join(name);
        std::fs::File::create(&path).unwrap().write_all(content).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether OpenSSL succeeds, and what it prints.
#[expect(clippy::print_stderr, reason = "whoever runs the tests must see what was not judged")]
pub fn openssl(arguments: &[&str]) -> Option<(bool, String)> {
    let output = match Command::new("openssl").args(arguments).stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("SKIPPED: openssl cannot be run ({error}); this test judged nothing");
            return None;
        }
    };
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    Some((output.status.success(), text))
}

#[test]
fn openssl_accepts_every_chain_but_that_of_the_euicc() {
    let files = Files::new("chains");
    let root = ci();
    let ca = files.write("ci.pem", root.certificate.pem().as_bytes());
    let key = new_key();
    let eum = issue(CertificateRole::Eum.profile(), eum_inputs(&key), key, Some(&root));
    let mut leaves = vec![("eum", eum.certificate.clone())];
    for (name, profile) in [
        ("dpauth", CertificateRole::DpAuth),
        ("dppb", CertificateRole::DpPb),
        ("dptls", CertificateRole::DpTls),
    ] {
        let key = new_key();
        let mut inputs = dp_inputs(&key, "2.999.10");
        if profile == CertificateRole::DpTls {
            inputs.dns_name = inputs.subject.common_name.clone();
        }
        leaves.push((name, issue(profile.profile(), inputs, key, Some(&root)).certificate));
    }
    // The validity of the test certificates is fixed; the clock of this machine is not.
    let at = ["-attime", "1780272000", "-x509_strict", "-CAfile", ca.as_str()];
    for (name, certificate) in &leaves {
        let file = files.write(&format!("{name}.pem"), certificate.pem().as_bytes());
        let Some((accepted, text)) = openssl(&[&["verify"], &at[..], &[file.as_str()]].concat()) else {
            return;
        };
        assert!(accepted, "{name}: {text}");
    }
    // SGP.22's constraint is no RFC 5280 subtree: why a verifier of our own exists.
    let key = new_key();
    let euicc = issue(CertificateRole::Euicc.profile(), euicc_inputs(&key), key, Some(&eum)).certificate;
    let file = files.write("euicc.pem", euicc.pem().as_bytes());
    let eum_file = files.write("eum.pem", eum.certificate.pem().as_bytes());
    let arguments = [&["verify"], &at[..], &["-untrusted", eum_file.as_str(), file.as_str()]].concat();
    let Some((accepted, text)) = openssl(&arguments) else { return };
    assert!(!accepted && text.contains("permitted subtree violation"), "{text}");
}

#[test]
fn openssl_reads_an_euicc_certificate_as_it_was_meant() {
    let files = Files::new("text");
    let (root, key) = (ci(), new_key());
    let eum = issue(CertificateRole::Eum.profile(), eum_inputs(&key), key, Some(&root));
    let key = new_key();
    let euicc = issue(CertificateRole::Euicc.profile(), euicc_inputs(&key), key, Some(&eum)).certificate;
    let file = files.write("euicc.der", euicc.der());
    let Some((read, text)) = openssl(&["x509", "-inform", "der", "-in", &file, "-noout", "-text"]) else {
        return;
    };
    assert!(read, "{text}");
    for line in [
        "Signature Algorithm: ecdsa-with-SHA256",
        "Issuer: C = ES, O = Maker, CN = Maker EUM",
        "Subject: C = ES, O = Maker, serialNumber = 89049032123451234512345678901235, CN = eUICC",
        "NIST CURVE: P-256",
        "Policy: 2.23.146.1.2.1.1",
        "X509v3 Key Usage: critical",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[test]
fn openssl_verifies_our_requests_and_we_verify_its() {
    let files = Files::new("requests");
    let pkcs8 = generate_p256().unwrap();
    let ours = files
        .write("ours.pem", csr::csr_pem(&csr::create_csr(&pkcs8, "ada", "Regulator").unwrap()).as_bytes());
    let Some((verified, text)) = openssl(&["req", "-in", &ours, "-noout", "-verify", "-subject"]) else {
        return;
    };
    assert!(verified && text.contains("verify OK") && text.contains("CN = ada"), "{text}");

    let key = files.write("key.pem", private_key_to_pem(&pkcs8).as_bytes());
    let theirs = files.0.join("theirs.pem");
    let arguments = [
        "req",
        "-new",
        "-key",
        &key,
        "-subj",
        "/O=Operator/CN=dp.example.com",
        "-sha256",
        "-addext",
        "subjectAltName=DNS:dp.example.com",
        "-out",
        theirs.to_str().unwrap(),
    ];
    let Some((made, text)) = openssl(&arguments) else { return };
    assert!(made, "{text}");
    let request = csr::VerifiedCsr::parse(&std::fs::read(theirs).unwrap(), KnownKeys::Refuse).unwrap();
    assert_eq!(request.spki(), PrivateKey::from_pkcs8(&pkcs8).unwrap().spki());
    assert_eq!(request.subject().common_name.as_deref(), Some("dp.example.com"));
}

#[test]
fn a_p256_request_signed_with_a_longer_hash_stays_a_p256_key() {
    let files = Files::new("hashes");
    let pkcs8 = generate_p256().unwrap();
    let key = files.write("key.pem", private_key_to_pem(&pkcs8).as_bytes());
    for hash in ["-sha256", "-sha384", "-sha512"] {
        let request = files.0.join("request.pem");
        let out = request.to_str().unwrap();
        let Some((made, text)) = openssl(&["req", "-new", "-key", &key, "-subj", "/CN=x", hash, "-out", out])
        else {
            return;
        };
        assert!(made, "{text}");
        let request = csr::VerifiedCsr::parse(&std::fs::read(request).unwrap(), KnownKeys::Refuse).unwrap();
        assert_eq!(request.spki(), PrivateKey::from_pkcs8(&pkcs8).unwrap().spki(), "{hash}");
    }
}
