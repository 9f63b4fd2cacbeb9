//! Reads the journal as a log: all trail events in the order in which they were written.

use crate::journal::{Frame, Position, Segment};
use crate::record::Record;
use crate::sink_cursor::LoggedRecord;
use crate::{ReadError, Store, journal};
use mailtrail_mail::{Timestamp, TrackingId};
use mailtrail_trail::suppression::{SuppressionChange, SuppressionChangeKind};
use mailtrail_trail::{
    AcceptedMessage, AttemptOutcome, Diagnostic, InboundRecord, InboundState, OperatorAction,
    OperatorActionData, ReceivedEvent, TrailEvent, TrailEventKind, TrailSource,
};
use std::io;

/// Position of a log reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogCursor(pub(crate) Position);

impl std::fmt::Display for LogCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0.segment, self.0.offset)
    }
}

/// The text is no log cursor.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a cursor is two numbers with a dot between them")]
pub struct ParseLogCursorError;

impl std::str::FromStr for LogCursor {
    type Err = ParseLogCursorError;

    fn from_str(text: &str) -> Result<Self, ParseLogCursorError> {
        let (segment, offset) = text.split_once('.').ok_or(ParseLogCursorError)?;
        let number = |_| ParseLogCursorError;
        Ok(Self(Position {
            segment: segment.parse().map_err(number)?,
            offset: offset.parse().map_err(number)?,
        }))
    }
}

/// One line of the log.
#[derive(Clone, Debug)]
pub struct LogEntry {
    /// Message that the event belongs to; `None` for an unmatched event.
    pub tracking_id: Option<TrackingId>,
    /// Time at which the event was written.
    pub recorded_at: Timestamp,
    /// The event.
    pub event: TrailEvent,
}

impl Store {
    /// Returns the present end of the log.
    pub fn log_end(&self) -> Result<LogCursor, ReadError> {
        Ok(LogCursor(self.ledger()?.position()?.unwrap_or_default()))
    }

    /// Returns the segments of the log with their start times, oldest first.
    pub fn log_segments(&self) -> Result<Vec<(u32, Timestamp)>, ReadError> {
        let numbers = journal::list_segments(&self.0.journal_dir)?;
        let made = numbers.into_iter().filter_map(|number| {
            let segment = Segment::open(&self.0.journal_dir, number, None).ok()?;
            Some((number, segment.created_at()))
        });
        Ok(made.collect())
    }

    /// Returns all entries of one segment that lookups can see.
    pub fn log_in_segment(&self, segment: u32) -> Result<Vec<LogEntry>, ReadError> {
        let from = Position { segment, offset: 0 };
        Ok(self.read_entries(from)?.0)
    }

    /// Returns the entries after `cursor`, and their end. Advances by at most one segment.
    pub fn log_after(&self, cursor: LogCursor) -> Result<(Vec<LogEntry>, LogCursor), ReadError> {
        let (entries, end) = self.read_entries(cursor.0)?;
        let next = Position { segment: end.segment + 1, offset: 0 };
        let done = end == cursor.0 && self.ledger()?.position()?.is_some_and(|position| position >= next);
        Ok((entries, LogCursor(if done { next } else { end })))
    }

    fn read_entries(&self, from: Position) -> Result<(Vec<LogEntry>, Position), ReadError> {
        let (records, end) = self.logged_records(from, usize::MAX)?;
        Ok((records.into_iter().flat_map(|record| record.entries).collect(), end))
    }

    /// Returns the log entries of the first `limit` records of a segment after `from`, and the position after
    /// them.
    pub(crate) fn logged_records(
        &self,
        from: Position,
        limit: usize,
    ) -> Result<(Vec<LoggedRecord>, Position), ReadError> {
        let (frames, end) = self.read_frames(from, limit)?;
        let mut records = Vec::new();
        for frame in frames {
            if let Ok(record) = Record::decode(frame.kind, frame.version, &frame.payload) {
                let mut entries = Vec::new();
                self.append_entries(record, &mut entries)?;
                records.push(LoggedRecord { cursor: LogCursor(frame.position), entries });
            }
        }
        Ok((records, end))
    }

    /// Returns the first `limit` records of a segment after `from` that lookups can see, and the position
    /// after them.
    pub(crate) fn read_frames(
        &self,
        from: Position,
        limit: usize,
    ) -> Result<(Vec<Frame>, Position), ReadError> {
        let applied = self.ledger()?.position()?.unwrap_or_default();
        let until = if applied.segment > from.segment { None } else { Some(applied.offset) };
        let (mut frames, mut next) = (Vec::new(), None);
        if from.segment > applied.segment || from.segment == 0 {
            return Ok((frames, from));
        }
        let segment = Segment::open(&self.0.journal_dir, from.segment, until)?;
        let keep = |frame: Frame| {
            if frames.len() == limit {
                next = Some(frame.position);
                return Err(io::Error::other("enough"));
            }
            frames.push(frame);
            Ok(())
        };
        let scanned = segment.scan_frames(from.offset, false, keep, |_| {});
        let end = match next {
            Some(next) => next,
            None => Position { segment: from.segment, offset: scanned?.max(from.offset) },
        };
        Ok((frames, end))
    }

