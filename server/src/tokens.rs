//! Starting the tokens' workers: this same binary, as `chanceryd hsm-worker`.

use std::time::{Duration, Instant};

use ca::KeyRegistration;
use hsm::{CallOptions, ErrorClass, HsmError, Priority, Token, TokenConfig, WorkerCommand};

use crate::config::{Config, Mode};

/// Argument that makes this binary a worker.
pub(crate) const WORKER: &str = "hsm-worker";
/// Argument that makes this binary a ceremony process.
pub(crate) const CEREMONY_CHILD: &str = "ceremony-child";

/// This binary with an argument.
pub(crate) fn this_binary(argument: &str) -> Result<WorkerCommand, HsmError> {
    let program = std::env::current_exe()
        .map_err(|e| HsmError::new(ErrorClass::Token, format!("the program's own path is unknown: {e}")))?;
    Ok(WorkerCommand { program, args: vec![argument.to_owned()] })
}

/// Starts a token with those of `keys` that are on it.
pub(crate) async fn start(config: &Config, name: &str, keys: &[KeyRegistration]) -> Result<Token, HsmError> {
    let started = start_as(config, configured(config, name)?, keys).await?;
    let report = started.report();
    for sentence in &report.leaves_the_token {
        tracing::info!(token = name, boundary = %sentence);
    }
    for object in &report.unknown_objects {
        tracing::warn!(token = name, object = %object, "an object on the token is not registered");
    }
    Ok(started)
}

/// Starts one worker, beside those of a service that may be running. Keys of others are on the token too.
pub(crate) async fn start_for_ceremony(
    config: &Config,
    name: &str,
    keys: &[KeyRegistration],
) -> Result<Token, HsmError> {
    let mut token = configured(config, name)?;
    (token.workers, token.threads_per_worker) = (1, 1);
    start_as(config, token, keys).await
}

fn configured(config: &Config, name: &str) -> Result<TokenConfig, HsmError> {
    config
        .token(name)
        .cloned()
        .ok_or_else(|| HsmError::new(ErrorClass::Policy, format!("no token {name} is configured")))
}

async fn start_as(
    config: &Config,
    mut token: TokenConfig,
    keys: &[KeyRegistration],
) -> Result<Token, HsmError> {
    let name = token.name.clone();
    let on_token = keys.iter().filter(|key| key.token == name);
    if let Some(key) = on_token.clone().next() {
        token.token_serial = Some(key.token_serial.clone());
    }
    let registered = on_token.map(|key| key.key.clone()).collect();
    let started = Token::start(token, registered, this_binary(WORKER)?).await?;
    let report = started.report();
    if config.mode == Mode::Production && report.model.to_lowercase().contains("softhsm") {
        started.shutdown().await;
        return Err(HsmError::new(
            ErrorClass::Policy,
            format!("token {name} is SoftHSM, which production mode refuses"),
        ));
    }
    tracing::info!(
        token = name, model = %report.model, firmware = %report.firmware, serial = %report.token_serial,
        keys = report.verified_keys.len(), "token ready"
    );
    Ok(started)
}

/// Options of calls that serve no particular caller.
pub(crate) fn own_call(priority: Priority) -> CallOptions {
    CallOptions { deadline: Instant::now() + Duration::from_secs(30), priority }
}
