//! Keys on P-384 are made, checked at each start, and sign digests of their own length, judged by openssl.

use std::fs;
use std::path::Path;
use std::process::Command;

use domain::Curve;
use hsm::{Digest, ErrorClass, KeyCheck, KeyRole, Signature};

use crate::support::{Fixture, soon};

const MESSAGE: &[u8] = b"a message of the test";

/// Runs openssl in `folder`.
fn openssl(folder: &Path, arguments: &str) -> Vec<u8> {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// r || s as the DER that openssl reads.
fn ecdsa_der(signature: &Signature) -> Vec<u8> {
    let integer = |half: &[u8]| {
        let number = &half[half.iter().take(half.len() - 1).take_while(|byte| **byte == 0).count()..];
        let sign: &[u8] = if number[0] >= 0x80 { &[0] } else { &[] };
        [&[2, (sign.len() + number.len()) as u8], sign, number].concat()
    };
    let (r, s) = signature.halves();
    let both = [integer(r), integer(s)].concat();
    [&[0x30, both.len() as u8], &both[..]].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_and_a_responder_on_p_384_sign_what_openssl_verifies_and_no_other_digests() {
    let fixture = Fixture::new("ca");
    let roles = [
        KeyRole::CertificateIssuer(Curve::P384),
        KeyRole::OcspResponder(Curve::P384),
        KeyRole::CertificateIssuer(Curve::P256),
    ];
    let keys = fixture.create_all(&roles);
    let token = fixture.start(&keys).await.unwrap();
    let report = token.report();
    assert!(report.probes.iter().any(|probe| probe.name == "ECDSA P-384" && probe.passed));
    let folder = fixture.dir.path();
    fs::write(folder.join("message"), MESSAGE).unwrap();
    for key in &keys[..2] {
        let KeyCheck::PublicKey(spki) = &key.check else { panic!("a key pair") };
        assert_eq!(spki.len(), 120);
        fs::write(folder.join("key.der"), spki).unwrap();
        openssl(folder, "pkey -pubin -inform DER -in key.der -out key.pem");
        // More than one frame holds.
        let digests = [Digest::of(Curve::P384, MESSAGE); 40];
        let signatures = token.sign(&key.key, &digests, soon()).await.unwrap();
        assert_eq!(signatures.len(), digests.len());
        for signature in &signatures {
            fs::write(folder.join("signature"), ecdsa_der(signature)).unwrap();
            openssl(folder, "dgst -sha384 -verify key.pem -signature signature message");
        }
    }
    for (key, other) in [(&keys[0], Curve::P256), (&keys[2], Curve::P384)] {
        let error = token.sign(&key.key, &[Digest::of(other, MESSAGE)], soon()).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Caller, "{error}");
    }
    token.shutdown().await;

    // Another key of the same curve in the record is noticed at the start, and so is one of another curve.
    for wrong in [&keys[1], &keys[2]] {
        let mut recorded = keys.clone();
        recorded[0].check = wrong.check.clone();
        assert_eq!(fixture.start(&recorded).await.err().unwrap().class, ErrorClass::Policy);
    }
    fixture.start(&keys).await.unwrap().shutdown().await;
}
