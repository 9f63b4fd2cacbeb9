//! Result of a delivery to a sink.

/// Result of offering events in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct DeliveryResult {
    /// Number of events processed from the front.
    pub processed: usize,
    /// Permanently rejected events among these, each with its reason.
    pub rejected: Vec<(usize, String)>,
    /// Delayed events among these, each with its reason; each comes again alone.
    pub delayed: Vec<(usize, String)>,
    /// Reason for which the next event was not accepted for now.
    pub retry_reason: Option<String>,
}
