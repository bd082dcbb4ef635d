//! Command packets: `CPL(2) CHL(1) SPI(2) KIc(1) KID(1) TAR(3) CNTR(5) PCNTR(1) RC/CC(0, 4, 8) data padding`; from CNTR on
//! ciphered (TS 102 225 table 1, TS 31.115 table 1).

use domain::KeyVersionNumber;

use super::header::{Counter, Integrity, Spi, Tar, kic, kid};
use super::keys::{PacketKeys, block_bytes};
use crate::KeyError;

/// Most bytes of secured data of one packet: what a card puts together from concatenated short messages and more.
pub const DATA_BYTES_MAX: usize = 4_096;

/// SPI, KIc, KID, TAR, CNTR and PCNTR.
const HEADER_BYTES: usize = 13;

/// One packet before it is protected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommandPacket {
    spi: Spi,
    kvn: KeyVersionNumber,
    tar: Tar,
    counter: Counter,
    data: Vec<u8>,
}

impl CommandPacket {
    /// `kvn` is the keyset's, 1 to 15; `data` is what the application gets, at most [`DATA_BYTES_MAX`] bytes.
    pub fn new(
        spi: Spi,
        kvn: KeyVersionNumber,
        tar: Tar,
        counter: Counter,
        data: Vec<u8>,
    ) -> Result<Self, KeyError> {
        if data.len() > DATA_BYTES_MAX {
            return Err(KeyError::PacketData { bytes: data.len() });
        }
        if kvn.value() > 0x0f {
            return Err(KeyError::PacketKeyset { kvn: kvn.value() });
        }
        Ok(Self { spi, kvn, tar, counter, data })
    }

    /// How it is protected.
    pub const fn spi(&self) -> Spi {
        self.spi
    }

    /// The application it is for.
    pub const fn tar(&self) -> Tar {
        self.tar
    }

    /// Its number.
    pub const fn counter(&self) -> Counter {
        self.counter
    }

    /// What the application gets.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The packet, from CPL on, as it goes into short messages after the header `02 70 00`.
    pub fn protect<K: PacketKeys>(&self, keys: &K) -> Result<Vec<u8>, K::Error> {
        let algorithm = keys.algorithm();
        let check_bytes = self.spi.integrity.bytes();
        let padding = match self.spi.is_ciphered {
            // CNTR and PCNTR are ciphered too.
            true => (6 + check_bytes + self.data.len()).wrapping_neg() % block_bytes(algorithm),
            false => 0,
        };
        let body_bytes = HEADER_BYTES + check_bytes + self.data.len() + padding;
        let length = |bytes: usize| u16::try_from(bytes).expect("the data is bounded").to_be_bytes();
        // CHL itself counts for CPL.
        let [cpl_high, cpl_low] = length(1 + body_bytes);
        let [_, chl] = length(HEADER_BYTES + check_bytes);
        let [spi_1, spi_2] = self.spi.to_bytes();
        let [tar_1, tar_2, tar_3] = self.tar.0;
        let head = [
            cpl_high,
            cpl_low,
            chl,
            spi_1,
            spi_2,
            kic(self.kvn, algorithm),
            kid(self.kvn, algorithm, self.spi.integrity),
            tar_1,
            tar_2,
            tar_3,
        ];
        let mut numbered = self.counter.to_bytes().to_vec();
        numbered.push(u8::try_from(padding).expect("less than a block"));
        let data = [&self.data[..], &vec![0; padding]].concat();
        let checked = || [&head[..], &numbered, &data].concat();
        let check = match self.spi.integrity {
            Integrity::None => Vec::new(),
            Integrity::RedundancyCheck => crc32fast::hash(&checked()).to_be_bytes().to_vec(),
            Integrity::Checksum => keys.checksum(&checked())?.to_vec(),
        };
        let mut body = [numbered, check, data].concat();
        if self.spi.is_ciphered {
            body = keys.encrypt(&body)?;
        }
        Ok([&head[..], &body].concat())
    }
}
