//! Keys from outside: by components, wrapped under the transport-import key, and made with components to be restored.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded};
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, OaepPublicEncryptingKey,
    PrivateDecryptingKey, PublicEncryptingKey,
};
use hsm::ceremony::{Ceremony, Component, CreatedKey, Custodian, ImportedKey, KnownValues, component_info};
use hsm::{ErrorClass, HsmError, KeyCheck, KeyRole, MasterAlgorithm, OaepHash};
use keys::seal::{Sealed, open};
use keys::{SecretKey, key_check_value};
use zeroize::Zeroizing;

use crate::support::{Fixture, soon};

const IMPORTED_256: KeyRole = KeyRole::ImportedMaster(MasterAlgorithm::Aes256);

/// Test custodians: private scalars 1, 2 and 3, whose public keys are published multiples of the base point.
pub fn custodians() -> Vec<Custodian> {
    ["alice", "bob", "carol"]
        .map(|name| Custodian { name: name.to_owned(), public_key: key_pair(name).1 })
        .to_vec()
}

fn key_pair(name: &str) -> ([u8; 32], [u8; 65]) {
    use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
    let mut scalar = [0; 32];
    scalar[31] = name.len().try_into().unwrap();
    let private = PrivateKey::from_private_key(&ECDH_P256, &scalar).unwrap();
    (scalar, private.compute_public_key().unwrap().as_ref().try_into().unwrap())
}

fn kcv(value: &[u8]) -> [u8; 3] {
    key_check_value(&SecretKey::from_slice(value).unwrap()).0
}

fn component(custodian: &str, value: &[u8]) -> Component {
    Component::new(custodian, Zeroizing::new(value.to_vec()), kcv(value))
}

fn wanted(role: KeyRole, expected: [u8; 3]) -> ImportedKey<'static> {
    ImportedKey { role, name: "fleet", epoch: 1, expected, known: KnownValues::Refuse }
}

fn import(
    ceremony: &mut Ceremony,
    key: ImportedKey<'_>,
    components: &[(&str, &[u8])],
) -> Result<CreatedKey, HsmError> {
    ceremony.import_components(&key, components.iter().map(|(who, value)| component(who, value)).collect())
}

#[tokio::test]
async fn a_master_of_two_components_is_the_key_they_sum_to_and_a_worker_takes_it() {
    let fixture = Fixture::new("kms");
    let mut ceremony = fixture.ceremony();
    let (first, second) = ([0x5a; 32], *b"the second custodian's component");
    let value: Vec<u8> = first.iter().zip(second).map(|(a, b)| a ^ b).collect();
    let components: [(&str, &[u8]); 2] = [("alice", &first), ("bob", &second)];
    let wrong = import(&mut ceremony, wanted(IMPORTED_256, [1, 2, 3]), &components).unwrap_err();
    assert!(wrong.detail.contains("check value"), "{wrong}");
    let one = import(&mut ceremony, wanted(IMPORTED_256, kcv(&first)), &components[..1]).unwrap_err();
    assert!(one.detail.contains("2 to 70 components"), "{one}");
    assert_eq!(ceremony.list().unwrap(), [], "nothing stays of a key that was refused");
    let made = import(&mut ceremony, wanted(IMPORTED_256, kcv(&value)), &components).unwrap();
    assert_eq!(
        (made.key_check_value, made.check.clone()),
        (Some(kcv(&value)), KeyCheck::CheckValue(kcv(&value)))
    );
    drop(ceremony);
    let token = fixture.start(&[made.registered()]).await.unwrap();
    let says = token.report().leaves_the_token.join("\n");
    assert!(says.contains("imported; its value has been outside"), "{says}");
    token.shutdown().await;
}

