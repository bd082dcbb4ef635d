//! What a ceremony does, as persons review it (`docs/formats/ceremony-specification.md`): parsed once, every name resolved, every
//! bound checked. Values of certificates are judged by the lint, in the rehearsal.

mod file;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt::Display;
use std::path::PathBuf;

use domain::{Curve, Ein, RevocationReason};
use hsm::KeyRole;
use pki::crl::RevokedCertificate;
use pki::{CertificateProfile, CertificateRole, CivilTime, SerialNumber, SubjectValues};
use sha2::{Digest, Sha256};
use toml::value::{Datetime, Offset};

/// Longest file.
pub(super) const BYTES_MAX: usize = 1024 * 1024;
const FORMAT: &str = "chancery-ceremony/v1";
const PARTICIPANTS_MAX: usize = 32;
/// Of each kind of step but certificates: the transcript of them all is one message of the token's signature, at most 64 KiB.
const STEPS_MAX: usize = 16;
const CERTIFICATES_MAX: usize = 32;
const TEXT_BYTES_MAX: usize = 128;
const NAME_CHARACTERS_MAX: usize = 40;
/// Days from thisUpdate to nextUpdate: an offline root comes out once a year.
pub(super) const LIST_DAYS_MAX: u32 = 400;
/// As many as an anchor's list may have.
const REVOKED_MAX: usize = ca::ANCHOR_LIST_ENTRIES_MAX;

/// What is wrong with a specification, and where.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub(super) struct Fault {
    pub(super) place: String,
    pub(super) problem: String,
}

/// A specification, valid as far as it can be judged without other files, keys and the clock.
#[derive(Debug)]
pub(super) struct Specification {
    /// SHA-256 of the exact file: what the reviewers name.
    pub(super) digest: [u8; 32],
    pub(super) title: String,
    pub(super) authority: String,
    pub(super) participants: Vec<(String, String)>,
    pub(super) earlier: Vec<EarlierIssuer>,
    pub(super) keys: Vec<KeyStep>,
    pub(super) certificates: Vec<CertificateStep>,
    pub(super) requests: Vec<RequestStep>,
    pub(super) lists: Vec<ListStep>,
}

/// A file of which the reviewers saw these bytes.
#[derive(Debug)]
pub(super) struct NamedFile {
    pub(super) path: PathBuf,
    pub(super) sha256: [u8; 32],
}

/// A key and certificate of an earlier ceremony.
#[derive(Debug)]
pub(super) struct EarlierIssuer {
    pub(super) name: String,
    pub(super) key_file: PathBuf,
    pub(super) certificate: NamedFile,
}

/// A key to be made.
#[derive(Debug)]
pub(super) struct KeyStep {
    pub(super) name: String,
    pub(super) role: KeyRole,
    pub(super) curve: Curve,
    pub(super) epoch: u32,
    pub(super) party: Option<String>,
}

impl KeyStep {
    pub(super) fn label(&self) -> String {
        self.role.label(&self.name, self.epoch)
    }

    /// An issuer and its responder have one name.
    pub(super) fn file_name(&self) -> String {
        if is_responder(self.role) {
            format!("{}.ocsp-responder.key.json", self.name)
        } else {
            format!("{}.key.json", self.name)
        }
    }
}

/// Which key a certificate is for.
#[derive(Debug)]
pub(super) enum Subject {
    /// One of [`Specification::keys`].
    Key(usize),
    /// That of a certification request.
    Request(NamedFile),
}

/// Who signs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Signer {
    /// The holder of one of [`Specification::certificates`].
    Certificate(usize),
    /// One of [`Specification::earlier`].
    Earlier(usize),
}

/// When something ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    At(CivilTime),
    AfterDays(u32),
}

impl End {
    pub(super) fn from(self, start: CivilTime) -> Result<CivilTime, pki::PkiError> {
        match self {
            Self::At(at) => Ok(at),
            Self::AfterDays(days) => start.plus_days(days),
        }
    }
}

/// A certificate to be issued.
#[derive(Debug)]
pub(super) struct CertificateStep {
    pub(super) name: String,
    pub(super) profile: &'static CertificateProfile,
    pub(super) key: Subject,
    /// None: self-signed.
    pub(super) issuer: Option<Signer>,
    pub(super) subject: SubjectValues,
    pub(super) registered_id: Option<String>,
    pub(super) dns_name: Option<String>,
    pub(super) permitted_eins: Vec<Ein>,
    /// None: when the ceremony begins.
    pub(super) not_before: Option<CivilTime>,
    pub(super) end: End,
    /// None: random.
    pub(super) serial: Option<SerialNumber>,
    pub(super) crl_urls: Vec<String>,
}

