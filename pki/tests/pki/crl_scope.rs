//! Lists that cover a part of their issuer's certificates: delta lists, lists of distribution points, partial lists.

use crate::authority::*;
use crate::openssl::{Files, openssl};
use crate::sgp26::time;
use domain::RevocationReason;
use pki::chain::verify_chain;
use pki::crl::{
    CertificateKinds, Crl, CrlFinding, CrlInputs, CrlScope, RemovedCertificate, RevokedCertificate,
    TbsCertList, build_tbs, lint,
};
use pki::revocation::{RevocationRefusal, Standing, check};
use pki::staple::Staple;
use pki::*;

const POINT: &str = "http://ca.example.com/crl/0.crl";

fn entry(serial: &SerialNumber) -> RevokedCertificate {
    RevokedCertificate {
        serial: serial.clone(),
        revoked_at: time("20260301120000"),
        reason: RevocationReason::CertificateHold,
        invalid_since: None,
        expires: None,
    }
}

fn removed(serial: &SerialNumber) -> RemovedCertificate {
    RemovedCertificate { serial: serial.clone(), revoked_at: time("20260301120000") }
}

fn inputs<'a>(
    issuer: &'a Certificate,
    number: u64,
    revoked: &[&SerialNumber],
    scope: CrlScope,
) -> CrlInputs<'a> {
    CrlInputs {
        issuer,
        number,
        this_update: time("20260302000000"),
        next_update: time("20260309000000"),
        revoked: revoked.iter().map(|serial| entry(serial)).collect(),
        removed: Vec::new(),
        scope,
    }
}

fn make(ci: &Holder, inputs: &CrlInputs<'_>) -> Crl {
    let linted = lint(inputs, build_tbs(inputs).unwrap()).unwrap();
    let signature = ci.key.sign_plain(linted.bytes()).unwrap();
    linted.assemble(&signature, &ci.certificate).unwrap()
}

fn delta(base: u64) -> CrlScope {
    CrlScope { base: Some(base), ..CrlScope::default() }
}

fn point(url: &str) -> CrlScope {
    CrlScope { distribution_points: vec![url.to_owned()], ..CrlScope::default() }
}

fn part(part: u64, total: u64) -> CrlScope {
    CrlScope { part: Some((part, total)), ..CrlScope::default() }
}

fn kinds(certificates: CertificateKinds) -> CrlScope {
    CrlScope { certificates, ..CrlScope::default() }
}

/// A DPauth certificate below a CI, and the chain.
fn server() -> (Holder, pki::chain::VerifiedChain) {
    let ci = ci();
    let key = new_key();
    let mut inputs = dp_inputs(&key, "2.999.10");
    inputs.serial = SerialNumber::from_random([0x11; 20]);
    let dp = issue(CertificateRole::DpAuth.profile(), inputs, key, Some(&ci)).certificate;
    let roots = std::slice::from_ref(&ci.certificate);
    let chain = verify_chain(&dp, &[], roots, CertificateRole::DpAuth, Some(time("20260303000000"))).unwrap();
    (ci, chain)
}

#[test]
fn every_scope_is_written_linted_and_read_back() {
    let ci = ci();
    let serial = SerialNumber::from_bytes(&[7]).unwrap();
    let freshest = CrlScope { freshest: vec![POINT.to_owned()], ..CrlScope::default() };
    for scope in [
        CrlScope::default(),
        freshest,
        delta(1),
        point(POINT),
        CrlScope { distribution_points: vec![POINT.to_owned(), "http://b.example/1".to_owned()], ..delta(9) },
        kinds(CertificateKinds::EndEntities),
        CrlScope { certificates: CertificateKinds::Authorities, ..point(POINT) },
        part(2, 300),
    ] {
        let made = make(&ci, &inputs(&ci.certificate, 300, &[&serial], scope.clone()));
        let read = Crl::parse(made.pem().as_bytes()).unwrap();
        assert_eq!(read.scope(), &scope);
        assert_eq!(read.scope().is_full(), scope == CrlScope::default() || !scope.freshest.is_empty());
        assert_eq!(read.number(), Some(300));
        read.verify(&ci.certificate).unwrap();
    }
    // What only some lists say.
    let mut with_end = inputs(&ci.certificate, 300, &[&serial], part(1, 1));
    with_end.revoked[0].expires = Some(time("20510101000000"));
    assert_eq!(make(&ci, &with_end).revoked()[0].expires, Some(time("20510101000000")));
    let mut releases = inputs(&ci.certificate, 300, &[], delta(299));
    releases.removed = vec![removed(&serial)];
    assert_eq!(make(&ci, &releases).removed(), [removed(&serial)]);
}

