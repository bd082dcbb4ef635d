//! Revocation lists: the bytes, their lint, their reader, and OpenSSL as the judge of all three.

use crate::authority::*;
use crate::der::{hex, inside, tlv};
use crate::openssl::{Files, openssl};
use crate::sgp26::time;
use domain::RevocationReason;
use pki::crl::{
    CRL_BYTES_MAX, Crl, CrlFinding, CrlInputs, CrlScope, RevokedCertificate, TbsCertList, build_tbs, lint,
};
use pki::{Certificate, CertificateRole, PkiError, SerialNumber, key_identifier};

/// The fields of a TBSCertList by their place in RFC 5280 §5.1.
const VERSION: usize = 0;
const SIGNATURE: usize = 1;
const ISSUER: usize = 2;
const THIS_UPDATE: usize = 3;
const NEXT_UPDATE: usize = 4;
const REVOKED: usize = 5;
const EXTENSIONS: usize = 6;

fn entry(serial: &[u8], reason: RevocationReason) -> RevokedCertificate {
    RevokedCertificate {
        serial: SerialNumber::from_bytes(serial).unwrap(),
        revoked_at: time("20260301120000"),
        reason,
        invalid_since: None,
        expires: None,
    }
}

/// Three entries, not in order: 0x0200, 0x05 and 0xff.
fn inputs(issuer: &Certificate) -> CrlInputs<'_> {
    CrlInputs {
        issuer,
        number: 300,
        this_update: time("20260302000000"),
        next_update: time("20260309000000"),
        revoked: vec![
            entry(&[2, 0], RevocationReason::KeyCompromise),
            entry(&[5], RevocationReason::Unspecified),
            entry(&[0xff], RevocationReason::PrivilegeWithdrawn),
        ],
        removed: Vec::new(),
        scope: CrlScope::default(),
    }
}

fn make(ci: &Holder, inputs: &CrlInputs<'_>) -> Crl {
    let linted = lint(inputs, build_tbs(inputs).unwrap()).unwrap();
    let signature = ci.key.sign_plain(linted.bytes()).unwrap();
    linted.assemble(&signature, &ci.certificate).unwrap()
}

/// The findings for the bytes with their fields changed.
fn findings(change: impl FnOnce(&mut Vec<Vec<u8>>)) -> Vec<CrlFinding> {
    let ci = ci();
    let inputs = inputs(&ci.certificate);
    let mut fields = inside(build_tbs(&inputs).unwrap().bytes());
    change(&mut fields);
    lint_bytes(&inputs, tlv(0x30, &fields.concat()))
}

fn lint_bytes(inputs: &CrlInputs<'_>, bytes: Vec<u8>) -> Vec<CrlFinding> {
    lint(inputs, TbsCertList::from_der(bytes)).map_or_else(|refused| refused.findings, |_| Vec::new())
}

fn replaced(field: usize, der: &str) -> Vec<CrlFinding> {
    findings(|fields| fields[field] = hex(der))
}

fn entries(change: impl FnOnce(&mut Vec<Vec<u8>>)) -> Vec<CrlFinding> {
    findings(|fields| {
        let mut list = inside(&fields[REVOKED]);
        change(&mut list);
        fields[REVOKED] = tlv(0x30, &list.concat());
    })
}

fn extensions(change: impl FnOnce(&mut Vec<Vec<u8>>)) -> Vec<CrlFinding> {
    findings(|fields| {
        let mut list = inside(&inside(&fields[EXTENSIONS])[0]);
        change(&mut list);
        fields[EXTENSIONS] = tlv(0xa0, &tlv(0x30, &list.concat()));
    })
}

/// `serial` is a whole INTEGER, `rest` what follows the time.
fn der_entry(serial: &str, rest: &str) -> Vec<u8> {
    tlv(0x30, &[hex(serial), tlv(0x17, b"260301120000Z"), hex(rest)].concat())
}

