//! OCSP: requests of OpenSSL are read, answers are judged by OpenSSL, and strangers' bytes upset nobody.

use crate::authority::*;
use crate::der::hex;
use crate::openssl::{Files, openssl};
use crate::sgp26::time;
use domain::RevocationReason;
use pki::ocsp::{
    AnswerInputs, BasicAnswer, CertificateStatus, ErrorStatus, OcspRequest, QUESTIONS_MAX, SingleAnswer,
    build, error_answer,
};
use pki::{Certificate, CertificateRole, SubjectValues};
use proptest::prelude::*;

/// The CI, its responder, and two certificates that are asked about.
struct Scene {
    ci: Holder,
    responder: Holder,
    good: Certificate,
    revoked: Certificate,
}

fn scene() -> Scene {
    let ci = ci();
    let key = new_key();
    let mut responder_inputs = inputs(&key, 9);
    responder_inputs.subject = SubjectValues {
        organization: Some("Regulator".into()),
        common_name: Some("OCSP responder".into()),
        ..SubjectValues::default()
    };
    let responder = issue(CertificateRole::OcspResponder.profile(), responder_inputs, key, Some(&ci));
    let [good, revoked] = [5, 6].map(|serial| {
        let key = new_key();
        let mut inputs = dp_inputs(&key, "2.999.10");
        inputs.serial = pki::SerialNumber::from_random([serial; 20]);
        issue(CertificateRole::DpAuth.profile(), inputs, key, Some(&ci)).certificate
    });
    Scene { ci, responder, good, revoked }
}

impl Scene {
    /// What OpenSSL asks about these certificates.
    fn asked(&self, files: &Files, about: &[&Certificate], options: &[&str]) -> Option<Vec<u8>> {
        let issuer = files.write("ci.pem", self.ci.certificate.pem().as_bytes());
        let out = files.write("request.der", &[]);
        let names: Vec<String> = about
            .iter()
            .enumerate()
            .map(|(n, certificate)| files.write(&format!("asked-{n}.pem"), certificate.pem().as_bytes()))
            .collect();
        let mut arguments = vec!["ocsp", "-reqout", &out, "-issuer", &issuer];
        arguments.extend(options);
        for name in &names {
            arguments.extend(["-cert", name.as_str()]);
        }
        let (made, text) = openssl(&arguments)?;
        assert!(made, "{text}");
        Some(std::fs::read(out).unwrap())
    }

    fn status(&self, request: &OcspRequest, question: usize) -> CertificateStatus {
        let id = &request.questions[question];
        assert!(id.is_of(&self.ci.certificate) && !id.is_of(&self.responder.certificate));
        if id.serial() == self.good.serial() {
            CertificateStatus::Good
        } else if id.serial() == self.revoked.serial() {
            CertificateStatus::Revoked { at: time("20260301120000"), reason: RevocationReason::KeyCompromise }
        } else {
            CertificateStatus::Unknown
        }
    }

    fn answer(&self, request: &OcspRequest) -> Vec<u8> {
        let answers = (0..request.questions.len())
            .map(|n| SingleAnswer { id: request.questions[n].clone(), status: self.status(request, n) })
            .collect();
        let data = build(&AnswerInputs {
            responder: &self.responder.certificate,
            answers,
            this_update: time("20260601000000"),
            next_update: time("20260601010000"),
            nonce: request.nonce.clone(),
        })
        .unwrap();
        let signature = self.responder.key.sign_plain(data.bytes()).unwrap();
        data.assemble(&signature).unwrap()
    }
}

#[test]
fn openssl_accepts_our_answers_to_its_requests_with_either_hash_and_a_nonce() {
    let scene = scene();
    let stranger = {
        let key = new_key();
        let mut inputs = dp_inputs(&key, "2.999.10");
        inputs.serial = pki::SerialNumber::from_random([7; 20]);
        issue(CertificateRole::DpAuth.profile(), inputs, key, Some(&scene.ci)).certificate
    };
    for hash in ["-sha1", "-sha256"] {
        let files = Files::new(&format!("ocsp{hash}"));
        let about = [&scene.good, &scene.revoked, &stranger];
        let Some(request) = scene.asked(&files, &about, &[hash, "-nonce"]) else { return };
        let parsed = OcspRequest::from_der(&request).unwrap();
        assert_eq!((parsed.questions.len(), parsed.nonce.as_ref().map(Vec::len)), (3, Some(16)));
        let answer = files.write("answer.der", &scene.answer(&parsed));
        let asked = files.write("request.der", &request);
        let ca = files.write("ca.pem", scene.ci.certificate.pem().as_bytes());
        let at = ["-attime", "1780272100", "-CAfile", ca.as_str(), "-issuer", ca.as_str()];
        let names: Vec<String> = about
            .iter()
            .enumerate()
            .map(|(n, certificate)| files.write(&format!("judged-{n}.pem"), certificate.pem().as_bytes()))
            .collect();
        // With the request OpenSSL judges the nonce, with the certificates the states.
        let with_request = [&["ocsp", "-respin", &answer, "-reqin", &asked], &at[..]].concat();
        let Some((accepted, text)) = openssl(&with_request) else { return };
        assert!(accepted && text.contains("Response verify OK"), "{text}");
        assert!(!text.contains("Nonce Verify error") && !text.contains("no nonce"), "{text}");
        // The times of the answer are fixed; the clock of this machine is not.
        let mut arguments = vec!["ocsp", "-respin", &answer, "-no_nonce", "-validity_period", "1000000000"];
        arguments.extend(at);
        for name in &names {
            // The hash belongs to each certificate that follows it.
            arguments.extend([hash, "-cert", name.as_str()]);
        }
        let Some((accepted, text)) = openssl(&arguments) else { return };
        assert!(accepted && text.contains("Response verify OK"), "{text}");
        for (name, state) in names.iter().zip(["good", "revoked", "unknown"]) {
            assert!(text.contains(&format!("{name}: {state}")), "{text}");
        }
        assert!(text.contains("Reason: keyCompromise"), "{text}");
    }
}

