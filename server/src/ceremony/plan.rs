//! `chanceryd ceremony plan`: everything that the ceremony will do, in its order, rehearsed with throw-away keys. Touches no token.

mod extensions;
mod rendering;

use std::path::Path;

use domain::Timestamp;
use pki::{Certificate, CivilTime, ExtensionValue, PublicKey};
use serde::Serialize;

use super::machine::Place;
use super::prepared::{Made, PlanError, Prepared};
use super::specification::{End, KeyStep, Signer, Subject};
use crate::config::{Config, Mode};

/// Octets of a fixed serial number below which others may guess it (CA/Browser Forum: 64 bits).
const SERIAL_OCTETS_FEW: usize = 8;

/// What a ceremony will do.
#[derive(Serialize)]
pub(super) struct Plan {
    /// Of the exact file; `ceremony run --reviewed` names it.
    pub(super) specification_sha256: String,
    pub(super) title: String,
    authority: String,
    mode: &'static str,
    /// `founded` or `offline`.
    machine: &'static str,
    /// Whose key signs the transcript.
    transcript_key: &'static str,
    participants: Vec<Fact>,
    pub(super) steps: Vec<Step>,
    pub(super) warnings: Vec<String>,
}

/// One thing that is done.
#[derive(Serialize)]
pub(super) struct Step {
    /// `key`, `certificate`, `request` or `list`.
    kind: &'static str,
    name: String,
    /// What it says, in its order.
    facts: Vec<Fact>,
    /// Files that it leaves.
    products: Vec<String>,
}

/// A name and a value.
#[derive(Serialize)]
struct Fact {
    name: String,
    value: String,
}

impl Fact {
    fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: value.into() }
    }
}

impl Plan {
    /// Rehearses every step at `now` with throw-away keys of the same curves, by the code that does them. `folder` is that of the
    /// specification.
    pub(super) fn rehearse(
        config: &Config,
        prepared: &Prepared,
        folder: &Path,
        now: Timestamp,
    ) -> Result<Self, PlanError> {
        let specification = &prepared.specification;
        let mut plan = Self {
            specification_sha256: hex::encode(specification.digest),
            title: specification.title.clone(),
            authority: specification.authority.clone(),
            mode: match config.mode {
                Mode::Development => "development",
                Mode::Production => "production",
            },
            machine: prepared.place.as_str(),
            transcript_key: match prepared.place {
                Place::Founded => "the authority's log key",
                Place::Offline => "the transcript key of this machine",
            },
            participants: specification
                .participants
                .iter()
                .map(|(name, duty)| Fact::new(name, duty))
                .collect(),
            steps: Vec::new(),
            warnings: Vec::new(),
        };
        if config.mode == Mode::Development {
            plan.warn("the configuration is for development: software tokens and published keys pass");
        }
        let mut made = Made::default();
        for key in &specification.keys {
            made.keys.push(PublicKey::throw_away(key.curve)?);
            plan.key(key, folder);
        }
        for at in 0..specification.certificates.len() {
            let certificate = prepared.certificate(at, &made, now)?.rehearse()?;
            plan.certificate(prepared, at, &certificate, &made, now)?;
            made.certificates.push(certificate);
        }
        for at in 0..specification.requests.len() {
            prepared.request(at, &made, now)?;
            plan.request(prepared, at);
        }
        for at in 0..specification.lists.len() {
            prepared.list(at, &made, now)?;
            plan.list(prepared, at, &made, now)?;
        }
        Ok(plan)
    }

    fn warn(&mut self, warning: impl Into<String>) {
        self.warnings.push(warning.into());
    }

    fn step(&mut self, kind: &'static str, name: &str, facts: Vec<Fact>, products: &[String]) {
        self.steps.push(Step { kind, name: name.to_owned(), facts, products: products.to_vec() });
    }

    fn key(&mut self, key: &KeyStep, folder: &Path) {
        let product = key.file_name();
        if folder.join(&product).exists() {
            self.warn(format!(
                "key {}: {product} lies beside the specification: is the name in use?",
                key.name
            ));
        }
        let mut facts = vec![
            Fact::new("role", key.role.as_str()),
            Fact::new("curve", key.curve.as_str()),
            Fact::new("token", "ca"),
            Fact::new("label", key.label()),
        ];
        facts.extend(key.party.iter().map(|party| Fact::new("party", party)));
        facts.push(Fact::new("backup", "the vendor's clone of the token: the key never leaves it"));
        self.step("key", &key.name, facts, &[product]);
    }

