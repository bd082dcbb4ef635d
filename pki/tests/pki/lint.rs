//! Bytes that differ from what the profile and the inputs give are never signed: each difference has its finding.

use crate::authority::new_key;
use crate::der::{content, hex, inside, tlv};
use crate::sgp26::{self, Published};
use pki::*;

/// The fields of a TBSCertificate by their place in RFC 5280 §4.1.
const VERSION: usize = 0;
const SERIAL: usize = 1;
const SIGNATURE: usize = 2;
const ISSUER: usize = 3;
const VALIDITY: usize = 4;
const SUBJECT: usize = 5;
const KEY: usize = 6;
const EXTENSIONS: usize = 7;

fn published(path: &str) -> Published {
    sgp26::all().into_iter().find(|published| published.path == path).unwrap()
}

/// The findings for the published bytes with the given fields changed.
fn findings(path: &str, change: impl FnOnce(&mut Vec<Vec<u8>>)) -> Vec<Finding> {
    let published = published(path);
    let tbs = build_tbs(published.profile, &published.inputs).unwrap();
    let mut fields = inside(tbs.bytes());
    change(&mut fields);
    lint_bytes(&published, tlv(0x30, &fields.concat()))
}

fn lint_bytes(published: &Published, bytes: Vec<u8>) -> Vec<Finding> {
    match lint(published.profile, &published.inputs, Tbs::from_der(bytes)) {
        Ok(_) => Vec::new(),
        Err(refused) => refused.findings,
    }
}

fn replaced(path: &str, field: usize, der: Vec<u8>) -> Vec<Finding> {
    findings(path, |fields| fields[field] = der)
}

/// The findings when the list of extensions is changed.
fn extensions(path: &str, change: impl FnOnce(&mut Vec<Vec<u8>>)) -> Vec<Finding> {
    findings(path, |fields| {
        let mut list = inside(&inside(&fields[EXTENSIONS])[0]);
        change(&mut list);
        fields[EXTENSIONS] = tlv(0xa3, &tlv(0x30, &list.concat()));
    })
}

/// The findings when the extension at `index` holds `value` instead.
fn value(path: &str, index: usize, value: &str) -> Vec<Finding> {
    extensions(path, |list| {
        let mut parts = inside(&list[index]);
        let last = parts.len() - 1;
        parts[last] = tlv(4, &hex(value));
        list[index] = tlv(0x30, &parts.concat());
    })
}

#[test]
fn unchanged_bytes_have_no_findings() {
    for published in sgp26::all() {
        assert_eq!(findings(published.path, |_| {}), [], "{}", published.path);
    }
}

#[test]
fn version_serial_number_and_algorithm_are_checked() {
    let eum = sgp26::EUM_2024;
    // A version 1 that says so is the default written out, and no DER.
    assert!(replaced(eum, VERSION, hex("a003020100")).contains(&Finding::Version));
    assert_eq!(replaced(eum, VERSION, hex("a003020101")), [Finding::Version]);
    assert_eq!(replaced(eum, SERIAL, hex("02020102")), [Finding::SerialNumberDiffers]);
    assert_eq!(replaced(eum, SERIAL, hex("020100")), [Finding::SerialNumber]);
    assert_eq!(replaced(eum, SERIAL, hex("02028101")), [Finding::SerialNumber]);
    assert_eq!(replaced(eum, SERIAL, hex("0203000101")), [Finding::NotDer, Finding::SerialNumber]);
    assert_eq!(replaced(eum, SERIAL, tlv(2, &[1; 21])), [Finding::SerialNumber]);
    assert_eq!(replaced(eum, SIGNATURE, hex("300a06082a8648ce3d040303")), [Finding::SignatureAlgorithm]);
    assert_eq!(replaced(eum, SIGNATURE, hex("300c06082a8648ce3d0403020500")), [Finding::SignatureAlgorithm]);
}

