use crate::provider_event::Diagnostic;
use mailtrail_mail::Timestamp;

/// What somebody who did not send our mail says about a contact of ours. It can be joined to no send, and changes none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContactHint {
    /// What happened.
    pub kind: ContactHintKind,
    /// When it happened, by the reporter's clock.
    pub at: Timestamp,
    /// Whom it happened to; absent where it concerns nobody alone.
    pub address: Option<String>,
    /// The reporter's lists that it concerns. ActiveCampaign's `0` is the whole account.
    pub lists: Vec<String>,
    /// The reporter's own words: with a bounce its type behind the name, and code, status and description.
    pub diagnostic: Diagnostic,
}

/// What happened to a contact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContactHintKind {
    /// The address bounced there.
    Bounced,
    /// The contact wants no more of a list.
    Unsubscribed,
    /// It opened a campaign's mail.
    Opened,
    /// It clicked a link there.
    Clicked,
    /// It answered.
    Replied,
    /// It passed the mail on.
    Forwarded,
    /// A campaign was started.
    CampaignStarted,
    /// A word that this version does not know; kept.
    Unknown,
}

impl ContactHintKind {
    /// Every kind.
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

    /// The word for tables and JSON.
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
