//! Counters of packets, what a request has taken, and the rate at which a grant lets packets be made.

use std::sync::atomic::Ordering;

use domain::{Eid, ReasonCode, Refusal, Timestamp};
use keys::scp80::Counter;
use prost::Message;
use proto::records;
use sha2::{Digest, Sha256};
use store::{Change, Commit, Precondition, Store, Versioned};

use super::{FIRST_COUNTER_MAX, PACKETS_AHEAD_MAX, Platform, RequestId, Turns};
use crate::KmsError;
use crate::devices::KeysetName;
use crate::grants::GrantTerms;
use crate::keyspaces::{OTA_COUNTERS, OTA_RATES, OTA_RESERVATIONS};

const DAY_SECONDS: i64 = 86_400;
/// Expired rows that one commit clears away.
const EXPIRED_PER_COMMIT: usize = 8;

/// What a request has taken: nobody else gets it, and the request gets nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reservation {
    /// The counter of the packet, or the sequence counter of the script.
    pub(super) counter: u64,
    /// Of a script.
    pub(super) host_challenge: Vec<u8>,
}

/// What this request has taken before: it was answered, or something ended between.
pub(super) fn reserved(
    store: &dyn Store,
    platform: &Platform,
    request: &RequestId,
    now: Timestamp,
) -> Result<Result<Option<Reservation>, Refusal>, KmsError> {
    let today = day(now);
    for day in [today, today.saturating_sub(1)] {
        let Some(row) = store.get(OTA_RESERVATIONS, &row_key(day, platform, request))? else { continue };
        let record =
            records::OtaReservation::decode(&*row.value).map_err(|_| KmsError::Record("reservation"))?;
        if record.request_digest != request.digest {
            return Ok(Err(Refusal::new(
                ReasonCode::IdempotencyKeyReused,
                "this idempotency key belongs to another request",
            )));
        }
        let reservation = Reservation { counter: record.counter, host_challenge: record.host_challenge };
        return Ok(Ok(Some(reservation)));
    }
    Ok(Ok(None))
}

/// Adds to the commit what the request takes, and that it has taken nothing yet.
pub(super) fn reserve(
    store: &dyn Store,
    turns: &Turns,
    platform: &Platform,
    request: &RequestId,
    reservation: &Reservation,
    now: Timestamp,
    commit: &mut Commit,
) -> Result<(), KmsError> {
    let key = row_key(day(now), platform, request);
    let record = records::OtaReservation {
        version: 1,
        request_digest: request.digest.to_vec(),
        counter: reservation.counter,
        host_challenge: reservation.host_challenge.clone(),
    };
    commit.preconditions.push(Precondition::Absent { keyspace: OTA_RESERVATIONS, key: key.clone() });
    commit.changes.push(Change::put(OTA_RESERVATIONS, key, record.encode_to_vec()));
    // Rows of days before yesterday go, a few at a time, so that none need a sweep of their own.
    let yesterday = day(now).saturating_sub(1);
    if turns.swept.load(Ordering::Relaxed) == yesterday {
        return Ok(());
    }
    let rows = store.scan(OTA_RESERVATIONS, &[], None, EXPIRED_PER_COMMIT)?;
    let expired = rows.into_iter().map(|(key, _)| key);
    let expired: Vec<_> = expired.take_while(|key| key[..4] < yesterday.to_be_bytes()[..]).collect();
    if expired.is_empty() {
        turns.swept.store(yesterday, Ordering::Relaxed);
    }
    commit.changes.extend(expired.into_iter().map(|key| Change::delete(OTA_RESERVATIONS, key)));
    Ok(())
}

