//! The steps of an attempt, by the names that its words carry in trails and in the journal.

/// The message is compared with what the upstream is able to take.
pub const CAPABILITY_CHECK: &str = "capabilities";
/// One recipient is named.
pub const RCPT_TO: &str = "RCPT";
/// The final dot was said.
pub const END_OF_DATA: &str = "end of data";
/// The request was made that a message goes out with over HTTP.
pub const MESSAGES_MIME: &str = "messages.mime";
/// The steps behind which the upstream had the whole message.
pub const FULL_TRANSMISSIONS: [&str; 2] = [END_OF_DATA, MESSAGES_MIME];
