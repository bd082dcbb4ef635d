//! SCP03 in mode S8: session keys and cryptograms (GP Card Specification Amendment D §6.2).

use domain::KeysetAlgorithm;
use subtle::ConstantTimeEq;

use crate::kdf::kbkdf_counter;
use crate::{KeyError, Prf, SecretKey, SoftwareKey};

/// The host's challenge of INITIALIZE UPDATE.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HostChallenge(pub [u8; 8]);

/// The card's challenge in its answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CardChallenge(pub [u8; 8]);

/// The two challenges of one secure-channel session, which together are the context of every derivation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Challenges {
    /// From the host.
    pub host: HostChallenge,
    /// From the card.
    pub card: CardChallenge,
}

impl Challenges {
    /// `host || card`.
    pub fn context(&self) -> [u8; 16] {
        let mut context = [0; 16];
        context[..8].copy_from_slice(&self.host.0);
        context[8..].copy_from_slice(&self.card.0);
        context
    }
}

/// An 8-byte card or host cryptogram. It travels in clear, so only its comparison is guarded.
#[derive(Clone, Copy, Debug)]
pub struct Cryptogram(pub [u8; 8]);

impl PartialEq for Cryptogram {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Cryptogram {}

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

/// The PRF input of block `counter` (from 1), two whole AES blocks:
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
    data[16..].copy_from_slice(&challenges.context());
    data
}

/// One session key, as long as the static key behind `prf`: S-ENC from Key-ENC, S-MAC and S-RMAC from Key-MAC.
pub fn session_key<P: Prf>(
    prf: &P,
    constant: DerivationConstant,
    algorithm: KeysetAlgorithm,
    challenges: &Challenges,
) -> Result<SecretKey, P::Error> {
    SecretKey::try_filled(algorithm.key_bytes(), |key| {
        derive(prf, constant, algorithm.key_bits(), challenges, key)
    })
}

/// All three session keys; not to be used before the card has proved itself.
pub fn session_keys<P: Prf>(
    key_enc: &P,
    key_mac: &P,
    algorithm: KeysetAlgorithm,
    challenges: &Challenges,
) -> Result<UnverifiedSessionKeys, P::Error> {
    let keys = SessionKeys {
        s_enc: session_key(key_enc, DerivationConstant::SEnc, algorithm, challenges)?,
        s_mac: session_key(key_mac, DerivationConstant::SMac, algorithm, challenges)?,
        s_rmac: session_key(key_mac, DerivationConstant::SRmac, algorithm, challenges)?,
    };
    Ok(UnverifiedSessionKeys { keys, challenges: *challenges })
}

/// Session keys of a card that has proved nothing yet.
pub struct UnverifiedSessionKeys {
    keys: SessionKeys,
    challenges: Challenges,
}

impl UnverifiedSessionKeys {
    /// Releases the keys when `presented` is the cryptogram of a card that holds them; compares in constant time.
    pub fn verify(self, presented: &Cryptogram) -> Result<SessionKeys, KeyError> {
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
    pub fn card_cryptogram(&self, challenges: &Challenges) -> Cryptogram {
        self.cryptogram(DerivationConstant::CardCryptogram, challenges)
    }

    /// What the host sends with EXTERNAL AUTHENTICATE.
    pub fn host_cryptogram(&self, challenges: &Challenges) -> Cryptogram {
        self.cryptogram(DerivationConstant::HostCryptogram, challenges)
    }

    fn cryptogram(&self, constant: DerivationConstant, challenges: &Challenges) -> Cryptogram {
        let mut bytes = [0; 8];
        let Ok(()) = derive(&SoftwareKey::new(&self.s_mac), constant, 64, challenges, &mut bytes);
        Cryptogram(bytes)
    }
}

fn derive<P: Prf>(
    prf: &P,
    constant: DerivationConstant,
    bits: u16,
    challenges: &Challenges,
    output: &mut [u8],
) -> Result<(), P::Error> {
    let data = derivation_data(constant, bits, 0, challenges);
    kbkdf_counter(prf, &data[..15], &data[16..], output)
}
