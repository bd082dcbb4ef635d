//! ANSI X9.143 (TR-31) key blocks of version D: a key under a header that says what it is for, both bound by a MAC.
//!
//! `D` length(4) usage(2) algorithm(1) mode(1) version(2) exportability(1) blocks(2) `00`, the optional blocks, then in
//! hexadecimal the ciphertext of `bits(2) || key || filler` and 16 bytes of AES-CMAC over header and plaintext, which
//! is the IV as well.

use std::fmt::Write as _;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::{KeyError, Prf, SecretKey, SoftwareKey};

/// Characters of the fixed header; the header with its optional blocks is a multiple of it.
const BLOCK: usize = 16;
/// Key bytes in the plaintext whatever the key: a block's length does not say how long its key is.
const PADDED_KEY_BYTES: usize = 32;
/// Plaintext bytes: two of length, the key and its filler, in whole blocks.
const PLAIN_BYTES: usize = (2 + PADDED_KEY_BYTES).next_multiple_of(BLOCK);
/// The longest block that is read or written, far below what the length field could say.
const BLOCK_CHARS_MAX: usize = 1024;

/// What a key may be used for, as the header says it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// Key usage, two characters: `B3` derivation key, `K0` key encryption.
    pub usage: [u8; 2],
    /// Mode of use: `X` derives other keys, `B` wraps and unwraps.
    pub mode: u8,
    /// Key version number, two characters.
    pub version: [u8; 2],
    /// `E` exportable under a key-encryption key, `N` not, `S` sensitive.
    pub exportability: u8,
    /// Optional blocks in their order, without the padding block: identifier and printable text.
    pub optional: Vec<([u8; 2], String)>,
}

/// The key that protects key blocks, split into its encryption and its MAC key.
pub struct BlockProtection {
    encryption: SoftwareKey,
    mac: SoftwareKey,
}

impl BlockProtection {
    /// Derives both keys from a key block protection key of 16, 24 or 32 bytes (X9.143 version D, AES-CMAC in counter
    /// mode over `counter || usage || 00 || algorithm || bits`).
    pub fn new(protection_key: &SecretKey) -> Self {
        let derive = |usage: u16| {
            let prf = SoftwareKey::new(protection_key);
            let (algorithm, bits): (u16, u16) = match protection_key.expose().len() {
                16 => (2, 128),
                24 => (3, 192),
                _ => (4, 256),
            };
            let derived = Zeroizing::new([1u8, 2].map(|counter| {
                let mut input = [counter, 0, 0, 0, 0, 0, 0, 0];
                input[1..3].copy_from_slice(&usage.to_be_bytes());
                input[4..6].copy_from_slice(&algorithm.to_be_bytes());
                input[6..8].copy_from_slice(&bits.to_be_bytes());
                let Ok(block) = prf.cmac(&input);
                *block
            }));
            let mut bytes = Zeroizing::new([0; 32]);
            bytes[..16].copy_from_slice(&derived[0]);
            bytes[16..].copy_from_slice(&derived[1]);
            let key = SecretKey::from_slice(&bytes[..usize::from(bits / 8)])
                .expect("a protection key has the length of an AES key");
            SoftwareKey::new(&key)
        };
        Self { encryption: derive(0x0000), mac: derive(0x0001) }
    }

    /// Wraps a key. `filler` are random bytes that hide how long it is.
    pub fn wrap(
        &self,
        header: &Header,
        key: &SecretKey,
        filler: &[u8; PLAIN_BYTES],
    ) -> Result<String, KeyError> {
        let mut text = header.to_text()?;
        let mut plain = Zeroizing::new(*filler);
        let bytes = key.expose();
        let bits = u16::try_from(bytes.len() * 8).expect("an AES key has at most 256 bits");
        plain[..2].copy_from_slice(&bits.to_be_bytes());
        plain[2..2 + bytes.len()].copy_from_slice(bytes);
        let mac = self.mac_of(&text, &plain[..]);
        let mut previous = mac;
        for block in plain.as_chunks::<BLOCK>().0 {
            let mixed = Zeroizing::new(std::array::from_fn(|i| block[i] ^ previous[i]));
            previous = *self.encryption.encrypt_block(&mixed);
            push_hex(&mut text, &previous);
        }
        push_hex(&mut text, &mac);
        Ok(text)
    }

    /// Opens a block: its header and its key, once the MAC is right.
    pub fn unwrap(&self, block: &str) -> Result<(Header, SecretKey), KeyError> {
        let (header, plain) = self.open(block)?;
        let (bits, rest) = plain.split_first_chunk::<2>().ok_or(KeyError::KeyBlock("is too short"))?;
        let length = usize::from(u16::from_be_bytes(*bits)) / 8;
        let key = rest.get(..length).ok_or(KeyError::KeyBlock("names more key than it holds"))?;
        Ok((header, SecretKey::from_slice(key)?))
    }

    /// The header and the plaintext, once the MAC is right.
    fn open(&self, block: &str) -> Result<(Header, Zeroizing<Vec<u8>>), KeyError> {
        let (header, header_chars) = Header::parse(block)?;
        let bytes = from_hex(&block.as_bytes()[header_chars..])?;
        let (cipher, mac) = bytes.split_last_chunk::<BLOCK>().ok_or(KeyError::KeyBlock("is too short"))?;
        let (blocks, []) = cipher.as_chunks::<BLOCK>() else {
            return Err(KeyError::KeyBlock("has a ciphertext that is no whole blocks"));
        };
        let mut plain = Zeroizing::new(Vec::with_capacity(cipher.len()));
        let mut previous = mac;
        for block in blocks {
            let opened = self.encryption.decrypt_block(block);
            plain.extend(opened.iter().zip(previous).map(|(a, b)| a ^ b));
            previous = block;
        }
        let expected = self.mac_of(&block[..header_chars], &plain);
        if !bool::from(expected.ct_eq(mac)) {
            return Err(KeyError::KeyBlock("was changed, or is protected by another key"));
        }
        Ok((header, plain))
    }

