//! TLS with a pre-shared key, as cards of SCP81 do it: TLS 1.2 (RFC 5246), the key exchange PSK (RFC 4279, RFC 5487), the extended
//! master secret (RFC 7627). What a client's Finished proves, and the master secret that is released for it.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac::{self, HMAC_SHA256, HMAC_SHA384};
use aws_lc_rs::tls_prf::{self, P_SHA256, P_SHA384};
use zeroize::Zeroizing;

use crate::{SecretKey, SoftwareKey, cbc};

/// Bytes of a client's or server's random.
pub const RANDOM_BYTES: usize = 32;
/// Bytes of a master secret.
pub const MASTER_SECRET_BYTES: usize = 48;
/// Most bytes of a Finished as it is sent: header, padding and tag included.
pub const FINISHED_RECORD_MAX: usize = 256;

const VERIFY_DATA_BYTES: usize = 12;
/// msg_type finished(20) and the length of its body.
const FINISHED_HEADER: [u8; 4] = [20, 0, 0, 12];
const CONTENT_HANDSHAKE: u8 = 22;
const VERSION: [u8; 2] = [3, 3];
const GCM_TAG_BYTES: usize = 16;
const BLOCK: usize = 16;

/// The cipher suites that are served: those of RFC 5487 whose key exchange is PSK, with encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CipherSuite {
    /// TLS_PSK_WITH_AES_128_GCM_SHA256.
    Aes128Gcm,
    /// TLS_PSK_WITH_AES_256_GCM_SHA384.
    Aes256Gcm,
    /// TLS_PSK_WITH_AES_128_CBC_SHA256.
    Aes128Cbc,
    /// TLS_PSK_WITH_AES_256_CBC_SHA384.
    Aes256Cbc,
}

impl CipherSuite {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Aes128Gcm, Self::Aes256Gcm, Self::Aes128Cbc, Self::Aes256Cbc];

    /// Its number (IANA).
    pub const fn code(self) -> u16 {
        match self {
            Self::Aes128Gcm => 0x00a8,
            Self::Aes256Gcm => 0x00a9,
            Self::Aes128Cbc => 0x00ae,
            Self::Aes256Cbc => 0x00af,
        }
    }

    /// By its number.
    pub fn from_code(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|suite| suite.code() == code)
    }

    /// Its name without the prefix that all share.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "psk-aes-128-gcm-sha256",
            Self::Aes256Gcm => "psk-aes-256-gcm-sha384",
            Self::Aes128Cbc => "psk-aes-128-cbc-sha256",
            Self::Aes256Cbc => "psk-aes-256-cbc-sha384",
        }
    }

    /// Bytes of the hash of its handshakes.
    pub const fn hash_bytes(self) -> usize {
        match self {
            Self::Aes128Gcm | Self::Aes128Cbc => 32,
            Self::Aes256Gcm | Self::Aes256Cbc => 48,
        }
    }

    /// Whether it is a mode of blocks with a MAC beside, to which encrypt-then-MAC (RFC 7366) may apply.
    pub const fn is_cbc(self) -> bool {
        matches!(self, Self::Aes128Cbc | Self::Aes256Cbc)
    }

    const fn key_bytes(self) -> usize {
        match self {
            Self::Aes128Gcm | Self::Aes128Cbc => 16,
            Self::Aes256Gcm | Self::Aes256Cbc => 32,
        }
    }

    const fn mac_bytes(self) -> usize {
        if self.is_cbc() { self.hash_bytes() } else { 0 }
    }

    const fn salt_bytes(self) -> usize {
        if self.is_cbc() { 0 } else { 4 }
    }

    const fn prf(self) -> &'static tls_prf::Algorithm {
        match self {
            Self::Aes128Gcm | Self::Aes128Cbc => &P_SHA256,
            Self::Aes256Gcm | Self::Aes256Cbc => &P_SHA384,
        }
    }
}

/// What a handshake has come to when the client's Finished is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// The suite that the server chose.
    pub suite: CipherSuite,
    /// From ClientHello.
    pub client_random: [u8; RANDOM_BYTES],
    /// From ServerHello.
    pub server_random: [u8; RANDOM_BYTES],
    /// The hash of all handshake messages up to and with ClientKeyExchange; [`CipherSuite::hash_bytes`] long. Empty where it
    /// is not known: without an extended master secret and without a proof nothing needs it.
    pub hash: Vec<u8>,
    /// Whether the extended master secret was negotiated.
    pub extended_master_secret: bool,
}

