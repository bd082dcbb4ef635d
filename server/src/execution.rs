//! What each kind of protected operation does. [`Execution::check`] runs at the request and again at the execution.

use std::collections::HashSet;
use std::sync::Arc;

use audit::{EntryDraft, EventType, Fact, Outcome};
use ca::{About, CertificateRequest, Issued, Issuers, Prepared, Reservation, SubjectKey};
use domain::{Curve, Ein, PrincipalId, ReasonCode, Role, Timestamp};
use hsm::{KeyCheck, Priority};
use kms::{Allowance, GrantTerms};
use kms::{Turn, Turns};
use pki::{PublicKey, TransportPublicKey};
use proto::v1;
use proto::v1::operation::Kind;
use store::{Change, Commit, Precondition};

use crate::accreditation;
use crate::authority::{Accreditation, Authority, Credential, Party, Person};
use crate::certification::NewIssuer;
use crate::deeds::Deed;
use crate::gate::Call;
use crate::init::{OPERATOR_ISSUER, check_name, client_expiry, client_request};
use crate::renewal::Renewal;
use crate::status::ServiceError;
use crate::tokens::own_call;

/// Most single devices of one grant.
const GRANT_EIDS_MAX: usize = 1_000;
/// Most ranges of a grant or a party.
const RANGES_MAX: usize = 64;
/// Longest grant: two years (SP 800-57 Part 1, authorisation keys).
const GRANT_SECONDS_MAX: i64 = 2 * 366 * 86_400;
/// Largest quota.
const QUOTA_MAX: u64 = 100_000_000;

/// Carries out operations that were approved.
pub(crate) struct Execution {
    pub(crate) authority: Arc<Authority>,
    pub(crate) ca: ca::Engines,
    pub(crate) kms: kms::Engines,
    pub(crate) rotations: Arc<Turns>,
    /// The token of SM-DP+ keys, where there is one.
    pub(crate) rsp_token: Option<hsm::Token>,
}

/// What a deed leaves: to be committed together with the operation's end.
pub(crate) struct Done {
    pub(crate) commit: Commit,
    pub(crate) outcome: v1::OperationOutcome,
    /// The turn of the rotation that it changes.
    pub(crate) turn: Option<Turn>,
}

/// A deed, checked.
enum Plan {
    Person { person: Person, tls: SubjectKey },
    Party { party: Party, tls: SubjectKey },
    Issuer(Box<NewIssuer>),
    Certificate(Box<CertificateRequest>),
    Grant(GrantTerms),
    Credential(Renewal),
    Other(Deed),
}

impl Execution {
    /// Whether the operation could be carried out as things are.
    pub(crate) fn check(&self, kind: &Kind, now: Timestamp) -> Result<(), ServiceError> {
        self.plan(kind, now).map(drop)
    }

