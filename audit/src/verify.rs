//! The offline verifier: an export in, a report or findings out. No network, token, service or database; one file of
//! the export in memory at a time.

use std::collections::{BTreeMap, BTreeSet};

use domain::Timestamp;
use tlog_tiles::{
    Hash as TlogHash, HashReader, Tile, TileHashReader, TileReader, stored_hash_index, tree_hash,
};

use crate::consistency::{check_consistency, parse_witness_request};
use crate::evidence::check_evidence;
use crate::manifest::{FileRecord, LogKeyRecord, MANIFEST_PATH, Manifest, read_log_keys, read_policy};
use crate::quorum::QuorumBook;
use crate::report::{Check, FINDINGS_MAX, Finding, TrustAnchors, VerifyFailure, VerifyReport};
use crate::tiles::c2sp_path;
use crate::{
    AuditError, BundleFiles, CheckpointBody, Entry, EventType, Frontier, Hash, LogKey, TILE_WIDTH,
    TileWriter, VerifiedCheckpoint, entry_bundle_path, hash_tile_path, leaf_hash, sha256, split_bundle,
    verify_checkpoint,
};

/// Verifies an export completely; `docs/formats/audit-export.md` lists the checks in their order.
pub fn verify_bundle(files: &dyn BundleFiles, anchors: &TrustAnchors) -> Result<VerifyReport, VerifyFailure> {
    verify_bundle_observed(files, anchors, &mut |_, _| ())
}

/// As [`verify_bundle`], telling `progress` after every 256 entries how many of how many are done.
pub fn verify_bundle_observed(
    files: &dyn BundleFiles,
    anchors: &TrustAnchors,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<VerifyReport, VerifyFailure> {
    verify_bundle_until(files, anchors, FINDINGS_MAX, progress)
}

/// As [`verify_bundle_observed`], but stops after `findings_max` findings: 1 gives a plain yes or no sooner.
pub fn verify_bundle_until(
    files: &dyn BundleFiles,
    anchors: &TrustAnchors,
    findings_max: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<VerifyReport, VerifyFailure> {
    let mut bundle = Bundle {
        files,
        records: BTreeMap::new(),
        present: BTreeSet::new(),
        unread: BTreeSet::new(),
        findings: Vec::new(),
        findings_max,
    };
    let outcome = verify(&mut bundle, anchors, progress);
    match outcome {
        Ok(report) if bundle.findings.is_empty() => Ok(report),
        Ok(_) => Err(VerifyFailure { findings: bundle.findings, stopped_early: false }),
        Err(Stop) => {
            let stopped_early = bundle.findings.len() >= findings_max;
            Err(VerifyFailure { findings: bundle.findings, stopped_early })
        }
    }
}

/// Verification cannot go on: what it needs next was found wrong, or the findings are too many.
pub(crate) struct Stop;

/// The files of an export with what the manifest says of them.
pub(crate) struct Bundle<'a> {
    files: &'a dyn BundleFiles,
    records: BTreeMap<String, FileRecord>,
    present: BTreeSet<String>,
    unread: BTreeSet<String>,
    findings: Vec<Finding>,
    findings_max: usize,
}

impl Bundle<'_> {
    pub fn find(&mut self, file: &str, index: Option<u64>, problem: impl Into<String>) -> Result<(), Stop> {
        self.findings.push(Finding { file: file.to_owned(), index, problem: problem.into() });
        if self.findings.len() >= self.findings_max { Err(Stop) } else { Ok(()) }
    }

    /// Paths that the manifest lists under a folder given with its `/`.
    pub fn paths_under(&self, folder: &str) -> Vec<String> {
        let from = self.records.range(folder.to_owned()..);
        from.map(|(path, _)| path).take_while(|path| path.starts_with(folder)).cloned().collect()
    }

    pub fn lists(&self, path: &str) -> bool {
        self.records.contains_key(path)
    }

    /// Reads a file and compares it with the manifest. None when it is not there, which is a finding already; a file
    /// with a wrong digest is returned, so that the place of the damage can be named.
    pub fn read(&mut self, path: &str) -> Result<Option<Vec<u8>>, Stop> {
        let Some(record) = self.records.get(path).cloned() else {
            self.find(path, None, "required, and not listed in MANIFEST.json")?;
            return Ok(None);
        };
        self.unread.remove(path);
        if !self.present.contains(path) {
            return Ok(None);
        }
        let bytes = match self.files.read(path) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.find(path, None, format!("cannot be read: {error}"))?;
                return Ok(None);
            }
        };
        if bytes.len() as u64 != record.size {
            let problem = format!("{} bytes, MANIFEST.json says {}", bytes.len(), record.size);
            self.find(path, None, problem)?;
        } else if hex::encode(sha256(&bytes)) != record.sha256 {
            self.find(path, None, "its SHA-256 is not that of MANIFEST.json")?;
        }
        Ok(Some(bytes))
    }

    fn require(&mut self, path: &str) -> Result<Vec<u8>, Stop> {
        self.read(path)?.ok_or(Stop)
    }

    fn fail<T>(&mut self, file: &str, problem: impl Into<String>) -> Result<T, Stop> {
        self.find(file, None, problem)?;
        Err(Stop)
    }
}

