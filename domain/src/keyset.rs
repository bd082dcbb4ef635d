//! Keysets: (device, security domain, KVN, protocol, algorithm) and their states.

use std::fmt;

/// A number of the wire or of a record that names nothing we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} has no value {code}")]
pub struct UnknownCode {
    /// What was being read.
    pub what: &'static str,
    /// The number that was found.
    pub code: u32,
}

/// Key Version Number of a keyset on a card; its range tells the protocol (GP Card Specification, TS 102 225 A.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyVersionNumber(u8);

impl KeyVersionNumber {
    /// A KVN of the range 30 to 3F, which SCP03 keysets use.
    pub fn scp03(value: u32) -> Result<Self, UnknownCode> {
        match u8::try_from(value) {
            Ok(kvn @ 0x30..=0x3f) => Ok(Self(kvn)),
            _ => Err(UnknownCode { what: "SCP03 key version number (0x30 to 0x3F)", code: value }),
        }
    }

    /// The byte on the card.
    pub const fn value(self) -> u8 {
        self.0
    }
}

impl fmt::Display for KeyVersionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:02x}", self.0)
    }
}

impl fmt::Debug for KeyVersionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The secure-channel protocol a keyset serves. The code is the protocol byte of our derivation scheme.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Protocol {
    /// GlobalPlatform Amendment D.
    Scp03,
}

impl Protocol {
    /// The byte in our derivation scheme and in records.
    pub const fn code(self) -> u8 {
        match self {
            Self::Scp03 => 0x03,
        }
    }

    /// Reads a code of a record or message.
    pub fn from_code(code: u32) -> Result<Self, UnknownCode> {
        match code {
            0x03 => Ok(Self::Scp03),
            _ => Err(UnknownCode { what: "protocol", code }),
        }
    }
}

/// The security domain on the eUICC that holds a keyset. The code is the security-domain byte of our derivation scheme.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum SecurityDomain {
    /// Issuer security domain root.
    IsdR,
    /// The eUICC controlling authority security domain.
    Ecasd,
}

impl SecurityDomain {
    /// The byte in our derivation scheme and in records.
    pub const fn code(self) -> u8 {
        match self {
            Self::IsdR => 0x01,
            Self::Ecasd => 0x02,
        }
    }

    /// Reads a code of a record or message.
    pub fn from_code(code: u32) -> Result<Self, UnknownCode> {
        match code {
            0x01 => Ok(Self::IsdR),
            0x02 => Ok(Self::Ecasd),
            _ => Err(UnknownCode { what: "security domain", code }),
        }
    }
}

/// Length of the keys of an AES keyset.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum KeysetAlgorithm {
    /// Three 16-byte keys.
    Aes128,
    /// Three 24-byte keys.
    Aes192,
    /// Three 32-byte keys.
    Aes256,
}

impl KeysetAlgorithm {
    /// Bytes of one key.
    pub const fn key_bytes(self) -> usize {
        match self {
            Self::Aes128 => 16,
            Self::Aes192 => 24,
            Self::Aes256 => 32,
        }
    }

    /// Bits of one key, as field L of SP 800-108 in two bytes carries it.
    pub const fn key_bits(self) -> u16 {
        match self {
            Self::Aes128 => 128,
            Self::Aes192 => 192,
            Self::Aes256 => 256,
        }
    }

    /// The stable name used in files, answers and entries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Aes128 => "AES-128",
            Self::Aes192 => "AES-192",
            Self::Aes256 => "AES-256",
        }
    }

    /// Reads a code of a record or message: the key length in bits.
    pub fn from_code(code: u32) -> Result<Self, UnknownCode> {
        match code {
            128 => Ok(Self::Aes128),
            192 => Ok(Self::Aes192),
            256 => Ok(Self::Aes256),
            _ => Err(UnknownCode { what: "keyset algorithm", code }),
        }
    }
}