    pub(crate) fn append_entries(
        &self,
        record: Record,
        entries: &mut Vec<LogEntry>,
    ) -> Result<(), ReadError> {
        match record {
            Record::AcceptedMessage(accepted) => entries.push(entry_from_acceptance(&accepted)),
            // These records belong to no message, so the log omits them.
            Record::AttemptStarted(_)
            | Record::SinkAck(_)
            | Record::ReceivedHint(_)
            | Record::PollCursor(_) => {}
            Record::DuplicateSubmission(repeated) => entries.push(LogEntry {
                tracking_id: Some(repeated.id),
                recorded_at: repeated.at,
                event: TrailEvent::from_duplicate(&repeated),
            }),
            Record::QueueAction(action) => {
                let all = self.ledger()?.load_message(action.id)?.map_or(0, |(_, row)| row.recipient_count);
                let event = TrailEvent::from_queue_action(&action, (0..all).collect());
                entries.push(LogEntry { tracking_id: Some(action.id), recorded_at: action.at, event });
            }
            Record::BreakerOverride(breaker_override) => {
                entries.push(LogEntry {
                    tracking_id: None,
                    recorded_at: breaker_override.at,
                    event: TrailEvent::from_breaker_override(breaker_override),
                });
            }
            Record::SuppressionChange(change) => entries.push(entry_from_suppression_change(*change)),
            Record::Erasure(erased) => {
                entries.push(LogEntry {
                    tracking_id: None,
                    recorded_at: erased.at,
                    event: TrailEvent::from_erasure(*erased),
                });
            }
            Record::OperatorAction(ordered) => entries.push(entry_from_operator_action(*ordered)),
            Record::AttemptOutcome(outcome) => entries.extend(entries_from_outcome(&outcome)),
            Record::ReceivedEvent(received_event) => {
                let found = self.ledger()?.correlate(&received_event.event)?;
                entries.push(entry_from_received_event(&received_event, found));
            }
            Record::Inbound(inbound) => {
                let (recorded_at, event) = match &*inbound {
                    InboundRecord::Received(received) => {
                        let first = if received.quarantine_reason.is_some() {
                            InboundState::DeadLetter
                        } else {
                            InboundState::Waiting
                        };
                        let existing = self.ledger()?.inbound_mail(received.id)?;
                        let same = existing.is_some_and(|(mail, _)| mail.state == InboundState::Duplicate);
                        let state = if same { InboundState::Duplicate } else { first };
                        (received.id.timestamp(), TrailEvent::from_inbound_received(received, state))
                    }
                    InboundRecord::Transitioned(transition) => {
                        (transition.at, TrailEvent::from_inbound_transition(transition))
                    }
                };
                entries.push(LogEntry { tracking_id: None, recorded_at, event });
            }
            Record::DeadLetter(dead) => {
                entries.push(LogEntry {
                    tracking_id: None,
                    recorded_at: dead.received_at,
                    event: TrailEvent::from_dead_letter(&dead),
                });
            }
            Record::EventReplay(replay) => {
                let tracking_id = self.ledger()?.correlate(&replay.event)?.map(|(id, ..)| id);
                entries.push(LogEntry {
                    tracking_id,
                    recorded_at: replay.at,
                    event: TrailEvent::from_event_replay(&replay),
                });
            }
        }
        Ok(())
    }
}

fn entry_from_acceptance(accepted: &AcceptedMessage) -> LogEntry {
    let id = accepted.message.id;
    LogEntry {
        tracking_id: Some(id),
        recorded_at: id.timestamp(),
        event: TrailEvent::from_acceptance(&accepted.message),
    }
}

fn entries_from_outcome(outcome: &AttemptOutcome) -> impl Iterator<Item = LogEntry> {
    outcome.results.iter().map(|result| {
        let event = TrailEvent::from_attempt(outcome, result);
        LogEntry { tracking_id: Some(outcome.id), recorded_at: outcome.at, event }
    })
}

fn entry_from_operator_action(ordered: OperatorAction) -> LogEntry {
    let tracking_id = match ordered.data {
        OperatorActionData::SendTest { id } => Some(id),
        _ => None,
    };
    LogEntry { tracking_id, recorded_at: ordered.at, event: TrailEvent::from_operator_action(ordered) }
}

fn entry_from_suppression_change(change: SuppressionChange) -> LogEntry {
    let (added, why) = match &change.kind {
        SuppressionChangeKind::Add { reason, items } => {
            let diagnostic_text = items
                .last()
                .map(|item| item.diagnostic.as_str())
                .filter(|diagnostic_text| !diagnostic_text.is_empty());
            (
                true,
                diagnostic_text.map_or(reason.as_str().to_owned(), |diagnostic_text| {
                    format!("{}: {diagnostic_text}", reason.as_str())
                }),
            )
        }
        SuppressionChangeKind::Remove { reason, comment } => {
            let reason = reason.map_or("all reasons", |reason| reason.as_str());
            (false, if comment.is_empty() { reason.to_owned() } else { format!("{reason}: {comment}") })
        }
    };
    let text = Some(format!("{} {why}", change.address));
    let source = if change.operator.is_empty() { TrailSource::Relay } else { TrailSource::Operator };
    let event = TrailEvent {
        upstream: change.list,
        diagnostic: Diagnostic { name: change.operator, text, ..Diagnostic::default() },
        ..TrailEvent::new(change.at, TrailEventKind::SuppressionChanged { added }, source)
    };
    LogEntry { tracking_id: None, recorded_at: change.at, event }
}

fn entry_from_received_event(
    received_event: &ReceivedEvent,
    found: Option<(TrackingId, Vec<u16>, mailtrail_trail::CorrelatedBy)>,
) -> LogEntry {
    let (tracking_id, recipients, correlated_by) = match found {
        Some((id, recipients, correlated_by)) => (Some(id), recipients, Some(correlated_by)),
        None => (None, Vec::new(), None),
    };
    let event = TrailEvent::from_provider_event(
        &received_event.event,
        &received_event.upstream,
        received_event.source,
        recipients,
        correlated_by,
    );
    LogEntry { tracking_id, recorded_at: received_event.received_at, event }
}
