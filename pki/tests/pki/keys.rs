//! Public keys from outside.

use crate::authority::new_key;
use crate::der::{hex, tlv};
use crate::sgp26;
use domain::Curve;
use pki::*;

#[test]
fn every_published_test_key_is_refused_outside_development() {
    for published in sgp26::all() {
        let spki = sgp26::certificate(published.path).spki().to_vec();
        assert!(
            matches!(PublicKey::parse(&spki, KnownKeys::Refuse), Err(PkiError::KnownTestKey)),
            "{}",
            published.path
        );
        PublicKey::parse(&spki, KnownKeys::Allow).unwrap();
    }
}

#[test]
fn keys_from_trivial_scalars_and_documents_are_known() {
    let generator = "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296";
    for point in [
        // The base point and its negative: private keys 1 and n - 1.
        [generator, "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"].concat(),
        [generator, "b01cbd1c01e58065711814b583f061e9d431cca994cea1313449bf97c840ae0a"].concat(),
        // RFC 6979 §A.2.5.
        "0460fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6\
         7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299"
            .to_owned(),
    ] {
        assert!(matches!(
            PublicKey::from_point(Curve::P256, &hex(&point), KnownKeys::Refuse),
            Err(PkiError::KnownTestKey)
        ));
    }
}

#[test]
fn a_brainpool_key_is_taken_where_it_is_asked_for() {
    // RFC 5639 §3.4: the base point; its private key is 1.
    let base = "048bd2aeb9cb7e57cb2c4b482ffc81b7afb9de27e1e3bd23c23a4453bd9ace3262\
                547ef835c3dac4fd97f8461a14611dc9c27745132ded8e545c1d54c72f046997";
    let point = hex(base);
    let curve = Curve::BrainpoolP256r1;
    assert!(matches!(PublicKey::from_point(curve, &point, KnownKeys::Refuse), Err(PkiError::KnownTestKey)));
    let key = PublicKey::from_point(curve, &point, KnownKeys::Allow).unwrap();
    assert_eq!(key.curve(), curve);
    assert_eq!(hex("301406072a8648ce3d020106092b2403030208010107"), key.spki()[2..24]);
    assert!(matches!(key.on(Curve::P256), Err(PkiError::UnsupportedKey { .. })));
    // The same numbers under the name of the other curve are no point of it.
    assert!(matches!(
        PublicKey::from_point(Curve::P256, &point, KnownKeys::Allow),
        Err(PkiError::PointNotOnCurve)
    ));
}

#[test]
fn a_key_on_p_384_is_taken_and_those_of_trivial_scalars_and_documents_are_known() {
    let generator =
        "04aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a545e3872760ab7";
    for point in [
        // SP 800-186 §3.2.1.4: the base point and its negative; private keys 1 and n - 1.
        [
            generator,
            "3617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5f",
        ]
        .concat(),
        [
            generator,
            "c9e821b569d9d390a26167406d6d23d6070be242d765eb831625ceec4a0f473ef59f4e30e2817e6285bce2846f15f1a0",
        ]
        .concat(),
        // RFC 6979 §A.2.6.
        "04ec3a4e415b4e19a4568618029f427fa5da9a8bc4ae92e02e06aae5286b300c64def8f0ea9055866064a254515480bc13\
         8015d9b72d7d57244ea8ef9ac0c621896708a59367f9dfb9f54ca84b3f1c9db1288b231c3ae0d4fe7344fd2533264720"
            .to_owned(),
    ] {
        let point = hex(&point);
        let refused = PublicKey::from_point(Curve::P384, &point, KnownKeys::Refuse);
        assert!(matches!(refused, Err(PkiError::KnownTestKey)));
        let key = PublicKey::from_point(Curve::P384, &point, KnownKeys::Allow).unwrap();
        // RFC 5480 §2.1.1.1: secp384r1.
        assert_eq!(hex("301006072a8648ce3d020106052b81040022"), key.spki()[2..20]);
        assert!(matches!(key.on(Curve::P256), Err(PkiError::UnsupportedKey { .. })));
        assert!(matches!(
            PublicKey::from_point(Curve::P384, &point[..65], KnownKeys::Allow),
            Err(PkiError::Malformed { .. })
        ));
    }
}

#[test]
fn a_fresh_key_is_taken_with_its_bytes_and_identifiers() {
    let key = new_key();
    let spki = key.spki();
    let public = PublicKey::parse(&spki, KnownKeys::Refuse).unwrap();
    assert_eq!(public.spki(), spki);
    assert_eq!(public.point(), key.point());
    assert_eq!(public.key_identifier(), key_identifier(&spki).unwrap());
    assert_eq!(PublicKey::from_point(Curve::P256, public.point(), KnownKeys::Refuse).unwrap(), public);
}

#[test]
fn points_that_are_no_points_are_refused() {
    let key = new_key();
    let point = key.point();
    let off_curve = [&point[..64], &[point[64] ^ 1]].concat();
    let too_large = [&[4], &[0xff; 64][..]].concat();
    let zero = [&[4], &[0; 64][..]].concat();
    for bytes in [off_curve, too_large, zero] {
        assert!(matches!(
            PublicKey::from_point(Curve::P256, &bytes, KnownKeys::Refuse),
            Err(PkiError::PointNotOnCurve)
        ));
    }
    // Infinity, a hybrid point, and a bit string that is no whole number of octets.
    let hybrid = [&[0, 6 + (point[64] & 1)], &point[1..]].concat();
    let ragged = [&[1], point].concat();
    for bits in [vec![0, 0], hybrid, ragged, vec![]] {
        let algorithm = hex("301306072a8648ce3d020106082a8648ce3d030107");
        let spki = tlv(0x30, &[algorithm, tlv(3, &bits)].concat());
        assert!(matches!(PublicKey::parse(&spki, KnownKeys::Refuse), Err(PkiError::Malformed { .. })));
    }
}

fn rsa_spki(bits: usize, exponent: &str) -> Vec<u8> {
    let mut modulus = vec![0x55; bits / 8 + 1];
    modulus[0] = 0;
    modulus[1] = 0x80;
    let key = tlv(0x30, &[tlv(2, &modulus), hex(exponent)].concat());
    let bits = [&[0], &key[..]].concat();
    tlv(0x30, &[hex("300d06092a864886f70d0101010500"), tlv(3, &bits)].concat())
}

#[test]
fn transport_keys_have_at_least_3072_bits_and_the_usual_exponent() {
    let key = TransportPublicKey::parse(&rsa_spki(3072, "0203010001")).unwrap();
    assert_eq!((key.modulus().len(), key.exponent()), (384, &[1, 0, 1][..]));
    TransportPublicKey::parse(&rsa_spki(4096, "0203010001")).unwrap();
    for (spki, what) in [
        (rsa_spki(2048, "0203010001"), "RSA-2048"),
        (rsa_spki(3064, "0203010001"), "RSA-3064"),
        (rsa_spki(8200, "0203010001"), "RSA-8200"),
        (rsa_spki(3072, "020103"), "exponent"),
        (new_key().spki(), "1.2.840.10045.2.1"),
    ] {
        let error = TransportPublicKey::parse(&spki).unwrap_err().to_string();
        assert!(error.contains(what), "{what}: {error}");
    }
    let mut even = rsa_spki(3072, "0203010001");
    let last_of_modulus = even.len() - 6;
    even[last_of_modulus] = 0x54;
    assert!(matches!(TransportPublicKey::parse(&even), Err(PkiError::UnsupportedKey { .. })));
}
