//! Keys and signatures that OpenSSL 3.0 made, and what must not pass for them.

#![expect(clippy::unwrap_used, reason = "a vector that does not read fails its test")]

use domain::Curve;
use ecc::{Digest, EcPublicKey, Hash, Signature, is_point};

const MESSAGE: &[u8] = b"a message of the test";

/// One key of each curve and its signatures with SHA-256, SHA-384 and SHA-512: `openssl genpkey` and `openssl dgst -sign`.
const MADE: [(Curve, &str, [&str; 3]); 3] = [
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
    (
        Curve::P384,
        "041a72ff43bce486235802cffb7ffa45b1a31505654d0594e401098e0053cdcd6e3d56b3ff43c5ff7ba12ff357e9158a7f8e72705dbf7767a9abf93e71a023fa83155dd2bc69c5c5d91e552349b646ff69fe31ba3cfb2969795be3c80f558ba6b2",
        [
            "30650230329faf956545da8551a280b1c6d1505edd10ed53f11524ddeb9d4b86b904cfede2c117000d53cab196e48c648041e9f8023100a2ea4256882e92c05de7d9b141008430399ea38cd2d559c3c9f85b62ec39434ef139d7a6c8e91e8e2f85a7f5d1c535ba",
            "3065023100e037d536c19d90df5c7b3a6b90d398c9708b11feacaab9e4f05e2abea47889052d61e8cb947efa84ce0f064ad7a1993a023005a766582f12ef20e769ff458ca6ab21a8a366961a0a61bb4fd8db31aad5fda7db97720cb5d967fb422ee74c95f6ec06",
            "3065023045a0aa58c18fd9af677b4d1594365ddd9f230e85cecbad5616b6bc7475d02ba76fe94168e3841d71e2029b1026ad856602310097c25f45f06fc22517c41993a449f5a9a89294011c40ea212c94a1093aaee4e657ccebc6d518d6618f7a059b24011f36",
        ],
    ),
];

/// The orders of the groups: SP 800-186, RFC 5639 §3.4, SP 800-186.
const ORDERS: [&str; 3] = [
    "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551",
    "a9fb57dba1eea9bc3e660a909d838d718c397aa3b561a6f7901e0e82974856a7",
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
];

fn bytes(text: &str) -> Vec<u8> {
    hex::decode(text).unwrap()
}

/// r || s of the signature with the hash of the curve; the integers of these have the curve's length after their sign.
fn plain(curve: Curve, signatures: [&str; 3]) -> Vec<u8> {
    let (der, half) = match Hash::of(curve) {
        Hash::Sha256 => (bytes(signatures[0]), 32),
        Hash::Sha384 => (bytes(signatures[1]), 48),
        Hash::Sha512 => unreachable!("no curve here"),
    };
    let r_len = usize::from(der[3]);
    let (r, s) = (&der[4..4 + r_len], &der[6 + r_len..]);
    [&r[r.len() - half..], &s[s.len() - half..]].concat()
}

#[test]
fn signatures_of_openssl_verify_and_with_another_hash_or_key_they_do_not() {
    let hashes = [Hash::Sha256, Hash::Sha384, Hash::Sha512];
    for (curve, point, signatures) in MADE {
        let key = EcPublicKey::from_point(curve, &bytes(point)).unwrap();
        for (at, hash) in hashes.into_iter().enumerate() {
            for (made_at, signature) in signatures.iter().enumerate() {
                let signature = bytes(signature);
                assert_eq!(key.verifies_der(hash, MESSAGE, &signature), at == made_at);
                assert!(!key.verifies_der(hash, b"another message", &signature));
                assert!(!key.verifies_der(hash, MESSAGE, &[&signature[..], &[0]].concat()));
            }
        }
        assert!(key.verifies(MESSAGE, &plain(curve, signatures)));
    }
}

#[test]
fn no_changed_bit_passes() {
    for (curve, point, signatures) in MADE {
        let key = EcPublicKey::from_point(curve, &bytes(point)).unwrap();
        let signature = plain(curve, signatures);
        let digest = Digest::of(curve, MESSAGE);
        assert!(key.verifies_digest(&digest, &Signature::from_bytes(&signature).unwrap()));
        for bit in 0..signature.len() * 8 {
            let mut wrong = signature.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            let wrong = Signature::from_bytes(&wrong).unwrap();
            assert!(!key.verifies_digest(&digest, &wrong), "{curve} bit {bit}");
        }
    }
}

#[test]
fn digests_and_signatures_have_the_length_of_their_curve() {
    for (curve, point, signatures) in MADE {
        let key = EcPublicKey::from_point(curve, &bytes(point)).unwrap();
        let (digest, signature) = (Digest::of(curve, MESSAGE), plain(curve, signatures));
        assert!(digest.is_for(curve));
        assert_eq!(Digest::from_bytes(digest.as_bytes()), Some(digest));
        assert_eq!(Digest::from_bytes(&digest.as_bytes()[1..]), None);
        assert_eq!(Signature::from_bytes(&signature[1..]), None);
        let signature = Signature::from_bytes(&signature).unwrap();
        assert_eq!(signature.hash(), Hash::of(curve));
        let (r, s) = signature.halves();
        assert_eq!([r, s].concat(), signature.as_bytes());
        for other in Curve::ALL.into_iter().filter(|other| Hash::of(*other) != Hash::of(curve)) {
            let of_other = Digest::of(other, MESSAGE);
            assert!(!digest.is_for(other) && !key.verifies_digest(&of_other, &signature));
        }
    }
}

#[test]
fn numbers_outside_the_group_are_no_signature() {
    for ((curve, point, signatures), order) in MADE.into_iter().zip(ORDERS) {
        let key = EcPublicKey::from_point(curve, &bytes(point)).unwrap();
        let (good, order) = (plain(curve, signatures), bytes(order));
        let half = order.len();
        for outside in [vec![0; half], order, vec![0xff; half]] {
            for at in [0, half] {
                let mut wrong = good.clone();
                wrong[at..at + half].copy_from_slice(&outside);
                assert!(!key.verifies(MESSAGE, &wrong), "{curve}");
            }
        }
        assert!(!key.verifies(MESSAGE, &good[1..]) && !key.verifies(MESSAGE, &[]));
    }
}

#[test]
fn a_point_of_one_curve_is_none_of_another() {
    for (curve, point, _) in MADE {
        let mut point = bytes(point);
        assert_eq!(point.len(), curve.point_bytes());
        for other in Curve::ALL {
            assert_eq!(is_point(other, &point), other == curve);
        }
        let last = point.len() - 1;
        point[last] ^= 1;
        assert!(!is_point(curve, &point));
        point[last] ^= 1;
        point[0] = 2;
        assert!(!is_point(curve, &point));
        assert!(!is_point(curve, &[&[4][..], &vec![0; last]].concat()));
        assert!(!is_point(curve, &[]));
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
