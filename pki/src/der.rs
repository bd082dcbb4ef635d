//! A small DER writer, and a strict DER reader for what comes from outside or is spliced.

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const NULL: u8 = 0x05;
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(crate) const ENUMERATED: u8 = 0x0a;
pub(crate) const UTF8_STRING: u8 = 0x0c;
pub(crate) const PRINTABLE_STRING: u8 = 0x13;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

/// Tag of a primitive context-specific element.
pub(crate) const fn context(number: u8) -> u8 {
    0x80 | number
}

/// Tag of a constructed context-specific element.
pub(crate) const fn context_constructed(number: u8) -> u8 {
    0xa0 | number
}

/// Appends elements; the length of a nested one is filled in when its content is known.
#[derive(Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    /// One element with finished content.
    pub(crate) fn element(&mut self, tag: u8, content: &[u8]) -> &mut Self {
        self.0.push(tag);
        push_length(&mut self.0, content.len());
        self.0.extend_from_slice(content);
        self
    }

    /// One element whose content `write` appends.
    pub(crate) fn nested(&mut self, tag: u8, write: impl FnOnce(&mut Self)) -> &mut Self {
        self.0.push(tag);
        let start = self.0.len();
        write(self);
        let mut length = Vec::with_capacity(4);
        push_length(&mut length, self.0.len() - start);
        self.0.splice(start..start, length);
        self
    }

    /// Bytes that are elements already.
    pub(crate) fn raw(&mut self, der: &[u8]) -> &mut Self {
        self.0.extend_from_slice(der);
        self
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// One element as a value of its own.
pub(crate) fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.element(tag, content);
    writer.finish()
}

/// One constructed element as a value of its own.
pub(crate) fn nested(tag: u8, write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.nested(tag, write);
    writer.finish()
}

/// A non-negative INTEGER from its magnitude, leading zeros allowed.
pub(crate) fn unsigned_integer(magnitude: &[u8]) -> Vec<u8> {
    let first = magnitude.iter().position(|b| *b != 0).unwrap_or(magnitude.len());
    let mut content = Vec::with_capacity(magnitude.len() + 1);
    if magnitude.get(first).is_none_or(|b| *b >= 0x80) {
        content.push(0);
    }
    content.extend_from_slice(&magnitude[first..]);
    element(INTEGER, &content)
}

fn push_length(into: &mut Vec<u8>, length: usize) {
    if length < 0x80 {
        into.push(length as u8);
        return;
    }
    let bytes = length.to_be_bytes();
    let first = bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len() - 1);
    into.push(0x80 | (bytes.len() - first) as u8);
    into.extend_from_slice(&bytes[first..]);
}

/// Not DER, or not the element that was expected here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotDer;

/// One element: tag, content, and the bytes of the whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) content: &'a [u8],
    pub(crate) raw: &'a [u8],
}

/// Reads elements one after the other; definite, minimal lengths and one-byte tags only.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn peek_tag(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The next element of any kind.
    pub(crate) fn next(&mut self) -> Result<Element<'a>, NotDer> {
        let bytes = self.0;
        let (&tag, after_tag) = bytes.split_first().ok_or(NotDer)?;
        if tag & 0x1f == 0x1f {
            return Err(NotDer);
        }
        let (&first, after_first) = after_tag.split_first().ok_or(NotDer)?;
        let (length, body) = match first {
            0..=0x7f => (usize::from(first), after_first),
            // X.690 §10.1: the definite form with the fewest octets; four are more than any input here may have.
            0x81..=0x84 => {
                let count = usize::from(first & 0x7f);
                let (octets, body) = after_first.split_at_checked(count).ok_or(NotDer)?;
                let length = octets.iter().fold(0usize, |n, b| (n << 8) | usize::from(*b));
                if octets[0] == 0 || length < 0x80 {
                    return Err(NotDer);
                }
                (length, body)
            }
            _ => return Err(NotDer),
        };
        let content = body.get(..length).ok_or(NotDer)?;
        self.0 = &body[length..];
        Ok(Element { tag, content, raw: &bytes[..bytes.len() - self.0.len()] })
    }

    /// The next element, which must carry `tag`.
    pub(crate) fn expect(&mut self, tag: u8) -> Result<Element<'a>, NotDer> {
        let element = self.next()?;
        if element.tag == tag { Ok(element) } else { Err(NotDer) }
    }

    /// The content of the next element, which must carry `tag`.
    pub(crate) fn enter(&mut self, tag: u8) -> Result<Reader<'a>, NotDer> {
        Ok(Reader(self.expect(tag)?.content))
    }

    /// Nothing may follow.
    pub(crate) const fn finish(&self) -> Result<(), NotDer> {
        if self.0.is_empty() { Ok(()) } else { Err(NotDer) }
    }
}

