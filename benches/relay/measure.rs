//! One row: a fresh relay under one load.

use crate::far::Far;
use crate::load::{self, Sent, Work};
use crate::process::{Memory, Tree};
use crate::relay::{Kind, Relay, Surroundings};
use crate::sink::{Sink, Taken};
use crate::webhooks::{self, Reports};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

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
/// The same, of mail that nobody takes.
pub const QUEUEING: &[Column] = &[
    ("accepted_per_s", "accepted/s", 0),
    ("rss_before_mib", "RSS before", 1),
    ("rss_added_mib", "RSS added", 1),
    ("rss_added_bytes_per_message", "bytes/message", 0),
    ("pss_added_mib", "PSS added", 1),
];

/// The same, of sessions that do nothing.
pub const IDLING: &[Column] = &[
    ("pss_with_them_mib", "PSS with them", 1),
    ("rss_with_them_mib", "RSS with them", 1),
    ("pss_before_mib", "PSS before", 1),
    ("pss_added_kib_per_session", "KiB/session", 1),
];
/// The same, of webhooks.
pub const REPORTING: &[Column] = &[
    ("events_per_s", "events/s", 0),
    ("wait_p50_ms", "p50 ms", 2),
    ("wait_p99_ms", "p99 ms", 2),
    ("cpu_ms_per_event", "CPU ms", 2),
    ("pss_peak_mib", "PSS peak", 1),
];

/// Where a row's work takes place, and what is asked of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scene {
    /// Mail is accepted and relayed to a sink.
    Near,
    /// The same, with a disk whose syncs take 5 ms longer.
    SlowSync,
    /// The same as near, but the sink is 100 ms away and takes so many connections.
    Far(usize),
    /// Mail is accepted while nobody listens upstream.
    Queue,
    /// Sessions are open and do nothing.
    Idle,
    /// A provider reports what became of mail of others.
    Webhooks,
    /// The same, of so many mails of ours.
    Burst(usize),
}