    fn mac_of(&self, header: &str, plain: &[u8]) -> [u8; BLOCK] {
        let message = Zeroizing::new([header.as_bytes(), plain].concat());
        let Ok(mac) = self.mac.cmac(&message);
        *mac
    }
}

impl Header {
    /// The header as text, its length field filled in for the key that follows.
    fn to_text(&self) -> Result<String, KeyError> {
        let printable = |bytes: &[u8]| bytes.iter().all(|b| b.is_ascii_graphic() || *b == b' ');
        let fixed = [&self.usage[..], &[self.mode], &self.version, &[self.exportability]].concat();
        if !printable(&fixed) {
            return Err(KeyError::KeyBlock("has a header that is not printable"));
        }
        let mut blocks = String::new();
        let mut count = self.optional.len();
        for (id, value) in &self.optional {
            if !printable(id) || !printable(value.as_bytes()) || id == b"PB" || 4 + value.len() > 255 {
                return Err(KeyError::KeyBlock("has an optional block that cannot be written"));
            }
            let id = std::str::from_utf8(id).map_err(|_| KeyError::KeyBlock("has no printable header"))?;
            // Writing to a string cannot fail.
            let _ = write!(blocks, "{id}{:02X}{value}", 4 + value.len());
        }
        let over = blocks.len() % BLOCK;
        if over != 0 {
            // The padding block has four characters of its own, and at least one of padding.
            let padding = 4 + BLOCK - (blocks.len() + 4) % BLOCK;
            let _ = write!(blocks, "PB{padding:02X}{}", "0".repeat(padding - 4));
            count += 1;
        }
        let length = BLOCK + blocks.len() + 2 * (PLAIN_BYTES + BLOCK);
        if count > 99 || length > BLOCK_CHARS_MAX {
            return Err(KeyError::KeyBlock("has more optional blocks than fit"));
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(format!(
            "D{length:04}{}A{}{}{}{count:02}00{blocks}",
            text(&self.usage),
            char::from(self.mode),
            text(&self.version),
            char::from(self.exportability),
        ))
    }

    /// Reads the header of a block of an AES key; how many characters it has.
    fn parse(block: &str) -> Result<(Self, usize), KeyError> {
        let wrong = KeyError::KeyBlock;
        let bytes = block.as_bytes();
        if !block.is_ascii() || bytes.len() > BLOCK_CHARS_MAX {
            return Err(wrong("is no ASCII text of the length of a key block"));
        }
        let (fixed, _) = bytes.split_first_chunk::<BLOCK>().ok_or(wrong("is too short"))?;
        if fixed[0] != b'D' || fixed[7] != b'A' {
            return Err(wrong("is not of version D for an AES key"));
        }
        if digits(&fixed[1..5]) != Some(bytes.len()) {
            return Err(wrong("has another length than its header says"));
        }
        let count = digits(&fixed[12..14]).ok_or(wrong("has no number of optional blocks"))?;
        let mut header = Self {
            usage: [fixed[5], fixed[6]],
            mode: fixed[8],
            version: [fixed[9], fixed[10]],
            exportability: fixed[11],
            optional: Vec::new(),
        };
        let mut at = BLOCK;
        for _ in 0..count {
            let cut = wrong("ends within an optional block");
            let id = block.get(at..at + 2).ok_or(cut)?;
            let length = block.get(at + 2..at + 4).ok_or(cut)?;
            let length = usize::from_str_radix(length, 16).map_err(|_| cut)?;
            // 00 would begin an extended length, which no block of ours needs.
            let value = block.get(at + 4..at + length.max(4)).filter(|_| length >= 4).ok_or(cut)?;
            if id != "PB" {
                header.optional.push((id.as_bytes().try_into().map_err(|_| cut)?, value.to_owned()));
            }
            at += length;
        }
        if at.is_multiple_of(BLOCK) {
            Ok((header, at))
        } else {
            Err(wrong("has a header that is no whole blocks"))
        }
    }
}

/// X9.24-1: the leftmost five bytes of AES-CMAC over a block of zeros; with the method number 01 in front it is what a
/// `KC` optional block holds.
pub fn cmac_check_value(key: &SecretKey) -> String {
    let Ok(mac) = SoftwareKey::new(key).cmac(&[0; 16]);
    let mut text = "01".to_owned();
    push_hex(&mut text, &mac[..5]);
    text
}

/// Bytes of filler that [`BlockProtection::wrap`] takes.
pub const FILLER_BYTES: usize = PLAIN_BYTES;

fn digits(text: &[u8]) -> Option<usize> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02X}");
    }
}

fn from_hex(text: &[u8]) -> Result<Vec<u8>, KeyError> {
    let wrong = KeyError::KeyBlock("has other characters than hexadecimal digits");
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok()).ok_or(wrong);
    let (pairs, []) = text.as_chunks::<2>() else { return Err(wrong) };
    pairs.iter().map(|[high, low]| Ok(digit(*high)? << 4 | digit(*low)?)).collect()
}

#[cfg(test)]
#[path = "tr31/tests.rs"]
mod tests;
