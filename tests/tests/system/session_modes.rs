//! What a session can be beyond mode S8 with a random challenge: S16, pseudo-random challenges, response protection, sessions
//! prepared without a card, keys in the TLS channel alone; and that no pair of challenges opens two.

use audit::Outcome;
use keys::scp03::SessionKeys as Keys;
use proto::v1::operation::Kind;
use proto::v1::{CreateGrant, FetchSessionKeysRequest, FetchSessionKeysResponse, KeyDelivery};
use tests::card::{ChallengeSource, SimulatedCard};
use tests::host::{HostChannel, SessionKeys};
use tests::{Apdu, SecurityLevel};
use tonic::Status;

use crate::caller::reason;
use crate::devices::{Device, KVN, eid};
use crate::fleet::{Provisioner, TwoPersons, keyset, new_key};
use crate::support::{Deployment, GRANTED, PURPOSE};

const ISD_R: [u8; 16] = [0xa0, 0, 0, 0x05, 0x59, 0x10, 0x10, 0xff, 0xff, 0xff, 0xff, 0x89, 0, 0, 0x01, 0];
/// The purpose of the grant that allows more.
const SCRIPTS: &str = "night-scripts";

/// GetEID inside STORE DATA, as the card's application answers it.
fn get_eid() -> Apdu {
    Apdu { header: [0x80, 0xe2, 0x91, 0x00], data: vec![0xbf, 0x3e, 0x03, 0x5c, 0x01, 0x5a], le: Some(0) }
}

fn card(device: &Device, i: u8, counter: u32) -> SimulatedCard {
    let mut card = device.card().chip;
    card.set_i_parameter(i);
    if i & 0x10 != 0 {
        card.set_challenge(ChallengeSource::Sequence { counter, aid: ISD_R });
    }
    card
}

/// A request for the session that the card opens now.
fn request(
    device: &Device,
    card: &mut SimulatedCard,
    i: u8,
    level: u8,
    purpose: &str,
) -> FetchSessionKeysRequest {
    let mut host_challenge = vec![0; if i & 1 == 0 { 8 } else { 16 }];
    aws_lc_rs::rand::fill(&mut host_challenge).unwrap();
    let answer = card.begin(&host_challenge, KVN).unwrap();
    let counter = if i & 0x10 == 0 { Vec::new() } else { answer.bytes[answer.bytes.len() - 3..].to_vec() };
    FetchSessionKeysRequest {
        idempotency_key: new_key(),
        eid: device.eid.clone(),
        keyset: Some(keyset(KVN)),
        host_challenge,
        card_challenge: answer.card_challenge,
        card_cryptogram: answer.card_cryptogram,
        purpose: purpose.to_owned(),
        i_parameter: Some(i.into()),
        security_level: level.into(),
        sequence_counter: counter,
        ..FetchSessionKeysRequest::default()
    }
}

/// Opens the card with what the service answered and asks it for its EID.
fn use_keys(card: &mut SimulatedCard, device: &Device, plain: &[u8], host_cryptogram: &[u8], level: u8) {
    let keys = Keys::decode(plain).unwrap();
    let keys =
        SessionKeys { s_enc: keys.s_enc.expose(), s_mac: keys.s_mac.expose(), s_rmac: keys.s_rmac.expose() };
    let (mut channel, command) = HostChannel::authenticate(&keys, host_cryptogram, SecurityLevel(level));
    card.external_authenticate(&command).expect("the card accepts the host cryptogram");
    let answer = channel.send(card, &get_eid().to_bytes()).unwrap();
    assert_eq!(hex::encode(&answer[5..]), device.eid);
}

async fn fetch(
    provisioner: &Provisioner,
    request: &FetchSessionKeysRequest,
) -> Result<FetchSessionKeysResponse, Status> {
    provisioner.sessions().fetch_session_keys(request.clone()).await.map(tonic::Response::into_inner)
}

