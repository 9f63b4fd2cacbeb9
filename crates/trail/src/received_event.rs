//! A provider event as it was received.

use crate::provider_event::ProviderEvent;
use mailtrail_mail::Timestamp;

/// A verified provider event.
#[derive(Clone, Debug, PartialEq)]
pub struct ReceivedEvent {
    /// Upstream of the sending provider.
    pub upstream: String,
    /// Time of receipt.
    pub received_at: Timestamp,
    /// Source of the event.
    pub source: EventSource,
    /// One-time token and time of the signature, if signed, and a digest of the body that came with it.
    pub token: Option<(String, Timestamp, [u8; 16])>,
    /// The decoded event.
    pub event: ProviderEvent,
}

/// Source of a provider event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventSource {
    /// A webhook request of the provider.
    Webhook,
    /// Polling: fetched by the relay because no webhook delivered it.
    Poll,
}

/// Key by which an event was correlated with its message, most reliable first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CorrelatedBy {
    /// Our tracking id.
    TrackingId,
    /// Message-ID and recipient.
    MessageId,
}

impl CorrelatedBy {
    /// Returns the keyword for tables and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TrackingId => "tracking-id",
            Self::MessageId => "message-id",
        }
    }
}
