//! Bound profile package protection (SGP.22 §2.6.4): its key derivation, the data an SM-DP+ signs for it, and the sealed
//! message in which its keys leave (docs/formats/sealed-bsp-keys.md).

use aws_lc_rs::digest::{Context, SHA256};
use domain::{Eid, PrincipalId};
use zeroize::Zeroizing;

use crate::rsp::{ONE_TIME_KEY, TransactionId, tlv};
use crate::seal::REQUEST_ID_MAX;
use crate::{KeyError, SecretKey};

/// Key type AES (GP Card Specification table 11-16).
pub const KEY_TYPE: u8 = 0x88;
/// Bytes of each key.
pub const KEY_LENGTH: u8 = 0x10;
/// Bytes that the key derivation gives: initial MAC chaining value, S-ENC, S-MAC.
pub const KEY_DATA_BYTES: usize = 48;
/// Bytes of the longest host id.
pub const HOST_ID_MAX: usize = 16;
/// The version of [`BoundKeys::encode`].
pub const BOUND_KEYS_VERSION: u8 = 1;

const BOUND_KEYS_CONTEXT: &[u8] = b"chancery-bsp-keys/v1\0";

/// How the profile inside the package is protected (SGP.22 §2.5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProfileProtection {
    /// Under the session keys.
    SessionKeys,
    /// Under keys of its own, which ReplaceSessionKeys brings.
    ProfileKeys,
}

impl ProfileProtection {
    /// The number in records and in the sealed message.
    pub const fn code(self) -> u8 {
        match self {
            Self::SessionKeys => 1,
            Self::ProfileKeys => 2,
        }
    }

    /// The protection of a number.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::SessionKeys),
            2 => Some(Self::ProfileKeys),
            _ => None,
        }
    }
}

/// The keys of one protected channel.
pub struct BspKeys {
    /// Encrypts segments.
    pub s_enc: SecretKey,
    /// MACs segments.
    pub s_mac: SecretKey,
    /// What the MAC chain starts from.
    pub initial_mac_chaining_value: Zeroizing<[u8; 16]>,
}

impl BspKeys {
    /// Takes the 48 bytes of the key derivation apart.
    pub fn from_key_data(key_data: &[u8; KEY_DATA_BYTES]) -> Self {
        let mut initial_mac_chaining_value = Zeroizing::new([0; 16]);
        initial_mac_chaining_value.copy_from_slice(&key_data[..16]);
        Self { s_enc: aes128(&key_data[16..32]), s_mac: aes128(&key_data[32..]), initial_mac_chaining_value }
    }

    /// From 48 fresh random bytes: PPK-ENC, PPK-CMAC and their chaining value.
    pub fn from_entropy(entropy: &Zeroizing<[u8; KEY_DATA_BYTES]>) -> Self {
        Self::from_key_data(entropy)
    }
}

fn aes128(bytes: &[u8]) -> SecretKey {
    SecretKey::from_slice(bytes).expect("16 bytes are an AES-128 key")
}

/// SharedInfo of the key derivation: key type, key length, and host id and EID each with its length (SGP.22 §2.6.4.2).
///
/// # Panics
/// When the host id is longer than [`HOST_ID_MAX`] bytes.
pub fn shared_info(host_id: &[u8], eid: &[u8; 16]) -> Vec<u8> {
    assert!(host_id.len() <= HOST_ID_MAX, "callers bound the host id");
    [&[KEY_TYPE, KEY_LENGTH, host_id.len() as u8], host_id, &[16], eid].concat()
}

/// X9.63 with SHA-256: SHA-256(Z || counter || SharedInfo) for the counters 1 and 2, the leading 48 bytes.
pub fn key_data(shared_secret: &[u8; 32], shared_info: &[u8]) -> Zeroizing<[u8; KEY_DATA_BYTES]> {
    let mut output = Zeroizing::new([0; 64]);
    for (counter, block) in (1u32..).zip(output.chunks_exact_mut(32)) {
        let mut context = Context::new(&SHA256);
        context.update(shared_secret);
        context.update(&counter.to_be_bytes());
        context.update(shared_info);
        block.copy_from_slice(context.finish().as_ref());
    }
    let mut key_data = Zeroizing::new([0; KEY_DATA_BYTES]);
    key_data.copy_from_slice(&output[..KEY_DATA_BYTES]);
    key_data
}

