use domain::{KeyVersionNumber, KeysetAlgorithm, Protocol};
use keys::KeyError;
use keys::scp80::{
    CommandPacket, Counter, PacketKeys, ProofOfReceipt, ResponsePacket, ResponseStatus, SoftwarePacketKeys,
    Spi, Tar,
};
use proptest::prelude::*;
use serde_json::Value;

use crate::{array, bytes, list, vectors};

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

fn keys_of(vector: &Value) -> SoftwarePacketKeys {
    let algorithm = KeysetAlgorithm::from_code(number(&vector["algorithm"]).try_into().unwrap()).unwrap();
    SoftwarePacketKeys::new(algorithm, &bytes(&vector["kic"]), &bytes(&vector["kid"])).unwrap()
}

fn kvn_of(number: u64) -> KeyVersionNumber {
    KeyVersionNumber::new(Protocol::Scp80, number.try_into().unwrap()).unwrap()
}

fn receipt_of(vector: &Value) -> ProofOfReceipt {
    ProofOfReceipt::from_byte(bytes(&vector["receipt"])[0]).unwrap()
}

#[test]
fn command_packets_are_those_of_other_software_for_every_cipher_and_check() {
    let file = vectors("scp80_packets.json");
    for vector in list(&file["commands"]) {
        let packet = CommandPacket::new(
            Spi::from_bytes(array(&vector["spi"])).unwrap(),
            kvn_of(number(&vector["kvn"])),
            Tar(array(&vector["tar"])),
            Counter::new(number(&vector["counter"])).unwrap(),
            bytes(&vector["data"]),
        )
        .unwrap();
        let Ok(made) = packet.protect(&keys_of(vector));
        assert_eq!(hex::encode(made), vector["packet"].as_str().unwrap(), "{vector}");
    }
    let file = vectors("scp80_ota.json");
    for vector in list(&file["vectors"]) {
        let keys =
            SoftwarePacketKeys::new(KeysetAlgorithm::Aes128, &bytes(&vector["kic"]), &bytes(&vector["kid"]));
        let packet = CommandPacket::new(
            Spi::from_bytes(array(&vector["spi"])).unwrap(),
            kvn_of(2),
            Tar(array(&vector["tar"])),
            Counter::new(0).unwrap(),
            bytes(&vector["apdu"]),
        );
        let Ok(made) = packet.unwrap().protect(&keys.unwrap());
        assert_eq!(made, bytes(&vector["command_packet"]));
    }
}

#[test]
fn the_redundancy_check_is_that_of_the_standard() {
    // TS 102 225 §5.1.3.2 gives 47 0B 99 F4 for 01 02 03 04 05.
    assert_eq!(crc32fast::hash(&[1, 2, 3, 4, 5]), 0x470b_99f4);
}

#[test]
fn response_packets_of_cards_open_with_and_without_their_user_data_header() {
    for vector in list(&vectors("scp80_packets.json")["responses"]) {
        let keys = keys_of(vector);
        let packet = bytes(&vector["packet"]);
        for packet in [&packet[..], &packet[3..]] {
            let Ok(opened) = ResponsePacket::open(packet, receipt_of(vector), &keys);
            let opened = opened.unwrap();
            assert_eq!(opened.tar, Tar(array(&vector["tar"])));
            assert_eq!(opened.status, ResponseStatus(number(&vector["status"]).try_into().unwrap()));
            assert_eq!(opened.data, bytes(&vector["data"]));
            assert_eq!(opened.counter, vector["counter"].as_u64().unwrap_or_default());
        }
    }
}

#[test]
fn a_response_packet_with_a_checksum_opens_unchanged_with_its_own_keys_only() {
    for vector in list(&vectors("scp80_packets.json")["responses"]) {
        let receipt = receipt_of(vector);
        let keys = keys_of(vector);
        let packet = bytes(&vector["packet"])[3..].to_vec();
        if receipt.integrity.bytes() == 0 {
            continue;
        }
        for bit in 0..8 * packet.len() {
            let mut changed = packet.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let Ok(opened) = ResponsePacket::open(&changed, receipt, &keys);
            assert!(opened.is_err(), "bit {bit} of {vector}");
        }
    }
    let vector = &vectors("scp80_packets.json")["responses"][0];
    let other = SoftwarePacketKeys::new(KeysetAlgorithm::Aes128, &[7; 16], &[8; 16]).unwrap();
    let Ok(opened) = ResponsePacket::open(&bytes(&vector["packet"]), receipt_of(vector), &other);
    assert_eq!(opened, Err(KeyError::ResponsePacket("has a check that is not right")));
}