async fn refused(provisioner: &Provisioner, request: &FetchSessionKeysRequest) -> String {
    match fetch(provisioner, request).await {
        Ok(_) => panic!("released: {request:?}"),
        Err(status) => reason(&status),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_what_the_card_and_the_grant_make_it() {
    let mut deployment = Deployment::found();
    let eids: Vec<String> = (1..=3).map(|number| eid(GRANTED, number)).collect();
    let devices = deployment.order("modes", &eids);
    let provisioner = Provisioner::of(&deployment).await;

    // Every mode and level, opened by the provisioner's own software and used on the card.
    for (at, (i, level)) in
        [(0x00, 0x03), (0x01, 0x03), (0x60, 0x33), (0x70, 0x33), (0x71, 0x33), (0x31, 0x13)]
            .into_iter()
            .enumerate()
    {
        let device = &devices[at % 2];
        let mut chip = card(device, i, 10 + u32::try_from(at).unwrap());
        let request = request(device, &mut chip, i, level, PURPOSE);
        let answer = fetch(&provisioner, &request).await.unwrap();
        assert_eq!((answer.i_parameter, answer.security_level), (i.into(), level.into()));
        let plain = provisioner.unseal(&request, &answer);
        use_keys(&mut chip, device, &plain, &answer.host_cryptogram, level);
        // The pair has opened its session: nobody gets its keys again, but a repeat does.
        let again = FetchSessionKeysRequest { idempotency_key: new_key(), ..request.clone() };
        assert_eq!(refused(&provisioner, &again).await, "CHALLENGE_REUSED");
        let repeat = fetch(&provisioner, &request).await.unwrap();
        assert_eq!(provisioner.unseal(&request, &repeat), plain);
    }

    // A level that the card does not offer; a challenge that does not follow from its counter; a counter that goes back.
    let device = &devices[0];
    let mut chip = card(device, 0x70, 20);
    let good = request(device, &mut chip, 0x70, 0x33, PURPOSE);
    let level = FetchSessionKeysRequest { i_parameter: Some(0x10), ..good.clone() };
    assert_eq!(refused(&provisioner, &level).await, "INVALID_FIELD");
    let counter = FetchSessionKeysRequest {
        sequence_counter: vec![0, 0, 21],
        idempotency_key: new_key(),
        ..good.clone()
    };
    assert_eq!(refused(&provisioner, &counter).await, "CARD_CHALLENGE_MISMATCH");
    let aid = FetchSessionKeysRequest { aid: vec![0xa0; 7], idempotency_key: new_key(), ..good.clone() };
    assert_eq!(refused(&provisioner, &aid).await, "CARD_CHALLENGE_MISMATCH");
    fetch(&provisioner, &good).await.unwrap();
    let mut old = card(device, 0x70, 19);
    let back = request(device, &mut old, 0x70, 0x33, PURPOSE);
    assert_eq!(refused(&provisioner, &back).await, "SEQUENCE_COUNTER_REUSED");

    // Prepared for a card that is not there: only under a grant that says so.
    let prepare = |counter: u8, purpose: &str| FetchSessionKeysRequest {
        idempotency_key: new_key(),
        eid: device.eid.clone(),
        keyset: Some(keyset(KVN)),
        host_challenge: vec![counter; 8],
        purpose: purpose.to_owned(),
        i_parameter: Some(0x70),
        security_level: 0x33,
        sequence_counter: vec![0, 0, counter],
        prepared: true,
        ..FetchSessionKeysRequest::default()
    };
    assert_eq!(refused(&provisioner, &prepare(21, PURPOSE)).await, "GRANT_TOO_NARROW");
    let persons = TwoPersons::of(&deployment).await;
    #[expect(clippy::disallowed_methods, reason = "the daemon under test has the real clock too")]
    let expires = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
    let grant = CreateGrant {
        name: "scripts".to_owned(),
        provisioner: "provisioner".to_owned(),
        eins: vec![GRANTED.to_owned()],
        purpose: SCRIPTS.to_owned(),
        lawful_basis: "licence".to_owned(),
        expires: Some(expires.into()),
        without_device_proof: true,
        tls_delivery: true,
        ..CreateGrant::default()
    };
    persons.carry_out(Kind::CreateGrant(grant)).await.unwrap();
    let prepared = prepare(21, SCRIPTS);
    let answer = fetch(&provisioner, &prepared).await.unwrap();
    let with_card =
        FetchSessionKeysRequest { card_challenge: answer.card_challenge.clone(), ..prepared.clone() };
    let plain = provisioner.unseal(&with_card, &answer);
    let metrics = deployment.metrics();
    assert!(metrics.contains("\nchancery_releases_without_proof_total 1\n"), "{metrics}");
    let entries = deployment.entries();
    let entry = &entries[usize::try_from(answer.entry_index).unwrap()];
    assert_eq!(entry.header.outcome, Outcome::Done);
    let fact = |name: &str| entry.facts.get(name).cloned();
    assert_eq!(fact("without_device_proof"), Some(audit::Fact::Number(1)));
    assert_eq!(fact("sequence_counter"), Some(audit::Fact::Number(21)));
    assert_eq!(fact("security_level"), Some(audit::Fact::Number(0x33)));
    // Counters are used once; not far ahead; and the card that comes does what was prepared.
    assert_eq!(refused(&provisioner, &prepare(21, SCRIPTS)).await, "SEQUENCE_COUNTER_REUSED");
    let ahead = FetchSessionKeysRequest { sequence_counter: vec![0, 9, 0], ..prepare(22, SCRIPTS) };
    assert_eq!(refused(&provisioner, &ahead).await, "SEQUENCE_COUNTER_REUSED");
    let mut chip = card(device, 0x70, 21);
    let shown = chip.begin(&prepared.host_challenge, KVN).unwrap();
    assert_eq!(
        (&shown.card_challenge, &shown.card_cryptogram),
        (&answer.card_challenge, &answer.card_cryptogram)
    );
    use_keys(&mut chip, device, &plain, &answer.host_cryptogram, 0x33);
    // Whoever saw the card's answer cannot have the prepared keys too.
    let overheard = FetchSessionKeysRequest {
        idempotency_key: new_key(),
        card_challenge: shown.card_challenge,
        card_cryptogram: shown.card_cryptogram,
        prepared: false,
        ..prepared.clone()
    };
    assert_eq!(refused(&provisioner, &overheard).await, "CHALLENGE_REUSED");

    // Unsealed keys: the grant alone is not enough; with the configuration it is.
    let mut chip = card(device, 0x01, 0);
    let in_channel = |purpose: &str, chip: &mut SimulatedCard| FetchSessionKeysRequest {
        delivery: KeyDelivery::TlsChannel.into(),
        ..request(device, chip, 0x01, 0x03, purpose)
    };
    assert_eq!(refused(&provisioner, &in_channel(PURPOSE, &mut chip)).await, "GRANT_TOO_NARROW");
    assert_eq!(refused(&provisioner, &in_channel(SCRIPTS, &mut chip)).await, "POLICY_VIOLATION");
    let path = deployment.path("chanceryd.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    let allowed = config.replace("session_keys_in_tls_channel = false", "session_keys_in_tls_channel = true");
    assert_ne!(config, allowed);
    std::fs::write(&path, allowed).unwrap();
    deployment.restart();
    let provisioner = Provisioner::of(&deployment).await;
    let request = in_channel(SCRIPTS, &mut chip);
    let answer = fetch(&provisioner, &request).await.unwrap();
    assert!(answer.encapsulated_key.is_empty() && answer.ciphertext.is_empty());
    use_keys(&mut chip, device, &answer.unsealed_keys, &answer.host_cryptogram, 0x03);
    // What was used before the restart is used after it.
    assert_eq!(refused(&provisioner, &prepare(21, SCRIPTS)).await, "SEQUENCE_COUNTER_REUSED");
    let again = FetchSessionKeysRequest { idempotency_key: new_key(), ..request };
    assert_eq!(refused(&provisioner, &again).await, "CHALLENGE_REUSED");
}
