//! `chanceryd ceremony run`: does what was reviewed, writes each product as it is made, and ends with a signed transcript, also
//! when a step fails: steps 3 to 9 of `docs/cycles/specification-ceremony.md`.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use domain::{Clock as _, Timestamp};
use hsm::{Priority, RegisteredKey};
use pki::PublicKey;
use sha2::{Digest, Sha256};

use super::key_file::KeyFile;
use super::machine::{Machine, registration};
use super::plan::Plan;
use super::prepared::{self, Made, Prepared};
use super::specification::{KeyStep, Specification, Subject};
use super::{open, write, wrong};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::gate::chain;
use crate::tokens::own_call;
use crate::transcript::Transcript;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const TRANSCRIPT_FILE: &str = "transcript.txt";
/// The key under which the transcript verifies.
const KEY_FILE: &str = "transcript-key.vkey";
/// Of an error's text in the transcript.
const FAILURE_CHARACTERS_MAX: usize = 2_000;

/// A ceremony in progress.
struct Run<'a> {
    config: &'a Config,
    prepared: &'a Prepared,
    out: &'a Path,
    now: Timestamp,
    transcript: Transcript,
    /// The keys of the specification that were made.
    keys: Vec<RegisteredKey>,
    made: Made,
    products: Vec<String>,
}

/// Steps 3 and 4, then the others in their order.
pub(super) async fn run(config: &Config, path: &Path, reviewed: &[u8; 32], out: &Path) -> Outcome<()> {
    let bytes = prepared::read(path)?;
    let digest: [u8; 32] = Sha256::digest(&bytes).into();
    if digest != *reviewed {
        return Err(wrong(&format!(
            "the specification is another one than was reviewed: its SHA-256 is {}; review it with `ceremony plan`",
            hex::encode(digest)
        ))
        .into());
    }
    let now = SystemClock::new().now();
    let folder = path.parent().unwrap_or(Path::new(""));
    let prepared = Prepared::new(config, folder, &bytes, now)?;
    let plan = Plan::rehearse(config, &prepared, folder, now)?;
    for warning in &plan.warnings {
        say(&format!("warning: {warning}"));
    }
    take_folder(out, &prepared.specification)?;
    say("opening the tokens");
    let earlier: Vec<_> = prepared.earlier.iter().map(|issuer| issuer.key.clone()).collect();
    let machine = Machine::open(config, prepared.place, &earlier).await?;
    let mut run = Run {
        config,
        prepared: &prepared,
        out,
        now,
        transcript: begin(config, &prepared, &machine, reviewed, now),
        keys: Vec::new(),
        made: Made::default(),
        products: Vec::new(),
    };
    let outcome = run.steps(&machine).await;
    match &outcome {
        Ok(()) => run.transcript.line("outcome", "complete"),
        Err(error) => {
            let what: String = chain(&**error).chars().take(FAILURE_CHARACTERS_MAX).collect();
            run.transcript.line("failure", &what);
            run.transcript.line("outcome", "failed");
        }
    }
    let closed = run.close(&machine).await;
    machine.close().await;
    // What went wrong first is what is said.
    outcome.and(closed)
}

/// Step 3: nothing is overwritten. A product of the same name is that of another ceremony.
fn take_folder(out: &Path, specification: &Specification) -> Outcome<()> {
    fs::create_dir_all(out)?;
    let products = specification.products().chain([TRANSCRIPT_FILE, KEY_FILE].map(str::to_owned));
    for product in products {
        let path = out.join(product);
        if path.exists() {
            return Err(wrong(&format!("{} is there already; choose another --out", path.display())).into());
        }
    }
    Ok(())
}

