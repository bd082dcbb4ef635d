//! The fleet: its keys move to AES-256 while the daemon is killed at half, and a stolen device is frozen.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::card::SimulatedCard;
use tests::host::{HostChannel, SessionKeys};
use tests::transport::PersonalisationData;
use tests::{PutKeyBehaviour, SecurityLevel, keyset_of};

use crate::authority;
use crate::production::Order;
use crate::sessions::{self, Attempt, PURPOSE};
use crate::stage::{Daemon, Failure, Stage};

const ROTATION: &str = "to-aes-256";
const OLD_KVN: u8 = 0x30;
const NEW_KVN: u8 = 0x31;
/// How long the old keysets are served after the new ones were proved.
const OVERLAP: Duration = Duration::from_secs(5);
/// Scripts of one fetch.
const BATCH: usize = 200;
/// Looks at a rotation that has nothing to give out.
const PATIENCE: Duration = Duration::from_secs(30);
/// Exit code of a report in which a card failed.
const SOME_FAILED: i32 = 3;
/// Devices of put-key.json.
const PUT_KEYS_SHOWN: usize = 3;

/// The cards of the provisioner's fleet, and what each was personalised with.
pub struct Fleet {
    cards: HashMap<String, (SimulatedCard, PersonalisationData)>,
    /// Loads a key with a flipped bit.
    faulty: String,
    /// Answers PUT KEY with what it was sent and keeps nothing.
    echoing: String,
    /// The keysets that the honest cards got.
    rotated: HashMap<String, PersonalisationData>,
    put_keys: Vec<Value>,
    at_half: Option<Instant>,
}

impl Fleet {
    /// The cards in the field: those of the granted devices, two of which will misbehave.
    pub fn new(order: &Order, cards: &HashMap<String, PersonalisationData>) -> Result<Self, Failure> {
        let [.., faulty, echoing] = &order.granted[..] else {
            return Err(Failure::new("expected more devices"));
        };
        let mut fleet = HashMap::new();
        for eid in &order.granted {
            let data = cards.get(eid).ok_or_else(|| Failure::new(format!("expected a keyset of {eid}")))?;
            let mut card = SimulatedCard::personalised(data);
            if eid == faulty {
                card.set_put_key(PutKeyBehaviour::WrongCheckValue);
            } else if eid == echoing {
                card.set_put_key(PutKeyBehaviour::EchoWithoutLoading);
            }
            fleet.insert(eid.clone(), (card, data.clone()));
        }
        Ok(Self {
            cards: fleet,
            faulty: faulty.clone(),
            echoing: echoing.clone(),
            rotated: HashMap::new(),
            put_keys: Vec::new(),
            at_half: None,
        })
    }

