//! Checks the exact bytes of a list before a token signs them, with a reader that shares no code with the writer.

use super::{
    CrlInputs, CrlScope, Listed, REMOVE_FROM_CRL, RemovedCertificate, RevokedCertificate, TbsCertList,
};
use crate::civil_time::CivilTime;
use crate::der::{self, Element, Reader};
use crate::key::curve_of;
use crate::lint::{sha256_of, shape};
use crate::oid;
use crate::serial::SerialNumber;
use domain::{Curve, RevocationReason};
use ecc::Hash;
use std::fmt;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list;
use x509_parser::x509::X509Version;

/// One thing that is wrong with a TBSCertList.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CrlFinding {
    /// The issuer's certificate has no keyUsage cRLSign, no key identifier of 20 octets, or a key on no curve of ours.
    #[error("the issuer's certificate does not allow it to sign revocation lists")]
    IssuerMayNot,
    /// The list would begin outside the validity of the issuer's certificate.
    #[error("thisUpdate lies outside the validity of the issuer's certificate")]
    IssuerValidity,
    /// The reader cannot read it as a TBSCertList.
    #[error("not a TBSCertList")]
    Unreadable,
    /// Something follows the TBSCertList.
    #[error("bytes after the TBSCertList")]
    TrailingBytes,
    /// Readable, but not in DER, or not with the tags of RFC 5280 appendix A.
    #[error("not a TBSCertList in DER")]
    NotDer,
    /// RFC 5280 §5.1.2.1: not version 2.
    #[error("the version is not 2")]
    Version,
    /// Not the ecdsa-with-SHA2 of the issuer's curve without parameters (RFC 5758 §3.2).
    #[error("the signature algorithm is not that of the issuer's curve without parameters")]
    SignatureAlgorithm,
    /// Not the issuer's subject name byte for byte.
    #[error("the issuer name is not the issuer's subject name byte for byte")]
    IssuerDiffers,
    /// RFC 5280 §5.1.2.4 to §5.1.2.6: UTCTime through 2049, GeneralizedTime from 2050, both to the second in Z.
    #[error("a time is encoded in another form than RFC 5280 §5.1.2.4 says")]
    TimeEncoding,
    /// thisUpdate or nextUpdate is another time than was asked for, or nextUpdate is absent.
    #[error("thisUpdate or nextUpdate is another time than was asked for")]
    TimeDiffers,
    /// nextUpdate is not after thisUpdate.
    #[error("nextUpdate is not after thisUpdate")]
    TimeOrder,
    /// RFC 5280 §5.1.2.6: the list of revoked certificates is there and empty.
    #[error("an empty list of revoked certificates")]
    EmptyList,
    /// A serial number that is zero, negative, not minimal, or more than 20 octets.
    #[error("a serial number is not positive, not minimal, or takes more than 20 octets")]
    SerialNumber,
    /// The entries are not in the order of their serial numbers.
    #[error("the entries are not in the order of their serial numbers")]
    EntryOrder,
    /// A serial number twice.
    #[error("the serial number {0} occurs twice")]
    EntryRepeated(SerialNumber),
    /// An entry that was not asked for, is missing, or says something else.
    #[error("the entries are not those asked for")]
    EntriesDiffer,
    /// Revoked later than the list was made.
    #[error("the certificate {0} is revoked after thisUpdate")]
    RevokedLater(SerialNumber),
    /// An entry extension other than a reasonCode of a known reason that is not unspecified, an invalidityDate and an expiration date, none
    /// critical.
    #[error(
        "the entry {0} has an extension other than a reason code that says something, an invalidity date and an expiration date"
    )]
    EntryExtension(SerialNumber),
    /// removeFromCRL on a list that is no delta, freshestCRL on one that is, or an expiration date on one that is no partial list.
    #[error("what the list says is not for a list of its scope")]
    Scope,
    /// It covers something else than was asked for.
    #[error("the list covers something else than was asked for")]
    ScopeDiffers,
    /// An extension is not there.
    #[error("the extension {0} is missing")]
    ExtensionMissing(&'static str),
    /// An extension that our lists do not have, or one twice, by its dotted object identifier.
    #[error("the extension {0} does not belong there")]
    ExtensionUnexpected(String),
    /// The extensions stand in another order.
    #[error("the extensions are not in their order")]
    ExtensionOrder,
    /// RFC 5280 §5.2: marked critical, or not, against the rule.
    #[error("the extension {0} has the wrong criticality")]
    ExtensionCritical(&'static str),
    /// The extension says something else than was asked for.
    #[error("the extension {0} has another value than was asked for")]
    ExtensionValue(&'static str),
    /// RFC 5280 §5.2.3: zero, negative, not minimal, or more than 20 octets.
    #[error("the number is not positive, not minimal, or takes more than 20 octets")]
    Number,
}

/// Why bytes may not be signed: one finding or more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CrlLintFindings {
    /// What is wrong.
    pub findings: Vec<CrlFinding>,
}

impl fmt::Display for CrlLintFindings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the revocation list breaks its rules")?;
        for (index, finding) in self.findings.iter().enumerate() {
            write!(f, "{}{finding}", if index == 0 { ": " } else { "; " })?;
        }
        Ok(())
    }
}

