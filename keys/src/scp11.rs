//! SCP11a and SCP11c (GP Card Specification Amendment F): the command that opens a session, what the card answers, and the keys
//! that both sides derive. P-256 with SHA-256; no host or card identifier in the derivation.
//!
//! Two agreements make the keys: of the one-time keys (in SCP11c the card has none and takes its static key) and of the static
//! keys. The card's receipt is its proof: only who holds SK.SD.ECKA can compute it.

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree};
use aws_lc_rs::digest::{Context, SHA256};
use domain::{Eid, PrincipalId};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::rsp::tlv;
use crate::seal::request_id_length;
use crate::{KeyError, Prf, SecretKey, SoftwareKey};

/// Bytes of a receipt: AES-CMAC.
pub const RECEIPT_BYTES: usize = 16;
/// Bytes of the longest answer that is read.
pub const ANSWER_BYTES_MAX: usize = 128;
/// The version of [`AgreedKeys::encode`].
const AGREED_KEYS_VERSION: u8 = 1;
const CONTEXT: &[u8] = b"chancery-scp11-keys/v1\0";
/// Key type 88 of the control reference template: AES.
const KEY_TYPE: u8 = 0x88;

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Variant {
    /// The card makes a one-time key too.
    A,
    /// The card has its static key alone, so that a session can be prepared without it. A session can be played again to the
    /// card: key management is not allowed in it (Amendment F §3.1.3).
    C,
}

impl Variant {
    /// Both.
    pub const ALL: [Self; 2] = [Self::A, Self::C];

    /// The parameter after `11` of the SCP identifier; the number in messages and frames.
    pub const fn code(self) -> u8 {
        match self {
            Self::A => 0x01,
            Self::C => 0x03,
        }
    }

    /// Reads a number of a message or frame.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|variant| u32::from(variant.code()) == code)
    }

    /// The stable name used in entries and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::A => "scp11a",
            Self::C => "scp11c",
        }
    }
}

/// What a session is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionTerms {
    /// Which protocol.
    pub variant: Variant,
    /// Whether commands and responses are enciphered (key usage 3C), or only have MACs (34).
    pub enciphered: bool,
    /// Bytes of each session key: 16, 24 or 32.
    pub key_bytes: u8,
}

impl SessionTerms {
    /// Reads the values of a message or frame.
    pub fn new(variant: u32, enciphered: bool, key_bytes: u32) -> Option<Self> {
        let key_bytes = u8::try_from(key_bytes).ok().filter(|bytes| matches!(bytes, 16 | 24 | 32))?;
        Some(Self { variant: Variant::from_code(variant)?, enciphered, key_bytes })
    }

    const fn key_usage(self) -> u8 {
        if self.enciphered { 0x3c } else { 0x34 }
    }

    /// The data of MUTUAL AUTHENTICATE (80 82 KVN KID): `A6 { 90 11xx, 95 usage, 80 88, 81 length } || 5F49 ePK.OCE.ECKA`.
    pub fn command_data(self, one_time_key: &[u8; 65]) -> Vec<u8> {
        let template = [
            tlv(0x90, &[0x11, self.variant.code()]),
            tlv(0x95, &[self.key_usage()]),
            tlv(0x80, &[KEY_TYPE]),
            tlv(0x81, &[self.key_bytes]),
        ];
        [tlv(0xa6, &template.concat()), tlv(0x5f49, one_time_key)].concat()
    }
}

/// What the card answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CardAnswer {
    /// ePK.SD.ECKA; of SCP11c PK.SD.ECKA. Not yet checked to be a point.
    pub public_key: [u8; 65],
    /// Its proof.
    pub receipt: [u8; RECEIPT_BYTES],
}

impl CardAnswer {
    /// Reads `5F49 41 point || 86 10 receipt`, without status words.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&[0x5f, 0x49, 0x41])?;
        let (public_key, rest) = rest.split_first_chunk::<65>()?;
        let receipt = rest.strip_prefix(&[0x86, 0x10])?.try_into().ok()?;
        (public_key[0] == 4).then_some(Self { public_key: *public_key, receipt })
    }
}

/// eSK.OCE.ECKA: a P-256 scalar of one session, in memory of this process.
pub struct OneTimeKey(PrivateKey);

impl OneTimeKey {
    /// From 32 secret bytes; `None` for the few values that are no scalar.
    pub fn from_secret(secret: &[u8; 32]) -> Option<Self> {
        PrivateKey::from_private_key(&ECDH_P256, secret).ok().map(Self)
    }

