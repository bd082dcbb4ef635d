//! Exports: what the writer makes verifies, and what anybody changes is named.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise, and says so")]

mod support;

use std::collections::BTreeSet;

use audit::{
    BundleFiles, BundleFolder, BundleHead, BundleWriter, CheckpointBody, EntryDraft, EventType, Fact,
    Finding, LogKeyRecord, Manifest, Outcome, OutputFile, Part, TrustAnchors, sha256, verify_bundle,
    verify_bundle_until,
};
use proptest::prelude::*;
use support::{Files, Log, LogSigner, ORIGIN, Person, executed, remanifest};

fn findings(files: &Files, signer: &LogSigner) -> Vec<Finding> {
    match verify_bundle(files, &signer.anchors()) {
        Ok(_) => Vec::new(),
        Err(failure) => failure.findings,
    }
}

fn says(findings: &[Finding], file: &str, index: Option<u64>, problem: &str) -> bool {
    findings.iter().any(|f| f.file == file && f.index == index && f.problem.contains(problem))
}

#[test]
fn exports_of_many_sizes_verify() {
    let signer = LogSigner::new(1);
    for size in [4, 5, 255, 256, 257, 511, 512, 513, 1000] {
        let log = Log::of(size);
        let report = verify_bundle(&log.export(&signer, None), &signer.anchors()).unwrap();
        assert_eq!(
            (report.checkpoint.size, report.counts.operations, report.counts.signatures),
            (size, 1, 2)
        );
        assert_eq!(report.signers, std::slice::from_ref(&signer.key));
        assert!(report.warnings.iter().any(|w| w.contains("newest")), "{:?}", report.warnings);
    }
    let empty = Log::default().export(&signer, None);
    assert_eq!(verify_bundle(&empty, &signer.anchors()).unwrap().counts.entries, 0);
}

#[test]
fn an_export_of_the_same_log_has_the_same_bytes_and_names_every_part() {
    let signer = LogSigner::new(1);
    let log = Log::of(300);
    let files = log.export(&signer, Some(100));
    assert_eq!(files, log.export(&signer, Some(100)));
    let manifest = Manifest::parse(&files["MANIFEST.json"]).unwrap();
    for part in [
        "checkpoint",
        "previous/checkpoint",
        "consistency.txt",
        "tile/entries",
        "approvals",
        "schema",
        "VERIFY.md",
    ] {
        assert_eq!(manifest.parts[part], Part::Present, "{part}");
    }
    for part in ["checkpoint.tsr", "bodies", "certs", "erasures.ndjson"] {
        assert!(matches!(&manifest.parts[part], Part::Absent { reason } if !reason.is_empty()), "{part}");
    }
    assert!(files.values().all(|bytes| !bytes.is_empty()), "no empty placeholders");
}

#[test]
fn without_a_key_from_elsewhere_the_report_says_so() {
    let signer = LogSigner::new(1);
    let files = Log::of(10).export(&signer, None);
    let report = verify_bundle(&files, &TrustAnchors::default()).unwrap();
    assert!(
        report.warnings.iter().any(|w| w.contains("TAKEN FROM THE EXPORT") && w.contains(&signer.key.vkey()))
    );
    let other = LogSigner::new(2);
    assert!(
        says(&findings(&files, &other), "checkpoint", None, "no verifiable signatures"),
        "{:?}",
        findings(&files, &other)
    );
}

