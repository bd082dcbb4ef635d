//! A card that takes secured packets (ETSI TS 102 225 with AES, as 3GPP TS 31.115 carries them) and answers them.

use crate::aes::AesKey;

/// Octets before the ciphered part: CPL, CHL, SPI, KIc, KID, TAR.
const CLEAR: usize = 10;
/// CPL, CHL of a packet with a checksum of eight octets: SPI to CC.
const HEADER_BYTES: u8 = 21;

/// One keyset of SCP80 on a card, with the counter it has seen.
pub struct OtaCard {
    kvn: u8,
    kic: AesKey,
    kid: AesKey,
    counter: u64,
}

/// What the card made of a packet.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    /// The application.
    pub tar: [u8; 3],
    /// Its counter.
    pub counter: u64,
    /// Secured data, in clear.
    pub data: Vec<u8>,
    /// SPI.
    pub security_parameters: [u8; 2],
}

/// Why the card takes no packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is no packet of this keyset, or its checksum is wrong.
    Integrity,
    /// Its counter is not above the last one.
    Counter,
}

impl OtaCard {
    /// A card with these keys.
    ///
    /// # Panics
    /// When a key is none of AES.
    pub fn new(kvn: u8, kic: &[u8], kid: &[u8]) -> Self {
        let key = |bytes| AesKey::new(bytes).expect("an AES key has 16, 24 or 32 bytes");
        Self { kvn, kic: key(kic), kid: key(kid), counter: 0 }
    }

    /// Takes a packet, from CPL on.
    pub fn take(&mut self, packet: &[u8]) -> Result<Opened, Refused> {
        let length = usize::from(u16::from_be_bytes([packet[0], packet[1]]));
        let key_byte = self.kvn << 4 | 0x02;
        if packet.len() != length + 2 || packet[2] != HEADER_BYTES || packet[5..7] != [key_byte; 2] {
            return Err(Refused::Integrity);
        }
        let body = self.kic.cbc_decrypt([0; 16], packet[CLEAR..].to_vec()).ok_or(Refused::Integrity)?;
        let (numbered, rest) = body.split_at(6);
        let (check, data) = rest.split_at(8);
        let checked = [&packet[..CLEAR], numbered, data].concat();
        if self.kid.cmac(&checked)[..8] != *check {
            return Err(Refused::Integrity);
        }
        let counter = numbered[..5].iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        if counter <= self.counter {
            return Err(Refused::Counter);
        }
        self.counter = counter;
        Ok(Opened {
            tar: packet[7..10].try_into().expect("three octets"),
            counter,
            data: data[..data.len() - usize::from(numbered[5])].to_vec(),
            security_parameters: [packet[3], packet[4]],
        })
    }

    /// A ciphered proof of receipt with a checksum, with its user data header.
    pub fn answer(&self, opened: &Opened, status: u8, data: &[u8]) -> Vec<u8> {
        let plain_bytes = 5 + 1 + 1 + 8 + data.len();
        let padding = plain_bytes.next_multiple_of(16) - plain_bytes;
        let padded = [data, &vec![0; padding]].concat();
        let length = u16::try_from(1 + 3 + 15 + padded.len()).expect("a short answer");
        let mut head = length.to_be_bytes().to_vec();
        // RHL: TAR, CNTR, PCNTR, RSC, CC.
        head.push(18);
        head.extend(opened.tar);
        let mut numbered = opened.counter.to_be_bytes()[3..].to_vec();
        numbered.extend([u8::try_from(padding).expect("less than a block"), status]);
        let header = [0x02, 0x71, 0x00];
        let check = self.kid.cmac(&[&header[..], &head, &numbered, &padded].concat());
        let body = self.kic.cbc_encrypt([0; 16], [&numbered[..], &check[..8], &padded].concat());
        [&header[..], &head, &body].concat()
    }
}