#[test]
fn a_list_is_written_as_rfc_5280_says_byte_for_byte() {
    let ci = ci();
    let tbs = build_tbs(&inputs(&ci.certificate)).unwrap();
    let key_identifier = key_identifier(ci.certificate.spki()).unwrap();
    let reason = |code: &str| format!("300c300a0603551d1504030a01{code}");
    let expected = tlv(
        0x30,
        &[
            hex("020101"),
            hex("300a06082a8648ce3d040302"),
            ci.certificate.subject_name_der().to_vec(),
            tlv(0x17, b"260302000000Z"),
            tlv(0x17, b"260309000000Z"),
            tlv(
                0x30,
                &[
                    der_entry("020105", ""),
                    der_entry("020200ff", &reason("09")),
                    der_entry("02020200", &reason("01")),
                ]
                .concat(),
            ),
            tlv(
                0xa0,
                &tlv(
                    0x30,
                    &[
                        hex("301f0603551d230418301680 14".replace(' ', "").as_str()),
                        key_identifier.to_vec(),
                        hex("300b0603551d1404040202012c"),
                    ]
                    .concat(),
                ),
            ),
        ]
        .concat(),
    );
    assert_eq!(hex::encode(tbs.bytes()), hex::encode(expected));
}

#[test]
fn a_list_without_entries_has_no_list_of_entries() {
    let ci = ci();
    let inputs = CrlInputs { revoked: Vec::new(), ..inputs(&ci.certificate) };
    assert_eq!(inside(build_tbs(&inputs).unwrap().bytes()).len(), 6);
    assert!(make(&ci, &inputs).revoked().is_empty());
}

#[test]
fn a_list_reads_back_and_finds_what_is_on_it() {
    let ci = ci();
    let crl = make(&ci, &inputs(&ci.certificate));
    for read in [Crl::parse(crl.der()).unwrap(), Crl::parse(crl.pem().as_bytes()).unwrap()] {
        assert_eq!(read, crl);
        read.verify(&ci.certificate).unwrap();
    }
    assert_eq!(crl.number(), Some(300));
    let find = |serial: &[u8]| crl.find(&SerialNumber::from_bytes(serial).unwrap());
    assert_eq!(find(&[5]).unwrap().reason, RevocationReason::Unspecified);
    assert_eq!(find(&[2, 0]).unwrap().reason, RevocationReason::KeyCompromise);
    assert_eq!(find(&[0xff]).unwrap().revoked_at, time("20260301120000"));
    assert_eq!(find(&[2]), None);
    assert_eq!(find(&[2, 0, 0]), None);
    assert!(crl.is_current(time("20260302000000")) && crl.is_current(time("20260309000000")));
    assert!(!crl.is_current(time("20260301235959")) && !crl.is_current(time("20260309000001")));
}

#[test]
fn a_list_of_another_issuer_or_signed_by_another_key_does_not_verify() {
    let (ci, other) = (ci(), ci());
    let inputs = inputs(&ci.certificate);
    let crl = make(&ci, &inputs);
    // The same name, another key.
    assert!(matches!(crl.verify(&other.certificate), Err(PkiError::IssuerKeyDiffers)));
    let key = new_key();
    let eum = issue(CertificateRole::Eum.profile(), eum_inputs(&key), key, Some(&ci));
    assert!(matches!(crl.verify(&eum.certificate), Err(PkiError::CrlIssuerDiffers)));

    let linted = || lint(&inputs, build_tbs(&inputs).unwrap()).unwrap();
    let signature = other.key.sign_plain(linted().bytes()).unwrap();
    assert!(matches!(linted().assemble(&signature, &ci.certificate), Err(PkiError::SignatureInvalid)));
    let mut damaged = crl.der().to_vec();
    let at = damaged.len() - crl.signature().len() - 30;
    damaged[at] ^= 1;
    assert!(Crl::parse(&damaged).is_err() || Crl::parse(&damaged).unwrap().verify(&ci.certificate).is_err());
}

#[test]
fn who_may_not_sign_lists_gets_none() {
    let ci = ci();
    let key = new_key();
    let eum = issue(CertificateRole::Eum.profile(), eum_inputs(&key), key, Some(&ci));
    let inputs = inputs(&eum.certificate);
    assert_eq!(lint_bytes(&inputs, build_tbs(&inputs).unwrap().bytes().to_vec()), [CrlFinding::IssuerMayNot]);
    assert!(ci.certificate.may_sign_crls() && ci.certificate.names_crls());
    assert!(!eum.certificate.may_sign_crls() && eum.certificate.names_crls());
}

