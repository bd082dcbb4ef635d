//! Certification requests, good and hostile.

use crate::authority::new_key;
use crate::der::{content, hex, inside, tlv};
use crate::sgp26::vector;
use pki::csr::{CsrError, VerifiedCsr, create_csr, csr_pem};
use pki::*;

fn parse(bytes: &[u8]) -> Result<VerifiedCsr, CsrError> {
    VerifiedCsr::parse(bytes, KnownKeys::Refuse)
}

/// What the parts of a request are, before it is signed with its own key.
struct Request {
    version: Vec<u8>,
    subject: Vec<u8>,
    spki: Vec<u8>,
    attributes: Vec<Vec<u8>>,
    algorithm: Vec<u8>,
}

impl Request {
    fn new(key: &PrivateKey) -> Self {
        Self {
            version: tlv(2, &[0]),
            subject: tlv(0x30, &attribute("550403", 0x0c, b"dp.example.com")),
            spki: key.spki(),
            attributes: Vec::new(),
            algorithm: hex("300a06082a8648ce3d040302"),
        }
    }

    fn sign(&self, key: &PrivateKey) -> Vec<u8> {
        let attributes = tlv(0xa0, &self.attributes.concat());
        let information = tlv(0x30, &[&self.version[..], &self.subject, &self.spki, &attributes].concat());
        let mut signature = vec![0];
        signature.extend(key.sign(&information).unwrap());
        tlv(0x30, &[&information[..], &self.algorithm, &tlv(3, &signature)].concat())
    }
}

fn attribute(oid: &str, tag: u8, value: &[u8]) -> Vec<u8> {
    tlv(0x31, &tlv(0x30, &[tlv(6, &hex(oid)), tlv(tag, value)].concat()))
}

fn extension(oid: &str, critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical { hex("0101ff") } else { Vec::new() };
    tlv(0x30, &[tlv(6, &hex(oid)), critical, tlv(4, value)].concat())
}

fn extension_request(extensions: &[Vec<u8>]) -> Vec<u8> {
    let oid = tlv(6, &hex("2a864886f70d01090e"));
    tlv(0x30, &[oid, tlv(0x31, &tlv(0x30, &extensions.concat()))].concat())
}

#[test]
fn a_request_we_make_is_verified_in_der_and_pem_and_keeps_its_key_byte_for_byte() {
    let pkcs8 = generate_p256().unwrap();
    let key = PrivateKey::from_pkcs8(&pkcs8).unwrap();
    let der = create_csr(&pkcs8, "ada", "Regulator").unwrap();
    for bytes in [der.clone(), csr_pem(&der).into_bytes()] {
        let csr = parse(&bytes).unwrap();
        assert_eq!(csr.spki(), key.spki());
        assert_eq!(csr.subject().common_name.as_deref(), Some("ada"));
        assert_eq!(csr.subject().organization.as_deref(), Some("Regulator"));
        assert_eq!(csr.subject().organizational_unit, None);
    }
}

#[test]
fn the_published_requests_get_the_errors_they_deserve() {
    let unsupported = |key: &str| CsrError::UnsupportedKey(key.into());
    for (file, error) in [
        ("bad-version", CsrError::Version),
        ("basic_constraints", unsupported("RSA-2048")),
        ("invalid_signature", unsupported("RSA-1024")),
        ("rsa_sha256", unsupported("RSA-2048")),
        ("two_basic_constraints", CsrError::DuplicateExtension("2.5.29.19".into())),
    ] {
        assert_eq!(parse(&vector(&format!("csr/{file}.pem"))), Err(error), "{file}");
    }
    // This one is on P-384, signed with SHA-256, and good.
    let request = parse(&vector("csr/ec_sha256.pem")).unwrap();
    assert_eq!(request.public_key().curve(), domain::Curve::P384);
}

#[test]
fn a_request_signed_by_another_key_or_changed_after_signing_proves_nothing() {
    let (key, stranger) = (new_key(), new_key());
    assert_eq!(parse(&Request::new(&key).sign(&stranger)), Err(CsrError::BadSignature));
    let good = Request::new(&key).sign(&key);
    parse(&good).unwrap();
    let at = good.windows(2).position(|two| two == b"dp").unwrap();
    let mut changed = good.clone();
    changed[at] = b'x';
    assert_eq!(parse(&changed), Err(CsrError::BadSignature));
}

