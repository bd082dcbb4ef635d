//! The provisioner's side: session keys for cards that prove theirs, and the refusals for everything else.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::card::{CryptogramBehaviour, SimulatedCard, StatusWord};
use tests::host::{HostChannel, SessionKeys};
use tests::transport::PersonalisationData;
use tests::{Apdu, SecurityLevel};

use crate::production::{Order, SGP26_EID};
use crate::stage::{Failure, Stage};

/// Purpose of the grant over the fleet.
pub const PURPOSE: &str = "remote-management";
/// Purpose of the grant that ends while we watch.
const SHORT_PURPOSE: &str = "field-test";
/// How long it is valid, from its request on: two persons have to sign within this time.
const SHORT_GRANT: Duration = Duration::from_secs(8);
/// Key version number of the ordered keysets.
const KVN: u8 = 0x30;
/// Cards that a channel is opened to.
const SESSIONS: usize = 5;

/// What each card was personalised with, by EID.
type Cards = HashMap<String, PersonalisationData>;

/// Grants, sessions, refusals: gives the cards and what session-keys.json holds.
pub fn play(
    stage: &Stage,
    order: &Order,
    cards: Vec<PersonalisationData>,
) -> Result<(Cards, Vec<Value>), Failure> {
    let cards: Cards = cards.into_iter().map(|card| (hex::encode(card.eid), card)).collect();
    let card = |eid: &str| {
        cards
            .get(eid)
            .ok_or_else(|| Failure::new(format!("expected the keyset of {eid} in the order's output")))
    };
    let granted = order.granted.get(..SESSIONS).ok_or_else(|| Failure::new("expected more devices"))?;
    let other = order.others.first().ok_or_else(|| Failure::new("expected a device that is not granted"))?;

    let short_grant_began = Instant::now();
    let expires = format!("{}s", SHORT_GRANT.as_secs());
    let devices = ["--eid", SGP26_EID];
    create_grant(stage, "grant-short", SHORT_PURPOSE, &devices, &expires)?;
    let range = Order::granted_range();
    create_grant(stage, "grant-2026", PURPOSE, &["--ein", &range], "90d")?;

    let mut sessions = Vec::new();
    for eid in granted {
        let data = card(eid)?;
        sessions.push(open_channel(stage, eid, &mut SimulatedCard::personalised(data), data)?);
    }
    write(stage, &sessions)?;

    stage.say("a card that does not prove its keys");
    let personalised = |eid| card(eid).map(SimulatedCard::personalised);
    let mut wrong = personalised(SGP26_EID)?;
    wrong.set_cryptogram(CryptogramBehaviour::Wrong);
    refuse(stage, SGP26_EID, &mut wrong, KVN, PURPOSE, "CARD_CRYPTOGRAM_MISMATCH")?;
    stage.say("a device outside the range of the grant");
    refuse(stage, other, &mut personalised(other)?, KVN, PURPOSE, "NOT_GRANTED")?;
    stage.say("a device that nobody ordered");
    let unknown = Order::unknown_device();
    refuse(stage, &unknown, &mut personalised(SGP26_EID)?, KVN, PURPOSE, "UNKNOWN_DEVICE")?;
    let rest = SHORT_GRANT.saturating_sub(short_grant_began.elapsed());
    if !rest.is_zero() {
        std::thread::sleep(rest + Duration::from_millis(100));
    }
    stage.say("a grant that has expired");
    refuse(stage, SGP26_EID, &mut personalised(SGP26_EID)?, KVN, SHORT_PURPOSE, "GRANT_EXPIRED")?;
    Ok((cards, sessions))
}

/// Writes session-keys.json.
pub fn write(stage: &Stage, sessions: &[Value]) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(sessions).map_err(Failure::at("session-keys.json"))?;
    stage.write("session-keys.json", text + "\n")?;
    stage
        .say(format_args!("session-keys.json: {} sessions, for whoever computes them again", sessions.len()));
    Ok(())
}

fn create_grant(
    stage: &Stage,
    name: &str,
    purpose: &str,
    devices: &[&str],
    expires: &str,
) -> Result<(), Failure> {
    let grant = ["grant", "create", "--name", name, "--provisioner", "dp-one", "--purpose", purpose];
    let terms =
        ["--lawful-basis", "licence 7, clause 3", "--expires", expires, "--reason", "start of service"];
    stage.two_persons(&[&grant[..], devices, &terms].concat(), None)
}

/// One attempt at a session: what the card answered to a fresh challenge of ours.
pub struct Attempt {
    host_challenge: [u8; 8],
    card_challenge: [u8; 8],
    card_cryptogram: [u8; 8],
}

impl Attempt {
    /// INITIALIZE UPDATE under a keyset.
    pub fn begin(card: &mut SimulatedCard, kvn: u8) -> Result<Self, Failure> {
        let mut host_challenge = [0; 8];
        aws_lc_rs::rand::fill(&mut host_challenge).map_err(|_| Failure::new("no random bytes"))?;
        let answer = card
            .initialize_update(host_challenge, kvn)
            .map_err(|status| Failure::new(format!("the card refused INITIALIZE UPDATE: {status:?}")))?;
        Ok(Self {
            host_challenge,
            card_challenge: answer.card_challenge,
            card_cryptogram: answer.card_cryptogram,
        })
    }