#[test]
fn an_export_that_extends_what_was_shown_before_verifies_and_a_rewritten_one_does_not() {
    let signer = LogSigner::new(1);
    let log = Log::of(300);
    for old in [0, 1, 128, 255, 256, 300] {
        let report = verify_bundle(&log.export(&signer, Some(old)), &signer.anchors()).unwrap();
        assert!(
            report
                .checks
                .iter()
                .any(|check| check.what.contains(&format!("earlier checkpoint of size {old}")))
        );
    }
    let known = |body: CheckpointBody| TrustAnchors { known_checkpoints: vec![body], ..signer.anchors() };
    let files = log.export(&signer, None);
    let report = verify_bundle(&files, &known(log.body(77))).unwrap();
    assert!(!report.warnings.iter().any(|w| w.contains("newest")));

    let problem = |body: CheckpointBody| verify_bundle(&files, &known(body)).unwrap_err().findings;
    let forked = CheckpointBody { root: [1; 32], ..log.body(77) };
    assert!(says(&problem(forked), "checkpoint", None, "another log"));
    let newer = CheckpointBody { size: 301, ..log.body(300) };
    assert!(says(&problem(newer), "checkpoint", None, "held back"));
    let foreign = CheckpointBody { origin: "elsewhere.example".into(), ..log.body(77) };
    assert!(says(&problem(foreign), "checkpoint", None, "of another log"));

    // The authority shows a rewritten past, with a good signature: the earlier checkpoint gives it away.
    let mut rewritten = log.export(&signer, Some(100));
    rewritten.insert(
        "previous/checkpoint".into(),
        signer.checkpoint(&CheckpointBody { root: [1; 32], ..log.body(100) }),
    );
    let found = findings(&remanifest(&rewritten), &signer);
    assert!(says(&found, "previous/checkpoint", None, "another log"), "{found:?}");
    assert!(says(&found, "consistency.txt", None, "not a part of the newer one"), "{found:?}");
}

#[test]
fn every_flipped_byte_of_an_export_is_found_in_its_file() {
    let signer = LogSigner::new(1);
    // Short entries, so that the bytes are few enough to flip each of them.
    let mut log = Log::of(4);
    while log.entries.len() < 300 {
        log.push(&EntryDraft::new(EventType::RecordRead, Outcome::Done));
    }
    let files = log.export(&signer, Some(100));
    // Each thread flips its share of the bytes; the one value nothing confirms is the name of the software.
    let manifest = String::from_utf8(files["MANIFEST.json"].clone()).unwrap();
    let software = manifest.find("\"0.1.0\"").unwrap();
    let unauthenticated = software + 1..software + 6;
    let anchors = signer.anchors();
    let share = |mine: usize| {
        let mut changed = files.clone();
        let mut flips = 0;
        for (path, bytes) in &files {
            for at in (0..bytes.len()).filter(|at| at % 2 == mine) {
                if path == "MANIFEST.json" && unauthenticated.contains(&at) {
                    continue;
                }
                changed.get_mut(path).unwrap()[at] ^= 1 << (at % 8);
                let verdict = verify_bundle_until(&changed, &anchors, 1, &mut |_, _| ());
                let found = verdict.map_or_else(|failure| failure.findings, |_| Vec::new());
                // A changed path in the manifest shows as files that are missing and extra.
                let named = path == "MANIFEST.json" || found.iter().any(|finding| &finding.file == path);
                assert!(!found.is_empty() && named, "{path} byte {at}: {found:?}");
                changed.get_mut(path).unwrap()[at] = bytes[at];
                flips += 1;
            }
        }
        flips
    };
    let flips = std::thread::scope(|scope| {
        let shares = [0, 1].map(|mine| scope.spawn(move || share(mine)));
        shares.map(|thread| thread.join().unwrap()).iter().sum::<usize>()
    });
    assert_eq!(flips, files.values().map(Vec::len).sum::<usize>() - 5);
}

#[test]
fn a_flipped_byte_is_found_by_entry_even_when_the_manifest_is_made_anew() {
    let signer = LogSigner::new(1);
    let files = Log::of(300).export(&signer, Some(100));
    for (path, bytes) in &files {
        // What only the manifest covers is documented: the guide and the schema.
        if ["MANIFEST.json", "VERIFY.md", "schema/entry.schema.json"].contains(&path.as_str()) {
            continue;
        }
        for at in (0..bytes.len()).step_by(61).chain([bytes.len() - 1]) {
            let mut changed = files.clone();
            changed.get_mut(path).unwrap()[at] ^= 1;
            let found = findings(&remanifest(&changed), &signer);
            assert!(!found.is_empty(), "{path} byte {at}");
            if path.starts_with("tile/entries/") {
                assert!(
                    found.iter().all(|f| &f.file == path || f.file.starts_with("approvals/")),
                    "{path} byte {at}: {found:?}"
                );
            }
        }
    }
    let path = "tile/entries/001.p/44";
    let mut changed = files.clone();
    let entry = audit::split_bundle(&files[path]).unwrap()[13];
    let place = files[path].windows(entry.len()).position(|window| window == entry).unwrap();
    changed.get_mut(path).unwrap()[place + 40] ^= 1;
    let found = findings(&remanifest(&changed), &signer);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        found[0].to_string(),
        format!("{path} entry 269: does not hash to its leaf in tile/0/001.p/44")
    );
}

