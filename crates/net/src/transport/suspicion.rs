use mailtrail_mail::TrackingId;
use std::collections::VecDeque;

/// What the replies to single messages say against an upstream. It may be about the message only, so it needs another
/// message's reply to be confirmed, and a message that is taken refutes it.
#[derive(Debug, Default)]
pub struct Suspicion {
    /// Messages that were taken.
    taken: u64,
    /// The messages that were refused such, the newest last, each with the messages that had been taken before.
    refused: VecDeque<(TrackingId, u64)>,
    /// Such refusals since a message was taken, and the message of the last one.
    in_a_row: u32,
    last: Option<TrackingId>,
}

impl Suspicion {
    /// The upstream took a message.
    pub fn refute(&mut self) {
        self.taken += 1;
        (self.in_a_row, self.last) = (0, None);
    }

    /// A message was refused in words about the upstream. True when that confirms another one's, or when it happened
    /// often and nothing was taken meanwhile.
    pub fn add(&mut self, id: TrackingId) -> bool {
        self.remember(id);
        let confirms = self.last.is_some_and(|last| last != id);
        (self.in_a_row, self.last) = (self.in_a_row.saturating_add(1), Some(id));
        confirms || self.in_a_row >= ALONE
    }

    /// Remembers a message that was refused such.
    pub fn remember(&mut self, id: TrackingId) {
        if self.refused.iter().any(|(known, _)| *known == id) {
            return;
        }
        if self.refused.len() == REMEMBERED {
            self.refused.pop_front();
        }
        self.refused.push_back((id, self.taken));
    }

    /// Whether the upstream took others since this message was refused such: the words are about the message.
    pub fn is_refuted(&self, id: TrackingId) -> bool {
        self.refused.iter().any(|(known, taken)| *known == id && *taken < self.taken)
    }
}

/// Refusals of one message in a row that count without another's.
const ALONE: u32 = 3;
const REMEMBERED: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u128) -> TrackingId {
        TrackingId::from_bytes(number.to_be_bytes())
    }

    #[test]
    fn another_message_confirms_and_a_taken_one_refutes() {
        let mut suspicion = Suspicion::default();
        assert!(!suspicion.add(id(1)) && !suspicion.add(id(1)) && !suspicion.is_refuted(id(1)));
        assert!(suspicion.add(id(2)));
        suspicion.refute();
        assert!(suspicion.is_refuted(id(1)) && suspicion.is_refuted(id(2)) && !suspicion.is_refuted(id(3)));
        assert!(!suspicion.add(id(3)) && !suspicion.is_refuted(id(3)));
        assert!(suspicion.add(id(4)));
    }

    #[test]
    fn one_message_alone_counts_after_three_times() {
        let mut suspicion = Suspicion::default();
        assert_eq!([(); 4].map(|()| suspicion.add(id(1))), [false, false, true, true]);
        suspicion.refute();
        assert!(!suspicion.add(id(1)));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut suspicion = Suspicion::default();
        (0..1000).for_each(|number| suspicion.remember(id(number)));
        suspicion.refute();
        assert_eq!(suspicion.refused.len(), REMEMBERED);
        assert!(suspicion.is_refuted(id(999)) && !suspicion.is_refuted(id(0)));
    }
}
