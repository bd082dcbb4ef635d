//! Operations as the bytes that are signed: made here by whoever requests, checked here by whoever approves.

use domain::Timestamp;
use prost::Message;
use proto::v1::Operation;
use proto::v1::operation::Kind;
use sha2::{Digest, Sha256};

use crate::clock;
use crate::error::CliError;

/// The version of every operation.
pub const OPERATION_VERSION: u32 = 1;
/// Bytes of salt.
const SALT_BYTES: usize = 32;

/// An operation with the exact bytes that stand for it.
pub struct CanonicalOperation {
    operation: Operation,
    bytes: Vec<u8>,
}

impl CanonicalOperation {
    /// Makes an operation to be requested, with a fresh salt.
    pub fn new(authority: &str, reason: &str, expires: Timestamp, kind: Kind) -> Result<Self, CliError> {
        let mut salt = vec![0; SALT_BYTES];
        getrandom::fill(&mut salt).map_err(|error| CliError::Local(format!("no entropy: {error}")))?;
        let operation = Operation {
            version: OPERATION_VERSION,
            salt,
            authority: authority.to_owned(),
            reason: reason.to_owned(),
            expires: Some(clock::to_wire(expires)),
            kind: Some(kind),
        };
        let bytes = operation.encode_to_vec();
        Ok(Self { operation, bytes })
    }

    /// Takes the bytes the service gave for `digest`: they must have that digest, and be the one encoding of what they
    /// decode to, so that nothing in them stays unread.
    pub fn received(bytes: Vec<u8>, digest: &[u8; 32]) -> Result<Self, CliError> {
        let wrong = |why: &str| CliError::Answer(format!("the operation {}: {why}", hex::encode(digest)));
        if Sha256::digest(&bytes)[..] != digest[..] {
            return Err(wrong("its bytes have another digest"));
        }
        let operation = Operation::decode(&bytes[..]).map_err(|_| wrong("its bytes do not decode"))?;
        if operation.encode_to_vec() != bytes {
            return Err(wrong("its bytes hold more than they decode to"));
        }
        if operation.version != OPERATION_VERSION {
            return Err(wrong("its version is not one this tool can show in full"));
        }
        if operation.salt.len() != SALT_BYTES {
            return Err(wrong("its salt has not 32 bytes"));
        }
        if operation.kind.is_none() {
            return Err(wrong("it is of no kind this tool knows"));
        }
        Ok(Self { operation, bytes })
    }

    /// What it says.
    pub const fn operation(&self) -> &Operation {
        &self.operation
    }

    /// What is signed and sent.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// SHA-256 of the bytes.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.bytes).into()
    }

    /// Refuses to let a person sign what could never be executed: another authority's, or an expired one.
    pub fn check_signable(&self, authority: &str, now: Timestamp) -> Result<(), CliError> {
        if self.operation.authority != authority {
            return Err(CliError::invalid(
                format!(
                    "the operation is meant for the authority {:?}, this identity belongs to {authority:?}",
                    self.operation.authority
                ),
                "do not sign it; tell the response team",
            ));
        }
        match self.operation.expires.as_ref().map(clock::from_wire) {
            Some(expires) if expires > now => Ok(()),
            _ => Err(CliError::invalid("the operation has expired", "request it again")),
        }
    }
}

/// What an approval key signs: this, and SHA-256 of the operation.
const APPROVAL_CONTEXT: &[u8] = b"chancery-approval/v1\0";
/// What an approval key signs to reject.
const REJECTION_CONTEXT: &[u8] = b"chancery-rejection/v1\0";

/// The message whose signature approves the operation of this digest.
pub fn approval_message(digest: &[u8; 32]) -> Vec<u8> {
    [APPROVAL_CONTEXT, digest].concat()
}

/// The message whose signature rejects it.
pub fn rejection_message(digest: &[u8; 32]) -> Vec<u8> {
    [REJECTION_CONTEXT, digest].concat()
}

#[cfg(test)]
mod tests {
    use proto::v1::CreateGrant;

    use super::*;

    fn sample() -> CanonicalOperation {
        let kind = Kind::CreateGrant(CreateGrant { name: "g1".to_owned(), ..CreateGrant::default() });
        CanonicalOperation::new("demo", "because", Timestamp::from_seconds(2_000), kind).unwrap()
    }

    fn refused(bytes: Vec<u8>) -> String {
        let digest = Sha256::digest(&bytes).into();
        CanonicalOperation::received(bytes, &digest).err().unwrap().to_string()
    }

    #[test]
    fn received_bytes_must_be_what_they_decode_to() {
        let made = sample();
        let received = CanonicalOperation::received(made.bytes().to_vec(), &made.digest()).unwrap();
        assert_eq!(received.operation(), made.operation());

        // An unknown field 100, a repeated scalar, a field out of order: all decode, none comes back.
        let unknown = [made.bytes(), &[0xa2, 0x06, 0x01, 0x41]].concat();
        assert!(refused(unknown).contains("hold more"));
        let repeated = [made.bytes(), &[0x08, 0x01]].concat();
        assert!(refused(repeated).contains("hold more"));
        let reordered = [&made.bytes()[2..], &made.bytes()[..2]].concat();
        assert!(refused(reordered).contains("hold more"));
        assert!(refused(vec![0xff]).contains("do not decode"));
    }

    #[test]
    fn bytes_of_another_digest_are_refused() {
        let made = sample();
        let error = CanonicalOperation::received(made.bytes().to_vec(), &[0; 32]).err().unwrap();
        assert!(error.to_string().contains("another digest"));
    }

    #[test]
    fn an_operation_without_kind_or_of_another_version_cannot_be_shown_so_it_is_refused() {
        let mut operation = sample().operation().clone();
        operation.kind = None;
        assert!(refused(operation.encode_to_vec()).contains("no kind"));
        // A kind of a later contract, field 20: it decodes to none and is not shown empty.
        let later = [&operation.encode_to_vec()[..], &[0xa2, 0x01, 0x02, 0x0a, 0x00]].concat();
        assert!(refused(later).contains("hold more"));
        let mut operation = sample().operation().clone();
        operation.version = 2;
        assert!(refused(operation.encode_to_vec()).contains("version"));
        let mut operation = sample().operation().clone();
        operation.salt.pop();
        assert!(refused(operation.encode_to_vec()).contains("salt"));
    }

    #[test]
    fn nobody_is_asked_to_sign_for_another_authority_or_after_the_expiry() {
        let made = sample();
        assert!(made.check_signable("demo", Timestamp::from_seconds(1_999)).is_ok());
        assert!(made.check_signable("other", Timestamp::from_seconds(1_999)).is_err());
        assert!(made.check_signable("demo", Timestamp::from_seconds(2_000)).is_err());
    }

    #[test]
    fn two_requests_of_the_same_content_have_different_digests() {
        assert_ne!(sample().digest(), sample().digest());
    }
}
