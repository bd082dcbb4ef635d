//! GSMA chain verification: published chains, and one chain for every rule that it breaks.

use crate::authority::*;
use crate::sgp26::{self, certificate, time};
use pki::chain::{ChainReason, ChainRefusal, check_same_entity, verify_chain};
use pki::*;

const NOW: &str = "20260601000000";

fn reason(
    leaf: &Certificate,
    intermediates: &[Certificate],
    roots: &[Certificate],
    role: CertificateRole,
) -> (usize, ChainReason) {
    let refusal = verify_chain(leaf, intermediates, roots, role, Some(time(NOW))).unwrap_err();
    (refusal.depth, refusal.reason)
}

#[test]
fn the_published_chains_verify_in_their_roles() {
    let ci = certificate(sgp26::CI_2024);
    let eum = certificate(sgp26::EUM_2024);
    let euicc = certificate(sgp26::EUICC_2024);
    let at = Some(time(NOW));
    let chain = verify_chain(
        &euicc,
        std::slice::from_ref(&eum),
        std::slice::from_ref(&ci),
        CertificateRole::Euicc,
        at,
    )
    .unwrap();
    assert_eq!(chain.certificates(), [euicc.clone(), eum.clone(), ci.clone()]);
    assert_eq!((chain.leaf(), chain.root(), chain.role()), (&euicc, &ci, CertificateRole::Euicc));
    verify_chain(&eum, &[], std::slice::from_ref(&ci), CertificateRole::Eum, at).unwrap();
    verify_chain(&ci, &[], std::slice::from_ref(&ci), CertificateRole::CertificateIssuer, at).unwrap();
    let ci = [certificate(sgp26::CI_2020)];
    for (path, role) in [
        (sgp26::DP_AUTH_2020, CertificateRole::DpAuth),
        (sgp26::DP_PB_2020, CertificateRole::DpPb),
        (sgp26::DP_TLS_2020, CertificateRole::DpTls),
        (sgp26::EUM_2020, CertificateRole::Eum),
    ] {
        verify_chain(&certificate(path), &[], &ci, role, at).unwrap();
    }
}

#[test]
fn several_certificates_of_one_ca_key_are_tolerated_and_any_may_carry_the_chain() {
    // The test CI and the test EUM kept their keys from 2020 to 2024.
    let (old_ci, new_ci) = (certificate(sgp26::CI_2020), certificate(sgp26::CI_2024));
    let (old_eum, new_eum) = (certificate(sgp26::EUM_2020), certificate(sgp26::EUM_2024));
    let euicc = certificate(sgp26::EUICC_2024);
    for roots in [vec![old_ci.clone()], vec![new_ci.clone()], vec![old_ci, new_ci]] {
        let chain = verify_chain(
            &euicc,
            &[old_eum.clone(), new_eum.clone()],
            &roots,
            CertificateRole::Euicc,
            Some(time(NOW)),
        );
        assert_eq!(chain.unwrap().root(), &roots[0]);
    }
    // Where one certificate of the key has run out, the other one carries the chain.
    let late = time("20560101000000");
    let chain = verify_chain(
        &euicc,
        &[old_eum, new_eum.clone()],
        &[certificate(sgp26::CI_2020), certificate(sgp26::CI_2024)],
        CertificateRole::Euicc,
        Some(late),
    )
    .unwrap();
    assert_eq!(chain.certificates()[1], new_eum);
    assert_eq!(chain.root(), &certificate(sgp26::CI_2024));
}

#[test]
fn each_certificate_passes_in_its_own_role_only() {
    let all = sgp26::all();
    let roots = [certificate(sgp26::CI_2020), certificate(sgp26::CI_2024)];
    let intermediates = [certificate(sgp26::EUM_2020), certificate(sgp26::EUM_2024)];
    for published in &all {
        for role in CertificateRole::ALL {
            let verified =
                verify_chain(&certificate(published.path), &intermediates, &roots, role, Some(time(NOW)));
            assert_eq!(verified.is_ok(), role == published.profile.role, "{} as {role}", published.path);
        }
    }
}

