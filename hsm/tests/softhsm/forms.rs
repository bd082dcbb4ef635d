//! The forms in which orders leave, and key pairs for devices: opened with what the manufacturer has.

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap, KeyWrapPadded};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use domain::{Curve, EuiccCurve, KeysetAlgorithm, OrderFormat};
use hsm::{ErrorClass, KeyPairsJob, KeyRole, OrderChunk, OrderChunkJob};
use keys::tr31::BlockProtection;
use keys::{SecretKey, SoftwareKey, pysim_csv};

use crate::model::{Manufacturer, check_value, order};
use crate::support::{Fixture, soon};

fn keys_of(chunk: &OrderChunk, open: impl Fn(&[u8]) -> Vec<u8>) -> Vec<[Vec<u8>; 3]> {
    let device = |d: &hsm::DeviceKeyBlobs| [0, 1, 2].map(|at| open(&d.keys[at].wrapped));
    chunk.devices.iter().map(device).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_an_order_holds_the_same_keys() {
    let fixture = Fixture::new("kms");
    let keys = fixture.create_all(&[KeyRole::Master]);
    let token = fixture.start(&keys).await.unwrap();
    let manufacturer = Manufacturer::new();
    for algorithm in [KeysetAlgorithm::Aes128, KeysetAlgorithm::Aes192, KeysetAlgorithm::Aes256] {
        let job = order(&keys[0].key, algorithm, &manufacturer.spki, 3);
        let expected = manufacturer.unwrap(&token.order_chunk(job.clone(), soon()).await.unwrap());
        for format in [OrderFormat::Tr31, OrderFormat::Pskc, OrderFormat::PysimCsv] {
            let outcome = token.order_chunk(OrderChunkJob { format, ..job.clone() }, soon()).await;
            if (format, algorithm) == (OrderFormat::PysimCsv, KeysetAlgorithm::Aes192) {
                // 24 bytes are no whole blocks.
                assert_eq!(outcome.unwrap_err().class, ErrorClass::Caller);
                continue;
            }
            let chunk = outcome.unwrap();
            let transport = manufacturer.transport_key(&chunk);
            let secret = SecretKey::from_slice(&transport).unwrap();
            let found = match format {
                OrderFormat::Tr31 => {
                    let protection = BlockProtection::new(&secret);
                    keys_of(&chunk, |block| {
                        let block = std::str::from_utf8(block).unwrap();
                        let (header, key) = protection.unwrap(block).unwrap();
                        assert_eq!((header.version, header.exportability), (*b"30", b'E'));
                        assert!(header.optional[1].1.ends_with(match (&header.usage, header.mode) {
                            (b"K0", b'B') => "/scp03/isd-r/dek",
                            _ if header.optional[1].1.ends_with("/mac") => "/scp03/isd-r/mac",
                            _ => "/scp03/isd-r/enc",
                        }));
                        key.expose().to_vec()
                    })
                }
                OrderFormat::Pskc => keys_of(&chunk, |wrapped| {
                    let mut buffer = [0; 64];
                    let kek = AesKek::new(&AES_256, &transport).unwrap();
                    kek.unwrap(wrapped, &mut buffer).unwrap().to_vec()
                }),
                _ => {
                    let column = SoftwareKey::new(&secret);
                    keys_of(&chunk, |cell| pysim_csv::decrypt_cell(&column, cell).unwrap().expose().to_vec())
                }
            };
            assert_eq!(found, expected, "{format:?} {algorithm:?}");
            for (device, keys) in chunk.devices.iter().zip(&found) {
                let told: Vec<_> = device.keys.iter().map(|key| key.kcv.0).collect();
                assert_eq!(told, keys.each_ref().map(|key| check_value(key)));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inside_only_token_refuses_the_forms_it_cannot_make_and_says_so() {
    let mut fixture = Fixture::new("kms");
    let keys = fixture.create_all(&[KeyRole::Master]);
    let says = |token: &hsm::Token, word: &str| {
        token.report().leaves_the_token.iter().any(|sentence| sentence.contains(word))
    };
    let open = fixture.start(&keys).await.unwrap();
    assert!(says(&open, "opened from their wrap in zeroized worker memory"));
    open.shutdown().await;

    fixture.config.inside_only = true;
    let token = fixture.start(&keys).await.unwrap();
    assert!(token.is_inside_only() && says(&token, "are refused (inside_only)"));
    let job = order(&keys[0].key, KeysetAlgorithm::Aes128, &Manufacturer::new().spki, 1);
    for format in OrderFormat::ALL {
        let outcome = token.order_chunk(OrderChunkJob { format, ..job.clone() }, soon()).await;
        match format {
            OrderFormat::JsonlKwp | OrderFormat::Pskc => assert_eq!(outcome.unwrap().devices.len(), 1),
            OrderFormat::Tr31 | OrderFormat::PysimCsv => {
                assert_eq!(outcome.unwrap_err().class, ErrorClass::Policy);
            }
        }
    }
}

/// The DER at the front of a PKCS#8, which SoftHSM fills up with zeros.
fn der(bytes: &[u8]) -> &[u8] {
    let (header, length) = match bytes[1] {
        0x81 => (3, usize::from(bytes[2])),
        short => (2, usize::from(short)),
    };
    assert!(bytes[header + length..].iter().all(|b| *b == 0) && bytes.len() - header - length < 8);
    &bytes[..header + length]
}

#[tokio::test(flavor = "multi_thread")]
async fn key_pairs_open_for_the_manufacturer_only_and_leave_nothing_behind() {
    let fixture = Fixture::new("kms");
    let keys = fixture.create_all(&[KeyRole::Master]);
    let token = fixture.start(&keys).await.unwrap();
    let manufacturer = Manufacturer::new();
    let job = KeyPairsJob { curve: EuiccCurve::P256, count: 5, recipient_spki: manufacturer.spki.clone() };
    let made = token.key_pairs(job.clone(), soon()).await.unwrap();
    assert_eq!(made.pairs.len(), 5);
    let transport = manufacturer.open(made.oaep_hash, &made.wrapped_transport_key);
    let mut public_keys = Vec::new();
    for pair in &made.pairs {
        let mut buffer = [0; 512];
        let kek = AesKek::new(&AES_256, &transport).unwrap();
        let opened = der(kek.unwrap_with_padding(&pair.private_key, &mut buffer).unwrap());
        let private = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, opened).unwrap();
        assert!(pair.public_key.ends_with(private.public_key().as_ref()));
        public_keys.push(pair.public_key.clone());
    }
    public_keys.sort();
    public_keys.dedup();
    assert_eq!(public_keys.len(), 5);
    // The same of the other curve, as openssl opens them.
    let job = KeyPairsJob { curve: EuiccCurve::BrainpoolP256r1, count: 2, ..job };
    let made = token.key_pairs(job.clone(), soon()).await.unwrap();
    let transport = manufacturer.open(made.oaep_hash, &made.wrapped_transport_key);
    for pair in &made.pairs {
        let mut buffer = [0; 512];
        let kek = AesKek::new(&AES_256, &transport).unwrap();
        let opened = der(kek.unwrap_with_padding(&pair.private_key, &mut buffer).unwrap());
        let file = fixture.dir.path().join("pair.der");
        std::fs::write(&file, opened).unwrap();
        let arguments = ["pkey", "-inform", "DER", "-pubout", "-outform", "DER", "-in"];
        let public = std::process::Command::new("openssl").args(arguments).arg(&file).output().unwrap();
        assert_eq!(public.stdout, pair.public_key);
        assert!(ecc::is_point(Curve::BrainpoolP256r1, &pair.public_key[pair.public_key.len() - 65..]));
    }
    for count in [0, hsm::KEY_PAIRS_MAX + 1] {
        let bad = KeyPairsJob { count, ..job.clone() };
        assert_eq!(token.key_pairs(bad, soon()).await.unwrap_err().class, ErrorClass::Caller);
    }
    assert_eq!(token.report().unknown_objects, Vec::<String>::new());
}
