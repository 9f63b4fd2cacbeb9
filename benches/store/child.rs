//! What happens in processes of its own: memory is a process's, and only a process can be killed.

use crate::lookup::{self, Lookup};
use crate::measure::{memory, mib, open};
use crate::traffic::Traffic;
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
pub enum Role {
    /// Fills a store and waits to be killed.
    Load,
    /// Opens a store and looks things up.
    Open,
    /// Opens a store, lives through a day with it, and waits to be killed.
    Day,
}

/// What loading came to.
#[derive(Serialize, Deserialize)]
pub struct Loaded {
    pub seconds: f64,
    pub rss_mib: f64,
    pub peak_mib: f64,
}

/// What opening came to.
#[derive(Serialize, Deserialize)]
pub struct Opened {
    pub seconds: f64,
    /// Records that the ledger did not have yet.
    pub replayed: u64,
    /// Why the ledger was rebuilt, if something was wrong with it.
    pub rebuilt: Option<String>,
    pub rss_mib: f64,
    pub peak_mib: f64,
    pub lookups: Vec<Lookup>,
    /// Behind the lookups.
    pub rss_after_mib: f64,
}

/// A child process that runs; killed when dropped, if it has not ended.
pub struct Process(Child);

impl Process {
    /// Starts this program again, with numbers as its options say.
    pub fn start(role: Role, directory: &Path, numbers: &[(&str, u64)]) -> io::Result<Self> {
        let role = match role {
            Role::Load => "load",
            Role::Open => "open",
            Role::Day => "day",
        };
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--bench", "--child", role, "--directory"]).arg(directory);
        for (option, number) in numbers {
            command.args([option, number.to_string().as_str()]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map(Self)
    }

    /// What it says; too long a silence is an error.
    pub fn report<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        let (said, hear) = mpsc::channel();
        let output = self.0.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = said.send(BufReader::new(output).read_line(&mut line).map(|_| line));
        });
        let line = hear.recv_timeout(LONGEST).map_err(|_| io::ErrorKind::TimedOut)??;
        Ok(serde_json::from_str(&line)?)
    }

    /// `kill -9`.
    pub fn kill(mut self) -> io::Result<()> {
        self.0.kill()?;
        self.0.wait().map(drop)
    }

    /// Waits for its end, which comes by itself.
    pub fn wait(mut self) -> io::Result<()> {
        drop(self.0.stdin.take());
        self.0.wait().map(drop)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The part of a child process. It says one line; those that are to be killed wait for that with the store open.
pub async fn run(role: Role, directory: &Path, options: &Options) -> io::Result<()> {
    match role {
        Role::Load => {
            let (_store, loaded) = load(directory, options.sends).await?;
            wait_for_death(&loaded)
        }
        Role::Day => {
            let (_store, lived) = churn::live(directory, options.day, options.daily).await?;
            wait_for_death(&lived)
        }
        Role::Open => {
            println!("{}", serde_json::to_string(&look(directory, options.sends).await?)?);
            Ok(())
        }
    }
}

/// The parent kills this process here; if that is gone itself, the input ends.
fn wait_for_death(said: &impl Serialize) -> io::Result<()> {
    println!("{}", serde_json::to_string(said)?);
    io::stdin().read_to_end(&mut Vec::new()).map(drop)
}

/// A month's sends.
pub fn traffic(sends: u64) -> Traffic {
    Traffic::new(sends, Duration::from_secs(30 * 86_400))
}

async fn load(directory: &Path, sends: u64) -> io::Result<(Store, Loaded)> {
    let (store, ..) = open(directory, Clock::System)?;
    let begun = Instant::now();
    tokio::time::timeout(LONGEST, traffic(sends).live(&store, 0..sends)).await??;
    let seconds = begun.elapsed().as_secs_f64();
    let (rss, peak) = memory()?;
    Ok((store, Loaded { seconds, rss_mib: mib(rss), peak_mib: mib(peak) }))
}

async fn look(directory: &Path, sends: u64) -> io::Result<Opened> {
    let (store, report, took) = open(directory, Clock::System)?;
    let (rss, peak) = memory()?;
    let lookups = lookup::measure(&store, traffic(sends), sends).map_err(io::Error::other)?;
    let (rss_after, _) = memory()?;
    store.settle_down().await;
    Ok(Opened {
        seconds: took.as_secs_f64(),
        replayed: report.replayed,
        rebuilt: report.rebuilt,
        rss_mib: mib(rss),
        peak_mib: mib(peak),
        lookups,
        rss_after_mib: mib(rss_after),
    })
}

/// Longest time for one child's work.
pub const LONGEST: Duration = Duration::from_secs(3600);
