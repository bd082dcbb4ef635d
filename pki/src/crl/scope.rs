//! What a list covers, where that is not every revoked certificate of its issuer: delta lists, lists of some distribution points, and the
//! partial lists of SGP.22 v2. Written here, read here by other code.

use crate::der::{self, Reader, Writer};
use crate::oid::{self, Arcs};

use super::lint::read_number;

/// Distribution points of one list.
const DISTRIBUTION_POINTS_MAX: usize = 16;

/// What a list covers. The default is a full list of one issuer.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct CrlScope {
    /// Number of the full list that this one adds to (deltaCRLIndicator, RFC 5280 §5.2.4).
    pub base: Option<u64>,
    /// URLs of the distribution points that it is of (issuingDistributionPoint, §5.2.5): of certificates that name one of them.
    pub distribution_points: Vec<String>,
    /// Which certificates of these.
    pub certificates: CertificateKinds,
    /// URLs of the delta lists of a full list (freshestCRL, §5.2.6).
    pub freshest: Vec<String>,
    /// Which part of how many, from 1 (id-rsp-partialCrlNumber and id-rsp-totalPartialCrlNumber of SGP.22 v2).
    pub part: Option<(u64, u64)>,
}

/// Which kinds of certificates a list is about (§5.2.5).
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum CertificateKinds {
    /// Both.
    #[default]
    All,
    /// onlyContainsUserCerts.
    EndEntities,
    /// onlyContainsCACerts.
    Authorities,
}

