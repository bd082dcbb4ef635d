//! The fields of a command header: what is asked of the card, and of its answer (TS 102 225 §5.1).

use std::fmt;

use domain::{KeyVersionNumber, KeysetAlgorithm};

use crate::KeyError;

/// Toolkit application reference: which application a packet is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tar(pub [u8; 3]);

/// The counter of a packet: 5 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Counter(u64);

impl Counter {
    /// The last value that a packet may have. The one after it, all ones, blocks the counter on a card for ever (TS 102 225
    /// §5.1.4).
    pub const LAST: Self = Self(0xff_ffff_fffe);

    /// A value that a packet may have.
    pub const fn new(value: u64) -> Result<Self, KeyError> {
        if value <= Self::LAST.0 { Ok(Self(value)) } else { Err(KeyError::PacketCounter { value }) }
    }

    /// The number.
    pub const fn value(self) -> u64 {
        self.0
    }

    pub(crate) fn to_bytes(self) -> [u8; 5] {
        let [_, _, _, bytes @ ..] = self.0.to_be_bytes();
        bytes
    }
}

impl fmt::Display for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:010x}", self.0)
    }
}

/// What proves that a packet is whole.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Integrity {
    /// Nothing.
    None,
    /// A redundancy check, CRC-32: against mistakes, not against anybody.
    RedundancyCheck,
    /// A cryptographic checksum under KID.
    Checksum,
}

impl Integrity {
    const fn code(self) -> u8 {
        match self {
            Self::None => 0b00,
            Self::RedundancyCheck => 0b01,
            Self::Checksum => 0b10,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code & 0b11 {
            0b00 => Some(Self::None),
            0b01 => Some(Self::RedundancyCheck),
            0b10 => Some(Self::Checksum),
            // Digital signatures have no defined keys.
            _ => None,
        }
    }

    /// Bytes of the field RC/CC.
    pub const fn bytes(self) -> usize {
        match self {
            Self::None => 0,
            Self::RedundancyCheck => 4,
            Self::Checksum => 8,
        }
    }
}

/// What the card does with the counter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CounterCheck {
    /// There is none: the field is zero.
    Absent,
    /// It is there and not looked at.
    Unchecked,
    /// The packet is taken when its counter is higher than the card's.
    Higher,
    /// The packet is taken when its counter is the card's and one.
    Next,
}

impl CounterCheck {
    const fn code(self) -> u8 {
        match self {
            Self::Absent => 0b00,
            Self::Unchecked => 0b01,
            Self::Higher => 0b10,
            Self::Next => 0b11,
        }
    }

    const fn from_code(code: u8) -> Self {
        match code & 0b11 {
            0b00 => Self::Absent,
            0b01 => Self::Unchecked,
            0b10 => Self::Higher,
            _ => Self::Next,
        }
    }
}

/// When the card answers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ReceiptWhen {
    /// Never.
    Never,
    /// Always.
    Always,
    /// When something went wrong.
    OnError,
}

/// The answer that is asked of the card, and how it is protected: the second byte of SPI.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ProofOfReceipt {
    /// When it is sent.
    pub when: ReceiptWhen,
    /// What proves that it is whole.
    pub integrity: Integrity,
    /// Whether it is ciphered under KIc.
    pub is_ciphered: bool,
    /// Sent as SMS-SUBMIT, else in the SMS-DELIVER-REPORT.
    pub by_submit: bool,
}

impl ProofOfReceipt {
    /// No answer.
    pub const NONE: Self =
        Self { when: ReceiptWhen::Never, integrity: Integrity::None, is_ciphered: false, by_submit: false };

    /// The byte.
    pub const fn to_byte(self) -> u8 {
        let when = match self.when {
            ReceiptWhen::Never => 0b00,
            ReceiptWhen::Always => 0b01,
            ReceiptWhen::OnError => 0b10,
        };
        when | self.integrity.code() << 2 | (self.is_ciphered as u8) << 4 | (self.by_submit as u8) << 5
    }