#[test]
fn a_missing_extra_or_renamed_file_is_found() {
    let signer = LogSigner::new(1);
    let files = Log::of(300).export(&signer, Some(100));
    for path in files.keys() {
        let mut fewer = files.clone();
        let bytes = fewer.remove(path).unwrap();
        let found = findings(&fewer, &signer);
        assert!(
            says(&found, path, None, if path == "MANIFEST.json" { "no such file" } else { "missing" }),
            "{path}: {found:?}"
        );
        if path != "MANIFEST.json" && path != "VERIFY.md" && !path.starts_with("schema/") {
            let found = findings(&remanifest(&fewer), &signer);
            assert!(!found.is_empty(), "{path} removed with its line in the manifest");
        }
        let mut renamed = fewer.clone();
        renamed.insert(format!("{path}x"), bytes.clone());
        assert!(!findings(&renamed, &signer).is_empty());
        let mut more = files.clone();
        more.insert(format!("{path}.extra"), bytes);
        assert!(says(&findings(&more, &signer), &format!("{path}.extra"), None, "not listed"));
        if path.starts_with("tile/") || path.starts_with("approvals/") {
            assert!(!findings(&remanifest(&more), &signer).is_empty(), "{path}.extra");
        }
    }
}

#[test]
fn entries_deleted_duplicated_or_reordered_are_found() {
    let signer = LogSigner::new(1);
    let files = Log::of(300).export(&signer, None);
    let path = "tile/entries/000";
    let entries: Vec<Vec<u8>> =
        audit::split_bundle(&files[path]).unwrap().into_iter().map(<[u8]>::to_vec).collect();
    let write = |entries: &[Vec<u8>]| -> Vec<u8> {
        entries.iter().flat_map(|e| [&(e.len() as u16).to_be_bytes(), e.as_slice()].concat()).collect()
    };
    assert_eq!(write(&entries), files[path]);
    let changes: [fn(&mut Vec<Vec<u8>>); 4] = [
        |entries| drop(entries.remove(7)),
        |entries| entries.insert(7, entries[7].clone()),
        |entries| entries.swap(7, 8),
        |entries| entries[8] = entries[7].clone(),
    ];
    for change in changes {
        let (mut entries, mut changed) = (entries.clone(), files.clone());
        change(&mut entries);
        changed.insert(path.to_owned(), write(&entries));
        let found = findings(&remanifest(&changed), &signer);
        assert!(
            says(&found, path, Some(8), "does not hash") || says(&found, path, Some(7), "does not hash"),
            "{found:?}"
        );
    }
    // Two full files of the same length in each other's place.
    let signer = LogSigner::new(1);
    let mut files = Log::of(600).export(&signer, None);
    let (zero, one) = (files["tile/0/000"].clone(), files["tile/0/001"].clone());
    files.insert("tile/0/000".into(), one);
    files.insert("tile/0/001".into(), zero);
    assert!(!findings(&remanifest(&files), &signer).is_empty());
}

