//! Certificate serial numbers.

use crate::der;
use crate::error::PkiError;
use domain::Eid;
use std::fmt;
use std::str::FromStr;

/// A positive certificate serial number of at most 20 content octets (RFC 5280 §4.1.2.2).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SerialNumber(Vec<u8>);

impl SerialNumber {
    /// From 20 random octets: the top bit is cleared so that 20 octets suffice, and a first octet of zero, which would be
    /// dropped by the encoding, becomes one. At least 158 random bits stay.
    pub fn from_random(mut octets: [u8; 20]) -> Self {
        octets[0] &= 0x7f;
        if octets[0] == 0 {
            octets[0] = 1;
        }
        Self(octets.to_vec())
    }

    /// The EID's 32 digits, two an octet: the serial number that SGP.26 v3 gives an eUICC's certificate.
    pub fn from_eid(eid: &Eid) -> Self {
        let digits = eid.bcd();
        let first = digits.iter().position(|b| *b != 0).unwrap_or(digits.len() - 1);
        Self(digits[first..].to_vec())
    }

    /// From a big-endian magnitude, leading zeros allowed; zero, and what needs more than 20 content octets, is refused.
    pub fn from_bytes(magnitude: &[u8]) -> Result<Self, PkiError> {
        let first = magnitude.iter().position(|b| *b != 0).ok_or(PkiError::SerialNumber)?;
        let significant = &magnitude[first..];
        let octets = significant.len() + usize::from(significant[0] >> 7);
        if octets > 20 { Err(PkiError::SerialNumber) } else { Ok(Self(significant.to_vec())) }
    }

    /// From the content octets of a DER INTEGER: minimal, positive.
    pub(crate) fn from_content(content: &[u8]) -> Result<Self, PkiError> {
        let serial = match content.first() {
            Some(0..=0x7f) => Self::from_bytes(content)?,
            _ => return Err(PkiError::SerialNumber),
        };
        if serial.content() == content { Ok(serial) } else { Err(PkiError::SerialNumber) }
    }

    /// The magnitude without leading zeros: 1 to 20 octets.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The content octets of the DER INTEGER.
    pub(crate) fn content(&self) -> Vec<u8> {
        der::unsigned_integer(&self.0)[2..].to_vec()
    }
}

/// Lower-case hexadecimal digits of the magnitude, two per octet.
impl fmt::Display for SerialNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for SerialNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SerialNumber({self})")
    }
}

/// Reads what `Display` writes.
impl FromStr for SerialNumber {
    type Err = PkiError;

    fn from_str(text: &str) -> Result<Self, PkiError> {
        Self::from_bytes(&hex::decode(text).map_err(|_| PkiError::SerialNumber)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn zero_and_more_than_twenty_octets_are_refused() {
        assert!(SerialNumber::from_bytes(&[]).is_err());
        assert!(SerialNumber::from_bytes(&[0, 0]).is_err());
        assert!(SerialNumber::from_bytes(&[0x7f; 20]).is_ok());
        assert!(SerialNumber::from_bytes(&[0x80; 20]).is_err());
        assert!(SerialNumber::from_bytes(&[0x80; 19]).is_ok());
        assert!(SerialNumber::from_bytes(&[1; 21]).is_err());
    }

    #[test]
    fn only_minimal_positive_integers_are_read_from_der() {
        assert_eq!(SerialNumber::from_content(&[0, 0xb8, 0x74]).unwrap().to_string(), "b874");
        for content in [&[][..], &[0], &[0, 1], &[0x80], &[0xff, 1]] {
            assert!(SerialNumber::from_content(content).is_err());
        }
    }

    proptest! {
        #[test]
        fn random_serials_take_exactly_twenty_octets(octets in any::<[u8; 20]>()) {
            let serial = SerialNumber::from_random(octets);
            prop_assert_eq!(serial.content().len(), 20);
            prop_assert!((1..=0x7f).contains(&serial.as_bytes()[0]));
            prop_assert_eq!(serial.to_string().parse::<SerialNumber>().unwrap(), serial);
        }
    }

    #[test]
    fn the_extremes_of_the_random_octets_stay_in_range() {
        assert_eq!(SerialNumber::from_random([0; 20]).as_bytes()[0], 1);
        assert_eq!(SerialNumber::from_random([0xff; 20]).as_bytes()[0], 0x7f);
        assert_eq!(SerialNumber::from_random([0x80; 20]).as_bytes()[0], 1);
    }
}