/// The client's Finished as it came: the fragment of its record, after the header of 5 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedRecord {
    /// The fragment.
    pub fragment: Vec<u8>,
    /// Whether encrypt-then-MAC was negotiated.
    pub encrypt_then_mac: bool,
}

/// The master secret of one connection. Zeroized on drop, never printed.
pub struct MasterSecret {
    secret: Zeroizing<[u8; MASTER_SECRET_BYTES]>,
    handshake: Handshake,
}

impl MasterSecret {
    /// From the pre-shared key (RFC 4279 §2: as many zeros as it has bytes, and the key, each after its length). `None` when the
    /// hash has not the suite's length.
    pub fn derive(psk: &SecretKey, handshake: &Handshake) -> Option<Self> {
        let psk = psk.expose();
        let length = u16::try_from(psk.len()).ok()?.to_be_bytes();
        let mut premaster = Zeroizing::new(Vec::with_capacity(2 * (2 + psk.len())));
        premaster.extend(length);
        premaster.resize(2 + psk.len(), 0);
        premaster.extend(length);
        premaster.extend(psk);
        let prf = tls_prf::Secret::new(handshake.suite.prf(), &premaster).ok()?;
        let secret = if handshake.extended_master_secret {
            if handshake.hash.len() != handshake.suite.hash_bytes() {
                return None;
            }
            prf.derive(b"extended master secret", &handshake.hash, MASTER_SECRET_BYTES)
        } else {
            let (client, server) = (&handshake.client_random, &handshake.server_random);
            prf.derive_with_seed_concatination(b"master secret", client, server, MASTER_SECRET_BYTES)
        };
        let secret = Zeroizing::new(secret.ok()?.as_ref().try_into().ok()?);
        Some(Self { secret, handshake: handshake.clone() })
    }

    /// One that was released, of the connection it was released for.
    pub fn given(secret: [u8; MASTER_SECRET_BYTES], handshake: Handshake) -> Self {
        Self { secret: Zeroizing::new(secret), handshake }
    }

    /// The bytes, for the one answer they are for.
    pub fn expose(&self) -> &[u8; MASTER_SECRET_BYTES] {
        &self.secret
    }

    /// Whether the record is the Finished of a client that has this master secret (RFC 5246 §7.4.9), the first that it
    /// protects. One answer for whatever is wrong with it.
    pub fn is_proved_by(&self, finished: &FinishedRecord) -> bool {
        if self.handshake.hash.len() != self.handshake.suite.hash_bytes() {
            return false;
        }
        let (Some(protection), Some(expected)) =
            (self.protection(Side::Client), self.verify_data(Side::Client, &self.handshake.hash))
        else {
            return false;
        };
        let expected = [&FINISHED_HEADER[..], &expected].concat();
        protection
            .open(0, CONTENT_HANDSHAKE, &finished.fragment, finished.encrypt_then_mac)
            .is_some_and(|message| verify_slices_are_equal(&message, &expected).is_ok())
    }

    /// The verify_data of a side's Finished, over the hash of the messages before it.
    pub fn verify_data(&self, side: Side, hash: &[u8]) -> Option<[u8; VERIFY_DATA_BYTES]> {
        let label: &[u8] = match side {
            Side::Client => b"client finished",
            Side::Server => b"server finished",
        };
        let prf = tls_prf::Secret::new(self.handshake.suite.prf(), &*self.secret).ok()?;
        prf.derive(label, hash, VERIFY_DATA_BYTES).ok()?.as_ref().try_into().ok()
    }

    /// How a side protects its records (RFC 5246 §6.3).
    pub fn protection(&self, side: Side) -> Option<RecordProtection> {
        let suite = self.handshake.suite;
        let (mac, key, salt) = (suite.mac_bytes(), suite.key_bytes(), suite.salt_bytes());
        let prf = tls_prf::Secret::new(suite.prf(), &*self.secret).ok()?;
        let block = prf
            .derive_with_seed_concatination(
                b"key expansion",
                &self.handshake.server_random,
                &self.handshake.client_random,
                2 * (mac + key + salt),
            )
            .ok()?;
        let part = |from: usize, length: usize| {
            let at = from + if side == Side::Server { length } else { 0 };
            Zeroizing::new(block.as_ref()[at..at + length].to_vec())
        };
        Some(RecordProtection {
            suite,
            mac_key: part(0, mac),
            key: part(2 * mac, key),
            salt: part(2 * (mac + key), salt),
        })
    }
}

/// A side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The card.
    Client,
    /// The platform.
    Server,
}

