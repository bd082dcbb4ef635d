//! The view at a start: opened and checked beside the walk of the log, then brought to the log's end.

use std::{path::Path, sync::Arc};

use super::{VIEW_DIRECTORY, ViewRecovery, room};
use crate::{
    Home, StoreError,
    batch::Batch,
    disk::Disk,
    keyspace::Keyspaces,
    limits,
    mac::KeyedMac,
    view::{OUTDATED, RowCheck, View, ViewFault, ViewPosition, ViewWrites},
    walk::{LogPlace, Walker},
};

/// A view that is not in use yet. One that fails is dropped, and made again from the log.
pub(super) struct OpenView<'a> {
    path: &'a Path,
    mac: KeyedMac,
    cache_bytes: u64,
    disk: Arc<dyn Disk>,
    view: Option<View>,
    position: ViewPosition,
    pending: ViewWrites,
    reached: Option<(u64, [u8; 32])>,
    /// Under way until the first write.
    check: Option<RowCheck>,
    ended_clean: bool,
    unfit: Option<String>,
}

impl<'a> OpenView<'a> {
    /// Opens the view and begins to check its rows.
    pub fn open(
        path: &'a Path,
        mac: KeyedMac,
        cache_bytes: u64,
        disk: Arc<dyn Disk>,
        ended_clean: bool,
    ) -> Result<Self, StoreError> {
        let mut open = Self {
            path,
            mac,
            cache_bytes,
            disk,
            view: None,
            position: ViewPosition::default(),
            pending: ViewWrites::default(),
            reached: None,
            check: None,
            ended_clean,
            unfit: None,
        };
        // Every row is read, also after a clean end: an old row with its right HMAC, put back while nothing ran, is found
        // by the sum over all of them.
        match open.open_engine() {
            Ok((view, position)) => {
                open.check = Some(view.begin_check(&position));
                (open.view, open.position) = (Some(view), position);
            }
            Err(ViewFault::Busy(reason)) => return Err(StoreError::View { reason }),
            Err(ViewFault::Outdated) => open.unfit = Some(OUTDATED.to_owned()),
            Err(ViewFault::Unfit(reason)) => open.found_unfit(reason),
        }
        Ok(open)
    }

    /// Brings the view to the end of the log that was walked, making it again if it is not to be believed.
    pub fn follow(
        mut self,
        walked: &Walker<'_>,
        keyspaces: &Keyspaces,
    ) -> Result<(View, ViewPosition, ViewRecovery), StoreError> {
        let found = self.position.batch;
        if self.view.is_some() {
            self.catch_up(walked, keyspaces)?;
        }
        if self.view.is_none() {
            self.start_again()?;
            self.catch_up(walked, keyspaces)?;
        }
        let unfit = self.unfit.clone().unwrap_or_default();
        let view = self.view.ok_or(StoreError::View { reason: unfit })?;
        let recovery = match self.unfit {
            Some(reason) => ViewRecovery::Rebuilt { reason },
            None => ViewRecovery::CaughtUp { batches: walked.batch - found },
        };
        Ok((view, self.position, recovery))
    }

    /// Applies the batches that the view has not seen, once its rows are found right. A failure drops the view.
    fn catch_up(&mut self, walked: &Walker<'_>, keyspaces: &Keyspaces) -> Result<(), StoreError> {
        let found = self.position;
        let ahead = |what| Err(StoreError::ViewAheadOfLog { view_batch: found.batch, what });
        if walked.batch < found.batch {
            return ahead("the log ends before it");
        }
        let mut again = walked.again_from(found.batch)?;
        again.run_to(found.batch, |_, _| Ok(()))?;
        if again.hash != found.hash {
            return ahead("another batch has its number here");
        }
        self.settle();
        if self.view.is_some() {
            again.run_to(walked.batch, |batch, place| self.take(batch, place, keyspaces))?;
            self.flush();
        }
        Ok(())
    }

    fn take(&mut self, batch: &Batch<'_>, place: LogPlace, keyspaces: &Keyspaces) -> Result<(), StoreError> {
        batch.each_row_change(place, keyspaces, |home, change| match home {
            // Read from the log already.
            Home::Memory => {}
            Home::View => self.pending.add(change, place),
        })?;
        self.reached = Some((batch.header.number, batch.header_hash));
        if self.pending.rows.len() >= limits::VIEW_WRITES_PER_BATCH_MAX - 1 {
            self.flush();
        }
        Ok(())
    }

    fn found_unfit(&mut self, reason: String) {
        if self.ended_clean {
            tracing::error!(
                reason,
                "the view was changed after it was closed in good order; examine who can write to the disk"
            );
        }
        self.view = None;
        self.unfit = Some(reason);
    }

    /// Waits until every row was looked at; a view that is not to be believed is dropped.
    fn settle(&mut self) {
        if let Some(Err(reason)) = self.check.take().map(RowCheck::finish) {
            self.found_unfit(reason);
        }
    }

    fn start_again(&mut self) -> Result<(), StoreError> {
        let reason = self.unfit.clone().unwrap_or_default();
        // On a full disk sled fails whatever state it is in: a good view is not given up for that.
        room(self.path).map_err(StoreError::io("find room for", VIEW_DIRECTORY))?;
        tracing::warn!(reason, "the view is put aside and made again from the log");
        self.position = ViewPosition::default();
        self.pending = ViewWrites::default();
        self.reached = None;
        View::put_aside(self.path).map_err(StoreError::io("put aside", VIEW_DIRECTORY))?;
        match self.open_engine() {
            Ok((view, position)) => {
                (self.view, self.position) = (Some(view), position);
                Ok(())
            }
            Err(ViewFault::Busy(reason) | ViewFault::Unfit(reason)) => Err(StoreError::View { reason }),
            Err(ViewFault::Outdated) => Err(StoreError::View { reason: OUTDATED.to_owned() }),
        }
    }

    fn open_engine(&self) -> Result<(View, ViewPosition), ViewFault> {
        View::open(self.path, self.mac.clone(), self.cache_bytes, Arc::clone(&self.disk))
    }

    /// Applies what is pending; a failure puts the view out of use.
    fn flush(&mut self) {
        let writes = std::mem::take(&mut self.pending);
        if let (Some(view), Some((batch, hash))) = (&self.view, self.reached.take())
            && let Err(reason) = view.apply(&writes, &mut self.position, batch, hash)
        {
            self.view = None;
            self.unfit = Some(reason);
        }
    }
}