/// Takes the next counter of a keyset, or the one that is asked for, in this commit.
pub(super) fn take(
    store: &dyn Store,
    (eid, keyset): (&Eid, &KeysetName),
    wanted: Option<u64>,
    commit: &mut Commit,
) -> Result<Result<Counter, Refusal>, KmsError> {
    let key = keyset.row_key(eid);
    let row = store.get(OTA_COUNTERS, &key)?;
    let counter = match decide(row.as_ref().map(last).transpose()?, wanted) {
        Ok(counter) => counter,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let record = records::Counter { version: 1, value: counter.value() };
    commit.preconditions.push(unchanged(OTA_COUNTERS, &key, row.as_ref()));
    commit.changes.push(Change::put(OTA_COUNTERS, key, record.encode_to_vec()));
    Ok(Ok(counter))
}

/// The last counter that was taken for a keyset; none: no packet of it was made here.
pub(super) fn last_taken(
    store: &dyn Store,
    (eid, keyset): (&Eid, &KeysetName),
) -> Result<Option<u64>, KmsError> {
    store.get(OTA_COUNTERS, &keyset.row_key(eid))?.as_ref().map(last).transpose()
}

fn last(row: &Versioned) -> Result<u64, KmsError> {
    let record = records::Counter::decode(&*row.value).map_err(|_| KmsError::Record("packet counter"))?;
    Ok(record.value)
}

fn decide(last: Option<u64>, wanted: Option<u64>) -> Result<Counter, Refusal> {
    let refuse = |message: String| Err(Refusal::new(ReasonCode::PacketCounterRefused, message));
    let next = last.map_or(1, |last| last + 1);
    let counter = wanted.unwrap_or(next);
    // First, since no other counter would be right either.
    if next > Counter::LAST.value() {
        return Err(Refusal::new(
            ReasonCode::PacketCounterExhausted,
            "the 5-byte counter of this keyset has ended",
        ));
    }
    match last {
        Some(last) if counter <= last => refuse(format!("counters up to {last} have been used")),
        Some(last) if counter - last > PACKETS_AHEAD_MAX => {
            refuse(format!("the counter is moved at most {PACKETS_AHEAD_MAX} beyond {last}"))
        }
        None if counter == 0 || counter > FIRST_COUNTER_MAX => {
            refuse(format!("a keyset begins with a counter of 1 to {FIRST_COUNTER_MAX}"))
        }
        _ => Counter::new(counter).or_else(|e| refuse(e.to_string())),
    }
}

/// Counts a packet or script for a device under a grant, in this commit; refuses it when the minute has had its number.
pub(super) fn count(
    store: &dyn Store,
    terms: &GrantTerms,
    eid: &Eid,
    now: Timestamp,
    commit: &mut Commit,
) -> Result<Result<(), Refusal>, KmsError> {
    let minute = now.seconds() / 60;
    let key = [&terms.identifier()[..], eid.bcd()].concat();
    let row = store.get(OTA_RATES, &key)?;
    let mut record = match &row {
        Some(row) => records::OtaRate::decode(&*row.value).map_err(|_| KmsError::Record("packet rate"))?,
        None => records::OtaRate { version: 1, minute: 0, packets: 0 },
    };
    if record.minute != minute {
        (record.minute, record.packets) = (minute, 0);
    }
    let most = terms.allowance.packets_per_minute();
    if record.packets >= most {
        return Ok(Err(Refusal::new(
            ReasonCode::PacketRateExceeded,
            format!("the grant allows {most} packets and scripts a minute for this device"),
        )));
    }
    record.packets += 1;
    commit.preconditions.push(unchanged(OTA_RATES, &key, row.as_ref()));
    commit.changes.push(Change::put(OTA_RATES, key, record.encode_to_vec()));
    Ok(Ok(()))
}

fn unchanged(keyspace: store::Keyspace, key: &[u8], row: Option<&Versioned>) -> Precondition {
    match row {
        Some(row) => Precondition::Version { keyspace, key: key.to_vec(), version: row.version },
        None => Precondition::Absent { keyspace, key: key.to_vec() },
    }
}

/// Bucketed by day like the rows of idempotency keys, so that both are there for as long.
fn row_key(day: u32, platform: &Platform, request: &RequestId) -> Vec<u8> {
    let mut hasher = Sha256::new();
    hasher.update(platform.principal.0);
    hasher.update(&request.idempotency_key);
    [&day.to_be_bytes()[..], &hasher.finalize()[..16]].concat()
}

fn day(now: Timestamp) -> u32 {
    u32::try_from(now.seconds() / DAY_SECONDS).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(last: Option<u64>, wanted: Option<u64>) -> Result<u64, ReasonCode> {
        decide(last, wanted).map(Counter::value).map_err(|refusal| refusal.reason)
    }

    #[test]
    fn a_counter_goes_forward_by_one_or_by_a_bounded_step_and_never_back() {
        assert_eq!(decided(None, None), Ok(1));
        assert_eq!(decided(Some(7), None), Ok(8));
        assert_eq!(decided(Some(7), Some(8)), Ok(8));
        assert_eq!(decided(Some(7), Some(1_007)), Ok(1_007));
        for wanted in [0, 6, 7, 1_008, u64::MAX] {
            assert_eq!(decided(Some(7), Some(wanted)), Err(ReasonCode::PacketCounterRefused), "{wanted}");
        }
        assert_eq!(decided(None, Some(5_000_000)), Ok(5_000_000));
        for wanted in [0, 0x1_0000_0000, u64::MAX] {
            assert_eq!(decided(None, Some(wanted)), Err(ReasonCode::PacketCounterRefused), "{wanted}");
        }
    }

    #[test]
    fn a_counter_ends_before_the_value_that_blocks_the_card() {
        assert_eq!(decided(Some(0xff_ffff_fffd), None), Ok(0xff_ffff_fffe));
        assert_eq!(decided(Some(0xff_ffff_fffe), None), Err(ReasonCode::PacketCounterExhausted));
        let beyond = Some(0xff_ffff_ffff);
        assert_eq!(decided(Some(0xff_ffff_fffd), beyond), Err(ReasonCode::PacketCounterRefused));
        assert_eq!(decided(Some(0xff_ffff_fffe), beyond), Err(ReasonCode::PacketCounterExhausted));
    }
}
