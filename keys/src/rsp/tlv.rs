//! Tags of one or two bytes, definite and shortest lengths: the DER that RSP objects are made of.

/// The bytes of the longest element that is written here fit a two-byte length.
const LENGTH_MAX: usize = 0xffff;

/// Bytes that are not the DER expected at this place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotDer;

/// One element: tag, content and the bytes of the whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Element<'a> {
    pub(super) tag: u16,
    pub(super) content: &'a [u8],
    pub(super) raw: &'a [u8],
}

/// Reads elements one after the other, and nothing that DER does not allow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The tag of the next element, if there is one.
    pub(super) fn peek(&self) -> Option<u16> {
        read_tag(self.0).ok().map(|(tag, _)| tag)
    }

    /// The next element of any kind.
    pub(super) fn next(&mut self) -> Result<Element<'a>, NotDer> {
        let (tag, after_tag) = read_tag(self.0)?;
        let (&first, after_first) = after_tag.split_first().ok_or(NotDer)?;
        let (length, body) = match first {
            0..=0x7f => (usize::from(first), after_first),
            // X.690 §10.1: the definite form with the fewest octets; two are more than any input here has.
            0x81 => match after_first {
                [length @ 0x80..=0xff, body @ ..] => (usize::from(*length), body),
                _ => return Err(NotDer),
            },
            0x82 => match after_first {
                [high @ 1..=0xff, low, body @ ..] => (usize::from(*high) << 8 | usize::from(*low), body),
                _ => return Err(NotDer),
            },
            _ => return Err(NotDer),
        };
        let (content, rest) = body.split_at_checked(length).ok_or(NotDer)?;
        let raw = &self.0[..self.0.len() - rest.len()];
        self.0 = rest;
        Ok(Element { tag, content, raw })
    }

    /// The next element, which must carry `tag`.
    pub(super) fn expect(&mut self, tag: u16) -> Result<Element<'a>, NotDer> {
        let element = self.next()?;
        if element.tag == tag { Ok(element) } else { Err(NotDer) }
    }

    /// The content of the next element, which must carry `tag`.
    pub(super) fn enter(&mut self, tag: u16) -> Result<Self, NotDer> {
        Ok(Self(self.expect(tag)?.content))
    }

    /// The content of the next element as an array.
    pub(super) fn array<const N: usize>(&mut self, tag: u16) -> Result<[u8; N], NotDer> {
        self.expect(tag)?.content.try_into().map_err(|_| NotDer)
    }

    /// Nothing may follow.
    pub(super) const fn finish(&self) -> Result<(), NotDer> {
        if self.0.is_empty() { Ok(()) } else { Err(NotDer) }
    }
}

/// The content of the one element that `bytes` consist of.
pub(super) fn enter_only(bytes: &[u8], tag: u16) -> Result<Reader<'_>, NotDer> {
    let mut reader = Reader::new(bytes);
    let inside = reader.enter(tag)?;
    reader.finish()?;
    Ok(inside)
}

/// One element with finished content of at most 65,535 bytes.
pub(super) fn element(tag: u16, content: &[u8]) -> Vec<u8> {
    debug_assert!(content.len() <= LENGTH_MAX, "no RSP object written here is that long");
    let mut bytes = Vec::with_capacity(content.len() + 5);
    if tag > 0xff {
        bytes.push((tag >> 8) as u8);
    }
    bytes.push(tag as u8);
    match content.len() {
        length @ 0..=0x7f => bytes.push(length as u8),
        length @ 0x80..=0xff => bytes.extend([0x81, length as u8]),
        length => bytes.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    bytes.extend_from_slice(content);
    bytes
}

/// A tag of one byte, or of two where the first says so and the number needs it (X.690 §8.1.2.4).
fn read_tag(bytes: &[u8]) -> Result<(u16, &[u8]), NotDer> {
    match bytes {
        [first, second @ 0x1f..=0x7f, rest @ ..] if first & 0x1f == 0x1f => {
            Ok((u16::from_be_bytes([*first, *second]), rest))
        }
        [first, rest @ ..] if first & 0x1f != 0x1f => Ok((u16::from(*first), rest)),
        _ => Err(NotDer),
    }
}
