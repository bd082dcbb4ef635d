//! The published SGP.26 certificates for tests, and what their published keys can sign besides.

use std::path::PathBuf;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use domain::RevocationReason;
use pki::crl::{Crl, CrlInputs, CrlScope, RevokedCertificate, build_tbs, lint};
use pki::{
    Certificate, CertificateInputs, CertificateRole, CivilTime, SerialNumber, SubjectValues, key_identifier,
};

pub const CI: &str = "sgp26_varO_2020/CERT_CI_ECDSA_NIST.der";
pub const CI_KEY: &str = "sgp26_varO_2020/SK_CI_ECDSA_NIST.pem";
pub const EUM: &str = "sgp26_varO_2020/CERT_EUM_ECDSA_NIST.der";
pub const DP_AUTH: &str = "sgp26_varO_2020/CERT_S_SM_DPauth_ECDSA_NIST.der";
pub const DP_AUTH_KEY: &str = "sgp26_varO_2020/SK_S_SM_DPauth_ECDSA_NIST.pem";
pub const DP_PB: &str = "sgp26_varO_2020/CERT_S_SM_DPpb_ECDSA_NIST.der";
pub const DP_PB_KEY: &str = "sgp26_varO_2020/SK_S_SM_DPpb_ECDSA_NIST.pem";
/// Expired on 2026-08-02.
pub const DP_TLS: &str = "sgp26_varO_2020/CERT_S_SM_DP_TLS_NIST.der";
pub const DP_TLS_KEY: &str = "sgp26_varO_2020/SK_S_SM_DP_TLS_NIST.pem";
pub const CI_2024: &str = "sgp26_v3.0.2_varO_2024/CERT_CI_SIG_NIST.der";
/// The EUM kept its key from 2020 to 2024.
pub const EUM_KEY: &str = "sgp26_varO_2020/SK_EUM_ECDSA_NIST.pem";
pub const EUM_2024: &str = "sgp26_v3.0.2_varO_2024/CERT_EUM_SIG_NIST.der";
pub const EUICC_2024: &str = "sgp26_v3.0.2_varO_2024/CERT_EUICC_SIG_NIST.der";
/// Holds no policy at all.
pub const EIM_SIGN_2024: &str = "sgp26_v3.0.2_varO_2024/CERT_S_EIMsign_ECDSA_NIST.der";

/// Where it is.
pub fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors").join(name)
}

/// The certificate.
pub fn certificate(name: &str) -> Certificate {
    Certificate::from_der(&std::fs::read(path(name)).unwrap()).unwrap()
}

/// A published key, in PKCS#8.
pub fn key(name: &str) -> Vec<u8> {
    let blocks = pem::parse_many(std::fs::read(path(name)).unwrap()).unwrap();
    let key = blocks.iter().find(|block| block.tag() == "EC PRIVATE KEY").unwrap();
    let pair = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, key.contents()).unwrap();
    pair.to_pkcs8v1().unwrap().as_ref().to_vec()
}

/// A list of the published CI from `this_update` to a month later.
pub fn list(this_update: CivilTime, revoked: &[(&Certificate, RevocationReason)]) -> Crl {
    let issuer = certificate(CI);
    let entry = |(certificate, reason): &(&Certificate, RevocationReason)| RevokedCertificate {
        serial: certificate.serial().clone(),
        revoked_at: this_update,
        reason: *reason,
        invalid_since: None,
        expires: None,
    };
    let inputs = CrlInputs {
        issuer: &issuer,
        number: 7,
        this_update,
        next_update: this_update.plus_days(30).unwrap(),
        revoked: revoked.iter().map(entry).collect(),
        removed: Vec::new(),
        scope: CrlScope::default(),
    };
    let linted = lint(&inputs, build_tbs(&inputs).unwrap()).unwrap();
    let signer = pki::PrivateKey::from_pkcs8(&key(CI_KEY)).unwrap();
    let signature = signer.sign_plain(linted.bytes()).unwrap();
    linted.assemble(&signature, &issuer).unwrap()
}

/// An eUICC certificate that the published EUM's key signed, for any organisation and EID.
pub fn euicc(organization: &str, eid: &str) -> Certificate {
    let (issuer, published) = (certificate(EUM_2024), certificate(EUICC_2024));
    let inputs = CertificateInputs {
        serial: SerialNumber::from_random([7; 20]),
        issuer_name_der: issuer.subject_name_der().to_vec(),
        issuer_curve: domain::Curve::P256,
        issuer_key_identifier: Some(key_identifier(issuer.spki()).unwrap()),
        subject: SubjectValues {
            country: Some("ES".to_owned()),
            organization: Some(organization.to_owned()),
            eid: Some(eid.parse().unwrap()),
            common_name: Some("Test eUICC".to_owned()),
            ..SubjectValues::default()
        },
        subject_spki: published.spki().to_vec(),
        not_before: published.not_before(),
        not_after: published.not_after(),
        registered_id: None,
        dns_name: None,
        ip_addresses: Vec::new(),
        crl_urls: Vec::new(),
        permitted: Vec::new(),
    };
    let profile = CertificateRole::Euicc.profile();
    let linted = pki::lint(profile, &inputs, pki::build_tbs(profile, &inputs).unwrap()).unwrap();
    let signer = pki::PrivateKey::from_pkcs8(&key(EUM_KEY)).unwrap();
    let signature = signer.sign_plain(linted.bytes()).unwrap();
    linted.assemble(&signature, issuer.spki()).unwrap()
}
