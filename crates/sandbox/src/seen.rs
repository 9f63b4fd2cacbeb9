use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

/// How often something was seen, for fates that differ the first time. It forgets the oldest beyond [`CAPACITY`].
#[derive(Debug, Default)]
pub(crate) struct SeenCounter(Mutex<SeenKeys>);

#[derive(Debug, Default)]
struct SeenKeys {
    counts: HashMap<String, u32>,
    order: VecDeque<String>,
}

impl SeenCounter {
    /// Counts `key` and returns its earlier count.
    pub(crate) fn record_seen(&self, key: String) -> u32 {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(times) = seen.counts.get_mut(&key) {
            *times = times.saturating_add(1);
            return *times - 1;
        }
        if seen.order.len() >= MAX_KEYS
            && let Some(oldest) = seen.order.pop_front()
        {
            seen.counts.remove(&oldest);
        }
        seen.order.push_back(key.clone());
        seen.counts.insert(key, 1);
        0
    }
}

/// Keys kept.
const MAX_KEYS: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_keys_and_evicts_oldest() {
        let memory = SeenCounter::default();
        assert_eq!([0, 1, 2].map(|_| memory.record_seen("a".into())), [0, 1, 2]);
        for key in 0..MAX_KEYS {
            memory.record_seen(key.to_string());
        }
        assert_eq!(memory.record_seen("a".into()), 0);
    }
}
