//! The two big jobs give what independent software computes.

use domain::KeysetAlgorithm;
use hsm::{
    CardSession, DeliveredKeys, Delivery, ErrorClass, KeyRole, ReleasedKeys, SequenceOrigin,
    SessionKeysOutcome,
};
use keys::scp03::{CardChallenge, Challenges, HostChallenge, SessionKeys};
use keys::seal::{Sealed, open};

use crate::model::{
    CARD, HOST, Manufacturer, card_cryptogram, device, eid, info, order, recipient, scp03, scp03_over,
    session,
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
        let challenges = Challenges { host: HostChallenge(HOST), card: CardChallenge(CARD) };
        let (released, host_cryptogram) =
            opened(outcome, &private, &info(1, algorithm, &challenges), &format!("{algorithm:?}"));
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
    assert!(matches!(outcome.unwrap(), SessionKeysOutcome::CardCryptogramMismatch));
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

/// The sealed keys of an outcome, opened, and the host cryptogram.
fn opened(
    outcome: SessionKeysOutcome,
    private: &[u8; 32],
    info: &[u8],
    what: &str,
) -> (SessionKeys, Vec<u8>) {
    let SessionKeysOutcome::Released(released) = outcome else { panic!("{what}: not released") };
    let ReleasedKeys { keys, host_cryptogram, .. } = *released;
    let DeliveredKeys::Sealed { encapsulated_key, ciphertext } = keys else { panic!("{what}: in clear") };
    let opened = open(private, info, &Sealed { encapsulated_key, ciphertext }).unwrap();
    (SessionKeys::decode(&opened).unwrap(), host_cryptogram)
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_mode_s16_and_prepared_ones_are_those_of_the_card() {
    let fixture = Fixture::new("kms");
    let keys = fixture.create_all(&[KeyRole::Master]);
    let token = fixture.start(&keys).await.unwrap();
    let manufacturer = Manufacturer::new();
    let (private, public) = recipient();
    let (master, algorithm) = (&keys[0].key, KeysetAlgorithm::Aes256);
    let ([key_enc, key_mac, _], cryptogram) = device(&token, master, algorithm, &manufacturer).await;
    let plain = session(master, algorithm, 1, cryptogram, public);
    let aid = hex::decode("a0000005591010ffffffff8900000100").unwrap();
    let origin = SequenceOrigin { counter: [0, 0, 5], aid: aid.clone() };

    // S16: what the card computes of challenges of 16 bytes, its own from counter and AID.
    let host = [0x33; 16];
    let of_counter = |bits| scp03_over(&key_enc, 0x02, bits, &[&[0, 0, 5], &aid[..]].concat());
    let card: [u8; 16] = of_counter(128).try_into().unwrap();
    let context = [host, card].concat();
    let s_mac = scp03_over(&key_mac, 0x06, 256, &context);
    let present = |card: [u8; 16], origin: &SequenceOrigin| {
        let context = [host, card].concat();
        let s_mac = scp03_over(&key_mac, 0x06, 256, &context);
        CardSession::Present {
            host_challenge: host.to_vec(),
            card_challenge: card.to_vec(),
            card_cryptogram: scp03_over(&s_mac, 0x00, 128, &context),
            origin: Some(origin.clone()),
        }
    };
    let job = hsm::SessionKeysJob { session: present(card, &origin), ..plain.clone() };
    let outcome = token.session_keys(job, soon()).await.unwrap();
    let challenges = Challenges { host: HostChallenge(host), card: CardChallenge(card) };
    let (released, host_cryptogram) = opened(outcome, &private, &info(1, algorithm, &challenges), "S16");
    assert_eq!(released.s_enc.expose(), scp03_over(&key_enc, 0x04, 256, &context));
    assert_eq!(released.s_mac.expose(), s_mac);
    assert_eq!(released.s_rmac.expose(), scp03_over(&key_mac, 0x07, 256, &context));
    assert_eq!(host_cryptogram, scp03_over(&s_mac, 0x01, 128, &context));

    // A card whose challenge does not follow from its counter gets nothing, its good cryptogram notwithstanding.
    for (card, origin) in
        [([1; 16], origin.clone()), (card, SequenceOrigin { counter: [0, 0, 6], ..origin.clone() })]
    {
        let job = hsm::SessionKeysJob { session: present(card, &origin), ..plain.clone() };
        let outcome = token.session_keys(job, soon()).await.unwrap();
        assert!(matches!(outcome, SessionKeysOutcome::CardChallengeMismatch), "{outcome:?}");
    }

    // Prepared, in clear: the same keys as the card will have, and what it will answer.
    let prepared = CardSession::Prepared { host_challenge: HOST.to_vec(), origin: origin.clone() };
    let job = hsm::SessionKeysJob { session: prepared, delivery: Delivery::DangerInClear, ..plain.clone() };
    let SessionKeysOutcome::Released(released) = token.session_keys(job, soon()).await.unwrap() else {
        panic!("not released")
    };
    let card = of_counter(64);
    let context = [&HOST[..], &card].concat();
    let s_mac = scp03_over(&key_mac, 0x06, 256, &context);
    assert_eq!(released.card_challenge, card);
    assert_eq!(released.card_cryptogram, scp03_over(&s_mac, 0x00, 64, &context));
    let DeliveredKeys::InClear(clear) = &released.keys else { panic!("sealed") };
    let clear_keys = SessionKeys::decode(clear.danger_expose()).unwrap();
    assert_eq!(clear_keys.s_enc.expose(), scp03_over(&key_enc, 0x04, 256, &context));
    assert!(!format!("{released:?}").contains(&format!("{:?}", clear.danger_expose())));

    // Lengths that do not fit together are the caller's fault.
    let mixed = CardSession::Present {
        host_challenge: host.to_vec(),
        card_challenge: CARD.to_vec(),
        card_cryptogram: cryptogram.to_vec(),
        origin: None,
    };
    let short = CardSession::Prepared { host_challenge: vec![1; 7], origin };
    for session in [mixed, short] {
        let job = hsm::SessionKeysJob { session, ..plain.clone() };
        assert_eq!(token.session_keys(job, soon()).await.unwrap_err().class, ErrorClass::Caller);
    }
    token.shutdown().await;
}
