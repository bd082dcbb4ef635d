//! The corpus that fuzzing left, through every target, within limits of memory.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use fuzz::{INPUT_BYTES_MAX, TARGETS};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Address space of this process, threads and libraries included: far above what any input needs, far below what a length
/// that was believed would ask for.
const ADDRESS_SPACE_MAX_BYTES: u64 = 2 << 30;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = corpus().join(target);
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap_or_else(|_| panic!("{} is missing", folder.display()))
        .map(|f| f.unwrap().path())
        .collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[test]
fn no_input_of_the_corpus_breaks_a_rule_of_its_decoder() {
    let limit = Rlimit { current: Some(ADDRESS_SPACE_MAX_BYTES), ..getrlimit(Resource::As) };
    setrlimit(Resource::As, limit).unwrap();
    for target in TARGETS {
        let inputs = inputs(target.name);
        assert!(inputs.len() >= 5, "{} has a corpus", target.name);
        for (path, bytes) in inputs {
            let judged = std::panic::catch_unwind(|| target.run(&bytes));
            assert!(judged.is_ok(), "{} breaks a rule of {}", path.display(), target.name);
        }
        // What is next to it: cut off, and with bits of every place turned.
        for (_, bytes) in self::inputs(target.name).into_iter().filter(|(_, bytes)| bytes.len() < 4096) {
            for cut in [1, bytes.len() / 2, bytes.len().saturating_sub(1)] {
                target.run(&bytes[..cut.min(bytes.len())]);
            }
            for at in (0..bytes.len()).step_by(bytes.len() / 8 + 1) {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << (at % 8);
                target.run(&changed);
            }
        }
    }
}

#[test]
fn each_folder_of_the_corpus_is_of_a_target_and_holds_what_a_target_looks_at() {
    let folders: BTreeSet<String> = fs::read_dir(corpus())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let names: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(folders, names);
    for name in &names {
        for (path, bytes) in inputs(name) {
            assert!(bytes.len() <= INPUT_BYTES_MAX, "{}", path.display());
        }
    }
}
