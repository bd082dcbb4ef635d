//! Rotations from the order of the old keys to the end of them: with cards that do as told, cards that do not, persons
//! who change their mind, and a daemon that is killed in between.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use audit::{Entry, EventType, Outcome};
use proto::v1::operation::Kind;
use proto::v1::{
    FailureCount, PauseRotationRequest, PlanRotationRequest, ReportResult, ResumeRotationRequest,
    RollBackRotation, RotationFailure, RotationItemState, RotationReport, RotationScript, RotationState,
    RotationStatus, StartRotation,
};
use tests::PutKeyBehaviour;
use tests::card::{CryptogramBehaviour, StatusWord};
use tokio::sync::Mutex as AsyncMutex;
use tonic::Status;

use crate::caller::reason;
use crate::devices::{KVN, eid};
use crate::fleet::{self, Card, NEW_KVN, Provisioner, TwoPersons, new_key, terms};
use crate::support::{Deployment, GRANTED};

const NAME: &str = "to-aes-256";
/// Longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(25);

fn eids(devices: usize) -> Vec<String> {
    (0..devices).map(|number| eid(GRANTED, number)).collect()
}

/// Ordered devices as cards in the field.
fn cards(deployment: &Deployment, eids: &[String]) -> BTreeMap<String, Card> {
    let devices = deployment.order("first", eids);
    devices.iter().map(|device| (device.eid.clone(), device.card())).collect()
}

/// (pending, leased, loaded, confirmed, failed)
fn counts(status: &RotationStatus) -> (u64, u64, u64, u64, u64) {
    (status.pending, status.leased, status.loaded, status.confirmed, status.failed)
}

fn is_confirmed(result: &ReportResult) -> bool {
    result.state() == RotationItemState::Confirmed && result.reason.is_empty()
}

/// Loads every script and reports all of it in one call; each must be confirmed.
async fn rotate(
    provisioner: &Provisioner,
    rotation: &str,
    cards: &mut BTreeMap<String, Card>,
    scripts: &[RotationScript],
) {
    let mut reports = Vec::new();
    for script in scripts {
        reports.push(provisioner.load(cards.get_mut(&script.eid).unwrap(), script).await.unwrap());
    }
    let results = provisioner.report(rotation, reports).await.unwrap().results;
    assert_eq!(results.len(), scripts.len());
    assert!(results.iter().all(is_confirmed), "{results:?}");
}

fn done(entries: &[Entry], event: EventType) -> impl Iterator<Item = &Entry> {
    entries.iter().filter(move |entry| entry.header.event == event && entry.header.outcome == Outcome::Done)
}

