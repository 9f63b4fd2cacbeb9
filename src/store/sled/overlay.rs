use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;

/// The tree as it will be once the changes of a group are applied: records of one group see each other.
pub struct Overlay<'a> {
    tree: &'a sled::Tree,
    changed: BTreeMap<Vec<u8>, Change>,
}

struct Change {
    value: Option<Vec<u8>>,
    /// The tree has no such row: what comes and goes within a group never reaches it.
    new: bool,
}

impl<'a> Overlay<'a> {
    pub fn new(tree: &'a sled::Tree) -> Self {
        Self { tree, changed: BTreeMap::new() }
    }

    pub fn get(&self, key: &[u8]) -> sled::Result<Option<Vec<u8>>> {
        match self.changed.get(key) {
            Some(change) => Ok(change.value.clone()),
            None => Ok(self.tree.get(key)?.map(|value| value.to_vec())),
        }
    }

    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.change(key, Some(value), false);
    }

    /// Puts a row that the tree cannot have.
    pub fn put_new(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.change(key, Some(value), true);
    }

    pub fn delete(&mut self, key: Vec<u8>) {
        self.change(key, None, false);
    }

    fn change(&mut self, key: Vec<u8>, value: Option<Vec<u8>>, new: bool) {
        match self.changed.entry(key) {
            Entry::Occupied(mut known) => known.get_mut().value = value,
            Entry::Vacant(place) => drop(place.insert(Change { value, new })),
        }
    }

    /// All rows whose key starts with `prefix`, in order, at most `limit` of those in the tree.
    pub fn scan(&self, prefix: &[u8], limit: usize) -> sled::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut rows = BTreeMap::new();
        for row in self.tree.scan_prefix(prefix).rev().take(limit) {
            let (key, value) = row?;
            rows.insert(key.to_vec(), value.to_vec());
        }
        let changed = self.changed.range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded));
        for (key, change) in changed.take_while(|(key, _)| key.starts_with(prefix)) {
            match &change.value {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
        Ok(rows.into_iter().collect())
    }

    /// Applies everything at once.
    pub fn commit(self) -> sled::Result<()> {
        let mut batch = sled::Batch::default();
        for (key, Change { value, new }) in self.changed {
            match value {
                Some(value) => batch.insert(key, value),
                None if new => {}
                None => batch.remove(key),
            }
        }
        self.tree.apply_batch(batch)
    }
}
