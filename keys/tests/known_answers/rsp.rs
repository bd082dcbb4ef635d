//! RSP objects, written here field by field and read by the crate; and every way in which they may be damaged.

use keys::rsp::{
    AuthenticateServerResponse, EuiccInfo1, EuiccPackage, PrepareDownloadResponse, ServerSigned1,
    SmdpSigned2, TransactionId, confirms, is_euicc_package, is_one_sequence, with_association_token,
    with_signature,
};
use proptest::prelude::*;

fn tlv(tag: &str, content: &[u8]) -> Vec<u8> {
    let length = match content.len() {
        short @ 0..=0x7f => vec![short as u8],
        long @ 0x80..=0xff => vec![0x81, long as u8],
        long => vec![0x82, (long >> 8) as u8, long as u8],
    };
    [hex::decode(tag).unwrap(), length, content.to_vec()].concat()
}

fn euicc_info1() -> Vec<u8> {
    let list = |tag: &str| tlv(tag, &[tlv("04", &[0xaa; 20]), tlv("04", &[0xbb; 20])].concat());
    tlv("bf20", &[tlv("82", &[2, 2, 2]), list("a9"), list("aa")].concat())
}

fn authentication(matching_id: Option<&str>) -> Vec<u8> {
    let device = tlv("a1", &[tlv("80", &[1; 4]), tlv("a1", &[])].concat());
    let parameters = match matching_id {
        Some(id) => [tlv("80", id.as_bytes()), device].concat(),
        None => device,
    };
    let signed1 = tlv(
        "30",
        &[
            tlv("80", &[1; 16]),
            tlv("83", b"smdp.example.org"),
            tlv("84", &[2; 16]),
            tlv("bf22", &[3; 300]),
            tlv("a0", &parameters),
        ]
        .concat(),
    );
    let ok = [signed1, tlv("5f37", &[4; 64]), tlv("30", &[5; 200]), tlv("30", &[6; 400])].concat();
    tlv("bf38", &tlv("a0", &ok))
}

#[test]
fn the_chain_of_version_3_is_read_and_bounded() {
    let body = |object: &[u8]| object[9..].to_vec();
    let with = |others: &[u8]| {
        let ok = [body(&authentication(None)), tlv("a1", others)].concat();
        AuthenticateServerResponse::parse(&tlv("bf38", &tlv("a0", &ok)))
    };
    let others: Vec<Vec<u8>> = (1..=4).map(|n| tlv("30", &[n; 300])).collect();
    let AuthenticateServerResponse::Accepted(read) = with(&others.concat()).unwrap() else {
        panic!("it was accepted")
    };
    assert_eq!(read.other_certificates, others);
    let five = [others.concat(), tlv("30", &[5; 300])].concat();
    assert!(with(&five).is_err());
    assert!(with(&tlv("04", &[1; 3])).is_err());
}

fn preparation(hash_cc: Option<[u8; 32]>) -> Vec<u8> {
    let mut fields = [tlv("80", &[1; 16]), tlv("5f49", &[&[4][..], &[7; 64]].concat())].concat();
    fields.extend(hash_cc.map(|hash| tlv("04", &hash)).unwrap_or_default());
    tlv("bf21", &tlv("a0", &[tlv("30", &fields), tlv("5f37", &[8; 64])].concat()))
}

#[test]
fn an_euicc_says_which_issuers_it_knows_and_only_both_lists_count() {
    let info = EuiccInfo1::parse(&euicc_info1()).unwrap();
    assert_eq!([0xaa, 0xbb, 0xcc].map(|byte| info.rank(&[byte; 20])), [Some(0), Some(1), None]);
    let one = |tag: &str, byte| tlv(tag, &tlv("04", &[byte; 20]));
    let parts = [tlv("82", &[2, 2, 2]), one("a9", 1), one("aa", 2), tlv("8c", &[1])].concat();
    let info = EuiccInfo1::parse(&tlv("bf20", &parts)).unwrap();
    assert_eq!([1, 2].map(|byte| info.rank(&[byte; 20])), [None, None]);
}