    /// What a provisioner reports as the card's proof.
    pub fn proof(&self) -> Value {
        json!({
            "host_challenge": hex::encode(self.host_challenge),
            "card_challenge": hex::encode(self.card_challenge),
            "card_cryptogram": hex::encode(self.card_cryptogram),
        })
    }

    /// A line for `session-keys fetch-many`.
    pub fn line(&self, eid: &str) -> Value {
        let mut line = self.proof();
        line["eid"] = eid.into();
        line
    }

    /// The command that fetches the keys for it.
    fn command(&self, eid: &str, kvn: u8, purpose: &str) -> Vec<String> {
        let kvn = format!("0x{kvn:02x}");
        let [host, challenge, cryptogram] =
            [self.host_challenge, self.card_challenge, self.card_cryptogram].map(hex::encode);
        ["session-keys", "fetch", "--eid", eid, "--kvn", &kvn, "--host-challenge", &host, "--card-challenge"]
            .into_iter()
            .chain([challenge.as_str(), "--card-cryptogram", &cryptogram, "--purpose", purpose])
            .chain(["--identity", "parties/dp-one"])
            .map(str::to_owned)
            .collect()
    }
}

/// Fetches session keys for a card and uses them: the card must accept the host and a protected command.
pub fn open_channel(
    stage: &Stage,
    eid: &str,
    card: &mut SimulatedCard,
    data: &PersonalisationData,
) -> Result<Value, Failure> {
    let attempt = Attempt::begin(card, data.kvn)?;
    let command = attempt.command(eid, data.kvn, PURPOSE);
    let mut command: Vec<&str> = command.iter().map(String::as_str).collect();
    command.push("--reveal");
    let fetched = stage.chancery_json(&command)?;
    let bytes = |value: &Value| {
        value
            .as_str()
            .and_then(|text| hex::decode(text).ok())
            .ok_or_else(|| Failure::new("expected session keys and a host cryptogram in hex"))
    };
    let session = &fetched["session"];
    let (s_enc, s_mac, s_rmac) =
        (bytes(&session["s_enc"])?, bytes(&session["s_mac"])?, bytes(&session["s_rmac"])?);
    let host_cryptogram: [u8; 8] = bytes(&fetched["host_cryptogram"])?
        .try_into()
        .map_err(|_| Failure::new("expected a host cryptogram of 8 bytes"))?;

    let keys = SessionKeys { s_enc: &s_enc, s_mac: &s_mac, s_rmac: &s_rmac };
    let (mut host, authenticate) =
        HostChannel::external_authenticate(&keys, host_cryptogram, SecurityLevel::C_MAC_C_ENC);
    let refused = |what: &'static str| {
        move |status: StatusWord| {
            Failure::new(format!("expected the card to accept {what}, got {:04x}", status.0))
        }
    };
    card.external_authenticate(&authenticate).map_err(refused("the host cryptogram"))?;
    // STORE DATA with ES10c.GetEID (SGP.22 §5.7.20).
    let get_eid =
        Apdu { header: [0x80, 0xe2, 0x91, 0x00], data: vec![0xbf, 0x3e, 0x03, 0x5c, 0x01, 0x5a], le: None };
    let answer = card.process(&host.wrap(get_eid)).map_err(refused("a command with C-MAC and C-ENC"))?;
    let response = host
        .unwrap(&answer.response, answer.status.0)
        .ok_or_else(|| Failure::new("expected a response of the channel"))?;
    if !response.ends_with(&data.eid) {
        return Err(Failure::new(format!(
            "expected the card to answer its EID, got {}",
            hex::encode(response)
        )));
    }
    println!(
        "  the card accepts the host cryptogram {} and GetEID under C-MAC and C-ENC (log entry {})",
        hex::encode(host_cryptogram),
        fetched["entry_index"]
    );
    Ok(json!({
        "eid": eid,
        "kvn": data.kvn,
        "algorithm": fetched["algorithm"],
        "mode": "S8",
        "host_challenge": hex::encode(attempt.host_challenge),
        "card_challenge": hex::encode(attempt.card_challenge),
        "card_cryptogram": hex::encode(attempt.card_cryptogram),
        "host_cryptogram": hex::encode(host_cryptogram),
        "static": {
            "enc": hex::encode(&data.enc),
            "mac": hex::encode(&data.mac),
            "dek": hex::encode(&data.dek),
        },
        "session": {
            "s_enc": hex::encode(&s_enc),
            "s_mac": hex::encode(&s_mac),
            "s_rmac": hex::encode(&s_rmac),
        },
    }))
}

/// A fetch that has to be refused.
pub fn refuse(
    stage: &Stage,
    eid: &str,
    card: &mut SimulatedCard,
    kvn: u8,
    purpose: &str,
    reason: &str,
) -> Result<(), Failure> {
    let attempt = Attempt::begin(card, kvn)?;
    let command = attempt.command(eid, kvn, purpose);
    stage.refused(&command.iter().map(String::as_str).collect::<Vec<_>>(), reason)
}
