//! Stored forms of provider events: received, undecodable and replayed ones, and the cursor of a poll.

use crate::record::diagnostic::DiagnosticV1;
use mailtrail_mail::{MessageId, Timestamp, TrackingId};
use mailtrail_trail::{
    DeadLetter, EventKind, EventReplay, EventSource, PollCursor, ProviderEvent, ReceivedEvent,
};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
pub(crate) struct PollCursorV1 {
    upstream: String,
    until: u64,
}

impl From<&PollCursor> for PollCursorV1 {
    fn from(polled: &PollCursor) -> Self {
        Self { upstream: polled.upstream.clone(), until: polled.until.as_millis() }
    }
}

impl PollCursorV1 {
    pub fn into_domain(self) -> PollCursor {
        PollCursor { upstream: self.upstream, until: Timestamp::from_millis(self.until) }
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct ReceivedEventV1 {
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
    pub fn into_domain(self) -> ReceivedEvent {
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
pub(crate) struct ReceivedEventV2 {
    base: ReceivedEventV1,
    from_poll: bool,
}

impl From<&ReceivedEvent> for ReceivedEventV2 {
    fn from(notice: &ReceivedEvent) -> Self {
        Self { base: ReceivedEventV1::from(notice), from_poll: notice.source == EventSource::Poll }
    }
}

impl ReceivedEventV2 {
    pub fn into_domain(self) -> ReceivedEvent {
        ReceivedEvent { source: event_source_from_flag(self.from_poll), ..self.base.into_domain() }
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct DeadLetterV1 {
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
    pub fn into_domain(self) -> DeadLetter {
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
pub(crate) struct EventReplayV1 {
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
    pub fn into_domain(self) -> EventReplay {
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
pub(crate) struct EventReplayV2 {
    base: EventReplayV1,
    reason: String,
}

impl From<&EventReplay> for EventReplayV2 {
    fn from(replay: &EventReplay) -> Self {
        Self { base: EventReplayV1::from(replay), reason: replay.reason.clone() }
    }
}

impl EventReplayV2 {
    pub fn into_domain(self) -> EventReplay {
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

/// Returns the index of a kind in [`EventKind::ALL`]. New kinds are only ever appended to that list.
pub(crate) fn event_kind_code(kind: EventKind) -> u8 {
    EventKind::ALL.iter().position(|known| *known == kind).map_or(u8::MAX, |place| place as u8)
}

pub(crate) fn event_kind_from_code(code: u8) -> EventKind {
    EventKind::ALL.get(usize::from(code)).copied().unwrap_or(EventKind::Unknown)
}