    /// Checks again and carries out, up to the commit.
    pub(crate) async fn execute(
        &self,
        call: &Call,
        operation: [u8; 32],
        kind: &Kind,
    ) -> Result<Done, ServiceError> {
        let reference = Fact::Digest(operation);
        let pseudonyms = &call.pseudonyms;
        let actor = pseudonyms.principal(&call.caller.principal());
        let role = call.caller.role();
        match self.plan(kind, call.now)? {
            Plan::Person { person, tls } => {
                let object = pseudonyms.person(&person.name);
                let about = About { role: Some(role), actor, object };
                // A person may hold several roles; the certificate names the first.
                let named = person.roles.first().copied().unwrap_or(Role::Approver);
                let issued = self.issue_client(&person.name, named, tls, &about, call.now).await?;
                let entry = EntryDraft::new(EventType::PersonEnrolled, Outcome::Done)
                    .fact("operation", reference.clone())
                    .role(role)
                    .actor(actor)
                    .object(object)
                    .fact("role", Fact::fixed_name(named.as_str()))
                    .fact("key", Fact::Digest(audit::sha256(&person.approval_key)))
                    .fact(
                        "principal",
                        Fact::Pseudonym(pseudonyms.principal(&person.credentials[0].principal)),
                    );
                Ok(self.certified(&issued, &about, entry, person.create())?)
            }
            Plan::Party { party, tls } => {
                let object = pseudonyms.party(&party.name);
                let about = About { role: Some(role), actor, object };
                let issued = self.issue_client(&party.name, party.role, tls, &about, call.now).await?;
                let mut entry = EntryDraft::new(EventType::PartyEnrolled, Outcome::Done)
                    .fact("operation", reference.clone())
                    .role(role)
                    .actor(actor)
                    .object(object)
                    .fact("role", Fact::fixed_name(party.role.as_str()))
                    .fact(
                        "principal",
                        Fact::Pseudonym(pseudonyms.principal(&party.credentials[0].principal)),
                    );
                if party.role == Role::Eum {
                    entry = entry
                        .fact("quota", Fact::Number(party.device_quota))
                        .fact("ranges", Fact::Number(party.eins.len() as u64))
                        .fact("transport_key", Fact::Digest(audit::sha256(&party.transport_key)));
                }
                if let Some(point) = &party.encryption_key {
                    entry = entry.fact(
                        "encryption_key",
                        Fact::Digest(audit::sha256(&pki::ec_spki(Curve::P256, point))),
                    );
                }
                if let Some(evidence) = &party.accreditation {
                    entry = accreditation::facts(entry, evidence);
                }
                Ok(self.certified(&issued, &about, entry, party.create())?)
            }
            Plan::Issuer(new) => {
                let NewIssuer { name, party, key, adoption } = *new;
                // Every worker of the token resolves the key, reads its template back and tries it.
                self.ca.token.add_key(key.key.clone()).await?;
                let (key_change, key_new) = key.create();
                let certificate = adoption.as_ref().map(|adoption| &adoption.certificate);
                // With a certificate, or with a key that gets one from an anchor: it was an issuer before.
                let came = adoption.is_some() || key.key.role.is_adopted();
                let adopts_until = came.then(|| call.now.plus_seconds(ca::ADOPTION_SECONDS));
                let (change, is_new) =
                    Issuers::create(&name, &party, &key.key.key.label, certificate, adopts_until);
                let entry = EntryDraft::new(EventType::IssuerRegistered, Outcome::Done)
                    .fact("operation", reference.clone())
                    .role(role)
                    .actor(actor)
                    .object(pseudonyms.party(if party.is_empty() { &name } else { &party }))
                    .fact("issuer", Fact::name(&name)?);
                let entry = match &key.key.check {
                    KeyCheck::PublicKey(spki) => entry.fact("issuer_key", Fact::Digest(audit::sha256(spki))),
                    KeyCheck::CheckValue(_) => entry,
                };
                let entry = entry.fact("kind", Fact::fixed_name(key.key.role.as_str()));
                let mut commit = Commit {
                    entries: vec![entry],
                    changes: vec![key_change, change],
                    preconditions: vec![key_new, is_new],
                };
                if let Some(adoption) = adoption {
                    commit.entries = commit.entries.into_iter().map(|e| adoption.facts(e)).collect();
                    let (changes, preconditions) = adoption.create();
                    commit.changes.extend(changes);
                    commit.preconditions.extend(preconditions);
                }
                Ok(Done { commit, outcome: v1::OperationOutcome::default(), turn: None })
            }
            Plan::Certificate(request) => {
                let about = About { role: Some(role), actor, object: pseudonyms.party(&request.holder) };
                let issued = self.issue(*request, &about, call.now).await?;
                let (entry, changes, preconditions) = issued.outcome(&about);
                let entry = entry.fact("operation", reference.clone());
                let outcome = self.outcome(&issued)?;
                Ok(Done {
                    commit: Commit { entries: vec![entry], changes, preconditions },
                    outcome,
                    turn: None,
                })
            }
            Plan::Credential(renewal) => self.renew_credential(call, operation, renewal).await,
            Plan::Other(deed) => self.perform(call, operation, deed).await,
            Plan::Grant(terms) => {
                let entry = EntryDraft::new(EventType::GrantCreated, Outcome::Done)
                    .fact("operation", reference.clone())
                    .role(role)
                    .actor(actor)
                    .object(pseudonyms.party(&terms.provisioner))
                    .fact("grant", Fact::bytes(&terms.identifier())?)
                    .fact("purpose", Fact::name(&terms.purpose)?)
                    .fact("basis", Fact::Digest(audit::sha256(terms.lawful_basis.as_bytes())))
                    .fact("devices", Fact::Number(terms.eids.len() as u64))
                    .fact("ranges", Fact::Number(terms.eins.len() as u64))
                    .fact("expires", Fact::Time(terms.expires));
                let entry = allowance_facts(entry, &terms.allowance)?;
                let (change, is_new) = terms.create();
                let commit =
                    Commit { entries: vec![entry], changes: vec![change], preconditions: vec![is_new] };
                Ok(Done { commit, outcome: v1::OperationOutcome::default(), turn: None })
            }
        }
    }

