//! journald's native protocol (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>): one datagram per event, so that log
//! entries can be selected by field.
//!
//! MESSAGE also contains the fields, like the text format, because `journalctl` without options shows nothing else.
//! Addresses are redacted in every field.

use crate::logging::redact::redact;
use std::fmt::{Debug, Write as _};
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_appender::non_blocking::NonBlocking;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Sends entries to journald.
#[derive(Debug)]
pub struct JournaldSocket {
    socket: UnixDatagram,
    /// Connected for each datagram, because a restarted journald has a new socket.
    path: PathBuf,
}

impl JournaldSocket {
    /// Connects to the journald at `path`.
    pub fn connect(path: &Path) -> io::Result<Self> {
        UnixDatagram::unbound()?.connect(path)?;
        Ok(Self { socket: UnixDatagram::unbound()?, path: path.to_owned() })
    }
}

impl Write for JournaldSocket {
    fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.socket.send_to(entry, &self.path) {
            // Under systemd, standard error leads to the journal, too.
            let line = format!("{} (cannot write to journald: {error})\n", message_text(entry));
            io::stderr().write_all(line.as_bytes())?;
        }
        Ok(entry.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Formats tracing events as journal entries.
#[derive(Debug)]
pub struct JournaldLayer(pub NonBlocking);

impl<S: Subscriber> Layer<S> for JournaldLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut words = EventFields::default();
        event.record(&mut words);
        // Never fails: entries that do not fit into the channel are counted.
        let _ = self.0.clone().write_all(&words.to_entry(event.metadata()));
    }
}

/// Message and fields of an event.
#[derive(Default)]
struct EventFields {
    message: String,
    /// The fields as ` name=value`, as in the text format.
    formatted: String,
    /// The fields as pairs.
    values: Vec<(&'static str, String)>,
}

impl EventFields {
    fn to_entry(&self, metadata: &Metadata<'_>) -> Vec<u8> {
        let mut entry = Vec::with_capacity(512);
        append_field(&mut entry, "MESSAGE", &format!("{}{}", self.message, self.formatted));
        append_field(&mut entry, "PRIORITY", syslog_priority(*metadata.level()));
        append_field(&mut entry, "SYSLOG_IDENTIFIER", "mailtrail");
        append_field(&mut entry, "TARGET", metadata.target());
        for (name, value) in &self.values {
            append_field(&mut entry, &format!("MAILTRAIL_{}", name.to_uppercase().replace('.', "_")), value);
        }
        entry
    }

    fn record_field(&mut self, field: &Field, shown: &str, value: String) {
        if field.name() == "message" {
            self.message = value;
            return;
        }
        // Writing to a String cannot fail.
        let _ = write!(self.formatted, " {}={shown}", field.name());
        self.values.push((field.name(), value));
    }
}

impl Visit for EventFields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_field(field, &format!("{value:?}"), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let value = format!("{value:?}");
        self.record_field(field, &value.clone(), value);
    }
}

/// Appends a field. A value with several lines is written with its length.
fn append_field(entry: &mut Vec<u8>, name: &str, value: &str) {
    let value = redact(value);
    let value = &value[..value.floor_char_boundary(MAX_VALUE_BYTES)];
    entry.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

/// Returns the text of an entry, its first field, in one line.
fn message_text(entry: &[u8]) -> String {
    let text = match entry.strip_prefix(b"MESSAGE\n").and_then(<[u8]>::split_first_chunk) {
        Some((length, rest)) => rest.get(..u64::from_le_bytes(*length) as usize).unwrap_or(rest),
        None => entry
            .strip_prefix(b"MESSAGE=")
            .and_then(|rest| rest.split(|b| *b == b'\n').next())
            .unwrap_or(entry),
    };
    String::from_utf8_lossy(text).replace('\n', " ")
}

/// Priority by RFC 5424 section 6.2.1.
const fn syslog_priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    }
}

/// In bytes; longer values are cut. An event has few fields, and a datagram holds about 200 KiB.
const MAX_VALUE_BYTES: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_multiline_values_and_truncates_at_char_boundary() {
        let framed = |value: &str| {
            let mut entry = Vec::new();
            append_field(&mut entry, "NAME", value);
            entry
        };
        assert_eq!(framed("a=b"), b"NAME=a=b\n");
        for text in ["a=b", "a\nb"] {
            let mut entry = Vec::new();
            append_field(&mut entry, "MESSAGE", text);
            append_field(&mut entry, "PRIORITY", "6");
            assert_eq!(message_text(&entry), text.replace('\n', " "));
        }
        assert_eq!(framed("a\nb"), b"NAME\n\x03\0\0\0\0\0\0\0a\nb\n");
        let long = framed(&"ü".repeat(MAX_VALUE_BYTES));
        assert_eq!(long.len(), "NAME=\n".len() + MAX_VALUE_BYTES);
        assert_eq!(
            framed(&format!("x{}", "ü".repeat(MAX_VALUE_BYTES))).len(),
            "NAME=\n".len() + MAX_VALUE_BYTES - 1
        );
    }
}
