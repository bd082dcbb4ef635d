//! HPKE (RFC 9180) for the one suite and use we have: base mode, one message per context, DHKEM(P-256, HKDF-SHA256),
//! HKDF-SHA256, AES-256-GCM. The primitives are those of aws-lc; only the framing between them is ours
//! (docs/decisions/0005-hpke-on-aws-lc.md); tests compare it with the crate `hpke` and with published vectors.

use std::sync::LazyLock;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree};
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use zeroize::Zeroizing;

use crate::KeyError;
use crate::seal::Sealed;

// RFC 9180 §4.1: the suite of the KEM.
const KEM: &[u8] = b"KEM\x00\x10";
// RFC 9180 §5.1: the suite of the context.
const HPKE: &[u8] = b"HPKE\x00\x10\x00\x01\x00\x02";
const MODE_BASE: u8 = 0;

/// SEC 1 §2.3.3: the first byte of an uncompressed point. RFC 9180 §7.1.1 has no other form, aws-lc would read some.
const UNCOMPRESSED: u8 = 0x04;

/// The sender's key pair of one message (skE, pkE).
pub struct EphemeralKey(PrivateKey);

impl EphemeralKey {
    /// GenerateKeyPair (RFC 9180 §4). Cheaper than deriving: a scalar that is read is multiplied twice, to make the
    /// point and to check it.
    pub fn generate() -> Result<Self, KeyError> {
        PrivateKey::generate(&ECDH_P256).map(Self).map_err(|_| KeyError::Entropy)
    }

    /// DeriveKeyPair of a seed (ikmE), as the vectors have it.
    pub fn derive(seed: &[u8; 32]) -> Self {
        Self(derive_key_pair(seed))
    }
}

/// SealBase (RFC 9180 §6.1).
pub fn seal(
    recipient: &[u8; 65],
    info: &[u8],
    aad: &[u8],
    plaintext: &[u8],
    EphemeralKey(ephemeral): EphemeralKey,
) -> Result<Sealed, KeyError> {
    let encapsulated_key = public_key(&ephemeral);
    let context = shared_context(
        &ephemeral,
        recipient,
        KemContext { encapsulated_key: &encapsulated_key, recipient },
        info,
        KeyError::RecipientKey,
    )?;
    // The plaintext is encrypted where it stands and the tag has its place: no copy is left behind.
    let mut ciphertext = Vec::with_capacity(plaintext.len() + AES_256_GCM.tag_len());
    ciphertext.extend_from_slice(plaintext);
    context
        .key
        .seal_in_place_append_tag(context.nonce, Aad::from(aad), &mut ciphertext)
        .map_err(|_| KeyError::Sealed)?;
    Ok(Sealed { encapsulated_key, ciphertext })
}

/// OpenBase (RFC 9180 §6.1).
pub fn open(
    private_key: &[u8; 32],
    info: &[u8],
    aad: &[u8],
    sealed: &Sealed,
) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let private_key =
        PrivateKey::from_private_key(&ECDH_P256, private_key).map_err(|_| KeyError::PrivateKey)?;
    let context = shared_context(
        &private_key,
        &sealed.encapsulated_key,
        KemContext { encapsulated_key: &sealed.encapsulated_key, recipient: &public_key(&private_key) },
        info,
        KeyError::Sealed,
    )?;
    let mut message = Zeroizing::new(sealed.ciphertext.clone());
    let plaintext_len = context
        .key
        .open_in_place(context.nonce, Aad::from(aad), &mut message)
        .map_err(|_| KeyError::Sealed)?
        .len();
    message.truncate(plaintext_len);
    Ok(message)
}

/// DeriveKeyPair of P-256 (RFC 9180 §7.1.3).
fn derive_key_pair(seed: &[u8; 32]) -> PrivateKey {
    let dkp_prk = prk(&labeled_extract(&NO_SALT, KEM, b"dkp_prk", seed));
    (0..=255)
        .find_map(|counter| {
            let candidate = labeled_expand::<32>(&dkp_prk, KEM, b"candidate", &[counter]);
            PrivateKey::from_private_key(&ECDH_P256, &*candidate).ok()
        })
        .expect("one candidate in 2^32 is no scalar of P-256; not 256 in a row")
}

