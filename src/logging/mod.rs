//! Where the program's own log goes: standard error, which journald or a terminal reads, or the journal itself.
//!
//! No thread that logs waits for the reader of the log (`writer`): lines that are too many are lost and counted. Addresses
//! are hidden before a line waits to be written.

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

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
    /// To journald, with fields of its own.
    Journald,
}

/// Where lines go.
#[derive(Clone, Copy, Debug)]
pub enum LogOutput<'a> {
    /// To standard error, for people.
    Text {
        /// Whether in colours.
        use_color: bool,
    },
    /// To standard error, one JSON object a line.
    Json,
    /// To the journal that listens there; where none does, to standard error.
    Journald(&'a Path),
}

/// Starts the log once per process; a second start changes nothing. What waits to be written is written when the guard is
/// dropped.
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
    // Only tests start twice.
    if started.is_err() {
        return LogGuard::none();
    }
    let _ = FILTER_HANDLE.set(handle);
    std::panic::set_hook(Box::new(log_panic));
    guard
}

/// The log takes what a panic says, too: standard error may have no reader.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    tracing::error!(thread, "{}", panic.to_string().replace('\n', " "));
}

/// Writes less or more from now on, and addresses so.
pub fn reconfigure(level: Level, addresses: AddressRedaction) {
    RedactingWriter::set_mode(addresses);
    if let Some(handle) = FILTER_HANDLE.get() {
        // It fails for a log that is no more.
        let _ = handle.reload(env_filter(level));
    }
}

fn env_filter(level: Level) -> EnvFilter {
    EnvFilter::new(format!("warn,mailtrail={}", level.as_str().to_lowercase()))
}

static FILTER_HANDLE: OnceLock<Handle<EnvFilter, Registry>> = OnceLock::new();

/// Shows how far a long work is: as a bar on a terminal, elsewhere in the log once it takes a while.
#[derive(Debug)]
pub struct ProgressReporter {
    label: &'static str,
    bar: Option<ProgressBar>,
    last_logged: Instant,
}

impl ProgressReporter {
    /// Of a work that begins now.
    pub fn new(label: &'static str) -> Self {
        Self { label, bar: None, last_logged: Instant::now() }
    }

    /// So much of it is done.
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
