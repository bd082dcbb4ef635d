//! X.509: what is accepted is canonical, so its bytes are those that were read.

use std::sync::LazyLock;

use pki::crl::Crl;
use pki::csr::VerifiedCsr;
use pki::ocsp::{BasicAnswer, OcspRequest};
use pki::{Certificate, CertificateRole, KnownKeys, PrivateKey, PublicKey, TransportPublicKey, chain};

/// Published test certificates of SGP.26, so that chains have somewhere to go.
static CI: LazyLock<Certificate> = LazyLock::new(|| {
    let der = include_bytes!("../../tests/vectors/sgp26_varO_2020/CERT_CI_ECDSA_NIST.der");
    Certificate::from_der(der).expect("the published CI reads")
});
static EUM: LazyLock<Certificate> = LazyLock::new(|| {
    let der = include_bytes!("../../tests/vectors/sgp26_varO_2020/CERT_EUM_ECDSA_NIST.der");
    Certificate::from_der(der).expect("the published EUM reads")
});

pub fn certificate(bytes: &[u8]) {
    keys(bytes);
    let Ok(certificate) = Certificate::from_der(bytes) else {
        if let Ok(certificate) = Certificate::from_pem(bytes) {
            look_at(&certificate);
        }
        return;
    };
    assert_eq!(certificate.der(), bytes);
    look_at(&certificate);
    let again = Certificate::from_pem(certificate.pem().as_bytes()).expect("its own PEM reads");
    assert_eq!(again.der(), bytes);
}

fn look_at(certificate: &Certificate) {
    let _ = (certificate.eid(), certificate.common_name(), certificate.organization());
    let _ = (certificate.organizational_unit(), certificate.registered_id());
    let _ = (certificate.may_sign_crls(), certificate.names_crls());
    assert!(certificate.der().windows(certificate.tbs_der().len()).any(|part| part == certificate.tbs_der()));
    keys(certificate.spki());
    let role = chain::gsma_role(certificate).unwrap_or(CertificateRole::Euicc);
    let roots = std::slice::from_ref(&*CI);
    let _ = chain::verify_chain(certificate, std::slice::from_ref(&*EUM), roots, role, None);
    // As an issuer of itself, and as one between.
    let own = std::slice::from_ref(certificate);
    let _ = chain::verify_chain(certificate, own, own, role, Some(certificate.not_before()));
    let _ = chain::verify_chain(&EUM, own, roots, CertificateRole::Eum, None);
    let _ = chain::check_same_entity(certificate, certificate);
}

fn keys(bytes: &[u8]) {
    if let Ok(key) = PublicKey::parse(bytes, KnownKeys::Allow) {
        assert_eq!(key.spki(), bytes);
        let again = PublicKey::from_pem(key.to_pem().as_bytes(), KnownKeys::Allow);
        assert_eq!(again.expect("its own PEM reads"), key);
    }
    if let Ok(key) = TransportPublicKey::parse(bytes) {
        assert_eq!(key.spki(), bytes);
        assert!(key.modulus().len() >= 3072 / 8);
    }
    let _ = PublicKey::from_pem(bytes, KnownKeys::Refuse);
    let _ = TransportPublicKey::from_pem(bytes);
}

pub fn request(bytes: &[u8]) {
    if let Ok(request) = VerifiedCsr::parse(bytes, KnownKeys::Allow) {
        assert_eq!(
            PublicKey::parse(request.spki(), KnownKeys::Allow).as_ref().ok(),
            Some(request.public_key())
        );
    }
}

pub fn crl(bytes: &[u8]) {
    let _ = pki::staple::Staple::parse(bytes);
    let Ok(crl) = Crl::parse(bytes) else { return };
    let _ = (crl.number(), crl.authority_key_identifier(), crl.is_current(crl.this_update()));
    for revoked in crl.revoked() {
        assert!(crl.find(&revoked.serial).is_some());
    }
    let again = Crl::from_der(crl.der()).expect("its own DER reads");
    assert_eq!(again.digest(), crl.digest());
    let _ = crl.verify(&CI);
}

pub fn ocsp(bytes: &[u8]) {
    if let Ok(request) = OcspRequest::from_der(bytes) {
        assert!((1..=pki::ocsp::QUESTIONS_MAX).contains(&request.questions.len()));
        for question in &request.questions {
            assert!(bytes.windows(question.der().len()).any(|part| part == question.der()));
            let _ = question.is_of(&CI);
        }
    }
    if let Ok(answer) = BasicAnswer::from_der(bytes) {
        let _ = answer.verify(&CI);
    }
}

pub fn private_key(bytes: &[u8]) {
    let pkcs8 = pki::private_key_from_pem(bytes);
    for bytes in [Some(bytes), pkcs8.as_ref().ok().map(|pkcs8| &pkcs8[..])].into_iter().flatten() {
        if let Ok(key) = PrivateKey::from_pkcs8(bytes) {
            let spki = key.spki();
            PublicKey::parse(&spki, KnownKeys::Allow).expect("which reads");
        }
    }
}
