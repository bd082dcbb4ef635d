//! Keysets: (device, security domain, KVN, protocol, algorithm) and their states.

use std::fmt;

use crate::Eid;

/// A number of the wire or of a record that names nothing we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} has no value {code}")]
pub struct UnknownCode {
    /// What was being read.
    pub what: &'static str,
    /// The number that was found.
    pub code: u32,
}

/// Key Version Number of a keyset on a card; its range tells the protocol (GP Card Specification §11.2.2.1, TS 102 225
/// A.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyVersionNumber(u8);

impl KeyVersionNumber {
    /// A KVN of the range that `protocol` uses.
    pub fn new(protocol: Protocol, value: u32) -> Result<Self, UnknownCode> {
        let (range, what) = match protocol {
            Protocol::Scp80 => (0x01..=0x0f, "SCP80 key version number (0x01 to 0x0F)"),
            Protocol::Scp02 => (0x20..=0x2f, "SCP02 key version number (0x20 to 0x2F)"),
            Protocol::Scp03 => (0x30..=0x3f, "SCP03 key version number (0x30 to 0x3F)"),
            Protocol::Scp81 => (0x40..=0x4f, "SCP81 key version number (0x40 to 0x4F)"),
        };
        u8::try_from(value)
            .ok()
            .filter(|kvn| range.contains(kvn))
            .map(Self)
            .ok_or(UnknownCode { what, code: value })
    }

    /// A KVN of the range 30 to 3F, which SCP03 keysets use.
    pub fn scp03(value: u32) -> Result<Self, UnknownCode> {
        Self::new(Protocol::Scp03, value)
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
    /// GlobalPlatform Card Specification annex E: 3DES, of fleets that were imported.
    Scp02,
    /// GlobalPlatform Amendment D.
    Scp03,
    /// TS 102 225: secured packets over the air.
    Scp80,
    /// GlobalPlatform Amendment B: PSK-TLS over HTTP.
    Scp81,
}

impl Protocol {
    /// Every protocol.
    pub const ALL: [Self; 4] = [Self::Scp02, Self::Scp03, Self::Scp80, Self::Scp81];

    /// The byte in our derivation scheme and in records.
    pub const fn code(self) -> u8 {
        match self {
            Self::Scp02 => 0x02,
            Self::Scp03 => 0x03,
            Self::Scp80 => 0x80,
            Self::Scp81 => 0x81,
        }
    }

    /// Reads a code of a record or message.
    pub fn from_code(code: u32) -> Result<Self, UnknownCode> {
        Self::ALL
            .into_iter()
            .find(|protocol| u32::from(protocol.code()) == code)
            .ok_or(UnknownCode { what: "protocol", code })
    }

    /// The stable name used in answers and entries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scp02 => "scp02",
            Self::Scp03 => "scp03",
            Self::Scp80 => "scp80",
            Self::Scp81 => "scp81",
        }
    }

    /// The keys of a keyset of this protocol, in the order of their key identifiers.
    pub const fn usages(self) -> &'static [KeyUsage] {
        match self {
            Self::Scp02 | Self::Scp03 | Self::Scp80 => &KeyUsage::ALL,
            Self::Scp81 => &[KeyUsage::Psk, KeyUsage::PskDek],
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
    /// The security domain of the operator in a profile.
    MnoSd,
}

impl SecurityDomain {
    /// Every security domain.
    pub const ALL: [Self; 3] = [Self::IsdR, Self::Ecasd, Self::MnoSd];

    /// The byte in our derivation scheme and in records.
    pub const fn code(self) -> u8 {
        match self {
            Self::IsdR => 0x01,
            Self::Ecasd => 0x02,
            Self::MnoSd => 0x03,
        }
    }

    /// Reads a code of a record or message.
    pub fn from_code(code: u32) -> Result<Self, UnknownCode> {
        Self::ALL
            .into_iter()
            .find(|domain| u32::from(domain.code()) == code)
            .ok_or(UnknownCode { what: "security domain", code })
    }

    /// The stable name used in entries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::IsdR => "isd-r",
            Self::Ecasd => "ecasd",
            Self::MnoSd => "mno-sd",
        }
    }
}

/// Cipher and length of the keys of a keyset.
///
/// The 3DES lengths belong to fleets that were imported (SP 800-131A disallows 3DES since 2024): no such keyset is ever
/// made here, nor is one the target of a rotation ([`Self::may_be_made`]).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum KeysetAlgorithm {
    /// 16-byte AES keys.
    Aes128,
    /// 24-byte AES keys.
    Aes192,
    /// 32-byte AES keys.
    Aes256,
    /// 16-byte 3DES keys, import only.
    TripleDes2Key,
    /// 24-byte 3DES keys, import only.
    TripleDes3Key,
}

impl KeysetAlgorithm {
    /// Every algorithm.
    pub const ALL: [Self; 5] =
        [Self::Aes128, Self::Aes192, Self::Aes256, Self::TripleDes2Key, Self::TripleDes3Key];

    /// Bytes of one key.
    pub const fn key_bytes(self) -> usize {
        match self {
            Self::Aes128 | Self::TripleDes2Key => 16,
            Self::Aes192 | Self::TripleDes3Key => 24,
            Self::Aes256 => 32,
        }
    }

