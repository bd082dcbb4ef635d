//! Issuers that come with a certificate, and what they issued before (`docs/cycles/adoption.md`).

use std::collections::{HashMap, HashSet};

use audit::{EntryDraft, EventType, Fact, Outcome};
use domain::{Eid, ReasonCode, Timestamp};
use pki::chain::{self, profile_of};
use pki::crl::Crl;
use pki::{Certificate, CertificateProfile, CertificateRole, CivilTime, KnownKeys, PublicKey};
use prost::Message;
use proto::records;
use store::{Change, Precondition, Store};

use crate::anchors::Anchor;
use crate::hierarchy::{CAS_MAX, Hierarchy};
use crate::issuance::{About, holder_prefix, serial_octets};
use crate::issuers::Issuer;
use crate::keyspaces::{
    CERTIFICATES, CERTIFIED_KEYS, CRL_NUMBERS, DEVICE_CERTIFICATES, HOLDER_CERTIFICATES, REVOCATIONS,
};
use crate::publication::ListName;
use crate::register_key::{RegisterKey, Registered};
use crate::revocation::{index_key, listed};
use crate::{CaError, Engines};

/// Entries of the list that an issuer brings with it: it is part of an approved operation.
pub const ADOPTED_LIST_ENTRIES_MAX: usize = 1_000;
/// Certificates of one call that takes what an issuer issued elsewhere.
pub const ADOPTED_CERTIFICATES_MAX: usize = 500;
/// So long after its registration an issuer's certificates from before are taken: 30 days.
pub const ADOPTION_SECONDS: i64 = 30 * 86_400;
/// How far a list's thisUpdate may lie ahead of our clock.
const CLOCK_SKEW_SECONDS: i64 = 300;

/// What an issuer brings with it: a certificate from a ceremony or from other software, and its last revocation list.
#[derive(Clone, Copy, Debug)]
pub struct AdoptionRequest<'a> {
    /// Its name here.
    pub name: &'a str,
    /// The manufacturer it is of; empty for the authority's own.
    pub party: &'a str,
    /// SubjectPublicKeyInfo (DER) of its key.
    pub spki: &'a [u8],
    /// DER.
    pub certificate: &'a [u8],
    /// DER; empty when it signed none.
    pub list: &'a [u8],
}

/// An issuer's certificate and list, judged.
#[derive(Clone)]
pub struct Adoption {
    /// The certificate.
    pub certificate: Certificate,
    /// The profile that it keeps.
    pub profile: &'static CertificateProfile,
    /// Its last list.
    pub list: Option<Crl>,
    name: String,
    party: String,
    /// Name of the issuer above it; its own of a root.
    above: String,
    unchanged: Vec<Precondition>,
    is_registered: bool,
}

impl Adoption {
    /// Judges them: the certificate is for the key, in force, of a CA, and leads by the GSMA's rules to a root of the authority or is one;
    /// nothing of its chain is revoked. Its key and name are no other issuer's or anchor's. The list is full, signed by the key, and
    /// there exactly when the certificate lets it sign lists and it did.
    pub fn judge(engines: &Engines, request: &AdoptionRequest<'_>, now: Timestamp) -> Result<Self, CaError> {
        let store = engines.store.as_ref();
        let certificate = Certificate::from_der(request.certificate)
            .map_err(|e| invalid(format!("the issuer's certificate: {e}")))?;
        if certificate.spki() != request.spki {
            return Err(invalid("the certificate is for another key than the one on the token"));
        }
        let profile = profile_of(&certificate)
            .map_err(|e| invalid(format!("the issuer's certificate keeps no profile of the GSMA: {e}")))?;
        let is_manufacturers = matches!(profile.role, CertificateRole::Eum | CertificateRole::EumSubCa);
        if !profile.is_ca() || is_manufacturers == request.party.is_empty() {
            return Err(invalid(format!(
                "a {} certificate is not that of an issuer of {}",
                profile.name,
                if request.party.is_empty() { "the authority" } else { "a manufacturer" }
            )));
        }
        is_new(engines, &certificate)?;
        let (above, mut unchanged) = judge_chain(engines, &certificate, profile, now)?;
        let registered = Registered::of_certificate(store, &certificate)?;
        if let Some(above) = &above {
            let serial = certificate.serial().as_bytes();
            if let Some(revocation) = listed(store, above, serial)? {
                return Err(policy(format!(
                    "{above} revoked the issuer's certificate, for {}",
                    revocation.reason
                )));
            }
            unchanged.push(Precondition::Absent { keyspace: REVOCATIONS, key: index_key(above, serial) });
        }
        let list = match request.list {
            [] => None,
            list => Some(judge_list(list, &certificate, now)?),
        };
        Ok(Self {
            profile,
            list,
            name: request.name.to_owned(),
            party: request.party.to_owned(),
            above: above.unwrap_or_else(|| request.name.to_owned()),
            unchanged,
            is_registered: registered.is_some(),
            certificate,
        })
    }