/// The keys under which one side protects its records.
pub struct RecordProtection {
    suite: CipherSuite,
    mac_key: Zeroizing<Vec<u8>>,
    key: Zeroizing<Vec<u8>>,
    salt: Zeroizing<Vec<u8>>,
}

impl RecordProtection {
    /// What a record holds; `None` when it was not protected so.
    pub fn open(
        &self,
        sequence: u64,
        content: u8,
        fragment: &[u8],
        encrypt_then_mac: bool,
    ) -> Option<Zeroizing<Vec<u8>>> {
        if fragment.len() > FINISHED_RECORD_MAX.max(1 << 14) {
            return None;
        }
        if self.suite.is_cbc() {
            self.open_cbc(sequence, content, fragment, encrypt_then_mac)
        } else {
            self.open_gcm(sequence, content, fragment)
        }
    }

    /// A record with this content; `iv` is the explicit nonce of GCM (8 bytes of it are used) or the IV of CBC.
    pub fn seal(
        &self,
        sequence: u64,
        content: u8,
        text: &[u8],
        iv: &[u8; BLOCK],
        encrypt_then_mac: bool,
    ) -> Option<Vec<u8>> {
        if !self.suite.is_cbc() {
            let explicit = &iv[..8];
            let mut sealed = text.to_vec();
            let nonce = self.nonce(explicit)?;
            let aad = Aad::from(header(sequence, content, text.len())?);
            self.aead()?.seal_in_place_append_tag(nonce, aad, &mut sealed).ok()?;
            return Some([explicit, &sealed].concat());
        }
        let key = SoftwareKey::new(&SecretKey::from_slice(&self.key).ok()?);
        let mut clear = Zeroizing::new(text.to_vec());
        if !encrypt_then_mac {
            clear.extend(self.mac(&header(sequence, content, text.len())?, text).as_ref());
        }
        let padding = BLOCK - 1 - clear.len() % BLOCK;
        let padded = clear.len() + padding + 1;
        clear.resize(padded, u8::try_from(padding).ok()?);
        let mut fragment = [&iv[..], &cbc::encrypt(&key, iv, &clear)].concat();
        if encrypt_then_mac {
            let mac = self.mac(&header(sequence, content, fragment.len())?, &fragment);
            fragment.extend(mac.as_ref());
        }
        Some(fragment)
    }

    fn open_gcm(&self, sequence: u64, content: u8, fragment: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (explicit, ciphered) = fragment.split_at_checked(8)?;
        let length = ciphered.len().checked_sub(GCM_TAG_BYTES)?;
        let mut text = Zeroizing::new(ciphered.to_vec());
        let aad = Aad::from(header(sequence, content, length)?);
        self.aead()?.open_in_place(self.nonce(explicit)?, aad, &mut text).ok()?;
        text.truncate(length);
        Some(text)
    }

    fn open_cbc(
        &self,
        sequence: u64,
        content: u8,
        fragment: &[u8],
        encrypt_then_mac: bool,
    ) -> Option<Zeroizing<Vec<u8>>> {
        let mac_bytes = self.suite.mac_bytes();
        let ciphered = if encrypt_then_mac {
            let (ciphered, mac) = fragment.split_at_checked(fragment.len().checked_sub(mac_bytes)?)?;
            let expected = self.mac(&header(sequence, content, ciphered.len())?, ciphered);
            verify_slices_are_equal(expected.as_ref(), mac).ok()?;
            ciphered
        } else {
            fragment
        };
        let (iv, blocks) = ciphered.split_first_chunk::<BLOCK>()?;
        if blocks.is_empty() || !blocks.len().is_multiple_of(BLOCK) {
            return None;
        }
        let key = SoftwareKey::new(&SecretKey::from_slice(&self.key).ok()?);
        let mut clear = cbc::decrypt(&key, iv, blocks);
        let padding = usize::from(*clear.last()?);
        let text_and_mac = clear.len().checked_sub(padding + 1)?;
        if !clear[text_and_mac..].iter().all(|byte| usize::from(*byte) == padding) {
            return None;
        }
        clear.truncate(text_and_mac);
        if !encrypt_then_mac {
            let length = text_and_mac.checked_sub(mac_bytes)?;
            let expected = self.mac(&header(sequence, content, length)?, &clear[..length]);
            verify_slices_are_equal(expected.as_ref(), &clear[length..]).ok()?;
            clear.truncate(length);
        }
        Some(clear)
    }

    fn mac(&self, header: &[u8], text: &[u8]) -> hmac::Tag {
        let algorithm = if self.suite.hash_bytes() == 32 { HMAC_SHA256 } else { HMAC_SHA384 };
        let mut context = hmac::Context::with_key(&hmac::Key::new(algorithm, &self.mac_key));
        context.update(header);
        context.update(text);
        context.sign()
    }

