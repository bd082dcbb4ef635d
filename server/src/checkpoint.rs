//! Checkpoints: the tree's size and root, signed by the log key off the request path.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use audit::{
    CheckpointBody, LogKey, signature_line, signed_statement, statement_text, verify_checkpoint,
    verify_statement,
};
use hsm::{KeyRef, Token};
use store::{Store, TreeHead};

use crate::foundation::write_durably;
use crate::status::ServiceError;
use crate::tokens::own_call;

/// Signs checkpoints and keeps the newest; never one that is smaller than, or differs from, the one before.
pub(crate) struct Checkpointer {
    store: Arc<dyn Store>,
    token: Token,
    key: KeyRef,
    log_key: LogKey,
    file: PathBuf,
    newest: ArcSwap<Signed>,
    signing: tokio::sync::Mutex<()>,
}

/// A signed checkpoint.
#[derive(Clone)]
pub(crate) struct Signed {
    pub(crate) size: u64,
    pub(crate) note: Vec<u8>,
}

/// The stored checkpoint and the log do not belong together.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckpointError {
    #[error("the stored checkpoint cannot be read")]
    Io(#[from] io::Error),
    #[error("the stored checkpoint does not verify")]
    Verify(#[from] audit::AuditError),
    #[error(
        "alarm: the log has {actual} entries but a checkpoint over {signed} was signed: acknowledged entries are gone"
    )]
    LogShorter { actual: u64, signed: u64 },
    #[error("alarm: the log's first {0} entries are not those of the signed checkpoint")]
    LogDiffers(u64),
}

impl Checkpointer {
    /// Compares the stored checkpoint with the log; what was signed once must still be there.
    pub(crate) fn open(
        store: Arc<dyn Store>,
        token: Token,
        key: KeyRef,
        log_key: LogKey,
        file: PathBuf,
    ) -> Result<Self, CheckpointError> {
        let newest = match std::fs::read(&file) {
            Ok(note) => {
                let body = verify_checkpoint(&note, std::slice::from_ref(&log_key))?.body;
                check_prefix(store.as_ref(), &body)?;
                Signed { size: body.size, note }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Signed { size: 0, note: Vec::new() },
            Err(error) => return Err(error.into()),
        };
        Ok(Self {
            store,
            token,
            key,
            log_key,
            file,
            newest: ArcSwap::from_pointee(newest),
            signing: tokio::sync::Mutex::new(()),
        })
    }

    /// The newest signed checkpoint; of size 0 before the first.
    pub(crate) fn newest(&self) -> Arc<Signed> {
        self.newest.load_full()
    }

    /// The key that signs.
    pub(crate) const fn log_key(&self) -> &LogKey {
        &self.log_key
    }

    /// Signs the current tree unless the newest checkpoint covers it. Durable before it is shown to anybody.
    pub(crate) async fn sign(&self) -> Result<Arc<Signed>, ServiceError> {
        let _one_at_a_time = self.signing.lock().await;
        let newest = self.newest();
        let TreeHead { size, root } = self.store.tree();
        if size <= newest.size {
            return Ok(newest);
        }
        let body = CheckpointBody { origin: self.log_key.name().to_owned(), size, root };
        let text = body.unsigned_text().into_bytes();
        let signature = self.token.sign_message(&self.key, text, own_call(hsm::Priority::Normal)).await?;
        let note = body.signed(&[signature_line(self.log_key.name(), self.log_key.public_key(), &signature)]);
        verify_checkpoint(&note, std::slice::from_ref(&self.log_key))?;
        write_durably(&self.file, &note)
            .map_err(|_| ServiceError::Internal("the checkpoint cannot be stored"))?;
        let signed = Arc::new(Signed { size, note });
        self.newest.store(Arc::clone(&signed));
        Ok(signed)
    }
}

impl Checkpointer {
    /// Signs a statement of the authority: a note of a kind of its own, whose body is one line. Read back before it is
    /// given out.
    pub(crate) async fn sign_statement(&self, kind: &str, body: &str) -> Result<Vec<u8>, ServiceError> {
        let text = statement_text(self.log_key.name(), kind, body)?;
        let message = text.clone().into_bytes();
        let signature = self.token.sign_message(&self.key, message, own_call(hsm::Priority::Normal)).await?;
        let note = signed_statement(&text, &self.log_key, &signature);
        verify_statement(&note, kind, &self.log_key)?;
        Ok(note)
    }
}

fn check_prefix(store: &dyn Store, body: &CheckpointBody) -> Result<(), CheckpointError> {
    let head = store.tree();
    if head.size < body.size {
        return Err(CheckpointError::LogShorter { actual: head.size, signed: body.size });
    }
    let mut frontier = audit::Frontier::new();
    while frontier.size() < body.size {
        let wanted = usize::try_from((body.size - frontier.size()).min(4096)).unwrap_or(4096);
        let entries = store.entries(frontier.size(), wanted).map_err(io::Error::other)?;
        if entries.is_empty() {
            return Err(CheckpointError::LogShorter { actual: frontier.size(), signed: body.size });
        }
        entries.iter().for_each(|entry| frontier.push(audit::leaf_hash(entry)));
    }
    if frontier.root() == body.root { Ok(()) } else { Err(CheckpointError::LogDiffers(body.size)) }
}
