use crate::hint_record::Hinted;
use crate::message::{Notice, Via};
use crate::provider_event::Event;
use mailtrail_mail::{Timestamp, TrackingId};
use sha2::{Digest, Sha256};

/// A provider's report that is genuine and cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dead {
    /// The upstream whose provider sent it.
    pub upstream: String,
    /// When it came.
    pub at: Timestamp,
    /// Which way it came.
    pub via: Via,
    /// As in [`Notice::token`].
    pub token: Option<(String, Timestamp, [u8; 16])>,
    /// A digest of its body.
    pub digest: [u8; 16],
    /// What is wrong with it.
    pub reason: String,
}

/// An operator had a report read anew, and it says something else now, or finds a send that it did not find.
#[derive(Clone, Debug, PartialEq)]
pub struct Replay {
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
    pub via: Via,
    /// What it said so far; nothing for a dead letter.
    pub before: Option<Event>,
    /// What it says now.
    pub event: Event,
}

impl Notice {
    /// What names the report: an id of the time when it came.
    pub fn id(&self) -> TrackingId {
        report_id(self.at, &self.upstream, self.event.identity.as_bytes())
    }
}

impl Dead {
    /// What names the report: an id of the time when it came.
    pub fn id(&self) -> TrackingId {
        report_id(self.at, &self.upstream, &self.digest)
    }
}

impl Dead {
    /// Whether a report is of the same body, whenever it came.
    pub fn is_same_body(&self, report: TrackingId) -> bool {
        let of_body = |id: TrackingId| u128::from_be_bytes(id.to_bytes()) & BODY;
        of_body(report) == of_body(self.id())
    }
}

/// The part of a report's id that does not follow from the time.
const BODY: u128 = (1 << 80) - 1;

impl Hinted {
    /// What names it among reports: an id of the time when it came.
    pub fn id(&self) -> TrackingId {
        report_id(self.received, &self.source, self.identity.as_bytes())
    }
}

/// It follows from the report alone: whoever finds the report in the journal again gets the same one.
fn report_id(at: Timestamp, upstream: &str, identity: &[u8]) -> TrackingId {
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
    fn a_report_is_named_by_its_time_its_upstream_and_what_it_is() {
        let at = Timestamp::from_millis(1_789_387_199_123);
        let id = report_id(at, "mailgun", b"one");
        assert_eq!((id, id.timestamp()), (report_id(at, "mailgun", b"one"), at));
        let others = [
            report_id(at, "mailgun", b"two"),
            report_id(at, "mailgu", b"none"),
            report_id(Timestamp::from_millis(at.millis() + 1), "mailgun", b"one"),
        ];
        assert!(!others.contains(&id));
    }
}
