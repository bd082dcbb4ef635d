//! What one person can stop at once, a device or a party: behind the entry nothing leaves any more, whoever is asking
//! at that moment, and only two persons give it back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use audit::{Entry, EventType, Outcome};
use proto::v1::operation::Kind;
use proto::v1::standing_service_client::StandingServiceClient;
use proto::v1::{
    ChangeStanding, FreezeDeviceRequest, FreezeReason, ReportRotationResponse, RestoreDevice,
    RotationFailure, RotationItemState, RotationState, SuspendPartyRequest,
};
use tests::card::CryptogramBehaviour;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use crate::caller::reason;
use crate::devices::{Device, KVN, eid};
use crate::fleet::{NEW_KVN, Provisioner, TwoPersons, new_key, terms};
use crate::refusals::Refused;
use crate::support::{Deployment, GRANTED, PURPOSE};

const REFERENCE: &str = "Questura di Roma, denuncia 4711";
const PATIENCE: Duration = Duration::from_secs(20);

async fn freeze(persons: &TwoPersons, eid: &str) -> Result<usize, Status> {
    let request = FreezeDeviceRequest {
        idempotency_key: new_key(),
        eid: eid.to_owned(),
        reason: FreezeReason::Stolen.into(),
        reference: REFERENCE.to_owned(),
    };
    let answer = persons.devices().freeze_device(request).await?.into_inner();
    Ok(usize::try_from(answer.entry_index).unwrap())
}

fn restore(eid: &str) -> Kind {
    Kind::RestoreDevice(RestoreDevice { eid: eid.to_owned() })
}

/// Callers that fetch session keys of one device until they are refused; every other call repeats the one before it.
struct Fetchers {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    lanes: Vec<JoinHandle<Option<Status>>>,
}

impl Fetchers {
    async fn start(deployment: &Deployment, device: &Arc<Device>, lanes: usize) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut fetchers = Self { stop, answered, lanes: Vec::new() };
        let provisioner = Provisioner::of(deployment).await;
        for _ in 0..lanes {
            let mut client = provisioner.sessions();
            let (stop, answered) = (Arc::clone(&fetchers.stop), Arc::clone(&fetchers.answered));
            let device = Arc::clone(device);
            fetchers.lanes.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let request = device.request(&new_key(), PURPOSE, CryptogramBehaviour::Honest);
                    for _ in 0..2 {
                        if let Err(status) = client.fetch_session_keys(request.clone()).await {
                            return Some(status);
                        }
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                }
                None
            }));
        }
        fetchers
    }

    /// Waits for so many more answers.
    async fn await_answers(&self, more: usize) {
        let (started, wanted) = (Instant::now(), self.answered.load(Ordering::Relaxed) + more);
        while self.answered.load(Ordering::Relaxed) < wanted {
            assert!(started.elapsed() < PATIENCE, "no more answers");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until each has been refused, for the reason given.
    async fn all_refused(self, expected: &str) {
        for lane in self.lanes {
            let status = tokio::time::timeout(PATIENCE, lane).await.expect("a fetcher is refused").unwrap();
            assert_eq!(reason(&status.unwrap()), expected);
        }
    }

    /// Tells them to stop; none was refused.
    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for lane in self.lanes {
            assert!(lane.await.unwrap().is_none(), "a fetcher of another device was refused");
        }
    }
}

