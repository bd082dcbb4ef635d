//! Which scheme made a keyset, with its inputs: data of the keyset's record.

use domain::{DeviceKeyset, KeyUsage, KeysetAlgorithm};

use super::{
    CmacInput, DiversificationData, Join, Recipe, Sp800108, an10922, block_count, chancery, kdf3, triple_des,
};
use crate::KeyError;

/// The schemes by name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SchemeName {
    /// Ours.
    Chancery,
    /// NXP AN10922.
    An10922,
    /// "KDF3" of GlobalPlatformPro.
    Kdf3,
    /// SP 800-108r1, counter mode over AES-CMAC.
    Sp800108,
    /// EMV CPS 1.1, 3DES.
    EmvCps11,
    /// VISA2, 3DES.
    Visa2,
}

impl SchemeName {
    /// Every scheme.
    pub const ALL: [Self; 6] =
        [Self::Chancery, Self::An10922, Self::Kdf3, Self::Sp800108, Self::EmvCps11, Self::Visa2];

    /// The stable name in records, files and entries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chancery => "chancery-cmac-v1",
            Self::An10922 => "an10922",
            Self::Kdf3 => "kdf3",
            Self::Sp800108 => "sp800-108",
            Self::EmvCps11 => "emv-cps11",
            Self::Visa2 => "visa2",
        }
    }

    /// Reads a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| scheme.as_str() == name)
    }

    /// Whether its masters and keys are 3DES.
    pub const fn is_triple_des(self) -> bool {
        matches!(self, Self::EmvCps11 | Self::Visa2)
    }
}

/// A scheme and what it takes beside the master and the keyset's identity.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Scheme {
    /// Our scheme; the keyset's identity is its only input.
    Chancery,
    /// AN10922: the diversification input of each key, in the order of key identifiers; 1 to 31 bytes each.
    An10922(Vec<Vec<u8>>),
    /// KDF3: the card's diversification data.
    Kdf3(DiversificationData),
    /// SP 800-108: labels and context.
    Sp800108(Sp800108),
    /// EMV CPS 1.1: the card's diversification data.
    EmvCps11(DiversificationData),
    /// VISA2: the card's diversification data.
    Visa2(DiversificationData),
}

impl Scheme {
    /// Its name.
    pub const fn name(&self) -> SchemeName {
        match self {
            Self::Chancery => SchemeName::Chancery,
            Self::An10922(_) => SchemeName::An10922,
            Self::Kdf3(_) => SchemeName::Kdf3,
            Self::Sp800108(_) => SchemeName::Sp800108,
            Self::EmvCps11(_) => SchemeName::EmvCps11,
            Self::Visa2(_) => SchemeName::Visa2,
        }
    }

    /// Its inputs as records and frames hold them; [`Self::parse`] reads them.
    pub fn inputs(&self) -> Vec<u8> {
        match self {
            Self::Chancery => Vec::new(),
            Self::An10922(inputs) => {
                let mut bytes = Vec::new();
                inputs.iter().for_each(|input| push_field(&mut bytes, input));
                bytes
            }
            Self::Sp800108(fixed) => fixed.encode(),
            Self::Kdf3(data) | Self::EmvCps11(data) | Self::Visa2(data) => data.to_vec(),
        }
    }

    /// Reads the inputs of a scheme.
    pub fn parse(name: SchemeName, inputs: &[u8]) -> Result<Self, KeyError> {
        let data = || DiversificationData::try_from(inputs).ok();
        let scheme = match name {
            SchemeName::Chancery => inputs.is_empty().then_some(Self::Chancery),
            SchemeName::An10922 => fields(inputs)
                .filter(|inputs| matches!(inputs.len(), 2 | 3))
                .filter(|inputs| {
                    inputs.iter().all(|input| (1..=an10922::INPUT_BYTES_MAX).contains(&input.len()))
                })
                .map(Self::An10922),
            SchemeName::Kdf3 => data().map(Self::Kdf3),
            SchemeName::Sp800108 => Sp800108::decode(inputs).map(Self::Sp800108),
            SchemeName::EmvCps11 => data().map(Self::EmvCps11),
            SchemeName::Visa2 => data().map(Self::Visa2),
        };
        scheme.ok_or(KeyError::SchemeInputs(name.as_str()))
    }

    /// How the key for `usage` comes out of a master of `master_bytes` bytes; refused where the scheme makes no such key.
    pub fn recipe(
        &self,
        keyset: &DeviceKeyset,
        usage: KeyUsage,
        master_bytes: usize,
    ) -> Result<Recipe, KeyError> {
        let algorithm = keyset.algorithm;
        let is_triple_des = !algorithm.may_be_made();
        let fits = match self {
            Self::EmvCps11(_) | Self::Visa2(_) => algorithm == KeysetAlgorithm::TripleDes2Key,
            // AN10922 §2: the diversified key is as long as the master.
            Self::An10922(_) => !is_triple_des && algorithm.key_bytes() == master_bytes,
            Self::Chancery | Self::Kdf3(_) | Self::Sp800108(_) => !is_triple_des,
        };
        let recipe = match self {
            Self::Chancery => {
                let messages =
                    (1..=block_count(algorithm)).map(|counter| chancery::message(keyset, usage, counter));
                let inputs = messages.map(|message| CmacInput::of(&message)).collect();
                Some(Recipe::Cmac { inputs, join: Join::Concatenated })
            }
            Self::An10922(inputs) => inputs.get(usage.index()).map(|input| an10922::recipe(algorithm, input)),
            Self::Kdf3(data) => Some(kdf3::recipe(algorithm, usage, data)),
            Self::Sp800108(fixed) => fixed.recipe(algorithm, usage.index()),
            Self::EmvCps11(data) => Some(triple_des::emv_cps_1_1(usage, data)),
            Self::Visa2(data) => Some(triple_des::visa2(usage, data)),
        };
        recipe.filter(|_| fits).ok_or(KeyError::SchemeInputs(self.name().as_str()))
    }
}

/// `length(1) || field`; fields are shorter than 256 bytes.
pub(super) fn push_field(bytes: &mut Vec<u8>, field: &[u8]) {
    bytes.push(u8::try_from(field.len()).unwrap_or(u8::MAX));
    bytes.extend_from_slice(field);
}

/// Fields one after the other, to the end.
pub(super) fn fields(mut bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut fields = Vec::new();
    while let Some((length, rest)) = bytes.split_first() {
        let (field, rest) = rest.split_at_checked(usize::from(*length))?;
        fields.push(field.to_vec());
        bytes = rest;
    }
    Some(fields)
}
