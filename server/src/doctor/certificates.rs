//! The certificates that the service itself rests on.

use std::fs;

use ca::Issuers;
use domain::Timestamp;
use pki::{Certificate, KnownKeys, PublicKey};
use store::{Inspection, Store};

use super::daemon::{Daemon, fetch};
use super::report::Check;
use crate::config::Config;
use crate::gate::chain;
use crate::init::CERTIFICATE_ISSUER;
use crate::server_identity::{self, Pair};

/// A certificate that ends within so many days is a warning.
const DAYS_WARNING: i64 = 30;
/// More issuers than any authority has.
const ISSUERS_MAX: usize = 10_000;

const REPLACE_SERVER: &str =
    "restore tls/ from the backup; the service renews the certificate by itself while it runs";

pub(crate) fn checks(
    config: &Config,
    walked: Option<&Inspection>,
    daemon: Option<&Daemon>,
    now: Timestamp,
) -> Vec<Check> {
    let (operator_check, operator) = operator_ca(config, now);
    vec![server(config, operator.as_ref(), now), operator_check, issuers(config, walked, daemon, now)]
}

fn server(config: &Config, operator: Option<&Certificate>, now: Timestamp) -> Check {
    let mut check = Check::new("certificate.server");
    if let Err(problem) = judge_server(&mut check, config, operator, now) {
        check.fault(problem, REPLACE_SERVER);
    }
    check
}

fn judge_server(
    check: &mut Check,
    config: &Config,
    operator: Option<&Certificate>,
    now: Timestamp,
) -> Result<(), String> {
    let pair = Pair::read(config).map_err(|e| chain(&e))?;
    let certificate = &pair.certificate;
    judge_validity(check, server_identity::FILE, certificate, now);
    if let Some(operator) = operator {
        PublicKey::parse(operator.spki(), KnownKeys::Allow)
            .and_then(|key| certificate.verify_signature(&key))
            .map_err(|e| format!("tls/server.pem was not issued by tls/operator-ca.pem: {}", chain(&e)))?;
    }
    let roots = fs::read(config.path(server_identity::ROOTS))
        .map_err(|e| format!("{}: {e}", server_identity::ROOTS))?;
    pair.tls(&roots).map(drop).map_err(|e| chain(&e))
}

fn operator_ca(config: &Config, now: Timestamp) -> (Check, Option<Certificate>) {
    let mut check = Check::new("certificate.operator-ca");
    let read = fs::read(config.path("tls/operator-ca.pem")).map_err(|error| error.to_string());
    match read.and_then(|pem| Certificate::from_pem(&pem).map_err(|error| chain(&error))) {
        Ok(certificate) => {
            judge_validity(&mut check, "tls/operator-ca.pem", &certificate, now);
            (check, Some(certificate))
        }
        Err(error) => {
            check.fault(format!("tls/operator-ca.pem: {error}"), "restore tls/ from the backup");
            (check, None)
        }
    }
}

fn issuers(config: &Config, walked: Option<&Inspection>, daemon: Option<&Daemon>, now: Timestamp) -> Check {
    let id = "certificate.issuers";
    let mut check = Check::new(id);
    if let Some(walked) = walked {
        let issuers = Issuers::default();
        for name in names(walked) {
            match issuers.find(walked, &name) {
                Ok(issuer) => match &issuer.certificate {
                    Some(certificate) => {
                        judge_validity(&mut check, &name, certificate, now);
                        if issuer.public_key != certificate.spki() {
                            check.fault(
                                format!("{name}: the certificate is not for the registered key"),
                                "issue nothing from it; have the officer register the issuer's key again",
                            );
                        }
                    }
                    None => check.detail(format!("{name}: a key without a certificate yet")),
                },
                Err(error) => check.fault(
                    format!("{name}: {}", chain(&error)),
                    "its record or key record cannot be read: compare with the ceremony's transcript",
                ),
            }
        }
        return check;
    }
    if daemon.is_none() {
        return Check::skipped(id, "the records are in the log, which was not read");
    }
    let path = format!("/ca/{CERTIFICATE_ISSUER}.pem");
    let Some(pem) = fetch(config.http_listen, &path).ok().filter(|(status, _)| *status == 200) else {
        return Check::skipped(id, "the daemon is running and its HTTP does not answer");
    };
    match Certificate::from_pem(pem.1.as_bytes()) {
        Ok(certificate) => judge_validity(&mut check, CERTIFICATE_ISSUER, &certificate, now),
        Err(error) => check.fault(
            format!("{path}: {}", chain(&error)),
            "what answers there is not this daemon: compare http_listen with the machine's listeners",
        ),
    }
    check.detail("the daemon is running: the other issuers are in its log and were not looked at");
    check
}

fn names(walked: &Inspection) -> Vec<String> {
    let keyspace = ca::KEYSPACES.into_iter().find(|keyspace| keyspace.name == "issuers");
    let rows = keyspace.and_then(|keyspace| walked.scan(keyspace, &[], None, ISSUERS_MAX).ok());
    rows.unwrap_or_default().into_iter().map(|(key, _)| String::from_utf8_lossy(&key).into_owned()).collect()
}

fn judge_validity(check: &mut Check, name: &str, certificate: &Certificate, now: Timestamp) {
    let (from, until) = (certificate.not_before(), certificate.not_after());
    judge_days(
        check,
        name,
        (from.unix_seconds(), until.unix_seconds()),
        &format!("{from} to {until}"),
        now.seconds(),
    );
}

fn judge_days(check: &mut Check, name: &str, (from, until): (i64, i64), span: &str, now: i64) {
    let days = until.saturating_sub(now) / 86_400;
    if now < from {
        check.fault(
            format!("{name} is not valid yet: {span}"),
            "compare the machine's clock; a certificate from the future was made under a wrong one",
        );
    } else if now > until {
        check.fault(
            format!("{name} has expired: {span}"),
            "have it renewed now; until then nothing that rests on it works",
        );
    } else if days < DAYS_WARNING {
        check.warn(format!("{name} ends in {days} days: {span}"), "have it renewed before it ends");
    } else {
        check.detail(format!("{name}: valid {days} more days, {span}"));
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    #[test]
    fn a_certificate_warns_thirty_days_before_its_end_and_fails_outside_its_time() {
        const DAY: i64 = 86_400;
        for (now, verdict) in [
            (-1, Verdict::Fault),
            (0, Verdict::Ok),
            (70 * DAY, Verdict::Ok),
            (70 * DAY + 1, Verdict::Warning),
            (100 * DAY, Verdict::Warning),
            (100 * DAY + 1, Verdict::Fault),
        ] {
            let mut check = Check::new("certificate.server");
            judge_days(&mut check, "x", (0, 100 * DAY), "", now);
            assert_eq!(check.verdict, verdict, "{now}");
        }
    }
}
