//! The protection of commands and answers in a channel (Amendment D §6.2.4 to §6.2.7), the host's side.

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{Challenges, SecurityLevel, SessionKeys};
use crate::apdu::Apdu;
use crate::{KeyError, Prf, SoftwareKey, cbc};

/// INS of EXTERNAL AUTHENTICATE.
const EXTERNAL_AUTHENTICATE: u8 = 0x82;
/// Secure messaging in the class byte.
const SECURE_MESSAGING: u8 = 0x04;

/// One channel after its cryptograms: MAC chain and counter. Holds session keys, which it zeroizes.
pub struct Channel<const N: usize = 8> {
    s_enc: SoftwareKey,
    s_mac: SoftwareKey,
    s_rmac: SoftwareKey,
    level: SecurityLevel,
    chain: Zeroizing<[u8; 16]>,
    /// Number of the command at work; those without data count too.
    counter: u128,
}

/// What a card answered to one command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// In clear.
    pub data: Vec<u8>,
    /// The status word.
    pub status_word: [u8; 2],
    /// Whether the card's MAC proves it; a status word that is an error comes bare (§6.2.5).
    pub is_proved: bool,
}

impl<const N: usize> Channel<N> {
    /// The channel that EXTERNAL AUTHENTICATE opens at this level, and that command.
    pub fn open(keys: &SessionKeys, challenges: &Challenges<N>, level: SecurityLevel) -> (Self, Apdu) {
        let mut channel = Self {
            s_enc: SoftwareKey::new(&keys.s_enc),
            s_mac: SoftwareKey::new(&keys.s_mac),
            s_rmac: SoftwareKey::new(&keys.s_rmac),
            level,
            chain: Zeroizing::new([0; 16]),
            counter: 0,
        };
        let header = [0x80, EXTERNAL_AUTHENTICATE, level.value(), 0x00];
        let command = channel.with_mac(header, keys.host_cryptogram(challenges).0.to_vec(), None);
        (channel, command)
    }

    /// The command as the channel carries it. Its class is 00 or 80 (the basic logical channel, no secure messaging), and
    /// its data leave room for MAC and padding.
    pub fn wrap(&mut self, command: &Apdu) -> Result<Apdu, KeyError> {
        if command.cla & 0x7f != 0 {
            return Err(KeyError::Apdu("has a class other than 00 and 80"));
        }
        let is_ciphered = self.level.has_c_enc() && !command.data().is_empty();
        let padded = match is_ciphered {
            true => command.data().len() / 16 * 16 + 16,
            false => command.data().len(),
        };
        if padded + N > crate::apdu::DATA_BYTES_MAX {
            return Err(KeyError::Apdu("is too long for this channel"));
        }
        self.counter += 1;
        let mut data = command.data().to_vec();
        if is_ciphered {
            let mut clear = Zeroizing::new(data);
            clear.push(0x80);
            clear.resize(padded, 0);
            data = cbc::encrypt(&self.s_enc, &self.icv(0x00), &clear);
        }
        Ok(self.with_mac(command.header(), data, command.le))
    }

    /// Moves on as [`Self::wrap`] did when it made this command; refuses one that it did not make.
    pub fn follow(&mut self, wrapped: &Apdu) -> Result<(), KeyError> {
        const FOREIGN: KeyError = KeyError::Apdu("was not made in this channel at this place");
        let data_bytes = wrapped.data().len().checked_sub(N).ok_or(FOREIGN)?;
        let (data, mac) = wrapped.data().split_at(data_bytes);
        let full = self.mac_over(wrapped.header(), data);
        if !bool::from(full[..N].ct_eq(mac)) {
            return Err(FOREIGN);
        }
        self.chain = full;
        self.counter += 1;
        Ok(())
    }

    /// Reads the card's answer to the command at work: data, R-MAC and status word. What the level protects is told only
    /// when the card's MAC is right.
    pub fn unwrap(&self, answer: &[u8]) -> Result<Answer, KeyError> {
        let Some((body, status_word)) = answer.split_last_chunk::<2>() else {
            return Err(KeyError::ChannelAnswer("has no status word"));
        };
        let is_error = *status_word != [0x90, 0x00] && !matches!(status_word[0], 0x62 | 0x63);
        if !self.level.has_r_mac() || is_error {
            if is_error && !body.is_empty() {
                return Err(KeyError::ChannelAnswer("has data beside an error"));
            }
            return Ok(Answer { data: body.to_vec(), status_word: *status_word, is_proved: false });
        }
        let unproved = KeyError::ChannelAnswer("is not proved by its MAC");
        let data_bytes = body.len().checked_sub(N).ok_or(unproved)?;
        let (data, mac) = body.split_at(data_bytes);
        let Ok(full) = self.s_rmac.cmac(&[&self.chain[..], data, status_word].concat());
        if !bool::from(full[..N].ct_eq(mac)) {
            return Err(unproved);
        }
        let data = match self.level.has_r_enc() && !data.is_empty() {
            true => self.decipher(data)?,
            false => data.to_vec(),
        };
        Ok(Answer { data, status_word: *status_word, is_proved: true })
    }

    fn decipher(&self, data: &[u8]) -> Result<Vec<u8>, KeyError> {
        const MALFORMED: KeyError = KeyError::ChannelAnswer("does not decipher");
        if !data.len().is_multiple_of(16) {
            return Err(MALFORMED);
        }
        let padded = cbc::decrypt(&self.s_enc, &self.icv(0x80), data);
        let end = padded.iter().rposition(|byte| *byte != 0).filter(|at| padded[*at] == 0x80);
        end.map(|end| padded[..end].to_vec()).ok_or(MALFORMED)
    }

    /// Commands and answers of one number have ICVs that differ in their first byte (§6.2.6, §6.2.7).
    fn icv(&self, direction: u8) -> [u8; 16] {
        let mut block = self.counter.to_be_bytes();
        block[0] = direction;
        *self.s_enc.encrypt_block(&block)
    }

    fn with_mac(&mut self, header: [u8; 4], mut data: Vec<u8>, le: Option<u8>) -> Apdu {
        let [cla, ins, p1, p2] = header;
        let header = [cla | SECURE_MESSAGING, ins, p1, p2];
        self.chain = self.mac_over(header, &data);
        data.extend_from_slice(&self.chain[..N]);
        Apdu::new(header, data, le)
    }

    /// Over the chain, the header, Lc with the MAC in it, and the data.
    fn mac_over(&self, header: [u8; 4], data: &[u8]) -> Zeroizing<[u8; 16]> {
        let lc = u8::try_from(data.len() + N).expect("callers bound the data of a command");
        let Ok(mac) = self.s_mac.cmac(&[&self.chain[..], &header, &[lc], data].concat());
        mac
    }
}
