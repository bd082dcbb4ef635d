//! What cards answered. Check values are a report; only a cryptogram that the token verified activates a keyset.

use std::collections::HashSet;

use audit::{EntryDraft, EventType, Fact, Outcome, Pseudonyms};
use domain::{DeviceState, Eid, KeyState, ReasonCode, Role, Timestamp};
use hsm::{CardProof, CardProofJob};
use keys::put_key::PutKeyAnswer;
use store::{Change, Commit, Store};

use super::lease::{Carrier, queue_key, reported, turned};
use super::progress::{Failure, Item, ItemState, Rotation};
use crate::devices::{DeviceRecord, KeysetRecord};
use crate::keyspaces::{DEVICES, KEYSET_ENDS, KEYSETS, ROTATION_QUEUE};
use crate::{Engines, KmsError};

/// Most reports of one call.
const REPORTS_MAX: usize = hsm::CARD_PROOFS_MAX;

/// What one card answered.
#[derive(Clone, Debug)]
pub struct ItemReport {
    /// The device.
    pub eid: Eid,
    /// Its answer to PUT KEY, as it came; empty when it gave none.
    pub put_key_response: Vec<u8>,
    /// Its answer to INITIALIZE UPDATE under the new key version.
    pub proof: Option<Cryptogram>,
    /// The status word of a refusal; 0 when it refused nothing.
    pub status_word: u32,
}

/// Challenges and cryptogram of one INITIALIZE UPDATE (S8).
#[derive(Clone, Copy, Debug)]
pub struct Cryptogram {
    /// 8 bytes of the host.
    pub host_challenge: [u8; 8],
    /// 8 bytes of the card.
    pub card_challenge: [u8; 8],
    /// The card's proof.
    pub card_cryptogram: [u8; 8],
}

/// What became of a report.
#[derive(Clone, Copy, Debug)]
pub struct ItemResult {
    /// The device.
    pub eid: Eid,
    /// Its state now; none when it is not part of the rotation.
    pub state: Option<ItemState>,
    /// Why the report changed nothing.
    pub refused: Option<ReasonCode>,
}

/// What the token said about the proofs of a call, in the order of its reports; none where there was none to check.
#[derive(Debug)]
pub struct Proofs(pub(crate) Vec<Option<bool>>);

/// Step 8: has the token verify the cryptograms of reports that may be taken. No key is released, nothing changes.
pub async fn check_proofs(
    engines: &Engines,
    rotation: &Rotation,
    reports: &[ItemReport],
    options: hsm::CallOptions,
) -> Result<Proofs, KmsError> {
    let store = engines.store.as_ref();
    let distinct: HashSet<_> = reports.iter().map(|report| report.eid).collect();
    if reports.is_empty() || reports.len() > REPORTS_MAX || distinct.len() != reports.len() {
        return Err(KmsError::refused(
            ReasonCode::InvalidField,
            format!("a call has 1 to {REPORTS_MAX} reports, each device once"),
            None,
        ));
    }
    check_takes_reports(rotation)?;
    let terms = &rotation.terms;
    let (mut proofs, mut asked) = (Vec::new(), Vec::new());
    for (at, report) in reports.iter().enumerate() {
        let (Some(proof), Some(item)) = (report.proof, Item::read(store, &terms.name, &report.eid)?) else {
            continue;
        };
        let keyset = KeysetRecord::read(store, &report.eid, &terms.to())?;
        let (Some(keyset), true) = (keyset, may_report(&item)) else { continue };
        asked.push(at);
        proofs.push(CardProof {
            keyset: engines.sourced(&report.eid, &terms.to(), &keyset)?,
            host_challenge: proof.host_challenge,
            card_challenge: proof.card_challenge,
            card_cryptogram: proof.card_cryptogram,
        });
    }
    let mut outcomes = vec![None; reports.len()];
    if !proofs.is_empty() {
        let verified = engines.token.card_proofs(CardProofJob { proofs }, options).await?;
        for (at, verified) in asked.into_iter().zip(verified) {
            outcomes[at] = Some(verified);
        }
    }
    Ok(Proofs(outcomes))
}