    /// Plans, approves and carries out the rotation; the daemon is killed when half of the cards have their scripts.
    pub fn rotate(
        &mut self,
        stage: &Stage,
        mut daemon: Daemon,
        sessions: &mut Vec<Value>,
    ) -> Result<Daemon, Failure> {
        let range = Order::granted_range();
        let overlap = format!("{}s", OVERLAP.as_secs());
        let request = ["rotation", "request", "--name", ROTATION, "--provisioner", "dp-one", "--ein", &range];
        let keys = ["--from-kvn", "0x30", "--to-kvn", "0x31", "--to-algorithm", "AES-256"];
        let care = ["--stages", "10,50,100", "--overlap", &overlap, "--halt-failures", "20"];
        let reason = ["--reason", "AES-128 ends with 2026"];
        stage.two_persons(&[&request[..], &keys, &care, &reason].concat(), None)?;
        let officer = ["--identity", "people/olivia"];
        self.wait_until(stage, "running")?;
        stage.chancery(&[&["rotation", "pause", ROTATION][..], &officer].concat())?;
        let fetch = ["rotation", "fetch-scripts", ROTATION, "--limit", "1", "--out", "state/none.jsonl"];
        stage.refused(&[&fetch[..], &["--identity", "parties/dp-one"]].concat(), "ROTATION_NOT_RUNNING")?;
        stage.chancery(&[&["rotation", "resume", ROTATION][..], &officer].concat())?;

        let watch = ["rotation", "watch", ROTATION, "--interval-ms", "100", "--identity", "people/olivia"];
        let mut watching = stage.start("chancery", &watch)?;
        let began = Instant::now();
        let mut loaded = 0;
        for number in 0.. {
            let scripts = self.fetch_scripts(stage, number)?;
            if scripts.is_empty() {
                break;
            }
            let results = self.load(stage, number, &scripts)?;
            loaded += scripts.len();
            if self.at_half.is_none() && loaded * 2 >= self.cards.len() {
                // The cards have their keys, and the authority has not heard of it.
                daemon.kill()?;
                daemon = authority::serve_again(stage)?;
                self.at_half = Some(Instant::now());
            }
            self.report(stage, number, &results)?;
        }
        let took = began.elapsed();
        let ended = watching.wait().map_err(Failure::at("chancery rotation watch"))?;
        if !ended.success() {
            return Err(Failure::new(format!(
                "expected the watch to see the rotation completed, got {ended}"
            )));
        }
        self.check(stage, took)?;
        self.sessions_after(stage, sessions)?;
        Ok(daemon)
    }

