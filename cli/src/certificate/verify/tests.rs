use clap::Parser;
use domain::RevocationReason;

use super::super::published::*;
use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    verify: Verify,
}

/// In the middle of every published certificate's validity.
const JUNE: &str = "2026-06-01T00:00:00Z";
/// The page that lists every finding.
const PAGE: &str = include_str!("../../../../docs/formats/certificate-verdict.md");

fn june() -> CivilTime {
    CivilTime::new(2026, 6, 1, 0, 0, 0).unwrap()
}

/// A file in a scratch folder.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }
}

fn at(name: &str) -> String {
    path(name).display().to_string()
}

fn verdict(file: &str, arguments: &[&str]) -> Verdict {
    let line = [&["verify", file][..], arguments].concat();
    let verdict = Line::try_parse_from(line).unwrap().verify.judge().unwrap();
    assert_eq!(verdict.verified, verdict.findings.is_empty());
    for finding in &verdict.findings {
        assert!(PAGE.contains(&format!("| `{}` |", finding.finding)), "{}", finding.finding);
        assert!(human(&verdict).contains(&format!("({})", finding.finding)));
    }
    verdict
}

/// The findings and the places in the chain that they tell of.
fn findings(file: &str, arguments: &[&str]) -> Vec<(&'static str, Option<usize>)> {
    verdict(file, arguments).findings.iter().map(|finding| (finding.finding, finding.depth)).collect()
}

#[test]
fn the_published_certificates_verify_in_the_role_of_their_policy() {
    for (name, ci, role, length) in [
        (CI, CI, "ci", 1),
        (EUM, CI, "eum", 2),
        (DP_AUTH, CI, "dpauth", 2),
        (DP_PB, CI, "dppb", 2),
        (DP_TLS, CI, "dptls", 2),
        (EUICC_2024, CI_2024, "euicc", 3),
    ] {
        let verdict = verdict(&at(name), &["--ci", &at(ci), "--chain", &at(EUM_2024), "--at", JUNE]);
        assert!(verdict.verified, "{verdict:?}");
        assert_eq!((verdict.role, verdict.chain.len()), (Some(role), length), "{name}");
        assert!(verdict.chain.iter().all(|link| link.revocation == "not-checked"));
    }
}

#[test]
fn pem_files_may_hold_several_authorities_and_words_before_a_certificate() {
    let scratch = Scratch::new();
    let both = [certificate(CI).pem(), certificate(CI_2024).pem()].concat();
    let roots = scratch.put("roots.pem", both.as_bytes());
    let leaf = format!("Subject: an eUICC\n{}", certificate(EUICC_2024).pem());
    let leaf = scratch.put("leaf.pem", leaf.as_bytes());
    let verdict = verdict(&leaf, &["--ci", &roots, "--chain", &at(EUM_2024), "--at", JUNE]);
    assert!(verdict.verified);
    assert_eq!(verdict.chain[0].eid.as_deref(), Some("89049032123451234512345678901235"));
}

#[test]
fn an_expired_certificate_is_refused_today_and_was_not_before() {
    let ci = at(CI);
    assert_eq!(findings(&at(DP_TLS), &["--ci", &ci]), [("expired", Some(0))]);
    assert_eq!(findings(&at(DP_TLS), &["--ci", &ci, "--at", "2026-08-02T13:14:38Z"]), []);
    let early = findings(&at(DP_TLS), &["--ci", &ci, "--at", "2025-06-30T13:14:37Z"]);
    assert_eq!(early, [("not-yet-valid", Some(0))]);
    // The eUICC outlives those above it by five thousand years.
    let late = ["--ci", &at(CI_2024), "--chain", &at(EUM_2024), "--at", "2060-01-01T00:00:00Z"];
    assert_eq!(findings(&at(EUICC_2024), &late), [("expired", Some(1))]);
}

#[test]
fn each_other_role_is_refused_for_a_reason_of_its_own() {
    let expected = [
        ("ci", "key-usage"),
        ("eum", "key-usage"),
        ("euicc", "policy"),
        ("dppb", "policy"),
        ("dptls", "policy"),
    ];
    for (role, finding) in expected {
        let found = findings(&at(DP_AUTH), &["--ci", &at(CI), "--at", JUNE, "--role", role]);
        assert_eq!(found, [(finding, Some(0))], "{role}");
    }
    let eim = findings(&at(EIM_SIGN_2024), &["--ci", &at(CI_2024), "--at", JUNE]);
    assert_eq!(eim, [("role-unknown", Some(0))]);
}

