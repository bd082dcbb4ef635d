//! Objects of SGP.22 and SGP.32: the parts that signatures are over are those that were sent.

use keys::bsp::BoundKeys;
use keys::rsp::{
    AuthenticateServerResponse, EuiccInfo1, PrepareDownloadResponse, is_euicc_package, is_one_sequence,
};
use keys::scp03::SessionKeys;
use keys::scp11::{CardAnswer, OpenedKeys};

pub fn run(bytes: &[u8]) {
    if let Ok(info) = EuiccInfo1::parse(bytes) {
        assert!(info.rank(&[]).is_none());
    }
    if let Ok(AuthenticateServerResponse::Accepted(read)) = AuthenticateServerResponse::parse(bytes) {
        for part in [&read.euicc_signed1, &read.euicc_certificate, &read.eum_certificate] {
            assert!(is_one_sequence(part));
            assert!(bytes.windows(part.len()).any(|window| window == &part[..]));
        }
        pki::Certificate::from_der(&read.euicc_certificate).ok();
    }
    if let Ok(PrepareDownloadResponse::Accepted(read)) = PrepareDownloadResponse::parse(bytes) {
        assert!(is_one_sequence(&read.euicc_signed2));
        assert!(bytes.windows(65).any(|window| window == read.one_time_key));
    }
    if let Some(answer) = CardAnswer::parse(bytes) {
        assert_eq!(bytes.len(), 3 + 65 + 2 + 16);
        assert_eq!((&bytes[3..68], &bytes[70..]), (&answer.public_key[..], &answer.receipt[..]));
    }
    if let Ok(keys) = OpenedKeys::decode(bytes) {
        assert_eq!(bytes.len(), 2 + 4 * keys.keys[0].expose().len() + 16);
    }
    let _ = is_euicc_package(bytes);
    // What a party finds in an envelope.
    if let Ok(keys) = SessionKeys::decode(bytes) {
        assert_eq!(&keys.encode()[..], bytes);
    }
    if let Ok(keys) = BoundKeys::decode(bytes) {
        assert_eq!(&keys.encode()[..], bytes);
    }
}
