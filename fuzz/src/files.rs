//! Files given to the tool: the first byte chooses the kind.

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use cli::decoders::read_file;
use tempfile::TempDir;

/// One folder for the process, in memory where that is possible.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let made = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
    made.expect("a folder for the file")
});

pub fn run(bytes: &[u8]) {
    let Some((kind, content)) = bytes.split_first() else { return };
    // An order file is JSON or TOML by its name: the highest bit.
    let name = if kind & 0x80 == 0 { "file.json" } else { "file.toml" };
    let path = FOLDER.path().join(name);
    fs::write(&path, content).expect("the file is written");
    let _ = read_file(kind & 0x7f, &path);
}