    fn plan(&self, kind: &Kind, now: Timestamp) -> Result<Plan, ServiceError> {
        match kind {
            Kind::EnrolPerson(person) => self.plan_person(person, now),
            Kind::EnrolParty(party) => self.plan_party(party, now),
            Kind::RegisterIssuer(issuer) => self.plan_issuer(issuer, now).map(Box::new).map(Plan::Issuer),
            Kind::RegisterResponder(responder) => self.plan_responder(responder).map(Plan::Other),
            Kind::IssueCertificate(certificate) => {
                self.plan_certificate(certificate, now).map(Box::new).map(Plan::Certificate)
            }
            Kind::CreateGrant(grant) => self.plan_grant(grant, now),
            Kind::RestoreDevice(restore) => self.plan_restore(restore).map(Plan::Other),
            Kind::StartRotation(start) => self.plan_rotation(start).map(Plan::Other),
            Kind::RollBackRotation(back) => self.plan_roll_back(back).map(Plan::Other),
            Kind::RevokeCertificate(revoke) => self.plan_revocation(revoke, now).map(Plan::Other),
            Kind::RevokeCertificates(revoke) => self.plan_revocations(revoke, now).map(Plan::Other),
            Kind::ReleaseCertificate(release) => self.plan_release(release).map(Plan::Other),
            Kind::ChangeStanding(change) => self.plan_standing(change).map(Plan::Other),
            Kind::RegisterAnchor(anchor) => {
                self.plan_anchor(anchor, now).map(Deed::elsewhere).map(Plan::Other)
            }
            Kind::RetireAnchor(retire) => self.plan_anchor_end(retire).map(Deed::elsewhere).map(Plan::Other),
            Kind::ImportCertificate(import) => {
                self.plan_import(import, now).map(Deed::elsewhere).map(Plan::Other)
            }
            Kind::RecordAccreditation(record) => {
                let recording = accreditation::check(&self.authority, record, now)?;
                Ok(Plan::Other(Deed::Accreditation(recording)))
            }
            Kind::RegisterMaster(master) => self.plan_master(master, now).map(Deed::custody).map(Plan::Other),
            Kind::RegisterStorageKeys(keys) => {
                self.plan_storage_keys(keys, now).map(Deed::custody).map(Plan::Other)
            }
            Kind::RegisterOceKey(key) => self.plan_oce_key(key).map(Deed::custody).map(Plan::Other),
            Kind::RegisterTransportKey(key) => {
                self.plan_transport_key(key, now).map(Deed::custody).map(Plan::Other)
            }
            Kind::RetireTransportKey(key) => {
                self.plan_retirement(key, now).map(Deed::custody).map(Plan::Other)
            }
            Kind::ExportKeyset(export) => self.plan_export(export, now).map(Deed::custody).map(Plan::Other),
            Kind::RegisterImportKey(key) => self.plan_import_key(key).map(Deed::custody).map(Plan::Other),
            Kind::RenewCredential(renew) => self.plan_renewal(renew, now).map(Plan::Credential),
            Kind::RegisterRspKey(key) => self.plan_rsp_key(key).map(Plan::Other),
            Kind::ChangeKeysetState(change) => {
                self.plan_keyset_change(change, now).map(|deed| Plan::Other(Deed::Keyset(deed)))
            }
            Kind::MarkCompromised(mark) => {
                self.plan_mark(mark, now).map(|deed| Plan::Other(Deed::Keyset(deed)))
            }
        }
    }

