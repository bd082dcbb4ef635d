//! Which scheme made a keyset, with its inputs: data of the keyset's record.

use domain::{DeviceKeyset, KeyUsage};

use super::chancery;
use crate::{KeyError, Prf, SecretKey};

/// The schemes by name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SchemeName {
    /// Ours.
    Chancery,
}

impl SchemeName {
    /// Every scheme.
    pub const ALL: [Self; 1] = [Self::Chancery];

    /// The stable name in records, files and entries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chancery => "chancery-cmac-v1",
        }
    }

    /// Reads a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| scheme.as_str() == name)
    }
}

/// A scheme and what it takes beside the master and the keyset's identity.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Scheme {
    /// Our scheme; the keyset's identity is its only input.
    Chancery,
}

impl Scheme {
    /// Its name.
    pub const fn name(&self) -> SchemeName {
        match self {
            Self::Chancery => SchemeName::Chancery,
        }
    }

    /// Its inputs as records and frames hold them; [`Self::parse`] reads them.
    pub fn inputs(&self) -> Vec<u8> {
        match self {
            Self::Chancery => Vec::new(),
        }
    }

    /// Reads the inputs of a scheme.
    pub fn parse(name: SchemeName, inputs: &[u8]) -> Result<Self, KeyError> {
        match name {
            SchemeName::Chancery if inputs.is_empty() => Ok(Self::Chancery),
            SchemeName::Chancery => Err(KeyError::SchemeInputs(name.as_str())),
        }
    }

    /// Derives the key for `usage` in this process: the model that tokens are checked against, and the card's side.
    pub fn derive<P: Prf>(
        &self,
        prf: &P,
        keyset: &DeviceKeyset,
        usage: KeyUsage,
    ) -> Result<SecretKey, P::Error> {
        match self {
            Self::Chancery => chancery::derive(prf, keyset, usage),
        }
    }
}
