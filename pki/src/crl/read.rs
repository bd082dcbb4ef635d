//! Reads lists, ours after signing and those of others, with other code than the one that builds them.

use super::lint::{compare, read_number, read_time};
use super::scope::{CrlScope, is_critical};
use super::{Listed, REMOVE_FROM_CRL, RemovedCertificate, RevokedCertificate};
use crate::certificate::range_in;
use crate::civil_time::CivilTime;
use crate::error::PkiError;
use crate::serial::SerialNumber;
use crate::{der, oid, pem};
use domain::RevocationReason;
use sha2::{Digest, Sha256};
use std::fmt;
use std::ops::Range;
use x509_parser::extensions::{ParsedExtension, X509Extension};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::{self, CertificateRevocationList};
use x509_parser::x509::X509Version;

/// Bytes of the largest list that is read, PEM or DER.
pub const CRL_BYTES_MAX: usize = 16 * 1024 * 1024;

const LABEL: &str = "X509 CRL";

/// A revocation list that parses; [`Crl::verify`] says whose it is.
///
/// Read are lists of version 2 of one issuer whose critical extensions are those of a [`CrlScope`], whose entries say one of our
/// reasons, and whose serial numbers are positive. What is not understood is refused: RFC 5280 §5.2 forbids its use.
#[derive(Clone, PartialEq, Eq)]
pub struct Crl {
    der: Vec<u8>,
    tbs: Range<usize>,
    issuer: Range<usize>,
    signature: Range<usize>,
    this_update: CivilTime,
    next_update: CivilTime,
    number: Vec<u8>,
    authority_key_identifier: Option<Vec<u8>>,
    scope: CrlScope,
    // In the order of the serial numbers.
    revoked: Vec<RevokedCertificate>,
    removed: Vec<RemovedCertificate>,
}

impl Crl {
    /// Parses one list, PEM (`X509 CRL`) or DER, of at most 8 MiB.
    pub fn parse(bytes: &[u8]) -> Result<Self, PkiError> {
        if pem::is_pem(bytes) {
            Self::from_der(&pem::decode(bytes, LABEL, CRL_BYTES_MAX)?)
        } else {
            Self::from_der(bytes)
        }
    }

    /// Parses one list in DER of at most 8 MiB; nothing may follow it.
    pub fn from_der(bytes: &[u8]) -> Result<Self, PkiError> {
        if bytes.len() > CRL_BYTES_MAX {
            return Err(PkiError::TooLarge { what: "the revocation list", limit: CRL_BYTES_MAX });
        }
        if !der::is_canonical(bytes) {
            return Err(malformed("not DER"));
        }
        let (rest, parsed) =
            CertificateRevocationList::from_der(bytes).map_err(|_| malformed("not a revocation list"))?;
        if !rest.is_empty() {
            return Err(malformed("bytes after the revocation list"));
        }
        let tbs = &parsed.tbs_cert_list;
        if tbs.version != Some(X509Version(1)) {
            return Err(malformed("not version 2"));
        }
        // RFC 5280 §5.1.1.2: inside and outside the same.
        if tbs.signature != parsed.signature_algorithm {
            return Err(malformed("two signature algorithms"));
        }
        let next_update = tbs.next_update.ok_or_else(|| malformed("no nextUpdate"))?;
        let mut number = None;
        let mut authority_key_identifier = None;
        let mut scope = CrlScope::default();
        check_extensions(tbs.extensions(), is_critical)?;
        for extension in tbs.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::CRLNumber(_) => number = read_number(extension.value),
                ParsedExtension::AuthorityKeyIdentifier(identifier) => {
                    authority_key_identifier = identifier.key_identifier.as_ref().map(|id| id.0.to_vec());
                }
                _ => {
                    let oid = oid::decode(extension.oid.as_bytes()).unwrap_or_default();
                    scope
                        .take(&oid, extension.value)
                        .ok_or_else(|| malformed("what it covers is not understood"))?;
                }
            }
        }
        if !scope.is_consistent() {
            return Err(malformed("a part without its number or their total"));
        }
        let mut listed =
            tbs.revoked_certificates.iter().map(read_entry).collect::<Result<Vec<_>, PkiError>>()?;
        listed.sort_by(|a, b| compare(a.serial(), b.serial()));
        if listed.windows(2).any(|pair| pair[0].serial() == pair[1].serial()) {
            return Err(malformed("a serial number occurs twice"));
        }
        let (mut revoked, mut removed) = (Vec::with_capacity(listed.len()), Vec::new());
        for entry in listed {
            match entry {
                Listed::Revoked(entry) => revoked.push(entry),
                Listed::Removed(entry) => removed.push(entry),
            }
        }
        if scope.base.is_none() && !removed.is_empty() {
            return Err(malformed("removeFromCRL on a list that is no delta"));
        }
        let range = |part: &[u8]| range_in(bytes, part).ok_or_else(|| malformed("not DER"));
        Ok(Self {
            tbs: range(tbs.as_ref())?,
            issuer: range(tbs.issuer.as_raw())?,
            signature: range(&parsed.signature_value.data)?,
            this_update: CivilTime::from_datetime(tbs.this_update.to_datetime())?,
            next_update: CivilTime::from_datetime(next_update.to_datetime())?,
            number: number.ok_or_else(|| malformed("no positive number of at most 20 octets"))?,
            authority_key_identifier,
            scope,
            revoked,
            removed,
            der: bytes.to_vec(),
        })
    }

    /// The list in DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The list as a PEM block.
    pub fn pem(&self) -> String {
        pem::encode(&self.der, LABEL).to_string()
    }

    /// SHA-256 of the DER.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.der).into()
    }

    /// The signed bytes.
    pub fn tbs_der(&self) -> &[u8] {
        &self.der[self.tbs.clone()]
    }

    /// The issuer name in DER.
    pub fn issuer_name_der(&self) -> &[u8] {
        &self.der[self.issuer.clone()]
    }

    /// The octets of the signature's BIT STRING.
    pub fn signature(&self) -> &[u8] {
        &self.der[self.signature.clone()]
    }

    /// The keyIdentifier of the authority key identifier, when it is there.
    pub fn authority_key_identifier(&self) -> Option<&[u8]> {
        self.authority_key_identifier.as_deref()
    }

    /// The number of the list; absent when it takes more than 64 bits, as none of ours does.
    pub fn number(&self) -> Option<u64> {
        let missing = 8usize.checked_sub(self.number.len())?;
        let mut octets = [0; 8];
        octets[missing..].copy_from_slice(&self.number);
        Some(u64::from_be_bytes(octets))
    }

    /// When the list was made.
    pub const fn this_update(&self) -> CivilTime {
        self.this_update
    }

    /// When the next one is out at the latest.
    pub const fn next_update(&self) -> CivilTime {
        self.next_update
    }

    /// Whether the list speaks for the moment `at`: made by then, and not overdue.
    pub fn is_current(&self, at: CivilTime) -> bool {
        (self.this_update..=self.next_update).contains(&at)
    }

    /// The revoked certificates in the order of their serial numbers.
    pub fn revoked(&self) -> &[RevokedCertificate] {
        &self.revoked
    }

    /// What the list covers of its issuer's certificates.
    pub const fn scope(&self) -> &CrlScope {
        &self.scope
    }

    /// Of a delta list: what it takes from its base, in the order of the serial numbers.
    pub fn removed(&self) -> &[RemovedCertificate] {
        &self.removed
    }

    pub(super) fn listed(&self) -> Vec<Listed> {
        let mut listed: Vec<_> = self.revoked.iter().cloned().map(Listed::Revoked).collect();
        listed.extend(self.removed.iter().cloned().map(Listed::Removed));
        listed.sort_by(|a, b| compare(a.serial(), b.serial()));
        listed
    }

    /// The entry of a serial number: its certificate is revoked. Whether the list is its issuer's is for [`Crl::verify`].
    pub fn find(&self, serial: &SerialNumber) -> Option<&RevokedCertificate> {
        self.revoked.binary_search_by(|entry| compare(&entry.serial, serial)).ok().map(|at| &self.revoked[at])
    }
}