    fn plan_person(&self, person: &v1::EnrolPerson, now: Timestamp) -> Result<Plan, ServiceError> {
        self.check_new_name(&person.name)?;
        let roles = person.roles.iter().map(|role| role_of(*role)).collect::<Result<Vec<_>, _>>()?;
        let distinct: HashSet<_> = roles.iter().collect();
        if roles.is_empty() || distinct.len() != roles.len() {
            return Err(invalid("roles must name at least one role, each once"));
        }
        for role in &roles {
            if matches!(role, Role::Eum | Role::Provisioner) {
                return Err(invalid("a person is officer, approver or auditor"));
            }
            if roles.iter().any(|other| role.conflicts_with(*other)) {
                return Err(ServiceError::refused(
                    ReasonCode::PolicyViolation,
                    "no person holds conflicting roles",
                ));
            }
        }
        let tls = SubjectKey::from_request(&person.tls_csr, self.ca.known_keys)?;
        let approval = SubjectKey::from_request(&person.approval_csr, self.ca.known_keys)?;
        if tls.public_key() == approval.public_key() {
            return Err(ServiceError::refused(
                ReasonCode::WeakKey,
                "the approval key must be another than the TLS key",
            ));
        }
        check_person_key(&approval, "approval", &[Curve::P256])?;
        // Two persons with one key would be one person who approves alone.
        let spki = approval.public_key().spki();
        if self.authority.persons()?.iter().any(|other| other.approval_key == spki) {
            return Err(ServiceError::refused(
                ReasonCode::DuplicateKey,
                "this approval key is registered already; each person has one of their own",
            ));
        }
        let person = Person {
            name: person.name.clone(),
            roles,
            credentials: vec![self.new_credential(&tls, now)?],
            approval_key: approval.public_key().spki().to_vec(),
            suspended: false,
            version: 0,
        };
        Ok(Plan::Person { person, tls })
    }

    fn plan_party(&self, party: &v1::EnrolParty, now: Timestamp) -> Result<Plan, ServiceError> {
        self.check_new_name(&party.name)?;
        let role = role_of(party.role)?;
        check_text("organization", &party.organization, 64)?;
        if party.country.len() != 2 || !party.country.bytes().all(|c| c.is_ascii_uppercase()) {
            return Err(invalid("country is two capital letters"));
        }
        let tls = SubjectKey::from_request(&party.tls_csr, self.ca.known_keys)?;
        let mut planned = Party {
            name: party.name.clone(),
            role,
            organization: party.organization.clone(),
            country: party.country.clone(),
            credentials: vec![self.new_credential(&tls, now)?],
            eins: Vec::new(),
            device_quota: 0,
            transport_key: Vec::new(),
            encryption_key: None,
            accreditation: party
                .accreditation
                .as_ref()
                .map(|accreditation| Accreditation::parse(accreditation, now))
                .transpose()?,
            suspended: false,
            version: 0,
        };
        match role {
            Role::Eum => {
                planned.eins = self.check_ranges(&party.eins)?;
                if !(1..=QUOTA_MAX).contains(&party.device_quota) {
                    return Err(invalid("device_quota must be 1 to 100,000,000"));
                }
                planned.device_quota = party.device_quota;
                TransportPublicKey::parse(&party.transport_key).map_err(|e| {
                    ServiceError::refused(ReasonCode::WeakKey, format!("the transport key is refused: {e}"))
                })?;
                planned.transport_key.clone_from(&party.transport_key);
            }
            Role::Provisioner => {
                let (key, point) = PublicKey::parse(&party.encryption_key, self.ca.known_keys)
                    .and_then(|key| key.p256_point().map(|point| (key, point)))
                    .map_err(|e| {
                        let message = format!("the encryption key is refused: {e}");
                        ServiceError::refused(ReasonCode::WeakKey, message)
                    })?;
                if key == *tls.public_key() {
                    return Err(ServiceError::refused(
                        ReasonCode::WeakKey,
                        "the encryption key must be another than the TLS key",
                    ));
                }
                planned.encryption_key = Some(point);
            }
            Role::Officer | Role::Approver | Role::Auditor => {
                return Err(invalid("a party is eum or provisioner"));
            }
        }
        Ok(Plan::Party { party: planned, tls })
    }

