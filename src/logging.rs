//! Where the program's own log goes: standard error, which journald or a terminal reads.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};
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
