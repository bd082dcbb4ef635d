//! The memory of a running process, as a core dump would show it: every mapping that was ever written.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;

/// One mapping.
pub struct Mapping {
    pub name: String,
    pub bytes: Vec<u8>,
}

/// What a process has written. Fails where the system lets nobody look: a process that is not dumpable is closed to all
/// but root.
pub fn written(pid: u32) -> io::Result<Vec<Mapping>> {
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut mappings = Vec::new();
    let mut place = None;
    // A head `start-end rw-p …` and then lines `Rss: 12 kB`.
    for line in fs::read_to_string(format!("/proc/{pid}/smaps"))?.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["Rss:", size, "kB"] if size != "0" => {
                let Some((start, end, name)) = place.take() else { continue };
                mappings.push(Mapping { name, bytes: read(&memory, start, end)? });
            }
            [range, permissions, ..] if permissions.starts_with("rw") && range.contains('-') => {
                let (start, end) = range.split_once('-').unwrap();
                let address = |text| u64::from_str_radix(text, 16).unwrap();
                let name = words.get(5).map_or("anonymous", |name| name);
                place = Some((address(start), address(end), name.to_owned()));
            }
            [range, ..] if range.contains('-') => place = None,
            _ => {}
        }
    }
    Ok(mappings)
}

/// Pages that were never touched read as zeros; a page that went away meanwhile ends the mapping.
fn read(memory: &File, start: u64, end: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
    let mut at = 0;
    while at < bytes.len() {
        let until = bytes.len().min(at + (1 << 20));
        match memory.read_at(&mut bytes[at..until], start + at as u64) {
            Ok(0) | Err(_) => break,
            Ok(read) => at += read,
        }
    }
    bytes.truncate(at);
    Ok(bytes)
}
