//! The authority's own certificate issuers: its roots (CI), and the sub CAs below them.

use pki::Certificate;
use prost::Message;
use proto::records;
use store::Store;

use crate::keyspaces::ISSUERS;
use crate::{CaError, Engines};

/// CAs from a leaf's issuer up to its root, at most: a sub CA of a role, one of the CI, the CI; manufacturers have two.
pub(crate) const CAS_MAX: usize = 5;

/// The certificates of the authority's own issuers.
pub(crate) struct Hierarchy {
    /// Those that sign themselves.
    pub(crate) roots: Vec<Certificate>,
    /// Those of sub CAs.
    pub(crate) below: Vec<Certificate>,
}

impl Hierarchy {
    /// As it is now.
    pub(crate) fn of(engines: &Engines) -> Result<Self, CaError> {
        let issuers = engines.issuers.all(engines.store.as_ref())?;
        let own = issuers.iter().filter(|issuer| issuer.party.is_empty());
        let (roots, below) =
            own.filter_map(|issuer| issuer.certificate.clone()).partition(Certificate::is_self_issued);
        Ok(Self { roots, below })
    }

    /// The root of this key identifier.
    pub(crate) fn root(&self, key_identifier: &[u8]) -> Option<&Certificate> {
        self.roots.iter().find(|root| root.subject_key_identifier() == Some(key_identifier))
    }
}

/// Subject key identifier of the root above an issuer of the authority or of a party: what eUICCs list.
pub(crate) fn root_key_id(store: &dyn Store, issuer: &str) -> Result<Vec<u8>, CaError> {
    let unreadable = || CaError::Record("issuer");
    let row = store.get(ISSUERS, issuer.as_bytes())?.ok_or_else(unreadable)?;
    let mut above = certificate(&row.value)?.ok_or_else(unreadable)?;
    for _ in 0..CAS_MAX {
        if above.is_self_issued() {
            return Ok(above.subject_key_identifier().unwrap_or_default().to_vec());
        }
        let key = above.authority_key_identifier().ok_or_else(unreadable)?.to_vec();
        match issuer_of_key(store, &key)? {
            Some(next) => above = next,
            // A root elsewhere: an anchor.
            None => return Ok(key),
        }
    }
    Err(unreadable())
}

fn issuer_of_key(store: &dyn Store, key_identifier: &[u8]) -> Result<Option<Certificate>, CaError> {
    for (_, row) in store.scan(ISSUERS, &[], None, crate::issuers::ISSUERS_MAX)? {
        let found = certificate(&row.value)?;
        if let Some(found) = found.filter(|c| c.subject_key_identifier() == Some(key_identifier)) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn certificate(row: &[u8]) -> Result<Option<Certificate>, CaError> {
    let record = records::Issuer::decode(row).map_err(|_| CaError::Record("issuer"))?;
    if record.certificate.is_empty() {
        return Ok(None);
    }
    Certificate::from_der(&record.certificate).map(Some).map_err(CaError::Verification)
}
