//! Tokens and keys as the ceremony makes them.

use hsm::{ErrorClass, KeyCheck, KeyRole};

use crate::imports::custodians;
use crate::support::Fixture;

#[test]
fn every_role_is_made_with_exactly_its_template_and_only_its_private_object_stays_on_the_token() {
    let fixture = Fixture::new("all");
    let mut ceremony = fixture.ceremony();
    let mut labels = Vec::new();
    for role in KeyRole::ALL {
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
