//! From inputs to certificates: byte equality with what GSMA published, and the proofs each step demands.

use crate::authority::*;
use crate::der::plain_signature;
use crate::sgp26::{self, time};
use ecc::Signature;
use pki::*;

#[test]
fn every_published_certificate_is_reproduced_byte_for_byte_from_its_inputs() {
    let all = sgp26::all();
    assert_eq!(all.len(), 9);
    for published in all {
        let expected = sgp26::certificate(published.path);
        let tbs = build_tbs(published.profile, &published.inputs).unwrap();
        assert_eq!(hex::encode(tbs.bytes()), hex::encode(expected.tbs_der()), "{}", published.path);
    }
}

#[test]
fn the_published_signatures_complete_the_linted_bytes_to_the_published_certificates() {
    for published in sgp26::all() {
        let expected = sgp26::certificate(published.path);
        let issuer = sgp26::certificate(published.issuer);
        let tbs = build_tbs(published.profile, &published.inputs).unwrap();
        let linted = lint(published.profile, &published.inputs, tbs).unwrap();
        let assembled = linted.assemble(&plain_signature(expected.signature()), issuer.spki()).unwrap();
        assert_eq!(assembled.der(), expected.der(), "{}", published.path);
    }
}

#[test]
fn a_published_certificate_tells_its_parts() {
    let euicc = sgp26::certificate(sgp26::EUICC_2024);
    assert_eq!(euicc.eid().unwrap().to_string(), "89049032123451234512345678901235");
    assert_eq!(euicc.serial().to_string(), "89049032123451234512345678901235");
    assert_eq!(euicc.not_after().to_string(), "7500-05-10T09:54:58Z");
    assert_eq!(euicc.common_name().as_deref(), Some("Test eUICC"));
    assert_eq!(euicc.organization().as_deref(), Some("RSP Test EUM"));
    assert_eq!(euicc.organizational_unit(), None);
    assert_eq!(euicc.registered_id(), None);
    let eum = sgp26::certificate(sgp26::EUM_2024);
    assert_eq!(euicc.authority_key_identifier(), eum.subject_key_identifier());
    assert_eq!(eum.subject_key_identifier(), Some(key_identifier(eum.spki()).unwrap().as_slice()));
    assert_eq!(sgp26::certificate(sgp26::DP_AUTH_2020).registered_id().as_deref(), Some("2.999.10"));
    assert_eq!(Certificate::from_pem(eum.pem().as_bytes()).unwrap(), eum);
}

#[test]
fn two_million_days_from_2020_end_in_7496_and_the_last_year_is_9999() {
    let (root, key) = (ci(), new_key());
    let eum = issue(CertificateRole::Eum.profile(), eum_inputs(&key), key, Some(&root));
    let key = new_key();
    let mut inputs = euicc_inputs(&key);
    inputs.not_before = time("20200401094813");
    inputs.not_after = inputs.not_before.plus_days(2_000_000).unwrap();
    assert_eq!(inputs.not_after.to_string(), "7496-01-24T09:48:13Z");
    let euicc = issue(CertificateRole::Euicc.profile(), inputs, key, Some(&eum));
    assert_eq!(euicc.certificate.not_after().to_string(), "7496-01-24T09:48:13Z");

    // RFC 5280 §4.1.2.5: no well-defined expiration date.
    let key = new_key();
    let inputs = CertificateInputs { not_after: time("99991231235959"), ..euicc_inputs(&key) };
    let euicc = issue(CertificateRole::Euicc.profile(), inputs, key, Some(&eum));
    assert_eq!(euicc.certificate.not_after().to_string(), "9999-12-31T23:59:59Z");
}

#[test]
fn times_change_their_encoding_between_2049_and_2050() {
    let (root, key) = (ci(), new_key());
    let mut inputs = dp_inputs(&key, "2.999.10");
    inputs.not_before = time("20491231235959");
    inputs.not_after = time("20500101000000");
    let certificate = issue(CertificateRole::DpAuth.profile(), inputs, key, Some(&root)).certificate;
    let digits = hex::encode(certificate.tbs_der());
    assert!(digits.contains(&format!(
        "170d{}180f{}",
        hex::encode("491231235959Z"),
        hex::encode("20500101000000Z")
    )));
}

