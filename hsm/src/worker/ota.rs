//! Packets and scripts for cards. KIc and KID do their work inside the token; session keys of SCP03 end with their script.

use cryptoki::mechanism::Mechanism;
use domain::{KeyUsage, KeysetAlgorithm, Protocol};
use keys::apdu::Apdu;
use keys::scp03::{Channel, DerivationConstant, SessionKeys, session_key};
use keys::scp80::{PacketKeys, ProofOfReceipt, ResponsePacket};
use zeroize::Zeroizing;

use super::probe::Abilities;
use super::scp03::prepared;
use super::source::{self, OpenKeyset, OpenKeysets};
use super::token_session::{SessionObject, TokenSession};
use crate::error::HsmError;
use crate::ota::{PreparedChannel, WireOtaOutcome, WireOtaWork, WrappedScript, level_of, packet_of};
use crate::template::SessionKeyUse;

/// CBC of packets: always an IV of zero, and padding of their own.
const AES: Mechanism<'static> = Mechanism::AesCbc([0; 16]);
const TRIPLE_DES: Mechanism<'static> = Mechanism::Des3Cbc([0; 8]);

/// One item after the other; what is wrong with one is its own outcome.
pub(crate) fn ota(
    session: &TokenSession,
    abilities: &Abilities,
    keysets: &OpenKeysets<'_>,
    work: &[WireOtaWork],
    mut before_item: impl FnMut() -> Result<(), HsmError>,
) -> Result<Vec<WireOtaOutcome>, HsmError> {
    if work.len() != keysets.len() {
        return Err(HsmError::caller("the job has another number of keysets than of items"));
    }
    let mut outcomes = Vec::with_capacity(work.len());
    for (at, work) in work.iter().enumerate() {
        before_item()?;
        let keyset = keysets.get(at)?;
        outcomes.push(match work {
            WireOtaWork::Packet { spi, tar, counter, data } => {
                let packet = packet_of(keyset.keyset.kvn, (*spi, *tar, *counter), data)?;
                let keys = TokenPacketKeys::open(session, abilities, &keyset, SessionKeyUse::PacketCipher)?;
                WireOtaOutcome::Packet(packet.protect(&keys)?)
            }
            WireOtaWork::OpenResponse { packet, receipt } => {
                open_response(session, abilities, &keyset, packet, *receipt)?
            }
            WireOtaWork::Script { channel, commands } => script(session, &keyset, channel, commands)?,
            WireOtaWork::OpenAnswers { channel, wrapped, answers } => {
                open_answers(session, &keyset, channel, wrapped, answers)?
            }
        });
    }
    Ok(outcomes)
}

fn open_response(
    session: &TokenSession,
    abilities: &Abilities,
    keyset: &OpenKeyset<'_>,
    packet: &[u8],
    receipt: u8,
) -> Result<WireOtaOutcome, HsmError> {
    let receipt = ProofOfReceipt::from_byte(receipt).map_err(|e| HsmError::caller(e.to_string()))?;
    if receipt.integrity != keys::scp80::Integrity::Checksum {
        return Err(HsmError::caller("a response packet without a checksum is not opened"));
    }
    let keys = TokenPacketKeys::open(session, abilities, keyset, SessionKeyUse::PacketDecipher)?;
    Ok(match ResponsePacket::open(packet, receipt, &keys)? {
        Ok(response) => response.into(),
        Err(_) => WireOtaOutcome::NotAuthentic,
    })
}

/// KIc and KID as session objects.
struct TokenPacketKeys<'s> {
    session: &'s TokenSession,
    algorithm: KeysetAlgorithm,
    kic: SessionObject<'s>,
    kid: SessionObject<'s>,
}

