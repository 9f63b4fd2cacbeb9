/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Kept.
    Kept,
    /// Known already; nothing changed.
    Known,
    /// Genuine, and nobody understands it: it is put aside.
    Buried,
    /// Nobody proves himself so.
    Refused,
    /// Larger than anything that is reported.
    TooLarge,
    /// Its framing is no HTTP.
    Malformed,
    /// In a content coding.
    Coded,
    /// From an address that was refused too often.
    Limited,
    /// Not now, through our own fault.
    NotNow,
}

impl Answer {
    /// The word for metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Known => "known",
            Self::Buried => "dead",
            Self::Refused => "refused",
            Self::TooLarge => "too-large",
            Self::Malformed => "malformed",
            Self::Coded => "coded",
            Self::Limited => "limited",
            Self::NotNow => "not-now",
        }
    }
}
