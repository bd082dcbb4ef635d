//! The attribute templates of every key this layer makes, in one table. Every usage flag is stated: SoftHSM's
//! defaults are TRUE, and those of other modules differ.

use cryptoki::mechanism::MechanismType;
use cryptoki::object::{Attribute, KeyType, ObjectClass};
use cryptoki_sys::{
    CK_ATTRIBUTE_TYPE, CK_MECHANISM_TYPE, CK_ULONG, CKA_ALLOWED_MECHANISMS, CKA_ALWAYS_AUTHENTICATE,
    CKA_ALWAYS_SENSITIVE, CKA_COPYABLE, CKA_DECRYPT, CKA_DERIVE, CKA_DESTROYABLE, CKA_ENCRYPT,
    CKA_EXTRACTABLE, CKA_KEY_TYPE, CKA_LOCAL, CKA_MODIFIABLE, CKA_NEVER_EXTRACTABLE, CKA_PRIVATE,
    CKA_SENSITIVE, CKA_SIGN, CKA_SIGN_RECOVER, CKA_TOKEN, CKA_UNWRAP, CKA_UNWRAP_TEMPLATE, CKA_VALUE_LEN,
    CKA_VERIFY, CKA_WRAP, CKA_WRAP_WITH_TRUSTED, CKK_AES, CKK_DES2, CKK_DES3, CKK_EC, CKK_EC_EDWARDS,
    CKK_RSA, CKM_AES_CBC, CKM_AES_CMAC, CKM_AES_ECB, CKM_AES_ECB_ENCRYPT_DATA, CKM_AES_KEY_WRAP_KWP,
    CKM_AES_KEY_WRAP_PAD, CKM_DES3_ECB_ENCRYPT_DATA, CKM_ECDH1_DERIVE, CKM_ECDSA, CKM_EDDSA,
    CKM_RSA_PKCS_OAEP,
};

use domain::{Curve, KeysetAlgorithm};

use crate::key::{KeyKind, KeyRef, MasterAlgorithm};
use crate::nested::{self, NestedTemplate};
use crate::pkcs11_gaps::mechanism_type;
use crate::spki;

/// Bytes of every long-lived AES key.
pub(crate) const TOKEN_AES_BYTES: usize = 32;
/// Bits of the transport-import key.
const RSA_BITS: CK_ULONG = 3072;

/// One attribute of a long-lived key: as it is asked for, and as it must read.
pub(crate) struct Expected {
    pub(crate) attribute: CK_ATTRIBUTE_TYPE,
    pub(crate) name: &'static str,
    value: Value,
    /// False for what the token itself sets, which is only read.
    is_asked_for: bool,
}

enum Value {
    Flag(bool),
    Number(CK_ULONG),
    Mechanism(CK_MECHANISM_TYPE),
    /// Of an imported key; 0 is what SoftHSM says of an unwrapped one.
    Length(CK_ULONG),
    /// The one number under which this token does AES-KWP.
    KeyWrap,
    Nested(&'static NestedTemplate),
    /// Of an adopted key: read and reported, not judged.
    Any,
}

impl Expected {
    const fn flag(attribute: CK_ATTRIBUTE_TYPE, name: &'static str, value: bool) -> Self {
        Self { attribute, name, value: Value::Flag(value), is_asked_for: true }
    }

    const fn evidence(attribute: CK_ATTRIBUTE_TYPE, name: &'static str, value: bool) -> Self {
        Self { attribute, name, value: Value::Flag(value), is_asked_for: false }
    }

    /// Whether the bytes of C_GetAttributeValue say what is expected.
    pub(crate) fn matches(&self, bytes: &[u8]) -> bool {
        match self.value {
            Value::Flag(value) => bytes == [u8::from(value)],
            Value::Number(value) | Value::Mechanism(value) => bytes == value.to_ne_bytes(),
            Value::Length(value) => [value, 0].iter().any(|len| bytes == len.to_ne_bytes()),
            Value::KeyWrap => {
                [CKM_AES_KEY_WRAP_KWP, CKM_AES_KEY_WRAP_PAD].iter().any(|kwp| bytes == kwp.to_ne_bytes())
            }
            Value::Nested(template) => bytes == nested::canonical(template),
            Value::Any => true,
        }
    }

    /// Whether an attribute that the token does not give is as expected.
    pub(crate) const fn may_be_absent(&self) -> bool {
        matches!(self.value, Value::Any)
    }