#[test]
fn a_missing_or_other_authority_is_told_apart() {
    let euicc = at(EUICC_2024);
    assert_eq!(findings(&euicc, &["--ci", &at(CI_2024), "--at", JUNE]), [("issuer-not-found", Some(0))]);
    let wrong = ["--ci", &at(DP_AUTH), "--chain", &at(EUM_2024), "--at", JUNE];
    assert_eq!(findings(&euicc, &wrong), [("issuer-not-found", Some(1))]);
    let other_root = findings(&at(CI_2024), &["--ci", &at(CI), "--at", JUNE]);
    assert_eq!(other_root, [("not-trusted", Some(0))]);
}

#[test]
fn a_changed_byte_breaks_the_signature_or_the_form_and_never_passes() {
    let scratch = Scratch::new();
    let original = std::fs::read(path(DP_PB)).unwrap();
    let name = original.windows(11).position(|bytes| bytes == b"TEST SM-DP+").unwrap();
    let mut renamed = original.clone();
    renamed[name] = b'B';
    let renamed = scratch.put("renamed.der", &renamed);
    assert_eq!(findings(&renamed, &["--ci", &at(CI), "--at", JUNE]), [("bad-signature", Some(0))]);
    let cut = scratch.put("cut.der", &original[..original.len() - 1]);
    assert_eq!(findings(&cut, &["--ci", &at(CI), "--at", JUNE]), [("malformed", Some(0))]);
    for place in (0..original.len()).step_by(7) {
        let mut changed = original.clone();
        changed[place] ^= 1;
        let file = scratch.put("changed.der", &changed);
        let role = ["--ci", &at(CI), "--at", JUNE, "--role", "dppb"];
        assert!(!verdict(&file, &role).verified, "byte {place}");
    }
}

#[test]
fn a_manufacturer_certifies_its_own_name_and_range_and_no_other() {
    let scratch = Scratch::new();
    let judged = |organization, eid| {
        let file = scratch.put("euicc.der", euicc(organization, eid).der());
        findings(&file, &["--ci", &at(CI_2024), "--chain", &at(EUM_2024), "--at", JUNE])
    };
    // The IIN is the beginning of the EID, not the whole of a subject's attribute.
    assert_eq!(judged("RSP Test EUM", "89049032123451234512345678901235"), []);
    let eid = judged("RSP Test EUM", "89882119900000000000000000000005");
    assert_eq!(eid, [("eid-not-permitted", Some(0))]);
    let organization = judged("RSP Test EUM Ltd", "89049032123451234512345678901235");
    assert_eq!(organization, [("organization-not-permitted", Some(0))]);
}

#[test]
fn a_revoked_certificate_is_refused_with_reason_and_time() {
    let scratch = Scratch::new();
    let list = list(june(), &[(&certificate(DP_PB), RevocationReason::KeyCompromise)]);
    for (name, bytes) in [("ci.crl", list.der().to_vec()), ("ci.pem", list.pem().into_bytes())] {
        let list = scratch.put(name, &bytes);
        let arguments = ["--ci", &at(CI), "--crl", &list, "--at", "2026-06-02T00:00:00Z"];
        let refused = verdict(&at(DP_PB), &arguments);
        assert_eq!(refused.findings.len(), 1);
        assert_eq!(refused.findings[0].finding, "revoked");
        let words = "it was revoked at 2026-06-01T00:00:00Z: key-compromise";
        assert_eq!(refused.findings[0].problem, words);
        let standings: Vec<_> = refused.chain.iter().map(|link| link.revocation).collect();
        assert_eq!(standings, ["revoked", "root"]);
        let good = verdict(&at(DP_AUTH), &arguments);
        let standings: Vec<_> = good.chain.iter().map(|link| link.revocation).collect();
        assert_eq!(standings, ["not-revoked", "root"]);
    }
}