impl Scene {
    /// What it measures.
    pub fn columns(self) -> &'static [Column] {
        match self {
            Self::Near | Self::SlowSync | Self::Far(_) => RELAYING,
            Self::Queue => QUEUEING,
            Self::Idle => IDLING,
            Self::Webhooks | Self::Burst(_) => REPORTING,
        }
    }

    /// Whether that has an ear for it.
    pub fn suits(self, kind: Kind) -> bool {
        match kind {
            Kind::Mailtrail => true,
            Kind::Postfix => self.columns() != REPORTING,
            Kind::Python => self.columns() == REPORTING,
        }
    }

    /// Measures one relay.
    pub async fn measure(self, kind: Kind, work: Work) -> io::Result<Figures> {
        match self {
            Self::Near | Self::SlowSync | Self::Far(_) => self.relaying(kind, work).await,
            Self::Queue => self.queueing(kind, work).await,
            Self::Idle => self.idling(kind, work).await,
            Self::Webhooks => self.reporting(kind, work, 0).await,
            Self::Burst(mails) => self.reporting(kind, work, mails).await,
        }
    }

    fn start(self, kind: Kind, upstream: SocketAddr, work: Work) -> io::Result<Relay> {
        let connections = if let Self::Far(connections) = self { connections } else { CONNECTIONS };
        let slow_sync = self == Self::SlowSync;
        Relay::start(kind, upstream, Surroundings { sessions: work.sessions, connections, slow_sync })
    }

    async fn relaying(self, kind: Kind, work: Work) -> io::Result<Figures> {
        let mut sink = Sink::open().await?;
        let far = if matches!(self, Self::Far(_)) { Some(Far::open(sink.address).await?) } else { None };
        let upstream = far.as_ref().map_or(sink.address, |far| far.address);
        let relay = self.start(kind, upstream, work)?;
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

    async fn queueing(self, kind: Kind, work: Work) -> io::Result<Figures> {
        let relay = self.start(kind, closed_port()?, work)?;
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

    async fn idling(self, kind: Kind, work: Work) -> io::Result<Figures> {
        let relay = self.start(kind, closed_port()?, work)?;
        tokio::time::sleep(SETTLE).await;
        let before = relay.tree().memory();
        let (to, tls) = (relay.address(work.secure), relay.connector()?);
        let opened = tokio::time::timeout(LONGEST, load::open(to, &tls, work)).await?;
        let sessions = opened.map_err(|error| explain(error, &relay))?;
        tokio::time::sleep(SETTLE).await;
        let after = relay.tree().memory();
        let added = after.proportional.saturating_sub(before.proportional);
        Ok(vec![
            mib(after.proportional),
            mib(after.resident),
            mib(before.proportional),
            added as f64 / 1024.0 / sessions.len() as f64,
        ])
    }

    async fn reporting(self, kind: Kind, work: Work, mails: usize) -> io::Result<Figures> {
        let mut sink = Sink::open().await?;
        let relay = self.start(kind, sink.address, work)?;
        let (to, tree) = (relay.http_address(), relay.tree());
        let mut about = Vec::new();
        if mails > 0 && kind == Kind::Mailtrail {
            about = load::ids(relay.address(false), &relay.connector()?, mails).await?;
            sink.reached(mails, LONGEST).await?;
        }
        let warm_up = Reports { events: WARM_UP, clients: 1, about: Vec::new() };
        webhooks::post(to, warm_up).await.map_err(|error| explain(error, &relay))?;
        let reports = Reports { events: work.messages, clients: work.sessions, about };
        tokio::time::sleep(SETTLE).await;
        let watch = Watch::start(tree);
        let posted = tokio::time::timeout(LONGEST, webhooks::post(to, reports)).await?;
        let sent = posted.map_err(|error| explain(error, &relay))?;
        tokio::time::sleep(SETTLE).await;
        let (cpu_ms, peak) = watch.stop().await?;
        Ok(vec![
            work.messages as f64 / sent.took.as_secs_f64(),
            percentile(&sent.waits, 0.50),
            percentile(&sent.waits, 0.99),
            cpu_ms as f64 / work.messages as f64,
            mib(peak.proportional),
        ])
    }
}

/// Key, title, digits behind the point.
pub type Column = (&'static str, &'static str, usize);
/// One value for each column.
pub type Figures = Vec<f64>;

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
    let (watch, begun) = (Watch::start(tree), Instant::now());
    let sent = tokio::time::timeout(LONGEST, load::send(to, tls, work)).await??;
    let expected = warm_up.messages + work.messages;
    let Taken { last, .. } = sink.reached(expected, LONGEST).await?;
    // The relay has its books to close.
    tokio::time::sleep(SETTLE).await;
    let (cpu_ms, peak) = watch.stop().await?;
    let doubled = sink.taken().messages - expected;
    if doubled > 0 {
        return Err(io::Error::other(format!("{doubled} messages were relayed twice")));
    }
    Ok(Load { sent, relayed: last - begun, cpu_ms, peak })
}

/// Looks at what processes use until it is stopped or dropped.
struct Watch {
    tree: Tree,
    cpu_ms: u64,
    peak: JoinHandle<Memory>,
    stop: DropGuard,
}

impl Watch {
    fn start(tree: Tree) -> Self {
        let stop = CancellationToken::new();
        let peak = tokio::spawn(peak(tree, stop.clone()));
        Self { tree, cpu_ms: tree.cpu_ms(), peak, stop: stop.drop_guard() }
    }

    /// The time on the processors in milliseconds, and the most memory.
    async fn stop(self) -> io::Result<(u64, Memory)> {
        let cpu_ms = self.tree.cpu_ms() - self.cpu_ms;
        drop(self.stop);
        Ok((cpu_ms, self.peak.await?))
    }
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
/// Connections that a relay may open to an upstream that is near.
const CONNECTIONS: usize = 50;
/// Longest time for sending, and again for relaying.
const LONGEST: Duration = Duration::from_secs(240);
/// Between looks at the memory.
const LOOK: Duration = Duration::from_millis(200);
/// Until a relay has done what it does behind an answer.
const SETTLE: Duration = Duration::from_millis(500);
