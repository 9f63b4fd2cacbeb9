use bytes::Bytes;
use mailtrail_mail::{Mailbox, MessageId};
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// A message that the sandbox took.
#[derive(Clone, Debug)]
pub struct CapturedMessage {
    /// 1 for the first one taken, then counting.
    pub number: u64,
    /// Its Message-ID, made up where it had none. Several messages may share one.
    pub id: MessageId,
    /// `None` for `<>`.
    pub sender: Option<Mailbox>,
    /// Those that were not refused.
    pub recipients: Vec<Mailbox>,
    /// As it arrived, with the dots taken out; shared, not copied.
    pub raw: Bytes,
}

/// Counts since the start of a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SandboxCounters {
    /// Messages taken.
    pub messages: u64,
    /// Their recipients.
    pub recipients: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Events that happened.
    pub events: u64,
    /// Posts to the webhook, retries included.
    pub webhook_requests: u64,
    /// Events answered with 200.
    pub accepted_events: u64,
    /// Events answered with 406: dropped.
    pub rejected_events: u64,
    /// Events that no retry got through.
    pub lost_events: u64,
}

/// The last messages taken, and the tally.
#[derive(Debug, Default)]
pub(crate) struct CapturedMessages(Mutex<CapturedState>);

#[derive(Debug, Default)]
struct CapturedState {
    messages: VecDeque<CapturedMessage>,
    bytes: usize,
    counters: SandboxCounters,
}

impl CapturedMessages {
    pub(crate) fn push(&self, mut message: CapturedMessage) {
        self.with_state(|captured| {
            captured.counters.messages += 1;
            captured.counters.recipients += message.recipients.len() as u64;
            captured.counters.bytes += message.raw.len() as u64;
            message.number = captured.counters.messages;
            captured.bytes += message.raw.len();
            captured.messages.push_back(message);
            while captured.messages.len() > MAX_MESSAGES || captured.bytes > MAX_BYTES {
                let Some(oldest) = captured.messages.pop_front() else { break };
                captured.bytes -= oldest.raw.len();
            }
        });
    }

    /// Adds to the tally.
    pub(crate) fn update_counters(&self, add: impl FnOnce(&mut SandboxCounters)) {
        self.with_state(|captured| add(&mut captured.counters));
    }

    pub(crate) fn messages(&self) -> Vec<CapturedMessage> {
        self.with_state(|captured| captured.messages.iter().cloned().collect())
    }

    pub(crate) fn counters(&self) -> SandboxCounters {
        self.with_state(|captured| captured.counters)
    }

    fn with_state<T>(&self, act: impl FnOnce(&mut CapturedState) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Messages kept.
const MAX_MESSAGES: usize = 10_000;
/// Bytes of messages kept.
const MAX_BYTES: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evicts_oldest_messages_beyond_count_and_byte_limits() {
        let captured = CapturedMessages::default();
        let put = |size: usize| {
            let id = MessageId::parse("<a@b>").unwrap();
            let raw = Bytes::from(vec![0; size]);
            captured.push(CapturedMessage { number: 0, id, sender: None, recipients: Vec::new(), raw });
        };
        (0..=MAX_MESSAGES).for_each(|_| put(1));
        assert_eq!((captured.messages().len(), captured.messages()[0].number), (MAX_MESSAGES, 2));
        put(MAX_BYTES);
        assert_eq!(captured.messages().len(), 1);
        assert_eq!(captured.counters().messages, MAX_MESSAGES as u64 + 2);
    }
}