    fn plan_grant(&self, grant: &v1::CreateGrant, now: Timestamp) -> Result<Plan, ServiceError> {
        check_name("name", &grant.name)?;
        check_name("purpose", &grant.purpose)?;
        check_text("lawful_basis", &grant.lawful_basis, 200)?;
        let provisioner = self.party(&grant.provisioner, Role::Provisioner)?;
        let eids = grant
            .eids
            .iter()
            .map(|eid| {
                eid.parse().map_err(|e| ServiceError::refused(ReasonCode::InvalidEid, format!("{eid}: {e}")))
            })
            .collect::<Result<HashSet<_>, _>>()?;
        let eins = grant.eins.iter().map(|ein| parse_ein(ein)).collect::<Result<Vec<_>, _>>()?;
        if eids.is_empty() && eins.is_empty() {
            return Err(invalid("a grant names devices or ranges; an empty one grants nothing"));
        }
        if eids.len() > GRANT_EIDS_MAX || eins.len() > RANGES_MAX {
            return Err(invalid("a grant names at most 1,000 devices and 64 ranges"));
        }
        let expires = grant
            .expires
            .as_ref()
            .map(|time| Timestamp::from_seconds(time.seconds))
            .ok_or_else(|| invalid("expires is missing"))?;
        if expires <= now || expires > now.plus_seconds(GRANT_SECONDS_MAX) {
            return Err(invalid("expires must lie ahead, at most two years"));
        }
        Ok(Plan::Grant(GrantTerms {
            name: grant.name.clone(),
            provisioner: provisioner.name.clone(),
            eids,
            eins,
            purpose: grant.purpose.clone(),
            lawful_basis: grant.lawful_basis.clone(),
            expires,
            allowance: Allowance::parse(grant)?,
        }))
    }

    pub(crate) async fn issue_client(
        &self,
        name: &str,
        role: Role,
        key: SubjectKey,
        about: &About,
        now: Timestamp,
    ) -> Result<Issued, ServiceError> {
        let issuer = self.ca.issuers.find(self.ca.store.as_ref(), OPERATOR_ISSUER)?;
        self.issue(client_request(&issuer, name, role, key), about, now).await
    }

    async fn issue(
        &self,
        request: CertificateRequest,
        about: &About,
        now: Timestamp,
    ) -> Result<Issued, ServiceError> {
        issue(&self.ca, request, about, now).await
    }

    pub(crate) fn certified(
        &self,
        issued: &Issued,
        about: &About,
        first: EntryDraft,
        (mut changes, mut preconditions): (Vec<Change>, Vec<Precondition>),
    ) -> Result<Done, ServiceError> {
        let (entry, certificate_changes, certificate_preconditions) = issued.outcome(about);
        changes.extend(certificate_changes);
        preconditions.extend(certificate_preconditions);
        let outcome = self.outcome(issued)?;
        Ok(Done {
            commit: Commit { entries: vec![first, entry], changes, preconditions },
            outcome,
            turn: None,
        })
    }

    fn outcome(&self, issued: &Issued) -> Result<v1::OperationOutcome, ServiceError> {
        Ok(v1::OperationOutcome {
            certificate: issued.certificate.der().to_vec(),
            // A root has none above itself.
            issuer_certificate: issued
                .issuer()
                .certificate
                .as_ref()
                .unwrap_or(&issued.certificate)
                .der()
                .to_vec(),
        })
    }

    pub(crate) fn party(&self, name: &str, role: Role) -> Result<Arc<Party>, ServiceError> {
        match self.authority.party(name)? {
            Some(party) if party.role == role => Ok(party),
            _ => Err(ServiceError::refused(
                ReasonCode::UnknownParty,
                format!("there is no {} of this name", role.as_str()),
            )),
        }
    }

    fn check_new_name(&self, name: &str) -> Result<(), ServiceError> {
        check_name("name", name)?;
        if self.authority.party(name)?.is_some() || self.authority.person(name)?.is_some() {
            return Err(ServiceError::refused(ReasonCode::Conflict, "a person or party of this name exists"));
        }
        Ok(())
    }

    pub(crate) fn new_credential(
        &self,
        key: &SubjectKey,
        now: Timestamp,
    ) -> Result<Credential, ServiceError> {
        check_person_key(key, "TLS", &[Curve::P256, Curve::P384])?;
        let principal = PrincipalId(key.public_key().digest());
        if self.authority.actor(&principal)?.is_some() {
            return Err(ServiceError::refused(
                ReasonCode::DuplicateKey,
                "this TLS key is registered already",
            ));
        }
        Ok(Credential { principal, not_after: client_expiry(now) })
    }

    fn check_ranges(&self, ranges: &[String]) -> Result<Vec<Ein>, ServiceError> {
        if ranges.is_empty() || ranges.len() > RANGES_MAX {
            return Err(invalid("an EUM has 1 to 64 EID ranges"));
        }
        let eins = ranges.iter().map(|ein| parse_ein(ein)).collect::<Result<Vec<_>, _>>()?;
        let parties = self.authority.parties()?;
        let taken = parties.iter().flat_map(|party| &party.eins);
        for (at, ein) in eins.iter().enumerate() {
            if taken.clone().chain(&eins[..at]).any(|other| other.overlaps(ein)) {
                return Err(ServiceError::refused(
                    ReasonCode::PolicyViolation,
                    format!("the range {ein} overlaps one that is delegated already"),
                ));
            }
        }
        Ok(eins)
    }
}