    /// ePK.OCE.ECKA, an uncompressed point.
    pub fn public_key(&self) -> Result<[u8; 65], KeyError> {
        let public = self.0.compute_public_key().map_err(|_| KeyError::PrivateKey)?;
        public.as_ref().try_into().map_err(|_| KeyError::PrivateKey)
    }

    /// The shared secret with the card's key; `None` when that is no point of P-256.
    pub fn agree(&self, card: &[u8; 65]) -> Option<Zeroizing<[u8; 32]>> {
        agree(&self.0, UnparsedPublicKey::new(&ECDH_P256, card), (), |secret| {
            let mut shared = Zeroizing::new([0; 32]);
            shared.copy_from_slice(secret);
            Ok(shared)
        })
        .ok()
    }
}

/// The keys of one session.
pub struct AgreedKeys {
    receipt_key: SoftwareKey,
    /// S-ENC.
    pub s_enc: SecretKey,
    /// S-MAC.
    pub s_mac: SecretKey,
    /// S-RMAC.
    pub s_rmac: SecretKey,
    /// S-DEK.
    pub s_dek: SecretKey,
}

impl AgreedKeys {
    /// X9.63 with SHA-256 over the two shared secrets, the one-time one first (Amendment F §3.1.2, §6.5.2.3).
    pub fn derive(
        terms: SessionTerms,
        of_one_time_keys: &[u8; 32],
        of_static_keys: &[u8; 32],
    ) -> Result<Self, KeyError> {
        let key_bytes = usize::from(terms.key_bytes);
        let shared_info = [terms.key_usage(), KEY_TYPE, terms.key_bytes];
        let mut material = Zeroizing::new([0; 5 * 32]);
        for (counter, block) in (1u32..).zip(material.chunks_exact_mut(32)) {
            let mut context = Context::new(&SHA256);
            context.update(of_one_time_keys);
            context.update(of_static_keys);
            context.update(&counter.to_be_bytes());
            context.update(&shared_info);
            block.copy_from_slice(context.finish().as_ref());
        }
        let key = |at: usize| SecretKey::from_slice(&material[at * key_bytes..(at + 1) * key_bytes]);
        Ok(Self {
            receipt_key: SoftwareKey::new(&key(0)?),
            s_enc: key(1)?,
            s_mac: key(2)?,
            s_rmac: key(3)?,
            s_dek: key(4)?,
        })
    }

    /// The receipt over the command's data and the card's key: the first MAC chaining value of the session too.
    pub fn receipt(&self, command_data: &[u8], card_key: &[u8; 65]) -> [u8; RECEIPT_BYTES] {
        let Ok(receipt) = self.receipt_key.cmac(&[command_data, &tlv(0x5f49, card_key)].concat());
        *receipt
    }

    /// Whether the card's answer to the command is that of the card, compared in constant time.
    pub fn is_proved_by(&self, command_data: &[u8], answer: &CardAnswer) -> bool {
        self.receipt(command_data, &answer.public_key).ct_eq(&answer.receipt).into()
    }

    /// The plaintext that is sealed: `version(1) = 01 || bytes of one key(1) || S-ENC || S-MAC || S-RMAC || S-DEK ||
    /// receipt(16)`.
    pub fn encode(&self, receipt: &[u8; RECEIPT_BYTES]) -> Zeroizing<Vec<u8>> {
        let key_len = self.s_enc.expose().len();
        // The full capacity at once: growing would leave copies of the keys behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(2 + 4 * key_len + RECEIPT_BYTES));
        bytes.extend([AGREED_KEYS_VERSION, u8::try_from(key_len).unwrap_or(0)]);
        for key in [&self.s_enc, &self.s_mac, &self.s_rmac, &self.s_dek] {
            bytes.extend_from_slice(key.expose());
        }
        bytes.extend_from_slice(receipt);
        bytes
    }
}

/// What was sealed, as a caller reads it.
pub struct OpenedKeys {
    /// S-ENC, S-MAC, S-RMAC and S-DEK.
    pub keys: [SecretKey; 4],
    /// The first MAC chaining value.
    pub receipt: [u8; RECEIPT_BYTES],
}

impl OpenedKeys {
    /// Reads [`AgreedKeys::encode`]; other versions and lengths are refused.
    pub fn decode(bytes: &[u8]) -> Result<Self, KeyError> {
        let wrong = || KeyError::SessionKeysEncoding;
        let Some((&[AGREED_KEYS_VERSION, key_len], rest)) = bytes.split_first_chunk() else {
            return Err(wrong());
        };
        let key_len = usize::from(key_len);
        let (keys, receipt) = rest.split_at_checked(4 * key_len).ok_or_else(wrong)?;
        let key =
            |at: usize| SecretKey::from_slice(&keys[at * key_len..(at + 1) * key_len]).map_err(|_| wrong());
        Ok(Self {
            keys: [key(0)?, key(1)?, key(2)?, key(3)?],
            receipt: receipt.try_into().map_err(|_| wrong())?,
        })
    }
}

