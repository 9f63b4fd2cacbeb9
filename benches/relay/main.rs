//! How fast the relay accepts and relays mail, what it costs, and how long a client waits.
//!
//! `cargo bench --bench relay` starts the release binary as a child process, between a load generator and a sink in
//! this process; `-- --help` lists the options. Everything is on loopback, a row's messages are counted and its time
//! is limited, and each row has a fresh relay. Nothing is asserted: read the tables. Where there is a peer, the first
//! has one line a row: mailtrail's rates, the peer's, and mailtrail's figures over the peer's.
//!
//! - *accepted/s*: messages over the time from the first connect to the last 250. The relay promises durability with
//!   its 250, so this includes its syncs.
//! - *relayed/s*: messages over the time from the first connect until the sink has taken the last one.
//! - *p50, p99*: what a client waits from the first byte of the message to the reply to its final dot.
//! - *CPU ms*: user and system time of all of the relay's processes per message, until everything is relayed.
//! - *syncs 5 ms slower*: by a library that is made with the C compiler and loaded before the relay's own.
//! - *upstream 100 ms away*: each byte between relay and sink takes 50 ms, however many are under way.
//! - *events/s*: webhooks over the time from the first connect to the last answer. Each is durable, and brought to its
//!   mail, when it is answered; *p50* and *p99* are what the provider waits. A row has a fresh relay, and with
//!   `--webhooks` in turn a fresh receiver in Python (`receiver.py`), which promises to be durable too.
//! - *RSS*, *PSS*: MiB of all of the relay's processes. Where there are many, RSS counts shared pages many times and
//!   PSS is what compares.

mod far;
mod load;
mod measure;
mod process;
mod relay;
mod sink;
mod table;
mod webhooks;

use clap::Parser;
use load::Work;
use measure::{Column, Scene};
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
    /// Only the rows of webhooks, beside a receiver in Python that inserts into PostgreSQL (needs python3 with venv, the
    /// Python package index, and PostgreSQL's programs)
    #[arg(long, conflicts_with = "postfix")]
    webhooks: bool,
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
    if options.webhooks {
        relays.push(Kind::Python);
    }
    let mut tables = TABLES.map(Table::new);
    for run in 1..=options.runs {
        for row in rows(&options) {
            for &kind in relays.iter().filter(|kind| row.scene.suits(**kind)) {
                let place = format!("run {run}, {}, {}", row.label, kind.name());
                match row.scene.measure(kind, row.work).await {
                    Ok(figures) => {
                        let (_, title, digits) = row.scene.columns()[0];
                        eprintln!("{place}: {:.digits$} {title}", figures[0]);
                        let table = tables.iter_mut().find(|table| table.has(row.scene.columns()));
                        table.expect("each scene has a table").add(&row.label, kind.name(), figures);
                    }
                    Err(error) => eprintln!("{place}: {error}"),
                }
            }
        }
    }
    if options.postfix {
        println!("{}\n", tables[0].condensed());
    }
    for table in tables.iter().filter(|table| !table.is_empty()) {
        println!("{}\n", table.markdown());
    }
    if let Some(path) = options.json {
        let runs: Vec<_> = tables.iter().flat_map(Table::json).collect();
        std::fs::write(path, serde_json::to_string_pretty(&runs)?)?;
    }
    Ok(())
}

/// One load in one scene.
struct Row {
    label: String,
    scene: Scene,
    work: Work,
}

fn rows(options: &Options) -> Vec<Row> {
    let messages = options.messages as usize;
    let mut rows = near_rows(messages);
    for work in [kept(4, 1, messages / 6), kept(4, 50, messages)] {
        rows.push(Row { label: format!("{}, syncs 5 ms slower", label(work)), scene: Scene::SlowSync, work });
    }
    for connections in [20, 50] {
        let label = format!("4 KiB, upstream 100 ms away, {connections} connections");
        rows.push(Row { label, scene: Scene::Far(connections), work: kept(4, 50, messages * 2 / 3) });
    }
    if options.queue > 0 {
        rows.push(Row {
            label: "queue".into(),
            scene: Scene::Queue,
            work: kept(1, 10, options.queue as usize),
        });
    }
    for secure in [false, true] {
        let work = Work { secure, ..kept(0, IDLE_SESSIONS, 0) };
        let label = format!("idle, {IDLE_SESSIONS} sessions{}", if secure { ", TLS+AUTH" } else { "" });
        rows.push(Row { label, scene: Scene::Idle, work });
    }
    for (clients, events) in [(1, messages / 3), (16, messages)] {
        let label = format!("webhooks, {clients} {}", if clients == 1 { "client" } else { "clients" });
        rows.push(Row { label, scene: Scene::Webhooks, work: kept(0, clients, events) });
    }
    let work = kept(0, BURST_CLIENTS, messages * 5);
    let label = format!("webhooks of our mail, 2 KiB, {BURST_CLIENTS} clients");
    rows.push(Row { label, scene: Scene::Burst(messages / 3), work });
    if options.webhooks {
        rows.retain(|row| row.scene.suits(Kind::Python));
    }
    rows.retain(|row| row.label.contains(&options.only));
    rows
}

/// Mail of all sizes to a sink that is near.
fn near_rows(messages: usize) -> Vec<Row> {
    let mut works = Vec::new();
    for (size, messages) in [(4, messages), (60, messages / 3)] {
        for secure in [false, true] {
            let some = [
                kept(size, 1, messages / 3),
                kept(size, 10, messages),
                kept(size, 50, messages),
                Work { kept: false, ..kept(size, 10, messages / 3) },
            ];
            works.extend(some.map(|work| Work { secure, ..work }));
        }
    }
    works.push(kept(500, 10, messages / 5));
    works.into_iter().map(|work| Row { label: label(work), scene: Scene::Near, work }).collect()
}

/// Messages of so many KiB over sessions that stay open, in clear.
fn kept(size: usize, sessions: usize, messages: usize) -> Work {
    Work { messages, size: size * 1024, sessions, secure: false, kept: true }
}

fn label(work: Work) -> String {
    let sessions = match (work.kept, work.sessions) {
        (true, 1) => "1 session".to_owned(),
        (true, many) => format!("{many} sessions"),
        (false, many) => format!("{many} at once, a session each message"),
    };
    format!("{} KiB, {sessions}{}", work.size / 1024, if work.secure { ", TLS+AUTH" } else { "" })
}

const TABLES: [&[Column]; 4] = [measure::RELAYING, measure::QUEUEING, measure::IDLING, measure::REPORTING];
/// Connections of a provider that has much to tell.
const BURST_CLIENTS: usize = 32;
/// Open at once in the rows `idle`; where `ulimit -n` is lower, these rows fail.
const IDLE_SESSIONS: usize = 1000;