    /// What is expected, for messages.
    pub(crate) fn expected(&self) -> String {
        match self.value {
            Value::Flag(value) => value.to_string(),
            Value::Number(value) | Value::Length(value) => value.to_string(),
            Value::Mechanism(value) => format!("{{{value:#06x}}}"),
            Value::KeyWrap => "{0x210b} or {0x210a}".to_owned(),
            Value::Nested(template) => nested::text(&nested::canonical(template)),
            Value::Any => "anything".to_owned(),
        }
    }

    /// The bytes of C_GetAttributeValue, for people.
    pub(crate) fn read(&self, bytes: &[u8]) -> String {
        let numbers = |bytes: &[u8]| -> Option<Vec<CK_ULONG>> {
            bytes
                .chunks(size_of::<CK_ULONG>())
                .map(|c| Some(CK_ULONG::from_ne_bytes(c.try_into().ok()?)))
                .collect()
        };
        match (&self.value, bytes) {
            (Value::Flag(_) | Value::Any, [0]) => "false".to_owned(),
            (Value::Flag(_) | Value::Any, [1]) => "true".to_owned(),
            (Value::Number(_) | Value::Length(_), bytes) => match numbers(bytes).as_deref() {
                Some([number]) => number.to_string(),
                _ => hex::encode(bytes),
            },
            (Value::Nested(_), bytes) => nested::text(bytes),
            (Value::Mechanism(_) | Value::KeyWrap | Value::Any, bytes) => match numbers(bytes) {
                Some(list) => {
                    format!("{{{}}}", list.iter().map(|m| format!("{m:#06x}")).collect::<Vec<_>>().join(", "))
                }
                None => hex::encode(bytes),
            },
            (Value::Flag(_), bytes) => hex::encode(bytes),
        }
    }
}

impl KeyKind {
    /// The class of the object that does the work.
    pub(crate) const fn object_class(self) -> ObjectClass {
        match self {
            Self::Ec(_) | Self::AdoptedEc(_) | Self::EcAgreement | Self::Ed25519 | Self::RsaUnwrap => {
                ObjectClass::PRIVATE_KEY
            }
            Self::AesDerive
            | Self::AesCmac
            | Self::ImportedDerive(_)
            | Self::AesWrap
            | Self::AesImport
            | Self::AesKek => ObjectClass::SECRET_KEY,
        }
    }

    const fn mechanism(self) -> Value {
        Value::Mechanism(match self {
            Self::Ec(_) | Self::AdoptedEc(_) => CKM_ECDSA,
            Self::EcAgreement => CKM_ECDH1_DERIVE,
            Self::Ed25519 => CKM_EDDSA,
            Self::ImportedDerive(MasterAlgorithm::TripleDes2Key | MasterAlgorithm::TripleDes3Key) => {
                CKM_DES3_ECB_ENCRYPT_DATA
            }
            Self::AesDerive | Self::ImportedDerive(_) => CKM_AES_ECB_ENCRYPT_DATA,
            Self::AesCmac => CKM_AES_CMAC,
            Self::AesWrap | Self::AesImport | Self::AesKek => return Value::KeyWrap,
            Self::RsaUnwrap => CKM_RSA_PKCS_OAEP,
        })
    }

    const fn key_type(self) -> CK_ULONG {
        match self {
            Self::Ec(_) | Self::AdoptedEc(_) | Self::EcAgreement => CKK_EC,
            Self::Ed25519 => CKK_EC_EDWARDS,
            Self::ImportedDerive(MasterAlgorithm::TripleDes2Key) => CKK_DES2,
            Self::ImportedDerive(MasterAlgorithm::TripleDes3Key) => CKK_DES3,
            Self::AesDerive
            | Self::AesCmac
            | Self::ImportedDerive(_)
            | Self::AesWrap
            | Self::AesImport
            | Self::AesKek => CKK_AES,
            Self::RsaUnwrap => CKK_RSA,
        }
    }

    /// Whether the value comes from outside: see [`crate::KeyRole::is_imported`].
    const fn is_imported(self) -> bool {
        matches!(self, Self::ImportedDerive(_) | Self::AesWrap | Self::AesImport)
    }