#[test]
fn a_serial_number_with_its_top_bit_set_takes_a_leading_zero_octet() {
    let (root, key) = (ci(), new_key());
    let mut inputs = dp_inputs(&key, "2.999.10");
    inputs.serial = SerialNumber::from_bytes(&[0xff; 19]).unwrap();
    let certificate = issue(CertificateRole::DpPb.profile(), inputs, key, Some(&root)).certificate;
    assert_eq!(certificate.serial().as_bytes(), [0xff; 19]);
    assert!(hex::encode(certificate.tbs_der()).contains(&format!("021400{}", "ff".repeat(19))));
}

#[test]
fn a_signature_by_another_key_or_over_other_bytes_gives_no_certificate() {
    let (root, key) = (ci(), new_key());
    let mut inputs = eum_inputs(&key);
    inputs.issuer_name_der = root.certificate.subject_name_der().to_vec();
    inputs.issuer_key_identifier = Some(key_identifier(root.certificate.spki()).unwrap());
    let profile = CertificateRole::Eum.profile();
    let linted = || lint(profile, &inputs, build_tbs(profile, &inputs).unwrap()).unwrap();

    let stranger = new_key();
    let signature = stranger.sign_plain(linted().bytes()).unwrap();
    assert!(matches!(
        linted().assemble(&signature, root.certificate.spki()),
        Err(PkiError::SignatureInvalid)
    ));
    assert!(matches!(linted().assemble(&signature, &stranger.spki()), Err(PkiError::IssuerKeyDiffers)));
    let signature = root.key.sign_plain(b"other bytes").unwrap();
    assert!(matches!(
        linted().assemble(&signature, root.certificate.spki()),
        Err(PkiError::SignatureInvalid)
    ));
    for nothing in [Signature::bits_256([0; 64]), Signature::bits_384([0; 96])] {
        let assembled = linted().assemble(&nothing, root.certificate.spki());
        assert!(matches!(assembled, Err(PkiError::SignatureInvalid)));
    }
    let signature = root.key.sign_plain(linted().bytes()).unwrap();
    linted().assemble(&signature, root.certificate.spki()).unwrap();
}

#[test]
fn inputs_that_lack_or_exceed_what_the_profile_needs_are_refused() {
    type Change = fn(&mut CertificateInputs);
    let key = new_key();
    let base = || {
        let mut inputs = eum_inputs(&key);
        inputs.issuer_name_der = ci_name();
        inputs.issuer_key_identifier = Some([7; 20]);
        inputs
    };
    build_tbs(CertificateRole::Eum.profile(), &base()).unwrap();
    let refused: [(&str, Change); 26] = [
        ("countryName", |i| i.subject.country = None),
        ("countryName", |i| i.subject.country = Some("es".into())),
        ("countryName", |i| i.subject.country = Some("ESP".into())),
        ("organizationName", |i| i.subject.organization = Some(String::new())),
        ("organizationName", |i| i.subject.organization = Some("x".repeat(65))),
        ("commonName", |i| i.subject.common_name = Some("a\0b".into())),
        ("commonName", |i| i.subject.common_name = Some(" a".into())),
        ("organizationalUnitName", |i| i.subject.organizational_unit = Some("x".into())),
        ("serialNumber", |i| i.subject.eid = Some("89049032123451234512345678901235".parse().unwrap())),
        ("issuer_key_identifier", |i| i.issuer_key_identifier = None),
        ("issuer_name_der", |i| i.issuer_name_der = vec![0x30, 0]),
        ("issuer_name_der", |i| i.issuer_name_der = vec![1, 2, 3]),
        ("registered_id", |i| i.registered_id = None),
        ("registered_id", |i| i.registered_id = Some("2.999.".into())),
        ("permitted", |i| i.permitted.clear()),
        ("permitted", |i| i.permitted[0].1 = "8904903".into()),
        ("permitted", |i| i.permitted[0].1 = "8904903x".into()),
        ("permitted", |i| i.permitted = vec![i.permitted[0].clone(); 65]),
        ("crl_urls", |i| i.crl_urls.clear()),
        ("crl_urls", |i| i.crl_urls.push("http://a.example/".into())),
        ("crl_urls", |i| i.crl_urls[0] = "ldap://a.example/".into()),
        ("crl_urls", |i| i.crl_urls[0] = "http://a.example/\n".into()),
        ("dns_name", |i| i.dns_name = Some("a.example".into())),
        ("ip_addresses", |i| i.ip_addresses.push([127, 0, 0, 1].into())),
        ("not_after", |i| i.not_after = i.not_before),
        ("public key", |i| i.subject_spki.truncate(20)),
    ];
    for (field, change) in refused {
        let mut inputs = base();
        change(&mut inputs);
        let error = build_tbs(CertificateRole::Eum.profile(), &inputs).unwrap_err().to_string();
        assert!(error.contains(field), "{field}: {error}");
    }
    for name in ["*.example.com", "a..b", "-a.example", "a_b.example", "", &"a.".repeat(130)] {
        let mut inputs = dp_inputs(&key, "2.999.10");
        inputs.issuer_name_der = ci_name();
        inputs.issuer_key_identifier = Some([7; 20]);
        inputs.dns_name = Some(name.into());
        inputs.subject.common_name = Some(if name.is_empty() { "x".into() } else { name.into() });
        assert!(build_tbs(CertificateRole::DpTls.profile(), &inputs).is_err(), "{name}");
    }
}