fn public_key(private_key: &PrivateKey) -> [u8; 65] {
    let point = private_key.compute_public_key().expect("a private key that was read has its point");
    point.as_ref().try_into().expect("the uncompressed points of P-256 have 65 bytes")
}

/// What both sides put into the shared secret beside the Diffie-Hellman value (RFC 9180 §4.1).
struct KemContext<'a> {
    encapsulated_key: &'a [u8; 65],
    recipient: &'a [u8; 65],
}

/// The key of one message.
struct Context {
    key: LessSafeKey,
    nonce: Nonce,
}

/// Encap or Decap after the choice of keys (RFC 9180 §4.1), then the key schedule; `peer_error` when `peer` is no
/// uncompressed point of the curve.
fn shared_context(
    own: &PrivateKey,
    peer: &[u8; 65],
    kem_context: KemContext<'_>,
    info: &[u8],
    peer_error: KeyError,
) -> Result<Context, KeyError> {
    if peer[0] != UNCOMPRESSED {
        return Err(peer_error);
    }
    agree(own, UnparsedPublicKey::new(&ECDH_P256, peer), peer_error, |dh| {
        let eae_prk = prk(&labeled_extract(&NO_SALT, KEM, b"eae_prk", dh));
        let both_points = [*kem_context.encapsulated_key, *kem_context.recipient].concat();
        let shared_secret = labeled_expand::<32>(&eae_prk, KEM, b"shared_secret", &both_points);
        Ok(key_schedule(&shared_secret, info))
    })
}

/// KeySchedule of base mode (RFC 9180 §5.1): no PSK, and the nonce of sequence number 0 is the base nonce.
fn key_schedule(shared_secret: &[u8; 32], info: &[u8]) -> Context {
    // The same for every message.
    static PSK_ID_HASH: LazyLock<[u8; 32]> =
        LazyLock::new(|| *labeled_extract(&NO_SALT, HPKE, b"psk_id_hash", &[]));
    let info_hash = labeled_extract(&NO_SALT, HPKE, b"info_hash", info);
    let context = [&[MODE_BASE], &PSK_ID_HASH[..], &info_hash[..]].concat();
    let secret = prk(&labeled_extract(&prk(shared_secret), HPKE, b"secret", &[]));
    let key = labeled_expand::<32>(&secret, HPKE, b"key", &context);
    let base_nonce = labeled_expand::<12>(&secret, HPKE, b"base_nonce", &context);
    let key = UnboundKey::new(&AES_256_GCM, &*key).expect("32 bytes are a key of AES-256-GCM");
    Context { key: LessSafeKey::new(key), nonce: Nonce::assume_unique_for_key(*base_nonce) }
}

/// The salt of the first steps: an empty one, which HMAC fills up with zeros.
static NO_SALT: LazyLock<hmac::Key> = LazyLock::new(|| prk(&[0; 32]));

/// A pseudo-random key as both steps of HKDF use it, the key of an HMAC (RFC 5869 §2.2, §2.3), absorbed once. Wiped on
/// drop.
fn prk(bytes: &[u8; 32]) -> hmac::Key {
    hmac::Key::new(HMAC_SHA256, bytes)
}

/// LabeledExtract (RFC 9180 §4).
fn labeled_extract(salt: &hmac::Key, suite: &[u8], label: &[u8], ikm: &[u8]) -> Zeroizing<[u8; 32]> {
    let labeled_ikm = Zeroizing::new([b"HPKE-v1", suite, label, ikm].concat());
    hmac_sha256(salt, &labeled_ikm)
}

/// LabeledExpand (RFC 9180 §4) to at most 32 bytes; labels and info are public.
fn labeled_expand<const N: usize>(
    prk: &hmac::Key,
    suite: &[u8],
    label: &[u8],
    info: &[u8],
) -> Zeroizing<[u8; N]> {
    const { assert!(N <= 32, "one block of HKDF-SHA-256") };
    let length = (N as u16).to_be_bytes();
    // RFC 5869 §2.3: T(1) = HMAC(PRK, info || 01).
    let block = hmac_sha256(prk, &[&length[..], b"HPKE-v1", suite, label, info, &[1]].concat());
    let mut output = Zeroizing::new([0; N]);
    output.copy_from_slice(&block[..N]);
    output
}

