//! The hierarchies of SGP.22 v3: variants Ov3, A, B and C out of one set of profiles.

use crate::authority::*;
use crate::openssl::{Files, openssl};
use pki::chain::{ChainReason, gsma_role, may_issue, verify_chain};
use pki::*;

fn profile(name: &str) -> &'static CertificateProfile {
    profile::find(name).unwrap()
}

/// A CA of the authority itself: root, sub CA of the CI, sub CA of a role.
fn ca(name: &str, issuer: &Holder) -> Holder {
    let key = new_key();
    let mut inputs = inputs(&key, 9);
    inputs.subject = SubjectValues {
        common_name: Some(format!("Sea {name}")),
        organizational_unit: Some("Tests".into()),
        organization: Some("Regulator".into()),
        country: Some("SE".into()),
        eid: None,
    };
    inputs.registered_id = Some("2.999.1".into());
    inputs.crl_urls = (0..2).map(|n| format!("http://ca.example.com/crl/{n}.crl")).collect();
    issue(profile(name), inputs, key, Some(issuer))
}

fn eum(name: &str, eins: &[&str], issuer: &Holder) -> Holder {
    let key = new_key();
    let mut inputs = eum_inputs(&key);
    inputs.crl_urls = (0..2).map(|n| format!("http://ca.example.com/crl/{n}.crl")).collect();
    inputs.subject.common_name = Some(format!("Maker {name}"));
    inputs.permitted = eins.iter().map(|ein| ("Maker".to_owned(), (*ein).to_owned())).collect();
    issue(profile(name), inputs, key, Some(issuer))
}

fn euicc(issuer: &Holder) -> Certificate {
    let key = new_key();
    issue(profile("euicc-v3"), euicc_inputs(&key), key, Some(issuer)).certificate
}

fn server(name: &str, issuer: &Holder) -> Certificate {
    let key = new_key();
    let mut inputs = dp_inputs(&key, "2.999.10");
    if profile(name).role.as_str().ends_with("tls") {
        inputs.dns_name = Some("dp.example.com".into());
    }
    issue(profile(name), inputs, key, Some(issuer)).certificate
}

fn refusal(
    leaf: &Certificate,
    between: &[&Holder],
    root: &Holder,
    role: CertificateRole,
) -> Result<usize, (usize, ChainReason)> {
    let between: Vec<_> = between.iter().map(|holder| holder.certificate.clone()).collect();
    verify_chain(leaf, &between, std::slice::from_ref(&root.certificate), role, Some(leaf.not_before()))
        .map(|chain| chain.certificates().len())
        .map_err(|refusal| (refusal.depth, refusal.reason))
}

/// Ein of 8 digits, as SGP.26 has it, and others.
const EIN: &[&str] = &["89049032"];

#[test]
fn every_variant_verifies_from_the_leaf_to_the_root() {
    use CertificateRole::{DpAuth, DpPb, DpTls, DsAuth, DsTls, Euicc};
    let root = ci();
    let (sub, dp, ds) = (ca("ci-sub", &root), ca("dp-sub", &root), ca("ds-sub", &root));
    // Ov3: everything below the root.
    let maker = eum("eum-v3", EIN, &root);
    assert_eq!(refusal(&euicc(&maker), &[&maker], &root, Euicc), Ok(3));
    assert_eq!(refusal(&server("dpauth-v3", &root), &[], &root, DpAuth), Ok(2));
    // A: a sub CA for each role.
    let above = eum("eum-v3-sub", EIN, &root);
    let maker = eum("eum-sub", EIN, &above);
    assert_eq!(refusal(&euicc(&maker), &[&maker, &above], &root, Euicc), Ok(4));
    for (name, role, issuer) in [
        ("dpauth-v3", DpAuth, &dp),
        ("dppb-v3", DpPb, &dp),
        ("dptls-v3", DpTls, &dp),
        ("dsauth-v3", DsAuth, &ds),
        ("dstls-v3", DsTls, &ds),
    ] {
        let leaf = server(name, issuer);
        assert_eq!(refusal(&leaf, &[issuer], &root, role), Ok(3), "{name}");
        assert_eq!(gsma_role(&leaf), Some(role), "{name}");
    }
    // B: a sub CA of the CI.
    let maker = eum("eum-v3", EIN, &sub);
    assert_eq!(refusal(&euicc(&maker), &[&sub, &maker], &root, Euicc), Ok(4));
    assert_eq!(refusal(&server("dppb-v3", &sub), &[&sub], &root, DpPb), Ok(3));
    // C: both.
    let above = eum("eum-v3-sub", EIN, &sub);
    let maker = eum("eum-sub", EIN, &above);
    assert_eq!(refusal(&euicc(&maker), &[&sub, &maker, &above], &root, Euicc), Ok(5));
    let dp = ca("dp-sub", &sub);
    assert_eq!(refusal(&server("dpauth-v3", &dp), &[&sub, &dp], &root, DpAuth), Ok(4));
}

