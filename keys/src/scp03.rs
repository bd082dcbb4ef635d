//! SCP03: session keys, cryptograms, pseudo-random challenges and the protection of commands, in modes S8 and S16 (GP Card Specification Amendment D
//! §6.2). Types without a number are those of S8.

mod answer;
mod channel;
mod options;

use domain::KeysetAlgorithm;
use subtle::ConstantTimeEq;

use crate::kdf::kbkdf_counter;
use crate::{KeyError, Prf, SecretKey, SoftwareKey};

pub use answer::InitializeUpdateAnswer;
pub use channel::{Answer, Channel};
pub use options::{IParameter, Mode, SecurityLevel};

/// The host's challenge of INITIALIZE UPDATE: 8 bytes in mode S8, 16 in S16.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HostChallenge<const N: usize = 8>(pub [u8; N]);

/// The card's challenge in its answer, as long as the host's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CardChallenge<const N: usize = 8>(pub [u8; N]);

/// The two challenges of one secure-channel session, which together are the context of every derivation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Challenges<const N: usize = 8> {
    /// From the host.
    pub host: HostChallenge<N>,
    /// From the card.
    pub card: CardChallenge<N>,
}

impl<const N: usize> Challenges<N> {
    /// `host || card`, 16 or 32 bytes.
    pub fn context(&self) -> Vec<u8> {
        [self.host.0, self.card.0].concat()
    }
}

/// A card or host cryptogram, as long as a challenge. It travels in clear, so only its comparison is guarded.
#[derive(Clone, Copy, Debug)]
pub struct Cryptogram<const N: usize = 8>(pub [u8; N]);

impl<const N: usize> PartialEq for Cryptogram<N> {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl<const N: usize> Eq for Cryptogram<N> {}

/// What a pseudo-random card challenge is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChallengeOrigin<'a> {
    /// The card's sequence counter of this session, in its answer to INITIALIZE UPDATE.
    pub sequence_counter: [u8; 3],
    /// Application identifier of the security domain that opens the channel, 5 to 16 bytes.
    pub aid: &'a [u8],
}

impl ChallengeOrigin<'_> {
    /// The card's challenge of this session, under Key-ENC (Amendment D §6.2.2.1): anybody who holds the key can say it
    /// before the card does.
    pub fn card_challenge<const N: usize, P: Prf>(&self, key_enc: &P) -> Result<CardChallenge<N>, P::Error> {
        let mut bytes = [0; N];
        let context = [&self.sequence_counter[..], self.aid].concat();
        derive(key_enc, DerivationConstant::CardChallenge, bits_of(N), &context, &mut bytes)?;
        Ok(CardChallenge(bytes))
    }
}

/// What a derivation is for (Amendment D table 4-1); the code is the last byte of the label.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DerivationConstant {
    /// The card's proof.
    CardCryptogram,
    /// The host's proof.
    HostCryptogram,
    /// A pseudo-random card challenge.
    CardChallenge,
    /// S-ENC, from Key-ENC.
    SEnc,
    /// S-MAC, from Key-MAC.
    SMac,
    /// S-RMAC, from Key-MAC.
    SRmac,
}

impl DerivationConstant {
    /// The byte on the card.
    pub const fn code(self) -> u8 {
        match self {
            Self::CardCryptogram => 0x00,
            Self::HostCryptogram => 0x01,
            Self::CardChallenge => 0x02,
            Self::SEnc => 0x04,
            Self::SMac => 0x06,
            Self::SRmac => 0x07,
        }
    }
}

/// The PRF input of block `counter` (from 1) in mode S8, two whole AES blocks:
/// `label(11 x 00 || constant) || 00 || L(2, bits) || i(1) || host challenge(8) || card challenge(8)`.
pub fn derivation_data(
    constant: DerivationConstant,
    bits: u16,
    counter: u8,
    challenges: &Challenges,
) -> [u8; 32] {
    let mut data = [0; 32];
    data[11] = constant.code();
    data[13..15].copy_from_slice(&bits.to_be_bytes());
    data[15] = counter;
    data[16..24].copy_from_slice(&challenges.host.0);
    data[24..].copy_from_slice(&challenges.card.0);
    data
}

