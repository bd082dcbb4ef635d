//! EID: the eUICC's identity, SGP.29 §4 (structure) and §10 (check digits).

use std::fmt;
use std::str::FromStr;

/// A 32-digit eUICC identifier whose check digits are right: the decimal number modulo 97 is 1 (SGP.29 §10).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Eid([u8; 16]);

/// Why a text is no EID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EidError {
    /// Not 32 characters (16 bytes in BCD).
    #[error("an EID has 32 decimal digits")]
    Length,
    /// A character that is no decimal digit.
    #[error("an EID holds decimal digits only")]
    Digit,
    /// The last two digits do not match the first thirty.
    #[error("the EID's check digits are wrong (SGP.29 §10)")]
    CheckDigits,
    /// An EIN of no or more than 30 digits.
    #[error("an EIN has 1 to 30 decimal digits")]
    EinLength,
}

impl Eid {
    /// From the 16 bytes of packed decimal that cards and protocols use (tag 5A).
    pub fn from_bcd(bytes: [u8; 16]) -> Result<Self, EidError> {
        let mut remainder = 0u32;
        for byte in bytes {
            let (high, low) = (u32::from(byte >> 4), u32::from(byte & 15));
            if high > 9 || low > 9 {
                return Err(EidError::Digit);
            }
            remainder = (remainder * 100 + high * 10 + low) % 97;
        }
        if remainder == 1 { Ok(Self(bytes)) } else { Err(EidError::CheckDigits) }
    }

    /// From the first thirty digits; the check digits are computed.
    pub fn from_body(digits: &str) -> Result<Self, EidError> {
        if digits.len() != 30 {
            return Err(EidError::Length);
        }
        let padded = digits_to_bcd::<16>(&format!("{digits}00"))?;
        let remainder =
            padded.iter().fold(0u32, |r, b| (r * 100 + u32::from(b >> 4) * 10 + u32::from(b & 15)) % 97);
        let check = 98 - remainder;
        format!("{digits}{check:02}").parse()
    }

    /// The 16 bytes of packed decimal.
    pub const fn bcd(&self) -> &[u8; 16] {
        &self.0
    }

    /// The issuer identification number: the first eight digits, which SGP.22 name constraints pair with an organisation.
    pub fn iin(&self) -> String {
        hex::encode(&self.0[..4])
    }

    /// Whether this EID lies in the range of `ein`.
    pub fn is_in(&self, ein: &Ein) -> bool {
        self.to_string().starts_with(&ein.0)
    }
}

impl FromStr for Eid {
    type Err = EidError;

    fn from_str(text: &str) -> Result<Self, EidError> {
        Self::from_bcd(digits_to_bcd(text)?)
    }
}

impl fmt::Display for Eid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Eid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Eid({self})")
    }
}

/// An EUM identification number: the leading digits of every EID of one delegated range (SGP.29 §4).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ein(String);

impl FromStr for Ein {
    type Err = EidError;

    fn from_str(text: &str) -> Result<Self, EidError> {
        if !text.bytes().all(|c| c.is_ascii_digit()) {
            return Err(EidError::Digit);
        }
        if !(1..=30).contains(&text.len()) {
            return Err(EidError::EinLength);
        }
        Ok(Self(text.to_owned()))
    }
}

impl Ein {
    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the two ranges share an EID: one is a prefix of the other.
    pub fn overlaps(&self, other: &Ein) -> bool {
        self.0.starts_with(&other.0) || other.0.starts_with(&self.0)
    }
}

impl fmt::Display for Ein {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn digits_to_bcd<const N: usize>(text: &str) -> Result<[u8; N], EidError> {
    if text.len() != 2 * N {
        return Err(EidError::Length);
    }
    if !text.bytes().all(|c| c.is_ascii_digit()) {
        return Err(EidError::Digit);
    }
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| EidError::Digit)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // SGP.23 #EID1 and the values of tests/vectors/eid_check_digits.json.
    const VALID: [&str; 3] = [
        "89049032123451234512345678901235",
        "89882119900000000000000000000005",
        "89882119900000000000000000001654",
    ];
    const INVALID: [&str; 4] = [
        "89049032123451234512345678901335",
        "89049032123451234512345678901236",
        "89049032123451234512345678901237",
        "12345000000000000000000000000133",
    ];

    #[test]
    fn published_eids_are_accepted_and_published_mistakes_refused() {
        for text in VALID {
            assert_eq!(text.parse::<Eid>().unwrap().to_string(), text);
        }
        for text in INVALID {
            assert_eq!(text.parse::<Eid>(), Err(EidError::CheckDigits));
        }
        assert_eq!("8904903212345123451234567890123".parse::<Eid>(), Err(EidError::Length));
        assert_eq!("8904903212345123451234567890123a".parse::<Eid>(), Err(EidError::Digit));
    }

    #[test]
    fn ranges_are_prefixes() {
        let eid: Eid = VALID[0].parse().unwrap();
        assert!(eid.is_in(&"89049032".parse().unwrap()));
        assert!(!eid.is_in(&"89049033".parse().unwrap()));
        assert_eq!(eid.iin(), "89049032");
        let (wide, narrow): (Ein, Ein) = ("890".parse().unwrap(), "89049032".parse().unwrap());
        assert!(wide.overlaps(&narrow) && narrow.overlaps(&wide));
    }

    proptest! {
        #[test]
        fn computed_check_digits_parse_and_any_changed_digit_is_noticed(body in "[0-9]{30}", at in 0usize..32, add in 1u8..10) {
            let eid = Eid::from_body(&body).unwrap();
            let text = eid.to_string();
            prop_assert_eq!(text.parse::<Eid>().unwrap(), eid);
            let mut changed = text.into_bytes();
            changed[at] = b'0' + (changed[at] - b'0' + add) % 10;
            // Modulo 97 finds every single changed digit.
            prop_assert!(String::from_utf8(changed).unwrap().parse::<Eid>().is_err());
        }
    }
}