impl std::error::Error for CrlLintFindings {}

/// A TBSCertList that passed [`lint`]: the only thing whose digest goes to a token, and used up by
/// [`LintedTbsCertList::assemble`].
#[derive(Debug)]
pub struct LintedTbsCertList {
    bytes: Vec<u8>,
    digest: ecc::Digest,
    pub(super) issuer_name_der: Vec<u8>,
    pub(super) number: u64,
    pub(super) listed: Vec<Listed>,
    pub(super) scope: CrlScope,
}

impl LintedTbsCertList {
    /// The bytes that are signed.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The digest of the bytes for the issuer's curve: what the token signs.
    pub const fn digest(&self) -> ecc::Digest {
        self.digest
    }

    /// SHA-256 of the bytes, whatever is signed: what they are known by.
    pub fn sha256(&self) -> [u8; 32] {
        sha256_of(&self.bytes, &self.digest)
    }

    /// The number of the list.
    pub const fn number(&self) -> u64 {
        self.number
    }
}

/// Reads the exact bytes and compares every field with RFC 5280 and the inputs. All findings are reported.
pub fn lint(inputs: &CrlInputs<'_>, tbs: TbsCertList) -> Result<LintedTbsCertList, CrlLintFindings> {
    let Ok(curve) = curve_of(inputs.issuer.spki()) else {
        return Err(CrlLintFindings { findings: vec![CrlFinding::IssuerMayNot] });
    };
    let mut listed: Vec<_> = inputs.revoked.iter().cloned().map(Listed::Revoked).collect();
    listed.extend(inputs.removed.iter().cloned().map(Listed::Removed));
    listed.sort_by(|a, b| compare(a.serial(), b.serial()));
    let findings = findings(inputs, curve, &listed, tbs.bytes());
    if !findings.is_empty() {
        return Err(CrlLintFindings { findings });
    }
    Ok(LintedTbsCertList {
        digest: ecc::Digest::of(curve, tbs.bytes()),
        bytes: tbs.into_bytes(),
        issuer_name_der: inputs.issuer.subject_name_der().to_vec(),
        number: inputs.number,
        listed,
        scope: inputs.scope.clone(),
    })
}

fn findings(inputs: &CrlInputs<'_>, curve: Curve, asked: &[Listed], bytes: &[u8]) -> Vec<CrlFinding> {
    let mut found = Vec::new();
    check_issuer(inputs, &mut found);
    if !shape::TBS_CERT_LIST.is_all_of(bytes) || !der::is_canonical(bytes) {
        found.push(CrlFinding::NotDer);
    }
    let fields = crate::lint::top_level_fields(bytes).unwrap_or_default();
    // The reader takes an empty list for an absent one.
    let list = fields.get(5).filter(|field| field.tag == der::SEQUENCE);
    if list.is_some_and(|list| list.content.is_empty()) {
        found.push(CrlFinding::EmptyList);
    }
    let Ok((rest, tbs)) = revocation_list::TbsCertList::from_der(bytes) else {
        found.push(CrlFinding::Unreadable);
        return found;
    };
    if !rest.is_empty() {
        found.push(CrlFinding::TrailingBytes);
    }
    if tbs.version != Some(X509Version(1)) {
        found.push(CrlFinding::Version);
    }
    let algorithm = oid::decode(tbs.signature.algorithm.as_bytes());
    let expected = oid::ecdsa_with(Hash::of(curve));
    if algorithm.as_deref() != Some(expected) || tbs.signature.parameters.is_some() {
        found.push(CrlFinding::SignatureAlgorithm);
    }
    if tbs.issuer.as_raw() != inputs.issuer.subject_name_der() {
        found.push(CrlFinding::IssuerDiffers);
    }
    check_times(inputs, &fields, &tbs, &mut found);
    check_entries(inputs, asked, list, &tbs, &mut found);
    check_extensions(inputs, &tbs, &mut found);
    found
}

fn check_issuer(inputs: &CrlInputs<'_>, found: &mut Vec<CrlFinding>) {
    let identified = inputs.issuer.subject_key_identifier().is_some_and(|identifier| identifier.len() == 20);
    if !identified || !inputs.issuer.may_sign_crls() {
        found.push(CrlFinding::IssuerMayNot);
    }
    if !(inputs.issuer.not_before()..=inputs.issuer.not_after()).contains(&inputs.this_update) {
        found.push(CrlFinding::IssuerValidity);
    }
}

