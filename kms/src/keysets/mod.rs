//! Keysets of devices: looked at, suspended, moved through the states of SP 800-57, tainted when a key behind them is
//! known to others, and compared with what their card says (`docs/cycles/keysets.md`).

mod compromise;
mod inventory;
mod state;
mod taint;
#[cfg(test)]
mod tests;

use audit::{EntryDraft, Fact};
use domain::Eid;
use store::Store;

pub use compromise::{CompromisedKey, check_mark, check_usable, mark};
pub use inventory::{
    Difference, InventoryFinding, InventoryKey, Reconciliation, reconcile, reconciled_entry, reconciliation,
};
pub use state::{StateChange, change, check_change, suspend};
pub use taint::{Consequence, Taint, walk};

pub(crate) use compromise::{Marks, check_master, check_transport};
pub(crate) use taint::delivered_under_keyset;

use crate::KmsError;
use crate::devices::{KeysetName, KeysetRecord};

/// Keysets of one page.
pub const PAGE_MAX: usize = 256;

/// A page of a device's keysets behind `after`, in the order of domain, protocol and key version number, and whether
/// more follow.
pub fn page(
    store: &dyn Store,
    eid: &Eid,
    after: Option<&KeysetName>,
    limit: usize,
) -> Result<(Vec<(KeysetName, KeysetRecord)>, bool), KmsError> {
    let after = after.map(|name| name.row_key(eid));
    let behind = |name: &KeysetName| after.as_ref().is_none_or(|after| name.row_key(eid) > *after);
    // At most 256 rows for a device, so nothing is gained by a scan that begins later.
    let mut keysets = KeysetRecord::of_device(store, eid)?;
    keysets.retain(|(name, _)| behind(name));
    let more = keysets.len() > limit.min(PAGE_MAX);
    keysets.truncate(limit.min(PAGE_MAX));
    Ok((keysets, more))
}

/// Says in an entry which keyset it is about.
fn named(entry: EntryDraft, name: &KeysetName) -> EntryDraft {
    entry
        .fact("kvn", Fact::Number(u64::from(name.kvn.value())))
        .fact("protocol", Fact::fixed_name(name.protocol.as_str()))
        .fact("security_domain", Fact::fixed_name(name.security_domain.as_str()))
}
