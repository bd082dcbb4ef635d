//! What a server staples to its certificate (CRL stapling of SGP.22 v3): the certificates of the authorities above and their current
//! revocation lists, in one degenerate SignedData (RFC 5652 §5.1, without content and signers), which common tools read.

use crate::certificate::Certificate;
use crate::crl::{CRL_BYTES_MAX, Crl};
use crate::der::{self, Reader};
use crate::error::PkiError;
use crate::{oid, pem};

/// Certificates and lists of one bundle: a chain of SGP.22 v3 has at most four authorities.
const PARTS_MAX: usize = 16;
const LABEL: &str = "PKCS7";

/// The authorities above a certificate, its issuer first, and what revokes along the chain.
#[derive(Clone, Debug)]
pub struct Staple {
    /// The authorities' certificates; the root may be among them.
    pub certificates: Vec<Certificate>,
    /// A list of each.
    pub lists: Vec<Crl>,
}

impl Staple {
    /// The bundle in DER; certificates and lists in their order.
    pub fn to_der(&self) -> Vec<u8> {
        let set = |parts: Vec<&[u8]>| parts.concat();
        der::nested(der::SEQUENCE, |content_info| {
            content_info.element(der::OBJECT_IDENTIFIER, &oid::encode(oid::SIGNED_DATA));
            content_info.nested(der::context_constructed(0), |content| {
                content.nested(der::SEQUENCE, |signed| {
                    signed.element(der::INTEGER, &[1]);
                    signed.nested(der::SET, |_| {});
                    signed.nested(der::SEQUENCE, |encapsulated| {
                        encapsulated.element(der::OBJECT_IDENTIFIER, &oid::encode(oid::DATA));
                    });
                    let certificates = self.certificates.iter().map(Certificate::der).collect();
                    signed.element(der::context_constructed(0), &set(certificates));
                    let lists = self.lists.iter().map(Crl::der).collect();
                    signed.element(der::context_constructed(1), &set(lists));
                    signed.nested(der::SET, |_| {});
                });
            });
        })
    }

    /// Reads a bundle, PEM or DER, ours or another's: who signed what is for the chain to say.
    pub fn parse(bytes: &[u8]) -> Result<Self, PkiError> {
        let decoded;
        let bytes = if pem::is_pem(bytes) {
            decoded = pem::decode(bytes, LABEL, CRL_BYTES_MAX)?;
            &*decoded
        } else {
            bytes
        };
        if bytes.len() > CRL_BYTES_MAX {
            return Err(PkiError::TooLarge { what: "the bundle", limit: CRL_BYTES_MAX });
        }
        read(bytes)
            .ok_or(PkiError::Malformed { what: "the bundle", why: "no SignedData of certificates and lists" })
    }
}

fn read(bytes: &[u8]) -> Option<Staple> {
    let mut content_info = der::enter_only(bytes, der::SEQUENCE).ok()?;
    let kind = content_info.expect(der::OBJECT_IDENTIFIER).ok()?;
    (oid::decode(kind.content)? == oid::SIGNED_DATA).then_some(())?;
    let mut content = content_info.enter(der::context_constructed(0)).ok()?;
    content_info.finish().ok()?;
    let mut signed = content.enter(der::SEQUENCE).ok()?;
    content.finish().ok()?;
    signed.expect(der::INTEGER).ok()?;
    signed.enter(der::SET).ok()?.finish().ok()?;
    signed.enter(der::SEQUENCE).ok()?;
    let certificates = parts(&mut signed, der::context_constructed(0))?;
    let lists = parts(&mut signed, der::context_constructed(1))?;
    signed.enter(der::SET).ok()?.finish().ok()?;
    signed.finish().ok()?;
    Some(Staple {
        certificates: certificates
            .into_iter()
            .map(|der| Certificate::from_der(der).ok())
            .collect::<Option<_>>()?,
        lists: lists.into_iter().map(|der| Crl::from_der(der).ok()).collect::<Option<_>>()?,
    })
}

fn parts<'a>(signed: &mut Reader<'a>, tag: u8) -> Option<Vec<&'a [u8]>> {
    let mut parts = Vec::new();
    if signed.peek_tag() == Some(tag) {
        let mut inside = signed.enter(tag).ok()?;
        while !inside.is_empty() {
            (parts.len() < PARTS_MAX).then_some(())?;
            parts.push(inside.next().ok()?.raw);
        }
    }
    Some(parts)
}
