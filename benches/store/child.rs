//! What happens in processes of its own: memory is a process's, and only a process can be killed.

use crate::lookup::{self, LookupResult};
use crate::measure::{open_when_unlocked, process_memory, to_mib};
use crate::traffic::SyntheticTraffic;
use crate::{Options, churn};
use mailtrail_mail::Clock;
use mailtrail_store::Store;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// What a child process is started for.
#[derive(Clone, Copy, clap::ValueEnum)]
pub enum ChildRole {
    /// Fills a store and waits to be killed.
    Load,
    /// Opens a store and looks things up.
    Open,
    /// Opens a store, lives through a day with it, and waits to be killed.
    Day,
}

/// What loading came to.
#[derive(Serialize, Deserialize)]
pub struct LoadResult {
    pub seconds: f64,
    pub rss_mib: f64,
    pub peak_mib: f64,
}

/// What opening came to.
#[derive(Serialize, Deserialize)]
pub struct OpenResult {
    pub seconds: f64,
    /// Records that the ledger did not have yet.
    pub replayed: u64,
    /// Why the ledger was rebuilt, if something was wrong with it.
    pub rebuilt: Option<String>,
    pub rss_mib: f64,
    pub peak_mib: f64,
    pub lookups: Vec<LookupResult>,
    /// Behind the lookups.
    pub rss_after_mib: f64,
}

/// A child process that runs; killed when dropped, if it has not ended.
pub struct ChildProcess(Child);

impl ChildProcess {
    /// Starts this program again, with numbers as its options say.
    pub fn start(role: ChildRole, directory: &Path, numbers: &[(&str, u64)]) -> io::Result<Self> {
        let role = match role {
            ChildRole::Load => "load",
            ChildRole::Open => "open",
            ChildRole::Day => "day",
        };
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--bench", "--child", role, "--directory"]).arg(directory);
        for (option, number) in numbers {
            command.args([option, number.to_string().as_str()]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map(Self)
    }

    /// What it says; too long a silence is an error.
    pub fn read_report<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        let (said, hear) = mpsc::channel();
        let output = self.0.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = said.send(BufReader::new(output).read_line(&mut line).map(|_| line));
        });
        let line = hear.recv_timeout(CHILD_TIMEOUT).map_err(|_| io::ErrorKind::TimedOut)??;
        Ok(serde_json::from_str(&line)?)
    }

    /// `kill -9`.
    pub fn sigkill(mut self) -> io::Result<()> {
        self.0.kill()?;
        self.0.wait().map(drop)
    }

    /// Waits for its end, which comes by itself.
    pub fn wait(mut self) -> io::Result<()> {
        drop(self.0.stdin.take());
        self.0.wait().map(drop)
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The part of a child process. It says one line; those that are to be killed wait for that with the store open.
pub async fn run_child(role: ChildRole, directory: &Path, options: &Options) -> io::Result<()> {
    match role {
        ChildRole::Load => {
            let (_store, loaded) = load_store(directory, options.sends).await?;
            report_and_wait(&loaded)
        }
        ChildRole::Day => {
            let (_store, lived) = churn::simulate_day(directory, options.day, options.daily).await?;
            report_and_wait(&lived)
        }
        ChildRole::Open => {
            println!("{}", serde_json::to_string(&inspect_store(directory, options.sends).await?)?);
            Ok(())
        }
    }
}

/// The parent kills this process here; if that is gone itself, the input ends.
fn report_and_wait(said: &impl Serialize) -> io::Result<()> {
    println!("{}", serde_json::to_string(said)?);
    io::stdin().read_to_end(&mut Vec::new()).map(drop)
}

/// A month's sends.
pub fn month_of_traffic(sends: u64) -> SyntheticTraffic {
    SyntheticTraffic::new(sends, Duration::from_secs(30 * 86_400))
}

async fn load_store(directory: &Path, sends: u64) -> io::Result<(Store, LoadResult)> {
    let (store, ..) = open_when_unlocked(directory, Clock::System)?;
    let begun = Instant::now();
    tokio::time::timeout(CHILD_TIMEOUT, month_of_traffic(sends).store_lifecycles(&store, 0..sends)).await??;
    let seconds = begun.elapsed().as_secs_f64();
    let (rss, peak) = process_memory()?;
    Ok((store, LoadResult { seconds, rss_mib: to_mib(rss), peak_mib: to_mib(peak) }))
}

async fn inspect_store(directory: &Path, sends: u64) -> io::Result<OpenResult> {
    let (store, report, took) = open_when_unlocked(directory, Clock::System)?;
    let (rss, peak) = process_memory()?;
    let lookups =
        lookup::measure_lookups(&store, month_of_traffic(sends), sends).map_err(io::Error::other)?;
    let (rss_after, _) = process_memory()?;
    store.checkpoint().await;
    Ok(OpenResult {
        seconds: took.as_secs_f64(),
        replayed: report.replayed_records,
        rebuilt: report.rebuild_reason,
        rss_mib: to_mib(rss),
        peak_mib: to_mib(peak),
        lookups,
        rss_after_mib: to_mib(rss_after),
    })
}

/// Longest time for one child's work.
pub const CHILD_TIMEOUT: Duration = Duration::from_secs(3600);
