//! A whole export: files of any names and contents, to the verifier that an auditor trusts.

use std::collections::BTreeMap;

use audit::{FileRecord, Manifest, TrustAnchors, sha256, verify_bundle_until};

/// Findings after which the verifier may stop.
const FINDINGS: usize = 50;

/// First a byte: odd asks for a manifest made anew over the files. Then for each file the length of its name (1), the name,
/// the length of its content (2), the content; what is cut off ends there.
pub fn run(bytes: &[u8]) {
    let Some((anew, mut rest)) = bytes.split_first() else { return };
    let mut files = BTreeMap::new();
    while let Some((name, after)) = take(rest, 1) {
        let Some((content, after)) = take(after, 2) else { break };
        files.insert(String::from_utf8_lossy(name).into_owned(), content.to_vec());
        rest = after;
    }
    if anew % 2 == 1 {
        manifest_anew(&mut files);
    }
    let verdict = verify_bundle_until(&files, &TrustAnchors::default(), FINDINGS, &mut |_, _| ());
    match verdict {
        Ok(report) => assert_eq!(report.counts.entries, report.checkpoint.size),
        Err(failure) => assert!((1..=FINDINGS).contains(&failure.findings.len())),
    }
}

fn take(bytes: &[u8], width: usize) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_at_checked(width)?;
    let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    Some(rest.split_at(length.min(rest.len())))
}

/// As whoever changes an export would.
fn manifest_anew(files: &mut BTreeMap<String, Vec<u8>>) {
    let path = audit::MANIFEST_PATH;
    let Some(mut manifest) = files.get(path).and_then(|bytes| serde_manifest(bytes)) else { return };
    let others = files.iter().filter(|(name, _)| name.as_str() != path);
    manifest.files = others
        .map(|(name, bytes)| FileRecord {
            path: name.clone(),
            sha256: sha256(bytes).iter().map(|byte| format!("{byte:02x}")).collect(),
            size: bytes.len() as u64,
        })
        .collect();
    let under = |folder: &str, ending: &str| {
        let of = |file: &&FileRecord| file.path.starts_with(folder) && file.path.ends_with(ending);
        manifest.files.iter().filter(of).count() as u64
    };
    manifest.counts.operations = under("approvals/", "/operation.bin");
    manifest.counts.signatures = under("approvals/", ".der");
    manifest.counts.certificates = under("certs/", "");
    files.insert(path.to_owned(), manifest.to_bytes());
}

fn serde_manifest(bytes: &[u8]) -> Option<Manifest> {
    Manifest::parse(bytes).ok()
}
