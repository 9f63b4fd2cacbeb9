//! Bounded per-client state. Clients choose their own number, so the map has a maximum size.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use tokio::time::Instant;

/// Map with expiry of at most `MAX_ENTRIES` entries.
#[derive(Debug)]
pub struct BoundedMap<K, V>(HashMap<K, V>);

/// Value with an expiry.
pub trait Expires {
    /// When the entry expires.
    fn expires_at(&self) -> Instant;
}

impl<K, V> Default for BoundedMap<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash + Copy, V: Expires> BoundedMap<K, V> {
    /// Returns the value, whether or not it has expired.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.0.get(key)
    }

    /// Returns the value, inserted if it is missing. If the map is full, the entry that expires first is removed.
    pub fn get_or_insert_with(&mut self, key: K, now: Instant, new: impl FnOnce() -> V) -> &mut V {
        if self.0.len() >= MAX_ENTRIES && !self.0.contains_key(&key) {
            self.0.retain(|_, value| value.expires_at() > now);
            if self.0.len() >= MAX_ENTRIES {
                let first = self.0.iter().min_by_key(|(_, value)| value.expires_at()).map(|(key, _)| *key);
                first.map(|first| self.0.remove(&first));
            }
        }
        match self.0.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(free) => free.insert(new()),
        }
    }

    /// Remembers it no more.
    pub fn remove(&mut self, key: &K) {
        self.0.remove(key);
    }
}

/// Entries of one register; a few hundred bytes each at most.
pub const MAX_ENTRIES: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    impl Expires for Instant {
        fn expires_at(&self) -> Instant {
            *self
        }
    }

    #[test]
    fn evicts_the_earliest_expiry_when_full() {
        let now = Instant::now();
        let mut register: BoundedMap<usize, Instant> = BoundedMap::default();
        for key in 0..MAX_ENTRIES {
            register.get_or_insert_with(key, now, || now + Duration::from_secs(1 + key as u64));
        }
        register.get_or_insert_with(MAX_ENTRIES, now, || now + Duration::from_secs(5));
        assert_eq!(register.0.len(), MAX_ENTRIES);
        assert!(register.get(&0).is_none() && register.get(&1).is_some());
        register.get_or_insert_with(1, now, || unreachable!());
        let later = now + Duration::from_secs(1000);
        register.get_or_insert_with(MAX_ENTRIES + 1, later, || later + Duration::from_secs(1));
        assert_eq!(register.0.len(), MAX_ENTRIES - 1000 + 1);
        register.remove(&(MAX_ENTRIES + 1));
        assert!(register.get(&(MAX_ENTRIES + 1)).is_none());
    }
}