#[test]
fn unchanged_bytes_have_no_findings() {
    assert_eq!(findings(|_| {}), []);
    assert_eq!(extensions(|_| {}), []);
    assert_eq!(entries(|list| list[0] = der_entry("020105", "")), []);
}

#[test]
fn head_and_times_are_checked() {
    assert_eq!(replaced(VERSION, "020100"), [CrlFinding::Version]);
    assert!(!findings(|fields| drop(fields.remove(VERSION))).is_empty());
    assert_eq!(replaced(SIGNATURE, "300a06082a8648ce3d040303"), [CrlFinding::SignatureAlgorithm]);
    assert_eq!(replaced(SIGNATURE, "300c06082a8648ce3d0403020500"), [CrlFinding::SignatureAlgorithm]);
    let other = crate::sgp26::certificate(crate::sgp26::EUM_2020).subject_name_der().to_vec();
    assert_eq!(findings(|fields| fields[ISSUER] = other), [CrlFinding::IssuerDiffers]);

    let time = |tag, text: &str, field: usize| findings(|fields| fields[field] = tlv(tag, text.as_bytes()));
    assert_eq!(time(0x17, "260309000001Z", NEXT_UPDATE), [CrlFinding::TimeDiffers]);
    assert_eq!(time(0x18, "20260302000000Z", THIS_UPDATE), [CrlFinding::TimeEncoding]);
    assert_eq!(
        time(0x17, "260302000000Z", NEXT_UPDATE),
        [CrlFinding::TimeDiffers, CrlFinding::TimeOrder],
        "nextUpdate equals thisUpdate"
    );
    assert!(findings(|fields| drop(fields.remove(NEXT_UPDATE))).contains(&CrlFinding::TimeDiffers));
}

#[test]
fn the_times_of_a_list_change_their_form_between_2049_and_2050() {
    let ci = ci();
    let mut inputs = inputs(&ci.certificate);
    inputs.this_update = time("20491231235959");
    inputs.next_update = time("20500101000000");
    let digits = hex::encode(build_tbs(&inputs).unwrap().bytes());
    let expected = format!("170d{}180f{}", hex::encode("491231235959Z"), hex::encode("20500101000000Z"));
    assert!(digits.contains(&expected));
    // Beyond the issuer's own end, so it is not signed.
    assert_eq!(
        lint_bytes(&inputs, build_tbs(&inputs).unwrap().bytes().to_vec()),
        [CrlFinding::IssuerValidity]
    );
}

#[test]
fn entries_must_be_those_asked_for_in_order_and_once() {
    let serial = |octets: &[u8]| SerialNumber::from_bytes(octets).unwrap();
    assert_eq!(entries(|list| list.swap(0, 1)), [CrlFinding::EntryOrder, CrlFinding::EntriesDiffer]);
    assert_eq!(
        entries(|list| list[1] = list[0].clone()),
        [CrlFinding::EntryRepeated(serial(&[5])), CrlFinding::EntriesDiffer]
    );
    assert_eq!(entries(|list| drop(list.pop())), [CrlFinding::EntriesDiffer]);
    assert_eq!(entries(|list| list.push(der_entry("02020201", ""))), [CrlFinding::EntriesDiffer]);
    assert_eq!(entries(|list| list[0] = der_entry("020106", "")), [CrlFinding::EntriesDiffer]);
    assert!(entries(|list| list[0] = der_entry("020100", "")).contains(&CrlFinding::SerialNumber));
    assert!(entries(|list| list[0] = der_entry("0201ff", "")).contains(&CrlFinding::SerialNumber));
    assert!(entries(|list| list[0] = der_entry("02020005", "")).contains(&CrlFinding::NotDer));
    let long = format!("0215{}", "01".repeat(21));
    assert!(entries(|list| list.push(der_entry(&long, ""))).contains(&CrlFinding::SerialNumber));
    assert!(findings(|fields| fields[REVOKED] = hex("3000")).contains(&CrlFinding::EmptyList));
    assert!(findings(|fields| drop(fields.remove(REVOKED))).contains(&CrlFinding::EntriesDiffer));

    // Inputs that ask for the same certificate twice, or for one that is revoked tomorrow.
    let ci = ci();
    let mut twice = inputs(&ci.certificate);
    twice.revoked.push(twice.revoked[0].clone());
    let found = lint_bytes(&twice, build_tbs(&twice).unwrap().bytes().to_vec());
    assert_eq!(found, [CrlFinding::EntryRepeated(serial(&[2, 0]))]);
    let mut later = inputs(&ci.certificate);
    later.revoked[1].revoked_at = time("20260302000001");
    let found = lint_bytes(&later, build_tbs(&later).unwrap().bytes().to_vec());
    assert_eq!(found, [CrlFinding::RevokedLater(serial(&[5]))]);
}

