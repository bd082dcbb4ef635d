//! Why something is refused: stable codes, each with what the reader can do next.

use std::fmt;

macro_rules! reasons {
    ($( $(#[$doc:meta])* $name:ident = $code:literal, retry: $retry:literal, next: $next:literal; )*) => {
        /// A stable reason code, carried in `google.rpc.ErrorInfo.reason` and in refusal entries.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum ReasonCode { $( $(#[$doc])* $name, )* }

        impl ReasonCode {
            /// Every code, for documentation and tests.
            pub const ALL: &[ReasonCode] = &[ $( ReasonCode::$name, )* ];

            /// The stable text.
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$name => $code, )* }
            }

            /// Whether the same request may succeed when sent again unchanged.
            pub const fn is_retryable(self) -> bool {
                match self { $( Self::$name => $retry, )* }
            }

            /// What the caller can do about it.
            pub const fn next_step(self) -> &'static str {
                match self { $( Self::$name => $next, )* }
            }
        }
    };
}

reasons! {
    /// The certificate's key is registered for nobody.
    UnknownPrincipal = "UNKNOWN_PRINCIPAL", retry: false, next: "have an officer enrol this credential";
    /// The certificate of the caller's open connection has ended.
    CredentialExpired = "CREDENTIAL_EXPIRED", retry: false, next: "have the credential renewed and connect again";
    /// The caller's role does not include this call.
    RoleNotAllowed = "ROLE_NOT_ALLOWED", retry: false, next: "use a credential whose role the call's rule names";
    /// The caller is enrolled but suspended.
    PrincipalSuspended = "PRINCIPAL_SUSPENDED", retry: false, next: "ask an officer why the party was suspended";
    /// The message is no valid protobuf of its type.
    MalformedMessage = "MALFORMED_MESSAGE", retry: false, next: "send a message of the published proto";
    /// A field is missing, out of range or of the wrong length.
    InvalidField = "INVALID_FIELD", retry: false, next: "correct the field that the message names";
    /// An EID that is no EID.
    InvalidEid = "INVALID_EID", retry: false, next: "check the digits against the device's label (SGP.29 §10)";
    /// The EID belongs to no range of the caller.
    EidOutOfRange = "EID_OUT_OF_RANGE", retry: false, next: "order only EIDs of the ranges delegated to you";
    /// The approved number of devices is used up.
    QuotaExceeded = "QUOTA_EXCEEDED", retry: false, next: "ask for a larger quota";
    /// The device is registered already.
    DuplicateDevice = "DUPLICATE_DEVICE", retry: false, next: "each EID is ordered once; look for a repeated line";
    /// The device has this keyset already.
    DuplicateKeyset = "DUPLICATE_KEYSET", retry: false, next: "order another key version number; each keyset is made once";
    /// The public key is certified already for somebody else.
    DuplicateKey = "DUPLICATE_KEY", retry: false, next: "make a new key pair for each device";
    /// The key is of a kind, size or value that the profile refuses.
    WeakKey = "WEAK_KEY", retry: false, next: "use a key made for this purpose, on the curve of its issuer (P-256 or P-384 for TLS, P-256 for approvals)";
    /// A certification request that does not parse or prove possession.
    InvalidCsr = "INVALID_CSR", retry: false, next: "make the PKCS#10 request again with the key it names";
    /// Nothing is registered under this EID.
    UnknownDevice = "UNKNOWN_DEVICE", retry: false, next: "check the EID; its manufacturer orders devices";
    /// The device has no keyset of that version.
    UnknownKeyset = "UNKNOWN_KEYSET", retry: false, next: "check the key version number that the card reported";
    /// The device is frozen or retired.
    DeviceNotActive = "DEVICE_NOT_ACTIVE", retry: false, next: "the device's state forbids this; ask the security officer";
    /// The keyset's state allows no session.
    KeysetNotActive = "KEYSET_NOT_ACTIVE", retry: false, next: "use the device's active keyset";
    /// No grant covers this device for this caller.
    NotGranted = "NOT_GRANTED", retry: false, next: "ask an officer for a grant over this device";
    /// The grant that would cover it has expired.
    GrantExpired = "GRANT_EXPIRED", retry: false, next: "ask an officer to renew the grant";
    /// The grant that covers the device does not allow this: the protocol, a release without proof or a way of delivery.
    GrantTooNarrow = "GRANT_TOO_NARROW", retry: false, next: "stay within the grant, or ask an officer for one that says this";
    /// The grant that covers the device does not name the TAR.
    TarNotGranted = "TAR_NOT_GRANTED", retry: false, next: "address an application that the grant names, or ask an officer for a grant that names this one";
    /// The grant that covers the device does not name the instruction.
    InstructionNotGranted = "INSTRUCTION_NOT_GRANTED", retry: false, next: "leave the command out, or ask an officer for a grant that names its instruction";
    /// The command changes keys or what holds them.
    KeyManagementCommand = "KEY_MANAGEMENT_COMMAND", retry: false, next: "have a rotation approved: such commands come from its scripts only";
    /// The grant's number of packets and scripts for the device in this minute is used up.
    PacketRateExceeded = "PACKET_RATE_EXCEEDED", retry: true, next: "send the request again in a minute";
    /// The counter of the packet was used before, or is too far ahead.
    PacketCounterRefused = "PACKET_COUNTER_REFUSED", retry: false, next: "leave the counter out: the next one is taken";
    /// The counter of the keyset has ended.
    PacketCounterExhausted = "PACKET_COUNTER_EXHAUSTED", retry: false, next: "rotate the keyset: a new one begins with a new counter";
    /// What is said to be the card's answer does not prove itself, or answers nothing that was made here.
    ResponseNotAuthentic = "RESPONSE_NOT_AUTHENTIC", retry: false, next: "check the keyset and the packet or script that was answered; a wrong answer again means a wrong card or a changed message";
    /// The card did not prove that it holds the keys.
    CardCryptogramMismatch = "CARD_CRYPTOGRAM_MISMATCH", retry: false, next: "start a new session with the card; repeated mismatches mean a wrong or cloned card";
    /// The token's policy allows no order in this form.
    FormatRefused = "FORMAT_REFUSED", retry: false, next: "order as jsonl-kwp or pskc, whose keys never leave the token in clear";
    /// The card's challenge does not follow from its sequence counter.
    CardChallengeMismatch = "CARD_CHALLENGE_MISMATCH", retry: false, next: "check the i parameter, the sequence counter and the AID of the security domain";
    /// The pair of challenges was answered before.
    ChallengeReused = "CHALLENGE_REUSED", retry: false, next: "start a new session with the card; an answer that was lost is asked for again under its own idempotency key";
    /// The sequence counter was used before, or is too far ahead.
    SequenceCounterReused = "SEQUENCE_COUNTER_REUSED", retry: false, next: "prepare for the counter that follows the last one used; a card whose counter goes back may be a copy";
    /// The idempotency key was used for a different request.
    IdempotencyKeyReused = "IDEMPOTENCY_KEY_REUSED", retry: false, next: "use a new idempotency key for a new request";
    /// The record changed while the request was on its way.
    Conflict = "CONFLICT", retry: true, next: "read the current state and send the request again";
    /// No such operation.
    UnknownOperation = "UNKNOWN_OPERATION", retry: false, next: "list the open operations";
    /// The operation is not open any more.
    OperationNotOpen = "OPERATION_NOT_OPEN", retry: false, next: "it was executed, rejected or has expired; request a new one";
    /// The operation has expired.
    OperationExpired = "OPERATION_EXPIRED", retry: false, next: "request the operation again";
    /// The approver is the requester.
    SelfApproval = "SELF_APPROVAL", retry: false, next: "another person must approve";
    /// The approver has decided already.
    AlreadyApproved = "ALREADY_APPROVED", retry: false, next: "another person must approve";
    /// The signature over the operation does not verify.
    InvalidApprovalSignature = "INVALID_APPROVAL_SIGNATURE", retry: false, next: "sign the operation's bytes with your registered approval key";
    /// Not enough approvals.
    ApprovalsMissing = "APPROVALS_MISSING", retry: false, next: "more persons must approve";
    /// The bytes approved are not the bytes stored.
    OperationAltered = "OPERATION_ALTERED", retry: false, next: "the stored operation was changed; call the response team";
    /// The operation would break a rule at execution.
    PolicyViolation = "POLICY_VIOLATION", retry: false, next: "request an operation that the policy allows";
    /// No such party.
    UnknownParty = "UNKNOWN_PARTY", retry: false, next: "enrol the party first";
    /// No such order of this caller.
    UnknownOrder = "UNKNOWN_ORDER", retry: false, next: "check the order's name";
    /// No such rotation of this caller.
    UnknownRotation = "UNKNOWN_ROTATION", retry: false, next: "check the rotation's name";
    /// The rotation's state forbids it.
    RotationNotRunning = "ROTATION_NOT_RUNNING", retry: false, next: "look at the rotation's state; an officer pauses, resumes and rolls back";
    /// The device is not part of the rotation, or its script is not leased to the caller.
    NotLeased = "NOT_LEASED", retry: false, next: "fetch the device's script and report under that lease";
    /// The digest confirmed is not that of the output.
    OutputDigestMismatch = "OUTPUT_DIGEST_MISMATCH", retry: true, next: "fetch the output again and confirm what arrived";
    /// The party has no transport key of this name or number.
    UnknownTransportKey = "UNKNOWN_TRANSPORT_KEY", retry: false, next: "register the party's transport key first";
    /// The transport key has expired or was retired.
    TransportKeyEnded = "TRANSPORT_KEY_ENDED", retry: false, next: "register the next version of the transport key";
    /// A certificate authority or issuer that does not exist.
    UnknownIssuer = "UNKNOWN_ISSUER", retry: false, next: "create the issuer's key at a ceremony and register it";
    /// No accreditation of the party is in force.
    AccreditationEnded = "ACCREDITATION_ENDED", retry: false, next: "have the party's accreditation recorded: chancery party accredit";
    /// The profile's rules refuse the certificate.
    LintFailed = "LINT_FAILED", retry: false, next: "correct what the findings name";
    /// No such certificate.
    UnknownCertificate = "UNKNOWN_CERTIFICATE", retry: false, next: "check the serial number";
    /// No key SK.OCE.ECKA of this name is registered for the caller's platform.
    UnknownOceKey = "UNKNOWN_OCE_KEY", retry: false, next: "have the platform's key for SCP11 registered";
    /// No certified DPauth or DPpb key of the caller is in the token.
    UnknownRspKey = "UNKNOWN_RSP_KEY", retry: false, next: "have the SM-DP+'s keys registered and certified, or serve the rsp token";
    /// The server address is not the one registered with the key.
    ServerAddressMismatch = "SERVER_ADDRESS_MISMATCH", retry: false, next: "send the address that the LPA used; it must be the registered one";
    /// The eUICC trusts no certificate issuer under which the SM-DP+ is certified.
    CiNotSupported = "CI_NOT_SUPPORTED", retry: false, next: "the eUICC needs another SM-DP+; compare its CI list with this authority's key identifier";
    /// The caller has no open RSP transaction of this identifier.
    UnknownTransaction = "UNKNOWN_TRANSACTION", retry: false, next: "begin a new transaction; they last minutes";
    /// The RSP transaction is at another step, or has ended.
    TransactionStep = "TRANSACTION_STEP", retry: false, next: "follow the order of the calls; begin a new transaction after an end";
    /// The eUICC's certificate does not lead to our certificate issuer by the GSMA rule, or was revoked.
    EuiccCertificateRefused = "EUICC_CERTIFICATE_REFUSED", retry: false, next: "the device is not of this ecosystem, or its manufacturer was revoked";
    /// The eUICC's signature does not verify over our challenge or our signature.
    EuiccSignatureMismatch = "EUICC_SIGNATURE_MISMATCH", retry: false, next: "begin a new transaction; repeated mismatches mean a wrong or cloned device";
    /// The eUICC answered with an error instead of its proof.
    EuiccReportedError = "EUICC_REPORTED_ERROR", retry: false, next: "look at the error code that the message names (SGP.22 §5.7)";
    /// The confirmation code is not the one that was set.
    ConfirmationCodeMismatch = "CONFIRMATION_CODE_MISMATCH", retry: false, next: "ask the subscriber again; tries are counted";
    /// The confirmation code of the profile was wrong too often.
    ConfirmationCodeTriesExceeded = "CONFIRMATION_CODE_TRIES_EXCEEDED", retry: false, next: "set a new code for the profile, or wait a day";
    /// A bounded queue is full.
    Overloaded = "OVERLOADED", retry: true, next: "slow down and retry after the given delay";
    /// A token cannot answer now.
    TokenUnavailable = "TOKEN_UNAVAILABLE", retry: true, next: "retry after the given delay";
    /// The log cannot be written.
    LogUnavailable = "LOG_UNAVAILABLE", retry: true, next: "the operator must look at the service";
    /// The caller's deadline passed.
    DeadlineExceeded = "DEADLINE_EXCEEDED", retry: true, next: "retry with a longer deadline";
    /// The daemon is going down.
    ShuttingDown = "SHUTTING_DOWN", retry: true, next: "retry after the given delay";
    /// A fault of ours.
    Internal = "INTERNAL", retry: false, next: "report the time of the call to the operator";
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal: a normal result with its own entry, not a fault (STYLE 28).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The stable code.
    pub reason: ReasonCode,
    /// For the caller: names things by public id, holds no secret.
    pub message: String,
}

impl Refusal {
    /// A refusal for `reason` with a message to the caller.
    pub fn new(reason: ReasonCode, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_codes_are_unique_and_upper_snake_case() {
        let mut seen = std::collections::HashSet::new();
        for code in ReasonCode::ALL {
            assert!(seen.insert(code.as_str()));
            assert!(code.as_str().bytes().all(|c| c.is_ascii_uppercase() || c == b'_'));
            assert!(!code.next_step().is_empty());
        }
    }
}
