//! What a manufacturer's order can ask for.

use crate::UnknownCode;

/// The form in which the keys of an order leave. Fixed at the order's first line.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum OrderFormat {
    /// JSON lines of AES-KWP blobs (RFC 5649), made in the token.
    JsonlKwp,
    /// JSON lines of ANSI X9.143 (TR-31) key blocks of version D. Made in the worker's zeroized memory.
    Tr31,
    /// AES Key Wrap (RFC 3394), made in the token, ready for PSKC containers (RFC 6030).
    Pskc,
    /// Cells of osmocom pySim's CSV: compatibility only. Made in the worker's zeroized memory.
    PysimCsv,
}

impl OrderFormat {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::JsonlKwp, Self::Tr31, Self::Pskc, Self::PysimCsv];

    /// The number in messages and records.
    pub const fn code(self) -> u32 {
        match self {
            Self::JsonlKwp => 1,
            Self::Tr31 => 2,
            Self::Pskc => 3,
            Self::PysimCsv => 4,
        }
    }

    /// Reads a number of a message or record. 0 is the first format: orders of before there were others say nothing.
    pub fn from_code(code: u32) -> Result<Self, UnknownCode> {
        match code {
            0 => Ok(Self::JsonlKwp),
            code => Self::ALL
                .into_iter()
                .find(|format| format.code() == code)
                .ok_or(UnknownCode { what: "order format", code }),
        }
    }

    /// The stable name used in files, answers and entries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::JsonlKwp => "jsonl-kwp",
            Self::Tr31 => "tr31",
            Self::Pskc => "pskc",
            Self::PysimCsv => "pysim-csv",
        }
    }

    /// Whether the token itself makes it. What it cannot make needs each device key in clear, in the worker's memory.
    pub const fn is_made_inside(self) -> bool {
        match self {
            Self::JsonlKwp | Self::Pskc => true,
            Self::Tr31 | Self::PysimCsv => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_is_read_back_and_an_old_order_has_the_first() {
        for format in OrderFormat::ALL {
            assert_eq!(OrderFormat::from_code(format.code()), Ok(format));
        }
        assert_eq!(OrderFormat::from_code(0), Ok(OrderFormat::JsonlKwp));
        assert!(OrderFormat::from_code(5).is_err());
    }
}