#[test]
fn the_lint_finds_a_scope_that_was_not_asked_for() {
    let ci = ci();
    let serial = SerialNumber::from_bytes(&[7]).unwrap();
    let scopes = [
        CrlScope::default(),
        delta(1),
        delta(2),
        point(POINT),
        point("http://other.example/1"),
        kinds(CertificateKinds::EndEntities),
        kinds(CertificateKinds::Authorities),
        part(1, 2),
        part(2, 2),
        CrlScope { freshest: vec![POINT.to_owned()], ..CrlScope::default() },
    ];
    for asked in &scopes {
        for written in &scopes {
            let asked = inputs(&ci.certificate, 300, &[&serial], asked.clone());
            let written = build_tbs(&inputs(&ci.certificate, 300, &[&serial], written.clone())).unwrap();
            let same = asked.scope == inputs(&ci.certificate, 300, &[], asked.scope.clone()).scope
                && build_tbs(&asked).unwrap() == written;
            assert_eq!(lint(&asked, written).is_ok(), same, "{:?}", asked.scope);
        }
    }
    // Each byte of a delta list, changed: the lint finds it.
    let asked = inputs(&ci.certificate, 300, &[&serial], CrlScope { base: Some(299), ..point(POINT) });
    let bytes = build_tbs(&asked).unwrap().bytes().to_vec();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert!(lint(&asked, TbsCertList::from_der(changed)).is_err(), "byte {at}");
    }
    // What a list of another scope may not say.
    let findings = |inputs: &CrlInputs<'_>| lint(inputs, build_tbs(inputs).unwrap()).unwrap_err().findings;
    let mut full = inputs(&ci.certificate, 300, &[], CrlScope::default());
    full.removed = vec![removed(&serial)];
    assert_eq!(findings(&full), [CrlFinding::Scope]);
    let mut full = inputs(&ci.certificate, 300, &[&serial], CrlScope::default());
    full.revoked[0].expires = Some(time("20300101000000"));
    assert_eq!(findings(&full), [CrlFinding::Scope]);
    assert!(findings(&inputs(&ci.certificate, 300, &[], part(3, 2))).contains(&CrlFinding::Scope));
    let circle = CrlScope { freshest: vec![POINT.to_owned()], ..delta(1) };
    assert_eq!(findings(&inputs(&ci.certificate, 300, &[], circle)), [CrlFinding::Scope]);
}

#[test]
fn a_relying_party_takes_what_covers_the_certificate_and_nothing_else() {
    let (ci, chain) = server();
    let at = time("20260303000000");
    let serial = chain.leaf().serial().clone();
    let other = SerialNumber::from_bytes(&[9]).unwrap();
    let list = |number: u64, revoked: &[&SerialNumber], scope: CrlScope| {
        make(&ci, &inputs(&ci.certificate, number, revoked, scope))
    };
    let judge = |lists: &[Crl]| check(&chain, lists, at).map(|standings| standings[0]);
    let unknown = Err(vec![RevocationRefusal::Unknown { depth: 0 }]);
    let good = Ok(Standing::NotRevoked);
    let is_revoked = |found: Result<Standing, Vec<RevocationRefusal>>| {
        matches!(found.unwrap_err()[..], [RevocationRefusal::Revoked { depth: 0, .. }])
    };
    for (scope, covers) in [
        (point(POINT), true),
        (point("http://ca.example.com/crl/5.crl"), false),
        (kinds(CertificateKinds::EndEntities), true),
        (kinds(CertificateKinds::Authorities), false),
        (delta(1), false),
        (part(1, 1), true),
        (part(1, 2), false),
    ] {
        let found = judge(&[list(5, &[&other], scope.clone())]);
        assert_eq!(found, if covers { good.clone() } else { unknown.clone() }, "{scope:?}");
        // An entry counts, whatever the list covers.
        assert!(is_revoked(judge(&[list(5, &[&serial], scope)])));
    }
    let parts = |numbers: [u64; 2]| [list(numbers[0], &[], part(1, 2)), list(numbers[1], &[], part(2, 2))];
    assert_eq!(judge(&parts([5, 5])), good);
    assert_eq!(judge(&parts([5, 6])), unknown, "parts of two lists");
    // A delta adds to a full list ...
    assert!(is_revoked(judge(&[list(5, &[], CrlScope::default()), list(6, &[&serial], delta(5))])));
    // ... and takes from one between its base and itself.
    let release = |number, base| {
        let mut inputs = inputs(&ci.certificate, number, &[], delta(base));
        inputs.removed = vec![removed(&serial)];
        make(&ci, &inputs)
    };
    let held = list(5, &[&serial], CrlScope::default());
    assert_eq!(judge(&[held.clone(), release(7, 5)]), good);
    assert!(is_revoked(judge(&[held.clone(), release(7, 6)])), "of a later base");
    assert!(is_revoked(judge(&[held, release(5, 4)])), "not newer than the list");
}

