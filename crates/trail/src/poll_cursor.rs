use mailtrail_mail::Timestamp;

/// A provider was asked for its events, and everything up to a time is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PollCursor {
    /// The upstream whose provider was asked.
    pub upstream: String,
    /// No event from before appears any more that was not taken.
    pub until: Timestamp,
}
