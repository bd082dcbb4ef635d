//! Tiles (C2SP tlog-tiles): the tree and its entries as files of 256.

use tlog_tiles::Tile;

use crate::{AuditError, Hash};

/// Hashes of a full tile, entries of a full bundle.
pub const TILE_WIDTH: usize = 256;

/// Levels a tree of at most 2^56 entries can have.
const LEVELS_MAX: usize = 7;

/// A complete file with its path below the log's prefix.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutputFile {
    /// Path with `/`, such as `tile/0/x001/234`.
    pub path: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Path of a hash tile. `width` is 1 to 256; below 256 the tile is partial.
///
/// # Panics
/// When `width` is not 1 to 256 or `level` not 0 to 63.
pub fn hash_tile_path(level: u8, number: u64, width: u16) -> String {
    c2sp_path(&Tile::new(8, level, number, u32::from(width), false))
}

/// Path of an entry bundle. `width` is 1 to 256; below 256 the bundle is partial.
///
/// # Panics
/// When `width` is not 1 to 256.
pub fn entry_bundle_path(number: u64, width: u16) -> String {
    c2sp_path(&Tile::new(8, 0, number, u32::from(width), true))
}

/// The Go form `tile/8/<level>/…` and `tile/8/data/…` becomes `tile/<level>/…` and `tile/entries/…`.
pub(crate) fn c2sp_path(tile: &Tile) -> String {
    let go = tile.path();
    let rest = go.strip_prefix("tile/8/").unwrap_or(&go);
    match rest.strip_prefix("data/") {
        Some(number) => format!("tile/entries/{number}"),
        None => format!("tile/{rest}"),
    }
}

/// Every path of a tree of `size` entries: hash tiles of all levels and entry bundles, full and partial.
pub fn tile_paths(size: u64) -> Vec<String> {
    let mut paths = Vec::new();
    for mut tile in Tile::new_tiles(8, 0, size) {
        paths.push(c2sp_path(&tile));
        if tile.level() == 0 {
            tile.set_is_data();
            paths.push(c2sp_path(&tile));
        }
    }
    paths
}

/// Splits an entry bundle into its entries: each a big-endian 16-bit length and as many bytes.
pub fn split_bundle(bundle: &[u8]) -> Result<Vec<&[u8]>, AuditError> {
    let mut entries = Vec::new();
    let mut rest = bundle;
    while !rest.is_empty() {
        let next = rest
            .split_first_chunk::<2>()
            .and_then(|(length, after)| after.split_at_checked(usize::from(u16::from_be_bytes(*length))));
        let Some((entry, after)) = next else {
            return Err(AuditError::Entry(format!("the bundle is cut short in its entry {}", entries.len())));
        };
        entries.push(entry);
        rest = after;
    }
    Ok(entries)
}

/// Makes the tiles of a growing tree. Holds at most one tile per level and one entry bundle, whatever the size.
#[derive(Clone, Debug, Default)]
pub struct TileWriter {
    size: u64,
    // The tile being filled at each level, and how many full ones of that level are out.
    levels: Vec<(Vec<u8>, u64)>,
    entries: Vec<u8>,
}

impl TileWriter {
    /// For an empty log.
    pub const fn new() -> Self {
        Self { size: 0, levels: Vec::new(), entries: Vec::new() }
    }

    /// Entries so far.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Appends an entry; returns the files this completes, mostly none. The leaf is the caller's, who has it already.
    ///
    /// Errors with an entry longer than the bundle's 16-bit length can say.
    pub fn push(&mut self, leaf: Hash, entry: &[u8]) -> Result<Vec<OutputFile>, AuditError> {
        let length = u16::try_from(entry.len()).map_err(|_| {
            AuditError::Entry(format!("{} bytes do not fit into an entry bundle", entry.len()))
        })?;
        self.entries.extend_from_slice(&length.to_be_bytes());
        self.entries.extend_from_slice(entry);
        self.size += 1;
        let mut files = Vec::new();
        let mut hash = leaf;
        for level in 0..LEVELS_MAX {
            if self.levels.len() == level {
                self.levels.push((Vec::new(), 0));
            }
            let (tile, number) = &mut self.levels[level];
            tile.extend_from_slice(&hash);
            if tile.len() < TILE_WIDTH * 32 {
                break;
            }
            // The next level holds the tree hash of each full tile of this one.
            hash = Tile::subtree_hash(tile).0;
            files.push(OutputFile {
                path: level_path(level, *number, TILE_WIDTH),
                bytes: std::mem::take(tile),
            });
            if level == 0 {
                let bytes = std::mem::take(&mut self.entries);
                files.push(OutputFile { path: entry_bundle_path(*number, TILE_WIDTH as u16), bytes });
            }
            *number += 1;
        }
        Ok(files)
    }

    /// The partial files of the tree as it stands; with the full ones they are the whole tile set of this size.
    pub fn partials(&self) -> Vec<OutputFile> {
        let mut files = Vec::new();
        for (level, (tile, number)) in
            self.levels.iter().enumerate().filter(|(_, (tile, _))| !tile.is_empty())
        {
            let width = tile.len() / 32;
            files.push(OutputFile { path: level_path(level, *number, width), bytes: tile.clone() });
            if level == 0 {
                files.push(OutputFile {
                    path: entry_bundle_path(*number, width as u16),
                    bytes: self.entries.clone(),
                });
            }
        }
        files
    }

    /// Ends the tree: the partial files.
    pub fn finish(self) -> Vec<OutputFile> {
        self.partials()
    }
}

fn level_path(level: usize, number: u64, width: usize) -> String {
    hash_tile_path(level as u8, number, width as u16)
}
