//! The record type of the journal: its kinds, their versions, encoding and decoding.
//!
//! postcard stores values in order, without names. Fields and variants of a stored form are never reordered;
//! a change adds a version.

use crate::position::Position;
use crate::record::attempt::{AttemptOutcomeV1, AttemptStartedV1};
use crate::record::contact_hint::ReceivedHintV1;
use crate::record::inbound::{InboundRecordV1, InboundRecordV2, InboundRecordV3};
use crate::record::message::{
    AcceptedMessageV1, AcceptedMessageV2, AcceptedMessageV3, AcceptedMessageV4, AcceptedMessageV5,
    DuplicateSubmissionV1,
};
use crate::record::operator_action::{ErasureV1, OperatorActionV1};
use crate::record::provider_event::{
    DeadLetterV1, EventReplayV1, EventReplayV2, PollCursorV1, ReceivedEventV1, ReceivedEventV2,
};
use crate::record::queue_action::{BreakerOverrideV1, QueueActionV1};
use crate::record::sink_ack::{SinkAckV1, SinkAckV2};
use crate::record::suppression::{SuppressionChangeV1, SuppressionChangeV2};
use crate::record::writer::{PlainWriter, RecordWriter, RewritingWriter};
use crate::sink_cursor::SinkAck;
use mailtrail_trail::suppression::SuppressionChange;
use mailtrail_trail::{
    AcceptedMessage, AttemptOutcome, AttemptStarted, BreakerOverride, DeadLetter, DuplicateSubmission,
    Erasure, EventReplay, InboundRecord, OperatorAction, PollCursor, QueueAction, ReceivedEvent,
    ReceivedHint,
};
use serde::Deserialize;

/// One record of the journal.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A message was accepted; its body is the record's body.
    AcceptedMessage(Box<AcceptedMessage>),
    /// An attempt is about to send the message.
    AttemptStarted(AttemptStarted),
    /// An attempt ended.
    AttemptOutcome(AttemptOutcome),
    /// A provider event was received; its raw form is the record's body.
    ReceivedEvent(Box<ReceivedEvent>),
    /// A client submitted a message again.
    DuplicateSubmission(DuplicateSubmission),
    /// An operator acted on a queued message.
    QueueAction(QueueAction),
    /// An operator opened or closed a circuit breaker.
    BreakerOverride(BreakerOverride),
    /// A sink acknowledged its position in the journal.
    SinkAck(Box<SinkAck>),
    /// A provider was polled for its events.
    PollCursor(PollCursor),
    /// A contact hint was received; its raw form is the record's body.
    ReceivedHint(Box<ReceivedHint>),
    /// An undecodable provider event was received; its raw form is the record's body.
    DeadLetter(Box<DeadLetter>),
    /// An operator had a provider event decoded again.
    EventReplay(Box<EventReplay>),
    /// An address was added to a suppression list or removed from it.
    SuppressionChange(Box<SuppressionChange>),
    /// An inbound message was received, with its message as the record's body, or changed its state.
    Inbound(Box<InboundRecord>),
    /// An operator erased an address.
    Erasure(Box<Erasure>),
    /// An audit record of an operator action.
    OperatorAction(Box<OperatorAction>),
}

/// A record with its position in the journal.
#[derive(Clone, Debug)]
pub struct JournalRecord {
    /// Decoded record.
    pub record: Record,
    /// Position of the record.
    pub position: Position,
    /// Length of the record's body in the journal, in bytes.
    pub body_length: u32,
}

/// Unreadable record: written by a newer version, or damaged in a way that its checksum did not detect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("journal record of kind {kind}, version {version} cannot be read by this version of mailtrail")]
pub struct UnknownRecord {
    kind: u8,
    version: u8,
    /// Whether this version lacks the kind or its version.
    pub is_newer: bool,
}

impl Record {
    /// Returns the kind byte of the frame.
    pub fn kind(&self) -> u8 {
        match self {
            Self::AcceptedMessage(_) => 1,
            Self::AttemptStarted(_) => 2,
            Self::AttemptOutcome(_) => 3,
            Self::ReceivedEvent(_) => 4,
            Self::DuplicateSubmission(_) => 5,
            Self::QueueAction(_) => 6,
            Self::BreakerOverride(_) => 7,
            Self::SinkAck(_) => 13,
            Self::PollCursor(_) => 11,
            Self::ReceivedHint(_) => 9,
            Self::DeadLetter(_) => 10,
            Self::EventReplay(_) => 12,
            Self::SuppressionChange(_) => 8,
            Self::Inbound(_) => 14,
            Self::Erasure(_) => 15,
            Self::OperatorAction(_) => 16,
        }
    }

