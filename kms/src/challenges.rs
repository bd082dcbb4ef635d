//! A challenge pair opens one session: who repeats it would get the keys of traffic that somebody else has recorded.
//!
//! Every accepted pair leaves a row of 18 bytes without content, named by the week and a digest of the keyset and the
//! challenges. A pair is refused for as long as its week and the one after it last, 7 to 14 days; older rows go with later
//! commits, a few each, so there are never more rows than sessions of three weeks. After that the entries still show it.

use std::sync::{Mutex, PoisonError};

use domain::{Eid, ReasonCode, Refusal, Timestamp};
use sha2::{Digest, Sha256};
use store::{Change, Commit, Precondition, Store};

use crate::KmsError;
use crate::devices::KeysetName;
use crate::keyspaces::CHALLENGE_PAIRS;

/// A bucket of rows: a week.
const BUCKET_SECONDS: i64 = 7 * 86_400;
/// For so long a pair of the bucket before may still be on its way to its commit.
const OVERLAP_SECONDS: i64 = 120;
/// Expired rows that one commit clears away.
const EXPIRED_PER_COMMIT: usize = 8;

/// Pairs that were accepted.
#[derive(Default)]
pub struct ChallengePairs {
    sweep: Mutex<Sweep>,
}

/// Where the clearing of expired rows stands.
#[derive(Default)]
struct Sweep {
    /// The last row that was cleared.
    after: Option<Vec<u8>>,
    /// The bucket in which nothing expired is left.
    done: Option<u16>,
}

impl ChallengePairs {
    /// Refuses a pair that was accepted before, else adds to the commit that nobody else may use it. Two at once: the
    /// precondition lets one through.
    pub(crate) fn claim(
        &self,
        store: &dyn Store,
        (eid, keyset): (&Eid, &KeysetName),
        challenges: &[u8],
        now: Timestamp,
        commit: &mut Commit,
    ) -> Result<Result<(), Refusal>, KmsError> {
        self.claim_within(store, &keyset.row_key(eid), challenges, now, commit)
    }

    /// The same of what opens a session within `scope`, whose bytes are those of no keyset.
    pub(crate) fn claim_within(
        &self,
        store: &dyn Store,
        scope: &[u8],
        challenges: &[u8],
        now: Timestamp,
        commit: &mut Commit,
    ) -> Result<Result<(), Refusal>, KmsError> {
        let bucket = bucket(now);
        let digest = digest(scope, challenges);
        let [this, before] = [bucket, bucket.wrapping_sub(1)].map(|bucket| row_key(bucket, &digest));
        if store.get(CHALLENGE_PAIRS, &this)?.is_some() || store.get(CHALLENGE_PAIRS, &before)?.is_some() {
            return Ok(Err(Refusal::new(
                ReasonCode::ChallengeReused,
                "this pair of challenges was answered before; it opens one session only",
            )));
        }
        if now.seconds() % BUCKET_SECONDS < OVERLAP_SECONDS {
            commit.preconditions.push(Precondition::Absent { keyspace: CHALLENGE_PAIRS, key: before });
        }
        commit.preconditions.push(Precondition::Absent { keyspace: CHALLENGE_PAIRS, key: this.clone() });
        commit.changes.push(Change::put(CHALLENGE_PAIRS, this, Vec::new()));
        self.clear_expired(store, bucket, commit)?;
        Ok(Ok(()))
    }

    /// Rides on a commit, so that the rows need no sweep of their own. A commit that fails leaves its rows for the next
    /// week.
    fn clear_expired(&self, store: &dyn Store, bucket: u16, commit: &mut Commit) -> Result<(), KmsError> {
        let mut sweep = self.sweep.lock().unwrap_or_else(PoisonError::into_inner);
        if sweep.done == Some(bucket) {
            return Ok(());
        }
        let rows = store.scan(CHALLENGE_PAIRS, &[], sweep.after.as_deref(), EXPIRED_PER_COMMIT)?;
        let kept = bucket.saturating_sub(1).to_be_bytes();
        let expired: Vec<Vec<u8>> =
            rows.into_iter().map(|(key, _)| key).take_while(|key| key[..2] < kept[..]).collect();
        match expired.last() {
            Some(last) => sweep.after = Some(last.clone()),
            None => *sweep = Sweep { after: None, done: Some(bucket) },
        }
        commit.changes.extend(expired.into_iter().map(|key| Change::delete(CHALLENGE_PAIRS, key)));
        Ok(())
    }
}

/// Weeks since 1970.
fn bucket(now: Timestamp) -> u16 {
    u16::try_from(now.seconds() / BUCKET_SECONDS).unwrap_or(0)
}

fn digest(scope: &[u8], challenges: &[u8]) -> [u8; 16] {
    let digest = Sha256::new().chain_update(scope).chain_update(challenges).finalize();
    let mut short = [0; 16];
    short.copy_from_slice(&digest[..16]);
    short
}

fn row_key(bucket: u16, digest: &[u8; 16]) -> Vec<u8> {
    [&bucket.to_be_bytes()[..], digest].concat()
}
