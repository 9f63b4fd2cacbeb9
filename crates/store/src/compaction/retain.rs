//! Decides which part of a record a rewrite retains.

use crate::journal::{Frame, Retain};
use crate::ledger::Ledger;
use crate::record::Record;
use crate::retention::Retention;
use mailtrail_mail::{Timestamp, TrackingId};
use mailtrail_trail::{InboundRecord, InboundState};
use std::time::Duration;

/// Decisions of one rewrite.
pub struct RetainPolicy<'a> {
    pub ledger: &'a Ledger,
    pub retention: &'a Retention,
    pub now: Timestamp,
}

impl RetainPolicy<'_> {
    /// Returns the part of a record to retain.
    pub fn retain_record(&self, frame: &Frame) -> ::sled::Result<Retain> {
        let Ok(record) = Record::decode(frame.kind, frame.version, &frame.payload) else {
            return Ok(Retain::All);
        };
        let horizon = self.retention.overall_horizon(self.now);
        let forgotten =
            |id, at: Timestamp| Ok::<_, ::sled::Error>(at < horizon && !self.ledger.has_message(id)?);
        Ok(match record {
            Record::AcceptedMessage(accepted) => self.retain_accepted(accepted.message.id, frame)?,
            Record::AttemptStarted(begun) if self.ledger.is_sending(begun.id)? => Retain::All,
            Record::AttemptStarted(_) => Retain::Drop,
            Record::AttemptOutcome(outcome) if forgotten(outcome.id, outcome.at)? => Retain::Drop,
            Record::DuplicateSubmission(repeated) if forgotten(repeated.id, repeated.at)? => Retain::Drop,
            Record::QueueAction(action) if forgotten(action.id, action.at)? => Retain::Drop,
            Record::AttemptOutcome(_) | Record::DuplicateSubmission(_) | Record::QueueAction(_) => {
                Retain::All
            }
            // Few and small; a rebuild needs the last one of each upstream.
            Record::BreakerOverride(_) => Retain::All,
            Record::SinkAck(ack) if self.ledger.is_latest_ack(&ack)? => Retain::All,
            Record::SinkAck(ack) if ack.at >= horizon => Retain::All,
            Record::SinkAck(ack) if self.ledger.has_pending_delay(&ack)? => Retain::All,
            Record::SinkAck(_) => Retain::Drop,
            // Each is followed by a later one; one that old starts no poll any more.
            Record::PollCursor(poll_cursor) if poll_cursor.until >= horizon => Retain::All,
            Record::PollCursor(_) => Retain::Drop,
            // A removal must outlive the evidence that it invalidated, and segments are rewritten in any
            // order. A change without effect is never written, so there are few.
            Record::SuppressionChange(_) => Retain::All,
            // They record the operator, and hold the salt by which the suppression list recognises erased
            // addresses.
            Record::Erasure(_) => Retain::All,
            Record::OperatorAction(ordered) if ordered.at >= horizon => Retain::All,
            Record::OperatorAction(_) => Retain::Drop,
            Record::ReceivedEvent(received_event)
                if received_event.received_at >= self.retention.events_horizon(self.now) =>
            {
                Retain::All
            }
            Record::ReceivedEvent(received_event) if received_event.received_at >= horizon => {
                Retain::DropBody
            }
            Record::ReceivedEvent(received_event)
                if self.ledger.correlate(&received_event.event)?.is_some() =>
            {
                Retain::DropBody
            }
            Record::ReceivedEvent(received_event) if self.ledger.is_evidence_source(&received_event)? => {
                Retain::DropBody
            }
            Record::ReceivedEvent(_) => Retain::Drop,
            Record::ReceivedHint(received_hint)
                if received_hint.received_at >= self.retention.events_horizon(self.now) =>
            {
                Retain::All
            }
            Record::ReceivedHint(_) => Retain::Drop,
            Record::DeadLetter(dead_letter)
                if dead_letter.received_at >= self.retention.events_horizon(self.now) =>
            {
                Retain::All
            }
            // Its token is remembered as long as those of other events.
            Record::DeadLetter(dead_letter) if dead_letter.received_at >= horizon => Retain::DropBody,
            Record::DeadLetter(_) => Retain::Drop,
            Record::EventReplay(replay) if replay.at >= horizon => Retain::All,
            Record::EventReplay(replay) if self.ledger.correlate(&replay.event)?.is_some() => Retain::All,
            Record::EventReplay(_) => Retain::Drop,
            Record::Inbound(inbound) => self.retain_inbound(&inbound, frame)?,
        })
    }

    /// Returns the part of an inbound record to retain. A waiting message is retained. Its outcome is
    /// retained for longer than any message may wait, so that a rebuild never takes a message that it finds
    /// again for a waiting one.
    fn retain_inbound(&self, inbound: &InboundRecord, frame: &Frame) -> ::sled::Result<Retain> {
        let horizon = self.retention.overall_horizon(self.now);
        let (id, body_until) = match inbound {
            InboundRecord::Transitioned(moved)
                if moved.at >= horizon.min(self.now.saturating_sub(EVIDENCE_RETENTION)) =>
            {
                return Ok(Retain::All);
            }
            InboundRecord::Transitioned(_) => return Ok(Retain::Drop),
            InboundRecord::Received(arrival) => match self.ledger.inbound_mail(arrival.id)? {
                Some((mail, _)) if mail.state == InboundState::Waiting => return Ok(Retain::All),
                Some((mail, _)) if mail.state == InboundState::Delivered => {
                    (arrival.id, self.retention.bodies_horizon(self.now))
                }
                _ => (arrival.id, self.retention.events_horizon(self.now)),
            },
        };
        Ok(match id.timestamp() {
            came if came > body_until => Retain::All,
            came if came >= horizon && frame.body_length > 0 => Retain::DropBody,
            came if came >= horizon => Retain::All,
            _ => Retain::Drop,
        })
    }

    fn retain_accepted(&self, id: TrackingId, frame: &Frame) -> ::sled::Result<Retain> {
        let has_body = frame.body_length > 0;
        let age = self.now.duration_since(id.timestamp());
        match self.ledger.load_message(id)? {
            Some((_, row)) if row.queue_entry.is_some() || self.ledger.is_sending(id)? => Ok(Retain::All),
            Some(_) if id.timestamp() > self.retention.bodies_horizon(self.now) => Ok(Retain::All),
            Some(_) if has_body => Ok(Retain::DropBody),
            Some(_) => Ok(Retain::All),
            // No message waits that long: give_up_after is at most 30 days.
            None if has_body && age < self.retention.ledger + MAX_QUEUE_TIME => Ok(Retain::All),
            None if id.timestamp() >= self.retention.overall_horizon(self.now) => Ok(Retain::All),
            None => Ok(Retain::Drop),
        }
    }
}

/// Age at which soft bounces and removals are dropped: longer than any of them counts, and longer than any
/// event is delayed.
pub const EVIDENCE_RETENTION: Duration = Duration::from_secs(90 * 86_400);
/// Upper bound of the time that a message may wait, with margin.
const MAX_QUEUE_TIME: Duration = Duration::from_secs(31 * 86_400);