#[test]
fn the_issuer_is_compared_byte_for_byte() {
    let other = sgp26::certificate(sgp26::EUM_2020);
    assert_eq!(
        replaced(sgp26::DP_AUTH_2020, ISSUER, other.subject_name_der().to_vec()),
        [Finding::IssuerDiffers]
    );
    // The same text in another string type compares equal in RFC 5280 §7.1, and still is another name here.
    let issuer = hex::encode(sgp26::certificate(sgp26::EUM_2020).issuer_name_der());
    let retyped = issuer.replacen("0c0754657374204349", "130754657374204349", 1);
    assert_ne!(issuer, retyped);
    assert_eq!(replaced(sgp26::EUM_2020, ISSUER, hex(&retyped)), [Finding::IssuerDiffers]);
}

#[test]
fn a_root_names_itself_and_nobody_else_does() {
    let ci = sgp26::certificate(sgp26::CI_2020);
    let found = replaced(sgp26::EUM_2020, SUBJECT, ci.subject_name_der().to_vec());
    assert!(found.contains(&Finding::SelfIssue), "{found:?}");
    let eum = sgp26::certificate(sgp26::EUM_2020);
    let found = replaced(sgp26::CI_2020, ISSUER, eum.subject_name_der().to_vec());
    assert_eq!(found, [Finding::IssuerDiffers, Finding::SelfIssue]);
}

#[test]
fn times_must_be_those_asked_for_in_the_form_of_their_year() {
    use Bound::{NotAfter, NotBefore};
    let eum = sgp26::EUM_2024;
    let utc = |text: &str| tlv(0x17, text.as_bytes());
    let generalized = |text: &str| tlv(0x18, text.as_bytes());
    let with = |from: Vec<u8>, to: Vec<u8>| replaced(eum, VALIDITY, tlv(0x30, &[from, to].concat()));
    let (from, to) = (|| utc("240716095405Z"), || generalized("20580708095405Z"));
    assert_eq!(with(from(), to()), []);
    assert_eq!(with(utc("240716095406Z"), to()), [Finding::ValidityDiffers(NotBefore)]);
    assert_eq!(with(from(), generalized("20590708095405Z")), [Finding::ValidityDiffers(NotAfter)]);
    assert_eq!(with(generalized("20240716095405Z"), to()), [Finding::ValidityEncoding(NotBefore)]);
    let fraction = with(from(), generalized("20580708095405.0Z"));
    assert!(fraction.contains(&Finding::ValidityEncoding(NotAfter)) || fraction == [Finding::Unreadable]);
    let no_seconds = with(utc("2407160954Z"), to());
    assert!(!no_seconds.is_empty());
    let offset = with(utc("240716115405+0200"), to());
    assert!(!offset.is_empty());
    // UTCTime cannot say 2058: 58 is 1958.
    assert!(with(from(), utc("580708095405Z")).contains(&Finding::ValidityOrder));
    assert!(with(to(), from()).contains(&Finding::ValidityOrder));
}

#[test]
fn the_subject_has_the_profiles_attributes_in_their_order_and_types() {
    let euicc = sgp26::EUICC_2024;
    let rdns = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        findings(euicc, |fields| {
            let mut rdns = inside(&fields[SUBJECT]);
            change(&mut rdns);
            fields[SUBJECT] = tlv(0x30, &rdns.concat());
        })
    };
    let attributes = [Finding::SubjectAttributes, Finding::SubjectAttributes];
    assert_eq!(rdns(&|rdns| rdns.swap(2, 3)), attributes);
    assert_eq!(rdns(&|rdns| drop(rdns.remove(0))), [Finding::SubjectAttributes]);
    assert_eq!(rdns(&|rdns| rdns.push(rdns[3].clone())), [Finding::SubjectAttributes]);
    // Two attributes in one RDN.
    let joined = rdns(&|rdns| rdns[3] = tlv(0x31, &[content(&rdns[3]), content(&rdns[0])].concat()));
    assert_eq!(joined, [Finding::SubjectAttributes]);
    let retyped = |index: usize, from: u8, to: u8| {
        rdns(&|rdns| {
            let at = rdns[index].iter().position(|byte| *byte == from).unwrap();
            rdns[index][at] = to;
        })
    };
    assert_eq!(retyped(0, 0x13, 0x0c), [Finding::SubjectStringType("countryName")]);
    assert_eq!(retyped(3, 0x0c, 0x13), [Finding::SubjectStringType("commonName")]);
    let other_eid = rdns(&|rdns| *rdns[2].last_mut().unwrap() = b'6');
    assert_eq!(other_eid, [Finding::SubjectValue("serialNumber")]);
}

