//! Certificates that a hierarchy elsewhere issued for keys in our tokens (`docs/cycles/foreign-certificates.md`).

use domain::{ReasonCode, Timestamp};
use pki::{Certificate, CertificateRole, CivilTime, chain};
use prost::Message;
use proto::records;
use store::{Change, Precondition, Store};

use crate::anchors::Anchor;
use crate::keyspaces::IMPORTED_CERTIFICATES;
use crate::{CaError, InForce};

/// Certificates of one key that are looked at.
const CERTIFICATES_PER_KEY_MAX: usize = 100;
/// Certificates between an imported one and its anchor.
pub const INTERMEDIATES_MAX: usize = 4;
/// Imported certificates of one page.
const IMPORTED_PER_PAGE: usize = 200;

/// A certificate from elsewhere on its way into the register.
#[derive(Clone)]
pub struct Import {
    /// The certificate.
    pub certificate: Certificate,
    /// From the one above it upwards, without the anchor.
    pub intermediates: Vec<Certificate>,
    /// Its profile.
    pub profile: CertificateRole,
    /// Whose it is.
    pub party: String,
    /// Name of the key that it certifies.
    pub key: String,
    /// Name of the anchor above it.
    pub anchor: String,
    unchanged: Vec<Precondition>,
}

/// What is asked about a certificate from elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct ImportRequest<'a> {
    /// DER.
    pub certificate: &'a [u8],
    /// DER, in any order, without the anchor.
    pub intermediates: &'a [Vec<u8>],
    /// Name of the anchor.
    pub anchor: &'a str,
    /// The profile that its key is for.
    pub profile: CertificateRole,
    /// SubjectPublicKeyInfo (DER) of that key.
    pub spki: &'a [u8],
    /// Whose it is.
    pub party: &'a str,
    /// Name of the key.
    pub key: &'a str,
}

impl Import {
    /// Judges it: the chain leads to the anchor by the GSMA's rules, now; nothing of it is revoked; it is for this key; it is new.
    pub fn judge(store: &dyn Store, request: &ImportRequest<'_>, now: Timestamp) -> Result<Self, CaError> {
        let invalid = |why: String| CaError::refused(ReasonCode::InvalidField, why);
        let read =
            |der: &[u8], what: &str| Certificate::from_der(der).map_err(|e| invalid(format!("{what}: {e}")));
        if request.intermediates.len() > INTERMEDIATES_MAX {
            return Err(invalid(format!("at most {INTERMEDIATES_MAX} intermediates")));
        }
        let certificate = read(request.certificate, "the certificate")?;
        let intermediates = request
            .intermediates
            .iter()
            .map(|der| read(der, "an intermediate"))
            .collect::<Result<Vec<_>, _>>()?;
        let anchor = Anchor::find(store, request.anchor)?;
        let at = CivilTime::from_timestamp(now).map_err(|e| invalid(e.to_string()))?;
        let root = std::slice::from_ref(&anchor.certificate);
        let verified = chain::verify_chain(&certificate, &intermediates, root, request.profile, Some(at))
            .map_err(|refusal| invalid(format!("the certificate: {refusal}")))?;
        if certificate.spki() != request.spki {
            return Err(invalid(format!("the certificate is for another key than {}", request.key)));
        }
        let above = verified.certificates();
        let intermediates = above[1..above.len() - 1].to_vec();
        let serials: Vec<&[u8]> =
            above[..above.len() - 1].iter().map(|certificate| certificate.serial().as_bytes()).collect();
        let unchanged = anchor
            .in_force(store, &serials, now)?
            .map_err(|why| CaError::refused(ReasonCode::PolicyViolation, why))?;
        if store.get(IMPORTED_CERTIFICATES, &row_key(&certificate))?.is_some() {
            return Err(CaError::refused(ReasonCode::Conflict, "the certificate is imported already"));
        }
        Ok(Self {
            certificate,
            intermediates,
            profile: request.profile,
            party: request.party.to_owned(),
            key: request.key.to_owned(),
            anchor: anchor.name,
            unchanged,
        })
    }

