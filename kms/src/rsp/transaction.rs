//! The row of a transaction, and how many there are.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use domain::{Curve, Eid, ReasonCode, Timestamp};
use ecc::EcPublicKey;
use keys::rsp::TransactionId;
use prost::Message;
use proto::records;
use store::{Change, Precondition, Store};

use super::{TRANSACTION_SECONDS, TRANSACTIONS_MAX};
use crate::KmsError;
use crate::keyspaces::{RSP_EXPIRIES, RSP_TRANSACTIONS};

/// Rows that a count reads at a time.
const ROWS_PER_SCAN: usize = 10_000;
/// A full count is made again at most so often.
const RECOUNT_SECONDS: i64 = 10;

/// Where a transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Our challenge is signed.
    Initiated,
    /// The eUICC has proved itself.
    Authenticated,
    /// A profile is bound to it.
    Bound,
}

impl Step {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Initiated => "initiated",
            Self::Authenticated => "authenticated",
            Self::Bound => "bound",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Initiated, Self::Authenticated, Self::Bound].into_iter().find(|step| step.as_str() == text)
    }
}

/// A transaction that has not expired, of the party that asks.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// Its name.
    pub id: TransactionId,
    /// Where it stands.
    pub step: Step,
    pub(super) record: records::RspTransaction,
    pub(super) version: u64,
}

impl Transaction {
    /// Finds the transaction; those of others, and expired ones, do not exist for the caller.
    pub fn find(store: &dyn Store, provisioner: &str, id: &[u8], now: Timestamp) -> Result<Self, KmsError> {
        let unknown = || {
            KmsError::refused(
                ReasonCode::UnknownTransaction,
                "you have no open transaction of this identifier",
                None,
            )
        };
        let unreadable = || KmsError::Record("RSP transaction");
        let id =
            TransactionId(id.try_into().map_err(|_| {
                KmsError::refused(ReasonCode::InvalidField, "transaction_id has 16 bytes", None)
            })?);
        let row = store.get(RSP_TRANSACTIONS, &id.0)?.ok_or_else(unknown)?;
        let record = records::RspTransaction::decode(&*row.value).map_err(|_| unreadable())?;
        if record.provisioner != provisioner || now.micros() >= record.expires_micros {
            return Err(unknown());
        }
        let step = Step::parse(&record.step).ok_or_else(unreadable)?;
        Ok(Self { id, step, record, version: row.version })
    }

    /// Name of the DPauth key it began with.
    pub fn auth_key(&self) -> &str {
        &self.record.auth_key
    }

    /// Name of the DPpb key it goes on with.
    pub fn pb_key(&self) -> &str {
        &self.record.pb_key
    }

    /// Subject key identifier of the certificate issuer (CI) that both sides use.
    pub fn ci_key_id(&self) -> &[u8] {
        &self.record.ci_key_id
    }

    /// Those of [`Self::serial_numbers`] that were revoked when the eUICC proved itself, and are served.
    pub fn revoked_serial_numbers(&self) -> &[Vec<u8>] {
        &self.record.revoked_serial_numbers
    }

    /// Serial numbers of the eUICC's certificate and of those above it, once it has proved itself.
    pub fn serial_numbers(&self) -> &[Vec<u8>] {
        &self.record.serial_numbers
    }

    /// The eUICC's key, once it has proved itself.
    pub(super) fn euicc_key(&self) -> Result<EcPublicKey, KmsError> {
        // Transactions of before there were others say nothing of the curve.
        let curve = match self.record.euicc_curve {
            0 => Some(Curve::P256),
            code => Curve::from_code(code).ok(),
        };
        curve
            .and_then(|curve| EcPublicKey::from_point(curve, &self.record.euicc_key))
            .ok_or(KmsError::Record("RSP transaction"))
    }

    /// The device, once it has proved itself.
    pub fn eid(&self) -> Result<Eid, KmsError> {
        let bcd: [u8; 16] =
            self.record.eid.as_slice().try_into().map_err(|_| KmsError::Record("RSP transaction"))?;
        Eid::from_bcd(bcd).map_err(|_| KmsError::Record("RSP transaction"))
    }