/// Step 9: what the reports change. To be called in the rotation's turn with the rotation read in it; the turn lasts
/// until the commit is durable.
pub fn report(
    store: &dyn Store,
    pseudonyms: &Pseudonyms,
    caller: &Carrier,
    mut rotation: Rotation,
    (reports, proofs): (&[ItemReport], &Proofs),
    request_digest: [u8; 32],
    now: Timestamp,
) -> Result<(Commit, Vec<ItemResult>), KmsError> {
    // A roll back may have begun while the token looked at the proofs.
    check_takes_reports(&rotation)?;
    let actor = pseudonyms.principal(&caller.principal);
    let before = rotation.state;
    let mut commit = Commit::default();
    let mut results = Vec::with_capacity(reports.len());
    let mut changed = false;
    for (report, proof) in reports.iter().zip(&proofs.0) {
        let eid = report.eid;
        let refused = |state, reason| ItemResult { eid, state, refused: Some(reason) };
        let Some(item) = Item::read(store, &rotation.terms.name, &eid)?.filter(|item| item.leases > 0) else {
            results.push(refused(None, ReasonCode::NotLeased));
            continue;
        };
        if !may_report(&item) {
            // A second report of what ended, for example after a lost answer, is told what stands.
            results.push(ItemResult { eid, state: Some(item.state), refused: None });
            continue;
        }
        let to = rotation.terms.to();
        let (device, new) = (DeviceRecord::read(store, &eid)?, KeysetRecord::read(store, &eid, &to)?);
        let (Some(device), Some(new)) = (device, new) else {
            results.push(refused(Some(item.state), ReasonCode::NotLeased));
            continue;
        };
        let Some(state) = verdict(report, *proof, &item, &rotation, &new) else {
            results.push(refused(Some(item.state), ReasonCode::InvalidField));
            continue;
        };
        // Its lease ended, so none would end its wait for a proof: it waits for its next script instead.
        if state == ItemState::Loaded && item.lease.is_none() {
            results.push(refused(Some(item.state), ReasonCode::NotLeased));
            continue;
        }
        if state == ItemState::Confirmed {
            if !device.state.is_some_and(DeviceState::releases_keys) {
                results.push(refused(Some(item.state), ReasonCode::DeviceNotActive));
                continue;
            }
            confirm(store, &rotation, &eid, device, new, now, &mut commit)?;
            commit.entries.push(
                EntryDraft::new(EventType::KeysetActivated, Outcome::Done)
                    .role(Role::Provisioner)
                    .actor(actor)
                    .object(pseudonyms.device(&eid))
                    .fact("kvn", Fact::Number(u64::from(rotation.terms.to_kvn.value())))
                    .fact("rotation", Fact::Digest(rotation.terms.digest())),
            );
        } else {
            commit.preconditions.push(new.unchanged(&eid, &to));
        }
        commit.entries.push(
            reported(&rotation, pseudonyms, &eid, state)
                .role(Role::Provisioner)
                .actor(actor)
                .request(request_digest),
        );
        if item.state == ItemState::Pending {
            let queued = queue_key(&rotation.terms.name, item.rank, &eid);
            commit.changes.push(Change::delete(ROTATION_QUEUE, queued));
        }
        rotation.count(&item, state);
        let item = Item { state, ..item };
        commit.changes.push(item.put(&rotation.terms.name, &eid));
        changed = true;
        results.push(ItemResult { eid, state: Some(state), refused: None });
    }
    if changed {
        rotation.advance();
        if rotation.state != before {
            commit.entries.extend(turned(&rotation));
        }
        let (change, unchanged) = rotation.put();
        commit.changes.push(change);
        commit.preconditions.push(unchanged);
    } else {
        commit.entries.push(
            EntryDraft::new(EventType::RotationReported, Outcome::Done)
                .role(Role::Provisioner)
                .actor(actor)
                .request(request_digest)
                .fact("rotation", Fact::Digest(rotation.terms.digest()))
                .fact("devices", Fact::Number(0)),
        );
    }
    Ok((commit, results))
}

fn check_takes_reports(rotation: &Rotation) -> Result<(), KmsError> {
    if rotation.state.takes_reports() {
        return Ok(());
    }
    Err(KmsError::refused(
        ReasonCode::RotationNotRunning,
        format!("the rotation is {}", rotation.state.as_str()),
        None,
    ))
}

/// Whether a report can still change what stands. A wrong check value is final: a card cryptogram comes from Key-MAC
/// alone and does not show that Key-ENC and Key-DEK arrived.
fn may_report(item: &Item) -> bool {
    match item.state {
        ItemState::Pending | ItemState::Leased | ItemState::Loaded => item.leases > 0,
        ItemState::Failed(failure) => failure != Failure::CheckValueWrong && item.leases > 0,
        ItemState::Confirmed | ItemState::RolledBack | ItemState::Kept => false,
    }
}

/// What a report makes of a device. Pure; none when it says nothing.
fn verdict(
    report: &ItemReport,
    proof: Option<bool>,
    item: &Item,
    rotation: &Rotation,
    new: &KeysetRecord,
) -> Option<ItemState> {
    let answer = match report.put_key_response.as_slice() {
        [] => None,
        bytes => Some(
            PutKeyAnswer::parse(bytes)
                .is_ok_and(|answer| answer.kvn == rotation.terms.to_kvn && new.check_values == answer.kcvs),
        ),
    };
    match (answer, proof, report.status_word) {
        (Some(false), _, _) => Some(ItemState::Failed(Failure::CheckValueWrong)),
        (_, Some(true), _) => Some(ItemState::Confirmed),
        (_, Some(false), _) => Some(ItemState::Failed(Failure::ProofWrong)),
        (_, None, 1..) => Some(ItemState::Failed(Failure::CardRefused)),
        // What failed is not loaded again by a mere report.
        (Some(true), None, 0) => match item.state {
            ItemState::Failed(failure) => Some(ItemState::Failed(failure)),
            _ => Some(ItemState::Loaded),
        },
        (None, None, 0) => None,
    }
}

