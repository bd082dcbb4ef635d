//! The tokens: there, the same, opened by their PIN, with every registered key.

use ca::KeyRegistration;
use hsm::{ErrorClass, HsmError, PinTries, Token, TokenSeen};

use super::daemon::Daemon;
use super::report::Check;
use crate::config::{Config, Mode, TOKENS};
use crate::foundation::Foundation;
use crate::tokens::{WORKER, this_binary};

const RESTORE: &str = "if the token was lost or initialised again its keys are gone: restore the token from its backup; \
                       never initialise or create keys under an old name";

/// The tokens that the module shows without a login.
pub(crate) struct Look {
    seen: Result<Vec<TokenSeen>, HsmError>,
}

/// Where a token that should be there is.
#[derive(PartialEq, Eq, Debug)]
enum Presence<'s> {
    There(&'s TokenSeen),
    /// The label is there, under other serial numbers.
    Another(Vec<&'s str>),
    Missing,
    Several(usize),
}

impl Look {
    /// A worker process loads the module; nothing is logged in.
    pub(crate) fn at(config: &Config, daemon: Option<&Daemon>) -> Self {
        let seen = match config.token(TOKENS[0]) {
            // The token's lock stands in the data directory.
            Some(token) if config.data_directory.is_dir() => {
                this_binary(WORKER).and_then(|command| hsm::inspect(token, &command))
            }
            _ => Err(HsmError::new(ErrorClass::Policy, "there is no data directory")),
        };
        if let (Err(error), Some(_)) = (&seen, daemon) {
            tracing::debug!(%error, "the module does not load beside the running daemon");
        }
        Self { seen }
    }

    pub(crate) fn module_check(&self, config: &Config) -> Check {
        let mut check = Check::new("token.module");
        let module = config.token(TOKENS[0]).map(|token| token.module.display().to_string());
        let module = module.unwrap_or_default();
        match &self.seen {
            Ok(seen) => check.detail(format!("{module}: {} initialised tokens", seen.len())),
            Err(error) => check.fault(
                format!("{module}: {error}"),
                "correct pkcs11.module and pkcs11.environment; for SoftHSM the file in SOFTHSM2_CONF must be there, \
                 and so must the token folder that it names: restore it from the backup if it is gone",
            ),
        }
        check
    }

    /// The checks of a token that the running daemon has open.
    pub(crate) fn with_daemon(
        &self,
        config: &Config,
        name: &'static str,
        foundation: Option<&Foundation>,
        daemon: &Daemon,
    ) -> Vec<Check> {
        let serial = foundation.filter(|_| name == "log").map(|foundation| foundation.token_serial.as_str());
        let (present, _) = self.present(config, name, serial);
        let metric = |what: &str| daemon.metric(&format!("chancery_token_{what}{{token=\"{name}\"}}"));
        let pin = judge_ready(&id(name, "pin"), metric("workers_ready"), metric("worker_restarts_total"));
        let mut keys = Check::new(&id(name, "keys"));
        match metric("signature_faults_total") {
            Some(0) => keys.detail("the daemon checked every key at its start and verifies every signature"),
            Some(faults) => keys.fault(
                format!("{faults} signatures of the token did not verify"),
                "stop the daemon; have the token examined before it signs anything else",
            ),
            None => keys = Check::skipped(&keys.id, "the daemon's metrics do not answer"),
        }
        vec![present, pin, keys]
    }

    /// The checks of a token that nobody has open, and the token if it opened. `keys` are the registered ones of every
    /// token; `None` when the records that name them cannot be read.
    pub(crate) async fn alone(
        &self,
        config: &Config,
        name: &'static str,
        keys: Option<&[KeyRegistration]>,
    ) -> (Vec<Check>, Option<Token>) {
        let on_token: Vec<&KeyRegistration> =
            keys.unwrap_or_default().iter().filter(|k| k.token == name).collect();
        let serial = on_token.first().map(|key| key.token_serial.clone());
        let (present, seen) = self.present(config, name, serial.as_deref());
        let (pin_id, keys_id) = (id(name, "pin"), id(name, "keys"));
        let (Some(seen), Some(token)) = (seen, config.token(name)) else {
            let reason = "the token is not there";
            let skipped = [Check::skipped(&pin_id, reason), Check::skipped(&keys_id, reason)];
            return ([vec![present], skipped.to_vec()].concat(), None);
        };
        let mut pin = Check::new(&pin_id);
        if !may_try(&mut pin, seen.pin) {
            return (vec![present, pin, Check::skipped(&keys_id, "the PIN was not tried")], None);
        }
        let mut token = token.clone();
        token.token_serial = Some(seen.serial.clone());
        // One login, whatever is configured.
        (token.workers, token.threads_per_worker) = (1, 1);
        let pin_file = token.pin_file.display().to_string();
        let registered = on_token.iter().map(|key| key.key.clone()).collect();
        let started = match this_binary(WORKER) {
            Ok(command) => Token::start(token, registered, command).await,
            Err(error) => Err(error),
        };
        let mut found = Check::new(&keys_id);
        match started {
            Ok(token) => {
                let report = token.report();
                pin.detail("one login, accepted");
                if keys.is_none() {
                    found = Check::skipped(
                        &keys_id,
                        "the records that name the keys are in the log, which cannot be read",
                    );
                } else {
                    judge_report(&mut found, &report, name);
                }
                (vec![present, pin, found], Some(token))
            }
            Err(error) => {
                judge_refusal(&mut pin, &mut found, &error, &pin_file);
                (vec![present, pin, found], None)
            }
        }
    }

    fn present(
        &self,
        config: &Config,
        name: &'static str,
        recorded: Option<&str>,
    ) -> (Check, Option<&TokenSeen>) {
        let id = id(name, "present");
        let (Ok(seen), Some(token)) = (&self.seen, config.token(name)) else {
            return (Check::skipped(&id, "the module does not load"), None);
        };
        let mut check = Check::new(&id);
        let serial = recorded.or(token.token_serial.as_deref());
        if serial.is_none() {
            check.detail("by label only: the recorded serial number is in the log, which was not read");
        }
        let label = &token.token_label;
        let found = match presence(seen, label, serial) {
            Presence::There(found) => {
                check.detail(format!("{label}, serial {}, {}", found.serial, found.model));
                if config.mode == Mode::Production && found.model.to_lowercase().contains("softhsm") {
                    check.fault("it is SoftHSM, which production mode refuses", "use a hardware token");
                }
                return (check, Some(found));
            }
            Presence::Missing => format!("{label} is not there"),
            Presence::Another(serials) => {
                check.fault(
                    format!(
                        "{label} has serial {} and not {} as recorded: it was initialised again or is another token",
                        serials.join(", "),
                        serial.unwrap_or_default()
                    ),
                    RESTORE,
                );
                return (check, None);
            }
            Presence::Several(count) => format!("{count} tokens are called {label}"),
        };
        check.fault(
            found,
            format!(
                "connect the token, or correct tokens.{name}.label, tokens.{name}.serial and pkcs11.environment; {RESTORE}"
            ),
        );
        (check, None)
    }
}

fn id(token: &str, what: &str) -> String {
    format!("token.{token}.{what}")
}

fn presence<'s>(seen: &'s [TokenSeen], label: &str, serial: Option<&str>) -> Presence<'s> {
    let named: Vec<&TokenSeen> = seen.iter().filter(|token| token.label == label).collect();
    let right: Vec<&TokenSeen> =
        named.iter().copied().filter(|token| serial.is_none_or(|serial| token.serial == serial)).collect();
    match (&right[..], named.len()) {
        ([found], _) => Presence::There(found),
        ([], 0) => Presence::Missing,
        ([], _) => Presence::Another(named.iter().map(|token| token.serial.as_str()).collect()),
        (several, _) => Presence::Several(several.len()),
    }
}