    fn aead(&self) -> Option<LessSafeKey> {
        let algorithm = if self.key.len() == 16 { &AES_128_GCM } else { &AES_256_GCM };
        UnboundKey::new(algorithm, &self.key).ok().map(LessSafeKey::new)
    }

    fn nonce(&self, explicit: &[u8]) -> Option<Nonce> {
        Nonce::try_assume_unique_for_key(&[&self.salt, explicit].concat()).ok()
    }
}

/// What the MAC and the additional data of a record begin with (RFC 5246 §6.2.3).
fn header(sequence: u64, content: u8, length: usize) -> Option<[u8; 13]> {
    let mut header = [0; 13];
    header[..8].copy_from_slice(&sequence.to_be_bytes());
    header[8] = content;
    header[9..11].copy_from_slice(&VERSION);
    header[11..].copy_from_slice(&u16::try_from(length).ok()?.to_be_bytes());
    Some(header)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn handshake(suite: CipherSuite, extended: bool) -> Handshake {
        Handshake {
            suite,
            client_random: [0xc1; 32],
            server_random: [0x5e; 32],
            hash: vec![0x77; suite.hash_bytes()],
            extended_master_secret: extended,
        }
    }

    fn psk(byte: u8) -> SecretKey {
        SecretKey::from_slice(&[byte; 16]).unwrap()
    }

    fn finished(secret: &MasterSecret, encrypt_then_mac: bool) -> FinishedRecord {
        let data = secret.verify_data(Side::Client, &secret.handshake.hash).unwrap();
        let message = [&FINISHED_HEADER[..], &data].concat();
        let protection = secret.protection(Side::Client).unwrap();
        let fragment =
            protection.seal(0, CONTENT_HANDSHAKE, &message, &[0x1f; 16], encrypt_then_mac).unwrap();
        FinishedRecord { fragment, encrypt_then_mac }
    }

    #[test]
    fn only_the_finished_of_a_client_with_the_key_is_a_proof_and_only_unchanged() {
        for suite in CipherSuite::ALL {
            for (extended, etm) in [(false, false), (true, false), (true, true)] {
                let handshake = handshake(suite, extended);
                let secret = MasterSecret::derive(&psk(1), &handshake).unwrap();
                let proof = finished(&secret, etm && suite.is_cbc());
                assert!(secret.is_proved_by(&proof), "{suite:?} {extended} {etm}");
                assert!(proof.fragment.len() <= FINISHED_RECORD_MAX);
                let other = MasterSecret::derive(&psk(2), &handshake).unwrap();
                assert!(!other.is_proved_by(&proof), "{suite:?}");
                let mut later = handshake.clone();
                later.hash[0] ^= 1;
                let later = MasterSecret::derive(&psk(1), &later).unwrap();
                assert!(!later.is_proved_by(&proof), "{suite:?}: another handshake");
                for at in 0..proof.fragment.len() {
                    let mut changed = proof.clone();
                    changed.fragment[at] ^= 1;
                    assert!(!secret.is_proved_by(&changed), "{suite:?} {at}");
                }
                let mut unknown = handshake.clone();
                unknown.hash.clear();
                assert_eq!(MasterSecret::derive(&psk(1), &unknown).is_none(), extended);
            }
        }
    }

    proptest! {
        #[test]
        fn what_one_side_protects_the_other_opens_and_no_bytes_panic(
            text in proptest::collection::vec(any::<u8>(), 0..100),
            junk in proptest::collection::vec(any::<u8>(), 0..200),
            sequence in any::<u64>(),
            etm in any::<bool>(),
        ) {
            for suite in CipherSuite::ALL {
                let secret = MasterSecret::derive(&psk(3), &handshake(suite, true)).unwrap();
                let protection = secret.protection(Side::Server).unwrap();
                let sealed = protection.seal(sequence, 23, &text, &[9; 16], etm).unwrap();
                prop_assert_eq!(&*protection.open(sequence, 23, &sealed, etm).unwrap(), &text);
                prop_assert!(protection.open(sequence, 22, &sealed, etm).is_none());
                prop_assert!(protection.open(sequence.wrapping_add(1), 23, &sealed, etm).is_none());
                prop_assert!(protection.open(sequence, 23, &junk, etm).is_none());
                let forged = FinishedRecord { fragment: junk.clone(), encrypt_then_mac: etm };
                prop_assert!(!secret.is_proved_by(&forged));
            }
        }
    }
}