#[test]
fn validity_periods_are_checked_only_against_a_given_time() {
    let ci = [certificate(sgp26::CI_2020)];
    let tls = certificate(sgp26::DP_TLS_2020);
    let verify = |at: Option<CivilTime>| verify_chain(&tls, &[], &ci, CertificateRole::DpTls, at);
    verify(None).unwrap();
    // RFC 5280 §4.1.2.5: both ends belong to the period.
    verify(Some(tls.not_before())).unwrap();
    verify(Some(tls.not_after())).unwrap();
    let early = verify(Some(time("20250630131437"))).unwrap_err();
    assert_eq!(early, ChainRefusal { depth: 0, reason: ChainReason::NotYetValid });
    let late = verify(Some(time("20260802131439"))).unwrap_err();
    assert_eq!(late, ChainRefusal { depth: 0, reason: ChainReason::Expired });
    // The root, too: the eUICC outlives its CI by five thousand years.
    let refusal = verify_chain(
        &certificate(sgp26::EUICC_2024),
        &[certificate(sgp26::EUM_2024)],
        &[certificate(sgp26::CI_2024)],
        CertificateRole::Euicc,
        Some(time("20600101000000")),
    );
    assert_eq!(refusal.unwrap_err(), ChainRefusal { depth: 1, reason: ChainReason::Expired });
}

#[test]
fn an_unknown_issuer_and_an_untrusted_root_are_told_apart() {
    let (ci, other) = (ci(), ci());
    let key = new_key();
    let eum = issue(CertificateRole::Eum.profile(), eum_inputs(&key), key, Some(&ci)).certificate;
    let named = hex::encode(ci.certificate.subject_key_identifier().unwrap());
    let (depth, why) = reason(&eum, &[], std::slice::from_ref(&other.certificate), CertificateRole::Eum);
    assert_eq!((depth, why), (0, ChainReason::IssuerNotFound(named)));
    // A root among the intermediates is still no trusted root.
    let (depth, _) = reason(
        &eum,
        std::slice::from_ref(&ci.certificate),
        std::slice::from_ref(&other.certificate),
        CertificateRole::Eum,
    );
    assert_eq!(depth, 0);
    let found = reason(&ci.certificate, &[], &[other.certificate], CertificateRole::CertificateIssuer);
    assert_eq!(found, (0, ChainReason::NotTrusted));
}

#[test]
fn a_flipped_bit_anywhere_in_the_signature_is_found() {
    let ci = [certificate(sgp26::CI_2024)];
    let mut der = sgp26::vector(sgp26::EUM_2024);
    let last = der.len() - 1;
    der[last] ^= 1;
    let forged = Certificate::from_der(&der).unwrap();
    assert_eq!(reason(&forged, &[], &ci, CertificateRole::Eum), (0, ChainReason::BadSignature));
}

#[test]
fn too_many_candidates_are_not_looked_at() {
    let ci = certificate(sgp26::CI_2024);
    let many = vec![ci.clone(); 257];
    let eum = certificate(sgp26::EUM_2024);
    assert_eq!(reason(&eum, &many, &[ci], CertificateRole::Eum), (0, ChainReason::TooManyCandidates));
}

/// Copies a profile with other extensions; the table holds statics, so a test's variant is leaked.
fn variant(
    role: CertificateRole,
    change: impl FnOnce(&mut Vec<ExtensionRule>),
) -> &'static CertificateProfile {
    let profile = role.profile();
    let mut extensions = profile.extensions.to_vec();
    change(&mut extensions);
    Box::leak(Box::new(CertificateProfile { extensions: Vec::leak(extensions), ..*profile }))
}

fn without(name: &'static str) -> impl Fn(&mut Vec<ExtensionRule>) {
    move |extensions| extensions.retain(|rule| rule.value.as_str() != name)
}

