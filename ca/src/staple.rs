//! The lists that a server staples to its certificate, together with the authorities above it.

use pki::Certificate;
use pki::crl::Crl;
use pki::staple::Staple;

use crate::publication::{ListName, newest_crl};
use crate::{CaError, Engines};

/// Authorities above a certificate, at most.
const AUTHORITIES_MAX: usize = 5;

/// The newest lists along a chain: the one that certificates of `list` name, and for each authority above, up to a root, the one that
/// its own certificate names. Absent when one of them is not there, or the chain leaves the authority.
pub fn staple(engines: &Engines, list: &ListName) -> Result<Option<Staple>, CaError> {
    let store = engines.store.as_ref();
    let mut staple = Staple { certificates: Vec::new(), lists: Vec::new() };
    let mut list = list.clone();
    while staple.certificates.len() < AUTHORITIES_MAX {
        let Ok(issuer) = engines.issuers.find(store, &list.issuer) else { return Ok(None) };
        let Some(certificate) = &issuer.certificate else { return Ok(None) };
        let Some(newest) = newest_crl(store, &list)? else { return Ok(None) };
        staple.lists.push(Crl::from_der(&newest.der).map_err(CaError::Verification)?);
        staple.certificates.push(certificate.clone());
        if certificate.is_self_issued() {
            return Ok(Some(staple));
        }
        match list_of(certificate) {
            Some(above) => list = above,
            None => return Ok(None),
        }
    }
    Ok(None)
}

fn list_of(certificate: &Certificate) -> Option<ListName> {
    certificate.crl_urls().iter().find_map(|url| ListName::of_url(url))
}
