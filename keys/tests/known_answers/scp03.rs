use domain::KeysetAlgorithm;
use keys::apdu::Apdu;
use keys::scp03::{
    CardChallenge, ChallengeOrigin, Challenges, Channel, Cryptogram, DerivationConstant, HostChallenge,
    InitializeUpdateAnswer, Mode, SecurityLevel, UnverifiedSessionKeys, derivation_data, session_keys,
};
use keys::{KeyError, SecretKey, SoftwareKey, key_check_value};
use serde_json::Value;

use crate::{array, bytes, key, list, vectors};

/// One trace of a real card, whatever its file calls the fields.
struct Trace {
    enc: SecretKey,
    mac: SecretKey,
    challenges: Challenges,
    card_cryptogram: Cryptogram,
    vector: Value,
}

impl Trace {
    fn keys(&self) -> UnverifiedSessionKeys {
        let algorithm = self.enc.algorithm();
        let Ok(keys) = session_keys(
            &SoftwareKey::new(&self.enc),
            &SoftwareKey::new(&self.mac),
            algorithm,
            &self.challenges,
        );
        keys
    }
}

fn traces() -> Vec<Trace> {
    let file = vectors("scp03.json");
    let trace = |vector: &Value, command: &str, response: &str| {
        let (command, response) = (bytes(&vector[command]), bytes(&vector[response]));
        Trace {
            enc: key(&vector["enc"]),
            mac: key(&vector["mac"]),
            challenges: Challenges {
                // INITIALIZE UPDATE: header(5) || host challenge(8) || Le
                host: HostChallenge(command[5..13].try_into().unwrap()),
                // diversification data(10) || KVN || 03 || i || card challenge(8) || card cryptogram(8) || counter(3)
                card: CardChallenge(response[13..21].try_into().unwrap()),
            },
            card_cryptogram: Cryptogram(response[21..29].try_into().unwrap()),
            vector: vector.clone(),
        }
    };
    let pysim = list(&file["pysim"]).iter().map(|v| trace(v, "init_upd_cmd", "init_upd_rsp"));
    let kaoh = list(&file["kaoh"]).iter().map(|v| trace(v, "init_update", "init_update_resp"));
    pysim.chain(kaoh).collect()
}

#[test]
fn the_traces_cover_every_key_length() {
    for algorithm in [KeysetAlgorithm::Aes128, KeysetAlgorithm::Aes192, KeysetAlgorithm::Aes256] {
        assert!(traces().iter().any(|trace| trace.enc.algorithm() == algorithm));
    }
}

#[test]
fn a_real_card_is_recognised_and_its_session_keys_are_derived() {
    for trace in traces() {
        let keys = trace.keys().verify(&trace.card_cryptogram).unwrap();
        let vector = &trace.vector;
        assert_eq!(keys.s_enc.expose(), bytes(&vector["s_enc"]), "{vector}");
        assert_eq!(keys.s_mac.expose(), bytes(&vector["s_mac"]), "{vector}");
        assert_eq!(keys.s_rmac.expose(), bytes(&vector["s_rmac"]), "{vector}");
        assert_eq!(keys.card_cryptogram(&trace.challenges).0, array(&vector["card_cryptogram"]));
        assert_eq!(keys.host_cryptogram(&trace.challenges).0, array(&vector["host_cryptogram"]));
    }
}

#[test]
fn a_card_cryptogram_with_any_changed_bit_releases_no_keys() {
    for trace in traces() {
        for bit in 0..64 {
            let mut presented = trace.card_cryptogram;
            presented.0[bit / 8] ^= 1 << (bit % 8);
            let refused = trace.keys().verify(&presented).err();
            assert_eq!(refused, Some(KeyError::CardCryptogramMismatch));
        }
    }
}

#[test]
fn the_derivation_data_is_two_blocks_as_in_amendment_d() {
    let challenges = Challenges { host: HostChallenge([0xaa; 8]), card: CardChallenge([0xbb; 8]) };
    assert_eq!(
        hex::encode(derivation_data(DerivationConstant::SRmac, 256, 2, &challenges)),
        "00000000000000000000000700010002aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbb"
    );
}

#[test]
fn published_keys_have_their_published_check_values() {
    let file = vectors("scp03.json");
    for vector in list(&file["kcv_aes"]) {
        assert_eq!(key_check_value(&key(&vector["key"])).to_string(), vector["kcv"].as_str().unwrap());
    }
}

