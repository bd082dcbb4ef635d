//! Whether certificates are in force now, and still are when a deed is committed: of servers by their keys, of eUICCs by
//! the GSMA rule and our register.

use domain::{Eid, ReasonCode, Timestamp};
use ecc::EcPublicKey;
use pki::chain::{self, VerifiedChain};
use pki::{Certificate, CertificateRole, CivilTime, KnownKeys, PublicKey};
use prost::Message;
use proto::records;
use sha2::{Digest, Sha256};
use store::{Precondition, Store};

use crate::anchors::{Anchor, revoked_by_anchor};
use crate::hierarchy::{Hierarchy, root_key_id};
use crate::imported::imported_for_key;
use crate::keyspaces::{CERTIFICATES, CERTIFIED_KEYS, ISSUERS, REVOCATIONS};
use crate::register_key::{RegisterKey, Registered, serial_of};
use crate::revocation::{Revocation, index_key, revocation_of};
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
    /// Its certificate and those above it but the root, for [`still_in_force`]: their rows in the register ([`crate::serial_of`]), or
    /// where it has none their serial numbers.
    pub rows: Vec<Vec<u8>>,
    /// Those of them that are revoked here. SGP.02 §2.3.2.3: whether it is served all the same is the operator's to say.
    pub revoked: Vec<(Vec<u8>, Revocation)>,
    /// That no other is revoked when the deed is committed.
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
        store.get(CERTIFIED_KEYS, &digest)?.map(|row| unrevoked(store, &row.value)).transpose()?.flatten();
    let now = civil(now)?;
    if let Some(Unrevoked { certificate, issuer, unrevoked }) = own
        && (certificate.not_before()..=certificate.not_after()).contains(&now)
    {
        let ci_key_id = root_key_id(store, &issuer)?;
        found.push(InForce { certificate, ci_key_id, unrevoked: vec![unrevoked] });
    }
    Ok(found)
}

/// That certificates found before under the certificate issuer of this key identifier are not revoked, when the deed is committed. One that
/// is, or is gone, is refused, but for those that were `accepted` as revoked.
pub fn still_in_force(
    store: &dyn Store,
    ci_key_id: &[u8],
    rows: &[Vec<u8>],
    accepted: &[Vec<u8>],
    now: Timestamp,
) -> Result<Vec<Precondition>, CaError> {
    let rows: Vec<&Vec<u8>> = rows.iter().filter(|row| !accepted.contains(row)).collect();
    let mut unrevoked = match Anchor::of_key(store, ci_key_id)? {
        Some(anchor) => {
            let serials: Vec<&[u8]> = rows.iter().map(|row| serial_of(row)).collect();
            anchor.in_force(store, &serials, now)?.map_err(refused)?
        }
        None => Vec::new(),
    };
    for row in rows {
        match store.get(CERTIFICATES, row)? {
            // Of a manufacturer that certifies its devices itself: it is not ours to revoke.
            None => {}
            Some(_) => {
                let found =
                    self::unrevoked(store, row)?.ok_or_else(|| refused("a certificate was revoked"))?;
                unrevoked.push(found.unrevoked);
            }
        }
    }
    Ok(unrevoked)
}

/// Verifies the certificates that an eUICC sent (DER), up to the certificate issuer of this key identifier: the GSMA chain rule,
/// validity, and the register. Under an issuer of the authority the manufacturer's certificate must be in the register; under an
/// anchor the EID must be one that it may vouch for, and its list, where one is needed, current. In both cases the eUICC's certificate must
/// be in the register, unless the manufacturer's key is its own. `others` stand between the manufacturer's and the root (SGP.22 v3).
/// What the register or the anchor's list revokes is said, not refused.
pub fn verify_euicc(
    engines: &Engines,
    ci_key_id: &[u8],
    euicc: &[u8],
    eum: &[u8],
    others: &[Vec<u8>],
    now: Timestamp,
) -> Result<VerifiedEuicc, CaError> {
    let store = engines.store.as_ref();
    let read = |der: &[u8], whose: &str| {
        Certificate::from_der(der).map_err(|e| refused(format!("the {whose} certificate: {e}")))
    };
    let (euicc, eum) = (read(euicc, "eUICC's")?, read(eum, "EUM's")?);
    let mut intermediates = vec![eum.clone()];
    for other in others {
        intermediates.push(read(other, "other")?);
    }
    let own = Hierarchy::of(engines)?;
    let mut found = Found::default();
    let chain = match own.root(ci_key_id) {
        Some(root) => {
            intermediates.extend(own.below.iter().cloned());
            let chain = chain_to(root, &euicc, &intermediates, now)?;
            found.issued_here(store, &euicc, &eum)?;
            let above = chain.certificates();
            for certificate in &above[1..above.len() - 1] {
                if !found.registered(store, certificate)? {
                    return Err(refused("the EUM is not registered here"));
                }
            }
            chain
        }
        None => {
            let anchor = Anchor::of_key(store, ci_key_id)?
                .ok_or_else(|| refused("the certificate issuer is none of this authority, and no anchor"))?;
            // Sub CAs of the authority may stand below an anchor.
            intermediates.extend(own.below.iter().cloned());
            let chain = chain_to(&anchor.certificate, &euicc, &intermediates, now)?;
            if !euicc.eid().is_some_and(|eid| anchor.vouches_for(&eid)) {
                return Err(refused(format!("the anchor {} may not vouch for this EID", anchor.name)));
            }
            found.issued_here(store, &euicc, &eum)?;
            let above = chain.certificates();
            // What our own sub CAs under it issued is in the register too.
            for certificate in &above[1..above.len() - 1] {
                found.registered(store, certificate)?;
            }
            found.under(store, &anchor, &above[..above.len() - 1], now)?;
            chain
        }
    };
    let above = chain.certificates();
    let public_key = PublicKey::parse(euicc.spki(), KnownKeys::Allow).map_err(|e| refused(e.to_string()))?;
    Ok(VerifiedEuicc {
        eid: euicc.eid().ok_or_else(|| refused("the eUICC's certificate holds no EID"))?,
        public_key: public_key.ec().clone(),
        rows: above[..above.len() - 1].iter().map(|c| found.row(c)).collect(),
        revoked: found.revoked,
        unrevoked: found.unrevoked,
    })
}

