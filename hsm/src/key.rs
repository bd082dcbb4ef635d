//! Keys on a token: their names, their roles, and what proves that the right one answers.

use std::fmt;

use domain::{Curve, EuiccCurve};
use serde::{Deserialize, Serialize};

/// Names one key object of a token. The class follows from its role.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyRef {
    /// CKA_LABEL: `chancery/<role>/<name>/<epoch>`.
    pub label: String,
    /// CKA_ID: random, so that no key answers for another of its name.
    pub id: [u8; 16],
}

impl fmt::Display for KeyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.label, hex::encode(&self.id[..4]))
    }
}

/// What a key may be used for. One role, one template ([`crate::template`]), one mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KeyRole {
    /// Signs certificates and CRLs (CKM_ECDSA over a digest).
    CertificateIssuer(#[serde(with = "wire_curve")] Curve),
    /// Signs certificates and CRLs with a key that other software made on the token. Where it has been, and for what else the token
    /// lets it be used, is as the token says ([`crate::template`]).
    AdoptedIssuer(#[serde(with = "wire_curve")] Curve),
    /// P-256; signs the mTLS certificates of persons and parties.
    OperatorIssuer,
    /// Signs OCSP answers for one issuer, under a certificate of that issuer (CKM_ECDSA over a digest).
    OcspResponder(#[serde(with = "wire_curve")] Curve),
    /// AES-256; derives device keys (CKM_AES_ECB_ENCRYPT_DATA), nothing else.
    Master,
    /// AES-256; CMAC, which is our derivation itself: device keys come out and are in worker memory. The fast mode, by policy.
    FastMaster,
    /// Ed25519; signs checkpoints of the log.
    LogSigner,
    /// AES-256; CMAC, from which the log's MAC key is made.
    LogMac,
    /// AES-256; CMAC, from which the yearly pseudonym keys are made.
    Pseudonym,
    /// P-256; signs a constant to show that the token is alive and still the same.
    CanarySign,
    /// AES-256; derives a constant to show the same on a token of masters.
    CanaryDerive,
    /// Signs ServerSigned1 of one SM-DP+ (its DPauth key), nothing else.
    RspAuth(#[serde(with = "wire_euicc_curve")] EuiccCurve),
    /// Signs SmdpSigned2 and secure channels of one SM-DP+ (its DPpb key), nothing else.
    RspPb(#[serde(with = "wire_euicc_curve")] EuiccCurve),
    /// P-256; signs eUICC packages of one eIM (SGP.32), nothing else.
    EimSign,
    /// A master whose value has been outside a token: that of a fleet that moved in, or one made from components. Derives
    /// device keys and does nothing else, as [`Self::Master`] does.
    ImportedMaster(MasterAlgorithm),
    /// AES-256 of a party, imported; wraps keys for it by AES-KWP. What it wrapped cannot be unwrapped here.
    PartyTransport,
    /// AES-256 of a party, imported; unwraps by AES-KWP the device keys that the party brings in, into keys of one job.
    PartyImport,
    /// P-256; agrees on secrets with cards of SCP11 (SK.OCE.ECKA of one platform), nothing else.
    OceAgreement,
    /// AES-256; CMAC, from which the one-time keys of SCP11 sessions are made.
    OceSeed,
    /// AES-256; wraps random device keys for the store by AES-KWP and unwraps them into keys that never leave again.
    Kek,
    /// AES-256; CMAC, which binds each stored key to its keyset.
    BlobMac,
    /// RSA-3072; unwraps imported keys by OAEP, into keys that cannot be read or wrapped again.
    TransportImport,
}

/// What an imported master is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MasterAlgorithm {
    /// 16 bytes.
    Aes128,
    /// 24 bytes.
    Aes192,
    /// 32 bytes.
    Aes256,
    /// 16 bytes, 2-key triple DES: of old fleets only.
    TripleDes2Key,
    /// 24 bytes, 3-key triple DES: of old fleets only.
    TripleDes3Key,
}

impl MasterAlgorithm {
    /// Every one.
    pub const ALL: [Self; 5] =
        [Self::Aes128, Self::Aes192, Self::Aes256, Self::TripleDes2Key, Self::TripleDes3Key];

    /// Bytes of the key.
    pub const fn key_bytes(self) -> usize {
        match self {
            Self::Aes128 | Self::TripleDes2Key => 16,
            Self::Aes192 | Self::TripleDes3Key => 24,
            Self::Aes256 => 32,
        }
    }

    /// Whether it is a cipher of blocks of 8 bytes.
    pub const fn is_triple_des(self) -> bool {
        matches!(self, Self::TripleDes2Key | Self::TripleDes3Key)
    }
}

impl KeyRole {
    /// Every role.
    pub const ALL: [Self; 34] = [
        Self::CertificateIssuer(Curve::P256),
        Self::CertificateIssuer(Curve::BrainpoolP256r1),
        Self::CertificateIssuer(Curve::P384),
        Self::AdoptedIssuer(Curve::P256),
        Self::AdoptedIssuer(Curve::BrainpoolP256r1),
        Self::AdoptedIssuer(Curve::P384),
        Self::OperatorIssuer,
        Self::OcspResponder(Curve::P256),
        Self::OcspResponder(Curve::BrainpoolP256r1),
        Self::OcspResponder(Curve::P384),
        Self::Master,
        Self::FastMaster,
        Self::LogSigner,
        Self::LogMac,
        Self::Pseudonym,
        Self::CanarySign,
        Self::CanaryDerive,
        Self::ImportedMaster(MasterAlgorithm::Aes128),
        Self::ImportedMaster(MasterAlgorithm::Aes192),
        Self::ImportedMaster(MasterAlgorithm::Aes256),
        Self::ImportedMaster(MasterAlgorithm::TripleDes2Key),
        Self::ImportedMaster(MasterAlgorithm::TripleDes3Key),
        Self::PartyTransport,
        Self::PartyImport,
        Self::TransportImport,
        Self::RspAuth(EuiccCurve::P256),
        Self::RspAuth(EuiccCurve::BrainpoolP256r1),
        Self::RspPb(EuiccCurve::P256),
        Self::RspPb(EuiccCurve::BrainpoolP256r1),
        Self::EimSign,
        Self::OceAgreement,
        Self::OceSeed,
        Self::Kek,
        Self::BlobMac,
    ];

    /// The word in the label and in the token specification.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CertificateIssuer(Curve::P256) => "certificate-issuer",
            Self::CertificateIssuer(Curve::BrainpoolP256r1) => "certificate-issuer-brainpool-p256r1",
            Self::CertificateIssuer(Curve::P384) => "certificate-issuer-p-384",
            Self::AdoptedIssuer(Curve::P256) => "adopted-issuer",
            Self::AdoptedIssuer(Curve::BrainpoolP256r1) => "adopted-issuer-brainpool-p256r1",
            Self::AdoptedIssuer(Curve::P384) => "adopted-issuer-p-384",
            Self::OperatorIssuer => "operator-issuer",
            Self::OcspResponder(Curve::P256) => "ocsp-responder",
            Self::OcspResponder(Curve::BrainpoolP256r1) => "ocsp-responder-brainpool-p256r1",
            Self::OcspResponder(Curve::P384) => "ocsp-responder-p-384",
            Self::Master => "master",
            Self::FastMaster => "fast-master",
            Self::LogSigner => "log-signer",
            Self::LogMac => "log-mac",
            Self::Pseudonym => "pseudonym",
            Self::CanarySign => "canary-sign",
            Self::CanaryDerive => "canary-derive",
            Self::ImportedMaster(MasterAlgorithm::Aes128) => "imported-master-aes-128",
            Self::ImportedMaster(MasterAlgorithm::Aes192) => "imported-master-aes-192",
            Self::ImportedMaster(MasterAlgorithm::Aes256) => "imported-master-aes-256",
            Self::ImportedMaster(MasterAlgorithm::TripleDes2Key) => "imported-master-3des-2key",
            Self::ImportedMaster(MasterAlgorithm::TripleDes3Key) => "imported-master-3des-3key",
            Self::PartyTransport => "party-transport",
            Self::PartyImport => "party-import",
            Self::TransportImport => "transport-import",
            Self::RspAuth(EuiccCurve::P256) => "rsp-auth",
            Self::RspAuth(EuiccCurve::BrainpoolP256r1) => "rsp-auth-brainpool-p256r1",
            Self::RspPb(EuiccCurve::P256) => "rsp-pb",
            Self::RspPb(EuiccCurve::BrainpoolP256r1) => "rsp-pb-brainpool-p256r1",
            Self::EimSign => "eim-sign",
            Self::OceAgreement => "oce-agreement",
            Self::OceSeed => "oce-seed",
            Self::Kek => "kek",
            Self::BlobMac => "blob-mac",
        }
    }

    /// Which kind of key the role takes, and with it the one mechanism it may use.
    pub const fn kind(self) -> KeyKind {
        match self {
            Self::CertificateIssuer(curve) | Self::OcspResponder(curve) => KeyKind::Ec(curve),
            Self::RspAuth(curve) | Self::RspPb(curve) => KeyKind::Ec(curve.curve()),
            Self::AdoptedIssuer(curve) => KeyKind::AdoptedEc(curve),
            Self::OperatorIssuer | Self::CanarySign | Self::EimSign => KeyKind::Ec(Curve::P256),
            Self::LogSigner => KeyKind::Ed25519,
            Self::Master | Self::CanaryDerive => KeyKind::AesDerive,
            Self::LogMac | Self::Pseudonym | Self::BlobMac | Self::FastMaster | Self::OceSeed => {
                KeyKind::AesCmac
            }
            Self::OceAgreement => KeyKind::EcAgreement,
            Self::Kek => KeyKind::AesKek,
            Self::ImportedMaster(algorithm) => KeyKind::ImportedDerive(algorithm),
            Self::PartyTransport => KeyKind::AesWrap,
            Self::PartyImport => KeyKind::AesImport,
            Self::TransportImport => KeyKind::RsaUnwrap,
        }
    }

    /// Whether device keys are derived from it.
    pub const fn is_master(self) -> bool {
        matches!(self, Self::Master | Self::FastMaster | Self::ImportedMaster(_))
    }

    /// Whether its value comes from outside, so that the token cannot vouch for where it has been (PKCS#11: LOCAL,
    /// ALWAYS_SENSITIVE and NEVER_EXTRACTABLE are false).
    pub const fn is_imported(self) -> bool {
        matches!(self, Self::ImportedMaster(_) | Self::PartyTransport | Self::PartyImport)
    }

    /// Bytes of its key, of a secret one.
    pub const fn key_bytes(self) -> Option<usize> {
        match self.kind() {
            KeyKind::ImportedDerive(algorithm) => Some(algorithm.key_bytes()),
            KeyKind::AesDerive
            | KeyKind::AesCmac
            | KeyKind::AesWrap
            | KeyKind::AesImport
            | KeyKind::AesKek => Some(32),
            KeyKind::Ec(_)
            | KeyKind::AdoptedEc(_)
            | KeyKind::EcAgreement
            | KeyKind::Ed25519
            | KeyKind::RsaUnwrap => None,
        }
    }

    /// Whether other software made the key on the token.
    pub const fn is_adopted(self) -> bool {
        matches!(self, Self::AdoptedIssuer(_))
    }

    /// Whether keys of this role sign only what a job names by its purpose ([`crate::RspInput`]), never a bare digest.
    pub(crate) const fn is_bound_to_a_purpose(self) -> bool {
        matches!(self, Self::RspAuth(_) | Self::RspPb(_) | Self::EimSign)
    }

    /// Whether its keys answer for a key agreement with one-time keys of their curve.
    pub(crate) const fn agrees_on_keys(self) -> bool {
        matches!(self, Self::RspPb(_))
    }

    pub(crate) const fn is_canary(self) -> bool {
        matches!(self, Self::CanarySign | Self::CanaryDerive)
    }

    /// The label of a key of this role; `name` and `epoch` are chosen by the ceremony.
    pub fn label(self, name: &str, epoch: u32) -> String {
        format!("chancery/{}/{name}/{epoch}", self.as_str())
    }
}

/// The kinds of key this layer makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// Private key of a curve, SIGN, CKM_ECDSA.
    Ec(Curve),
    /// Private key of a curve that other software made, SIGN, CKM_ECDSA and what else the token lets it do.
    AdoptedEc(Curve),
    /// P-256 private key, DERIVE, CKM_ECDH1_DERIVE.
    EcAgreement,
    /// Ed25519 private key, SIGN, CKM_EDDSA.
    Ed25519,
    /// AES-256, DERIVE, CKM_AES_ECB_ENCRYPT_DATA.
    AesDerive,
    /// AES-256, SIGN, CKM_AES_CMAC.
    AesCmac,
    /// AES or triple DES from outside, DERIVE, CKM_AES_ECB_ENCRYPT_DATA or CKM_DES3_ECB_ENCRYPT_DATA.
    ImportedDerive(MasterAlgorithm),
    /// AES-256 from outside, WRAP, AES-KWP.
    AesWrap,
    /// AES-256 from outside, UNWRAP, AES-KWP, with an unwrap template; WRAP, which is how it shows its value at each start.
    AesImport,
    /// AES-256, WRAP and UNWRAP, AES-KWP, with an unwrap template.
    AesKek,
    /// RSA-3072 private key, UNWRAP, CKM_RSA_PKCS_OAEP, with an unwrap template.
    RsaUnwrap,
}

