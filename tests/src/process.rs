//! Signals to processes by their id, without a program of the system: a small machine may have none.

use std::io;

use rustix::process::{Pid, kill_process};

pub use rustix::process::Signal;

/// Sends a signal. An error when there is no such process.
pub fn signal(pid: u32, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no process id"))?;
    Ok(kill_process(pid, signal)?)
}