fn chain_to(
    root: &Certificate,
    euicc: &Certificate,
    intermediates: &[Certificate],
    now: Timestamp,
) -> Result<VerifiedChain, CaError> {
    let roots = std::slice::from_ref(root);
    chain::verify_chain(euicc, intermediates, roots, CertificateRole::Euicc, Some(civil(now)?))
        .map_err(|refusal| refused(refusal.to_string()))
}

/// What the register says of the certificates of a chain.
#[derive(Default)]
struct Found {
    rows: Vec<RegisterKey>,
    revoked: Vec<(Vec<u8>, Revocation)>,
    unrevoked: Vec<Precondition>,
}

impl Found {
    /// Takes a certificate that is in the register byte for byte; false when the register does not know it.
    fn registered(&mut self, store: &dyn Store, certificate: &Certificate) -> Result<bool, CaError> {
        let serial = certificate.serial().as_bytes();
        let Some(Registered { key, record, .. }) = Registered::of_certificate(store, certificate)? else {
            return match store.get(CERTIFICATES, serial)? {
                Some(_) => Err(refused("the register has another certificate of this serial number")),
                None => Ok(false),
            };
        };
        match revocation_of(&record)? {
            Some(revocation) => self.revoked.push((key.as_bytes().to_vec(), revocation)),
            None => {
                let key = index_key(&record.issuer, serial);
                self.unrevoked.push(Precondition::Absent { keyspace: REVOCATIONS, key });
            }
        }
        self.rows.push(key);
        Ok(true)
    }

    /// Takes what an anchor's list says of certificates of its hierarchy.
    fn under(
        &mut self,
        store: &dyn Store,
        anchor: &Anchor,
        certificates: &[Certificate],
        now: Timestamp,
    ) -> Result<(), CaError> {
        let mut others = Vec::new();
        for certificate in certificates {
            let serial = certificate.serial().as_bytes();
            match revoked_by_anchor(store, &anchor.name, serial)? {
                Some((at, reason)) => {
                    let row = self.row(certificate);
                    if self.revoked.iter().all(|(known, _)| *known != row) {
                        self.revoked.push((row, Revocation { at, reason }));
                    }
                }
                None => others.push(serial),
            }
        }
        self.unrevoked.extend(anchor.in_force(store, &others, now)?.map_err(refused)?);
        Ok(())
    }

    /// The row of a certificate that was taken; its serial number when the register has none.
    fn row(&self, certificate: &Certificate) -> Vec<u8> {
        let serial = certificate.serial().as_bytes();
        let row = self.rows.iter().find(|row| serial_of(row.as_bytes()) == serial);
        row.map_or(serial, RegisterKey::as_bytes).to_vec()
    }

    /// Takes an eUICC's certificate; of a manufacturer with a key of its own it need not be in the register.
    fn issued_here(
        &mut self,
        store: &dyn Store,
        euicc: &Certificate,
        eum: &Certificate,
    ) -> Result<(), CaError> {
        if !self.registered(store, euicc)? && is_issuer_of_ours(store, eum)? {
            return Err(refused("the eUICC's certificate is not in the register"));
        }
        Ok(())
    }
}

/// A certificate of the register that is not revoked.
struct Unrevoked {
    certificate: Certificate,
    /// Name of its issuer.
    issuer: String,
    /// That it is unrevoked still when the deed is committed.
    unrevoked: Precondition,
}

/// A certificate by its row in the register, unless it is not issued, or revoked.
fn unrevoked(store: &dyn Store, row: &[u8]) -> Result<Option<Unrevoked>, CaError> {
    let Some(found) = Registered::of_key(store, RegisterKey::from_bytes(row))? else { return Ok(None) };
    let record = found.record;
    if record.state != "issued" {
        return Ok(None);
    }
    let certificate = Certificate::from_der(&record.der).map_err(CaError::Verification)?;
    let key = index_key(&record.issuer, &record.serial_number);
    let unrevoked = Precondition::Absent { keyspace: REVOCATIONS, key };
    Ok(Some(Unrevoked { certificate, issuer: record.issuer, unrevoked }))
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
