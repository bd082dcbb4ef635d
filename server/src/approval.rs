//! Approvals, decided purely: may this person sign, is the operation approved, may it be executed
//! (`docs/cycles/approval.md`).

use audit::{ApprovalKey, sha256};
use domain::{ReasonCode, Refusal, Timestamp};
use prost::Message;
use proto::v1;

/// Longest time an operation may wait, in seconds: 30 days.
const WAIT_SECONDS_MAX: i64 = 30 * 86_400;
/// Bytes of the largest operation: a grant over a thousand EIDs.
pub(crate) const OPERATION_BYTES_MAX: usize = 48 * 1024;
/// Characters of the reason.
const REASON_CHARACTERS_MAX: usize = 500;

/// One person's signature, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signature {
    pub(crate) person: String,
    /// SubjectPublicKeyInfo, DER, as it was registered when the person signed.
    pub(crate) approval_key: Vec<u8>,
    pub(crate) signature: Vec<u8>,
    pub(crate) time: Timestamp,
}

/// What a signing person is now.
#[derive(Clone, Debug)]
pub(crate) struct Signer {
    pub(crate) name: String,
    pub(crate) approval_key: Vec<u8>,
    pub(crate) suspended: bool,
    /// Whether the person may approve (or, for the requester, request).
    pub(crate) may_sign: bool,
}

/// Reads canonical bytes: decoded, encoded again and compared, so that unknown or repeated fields cannot hide.
pub(crate) fn decode(canonical: &[u8], authority: &str, now: Timestamp) -> Result<v1::Operation, Refusal> {
    let invalid = |message: &str| Refusal::new(ReasonCode::InvalidField, format!("operation: {message}"));
    if canonical.len() > OPERATION_BYTES_MAX {
        return Err(invalid("too large"));
    }
    let operation = v1::Operation::decode(canonical)
        .map_err(|_| Refusal::new(ReasonCode::MalformedMessage, "the operation's bytes are no Operation"))?;
    if operation.encode_to_vec() != canonical {
        return Err(Refusal::new(
            ReasonCode::MalformedMessage,
            "the operation's bytes are not in canonical form: unknown or repeated fields",
        ));
    }
    if operation.version != 1 {
        return Err(invalid("version must be 1"));
    }
    if operation.salt.len() != 32 {
        return Err(invalid("salt must have 32 bytes"));
    }
    if operation.authority != authority {
        return Err(invalid("it is meant for another authority"));
    }
    if operation.reason.is_empty() || operation.reason.chars().count() > REASON_CHARACTERS_MAX {
        return Err(invalid("reason must have 1 to 500 characters"));
    }
    let expires = expires(&operation).ok_or_else(|| invalid("expires is missing"))?;
    if expires > now.plus_seconds(WAIT_SECONDS_MAX) {
        return Err(invalid("expires is more than 30 days ahead"));
    }
    check_open_until(expires, now)?;
    Ok(operation)
}

/// When it ends.
pub(crate) fn expires(operation: &v1::Operation) -> Option<Timestamp> {
    operation
        .expires
        .as_ref()
        .map(|time| Timestamp::from_seconds(time.seconds).plus_micros(i64::from(time.nanos) / 1000))
}

fn check_open_until(expires: Timestamp, now: Timestamp) -> Result<(), Refusal> {
    if now < expires {
        Ok(())
    } else {
        Err(Refusal::new(ReasonCode::OperationExpired, "the operation has expired"))
    }
}

/// Whether this signature by this person may be added to those of an operation.
pub(crate) fn may_add(
    canonical: &[u8],
    signatures: &[Signature],
    signer: &Signer,
    signature: &[u8],
) -> Result<(), Refusal> {
    match signatures.iter().position(|earlier| earlier.person == signer.name) {
        // The requester's own signature always stands first.
        Some(0) => {
            return Err(Refusal::new(ReasonCode::SelfApproval, "you requested this operation yourself"));
        }
        Some(_) => {
            return Err(Refusal::new(
                ReasonCode::AlreadyApproved,
                "you have approved this operation already",
            ));
        }
        None => {}
    }
    // Enrolment gives no key to two persons; were it so all the same, one key is one person.
    if signatures.iter().any(|earlier| earlier.approval_key == signer.approval_key) {
        return Err(Refusal::new(ReasonCode::AlreadyApproved, "this approval key has signed already"));
    }
    verify(canonical, &signer.approval_key, signature)
}

