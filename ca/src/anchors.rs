//! Anchors: certificate issuers (CI) elsewhere that are trusted here, for which eUICCs, and what their revocation lists say.

use domain::{Eid, Ein, ReasonCode, RevocationReason, Timestamp};
use pki::crl::Crl;
use pki::{Certificate, CertificateRole, CivilTime, KnownKeys, SerialNumber, chain};
use prost::Message;
use proto::records;
use store::{Change, Precondition, Store, Versioned};

use crate::CaError;
use crate::keyspaces::{ANCHOR_LISTS, ANCHOR_REVOCATIONS, ANCHORS, ISSUERS};
use crate::revocation::index_key;

/// Anchors there may be.
pub const ANCHORS_MAX: usize = 100;
/// Entries of the longest list that is taken from an anchor.
pub const ANCHOR_LIST_ENTRIES_MAX: usize = 5_000;
/// How far a list's thisUpdate may lie ahead of our clock.
const CLOCK_SKEW_SECONDS: i64 = 300;

/// A certificate issuer elsewhere.
#[derive(Clone, Debug)]
pub struct Anchor {
    /// Its name, unique among anchors and issuers.
    pub name: String,
    /// Self-signed.
    pub certificate: Certificate,
    /// Ranges of EIDs whose eUICCs it may vouch for.
    pub eins: Vec<Ein>,
    /// Nothing under it is accepted without a current revocation list.
    pub lists_required: bool,
    /// Trusted no more.
    pub retired: bool,
    version: u64,
}

/// The newest list of an anchor.
#[derive(Clone, Copy, Debug)]
pub struct AnchorList {
    /// Its CRL number.
    pub number: u64,
    /// thisUpdate.
    pub this_update: Timestamp,
    /// nextUpdate.
    pub next_update: Timestamp,
    /// How many certificates it revokes.
    pub entries: u32,
    /// SHA-256 of the DER.
    pub digest: [u8; 32],
}

impl Anchor {
    /// An anchor on its way into the records: a self-signed CI certificate by the GSMA's profile, in force, whose key and name
    /// are no issuer's and no anchor's here.
    pub fn new(
        store: &dyn Store,
        name: &str,
        certificate: &[u8],
        eins: Vec<Ein>,
        lists_required: bool,
        known_keys: KnownKeys,
        now: Timestamp,
    ) -> Result<Self, CaError> {
        let invalid = |why: String| CaError::refused(ReasonCode::InvalidField, why);
        let certificate = Certificate::from_der(certificate)
            .map_err(|e| invalid(format!("the anchor's certificate: {e}")))?;
        let at = CivilTime::from_timestamp(now).map_err(|e| invalid(e.to_string()))?;
        let root = std::slice::from_ref(&certificate);
        chain::verify_chain(&certificate, &[], root, CertificateRole::CertificateIssuer, Some(at))
            .map_err(|refusal| invalid(format!("the anchor's certificate: {refusal}")))?;
        pki::PublicKey::parse(certificate.spki(), known_keys)
            .map_err(|e| CaError::refused(ReasonCode::WeakKey, format!("the anchor's key: {e}")))?;
        if certificate.subject_key_identifier().is_none() {
            return Err(invalid("the anchor's certificate has no key identifier".to_owned()));
        }
        let conflict = |why: &str| Err(CaError::refused(ReasonCode::Conflict, why));
        if store.get(ANCHORS, name.as_bytes())?.is_some() || store.get(ISSUERS, name.as_bytes())?.is_some() {
            return conflict("an anchor or issuer of this name exists");
        }
        if Self::all(store)?.len() >= ANCHORS_MAX {
            return conflict("there are as many anchors as there may be");
        }
        let identifier = certificate.subject_key_identifier();
        let is_here = |other: &Certificate| other.subject_key_identifier() == identifier;
        if Self::all(store)?.iter().any(|anchor| !anchor.retired && is_here(&anchor.certificate)) {
            return conflict("an anchor with this key is trusted already");
        }
        for (_, row) in store.scan(ISSUERS, &[], None, 10_000)? {
            let record = records::Issuer::decode(&*row.value).map_err(|_| CaError::Record("issuer"))?;
            if Certificate::from_der(&record.certificate).is_ok_and(|own| is_here(&own)) {
                return conflict("the key is that of an issuer of this authority");
            }
        }
        Ok(Self { name: name.to_owned(), certificate, eins, lists_required, retired: false, version: 0 })
    }

    /// The write that registers it, and that it must be new.
    pub fn create(&self) -> (Change, Precondition) {
        let key = self.name.as_bytes().to_vec();
        (self.put(), Precondition::Absent { keyspace: ANCHORS, key })
    }