    /// The scripts of the next devices; none when the rotation is completed.
    fn fetch_scripts(&self, stage: &Stage, number: usize) -> Result<Vec<Value>, Failure> {
        let (file, limit) = (format!("rotation/scripts-{number}.jsonl"), BATCH.to_string());
        let fetch = ["rotation", "fetch-scripts", ROTATION, "--limit", &limit, "--out", &file];
        stage.write(
            "rotation/README",
            "Scripts, challenges, answers and reports of the rotation, by batch.\n",
        )?;
        let fetch = [&fetch[..], &["--identity", "parties/dp-one"]].concat();
        let began = Instant::now();
        loop {
            if stage.quiet_json(&fetch, &[0])?["scripts"] != 0 {
                return lines(&stage.read(&file)?);
            }
            // The next stage begins when the last card of this one was reported.
            let status = self.status(stage)?;
            if status["state"] == "completed" {
                return Ok(Vec::new());
            }
            if began.elapsed() > PATIENCE {
                return Err(Failure::new(format!("expected the rotation to go on, it is {status}")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Opens a channel to each card under the old keyset, sends PUT KEY, and asks for a cryptogram under the new one.
    fn load(&mut self, stage: &Stage, number: usize, scripts: &[Value]) -> Result<String, Failure> {
        let mut challenges = String::new();
        let mut attempts = Vec::new();
        for script in scripts {
            let eid = text(script, "eid")?;
            let (card, _) = self.card(eid)?;
            let attempt = Attempt::begin(card, OLD_KVN)?;
            // Writing to a string cannot fail.
            let _ = writeln!(challenges, "{}", attempt.line(eid));
            attempts.push(attempt);
        }
        let [asked, keys] = ["challenges", "keys"].map(|name| format!("rotation/{name}-{number}.jsonl"));
        stage.write(&asked, challenges)?;
        let fetch = ["session-keys", "fetch-many", "--file", &asked, "--out", &keys, "--kvn", "0x30"];
        let purpose = ["--purpose", PURPOSE, "--identity", "parties/dp-one"];
        stage.quiet_json(&[&fetch[..], &purpose].concat(), &[0])?;
        let keys = lines(&stage.read(&keys)?)?;

        let mut results = String::new();
        for (script, keys) in scripts.iter().zip(&keys) {
            let eid = text(script, "eid")?;
            let put_key = bytes(script, "put_key")?;
            let (card, data) = self.card(eid)?;
            let data = data.clone();
            let answer = put_key_over_channel(card, keys, &put_key)?;
            let result = match Attempt::begin(card, NEW_KVN) {
                Ok(attempt) => json!({
                    "eid": eid, "put_key_response": hex::encode(answer), "proof": attempt.proof(),
                }),
                // What a host sees of a card that kept nothing: referenced data not found.
                Err(_) => {
                    json!({ "eid": eid, "put_key_response": hex::encode(answer), "status_word": "6a88" })
                }
            };
            let _ = writeln!(results, "{result}");
            if eid != self.faulty && eid != self.echoing {
                let new = keyset_of(&data, &put_key)
                    .ok_or_else(|| Failure::new("expected a PUT KEY that its card can read"))?;
                if self.put_keys.len() < PUT_KEYS_SHOWN {
                    self.put_keys.push(json!({
                        "eid": eid, "old_kvn": OLD_KVN, "new_kvn": NEW_KVN, "dek": hex::encode(&data.dek),
                        "new": {
                            "enc": hex::encode(&new.enc), "mac": hex::encode(&new.mac), "dek": hex::encode(&new.dek),
                        },
                        "apdu": hex::encode(&put_key),
                    }));
                }
                self.rotated.insert(eid.to_owned(), new);
            }
        }
        Ok(results)
    }

    fn report(&self, stage: &Stage, number: usize, results: &str) -> Result<(), Failure> {
        let [file, out] = ["results", "report"].map(|name| format!("rotation/{name}-{number}.jsonl"));
        stage.write(&file, results)?;
        let report = ["rotation", "report", ROTATION, "--file", &file, "--out", &out];
        stage
            .quiet_json(&[&report[..], &["--identity", "parties/dp-one"]].concat(), &[0, SOME_FAILED])
            .map(drop)
    }

    /// What stands at the end: counts, one PUT KEY for each card, the two that failed on their old keysets.
    fn check(&mut self, stage: &Stage, took: Duration) -> Result<(), Failure> {
        let status = self.status(stage)?;
        let devices = self.cards.len() as u64;
        if status["confirmed"] != devices - 2 || status["failed"] != 2 {
            return Err(Failure::new(format!(
                "expected {} confirmed and 2 failed, got {status}",
                devices - 2
            )));
        }
        if let Some((eid, (card, _))) = self.cards.iter().find(|(_, (card, _))| card.put_keys_executed() != 1)
        {
            return Err(Failure::new(format!(
                "expected one PUT KEY on {eid}, the card counted {}",
                card.put_keys_executed()
            )));
        }
        stage.say(format_args!(
            "{devices} cards got one PUT KEY each in {:.1} s, the daemon's death included: {} proved AES-256 under 0x31",
            took.as_secs_f64(),
            devices - 2
        ));
        stage.say("one card reported a wrong check value and one echoed without loading: both stay on 0x30");
        stage.chancery(&["rotation", "show", ROTATION, "--identity", "people/olivia"])?;
        let text = serde_json::to_string_pretty(&self.put_keys).map_err(Failure::at("put-key.json"))?;
        stage.write("put-key.json", text + "\n")
    }

    /// Sessions under the new keyset, and the end of the old one.
    fn sessions_after(&mut self, stage: &Stage, sessions: &mut Vec<Value>) -> Result<(), Failure> {
        let mut rotated: Vec<_> = self.rotated.clone().into_iter().collect();
        rotated.sort_by(|a, b| a.0.cmp(&b.0));
        let (eid, new) =
            rotated.first().cloned().ok_or_else(|| Failure::new("expected a card that was rotated"))?;
        let (card, _) = self.card(&eid)?;
        sessions.push(sessions::open_channel(stage, &eid, card, &new)?);
        // The last proof was reported before this; its overlap ends last.
        std::thread::sleep(OVERLAP + Duration::from_millis(200));
        let (card, _) = self.card(&eid)?;
        stage.say("the old keyset, after the overlap");
        sessions::refuse(stage, &eid, card, OLD_KVN, PURPOSE, "KEYSET_NOT_ACTIVE")?;
        let faulty = self.faulty.clone();
        let (card, data) = self.card(&faulty)?;
        let data = data.clone();
        stage.say("a card that failed goes on with its old keyset");
        sessions.push(sessions::open_channel(stage, &faulty, card, &data)?);
        sessions::write(stage, sessions)
    }

    /// A device is stolen: one person freezes it, two give it back.
    pub fn steal(&mut self, stage: &Stage, order: &Order) -> Result<(), Failure> {
        let eid = order.granted.get(1).ok_or_else(|| Failure::new("expected more devices"))?;
        let freeze = ["device", "freeze", eid, "--reason", "stolen", "--reference", "police report 4711/26"];
        stage.chancery(&[&freeze[..], &["--yes", "--identity", "people/olivia"]].concat())?;
        let new = self.rotated.get(eid).cloned().ok_or_else(|| Failure::new("expected a rotated card"))?;
        let (card, _) = self.card(eid)?;
        stage.say("the next fetch for it");
        sessions::refuse(stage, eid, card, NEW_KVN, PURPOSE, "DEVICE_NOT_ACTIVE")?;
        stage.chancery(&["device", "show", eid, "--identity", "people/olivia"])?;
        stage.two_persons(&["device", "restore", eid, "--reason", "found, report 4711/26 closed"], None)?;
        let (card, _) = self.card(eid)?;
        sessions::open_channel(stage, eid, card, &new).map(drop)
    }

    fn wait_until(&self, stage: &Stage, state: &str) -> Result<(), Failure> {
        let began = Instant::now();
        while self.status(stage)?["state"] != state {
            if began.elapsed() > PATIENCE {
                return Err(Failure::new(format!("expected the rotation to be {state}")));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn status(&self, stage: &Stage) -> Result<Value, Failure> {
        stage.quiet_json(&["rotation", "show", ROTATION, "--identity", "people/olivia"], &[0])
    }

    fn card(&mut self, eid: &str) -> Result<&mut (SimulatedCard, PersonalisationData), Failure> {
        self.cards.get_mut(eid).ok_or_else(|| Failure::new(format!("expected no script for {eid}")))
    }
}

/// Opens the channel with session keys of a line of `session-keys fetch-many` and sends PUT KEY: the card's answer.
fn put_key_over_channel(card: &mut SimulatedCard, keys: &Value, put_key: &[u8]) -> Result<Vec<u8>, Failure> {
    let session = &keys["session"];
    let (s_enc, s_mac, s_rmac) =
        (bytes(session, "s_enc")?, bytes(session, "s_mac")?, bytes(session, "s_rmac")?);
    let cryptogram: [u8; 8] = bytes(keys, "host_cryptogram")?
        .try_into()
        .map_err(|_| Failure::new("expected a host cryptogram of 8 bytes"))?;
    let session = SessionKeys { s_enc: &s_enc, s_mac: &s_mac, s_rmac: &s_rmac };
    let (mut host, authenticate) =
        HostChannel::external_authenticate(&session, cryptogram, SecurityLevel::C_MAC_C_ENC);
    let refused = |what: &'static str| {
        move |status: tests::card::StatusWord| {
            Failure::new(format!("expected the card to accept {what}, got {:04x}", status.0))
        }
    };
    card.external_authenticate(&authenticate).map_err(refused("the host cryptogram"))?;
    host.send(card, put_key).map_err(refused("PUT KEY"))
}

fn lines(text: &str) -> Result<Vec<Value>, Failure> {
    text.lines().map(|line| serde_json::from_str(line).map_err(Failure::at("a line is no JSON"))).collect()
}

fn text<'v>(value: &'v Value, name: &str) -> Result<&'v str, Failure> {
    value[name].as_str().ok_or_else(|| Failure::new(format!("expected {name} in {value}")))
}

fn bytes(value: &Value, name: &str) -> Result<Vec<u8>, Failure> {
    hex::decode(text(value, name)?).map_err(Failure::at(format!("{name} is no hex")))
}
