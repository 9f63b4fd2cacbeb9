use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

/// How often something was seen, for fates that differ the first time. It forgets the oldest beyond [`CAPACITY`].
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    times: HashMap<String, u32>,
    order: VecDeque<String>,
}

impl Memory {
    /// Counts `key` and says how often it was seen before.
    pub(crate) fn count(&self, key: String) -> u32 {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(times) = seen.times.get_mut(&key) {
            *times = times.saturating_add(1);
            return *times - 1;
        }
        if seen.order.len() >= CAPACITY
            && let Some(oldest) = seen.order.pop_front()
        {
            seen.times.remove(&oldest);
        }
        seen.order.push_back(key.clone());
        seen.times.insert(key, 1);
        0
    }
}

/// Keys kept.
const CAPACITY: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_and_forgets_the_oldest() {
        let memory = Memory::default();
        assert_eq!([0, 1, 2].map(|_| memory.count("a".into())), [0, 1, 2]);
        for key in 0..CAPACITY {
            memory.count(key.to_string());
        }
        assert_eq!(memory.count("a".into()), 0);
    }
}
