//! Who acts.

use std::fmt;

/// SHA-256 over the SubjectPublicKeyInfo of a registered credential.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrincipalId(pub [u8; 32]);

impl fmt::Display for PrincipalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for PrincipalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrincipalId({self})")
    }
}

/// What a person or party may do. Persons: officer, approver, auditor. Parties: eum, provisioner.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// Runs the authority: requests protected operations.
    Officer,
    /// Approves exactly one described operation at a time.
    Approver,
    /// Reads and exports the log.
    Auditor,
    /// eUICC manufacturer: orders devices.
    Eum,
    /// Provisioning server: fetches session keys.
    Provisioner,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] = [Self::Officer, Self::Approver, Self::Auditor, Self::Eum, Self::Provisioner];

    /// The stable name used in answers, entries and certificates.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Officer => "officer",
            Self::Approver => "approver",
            Self::Auditor => "auditor",
            Self::Eum => "eum",
            Self::Provisioner => "provisioner",
        }
    }

    /// Roles no person or party may hold together: an auditor judges everybody else, parties and persons never mix,
    /// and one party is either the manufacturer or the provisioner.
    pub const fn conflicts_with(self, other: Self) -> bool {
        use Role::{Approver, Auditor, Eum, Officer, Provisioner};
        match (self, other) {
            (Officer, Officer)
            | (Approver, Approver)
            | (Auditor, Auditor)
            | (Eum, Eum)
            | (Provisioner, Provisioner) => false,
            (Officer, Approver) | (Approver, Officer) => false,
            (Auditor | Eum | Provisioner, _) | (_, Auditor | Eum | Provisioner) => true,
        }
    }
}
