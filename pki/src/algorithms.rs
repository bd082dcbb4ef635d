//! The algorithms of certificates and keys as data: identifiers, what each is for here, and from when on its status changes.

use crate::civil_time::CivilTime;
use crate::error::PkiError;
use crate::oid::{self, Arcs};
use domain::Curve;
use ecc::Hash;

/// What may be done with an algorithm (the words of SP 800-131A).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum AlgorithmStatus {
    /// To be used.
    Acceptable,
    /// Used, with a risk that somebody accepts.
    Deprecated,
    /// What was protected by it may be read; nothing new is made.
    LegacyUse,
    /// Not to be used.
    Disallowed,
}

impl AlgorithmStatus {
    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Acceptable => "acceptable",
            Self::Deprecated => "deprecated",
            Self::LegacyUse => "legacy-use",
            Self::Disallowed => "disallowed",
        }
    }
}

/// A year, a month and a day: the first of a status.
type Day = (u16, u8, u8);

/// An algorithm.
#[derive(Debug, PartialEq, Eq)]
pub struct Algorithm {
    /// Its name here; of curves that of `domain::Curve`.
    pub name: &'static str,
    /// Its object identifier, where it has one that we write.
    pub oid: Option<Arcs>,
    /// What for.
    pub used_for: &'static str,
    /// Each status with its first day, in order; the first one has none.
    pub statuses: &'static [(AlgorithmStatus, Option<Day>)],
    /// Who says so.
    pub source: &'static str,
}

use AlgorithmStatus::{Acceptable, Disallowed, LegacyUse};

const UNTIL_2035: &[(AlgorithmStatus, Option<Day>)] = &[(Acceptable, None), (Disallowed, Some((2036, 1, 1)))];
const IR_8547: &str = "NIST IR 8547 (initial public draft), table 2: 128 bits and more, not after 2035";
const SP_800_131A: &str = "NIST SP 800-131A revision 2";

/// Every algorithm of certificates, lists and answers, and of the keys that are made, wrapped or taken in.
pub const ALGORITHMS: &[Algorithm] = &[
    Algorithm {
        name: "P-256",
        oid: Some(oid::P256),
        used_for: "keys of certificates, one-time keys",
        statuses: UNTIL_2035,
        source: IR_8547,
    },
    Algorithm {
        name: "brainpoolP256r1",
        oid: Some(oid::BRAINPOOL_P256R1),
        used_for: "keys of certificates, one-time keys",
        statuses: UNTIL_2035,
        source: IR_8547,
    },
    Algorithm {
        name: "P-384",
        oid: Some(oid::P384),
        used_for: "keys of certificates, not of eUICCs by SGP.22",
        statuses: UNTIL_2035,
        source: IR_8547,
    },
    Algorithm {
        name: "ecdsa-with-SHA256",
        oid: Some(oid::ECDSA_WITH_SHA256),
        used_for: "signatures of certificates, lists, answers and requests, of keys on P-256 and brainpoolP256r1",
        statuses: UNTIL_2035,
        source: IR_8547,
    },
    Algorithm {
        name: "ecdsa-with-SHA384",
        oid: Some(oid::ECDSA_WITH_SHA384),
        used_for: "the same of keys on P-384",
        statuses: UNTIL_2035,
        source: IR_8547,
    },
    Algorithm {
        name: "RSA-OAEP, 3072 bits",
        oid: Some(oid::RSA_ENCRYPTION),
        used_for: "transport keys of manufacturers and of the token",
        statuses: UNTIL_2035,
        source: IR_8547,
    },
    Algorithm {
        name: "SHA-1",
        oid: Some(oid::SHA_1),
        used_for: "names of keys and issuers (RFC 5280 key identifiers, RFC 5019): no security rests on it; never a signature",
        statuses: &[(Acceptable, None)],
        source: "SP 800-131A revision 2 disallows it for signatures since 2014",
    },
    Algorithm {
        name: "AES-128",
        oid: None,
        used_for: "keysets and sessions of cards, BSP",
        statuses: &[(Acceptable, None)],
        source: SP_800_131A,
    },
    Algorithm {
        name: "AES-256",
        oid: None,
        used_for: "keysets and sessions of cards, masters, wrapping",
        statuses: &[(Acceptable, None)],
        source: SP_800_131A,
    },
    Algorithm {
        name: "3DES",
        oid: None,
        used_for: "keysets of fleets that move in; none is made",
        statuses: &[(Acceptable, None), (LegacyUse, Some((2024, 1, 1)))],
        source: SP_800_131A,
    },
];

impl Algorithm {
    /// The name of the algorithm by which keys on this curve sign.
    pub const fn of_signatures_on(curve: Curve) -> &'static str {
        match Hash::of(curve) {
            Hash::Sha256 => "ecdsa-with-SHA256",
            Hash::Sha384 => "ecdsa-with-SHA384",
            Hash::Sha512 => "ecdsa-with-SHA512",
        }
    }

    /// The algorithm of a name.
    pub fn find(name: &str) -> Option<&'static Self> {
        ALGORITHMS.iter().find(|algorithm| algorithm.name == name)
    }

    /// Its status at a time.
    pub fn status(&self, at: CivilTime) -> AlgorithmStatus {
        let begun =
            |first: &Option<Day>| first.is_none_or(|day| midnight(day).is_ok_and(|first| first <= at));
        let current = self.statuses.iter().rev().find(|(_, first)| begun(first));
        current.map_or(Disallowed, |(status, _)| *status)
    }

    /// The dotted object identifier.
    pub fn dotted_oid(&self) -> Option<String> {
        self.oid.map(oid::dotted)
    }
}

fn midnight((year, month, day): Day) -> Result<CivilTime, PkiError> {
    CivilTime::new(year, month, day, 0, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_its_days_exist() {
        for algorithm in ALGORITHMS {
            assert_eq!(Algorithm::find(algorithm.name), Some(algorithm), "{} twice", algorithm.name);
            let (first, later) = algorithm.statuses.split_first().unwrap();
            assert_eq!(first.1, None, "{}", algorithm.name);
            let days: Vec<_> = later.iter().map(|(_, day)| midnight(day.unwrap()).unwrap()).collect();
            assert!(days.is_sorted(), "{}", algorithm.name);
            let statuses: Vec<_> = algorithm.statuses.iter().map(|(status, _)| *status).collect();
            assert!(statuses.is_sorted(), "{}: never better again", algorithm.name);
        }
        for curve in domain::Curve::ALL {
            assert!(Algorithm::find(curve.as_str()).is_some(), "{curve}");
            assert!(Algorithm::find(Algorithm::of_signatures_on(curve)).is_some(), "{curve}");
        }
    }

    #[test]
    fn a_status_begins_with_its_day() {
        let at = |year, month, day, hour| CivilTime::new(year, month, day, hour, 0, 0).unwrap();
        let p256 = Algorithm::find("P-256").unwrap();
        assert_eq!(p256.status(at(2035, 12, 31, 23)), Acceptable);
        assert_eq!(p256.status(at(2036, 1, 1, 0)), Disallowed);
        let triple = Algorithm::find("3DES").unwrap();
        assert_eq!(triple.status(at(2026, 11, 25, 0)), LegacyUse);
        assert_eq!(p256.dotted_oid().as_deref(), Some("1.2.840.10045.3.1.7"));
    }
}
