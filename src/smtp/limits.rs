//! The bounds of a session, each with its default.

use std::time::Duration;

/// What one session may cost.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a message after dot-unstuffing (RFC 1870). Default 25 MiB, 1 KiB to 1 GiB.
    pub message_size: u64,
    /// Recipients of one transaction. Default 1000, 1 to 10,000.
    pub recipients: usize,
    /// Sessions at once over all listeners. Default 1000, 1 to 100,000.
    pub connections: usize,
    /// Sessions at once from one address. Default 200, 1 to 100,000.
    pub connections_per_ip: usize,
    /// Longest pause before a command. Default 10 min, 10 s to 1 day: Odoo pauses for minutes between messages.
    pub command_timeout: Duration,
    /// Longest pause inside a message. Default 5 min, 10 s to 1 day.
    pub data_timeout: Duration,
}

impl Limits {
    /// Bytes of a command line with its CRLF. RFC 4954 section 4 asks for 12,288 in AUTH; the rest needs far less.
    pub const COMMAND_LINE: usize = 12_288;
    /// Commands that may fail before a session ends with 421.
    pub const ERRORS: u32 = 50;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_size: 25 << 20,
            recipients: 1000,
            connections: 1000,
            connections_per_ip: 200,
            command_timeout: Duration::from_secs(600),
            data_timeout: Duration::from_secs(300),
        }
    }
}