#[test]
fn a_mistyped_component_names_its_custodian_and_a_published_key_is_refused() {
    let fixture = Fixture::new("kms");
    let mut ceremony = fixture.ceremony();
    let good = *b"a component of a master's sixtee";
    let typed =
        vec![component("alice", &good), Component::new("bob", Zeroizing::new(vec![7; 32]), [0, 0, 0])];
    let error = ceremony.import_components(&wanted(IMPORTED_256, [0; 3]), typed).unwrap_err();
    assert!(error.detail.contains("component of bob"), "{error}");
    let default: [u8; 16] = *b"@ABCDEFGHIJKLMNO";
    let mask = *b"0123456789abcdef";
    let other: Vec<u8> = default.iter().zip(mask).map(|(a, b)| a ^ b).collect();
    let role = KeyRole::ImportedMaster(MasterAlgorithm::Aes128);
    let parts: [(&str, &[u8]); 2] = [("alice", &mask), ("bob", &other)];
    let error = import(&mut ceremony, wanted(role, kcv(&default)), &parts).unwrap_err();
    assert_eq!(error.class, ErrorClass::Policy);
    let known = ImportedKey { known: KnownValues::Allow, ..wanted(role, kcv(&default)) };
    import(&mut ceremony, known, &parts).unwrap();
}

#[test]
fn a_triple_des_master_has_the_check_value_over_zeros() {
    let fixture = Fixture::new("kms");
    let mut ceremony = fixture.ceremony();
    // SP 800-67 keys with odd parity; check value computed with other software.
    let (first, second) = ([0u8; 16], hex16("0123456789abcdef23456789abcdef01"));
    let zero = [0x8c, 0xa6, 0x4d];
    let role = KeyRole::ImportedMaster(MasterAlgorithm::TripleDes2Key);
    let parts = |check| {
        vec![
            Component::new("alice", Zeroizing::new(first.to_vec()), zero),
            Component::new("bob", Zeroizing::new(second.to_vec()), check),
        ]
    };
    let check = TRIPLE_DES_CHECK;
    let made = ceremony.import_components(&wanted(role, check), parts(check)).unwrap();
    assert_eq!(made.check, KeyCheck::CheckValue(check));
}

/// OpenSSL: `openssl enc -des-ede -nopad -K 0123456789abcdef23456789abcdef01` of eight bytes of 00.
const TRIPLE_DES_CHECK: [u8; 3] = [0x86, 0xe9, 0x65];

fn hex16(text: &str) -> [u8; 16] {
    hex::decode(text).unwrap().try_into().unwrap()
}

#[tokio::test]
async fn a_transport_key_wrapped_to_the_import_key_wraps_for_its_party_and_a_wrong_check_value_leaves_nothing()
 {
    let fixture = Fixture::new("kms");
    let import_key = fixture.create(KeyRole::TransportImport);
    let KeyCheck::PublicKey(spki) = &import_key.check else { panic!("no key pair") };
    let token = fixture.start(&[import_key.registered()]).await.unwrap();
    let hash = token.report().oaep_hash.unwrap();
    token.shutdown().await;
    let value = *b"the AES-256 key a party has made";
    let public = OaepPublicEncryptingKey::new(PublicEncryptingKey::from_der(spki).unwrap()).unwrap();
    let algorithm = match hash {
        OaepHash::Sha1 => &OAEP_SHA1_MGF1SHA1,
        OaepHash::Sha256 => &OAEP_SHA256_MGF1SHA256,
    };
    let mut wrapped = vec![0; public.ciphertext_size()];
    public.encrypt(algorithm, &value, &mut wrapped, None).unwrap();
    let mut ceremony = fixture.ceremony();
    let wrong = wanted(KeyRole::PartyTransport, [9, 9, 9]);
    assert!(ceremony.import_wrapped(&wrong, &import_key.key, &wrapped).is_err());
    assert_eq!(ceremony.list().unwrap().len(), 1);
    let right = wanted(KeyRole::PartyTransport, kcv(&value));
    let made = ceremony.import_wrapped(&right, &import_key.key, &wrapped).unwrap();
    // A master comes in the same way.
    let master = ImportedKey { role: IMPORTED_256, name: "moved-in", ..right };
    let master = ceremony.import_wrapped(&master, &import_key.key, &wrapped).unwrap();
    assert_eq!(master.check, KeyCheck::CheckValue(kcv(&value)));
    drop(ceremony);
    let token =
        fixture.start(&[import_key.registered(), made.registered(), master.registered()]).await.unwrap();
    assert_eq!(token.report().verified_keys.len(), 3);
    token.shutdown().await;
}

