//! What a provider says happened to one recipient, in mailtrail's words.

use mailtrail_mail::{MessageId, Timestamp, TrackingId};

/// One thing that happened to one recipient of one send, as a provider reported it.
#[derive(Clone, Debug, PartialEq)]
pub struct ProviderEvent {
    /// What happened.
    pub kind: EventKind,
    /// When it happened, by the provider's clock.
    pub at: Timestamp,
    /// What makes the event the same event when it is reported again, whatever carried it.
    pub dedup_key: String,
    /// Whom it happened to, as the provider wrote it: absent where it concerns everybody, empty where the provider hides
    /// whom it means.
    pub recipient: Option<String>,
    /// The tracking id that we stamped and the provider carried back.
    pub tracking_id: Option<TrackingId>,
    /// The Message-ID the provider reports.
    pub message_id: Option<MessageId>,
    /// Whether software, not a person, did it (image proxies, link scanners).
    pub automated: bool,
    /// Whether the provider only pretended to send (test mode).
    pub test_mode: bool,
    /// The provider's own words.
    pub diagnostic: Diagnostic,
}

/// The provider's own words beside ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostic {
    /// Its name for the event, with severity or reason where it has them: `failed/permanent/bounce`.
    pub name: String,
    /// An SMTP code, or the provider's own.
    pub code: Option<u16>,
    /// The enhanced status (RFC 3463), as far as given.
    pub enhanced_status: Option<String>,
    /// The remote server's text, or the provider's description.
    pub text: Option<String>,
    /// The host that said so.
    pub host: Option<String>,
    /// The link that was clicked.
    pub url: Option<String>,
}

impl Diagnostic {
    /// Code, status and text, as the other side wrote them.
    pub fn to_line(&self) -> Option<String> {
        let code = self.code.map(|code| code.to_string());
        let parts = [code.as_deref(), self.enhanced_status.as_deref(), self.text_without_status()];
        let said: Vec<_> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
        (!said.is_empty()).then(|| said.join(" "))
    }

    /// The text without the status that remote servers like to begin it with.
    pub fn text_without_status(&self) -> Option<&str> {
        let text = self.text.as_deref()?;
        let rest = self.enhanced_status.as_deref().and_then(|enhanced| text.strip_prefix(enhanced));
        Some(rest.map_or(text, str::trim_start))
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventKind {
    /// The provider took the message.
    Accepted,
    /// The remote server took the message.
    Delivered,
    /// A temporary failure; the provider tries again.
    Deferred,
    /// A permanent failure.
    Bounced,
    /// The provider did not try: the address is on its suppression list.
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
    /// A word that this version does not know; kept, changes nothing.
    Unknown,
}

impl EventKind {
    /// Every kind.
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

    /// Whether the mail cannot arrive because of it.
    pub const fn is_permanent_failure(self) -> bool {
        matches!(self, Self::Bounced | Self::Suppressed | Self::Rejected)
    }

    /// The word of the event vocabulary.
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
