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
use load::Workload;
use measure::{Column, Scenario};
use relay::RelayKind;
use std::io;
use std::path::PathBuf;
use table::ResultTable;

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
    let mut relays = vec![RelayKind::Mailtrail];
    if options.postfix {
        relays.push(RelayKind::Postfix);
    }
    if options.webhooks {
        relays.push(RelayKind::Python);
    }
    let mut tables = COLUMN_SETS.map(ResultTable::new);
    for run in 1..=options.runs {
        for row in build_rows(&options) {
            for &kind in relays.iter().filter(|kind| row.scenario.supports(**kind)) {
                let place = format!("run {run}, {}, {}", row.label, kind.name());
                match row.scenario.measure(kind, row.workload).await {
                    Ok(figures) => {
                        let (_, title, digits) = row.scenario.columns()[0];
                        eprintln!("{place}: {:.digits$} {title}", figures[0]);
                        let table = tables.iter_mut().find(|table| table.has_columns(row.scenario.columns()));
                        table.expect("each scene has a table").add_run(&row.label, kind.name(), figures);
                    }
                    Err(error) => eprintln!("{place}: {error}"),
                }
            }
        }
    }
    if options.postfix {
        println!("{}\n", tables[0].to_summary());
    }
    for table in tables.iter().filter(|table| !table.is_empty()) {
        println!("{}\n", table.to_markdown());
    }
    if let Some(path) = options.json {
        let runs: Vec<_> = tables.iter().flat_map(ResultTable::to_json).collect();
        std::fs::write(path, serde_json::to_string_pretty(&runs)?)?;
    }
    Ok(())
}

/// One load in one scene.
struct BenchRow {
    label: String,
    scenario: Scenario,
    workload: Workload,
}

fn build_rows(options: &Options) -> Vec<BenchRow> {
    let messages = options.messages as usize;
    let mut rows = local_rows(messages);
    for workload in [keep_open_workload(4, 1, messages / 6), keep_open_workload(4, 50, messages)] {
        rows.push(BenchRow {
            label: format!("{}, syncs 5 ms slower", row_label(workload)),
            scenario: Scenario::SlowSync,
            workload,
        });
    }
    for connections in [20, 50] {
        let label = format!("4 KiB, upstream 100 ms away, {connections} connections");
        rows.push(BenchRow {
            label,
            scenario: Scenario::Remote(connections),
            workload: keep_open_workload(4, 50, messages * 2 / 3),
        });
    }
    if options.queue > 0 {
        rows.push(BenchRow {
            label: "queue".into(),
            scenario: Scenario::Queue,
            workload: keep_open_workload(1, 10, options.queue as usize),
        });
    }
    for use_tls in [false, true] {
        let workload = Workload { use_tls, ..keep_open_workload(0, IDLE_SESSIONS, 0) };
        let label = format!("idle, {IDLE_SESSIONS} sessions{}", if use_tls { ", TLS+AUTH" } else { "" });
        rows.push(BenchRow { label, scenario: Scenario::Idle, workload });
    }
    for (clients, events) in [(1, messages / 3), (16, messages)] {
        let label = format!("webhooks, {clients} {}", if clients == 1 { "client" } else { "clients" });
        rows.push(BenchRow {
            label,
            scenario: Scenario::Webhooks,
            workload: keep_open_workload(0, clients, events),
        });
    }
    let workload = keep_open_workload(0, BURST_CLIENTS, messages * 5);
    let label = format!("webhooks of our mail, 2 KiB, {BURST_CLIENTS} clients");
    rows.push(BenchRow { label, scenario: Scenario::Burst(messages / 3), workload });
    if options.webhooks {
        rows.retain(|row| row.scenario.supports(RelayKind::Python));
    }
    rows.retain(|row| row.label.contains(&options.only));
    rows
}

/// Mail of all sizes to a sink that is near.
fn local_rows(messages: usize) -> Vec<BenchRow> {
    let mut works = Vec::new();
    for (size, messages) in [(4, messages), (60, messages / 3)] {
        for use_tls in [false, true] {
            let some = [
                keep_open_workload(size, 1, messages / 3),
                keep_open_workload(size, 10, messages),
                keep_open_workload(size, 50, messages),
                Workload { keep_sessions: false, ..keep_open_workload(size, 10, messages / 3) },
            ];
            works.extend(some.map(|work| Workload { use_tls, ..work }));
        }
    }
    works.push(keep_open_workload(500, 10, messages / 5));
    works
        .into_iter()
        .map(|workload| BenchRow { label: row_label(workload), scenario: Scenario::Local, workload })
        .collect()
}

/// Messages of so many KiB over sessions that stay open, in clear.
fn keep_open_workload(size: usize, sessions: usize, messages: usize) -> Workload {
    Workload { messages, size: size * 1024, sessions, use_tls: false, keep_sessions: true }
}

fn row_label(work: Workload) -> String {
    let sessions = match (work.keep_sessions, work.sessions) {
        (true, 1) => "1 session".to_owned(),
        (true, many) => format!("{many} sessions"),
        (false, many) => format!("{many} at once, a session each message"),
    };
    format!("{} KiB, {sessions}{}", work.size / 1024, if work.use_tls { ", TLS+AUTH" } else { "" })
}

const COLUMN_SETS: [&[Column]; 4] =
    [measure::RELAY_COLUMNS, measure::QUEUE_COLUMNS, measure::IDLE_COLUMNS, measure::WEBHOOK_COLUMNS];
/// Connections of a provider that has much to tell.
const BURST_CLIENTS: usize = 32;
/// Open at once in the rows `idle`; where `ulimit -n` is lower, these rows fail.
const IDLE_SESSIONS: usize = 1000;