/// For whom and for what the keys of a session are.
#[derive(Clone, Copy, Debug)]
pub struct Sealing<'a> {
    /// Who asked.
    pub principal: &'a PrincipalId,
    /// The device.
    pub eid: &'a Eid,
    /// Key version number of PK.SD.ECKA.
    pub kvn: u8,
    /// The session.
    pub session_id: &'a [u8; 16],
    /// The caller's, at most 64 bytes.
    pub request_id: &'a [u8],
}

impl Sealing<'_> {
    /// The HPKE info: `"chancery-scp11-keys/v1\0" || principal(32) || EID(16) || KVN(1) || session id(16) || length of the
    /// request id(1) || request id`.
    pub fn info(&self) -> Result<Vec<u8>, KeyError> {
        let (kvn, length) = ([self.kvn], [request_id_length(self.request_id)?]);
        let parts: [&[u8]; 7] =
            [CONTEXT, &self.principal.0, self.eid.bcd(), &kvn, self.session_id, &length, self.request_id];
        Ok(parts.concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by `tests/vectors/scp11.py` with the Python package `cryptography`.
    fn vectors() -> Vec<serde_json::Value> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/scp11.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn both_protocols_derive_the_keys_and_receipts_of_another_implementation() {
        let vectors = vectors();
        assert_eq!(vectors.len(), 12);
        for vector in vectors {
            let bytes = |name: &str| hex::decode(vector[name].as_str().unwrap()).unwrap();
            let number = |name: &str| u32::try_from(vector[name].as_u64().unwrap()).unwrap();
            let enciphered = number("key_usage") == 0x3c;
            let terms = SessionTerms::new(number("parameter"), enciphered, number("key_bytes")).unwrap();
            let one_time = OneTimeKey::from_secret(&bytes("one_time_private").try_into().unwrap()).unwrap();
            let command = terms.command_data(&one_time.public_key().unwrap());
            assert_eq!(command, bytes("command"));
            let answer = CardAnswer::parse(&bytes("answer")).unwrap();
            let shared = one_time.agree(&answer.public_key).unwrap();
            let keys =
                AgreedKeys::derive(terms, &shared, &bytes("static_secret").try_into().unwrap()).unwrap();
            assert!(keys.is_proved_by(&command, &answer));
            let encoded = keys.encode(&answer.receipt);
            assert_eq!(encoded[2..], bytes("keys_and_receipt"));
            let opened = OpenedKeys::decode(&encoded).unwrap();
            assert_eq!(opened.keys[3].expose(), keys.s_dek.expose());
            assert!(OpenedKeys::decode(&encoded[..encoded.len() - 1]).is_err());
            // Neither another receipt, another key of the card, nor another command is the card's.
            let mut wrong = answer;
            wrong.receipt[15] ^= 1;
            assert!(!keys.is_proved_by(&command, &wrong));
            wrong = CardAnswer { public_key: one_time.public_key().unwrap(), ..answer };
            assert!(!keys.is_proved_by(&command, &wrong));
            assert!(!keys.is_proved_by(&command[1..], &answer));
        }
    }

    #[test]
    fn only_whole_answers_and_known_terms_are_read() {
        let answer = [&[0x5f, 0x49, 0x41, 4][..], &[7; 64], &[0x86, 0x10], &[9; 16]].concat();
        assert_eq!(CardAnswer::parse(&answer).unwrap().receipt, [9; 16]);
        for cut in 0..answer.len() {
            assert_eq!(CardAnswer::parse(&answer[..cut]), None);
        }
        assert_eq!(CardAnswer::parse(&[&answer[..], &[0x90, 0]].concat()), None);
        for (variant, bytes) in [(0, 16), (2, 16), (1, 15), (3, 0), (1, 256 + 16)] {
            assert_eq!(SessionTerms::new(variant, true, bytes), None);
        }
        assert!(
            OneTimeKey::from_secret(&[0; 32]).is_none() && OneTimeKey::from_secret(&[0xff; 32]).is_none()
        );
        let one_time = OneTimeKey::from_secret(&[1; 32]).unwrap();
        assert!(one_time.agree(&[4; 65]).is_none());
    }
}