/// The log once it has so many entries of an event.
async fn log_with(deployment: &Deployment, event: EventType, wanted: usize) -> Vec<Entry> {
    let started = Instant::now();
    loop {
        let entries = deployment.entries();
        if done(&entries, event).count() >= wanted {
            return entries;
        }
        assert!(started.elapsed() < PATIENCE, "{event:?} does not happen");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_moves_to_new_keys_stage_by_stage_and_only_what_is_proved_serves() {
    const DEVICES: usize = 60;
    let overlap = Duration::from_secs(3);
    let deployment = Deployment::found();
    let eids = eids(DEVICES);
    let mut cards = cards(&deployment, &eids);
    let (persons, provisioner) = (TwoPersons::of(&deployment).await, Provisioner::of(&deployment).await);
    let mut terms = terms(NAME, &[]);
    terms.eins = vec![GRANTED.to_owned()];
    terms.stages = vec![10, 50, 100];
    terms.overlap_seconds = u32::try_from(overlap.as_secs()).unwrap();
    let plan = PlanRotationRequest { terms: Some(terms.clone()) };
    let plan = persons.rotations().plan_rotation(plan).await.unwrap().into_inner();
    assert_eq!((plan.devices, plan.excluded.len()), (DEVICES as u64, 0));
    let stages = plan.stage_devices;
    assert_eq!(stages.iter().sum::<u64>(), DEVICES as u64);
    assert!(stages.iter().all(|devices| *devices >= 2), "these devices do not test stages: {stages:?}");

    let status = persons.start(terms).await;
    assert_eq!((status.state(), status.devices), (RotationState::Running, DEVICES as u64));
    let mut given: HashSet<String> = HashSet::new();
    let mut proved_last = String::new();
    for (stage, devices) in stages.iter().enumerate() {
        let mut scripts: Vec<RotationScript> = Vec::new();
        loop {
            let more = provisioner.fetch(NAME, 7).await.unwrap();
            assert!(more.len() <= 7);
            if more.is_empty() {
                break;
            }
            scripts.extend(more);
        }
        assert_eq!(scripts.len() as u64, *devices, "stage {stage}");
        assert!(scripts.iter().all(|script| script.earlier_leases == 0));
        assert!(scripts.iter().all(|script| given.insert(script.eid.clone())), "a device had two scripts");
        let (first, rest) = scripts.split_first().unwrap();

        // The first card of each stage goes step by step.
        let card = cards.get_mut(&first.eid).unwrap();
        let mut report = provisioner.load(card, first).await.unwrap();
        let proof = report.proof.take();
        let loaded = provisioner.report(NAME, vec![report.clone()]).await.unwrap().results.remove(0);
        assert_eq!(loaded.state(), RotationItemState::Loaded, "check values are no proof");
        assert_eq!(provisioner.refused_keys(card, NEW_KVN).await, "KEYSET_NOT_ACTIVE");
        rotate(&provisioner, NAME, &mut cards, rest).await;
        let status = persons.rotation(NAME).await;
        let before: u64 = stages[..stage].iter().sum();
        let after = DEVICES as u64 - before - devices;
        assert_eq!(counts(&status), (after, 0, 1, before + devices - 1, 0));
        // One card without proof keeps the next stage waiting.
        assert_eq!(status.stage as usize, stage);
        assert!(provisioner.fetch(NAME, 7).await.unwrap().is_empty(), "stage {stage} has not ended");
        report.proof = proof;
        let proved = provisioner.report(NAME, vec![report]).await.unwrap().results.remove(0);
        assert!(is_confirmed(&proved), "{proved:?}");
        proved_last = first.eid.clone();
        // Both keysets serve during the overlap.
        let card = cards.get_mut(&first.eid).unwrap();
        provisioner.open(card, KVN).await.unwrap();
        provisioner.open(card, NEW_KVN).await.unwrap();
    }
    let overlapping = Instant::now();
    let status = persons.rotation(NAME).await;
    assert_eq!((status.state(), status.stage), (RotationState::Completed, 2));
    assert_eq!(counts(&status), (0, 0, 0, DEVICES as u64, 0));
    assert_eq!(given, eids.iter().cloned().collect::<HashSet<_>>());
    for card in cards.values_mut() {
        assert_eq!((card.chip.put_keys_executed(), card.chip.kvns()), (1, vec![KVN, NEW_KVN]));
        provisioner.open(card, NEW_KVN).await.unwrap();
    }

    tokio::time::sleep(overlap.saturating_sub(overlapping.elapsed())).await;
    for card in cards.values_mut().step_by(4) {
        assert_eq!(provisioner.refused_keys(card, KVN).await, "KEYSET_NOT_ACTIVE");
    }
    provisioner.open(cards.get_mut(&proved_last).unwrap(), NEW_KVN).await.unwrap();
    let old = persons.keyset_of(&proved_last, KVN).await.unwrap();
    let new = persons.keyset_of(&proved_last, NEW_KVN).await.unwrap();
    assert_eq!((old.state.as_str(), old.key_bits, old.effective_strength), ("deactivated", 128, 128));
    // AES-256 that came under AES-128.
    assert_eq!((new.state.as_str(), new.key_bits, new.effective_strength), ("active", 256, 128));
    assert!(new.ends.is_none());
    assert_eq!(persons.device(&proved_last).await.rotations[0].state, "confirmed");

    let entries = log_with(&deployment, EventType::KeysetDeactivated, DEVICES).await;
    let objects = |event| {
        let of: Vec<_> = done(&entries, event).filter_map(|entry| entry.header.object).collect();
        assert_eq!(of.iter().collect::<HashSet<_>>().len(), of.len(), "{event:?} twice for a device");
        of.len()
    };
    assert_eq!(objects(EventType::RotationScriptReleased), DEVICES);
    assert_eq!(objects(EventType::KeysetActivated), DEVICES);
    assert_eq!(objects(EventType::KeysetDeactivated), DEVICES);
    for event in [EventType::RotationStarted, EventType::RotationPrepared, EventType::RotationCompleted] {
        assert_eq!(done(&entries, event).count(), 1, "{event:?}");
    }
    assert!(done(&entries, EventType::RotationStarted).all(|entry| entry.digest("operation").is_some()));
}

/// Provisioners at the same time.
const LANES: usize = 3;

/// What provisioners and the one who kills the daemon share.
struct Campaign {
    deployment: AsyncMutex<Deployment>,
    cards: HashMap<String, AsyncMutex<Card>>,
    /// Devices whose confirmation was acknowledged.
    confirmed: Mutex<BTreeSet<String>>,
    /// Calls that ended without an answer.
    cut_off: AtomicU64,
}

impl Campaign {
    /// Makes a call until it is answered, each time the same; a connection of its own after each failure.
    async fn insist<A, F: Future<Output = Result<A, Status>>>(
        &self,
        provisioner: &mut Provisioner,
        call: impl Fn(Provisioner) -> F,
    ) -> A {
        let started = Instant::now();
        loop {
            match call(provisioner.clone()).await {
                Ok(answer) => return answer,
                Err(status) => {
                    assert!(started.elapsed() < PATIENCE, "never answered: {status}");
                    self.cut_off.fetch_add(1, Ordering::Relaxed);
                    // Who kills has the deployment until it serves again.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    *provisioner = Provisioner::of(&*self.deployment.lock().await).await;
                }
            }
        }
    }

    async fn carry_out(&self) {
        let mut provisioner = Provisioner::of(&*self.deployment.lock().await).await;
        loop {
            let key = new_key();
            let fetch = async |with: Provisioner| with.fetch_under(&key, NAME, 5, 0).await;
            let scripts = self.insist(&mut provisioner, fetch).await.scripts;
            if scripts.is_empty() {
                return;
            }
            let mut reports = Vec::new();
            for script in scripts {
                assert_eq!(script.earlier_leases, 0, "no lease of this rotation ends");
                let card = &self.cards[&script.eid];
                // Once the card has executed the command nothing is sent to it again.
                let load = async |with: Provisioner| with.load(&mut *card.lock().await, &script).await;
                reports.push(self.insist(&mut provisioner, load).await);
            }
            let key = new_key();
            let report = async |with: Provisioner| with.report_under(&key, NAME, reports.clone()).await;
            let results = self.insist(&mut provisioner, report).await.results;
            let mut confirmed = self.confirmed.lock().unwrap();
            for result in results {
                assert!(is_confirmed(&result), "{result:?}");
                assert!(confirmed.insert(result.eid), "a device was confirmed twice");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_killed_while_it_prepares_and_twice_under_way_gives_each_card_exactly_one_put_key() {
    // More than one commit takes in.
    const DEVICES: usize = 230;
    let mut deployment = Deployment::found();
    let eids = eids(DEVICES);
    let cards = cards(&deployment, &eids);
    let mut terms = terms(NAME, &eids);
    terms.stages = vec![20, 100];
    let persons = TwoPersons::of(&deployment).await;
    let size = deployment.log_size();
    persons.carry_out(Kind::StartRotation(StartRotation { terms: Some(terms) })).await.unwrap();
    // Request, approval, start and execution; the next entry tells of the first devices.
    while deployment.log_size() <= size + 4 {
        tokio::task::yield_now().await;
    }
    deployment.kill9();
    deployment.serve();
    let persons = TwoPersons::of(&deployment).await;
    let status = persons.until(NAME, |status| status.state() == RotationState::Running).await;
    assert_eq!(counts(&status), (DEVICES as u64, 0, 0, 0, 0));

    let campaign = Arc::new(Campaign {
        deployment: AsyncMutex::new(deployment),
        cards: cards.into_iter().map(|(eid, card)| (eid, AsyncMutex::new(card))).collect(),
        confirmed: Mutex::default(),
        cut_off: AtomicU64::new(0),
    });
    let lanes: Vec<_> = (0..LANES)
        .map(|_| {
            let campaign = Arc::clone(&campaign);
            tokio::spawn(async move { campaign.carry_out().await })
        })
        .collect();
    for kill in 1..=2 {
        let started = Instant::now();
        while campaign.confirmed.lock().unwrap().len() < kill * DEVICES / 3 {
            assert!(started.elapsed() < PATIENCE, "nothing is confirmed");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let cut_off = campaign.cut_off.load(Ordering::Relaxed);
        let mut deployment = campaign.deployment.lock().await;
        deployment.kill9();
        assert!(campaign.confirmed.lock().unwrap().len() < DEVICES, "killed too late");
        deployment.serve();
        drop(deployment);
        let started = Instant::now();
        while campaign.cut_off.load(Ordering::Relaxed) == cut_off {
            assert!(started.elapsed() < PATIENCE, "the kill met no call");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    for lane in lanes {
        lane.await.unwrap();
    }
    // A lane that found nothing to fetch may have stopped before the stage of the others ended.
    campaign.carry_out().await;

    let deployment = campaign.deployment.lock().await;
    let persons = TwoPersons::of(&deployment).await;
    let status = persons.rotation(NAME).await;
    assert_eq!(status.state(), RotationState::Completed);
    assert_eq!((counts(&status), status.devices), ((0, 0, 0, DEVICES as u64, 0), DEVICES as u64));
    let provisioner = Provisioner::of(&deployment).await;
    for (eid, card) in &campaign.cards {
        let mut card = card.lock().await;
        assert_eq!((card.chip.put_keys_executed(), card.chip.kvns()), (1, vec![KVN, NEW_KVN]), "{eid}");
        provisioner.open(&mut card, NEW_KVN).await.unwrap();
    }
    let entries = deployment.entries();
    let of = |event| done(&entries, event).filter_map(|entry| entry.header.object).collect::<Vec<_>>();
    let activated = of(EventType::KeysetActivated);
    assert_eq!((activated.len(), activated.iter().collect::<HashSet<_>>().len()), (DEVICES, DEVICES));
    // What left again because an answer was lost is said to be a repeat.
    let released = of(EventType::RotationScriptReleased);
    assert_eq!(released.iter().collect::<HashSet<_>>().len(), DEVICES);
    let taken_in: u64 = entries
        .iter()
        .filter(|entry| entry.header.event == EventType::RotationPrepared)
        .map(|entry| entry.number("count").unwrap())
        .sum();
    assert_eq!(taken_in, DEVICES as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn cards_that_cannot_prove_their_new_keys_stay_on_the_old_ones_and_are_counted() {
    let deployment = Deployment::found();
    let eids = eids(4);
    let mut cards = cards(&deployment, &eids);
    let (persons, provisioner) = (TwoPersons::of(&deployment).await, Provisioner::of(&deployment).await);
    let [wrong_value, echo, wrong_proof, honest] = [0, 1, 2, 3].map(|at: usize| eids[at].clone());
    let chip = |cards: &mut BTreeMap<String, Card>, eid: &str, behaviour| {
        cards.get_mut(eid).unwrap().chip.set_put_key(behaviour);
    };
    chip(&mut cards, &wrong_value, PutKeyBehaviour::WrongCheckValue);
    chip(&mut cards, &echo, PutKeyBehaviour::EchoWithoutLoading);

    persons.start(terms(NAME, &eids)).await;
    let scripts = provisioner.fetch(NAME, 10).await.unwrap();
    assert_eq!(scripts.len(), 4);
    let mut reports = BTreeMap::new();
    for script in &scripts {
        let card = cards.get_mut(&script.eid).unwrap();
        let report = provisioner.load(card, script).await.unwrap();
        reports.insert(script.eid.clone(), report);
    }
    let mut doubted = reports.remove(&wrong_proof).unwrap();
    doubted.proof.as_mut().unwrap().card_cryptogram[0] ^= 1;
    reports.insert(wrong_proof.clone(), doubted);
    assert!(reports[&wrong_value].proof.is_some(), "Key-ENC has no part in the proof");
    assert_eq!(reports[&echo].status_word, u32::from(StatusWord::KEYSET_NOT_FOUND.0));
    assert!(reports[&echo].proof.is_none());
    let results = provisioner.report(NAME, reports.values().cloned().collect()).await.unwrap().results;
    let expected = [
        (&wrong_value, RotationFailure::CheckValueWrong),
        (&echo, RotationFailure::CardRefused),
        (&wrong_proof, RotationFailure::ProofWrong),
    ];
    for result in &results {
        let failure = expected.iter().find(|(eid, _)| **eid == result.eid).map(|(_, failure)| *failure);
        match failure {
            Some(failure) => {
                assert_eq!((result.state(), result.failure()), (RotationItemState::Failed, failure))
            }
            None => assert!(result.eid == honest && is_confirmed(result), "{result:?}"),
        }
    }
    assert_eq!(results.len(), 4);
    let count = |reason: &str| FailureCount { reason: reason.to_owned(), devices: 1 };
    let status = persons.rotation(NAME).await;
    assert_eq!((status.state(), counts(&status)), (RotationState::Completed, (0, 0, 0, 1, 3)));
    assert_eq!(status.failures, [count("check_value_wrong"), count("proof_wrong"), count("card_refused")]);

    // Each stays where it was: its old keyset serves without an end, the new one not at all.
    for eid in [&wrong_value, &echo, &wrong_proof] {
        let card = cards.get_mut(eid).unwrap();
        provisioner.open(card, KVN).await.unwrap();
        let old = persons.keyset_of(eid, KVN).await.unwrap();
        assert_eq!((old.state.as_str(), old.ends), ("active", None), "{eid}");
        assert_eq!(persons.keyset_of(eid, NEW_KVN).await.unwrap().state, "pre-activation", "{eid}");
        assert_eq!(persons.device(eid).await.rotations[0].state, "failed");
    }
    for eid in [&wrong_value, &wrong_proof] {
        let card = cards.get_mut(eid).unwrap();
        assert_eq!(provisioner.refused_keys(card, NEW_KVN).await, "KEYSET_NOT_ACTIVE");
    }

    // A wrong check value is final: the proof says nothing about Key-ENC and Key-DEK. Neither does another answer.
    let card = cards.get_mut(&wrong_value).unwrap();
    for put_key_response in [vec![], right_answer(&persons, &wrong_value).await] {
        let report = RotationReport { put_key_response, ..card.proof_report() };
        let result = provisioner.report(NAME, vec![report]).await.unwrap().results.remove(0);
        assert_eq!(result.failure(), RotationFailure::CheckValueWrong);
    }
    assert_eq!(provisioner.refused_keys(card, NEW_KVN).await, "KEYSET_NOT_ACTIVE");
    // A card that has nothing cannot prove it, whatever cryptogram somebody makes up for it.
    let made_up = RotationReport { eid: echo.clone(), ..cards.get_mut(&honest).unwrap().proof_report() };
    let result = provisioner.report(NAME, vec![made_up]).await.unwrap().results.remove(0);
    assert_eq!(result.failure(), RotationFailure::ProofWrong);
    // A wrong cryptogram may have been noise: the right one counts.
    let card = cards.get_mut(&wrong_proof).unwrap();
    card.chip.set_cryptogram(CryptogramBehaviour::Wrong);
    let result = provisioner.report(NAME, vec![card.proof_report()]).await.unwrap().results.remove(0);
    assert_eq!(result.failure(), RotationFailure::ProofWrong);
    card.chip.set_cryptogram(CryptogramBehaviour::Honest);
    let result = provisioner.report(NAME, vec![card.proof_report()]).await.unwrap().results.remove(0);
    assert!(is_confirmed(&result), "{result:?}");
    provisioner.open(card, NEW_KVN).await.unwrap();
    let status = persons.rotation(NAME).await;
    assert_eq!(counts(&status), (0, 0, 0, 2, 2));
    assert_eq!(status.failures, [count("check_value_wrong"), count("proof_wrong")]);

    let entries = deployment.entries();
    let results: Vec<_> = done(&entries, EventType::RotationReported)
        .filter_map(|entry| entry.header.object.and(entry.name("result")))
        .collect();
    for (result, times) in
        [("check_value_wrong", 1), ("card_refused", 1), ("proof_wrong", 3), ("confirmed", 2)]
    {
        assert_eq!(results.iter().filter(|found| **found == result).count(), times, "{result}");
    }
    assert_eq!(done(&entries, EventType::KeysetActivated).count(), 2);
}

/// The answer of a card that loaded everything.
async fn right_answer(persons: &TwoPersons, eid: &str) -> Vec<u8> {
    let check_values = persons.keyset_of(eid, NEW_KVN).await.unwrap().check_values;
    [vec![NEW_KVN], check_values.concat()].concat()
}

/// What a person asks of a rotation: the reason code, or none when it was done.
async fn ask(persons: &TwoPersons, act: &str) -> Option<String> {
    let (idempotency_key, name) = (new_key(), NAME.to_owned());
    let mut client = persons.rotations();
    let refused = match act {
        "pause" => client.pause_rotation(PauseRotationRequest { idempotency_key, name }).await.err(),
        "resume" => client.resume_rotation(ResumeRotationRequest { idempotency_key, name }).await.err(),
        _ => persons.carry_out(Kind::RollBackRotation(RollBackRotation { name })).await.err(),
    };
    refused.map(|status| reason(&status))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_is_paused_resumed_halted_and_rolled_back_as_far_as_old_keys_last() {
    const NOT_RUNNING: &str = "ROTATION_NOT_RUNNING";
    let overlap = Duration::from_secs(6);
    let deployment = Deployment::found();
    let eids = eids(24);
    let mut cards = cards(&deployment, &eids);
    let (persons, provisioner) = (TwoPersons::of(&deployment).await, Provisioner::of(&deployment).await);
    let mut terms = terms(NAME, &eids);
    terms.stages = vec![50, 100];
    terms.overlap_seconds = u32::try_from(overlap.as_secs()).unwrap();
    terms.halt_failures_percent = 30;
    let plan = PlanRotationRequest { terms: Some(terms.clone()) };
    let stages = persons.rotations().plan_rotation(plan).await.unwrap().into_inner().stage_devices;
    assert!(stages[0] >= 6 && stages[1] >= 5, "these devices do not test a halt: {stages:?}");
    persons.start(terms).await;

    // Early ones: their old keysets will have ended.
    let early = provisioner.fetch(NAME, 2).await.unwrap();
    rotate(&provisioner, NAME, &mut cards, &early).await;
    let leased = provisioner.fetch(NAME, 1).await.unwrap();
    assert_eq!(ask(&persons, "resume").await.as_deref(), Some(NOT_RUNNING));
    assert_eq!(ask(&persons, "pause").await, None);
    assert_eq!(persons.rotation(NAME).await.state(), RotationState::Paused);
    assert_eq!(ask(&persons, "pause").await.as_deref(), Some(NOT_RUNNING));
    assert_eq!(reason(&provisioner.fetch(NAME, 1).await.unwrap_err()), NOT_RUNNING);
    // What was given out before is not lost.
    rotate(&provisioner, NAME, &mut cards, &leased).await;
    let confirmed_early = Instant::now();
    let early: Vec<_> = early.into_iter().chain(leased).map(|script| script.eid).collect();
    assert_eq!(ask(&persons, "resume").await, None);

    // The rest of the stage fails: more than the terms bear.
    let failing = provisioner.fetch(NAME, 50).await.unwrap();
    assert_eq!(failing.len() as u64, stages[0] - 3);
    let refusal = |script: &RotationScript| RotationReport {
        eid: script.eid.clone(),
        status_word: StatusWord::INCORRECT_DATA.0.into(),
        ..RotationReport::default()
    };
    let results = provisioner.report(NAME, failing.iter().map(refusal).collect()).await.unwrap().results;
    assert!(results.iter().all(|result| result.failure() == RotationFailure::CardRefused));
    let status = persons.rotation(NAME).await;
    assert_eq!((status.state(), status.stage), (RotationState::Halted, 0));
    assert_eq!(counts(&status), (stages[1], 0, 0, 3, stages[0] - 3));
    assert_eq!(reason(&provisioner.fetch(NAME, 1).await.unwrap_err()), NOT_RUNNING);
    assert_eq!(ask(&persons, "pause").await.as_deref(), Some(NOT_RUNNING));
    assert_eq!(ask(&persons, "resume").await, None);

    // The next stage: some are confirmed just before the roll back, one is out, the others wait.
    tokio::time::sleep(overlap.saturating_sub(confirmed_early.elapsed())).await;
    let late = provisioner.fetch(NAME, 2).await.unwrap();
    let out = provisioner.fetch(NAME, 1).await.unwrap().remove(0);
    let unreported = provisioner.load(cards.get_mut(&out.eid).unwrap(), &out).await.unwrap();
    rotate(&provisioner, NAME, &mut cards, &late).await;
    assert_eq!(ask(&persons, "roll back").await, None);
    let status = persons.until(NAME, |status| status.state() == RotationState::RolledBack).await;
    assert_eq!((status.kept, status.rolled_back), (3, 21));
    assert_eq!(counts(&status), (0, 0, 0, 0, 0));
    assert_eq!(ask(&persons, "roll back").await.as_deref(), Some(NOT_RUNNING));
    assert_eq!(ask(&persons, "resume").await.as_deref(), Some(NOT_RUNNING));
    assert_eq!(reason(&provisioner.fetch(NAME, 1).await.unwrap_err()), NOT_RUNNING);
    let too_late = provisioner.report(NAME, vec![unreported]).await.unwrap_err();
    assert_eq!(reason(&too_late), NOT_RUNNING);

    for eid in &early {
        let card = cards.get_mut(eid).unwrap();
        provisioner.open(card, NEW_KVN).await.unwrap();
        assert_eq!(provisioner.refused_keys(card, KVN).await, "KEYSET_NOT_ACTIVE");
        assert_eq!(persons.device(eid).await.rotations[0].state, "kept");
    }
    let late: Vec<_> = late.into_iter().map(|script| script.eid).collect();
    for (eid, new) in late.iter().map(|eid| (eid, "deactivated")).chain([(&out.eid, "destroyed")]) {
        let card = cards.get_mut(eid).unwrap();
        provisioner.open(card, KVN).await.unwrap();
        assert_eq!(provisioner.refused_keys(card, NEW_KVN).await, "KEYSET_NOT_ACTIVE");
        let old = persons.keyset_of(eid, KVN).await.unwrap();
        assert_eq!((old.state.as_str(), old.ends), ("active", None), "its end is taken back");
        assert_eq!(persons.keyset_of(eid, NEW_KVN).await.unwrap().state, new);
        assert_eq!(persons.device(eid).await.rotations[0].state, "rolled-back");
    }

    // A key version is used once: only who never had a script can get it in another rotation.
    let had_script: HashSet<_> =
        late.iter().chain([&out.eid]).chain(failing.iter().map(|script| &script.eid)).collect();
    let untouched: Vec<_> =
        eids.iter().filter(|eid| !had_script.contains(eid) && !early.contains(eid)).collect();
    let again = fleet::terms("again", &eids);
    let plan = PlanRotationRequest { terms: Some(again.clone()) };
    let plan = persons.rotations().plan_rotation(plan).await.unwrap().into_inner();
    let excluded: Vec<_> =
        plan.excluded.iter().map(|exclusion| (exclusion.reason.as_str(), exclusion.devices)).collect();
    assert_eq!(excluded, [("no_old_keyset", 3), ("key_version_used", had_script.len() as u64)]);
    let status = persons.start(again).await;
    assert_eq!((plan.devices, status.devices), (untouched.len() as u64, untouched.len() as u64));
    let scripts = provisioner.fetch("again", 50).await.unwrap();
    let given: HashSet<_> = scripts.iter().map(|script| &script.eid).collect();
    assert_eq!(given, untouched.iter().copied().collect());
    rotate(&provisioner, "again", &mut cards, &scripts[..1]).await;

    let entries = deployment.entries();
    for (event, times) in [
        (EventType::RotationPaused, 1),
        (EventType::RotationResumed, 2),
        (EventType::RotationHalted, 1),
        (EventType::RotationRollBackStarted, 1),
        (EventType::RotationRolledBack, 1),
        (EventType::RotationCompleted, 0),
    ] {
        assert_eq!(done(&entries, event).count(), times, "{event:?}");
    }
    let back = done(&entries, EventType::RotationRolledBack).next().unwrap();
    assert_eq!((back.number("devices"), back.number("kept")), (Some(21), Some(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_ends_gives_its_devices_out_again_and_reports_need_a_lease_of_ones_own() {
    const LEASE_SECONDS: u32 = 5;
    let deployment = Deployment::found();
    let eids = eids(4);
    let mut cards = cards(&deployment, &eids);
    let (persons, provisioner) = (TwoPersons::of(&deployment).await, Provisioner::of(&deployment).await);
    deployment.enrol_party("provisioner", "other", &[]);
    let other = Provisioner::named(&deployment, "other").await;
    persons.start(terms(NAME, &eids)).await;
    let key = new_key();
    let first = provisioner.fetch_under(&key, NAME, 3, LEASE_SECONDS).await.unwrap();
    assert_eq!(first.scripts.len(), 3);
    assert!(first.lease_ends.is_some());
    for (seconds, limit) in [(4, 1), (3_601, 1), (600, 0), (600, 201)] {
        let refused = provisioner.fetch_under(&new_key(), NAME, limit, seconds).await.unwrap_err();
        assert_eq!(reason(&refused), "INVALID_FIELD", "{limit} for {seconds} s");
    }

    // Of three, one has loaded and its report was lost, one is reported without proof, one did nothing.
    let [lost, loaded, idle] = [0, 1, 2].map(|at: usize| first.scripts[at].clone());
    let report = provisioner.load(cards.get_mut(&lost.eid).unwrap(), &lost).await.unwrap();
    assert_eq!(report.status_word, 0);
    let mut report = provisioner.load(cards.get_mut(&loaded.eid).unwrap(), &loaded).await.unwrap();
    report.proof = None;
    let result = provisioner.report(NAME, vec![report]).await.unwrap().results.remove(0);
    assert_eq!(result.state(), RotationItemState::Loaded);

    // The one that nobody leased: no answer and no work for the token, whatever it is said to prove.
    let waiting = eids.iter().find(|eid| first.scripts.iter().all(|script| script.eid != **eid)).unwrap();
    let proof = cards.get_mut(&lost.eid).unwrap().proof_report();
    let token_calls = deployment.token_calls("kms");
    for eid in [waiting, &eid(GRANTED, 77)] {
        let report = RotationReport { eid: eid.clone(), ..proof.clone() };
        let result = provisioner.report(NAME, vec![report]).await.unwrap().results.remove(0);
        assert_eq!((result.reason.as_str(), result.state()), ("NOT_LEASED", RotationItemState::Unspecified));
    }
    let twice = provisioner.report(NAME, vec![proof.clone(), proof.clone()]).await.unwrap_err();
    assert_eq!(reason(&twice), "INVALID_FIELD");
    // Another provisioner, whose rotation it is not.
    let refused = other.report(NAME, vec![proof.clone()]).await.unwrap_err();
    assert_eq!(reason(&refused), "UNKNOWN_ROTATION");
    assert_eq!(reason(&other.fetch(NAME, 1).await.unwrap_err()), "UNKNOWN_ROTATION");
    assert_eq!(deployment.token_calls("kms"), token_calls, "a refused report reached the token");
    assert_eq!(counts(&persons.rotation(NAME).await), (1, 2, 1, 0, 0));

    let status = persons.until(NAME, |status| status.leased + status.loaded == 0).await;
    assert_eq!(counts(&status), (3, 0, 0, 0, 1));
    assert_eq!(status.failures[0].reason, "proof_missing");
    // The old key is good for the old lease only.
    let late = provisioner.fetch_under(&key, NAME, 3, LEASE_SECONDS).await.unwrap();
    assert_eq!((late.scripts.len(), late.lease_ends), (0, None));
    let again = provisioner.fetch(NAME, 10).await.unwrap();
    let again: BTreeMap<_, _> = again.into_iter().map(|script| (script.eid.clone(), script)).collect();
    assert_eq!(again.len(), 3);
    for (eid, before) in [(&lost.eid, &lost), (&idle.eid, &idle)] {
        assert_eq!(again[eid].earlier_leases, 1);
        assert_eq!(again[eid].put_key, before.put_key, "the same keys, however often they are given out");
    }
    assert_eq!(again[waiting].earlier_leases, 0);

    // Asked first, the card that has the keys already proves them and is not loaded again.
    let mut reports = vec![cards.get_mut(&lost.eid).unwrap().proof_report()];
    // A proof that comes after its lease counts.
    reports.push(cards.get_mut(&loaded.eid).unwrap().proof_report());
    for eid in [&idle.eid, waiting] {
        reports.push(provisioner.load(cards.get_mut(eid).unwrap(), &again[eid]).await.unwrap());
    }
    let results = provisioner.report(NAME, reports).await.unwrap().results;
    assert!(results.iter().all(is_confirmed), "{results:?}");
    for card in cards.values_mut() {
        assert_eq!(card.chip.put_keys_executed(), 1);
        provisioner.open(card, NEW_KVN).await.unwrap();
    }
    let status = persons.rotation(NAME).await;
    assert_eq!((status.state(), counts(&status)), (RotationState::Completed, (0, 0, 0, 4, 0)));
    let entries = deployment.entries();
    let ended: Vec<_> =
        done(&entries, EventType::RotationLeaseEnded).map(|entry| entry.number("devices")).collect();
    assert_eq!(ended, [Some(2)], "two wait again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_and_a_roll_back_amid_fetches_and_reports_leave_every_device_on_one_side() {
    const DEVICES: usize = 60;
    let deployment = Deployment::found();
    let eids = eids(DEVICES);
    let cards: HashMap<_, _> =
        cards(&deployment, &eids).into_iter().map(|(eid, card)| (eid, AsyncMutex::new(card))).collect();
    let cards = Arc::new(cards);
    let persons = TwoPersons::of(&deployment).await;
    let provisioner = Provisioner::of(&deployment).await;
    persons.start(terms(NAME, &eids)).await;
    // Each lane goes on until it is told that the rotation does not run.
    let lanes = || {
        (0..LANES).map(|_| {
            let (provisioner, cards) = (provisioner.clone(), Arc::clone(&cards));
            tokio::spawn(async move {
                loop {
                    let scripts = match provisioner.fetch(NAME, 2).await {
                        Ok(scripts) => scripts,
                        Err(status) => return status,
                    };
                    let mut reports = Vec::new();
                    for script in &scripts {
                        let mut card = cards[&script.eid].lock().await;
                        reports.push(provisioner.load(&mut card, script).await.unwrap());
                    }
                    if !reports.is_empty()
                        && let Err(status) = provisioner.report(NAME, reports).await
                    {
                        return status;
                    }
                }
            })
        })
    };
    let mut ended: Vec<_> = lanes().collect();
    persons.until(NAME, |status| status.confirmed >= 10).await;
    assert_eq!(ask(&persons, "pause").await, None);
    for lane in ended.drain(..) {
        assert_eq!(reason(&lane.await.unwrap()), "ROTATION_NOT_RUNNING");
    }
    let paused = persons.rotation(NAME).await;
    assert_eq!((paused.state(), paused.leased), (RotationState::Paused, 0), "what was out is reported");
    assert!(paused.pending > 0, "paused too late");
    assert_eq!(ask(&persons, "resume").await, None);
    ended.extend(lanes());
    persons.until(NAME, |status| status.confirmed >= paused.confirmed + 10).await;
    assert_eq!(ask(&persons, "roll back").await, None);
    for lane in ended.drain(..) {
        assert_eq!(reason(&lane.await.unwrap()), "ROTATION_NOT_RUNNING");
    }
    let status = persons.until(NAME, |status| status.state() == RotationState::RolledBack).await;
    assert_eq!((status.rolled_back, status.kept, counts(&status)), (DEVICES as u64, 0, (0, 0, 0, 0, 0)));
    let mut loaded = 0;
    for (eid, card) in cards.iter() {
        let mut card = card.lock().await;
        let new = persons.keyset_of(eid, NEW_KVN).await.map(|keyset| keyset.state);
        if card.chip.kvns().contains(&NEW_KVN) {
            loaded += 1;
            let new = new.unwrap();
            assert!(new == "deactivated" || new == "destroyed", "{new}");
            assert_eq!(provisioner.refused_keys(&mut card, NEW_KVN).await, "KEYSET_NOT_ACTIVE");
        }
        provisioner.open(&mut card, KVN).await.unwrap();
    }
    assert!((20..DEVICES).contains(&loaded), "{loaded} of the cards were loaded");

    let entries = deployment.entries();
    let at = |event| entries.iter().position(|entry| entry.header.event == event).unwrap();
    let given_while_paused = entries[at(EventType::RotationPaused)..at(EventType::RotationResumed)]
        .iter()
        .filter(|entry| entry.header.event == EventType::RotationLeased)
        .count();
    assert_eq!(given_while_paused, 0, "devices were given out behind a pause");
    let behind = &entries[at(EventType::RotationRollBackStarted)..];
    for event in [EventType::RotationLeased, EventType::KeysetActivated] {
        assert_eq!(done(behind, event).count(), 0, "{event:?} behind a roll back");
        let intents = behind
            .iter()
            .filter(|entry| entry.header.event == event && entry.header.outcome == Outcome::Intent);
        assert_eq!(intents.count(), 0, "{event:?} behind a roll back");
    }
}