    /// The template of a long-lived key.
    ///
    /// DESTROYABLE=0: whoever holds the PIN can use keys, not end a country's keysets; tokens are planned per epoch
    /// and a key ends with the initialisation of its token.
    pub(crate) fn template(self) -> Vec<Expected> {
        let signs = matches!(self, Self::Ec(_) | Self::AdoptedEc(_) | Self::Ed25519 | Self::AesCmac);
        let derives = matches!(self, Self::AesDerive | Self::ImportedDerive(_) | Self::EcAgreement);
        let mut template = vec![
            Expected {
                attribute: CKA_KEY_TYPE,
                name: "KEY_TYPE",
                value: Value::Number(self.key_type()),
                is_asked_for: true,
            },
            Expected::flag(CKA_TOKEN, "TOKEN", true),
            Expected::flag(CKA_PRIVATE, "PRIVATE", true),
            Expected::flag(CKA_SENSITIVE, "SENSITIVE", true),
            Expected::flag(CKA_EXTRACTABLE, "EXTRACTABLE", false),
            Expected::flag(CKA_MODIFIABLE, "MODIFIABLE", false),
            Expected::flag(CKA_COPYABLE, "COPYABLE", false),
            Expected::flag(CKA_DESTROYABLE, "DESTROYABLE", false),
            Expected::flag(CKA_SIGN, "SIGN", signs),
            Expected::flag(CKA_DERIVE, "DERIVE", derives),
            Expected::flag(CKA_DECRYPT, "DECRYPT", false),
            Expected::flag(
                CKA_UNWRAP,
                "UNWRAP",
                matches!(self, Self::RsaUnwrap | Self::AesImport | Self::AesKek),
            ),
            Expected::flag(CKA_WRAP_WITH_TRUSTED, "WRAP_WITH_TRUSTED", false),
            Expected {
                attribute: CKA_ALLOWED_MECHANISMS,
                name: "ALLOWED_MECHANISMS",
                value: self.mechanism(),
                is_asked_for: true,
            },
        ];
        if matches!(self.object_class(), ObjectClass::PRIVATE_KEY) {
            template.extend([
                Expected::flag(CKA_SIGN_RECOVER, "SIGN_RECOVER", false),
                Expected::flag(CKA_ALWAYS_AUTHENTICATE, "ALWAYS_AUTHENTICATE", false),
            ]);
        } else {
            template.extend([
                Expected::flag(CKA_ENCRYPT, "ENCRYPT", false),
                Expected::flag(CKA_VERIFY, "VERIFY", false),
                Expected::flag(
                    CKA_WRAP,
                    "WRAP",
                    matches!(self, Self::AesWrap | Self::AesImport | Self::AesKek),
                ),
            ]);
        }
        let unwrapped = match self {
            Self::RsaUnwrap => Some(nested::IMPORTED_KEYS),
            Self::AesImport => Some(nested::INCOMING_KEYS),
            Self::AesKek => Some(nested::STORED_KEYS),
            _ => None,
        };
        template.extend(unwrapped.map(|nested| Expected {
            attribute: CKA_UNWRAP_TEMPLATE,
            name: "UNWRAP_TEMPLATE",
            value: Value::Nested(nested),
            is_asked_for: true,
        }));
        if self.key_type() == CKK_AES {
            let bytes = match self {
                Self::ImportedDerive(algorithm) => algorithm.key_bytes(),
                _ => TOKEN_AES_BYTES,
            };
            template.push(Expected {
                attribute: CKA_VALUE_LEN,
                name: "VALUE_LEN",
                value: match self.is_imported() {
                    true => Value::Length(bytes as CK_ULONG),
                    false => Value::Number(bytes as CK_ULONG),
                },
                // PKCS#11 §6.13.2: a key whose value is given takes its length from it.
                is_asked_for: !self.is_imported(),
            });
        }
        // The token's own testimony that the key was made inside it and has never been outside; of an imported key it says
        // the opposite, and nothing can be concluded from the other two.
        if let Self::AdoptedEc(_) = self {
            self.leave_to_the_token(&mut template);
            return template;
        }
        template.push(Expected::evidence(CKA_LOCAL, "LOCAL", !self.is_imported()));
        if !self.is_imported() {
            template.extend([
                Expected::evidence(CKA_ALWAYS_SENSITIVE, "ALWAYS_SENSITIVE", true),
                Expected::evidence(CKA_NEVER_EXTRACTABLE, "NEVER_EXTRACTABLE", true),
            ]);
        }
        template
    }

