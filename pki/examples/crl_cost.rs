//! What a revocation list costs outside the token, beside `openssl ca -gencrl` for as many entries in the same run: build, lint,
//! assemble with reading back and verifying.
//!
//! `cargo run --release -p pki --example crl_cost [entries ...]`

#![expect(clippy::print_stdout, reason = "a measurement is its output")]
#![expect(clippy::unwrap_used, reason = "what is built here is known to be good")]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use domain::RevocationReason;
use pki::crl::{CrlInputs, CrlScope, RevokedCertificate, build_tbs, lint};
use pki::*;

fn main() {
    let asked: Vec<usize> = std::env::args().skip(1).map(|text| text.parse().unwrap()).collect();
    let sizes = if asked.is_empty() { vec![10_000, 100_000, 1_000_000] } else { asked };
    let (key, ci) = root();
    for entries in sizes {
        let revoked: Vec<_> = (0..entries as u64).map(revoked).collect();
        let this_update = CivilTime::new(2026, 6, 1, 0, 0, 0).unwrap();
        let inputs = CrlInputs {
            issuer: &ci,
            number: 7,
            this_update,
            next_update: this_update.plus_days(7).unwrap(),
            revoked,
            removed: Vec::new(),
            scope: CrlScope::default(),
        };
        let start = Instant::now();
        let tbs = build_tbs(&inputs).unwrap();
        let built = Instant::now();
        let linted = lint(&inputs, tbs).unwrap();
        let checked = Instant::now();
        let signature = key.sign_plain(linted.bytes()).unwrap();
        let bytes = linted.bytes().len();
        let signed = Instant::now();
        let outcome = linted.assemble(&signature, &ci);
        let (build, lint, sign, read) = (built - start, checked - built, signed - checked, signed.elapsed());
        println!(
            "{entries:>9} entries, {:.1} MB: build {:.1} ms, lint {:.1} ms, sign {:.1} ms, read back and verify {:.1} ms ({}); openssl ca -gencrl {}",
            bytes as f64 / 1e6,
            build.as_secs_f64() * 1e3,
            lint.as_secs_f64() * 1e3,
            sign.as_secs_f64() * 1e3,
            read.as_secs_f64() * 1e3,
            outcome.map_or_else(|error| error.to_string(), |_| "verified".to_owned()),
            openssl(entries as u64),
        );
    }
}

fn root() -> (PrivateKey, Certificate) {
    let key = PrivateKey::from_pkcs8(&generate_p256().unwrap()).unwrap();
    let profile = CertificateRole::CertificateIssuer.profile();
    let subject = SubjectValues {
        country: Some("SE".into()),
        organization: Some("Regulator".into()),
        organizational_unit: Some("Measured".into()),
        common_name: Some("CI".into()),
        eid: None,
    };
    let not_before = CivilTime::new(2026, 1, 1, 0, 0, 0).unwrap();
    let inputs = CertificateInputs {
        serial: SerialNumber::from_random([7; 20]),
        issuer_name_der: subject_name_der(profile, &subject).unwrap(),
        issuer_curve: key.curve(),
        issuer_key_identifier: None,
        subject,
        subject_spki: key.spki(),
        not_before,
        not_after: not_before.plus_days(profile.validity_days).unwrap(),
        registered_id: Some("2.999.1".into()),
        dns_name: None,
        ip_addresses: Vec::new(),
        crl_urls: ["a", "b"].map(|point| format!("http://ca.example.com/{point}.crl")).into(),
        permitted: Vec::new(),
    };
    let tbs = build_tbs_certificate(profile, &inputs);
    let signature = key.sign_plain(tbs.bytes()).unwrap();
    let certificate = tbs.assemble(&signature, &key.spki()).unwrap();
    (key, certificate)
}

fn build_tbs_certificate(profile: &CertificateProfile, inputs: &CertificateInputs) -> LintedTbs {
    pki::lint(profile, inputs, pki::build_tbs(profile, inputs).unwrap()).unwrap()
}

/// A serial number of 20 octets.
fn serial(number: u64) -> [u8; 20] {
    let mut octets = [0x5a; 20];
    octets[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    octets[12..].copy_from_slice(&number.to_be_bytes());
    octets
}

fn revoked(number: u64) -> RevokedCertificate {
    RevokedCertificate {
        serial: SerialNumber::from_random(serial(number)),
        revoked_at: CivilTime::new(2026, 5, 1, 0, 0, 0).unwrap(),
        reason: RevocationReason::Superseded,
        invalid_since: None,
        expires: None,
    }
}

/// How long OpenSSL takes for as many entries, its database read included; the certificate and key are its own.
fn openssl(entries: u64) -> String {
    let folder = std::env::temp_dir().join(format!("crl-cost-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let mut index = String::new();
    for number in 0..entries {
        let serial = SerialNumber::from_random(serial(number)).to_string().to_uppercase();
        writeln!(index, "R\t360101000000Z\t260501000000Z,superseded\t{serial}\tunknown\t/CN=x").unwrap();
    }
    fs::write(folder.join("index.txt"), index).unwrap();
    fs::write(folder.join("number.txt"), "07\n").unwrap();
    let config = "[ca]\ndefault_ca=a\n[a]\ndatabase=index.txt\ncrlnumber=number.txt\ndefault_md=sha256\n\
                  default_crl_days=7\ncrl_extensions=l\n[l]\nauthorityKeyIdentifier=keyid\n[req]\n\
                  distinguished_name=n\nx509_extensions=c\n[n]\n[c]\nsubjectKeyIdentifier=hash\n";
    fs::write(folder.join("o.cnf"), config).unwrap();
    let made = run(&folder, &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "k.pem"])
        && run(
            &folder,
            &[
                "req", "-x509", "-new", "-key", "k.pem", "-subj", "/CN=CI", "-days", "99", "-config",
                "o.cnf", "-out", "c.pem",
            ],
        );
    let start = Instant::now();
    let done = made
        && run(
            &folder,
            &["ca", "-gencrl", "-config", "o.cnf", "-cert", "c.pem", "-keyfile", "k.pem", "-out", "l.pem"],
        );
    let spent = start.elapsed();
    fs::remove_dir_all(&folder).unwrap();
    if done { format!("{:.1} ms", spent.as_secs_f64() * 1e3) } else { "failed".to_owned() }
}

fn run(folder: &Path, arguments: &[&str]) -> bool {
    Command::new("openssl")
        .args(arguments)
        .current_dir(folder)
        .output()
        .is_ok_and(|output| output.status.success())
}
