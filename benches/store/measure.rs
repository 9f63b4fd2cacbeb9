//! Reading the machine, and writing tables.

use mailtrail_mail::Clock;
use mailtrail_store::{OpenError, OpenReport, Store};
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, io};

/// Opens a store as soon as its former owner has let go of it; how long the opening itself took.
pub fn open_when_unlocked(directory: &Path, clock: Clock) -> io::Result<(Store, OpenReport, Duration)> {
    let asked = Instant::now();
    loop {
        let begun = Instant::now();
        match Store::open(directory, clock) {
            Ok((store, report)) => return Ok((store, report, begun.elapsed())),
            Err(OpenError::Locked(_)) if asked.elapsed() < LOCK_TIMEOUT => std::thread::sleep(POLL_INTERVAL),
            Err(error) => return Err(io::Error::other(error)),
        }
    }
}

/// Bytes of the files below a directory, as allocated on the disk.
pub fn disk_usage(directory: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes +=
            if metadata.is_dir() { disk_usage(&entry.path())? } else { metadata.blocks() * STAT_BLOCK_BYTES };
    }
    Ok(bytes)
}

/// Bytes of this process in memory: now, and at most so far.
pub fn process_memory() -> io::Result<(u64, u64)> {
    let status = fs::read_to_string("/proc/self/status")?;
    let bytes = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    Ok((bytes("VmRSS:"), bytes("VmHWM:")))
}

/// The nearest rank.
pub fn percentile(values: &mut [Duration], share: f64) -> Duration {
    values.sort_unstable();
    let rank = (share * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// The middle one, or between the two in the middle.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        length => (values[(length - 1) / 2] + values[length / 2]) / 2.0,
    }
}

pub fn to_mib(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

pub fn to_milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// A table of figures: the first column names the row.
pub fn markdown_table(header: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &[&str]| format!("| {} |\n", cells.join(" | "));
    let mut text = line(header) + "|---|" + &"--:|".repeat(header.len() - 1) + "\n";
    for row in rows {
        text += &line(&row.iter().map(String::as_str).collect::<Vec<_>>());
    }
    text.trim_end().to_owned()
}

/// stat(2): blocks are counted in these bytes, whatever the file system's own are.
const STAT_BLOCK_BYTES: u64 = 512;
/// A store's threads let go of it behind their last write.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(5);
