//! Random keys: made in the token, opened for what they are for and for nothing else.

use domain::KeysetAlgorithm;
use hsm::{
    CardSession, Delivery, ErrorClass, ExportJob, ExportRecipient, KeyRole, KeySource, OrderKeys,
    SessionKeysJob, SessionKeysOutcome, SourcedKeyset, StorageKeys, StoredKeys,
};

use crate::model::{
    CARD, HOST, Manufacturer, card_cryptogram, check_value, context, keyset, order, recipient,
};
use crate::support::{Fixture, soon};

#[tokio::test(flavor = "multi_thread")]
async fn a_random_key_serves_its_device_and_purpose_and_a_moved_or_changed_blob_nobody() {
    let fixture = Fixture::new("kms");
    let mut ceremony = fixture.ceremony();
    let mut make = |role, epoch| ceremony.create_key(role, "test", epoch).unwrap().registered();
    let keys = [(KeyRole::Kek, 1), (KeyRole::BlobMac, 1), (KeyRole::Kek, 2), (KeyRole::BlobMac, 2)]
        .map(|(role, epoch)| make(role, epoch));
    drop(ceremony);
    let token = fixture.start(&keys).await.unwrap();
    let storage =
        |first: usize| StorageKeys { kek: keys[first].key.clone(), blob_mac: keys[first + 1].key.clone() };
    let manufacturer = Manufacturer::new();
    let (_, recipient) = recipient();
    for algorithm in [KeysetAlgorithm::Aes128, KeysetAlgorithm::Aes192, KeysetAlgorithm::Aes256] {
        let mut job = order(&keys[0].key, algorithm, &manufacturer.spki, 2);
        job.keys = OrderKeys::Random(storage(0));
        let chunk = token.order_chunk(job.clone(), soon()).await.unwrap();
        let clear = manufacturer.unwrap(&chunk);
        assert_ne!(clear[0], clear[1]);
        assert_ne!(clear, manufacturer.unwrap(&token.order_chunk(job, soon()).await.unwrap()), "made anew");
        for (device, keys) in chunk.devices.iter().zip(&clear) {
            assert_eq!(device.stored.len(), 3);
            for (stored, key) in device.stored.iter().zip(keys) {
                assert_eq!(stored.wrapped.len(), algorithm.key_bytes() + 8);
                assert!(!stored.wrapped.windows(key.len()).any(|window| window == key.as_slice()));
            }
        }
        let sourced = |number, kvn, storage: StorageKeys, blobs: Vec<hsm::StoredBlob>| SourcedKeyset {
            keyset: keyset(number, kvn, algorithm),
            source: KeySource::Stored(StoredKeys { storage, blobs }),
        };
        let blobs = &chunk.devices[0].stored;
        let values =
            token.check_values(vec![sourced(1, 0x30, storage(0), blobs.clone())], soon()).await.unwrap();
        let expected: Vec<_> = clear[0].iter().map(|key| check_value(key)).collect();
        assert_eq!(values[0].iter().map(|value| value.0).collect::<Vec<_>>(), expected);

        let session = |keyset| SessionKeysJob {
            keyset,
            session: CardSession::Present {
                host_challenge: HOST.to_vec(),
                card_challenge: CARD.to_vec(),
                card_cryptogram: card_cryptogram(&clear[0][1]).to_vec(),
                origin: None,
            },
            context: context(),
            delivery: Delivery::Sealed { recipient: Box::new(recipient) },
        };
        let right = session(sourced(1, 0x30, storage(0), blobs.clone()));
        let outcome = token.session_keys(right, soon()).await.unwrap();
        assert!(matches!(outcome, SessionKeysOutcome::Released(_)), "{outcome:?}");

        let mut swapped = blobs.clone();
        swapped.swap(0, 1);
        let mut changed = blobs.clone();
        changed[1].wrapped[3] ^= 1;
        let mut forged = blobs.clone();
        forged[1].mac[15] ^= 1;
        let other_epoch = StorageKeys { kek: keys[2].key.clone(), ..storage(0) };
        let moved = [
            ("another device", sourced(2, 0x30, storage(0), blobs.clone())),
            ("another version", sourced(1, 0x31, storage(0), blobs.clone())),
            ("another usage", sourced(1, 0x30, storage(0), swapped)),
            ("another epoch", sourced(1, 0x30, storage(2), blobs.clone())),
            ("another key-encryption key", sourced(1, 0x30, other_epoch, blobs.clone())),
            ("a changed key", sourced(1, 0x30, storage(0), changed)),
            ("a changed MAC", sourced(1, 0x30, storage(0), forged)),
        ];
        for (what, keyset) in moved {
            let error = token.session_keys(session(keyset), soon()).await.unwrap_err();
            assert_eq!(error.class, ErrorClass::Blob, "{what}: {error}");
        }
        let short =
            token.session_keys(session(sourced(1, 0x30, storage(0), blobs[..1].to_vec())), soon()).await;
        assert_eq!(short.unwrap_err().class, ErrorClass::Caller);

        // Nothing stored leaves again, whoever asks.
        let export = ExportJob {
            keyset: sourced(1, 0x30, storage(0), blobs.clone()),
            recipient: ExportRecipient::Rsa(manufacturer.spki.clone()),
        };
        assert_eq!(token.export(export, soon()).await.unwrap_err().class, ErrorClass::Policy);
    }
    // The token is well: none of that was its fault.
    token.check().await.unwrap();
    token.shutdown().await;
}
