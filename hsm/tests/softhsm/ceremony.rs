//! Tokens and keys as the ceremony makes them.

use std::process::Command;

use hsm::ceremony::{CreatedKey, FoundKey};
use hsm::{Digest, ErrorClass, HsmError, KeyCheck, KeyRole};

use crate::imports::custodians;
use crate::support::{Fixture, PIN, soon};

#[test]
fn every_role_is_made_with_exactly_its_template_and_only_its_private_object_stays_on_the_token() {
    let fixture = Fixture::new("all");
    let mut ceremony = fixture.ceremony();
    let mut labels = Vec::new();
    for role in KeyRole::ALL.into_iter().filter(|role| !role.is_adopted()) {
        let made = if role.is_imported() {
            assert_eq!(ceremony.create_key(role, "test", 3).unwrap_err().class, ErrorClass::Caller);
            ceremony.create_from_components(role, "test", 3, &custodians(), 3).unwrap().0
        } else {
            ceremony.create_key(role, "test", 3).unwrap()
        };
        assert_eq!(made.key.label, format!("chancery/{}/test/3", role.as_str()));
        let read = |name: &str| {
            made.template.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str()).unwrap_or("absent")
        };
        for (name, value) in [
            ("TOKEN", "true"),
            ("PRIVATE", "true"),
            ("SENSITIVE", "true"),
            ("EXTRACTABLE", "false"),
            ("MODIFIABLE", "false"),
            ("COPYABLE", "false"),
            ("DESTROYABLE", "false"),
            ("DECRYPT", "false"),
        ] {
            assert_eq!(read(name), value, "{role:?} {name}");
        }
        // What a token says of a key that was made inside it, it does not say of an imported one.
        assert_eq!(read("LOCAL"), (!role.is_imported()).to_string(), "{role:?}");
        for evidence in ["ALWAYS_SENSITIVE", "NEVER_EXTRACTABLE"] {
            assert_eq!(read(evidence), if role.is_imported() { "absent" } else { "true" }, "{role:?}");
        }
        let (derives, wraps, unwraps) = (
            (role.is_master() && role != KeyRole::FastMaster)
                || matches!(role, KeyRole::CanaryDerive | KeyRole::OceAgreement),
            matches!(role, KeyRole::PartyTransport | KeyRole::PartyImport | KeyRole::Kek),
            matches!(role, KeyRole::TransportImport | KeyRole::PartyImport | KeyRole::Kek),
        );
        assert_eq!(read("DERIVE"), derives.to_string(), "{role:?}");
        assert_eq!(read("WRAP") == "true", wraps, "{role:?}");
        assert_eq!(read("UNWRAP"), unwraps.to_string(), "{role:?}");
        assert_eq!(read("SIGN"), (!derives && !wraps && !unwraps).to_string(), "{role:?}");
        assert_eq!(read("UNWRAP_TEMPLATE") != "absent", unwraps);
        let is_pair = role.kind() == hsm::KeyKind::RsaUnwrap || read("SIGN_RECOVER") != "absent";
        assert_eq!(matches!(made.check, KeyCheck::PublicKey(_)), is_pair, "{role:?}");
        labels.push(made.key.label);
    }
    labels.sort();
    let listed = ceremony.list().unwrap();
    assert_eq!(listed.iter().map(|o| o.label.clone()).collect::<Vec<_>>(), labels);
    assert!(listed.iter().all(|o| o.class == "private-key" || o.class == "secret-key"));
}

#[test]
fn a_key_that_exists_is_not_made_again_and_another_epoch_is_another_key() {
    let fixture = Fixture::new("kms");
    let mut ceremony = fixture.ceremony();
    let first = ceremony.create_key(KeyRole::Master, "national", 1).unwrap();
    let error = ceremony.create_key(KeyRole::Master, "national", 1).unwrap_err();
    assert_eq!(error.class, ErrorClass::Policy);
    let second = ceremony.create_key(KeyRole::Master, "national", 2).unwrap();
    assert_ne!(first.check, second.check);
    assert_eq!(ceremony.create_key(KeyRole::Master, "Bad/Name", 1).unwrap_err().class, ErrorClass::Caller);
    assert_eq!(ceremony.list().unwrap().len(), 2);
}

#[test]
fn a_token_is_initialised_once_and_found_by_its_serial() {
    let fixture = Fixture::blank("kms");
    let so_pin = fixture.dir.path().join("so-pin");
    let mut ceremony = fixture.ceremony();
    let serial = ceremony.init_token(&so_pin).unwrap();
    assert_eq!(ceremony.token_serial().unwrap(), serial);
    assert_eq!(ceremony.init_token(&so_pin).unwrap_err().class, ErrorClass::Policy);
    drop(ceremony);

    let mut other = fixture.config.clone();
    other.token_serial = Some("0000000000000000".to_owned());
    let mut ceremony =
        hsm::ceremony::Ceremony::start(other, &crate::support::command(&["ceremony"])).unwrap();
    assert_eq!(ceremony.list().unwrap_err().class, ErrorClass::Token);
}