#[test]
fn a_signed_log_with_a_gap_a_step_back_in_time_or_a_foreign_line_does_not_verify() {
    let signer = LogSigner::new(1);
    let path = "tile/entries/000.p/20";
    let judge = |change: &dyn Fn(&mut Log)| {
        let mut log = Log::of(20);
        change(&mut log);
        findings(&log.export(&signer, None), &signer)
    };
    assert!(judge(&|_| ()).is_empty());
    let draft = || support::released(1);
    assert!(says(
        &judge(&|log| log.entries[9] = draft().seal(10, support::at(9))),
        path,
        Some(9),
        "says that it is entry 10"
    ));
    assert!(says(
        &judge(&|log| log.entries[9] = draft().seal(9, support::at(8))),
        path,
        Some(9),
        "is not after"
    ));
    assert!(says(&judge(&|log| log.entries[9] = b"{\"v\":1}".to_vec()), path, Some(9), "malformed JSON"));
    assert!(says(&judge(&|log| log.entries[9].push(b'\n')), path, Some(9), "not in the one form"));
}

type Change = fn(&mut Log, &Person, &Person);

/// The verdict over a log whose operation went through `change` instead of request, approval and execution.
fn judge_operation(change: Change) -> Vec<Finding> {
    let signer = LogSigner::new(1);
    let mut log = Log::default();
    log.push(&EntryDraft::new(EventType::AuthorityCreated, Outcome::Done));
    change(&mut log, &Person::new("alice"), &Person::new("bob"));
    log.fill(8);
    findings(&log.export(&signer, None), &signer)
}

const OPERATION: &[u8] = b"enrol";
const ENTRIES: &str = "tile/entries/000.p/8";

fn request(log: &mut Log, alice: &Person) {
    let evidence = alice.approve(OPERATION);
    log.push(&alice.entry(EventType::OperationRequested, OPERATION, &evidence));
    log.operations.push((OPERATION.to_vec(), vec![evidence]));
}

fn approve(log: &mut Log, person: &Person) {
    let evidence = person.approve(OPERATION);
    log.push(&person.entry(EventType::OperationApproved, OPERATION, &evidence));
    log.operations[0].1.push(evidence);
}

fn deed(event: EventType) -> EntryDraft {
    EntryDraft::new(event, Outcome::Done).fact("operation", Fact::Digest(sha256(OPERATION)))
}

