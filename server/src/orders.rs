//! An order's stream: cut into chunks of at most a thousand devices, each reserved, keyed, certified, written and
//! registered before its results leave (`docs/cycles/issuance.md`). Key side and certificate side meet here.

mod uncertified;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use audit::{EntryDraft, Fact, Outcome, Pseudonym};
use ca::{About, CertificateRequest, Issued, Issuer, Prepared, Reservation, SubjectKey};
use domain::{Curve, Eid, EuiccCurve, OrderFormat, ReasonCode, Refusal};
use hsm::{CallOptions, Priority};
use kms::{
    ChunkKeyPairs, Fleet, FleetKeys, KeyMode, LineCheck, Made, Manufacturer, OrderLine, OrderTerms,
    OrderedDevices, Orders, OutputFiles, ReservedLine,
};
use pki::{Certificate, CertificateProfile, CertificateRole, SubjectValues};
use proto::v1;
use sha2::{Digest, Sha256};
use store::Commit;

use crate::accreditation;
use crate::authority::Party;
use crate::gate::{Call, Gate, request_digest};
use crate::status::ServiceError;

/// Devices in one chunk: one job of the token, one transport key, one output file.
pub(crate) const CHUNK_DEVICES_MAX: usize = hsm::ORDER_CHUNK_DEVICES_MAX;
/// How often a chunk is tried again when it lost a race over a record.
const ATTEMPTS_MAX: usize = 4;
/// Time a chunk may take in the tokens.
const CHUNK_TIME: Duration = Duration::from_secs(60);

/// What orders work with.
pub(crate) struct OrderDesk {
    pub(crate) kms: kms::Engines,
    pub(crate) ca: ca::Engines,
    pub(crate) files: OutputFiles,
    /// Of manufacturers: their devices are counted one chunk after the other.
    pub(crate) turns: kms::Turns,
}

/// One order in progress.
pub(crate) struct OrderStream {
    gate: Arc<Gate>,
    desk: Arc<OrderDesk>,
    call: Call,
    manufacturer: Manufacturer,
    terms: OrderTerms,
    /// Absent for further keysets: nothing is certified.
    certification: Option<Certification>,
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
}

/// What the certificates of an order's devices are made with.
struct Certification {
    country: String,
    organization: String,
    issuer: Arc<Issuer>,
    profile: &'static CertificateProfile,
    /// The curve of the issuer's key, and so of every key that it certifies, where key pairs are made on it.
    key_pairs: Option<EuiccCurve>,
    accreditation: audit::Hash,
}

/// A line that may be produced, with its certificate ready to be signed.
struct Ready {
    line: OrderLine,
    prepared: Prepared,
    object: Pseudonym,
}

impl OrderStream {
    pub(crate) fn open(
        gate: Arc<Gate>,
        desk: Arc<OrderDesk>,
        call: Call,
        header: &v1::OrderHeader,
    ) -> Result<Self, ServiceError> {
        let party = Arc::clone(call.caller.party()?);
        let mut manufacturer = manufacturer(&party, &call)?;
        if let Some(spki) = crate::custody::order_key(desk.kms.store.as_ref(), &party.name, call.now)? {
            manufacturer.transport_key_bits = transport_key_bits(&spki)?;
            manufacturer.transport_key = spki;
        }
        let terms = terms(header)?;
        let registered = Sha256::digest(&manufacturer.transport_key);
        if !header.transport_key.is_empty() && header.transport_key[..] != registered[..] {
            return Err(ServiceError::refused(
                ReasonCode::InvalidField,
                "your registered transport key is another one than the order names",
            ));
        }
        let accreditation = accreditation::in_force(&party, call.now)?.digest();
        let certification = match &terms.devices {
            OrderedDevices::Registered | OrderedDevices::MovedIn(_) => None,
            OrderedDevices::New => {
                let issuer = desk.ca.issuers.find(desk.ca.store.as_ref(), &terms.issuer)?;
                if issuer.party != party.name {
                    let message = "you have no issuer of this name";
                    return Err(ServiceError::refused(ReasonCode::UnknownIssuer, message));
                }
                let profile = euicc_profile(issuer.certificate()?, &terms.certificate_profile)?;
                let spki = issuer.certificate()?.spki();
                let curve = pki::curve_of(spki)
                    .map_err(|_| ServiceError::Internal("an issuer's key does not read"))?;
                let key_pairs = EuiccCurve::try_from(curve).ok();
                let (country, organization) = (party.country.clone(), party.organization.clone());
                Some(Certification { country, organization, issuer, profile, key_pairs, accreditation })
            }
        };
        Orders::open(&desk.kms, &manufacturer, &terms, &call.pseudonyms, call.now)?;
        Ok(Self { gate, desk, manufacturer, terms, certification, call, accepted: 0, refused: 0 })
    }