fn check_times(
    inputs: &CrlInputs<'_>,
    fields: &[Element<'_>],
    tbs: &revocation_list::TbsCertList<'_>,
    found: &mut Vec<CrlFinding>,
) {
    let this_update = CivilTime::from_datetime(tbs.this_update.to_datetime()).ok();
    let next_update = tbs.next_update.and_then(|time| CivilTime::from_datetime(time.to_datetime()).ok());
    if this_update != Some(inputs.this_update) || next_update != Some(inputs.next_update) {
        found.push(CrlFinding::TimeDiffers);
    }
    if next_update <= this_update {
        found.push(CrlFinding::TimeOrder);
    }
    let well_formed = fields.get(3).is_some_and(|time| is_in_form(time, this_update))
        && fields.get(4).is_some_and(|time| is_in_form(time, next_update));
    if !well_formed {
        found.push(CrlFinding::TimeEncoding);
    }
}

/// RFC 5280 §4.1.2.5: to the second, in Z, in the type of the year.
fn is_in_form(time: &Element<'_>, read: Option<CivilTime>) -> bool {
    let digits = if time.tag == der::UTC_TIME { 12 } else { 14 };
    time.content.len() == digits + 1
        && time.content[..digits].iter().all(u8::is_ascii_digit)
        && time.content[digits] == b'Z'
        && read.is_some_and(|read| read.tag() == time.tag)
}

fn check_entries(
    inputs: &CrlInputs<'_>,
    asked: &[Listed],
    list: Option<&Element<'_>>,
    tbs: &revocation_list::TbsCertList<'_>,
    found: &mut Vec<CrlFinding>,
) {
    let mut written = Reader::new(list.map(|list| list.content).unwrap_or_default());
    let mut previous: Option<SerialNumber> = None;
    let mut same = tbs.revoked_certificates.len() == asked.len();
    for (index, entry) in tbs.revoked_certificates.iter().enumerate() {
        let Ok(serial) = SerialNumber::from_content(entry.raw_serial()) else {
            found.push(CrlFinding::SerialNumber);
            continue;
        };
        if let Some(previous) = &previous {
            match compare(previous, &serial) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => found.push(CrlFinding::EntryRepeated(serial.clone())),
                std::cmp::Ordering::Greater => found.push(CrlFinding::EntryOrder),
            }
        }
        let revoked_at = CivilTime::from_datetime(entry.revocation_date.to_datetime()).ok();
        if revoked_at.is_none_or(|at| at > inputs.this_update) {
            found.push(CrlFinding::RevokedLater(serial.clone()));
        }
        let time = written.enter(der::SEQUENCE).and_then(|mut entry| entry.next().and(entry.next()));
        if !time.is_ok_and(|time| is_in_form(&time, revoked_at)) {
            found.push(CrlFinding::TimeEncoding);
        }
        let said = said_by(entry);
        if said.is_none() {
            found.push(CrlFinding::EntryExtension(serial.clone()));
        }
        let read = said.zip(revoked_at).map(|(said, at)| said.of(serial.clone(), at));
        same &= read.as_ref() == asked.get(index);
        previous = Some(serial);
    }
    if !same {
        found.push(CrlFinding::EntriesDiffer);
    }
    let scope = &inputs.scope;
    let expires = |listed: &Listed| matches!(listed, Listed::Revoked(entry) if entry.expires.is_some());
    if (scope.base.is_none() && !inputs.removed.is_empty())
        || (scope.base.is_some() && !scope.freshest.is_empty())
        || (scope.part.is_none() && asked.iter().any(expires))
        || !scope.is_consistent()
    {
        found.push(CrlFinding::Scope);
    }
}

/// What the extensions of an entry say.
#[derive(Clone, Copy)]
struct Said {
    /// Absent for removeFromCRL.
    reason: Option<RevocationReason>,
    since: Option<CivilTime>,
    expires: Option<CivilTime>,
}

impl Said {
    fn of(self, serial: SerialNumber, revoked_at: CivilTime) -> Listed {
        match self.reason {
            None => Listed::Removed(RemovedCertificate { serial, revoked_at }),
            Some(reason) => Listed::Revoked(RevokedCertificate {
                serial,
                revoked_at,
                reason,
                invalid_since: self.since,
                expires: self.expires,
            }),
        }
    }
}