// TRUST 13: each attack on approvals that reached the log is visible from the export alone.
#[test]
fn every_quorum_decision_is_recomputed_from_the_export() {
    let good: Change = |log, alice, bob| log.run_operation(OPERATION, alice, bob);
    assert_eq!(judge_operation(good), []);
    let enrolled: Change = |log, alice, bob| {
        log.run_operation(OPERATION, alice, bob);
        log.push(&deed(EventType::PartyEnrolled));
    };
    assert_eq!(judge_operation(enrolled), []);
    let open: Change = |log, alice, _| request(log, alice);
    assert_eq!(judge_operation(open), []);

    let cases: [(&str, u64, &str, Change); 16] = [
        ("executed without approval", 2, "executed with 1", |log, alice, _| {
            request(log, alice);
            log.push(&executed(OPERATION, 1));
        }),
        ("claims an approval that is not there", 2, "approvals is not 1", |log, alice, _| {
            request(log, alice);
            log.push(&executed(OPERATION, 2));
        }),
        ("the requester approves", 2, "approver is the requester", |log, alice, _| {
            request(log, alice);
            approve(log, alice);
        }),
        ("the requester approves with another key", 2, "approver is the requester", |log, alice, _| {
            request(log, alice);
            approve(log, &Person::new("alice"));
        }),
        ("one person approves twice", 3, "counted already in entry 2", |log, alice, bob| {
            request(log, alice);
            approve(log, bob);
            approve(log, bob);
        }),
        ("executed without a request", 1, "no earlier entry requested", |log, _, _| {
            log.push(&executed(OPERATION, 2))
        }),
        ("executed twice", 4, "executed before, by entry 3", |log, alice, bob| {
            log.run_operation(OPERATION, alice, bob);
            log.push(&executed(OPERATION, 2));
        }),
        ("executed after a rejection", 4, "rejected by entry 3", |log, alice, bob| {
            request(log, alice);
            approve(log, bob);
            let rejected = EntryDraft::new(EventType::OperationRejected, Outcome::Done);
            log.push(&rejected.fact("operation", Fact::Digest(sha256(OPERATION))));
            log.push(&executed(OPERATION, 2));
        }),
        ("approval after execution", 2, "executed with 1", |log, alice, bob| {
            request(log, alice);
            log.push(&executed(OPERATION, 1));
            approve(log, bob);
        }),
        ("a deed that names an operation short of its quorum", 2, "done with 1 persons", |log, alice, _| {
            request(log, alice);
            log.push(&deed(EventType::PartyEnrolled));
        }),
        (
            "a deed of another kind than was approved",
            4,
            "approved is enrol-party, not this",
            |log, alice, bob| {
                log.run_operation(OPERATION, alice, bob);
                log.push(&deed(EventType::DeviceRestored));
            },
        ),
        (
            "a party's certificate that nobody approved",
            4,
            "approved is enrol-party, not this",
            |log, alice, bob| {
                log.run_operation(OPERATION, alice, bob);
                log.push(&deed(EventType::CertificateIssued).fact("profile", Fact::fixed_name("dppb")));
            },
        ),
        ("one approval for two deeds", 5, "done before, by entry 4", |log, alice, bob| {
            log.run_operation(OPERATION, alice, bob);
            log.push(&deed(EventType::PartyEnrolled));
            log.push(&deed(EventType::PartyEnrolled));
        }),
        (
            "a deed of an operation that was approved and not executed",
            3,
            "executed this",
            |log, alice, bob| {
                request(log, alice);
                approve(log, bob);
                log.push(&deed(EventType::PartyEnrolled));
            },
        ),
        ("a deed of a rejected operation", 4, "rejected by entry 3", |log, alice, bob| {
            request(log, alice);
            approve(log, bob);
            let rejected = EntryDraft::new(EventType::OperationRejected, Outcome::Done);
            log.push(&rejected.fact("operation", Fact::Digest(sha256(OPERATION))));
            log.push(&deed(EventType::PartyEnrolled));
        }),
        ("a quorum of one", 1, "at least 2 must sign", |log, alice, _| {
            let evidence = alice.approve(OPERATION);
            let draft = EntryDraft::new(EventType::OperationRequested, Outcome::Done)
                .actor(support::pseudonyms().person("alice"))
                .fact("operation", Fact::Digest(sha256(OPERATION)))
                .fact("kind", Fact::fixed_name("enrol-party"))
                .fact("k", Fact::Number(1))
                .fact("key", Fact::Digest(sha256(&evidence.spki)))
                .fact("signature", Fact::Digest(sha256(&evidence.signature)));
            log.push(&draft);
        }),
    ];
    for (case, index, problem, change) in cases {
        let found = judge_operation(change);
        assert!(says(&found, ENTRIES, Some(index), problem), "{case}: {found:?}");
    }
}

#[test]
fn evidence_that_does_not_prove_what_the_log_says_is_found() {
    let folder = format!("approvals/{}", hex::encode(sha256(OPERATION)));
    let cases: [(&str, &str, &str, Change); 6] = [
        ("no evidence at all", "/operation.bin", "approvals are missing", |log, alice, bob| {
            log.run_operation(OPERATION, alice, bob);
            log.operations.clear();
        }),
        ("the approver's signature left out", "", "no valid signature of the approver", |log, alice, bob| {
            log.run_operation(OPERATION, alice, bob);
            log.operations[0].1.pop();
        }),
        (
            "the requester's signature left out",
            "",
            "no valid signature of the requester",
            |log, alice, bob| {
                log.run_operation(OPERATION, alice, bob);
                log.operations[0].1.remove(0);
            },
        ),
        ("one signature twice", "/2.der", "there twice", |log, alice, bob| {
            log.run_operation(OPERATION, alice, bob);
            log.operations[0].1[1] = log.operations[0].1[0].clone();
        }),
        ("a signature the log does not know", "/2.der", "no entry of this operation", |log, alice, bob| {
            log.run_operation(OPERATION, alice, bob);
            log.operations[0].1[1] = bob.approve(OPERATION);
        }),
        ("another key beside the signature", "/2.der", "not the one the entry names", |log, alice, bob| {
            log.run_operation(OPERATION, alice, bob);
            log.operations[0].1[1].spki = alice.spki();
        }),
    ];
    for (case, file, problem, change) in cases {
        let found = judge_operation(change);
        let file = format!("{folder}{file}");
        assert!(found.iter().any(|f| f.file == file && f.problem.contains(problem)), "{case}: {found:?}");
    }
    // The service logs a signature over other bytes as an approval of these: entry, digest and key agree, the proof fails.
    let forged = judge_operation(|log, alice, bob| {
        request(log, alice);
        let other = bob.approve(b"something harmless");
        log.push(&bob.entry(EventType::OperationApproved, OPERATION, &other));
        log.push(&executed(OPERATION, 2));
        log.operations[0].1.push(other);
    });
    assert!(says(&forged, &format!("{folder}/2.der"), Some(2), "does not verify"), "{forged:?}");
    let foreign = judge_operation(|log, alice, bob| {
        log.run_operation(OPERATION, alice, bob);
        log.operations.push((b"never requested".to_vec(), vec![alice.approve(b"never requested")]));
    });
    assert!(foreign.iter().any(|f| f.problem.contains("no entry requests this operation")), "{foreign:?}");
}