/// The public part of an InitialiseSecureChannel (tag BF23) before it is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecureChannel {
    /// Ours.
    pub transaction_id: TransactionId,
    /// 1 to [`HOST_ID_MAX`] bytes.
    pub host_id: Vec<u8>,
    /// otPK.DP.ECKA, an uncompressed point.
    pub server_key: [u8; 65],
}

impl SecureChannel {
    /// What the DPpb key signs: the fields and, after them, otPK.EUICC.ECKA (SGP.22 §5.5.1).
    pub fn signed(&self, euicc_key: &[u8; 65]) -> Vec<u8> {
        [self.fields(), tlv(ONE_TIME_KEY, euicc_key)].concat()
    }

    /// The whole object with its signature.
    pub fn encode(&self, signature: &[u8; 64]) -> Vec<u8> {
        tlv(0xbf23, &[self.fields(), tlv(0x5f37, signature)].concat())
    }

    fn fields(&self) -> Vec<u8> {
        let control_reference =
            [tlv(0x80, &[KEY_TYPE]), tlv(0x81, &[KEY_LENGTH]), tlv(0x84, &self.host_id)].concat();
        [
            // remoteOpId: installBoundProfilePackage.
            tlv(0x82, &[1]),
            tlv(0x80, &self.transaction_id.0),
            tlv(0xa6, &control_reference),
            tlv(ONE_TIME_KEY, &self.server_key),
        ]
        .concat()
    }
}

/// What a binding gives to the SM-DP+.
pub struct BoundKeys {
    /// The keys agreed with the eUICC.
    pub session: BspKeys,
    /// The keys of the profile, where it has its own.
    pub profile: Option<BspKeys>,
}

impl BoundKeys {
    /// The plaintext that is sealed: `version(1) = 01 || protection(1) || S-ENC || S-MAC || initial MAC chaining value`, and
    /// with profile keys `PPK-ENC || PPK-CMAC || initial MAC chaining value` of theirs; 16 bytes each.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let protection = match &self.profile {
            None => ProfileProtection::SessionKeys,
            Some(_) => ProfileProtection::ProfileKeys,
        };
        // The full capacity at once: growing would leave copies of the keys behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(2 + 2 * KEY_DATA_BYTES));
        bytes.extend([BOUND_KEYS_VERSION, protection.code()]);
        for keys in [Some(&self.session), self.profile.as_ref()].into_iter().flatten() {
            bytes.extend_from_slice(keys.s_enc.expose());
            bytes.extend_from_slice(keys.s_mac.expose());
            bytes.extend_from_slice(&*keys.initial_mac_chaining_value);
        }
        bytes
    }

    /// Reads [`BoundKeys::encode`]; other versions and lengths are refused.
    pub fn decode(bytes: &[u8]) -> Result<Self, KeyError> {
        let Some((&[BOUND_KEYS_VERSION, protection], keys)) = bytes.split_first_chunk() else {
            return Err(KeyError::BoundKeysEncoding);
        };
        let (session, profile) = match (ProfileProtection::from_code(protection), keys.len()) {
            (Some(ProfileProtection::SessionKeys), KEY_DATA_BYTES) => (keys, None),
            (Some(ProfileProtection::ProfileKeys), length) if length == 2 * KEY_DATA_BYTES => {
                let (session, profile) = keys.split_at(KEY_DATA_BYTES);
                (session, Some(profile))
            }
            _ => return Err(KeyError::BoundKeysEncoding),
        };
        let read = |keys: &[u8]| {
            let mut initial_mac_chaining_value = Zeroizing::new([0; 16]);
            initial_mac_chaining_value.copy_from_slice(&keys[32..]);
            BspKeys { s_enc: aes128(&keys[..16]), s_mac: aes128(&keys[16..32]), initial_mac_chaining_value }
        };
        Ok(Self { session: read(session), profile: profile.map(read) })
    }
}

/// The info under which bound keys are sealed: everything they were released for.
///
/// `"chancery-bsp-keys/v1\0" || principal(32) || EID(16) || transaction id(16) || length of the request id(1) || request id`.
pub fn bound_keys_info(
    principal: &PrincipalId,
    eid: &Eid,
    transaction_id: &TransactionId,
    request_id: &[u8],
) -> Result<Vec<u8>, KeyError> {
    let length = match u8::try_from(request_id.len()) {
        Ok(length) if request_id.len() <= REQUEST_ID_MAX => length,
        _ => return Err(KeyError::RequestIdLength { actual: request_id.len() }),
    };
    Ok([BOUND_KEYS_CONTEXT, &principal.0, eid.bcd(), &transaction_id.0, &[length], request_id].concat())
}
