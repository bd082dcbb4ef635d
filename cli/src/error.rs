//! What can go wrong, sorted by who must act, and how it is said.

use std::error::Error;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::output::printable;

/// Metadata key with the index of the entry that records a refusal.
const ENTRY_INDEX_HEADER: &str = "chancery-entry-index";

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// An argument or a file of the operator is not what the command needs.
    #[error("{message}")]
    Invalid {
        /// What is wrong with it.
        message: String,
        /// What to do.
        next_step: String,
    },
    /// A file cannot be read or written.
    #[error("cannot {act} {}: {source}", path.display())]
    File {
        /// What was tried.
        act: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The operator said no.
    #[error("not confirmed; nothing was sent")]
    NotConfirmed,
    /// No connection.
    #[error("cannot connect to {server}: {problem}")]
    Connect {
        /// Its address.
        server: String,
        /// The chain of causes.
        problem: String,
    },
    /// The service refused the request or failed at it.
    #[error("{}", .0.message)]
    Refused(Box<Refused>),
    /// The service answered something that does not hold: whoever runs it must look.
    #[error("the answer does not hold: {0}")]
    Answer(String),
    /// A fault on this machine.
    #[error("{0}")]
    Local(String),
}

/// A refusal of the service, as `google.rpc` details describe it.
#[derive(Debug)]
pub struct Refused {
    /// The gRPC code.
    pub code: Code,
    /// The stable reason code; the name of the gRPC code where the service gave none.
    pub reason: String,
    /// For people.
    pub message: String,
    /// What to do.
    pub next_step: Option<String>,
    /// Whether the same request may succeed when sent again unchanged.
    pub retryable: bool,
    /// How long the service asks to wait before that.
    pub retry_after: Option<Duration>,
    /// The idempotency key under which the request can be repeated safely.
    pub idempotency_key: Option<String>,
    /// The log entry that records the refusal.
    pub entry_index: Option<u64>,
}

impl CliError {
    /// An input that the operator must correct.
    pub fn invalid(message: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self::Invalid { message: message.into(), next_step: next_step.into() }
    }

    /// For `map_err` on file operations.
    pub fn file(act: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::File { act, path: path.to_owned(), source }
    }

    /// The stable reason code.
    pub fn reason(&self) -> &str {
        match self {
            Self::Invalid { .. } => "INVALID_INPUT",
            Self::File { .. } => "FILE",
            Self::NotConfirmed => "NOT_CONFIRMED",
            Self::Connect { .. } => "NOT_CONNECTED",
            Self::Refused(refused) => &refused.reason,
            Self::Answer(_) => "ANSWER_DOES_NOT_HOLD",
            Self::Local(_) => "LOCAL_FAULT",
        }
    }

    /// What the reader can do.
    pub fn next_step(&self) -> Option<String> {
        match self {
            Self::Invalid { next_step, .. } => Some(next_step.clone()),
            Self::File { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists => {
                Some("choose a new name, or move the old one away".to_owned())
            }
            Self::File { .. } => Some("check the path and its permissions".to_owned()),
            Self::NotConfirmed => Some("answer yes, or pass --yes".to_owned()),
            Self::Connect { .. } => Some(
                "check the address, that the service runs, and that both certificates are valid and installed"
                    .to_owned(),
            ),
            Self::Refused(refused) => {
                let repeat = refused
                    .idempotency_key
                    .as_ref()
                    .filter(|_| refused.retryable)
                    .map(|key| format!("repeat the command with --idempotency-key {key}"));
                match (&refused.next_step, repeat) {
                    (Some(step), Some(repeat)) => Some(format!("{step}; {repeat}")),
                    (Some(step), None) => Some(step.clone()),
                    (None, repeat) => repeat,
                }
            }
            Self::Answer(_) => Some("tell whoever runs the authority; do not use the answer".to_owned()),
            Self::Local(_) => None,
        }
    }

    /// The log entry that records the refusal.
    pub const fn entry_index(&self) -> Option<u64> {
        match self {
            Self::Refused(refused) => refused.entry_index,
            Self::Invalid { .. }
            | Self::File { .. }
            | Self::NotConfirmed
            | Self::Connect { .. }
            | Self::Answer(_)
            | Self::Local(_) => None,
        }
    }

    /// Whether the same command may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect { .. } => true,
            Self::Refused(refused) => refused.retryable,
            Self::Invalid { .. }
            | Self::File { .. }
            | Self::NotConfirmed
            | Self::Answer(_)
            | Self::Local(_) => false,
        }
    }
}

