//! Whether certificates are in force now, and still are when a deed is committed: of servers by their keys, of eUICCs by
//! the GSMA rule and our register.

use domain::{Eid, ReasonCode, Timestamp};
use ecc::EcPublicKey;
use pki::{Certificate, CivilTime, KnownKeys, ProfileName, PublicKey, chain};
use prost::Message;
use proto::records;
use sha2::{Digest, Sha256};
use store::{Precondition, Store};

use crate::anchors::Anchor;
use crate::imported::imported_for_key;
use crate::keyspaces::{CERTIFICATES, CERTIFIED_KEYS, ISSUERS, REVOCATIONS};
use crate::revocation::index_key;
use crate::{CaError, Engines};

/// Issuers that are looked at for one certificate.
const ISSUERS_MAX: usize = 10_000;

/// A certificate for a key in our token that is in force.
#[derive(Clone)]
pub struct InForce {
    /// The certificate.
    pub certificate: Certificate,
    /// Subject key identifier of the certificate issuer (CI) above it: what eUICCs list.
    pub ci_key_id: Vec<u8>,
    /// That it is in force still when the deed is committed.
    pub unrevoked: Vec<Precondition>,
}

/// An eUICC whose chain leads to the certificate issuer, with nothing of it revoked.
#[derive(Clone)]
pub struct VerifiedEuicc {
    /// The EID in its certificate.
    pub eid: Eid,
    /// Its key.
    pub public_key: EcPublicKey,
    /// Serial numbers of its certificate and its manufacturer's, for [`still_in_force`].
    pub serial_numbers: Vec<Vec<u8>>,
    /// That neither is revoked when the deed is committed.
    pub unrevoked: Vec<Precondition>,
}

/// The certificates of a key (SubjectPublicKeyInfo, DER) that are in force now: that of this authority, and those that were
/// imported.
pub fn in_force_for_key(
    store: &dyn Store,
    public_key: &[u8],
    now: Timestamp,
) -> Result<Vec<InForce>, CaError> {
    let digest: [u8; 32] = Sha256::digest(public_key).into();
    let mut found = imported_for_key(store, &digest, now)?;
    let own =
        store.get(CERTIFIED_KEYS, &digest)?.map(|row| in_force(store, &row.value)).transpose()?.flatten();
    let now = civil(now)?;
    found.extend(own.filter(|own| own.certificate.not_before() <= now && now <= own.certificate.not_after()));
    Ok(found)
}

/// That certificates found before under the certificate issuer of this key identifier are not revoked, when the deed is committed. One that
/// is, or is gone, is refused.
pub fn still_in_force(
    store: &dyn Store,
    ci_key_id: &[u8],
    serial_numbers: &[Vec<u8>],
    now: Timestamp,
) -> Result<Vec<Precondition>, CaError> {
    if let Some(anchor) = Anchor::of_key(store, ci_key_id)? {
        let serials: Vec<&[u8]> = serial_numbers.iter().map(Vec::as_slice).collect();
        return anchor.in_force(store, &serials, now)?.map_err(refused);
    }
    let mut unrevoked = Vec::new();
    for serial in serial_numbers {
        match store.get(CERTIFICATES, serial)? {
            // Of a manufacturer that certifies its devices itself: it is not ours to revoke.
            None => {}
            Some(_) => {
                let found = in_force(store, serial)?.ok_or_else(|| refused("a certificate was revoked"))?;
                unrevoked.extend(found.unrevoked);
            }
        }
    }
    Ok(unrevoked)
}

/// Verifies the certificates that an eUICC sent (DER), up to the certificate issuer of this key identifier: the GSMA chain rule,
/// validity, and the register. Under an issuer of the authority the manufacturer's certificate must be in the register; under an
/// anchor the EID must be one that it may vouch for, and its list must name neither. In both cases the eUICC's certificate must
/// be in the register, unless the manufacturer's key is its own.
pub fn verify_euicc(
    engines: &Engines,
    ci_key_id: &[u8],
    euicc: &[u8],
    eum: &[u8],
    now: Timestamp,
) -> Result<VerifiedEuicc, CaError> {
    let store = engines.store.as_ref();
    let read = |der: &[u8], whose: &str| {
        Certificate::from_der(der).map_err(|e| refused(format!("the {whose} certificate: {e}")))
    };
    let (euicc, eum) = (read(euicc, "eUICC's")?, read(eum, "EUM's")?);
    let unrevoked = match own_root(engines, ci_key_id)? {
        Some(root) => {
            chain_to(&root, &euicc, &eum, now)?;
            let eum_unrevoked =
                registered(store, &eum)?.ok_or_else(|| refused("the EUM is not registered here"))?;
            [eum_unrevoked, issued_here(store, &euicc, &eum)?].concat()
        }
        None => {
            let anchor = Anchor::of_key(store, ci_key_id)?
                .ok_or_else(|| refused("the certificate issuer is none of this authority, and no anchor"))?;
            chain_to(&anchor.certificate, &euicc, &eum, now)?;
            if !euicc.eid().is_some_and(|eid| anchor.vouches_for(&eid)) {
                return Err(refused(format!("the anchor {} may not vouch for this EID", anchor.name)));
            }
            let serials = [&euicc, &eum].map(|certificate| certificate.serial().as_bytes());
            let above = anchor.in_force(store, &serials, now)?.map_err(refused)?;
            [above, issued_here(store, &euicc, &eum)?].concat()
        }
    };
    let public_key = PublicKey::parse(euicc.spki(), KnownKeys::Allow).map_err(|e| refused(e.to_string()))?;
    Ok(VerifiedEuicc {
        eid: euicc.eid().ok_or_else(|| refused("the eUICC's certificate holds no EID"))?,
        public_key: public_key.ec().clone(),
        serial_numbers: [&euicc, &eum].map(|certificate| certificate.serial().as_bytes().to_vec()).to_vec(),
        unrevoked,
    })
}