#[test]
fn an_entry_says_a_reason_that_is_one_or_nothing() {
    let finding = CrlFinding::EntryExtension(SerialNumber::from_bytes(&[5]).unwrap());
    let entry = |rest: &str| entries(|list| list[0] = der_entry("020105", rest));
    for (what, rest) in [
        ("unspecified, written", "300c300a0603551d1504030a0100"),
        ("critical", "300f300d0603551d150101ff04030a0101"),
        ("two reasons", "3018300a0603551d1504030a0101300a0603551d1504030a0101"),
        ("an INTEGER", "300c300a0603551d150403020101"),
        ("another extension", "300c300a0603551d1404030a0101"),
        (
            "the date before the reason",
            "302630180603551d180411180f32303236303232383132303030305a300a0603551d1504030a0101",
        ),
        ("a date in UTCTime", "301830160603551d18040f170d3236303232383132303030305a"),
        ("a critical date", "301d301b0603551d180101ff0411180f32303236303232383132303030305a"),
        (
            "two dates",
            "303430180603551d180411180f32303236303232383132303030305a30180603551d180411180f32303236303232383132303030305a",
        ),
    ] {
        assert!(entry(rest).contains(&finding), "{what}: {:?}", entry(rest));
    }
    assert!(entry("3000").contains(&CrlFinding::NotDer), "an empty list of extensions");
    for other in [
        "300c300a0603551d1504030a0101",
        "300c300a0603551d1504030a0106",
        // removeFromCRL, of delta lists.
        "300c300a0603551d1504030a0108",
        "3026300a0603551d1504030a010130180603551d180411180f32303236303232383132303030305a",
        "301a30180603551d180411180f32303236303232383132303030305a",
    ] {
        assert_eq!(entry(other), [CrlFinding::EntriesDiffer], "another reason or date");
    }
}

#[test]
fn a_hold_and_the_date_since_when_a_key_is_in_other_hands_are_written_and_read() {
    let ci = ci();
    let mut inputs = inputs(&ci.certificate);
    inputs.revoked[0].reason = RevocationReason::CertificateHold;
    inputs.revoked[1].invalid_since = Some(time("20260228120000"));
    inputs.revoked[2].reason = RevocationReason::Unspecified;
    inputs.revoked[2].invalid_since = Some(time("20260101000000"));
    let crl = make(&ci, &inputs);
    for entry in &inputs.revoked {
        assert_eq!(crl.find(&entry.serial), Some(entry));
    }
}

#[test]
fn extensions_are_the_issuers_key_and_the_number() {
    let value = |index: usize, oid: &str, value: &str| {
        extensions(|list| list[index] = tlv(0x30, &[hex(oid), tlv(4, &hex(value))].concat()))
    };
    let (aki, number) = ("0603551d23", "0603551d14");
    assert_eq!(
        value(0, aki, &format!("30168014{}", "07".repeat(20))),
        [CrlFinding::ExtensionValue("authorityKeyIdentifier")]
    );
    assert_eq!(value(1, number, "02020100"), [CrlFinding::ExtensionValue("cRLNumber")]);
    assert_eq!(value(1, number, "020100"), [CrlFinding::Number]);
    assert_eq!(value(1, number, &format!("0215{}", "01".repeat(21))), [CrlFinding::Number]);
    for (what, octets) in [("negative", "0201ff"), ("not minimal", "02020001"), ("no INTEGER", "040101")] {
        assert!(!value(1, number, octets).is_empty(), "{what}");
    }
    assert_eq!(
        extensions(|list| drop(list.remove(0))),
        [CrlFinding::ExtensionMissing("authorityKeyIdentifier")]
    );
    assert_eq!(extensions(|list| drop(list.remove(1))), [CrlFinding::ExtensionMissing("cRLNumber")]);
    assert_eq!(extensions(|list| list.swap(0, 1)), [CrlFinding::ExtensionOrder]);
    assert_eq!(
        extensions(|list| list.push(list[1].clone())),
        [CrlFinding::ExtensionUnexpected("2.5.29.20".into())]
    );
    let delta = hex("300d0603551d1b0101ff0403020101");
    assert_eq!(extensions(|list| list.push(delta)), [CrlFinding::ExtensionUnexpected("2.5.29.27".into())]);
    let critical = hex("300e0603551d140101ff04040202012c");
    assert_eq!(extensions(|list| list[1] = critical), [CrlFinding::ExtensionCritical("cRLNumber")]);
    assert!(findings(|fields| drop(fields.pop())).contains(&CrlFinding::NotDer));
}