#[test]
fn who_may_issue_what_is_what_the_variants_say() {
    let root = ci();
    let (sub, dp, ds) = (ca("ci-sub", &root), ca("dp-sub", &root), ca("ds-sub", &root));
    let (maker, above) = (eum("eum-v3", EIN, &root), eum("eum-v3-sub", EIN, &root));
    let below = eum("eum-sub", EIN, &above);
    let key = new_key();
    let old = issue(CertificateRole::Eum.profile(), eum_inputs(&key), key, Some(&root));
    let issued = |holder: &Holder| -> Vec<&str> {
        profile::built_in()
            .filter(|profile| may_issue(&holder.certificate, profile))
            .map(|profile| profile.name)
            .collect()
    };
    assert_eq!(issued(&dp), ["ocsp-responder", "dpauth-v3", "dppb-v3", "dptls-v3"]);
    assert_eq!(issued(&maker), ["euicc-v3"]);
    assert_eq!(issued(&below), ["euicc-v3"]);
    assert_eq!(issued(&above), ["eum-sub"]);
    assert_eq!(issued(&old), ["euicc"]);
    assert!(issued(&sub).contains(&"dp-sub") && !issued(&sub).contains(&"dpauth"), "v2 knows no sub CA");
    assert!(issued(&root).contains(&"dpauth") && issued(&root).contains(&"dpauth-v3"));
    assert!(!issued(&ds).iter().any(|name| name.starts_with("dp")));
}

#[test]
fn what_the_variants_do_not_know_is_refused() {
    use CertificateRole::{DpAuth, Euicc};
    let root = ci();
    let (sub, ds) = (ca("ci-sub", &root), ca("ds-sub", &root));
    // A certificate of SM-DP+ below the sub CA for SM-DS.
    assert_eq!(refusal(&server("dpauth-v3", &ds), &[&ds], &root, DpAuth), Err((1, ChainReason::Policy)));
    // A certificate of version 2 below a sub CA.
    let leaf = server("dpauth", &sub);
    assert!(refusal(&leaf, &[&sub], &root, DpAuth).is_err());
    // A manufacturer's sub CA below one that may have none.
    let maker = eum("eum-v3", EIN, &root);
    let below = eum("eum-sub", EIN, &maker);
    let found = refusal(&euicc(&below), &[&below, &maker], &root, Euicc);
    assert_eq!(found, Err((2, ChainReason::PathLength)));
    // An intermediate that is not offered, and one that is offered as the root.
    let found = refusal(&server("dpauth-v3", &sub), &[], &root, DpAuth);
    assert!(matches!(found, Err((0, ChainReason::IssuerNotFound(_)))), "{found:?}");
    let found = refusal(&server("dpauth-v3", &sub), &[], &sub, DpAuth);
    assert_eq!(found, Err((1, ChainReason::Policy)), "a sub CA is no root");
}

