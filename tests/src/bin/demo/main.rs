//! The main job, played with the real programs: from an empty folder to device keys, certificates, session keys and
//! proof. Every command is shown as it is run; the simulated manufacturer, cards and provisioning server are those of
//! this crate.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a demonstration shows what it does")]

mod authority;
mod fleet;
mod hierarchies;
mod production;
mod proof;
mod revocation;
mod sessions;
mod stage;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use stage::{Failure, Stage};

const USAGE: &str = "usage: demo [--out DIR] [--devices N]
  --out DIR      where everything is left (target/demo)
  --devices N    how many devices are ordered, 20 at least (1000)";

/// Fewest devices that give every step a device of its kind.
const DEVICES_MIN: usize = 20;

struct Arguments {
    out: PathBuf,
    devices: usize,
}

fn main() -> ExitCode {
    let arguments = match arguments(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("demo: {problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let started = Instant::now();
    match play(&arguments) {
        Ok(()) => {
            println!(
                "\nThe main job ran in {:.1} s; everything is in {}",
                started.elapsed().as_secs_f64(),
                arguments.out.display()
            );
            ExitCode::SUCCESS
        }
        Err(_) if stage::is_terminated() => loop {
            std::thread::park();
        },
        Err(failure) => {
            eprintln!("\ndemo: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn arguments(mut given: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments { out: PathBuf::from("target/demo"), devices: 1_000 };
    while let Some(option) = given.next() {
        let value = given.next().ok_or_else(|| format!("{option} needs a value"))?;
        match option.as_str() {
            "--out" => arguments.out = value.into(),
            "--devices" => {
                arguments.devices = value
                    .parse()
                    .ok()
                    .filter(|&devices| (DEVICES_MIN..=1_000).contains(&devices))
                    .ok_or_else(|| format!("--devices is a number from {DEVICES_MIN} to 1000"))?;
            }
            _ => return Err(format!("no option {option}")),
        }
    }
    Ok(arguments)
}

fn play(arguments: &Arguments) -> Result<(), Failure> {
    stage::end_daemon_when_terminated()?;
    let stage = Stage::prepare(&arguments.out)?;

    stage.step(1, "Persons make their own keys; a ceremony founds the authority");
    authority::found(&stage)?;

    stage.step(
        2,
        "The service starts; a manufacturer and a provisioner are enrolled, two persons for each deed",
    );
    let daemon = authority::serve(&stage)?;
    authority::enrol_manufacturer(&stage)?;
    authority::enrol_provisioner(&stage)?;

    stage.step(3, "The manufacturer orders devices and personalises cards from its order's output");
    let order = production::order(&stage, arguments.devices)?;
    let cards = production::personalise(&stage, &order)?;

    stage.step(4, "The provisioner is granted devices and opens secure channels to cards");
    let (cards, mut sessions) = sessions::play(&stage, &order, cards)?;

    stage.step(5, "The fleet's keys move from AES-128 to AES-256; the daemon is killed at half");
    let mut fleet = fleet::Fleet::new(&order, &cards)?;
    let daemon = fleet.rotate(&stage, daemon, &mut sessions)?;

    stage.step(6, "A device is stolen: one person freezes it, two restore it");
    fleet.steal(&stage, &order)?;

    stage.step(7, "A certificate is revoked");
    revocation::play(&stage)?;

    stage.step(8, "A hierarchy of SGP.22 v3: sub CAs, an SM-DP+ and an SM-DS below them");
    hierarchies::play(&stage)?;

    stage.step(9, "The auditor exports the log and verifies it with nothing running");
    proof::export(&stage)?;
    daemon.stop()?;
    proof::verify(&stage)?;
    proof::find_refusals(&stage)?;
    proof::find_flipped_byte(&stage)
}