/// The content of the one element that `bytes` consists of.
pub(crate) fn enter_only(bytes: &[u8], tag: u8) -> Result<Reader<'_>, NotDer> {
    let mut reader = Reader::new(bytes);
    let inside = reader.enter(tag)?;
    reader.finish()?;
    Ok(inside)
}

/// The content of the one primitive element that `bytes` consists of.
pub(crate) fn enter_only_primitive(bytes: &[u8], tag: u8) -> Result<&[u8], NotDer> {
    let mut reader = Reader::new(bytes);
    let content = reader.expect(tag)?.content;
    reader.finish()?;
    Ok(content)
}

/// Whether `bytes` are well-formed DER all the way down as far as the tags tell: lengths, booleans, integers, object
/// identifiers, bit strings, and constructed or primitive form.
pub(crate) fn is_canonical(bytes: &[u8]) -> bool {
    fn walk(mut reader: Reader<'_>, depth: u8) -> bool {
        while !reader.is_empty() {
            let Ok(element) = reader.next() else { return false };
            let content = element.content;
            let well_formed = match element.tag {
                BOOLEAN => matches!(content, [0] | [0xff]),
                INTEGER => match content {
                    [] => false,
                    [0, second, ..] => *second >= 0x80,
                    [0xff, second, ..] => *second < 0x80,
                    _ => true,
                },
                NULL => content.is_empty(),
                OBJECT_IDENTIFIER => crate::oid::decode(content).is_some(),
                BIT_STRING => match content {
                    [0, ..] => true,
                    // X.690 §11.2.1: unused bits are zero.
                    [unused @ 1..=7, .., last] => last & ((1 << unused) - 1) == 0,
                    _ => false,
                },
                UTF8_STRING => std::str::from_utf8(content).is_ok(),
                SEQUENCE | SET => depth < 16 && walk(Reader::new(content), depth + 1),
                // A universal type of DER has one form only.
                tag if tag & 0xc0 == 0 => tag & 0x20 == 0,
                tag if tag & 0x20 != 0 => depth < 16 && walk(Reader::new(content), depth + 1),
                _ => true,
            };
            if !well_formed {
                return false;
            }
        }
        true
    }
    walk(Reader::new(bytes), 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_are_written_in_the_shortest_form_and_only_that_form_is_read() {
        for length in [0usize, 1, 127, 128, 255, 256, 65_535, 65_536] {
            let bytes = element(OCTET_STRING, &vec![7; length]);
            let mut reader = Reader::new(&bytes);
            assert_eq!(reader.expect(OCTET_STRING).unwrap().content.len(), length);
            reader.finish().unwrap();
        }
        for bad in ["0481020102", "048200010a", "0480000000", "04", "0405aa", "1f0101", "0485000000000100"] {
            assert!(Reader::new(&hex::decode(bad).unwrap()).next().is_err(), "{bad}");
        }
    }

    #[test]
    fn integers_are_minimal_and_never_negative() {
        let cases =
            [("", "020100"), ("00", "020100"), ("7f", "02017f"), ("80", "02020080"), ("0080", "02020080")];
        for (magnitude, der) in cases {
            assert_eq!(hex::encode(unsigned_integer(&hex::decode(magnitude).unwrap())), der);
        }
    }

    #[test]
    fn encodings_that_only_ber_allows_are_not_canonical() {
        for (good, bad) in [
            ("0101ff", "010101"),
            ("020101", "02020001"),
            ("03020780", "03020781"),
            ("0500", "050100"),
            ("06032a0304", "06032a8003"),
            ("30030101ff", "3003010101"),
            ("0c0141", "2c030c0141"),
            ("300302017f", "30 8103 02017f"),
        ] {
            let decode = |text: &str| hex::decode(text.replace(' ', "")).unwrap();
            assert!(is_canonical(&decode(good)), "{good}");
            assert!(!is_canonical(&decode(bad)), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_upset_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            is_canonical(&bytes);
            let mut reader = Reader::new(&bytes);
            let mut read = 0;
            while let Ok(element) = reader.next() {
                read += element.raw.len();
                prop_assert!(element.raw.ends_with(element.content));
            }
            prop_assert!(read <= bytes.len());
        }
    }
}