#[test]
fn real_cards_make_their_challenges_from_their_sequence_counter_and_name() {
    // The traces are of an ISD-R (SGP.02 §2.2.1.3 gives its AID) and of a card's issuer security domain.
    let isd_r = hex::decode("a0000005591010ffffffff8900000100").unwrap();
    let issuer = hex::decode("a000000151000000").unwrap();
    for trace in traces() {
        let (answer, aid) = match trace.vector.get("init_upd_rsp") {
            Some(answer) => (answer, &isd_r),
            None => (&trace.vector["init_update_resp"], &issuer),
        };
        let answer = InitializeUpdateAnswer::parse(&bytes(answer)).unwrap();
        assert!(answer.i.is_pseudo_random() && answer.mode() == Mode::S8);
        assert_eq!(answer.card_challenge, trace.challenges.card.0);
        assert_eq!(answer.card_cryptogram, trace.card_cryptogram.0);
        let mut origin = ChallengeOrigin { sequence_counter: answer.sequence_counter.unwrap(), aid };
        let key_enc = SoftwareKey::new(&trace.enc);
        let Ok(challenge) = origin.card_challenge(&key_enc);
        assert_eq!(challenge, trace.challenges.card);
        origin.sequence_counter[2] ^= 1;
        let Ok(another) = origin.card_challenge::<8, _>(&key_enc);
        assert_ne!(another, trace.challenges.card);
    }
}

/// Answers computed by OpenSSL: `openssl mac -cipher AES-128-CBC -macopt hexkey:… CMAC` over the derivation data of
/// Amendment D v1.2 with challenges of 16 bytes. Nobody publishes S16 traces.
#[test]
fn mode_s16_derives_over_challenges_of_16_bytes_and_has_cryptograms_of_16() {
    let (enc, mac) = (key_of("000102030405060708090a0b0c0d0e0f"), key_of("101112131415161718191a1b1c1d1e1f"));
    let challenges =
        Challenges { host: HostChallenge(*b"host challenge 1"), card: CardChallenge(*b"card challenge 2") };
    let (enc_prf, mac_prf) = (SoftwareKey::new(&enc), SoftwareKey::new(&mac));
    let Ok(keys) = session_keys(&enc_prf, &mac_prf, KeysetAlgorithm::Aes128, &challenges);
    let card = Cryptogram(hex_array("31306591215d9f3ca1dbaff70b6738e2"));
    let keys = keys.verify(&card).unwrap();
    assert_eq!(hex::encode(keys.s_enc.expose()), "9e0ab4e908e0a9c5f9d259f6980e5d67");
    assert_eq!(hex::encode(keys.s_mac.expose()), "06a9da68926fcade1c344d0dc9455506");
    assert_eq!(hex::encode(keys.s_rmac.expose()), "c06dcfbf5ef2ff8faa8e66b910054871");
    assert_eq!(hex::encode(keys.host_cryptogram(&challenges).0), "887b9fd314065ac34cfdda90abe47c2d");
    let origin =
        ChallengeOrigin { sequence_counter: [0, 0, 7], aid: &hex::decode("a000000151000000").unwrap() };
    let Ok(challenge) = origin.card_challenge::<16, _>(&enc_prf);
    assert_eq!(hex::encode(challenge.0), "37b6911db5aba69dd67a928d3b87ab25");
}

fn key_of(hex: &str) -> SecretKey {
    SecretKey::from_slice(&hex::decode(hex).unwrap()).unwrap()
}

fn hex_array<const N: usize>(text: &str) -> [u8; N] {
    hex::decode(text).unwrap().try_into().unwrap()
}

proptest::proptest! {
    #[test]
    fn an_answer_to_initialize_update_is_read_whole_or_not_at_all(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
        if let Ok(answer) = InitializeUpdateAnswer::parse(&bytes) {
            let mut written = answer.diversification.to_vec();
            written.extend([answer.kvn, 0x03, answer.i.value()]);
            written.extend(&answer.card_challenge);
            written.extend(&answer.card_cryptogram);
            written.extend(answer.sequence_counter.into_iter().flatten());
            proptest::prop_assert_eq!(written, bytes);
        }
    }

    #[test]
    fn every_well_formed_answer_is_read(i in proptest::sample::select(vec![0x00_u8, 0x01, 0x10, 0x11, 0x20, 0x31, 0x70, 0x71]), fill: u8, counter: [u8; 3]) {
        let length = if i & 1 == 0 { 8 } else { 16 };
        let mut bytes = vec![fill; 10];
        bytes.extend([0x30, 0x03, i]);
        bytes.extend(vec![fill; 2 * length]);
        proptest::prop_assert_eq!(InitializeUpdateAnswer::parse(&bytes).is_ok(), i & 0x10 == 0);
        bytes.extend(counter);
        let answer = InitializeUpdateAnswer::parse(&bytes).unwrap();
        proptest::prop_assert_eq!(answer.sequence_counter, Some(counter));
        proptest::prop_assert_eq!(answer.card_challenge.len(), length);
    }
}

