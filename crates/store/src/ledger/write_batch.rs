//! Changes of one group of records, which see each other before they reach the memtable.

use crate::ledger::memtable::{Memtable, RowChange, RowChanges, merge_change};
use crate::position::Position;
use sled::IVec;
use std::collections::BTreeMap;
use std::ops::Bound::{Included, Unbounded};

/// Rows as they will be after a group of records: records of one group see each other's changes.
pub struct WriteBatch<'a> {
    memtable: &'a Memtable,
    changes: RowChanges,
}

impl<'a> WriteBatch<'a> {
    pub fn new(memtable: &'a Memtable) -> Self {
        Self { memtable, changes: BTreeMap::new() }
    }

    pub fn get(&self, key: &[u8]) -> sled::Result<Option<IVec>> {
        match self.changes.get(key) {
            Some(change) => Ok(change.value.clone()),
            None => self.memtable.get(key),
        }
    }

    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.record_change(key, Some(value.into()), false);
    }

    /// Inserts a row that cannot exist yet.
    pub fn put_new(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.record_change(key, Some(value.into()), true);
    }

    pub fn delete(&mut self, key: impl Into<IVec>) {
        self.record_change(key, None, false);
    }

    fn record_change(&mut self, key: impl Into<IVec>, value: Option<IVec>, is_insert: bool) {
        merge_change(&mut self.changes, key.into(), RowChange { value, is_insert });
    }

    /// Returns all rows with a key that starts with `prefix`, in order, but only the last `limit` of those from
    /// before the group.
    pub fn scan_prefix(&self, prefix: &[u8], limit: usize) -> sled::Result<Vec<(IVec, IVec)>> {
        let before = self.memtable.scan_prefix_rev(prefix).take(limit);
        let mut rows = before.collect::<sled::Result<BTreeMap<_, _>>>()?;
        let changed = self.changes.range::<[u8], _>((Included(prefix), Unbounded));
        for (key, change) in changed.take_while(|(key, _)| key.starts_with(prefix)) {
            match &change.value {
                Some(value) => drop(rows.insert(key.clone(), value.clone())),
                None => drop(rows.remove(key)),
            }
        }
        Ok(rows.into_iter().collect())
    }

    /// Moves all changes into the memtable at once, with the new journal position if it changed.
    pub fn commit(self, position: Option<Position>) {
        self.memtable.apply_changes(self.changes, position);
    }
}
