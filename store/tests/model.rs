//! Random commits and restarts against a plain map.

mod support;

use std::collections::BTreeMap;

use proptest::prelude::*;
use store::{Change, Commit, CommitError, Keyspace, LogStore, Precondition, Store};
use support::{DEVICES, PARTIES, draft, options};

#[derive(Clone, Debug)]
enum Act {
    Commit { changes: Vec<(bool, u8, Option<u16>)>, expects: Option<(bool, u8, Expect)> },
    Restart,
    LoseView,
}

#[derive(Clone, Copy, Debug)]
enum Expect {
    Absent,
    Current,
    Stale,
}

fn keyspace(memory: bool) -> Keyspace {
    if memory { PARTIES } else { DEVICES }
}

fn act() -> impl Strategy<Value = Act> {
    let change = (any::<bool>(), 0..12_u8, proptest::option::weighted(0.8, 0..3000_u16));
    let expect = prop_oneof![Just(Expect::Absent), Just(Expect::Current), Just(Expect::Stale)];
    let expects = proptest::option::of((any::<bool>(), 0..12_u8, expect));
    let commit = (proptest::collection::vec(change, 0..6), expects)
        .prop_map(|(changes, expects)| Act::Commit { changes, expects });
    prop_oneof![20 => commit, 2 => Just(Act::Restart), 1 => Just(Act::LoseView)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_a_map_with_versions_through_any_commits_and_restarts(
        acts in proptest::collection::vec(act(), 1..60)
    ) {
        let directory = tempfile::tempdir().unwrap();
        let mut store = Some(LogStore::create(options(directory.path())).unwrap());
        let mut model: BTreeMap<(bool, u8), (Vec<u8>, u64)> = BTreeMap::new();
        let mut size = 0;
        for act in acts {
            match act {
                Act::Commit { changes, expects } => {
                    let mut commit = Commit::of(vec![draft(); 1 + changes.len() % 3]);
                    let entries = commit.entries.len() as u64;
                    for (memory, key, value) in &changes {
                        let value = value.map(|length| vec![*key; usize::from(length)]);
                        commit.changes.push(Change { keyspace: keyspace(*memory), key: vec![*key], value });
                    }
                    let mut holds = true;
                    if let Some((memory, key, expect)) = expects {
                        let current = model.get(&(memory, key)).map(|(_, version)| *version);
                        let (keyspace, key) = (keyspace(memory), vec![key]);
                        commit.preconditions.push(match expect {
                            Expect::Absent => {
                                holds = current.is_none();
                                Precondition::Absent { keyspace, key }
                            }
                            Expect::Current => {
                                holds = current.is_some();
                                Precondition::Version { keyspace, key, version: current.unwrap_or(size) }
                            }
                            Expect::Stale => {
                                holds = false;
                                Precondition::Version { keyspace, key, version: current.unwrap_or(0) + 1 }
                            }
                        });
                    }
                    let outcome = store.as_ref().unwrap().commit(commit).wait();
                    if holds {
                        prop_assert_eq!(outcome.unwrap().first_index, size);
                        for (memory, key, value) in changes {
                            match value {
                                Some(length) => {
                                    model.insert((memory, key), (vec![key; usize::from(length)], size));
                                }
                                None => _ = model.remove(&(memory, key)),
                            }
                        }
                        size += entries;
                    } else {
                        let refused = matches!(outcome, Err(CommitError::PreconditionFailed { .. }));
                        prop_assert!(refused);
                    }
                }
                Act::Restart | Act::LoseView => {
                    drop(store.take());
                    if matches!(act, Act::LoseView) {
                        std::fs::remove_dir_all(directory.path().join("view")).unwrap();
                    }
                    store = Some(LogStore::open(options(directory.path())).unwrap().0);
                }
            }
            let store = store.as_ref().unwrap();
            prop_assert_eq!(store.tree().size, size);
        }
        let store = store.as_ref().unwrap();
        for memory in [true, false] {
            let found: Vec<_> = store
                .scan(keyspace(memory), b"", None, 99)
                .unwrap()
                .into_iter()
                .map(|(key, row)| (key[0], (row.value.to_vec(), row.version)))
                .collect();
            let expected: Vec<_> = model
                .iter()
                .filter(|((of_memory, _), _)| *of_memory == memory)
                .map(|((_, key), row)| (*key, row.clone()))
                .collect();
            prop_assert_eq!(found, expected);
        }
        prop_assert_eq!(store.entries(0, 9999).unwrap().len() as u64, size);
        prop_assert!(store.verify_view().unwrap().is_sound());
    }
}