/// Whether the PIN may be tried: not when a try has failed before, since each failure brings the token nearer its lock.
fn may_try(check: &mut Check, tries: PinTries) -> bool {
    match tries {
        PinTries::Full => return true,
        PinTries::CountLow => check.fault(
            "not tried: the token says that a PIN was refused since the last good login",
            "make sure that the PIN file holds the right PIN, then start the daemon: a good login clears the mark",
        ),
        PinTries::FinalTry => check.fault(
            "not tried: the token says that one more refusal locks it",
            "make sure of the PIN with its keeper before anybody tries again; then start the daemon",
        ),
        PinTries::Locked => check.fault(
            "not tried: the token has locked the PIN",
            "the token's security officer sets a new user PIN with the vendor's tool; put it in the PIN file",
        ),
        PinTries::NotInitialized => check.fault(
            "the token has no user PIN: it was initialised by other means than `chanceryd init`",
            RESTORE,
        ),
    }
    false
}

fn judge_ready(id: &str, ready: Option<u64>, restarts: Option<u64>) -> Check {
    let mut check = Check::new(id);
    match ready {
        Some(0) => check.fault(
            "no worker of the running daemon is ready",
            "read the daemon's own log for the reason; stop it and run doctor again",
        ),
        Some(ready) => {
            check.detail(format!("{ready} workers of the running daemon are logged in"));
            if let Some(restarts) = restarts.filter(|restarts| *restarts > 0) {
                check.warn(
                    format!("{restarts} workers were lost and replaced since its start"),
                    "read the daemon's own log for what ended them",
                );
            }
        }
        None => return Check::skipped(id, "the daemon's metrics do not answer"),
    }
    check
}