fn begin(
    config: &Config,
    prepared: &Prepared,
    machine: &Machine,
    reviewed: &[u8; 32],
    now: Timestamp,
) -> Transcript {
    let specification = &prepared.specification;
    let mut transcript = Transcript::begin(machine.log_key.name());
    transcript.line("time", &now.to_string());
    transcript.line("mode", &format!("{:?}", config.mode).to_lowercase());
    transcript.line("software", env!("CARGO_PKG_VERSION"));
    transcript.line("title", &specification.title);
    transcript.line("specification", &format!("sha256 {}", hex::encode(specification.digest)));
    transcript.line("reviewed", &format!("sha256 {}", hex::encode(reviewed)));
    transcript.line("machine", prepared.place.as_str());
    for (name, duty) in &specification.participants {
        transcript.line("participant", &format!("{name}: {duty}"));
    }
    for (name, token) in [("log", &machine.log), ("ca", &machine.ca)] {
        let label = config.token(name).map_or("", |token| token.token_label.as_str());
        transcript.line("token", &format!("{name} label {label} serial {}", token.report().token_serial));
    }
    transcript.line("log-key", &machine.log_key.vkey());
    for (issuer, step) in prepared.earlier.iter().zip(&specification.earlier) {
        transcript.line(
            "earlier-issuer",
            &format!(
                "{} key {} certificate-sha256 {}",
                step.name,
                issuer.key.key.key.label,
                hex::encode(issuer.certificate.digest())
            ),
        );
    }
    transcript
}

