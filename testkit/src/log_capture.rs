//! Capture of log lines. A unit test includes this file by its path.
#![allow(dead_code, reason = "a unit test needs only a part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io;
use std::sync::{Arc, Mutex, Once};
use tracing::Level;
use tracing::subscriber::DefaultGuard;

/// Lines that were logged on one thread, as text.
#[derive(Clone, Default)]
pub struct LogCapture(Arc<Mutex<Vec<u8>>>);

impl LogCapture {
    /// Captures lines of this thread from `INFO` on, while the guard lives.
    pub fn install(&self) -> DefaultGuard {
        self.install_at(Level::INFO)
    }

    /// Captures lines of this thread from `level` on, while the guard lives.
    pub fn install_at(&self, level: Level) -> DefaultGuard {
        enable_callsites();
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_max_level(level);
        tracing::subscriber::set_default(subscriber.with_writer(move || log.clone()).finish())
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// Returns the lines that contain this text.
    pub fn lines(&self, text: &str) -> Vec<String> {
        self.lines_with(&[text])
    }

    /// Returns the lines that contain all these texts.
    pub fn lines_with(&self, texts: &[&str]) -> Vec<String> {
        let has_all = |line: &&str| texts.iter().all(|text| line.contains(text));
        self.text().lines().filter(has_all).map(str::to_owned).collect()
    }
}

/// Keeps all log statements enabled, in the process. `tracing` caches per statement whether a subscriber wants it; a
/// thread without a subscriber that reaches a statement first would disable it for the captures of other threads.
fn enable_callsites() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let subscriber = tracing_subscriber::fmt().with_writer(io::sink).with_max_level(Level::TRACE);
        let _ = tracing::subscriber::set_global_default(subscriber.finish());
    });
}

impl io::Write for LogCapture {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().map_err(|_| io::ErrorKind::Other)?.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
