//! A request for a key that only a token holds: its body is laid out here, the token signs it.

use super::{CsrError, VerifiedCsr};
use crate::certificate::signed;
use crate::der;
use crate::error::PkiError;
use crate::key::{KnownKeys, curve_of, key_identifier};
use crate::oid;
use crate::profile::{CertificateProfile, ExtensionValue};
use crate::tbs::{CertificateInputs, SubjectValues, extension_content, subject_name_der};
use domain::Curve;
use ecc::{Digest, Signature};

/// What a certificate issuer elsewhere is asked for, besides the key.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// The subject's attributes, as the profile has them.
    pub subject: SubjectValues,
    /// Where the profile has an object identifier of the entity, that.
    pub registered_id: Option<String>,
    /// Of a manufacturer: (organizationName, IIN) pairs.
    pub permitted: Vec<(String, String)>,
}

/// A CertificationRequestInfo (RFC 2986 §4.1) in DER, which nobody has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsignedRequest {
    information: Vec<u8>,
    spki: Vec<u8>,
    curve: Curve,
}

impl UnsignedRequest {
    /// The request for a certificate of `profile` for the key `spki` (SubjectPublicKeyInfo, DER). It asks for the extensions that
    /// say what the subject is; key identifiers and distribution points are the issuer's to choose.
    pub fn new(profile: &CertificateProfile, spki: &[u8], wishes: &Wishes) -> Result<Self, PkiError> {
        let subject = subject_name_der(profile, &wishes.subject)?;
        let identifier = key_identifier(spki)?;
        let inputs = CertificateInputs::of_request(wishes, spki)?;
        let mut extensions = Vec::new();
        for rule in profile.extensions {
            let is_the_issuers = matches!(
                rule.value,
                ExtensionValue::SubjectKeyIdentifier
                    | ExtensionValue::AuthorityKeyIdentifier
                    | ExtensionValue::CrlDistributionPoints { .. }
            );
            if !is_the_issuers {
                extensions.push((rule, extension_content(rule.value, &inputs, &identifier)?));
            }
        }
        let information = der::nested(der::SEQUENCE, |information| {
            information.element(der::INTEGER, &[0]).raw(&subject).raw(spki);
            information.nested(der::context_constructed(0), |attributes| {
                attributes.nested(der::SEQUENCE, |attribute| {
                    attribute.element(der::OBJECT_IDENTIFIER, &oid::encode(oid::EXTENSION_REQUEST));
                    attribute.nested(der::SET, |values| {
                        values.nested(der::SEQUENCE, |list| {
                            for (rule, content) in &extensions {
                                list.nested(der::SEQUENCE, |extension| {
                                    extension.element(der::OBJECT_IDENTIFIER, &oid::encode(rule.value.oid()));
                                    if rule.critical {
                                        extension.element(der::BOOLEAN, &[0xff]);
                                    }
                                    extension.element(der::OCTET_STRING, content);
                                });
                            }
                        });
                    });
                });
            });
        });
        Ok(Self { information, spki: spki.to_vec(), curve: curve_of(spki)? })
    }

    /// The bytes that are signed.
    pub fn bytes(&self) -> &[u8] {
        &self.information
    }

    /// The digest of the bytes for the key's curve: what the token signs.
    pub fn digest(&self) -> Digest {
        Digest::of(self.curve, &self.information)
    }

    /// The request in DER with its signature (r || s), read back by the code that reads requests from outside.
    pub fn assemble(self, signature_rs: &Signature) -> Result<Vec<u8>, CsrError> {
        let request = signed(&self.information, signature_rs);
        // Whether a published key may be used was decided when it was registered.
        let verified = VerifiedCsr::parse(&request, KnownKeys::Allow)?;
        if verified.spki() == self.spki { Ok(request) } else { Err(CsrError::BadSignature) }
    }
}