/// Whether one signature verifies.
pub(crate) fn verify(canonical: &[u8], approval_key: &[u8], signature: &[u8]) -> Result<(), Refusal> {
    let invalid = |_| {
        Refusal::new(
            ReasonCode::InvalidApprovalSignature,
            "the signature does not verify under your approval key",
        )
    };
    ApprovalKey::from_spki_der(approval_key)
        .map_err(invalid)?
        .verify(&sha256(canonical), signature)
        .map_err(invalid)
}

/// Whether an operation may be executed now: every stored signature is verified again over the stored bytes, every
/// signer is looked up as it is now, and enough distinct persons remain. An empty list approves nothing.
pub(crate) fn may_execute(
    canonical: &[u8],
    digest: &[u8],
    signatures: &[Signature],
    persons_required: u32,
    expires: Timestamp,
    now: Timestamp,
    signer: impl Fn(&str) -> Option<Signer>,
) -> Result<(), Refusal> {
    if sha256(canonical)[..] != *digest {
        return Err(Refusal::new(
            ReasonCode::OperationAltered,
            "the stored operation is not the one that was approved",
        ));
    }
    check_open_until(expires, now)?;
    let mut persons: Vec<&str> = Vec::new();
    let mut keys: Vec<&[u8]> = Vec::new();
    for signature in signatures {
        verify(canonical, &signature.approval_key, &signature.signature).map_err(|_| {
            Refusal::new(
                ReasonCode::OperationAltered,
                "a stored approval does not verify over the stored operation",
            )
        })?;
        let Some(now_signer) = signer(&signature.person) else { continue };
        // A person who was suspended, lost the role or changed the key since does not count any more.
        let counts =
            !now_signer.suspended && now_signer.may_sign && now_signer.approval_key == signature.approval_key;
        let is_new = !persons.contains(&signature.person.as_str())
            && !keys.contains(&signature.approval_key.as_slice());
        if counts && is_new {
            persons.push(&signature.person);
            keys.push(&signature.approval_key);
        }
    }
    // Two is the floor whatever the policy says.
    let required = usize::try_from(persons_required).unwrap_or(usize::MAX).max(2);
    let requester = signatures.first().map(|signature| signature.person.as_str());
    if persons.len() < required || requester.is_none_or(|requester| !persons.contains(&requester)) {
        return Err(Refusal::new(
            ReasonCode::ApprovalsMissing,
            format!("{} of {required} persons have signed", persons.len()),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Key(pki::PrivateKey);

    impl Key {
        fn new() -> Self {
            Self(pki::PrivateKey::from_pkcs8(&pki::generate_p256().unwrap()).unwrap())
        }

        fn signer(&self, name: &str) -> Signer {
            Signer { name: name.into(), approval_key: self.0.spki(), suspended: false, may_sign: true }
        }

        fn sign(&self, canonical: &[u8]) -> Vec<u8> {
            self.0.sign(&audit::approval_message(&sha256(canonical))).unwrap()
        }

        fn signature(&self, person: &str, canonical: &[u8]) -> Signature {
            Signature {
                person: person.into(),
                approval_key: self.0.spki(),
                signature: self.sign(canonical),
                time: NOW,
            }
        }
    }

    const NOW: Timestamp = Timestamp::from_seconds(1_000);
    const LATER: Timestamp = Timestamp::from_seconds(2_000);

    fn execute(
        canonical: &[u8],
        signatures: &[Signature],
        required: u32,
        people: &[Signer],
        now: Timestamp,
    ) -> Result<(), ReasonCode> {
        may_execute(canonical, &sha256(canonical), signatures, required, LATER, now, |name| {
            people.iter().find(|person| person.name == name).cloned()
        })
        .map_err(|refusal| refusal.reason)
    }

    #[test]
    fn requester_and_one_other_suffice_for_two_and_nobody_counts_twice() {
        let (alice, bob) = (Key::new(), Key::new());
        let people = [alice.signer("alice"), bob.signer("bob")];
        let operation = b"operation";
        let both = [alice.signature("alice", operation), bob.signature("bob", operation)];
        assert_eq!(execute(operation, &both, 2, &people, NOW), Ok(()));
        assert_eq!(execute(operation, &both, 3, &people, NOW), Err(ReasonCode::ApprovalsMissing));
        let twice = [alice.signature("alice", operation), alice.signature("alice", operation)];
        assert_eq!(execute(operation, &twice, 2, &people, NOW), Err(ReasonCode::ApprovalsMissing));
        assert_eq!(execute(operation, &[], 0, &people, NOW), Err(ReasonCode::ApprovalsMissing));
        assert_eq!(execute(operation, &both[..1], 1, &people, NOW), Err(ReasonCode::ApprovalsMissing));
    }

    #[test]
    fn nobody_approves_the_own_request_or_approves_twice() {
        let (alice, bob) = (Key::new(), Key::new());
        let operation = b"operation";
        let reason = |signatures: &[Signature], key: &Key, name: &str| {
            may_add(operation, signatures, &key.signer(name), &key.sign(operation)).map_err(|r| r.reason)
        };
        let requested = vec![alice.signature("alice", operation)];
        assert_eq!(reason(&requested, &alice, "alice"), Err(ReasonCode::SelfApproval));
        // Another key of the same person changes nothing.
        assert_eq!(reason(&requested, &bob, "alice"), Err(ReasonCode::SelfApproval));
        assert_eq!(reason(&requested, &bob, "bob"), Ok(()));
        let approved = vec![requested[0].clone(), bob.signature("bob", operation)];
        assert_eq!(reason(&approved, &bob, "bob"), Err(ReasonCode::AlreadyApproved));
    }

    #[test]
    fn a_changed_byte_of_the_operation_or_of_an_approval_stops_execution() {
        let (alice, bob) = (Key::new(), Key::new());
        let people = [alice.signer("alice"), bob.signer("bob")];
        let operation = b"operation".to_vec();
        let both = [alice.signature("alice", &operation), bob.signature("bob", &operation)];
        for at in 0..operation.len() {
            let mut changed = operation.clone();
            changed[at] ^= 1;
            let decision = may_execute(&changed, &sha256(&operation), &both, 2, LATER, NOW, |_| None);
            assert_eq!(decision.unwrap_err().reason, ReasonCode::OperationAltered);
            // Even when the recorded digest was changed along with it.
            assert_eq!(execute(&changed, &both, 2, &people, NOW), Err(ReasonCode::OperationAltered));
        }
        for at in 0..both[1].signature.len() {
            let mut changed = both.clone();
            changed[1].signature[at] ^= 1;
            assert_eq!(execute(&operation, &changed, 2, &people, NOW), Err(ReasonCode::OperationAltered));
        }
    }

    #[test]
    fn an_approver_suspended_since_or_with_another_key_does_not_count_and_time_ends_it() {
        let (alice, bob) = (Key::new(), Key::new());
        let operation = b"operation";
        let both = [alice.signature("alice", operation), bob.signature("bob", operation)];
        let mut suspended = bob.signer("bob");
        suspended.suspended = true;
        let mut demoted = bob.signer("bob");
        demoted.may_sign = false;
        let rekeyed = Key::new().signer("bob");
        for bob_now in [suspended, demoted, rekeyed] {
            let people = [alice.signer("alice"), bob_now];
            assert_eq!(execute(operation, &both, 2, &people, NOW), Err(ReasonCode::ApprovalsMissing));
        }
        let people = [alice.signer("alice"), bob.signer("bob")];
        assert_eq!(execute(operation, &both, 2, &people, LATER), Err(ReasonCode::OperationExpired));
        // An approver who is the requester's only remaining signature.
        assert_eq!(execute(operation, &both, 2, &people[1..], NOW), Err(ReasonCode::ApprovalsMissing));
    }

    #[test]
    fn an_approval_of_one_operation_is_none_of_another() {
        let (alice, bob) = (Key::new(), Key::new());
        let requested = vec![alice.signature("alice", b"one")];
        let refusal = may_add(b"one", &requested, &bob.signer("bob"), &bob.sign(b"two")).unwrap_err();
        assert_eq!(refusal.reason, ReasonCode::InvalidApprovalSignature);
    }

    #[test]
    fn unknown_and_repeated_fields_are_refused() {
        let operation = v1::Operation {
            version: 1,
            salt: vec![7; 32],
            authority: "here".into(),
            reason: "test".into(),
            expires: Some(prost_types::Timestamp { seconds: 2_000, nanos: 0 }),
            kind: Some(v1::operation::Kind::CreateGrant(v1::CreateGrant::default())),
        };
        let canonical = operation.encode_to_vec();
        assert!(decode(&canonical, "here", NOW).is_ok());
        assert_eq!(decode(&canonical, "there", NOW).unwrap_err().reason, ReasonCode::InvalidField);
        let mut unknown = canonical.clone();
        unknown.extend([0xfa, 0x3f, 0x01, 0x00]);
        let mut repeated = canonical.clone();
        repeated.extend([0x22, 0x01, b'x']);
        for bytes in [unknown, repeated] {
            assert_eq!(decode(&bytes, "here", NOW).unwrap_err().reason, ReasonCode::MalformedMessage);
        }
    }
}