impl<'s> TokenPacketKeys<'s> {
    fn open(
        session: &'s TokenSession,
        abilities: &Abilities,
        keyset: &OpenKeyset<'_>,
        kic: SessionKeyUse,
    ) -> Result<Self, HsmError> {
        let identity = &keyset.keyset;
        if identity.protocol != Protocol::Scp80 {
            return Err(HsmError::caller("secured packets take a keyset of SCP80"));
        }
        let (kid, works, needed) = match cipher(identity.algorithm) {
            Cipher::Aes => (SessionKeyUse::Cmac, abilities.aes_cbc, "CKM_AES_CBC"),
            // The checksum is the last block of the same mode.
            Cipher::TripleDes => (SessionKeyUse::PacketCipher, abilities.triple_des_cbc, "CKM_DES3_CBC"),
        };
        if !works {
            return Err(HsmError::policy(format!("the token does no {needed}; no packets of this keyset")));
        }
        Ok(Self {
            session,
            algorithm: identity.algorithm,
            kic: source::device_key(session, keyset, KeyUsage::Enc, kic)?,
            kid: source::device_key(session, keyset, KeyUsage::Mac, kid)?,
        })
    }

    const fn mechanism(&self) -> Mechanism<'static> {
        match cipher(self.algorithm) {
            Cipher::Aes => AES,
            Cipher::TripleDes => TRIPLE_DES,
        }
    }
}

enum Cipher {
    Aes,
    TripleDes,
}

const fn cipher(algorithm: KeysetAlgorithm) -> Cipher {
    match algorithm {
        KeysetAlgorithm::Aes128 | KeysetAlgorithm::Aes192 | KeysetAlgorithm::Aes256 => Cipher::Aes,
        KeysetAlgorithm::TripleDes2Key | KeysetAlgorithm::TripleDes3Key => Cipher::TripleDes,
    }
}

impl PacketKeys for TokenPacketKeys<'_> {
    type Error = HsmError;

    fn algorithm(&self) -> KeysetAlgorithm {
        self.algorithm
    }

    fn encrypt(&self, clear: &[u8]) -> Result<Vec<u8>, HsmError> {
        self.session.encrypt(&self.mechanism(), self.kic.handle(), clear)
    }

    fn decrypt(&self, ciphered: &[u8]) -> Result<Zeroizing<Vec<u8>>, HsmError> {
        self.session.decrypt(&self.mechanism(), self.kic.handle(), ciphered)
    }

    fn checksum(&self, message: &[u8]) -> Result<[u8; 8], HsmError> {
        let mut checksum = [0; 8];
        match cipher(self.algorithm) {
            Cipher::Aes => {
                let mac = self.session.sign::<16>(&Mechanism::AesCMac, self.kid.handle(), message)?;
                checksum.copy_from_slice(&mac[..8]);
            }
            Cipher::TripleDes => {
                let mut padded = message.to_vec();
                padded.resize(message.len().next_multiple_of(8), 0);
                let ciphered = self.session.encrypt(&TRIPLE_DES, self.kid.handle(), &padded)?;
                let last = ciphered.last_chunk::<8>();
                checksum = *last.ok_or_else(|| HsmError::token("the token encrypted a message into less"))?;
            }
        }
        Ok(checksum)
    }
}

fn script(
    session: &TokenSession,
    keyset: &OpenKeyset<'_>,
    channel: &PreparedChannel,
    commands: &[Vec<u8>],
) -> Result<WireOtaOutcome, HsmError> {
    match channel.host_challenge.len() {
        8 => wrap::<8>(session, keyset, channel, commands),
        16 => wrap::<16>(session, keyset, channel, commands),
        length => Err(HsmError::caller(format!("a challenge has 8 or 16 bytes, not {length}"))),
    }
}