#[test]
fn the_writer_refuses_what_would_not_verify() {
    let signer = LogSigner::new(1);
    let log = Log::of(10);
    let head = |checkpoint: Vec<u8>, previous: Option<Vec<u8>>| BundleHead {
        software: "0.1.0".into(),
        log_keys: vec![LogKeyRecord::first(&signer.key)],
        checkpoint,
        previous,
    };
    assert!(BundleWriter::new(head(LogSigner::new(2).checkpoint(&log.body(10)), None)).is_err());
    assert!(
        BundleWriter::new(head(signer.checkpoint(&log.body(9)), Some(signer.checkpoint(&log.body(10)))))
            .is_err()
    );
    let writer = || BundleWriter::new(head(signer.checkpoint(&log.body(10)), None)).unwrap();
    assert!(writer().finish().is_err(), "no entries");
    let mut changed = writer();
    for entry in log.entries.iter().rev() {
        changed.push_entry(entry).unwrap();
    }
    assert!(changed.push_entry(&log.entries[0]).is_err(), "one too many");
    assert!(changed.finish().is_err(), "wrong order");
    let forked = CheckpointBody { root: [1; 32], ..log.body(5) };
    let mut forked =
        BundleWriter::new(head(signer.checkpoint(&log.body(10)), Some(signer.checkpoint(&forked)))).unwrap();
    for entry in &log.entries {
        forked.push_entry(entry).unwrap();
    }
    assert!(forked.finish().is_err(), "the earlier checkpoint is of another log");
    assert!(writer().push_certificate("../x", b"c").is_err());
    assert!(
        writer()
            .push_operation(b"o", &[audit::ApprovalEvidence { signature: vec![], spki: vec![1] }])
            .is_err()
    );
}

#[test]
fn a_folder_is_written_once_and_nothing_leaves_it() {
    let folder = tempfile::tempdir().unwrap();
    let signer = LogSigner::new(1);
    let bundle = BundleFolder::new(folder.path().join("export"));
    for (path, bytes) in Log::of(300).export(&signer, None) {
        bundle.write(&OutputFile { path, bytes }).unwrap();
    }
    assert!(verify_bundle(&bundle, &signer.anchors()).is_ok());
    let file = |path: &str| OutputFile { path: path.to_owned(), bytes: vec![1] };
    for path in ["../x", "/etc/x", "a/../../x", "a//b", "", "a/.", "a\\b", "ü"] {
        assert!(bundle.write(&file(path)).is_err(), "{path:?}");
    }
    assert!(bundle.write(&file("checkpoint")).is_err(), "no file is written twice");
    std::os::unix::fs::symlink("/etc/hostname", folder.path().join("export/link")).unwrap();
    assert!(bundle.list().is_err());
    assert!(verify_bundle(&bundle, &signer.anchors()).is_err());
}