    /// Bits of one key without parity, as records and field L of SP 800-108 in two bytes carry them. They name the
    /// algorithm: no two share them.
    pub const fn key_bits(self) -> u16 {
        match self {
            Self::TripleDes2Key => 112,
            Self::Aes128 => 128,
            Self::TripleDes3Key => 168,
            Self::Aes192 => 192,
            Self::Aes256 => 256,
        }
    }

    /// What one key is worth in bits (SP 800-57 Part 1 Rev. 5 table 2).
    pub const fn strength_bits(self) -> u32 {
        match self {
            Self::TripleDes2Key => 80,
            Self::TripleDes3Key => 112,
            Self::Aes128 => 128,
            Self::Aes192 => 192,
            Self::Aes256 => 256,
        }
    }

    /// Whether keysets of this algorithm may be made here. The others come in by import only.
    pub const fn may_be_made(self) -> bool {
        match self {
            Self::Aes128 | Self::Aes192 | Self::Aes256 => true,
            Self::TripleDes2Key | Self::TripleDes3Key => false,
        }
    }

    /// The stable name used in files, answers and entries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Aes128 => "AES-128",
            Self::Aes192 => "AES-192",
            Self::Aes256 => "AES-256",
            Self::TripleDes2Key => "3DES-2KEY",
            Self::TripleDes3Key => "3DES-3KEY",
        }
    }

    /// Reads a code of a record or message: the key length in bits.
    pub fn from_code(code: u32) -> Result<Self, UnknownCode> {
        Self::ALL
            .into_iter()
            .find(|algorithm| u32::from(algorithm.key_bits()) == code)
            .ok_or(UnknownCode { what: "keyset algorithm", code })
    }
}

/// What one key of a keyset is for; the code is the key identifier on the card and the usage byte of our derivation scheme.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum KeyUsage {
    /// Key-ENC (KIc in SCP80), key identifier 1.
    Enc,
    /// Key-MAC (KID in SCP80), key identifier 2.
    Mac,
    /// Key-DEK (KIK in SCP80), key identifier 3.
    Dek,
    /// The pre-shared key of SCP81, key identifier 1.
    Psk,
    /// The key that encrypts new keys of SCP81, key identifier 2.
    PskDek,
}

impl KeyUsage {
    /// Those of a keyset of three keys, in the order of their key identifiers.
    pub const ALL: [Self; 3] = [Self::Enc, Self::Mac, Self::Dek];

    /// Key identifier on the card; usage byte of our derivation scheme. Unique within a protocol.
    pub const fn code(self) -> u8 {
        match self {
            Self::Enc | Self::Psk => 1,
            Self::Mac | Self::PskDek => 2,
            Self::Dek => 3,
        }
    }

    /// Its place among [`Protocol::usages`], from 0.
    pub const fn index(self) -> usize {
        self.code() as usize - 1
    }

    /// The stable name used in answers and files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enc => "enc",
            Self::Mac => "mac",
            Self::Dek => "dek",
            Self::Psk => "psk",
            Self::PskDek => "psk-dek",
        }
    }
}

/// One keyset of one device: what its keys are bound to, wherever they come from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DeviceKeyset {
    /// The device.
    pub eid: Eid,
    /// The protocol the keyset serves.
    pub protocol: Protocol,
    /// The security domain that holds it.
    pub security_domain: SecurityDomain,
    /// Its key version number on the card.
    pub kvn: KeyVersionNumber,
    /// Cipher and length of its keys.
    pub algorithm: KeysetAlgorithm,
}

/// Generation of a derivation master, from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MasterGeneration(pub u32);

/// Epoch of the keys under which random keys are stored, from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KekEpoch(pub u32);

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
    fn a_key_version_number_belongs_to_one_protocol_or_to_none() {
        assert_eq!(KeyVersionNumber::scp03(0x30).unwrap().to_string(), "0x30");
        let of = |value| {
            Protocol::ALL.into_iter().filter(|p| KeyVersionNumber::new(*p, value).is_ok()).collect::<Vec<_>>()
        };
        for (range, protocol) in [
            (0x01..=0x0f, Protocol::Scp80),
            (0x20..=0x2f, Protocol::Scp02),
            (0x30..=0x3f, Protocol::Scp03),
            (0x40..=0x4f, Protocol::Scp81),
        ] {
            for value in range {
                assert_eq!(of(value), [protocol], "{value:#x}");
            }
        }
        for value in [0, 0x10, 0x1f, 0x50, 0xff, 0x130] {
            assert_eq!(of(value), [], "{value:#x}");
        }
    }

    #[test]
    fn codes_read_back_and_key_identifiers_count_from_one() {
        for protocol in Protocol::ALL {
            assert_eq!(Protocol::from_code(protocol.code().into()), Ok(protocol));
            for (at, usage) in protocol.usages().iter().enumerate() {
                assert_eq!(usage.index(), at);
            }
        }
        for domain in SecurityDomain::ALL {
            assert_eq!(SecurityDomain::from_code(domain.code().into()), Ok(domain));
        }
        for algorithm in KeysetAlgorithm::ALL {
            assert_eq!(KeysetAlgorithm::from_code(algorithm.key_bits().into()), Ok(algorithm));
        }
        assert!(Protocol::from_code(0x04).is_err() && KeysetAlgorithm::from_code(64).is_err());
    }
}
