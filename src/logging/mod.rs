//! Where the program's own log goes: standard error, which journald or a terminal reads.

mod redact;

pub use redact::Addresses;

use indicatif::{ProgressBar, ProgressStyle};
use redact::Redacted;
use std::io::IsTerminal;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tracing::Level;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt};

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts the log once per process; a second start changes nothing.
pub fn start(level: Level, format: Format, addresses: Addresses) {
    Redacted::set(addresses);
    let (filter, handle) = reload::Layer::new(filter(level));
    let (registry, lines) = (tracing_subscriber::registry().with(filter), fmt::layer());
    let lines = lines.with_writer(Redacted);
    let started = match format {
        Format::Json => registry.with(lines.json()).try_init(),
        Format::Text => {
            registry.with(lines.with_ansi(std::io::stderr().is_terminal()).with_target(false)).try_init()
        }
    };
    // Only tests start twice.
    if started.is_ok() {
        let _ = FILTER.set(handle);
    }
}

/// Writes less or more from now on, and addresses so.
pub fn change(level: Level, addresses: Addresses) {
    Redacted::set(addresses);
    if let Some(handle) = FILTER.get() {
        // It fails for a log that is no more.
        let _ = handle.reload(filter(level));
    }
}

fn filter(level: Level) -> EnvFilter {
    EnvFilter::new(format!("warn,mailtrail={}", level.as_str().to_lowercase()))
}

static FILTER: OnceLock<Handle<EnvFilter, Registry>> = OnceLock::new();

/// Shows how far a long work is, in bytes, once it takes a while: as a bar on a terminal, else in the log.
#[derive(Debug)]
pub struct Progress {
    what: &'static str,
    started: Instant,
    bar: Option<ProgressBar>,
    told: Instant,
}

impl Progress {
    /// Of a work that begins now.
    pub fn new(what: &'static str) -> Self {
        let now = Instant::now();
        Self { what, started: now, bar: None, told: now }
    }

    /// So much of it is done.
    pub fn show(&mut self, done: u64, total: u64) {
        if self.started.elapsed() < A_WHILE {
            return;
        }
        if std::io::stderr().is_terminal() {
            let bar = self.bar.get_or_insert_with(|| {
                let style = ProgressStyle::with_template("{msg} {wide_bar} {percent}% {eta} left");
                let bar = ProgressBar::new(total).with_message(self.what);
                bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
            });
            bar.set_position(done);
        } else if self.told.elapsed() >= BETWEEN_LINES {
            self.told = Instant::now();
            tracing::info!(percent = done * 100 / total.max(1), "{}", self.what);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

const A_WHILE: Duration = Duration::from_secs(2);
const BETWEEN_LINES: Duration = Duration::from_secs(10);
