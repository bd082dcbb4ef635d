//! Templates within templates: what a key that unwraps may make of what it unwraps.

use cryptoki::object::{Attribute, AttributeType};
use cryptoki_sys::{
    CK_ATTRIBUTE_TYPE, CK_BBOOL, CK_ULONG, CKA_CLASS, CKA_COPYABLE, CKA_DECRYPT, CKA_DERIVE, CKA_ENCRYPT,
    CKA_EXTRACTABLE, CKA_MODIFIABLE, CKA_PRIVATE, CKA_SENSITIVE, CKA_SIGN, CKA_TOKEN, CKA_UNWRAP, CKA_WRAP,
    CKO_SECRET_KEY,
};

/// Attributes and the values they must have.
pub(crate) type NestedTemplate = [(CK_ATTRIBUTE_TYPE, Nested)];

/// A value within a template. In statics: a token reads it through a pointer.
pub(crate) enum Nested {
    Flag(&'static CK_BBOOL),
    Number(&'static CK_ULONG),
}

static TRUE: CK_BBOOL = 1;
static FALSE: CK_BBOOL = 0;
static SECRET_KEY: CK_ULONG = CKO_SECRET_KEY;

/// What the transport-import key makes of what it unwraps: a secret key that cannot be read, copied or wrapped, and
/// neither encrypts, decrypts nor unwraps. TOKEN is left open, so that a check value is computed on a session object
/// before anything is made to stay.
pub(crate) static IMPORTED_KEYS: &NestedTemplate = &[
    (CKA_CLASS, Nested::Number(&SECRET_KEY)),
    (CKA_PRIVATE, Nested::Flag(&TRUE)),
    (CKA_SENSITIVE, Nested::Flag(&TRUE)),
    (CKA_EXTRACTABLE, Nested::Flag(&FALSE)),
    (CKA_MODIFIABLE, Nested::Flag(&FALSE)),
    (CKA_COPYABLE, Nested::Flag(&FALSE)),
    (CKA_ENCRYPT, Nested::Flag(&FALSE)),
    (CKA_DECRYPT, Nested::Flag(&FALSE)),
    (CKA_UNWRAP, Nested::Flag(&FALSE)),
];

/// What a key-encryption key makes of what it unwraps: a session object that cannot be read or wrapped again, and that
/// neither unwraps nor derives.
pub(crate) static STORED_KEYS: &NestedTemplate = &[
    (CKA_CLASS, Nested::Number(&SECRET_KEY)),
    (CKA_TOKEN, Nested::Flag(&FALSE)),
    (CKA_PRIVATE, Nested::Flag(&TRUE)),
    (CKA_SENSITIVE, Nested::Flag(&TRUE)),
    (CKA_EXTRACTABLE, Nested::Flag(&FALSE)),
    (CKA_UNWRAP, Nested::Flag(&FALSE)),
    (CKA_DERIVE, Nested::Flag(&FALSE)),
];

/// What a party's import key makes of what it unwraps: a session object that cannot be read, and neither signs, wraps, unwraps
/// nor derives. It may be wrapped, once, by the key-encryption key under which it is stored.
pub(crate) static INCOMING_KEYS: &NestedTemplate = &[
    (CKA_CLASS, Nested::Number(&SECRET_KEY)),
    (CKA_TOKEN, Nested::Flag(&FALSE)),
    (CKA_PRIVATE, Nested::Flag(&TRUE)),
    (CKA_SENSITIVE, Nested::Flag(&TRUE)),
    (CKA_SIGN, Nested::Flag(&FALSE)),
    (CKA_WRAP, Nested::Flag(&FALSE)),
    (CKA_UNWRAP, Nested::Flag(&FALSE)),
    (CKA_DERIVE, Nested::Flag(&FALSE)),
];

/// The attribute as a token takes it: an array of CK_ATTRIBUTE, here by its bytes. What they point to is static.
pub(crate) fn attribute(attribute: CK_ATTRIBUTE_TYPE, template: &NestedTemplate) -> Attribute {
    let mut bytes = Vec::with_capacity(template.len() * 24);
    for (inner, value) in template {
        let (pointer, len) = match value {
            Nested::Flag(flag) => (std::ptr::from_ref(*flag).expose_provenance(), size_of::<CK_BBOOL>()),
            Nested::Number(number) => {
                (std::ptr::from_ref(*number).expose_provenance(), size_of::<CK_ULONG>())
            }
        };
        bytes.extend(inner.to_ne_bytes());
        bytes.extend(pointer.to_ne_bytes());
        bytes.extend((len as CK_ULONG).to_ne_bytes());
    }
    Attribute::VendorDefined((AttributeType::VendorDefined(attribute), bytes))
}

/// A template as bytes that two of them can be compared by: type, length and value of each attribute, by type.
pub(crate) fn canonical(template: &NestedTemplate) -> Vec<u8> {
    let read = template.iter().map(|(inner, value)| match value {
        Nested::Flag(flag) => (*inner, vec![**flag]),
        Nested::Number(number) => (*inner, number.to_ne_bytes().to_vec()),
    });
    canonical_of(read.collect())
}

/// As [`canonical`], of what was read from a token.
pub(crate) fn canonical_of(mut read: Vec<(CK_ATTRIBUTE_TYPE, Vec<u8>)>) -> Vec<u8> {
    read.sort_by_key(|(attribute, _)| *attribute);
    read.iter()
        .flat_map(|(attribute, value)| {
            [&attribute.to_ne_bytes()[..], &(value.len() as CK_ULONG).to_ne_bytes(), value].concat()
        })
        .collect()
}

/// For people: `{CLASS=4, PRIVATE=1, ...}`.
pub(crate) fn text(canonical: &[u8]) -> String {
    const WORD: usize = size_of::<CK_ULONG>();
    let word = |bytes: &[u8]| bytes.try_into().map(CK_ULONG::from_ne_bytes).unwrap_or_default();
    let (mut rest, mut parts) = (canonical, Vec::new());
    while let Some((head, tail)) = rest.split_at_checked(2 * WORD) {
        let len = usize::try_from(word(&head[WORD..])).unwrap_or(usize::MAX).min(tail.len());
        let value = match tail[..len] {
            [flag] => flag.to_string(),
            ref bytes if len == WORD => word(bytes).to_string(),
            ref bytes => hex::encode(bytes),
        };
        parts.push(format!("{}={value}", name(word(&head[..WORD]))));
        rest = &tail[len..];
    }
    format!("{{{}}}", parts.join(", "))
}

fn name(attribute: CK_ATTRIBUTE_TYPE) -> String {
    match attribute {
        CKA_CLASS => "CLASS",
        CKA_PRIVATE => "PRIVATE",
        CKA_SENSITIVE => "SENSITIVE",
        CKA_EXTRACTABLE => "EXTRACTABLE",
        CKA_MODIFIABLE => "MODIFIABLE",
        CKA_COPYABLE => "COPYABLE",
        CKA_ENCRYPT => "ENCRYPT",
        CKA_DECRYPT => "DECRYPT",
        CKA_UNWRAP => "UNWRAP",
        CKA_WRAP => "WRAP",
        CKA_SIGN => "SIGN",
        CKA_DERIVE => "DERIVE",
        CKA_TOKEN => "TOKEN",
        other => return format!("{other:#06x}"),
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_read_in_any_order_is_the_same_and_one_with_another_value_is_not() {
        let mut read: Vec<_> = IMPORTED_KEYS
            .iter()
            .map(|(inner, value)| match value {
                Nested::Flag(flag) => (*inner, vec![**flag]),
                Nested::Number(number) => (*inner, number.to_ne_bytes().to_vec()),
            })
            .collect();
        read.reverse();
        assert_eq!(canonical_of(read.clone()), canonical(IMPORTED_KEYS));
        assert!(text(&canonical(IMPORTED_KEYS)).starts_with("{CLASS=4, PRIVATE=1, SENSITIVE=1"));
        // EXTRACTABLE.
        read.iter_mut().find(|(inner, _)| *inner == CKA_EXTRACTABLE).unwrap().1 = vec![1];
        assert_ne!(canonical_of(read), canonical(IMPORTED_KEYS));
    }
}