#[test]
fn a_point_off_the_curve_and_a_key_with_its_own_parameters_are_refused() {
    let key = new_key();
    let mut request = Request::new(&key);
    *request.spki.last_mut().unwrap() ^= 1;
    assert_eq!(parse(&request.sign(&key)), Err(CsrError::PointNotOnCurve));

    // P-256 written out as explicit parameters (RFC 3279 §2.3.5), as in CVE-2020-0601.
    let p = "00ffffffff00000001000000000000000000000000ffffffffffffffffffffffff";
    let n = "00ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
    let field = tlv(0x30, &[hex("06072a8648ce3d0101"), tlv(2, &hex(p))].concat());
    let curve = tlv(0x30, &[tlv(4, &[1; 32]), tlv(4, &[2; 32])].concat());
    let mut generator = vec![4];
    generator.extend([3; 64]);
    let parameters = tlv(
        0x30,
        &[hex("020101"), field, curve, tlv(4, &generator), tlv(2, &hex(n)), hex("020101")].concat(),
    );
    let mut point = vec![0];
    point.extend(key.point());
    let algorithm = tlv(0x30, &[hex("06072a8648ce3d0201"), parameters].concat());
    let mut request = Request::new(&key);
    request.spki = tlv(0x30, &[algorithm, tlv(3, &point)].concat());
    let explicit = CsrError::UnsupportedKey("EC with explicit or implicit parameters".into());
    assert_eq!(parse(&request.sign(&key)), Err(explicit));

    let mut compressed = vec![0, 2 + (key.point()[64] & 1)];
    compressed.extend(&key.point()[1..33]);
    request.spki =
        tlv(0x30, &[hex("301306072a8648ce3d020106082a8648ce3d030107"), tlv(3, &compressed)].concat());
    let error = CsrError::UnsupportedKey("P-256 with a compressed point".into());
    assert_eq!(parse(&request.sign(&key)), Err(error));
}

#[test]
fn published_keys_pass_in_development_only() {
    let pem = String::from_utf8(vector("sgp26_varO_2020/SK_S_SM_DPauth_ECDSA_NIST.pem")).unwrap();
    // SEC 1, wrapped into PKCS#8 by hand.
    let sec1 = {
        use base64::Engine as _;
        let start = pem.find("-----BEGIN EC PRIVATE KEY-----").unwrap() + 30;
        let body: String = pem[start..].lines().take_while(|line| !line.starts_with("-----END")).collect();
        base64::engine::general_purpose::STANDARD.decode(body).unwrap()
    };
    let algorithm = hex("301306072a8648ce3d020106082a8648ce3d030107");
    let pkcs8 = tlv(0x30, &[hex("020100"), algorithm, tlv(4, &sec1)].concat());
    let der = create_csr(&pkcs8, "x", "y").unwrap();
    assert_eq!(parse(&der), Err(CsrError::KnownTestKey));
    let csr = VerifiedCsr::parse(&der, KnownKeys::Allow).unwrap();
    assert_eq!(csr.spki(), Certificate::from_der(&vector(crate::sgp26::DP_AUTH_2020)).unwrap().spki());
}

#[test]
fn the_hash_named_is_the_hash_verified() {
    let key = new_key();
    let request = Request { algorithm: hex("300a06082a8648ce3d040303"), ..Request::new(&key) };
    assert_eq!(parse(&request.sign(&key)), Err(CsrError::BadSignature));
}

#[test]
fn a_signature_algorithm_that_is_not_the_keys_is_refused() {
    let key = new_key();
    for (algorithm, name) in [
        ("300d06092a864886f70d01010b0500", "1.2.840.113549.1.1.11"),
        ("300906072a8648ce3d0401", "1.2.840.10045.4.1"),
        ("300c06082a8648ce3d0403020500", "1.2.840.10045.4.3.2"),
    ] {
        let request = Request { algorithm: hex(algorithm), ..Request::new(&key) };
        assert_eq!(
            parse(&request.sign(&key)),
            Err(CsrError::UnsupportedSignature(name.into())),
            "{algorithm}"
        );
    }
}

