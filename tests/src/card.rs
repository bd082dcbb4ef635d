//! A card with SCP03 keysets: the side of the protocol that the authority never sees.

use std::collections::BTreeMap;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::rand;

use crate::aes::AesKey;
use crate::channel::{Apdu, Channel, SecurityLevel, derive};
use crate::put_key::{NewKeyset, PutKeyBehaviour, PutKeyDialect};
use crate::transport::PersonalisationData;

/// An eUICC as far as one security domain with SCP03 goes: `i` = 00 (mode S8, random challenge, no response protection) unless
/// told otherwise.
pub struct SimulatedCard {
    eid: [u8; 16],
    keysets: BTreeMap<u8, Keyset>,
    challenge: ChallengeSource,
    cryptogram: CryptogramBehaviour,
    i_parameter: u8,
    dialect: PutKeyDialect,
    put_key: PutKeyBehaviour,
    put_keys_executed: u32,
    state: State,
}

/// Where the card's challenges come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChallengeSource {
    /// Fresh random bytes each time, as `i` = 00 demands.
    Random,
    /// Always these, to replay a recorded session.
    Fixed([u8; 8]),
    /// From a counter that each opened session raises, and the name of the security domain, as `i` with 10 demands.
    Sequence {
        /// The counter of the next session.
        counter: u32,
        /// Application identifier of the security domain.
        aid: [u8; 16],
    },
}

/// Whether the card proves its keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CryptogramBehaviour {
    /// The right cryptogram.
    Honest,
    /// One with a flipped bit, as from a card that does not hold the keys.
    Wrong,
}

/// SW1 SW2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatusWord(pub u16);

impl StatusWord {
    /// Done.
    pub const OK: Self = Self(0x9000);
    /// The host cryptogram is wrong (GP Card Specification §D.4.2.5, §E.5.2.7).
    pub const AUTHENTICATION_FAILED: Self = Self(0x6300);
    /// Lengths that do not add up.
    pub const WRONG_LENGTH: Self = Self(0x6700);
    /// The C-MAC or the encryption is wrong, or there is no authenticated channel.
    pub const SECURITY_NOT_SATISFIED: Self = Self(0x6982);
    /// EXTERNAL AUTHENTICATE without INITIALIZE UPDATE before it.
    pub const CONDITIONS_NOT_SATISFIED: Self = Self(0x6985);
    /// A security level that the card does not offer.
    pub const INCORRECT_PARAMETERS: Self = Self(0x6a86);
    /// Command data that is not what the command takes.
    pub const INCORRECT_DATA: Self = Self(0x6a80);
    /// No keyset of that version.
    pub const KEYSET_NOT_FOUND: Self = Self(0x6a88);
    /// Not secure messaging.
    pub const CLASS_NOT_SUPPORTED: Self = Self(0x6e00);
    /// A key that is none of AES (GP Card Specification table 11-78).
    pub const ALGORITHM_NOT_SUPPORTED: Self = Self(0x9484);
    /// A key whose check value is another (same table): nothing was loaded.
    pub const INVALID_CHECK_VALUE: Self = Self(0x9485);
}

/// The answer to INITIALIZE UPDATE.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InitializeUpdateResponse {
    /// As it goes over the wire, without the status word.
    pub bytes: Vec<u8>,
    /// Its challenge.
    pub card_challenge: [u8; 8],
    /// Its proof.
    pub card_cryptogram: [u8; 8],
}

/// The answer in either mode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// As it goes over the wire, without the status word.
    pub bytes: Vec<u8>,
    /// Its challenge, 8 or 16 bytes.
    pub card_challenge: Vec<u8>,
    /// Its proof, as many.
    pub card_cryptogram: Vec<u8>,
}

/// What the card made of a command that passed its checks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Processed {
    /// The command as the application on the card saw it, in clear.
    pub command: Apdu,
    /// The answer, protected as the level demands.
    pub response: Vec<u8>,
    /// The application's status word.
    pub status: StatusWord,
}