/// One session key, as long as the static key behind `prf`: S-ENC from Key-ENC, S-MAC and S-RMAC from Key-MAC.
pub fn session_key<P: Prf, const N: usize>(
    prf: &P,
    constant: DerivationConstant,
    algorithm: KeysetAlgorithm,
    challenges: &Challenges<N>,
) -> Result<SecretKey, P::Error> {
    let context = challenges.context();
    SecretKey::try_filled(algorithm.key_bytes(), |key| {
        derive(prf, constant, algorithm.key_bits(), &context, key)
    })
}

/// All three session keys; not to be used before the card has proved itself.
pub fn session_keys<P: Prf, const N: usize>(
    key_enc: &P,
    key_mac: &P,
    algorithm: KeysetAlgorithm,
    challenges: &Challenges<N>,
) -> Result<UnverifiedSessionKeys<N>, P::Error> {
    let keys = SessionKeys {
        s_enc: session_key(key_enc, DerivationConstant::SEnc, algorithm, challenges)?,
        s_mac: session_key(key_mac, DerivationConstant::SMac, algorithm, challenges)?,
        s_rmac: session_key(key_mac, DerivationConstant::SRmac, algorithm, challenges)?,
    };
    Ok(UnverifiedSessionKeys { keys, challenges: *challenges })
}

/// Session keys of a card that has proved nothing yet.
pub struct UnverifiedSessionKeys<const N: usize = 8> {
    keys: SessionKeys,
    challenges: Challenges<N>,
}

impl<const N: usize> UnverifiedSessionKeys<N> {
    /// Releases the keys when `presented` is the cryptogram of a card that holds them; compares in constant time.
    pub fn verify(self, presented: &Cryptogram<N>) -> Result<SessionKeys, KeyError> {
        if self.keys.card_cryptogram(&self.challenges) == *presented {
            Ok(self.keys)
        } else {
            Err(KeyError::CardCryptogramMismatch)
        }
    }

    /// Releases the keys without the card's proof: whoever holds any challenge pair gets them. For a policy that says
    /// so, and for the card's side in tests.
    pub fn danger_without_card_proof(self) -> SessionKeys {
        self.keys
    }
}

/// The keys of one secure-channel session.
pub struct SessionKeys {
    /// Encrypts commands and responses.
    pub s_enc: SecretKey,
    /// MACs commands and makes both cryptograms.
    pub s_mac: SecretKey,
    /// MACs responses.
    pub s_rmac: SecretKey,
}

impl SessionKeys {
    /// What the card answers to INITIALIZE UPDATE.
    pub fn card_cryptogram<const N: usize>(&self, challenges: &Challenges<N>) -> Cryptogram<N> {
        cryptogram(&self.s_mac, DerivationConstant::CardCryptogram, challenges)
    }

    /// What the host sends with EXTERNAL AUTHENTICATE.
    pub fn host_cryptogram<const N: usize>(&self, challenges: &Challenges<N>) -> Cryptogram<N> {
        cryptogram(&self.s_mac, DerivationConstant::HostCryptogram, challenges)
    }
}

/// A cryptogram under S-MAC: its length L is 64 bits in mode S8, 128 in S16.
pub fn cryptogram<const N: usize>(
    s_mac: &SecretKey,
    constant: DerivationConstant,
    challenges: &Challenges<N>,
) -> Cryptogram<N> {
    let mut bytes = [0; N];
    let context = challenges.context();
    let Ok(()) = derive(&SoftwareKey::new(s_mac), constant, bits_of(N), &context, &mut bytes);
    Cryptogram(bytes)
}

fn derive<P: Prf>(
    prf: &P,
    constant: DerivationConstant,
    bits: u16,
    context: &[u8],
    output: &mut [u8],
) -> Result<(), P::Error> {
    let mut label = [0; 15];
    label[11] = constant.code();
    label[13..].copy_from_slice(&bits.to_be_bytes());
    kbkdf_counter(prf, &label, context, output)
}

/// Challenges and cryptograms have 8 or 16 bytes.
const fn bits_of(bytes: usize) -> u16 {
    8 * bytes as u16
}
