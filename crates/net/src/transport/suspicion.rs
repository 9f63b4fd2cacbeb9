use mailtrail_mail::TrackingId;
use std::collections::VecDeque;

/// Evidence against an upstream from replies to single messages. It may concern the message only, so another message's
/// reply has to confirm it, and an accepted message refutes it.
#[derive(Debug, Default)]
pub struct Suspicion {
    /// Messages that were taken.
    accepted_count: u64,
    /// The messages that were refused such, the newest last, each with the messages that had been taken before.
    refused_messages: VecDeque<(TrackingId, u64)>,
    /// Such refusals since a message was taken, and the message of the last one.
    consecutive_refusals: u32,
    last_refused: Option<TrackingId>,
}

impl Suspicion {
    /// The upstream took a message.
    pub fn record_accepted(&mut self) {
        self.accepted_count += 1;
        (self.consecutive_refusals, self.last_refused) = (0, None);
    }

    /// Records a refusal with a text about the upstream. Returns true if it confirms another message's, or if it
    /// recurred without an accepted message in between.
    pub fn record_refusal(&mut self, id: TrackingId) -> bool {
        self.remember_refusal(id);
        let confirms = self.last_refused.is_some_and(|last| last != id);
        (self.consecutive_refusals, self.last_refused) =
            (self.consecutive_refusals.saturating_add(1), Some(id));
        confirms || self.consecutive_refusals >= REFUSALS_TO_CONFIRM
    }

    /// Remembers a message that was refused such.
    pub fn remember_refusal(&mut self, id: TrackingId) {
        if self.refused_messages.iter().any(|(known, _)| *known == id) {
            return;
        }
        if self.refused_messages.len() == MAX_REMEMBERED_MESSAGES {
            self.refused_messages.pop_front();
        }
        self.refused_messages.push_back((id, self.accepted_count));
    }

    /// Returns whether other messages have been accepted since this one was refused: the text concerns the message.
    pub fn is_refuted(&self, id: TrackingId) -> bool {
        self.refused_messages.iter().any(|(known, taken)| *known == id && *taken < self.accepted_count)
    }
}

/// Refusals of one message in a row that count without another's.
const REFUSALS_TO_CONFIRM: u32 = 3;
const MAX_REMEMBERED_MESSAGES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn test_id(number: u128) -> TrackingId {
        TrackingId::from_bytes(number.to_be_bytes())
    }

    #[test]
    fn other_message_confirms_and_accepted_one_refutes() {
        let mut suspicion = Suspicion::default();
        assert!(
            !suspicion.record_refusal(test_id(1))
                && !suspicion.record_refusal(test_id(1))
                && !suspicion.is_refuted(test_id(1))
        );
        assert!(suspicion.record_refusal(test_id(2)));
        suspicion.record_accepted();
        assert!(
            suspicion.is_refuted(test_id(1))
                && suspicion.is_refuted(test_id(2))
                && !suspicion.is_refuted(test_id(3))
        );
        assert!(!suspicion.record_refusal(test_id(3)) && !suspicion.is_refuted(test_id(3)));
        assert!(suspicion.record_refusal(test_id(4)));
    }

    #[test]
    fn single_message_confirms_after_three_refusals() {
        let mut suspicion = Suspicion::default();
        assert_eq!([(); 4].map(|()| suspicion.record_refusal(test_id(1))), [false, false, true, true]);
        suspicion.record_accepted();
        assert!(!suspicion.record_refusal(test_id(1)));
    }

    #[test]
    fn remembered_messages_are_bounded() {
        let mut suspicion = Suspicion::default();
        (0..1000).for_each(|number| suspicion.remember_refusal(test_id(number)));
        suspicion.record_accepted();
        assert_eq!(suspicion.refused_messages.len(), MAX_REMEMBERED_MESSAGES);
        assert!(suspicion.is_refuted(test_id(999)) && !suspicion.is_refuted(test_id(0)));
    }
}
