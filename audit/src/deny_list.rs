//! The deny list: devices that no SM-DP+ should serve, since X.509 cannot revoke a single eUICC (`docs/formats/deny-list.md`).
//!
//! A list is lines of JSON, one for each device, in the order of EIDs; its head is a statement of the log key, which names their
//! digest. A difference holds what changed since a version, and the digest of the whole list that it leads to.

use std::collections::BTreeMap;

use domain::{Eid, FreezeReason, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{AuditError, Hash, LogKey, verify_statement};

/// The kind of a deny list's head.
pub const DENY_LIST: &str = "deny list v1";
/// How long a list speaks: a day.
pub const DENY_LIST_SECONDS: i64 = 86_400;
/// Bytes of the longest line.
const LINE_BYTES_MAX: usize = 256;

/// Why and since when a device is denied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Denial {
    /// The reason of its freeze.
    pub reason: FreezeReason,
    /// When it was frozen.
    pub since: Timestamp,
}

/// The devices that are denied.
pub type Denials = BTreeMap<Eid, Denial>;

/// What the authority signs of a list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenyListHead {
    /// Index of the log entry that last changed the list; each change makes it greater. 0: nothing was ever denied.
    pub version: u64,
    /// 0: the lines are the whole list; else what changed since that version.
    pub since_version: u64,
    /// RFC 3339.
    pub this_update: String,
    /// RFC 3339; the list speaks no more behind it.
    pub next_update: String,
    /// Lines.
    pub lines: u64,
    /// SHA-256 of the lines, hex.
    pub lines_sha256: String,
    /// Devices on the whole list.
    pub devices: u64,
    /// SHA-256 of the lines of the whole list, hex.
    pub list_sha256: String,
}

/// A line as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    eid: String,
    denied: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
}

/// The line that says so of a device; without a denial that it is denied no more.
pub fn deny_list_line(eid: &Eid, denial: Option<&Denial>) -> Vec<u8> {
    let line = Line {
        eid: eid.to_string(),
        denied: denial.is_some(),
        reason: denial.map(|denial| denial.reason.as_str().to_owned()),
        since: denial.map(|denial| denial.since.to_string()),
    };
    let mut bytes = serde_json::to_vec(&line).expect("strings and a boolean are JSON");
    bytes.push(b'\n');
    bytes
}

/// The lines of a whole list.
pub fn deny_list_lines(denials: &Denials) -> Vec<u8> {
    denials.iter().flat_map(|(eid, denial)| deny_list_line(eid, Some(denial))).collect()
}

/// Verifies a whole list by any head that leads to it: the one it came with, or that of the difference that made it. Gives the
/// head and the list. Whether it speaks for now is [`DenyListHead::speaks_at`]'s to say.
///
/// # Errors
/// When the head is none of the log key's, or of another list, or the lines do not read.
pub fn verify_whole_list(
    note: &[u8],
    lines: &[u8],
    key: &LogKey,
) -> Result<(DenyListHead, Denials), AuditError> {
    let head = read_head(note, key)?;
    let mut denials = Denials::new();
    if sha256(lines) != head.list_sha256
        || read_lines(lines, &mut denials)? != head.devices
        || denials.len() as u64 != head.devices
    {
        return Err(wrong("the head was signed for another list"));
    }
    Ok((head, denials))
}

fn read_head(note: &[u8], key: &LogKey) -> Result<DenyListHead, AuditError> {
    let body = verify_statement(note, DENY_LIST, key)?;
    serde_json::from_str(&body).map_err(|error| wrong(&format!("the head does not read: {error}")))
}

/// Verifies what was received: the head under the log key, that the lines are the head's, and that, with the whole list `before`
/// in the case of a difference, they lead to the whole list that the head names. Gives the head and that list.
///
/// # Errors
/// When anything of that does not hold.
pub fn verify_deny_list(
    note: &[u8],
    lines: &[u8],
    before: Option<&Denials>,
    key: &LogKey,
) -> Result<(DenyListHead, Denials), AuditError> {
    let head = read_head(note, key)?;
    if sha256(lines) != head.lines_sha256 {
        return Err(wrong("the lines are others than the head was signed for"));
    }
    let mut denials = match (head.since_version, before) {
        (0, _) => Denials::new(),
        (_, Some(before)) => before.clone(),
        (since, None) => return Err(wrong(&format!("it is the difference to version {since}, not a list"))),
    };
    let count = read_lines(lines, &mut denials)?;
    if count != head.lines
        || denials.len() as u64 != head.devices
        || sha256(&deny_list_lines(&denials)) != head.list_sha256
    {
        return Err(wrong(
            "what changed does not lead to the list that the head names; fetch the whole list",
        ));
    }
    Ok((head, denials))
}

impl DenyListHead {
    /// Whether the list speaks for a time: it was made by then, and its successor is not due.
    pub fn speaks_at(&self, now: Timestamp) -> bool {
        let read = |text: &str| text.parse::<Timestamp>().ok();
        read(&self.this_update).is_some_and(|this| this <= now)
            && read(&self.next_update).is_some_and(|next| now <= next)
    }
}

