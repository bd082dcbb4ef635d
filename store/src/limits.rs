//! The named upper bounds of the store.

/// The longest value a row may have. Larger things go to files of their own, with their digest in the row.
pub const VALUE_BYTES_MAX: usize = 64 * 1024;
/// The longest value that the view holds itself; a longer one it leaves in the log and notes its place.
pub const VIEW_VALUE_BYTES_MAX: usize = 256;
/// The longest key.
pub const KEY_BYTES_MAX: usize = 1024;
/// The longest sealed entry.
pub const ENTRY_BYTES_MAX: usize = audit::ENTRY_MAX;
/// The most entries one commit may carry.
pub const COMMIT_ENTRIES_MAX: usize = 4096;
/// The most bytes one commit may carry, entries counted at their largest; also bounded by the segment size.
pub const COMMIT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// A batch takes no further commit once it holds this many.
pub const BATCH_COMMITS_MAX: usize = 512;
/// A batch takes no further commit once it holds this many bytes.
pub const BATCH_BYTES_TARGET: usize = 1024 * 1024;
/// sled leaks without bound when one of its batches holds about a thousand writes; 512 and fewer is measured safe.
pub const VIEW_WRITES_PER_BATCH_MAX: usize = 512;
/// The most rows that wait to be moved to sled; the committer moves them itself then.
pub const VIEW_BACKLOG_ROWS_MAX: usize = 16_384;
/// The smallest segment: one sector of header and room for a small batch.
pub const SEGMENT_BYTES_MIN: u64 = 32 * 1024;
/// The largest segment; offsets within one fit 32 bits.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 31;
/// The most rows or entries one read returns.
pub const READ_ROWS_MAX: usize = 65_536;

/// Fixed bytes of one change in a state section: keyspace, key length, value length.
pub(crate) const CHANGE_OVERHEAD: usize = 1 + 2 + 4;
/// Smallest cache of the view.
pub const VIEW_CACHE_BYTES_MIN: u64 = 16 << 20;