#[test]
fn trailing_bytes_are_never_signed() {
    let ci = ci();
    let inputs = inputs(&ci.certificate);
    let bytes = [build_tbs(&inputs).unwrap().bytes(), &[5, 0]].concat();
    assert!(lint_bytes(&inputs, bytes).contains(&CrlFinding::TrailingBytes));
}

/// A list with these bytes and a signature of the right form that is none.
fn unsigned(tbs: Vec<u8>) -> Vec<u8> {
    let algorithm = hex("300a06082a8648ce3d040302");
    tlv(0x30, &[tbs, algorithm, hex("03090030060201010201 01".replace(' ', "").as_str())].concat())
}

#[test]
fn a_list_that_is_not_understood_is_not_read() {
    let ci = ci();
    let inputs = inputs(&ci.certificate);
    let fields = inside(build_tbs(&inputs).unwrap().bytes());
    let read = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut fields = fields.clone();
        change(&mut fields);
        Crl::parse(&unsigned(tlv(0x30, &fields.concat())))
    };
    let with_extension = |extension: &str| {
        read(&|fields: &mut Vec<Vec<u8>>| {
            let list = [inside(&inside(&fields[EXTENSIONS])[0]).concat(), hex(extension)].concat();
            fields[EXTENSIONS] = tlv(0xa0, &tlv(0x30, &list));
        })
    };
    let with_entry = |serial: &str, rest: &str| {
        read(&|fields: &mut Vec<Vec<u8>>| {
            let list = [inside(&fields[REVOKED]).concat(), der_entry(serial, rest)].concat();
            fields[REVOKED] = tlv(0x30, &list);
        })
    };
    assert_eq!(read(&|_| {}).unwrap().number(), Some(300));
    // Entries of others need no order.
    assert_eq!(with_entry("020101", "").unwrap().revoked().len(), 4);
    for (what, result) in [
        ("a delta list of no base", with_extension("300d0603551d1b0101ff0403020100")),
        ("a second number", with_extension("300b0603551d1404040202012c")),
        ("an indirect list", with_extension("300f0603551d1c0101ff040530038401ff")),
        ("a critical extension of nobody", with_extension("300d0603551d630101ff0403020101")),
        ("the same certificate twice", with_entry("020105", "")),
        ("an entry of a delta list", with_entry("020101", "300c300a0603551d1504030a0108")),
        ("a negative serial number", with_entry("0201ff", "")),
        ("version 1", read(&|fields: &mut Vec<Vec<u8>>| drop(fields.remove(VERSION)))),
        ("no next update", read(&|fields: &mut Vec<Vec<u8>>| drop(fields.remove(NEXT_UPDATE)))),
        ("no number", read(&|fields: &mut Vec<Vec<u8>>| drop(fields.pop()))),
        (
            "two algorithms",
            read(&|fields: &mut Vec<Vec<u8>>| fields[SIGNATURE] = hex("300a06082a8648ce3d040303")),
        ),
    ] {
        assert!(result.is_err(), "{what}");
    }
    let mut trailing = unsigned(tlv(0x30, &fields.concat()));
    trailing.push(0);
    assert!(Crl::parse(&trailing).is_err());
    assert!(matches!(Crl::parse(&vec![0x30; CRL_BYTES_MAX + 1]), Err(PkiError::TooLarge { .. })));
    // A number of 20 octets reads, though it is none of ours.
    let long = read(&|fields: &mut Vec<Vec<u8>>| {
        let mut list = inside(&inside(&fields[EXTENSIONS])[0]);
        list[1] = tlv(0x30, &[hex("0603551d14"), tlv(4, &tlv(2, &[0x7f; 20]))].concat());
        fields[EXTENSIONS] = tlv(0xa0, &tlv(0x30, &list.concat()));
    });
    assert_eq!(long.unwrap().number(), None);
}