    /// The write after which nothing under it is accepted.
    pub fn retire(mut self) -> (Change, Precondition) {
        let unchanged = self.unchanged();
        self.retired = true;
        (self.put(), unchanged)
    }

    /// That it is still what was read, when a deed is committed.
    pub fn unchanged(&self) -> Precondition {
        Precondition::Version { keyspace: ANCHORS, key: self.name.as_bytes().to_vec(), version: self.version }
    }

    fn put(&self) -> Change {
        let record = records::Anchor {
            version: 1,
            name: self.name.clone(),
            certificate: self.certificate.der().to_vec(),
            eins: self.eins.iter().map(Ein::to_string).collect(),
            lists_required: self.lists_required,
            retired: self.retired,
        };
        Change::put(ANCHORS, self.name.as_bytes(), record.encode_to_vec())
    }

    /// The anchor of a name that is trusted, or the refusal.
    pub fn find(store: &dyn Store, name: &str) -> Result<Self, CaError> {
        let found = store.get(ANCHORS, name.as_bytes())?.map(|row| Self::decode(&row)).transpose()?;
        found.filter(|anchor| !anchor.retired).ok_or_else(|| {
            CaError::refused(ReasonCode::UnknownIssuer, format!("there is no anchor {name} that is trusted"))
        })
    }

    /// Every anchor, retired ones too.
    pub fn all(store: &dyn Store) -> Result<Vec<Self>, CaError> {
        store.scan(ANCHORS, &[], None, ANCHORS_MAX + 1)?.iter().map(|(_, row)| Self::decode(row)).collect()
    }

    /// The trusted anchor of this subject key identifier.
    pub fn of_key(store: &dyn Store, identifier: &[u8]) -> Result<Option<Self>, CaError> {
        let all = Self::all(store)?;
        Ok(all.into_iter().find(|anchor| {
            !anchor.retired && anchor.certificate.subject_key_identifier() == Some(identifier)
        }))
    }

    /// Its newest list.
    pub fn list(&self, store: &dyn Store) -> Result<Option<AnchorList>, CaError> {
        let Some(row) = store.get(ANCHOR_LISTS, self.name.as_bytes())? else { return Ok(None) };
        let unreadable = || CaError::Record("anchor list");
        let record = records::AnchorList::decode(&*row.value).map_err(|_| unreadable())?;
        Ok(Some(AnchorList {
            number: record.number,
            this_update: Timestamp::from_micros(record.this_update_micros),
            next_update: Timestamp::from_micros(record.next_update_micros),
            entries: record.entries,
            digest: record.digest.try_into().map_err(|_| unreadable())?,
        }))
    }

    /// Whether it may vouch for this eUICC.
    pub fn vouches_for(&self, eid: &Eid) -> bool {
        self.eins.iter().any(|ein| eid.is_in(ein))
    }

    /// That certificates of its hierarchy are in force, now and when the deed is committed: it is trusted, its list is current where
    /// one is needed, and the list names none of them. The error says why not.
    pub fn in_force(
        &self,
        store: &dyn Store,
        serials: &[&[u8]],
        now: Timestamp,
    ) -> Result<Result<Vec<Precondition>, String>, CaError> {
        if self.retired {
            return Ok(Err(format!("the anchor {} is trusted no more", self.name)));
        }
        if self.lists_required && self.list(store)?.is_none_or(|list| now > list.next_update) {
            return Ok(Err(format!(
                "there is no current revocation list of the anchor {}: chancery anchor publish-list",
                self.name
            )));
        }
        let mut unrevoked = vec![self.unchanged()];
        for serial in serials {
            let key = index_key(&self.name, serial);
            if let Some(row) = store.get(ANCHOR_REVOCATIONS, &key)? {
                let record =
                    records::Revocation::decode(&*row.value).map_err(|_| CaError::Record("revocation"))?;
                return Ok(Err(format!(
                    "a certificate of the chain was revoked by {}, for {}",
                    self.name, record.reason
                )));
            }
            unrevoked.push(Precondition::Absent { keyspace: ANCHOR_REVOCATIONS, key });
        }
        Ok(Ok(unrevoked))
    }

