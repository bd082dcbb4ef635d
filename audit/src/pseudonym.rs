//! Pseudonyms: who and what an entry is about, without naming it.

use std::fmt;

use aws_lc_rs::hmac;
use domain::{Eid, PrincipalId};
use zeroize::Zeroizing;

/// Sixteen bytes that stand for one device, credential, party, person or order during one year.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pseudonym([u8; 16]);

impl Pseudonym {
    /// From the bytes of an entry.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Pseudonym {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Pseudonym {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pseudonym({self})")
    }
}

/// Makes the pseudonyms of one year: the first 16 bytes of HMAC-SHA256(yearly key, kind || 0x00 || value).
///
/// The yearly key comes from the log token. Who destroys it makes every pseudonym of that year unlinkable for ever.
pub struct Pseudonyms {
    key: hmac::Key,
    year: i32,
}

impl Pseudonyms {
    /// Takes the key of a year; the given copy is zeroized, the working one when this is dropped.
    pub fn new(yearly_key: Zeroizing<[u8; 32]>, year: i32) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, yearly_key.as_ref()), year }
    }

    /// The year this key belongs to.
    pub const fn year(&self) -> i32 {
        self.year
    }

    /// A device, by the 16 packed bytes of its EID.
    pub fn device(&self, eid: &Eid) -> Pseudonym {
        self.of("device", eid.bcd())
    }

    /// A credential, by SHA-256 of its SubjectPublicKeyInfo.
    pub fn principal(&self, principal: &PrincipalId) -> Pseudonym {
        self.of("principal", &principal.0)
    }

    /// A party, by its name.
    pub fn party(&self, party: &str) -> Pseudonym {
        self.of("party", party.as_bytes())
    }

    /// A person, by the authority's name for it; the same for all credentials of one human.
    pub fn person(&self, person: &str) -> Pseudonym {
        self.of("person", person.as_bytes())
    }

    /// An order, by its name.
    pub fn order(&self, order: &str) -> Pseudonym {
        self.of("order", order.as_bytes())
    }

    fn of(&self, kind: &str, value: &[u8]) -> Pseudonym {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(kind.as_bytes());
        // No kind holds a zero byte, so no value of one kind reads as a value of another.
        context.update(&[0]);
        context.update(value);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&context.sign().as_ref()[..16]);
        Pseudonym(bytes)
    }
}