fn verify(
    bundle: &mut Bundle<'_>,
    anchors: &TrustAnchors,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<VerifyReport, Stop> {
    let mut checks = Vec::new();
    let mut warnings = Vec::new();
    let mut passed = |what: String, defeats: &'static str| checks.push(Check { what, defeats });

    // 1. The manifest, and that the files are those it lists.
    let manifest = open_manifest(bundle)?;
    read_plain_files(bundle)?;

    // 2. The checkpoint under the log's keys.
    let keys = open_keys(bundle, anchors, &mut warnings)?;
    let note = bundle.require("checkpoint")?;
    let checkpoint = match verify_checkpoint(&note, &keys.trusted) {
        Ok(checkpoint) => checkpoint,
        Err(error) => return bundle.fail("checkpoint", error.to_string()),
    };
    let body = &checkpoint.body;
    if (&manifest.origin, manifest.range.size) != (&body.origin, body.size) {
        return bundle.fail(MANIFEST_PATH, "origin and size are not those of the checkpoint");
    }
    check_signers(bundle, &keys, &checkpoint)?;

    // 3. Every entry, tile and root.
    check_tile_set(bundle, body.size)?;
    let previous = open_previous(bundle, &keys, &checkpoint, &note)?;
    let mut pass = EntryPass::new(&keys.records, anchors, previous.as_ref(), body);
    pass.run(bundle, body.size, progress)?;
    let root = pass.frontier.root();
    if root != body.root {
        let problem =
            format!("the leaves hash to root {}, not {}", hex::encode(root), hex::encode(body.root));
        bundle.find("checkpoint", None, problem)?;
    }
    for at in pass.unmet_keys() {
        bundle.find("log-keys.json", Some(at), "the entry does not exist")?;
    }
    if bundle.findings.is_empty() {
        check_with_library(bundle, body)?;
    }

    // 4. Approvals, from the signatures themselves.
    let signatures = check_evidence(bundle, &pass.quorum)?;

    // 5. Whatever was not read on the way.
    while let Some(path) = bundle.unread.first().cloned() {
        bundle.read(&path)?;
    }

    passed(
        format!(
            "all {} files are as MANIFEST.json lists them; none is missing, none is extra",
            manifest.files.len()
        ),
        "damage and clumsy changes after the export was written",
    );
    let names: Vec<String> =
        checkpoint.signers.iter().map(|key| format!("{}+{}", key.name(), key.id_hex())).collect();
    passed(
        format!("the checkpoint of size {} is signed by {}", body.size, names.join(", ")),
        "whoever handled the export or owns the service's disks but cannot use the log key in its token",
    );
    passed(
        format!("all {} entries hash to the leaves, tiles and root {}", body.size, hex::encode(body.root)),
        "whoever changed, removed, inserted or reordered an entry after the checkpoint was signed",
    );
    passed(
        "every entry has its one form, the numbers have no gap and the times strictly grow".to_owned(),
        "a service that writes ambiguous entries, leaves some out, or dates them back",
    );
    if let Some((old, _)) = &previous {
        passed(
            format!("this log extends the earlier checkpoint of size {}", old.body.size),
            "a service that rewrote what it had shown before",
        );
    }
    if !anchors.known_checkpoints.is_empty() {
        passed(
            format!("{} checkpoints got elsewhere are states of this log", anchors.known_checkpoints.len()),
            "a service that shows different logs to different people, or holds back its newest entries",
        );
    }
    if previous.is_none() && anchors.known_checkpoints.is_empty() {
        warnings.push(
            "nothing here shows that this is the newest or the only state of the log: compare the checkpoint with one \
             from elsewhere"
                .to_owned(),
        );
    }
    passed(
        format!(
            "{} operations, {} approval signatures verified: each executed one had k distinct persons, the requester \
             among them",
            pass.quorum.operations().len(),
            signatures
        ),
        "an insider who carries out a protected operation alone, and a service that invents approvals",
    );
    if pass.quorum.founding() > 0 {
        warnings.push(format!(
            "{} deeds of the founding ceremony rest on its transcript alone: compare it with entry 0",
            pass.quorum.founding()
        ));
    }
    let counts = manifest.counts;
    Ok(VerifyReport { checkpoint: checkpoint.body, signers: checkpoint.signers, counts, checks, warnings })
}

fn open_manifest(bundle: &mut Bundle<'_>) -> Result<Manifest, Stop> {
    let paths = match bundle.files.list() {
        Ok(paths) => paths,
        Err(error) => return bundle.fail(".", error.to_string()),
    };
    let parsed = bundle.files.read(MANIFEST_PATH).and_then(|bytes| Manifest::parse(&bytes));
    let manifest = match parsed {
        Ok(manifest) => manifest,
        Err(AuditError::File { problem, .. }) => return bundle.fail(MANIFEST_PATH, problem),
        Err(error) => return bundle.fail(MANIFEST_PATH, error.to_string()),
    };
    bundle.records = manifest.files.iter().map(|record| (record.path.clone(), record.clone())).collect();
    bundle.present = paths.into_iter().filter(|path| path != MANIFEST_PATH).collect();
    bundle.unread = bundle.records.keys().cloned().collect();
    for path in bundle.unread.clone() {
        if !bundle.present.contains(&path) {
            bundle.find(&path, None, "listed in MANIFEST.json and missing")?;
        }
    }
    for path in bundle.present.clone() {
        if !bundle.records.contains_key(&path) {
            bundle.find(&path, None, "not listed in MANIFEST.json")?;
        }
    }
    Ok(manifest)
}

/// Files that no later check opens: damage in them is found before the long walk.
fn read_plain_files(bundle: &mut Bundle<'_>) -> Result<(), Stop> {
    let opened_later = |path: &str| {
        ["checkpoint", "policy.txt", "log-keys.json", "previous/checkpoint", "consistency.txt"]
            .contains(&path)
            || path.starts_with("tile/")
            || path.starts_with("approvals/")
    };
    for path in bundle.unread.clone().into_iter().filter(|path| !opened_later(path)) {
        bundle.read(&path)?;
    }
    Ok(())
}

struct Keys {
    trusted: Vec<LogKey>,
    records: Vec<(LogKey, LogKeyRecord)>,
}

fn open_keys(
    bundle: &mut Bundle<'_>,
    anchors: &TrustAnchors,
    warnings: &mut Vec<String>,
) -> Result<Keys, Stop> {
    let policy = bundle.require("policy.txt")?;
    let policy = match read_policy(&policy) {
        Ok(keys) => keys,
        Err(problem) => return bundle.fail("policy.txt", problem),
    };
    let records = bundle.require("log-keys.json")?;
    let records = match read_log_keys(&records) {
        Ok(records) => records,
        Err(problem) => return bundle.fail("log-keys.json", problem),
    };
    if let Some(key) = policy.iter().find(|key| !records.iter().any(|(known, _)| known == *key)) {
        bundle.find("log-keys.json", None, format!("lacks the policy's key {}", key.vkey()))?;
    }
    let trusted = if anchors.log_keys.is_empty() {
        let vkeys: Vec<String> = records.iter().map(|(key, _)| key.vkey()).collect();
        warnings.push(format!(
            "THE LOG KEY WAS TAKEN FROM THE EXPORT ITSELF ({}): whoever made the export could have made the key; \
             compare it with the one the authority published",
            vkeys.join(" ")
        ));
        records.iter().map(|(key, _)| key.clone()).collect()
    } else {
        anchors.log_keys.clone()
    };
    Ok(Keys { trusted, records })
}

fn check_signers(bundle: &mut Bundle<'_>, keys: &Keys, checkpoint: &VerifiedCheckpoint) -> Result<(), Stop> {
    let size = checkpoint.body.size;
    for signer in &checkpoint.signers {
        let record = keys.records.iter().find(|(key, _)| key == signer).map(|(_, record)| record);
        let covers = |r: &LogKeyRecord| r.from_size <= size && r.until_size.is_none_or(|until| size <= until);
        if !record.is_some_and(covers) {
            bundle.find(
                "log-keys.json",
                None,
                format!("no range of {} covers size {size}", signer.vkey()),
            )?;
        }
    }
    Ok(())
}

/// The tile files listed are exactly those of the size.
fn check_tile_set(bundle: &mut Bundle<'_>, size: u64) -> Result<(), Stop> {
    let listed = bundle.paths_under("tile/");
    // Before the paths are made: the size may be a lie of any magnitude.
    if size.div_ceil(TILE_WIDTH as u64) > listed.len() as u64 {
        return bundle
            .fail(MANIFEST_PATH, format!("{} tile files are too few for {size} entries", listed.len()));
    }
    let expected: BTreeSet<String> = crate::tile_paths(size).into_iter().collect();
    for path in &listed {
        if !expected.contains(path) {
            bundle.find(path, None, format!("no tile of a log of {size} entries"))?;
        }
    }
    let listed: BTreeSet<String> = listed.into_iter().collect();
    for path in expected.difference(&listed) {
        bundle.find(path, None, "required, and not listed in MANIFEST.json")?;
    }
    Ok(())
}

/// The checkpoint of the last export with its consistency proof; both or none.
fn open_previous(
    bundle: &mut Bundle<'_>,
    keys: &Keys,
    checkpoint: &VerifiedCheckpoint,
    note: &[u8],
) -> Result<Option<(VerifiedCheckpoint, String)>, Stop> {
    let path = "previous/checkpoint";
    if !bundle.lists(path) && !bundle.lists("consistency.txt") {
        return Ok(None);
    }
    let (Some(old), Some(request)) = (bundle.read(path)?, bundle.read("consistency.txt")?) else {
        return Ok(None);
    };
    let old = match verify_checkpoint(&old, &keys.trusted) {
        Ok(old) => old,
        Err(error) => {
            bundle.find(path, None, error.to_string())?;
            return Ok(None);
        }
    };
    let proof = parse_witness_request(&request, note).and_then(|(size, proof)| {
        if size == old.body.size {
            check_consistency(&old.body, &checkpoint.body, &proof)
        } else {
            Err(AuditError::Consistency("it begins at another size than the earlier checkpoint".to_owned()))
        }
    });
    if let Err(error) = proof {
        bundle.find("consistency.txt", None, error.to_string())?;
    }
    Ok(Some((old, path.to_owned())))
}

/// The walk over all entries.
struct EntryPass {
    frontier: Frontier,
    quorum: QuorumBook,
    tiles: TileWriter,
    last_time: Option<Timestamp>,
    // Roots the log must have had: by size, with the file that says so.
    known_roots: Vec<(u64, Hash, String)>,
    // Digests of keys that entries must have introduced, by index.
    key_entries: BTreeMap<u64, Hash>,
}

impl EntryPass {
    fn new(
        records: &[(LogKey, LogKeyRecord)],
        anchors: &TrustAnchors,
        previous: Option<&(VerifiedCheckpoint, String)>,
        body: &CheckpointBody,
    ) -> Self {
        let mut known_roots: Vec<(u64, Hash, String)> = Vec::new();
        for known in &anchors.known_checkpoints {
            // A checkpoint of another log can never be met, which the end of the walk reports.
            let size = if known.origin == body.origin { known.size } else { u64::MAX };
            known_roots.push((size, known.root, "checkpoint".to_owned()));
        }
        if let Some((old, path)) = previous {
            known_roots.push((old.body.size, old.body.root, path.clone()));
        }
        let key_entries = records
            .iter()
            .filter_map(|(key, record)| record.entry.map(|at| (at, sha256(&key.spki_der()))))
            .collect();
        Self {
            frontier: Frontier::new(),
            quorum: QuorumBook::default(),
            tiles: TileWriter::new(),
            last_time: None,
            known_roots,
            key_entries,
        }
    }

    fn run(
        &mut self,
        bundle: &mut Bundle<'_>,
        size: u64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), Stop> {
        self.meet_known_roots(bundle)?;
        let full = TILE_WIDTH as u64;
        for number in 0..size.div_ceil(full) {
            let width = (size - number * full).min(full);
            self.tile(bundle, number, width as u16)?;
            progress(number * full + width, size);
        }
        for file in self.tiles.partials() {
            check_upper_tile(bundle, &file.path, &file.bytes)?;
        }
        for (at, _, file) in std::mem::take(&mut self.known_roots) {
            let problem = if at == u64::MAX {
                "a checkpoint got elsewhere is of another log".to_owned()
            } else {
                format!("older than a checkpoint of size {at} got elsewhere: entries are held back")
            };
            bundle.find(&file, None, problem)?;
        }
        Ok(())
    }

    /// One entry bundle with its level-0 tile.
    fn tile(&mut self, bundle: &mut Bundle<'_>, number: u64, width: u16) -> Result<(), Stop> {
        let (tile_path, path) = (hash_tile_path(0, number, width), entry_bundle_path(number, width));
        // What the manifest does not list was reported with the tile set.
        let tile = if bundle.lists(&tile_path) { bundle.read(&tile_path)? } else { None };
        let bytes = if bundle.lists(&path) { bundle.read(&path)? } else { None }.unwrap_or_default();
        let first = number * TILE_WIDTH as u64;
        let entries = match split_bundle(&bytes) {
            Ok(entries) => entries,
            Err(error) => {
                bundle.find(&path, None, error.to_string())?;
                Vec::new()
            }
        };
        if entries.len() != usize::from(width) && !bytes.is_empty() {
            bundle.find(&path, None, format!("holds {} entries, not {width}", entries.len()))?;
        }
        let hashes: Vec<Hash> = tile.iter().flat_map(|tile| tile.as_chunks::<32>().0).copied().collect();
        if tile.as_ref().is_some_and(|tile| tile.len() != usize::from(width) * 32) {
            bundle.find(&tile_path, None, format!("{} hashes of 32 bytes, not {width}", hashes.len()))?;
        }
        for at in 0..usize::from(width) {
            let index = first + at as u64;
            let computed = entries.get(at).map(|entry| leaf_hash(entry));
            let stored = hashes.get(at).copied();
            match (entries.get(at), computed == stored || stored.is_none()) {
                (Some(entry), true) => self.entry(bundle, &path, index, entry)?,
                (Some(_), false) => {
                    let problem = format!("does not hash to its leaf in {tile_path}");
                    bundle.find(&path, Some(index), problem)?;
                }
                (None, _) => {}
            }
            // The stored leaf goes on into the tree, so that one damaged entry is one finding.
            let leaf = stored.or(computed).unwrap_or_default();
            self.frontier.push(leaf);
            let files = self.tiles.push(leaf, &[]).unwrap_or_default();
            for file in files {
                check_upper_tile(bundle, &file.path, &file.bytes)?;
            }
            self.meet_known_roots(bundle)?;
        }
        Ok(())
    }

    fn entry(&mut self, bundle: &mut Bundle<'_>, path: &str, index: u64, bytes: &[u8]) -> Result<(), Stop> {
        let entry = match Entry::parse(bytes) {
            Ok(entry) => entry,
            Err(error) => return bundle.find(path, Some(index), error.to_string()),
        };
        let header = entry.header;
        if header.index != index {
            bundle.find(path, Some(index), format!("says that it is entry {}", header.index))?;
        }
        if let Some(last) = self.last_time.filter(|last| *last >= header.time) {
            bundle.find(path, Some(index), format!("its time {} is not after {last}", header.time))?;
        }
        self.last_time = Some(header.time);
        if let Err(problem) = self.quorum.observe(&entry) {
            bundle.find(path, Some(index), problem)?;
        }
        if let Some(key) = self.key_entries.remove(&index)
            && (header.event != EventType::LogKeyAdded || entry.digest("key") != Some(key))
        {
            bundle.find(path, Some(index), "does not add the log key that log-keys.json says")?;
        }
        Ok(())
    }

    fn meet_known_roots(&mut self, bundle: &mut Bundle<'_>) -> Result<(), Stop> {
        if !self.known_roots.iter().any(|(size, _, _)| *size == self.frontier.size()) {
            return Ok(());
        }
        let (met, later) = std::mem::take(&mut self.known_roots)
            .into_iter()
            .partition(|(size, _, _)| *size == self.frontier.size());
        self.known_roots = later;
        let met: Vec<(u64, Hash, String)> = met;
        let root = self.frontier.root();
        for (size, _, file) in met.into_iter().filter(|(_, known, _)| *known != root) {
            let problem =
                format!("at size {size} this log had root {}, which is another log", hex::encode(root));
            bundle.find(&file, None, problem)?;
        }
        Ok(())
    }

    fn unmet_keys(&self) -> Vec<u64> {
        let past_the_end = |at: &&u64| **at >= self.frontier.size();
        self.key_entries.keys().filter(past_the_end).copied().collect()
    }
}

/// A hash tile above level 0, recomputed from the level below.
fn check_upper_tile(bundle: &mut Bundle<'_>, path: &str, expected: &[u8]) -> Result<(), Stop> {
    if path.starts_with("tile/0/") || path.starts_with("tile/entries/") || !bundle.lists(path) {
        return Ok(());
    }
    let Some(bytes) = bundle.read(path)? else { return Ok(()) };
    if bytes == expected {
        return Ok(());
    }
    let at = bytes.chunks(32).zip(expected.chunks(32)).position(|(found, expected)| found != expected);
    let at = at.unwrap_or(bytes.len().min(expected.len()) / 32);
    bundle.find(path, None, format!("hash {at} is not that of its tile one level below"))
}

/// Root, first, middle and last leaf once more, through the library's tile reader, which shares no code with ours.
fn check_with_library(bundle: &mut Bundle<'_>, body: &CheckpointBody) -> Result<(), Stop> {
    if body.size == 0 {
        return Ok(());
    }
    let tiles = LibraryTiles(bundle.files);
    let reader = TileHashReader::new(body.size, TlogHash(body.root), &tiles);
    let leaves = [0, body.size / 2, body.size - 1].map(|at| stored_hash_index(0, at));
    let root = tree_hash(body.size, &reader).map(|root| root.0);
    match (root, reader.read_hashes(&leaves)) {
        (Ok(root), Ok(_)) if root == body.root => Ok(()),
        (Ok(_), Ok(_)) => bundle.find("checkpoint", None, "the tiles give another root"),
        (Err(error), _) | (_, Err(error)) => {
            bundle.find("checkpoint", None, format!("the tiles do not verify: {error}"))
        }
    }
}

struct LibraryTiles<'a>(&'a dyn BundleFiles);

impl TileReader for LibraryTiles<'_> {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[Tile]) -> Result<Vec<Vec<u8>>, tlog_tiles::Error> {
        tiles
            .iter()
            .map(|tile| self.0.read(&c2sp_path(tile)).map_err(|_| tlog_tiles::Error::InvalidTile))
            .collect()
    }

    fn save_tiles(&self, _tiles: &[Tile], _data: &[Vec<u8>]) {}
}
