//! From errors to answers: one exhaustive way from whatever went wrong to a reason code, and from there to a gRPC status.

use std::collections::HashMap;
use std::time::Duration;

use audit::{Outcome, Pseudonym};
use ca::CaError;
use domain::{ReasonCode, Refusal};
use hsm::{ErrorClass, HsmError};
use kms::KmsError;
use store::{CommitError, StoreError};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::authority::AuthorityError;

/// `google.rpc.ErrorInfo.domain` of every error.
const DOMAIN: &str = "chancery";
/// Metadata key that carries the index of the entry which records a refusal.
pub(crate) const ENTRY_INDEX_HEADER: &str = "chancery-entry-index";
/// What a retryable answer suggests when nothing better is known.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// The rate of packets is counted by the minute.
const RATE_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Whatever ends a call without its answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServiceError {
    #[error("refused: {0}")]
    Refused(Refusal),
    #[error("key operation")]
    Kms(#[from] KmsError),
    #[error("certificate operation")]
    Ca(#[from] CaError),
    #[error("commit")]
    Commit(#[from] CommitError),
    #[error("store")]
    Store(#[from] StoreError),
    #[error("authority records")]
    Authority(#[from] AuthorityError),
    #[error("token")]
    Token(#[from] HsmError),
    #[error("audit bundle")]
    Audit(#[from] audit::AuditError),
    #[error("{0}")]
    Internal(&'static str),
}

impl From<Refusal> for ServiceError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl ServiceError {
    pub(crate) fn refused(reason: ReasonCode, message: impl Into<String>) -> Self {
        Self::Refused(Refusal::new(reason, message))
    }
}

/// What an error comes to.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// For the caller.
    pub(crate) refusal: Refusal,
    /// For the entry.
    pub(crate) outcome: Outcome,
    /// What it was about, if known.
    pub(crate) object: Option<Pseudonym>,
    /// When to come again.
    pub(crate) retry_after: Option<Duration>,
}

impl ServiceError {
    /// The one exhaustive mapping.
    pub(crate) fn verdict(&self) -> Verdict {
        match self {
            Self::Refused(refusal) => Verdict::refused(refusal.clone(), None),
            Self::Kms(error) => match error {
                KmsError::Refused(refused) => Verdict::refused(refused.refusal.clone(), refused.object),
                KmsError::Token(error) => Verdict::of_token(error),
                KmsError::Commit(error) => Verdict::of_commit(error),
                KmsError::Store(error) => Verdict::of_store(error),
                KmsError::OutputFile { .. } => {
                    Verdict::failed(ReasonCode::LogUnavailable, "output cannot be kept now")
                }
                KmsError::MasterAbsent(_) | KmsError::Record(_) | KmsError::Entropy(_) => Verdict::internal(),
            },
            Self::Ca(error) => match error {
                CaError::Refused(refused) => Verdict::refused(refused.refusal.clone(), refused.object),
                CaError::Token(error) => Verdict::of_token(error),
                CaError::Commit(error) => Verdict::of_commit(error),
                CaError::Store(error) => Verdict::of_store(error),
                CaError::Entropy(_) | CaError::Verification(_) | CaError::Record(_) => Verdict::internal(),
            },
            Self::Commit(error) => Verdict::of_commit(error),
            Self::Store(error) | Self::Authority(AuthorityError::Store(error)) => Verdict::of_store(error),
            Self::Token(error) => Verdict::of_token(error),
            Self::Authority(AuthorityError::Record(_)) | Self::Audit(_) | Self::Internal(_) => {
                Verdict::internal()
            }
        }
    }

    /// Whether it is a refusal for this reason.
    pub(crate) fn is_for(&self, reason: ReasonCode) -> bool {
        let verdict = self.verdict();
        matches!(verdict.outcome, Outcome::Refused(_)) && verdict.refusal.reason == reason
    }

    /// Whether a commit lost a race over a row other than the call's own idempotency row: reading again may succeed.
    pub(crate) fn lost_race(&self) -> bool {
        let commit = match self {
            Self::Commit(error) | Self::Kms(KmsError::Commit(error)) | Self::Ca(CaError::Commit(error)) => {
                error
            }
            _ => return false,
        };
        matches!(commit, CommitError::PreconditionFailed { keyspace } if *keyspace != crate::records::IDEMPOTENCY.name)
    }
}

impl Verdict {
    fn refused(refusal: Refusal, object: Option<Pseudonym>) -> Self {
        let retry_after = match refusal.reason {
            ReasonCode::PacketRateExceeded => Some(RATE_RETRY_AFTER),
            reason => reason.is_retryable().then_some(RETRY_AFTER),
        };
        Self { outcome: Outcome::Refused(refusal.reason), refusal, object, retry_after }
    }

    fn failed(reason: ReasonCode, message: &str) -> Self {
        Self {
            refusal: Refusal::new(reason, message),
            outcome: Outcome::Failed(reason),
            object: None,
            retry_after: reason.is_retryable().then_some(RETRY_AFTER),
        }
    }

    fn internal() -> Self {
        Self::failed(ReasonCode::Internal, "the service failed; nothing was released")
    }

    fn of_token(error: &HsmError) -> Self {
        let verdict = match error.class {
            ErrorClass::Overloaded | ErrorClass::Capacity => {
                Self::failed(ReasonCode::Overloaded, "the token's queue is full")
            }
            ErrorClass::Deadline => {
                Self::failed(ReasonCode::DeadlineExceeded, "the token did not answer in time")
            }
            ErrorClass::ShuttingDown => Self::failed(ReasonCode::ShuttingDown, "the service is going down"),
            ErrorClass::Policy => {
                Self::failed(ReasonCode::PolicyViolation, "the token's policy refuses this")
            }
            ErrorClass::Caller | ErrorClass::Blob => Self::internal(),
            ErrorClass::Handle
            | ErrorClass::Session
            | ErrorClass::Login
            | ErrorClass::Pin
            | ErrorClass::Token => Self::failed(ReasonCode::TokenUnavailable, "the token cannot answer now"),
        };
        Self { retry_after: error.retry_after().or(verdict.retry_after), ..verdict }
    }

    fn of_commit(error: &CommitError) -> Self {
        match error {
            CommitError::PreconditionFailed { .. } => Self::refused(
                Refusal::new(ReasonCode::Conflict, "a record changed while the request was on its way"),
                None,
            ),
            CommitError::Overloaded => Self::failed(ReasonCode::Overloaded, "the log's queue is full"),
            CommitError::ShuttingDown => Self::failed(ReasonCode::ShuttingDown, "the service is going down"),
            CommitError::Stopped { .. } => {
                Self::failed(ReasonCode::LogUnavailable, "the log cannot be written")
            }
            CommitError::Malformed { .. } | CommitError::TooLarge { .. } => Self::internal(),
        }
    }

    fn of_store(_error: &StoreError) -> Self {
        Self::failed(ReasonCode::LogUnavailable, "the records cannot be read")
    }

    /// The answer to the caller; `entry` is the index of the entry that records it, unless it could not be recorded.
    pub(crate) fn into_status(self, entry: Option<u64>) -> Status {
        let reason = self.refusal.reason;
        let mut metadata = HashMap::from([
            ("retryable".to_owned(), reason.is_retryable().to_string()),
            ("next_step".to_owned(), reason.next_step().to_owned()),
        ]);
        if let Some(sgp22) = reason.sgp22() {
            metadata.insert("sgp22_subject".to_owned(), sgp22.subject.to_owned());
            metadata.insert("sgp22_reason".to_owned(), sgp22.reason.to_owned());
        }
        let mut details = ErrorDetails::with_error_info(reason.as_str(), DOMAIN, metadata);
        if let Some(delay) = self.retry_after {
            details.set_retry_info(Some(delay));
        }
        let mut status = Status::with_error_details(code(reason), self.refusal.message, details);
        if let Some(index) = entry {
            status.metadata_mut().insert(ENTRY_INDEX_HEADER, index.into());
        }
        status
    }
}

/// The gRPC code of each reason.
pub(crate) const fn code(reason: ReasonCode) -> Code {
    match reason {
        ReasonCode::UnknownPrincipal | ReasonCode::CredentialExpired => Code::Unauthenticated,
        ReasonCode::RoleNotAllowed
        | ReasonCode::PrincipalSuspended
        | ReasonCode::NotGranted
        | ReasonCode::GrantExpired
        | ReasonCode::GrantTooNarrow
        | ReasonCode::TarNotGranted
        | ReasonCode::InstructionNotGranted
        | ReasonCode::KeyManagementCommand
        | ReasonCode::ResponseNotAuthentic
        | ReasonCode::FormatRefused
        | ReasonCode::CardCryptogramMismatch
        | ReasonCode::CardChallengeMismatch
        | ReasonCode::SelfApproval
        | ReasonCode::InvalidApprovalSignature
        | ReasonCode::EuiccCertificateRefused
        | ReasonCode::EuiccSignatureMismatch
        | ReasonCode::ConfirmationCodeMismatch
        | ReasonCode::ConfirmationCodeTriesExceeded
        | ReasonCode::EidOutOfRange => Code::PermissionDenied,
        ReasonCode::MalformedMessage
        | ReasonCode::InvalidField
        | ReasonCode::InvalidEid
        | ReasonCode::WeakKey
        | ReasonCode::InvalidCsr
        | ReasonCode::ServerAddressMismatch
        | ReasonCode::LintFailed => Code::InvalidArgument,
        ReasonCode::UnknownDevice
        | ReasonCode::UnknownKeyset
        | ReasonCode::UnknownOperation
        | ReasonCode::UnknownParty
        | ReasonCode::UnknownOrder
        | ReasonCode::UnknownRotation
        | ReasonCode::UnknownIssuer
        | ReasonCode::UnknownOceKey
        | ReasonCode::UnknownRspKey
        | ReasonCode::UnknownTransaction
        | ReasonCode::UnknownTransportKey
        | ReasonCode::UnknownCertificate => Code::NotFound,
        ReasonCode::DuplicateDevice
        | ReasonCode::DuplicateKeyset
        | ReasonCode::DuplicateKey
        | ReasonCode::AlreadyApproved
        | ReasonCode::IdempotencyKeyReused
        | ReasonCode::ChallengeReused
        | ReasonCode::PacketCounterRefused
        | ReasonCode::SequenceCounterReused => Code::AlreadyExists,
        ReasonCode::DeviceNotActive
        | ReasonCode::KeysetNotActive
        | ReasonCode::RotationNotRunning
        | ReasonCode::NotLeased
        | ReasonCode::OperationNotOpen
        | ReasonCode::OperationExpired
        | ReasonCode::ApprovalsMissing
        | ReasonCode::PolicyViolation
        | ReasonCode::AccreditationEnded
        | ReasonCode::CiNotSupported
        | ReasonCode::TransactionStep
        | ReasonCode::EuiccReportedError
        | ReasonCode::TransportKeyEnded
        | ReasonCode::OutputDigestMismatch => Code::FailedPrecondition,
        ReasonCode::OperationAltered => Code::DataLoss,
        ReasonCode::QuotaExceeded
        | ReasonCode::PacketRateExceeded
        | ReasonCode::PacketCounterExhausted
        | ReasonCode::Overloaded => Code::ResourceExhausted,
        ReasonCode::Conflict => Code::Aborted,
        ReasonCode::TokenUnavailable | ReasonCode::LogUnavailable | ReasonCode::ShuttingDown => {
            Code::Unavailable
        }
        ReasonCode::DeadlineExceeded => Code::DeadlineExceeded,
        ReasonCode::Internal => Code::Internal,
    }
}