#[test]
fn the_subjects_key_is_the_one_asked_for_on_the_curve_and_not_the_issuers() {
    let euicc = sgp26::EUICC_2024;
    let found = replaced(euicc, KEY, new_key().spki());
    assert_eq!(found, [Finding::SubjectKeyDiffers, Finding::ExtensionValue("subjectKeyIdentifier")]);
    let found = findings(euicc, |fields| *fields[KEY].last_mut().unwrap() ^= 1);
    assert!(
        found.contains(&Finding::SubjectKey("the public key's point is not on its curve".into())),
        "{found:?}"
    );
    let found = findings(euicc, |fields| {
        // secp256k1 in the place of P-256.
        fields[KEY] = hex(&hex::encode(&fields[KEY])
            .replacen("301306072a8648ce3d020106082a8648ce3d030107", "301006072a8648ce3d020106052b8104000a", 1)
            .replacen("3059", "3056", 1));
    });
    assert!(
        found.contains(&Finding::SubjectKey("unsupported key: EC on curve 1.3.132.0.10".into())),
        "{found:?}"
    );

    let mut published = published(euicc);
    published.inputs.subject_spki = sgp26::certificate(sgp26::EUM_2024).spki().to_vec();
    let tbs = build_tbs(published.profile, &published.inputs).unwrap();
    assert_eq!(lint_bytes(&published, tbs.bytes().to_vec()), [Finding::SubjectKeyIsIssuers]);
}

#[test]
fn unique_identifiers_and_trailing_bytes_are_found() {
    let found = findings(sgp26::EUM_2024, |fields| fields.insert(EXTENSIONS, hex("81020001")));
    assert!(found.contains(&Finding::UniqueIdentifier), "{found:?}");
    let published = published(sgp26::EUM_2024);
    let mut bytes = build_tbs(published.profile, &published.inputs).unwrap().bytes().to_vec();
    bytes.push(0);
    let found = lint_bytes(&published, bytes);
    assert!(found.contains(&Finding::TrailingBytes), "{found:?}");
    assert_eq!(lint_bytes(&published, Vec::new()), [Finding::NotDer, Finding::Unreadable]);
}

#[test]
fn extensions_are_complete_in_order_once_and_no_others() {
    let eum = sgp26::EUM_2024;
    assert_eq!(extensions(eum, |list| list.swap(0, 1)), [Finding::ExtensionOrder]);
    assert_eq!(extensions(eum, |list| drop(list.remove(7))), [Finding::ExtensionMissing("nameConstraints")]);
    assert_eq!(extensions(eum, |list| drop(list.remove(2))), [Finding::ExtensionMissing("keyUsage")]);
    let found = extensions(eum, |list| list.push(list[5].clone()));
    assert!(found.contains(&Finding::ExtensionRepeated("2.5.29.19".into())), "{found:?}");
    let unknown = extensions(eum, |list| list.push(hex("300a06032a030404030c0141")));
    assert_eq!(unknown, [Finding::ExtensionUnexpected("1.2.3.4".into())]);
    let found = findings(eum, |fields| drop(fields.pop()));
    let missing = found.iter().filter(|finding| matches!(finding, Finding::ExtensionMissing(_))).count();
    assert_eq!(missing, 8);
    // A leaf that would be an authority.
    let found = extensions(sgp26::EUICC_2024, |list| list.push(hex("300f0603551d130101ff040530030101ff")));
    assert_eq!(found, [Finding::ExtensionUnexpected("2.5.29.19".into())]);
}

#[test]
fn criticality_is_that_of_the_profile_and_its_default_is_not_written() {
    let eum = sgp26::EUM_2024;
    let with = |index: usize, critical: Option<&str>| {
        extensions(eum, |list| {
            let mut parts = inside(&list[index]);
            parts.retain(|part| part[0] != 1);
            if let Some(critical) = critical {
                parts.insert(1, hex(critical));
            }
            list[index] = tlv(0x30, &parts.concat());
        })
    };
    assert_eq!(with(2, None), [Finding::ExtensionCriticality("keyUsage")]);
    assert_eq!(with(7, None), [Finding::ExtensionCriticality("nameConstraints")]);
    assert_eq!(with(1, Some("0101ff")), [Finding::ExtensionCriticality("subjectKeyIdentifier")]);
    assert_eq!(with(1, Some("010100")), [Finding::ExtensionEncoding("2.5.29.14".into())]);
    let found = with(2, Some("010101"));
    assert!(found.contains(&Finding::NotDer) || found.contains(&Finding::Unreadable), "{found:?}");
}

