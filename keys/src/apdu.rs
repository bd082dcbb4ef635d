//! Commands for a card with a short length (ISO 7816-3 §12.1), as a caller hands them in.

use crate::KeyError;

/// Most bytes of data of one command.
pub const DATA_BYTES_MAX: usize = 255;

/// One command: header, data and the expected length of the answer, in cases 1 to 4.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Apdu {
    /// Class.
    pub cla: u8,
    /// Instruction.
    pub ins: u8,
    /// First parameter.
    pub p1: u8,
    /// Second parameter.
    pub p2: u8,
    data: Vec<u8>,
    /// Le, when an answer is expected; 0 stands for 256.
    pub le: Option<u8>,
}

impl Apdu {
    /// A command.
    ///
    /// # Panics
    /// When the data is longer than [`DATA_BYTES_MAX`].
    pub fn new(header: [u8; 4], data: Vec<u8>, le: Option<u8>) -> Self {
        assert!(data.len() <= DATA_BYTES_MAX, "callers bound the data of a command");
        let [cla, ins, p1, p2] = header;
        Self { cla, ins, p1, p2, data, le }
    }

    /// Reads one command and nothing after it. Lengths of three bytes are refused: no card of ours takes them over a
    /// secure channel.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        let malformed = KeyError::Apdu("is no short command of ISO 7816: header, Lc, data, Le");
        let (header, body) = bytes.split_first_chunk::<4>().ok_or(malformed)?;
        let (data, le) = match *body {
            [] => (&[][..], None),
            [le] => (&[][..], Some(le)),
            // Lc 00 begins an extended length.
            [0, ..] => return Err(malformed),
            [lc, ref rest @ ..] => {
                let (data, le) = rest.split_at_checked(usize::from(lc)).ok_or(malformed)?;
                match *le {
                    [] => (data, None),
                    [le] => (data, Some(le)),
                    _ => return Err(malformed),
                }
            }
        };
        Ok(Self::new(*header, data.to_vec(), le))
    }

    /// The data, at most [`DATA_BYTES_MAX`] bytes.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// CLA, INS, P1, P2.
    pub const fn header(&self) -> [u8; 4] {
        [self.cla, self.ins, self.p1, self.p2]
    }

    /// The bytes that [`Self::parse`] reads.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.header().to_vec();
        if !self.data.is_empty() {
            bytes.push(self.lc());
            bytes.extend_from_slice(&self.data);
        }
        bytes.extend(self.le);
        bytes
    }

    /// Length of the data as a byte.
    pub(crate) fn lc(&self) -> u8 {
        u8::try_from(self.data.len()).expect("a command has at most 255 bytes of data")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_four_cases_are_read_and_what_does_not_add_up_is_refused() {
        let case = |text: &str| Apdu::parse(&hex::decode(text).unwrap());
        for (text, data, le) in [
            ("80f20000", 0, None),
            ("80ca006600", 0, Some(0)),
            ("00a40004023f00", 2, None),
            ("80f24000024f0000", 2, Some(0)),
        ] {
            let apdu = case(text).unwrap();
            assert_eq!((apdu.data().len(), apdu.le), (data, le), "{text}");
            assert_eq!(hex::encode(apdu.to_bytes()), text);
        }
        for text in ["", "80f200", "00a40004033f00", "00a40004023f000000", "80e2000000ffff", "80f2000000000a"]
        {
            assert!(case(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_and_what_was_read_writes_back(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(apdu) = Apdu::parse(&bytes) {
                prop_assert_eq!(apdu.to_bytes(), bytes);
            }
        }
    }
}
