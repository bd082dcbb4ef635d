//! SP 800-108r1 §4.1, counter mode over AES-CMAC, with the label and context of a fleet that came from elsewhere.

use domain::{KeysetAlgorithm, Protocol};

use super::{CmacInput, Join, Recipe, block_count};

/// Longest label and longest context.
const FIELD_BYTES_MAX: usize = 64;

/// The fixed input of each key of a keyset: block i of a key is the CMAC of `i(1) || label || 00 || context || L`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Sp800108 {
    /// Bytes of L, the length of the key in bits: 2 or 4, or 0 for none.
    length_bytes: u8,
    /// One for each key, in the order of key identifiers.
    labels: Vec<Vec<u8>>,
    context: Vec<u8>,
}

impl Sp800108 {
    /// Fields within bounds, a label for each key of some protocol.
    pub fn new(length_bytes: u8, labels: Vec<Vec<u8>>, context: Vec<u8>) -> Option<Self> {
        let fits = matches!(length_bytes, 0 | 2 | 4)
            && Protocol::ALL.iter().any(|protocol| protocol.usages().len() == labels.len())
            && labels.iter().all(|label| (1..=FIELD_BYTES_MAX).contains(&label.len()))
            && context.len() <= FIELD_BYTES_MAX;
        fits.then_some(Self { length_bytes, labels, context })
    }

    pub(super) fn recipe(&self, algorithm: KeysetAlgorithm, key: usize) -> Option<Recipe> {
        let bits = u32::from(algorithm.key_bits()).to_be_bytes();
        let length = &bits[4 - usize::from(self.length_bytes)..];
        let label = self.labels.get(key)?;
        let inputs = (1..=block_count(algorithm)).map(|counter| {
            CmacInput::of(&[&[counter], label.as_slice(), &[0], &self.context, length].concat())
        });
        Some(Recipe::Cmac { inputs: inputs.collect(), join: Join::Concatenated })
    }

    /// `length bytes(1) || (length(1) || label) for each key || length(1) || context`.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![self.length_bytes];
        for field in self.labels.iter().chain([&self.context]) {
            super::scheme::push_field(&mut bytes, field);
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (length_bytes, rest) = bytes.split_first()?;
        let mut fields = super::scheme::fields(rest)?;
        let context = fields.pop()?;
        Self::new(*length_bytes, fields, context)
    }
}