/// A request for an issuer elsewhere.
#[derive(Debug)]
pub(super) struct RequestStep {
    pub(super) name: String,
    pub(super) profile: &'static CertificateProfile,
    /// One of [`Specification::keys`].
    pub(super) key: usize,
    pub(super) subject: SubjectValues,
    pub(super) registered_id: Option<String>,
    pub(super) permitted_eins: Vec<Ein>,
}

/// A full revocation list.
#[derive(Debug)]
pub(super) struct ListStep {
    pub(super) name: String,
    pub(super) issuer: Signer,
    pub(super) number: u64,
    /// None: when the ceremony begins.
    pub(super) this_update: Option<CivilTime>,
    pub(super) end: End,
    /// The list before.
    pub(super) previous: Option<NamedFile>,
    pub(super) revoked: Vec<RevokedCertificate>,
}

/// Whether keys of this role sign OCSP answers.
pub(super) const fn is_responder(role: KeyRole) -> bool {
    matches!(role, KeyRole::OcspResponder(_))
}

impl Specification {
    /// Reads the exact bytes of a file.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let whole = |problem: String| fault("the specification", problem);
        if bytes.len() > BYTES_MAX {
            return Err(whole(format!("is longer than {BYTES_MAX} octets")));
        }
        let text = std::str::from_utf8(bytes).map_err(|e| whole(e.to_string()))?;
        let file: file::File = toml::from_str(text).map_err(|e| whole(e.to_string()))?;
        if file.format != FORMAT {
            return Err(fault("format", format!("is {FORMAT:?}")));
        }
        check_text("title", &file.title)?;
        audit::Name::new(&file.authority).map_err(|e| fault("authority", e))?;
        check_count("participant", file.participants.len(), PARTICIPANTS_MAX)?;
        if file.participants.is_empty() {
            return Err(fault("participant", "nobody is present: name each person and their duty"));
        }
        for participant in &file.participants {
            check_text("participant.name", &participant.name)?;
            check_text("participant.duty", &participant.duty)?;
        }
        check_count("earlier-issuer", file.earlier_issuers.len(), STEPS_MAX)?;
        check_count("key", file.keys.len(), STEPS_MAX)?;
        check_count("certificate", file.certificates.len(), CERTIFICATES_MAX)?;
        check_count("request", file.requests.len(), STEPS_MAX)?;
        check_count("list", file.lists.len(), STEPS_MAX)?;

        let keys = file.keys.into_iter().map(key).collect::<Result<Vec<_>, _>>()?;
        check_unique("key", keys.iter().map(|key| (is_responder(key.role), key.name.as_str())))?;
        let earlier = file.earlier_issuers.into_iter().map(earlier).collect::<Result<Vec<_>, _>>()?;
        let names = Names {
            keys: &keys,
            earlier: earlier.iter().map(|issuer| issuer.name.clone()).collect(),
            certificates: file.certificates.iter().map(|certificate| certificate.name.clone()).collect(),
        };
        // A certificate and an earlier issuer are both named where somebody signs.
        check_unique("certificate", names.earlier.iter().chain(&names.certificates))?;
        check_unique("request", file.requests.iter().map(|request| &request.name))?;
        check_unique("list", file.lists.iter().map(|list| &list.name))?;

        let mut certificates = Vec::with_capacity(file.certificates.len());
        for written in file.certificates {
            let step = certificate(written, &names, &certificates)?;
            certificates.push(step);
        }
        let requests =
            file.requests.into_iter().map(|written| request(written, &names)).collect::<Result<_, _>>()?;
        let lists = file
            .lists
            .into_iter()
            .map(|written| list(written, &names, &certificates))
            .collect::<Result<Vec<_>, _>>()?;
        let specification = Self {
            digest: Sha256::digest(bytes).into(),
            title: file.title,
            authority: file.authority,
            participants: file.participants.into_iter().map(|p| (p.name, p.duty)).collect(),
            earlier,
            keys,
            certificates,
            requests,
            lists,
        };
        if specification.products().next().is_none() {
            return Err(whole("has no step: it names no key, certificate, request or list".to_owned()));
        }
        Ok(specification)
    }

    /// The files that the ceremony leaves, in the order in which they are made.
    pub(super) fn products(&self) -> impl Iterator<Item = String> {
        let keys = self.keys.iter().map(KeyStep::file_name);
        let certificates = self
            .certificates
            .iter()
            .flat_map(|step| [format!("{}.pem", step.name), format!("{}.der", step.name)]);
        let requests = self.requests.iter().map(|step| format!("{}.csr.pem", step.name));
        keys.chain(certificates)
            .chain(requests)
            .chain(self.lists.iter().map(|step| format!("{}.crl", step.name)))
    }
}

