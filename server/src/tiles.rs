//! Hash tiles of the log (C2SP tlog-tiles), for monitors: made from the entries up to the newest checkpoint.

use std::sync::{Mutex, PoisonError};

use audit::{Frontier, Hash, TILE_WIDTH, leaf_hash};
use store::{Store, StoreError};

const WIDTH: u64 = TILE_WIDTH as u64;
/// Highest level that is served: 256^4 entries are more than a log of a year holds.
const LEVEL_MAX: u8 = 4;

/// Remembers the root of every full run of 256 entries: 32 bytes for each, so that no tile costs more than 256 reads.
#[derive(Default)]
pub(crate) struct HashTiles {
    runs: Mutex<Vec<Hash>>,
}

/// A tile that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TileName {
    level: u8,
    number: u64,
    width: u64,
}

impl TileName {
    /// Reads `<L>/<N>[.p/<W>]`, where N is written in groups of three digits, all but the last with an `x` in front.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let (level, rest) = path.split_once('/')?;
        let (number, width) = match rest.split_once(".p/") {
            Some((number, width)) => (number, width.parse().ok().filter(|w| (1..WIDTH).contains(w))?),
            None => (rest, WIDTH),
        };
        let groups: Vec<&str> = number.split('/').collect();
        let (last, before) = groups.split_last()?;
        let mut value = 0u64;
        for group in before.iter().map(|group| group.strip_prefix('x')).chain([Some(*last)]) {
            let group =
                group.filter(|group| group.len() == 3 && group.bytes().all(|c| c.is_ascii_digit()))?;
            value = value.checked_mul(1000)?.checked_add(group.parse().ok()?)?;
        }
        let name =
            Self { level: level.parse().ok().filter(|level| *level <= LEVEL_MAX)?, number: value, width };
        // One name for each tile: no leading zeros, no empty groups.
        let width = u16::try_from(name.width).ok()?;
        let written = audit::hash_tile_path(name.level, name.number, width);
        (written == format!("tile/{path}")).then_some(name)
    }
}

impl HashTiles {
    /// The bytes of a tile of the tree of `size` entries; none when that tree has no such tile.
    pub(crate) fn read(
        &self,
        store: &dyn Store,
        size: u64,
        name: TileName,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let covered = WIDTH.pow(u32::from(name.level));
        let Some(first) = name.number.checked_mul(WIDTH) else { return Ok(None) };
        let Some(end) = first.checked_add(name.width).and_then(|end| end.checked_mul(covered)) else {
            return Ok(None);
        };
        if end > size {
            return Ok(None);
        }
        let mut bytes = Vec::with_capacity(32 * TILE_WIDTH);
        if name.level == 0 {
            leaves(store, first, name.width, |leaf| bytes.extend_from_slice(&leaf))?;
            return Ok(Some(bytes));
        }
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        while (runs.len() as u64) < end / WIDTH {
            let mut frontier = Frontier::new();
            leaves(store, runs.len() as u64 * WIDTH, WIDTH, |leaf| frontier.push(leaf))?;
            runs.push(frontier.root());
        }
        let in_one = covered / WIDTH;
        for index in first..first + name.width {
            let range = usize::try_from(index * in_one).unwrap_or(usize::MAX)
                ..usize::try_from((index + 1) * in_one).unwrap_or(usize::MAX);
            let mut frontier = Frontier::new();
            // Full subtrees: the root over their roots is the root over their leaves.
            runs.get(range).unwrap_or_default().iter().for_each(|run| frontier.push(*run));
            bytes.extend_from_slice(&frontier.root());
        }
        Ok(Some(bytes))
    }
}

fn leaves(store: &dyn Store, from: u64, count: u64, mut each: impl FnMut(Hash)) -> Result<(), StoreError> {
    let mut next = from;
    while next < from + count {
        let entries = store.entries(next, usize::try_from(from + count - next).unwrap_or(256))?;
        if entries.is_empty() {
            break;
        }
        entries.iter().for_each(|entry| each(leaf_hash(entry)));
        next += entries.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use store::{Commit, CommitTicket, Keyspace, Row, TreeHead, Versioned};

    use super::*;

    struct Entries(Vec<Vec<u8>>);

    impl Store for Entries {
        fn commit(&self, _: Commit) -> CommitTicket {
            unreachable!("tiles only read")
        }
        fn get(&self, _: Keyspace, _: &[u8]) -> Result<Option<Versioned>, StoreError> {
            unreachable!("tiles only read entries")
        }
        fn scan(&self, _: Keyspace, _: &[u8], _: Option<&[u8]>, _: usize) -> Result<Vec<Row>, StoreError> {
            unreachable!("tiles only read entries")
        }
        fn tree(&self) -> TreeHead {
            unreachable!("tiles are told the size")
        }
        fn entries(&self, from: u64, limit: usize) -> Result<Vec<Vec<u8>>, StoreError> {
            let from = usize::try_from(from).unwrap();
            // In portions, as the real one may.
            Ok(self.0[from..].iter().take(limit.min(100)).cloned().collect())
        }
        fn stopped(&self) -> Option<Arc<str>> {
            None
        }
    }

    #[test]
    fn every_tile_of_a_tree_is_the_one_that_the_export_holds() {
        let size = 66_000u64;
        let entries: Vec<Vec<u8>> = (0..size).map(|n| n.to_be_bytes().to_vec()).collect();
        let mut writer = audit::TileWriter::new();
        let mut files = Vec::new();
        for entry in &entries {
            files.extend(writer.push(leaf_hash(entry), entry).unwrap());
        }
        files.extend(writer.finish());
        let store = Entries(entries);
        let tiles = HashTiles::default();
        let mut compared = 0;
        for file in files.iter().filter(|file| !file.path.starts_with("tile/entries/")) {
            let name = TileName::parse(file.path.strip_prefix("tile/").unwrap()).unwrap();
            assert_eq!(tiles.read(&store, size, name).unwrap().as_ref(), Some(&file.bytes), "{}", file.path);
            assert_eq!(tiles.read(&store, 0, name).unwrap(), None);
            compared += 1;
        }
        assert!(compared > 250);
        for wrong in [
            "0/1",
            "0/x001",
            "0/0001",
            "9/000",
            "0/000.p/256",
            "0/000.p/0",
            "0/x000/001",
            "entries/000",
            "0/000/",
        ] {
            assert_eq!(TileName::parse(wrong), None, "{wrong}");
        }
    }
}