/// What a grant allows beyond the strict default; a number of 1 means that it does.
fn allowance_facts(mut entry: EntryDraft, allowance: &Allowance) -> Result<EntryDraft, ServiceError> {
    let protocols: Vec<u8> = allowance.protocols().iter().map(|protocol| protocol.code()).collect();
    entry = entry.fact("protocols", Fact::bytes(&protocols)?);
    if allowance.without_device_proof() {
        entry = entry.fact("without_device_proof", Fact::Number(1));
    }
    if allowance.key_agreement() {
        entry = entry.fact("key_agreement", Fact::Number(1));
    }
    if allowance.revoked_certificates() != kms::RevokedCertificates::Block {
        entry = entry.fact("revocation_policy", Fact::fixed_name(allowance.revoked_certificates().as_str()));
    }
    if allowance.tls_delivery() {
        entry = entry.fact("tls_delivery", Fact::Number(1));
    }
    if allowance.packets_per_minute() > 0 {
        entry = entry
            .fact("tars", Fact::Number(allowance.tars().len() as u64))
            .fact("instructions", Fact::Number(allowance.instructions().len() as u64))
            .fact("packets_per_minute", Fact::Number(u64::from(allowance.packets_per_minute())));
    }
    Ok(entry)
}

/// Prepares, commits the intent, has the token sign, verifies. When the token fails the intent is marked so. The outcome is the
/// caller's to commit.
pub(crate) async fn issue(
    engines: &ca::Engines,
    request: CertificateRequest,
    about: &About,
    now: Timestamp,
) -> Result<Issued, ServiceError> {
    let prepared: Prepared = ca::prepare(engines, request, now)?;
    let (entry, changes, preconditions) = prepared.intent(about);
    let receipt = engines.store.commit(Commit { entries: vec![entry], changes, preconditions }).await?;
    let reservation = Reservation::of(&prepared, receipt.first_index);
    match ca::sign(&engines.token, vec![prepared], own_call(Priority::Normal)).await {
        Ok(issued) => issued.into_iter().next().ok_or(ServiceError::Internal("nothing was issued")),
        Err(error) => {
            let error = ServiceError::from(error);
            let reason = error.verdict().refusal.reason;
            let (entry, changes, preconditions) = reservation.fail(reason, about.role, about.object);
            // Should this fail too, the next start marks it.
            let _ = engines.store.commit(Commit { entries: vec![entry], changes, preconditions }).await;
            Err(error)
        }
    }
}

/// Approvals are on P-256, TLS on that or P-384: what every tool of the field verifies.
fn check_person_key(key: &SubjectKey, kind: &str, curves: &[Curve]) -> Result<(), ServiceError> {
    let curve = key.public_key().curve();
    if curves.contains(&curve) {
        return Ok(());
    }
    let needed: Vec<_> = curves.iter().map(|curve| curve.as_str()).collect();
    Err(ServiceError::refused(
        ReasonCode::WeakKey,
        format!("the {kind} key is on {curve}, where {} is needed", needed.join(" or ")),
    ))
}

fn role_of(number: i32) -> Result<Role, ServiceError> {
    proto::options::v1::Role::try_from(number)
        .ok()
        .and_then(proto::domain_role)
        .ok_or_else(|| invalid("an unknown role"))
}

pub(crate) fn parse_ein(text: &str) -> Result<Ein, ServiceError> {
    text.parse().map_err(|e| ServiceError::refused(ReasonCode::InvalidField, format!("{text}: {e}")))
}

pub(crate) fn check_text(field: &'static str, text: &str, characters_max: usize) -> Result<(), ServiceError> {
    let count = text.chars().count();
    if count == 0 || count > characters_max || text.chars().any(char::is_control) {
        return Err(invalid(&format!("{field} has 1 to {characters_max} printable characters")));
    }
    Ok(())
}

pub(crate) fn invalid(message: &str) -> ServiceError {
    ServiceError::refused(ReasonCode::InvalidField, message)
}