    /// Produces a chunk; the results are durable when they are returned, in the order of the lines.
    pub(crate) async fn chunk(
        &mut self,
        lines: Vec<v1::OrderLine>,
    ) -> Result<Vec<v1::OrderLineResult>, ServiceError> {
        for attempt in 1.. {
            // The order is long; the manufacturer may have been suspended since the chunk before, or its accreditation
            // may have ended.
            self.gate.admit_again(&mut self.call)?;
            let evidence = accreditation::in_force(self.call.caller.party()?, self.call.now)?.digest();
            let outcome = match &mut self.certification {
                Some(certification) => {
                    certification.accreditation = evidence;
                    self.try_chunk(&lines).await
                }
                None => match self.terms.devices.clone() {
                    OrderedDevices::MovedIn(fleet) => self.try_moving_in(&fleet, &lines).await,
                    OrderedDevices::New | OrderedDevices::Registered => {
                        self.try_further_keysets(&lines).await
                    }
                },
            };
            match outcome {
                // Others may have taken the room of the quota: then each line is told so when it is looked at again.
                Err(error)
                    if (error.lost_race() || error.is_for(ReasonCode::QuotaExceeded))
                        && attempt < ATTEMPTS_MAX => {}
                outcome => return outcome,
            }
        }
        Err(ServiceError::Internal("no attempt was made"))
    }

    async fn try_chunk(&mut self, lines: &[v1::OrderLine]) -> Result<Vec<v1::OrderLineResult>, ServiceError> {
        let desk = Arc::clone(&self.desk);
        let manufacturer = self.manufacturer.clone();
        let terms = self.terms.clone();
        let orders = Orders::open(&desk.kms, &manufacturer, &terms, &self.call.pseudonyms, self.call.now)?;
        let mut results = Vec::with_capacity(lines.len());
        let mut ready: Vec<Ready> = Vec::new();
        let mut refusals: Vec<EntryDraft> = Vec::new();
        let made_keys = self.make_key_pairs(&orders, lines).await?;
        // 2. to 5. Parse, check, prepare; a bad line fails alone.
        let mut seen = (HashSet::new(), HashSet::new(), HashSet::new());
        for line in lines {
            match self.prepare(&orders, line, ready.len() as u64, made_keys.as_ref(), &mut seen) {
                Ok(Prepare::New(new)) => ready.push(*new),
                Ok(Prepare::Repeated(certificate)) => {
                    results.push(accepted(line.line, certificate));
                    self.accepted += 1;
                }
                Err(error) => {
                    let verdict = error.verdict();
                    if matches!(verdict.outcome, Outcome::Failed(_)) {
                        return Err(error);
                    }
                    refusals.push(self.refusal(line, &verdict.refusal, verdict.object));
                    results.push(refused(line.line, verdict.refusal));
                    self.refused += 1;
                }
            }
        }
        if ready.is_empty() {
            if !refusals.is_empty() {
                desk.kms.store.commit(Commit::of(refusals)).await?;
            }
            results.sort_by_key(|result| result.line);
            return Ok(results);
        }
        // 6. Serial numbers, devices and quota are durable before a token is asked.
        let (reserved, prepared, reservations, objects) = self.reserve(&orders, ready, refusals).await?;
        // 7. and 8. Keys and signatures, side by side in their tokens.
        let options = CallOptions { deadline: Instant::now() + CHUNK_TIME, priority: Priority::Bulk };
        let made =
            tokio::join!(orders.make_keys(&reserved, options), ca::sign(&desk.ca.token, prepared, options));
        let outcome = match made {
            (Ok(keys), Ok(issued)) => self
                .finish(&orders, &reserved, &issued, &objects, &keys, made_keys.as_ref())
                .await
                .map(|()| issued),
            (Err(error), _) => Err(error.into()),
            (_, Err(error)) => Err(error.into()),
        };
        match outcome {
            Ok(issued) => {
                self.accepted += issued.len() as u64;
                results.extend(
                    reserved
                        .iter()
                        .zip(issued)
                        .map(|(r, i)| accepted(r.line.line, i.certificate.der().to_vec())),
                );
                results.sort_by_key(|result| result.line);
                Ok(results)
            }
            Err(error) => {
                // Nothing left: what was reserved is given back. Should this fail too, the next start does it.
                let _ = self.give_back(&orders, &reserved, &reservations, &objects, &error).await;
                Err(error)
            }
        }
    }