/// The new keyset becomes active; the old one gets its end.
fn confirm(
    store: &dyn Store,
    rotation: &Rotation,
    eid: &Eid,
    mut device: DeviceRecord,
    mut new: KeysetRecord,
    now: Timestamp,
    commit: &mut Commit,
) -> Result<(), KmsError> {
    let (from, to) = (rotation.terms.from, rotation.terms.to());
    commit.preconditions.extend([device.unchanged(eid), new.unchanged(eid, &to)]);
    if device.state == Some(DeviceState::Registered) {
        device.state = Some(DeviceState::Active);
        commit.changes.push(Change::put(DEVICES, *eid.bcd(), device.encode(eid)));
    }
    new.state = KeyState::Active;
    new.rotation = None;
    commit.changes.push(Change::put(KEYSETS, to.row_key(eid), new.encode()));
    if let Some(mut old) = KeysetRecord::read(store, eid, &from)?
        && old.ends.is_none()
    {
        commit.preconditions.push(old.unchanged(eid, &from));
        let ends = now.plus_seconds(i64::from(rotation.terms.overlap_seconds));
        old.ends = Some(ends);
        commit.changes.push(Change::put(KEYSETS, from.row_key(eid), old.encode()));
        commit.changes.push(Change::put(KEYSET_ENDS, end_key(ends, &from.row_key(eid)), Vec::new()));
    }
    Ok(())
}

pub(crate) fn end_key(ends: Timestamp, keyset: &[u8]) -> Vec<u8> {
    [&ends.micros().to_be_bytes()[..], keyset].concat()
}

#[cfg(test)]
mod tests {
    use domain::{KeyCheckValue, KeysetAlgorithm, MasterGeneration};

    use super::*;
    use crate::KeysetSource;
    use crate::rotation::RotationTerms;

    #[test]
    fn a_report_is_believed_only_as_far_as_it_proves() {
        let terms = RotationTerms::parse(&crate::rotation::terms::tests::message()).unwrap();
        let rotation = Rotation::new(terms, Timestamp::from_seconds(1));
        let new = KeysetRecord {
            algorithm: KeysetAlgorithm::Aes256,
            state: KeyState::PreActivation,
            source: KeysetSource::derived(MasterGeneration(1)),
            delivered_under: String::new(),
            effective_strength: 128,
            check_values: vec![KeyCheckValue([1; 3]), KeyCheckValue([2; 3]), KeyCheckValue([3; 3])],
            created: Timestamp::from_seconds(1),
            rotation: Some("to-aes-256".into()),
            ends: None,
            taint: None,
            version: 1,
        };
        let right =
            PutKeyAnswer { kvn: rotation.terms.to_kvn, kcvs: new.check_values.clone().try_into().unwrap() }
                .to_bytes()
                .to_vec();
        let mut wrong = right.clone();
        wrong[9] ^= 1;
        let check = |response: &[u8], proof, status_word, state| {
            let report = ItemReport {
                eid: "89049032123451234512345678901235".parse().unwrap(),
                put_key_response: response.to_vec(),
                proof: None,
                status_word,
            };
            verdict(&report, proof, &Item { state, leases: 1, ..Item::new(0, 0) }, &rotation, &new)
        };
        let leased = ItemState::Leased;
        assert_eq!(check(&right, None, 0, leased), Some(ItemState::Loaded));
        assert_eq!(check(&right, Some(true), 0, leased), Some(ItemState::Confirmed));
        assert_eq!(check(&[], Some(true), 0, leased), Some(ItemState::Confirmed));
        assert_eq!(check(&right, Some(false), 0, leased), Some(ItemState::Failed(Failure::ProofWrong)));
        assert_eq!(check(&wrong, Some(true), 0, leased), Some(ItemState::Failed(Failure::CheckValueWrong)));
        assert_eq!(check(&right[1..], None, 0, leased), Some(ItemState::Failed(Failure::CheckValueWrong)));
        assert_eq!(check(&right, None, 0x6a88, leased), Some(ItemState::Failed(Failure::CardRefused)));
        assert_eq!(check(&[], None, 0, leased), None);
        let failed = ItemState::Failed(Failure::ProofMissing);
        assert_eq!(check(&right, None, 0, failed), Some(failed));
        assert_eq!(check(&[], Some(true), 0, failed), Some(ItemState::Confirmed));
    }
}
