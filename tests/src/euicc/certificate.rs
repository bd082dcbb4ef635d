//! As much of a certificate as an eUICC looks at (SGP.22 §4.5.2), read with no library of X.509.

use super::curve::{Curve, PublicKey};
use super::tlv::{Malformed, Reader};

/// id-rspRole-dp-auth, 2.23.146.1.2.1.4, as its content octets.
pub const DP_AUTH: [u8; 7] = [0x67, 0x81, 0x12, 0x01, 0x02, 0x01, 0x04];
/// id-rspRole-dp-pb, 2.23.146.1.2.1.5.
pub const DP_PB: [u8; 7] = [0x67, 0x81, 0x12, 0x01, 0x02, 0x01, 0x05];

const ECDSA_WITH_SHA256: [u8; 8] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const EC_PUBLIC_KEY: [u8; 7] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const PRIME256V1: [u8; 8] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const BRAINPOOL_P256R1: [u8; 9] = [0x2b, 0x24, 0x03, 0x03, 0x02, 0x08, 0x01, 0x01, 0x07];

/// What stands in a certificate of a server or of the CI.
pub struct Certificate<'a> {
    tbs: &'a [u8],
    signature: [u8; 64],
    /// Of the subject.
    pub key: PublicKey,
    /// Subject key identifier.
    pub key_id: Option<&'a [u8]>,
    /// Authority key identifier.
    pub issuer_key_id: Option<&'a [u8]>,
    /// The first policy.
    pub policy: Option<&'a [u8]>,
    /// Content octets of the registered id in the alternative name.
    pub registered_id: Option<&'a [u8]>,
    /// Whether the one key usage is digitalSignature.
    pub signs: bool,
    /// A critical extension that no profile of SGP.22 has.
    pub unknown_critical: bool,
}

impl<'a> Certificate<'a> {
    /// Reads one certificate of either curve.
    pub fn read(der: &'a [u8]) -> Result<Self, Malformed> {
        let mut outer = Reader::inside(der, 0x30)?;
        let tbs = outer.expect(0x30)?;
        algorithm(outer.expect(0x30)?.value)?;
        let signature = signature(outer.expect(0x03)?.value)?;
        outer.end()?;

        let mut fields = Reader::new(tbs.value);
        fields.expect(0xa0)?;
        fields.expect(0x02)?;
        algorithm(fields.expect(0x30)?.value)?;
        fields.expect(0x30)?;
        fields.expect(0x30)?;
        fields.expect(0x30)?;
        let key = public_key(fields.expect(0x30)?.value)?;
        let extensions = fields.expect(0xa3)?;
        fields.end()?;
        let mut certificate = Self {
            tbs: tbs.whole,
            signature,
            key,
            key_id: None,
            issuer_key_id: None,
            policy: None,
            registered_id: None,
            signs: false,
            unknown_critical: false,
        };
        let mut extensions = Reader::inside(extensions.value, 0x30)?;
        while let Some(extension) = extensions.object()? {
            certificate.extension(extension.value)?;
        }
        Ok(certificate)
    }

    /// Whether the holder of this key signed it.
    pub fn is_signed_by(&self, issuer: &PublicKey) -> bool {
        issuer.verifies(self.tbs, &self.signature)
    }

    fn extension(&mut self, bytes: &'a [u8]) -> Result<(), Malformed> {
        let mut fields = Reader::new(bytes);
        let id = fields.expect(0x06)?.value;
        let critical = fields.optional(0x01)?.is_some_and(|critical| critical.value == [0xff]);
        let value = fields.expect(0x04)?.value;
        fields.end()?;
        match id {
            // RFC 5280 §4.2.1.2.
            [0x55, 0x1d, 0x0e] => self.key_id = Some(Reader::new(value).expect(0x04)?.value),
            // §4.2.1.3.
            [0x55, 0x1d, 0x0f] => self.signs = value == [0x03, 0x02, 0x07, 0x80],
            // §4.2.1.6: registeredID is the eighth of the names.
            [0x55, 0x1d, 0x11] => {
                let mut names = Reader::inside(value, 0x30)?;
                while let Some(name) = names.object()? {
                    if name.tag == 0x88 {
                        self.registered_id = Some(name.value);
                    }
                }
            }
            // §4.2.1.4.
            [0x55, 0x1d, 0x20] => {
                let first = Reader::inside(value, 0x30)?.expect(0x30)?;
                self.policy = Some(Reader::new(first.value).expect(0x06)?.value);
            }
            // §4.2.1.1.
            [0x55, 0x1d, 0x23] => {
                self.issuer_key_id = Reader::inside(value, 0x30)?.optional(0x80)?.map(|id| id.value);
            }
            // Basic constraints, name constraints, extended key usage: known, of no server's signature.
            [0x55, 0x1d, 0x13 | 0x1e | 0x25] => {}
            _ => self.unknown_critical |= critical,
        }
        Ok(())
    }
}

fn algorithm(bytes: &[u8]) -> Result<(), Malformed> {
    let found = Reader::new(bytes).expect(0x06)?.value;
    if found == ECDSA_WITH_SHA256 { Ok(()) } else { Err(Malformed) }
}

fn public_key(spki: &[u8]) -> Result<PublicKey, Malformed> {
    let mut fields = Reader::new(spki);
    let mut algorithm = Reader::new(fields.expect(0x30)?.value);
    if algorithm.expect(0x06)?.value != EC_PUBLIC_KEY {
        return Err(Malformed);
    }
    let curve = match algorithm.expect(0x06)?.value {
        name if name == PRIME256V1 => Curve::P256,
        name if name == BRAINPOOL_P256R1 => Curve::BrainpoolP256r1,
        _ => return Err(Malformed),
    };
    let bits = fields.expect(0x03)?.value;
    let point = bits.strip_prefix(&[0x00]).ok_or(Malformed)?;
    PublicKey::from_point(curve, point).ok_or(Malformed)
}

/// Certificates have the DER of two integers where the objects of remote provisioning have r and s in 64 bytes.
fn signature(bits: &[u8]) -> Result<[u8; 64], Malformed> {
    let mut numbers = Reader::inside(bits.strip_prefix(&[0x00]).ok_or(Malformed)?, 0x30)?;
    let mut number = || -> Result<[u8; 32], Malformed> {
        let value = numbers.expect(0x02)?.value;
        let value = value.strip_prefix(&[0x00]).unwrap_or(value);
        let mut padded = [0; 32];
        let start = padded.len().checked_sub(value.len()).ok_or(Malformed)?;
        padded[start..].copy_from_slice(value);
        Ok(padded)
    };
    let (r, s) = (number()?, number()?);
    [r, s].concat().try_into().map_err(|_| Malformed)
}

/// SubjectPublicKeyInfo of a key, as an order takes it.
pub fn subject_public_key_info(key: &PublicKey) -> Vec<u8> {
    use super::tlv::tlv;
    let curve: &[u8] = match key.curve() {
        Curve::P256 => &PRIME256V1,
        Curve::BrainpoolP256r1 => &BRAINPOOL_P256R1,
    };
    let algorithm = tlv(0x30, &[&tlv(0x06, &[&EC_PUBLIC_KEY]), &tlv(0x06, &[curve])]);
    tlv(0x30, &[&algorithm, &tlv(0x03, &[&[0x00], &key.point()])])
}
