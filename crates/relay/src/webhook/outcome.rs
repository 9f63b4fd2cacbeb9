/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestOutcome {
    /// Kept.
    Stored,
    /// Known already; nothing changed.
    Duplicate,
    /// Genuine, and nobody understands it: it is put aside.
    DeadLettered,
    /// Nobody proves himself so.
    Rejected,
    /// Larger than anything that is reported.
    TooLarge,
    /// Its framing is no HTTP.
    Malformed,
    /// In a content coding.
    UnsupportedEncoding,
    /// From an address that was refused too often.
    RateLimited,
    /// Not now, through our own fault.
    Unavailable,
}

impl RequestOutcome {
    /// The word for metrics.
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