/// What the entry's extensions say: the reason, since when the key may be in other hands, and when the certificate ends. Absent when
/// they say something that our lists never do, or in another order.
fn said_by(entry: &revocation_list::RevokedCertificate<'_>) -> Option<Said> {
    let (mut reason, mut since, mut expires) = (Some(RevocationReason::Unspecified), None, None);
    let mut rest = entry.extensions();
    // Present means with a content: RFC 5280 has no empty list of extensions, which the shape sees.
    if let [first, others @ ..] = rest
        && let (ParsedExtension::ReasonCode(code), [der::ENUMERATED, 1, _]) =
            (first.parsed_extension(), first.value)
    {
        let known = RevocationReason::from_code(code.0)
            .filter(|reason| !first.critical && *reason != RevocationReason::Unspecified);
        reason = if code.0 == REMOVE_FROM_CRL && !first.critical { None } else { Some(known?) };
        rest = others;
    }
    if let [first, others @ ..] = rest
        && let (ParsedExtension::InvalidityDate(time), [der::GENERALIZED_TIME, 15, digits @ .., b'Z']) =
            (first.parsed_extension(), first.value)
        && !first.critical
        && digits.iter().all(u8::is_ascii_digit)
    {
        since = Some(CivilTime::from_datetime(time.to_datetime()).ok()?);
        rest = others;
    }
    if let [first, others @ ..] = rest
        && oid::decode(first.oid.as_bytes()).as_deref() == Some(oid::EXPIRATION_DATE)
        && !first.critical
    {
        expires = Some(read_time(first.value)?);
        rest = others;
    }
    // What is removed is just that.
    let says_no_more = reason.is_some() || (since.is_none() && expires.is_none());
    (rest.is_empty() && says_no_more).then_some(Said { reason, since, expires })
}

/// A Time alone, in the form of its year.
pub(super) fn read_time(value: &[u8]) -> Option<CivilTime> {
    let (rest, time) = x509_parser::time::ASN1Time::from_der(value).ok()?;
    let time = CivilTime::from_datetime(time.to_datetime()).ok()?;
    let element = Reader::new(value).next().ok()?;
    (rest.is_empty() && is_in_form(&element, Some(time))).then_some(time)
}

fn check_extensions(
    inputs: &CrlInputs<'_>,
    tbs: &revocation_list::TbsCertList<'_>,
    found: &mut Vec<CrlFinding>,
) {
    let expected = inputs.scope.rules();
    let mut read = CrlScope::default();
    let present: Vec<_> =
        tbs.extensions().iter().map(|e| oid::decode(e.oid.as_bytes()).unwrap_or_default()).collect();
    for (index, oid) in present.iter().enumerate() {
        let known = expected.iter().any(|(expected, _, _)| expected == oid);
        if !known || present[..index].contains(oid) {
            found.push(CrlFinding::ExtensionUnexpected(oid::dotted(oid)));
        }
    }
    let mut places = Vec::new();
    for (oid, name, critical) in expected {
        let Some(place) = present.iter().position(|present| present == oid) else {
            found.push(CrlFinding::ExtensionMissing(name));
            continue;
        };
        places.push(place);
        let extension = &tbs.extensions()[place];
        if extension.critical != critical {
            found.push(CrlFinding::ExtensionCritical(name));
        }
        match read.take(oid, extension.value) {
            Some(true) => continue,
            None => {
                found.push(CrlFinding::ExtensionValue(name));
                continue;
            }
            Some(false) => {}
        }
        match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(identifier) => {
                let key = identifier.key_identifier.as_ref().map(|key| key.0);
                if key.is_none()
                    || key != inputs.issuer.subject_key_identifier()
                    || identifier.authority_cert_issuer.is_some()
                    || identifier.authority_cert_serial.is_some()
                    || !shape::is_extension_value(oid, extension.value)
                {
                    found.push(CrlFinding::ExtensionValue(name));
                }
            }
            ParsedExtension::CRLNumber(_) => match read_number(extension.value) {
                None => found.push(CrlFinding::Number),
                Some(number) if number != magnitude(inputs.number) => {
                    found.push(CrlFinding::ExtensionValue(name));
                }
                Some(_) => {}
            },
            _ => found.push(CrlFinding::ExtensionValue(name)),
        }
    }
    if !places.is_sorted() {
        found.push(CrlFinding::ExtensionOrder);
    }
    if read != inputs.scope {
        found.push(CrlFinding::ScopeDiffers);
    }
}

/// RFC 5280 §5.2.3: the number's magnitude, when it is positive and takes at most 20 octets, which is the rule of serial
/// numbers too.
pub(super) fn read_number(value: &[u8]) -> Option<Vec<u8>> {
    let mut reader = Reader::new(value);
    let integer = reader.expect(der::INTEGER).ok()?;
    reader.finish().ok()?;
    SerialNumber::from_content(integer.content).ok().map(|number| number.as_bytes().to_vec())
}

fn magnitude(number: u64) -> Vec<u8> {
    number.to_be_bytes().into_iter().skip_while(|octet| *octet == 0).collect()
}

/// Serial numbers compare as integers.
pub(super) fn compare(a: &SerialNumber, b: &SerialNumber) -> std::cmp::Ordering {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}