    /// What tokens do not change in a key that is there: it is read and reported for people to judge. All else of the template holds
    /// for an adopted key too.
    fn leave_to_the_token(self, template: &mut Vec<Expected>) {
        for expected in &mut *template {
            if [CKA_MODIFIABLE, CKA_COPYABLE, CKA_WRAP_WITH_TRUSTED, CKA_ALLOWED_MECHANISMS]
                .contains(&expected.attribute)
            {
                expected.value = Value::Any;
                expected.is_asked_for = false;
            }
        }
        for (attribute, name) in [
            (CKA_LOCAL, "LOCAL"),
            (CKA_ALWAYS_SENSITIVE, "ALWAYS_SENSITIVE"),
            (CKA_NEVER_EXTRACTABLE, "NEVER_EXTRACTABLE"),
        ] {
            template.push(Expected { attribute, name, value: Value::Any, is_asked_for: false });
        }
    }

    /// The template of C_CopyObject that makes an adopted key of the one that is there: its name, and of its flags those that
    /// `differ`. With `limits` also those that not every token sets in a copy.
    pub(crate) fn copy_attributes(
        self,
        key: &KeyRef,
        differ: impl Fn(CK_ATTRIBUTE_TYPE, &[u8]) -> bool,
        limits: CopyLimits,
    ) -> Vec<Attribute> {
        let mut attributes =
            vec![Attribute::Label(key.label.clone().into_bytes()), Attribute::Id(key.id.to_vec())];
        for expected in self.template().iter().filter(|e| e.is_asked_for) {
            if let Value::Flag(value) = expected.value
                && differ(expected.attribute, &[u8::from(value)])
            {
                attributes.push(expected.attribute(None));
            }
        }
        if limits == CopyLimits::Asked {
            attributes.extend([
                Attribute::Modifiable(false),
                Attribute::Copyable(false),
                Attribute::AllowedMechanisms(vec![mechanism_type(CKM_ECDSA)]),
            ]);
        }
        attributes
    }

    /// The template as C_GenerateKey, C_GenerateKeyPair, C_CreateObject and C_UnwrapKey take it; `kwp` is the token's number
    /// for AES-KWP.
    pub(crate) fn creation_attributes(self, key: &KeyRef, kwp: Option<u64>) -> Vec<Attribute> {
        let mut attributes = vec![
            Attribute::Class(self.object_class()),
            Attribute::Label(key.label.clone().into_bytes()),
            Attribute::Id(key.id.to_vec()),
        ];
        attributes.extend(self.template().iter().filter(|e| e.is_asked_for).map(|e| e.attribute(kwp)));
        attributes
    }

    /// The same key as a session object, to be thrown away: for probes.
    pub(crate) fn probe_attributes(self) -> Vec<Attribute> {
        let mut attributes = vec![Attribute::Class(self.object_class())];
        attributes.extend(self.template().iter().filter(|e| e.is_asked_for).map(|e| match e.attribute {
            CKA_TOKEN => Attribute::Token(false),
            CKA_DESTROYABLE => Attribute::Destroyable(true),
            _ => e.attribute(None),
        }));
        attributes
    }