    /// What the registration of the issuer writes beside the issuer itself: its certificate in the register, the number and the entries
    /// of its list.
    pub fn create(&self) -> (Vec<Change>, Vec<Precondition>) {
        let (mut changes, mut preconditions) = (Vec::new(), self.unchanged.clone());
        if !self.is_registered {
            let holder = if self.party.is_empty() { &self.name } else { &self.party };
            let row = Row::new(&self.certificate, self.profile, &self.above, holder);
            row.create(&mut changes, &mut preconditions);
            row.takes_key(&mut changes, &mut preconditions);
        }
        if let Some(list) = &self.list {
            let number = list.number().unwrap_or_default();
            let key = ListName::full(&self.name).key().into_bytes();
            let record = records::CrlNumber { version: 1, last: number, open: 0 };
            changes.push(Change::put(CRL_NUMBERS, key.clone(), record.encode_to_vec()));
            preconditions.push(Precondition::Absent { keyspace: CRL_NUMBERS, key });
            for entry in list.revoked() {
                let record = records::Revocation {
                    version: 1,
                    revoked_micros: timestamp(entry.revoked_at).micros(),
                    reason: entry.reason.as_str().to_owned(),
                    invalid_since_micros: entry.invalid_since.map_or(0, |since| timestamp(since).micros()),
                    shard: String::new(),
                    expires_seconds: 0,
                };
                let key = index_key(&self.name, entry.serial.as_bytes());
                changes.push(Change::put(REVOCATIONS, key, record.encode_to_vec()));
            }
        }
        (changes, preconditions)
    }

    /// The facts of it in the entry of the registration.
    pub fn facts(&self, entry: EntryDraft) -> EntryDraft {
        let entry = entry
            .fact("certificate", Fact::Digest(self.certificate.digest()))
            .fact("profile", Fact::fixed_name(self.profile.name));
        match &self.list {
            None => entry,
            Some(list) => entry
                .fact("crl", Fact::Digest(list.digest()))
                .fact("number", Fact::Number(list.number().unwrap_or_default()))
                .fact("count", Fact::Number(list.revoked().len() as u64)),
        }
    }
}

/// No issuer and no anchor here has the certificate's key or name.
fn is_new(engines: &Engines, certificate: &Certificate) -> Result<(), CaError> {
    let store = engines.store.as_ref();
    let Some(identifier) = certificate.subject_key_identifier() else {
        return Err(invalid("the issuer's certificate has no subject key identifier"));
    };
    let conflict = |what: &str, name: &str| {
        CaError::refused(ReasonCode::Conflict, format!("{what} {name} has this key or this subject already"))
    };
    let is_it = |other: &Certificate| {
        other.subject_key_identifier() == Some(identifier)
            || other.subject_name_der() == certificate.subject_name_der()
    };
    for issuer in engines.issuers.all(store)? {
        if issuer.certificate.as_ref().is_some_and(is_it) {
            return Err(conflict("issuer", &issuer.name));
        }
    }
    for anchor in Anchor::all(store)? {
        if !anchor.retired && is_it(&anchor.certificate) {
            return Err(conflict("anchor", &anchor.name));
        }
    }
    Ok(())
}

/// The name of the issuer above, none of a root, and what must hold still when the registration is committed.
fn judge_chain(
    engines: &Engines,
    certificate: &Certificate,
    profile: &CertificateProfile,
    now: Timestamp,
) -> Result<(Option<String>, Vec<Precondition>), CaError> {
    let store = engines.store.as_ref();
    let at = CivilTime::from_timestamp(now).map_err(|e| invalid(e.to_string()))?;
    let issuers = Above::of(engines)?;
    let mut roots = issuers.hierarchy.roots.clone();
    if profile.is_root() {
        roots.push(certificate.clone());
    }
    let between = issuers.from(certificate.authority_key_identifier());
    let chain = chain::verify_chain(certificate, &between, &roots, profile.role, Some(at))
        .map_err(|refusal| invalid(format!("the issuer's certificate: {refusal}")))?;
    let Some(above) = chain.certificates().get(1) else { return Ok((None, Vec::new())) };
    let mut unchanged = Vec::new();
    for above in &chain.certificates()[1..] {
        let name = issuers.names.get(&above.digest()).ok_or(CaError::Record("issuer"))?;
        unchanged.extend(crate::revocation::in_good_standing(store, name, above, now)?);
    }
    Ok((issuers.names.get(&above.digest()).cloned(), unchanged))
}

