//! The one place where it is decided who may call what: a pure function over the contract's rule and the authority's
//! records. Handlers get an [`AuthorizedCaller`] from here and from nowhere else.

use std::sync::Arc;

use domain::{PrincipalId, ReasonCode, Refusal, Role, Timestamp};
use proto::Rule;
use store::Precondition;

use crate::authority::{Actor, Party, Person};

/// A caller whom the rule of this call admits.
#[derive(Clone, Debug)]
pub(crate) struct AuthorizedCaller {
    principal: PrincipalId,
    role: Role,
    actor: Actor,
    rule: Arc<Rule>,
}

impl AuthorizedCaller {
    /// The credential of the connection.
    pub(crate) const fn principal(&self) -> PrincipalId {
        self.principal
    }

    /// The role in which the call is made.
    pub(crate) const fn role(&self) -> Role {
        self.role
    }

    /// The rule that admitted the caller.
    pub(crate) fn rule(&self) -> &Rule {
        &self.rule
    }

    /// Decides again about the same call, now that the records may be others.
    pub(crate) fn again(&self, actor: Option<Actor>, now: Timestamp) -> Result<Self, Refusal> {
        authorize(&self.rule, self.principal, actor, now)
    }

    /// That whoever acts is still who was admitted: in force, with these roles and keys.
    pub(crate) fn unchanged(&self) -> Precondition {
        self.actor.unchanged()
    }

    /// The person, for calls of persons.
    pub(crate) fn person(&self) -> Result<&Arc<Person>, Refusal> {
        match &self.actor {
            Actor::Person(person) => Ok(person),
            Actor::Party(_) => Err(not_allowed(self.role)),
        }
    }

    /// The party, for calls of parties.
    pub(crate) fn party(&self) -> Result<&Arc<Party>, Refusal> {
        match &self.actor {
            Actor::Party(party) => Ok(party),
            Actor::Person(_) => Err(not_allowed(self.role)),
        }
    }
}

/// Decides. `actor` is whose credential `principal` is, if anybody's.
pub(crate) fn authorize(
    rule: &Arc<Rule>,
    principal: PrincipalId,
    actor: Option<Actor>,
    now: Timestamp,
) -> Result<AuthorizedCaller, Refusal> {
    let Some(actor) = actor else {
        return Err(Refusal::new(
            ReasonCode::UnknownPrincipal,
            "this certificate's key is registered for nobody",
        ));
    };
    if actor.is_suspended() {
        return Err(Refusal::new(
            ReasonCode::PrincipalSuspended,
            "the owner of this credential is suspended",
        ));
    }
    if !actor.has_credential(&principal, now) {
        return Err(Refusal::new(
            ReasonCode::CredentialExpired,
            "the certificate of this connection has ended since it was opened",
        ));
    }
    match rule.roles.iter().find(|role| actor.roles().contains(role)) {
        Some(role) => Ok(AuthorizedCaller { principal, role: *role, actor, rule: Arc::clone(rule) }),
        None => Err(Refusal::new(ReasonCode::RoleNotAllowed, "your role does not include this call")),
    }
}

fn not_allowed(role: Role) -> Refusal {
    Refusal::new(ReasonCode::RoleNotAllowed, format!("this call is not for the role {}", role.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::Rules;

    use crate::authority::Credential;

    const CALLER: PrincipalId = PrincipalId([1; 32]);
    const NOW: Timestamp = Timestamp::from_seconds(1);

    fn person(roles: &[Role], suspended: bool) -> Actor {
        Actor::Person(Arc::new(Person {
            name: "someone".into(),
            roles: roles.to_vec(),
            credentials: vec![Credential { principal: CALLER, not_after: Timestamp::from_seconds(2) }],
            approval_key: Vec::new(),
            suspended,
            version: 0,
        }))
    }

    #[test]
    fn every_rpc_admits_exactly_the_roles_of_its_rule() {
        let rules = Rules::of_contract().unwrap();
        let mut decisions = 0;
        for rule in rules.iter().map(|rule| Arc::new(rule.clone())) {
            for role in Role::ALL {
                let decision = authorize(&rule, CALLER, Some(person(&[role], false)), NOW);
                assert_eq!(decision.is_ok(), rule.roles.contains(&role), "{} {role:?}", rule.path);
                let suspended = authorize(&rule, CALLER, Some(person(&[role], true)), NOW);
                assert_eq!(suspended.unwrap_err().reason, ReasonCode::PrincipalSuspended);
                let late = authorize(&rule, CALLER, Some(person(&[role], false)), Timestamp::from_seconds(2));
                assert_eq!(late.unwrap_err().reason, ReasonCode::CredentialExpired);
                decisions += 1;
            }
            assert_eq!(authorize(&rule, CALLER, None, NOW).unwrap_err().reason, ReasonCode::UnknownPrincipal);
            assert_eq!(
                authorize(&rule, CALLER, Some(person(&[], false)), NOW).unwrap_err().reason,
                ReasonCode::RoleNotAllowed
            );
        }
        assert!(decisions >= 50);
    }

    #[test]
    fn every_rpc_names_an_event_that_the_log_knows() {
        for rule in Rules::of_contract().unwrap().iter() {
            if let Some(entry) = &rule.entry {
                assert!(entry.parse::<audit::EventType>().is_ok(), "{}: {entry}", rule.path);
            }
        }
    }
}