    /// The public half of a key pair, as a session object: the SPKI is kept in the record, not on the token.
    pub(crate) fn public_attributes(self) -> Vec<Attribute> {
        let mut attributes = vec![
            Attribute::Token(false),
            Attribute::Private(false),
            Attribute::Verify(!matches!(self, Self::RsaUnwrap | Self::EcAgreement)),
            Attribute::Encrypt(false),
            Attribute::Wrap(false),
            Attribute::Derive(false),
        ];
        match self {
            Self::RsaUnwrap => attributes
                .extend([Attribute::ModulusBits(RSA_BITS.into()), Attribute::PublicExponent(vec![1, 0, 1])]),
            Self::Ec(curve) | Self::AdoptedEc(curve) => {
                attributes.push(Attribute::EcParams(spki::ec_parameters(curve)));
            }
            Self::EcAgreement => attributes.push(Attribute::EcParams(spki::ec_parameters(Curve::P256))),
            // The PrintableString of PKCS#11 2.40's errata, which SoftHSM 2.6 wants for Ed25519.
            _ => attributes.push(Attribute::EcParams(b"\x13\x0cedwards25519".to_vec())),
        }
        attributes
    }
}

impl Expected {
    fn attribute(&self, kwp: Option<u64>) -> Attribute {
        match self.value {
            Value::Mechanism(number) => Attribute::AllowedMechanisms(vec![mechanism_type(number)]),
            Value::KeyWrap => {
                Attribute::AllowedMechanisms(vec![mechanism_type(kwp.unwrap_or(CKM_AES_KEY_WRAP_KWP))])
            }
            Value::Nested(template) => nested::attribute(self.attribute, template),
            Value::Any => unreachable!("what is only read is in no template"),
            Value::Length(number) => Attribute::ValueLen(number.into()),
            Value::Number(number) if self.attribute == CKA_VALUE_LEN => Attribute::ValueLen(number.into()),
            Value::Number(number) => Attribute::KeyType(match number {
                CKK_EC => KeyType::EC,
                CKK_EC_EDWARDS => KeyType::EC_EDWARDS,
                CKK_RSA => KeyType::RSA,
                CKK_DES2 => KeyType::DES2,
                CKK_DES3 => KeyType::DES3,
                _ => KeyType::AES,
            }),
            Value::Flag(value) => match self.attribute {
                CKA_TOKEN => Attribute::Token(value),
                CKA_PRIVATE => Attribute::Private(value),
                CKA_SENSITIVE => Attribute::Sensitive(value),
                CKA_EXTRACTABLE => Attribute::Extractable(value),
                CKA_MODIFIABLE => Attribute::Modifiable(value),
                CKA_COPYABLE => Attribute::Copyable(value),
                CKA_DESTROYABLE => Attribute::Destroyable(value),
                CKA_SIGN => Attribute::Sign(value),
                CKA_SIGN_RECOVER => Attribute::SignRecover(value),
                CKA_VERIFY => Attribute::Verify(value),
                CKA_DERIVE => Attribute::Derive(value),
                CKA_ENCRYPT => Attribute::Encrypt(value),
                CKA_DECRYPT => Attribute::Decrypt(value),
                CKA_WRAP => Attribute::Wrap(value),
                CKA_UNWRAP => Attribute::Unwrap(value),
                CKA_WRAP_WITH_TRUSTED => Attribute::WrapWithTrusted(value),
                CKA_ALWAYS_AUTHENTICATE => Attribute::AlwaysAuthenticate(value),
                other => unreachable!("the table above states no flag {other:#x}"),
            },
        }
    }
}

/// Whether a copy of a key is asked to be neither changed nor copied, and used by one mechanism only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CopyLimits {
    Asked,
    Left,
}

/// What a session object may do. It lives for one job and is destroyed by its guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum SessionKeyUse {
    /// K-ENC or K-MAC of a device: CMAC inside the token, never out.
    Cmac,
    /// A device key on its way out: wrapped once, by AES-KWP for an order or by AES-CBC for PUT KEY; encrypts one block
    /// for its key check value.
    Outgoing,
    /// The transport key of an order chunk: wraps outgoing keys and is itself wrapped once.
    Transport {
        /// The token's AES-KWP mechanism.
        kwp: CK_MECHANISM_TYPE,
    },
    /// The transport key of an order chunk whose form the token cannot make: read once, in the worker, which opens each
    /// wrap with it.
    ReadableTransport {
        /// The token's AES-KWP mechanism.
        kwp: CK_MECHANISM_TYPE,
    },
    /// The static DEK of a device: wraps the new keys of one PUT KEY, never out.
    PutKeyDek,
    /// KIc of a device: encrypts packets inside the token, never out. Of 3DES also KID, whose checksum is a block of CBC.
    PacketCipher,
    /// KIc of a device: decrypts response packets inside the token, never out.
    PacketDecipher,
    /// The key of a column of pySim's CSV: decrypts its cells in worker memory, never out.
    CellDecipher,
    /// A key that stays: encrypts one block for its key check value.
    KeyCheck,
    /// The pre-shared key of a card: TLS takes HMAC over it, which tokens lack for keys they derive. Derived to be read.
    ReadablePsk,
    /// Not a key: one AES block under a master, derived to be read (L, constant first blocks, check values).
    ReadableBlock,
}

