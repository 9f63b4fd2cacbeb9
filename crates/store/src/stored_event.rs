//! Provider events as received, and their correlation state.

use crate::journal::Frame;
use crate::position::Position;
use crate::record::Record;
use mailtrail_mail::TrackingId;
use mailtrail_trail::{ContactHint, CorrelatedBy, EventSource, ProviderEvent};

/// A stored provider event.
#[derive(Clone, Debug)]
pub struct StoredEvent {
    /// Id of the event; also holds its time of receipt.
    pub id: TrackingId,
    /// Upstream of the sending provider.
    pub upstream: String,
    /// Source of the event.
    pub source: EventSource,
    /// Content, decoded if possible.
    pub content: EventContent,
    /// Position of the raw form, if known.
    pub(crate) body_position: Option<Position>,
}

/// Content of a provider event.
#[derive(Clone, Debug, PartialEq)]
pub enum EventContent {
    /// Event that was decoded.
    Event(Box<ProviderEvent>),
    /// Event that could not be decoded.
    DeadLetter {
        /// Reason of the decoding failure.
        reason: String,
    },
    /// A contact hint, from a service that sent none of our messages.
    Hint(Box<ContactHint>),
}

/// Correlation state of a provider event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventState {
    /// Correlated with a message.
    Correlated {
        /// Tracking id of the message.
        tracking_id: TrackingId,
        /// Key by which the message was found.
        correlated_by: CorrelatedBy,
    },
    /// Orphan: not correlated yet.
    Orphan,
    /// Dead letter: the event could not be decoded.
    DeadLetter,
    /// Contact hint; belongs to no message.
    Hint,
    /// Only the journal's record is left: the message or the event is past retention, or it is a duplicate.
    Unreferenced,
}

impl EventContent {
    /// Returns the event, if it was decoded.
    pub fn event(&self) -> Option<&ProviderEvent> {
        match self {
            Self::Event(event) => Some(event),
            Self::DeadLetter { .. } | Self::Hint(_) => None,
        }
    }

    /// Returns the contact hint, if it is one.
    pub fn hint(&self) -> Option<&ContactHint> {
        match self {
            Self::Hint(hint) => Some(hint),
            Self::Event(_) | Self::DeadLetter { .. } => None,
        }
    }
}

impl From<ProviderEvent> for EventContent {
    fn from(event: ProviderEvent) -> Self {
        Self::Event(Box::new(event))
    }
}

impl StoredEvent {
    /// Decodes a frame; `None` if it holds no provider event.
    pub(crate) fn from_frame(frame: &Frame) -> Option<Self> {
        let (id, upstream, source, content) =
            match Record::decode(frame.kind, frame.version, &frame.payload).ok()? {
                Record::ReceivedEvent(received_event) => (
                    received_event.id(),
                    received_event.upstream,
                    received_event.source,
                    received_event.event.into(),
                ),
                Record::DeadLetter(dead_letter) => (
                    dead_letter.id(),
                    dead_letter.upstream,
                    dead_letter.source,
                    EventContent::DeadLetter { reason: dead_letter.reason },
                ),
                Record::ReceivedHint(received_hint) => (
                    received_hint.id(),
                    received_hint.source,
                    EventSource::Webhook,
                    EventContent::Hint(Box::new(received_hint.hint)),
                ),
                _ => return None,
            };
        let body_position = (frame.body_length > 0).then_some(frame.position);
        Some(Self { id, upstream, source, content, body_position })
    }
}
