//! The system packages that tests and demo need: looked for by the file each brings, never by a package database,
//! so that a module built by hand counts as well. What is missing is installed on Debian and its relatives after
//! saying what and why; elsewhere it is named and the task stops.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::run::{Failure, step};

/// For what the machine is prepared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Every test of the workspace.
    Test,
    /// The demo and the benchmarks.
    Demo,
    /// The judges that are not ours.
    Interop,
}

/// A file the product or its tests open, and the Debian package that brings it.
struct Need {
    package: &'static str,
    brings: &'static str,
    why: &'static str,
    /// The variable that names another place; the programs read it too.
    variable: Option<&'static str>,
    places: &'static [&'static str],
    /// A command that succeeds where it is there in another place; none when there is no such command.
    shown_by: &'static [&'static str],
    purposes: &'static [Purpose],
}

const NEEDS: &[Need] = &[
    Need {
        package: "softhsm2",
        brings: "the SoftHSM module libsofthsm2.so",
        why: "the token that tests and demo keep their keys in",
        variable: Some("SOFTHSM2_MODULE"),
        places: &[
            "/usr/lib/softhsm/libsofthsm2.so",
            "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
            "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
            "/usr/lib64/softhsm/libsofthsm2.so",
            "/usr/lib64/pkcs11/libsofthsm2.so",
            "/usr/local/lib/softhsm/libsofthsm2.so",
        ],
        shown_by: &[],
        purposes: &[Purpose::Test, Purpose::Demo],
    },
    Need {
        package: "openssl",
        brings: "the program openssl",
        why: "the second opinion: certificates, approvals and order files are opened with code that is not ours",
        variable: None,
        places: &["/usr/bin/openssl", "/usr/local/bin/openssl", "/bin/openssl"],
        shown_by: &["openssl", "version"],
        purposes: &[Purpose::Test, Purpose::Demo, Purpose::Interop],
    },
    Need {
        package: "opensc",
        brings: "the module pkcs11-spy.so",
        why: "the trace of every PKCS#11 call, in which a test looks for reads of device keys",
        variable: Some("PKCS11_SPY_MODULE"),
        places: &[
            "/usr/lib/x86_64-linux-gnu/pkcs11-spy.so",
            "/usr/lib/x86_64-linux-gnu/pkcs11/pkcs11-spy.so",
            "/usr/lib/aarch64-linux-gnu/pkcs11-spy.so",
            "/usr/lib/aarch64-linux-gnu/pkcs11/pkcs11-spy.so",
            "/usr/lib64/pkcs11/pkcs11-spy.so",
            "/usr/lib64/pkcs11-spy.so",
            "/usr/local/lib/pkcs11-spy.so",
        ],
        shown_by: &[],
        purposes: &[Purpose::Test],
    },
    Need {
        package: "gnutls-bin",
        brings: "the program certtool",
        why: "a judge: certificates, chains and revocation lists as GnuTLS reads them",
        variable: None,
        places: &["/usr/bin/certtool", "/usr/local/bin/certtool"],
        shown_by: &["certtool", "--version"],
        purposes: &[Purpose::Interop],
    },
    Need {
        package: "libnss3-tools",
        brings: "the programs vfychain, certutil and crlutil",
        why: "a judge: chains and revocation lists as Firefox's library reads them",
        variable: None,
        places: &["/usr/bin/vfychain", "/usr/local/bin/vfychain"],
        shown_by: &[],
        purposes: &[Purpose::Interop],
    },
    Need {
        package: "python3-venv",
        brings: "Python with environments of their own",
        why: "a client and judges that are not in Rust; their packages are installed below target/ and nowhere else",
        variable: None,
        places: &[],
        shown_by: &["python3", "-c", "import ensurepip, venv"],
        purposes: &[Purpose::Test, Purpose::Interop],
    },
];

