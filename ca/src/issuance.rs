//! Issuance: the steps 4 to 9 of `docs/cycles/issuance.md`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use audit::{EntryDraft, EventType, Fact, Hash, Name, Outcome, Pseudonym};
use domain::{Curve, Eid, ReasonCode, Role, Timestamp};
use hsm::{CallOptions, KeyCheck, RegisteredKey, Token};
use pki::csr::VerifiedCsr;
use pki::{
    Algorithm, AlgorithmStatus, Certificate, CertificateInputs, CertificateProfile, CertificateRole,
    CivilTime, KnownKeys, LintedTbs, PkiError, PublicKey, SerialNumber, SerialNumberRule, SubjectValues,
};
use prost::Message;
use proto::records;
use store::{Change, Precondition};

use crate::issuers::Issuer;
use crate::keyspaces::{
    CERTIFICATES, CERTIFIED_KEYS, DEVICE_CERTIFICATES, HOLDER_CERTIFICATES, RESERVATIONS, RESPONDERS,
    REVOCATIONS,
};
use crate::publication::{ListKind, ListName, Shard};
use crate::register::Reservation;
use crate::register_key::{Registered, serial_of};
use crate::revocation::{in_good_standing, index_key};
use crate::{CaError, Engines};

/// The key to be certified.
#[derive(Clone, Debug)]
pub struct SubjectKey {
    public_key: PublicKey,
    possession: Possession,
}

/// How it is known that the subject holds the private key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Possession {
    /// By the signature of a request.
    Proved,
    /// The party that owns the device says so.
    Vouched,
    /// The pair was made in a token of ours, which used it once, and left wrapped for the subject's manufacturer.
    MadeHere,
}

impl Possession {
    const fn is_proved(self) -> bool {
        match self {
            Self::Proved | Self::MadeHere => true,
            Self::Vouched => false,
        }
    }

    /// Proof of possession, the word of the party that owns the device, or our own token.
    const fn fact(self) -> Fact {
        match self {
            Self::Proved => Fact::fixed_name("possession-proved"),
            Self::Vouched => Fact::fixed_name("public-key-only"),
            Self::MadeHere => Fact::fixed_name("made-in-token"),
        }
    }
}

impl SubjectKey {
    /// From a certification request (PKCS#10): its signature proves possession. Nothing else is taken from it.
    pub fn from_request(request: &[u8], known_keys: KnownKeys) -> Result<Self, CaError> {
        let verified = VerifiedCsr::parse(request, known_keys).map_err(|e| {
            CaError::refused(ReasonCode::InvalidCsr, format!("the certification request is refused: {e}"))
        })?;
        Ok(Self { public_key: verified.public_key().clone(), possession: Possession::Proved })
    }

    /// From a bare public key, whose owner vouches for it: an EUM for its own devices, or a token for its own keys.
    pub fn without_proof(spki: &[u8], known_keys: KnownKeys) -> Result<Self, CaError> {
        let public_key = PublicKey::parse(spki, known_keys)
            .map_err(|e| CaError::refused(ReasonCode::WeakKey, format!("the public key is refused: {e}")))?;
        Ok(Self { public_key, possession: Possession::Vouched })
    }

    /// From the public key of a pair that a token of ours has just made for a device, and has used.
    pub fn made_in_token(spki: &[u8], known_keys: KnownKeys) -> Result<Self, CaError> {
        Ok(Self { possession: Possession::MadeHere, ..Self::without_proof(spki, known_keys)? })
    }

    /// The public key.
    pub const fn public_key(&self) -> &PublicKey {
        &self.public_key
    }
}

