//! Keys and signatures that OpenSSL 3.0 made, and what must not pass for them.

#![expect(clippy::unwrap_used, reason = "a vector that does not read fails its test")]

use domain::Curve;
use ecc::{EcPublicKey, Hash, is_point};

const MESSAGE: &[u8] = b"a message of the test";

/// One key of each curve and its signatures with SHA-256, SHA-384 and SHA-512: `openssl genpkey` and `openssl dgst -sign`.
const MADE: [(Curve, &str, [&str; 3]); 2] = [
    (
        Curve::P256,
        "04237574842c4311505976e547c6913e54e454283e46547b9e2a01be9c6e2b772eee96b81ad774b61551cfac32b44461fcf07961af948ef9e767a90b839b5cec07",
        [
            "30450220072afa012fb8b347547842cf6db7710ba07b242ea34ba2661fb2bdec44e04b11022100dd03543c8cfd3ad3eb99a470c4c01418d73bd90131ec1c3aead3267d99db32bc",
            "304502202e34b00954ec8c9b81f712b51168a9a65146286794b1756af64792a55e3e9f740221009cc730fcfcf6c937d6ab1943a66590d5b8f70e430e907a1386bff4de75fc04dd",
            "304502202ea150d67fc7bd99b7a16e59799ad03badcdf8c92851495359d7dfae615fde980221008800d2d49cbee27073c9fc18ce45bbf33a5139a2b964ff7f300953c95d84a5f7",
        ],
    ),
    (
        Curve::BrainpoolP256r1,
        "041c2f03f6da0974bc63766ad5a7404cdc49b5cf8e61d324ef8489812782e7098e505e6fc11d7eae655270c0eb82eff8cb405ce1231d20aff0bdd92d0348ee11cc",
        [
            "30440220097c5acc33bf06d460345e2f92695425025ca5fb9cf2707ce0e49056ab00b6d002200886ea259b66439410ce12e0eae7504b11289a1d73311c9f7e7f5dde9c4593a4",
            "3044022036bbe0ba36bd93513c152fd945aeb1326ec0a9ee5a85eea50cebade5e290351c0220465ee531062fde9681188de53603d5339fbd79207fff6bd0a82c7bbbb1d63611",
            "30450221009545eec8b4549c9f81150ff03f9eb2165e9971f632b7d10df5722e8dcfe008bf022018afe55401b5af689840a7eefb25bd6600db06d6e1b91f28593041a2aa4aa9f9",
        ],
    ),
];

/// The orders of the two groups: SP 800-186 and RFC 5639 §3.4.
const ORDERS: [&str; 2] = [
    "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551",
    "a9fb57dba1eea9bc3e660a909d838d718c397aa3b561a6f7901e0e82974856a7",
];

fn bytes<const N: usize>(text: &str) -> [u8; N] {
    hex::decode(text).unwrap().try_into().unwrap()
}

/// r || s of a DER signature whose integers have 32 bytes after their sign.
fn plain(der: &[u8]) -> [u8; 64] {
    let r_len = usize::from(der[3]);
    let (r, s) = (&der[4..4 + r_len], &der[6 + r_len..]);
    [&r[r.len() - 32..], &s[s.len() - 32..]].concat().try_into().unwrap()
}

#[test]
fn signatures_of_openssl_verify_and_with_another_hash_or_key_they_do_not() {
    let hashes = [Hash::Sha256, Hash::Sha384, Hash::Sha512];
    for (curve, point, signatures) in MADE {
        let key = EcPublicKey::from_point(curve, &bytes(point)).unwrap();
        for (at, hash) in hashes.into_iter().enumerate() {
            for (made_at, signature) in signatures.iter().enumerate() {
                let signature = hex::decode(signature).unwrap();
                assert_eq!(key.verifies_der(hash, MESSAGE, &signature), at == made_at);
                assert!(!key.verifies_der(hash, b"another message", &signature));
                assert!(!key.verifies_der(hash, MESSAGE, &[&signature[..], &[0]].concat()));
            }
        }
        let signature = plain(&hex::decode(signatures[0]).unwrap());
        assert!(key.verifies(MESSAGE, &signature));
    }
}

#[test]
fn no_changed_bit_passes() {
    for (curve, point, signatures) in MADE {
        let key = EcPublicKey::from_point(curve, &bytes(point)).unwrap();
        let signature = plain(&hex::decode(signatures[0]).unwrap());
        let digest: [u8; 32] =
            sha2::Digest::finalize(<sha2::Sha256 as sha2::Digest>::new_with_prefix(MESSAGE)).into();
        assert!(key.verifies_digest(&digest, &signature));
        assert!(!key.verifies_digest(&digest[..31], &signature));
        for bit in 0..512 {
            let mut wrong = signature;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(!key.verifies_digest(&digest, &wrong), "{curve} bit {bit}");
        }
    }
}

#[test]
fn numbers_outside_the_group_are_no_signature() {
    for ((curve, point, signatures), order) in MADE.into_iter().zip(ORDERS) {
        let key = EcPublicKey::from_point(curve, &bytes(point)).unwrap();
        let good = plain(&hex::decode(signatures[0]).unwrap());
        let order: [u8; 32] = bytes(order);
        for outside in [[0; 32], order, [0xff; 32]] {
            for half in [0, 32] {
                let mut wrong = good;
                wrong[half..half + 32].copy_from_slice(&outside);
                assert!(!key.verifies(MESSAGE, &wrong), "{curve}");
            }
        }
        assert!(!key.verifies(MESSAGE, &good[..63]) && !key.verifies(MESSAGE, &[]));
    }
}

#[test]
fn a_point_of_one_curve_is_none_of_the_other() {
    let [(_, p256, _), (_, brainpool, _)] = MADE;
    assert!(is_point(Curve::P256, &bytes(p256)) && is_point(Curve::BrainpoolP256r1, &bytes(brainpool)));
    assert!(!is_point(Curve::BrainpoolP256r1, &bytes(p256)) && !is_point(Curve::P256, &bytes(brainpool)));
    for (curve, point, _) in MADE {
        let mut point: [u8; 65] = bytes(point);
        point[64] ^= 1;
        assert!(!is_point(curve, &point));
        point[64] ^= 1;
        point[0] = 2;
        assert!(!is_point(curve, &point));
        assert!(!is_point(curve, &[[4].as_slice(), &[0; 64]].concat().try_into().unwrap()));
    }
}

#[test]
fn a_throw_away_key_lies_on_its_curve_and_is_another_each_time() {
    for curve in Curve::ALL {
        let (first, second) =
            (EcPublicKey::throw_away(curve).unwrap(), EcPublicKey::throw_away(curve).unwrap());
        assert_eq!(first.curve(), curve);
        assert_ne!(first, second);
    }
}