    /// Returns the version in which the kind is written.
    pub fn version(&self) -> u8 {
        match self {
            Self::AcceptedMessage(_) => 5,
            Self::Inbound(_) => 3,
            Self::ReceivedEvent(_) | Self::SuppressionChange(_) | Self::EventReplay(_) | Self::SinkAck(_) => {
                2
            }
            Self::AttemptStarted(_)
            | Self::AttemptOutcome(_)
            | Self::DuplicateSubmission(_)
            | Self::QueueAction(_)
            | Self::BreakerOverride(_)
            | Self::ReceivedHint(_)
            | Self::DeadLetter(_)
            | Self::PollCursor(_)
            | Self::Erasure(_)
            | Self::OperatorAction(_) => 1,
        }
    }

    /// Returns whether the record may lead to a next attempt.
    pub fn may_schedule_attempt(&self) -> bool {
        match self {
            Self::AcceptedMessage(_) | Self::QueueAction(_) => true,
            Self::AttemptOutcome(outcome) => outcome.next_attempt.is_some(),
            Self::AttemptStarted(_)
            | Self::ReceivedEvent(_)
            | Self::DuplicateSubmission(_)
            | Self::BreakerOverride(_)
            | Self::ReceivedHint(_)
            | Self::SuppressionChange(_)
            | Self::DeadLetter(_)
            | Self::EventReplay(_)
            | Self::SinkAck(_)
            | Self::PollCursor(_)
            | Self::Inbound(_)
            | Self::Erasure(_)
            | Self::OperatorAction(_) => false,
        }
    }

    /// Encodes the record without its body.
    pub fn encode(&self) -> Vec<u8> {
        self.write_with(&mut PlainWriter)
    }

    /// Encodes the record with strings replaced wherever they occur; `text` returns the replacement, or
    /// nothing for strings that stay. Returns `None` if no string changes, and an error if the result could
    /// not be decoded.
    pub fn map_strings(
        &self,
        replacement: &mut dyn FnMut(&str) -> Option<String>,
    ) -> Result<Option<Vec<u8>>, UnknownRecord> {
        let mut pen = RewritingWriter { replacement, changed: false };
        let head = self.write_with(&mut pen);
        if !pen.changed {
            return Ok(None);
        }
        Self::decode(self.kind(), self.version(), &head).map(|_| Some(head))
    }

    fn write_with(&self, pen: &mut impl RecordWriter) -> Vec<u8> {
        match self {
            Self::AcceptedMessage(accepted) => pen.write(AcceptedMessageV5::from(&**accepted)),
            Self::AttemptStarted(begun) => pen.write(AttemptStartedV1::from(begun)),
            Self::AttemptOutcome(outcome) => pen.write(AttemptOutcomeV1::from(outcome)),
            Self::ReceivedEvent(notice) => pen.write(ReceivedEventV2::from(&**notice)),
            Self::DuplicateSubmission(repeated) => pen.write(DuplicateSubmissionV1::from(repeated)),
            Self::QueueAction(action) => pen.write(QueueActionV1::from(action)),
            Self::BreakerOverride(switch) => pen.write(BreakerOverrideV1::from(switch)),
            Self::SinkAck(handed) => pen.write(SinkAckV2::from(&**handed)),
            Self::PollCursor(polled) => pen.write(PollCursorV1::from(polled)),
            Self::ReceivedHint(hinted) => pen.write(ReceivedHintV1::from(&**hinted)),
            Self::DeadLetter(dead) => pen.write(DeadLetterV1::from(&**dead)),
            Self::EventReplay(replay) => pen.write(EventReplayV2::from(&**replay)),
            Self::SuppressionChange(listing) => pen.write(SuppressionChangeV2::from(&**listing)),
            Self::Inbound(inbound) => pen.write(InboundRecordV3::from(&**inbound)),
            Self::Erasure(erased) => pen.write(ErasureV1::from(&**erased)),
            Self::OperatorAction(ordered) => pen.write(OperatorActionV1::from(&**ordered)),
        }
    }

