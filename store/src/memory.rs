//! The memory keyspaces: authority records, rebuilt from the verified log at each start.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{PoisonError, RwLock},
};

use crate::{Row, Versioned};

type Rows = BTreeMap<Vec<u8>, Versioned>;

/// Rows by keyspace code. One lock over all, so that a commit across keyspaces appears at once.
pub(crate) struct MemoryRows {
    by_code: RwLock<Vec<Rows>>,
}

/// One write to a memory keyspace.
pub(crate) struct MemoryWrite {
    pub code: u8,
    pub key: Vec<u8>,
    pub row: Option<Versioned>,
}

impl MemoryRows {
    pub fn new() -> Self {
        Self { by_code: RwLock::new(vec![Rows::new(); 256]) }
    }

    pub fn apply(&self, writes: impl IntoIterator<Item = MemoryWrite>) {
        let mut writes = writes.into_iter().peekable();
        if writes.peek().is_none() {
            return;
        }
        // A reader that panicked has not changed anything.
        let mut by_code = self.by_code.write().unwrap_or_else(PoisonError::into_inner);
        for write in writes {
            let rows = &mut by_code[usize::from(write.code)];
            match write.row {
                Some(row) => rows.insert(write.key, row),
                None => rows.remove(&write.key),
            };
        }
    }

    pub fn get(&self, code: u8, key: &[u8]) -> Option<Versioned> {
        let by_code = self.by_code.read().unwrap_or_else(PoisonError::into_inner);
        by_code[usize::from(code)].get(key).cloned()
    }

    pub fn scan(&self, code: u8, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Vec<Row> {
        let by_code = self.by_code.read().unwrap_or_else(PoisonError::into_inner);
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        by_code[usize::from(code)]
            .range::<[u8], _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limit)
            .map(|(key, row)| (key.clone(), row.clone()))
            .collect()
    }

    /// Visits every row in order, holding writers back meanwhile.
    pub fn each_row(&self, mut visit: impl FnMut(u8, &[u8], &Versioned)) {
        let by_code = self.by_code.read().unwrap_or_else(PoisonError::into_inner);
        for (code, rows) in (0..=u8::MAX).zip(by_code.iter()) {
            for (key, row) in rows {
                visit(code, key, row);
            }
        }
    }
}