/// What may be named by what follows.
struct Names<'a> {
    keys: &'a [KeyStep],
    earlier: Vec<String>,
    certificates: Vec<String>,
}

impl Names<'_> {
    /// The key of this name whose role is that of the profile: an issuer and its responder have one name.
    fn key(&self, place: &str, name: &str, profile: &CertificateProfile) -> Result<usize, Fault> {
        let responder = profile.role == CertificateRole::OcspResponder;
        if !responder && !profile.is_ca() {
            return Err(fault(
                place,
                format!("a {} certificate is for a key of somebody else's: name a csr", profile.name),
            ));
        }
        self.keys.iter().position(|key| key.name == name && is_responder(key.role) == responder).ok_or_else(
            || {
                let role = if responder { "OCSP responder" } else { "certificate issuer" };
                fault(place, format!("no key {name:?} of a {role} is made by this specification"))
            },
        )
    }

    /// Who signs, among those whose certificates come before.
    fn signer(&self, place: &str, name: &str, before: &[CertificateStep]) -> Result<Signer, Fault> {
        if let Some(at) = self.earlier.iter().position(|earlier| earlier == name) {
            return Ok(Signer::Earlier(at));
        }
        let Some(at) = before.iter().position(|step| step.name == name) else {
            let problem = match self.certificates.iter().any(|certificate| certificate == name) {
                true => format!("issuer {name:?} comes later: steps are done in the order of the file"),
                false => format!(
                    "issuer {name:?} is neither a certificate of this specification nor an earlier issuer"
                ),
            };
            return Err(fault(place, problem));
        };
        match before[at].key {
            Subject::Key(_) if before[at].profile.is_ca() => Ok(Signer::Certificate(at)),
            Subject::Key(_) => Err(fault(place, format!("issuer {name:?} would have no CA's certificate"))),
            Subject::Request(_) => Err(fault(
                place,
                format!("the key of issuer {name:?} is elsewhere: its certificate is for a csr"),
            )),
        }
    }
}

fn key(written: file::Key) -> Result<KeyStep, Fault> {
    let place = place("key", &written.name)?;
    let mut signers = KeyRole::ALL.into_iter().filter_map(|role| match role {
        KeyRole::CertificateIssuer(curve) | KeyRole::OcspResponder(curve) => Some((role, curve)),
        _ => None,
    });
    let (role, curve) = signers.find(|(role, _)| role.as_str() == written.role).ok_or_else(|| {
        fault(&place, format!("role {:?} is none of a certificate issuer or OCSP responder", written.role))
    })?;
    if written.epoch == 0 {
        return Err(fault(&place, "epoch is 1 or more"));
    }
    if let Some(party) = &written.party {
        audit::Name::new(party).map_err(|e| fault(&place, format!("party: {e}")))?;
    }
    Ok(KeyStep { name: written.name, role, curve, epoch: written.epoch, party: written.party })
}

fn earlier(written: file::EarlierIssuer) -> Result<EarlierIssuer, Fault> {
    let place = place("earlier-issuer", &written.name)?;
    let certificate = named_file(&place, written.certificate)?;
    Ok(EarlierIssuer { name: written.name, key_file: written.key_file, certificate })
}

