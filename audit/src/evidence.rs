//! The approvals of an export, checked from the signatures themselves against what the log says.

use std::collections::{BTreeMap, BTreeSet};

use crate::approval::ApprovalKey;
use crate::quorum::{Operation, QuorumBook};
use crate::verify::{Bundle, Stop};
use crate::{Hash, sha256};

/// Checks `approvals/`: every executed operation has its bytes and a valid signature for every person counted; whatever
/// else is there belongs to an operation of the log and verifies. Returns the number of signatures verified.
pub(crate) fn check_evidence(bundle: &mut Bundle<'_>, book: &QuorumBook) -> Result<u64, Stop> {
    let mut folders: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in bundle.paths_under("approvals/") {
        match path["approvals/".len()..].split_once('/') {
            Some((folder, file)) => {
                folders.entry(folder.to_owned()).or_default().insert(file.to_owned());
            }
            None => bundle.find(&path, None, "belongs to no operation")?,
        }
    }
    let mut verified = 0;
    for (digest, operation) in book.operations() {
        let name = hex::encode(digest);
        let folder = format!("approvals/{name}");
        match (folders.remove(&name), operation.executed) {
            (Some(files), _) => verified += check_operation(bundle, &folder, &files, digest, operation)?,
            (None, Some(executed)) => bundle.find(
                &format!("{folder}/operation.bin"),
                Some(executed),
                "the entry executes an operation whose approvals are missing",
            )?,
            (None, None) => {}
        }
    }
    for folder in folders.keys() {
        bundle.find(&format!("approvals/{folder}"), None, "no entry requests this operation")?;
    }
    Ok(verified)
}

fn check_operation(
    bundle: &mut Bundle<'_>,
    folder: &str,
    files: &BTreeSet<String>,
    digest: &Hash,
    operation: &Operation,
) -> Result<u64, Stop> {
    let bytes_path = format!("{folder}/operation.bin");
    if let Some(bytes) = bundle.read(&bytes_path)?
        && sha256(&bytes) != *digest
    {
        bundle.find(&bytes_path, operation.executed, "these are not the bytes that were approved")?;
    }
    let mut counted = BTreeSet::new();
    let mut known = BTreeSet::from(["operation.bin".to_owned()]);
    // Numbers run from 1 without a gap; what does not fit the series is left over below.
    for number in (1..).take_while(|number| files.contains(&format!("{number}.der"))) {
        let (signature, key) = (format!("{number}.der"), format!("{number}.pem"));
        let path = format!("{folder}/{signature}");
        let der = bundle.read(&path)?;
        let pem = bundle.read(&format!("{folder}/{key}"))?;
        known.extend([signature, key]);
        let (Some(der), Some(pem)) = (der, pem) else { continue };
        match check_signature(digest, operation, &der, &pem) {
            Ok(at) => {
                if !counted.insert(at) {
                    let index = operation.signed[at].index;
                    bundle.find(&path, Some(index), "the same signature is there twice")?;
                }
            }
            Err((index, problem)) => bundle.find(&path, index, problem)?,
        }
    }
    for file in files.difference(&known) {
        bundle.find(&format!("{folder}/{file}"), None, "no numbered signature or key of this operation")?;
    }
    let verified = counted.len() as u64;
    if operation.executed.is_some() {
        for (at, signed) in operation.signed.iter().enumerate().filter(|(at, _)| !counted.contains(at)) {
            let who = if at == 0 { "requester" } else { "approver" };
            let problem = format!("no valid signature of the {who} whom this entry counts");
            bundle.find(folder, Some(signed.index), problem)?;
        }
        // Distinct persons and keys are the quorum book's to check; here it is that each really signed.
        if verified < operation.k {
            let problem = format!("{verified} persons signed; {} are required", operation.k);
            bundle.find(folder, operation.executed, problem)?;
        }
    }
    Ok(verified)
}

/// Which of the log's signatures this is, once it verifies under the key the log names.
fn check_signature(
    digest: &Hash,
    operation: &Operation,
    der: &[u8],
    pem: &[u8],
) -> Result<usize, (Option<u64>, String)> {
    let signature = sha256(der);
    let at = operation.signed.iter().position(|signed| signed.signature == signature);
    let at = at.ok_or_else(|| (None, "no entry of this operation records this signature".to_owned()))?;
    let index = Some(operation.signed[at].index);
    let key = std::str::from_utf8(pem).ok().and_then(|pem| ApprovalKey::from_pem(pem).ok());
    let key = key.ok_or_else(|| (index, "its key is no P-256 public key in PEM".to_owned()))?;
    if key.digest() != operation.signed[at].key {
        return Err((index, "its key is not the one the entry names".to_owned()));
    }
    key.verify(digest, der).map(|()| at).map_err(|error| (index, error.to_string()))
}