    fn certificate(
        &mut self,
        prepared: &Prepared,
        at: usize,
        certificate: &Certificate,
        made: &Made,
        now: Timestamp,
    ) -> Result<(), PlanError> {
        let specification = &prepared.specification;
        let step = &specification.certificates[at];
        let profile = step.profile;
        let failed = |source| PlanError::Step { step: format!("certificate {}", step.name), source };
        let draft = prepared.draft(step, now).map_err(failed)?;
        let mut facts = vec![
            Fact::new("profile", profile.name),
            Fact::new("profile rules", format!("sha256 {}", hex::encode(profile.digest()))),
        ];
        match (&step.key, &prepared.requested[at]) {
            (Subject::Key(key), _) => {
                facts.push(Fact::new("subject key", specification.keys[*key].label()));
            }
            (Subject::Request(file), requested) => {
                facts.push(Fact::new(
                    "subject key",
                    format!("of the request {}, sha256 {}", file.path.display(), hex::encode(file.sha256)),
                ));
                if let Some(requested) = requested {
                    let digest = hex::encode(requested.key.digest());
                    facts.push(Fact::new(
                        "subject key",
                        format!("{}, sha256 {digest}", requested.key.curve()),
                    ));
                    let asked = [&requested.subject.common_name, &requested.subject.organization]
                        .map(|name| name.clone().unwrap_or_else(|| "-".to_owned()));
                    facts.push(Fact::new("request's subject", format!("{}; not taken", asked.join(", "))));
                }
            }
        }
        let signer = match step.issuer {
            None => "itself".to_owned(),
            Some(signer) => self.signer(prepared, signer),
        };
        facts.push(Fact::new("issuer", signer));
        for attribute in profile.subject {
            if let Some(value) = step.subject.value(attribute.kind) {
                facts.push(Fact::new(format!("subject {}", attribute.kind.as_str()), value));
            }
        }
        let begins = if step.not_before.is_none() { " (when the ceremony begins)" } else { "" };
        facts.push(Fact::new("not before", format!("{}{begins}", draft.not_before)));
        let ends = match (step.end, step.not_before) {
            (End::AfterDays(days), None) => format!(" ({days} days later)"),
            (End::AfterDays(days), Some(_)) => format!(" ({days} days)"),
            (End::At(_), _) => String::new(),
        };
        facts.push(Fact::new("not after", format!("{}{ends}", draft.not_after)));
        let serial = match &step.serial {
            Some(serial) => serial.to_string(),
            None => "random, 20 octets".to_owned(),
        };
        facts.push(Fact::new("serial number", serial));
        for rule in profile.extensions {
            let critical = if rule.critical { ", critical" } else { "" };
            facts.push(Fact::new(
                format!("extension {}{critical}", rule.value.as_str()),
                extensions::value(rule.value, &draft),
            ));
        }
        self.step(
            "certificate",
            &step.name,
            facts,
            &[format!("{}.pem", step.name), format!("{}.der", step.name)],
        );

        let name = format!("certificate {}", step.name);
        if let Some(signer) = step.issuer {
            let above = prepared.issuer(signer, made);
            if certificate.not_after() > above.not_after() {
                self.warn(format!("{name}: ends after its issuer's, {}", above.not_after()));
            }
            if certificate.not_before() < above.not_before() {
                self.warn(format!("{name}: begins before its issuer's, {}", above.not_before()));
            }
        }
        self.warn_about_times(&name, draft.not_before, draft.not_after, now);
        if step.serial.as_ref().is_some_and(|serial| serial.as_bytes().len() < SERIAL_OCTETS_FEW) {
            self.warn(format!("{name}: its fixed serial number is short, and can be guessed"));
        }
        Ok(())
    }

