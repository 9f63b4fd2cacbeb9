use crate::hint_record::ReceivedHint;
use crate::message::{EventSource, ReceivedEvent};
use crate::provider_event::ProviderEvent;
use mailtrail_mail::{Timestamp, TrackingId};
use sha2::{Digest, Sha256};

/// A provider's report that is genuine and cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The upstream whose provider sent it.
    pub upstream: String,
    /// When it came.
    pub received_at: Timestamp,
    /// Which way it came.
    pub source: EventSource,
    /// As in [`Notice::token`].
    pub token: Option<(String, Timestamp, [u8; 16])>,
    /// A digest of its body.
    pub body_digest: [u8; 16],
    /// What is wrong with it.
    pub reason: String,
}

/// An operator had a report read anew, and it says something else now, or finds a send that it did not find.
#[derive(Clone, Debug, PartialEq)]
pub struct EventReplay {
    /// The report.
    pub id: TrackingId,
    /// When it was read anew.
    pub at: Timestamp,
    /// Who asked.
    pub operator: String,
    /// Why; empty where nothing was said.
    pub reason: String,
    /// The upstream whose provider sent it.
    pub upstream: String,
    /// Which way it came.
    pub source: EventSource,
    /// What it said so far; nothing for a dead letter.
    pub previous: Option<ProviderEvent>,
    /// What it says now.
    pub event: ProviderEvent,
}

impl ReceivedEvent {
    /// What names the report: an id of the time when it came.
    pub fn id(&self) -> TrackingId {
        event_id(self.received_at, &self.upstream, self.event.dedup_key.as_bytes())
    }
}

impl DeadLetter {
    /// What names the report: an id of the time when it came.
    pub fn id(&self) -> TrackingId {
        event_id(self.received_at, &self.upstream, &self.body_digest)
    }
}

impl DeadLetter {
    /// Whether a report is of the same body, whenever it came.
    pub fn has_same_body(&self, report: TrackingId) -> bool {
        let of_body = |id: TrackingId| u128::from_be_bytes(id.to_bytes()) & BODY_DIGEST_MASK;
        of_body(report) == of_body(self.id())
    }
}

/// The part of a report's id that does not follow from the time.
const BODY_DIGEST_MASK: u128 = (1 << 80) - 1;

impl ReceivedHint {
    /// What names it among reports: an id of the time when it came.
    pub fn id(&self) -> TrackingId {
        event_id(self.received_at, &self.source, self.dedup_key.as_bytes())
    }
}

/// It follows from the report alone: whoever finds the report in the journal again gets the same one.
fn event_id(at: Timestamp, upstream: &str, identity: &[u8]) -> TrackingId {
    let mut digest = Sha256::new();
    digest.update((upstream.len() as u64).to_be_bytes());
    digest.update(upstream.as_bytes());
    digest.update(identity);
    let mut random = [0; 16];
    random[6..].copy_from_slice(&digest.finalize()[..10]);
    TrackingId::new(at, u128::from_be_bytes(random))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_id_depends_on_time_upstream_and_dedup_key() {
        let at = Timestamp::from_millis(1_789_387_199_123);
        let id = event_id(at, "mailgun", b"one");
        assert_eq!((id, id.timestamp()), (event_id(at, "mailgun", b"one"), at));
        let others = [
            event_id(at, "mailgun", b"two"),
            event_id(at, "mailgu", b"none"),
            event_id(Timestamp::from_millis(at.as_millis() + 1), "mailgun", b"one"),
        ];
        assert!(!others.contains(&id));
    }
}