    /// 2b. Key pairs for the lines that ask for one and may be produced. Nothing of them is durable: those of lines that
    /// are refused further on are gone with this chunk.
    async fn make_key_pairs(
        &self,
        orders: &Orders<'_>,
        lines: &[v1::OrderLine],
    ) -> Result<Option<ChunkKeyPairs>, ServiceError> {
        let Some(curve) = self.certification.as_ref().and_then(|certification| certification.key_pairs)
        else {
            return Ok(None);
        };
        let mut wanted = BTreeSet::new();
        for line in lines {
            let Some(v1::order_line::Key::MakeKeyPair(asked)) = line.key else { continue };
            // A line that asks for another curve than its issuer's is refused by itself, further on.
            let asked = Curve::from_code(u32::try_from(asked).unwrap_or(u32::MAX));
            let (true, Ok(eid)) = (asked == Ok(curve.curve()), line.eid.parse()) else { continue };
            let order_line = OrderLine { line: line.line, eid, digest: request_digest("order-line", line) };
            if line.line > 0 && matches!(orders.check(&order_line, wanted.len() as u64)?, LineCheck::New) {
                wanted.insert(line.line);
            }
        }
        let wanted: Vec<u64> = wanted.into_iter().collect();
        let options = CallOptions { deadline: Instant::now() + CHUNK_TIME, priority: Priority::Bulk };
        Ok(orders.make_key_pairs(curve, &wanted, options).await?)
    }

