//! The two big jobs give what independent software computes.

use domain::KeysetAlgorithm;
use hsm::{ErrorClass, KeyRole, SessionKeysOutcome};
use keys::scp03::SessionKeys;
use keys::seal::{Sealed, open};

use crate::model::{
    CARD, HOST, Manufacturer, card_cryptogram, device, eid, order, recipient, scp03, session,
};
use crate::support::{Fixture, soon};

#[tokio::test(flavor = "multi_thread")]
async fn sealed_session_keys_are_those_of_the_ordered_card_for_every_key_length() {
    let fixture = Fixture::new("kms");
    let keys = fixture.create_all(&[KeyRole::Master, KeyRole::CanaryDerive]);
    let token = fixture.start(&keys).await.unwrap();
    let manufacturer = Manufacturer::new();
    let (private, public) = recipient();
    let master = &keys[0].key;
    for algorithm in [KeysetAlgorithm::Aes128, KeysetAlgorithm::Aes192, KeysetAlgorithm::Aes256] {
        let bits = algorithm.key_bits();
        let ([key_enc, key_mac, _], cryptogram) = device(&token, master, algorithm, &manufacturer).await;
        assert_eq!(key_enc.len(), algorithm.key_bytes());

        let outcome =
            token.session_keys(session(master, algorithm, 1, cryptogram, public), soon()).await.unwrap();
        let SessionKeysOutcome::Released { encapsulated_key, ciphertext, host_cryptogram } = outcome else {
            panic!("{algorithm:?}: not released")
        };
        let opened = open(&private, b"test info", &Sealed { encapsulated_key, ciphertext }).unwrap();
        let released = SessionKeys::decode(&opened).unwrap();
        let s_mac = scp03(&key_mac, 0x06, bits, &HOST, &CARD);
        assert_eq!(released.s_enc.expose(), scp03(&key_enc, 0x04, bits, &HOST, &CARD));
        assert_eq!(released.s_mac.expose(), s_mac);
        assert_eq!(released.s_rmac.expose(), scp03(&key_mac, 0x07, bits, &HOST, &CARD));
        assert_eq!(host_cryptogram[..], scp03(&s_mac, 0x01, 64, &HOST, &CARD));
    }
    token.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_card_cryptogram_releases_nothing_and_costs_one_derivation() {
    let fixture = Fixture::new("kms");
    let keys = fixture.create_all(&[KeyRole::Master]);
    let token = fixture.start(&keys).await.unwrap();
    let manufacturer = Manufacturer::new();
    let master = &keys[0].key;
    let (_, cryptogram) = device(&token, master, KeysetAlgorithm::Aes128, &manufacturer).await;
    let (_, public) = recipient();
    // Fills the cache of constant blocks, so that the next two calls differ in the cryptogram alone.
    token
        .session_keys(session(master, KeysetAlgorithm::Aes128, 1, cryptogram, public), soon())
        .await
        .unwrap();
    let start = token.counters().pkcs11_calls;
    token
        .session_keys(session(master, KeysetAlgorithm::Aes128, 1, cryptogram, public), soon())
        .await
        .unwrap();
    let released = token.counters().pkcs11_calls - start;

    let mut wrong = cryptogram;
    wrong[7] ^= 1;
    let outcome =
        token.session_keys(session(master, KeysetAlgorithm::Aes128, 1, wrong, public), soon()).await;
    assert_eq!(outcome.unwrap(), SessionKeysOutcome::CardCryptogramMismatch);
    let refused = token.counters().pkcs11_calls - start - released;
    // K-MAC: derive, sign (2 calls), destroy. Released: K-ENC likewise, and one more signature for S-RMAC.
    assert_eq!((refused, released), (4, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_devices_of_a_chunk_have_keys_of_their_own_and_the_same_ones_again_under_another_transport_key() {
    let fixture = Fixture::new("kms");
    let keys = fixture.create_all(&[KeyRole::Master]);
    let token = fixture.start(&keys).await.unwrap();
    let manufacturer = Manufacturer::new();
    let job = order(&keys[0].key, KeysetAlgorithm::Aes256, &manufacturer.spki, 20);
    let first = token.order_chunk(job.clone(), soon()).await.unwrap();
    let again = token.order_chunk(job, soon()).await.unwrap();
    let unwrapped = manufacturer.unwrap(&first);
    assert_eq!(unwrapped, manufacturer.unwrap(&again));
    assert_ne!(first.wrapped_transport_key, again.wrapped_transport_key);
    assert_ne!(first.devices[0].keys[0].wrapped, again.devices[0].keys[0].wrapped);
    let mut all: Vec<_> = unwrapped.iter().flatten().collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_cannot_be_served_is_the_callers_fault() {
    let fixture = Fixture::new("kms");
    let keys = fixture.create_all(&[KeyRole::Master, KeyRole::CanaryDerive]);
    let token = fixture.start(&keys).await.unwrap();
    let manufacturer = Manufacturer::new();
    let good = order(&keys[0].key, KeysetAlgorithm::Aes128, &manufacturer.spki, 1);
    let mut empty = good.clone();
    empty.eids.clear();
    let mut too_long = good.clone();
    too_long.eids = vec![eid(1); 1001];
    let mut canary = good.clone();
    canary.keys = hsm::OrderKeys::Derived { master: keys[1].key.clone() };
    let mut garbage = good.clone();
    garbage.recipient_spki.truncate(100);
    for bad in [empty, too_long, canary, garbage] {
        assert_eq!(token.order_chunk(bad, soon()).await.unwrap_err().class, ErrorClass::Caller);
    }
    // A point that is not on the curve is found out in the worker, before anything is sealed to it.
    let mut off_curve = [5; 65];
    off_curve[0] = 4;
    let (device_keys, cryptogram) =
        device(&token, &keys[0].key, KeysetAlgorithm::Aes128, &manufacturer).await;
    assert_eq!(card_cryptogram(&device_keys[1]), cryptogram);
    let error = token
        .session_keys(session(&keys[0].key, KeysetAlgorithm::Aes128, 1, cryptogram, off_curve), soon())
        .await
        .unwrap_err();
    assert_eq!(error.class, ErrorClass::Caller, "{error}");
    assert_eq!(token.counters().worker_restarts, 0);
}