fn hmac_sha256(key: &hmac::Key, message: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut tag = Zeroizing::new([0; 32]);
    hmac::sign_to_buffer(key, message, &mut *tag).expect("HMAC-SHA-256 fills 32 bytes");
    tag
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use hpke::aead::AesGcm256;
    use hpke::kdf::HkdfSha256;
    use hpke::kem::DhP256HkdfSha256;
    use hpke::rand_core::{TryCryptoRng, TryRng};
    use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
    use proptest::array::uniform32;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    type Hpke = DhP256HkdfSha256;

    /// Hands the seed to `hpke`, which draws the keying material of the ephemeral key in one go.
    struct SeedOnce(Option<[u8; 32]>);

    impl TryRng for SeedOnce {
        type Error = Infallible;

        fn try_next_u32(&mut self) -> Result<u32, Infallible> {
            unreachable!("hpke fills bytes only")
        }

        fn try_next_u64(&mut self) -> Result<u64, Infallible> {
            unreachable!("hpke fills bytes only")
        }

        fn try_fill_bytes(&mut self, target: &mut [u8]) -> Result<(), Infallible> {
            target.copy_from_slice(&self.0.take().expect("hpke draws once for one ephemeral key"));
            Ok(())
        }
    }

    impl TryCryptoRng for SeedOnce {}

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn the_crate_hpke_makes_the_same_bytes_and_each_side_opens_the_other(
            recipient_seed in uniform32(any::<u8>()),
            seed in uniform32(any::<u8>()),
            info in vec(any::<u8>(), 0..200),
            aad in vec(any::<u8>(), 0..40),
            plaintext in vec(any::<u8>(), 0..300),
        ) {
            let (private_key, recipient) = Hpke::derive_keypair(&recipient_seed);
            let recipient_bytes: [u8; 65] = recipient.to_bytes().into();
            let ours = seal(&recipient_bytes, &info, &aad, &plaintext, EphemeralKey::derive(&seed)).unwrap();

            let (encapsulated_key, ciphertext) = hpke::single_shot_seal_with_rng::<AesGcm256, HkdfSha256, Hpke>(
                &OpModeS::Base, &recipient, &info, &plaintext, &aad, &mut SeedOnce(Some(seed)),
            ).unwrap();
            let theirs = Sealed { encapsulated_key: encapsulated_key.to_bytes().into(), ciphertext };
            prop_assert_eq!(&ours, &theirs);

            let private_bytes: [u8; 32] = private_key.to_bytes().into();
            prop_assert_eq!(&*open(&private_bytes, &info, &aad, &theirs).unwrap(), &plaintext);
            let opened = hpke::single_shot_open::<AesGcm256, HkdfSha256, Hpke>(
                &OpModeR::Base,
                &private_key,
                &<Hpke as Kem>::EncappedKey::from_bytes(&ours.encapsulated_key).unwrap(),
                &info,
                &ours.ciphertext,
                &aad,
            ).unwrap();
            prop_assert_eq!(opened, plaintext);
        }
    }

    // SEC 1 §2.3.3 and X9.62 know a hybrid form, 06 or 07 before both coordinates, which some readers take.
    #[test]
    fn a_point_in_hybrid_form_is_neither_recipient_nor_encapsulated_key() {
        let private_key = derive_key_pair(&[1; 32]);
        let good = public_key(&private_key);
        let mut hybrid = good;
        hybrid[0] = 0x06 | (good[64] & 1);
        assert!(seal(&good, b"info", &[], b"keys", EphemeralKey::derive(&[2; 32])).is_ok());
        assert_eq!(
            seal(&hybrid, b"info", &[], b"keys", EphemeralKey::derive(&[2; 32])),
            Err(KeyError::RecipientKey)
        );
        let message = Sealed { encapsulated_key: hybrid, ciphertext: vec![0; 20] };
        assert_eq!(open(&[3; 32], b"info", &[], &message), Err(KeyError::Sealed));
    }
}