/// What a certificate is to say.
#[derive(Clone, Debug)]
pub struct CertificateRequest {
    /// Its profile.
    pub profile: &'static CertificateProfile,
    /// Who issues it.
    pub issuer: Arc<Issuer>,
    /// Values for the subject, from the registry.
    pub subject: SubjectValues,
    /// The key.
    pub key: SubjectKey,
    /// Object identifier of the party, where the profile has one.
    pub registered_id: Option<String>,
    /// Host name, where the profile has one.
    pub dns_name: Option<String>,
    /// Addresses, where the profile has some.
    pub ip_addresses: Vec<IpAddr>,
    /// EUM: (organisation, IIN) pairs.
    pub permitted: Vec<(String, String)>,
    /// Whose it is, in the register: a party's or person's name, or an EID.
    pub holder: String,
    /// When the certified key is an issuer's: that issuer.
    pub certifies: Option<Arc<Issuer>>,
    /// Serial number of the certificate that this one follows, whose key it may keep.
    pub renews: Option<Vec<u8>>,
    /// SHA-256 of the reference of the accreditation in force, where the holder or the issuer's party needs one.
    pub accreditation: Option<Hash>,
}

impl CertificateRequest {
    /// That what is renewed was not revoked meanwhile: a key that somebody else may hold gets no further certificate.
    fn renewed_is_unrevoked(&self) -> Option<Precondition> {
        let key = index_key(&self.issuer.name, self.renews.as_ref()?);
        Some(Precondition::Absent { keyspace: REVOCATIONS, key })
    }
}

/// Who asks and about whom, for the entries.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Role in which the caller acts; none when the service acts by itself.
    pub role: Option<Role>,
    /// Pseudonym of the caller.
    pub actor: Pseudonym,
    /// Pseudonym of the holder.
    pub object: Pseudonym,
}

impl About {
    pub(crate) fn draft(&self, event: EventType, outcome: Outcome) -> EntryDraft {
        let entry = EntryDraft::new(event, outcome).actor(self.actor).object(self.object);
        match self.role {
            Some(role) => entry.role(role),
            None => entry,
        }
    }
}

/// What becomes of the row that says which certificate a key has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum KeyRow {
    /// It is written with the intent.
    New,
    /// It names the certificate before, at this version, and is moved with the outcome.
    Renewed(u64),
    /// It stays with the certificate of its own issuer: a cross-certificate is one more.
    Others,
}

/// A certificate whose exact bytes passed the lint; nothing is durable and nothing is signed yet.
pub struct Prepared {
    request: CertificateRequest,
    serial: SerialNumber,
    linted: LintedTbs,
    // That the issuer's own certificate is in force still.
    standing: Vec<Precondition>,
    key_row: KeyRow,
    policy: Name,
}

/// A certificate that was signed and verified; not yet durable, so it must not leave.
#[derive(Debug)]
pub struct Issued {
    /// The certificate.
    pub certificate: Certificate,
    request: CertificateRequest,
    serial: SerialNumber,
    key_row: KeyRow,
    policy: Name,
}

/// Steps 4 to 6: duplicate-key check, profile, lint, serial number.
pub fn prepare(engines: &Engines, request: CertificateRequest, now: Timestamp) -> Result<Prepared, CaError> {
    let issuer_curve = check_curve(&request, now)?;
    let key_row = key_row(engines, &request)?;
    let (above, standing) = if request.profile.is_root() {
        let own_name = pki::subject_name_der(request.profile, &request.subject);
        let own_name = own_name.map_err(|e| CaError::refused(ReasonCode::InvalidField, e.to_string()))?;
        (Above { name_der: own_name, key_identifier: None, curve: issuer_curve }, Vec::new())
    } else {
        let issuer = request.issuer.certificate()?;
        check_issuer(&request, issuer)?;
        let above = Above {
            name_der: issuer.subject_name_der().to_vec(),
            key_identifier: Some(key_identifier(issuer)?),
            curve: issuer_curve,
        };
        (above, in_good_standing(engines.store.as_ref(), &request.issuer.name, issuer, now)?)
    };
    let serial = serial_number(engines.store.as_ref(), &request)?;
    let mut list = ListName::full(&request.issuer.name);
    // A root stands on no list: what it names is where its own are.
    if engines.lists.shards > 0 && !request.profile.is_root() {
        list.kind = ListKind::Shard(Shard::of_serial(serial.as_bytes(), engines.lists.shards));
    }
    let crl_urls = crl_urls(request.profile, &engines.crl_base_url, &list);
    let inputs = inputs(&request, above, serial, crl_urls, now)?;
    let (serial, linted) = build(request.profile, &inputs)?;
    Ok(Prepared { request, serial, linted, standing, key_row, policy: engines.policy.clone() })
}