    /// A revocation list of it on its way into the records: signed by it, current, newer than the one before.
    pub fn take_list(
        &self,
        store: &dyn Store,
        list: &[u8],
        now: Timestamp,
    ) -> Result<(AnchorList, Vec<Change>, Vec<Precondition>), CaError> {
        let refused =
            |why: String| CaError::refused(ReasonCode::InvalidField, format!("the revocation list: {why}"));
        let crl = Crl::parse(list).map_err(|e| refused(e.to_string()))?;
        crl.verify(&self.certificate).map_err(|e| refused(e.to_string()))?;
        if !crl.scope().is_full() {
            return Err(refused("it is no full list of its issuer".to_owned()));
        }
        let number = crl.number().ok_or_else(|| refused("its number takes more than 64 bits".to_owned()))?;
        if crl.revoked().len() > ANCHOR_LIST_ENTRIES_MAX {
            return Err(refused(format!("it has more than {ANCHOR_LIST_ENTRIES_MAX} entries")));
        }
        let seconds = |time: CivilTime| Timestamp::from_seconds(time.unix_seconds());
        let (this_update, next_update) = (seconds(crl.this_update()), seconds(crl.next_update()));
        if this_update > now.plus_seconds(CLOCK_SKEW_SECONDS) || next_update < now {
            return Err(refused("it does not speak for now".to_owned()));
        }
        let row = store.get(ANCHOR_LISTS, self.name.as_bytes())?;
        if let Some(before) = self.list(store)?
            && before.number >= number
        {
            return Err(CaError::refused(
                ReasonCode::Conflict,
                format!("list {} of {} is known; {number} is no newer one", before.number, self.name),
            ));
        }
        let (taken, digest) = (crl.revoked().len() as u32, crl.digest());
        let record = records::AnchorList {
            version: 1,
            number,
            this_update_micros: this_update.micros(),
            next_update_micros: next_update.micros(),
            digest: digest.to_vec(),
            entries: taken,
        };
        let key = self.name.as_bytes().to_vec();
        let mut changes = vec![Change::put(ANCHOR_LISTS, key.clone(), record.encode_to_vec())];
        changes.extend(self.differences(store, &crl)?);
        let unchanged = match row {
            Some(Versioned { version, .. }) => Precondition::Version { keyspace: ANCHOR_LISTS, key, version },
            None => Precondition::Absent { keyspace: ANCHOR_LISTS, key },
        };
        let list = AnchorList { number, this_update, next_update, entries: taken, digest };
        Ok((list, changes, vec![self.unchanged(), unchanged]))
    }

    /// What the rows of revoked certificates lack, and what they have that the list has no more.
    fn differences(&self, store: &dyn Store, crl: &Crl) -> Result<Vec<Change>, CaError> {
        let mut changes = Vec::new();
        let prefix = index_key(&self.name, &[]);
        for (key, _) in store.scan(ANCHOR_REVOCATIONS, &prefix, None, ANCHOR_LIST_ENTRIES_MAX + 1)? {
            let serial = SerialNumber::from_bytes(&key[prefix.len()..])
                .map_err(|_| CaError::Record("anchor revocation"))?;
            if crl.find(&serial).is_none() {
                changes.push(Change::delete(ANCHOR_REVOCATIONS, key));
            }
        }
        for revoked in crl.revoked() {
            let record = records::Revocation {
                shard: String::new(),
                expires_seconds: 0,
                version: 1,
                revoked_micros: Timestamp::from_seconds(revoked.revoked_at.unix_seconds()).micros(),
                reason: revoked.reason.as_str().to_owned(),
                invalid_since_micros: revoked
                    .invalid_since
                    .map_or(0, |since| Timestamp::from_seconds(since.unix_seconds()).micros()),
            }
            .encode_to_vec();
            let key = index_key(&self.name, revoked.serial.as_bytes());
            if store.get(ANCHOR_REVOCATIONS, &key)?.is_none_or(|row| row.value[..] != record[..]) {
                changes.push(Change::put(ANCHOR_REVOCATIONS, key, record));
            }
        }
        Ok(changes)
    }

    fn decode(row: &Versioned) -> Result<Self, CaError> {
        let unreadable = || CaError::Record("anchor");
        let record = records::Anchor::decode(&*row.value).map_err(|_| unreadable())?;
        Ok(Self {
            name: record.name,
            certificate: Certificate::from_der(&record.certificate).map_err(CaError::Verification)?,
            eins: record
                .eins
                .iter()
                .map(|ein| ein.parse().map_err(|_| unreadable()))
                .collect::<Result<_, _>>()?,
            lists_required: record.lists_required,
            retired: record.retired,
            version: row.version,
        })
    }
}

/// When and why an anchor's list says that a certificate is revoked.
pub(crate) fn revoked_by_anchor(
    store: &dyn Store,
    anchor: &str,
    serial: &[u8],
) -> Result<Option<(Timestamp, RevocationReason)>, CaError> {
    let Some(row) = store.get(ANCHOR_REVOCATIONS, &index_key(anchor, serial))? else { return Ok(None) };
    let unreadable = || CaError::Record("anchor revocation");
    let record = records::Revocation::decode(&*row.value).map_err(|_| unreadable())?;
    let reason = record.reason.parse().map_err(|_| unreadable())?;
    Ok(Some((Timestamp::from_micros(record.revoked_micros), reason)))
}