#[tokio::test]
async fn a_keyset_is_exported_under_a_partys_key_and_opens_for_that_party_alone() {
    let fixture = Fixture::new("kms");
    let mut ceremony = fixture.ceremony();
    let transport = *b"the party's own AES-256 key here";
    let other: Vec<u8> = transport.iter().map(|byte| byte ^ 0x5a).collect();
    let parts: [(&str, &[u8]); 2] = [("alice", &[0x5a; 32]), ("bob", &other)];
    let party = import(&mut ceremony, wanted(KeyRole::PartyTransport, kcv(&transport)), &parts).unwrap();
    drop(ceremony);
    let keys = [party.registered(), fixture.create(KeyRole::Master).registered()];
    let token = fixture.start(&keys).await.unwrap();
    let keyset = domain::DeviceKeyset {
        eid: "89049032123451234512345678901235".parse().unwrap(),
        protocol: domain::Protocol::Scp03,
        security_domain: domain::SecurityDomain::IsdR,
        kvn: domain::KeyVersionNumber::scp03(0x30).unwrap(),
        algorithm: domain::KeysetAlgorithm::Aes256,
    };
    let job = |recipient| hsm::ExportJob {
        keyset: hsm::SourcedKeyset::derived(keys[1].key.clone(), keyset),
        recipient,
    };
    let under_aes = token.export(job(hsm::ExportRecipient::Aes(party.key.clone())), soon()).await.unwrap();
    let private = PrivateDecryptingKey::generate(KeySize::Rsa3072).unwrap();
    let spki = private.public_key().as_der().unwrap().as_ref().to_vec();
    let under_rsa = token.export(job(hsm::ExportRecipient::Rsa(spki)), soon()).await.unwrap();
    // A master wraps nothing.
    let wrong = hsm::ExportRecipient::Aes(keys[1].key.clone());
    assert_eq!(token.export(job(wrong), soon()).await.unwrap_err().class, ErrorClass::Caller);
    let algorithm = match under_rsa.oaep_hash.unwrap() {
        OaepHash::Sha1 => &OAEP_SHA1_MGF1SHA1,
        OaepHash::Sha256 => &OAEP_SHA256_MGF1SHA256,
    };
    let private = OaepPrivateDecryptingKey::new(private).unwrap();
    let mut buffer = vec![0; private.min_output_size()];
    let fresh =
        private.decrypt(algorithm, &under_rsa.wrapped_transport_key, &mut buffer, None).unwrap().to_vec();
    for (aes, rsa) in under_aes.keys.iter().zip(&under_rsa.keys) {
        let key = unwrap(&transport, &aes.wrapped);
        assert_eq!(key, unwrap(&fresh, &rsa.wrapped));
        assert_eq!((kcv(&key), kcv(&key)), (aes.kcv.0, rsa.kcv.0));
    }
    token.shutdown().await;
}

fn unwrap(kek: &[u8], wrapped: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; wrapped.len()];
    let kek = AesKek::new(&AES_256, kek).unwrap();
    kek.unwrap_with_padding(wrapped, &mut buffer).unwrap().to_vec()
}

#[tokio::test]
async fn a_key_made_with_components_is_restored_from_all_of_them_onto_an_empty_token() {
    let fixture = Fixture::new("kms");
    let (made, sealed) =
        fixture.ceremony().create_from_components(IMPORTED_256, "national", 2, &custodians(), 3).unwrap();
    let opened: Vec<Component> = sealed
        .iter()
        .enumerate()
        .map(|(at, part)| {
            let envelope = Sealed {
                encapsulated_key: part.encapsulated_key[..].try_into().unwrap(),
                ciphertext: part.ciphertext.clone(),
            };
            let info = component_info(&made.key.label, at + 1, 3);
            let value = open(&key_pair(&part.custodian).0, &info, &envelope).unwrap();
            Component::new(&part.custodian, value, part.check_value)
        })
        .collect();
    let scratch = Fixture::new("scratch");
    let mut ceremony = scratch.ceremony();
    let key = ImportedKey {
        role: IMPORTED_256,
        name: "national",
        epoch: 2,
        expected: made.key_check_value.unwrap(),
        known: KnownValues::Refuse,
    };
    let restored = ceremony.import_components(&key, opened).unwrap();
    assert_eq!(restored.check, made.check);
    ceremony.danger_wipe_token(&scratch.dir.path().join("so-pin")).unwrap();
    drop(ceremony);
    // Initialised again, it has no user PIN and no key.
    assert!(scratch.ceremony().list().is_err());
}