fn certificate(
    written: file::Certificate,
    names: &Names<'_>,
    before: &[CertificateStep],
) -> Result<CertificateStep, Fault> {
    let place = place("certificate", &written.name)?;
    let profile = profile(&place, &written.profile, written.profile_rules.as_deref())?;
    let key = match (written.key, written.csr) {
        (Some(name), None) => Subject::Key(names.key(&place, &name, profile)?),
        (None, Some(file)) => Subject::Request(named_file(&place, file)?),
        _ => return Err(fault(&place, "is for either a key or a csr")),
    };
    let issuer = match (profile.is_root(), written.issuer) {
        (true, None) => match key {
            Subject::Key(_) => None,
            Subject::Request(_) => return Err(fault(&place, "a root signs itself: it is for no csr")),
        },
        (true, Some(_)) => return Err(fault(&place, "a root signs itself: it has no issuer")),
        (false, None) => return Err(fault(&place, "issuer is missing: only a root signs itself")),
        (false, Some(name)) => Some(names.signer(&place, &name, before)?),
    };
    let end = match (written.not_after, written.validity_days) {
        (None, None) => End::AfterDays(profile.validity_days),
        (None, Some(days)) if (1..=profile.validity_days).contains(&days) => End::AfterDays(days),
        (None, Some(_)) => {
            return Err(fault(
                &place,
                format!("validity_days is 1 to {}, as the profile says", profile.validity_days),
            ));
        }
        (Some(at), None) => End::At(time(&place, "not_after", at)?),
        (Some(_), Some(_)) => return Err(fault(&place, "ends by either not_after or validity_days")),
    };
    let serial = match &written.serial {
        None => None,
        Some(text) => Some(serial(&place, text)?),
    };
    // An issuer uses no serial number twice (RFC 5280 §4.1.2.2).
    if serial.is_some()
        && before.iter().any(|other| other.issuer == issuer && issuer.is_some() && other.serial == serial)
    {
        return Err(fault(&place, "another certificate of this issuer has the same serial"));
    }
    Ok(CertificateStep {
        profile,
        key,
        issuer,
        subject: subject(written.subject),
        registered_id: written.registered_id,
        dns_name: written.dns_name,
        permitted_eins: eins(&place, &written.permitted_eins)?,
        not_before: written.not_before.map(|at| time(&place, "not_before", at)).transpose()?,
        end,
        serial,
        crl_urls: written.crl_urls,
        name: written.name,
    })
}

fn request(written: file::Request, names: &Names<'_>) -> Result<RequestStep, Fault> {
    let place = place("request", &written.name)?;
    let profile = profile(&place, &written.profile, written.profile_rules.as_deref())?;
    if profile.is_root() {
        return Err(fault(&place, "a root signs itself: nobody elsewhere is asked for it"));
    }
    Ok(RequestStep {
        profile,
        key: names.key(&place, &written.key, profile)?,
        subject: subject(written.subject),
        registered_id: written.registered_id,
        permitted_eins: eins(&place, &written.permitted_eins)?,
        name: written.name,
    })
}

fn list(written: file::List, names: &Names<'_>, certificates: &[CertificateStep]) -> Result<ListStep, Fault> {
    let place = place("list", &written.name)?;
    if written.number == 0 {
        return Err(fault(&place, "number is 1 or more"));
    }
    let end = match (written.next_update, written.validity_days) {
        (Some(at), None) => End::At(time(&place, "next_update", at)?),
        (None, Some(days)) if (1..=LIST_DAYS_MAX).contains(&days) => End::AfterDays(days),
        (None, Some(_)) => return Err(fault(&place, format!("validity_days is 1 to {LIST_DAYS_MAX}"))),
        _ => return Err(fault(&place, "ends by either next_update or validity_days")),
    };
    check_count(&place, written.revoked.len(), REVOKED_MAX)?;
    let revoked = written.revoked.into_iter().map(|entry| {
        let serial = serial(&place, &entry.serial)?;
        let place = format!("{place}, serial {serial}");
        Ok(RevokedCertificate {
            revoked_at: time(&place, "date", entry.date)?,
            reason: entry.reason.parse::<RevocationReason>().map_err(|e| fault(&place, e))?,
            invalid_since: entry.invalidity_date.map(|at| time(&place, "invalidity_date", at)).transpose()?,
            expires: None,
            serial,
        })
    });
    Ok(ListStep {
        issuer: names.signer(&place, &written.issuer, certificates)?,
        number: written.number,
        this_update: written.this_update.map(|at| time(&place, "this_update", at)).transpose()?,
        end,
        previous: written.previous.map(|file| named_file(&place, file)).transpose()?,
        revoked: revoked.collect::<Result<_, Fault>>()?,
        name: written.name,
    })
}