#[test]
fn each_extension_says_what_the_profile_and_the_inputs_give() {
    let eum = sgp26::EUM_2024;
    let wrong = |name| vec![Finding::ExtensionValue(name)];
    let encoded = |id: &str| Finding::ExtensionEncoding(id.into());
    let zeros = "00".repeat(20);
    // The order of CERT_EUM: AKI, SKI, key usage, policies, alternative names, basic constraints, CRLs, name constraints.
    assert_eq!(value(eum, 0, &format!("30168014{zeros}")), wrong("authorityKeyIdentifier"));
    assert_eq!(value(eum, 0, "3000"), wrong("authorityKeyIdentifier"));
    let with_serial = "301980 14f54172bdf98a95d65cbeb88a38a1c11d800a85c3 820101";
    assert_eq!(value(eum, 0, with_serial), wrong("authorityKeyIdentifier"));
    assert_eq!(value(eum, 1, &format!("0414{zeros}")), wrong("subjectKeyIdentifier"));
    assert_eq!(value(eum, 2, "03020106"), wrong("keyUsage"));
    assert_eq!(value(eum, 2, "03020780"), wrong("keyUsage"));
    // keyCertSign alone with a trailing zero bit too many.
    assert_eq!(value(eum, 2, "03020104"), wrong("keyUsage"));
    let unused_set = value(eum, 2, "03020205");
    assert!(unused_set.contains(&encoded("2.5.29.15")), "{unused_set:?}");
    assert_eq!(value(eum, 3, "300b3009060767811201020101"), wrong("certificatePolicies"));
    let two = "30163009060767811201020102 3009060767811201020101";
    assert_eq!(value(eum, 3, two), wrong("certificatePolicies"));
    assert_eq!(value(eum, 4, "30058803883706"), wrong("subjectAltName"));
    assert_eq!(value(eum, 4, "3009880388370582026162"), wrong("subjectAltName"));
    let empty = value(eum, 4, "3000");
    assert_eq!(empty, [Finding::ExtensionValue("subjectAltName"), encoded("2.5.29.17")]);
    assert_eq!(value(eum, 5, "30030101ff"), wrong("basicConstraints"));
    assert_eq!(value(eum, 5, "30060101ff020101"), wrong("basicConstraints"));
    assert_eq!(value(eum, 5, "3000"), wrong("basicConstraints"));
    let padded = value(eum, 5, "30070101ff02020000");
    assert!(padded.contains(&encoded("2.5.29.19")), "{padded:?}");
    let ca_as_01 = value(eum, 5, "3006010101020100");
    assert!(ca_as_01.contains(&encoded("2.5.29.19")), "{ca_as_01:?}");
    let url = |url: &str| {
        let name = tlv(0xa0, &tlv(0xa0, &tlv(0x86, url.as_bytes())));
        hex::encode(tlv(0x30, &tlv(0x30, &name)))
    };
    assert_eq!(value(eum, 6, &url("http://ci.test.example.com/CRL-2.crl")), []);
    assert_eq!(value(eum, 6, &url("http://ci.test.example.com/CRL-1.crl")), wrong("cRLDistributionPoints"));
    let trailing = value(eum, 6, &format!("{}0500", url("http://ci.test.example.com/CRL-2.crl")));
    assert!(trailing.contains(&encoded("2.5.29.31")), "{trailing:?}");

    let tls = sgp26::DP_TLS_2020;
    let (server, client) = ("06082b06010505070301", "06082b06010505070302");
    assert_eq!(value(tls, 1, &format!("3014{server}{client}")), []);
    assert_eq!(value(tls, 1, &format!("3014{client}{server}")), wrong("extKeyUsage"));
    assert_eq!(value(tls, 1, &format!("300a{server}")), wrong("extKeyUsage"));
    assert_eq!(value(tls, 1, &format!("301e{server}{client}06082b06010505070303")), wrong("extKeyUsage"));
}

