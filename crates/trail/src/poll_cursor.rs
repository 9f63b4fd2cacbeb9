use mailtrail_mail::Timestamp;

/// Progress of polling a provider for events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PollCursor {
    /// Upstream of the provider.
    pub upstream: String,
    /// Time up to which all events are received; no new event from before appears any more.
    pub until: Timestamp,
}
