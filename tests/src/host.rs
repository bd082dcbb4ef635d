//! A provisioning server's end of the channel: it has session keys, never static ones.

use crate::aes::AesKey;
use crate::card::{SimulatedCard, StatusWord};
use crate::channel::{Apdu, Channel, SecurityLevel};

/// Session keys as the authority hands them out.
#[derive(Clone, Copy)]
pub struct SessionKeys<'a> {
    /// Encrypts commands and responses.
    pub s_enc: &'a [u8],
    /// MACs commands.
    pub s_mac: &'a [u8],
    /// MACs responses.
    pub s_rmac: &'a [u8],
}

/// An open channel, or one about to be opened by the card.
pub struct HostChannel(Channel);

impl HostChannel {
    /// Makes EXTERNAL AUTHENTICATE and the channel that is open once the card accepts it.
    ///
    /// # Panics
    /// When a key is none of AES.
    pub fn external_authenticate(
        keys: &SessionKeys<'_>,
        host_cryptogram: [u8; 8],
        level: SecurityLevel,
    ) -> (Self, Vec<u8>) {
        Self::authenticate(keys, &host_cryptogram, level)
    }

    /// The same in the mode of the cryptogram: 8 bytes in S8, 16 in S16.
    ///
    /// # Panics
    /// When a key is none of AES.
    pub fn authenticate(
        keys: &SessionKeys<'_>,
        host_cryptogram: &[u8],
        level: SecurityLevel,
    ) -> (Self, Vec<u8>) {
        let key = |bytes| AesKey::new(bytes).expect("an AES key has 16, 24 or 32 bytes");
        let mut channel =
            Channel::new(key(keys.s_enc), key(keys.s_mac), key(keys.s_rmac), host_cryptogram.len());
        let command = Apdu { header: [0x84, 0x82, level.0, 0x00], data: host_cryptogram.to_vec(), le: None };
        let command = channel.mac(command).to_bytes();
        channel.level = level;
        (Self(channel), command)
    }

    /// Protects `command` as the level demands and moves the channel on to the next.
    ///
    /// # Panics
    /// When the protected data would be longer than 255 bytes.
    pub fn wrap(&mut self, mut command: Apdu) -> Vec<u8> {
        let channel = &mut self.0;
        command.header[0] |= 0x04;
        channel.next_command();
        if channel.level.has_c_enc() && !command.data.is_empty() {
            command.data = channel.encrypt_command(&command.data);
        }
        channel.mac(command).to_bytes()
    }

    /// Sends a command that came in clear, such as the authority's PUT KEY, to the card at the other end, and returns
    /// the card's answer in clear.
    ///
    /// # Panics
    /// When the command is no short APDU, or the protection of the answer is wrong.
    pub fn send(&mut self, card: &mut SimulatedCard, command: &[u8]) -> Result<Vec<u8>, StatusWord> {
        let command = Apdu::parse(command).expect("a command in clear is a short APDU");
        let processed = card.process(&self.wrap(command))?;
        match processed.status {
            StatusWord::OK => {
                let answer = self.unwrap(&processed.response, processed.status.0);
                Ok(answer.expect("a card protects its answers as the level demands"))
            }
            status => Err(status),
        }
    }

    /// The answer to the last wrapped command in clear; `None` when its protection is wrong.
    pub fn unwrap(&self, response: &[u8], status: u16) -> Option<Vec<u8>> {
        let channel = &self.0;
        let mut data = response.to_vec();
        if channel.level.has_r_mac() {
            data = channel.verify_response(data, status.to_be_bytes())?;
        }
        if channel.level.has_r_enc() && !data.is_empty() {
            data = channel.decrypt_response(data)?;
        }
        Some(data)
    }
}