#[test]
fn a_staple_reads_back_and_nothing_else_does() {
    let (ci, chain) = server();
    let list = make(&ci, &inputs(&ci.certificate, 5, &[chain.leaf().serial()], point(POINT)));
    let staple = Staple { certificates: vec![ci.certificate.clone()], lists: vec![list.clone(), list] };
    let der = staple.to_der();
    let read = Staple::parse(&der).unwrap();
    assert_eq!((&read.certificates, &read.lists), (&staple.certificates, &staple.lists));
    let empty = Staple { certificates: Vec::new(), lists: Vec::new() };
    assert!(Staple::parse(&empty.to_der()).unwrap().lists.is_empty());
    for length in 0..der.len() {
        assert!(Staple::parse(&der[..length]).is_err(), "{length} octets");
    }
    assert!(Staple::parse(&[&der[..], &[0]].concat()).is_err());
    let many = Staple { certificates: vec![ci.certificate.clone(); 17], lists: Vec::new() };
    assert!(Staple::parse(&many.to_der()).is_err());
}

#[test]
fn openssl_reads_the_scopes_and_applies_the_lists() {
    let (ci, chain) = server();
    let files = Files::new("crl-scope");
    let serial = chain.leaf().serial().clone();
    let anchor = files.write("ci.pem", ci.certificate.pem().as_bytes());
    let leaf = files.write("dp.pem", chain.leaf().pem().as_bytes());
    let base = CrlScope { freshest: vec!["http://ca.example.com/delta.crl".into()], ..CrlScope::default() };
    let full = make(&ci, &inputs(&ci.certificate, 5, &[], base));
    let full = files.write("full.pem", full.pem().as_bytes());
    let of_delta = CrlScope { base: Some(5), ..CrlScope::default() };
    let change = make(&ci, &inputs(&ci.certificate, 6, &[&serial], of_delta));
    let change = files.write("delta.pem", change.pem().as_bytes());
    let Some((_, text)) = openssl(&["crl", "-in", &change, "-noout", "-text"]) else { return };
    assert!(text.contains("X509v3 Delta CRL Indicator: critical"), "{text}");
    let judged = |lists: &[&str], more: &[&str]| {
        let mut arguments = vec!["verify", "-attime", "1772496000", "-crl_check", "-CAfile", &anchor];
        arguments.extend(lists.iter().flat_map(|list| ["-CRLfile", *list]));
        openssl(&[&arguments[..], more, &[&leaf]].concat()).unwrap()
    };
    assert!(judged(&[&full], &[]).0);
    let (accepted, text) = judged(&[&full, &change], &["-use_deltas"]);
    assert!(!accepted && text.contains("certificate revoked"), "{text}");
    // A list of the certificate's distribution point decides, one of another is none.
    let shard = make(&ci, &inputs(&ci.certificate, 6, &[&serial], point(POINT)));
    let shard = files.write("shard.pem", shard.pem().as_bytes());
    let (accepted, text) = judged(&[&shard], &["-extended_crl"]);
    assert!(!accepted && text.contains("certificate revoked"), "{text}");
    let elsewhere = make(&ci, &inputs(&ci.certificate, 6, &[&serial], point("http://a.example/1")));
    let elsewhere = files.write("elsewhere.pem", elsewhere.pem().as_bytes());
    let (accepted, text) = judged(&[&elsewhere], &["-extended_crl"]);
    assert!(!accepted && text.contains("different CRL scope"), "{text}");
    // The GSMA's parts are critical, and openssl does not know them: it refuses to take a part for the whole.
    let one = make(&ci, &inputs(&ci.certificate, 6, &[], part(1, 2)));
    let one = files.write("part.pem", one.pem().as_bytes());
    let (accepted, text) = judged(&[&one], &[]);
    assert!(!accepted && text.contains("critical"), "{text}");
}
