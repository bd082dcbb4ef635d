//! A hierarchy on P-384: certificates, lists, OCSP answers and requests, judged by OpenSSL, and what must not pass there.

use crate::authority::*;
use crate::der::{hex, inside, tlv};
use crate::openssl::{Files, openssl};
use crate::sgp26::time;
use domain::{Curve, RevocationReason};
use pki::crl::{Crl, CrlFinding, CrlInputs, CrlScope, RevokedCertificate, TbsCertList};
use pki::ocsp::{AnswerInputs, BasicAnswer, CertificateStatus, OcspRequest, SingleAnswer};
use pki::*;

const ECDSA_WITH_SHA256: &str = "300a06082a8648ce3d040302";
const ECDSA_WITH_SHA384: &str = "300a06082a8648ce3d040303";
/// Within the fixed validity of the test certificates; the clock of this machine is not.
const AT: [&str; 2] = ["-attime", "1780272000"];

struct Hierarchy {
    ci: Holder,
    eum: Holder,
    euicc: Certificate,
    dp_tls: Certificate,
}

fn hierarchy() -> Hierarchy {
    let ci = ci_with(new_p384_key());
    let key = new_p384_key();
    let eum = issue(CertificateRole::Eum.profile(), eum_inputs(&key), key, Some(&ci));
    let key = new_p384_key();
    let euicc = issue(CertificateRole::Euicc.profile(), euicc_inputs(&key), key, Some(&eum)).certificate;
    let key = new_p384_key();
    let mut inputs = dp_inputs(&key, "2.999.10");
    inputs.dns_name = inputs.subject.common_name.clone();
    let dp_tls = issue(CertificateRole::DpTls.profile(), inputs, key, Some(&ci)).certificate;
    Hierarchy { ci, eum, euicc, dp_tls }
}

fn crl_inputs<'a>(issuer: &'a Certificate, revoked: &Certificate, scope: CrlScope) -> CrlInputs<'a> {
    CrlInputs {
        issuer,
        number: 7,
        this_update: time("20260302000000"),
        next_update: time("20270309000000"),
        revoked: vec![RevokedCertificate {
            serial: revoked.serial().clone(),
            revoked_at: time("20260301120000"),
            reason: RevocationReason::KeyCompromise,
            invalid_since: None,
            expires: None,
        }],
        removed: Vec::new(),
        scope,
    }
}

fn make_crl(ci: &Holder, inputs: &CrlInputs<'_>) -> Crl {
    let linted = crl::lint(inputs, crl::build_tbs(inputs).unwrap()).unwrap();
    let signature = ci.key.sign_plain(linted.bytes()).unwrap();
    linted.assemble(&signature, &ci.certificate).unwrap()
}