/// The issuers here, as what stands above a certificate.
struct Above {
    hierarchy: Hierarchy,
    /// Those that sign not themselves, of manufacturers too, by subject key identifier.
    intermediates: HashMap<Vec<u8>, Certificate>,
    names: HashMap<[u8; 32], String>,
}

impl Above {
    fn of(engines: &Engines) -> Result<Self, CaError> {
        let (mut intermediates, mut names) = (HashMap::new(), HashMap::new());
        for issuer in engines.issuers.all(engines.store.as_ref())? {
            let Some(certificate) = &issuer.certificate else { continue };
            names.insert(certificate.digest(), issuer.name.clone());
            if let Some(key) = certificate.subject_key_identifier()
                && !certificate.is_self_issued()
            {
                intermediates.insert(key.to_vec(), certificate.clone());
            }
        }
        Ok(Self { hierarchy: Hierarchy::of(engines)?, intermediates, names })
    }

    /// From the issuer of this key up to below the root.
    fn from(&self, key: Option<&[u8]>) -> Vec<Certificate> {
        let mut chain: Vec<Certificate> = Vec::new();
        let mut key = key;
        while let Some(next) = key.and_then(|key| self.intermediates.get(key))
            && chain.len() < CAS_MAX
        {
            chain.push(next.clone());
            key = next.authority_key_identifier();
        }
        chain
    }
}

fn judge_list(list: &[u8], certificate: &Certificate, now: Timestamp) -> Result<Crl, CaError> {
    let refused = |why: &str| invalid(format!("the issuer's revocation list: {why}"));
    if !certificate.may_sign_crls() {
        return Err(refused("its certificate lets it sign none"));
    }
    let crl = Crl::parse(list).map_err(|e| refused(&e.to_string()))?;
    crl.verify(certificate).map_err(|e| refused(&e.to_string()))?;
    if !crl.scope().is_full() {
        return Err(refused("it is no full list of its issuer"));
    }
    if crl.number().is_none_or(|number| number > u64::MAX / 2) {
        return Err(refused("its number takes more than 63 bits"));
    }
    if crl.revoked().len() > ADOPTED_LIST_ENTRIES_MAX {
        return Err(refused(&format!("it has more than {ADOPTED_LIST_ENTRIES_MAX} entries")));
    }
    if timestamp(crl.this_update()) > now.plus_seconds(CLOCK_SKEW_SECONDS) {
        return Err(refused("it is of the future"));
    }
    Ok(crl)
}

/// What becomes of a certificate that an issuer issued elsewhere.
pub enum Adopted {
    /// It goes into the register.
    Taken(Box<Taken>),
    /// It is there already.
    Known,
    /// It does not.
    Refused(ReasonCode, String),
}

/// A certificate on its way into the register.
pub struct Taken {
    row: Row,
    serial: Vec<u8>,
    certificate: Certificate,
    takes_key: bool,
    is_newest: bool,
    is_listed: bool,
}