impl Run<'_> {
    async fn steps(&mut self, machine: &Machine) -> Outcome<()> {
        let specification = &self.prepared.specification;
        self.check_labels(&specification.keys)?;
        for step in &specification.keys {
            self.key(machine, step).await?;
        }
        for at in 0..specification.certificates.len() {
            self.certificate(machine, at).await?;
        }
        for at in 0..specification.requests.len() {
            self.request(machine, at).await?;
        }
        for at in 0..specification.lists.len() {
            self.list(machine, at).await?;
        }
        Ok(())
    }

    /// Step 5, before the first key is made: a key stays on its token, so that half a ceremony takes names that the next one misses.
    fn check_labels(&self, keys: &[KeyStep]) -> Outcome<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let objects = open(self.config, "ca")?.list()?;
        for key in keys {
            let label = key.label();
            if objects.iter().any(|object| object.label == label) {
                return Err(wrong(&format!(
                    "key {label} is on the token already; review a specification with another name or epoch"
                ))
                .into());
            }
        }
        Ok(())
    }

    /// Step 5.
    async fn key(&mut self, machine: &Machine, step: &KeyStep) -> Outcome<()> {
        let created = open(self.config, "ca")?.create_key(step.role, &step.name, step.epoch)?;
        let registered = created.registered();
        let hsm::KeyCheck::PublicKey(spki) = &registered.check else {
            return Err(wrong("the token gave no public key").into());
        };
        self.made.keys.push(PublicKey::parse(spki, self.config.known_keys())?);
        let on_token = registration("ca", &created.token_serial, registered.clone(), step.epoch);
        self.transcript.key(&on_token, &created.template);
        let file = KeyFile::of(&created, "ca", &step.name, step.party.as_deref(), "");
        file.write(&self.product(step.file_name()))?;
        // Every attribute is read back, and the key is seen to sign, by the worker that will use it.
        machine.ca.add_key(registered.clone()).await?;
        self.keys.push(registered);
        say(&format!("key {}", created.key));
        Ok(())
    }

    /// Step 6.
    async fn certificate(&mut self, machine: &Machine, at: usize) -> Outcome<()> {
        let step = &self.prepared.specification.certificates[at];
        let linted = self.prepared.certificate(at, &self.made, self.now)?;
        let tbs = linted.sha256();
        let key = match (step.issuer, &step.key) {
            (Some(signer), _) => self.prepared.signing_key(signer, &self.keys),
            (None, Subject::Key(key)) => self.keys.get(*key),
            (None, Subject::Request(_)) => None,
        };
        let key = key.ok_or_else(|| wrong("the signing key is not here"))?;
        let options = own_call(Priority::Normal);
        let certificate = ca::ceremony::sign_draft(&machine.ca, key, linted, options).await?;
        self.transcript.line(
            "certificate",
            &format!(
                "{} profile {} profile-rules-sha256 {} serial {} tbs-sha256 {} certificate-sha256 {} issuer-key {}",
                step.name,
                step.profile.name,
                hex::encode(step.profile.digest()),
                certificate.serial(),
                hex::encode(tbs),
                hex::encode(certificate.digest()),
                key.key.label
            ),
        );
        write(&self.product(format!("{}.pem", step.name)), certificate.pem().as_bytes())?;
        write(&self.product(format!("{}.der", step.name)), certificate.der())?;
        say(&format!("certificate {} sha256 {}", step.name, hex::encode(certificate.digest())));
        self.made.certificates.push(certificate);
        Ok(())
    }

    /// Step 7.
    async fn request(&mut self, machine: &Machine, at: usize) -> Outcome<()> {
        let step = &self.prepared.specification.requests[at];
        let unsigned = self.prepared.request(at, &self.made, self.now)?;
        let information = Sha256::digest(unsigned.bytes());
        let key = self.keys.get(step.key).ok_or_else(|| wrong("the key of the request is not here"))?;
        let request =
            ca::ceremony::sign_request(&machine.ca, key, unsigned, own_call(Priority::Normal)).await?;
        let digest = hex::encode(Sha256::digest(&request));
        self.transcript.line(
            "request",
            &format!(
                "{} profile {} information-sha256 {} request-sha256 {digest} key {}",
                step.name,
                step.profile.name,
                hex::encode(information),
                key.key.label
            ),
        );
        write(&self.product(format!("{}.csr.pem", step.name)), pki::csr::csr_pem(&request).as_bytes())?;
        say(&format!("request {} sha256 {digest}", step.name));
        Ok(())
    }

    /// Step 8.
    async fn list(&mut self, machine: &Machine, at: usize) -> Outcome<()> {
        let step = &self.prepared.specification.lists[at];
        let linted = self.prepared.list(at, &self.made, self.now)?;
        let tbs = linted.sha256();
        let key = self.prepared.signing_key(step.issuer, &self.keys);
        let key = key.ok_or_else(|| wrong("the signing key is not here"))?;
        let issuer = self.prepared.issuer(step.issuer, &self.made);
        let options = own_call(Priority::Normal);
        let list = ca::ceremony::sign_list(&machine.ca, key, linted, issuer, options).await?;
        self.transcript.line(
            "list",
            &format!(
                "{} number {} entries {} tbs-sha256 {} list-sha256 {} issuer-key {}",
                step.name,
                step.number,
                step.revoked.len(),
                hex::encode(tbs),
                hex::encode(list.digest()),
                key.key.label
            ),
        );
        write(&self.product(format!("{}.crl", step.name)), list.der())?;
        say(&format!("list {} number {} sha256 {}", step.name, step.number, hex::encode(list.digest())));
        Ok(())
    }

    fn product(&mut self, name: String) -> PathBuf {
        let path = self.out.join(&name);
        self.products.push(name);
        path
    }

    /// Step 9: signs and writes the transcript.
    async fn close(self, machine: &Machine) -> Outcome<()> {
        let key = &machine.log_key;
        let transcript =
            self.transcript.sign(&machine.log, &machine.signer, key.name(), key.public_key()).await?;
        write(&self.out.join(KEY_FILE), format!("{}\n", key.vkey()).as_bytes())?;
        write(&self.out.join(TRANSCRIPT_FILE), &transcript)?;
        for product in self.products.iter().map(String::as_str).chain([TRANSCRIPT_FILE, KEY_FILE]) {
            say(&format!("written: {}", self.out.join(product).display()));
        }
        say(&format!("transcript sha256 {}", hex::encode(Sha256::digest(&transcript))));
        Ok(())
    }
}

/// Progress, for those present. A closed output stops no ceremony.
fn say(what: &str) {
    let _ = writeln!(io::stdout(), "{what}");
}