fn with(value: ExtensionValue) -> impl Fn(&mut Vec<ExtensionRule>) {
    move |extensions| {
        let name = value.as_str();
        extensions.iter_mut().filter(|rule| rule.value.as_str() == name).for_each(|rule| rule.value = value);
    }
}

#[test]
fn an_euicc_that_breaks_a_rule_is_refused_for_that_rule() {
    let (root, key) = (ci(), new_key());
    let eum = issue(CertificateRole::Eum.profile(), eum_inputs(&key), key, Some(&root));
    let roots = [root.certificate.clone()];
    let eums = [eum.certificate.clone()];
    let refused = |profile: &CertificateProfile, change: &dyn Fn(&mut CertificateInputs)| {
        let key = new_key();
        let mut inputs = euicc_inputs(&key);
        change(&mut inputs);
        let euicc = issue(profile, inputs, key, Some(&eum)).certificate;
        reason(&euicc, &eums, &roots, CertificateRole::Euicc)
    };
    let euicc = CertificateRole::Euicc;
    let same = euicc.profile();
    let organization = |i: &mut CertificateInputs| i.subject.organization = Some("Maker AG".into());
    assert_eq!(refused(same, &organization), (0, ChainReason::OrganizationNotPermitted));
    let eid = |i: &mut CertificateInputs| {
        i.subject.eid = Some("89882119900000000000000000000005".parse().unwrap());
    };
    assert_eq!(refused(same, &eid), (0, ChainReason::EidNotPermitted));
    let nothing = |_: &mut CertificateInputs| {};
    let usage = variant(euicc, without("keyUsage"));
    assert_eq!(refused(usage, &nothing), (0, ChainReason::KeyUsage));
    let usage = variant(
        euicc,
        with(ExtensionValue::KeyUsage(&[KeyUsageBit::DigitalSignature, KeyUsageBit::KeyCertSign])),
    );
    assert_eq!(refused(usage, &nothing), (0, ChainReason::KeyUsage));
    let policy = variant(euicc, with(ExtensionValue::CertificatePolicies(&[&[2, 23, 146, 1, 2, 1, 2]])));
    assert_eq!(refused(policy, &nothing), (0, ChainReason::Policy));
    let policy = variant(euicc, without("certificatePolicies"));
    assert_eq!(refused(policy, &nothing), (0, ChainReason::Policy));
    let authority = variant(euicc, |extensions| {
        extensions.push(ExtensionRule {
            critical: true,
            value: ExtensionValue::CertificateAuthority { path_length: None },
        });
    });
    assert_eq!(refused(authority, &nothing), (0, ChainReason::IsAnAuthority));
    let unknown = variant(euicc, |extensions| {
        extensions.push(ExtensionRule {
            critical: true,
            value: ExtensionValue::CrlDistributionPoints { count: 1 },
        });
    });
    let url = |i: &mut CertificateInputs| i.crl_urls = vec!["http://a.example/".into()];
    assert_eq!(refused(unknown, &url), (0, ChainReason::UnknownCriticalExtension("2.5.29.31".into())));
    let orphan = variant(euicc, without("authorityKeyIdentifier"));
    assert_eq!(refused(orphan, &nothing), (0, ChainReason::NoAuthorityKeyIdentifier));
}

#[test]
fn an_euicc_without_an_eid_is_refused() {
    let (root, key) = (ci(), new_key());
    let eum = issue(CertificateRole::Eum.profile(), eum_inputs(&key), key, Some(&root));
    let nameless = Box::leak(Box::new(CertificateProfile {
        subject: CertificateRole::Eum.profile().subject,
        extensions: CertificateRole::Euicc.profile().extensions,
        ..*variant(CertificateRole::Euicc, |_| {})
    }));
    let key = new_key();
    let mut inputs = euicc_inputs(&key);
    inputs.subject.eid = None;
    let euicc = issue(nameless, inputs, key, Some(&eum)).certificate;
    let found = reason(&euicc, &[eum.certificate], &[root.certificate], CertificateRole::Euicc);
    assert_eq!(found, (0, ChainReason::EidMissing));
}

