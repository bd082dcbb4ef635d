//! What a start accepts, refuses and reports.

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, KeyType, ObjectClass};
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use domain::Curve;
use hsm::{Digest, ErrorClass, KeyCheck, KeyRef, KeyRole, OaepHash, RegisteredKey};

use crate::support::{Fixture, PIN, eventually, in_child, kill, soon};

#[tokio::test(flavor = "multi_thread")]
async fn a_start_reports_the_token_what_it_can_do_what_leaves_it_and_what_nobody_registered() {
    let fixture = Fixture::new("kms");
    let keys = fixture.create_all(&[KeyRole::Master, KeyRole::CanaryDerive, KeyRole::Pseudonym]);
    let token = fixture.start(&keys[..2]).await.unwrap();
    let report = token.report();
    assert_eq!((report.token_label.as_str(), report.model.as_str()), ("chancery-kms", "SoftHSM v2"));
    assert_eq!(report.verified_keys.len(), 2);
    assert_eq!(report.unknown_objects.len(), 1);
    assert!(report.unknown_objects[0].starts_with("secret-key chancery/pseudonym/test/1#"));
    // SoftHSM: 0x210a is RFC 5649, 0x210b is nothing; OAEP is SHA-1 only.
    assert_eq!((report.kwp_mechanism, report.oaep_hash), (Some(0x210a), Some(OaepHash::Sha1)));
    let failed: Vec<_> = report.probes.iter().filter(|p| !p.passed).map(|p| p.name.as_str()).collect();
    assert_eq!(
        failed,
        ["AES-KWP 0x210b (RFC 5649)", "RSA-OAEP SHA-256 wrap", "ECDH with X9.63-SHA256 inside"]
    );
    assert_eq!(report.leaves_the_token.len(), 5, "{:?}", report.leaves_the_token);
    assert!(report.leaves_the_token[4].contains("inside_only refuses such orders"));
    token.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_workers_with_several_threads_start_on_one_token_and_sign() {
    let mut fixture = Fixture::new("ca");
    let keys = fixture.create_all(&[KeyRole::CertificateIssuer(Curve::P256), KeyRole::CanarySign]);
    fixture.config.workers = 3;
    fixture.config.threads_per_worker = 2;
    let token = fixture.start(&keys).await.unwrap();
    assert_eq!(token.worker_pids().len(), 3);
    // 100 inputs make several frames; the answers keep the order, which only a verifier for each can tell.
    let digests: Vec<Digest> = (0..100u8).map(|i| Digest::sha256([i; 32])).collect();
    let signatures = token.sign(&keys[0].key, &digests, soon()).await.unwrap();
    assert_eq!(signatures.len(), 100);
    let KeyCheck::PublicKey(spki) = &keys[0].check else { panic!("an issuer is a key pair") };
    use aws_lc_rs::{digest, signature};
    let key = signature::ParsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, &spki[26..]).unwrap();
    for (input, made) in digests.iter().zip(&signatures) {
        let input = digest::Digest::import_less_safe(input.as_bytes(), &digest::SHA256).unwrap();
        key.verify_digest_sig(&input, made.as_bytes()).unwrap();
    }
    token.check().await.unwrap();
    let pids = token.worker_pids();
    token.shutdown().await;
    assert!(pids.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()));
    let error = token.sign(&keys[0].key, &digests[..1], soon()).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::ShuttingDown);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_token_signs_messages_and_makes_the_same_secrets_after_a_restart() {
    let fixture = Fixture::new("log");
    let keys =
        fixture.create_all(&[KeyRole::LogSigner, KeyRole::LogMac, KeyRole::Pseudonym, KeyRole::CanarySign]);
    let token = fixture.start(&keys).await.unwrap();
    let message = b"authority/node/2026\n1\n".to_vec();
    let signature = token.sign_message(&keys[0].key, message.clone(), soon()).await.unwrap();
    let KeyCheck::PublicKey(spki) = &keys[0].check else { panic!("a log signer is a key pair") };
    aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ED25519, &spki[12..])
        .verify(&message, &signature)
        .unwrap();
    let secret = token.service_secret(&keys[1].key, "store/mac").await.unwrap();
    let other_context = token.service_secret(&keys[1].key, "store/mac2").await.unwrap();
    let other_key = token.service_secret(&keys[2].key, "store/mac").await.unwrap();
    assert!(*secret != *other_context && *secret != *other_key && secret[..16] != secret[16..]);
    for wrong in [&keys[0].key, &keys[3].key] {
        assert_eq!(token.service_secret(wrong, "x").await.unwrap_err().class, ErrorClass::Caller);
    }
    token.shutdown().await;
    let token = fixture.start(&keys).await.unwrap();
    assert_eq!(*token.service_secret(&keys[1].key, "store/mac").await.unwrap(), *secret);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_made_by_a_ceremony_while_the_service_runs_is_added_everywhere_and_later_workers_know_it() {
    let mut fixture = Fixture::new("ca");
    fixture.config.workers = 2;
    let keys = fixture.create_all(&[KeyRole::CanarySign]);
    let token = fixture.start(&keys).await.unwrap();
    let issuer = fixture.create(KeyRole::CertificateIssuer(Curve::P256)).registered();
    let sign =
        async |token: &hsm::Token| token.sign(&issuer.key, &[Digest::sha256([9; 32]); 64], soon()).await;
    assert_eq!(sign(&token).await.unwrap_err().class, ErrorClass::Caller);
    token.add_key(issuer.clone()).await.unwrap();
    sign(&token).await.unwrap();
    let before = token.worker_pids();
    for pid in &before {
        kill(*pid);
    }
    eventually("both workers replaced", || {
        let now = token.worker_pids();
        now.len() == 2 && now.iter().all(|pid| !before.contains(pid))
    })
    .await;
    sign(&token).await.unwrap();
    // One that is not there is refused, and nothing is added.
    let mut ghost = issuer.clone();
    ghost.key.id = [0; 16];
    assert_eq!(token.add_key(ghost.clone()).await.unwrap_err().class, ErrorClass::Handle);
    let error = token.sign(&ghost.key, &[Digest::sha256([9; 32])], soon()).await;
    assert_eq!(error.unwrap_err().class, ErrorClass::Caller);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_a_flag_too_many_refuses_the_start_naming_every_deviation() {
    let fixture = Fixture::new("kms");
    in_child(&fixture, "start::child_makes_a_master_that_may_also_encrypt");
    let lax = RegisteredKey {
        key: KeyRef { label: "chancery/master/lax/1".to_owned(), id: [7; 16] },
        role: KeyRole::Master,
        check: KeyCheck::CheckValue([0; 3]),
    };
    let error = fixture.start(&[lax]).await.err().unwrap();
    assert_eq!(error.class, ErrorClass::Policy);
    assert!(error.detail.contains("chancery/master/lax/1"), "{error}");
    assert!(error.detail.contains("CKA_ENCRYPT is true on the token and must be false"), "{error}");
    assert!(
        error.detail.contains("CKA_ALLOWED_MECHANISMS is {0x108a} on the token and must be {0x1104}"),
        "{error}"
    );
    assert!(!error.detail.contains("CKA_SIGN "), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_value_or_name_is_not_the_recorded_one_refuses_the_start() {
    let fixture = Fixture::new("kms");
    let master = fixture.create(KeyRole::Master).registered();
    let other_value = RegisteredKey { check: KeyCheck::CheckValue([1, 2, 3]), ..master.clone() };
    let error = fixture.start(&[other_value]).await.err().unwrap();
    assert_eq!(error.class, ErrorClass::Policy);
    assert!(error.detail.contains("not the one that was recorded"), "{error}");
    let other_role = RegisteredKey { role: KeyRole::CanaryDerive, ..master.clone() };
    assert_eq!(fixture.start(&[other_role]).await.err().unwrap().class, ErrorClass::Policy);
    let mut missing = master;
    missing.key.label = "chancery/master/test/2".to_owned();
    let error = fixture.start(&[missing]).await.err().unwrap();
    assert_eq!(error.class, ErrorClass::Handle);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_does_not_start_refuses_the_start_and_says_which() {
    let fixture = Fixture::new("kms");
    let command = hsm::WorkerCommand { program: "/bin/false".into(), args: Vec::new() };
    let error = hsm::Token::start(fixture.config.clone(), Vec::new(), command).await.err().unwrap();
    assert_eq!(error.class, ErrorClass::Token);
    let command = hsm::WorkerCommand { program: "/nonexistent/worker".into(), args: Vec::new() };
    let error = hsm::Token::start(fixture.config.clone(), Vec::new(), command).await.err().unwrap();
    assert!(error.detail.contains("/nonexistent/worker"), "{error}");
    // Options are looked at before any of that.
    let mut none = fixture.config.clone();
    none.workers = 0;
    let error = hsm::Token::start(none, Vec::new(), crate::support::command(&[])).await.err().unwrap();
    assert_eq!(error.class, ErrorClass::Policy);
}

/// Not a test: what [`in_child`] runs, alone in a process.
#[test]
#[ignore = "run by another test in a process of its own"]
fn child_makes_a_master_that_may_also_encrypt() {
    let label = std::env::var("CHANCERY_TEST_TOKEN").unwrap();
    let pkcs11 = Pkcs11::new(hsm::softhsm::module().unwrap()).unwrap();
    pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    let slot = pkcs11
        .get_slots_with_token()
        .unwrap()
        .into_iter()
        .find(|slot| pkcs11.get_token_info(*slot).unwrap().label() == label)
        .unwrap();
    let session = pkcs11.open_rw_session(slot).unwrap();
    session.login(UserType::User, Some(&AuthPin::from(PIN.to_owned()))).unwrap();
    let another_mechanism = Attribute::AllowedMechanisms(vec![MechanismType::AES_CMAC]);
    session
        .generate_key(
            &Mechanism::AesKeyGen,
            &[
                Attribute::Class(ObjectClass::SECRET_KEY),
                Attribute::KeyType(KeyType::AES),
                Attribute::Label(b"chancery/master/lax/1".to_vec()),
                Attribute::Id(vec![7; 16]),
                Attribute::ValueLen(32.into()),
                Attribute::Token(true),
                Attribute::Private(true),
                Attribute::Sensitive(true),
                Attribute::Extractable(false),
                Attribute::Modifiable(false),
                Attribute::Copyable(false),
                Attribute::Destroyable(false),
                Attribute::Sign(false),
                Attribute::Derive(true),
                Attribute::Decrypt(false),
                Attribute::Unwrap(false),
                Attribute::Verify(false),
                Attribute::Wrap(false),
                Attribute::WrapWithTrusted(false),
                Attribute::Encrypt(true),
                another_mechanism,
            ],
        )
        .unwrap();
}
