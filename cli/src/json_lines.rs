//! Files of JSON lines: read whole and checked before the first line is used; written once, durable when finished.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::error::CliError;

/// Longest line that is taken.
const LINE_MAX_BYTES: u64 = 4 << 10;
/// Lines of one file: as many devices as a stage may have, and no more than fit in memory.
const LINES_MAX: usize = 1_000_000;

/// Reads every line of a file as `L` and turns it into `T`. `page` is where the format is described.
pub fn read<L: DeserializeOwned, T>(
    path: &Path,
    page: &str,
    mut accept: impl FnMut(L) -> Result<T, String>,
) -> Result<Vec<T>, CliError> {
    let mut reader = BufReader::new(File::open(path).map_err(CliError::file("read", path))?);
    let mut lines = Vec::new();
    for number in 1u64.. {
        let wrong = |why: &str| {
            CliError::invalid(
                format!("{} line {number}: {why}; nothing was sent", path.display()),
                format!("write it as {page} says"),
            )
        };
        let mut line = Vec::new();
        let read = reader.by_ref().take(LINE_MAX_BYTES + 1).read_until(b'\n', &mut line);
        if read.map_err(CliError::file("read", path))? == 0 {
            break;
        }
        if line.len() as u64 > LINE_MAX_BYTES {
            return Err(wrong("it is too long"));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        if lines.len() == LINES_MAX {
            return Err(wrong("more than a million lines"));
        }
        let line: L = serde_json::from_slice(&line).map_err(|error| wrong(&error.to_string()))?;
        lines.push(accept(line).map_err(|why| wrong(&why))?);
    }
    if lines.is_empty() {
        return Err(CliError::invalid(format!("{} holds no line", path.display()), "name the right file"));
    }
    Ok(lines)
}

/// A new file of lines that only its owner may read.
pub struct LinesFile {
    out: BufWriter<File>,
    path: PathBuf,
}

impl LinesFile {
    /// Makes the file; refuses to replace one.
    pub fn create(path: &Path) -> Result<Self, CliError> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let out = file.map(BufWriter::new).map_err(CliError::file("create", path))?;
        Ok(Self { out, path: path.to_owned() })
    }

    /// Adds a line.
    pub fn line(&mut self, json: &[u8]) -> Result<(), CliError> {
        self.out
            .write_all(json)
            .and_then(|()| self.out.write_all(b"\n"))
            .map_err(CliError::file("write", &self.path))
    }

    /// Makes what was added durable.
    pub fn finish(mut self) -> Result<(), CliError> {
        self.out
            .flush()
            .and_then(|()| self.out.get_ref().sync_all())
            .map_err(CliError::file("write", &self.path))
    }
}
