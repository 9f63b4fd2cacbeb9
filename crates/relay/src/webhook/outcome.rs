/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestOutcome {
    /// Committed to the store.
    Stored,
    /// Known already; nothing changed.
    Duplicate,
    /// Authentic but undecodable; stored as a dead letter.
    DeadLettered,
    /// Authentication failed.
    Rejected,
    /// Larger than anything that is reported.
    TooLarge,
    /// Its framing is no HTTP.
    Malformed,
    /// In a content coding.
    UnsupportedEncoding,
    /// From an address that was refused too often.
    RateLimited,
    /// Not processed because of a condition here; the provider should repeat it.
    Unavailable,
}

impl RequestOutcome {
    /// Returns the label value for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "kept",
            Self::Duplicate => "known",
            Self::DeadLettered => "dead",
            Self::Rejected => "refused",
            Self::TooLarge => "too-large",
            Self::Malformed => "malformed",
            Self::UnsupportedEncoding => "coded",
            Self::RateLimited => "limited",
            Self::Unavailable => "not-now",
        }
    }
}
