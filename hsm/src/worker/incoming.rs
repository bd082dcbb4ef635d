//! Device keys that come in, under a party's import key, and are stored under ours.

use cryptoki::mechanism::Mechanism;
use cryptoki::object::ObjectHandle;
use domain::DeviceKeyset;

use super::boundary::Boundary;
use super::import::{self, Wrapping};
use super::open::ResolvedKey;
use super::order::check_value;
use super::stored::{OpenStorage, unwrap_kwp, without_length};
use super::token_session::{SessionObject, TokenSession};
use crate::error::{ErrorClass, HsmError};
use crate::incoming::{IncomingForm, WireIncoming, WireIncomingOutcome};
use crate::template::SessionKeyUse;

/// pySim's IV: `23` sixteen times.
const CELL_IV: [u8; 16] = [0x23; 16];

/// Where keys come from and where they go.
pub(crate) struct Incoming<'k> {
    pub(crate) under: &'k ResolvedKey,
    pub(crate) storage: OpenStorage<'k>,
    pub(crate) wrapping: Wrapping,
    pub(crate) boundary: Boundary,
}

impl Incoming<'_> {
    /// One outcome for each device. A device whose keys do not open spoils no other.
    pub(crate) fn take(
        &self,
        session: &TokenSession,
        job: &WireIncoming,
        mut before_device: impl FnMut() -> Result<(), HsmError>,
    ) -> Result<Vec<WireIncomingOutcome>, HsmError> {
        let columns = self.columns(session, job)?;
        let mut outcomes = Vec::with_capacity(job.devices.len());
        for device in &job.devices {
            before_device()?;
            let keyset = job.kind.of_device(&device.eid)?;
            outcomes.push(self.device(session, &keyset, &device.keys, &columns)?);
        }
        Ok(outcomes)
    }

    fn device(
        &self,
        session: &TokenSession,
        keyset: &DeviceKeyset,
        keys: &[Vec<u8>],
        columns: &[SessionObject<'_>],
    ) -> Result<WireIncomingOutcome, HsmError> {
        let usages = keyset.protocol.usages();
        if keys.len() != usages.len() {
            return Ok(None);
        }
        let mut stored = Vec::with_capacity(usages.len());
        for (at, (usage, key)) in usages.iter().zip(keys).enumerate() {
            let opened = match columns.get(at) {
                Some(column) => Self::decrypt_cell(session, column.handle(), keyset, key)?,
                None => self.unwrap(session, keyset, key)?,
            };
            let Some(opened) = opened else { return Ok(None) };
            let value = check_value(session, opened.handle(), keyset.algorithm)?;
            stored.push((self.storage.store(session, keyset, *usage, opened.handle())?, value));
        }
        Ok(Some(stored))
    }

    /// The key of a KWP wrap, as a session object; `None` when it is no wrap of such a key under the import key.
    fn unwrap<'s>(
        &self,
        session: &'s TokenSession,
        keyset: &DeviceKeyset,
        wrapped: &[u8],
    ) -> Result<Option<SessionObject<'s>>, HsmError> {
        if wrapped.len() != keyset.algorithm.key_bytes() + 8 {
            return Ok(None);
        }
        let template = without_length(SessionKeyUse::Outgoing.attributes_for(keyset.algorithm));
        self.opened(session, unwrap_kwp(session, self.storage.kwp, self.under.handle, wrapped, &template))
    }

    /// A wrap that does not open gives "general error" on some tokens, as a token does that is ill. The import key tells them
    /// apart: it still makes the check value that was recorded.
    fn opened<'s>(
        &self,
        session: &'s TokenSession,
        unwrapped: Result<SessionObject<'s>, HsmError>,
    ) -> Result<Option<SessionObject<'s>>, HsmError> {
        match unwrapped {
            Ok(key) => Ok(Some(key)),
            Err(error) if error.class == ErrorClass::Blob || error.is_ambiguous() => {
                import::wrap_check(session, self.wrapping, self.under.handle).map(|_| None)
            }
            Err(error) => Err(error),
        }
    }

    /// The column keys of a job of cells, as session objects that decrypt; none for a job of wraps.
    fn columns<'s>(
        &self,
        session: &'s TokenSession,
        job: &WireIncoming,
    ) -> Result<Vec<SessionObject<'s>>, HsmError> {
        let IncomingForm::PysimCells(columns) = &job.form else { return Ok(Vec::new()) };
        if matches!(self.boundary, Boundary::InsideOnly) {
            return Err(HsmError::policy(
                "cells of pySim's CSV are decrypted outside the token (inside_only)",
            ));
        }
        let usages = job.kind.protocol()?.usages().len();
        if columns.len() != usages {
            return Err(HsmError::caller(format!("a job of cells has {usages} column keys")));
        }
        let template = without_length(SessionKeyUse::CellDecipher.attributes(0));
        let open = |column: &Vec<u8>| {
            let opened = unwrap_kwp(session, self.storage.kwp, self.under.handle, column, &template);
            self.opened(session, opened)?.ok_or_else(|| {
                HsmError::new(ErrorClass::Blob, "a column key does not open under the import key")
            })
        };
        columns.iter().map(open).collect()
    }

    /// The key in a cell, which is in worker memory between the two calls and zeroized.
    fn decrypt_cell<'s>(
        session: &'s TokenSession,
        column: ObjectHandle,
        keyset: &DeviceKeyset,
        cell: &[u8],
    ) -> Result<Option<SessionObject<'s>>, HsmError> {
        if cell.len() != keyset.algorithm.key_bytes() || !cell.len().is_multiple_of(16) {
            return Ok(None);
        }
        let value = session.decrypt(&Mechanism::AesCbc(CELL_IV), column, cell)?;
        let template = without_length(SessionKeyUse::Outgoing.attributes_for(keyset.algorithm));
        session.create_secret(&template, &value).map(|handle| Some(session.guard(handle)))
    }
}