/// Indices of the entries by which session keys left, the first time or again.
fn releases(entries: &[Entry]) -> impl Iterator<Item = &Entry> {
    entries.iter().filter(|entry| {
        entry.header.event == EventType::SessionKeysReleased
            && matches!(entry.header.outcome, Outcome::Done | Outcome::Repeated)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_device_is_frozen_by_one_person_under_load_and_restored_by_two() {
    const FROZEN: usize = 5;
    let deployment = Deployment::found();
    let eids: Vec<_> = (0..=FROZEN).map(|number| eid(GRANTED, number)).collect();
    let devices: Vec<_> = deployment.order("first", &eids).into_iter().map(Arc::new).collect();
    let persons = TwoPersons::of(&deployment).await;
    let (bystander, stolen) = devices.split_first().unwrap();

    // Sixteen callers on the device that is frozen, others on another one, five times.
    let others = Fetchers::start(&deployment, bystander, 2).await;
    let mut freezes = Vec::new();
    for device in stolen {
        let fetchers = Fetchers::start(&deployment, device, 16).await;
        fetchers.await_answers(24).await;
        freezes.push(freeze(&persons, &device.eid).await.unwrap());
        fetchers.all_refused("DEVICE_NOT_ACTIVE").await;
        others.await_answers(2).await;
    }
    others.stop().await;

    // Why, by whom and since when.
    let eid = &stolen[0].eid;
    let shown = persons.device(eid).await;
    let frozen = shown.freeze.unwrap();
    assert_eq!((shown.state.as_str(), frozen.reason()), ("frozen", FreezeReason::Stolen));
    assert_eq!((frozen.person.as_str(), frozen.reference.as_str()), ("officer", REFERENCE));
    let frozen_at = frozen.time.unwrap();
    let mut refused = Vec::new();
    let mut refuse = |what: &str, code, reason, status: Status| {
        refused.push(Refused::new(what.to_owned(), (code, reason), &status));
    };
    let status = freeze(&persons, eid).await.unwrap_err();
    refuse("frozen twice", Code::FailedPrecondition, "DEVICE_NOT_ACTIVE", status);
    let unknown = crate::devices::eid(GRANTED, 99);
    let status = freeze(&persons, &unknown).await.unwrap_err();
    refuse("nobody's device", Code::NotFound, "UNKNOWN_DEVICE", status);

    // One person alone does not get it back.
    let mut card = stolen[0].card();
    let provisioner = Provisioner::of(&deployment).await;
    let digest = persons.request(restore(eid)).await.unwrap();
    let status = persons.execute(digest).await.unwrap_err();
    refuse("restored by one", Code::FailedPrecondition, "APPROVALS_MISSING", status);
    let status = provisioner.open(&mut card, KVN).await.err().unwrap();
    refuse("still frozen", Code::FailedPrecondition, "DEVICE_NOT_ACTIVE", status);
    persons.carry_out(restore(eid)).await.unwrap();
    let shown = persons.device(eid).await;
    assert_eq!((shown.state.as_str(), shown.freeze), ("active", None));
    provisioner.open(&mut card, KVN).await.unwrap();
    // Of a device that is not frozen there is nothing to restore.
    let status = persons.carry_out(restore(eid)).await.unwrap_err();
    refuse("restored twice", Code::FailedPrecondition, "POLICY_VIOLATION", status);

    // The export was verified without the service; the log's order shows that nothing left behind a freeze.
    let entries = deployment.entries();
    for refused in &refused {
        refused.entry(&entries);
    }
    let restored: Vec<_> =
        entries.iter().filter(|entry| entry.header.event == EventType::DeviceRestored).collect();
    assert_eq!(restored.len(), 1);
    let operation = restored[0].digest("operation").unwrap();
    let approved = |event| {
        entries
            .iter()
            .filter(|entry| entry.header.event == event && entry.header.outcome == Outcome::Done)
            .filter(|entry| entry.digest("operation") == Some(operation))
            .count()
    };
    for event in [EventType::OperationRequested, EventType::OperationApproved, EventType::OperationExecuted] {
        assert_eq!(approved(event), 1, "{event:?}");
    }
    for (at, index) in freezes.iter().enumerate() {
        let entry = &entries[*index];
        assert_eq!((entry.header.event, entry.header.outcome), (EventType::DeviceFrozen, Outcome::Done));
        assert_eq!(entry.name("kind"), Some("stolen"));
        let object = entry.header.object.unwrap();
        let mut of_device: Vec<_> = releases(&entries)
            .filter(|release| release.header.object == Some(object))
            .map(|release| release.header.index)
            .collect();
        assert!(of_device.len() >= 24);
        let until = if restored[0].header.object == Some(object) {
            // The one after the restore.
            assert!(of_device.pop().unwrap() > restored[0].header.index);
            restored[0].header.index
        } else {
            entries.len() as u64
        };
        let behind = of_device.iter().filter(|release| (*index as u64..until).contains(release)).count();
        assert_eq!(behind, 0, "keys of device {at} left after its freeze");
    }
    assert!(releases(&entries).any(|entry| entry.header.outcome == Outcome::Repeated));
    let since = entries[freezes[0]].header.time.seconds();
    assert!((since - frozen_at.seconds).abs() <= 1, "the freeze is as old as its entry");
    let text: Vec<u8> = entries.iter().flat_map(Entry::to_bytes).collect();
    let text = String::from_utf8(text).unwrap();
    for part in ["Questura", "denuncia 4711"] {
        assert!(REFERENCE.contains(part) && !text.contains(part), "an entry holds the report's reference");
    }
}

fn only(answer: ReportRotationResponse) -> (RotationItemState, RotationFailure, String) {
    let [result] = &answer.results[..] else { panic!("one result for one report: {answer:?}") };
    (result.state(), result.failure(), result.reason.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_frozen_during_a_rotation_gets_no_script_and_no_new_keys_until_it_is_restored() {
    const NAME: &str = "frozen-inside";
    let deployment = Deployment::found();
    let eids = [1, 2, 3].map(|number| eid(GRANTED, number));
    let devices = deployment.order("first", &eids);
    let (persons, provisioner) = (TwoPersons::of(&deployment).await, Provisioner::of(&deployment).await);
    persons.start(terms(NAME, &eids)).await;

    // Before its script is asked for.
    let (before, between) = (&devices[0].eid, &devices[1]);
    freeze(&persons, before).await.unwrap();
    let key = new_key();
    let scripts = provisioner.fetch_under(&key, NAME, 10, 5).await.unwrap().scripts;
    assert_eq!(scripts.len(), 2);
    assert!(scripts.iter().all(|script| script.eid != *before), "a frozen device has a script");
    let status = persons.rotation(NAME).await;
    assert_eq!((status.leased, status.failed, status.pending), (2, 1, 0));
    assert_eq!(status.failures[0].reason, "device_not_active");
    assert_eq!(persons.keyset_of(before, NEW_KVN).await, None, "no keys were made for it");

    // After its script was given out and loaded: the script is not made again, the proof does not count.
    let script = scripts.iter().find(|script| script.eid == between.eid).unwrap();
    let mut card = between.card();
    let report = provisioner.load(&mut card, script).await.unwrap();
    let frozen_at = freeze(&persons, &between.eid).await.unwrap();
    let again = provisioner.fetch_under(&key, NAME, 10, 5).await.unwrap().scripts;
    assert_eq!(again.len(), 1);
    assert_ne!(again[0].eid, between.eid);
    let (state, _, reason) = only(provisioner.report(NAME, vec![report.clone()]).await.unwrap());
    assert_eq!((state, reason.as_str()), (RotationItemState::Leased, "DEVICE_NOT_ACTIVE"));
    assert_eq!(provisioner.refused_keys(&mut card, KVN).await, "DEVICE_NOT_ACTIVE");
    let mut third = devices[2].card();
    let loaded = provisioner.load(&mut third, &again[0]).await.unwrap();
    let (state, ..) = only(provisioner.report(NAME, vec![loaded]).await.unwrap());
    assert_eq!(state, RotationItemState::Confirmed);
    let status = persons.until(NAME, |status| status.state() == RotationState::Completed).await;
    assert_eq!((status.confirmed, status.failed), (1, 2));
    assert_eq!((status.failures.len(), status.failures[0].devices), (1, 2));
    let (state, _, reason) = only(provisioner.report(NAME, vec![report.clone()]).await.unwrap());
    assert_eq!((state, reason.as_str()), (RotationItemState::Failed, "DEVICE_NOT_ACTIVE"));

    // Restored, what its card has loaded may be proved; who never had a script has nothing to prove.
    for eid in [before, &between.eid] {
        persons.carry_out(restore(eid)).await.unwrap();
    }
    let (state, ..) = only(provisioner.report(NAME, vec![card.proof_report()]).await.unwrap());
    assert_eq!(state, RotationItemState::Confirmed);
    provisioner.open(&mut card, NEW_KVN).await.unwrap();
    let mut never = devices[0].card();
    provisioner.open(&mut never, KVN).await.unwrap();
    let made_up = proto::v1::RotationReport { eid: before.clone(), ..report };
    let (.., reason) = only(provisioner.report(NAME, vec![made_up]).await.unwrap());
    assert_eq!(reason, "NOT_LEASED");

    let entries = deployment.entries();
    let object = entries[frozen_at].header.object;
    let restored = entries
        .iter()
        .position(|entry| entry.header.event == EventType::DeviceRestored && entry.header.object == object)
        .unwrap();
    let meanwhile = entries[frozen_at + 1..restored].iter().filter(|entry| entry.header.object == object);
    for entry in meanwhile {
        assert!(
            !matches!(
                (entry.header.event, entry.header.outcome),
                (
                    EventType::SessionKeysReleased
                        | EventType::RotationScriptReleased
                        | EventType::KeysetActivated,
                    Outcome::Done | Outcome::Repeated
                )
            ),
            "{:?} of a frozen device",
            entry.header.event
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_party_is_suspended_by_one_person_under_load_and_the_authority_never_to_a_standstill() {
    let deployment = Deployment::found();
    let device = Arc::new(deployment.order("first", &[eid(GRANTED, 1)]).remove(0));
    let persons = TwoPersons::of(&deployment).await;
    let mut standing = StandingServiceClient::new(deployment.caller("approver").await.channel);
    let mut suspend = async |name: &str| {
        let request = SuspendPartyRequest { idempotency_key: new_key(), name: name.to_owned() };
        standing.suspend_party(request).await.map(|answer| answer.into_inner().entry_index)
    };
    let change =
        |name: &str, suspended| Kind::ChangeStanding(ChangeStanding { name: name.to_owned(), suspended });
    let mut suspended = Vec::new();
    let mut restored = Vec::new();
    for _ in 0..2 {
        let fetchers = Fetchers::start(&deployment, &device, 16).await;
        fetchers.await_answers(24).await;
        suspended.push(suspend("provisioner").await.unwrap());
        fetchers.all_refused("PRINCIPAL_SUSPENDED").await;
        let provisioner = Provisioner::of(&deployment).await;
        assert_eq!(provisioner.refused_keys(&mut device.card(), KVN).await, "PRINCIPAL_SUSPENDED");
        assert_eq!(reason(&suspend("provisioner").await.unwrap_err()), "POLICY_VIOLATION", "twice");
        restored.push(persons.carry_out(change("provisioner", false)).await.unwrap().entry_index);
        provisioner.open(&mut device.card(), KVN).await.unwrap();
    }
    // Persons are not suspended by one, and never so many that nobody is left who could restore.
    for person in ["auditor", "officer", "approver"] {
        assert_eq!(reason(&suspend(person).await.unwrap_err()), "POLICY_VIOLATION", "{person} by one");
    }
    assert_eq!(reason(&suspend("nobody").await.unwrap_err()), "UNKNOWN_PARTY");
    for person in ["approver", "officer"] {
        let status = persons.carry_out(change(person, true)).await.unwrap_err();
        assert_eq!(reason(&status), "POLICY_VIOLATION", "the last {person}");
    }
    let refused = deployment.caller("auditor").await;
    persons.carry_out(change("auditor", true)).await.unwrap();
    let mut client = proto::v1::rotation_service_client::RotationServiceClient::new(refused.channel);
    let status = client.list_rotations(proto::v1::ListRotationsRequest {}).await.unwrap_err();
    assert_eq!(reason(&status), "PRINCIPAL_SUSPENDED");
    persons.carry_out(change("auditor", false)).await.unwrap();

    let entries = deployment.entries();
    let actor = releases(&entries).next().unwrap().header.actor;
    for (suspended, restored) in suspended.iter().zip(&restored) {
        assert!(suspended < restored);
        let entry = &entries[usize::try_from(*suspended).unwrap()];
        assert_eq!((entry.header.event, entry.header.outcome), (EventType::PartySuspended, Outcome::Done));
        let behind = releases(&entries)
            .filter(|entry| entry.header.actor == actor)
            .filter(|entry| (*suspended..*restored).contains(&entry.header.index))
            .count();
        assert_eq!(behind, 0, "keys left for a suspended party");
    }
    assert!(releases(&entries).count() >= 48);
    let changed: Vec<_> =
        entries.iter().filter(|entry| entry.header.event == EventType::StandingChanged).collect();
    assert_eq!(changed.len(), 4);
    assert!(changed.iter().all(|entry| entry.digest("operation").is_some()));
}