#[test]
fn an_operator_server_carries_its_name_and_addresses_and_needs_one_of_them() {
    let key = new_key();
    let mut root_inputs = inputs(&key, 9);
    root_inputs.subject.common_name = Some("Operator CA".into());
    let root = issue(CertificateRole::OperatorRoot.profile(), root_inputs, key, None);
    let key = new_key();
    let mut server = inputs(&key, 10);
    server.subject.common_name = Some("chanceryd".into());
    let nameless = CertificateInputs {
        issuer_name_der: root.certificate.subject_name_der().to_vec(),
        issuer_key_identifier: Some([7; 20]),
        ..server.clone()
    };
    assert!(build_tbs(CertificateRole::OperatorServer.profile(), &nameless).is_err());
    server.dns_name = Some("localhost".into());
    server.ip_addresses = vec![[127, 0, 0, 1].into(), "::1".parse().unwrap()];
    let server = issue(CertificateRole::OperatorServer.profile(), server, key, Some(&root)).certificate;
    let san = format!("8209{}87047f0000018710{}01", hex::encode("localhost"), "00".repeat(15));
    assert!(hex::encode(server.der()).contains(&san));
}

fn ci_name() -> Vec<u8> {
    sgp26::certificate(sgp26::CI_2020).subject_name_der().to_vec()
}

#[test]
fn oversized_or_trailing_bytes_are_no_certificate() {
    let mut der = sgp26::vector(sgp26::CI_2020);
    der.push(0);
    assert!(matches!(Certificate::from_der(&der), Err(PkiError::Malformed { .. })));
    assert!(matches!(Certificate::from_der(&vec![0x30; 65_537]), Err(PkiError::TooLarge { .. })));
    assert!(Certificate::from_pem(&vec![b'-'; 65_537]).is_err());
}

proptest::proptest! {
    #[test]
    fn a_damaged_certificate_never_upsets_the_reader(at in 0usize..600, value: u8, cut in 0usize..700) {
        let mut der = sgp26::vector(sgp26::EUM_2024);
        let at = at % der.len();
        der[at] = value;
        der.truncate(cut.max(1));
        if let Ok(certificate) = Certificate::from_der(&der) {
            let _ = (certificate.eid(), certificate.registered_id(), certificate.common_name(), certificate.pem());
        }
    }

    #[test]
    fn random_bytes_never_upset_the_reader(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        let _ = Certificate::from_der(&bytes);
        let _ = Certificate::from_pem(&bytes);
        let _ = TransportPublicKey::parse(&bytes);
        let _ = PublicKey::parse(&bytes, KnownKeys::Allow);
        let _ = key_identifier(&bytes);
    }
}
