//! The deny list: frozen devices, as those who serve them hear of it (`docs/formats/deny-list.md`). It is read from the frozen set,
//! which is in memory from the verified log.

use audit::{
    DENY_LIST_SECONDS, Denial, Denials, DenyListHead, EntryDraft, EventType, Fact, Outcome, Pseudonym,
    deny_list_digest, deny_list_line, deny_list_lines,
};
use domain::{Eid, ReasonCode, Role, Timestamp};
use prost::Message;
use proto::records;
use store::{Change, Commit, Store};

use crate::KmsError;
use crate::devices::Freeze;
use crate::keyspaces::{FROZEN, THAWED};

/// Devices that are read at a time.
const ROWS_PER_SCAN: usize = 10_000;

/// A list, or what changed of it, and its head; nothing is signed yet.
pub struct DenyList {
    /// What the log key is to sign.
    pub head: DenyListHead,
    /// The lines.
    pub lines: Vec<u8>,
}

impl DenyList {
    /// The list as it is now; with a version that was given out before only what changed since.
    pub fn read(store: &dyn Store, since_version: u64, now: Timestamp) -> Result<Self, KmsError> {
        let mut denials = Denials::new();
        let mut version = 0;
        let mut changed = Vec::new();
        for (eid, freeze, at) in frozen(store)? {
            let denial = Denial { reason: freeze.reason, since: freeze.time };
            version = version.max(at);
            denials.insert(eid, denial);
            if at > since_version {
                changed.push((eid, Some(denial)));
            }
        }
        for (eid, at) in thawed(store)? {
            version = version.max(at);
            if at > since_version {
                changed.push((eid, None));
            }
        }
        if since_version > version {
            return Err(KmsError::refused(
                ReasonCode::InvalidField,
                format!("since is above {version}, the version of the list; fetch the whole list"),
                None,
            ));
        }
        changed.sort_by_key(|(eid, _)| *eid);
        let whole = deny_list_lines(&denials);
        let (lines, count) = match since_version {
            0 => (whole.clone(), denials.len()),
            _ => {
                let lines = changed.iter().flat_map(|(eid, denial)| deny_list_line(eid, denial.as_ref()));
                (lines.collect(), changed.len())
            }
        };
        let head = DenyListHead {
            version,
            since_version,
            this_update: now.to_string(),
            next_update: now.plus_seconds(DENY_LIST_SECONDS).to_string(),
            lines: count as u64,
            lines_sha256: hex::encode(deny_list_digest(&lines)),
            devices: denials.len() as u64,
            list_sha256: hex::encode(deny_list_digest(&whole)),
        };
        Ok(Self { head, lines })
    }

    /// The commit that records that it leaves.
    pub fn fetched(&self, (role, actor): (Role, Pseudonym), request_digest: [u8; 32]) -> Commit {
        let entry = EntryDraft::new(EventType::DenyListFetched, Outcome::Done)
            .role(role)
            .actor(actor)
            .request(request_digest)
            .fact("entry", Fact::Number(self.head.version))
            .fact("devices", Fact::Number(self.head.devices))
            .fact("lines", Fact::Number(self.head.lines))
            .fact("deny_list", Fact::Digest(deny_list_digest(&self.lines)));
        Commit::of(vec![entry])
    }
}

/// How many devices are denied now.
pub fn denied_devices(store: &dyn Store) -> Result<usize, KmsError> {
    Ok(frozen(store)?.len())
}

/// The write behind which a device is on no list, for differences.
pub(crate) fn thaw(eid: &Eid) -> Change {
    Change::put(THAWED, *eid.bcd(), records::Thaw { version: 1 }.encode_to_vec())
}

/// The write that forgets that a device was once on it: it is again.
pub(crate) fn no_thaw(eid: &Eid) -> Change {
    Change::delete(THAWED, *eid.bcd())
}

fn frozen(store: &dyn Store) -> Result<Vec<(Eid, Freeze, u64)>, KmsError> {
    let mut all = Vec::new();
    walk(store, FROZEN, |eid, value, version| {
        all.push((eid, Freeze::decode(value)?, version));
        Ok(())
    })?;
    Ok(all)
}

fn thawed(store: &dyn Store) -> Result<Vec<(Eid, u64)>, KmsError> {
    let mut all = Vec::new();
    walk(store, THAWED, |eid, _, version| {
        all.push((eid, version));
        Ok(())
    })?;
    Ok(all)
}

fn walk(
    store: &dyn Store,
    keyspace: store::Keyspace,
    mut each: impl FnMut(Eid, &[u8], u64) -> Result<(), KmsError>,
) -> Result<(), KmsError> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let rows = store.scan(keyspace, &[], after.as_deref(), ROWS_PER_SCAN)?;
        let is_last = rows.len() < ROWS_PER_SCAN;
        for (key, row) in rows {
            let bcd = key.as_slice().try_into().map_err(|_| KmsError::Record("freeze"))?;
            each(Eid::from_bcd(bcd).map_err(|_| KmsError::Record("freeze"))?, &row.value, row.version)?;
            after = Some(key);
        }
        if is_last {
            return Ok(());
        }
    }
}