    /// The write that keeps it, and what it rests on.
    pub fn create(&self) -> (Change, Vec<Precondition>) {
        let record = records::ImportedCertificate {
            version: 1,
            anchor: self.anchor.clone(),
            profile: self.profile.as_str().to_owned(),
            party: self.party.clone(),
            key: self.key.clone(),
            der: self.certificate.der().to_vec(),
            intermediates: self.intermediates.iter().map(|c| c.der().to_vec()).collect(),
        };
        let key = row_key(&self.certificate);
        let mut preconditions = self.unchanged.clone();
        preconditions.push(Precondition::Absent { keyspace: IMPORTED_CERTIFICATES, key: key.clone() });
        (Change::put(IMPORTED_CERTIFICATES, key, record.encode_to_vec()), preconditions)
    }

    /// The imported certificate that is this one.
    pub(crate) fn find(store: &dyn Store, certificate: &Certificate) -> Result<Option<Self>, CaError> {
        store
            .get(IMPORTED_CERTIFICATES, &row_key(certificate))?
            .map(|row| Self::decode(&row.value))
            .transpose()
    }

    /// The anchor above it, retired or not.
    fn above(&self, store: &dyn Store) -> Result<Anchor, CaError> {
        let found = Anchor::all(store)?.into_iter().find(|anchor| anchor.name == self.anchor);
        found.ok_or(CaError::Record("imported certificate"))
    }

    /// That nothing of its chain is revoked, and its anchor trusted, now and when the deed is committed; the error says why not.
    pub(crate) fn unrevoked(
        &self,
        store: &dyn Store,
        now: Timestamp,
    ) -> Result<Result<Vec<Precondition>, String>, CaError> {
        let serials: Vec<&[u8]> = self.chain().map(|certificate| certificate.serial().as_bytes()).collect();
        self.above(store)?.in_force(store, &serials, now)
    }

    /// It and the certificates between it and the anchor.
    fn chain(&self) -> impl Iterator<Item = &Certificate> {
        std::iter::once(&self.certificate).chain(&self.intermediates)
    }

    fn decode(bytes: &[u8]) -> Result<Self, CaError> {
        let unreadable = || CaError::Record("imported certificate");
        let record = records::ImportedCertificate::decode(bytes).map_err(|_| unreadable())?;
        let read = |der: &Vec<u8>| Certificate::from_der(der).map_err(CaError::Verification);
        Ok(Self {
            certificate: read(&record.der)?,
            intermediates: record.intermediates.iter().map(read).collect::<Result<_, _>>()?,
            profile: record.profile.parse().map_err(|_| unreadable())?,
            party: record.party,
            key: record.key,
            anchor: record.anchor,
            unchanged: Vec::new(),
        })
    }
}

/// A page of the certificates from elsewhere after the row `after`, and where the next one begins.
pub fn list_imported(
    store: &dyn Store,
    after: Option<&[u8]>,
) -> Result<(Vec<Import>, Option<Vec<u8>>), CaError> {
    let rows = store.scan(IMPORTED_CERTIFICATES, &[], after, IMPORTED_PER_PAGE)?;
    let next = (rows.len() == IMPORTED_PER_PAGE).then(|| rows.last().map(|(key, _)| key.clone())).flatten();
    let page = rows.iter().map(|(_, row)| Import::decode(&row.value)).collect::<Result<_, _>>()?;
    Ok((page, next))
}

/// The certificates from elsewhere that a key (SubjectPublicKeyInfo, DER) has, as far as they are in force now.
pub(crate) fn imported_for_key(
    store: &dyn Store,
    spki_digest: &[u8; 32],
    now: Timestamp,
) -> Result<Vec<InForce>, CaError> {
    let mut found = Vec::new();
    for (_, row) in store.scan(IMPORTED_CERTIFICATES, spki_digest, None, CERTIFICATES_PER_KEY_MAX)? {
        let imported = Import::decode(&row.value)?;
        let at = CivilTime::from_timestamp(now)
            .map_err(|e| CaError::refused(ReasonCode::InvalidField, e.to_string()))?;
        let is_valid = imported.chain().all(|one| one.not_before() <= at && at <= one.not_after());
        let (true, Ok(unrevoked)) = (is_valid, imported.unrevoked(store, now)?) else { continue };
        let anchor = imported.above(store)?;
        let identifier = anchor.certificate.subject_key_identifier().unwrap_or_default().to_vec();
        found.push(InForce { certificate: imported.certificate, ci_key_id: identifier, unrevoked });
    }
    Ok(found)
}

fn row_key(certificate: &Certificate) -> Vec<u8> {
    [certificate.spki_digest(), certificate.digest()].concat()
}
