//! Chunks of orders that certify nothing: further keysets for registered devices, and devices that move in.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use audit::{EntryDraft, Outcome};
use domain::{Eid, ReasonCode, Refusal};
use hsm::{CallOptions, Priority};
use kms::{Fleet, LineCheck, MovingDevice, OrderLine, Orders};
use proto::v1;
use store::Commit;

use super::{CHUNK_TIME, OrderStream, refused};
use crate::gate::request_digest;
use crate::status::ServiceError;

impl OrderStream {
    /// A chunk of further keysets: steps 2, 3, 7 and 9. Nothing is reserved before the token is asked, for nothing that it
    /// does lasts: keys of a chunk that is not recorded are derived again.
    pub(super) async fn try_further_keysets(
        &mut self,
        lines: &[v1::OrderLine],
    ) -> Result<Vec<v1::OrderLineResult>, ServiceError> {
        let desk = Arc::clone(&self.desk);
        let (manufacturer, terms) = (self.manufacturer.clone(), self.terms.clone());
        let orders = Orders::open(&desk.kms, &manufacturer, &terms, &self.call.pseudonyms, self.call.now)?;
        let (mut results, mut refusals) = (Vec::with_capacity(lines.len()), Vec::<EntryDraft>::new());
        let (mut wanted, mut eids, mut numbers) = (Vec::new(), HashSet::new(), HashSet::new());
        for line in lines {
            match self.check_line(&orders, line, 0, (&mut eids, &mut numbers)) {
                Ok(LineCheck::New) => wanted.push(self.order_line(line)?),
                Ok(LineCheck::Repeated(_)) => {
                    results.push(keyset_made(line.line));
                    self.accepted += 1;
                }
                Ok(LineCheck::Refused(refusal)) => {
                    let error = self.about(self.order_line(line)?.eid, refusal);
                    self.refuse_line(line, error, &mut refusals, &mut results)?;
                }
                Err(error) => self.refuse_line(line, error, &mut refusals, &mut results)?,
            }
        }
        if !refusals.is_empty() {
            desk.kms.store.commit(Commit::of(refusals)).await?;
        }
        if !wanted.is_empty() {
            let reserved = orders.registered_lines(&wanted)?;
            let options = CallOptions { deadline: Instant::now() + CHUNK_TIME, priority: Priority::Bulk };
            let keys = orders.make_keys(&reserved, options).await?;
            self.finish(&orders, &reserved, &[], &[], &keys, None).await?;
            self.accepted += wanted.len() as u64;
            results.extend(wanted.iter().map(|line| keyset_made(line.line)));
        }
        results.sort_by_key(|result| result.line);
        Ok(results)
    }

