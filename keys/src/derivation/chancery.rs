//! Our derivation scheme, `chancery-cmac-v1`: a device's static keys from a master. Cards depend on these bytes for
//! ever (docs/formats/key-derivation.md).

use domain::{DeviceKeyset, Eid, KeyUsage, KeyVersionNumber, KeysetAlgorithm, Protocol, SecurityDomain};

use crate::kdf::kbkdf_counter;
use crate::{Prf, SecretKey};

/// The label of SP 800-108 that sets our derivations apart from any other use of a master.
pub const LABEL: &[u8; 8] = b"CHANCERY";

/// The PRF input of block `counter` (from 1) of the key for `usage`:
/// `i(1) || label(8) || 00 || protocol(1) || security domain(1) || usage(1) || KVN(1) || L(2, bits) || EID(16, BCD)`.
pub fn message(keyset: &DeviceKeyset, usage: KeyUsage, counter: u8) -> [u8; 32] {
    let mut message = [0; 32];
    message[..16].copy_from_slice(&KeyKind::of(keyset, usage, counter).first_block());
    message[16..].copy_from_slice(second_block(&keyset.eid));
    message
}

/// The second and last block of [`message`]: the EID.
pub const fn second_block(eid: &Eid) -> &[u8; 16] {
    eid.bcd()
}

/// Derives the key for `usage` through `prf`, the master's AES-CMAC.
pub fn derive<P: Prf>(prf: &P, keyset: &DeviceKeyset, usage: KeyUsage) -> Result<SecretKey, P::Error> {
    // SP 800-108r1 §4.1: the counter leads the fixed input.
    let fixed = &message(keyset, usage, 0)[1..];
    SecretKey::try_filled(keyset.algorithm.key_bytes(), |key| kbkdf_counter(prf, &[], fixed, key))
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
    /// Of block `counter` of one key.
    pub const fn of(keyset: &DeviceKeyset, usage: KeyUsage, counter: u8) -> Self {
        Self {
            protocol: keyset.protocol,
            security_domain: keyset.security_domain,
            usage,
            kvn: keyset.kvn,
            algorithm: keyset.algorithm,
            counter,
        }
    }

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