/// Where the modules are, for the programs that open them.
pub struct Found {
    modules: Vec<(&'static str, PathBuf)>,
}

impl Found {
    /// The variables that tell tests and programs where each module is.
    pub fn environment(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        self.modules.iter().map(|(variable, path)| (*variable, path.as_path()))
    }
}

/// Finds what the purpose needs and installs what is missing. Fails with what to do when it cannot.
pub fn run(purpose: Purpose) -> Result<Found, Failure> {
    let (_, missing) = look(purpose)?;
    if !missing.is_empty() {
        println!("== missing on this machine:");
        for need in &missing {
            println!("   {}: {} ({})", need.package, need.brings, need.why);
        }
        let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
        carry_out(&plan(&packages, &Machine::this()), &packages)?;
    }
    match look(purpose)? {
        (found, missing) if missing.is_empty() => Ok(found),
        (_, missing) => Err(Failure::new(format!(
            "still without {} after the installation; looked in {}{}",
            missing[0].brings,
            missing[0].places.join(", "),
            missing[0].shown_by.join(" ")
        ))),
    }
}

fn look(purpose: Purpose) -> Result<(Found, Vec<&'static Need>), Failure> {
    let runs = |command: &[&str]| quiet(Command::new(command[0]).args(&command[1..])) == Some(true);
    sort(purpose, &|name| std::env::var_os(name).map(PathBuf::from), &|path| path.is_file(), &runs)
}

/// What is there and what is missing; a variable that names a file which is not there is the caller's mistake.
fn sort(
    purpose: Purpose,
    variable: &dyn Fn(&str) -> Option<PathBuf>,
    is_there: &dyn Fn(&Path) -> bool,
    runs: &dyn Fn(&[&str]) -> bool,
) -> Result<(Found, Vec<&'static Need>), Failure> {
    let mut found = Found { modules: Vec::new() };
    let mut missing = Vec::new();
    for need in NEEDS.iter().filter(|need| need.purposes.contains(&purpose)) {
        let chosen = need.variable.and_then(|name| variable(name).map(|path| (name, path)));
        let path = match chosen {
            Some((name, path)) if !is_there(&path) => {
                return Err(Failure::new(format!("{name} names {}, which is not there", path.display())));
            }
            Some((_, path)) => Some(path),
            None => need.places.iter().map(PathBuf::from).find(|place| is_there(place)),
        };
        match (path, need.variable) {
            (None, _) if !need.shown_by.is_empty() && runs(need.shown_by) => {}
            (None, _) => missing.push(need),
            (Some(path), Some(name)) => found.modules.push((name, path)),
            (Some(_), None) => {}
        }
    }
    Ok((found, missing))
}

/// What decides how packages can be installed here.
struct Machine {
    apt: bool,
    root: bool,
    sudo: Sudo,
    /// Somebody can answer a question.
    terminal: bool,
}

#[derive(Clone, Copy)]
enum Sudo {
    Absent,
    WantsPassword,
    Free,
}

impl Machine {
    fn this() -> Self {
        let sudo = match quiet(Command::new("sudo").args(["-n", "true"])) {
            None => Sudo::Absent,
            Some(false) => Sudo::WantsPassword,
            Some(true) => Sudo::Free,
        };
        let id = Command::new("id").arg("-u").output();
        Self {
            apt: quiet(Command::new("apt-get").arg("--version")) == Some(true),
            root: id.is_ok_and(|output| output.stdout.trim_ascii() == b"0"),
            sudo,
            terminal: std::io::stdin().is_terminal(),
        }
    }
}

/// Whether a command succeeds, silently; none when it cannot be started.
fn quiet(command: &mut Command) -> Option<bool> {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.ok().map(|status| status.success())
}

/// How the missing packages come onto the machine.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// As root already.
    Install,
    /// Through sudo, which asks for nothing.
    InstallWithSudo,
    /// Through sudo after asking whoever sits at the terminal.
    AskThenInstallWithSudo,
    /// Not by us: what to tell the user.
    Tell(String),
}

fn plan(packages: &[&str], machine: &Machine) -> Plan {
    let names = packages.join(" ");
    if !machine.apt {
        return Plan::Tell(format!(
            "there is no apt-get here: install what Debian calls {names} with this system's own means"
        ));
    }
    match (machine.root, machine.sudo, machine.terminal) {
        (true, _, _) => Plan::Install,
        (false, Sudo::Absent, _) => Plan::Tell(format!(
            "not root and no sudo here: run as root: apt-get update && apt-get install -y {names}"
        )),
        (false, Sudo::WantsPassword | Sudo::Free, true) => Plan::AskThenInstallWithSudo,
        (false, Sudo::Free, false) => Plan::InstallWithSudo,
        (false, Sudo::WantsPassword, false) => Plan::Tell(format!(
            "sudo wants a password and there is no terminal: run first: sudo apt-get update && sudo apt-get install -y {names}"
        )),
    }
}

fn carry_out(plan: &Plan, packages: &[&str]) -> Result<(), Failure> {
    let sudo = match plan {
        Plan::Tell(message) => return Err(Failure::new(message.clone())),
        Plan::Install => false,
        Plan::InstallWithSudo => true,
        Plan::AskThenInstallWithSudo => {
            ask(&format!("install {} with sudo apt-get now?", packages.join(", ")))?;
            true
        }
    };
    let known =
        packages.iter().all(|package| quiet(Command::new("apt-cache").args(["show", package])) == Some(true));
    if !known {
        step("apt-get update", &mut apt_get(sudo, &["update"]))?;
    }
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(packages);
    let installed = step("apt-get install", &mut apt_get(sudo, &arguments));
    if installed.is_err() && known {
        // An old package list names versions that the mirrors have dropped.
        step("apt-get update", &mut apt_get(sudo, &["update"]))?;
        return step("apt-get install", &mut apt_get(sudo, &arguments));
    }
    installed
}

