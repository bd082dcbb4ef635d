//! A look at the tokens of a module without logging in to any: what `doctor` asks before it risks a PIN.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::client::{TokenConfig, WorkerCommand, spawn};
use crate::error::HsmError;
use crate::lock::TokenLock;
use crate::protocol::{ToWorker, read_frame, write_frame};

/// How long to wait for workers that are just starting.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);
/// Loading a module and reading its slots takes no longer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

/// An initialised token as CK_TOKEN_INFO shows it to anybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenSeen {
    /// label.
    pub label: String,
    /// serialNumber; an initialisation gives a new one.
    pub serial: String,
    /// model.
    pub model: String,
    /// What the token says about tries of its user PIN.
    pub pin: PinTries,
}

/// How many tries of the user PIN the token says are left. Only `Full` is safe to try without a person's decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PinTries {
    /// No try has failed since the last good one.
    Full,
    /// CKF_USER_PIN_COUNT_LOW: a try has failed since the last good one.
    CountLow,
    /// CKF_USER_PIN_FINAL_TRY: the next failure locks it.
    FinalTry,
    /// CKF_USER_PIN_LOCKED.
    Locked,
    /// No CKF_USER_PIN_INITIALIZED: the token was initialised and has no user PIN.
    NotInitialized,
}

/// Every initialised token of the configured module, seen by a worker process that logs in nowhere. Blocks; holds the
/// token's lock meanwhile, as every start of a worker does. `command` must lead to [`crate::worker::run`].
pub fn inspect(config: &TokenConfig, command: &WorkerCommand) -> Result<Vec<TokenSeen>, HsmError> {
    let _lock = TokenLock::acquire(&config.lock_file, LOCK_PATIENCE, || false)?;
    let failed = |e: std::io::Error| {
        HsmError::token(format!("worker {} does not answer: {e}", command.program.display()))
    };
    let (mut child, stream) = spawn(command, &config.environment).map_err(failed)?;
    let asked = (|| {
        stream.set_read_timeout(Some(ANSWER_TIME_MAX)).map_err(failed)?;
        write_frame(&stream, &ToWorker::Inspect { module: config.module.clone() }).map_err(failed)?;
        read_frame::<Result<Vec<TokenSeen>, HsmError>>(&stream)
            .map_err(failed)?
            .unwrap_or_else(|| Err(HsmError::token("the worker ended while it loaded the PKCS#11 module")))
    })();
    // It leaves by itself once it has answered; one that hangs in its module does not.
    let _ = child.kill();
    let _ = child.wait();
    asked
}
