//! A specification with the files that it names: what is rehearsed at the review and done at the ceremony, by the same code.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use ca::ceremony::Draft;
use ca::{CaError, KeyRegistration};
use domain::Timestamp;
use hsm::{HsmError, KeyCheck, KeyRole, RegisteredKey};
use pki::crl::{Crl, CrlInputs, CrlScope, LintedTbsCertList};
use pki::csr::{SubjectSummary, UnsignedRequest, VerifiedCsr, Wishes};
use pki::{Certificate, CivilTime, LintedTbs, PkiError, PublicKey};
use sha2::{Digest, Sha256};

use super::key_file::KeyFile;
use super::machine::{Place, registration};
use super::specification::{self, CertificateStep, Fault, NamedFile, Signer, Specification, Subject};
use crate::config::Config;

/// Largest file that a specification names: a revocation list.
const NAMED_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Why a ceremony would not succeed.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlanError {
    #[error("the specification is refused")]
    Specification(#[from] Fault),
    #[error("{}: {problem}", path.display())]
    File { path: PathBuf, problem: String },
    #[error("{step}")]
    Step { step: String, source: CaError },
    #[error("{0}")]
    Rule(String),
    #[error("the key file of an earlier issuer")]
    KeyFile(#[from] HsmError),
    #[error("a throw-away key")]
    Key(#[from] PkiError),
}

/// An issuer whose key an earlier ceremony on this machine made.
pub(super) struct Earlier {
    pub(super) key: KeyRegistration,
    pub(super) certificate: Certificate,
}

/// A key from a certification request, and what the request calls its holder.
pub(super) struct Requested {
    pub(super) key: PublicKey,
    pub(super) subject: SubjectSummary,
}

/// A specification and what its files hold.
pub(super) struct Prepared {
    pub(super) specification: Specification,
    pub(super) place: Place,
    pub(super) earlier: Vec<Earlier>,
    /// By certificate: the request that it answers.
    pub(super) requested: Vec<Option<Requested>>,
    /// By list: the one before.
    pub(super) previous: Vec<Option<Crl>>,
}

/// What stands so far: keys and certificates in the order of their steps.
#[derive(Default)]
pub(super) struct Made {
    pub(super) keys: Vec<PublicKey>,
    pub(super) certificates: Vec<Certificate>,
}

/// The bytes of a specification.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, PlanError> {
    read_bounded(path, specification::BYTES_MAX as u64)
}

impl Prepared {
    /// Parses `bytes`, and reads the files that they name, below `folder`. Touches no token.
    pub(super) fn new(
        config: &Config,
        folder: &Path,
        bytes: &[u8],
        now: Timestamp,
    ) -> Result<Self, PlanError> {
        let specification = Specification::parse(bytes)?;
        if specification.authority != config.authority {
            return Err(PlanError::Rule(format!(
                "the specification is for authority {}, this is {}",
                specification.authority, config.authority
            )));
        }
        let place = Place::of(config);
        if place == Place::Founded && !specification.earlier.is_empty() {
            return Err(PlanError::Rule(
                "an authority is founded here: only keys that this specification makes may sign. What a registered issuer signs is \
                 the service's, with approvals and log"
                    .to_owned(),
            ));
        }
        let earlier = specification
            .earlier
            .iter()
            .map(|issuer| earlier(config, folder, issuer, now))
            .collect::<Result<Vec<_>, _>>()?;
        let requested = specification
            .certificates
            .iter()
            .map(|step| match &step.key {
                Subject::Key(_) => Ok(None),
                Subject::Request(file) => requested(config, folder, file).map(Some),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let mut previous = Vec::with_capacity(specification.lists.len());
        for step in &specification.lists {
            previous.push(match (&step.previous, step.issuer) {
                (None, _) => None,
                (Some(file), Signer::Earlier(at)) => {
                    Some(previous_list(folder, file, &earlier[at], step.number)?)
                }
                (Some(_), Signer::Certificate(_)) => {
                    return Err(PlanError::Rule(format!(
                        "list {}: its issuer begins with this ceremony, so that there is no previous list",
                        step.name
                    )));
                }
            });
        }
        Ok(Self { specification, place, earlier, requested, previous })
    }

    /// What the certificate is to say, for a ceremony that begins at `now`.
    pub(super) fn draft(&self, step: &CertificateStep, now: Timestamp) -> Result<Draft, CaError> {
        let build = |e: PkiError| CaError::invalid(&e);
        let not_before = step.not_before.map_or_else(|| CivilTime::from_timestamp(now).map_err(build), Ok)?;
        let organization = step.subject.organization.clone().unwrap_or_default();
        Ok(Draft {
            profile: step.profile,
            subject: step.subject.clone(),
            registered_id: step.registered_id.clone(),
            dns_name: step.dns_name.clone(),
            permitted: pairs(&organization, &step.permitted_eins),
            serial: step.serial.clone(),
            not_before,
            not_after: step.end.from(not_before).map_err(build)?,
            crl_urls: step.crl_urls.clone(),
        })
    }

    /// The certificate of this place, linted.
    pub(super) fn certificate(&self, at: usize, made: &Made, now: Timestamp) -> Result<LintedTbs, PlanError> {
        let step = &self.specification.certificates[at];
        let failed = |source| PlanError::Step { step: format!("certificate {}", step.name), source };
        let key = match (&step.key, &self.requested[at]) {
            (Subject::Request(_), Some(requested)) => &requested.key,
            (Subject::Key(key), _) => &made.keys[*key],
            (Subject::Request(_), None) => return Err(PlanError::Rule("a request was not read".to_owned())),
        };
        let above = step.issuer.map(|signer| self.issuer(signer, made));
        let draft = self.draft(step, now).map_err(failed)?;
        ca::ceremony::lint_draft(draft, key, above, now).map_err(failed)
    }

    /// The request of this place, ready to be signed.
    pub(super) fn request(
        &self,
        at: usize,
        made: &Made,
        now: Timestamp,
    ) -> Result<UnsignedRequest, PlanError> {
        let step = &self.specification.requests[at];
        let organization = step.subject.organization.clone().unwrap_or_default();
        let wishes = Wishes {
            subject: step.subject.clone(),
            registered_id: step.registered_id.clone(),
            permitted: pairs(&organization, &step.permitted_eins),
        };
        ca::ceremony::lint_request(step.profile, &made.keys[step.key], &wishes, now)
            .map_err(|source| PlanError::Step { step: format!("request {}", step.name), source })
    }

    /// The list of this place, linted.
    pub(super) fn list(
        &self,
        at: usize,
        made: &Made,
        now: Timestamp,
    ) -> Result<LintedTbsCertList, PlanError> {
        let step = &self.specification.lists[at];
        let name = format!("list {}", step.name);
        let failed = |source| PlanError::Step { step: name.clone(), source };
        let build = |e: PkiError| failed(CaError::invalid(&e));
        let this_update =
            step.this_update.map_or_else(|| CivilTime::from_timestamp(now), Ok).map_err(build)?;
        let next_update = step.end.from(this_update).map_err(build)?;
        if next_update > this_update.plus_days(specification::LIST_DAYS_MAX).map_err(build)? {
            return Err(PlanError::Rule(format!(
                "{name}: next_update is {} days after this_update at most",
                specification::LIST_DAYS_MAX
            )));
        }
        if let Some(before) = &self.previous[at]
            && this_update < before.this_update()
        {
            return Err(PlanError::Rule(format!("{name}: its previous list is of {}", before.this_update())));
        }
        let inputs = CrlInputs {
            issuer: self.issuer(step.issuer, made),
            number: step.number,
            this_update,
            next_update,
            revoked: step.revoked.clone(),
            removed: Vec::new(),
            scope: CrlScope::default(),
        };
        ca::ceremony::lint_list(&inputs, now).map_err(failed)
    }

    /// The certificate of whoever signs.
    pub(super) fn issuer<'a>(&'a self, signer: Signer, made: &'a Made) -> &'a Certificate {
        match signer {
            Signer::Certificate(at) => &made.certificates[at],
            Signer::Earlier(at) => &self.earlier[at].certificate,
        }
    }

    /// The key of whoever signs: one of this specification, by its place, or an earlier one.
    pub(super) fn signing_key<'a>(
        &'a self,
        signer: Signer,
        keys: &'a [RegisteredKey],
    ) -> Option<&'a RegisteredKey> {
        match signer {
            Signer::Earlier(at) => Some(&self.earlier[at].key.key),
            Signer::Certificate(at) => match self.specification.certificates[at].key {
                Subject::Key(key) => keys.get(key),
                Subject::Request(_) => None,
            },
        }
    }
}

fn pairs(organization: &str, eins: &[domain::Ein]) -> Vec<(String, String)> {
    eins.iter().map(|ein| (organization.to_owned(), ein.to_string())).collect()
}

fn earlier(
    config: &Config,
    folder: &Path,
    issuer: &specification::EarlierIssuer,
    now: Timestamp,
) -> Result<Earlier, PlanError> {
    let path = folder.join(&issuer.certificate.path);
    let problem = |problem: String| PlanError::File { path: path.clone(), problem };
    let bytes = read_named(folder, &issuer.certificate)?;
    let certificate = Certificate::from_pem(&bytes)
        .or_else(|_| Certificate::from_der(&bytes))
        .map_err(|e| problem(format!("no certificate: {e}")))?;
    let key =
        PublicKey::parse(certificate.spki(), config.known_keys()).map_err(|e| problem(e.to_string()))?;
    let at = CivilTime::from_timestamp(now).map_err(|e| problem(e.to_string()))?;
    if !(certificate.not_before()..=certificate.not_after()).contains(&at) {
        return Err(problem(format!(
            "the certificate is in force from {} to {}, not now",
            certificate.not_before(),
            certificate.not_after()
        )));
    }
    let file = KeyFile::read(&folder.join(&issuer.key_file))?;
    let registered = RegisteredKey {
        key: file.key_ref()?,
        role: KeyRole::CertificateIssuer(key.curve()),
        check: KeyCheck::PublicKey(certificate.spki().to_vec()),
    };
    if file.role()? != registered.role || file.public_key()? != certificate.spki() {
        return Err(problem(format!("is for another key than {}", issuer.key_file.display())));
    }
    let (_, epoch) = file.name_and_epoch()?;
    Ok(Earlier { key: registration("ca", &file.token_serial, registered, epoch), certificate })
}

fn requested(config: &Config, folder: &Path, file: &NamedFile) -> Result<Requested, PlanError> {
    let bytes = read_named(folder, file)?;
    let verified = VerifiedCsr::parse(&bytes, config.known_keys()).map_err(|e| PlanError::File {
        path: folder.join(&file.path),
        problem: format!("the certification request is refused: {e}"),
    })?;
    Ok(Requested { key: verified.public_key().clone(), subject: verified.subject().clone() })
}

fn previous_list(folder: &Path, file: &NamedFile, issuer: &Earlier, number: u64) -> Result<Crl, PlanError> {
    let problem = |problem: String| PlanError::File { path: folder.join(&file.path), problem };
    let list = Crl::parse(&read_named(folder, file)?).map_err(|e| problem(e.to_string()))?;
    list.verify(&issuer.certificate).map_err(|e| problem(format!("no list of this issuer: {e}")))?;
    match list.number() {
        Some(before) if before < number => Ok(list),
        before => Err(problem(format!(
            "has number {}; the next one's is higher, not {number}",
            before.map_or_else(|| "over 64 bits".to_owned(), |number| number.to_string())
        ))),
    }
}

fn read_named(folder: &Path, file: &NamedFile) -> Result<Vec<u8>, PlanError> {
    let path = folder.join(&file.path);
    let bytes = read_bounded(&path, NAMED_BYTES_MAX)?;
    let is = hex::encode(Sha256::digest(&bytes));
    if is == hex::encode(file.sha256) {
        return Ok(bytes);
    }
    Err(PlanError::File {
        path,
        problem: format!("is another file than the specification names: its SHA-256 is {is}"),
    })
}

fn read_bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>, PlanError> {
    let failed = |e: io::Error| PlanError::File { path: path.to_owned(), problem: e.to_string() };
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(bytes_max + 1).read_to_end(&mut bytes));
    let read = read.map_err(failed)? as u64;
    if read <= bytes_max {
        return Ok(bytes);
    }
    Err(PlanError::File { path: path.to_owned(), problem: format!("is longer than {bytes_max} octets") })
}
