//! Our derivation scheme: a device's static keys from a master. Cards depend on these bytes for ever
//! (docs/formats/key-derivation.md).

use domain::{Eid, KeyUsage, KeyVersionNumber, KeysetAlgorithm, Protocol, SecurityDomain};
use zeroize::Zeroizing;

use crate::kdf::kbkdf_counter;
use crate::{Prf, SecretKey};

/// The label of SP 800-108 that sets our derivations apart from any other use of a master.
pub const LABEL: &[u8; 8] = b"CHANCERY";

/// Which keyset of which device is derived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeysetDerivation {
    /// The device.
    pub eid: Eid,
    /// The protocol the keyset serves.
    pub protocol: Protocol,
    /// The security domain that holds it.
    pub security_domain: SecurityDomain,
    /// Its key version number on the card.
    pub kvn: KeyVersionNumber,
    /// The length of its keys.
    pub algorithm: KeysetAlgorithm,
}

impl KeysetDerivation {
    /// The PRF input of block `counter` (from 1) of the key for `usage`:
    /// `i(1) || label(8) || 00 || protocol(1) || security domain(1) || usage(1) || KVN(1) || L(2, bits) || EID(16, BCD)`.
    pub fn message(&self, usage: KeyUsage, counter: u8) -> [u8; 32] {
        let mut message = [0; 32];
        message[..16].copy_from_slice(&self.kind(usage, counter).first_block());
        message[16..].copy_from_slice(self.second_block());
        message
    }

    /// What the first block of [`Self::message`] depends on.
    pub const fn kind(&self, usage: KeyUsage, counter: u8) -> KeyKind {
        KeyKind {
            protocol: self.protocol,
            security_domain: self.security_domain,
            usage,
            kvn: self.kvn,
            algorithm: self.algorithm,
            counter,
        }
    }

    /// The second and last block of [`Self::message`]: the EID.
    pub const fn second_block(&self) -> &[u8; 16] {
        self.eid.bcd()
    }

    /// Derives the key for `usage` through `prf`, the master's AES-CMAC.
    pub fn derive<P: Prf>(&self, prf: &P, usage: KeyUsage) -> Result<SecretKey, P::Error> {
        // SP 800-108r1 §4.1: the counter leads the fixed input.
        let fixed = &self.message(usage, 0)[1..];
        SecretKey::try_filled(self.algorithm, |key| kbkdf_counter(prf, &[], fixed, key))
    }
}

/// Everything but the device that a derived block depends on: the key of the cache of constant first blocks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct KeyKind {
    /// The protocol the keyset serves.
    pub protocol: Protocol,
    /// The security domain that holds it.
    pub security_domain: SecurityDomain,
    /// Which of its three keys.
    pub usage: KeyUsage,
    /// Its key version number on the card.
    pub kvn: KeyVersionNumber,
    /// The length of its keys.
    pub algorithm: KeysetAlgorithm,
    /// Which 16-byte block of the key, from 1.
    pub counter: u8,
}

impl KeyKind {
    /// The 16 bytes before the EID.
    pub fn first_block(&self) -> [u8; 16] {
        let [bits_high, bits_low] = self.algorithm.key_bits().to_be_bytes();
        let mut block = [0; 16];
        block[0] = self.counter;
        block[1..9].copy_from_slice(LABEL);
        // block[9] is the 00 of SP 800-108r1 §4.1 between label and context.
        block[10] = self.protocol.code();
        block[11] = self.security_domain.code();
        block[12] = self.usage.code();
        block[13] = self.kvn.value();
        block[14] = bits_high;
        block[15] = bits_low;
        block
    }
}

/// How many 16-byte blocks a key of `algorithm` takes; counters run from 1 to this.
pub const fn block_count(algorithm: KeysetAlgorithm) -> u8 {
    match algorithm {
        KeysetAlgorithm::Aes128 => 1,
        KeysetAlgorithm::Aes192 | KeysetAlgorithm::Aes256 => 2,
    }
}

/// The last AES input X of CMAC over two whole blocks, so that AES(K, X) = CMAC(K, D1 || D2): a token that offers AES
/// but no CMAC derives the key from X alone.
///
/// `l` = AES(K, 00..), `c1` = AES(K, D1), `d2` = D2. All of them, and X, are as sensitive as the keys they lead to.
pub fn final_block(l: &[u8; 16], c1: &[u8; 16], d2: &[u8; 16]) -> Zeroizing<[u8; 16]> {
    // SP 800-38B §6.1: K1 = L·x in GF(2^128); without a branch on the secret top bit.
    let doubled = Zeroizing::new((u128::from_be_bytes(*l) << 1) ^ (0x87 * u128::from(l[0] >> 7)));
    let k1 = Zeroizing::new(doubled.to_be_bytes());
    let mut block = Zeroizing::new(*c1);
    for ((x, d), k) in block.iter_mut().zip(d2).zip(k1.iter()) {
        *x ^= d ^ k;
    }
    block
}