#[test]
fn an_eum_that_breaks_a_rule_takes_its_euiccs_down() {
    let root = ci();
    let eum_with = |profile: &CertificateProfile, change: &dyn Fn(&mut CertificateInputs)| {
        let key = new_key();
        let mut inputs = eum_inputs(&key);
        change(&mut inputs);
        let eum = issue(profile, inputs, key, Some(&root));
        let key = new_key();
        let euicc = issue(CertificateRole::Euicc.profile(), euicc_inputs(&key), key, Some(&eum)).certificate;
        reason(&euicc, &[eum.certificate], std::slice::from_ref(&root.certificate), CertificateRole::Euicc)
    };
    let eum = CertificateRole::Eum;
    let nothing = |_: &mut CertificateInputs| {};
    let unconstrained = |i: &mut CertificateInputs| i.permitted.clear();
    assert_eq!(
        eum_with(variant(eum, without("nameConstraints")), &unconstrained),
        (0, ChainReason::NameConstraintsMissing)
    );
    let path = variant(eum, with(ExtensionValue::CertificateAuthority { path_length: Some(1) }));
    assert_eq!(eum_with(path, &nothing), (1, ChainReason::PathLength));
    let path = variant(eum, with(ExtensionValue::CertificateAuthority { path_length: None }));
    assert_eq!(eum_with(path, &nothing), (1, ChainReason::PathLength));
    assert_eq!(
        eum_with(variant(eum, without("basicConstraints")), &nothing),
        (1, ChainReason::NotAnAuthority)
    );
    let usage = variant(eum, with(ExtensionValue::KeyUsage(&[KeyUsageBit::DigitalSignature])));
    assert_eq!(eum_with(usage, &nothing), (1, ChainReason::KeyUsage));
    let policy = variant(eum, with(ExtensionValue::CertificatePolicies(&[&[2, 23, 146, 1, 2, 1, 1]])));
    assert_eq!(eum_with(policy, &nothing), (1, ChainReason::Policy));
    let other = |i: &mut CertificateInputs| i.permitted = vec![("Maker".into(), "89049033".into())];
    assert_eq!(eum_with(eum.profile(), &other), (0, ChainReason::EidNotPermitted));
    // The IIN counts only together with its own organisation.
    let crossed = |i: &mut CertificateInputs| {
        i.permitted = vec![("Maker".into(), "89049033".into()), ("Other".into(), "89049032".into())];
    };
    assert_eq!(eum_with(eum.profile(), &crossed), (0, ChainReason::EidNotPermitted));
    let expired = |i: &mut CertificateInputs| i.not_after = time("20260201000000");
    assert_eq!(eum_with(eum.profile(), &expired), (1, ChainReason::Expired));
}

#[test]
fn a_dp_tls_certificate_needs_both_purposes() {
    let root = ci();
    let key = new_key();
    let mut inputs = dp_inputs(&key, "2.999.10");
    inputs.dns_name = inputs.subject.common_name.clone();
    let profile = variant(
        CertificateRole::DpTls,
        with(ExtensionValue::ExtendedKeyUsage(&[Purpose::ServerAuthentication])),
    );
    let tls = issue(profile, inputs, key, Some(&root)).certificate;
    let found = reason(&tls, &[], &[root.certificate], CertificateRole::DpTls);
    assert_eq!(found, (0, ChainReason::ExtendedKeyUsage));
}