fn read_lines(lines: &[u8], denials: &mut Denials) -> Result<u64, AuditError> {
    let mut count = 0;
    let mut last: Option<Eid> = None;
    for bytes in lines.split_inclusive(|byte| *byte == b'\n') {
        if bytes.len() > LINE_BYTES_MAX || !bytes.ends_with(b"\n") {
            return Err(wrong("a line is too long, or does not end"));
        }
        let line: Line = serde_json::from_slice(bytes)
            .map_err(|error| wrong(&format!("a line does not read: {error}")))?;
        let eid: Eid = line.eid.parse().map_err(|_| wrong("a line names no EID"))?;
        if last.replace(eid).is_some_and(|before| before >= eid) {
            return Err(wrong("the lines are not in the order of EIDs, each once"));
        }
        match (line.denied, line.reason, line.since) {
            (true, Some(reason), Some(since)) => {
                let reason = FreezeReason::ALL.into_iter().find(|known| known.as_str() == reason);
                let denial = reason.zip(since.parse().ok()).map(|(reason, since)| Denial { reason, since });
                denials.insert(eid, denial.ok_or_else(|| wrong("an unknown reason, or no time"))?);
            }
            (false, None, None) => {
                denials.remove(&eid);
            }
            _ => return Err(wrong("a line says half of it")),
        }
        count += 1;
    }
    Ok(count)
}

/// SHA-256 as the head has it.
pub fn deny_list_digest(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(deny_list_digest(bytes))
}

fn wrong(what: &str) -> AuditError {
    AuditError::Checkpoint(format!("the deny list: {what}"))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

    use super::*;
    use crate::{signed_statement, statement_text};

    const NAME: &str = "authority/node-1/2026";

    fn eid(body: &str) -> Eid {
        Eid::from_body(body).unwrap()
    }

    fn signed(head: &DenyListHead) -> (Vec<u8>, LogKey) {
        let private = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let key = LogKey::new(NAME, private.public_key().as_ref().try_into().unwrap()).unwrap();
        let text = statement_text(NAME, DENY_LIST, &serde_json::to_string(head).unwrap()).unwrap();
        let signature = private.sign(text.as_bytes()).as_ref().try_into().unwrap();
        (signed_statement(&text, &key, &signature), key)
    }

    fn head(since_version: u64, lines: &[u8], whole: &Denials) -> DenyListHead {
        DenyListHead {
            version: 9,
            since_version,
            this_update: "2026-11-25T10:00:00.000000Z".into(),
            next_update: "2026-11-26T10:00:00.000000Z".into(),
            lines: lines.iter().filter(|byte| **byte == b'\n').count() as u64,
            lines_sha256: sha256(lines),
            devices: whole.len() as u64,
            list_sha256: sha256(&deny_list_lines(whole)),
        }
    }

    #[test]
    fn a_difference_leads_from_the_list_before_to_the_one_that_the_head_names() {
        let (one, two, three) = (
            eid("890490321234512345123456789010"),
            eid("890490321234512345123456789011"),
            eid("890490321234512345123456789012"),
        );
        let denial = Denial { reason: FreezeReason::Stolen, since: Timestamp::from_seconds(1_795_000_000) };
        let before: Denials = [(one, denial), (two, denial)].into();
        let after: Denials = [(two, denial), (three, denial)].into();
        let lines = deny_list_lines(&before);
        let (note, key) = signed(&head(0, &lines, &before));
        let (read, list) = verify_deny_list(&note, &lines, None, &key).unwrap();
        assert_eq!(list, before);
        assert!(read.speaks_at("2026-11-26T10:00:00.000000Z".parse().unwrap()));
        assert!(!read.speaks_at("2026-11-26T10:00:01.000000Z".parse().unwrap()));
        assert!(!read.speaks_at("2026-11-25T09:59:59.000000Z".parse().unwrap()));

        let change = [deny_list_line(&one, None), deny_list_line(&three, Some(&denial))].concat();
        let (note, key) = signed(&head(5, &change, &after));
        assert_eq!(verify_deny_list(&note, &change, Some(&before), &key).unwrap().1, after);
        // The head of a difference vouches for the list that it leads to, and for no other.
        assert_eq!(verify_whole_list(&note, &deny_list_lines(&after), &key).unwrap().1, after);
        assert!(verify_whole_list(&note, &lines, &key).is_err());
        // Without the list before, from another one, or with a line more, less or changed.
        assert!(verify_deny_list(&note, &change, None, &key).is_err());
        assert!(verify_deny_list(&note, &change, Some(&Denials::new()), &key).is_err());
        for wrong in [&change[..change.len() - 1], &change[deny_list_line(&one, None).len()..], &lines] {
            assert!(verify_deny_list(&note, wrong, Some(&before), &key).is_err());
        }
        // Out of order, though signed.
        let swapped = [deny_list_line(&three, Some(&denial)), deny_list_line(&two, Some(&denial))].concat();
        let (note, key) = signed(&head(0, &swapped, &after));
        assert!(verify_deny_list(&note, &swapped, None, &key).is_err());
    }
}
