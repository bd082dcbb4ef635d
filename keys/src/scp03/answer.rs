//! A card's answer to INITIALIZE UPDATE (Amendment D §7.1.1).

use super::{IParameter, Mode};
use crate::KeyError;

/// What the card said, taken apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InitializeUpdateAnswer {
    /// Key diversification data.
    pub diversification: [u8; 10],
    /// Version of the keyset that answered.
    pub kvn: u8,
    /// What the card offers.
    pub i: IParameter,
    /// 8 or 16 bytes.
    pub card_challenge: Vec<u8>,
    /// As many.
    pub card_cryptogram: Vec<u8>,
    /// Present where the challenge is pseudo-random.
    pub sequence_counter: Option<[u8; 3]>,
}

impl InitializeUpdateAnswer {
    /// Reads `diversification(10) || KVN || 03 || i || challenge || cryptogram [|| sequence counter(3)]`, without a status
    /// word. The lengths follow from `i` and nothing may be left over; some cards of mode random send a counter as well.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        let wrong = || KeyError::InitializeUpdateAnswer { bytes: bytes.len() };
        let (diversification, rest) = bytes.split_first_chunk::<10>().ok_or_else(wrong)?;
        let (&[kvn, 0x03, i], rest) = rest.split_first_chunk().ok_or_else(wrong)? else {
            return Err(wrong());
        };
        let i = IParameter::new(i)?;
        let length = i.mode().bytes();
        let (card_challenge, rest) = rest.split_at_checked(length).ok_or_else(wrong)?;
        let (card_cryptogram, rest) = rest.split_at_checked(length).ok_or_else(wrong)?;
        let sequence_counter = match <[u8; 3]>::try_from(rest) {
            Ok(counter) => Some(counter),
            Err(_) if rest.is_empty() && !i.is_pseudo_random() => None,
            Err(_) => return Err(wrong()),
        };
        Ok(Self {
            diversification: *diversification,
            kvn,
            i,
            card_challenge: card_challenge.to_vec(),
            card_cryptogram: card_cryptogram.to_vec(),
            sequence_counter,
        })
    }

    /// Length of challenges, cryptograms and MACs.
    pub const fn mode(&self) -> Mode {
        self.i.mode()
    }
}
