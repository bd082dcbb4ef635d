//! Expired transactions and forgotten tries leave the view.

use audit::{EntryDraft, EventType, Fact, Outcome};
use domain::Timestamp;
use store::{Change, Commit, Store};

use super::OpenTransactions;
use crate::KmsError;
use crate::keyspaces::{RSP_CODE_ENDS, RSP_CODE_TRIES, RSP_EXPIRIES, RSP_TRANSACTIONS};

/// Rows of one kind in one commit.
const ROWS_PER_COMMIT: usize = 200;
/// Commits of one call, so that nothing else waits for it.
const COMMITS_PER_CALL: usize = 20;
/// An expired row may stay so long: the entries of upkeep are few.
const LINGER_SECONDS: i64 = 60;

/// Takes away what expired a minute ago or longer. Each step is one commit; a stop between them loses nothing.
pub async fn upkeep(store: &dyn Store, open: &OpenTransactions, now: Timestamp) -> Result<(), KmsError> {
    let until = now.plus_seconds(-LINGER_SECONDS).micros().to_be_bytes();
    for _ in 0..COMMITS_PER_CALL {
        let mut changes = Vec::new();
        let mut owners = Vec::new();
        for (key, row) in store.scan(RSP_EXPIRIES, &[], None, ROWS_PER_COMMIT)? {
            let Some((end, id)) = key.split_at_checked(8).filter(|(end, _)| *end < &until[..]) else { break };
            debug_assert_eq!(end.len(), 8);
            changes.push(Change::delete(RSP_TRANSACTIONS, id));
            owners.push(String::from_utf8_lossy(&row.value).into_owned());
            changes.push(Change::delete(RSP_EXPIRIES, key));
        }
        for (key, _) in store.scan(RSP_CODE_ENDS, &[], None, ROWS_PER_COMMIT)? {
            let Some((_, tries)) = key.split_at_checked(8).filter(|(end, _)| *end < &until[..]) else {
                break;
            };
            changes.push(Change::delete(RSP_CODE_TRIES, tries));
            changes.push(Change::delete(RSP_CODE_ENDS, key));
        }
        if changes.is_empty() {
            return Ok(());
        }
        let entry = EntryDraft::new(EventType::RspExpired, Outcome::Done)
            .fact("count", Fact::Number(owners.len() as u64));
        store.commit(Commit { entries: vec![entry], changes, preconditions: Vec::new() }).await?;
        for owner in owners {
            open.give_back(&owner);
        }
    }
    Ok(())
}
