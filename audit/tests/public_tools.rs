//! VERIFY.md as an auditor runs it: its own commands, with tools that have nothing to do with us.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops at the first surprise, and says so"
)]

mod support;

use std::path::Path;
use std::process::{Command, Output};

use audit::{BundleFolder, OutputFile};
use support::{Files, Log, LogSigner};

fn write(files: &Files, folder: &Path) {
    let bundle = BundleFolder::new(folder);
    for (path, bytes) in files {
        bundle.write(&OutputFile { path: path.clone(), bytes: bytes.clone() }).unwrap();
    }
}

/// The commands of one section of the export's own VERIFY.md, run in the export, scratch files aside.
fn run_section(folder: &Path, section: &str, scratch: &Path) -> Output {
    let guide = std::fs::read_to_string(folder.join("VERIFY.md")).unwrap();
    let section = guide.split("\n## ").find(|part| part.starts_with(section)).unwrap();
    let commands = section.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    Command::new("bash").args(["-ec", commands]).env("TMPDIR", scratch).current_dir(folder).output().unwrap()
}

fn has(tool: &str) -> bool {
    let found =
        Command::new(tool).arg(if tool == "openssl" { "version" } else { "--version" }).output().is_ok();
    if !found {
        println!("{tool} is not installed: its part of VERIFY.md was not run");
    }
    found
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn openssl_verifies_checkpoint_and_approvals_from_the_export_alone() {
    if !has("openssl") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let signer = LogSigner::new(1);
    let files = Log::of(300).export(&signer, None);
    let good = folder.path().join("good");
    write(&files, &good);
    let output = run_section(&good, "1.", scratch.path());
    assert!(
        output.status.success() && text(&output).contains("Signature Verified Successfully"),
        "{}",
        text(&output)
    );
    let output = run_section(&good, "4.", scratch.path());
    assert!(
        output.status.success() && text(&output).matches("Verified OK").count() == 2,
        "{}",
        text(&output)
    );

    let operation = files.keys().find(|path| path.ends_with("/operation.bin")).unwrap();
    for (name, path) in [
        ("checkpoint", "checkpoint"),
        ("operation", operation),
        ("signature", &operation.replace("operation.bin", "2.der")),
    ] {
        let mut changed = files.clone();
        let bytes = changed.get_mut(path).unwrap();
        // Inside the root, the operation and the signature's last integer.
        let at = if name == "checkpoint" { 40 } else { bytes.len() - 1 };
        bytes[at] ^= 1;
        let bad = folder.path().join(name);
        write(&changed, &bad);
        let section = if name == "checkpoint" { "1." } else { "4." };
        assert!(!run_section(&bad, section, scratch.path()).status.success(), "{name}");
    }
}

#[test]
fn python_recomputes_root_and_quorum_from_the_export_alone() {
    if !has("python3") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let signer = LogSigner::new(1);
    for (size, name) in [(4, "small"), (300, "middle"), (513, "larger")] {
        let export = folder.path().join(name);
        let log = Log::of(size);
        write(&log.export(&signer, Some(3)), &export);
        let output = run_section(&export, "2.", scratch.path());
        let root = hex::encode(log.body(size as usize).root);
        assert!(output.status.success(), "{}", text(&output));
        assert!(
            text(&output).contains(&format!("{size} entries hash to root {root}; 1 operations")),
            "{}",
            text(&output)
        );
    }
    let mut changed = Log::of(300).export(&signer, None);
    changed.get_mut("tile/entries/000").unwrap()[5000] ^= 1;
    let bad = folder.path().join("bad");
    write(&support::remanifest(&changed), &bad);
    let output = run_section(&bad, "2.", scratch.path());
    assert!(!output.status.success(), "{}", text(&output));
}
