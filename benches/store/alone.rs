//! The store alone: durable messages per second beside what the disk gives.

use crate::measure::{markdown_table, median, open_when_unlocked, percentile, to_milliseconds};
use crate::traffic::{MESSAGE_BYTES, SyntheticTraffic, sample_message};
use mailtrail_mail::Clock;
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::task::JoinSet;

/// What all rounds gave for one number of writers.
struct WriterRow {
    writers: usize,
    /// Ratio to the disk that an issue of the project sets.
    goal: f64,
    rates: Vec<f64>,
    ratios: Vec<f64>,
    latencies: Vec<Duration>,
}

/// Measures in rounds; each row of a round stands between two looks at the disk.
pub async fn measure_throughput(rounds: u32) -> io::Result<String> {
    let mut rows = WRITER_GOALS.map(|(writers, goal)| WriterRow {
        writers,
        goal,
        rates: Vec::new(),
        ratios: Vec::new(),
        latencies: Vec::new(),
    });
    let mut disk = Vec::new();
    for round in 1..=rounds {
        let mut before = measure_fsync_rate()?;
        for row in &mut rows {
            let (rate, waits) = measure_put_rate(row.writers).await?;
            let after = measure_fsync_rate()?;
            let ratio = rate * 2.0 / (before + after);
            eprintln!("round {round}, {} writers: {rate:.0}/s, {ratio:.2} F", row.writers);
            row.rates.push(rate);
            row.ratios.push(ratio);
            row.latencies.extend(waits);
            disk.extend([before, after]);
            before = after;
        }
    }
    let lines: Vec<_> = rows.iter_mut().map(WriterRow::format_cells).collect();
    let (least, most) = (disk.iter().copied().reduce(f64::min), disk.iter().copied().reduce(f64::max));
    let f = format!(
        "Store alone, {MESSAGE_BYTES} B messages. F, one writer's append and sync: {:.0}/s ({:.0} to {:.0}).",
        median(&mut disk),
        least.unwrap_or(0.0),
        most.unwrap_or(0.0),
    );
    let header = ["writers", "accepted/s", "ratio to F", "goal", "least", "most", "p50 ms", "p99 ms"];
    Ok(format!("{f}\n\n{}", markdown_table(&header, &lines)))
}

impl WriterRow {
    fn format_cells(&mut self) -> Vec<String> {
        let ratio = median(&mut self.ratios);
        let [least, most] = [self.ratios.first(), self.ratios.last()].map(|end| end.copied().unwrap_or(0.0));
        vec![
            self.writers.to_string(),
            format!("{:.0}", median(&mut self.rates)),
            format!("{ratio:.2}"),
            format!("≥ {}", self.goal),
            format!("{least:.2}"),
            format!("{most:.2}"),
            format!("{:.2}", to_milliseconds(percentile(&mut self.latencies, 0.50))),
            format!("{:.2}", to_milliseconds(percentile(&mut self.latencies, 0.99))),
        ]
    }
}

/// F: times per second that one writer appends as much as a message and syncs.
fn measure_fsync_rate() -> io::Result<f64> {
    sync_filesystem()?;
    let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR"))?;
    let mut file = File::create(folder.path().join("calibration"))?;
    let (message, begun, mut times) = (sample_message(), Instant::now(), 0);
    while begun.elapsed() < CALIBRATION_TIME {
        file.write_all(&message)?;
        file.sync_data()?;
        times += 1;
    }
    Ok(f64::from(times) / begun.elapsed().as_secs_f64())
}

/// Messages per second that a fresh store keeps for `writers`, and how long each writer waited for each.
async fn measure_put_rate(writers: usize) -> io::Result<(f64, Vec<Duration>)> {
    sync_filesystem()?;
    let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR"))?;
    let (store, ..) = open_when_unlocked(folder.path(), Clock::System)?;
    // A million a day: no two ids differ by their random part alone.
    let traffic = SyntheticTraffic::new(1_000_000, Duration::from_secs(86_400));
    let (message, next, mut tasks) = (sample_message(), Arc::new(AtomicU64::new(0)), JoinSet::new());
    let begun = Instant::now();
    for _ in 0..writers {
        let (store, message, next) = (store.clone(), message.clone(), next.clone());
        tasks.spawn(async move {
            let mut waits = Vec::new();
            while begun.elapsed() < MEASURING_TIME {
                let accepted = traffic.accepted_message(next.fetch_add(1, Ordering::Relaxed));
                let asked = Instant::now();
                store.put_message(accepted, message.clone()).await?;
                waits.push(asked.elapsed());
            }
            Ok::<_, mailtrail_store::CommitError>(waits)
        });
    }
    let mut waits = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        waits.extend(ended?.map_err(io::Error::other)?);
    }
    let rate = waits.len() as f64 / begun.elapsed().as_secs_f64();
    store.checkpoint().await;
    Ok((rate, waits))
}

/// Lets the disk finish with what came before, removed files too, lest the next one pays for it.
fn sync_filesystem() -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(env!("CARGO_TARGET_TMPDIR"))?)?)
}

/// Writers at once, and the ratio to F that they are to reach.
const WRITER_GOALS: [(usize, f64); 3] = [(1, 0.6), (16, 5.0), (64, 8.0)];
/// How long the disk is looked at.
const CALIBRATION_TIME: Duration = Duration::from_millis(500);
/// How long the store takes messages.
const MEASURING_TIME: Duration = Duration::from_secs(2);
