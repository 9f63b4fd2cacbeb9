//! Record types of the journal and their stored forms. A stored form that was ever written stays readable:
//! each change adds a new version.

mod contact_hint;
#[cfg(test)]
mod golden;
mod inbound;
mod operator_action;
mod suppression;

pub(crate) use contact_hint::ReceivedHintV1;
pub(crate) use inbound::{InboundReceivedV1, InboundStateV1};
pub(crate) use suppression::SuppressionEvidenceRow;

use crate::journal::Position;
use crate::log_reader::LogCursor;
use crate::record::inbound::{InboundRecordV1, InboundRecordV2, InboundRecordV3};
use crate::record::operator_action::OperatorActionV1;
use crate::record::suppression::{SuppressionChangeV1, SuppressionChangeV2};
use crate::sink_cursor::{DelayedDelivery, SinkAck};
use mailtrail_mail::{
    BodyType, DsnParameters, DsnRecipient, Lane, Mailbox, MessageId, Notify, OdooRecord, Ret, Timestamp,
    TrackingId,
};
use mailtrail_trail::suppression::SuppressionChange;
use mailtrail_trail::{
    AcceptedMessage, AttemptOutcome, AttemptStarted, AttemptStatus, BreakerOverride, DeadLetter, Diagnostic,
    DsnAction, DuplicateSubmission, Erasure, EventKind, EventReplay, EventSource, InboundRecord, Message,
    OperatorAction, PollCursor, ProviderEvent, QueueAction, QueueVerb, ReceivedEvent, ReceivedHint,
    RecipientResult, RecipientState, ReportedRecipient,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

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

/// Writer of stored forms.
trait RecordWriter {
    fn write<T: Serialize + DeserializeOwned>(&mut self, stored: T) -> Vec<u8>;
}

struct PlainWriter;

impl RecordWriter for PlainWriter {
    fn write<T: Serialize + DeserializeOwned>(&mut self, stored: T) -> Vec<u8> {
        postcard::to_stdvec(&stored).expect("plain data in memory always encodes")
    }
}

struct RewritingWriter<'a> {
    replacement: &'a mut dyn FnMut(&str) -> Option<String>,
    changed: bool,
}

impl RewritingWriter<'_> {
    fn rewrite_strings(&mut self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Some(other) = (self.replacement)(text) {
                    *text = other;
                    self.changed = true;
                }
            }
            Value::Array(values) => values.iter_mut().for_each(|value| self.rewrite_strings(value)),
            Value::Object(fields) => fields.values_mut().for_each(|value| self.rewrite_strings(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

impl RecordWriter for RewritingWriter<'_> {
    /// Converts through a tree of values, which reaches the strings of every form, including future ones.
    fn write<T: Serialize + DeserializeOwned>(&mut self, stored: T) -> Vec<u8> {
        let mut value = serde_json::to_value(&stored).unwrap_or_default();
        self.rewrite_strings(&mut value);
        // A tree that cannot be converted back is no record; decoding detects that.
        let changed = serde_json::from_value::<T>(value).ok();
        changed.and_then(|changed| postcard::to_stdvec(&changed).ok()).unwrap_or_default()
    }
}

fn decode_postcard<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    postcard::from_bytes(bytes).ok()
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct MessageV1 {
    id: [u8; 16],
    client: String,
    user: Option<String>,
    peer: Option<std::net::IpAddr>,
    sender: Option<String>,
    eight_bit: bool,
    smtputf8: bool,
    message_id: Option<String>,
    subject: String,
    odoo_records: Vec<String>,
    tags: Vec<String>,
    size: u64,
}

impl From<&Message> for MessageV1 {
    fn from(send: &Message) -> Self {
        Self {
            id: send.id.to_bytes(),
            client: send.client.clone(),
            user: send.user.clone(),
            peer: send.peer,
            sender: send.sender.as_ref().map(ToString::to_string),
            eight_bit: send.body_type == BodyType::EightBitMime,
            smtputf8: send.smtputf8,
            message_id: send.message_id.as_ref().map(ToString::to_string),
            subject: send.subject.clone(),
            odoo_records: send.odoo_records.iter().map(ToString::to_string).collect(),
            tags: send.tags.clone(),
            size: send.size,
        }
    }
}

impl MessageV1 {
    fn into_domain(self) -> Option<Message> {
        Some(Message {
            user: self.user,
            peer: self.peer,
            sender: self.sender.map(|sender| sender.parse()).transpose().ok()?,
            body_type: if self.eight_bit { BodyType::EightBitMime } else { BodyType::SevenBit },
            smtputf8: self.smtputf8,
            message_id: self.message_id.as_deref().and_then(MessageId::parse),
            subject: self.subject,
            odoo_records: self.odoo_records.iter().filter_map(|record| OdooRecord::parse(record)).collect(),
            tags: self.tags,
            size: self.size,
            ..Message::new(TrackingId::from_bytes(self.id), self.client)
        })
    }
}

/// Version 2: adds the DSN parameters and the data for recognising duplicates.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct MessageV2 {
    message: MessageV1,
    dsn: DsnV1,
    wants_dsn: bool,
    dsn_for: Option<ReportedRecipientV1>,
    body_fingerprint: Option<u64>,
}