#[test]
fn auth_and_binding_certificates_belong_together_by_their_registered_identifier() {
    let (auth, binding) = (certificate(sgp26::DP_AUTH_2020), certificate(sgp26::DP_PB_2020));
    check_same_entity(&auth, &binding).unwrap();
    let root = ci();
    let key = new_key();
    let stranger =
        issue(CertificateRole::DpPb.profile(), dp_inputs(&key, "2.999.11"), key, Some(&root)).certificate;
    let refusal = check_same_entity(&auth, &stranger).unwrap_err();
    assert_eq!(refusal, ChainRefusal { depth: 1, reason: ChainReason::RegisteredIdDiffers });
    let refusal = check_same_entity(&certificate(sgp26::EUICC_2024), &binding).unwrap_err();
    assert_eq!(refusal, ChainRefusal { depth: 0, reason: ChainReason::NoRegisteredId });
}

#[test]
fn operator_certificates_verify_under_the_operator_ca_and_never_under_the_ci() {
    let key = new_key();
    let mut root_inputs = inputs(&key, 9);
    root_inputs.subject.common_name = Some("Operator CA".into());
    let operator = issue(CertificateRole::OperatorRoot.profile(), root_inputs, key, None);
    let client = |issuer: &Holder| {
        let key = new_key();
        let mut inputs = inputs(&key, 10);
        inputs.subject.common_name = Some("ada".into());
        inputs.subject.organizational_unit = Some("officer".into());
        issue(CertificateRole::OperatorClient.profile(), inputs, key, Some(issuer)).certificate
    };
    let roots = [operator.certificate.clone()];
    let role = CertificateRole::OperatorClient;
    let chain = verify_chain(&client(&operator), &[], &roots, role, Some(time(NOW))).unwrap();
    assert_eq!(chain.leaf().organizational_unit().as_deref(), Some("officer"));
    assert_eq!(
        reason(&client(&operator), &[], &roots, CertificateRole::OperatorServer),
        (0, ChainReason::ExtendedKeyUsage)
    );
    let ci = ci();
    let (depth, why) = reason(&client(&ci), &[], std::slice::from_ref(&ci.certificate), role);
    assert_eq!((depth, why), (1, ChainReason::UnknownCriticalExtension("2.5.29.32".into())));
}

#[test]
fn a_certificate_issuer_that_another_certified_is_followed_one_step_and_no_further() {
    let old = ci();
    let next = |name: &str, above: &Holder| {
        let key = new_key();
        let mut inputs = inputs(&key, 7);
        inputs.subject = SubjectValues {
            common_name: Some(name.into()),
            organizational_unit: Some("Tests".into()),
            organization: Some("Regulator".into()),
            country: Some("SE".into()),
            eid: None,
        };
        inputs.registered_id = Some("2.999.1".into());
        inputs.crl_urls = ["a", "b"].map(|point| format!("http://ca.example.com/crl/{point}.crl")).into();
        issue(CertificateRole::CrossCertificate.profile(), inputs, key, Some(above))
    };
    let new = next("Sea CI 2", &old);
    let key = new_key();
    let leaf =
        issue(CertificateRole::DpPb.profile(), dp_inputs(&key, "2.999.10"), key, Some(&new)).certificate;
    let roots = std::slice::from_ref(&old.certificate);
    let chain =
        verify_chain(&leaf, std::slice::from_ref(&new.certificate), roots, CertificateRole::DpPb, None)
            .unwrap();
    assert_eq!(chain.certificates(), [leaf.clone(), new.certificate.clone(), old.certificate.clone()]);
    assert!(verify_chain(&leaf, &[], roots, CertificateRole::DpPb, None).is_err());
    assert_eq!(pki::chain::gsma_role(&new.certificate), Some(CertificateRole::CertificateIssuer));

    let newer = next("Sea CI 3", &new);
    let key = new_key();
    let far =
        issue(CertificateRole::DpPb.profile(), dp_inputs(&key, "2.999.10"), key, Some(&newer)).certificate;
    let between = [newer.certificate, new.certificate];
    assert!(verify_chain(&far, &between, roots, CertificateRole::DpPb, None).is_err());
}
