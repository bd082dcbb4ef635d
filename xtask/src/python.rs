//! Python environments below target/, each of pinned packages, made again when the pins change.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{Failure, step};

/// What stands in an environment.
pub enum Packages<'a> {
    /// These, each with its version.
    Named(&'a [&'a str]),
    /// A requirements file, every package in it with its hashes.
    Hashed(&'a Path),
}

/// Makes `environment` unless it is there with these very packages; gives its interpreter.
pub fn install(environment: &Path, packages: &Packages<'_>, what: &str) -> Result<PathBuf, Failure> {
    let python = environment.join("bin/python");
    let stamp = environment.join("installed");
    let at = |path: &Path| {
        let path = path.display().to_string();
        move |error: std::io::Error| Failure::new(format!("{path}: {error}"))
    };
    let wanted = match packages {
        Packages::Named(names) => names.join("\n"),
        Packages::Hashed(file) => std::fs::read_to_string(file).map_err(at(file))?,
    };
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    println!("== missing on this machine:");
    println!("   {what}, from PyPI, into {}", environment.display());
    step(
        "make a Python environment",
        Command::new("python3").args(["-m", "venv", "--clear"]).arg(environment),
    )?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    match packages {
        Packages::Named(names) => pip.args(*names),
        Packages::Hashed(file) => pip.args(["--require-hashes", "-r"]).arg(file),
    };
    step("install its packages", &mut pip)?;
    std::fs::write(&stamp, wanted).map_err(at(&stamp))?;
    Ok(python)
}