struct Keyset {
    enc: AesKey,
    mac: AesKey,
    dek: AesKey,
}

enum State {
    Idle,
    Initialized { channel: Channel, kvn: u8, host_cryptogram: Vec<u8> },
    Authenticated { channel: Channel, kvn: u8 },
}

impl SimulatedCard {
    /// A card with no keys; `eid` in packed decimal.
    pub const fn new(eid: [u8; 16]) -> Self {
        Self {
            eid,
            keysets: BTreeMap::new(),
            challenge: ChallengeSource::Random,
            cryptogram: CryptogramBehaviour::Honest,
            i_parameter: 0x00,
            dialect: PutKeyDialect::A,
            put_key: PutKeyBehaviour::Honest,
            put_keys_executed: 0,
            state: State::Idle,
        }
    }

    /// A card as the manufacturer's line makes it from one device of an order.
    pub fn personalised(data: &PersonalisationData) -> Self {
        let mut card = Self::new(data.eid);
        card.install_keyset(data.kvn, &data.enc, &data.mac, &data.dek);
        card
    }

    /// Puts a keyset on the card, replacing one of the same version.
    ///
    /// # Panics
    /// When a key is none of AES or they differ in length.
    pub fn install_keyset(&mut self, kvn: u8, enc: &[u8], mac: &[u8], dek: &[u8]) {
        assert!(enc.len() == mac.len() && mac.len() == dek.len(), "the keys of a keyset have one length");
        let key = |bytes| AesKey::new(bytes).expect("an AES key has 16, 24 or 32 bytes");
        self.keysets.insert(kvn, Keyset { enc: key(enc), mac: key(mac), dek: key(dek) });
    }

    /// The versions of the keysets on the card, ascending.
    pub fn kvns(&self) -> Vec<u8> {
        self.keysets.keys().copied().collect()
    }

    /// How many PUT KEYs the card has answered with success, echoed ones included.
    pub const fn put_keys_executed(&self) -> u32 {
        self.put_keys_executed
    }

    /// Sets how PUT KEY is to be written; dialect A unless told otherwise.
    pub const fn set_put_key_dialect(&mut self, dialect: PutKeyDialect) {
        self.dialect = dialect;
    }

    /// Sets what the card does with new keys.
    pub const fn set_put_key(&mut self, behaviour: PutKeyBehaviour) {
        self.put_key = behaviour;
    }

    /// Sets where challenges come from.
    pub const fn set_challenge(&mut self, challenge: ChallengeSource) {
        self.challenge = challenge;
    }

    /// Sets whether the card proves its keys.
    pub const fn set_cryptogram(&mut self, cryptogram: CryptogramBehaviour) {
        self.cryptogram = cryptogram;
    }

    /// Sets `i` (Amendment D table 5-1): 20 allows R-MAC, 60 R-ENC too; 01 is mode S16.
    pub const fn set_i_parameter(&mut self, i_parameter: u8) {
        self.i_parameter = i_parameter;
    }

    /// INITIALIZE UPDATE in mode S8; see [`Self::begin`].
    pub fn initialize_update(
        &mut self,
        host_challenge: [u8; 8],
        kvn: u8,
    ) -> Result<InitializeUpdateResponse, StatusWord> {
        let Answer { bytes, card_challenge, card_cryptogram } = self.begin(&host_challenge, kvn)?;
        let eight = |bytes: Vec<u8>| <[u8; 8]>::try_from(bytes).map_err(|_| StatusWord::WRONG_LENGTH);
        Ok(InitializeUpdateResponse {
            bytes,
            card_challenge: eight(card_challenge)?,
            card_cryptogram: eight(card_cryptogram)?,
        })
    }

