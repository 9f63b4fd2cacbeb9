//! Where the program's own log goes: standard error, which journald or a terminal reads.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts the log once per process; a second start changes nothing.
pub fn start(level: tracing::Level, format: Format) {
    let filter = EnvFilter::new(format!("warn,mailtrail={}", level.as_str().to_lowercase()));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Only tests start twice.
    let _ = match format {
        Format::Json => builder.json().finish().try_init(),
        Format::Text => {
            builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).finish().try_init()
        }
    };
}
