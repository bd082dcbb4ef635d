//! Jobs of remote SIM provisioning: what an SM-DP+'s keys sign and how they bind a profile to an eUICC (docs/cycles/rsp.md).
//!
//! There is no job that signs what a caller brings with such a key: each input is named for its purpose, the message is put
//! together in the worker, and a key of another role is refused there.

use aws_lc_rs::digest::{SHA256, digest};
use domain::Eid;
use keys::bsp::ProfileProtection;
use keys::rsp::{
    TransactionId, is_one_sequence, is_request_for, is_transaction_object, with_association_token,
    with_signature,
};
use serde::{Deserialize, Serialize};

use crate::error::HsmError;
use crate::key::{KeyRef, KeyRole};

/// What a key of an SM-DP+ is asked to sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RspInput {
    /// ServerSigned1, DER; by a [`KeyRole::RspAuth`] key.
    ServerSigned1(Vec<u8>),
    /// SmdpSigned2, DER, and the eUICC's signature over euiccSigned1; by a [`KeyRole::RspPb`] key.
    SmdpSigned2 {
        /// DER SEQUENCE.
        smdp_signed2: Vec<u8>,
        /// r || s.
        euicc_signature1: [u8; 64],
    },
    /// EuiccPackageSigned, DER, and the association token behind it; by a [`KeyRole::EimSign`] key.
    EuiccPackage {
        /// DER SEQUENCE.
        euicc_package_signed: Vec<u8>,
        /// 0: none.
        association_token: u64,
    },
    /// CertificationRequestInfo (RFC 2986), DER, for the signing key itself; by a [`KeyRole::RspAuth`] or [`KeyRole::RspPb`] key.
    CertificationRequest(Vec<u8>),
}

impl RspInput {
    /// Whether keys of this role sign it: those of one purpose, on either curve, and no others.
    pub const fn is_for(&self, role: KeyRole) -> bool {
        matches!(
            (self, role),
            (Self::ServerSigned1(_), KeyRole::RspAuth(_))
                | (Self::SmdpSigned2 { .. }, KeyRole::RspPb(_))
                | (Self::EuiccPackage { .. }, KeyRole::EimSign)
                | (Self::CertificationRequest(_), KeyRole::RspAuth(_) | KeyRole::RspPb(_))
        )
    }

    /// SHA-256 of the message that the key `spki` signs. Refused when the object is no single SEQUENCE of its kind: so a DPauth key
    /// never signs what ends with a signature or begins with a control reference, which is all that DPpb keys sign, and no key
    /// signs another's request for a certificate.
    pub(crate) fn digest(&self, spki: &[u8]) -> Result<[u8; 32], HsmError> {
        let message = match self {
            Self::ServerSigned1(object) if is_transaction_object(object) => object.clone(),
            Self::SmdpSigned2 { smdp_signed2, euicc_signature1 } if is_transaction_object(smdp_signed2) => {
                with_signature(smdp_signed2, euicc_signature1)
            }
            Self::EuiccPackage { euicc_package_signed, association_token }
                if is_one_sequence(euicc_package_signed) =>
            {
                with_association_token(euicc_package_signed, *association_token)
            }
            Self::CertificationRequest(information) if is_request_for(information, spki) => {
                information.clone()
            }
            _ => return Err(HsmError::caller("the input is no DER of its kind")),
        };
        Ok(sha256(&message))
    }
}

/// Binds one profile to one one-time key of an eUICC: a fresh otPK.DP/otSK.DP in the token, the key agreement, the signed
/// InitialiseSecureChannel, and the keys sealed to the caller. Each call makes another one-time key pair.
#[derive(Debug, Clone)]
pub struct RspBindJob {
    /// The DPpb key; the one-time keys are of its curve.
    pub key: KeyRef,
    /// otPK.EUICC.ECKA: an uncompressed point, of which the caller knows that an eUICC signed it.
    pub euicc_key: [u8; 65],
    /// The transaction.
    pub transaction_id: TransactionId,
    /// 1 to 16 bytes.
    pub host_id: Vec<u8>,
    /// The device.
    pub eid: Eid,
    /// Whether the profile has keys of its own, which are then made too.
    pub protection: ProfileProtection,
    /// To whom the keys are sealed: an uncompressed P-256 point.
    pub recipient: [u8; 65],
    /// The HPKE info: [`keys::bsp::bound_keys_info`].
    pub info: Vec<u8>,
}

/// A profile's binding. Opens with [`keys::seal::open`] into [`keys::bsp::BoundKeys::decode`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RspBound {
    /// InitialiseSecureChannelRequest, DER, tag BF23, with its signature.
    pub initialise_secure_channel: Vec<u8>,
    /// HPKE encapsulated key, an uncompressed P-256 point.
    pub encapsulated_key: [u8; 65],
    /// The sealed keys.
    pub ciphertext: Vec<u8>,
}