#[test]
fn a_manifest_that_lies_about_its_size_costs_nothing() {
    let signer = LogSigner::new(1);
    let mut files = Log::of(10).export(&signer, None);
    let huge = CheckpointBody { origin: ORIGIN.to_owned(), size: u64::MAX, root: [0; 32] };
    files.insert("checkpoint".into(), signer.checkpoint(&huge));
    let text = String::from_utf8(files["MANIFEST.json"].clone()).unwrap();
    let text = text.replace("\"size\": 10\n", &format!("\"size\": {}\n", u64::MAX));
    let text = text.replace("\"entries\": 10,", &format!("\"entries\": {},", u64::MAX));
    files.insert("MANIFEST.json".into(), text.into_bytes());
    let found = findings(&remanifest(&files), &signer);
    assert!(says(&found, "MANIFEST.json", None, "too few"), "{found:?}");
}

#[test]
fn the_files_listed_are_those_written() {
    let files = Log::of(300).export(&LogSigner::new(1), Some(3));
    let manifest = Manifest::parse(&files["MANIFEST.json"]).unwrap();
    let listed: BTreeSet<_> =
        manifest.files.iter().map(|file| file.path.clone()).chain(["MANIFEST.json".into()]).collect();
    assert_eq!(listed, files.keys().cloned().collect());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn arbitrary_files_never_panic_the_verifier(which: prop::sample::Index, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let signer = LogSigner::new(1);
        let mut files = Log::of(6).export(&signer, Some(3));
        let path = files.keys().nth(which.index(files.len())).unwrap().clone();
        files.insert(path.clone(), bytes);
        prop_assert!(verify_bundle(&files, &signer.anchors()).is_err());
        if path != "MANIFEST.json" {
            let free = path == "VERIFY.md" || path.starts_with("schema/");
            prop_assert_eq!(verify_bundle(&remanifest(&files), &signer.anchors()).is_ok(), free);
        }
    }
}

#[test]
fn a_protected_deed_without_its_operation_is_a_finding_once_the_service_has_started() {
    let signer = LogSigner::new(1);
    let enrolled = || EntryDraft::new(EventType::PartyEnrolled, Outcome::Done);
    let mut log = Log::default();
    log.push(&EntryDraft::new(EventType::AuthorityCreated, Outcome::Done));
    // The founding ceremony: its transcript vouches for it.
    log.push(&enrolled());
    log.push(&EntryDraft::new(EventType::ServiceStarted, Outcome::Done));
    let report = verify_bundle(&log.export(&signer, None), &signer.anchors()).unwrap();
    assert!(report.warnings.iter().any(|warning| warning.starts_with("1 deeds of the founding ceremony")));
    log.push(&enrolled());
    let found = findings(&log.export(&signer, None), &signer);
    assert!(found.iter().any(|finding| finding.index == Some(3)), "{found:?}");
}

#[test]
fn an_approval_of_many_certificates_covers_so_many_and_no_more() {
    let judge = |count: u64, entries: u64, head: bool| {
        let signer = LogSigner::new(1);
        let mut log = Log::default();
        log.push(&EntryDraft::new(EventType::AuthorityCreated, Outcome::Done));
        log.run_operation(support::MANY, &Person::new("alice"), &Person::new("bob"));
        let of_it = |event| {
            EntryDraft::new(event, Outcome::Done).fact("operation", Fact::Digest(sha256(support::MANY)))
        };
        if head {
            log.push(&of_it(EventType::CertificatesRevoked).fact("count", Fact::Number(count)));
        }
        for _ in 0..entries {
            log.push(&of_it(EventType::CertificateRevoked));
        }
        log.fill(10);
        findings(&log.export(&signer, None), &signer)
    };
    assert_eq!(judge(2, 2, true), []);
    let path = "tile/entries/000.p/10";
    assert!(says(&judge(2, 3, true), path, Some(7), "more certificates were revoked"));
    assert!(says(&judge(2, 1, false), path, Some(4), "more certificates were revoked"));
}