/// Judges certificates (DER) that an issuer issued before it came here: each leads by the GSMA's rules, whenever it was valid, to this
/// very issuer. Who holds it: a device by its EID, else what `holder` says of it. What the issuer's list named is revoked. Refused for an
/// issuer that was made here, or came longer ago than [`ADOPTION_SECONDS`]: from then on what it issues is in the register, or nobody's.
pub fn adopt_certificates(
    engines: &Engines,
    issuer: &Issuer,
    certificates: &[Vec<u8>],
    holder: impl Fn(&Certificate, CertificateRole) -> Option<String>,
    now: Timestamp,
) -> Result<Vec<Adopted>, CaError> {
    let own = issuer.certificate()?;
    let Some(until) = issuer.adopts_until else {
        return Err(policy("what this issuer issued is in the register: it did not come from elsewhere"));
    };
    if now > until {
        return Err(policy("certificates from before are taken for 30 days after their issuer came"));
    }
    let came = CivilTime::from_timestamp(until.plus_seconds(CLOCK_SKEW_SECONDS - ADOPTION_SECONDS))
        .map_err(|e| invalid(e.to_string()))?;
    let above = Above::of(engines)?;
    let between = above.from(own.subject_key_identifier());
    let mut roots = above.hierarchy.roots;
    roots.extend(
        Anchor::all(engines.store.as_ref())?.into_iter().filter(|a| !a.retired).map(|a| a.certificate),
    );
    let mut batch = Batch::default();
    certificates
        .iter()
        .map(|der| {
            let judged = Certificate::from_der(der).map_err(|e| e.to_string()).and_then(|certificate| {
                let profile = profile_of(&certificate).map_err(|e| e.to_string())?;
                if profile.is_root() || profile.role == CertificateRole::CrossCertificate {
                    return Err("a root is an issuer or an anchor, not issued".to_owned());
                }
                let chain = chain::verify_chain(&certificate, &between, &roots, profile.role, None)
                    .map_err(|refusal| refusal.to_string())?;
                if chain.certificates().get(1) != Some(own) {
                    return Err(format!("it was not issued by {}", issuer.name));
                }
                if certificate.not_before() > came {
                    return Err("it begins after its issuer came here".to_owned());
                }
                Ok((certificate, profile))
            });
            match judged {
                Ok((certificate, profile)) => {
                    batch.take(engines.store.as_ref(), issuer, certificate, profile, &holder)
                }
                Err(why) => Ok(Adopted::Refused(ReasonCode::InvalidField, why)),
            }
        })
        .collect()
}

/// What the certificates of one commit take from each other.
#[derive(Default)]
struct Batch {
    rows: HashSet<Vec<u8>>,
    keys: HashSet<[u8; 32]>,
    newest: HashMap<String, CivilTime>,
}

impl Batch {
    fn take(
        &mut self,
        store: &dyn Store,
        issuer: &Issuer,
        certificate: Certificate,
        profile: &'static CertificateProfile,
        holder: impl Fn(&Certificate, CertificateRole) -> Option<String>,
    ) -> Result<Adopted, CaError> {
        let refused = |reason, why: &str| Ok(Adopted::Refused(reason, why.to_owned()));
        let serial = certificate.serial().as_bytes().to_vec();
        if let Some(found) = Registered::of_issuer(store, &issuer.name, &serial)? {
            return match found.record.der == certificate.der() {
                true => Ok(Adopted::Known),
                false => refused(
                    ReasonCode::Conflict,
                    "the register has another certificate of this issuer with its serial number",
                ),
            };
        }
        if PublicKey::parse(certificate.spki(), KnownKeys::Allow).is_err() {
            return refused(ReasonCode::WeakKey, "its key is on no curve that is known here");
        }
        let holder = match certificate.eid().filter(|_| profile.role == CertificateRole::Euicc) {
            Some(eid) => eid.to_string(),
            None => match holder(&certificate, profile.role) {
                Some(holder) => holder,
                None => {
                    return refused(
                        ReasonCode::UnknownParty,
                        "no party here has its organisation; enrol the party, or name it",
                    );
                }
            },
        };
        let mut row = Row::new(&certificate, profile, &issuer.name, &holder);
        if !self.rows.insert(row.key.as_bytes().to_vec()) {
            return refused(ReasonCode::Conflict, "another one of this call has its serial number");
        }
        let revocation = listed(store, &issuer.name, &serial)?;
        if let Some(revocation) = revocation {
            row.record.state = "revoked".to_owned();
            row.record.revoked_micros = revocation.at.micros();
            row.record.revocation_reason = revocation.reason.as_str().to_owned();
        }
        let digest = certificate.spki_digest();
        let takes_key = store.get(CERTIFIED_KEYS, &digest)?.is_none() && self.keys.insert(digest);
        let is_newest = profile.role == CertificateRole::Euicc && {
            let before = match self.newest.get(&holder) {
                Some(before) => Some(*before),
                None => newest_of(store, &holder)?,
            };
            let is_newest = before.is_none_or(|before| certificate.not_before() > before);
            if is_newest {
                self.newest.insert(holder, certificate.not_before());
            }
            is_newest
        };
        let is_listed = revocation.is_some();
        Ok(Adopted::Taken(Box::new(Taken { row, serial, certificate, takes_key, is_newest, is_listed })))
    }
}