    /// Decodes a record; the inverse of [`Record::encode`].
    pub fn decode(kind: u8, version: u8, head: &[u8]) -> Result<Self, UnknownRecord> {
        let unknown = |is_newer| UnknownRecord { kind, version, is_newer };
        match (kind, version) {
            (1, 1) => decode_postcard::<AcceptedMessageV1>(head)
                .and_then(AcceptedMessageV1::into_domain)
                .map(Self::from),
            (1, 2) => decode_postcard::<AcceptedMessageV2>(head)
                .and_then(AcceptedMessageV2::into_domain)
                .map(Self::from),
            (1, 3) => decode_postcard::<AcceptedMessageV3>(head)
                .and_then(AcceptedMessageV3::into_domain)
                .map(Self::from),
            (1, 4) => decode_postcard::<AcceptedMessageV4>(head)
                .and_then(AcceptedMessageV4::into_domain)
                .map(Self::from),
            (1, 5) => decode_postcard::<AcceptedMessageV5>(head)
                .and_then(AcceptedMessageV5::into_domain)
                .map(Self::from),
            (2, 1) => {
                decode_postcard::<AttemptStartedV1>(head).map(|v| Self::AttemptStarted(v.into_domain()))
            }
            (3, 1) => {
                decode_postcard::<AttemptOutcomeV1>(head).map(|v| Self::AttemptOutcome(v.into_domain()))
            }
            (4, 1) => decode_postcard::<ReceivedEventV1>(head)
                .map(|v| Self::ReceivedEvent(Box::new(v.into_domain()))),
            (4, 2) => decode_postcard::<ReceivedEventV2>(head)
                .map(|v| Self::ReceivedEvent(Box::new(v.into_domain()))),
            (5, 1) => decode_postcard::<DuplicateSubmissionV1>(head)
                .map(|v| Self::DuplicateSubmission(v.into_domain())),
            (6, 1) => decode_postcard::<QueueActionV1>(head).map(|v| Self::QueueAction(v.into_domain())),
            (13, 1) => decode_postcard::<SinkAckV1>(head).map(|v| Self::SinkAck(Box::new(v.into_domain()))),
            (13, 2) => decode_postcard::<SinkAckV2>(head).map(|v| Self::SinkAck(Box::new(v.into_domain()))),
            (7, 1) => {
                decode_postcard::<BreakerOverrideV1>(head).map(|v| Self::BreakerOverride(v.into_domain()))
            }
            (11, 1) => decode_postcard::<PollCursorV1>(head).map(|v| Self::PollCursor(v.into_domain())),
            (9, 1) => {
                decode_postcard::<ReceivedHintV1>(head).map(|v| Self::ReceivedHint(Box::new(v.into_domain())))
            }
            (10, 1) => {
                decode_postcard::<DeadLetterV1>(head).map(|v| Self::DeadLetter(Box::new(v.into_domain())))
            }
            (12, 1) => {
                decode_postcard::<EventReplayV1>(head).map(|v| Self::EventReplay(Box::new(v.into_domain())))
            }
            (12, 2) => {
                decode_postcard::<EventReplayV2>(head).map(|v| Self::EventReplay(Box::new(v.into_domain())))
            }
            (8, 1) => decode_postcard::<SuppressionChangeV1>(head)
                .and_then(SuppressionChangeV1::into_domain)
                .map(|listing| Self::SuppressionChange(Box::new(listing))),
            (8, 2) => decode_postcard::<SuppressionChangeV2>(head)
                .and_then(SuppressionChangeV2::into_domain)
                .map(|listing| Self::SuppressionChange(Box::new(listing))),
            (14, 1) => decode_postcard::<InboundRecordV1>(head)
                .and_then(InboundRecordV1::into_domain)
                .map(|inbound| Self::Inbound(Box::new(inbound))),
            (14, 2) => decode_postcard::<InboundRecordV2>(head)
                .and_then(InboundRecordV2::into_domain)
                .map(|inbound| Self::Inbound(Box::new(inbound))),
            (14, 3) => decode_postcard::<InboundRecordV3>(head)
                .and_then(InboundRecordV3::into_domain)
                .map(|inbound| Self::Inbound(Box::new(inbound))),
            (15, 1) => decode_postcard::<ErasureV1>(head).map(|v| Self::Erasure(Box::new(v.into_domain()))),
            (16, 1) => decode_postcard::<OperatorActionV1>(head)
                .map(|v| Self::OperatorAction(Box::new(v.into_domain()))),
            _ => return Err(unknown(true)),
        }
        .ok_or(unknown(false))
    }
}

impl From<AcceptedMessage> for Record {
    fn from(accepted: AcceptedMessage) -> Self {
        Self::AcceptedMessage(Box::new(accepted))
    }
}

fn decode_postcard<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    postcard::from_bytes(bytes).ok()
}