impl From<&Message> for MessageV2 {
    fn from(send: &Message) -> Self {
        Self {
            message: MessageV1::from(send),
            dsn: DsnV1::from(&send.dsn),
            wants_dsn: send.wants_dsn,
            dsn_for: send.dsn_for.map(ReportedRecipientV1::from),
            body_fingerprint: send.body_fingerprint,
        }
    }
}

impl MessageV2 {
    fn into_domain(self) -> Option<Message> {
        Some(Message {
            dsn: self.dsn.into(),
            wants_dsn: self.wants_dsn,
            dsn_for: self.dsn_for.map(ReportedRecipient::from),
            body_fingerprint: self.body_fingerprint,
            ..self.message.into_domain()?
        })
    }
}

/// Version 3: adds the lane and the route.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct MessageV3 {
    message: MessageV2,
    bulk: bool,
    route: Option<Box<str>>,
}

impl From<&Message> for MessageV3 {
    fn from(send: &Message) -> Self {
        Self { message: MessageV2::from(send), bulk: send.lane == Lane::Bulk, route: send.route.clone() }
    }
}

impl MessageV3 {
    fn lane(&self) -> Lane {
        if self.bulk { Lane::Bulk } else { Lane::Transactional }
    }

    fn into_domain(self) -> Option<Message> {
        Some(Message { lane: self.lane(), route: self.route, ..self.message.into_domain()? })
    }
}

/// Version 4: adds the changes to the message's `List-Unsubscribe`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct MessageV4 {
    message: MessageV3,
    list_unsubscribe_rewritten: bool,
}

impl From<&Message> for MessageV4 {
    fn from(send: &Message) -> Self {
        Self { message: MessageV3::from(send), list_unsubscribe_rewritten: send.list_unsubscribe_rewritten }
    }
}

impl MessageV4 {
    fn into_domain(self) -> Option<Message> {
        Some(Message {
            list_unsubscribe_rewritten: self.list_unsubscribe_rewritten,
            ..self.message.into_domain()?
        })
    }
}

/// Version 5: adds the other changes to the header section.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct MessageV5 {
    message: MessageV4,
    header_changes: Vec<String>,
}

impl From<&Message> for MessageV5 {
    fn from(send: &Message) -> Self {
        Self { message: MessageV4::from(send), header_changes: send.header_changes.clone() }
    }
}

impl MessageV5 {
    /// Returns the DSN action that the sender is due for a recipient in that state, if any.
    pub(crate) fn dsn_action(&self, place: u16, state: RecipientState) -> Option<DsnAction> {
        let MessageV2 { dsn, wants_dsn, .. } = &self.message.message.message;
        let wish = dsn.recipients.iter().find(|wish| wish.recipient_index == place);
        DsnAction::for_state(state, wish.and_then(DsnRecipientV1::notify)).filter(|_| *wants_dsn)
    }