fn judge_report(check: &mut Check, report: &hsm::StartReport, name: &str) {
    check.detail(format!(
        "{} keys with their template and recorded value, {} of {} probes passed",
        report.verified_keys.len(),
        report.probes.iter().filter(|probe| probe.passed).count(),
        report.probes.len()
    ));
    let unknown = report.unknown_objects.iter().filter(|object| !object.starts_with("public-key"));
    for object in unknown {
        check.warn(
            format!("not registered: {object}"),
            format!(
                "compare with `chanceryd ceremony list --token {name}`: a key of a ceremony whose registration is \
                 under way is in order, anything else is to be explained"
            ),
        );
    }
}

/// Sorts a refused start by who must act.
fn judge_refusal(pin: &mut Check, keys: &mut Check, error: &HsmError, pin_file: &str) {
    let not_reached = |check: &Check, why: &str| Check::skipped(&check.id, why);
    match error.class {
        ErrorClass::Pin if error.function.is_none() => {
            pin.fault(
                error.to_string(),
                format!(
                    "put the PIN alone on one line of {pin_file} and set its mode to 0600; it was not tried"
                ),
            );
            *keys = not_reached(keys, "the PIN was not tried");
        }
        ErrorClass::Pin => {
            pin.fault(
                error.to_string(),
                format!(
                    "put the right PIN in {pin_file}; it was tried once and doctor will not try it again: a start of \
                     the daemon will"
                ),
            );
            *keys = not_reached(keys, "the PIN was refused");
        }
        ErrorClass::Handle | ErrorClass::Policy => {
            pin.detail("one login, accepted");
            keys.fault(
                error.to_string(),
                "a key is gone, is another or has other attributes: restore the token from its backup; \
                 keys are never made again under an old name",
            );
        }
        ErrorClass::Caller
        | ErrorClass::Blob
        | ErrorClass::Session
        | ErrorClass::Login
        | ErrorClass::Capacity
        | ErrorClass::Token
        | ErrorClass::Deadline
        | ErrorClass::Overloaded
        | ErrorClass::ShuttingDown => {
            *pin = not_reached(pin, "the token failed; whether the PIN opens it is not known");
            keys.fault(
                error.to_string(),
                "examine the token and its connection with the vendor's tool; run doctor again",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    fn seen(label: &str, serial: &str) -> TokenSeen {
        let (label, serial) = (label.to_owned(), serial.to_owned());
        TokenSeen { label, serial, model: "model".to_owned(), pin: PinTries::Full }
    }

    #[test]
    fn a_missing_token_a_new_one_of_its_name_and_the_right_one_are_told_apart() {
        let all = [seen("a", "1"), seen("b", "2")];
        assert_eq!(presence(&all, "a", Some("1")), Presence::There(&all[0]));
        assert_eq!(presence(&all, "a", Some("9")), Presence::Another(vec!["1"]));
        assert_eq!(presence(&all, "c", Some("9")), Presence::Missing);
        assert_eq!(presence(&all, "b", None), Presence::There(&all[1]));
        assert_eq!(presence(&[seen("a", "1"), seen("a", "2")], "a", None), Presence::Several(2));
    }

    #[test]
    fn a_pin_is_tried_only_while_no_try_has_failed() {
        for (tries, wanted) in [
            (PinTries::Full, true),
            (PinTries::CountLow, false),
            (PinTries::FinalTry, false),
            (PinTries::Locked, false),
            (PinTries::NotInitialized, false),
        ] {
            let mut check = Check::new("token.log.pin");
            assert_eq!(may_try(&mut check, tries), wanted);
            assert_eq!(check.verdict == Verdict::Fault, !wanted);
            assert_eq!(check.advice.is_empty(), wanted);
        }
    }

    #[test]
    fn a_refused_start_blames_the_pin_the_keys_or_the_token() {
        let judge = |class, function: Option<&str>| {
            let (mut pin, mut keys) = (Check::new("token.ca.pin"), Check::new("token.ca.keys"));
            let mut error = HsmError::new(class, "what was done");
            error.function = function.map(str::to_owned);
            judge_refusal(&mut pin, &mut keys, &error, "ca.pin");
            (pin.verdict, keys.verdict)
        };
        assert_eq!(judge(ErrorClass::Pin, Some("C_Login")), (Verdict::Fault, Verdict::Skipped));
        assert_eq!(judge(ErrorClass::Pin, None), (Verdict::Fault, Verdict::Skipped));
        assert_eq!(judge(ErrorClass::Handle, None), (Verdict::Ok, Verdict::Fault));
        assert_eq!(judge(ErrorClass::Token, None), (Verdict::Skipped, Verdict::Fault));
        assert_eq!(judge_ready("token.ca.pin", Some(0), None).verdict, Verdict::Fault);
        assert_eq!(judge_ready("token.ca.pin", Some(2), Some(1)).verdict, Verdict::Warning);
        assert_eq!(judge_ready("token.ca.pin", None, None).verdict, Verdict::Skipped);
    }
}