/// [`RspInput`] in a frame.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WireRspSign {
    pub(crate) key: KeyRef,
    pub(crate) input: WireRspInput,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum WireRspInput {
    ServerSigned1(Vec<u8>),
    SmdpSigned2 { smdp_signed2: Vec<u8>, euicc_signature1: Vec<u8> },
    EuiccPackage { euicc_package_signed: Vec<u8>, association_token: u64 },
    CertificationRequest(Vec<u8>),
}

impl From<RspInput> for WireRspInput {
    fn from(input: RspInput) -> Self {
        match input {
            RspInput::ServerSigned1(object) => Self::ServerSigned1(object),
            RspInput::SmdpSigned2 { smdp_signed2, euicc_signature1 } => {
                Self::SmdpSigned2 { smdp_signed2, euicc_signature1: euicc_signature1.to_vec() }
            }
            RspInput::EuiccPackage { euicc_package_signed, association_token } => {
                Self::EuiccPackage { euicc_package_signed, association_token }
            }
            RspInput::CertificationRequest(information) => Self::CertificationRequest(information),
        }
    }
}

impl TryFrom<&WireRspInput> for RspInput {
    type Error = HsmError;

    fn try_from(input: &WireRspInput) -> Result<Self, HsmError> {
        Ok(match input {
            WireRspInput::ServerSigned1(object) => Self::ServerSigned1(object.clone()),
            WireRspInput::SmdpSigned2 { smdp_signed2, euicc_signature1 } => Self::SmdpSigned2 {
                smdp_signed2: smdp_signed2.clone(),
                euicc_signature1: fixed(euicc_signature1, "a signature")?,
            },
            WireRspInput::EuiccPackage { euicc_package_signed, association_token } => Self::EuiccPackage {
                euicc_package_signed: euicc_package_signed.clone(),
                association_token: *association_token,
            },
            WireRspInput::CertificationRequest(information) => {
                Self::CertificationRequest(information.clone())
            }
        })
    }
}

/// [`RspBindJob`] in a frame.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WireRspBind {
    pub(crate) key: KeyRef,
    pub(crate) euicc_key: Vec<u8>,
    pub(crate) transaction_id: [u8; 16],
    pub(crate) host_id: Vec<u8>,
    pub(crate) eid: [u8; 16],
    pub(crate) protection: u8,
    pub(crate) recipient: Vec<u8>,
    pub(crate) info: Vec<u8>,
}

pub(crate) fn sha256(message: &[u8]) -> [u8; 32] {
    digest(&SHA256, message).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Bytes of a frame as an array.
pub(crate) fn fixed<const N: usize>(bytes: &[u8], what: &str) -> Result<[u8; N], HsmError> {
    bytes.try_into().map_err(|_| HsmError::caller(format!("{what} has {N} bytes")))
}

#[cfg(test)]
mod tests {
    use domain::EuiccCurve;

    use super::*;

    #[test]
    fn no_input_of_one_role_is_an_input_of_the_other() {
        let signed2 = vec![0x30, 0x06, 0x80, 0x01, 0x07, 0x01, 0x01, 0x00];
        let pb = RspInput::SmdpSigned2 { smdp_signed2: signed2.clone(), euicc_signature1: [7; 64] };
        assert_eq!(pb.digest(&[]).unwrap(), sha256(&with_signature(&signed2, &[7; 64])));
        for curve in EuiccCurve::ALL {
            assert!(pb.is_for(KeyRole::RspPb(curve)) && !pb.is_for(KeyRole::RspAuth(curve)));
        }
        // What a DPpb key signs, offered as ServerSigned1: with a signature after it, and the data of a secure channel.
        let offered = [with_signature(&signed2, &[7; 64]), vec![0x82, 0x01, 0x01, 0x80, 0x00], Vec::new()];
        for message in offered {
            assert!(RspInput::ServerSigned1(message).digest(&[]).is_err());
        }
        // A request for a certificate is for the key that signs it, and is no other input.
        let spki = [0x30, 0x03, 0x06, 0x01, 0x2a];
        let information = [&[0x30, 0x0c, 0x02, 0x01, 0x00, 0x30, 0x00][..], &spki, &[0xa0, 0x00]].concat();
        let request = RspInput::CertificationRequest(information.clone());
        assert_eq!(request.digest(&spki).unwrap(), sha256(&information));
        assert!(request.digest(&[0x30, 0x03, 0x06, 0x01, 0x2b]).is_err());
        assert!(RspInput::CertificationRequest(signed2.clone()).digest(&spki).is_err());
        assert!(RspInput::ServerSigned1(information).digest(&spki).is_err());
        assert!(!request.is_for(KeyRole::EimSign));
        let auth = RspInput::ServerSigned1(signed2);
        for curve in EuiccCurve::ALL {
            assert!(auth.is_for(KeyRole::RspAuth(curve)) && !auth.is_for(KeyRole::RspPb(curve)));
        }
    }
}