#[test]
fn an_answer_reads_back_as_it_was_meant_and_breaks_with_any_changed_bit_under_the_signature() {
    let files = Files::new("ocsp-reading");
    let scene = scene();
    let Some(request) = scene.asked(&files, &[&scene.good, &scene.revoked], &["-no_nonce"]) else { return };
    let parsed = OcspRequest::from_der(&request).unwrap();
    assert_eq!(parsed.nonce, None);
    let answer = scene.answer(&parsed);
    let read = BasicAnswer::from_der(&answer).unwrap();
    assert_eq!(read.statuses[0], (scene.good.serial().clone(), CertificateStatus::Good));
    assert!(matches!(read.statuses[1].1, CertificateStatus::Revoked { .. }));
    read.verify(&scene.responder.certificate).unwrap();
    assert!(read.verify(&scene.ci.certificate).is_err());
    let serial = scene.revoked.serial().as_bytes();
    let at = answer.windows(serial.len()).position(|bytes| bytes == serial).unwrap();
    let mut changed = answer;
    changed[at + 1] ^= 1;
    let read = BasicAnswer::from_der(&changed).unwrap();
    assert!(read.verify(&scene.responder.certificate).is_err());
}

#[test]
fn errors_are_the_five_octets_that_rfc_6960_gives() {
    assert_eq!(error_answer(ErrorStatus::MalformedRequest)[..], hex("30030a0101"));
    assert_eq!(error_answer(ErrorStatus::TryLater)[..], hex("30030a0103"));
    assert_eq!(error_answer(ErrorStatus::Unauthorized)[..], hex("30030a0106"));
    assert!(BasicAnswer::from_der(&error_answer(ErrorStatus::InternalError)).is_err());
}

#[test]
fn requests_beyond_the_bounds_are_refused() {
    let id = "303c300906052b0e03021a05000414".to_owned()
        + &"11".repeat(20)
        + "0414"
        + &"22".repeat(20)
        + "0202" // a serial number of two octets, replaced below
        + "0100";
    // SEQUENCE lengths are computed, so that only what is meant is wrong.
    let tlv = |tag: u8, content: &[u8]| crate::der::tlv(tag, content);
    let id = {
        let bytes = hex(&id);
        tlv(0x30, &bytes[2..])
    };
    let request = |questions: usize, extensions: &[u8]| {
        let list = tlv(0x30, &tlv(0x30, &id).repeat(questions));
        tlv(0x30, &tlv(0x30, &[list.as_slice(), extensions].concat()))
    };
    let nonce = |octets: usize| {
        let name = hex("06092b0601050507300102");
        let value = tlv(4, &tlv(4, &vec![7; octets]));
        tlv(0xa2, &tlv(0x30, &tlv(0x30, &[name, value].concat())))
    };
    assert_eq!(OcspRequest::from_der(&request(1, &[])).unwrap().questions.len(), 1);
    assert_eq!(
        OcspRequest::from_der(&request(QUESTIONS_MAX, &nonce(128))).unwrap().nonce.unwrap().len(),
        128
    );
    for (what, bytes) in [
        ("no question", request(0, &[])),
        ("too many questions", request(QUESTIONS_MAX + 1, &[])),
        ("an empty nonce", request(1, &nonce(0))),
        ("a nonce of 129 octets", request(1, &nonce(129))),
        ("bytes after it", [request(1, &[]), vec![0]].concat()),
        ("too large", vec![0x30; 5_000]),
    ] {
        assert!(OcspRequest::from_der(&bytes).is_err(), "{what}");
    }
}

proptest! {
    #[test]
    fn strangers_bytes_and_changed_requests_never_upset_the_readers(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        at in 0usize..120,
        value in any::<u8>(),
    ) {
        let _ = OcspRequest::from_der(&bytes);
        let _ = BasicAnswer::from_der(&bytes);
        let mut changed = hex(
            "304e304c304a3048304630090605 2b0e03021a05000414 1111111111111111111111111111111111111111\
             0414 2222222222222222222222222222222222222222 0210 0102030405060708090a0b0c0d0e0f10",
        );
        if let Some(byte) = changed.get_mut(at) {
            *byte = value;
        }
        if let Ok(request) = OcspRequest::from_der(&changed) {
            prop_assert!(!request.questions.is_empty());
        }
    }
}