#[test]
fn an_authentication_is_read_with_the_bytes_that_were_signed() {
    for id in [None, Some("AB-12")] {
        let object = authentication(id);
        let AuthenticateServerResponse::Accepted(read) = AuthenticateServerResponse::parse(&object).unwrap()
        else {
            panic!("it was accepted")
        };
        assert_eq!((read.transaction_id, read.server_challenge), (vec![1; 16], [2; 16]));
        assert_eq!(
            (read.server_address.as_str(), read.matching_id.as_str()),
            ("smdp.example.org", id.unwrap_or(""))
        );
        assert_eq!(read.signature, [4; 64]);
        assert_eq!(read.euicc_certificate, tlv("30", &[5; 200]));
        assert_eq!(read.eum_certificate, tlv("30", &[6; 400]));
        assert!(read.other_certificates.is_empty());
        let at = object.windows(read.euicc_signed1.len()).position(|part| part == read.euicc_signed1);
        assert_eq!(at, Some(9), "BF38 82 LL LL A0 82 LL LL comes before");
    }
}

#[test]
fn a_preparation_is_read_with_and_without_the_hash_of_a_code() {
    for hash in [None, Some([9; 32])] {
        let PrepareDownloadResponse::Accepted(read) =
            PrepareDownloadResponse::parse(&preparation(hash)).unwrap()
        else {
            panic!("it was accepted")
        };
        assert_eq!((read.hash_cc, read.one_time_key[1]), (hash, 7));
        assert_eq!((read.transaction_id, read.signature), (vec![1; 16], [8; 64]));
    }
}

#[test]
fn errors_of_the_euicc_are_read_with_their_codes() {
    let error =
        |tag: &str, code: &[u8]| tlv(tag, &tlv("a1", &[tlv("80", &[1; 16]), tlv("02", code)].concat()));
    assert_eq!(
        AuthenticateServerResponse::parse(&error("bf38", &[127])),
        Ok(AuthenticateServerResponse::Refused(127))
    );
    assert_eq!(PrepareDownloadResponse::parse(&error("bf21", &[5])), Ok(PrepareDownloadResponse::Refused(5)));
    assert!(PrepareDownloadResponse::parse(&error("bf21", &[0, 5])).is_err());
}

#[test]
fn what_a_server_signs_is_written_as_the_module_says() {
    let signed1 = ServerSigned1 {
        transaction_id: TransactionId([1; 16]),
        euicc_challenge: [2; 16],
        server_address: "smdp.example.org".to_owned(),
        server_challenge: [3; 16],
    };
    let expected = tlv(
        "30",
        &[tlv("80", &[1; 16]), tlv("81", &[2; 16]), tlv("83", b"smdp.example.org"), tlv("84", &[3; 16])]
            .concat(),
    );
    assert_eq!(signed1.encode(), expected);
    let signed2 = SmdpSigned2 { transaction_id: TransactionId([1; 16]), confirmation_code_required: true };
    assert_eq!(signed2.encode(), tlv("30", &[tlv("80", &[1; 16]), tlv("01", &[0xff])].concat()));
    // What one key signs is never what the other does.
    assert!(is_one_sequence(&signed1.encode()) && is_one_sequence(&signed2.encode()));
    assert!(!is_one_sequence(&with_signature(&signed2.encode(), &[4; 64])));
}

