//! The bounds of a session, each with its default.

use std::time::Duration;

/// What one session may cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a message after dot-unstuffing (RFC 1870). Default 25 MiB, 1 KiB to 1 GiB.
    pub max_message_bytes: u64,
    /// Recipients of one transaction. Default 1000, 1 to 10,000.
    pub max_recipients: usize,
    /// Sessions at once over all listeners. Default 1000, 1 to 100,000.
    pub max_connections: usize,
    /// Sessions at once from one address. Default 200, 1 to 100,000.
    pub max_connections_per_ip: usize,
    /// Longest time before a command is complete. Default 10 min, 10 s to 1 day: Odoo pauses for minutes between messages.
    pub command_timeout: Duration,
    /// Longest pause inside a message. Default 5 min, 10 s to 1 day.
    pub data_timeout: Duration,
    /// Longest time that one message may take. Default 1 h, 1 min to 1 day.
    pub message_timeout: Duration,
    /// Age at which a session ends, between two messages. Default 1 day, 1 min to 30 days.
    pub session_timeout: Duration,
}

impl Limits {
    /// Maximum bytes of a command line with its CRLF. RFC 4954 section 4 requires 12,288 for AUTH; other commands need
    /// far less.
    pub const MAX_COMMAND_LINE_BYTES: usize = 12_288;
    /// Commands that may fail before a session ends with 421.
    pub const MAX_ERRORS: u32 = 50;
    /// Maximum number of commands without a message before a session ends with 421. Clients that keep a session open
    /// send NOOP every few seconds.
    pub const MAX_IDLE_COMMANDS: u32 = 1000;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message_bytes: 25 << 20,
            max_recipients: 1000,
            max_connections: 1000,
            max_connections_per_ip: 200,
            command_timeout: Duration::from_secs(600),
            data_timeout: Duration::from_secs(300),
            message_timeout: Duration::from_secs(3600),
            session_timeout: Duration::from_secs(86_400),
        }
    }
}
