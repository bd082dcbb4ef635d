//! Private keys in files: PKCS#8 in PEM, readable by their owner only, wiped from memory after use.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use aws_lc_rs::encoding::{AsBigEndian, AsDer, EcPrivateKeyBin, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeySize, PrivateDecryptingKey};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use clap::ValueEnum;
use domain::Curve;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use zeroize::{Zeroize, Zeroizing};

use crate::error::CliError;
use crate::files::{self, Readers};

/// The curve of a TLS key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum TlsCurve {
    #[value(name = "P-256")]
    P256,
    #[value(name = "P-384")]
    P384,
}

/// A private key in PKCS#8 DER. Wiped on drop, never printed.
pub struct PrivateKey(PrivatePkcs8KeyDer<'static>);

impl Drop for PrivateKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PrivateKey {
    /// A fresh P-256 key.
    pub fn generate_p256() -> Result<Self, CliError> {
        let der = pki::generate_p256().map_err(|_| no_key())?;
        Ok(Self(der.to_vec().into()))
    }

    /// A fresh key for TLS.
    pub fn generate_for_tls(curve: TlsCurve) -> Result<Self, CliError> {
        match curve {
            TlsCurve::P256 => Self::generate_p256(),
            TlsCurve::P384 => {
                let der = pki::generate_p384().map_err(|_| no_key())?;
                Ok(Self(der.to_vec().into()))
            }
        }
    }

    /// A fresh RSA key of 3,072 bits for OAEP.
    pub fn generate_rsa_3072() -> Result<Self, CliError> {
        let key = PrivateDecryptingKey::generate(KeySize::Rsa3072).map_err(|_| no_key())?;
        let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&key).map_err(|_| no_key())?;
        Ok(Self(der.as_ref().to_vec().into()))
    }

    /// Reads a PEM `PRIVATE KEY`. Refuses a file that others may read or write.
    pub fn load(path: &Path) -> Result<Self, CliError> {
        let metadata = std::fs::metadata(path).map_err(CliError::file("read", path))?;
        if metadata.permissions().mode() & 0o077 != 0 {
            return Err(CliError::invalid(
                format!("others may use the private key {}", path.display()),
                format!("chmod 600 {}", path.display()),
            ));
        }
        let text = Zeroizing::new(files::read(path)?);
        PrivatePkcs8KeyDer::from_pem_slice(&text).map(Self).map_err(|_| {
            CliError::invalid(
                format!("{} is no PEM private key in PKCS#8", path.display()),
                "name the right file",
            )
        })
    }

    /// Writes a new file with mode 0600.
    pub fn save_new(&self, path: &Path) -> Result<(), CliError> {
        files::write_new(path, pki::private_key_to_pem(self.der()).as_bytes(), Readers::Owner)
    }

    /// PKCS#8.
    pub fn der(&self) -> &[u8] {
        self.0.secret_pkcs8_der()
    }

    /// ECDSA P-256 with SHA-256 over `message`, DER.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, CliError> {
        self.p256()?.sign(message).map_err(|error| CliError::Local(error.to_string()))
    }

    /// SubjectPublicKeyInfo (DER) of a P-256 key.
    pub fn p256_spki(&self) -> Result<Vec<u8>, CliError> {
        self.p256().map(|key| key.spki())
    }

    /// SubjectPublicKeyInfo (DER) of a key on P-256 or P-384, as TLS has them.
    pub fn ec_spki(&self) -> Result<Vec<u8>, CliError> {
        self.ec().map(|key| key.spki())
    }

    /// The curve of such a key.
    pub fn tls_curve(&self) -> Result<TlsCurve, CliError> {
        Ok(if self.ec()?.curve() == Curve::P384 { TlsCurve::P384 } else { TlsCurve::P256 })
    }

    fn ec(&self) -> Result<pki::PrivateKey, CliError> {
        pki::PrivateKey::from_pkcs8(self.der()).map_err(|_| {
            CliError::invalid(
                "the private key is no P-256 or P-384 key",
                "name the key that belongs to the certificate or request",
            )
        })
    }

    /// The 32-byte scalar of a P-256 key.
    pub fn p256_scalar(&self) -> Result<Zeroizing<[u8; 32]>, CliError> {
        let key =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, self.der()).map_err(|_| not_p256())?;
        let scalar: EcPrivateKeyBin<'_> = key.private_key().as_be_bytes().map_err(|_| not_p256())?;
        let mut bytes = Zeroizing::new([0; 32]);
        // Padded to the field's length by the library; anything else is no P-256 scalar.
        if scalar.as_ref().len() != bytes.len() {
            return Err(not_p256());
        }
        bytes.copy_from_slice(scalar.as_ref());
        Ok(bytes)
    }

    /// SubjectPublicKeyInfo (DER) of an RSA key.
    pub fn rsa_spki(&self) -> Result<Vec<u8>, CliError> {
        let key = self.rsa()?.public_key();
        let der = AsDer::<PublicKeyX509Der<'_>>::as_der(&key).map_err(|_| not_rsa())?;
        Ok(der.as_ref().to_vec())
    }

    /// For OAEP.
    pub fn rsa(&self) -> Result<PrivateDecryptingKey, CliError> {
        PrivateDecryptingKey::from_pkcs8(self.der()).map_err(|_| not_rsa())
    }

    /// For signing and requests.
    pub fn p256(&self) -> Result<pki::PrivateKey, CliError> {
        let key = pki::PrivateKey::from_pkcs8(self.der()).ok();
        key.filter(|key| key.curve() == Curve::P256).ok_or_else(not_p256)
    }
}

fn no_key() -> CliError {
    CliError::Local("the key could not be made".to_owned())
}

fn not_p256() -> CliError {
    CliError::invalid("the private key is no P-256 key", "use the key that `chancery identity create` made")
}

fn not_rsa() -> CliError {
    CliError::invalid("the private key is no RSA key", "use the key that `chancery identity create` made")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_from_its_file_and_only_its_owner_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        let key = PrivateKey::generate_p256().unwrap();
        key.save_new(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(PrivateKey::load(&path).unwrap().der(), key.der());
        assert!(key.save_new(&path).is_err());

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(PrivateKey::load(&path).err().unwrap().next_step().unwrap().starts_with("chmod 600"));
    }

    #[test]
    fn a_tls_key_may_be_on_p_384_and_signs_no_approvals_then() {
        for curve in [TlsCurve::P256, TlsCurve::P384] {
            let key = PrivateKey::generate_for_tls(curve).unwrap();
            let public = pki::PublicKey::parse(&key.ec_spki().unwrap(), pki::KnownKeys::Refuse).unwrap();
            assert_eq!(key.tls_curve().unwrap(), curve);
            assert_eq!(key.sign(b"approval").is_ok(), public.curve() == Curve::P256);
            assert_eq!(key.p256_scalar().is_ok(), public.curve() == Curve::P256);
        }
    }

    #[test]
    fn a_signature_verifies_under_the_public_key() {
        let key = PrivateKey::generate_p256().unwrap();
        let public = pki::PublicKey::parse(&key.p256_spki().unwrap(), pki::KnownKeys::Refuse).unwrap();
        let signature = key.sign(b"message").unwrap();
        public.verify(b"message", &signature).unwrap();
        assert!(public.verify(b"another", &signature).is_err());
    }
}
