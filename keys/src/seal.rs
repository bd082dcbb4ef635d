//! Session keys sealed to the provisioning server that asked: HPKE (RFC 9180) in base mode,
//! DHKEM(P-256, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, empty aad (docs/formats/sealed-session-keys.md).

use domain::{Eid, KeyVersionNumber, PrincipalId};
use zeroize::Zeroizing;

use crate::scp03::{Challenges, SessionKeys};
use crate::{KeyError, SecretKey, rfc9180};

/// The longest request id that [`session_keys_info`] takes, in bytes.
pub const REQUEST_ID_MAX: usize = 64;

/// The version of [`SessionKeys::encode`].
pub const SESSION_KEYS_VERSION: u8 = 1;

const TLS_SECRET_CONTEXT: &[u8] = b"chancery-tls-secret/v1\0";
const SESSION_KEYS_CONTEXT: &[u8] = b"chancery-session-keys/v1\0";
/// Challenges of 16 bytes: another name, so that no info of one mode is an info of the other.
const SESSION_KEYS_CONTEXT_S16: &[u8] = b"chancery-session-keys/v1/s16\0";

/// The key pair of one message. It is used up by [`seal`]: the same one for two messages to a recipient would give both
/// the same key and nonce.
pub struct EphemeralKey(rfc9180::EphemeralKey);

impl EphemeralKey {
    /// A fresh one, from the random generator of aws-lc, which the kernel seeds. Fails when that fails.
    pub fn generate() -> Result<Self, KeyError> {
        rfc9180::EphemeralKey::generate().map(Self)
    }
}

impl From<EphemeralSeed> for EphemeralKey {
    fn from(seed: EphemeralSeed) -> Self {
        Self(rfc9180::EphemeralKey::derive(&seed.0))
    }
}

/// 32 bytes of fresh entropy for one [`EphemeralKey`], as published examples give it.
pub struct EphemeralSeed(Zeroizing<[u8; 32]>);

impl EphemeralSeed {
    /// Takes 32 bytes of a cryptographic random generator.
    pub const fn from_entropy(entropy: Zeroizing<[u8; 32]>) -> Self {
        Self(entropy)
    }
}

/// A sealed message: what the recipient needs besides its private key and the info.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sealed {
    /// The ephemeral public key, an uncompressed P-256 point.
    pub encapsulated_key: [u8; 65],
    /// As long as the plaintext plus the 16-byte tag.
    pub ciphertext: Vec<u8>,
}

/// The info under which session keys are sealed: everything the keys were released for.
///
/// `"chancery-session-keys/v1\0" || principal(32) || EID(16) || KVN(1) || host challenge(8) || card challenge(8) ||
/// length of the request id(1) || request id`; in mode S16 the challenges have 16 bytes and the name is
/// `"chancery-session-keys/v1/s16\0"`.
pub fn session_keys_info<const N: usize>(
    principal: &PrincipalId,
    eid: &Eid,
    kvn: KeyVersionNumber,
    challenges: &Challenges<N>,
    request_id: &[u8],
) -> Result<Vec<u8>, KeyError> {
    let request_id_len = request_id_length(request_id)?;
    let name = if N == 8 { SESSION_KEYS_CONTEXT } else { SESSION_KEYS_CONTEXT_S16 };
    Ok([name, &principal.0, eid.bcd(), &[kvn.value()], &challenges.context(), &[request_id_len], request_id]
        .concat())
}

/// The info under which the master secret of a TLS connection is sealed (docs/cycles/psk.md).
///
/// `"chancery-tls-secret/v1\0" || principal(32) || EID(16) || KVN(1) || client random(32) || server random(32) ||
/// length of the request id(1) || request id`.
pub fn tls_secret_info(
    principal: &PrincipalId,
    eid: &Eid,
    kvn: KeyVersionNumber,
    (client_random, server_random): (&[u8; 32], &[u8; 32]),
    request_id: &[u8],
) -> Result<Vec<u8>, KeyError> {
    let request_id_len = request_id_length(request_id)?;
    let (kvn, length) = ([kvn.value()], [request_id_len]);
    let parts: [&[u8]; 8] = [
        TLS_SECRET_CONTEXT,
        &principal.0,
        eid.bcd(),
        &kvn,
        client_random,
        server_random,
        &length,
        request_id,
    ];
    Ok(parts.concat())
}

