//! The elliptic curves of certificates, one-time keys and device key pairs.

use std::fmt;

use crate::UnknownCode;

/// A named curve of 256 bits: points are 65 bytes uncompressed, signatures r || s are 64.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Curve {
    /// NIST P-256 (SP 800-186; secp256r1, prime256v1).
    P256,
    /// brainpoolP256r1 (RFC 5639).
    BrainpoolP256r1,
}

impl Curve {
    /// Every curve.
    pub const ALL: [Self; 2] = [Self::P256, Self::BrainpoolP256r1];

    /// The number in messages, records and frames.
    pub const fn code(self) -> u32 {
        match self {
            Self::P256 => 1,
            Self::BrainpoolP256r1 => 2,
        }
    }

    /// Reads a number of a message, record or frame.
    pub fn from_code(code: u32) -> Result<Self, UnknownCode> {
        Self::ALL.into_iter().find(|curve| curve.code() == code).ok_or(UnknownCode { what: "curve", code })
    }

    /// The stable name used in files, options and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::BrainpoolP256r1 => "brainpoolP256r1",
        }
    }

    /// Content octets of its object identifier: 1.2.840.10045.3.1.7 (RFC 5480 §2.1.1.1), 1.3.36.3.3.2.8.1.1.7 (RFC 5639 §4.1).
    pub const fn object_identifier(self) -> &'static [u8] {
        match self {
            Self::P256 => &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
            Self::BrainpoolP256r1 => &[0x2b, 0x24, 0x03, 0x03, 0x02, 0x08, 0x01, 0x01, 0x07],
        }
    }
}

impl fmt::Display for Curve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Curve {
    type Err = UnknownCurve;

    fn from_str(text: &str) -> Result<Self, UnknownCurve> {
        Self::ALL.into_iter().find(|curve| curve.as_str().eq_ignore_ascii_case(text)).ok_or(UnknownCurve)
    }
}

/// A name of no curve of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a curve is P-256 or brainpoolP256r1")]
pub struct UnknownCurve;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_curve_is_read_back_by_its_number_and_its_name() {
        for curve in Curve::ALL {
            assert_eq!(Curve::from_code(curve.code()), Ok(curve));
            assert_eq!(curve.as_str().parse(), Ok(curve));
        }
        assert!(Curve::from_code(0).is_err() && Curve::from_code(3).is_err());
        assert_eq!("P-384".parse::<Curve>(), Err(UnknownCurve));
    }
}