/// The profile, of a kind that ceremonies issue. The built-in ones come with the software; of the operator's own the reviewers
/// name the rules, which the configuration could change under them.
fn profile(place: &str, name: &str, rules: Option<&str>) -> Result<&'static CertificateProfile, Fault> {
    let profile = pki::profile::find(name)
        .map_err(|_| fault(place, format!("there is no certificate profile {name:?}")))?;
    match profile.role {
        CertificateRole::Euicc => return Err(fault(place, "certificates of devices come by orders")),
        CertificateRole::OperatorRoot | CertificateRole::OperatorClient | CertificateRole::OperatorServer => {
            return Err(fault(
                place,
                "certificates of persons and servers come by the founding and enrolments",
            ));
        }
        CertificateRole::CertificateIssuer
        | CertificateRole::CrossCertificate
        | CertificateRole::CiSubCa
        | CertificateRole::DpSubCa
        | CertificateRole::DsSubCa
        | CertificateRole::Eum
        | CertificateRole::EumSubCa
        | CertificateRole::DpAuth
        | CertificateRole::DpPb
        | CertificateRole::DpTls
        | CertificateRole::DsAuth
        | CertificateRole::DsTls
        | CertificateRole::EimSign
        | CertificateRole::EimTls
        | CertificateRole::OcspResponder => {}
    }
    let has = hex::encode(profile.digest());
    match rules {
        Some(rules) if rules != has => Err(fault(place, format!("profile_rules of {name} are {has}"))),
        None if !pki::profile::built_in().any(|built_in| built_in.name == name) => {
            Err(fault(place, format!("profile {name} is your own: profile_rules names its rules, {has}")))
        }
        _ => Ok(profile),
    }
}

fn subject(written: file::Subject) -> SubjectValues {
    SubjectValues {
        country: written.country,
        organization: written.organization,
        organizational_unit: written.organizational_unit,
        common_name: written.common_name,
        eid: None,
    }
}

fn eins(place: &str, written: &[String]) -> Result<Vec<Ein>, Fault> {
    let read = |text: &String| text.parse::<Ein>().map_err(|e| fault(place, format!("permitted_eins: {e}")));
    let eins = written.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    check_unique(place, written)?;
    Ok(eins)
}

fn named_file(place: &str, written: file::NamedFile) -> Result<NamedFile, Fault> {
    let mut sha256 = [0; 32];
    hex::decode_to_slice(&written.sha256, &mut sha256)
        .map_err(|_| fault(place, format!("sha256 of {} has 64 hex digits", written.file.display())))?;
    Ok(NamedFile { path: written.file, sha256 })
}

fn serial(place: &str, text: &str) -> Result<SerialNumber, Fault> {
    text.parse().map_err(|e| fault(place, format!("serial {text:?}: {e}")))
}

/// A date-time of TOML in UTC, to the second.
fn time(place: &str, field: &str, written: Datetime) -> Result<CivilTime, Fault> {
    let wrong = || fault(place, format!("{field} is a time in UTC to the second, as 2026-01-31T12:00:00Z"));
    let (Some(date), Some(time), Some(offset)) = (written.date, written.time, written.offset) else {
        return Err(wrong());
    };
    let is_utc = matches!(offset, Offset::Z | Offset::Custom { minutes: 0 });
    if !is_utc || time.nanosecond.unwrap_or(0) != 0 {
        return Err(wrong());
    }
    let second = time.second.unwrap_or(0);
    CivilTime::new(date.year, date.month, date.day, time.hour, time.minute, second).map_err(|_| wrong())
}

/// Where a fault is. The name becomes part of file names and labels, so it has a form of its own.
fn place(kind: &str, name: &str) -> Result<String, Fault> {
    let is_name = (1..=NAME_CHARACTERS_MAX).contains(&name.len())
        && name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
        && !name.starts_with('-');
    if is_name {
        return Ok(format!("{kind} {name}"));
    }
    Err(fault(kind, format!("name {name:?} is none of 1 to 40 small letters, digits and hyphens")))
}

fn check_text(place: &str, text: &str) -> Result<(), Fault> {
    if (1..=TEXT_BYTES_MAX).contains(&text.len())
        && !text.chars().any(char::is_control)
        && text.trim() == text
    {
        return Ok(());
    }
    Err(fault(place, "has 1 to 128 octets, no control characters and no spaces at its ends"))
}

fn check_count(place: &str, count: usize, max: usize) -> Result<(), Fault> {
    if count <= max { Ok(()) } else { Err(fault(place, format!("there are {count}; at most {max}"))) }
}

fn check_unique<T: Eq + std::hash::Hash + std::fmt::Debug>(
    place: &str,
    names: impl IntoIterator<Item = T>,
) -> Result<(), Fault> {
    let mut seen = HashSet::new();
    for name in names {
        let shown = format!("{name:?}");
        if !seen.insert(name) {
            return Err(fault(place, format!("{shown} occurs twice")));
        }
    }
    Ok(())
}

fn fault(place: &str, problem: impl Display) -> Fault {
    Fault { place: place.to_owned(), problem: problem.to_string() }
}