#[test]
fn a_device_of_a_revoked_manufacturer_is_refused_at_the_manufacturer() {
    let scratch = Scratch::new();
    // The EUM kept its key from 2020 to 2024; its older certificate is below the older CI certificate.
    let chain = ["--ci", &at(CI), "--chain", &at(EUM)];
    for (revoked, expected) in [(true, vec![("revoked", Some(1))]), (false, vec![])] {
        let eum = certificate(EUM);
        let entries = [(&eum, RevocationReason::CaCompromise)];
        let list = list(june(), if revoked { &entries } else { &[] });
        let list = scratch.put("ci.crl", list.der());
        let arguments = [&chain[..], &["--crl", &list, "--at", JUNE]].concat();
        assert_eq!(findings(&at(EUICC_2024), &arguments), expected);
        if !revoked {
            let standings: Vec<_> =
                verdict(&at(EUICC_2024), &arguments).chain.iter().map(|link| link.revocation).collect();
            assert_eq!(standings, ["names-no-list", "not-revoked", "root"]);
        }
    }
}

#[test]
fn a_list_that_cannot_be_believed_or_is_not_current_is_refused() {
    let scratch = Scratch::new();
    let list = list(june(), &[]);
    let good = scratch.put("ci.crl", list.der());
    let judged = |list: &str, ci: &str, leaf: &str, time: &str| {
        findings(&at(leaf), &["--ci", &at(ci), "--crl", list, "--at", time])
    };
    assert_eq!(judged(&good, CI, DP_PB, "2026-05-31T23:59:59Z"), [("crl-not-yet-valid", None)]);
    assert_eq!(judged(&good, CI, DP_PB, "2026-07-01T00:00:00Z"), []);
    assert_eq!(judged(&good, CI, DP_PB, "2026-07-01T00:00:01Z"), [("crl-overdue", None)]);
    let mut changed = list.der().to_vec();
    let last = changed.len() - 1;
    changed[last] ^= 1;
    let changed = scratch.put("changed.crl", &changed);
    assert_eq!(judged(&changed, CI, DP_PB, JUNE), [("crl-bad-signature", None)]);
    let mut renamed = list.der().to_vec();
    let name = renamed.windows(7).position(|bytes| bytes == b"Test CI").unwrap();
    renamed[name] = b'B';
    let renamed = scratch.put("renamed.crl", &renamed);
    let found = judged(&renamed, CI, DP_PB, JUNE);
    assert_eq!(found, [("crl-issuer-differs", None), ("revocation-unknown", Some(0))]);
    let mut rekeyed = list.der().to_vec();
    let key = certificate(CI).subject_key_identifier().unwrap().to_vec();
    let place = rekeyed.windows(20).position(|bytes| bytes == key).unwrap();
    rekeyed[place] ^= 1;
    let rekeyed = scratch.put("rekeyed.crl", &rekeyed);
    assert_eq!(judged(&rekeyed, CI, DP_PB, JUNE), [("crl-issuer-key-differs", None)]);
}

#[test]
fn partners_must_both_hold_and_be_of_one_entity() {
    let ci = at(CI);
    let judged =
        |leaf: &str, pair: &str| findings(&at(leaf), &["--ci", &ci, "--at", JUNE, "--pair", &at(pair)]);
    assert_eq!(judged(DP_AUTH, DP_PB), []);
    assert_eq!(judged(DP_PB, DP_AUTH), []);
    assert_eq!(judged(DP_AUTH, DP_AUTH), [("policy", Some(0))]);
    let manufacturer = judged(DP_PB, EUM);
    assert_eq!(manufacturer, [("unknown-critical-extension", Some(0)), ("registered-id-differs", Some(0))]);
    let line = ["verify", &at(DP_TLS), "--ci", &ci, "--at", JUNE, "--pair", &at(DP_PB)];
    let error = Line::try_parse_from(line).unwrap().verify.judge().unwrap_err();
    assert_eq!(error.to_string(), "a dptls certificate has no partner");
}

#[test]
fn a_verdict_is_json_with_the_members_of_its_page() {
    let arguments = ["--ci", &at(CI), "--at", JUNE];
    let json = serde_json::to_value(verdict(&at(DP_PB), &arguments)).unwrap();
    for member in json.as_object().unwrap().keys() {
        assert!(PAGE.contains(&format!("| `{member}` |")), "{member}");
    }
    for member in json["chain"][0].as_object().unwrap().keys() {
        assert!(PAGE.contains(&format!("| `chain[].{member}` |")), "{member}");
    }
    let refused = verdict(&at(DP_PB), &["--ci", &at(CI_2024), "--role", "dptls", "--at", JUNE]);
    let json = serde_json::to_value(refused).unwrap();
    for member in json["findings"][0].as_object().unwrap().keys() {
        assert!(PAGE.contains(&format!("| `findings[].{member}` |")), "{member}");
    }
}
