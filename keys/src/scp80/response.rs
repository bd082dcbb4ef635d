//! Response packets, the proof of receipt: `RPL(2) RHL(1) TAR(3) CNTR(5) PCNTR(1) status(1) RC/CC(0, 4, 8) data padding`;
//! from CNTR on ciphered (TS 102 225 table 4, TS 31.115 table 3).

use subtle::ConstantTimeEq;

use super::header::{Integrity, ProofOfReceipt, Tar};
use super::keys::{PacketKeys, block_bytes};
use crate::KeyError;

/// UDHL, the information element of response packets and its length. They are under the checksum (TS 31.115 §4.3).
const USER_DATA_HEADER: [u8; 3] = [0x02, 0x71, 0x00];
/// TAR, CNTR, PCNTR and status.
const HEADER_BYTES: usize = 10;
/// RPL, RHL and TAR, which are never ciphered.
const CLEAR_BYTES: usize = 6;
/// CNTR, PCNTR and status.
const NUMBERED_BYTES: usize = 7;

/// What a card answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResponsePacket {
    /// The application that answers.
    pub tar: Tar,
    /// The counter of the command packet, as the card repeats it: any 5-byte value.
    pub counter: u64,
    /// How the packet fared.
    pub status: ResponseStatus,
    /// What the application answers.
    pub data: Vec<u8>,
}

/// How a command packet fared (TS 102 225 table 5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ResponseStatus(pub u8);

impl ResponseStatus {
    /// Accepted and done.
    pub const OK: Self = Self(0x00);

    /// The stable name used in answers.
    pub const fn as_str(self) -> &'static str {
        match self.0 {
            0x00 => "por-ok",
            0x01 => "checksum-failed",
            0x02 => "counter-low",
            0x03 => "counter-high",
            0x04 => "counter-blocked",
            0x05 => "ciphering-error",
            0x06 => "unidentified-security-error",
            0x07 => "insufficient-memory",
            0x08 => "more-time-needed",
            0x09 => "tar-unknown",
            0x0a => "insufficient-security-level",
            0x0b => "response-by-submit",
            0x0c => "response-by-ussd",
            _ => "reserved",
        }
    }
}

impl ResponsePacket {
    /// The application that a response packet says it is from; nothing proves it yet.
    pub fn tar_of(packet: &[u8]) -> Option<Tar> {
        let packet = packet.strip_prefix(&USER_DATA_HEADER).unwrap_or(packet);
        packet.get(3..CLEAR_BYTES).and_then(|tar| tar.try_into().ok()).map(Tar)
    }

    /// Reads a packet of a card, with or without its user data header, that was asked for as `receipt` says. The inner
    /// error is the packet's: it does not read, or its check is wrong; then nothing of it is told.
    ///
    /// Total: any bytes are read or refused.
    pub fn open<K: PacketKeys>(
        packet: &[u8],
        receipt: ProofOfReceipt,
        keys: &K,
    ) -> Result<Result<Self, KeyError>, K::Error> {
        const MALFORMED: KeyError = KeyError::ResponsePacket("is no response packet");
        const UNPROVED: KeyError = KeyError::ResponsePacket("has a check that is not right");
        // A packet of this length with a header of length 0 does not exist, so the two forms never mix.
        let packet = packet.strip_prefix(&USER_DATA_HEADER).unwrap_or(packet);
        let check_bytes = receipt.integrity.bytes();
        let Some((head, body)) = packet.split_at_checked(CLEAR_BYTES) else { return Ok(Err(MALFORMED)) };
        let length = usize::from(u16::from_be_bytes([head[0], head[1]]));
        if length + 2 != packet.len() || usize::from(head[2]) != HEADER_BYTES + check_bytes {
            return Ok(Err(MALFORMED));
        }
        let opened;
        let body = match receipt.is_ciphered {
            true if body.is_empty() || !body.len().is_multiple_of(block_bytes(keys.algorithm())) => {
                return Ok(Err(MALFORMED));
            }
            true => {
                opened = keys.decrypt(body)?;
                &opened[..]
            }
            false => body,
        };
        let Some((numbered, rest)) = body.split_first_chunk::<NUMBERED_BYTES>() else {
            return Ok(Err(MALFORMED));
        };
        let Some((check, data)) = rest.split_at_checked(check_bytes) else { return Ok(Err(MALFORMED)) };
        let checked = || [&USER_DATA_HEADER, head, numbered, data].concat();
        let expected = match receipt.integrity {
            Integrity::None => Vec::new(),
            Integrity::RedundancyCheck => crc32fast::hash(&checked()).to_be_bytes().to_vec(),
            Integrity::Checksum => keys.checksum(&checked())?.to_vec(),
        };
        // Before anything of the inside is looked at.
        if !bool::from(expected.ct_eq(check)) {
            return Ok(Err(UNPROVED));
        }
        let [counter @ .., padding, status] = *numbered;
        let Some(data_bytes) = data.len().checked_sub(usize::from(padding)) else {
            return Ok(Err(MALFORMED));
        };
        let [c1, c2, c3, c4, c5] = counter;
        Ok(Ok(Self {
            tar: Tar([head[3], head[4], head[5]]),
            counter: u64::from_be_bytes([0, 0, 0, c1, c2, c3, c4, c5]),
            status: ResponseStatus(status),
            data: data[..data_bytes].to_vec(),
        }))
    }
}
