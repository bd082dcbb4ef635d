//! What revocation lists say of a chain: each standing and each refusal.

use crate::authority::*;
use crate::der::{hex, tlv};
use crate::sgp26::time;
use domain::RevocationReason;
use pki::chain::{VerifiedChain, verify_chain};
use pki::crl::{Crl, CrlInputs, CrlScope, RevokedCertificate, build_tbs, lint};
use pki::revocation::{RevocationRefusal, Standing, check};
use pki::*;

const NOW: &str = "20260305000000";
const MADE: &str = "20260302000000";
const NEXT: &str = "20260309000000";

/// An eUICC below its EUM below a CI.
struct Fleet {
    ci: Holder,
    eum: Holder,
    chain: VerifiedChain,
}

fn fleet() -> Fleet {
    let ci = ci();
    let key = new_key();
    let eum = issue(CertificateRole::Eum.profile(), eum_inputs(&key), key, Some(&ci));
    let key = new_key();
    let euicc = issue(CertificateRole::Euicc.profile(), euicc_inputs(&key), key, Some(&eum)).certificate;
    let chain = verify_chain(
        &euicc,
        std::slice::from_ref(&eum.certificate),
        std::slice::from_ref(&ci.certificate),
        CertificateRole::Euicc,
        Some(time(NOW)),
    );
    Fleet { chain: chain.unwrap(), ci, eum }
}

fn inputs<'a>(issuer: &'a Certificate, revoked: &[&Certificate]) -> CrlInputs<'a> {
    let entry = |certificate: &&Certificate| RevokedCertificate {
        serial: certificate.serial().clone(),
        revoked_at: time(MADE),
        reason: RevocationReason::CaCompromise,
        invalid_since: None,
        expires: None,
    };
    CrlInputs {
        issuer,
        number: 1,
        this_update: time(MADE),
        next_update: time(NEXT),
        revoked: revoked.iter().map(entry).collect(),
        removed: Vec::new(),
        scope: CrlScope::default(),
    }
}

fn list(issuer: &Holder, revoked: &[&Certificate]) -> Crl {
    let inputs = inputs(&issuer.certificate, revoked);
    let linted = lint(&inputs, build_tbs(&inputs).unwrap()).unwrap();
    let signature = issuer.key.sign_plain(linted.bytes()).unwrap();
    linted.assemble(&signature, &issuer.certificate).unwrap()
}

/// A list that no token would sign for us: past the lint, signed with any key.
fn forged(issuer: &Certificate, key: &PrivateKey, revoked: &[&Certificate]) -> Crl {
    let tbs = build_tbs(&inputs(issuer, revoked)).unwrap();
    let signature = [vec![0], key.sign(tbs.bytes()).unwrap()].concat();
    let algorithm = hex("300a06082a8648ce3d040302");
    Crl::from_der(&tlv(0x30, &[tbs.bytes(), &algorithm, &tlv(3, &signature)].concat())).unwrap()
}

#[test]
fn each_certificate_of_a_good_chain_has_its_standing() {
    let fleet = fleet();
    let list = list(&fleet.ci, &[]);
    let standings = check(&fleet.chain, &[list], time(NOW)).unwrap();
    assert_eq!(standings, [Standing::NamesNoList, Standing::NotRevoked, Standing::Root]);
}

#[test]
fn a_revoked_authority_takes_the_chain_down_even_on_a_list_that_is_overdue() {
    let fleet = fleet();
    let list = list(&fleet.ci, &[&fleet.eum.certificate]);
    let revoked =
        RevocationRefusal::Revoked { depth: 1, at: time(MADE), reason: RevocationReason::CaCompromise };
    let current = check(&fleet.chain, std::slice::from_ref(&list), time(NOW)).unwrap_err();
    assert_eq!(current, std::slice::from_ref(&revoked));
    let late = check(&fleet.chain, &[list], time("20260309000001")).unwrap_err();
    assert_eq!(late, [RevocationRefusal::Overdue { list: 0, next_update: time(NEXT) }, revoked]);
}

#[test]
fn without_the_issuers_list_a_certificate_that_names_lists_is_unknown() {
    let fleet = fleet();
    let refusals = check(&fleet.chain, &[], time(NOW)).unwrap_err();
    assert_eq!(refusals, [RevocationRefusal::Unknown { depth: 1 }]);
}

#[test]
fn an_entry_on_a_list_that_its_issuer_did_not_sign_is_nobodys_word() {
    let fleet = fleet();
    let forged = forged(&fleet.ci.certificate, &new_key(), &[&fleet.eum.certificate]);
    let good = list(&fleet.ci, &[]);
    let refusals = check(&fleet.chain, &[good, forged], time(NOW)).unwrap_err();
    assert_eq!(refusals, [RevocationRefusal::BadSignature { list: 1 }]);
}

#[test]
fn an_authority_that_may_not_sign_lists_revokes_nobody() {
    let fleet = fleet();
    let forged = forged(&fleet.eum.certificate, &fleet.eum.key, &[fleet.chain.leaf()]);
    let good = list(&fleet.ci, &[]);
    let refusals = check(&fleet.chain, &[forged, good], time(NOW)).unwrap_err();
    assert_eq!(refusals, [RevocationRefusal::SigningNotAllowed { list: 0 }]);
}

#[test]
fn a_list_from_elsewhere_is_refused() {
    let fleet = fleet();
    let key = new_key();
    let stranger =
        issue(CertificateRole::DpAuth.profile(), dp_inputs(&key, "2.999.10"), key, Some(&fleet.ci));
    let foreign = forged(&stranger.certificate, &stranger.key, &[]);
    let good = list(&fleet.ci, &[]);
    let refusals = check(&fleet.chain, &[good, foreign], time(NOW)).unwrap_err();
    assert_eq!(refusals, [RevocationRefusal::IssuerDiffers { list: 1 }]);
    // The same name with another key, as after a key change.
    let renewed = list(&ci(), &[]);
    let refusals = check(&fleet.chain, &[renewed], time(NOW)).unwrap_err();
    assert_eq!(refusals, [RevocationRefusal::IssuerKeyDiffers { list: 0 }]);
}