    /// A chunk of devices that move in: steps 2, 3 and 9. The token computes check values; nothing is made.
    pub(super) async fn try_moving_in(
        &mut self,
        fleet: &Fleet,
        lines: &[v1::OrderLine],
    ) -> Result<Vec<v1::OrderLineResult>, ServiceError> {
        let desk = Arc::clone(&self.desk);
        let (manufacturer, terms) = (self.manufacturer.clone(), self.terms.clone());
        let orders = Orders::open(&desk.kms, &manufacturer, &terms, &self.call.pseudonyms, self.call.now)?;
        let mut results = Vec::with_capacity(lines.len());
        let mut refusals: Vec<EntryDraft> = Vec::new();
        let mut moving: Vec<(MovingDevice, &v1::OrderLine)> = Vec::new();
        let (mut eids, mut numbers) = (HashSet::new(), HashSet::new());
        for line in lines {
            let checked = self.check_line(&orders, line, moving.len() as u64, (&mut eids, &mut numbers));
            let checked = checked.and_then(|checked| match checked {
                LineCheck::New => {
                    let order_line = self.order_line(line)?;
                    orders
                        .moving_device(
                            fleet,
                            order_line,
                            (&line.scheme_inputs, &line.wrapped_keys),
                            &line.check_values,
                        )
                        .map(Some)
                        .map_err(|refusal| self.about(order_line.eid, refusal))
                }
                LineCheck::Repeated(check_values) => {
                    results.push(moved_in(line.line, check_values));
                    Ok(None)
                }
                LineCheck::Refused(refusal) => Err(self.about(self.order_line(line)?.eid, refusal)),
            });
            match checked {
                Ok(Some(device)) => moving.push((device, line)),
                Ok(None) => self.accepted += 1,
                Err(error) => self.refuse_line(line, error, &mut refusals, &mut results)?,
            }
        }
        let devices: Vec<_> = moving.iter().map(|(device, _)| device.clone()).collect();
        let options = CallOptions { deadline: Instant::now() + CHUNK_TIME, priority: Priority::Bulk };
        let found = if devices.is_empty() {
            Vec::new()
        } else {
            orders.look_at(fleet, &devices, self.call.now, options).await?
        };
        let mut known = Vec::with_capacity(devices.len());
        for ((device, line), found) in moving.into_iter().zip(found) {
            match found {
                Ok(moved_in) => known.push(moved_in),
                Err(refusal) => {
                    let error = self.about(device.line.eid, refusal);
                    self.refuse_line(line, error, &mut refusals, &mut results)?;
                }
            }
        }
        let _turn = desk.turns.turn(&self.manufacturer.name).await;
        let mut commit = if known.is_empty() {
            Commit::of(Vec::new())
        } else {
            orders.move_in(&self.call.pseudonyms, fleet, &known, self.call.now)?
        };
        commit.entries.extend(refusals);
        if !commit.entries.is_empty() {
            commit.preconditions.push(self.call.caller.unchanged());
            desk.kms.store.commit(commit).await?;
        }
        self.accepted += known.len() as u64;
        let octets = |values: &[_]| kms::check_value_octets(values);
        results.extend(known.iter().map(|device| moved_in(device.line.line, octets(&device.check_values))));
        results.sort_by_key(|result| result.line);
        Ok(results)
    }

    /// A line without a key: its number and EID are new to the chunk, and what the order's records say of it.
    fn check_line(
        &self,
        orders: &Orders<'_>,
        line: &v1::OrderLine,
        taken: u64,
        (eids, numbers): (&mut HashSet<Eid>, &mut HashSet<u64>),
    ) -> Result<LineCheck, ServiceError> {
        let order_line = self.order_line(line)?;
        let about = |reason, message| Err(self.about(order_line.eid, Refusal::new(reason, message)));
        if line.line == 0 || !numbers.insert(line.line) {
            return about(ReasonCode::InvalidField, "line numbers start at 1 and are unique");
        }
        if line.key.is_some() {
            return about(ReasonCode::InvalidField, "nothing is certified: the line has no key");
        }
        let checked = orders.check(&order_line, taken)?;
        if matches!(checked, LineCheck::New) && !eids.insert(order_line.eid) {
            return about(ReasonCode::DuplicateDevice, "the EID stands twice in this order");
        }
        Ok(checked)
    }

    fn order_line(&self, line: &v1::OrderLine) -> Result<OrderLine, ServiceError> {
        let eid = crate::deeds::parse_eid(&line.eid)?;
        Ok(OrderLine { line: line.line, eid, digest: request_digest("order-line", line) })
    }

    /// A refusal about a device.
    fn about(&self, eid: Eid, refusal: Refusal) -> ServiceError {
        let object = Some(self.call.pseudonyms.device(&eid));
        ServiceError::Kms(kms::KmsError::Refused(kms::Refused { refusal, object }))
    }

    /// A line that is refused alone; what is no refusal ends the chunk.
    fn refuse_line(
        &mut self,
        line: &v1::OrderLine,
        error: ServiceError,
        refusals: &mut Vec<EntryDraft>,
        results: &mut Vec<v1::OrderLineResult>,
    ) -> Result<(), ServiceError> {
        let verdict = error.verdict();
        if matches!(verdict.outcome, Outcome::Failed(_)) {
            return Err(error);
        }
        refusals.push(self.refusal(line, &verdict.refusal, verdict.object));
        results.push(refused(line.line, verdict.refusal));
        self.refused += 1;
        Ok(())
    }
}

fn keyset_made(line: u64) -> v1::OrderLineResult {
    v1::OrderLineResult { line, result: Some(v1::order_line_result::Result::KeysetMade(true)) }
}

fn moved_in(line: u64, check_values: Vec<u8>) -> v1::OrderLineResult {
    v1::OrderLineResult { line, result: Some(v1::order_line_result::Result::MovedIn(check_values)) }
}