    /// Returns the Message-ID without brackets.
    pub(crate) fn message_id(&self) -> Option<&str> {
        self.base().message_id.as_deref()
    }

    /// Returns the tracking id.
    pub(crate) fn id(&self) -> TrackingId {
        TrackingId::from_bytes(self.base().id)
    }

    /// Returns the submitting user, if the client was logged in.
    pub(crate) fn user(&self) -> Option<&str> {
        self.base().user.as_deref()
    }

    /// Returns the client's IP address.
    pub(crate) fn peer(&self) -> Option<std::net::IpAddr> {
        self.base().peer
    }

    /// Returns the decoded subject.
    pub(crate) fn subject(&self) -> &str {
        &self.base().subject
    }

    pub(crate) fn lane(&self) -> Lane {
        self.message.message.lane()
    }

    pub(crate) fn route(&self) -> Option<Box<str>> {
        self.message.message.route.clone()
    }

    pub(crate) fn into_domain(self) -> Option<Message> {
        Some(Message { header_changes: self.header_changes, ..self.message.into_domain()? })
    }

    /// Returns the fields of version 1.
    fn base(&self) -> &MessageV1 {
        &self.message.message.message.message
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct ReportedRecipientV1 {
    tracking_id: [u8; 16],
    recipient_index: u16,
    is_failure: bool,
}

impl From<ReportedRecipient> for ReportedRecipientV1 {
    fn from(about: ReportedRecipient) -> Self {
        let is_failure = about.action == DsnAction::Failed;
        Self { tracking_id: about.tracking_id.to_bytes(), recipient_index: about.recipient_index, is_failure }
    }
}

impl From<ReportedRecipientV1> for ReportedRecipient {
    fn from(about: ReportedRecipientV1) -> Self {
        let tracking_id = TrackingId::from_bytes(about.tracking_id);
        Self {
            tracking_id,
            recipient_index: about.recipient_index,
            action: dsn_action_from_flag(about.is_failure),
        }
    }
}

/// Decodes the DSN action from the stored flag "is a failure".
pub(crate) fn dsn_action_from_flag(failure: bool) -> DsnAction {
    if failure { DsnAction::Failed } else { DsnAction::Delivered }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct DsnV1 {
    ret_full: Option<bool>,
    envid: Option<Box<str>>,
    recipients: Vec<DsnRecipientV1>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct DsnRecipientV1 {
    recipient_index: u16,
    /// Success, failure, delay.
    notify: Option<[bool; 3]>,
    orcpt: Option<Box<str>>,
}

impl DsnRecipientV1 {
    fn notify(&self) -> Option<Notify> {
        self.notify.map(|[success, failure, delay]| Notify { success, failure, delay })
    }
}

impl From<&DsnParameters> for DsnV1 {
    fn from(dsn: &DsnParameters) -> Self {
        let recipients = dsn.recipients.iter().map(|(place, wish)| {
            let notify = wish.notify.map(|notify| [notify.success, notify.failure, notify.delay]);
            DsnRecipientV1 { recipient_index: *place, notify, orcpt: wish.orcpt.clone() }
        });
        Self {
            ret_full: dsn.ret.map(|ret| ret == Ret::Full),
            envid: dsn.envid.clone(),
            recipients: recipients.collect(),
        }
    }
}

impl From<DsnV1> for DsnParameters {
    fn from(dsn: DsnV1) -> Self {
        let wish = |wish: DsnRecipientV1| {
            (wish.recipient_index, DsnRecipient { notify: wish.notify(), orcpt: wish.orcpt })
        };
        let recipients = dsn.recipients.into_iter().map(wish);
        Self {
            ret: dsn.ret_full.map(|full| if full { Ret::Full } else { Ret::Headers }),
            envid: dsn.envid,
            recipients: recipients.collect(),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct AcceptedMessageV1 {
    message: MessageV1,
    recipients: Vec<String>,
}

impl AcceptedMessageV1 {
    fn into_domain(self) -> Option<AcceptedMessage> {
        Some(AcceptedMessage {
            message: self.message.into_domain()?,
            recipients: parse_mailboxes(&self.recipients)?,
        })
    }
}

#[derive(Serialize, Deserialize)]
struct AcceptedMessageV2 {
    message: MessageV2,
    recipients: Vec<String>,
}

impl AcceptedMessageV2 {
    fn into_domain(self) -> Option<AcceptedMessage> {
        Some(AcceptedMessage {
            message: self.message.into_domain()?,
            recipients: parse_mailboxes(&self.recipients)?,
        })
    }
}

#[derive(Serialize, Deserialize)]
struct AcceptedMessageV3 {
    message: MessageV3,
    recipients: Vec<String>,
}

impl AcceptedMessageV3 {
    fn into_domain(self) -> Option<AcceptedMessage> {
        Some(AcceptedMessage {
            message: self.message.into_domain()?,
            recipients: parse_mailboxes(&self.recipients)?,
        })
    }
}

#[derive(Serialize, Deserialize)]
struct AcceptedMessageV4 {
    message: MessageV4,
    recipients: Vec<String>,
}

impl AcceptedMessageV4 {
    fn into_domain(self) -> Option<AcceptedMessage> {
        Some(AcceptedMessage {
            message: self.message.into_domain()?,
            recipients: parse_mailboxes(&self.recipients)?,
        })
    }
}

#[derive(Serialize, Deserialize)]
struct AcceptedMessageV5 {
    message: MessageV5,
    recipients: Vec<String>,
}

impl From<&AcceptedMessage> for AcceptedMessageV5 {
    fn from(accepted: &AcceptedMessage) -> Self {
        let recipients = accepted.recipients.iter().map(ToString::to_string).collect();
        Self { message: MessageV5::from(&accepted.message), recipients }
    }
}

impl AcceptedMessageV5 {
    fn into_domain(self) -> Option<AcceptedMessage> {
        Some(AcceptedMessage {
            message: self.message.into_domain()?,
            recipients: parse_mailboxes(&self.recipients)?,
        })
    }
}

fn parse_mailboxes(texts: &[String]) -> Option<Vec<Mailbox>> {
    texts.iter().map(|text| text.parse().ok()).collect()
}

#[derive(Serialize, Deserialize)]
struct AttemptStartedV1 {
    id: [u8; 16],
    at: u64,
    upstream: String,
}

impl From<&AttemptStarted> for AttemptStartedV1 {
    fn from(begun: &AttemptStarted) -> Self {
        Self { id: begun.id.to_bytes(), at: begun.at.as_millis(), upstream: begun.upstream.clone() }
    }
}

impl AttemptStartedV1 {
    fn into_domain(self) -> AttemptStarted {
        AttemptStarted {
            id: TrackingId::from_bytes(self.id),
            at: Timestamp::from_millis(self.at),
            upstream: self.upstream,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct DuplicateSubmissionV1 {
    id: [u8; 16],
    at: u64,
    peer: Option<std::net::IpAddr>,
    recipients: Vec<u16>,
}

impl From<&DuplicateSubmission> for DuplicateSubmissionV1 {
    fn from(repeated: &DuplicateSubmission) -> Self {
        Self {
            id: repeated.id.to_bytes(),
            at: repeated.at.as_millis(),
            peer: repeated.peer,
            recipients: repeated.recipients.clone(),
        }
    }
}

impl DuplicateSubmissionV1 {
    fn into_domain(self) -> DuplicateSubmission {
        DuplicateSubmission {
            id: TrackingId::from_bytes(self.id),
            at: Timestamp::from_millis(self.at),
            peer: self.peer,
            recipients: self.recipients,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct QueueActionV1 {
    id: [u8; 16],
    at: u64,
    verb: QueueVerbV1,
    operator: String,
    reason: String,
}

impl From<&QueueAction> for QueueActionV1 {
    fn from(action: &QueueAction) -> Self {
        Self {
            id: action.id.to_bytes(),
            at: action.at.as_millis(),
            verb: action.verb.into(),
            operator: action.operator.clone(),
            reason: action.reason.clone(),
        }
    }
}

impl QueueActionV1 {
    fn into_domain(self) -> QueueAction {
        QueueAction {
            id: TrackingId::from_bytes(self.id),
            at: Timestamp::from_millis(self.at),
            verb: self.verb.into(),
            operator: self.operator,
            reason: self.reason,
        }
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum QueueVerbV1 {
    Retry,
    Hold,
    Release,
    Bounce,
    Delete,
}

impl From<QueueVerb> for QueueVerbV1 {
    fn from(verb: QueueVerb) -> Self {
        match verb {
            QueueVerb::Retry => Self::Retry,
            QueueVerb::Hold => Self::Hold,
            QueueVerb::Release => Self::Release,
            QueueVerb::Bounce => Self::Bounce,
            QueueVerb::Delete => Self::Delete,
        }
    }
}

impl From<QueueVerbV1> for QueueVerb {
    fn from(stored: QueueVerbV1) -> Self {
        match stored {
            QueueVerbV1::Retry => Self::Retry,
            QueueVerbV1::Hold => Self::Hold,
            QueueVerbV1::Release => Self::Release,
            QueueVerbV1::Bounce => Self::Bounce,
            QueueVerbV1::Delete => Self::Delete,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct BreakerOverrideV1 {
    upstream: String,
    at: u64,
    open: bool,
    operator: String,
    reason: String,
}

impl From<&BreakerOverride> for BreakerOverrideV1 {
    fn from(switch: &BreakerOverride) -> Self {
        let BreakerOverride { upstream, at, open, operator, reason } = switch.clone();
        Self { upstream, at: at.as_millis(), open, operator, reason }
    }
}

impl BreakerOverrideV1 {
    fn into_domain(self) -> BreakerOverride {
        let Self { upstream, at, open, operator, reason } = self;
        BreakerOverride { upstream, at: Timestamp::from_millis(at), open, operator, reason }
    }
}

#[derive(Serialize, Deserialize)]
struct SinkAckV1 {
    sink: String,
    at: u64,
    position: Position,
    dead_letters: Vec<(Position, u16, String)>,
}

impl SinkAckV1 {
    fn into_domain(self) -> SinkAck {
        SinkAckV2 { base: self, delayed: Vec::new(), resumed: Vec::new() }.into_domain()
    }
}

#[derive(Serialize, Deserialize)]
struct SinkAckV2 {
    base: SinkAckV1,
    /// Due time, position and index of each entry.
    delayed: Vec<(u64, Position, u16)>,
    resumed: Vec<(u64, Position, u16)>,
}

impl From<&SinkAck> for SinkAckV2 {
    fn from(handed: &SinkAck) -> Self {
        let refused = handed.dead_letters.iter();
        let dead_letters =
            refused.map(|(LogCursor(place), part, why)| (*place, *part, why.clone())).collect();
        let at = handed.at.as_millis();
        let base = SinkAckV1 { sink: handed.sink.clone(), at, position: handed.position.0, dead_letters };
        let write = |delayed: &[DelayedDelivery]| {
            delayed.iter().map(|one| (one.retry_at.as_millis(), one.cursor.0, one.index)).collect()
        };
        Self { base, delayed: write(&handed.delayed), resumed: write(&handed.resumed) }
    }
}

impl SinkAckV2 {
    fn into_domain(self) -> SinkAck {
        let SinkAckV1 { sink, at, position, dead_letters } = self.base;
        let refused = dead_letters.into_iter();
        let read = |delayed: Vec<(u64, Position, u16)>| {
            let read = |(due, place, index)| DelayedDelivery {
                retry_at: Timestamp::from_millis(due),
                cursor: LogCursor(place),
                index,
            };
            delayed.into_iter().map(read).collect()
        };
        SinkAck {
            sink,
            at: Timestamp::from_millis(at),
            position: LogCursor(position),
            dead_letters: refused.map(|(place, part, why)| (LogCursor(place), part, why)).collect(),
            delayed: read(self.delayed),
            resumed: read(self.resumed),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct ErasureV1 {
    at: u64,
    operator: String,
    reason: String,
    pseudonym: String,
    salt: [u8; 16],
}

impl From<&Erasure> for ErasureV1 {
    fn from(erased: &Erasure) -> Self {
        let Erasure { at, operator, reason, pseudonym, salt } = erased.clone();
        Self { at: at.as_millis(), operator, reason, pseudonym, salt }
    }
}

impl ErasureV1 {
    fn into_domain(self) -> Erasure {
        let Self { at, operator, reason, pseudonym, salt } = self;
        Erasure { at: Timestamp::from_millis(at), operator, reason, pseudonym, salt }
    }
}

#[derive(Serialize, Deserialize)]
struct PollCursorV1 {
    upstream: String,
    until: u64,
}

impl From<&PollCursor> for PollCursorV1 {
    fn from(polled: &PollCursor) -> Self {
        Self { upstream: polled.upstream.clone(), until: polled.until.as_millis() }
    }
}

impl PollCursorV1 {
    fn into_domain(self) -> PollCursor {
        PollCursor { upstream: self.upstream, until: Timestamp::from_millis(self.until) }
    }
}

#[derive(Serialize, Deserialize)]
struct AttemptOutcomeV1 {
    id: [u8; 16],
    at: u64,
    upstream: String,
    results: Vec<(Vec<u16>, AttemptStatusV1, DiagnosticV1)>,
    next_attempt: Option<u64>,
}

impl From<&AttemptOutcome> for AttemptOutcomeV1 {
    fn from(outcome: &AttemptOutcome) -> Self {
        let results = outcome.results.iter();
        Self {
            id: outcome.id.to_bytes(),
            at: outcome.at.as_millis(),
            upstream: outcome.upstream.clone(),
            results: results
                .map(|s| (s.recipients.clone(), s.status.into(), (&s.diagnostic).into()))
                .collect(),
            next_attempt: outcome.next_attempt.map(Timestamp::as_millis),
        }
    }
}

impl AttemptOutcomeV1 {
    fn into_domain(self) -> AttemptOutcome {
        let settled = self.results.into_iter().map(|(recipients, standing, words)| RecipientResult {
            recipients,
            status: standing.into(),
            diagnostic: words.into(),
        });
        AttemptOutcome {
            id: TrackingId::from_bytes(self.id),
            at: Timestamp::from_millis(self.at),
            upstream: self.upstream,
            results: settled.collect(),
            next_attempt: self.next_attempt.map(Timestamp::from_millis),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct ReceivedEventV1 {
    upstream: String,
    received_at: u64,
    token: Option<(String, u64, [u8; 16])>,
    event: ProviderEventV1,
}

impl From<&ReceivedEvent> for ReceivedEventV1 {
    fn from(notice: &ReceivedEvent) -> Self {
        Self {
            upstream: notice.upstream.clone(),
            received_at: notice.received_at.as_millis(),
            token: notice.token.as_ref().map(|(token, at, digest)| (token.clone(), at.as_millis(), *digest)),
            event: ProviderEventV1::from(&notice.event),
        }
    }
}

impl ReceivedEventV1 {
    fn into_domain(self) -> ReceivedEvent {
        ReceivedEvent {
            upstream: self.upstream,
            received_at: Timestamp::from_millis(self.received_at),
            source: EventSource::Webhook,
            token: self.token.map(|(token, at, digest)| (token, Timestamp::from_millis(at), digest)),
            event: self.event.into(),
        }
    }
}

/// Version 2: adds the source of the event.
#[derive(Serialize, Deserialize)]
struct ReceivedEventV2 {
    base: ReceivedEventV1,
    from_poll: bool,
}

impl From<&ReceivedEvent> for ReceivedEventV2 {
    fn from(notice: &ReceivedEvent) -> Self {
        Self { base: ReceivedEventV1::from(notice), from_poll: notice.source == EventSource::Poll }
    }
}

impl ReceivedEventV2 {
    fn into_domain(self) -> ReceivedEvent {
        ReceivedEvent { source: event_source_from_flag(self.from_poll), ..self.base.into_domain() }
    }
}

#[derive(Serialize, Deserialize)]
struct DeadLetterV1 {
    upstream: String,
    received_at: u64,
    from_poll: bool,
    token: Option<(String, u64, [u8; 16])>,
    body_digest: [u8; 16],
    reason: String,
}

impl From<&DeadLetter> for DeadLetterV1 {
    fn from(dead: &DeadLetter) -> Self {
        Self {
            upstream: dead.upstream.clone(),
            received_at: dead.received_at.as_millis(),
            from_poll: dead.source == EventSource::Poll,
            token: dead.token.as_ref().map(|(token, at, digest)| (token.clone(), at.as_millis(), *digest)),
            body_digest: dead.body_digest,
            reason: dead.reason.clone(),
        }
    }
}

impl DeadLetterV1 {
    fn into_domain(self) -> DeadLetter {
        DeadLetter {
            upstream: self.upstream,
            received_at: Timestamp::from_millis(self.received_at),
            source: event_source_from_flag(self.from_poll),
            token: self.token.map(|(token, at, digest)| (token, Timestamp::from_millis(at), digest)),
            body_digest: self.body_digest,
            reason: self.reason,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct EventReplayV1 {
    id: [u8; 16],
    at: u64,
    operator: String,
    upstream: String,
    from_poll: bool,
    previous: Option<ProviderEventV1>,
    event: ProviderEventV1,
}

impl From<&EventReplay> for EventReplayV1 {
    fn from(replay: &EventReplay) -> Self {
        Self {
            id: replay.id.to_bytes(),
            at: replay.at.as_millis(),
            operator: replay.operator.clone(),
            upstream: replay.upstream.clone(),
            from_poll: replay.source == EventSource::Poll,
            previous: replay.previous.as_ref().map(ProviderEventV1::from),
            event: ProviderEventV1::from(&replay.event),
        }
    }
}

impl EventReplayV1 {
    fn into_domain(self) -> EventReplay {
        EventReplay {
            id: TrackingId::from_bytes(self.id),
            at: Timestamp::from_millis(self.at),
            operator: self.operator,
            reason: String::new(),
            upstream: self.upstream,
            source: event_source_from_flag(self.from_poll),
            previous: self.previous.map(ProviderEvent::from),
            event: self.event.into(),
        }
    }
}

/// Version 2: adds the reason.
#[derive(Serialize, Deserialize)]
struct EventReplayV2 {
    base: EventReplayV1,
    reason: String,
}

impl From<&EventReplay> for EventReplayV2 {
    fn from(replay: &EventReplay) -> Self {
        Self { base: EventReplayV1::from(replay), reason: replay.reason.clone() }
    }
}

impl EventReplayV2 {
    fn into_domain(self) -> EventReplay {
        EventReplay { reason: self.reason, ..self.base.into_domain() }
    }
}

/// Decodes the event source from the stored flag "was polled".
pub(crate) fn event_source_from_flag(polled: bool) -> EventSource {
    if polled { EventSource::Poll } else { EventSource::Webhook }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ProviderEventV1 {
    kind: u8,
    at: u64,
    dedup_key: String,
    recipient: Option<String>,
    tracking_id: Option<[u8; 16]>,
    message_id: Option<String>,
    automated: bool,
    test_mode: bool,
    diagnostic: DiagnosticV1,
}

impl From<&ProviderEvent> for ProviderEventV1 {
    fn from(event: &ProviderEvent) -> Self {
        Self {
            kind: event_kind_code(event.kind),
            at: event.at.as_millis(),
            dedup_key: event.dedup_key.clone(),
            recipient: event.recipient.clone(),
            tracking_id: event.tracking_id.map(TrackingId::to_bytes),
            message_id: event.message_id.as_ref().map(ToString::to_string),
            automated: event.automated,
            test_mode: event.test_mode,
            diagnostic: DiagnosticV1::from(&event.diagnostic),
        }
    }
}

impl From<ProviderEventV1> for ProviderEvent {
    fn from(stored: ProviderEventV1) -> Self {
        Self {
            kind: event_kind_from_code(stored.kind),
            at: Timestamp::from_millis(stored.at),
            dedup_key: stored.dedup_key,
            recipient: stored.recipient,
            tracking_id: stored.tracking_id.map(TrackingId::from_bytes),
            message_id: stored.message_id.as_deref().and_then(MessageId::parse),
            automated: stored.automated,
            test_mode: stored.test_mode,
            diagnostic: stored.diagnostic.into(),
        }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct DiagnosticV1 {
    name: String,
    code: Option<u16>,
    enhanced_status: Option<String>,
    text: Option<String>,
    host: Option<String>,
    url: Option<String>,
}

impl From<&Diagnostic> for DiagnosticV1 {
    fn from(words: &Diagnostic) -> Self {
        let Diagnostic { name, code, enhanced_status, text, host, url } = words.clone();
        Self { name, code, enhanced_status, text, host, url }
    }
}

impl From<DiagnosticV1> for Diagnostic {
    fn from(stored: DiagnosticV1) -> Self {
        let DiagnosticV1 { name, code, enhanced_status, text, host, url } = stored;
        Self { name, code, enhanced_status, text, host, url }
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum AttemptStatusV1 {
    Queued,
    Relayed,
    Bounced,
    Failed,
    Expired,
    Unknown,
    Cancelled,
    Suppressed,
}

impl From<AttemptStatus> for AttemptStatusV1 {
    fn from(standing: AttemptStatus) -> Self {
        match standing {
            AttemptStatus::Queued => Self::Queued,
            AttemptStatus::Relayed => Self::Relayed,
            AttemptStatus::Bounced => Self::Bounced,
            AttemptStatus::Failed => Self::Failed,
            AttemptStatus::Expired => Self::Expired,
            AttemptStatus::Unknown => Self::Unknown,
            AttemptStatus::Cancelled => Self::Cancelled,
            AttemptStatus::Suppressed => Self::Suppressed,
        }
    }
}

impl From<AttemptStatusV1> for AttemptStatus {
    fn from(stored: AttemptStatusV1) -> Self {
        match stored {
            AttemptStatusV1::Queued => Self::Queued,
            AttemptStatusV1::Relayed => Self::Relayed,
            AttemptStatusV1::Bounced => Self::Bounced,
            AttemptStatusV1::Failed => Self::Failed,
            AttemptStatusV1::Expired => Self::Expired,
            AttemptStatusV1::Unknown => Self::Unknown,
            AttemptStatusV1::Cancelled => Self::Cancelled,
            AttemptStatusV1::Suppressed => Self::Suppressed,
        }
    }
}

/// Returns the index of a kind in [`EventKind::ALL`]. New kinds are only ever appended to that list.
pub(crate) fn event_kind_code(kind: EventKind) -> u8 {
    EventKind::ALL.iter().position(|known| *known == kind).map_or(u8::MAX, |place| place as u8)
}

pub(crate) fn event_kind_from_code(code: u8) -> EventKind {
    EventKind::ALL.get(usize::from(code)).copied().unwrap_or(EventKind::Unknown)
}