#[test]
fn an_euicc_package_is_written_as_the_module_says_and_signed_with_its_association_token() {
    for (counter, integer) in
        [(1, "01"), (0x7f, "7f"), (0x80, "0080"), (0x1234, "1234"), (u64::MAX, "00ffffffffffffffff")]
    {
        let package = EuiccPackage {
            eim_id: "eim".to_owned(),
            eid: [0x89; 16],
            counter,
            eim_transaction_id: vec![7; 2],
            package: tlv("a0", &[]),
        };
        let counter = hex::decode(integer).unwrap();
        let fields = [
            tlv("80", b"eim"),
            tlv("5a", &[0x89; 16]),
            tlv("81", &counter),
            tlv("82", &[7, 7]),
            tlv("a0", &[]),
        ];
        assert_eq!(package.encode(), tlv("30", &fields.concat()));
    }
    assert_eq!(with_association_token(&[0x30, 0], 0), [0x30, 0, 0x84, 1, 0]);
    assert_eq!(with_association_token(&[0x30, 0], 300), [0x30, 0, 0x84, 2, 1, 0x2c]);
    assert!(
        is_euicc_package(&tlv("a1", &[1]))
            && !is_euicc_package(&tlv("a2", &[]))
            && !is_euicc_package(&[0xa0, 0, 0])
    );
}

#[test]
fn a_confirmation_code_counts_for_its_transaction_only() {
    // printf '1234' | sha256sum, and that followed by 16 bytes of 07 through sha256sum once more.
    let code: [u8; 32] = hex::decode("03ac674216f3e15c761ee1a5e255f067953623c8b388b4459e13f978d7c846f4")
        .unwrap()
        .try_into()
        .unwrap();
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &[&code[..], &[7; 16]].concat());
    let hash: [u8; 32] = hash.as_ref().try_into().unwrap();
    assert!(confirms(&hash, &code, &TransactionId([7; 16])));
    assert!(!confirms(&hash, &code, &TransactionId([8; 16])));
    assert!(!confirms(&hash, &[0; 32], &TransactionId([7; 16])));
}

#[test]
fn objects_that_are_cut_or_continued_anywhere_are_refused() {
    let objects = [authentication(Some("AB-12")), preparation(Some([9; 32])), euicc_info1()];
    for object in &objects {
        let parsed = |bytes: &[u8]| {
            (
                AuthenticateServerResponse::parse(bytes).is_ok(),
                PrepareDownloadResponse::parse(bytes).is_ok(),
                EuiccInfo1::parse(bytes).is_ok(),
            )
        };
        for length in 0..object.len() {
            assert_eq!(parsed(&object[..length]), (false, false, false), "{length}");
        }
        assert_eq!(parsed(&[&object[..], &[0]].concat()), (false, false, false));
    }
    assert!(EuiccInfo1::parse(&tlv("bf20", &[0; 20_000])).is_err());
}

proptest! {
    #[test]
    fn random_bytes_never_upset_a_reader(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = AuthenticateServerResponse::parse(&bytes);
        let _ = PrepareDownloadResponse::parse(&bytes);
        let _ = EuiccInfo1::parse(&bytes);
    }

    #[test]
    fn damaged_objects_never_upset_a_reader_and_keep_what_was_signed_inside(
        at in any::<proptest::sample::Index>(), with in any::<u8>(), more in any::<proptest::sample::Index>(), and in any::<u8>(),
    ) {
        for mut object in [authentication(Some("AB-12")), preparation(Some([9; 32])), euicc_info1()] {
            let (first, second) = (at.index(object.len()), more.index(object.len()));
            object[first] = with;
            object[second] ^= and;
            if let Ok(AuthenticateServerResponse::Accepted(read)) = AuthenticateServerResponse::parse(&object) {
                prop_assert!(object.windows(read.euicc_signed1.len()).any(|part| part == read.euicc_signed1));
            }
            if let Ok(PrepareDownloadResponse::Accepted(read)) = PrepareDownloadResponse::parse(&object) {
                prop_assert!(object.windows(read.euicc_signed2.len()).any(|part| part == read.euicc_signed2));
                prop_assert_eq!(read.one_time_key[0], 4);
            }
            let _ = EuiccInfo1::parse(&object);
        }
    }
}
