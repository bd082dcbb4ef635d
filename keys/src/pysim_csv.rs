//! Card keys in the CSV of osmocom's pySim: each cell AES-CBC under a key of its column, with one fixed IV and no MAC.
//!
//! A compatibility mode: equal keys make equal cells, and a changed cell is noticed by its check value only. Hence a
//! column key of ours is fresh for each chunk of an order.

use std::fmt::Write as _;

use domain::{KeyUsage, KeyVersionNumber, Protocol, SecurityDomain};
use zeroize::Zeroizing;

use crate::{KeyError, SecretKey, SoftwareKey};

/// pySim's IV: `23` sixteen times.
const IV: [u8; 16] = [0x23; 16];

/// The cell of one key: 16 or 32 bytes. An AES-192 key is no whole blocks and has no cell.
pub fn encrypt_cell(column_key: &SoftwareKey, key: &SecretKey) -> Result<Vec<u8>, KeyError> {
    let (blocks, rest) = key.expose().as_chunks::<16>();
    if !rest.is_empty() {
        return Err(KeyError::CellKeyLength(key.expose().len()));
    }
    let mut cell = Vec::with_capacity(key.expose().len());
    let mut previous = IV;
    for block in blocks {
        let mixed = Zeroizing::new(std::array::from_fn(|i| block[i] ^ previous[i]));
        previous = *column_key.encrypt_block(&mixed);
        cell.extend(previous);
    }
    Ok(cell)
}

/// The key in a cell of 16 or 32 bytes.
pub fn decrypt_cell(column_key: &SoftwareKey, cell: &[u8]) -> Result<SecretKey, KeyError> {
    let (blocks, rest) = cell.as_chunks::<16>();
    if !rest.is_empty() {
        return Err(KeyError::CellKeyLength(cell.len()));
    }
    let mut key = Zeroizing::new(Vec::with_capacity(cell.len()));
    let mut previous = &IV;
    for block in blocks {
        let opened = column_key.decrypt_block(block);
        key.extend(opened.iter().zip(previous).map(|(a, b)| a ^ b));
        previous = block;
    }
    SecretKey::from_slice(&key)
}

/// The column of one key, as pySim names it: `SCP03_ENC_ISDR`, `KIC1`. Other keysets have no columns there.
pub fn column(
    protocol: Protocol,
    domain: SecurityDomain,
    kvn: KeyVersionNumber,
    usage: KeyUsage,
) -> Option<String> {
    let names = match protocol {
        Protocol::Scp03 => ["ENC", "MAC", "DEK"],
        Protocol::Scp80 => ["KIC", "KID", "KIK"],
        Protocol::Scp02 | Protocol::Scp81 => return None,
    };
    let name = match usage {
        KeyUsage::Enc => names[0],
        KeyUsage::Mac => names[1],
        KeyUsage::Dek => names[2],
        KeyUsage::Psk | KeyUsage::PskDek => return None,
    };
    Some(match (protocol, domain) {
        (Protocol::Scp03, SecurityDomain::IsdR) => format!("SCP03_{name}_ISDR"),
        (Protocol::Scp03, SecurityDomain::Ecasd) => format!("SCP03_{name}_ECASD"),
        (Protocol::Scp80, SecurityDomain::MnoSd) => format!("{name}{}", kvn.value()),
        _ => return None,
    })
}

/// One row: the EID and its cells in hexadecimal, as pySim writes it, with a newline.
pub fn row<'a>(eid: &str, cells: impl IntoIterator<Item = &'a str>) -> String {
    let mut row = eid.to_owned();
    for cell in cells {
        // Writing to a string cannot fail.
        let _ = write!(row, ",{cell}");
    }
    row.push('\n');
    row
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cells_are_those_of_other_software() {
        let text = include_str!("../../tests/vectors/pysim_csv_cells.json");
        let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
        let bytes = |value: &serde_json::Value| hex::decode(value.as_str().unwrap()).unwrap();
        let cases = vectors["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 6);
        for case in cases {
            let column = SoftwareKey::new(&SecretKey::from_slice(&bytes(&case["column_key"])).unwrap());
            let key = SecretKey::from_slice(&bytes(&case["key"])).unwrap();
            assert_eq!(encrypt_cell(&column, &key).unwrap(), bytes(&case["cell"]));
        }
    }

    #[test]
    fn a_row_has_the_columns_that_pysim_looks_for() {
        let columns = |protocol, domain, kvn| {
            let kvn = KeyVersionNumber::new(protocol, kvn).unwrap();
            KeyUsage::ALL.map(|usage| column(protocol, domain, kvn, usage).unwrap())
        };
        let of_isd_r = columns(Protocol::Scp03, SecurityDomain::IsdR, 0x30);
        assert_eq!(
            row("EID", of_isd_r.iter().map(String::as_str)),
            "EID,SCP03_ENC_ISDR,SCP03_MAC_ISDR,SCP03_DEK_ISDR\n"
        );
        assert_eq!(columns(Protocol::Scp80, SecurityDomain::MnoSd, 2), ["KIC2", "KID2", "KIK2"]);
    }

    proptest! {
        #[test]
        fn what_is_encrypted_opens_and_aes_192_has_no_cell(
            column in any::<[u8; 32]>(),
            secret in prop_oneof![vec(any::<u8>(), 16), vec(any::<u8>(), 24), vec(any::<u8>(), 32)],
        ) {
            let column = SoftwareKey::new(&SecretKey::from_slice(&column).unwrap());
            let key = SecretKey::from_slice(&secret).unwrap();
            match encrypt_cell(&column, &key) {
                Ok(cell) => prop_assert!(decrypt_cell(&column, &cell).unwrap() == key),
                Err(error) => {
                    prop_assert_eq!(secret.len(), 24);
                    prop_assert_eq!(error, KeyError::CellKeyLength(24));
                }
            }
        }
    }
}
