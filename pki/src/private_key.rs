//! The private keys that persons keep themselves, in PKCS#8: P-256, and for TLS also P-384. The service never sees one.

use crate::error::PkiError;
use crate::pem;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING,
    ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair,
};
use domain::Curve;
use ecc::Signature;
use zeroize::Zeroizing;

const PEM_BYTES_MAX: usize = 16 * 1024;

/// Makes a P-256 key with the library's generator; PKCS#8 in DER.
pub fn generate_p256() -> Result<Zeroizing<Vec<u8>>, PkiError> {
    generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
}

/// The same on P-384.
pub fn generate_p384() -> Result<Zeroizing<Vec<u8>>, PkiError> {
    generate(&ECDSA_P384_SHA384_ASN1_SIGNING)
}

fn generate(algorithm: &'static EcdsaSigningAlgorithm) -> Result<Zeroizing<Vec<u8>>, PkiError> {
    let document = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new())
        .map_err(|_| PkiError::Cryptography { what: "generate a key" })?;
    Ok(Zeroizing::new(document.as_ref().to_vec()))
}

/// A PKCS#8 key as a PEM `PRIVATE KEY` block.
pub fn private_key_to_pem(pkcs8: &[u8]) -> Zeroizing<String> {
    pem::encode(pkcs8, "PRIVATE KEY")
}

/// Reads one PEM `PRIVATE KEY` block; the result is a key of [`PrivateKey`] in PKCS#8.
pub fn private_key_from_pem(text: &[u8]) -> Result<Zeroizing<Vec<u8>>, PkiError> {
    let pkcs8 = pem::decode(text, "PRIVATE KEY", PEM_BYTES_MAX)?;
    PrivateKey::from_pkcs8(&pkcs8)?;
    Ok(pkcs8)
}

/// A private key on P-256 or P-384 in use; the library wipes it when dropped.
pub struct PrivateKey {
    curve: Curve,
    pair: EcdsaKeyPair,
    plain: EcdsaKeyPair,
}

impl PrivateKey {
    /// From PKCS#8 in DER.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, PkiError> {
        let read = |curve, signing, plain| -> Option<Self> {
            let pair = EcdsaKeyPair::from_pkcs8(signing, pkcs8).ok()?;
            Some(Self { curve, pair, plain: EcdsaKeyPair::from_pkcs8(plain, pkcs8).ok()? })
        };
        read(Curve::P256, &ECDSA_P256_SHA256_ASN1_SIGNING, &ECDSA_P256_SHA256_FIXED_SIGNING)
            .or_else(|| read(Curve::P384, &ECDSA_P384_SHA384_ASN1_SIGNING, &ECDSA_P384_SHA384_FIXED_SIGNING))
            .ok_or(PkiError::PrivateKey)
    }

    /// Its curve.
    pub const fn curve(&self) -> Curve {
        self.curve
    }

    /// The uncompressed public point.
    pub fn point(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// The public half's SubjectPublicKeyInfo in DER.
    pub fn spki(&self) -> Vec<u8> {
        crate::key::ec_spki(self.curve, self.point())
    }

    /// A DER ECDSA signature with the hash of the curve over `message`.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, PkiError> {
        let signature = self.pair.sign(&SystemRandom::new(), message).map_err(|_| SIGN)?;
        Ok(signature.as_ref().to_vec())
    }

    /// An r||s ECDSA signature with the hash of the curve over `message`.
    pub fn sign_plain(&self, message: &[u8]) -> Result<Signature, PkiError> {
        let signature = self.plain.sign(&SystemRandom::new(), message).map_err(|_| SIGN)?;
        Signature::from_bytes(signature.as_ref()).ok_or(SIGN)
    }
}

const SIGN: PkiError = PkiError::Cryptography { what: "sign" };

impl rcgen::PublicKeyData for PrivateKey {
    fn der_bytes(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        crate::tbs::builder_algorithm(self.curve)
    }
}

impl rcgen::SigningKey for PrivateKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Self::sign(self, message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KnownKeys, PublicKey};

    #[test]
    fn a_generated_key_survives_pem_and_signs_in_both_encodings() {
        for (curve, pkcs8) in [(Curve::P256, generate_p256()), (Curve::P384, generate_p384())] {
            let pkcs8 = pkcs8.unwrap();
            let pem = private_key_to_pem(&pkcs8);
            assert_eq!(*private_key_from_pem(pem.as_bytes()).unwrap(), *pkcs8);
            let key = PrivateKey::from_pkcs8(&pkcs8).unwrap();
            let public = PublicKey::parse(&key.spki(), KnownKeys::Refuse).unwrap();
            assert_eq!((key.curve(), public.curve()), (curve, curve));
            public.verify(b"message", &key.sign(b"message").unwrap()).unwrap();
            let plain = key.sign_plain(b"message").unwrap();
            public.verify_plain(b"message", plain.as_bytes()).unwrap();
            assert!(public.verify_plain(b"messagf", plain.as_bytes()).is_err());
        }
    }

    #[test]
    fn what_is_no_private_key_is_refused() {
        let pkcs8 = generate_p256().unwrap();
        assert!(PrivateKey::from_pkcs8(&pkcs8[..pkcs8.len() - 1]).is_err());
        let certificate_label = pem::encode(&pkcs8, "CERTIFICATE");
        assert!(private_key_from_pem(certificate_label.as_bytes()).is_err());
    }
}
