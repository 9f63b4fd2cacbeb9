use mailtrail_mail::Timestamp;

/// Suppression list of a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SuppressionList {
    /// Addresses that bounced.
    Bounces,
    /// Its owner reported spam.
    Complaints,
    /// Addresses that unsubscribed.
    Unsubscribes,
}

impl SuppressionList {
    /// All lists, in the order of reading.
    pub const ALL: [Self; 3] = [Self::Bounces, Self::Complaints, Self::Unsubscribes];

    /// Returns the next list in the order of [`Self::ALL`].
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
    /// Time of the entry, if known.
    pub since: Option<Timestamp>,
    /// A bounce's SMTP code, where it has one.
    pub code: Option<String>,
    /// Provider's reason.
    pub reason: Option<String>,
    /// Tags of the unsubscription; `*` means all. Empty on the other lists.
    pub tags: Vec<String>,
}
