//! What an issuer issued before it came here, and when it is taken into the register.

use audit::EventType;
use ca::{ADOPTION_SECONDS, Adopted, CaError, Issuer};
use domain::Timestamp;
use pki::CertificateRole;

use crate::authority::{Authority, START, about, day, soon};

/// The issuer `ci` as one that came from elsewhere at that time.
fn come_from_elsewhere(authority: &Authority, came: Option<Timestamp>) -> Issuer {
    let own = authority.issuer("ci");
    Issuer {
        name: own.name.clone(),
        party: own.party.clone(),
        key: own.key.clone(),
        public_key: own.public_key.clone(),
        certificate: own.certificate.clone(),
        adopts_until: came.map(|came| came.plus_seconds(ADOPTION_SECONDS)),
        version: own.version,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_from_before_are_taken_of_issuers_that_came_and_for_thirty_days_only() {
    let authority = Authority::found().await;
    // Signed by the issuer's key, and in no register.
    let request = authority.request(CertificateRole::DpAuth, "ci", "dp");
    let prepared = ca::prepare(&authority.engines, request, START).unwrap();
    let stray = ca::sign(&authority.engines.token, vec![prepared], soon()).await.unwrap().remove(0);
    let der = [stray.certificate.der().to_vec()];
    let adopt = |came, now| {
        let issuer = come_from_elsewhere(&authority, came);
        ca::adopt_certificates(&authority.engines, &issuer, &der, |_, _| Some("dp".to_owned()), now)
    };
    let refusal = |outcome: Result<Vec<Adopted>, CaError>| outcome.err().unwrap().to_string();
    assert!(refusal(adopt(None, day(1))).contains("did not come from elsewhere"));
    assert!(refusal(adopt(Some(day(1)), day(32))).contains("30 days"));
    let begun_later = adopt(Some(START.plus_seconds(-86_400)), day(1)).unwrap();
    assert!(matches!(&begun_later[..], [Adopted::Refused(_, why)] if why.contains("begins after")));

    let taken = adopt(Some(day(1)), day(31)).unwrap().remove(0);
    let Adopted::Taken(taken) = taken else { panic!("it is not taken") };
    authority.apply(taken.outcome(&about())).await.unwrap();
    let serial = stray.serial().as_bytes();
    let view = ca::find_by_serial(authority.log.as_ref(), serial, "ci").unwrap().unwrap();
    assert_eq!((view.holder.as_str(), view.state.as_str()), ("dp", "issued"));
    assert!(matches!(adopt(Some(day(1)), day(31)).unwrap()[..], [Adopted::Known]));
    let entries = authority.entries();
    assert_eq!(entries.iter().filter(|e| e.header.event == EventType::CertificateAdopted).count(), 1);
}
