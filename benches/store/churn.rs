//! Simulated days: what the store has grown to after each.
//!
//! Every day is a process of its own, which is killed at its end: so every morning's opening is one after a `kill -9`,
//! and the memory is that of the store and not what an allocator has kept of closed ones.

use crate::chart;
use crate::child::{LONGEST, Process, Role};
use crate::measure::{disk, memory, mib, milliseconds, open};
use crate::traffic::Traffic;
use mailtrail_mail::{Clock, Moment};
use mailtrail_store::{Retention, Store, UpkeepError};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::io;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// One day.
#[derive(Serialize, Deserialize)]
pub struct Day {
    /// In the morning.
    pub open_ms: f64,
    /// In the evening, as the following.
    pub rss_mib: f64,
    pub journal_mib: f64,
    pub ledger_mib: f64,
}

/// Lives through the days and writes what each was like to `<output>.csv` and `<output>.svg`.
pub fn measure(days: u32, daily: u64, output: &Path) -> io::Result<()> {
    let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR"))?;
    let mut lived: Vec<Day> = Vec::new();
    for day in 0..u64::from(days) {
        let numbers = [("--day", day), ("--daily", daily)];
        let mut process = Process::start(Role::Day, folder.path(), &numbers)?;
        lived.push(process.report()?);
        process.kill()?;
        eprintln!("day {}", day + 1);
    }
    let mut table = String::from("day,journal_mib,ledger_mib,rss_mib,open_ms\n");
    for (number, day) in (1..).zip(&lived) {
        let Day { open_ms, rss_mib, journal_mib, ledger_mib } = day;
        let _ = writeln!(table, "{number},{journal_mib:.1},{ledger_mib:.1},{rss_mib:.1},{open_ms:.1}");
    }
    print!("{table}");
    let (csv, svg) = (output.with_extension("csv"), output.with_extension("svg"));
    std::fs::write(&csv, table)?;
    std::fs::write(&svg, chart::draw(&format!("{daily} sends a day"), &lived).map_err(io::Error::other)?)?;
    println!("{}\n{}", csv.display(), svg.display());
    Ok(())
}

/// One day, from 0, of `daily` sends.
pub async fn live(directory: &Path, day: u64, daily: u64) -> io::Result<(Store, Day)> {
    let traffic = Traffic::new(daily, DAY);
    let sends = day * daily..(day + 1) * daily;
    let evening = traffic.at(sends.end);
    let yesterdays = sends.start.saturating_sub(daily)..sends.start;
    let time: &'static Moment = Box::leak(Box::default());
    time.set(traffic.at(sends.start));
    let (store, _, took) = open(directory, Clock::Set(time))?;
    let work = async {
        traffic.finish_late(&store, yesterdays).await?;
        traffic.live(&store, sends).await
    };
    tokio::time::timeout(LONGEST, work).await??;
    time.set(evening);
    for _ in 0..3 {
        let keeper = store.clone();
        let keep = move || -> Result<(), UpkeepError> {
            while keeper.maintain(&RETENTION, evening)? {}
            Ok(())
        };
        tokio::task::spawn_blocking(keep).await?.map_err(io::Error::other)?;
        store.settle_down().await;
    }
    let (rss, _) = memory()?;
    let day = Day {
        open_ms: milliseconds(took),
        rss_mib: mib(rss),
        journal_mib: mib(disk(&directory.join("journal"))?),
        ledger_mib: mib(disk(&directory.join("ledger"))?),
    };
    Ok((store, day))
}

const DAY: Duration = Duration::from_secs(86_400);
const RETENTION: Retention =
    Retention { ledger: DAY.saturating_mul(7), bodies: Duration::ZERO, events: DAY.saturating_mul(7) };
