//! The bound profile package (SGP.22 §2.5.4), as an SM-DP+ makes it from keys that the authority released and as an eUICC
//! takes it apart.

use super::bsp::{BspKeys, Stretch};
use super::tlv::{Malformed, Reader, tlv};

/// What is installed: metadata as the user sees them, and the profile.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Profile {
    /// StoreMetadata, BF25.
    pub metadata: Vec<u8>,
    /// The unprotected profile package.
    pub elements: Vec<u8>,
}

/// StoreMetadata with what is mandatory in it (§5.5.3).
pub fn metadata(iccid: &[u8; 10], provider: &str, name: &str) -> Vec<u8> {
    tlv(0xbf25, &[&tlv(0x5a, &[iccid]), &tlv(0x91, &[provider.as_bytes()]), &tlv(0x92, &[name.as_bytes()])])
}

/// Binds a profile to an eUICC. With `profile_keys` its elements are protected under those, which the eUICC gets by
/// ReplaceSessionKeys; without, under the session's.
pub fn bind(
    initialise_secure_channel: &[u8],
    keys: &BspKeys,
    profile_keys: Option<&BspKeys>,
    profile: &Profile,
) -> Vec<u8> {
    let mut session = Stretch::new(keys);
    let configure = tlv(0xa0, &[&session.encrypt(0x87, &tlv(0xbf24, &[]))]);
    let metadata = tlv(0xa1, &[&session.authenticate(0x88, &profile.metadata)]);
    let (replace, elements) = match profile_keys {
        None => (Vec::new(), session.encrypt(0x86, &profile.elements)),
        Some(own) => {
            let request = tlv(
                0xbf26,
                &[
                    &tlv(0x80, &[&own.initial_mac_chaining_value]),
                    &tlv(0x81, &[&own.s_enc]),
                    &tlv(0x82, &[&own.s_mac]),
                ],
            );
            let replace = tlv(0xa2, &[&session.encrypt(0x87, &request)]);
            (replace, Stretch::new(own).encrypt(0x86, &profile.elements))
        }
    };
    tlv(0xbf36, &[initialise_secure_channel, &configure, &metadata, &replace, &tlv(0xa3, &[&elements])])
}

/// What a package is before the eUICC has agreed on keys.
pub(super) struct Parts<'a> {
    pub(super) initialise_secure_channel: &'a [u8],
    configure: &'a [u8],
    metadata: &'a [u8],
    replace: Option<&'a [u8]>,
    elements: &'a [u8],
}

impl<'a> Parts<'a> {
    pub(super) fn read(package: &'a [u8]) -> Result<Self, Malformed> {
        let mut parts = Reader::inside(package, 0xbf36)?;
        let read = Self {
            initialise_secure_channel: parts.expect(0xbf23)?.value,
            configure: parts.expect(0xa0)?.value,
            metadata: parts.expect(0xa1)?.value,
            replace: parts.optional(0xa2)?.map(|part| part.value),
            elements: parts.expect(0xa3)?.value,
        };
        parts.end()?;
        Ok(read)
    }

    /// Opens every segment.
    pub(super) fn open(&self, keys: &BspKeys) -> Result<Profile, Malformed> {
        let mut session = Stretch::new(keys);
        let configure = segments(self.configure, 0x87, |segment| session.decrypt(segment))?;
        Reader::inside(&configure, 0xbf24)?;
        let metadata = segments(self.metadata, 0x88, |segment| session.check(segment))?;
        Reader::inside(&metadata, 0xbf25)?;
        if let Some(replace) = self.replace {
            let request = segments(replace, 0x87, |segment| session.decrypt(segment))?;
            session = Stretch::new(&profile_keys(&request)?);
        }
        let elements = segments(self.elements, 0x86, |segment| session.decrypt(segment))?;
        Ok(Profile { metadata, elements })
    }
}

fn segments(
    bytes: &[u8],
    tag: u16,
    mut open: impl FnMut(&super::tlv::Tlv<'_>) -> Result<Vec<u8>, Malformed>,
) -> Result<Vec<u8>, Malformed> {
    let mut reader = Reader::new(bytes);
    let mut data = Vec::new();
    while reader.end().is_err() {
        data.extend(open(&reader.expect(tag)?)?);
    }
    Ok(data)
}

/// ReplaceSessionKeys (§5.5.4).
fn profile_keys(request: &[u8]) -> Result<BspKeys, Malformed> {
    let mut fields = Reader::inside(request, 0xbf26)?;
    let mut key = |tag| fields.expect(tag)?.value.try_into().map_err(|_| Malformed);
    let keys = BspKeys { initial_mac_chaining_value: key(0x80)?, s_enc: key(0x81)?, s_mac: key(0x82)? };
    fields.end()?;
    Ok(keys)
}