/// Whether the issuer may issue such a certificate and is not revoked, and the request's key be certified by it, and is for nobody yet; for those
/// who want to know before persons approve it.
pub fn check_request(engines: &Engines, request: &CertificateRequest, now: Timestamp) -> Result<(), CaError> {
    check_curve(request, now)?;
    if !request.profile.is_root() {
        let issuer = request.issuer.certificate()?;
        check_issuer(request, issuer)?;
        in_good_standing(engines.store.as_ref(), &request.issuer.name, issuer, now)?;
    }
    key_row(engines, request).map(drop)
}

/// What the issuer's own certificate says must allow it; nobody who verifies the chain would accept it otherwise.
fn check_issuer(request: &CertificateRequest, issuer: &Certificate) -> Result<(), CaError> {
    if pki::chain::may_issue(issuer, request.profile) {
        return Ok(());
    }
    Err(CaError::refused(
        ReasonCode::PolicyViolation,
        format!(
            "issuer {} issues no {} certificates: its own would be {}",
            request.issuer.name,
            request.profile.name,
            request.profile.issued_by.join(" or ")
        ),
    ))
}

/// As the profile says; the EID is the serial number of the device's first certificate only, since an issuer uses none twice.
fn serial_number(store: &dyn store::Store, request: &CertificateRequest) -> Result<SerialNumber, CaError> {
    if request.profile.serial_number == SerialNumberRule::Eid
        && let Some(eid) = &request.subject.eid
    {
        let serial = SerialNumber::from_eid(eid);
        let is_free = Registered::of_serial(store, serial.as_bytes())?.is_empty()
            && store.get(RESERVATIONS, serial.as_bytes())?.is_none();
        if is_free {
            return Ok(serial);
        }
    }
    random_serial()
}

/// A chain is of one curve (SGP.22 §2.6.4): whoever knows the issuer's can use the subject's. Those who come by TLS may have a
/// key on P-384 below the operator's CA, which is on P-256: every TLS of ours knows both. The curve of the issuer.
fn check_curve(request: &CertificateRequest, now: Timestamp) -> Result<Curve, CaError> {
    let unreadable = |_| CaError::Record("issuer");
    let issuer = pki::curve_of(&request.issuer.public_key).map_err(unreadable)?;
    let subject = request.key.public_key.curve();
    let by_tls =
        matches!(request.profile.role, CertificateRole::OperatorClient | CertificateRole::OperatorServer);
    if subject == issuer || (by_tls && matches!(subject, Curve::P256 | Curve::P384)) {
        check_algorithms(&[subject.as_str(), Algorithm::of_signatures_on(issuer)], now)?;
        return Ok(issuer);
    }
    Err(CaError::refused(
        ReasonCode::WeakKey,
        format!("the key is on {subject}, but issuer {} is on {issuer}", request.issuer.name),
    ))
}

/// Nothing new is made with an algorithm whose time is over.
pub(crate) fn check_algorithms(names: &[&str], now: Timestamp) -> Result<(), CaError> {
    let now = CivilTime::from_timestamp(now)
        .map_err(|e| CaError::refused(ReasonCode::InvalidField, e.to_string()))?;
    for name in names {
        let algorithm = Algorithm::find(name).ok_or(CaError::Record("algorithm"))?;
        if matches!(algorithm.status(now), AlgorithmStatus::LegacyUse | AlgorithmStatus::Disallowed) {
            let message = format!("{name} is {} ({})", algorithm.status(now).as_str(), algorithm.source);
            return Err(CaError::refused(ReasonCode::WeakKey, message));
        }
    }
    Ok(())
}

