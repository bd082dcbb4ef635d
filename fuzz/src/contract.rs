//! Protobuf of callers: the first byte chooses the message.

use kms::rotation::RotationTerms;
use kms::{Allowance, KeysetName, SessionKeysRequest};
use prost::Message;
use proto::v1;
use sha2::{Digest, Sha256};

pub fn run(bytes: &[u8]) {
    let Some((kind, message)) = bytes.split_first() else { return };
    match kind % 5 {
        0 => operation(message),
        1 => {
            let Ok(request) = v1::FetchSessionKeysRequest::decode(message) else { return };
            let digest = Sha256::digest(message).into();
            if let Ok(read) = SessionKeysRequest::parse(&request, digest, false) {
                assert_eq!(read.eid.to_string(), request.eid);
            }
        }
        2 => {
            let Ok(terms) = v1::RotationTerms::decode(message) else { return };
            if let Ok(read) = RotationTerms::parse(&terms) {
                assert!(!read.stages.is_empty() && read.stages.is_sorted());
                assert_eq!(read.stages.last(), Some(&100));
            }
        }
        3 => {
            let Ok(grant) = v1::CreateGrant::decode(message) else { return };
            let _ = Allowance::parse(&grant);
        }
        _ => {
            let Ok(name) = v1::KeysetName::decode(message) else { return };
            let _ = KeysetName::parse(Some(&name));
        }
    }
}

/// What an approver signs: bytes are shown only when nothing in them stays unread.
fn operation(bytes: &[u8]) {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    let Ok(received) = cli::decoders::CanonicalOperation::received(bytes.to_vec(), &digest) else { return };
    assert_eq!(received.operation().encode_to_vec(), bytes);
    assert!(!cli::decoders::render_operation(&received).is_empty());
}