    fn prepare(
        &self,
        orders: &Orders<'_>,
        line: &v1::OrderLine,
        taken: u64,
        made_keys: Option<&ChunkKeyPairs>,
        (eids, keys, numbers): &mut (HashSet<Eid>, HashSet<[u8; 32]>, HashSet<u64>),
    ) -> Result<Prepare, ServiceError> {
        let object = |eid: &Eid| self.call.pseudonyms.device(eid);
        let eid: Eid = line
            .eid
            .parse()
            .map_err(|e: domain::EidError| ServiceError::refused(ReasonCode::InvalidEid, e.to_string()))?;
        let about = |refusal: Refusal| {
            ServiceError::Kms(kms::KmsError::Refused(kms::Refused { refusal, object: Some(object(&eid)) }))
        };
        if line.line == 0 || !numbers.insert(line.line) {
            return Err(about(Refusal::new(
                ReasonCode::InvalidField,
                "line numbers start at 1 and are unique",
            )));
        }
        let order_line = OrderLine { line: line.line, eid, digest: request_digest("order-line", line) };
        match orders.check(&order_line, taken)? {
            LineCheck::New => {}
            LineCheck::Repeated(serial) => {
                let found = ca::find_by_serial(self.desk.ca.store.as_ref(), &serial, "")?
                    .ok_or(ServiceError::Internal("a produced line has no certificate"))?;
                return Ok(Prepare::Repeated(found.der));
            }
            LineCheck::Refused(refusal) => return Err(about(refusal)),
        }
        let with_object = |error: ServiceError| match error {
            ServiceError::Ca(ca::CaError::Refused(refused)) => about(refused.refusal),
            other => other,
        };
        let key = match &line.key {
            Some(v1::order_line::Key::PublicKey(spki)) => {
                SubjectKey::without_proof(spki, self.desk.ca.known_keys)
            }
            Some(v1::order_line::Key::Csr(csr)) => SubjectKey::from_request(csr, self.desk.ca.known_keys),
            Some(v1::order_line::Key::MakeKeyPair(_)) => {
                let made = made_keys.and_then(|keys| keys.public_key(line.line)).ok_or_else(|| {
                    about(Refusal::new(
                        ReasonCode::InvalidField,
                        "key pairs are made on the curve of the order's issuer, when that is P-256 or brainpoolP256r1",
                    ))
                })?;
                SubjectKey::made_in_token(made, self.desk.ca.known_keys)
            }
            None => {
                return Err(about(Refusal::new(
                    ReasonCode::InvalidField,
                    "a line has a public_key, a csr or make_key_pair",
                )));
            }
        }
        .map_err(|e| with_object(e.into()))?;
        let digest = key.public_key().digest();
        let certification =
            self.certification.as_ref().ok_or(ServiceError::Internal("an order without an issuer"))?;
        let request = CertificateRequest {
            profile: certification.profile,
            issuer: Arc::clone(&certification.issuer),
            subject: SubjectValues {
                country: Some(certification.country.clone()),
                organization: Some(certification.organization.clone()),
                organizational_unit: None,
                common_name: Some("eUICC".to_owned()),
                eid: Some(eid),
            },
            key,
            registered_id: None,
            dns_name: None,
            ip_addresses: Vec::new(),
            permitted: Vec::new(),
            holder: eid.to_string(),
            certifies: None,
            renews: None,
            accreditation: Some(certification.accreditation),
        };
        let prepared =
            ca::prepare(&self.desk.ca, request, self.call.now).map_err(|e| with_object(e.into()))?;
        if !eids.insert(eid) {
            return Err(about(Refusal::new(
                ReasonCode::DuplicateDevice,
                "the EID stands twice in this order",
            )));
        }
        if !keys.insert(digest) {
            return Err(about(Refusal::new(
                ReasonCode::DuplicateKey,
                "the public key stands twice in this order",
            )));
        }
        Ok(Prepare::New(Box::new(Ready { line: order_line, prepared, object: object(&eid) })))
    }

    async fn reserve(
        &self,
        orders: &Orders<'_>,
        ready: Vec<Ready>,
        refusals: Vec<EntryDraft>,
    ) -> Result<(Vec<ReservedLine>, Vec<Prepared>, Vec<Reservation>, Vec<Pseudonym>), ServiceError> {
        let lines: Vec<OrderLine> = ready.iter().map(|r| r.line).collect();
        let _turn = self.desk.turns.turn(&self.manufacturer.name).await;
        let (changes, preconditions) = orders.reserve(&lines)?;
        let mut commit = Commit { entries: Vec::new(), changes, preconditions };
        for one in &ready {
            let (entry, changes, preconditions) = one.prepared.intent(&self.caller_about(one.object));
            commit.entries.push(entry.fact("line", Fact::Number(one.line.line)));
            commit.changes.extend(changes);
            commit.preconditions.extend(preconditions);
        }
        commit.entries.extend(refusals);
        commit.preconditions.push(self.call.caller.unchanged());
        let receipt = self.desk.kms.store.commit(commit).await?;
        let version = receipt.first_index;
        let reserved = lines.into_iter().map(|line| ReservedLine { line, version }).collect();
        let reservations = ready.iter().map(|r| Reservation::of(&r.prepared, version)).collect();
        let objects = ready.iter().map(|r| r.object).collect();
        Ok((reserved, ready.into_iter().map(|r| r.prepared).collect(), reservations, objects))
    }

