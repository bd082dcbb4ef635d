//! Every developer task, one command each, the same on a laptop and in CI: `cargo xtask help` lists them.
//!
//! The tool knows nothing of the product but the names of what the demo leaves: it runs cargo, reads the dependency
//! graph and the tree, installs the few system packages the tests need, and reports. Rules are pure functions from what
//! was read to findings.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool reports on the terminal")]

mod check;
mod dependency_page;
mod fuzz;
mod install;
mod interop;
mod layers;
mod policy;
mod python;
mod run;
mod spdx;
mod text;
mod workspace;

use std::path::Path;
use std::process::ExitCode;

use install::{Found, Purpose};
use python::Packages;
use run::{Failure, cargo, step};
use workspace::Workspace;

/// One line of `cargo xtask help`, and what it runs with the arguments that follow its name.
struct Task {
    name: &'static str,
    line: &'static str,
    run: fn(&Path, &[String]) -> Result<(), Failure>,
}

const TASKS: &[Task] = &[
    Task { name: "help", line: "list every task", run: help },
    Task {
        name: "check",
        line: "rustfmt, clippy, layers, wrappers, licences, dependency page, texts",
        run: check,
    },
    Task {
        name: "test",
        line: "install what is missing, check, then every test of the workspace, then the judges of interop",
        run: test,
    },
    Task {
        name: "demo",
        line: "install what is missing, build in release, play the main job into target/demo/",
        run: demo,
    },
    Task {
        name: "bench",
        line: "build in release, run `chancery bench` with the arguments given",
        run: bench,
    },
    Task {
        name: "interop",
        line: "install judges that are not ours, let them judge what the demo left",
        run: interop,
    },
    Task {
        name: "fuzz",
        line: "fuzz a decoder of outside bytes with AFL++, which is installed below target/: TARGET|all [SECONDS] [--keep]",
        run: fuzz::run,
    },
    Task {
        name: "install",
        line: "only install what tests and demo need: system packages, Python packages below target/",
        run: install,
    },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace root");
    let (name, rest) =
        arguments.split_first().map_or(("help", &[][..]), |(name, rest)| (name.as_str(), rest));
    let Some(task) = TASKS.iter().find(|task| task.name == name) else {
        eprintln!("no task `{name}`; `cargo xtask help` lists them");
        return ExitCode::from(2);
    };
    match (task.run)(root, rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("\n{name}: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn help(_root: &Path, _arguments: &[String]) -> Result<(), Failure> {
    println!("cargo xtask <task>\n");
    for task in TASKS {
        println!("  {:<8} {}", task.name, task.line);
    }
    Ok(())
}

fn check(root: &Path, arguments: &[String]) -> Result<(), Failure> {
    refuse_arguments(arguments)?;
    check::run(root)
}

fn test(root: &Path, arguments: &[String]) -> Result<(), Failure> {
    refuse_arguments(arguments)?;
    let found = prepare(root)?;
    check::run(root)?;
    // The whole-system tests start target/debug/chanceryd and chancery, which `cargo test` alone would not build.
    // Built together with the tests, so that dependencies have the same features and are compiled once.
    step(
        "build the programs and the tests",
        cargo(root).args(["build", "--workspace", "--bins", "--tests"]),
    )?;
    step(
        "run every test",
        cargo(root).args(["test", "--workspace", "--no-fail-fast"]).envs(found.environment()),
    )?;
    // What the test of the demonstration left; the judges take less than two minutes, most of it to install them once.
    let built = Workspace::read(root, None)?.target_directory;
    interop::run(root, built.join("tmp/story"), &built.join("debug/chancery"))
}

fn demo(root: &Path, arguments: &[String]) -> Result<(), Failure> {
    let found = install::run(Purpose::Demo)?;
    let programs = release_programs(root)?;
    step(
        "play the main job",
        run::program(root, &programs.join("demo")).args(arguments).envs(found.environment()),
    )
}

fn bench(root: &Path, arguments: &[String]) -> Result<(), Failure> {
    let found = install::run(Purpose::Demo)?;
    let programs = release_programs(root)?;
    step(
        "chancery bench",
        run::program(root, &programs.join("chancery")).arg("bench").args(arguments).envs(found.environment()),
    )
}

fn interop(root: &Path, arguments: &[String]) -> Result<(), Failure> {
    refuse_arguments(arguments)?;
    let built = Workspace::read(root, None)?.target_directory;
    interop::run(root, root.join("target/demo"), &built.join("release/chancery"))
}

fn install(root: &Path, arguments: &[String]) -> Result<(), Failure> {
    refuse_arguments(arguments)?;
    prepare(root).map(|_| ())
}

/// What the tests need of the machine: system packages, and the packages of their client in Python.
fn prepare(root: &Path) -> Result<Found, Failure> {
    let found = install::run(Purpose::Test)?;
    let requirements = root.join("tests/python/requirements.txt");
    let what = "the packages of the test client in Python";
    python::install(&root.join("target/python"), &Packages::Hashed(&requirements), what)?;
    Ok(found)
}

/// Builds every program in release mode and returns the directory they are in.
fn release_programs(root: &Path) -> Result<std::path::PathBuf, Failure> {
    let build = ["build", "--release", "--bins", "-p", "server", "-p", "cli", "-p", "tests"];
    step("build in release mode", cargo(root).args(build))?;
    Ok(Workspace::read(root, None)?.target_directory.join("release"))
}

fn refuse_arguments(arguments: &[String]) -> Result<(), Failure> {
    match arguments.first() {
        None => Ok(()),
        Some(argument) => Err(Failure::new(format!("takes no arguments, got `{argument}`"))),
    }
}
