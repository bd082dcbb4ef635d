//! PUT KEY: the command that puts a keyset on a card, and the card's answer (GP Card Specification §11.8).
//!
//! Encoding only. The key blocks are made where the keys are: AES-CBC with IV 0 under the static DEK of the keyset
//! that opened the secure channel (Amendment D §7.2). The command is then protected like any other of the channel.

use domain::{KeyCheckValue, KeyUsage, KeyVersionNumber, KeysetAlgorithm};

use crate::KeyError;

/// Key type `AES` (GP Card Specification table 11-16).
const AES: u8 = 0x88;
/// P2: several keys, the first one being Key-ENC, key identifier 1.
const SEVERAL_KEYS: u8 = 0x80;
/// Bytes of the card's answer: KVN and three key check values.
const ANSWER_BYTES: usize = 1 + 3 * 3;

/// How a card wants the length of an AES key written; cards of both kinds are in the field.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Dialect {
    /// A clear-key-length byte before a block only when the key was padded, which is AES-192 alone: `88 10 <16>`,
    /// `88 21 18 <32>`, `88 20 <32>` (GP Card Specification tables 11-70 and 11-71).
    A,
    /// That byte always: `88 11 10 <16>`, `88 21 18 <32>`, `88 21 20 <32>` (older cards of Amendment D).
    B,
}

/// One new key as it travels: encrypted, with its check value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EncryptedKey {
    /// AES-CBC with IV 0 under the card's DEK, over the key padded to whole blocks: 16 or 32 bytes.
    pub block: Vec<u8>,
    /// The check value of the key in clear.
    pub kcv: KeyCheckValue,
}

/// A PUT KEY of a whole keyset: three keys in one command, so that a card has all of them or none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PutKey {
    current_kvn: Option<KeyVersionNumber>,
    new_kvn: KeyVersionNumber,
    algorithm: KeysetAlgorithm,
    keys: [EncryptedKey; 3],
}

impl PutKey {
    /// `current_kvn` is the keyset to be replaced, `None` adds one (P1 = 00). `keys` are Key-ENC, Key-MAC, Key-DEK.
    ///
    /// Fails when a block is not as long as a padded key of `algorithm`.
    pub fn new(
        current_kvn: Option<KeyVersionNumber>,
        new_kvn: KeyVersionNumber,
        algorithm: KeysetAlgorithm,
        keys: [EncryptedKey; 3],
    ) -> Result<Self, KeyError> {
        let expected = block_bytes(algorithm);
        match keys.iter().find(|key| key.block.len() != expected) {
            Some(key) => Err(KeyError::PutKeyBlockLength { expected, actual: key.block.len() }),
            None => Ok(Self { current_kvn, new_kvn, algorithm, keys }),
        }
    }

    /// The command in clear, `80 D8 P1 81 Lc data 00`. Lc is at most 118, so that it fits a short command with C-MAC
    /// and C-DECRYPTION too; Le is 00 because the card answers with data (ISO 7816-3 case 4).
    pub fn to_apdu(&self, dialect: Dialect) -> Vec<u8> {
        let data = self.data(dialect);
        let p1 = self.current_kvn.map_or(0x00, KeyVersionNumber::value);
        let lc = u8::try_from(data.len()).expect("three AES keys take at most 118 bytes");
        let mut apdu = vec![0x80, 0xd8, p1, SEVERAL_KEYS | KeyUsage::Enc.code(), lc];
        apdu.extend(data);
        apdu.push(0x00);
        apdu
    }

    /// What a card answers that took the keys. Equal is a report, not a proof: a card may echo what it was sent.
    pub fn expected_answer(&self) -> PutKeyAnswer {
        PutKeyAnswer { kvn: self.new_kvn, kcvs: [0, 1, 2].map(|at| self.keys[at].kcv) }
    }

    /// `new KVN(1)`, then per key `88 || length || [clear key length] || block || 03 || KCV(3)`.
    fn data(&self, dialect: Dialect) -> Vec<u8> {
        let clear_length = self.algorithm.key_bytes();
        let names_clear_length = match dialect {
            Dialect::A => clear_length != block_bytes(self.algorithm),
            Dialect::B => true,
        };
        let byte = |length: usize| u8::try_from(length).expect("an AES key has at most 32 bytes");
        let mut data = vec![self.new_kvn.value()];
        for key in &self.keys {
            data.extend([AES, byte(key.block.len() + usize::from(names_clear_length))]);
            if names_clear_length {
                data.push(byte(clear_length));
            }
            data.extend_from_slice(&key.block);
            data.push(byte(key.kcv.0.len()));
            data.extend(key.kcv.0);
        }
        data
    }
}

/// A card's answer to PUT KEY (GP Card Specification §11.8.3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PutKeyAnswer {
    /// The keyset it says it has now.
    pub kvn: KeyVersionNumber,
    /// Check values of Key-ENC, Key-MAC, Key-DEK, as the card computed them.
    pub kcvs: [KeyCheckValue; 3],
}

impl PutKeyAnswer {
    /// Reads `KVN(1) || KCV(3) x 3`, the response data in clear without the status word.
    pub fn parse(answer: &[u8]) -> Result<Self, KeyError> {
        let malformed = KeyError::PutKeyAnswer { bytes: answer.len() };
        let answer: &[u8; ANSWER_BYTES] = answer.try_into().map_err(|_| malformed)?;
        let kvn = KeyVersionNumber::scp03(answer[0].into()).map_err(|_| malformed)?;
        let kcvs = [1, 4, 7].map(|at| KeyCheckValue([answer[at], answer[at + 1], answer[at + 2]]));
        Ok(Self { kvn, kcvs })
    }

    /// The bytes [`Self::parse`] reads.
    pub fn to_bytes(&self) -> [u8; ANSWER_BYTES] {
        let mut bytes = [self.kvn.value(); ANSWER_BYTES];
        for (target, kcv) in bytes[1..].chunks_exact_mut(3).zip(&self.kcvs) {
            target.copy_from_slice(&kcv.0);
        }
        bytes
    }
}

/// Bytes of an encrypted key: its length padded to whole blocks.
const fn block_bytes(algorithm: KeysetAlgorithm) -> usize {
    algorithm.key_bytes().next_multiple_of(16)
}
