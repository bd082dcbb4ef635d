//! What the daemon does without being called: checkpoints, counted handshakes, the next year's pseudonyms, revocation
//! lists, the steps of rotations, and the keysets behind compromised keys.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use audit::{EntryDraft, EventType, Fact, Outcome};
use ca::{About, KeyRegistration};
use domain::ReasonCode;
use hsm::{CallOptions, Priority, Token};
use kms::keysets;
use kms::{Turns, rotation};
use store::Commit;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::execution::issue;
use crate::gate::chain;
use crate::http::Window;
use crate::init::pseudonyms;
use crate::server_identity::{IdentityError, ServerIdentity};
use crate::status::ServiceError;

/// How often each of the tasks looks whether something is due.
const TICK: Duration = Duration::from_secs(1);
/// How often revocation lists are looked at when nothing happens: to be renewed with age.
const LISTS_TICK: Duration = Duration::from_secs(30);
/// Commits that the keysets behind compromised keys get per tick.
const TAINT_STEPS_PER_TICK: usize = 50;
/// What signing a revocation list may take.
const LIST_DEADLINE: Duration = Duration::from_secs(30);

/// Everything the tasks need.
#[derive(Clone)]
pub(crate) struct Upkeep {
    pub(crate) window: Window,
    pub(crate) log_token: Token,
    pub(crate) yearly: KeyRegistration,
    pub(crate) kms: kms::Engines,
    pub(crate) rotations: Arc<Turns>,
    /// Where there is a token for keys of SM-DP+.
    pub(crate) rsp: Option<kms::rsp::Engines>,
    /// Told when an operation was executed: it may have been a revocation.
    pub(crate) revoked: Arc<Notify>,
    pub(crate) identity: Arc<ServerIdentity>,
    /// Certificates whose OCSP answers are signed ahead.
    pub(crate) ocsp_answers_ahead: usize,
}

impl Upkeep {
    /// Starts the tasks. Each has its own pace: a token that hangs delays no other.
    pub(crate) fn start(self, stopped: &watch::Receiver<bool>) -> Vec<JoinHandle<()>> {
        let (log, lists, answers, rotations, transactions, taint) =
            (self.clone(), self.clone(), self.clone(), self.clone(), self.clone(), self);
        vec![
            tokio::spawn(log.keep_log(stopped.clone())),
            tokio::spawn(lists.keep_lists(stopped.clone())),
            tokio::spawn(answers.keep_answers(stopped.clone())),
            tokio::spawn(rotations.keep_rotations(stopped.clone())),
            tokio::spawn(transactions.keep_transactions(stopped.clone())),
            tokio::spawn(taint.keep_taint(stopped.clone())),
        ]
    }

