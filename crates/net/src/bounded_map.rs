use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use tokio::time::Instant;

/// What is remembered of strangers, of [`MOST`] at once: they choose how many they are.
#[derive(Debug)]
pub struct Register<K, V>(HashMap<K, V>);

/// Something that is worth remembering for a while.
pub trait Fades {
    /// From then on it says no more than its absence.
    fn fades(&self) -> Instant;
}

impl<K, V> Default for Register<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash + Copy, V: Fades> Register<K, V> {
    /// What is remembered.
    pub fn recall(&self, key: &K) -> Option<&V> {
        self.0.get(key)
    }

    /// The entry, made anew where there is none. For it the one that fades first may be forgotten.
    pub fn entry(&mut self, key: K, now: Instant, new: impl FnOnce() -> V) -> &mut V {
        if self.0.len() >= MOST && !self.0.contains_key(&key) {
            self.0.retain(|_, value| value.fades() > now);
            if self.0.len() >= MOST {
                let first = self.0.iter().min_by_key(|(_, value)| value.fades()).map(|(key, _)| *key);
                first.map(|first| self.0.remove(&first));
            }
        }
        match self.0.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(free) => free.insert(new()),
        }
    }

    /// Remembers it no more.
    pub fn forget(&mut self, key: &K) {
        self.0.remove(key);
    }
}

/// Entries of one register; a few hundred bytes each at most.
pub const MOST: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    impl Fades for Instant {
        fn fades(&self) -> Instant {
            *self
        }
    }

    #[test]
    fn never_more_than_so_many_and_the_first_to_fade_goes() {
        let now = Instant::now();
        let mut register: Register<usize, Instant> = Register::default();
        for key in 0..MOST {
            register.entry(key, now, || now + Duration::from_secs(1 + key as u64));
        }
        register.entry(MOST, now, || now + Duration::from_secs(5));
        assert_eq!(register.0.len(), MOST);
        assert!(register.recall(&0).is_none() && register.recall(&1).is_some());
        register.entry(1, now, || unreachable!());
        let later = now + Duration::from_secs(1000);
        register.entry(MOST + 1, later, || later + Duration::from_secs(1));
        assert_eq!(register.0.len(), MOST - 1000 + 1);
        register.forget(&(MOST + 1));
        assert!(register.recall(&(MOST + 1)).is_none());
    }
}