/// What one key of a keyset is for; the code is the key identifier on the card and the usage byte of our derivation scheme.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum KeyUsage {
    /// Key-ENC, key identifier 1.
    Enc,
    /// Key-MAC, key identifier 2.
    Mac,
    /// Key-DEK, key identifier 3.
    Dek,
}

impl KeyUsage {
    /// All three, in the order of their key identifiers.
    pub const ALL: [Self; 3] = [Self::Enc, Self::Mac, Self::Dek];

    /// Key identifier on the card; usage byte of our derivation scheme.
    pub const fn code(self) -> u8 {
        match self {
            Self::Enc => 1,
            Self::Mac => 2,
            Self::Dek => 3,
        }
    }
}

/// Generation of a derivation master, from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MasterGeneration(pub u32);

/// The first three bytes of AES-ECB(key, 01 repeated 16 times) (GP Card Specification B.6). Metadata, never a secret or an identifier.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyCheckValue(pub [u8; 3]);

impl fmt::Display for KeyCheckValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyCheckValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// State of a key, NIST SP 800-57 Part 1 Rev. 5 §7.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum KeyState {
    /// Made, not yet authorised for use.
    PreActivation,
    /// In use.
    Active,
    /// Temporarily out of use.
    Suspended,
    /// No longer applied; may still process what it protected.
    Deactivated,
    /// Known or suspected to be in wrong hands.
    Compromised,
    /// Gone; final.
    Destroyed,
}

impl KeyState {
    /// Every state.
    pub const ALL: [Self; 6] = [
        Self::PreActivation,
        Self::Active,
        Self::Suspended,
        Self::Deactivated,
        Self::Compromised,
        Self::Destroyed,
    ];

    /// The stable name used in answers and entries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PreActivation => "pre-activation",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Deactivated => "deactivated",
            Self::Compromised => "compromised",
            Self::Destroyed => "destroyed",
        }
    }

    /// The one transition table.
    pub const fn may_become(self, next: Self) -> bool {
        use KeyState::{Active, Compromised, Deactivated, Destroyed, PreActivation, Suspended};
        match self {
            PreActivation => matches!(next, Active | Compromised | Destroyed),
            Active => matches!(next, Suspended | Deactivated | Compromised | Destroyed),
            Suspended => matches!(next, Active | Deactivated | Compromised | Destroyed),
            Deactivated => matches!(next, Compromised | Destroyed),
            Compromised => matches!(next, Destroyed),
            Destroyed => false,
        }
    }

    /// Whether session keys may be derived from a key in this state. A pre-active keyset has yet to prove itself by a
    /// card cryptogram, which is what a session does, so it qualifies.
    pub const fn releases_session_keys(self) -> bool {
        match self {
            Self::PreActivation | Self::Active => true,
            Self::Suspended | Self::Deactivated | Self::Compromised | Self::Destroyed => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_table_is_that_of_sp_800_57_for_every_pair() {
        use KeyState::*;
        let allowed = [
            (PreActivation, Active),
            (PreActivation, Compromised),
            (PreActivation, Destroyed),
            (Active, Suspended),
            (Active, Deactivated),
            (Active, Compromised),
            (Active, Destroyed),
            (Suspended, Active),
            (Suspended, Deactivated),
            (Suspended, Compromised),
            (Suspended, Destroyed),
            (Deactivated, Compromised),
            (Deactivated, Destroyed),
            (Compromised, Destroyed),
        ];
        for from in KeyState::ALL {
            for to in KeyState::ALL {
                assert_eq!(from.may_become(to), allowed.contains(&(from, to)), "{from:?} -> {to:?}");
            }
        }
    }

    #[test]
    fn a_key_version_number_of_another_protocols_range_is_refused() {
        assert_eq!(KeyVersionNumber::scp03(0x30).unwrap().to_string(), "0x30");
        for value in [0, 0x2f, 0x40, 0x130] {
            assert!(KeyVersionNumber::scp03(value).is_err());
        }
    }
}
