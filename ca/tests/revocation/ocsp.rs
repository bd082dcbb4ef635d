//! OCSP over the real register and a real token: states, what is kept, and the responder's own certificate.

use ca::{OCSP_VALIDITY_SECONDS, Responder};
use domain::{RevocationReason, Timestamp};
use pki::ocsp::{BasicAnswer, CertificateStatus, ErrorStatus, error_answer};
use pki::{Certificate, CertificateRole, SerialNumber};
use sha2::{Digest as _, Sha256};

use crate::authority::{Authority, START, about, day, soon};

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    assert!(content.len() < 65_536);
    let length = content.len() as u16;
    let mut bytes = vec![tag];
    match content.len() {
        0..0x80 => bytes.push(length as u8),
        _ => bytes.extend([&[0x82][..], &length.to_be_bytes()].concat()),
    }
    bytes.extend_from_slice(content);
    bytes
}

/// Shortest form for what is below 256 bytes, as DER wants it.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    match content.len() {
        0x80..0x100 => [&[tag, 0x81, content.len() as u8][..], content].concat(),
        _ => tlv(tag, content),
    }
}

/// A request about serial numbers of an issuer, with SHA-256, and a nonce where one is given.
fn request(issuer: &Certificate, serials: &[&SerialNumber], nonce: Option<&[u8]>) -> Vec<u8> {
    // The key's BIT STRING ends the SubjectPublicKeyInfo: an uncompressed point of 65 octets.
    let key = &issuer.spki()[issuer.spki().len() - 65..];
    let sha256 = hex::decode("300d06096086480165030402010500").unwrap();
    let questions: Vec<u8> = serials
        .iter()
        .flat_map(|serial| {
            let id = [
                sha256.clone(),
                element(4, &Sha256::digest(issuer.subject_name_der())),
                element(4, &Sha256::digest(key)),
                element(2, serial.as_bytes()),
            ];
            element(0x30, &element(0x30, &id.concat()))
        })
        .collect();
    let extensions = nonce.map_or_else(Vec::new, |nonce| {
        let name = hex::decode("06092b0601050507300102").unwrap();
        let value = element(4, &element(4, nonce));
        element(0xa2, &element(0x30, &element(0x30, &[name, value].concat())))
    });
    element(0x30, &element(0x30, &[element(0x30, &questions), extensions].concat()))
}

struct Asked<'a> {
    authority: &'a Authority,
    responder: Responder,
    ci: Certificate,
}

impl<'a> Asked<'a> {
    fn of(authority: &'a Authority) -> Self {
        let ci = authority.issuer("ci").certificate().unwrap().clone();
        Self { authority, responder: Responder::default(), ci }
    }

    async fn raw(&self, request: &[u8], now: Timestamp) -> Vec<u8> {
        self.responder.answer(&self.authority.engines, request, now, soon()).await.der
    }

    /// The answer, verified as a relying party would: signed by a responder that the CI certified for nothing else.
    async fn ask(&self, serials: &[&SerialNumber], nonce: Option<&[u8]>, now: Timestamp) -> BasicAnswer {
        let der = self.raw(&request(&self.ci, serials, nonce), now).await;
        let answer = BasicAnswer::from_der(&der).unwrap();
        let responder = answer.responder.clone().unwrap();
        let at = pki::CivilTime::from_timestamp(now).unwrap();
        let roots = std::slice::from_ref(&self.ci);
        pki::chain::verify_chain(&responder, &[], roots, CertificateRole::OcspResponder, Some(at)).unwrap();
        answer.verify(&responder).unwrap();
        assert_eq!(answer.nonce.as_deref(), nonce);
        answer
    }
}

fn revoked(answer: &BasicAnswer) -> Option<RevocationReason> {
    match answer.statuses[0].1 {
        CertificateStatus::Revoked { reason, .. } => Some(reason),
        CertificateStatus::Good | CertificateStatus::Unknown => None,
    }
}

async fn with_responder() -> Authority {
    let authority = Authority::found().await;
    renew(&authority, START).await;
    authority
}