#[test]
fn a_packet_that_no_card_could_take_is_refused() {
    let spi = Spi::from_bytes([0x16, 0x19]).unwrap();
    let make = |kvn, bytes| {
        CommandPacket::new(spi, kvn, Tar([0; 3]), Counter::new(1).unwrap(), vec![0; bytes]).map(|_| ())
    };
    assert_eq!(make(kvn_of(1), 4_096), Ok(()));
    assert_eq!(make(kvn_of(1), 4_097), Err(KeyError::PacketData { bytes: 4_097 }));
    let of_scp03 = KeyVersionNumber::scp03(0x30).unwrap();
    assert_eq!(make(of_scp03, 1), Err(KeyError::PacketKeyset { kvn: 0x30 }));
    assert!(SoftwarePacketKeys::new(KeysetAlgorithm::Aes256, &[0; 16], &[0; 32]).is_err());
}

/// The same bytes as a card reads them: other code than the one that made them.
fn read_as_card(packet: &[u8], keys: &SoftwarePacketKeys) -> Option<(u64, Vec<u8>)> {
    let (head, body) = packet.split_at(10);
    assert_eq!(usize::from(u16::from_be_bytes([head[0], head[1]])), packet.len() - 2);
    let (check_bytes, is_ciphered) = (usize::from(head[2]) - 13, head[3] & 4 != 0);
    let Ok(opened) = keys.decrypt(body);
    let body = if is_ciphered { &opened[..] } else { body };
    let (numbered, rest) = body.split_at(6);
    let (check, data) = rest.split_at(check_bytes);
    if check_bytes == 8 {
        let Ok(expected) = keys.checksum(&[head, numbered, data].concat());
        (expected[..] == *check).then_some(())?;
    }
    let counter = numbered[..5].iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
    Some((counter, data[..data.len() - usize::from(numbered[5])].to_vec()))
}

/// Algorithm, KIc and KID, both as long as the longest.
type Material = (KeysetAlgorithm, [u8; 32], [u8; 32]);

fn any_keys() -> impl Strategy<Value = Material> {
    (prop::sample::select(&KeysetAlgorithm::ALL[..]), any::<[u8; 32]>(), any::<[u8; 32]>())
}

fn expanded((algorithm, kic, kid): &Material) -> SoftwarePacketKeys {
    let bytes = algorithm.key_bytes();
    SoftwarePacketKeys::new(*algorithm, &kic[..bytes], &kid[..bytes]).unwrap()
}

proptest! {
    #[test]
    fn a_card_reads_what_was_protected(
        material in any_keys(),
        spi in any::<[u8; 2]>().prop_filter_map("reserved", |bytes| Spi::from_bytes(bytes).ok()),
        counter in 0..=0xff_ffff_fffe_u64,
        kvn in 1..=15_u64,
        data in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let keys = expanded(&material);
        let packet =
            CommandPacket::new(spi, kvn_of(kvn), Tar([1, 2, 3]), Counter::new(counter).unwrap(), data.clone());
        let Ok(made) = packet.unwrap().protect(&keys);
        prop_assert_eq!(read_as_card(&made, &keys), Some((counter, data)));
    }

    #[test]
    fn any_bytes_are_a_response_packet_or_are_refused(
        material in any_keys(),
        receipt in any::<u8>().prop_filter_map("reserved", |byte| ProofOfReceipt::from_byte(byte).ok()),
        bytes in prop::collection::vec(any::<u8>(), 0..80),
        is_framed in any::<bool>(),
    ) {
        let keys = expanded(&material);
        let mut bytes = bytes;
        if is_framed && bytes.len() > 3 {
            // So that more than the lengths are looked at.
            let length = u16::try_from(bytes.len() - 2).unwrap();
            bytes[..2].copy_from_slice(&length.to_be_bytes());
            bytes[2] = 10 + u8::try_from(receipt.integrity.bytes()).unwrap();
        }
        let Ok(opened) = ResponsePacket::open(&bytes, receipt, &keys);
        if receipt.integrity.bytes() > 0 {
            prop_assert!(opened.is_err());
        }
    }
}
