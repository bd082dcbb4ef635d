//! Whether certificates are in force now, and still are when a deed is committed: of servers by their keys, of eUICCs by
//! the GSMA rule and our register.

use domain::{Eid, ReasonCode, Timestamp};
use ecc::EcPublicKey;
use pki::{Certificate, CivilTime, KnownKeys, ProfileName, PublicKey, chain};
use prost::Message;
use proto::records;
use sha2::{Digest, Sha256};
use store::{Precondition, Store};

use crate::keyspaces::{CERTIFICATES, CERTIFIED_KEYS, ISSUERS, REVOCATIONS};
use crate::revocation::index_key;
use crate::{CaError, Engines};

/// Issuers that are looked at for one certificate.
const ISSUERS_MAX: usize = 10_000;

/// A certificate of the register that is in force.
#[derive(Clone)]
pub struct InForce {
    /// The certificate.
    pub certificate: Certificate,
    /// That it is not revoked when the deed is committed.
    pub unrevoked: Precondition,
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

/// The certificate of a key (SubjectPublicKeyInfo, DER), if it has one that is in force now.
pub fn in_force_for_key(
    store: &dyn Store,
    public_key: &[u8],
    now: Timestamp,
) -> Result<Option<InForce>, CaError> {
    let digest: [u8; 32] = Sha256::digest(public_key).into();
    let Some(serial) = store.get(CERTIFIED_KEYS, &digest)? else { return Ok(None) };
    let Some(found) = in_force(store, &serial.value)? else { return Ok(None) };
    let now = civil(now)?;
    let is_valid = found.certificate.not_before() <= now && now <= found.certificate.not_after();
    Ok(Some(found).filter(|_| is_valid))
}

/// That certificates found before are not revoked, when the deed is committed. One that is, or is gone, is refused.
pub fn still_in_force(store: &dyn Store, serial_numbers: &[Vec<u8>]) -> Result<Vec<Precondition>, CaError> {
    let mut unrevoked = Vec::new();
    for serial in serial_numbers {
        match store.get(CERTIFICATES, serial)? {
            // Of a manufacturer that certifies its devices itself: it is not ours to revoke.
            None => {}
            Some(_) => {
                let found = in_force(store, serial)?.ok_or_else(|| refused("a certificate was revoked"))?;
                unrevoked.push(found.unrevoked);
            }
        }
    }
    Ok(unrevoked)
}

/// Verifies the certificates that an eUICC sent (DER), up to the authority's issuer of this key identifier: the GSMA chain rule, validity, and the
/// register. The manufacturer's certificate must be in the register; so must the eUICC's, unless the manufacturer's key is
/// its own.
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
    let issuers = engines.issuers.all(store)?;
    let root = issuers
        .iter()
        .filter(|issuer| issuer.party.is_empty())
        .filter_map(|issuer| issuer.certificate.as_ref())
        .find(|certificate| certificate.subject_key_identifier() == Some(ci_key_id))
        .ok_or_else(|| refused("the certificate issuer is none of this authority"))?;
    chain::verify_chain(
        &euicc,
        std::slice::from_ref(&eum),
        std::slice::from_ref(root),
        ProfileName::Euicc,
        Some(civil(now)?),
    )
    .map_err(|refusal| refused(refusal.to_string()))?;
    let mut unrevoked =
        vec![registered(store, &eum)?.ok_or_else(|| refused("the EUM is not registered here"))?];
    match registered(store, &euicc)? {
        Some(precondition) => unrevoked.push(precondition),
        None if is_issuer_of_ours(store, &eum)? => {
            return Err(refused("the eUICC's certificate is not in the register"));
        }
        None => {}
    }
    let public_key = PublicKey::parse(euicc.spki(), KnownKeys::Allow).map_err(|e| refused(e.to_string()))?;
    Ok(VerifiedEuicc {
        eid: euicc.eid().ok_or_else(|| refused("the eUICC's certificate holds no EID"))?,
        public_key: public_key.ec().clone(),
        serial_numbers: [&euicc, &eum].map(|certificate| certificate.serial().as_bytes().to_vec()).to_vec(),
        unrevoked,
    })
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
    Ok(Some(InForce { certificate, unrevoked: Precondition::Absent { keyspace: REVOCATIONS, key } }))
}

/// That a certificate is in the register, byte for byte, and not revoked; none when the register does not know it.
fn registered(store: &dyn Store, certificate: &Certificate) -> Result<Option<Precondition>, CaError> {
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
