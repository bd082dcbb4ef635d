//! Approval signatures: what a person signs to approve one operation, and how anyone checks it.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::{AuditError, Hash, sha256};

/// Begins every message an approval key signs, so that no signature made for another purpose counts.
pub const APPROVAL_CONTEXT: &[u8; 21] = b"chancery-approval/v1\0";

// RFC 5480 §2: SubjectPublicKeyInfo of id-ecPublicKey with namedCurve secp256r1, up to the uncompressed point's 0x04.
const P256_SPKI_PREFIX: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];

const PEM_BEGIN: &str = "-----BEGIN PUBLIC KEY-----\n";
const PEM_END: &str = "-----END PUBLIC KEY-----\n";

/// The bytes that ECDSA P-256 with SHA-256 signs: [`APPROVAL_CONTEXT`] and SHA-256 of the operation's canonical bytes.
pub fn approval_message(operation_digest: &Hash) -> Vec<u8> {
    [APPROVAL_CONTEXT.as_slice(), operation_digest].concat()
}

/// A person's approval key: the public half, P-256.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApprovalKey {
    spki: Vec<u8>,
}

impl ApprovalKey {
    /// From a DER SubjectPublicKeyInfo. Only the one usual form is taken, so that one key has one digest.
    pub fn from_spki_der(spki: &[u8]) -> Result<Self, AuditError> {
        if spki.len() != 91 || !spki.starts_with(&P256_SPKI_PREFIX) {
            return Err(AuditError::ApprovalKey);
        }
        Ok(Self { spki: spki.to_vec() })
    }

    /// From the PEM form that [`ApprovalKey::to_pem`] writes, byte for byte.
    pub fn from_pem(pem: &str) -> Result<Self, AuditError> {
        let inner = pem.strip_prefix(PEM_BEGIN).and_then(|rest| rest.strip_suffix(PEM_END));
        let base64: String = inner.ok_or(AuditError::ApprovalKey)?.split('\n').collect();
        let key = Self::from_spki_der(&BASE64.decode(base64).map_err(|_| AuditError::ApprovalKey)?)?;
        if key.to_pem() == pem { Ok(key) } else { Err(AuditError::ApprovalKey) }
    }

    /// DER SubjectPublicKeyInfo, 91 bytes.
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-256 of the SubjectPublicKeyInfo: the fact `key` of operation entries.
    pub fn digest(&self) -> Hash {
        sha256(&self.spki)
    }

    /// PEM with 64 characters a line, as openssl writes it.
    pub fn to_pem(&self) -> String {
        let base64 = BASE64.encode(&self.spki);
        let mut pem = PEM_BEGIN.to_owned();
        let mut rest = base64.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(64));
            pem.push_str(line);
            pem.push('\n');
            rest = after;
        }
        pem + PEM_END
    }

    /// Verifies a DER signature over one operation.
    pub fn verify(&self, operation_digest: &Hash, signature: &[u8]) -> Result<(), AuditError> {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.spki[P256_SPKI_PREFIX.len() - 1..])
            .verify(&approval_message(operation_digest), signature)
            .map_err(|_| AuditError::ApprovalSignature)
    }
}
