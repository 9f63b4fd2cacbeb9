//! How fast the store takes messages, what a big one costs, and whether it stays bounded over the days.
//!
//! `cargo bench --bench store` measures the first two, `-- --churn` the third; `-- --help` lists the options. Everything
//! is counted and limited in time and happens in folders below the build's, which are removed again. Nothing is
//! asserted: read the tables.
//!
//! - *store alone* ([`alone`]): messages of 4 KiB that are on stable storage, per second, as a ratio to what one writer
//!   reaches on this disk who appends 4 KiB and syncs. Disks are noisy: both are measured in turn, in rounds.
//! - *one big store* ([`big`]): what it takes on disk and in memory, how long it takes to open after a `kill -9` and
//!   after its ledger was lost, and how long lookups take.
//! - *churn* ([`churn`]): simulated days of traffic, and what the store has grown to after each.

mod alone;
mod big;
mod chart;
mod child;
mod churn;
mod lookup;
mod measure;
mod traffic;

use child::ChildRole;
use clap::Parser;
use std::io;
use std::path::PathBuf;

/// Measures the store of mailtrail.
#[derive(Parser)]
struct Options {
    /// Rounds of the store alone; 0 leaves it out
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=100))]
    rounds: u32,
    /// Sends of the big store; 0 leaves it out
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(0..=5_000_000))]
    sends: u64,
    /// Measure simulated days instead
    #[arg(long)]
    churn: bool,
    /// Simulated days
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(2..=365))]
    days: u32,
    /// Sends of a simulated day
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(100..=1_000_000))]
    daily: u64,
    /// Where churn writes <PREFIX>.csv and <PREFIX>.svg
    #[arg(long, value_name = "PREFIX", default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/churn"))]
    output: PathBuf,
    /// What a child process is started for
    #[arg(long, hide = true, requires = "directory")]
    child: Option<ChildRole>,
    /// The store of a child process
    #[arg(long, hide = true)]
    directory: Option<PathBuf>,
    /// The day that a child process lives through, from 0
    #[arg(long, hide = true, default_value_t = 0)]
    day: u64,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let options = Options::parse();
    if !options.bench {
        // `cargo test --benches` and the like: nobody wants to wait.
        println!("measures with: cargo bench --bench store");
        return Ok(());
    }
    if let (Some(role), Some(directory)) = (options.child, &options.directory) {
        return child::run_child(role, directory, &options).await;
    }
    if options.churn {
        return churn::measure_growth(options.days, options.daily, &options.output);
    }
    if options.rounds > 0 {
        println!("{}\n", alone::measure_throughput(options.rounds).await?);
    }
    if options.sends > 0 {
        println!("{}", big::measure_large_store(options.sends)?);
    }
    Ok(())
}