impl SessionKeyUse {
    /// The template of a session AES key (a generic secret for [`Self::ReadableBlock`]) of `bytes` bytes.
    pub(crate) fn attributes(self, bytes: usize) -> Vec<Attribute> {
        let leaves = !matches!(
            self,
            Self::Cmac
                | Self::PutKeyDek
                | Self::PacketCipher
                | Self::PacketDecipher
                | Self::CellDecipher
                | Self::KeyCheck
        );
        let is_key = !matches!(self, Self::ReadableBlock | Self::ReadablePsk);
        let mut attributes = vec![
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(if is_key { KeyType::AES } else { KeyType::GENERIC_SECRET }),
            Attribute::ValueLen((bytes as CK_ULONG).into()),
            Attribute::Token(false),
            Attribute::Private(true),
            Attribute::Sensitive(is_key && !matches!(self, Self::ReadableTransport { .. })),
            Attribute::Extractable(leaves),
            Attribute::Sign(matches!(self, Self::Cmac)),
            Attribute::Verify(false),
            Attribute::Encrypt(matches!(self, Self::Outgoing | Self::PacketCipher | Self::KeyCheck)),
            Attribute::Decrypt(matches!(self, Self::PacketDecipher | Self::CellDecipher)),
            Attribute::Wrap(matches!(
                self,
                Self::Transport { .. } | Self::ReadableTransport { .. } | Self::PutKeyDek
            )),
            Attribute::Unwrap(false),
            Attribute::Derive(false),
        ];
        let allowed: Option<MechanismType> = match self {
            Self::Cmac => Some(MechanismType::AES_CMAC),
            Self::Outgoing | Self::KeyCheck => Some(mechanism_type(CKM_AES_ECB)),
            Self::Transport { kwp } | Self::ReadableTransport { kwp } => Some(mechanism_type(kwp)),
            Self::PutKeyDek | Self::PacketCipher | Self::PacketDecipher | Self::CellDecipher => {
                Some(mechanism_type(CKM_AES_CBC))
            }
            Self::ReadableBlock | Self::ReadablePsk => None,
        };
        attributes.extend(allowed.map(|m| Attribute::AllowedMechanisms(vec![m])));
        attributes
    }

    /// The template of a session key of a keyset's algorithm. 3DES keys have a type of their own for each length, and the
    /// modes of that cipher.
    pub(crate) fn attributes_for(self, algorithm: KeysetAlgorithm) -> Vec<Attribute> {
        let key_type = match algorithm {
            KeysetAlgorithm::TripleDes2Key => KeyType::DES2,
            KeysetAlgorithm::TripleDes3Key => KeyType::DES3,
            KeysetAlgorithm::Aes128 | KeysetAlgorithm::Aes192 | KeysetAlgorithm::Aes256 => {
                return self.attributes(algorithm.key_bytes());
            }
        };
        let mode = match self {
            Self::Outgoing | Self::KeyCheck => MechanismType::DES3_ECB,
            _ => MechanismType::DES3_CBC,
        };
        self.attributes(algorithm.key_bytes())
            .into_iter()
            .filter(|attribute| !matches!(attribute, Attribute::ValueLen(_)))
            .map(|attribute| match attribute {
                Attribute::KeyType(_) => Attribute::KeyType(key_type),
                Attribute::AllowedMechanisms(_) => Attribute::AllowedMechanisms(vec![mode]),
                other => other,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_states_every_usage_flag_and_holds_exactly_one() {
        for kind in [
            KeyKind::Ec(Curve::P256),
            KeyKind::EcAgreement,
            KeyKind::Ed25519,
            KeyKind::AesDerive,
            KeyKind::AesCmac,
        ] {
            let template = kind.template();
            let usages = ["SIGN", "DERIVE", "DECRYPT", "UNWRAP", "ENCRYPT", "VERIFY", "WRAP", "SIGN_RECOVER"];
            let set: Vec<_> = template
                .iter()
                .filter(|e| usages.contains(&e.name) && e.matches(&[1]))
                .map(|e| e.name)
                .collect();
            assert_eq!(set.len(), 1, "{kind:?}: {set:?}");
            let stated = template.iter().filter(|e| usages.contains(&e.name)).count();
            assert_eq!(
                stated,
                if kind.object_class() == ObjectClass::PRIVATE_KEY { 5 } else { 7 },
                "{kind:?}"
            );
        }
    }

    #[test]
    fn an_attribute_is_compared_to_the_last_byte_and_read_for_people() {
        let template = KeyKind::AesDerive.template();
        let allowed = template.iter().find(|e| e.name == "ALLOWED_MECHANISMS").unwrap();
        let one = 0x1104u64.to_ne_bytes();
        let two = [one, 0x1087u64.to_ne_bytes()].concat();
        assert!(allowed.matches(&one) && !allowed.matches(&two) && !allowed.matches(&[]));
        assert_eq!(allowed.read(&two), "{0x1104, 0x1087}");
        let sign = template.iter().find(|e| e.name == "SIGN").unwrap();
        assert!(sign.matches(&[0]) && !sign.matches(&[1]) && !sign.matches(&[]));
    }
}
