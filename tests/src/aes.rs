//! The AES modes of SCP03 and of key check values, over aws-lc.

use aws_lc_rs::cipher::{
    self, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey,
};
use aws_lc_rs::cmac;
use aws_lc_rs::iv::FixedLength;

/// One AES key with its modes.
pub(crate) struct AesKey(Vec<u8>);

impl AesKey {
    /// A key of 16, 24 or 32 bytes; nothing else is one.
    pub(crate) fn new(bytes: &[u8]) -> Option<Self> {
        matches!(bytes.len(), 16 | 24 | 32).then(|| Self(bytes.to_vec()))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn cmac(&self, message: &[u8]) -> [u8; 16] {
        let algorithm = match self.len() {
            16 => cmac::AES_128,
            24 => cmac::AES_192,
            _ => cmac::AES_256,
        };
        let key = cmac::Key::new(algorithm, &self.0).expect("the length was checked");
        let tag = cmac::sign(&key, message).expect("CMAC takes any message");
        tag.as_ref().try_into().expect("an AES-CMAC has 16 bytes")
    }

    pub(crate) fn ecb_block(&self, mut block: [u8; 16]) -> [u8; 16] {
        let key = EncryptingKey::ecb(self.cipher_key()).expect("AES has ECB");
        key.less_safe_encrypt(&mut block, EncryptionContext::None).expect("the input is one block");
        block
    }

    /// CBC over whole blocks.
    pub(crate) fn cbc_encrypt(&self, icv: [u8; 16], mut blocks: Vec<u8>) -> Vec<u8> {
        let key = EncryptingKey::cbc(self.cipher_key()).expect("AES has CBC");
        key.less_safe_encrypt(&mut blocks, EncryptionContext::Iv128(FixedLength::from(icv)))
            .expect("the input is whole blocks");
        blocks
    }

    /// CBC over whole blocks; `None` for any other length.
    pub(crate) fn cbc_decrypt(&self, icv: [u8; 16], mut blocks: Vec<u8>) -> Option<Vec<u8>> {
        let key = DecryptingKey::cbc(self.cipher_key()).expect("AES has CBC");
        key.decrypt(&mut blocks, DecryptionContext::Iv128(FixedLength::from(icv))).ok()?;
        Some(blocks)
    }

    /// The first three bytes of ECB over `01` sixteen times (GP Card Specification §B.6).
    pub(crate) fn check_value(&self) -> [u8; 3] {
        let [a, b, c, ..] = self.ecb_block([0x01; 16]);
        [a, b, c]
    }

    fn cipher_key(&self) -> UnboundCipherKey {
        let algorithm = match self.len() {
            16 => &cipher::AES_128,
            24 => &cipher::AES_192,
            _ => &cipher::AES_256,
        };
        UnboundCipherKey::new(algorithm, &self.0).expect("the length was checked")
    }
}

/// ISO 9797-1 method 2: `80` and zeros up to a whole block.
pub(crate) fn pad(data: &[u8]) -> Vec<u8> {
    let mut padded = data.to_vec();
    padded.push(0x80);
    padded.resize(padded.len().next_multiple_of(16), 0);
    padded
}

/// Takes [`pad`] off again; `None` when it is not there.
pub(crate) fn unpad(mut padded: Vec<u8>) -> Option<Vec<u8>> {
    let end = padded.iter().rposition(|&byte| byte != 0)?;
    if padded[end] != 0x80 {
        return None;
    }
    padded.truncate(end);
    Some(padded)
}
