//! The BPP protection protocol (SGP.22 §2.6.4, annex G): from the shared secret of the key agreement to segments.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};

use super::tlv::{Malformed, Tlv, header};
use crate::aes::{AesKey, pad, unpad};

/// Largest segment, tag, length and MAC included (SGP.22 §2.5.3).
const SEGMENT_MAX_BYTES: usize = 1020;
/// What of it is data: four bytes are tag and length, eight the MAC, and padding adds one at least to whole blocks.
const DATA_MAX_BYTES: usize = (SEGMENT_MAX_BYTES - 4 - 8) / 16 * 16 - 1;

/// Whom keys are agreed for: the control reference template and the eUICC.
#[derive(Clone, Copy)]
pub struct Agreement<'a> {
    /// Key type, 88 for AES.
    pub key_type: u8,
    /// Bytes of one key.
    pub key_len: u8,
    /// The server's name for itself, 1 to 16 bytes.
    pub host_id: &'a [u8],
    /// Packed decimal.
    pub eid: &'a [u8; 16],
}

/// The keys of one protected stretch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BspKeys {
    /// Encrypts segments.
    pub s_enc: [u8; 16],
    /// MACs segments.
    pub s_mac: [u8; 16],
    /// Where the MAC chain starts.
    pub initial_mac_chaining_value: [u8; 16],
}

impl BspKeys {
    /// X9.63 KDF with SHA-256 over the x-coordinate of the agreed point.
    pub fn derive(shared_secret: &[u8], agreement: &Agreement<'_>) -> Self {
        let len = |bytes: &[u8]| u8::try_from(bytes.len()).expect("a host id has at most 16 bytes");
        let mut info = vec![agreement.key_type, agreement.key_len, len(agreement.host_id)];
        info.extend(agreement.host_id);
        info.push(len(agreement.eid));
        info.extend(agreement.eid);
        let block = |counter: u8| {
            let input = [shared_secret, &[0, 0, 0, counter], &info].concat();
            <[u8; 32]>::try_from(digest(&SHA256, &input).as_ref()).expect("SHA-256 has 32 bytes")
        };
        let (first, second) = (block(1), block(2));
        let half = |block: &[u8; 32], at: usize| block[at..at + 16].try_into().expect("half a block");
        Self { initial_mac_chaining_value: half(&first, 0), s_enc: half(&first, 16), s_mac: half(&second, 0) }
    }
}

/// One end of a protected stretch; both count alike.
pub struct Stretch {
    s_enc: AesKey,
    s_mac: AesKey,
    chain: [u8; 16],
    counter: u128,
}

impl Stretch {
    /// Before its first segment.
    pub fn new(keys: &BspKeys) -> Self {
        let key = |bytes| AesKey::new(bytes).expect("16 bytes are an AES key");
        let (s_enc, s_mac) = (key(&keys.s_enc), key(&keys.s_mac));
        Self { s_enc, s_mac, chain: keys.initial_mac_chaining_value, counter: 0 }
    }

    /// The server's end: data of any length into encrypted segments.
    pub fn encrypt(&mut self, tag: u8, data: &[u8]) -> Vec<u8> {
        let segments = data.chunks(DATA_MAX_BYTES).map(|data| {
            let icv = self.next_icv();
            self.mac(tag, &self.s_enc.cbc_encrypt(icv, pad(data)))
        });
        // The closure moves the chain on, so the order of segments is that of the data.
        segments.collect::<Vec<_>>().concat()
    }

    /// The server's end: data of any length into segments that are only MACed. They are counted too (§2.6.4.4).
    pub fn authenticate(&mut self, tag: u8, data: &[u8]) -> Vec<u8> {
        let segments = data.chunks(DATA_MAX_BYTES).map(|data| {
            self.counter += 1;
            self.mac(tag, data)
        });
        segments.collect::<Vec<_>>().concat()
    }

    /// The card's end: one encrypted segment.
    pub fn decrypt(&mut self, segment: &Tlv<'_>) -> Result<Vec<u8>, Malformed> {
        let data = self.verify(segment)?.to_vec();
        let icv = self.next_icv();
        self.s_enc.cbc_decrypt(icv, data).and_then(unpad).ok_or(Malformed)
    }

    /// The card's end: one segment that is only MACed.
    pub fn check(&mut self, segment: &Tlv<'_>) -> Result<Vec<u8>, Malformed> {
        self.counter += 1;
        self.verify(segment).map(<[u8]>::to_vec)
    }

    fn mac(&mut self, tag: u8, data: &[u8]) -> Vec<u8> {
        let mut segment = header(u16::from(tag), data.len() + 8);
        segment.extend(data);
        self.chain = self.s_mac.cmac(&[&self.chain, &segment[..]].concat());
        segment.extend(&self.chain[..8]);
        segment
    }

    fn verify<'a>(&mut self, segment: &Tlv<'a>) -> Result<&'a [u8], Malformed> {
        if segment.whole.len() > SEGMENT_MAX_BYTES {
            return Err(Malformed);
        }
        let (data, tag) = segment.value.split_last_chunk::<8>().ok_or(Malformed)?;
        let maced = &segment.whole[..segment.whole.len() - 8];
        let chain = self.s_mac.cmac(&[&self.chain, maced].concat());
        verify_slices_are_equal(&chain[..8], tag).map_err(|_| Malformed)?;
        self.chain = chain;
        Ok(data)
    }

    fn next_icv(&mut self) -> [u8; 16] {
        self.counter += 1;
        self.s_enc.ecb_block(self.counter.to_be_bytes())
    }
}