#[test]
fn a_pin_file_that_others_may_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = Fixture::new("kms");
    let mode = std::fs::Permissions::from_mode(0o640);
    std::fs::set_permissions(&fixture.config.pin_file, mode).unwrap();
    let error = fixture.ceremony().list().unwrap_err();
    assert_eq!(error.class, ErrorClass::Pin);
    assert!(error.detail.contains("0600"), "{error}");
}

/// A key pair of openssl's, imported by SoftHSM's own tool as another CA would have it; its SubjectPublicKeyInfo.
fn foreign_key(fixture: &Fixture, curve: &str, label: &str, id: &str) -> Vec<u8> {
    let run = |program: &str, args: &[&str]| {
        let (name, value) = fixture.environment();
        let output = Command::new(program)
            .args(args)
            .current_dir(fixture.dir.path())
            .env(name, value)
            .output()
            .unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let curve = format!("ec_paramgen_curve:{curve}");
    run("openssl", &["genpkey", "-algorithm", "EC", "-pkeyopt", &curve, "-out", "k.pem"]);
    let spki = run("openssl", &["pkey", "-in", "k.pem", "-pubout", "-outform", "DER"]);
    let token = fixture.config.token_label.as_str();
    let names = ["--import", "k.pem", "--token", token, "--label", label, "--id", id, "--pin", PIN];
    run("softhsm2-util", &names);
    spki
}

#[tokio::test]
async fn a_key_that_other_software_made_is_adopted_as_a_limited_copy_that_signs_and_starts_again() {
    let fixture = Fixture::new("adopt");
    let spki = foreign_key(&fixture, "P-256", "old ca", "0a");
    let role = KeyRole::AdoptedIssuer(domain::Curve::P256);
    let found = FoundKey { label: "old ca", id: None, public_key: &spki };
    let adopted = fixture.ceremony().adopt_key(role, "old-ca", 1, &found).unwrap();
    let read = |name: &str| adopted.template.iter().find(|(n, _)| n == name).unwrap().1.clone();
    assert_eq!(adopted.key.label, "chancery/adopted-issuer/old-ca/1");
    for (name, value) in [
        ("EXTRACTABLE", "false"),
        ("DESTROYABLE", "false"),
        ("DERIVE", "false"),
        ("SIGN_RECOVER", "false"),
        // What the token says of the key, and does not let us change.
        ("LOCAL", "false"),
        ("NEVER_EXTRACTABLE", "false"),
        ("COPYABLE", "true"),
    ] {
        assert_eq!(read(name), value, "{name}");
    }
    let longer = foreign_key(&fixture, "P-384", "old root", "0b");
    let role = KeyRole::AdoptedIssuer(domain::Curve::P384);
    let found = FoundKey { label: "old root", id: Some(&[0x0b]), public_key: &longer };
    let root = fixture.ceremony().adopt_key(role, "old-root", 1, &found).unwrap();
    let token = fixture.start(&[adopted.registered(), root.registered()]).await.unwrap();
    for (key, curve, bytes) in [(&adopted, domain::Curve::P256, 64), (&root, domain::Curve::P384, 96)] {
        let digest = Digest::of(curve, b"certificate");
        let signed = token.sign(&key.key, &[digest], soon()).await.unwrap();
        assert_eq!(signed[0].as_bytes().len(), bytes);
    }
    let report = token.report();
    assert!(report.leaves_the_token.iter().any(|line| line.contains("adopted")), "{report:?}");
    // The one that is there stays as it is, and is nobody's here.
    assert_eq!(report.unknown_objects.len(), 4, "{report:?}");
    token.shutdown().await;
}

#[test]
fn a_key_is_adopted_only_when_it_is_the_certificates_and_named_without_doubt() {
    let fixture = Fixture::new("doubt");
    let (first, second) =
        (foreign_key(&fixture, "P-256", "ca", "01"), foreign_key(&fixture, "P-256", "ca", "02"));
    let role = KeyRole::AdoptedIssuer(domain::Curve::P256);
    let adopt = |role, label, id: Option<&[u8]>, public_key: &[u8]| {
        fixture.ceremony().adopt_key(role, "old", 1, &FoundKey { label, id, public_key })
    };
    let refused = |outcome: Result<CreatedKey, HsmError>| outcome.unwrap_err().to_string();
    assert!(refused(adopt(role, "ca", None, &first)).contains("several"));
    assert!(refused(adopt(role, "cb", None, &first)).contains("holds no private key"));
    assert!(refused(adopt(role, "ca", Some(&[2]), &first)).contains("not the one that was recorded"));
    let other = KeyRole::CertificateIssuer(domain::Curve::P256);
    assert!(refused(adopt(other, "ca", Some(&[1]), &first)).contains("not adopted"));
    assert_eq!(fixture.ceremony().create_key(role, "old", 1).unwrap_err().class, ErrorClass::Caller);
    // None of these left a copy behind.
    assert!(adopt(role, "ca", Some(&[2]), &second).is_ok());
    assert_eq!(fixture.ceremony().list().unwrap().len(), 5);
    assert!(refused(adopt(role, "ca", Some(&[1]), &first)).contains("exists already"));
}
