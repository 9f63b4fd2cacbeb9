//! One row: a fresh relay under one load.

use crate::load::{self, Sent, Work};
use crate::process::{Memory, Tree};
use crate::relay::{Kind, Relay};
use crate::sink::{Sink, Taken};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// What a row measures, in the order of [`Figures`]: key and unit, title, and digits behind the point.
pub const RELAYING: &[Column] = &[
    ("accepted_per_s", "accepted/s", 0),
    ("relayed_per_s", "relayed/s", 0),
    ("wait_p50_ms", "p50 ms", 2),
    ("wait_p99_ms", "p99 ms", 2),
    ("cpu_ms_per_message", "CPU ms", 2),
    ("rss_idle_mib", "RSS idle", 1),
    ("rss_peak_mib", "RSS peak", 1),
    ("pss_peak_mib", "PSS peak", 1),
];
/// The same, of the row `queue`.
pub const QUEUEING: &[Column] = &[
    ("accepted_per_s", "accepted/s", 0),
    ("rss_before_mib", "RSS before", 1),
    ("rss_added_mib", "RSS added", 1),
    ("rss_added_bytes_per_message", "bytes/message", 0),
    ("pss_added_mib", "PSS added", 1),
];

/// Key, title, digits behind the point.
pub type Column = (&'static str, &'static str, usize);
/// One value for each column.
pub type Figures = Vec<f64>;

/// Accepts `work` and relays it to a sink.
pub async fn relaying(kind: Kind, work: Work) -> io::Result<Figures> {
    let mut sink = Sink::open().await?;
    let relay = Relay::start(kind, sink.address)?;
    tokio::time::sleep(SETTLE).await;
    let idle = relay.tree().memory();
    let measured = under_load(&relay, &mut sink, work).await.map_err(|error| explain(error, &relay))?;
    let Load { sent, relayed, cpu_ms, peak } = measured;
    let messages = work.messages as f64;
    Ok(vec![
        messages / sent.took.as_secs_f64(),
        messages / relayed.as_secs_f64(),
        percentile(&sent.waits, 0.50),
        percentile(&sent.waits, 0.99),
        cpu_ms as f64 / messages,
        mib(idle.resident),
        mib(peak.resident),
        mib(peak.proportional),
    ])
}

/// Accepts `work` while nobody listens upstream.
pub async fn queueing(kind: Kind, work: Work) -> io::Result<Figures> {
    let relay = Relay::start(kind, closed_port()?)?;
    let (to, tls) = (relay.address(work.secure), relay.connector()?);
    load::send(to, tls.clone(), warm_up(work)).await.map_err(|error| explain(error, &relay))?;
    tokio::time::sleep(SETTLE).await;
    let before = relay.tree().memory();
    let sent = tokio::time::timeout(LONGEST, load::send(to, tls, work)).await?;
    let sent = sent.map_err(|error| explain(error, &relay))?;
    tokio::time::sleep(SETTLE).await;
    let after = relay.tree().memory();
    let added = after.resident.saturating_sub(before.resident);
    Ok(vec![
        work.messages as f64 / sent.took.as_secs_f64(),
        mib(before.resident),
        mib(added),
        added as f64 / work.messages as f64,
        mib(after.proportional.saturating_sub(before.proportional)),
    ])
}

struct Load {
    sent: Sent,
    /// From the first connect until the sink has taken the last message.
    relayed: Duration,
    cpu_ms: u64,
    peak: Memory,
}

async fn under_load(relay: &Relay, sink: &mut Sink, work: Work) -> io::Result<Load> {
    let (to, tls, tree) = (relay.address(work.secure), relay.connector()?, relay.tree());
    let warm_up = warm_up(work);
    load::send(to, tls.clone(), warm_up).await?;
    sink.reached(warm_up.messages, LONGEST).await?;
    tokio::time::sleep(SETTLE).await;
    let stop = CancellationToken::new();
    let peak = tokio::spawn(peak(tree, stop.clone()));
    let stop = stop.drop_guard();
    let (cpu, begun) = (tree.cpu_ms(), Instant::now());
    let sent = tokio::time::timeout(LONGEST, load::send(to, tls, work)).await??;
    let expected = warm_up.messages + work.messages;
    let Taken { last, .. } = sink.reached(expected, LONGEST).await?;
    // The relay has its books to close.
    tokio::time::sleep(SETTLE).await;
    let cpu_ms = tree.cpu_ms() - cpu;
    drop(stop);
    let doubled = sink.taken().messages - expected;
    if doubled > 0 {
        return Err(io::Error::other(format!("{doubled} messages were relayed twice")));
    }
    Ok(Load { sent, relayed: last - begun, cpu_ms, peak: peak.await? })
}

/// The most memory that was in use at any look.
async fn peak(tree: Tree, stop: CancellationToken) -> Memory {
    let mut peak = Memory::default();
    loop {
        let now = tree.memory();
        peak.resident = peak.resident.max(now.resident);
        peak.proportional = peak.proportional.max(now.proportional);
        tokio::select! {
            () = stop.cancelled() => return peak,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Some messages that open what is opened on first use.
fn warm_up(work: Work) -> Work {
    Work { messages: WARM_UP.min(work.messages), sessions: work.sessions.min(10), ..work }
}

fn explain(error: io::Error, relay: &Relay) -> io::Error {
    io::Error::other(format!("{error}; the relay wrote:\n{}", relay.last_words()))
}

/// Where nobody listens.
fn closed_port() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// The nearest rank, in milliseconds.
fn percentile(waits: &[Duration], share: f64) -> f64 {
    let mut waits = waits.to_vec();
    waits.sort_unstable();
    let rank = (share * waits.len() as f64).ceil() as usize;
    waits.get(rank.saturating_sub(1)).map_or(0.0, |wait| wait.as_secs_f64() * 1000.0)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

const WARM_UP: usize = 20;
/// Longest time for sending, and again for relaying.
const LONGEST: Duration = Duration::from_secs(240);
/// Between looks at the memory.
const LOOK: Duration = Duration::from_millis(200);
/// Until a relay has done what it does behind an answer.
const SETTLE: Duration = Duration::from_millis(500);
