//! Provider events about one recipient, in mailtrail's vocabulary.

use mailtrail_mail::{MessageId, Timestamp, TrackingId};

/// One event of one recipient of one message, as reported by a provider.
#[derive(Clone, Debug, PartialEq)]
pub struct ProviderEvent {
    /// Kind of the event.
    pub kind: EventKind,
    /// Time of the event by the provider's clock.
    pub at: Timestamp,
    /// Key that is equal for every copy of the event, whatever carried it.
    pub dedup_key: String,
    /// Recipient as written by the provider. Absent if the event concerns all recipients; empty if the
    /// provider hides the address.
    pub recipient: Option<String>,
    /// Our tracking id, as returned by the provider.
    pub tracking_id: Option<TrackingId>,
    /// Message-ID in the event.
    pub message_id: Option<MessageId>,
    /// Whether software caused it, not a person (image proxies, link scanners).
    pub automated: bool,
    /// Whether the provider only simulated sending (test mode).
    pub test_mode: bool,
    /// The provider's own description.
    pub diagnostic: Diagnostic,
}

/// The provider's own description, which supplements our vocabulary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostic {
    /// Provider's name of the event, with severity or reason if given: `failed/permanent/bounce`.
    pub name: String,
    /// SMTP code, or the provider's own code.
    pub code: Option<u16>,
    /// Enhanced status code (RFC 3463), if given.
    pub enhanced_status: Option<String>,
    /// Text of the remote server, or the provider's description.
    pub text: Option<String>,
    /// Host that gave the reply.
    pub host: Option<String>,
    /// Clicked link.
    pub url: Option<String>,
}

impl Diagnostic {
    /// Returns code, status and text as received.
    pub fn to_line(&self) -> Option<String> {
        let code = self.code.map(|code| code.to_string());
        let parts = [code.as_deref(), self.enhanced_status.as_deref(), self.text_without_status()];
        let parts_given: Vec<_> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
        (!parts_given.is_empty()).then(|| parts_given.join(" "))
    }

    /// Returns the text without the status that remote servers often put in front of it.
    pub fn text_without_status(&self) -> Option<&str> {
        let text = self.text.as_deref()?;
        let rest = self.enhanced_status.as_deref().and_then(|enhanced| text.strip_prefix(enhanced));
        Some(rest.map_or(text, str::trim_start))
    }
}

/// Kind of a provider event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventKind {
    /// The provider accepted the message.
    Accepted,
    /// The remote server accepted the message.
    Delivered,
    /// A temporary failure; the provider tries again.
    Deferred,
    /// A permanent failure.
    Bounced,
    /// The provider did not attempt delivery: the address is on its suppression list.
    Suppressed,
    /// The provider refused the message itself.
    Rejected,
    /// The message was opened.
    Opened,
    /// A link was clicked.
    Clicked,
    /// The recipient unsubscribed.
    Unsubscribed,
    /// The recipient reported spam.
    Complained,
    /// The provider stored a message.
    Stored,
    /// A kind that this version does not support; stored without effect.
    Unknown,
}

impl EventKind {
    /// All kinds.
    pub const ALL: [Self; 12] = [
        Self::Accepted,
        Self::Delivered,
        Self::Deferred,
        Self::Bounced,
        Self::Suppressed,
        Self::Rejected,
        Self::Opened,
        Self::Clicked,
        Self::Unsubscribed,
        Self::Complained,
        Self::Stored,
        Self::Unknown,
    ];

    /// Returns whether the event rules out a delivery.
    pub const fn is_permanent_failure(self) -> bool {
        matches!(self, Self::Bounced | Self::Suppressed | Self::Rejected)
    }

    /// Returns the keyword of the event vocabulary.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Delivered => "delivered",
            Self::Deferred => "deferred",
            Self::Bounced => "bounced",
            Self::Suppressed => "suppressed",
            Self::Rejected => "failed",
            Self::Opened => "opened",
            Self::Clicked => "clicked",
            Self::Unsubscribed => "unsubscribed",
            Self::Complained => "complained",
            Self::Stored => "stored",
            Self::Unknown => "unknown",
        }
    }
}
