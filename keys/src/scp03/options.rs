//! What a card offers and what a host asks for: the i parameter and the security level.

use crate::KeyError;

/// Length of challenges, cryptograms and MACs (Amendment D v1.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// 8 bytes.
    S8,
    /// 16 bytes.
    S16,
}

impl Mode {
    /// Bytes of a challenge, a cryptogram or a MAC.
    pub const fn bytes(self) -> usize {
        match self {
            Self::S8 => 8,
            Self::S16 => 16,
        }
    }

    /// The stable name used in answers and entries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::S8 => "s8",
            Self::S16 => "s16",
        }
    }

    /// The mode with challenges of so many bytes.
    pub const fn of_bytes(bytes: usize) -> Option<Self> {
        match bytes {
            8 => Some(Self::S8),
            16 => Some(Self::S16),
            _ => None,
        }
    }
}

/// The parameter `i` of SCP03 (Amendment D table 5-1): what the card's side of the protocol is like.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct IParameter(u8);

impl IParameter {
    const S16: u8 = 0x01;
    const PSEUDO_RANDOM: u8 = 0x10;
    const R_MAC: u8 = 0x20;
    const R_ENC: u8 = 0x40;

    /// A value of the table; R-ENC without R-MAC and reserved bits are refused.
    pub const fn new(value: u8) -> Result<Self, KeyError> {
        let known = Self::S16 | Self::PSEUDO_RANDOM | Self::R_MAC | Self::R_ENC;
        let has_r_enc_alone = value & Self::R_ENC != 0 && value & Self::R_MAC == 0;
        if value & !known != 0 || has_r_enc_alone {
            return Err(KeyError::IParameter { value });
        }
        Ok(Self(value))
    }

    /// The plainest card of a mode: random challenge, responses not protected.
    pub const fn plain(mode: Mode) -> Self {
        match mode {
            Mode::S8 => Self(0),
            Mode::S16 => Self(Self::S16),
        }
    }

    /// The byte.
    pub const fn value(self) -> u8 {
        self.0
    }

    /// Length of challenges, cryptograms and MACs.
    pub const fn mode(self) -> Mode {
        if self.0 & Self::S16 == 0 { Mode::S8 } else { Mode::S16 }
    }

    /// Whether card challenges follow from the sequence counter.
    pub const fn is_pseudo_random(self) -> bool {
        self.0 & Self::PSEUDO_RANDOM != 0
    }

    /// Whether the card can open a channel of this level.
    pub const fn allows(self, level: SecurityLevel) -> bool {
        let (mac, enc) = (self.0 & Self::R_MAC != 0, self.0 & Self::R_ENC != 0);
        (mac || !level.has_r_mac()) && (enc || !level.has_r_enc())
    }
}

/// The security level of a channel: P1 of EXTERNAL AUTHENTICATE (Amendment D table 7-5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SecurityLevel(u8);

impl SecurityLevel {
    /// C-MAC (01), with C-DECRYPTION (03), each also with R-MAC (11, 13), and all with R-ENCRYPTION (33).
    pub const fn new(value: u8) -> Result<Self, KeyError> {
        match value {
            0x01 | 0x03 | 0x11 | 0x13 | 0x33 => Ok(Self(value)),
            _ => Err(KeyError::SecurityLevel { value }),
        }
    }

    /// The byte.
    pub const fn value(self) -> u8 {
        self.0
    }

    /// Whether commands are encrypted.
    pub const fn has_c_enc(self) -> bool {
        self.0 & 0x02 != 0
    }

    /// Whether responses carry a MAC.
    pub const fn has_r_mac(self) -> bool {
        self.0 & 0x10 != 0
    }

    /// Whether responses are encrypted.
    pub const fn has_r_enc(self) -> bool {
        self.0 & 0x20 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_i_parameter_has_the_values_of_its_table_and_no_other() {
        let valid: Vec<u8> = (0..=255).filter(|value| IParameter::new(*value).is_ok()).collect();
        let expected = [0x00, 0x01, 0x10, 0x11, 0x20, 0x21, 0x30, 0x31, 0x60, 0x61, 0x70, 0x71];
        assert_eq!(valid, expected);
        let all = IParameter::new(0x71).unwrap();
        assert!(all.is_pseudo_random() && all.mode() == Mode::S16 && all.value() == 0x71);
        assert_eq!(IParameter::plain(Mode::S8).mode(), Mode::S8);
        assert_eq!(IParameter::plain(Mode::S16).mode(), Mode::S16);
    }

    #[test]
    fn a_card_opens_only_channels_that_its_i_parameter_offers() {
        let levels = [0x01, 0x03, 0x11, 0x13, 0x33].map(|level| SecurityLevel::new(level).unwrap());
        let opened = |i: u8| {
            let i = IParameter::new(i).unwrap();
            levels.iter().filter(|level| i.allows(**level)).map(|level| level.value()).collect::<Vec<_>>()
        };
        assert_eq!(opened(0x00), [0x01, 0x03]);
        assert_eq!(opened(0x20), [0x01, 0x03, 0x11, 0x13]);
        assert_eq!(opened(0x70), [0x01, 0x03, 0x11, 0x13, 0x33]);
        for value in [0x00, 0x02, 0x10, 0x23, 0x30, 0x31, 0xff] {
            assert_eq!(SecurityLevel::new(value), Err(KeyError::SecurityLevel { value }));
        }
    }
}
