//! A small authority with software keys: issues through the crate's whole path, with profiles that may be wrong on purpose.

use crate::der::{hex, tlv};
use crate::sgp26::time;
use pki::*;

/// A key and the certificate for it.
pub struct Holder {
    pub key: PrivateKey,
    pub certificate: Certificate,
}

/// A fresh P-256 key.
pub fn new_key() -> PrivateKey {
    PrivateKey::from_pkcs8(&generate_p256().unwrap()).unwrap()
}

/// A fresh P-384 key.
pub fn new_p384_key() -> PrivateKey {
    PrivateKey::from_pkcs8(&generate_p384().unwrap()).unwrap()
}

/// Inputs with everything but subject and issuer absent.
pub fn inputs(key: &PrivateKey, serial: u8) -> CertificateInputs {
    CertificateInputs {
        serial: SerialNumber::from_random([serial; 20]),
        issuer_name_der: Vec::new(),
        issuer_curve: key.curve(),
        issuer_key_identifier: None,
        subject: SubjectValues::default(),
        subject_spki: key.spki(),
        not_before: time("20260101000000"),
        not_after: time("20360101000000"),
        registered_id: None,
        dns_name: None,
        ip_addresses: Vec::new(),
        crl_urls: Vec::new(),
        permitted: Vec::new(),
    }
}

/// Builds, lints, signs and assembles under `issuer`, or self-signed without one.
pub fn issue(
    profile: &CertificateProfile,
    mut inputs: CertificateInputs,
    key: PrivateKey,
    issuer: Option<&Holder>,
) -> Holder {
    let signer = match issuer {
        Some(issuer) => {
            inputs.issuer_name_der = issuer.certificate.subject_name_der().to_vec();
            inputs.issuer_curve = issuer.key.curve();
            inputs.issuer_key_identifier = Some(key_identifier(issuer.certificate.spki()).unwrap());
            &issuer.key
        }
        None => {
            inputs.issuer_name_der = subject_name_der(profile, &inputs.subject).unwrap();
            &key
        }
    };
    let names_its_issuers_key =
        profile.extensions.iter().any(|rule| rule.value == ExtensionValue::AuthorityKeyIdentifier);
    if !names_its_issuers_key {
        inputs.issuer_key_identifier = None;
    }
    let tbs = build_tbs(profile, &inputs).unwrap();
    // A profile that is wrong on purpose still has its own lint.
    let linted = lint(profile, &inputs, tbs).unwrap();
    let certificate = if names_its_issuers_key || issuer.is_none() {
        let signature = signer.sign_plain(linted.bytes()).unwrap();
        linted.assemble(&signature, &signer.spki()).unwrap()
    } else {
        // What does not name its issuer's key is never assembled; it has to be forged.
        let signature = [vec![0], signer.sign(linted.bytes()).unwrap()].concat();
        let algorithm = hex("300a06082a8648ce3d040302");
        let der = tlv(0x30, &[linted.bytes(), &algorithm, &tlv(3, &signature)].concat());
        Certificate::from_der(&der).unwrap()
    };
    Holder { key, certificate }
}

/// A CI as the profile says.
pub fn ci() -> Holder {
    ci_with(new_key())
}

/// The same with this key.
pub fn ci_with(key: PrivateKey) -> Holder {
    let mut inputs = inputs(&key, 1);
    inputs.subject = SubjectValues {
        common_name: Some("Sea CI".into()),
        organizational_unit: Some("Tests".into()),
        organization: Some("Regulator".into()),
        country: Some("SE".into()),
        eid: None,
    };
    inputs.registered_id = Some("2.999.1".into());
    inputs.crl_urls = crl_urls(2);
    issue(CertificateRole::CertificateIssuer.profile(), inputs, key, None)
}

/// Inputs of an EUM for one organisation and IIN.
pub fn eum_inputs(key: &PrivateKey) -> CertificateInputs {
    let mut inputs = inputs(key, 2);
    inputs.subject = SubjectValues {
        country: Some("ES".into()),
        organization: Some("Maker".into()),
        common_name: Some("Maker EUM".into()),
        ..SubjectValues::default()
    };
    inputs.registered_id = Some("2.999.5".into());
    inputs.crl_urls = crl_urls(1);
    inputs.permitted = vec![("Maker".into(), "89049032".into())];
    inputs
}

/// Inputs of an eUICC of that EUM.
pub fn euicc_inputs(key: &PrivateKey) -> CertificateInputs {
    let mut inputs = inputs(key, 3);
    inputs.subject = SubjectValues {
        country: Some("ES".into()),
        organization: Some("Maker".into()),
        eid: Some("89049032123451234512345678901235".parse().unwrap()),
        common_name: Some("eUICC".into()),
        ..SubjectValues::default()
    };
    inputs.not_after = inputs.not_before.plus_days(2_000_000).unwrap();
    inputs
}

/// Inputs of an SM-DP+ certificate for this registered identifier.
pub fn dp_inputs(key: &PrivateKey, registered_id: &str) -> CertificateInputs {
    let mut inputs = inputs(key, 4);
    inputs.subject = SubjectValues {
        organization: Some("Operator".into()),
        common_name: Some("dp.example.com".into()),
        ..SubjectValues::default()
    };
    inputs.registered_id = Some(registered_id.into());
    inputs.crl_urls = crl_urls(2);
    inputs
}

fn crl_urls(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("http://ca.example.com/crl/{n}.crl")).collect()
}