    /// INITIALIZE UPDATE: a challenge, and the proof of the keys of `kvn`, or of the lowest there is for 00 (Amendment D
    /// §7.1.1). The host's challenge has the length of the card's mode.
    pub fn begin(&mut self, host_challenge: &[u8], kvn: u8) -> Result<Answer, StatusWord> {
        self.state = State::Idle;
        let length = if self.i_parameter & 0x01 == 0 { 8 } else { 16 };
        if host_challenge.len() != length {
            return Err(StatusWord::WRONG_LENGTH);
        }
        let found =
            if kvn == 0x00 { self.keysets.first_key_value() } else { self.keysets.get_key_value(&kvn) };
        let (&kvn, keyset) = found.ok_or(StatusWord::KEYSET_NOT_FOUND)?;
        let cryptogram_bits = u16::try_from(8 * length).expect("64 or 128");
        let mut sequence_counter = None;
        let card_challenge = match self.challenge {
            ChallengeSource::Fixed(challenge) => challenge.to_vec(),
            ChallengeSource::Random => {
                let mut challenge = vec![0; length];
                rand::fill(&mut challenge).expect("the system has entropy");
                challenge
            }
            ChallengeSource::Sequence { counter, aid } => {
                let counter = &counter.to_be_bytes()[1..];
                sequence_counter = Some(counter.to_vec());
                derive(&keyset.enc, 0x02, cryptogram_bits, &[counter, &aid].concat())
            }
        };
        let context = [host_challenge, &card_challenge].concat();

        let bits = u16::try_from(8 * keyset.enc.len()).expect("an AES key has at most 256 bits");
        let session_key = |key, constant| {
            AesKey::new(&derive(key, constant, bits, &context)).expect("as long as the static key")
        };
        let s_mac = session_key(&keyset.mac, 0x06);
        let mut card_cryptogram = derive(&s_mac, 0x00, cryptogram_bits, &context);
        let host_cryptogram = derive(&s_mac, 0x01, cryptogram_bits, &context);
        match self.cryptogram {
            CryptogramBehaviour::Honest => {}
            CryptogramBehaviour::Wrong => card_cryptogram[7] ^= 0x01,
        }
        let channel =
            Channel::new(session_key(&keyset.enc, 0x04), s_mac, session_key(&keyset.mac, 0x07), length);
        self.state = State::Initialized { channel, kvn, host_cryptogram };

        // Key diversification data is all zero on many eUICCs; the EID identifies the card.
        let mut bytes = vec![0; 10];
        bytes.extend([kvn, 0x03, self.i_parameter]);
        bytes.extend(&card_challenge);
        bytes.extend(&card_cryptogram);
        bytes.extend(sequence_counter.into_iter().flatten());
        Ok(Answer { bytes, card_challenge, card_cryptogram })
    }

    /// EXTERNAL AUTHENTICATE: checks the host's cryptogram and C-MAC and opens the channel (Amendment D §7.1.2). A
    /// failure ends the attempt: the host has to start again.
    pub fn external_authenticate(&mut self, command: &[u8]) -> Result<SecurityLevel, StatusWord> {
        let State::Initialized { mut channel, kvn, host_cryptogram } =
            std::mem::replace(&mut self.state, State::Idle)
        else {
            return Err(StatusWord::CONDITIONS_NOT_SATISFIED);
        };
        let command = Apdu::parse(command).ok_or(StatusWord::WRONG_LENGTH)?;
        let [0x84, 0x82, level, 0x00] = command.header else {
            return Err(StatusWord::CONDITIONS_NOT_SATISFIED);
        };
        let level = SecurityLevel(level);
        if !level.is_defined()
            || level.has_r_mac() && self.i_parameter & 0x20 == 0
            || level.has_r_enc() && self.i_parameter & 0x40 == 0
        {
            return Err(StatusWord::INCORRECT_PARAMETERS);
        }
        let command = channel.verify_mac(command).ok_or(StatusWord::SECURITY_NOT_SATISFIED)?;
        verify_slices_are_equal(&command.data, &host_cryptogram)
            .map_err(|_| StatusWord::AUTHENTICATION_FAILED)?;
        channel.level = level;
        if let ChallengeSource::Sequence { counter, .. } = &mut self.challenge {
            *counter += 1;
        }
        self.state = State::Authenticated { channel, kvn };
        Ok(level)
    }

