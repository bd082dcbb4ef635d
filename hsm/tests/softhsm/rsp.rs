//! Keys of an SM-DP+ sign what they are for, and a profile is bound as independent software computes it.

use std::fs;
use std::path::Path;
use std::process::Command;

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey as Verifier};
use domain::EuiccCurve;
use ecc::EcPublicKey;
use hsm::{ErrorClass, KeyCheck, KeyRole, RegisteredKey, RspBindJob, RspBound, RspInput, Token};
use keys::bsp::{BoundKeys, BspKeys, ProfileProtection};
use keys::rsp::TransactionId;
use keys::seal::{Sealed, open};

use crate::model::{eid, recipient};
use crate::support::{Fixture, soon};

const SIGNED1: &[u8] = &[0x30, 0x12, 0x80, 0x10, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
const TRANSACTION: TransactionId = TransactionId([0x11; 16]);
const INFO: &[u8] = b"test info";

fn point(key: &RegisteredKey) -> &[u8] {
    let KeyCheck::PublicKey(spki) = &key.check else { panic!("a key pair") };
    &spki[spki.len() - 65..]
}

async fn sm_dp_plus(curve: EuiccCurve) -> (Fixture, Token, RegisteredKey, RegisteredKey) {
    let fixture = Fixture::new("rsp");
    let mut keys = fixture.create_all(&[KeyRole::RspAuth(curve), KeyRole::RspPb(curve)]);
    let token = fixture.start(&keys).await.unwrap();
    let pb = keys.remove(1);
    (fixture, token, keys.remove(0), pb)
}

fn smdp_signed2() -> RspInput {
    RspInput::SmdpSigned2 { smdp_signed2: SIGNED1.to_vec(), euicc_signature1: [7; 64] }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_key_of_an_sm_dp_plus_signs_its_own_objects_and_refuses_the_others() {
    let (_fixture, token, auth, pb) = sm_dp_plus(EuiccCurve::P256).await;
    let one = token.rsp_sign(&auth.key, RspInput::ServerSigned1(SIGNED1.to_vec()), soon()).await.unwrap();
    Verifier::new(&ECDSA_P256_SHA256_FIXED, point(&auth)).verify(SIGNED1, &one).unwrap();
    let two = token.rsp_sign(&pb.key, smdp_signed2(), soon()).await.unwrap();
    let message = [SIGNED1, &[0x5f, 0x37, 0x40], &[7; 64]].concat();
    Verifier::new(&ECDSA_P256_SHA256_FIXED, point(&pb)).verify(&message, &two).unwrap();

    let refused = [
        token.rsp_sign(&auth.key, smdp_signed2(), soon()).await.unwrap_err(),
        token.rsp_sign(&pb.key, RspInput::ServerSigned1(SIGNED1.to_vec()), soon()).await.unwrap_err(),
        // What the DPpb key signs, offered to the DPauth key as if it were its own.
        token.rsp_sign(&auth.key, RspInput::ServerSigned1(message), soon()).await.unwrap_err(),
        token.rsp_bind(job(&auth, [4; 65], recipient().1), soon()).await.unwrap_err(),
        token.sign(&auth.key, &[hsm::Digest::sha256([0; 32])], soon()).await.unwrap_err(),
    ];
    for error in refused {
        assert_eq!(error.class, ErrorClass::Caller, "{error}");
    }
    token.shutdown().await;
}

fn job(key: &RegisteredKey, euicc_key: [u8; 65], recipient: [u8; 65]) -> RspBindJob {
    RspBindJob {
        key: key.key.clone(),
        euicc_key,
        transaction_id: TRANSACTION,
        host_id: b"host".to_vec(),
        eid: eid(1),
        protection: ProfileProtection::SessionKeys,
        recipient,
        info: INFO.to_vec(),
    }
}

/// X9.63 with SHA-256 as the standard writes it.
fn expected(shared_secret: &[u8]) -> BspKeys {
    let info = [&[0x88, 0x10, 4][..], b"host", &[16], eid(1).bcd()].concat();
    let block = |counter: u8| digest(&SHA256, &[shared_secret, &[0, 0, 0, counter], &info].concat());
    let data = [block(1).as_ref(), block(2).as_ref()].concat();
    BspKeys::from_key_data(data[..48].try_into().unwrap())
}

/// Checks the signature of the secure channel, and gives otPK.DP.
fn server_key(bound: &RspBound, pb: &RegisteredKey, euicc_key: &[u8; 65]) -> [u8; 65] {
    // BF23 81 LL || fields || 5F37 40 signature
    let (fields, signature) =
        bound.initialise_secure_channel[4..].split_at(bound.initialise_secure_channel.len() - 4 - 67);
    let signed = [fields, &[0x5f, 0x49, 0x41], euicc_key].concat();
    let KeyRole::RspPb(curve) = pb.role else { panic!("a DPpb key") };
    let key = EcPublicKey::from_point(curve.curve(), point(pb)).unwrap();
    assert!(key.verifies(&signed, &signature[3..]));
    fields[fields.len() - 65..].try_into().unwrap()
}

fn opened(bound: &RspBound, private: &[u8; 32]) -> BoundKeys {
    let sealed = Sealed { encapsulated_key: bound.encapsulated_key, ciphertext: bound.ciphertext.clone() };
    BoundKeys::decode(&open(private, INFO, &sealed).unwrap()).unwrap()
}

fn same(one: &BspKeys, other: &BspKeys) -> bool {
    one.s_enc == other.s_enc
        && one.s_mac == other.s_mac
        && one.initial_mac_chaining_value == other.initial_mac_chaining_value
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_profile_has_the_keys_that_the_euicc_derives_and_each_time_others() {
    let (_fixture, token, _, pb) = sm_dp_plus(EuiccCurve::P256).await;
    let (private, public) = recipient();
    let euicc = PrivateKey::generate(&ECDH_P256).unwrap();
    let euicc_key: [u8; 65] = euicc.compute_public_key().unwrap().as_ref().try_into().unwrap();
    let mut server_keys = Vec::new();
    for protection in [ProfileProtection::SessionKeys, ProfileProtection::ProfileKeys] {
        let job = RspBindJob { protection, ..job(&pb, euicc_key, public) };
        let bound = token.rsp_bind(job, soon()).await.unwrap();
        let server_key = server_key(&bound, &pb, &euicc_key);
        let peer = UnparsedPublicKey::new(&ECDH_P256, server_key);
        let wanted = agree(&euicc, peer, (), |secret| Ok(expected(secret))).unwrap();
        let keys = opened(&bound, &private);
        assert!(same(&keys.session, &wanted));
        assert_eq!(keys.profile.is_some(), protection == ProfileProtection::ProfileKeys);
        assert!(keys.profile.is_none_or(|own| !same(&own, &wanted) && own.s_enc != own.s_mac));
        server_keys.push(server_key);
    }
    assert_ne!(server_keys[0], server_keys[1]);
    token.shutdown().await;
}

/// r || s as the DER that openssl reads.
fn ecdsa_der(signature: &[u8; 64]) -> Vec<u8> {
    let integer = |half: &[u8]| {
        let number = &half[half.iter().take(31).take_while(|byte| **byte == 0).count()..];
        let sign: &[u8] = if number[0] >= 0x80 { &[0] } else { &[] };
        [&[2, (sign.len() + number.len()) as u8], sign, number].concat()
    };
    let both = [integer(&signature[..32]), integer(&signature[32..])].concat();
    [&[0x30, both.len() as u8], &both[..]].concat()
}

/// Runs openssl in `folder`.
fn openssl(folder: &Path, arguments: &str) -> Vec<u8> {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_is_bound_on_brainpool_p256r1_too() {
    let (fixture, token, auth, pb) = sm_dp_plus(EuiccCurve::BrainpoolP256r1).await;
    let (private, public) = recipient();
    let folder = fixture.dir.path();
    openssl(folder, "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:brainpoolP256r1 -out euicc.pem");
    let spki = openssl(folder, "pkey -in euicc.pem -pubout -outform DER");
    let (prefix, euicc_key) = spki.split_at(spki.len() - 65);
    let euicc_key: [u8; 65] = euicc_key.try_into().unwrap();
    let bound = token.rsp_bind(job(&pb, euicc_key, public), soon()).await.unwrap();
    let server_key = server_key(&bound, &pb, &euicc_key);
    fs::write(folder.join("server.der"), [prefix, &server_key].concat()).unwrap();
    openssl(folder, "pkey -pubin -inform DER -in server.der -out server.pem");
    let secret = openssl(folder, "pkeyutl -derive -inkey euicc.pem -peerkey server.pem");
    assert!(same(&opened(&bound, &private).session, &expected(&secret)));
    // A one-time key of the other curve is bad input, not a broken token.
    let other = token.rsp_bind(job(&pb, public, public), soon()).await.unwrap_err();
    assert_eq!(other.class, ErrorClass::Caller, "{other}");
    // Both keys sign on their curve, as openssl sees it.
    for (key, input, message) in [
        (&auth, RspInput::ServerSigned1(SIGNED1.to_vec()), SIGNED1.to_vec()),
        (&pb, smdp_signed2(), [SIGNED1, &[0x5f, 0x37, 0x40], &[7; 64]].concat()),
    ] {
        let signature = token.rsp_sign(&key.key, input, soon()).await.unwrap();
        let KeyCheck::PublicKey(spki) = &key.check else { panic!("a key pair") };
        fs::write(folder.join("signer.der"), spki).unwrap();
        fs::write(folder.join("message"), &message).unwrap();
        fs::write(folder.join("signature"), ecdsa_der(&signature)).unwrap();
        openssl(folder, "pkey -pubin -inform DER -in signer.der -out signer.pem");
        openssl(folder, "dgst -sha256 -verify signer.pem -signature signature message");
    }
    token.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_must_do_all_inside_and_cannot_takes_no_dppb_key() {
    let mut fixture = Fixture::new("rsp");
    let keys = fixture.create_all(&[KeyRole::RspAuth(EuiccCurve::P256), KeyRole::RspPb(EuiccCurve::P256)]);
    fixture.config.inside_only = true;
    let refused = fixture.start(&keys).await.err().unwrap();
    assert_eq!(refused.class, ErrorClass::Policy);
    assert!(refused.detail.contains("X9.63-SHA256"), "{refused}");
    // A key that needs no agreement is served.
    let token = fixture.start(&keys[..1]).await.unwrap();
    token.rsp_sign(&keys[0].key, RspInput::ServerSigned1(SIGNED1.to_vec()), soon()).await.unwrap();
    assert_eq!(token.add_key(keys[1].clone()).await.unwrap_err().class, ErrorClass::Policy);
    token.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_start_report_says_where_the_shared_secret_is() {
    let (_fixture, token, auth, pb) = sm_dp_plus(EuiccCurve::BrainpoolP256r1).await;
    let report = token.report();
    let [sentence] = &report.leaves_the_token[..] else { panic!("{:?}", report.leaves_the_token) };
    assert!(sentence.starts_with(&pb.key.to_string()) && sentence.contains("has no X9.63"), "{sentence}");
    assert!(report.verified_keys.contains(&auth.key));
    token.shutdown().await;
}
