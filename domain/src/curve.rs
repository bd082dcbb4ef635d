//! The elliptic curves of certificates, one-time keys and device key pairs.

use std::fmt;

use crate::UnknownCode;

/// A named curve of certificates.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Curve {
    /// NIST P-256 (SP 800-186; secp256r1, prime256v1).
    P256,
    /// brainpoolP256r1 (RFC 5639).
    BrainpoolP256r1,
    /// NIST P-384 (SP 800-186; secp384r1).
    P384,
}

impl Curve {
    /// Every curve.
    pub const ALL: [Self; 3] = [Self::P256, Self::BrainpoolP256r1, Self::P384];

    /// The number in messages, records and frames.
    pub const fn code(self) -> u32 {
        match self {
            Self::P256 => 1,
            Self::BrainpoolP256r1 => 2,
            Self::P384 => 3,
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
            Self::P384 => "P-384",
        }
    }

    /// Bytes of an uncompressed point: 04 and both coordinates.
    pub const fn point_bytes(self) -> usize {
        match self {
            Self::P256 | Self::BrainpoolP256r1 => 65,
            Self::P384 => 97,
        }
    }

    /// Content octets of its object identifier: 1.2.840.10045.3.1.7 and 1.3.132.0.34 (RFC 5480 §2.1.1.1), 1.3.36.3.3.2.8.1.1.7
    /// (RFC 5639 §4.1).
    pub const fn object_identifier(self) -> &'static [u8] {
        match self {
            Self::P256 => &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
            Self::BrainpoolP256r1 => &[0x2b, 0x24, 0x03, 0x03, 0x02, 0x08, 0x01, 0x01, 0x07],
            Self::P384 => &[0x2b, 0x81, 0x04, 0x00, 0x22],
        }
    }
}

/// A curve that eUICCs know: SGP.22 has those of 256 bits only. Of profile downloads and of keys that are made for devices;
/// points are 65 bytes uncompressed, signatures r || s are 64.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum EuiccCurve {
    /// NIST P-256.
    P256,
    /// brainpoolP256r1.
    BrainpoolP256r1,
}

impl EuiccCurve {
    /// Every one.
    pub const ALL: [Self; 2] = [Self::P256, Self::BrainpoolP256r1];

    /// The same among all curves.
    pub const fn curve(self) -> Curve {
        match self {
            Self::P256 => Curve::P256,
            Self::BrainpoolP256r1 => Curve::BrainpoolP256r1,
        }
    }
}

impl TryFrom<Curve> for EuiccCurve {
    type Error = NoEuiccCurve;

    fn try_from(curve: Curve) -> Result<Self, NoEuiccCurve> {
        match curve {
            Curve::P256 => Ok(Self::P256),
            Curve::BrainpoolP256r1 => Ok(Self::BrainpoolP256r1),
            Curve::P384 => Err(NoEuiccCurve(curve)),
        }
    }
}

impl fmt::Display for EuiccCurve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.curve().fmt(f)
    }
}

impl std::str::FromStr for EuiccCurve {
    type Err = UnknownEuiccCurve;

    fn from_str(text: &str) -> Result<Self, UnknownEuiccCurve> {
        text.parse::<Curve>().ok().and_then(|curve| curve.try_into().ok()).ok_or(UnknownEuiccCurve)
    }
}

/// A name of no curve that eUICCs know.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("key pairs for devices are made on P-256 or brainpoolP256r1")]
pub struct UnknownEuiccCurve;

/// A curve that no eUICC knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("eUICCs know P-256 and brainpoolP256r1 (SGP.22), not {0}")]
pub struct NoEuiccCurve(pub Curve);

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
#[error("a curve is P-256, brainpoolP256r1 or P-384")]
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
        assert!(Curve::from_code(0).is_err() && Curve::from_code(4).is_err());
        assert_eq!("P-521".parse::<Curve>(), Err(UnknownCurve));
    }

    #[test]
    fn an_euicc_knows_the_curves_of_256_bits() {
        for curve in EuiccCurve::ALL {
            assert_eq!(EuiccCurve::try_from(curve.curve()), Ok(curve));
            assert_eq!(curve.to_string().parse(), Ok(curve));
            assert_eq!(curve.curve().point_bytes(), 65);
        }
        assert_eq!(EuiccCurve::try_from(Curve::P384), Err(NoEuiccCurve(Curve::P384)));
        assert_eq!("P-384".parse::<EuiccCurve>(), Err(UnknownEuiccCurve));
    }
}
