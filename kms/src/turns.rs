//! Turns: who changes a count waits for the one before to be durable instead of losing a race.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

/// The one that has a turn.
pub type Turn = OwnedMutexGuard<()>;

/// One turn for each name: of a rotation, of a manufacturer.
#[derive(Default)]
pub struct Turns {
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Turns {
    /// Waits for the turn of a name. Never held while a token works.
    pub async fn turn(&self, name: &str) -> Turn {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(name.to_owned()).or_default())
        };
        turn.lock_owned().await
    }
}
