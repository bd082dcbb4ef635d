//! The simulated parties against recorded sessions of real cards and files made by other software, so that what they
//! accept later means something.

#![expect(clippy::unwrap_used, reason = "a vector file that does not read fails its test")]

use serde_json::Value;
use tests::card::{ChallengeSource, CryptogramBehaviour, SimulatedCard, StatusWord};
use tests::host::{HostChannel, SessionKeys};
use tests::transport::{PersonalisationData, TransportPrivateKey, unwrap_key};
use tests::{Apdu, PutKeyBehaviour, PutKeyDialect, SecurityLevel};

fn vector_file(name: &str) -> Vec<u8> {
    let path = format!("{}/vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).expect(&path)
}

fn vectors(name: &str) -> Value {
    serde_json::from_slice(&vector_file(name)).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

/// One recorded session: a card with its keys and its challenge, and the commands the host sent.
struct Recording {
    card: SimulatedCard,
    kvn: u8,
    host_challenge: [u8; 8],
    initialize_update_response: Vec<u8>,
    external_authenticate: Vec<u8>,
    vector: Value,
}

impl Recording {
    fn new(vector: &Value, initialize: &str, response: &str, authenticate: &str) -> Self {
        let (command, response) = (bytes(&vector[initialize]), bytes(&vector[response]));
        let mut card = SimulatedCard::new(array("89882119900000000000000000000005"));
        // P1 0 asks for any keyset: the answer names the one the card took.
        let kvn = response[10];
        card.install_keyset(kvn, &bytes(&vector["enc"]), &bytes(&vector["mac"]), &bytes(&vector["dek"]));
        card.set_i_parameter(response[12]);
        card.set_challenge(ChallengeSource::Fixed(response[13..21].try_into().unwrap()));
        Self {
            card,
            kvn,
            host_challenge: command[5..13].try_into().unwrap(),
            initialize_update_response: response,
            external_authenticate: bytes(&vector[authenticate]),
            vector: vector.clone(),
        }
    }

    fn open(&mut self) -> SecurityLevel {
        self.card.initialize_update(self.host_challenge, self.kvn).unwrap();
        self.card.external_authenticate(&self.external_authenticate).unwrap()
    }

    fn host(&self) -> (HostChannel, Vec<u8>) {
        let [s_enc, s_mac, s_rmac] = ["s_enc", "s_mac", "s_rmac"].map(|name| bytes(&self.vector[name]));
        let keys = SessionKeys { s_enc: &s_enc, s_mac: &s_mac, s_rmac: &s_rmac };
        let level = SecurityLevel(self.external_authenticate[2]);
        let host_cryptogram = bytes(&self.vector["host_cryptogram"]).try_into().unwrap();
        HostChannel::external_authenticate(&keys, host_cryptogram, level)
    }
}

fn array<const N: usize>(text: &str) -> [u8; N] {
    hex::decode(text).unwrap().try_into().unwrap()
}

fn pysim() -> Vec<Recording> {
    let file = vectors("scp03.json");
    let recordings: Vec<_> = file["pysim"]
        .as_array()
        .unwrap()
        .iter()
        .map(|vector| Recording::new(vector, "init_upd_cmd", "init_upd_rsp", "ext_auth_cmd"))
        .collect();
    assert_eq!(recordings.len(), 3);
    recordings
}

fn kaoh() -> Recording {
    Recording::new(&vectors("scp03.json")["kaoh"][0], "init_update", "init_update_resp", "ext_auth")
}

/// The recorded commands in clear, in their order.
fn commands() -> [(&'static str, Apdu); 5] {
    let apdu = |text: &str| Apdu::parse(&hex::decode(text).unwrap()).unwrap();
    [
        ("get_eid_cmd", apdu("80e2910006bf3e035c015a00")),
        ("case_1_apdu", apdu("80f22002")),
        ("case_2_apdu", apdu("80ca006600")),
        ("case_3_apdu", apdu("80f220020a4f0212345c054f9f70c5")),
        ("case_4_apdu", apdu("80f28002024f0000")),
    ]
}

#[test]
fn the_card_answers_as_the_recorded_cards_did() {
    for mut recording in pysim().into_iter().chain([kaoh()]) {
        let response = recording.card.initialize_update(recording.host_challenge, recording.kvn).unwrap();
        // A card with i = 70 appends its sequence counter; ours makes random challenges and has none.
        assert_eq!(response.bytes, recording.initialize_update_response[..29]);
        assert_eq!(response.card_cryptogram.to_vec(), bytes(&recording.vector["card_cryptogram"]));
        let level = recording.card.external_authenticate(&recording.external_authenticate).unwrap();
        assert_eq!(level.0, recording.external_authenticate[2]);
    }
}

#[test]
fn the_card_accepts_and_decrypts_what_recorded_hosts_sent() {
    for mut recording in pysim() {
        recording.open();
        for (name, clear) in commands() {
            let processed = recording.card.process(&bytes(&recording.vector[name])).unwrap();
            assert_eq!(processed.status, StatusWord::OK);
            assert_eq!(processed.command.data, clear.data, "{name}");
            if name == "get_eid_cmd" {
                assert_eq!(processed.response, bytes(&recording.vector["get_eid_rsp"]));
            }
        }
    }
}

#[test]
fn the_host_sends_what_recorded_hosts_sent_and_reads_the_answers() {
    for recording in pysim().into_iter().chain([kaoh()]) {
        let (mut host, external_authenticate) = recording.host();
        assert_eq!(external_authenticate, recording.external_authenticate);
        for (name, clear) in commands().into_iter().filter(|(name, _)| recording.vector.get(name).is_some()) {
            assert_eq!(host.wrap(clear), bytes(&recording.vector[name]), "{name}");
            if name == "get_eid_cmd" {
                let answer = host.unwrap(&bytes(&recording.vector["get_eid_rsp"]), 0x9000).unwrap();
                assert_eq!(hex::encode(answer), "bf3e125a1089882119900000000000000000000005");
            }
        }
    }
}

#[test]
fn the_card_refuses_every_changed_bit_of_external_authenticate() {
    let mut recording = kaoh();
    let good = recording.external_authenticate.clone();
    for bit in 5 * 8..good.len() * 8 {
        let mut changed = good.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        recording.card.initialize_update(recording.host_challenge, recording.kvn).unwrap();
        assert_eq!(recording.card.external_authenticate(&changed), Err(StatusWord::SECURITY_NOT_SATISFIED));
        // One attempt per challenge: the right command comes too late.
        assert_eq!(recording.card.external_authenticate(&good), Err(StatusWord::CONDITIONS_NOT_SATISFIED));
    }
}

#[test]
fn the_card_refuses_a_host_cryptogram_of_another_session_under_a_right_mac() {
    let mut recording = kaoh();
    let [s_enc, s_mac, s_rmac] = ["s_enc", "s_mac", "s_rmac"].map(|name| bytes(&recording.vector[name]));
    let keys = SessionKeys { s_enc: &s_enc, s_mac: &s_mac, s_rmac: &s_rmac };
    let (_, command) = HostChannel::external_authenticate(&keys, [0x5a; 8], SecurityLevel::C_MAC_C_ENC);
    recording.card.initialize_update(recording.host_challenge, recording.kvn).unwrap();
    assert_eq!(recording.card.external_authenticate(&command), Err(StatusWord::AUTHENTICATION_FAILED));
}

#[test]
fn a_changed_repeated_or_reordered_command_closes_the_channel() {
    for mut recording in pysim() {
        let first = bytes(&recording.vector["get_eid_cmd"]);
        let second = bytes(&recording.vector["case_1_apdu"]);
        let mut changed = first.clone();
        changed[5] ^= 1;

        recording.open();
        assert_eq!(recording.card.process(&changed), Err(StatusWord::SECURITY_NOT_SATISFIED));
        assert_eq!(
            recording.card.process(&first),
            Err(StatusWord::SECURITY_NOT_SATISFIED),
            "the channel is closed"
        );

        recording.open();
        assert_eq!(recording.card.process(&second), Err(StatusWord::SECURITY_NOT_SATISFIED));

        recording.open();
        assert!(recording.card.process(&first).is_ok());
        assert_eq!(recording.card.process(&first), Err(StatusWord::SECURITY_NOT_SATISFIED));
    }
}

#[test]
fn without_a_session_the_card_does_nothing() {
    let mut recording = kaoh();
    assert_eq!(recording.card.process(&[0x84, 0xf2, 0x20, 0x02]), Err(StatusWord::SECURITY_NOT_SATISFIED));
    assert_eq!(
        recording.card.external_authenticate(&recording.external_authenticate),
        Err(StatusWord::CONDITIONS_NOT_SATISFIED)
    );
    assert_eq!(recording.card.initialize_update([0; 8], 0x3f).err(), Some(StatusWord::KEYSET_NOT_FOUND));
}

#[test]
fn a_card_with_random_challenges_offers_no_response_protection_and_never_repeats_itself() {
    let mut recording = pysim().remove(1);
    recording.card.set_challenge(ChallengeSource::Random);
    recording.card.set_i_parameter(0x00);
    let first = recording.card.initialize_update(recording.host_challenge, recording.kvn).unwrap();
    let second = recording.card.initialize_update(recording.host_challenge, recording.kvn).unwrap();
    assert_ne!(first.card_challenge, second.card_challenge);
    assert_ne!(first.card_cryptogram, second.card_cryptogram);
    // The recording asks for level 33.
    assert_eq!(
        recording.card.external_authenticate(&recording.external_authenticate),
        Err(StatusWord::INCORRECT_PARAMETERS)
    );
}

#[test]
fn a_card_told_to_cheat_shows_another_cryptogram() {
    let mut recording = kaoh();
    let honest = recording.card.initialize_update(recording.host_challenge, recording.kvn).unwrap();
    recording.card.set_cryptogram(CryptogramBehaviour::Wrong);
    let wrong = recording.card.initialize_update(recording.host_challenge, recording.kvn).unwrap();
    assert_eq!(honest.card_challenge, wrong.card_challenge);
    assert_ne!(honest.card_cryptogram, wrong.card_cryptogram);
}

#[test]
fn an_order_made_by_other_software_is_unwrapped() {
    let key = TransportPrivateKey::from_pem(&vector_file("order/eum-transport-key.pem")).unwrap();
    let output = String::from_utf8(vector_file("order/output.jsonl")).unwrap();
    let published = vectors("chancery_derivation.json");
    let published_key = |algorithm: &str, usage: &str| {
        let of_keyset =
            published["vectors"].as_array().unwrap().iter().find(|v| {
                v["security_domain"] == "ISD-R" && v["algorithm"] == algorithm && v["usage"] == usage
            });
        bytes(&of_keyset.unwrap()["key"])
    };
    let expected: Vec<_> = ["AES-128", "AES-192", "AES-256"]
        .map(|algorithm| PersonalisationData {
            eid: array("89049032123451234512345678901235"),
            kvn: 0x30,
            enc: published_key(algorithm, "enc"),
            mac: published_key(algorithm, "mac"),
            dek: published_key(algorithm, "dek"),
        })
        .into();
    assert_eq!(key.unwrap_order(&output).unwrap(), expected);
}

#[test]
fn a_wrong_line_of_an_order_is_named_and_spoils_it() {
    let key = TransportPrivateKey::from_pem(&vector_file("order/eum-transport-key.pem")).unwrap();
    let output = String::from_utf8(vector_file("order/output.jsonl")).unwrap();
    let refused = |text: &str| key.unwrap_order(text).unwrap_err();

    let without_header: String = output.lines().skip(1).map(|line| format!("{line}\n")).collect();
    assert_eq!(refused(&without_header).to_string(), "line 1: no header before it names example/1");
    assert_eq!(
        refused(&output.replacen("\"enc\":\"291712\"", "\"enc\":\"291713\"", 1)).to_string(),
        "line 2: enc has another check value than the file says"
    );
    assert_eq!(
        refused(&output.replacen("\"AES-192\"", "\"AES-128\"", 1)).to_string(),
        "line 3: enc does not open to a key of AES-128"
    );
    assert_eq!(
        refused(&output.replacen("\"SHA-1\"", "\"SHA-256\"", 1)).to_string(),
        "line 1: the transport key does not open with this private key"
    );
    assert_eq!(refused(&output.replacen("\"kvn\":48", "\"kvn\":\"30\"", 1)).line, 2);
}

#[test]
fn key_unwrapping_agrees_with_every_wycheproof_vector_of_its_length() {
    let file = vectors("wycheproof/aes_kwp_test.json");
    let groups = file["testGroups"].as_array().unwrap();
    let mut checked = 0;
    for group in groups.iter().filter(|group| group["keySize"] == 256) {
        for test in group["tests"].as_array().unwrap() {
            checked += 1;
            let opened = unwrap_key(&bytes(&test["key"]), &bytes(&test["ct"]));
            match test["result"].as_str().unwrap() {
                "valid" => assert_eq!(opened, Some(bytes(&test["msg"])), "tcId {}", test["tcId"]),
                // Keys shorter than SP 800-38F allows, which a library may open or refuse.
                "acceptable" => {
                    assert!(opened.is_none_or(|key| key == bytes(&test["msg"])), "tcId {}", test["tcId"])
                }
                _ => assert_eq!(opened, None, "tcId {}", test["tcId"]),
            }
        }
    }
    assert!(checked > 50, "{checked}");
}

#[test]
fn cards_personalised_from_an_order_talk_to_a_host_with_the_published_session_keys() {
    let key = TransportPrivateKey::from_pem(&vector_file("order/eum-transport-key.pem")).unwrap();
    let devices = key.unwrap_order(&String::from_utf8(vector_file("order/output.jsonl")).unwrap()).unwrap();
    let published = vectors("chancery_sealed_session_keys.json");
    let sessions = published["vectors"].as_array().unwrap();
    assert_eq!(devices.len(), sessions.len());
    for (device, session) in devices.iter().zip(sessions) {
        let mut card = SimulatedCard::personalised(device);
        card.set_challenge(ChallengeSource::Fixed(bytes(&published["card_challenge"]).try_into().unwrap()));
        let host_challenge = bytes(&published["host_challenge"]).try_into().unwrap();
        let response = card.initialize_update(host_challenge, device.kvn).unwrap();
        assert_eq!(response.card_cryptogram.to_vec(), bytes(&session["card_cryptogram"]));

        let [s_enc, s_mac, s_rmac] = ["s_enc", "s_mac", "s_rmac"].map(|name| bytes(&session[name]));
        let keys = SessionKeys { s_enc: &s_enc, s_mac: &s_mac, s_rmac: &s_rmac };
        let host_cryptogram = bytes(&session["host_cryptogram"]).try_into().unwrap();
        let (mut host, command) =
            HostChannel::external_authenticate(&keys, host_cryptogram, SecurityLevel::C_MAC_C_ENC);
        assert_eq!(card.external_authenticate(&command), Ok(SecurityLevel::C_MAC_C_ENC));

        let clear =
            Apdu { header: [0x80, 0xe2, 0x91, 0x00], data: b"sixteen byte data and more".to_vec(), le: None };
        for _ in 0..3 {
            let wrapped = host.wrap(clear.clone());
            assert!(!wrapped.windows(16).any(|window| window == &clear.data[..16]), "encrypted on its way");
            assert_eq!(card.process(&wrapped).unwrap().command.data, clear.data);
        }
    }
}

/// A card of the published order with the published session under its KVN 30, but with the DEK that the PUT KEY vectors
/// are encrypted under, and the open channel to it.
fn card_with_open_channel(level: SecurityLevel) -> (SimulatedCard, HostChannel) {
    let key = TransportPrivateKey::from_pem(&vector_file("order/eum-transport-key.pem")).unwrap();
    let devices = key.unwrap_order(&String::from_utf8(vector_file("order/output.jsonl")).unwrap()).unwrap();
    let published = vectors("chancery_sealed_session_keys.json");
    let (device, session) = (&devices[0], &published["vectors"][0]);
    let dek = bytes(&vectors("put_key.json")["examples"][0]["dek"]);
    let mut card = SimulatedCard::personalised(&PersonalisationData { dek, ..device.clone() });
    card.set_challenge(ChallengeSource::Fixed(bytes(&published["card_challenge"]).try_into().unwrap()));
    card.initialize_update(bytes(&published["host_challenge"]).try_into().unwrap(), 0x30).unwrap();
    let [s_enc, s_mac, s_rmac] = ["s_enc", "s_mac", "s_rmac"].map(|name| bytes(&session[name]));
    let keys = SessionKeys { s_enc: &s_enc, s_mac: &s_mac, s_rmac: &s_rmac };
    let host_cryptogram = bytes(&session["host_cryptogram"]).try_into().unwrap();
    let (host, command) = HostChannel::external_authenticate(&keys, host_cryptogram, level);
    card.external_authenticate(&command).unwrap();
    (card, host)
}

/// One published PUT KEY.
struct PutKey {
    kvn: u8,
    keys: [Vec<u8>; 3],
    answer: Vec<u8>,
    in_a: Vec<u8>,
    in_b: Vec<u8>,
}

impl PutKey {
    /// A card that was given the same keys another way.
    fn reference_card(&self) -> SimulatedCard {
        let mut card = SimulatedCard::new([0; 16]);
        card.install_keyset(self.kvn, &self.keys[0], &self.keys[1], &self.keys[2]);
        card
    }
}

/// An AES-128 and an AES-256 keyset.
fn put_keys() -> Vec<PutKey> {
    let examples = vectors("put_key.json")["examples"].as_array().unwrap().clone();
    assert_eq!(examples.len(), 2);
    let put_key = |example: &Value| {
        let in_a = bytes(&example["put_key_style_A"]);
        let kvn = in_a[5];
        let kcvs = [0, 1, 2].map(|at| bytes(&example["kcv"][at])).concat();
        PutKey {
            kvn,
            keys: [0, 1, 2].map(|at| bytes(&example["keys"][at])),
            answer: [&[kvn], &kcvs[..]].concat(),
            in_a,
            in_b: bytes(&example["put_key_style_B"]),
        }
    };
    examples.iter().map(put_key).collect()
}

#[test]
fn the_card_loads_the_keys_of_published_put_keys_in_either_dialect_and_proves_them() {
    for published in put_keys() {
        let (kvn, in_a, in_b) = (published.kvn, &published.in_a, &published.in_b);
        for (dialect, apdu, other) in [(PutKeyDialect::A, in_a, in_b), (PutKeyDialect::B, in_b, in_a)] {
            let (mut card, mut host) = card_with_open_channel(SecurityLevel::C_MAC_C_ENC);
            card.set_put_key_dialect(dialect);
            assert_eq!(host.send(&mut card, other), Err(StatusWord::INCORRECT_DATA), "{dialect:?}");
            assert_eq!(host.send(&mut card, apdu).unwrap(), published.answer);
            assert_eq!((card.kvns(), card.put_keys_executed()), (vec![0x30, kvn], 1));

            let mut reference = published.reference_card();
            reference.set_challenge(ChallengeSource::Fixed([7; 8]));
            card.set_challenge(ChallengeSource::Fixed([7; 8]));
            assert_eq!(card.initialize_update([9; 8], kvn), reference.initialize_update([9; 8], kvn));
        }
    }
}

#[test]
fn put_key_needs_an_encrypted_channel_and_right_check_values_and_a_free_version() {
    let PutKey { answer, in_a: apdu, .. } = put_keys().remove(0);
    let (mut card, mut host) = card_with_open_channel(SecurityLevel::C_MAC);
    assert_eq!(host.send(&mut card, &apdu), Err(StatusWord::SECURITY_NOT_SATISFIED));
    assert_eq!(card.process(&apdu), Err(StatusWord::CLASS_NOT_SUPPORTED), "in clear");
    assert_eq!(card.process(&apdu), Err(StatusWord::SECURITY_NOT_SATISFIED), "without a channel");

    let (mut card, mut host) = card_with_open_channel(SecurityLevel::C_MAC_C_ENC);
    let changed = |at: usize, value: u8| {
        let mut changed = apdu.clone();
        changed[at] = value;
        changed
    };
    let last_kcv = apdu.len() - 2;
    for (refused, status) in [
        (changed(last_kcv, apdu[last_kcv] ^ 1), StatusWord::INVALID_CHECK_VALUE),
        (changed(8, apdu[8] ^ 1), StatusWord::INVALID_CHECK_VALUE),
        (changed(6, 0x80), StatusWord::ALGORITHM_NOT_SUPPORTED),
        (changed(7, 0x20), StatusWord::INCORRECT_DATA),
        (changed(5, 0x20), StatusWord::INCORRECT_DATA),
        (changed(3, 0x01), StatusWord::INCORRECT_PARAMETERS),
        (changed(2, 0x32), StatusWord::KEYSET_NOT_FOUND),
        (changed(5, 0x30), StatusWord::INCORRECT_DATA),
    ] {
        assert_eq!(host.send(&mut card, &refused), Err(status), "{}", hex::encode(&refused));
    }
    assert_eq!((card.kvns(), card.put_keys_executed()), (vec![0x30], 0));
    assert_eq!(host.send(&mut card, &apdu).unwrap(), answer);
    assert_eq!(host.send(&mut card, &apdu), Err(StatusWord::INCORRECT_DATA), "that version is there");
    assert_eq!(card.put_keys_executed(), 1);
}

#[test]
fn a_put_key_that_names_a_version_replaces_it() {
    let PutKey { answer, in_a: apdu, .. } = put_keys().remove(0);
    let (mut card, mut host) = card_with_open_channel(SecurityLevel::C_MAC_C_ENC);
    let mut replacing = apdu;
    replacing[2] = 0x30;
    assert_eq!(host.send(&mut card, &replacing).unwrap(), answer);
    assert_eq!(card.kvns(), [0x31]);
    assert_eq!(card.initialize_update([0; 8], 0x30), Err(StatusWord::KEYSET_NOT_FOUND));
    assert_eq!(card.initialize_update([0; 8], 0x00).unwrap().bytes[10], 0x31);
}

#[test]
fn a_card_told_to_misbehave_answers_a_wrong_check_value_or_echoes_the_right_ones_and_has_nothing() {
    let published = put_keys().remove(1);
    let (kvn, answer, apdu) = (published.kvn, &published.answer, &published.in_a);
    let (mut card, mut host) = card_with_open_channel(SecurityLevel::C_MAC_C_ENC);
    card.set_put_key(PutKeyBehaviour::WrongCheckValue);
    let wrong = host.send(&mut card, apdu).unwrap();
    assert!(wrong[0] == answer[0] && wrong[1..4] != answer[1..4] && wrong[4..] == answer[4..]);
    // Key-ENC takes no part in the card's proof: the check value alone tells.
    let mut reference = published.reference_card();
    for card in [&mut card, &mut reference] {
        card.set_challenge(ChallengeSource::Fixed([7; 8]));
    }
    assert_eq!(card.initialize_update([9; 8], kvn), reference.initialize_update([9; 8], kvn));

    let (mut card, mut host) = card_with_open_channel(SecurityLevel::C_MAC_C_ENC);
    card.set_put_key(PutKeyBehaviour::EchoWithoutLoading);
    assert_eq!(&host.send(&mut card, apdu).unwrap(), answer);
    assert_eq!((card.kvns(), card.put_keys_executed()), (vec![0x30], 1));
    assert_eq!(card.initialize_update([0; 8], kvn), Err(StatusWord::KEYSET_NOT_FOUND));
}
