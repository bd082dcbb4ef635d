//! `chanceryd token-rate`: what the token does by itself, for comparison with the service in front of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use domain::{KeyVersionNumber, KeysetAlgorithm, Protocol, SecurityDomain};
use hsm::{KeyRole, Priority, SessionKeysJob, SignatureAlgorithm, Token};
use keys::derivation::KeysetDerivation;
use serde_json::json;

use crate::command::RateKind;
use crate::config::Config;
use crate::serve::{ServeError, open_records};
use crate::tokens;

/// Jobs in flight: enough to keep every worker busy.
const IN_FLIGHT: usize = 64;

/// Runs one kind of job for a while and reports rate and time inside the token as a line of JSON.
pub(crate) async fn measure(config: &Config, kind: RateKind, seconds: u64) -> Result<String, ServeError> {
    let records = open_records(config).await?;
    let keys = ca::KeyRegistration::all(records.store.as_ref()).map_err(crate::status::ServiceError::from)?;
    let (name, role) = match kind {
        RateKind::SessionKeys => ("kms", KeyRole::Master),
        RateKind::Sign => ("ca", KeyRole::CertificateIssuer),
    };
    let token = tokens::start(config, name, &keys)
        .await
        .map_err(|source| ServeError::Token { token: name, source })?;
    let key = keys
        .iter()
        .find(|key| key.key.role == role)
        .map(|key| key.key.key.clone())
        .ok_or(ServeError::Foundation("the token lacks the key to measure with"))?;
    let before = token.counters();
    let started = Instant::now();
    let end = started + Duration::from_secs(seconds);
    let done = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..IN_FLIGHT as u64)
        .map(|lane| {
            let (token, key, done) = (token.clone(), key.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                let mut counter = lane << 32;
                while Instant::now() < end {
                    counter += 1;
                    if run(&token, &key, kind, counter).await.is_ok() {
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.map_err(|_| ServeError::Foundation("a measuring task failed"))?;
    }
    let elapsed = started.elapsed();
    let after = token.counters();
    token.shutdown().await;
    records.store.shutdown();
    records.log_token.shutdown().await;
    let operations = done.load(Ordering::Relaxed);
    let per = |micros: u64| if operations == 0 { 0.0 } else { micros as f64 / operations as f64 };
    Ok(json!({
        "kind": match kind { RateKind::SessionKeys => "session-keys", RateKind::Sign => "sign" },
        "operations": operations,
        "seconds": elapsed.as_secs_f64(),
        "per_second": operations as f64 / elapsed.as_secs_f64(),
        "token_us_per_operation": per(after.busy_us - before.busy_us),
        "pkcs11_calls_per_operation": per(after.pkcs11_calls - before.pkcs11_calls),
    })
    .to_string())
}

async fn run(token: &Token, key: &hsm::KeyRef, kind: RateKind, counter: u64) -> Result<(), hsm::HsmError> {
    let options = tokens::own_call(Priority::Normal);
    match kind {
        RateKind::Sign => {
            let mut digest = vec![0; 32];
            digest[..8].copy_from_slice(&counter.to_be_bytes());
            token.sign(key, SignatureAlgorithm::EcdsaP256Sha256, vec![digest], options).await.map(drop)
        }
        // Eight zero bytes as cryptogram never match, so this measures up to the check; all the service's session-key
        // calls but the last derivation. The service's own share counts against it in the comparison.
        RateKind::SessionKeys => token.session_keys(session_job(key, counter)?, options).await.map(drop),
    }
}

fn session_job(key: &hsm::KeyRef, counter: u64) -> Result<SessionKeysJob, hsm::HsmError> {
    let wrong = |_| hsm::HsmError::new(hsm::ErrorClass::Caller, "the measuring job is malformed");
    let eid = domain::Eid::from_body(&format!("89049032{:022}", counter & 0xffff_ffff))
        .map_err(|_| hsm::HsmError::new(hsm::ErrorClass::Caller, "the measuring job is malformed"))?;
    Ok(SessionKeysJob {
        master: key.clone(),
        derivation: KeysetDerivation {
            eid,
            protocol: Protocol::Scp03,
            security_domain: SecurityDomain::IsdR,
            kvn: KeyVersionNumber::scp03(0x30).map_err(wrong)?,
            algorithm: KeysetAlgorithm::Aes128,
        },
        host_challenge: counter.to_be_bytes(),
        card_challenge: counter.to_le_bytes(),
        card_cryptogram: [0; 8],
        recipient: [0; 65],
        info: Vec::new(),
    })
}