#[test]
fn what_a_request_repeats_or_hides_is_named() {
    let key = new_key();
    let with = |attributes: Vec<Vec<u8>>| parse(&Request { attributes, ..Request::new(&key) }.sign(&key));
    let usage = extension("551d0f", true, &hex("03020780"));
    with(vec![extension_request(std::slice::from_ref(&usage))]).unwrap();
    assert_eq!(
        with(vec![extension_request(&[usage.clone(), usage.clone()])]),
        Err(CsrError::DuplicateExtension("2.5.29.15".into()))
    );
    let one = extension_request(std::slice::from_ref(&usage));
    assert_eq!(
        with(vec![one.clone(), one]),
        Err(CsrError::DuplicateAttribute("1.2.840.113549.1.9.14".into()))
    );
    let two_values = {
        let list = tlv(0x30, &usage);
        tlv(0x30, &[tlv(6, &hex("2a864886f70d01090e")), tlv(0x31, &[list.clone(), list].concat())].concat())
    };
    assert_eq!(with(vec![two_values]), Err(CsrError::DuplicateAttribute("1.2.840.113549.1.9.14".into())));
    let unknown = extension("2a0304", true, &hex("0500"));
    assert_eq!(
        with(vec![extension_request(&[unknown])]),
        Err(CsrError::UnknownCriticalExtension("1.2.3.4".into()))
    );
    // Asked for without force, it is simply not granted.
    with(vec![extension_request(&[extension("2a0304", false, &hex("0500"))])]).unwrap();
    let names = tlv(0x30, &tlv(0x82, b"a.example").repeat(33));
    assert_eq!(
        with(vec![extension_request(&[extension("551d11", false, &names)])]),
        Err(CsrError::TooManyNames)
    );
}

#[test]
fn a_subject_that_would_deceive_its_reader_is_refused() {
    let key = new_key();
    let with = |subject: Vec<u8>| parse(&Request { subject, ..Request::new(&key) }.sign(&key));
    for value in [&b"good.example\0.evil.example"[..], b"a\x1b[2Jb", &[b'x'; 129], b"\x07"] {
        assert_eq!(with(tlv(0x30, &attribute("550403", 0x0c, value))), Err(CsrError::SubjectText));
    }
    assert_eq!(with(tlv(0x30, &attribute("550403", 0x1e, &[0, b'a', 0xd8, 0]))), Err(CsrError::SubjectText));
    // Several organisational units are legal; the first is shown.
    let units = [attribute("55040b", 0x0c, b"first"), attribute("55040b", 0x0c, b"second")].concat();
    assert_eq!(with(tlv(0x30, &units)).unwrap().subject().organizational_unit.as_deref(), Some("first"));
    assert_eq!(with(tlv(0x30, &[])).unwrap().subject().common_name, None);
}

#[test]
fn oversized_truncated_and_non_canonical_requests_are_refused() {
    assert_eq!(parse(&vec![0x30; 1 << 20]), Err(CsrError::TooLarge));
    assert_eq!(parse(&vec![b'-'; 16_385]), Err(CsrError::TooLarge));
    assert!(matches!(parse(b""), Err(CsrError::Malformed(_))));
    assert!(matches!(
        parse(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        Err(CsrError::Malformed(_))
    ));
    let key = new_key();
    let good = Request::new(&key).sign(&key);
    for length in [1, 10, good.len() / 2, good.len() - 1] {
        assert!(matches!(parse(&good[..length]), Err(CsrError::Malformed(_))), "{length}");
    }
    let mut trailing = good.clone();
    trailing.push(0);
    assert!(matches!(parse(&trailing), Err(CsrError::Malformed(_))));
    // The outer length in one octet more than it needs.
    let body = content(&good);
    let mut long = vec![0x30, 0x83, 0, (body.len() >> 8) as u8, body.len() as u8];
    long.extend_from_slice(body);
    assert!(matches!(parse(&long), Err(CsrError::Malformed(_))));
    // No attributes field at all.
    let information = tlv(0x30, &inside(&inside(&good)[0])[..3].concat());
    let parts = inside(&good);
    let bare = tlv(0x30, &[&information[..], &parts[1], &parts[2]].concat());
    assert!(matches!(parse(&bare), Err(CsrError::Malformed(_))));
}

proptest::proptest! {
    #[test]
    fn a_damaged_request_never_verifies_and_never_upsets_the_parser(at in 0usize..400, flip in 1u8..) {
        let pkcs8 = generate_p256().unwrap();
        let mut der = create_csr(&pkcs8, "dp.example.com", "Operator").unwrap();
        let at = at % der.len();
        der[at] ^= flip;
        proptest::prop_assert!(parse(&der).is_err());
    }

    #[test]
    fn random_bytes_never_upset_the_parser(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        proptest::prop_assert!(parse(&bytes).is_err());
    }
}

/// The CertReqMessages of a CMP request that OpenSSL made (tests/vectors/crmf).
fn crmf_of_openssl() -> Vec<u8> {
    vector("crmf/openssl_cmp_cr.der")
}

#[test]
fn a_request_message_of_openssl_proves_possession_of_its_key() {
    let verified = parse(&crmf_of_openssl()).unwrap();
    assert_eq!(verified.subject().common_name.as_deref(), Some("dp"));
    assert_eq!(verified.subject().organization.as_deref(), Some("RSP Test"));
    let key = "3059301306072a8648ce3d020106082a8648ce3d030107034200049c4ddc0da2a2fc7984ebca67d849ad57add0de4182\
               46928272118952dd29e23f5753ff3a1cabe0f118945f5a226daa7e6fbda95e58510c0286aa6dce065e3524";
    assert_eq!(verified.spki(), hex(key));
}

#[test]
fn a_request_message_with_any_bit_changed_is_refused() {
    let good = crmf_of_openssl();
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            assert!(parse(&bad).is_err(), "bit {bit} of octet {at}");
        }
    }
}