/// An extension of a list, its name, and whether it is critical.
pub(super) type Rule = (Arcs, &'static str, bool);

const AUTHORITY_KEY_IDENTIFIER: Rule = (oid::AUTHORITY_KEY_IDENTIFIER, "authorityKeyIdentifier", false);
const CRL_NUMBER: Rule = (oid::CRL_NUMBER, "cRLNumber", false);
const DELTA_CRL_INDICATOR: Rule = (oid::DELTA_CRL_INDICATOR, "deltaCRLIndicator", true);
const ISSUING_DISTRIBUTION_POINT: Rule = (oid::ISSUING_DISTRIBUTION_POINT, "issuingDistributionPoint", true);
const FRESHEST_CRL: Rule = (oid::FRESHEST_CRL, "freshestCRL", false);
// Who does not know them must not take a part for the whole, so they are critical.
const TOTAL_PARTS: Rule = (oid::TOTAL_PARTIAL_CRL_NUMBER, "totalPartialCrlNumber", true);
const PART: Rule = (oid::PARTIAL_CRL_NUMBER, "partialCrlNumber", true);

impl CrlScope {
    /// Whether the list holds every revoked certificate of its issuer.
    pub fn is_full(&self) -> bool {
        self.base.is_none() && !self.has_point() && self.part.is_none()
    }

    fn has_point(&self) -> bool {
        !self.distribution_points.is_empty() || self.certificates != CertificateKinds::All
    }

    /// The extensions of a list of this scope, in their order.
    pub(super) fn rules(&self) -> Vec<Rule> {
        let mut rules = vec![AUTHORITY_KEY_IDENTIFIER, CRL_NUMBER];
        rules.extend(self.base.map(|_| DELTA_CRL_INDICATOR));
        rules.extend(self.has_point().then_some(ISSUING_DISTRIBUTION_POINT));
        rules.extend((!self.freshest.is_empty()).then_some(FRESHEST_CRL));
        rules.extend(self.part.into_iter().flat_map(|_| [TOTAL_PARTS, PART]));
        rules
    }

    /// The value of one of its own extensions.
    pub(super) fn value(&self, oid: Arcs) -> Vec<u8> {
        let number = |number: Option<u64>| der::unsigned_integer(&number.unwrap_or_default().to_be_bytes());
        match oid {
            oid::DELTA_CRL_INDICATOR => number(self.base),
            oid::TOTAL_PARTIAL_CRL_NUMBER => number(self.part.map(|(_, total)| total)),
            oid::PARTIAL_CRL_NUMBER => number(self.part.map(|(part, _)| part)),
            oid::ISSUING_DISTRIBUTION_POINT => der::nested(der::SEQUENCE, |point| {
                if !self.distribution_points.is_empty() {
                    write_names(point, &self.distribution_points);
                }
                match self.certificates {
                    CertificateKinds::All => {}
                    CertificateKinds::EndEntities => drop(point.element(der::context(1), &[0xff])),
                    CertificateKinds::Authorities => drop(point.element(der::context(2), &[0xff])),
                }
            }),
            _ => der::nested(der::SEQUENCE, |points| {
                points.nested(der::SEQUENCE, |point| write_names(point, &self.freshest));
            }),
        }
    }

    /// Takes one extension into account; false when it is none of a scope, absent when its value is not what it must be.
    pub(super) fn take(&mut self, oid: &[u64], value: &[u8]) -> Option<bool> {
        match oid {
            oid::DELTA_CRL_INDICATOR => self.base = Some(small(value)?),
            oid::TOTAL_PARTIAL_CRL_NUMBER => self.part.get_or_insert_default().1 = small(value)?,
            oid::PARTIAL_CRL_NUMBER => self.part.get_or_insert_default().0 = small(value)?,
            oid::ISSUING_DISTRIBUTION_POINT => {
                let mut point = der::enter_only(value, der::SEQUENCE).ok()?;
                if point.peek_tag() == Some(der::context_constructed(0)) {
                    self.distribution_points = read_names(&mut point)?;
                }
                // onlySomeReasons [3], indirectCRL [4] and onlyContainsAttributeCerts [5] are not understood.
                self.certificates = match point.peek_tag() {
                    None => CertificateKinds::All,
                    Some(tag) if tag == der::context(1) => CertificateKinds::EndEntities,
                    Some(tag) if tag == der::context(2) => CertificateKinds::Authorities,
                    Some(_) => return None,
                };
                if !point.is_empty() {
                    (point.next().ok()?.content == [0xff]).then_some(())?;
                }
                point.finish().ok()?;
                // RFC 5280 §5.2.5: never an empty sequence.
                self.has_point().then_some(())?;
            }
            oid::FRESHEST_CRL => {
                let mut points = der::enter_only(value, der::SEQUENCE).ok()?;
                while !points.is_empty() {
                    let mut point = points.enter(der::SEQUENCE).ok()?;
                    self.freshest.extend(read_names(&mut point)?);
                    point.finish().ok()?;
                }
                (1..=DISTRIBUTION_POINTS_MAX).contains(&self.freshest.len()).then_some(())?;
            }
            _ => return Some(false),
        }
        Some(true)
    }

    /// Whether what was taken is a scope: of parts both numbers, the one within the other.
    pub(super) fn is_consistent(&self) -> bool {
        self.part.is_none_or(|(part, total)| part >= 1 && part <= total)
    }
}

/// Whether a list may have this extension, and must then have it critical.
pub(super) fn is_critical(oid: &[u64]) -> bool {
    [DELTA_CRL_INDICATOR, ISSUING_DISTRIBUTION_POINT, TOTAL_PARTS, PART]
        .into_iter()
        .any(|(known, _, _)| known == oid)
}

/// distributionPoint [0] { fullName [0] { uniformResourceIdentifier [6] ... } }.
fn write_names(point: &mut Writer, urls: &[String]) {
    point.nested(der::context_constructed(0), |name| {
        name.nested(der::context_constructed(0), |names| {
            for url in urls {
                names.element(der::context(6), url.as_bytes());
            }
        });
    });
}

fn read_names(point: &mut Reader<'_>) -> Option<Vec<String>> {
    let mut name = point.enter(der::context_constructed(0)).ok()?;
    let mut names = name.enter(der::context_constructed(0)).ok()?;
    name.finish().ok()?;
    let mut urls = Vec::new();
    while !names.is_empty() {
        let url = names.expect(der::context(6)).ok()?;
        let is_text = !url.content.is_empty() && url.content.iter().all(u8::is_ascii_graphic);
        (is_text && urls.len() < DISTRIBUTION_POINTS_MAX).then_some(())?;
        urls.push(String::from_utf8_lossy(url.content).into_owned());
    }
    (!urls.is_empty()).then_some(urls)
}

/// A positive number of at most 64 bits.
fn small(value: &[u8]) -> Option<u64> {
    let number = read_number(value)?;
    let missing = 8usize.checked_sub(number.len())?;
    let mut octets = [0; 8];
    octets[missing..].copy_from_slice(&number);
    Some(u64::from_be_bytes(octets))
}