    async fn keep_log(self, mut stopped: watch::Receiver<bool>) {
        let window = &self.window;
        let mut ticks = ticks();
        let mut handshakes = 0;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stopped.wait_for(|stop| *stop) => return,
            }
            let refused = window.gate.counters.handshakes_refused.load(Ordering::Relaxed);
            if refused > handshakes {
                let outcome = Outcome::Refused(ReasonCode::UnknownPrincipal);
                let entry = EntryDraft::new(EventType::HandshakeRefused, outcome)
                    .fact("count", Fact::Number(refused - handshakes));
                if window.ca.store.commit(Commit::of(vec![entry])).await.is_ok() {
                    handshakes = refused;
                }
            }
            let now = window.gate.clock.now();
            if now.year() != window.gate.pseudonyms.load().year() {
                match pseudonyms(&self.log_token, &self.yearly, now).await {
                    Ok(names) => window.gate.pseudonyms.store(Arc::new(names)),
                    Err(error) => tracing::error!(error = %chain(&error), "no pseudonyms for the new year"),
                }
            }
            if let Err(error) = window.checkpointer.sign().await {
                tracing::error!(error = %chain(&error), "no checkpoint");
            }
        }
    }

    /// A list that is due is published: the first one, one after half of the validity, and one after each revocation. A
    /// crash between revocation and list heals here.
    async fn keep_lists(self, mut stopped: watch::Receiver<bool>) {
        let engines = &self.window.ca;
        // Whoever changes an index says so. By itself it is looked at again soon only after something went wrong: an index of
        // many certificates takes time to read.
        let mut again = TICK;
        loop {
            tokio::select! {
                () = tokio::time::sleep(again) => {}
                () = self.revoked.notified() => {}
                _ = stopped.wait_for(|stop| *stop) => return,
            }
            if let Err(error) = self.renew_server().await {
                tracing::error!(error = %chain(&error), "the server has no new certificate");
            }
            for issuer in own_issuers(engines) {
                if let Err(error) = self.renew_responder(&issuer).await {
                    tracing::error!(%issuer, error = %chain(&error), "an OCSP responder has no new certificate");
                }
            }
            again = TICK;
            let due = match ca::crls_due(engines, self.window.gate.clock.now()) {
                Ok(due) => due,
                Err(error) => {
                    tracing::error!(error = %chain(&error), "cannot tell which revocation lists are due");
                    continue;
                }
            };
            if due.is_empty() {
                again = LISTS_TICK;
            }
            for list in due {
                let options =
                    CallOptions { deadline: Instant::now() + LIST_DEADLINE, priority: Priority::Incident };
                let now = self.window.gate.clock.now();
                match ca::publish_crl(engines, &list.list, now, options).await {
                    Ok(made) => tracing::info!(
                        list = %list.list,
                        number = made.number,
                        entries = made.entries,
                        "revocation list published"
                    ),
                    Err(error) => {
                        tracing::error!(list = %list.list, error = %chain(&error), "no revocation list");
                    }
                }
            }
        }
    }

    /// As the responder's, with a new key: before the certificate ends after which nobody could call.
    async fn renew_server(&self) -> Result<(), IdentityError> {
        let gate = &self.window.gate;
        let now = gate.clock.now();
        if self.identity.is_due(now) {
            let name = gate.pseudonyms.load().party(self.identity.node());
            let about = About { role: None, actor: name, object: name };
            self.identity.renew(&self.window.ca, &about, now).await?;
            tracing::info!("the server has a new certificate");
        }
        Ok(())
    }

    /// The responder's certificate ends after three months and is renewed at half of that, by nobody's order: it is the
    /// service's own, and the entries say so.
    async fn renew_responder(&self, issuer: &str) -> Result<(), ServiceError> {
        let gate = &self.window.gate;
        let now = gate.clock.now();
        let Some(request) = ca::responder_due(&self.window.ca, issuer, now)? else {
            return Ok(());
        };
        let name = gate.pseudonyms.load().party(&request.holder);
        let about = About { role: None, actor: name, object: name };
        let issued = issue(&self.window.ca, request, &about, now).await?;
        let (entry, changes, preconditions) = issued.outcome(&about);
        self.window.ca.store.commit(Commit { entries: vec![entry], changes, preconditions }).await?;
        tracing::info!(%issuer, "the OCSP responder has a new certificate");
        Ok(())
    }

    /// Answers of OCSP are signed ahead, and renewed before they are old.
    async fn keep_answers(self, mut stopped: watch::Receiver<bool>) {
        if self.ocsp_answers_ahead == 0 {
            return;
        }
        let (window, mut ticks) = (&self.window, tokio::time::interval(LISTS_TICK));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stopped.wait_for(|stop| *stop) => return,
            }
            let options =
                || CallOptions { deadline: Instant::now() + LIST_DEADLINE, priority: Priority::Bulk };
            let ahead = window.responder.sign_ahead(
                &window.ca,
                self.ocsp_answers_ahead,
                window.gate.clock.now(),
                options,
            );
            tokio::select! {
                made = ahead => if let Err(error) = made {
                    tracing::error!(error = %chain(&error), "no OCSP answers are signed ahead");
                },
                _ = stopped.wait_for(|stop| *stop) => return,
            }
        }
    }

    async fn keep_rotations(self, mut stopped: watch::Receiver<bool>) {
        let mut ticks = ticks();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stopped.wait_for(|stop| *stop) => return,
            }
            let gate = &self.window.gate;
            let (names, now) = (gate.pseudonyms.load_full(), gate.clock.now());
            if let Err(error) = rotation::upkeep(&self.kms, &self.rotations, &names, now).await {
                tracing::error!(error = %chain(&error), "a rotation does not proceed");
            }
        }
    }

    /// Writes down, step by step, what a key that was marked as compromised means for the keysets behind it. A step that
    /// loses a race over a row is made again; one that a stop cut off too.
    async fn keep_taint(self, mut stopped: watch::Receiver<bool>) {
        let mut ticks = ticks();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stopped.wait_for(|stop| *stop) => return,
            }
            for _ in 0..TAINT_STEPS_PER_TICK {
                let names = self.window.gate.pseudonyms.load_full();
                let store = Arc::clone(&self.kms.store);
                let step = tokio::task::block_in_place(|| keysets::walk(store.as_ref(), &names));
                let outcome = match step {
                    Ok(None) => break,
                    Ok(Some(commit)) => store.commit(commit).await.map(drop).map_err(kms::KmsError::from),
                    Err(error) => Err(error),
                };
                match outcome {
                    Ok(()) | Err(kms::KmsError::Commit(store::CommitError::PreconditionFailed { .. })) => {}
                    Err(error) => {
                        tracing::error!(error = %chain(&error), "keysets behind a compromised key are not written down");
                        break;
                    }
                }
            }
        }
    }
}

impl Upkeep {
    async fn keep_transactions(self, mut stopped: watch::Receiver<bool>) {
        let Some(engines) = &self.rsp else { return };
        let mut ticks = ticks();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stopped.wait_for(|stop| *stop) => return,
            }
            if let Err(error) =
                kms::rsp::upkeep(engines.store.as_ref(), &engines.open, self.window.gate.clock.now()).await
            {
                tracing::error!(error = %chain(&error), "expired RSP transactions stay");
            }
        }
    }
}

fn ticks() -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}

/// Names of the authority's certified issuers.
pub(crate) fn own_issuers(engines: &ca::Engines) -> Vec<String> {
    let issuers = engines.issuers.all(engines.store.as_ref()).unwrap_or_else(|error| {
        tracing::error!(error = %chain(&error), "the issuers cannot be read");
        Vec::new()
    });
    let own = issuers.iter().filter(|issuer| issuer.party.is_empty() && issuer.certificate.is_some());
    own.map(|issuer| issuer.name.clone()).collect()
}