#[test]
fn a_tag_of_another_class_or_form_is_found_although_lenient_readers_overlook_it() {
    let eum = sgp26::EUM_2024;
    // The policy's object identifier as [6], and the list of policies as [16].
    let policy = "300b3009 8607 67811201020102";
    assert_eq!(value(eum, 3, policy), [Finding::ExtensionEncoding("2.5.29.32".into())]);
    let list = "b00b3009 0607 67811201020102";
    assert_eq!(value(eum, 3, list), [Finding::ExtensionEncoding("2.5.29.32".into())]);
    assert_eq!(findings(eum, |fields| fields[VALIDITY][0] = 0xb0), [Finding::NotDer]);
    assert_eq!(findings(eum, |fields| fields[SIGNATURE][2] = 0x86), [Finding::NotDer]);
}

#[test]
fn name_constraints_permit_exactly_the_asked_pairs() {
    let eum = sgp26::EUM_2024;
    let subtree = |organization: &str, iin: &str| {
        let attribute = |oid: &str, tag, text: &str| {
            tlv(0x31, &tlv(0x30, &[tlv(6, &hex(oid)), tlv(tag, text.as_bytes())].concat()))
        };
        let name = [attribute("55040a", 0x0c, organization), attribute("550405", 0x13, iin)].concat();
        tlv(0x30, &tlv(0xa4, &tlv(0x30, &name)))
    };
    let with = |subtrees: &[u8]| value(eum, 7, &hex::encode(tlv(0x30, subtrees)));
    let permitted = tlv(0xa0, &subtree("RSP Test EUM", "89049032"));
    assert_eq!(with(&permitted), []);
    let wrong = [Finding::ExtensionValue("nameConstraints")];
    assert_eq!(with(&tlv(0xa0, &subtree("RSP Test EUM", "89049033"))), wrong);
    assert_eq!(with(&tlv(0xa0, &subtree("RSP Test EUN", "89049032"))), wrong);
    let more = [subtree("RSP Test EUM", "89049032"), subtree("RSP Test EUM", "89049033")].concat();
    assert_eq!(with(&tlv(0xa0, &more)), wrong);
    assert_eq!(with(&tlv(0xa1, &subtree("RSP Test EUM", "89049032"))), wrong);
    let both = [permitted, tlv(0xa1, &subtree("RSP Test EUM", "89049032"))].concat();
    assert_eq!(with(&both), wrong);
}

#[test]
fn bytes_for_other_inputs_are_refused_and_inputs_that_break_a_rule_too() {
    let mut published = published(sgp26::DP_AUTH_2020);
    let tbs = build_tbs(published.profile, &published.inputs).unwrap();
    let other = sgp26::all().into_iter().find(|published| published.path == sgp26::DP_PB_2020).unwrap();
    let refused = lint(other.profile, &other.inputs, tbs.clone()).unwrap_err();
    assert!(refused.findings.contains(&Finding::ExtensionValue("certificatePolicies")));
    assert!(refused.to_string().starts_with("the certificate breaks the profile dppb: "));
    published.inputs.registered_id = None;
    let refused = lint(published.profile, &published.inputs, tbs).unwrap_err();
    assert!(matches!(refused.findings[0], Finding::Inputs(_)));
}

/// The reader and the rules together leave no bit of a certificate free.
#[test]
fn any_changed_bit_of_any_published_certificate_has_a_finding() {
    let mut free = Vec::new();
    for published in sgp26::all() {
        let tbs = sgp26::certificate(published.path).tbs_der().to_vec();
        for at in 0..tbs.len() {
            for flip in (0..8).map(|bit| 1u8 << bit) {
                let mut bytes = tbs.clone();
                bytes[at] ^= flip;
                if lint_bytes(&published, bytes).is_empty() {
                    free.push(format!(
                        "{} at {at} ^ {flip:#04x}: was {:02x?}",
                        published.path,
                        &tbs[at - 3..at + 5]
                    ));
                }
            }
        }
    }
    assert_eq!(free, Vec::<String>::new());
}
