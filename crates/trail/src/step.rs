//! Steps of an attempt, by their names in diagnostics of trails and of the journal.

/// Comparison of the message with the upstream's capabilities.
pub const CAPABILITY_CHECK: &str = "capabilities";
/// Transmission of one recipient.
pub const RCPT_TO: &str = "RCPT";
/// Transmission of the final dot.
pub const END_OF_DATA: &str = "end of data";
/// HTTP request that sends a message.
pub const MESSAGES_MIME: &str = "messages.mime";
/// Steps after which the upstream had the whole message.
pub const FULL_TRANSMISSIONS: [&str; 2] = [END_OF_DATA, MESSAGES_MIME];