#[test]
fn the_chain_verifies_here_and_with_openssl_and_names_sha_384() {
    let Hierarchy { ci, eum, euicc, dp_tls } = hierarchy();
    let roots = std::slice::from_ref(&ci.certificate);
    let at = Some(time("20260601000000"));
    let between = std::slice::from_ref(&eum.certificate);
    chain::verify_chain(&euicc, between, roots, CertificateRole::Euicc, at).unwrap();
    chain::verify_chain(&dp_tls, &[], roots, CertificateRole::DpTls, at).unwrap();

    let files = Files::new("p384-chain");
    let ca = files.write("ci.pem", ci.certificate.pem().as_bytes());
    for (name, certificate) in [("eum", &eum.certificate), ("dptls", &dp_tls)] {
        let file = files.write(&format!("{name}.pem"), certificate.pem().as_bytes());
        let arguments = [&["verify", "-x509_strict", "-CAfile", &ca], &AT[..], &[&file]].concat();
        let Some((accepted, text)) = openssl(&arguments) else { return };
        assert!(accepted, "{name}: {text}");
    }
    let file = files.write("euicc.pem", euicc.pem().as_bytes());
    let Some((read, text)) = openssl(&["x509", "-in", &file, "-noout", "-text"]) else { return };
    assert!(read, "{text}");
    for line in ["Signature Algorithm: ecdsa-with-SHA384", "NIST CURVE: P-384", "Public-Key: (384 bit)"] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[test]
fn a_certificate_under_p_384_that_names_another_hash_is_refused() {
    let Hierarchy { ci, dp_tls, .. } = hierarchy();
    // Before it is signed.
    let key = new_p384_key();
    let mut inputs = inputs(&key, 1);
    inputs.subject = SubjectValues {
        common_name: Some("Sea CI".into()),
        organizational_unit: Some("Tests".into()),
        organization: Some("Regulator".into()),
        country: Some("SE".into()),
        eid: None,
    };
    let profile = CertificateRole::CertificateIssuer.profile();
    inputs.registered_id = Some("2.999.1".into());
    inputs.crl_urls = vec!["http://ca.example.com/a.crl".into(), "http://ca.example.com/b.crl".into()];
    inputs.issuer_name_der = subject_name_der(profile, &inputs.subject).unwrap();
    let mut fields = inside(build_tbs(profile, &inputs).unwrap().bytes());
    assert_eq!(fields[2], hex(ECDSA_WITH_SHA384));
    fields[2] = hex(ECDSA_WITH_SHA256);
    let refused = lint(profile, &inputs, Tbs::from_der(tlv(0x30, &fields.concat()))).unwrap_err();
    assert_eq!(refused.findings, [Finding::SignatureAlgorithm]);
    // And one that somebody signed all the same.
    let mut parts = inside(dp_tls.der());
    let mut fields = inside(&parts[0]);
    fields[2] = hex(ECDSA_WITH_SHA256);
    parts[0] = tlv(0x30, &fields.concat());
    parts[1] = hex(ECDSA_WITH_SHA256);
    parts[2] = tlv(3, &[vec![0], ci.key.sign(&parts[0]).unwrap()].concat());
    let forged = Certificate::from_der(&tlv(0x30, &parts.concat())).unwrap();
    let refused =
        chain::verify_chain(&forged, &[], &[ci.certificate], CertificateRole::DpTls, None).unwrap_err();
    assert_eq!(refused.reason, chain::ChainReason::SignatureAlgorithm);
}

#[test]
fn a_signature_of_another_curve_is_never_assembled() {
    let ci = ci_with(new_p384_key());
    let key = new_p384_key();
    let mut inputs = eum_inputs(&key);
    inputs.issuer_name_der = ci.certificate.subject_name_der().to_vec();
    inputs.issuer_curve = Curve::P384;
    inputs.issuer_key_identifier = Some(key_identifier(ci.certificate.spki()).unwrap());
    let profile = CertificateRole::Eum.profile();
    let linted = || lint(profile, &inputs, build_tbs(profile, &inputs).unwrap()).unwrap();
    assert_ne!(linted().digest().as_bytes(), linted().sha256());
    assert!(linted().digest().is_for(Curve::P384));
    for signature in [
        new_key().sign_plain(linted().bytes()).unwrap(),
        new_p384_key().sign_plain(linted().bytes()).unwrap(),
        ecc::Signature::bits_384([0; 96]),
    ] {
        let assembled = linted().assemble(&signature, ci.certificate.spki());
        assert!(matches!(assembled, Err(PkiError::SignatureInvalid)));
    }
    linted().assemble(&ci.key.sign_plain(linted().bytes()).unwrap(), ci.certificate.spki()).unwrap();
}

#[test]
fn openssl_finds_a_revoked_certificate_on_our_list_and_delta_and_part_are_read_back() {
    let Hierarchy { ci, eum, dp_tls, .. } = hierarchy();
    let list = make_crl(&ci, &crl_inputs(&ci.certificate, &dp_tls, CrlScope::default()));
    let delta = CrlScope { base: Some(3), ..CrlScope::default() };
    let part =
        CrlScope { distribution_points: vec!["http://ca.example.com/0.crl".into()], ..CrlScope::default() };
    for scope in [delta, part] {
        let made = make_crl(&ci, &crl_inputs(&ci.certificate, &dp_tls, scope.clone()));
        assert_eq!(*Crl::parse(made.pem().as_bytes()).unwrap().scope(), scope);
    }
    // A list that names another hash than its issuer's curve has.
    let inputs = crl_inputs(&ci.certificate, &dp_tls, CrlScope::default());
    let mut fields = inside(crl::build_tbs(&inputs).unwrap().bytes());
    assert_eq!(fields[1], hex(ECDSA_WITH_SHA384));
    fields[1] = hex(ECDSA_WITH_SHA256);
    let refused = crl::lint(&inputs, TbsCertList::from_der(tlv(0x30, &fields.concat()))).unwrap_err();
    assert_eq!(refused.findings, [CrlFinding::SignatureAlgorithm]);

    let files = Files::new("p384-crl");
    let ca = files.write("ci.pem", ci.certificate.pem().as_bytes());
    let crl = files.write("ci.crl", list.pem().as_bytes());
    for (name, certificate, good) in [("eum", &eum.certificate, true), ("dptls", &dp_tls, false)] {
        let file = files.write(&format!("{name}.pem"), certificate.pem().as_bytes());
        let judge = ["verify", "-crl_check", "-CAfile", &ca, "-CRLfile", &crl];
        let Some((accepted, text)) = openssl(&[&judge[..], &AT[..], &[&file]].concat()) else { return };
        assert_eq!(accepted, good, "{name}: {text}");
        assert!(good || text.contains("certificate revoked"), "{text}");
    }
}

#[test]
fn openssl_accepts_the_answer_of_a_responder_on_p_384() {
    let Hierarchy { ci, dp_tls, .. } = hierarchy();
    let key = new_p384_key();
    let mut responder = inputs(&key, 9);
    responder.subject = SubjectValues {
        organization: Some("Regulator".into()),
        common_name: Some("OCSP responder".into()),
        ..SubjectValues::default()
    };
    let responder = issue(CertificateRole::OcspResponder.profile(), responder, key, Some(&ci));
    let asked = ocsp::ask(&ci.certificate, dp_tls.serial(), None).unwrap();
    let id = OcspRequest::from_der(&asked).unwrap().questions.remove(0);
    let data = || {
        ocsp::build(&AnswerInputs {
            responder: &responder.certificate,
            answers: vec![SingleAnswer { id: id.clone(), status: CertificateStatus::Good }],
            this_update: time("20260601000000"),
            next_update: time("20260601010000"),
            nonce: None,
        })
        .unwrap()
    };
    let wrong = new_p384_key().sign_plain(data().bytes()).unwrap();
    assert!(matches!(data().assemble(&wrong), Err(PkiError::SignatureInvalid)));
    let answer = data().assemble(&responder.key.sign_plain(data().bytes()).unwrap()).unwrap();
    BasicAnswer::from_der(&answer).unwrap().verify(&responder.certificate).unwrap();

    let files = Files::new("p384-ocsp");
    let (ca, answer) =
        (files.write("ci.pem", ci.certificate.pem().as_bytes()), files.write("answer.der", &answer));
    let file = files.write("dptls.pem", dp_tls.pem().as_bytes());
    let judge = ["ocsp", "-respin", &answer, "-no_nonce", "-validity_period", "1000000000", "-CAfile", &ca];
    let about = ["-attime", "1780272100", "-issuer", &ca, "-sha1", "-cert", &file];
    let Some((accepted, text)) = openssl(&[&judge[..], &about[..]].concat()) else { return };
    assert!(accepted && text.contains("Response verify OK") && text.contains(": good"), "{text}");
}

#[test]
fn requests_on_p_384_are_read_with_either_hash_and_openssl_reads_ours() {
    let files = Files::new("p384-requests");
    let pkcs8 = generate_p384().unwrap();
    let ours = csr::create_csr(&pkcs8, "ada", "Regulator").unwrap();
    let ours = files.write("ours.pem", csr::csr_pem(&ours).as_bytes());
    let Some((verified, text)) = openssl(&["req", "-in", &ours, "-noout", "-verify", "-text"]) else {
        return;
    };
    assert!(verified && text.contains("verify OK") && text.contains("ecdsa-with-SHA384"), "{text}");
    let key = files.write("key.pem", private_key_to_pem(&pkcs8).as_bytes());
    for hash in ["-sha256", "-sha384", "-sha512"] {
        let out = files.0.join("request.pem");
        let arguments = ["req", "-new", "-key", &key, "-subj", "/CN=x", hash, "-out", out.to_str().unwrap()];
        let Some((made, text)) = openssl(&arguments) else { return };
        assert!(made, "{text}");
        let request = csr::VerifiedCsr::parse(&std::fs::read(out).unwrap(), KnownKeys::Refuse).unwrap();
        assert_eq!(request.spki(), PrivateKey::from_pkcs8(&pkcs8).unwrap().spki(), "{hash}");
    }
}

#[test]
fn a_request_message_on_p_384_proves_possession_by_its_signature() {
    let key = new_p384_key();
    let name = hex("a50f300d310b300906035504030c026470");
    let template = tlv(0x30, &[name, tlv(0xa6, &inside(&key.spki()).concat())].concat());
    let request = tlv(0x30, &[tlv(2, &[0]), template].concat());
    let message = |signer: &PrivateKey| {
        let signature = tlv(3, &[vec![0], signer.sign(&request).unwrap()].concat());
        let proof = tlv(0xa1, &[hex(ECDSA_WITH_SHA384), signature].concat());
        tlv(0x30, &tlv(0x30, &[request.clone(), proof].concat()))
    };
    let read = csr::VerifiedCsr::parse(&message(&key), KnownKeys::Refuse).unwrap();
    assert_eq!((read.spki(), read.subject().common_name.as_deref()), (&key.spki()[..], Some("dp")));
    let stolen = csr::VerifiedCsr::parse(&message(&new_p384_key()), KnownKeys::Refuse);
    assert_eq!(stolen, Err(csr::CsrError::BadSignature));
}

#[test]
fn a_request_for_a_token_s_key_is_signed_with_sha_384() {
    let key = new_p384_key();
    let wishes = csr::Wishes {
        subject: SubjectValues {
            country: Some("ES".into()),
            organization: Some("Maker".into()),
            common_name: Some("Maker EUM".into()),
            ..SubjectValues::default()
        },
        registered_id: Some("2.999.5".into()),
        permitted: vec![("Maker".into(), "89049032".into())],
    };
    let unsigned = csr::UnsignedRequest::new(CertificateRole::Eum.profile(), &key.spki(), &wishes).unwrap();
    assert!(unsigned.digest().is_for(Curve::P384));
    let signature = key.sign_plain(unsigned.bytes()).unwrap();
    let request = unsigned.assemble(&signature).unwrap();
    assert_eq!(inside(&request)[1], hex(ECDSA_WITH_SHA384));
    assert_eq!(csr::VerifiedCsr::parse(&request, KnownKeys::Refuse).unwrap().spki(), key.spki());
}