    /// 9.: output file, then certificates, devices and keysets in one commit.
    async fn finish(
        &self,
        orders: &Orders<'_>,
        reserved: &[ReservedLine],
        issued: &[Issued],
        objects: &[Pseudonym],
        keys: &kms::ChunkKeys,
        key_pairs: Option<&ChunkKeyPairs>,
    ) -> Result<(), ServiceError> {
        let serials: Vec<Vec<u8>> = issued.iter().map(|i| i.serial().as_bytes().to_vec()).collect();
        for attempt in 1.. {
            // What is reserved is given back when the manufacturer was suspended meanwhile.
            let mut call = self.call.clone();
            self.gate.admit_again(&mut call)?;
            // The disk is waited for on a thread of its own kind.
            let mut commit = tokio::task::block_in_place(|| {
                let made = Made { serials: &serials, keys, key_pairs };
                orders.finish(&self.desk.files, &self.call.pseudonyms, reserved, made, self.call.now)
            })?;
            for (one, object) in issued.iter().zip(objects) {
                let (entry, changes, preconditions) = one.outcome(&self.caller_about(*object));
                commit.entries.push(entry);
                commit.changes.extend(changes);
                commit.preconditions.extend(preconditions);
            }
            commit.preconditions.push(call.caller.unchanged());
            match self.desk.kms.store.commit(commit).await {
                Ok(_) => return Ok(()),
                // Another stream of the same order took the chunk's number, or the manufacturer's standing changed.
                Err(store::CommitError::PreconditionFailed { .. }) if attempt < ATTEMPTS_MAX => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ServiceError::Internal("no attempt was made"))
    }

    async fn give_back(
        &self,
        orders: &Orders<'_>,
        reserved: &[ReservedLine],
        reservations: &[Reservation],
        objects: &[Pseudonym],
        error: &ServiceError,
    ) -> Result<(), ServiceError> {
        let reason = error.verdict().refusal.reason;
        for attempt in 1.. {
            let (changes, preconditions) = orders.release(reserved)?;
            let mut commit = Commit { entries: Vec::new(), changes, preconditions };
            for (reservation, object) in reservations.iter().zip(objects) {
                let (entry, changes, preconditions) =
                    reservation.fail(reason, Some(self.call.caller.role()), *object);
                commit.entries.push(entry);
                commit.changes.extend(changes);
                commit.preconditions.extend(preconditions);
            }
            match self.desk.kms.store.commit(commit).await {
                Ok(_) => return Ok(()),
                Err(store::CommitError::PreconditionFailed { .. }) if attempt < ATTEMPTS_MAX => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ServiceError::Internal("no attempt was made"))
    }

    fn caller_about(&self, object: Pseudonym) -> About {
        About {
            role: Some(self.call.caller.role()),
            actor: self.call.pseudonyms.principal(&self.call.caller.principal()),
            object,
        }
    }

    fn refusal(&self, line: &v1::OrderLine, refusal: &Refusal, object: Option<Pseudonym>) -> EntryDraft {
        let entry = EntryDraft::new(self.terms.devices.event(), Outcome::Refused(refusal.reason))
            .role(self.call.caller.role())
            .actor(self.call.pseudonyms.principal(&self.call.caller.principal()))
            .request(request_digest("order-line", line))
            .fact("line", Fact::Number(line.line));
        match object {
            Some(object) => entry.object(object),
            None => entry,
        }
    }
}

enum Prepare {
    New(Box<Ready>),
    /// The certificate, DER.
    Repeated(Vec<u8>),
}

/// The calling manufacturer as the key side sees it.
pub(crate) fn manufacturer(party: &Party, call: &Call) -> Result<Manufacturer, ServiceError> {
    Ok(Manufacturer {
        name: party.name.clone(),
        principal: call.caller.principal(),
        eins: party.eins.clone(),
        quota: party.device_quota,
        transport_key_bits: transport_key_bits(&party.transport_key)?,
        transport_key: party.transport_key.clone(),
    })
}

fn transport_key_bits(spki: &[u8]) -> Result<u32, ServiceError> {
    let key = pki::TransportPublicKey::parse(spki)
        .map_err(|_| ServiceError::Internal("a registered transport key cannot be read"))?;
    Ok(u32::try_from(key.modulus().len() * 8).unwrap_or(0))
}

/// The profile of the devices' certificates: the one that is named, or the one that is the issuer's.
fn euicc_profile(issuer: &Certificate, named: &str) -> Result<&'static CertificateProfile, ServiceError> {
    let refused = |message: String| ServiceError::refused(ReasonCode::InvalidField, message);
    if named.is_empty() {
        return CertificateRole::Euicc
            .profiles()
            .find(|profile| pki::chain::may_issue(issuer, profile))
            .ok_or_else(|| refused("the issuer's certificate is none that issues for devices".to_owned()));
    }
    pki::profile::find(named)
        .ok()
        .filter(|profile| profile.role == CertificateRole::Euicc && pki::chain::may_issue(issuer, profile))
        .ok_or_else(|| {
            refused(format!("{named:?} is no profile of eUICC certificates that the issuer issues"))
        })
}

fn terms(header: &v1::OrderHeader) -> Result<OrderTerms, ServiceError> {
    crate::init::check_name("order", &header.order)?;
    let keyset = kms::KeysetName::parse(header.keyset.as_ref())?;
    let algorithm = domain::KeysetAlgorithm::from_code(header.key_bits)
        .map_err(|e| ServiceError::refused(ReasonCode::InvalidField, e.to_string()))?;
    let invalid = |message: &str| Err(ServiceError::refused(ReasonCode::InvalidField, message));
    let devices = match (&header.fleet, header.further_keysets) {
        (Some(fleet), further_keysets) => {
            OrderedDevices::MovedIn(Fleet { keys: parse_fleet(fleet)?, further_keysets })
        }
        (None, true) => OrderedDevices::Registered,
        (None, false) => OrderedDevices::New,
    };
    let names_certificates = !header.issuer.is_empty() || !header.certificate_profile.is_empty();
    if devices != OrderedDevices::New && names_certificates {
        return invalid("nothing is certified: the order names no issuer and no profile");
    }
    if header.random_keys && matches!(devices, OrderedDevices::MovedIn(_)) {
        return invalid("no keys are made for devices that move in");
    }
    let is_made = !matches!(devices, OrderedDevices::MovedIn(_));
    if is_made && (!algorithm.may_be_made() || keyset.protocol == domain::Protocol::Scp02) {
        return invalid("an order makes AES keysets");
    }
    let format = u32::try_from(header.format)
        .ok()
        .and_then(|code| OrderFormat::from_code(code).ok())
        .ok_or_else(|| ServiceError::refused(ReasonCode::InvalidField, "the output format is unknown"))?;
    if !header.product.is_empty() {
        crate::init::check_name("product", &header.product)?;
    }
    Ok(OrderTerms {
        order: header.order.clone(),
        issuer: header.issuer.clone(),
        certificate_profile: header.certificate_profile.clone(),
        keyset,
        algorithm,
        format,
        product: header.product.clone(),
        devices,
        mode: if header.random_keys { KeyMode::Random } else { KeyMode::Derived },
    })
}

fn parse_fleet(fleet: &v1::MovedInFleet) -> Result<FleetKeys, ServiceError> {
    let invalid = |message: &str| Err(ServiceError::refused(ReasonCode::InvalidField, message));
    if fleet.import_key.is_empty() {
        if fleet.import_key_number != 0 || !fleet.column_keys.is_empty() {
            return invalid("column keys are of an import key");
        }
        let Some(scheme) = keys::derivation::SchemeName::from_name(&fleet.scheme) else {
            return invalid("no derivation scheme has this name");
        };
        let generation = domain::MasterGeneration(fleet.master_generation);
        return Ok(FleetKeys::Derived { scheme, generation });
    }
    crate::init::check_name("import_key", &fleet.import_key)?;
    if !fleet.scheme.is_empty() || fleet.master_generation != 0 {
        return invalid("a fleet's keys are derived, or come under an import key, not both");
    }
    // The AES-KWP of 16, 24 or 32 octets.
    if !fleet.column_keys.iter().all(|key| matches!(key.len(), 24 | 32 | 40)) {
        return invalid("a column key is 24, 32 or 40 octets of AES-KWP");
    }
    Ok(FleetKeys::Imported {
        name: fleet.import_key.clone(),
        number: fleet.import_key_number,
        columns: fleet.column_keys.clone(),
    })
}

fn accepted(line: u64, certificate: Vec<u8>) -> v1::OrderLineResult {
    v1::OrderLineResult { line, result: Some(v1::order_line_result::Result::Certificate(certificate)) }
}

fn refused(line: u64, refusal: Refusal) -> v1::OrderLineResult {
    let refusal = v1::LineRefusal {
        reason: refusal.reason.as_str().to_owned(),
        next_step: refusal.reason.next_step().to_owned(),
        message: refusal.message,
    };
    v1::OrderLineResult { line, result: Some(v1::order_line_result::Result::Refusal(refusal)) }
}
