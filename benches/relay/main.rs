//! How fast the relay accepts and relays mail, what it costs, and how long a client waits.
//!
//! `cargo bench --bench relay` starts the release binary as a child process, between a load generator and a sink in
//! this process; `-- --help` lists the options. Everything is on loopback, a row's messages are counted and its time
//! is limited, and each row has a fresh relay. Nothing is asserted: read the table.
//!
//! - *accepted/s*: messages over the time from the first connect to the last 250. The relay promises durability with
//!   its 250, so this includes its syncs.
//! - *relayed/s*: messages over the time from the first connect until the sink has taken the last one.
//! - *p50, p99*: what a client waits from the first byte of the message to the reply to its final dot.
//! - *CPU ms*: user and system time of all of the relay's processes per message, until everything is relayed.
//! - *RSS*, *PSS*: MiB of all of the relay's processes. Where there are many, RSS counts shared pages many times and
//!   PSS is what compares.

mod load;
mod measure;
mod process;
mod relay;
mod sink;
mod table;

use clap::Parser;
use load::Work;
use relay::Kind;
use std::io;
use std::path::PathBuf;
use table::Table;

/// Measures mailtrail between a load generator and a sink on loopback.
#[derive(Parser)]
struct Options {
    /// Also measure Postfix, in turn (needs root, postfix, sasl2-bin and libsasl2-modules)
    #[arg(long)]
    postfix: bool,
    /// Messages of a row with 4 KiB messages; other rows take a share of it
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u32).range(30..=100_000))]
    messages: u32,
    /// Messages of the row `queue`; 0 leaves it out
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    queue: u32,
    /// Times that every row is measured; the table has the medians
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20))]
    runs: u32,
    /// Only rows whose label contains this
    #[arg(long, default_value = "")]
    only: String,
    /// Also write every run to this file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let options = Options::parse();
    if !options.bench {
        // `cargo test --benches` and the like: nobody wants to wait.
        println!("measures with: cargo bench --bench relay");
        return Ok(());
    }
    let mut relays = vec![Kind::Mailtrail];
    if options.postfix {
        relays.push(Kind::Postfix);
    }
    let (mut relaying, mut queueing) = (Table::new(measure::RELAYING), Table::new(measure::QUEUEING));
    for run in 1..=options.runs {
        for (label, work) in rows(&options) {
            for &kind in &relays {
                let (table, figures) = if label == QUEUE {
                    (&mut queueing, measure::queueing(kind, work).await)
                } else {
                    (&mut relaying, measure::relaying(kind, work).await)
                };
                let place = format!("run {run}, {label}, {}", kind.name());
                match figures {
                    Ok(figures) => {
                        eprintln!("{place}: {:.0}/s", figures[0]);
                        table.add(&label, kind.name(), figures);
                    }
                    Err(error) => eprintln!("{place}: {error}"),
                }
            }
        }
    }
    println!("{}\n\n{}", relaying.markdown(), queueing.markdown());
    if let Some(path) = options.json {
        let runs = [relaying.json(), queueing.json()].concat();
        std::fs::write(path, serde_json::to_string_pretty(&runs)?)?;
    }
    Ok(())
}

fn rows(options: &Options) -> Vec<(String, Work)> {
    let mut rows = Vec::new();
    for (size, share) in [(4, 1), (60, 3)] {
        let messages = options.messages as usize / share;
        for secure in [false, true] {
            let work =
                |sessions, messages, kept| Work { messages, size: size * 1024, sessions, secure, kept };
            let works = [
                work(1, messages / 3, true),
                work(10, messages, true),
                work(50, messages, true),
                work(10, messages / 3, false),
            ];
            rows.extend(works.map(|work| (label(work), work)));
        }
    }
    let queue =
        Work { messages: options.queue as usize, size: 1024, sessions: 10, secure: false, kept: true };
    rows.push((QUEUE.to_owned(), queue));
    rows.retain(|(label, work)| work.messages > 0 && label.contains(&options.only));
    rows
}

fn label(work: Work) -> String {
    let sessions = match (work.kept, work.sessions) {
        (true, 1) => "1 session".to_owned(),
        (true, many) => format!("{many} sessions"),
        (false, many) => format!("{many} at once, a session each message"),
    };
    format!("{} KiB, {sessions}{}", work.size / 1024, if work.secure { ", TLS+AUTH" } else { "" })
}

const QUEUE: &str = "queue";