#[test]
fn openssl_refuses_the_revoked_dppb_with_code_23_and_accepts_dpauth() {
    let files = Files::new("crl");
    let ci = ci();
    let leaf = |profile: CertificateRole, serial: u8| {
        let key = new_key();
        let mut inputs = dp_inputs(&key, "2.999.10");
        inputs.serial = SerialNumber::from_random([serial; 20]);
        issue(profile.profile(), inputs, key, Some(&ci)).certificate
    };
    let (auth, pb) = (leaf(CertificateRole::DpAuth, 0x11), leaf(CertificateRole::DpPb, 0x12));
    let mut inputs = inputs(&ci.certificate);
    let reason = RevocationReason::Superseded;
    inputs.revoked.push(RevokedCertificate { serial: pb.serial().clone(), ..entry(&[1], reason) });
    let crl = make(&ci, &inputs);

    let ca = files.write("ci.pem", ci.certificate.pem().as_bytes());
    let list = files.write("ci.crl", crl.der());
    let pem = files.write("ci-crl.pem", crl.pem().as_bytes());
    let text = ["crl", "-inform", "der", "-in", &list, "-noout", "-text", "-CAfile", &ca, "-verify"];
    let Some((read, text)) = openssl(&text) else { return };
    assert!(read && text.contains("verify OK"), "{text}");
    let serial = pb.serial().to_string().to_uppercase();
    for line in [
        "Version 2 (0x1)",
        "Signature Algorithm: ecdsa-with-SHA256",
        "Last Update: Mar  2 00:00:00 2026 GMT",
        "Next Update: Mar  9 00:00:00 2026 GMT",
        "X509v3 CRL Number: \n                300",
        "Superseded",
        "Key Compromise",
        "Privilege Withdrawn",
        &serial,
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    // 2026-03-03, within the list's validity.
    let at =
        ["verify", "-x509_strict", "-crl_check", "-attime", "1772496000", "-CAfile", &ca, "-CRLfile", &pem];
    let auth = files.write("auth.pem", auth.pem().as_bytes());
    let Some((accepted, text)) = openssl(&[&at[..], &[auth.as_str()]].concat()) else { return };
    assert!(accepted, "{text}");
    let pb = files.write("pb.pem", pb.pem().as_bytes());
    let Some((accepted, text)) = openssl(&[&at[..], &[pb.as_str()]].concat()) else { return };
    assert!(!accepted && text.contains("error 23 at 0 depth lookup: certificate revoked"), "{text}");
}

proptest::proptest! {
    #[test]
    fn a_damaged_list_never_upsets_the_reader(at in 0usize..400, value: u8, cut in 0usize..500) {
        static LIST: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
            let ci = ci();
            make(&ci, &inputs(&ci.certificate)).der().to_vec()
        });
        let mut der = LIST.clone();
        let at = at % der.len();
        der[at] = value;
        der.truncate(cut.max(1));
        if let Ok(crl) = Crl::parse(&der) {
            let _ = (crl.number(), crl.pem(), crl.find(&SerialNumber::from_bytes(&[5]).unwrap()));
        }
    }

    #[test]
    fn random_bytes_never_upset_the_reader_of_lists(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        let _ = Crl::parse(&bytes);
    }

    #[test]
    fn any_serial_numbers_and_reasons_come_out_sorted_and_complete(
        serials in proptest::collection::btree_map(1u64.., 0usize..7, 0..20),
    ) {
        static CI: std::sync::LazyLock<Holder> = std::sync::LazyLock::new(ci);
        let mut inputs = inputs(&CI.certificate);
        inputs.revoked = serials
            .iter()
            .rev()
            .map(|(serial, reason)| entry(&serial.to_be_bytes(), RevocationReason::ALL[*reason]))
            .collect();
        let crl = make(&CI, &inputs);
        inputs.revoked.reverse();
        proptest::prop_assert_eq!(crl.revoked(), inputs.revoked);
    }
}
