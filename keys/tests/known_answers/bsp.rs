use domain::{Eid, PrincipalId};
use keys::KeyError;
use keys::bsp::{BoundKeys, BspKeys, KEY_DATA_BYTES, SecureChannel, bound_keys_info, key_data, shared_info};
use keys::rsp::TransactionId;
use proptest::prelude::*;
use zeroize::Zeroizing;

use crate::{array, bytes, list, vectors};

fn keys_of(seed: u8) -> BspKeys {
    let mut entropy = Zeroizing::new([0; KEY_DATA_BYTES]);
    (seed..).zip(entropy.iter_mut()).for_each(|(value, byte)| *byte = value);
    BspKeys::from_entropy(&entropy)
}

#[test]
fn the_keys_of_a_published_trace_are_derived() {
    for vector in list(&vectors("bsp_sgp22.json")["kdf"]) {
        let info = shared_info(&bytes(&vector["host_id"]), &array(&vector["eid"]));
        assert_eq!(info, bytes(&vector["shared_info"]));
        let keys = BspKeys::from_key_data(&key_data(&array(&vector["shared_secret"]), &info));
        assert_eq!(keys.initial_mac_chaining_value[..], bytes(&vector["initial_mac_chaining_value"]));
        assert_eq!(keys.s_enc.expose(), bytes(&vector["s_enc"]));
        assert_eq!(keys.s_mac.expose(), bytes(&vector["s_mac"]));
    }
}

#[test]
fn the_secure_channel_is_signed_and_written_field_by_field() {
    let channel = SecureChannel {
        transaction_id: TransactionId([0x11; 16]),
        host_id: b"host".to_vec(),
        server_key: [0x22; 65],
    };
    let hex = |byte: &str, times: usize| byte.repeat(times);
    let fields =
        format!("820101 8010{} a60c 800188 810110 8404686f7374 5f4941{}", hex("11", 16), hex("22", 65));
    let decode = |text: String| hex::decode(text.replace(' ', "")).unwrap();
    assert_eq!(channel.signed(&[0x33; 65]), decode(format!("{fields} 5f4941{}", hex("33", 65))));
    let signed = decode(format!("{fields} 5f3740{}", hex("44", 64)));
    let written = channel.encode(&[0x44; 64]);
    assert_eq!(written, [&[0xbf, 0x23, 0x81, signed.len() as u8][..], &signed].concat());
}

#[test]
fn bound_keys_are_read_as_they_were_written() {
    for profile in [None, Some(keys_of(0x60))] {
        let bound = BoundKeys { session: keys_of(1), profile };
        let encoded = bound.encode();
        assert_eq!(encoded[..2], [1, if bound.profile.is_some() { 2 } else { 1 }]);
        assert_eq!(encoded.len(), 2 + if bound.profile.is_some() { 96 } else { 48 });
        let read = BoundKeys::decode(&encoded).unwrap();
        assert!(read.session.s_enc == bound.session.s_enc && read.session.s_mac == bound.session.s_mac);
        assert_eq!(read.session.initial_mac_chaining_value, bound.session.initial_mac_chaining_value);
        assert_eq!(read.profile.is_some(), bound.profile.is_some());
        assert_eq!(read.encode(), encoded);
    }
}

#[test]
fn the_info_names_who_what_and_which_request() {
    let eid: Eid = "89049032123451234512345678901235".parse().unwrap();
    let id = TransactionId([7; 16]);
    let info = bound_keys_info(&PrincipalId([9; 32]), &eid, &id, b"request").unwrap();
    let expected = [b"chancery-bsp-keys/v1\0", &[9; 32][..], eid.bcd(), &[7; 16], &[7], b"request"].concat();
    assert_eq!(info, expected);
    let long = bound_keys_info(&PrincipalId([9; 32]), &eid, &id, &[0; 65]);
    assert_eq!(long, Err(KeyError::RequestIdLength { actual: 65 }));
}

proptest! {
    #[test]
    fn only_whole_messages_of_version_1_are_read(message in proptest::collection::vec(any::<u8>(), 0..120)) {
        let good = matches!((message.first(), message.get(1), message.len()), (Some(1), Some(1), 50) | (Some(1), Some(2), 98));
        prop_assert_eq!(BoundKeys::decode(&message).is_ok(), good);
    }

    #[test]
    fn both_protections_of_any_keys_round_trip(keys in proptest::collection::vec(any::<u8>(), 96), own in any::<bool>()) {
        let message = if own { [&[1, 2][..], &keys].concat() } else { [&[1, 1][..], &keys[..48]].concat() };
        prop_assert_eq!(&*BoundKeys::decode(&message).unwrap().encode(), &message);
    }
}
