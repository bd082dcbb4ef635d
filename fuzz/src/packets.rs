//! Commands that callers hand in, and what cards answer to packets and to scripts.

use domain::KeysetAlgorithm;
use keys::SecretKey;
use keys::apdu::Apdu;
use keys::scp03::{CardChallenge, Challenges, Channel, HostChallenge, SecurityLevel, SessionKeys};
use keys::scp80::{CompactAnswer, ProofOfReceipt, ResponsePacket, SoftwarePacketKeys, Spi};

/// The first byte says how a response packet is protected, and the level of the channel.
pub fn run(bytes: &[u8]) {
    if let Ok(command) = Apdu::parse(bytes) {
        assert_eq!(command.to_bytes(), bytes);
    }
    if let Ok(pair) = <[u8; 2]>::try_from(bytes)
        && let Ok(spi) = Spi::from_bytes(pair)
    {
        assert_eq!(spi.to_bytes(), pair);
    }
    if let Some(answer) = CompactAnswer::parse(bytes) {
        assert_eq!(answer.data.len() + 3, bytes.len());
    }
    let Some((first, rest)) = bytes.split_first() else { return };
    if let Ok(receipt) = ProofOfReceipt::from_byte(*first) {
        let keys = SoftwarePacketKeys::new(KeysetAlgorithm::Aes128, &[7; 16], &[9; 16]);
        let keys = keys.expect("16 bytes are an AES key");
        let Ok(opened) = ResponsePacket::open(rest, receipt, &keys);
        assert!(opened.map_or(0, |packet| packet.data.len()) <= rest.len());
    }
    let Ok(level) = SecurityLevel::new(*first) else { return };
    let key = |byte| SecretKey::from_slice(&[byte; 16]).expect("16 bytes are an AES key");
    let keys = SessionKeys { s_enc: key(1), s_mac: key(2), s_rmac: key(3) };
    let challenges = Challenges { host: HostChallenge([4; 8]), card: CardChallenge([5; 8]) };
    let (mut channel, _) = Channel::<8>::open(&keys, &challenges, level);
    let get_data = Apdu::new([0x80, 0xca, 0, 0xe0], Vec::new(), Some(0));
    channel.wrap(&get_data).expect("a short command is wrapped");
    if let Ok(answer) = channel.unwrap(rest) {
        assert!(answer.data.len() + 2 <= rest.len());
        assert!(!(answer.is_proved && level.has_r_mac()), "nobody here has the keys");
    }
}
