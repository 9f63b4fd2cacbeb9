use crate::journal::Place;
use crate::ledger::memtable::{Change, Changed, Window, merge};
use sled::IVec;
use std::collections::BTreeMap;
use std::ops::Bound::{Included, Unbounded};

/// The rows as they will be once the changes of a group are taken in: records of one group see each other.
pub struct Overlay<'a> {
    window: &'a Window,
    changed: Changed,
}

impl<'a> Overlay<'a> {
    pub fn new(window: &'a Window) -> Self {
        Self { window, changed: BTreeMap::new() }
    }

    pub fn get(&self, key: &[u8]) -> sled::Result<Option<IVec>> {
        match self.changed.get(key) {
            Some(change) => Ok(change.value.clone()),
            None => self.window.get(key),
        }
    }

    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.change(key, Some(value.into()), false);
    }

    /// Puts a row that cannot be there yet.
    pub fn put_new(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.change(key, Some(value.into()), true);
    }

    pub fn delete(&mut self, key: impl Into<IVec>) {
        self.change(key, None, false);
    }

    fn change(&mut self, key: impl Into<IVec>, value: Option<IVec>, new: bool) {
        merge(&mut self.changed, key.into(), Change { value, new });
    }

    /// All rows whose key starts with `prefix`, in order; at most the last `limit` of those from before the group.
    pub fn scan(&self, prefix: &[u8], limit: usize) -> sled::Result<Vec<(IVec, IVec)>> {
        let before = self.window.prefixed_back(prefix).take(limit);
        let mut rows = before.collect::<sled::Result<BTreeMap<_, _>>>()?;
        let changed = self.changed.range::<[u8], _>((Included(prefix), Unbounded));
        for (key, change) in changed.take_while(|(key, _)| key.starts_with(prefix)) {
            match &change.value {
                Some(value) => drop(rows.insert(key.clone(), value.clone())),
                None => drop(rows.remove(key)),
            }
        }
        Ok(rows.into_iter().collect())
    }

    /// Hands everything to the window at once, with the journal's position behind it if that changed.
    pub fn commit(self, position: Option<Place>) {
        self.window.change(self.changed, position);
    }
}