/// Reads `ErrorInfo`, `LocalizedMessage` and `RetryInfo` where the service sent them.
impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == "chancery");
        let metadata = |key: &str| info.and_then(|info| info.metadata.get(key));
        let message = details.localized_message().map_or(status.message(), |localized| &localized.message);
        // A status that this side made keeps what happened in its sources.
        let message = match (message.is_empty(), status.source()) {
            (_, Some(source)) => format!("{message}: {}", chain(source)),
            (true, None) => format!("the service answered {:?}", status.code()),
            (false, None) => message.to_owned(),
        };
        let code = if connection_broke(&status) { Code::Unavailable } else { status.code() };
        Self {
            code,
            reason: info.map_or_else(|| code_name(code).to_owned(), |info| printable(&info.reason)),
            message: printable(&message),
            next_step: metadata("next_step").map(|step| printable(step)),
            retryable: metadata("retryable")
                .map_or(code == Code::Unavailable, |retryable| retryable == "true"),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
            idempotency_key: None,
            entry_index: status
                .metadata()
                .get(ENTRY_INDEX_HEADER)
                .and_then(|value| value.to_str().ok())
                .and_then(|value| value.parse().ok()),
        }
    }
}

impl From<Status> for CliError {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status.into()))
    }
}

/// Whether the connection ended under the call. tonic says `Unknown` then, with what happened as the source; a status
/// that the service sent has no source.
fn connection_broke(status: &Status) -> bool {
    status.code() == Code::Unknown
        && status.source().is_some_and(|cause| {
            cause.is::<tonic::transport::Error>()
                || caused_by_io(cause, |kind| {
                    matches!(
                        kind,
                        ErrorKind::ConnectionReset
                            | ErrorKind::ConnectionAborted
                            | ErrorKind::BrokenPipe
                            | ErrorKind::UnexpectedEof
                    )
                })
        })
}

/// Whether an error of the system, of a kind that is looked for, is among the causes.
pub fn caused_by_io(error: &(dyn Error + 'static), which: impl Fn(ErrorKind) -> bool) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<std::io::Error>().is_some_and(|io| which(io.kind())) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// A cause and its causes, once each.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

/// The name of a gRPC code as its specification writes it.
const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn a_refusal_shows_reason_message_and_next_step_of_the_details() {
        let mut details = ErrorDetails::new();
        details
            .set_error_info(
                "TOKEN_UNAVAILABLE",
                "chancery",
                [
                    ("retryable".to_owned(), "true".to_owned()),
                    ("next_step".to_owned(), "retry after the given delay".to_owned()),
                ],
            )
            .set_retry_info(Some(Duration::from_millis(250)))
            .set_localized_message("en", "the token is being replaced");
        let mut status = Status::with_error_details(Code::Unavailable, "outside", details);
        status.metadata_mut().insert(ENTRY_INDEX_HEADER, 17.into());
        let mut refused = Refused::from(status);
        assert_eq!(refused.reason, "TOKEN_UNAVAILABLE");
        assert_eq!(refused.message, "the token is being replaced");
        assert_eq!(refused.retry_after, Some(Duration::from_millis(250)));
        assert!(refused.retryable);
        assert_eq!(refused.entry_index, Some(17));
        refused.idempotency_key = Some("k1".to_owned());
        let error = CliError::Refused(Box::new(refused));
        assert_eq!(
            error.next_step().unwrap(),
            "retry after the given delay; repeat the command with --idempotency-key k1"
        );
    }

    #[test]
    fn a_connection_that_ended_under_a_call_can_be_tried_again() {
        let reset = || std::io::Error::from(ErrorKind::ConnectionReset);
        let refused = Refused::from(Status::from_error(Box::new(reset())));
        assert_eq!((refused.reason.as_str(), refused.retryable), ("UNAVAILABLE", true));
        for other in [Status::unknown("said by the service"), Status::from_error("no transport".into())] {
            let refused = Refused::from(other);
            assert_eq!((refused.reason.as_str(), refused.retryable), ("UNKNOWN", false));
        }
    }

    #[test]
    fn details_of_another_domain_are_not_believed_and_texts_cannot_move_the_cursor() {
        let details = ErrorDetails::with_error_info(
            "REASON",
            "elsewhere",
            [("retryable".to_owned(), "true".to_owned())],
        );
        let refused =
            Refused::from(Status::with_error_details(Code::PermissionDenied, "no\x1b[2Jway", details));
        assert_eq!(refused.reason, "PERMISSION_DENIED");
        assert!(!refused.retryable);
        assert_eq!(refused.message, "no\\u{1b}[2Jway");
    }
}