pub(crate) fn request_id_length(request_id: &[u8]) -> Result<u8, KeyError> {
    match u8::try_from(request_id.len()) {
        Ok(length) if request_id.len() <= REQUEST_ID_MAX => Ok(length),
        _ => Err(KeyError::RequestIdLength { actual: request_id.len() }),
    }
}

/// Seals `plaintext` to `recipient`, an uncompressed P-256 point.
pub fn seal(
    recipient: &[u8; 65],
    info: &[u8],
    plaintext: &[u8],
    ephemeral: impl Into<EphemeralKey>,
) -> Result<Sealed, KeyError> {
    seal_with_aad(recipient, info, &[], plaintext, ephemeral.into())
}

/// Opens what was sealed to the public key of `private_key` (a 32-byte big-endian scalar) under the same info.
pub fn open(private_key: &[u8; 32], info: &[u8], sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    open_with_aad(private_key, info, &[], sealed)
}

// Published vectors have an aad, our messages have none: some peers' libraries cannot give one.
fn seal_with_aad(
    recipient: &[u8; 65],
    info: &[u8],
    aad: &[u8],
    plaintext: &[u8],
    ephemeral: EphemeralKey,
) -> Result<Sealed, KeyError> {
    rfc9180::seal(recipient, info, aad, plaintext, ephemeral.0)
}

fn open_with_aad(
    private_key: &[u8; 32],
    info: &[u8],
    aad: &[u8],
    sealed: &Sealed,
) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    rfc9180::open(private_key, info, aad, sealed)
}

impl SessionKeys {
    /// The plaintext that is sealed: `version(1) = 01 || bytes of one key(1) || S-ENC || S-MAC || S-RMAC`.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let key_len = self.s_enc.expose().len();
        // The full capacity at once: growing would leave copies of the keys behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(2 + 3 * key_len));
        bytes.extend([SESSION_KEYS_VERSION, u8::try_from(key_len).expect("an AES key has at most 32 bytes")]);
        for key in [&self.s_enc, &self.s_mac, &self.s_rmac] {
            bytes.extend_from_slice(key.expose());
        }
        bytes
    }

    /// Reads [`SessionKeys::encode`]; other versions and lengths are refused.
    pub fn decode(bytes: &[u8]) -> Result<Self, KeyError> {
        let Some((&[SESSION_KEYS_VERSION, key_len], keys)) = bytes.split_first_chunk() else {
            return Err(KeyError::SessionKeysEncoding);
        };
        let key_len = usize::from(key_len);
        if keys.len() != 3 * key_len {
            return Err(KeyError::SessionKeysEncoding);
        }
        let key = |i: usize| {
            SecretKey::from_slice(&keys[i * key_len..(i + 1) * key_len])
                .map_err(|_| KeyError::SessionKeysEncoding)
        };
        Ok(Self { s_enc: key(0)?, s_mac: key(1)?, s_rmac: key(2)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rfc_9180_vector_of_this_suite_is_sealed_and_opened() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/hpke_p256_sha256_aes256gcm.json");
        let vector: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let bytes = |name: &str| hex::decode(vector[name].as_str().unwrap()).unwrap();
        let sealed = Sealed { encapsulated_key: bytes("enc").try_into().unwrap(), ciphertext: bytes("ct") };

        let seed = EphemeralSeed::from_entropy(Zeroizing::new(bytes("ikmE").try_into().unwrap()));
        let recipient = bytes("pkRm").try_into().unwrap();
        assert_eq!(
            seal_with_aad(&recipient, &bytes("info"), &bytes("aad"), &bytes("pt"), seed.into()).unwrap(),
            sealed
        );

        let private_key = bytes("skRm").try_into().unwrap();
        assert_eq!(
            *open_with_aad(&private_key, &bytes("info"), &bytes("aad"), &sealed).unwrap(),
            bytes("pt")
        );
        // Our messages have no aad: one that was sealed with an aad does not open.
        assert_eq!(open(&private_key, &bytes("info"), &sealed), Err(KeyError::Sealed));
    }
}
