//! Rotation: the blocks of a PUT KEY and the proofs of cards are what independent software computes.

use std::time::Duration;

use aws_lc_rs::cipher::{self, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use domain::{KeyVersionNumber, KeysetAlgorithm};
use hsm::{
    CARD_PROOFS_MAX, CardProof, CardProofJob, ErrorClass, KeyRef, KeyRole, PUT_KEY_DEVICES_MAX, PutKeyDevice,
    PutKeyJob, SourcedKeyset, Token,
};
use keys::put_key::EncryptedKey;

use crate::model::{CARD, HOST, Manufacturer, check_value, device, eid, keyset, order};
use crate::support::{Fixture, soon, within};

/// AES-CBC with IV 0.
fn cbc(key: &[u8], clear: &[u8]) -> Vec<u8> {
    let algorithm = match key.len() {
        16 => &cipher::AES_128,
        24 => &cipher::AES_192,
        _ => &cipher::AES_256,
    };
    let mut block = clear.to_vec();
    let key = EncryptingKey::cbc(UnboundCipherKey::new(algorithm, key).unwrap()).unwrap();
    key.less_safe_encrypt(&mut block, EncryptionContext::Iv128(FixedLength::from([0; 16]))).unwrap();
    block
}

/// The keys in clear of the devices 1 to `devices`, as their manufacturer would have them.
async fn keysets(
    token: &Token,
    master: &KeyRef,
    kvn: u32,
    algorithm: KeysetAlgorithm,
    manufacturer: &Manufacturer,
) -> Vec<[Vec<u8>; 3]> {
    let mut job = order(master, algorithm, &manufacturer.spki, 3);
    job.kvn = KeyVersionNumber::scp03(kvn).unwrap();
    manufacturer.unwrap(&token.order_chunk(job, soon()).await.unwrap())
}

/// From KVN 30 to an AES-256 keyset 31 of the same master, for the devices 1 to `devices`.
pub fn put_key(master: &KeyRef, old: KeysetAlgorithm, devices: u32) -> PutKeyJob {
    put_key_to(master, old, (master, KeysetAlgorithm::Aes256), devices)
}

/// From KVN 30 of `old_master` to KVN 31 of another master and length.
fn put_key_to(
    old_master: &KeyRef,
    old: KeysetAlgorithm,
    (new_master, new): (&KeyRef, KeysetAlgorithm),
    devices: u32,
) -> PutKeyJob {
    let devices = (1..=devices).map(|number| PutKeyDevice {
        old: SourcedKeyset::derived(old_master.clone(), keyset(number, 0x30, old)),
        new: SourcedKeyset::derived(new_master.clone(), keyset(number, 0x31, new)),
    });
    PutKeyJob { devices: devices.collect() }
}

/// What the card of [`device`] proves with this cryptogram.
pub fn proof(master: &KeyRef, algorithm: KeysetAlgorithm, card_cryptogram: [u8; 8]) -> CardProof {
    CardProof {
        keyset: SourcedKeyset::derived(master.clone(), keyset(1, 0x30, algorithm)),
        host_challenge: HOST,
        card_challenge: CARD,
        card_cryptogram,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn put_key_blocks_are_the_new_keys_under_the_old_dek_for_every_pair_of_lengths() {
    let fixture = Fixture::new("kms");
    let [first, second] = {
        let mut ceremony = fixture.ceremony();
        [1, 2].map(|epoch| ceremony.create_key(KeyRole::Master, "test", epoch).unwrap().registered())
    };
    let token = fixture.start(&[first.clone(), second.clone()]).await.unwrap();
    let manufacturer = Manufacturer::new();
    use KeysetAlgorithm::{Aes128, Aes192, Aes256};
    for (old, new) in [(Aes128, Aes256), (Aes256, Aes256), (Aes192, Aes256), (Aes128, Aes128)] {
        let job = put_key_to(&first.key, old, (&second.key, new), 3);
        let old_keys = keysets(&token, &first.key, 0x30, old, &manufacturer).await;
        let new_keys = keysets(&token, &second.key, 0x31, new, &manufacturer).await;
        let blocks = token.put_key(job, soon()).await.unwrap();
        assert_eq!(blocks.len(), 3);
        for ((blocks, [_, _, dek]), new_keys) in blocks.iter().zip(&old_keys).zip(&new_keys) {
            for (EncryptedKey { block, kcv }, new_key) in blocks.iter().zip(new_keys) {
                assert_eq!(new_key.len(), new.key_bytes());
                assert_eq!(*block, cbc(dek, new_key), "{old:?} to {new:?}");
                assert_eq!(kcv.0, check_value(new_key));
            }
        }
    }
    token.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_key_that_cannot_be_served_is_the_callers_fault_and_never_reaches_the_token() {
    let fixture = Fixture::new("kms");
    let keys = fixture.create_all(&[KeyRole::Master, KeyRole::CanaryDerive]);
    let token = fixture.start(&keys).await.unwrap();
    let (master, canary) = (&keys[0].key, &keys[1].key);
    let to =
        |new_master, new, devices| put_key_to(master, KeysetAlgorithm::Aes128, (new_master, new), devices);
    let error = token.put_key(to(master, KeysetAlgorithm::Aes192, 1), soon()).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Caller);
    assert!(error.detail.contains("take AES-256"), "{error}");

    let long = KeysetAlgorithm::Aes256;
    let stranger = KeyRef { id: [0; 16], ..master.clone() };
    let good = to(master, long, 1).devices.swap_remove(0);
    let other_device =
        PutKeyDevice { new: SourcedKeyset::derived(master.clone(), keyset(2, 0x31, long)), ..good.clone() };
    for bad in [
        to(master, long, 0),
        PutKeyJob { devices: vec![good.clone(); PUT_KEY_DEVICES_MAX + 1] },
        put_key_to(canary, KeysetAlgorithm::Aes128, (master, long), 1),
        to(&stranger, long, 1),
        to(master, KeysetAlgorithm::TripleDes2Key, 1),
        PutKeyJob { devices: vec![good, other_device] },
    ] {
        assert_eq!(token.put_key(bad, soon()).await.unwrap_err().class, ErrorClass::Caller);
    }
    let proof = proof(master, KeysetAlgorithm::Aes128, [0; 8]);
    let canary =
        CardProof { keyset: SourcedKeyset::derived(canary.clone(), proof.keyset.keyset), ..proof.clone() };
    for bad in [vec![], vec![proof.clone(); CARD_PROOFS_MAX + 1], vec![proof, canary]] {
        let error = token.card_proofs(CardProofJob { proofs: bad }, soon()).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Caller);
    }
    assert_eq!((token.counters().jobs, token.counters().pkcs11_calls), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_key_past_its_deadline_releases_nothing_and_leaves_a_working_token() {
    let mut fixture = Fixture::new("kms");
    fixture.config.injected_delay_us = 50_000;
    let keys = fixture.create_all(&[KeyRole::Master]);
    let token = fixture.start(&keys).await.unwrap();
    let long = put_key(&keys[0].key, KeysetAlgorithm::Aes128, 100);
    let error = token.put_key(long, within(Duration::from_millis(300))).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Deadline);
    let short = put_key(&keys[0].key, KeysetAlgorithm::Aes128, 1);
    assert_eq!(token.put_key(short, soon()).await.unwrap().len(), 1);
    assert_eq!(token.counters().worker_restarts, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_proof_is_accepted_and_refused_with_any_bit_changed() {
    let fixture = Fixture::new("kms");
    let keys = fixture.create_all(&[KeyRole::Master]);
    let token = fixture.start(&keys).await.unwrap();
    let manufacturer = Manufacturer::new();
    let master = &keys[0].key;
    for algorithm in [KeysetAlgorithm::Aes128, KeysetAlgorithm::Aes256] {
        let (_, right) = device(&token, master, algorithm, &manufacturer).await;
        let mut proofs = vec![proof(master, algorithm, right)];
        for bit in 0..64 {
            let mut changed = proof(master, algorithm, right);
            changed.card_cryptogram[bit / 8] ^= 1 << (bit % 8);
            proofs.push(changed);
        }
        let mut other_challenge = proof(master, algorithm, right);
        other_challenge.host_challenge[7] ^= 1;
        let mut other_version = proof(master, algorithm, right);
        other_version.keyset.keyset.kvn = KeyVersionNumber::scp03(0x31).unwrap();
        let mut other_device = proof(master, algorithm, right);
        other_device.keyset.keyset.eid = eid(2);
        proofs.extend([other_challenge, other_version, other_device, proof(master, algorithm, right)]);

        let asked = proofs.len();
        let outcomes = token.card_proofs(CardProofJob { proofs }, soon()).await.unwrap();
        let accepted: Vec<_> = (0..outcomes.len()).filter(|at| outcomes[*at]).collect();
        assert_eq!((outcomes.len(), accepted), (asked, vec![0, asked - 1]), "{algorithm:?}");
    }
    // K-MAC: derive, sign (2 calls), destroy. Nothing more is made for a card that has proved itself.
    let (_, right) = device(&token, master, KeysetAlgorithm::Aes128, &manufacturer).await;
    let before = token.counters().pkcs11_calls;
    let job = CardProofJob { proofs: vec![proof(master, KeysetAlgorithm::Aes128, right)] };
    assert_eq!(token.card_proofs(job, soon()).await.unwrap(), [true]);
    assert_eq!(token.counters().pkcs11_calls - before, 4);
}