#[test]
fn the_permitted_eins_bind_the_devices_and_the_sub_cas() {
    use CertificateRole::Euicc;
    let root = ci();
    for (eins, is_permitted) in [
        (&["89049032"][..], true),
        (&["8904903"], true),
        (&["89049033", "890490321234"], true),
        (&["89049033"], false),
        (&["890490329"], false),
    ] {
        let maker = eum("eum-v3", eins, &root);
        let found = refusal(&euicc(&maker), &[&maker], &root, Euicc);
        assert_eq!(found.is_ok(), is_permitted, "{eins:?}: {found:?}");
        assert_eq!(
            chain::permits(&maker.certificate, "Maker", "89049032123451234512345678901235"),
            is_permitted
        );
        assert!(!chain::permits(&maker.certificate, "Other", "89049032123451234512345678901235"));
    }
    // A sub CA that claims more than its manufacturer has.
    let above = eum("eum-v3-sub", &["890490321"], &root);
    let below = eum("eum-sub", EIN, &above);
    let found = refusal(&euicc(&below), &[&below, &above], &root, Euicc);
    assert_eq!(found, Err((1, ChainReason::EidNotPermitted)));
    // Version 2 says it by name constraints, version 3 by the extension: neither stands for the other.
    let swapped: &'static [ExtensionRule] = Vec::leak(
        profile("eum-v3")
            .extensions
            .iter()
            .map(|rule| match rule.value {
                ExtensionValue::PermittedEins => {
                    ExtensionRule { critical: true, value: ExtensionValue::EumNameConstraints }
                }
                _ => *rule,
            })
            .collect(),
    );
    let wrong = CertificateProfile { extensions: swapped, ..*profile("eum-v3") };
    let key = new_key();
    let mut inputs = eum_inputs(&key);
    inputs.crl_urls = (0..2).map(|n| format!("http://ca.example.com/crl/{n}.crl")).collect();
    let maker = issue(&wrong, inputs, key, Some(&root));
    let found = refusal(&euicc(&maker), &[&maker], &root, Euicc);
    assert_eq!(found, Err((1, ChainReason::UnknownCriticalExtension("2.5.29.30".into()))));
}

#[test]
fn an_eim_has_no_policy_and_stands_for_nobody_else() {
    let root = ci();
    let key = new_key();
    let mut inputs = inputs(&key, 5);
    inputs.subject = SubjectValues {
        country: Some("SE".into()),
        common_name: Some("eim.example.com".into()),
        ..SubjectValues::default()
    };
    inputs.registered_id = Some("2.999.20".into());
    inputs.dns_name = Some("eim.example.com".into());
    let eim = issue(CertificateRole::EimTls.profile(), inputs, key, Some(&root)).certificate;
    assert_eq!(gsma_role(&eim), None);
    for role in CertificateRole::ALL {
        let found = refusal(&eim, &[], &root, role);
        assert_eq!(found.is_ok(), role == CertificateRole::EimTls, "{role}: {found:?}");
    }
}

#[test]
fn openssl_follows_the_chains_of_servers_and_reads_the_permitted_eins() {
    let files = Files::new("version-3");
    let root = ci();
    let sub = ca("ci-sub", &root);
    let dp = ca("dp-sub", &sub);
    let maker = eum("eum-v3", &["89049032", "8904901"], &sub);
    let anchor = files.write("ci.pem", root.certificate.pem().as_bytes());
    let between = [sub.certificate.pem(), dp.certificate.pem()].concat();
    let between = files.write("between.pem", between.as_bytes());
    for (name, issuer) in [("dpauth-v3", &dp), ("dptls-v3", &dp), ("dsauth-v3", &sub)] {
        let leaf = files.write(name, server(name, issuer).pem().as_bytes());
        let Some((accepted, text)) =
            openssl(&["verify", "-x509_strict", "-CAfile", &anchor, "-untrusted", &between, &leaf])
        else {
            return;
        };
        assert!(accepted, "{name}: {text}");
    }
    let file = files.write("eum.der", maker.certificate.der());
    let Some((_, text)) = openssl(&["asn1parse", "-inform", "DER", "-in", &file]) else { return };
    let at = text.find("2.23.146.1.2.2.0").unwrap();
    let after: Vec<_> = text[at..].lines().take(3).collect();
    assert!(after[1].contains("BOOLEAN"), "critical: {after:?}");
    // SEQUENCE OF PrintableString: "89049032", "8904901".
    assert!(after[2].contains("301313083839303439303332130738393034393031"), "{after:?}");
}
