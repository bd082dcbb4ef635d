//! DELETE KEY: the command that takes a whole keyset off a card (GP Card Specification §11.2.2.3.2).

use domain::KeyVersionNumber;

use crate::apdu::Apdu;

/// Tag of the key version number in the data of DELETE.
const KEY_VERSION_NUMBER: u8 = 0xd2;

/// `80 E4 00 00 03 D2 01 KVN 00`: every key of one key version number. Without a key identifier (tag D0), so that no part
/// of a keyset stays behind.
pub fn delete_keyset(kvn: KeyVersionNumber) -> Apdu {
    Apdu::new([0x80, 0xe4, 0x00, 0x00], vec![KEY_VERSION_NUMBER, 1, kvn.value()], Some(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyset_is_deleted_by_its_key_version_number_alone() {
        let apdu = delete_keyset(KeyVersionNumber::scp03(0x30).unwrap());
        assert_eq!(hex::encode(apdu.to_bytes()), "80e4000003d2013000");
    }
}