/// The beginning of a device's newest certificate.
fn newest_of(store: &dyn Store, eid: &str) -> Result<Option<CivilTime>, CaError> {
    let Some(row) = store.get(DEVICE_CERTIFICATES, eid.as_bytes())? else { return Ok(None) };
    let Some(found) = Registered::of_key(store, RegisterKey::from_bytes(&row.value))? else {
        return Ok(None);
    };
    let certificate = Certificate::from_der(&found.record.der).map_err(CaError::Verification)?;
    Ok(Some(certificate.not_before()))
}

impl Taken {
    /// Who holds it: a party's name, or an EID.
    pub fn holder(&self) -> &str {
        &self.row.record.subject
    }

    /// Its device, of an eUICC's.
    pub fn eid(&self) -> Option<Eid> {
        self.row.is_device.then(|| self.certificate.eid()).flatten()
    }

    /// Whether the issuer's list named it.
    pub const fn is_revoked(&self) -> bool {
        self.is_listed
    }

    /// Entry, writes and preconditions.
    pub fn outcome(&self, about: &About) -> (EntryDraft, Vec<Change>, Vec<Precondition>) {
        let record = &self.row.record;
        let mut entry = about
            .draft(EventType::CertificateAdopted, Outcome::Done)
            .fact("serial", serial_octets(&self.serial, about.object))
            .fact("certificate", Fact::Digest(self.certificate.digest()))
            .fact("key", Fact::Digest(self.certificate.spki_digest()))
            .fact(
                "state",
                if self.is_listed { Fact::fixed_name("revoked") } else { Fact::fixed_name("issued") },
            );
        for (name, text) in [("issuer", &record.issuer), ("profile", &record.profile)] {
            if let Ok(fact) = Fact::name(text) {
                entry = entry.fact(name, fact);
            }
        }
        let (mut changes, mut preconditions) = (Vec::new(), Vec::new());
        self.row.create(&mut changes, &mut preconditions);
        if self.takes_key {
            self.row.takes_key(&mut changes, &mut preconditions);
        }
        if self.is_newest {
            changes.push(Change::put(
                DEVICE_CERTIFICATES,
                record.subject.as_bytes(),
                self.row.key.as_bytes(),
            ));
        }
        if !self.is_listed {
            let key = index_key(&record.issuer, &self.serial);
            preconditions.push(Precondition::Absent { keyspace: REVOCATIONS, key });
        }
        (entry, changes, preconditions)
    }
}

/// A row of the register for a certificate from elsewhere.
#[derive(Clone)]
struct Row {
    is_device: bool,
    key: RegisterKey,
    record: records::Certificate,
}

impl Row {
    fn new(certificate: &Certificate, profile: &CertificateProfile, issuer: &str, holder: &str) -> Self {
        let serial = certificate.serial().as_bytes();
        Self {
            is_device: profile.role == CertificateRole::Euicc,
            key: RegisterKey::elsewhere(serial, issuer),
            record: records::Certificate {
                version: 1,
                serial_number: serial.to_vec(),
                issuer: issuer.to_owned(),
                profile: profile.name.to_owned(),
                subject: holder.to_owned(),
                public_key_digest: certificate.spki_digest().to_vec(),
                state: "issued".to_owned(),
                der: certificate.der().to_vec(),
                possession_proved: false,
                revoked_micros: 0,
                revocation_reason: String::new(),
            },
        }
    }

    fn create(&self, changes: &mut Vec<Change>, preconditions: &mut Vec<Precondition>) {
        let key = self.key.as_bytes();
        changes.push(Change::put(CERTIFICATES, key, self.record.encode_to_vec()));
        preconditions.push(Precondition::Absent { keyspace: CERTIFICATES, key: key.to_vec() });
        if !self.is_device {
            let of_holder = [holder_prefix(&self.record.subject).as_slice(), key].concat();
            changes.push(Change::put(HOLDER_CERTIFICATES, of_holder, []));
        }
    }

    fn takes_key(&self, changes: &mut Vec<Change>, preconditions: &mut Vec<Precondition>) {
        let key = self.record.public_key_digest.clone();
        changes.push(Change::put(CERTIFIED_KEYS, key.clone(), self.key.as_bytes()));
        preconditions.push(Precondition::Absent { keyspace: CERTIFIED_KEYS, key });
    }
}

fn timestamp(time: CivilTime) -> Timestamp {
    Timestamp::from_seconds(time.unix_seconds())
}

fn invalid(why: impl Into<String>) -> CaError {
    CaError::refused(ReasonCode::InvalidField, why.into())
}

fn policy(why: impl Into<String>) -> CaError {
    CaError::refused(ReasonCode::PolicyViolation, why.into())
}
