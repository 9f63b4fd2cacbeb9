use crate::provider_event::Diagnostic;
use mailtrail_mail::Timestamp;

/// Report about a contact from a service that did not send our messages. It matches no message, and changes
/// none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContactHint {
    /// Kind of the hint.
    pub kind: ContactHintKind,
    /// Time of the event by the reporter's clock.
    pub at: Timestamp,
    /// Address of the contact; absent if the event concerns no single contact.
    pub address: Option<String>,
    /// Lists of the reporter that are concerned. ActiveCampaign's `0` is the whole account.
    pub lists: Vec<String>,
    /// The reporter's own description. A bounce has its type after the name, and code, status and
    /// description.
    pub diagnostic: Diagnostic,
}

/// Kind of event of a contact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContactHintKind {
    /// The address bounced at the reporter.
    Bounced,
    /// The contact unsubscribed from a list.
    Unsubscribed,
    /// The contact opened a campaign's message.
    Opened,
    /// The contact clicked a link in a campaign's message.
    Clicked,
    /// The contact replied.
    Replied,
    /// The contact forwarded the message.
    Forwarded,
    /// A campaign was started.
    CampaignStarted,
    /// A kind that this version does not support; stored.
    Unknown,
}

impl ContactHintKind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Bounced,
        Self::Unsubscribed,
        Self::Opened,
        Self::Clicked,
        Self::Replied,
        Self::Forwarded,
        Self::CampaignStarted,
        Self::Unknown,
    ];

    /// Returns the keyword for tables and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bounced => "bounced",
            Self::Unsubscribed => "unsubscribed",
            Self::Opened => "opened",
            Self::Clicked => "clicked",
            Self::Replied => "replied",
            Self::Forwarded => "forwarded",
            Self::CampaignStarted => "campaign_started",
            Self::Unknown => "unknown",
        }
    }
}