fn apt_get(sudo: bool, arguments: &[&str]) -> Command {
    // `env` so that the setting survives sudo, which drops the environment.
    let mut words = if sudo { vec!["sudo"] } else { Vec::new() };
    words.extend(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    words.extend(arguments);
    println!("   {}", words.join(" "));
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}

/// Asks a yes-or-no question on the terminal; an empty answer is yes.
fn ask(question: &str) -> Result<(), Failure> {
    print!("   {question} [Y/n] ");
    let read = std::io::stdout().flush().and_then(|()| {
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).map(|count| (count, answer))
    });
    match read {
        // Zero bytes is the end of input, which is no answer.
        Ok((count, answer)) if count > 0 && matches!(answer.trim(), "" | "y" | "Y" | "yes") => Ok(()),
        Ok(_) => Err(Failure::new("nothing was installed")),
        Err(error) => Err(Failure::new(format!("no answer: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[&str] =
        &["/usr/lib/softhsm/libsofthsm2.so", "/usr/bin/openssl", "/usr/lib/x86_64-linux-gnu/pkcs11-spy.so"];

    fn packages(purpose: Purpose, there: &[&str]) -> Vec<&'static str> {
        let is_there = |path: &Path| there.iter().any(|file| path == Path::new(file));
        // Python alone is shown by a command and by no file.
        let sorted = sort(purpose, &|_| None, &is_there, &|command| command[0] == "python3");
        sorted.unwrap().1.iter().map(|need| need.package).collect()
    }

    #[test]
    fn each_package_is_missed_by_its_file_alone() {
        assert_eq!(packages(Purpose::Test, &[]), ["softhsm2", "openssl", "opensc"]);
        assert_eq!(packages(Purpose::Test, ALL), Vec::<&str>::new());
        assert_eq!(packages(Purpose::Test, &ALL[1..]), ["softhsm2"]);
    }

    #[test]
    fn the_demo_does_without_the_spy() {
        assert_eq!(packages(Purpose::Demo, &ALL[..2]), Vec::<&str>::new());
        assert_eq!(packages(Purpose::Test, &ALL[..2]), ["opensc"]);
    }

    #[test]
    fn python_is_missed_by_its_command_alone() {
        let missing = sort(Purpose::Test, &|_| None, &|_| true, &|_| false).unwrap().1;
        assert_eq!(missing.iter().map(|need| need.package).collect::<Vec<_>>(), ["python3-venv"]);
    }

    #[test]
    fn a_module_named_by_its_variable_is_taken_and_passed_on() {
        let own = |name: &str| (name == "SOFTHSM2_MODULE").then(|| PathBuf::from("/opt/softhsm.so"));
        let there = |path: &Path| path != Path::new(ALL[0]);
        let (found, missing) = sort(Purpose::Demo, &own, &there, &|_| false).unwrap();
        assert!(missing.is_empty());
        assert_eq!(found.environment().next(), Some(("SOFTHSM2_MODULE", Path::new("/opt/softhsm.so"))));
    }

    #[test]
    fn a_variable_that_names_no_file_is_an_error_and_not_an_installation() {
        let wrong = |_: &str| Some(PathBuf::from("/opt/nothing.so"));
        let failure = sort(Purpose::Demo, &wrong, &|path| path != Path::new("/opt/nothing.so"), &|_| false)
            .err()
            .unwrap();
        assert!(failure.to_string().contains("SOFTHSM2_MODULE names /opt/nothing.so"));
    }

    fn planned(apt: bool, root: bool, sudo: Sudo, terminal: bool) -> Plan {
        plan(&["softhsm2", "opensc"], &Machine { apt, root, sudo, terminal })
    }

    #[test]
    fn root_installs_and_others_go_through_sudo() {
        assert_eq!(planned(true, true, Sudo::Absent, false), Plan::Install);
        assert_eq!(planned(true, false, Sudo::Free, false), Plan::InstallWithSudo);
        assert_eq!(planned(true, false, Sudo::Free, true), Plan::AskThenInstallWithSudo);
        assert_eq!(planned(true, false, Sudo::WantsPassword, true), Plan::AskThenInstallWithSudo);
    }

    #[test]
    fn a_password_that_nobody_can_type_gives_the_exact_command() {
        let Plan::Tell(message) = planned(true, false, Sudo::WantsPassword, false) else {
            panic!("must not run")
        };
        assert!(message.ends_with("sudo apt-get update && sudo apt-get install -y softhsm2 opensc"));
        let Plan::Tell(message) = planned(true, false, Sudo::Absent, true) else { panic!("must not run") };
        assert!(message.ends_with("run as root: apt-get update && apt-get install -y softhsm2 opensc"));
    }

    #[test]
    fn another_system_is_told_what_to_install_and_nothing_runs() {
        let Plan::Tell(message) = planned(false, true, Sudo::Free, true) else { panic!("must not run") };
        assert!(message.contains("softhsm2 opensc"));
        assert!(carry_out(&Plan::Tell(message), &[]).is_err());
    }
}