/// Who stands above the subject; a root is its own, and names no key identifier of it.
struct Above {
    name_der: Vec<u8>,
    key_identifier: Option<[u8; 20]>,
    curve: Curve,
}

/// A key is certified once, unless the certificate follows one in force of the same holder and profile, as the request or,
/// for the service's own responder, always.
fn key_row(engines: &Engines, request: &CertificateRequest) -> Result<KeyRow, CaError> {
    let store = engines.store.as_ref();
    let follows = |serial: &[u8]| -> Result<bool, CaError> {
        let Some(Registered { record: before, .. }) =
            Registered::of_issuer(store, &request.issuer.name, serial)?
        else {
            return Ok(false);
        };
        Ok(before.profile == request.profile.name
            && before.subject == request.holder
            && before.state == "issued")
    };
    if let Some(serial) = &request.renews
        && !follows(serial)?
    {
        return Err(CaError::refused(
            ReasonCode::UnknownCertificate,
            "the certificate to be renewed is none in force of this holder, profile and issuer",
        ));
    }
    if request.profile.role == CertificateRole::CrossCertificate {
        return Ok(KeyRow::Others);
    }
    let Some(row) = store.get(CERTIFIED_KEYS, &request.key.public_key.digest())? else {
        return Ok(KeyRow::New);
    };
    let keeps_key = match &request.renews {
        Some(serial) => serial_of(&row.value) == serial.as_slice(),
        None => request.profile.role == CertificateRole::OcspResponder && follows(&row.value)?,
    };
    if keeps_key {
        Ok(KeyRow::Renewed(row.version))
    } else {
        Err(CaError::refused(ReasonCode::DuplicateKey, "this public key is certified already"))
    }
}

impl Prepared {
    /// Its serial number.
    pub const fn serial(&self) -> &SerialNumber {
        &self.serial
    }

    pub(crate) fn reservation(&self, version: u64) -> Reservation {
        let digest = match self.key_row {
            KeyRow::New => self.request.key.public_key.digest().to_vec(),
            KeyRow::Renewed(_) | KeyRow::Others => Vec::new(),
        };
        Reservation::new(self.serial.as_bytes().to_vec(), self.request.holder.clone(), digest, version)
    }

    /// The intent: entry, writes and preconditions. Durable before the token is asked.
    pub fn intent(&self, about: &About) -> (EntryDraft, Vec<Change>, Vec<Precondition>) {
        let serial = self.serial.as_bytes();
        let digest = self.request.key.public_key.digest();
        let mut record = record(&self.request, &self.serial, "reserved", &[]);
        let entry = about
            .draft(EventType::CertificateIntent, Outcome::Intent)
            .fact("profile", Fact::fixed_name(self.request.profile.name))
            .fact("serial", serial_fact(&self.serial, about))
            .fact("tbs", Fact::Digest(self.linted.sha256()))
            .fact("key", Fact::Digest(digest));
        let mut changes = Vec::with_capacity(2);
        let key = digest.to_vec();
        if self.key_row != KeyRow::New {
            // Should it fail, the key stays with the certificate that has it.
            record.public_key_digest.clear();
        }
        let key_is_free = match self.key_row {
            KeyRow::Renewed(version) => {
                Some(Precondition::Version { keyspace: CERTIFIED_KEYS, key, version })
            }
            KeyRow::New => {
                changes.push(Change::put(CERTIFIED_KEYS, digest, serial));
                Some(Precondition::Absent { keyspace: CERTIFIED_KEYS, key })
            }
            KeyRow::Others => None,
        };
        changes.push(Change::put(RESERVATIONS, serial, record.encode_to_vec()));
        let mut preconditions = vec![
            Precondition::Absent { keyspace: CERTIFICATES, key: serial.to_vec() },
            Precondition::Absent { keyspace: RESERVATIONS, key: serial.to_vec() },
        ];
        preconditions.extend(key_is_free);
        preconditions.extend(self.standing.iter().cloned());
        preconditions.extend(self.request.renewed_is_unrevoked());
        (entry, changes, preconditions)
    }
}

