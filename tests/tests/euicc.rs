//! The simulated eUICC against recorded key derivations and segments, and against a small SM-DP+ made here with SGP.26's
//! published test keys, so that what it accepts of the authority later means something.

#![expect(clippy::unwrap_used, reason = "a vector file that does not read fails its test")]

use serde_json::Value;
use tests::euicc::bsp::{Agreement, BspKeys, Stretch};
use tests::euicc::curve::{Curve, PrivateKey, PublicKey};
use tests::euicc::lpa::{self, ServerAuthentication};
use tests::euicc::package::{Profile, bind, metadata};
use tests::euicc::tlv::{Reader, tlv};
use tests::euicc::{Euicc, InstallError, Personality, error_code};

const EID: [u8; 16] =
    [0x89, 0x04, 0x90, 0x32, 0x12, 0x34, 0x51, 0x23, 0x45, 0x12, 0x34, 0x56, 0x78, 0x90, 0x12, 0x35];
const TRANSACTION: [u8; 16] = [0x07; 16];
const HOST_ID: &[u8] = b"dp-one";

fn file(name: &str) -> Vec<u8> {
    let path = format!("{}/vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).expect(&path)
}

/// A published test key (SEC 1 in PEM).
fn key(name: &str) -> PrivateKey {
    let text = String::from_utf8(file(name)).unwrap();
    let body = text.split("-----BEGIN EC PRIVATE KEY-----").nth(1).unwrap();
    let body = body.split("-----END").next().unwrap();
    let pem = format!("-----BEGIN EC PRIVATE KEY-----{body}-----END EC PRIVATE KEY-----\n");
    let der: rustls_pki_types::PrivateSec1KeyDer<'_> =
        rustls_pki_types::pem::PemObject::from_pem_slice(pem.as_bytes()).unwrap();
    let mut fields = Reader::inside(der.secret_sec1_der(), 0x30).unwrap();
    fields.expect(0x02).unwrap();
    PrivateKey::P256(p256::SecretKey::from_slice(fields.expect(0x04).unwrap().value).unwrap())
}

fn euicc() -> Euicc {
    let folder = "sgp26_v3.0.2_varO_2024";
    Euicc::new(Personality {
        eid: EID,
        key: key(&format!("{folder}/SK_EUICC_SIG_NIST.pem")),
        certificate: file(&format!("{folder}/CERT_EUICC_SIG_NIST.der")),
        eum_certificate: file(&format!("{folder}/CERT_EUM_SIG_NIST.der")),
        other_certificates: Vec::new(),
        ci_certificate: file(&format!("{folder}/CERT_CI_SIG_NIST.der")),
    })
    .unwrap()
}

/// The server's side of one transaction, with what a test may get wrong as fields.
struct Server {
    auth: PrivateKey,
    pb: PrivateKey,
    auth_certificate: Vec<u8>,
    pb_certificate: Vec<u8>,
    used_before: Option<Vec<u8>>,
}

impl Server {
    fn new() -> Self {
        let sgp26 = |name: &str| format!("sgp26_varO_2020/{name}");
        Self {
            auth: key(&sgp26("SK_S_SM_DPauth_ECDSA_NIST.pem")),
            pb: key(&sgp26("SK_S_SM_DPpb_ECDSA_NIST.pem")),
            auth_certificate: file(&sgp26("CERT_S_SM_DPauth_ECDSA_NIST.der")),
            pb_certificate: file(&sgp26("CERT_S_SM_DPpb_ECDSA_NIST.der")),
            used_before: None,
        }
    }

    fn initiate(&self, challenge: &[u8], info1: &[u8]) -> Vec<u8> {
        let mut info1 = Reader::inside(info1, 0xbf20).unwrap();
        info1.expect(0x82).unwrap();
        let ci = Reader::new(info1.expect(0xa9).unwrap().value).expect(0x04).unwrap().value;
        let signed = tlv(
            0x30,
            &[
                &tlv(0x80, &[&TRANSACTION]),
                &tlv(0x81, &[challenge]),
                &tlv(0x83, &[b"dp.example"]),
                &tlv(0x84, &[&[9; 16]]),
            ],
        );
        let server = ServerAuthentication {
            server_signed1: &signed,
            server_signature1: &self.auth.sign(&signed),
            ci_key_id: ci,
            server_certificate: &self.auth_certificate,
        };
        lpa::authenticate_server(&server, Some("MATCH-1"))
    }

    fn authenticate_client(&self, response: &[u8], hash_cc: Option<[u8; 32]>) -> Vec<u8> {
        let mut ok = Reader::new(Reader::inside(response, 0xbf38).unwrap().expect(0xa0).unwrap().value);
        ok.expect(0x30).unwrap();
        let euicc_signature1 = ok.expect(0x5f37).unwrap().whole;
        let flag = tlv(0x01, &[if hash_cc.is_some() { &[0xff] } else { &[0x00] }]);
        let used = self.used_before.as_ref().map(|key| tlv(0x5f49, &[key])).unwrap_or_default();
        let signed = tlv(0x30, &[&tlv(0x80, &[&TRANSACTION]), &flag, &used]);
        let signature = self.pb.sign(&[&signed, euicc_signature1].concat());
        lpa::prepare_download(&signed, &signature, &self.pb_certificate, hash_cc)
    }

    fn bind(&self, one_time: &[u8], profile_keys: Option<&BspKeys>, profile: &Profile) -> Vec<u8> {
        let own = PrivateKey::random(Curve::P256);
        let shared = own.agree(&PublicKey::from_point(Curve::P256, one_time).unwrap()).unwrap();
        let agreement = Agreement { key_type: 0x88, key_len: 16, host_id: HOST_ID, eid: &EID };
        let keys = BspKeys::derive(&shared, &agreement);
        let template = tlv(0xa6, &[&tlv(0x80, &[&[0x88]]), &tlv(0x81, &[&[16]]), &tlv(0x84, &[HOST_ID])]);
        let signed = [
            tlv(0x82, &[&[1]]),
            tlv(0x80, &[&TRANSACTION]),
            template,
            tlv(0x5f49, &[&own.public_key().point()]),
        ]
        .concat();
        let signature = self.pb.sign(&[&signed[..], &tlv(0x5f49, &[one_time])].concat());
        let initialise = tlv(0xbf23, &[&signed, &tlv(0x5f37, &[&signature])]);
        bind(&initialise, &keys, profile_keys, profile)
    }
}

/// otPK.EUICC and hashCc of a response to PrepareDownload.
fn prepared(response: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    let ok = Reader::inside(response, 0xbf21).unwrap().expect(0xa0).unwrap().value;
    let mut signed = Reader::new(Reader::new(ok).expect(0x30).unwrap().value);
    assert_eq!(signed.expect(0x80).unwrap().value, TRANSACTION);
    let key = signed.expect(0x5f49).unwrap().value.to_vec();
    (key, signed.optional(0x04).unwrap().map(|hash| hash.value.to_vec()))
}

/// Up to the answer to PrepareDownload.
fn prepare(euicc: &mut Euicc, server: &Server, hash_cc: Option<[u8; 32]>) -> Vec<u8> {
    let challenge = euicc.challenge();
    let response = euicc.authenticate_server(&server.initiate(&challenge, &euicc.info1()));
    assert_eq!(error_code(&response), None);
    euicc.prepare_download(&server.authenticate_client(&response, hash_cc))
}

fn profile() -> Profile {
    Profile {
        metadata: metadata(&[0x98, 0, 0x10, 0x32, 0x54, 0x76, 0x98, 0x10, 0x32, 0x14], "Operator", "Plan"),
        elements: (0..9_000_u32).map(|byte| u8::try_from(byte % 251).unwrap()).collect(),
    }
}

fn profile_keys() -> BspKeys {
    BspKeys { s_enc: [0x11; 16], s_mac: [0x22; 16], initial_mac_chaining_value: [0x33; 16] }
}

#[test]
fn keys_and_segments_are_those_of_a_recorded_server() {
    let vectors: Value = serde_json::from_slice(&file("bsp_sgp22.json")).unwrap();
    let bytes = |value: &Value| hex::decode(value.as_str().unwrap()).unwrap();
    let mut derived = Vec::new();
    for vector in vectors["kdf"].as_array().unwrap() {
        let eid = bytes(&vector["eid"]).try_into().unwrap();
        let host_id = bytes(&vector["host_id"]);
        let agreement = Agreement { key_type: 0x88, key_len: 16, host_id: &host_id, eid: &eid };
        let keys = BspKeys::derive(&bytes(&vector["shared_secret"]), &agreement);
        assert_eq!(keys.initial_mac_chaining_value[..], bytes(&vector["initial_mac_chaining_value"]));
        assert_eq!(keys.s_enc[..], bytes(&vector["s_enc"]));
        assert_eq!(keys.s_mac[..], bytes(&vector["s_mac"]));
        derived.push(keys);
    }
    let (mut server, mut card) = (Stretch::new(&derived[1]), Stretch::new(&derived[1]));
    for vector in vectors["segments"].as_array().unwrap() {
        let (tag, data, segment) =
            (bytes(&vector["tag"])[0], bytes(&vector["data"]), bytes(&vector["segment"]));
        let object = Reader::new(&segment).object().unwrap().unwrap();
        let (made, opened) = if vector["protection"] == "encrypted" {
            (server.encrypt(tag, &data), card.decrypt(&object))
        } else {
            (server.authenticate(tag, &data), card.check(&object))
        };
        assert_eq!(made, segment);
        assert_eq!(opened.unwrap(), data);
    }
}

#[test]
fn a_profile_comes_out_byte_for_byte_under_session_keys_and_under_profile_keys() {
    for own in [None, Some(profile_keys())] {
        let (mut euicc, server) = (euicc(), Server::new());
        let (one_time, hash) = prepared(&prepare(&mut euicc, &server, None));
        assert_eq!(hash, None);
        let package = server.bind(&one_time, own.as_ref(), &profile());
        assert_eq!(euicc.install(&package).unwrap(), profile());
        // The keys of a transaction install once.
        assert_eq!(euicc.install(&package), Err(InstallError::IncorrectInput));
    }
}

#[test]
fn a_confirmation_code_is_hashed_into_what_the_euicc_signs() {
    let hash = lpa::hash_cc("4711", &TRANSACTION);
    let (_, signed) = prepared(&prepare(&mut euicc(), &Server::new(), Some(hash)));
    assert_eq!(signed.unwrap(), hash);
}

#[test]
fn a_one_time_key_is_used_again_only_for_the_server_that_names_it() {
    let (mut euicc, mut server) = (euicc(), Server::new());
    let (first, _) = prepared(&prepare(&mut euicc, &server, None));
    server.used_before = Some(first.clone());
    assert_eq!(prepared(&prepare(&mut euicc, &server, None)).0, first);
    server.used_before = None;
    assert_ne!(prepared(&prepare(&mut euicc, &server, None)).0, first);
}

#[test]
fn a_server_that_does_not_prove_itself_is_refused() {
    let mut euicc = euicc();
    let authenticate = |euicc: &mut Euicc, server: &Server, challenge: &[u8; 16]| {
        let response = euicc.authenticate_server(&server.initiate(challenge, &euicc.info1()));
        error_code(&response)
    };
    let challenge = euicc.challenge();
    let mut server = Server::new();
    server.auth = PrivateKey::random(Curve::P256);
    assert_eq!(authenticate(&mut euicc, &server, &challenge), Some(2));
    assert_eq!(authenticate(&mut euicc, &Server::new(), &challenge), Some(4), "a challenge is used once");

    euicc.challenge();
    assert_eq!(authenticate(&mut euicc, &Server::new(), &[0; 16]), Some(6));

    let challenge = euicc.challenge();
    let mut server = Server::new();
    (server.auth, server.auth_certificate) = (server.pb.clone(), server.pb_certificate.clone());
    assert_eq!(authenticate(&mut euicc, &server, &challenge), Some(5), "the certificate is for another role");

    let challenge = euicc.challenge();
    let mut server = Server::new();
    let last = server.auth_certificate.len() - 1;
    server.auth_certificate[last] ^= 1;
    assert_eq!(authenticate(&mut euicc, &server, &challenge), Some(1));
}

#[test]
fn a_download_prepared_by_another_key_or_another_role_is_refused() {
    let mut server = Server::new();
    server.pb = PrivateKey::random(Curve::P256);
    assert_eq!(error_code(&prepare(&mut euicc(), &server, None)), Some(2));
    let mut server = Server::new();
    server.pb = server.auth.clone();
    server.pb_certificate = server.auth_certificate.clone();
    assert_eq!(error_code(&prepare(&mut euicc(), &server, None)), Some(1));
}

#[test]
fn a_package_changed_anywhere_is_not_installed() {
    let short = Profile { elements: vec![0x5a; 40], ..profile() };
    let (mut euicc, server) = (euicc(), Server::new());
    let (one_time, _) = prepared(&prepare(&mut euicc, &server, None));
    let package = server.bind(&one_time, Some(&profile_keys()), &short);
    for position in 0..package.len() {
        let mut changed = package.clone();
        changed[position] ^= 0x01;
        assert!(euicc.clone().install(&changed).is_err(), "byte {position}");
    }
    assert_eq!(euicc.install(&package).unwrap(), short);
}

#[test]
fn segments_of_another_order_are_not_installed() {
    let (mut euicc, server) = (euicc(), Server::new());
    let (one_time, _) = prepared(&prepare(&mut euicc, &server, None));
    let package = server.bind(&one_time, None, &profile());
    let mut parts = Reader::inside(&package, 0xbf36).unwrap();
    let head: Vec<&[u8]> = [0xbf23, 0xa0, 0xa1].map(|tag| parts.expect(tag).unwrap().whole).to_vec();
    let mut elements = Reader::new(parts.expect(0xa3).unwrap().value);
    let (first, second) = (elements.expect(0x86).unwrap(), elements.expect(0x86).unwrap());
    let swapped = tlv(0xa3, &[second.whole, first.whole]);
    let package = tlv(0xbf36, &[&head.concat(), &swapped]);
    assert_eq!(euicc.install(&package), Err(InstallError::SecurityError));
}
