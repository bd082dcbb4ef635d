//! Signatures are verified by other code than the token's before anyone sees them.

use aws_lc_rs::signature::{ED25519, ParsedPublicKey};
use ecc::{Digest, EcPublicKey, Signature};

use crate::error::HsmError;
use crate::key::KeyKind;
use crate::spki;

/// The registered public key of a signing key, parsed once.
pub(crate) enum Verifier {
    /// Over the digest of a message.
    Ecdsa(EcPublicKey),
    /// Over the message.
    Ed25519(ParsedPublicKey),
}

impl Verifier {
    /// For a signing key of `kind`; `None` for keys that sign nothing.
    pub(crate) fn new(kind: KeyKind, spki_der: &[u8]) -> Result<Option<Self>, HsmError> {
        let malformed = || HsmError::policy("the registered public key does not fit the key's role");
        Ok(Some(match kind {
            KeyKind::Ec(curve) | KeyKind::AdoptedEc(curve) => {
                let point = spki::ec_point(curve, spki_der).ok_or_else(malformed)?;
                Self::Ecdsa(EcPublicKey::from_point(curve, point).ok_or_else(malformed)?)
            }
            KeyKind::Ed25519 => {
                let bytes = spki::ed25519_bytes(spki_der).ok_or_else(malformed)?;
                Self::Ed25519(ParsedPublicKey::new(&ED25519, bytes).map_err(|_| malformed())?)
            }
            KeyKind::EcAgreement
            | KeyKind::AesDerive
            | KeyKind::AesCmac
            | KeyKind::ImportedDerive(_)
            | KeyKind::AesWrap
            | KeyKind::AesImport
            | KeyKind::AesKek
            | KeyKind::RsaUnwrap => return Ok(None),
        }))
    }

    /// Whether `signature` is over a message of this digest under this key.
    pub(crate) fn accepts(&self, digest: &Digest, signature: &Signature) -> bool {
        match self {
            Self::Ecdsa(key) => key.verifies_digest(digest, signature),
            Self::Ed25519(_) => false,
        }
    }

    /// Whether `signature` is over `message` under this key.
    pub(crate) fn accepts_message(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Ecdsa(_) => false,
            Self::Ed25519(key) => key.verify_sig(message, signature).is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    };

    use domain::Curve;

    use super::*;

    #[test]
    fn every_flipped_bit_of_a_signature_or_its_input_is_noticed() {
        for (curve, algorithm) in
            [(Curve::P256, &ECDSA_P256_SHA256_FIXED_SIGNING), (Curve::P384, &ECDSA_P384_SHA384_FIXED_SIGNING)]
        {
            let pair = EcdsaKeyPair::generate(algorithm).unwrap();
            let digest = Digest::of(curve, b"tbs");
            let signature = pair.sign(&SystemRandom::new(), b"tbs").unwrap();
            let spki = pair.public_key().as_der().unwrap();
            let verifier = Verifier::new(KeyKind::Ec(curve), spki.as_ref()).unwrap().unwrap();
            let read = |bytes: &[u8]| Signature::from_bytes(bytes).unwrap();
            assert!(verifier.accepts(&digest, &read(signature.as_ref())));
            for bit in 0..signature.as_ref().len() * 8 {
                let mut wrong = signature.as_ref().to_vec();
                wrong[bit / 8] ^= 1 << (bit % 8);
                assert!(!verifier.accepts(&digest, &read(&wrong)));
            }
            let mut wrong = digest.as_bytes().to_vec();
            wrong[31] ^= 1;
            assert!(!verifier.accepts(&Digest::from_bytes(&wrong).unwrap(), &read(signature.as_ref())));
            assert!(!verifier.accepts_message(b"tbs", signature.as_ref()));
        }
    }
}
