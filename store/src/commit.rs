//! The answer to a commit.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use domain::Timestamp;
use tokio::sync::oneshot;

/// Proof that a commit is durable and visible.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// The index of its first entry; the others follow.
    pub first_index: u64,
    /// The time in its first entry.
    pub time: Timestamp,
    /// RFC 6962 §2.1: the leaf hash of each entry, in order.
    pub leaf_hashes: Vec<[u8; 32]>,
}

/// Why a commit did not happen, or (`Stopped`) may not have.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CommitError {
    /// A precondition did not hold; nothing was written. Read again and decide again.
    #[error("a row of {keyspace} is not as the commit expected")]
    PreconditionFailed {
        /// The keyspace of the first precondition that failed.
        keyspace: &'static str,
    },
    /// The queue is full; nothing was written. Retry later.
    #[error("the commit queue is full")]
    Overloaded,
    /// An entry, a row or the whole is larger than the limits; nothing was written.
    #[error("the commit is too large: {what}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
    },
    /// The commit has no entry or names a keyspace the store was not opened with; nothing was written.
    #[error("the commit is malformed: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// The store stopped acknowledging. If the commit was under way its outcome is unknown until the next start.
    #[error("the store has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: Arc<str>,
    },
    /// The store is being closed; nothing was written.
    #[error("the store is shutting down")]
    ShuttingDown,
}

pub(crate) type Outcome = Result<Receipt, CommitError>;

/// Set once, by whoever finds that the store must not acknowledge any more.
#[derive(Default)]
pub(crate) struct StopSwitch {
    reason: OnceLock<Arc<str>>,
    closing: AtomicBool,
}

impl StopSwitch {
    /// Stops the store; the first reason stands.
    pub fn stop(&self, reason: impl Into<Arc<str>>) {
        let reason = reason.into();
        if self.reason.set(Arc::clone(&reason)).is_ok() {
            tracing::error!(%reason, "the store stops acknowledging");
        }
    }

    pub fn reason(&self) -> Option<Arc<str>> {
        self.reason.get().cloned()
    }

    /// Notes that the end is wanted: from here on commits are refused, not lost.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// What a commit without an answer is told.
    pub fn error(&self) -> CommitError {
        match self.reason() {
            Some(reason) => CommitError::Stopped { reason },
            None if self.is_closing() => CommitError::ShuttingDown,
            None => CommitError::Stopped { reason: "the committer ended without an answer".into() },
        }
    }
}

/// The pending answer to a commit: a future, or [`CommitTicket::wait`] outside async code.
///
/// Dropping it does not withdraw the commit.
#[must_use = "a commit is only known to be durable once its ticket has resolved"]
pub struct CommitTicket {
    state: State,
}

enum State {
    Decided(Option<CommitError>),
    Pending { answer: oneshot::Receiver<Outcome>, switch: Arc<StopSwitch> },
}

impl CommitTicket {
    pub(crate) fn refused(error: CommitError) -> Self {
        Self { state: State::Decided(Some(error)) }
    }

    pub(crate) fn pending(answer: oneshot::Receiver<Outcome>, switch: Arc<StopSwitch>) -> Self {
        Self { state: State::Pending { answer, switch } }
    }

    /// Blocks the thread until the outcome is known.
    ///
    /// # Panics
    /// When called on a thread that drives async tasks; `await` the ticket there.
    pub fn wait(self) -> Result<Receipt, CommitError> {
        match self.state {
            State::Decided(error) => Err(error.unwrap_or(CommitError::ShuttingDown)),
            State::Pending { answer, switch } => {
                answer.blocking_recv().unwrap_or_else(|_| Err(switch.error()))
            }
        }
    }
}

impl Future for CommitTicket {
    type Output = Result<Receipt, CommitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.state {
            State::Decided(error) => Poll::Ready(Err(error.take().unwrap_or(CommitError::ShuttingDown))),
            State::Pending { answer, switch } => match Pin::new(answer).poll(context) {
                Poll::Ready(Ok(outcome)) => Poll::Ready(outcome),
                Poll::Ready(Err(_)) => Poll::Ready(Err(switch.error())),
                Poll::Pending => Poll::Pending,
            },
        }
    }
}
