//! BER-TLV with definite lengths, as far as the objects of remote provisioning go: tags of up to two bytes, lengths of up
//! to three, and no length longer than it must be.

/// One data object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tlv<'a> {
    /// Its tag as written, for example `0xbf38`.
    pub tag: u16,
    /// What it holds.
    pub value: &'a [u8],
    /// All of it, tag and length included: what signatures are over.
    pub whole: &'a [u8],
}

/// Bytes that are not the objects that are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

/// Reads one object after the other.
#[derive(Clone, Copy)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// At the first object of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The object of this tag that fills `bytes`, opened.
    pub fn inside(bytes: &'a [u8], tag: u16) -> Result<Self, Malformed> {
        let mut reader = Self(bytes);
        let object = reader.expect(tag)?;
        reader.end()?;
        Ok(Self(object.value))
    }

    /// The next object, whatever it is; `None` at the end.
    pub fn object(&mut self) -> Result<Option<Tlv<'a>>, Malformed> {
        let (tag, length, header_len) = match *self.0 {
            [] => return Ok(None),
            [first, second, ..] if first & 0x1f == 0x1f && second < 0x80 => {
                let (length, length_len) = length(&self.0[2..])?;
                (u16::from_be_bytes([first, second]), length, 2 + length_len)
            }
            [first, ..] if first & 0x1f != 0x1f => {
                let (length, length_len) = length(&self.0[1..])?;
                (u16::from(first), length, 1 + length_len)
            }
            _ => return Err(Malformed),
        };
        let (whole, rest) = self.0.split_at_checked(header_len + length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(Some(Tlv { tag, value: &whole[header_len..], whole }))
    }

    /// The next object, which must have this tag.
    pub fn expect(&mut self, tag: u16) -> Result<Tlv<'a>, Malformed> {
        self.object()?.filter(|object| object.tag == tag).ok_or(Malformed)
    }

    /// The next object if it has this tag.
    pub fn optional(&mut self, tag: u16) -> Result<Option<Tlv<'a>>, Malformed> {
        let mut ahead = *self;
        let object = ahead.object()?.filter(|object| object.tag == tag);
        if object.is_some() {
            *self = ahead;
        }
        Ok(object)
    }

    /// Nothing may follow.
    pub const fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

fn length(bytes: &[u8]) -> Result<(usize, usize), Malformed> {
    let read = match *bytes {
        [short @ 0..=0x7f, ..] => (usize::from(short), 1),
        [0x81, long @ 0x80..=0xff, ..] => (usize::from(long), 2),
        [0x82, high @ 1..=0xff, low, ..] => (usize::from(u16::from_be_bytes([high, low])), 3),
        [0x83, high @ 1..=0xff, middle, low, ..] => {
            (usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low), 4)
        }
        _ => return Err(Malformed),
    };
    Ok(read)
}

/// Writes an object of the parts one after the other.
///
/// # Panics
/// When they are 16 MiB or more.
pub fn tlv(tag: u16, parts: &[&[u8]]) -> Vec<u8> {
    let value = parts.concat();
    let mut object = header(tag, value.len());
    object.extend(value);
    object
}

/// Tag and length of an object of so many bytes.
///
/// # Panics
/// When they are 16 MiB or more.
pub fn header(tag: u16, length: usize) -> Vec<u8> {
    let mut header = match tag.to_be_bytes() {
        [0, tag] => vec![tag],
        two => two.to_vec(),
    };
    match length.to_be_bytes() {
        [.., 0, 0, low] if low < 0x80 => header.push(low),
        [.., 0, 0, low] => header.extend([0x81, low]),
        [.., 0, middle, low] => header.extend([0x82, middle, low]),
        [0, 0, 0, 0, 0, high, middle, low] => header.extend([0x83, high, middle, low]),
        _ => panic!("an object of {length} bytes"),
    }
    header
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(tag in prop_oneof![Just(0x04_u16), Just(0x30), Just(0x5f37), Just(0xbf38)], len in 0_usize..70_000) {
            let value = vec![0xa5; len];
            let object = tlv(tag, &[&value]);
            let mut reader = Reader::new(&object);
            let read = reader.expect(tag).unwrap();
            prop_assert_eq!(read.value, &value[..]);
            prop_assert_eq!(read.whole, &object[..]);
            prop_assert_eq!(reader.end(), Ok(()));
        }

        #[test]
        fn any_bytes_are_read_to_their_end_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = Reader::new(&bytes);
            let mut read = 0;
            while let Ok(Some(object)) = reader.object() {
                read += object.whole.len();
                prop_assert_eq!(object.whole, &tlv(object.tag, &[object.value])[..]);
            }
            prop_assert!(read <= bytes.len());
        }
    }

    #[test]
    fn a_length_longer_than_it_must_be_is_refused() {
        for bytes in
            [&[0x04, 0x81, 0x01, 0x00][..], &[0x04, 0x82, 0x00, 0x01, 0x00], &[0x04, 0x80, 0x00, 0x00]]
        {
            assert_eq!(Reader::new(bytes).object(), Err(Malformed));
        }
    }
}
