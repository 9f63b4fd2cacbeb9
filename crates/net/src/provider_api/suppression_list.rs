use mailtrail_mail::Timestamp;

/// Why a provider sends an address nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SuppressionList {
    /// It bounced.
    Bounces,
    /// Its owner reported spam.
    Complaints,
    /// Its owner unsubscribed.
    Unsubscribes,
}

impl SuppressionList {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Bounces, Self::Complaints, Self::Unsubscribes];

    /// The one behind it, in the order of [`List::ALL`].
    pub(super) fn next(self) -> Option<Self> {
        Self::ALL.into_iter().skip_while(|list| *list != self).nth(1)
    }

    /// Its name in Mailgun's paths, and in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bounces => "bounces",
            Self::Complaints => "complaints",
            Self::Unsubscribes => "unsubscribes",
        }
    }
}

/// An address on a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SuppressionEntry {
    /// As the provider wrote it.
    pub address: String,
    /// Since when, where that is known.
    pub since: Option<Timestamp>,
    /// A bounce's SMTP code, where it has one.
    pub code: Option<String>,
    /// The provider's words for why.
    pub reason: Option<String>,
    /// What was unsubscribed from; `*` is everything. Empty on the other lists.
    pub tags: Vec<String>,
}
