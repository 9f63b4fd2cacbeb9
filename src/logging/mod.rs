//! The program log: to standard error, read by journald or a terminal, or to journald directly.
//!
//! Threads that log never wait for the reader of the log (`writer`): excess lines are lost and counted. Addresses are
//! redacted before a line is queued.

mod journald;
mod redact;
mod writer;

pub(crate) use redact::AddressRedaction;

use crate::logging::writer::LogGuard;

use crate::logging::journald::{JournaldLayer, JournaldSocket};
use crate::logging::redact::RedactingWriter;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::panic::PanicHookInfo;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tracing::Level;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt};

/// Format of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Human-readable text.
    Text,
    /// One JSON object per line.
    Json,
    /// To journald, with structured fields.
    Journald,
}

/// Destination and format of the log.
#[derive(Clone, Copy, Debug)]
pub enum LogOutput<'a> {
    /// Human-readable lines on standard error.
    Text {
        /// Whether the lines are coloured.
        use_color: bool,
    },
    /// JSON objects on standard error, one per line.
    Json,
    /// The journald at this socket; standard error if there is none.
    Journald(&'a Path),
}

/// Starts the log, once per process; a second call changes nothing. Dropping the guard writes queued lines.
pub fn init(level: Level, form: LogOutput<'_>, addresses: AddressRedaction) -> LogGuard {
    RedactingWriter::set_mode(addresses);
    let (filter, handle) = reload::Layer::new(env_filter(level));
    let registry = tracing_subscriber::registry().with(filter);
    let (journal, missed) = match form {
        LogOutput::Journald(path) => match JournaldSocket::connect(path) {
            Ok(journal) => (Some(journal), None),
            Err(error) => (None, Some((path, error))),
        },
        LogOutput::Text { .. } | LogOutput::Json => (None, None),
    };
    let (started, guard) = if let Some(journal) = journal {
        let (lines, guard) = writer::spawn_writer(journal);
        (registry.with(JournaldLayer(lines)).try_init(), guard)
    } else {
        let (lines, guard) = writer::spawn_writer(std::io::stderr());
        let layer = fmt::layer().with_writer(RedactingWriter(lines));
        let started = match form {
            LogOutput::Json => registry.with(layer.json()).try_init(),
            LogOutput::Text { use_color } => {
                registry.with(layer.with_ansi(use_color).with_target(false)).try_init()
            }
            LogOutput::Journald(_) => registry.with(layer.with_ansi(false).with_target(false)).try_init(),
        };
        (started, guard)
    };
    if let Some((path, error)) = missed {
        let journal = path.display();
        tracing::warn!(%journal, %error, "no journald listens; the log goes to standard error: see `journal` in [log]");
    }
    // Only tests start the log twice.
    if started.is_err() {
        return LogGuard::none();
    }
    let _ = FILTER_HANDLE.set(handle);
    std::panic::set_hook(Box::new(log_panic));
    guard
}

/// Panics are logged, too, because standard error may have no reader.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    tracing::error!(thread, "{}", panic.to_string().replace('\n', " "));
}

/// Changes the level and the redaction of addresses.
pub fn reconfigure(level: Level, addresses: AddressRedaction) {
    RedactingWriter::set_mode(addresses);
    if let Some(handle) = FILTER_HANDLE.get() {
        // Fails only after the log has ended.
        let _ = handle.reload(env_filter(level));
    }
}

fn env_filter(level: Level) -> EnvFilter {
    EnvFilter::new(format!("warn,mailtrail={}", level.as_str().to_lowercase()))
}

static FILTER_HANDLE: OnceLock<Handle<EnvFilter, Registry>> = OnceLock::new();

/// Reports the progress of long work: as a bar on a terminal, otherwise as log lines after a while.
#[derive(Debug)]
pub struct ProgressReporter {
    label: &'static str,
    bar: Option<ProgressBar>,
    last_logged: Instant,
}

impl ProgressReporter {
    /// Starts reporting.
    pub fn new(label: &'static str) -> Self {
        Self { label, bar: None, last_logged: Instant::now() }
    }

    /// Reports the amount done so far.
    pub fn update(&mut self, done: u64, total: u64) {
        if std::io::stderr().is_terminal() {
            let bar = self.bar.get_or_insert_with(|| {
                let style = ProgressStyle::with_template("{msg} {wide_bar} {percent}% {eta} left");
                let bar = ProgressBar::new(total).with_message(self.label);
                bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
            });
            bar.set_position(done);
        } else if self.last_logged.elapsed() >= PROGRESS_LOG_INTERVAL {
            self.last_logged = Instant::now();
            tracing::info!(percent = done * 100 / total.max(1), "{}", self.label);
        }
    }
}

impl Drop for ProgressReporter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

const PROGRESS_LOG_INTERVAL: Duration = Duration::from_secs(10);