/// The certificate of the authority's issuer of this key identifier.
fn own_root(engines: &Engines, ci_key_id: &[u8]) -> Result<Option<Certificate>, CaError> {
    let issuers = engines.issuers.all(engines.store.as_ref())?;
    let own = issuers.iter().filter(|issuer| issuer.party.is_empty());
    Ok(own
        .filter_map(|issuer| issuer.certificate.as_ref())
        .find(|certificate| certificate.subject_key_identifier() == Some(ci_key_id))
        .cloned())
}

fn chain_to(
    root: &Certificate,
    euicc: &Certificate,
    eum: &Certificate,
    now: Timestamp,
) -> Result<(), CaError> {
    let (intermediates, roots) = (std::slice::from_ref(eum), std::slice::from_ref(root));
    chain::verify_chain(euicc, intermediates, roots, ProfileName::Euicc, Some(civil(now)?))
        .map(drop)
        .map_err(|refusal| refused(refusal.to_string()))
}

/// That an eUICC's certificate is in the register and unrevoked; of a manufacturer with a key of its own it need not be there.
fn issued_here(
    store: &dyn Store,
    euicc: &Certificate,
    eum: &Certificate,
) -> Result<Vec<Precondition>, CaError> {
    match registered(store, euicc)? {
        Some(unrevoked) => Ok(unrevoked),
        None if is_issuer_of_ours(store, eum)? => {
            Err(refused("the eUICC's certificate is not in the register"))
        }
        None => Ok(Vec::new()),
    }
}

/// A certificate by its serial number, unless it is not issued, or revoked.
fn in_force(store: &dyn Store, serial: &[u8]) -> Result<Option<InForce>, CaError> {
    let Some(row) = store.get(CERTIFICATES, serial)? else { return Ok(None) };
    let record = records::Certificate::decode(&*row.value).map_err(|_| CaError::Record("certificate"))?;
    if record.state != "issued" {
        return Ok(None);
    }
    let certificate = Certificate::from_der(&record.der).map_err(CaError::Verification)?;
    let key = index_key(&record.issuer, &record.serial_number);
    let ci_key_id = certificate.authority_key_identifier().unwrap_or_default().to_vec();
    let unrevoked = vec![Precondition::Absent { keyspace: REVOCATIONS, key }];
    Ok(Some(InForce { certificate, ci_key_id, unrevoked }))
}

/// That a certificate is in the register, byte for byte, and not revoked; none when the register does not know it.
fn registered(store: &dyn Store, certificate: &Certificate) -> Result<Option<Vec<Precondition>>, CaError> {
    let serial = certificate.serial().as_bytes();
    if store.get(CERTIFICATES, serial)?.is_none() {
        return Ok(None);
    }
    match in_force(store, serial)? {
        Some(found) if found.certificate == *certificate => Ok(Some(found.unrevoked)),
        Some(_) => Err(refused("the register has another certificate of this serial number")),
        None => Err(refused("a certificate of the chain was revoked")),
    }
}

fn is_issuer_of_ours(store: &dyn Store, eum: &Certificate) -> Result<bool, CaError> {
    for (_, row) in store.scan(ISSUERS, &[], None, ISSUERS_MAX)? {
        let record = records::Issuer::decode(&*row.value).map_err(|_| CaError::Record("issuer"))?;
        if record.certificate == eum.der() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn civil(now: Timestamp) -> Result<CivilTime, CaError> {
    CivilTime::from_timestamp(now).map_err(|e| CaError::refused(ReasonCode::InvalidField, e.to_string()))
}

fn refused(why: impl std::fmt::Display) -> CaError {
    CaError::refused(ReasonCode::EuiccCertificateRefused, why.to_string())
}
