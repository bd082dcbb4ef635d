//! The tags of a TBSCertificate and of a TBSCertList, from RFC 5280 appendix A. The reader that judges the values looks at tag numbers only, and
//! takes a [6] for an OBJECT IDENTIFIER; here every tag is compared, class and form included.

use crate::der::{
    BIT_STRING, BOOLEAN, GENERALIZED_TIME, INTEGER, NULL, OBJECT_IDENTIFIER, OCTET_STRING, PRINTABLE_STRING,
    Reader, SEQUENCE, SET, UTC_TIME, UTF8_STRING, context, context_constructed,
};
use crate::oid;

/// What may stand at one place.
pub(crate) enum Shape {
    /// A primitive element with one of these tags.
    Leaf(&'static [u8]),
    /// A constructed element with these parts in their order.
    Record(u8, &'static [Shape]),
    /// A constructed element with one or more of this part.
    List(u8, &'static Shape),
    /// The part, or nothing.
    Maybe(&'static Shape),
}

use Shape::{Leaf, List, Maybe, Record};

const TELETEX_STRING: u8 = 0x14;
const IA5_STRING: u8 = 0x16;
const BMP_STRING: u8 = 0x1e;

const OID: Shape = Leaf(&[OBJECT_IDENTIFIER]);
const TIME: Shape = Leaf(&[UTC_TIME, GENERALIZED_TIME]);
const STRING: Shape = Leaf(&[UTF8_STRING, PRINTABLE_STRING, TELETEX_STRING, IA5_STRING, BMP_STRING]);
const NAME: Shape = List(SEQUENCE, &List(SET, &Record(SEQUENCE, &[OID, STRING])));
const EXTENSION: Shape = Record(SEQUENCE, &[OID, Maybe(&Leaf(&[BOOLEAN])), Leaf(&[OCTET_STRING])]);

/// RFC 5280 §4.1. Unique identifiers are left out on purpose (§4.1.2.8).
pub(super) const TBS_CERTIFICATE: Shape = Record(
    SEQUENCE,
    &[
        Record(context_constructed(0), &[Leaf(&[INTEGER])]),
        Leaf(&[INTEGER]),
        Record(SEQUENCE, &[OID, Maybe(&Leaf(&[NULL]))]),
        NAME,
        Record(SEQUENCE, &[TIME, TIME]),
        NAME,
        Record(SEQUENCE, &[Record(SEQUENCE, &[OID, OID]), Leaf(&[BIT_STRING])]),
        Record(context_constructed(3), &[List(SEQUENCE, &EXTENSION)]),
    ],
);

const ENTRY: Shape = Record(SEQUENCE, &[Leaf(&[INTEGER]), TIME, Maybe(&List(SEQUENCE, &EXTENSION))]);

/// RFC 5280 §5.1, with nextUpdate and extensions, which every list has.
pub(crate) const TBS_CERT_LIST: Shape = Record(
    SEQUENCE,
    &[
        Leaf(&[INTEGER]),
        Record(SEQUENCE, &[OID, Maybe(&Leaf(&[NULL]))]),
        NAME,
        TIME,
        TIME,
        Maybe(&List(SEQUENCE, &ENTRY)),
        Record(context_constructed(0), &[List(SEQUENCE, &EXTENSION)]),
    ],
);

/// rfc822Name, dNSName, uniformResourceIdentifier, iPAddress, registeredID: the primitive kinds of GeneralName.
const PRIMITIVE_NAME: Shape = Leaf(&[context(1), context(2), context(6), context(7), context(8)]);
const DIRECTORY_SUBTREE: Shape = Record(SEQUENCE, &[Record(context_constructed(4), &[NAME])]);
const FULL_NAME: Shape = List(context_constructed(0), &PRIMITIVE_NAME);

/// The values of the extensions that profiles have.
const EXTENSION_VALUES: [(oid::Arcs, Shape); 10] = [
    (oid::SUBJECT_KEY_IDENTIFIER, Leaf(&[OCTET_STRING])),
    (
        oid::AUTHORITY_KEY_IDENTIFIER,
        Record(SEQUENCE, &[Maybe(&Leaf(&[context(0)])), Maybe(&Leaf(&[context(2)]))]),
    ),
    (oid::KEY_USAGE, Leaf(&[BIT_STRING])),
    (oid::CERTIFICATE_POLICIES, List(SEQUENCE, &Record(SEQUENCE, &[OID]))),
    (oid::SUBJECT_ALTERNATIVE_NAME, List(SEQUENCE, &PRIMITIVE_NAME)),
    (oid::BASIC_CONSTRAINTS, Record(SEQUENCE, &[Maybe(&Leaf(&[BOOLEAN])), Maybe(&Leaf(&[INTEGER]))])),
    (
        oid::CRL_DISTRIBUTION_POINTS,
        List(SEQUENCE, &Record(SEQUENCE, &[Record(context_constructed(0), &[FULL_NAME])])),
    ),
    (
        oid::NAME_CONSTRAINTS,
        Record(
            SEQUENCE,
            &[
                Maybe(&List(context_constructed(0), &DIRECTORY_SUBTREE)),
                Maybe(&List(context_constructed(1), &DIRECTORY_SUBTREE)),
            ],
        ),
    ),
    (oid::EXTENDED_KEY_USAGE, List(SEQUENCE, &OID)),
    (oid::PERMITTED_EINS, List(SEQUENCE, &Leaf(&[PRINTABLE_STRING]))),
];

/// Whether `value` has the shape of the extension `oid`; one that no profile has passes, it has its own finding.
pub(crate) fn is_extension_value(oid: &[u64], value: &[u8]) -> bool {
    EXTENSION_VALUES.iter().find(|(known, _)| *known == oid).is_none_or(|(_, shape)| shape.is_all_of(value))
}

impl Shape {
    /// Whether `bytes` are this and nothing more.
    pub(crate) fn is_all_of(&self, bytes: &[u8]) -> bool {
        let mut reader = Reader::new(bytes);
        self.is_next(&mut reader) && reader.is_empty()
    }

    fn is_next(&self, reader: &mut Reader<'_>) -> bool {
        match self {
            Leaf(tags) => reader.next().is_ok_and(|element| tags.contains(&element.tag)),
            Record(tag, parts) => reader.enter(*tag).is_ok_and(|mut inside| {
                parts.iter().all(|part| part.is_next(&mut inside)) && inside.is_empty()
            }),
            List(tag, part) => reader.enter(*tag).is_ok_and(|mut inside| {
                let mut all = !inside.is_empty();
                while all && !inside.is_empty() {
                    all = part.is_next(&mut inside);
                }
                all
            }),
            Maybe(part) => {
                let before = *reader;
                if !part.is_next(reader) {
                    *reader = before;
                }
                true
            }
        }
    }
}
