//! Simulated days: what the store has grown to after each.
//!
//! Every day is a process of its own, which is killed at its end: so every morning's opening is one after a `kill -9`,
//! and the memory is that of the store and not what an allocator has kept of closed ones.

use crate::chart;
use crate::child::{CHILD_TIMEOUT, ChildProcess, ChildRole};
use crate::measure::{disk_usage, open_when_unlocked, process_memory, to_mib, to_milliseconds};
use crate::traffic::SyntheticTraffic;
use mailtrail_mail::{Clock, ManualClock};
use mailtrail_store::{MaintenanceError, Retention, Store};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::io;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// One day.
#[derive(Serialize, Deserialize)]
pub struct DayFigures {
    /// In the morning.
    pub open_ms: f64,
    /// In the evening, as the following.
    pub rss_mib: f64,
    pub journal_mib: f64,
    pub ledger_mib: f64,
}

/// Lives through the days and writes what each was like to `<output>.csv` and `<output>.svg`.
pub fn measure_growth(days: u32, daily: u64, output: &Path) -> io::Result<()> {
    let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR"))?;
    let mut lived: Vec<DayFigures> = Vec::new();
    for day in 0..u64::from(days) {
        let numbers = [("--day", day), ("--daily", daily)];
        let mut process = ChildProcess::start(ChildRole::Day, folder.path(), &numbers)?;
        lived.push(process.read_report()?);
        process.sigkill()?;
        eprintln!("day {}", day + 1);
    }
    let mut table = String::from("day,journal_mib,ledger_mib,rss_mib,open_ms\n");
    for (number, day) in (1..).zip(&lived) {
        let DayFigures { open_ms, rss_mib, journal_mib, ledger_mib } = day;
        let _ = writeln!(table, "{number},{journal_mib:.1},{ledger_mib:.1},{rss_mib:.1},{open_ms:.1}");
    }
    print!("{table}");
    let (csv, svg) = (output.with_extension("csv"), output.with_extension("svg"));
    std::fs::write(&csv, table)?;
    std::fs::write(
        &svg,
        chart::draw_svg(&format!("{daily} sends a day"), &lived).map_err(io::Error::other)?,
    )?;
    println!("{}\n{}", csv.display(), svg.display());
    Ok(())
}

/// One day, from 0, of `daily` sends.
pub async fn simulate_day(directory: &Path, day: u64, daily: u64) -> io::Result<(Store, DayFigures)> {
    let traffic = SyntheticTraffic::new(daily, ONE_DAY);
    let sends = day * daily..(day + 1) * daily;
    let evening = traffic.accepted_at(sends.end);
    let yesterdays = sends.start.saturating_sub(daily)..sends.start;
    let time: &'static ManualClock = Box::leak(Box::default());
    time.advance_to(traffic.accepted_at(sends.start));
    let (store, _, took) = open_when_unlocked(directory, Clock::Manual(time))?;
    let work = async {
        traffic.finish_queued(&store, yesterdays).await?;
        traffic.store_lifecycles(&store, sends).await
    };
    tokio::time::timeout(CHILD_TIMEOUT, work).await??;
    time.advance_to(evening);
    for _ in 0..3 {
        let keeper = store.clone();
        let keep = move || -> Result<(), MaintenanceError> {
            while keeper.run_maintenance_step(&BENCH_RETENTION, evening)? {}
            Ok(())
        };
        tokio::task::spawn_blocking(keep).await?.map_err(io::Error::other)?;
        store.checkpoint().await;
    }
    let (rss, _) = process_memory()?;
    let day = DayFigures {
        open_ms: to_milliseconds(took),
        rss_mib: to_mib(rss),
        journal_mib: to_mib(disk_usage(&directory.join("journal"))?),
        ledger_mib: to_mib(disk_usage(&directory.join("ledger"))?),
    };
    Ok((store, day))
}

const ONE_DAY: Duration = Duration::from_secs(86_400);
const BENCH_RETENTION: Retention = Retention {
    ledger: ONE_DAY.saturating_mul(7),
    bodies: Duration::ZERO,
    events: ONE_DAY.saturating_mul(7),
};
