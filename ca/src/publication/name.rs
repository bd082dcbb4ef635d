//! Which list of an issuer: its place in the records, and the names of its files.

use std::fmt;
use std::str::FromStr;

/// Distribution points of an issuer; each serves the same list.
pub const CRL_DISTRIBUTION_POINTS: [&str; 2] = ["a", "b"];
/// The path under which lists are served, and which certificates name.
pub const CRL_PATH: &str = "/crl/";

/// A list of an issuer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ListName {
    /// The issuer.
    pub issuer: String,
    /// Which of its lists.
    pub kind: ListKind,
}

/// What a list is of its issuer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ListKind {
    /// Every revoked certificate.
    Full,
    /// What has changed since a full list that is the base (RFC 5280 §5.2.4).
    Delta,
    /// The revoked certificates of one of so many shards, whose list they name.
    Shard(Shard),
    /// A part of the full list, from 1, in the form of SGP.22 v2 (ES10b.LoadCRL).
    Part(u16),
    /// No list of its own: which full list is the base of the delta list.
    Base,
}

/// One of so many shards, from 0. The number of shards is part of the name: certificates keep theirs when it changes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Shard {
    /// Which.
    pub index: u16,
    /// Of how many.
    pub of: u16,
}

impl Shard {
    /// That of a certificate with this serial number: its last octets decide, which are random.
    pub(crate) fn of_serial(serial: &[u8], of: u16) -> Self {
        let last =
            serial.iter().rev().take(4).rev().fold(0u32, |value, octet| value << 8 | u32::from(*octet));
        Self { index: u16::try_from(last % u32::from(of.max(1))).unwrap_or(0), of }
    }
}

/// Reads what `Display` writes.
impl FromStr for Shard {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (index, of) = text.split_once('.').ok_or(())?;
        let shard = Self { index: number(index).ok_or(())?, of: number(of).ok_or(())? };
        if shard.index < shard.of { Ok(shard) } else { Err(()) }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.of)
    }
}

impl fmt::Display for ListKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("full"),
            Self::Delta => f.write_str("delta"),
            Self::Shard(shard) => write!(f, "s{shard}"),
            Self::Part(part) => write!(f, "p{part}"),
            Self::Base => f.write_str("base"),
        }
    }
}

impl ListName {
    /// The full list of an issuer.
    pub fn full(issuer: &str) -> Self {
        Self { issuer: issuer.to_owned(), kind: ListKind::Full }
    }

    /// The same issuer's list of another kind.
    pub(crate) fn with(&self, kind: ListKind) -> Self {
        Self { issuer: self.issuer.clone(), kind }
    }

    /// Its key in the records: the issuer's name, and a tilde, which no name has, before any other kind than the full list.
    pub(crate) fn key(&self) -> String {
        match self.kind {
            ListKind::Full => self.issuer.clone(),
            kind => format!("{}~{kind}", self.issuer),
        }
    }

    pub(crate) fn of_key(key: &str) -> Option<Self> {
        let Some((issuer, kind)) = key.split_once('~') else { return Some(Self::full(key)) };
        let kind = match kind {
            "delta" => ListKind::Delta,
            "base" => ListKind::Base,
            _ => match kind.split_at_checked(1)? {
                ("s", shard) => ListKind::Shard(shard.parse().ok()?),
                ("p", part) => ListKind::Part(number(part)?),
                _ => return None,
            },
        };
        Some(Self { issuer: issuer.to_owned(), kind })
    }

    /// Its file names below [`CRL_PATH`], one per distribution point.
    pub fn files(&self) -> [String; 2] {
        CRL_DISTRIBUTION_POINTS.map(|point| format!("{}-{point}.crl", self.key()))
    }

    /// Where it is served, one URL per distribution point.
    pub(crate) fn urls(&self, base: &str) -> Vec<String> {
        self.files().into_iter().map(|file| format!("{base}{CRL_PATH}{file}")).collect()
    }

    /// The list that a file below [`CRL_PATH`] is; there may be no such issuer.
    pub fn of_file(file: &str) -> Option<Self> {
        let key = CRL_DISTRIBUTION_POINTS
            .iter()
            .find_map(|point| file.strip_suffix(".crl")?.strip_suffix(point)?.strip_suffix('-'))?;
        Self::of_key(key).filter(|name| !name.issuer.is_empty() && name.kind != ListKind::Base)
    }

    /// The list that a certificate names, by one of its URLs.
    pub(crate) fn of_url(url: &str) -> Option<Self> {
        Self::of_file(url.rsplit_once(CRL_PATH)?.1)
    }
}

impl fmt::Display for ListName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key())
    }
}

/// Decimal digits without a leading zero, so that a list has one name.
fn number(text: &str) -> Option<u16> {
    let is_canonical = text == "0" || !text.starts_with('0');
    (is_canonical && text.bytes().all(|c| c.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_file_tells_its_list_and_nothing_else_does() {
        let shard = Shard { index: 3, of: 16 };
        for kind in [ListKind::Full, ListKind::Delta, ListKind::Shard(shard), ListKind::Part(12)] {
            let name = ListName { issuer: "north-sea-ci".to_owned(), kind };
            for file in name.files() {
                assert_eq!(ListName::of_file(&file).as_ref(), Some(&name), "{file}");
                assert_eq!(ListName::of_url(&format!("http://a.example:1/crl/{file}")), Some(name.clone()));
            }
            assert_eq!(ListName::of_key(&name.key()), Some(name));
        }
        assert_eq!(ListName::full("ci").files(), ["ci-a.crl", "ci-b.crl"]);
        for file in [
            "",
            "-a.crl",
            "ci.crl",
            "ci-c.crl",
            "ci-a.crl.der",
            "ci-a",
            "a.crl",
            "~delta-a.crl",
            "ci~base-a.crl",
            "ci~s16.16-a.crl",
            "ci~s03.16-a.crl",
            "ci~s3-a.crl",
            "ci~px-a.crl",
            "ci~-a.crl",
            "ci~s+3.16-a.crl",
            "ci~delta~delta-a.crl",
        ] {
            assert_eq!(ListName::of_file(file), None, "{file}");
        }
    }

    #[test]
    fn every_serial_number_has_one_of_the_shards() {
        let mut seen = [0; 16];
        for last in 0..=u8::MAX {
            seen[usize::from(Shard::of_serial(&[1, 2, last], 16).index)] += 1;
        }
        assert_eq!(seen, [16; 16]);
        assert_eq!(Shard::of_serial(&[9], 0), Shard { index: 0, of: 0 });
    }
}