/// The commands of pySim's traces in clear, in the order in which they went out.
const PLAIN: [(&str, &str); 5] = [
    ("get_eid_cmd", "80e2910006bf3e035c015a00"),
    ("case_1_apdu", "80f22002"),
    ("case_2_apdu", "80ca006600"),
    ("case_3_apdu", "80f220020a4f0212345c054f9f70c5"),
    ("case_4_apdu", "80f28002024f0000"),
];

fn channel(trace: &Trace) -> (Channel, Apdu) {
    let keys = trace.keys().verify(&trace.card_cryptogram).unwrap();
    let level = bytes(&trace.vector["ext_auth_cmd"])[2];
    Channel::open(&keys, &trace.challenges, SecurityLevel::new(level).unwrap())
}

fn command(text: &str) -> Apdu {
    Apdu::parse(&hex::decode(text).unwrap()).unwrap()
}

#[test]
fn commands_and_answers_are_those_of_the_traced_channels_at_every_level_and_key_length() {
    let with_commands: Vec<Trace> =
        traces().into_iter().filter(|trace| trace.vector["get_eid_cmd"].is_string()).collect();
    assert_eq!(with_commands.len(), 3);
    for trace in with_commands {
        let (mut channel, external_authenticate) = channel(&trace);
        assert_eq!(external_authenticate.to_bytes(), bytes(&trace.vector["ext_auth_cmd"]));
        for (name, plain) in PLAIN {
            let wrapped = channel.wrap(&command(plain)).unwrap();
            assert_eq!(wrapped.to_bytes(), bytes(&trace.vector[name]), "{name}");
            if name == "get_eid_cmd" {
                let answer = [bytes(&trace.vector["get_eid_rsp"]), vec![0x90, 0x00]].concat();
                let answer_in_clear = channel.unwrap(&answer).unwrap();
                let eid = "bf3e125a1089882119900000000000000000000005";
                assert_eq!(hex::encode(answer_in_clear.data), eid);
                assert_eq!(answer_in_clear.is_proved, answer.len() > 23);
                // Every bit of a proved answer counts.
                for bit in 0..8 * answer.len() {
                    let mut changed = answer.clone();
                    changed[bit / 8] ^= 1 << (bit % 8);
                    let told = channel.unwrap(&changed);
                    assert!(!told.is_ok_and(|told| told.is_proved), "bit {bit}");
                }
            }
        }
    }
}

#[test]
fn a_channel_is_followed_by_the_commands_it_made_and_by_no_others() {
    for trace in traces().into_iter().filter(|trace| trace.vector["get_eid_cmd"].is_string()) {
        let (mut channel, _) = channel(&trace);
        let made: Vec<Apdu> =
            PLAIN.iter().map(|(name, _)| Apdu::parse(&bytes(&trace.vector[name])).unwrap()).collect();
        assert!(channel.follow(&made[1]).is_err(), "not at its place");
        for command in &made {
            channel.follow(command).unwrap();
        }
        assert!(channel.follow(&made[4]).is_err(), "a second time");
        assert!(channel.follow(&command("80f20000")).is_err(), "without a MAC");
    }
}

#[test]
fn a_channel_takes_no_command_that_it_cannot_carry() {
    let trace = &traces()[0];
    let (mut at_level_11, _) = channel(trace);
    let of = |bytes: usize| Apdu::new([0x80, 0xe2, 0, 0], vec![0; bytes], None);
    assert!(at_level_11.wrap(&of(247)).is_ok() && at_level_11.wrap(&of(248)).is_err());
    let keys = trace.keys().verify(&trace.card_cryptogram).unwrap();
    let (mut ciphered, _) = Channel::open(&keys, &trace.challenges, SecurityLevel::new(0x03).unwrap());
    assert!(ciphered.wrap(&of(239)).is_ok() && ciphered.wrap(&of(240)).is_err());
    for class in [0x84, 0x01, 0xc0, 0x90, 0xa0] {
        assert!(ciphered.wrap(&Apdu::new([class, 0xf2, 0, 0], Vec::new(), None)).is_err(), "{class:02x}");
    }
    assert_eq!(at_level_11.unwrap(&[]), Err(KeyError::ChannelAnswer("has no status word")));
    let error = at_level_11.unwrap(&[0x69, 0x82]).unwrap();
    assert_eq!((error.status_word, error.is_proved), ([0x69, 0x82], false));
    assert!(at_level_11.unwrap(&[0, 0x69, 0x82]).is_err() && at_level_11.unwrap(&[0x90, 0x00]).is_err());
}
