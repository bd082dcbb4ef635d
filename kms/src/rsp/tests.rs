//! Transactions against a log of their own, without a token: whose they are, how many, and their end.

use domain::ReasonCode;
use keys::rsp::TransactionId;
use proto::records;
use store::{LogStore, Store as _};
use tempfile::TempDir;

use super::transaction::{OpenTransactions, Transaction, end_of, first_step};
use super::{CODE_TRIES_SECONDS, TRANSACTION_SECONDS, upkeep};
use crate::KmsError;
use crate::keyspaces::{RSP_CODE_ENDS, RSP_CODE_TRIES, RSP_EXPIRIES, RSP_TRANSACTIONS};
use crate::rotation::tests::{NOW, log, write};

fn id(number: u8) -> TransactionId {
    TransactionId([number; 16])
}

fn begin(log: &LogStore, number: u8) {
    let record = records::RspTransaction {
        version: 1,
        provisioner: "otaco".into(),
        step: first_step(),
        expires_micros: end_of(NOW).micros(),
        ..records::RspTransaction::default()
    };
    write(log, Transaction::create(id(number), record).0);
}

fn reason<T>(outcome: Result<T, KmsError>) -> ReasonCode {
    match outcome {
        Err(KmsError::Refused(refused)) => refused.refusal.reason,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("not refused"),
    }
}

#[test]
fn a_transaction_is_there_for_its_own_party_until_it_expires() {
    let directory = TempDir::new().unwrap();
    let log = log(&directory);
    begin(&log, 1);
    let find =
        |party: &str, id: &[u8], seconds| Transaction::find(&log, party, id, NOW.plus_seconds(seconds));
    find("otaco", &[1; 16], TRANSACTION_SECONDS - 1).unwrap();
    for outcome in [
        find("another", &[1; 16], 0),
        find("otaco", &[2; 16], 0),
        find("otaco", &[1; 16], TRANSACTION_SECONDS),
    ] {
        assert_eq!(reason(outcome), ReasonCode::UnknownTransaction);
    }
    assert_eq!(reason(find("otaco", &[1; 15], 0)), ReasonCode::InvalidField);
}

#[test]
fn what_expired_leaves_the_store_a_minute_later_and_gives_its_place_back() {
    let directory = TempDir::new().unwrap();
    let log = log(&directory);
    for number in 1..=3 {
        begin(&log, number);
    }
    let end = NOW.plus_seconds(CODE_TRIES_SECONDS).micros();
    let tries = [store::Change::put(RSP_CODE_TRIES, [9; 32], Vec::new())];
    let ends = store::Change::put(RSP_CODE_ENDS, [&end.to_be_bytes()[..], &[9; 32]].concat(), Vec::new());
    write(&log, tries.into_iter().chain([ends]).collect());
    let rows = |keyspace| log.scan(keyspace, &[], None, 10).unwrap().len();
    let open = OpenTransactions::with_room_for(4);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let keep = |now| runtime.block_on(upkeep(&log, &open, now)).unwrap();

    // The three of the store are counted first.
    open.take(&log, "otaco", NOW).unwrap();
    assert_eq!(reason(open.take(&log, "otaco", NOW)), ReasonCode::Overloaded);
    open.take(&log, "another", NOW).unwrap();

    keep(NOW.plus_seconds(TRANSACTION_SECONDS + 59));
    assert_eq!((rows(RSP_TRANSACTIONS), rows(RSP_EXPIRIES)), (3, 3));
    keep(NOW.plus_seconds(TRANSACTION_SECONDS + 61));
    assert_eq!((rows(RSP_TRANSACTIONS), rows(RSP_EXPIRIES), rows(RSP_CODE_TRIES)), (0, 0, 1));
    for _ in 0..3 {
        open.take(&log, "otaco", NOW).unwrap();
    }
    assert_eq!(reason(open.take(&log, "otaco", NOW)), ReasonCode::Overloaded);
    // What was taken and never committed is found by the next count.
    open.take(&log, "otaco", NOW.plus_seconds(11)).unwrap();

    keep(NOW.plus_seconds(CODE_TRIES_SECONDS + 61));
    assert_eq!((rows(RSP_CODE_TRIES), rows(RSP_CODE_ENDS)), (0, 0));
}
