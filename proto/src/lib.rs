//! The contract: API messages (`v1`), stored records (`records`), and the rule of each RPC ([`Rules`]).
//!
//! Sources are in `proto/chancery/`. Generated code lives here and nowhere else.

mod rules;

pub use rules::{Rule, Rules, RulesError};

/// API messages and services, package `chancery.v1`.
#[expect(missing_docs, clippy::all, reason = "generated from the .proto files, whose comments document it")]
pub mod v1 {
    tonic::include_proto!("chancery.v1");
}

/// The rule options, package `chancery.options.v1`.
#[expect(missing_docs, reason = "generated from rule.proto, whose comments document it")]
pub mod options {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("chancery.options.v1");
    }
}

/// Stored records, package `chancery.records.v1`.
#[expect(missing_docs, reason = "generated from records.proto, whose comments document it")]
pub mod records {
    tonic::include_proto!("chancery.records.v1");
}

/// The encoded `FileDescriptorSet` with custom options: for reflection and for [`Rules`].
pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));

/// The domain's role of a role of the contract; the unspecified one has none.
pub const fn domain_role(role: options::v1::Role) -> Option<domain::Role> {
    use options::v1::Role;
    match role {
        Role::Unspecified => None,
        Role::Officer => Some(domain::Role::Officer),
        Role::Approver => Some(domain::Role::Approver),
        Role::Auditor => Some(domain::Role::Auditor),
        Role::Eum => Some(domain::Role::Eum),
        Role::Provisioner => Some(domain::Role::Provisioner),
    }
}

/// The contract's role of a role of the domain.
pub const fn contract_role(role: domain::Role) -> options::v1::Role {
    use options::v1::Role;
    match role {
        domain::Role::Officer => Role::Officer,
        domain::Role::Approver => Role::Approver,
        domain::Role::Auditor => Role::Auditor,
        domain::Role::Eum => Role::Eum,
        domain::Role::Provisioner => Role::Provisioner,
    }
}