fn wrap<const N: usize>(
    session: &TokenSession,
    keyset: &OpenKeyset<'_>,
    prepared_channel: &PreparedChannel,
    commands: &[Vec<u8>],
) -> Result<WireOtaOutcome, HsmError> {
    let commands: Result<Vec<Apdu>, _> = commands.iter().map(|bytes| Apdu::parse(bytes)).collect();
    let commands = match commands {
        Ok(commands) => commands,
        Err(error) => return Ok(WireOtaOutcome::Refused(error.to_string())),
    };
    let opened = open_channel::<N>(session, keyset, prepared_channel)?;
    let OpenedChannel { mut channel, external_authenticate, card_challenge, card_cryptogram } = opened;
    let mut wrapped = Vec::with_capacity(commands.len());
    for command in &commands {
        match channel.wrap(command) {
            Ok(command) => wrapped.push(command.to_bytes()),
            Err(error) => return Ok(WireOtaOutcome::Refused(error.to_string())),
        }
    }
    Ok(WireOtaOutcome::Script(WrappedScript {
        external_authenticate: external_authenticate.to_bytes(),
        commands: wrapped,
        card_challenge,
        card_cryptogram,
    }))
}

fn open_answers(
    session: &TokenSession,
    keyset: &OpenKeyset<'_>,
    channel: &PreparedChannel,
    wrapped: &[Vec<u8>],
    answers: &[Vec<u8>],
) -> Result<WireOtaOutcome, HsmError> {
    match channel.host_challenge.len() {
        8 => read::<8>(session, keyset, channel, wrapped, answers),
        16 => read::<16>(session, keyset, channel, wrapped, answers),
        length => Err(HsmError::caller(format!("a challenge has 8 or 16 bytes, not {length}"))),
    }
}

fn read<const N: usize>(
    session: &TokenSession,
    keyset: &OpenKeyset<'_>,
    prepared_channel: &PreparedChannel,
    wrapped: &[Vec<u8>],
    answers: &[Vec<u8>],
) -> Result<WireOtaOutcome, HsmError> {
    if wrapped.len() != answers.len() {
        return Err(HsmError::caller("a script has one answer for each command"));
    }
    let mut channel = open_channel::<N>(session, keyset, prepared_channel)?.channel;
    let mut opened = Vec::with_capacity(answers.len());
    for (command, answer) in wrapped.iter().zip(answers) {
        // A command that is not ours would let an answer be opened at a place of the channel where none was given.
        let answer = Apdu::parse(command)
            .and_then(|command| channel.follow(&command))
            .and_then(|()| channel.unwrap(answer));
        match answer {
            Ok(answer) => opened.push(answer.into()),
            Err(_) => return Ok(WireOtaOutcome::NotAuthentic),
        }
    }
    Ok(WireOtaOutcome::Answers(opened))
}

struct OpenedChannel<const N: usize> {
    channel: Channel<N>,
    external_authenticate: Apdu,
    card_challenge: Vec<u8>,
    card_cryptogram: Vec<u8>,
}

/// The session of a card that is not there. Its keys are in this process from here to the end of the script.
fn open_channel<const N: usize>(
    session: &TokenSession,
    keyset: &OpenKeyset<'_>,
    prepared_channel: &PreparedChannel,
) -> Result<OpenedChannel<N>, HsmError> {
    let level = level_of(prepared_channel.level)?;
    let (challenges, enc) =
        prepared::<N>(session, keyset, &prepared_channel.host_challenge, &prepared_channel.origin)?;
    let mac = source::device_prf(session, keyset, KeyUsage::Mac)?;
    let algorithm = keyset.keyset.algorithm;
    let keys = SessionKeys {
        s_enc: session_key(&enc, DerivationConstant::SEnc, algorithm, &challenges)?,
        s_mac: session_key(&mac, DerivationConstant::SMac, algorithm, &challenges)?,
        s_rmac: session_key(&mac, DerivationConstant::SRmac, algorithm, &challenges)?,
    };
    let (channel, external_authenticate) = Channel::open(&keys, &challenges, level);
    Ok(OpenedChannel {
        channel,
        external_authenticate,
        card_challenge: challenges.card.0.to_vec(),
        card_cryptogram: keys.card_cryptogram(&challenges).0.to_vec(),
    })
}