/// What the record of a key says about its value: the token must show the same at every start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyCheck {
    /// SubjectPublicKeyInfo, DER: a fresh signature must verify under it, or a key encrypted to it must be unwrapped.
    PublicKey(Vec<u8>),
    /// Three bytes over 16 bytes of 01: for DERIVE keys the leading bytes of AES-ECB (the GlobalPlatform key check
    /// value; for triple DES over 8 bytes of 00), for CMAC keys those of AES-CMAC, for WRAP keys those of AES-KWP of such a
    /// key: each the only function the key has.
    CheckValue([u8; 3]),
}

/// A key the service knows: recorded by a ceremony, checked at every worker start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisteredKey {
    /// Its name on the token.
    pub key: KeyRef,
    /// Its role, and with it the template it must have.
    pub role: KeyRole,
    /// What proves its value.
    pub check: KeyCheck,
}

/// The hash of RSA-OAEP (and of its MGF1) under which a transport key leaves. The token decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OaepHash {
    /// SHA-1 with MGF1-SHA-1: all that SoftHSM has. OAEP does not rest on collision resistance.
    Sha1,
    /// SHA-256 with MGF1-SHA-256.
    Sha256,
}

impl OaepHash {
    /// The stable name used in output files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha1 => "SHA-1",
            Self::Sha256 => "SHA-256",
        }
    }
}

/// A curve in a frame: its number.
mod wire_curve {
    use domain::Curve;
    use serde::{Deserialize, Deserializer, Serializer, de};

    // serde's `with` hands a reference.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
    pub(super) fn serialize<S: Serializer>(curve: &Curve, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(curve.code())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Curve, D::Error> {
        Curve::from_code(u32::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// One that eUICCs know.
mod wire_euicc_curve {
    use domain::{Curve, EuiccCurve};
    use serde::{Deserializer, Serializer, de};

    use super::wire_curve;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
    pub(super) fn serialize<S: Serializer>(curve: &EuiccCurve, serializer: S) -> Result<S::Ok, S::Error> {
        wire_curve::serialize(&curve.curve(), serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<EuiccCurve, D::Error> {
        let curve: Curve = wire_curve::deserialize(deserializer)?;
        curve.try_into().map_err(de::Error::custom)
    }
}
