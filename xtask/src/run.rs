//! Commands: started in the workspace root, named and timed on the terminal, failing with what was run.

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// Why a task stopped, in words for the terminal.
#[derive(Debug)]
pub struct Failure(String);

impl Failure {
    /// A failure with its message: lower case, no full stop.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `cargo` in the workspace root, the same cargo that started this tool.
pub fn cargo(root: &Path) -> Command {
    program(root, Path::new(&std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())))
}

/// A program in the workspace root, without what `cargo run` told this tool about itself: build scripts that watch
/// such variables would otherwise run again each time the task is started another way.
pub fn program(root: &Path, program: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a command with its output on the terminal and prints its name before and its time after.
pub fn step(name: &str, command: &mut Command) -> Result<(), Failure> {
    println!("\n== {name}");
    let started = Instant::now();
    let status =
        command.status().map_err(|error| Failure::new(format!("cannot start {command:?}: {error}")))?;
    println!("== {name}: {:.1} s", started.elapsed().as_secs_f64());
    if status.success() { Ok(()) } else { Err(Failure::new(format!("{name} failed ({status})"))) }
}

/// Runs a command silently and returns its standard output; its standard error is part of the failure.
pub fn output(command: &mut Command) -> Result<Vec<u8>, Failure> {
    let output =
        command.output().map_err(|error| Failure::new(format!("cannot start {command:?}: {error}")))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(Failure::new(format!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_exits_non_zero_is_a_failure_that_names_the_step() {
        let failure = step("the step", &mut Command::new("false")).unwrap_err();
        assert!(failure.to_string().contains("the step failed"));
    }

    #[test]
    fn a_silent_command_that_fails_carries_its_standard_error() {
        let failure = output(Command::new("sh").args(["-c", "echo because >&2; exit 3"])).unwrap_err();
        assert!(failure.to_string().contains("because"));
    }
}