/// The service's own step, if it is due.
async fn renew(authority: &Authority, now: Timestamp) -> Option<SerialNumber> {
    let request = ca::responder_due(&authority.engines, "ci", now).unwrap()?;
    let prepared = ca::prepare(&authority.engines, request, now).unwrap();
    authority.apply(prepared.intent(&about())).await.unwrap();
    let issued = ca::sign(&authority.engines.token, vec![prepared], soon()).await.unwrap().remove(0);
    authority.apply(issued.outcome(&about())).await.unwrap();
    Some(issued.serial().clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_is_what_the_register_says_now_and_never_good_for_what_was_not_issued() {
    let authority = with_responder().await;
    let issued = authority.issue_dp(CertificateRole::DpAuth).await;
    let reserved =
        ca::prepare(&authority.engines, authority.request(CertificateRole::DpPb, "ci", "dp"), START);
    let reserved = reserved.unwrap();
    authority.apply(reserved.intent(&about())).await.unwrap();
    let operator_made = authority.issue(authority.client_request()).await;
    let asked = Asked::of(&authority);
    let nobody = SerialNumber::from_bytes(&[7; 20]).unwrap();
    let all = [issued.serial(), reserved.serial(), operator_made.serial(), &nobody];
    let statuses: Vec<_> =
        asked.ask(&all, None, START).await.statuses.into_iter().map(|(_, status)| status).collect();
    use CertificateStatus::{Good, Unknown};
    assert_eq!(statuses, [Good, Unknown, Unknown, Unknown]);

    // Kept, and yet right from the moment of the revocation.
    for _ in 0..3 {
        assert_eq!(asked.ask(&[issued.serial()], None, START).await.statuses[0].1, Good);
    }
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!((count(&asked.responder.signed), count(&asked.responder.repeated)), (2, 2));
    authority.revoke(issued.serial(), RevocationReason::KeyCompromise, START).await;
    let answer = asked.ask(&[issued.serial()], None, START).await;
    assert_eq!(revoked(&answer), Some(RevocationReason::KeyCompromise));

    // A nonce is answered for this one request, and a kept answer ends with half of its validity.
    let signed = count(&asked.responder.signed);
    asked.ask(&[issued.serial()], Some(&[9; 32]), START).await;
    asked.ask(&[issued.serial()], Some(&[9; 32]), START).await;
    let later = START.plus_seconds(OCSP_VALIDITY_SECONDS / 2);
    asked.ask(&[issued.serial()], None, later).await;
    assert_eq!(count(&asked.responder.signed), signed + 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_answered_gets_an_error_of_ocsp() {
    let authority = Authority::found().await;
    let asked = Asked::of(&authority);
    let serial = SerialNumber::from_bytes(&[7; 20]).unwrap();
    let about_ci = request(&asked.ci, &[&serial], None);
    let unauthorized = error_answer(ErrorStatus::Unauthorized);
    assert_eq!(asked.raw(&about_ci, START).await, unauthorized, "no responder yet");
    renew(&authority, START).await.unwrap();
    assert_eq!(revoked(&asked.ask(&[&serial], None, START).await), None);
    let maker = authority.issuer("maker").certificate().unwrap().clone();
    assert_eq!(asked.raw(&request(&maker, &[&serial], None), START).await, unauthorized);
    for bytes in [&[][..], &about_ci[1..], &[0x30; 5_000]] {
        assert_eq!(asked.raw(bytes, START).await, error_answer(ErrorStatus::MalformedRequest));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_responder_keeps_its_key_over_renewals_also_when_one_fails() {
    let mut authority = with_responder().await;
    let serial = SerialNumber::from_bytes(&[7; 20]).unwrap();
    let first = Asked::of(&authority).ask(&[&serial], None, START).await.responder.unwrap();
    assert_eq!(renew(&authority, day(44)).await, None, "more than half is left");

    // A stop between intent and outcome: the next start gives up the reservation, and the key stays.
    let request = ca::responder_due(&authority.engines, "ci", day(46)).unwrap().unwrap();
    let prepared = ca::prepare(&authority.engines, request, day(46)).unwrap();
    authority.apply(prepared.intent(&about())).await.unwrap();
    authority = authority.restart();
    for reservation in ca::reservations(authority.log.as_ref()).unwrap() {
        let failed = reservation.fail(domain::ReasonCode::ShuttingDown, None, about().object);
        authority.apply(failed).await.unwrap();
    }
    let answer = Asked::of(&authority).ask(&[&serial], None, day(46)).await;
    assert_eq!(answer.responder.unwrap().serial(), first.serial());

    let renewed = renew(&authority, day(46)).await.unwrap();
    let second = Asked::of(&authority).ask(&[&serial], None, day(47)).await.responder.unwrap();
    assert_eq!((second.serial(), second.spki()), (&renewed, first.spki()));

    // The key is certified for the responder and stays refused for everybody else.
    let mut other = authority.request(CertificateRole::DpAuth, "ci", "dp");
    other.key = ca::SubjectKey::without_proof(first.spki(), pki::KnownKeys::Refuse).unwrap();
    assert!(ca::prepare(&authority.engines, other, day(47)).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_signed_ahead_and_renewed_and_still_say_what_the_register_says() {
    let authority = with_responder().await;
    let [good, later] =
        [authority.issue_dp(CertificateRole::DpAuth).await, authority.issue_dp(CertificateRole::DpPb).await];
    let asked = Asked::of(&authority);
    let ahead = |now| asked.responder.sign_ahead(&authority.engines, 100, now, soon);
    // The manufacturer's issuer, both certificates, and the responder's own.
    let first = ahead(START).await.unwrap();
    assert!(first >= 3, "{first}");
    assert_eq!(ahead(START).await.unwrap(), 0, "all are kept");
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    let plain = |serial| pki::ocsp::ask(&asked.ci, serial, None).unwrap();
    let answer = |der: Vec<u8>| BasicAnswer::from_der(&der).unwrap();
    for issued in [&good, &later] {
        let said = answer(asked.raw(&plain(issued.serial()), START).await);
        assert_eq!(said.statuses, [(issued.serial().clone(), CertificateStatus::Good)]);
    }
    let counted = [&asked.responder.signed, &asked.responder.repeated, &asked.responder.ahead].map(count);
    assert_eq!(counted, [0, 2, first as u64], "nobody waited for the token");

    // A revocation counts at once, whatever is kept; and the next turn signs what is new.
    authority.revoke(later.serial(), RevocationReason::Superseded, START).await;
    let now = START.plus_seconds(1);
    let said = answer(asked.raw(&plain(later.serial()), now).await);
    assert_eq!(revoked(&said), Some(RevocationReason::Superseded));
    assert_eq!(ahead(now).await.unwrap(), 0, "signed for who asked");
    assert_eq!(
        ahead(START.plus_seconds(900)).await.unwrap(),
        first - 1,
        "a quarter of an hour later, but for that one"
    );
}