/// Steps 7 and 8: the token signs the linted bytes of certificates of one issuer, other code verifies each.
pub async fn sign(
    token: &Token,
    prepared: Vec<Prepared>,
    options: CallOptions,
) -> Result<Vec<Issued>, CaError> {
    let Some(first) = prepared.first() else { return Ok(Vec::new()) };
    let issuer = Arc::clone(&first.request.issuer);
    let digests: Vec<_> = prepared.iter().map(|p| p.linted.digest()).collect();
    // Verified once, below: in the certificate, under the issuer's key.
    let signatures = token.danger_sign_unverified(&issuer.key, &digests, options).await?;
    prepared
        .into_iter()
        .zip(signatures)
        .map(|(prepared, signature)| {
            let Prepared { request, serial, linted, standing: _, key_row, policy } = prepared;
            let certificate =
                linted.assemble(&signature, &request.issuer.public_key).map_err(|error| match error {
                    PkiError::SignatureInvalid => token.signature_failed(&issuer.key).into(),
                    other => CaError::Verification(other),
                })?;
            Ok(Issued { certificate, request, serial, key_row, policy })
        })
        .collect()
}

impl Issued {
    /// Who issued it.
    pub fn issuer(&self) -> &Issuer {
        &self.request.issuer
    }

    /// Its serial number.
    pub const fn serial(&self) -> &SerialNumber {
        &self.serial
    }

    /// Step 9: the outcome: entry, writes and preconditions. Durable before the certificate leaves.
    pub fn outcome(&self, about: &About) -> (EntryDraft, Vec<Change>, Vec<Precondition>) {
        let (entry, mut changes, mut preconditions) = self.register(about);
        let serial = self.serial.as_bytes();
        changes.push(Change::delete(RESERVATIONS, serial));
        if matches!(self.key_row, KeyRow::Renewed(_)) {
            changes.push(Change::put(CERTIFIED_KEYS, self.request.key.public_key.digest(), serial));
        }
        if let Some(issuer) = &self.request.certifies {
            let (change, precondition) = issuer.certified(&self.certificate);
            changes.push(change);
            preconditions.push(precondition);
        }
        (entry, changes, preconditions)
    }

    /// The outcome of a certificate that was made at the founding ceremony, before there was a log for its intent.
    pub fn founding(&self, about: &About) -> (EntryDraft, Vec<Change>, Vec<Precondition>) {
        let (entry, mut changes, mut preconditions) = self.register(about);
        let digest = self.request.key.public_key.digest();
        changes.push(Change::put(CERTIFIED_KEYS, digest, self.serial.as_bytes()));
        preconditions.push(Precondition::Absent { keyspace: CERTIFIED_KEYS, key: digest.to_vec() });
        (entry, changes, preconditions)
    }

