//! journald's native protocol (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>): one datagram an event, so that what was
//! logged can be asked for by its fields.
//!
//! MESSAGE has the fields behind its words, as text has: `journalctl` without options shows nothing else, and so do those
//! who watch it. Addresses are hidden in each of the fields.

use crate::logging::redact::as_wanted;
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
pub struct Journal {
    socket: UnixDatagram,
    /// It is named each time: a journald that starts anew has another socket there.
    path: PathBuf,
}

impl Journal {
    /// The one that listens there.
    pub fn open(path: &Path) -> io::Result<Self> {
        UnixDatagram::unbound()?.connect(path)?;
        Ok(Self { socket: UnixDatagram::unbound()?, path: path.to_owned() })
    }
}

impl Write for Journal {
    fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.socket.send_to(entry, &self.path) {
            // Under systemd that leads to the journal, too.
            let line = format!("{} (the journal takes nothing: {error})\n", message_of(entry));
            io::stderr().write_all(line.as_bytes())?;
        }
        Ok(entry.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes entries of events.
#[derive(Debug)]
pub struct Entries(pub NonBlocking);

impl<S: Subscriber> Layer<S> for Entries {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut words = Words::default();
        event.record(&mut words);
        // It never fails: what finds no room is counted.
        let _ = self.0.clone().write_all(&words.entry(event.metadata()));
    }
}

/// What an event says.
#[derive(Default)]
struct Words {
    message: String,
    /// ` name=value` of each of the others, as text has them.
    fields: String,
    /// The same, apart.
    values: Vec<(&'static str, String)>,
}

impl Words {
    fn entry(&self, metadata: &Metadata<'_>) -> Vec<u8> {
        let mut entry = Vec::with_capacity(512);
        put(&mut entry, "MESSAGE", &format!("{}{}", self.message, self.fields));
        put(&mut entry, "PRIORITY", priority(*metadata.level()));
        put(&mut entry, "SYSLOG_IDENTIFIER", "mailtrail");
        put(&mut entry, "TARGET", metadata.target());
        for (name, value) in &self.values {
            put(&mut entry, &format!("MAILTRAIL_{}", name.to_uppercase().replace('.', "_")), value);
        }
        entry
    }

    fn field(&mut self, field: &Field, shown: &str, value: String) {
        if field.name() == "message" {
            self.message = value;
            return;
        }
        // Writing to a String does not fail.
        let _ = write!(self.fields, " {}={shown}", field.name());
        self.values.push((field.name(), value));
    }
}

impl Visit for Words {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field, &format!("{value:?}"), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let value = format!("{value:?}");
        self.field(field, &value.clone(), value);
    }
}

/// Appends a field. A value of several lines is written with its length.
fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    let value = as_wanted(value);
    let value = &value[..value.floor_char_boundary(LONGEST)];
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

/// The text of an entry, whose first field it is, in one line.
fn message_of(entry: &[u8]) -> String {
    let text = match entry.strip_prefix(b"MESSAGE\n").and_then(<[u8]>::split_first_chunk) {
        Some((length, rest)) => rest.get(..u64::from_le_bytes(*length) as usize).unwrap_or(rest),
        None => entry
            .strip_prefix(b"MESSAGE=")
            .and_then(|rest| rest.split(|b| *b == b'\n').next())
            .unwrap_or(entry),
    };
    String::from_utf8_lossy(text).replace('\n', " ")
}

/// As syslog counts (RFC 5424 section 6.2.1).
const fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    }
}

/// Bytes of a value; what is longer is cut. An event has a few fields, and a datagram about 200 KiB.
const LONGEST: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_framed_by_their_lines_and_cut_between_characters() {
        let framed = |value: &str| {
            let mut entry = Vec::new();
            put(&mut entry, "NAME", value);
            entry
        };
        assert_eq!(framed("a=b"), b"NAME=a=b\n");
        for text in ["a=b", "a\nb"] {
            let mut entry = Vec::new();
            put(&mut entry, "MESSAGE", text);
            put(&mut entry, "PRIORITY", "6");
            assert_eq!(message_of(&entry), text.replace('\n', " "));
        }
        assert_eq!(framed("a\nb"), b"NAME\n\x03\0\0\0\0\0\0\0a\nb\n");
        let long = framed(&"ü".repeat(LONGEST));
        assert_eq!(long.len(), "NAME=\n".len() + LONGEST);
        assert_eq!(framed(&format!("x{}", "ü".repeat(LONGEST))).len(), "NAME=\n".len() + LONGEST - 1);
    }
}
