//! What one eUICC certificate costs outside the token: build, lint, assemble with the verification of its signature.
//!
//! `cargo run -p pki --example issuance_cost`

#![expect(clippy::print_stdout, reason = "a measurement is its output")]
#![expect(clippy::unwrap_used, reason = "what is built here is known to be good")]

use pki::*;
use std::time::{Duration, Instant};

const ROUNDS: u32 = 2_000;

fn main() {
    let issuer = PrivateKey::from_pkcs8(&generate_p256().unwrap()).unwrap();
    let device = PrivateKey::from_pkcs8(&generate_p256().unwrap()).unwrap();
    let eum = SubjectValues {
        country: Some("ES".into()),
        organization: Some("Maker".into()),
        common_name: Some("Maker EUM".into()),
        ..SubjectValues::default()
    };
    let not_before = CivilTime::new(2026, 1, 1, 0, 0, 0).unwrap();
    let profile = CertificateRole::Euicc.profile();
    let inputs = CertificateInputs {
        serial: SerialNumber::from_random([7; 20]),
        issuer_name_der: subject_name_der(CertificateRole::Eum.profile(), &eum).unwrap(),
        issuer_curve: issuer.curve(),
        issuer_key_identifier: Some(key_identifier(&issuer.spki()).unwrap()),
        subject: SubjectValues {
            eid: Some("89049032123451234512345678901235".parse().unwrap()),
            common_name: Some("eUICC".into()),
            ..eum
        },
        subject_spki: device.spki(),
        not_before,
        not_after: not_before.plus_days(profile.validity_days).unwrap(),
        registered_id: None,
        dns_name: None,
        ip_addresses: Vec::new(),
        crl_urls: Vec::new(),
        permitted: Vec::new(),
    };
    let issuer_spki = issuer.spki();
    let mut spent = [Duration::ZERO; 4];
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let tbs = build_tbs(profile, &inputs).unwrap();
        let built = Instant::now();
        let linted = lint(profile, &inputs, tbs).unwrap();
        let checked = Instant::now();
        let signature = issuer.sign_plain(linted.bytes()).unwrap();
        let signed = Instant::now();
        linted.assemble(&signature, &issuer_spki).unwrap();
        let parts = [built - start, checked - built, signed - checked, signed.elapsed()];
        spent.iter_mut().zip(parts).for_each(|(sum, part)| *sum += part);
    }
    for (name, sum) in
        ["build", "lint", "sign in software, as the token would", "assemble and verify"].iter().zip(spent)
    {
        println!("{:>8.1} us  {name}", sum.as_secs_f64() * 1e6 / f64::from(ROUNDS));
    }
}
