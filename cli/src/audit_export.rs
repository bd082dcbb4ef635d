//! The log's export arriving file by file, from a service that is not trusted.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use proto::v1::ExportLogResponse;

use crate::error::CliError;
use crate::files;
use crate::output::printable;

/// A folder that receives an export. Nothing is in the final place before everything has arrived.
pub struct Arrival {
    out: PathBuf,
    part: PathBuf,
    open: Option<(String, File)>,
    complete: HashSet<String>,
}

impl Arrival {
    /// Refuses a folder that holds anything; what an earlier, interrupted export left beside it is removed.
    pub fn begin(out: &Path) -> Result<Self, CliError> {
        files::check_empty_or_absent(out)?;
        let mut part = out.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        match fs::remove_dir_all(&part) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(CliError::file("remove", &part)(error));
            }
            _ => {}
        }
        files::create_folder(&part)?;
        Ok(Self { out: out.to_owned(), part, open: None, complete: HashSet::new() })
    }

    /// Takes the next piece. Returns whether it ended a file.
    pub fn take(&mut self, piece: &ExportLogResponse) -> Result<bool, CliError> {
        let refuse =
            |why: &str| Err(CliError::Answer(format!("the file {:?}: {why}", printable(&piece.path))));
        if !audit::is_bundle_path(&piece.path) {
            return refuse("it would not lie in the export's folder");
        }
        if self.complete.contains(&piece.path) {
            return refuse("it comes twice");
        }
        let mut file = match self.open.take() {
            Some((path, file)) if path == piece.path => file,
            Some((path, _)) => return refuse(&format!("it begins before {path:?} has ended")),
            None => self.create(&piece.path)?,
        };
        let path = self.part.join(&piece.path);
        file.write_all(&piece.piece).map_err(CliError::file("write", &path))?;
        if piece.last {
            file.sync_data().map_err(CliError::file("sync", &path))?;
            self.complete.insert(piece.path.clone());
        } else {
            self.open = Some((piece.path.clone(), file));
        }
        Ok(piece.last)
    }

    fn create(&self, path: &str) -> Result<File, CliError> {
        let path = self.part.join(path);
        if let Some(folder) = path.parent() {
            files::create_folder(folder)?;
        }
        File::create_new(&path).map_err(CliError::file("create", &path))
    }

    /// Puts the folder in its place. Returns how many files it holds.
    pub fn finish(self) -> Result<usize, CliError> {
        if let Some((path, _)) = &self.open {
            return Err(CliError::Answer(format!("the export ended within the file {path:?}")));
        }
        if self.complete.is_empty() {
            return Err(CliError::Answer("the export holds no file".to_owned()));
        }
        files::rename(&self.part, &self.out)?;
        Ok(self.complete.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(path: &str, bytes: &[u8], last: bool) -> ExportLogResponse {
        ExportLogResponse { path: path.to_owned(), piece: bytes.to_vec(), last }
    }

    #[test]
    fn files_arrive_in_pieces_and_appear_all_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("export");
        let mut arrival = Arrival::begin(&out).unwrap();
        assert!(!arrival.take(&piece("tile/entries/000", b"ab", false)).unwrap());
        assert!(arrival.take(&piece("tile/entries/000", b"c", true)).unwrap());
        assert!(arrival.take(&piece("checkpoint", b"note", true)).unwrap());
        assert!(!out.exists());
        assert_eq!(arrival.finish().unwrap(), 2);
        assert_eq!(fs::read(out.join("tile/entries/000")).unwrap(), b"abc");
        assert_eq!(fs::read(out.join("checkpoint")).unwrap(), b"note");
    }

    #[test]
    fn no_path_leaves_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let mut arrival = Arrival::begin(&folder.path().join("export")).unwrap();
        for path in ["../evil", "/etc/evil", "a/../../evil", "", "a//b", "a/.", "a\\b", "a\0b", "ä", "a/"] {
            assert!(arrival.take(&piece(path, b"x", true)).is_err(), "{path:?}");
        }
        let beside: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|item| item.unwrap().file_name()).collect();
        assert_eq!(beside, ["export.part"]);
    }

    #[test]
    fn a_file_that_comes_twice_is_mixed_with_another_or_does_not_end_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let begin = || Arrival::begin(&folder.path().join("export")).unwrap();
        let mut arrival = begin();
        arrival.take(&piece("a", b"1", true)).unwrap();
        assert!(arrival.take(&piece("a", b"2", true)).is_err());

        let mut arrival = begin();
        arrival.take(&piece("a", b"1", false)).unwrap();
        assert!(arrival.take(&piece("b", b"2", true)).is_err());

        let mut arrival = begin();
        arrival.take(&piece("a", b"1", false)).unwrap();
        assert!(arrival.finish().is_err());
        assert!(begin().finish().is_err());
        assert!(!folder.path().join("export").exists());
    }

    #[test]
    fn a_folder_that_holds_something_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("something"), "x").unwrap();
        assert!(Arrival::begin(folder.path()).is_err());
    }
}
