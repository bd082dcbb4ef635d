//! Certificate revocation lists (RFC 5280 §5): built from values, linted, assembled, and read back.
//!
//! A list is made in the four steps of a certificate: inputs give a [`TbsCertList`], [`lint()`] turns it into a
//! [`LintedTbsCertList`], a token signs its digest, [`LintedTbsCertList::assemble`] verifies and gives a [`Crl`]. A list is of one
//! issuer; what it covers of that issuer's certificates is its [`CrlScope`].

mod lint;
mod read;
mod scope;

use crate::certificate::{Certificate, signed};
use crate::civil_time::CivilTime;
use crate::der::{self, Writer};
use crate::error::PkiError;
use crate::key::{KnownKeys, PublicKey, curve_of};
use crate::oid;
use crate::serial::SerialNumber;
use domain::RevocationReason;
use ecc::{Hash, Signature};

pub use lint::{CrlFinding, CrlLintFindings, LintedTbsCertList, lint};
pub use read::{CRL_BYTES_MAX, Crl};
pub use scope::{CertificateKinds, CrlScope};

/// One certificate on a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RevokedCertificate {
    /// Its serial number.
    pub serial: SerialNumber,
    /// When it was revoked.
    pub revoked_at: CivilTime,
    /// Why; unspecified is not written (RFC 5280 §5.3.1).
    pub reason: RevocationReason,
    /// Since when its key is, or may be, in other hands, where that is known (RFC 5280 §5.3.2).
    pub invalid_since: Option<CivilTime>,
    /// When it ends anyway (id-rsp-expDate of SGP.22 v2), so that an eUICC may forget it then; on partial lists.
    pub expires: Option<CivilTime>,
}

/// A certificate that was held on the base of a delta list and is so no more (removeFromCRL, RFC 5280 §5.3.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemovedCertificate {
    /// Its serial number.
    pub serial: SerialNumber,
    /// When it was held.
    pub revoked_at: CivilTime,
}

/// Everything that a list says.
#[derive(Clone, Debug)]
pub struct CrlInputs<'a> {
    /// The issuer's certificate: gives name, key identifier and validity, and must allow the signing of lists.
    pub issuer: &'a Certificate,
    /// The number of the list, from 1, durable before anything is signed.
    pub number: u64,
    /// When the list was made.
    pub this_update: CivilTime,
    /// When the next one is out at the latest.
    pub next_update: CivilTime,
    /// The revoked certificates in any order, each once.
    pub revoked: Vec<RevokedCertificate>,
    /// Of a delta list: what it takes from its base, in any order, none of it revoked.
    pub removed: Vec<RemovedCertificate>,
    /// What the list covers.
    pub scope: CrlScope,
}

/// One line of a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Listed {
    Revoked(RevokedCertificate),
    Removed(RemovedCertificate),
}

impl Listed {
    pub(crate) const fn serial(&self) -> &SerialNumber {
        match self {
            Self::Revoked(entry) => &entry.serial,
            Self::Removed(entry) => &entry.serial,
        }
    }
}

impl CrlInputs<'_> {
    fn listed(&self) -> Vec<Listed> {
        let revoked = self.revoked.iter().cloned().map(Listed::Revoked);
        let mut listed: Vec<_> = revoked.chain(self.removed.iter().cloned().map(Listed::Removed)).collect();
        listed.sort_by(|a, b| numeric_order(a.serial()).cmp(&numeric_order(b.serial())));
        listed
    }
}

/// A TBSCertList in DER that nobody has checked yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TbsCertList(Vec<u8>);