#[test]
fn possession_is_proved_by_a_signature_over_the_request_itself_and_by_nothing_else() {
    let key = PrivateKey::from_pkcs8(&generate_p256().unwrap()).unwrap();
    let public = key.spki();
    let name = tlv(0xa5, &tlv(0x30, &attribute("550403", 0x0c, b"dp")));
    let message = |template: &[u8], proof: &dyn Fn(&[u8]) -> Vec<u8>| {
        let request = tlv(0x30, &[tlv(2, &[0]), tlv(0x30, template)].concat());
        let proof = proof(&request);
        tlv(0x30, &tlv(0x30, &[request, proof].concat()))
    };
    let algorithm = hex("300a06082a8648ce3d040302");
    let signed = |request: &[u8]| {
        let signature = [vec![0], key.sign(request).unwrap()].concat();
        tlv(0xa1, &[algorithm.clone(), tlv(3, &signature)].concat())
    };
    let template = [name.clone(), tlv(0xa6, content(&public))].concat();
    assert_eq!(parse(&message(&template, &signed)).unwrap().spki(), public);

    let with_input = |request: &[u8]| {
        let signature = [vec![0], key.sign(request).unwrap()].concat();
        tlv(0xa1, &[tlv(0xa0, &[]), algorithm.clone(), tlv(3, &signature)].concat())
    };
    // raVerified, none, and a signature over something else (poposkInput).
    for proof in [
        message(&template, &|_| tlv(0x80, &[])),
        message(&template, &|_| Vec::new()),
        message(&template, &with_input),
    ] {
        assert_eq!(parse(&proof), Err(CsrError::ProofOfPossession));
    }
    // No subject; key before subject; two messages.
    for template in [tlv(0xa6, content(&public)), [tlv(0xa6, content(&public)), name].concat()] {
        assert!(matches!(parse(&message(&template, &signed)), Err(CsrError::Malformed(_))));
    }
    let one = message(&template, &signed);
    let two = tlv(0x30, &[content(&one), content(&one)].concat());
    assert!(matches!(parse(&two), Err(CsrError::Malformed(_))));
}

#[test]
fn a_request_for_a_key_of_a_token_asks_for_what_the_profile_says_of_the_subject() {
    let key = new_key();
    let spki = key.spki();
    let wishes = pki::csr::Wishes {
        subject: SubjectValues {
            country: Some("ES".into()),
            organization: Some("Maker".into()),
            common_name: Some("Maker EUM".into()),
            ..SubjectValues::default()
        },
        registered_id: Some("2.999.5".into()),
        permitted: vec![("Maker".into(), "89049032".into())],
    };
    let unsigned = pki::csr::UnsignedRequest::new(CertificateRole::Eum.profile(), &spki, &wishes).unwrap();
    let signature = key.sign_plain(unsigned.bytes()).unwrap();
    let request = unsigned.clone().assemble(&signature).unwrap();
    assert_eq!(parse(&request).unwrap().subject().organization.as_deref(), Some("Maker"));
    // keyUsage, certificatePolicies, subjectAltName, basicConstraints, nameConstraints; no identifier, no distribution point.
    for (oid, is_asked) in
        [("55 1d 0f", true), ("55 1d 20", true), ("55 1d 11", true), ("55 1d 13", true), ("55 1d 1e", true)]
            .into_iter()
            .chain([("55 1d 0e", false), ("55 1d 23", false), ("55 1d 1f", false)])
    {
        let oid = hex(&oid.replace(' ', ""));
        let found = request.windows(5).any(|part| part[..2] == [6, 3] && part[2..] == oid[..]);
        assert_eq!(found, is_asked, "{oid:02x?}");
    }

    // Another key's signature is none, and a profile's subject needs all its attributes.
    assert_eq!(
        unsigned.clone().assemble(&new_key().sign_plain(unsigned.bytes()).unwrap()),
        Err(CsrError::BadSignature)
    );
    let nameless = pki::csr::Wishes { subject: SubjectValues::default(), ..wishes };
    assert!(pki::csr::UnsignedRequest::new(CertificateRole::Eum.profile(), &spki, &nameless).is_err());
}
