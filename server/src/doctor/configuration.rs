//! The configuration against the machine it is for.

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::daemon::{Daemon, reachable};
use super::report::Check;
use crate::config::{Config, Mode};
use crate::foundation::{self, Foundation};
use crate::gate::chain;

/// How long a listener of another program may take to accept.
const PATIENCE: Duration = Duration::from_secs(1);

pub(crate) fn file(path: &Path) -> (Check, Option<Config>) {
    let mut check = Check::new("configuration.file");
    match Config::read(path) {
        Ok(config) => {
            check.detail(format!("{}: authority {}, node {}", path.display(), config.authority, config.node));
            (check, Some(config))
        }
        Err(error) => {
            check.fault(
                chain(&error),
                "correct the file; `chanceryd config` writes one with every field explained",
            );
            (check, None)
        }
    }
}

pub(crate) fn mode(config: &Config) -> Check {
    let mut check = Check::new("configuration.mode");
    match config.mode {
        Mode::Development => check.warn(
            "DEVELOPMENT: SoftHSM and published test keys are allowed; not for real devices",
            "set mode = \"production\" and use a hardware token before any real device is ordered",
        ),
        Mode::Production => check.detail("production: SoftHSM and published test keys are refused"),
    }
    check
}

/// What a path holds, and so who may read it.
enum Keeps {
    Folder,
    Secret,
    /// Kept from others as well, but its absence is only worth a word.
    Optional,
}

pub(crate) fn permissions(config: &Config) -> Check {
    let mut check = Check::new("configuration.permissions");
    let mut paths =
        vec![(config.data_directory.clone(), Keeps::Folder), (config.path("tls/server.pem"), Keeps::Secret)];
    for name in config.token_names() {
        if let Some(token) = config.token(name) {
            paths.push((token.pin_file.clone(), Keeps::Secret));
        }
        if let Some(path) = config.so_pin_file(name) {
            paths.push((path.to_owned(), Keeps::Optional));
        }
    }
    for folder in ["pins", "tokens", "tls", "log", "orders"] {
        paths.push((config.path(folder), Keeps::Optional));
    }
    let count = paths.len();
    for (path, keeps) in paths {
        one_permission(&mut check, &path, &keeps);
    }
    check.detail(format!("{count} folders and files looked at; no content is shown"));
    check
}

fn one_permission(check: &mut Check, path: &PathBuf, keeps: &Keeps) {
    let shown = path.display();
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound && matches!(keeps, Keeps::Optional) => return,
        Err(error) => {
            return check.fault(
                format!("{shown}: {error}"),
                "correct the path in the configuration, or run `chanceryd init` if the authority is new",
            );
        }
    };
    let mode = found.permissions().mode() & 0o777;
    // Inside a private data directory a folder's own mode opens nothing.
    let is_open = mode & 0o077 != 0 && (found.is_file() || matches!(keeps, Keeps::Folder));
    if is_open {
        let wanted = if found.is_dir() { "0700" } else { "0600" };
        check.fault(
            format!("{shown} has mode {mode:04o}: others may use it"),
            format!(
                "chmod {wanted} {shown}; if others had access to the machine, change the PIN or key as well"
            ),
        );
    }
    if found.is_file() {
        match File::open(path) {
            Ok(_) if found.len() == 0 => check.fault(format!("{shown} is empty"), "put the PIN or key in it"),
            Ok(_) => {}
            Err(error) => check.fault(
                format!("{shown} cannot be read: {error}"),
                "run doctor as the user that runs the daemon, or give that user the file",
            ),
        }
    }
}

pub(crate) fn listeners(config: &Config, daemon: Option<&Daemon>) -> Check {
    let mut check = Check::new("configuration.listeners");
    let addresses = [
        ("listen", config.listen),
        ("http_listen", config.http_listen),
        ("metrics_listen", config.metrics_listen),
    ];
    for (field, address) in addresses {
        let taken = TcpStream::connect_timeout(&reachable(address), PATIENCE).is_ok();
        judge_listener(&mut check, field, address, local(address), taken, daemon.is_some());
    }
    check
}

/// Whether the address belongs to this machine: any free port of it will do to see.
fn local(address: SocketAddr) -> io::Result<()> {
    TcpListener::bind((address.ip(), 0)).map(drop)
}

fn judge_listener(
    check: &mut Check,
    field: &str,
    address: SocketAddr,
    local: io::Result<()>,
    taken: bool,
    daemon: bool,
) {
    match (local, taken, daemon) {
        (Err(error), ..) => check.fault(
            format!("{field} {address}: {error}"),
            "choose an address of this machine in the configuration",
        ),
        (Ok(()), true, false) => check.fault(
            format!("{field} {address} is in use by another program"),
            "stop that program, or choose another port in the configuration",
        ),
        (Ok(()), false, true) => check.fault(
            format!("{field} {address}: the running daemon does not answer there"),
            "restart the daemon if its configuration was changed since its start",
        ),
        (Ok(()), true, true) => check.detail(format!("{field} {address}: the daemon answers")),
        (Ok(()), false, false) => check.detail(format!("{field} {address}: free")),
    }
}

pub(crate) fn foundation(config: &Config) -> (Check, Option<Foundation>) {
    let mut check = Check::new("configuration.foundation");
    let path = config.path(foundation::FILE);
    let founded = match Foundation::read(&path).and_then(|f| f.registrations().map(|_| f)) {
        Ok(founded) => founded,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            check.fault(
                format!("{} is not there", path.display()),
                "run `chanceryd init` for a new authority; for an existing one correct data_directory or restore it",
            );
            return (check, None);
        }
        Err(error) => {
            check.fault(format!("{}: {error}", path.display()), "restore the file from the backup");
            return (check, None);
        }
    };
    check.detail(format!("log {}, log token {}", founded.origin(), founded.token_serial));
    if (&founded.authority, &founded.node) != (&config.authority, &config.node) {
        check.fault(
            format!("the data directory belongs to {}/{}", founded.authority, founded.node),
            "set authority, node or data_directory right in the configuration; none of them ever changes",
        );
    }
    (check, Some(founded))
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    #[test]
    fn an_address_is_ours_free_taken_or_foreign() {
        let judge = |local: io::Result<()>, taken, daemon| {
            let mut check = Check::new("configuration.listeners");
            judge_listener(&mut check, "listen", "127.0.0.1:1".parse().unwrap(), local, taken, daemon);
            check.verdict
        };
        assert_eq!(judge(Ok(()), false, false), Verdict::Ok);
        assert_eq!(judge(Ok(()), true, true), Verdict::Ok);
        assert_eq!(judge(Ok(()), true, false), Verdict::Fault);
        assert_eq!(judge(Ok(()), false, true), Verdict::Fault);
        assert_eq!(judge(Err(io::ErrorKind::AddrNotAvailable.into()), false, false), Verdict::Fault);
    }

    #[test]
    fn a_secret_that_others_may_read_is_a_fault_and_its_content_is_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.pin");
        fs::write(&path, "123456").unwrap();
        for (mode, verdict) in [(0o600, Verdict::Ok), (0o644, Verdict::Fault), (0o640, Verdict::Fault)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let mut check = Check::new("configuration.permissions");
            one_permission(&mut check, &path, &Keeps::Secret);
            assert_eq!(check.verdict, verdict, "{mode:o}");
            assert!(!format!("{check:?}").contains("123456"));
        }
        let mut check = Check::new("configuration.permissions");
        one_permission(&mut check, &folder.path().join("absent"), &Keeps::Secret);
        assert_eq!(check.verdict, Verdict::Fault);
    }
}