impl TbsCertList {
    /// Takes bytes from elsewhere; only [`lint()`] says whether they are any good.
    pub const fn from_der(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Builds the bytes that the list's signature covers; the entries are put in the order of their serial numbers.
pub fn build_tbs(inputs: &CrlInputs<'_>) -> Result<TbsCertList, PkiError> {
    let key_identifier = issuer_key_identifier(inputs.issuer)?;
    let algorithm = oid::ecdsa_with(Hash::of(curve_of(inputs.issuer.spki())?));
    let listed = inputs.listed();
    Ok(TbsCertList(der::nested(der::SEQUENCE, |list| {
        // RFC 5280 §5.1.2.1: version 2, since there are extensions.
        list.element(der::INTEGER, &[1]);
        list.nested(der::SEQUENCE, |identifier| {
            identifier.element(der::OBJECT_IDENTIFIER, &oid::encode(algorithm));
        });
        list.raw(inputs.issuer.subject_name_der());
        write_time(list, inputs.this_update);
        write_time(list, inputs.next_update);
        // RFC 5280 §5.1.2.6: absent when there are none.
        if !listed.is_empty() {
            list.nested(der::SEQUENCE, |entries| {
                for entry in &listed {
                    write_entry(entries, entry);
                }
            });
        }
        list.nested(der::context_constructed(0), |wrapper| {
            wrapper.nested(der::SEQUENCE, |extensions| {
                for (oid, _, critical) in inputs.scope.rules() {
                    write_extension(extensions, oid, critical, |value| match oid {
                        oid::AUTHORITY_KEY_IDENTIFIER => {
                            value.nested(der::SEQUENCE, |identifier| {
                                identifier.element(der::context(0), &key_identifier);
                            });
                        }
                        oid::CRL_NUMBER => {
                            value.raw(&der::unsigned_integer(&inputs.number.to_be_bytes()));
                        }
                        _ => drop(value.raw(&inputs.scope.value(oid))),
                    });
                }
            });
        });
    })))
}

impl LintedTbsCertList {
    /// Joins the linted bytes with the token's signature r||s over their digest, reads the result back with other code, and
    /// verifies it under the issuer's certificate before it leaves.
    pub fn assemble(self, signature_rs: &Signature, issuer: &Certificate) -> Result<Crl, PkiError> {
        let crl = Crl::from_der(&signed(self.bytes(), signature_rs))?;
        let read_back = [
            ("body", crl.tbs_der() == self.bytes()),
            ("issuer", crl.issuer_name_der() == self.issuer_name_der),
            ("number", crl.number() == Some(self.number)),
            ("entries", crl.listed() == self.listed),
            ("scope", *crl.scope() == self.scope),
        ];
        if let Some((field, _)) = read_back.into_iter().find(|(_, same)| !same) {
            return Err(PkiError::ReadBackDiffers { field });
        }
        crl.verify(issuer)?;
        Ok(crl)
    }
}

impl Crl {
    /// Whether this is a list of `issuer`: name byte for byte, key identifier, permission to sign lists, and signature.
    pub fn verify(&self, issuer: &Certificate) -> Result<(), PkiError> {
        if self.issuer_name_der() != issuer.subject_name_der() {
            return Err(PkiError::CrlIssuerDiffers);
        }
        if self.authority_key_identifier() != Some(issuer_key_identifier(issuer)?.as_slice()) {
            return Err(PkiError::IssuerKeyDiffers);
        }
        if !issuer.may_sign_crls() {
            return Err(PkiError::CrlSigningNotAllowed);
        }
        // Whether a published key may be used was decided when the issuer was registered.
        PublicKey::parse(issuer.spki(), KnownKeys::Allow)?.verify(self.tbs_der(), self.signature())
    }
}

fn issuer_key_identifier(issuer: &Certificate) -> Result<[u8; 20], PkiError> {
    issuer.subject_key_identifier().and_then(|identifier| identifier.try_into().ok()).ok_or(
        PkiError::InvalidValue {
            field: "the issuer's certificate",
            rule: "has a key identifier of 20 octets",
        },
    )
}

/// Serial numbers are integers: a shorter one is smaller.
fn numeric_order(serial: &SerialNumber) -> (usize, &SerialNumber) {
    (serial.as_bytes().len(), serial)
}

fn write_entry(entries: &mut Writer, listed: &Listed) {
    let (serial, revoked_at, reason, invalid_since, expires) = match listed {
        Listed::Revoked(entry) => {
            // RFC 5280 §5.3.1: unspecified should be left out.
            let reason = Some(entry.reason).filter(|reason| *reason != RevocationReason::Unspecified);
            let code = reason.map(RevocationReason::code);
            (&entry.serial, entry.revoked_at, code, entry.invalid_since, entry.expires)
        }
        Listed::Removed(entry) => (&entry.serial, entry.revoked_at, Some(REMOVE_FROM_CRL), None, None),
    };
    entries.nested(der::SEQUENCE, |entry| {
        entry.raw(&der::unsigned_integer(serial.as_bytes()));
        write_time(entry, revoked_at);
        if reason.is_none() && invalid_since.is_none() && expires.is_none() {
            return;
        }
        entry.nested(der::SEQUENCE, |extensions| {
            if let Some(code) = reason {
                write_extension(extensions, oid::CRL_REASON, false, |value| {
                    value.element(der::ENUMERATED, &[code]);
                });
            }
            if let Some(since) = invalid_since {
                write_extension(extensions, oid::INVALIDITY_DATE, false, |value| {
                    // RFC 5280 §5.3.2: GeneralizedTime, whatever the year.
                    value.element(der::GENERALIZED_TIME, format!("{}Z", digits(since)).as_bytes());
                });
            }
            if let Some(at) = expires {
                write_extension(extensions, oid::EXPIRATION_DATE, false, |value| write_time(value, at));
            }
        });
    });
}

/// CRLReason of a delta list (RFC 5280 §5.3.1).
const REMOVE_FROM_CRL: u8 = 8;

fn write_extension(extensions: &mut Writer, oid: oid::Arcs, critical: bool, value: impl FnOnce(&mut Writer)) {
    extensions.nested(der::SEQUENCE, |extension| {
        extension.element(der::OBJECT_IDENTIFIER, &oid::encode(oid));
        if critical {
            extension.element(der::BOOLEAN, &[0xff]);
        }
        extension.nested(der::OCTET_STRING, value);
    });
}

/// RFC 5280 §5.1.2.4: UTCTime through 2049, GeneralizedTime from 2050.
fn write_time(writer: &mut Writer, time: CivilTime) {
    let digits = digits(time);
    let digits = if time.tag() == der::UTC_TIME { &digits[2..] } else { digits.as_str() };
    writer.element(time.tag(), format!("{digits}Z").as_bytes());
}

/// RFC 3339 without its punctuation is the form of RFC 5280, with the century.
fn digits(time: CivilTime) -> String {
    time.to_string().chars().filter(char::is_ascii_digit).collect()
}
