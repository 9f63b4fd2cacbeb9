use bytes::Bytes;
use mailtrail_mail::{Mailbox, MessageId};
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// A message that the sandbox took.
#[derive(Clone, Debug)]
pub struct Message {
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

/// What a sandbox did since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages taken.
    pub messages: u64,
    /// Their recipients.
    pub recipients: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Events that happened.
    pub events: u64,
    /// Posts to the webhook, retries included.
    pub posts: u64,
    /// Events answered with 200.
    pub taken_events: u64,
    /// Events answered with 406: dropped.
    pub refused_events: u64,
    /// Events that no retry got through.
    pub lost_events: u64,
}

/// The last messages taken, and the tally.
#[derive(Debug, Default)]
pub(crate) struct Shelf(Mutex<Contents>);

#[derive(Debug, Default)]
struct Contents {
    messages: VecDeque<Message>,
    bytes: usize,
    tally: Tally,
}

impl Shelf {
    pub(crate) fn put(&self, mut message: Message) {
        self.with(|shelf| {
            shelf.tally.messages += 1;
            shelf.tally.recipients += message.recipients.len() as u64;
            shelf.tally.bytes += message.raw.len() as u64;
            message.number = shelf.tally.messages;
            shelf.bytes += message.raw.len();
            shelf.messages.push_back(message);
            while shelf.messages.len() > MESSAGES || shelf.bytes > BYTES {
                let Some(oldest) = shelf.messages.pop_front() else { break };
                shelf.bytes -= oldest.raw.len();
            }
        });
    }

    /// Adds to the tally.
    pub(crate) fn count(&self, add: impl FnOnce(&mut Tally)) {
        self.with(|shelf| add(&mut shelf.tally));
    }

    pub(crate) fn messages(&self) -> Vec<Message> {
        self.with(|shelf| shelf.messages.iter().cloned().collect())
    }

    pub(crate) fn tally(&self) -> Tally {
        self.with(|shelf| shelf.tally)
    }

    fn with<T>(&self, act: impl FnOnce(&mut Contents) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Messages kept.
const MESSAGES: usize = 10_000;
/// Bytes of messages kept.
const BYTES: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_stay_within_both_bounds() {
        let shelf = Shelf::default();
        let put = |size: usize| {
            let id = MessageId::parse("<a@b>").unwrap();
            let raw = Bytes::from(vec![0; size]);
            shelf.put(Message { number: 0, id, sender: None, recipients: Vec::new(), raw });
        };
        (0..=MESSAGES).for_each(|_| put(1));
        assert_eq!((shelf.messages().len(), shelf.messages()[0].number), (MESSAGES, 2));
        put(BYTES);
        assert_eq!(shelf.messages().len(), 1);
        assert_eq!(shelf.tally().messages, MESSAGES as u64 + 2);
    }
}