    /// Any other command over the open channel: checks the C-MAC, decrypts, answers. A command that fails its checks
    /// closes the channel.
    pub fn process(&mut self, command: &[u8]) -> Result<Processed, StatusWord> {
        let State::Authenticated { mut channel, kvn } = std::mem::replace(&mut self.state, State::Idle)
        else {
            return Err(StatusWord::SECURITY_NOT_SATISFIED);
        };
        let mut command = Apdu::parse(command).ok_or(StatusWord::WRONG_LENGTH)?;
        if command.header[0] & 0x04 == 0 {
            return Err(StatusWord::CLASS_NOT_SUPPORTED);
        }
        command = channel.verify_mac(command).ok_or(StatusWord::SECURITY_NOT_SATISFIED)?;
        channel.next_command();
        if channel.level.has_c_enc() && !command.data.is_empty() {
            command.data = channel.decrypt_command(command.data).ok_or(StatusWord::SECURITY_NOT_SATISFIED)?;
        }
        let (mut response, status) = match command.header[1] {
            0xd8 => self
                .put_key(&command, channel.level, kvn)
                .map_or_else(|status| (vec![], status), |answer| (answer, StatusWord::OK)),
            _ => self.application(&command),
        };
        if channel.level.has_r_enc() && !response.is_empty() {
            response = channel.encrypt_response(&response);
        }
        if channel.level.has_r_mac() {
            response.extend(channel.response_mac(&response, status.0.to_be_bytes()));
        }
        self.state = State::Authenticated { channel, kvn };
        Ok(Processed { command, response, status })
    }

    /// PUT KEY of a whole keyset over an encrypted channel (GP Card Specification §11.8): all three keys or none. P1 is
    /// 00 to add a keyset, or the version of the one it replaces.
    fn put_key(&mut self, command: &Apdu, level: SecurityLevel, kvn: u8) -> Result<Vec<u8>, StatusWord> {
        if !level.has_c_enc() {
            return Err(StatusWord::SECURITY_NOT_SATISFIED);
        }
        let [_, _, replaced, 0x81] = command.header else { return Err(StatusWord::INCORRECT_PARAMETERS) };
        if replaced != 0x00 && !self.keysets.contains_key(&replaced) {
            return Err(StatusWord::KEYSET_NOT_FOUND);
        }
        // The keyset that opened the channel may have been replaced within it.
        let dek = &self.keysets.get(&kvn).ok_or(StatusWord::CONDITIONS_NOT_SATISFIED)?.dek;
        let mut new = NewKeyset::read(&command.data, self.dialect, dek)?;
        if new.kvn != replaced && self.keysets.contains_key(&new.kvn) {
            return Err(StatusWord::INCORRECT_DATA);
        }
        match self.put_key {
            PutKeyBehaviour::Honest => {}
            PutKeyBehaviour::WrongCheckValue => new.keys[0][0] ^= 0x01,
            PutKeyBehaviour::EchoWithoutLoading => {
                self.put_keys_executed += 1;
                return Ok(new.answer());
            }
        }
        self.keysets.remove(&replaced);
        let [enc, mac, dek] = &new.keys;
        self.install_keyset(new.kvn, enc, mac, dek);
        self.put_keys_executed += 1;
        Ok(new.answer())
    }

    /// What lies behind the channel: STORE DATA with ES10c.GetEID (SGP.22 §5.7.20) is answered, all else accepted.
    fn application(&self, command: &Apdu) -> (Vec<u8>, StatusWord) {
        let mut response = vec![];
        if command.header[1] == 0xe2 && command.data == [0xbf, 0x3e, 0x03, 0x5c, 0x01, 0x5a] {
            response.extend([0xbf, 0x3e, 0x12, 0x5a, 0x10]);
            response.extend(self.eid);
        }
        (response, StatusWord::OK)
    }
}
