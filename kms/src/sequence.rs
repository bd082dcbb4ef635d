//! Sequence counters of cards with pseudo-random challenges: a counter that was used is never accepted again.
//!
//! A card raises its counter with every session it opens (Amendment D §6.2.2.1). A card that proves itself shows its
//! counter; a session prepared without a card names the one that the card will have.

use domain::{Eid, ReasonCode, Refusal};
use prost::Message;
use proto::records;
use store::{Change, Commit, Precondition, Store};

use crate::KmsError;
use crate::devices::KeysetName;
use crate::keyspaces::SEQUENCES;

/// How far ahead of all that is known a session may be prepared: else one wrong number would end a card's numbers.
const AHEAD_MAX: u32 = 1_000;

/// Who names a counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Named {
    /// The card, with its proof. It may name the same again while it has opened no session.
    ByCard,
    /// The provisioner, for a session that is prepared.
    ByProvisioner,
}

/// Checks a counter against all that were accepted, and adds to the commit that it is taken.
pub(crate) fn take(
    store: &dyn Store,
    (eid, keyset): (&Eid, &KeysetName),
    counter: [u8; 3],
    named: Named,
    commit: &mut Commit,
) -> Result<Result<(), Refusal>, KmsError> {
    let counter = u32::from_be_bytes([0, counter[0], counter[1], counter[2]]);
    let key = keyset.row_key(eid);
    let row = store.get(SEQUENCES, &key)?;
    let mut record = match &row {
        Some(row) => {
            records::SequenceCounter::decode(&*row.value).map_err(|_| KmsError::Record("sequence counter"))?
        }
        None => records::SequenceCounter { version: 1, proved: None, prepared: None },
    };
    if let Err(refusal) = decide(&record, counter, named) {
        return Ok(Err(refusal));
    }
    let taken = match named {
        Named::ByCard => &mut record.proved,
        Named::ByProvisioner => &mut record.prepared,
    };
    if *taken == Some(counter) {
        return Ok(Ok(()));
    }
    *taken = Some(counter);
    commit.preconditions.push(match row {
        Some(row) => Precondition::Version { keyspace: SEQUENCES, key: key.clone(), version: row.version },
        None => Precondition::Absent { keyspace: SEQUENCES, key: key.clone() },
    });
    commit.changes.push(Change::put(SEQUENCES, key, record.encode_to_vec()));
    Ok(Ok(()))
}

/// The highest counter that was shown or prepared; none when none is known.
pub(crate) fn last(store: &dyn Store, (eid, keyset): (&Eid, &KeysetName)) -> Result<Option<u32>, KmsError> {
    let Some(row) = store.get(SEQUENCES, &keyset.row_key(eid))? else { return Ok(None) };
    let record =
        records::SequenceCounter::decode(&*row.value).map_err(|_| KmsError::Record("sequence counter"))?;
    Ok(record.proved.max(record.prepared))
}

fn decide(record: &records::SequenceCounter, counter: u32, named: Named) -> Result<(), Refusal> {
    let refuse = |message: String| Err(Refusal::new(ReasonCode::SequenceCounterReused, message));
    match named {
        Named::ByCard => match record.proved {
            Some(last) if counter < last => {
                refuse(format!("the card has shown the sequence counter {last:06x} before; it has gone back"))
            }
            _ => Ok(()),
        },
        Named::ByProvisioner => match record.proved.max(record.prepared) {
            Some(last) if counter <= last => {
                refuse(format!("sequence counters up to {last:06x} have been used"))
            }
            Some(last) if counter > last + AHEAD_MAX => {
                refuse(format!("a session is prepared at most {AHEAD_MAX} counters after {last:06x}"))
            }
            _ => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(proved: Option<u32>, prepared: Option<u32>) -> records::SequenceCounter {
        records::SequenceCounter { version: 1, proved, prepared }
    }

    #[test]
    fn a_card_may_show_its_counter_again_but_never_an_older_one() {
        for (last, shown, good) in
            [(None, 0, true), (Some(5), 5, true), (Some(5), 9, true), (Some(5), 4, false)]
        {
            assert_eq!(
                decide(&record(last, Some(100)), shown, Named::ByCard).is_ok(),
                good,
                "{last:?} {shown}"
            );
        }
    }

    #[test]
    fn a_prepared_session_takes_a_counter_that_nobody_has_used_and_not_one_far_ahead() {
        let known = record(Some(5), Some(7));
        for (counter, good) in [(5, false), (7, false), (8, true), (1_007, true), (1_008, false)] {
            let decision = decide(&known, counter, Named::ByProvisioner);
            assert_eq!(decision.is_ok(), good, "{counter}");
        }
        assert!(decide(&record(None, None), 0, Named::ByProvisioner).is_ok());
        assert!(decide(&record(Some(9), Some(7)), 9, Named::ByProvisioner).is_err());
    }
}
