//! Where a certificate stands in the register.

use domain::ReasonCode;
use pki::Certificate;
use prost::Message;
use proto::records;
use store::Store;

use crate::CaError;
use crate::keyspaces::CERTIFICATES;

/// First octet of the rows of certificates that were issued elsewhere; a serial number is positive, so none begins with it.
const ELSEWHERE: u8 = 0xFF;
/// Certificates of one serial number that are looked at: one for each issuer.
const OF_ONE_SERIAL_MAX: usize = 10_000;

/// A key of [`CERTIFICATES`]. What was issued here stands under its serial number, which is random, or the EID, and no other's. What an
/// issuer issued elsewhere, before it came here, stands under serial number and issuer: such numbers are an issuer's own alone (RFC 5280
/// §4.1.2.2), and often count from 1.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RegisterKey(Vec<u8>);

impl RegisterKey {
    /// Of a certificate that was issued here.
    pub(crate) fn issued(serial: &[u8]) -> Self {
        Self(serial.to_vec())
    }

    /// Of one that `issuer` issued elsewhere.
    pub(crate) fn elsewhere(serial: &[u8], issuer: &str) -> Self {
        Self([&Self::prefix(serial), issuer.as_bytes()].concat())
    }

    /// As it stands in an index.
    pub(crate) fn from_bytes(key: &[u8]) -> Self {
        Self(key.to_vec())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Serial numbers have at most 20 octets.
    fn prefix(serial: &[u8]) -> Vec<u8> {
        [&[ELSEWHERE, serial.len() as u8], serial].concat()
    }
}

/// The serial number in a key of the register.
pub fn serial_of(key: &[u8]) -> &[u8] {
    match key {
        [ELSEWHERE, length, rest @ ..] => rest.get(..usize::from(*length)).unwrap_or(rest),
        serial => serial,
    }
}

/// A row of the register.
#[derive(Clone, Debug)]
pub(crate) struct Registered {
    pub(crate) key: RegisterKey,
    pub(crate) record: records::Certificate,
    pub(crate) version: u64,
}

impl Registered {
    /// The row of a key.
    pub(crate) fn of_key(store: &dyn Store, key: RegisterKey) -> Result<Option<Self>, CaError> {
        let Some(row) = store.get(CERTIFICATES, key.as_bytes())? else { return Ok(None) };
        let record = records::Certificate::decode(&*row.value).map_err(|_| CaError::Record("certificate"))?;
        Ok(Some(Self { key, record, version: row.version }))
    }

    /// The certificate of an issuer with this serial number.
    pub(crate) fn of_issuer(store: &dyn Store, issuer: &str, serial: &[u8]) -> Result<Option<Self>, CaError> {
        let here = Self::of_key(store, RegisterKey::issued(serial))?;
        match here.filter(|found| found.record.issuer == issuer) {
            Some(found) => Ok(Some(found)),
            None => Self::of_key(store, RegisterKey::elsewhere(serial, issuer)),
        }
    }

    /// Every certificate of this serial number.
    pub(crate) fn of_serial(store: &dyn Store, serial: &[u8]) -> Result<Vec<Self>, CaError> {
        let mut found: Vec<_> = Self::of_key(store, RegisterKey::issued(serial))?.into_iter().collect();
        for (key, _) in store.scan(CERTIFICATES, &RegisterKey::prefix(serial), None, OF_ONE_SERIAL_MAX)? {
            found.extend(Self::of_key(store, RegisterKey::from_bytes(&key))?);
        }
        Ok(found)
    }

    /// The row of exactly this certificate.
    pub(crate) fn of_certificate(
        store: &dyn Store,
        certificate: &Certificate,
    ) -> Result<Option<Self>, CaError> {
        let of_serial = Self::of_serial(store, certificate.serial().as_bytes())?;
        Ok(of_serial.into_iter().find(|found| found.record.der == certificate.der()))
    }

    /// The one of this serial number, of this issuer where one is named. Refused when there are several to choose from.
    pub(crate) fn find(store: &dyn Store, serial: &[u8], issuer: &str) -> Result<Option<Self>, CaError> {
        if !issuer.is_empty() {
            return Self::of_issuer(store, issuer, serial);
        }
        let mut found = Self::of_serial(store, serial)?;
        if found.len() > 1 {
            let issuers: Vec<&str> = found.iter().map(|found| found.record.issuer.as_str()).collect();
            return Err(CaError::refused(
                ReasonCode::InvalidField,
                format!(
                    "several issuers have a certificate of this number, name one: {}",
                    issuers.join(", ")
                ),
            ));
        }
        Ok(found.pop())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_certificates_from_elsewhere_are_no_serial_numbers_and_differ_by_issuer_and_length() {
        let key = |serial: &[u8], issuer| RegisterKey::elsewhere(serial, issuer).0;
        assert_eq!(key(&[1], "ci"), [0xFF, 1, 1, b'c', b'i']);
        assert_ne!(key(&[1], "ci"), key(&[1], "eum"));
        // 01 of an issuer "\x02x" is not 0102 of an issuer "x".
        assert_ne!(key(&[1], "\u{2}x"), key(&[1, 2], "x"));
        assert_eq!(serial_of(&key(&[1, 2, 3], "ci")), [1, 2, 3]);
        assert_eq!(serial_of(&[0, 0x89, 4]), [0, 0x89, 4]);
    }
}