    fn register(&self, about: &About) -> (EntryDraft, Vec<Change>, Vec<Precondition>) {
        let serial = self.serial.as_bytes();
        let record = record(&self.request, &self.serial, "issued", self.certificate.der()).encode_to_vec();
        let entry = about
            .draft(EventType::CertificateIssued, Outcome::Done)
            .fact("profile", Fact::fixed_name(self.request.profile.name))
            .fact("serial", serial_fact(&self.serial, about))
            .fact("certificate", Fact::Digest(self.certificate.digest()))
            .fact("issuer_key", Fact::Digest(issuer_key_digest(&self.request.issuer.public_key)))
            .fact("mode", self.request.key.possession.fact())
            .fact("certificate_policy", Fact::Name(self.policy.clone()))
            .fact("profile_rules", Fact::Digest(rules(self.request.profile)));
        let role = self.request.profile.role.as_str();
        let entry = match role == self.request.profile.name {
            true => entry,
            false => entry.fact("certificate_role", Fact::fixed_name(role)),
        };
        let entry = match self.request.accreditation {
            Some(evidence) => entry.fact("accreditation", Fact::Digest(evidence)),
            None => entry,
        };
        let mut changes = vec![Change::put(CERTIFICATES, serial, record)];
        if self.request.profile.role == CertificateRole::Euicc {
            changes.push(Change::put(DEVICE_CERTIFICATES, self.request.holder.as_bytes(), serial));
        } else {
            let key = [holder_prefix(&self.request.holder).as_slice(), serial].concat();
            changes.push(Change::put(HOLDER_CERTIFICATES, key, []));
        }
        if self.request.profile.role == CertificateRole::OcspResponder {
            changes.push(Change::put(RESPONDERS, self.request.issuer.name.as_bytes(), serial));
        }
        let mut preconditions = vec![Precondition::Absent { keyspace: CERTIFICATES, key: serial.to_vec() }];
        preconditions.extend(self.request.renewed_is_unrevoked());
        (entry, changes, preconditions)
    }
}

/// A root that signs itself at the founding ceremony.
#[derive(Clone, Debug)]
pub struct Root {
    /// Its profile, one of the self-signed ones.
    pub profile: &'static CertificateProfile,
    /// Its name in the authority.
    pub name: &'static str,
    /// Values for the subject.
    pub subject: SubjectValues,
    /// Object identifier, where the profile has one.
    pub registered_id: Option<String>,
}

/// A root's certificate: built, linted, signed by its own key, verified. For the founding ceremony.
pub async fn self_sign(
    token: &Token,
    key: &RegisteredKey,
    root: Root,
    crl_base_url: &str,
    now: Timestamp,
    options: CallOptions,
) -> Result<Certificate, CaError> {
    let build_error = |e: PkiError| CaError::refused(ReasonCode::InvalidField, e.to_string());
    let KeyCheck::PublicKey(public_key) = &key.check else { return Err(CaError::Record("key")) };
    let profile = root.profile;
    let not_before = CivilTime::from_timestamp(now).map_err(build_error)?;
    let inputs = CertificateInputs {
        serial: random_serial()?,
        issuer_name_der: pki::subject_name_der(profile, &root.subject).map_err(build_error)?,
        issuer_curve: pki::curve_of(public_key).map_err(build_error)?,
        issuer_key_identifier: None,
        subject: root.subject,
        subject_spki: public_key.clone(),
        not_before,
        not_after: not_before.plus_days(profile.validity_days).map_err(build_error)?,
        registered_id: root.registered_id,
        dns_name: None,
        ip_addresses: Vec::new(),
        crl_urls: crl_urls(profile, crl_base_url, &ListName::full(root.name)),
        permitted: Vec::new(),
    };
    let (_, linted) = build(profile, &inputs)?;
    let signatures = token.sign(&key.key, &[linted.digest()], options).await?;
    let signature = signatures.first().ok_or(CaError::Record("signature"))?;
    linted.assemble(signature, public_key).map_err(CaError::Verification)
}

/// The CRL distribution points of a profile's certificates that name this list.
fn crl_urls(profile: &CertificateProfile, base: &str, list: &ListName) -> Vec<String> {
    list.urls(base).into_iter().take(crl_count(profile)).collect()
}

pub(crate) fn crl_count(profile: &CertificateProfile) -> usize {
    profile
        .extensions
        .iter()
        .find_map(|rule| match rule.value {
            pki::ExtensionValue::CrlDistributionPoints { count } => Some(count),
            _ => None,
        })
        .unwrap_or(0)
}

