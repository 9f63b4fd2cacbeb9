//! Thread that writes log lines, so that no other thread waits for the reader of the log.
//!
//! Lines are queued in a channel of [`MAX_BUFFERED_LINES`]; a line that finds it full is lost and counted. When the
//! channel is empty again, the number of lost lines is logged and `mailtrail_log_lines_lost_total` increases.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

/// Ends the log. Dropping it writes the queued lines, for at most [`FLUSH_TIMEOUT`].
#[must_use = "lines are lost that are not written when the process ends"]
#[derive(Debug)]
pub struct LogGuard(Option<WorkerGuard>);

/// Starts the thread; it writes each line to `output` in one piece.
pub fn spawn_writer(output: impl Write + Send + 'static) -> (NonBlocking, LogGuard) {
    let output = CountingWriter { output, last_write_failed: false, reported_lines: 0 };
    let builder = NonBlockingBuilder::default().buffered_lines_limit(MAX_BUFFERED_LINES).thread_name("log");
    let (lines, guard) = builder.finish(output);
    // Only tests start the log twice.
    let _ = DROPPED_LINES.set(lines.error_counter());
    (lines, LogGuard(Some(guard)))
}

impl LogGuard {
    /// Guard of a log without a thread.
    pub fn none() -> Self {
        Self(None)
    }
}

impl Drop for LogGuard {
    /// The library's guard may block, because it writes to standard output when the channel is full.
    fn drop(&mut self) {
        let Some(guard) = self.0.take() else { return };
        let (flushed, wait) = mpsc::channel();
        let flush = move || {
            drop(guard);
            flushed.send(())
        };
        if std::thread::Builder::new().name("log-end".into()).spawn(flush).is_ok() {
            // The process ends in either case.
            let _ = wait.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

/// Output that counts and reports lost lines.
struct CountingWriter<W> {
    output: W,
    /// Whether writing the last line failed.
    last_write_failed: bool,
    /// Number of lost lines already reported.
    reported_lines: u64,
}

impl<W: Write> Write for CountingWriter<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let written = self.output.write_all(line);
        self.last_write_failed = written.is_err();
        if self.last_write_failed {
            UNWRITTEN_LINES.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    /// Called when the channel is empty.
    fn flush(&mut self) -> io::Result<()> {
        let lost = count_lost_lines();
        if lost > self.reported_lines {
            metrics::counter!("mailtrail_log_lines_lost_total").absolute(lost);
            // Reporting to a failing output would lose one more line.
            if !self.last_write_failed {
                let lines = lost - self.reported_lines;
                self.reported_lines = lost;
                tracing::warn!(lines, "log lines were lost; the reader of the log is too slow");
            }
        }
        self.output.flush()
    }
}

/// Lines that found the channel full or could not be written.
fn count_lost_lines() -> u64 {
    let dropped = DROPPED_LINES.get().map_or(0, ErrorCounter::dropped_lines);
    UNWRITTEN_LINES.load(Ordering::Relaxed) + dropped as u64
}

static DROPPED_LINES: OnceLock<ErrorCounter> = OnceLock::new();
static UNWRITTEN_LINES: AtomicU64 = AtomicU64::new(0);
/// Maximum number of queued lines, about 200 bytes each.
const MAX_BUFFERED_LINES: usize = 8192;
/// Time for queued lines at the end of the process.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