impl fmt::Debug for Crl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Crl({} entries, {})", self.revoked.len(), hex::encode(self.digest()))
    }
}

fn read_entry(entry: &revocation_list::RevokedCertificate<'_>) -> Result<Listed, PkiError> {
    check_extensions(entry.extensions(), |_| false)?;
    let serial = SerialNumber::from_content(entry.raw_serial())?;
    let revoked_at = CivilTime::from_datetime(entry.revocation_date.to_datetime())?;
    let (mut reason, mut invalid_since, mut expires) = (RevocationReason::Unspecified, None, None);
    for extension in entry.extensions() {
        let name = oid::decode(extension.oid.as_bytes()).unwrap_or_default();
        if name == oid::EXPIRATION_DATE {
            expires = Some(read_time(extension.value).ok_or_else(|| malformed("an expiration date"))?);
        }
        if name == oid::CRL_REASON {
            let [der::ENUMERATED, 1, code] = extension.value else {
                return Err(malformed("a reason code is no ENUMERATED"));
            };
            if *code == REMOVE_FROM_CRL {
                return Ok(Listed::Removed(RemovedCertificate { serial, revoked_at }));
            }
            reason = RevocationReason::from_code(*code)
                .ok_or_else(|| malformed("a reason that is not known, or of no full list"))?;
        }
        if let ParsedExtension::InvalidityDate(since) = extension.parsed_extension() {
            invalid_since = Some(CivilTime::from_datetime(since.to_datetime())?);
        }
    }
    Ok(Listed::Revoked(RevokedCertificate { serial, revoked_at, reason, invalid_since, expires }))
}

/// Each at most once, each readable, and none critical that is not known to be (RFC 5280 §5.2 and §5.3).
fn check_extensions(
    extensions: &[X509Extension<'_>],
    may_be_critical: fn(&[u64]) -> bool,
) -> Result<(), PkiError> {
    for (index, extension) in extensions.iter().enumerate() {
        if extensions[..index].iter().any(|other| other.oid == extension.oid) {
            return Err(malformed("an extension occurs twice"));
        }
        if extension.critical && !may_be_critical(&oid::decode(extension.oid.as_bytes()).unwrap_or_default())
        {
            return Err(malformed("a critical extension that is not understood"));
        }
        if matches!(extension.parsed_extension(), ParsedExtension::ParseError { .. }) {
            return Err(malformed("an extension does not parse"));
        }
        if !der::is_canonical(extension.value) {
            return Err(malformed("an extension is not DER"));
        }
    }
    Ok(())
}

const fn malformed(why: &'static str) -> PkiError {
    PkiError::Malformed { what: "the revocation list", why }
}
