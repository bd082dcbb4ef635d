//! The rule of each RPC, read from the descriptor.

use std::collections::BTreeMap;

use domain::Role;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, Value};

const EXTENSION: &str = "chancery.options.v1.rule";

/// Who may call an RPC and what it leaves in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// `/package.Service/Method`.
    pub path: String,
    /// Holders of any of these may call; never empty.
    pub roles: Vec<Role>,
    /// Event name of the success entry; none for reads of metadata.
    pub entry: Option<String>,
    /// Whether the call changes state and so is idempotent by key.
    pub changes_state: bool,
    /// Whether the request is one message with the field `idempotency_key`.
    pub has_idempotency_key: bool,
}

/// Every RPC's rule by path.
#[derive(Debug, Clone)]
pub struct Rules(BTreeMap<String, Rule>);

/// The contract is not fit to be served.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// The descriptor set is broken.
    #[error("the descriptor set cannot be read: {0}")]
    Descriptor(String),
    /// An RPC without rule, or one whose rule is incomplete.
    #[error("RPC {path} has no complete rule: {problem}")]
    Incomplete {
        /// The RPC.
        path: String,
        /// What is missing.
        problem: &'static str,
    },
}

impl Rules {
    /// Reads the rules of the built-in contract.
    pub fn of_contract() -> Result<Self, RulesError> {
        Self::read(crate::DESCRIPTOR)
    }

    /// Reads the rules from an encoded `FileDescriptorSet`; every method of package `chancery.v1` must have one.
    pub fn read(descriptor: &[u8]) -> Result<Self, RulesError> {
        let pool = DescriptorPool::decode(descriptor).map_err(|e| RulesError::Descriptor(e.to_string()))?;
        let mut rules = BTreeMap::new();
        for service in pool.services() {
            for method in service.methods() {
                let rule =
                    Self::rule(&pool, &format!("/{}/{}", service.full_name(), method.name()), &method)?;
                rules.insert(rule.path.clone(), rule);
            }
        }
        Ok(Self(rules))
    }

    /// The rule of an RPC by its path.
    pub fn get(&self, path: &str) -> Option<&Rule> {
        self.0.get(path)
    }

    /// Every rule, by path.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.0.values()
    }

    fn rule(pool: &DescriptorPool, path: &str, method: &MethodDescriptor) -> Result<Rule, RulesError> {
        let incomplete = |problem| RulesError::Incomplete { path: path.to_owned(), problem };
        let extension = pool
            .get_extension_by_name(EXTENSION)
            .ok_or_else(|| RulesError::Descriptor(format!("no {EXTENSION}")))?;
        let options = method.options();
        if !options.has_extension(&extension) {
            return Err(incomplete("the option is absent"));
        }
        let value = options.get_extension(&extension);
        let message = value.as_message().ok_or_else(|| incomplete("the option is no message"))?;
        let roles = roles(message).ok_or_else(|| incomplete("an unspecified role"))?;
        if roles.is_empty() {
            return Err(incomplete("no role may call it"));
        }
        let entry = match message.get_field_by_name("entry").as_deref() {
            Some(Value::String(s)) if s == "none" => None,
            Some(Value::String(s)) if !s.is_empty() => Some(s.clone()),
            _ => return Err(incomplete("no entry event")),
        };
        let changes_state =
            matches!(message.get_field_by_name("changes_state").as_deref(), Some(Value::Bool(true)));
        if changes_state && entry.is_none() {
            return Err(incomplete("it changes state and writes no entry"));
        }
        let has_idempotency_key =
            !method.is_client_streaming() && method.input().get_field_by_name("idempotency_key").is_some();
        if changes_state && !has_idempotency_key && !method.is_client_streaming() {
            return Err(incomplete("it changes state and has no idempotency key"));
        }
        Ok(Rule { path: path.to_owned(), roles, entry, changes_state, has_idempotency_key })
    }
}

fn roles(message: &DynamicMessage) -> Option<Vec<Role>> {
    let field = message.get_field_by_name("roles")?;
    let list = field.as_list()?;
    list.iter().map(|v| v.as_enum_number().and_then(role_from_number)).collect()
}

fn role_from_number(number: i32) -> Option<Role> {
    crate::options::v1::Role::try_from(number).ok().and_then(crate::domain_role)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rpc_of_the_contract_has_a_complete_rule() {
        let rules = Rules::of_contract().unwrap();
        assert!(rules.iter().count() >= 10);
        let fetch = rules.get("/chancery.v1.SessionKeyService/FetchSessionKeys").unwrap();
        assert_eq!(fetch.roles, [Role::Provisioner]);
        assert_eq!(fetch.entry.as_deref(), Some("session_keys.released"));
        assert!(fetch.changes_state && fetch.has_idempotency_key);
    }

    #[test]
    fn a_contract_with_an_rpc_that_lacks_its_rule_is_refused() {
        let mut compiled = prost_types::FileDescriptorSet { file: Vec::new() };
        let set: prost_types::FileDescriptorSet = prost::Message::decode(crate::DESCRIPTOR).unwrap();
        // prost's own types lose the custom options: exactly the fault to be noticed.
        compiled.file = set.file;
        let bytes = prost::Message::encode_to_vec(&compiled);
        assert!(matches!(Rules::read(&bytes), Err(RulesError::Incomplete { .. })));
    }
}
