//! What an SM-DP+ tells a device when a call of ours ends with a reason: subject and reason codes of SGP.22 §5.2.6.

use crate::ReasonCode;

/// The statusCodeData of an ES9+ answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Sgp22Status {
    /// SGP.22 §5.2.6.1: what it is about, for example `8.1.1`, the EID.
    pub subject: &'static str,
    /// SGP.22 §5.2.6.2: what is wrong with it, for example `3.8`, refused.
    pub reason: &'static str,
}

impl ReasonCode {
    /// The status that the SM-DP+ passes on to the LPA; none for what no device can see or cause, such as an approval or an
    /// order. What the SM-DP+ did wrong itself is, to the device, its being inaccessible.
    pub const fn sgp22(self) -> Option<Sgp22Status> {
        let (subject, reason) = match self {
            Self::ServerAddressMismatch => ("8.8.1", "3.8"),
            Self::CiNotSupported => ("8.8.2", "3.1"),
            Self::UnknownRspKey => ("8.8.4", "3.7"),
            Self::UnknownTransaction | Self::TransactionStep => ("8.10.1", "3.9"),
            Self::EuiccCertificateRefused => ("8.1.3", "6.1"),
            Self::EuiccSignatureMismatch => ("8.1", "6.1"),
            Self::ConfirmationCodeMismatch => ("8.2.7", "3.8"),
            Self::ConfirmationCodeTriesExceeded => ("8.2.7", "6.4"),
            Self::InvalidEid
            | Self::UnknownDevice
            | Self::DeviceNotActive
            | Self::NotGranted
            | Self::GrantExpired
            | Self::GrantTooNarrow => ("8.1.1", "3.8"),
            Self::UnknownPrincipal
            | Self::CredentialExpired
            | Self::RoleNotAllowed
            | Self::PrincipalSuspended
            | Self::MalformedMessage
            | Self::InvalidField
            | Self::IdempotencyKeyReused
            | Self::Conflict
            | Self::Overloaded
            | Self::TokenUnavailable
            | Self::LogUnavailable
            | Self::DeadlineExceeded
            | Self::ShuttingDown
            | Self::Internal => ("8.8", "5.1"),
            // The device said it: it needs no answer. The others are no reasons of an RSP call.
            Self::EuiccReportedError
            | Self::EidOutOfRange
            | Self::QuotaExceeded
            | Self::DuplicateDevice
            | Self::DuplicateKeyset
            | Self::DuplicateKey
            | Self::WeakKey
            | Self::InvalidCsr
            | Self::UnknownKeyset
            | Self::KeysetNotActive
            | Self::CardCryptogramMismatch
            | Self::TarNotGranted
            | Self::InstructionNotGranted
            | Self::KeyManagementCommand
            | Self::PacketRateExceeded
            | Self::PacketCounterRefused
            | Self::PacketCounterExhausted
            | Self::ResponseNotAuthentic
            | Self::FormatRefused
            | Self::CardChallengeMismatch
            | Self::ChallengeReused
            | Self::SequenceCounterReused
            | Self::UnknownOperation
            | Self::OperationNotOpen
            | Self::OperationExpired
            | Self::SelfApproval
            | Self::AlreadyApproved
            | Self::InvalidApprovalSignature
            | Self::ApprovalsMissing
            | Self::OperationAltered
            | Self::PolicyViolation
            | Self::UnknownParty
            | Self::UnknownOrder
            | Self::UnknownRotation
            | Self::RotationNotRunning
            | Self::NotLeased
            | Self::OutputDigestMismatch
            | Self::UnknownTransportKey
            | Self::TransportKeyEnded
            | Self::UnknownIssuer
            | Self::AccreditationEnded
            | Self::LintFailed
            | Self::UnknownOceKey
            | Self::UnknownCertificate => return None,
        };
        Some(Sgp22Status { subject, reason })
    }
}
