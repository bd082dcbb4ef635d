//! The private keys that persons keep themselves: P-256 in PKCS#8. The service never sees one.

use crate::error::PkiError;
use crate::pem;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
};
use domain::Curve;
use zeroize::Zeroizing;

const PEM_BYTES_MAX: usize = 16 * 1024;

/// Makes a P-256 key with the library's generator; PKCS#8 in DER.
pub fn generate_p256() -> Result<Zeroizing<Vec<u8>>, PkiError> {
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
        .map_err(|_| PkiError::Cryptography { what: "generate a key" })?;
    Ok(Zeroizing::new(document.as_ref().to_vec()))
}

/// A PKCS#8 key as a PEM `PRIVATE KEY` block.
pub fn private_key_to_pem(pkcs8: &[u8]) -> Zeroizing<String> {
    pem::encode(pkcs8, "PRIVATE KEY")
}

/// Reads one PEM `PRIVATE KEY` block; the result is a P-256 key in PKCS#8.
pub fn private_key_from_pem(text: &[u8]) -> Result<Zeroizing<Vec<u8>>, PkiError> {
    let pkcs8 = pem::decode(text, "PRIVATE KEY", PEM_BYTES_MAX)?;
    PrivateKey::from_pkcs8(&pkcs8)?;
    Ok(pkcs8)
}

/// A P-256 private key in use; the library wipes it when dropped.
pub struct PrivateKey {
    pair: EcdsaKeyPair,
    plain: EcdsaKeyPair,
}

impl PrivateKey {
    /// From PKCS#8 in DER.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, PkiError> {
        let read = |algorithm| EcdsaKeyPair::from_pkcs8(algorithm, pkcs8).map_err(|_| PkiError::PrivateKey);
        Ok(Self {
            pair: read(&ECDSA_P256_SHA256_ASN1_SIGNING)?,
            plain: read(&ECDSA_P256_SHA256_FIXED_SIGNING)?,
        })
    }

    /// The uncompressed public point.
    pub fn point(&self) -> Result<[u8; 65], PkiError> {
        self.pair.public_key().as_ref().try_into().map_err(|_| PkiError::PrivateKey)
    }

    /// The public half's SubjectPublicKeyInfo in DER.
    pub fn spki(&self) -> Result<Vec<u8>, PkiError> {
        Ok(crate::key::ec_spki(Curve::P256, &self.point()?))
    }

    /// A DER ECDSA signature with SHA-256 over `message`.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, PkiError> {
        let signature = self.pair.sign(&SystemRandom::new(), message).map_err(|_| SIGN)?;
        Ok(signature.as_ref().to_vec())
    }

    /// A 64-byte r||s ECDSA signature with SHA-256 over `message`.
    pub fn sign_plain(&self, message: &[u8]) -> Result<[u8; 64], PkiError> {
        let signature = self.plain.sign(&SystemRandom::new(), message).map_err(|_| SIGN)?;
        signature.as_ref().try_into().map_err(|_| SIGN)
    }
}

const SIGN: PkiError = PkiError::Cryptography { what: "sign" };

impl rcgen::PublicKeyData for PrivateKey {
    fn der_bytes(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
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
        let pkcs8 = generate_p256().unwrap();
        let pem = private_key_to_pem(&pkcs8);
        assert_eq!(*private_key_from_pem(pem.as_bytes()).unwrap(), *pkcs8);
        let key = PrivateKey::from_pkcs8(&pkcs8).unwrap();
        let public = PublicKey::parse(&key.spki().unwrap(), KnownKeys::Refuse).unwrap();
        public.verify(b"message", &key.sign(b"message").unwrap()).unwrap();
        let plain = key.sign_plain(b"message").unwrap();
        public.verify_plain(b"message", &plain).unwrap();
        assert!(public.verify_plain(b"messagf", &plain).is_err());
    }

    #[test]
    fn what_is_no_p256_key_is_refused() {
        let pkcs8 = generate_p256().unwrap();
        assert!(PrivateKey::from_pkcs8(&pkcs8[..pkcs8.len() - 1]).is_err());
        let certificate_label = pem::encode(&pkcs8, "CERTIFICATE");
        assert!(private_key_from_pem(certificate_label.as_bytes()).is_err());
    }
}