    fn warn_about_times(&mut self, name: &str, from: CivilTime, to: CivilTime, now: Timestamp) {
        let Ok(now) = CivilTime::from_timestamp(now) else { return };
        if to < now {
            self.warn(format!("{name}: has ended already"));
        } else if from > now {
            self.warn(format!("{name}: begins later"));
        }
    }

    fn signer(&self, prepared: &Prepared, signer: Signer) -> String {
        match signer {
            Signer::Certificate(at) => prepared.specification.certificates[at].name.clone(),
            Signer::Earlier(at) => {
                let certificate = &prepared.earlier[at].certificate;
                format!(
                    "{}, of an earlier ceremony: {}, certificate sha256 {}",
                    prepared.specification.earlier[at].name,
                    prepared.earlier[at].key.key.key.label,
                    hex::encode(certificate.digest())
                )
            }
        }
    }

    fn request(&mut self, prepared: &Prepared, at: usize) {
        let step = &prepared.specification.requests[at];
        let mut facts = vec![
            Fact::new("profile asked for", step.profile.name),
            Fact::new("subject key", prepared.specification.keys[step.key].label()),
        ];
        for attribute in step.profile.subject {
            if let Some(value) = step.subject.value(attribute.kind) {
                facts.push(Fact::new(format!("subject {}", attribute.kind.as_str()), value));
            }
        }
        facts.extend(step.registered_id.iter().map(|id| Fact::new("registered ID", id)));
        let eins: Vec<String> = step.permitted_eins.iter().map(ToString::to_string).collect();
        if !eins.is_empty() {
            facts.push(Fact::new("permitted EINs", eins.join(" ")));
        }
        // As `pki::csr::UnsignedRequest`: the others are the issuer's to choose.
        let asked = step.profile.extensions.iter().filter(|rule| {
            !matches!(
                rule.value,
                ExtensionValue::SubjectKeyIdentifier
                    | ExtensionValue::AuthorityKeyIdentifier
                    | ExtensionValue::CrlDistributionPoints { .. }
            )
        });
        let asked: Vec<&str> = asked.map(|rule| rule.value.as_str()).collect();
        facts.push(Fact::new("extensions asked for", asked.join(", ")));
        self.step("request", &step.name, facts, &[format!("{}.csr.pem", step.name)]);
    }

    fn list(&mut self, prepared: &Prepared, at: usize, made: &Made, now: Timestamp) -> Result<(), PlanError> {
        let step = &prepared.specification.lists[at];
        let this_update = step.this_update.map_or_else(|| CivilTime::from_timestamp(now), Ok)?;
        let next_update = step.end.from(this_update)?;
        let begins = if step.this_update.is_none() { " (when the ceremony begins)" } else { "" };
        let mut facts = vec![
            Fact::new("issuer", self.signer(prepared, step.issuer)),
            Fact::new("scope", "every certificate of the issuer"),
            Fact::new("number", step.number.to_string()),
            Fact::new("this update", format!("{this_update}{begins}")),
            Fact::new("next update", next_update.to_string()),
            Fact::new("revoked certificates", step.revoked.len().to_string()),
        ];
        for entry in &step.revoked {
            let since = entry.invalid_since.map(|at| format!(", invalid since {at}")).unwrap_or_default();
            facts.push(Fact::new(
                format!("revoked {}", entry.serial),
                format!("{}, {}{since}", entry.revoked_at, entry.reason),
            ));
        }
        self.step("list", &step.name, facts, &[format!("{}.crl", step.name)]);
        let name = format!("list {}", step.name);
        if next_update > prepared.issuer(step.issuer, made).not_after() {
            self.warn(format!("{name}: goes on after its issuer's certificate has ended"));
        }
        match &prepared.previous[at] {
            Some(before) => {
                for gone in before.revoked() {
                    if !step.revoked.iter().any(|entry| entry.serial == gone.serial) {
                        self.warn(format!(
                            "{name}: {} was on the list before, and is not any more",
                            gone.serial
                        ));
                    }
                }
            }
            None if matches!(step.issuer, Signer::Earlier(_)) && step.number > 1 => self.warn(format!(
                "{name}: names no previous list, so that nothing compares number and entries with it"
            )),
            None => {}
        }
        self.warn_about_times(&name, this_update, next_update, now);
        Ok(())
    }
}