    /// Reads the byte.
    pub const fn from_byte(byte: u8) -> Result<Self, KeyError> {
        let when = match byte & 0b11 {
            0b00 => ReceiptWhen::Never,
            0b01 => ReceiptWhen::Always,
            0b10 => ReceiptWhen::OnError,
            _ => return Err(KeyError::SecurityParameters),
        };
        let Some(integrity) = Integrity::from_code(byte >> 2) else {
            return Err(KeyError::SecurityParameters);
        };
        if byte & 0b1100_0000 != 0 {
            return Err(KeyError::SecurityParameters);
        }
        Ok(Self { when, integrity, is_ciphered: byte & 0x10 != 0, by_submit: byte & 0x20 != 0 })
    }
}

/// Security parameter indicator: how a packet and its answer are protected.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Spi {
    /// What proves that the packet is whole.
    pub integrity: Integrity,
    /// Whether it is ciphered under KIc.
    pub is_ciphered: bool,
    /// What the card does with its counter.
    pub counter: CounterCheck,
    /// The answer.
    pub receipt: ProofOfReceipt,
}

impl Spi {
    /// The two bytes.
    pub const fn to_bytes(self) -> [u8; 2] {
        let first = self.integrity.code() | (self.is_ciphered as u8) << 2 | self.counter.code() << 3;
        [first, self.receipt.to_byte()]
    }

    /// Reads the two bytes; reserved bits are refused.
    pub const fn from_bytes([first, second]: [u8; 2]) -> Result<Self, KeyError> {
        let Some(integrity) = Integrity::from_code(first) else { return Err(KeyError::SecurityParameters) };
        if first & 0b1110_0000 != 0 {
            return Err(KeyError::SecurityParameters);
        }
        match ProofOfReceipt::from_byte(second) {
            Ok(receipt) => Ok(Self {
                integrity,
                is_ciphered: first & 0b100 != 0,
                counter: CounterCheck::from_code(first >> 3),
                receipt,
            }),
            Err(error) => Err(error),
        }
    }
}

/// KIc: `key version number || algorithm` (TS 102 225 §5.1.2).
pub(super) const fn kic(kvn: KeyVersionNumber, algorithm: KeysetAlgorithm) -> u8 {
    kvn.value() << 4 | cipher_code(algorithm)
}

/// KID, whose algorithm is that of the checksum, or CRC-32 (§5.1.3).
pub(super) const fn kid(kvn: KeyVersionNumber, algorithm: KeysetAlgorithm, integrity: Integrity) -> u8 {
    const CRC_32: u8 = 0b0101;
    let code = match integrity {
        Integrity::RedundancyCheck => CRC_32,
        Integrity::None | Integrity::Checksum => cipher_code(algorithm),
    };
    kvn.value() << 4 | code
}

/// The low half of KIc and of KID with a checksum: AES in CBC and CMAC mode, 3DES in outer CBC mode.
const fn cipher_code(algorithm: KeysetAlgorithm) -> u8 {
    match algorithm {
        KeysetAlgorithm::Aes128 | KeysetAlgorithm::Aes192 | KeysetAlgorithm::Aes256 => 0b0010,
        KeysetAlgorithm::TripleDes2Key => 0b0101,
        KeysetAlgorithm::TripleDes3Key => 0b1001,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_security_parameter_indicator_reads_back_and_reserved_bits_are_refused() {
        let mut good = 0;
        for first in 0..=u8::MAX {
            for second in 0..=u8::MAX {
                if let Ok(spi) = Spi::from_bytes([first, second]) {
                    assert_eq!(spi.to_bytes(), [first, second]);
                    good += 1;
                }
            }
        }
        // Three integrities, ciphered or not, four counters; three times, three integrities, two flags.
        assert_eq!(good, 24 * 36);
    }

    #[test]
    fn a_counter_ends_before_the_value_that_blocks_a_card() {
        assert_eq!(Counter::new(0x01_0203_0405).unwrap().to_bytes(), [1, 2, 3, 4, 5]);
        assert!(Counter::new(0xff_ffff_fffe).is_ok());
        for value in [0xff_ffff_ffff, 0x100_0000_0000, u64::MAX] {
            assert_eq!(Counter::new(value), Err(KeyError::PacketCounter { value }));
        }
    }
}
