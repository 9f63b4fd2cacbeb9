//! What a provider says happened to one recipient, in mailtrail's words.

use crate::clock::Timestamp;
use crate::id::TrackingId;
use crate::mail::MessageId;

/// One thing that happened to one recipient of one send, as a provider reported it.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// What happened.
    pub kind: Kind,
    /// When it happened, by the provider's clock.
    pub at: Timestamp,
    /// What makes the event the same event when it is reported again, whatever carried it.
    pub identity: String,
    /// Whom it happened to, as the provider wrote it; absent where the provider names none.
    pub recipient: Option<String>,
    /// The tracking id that we stamped and the provider carried back.
    pub tracking: Option<TrackingId>,
    /// The Message-ID the provider reports.
    pub message_id: Option<MessageId>,
    /// Whether software, not a person, did it (image proxies, link scanners).
    pub by_machine: bool,
    /// Whether the provider only pretended to send (test mode).
    pub test_mode: bool,
    /// The provider's own words.
    pub words: Words,
}

/// The provider's own words beside ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// Its name for the event, with severity or reason where it has them: `failed/permanent/bounce`.
    pub name: String,
    /// An SMTP code, or the provider's own.
    pub code: Option<u16>,
    /// The enhanced status (RFC 3463), as far as given.
    pub enhanced: Option<String>,
    /// The remote server's text, or the provider's description.
    pub text: Option<String>,
    /// The host that said so.
    pub host: Option<String>,
    /// The link that was clicked.
    pub url: Option<String>,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
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

impl Kind {
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

    /// The word of the event vocabulary.
    pub const fn word(self) -> &'static str {
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