fn inputs(
    request: &CertificateRequest,
    above: Above,
    serial: SerialNumber,
    crl_urls: Vec<String>,
    now: Timestamp,
) -> Result<CertificateInputs, CaError> {
    let time = |e: PkiError| CaError::refused(ReasonCode::InvalidField, e.to_string());
    let not_before = CivilTime::from_timestamp(now).map_err(time)?;
    Ok(CertificateInputs {
        serial,
        issuer_name_der: above.name_der,
        issuer_curve: above.curve,
        issuer_key_identifier: above.key_identifier,
        subject: request.subject.clone(),
        subject_spki: request.key.public_key.spki().to_vec(),
        not_before,
        not_after: not_before.plus_days(request.profile.validity_days).map_err(time)?,
        registered_id: request.registered_id.clone(),
        dns_name: request.dns_name.clone(),
        ip_addresses: request.ip_addresses.clone(),
        crl_urls,
        permitted: request.permitted.clone(),
    })
}

pub(crate) fn build(
    profile: &CertificateProfile,
    inputs: &CertificateInputs,
) -> Result<(SerialNumber, LintedTbs), CaError> {
    let tbs = pki::build_tbs(profile, inputs)
        .map_err(|e| CaError::refused(ReasonCode::InvalidField, e.to_string()))?;
    let linted = pki::lint(profile, inputs, tbs)
        .map_err(|e| CaError::refused(ReasonCode::LintFailed, e.to_string()))?;
    Ok((inputs.serial.clone(), linted))
}

pub(crate) fn random_serial() -> Result<SerialNumber, CaError> {
    let mut octets = [0; 20];
    getrandom::fill(&mut octets).map_err(CaError::Entropy)?;
    Ok(SerialNumber::from_random(octets))
}

pub(crate) fn key_identifier(issuer: &Certificate) -> Result<[u8; 20], CaError> {
    issuer
        .subject_key_identifier()
        .and_then(|identifier| identifier.try_into().ok())
        .ok_or(CaError::Record("issuer"))
}

fn issuer_key_digest(spki: &[u8]) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    Sha256::digest(spki).into()
}

fn record(
    request: &CertificateRequest,
    serial: &SerialNumber,
    state: &str,
    der: &[u8],
) -> records::Certificate {
    records::Certificate {
        version: 1,
        serial_number: serial.as_bytes().to_vec(),
        issuer: request.issuer.name.clone(),
        profile: request.profile.name.to_owned(),
        subject: request.holder.clone(),
        public_key_digest: request.key.public_key.digest().to_vec(),
        state: state.to_owned(),
        der: der.to_vec(),
        possession_proved: request.key.possession.is_proved(),
        revoked_micros: 0,
        revocation_reason: String::new(),
    }
}

/// SHA-256 of each profile's rules, rendered once.
fn rules(profile: &CertificateProfile) -> Hash {
    static RULES: LazyLock<HashMap<&str, Hash>> =
        LazyLock::new(|| pki::profile::all().map(|profile| (profile.name, profile.digest())).collect());
    RULES.get(profile.name).copied().unwrap_or_else(|| profile.digest())
}

pub(crate) fn serial_fact(serial: &SerialNumber, about: &About) -> Fact {
    serial_octets(serial.as_bytes(), about.object)
}

/// A serial number as entries have it. One that is the EID stands there as the device's pseudonym, since an EID never does.
pub(crate) fn serial_octets(serial: &[u8], object: Pseudonym) -> Fact {
    // A pseudonym reads as an EID once in 10^21.
    Fact::bytes(serial).or_else(|_| Fact::bytes(object.as_bytes())).unwrap_or_else(|_| Fact::withheld())
}

/// Names a device's holder in the register.
pub(crate) fn holder_of(eid: &Eid) -> String {
    eid.to_string()
}

/// Where the certificates of a holder stand in [`HOLDER_CERTIFICATES`].
pub(crate) fn holder_prefix(holder: &str) -> Vec<u8> {
    [holder.as_bytes(), &[0]].concat()
}