    /// The writes that make it.
    pub(super) fn create(
        id: TransactionId,
        record: records::RspTransaction,
    ) -> (Vec<Change>, Vec<Precondition>) {
        let expiry = expiry_key(record.expires_micros, &id);
        let changes = vec![
            Change::put(RSP_EXPIRIES, expiry, record.provisioner.as_bytes()),
            Change::put(RSP_TRANSACTIONS, id.0, record.encode_to_vec()),
        ];
        (changes, vec![Precondition::Absent { keyspace: RSP_TRANSACTIONS, key: id.0.to_vec() }])
    }

    /// The write of its next state, and that it was still as it was read.
    pub(super) fn update(&self, step: Step, record: records::RspTransaction) -> (Change, Precondition) {
        let record = records::RspTransaction { step: step.as_str().to_owned(), ..record };
        (Change::put(RSP_TRANSACTIONS, self.id.0, record.encode_to_vec()), self.unchanged())
    }

    pub(super) fn unchanged(&self) -> Precondition {
        Precondition::Version { keyspace: RSP_TRANSACTIONS, key: self.id.0.to_vec(), version: self.version }
    }

    /// The refusal of a call that does not come next.
    pub(super) fn wrong_step(&self, wanted: &str) -> KmsError {
        KmsError::refused(
            ReasonCode::TransactionStep,
            format!("the transaction is {}; this call {wanted}", self.step.as_str()),
            None,
        )
    }
}

pub(super) fn first_step() -> String {
    Step::Initiated.as_str().to_owned()
}

pub(super) fn end_of(now: Timestamp) -> Timestamp {
    now.plus_seconds(TRANSACTION_SECONDS)
}

pub(super) fn expiry_key(expires_micros: i64, id: &TransactionId) -> Vec<u8> {
    [&expires_micros.to_be_bytes()[..], &id.0].concat()
}

/// How many transactions each SM-DP+ has: counted from the rows once, and then as they come and go.
pub struct OpenTransactions {
    counted: Mutex<Option<Count>>,
    max: u32,
}

impl Default for OpenTransactions {
    fn default() -> Self {
        Self::with_room_for(TRANSACTIONS_MAX)
    }
}

struct Count {
    by_provisioner: HashMap<String, u32>,
    at: Timestamp,
}

impl OpenTransactions {
    /// For so many of each SM-DP+.
    pub(super) const fn with_room_for(max: u32) -> Self {
        Self { counted: Mutex::new(None), max }
    }

    /// Takes a place for one more; refused when all are taken. A transaction that is then not committed keeps its place
    /// until the next full count.
    pub(super) fn take(&self, store: &dyn Store, provisioner: &str, now: Timestamp) -> Result<(), KmsError> {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full =
            |count: &Count| count.by_provisioner.get(provisioner).is_some_and(|open| *open >= self.max);
        let is_old = |count: &Count| now >= count.at.plus_seconds(RECOUNT_SECONDS);
        if counted.as_ref().is_none_or(|count| is_full(count) && is_old(count)) {
            *counted = Some(Count { by_provisioner: count_rows(store)?, at: now });
        }
        match counted.as_mut() {
            Some(count) if !is_full(count) => {
                *count.by_provisioner.entry(provisioner.to_owned()).or_default() += 1;
                Ok(())
            }
            _ => Err(KmsError::refused(
                ReasonCode::Overloaded,
                "too many transactions are open; they end after ten minutes",
                None,
            )),
        }
    }

    /// Gives places of expired transactions back.
    pub(super) fn give_back(&self, provisioner: &str) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = counted.as_mut().and_then(|count| count.by_provisioner.get_mut(provisioner)) {
            *open = open.saturating_sub(1);
        }
    }
}

fn count_rows(store: &dyn Store) -> Result<HashMap<String, u32>, KmsError> {
    let mut counts: HashMap<String, u32> = HashMap::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let rows = store.scan(RSP_EXPIRIES, &[], after.as_deref(), ROWS_PER_SCAN)?;
        let is_last = rows.len() < ROWS_PER_SCAN;
        for (key, row) in rows {
            let provisioner = String::from_utf8_lossy(&row.value).into_owned();
            *counts.entry(provisioner).or_default() += 1;
            after = Some(key);
        }
        if is_last {
            return Ok(counts);
        }
    }
}
